//! The demo's scenario in the simulator: the same places, delays, jitter, loss and clocks, the same configuration where it
//! differs from the defaults, and queries at the same instants.

use super::fleet::{MAX_BOUND_MS, MAX_LATENESS_MS};
use startgun_core::time::Span;
use startgun_lab::scenario::{ClockDraw, Scenario};
use startgun_sim::{Host, HostClock, Options, Path, World};
use std::time::Duration;

/// Clocks have as long as in the lab, where starting resolvers and warming them up take that.
const SETTLING: Span = Span::from_secs(20);
/// Every race is over by then, the fallback's answer included.
const ENDING: Span = Span::from_secs(3);

/// What a query came to: the winning site's index (`None` for the fallback), and the time to the first answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) site: Option<usize>,
    pub(super) after_ms: f64,
}

/// What the simulator says of a scenario.
pub(super) struct Simulated {
    /// For each client and each of its queries.
    pub(super) clients: Vec<Vec<Option<Answered>>>,
    pub(super) predetermined_delay_ms: f64,
}

/// Runs it; every client asks every `interval`, one after the other, for `duration`.
pub(super) fn run(scenario: &Scenario, seed: u64, interval: Duration, duration: Duration) -> Result<Simulated, String> {
    let mut world = World::new(options(scenario, seed), seed);
    world.run_until_ready();
    world.validate_all();
    world.run_for(SETTLING);

    let begun = world.now();
    let mut queries: Vec<Vec<usize>> = vec![Vec::new(); scenario.clients.len()];
    for (after, client) in instants(scenario.clients.len(), interval, duration) {
        world.run_until(begun + after);
        let name = format!("q-{client}-{}.cdn.test", queries[client].len());
        queries[client].push(world.query(client, 0, &name));
    }
    world.run_for(ENDING);

    let outcome = |&query: &usize| {
        let finish = world.finishes().get(query)?;
        let first = finish.arrivals.first().filter(|arrival| !arrival.truncated)?;
        let site = match first.by {
            Host::Agent(site) => Some(site),
            _ => None,
        };
        Some(Answered { site, after_ms: (first.at - finish.sent).as_millis_f64() })
    };
    let clients = queries.iter().map(|queries| queries.iter().map(outcome).collect()).collect();
    let delay = world.predetermined_delay(0).ok_or("the simulated master has no predetermined delay")?;
    Ok(Simulated { clients, predetermined_delay_ms: delay.as_millis_f64() })
}

/// When which client asks, in order: as the lab's loads do.
fn instants(clients: usize, interval: Duration, duration: Duration) -> Vec<(Span, usize)> {
    let mut instants = Vec::new();
    for client in 0..clients {
        let mut after = interval.mul_f64(client as f64 / clients as f64);
        while after <= duration {
            instants.push((Span::from_nanos(after.as_nanos() as i64), client));
            after += interval;
        }
    }
    instants.sort_unstable();
    instants
}

fn options(scenario: &Scenario, seed: u64) -> Options {
    let mut options = Options::new(scenario.agents.len(), scenario.clients.len());
    options.trace = false;
    let draws = scenario.clock_draws(seed);
    let master_clock = HostClock { offset: options.masters[0].clock.offset, ..HostClock::default() };
    options.masters[0].clock = clock(draws.master, master_clock);
    for (agent, draw) in options.agents.iter_mut().zip(&draws.agents) {
        agent.clock = clock(*draw, agent.clock);
        agent.max_bound = Span::from_millis_f64(MAX_BOUND_MS);
        agent.max_lateness = Span::from_millis_f64(MAX_LATENESS_MS);
    }
    let agents = scenario.agents.iter().enumerate().map(|(number, name)| (Host::Agent(number), name));
    let clients = scenario.clients.iter().enumerate().map(|(number, name)| (Host::Client(number), name));
    let hosts: Vec<(Host, &String)> =
        std::iter::once((Host::Master(0), &scenario.master)).chain(agents).chain(clients).collect();
    for (from, from_place) in &hosts {
        for (to, to_place) in hosts.iter().filter(|(to, _)| to != from) {
            let path = Path {
                jitter_mean: Span::from_millis_f64(scenario.jitter_ms),
                loss_ppm: (scenario.loss * 1e6).round() as u32,
                ..Path::of(Span::from_nanos(scenario.one_way_ns(from_place, to_place) as i64))
            };
            options.paths.insert((*from, *to), path);
        }
    }
    options
}

fn clock(draw: ClockDraw, like: HostClock) -> HostClock {
    HostClock { offset: like.offset + Span::from_nanos(draw.offset_ns), drift_ppb: draw.drift_ppb, ..like }
}
