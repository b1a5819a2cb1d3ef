//! What a master does: it restarts, boots, falls silent and comes back.

use startgun_core::time::Span;

use super::{Limits, Run, Scale, Scenario, both_ways, long_delay, wide_area, window};

const fn ms(millis: i64) -> Option<Span> {
    Some(Span::from_millis(millis))
}

const AGAIN_WITHIN: Option<Span> = Some(Span::from_secs(5));
const ALL: u32 = 1_000_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "master-restart",
            carry_out: restart,
            // The epoch stays: no clock begins anew.
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
            name: "master-reboot",
            carry_out: reboot,
            limits: Limits {
                error_p95: ms(1),
                error_max: ms(5),
                bound_max: ms(45),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "silence-60s",
            carry_out: silence_1_min,
            limits: Limits {
                error_p95: Some(Span::from_micros(100)),
                error_max: ms(1),
                // 41 ms, 200 ppm of a minute, and 100 ppm of it by which the estimate leaves the middle.
                bound_max: ms(60),
                honest_ppm: Some(950_000),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "silence-10min",
            carry_out: silence_10_min,
            limits: Limits {
                // Ten minutes by a rate that is known to a hundredth of a part per million.
                error_p95: ms(1),
                error_max: ms(5),
                // 41 ms, 200 ppm of ten minutes, and 100 ppm of them by which the estimate leaves the middle.
                bound_max: ms(225),
                honest_ppm: Some(950_000),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
        Scenario {
            name: "silence-one-way",
            carry_out: silence_one_way,
            limits: Limits {
                error_p95: Some(Span::from_micros(100)),
                error_max: ms(1),
                bound_max: ms(60),
                honest_ppm: Some(950_000),
                again_within: AGAIN_WITHIN,
                ..Limits::default()
            },
            seeds: 0..6,
        },
    ]
}

fn forty(seed: u64, scale: Scale) -> Run {
    let mut run = Run::begin(long_delay(wide_area(seed, scale, Span::from_millis(40), Span::from_micros(500))), seed);
    run.race(true);
    run.settle(window(scale));
    run
}

/// The master's process is replaced on a running host: sessions are new, the timeline is not.
fn restart(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    let all: Vec<usize> = (0..run.agents()).collect();
    for _ in 0..scale.pick(1, 4) {
        run.world.restart_master(0);
        run.world.validate_all();
        let gone = run.world.now();
        // They learn of it when the connection closes.
        run.excuse(Span::from_millis(500));
        run.recover(&all, gone);
        run.measure(scale.pick(Span::from_secs(10), Span::from_secs(30)));
    }
    run
}

/// The master's host boots: another timeline, an hour away, in another epoch.
fn reboot(seed: u64, scale: Scale) -> Run {
    let mut run = forty(seed, scale);
    let all: Vec<usize> = (0..run.agents()).collect();
    for _ in 0..scale.pick(1, 4) {
        // A race that is open across the boot has a T on a timeline that is gone.
        run.race(false);
        run.settle(Span::from_secs(2));
        run.world.reboot_master(0, Span::from_secs(3_600));
        run.race(true);
        let gone = run.world.now();
        run.excuse(Span::from_millis(500));
        run.recover(&all, gone);
        run.settle(Span::from_secs(2));
        run.measure(scale.pick(Span::from_secs(10), Span::from_secs(30)));
    }
    run
}

/// Nothing passes for a while: the clock runs on by what it knows of its rate, its bound grows and says so, and when
/// the master is heard again everything is as it was.
fn silence(seed: u64, scale: Scale, span: Span, both: bool) -> Run {
    let mut run = forty(seed, scale);
    let all: Vec<usize> = (0..run.agents()).collect();
    let set = |run: &mut Run, loss_ppm: u32| {
        for agent in 0..run.agents() {
            let [up, down] = both_ways(agent);
            run.world.path_mut(down.0, down.1).loss_ppm = loss_ppm;
            if both {
                run.world.path_mut(up.0, up.1).loss_ppm = loss_ppm;
            }
        }
    };
    run.race(false);
    run.settle(Span::from_secs(1));
    set(&mut run, ALL);
    run.measure(span);
    set(&mut run, 0);
    let gone = run.world.now();
    run.race(true);
    run.recover(&all, gone);
    run.measure(scale.pick(Span::from_secs(10), Span::from_secs(60)));
    run
}

/// The master is not heard for a minute.
fn silence_1_min(seed: u64, scale: Scale) -> Run {
    silence(seed, scale, Span::from_secs(60), true)
}

/// The master is not heard for ten minutes.
fn silence_10_min(seed: u64, scale: Scale) -> Run {
    silence(seed, scale, Span::from_secs(600), true)
}

/// Requests reach the master, replies reach nobody, for a minute.
fn silence_one_way(seed: u64, scale: Scale) -> Run {
    silence(seed, scale, Span::from_secs(60), false)
}
