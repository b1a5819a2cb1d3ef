//! One scenario per physical hypothesis, each with numeric limits on error and on the bound.
//!
//! **Problem.** That a bound never lies and that an error is small are claims about everything that paths, clocks and
//! hosts do; a test of one world shows one world. **Sketch.** A [`Scenario`] is a function that makes a world from a
//! seed and lets its hypothesis come true in it; a [`Run`] carries it out and folds every reading and departure into
//! [`Figures`]; [`Figures::judge`] holds them against the scenario's own [`Limits`]. A bound that does not contain the
//! truth is a violation in every scenario.
//!
//! The tests run each scenario once, small ([`Scale::Reduced`]); `make clock-scenarios` runs them all with so many
//! seeds that a million exchanges are judged ([`Scale::Full`]).

mod clocks;
mod figures;
mod jitter;
mod masters;
mod mesh;
mod paths;
mod run;

pub use figures::{Figures, Limits};
pub use run::Run;

use core::ops::Range;
use startgun_core::agent::OnBadClock;
use startgun_core::clock::ClockConfig;
use startgun_core::master::Delay;
use startgun_core::time::Span;

use crate::{Host, Options};

/// How much of a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As much as an ordinary test has time for.
    Reduced,
    /// Everything.
    Full,
}

impl Scale {
    /// One of two, by the scale.
    pub fn pick<T>(self, reduced: T, full: T) -> T {
        match self {
            Scale::Reduced => reduced,
            Scale::Full => full,
        }
    }
}

/// A physical hypothesis, how it comes true, and what must hold then.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, to be replayed by.
    pub name: &'static str,
    /// Makes a world from a seed and carries the hypothesis out.
    pub carry_out: fn(u64, Scale) -> Run,
    /// What its figures, of all seeds together, must keep.
    pub limits: Limits,
    /// The seeds of a full run.
    pub seeds: Range<u64>,
}

impl Scenario {
    /// What must hold at a scale. A reduced run has a quarter of a window's packets when it is measured, and the least
    /// wait among n packets falls with n, so its errors may be four times as large, and a twentieth more may be further
    /// off than was expected; a mesh of 12 instead of 50 agents averages over half as many, by the square root. What is
    /// proven, and how soon agents stand down and are back, does not depend on the scale.
    pub fn limits_at(&self, scale: Scale) -> Limits {
        let times = |span: Span, factor: i64| Span::from_nanos(span.as_nanos().saturating_mul(factor));
        match scale {
            Scale::Full => self.limits,
            Scale::Reduced => Limits {
                error_p95: self.limits.error_p95.map(|limit| times(limit, 4)),
                error_p99: self.limits.error_p99.map(|limit| times(limit, 4)),
                honest_ppm: self.limits.honest_ppm.map(|least| least - 50_000),
                mutual_rms: self.limits.mutual_rms.map(|limit| times(limit, 2)),
                ..self.limits
            },
        }
    }

    /// Runs it with one seed.
    pub fn run(&self, seed: u64, scale: Scale) -> Figures {
        (self.carry_out)(seed, scale).finish()
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [jitter::scenarios(), paths::scenarios(), clocks::scenarios(), masters::scenarios(), mesh::scenarios()].concat()
}

const MASTER: Host = Host::Master(0);

/// The window of the default clock: after it everything that a clock knows is of the present. A reduced run has time
/// for a sixth of that only.
fn window(scale: Scale) -> Span {
    scale.pick(Span::from_secs(20), ClockConfig::default().window)
}

/// A world of so many agents as the scale has, every clock seconds off and up to 50 ppm fast or slow, with this delay
/// and mean jitter between every agent and the master, each way.
fn wide_area(seed: u64, scale: Scale, delay: Span, jitter: Span) -> Options {
    let mut options = scattered(seed, scale, jitter);
    for agent in 0..options.agents.len() {
        options.set_delay(MASTER, Host::Agent(agent), delay);
    }
    options
}

/// [`wide_area`], with every agent's delay drawn from 5 to 100 ms. Without a mesh, so that what one path does is seen.
fn scattered(seed: u64, scale: Scale, jitter: Span) -> Options {
    let mut options = Options::scattered(scale.pick(2, 12), 1, seed);
    for agent in 0..options.agents.len() {
        options.agents[agent].mesh = false;
        // An agent that cannot race at T does not race: these scenarios are about clocks.
        options.agents[agent].on_bad_clock = OnBadClock::StandDown;
        for (from, to) in both_ways(agent) {
            options.path_mut(from, to).jitter_mean = jitter;
        }
    }
    options
}

/// Lets answers wait for their time as long as they may, so that every fault finds some waiting.
fn long_delay(mut options: Options) -> Options {
    // T is at most `max_total_delay` after the query; the order takes 40 ms of it.
    options.masters[0].delay = Delay::Fixed(Span::from_millis(290));
    options
}

/// From an agent to the master and back.
fn both_ways(agent: usize) -> [(Host, Host); 2] {
    [(Host::Agent(agent), MASTER), (MASTER, Host::Agent(agent))]
}
