//! What a host's own clock does: a rate that wanders, steps, a process or a host that stands still.

use startgun_core::time::Span;

use super::{Limits, Run, Scale, Scenario, both_ways, long_delay, scattered, wide_area, window};
use crate::{Options, Path, Suspended, Wander};

const fn ms(millis: i64) -> Option<Span> {
    Some(Span::from_millis(millis))
}

const AGAIN_WITHIN: Option<Span> = Some(Span::from_secs(5));
/// A request that left after a fault, its reply, and the next reply, which says when the first one left.
const ONE_EXCHANGE: Option<u32> = Some(2);
const JITTER: Span = Span::from_micros(500);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "wander-weather",
            carry_out: wander_weather,
            limits: Limits {
                error_p95: Some(Span::from_micros(200)),
                error_p99: Some(Span::from_micros(500)),
                bound_max: ms(103),
                honest_ppm: Some(990_000),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..8,
        },
        Scenario {
            name: "wander-large",
            carry_out: wander_large,
            // A quarter of the window's 60 s of a slope of 3 ppm/s: ½ × 3 × 15² = 340 µs, and thrice that where it turns.
            limits: Limits {
                error_p95: ms(1),
                error_p99: ms(2),
                bound_max: ms(106),
                honest_ppm: Some(950_000),
                // Ten times what any crystal does may be taken for a step once in a while; it costs a second.
                stand_downs: Some(6),
                ..Limits::default()
            },
            seeds: 0..10,
        },
        Scenario {
            name: "wander-fast",
            carry_out: wander_fast,
            // It gains 100 ppm × 8 s / 8 = 100 µs and loses them again.
            limits: Limits {
                error_p95: ms(1),
                error_p99: ms(2),
                bound_max: ms(106),
                honest_ppm: Some(950_000),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..10,
        },
        Scenario {
            name: "wander-large-near",
            carry_out: wander_large_near,
            limits: Limits {
                error_p99: Some(Span::from_micros(200)),
                // Half of 100 µs, twice 10 µs of timestamps, and 200 ppm of a second.
                bound_max: Some(Span::from_micros(300)),
                honest_ppm: Some(950_000),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..8,
        },
        Scenario {
            name: "wander-fast-near",
            carry_out: wander_fast_near,
            limits: Limits {
                error_p99: Some(Span::from_micros(200)),
                bound_max: Some(Span::from_micros(300)),
                stand_downs: Some(0),
                ..Limits::default()
            },
            seeds: 0..8,
        },
        Scenario {
            name: "step-1s",
            carry_out: step_1s,
            limits: Limits {
                error_p95: ms(1),
                error_max: ms(5),
                bound_max: ms(45),
                stood_down_by_reply: ONE_EXCHANGE,
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "step-5ms",
            carry_out: step_5ms,
            limits: Limits { error_p95: ms(1), error_max: ms(5), bound_max: ms(45), ..Limits::default() },
            seeds: 0..6,
        },
        Scenario {
            name: "step-5ms-at-the-edge",
            carry_out: step_at_the_edge,
            limits: Limits { error_max: ms(46), bound_max: ms(90), ..Limits::default() },
            seeds: 0..6,
        },
        Scenario {
            name: "master-step-1s",
            carry_out: master_step,
            limits: Limits {
                error_p95: ms(1),
                error_max: ms(5),
                bound_max: ms(45),
                stood_down_by_reply: ONE_EXCHANGE,
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "pause-3s",
            carry_out: pause,
            limits: Limits {
                error_p95: Some(Span::from_micros(60)),
                error_max: Some(Span::from_micros(500)),
                bound_max: ms(43),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "suspend-30s",
            carry_out: suspend_told,
            limits: Limits {
                error_p95: ms(1),
                error_max: ms(5),
                bound_max: ms(45),
                // Before it is asked anything.
                stood_down_by_reply: Some(0),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "suspend-30s-untold",
            carry_out: suspend_untold,
            limits: Limits {
                error_p95: ms(1),
                error_max: ms(5),
                bound_max: ms(45),
                stood_down_by_reply: ONE_EXCHANGE,
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
    ]
}

/// Gives every agent a wander of this amplitude and about this period; two tenths of it are added with a period that
/// is no multiple.
fn wander(mut options: Options, seed: u64, scale: Scale, amplitude_ppb: i64, period: Span) -> Run {
    for (number, agent) in options.agents.iter_mut().enumerate() {
        let number = number as i64;
        let period = Span::from_nanos(period.as_nanos() / 100 * (100 + 3 * number));
        let phase = Span::from_nanos((seed as i64 + 7 * number) * 997_000_000 % period.as_nanos());
        let minor = Span::from_nanos(period.as_nanos() / 10 * 3);
        agent.clock.drift_ppb = 0;
        agent.clock.wander = [
            Wander { amplitude_ppb: amplitude_ppb * 8 / 10, period, phase },
            Wander { amplitude_ppb: amplitude_ppb * 2 / 10, period: minor, phase: Span::ZERO },
        ];
    }
    let mut run = Run::begin(options, seed);
    run.race(true);
    run.settle(window(scale));
    run.measure(scale.pick(Span::from_secs(20), Span::from_secs(150)));
    run
}

/// A crystal in a room whose temperature swings: ±5 ppm in ten minutes, 0.04 ppm/s.
fn wander_weather(seed: u64, scale: Scale) -> Run {
    wander(scattered(seed, scale, JITTER), seed, scale, 5_000, Span::from_secs(600))
}

/// A cheap oscillator beside a fan: ±100 ppm in two minutes, 4 ppm/s. A straight line fits no window of it; the error
/// is what it is, but the bound holds with the default `max_drift`, since two hosts stay within 150 ppm.
fn wander_large(seed: u64, scale: Scale) -> Run {
    wander(scattered(seed, scale, JITTER), seed, scale, 100_000, Span::from_secs(120))
}

/// The same range in eight seconds, 70 ppm/s: a rate that seems proven is another one a second later.
fn wander_fast(seed: u64, scale: Scale) -> Run {
    wander(scattered(seed, scale, JITTER), seed, scale, 100_000, Span::from_secs(8))
}

/// 50 µs each way, hardly any jitter: the only paths on which exchanges prove a rate narrower than `max_drift`.
fn near(seed: u64, scale: Scale) -> Options {
    wide_area(seed, scale, Span::from_micros(50), Span::from_micros(5))
}

/// ±100 ppm in two minutes where a rate can be proven: the proof must not outlive the rate.
fn wander_large_near(seed: u64, scale: Scale) -> Run {
    wander(near(seed, scale), seed, scale, 100_000, Span::from_secs(120))
}

/// The same range in eight seconds. The bound must not rest on more than `max_drift` promises.
fn wander_fast_near(seed: u64, scale: Scale) -> Run {
    wander(near(seed, scale), seed, scale, 100_000, Span::from_secs(8))
}

/// Steps the agents' clocks one after the other, with this much between.
fn steps(run: &mut Run, scale: Scale, by: Span, noticed: bool) {
    run.race(true);
    run.settle(scale.pick(Span::from_secs(10), Span::from_secs(30)));
    let agents: Vec<usize> = (0..run.agents()).collect();
    for agent in agents {
        let by = if agent % 2 == 0 { by } else { -by };
        if noticed {
            run.fault(&[agent], |world| world.step_agent_clock(agent, by));
            let gone = run.world.now();
            run.recover(&[agent], gone);
            run.settle(Span::from_secs(2));
        } else {
            run.world.step_agent_clock(agent, by);
            run.excuse(Span::from_secs(5));
        }
        run.measure(scale.pick(Span::from_secs(3), Span::from_secs(5)));
    }
    run.measure(scale.pick(Span::from_secs(5), Span::from_secs(60)));
}

fn forty(seed: u64, scale: Scale) -> Run {
    Run::begin(long_delay(wide_area(seed, scale, Span::from_millis(40), JITTER)), seed)
}

/// A virtual machine is migrated, and its raw clock steps by a second either way, while races run.
fn step_1s(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    steps(&mut run, scale, Span::from_secs(1), true);
    run
}

/// A step that no exchange contradicts: 5 ms within a bound of 40 ms. Nobody need notice, but what is stated must be
/// true, and five seconds later the error small again.
fn step_5ms(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    steps(&mut run, scale, Span::from_millis(5), false);
    run
}

/// The same where the truth lies at the interval's edge: out of the old interval by the step, while old and new
/// intervals still meet. An intersection alone is a lie for a whole window.
fn step_at_the_edge(seed: u64, scale: Scale) -> Run {
    let mut options = long_delay(wide_area(seed, scale, Span::from_millis(40), JITTER));
    for agent in 0..options.agents.len() {
        let mut ways = both_ways(agent);
        if agent % 4 < 2 {
            ways.reverse();
        }
        let [(from, to), back] = ways;
        *options.path_mut(from, to) = Path { jitter_mean: JITTER, ..Path::of(Span::from_micros(20)) };
        *options.path_mut(back.0, back.1) = Path { jitter_mean: JITTER, ..Path::of(Span::from_millis(80)) };
    }
    let mut run = Run::begin(options, seed);
    steps(&mut run, scale, Span::from_millis(5), false);
    run
}

/// The master's own raw clock steps within its epoch: every agent must notice, and be back soon.
fn master_step(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    run.race(true);
    run.settle(scale.pick(Span::from_secs(10), Span::from_secs(30)));
    let all: Vec<usize> = (0..run.agents()).collect();
    for by in [Span::from_secs(1), Span::from_secs(-1)] {
        run.fault(&all, |world| world.step_master_clock(0, by));
        let gone = run.world.now();
        run.recover(&all, gone);
        run.settle(Span::from_secs(2));
        run.measure(scale.pick(Span::from_secs(10), Span::from_secs(70)));
    }
    run
}

/// An agent's process is stopped for three seconds while races run (SIGSTOP): the kernel stamps what comes, so the
/// clock is as good afterwards; what should have departed meanwhile is late, and does not.
fn pause(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    run.race(true);
    run.settle(window(scale));
    let agents: Vec<usize> = (0..run.agents()).collect();
    for agent in agents {
        run.world.pause_agent(agent, Span::from_secs(3));
        run.excuse(Span::from_secs(3));
        let gone = run.world.now();
        run.recover(&[agent], gone);
        run.measure(scale.pick(Span::from_secs(5), Span::from_secs(10)));
    }
    run
}

/// A host is suspended for half a minute: its raw clock did not count, and the process is told when it goes on.
fn suspend_told(seed: u64, scale: Scale) -> Run {
    suspend(seed, scale, Suspended::Told)
}

/// The same, and nobody tells the process: what was to depart departs half a minute late unless the first exchange
/// finds it out in time.
fn suspend_untold(seed: u64, scale: Scale) -> Run {
    suspend(seed, scale, Suspended::Untold)
}

fn suspend(seed: u64, scale: Scale, suspended: Suspended) -> Run {
    let mut run = forty(seed, scale);
    run.race(true);
    run.settle(scale.pick(Span::from_secs(10), Span::from_secs(30)));
    let agents: Vec<usize> = (0..run.agents()).collect();
    for agent in agents {
        run.world.suspend_agent(agent, Span::from_secs(30), suspended);
        run.excuse(Span::from_secs(30));
        let gone = run.world.now();
        run.fault(&[agent], |_| {});
        run.recover(&[agent], gone);
        run.settle(Span::from_secs(2));
        run.measure(scale.pick(Span::from_secs(3), Span::from_secs(5)));
    }
    run
}
