//! What many agents make of many paths.

use startgun_core::time::Span;

use super::{Limits, Run, Scale, Scenario, both_ways, window};
use crate::{Host, Options};

pub(super) fn scenarios() -> Vec<Scenario> {
    // Of a round trip of up to 200 ms, ±5 % (one standard deviation) go to one direction, and so many milliseconds is
    // an agent wrong that only knows the path to its master: 5.8 ms by the root mean square of delays from 5 to 100 ms.
    let alone = Scenario {
        name: "mesh-50-agents-off",
        carry_out: |seed, scale| many_agents(seed, scale, false),
        limits: Limits::default(),
        seeds: 0..2,
    };
    let together = Scenario {
        name: "mesh-50-agents",
        carry_out: |seed, scale| many_agents(seed, scale, true),
        // 0.15 of what the same paths leave without it.
        limits: Limits { mutual_rms: Some(Span::from_micros(870)), ..Limits::default() },
        seeds: 0..2,
    };
    vec![together, alone]
}

/// Every path of a large fleet has an asymmetry of its own: a round trip R is split R(½ + e) and R(½ − e), e normal
/// with a deviation of 5 %. Independent errors average out over a mesh.
fn many_agents(seed: u64, scale: Scale, mesh: bool) -> Run {
    let mut options = Options::scattered(scale.pick(12, 50), 1, seed);
    options.agents.iter_mut().for_each(|agent| agent.mesh = mesh);
    let agents = options.agents.len();
    let mut deviate = deviates(seed);
    for agent in 0..agents {
        for (from, to) in both_ways(agent) {
            options.path_mut(from, to).jitter_mean = Span::from_micros(300);
        }
        let peers = (0..agent).map(Host::Agent).chain([Host::Master(0)]);
        for peer in peers {
            let way = options.path(Host::Agent(agent), peer).delay.as_nanos();
            // A thousandth of the one-way delay, times 2 × 5 % × the deviate in thousandths.
            let shift = Span::from_nanos(way / 1_000 * deviate() / 10);
            options.path_mut(Host::Agent(agent), peer).delay += shift;
            options.path_mut(peer, Host::Agent(agent)).delay += -shift;
        }
    }
    let mut run = Run::begin(options, seed);
    run.race(false);
    run.settle(window(scale).half());
    run.measure(scale.pick(Span::from_secs(10), Span::from_secs(100)));
    run
}

/// Standard normal deviates in thousandths: twelve uniform numbers, less their mean (Irwin–Hall), so that integers
/// suffice.
fn deviates(seed: u64) -> impl FnMut() -> i64 {
    let mut random = crate::random::Random::named(seed, [u64::from_be_bytes(*b"deviates"), 0, 0]);
    move || (0..12).map(|_| (random.next() % 1_000) as i64).sum::<i64>() - 6_000
}
