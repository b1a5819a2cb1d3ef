//! What routes do: asymmetry goes whole into the error and is covered by the bound; a change of route, and an attacker
//! who holds packets back, are no more than that.

use startgun_core::time::Span;

use super::{Limits, MASTER, Run, Scale, Scenario, both_ways, wide_area, window};
use crate::{Hold, Host, Options, Path, Wander};

const fn ms(millis: i64) -> Option<Span> {
    Some(Span::from_millis(millis))
}

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "asymmetric-path",
            carry_out: asymmetric_path,
            // Half of 60 − 20, and 0.2 ms of jitter and drift.
            limits: Limits {
                error_max: Some(Span::from_micros(20_200)),
                bound_max: ms(42),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "asymmetric-path-configured",
            carry_out: asymmetric_path_configured,
            limits: Limits {
                error_p99: Some(Span::from_micros(100)),
                bound_max: ms(2),
                honest_ppm: Some(990_000),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "one-way-nothing",
            carry_out: one_way_nothing,
            // Half of 80 ms; a straight line through a window of ±25 ppm in 33 s is 1 ms wrong at most.
            limits: Limits { error_max: ms(42), bound_max: ms(84), ..Limits::default() },
            seeds: 0..8,
        },
        Scenario {
            name: "route-change-both-ways",
            carry_out: route_change_both_ways,
            // The exchange that is under way when the route changes has the old way out and the new one back: half of 30 ms,
            // until the next.
            limits: Limits {
                error_p99: ms(1),
                error_max: Some(Span::from_micros(16_500)),
                bound_max: ms(72),
                // The way back to the shorter route resets every clock once: six seeds of twelve agents.
                stand_downs: Some(72),
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "route-change-one-way",
            carry_out: route_change_one_way,
            // Half of the 30 ms by which the one direction is longer for a while; the bound is half of 110 ms, and what two
            // clocks may drift apart while the estimate moves from the middle of the old interval.
            limits: Limits { error_max: Some(Span::from_micros(15_500)), bound_max: ms(60), ..Limits::default() },
            seeds: 0..6,
        },
        Scenario {
            name: "access-line",
            carry_out: access_line,
            // The site's own clock is 14 ms wrong and the mesh blames nobody else; all would share a part of it, if it
            // were spread, but no more than its own share of a fleet of a dozen.
            limits: Limits { error_max: Some(Span::from_micros(14_200)), bound_max: ms(58), ..Limits::default() },
            seeds: 0..6,
        },
        Scenario {
            name: "delayer-slow",
            carry_out: delayer_slow,
            // He gets half of what he holds, and the clock follows the rate that he pretends, half of 100 ppm, for the
            // length of a window after he stops: 30 ms and 6 ms. The bound is half of the longer round trip, and that.
            limits: Limits { error_max: Some(Span::from_micros(36_500)), bound_max: ms(78), ..Limits::default() },
            seeds: 0..6,
        },
        Scenario {
            name: "delayer-selective",
            carry_out: delayer_selective,
            // One packet in ten passes, six in a window: their least wait is 0.2 ms.
            limits: Limits {
                error_p95: ms(2),
                error_max: Some(Span::from_micros(30_500)),
                bound_max: ms(73),
                ..Limits::default()
            },
            seeds: 0..6,
        },
    ]
}

const JITTER: Span = Span::from_micros(500);

fn forty(seed: u64, scale: Scale) -> Options {
    wide_area(seed, scale, Span::from_millis(40), JITTER)
}

/// From every agent to the master, and back, so many milliseconds.
fn twenty_sixty(seed: u64, scale: Scale) -> Options {
    let mut options = forty(seed, scale);
    for agent in 0..options.agents.len() {
        let [up, down] = both_ways(agent);
        options.path_mut(up.0, up.1).delay = Span::from_millis(20);
        options.path_mut(down.0, down.1).delay = Span::from_millis(60);
    }
    options
}

fn measured(options: Options, seed: u64, scale: Scale) -> Run {
    let mut run = Run::begin(options, seed);
    run.race(true);
    run.settle(window(scale));
    run.measure(scale.pick(Span::from_secs(15), Span::from_secs(100)));
    run
}

/// 20 ms out and 60 ms back looks perfect and is 20 ms wrong: no filter sees it, the bound must cover it.
fn asymmetric_path(seed: u64, scale: Scale) -> Run {
    measured(twenty_sixty(seed, scale), seed, scale)
}

/// The same, told: with the least propagation of each direction the clock is right and the bound, on that condition,
/// is small.
fn asymmetric_path_configured(seed: u64, scale: Scale) -> Run {
    let mut options = twenty_sixty(seed, scale);
    for agent in &mut options.agents {
        agent.race_clock.least_propagation_to_master = Span::from_millis(20);
        agent.race_clock.least_propagation_from_master = Span::from_millis(60);
    }
    measured(options, seed, scale)
}

/// One direction takes almost nothing, so that the truth lies at the very edge of the interval; a third is lost, and
/// rates wander: whatever is not widened enough with its age is wrong here.
fn one_way_nothing(seed: u64, scale: Scale) -> Run {
    let mut options = forty(seed, scale);
    for agent in 0..options.agents.len() {
        let mut ways = both_ways(agent);
        if agent % 2 == 1 {
            ways.reverse();
        }
        let [(from, to), back] = ways;
        *options.path_mut(from, to) = Path { loss_ppm: 300_000, ..Path::of(Span::from_micros(20)) };
        *options.path_mut(back.0, back.1) = Path { loss_ppm: 300_000, ..Path::of(Span::from_millis(80)) };
        options.agents[agent].clock.wander[0] = Wander {
            amplitude_ppb: 25_000,
            period: Span::from_millis(33_000 + 7_000 * agent as i64),
            phase: Span::from_millis((seed as i64 * 1_000) % 33_000),
        };
    }
    measured(options, seed, scale)
}

/// A longer route for both directions, and the old one again: for a window the old packets know better, then the bound
/// widens; nothing about it is asymmetric.
fn route_change_both_ways(seed: u64, scale: Scale) -> Run {
    let mut run = Run::begin(forty(seed, scale), seed);
    run.race(true);
    run.settle(window(scale));
    for delay in [70, 40] {
        for agent in 0..run.agents() {
            for (from, to) in both_ways(agent) {
                run.world.path_mut(from, to).delay = Span::from_millis(delay);
            }
        }
        run.measure(scale.pick(Span::from_secs(15), Span::from_secs(180)));
    }
    run
}

/// A longer route for one direction only, which the clock inherits by half, and the old one again.
fn route_change_one_way(seed: u64, scale: Scale) -> Run {
    let mut run = Run::begin(forty(seed, scale), seed);
    run.race(true);
    run.settle(window(scale));
    for delay in [70, 40] {
        for agent in 0..run.agents() {
            let [up, down] = both_ways(agent);
            let (from, to) = if agent % 2 == 0 { up } else { down };
            run.world.path_mut(from, to).delay = Span::from_millis(delay);
        }
        run.measure(scale.pick(Span::from_secs(15), Span::from_secs(180)));
    }
    run
}

/// One site's own line is 28 ms slower down than up, on every path that it has: no mesh of any size sees it, so it
/// goes whole into that site's clock, and the bound must still cover it.
fn access_line(seed: u64, scale: Scale) -> Run {
    let mut options = forty(seed, scale);
    options.agents.iter_mut().for_each(|agent| agent.mesh = true);
    let line = Span::from_millis(28);
    let site = Host::Agent(0);
    let others: Vec<Host> = (1..options.agents.len()).map(Host::Agent).chain([MASTER, Host::Client(0)]).collect();
    for other in others {
        options.path_mut(other, site).delay += line;
    }
    measured(options, seed, scale)
}

/// An attacker on one direction of every path waits until clocks are set, then holds packets back, longer and longer,
/// up to 60 ms after ten minutes: to the clock it is a drift of 100 ppm, and no step.
fn delayer_slow(seed: u64, scale: Scale) -> Run {
    let ramp = scale.pick(Span::from_secs(20), Span::from_secs(600));
    let mut run = Run::begin(forty(seed, scale), seed);
    hold(&mut run, Span::from_millis(60), ramp, 1_000_000);
    run.race(true);
    run.measure(ramp + scale.pick(Span::from_secs(15), Span::from_secs(180)));
    run
}

/// The attacker holds nine packets of ten by 60 ms at once and lets the rest pass: the least of each direction is
/// what passes.
fn delayer_selective(seed: u64, scale: Scale) -> Run {
    let mut run = Run::begin(forty(seed, scale), seed);
    hold(&mut run, Span::from_millis(60), Span::ZERO, 900_000);
    run.race(true);
    run.settle(window(scale));
    run.measure(scale.pick(Span::from_secs(15), Span::from_secs(100)));
    run
}

/// From ten seconds on, one direction of every agent's path is held; which one differs from agent to agent.
fn hold(run: &mut Run, most: Span, ramp: Span, share_ppm: u32) {
    let from = run.world.now() + Span::from_secs(10);
    for agent in 0..run.agents() {
        let [up, down] = both_ways(agent);
        let way = if agent % 2 == 0 { up } else { down };
        run.world.path_mut(way.0, way.1).hold = Some(Hold { from, ramp, most, share_ppm });
    }
}
