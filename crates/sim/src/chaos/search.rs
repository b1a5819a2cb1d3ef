//! Many seeds, on as many threads as there are processors.

use core::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::judge::Violation;
use super::plan::Plan;
use super::run::{Outcome, run};
use super::shrink::shrink;

/// What a search has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Worlds.
    pub seeds: u64,
    /// Events.
    pub steps: u64,
    /// Races that were opened.
    pub races: u64,
    /// Answers of agents that left.
    pub departures: u64,
    /// Worthless datagrams that reached a machine.
    pub forged: u64,
    /// Readings and departures that could not be judged.
    pub blind: u64,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.races += outcome.races;
        self.departures += outcome.departures;
        self.forged += outcome.forged;
        self.blind += outcome.blind;
    }
}

/// What a search has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed that shows it.
    pub seed: u64,
    /// What was broken in its whole plan.
    pub violation: Violation,
    /// The least plan that still breaks it, and how.
    pub shortest: (Plan, Violation),
    /// The trace of that plan up to there.
    pub trace: String,
    /// Runs that it took to find it.
    pub runs: usize,
}

/// Runs the worlds of these seeds until one breaks something; then the search ends, and the violation of the lowest such
/// seed is made as short as it gets. `progress` hears of the totals after each world, on any thread.
pub fn search(seeds: Range<u64>, threads: usize, progress: impl Fn(&Totals) + Sync) -> (Totals, Option<Found>) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let shared = Mutex::new((Totals::default(), None::<(u64, Violation)>));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run(&Plan::draw(seed), false);
            let Ok(mut shared) = shared.lock() else { return };
            shared.0.add(&outcome);
            progress(&shared.0);
            if let Some(violation) = outcome.violation {
                stop.store(true, Ordering::Relaxed);
                if shared.1.as_ref().is_none_or(|(known, _)| seed < *known) {
                    shared.1 = Some((seed, violation));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let (totals, broken) = shared.into_inner().unwrap_or_default();
    (totals, broken.map(|(seed, violation)| look_into(seed, violation)))
}

fn look_into(seed: u64, violation: Violation) -> Found {
    let (plan, least, runs) = shrink(&Plan::draw(seed), &violation);
    let trace = run(&plan, true).trace;
    Found { seed, violation, shortest: (plan, least), trace, runs }
}
