//! The first answer comes from the site with the least latency to the client, and starts are as even as clocks are.

use startgun_core::time::Span;
use startgun_sim::{Finish, Host, Options, World};

const AGENTS: usize = 6;
const CLIENTS: usize = 8;

/// The nearest site of a client and its lead over the second.
fn nearest(options: &Options, client: usize) -> (Host, Span) {
    let mut sites: Vec<(Span, Host)> = (0..options.agents.len())
        .map(|agent| (options.path(Host::Agent(agent), Host::Client(client)).delay, Host::Agent(agent)))
        .collect();
    sites.sort();
    let lead = sites.get(1).map_or(Span::MAX, |second| second.0 - sites[0].0);
    (sites[0].1, lead)
}

/// Jitter on every path but those that the race is run on.
fn jitter_control(options: &mut Options, mean: Span) {
    for agent in 0..options.agents.len() {
        options.path_mut(Host::Master(0), Host::Agent(agent)).jitter_mean = mean;
        options.path_mut(Host::Agent(agent), Host::Master(0)).jitter_mean = mean;
    }
}

fn rounds(world: &mut World, rounds: usize) {
    world.run_until_ready();
    // Four exchanges a second: after 10 s the clock has left its start burst behind.
    world.run_for(Span::from_secs(10));
    world.validate_all();
    for round in 0..rounds {
        for client in 0..CLIENTS {
            world.query(client, 0, &format!("r{round}c{client}.cdn.test"));
        }
        world.run_for(Span::from_millis(500));
    }
    world.run_for(Span::from_secs(1));
}

#[test]
fn the_nearest_site_wins_where_it_leads_by_two_milliseconds() {
    let (mut races, mut won) = (0, 0);
    for seed in 0..8 {
        let mut options = Options::scattered(AGENTS, CLIENTS, seed);
        jitter_control(&mut options, Span::from_millis(1));
        let mut world = World::new(options.clone(), seed);
        rounds(&mut world, 20);
        for Finish { client, arrivals, .. } in world.finishes() {
            assert_eq!(arrivals.len(), AGENTS, "seed {seed}: every site answers once, client {client}");
            assert!(!arrivals.iter().any(|arrival| arrival.by == Host::Master(0)), "seed {seed}: a fallback answer");
            let (site, lead) = nearest(&options, *client);
            if lead >= Span::from_millis(2) {
                races += 1;
                won += usize::from(arrivals[0].by == site);
            }
        }
    }
    assert!(races >= 600, "{races} races with a lead of 2 ms");
    assert!(won * 100 >= races * 99, "the nearest won {won} of {races}");
}

#[test]
fn starts_spread_no_further_than_the_clocks_are_wrong() {
    for seed in 20..24 {
        let mut options = Options::scattered(AGENTS, CLIENTS, seed);
        jitter_control(&mut options, Span::from_millis(1));
        let mut world = World::new(options, seed);
        rounds(&mut world, 10);
        let departures = world.departures();
        for finish in 0..world.finishes().len() {
            let starts: Vec<_> = departures.iter().filter(|departure| departure.finish == Some(finish)).collect();
            assert_eq!(starts.len(), AGENTS, "seed {seed}: query {finish}");
            let first = starts.iter().map(|start| start.at).min().expect("not empty");
            let last = starts.iter().map(|start| start.at).max().expect("not empty");
            let errors = starts.iter().map(|start| start.clock_error.expect("a clock that raced"));
            let (least, greatest) =
                errors.fold((Span::MAX, Span::MIN), |(low, high), error| (low.min(error), high.max(error)));
            // An exchange between arming and departing may move the estimate, by far less than 100 µs.
            let allowed = greatest - least + Span::from_micros(100);
            assert!(last - first <= allowed, "seed {seed}, query {finish}: {:?} > {allowed:?}", last - first);
            assert!(last - first < Span::from_millis(2), "seed {seed}, query {finish}: {:?}", last - first);
        }
    }
}

#[test]
fn one_agent_alone_races_and_wins() {
    let mut world = World::new(Options::scattered(1, 1, 3), 3);
    world.run_until_ready();
    world.validate_all();
    let query = world.query(0, 0, "alone.cdn.test");
    world.run_for(Span::from_secs(2));
    let finish = &world.finishes()[query];
    assert_eq!(finish.winner(), Some(Host::Agent(0)), "seed 3");
    assert_eq!(finish.arrivals.len(), 1, "seed 3: its receipt settles the race, no fallback follows");
    assert_eq!(finish.arrivals[0].addresses, world.site_addresses(0)[..1], "seed 3");
    let departure = world.departures()[0];
    let t = departure.transmit_at.expect("an instant");
    assert!(
        (departure.race_time - t).abs() < Span::from_millis(1),
        "seed 3: departed {:?}, T {t:?}",
        departure.race_time
    );
}

#[test]
fn an_agent_that_dies_leaves_the_race_to_the_others() {
    for seed in 0..4 {
        let mut options = Options::scattered(AGENTS, CLIENTS, seed);
        options.set_delay(Host::Agent(2), Host::Client(0), Span::from_millis(1));
        options.set_delay(Host::Agent(4), Host::Client(0), Span::from_millis(3));
        let mut world = World::new(options, seed);
        world.run_until_ready();
        world.validate_all();
        let before = world.query(0, 0, "before.cdn.test");
        world.run_for(Span::from_secs(1));
        assert_eq!(world.finishes()[before].winner(), Some(Host::Agent(2)), "seed {seed}");

        // It has its order and dies before T: the farthest order takes at most 100 ms, T is beyond.
        let during = world.query(0, 0, "during.cdn.test");
        world.run_for(Span::from_millis(90));
        world.kill_agent(2);
        world.run_for(Span::from_secs(1));
        let finish = &world.finishes()[during];
        assert_eq!(finish.winner(), Some(Host::Agent(4)), "seed {seed}");
        assert_eq!(finish.arrivals.len(), AGENTS - 1, "seed {seed}: the others, and no fallback");

        // The master notices by the missing reports, and asks it no more.
        world.run_for(Span::from_secs(5));
        assert!(!world.races(2, 0), "seed {seed}");
        let orders = world.master_counter(0, "orders");
        let after = world.query(0, 0, "after.cdn.test");
        world.run_for(Span::from_secs(1));
        assert_eq!(world.finishes()[after].winner(), Some(Host::Agent(4)), "seed {seed}");
        assert_eq!(world.master_counter(0, "orders") - orders, AGENTS as u64 - 1, "seed {seed}");
    }
}
