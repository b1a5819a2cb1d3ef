//! Whatever fails, a client gets its answer: from the sites, or once from the master. And nobody gets more than asked.

use startgun_core::control::StandDown;
use startgun_core::master::Delay;
use startgun_core::time::Span;
use startgun_sim::{Host, Options, World};

const MASTER: Host = Host::Master(0);
/// Every pair's one-way delay in [`Options::new`].
const ONE_WAY: Span = Span::from_millis(20);
/// What 500 ms at a few ppm and rounding can move.
const SLACK: Span = Span::from_micros(100);

fn ready(options: Options, seed: u64) -> World {
    let mut world = World::new(options, seed);
    world.run_until_ready();
    world.validate_all();
    world
}

fn fixed(agents: usize, delay: Span) -> Options {
    let mut options = Options::new(agents, 1);
    options.masters[0].delay = Delay::Fixed(delay);
    options
}

#[test]
fn without_agents_the_master_answers_at_once() {
    let mut world = World::new(Options::new(0, 1), 1);
    world.validate_all();
    let query = world.query(0, 0, "nobody.cdn.test");
    world.run_for(Span::from_secs(2));
    let finish = &world.finishes()[query];
    assert_eq!(finish.arrivals.len(), 1, "seed 1");
    assert_eq!(finish.winner(), Some(MASTER), "seed 1");
    assert_eq!(finish.arrivals[0].at - finish.sent, ONE_WAY + ONE_WAY, "seed 1: no delay is added");
    assert!(!finish.arrivals[0].truncated && finish.arrivals[0].addresses.len() == 1, "seed 1");
}

#[test]
fn when_every_order_is_lost_the_master_answers_after_t_and_the_fallback_delay() {
    let mut world = ready(fixed(3, Span::from_millis(60)), 2);
    for agent in 0..3 {
        world.path_mut(MASTER, Host::Agent(agent)).loss_ppm = 1_000_000;
    }
    let query = world.query(0, 0, "lost.cdn.test");
    world.run_for(Span::from_secs(2));
    let finish = &world.finishes()[query];
    assert_eq!(finish.arrivals.len(), 1, "seed 2");
    assert_eq!(finish.winner(), Some(MASTER), "seed 2");
    let expected = ONE_WAY + ONE_WAY + Span::from_millis(60) + Span::from_millis(250);
    let took = finish.arrivals[0].at - finish.sent;
    assert!((took - expected).abs() < SLACK, "seed 2: {took:?} instead of {expected:?}");
}

#[test]
fn when_every_receipt_is_lost_one_more_answer_comes_from_the_master() {
    let mut world = ready(fixed(3, Span::from_millis(60)), 3);
    for agent in 0..3 {
        world.path_mut(Host::Agent(agent), MASTER).loss_ppm = 1_000_000;
    }
    let query = world.query(0, 0, "silent.cdn.test");
    world.run_for(Span::from_secs(2));
    let by: Vec<Host> = world.finishes()[query].arrivals.iter().map(|arrival| arrival.by).collect();
    assert_eq!(by.len(), 4, "seed 3: {by:?}");
    assert_eq!(by[3], MASTER, "seed 3: the sites come first");
}

#[test]
fn a_repeated_query_while_there_is_time_moves_the_race_to_its_id_and_port() {
    let delay = Span::from_millis(200);
    let mut world = ready(fixed(3, delay), 4);
    let first = world.query(0, 0, "again.cdn.test");
    world.run_for(Span::from_millis(50));
    let second = world.query(0, 0, "again.cdn.test");
    world.run_for(Span::from_secs(2));
    let finishes = world.finishes();
    assert_eq!(finishes[first].arrivals.len(), 0, "seed 4: the first id is answered no more");
    assert_eq!(finishes[second].arrivals.len(), 3, "seed 4: every site answers the second");
    assert_eq!(world.departures().len(), 3, "seed 4: each site departs once");
    let reached = finishes[first].reached.expect("it came");
    for departure in world.departures() {
        let t = departure.transmit_at.expect("an instant").to_master();
        assert_eq!(t - reached, delay, "seed 4: T is still counted from the first query");
        assert_eq!(departure.revision, 1, "seed 4");
        assert_eq!(departure.finish, Some(second), "seed 4");
    }
    assert_eq!(world.master_counter(0, "races"), 1, "seed 4: never a second race beside the first");
    assert_eq!(world.master_counter(0, "queries_amended"), 1, "seed 4");
}

#[test]
fn a_repeated_query_too_late_is_answered_once_by_the_master() {
    let mut world = ready(fixed(3, Span::from_millis(100)), 5);
    let first = world.query(0, 0, "late.cdn.test");
    world.run_for(Span::from_millis(95));
    let second = world.query(0, 0, "late.cdn.test");
    world.run_for(Span::from_millis(50));
    let third = world.query(0, 0, "late.cdn.test");
    world.run_for(Span::from_secs(2));
    let finishes = world.finishes();
    assert_eq!(finishes[first].arrivals.len(), 3, "seed 5: the race goes on");
    let by: Vec<Host> = finishes[second].arrivals.iter().map(|arrival| arrival.by).collect();
    assert_eq!(by, [MASTER], "seed 5");
    assert_eq!(finishes[third].arrivals.len(), 0, "seed 5: once");
    assert_eq!(world.master_counter(0, "races"), 1, "seed 5");
}

#[test]
fn a_query_that_the_network_doubles_is_raced_once() {
    let mut options = fixed(3, Span::from_millis(100));
    options.path_mut(Host::Client(0), MASTER).duplication_ppm = 1_000_000;
    options.path_mut(Host::Client(0), MASTER).jitter_mean = Span::from_millis(30);
    let mut world = ready(options, 6);
    let query = world.query(0, 0, "twice.cdn.test");
    world.run_for(Span::from_secs(2));
    assert_eq!(world.finishes()[query].arrivals.len(), 3, "seed 6");
    assert_eq!(world.master_counter(0, "queries_duplicate"), 1, "seed 6");
}

#[test]
fn an_unvalidated_source_gets_one_answer_with_tc_and_no_more_bytes_than_it_sent() {
    let mut world = World::new(Options::new(5, 2), 7);
    world.run_until_ready();
    world.validate(1, 0);
    for number in 0..50 {
        world.query(0, 0, &format!("forged{number}.cdn.test"));
        world.run_for(Span::from_millis(20));
    }
    world.run_for(Span::from_secs(2));
    assert_eq!(world.finishes().len(), 50, "seed 7");
    for finish in world.finishes() {
        assert_eq!(finish.arrivals.len(), 1, "seed 7: {finish:?}");
        let answer = &finish.arrivals[0];
        assert!(answer.truncated && answer.by == MASTER && answer.addresses.is_empty(), "seed 7: {answer:?}");
        assert!(answer.bytes <= finish.query_bytes, "seed 7: {} for {}", answer.bytes, finish.query_bytes);
    }
    assert_eq!(world.departures().len(), 0, "seed 7: nobody raced");
    // The same question from the source that was validated is raced.
    let raced = world.query(1, 0, "earned.cdn.test");
    world.run_for(Span::from_secs(2));
    assert_eq!(world.finishes()[raced].arrivals.len(), 5, "seed 7");
}

#[test]
fn a_site_whose_network_drops_foreign_sources_never_races() {
    let mut options = Options::new(3, 1);
    options.agents[1].foreign_sources_pass = false;
    options.set_delay(Host::Agent(1), Host::Client(0), Span::from_millis(1));
    let mut world = World::new(options, 8);
    world.validate_all();
    world.run_for(Span::from_secs(9));
    assert!(world.races(0, 0) && world.races(2, 0), "seed 8");
    assert!(!world.races(1, 0), "seed 8");
    assert_eq!(world.stand_down(1, 0), Some(StandDown::SourceTestFailed), "seed 8: ten challenges in 7 s");
    let query = world.query(0, 0, "two.cdn.test");
    world.run_for(Span::from_secs(1));
    let by: Vec<Host> = world.finishes()[query].arrivals.iter().map(|arrival| arrival.by).collect();
    assert_eq!(by, [Host::Agent(0), Host::Agent(2)], "seed 8");
    assert_eq!(world.agent_counter(1, "orders"), 0, "seed 8: it is not even asked");
}

#[test]
fn with_lossy_paths_everywhere_but_to_the_client_every_query_is_answered() {
    for seed in 0..4 {
        let mut options = Options::scattered(5, 4, seed);
        for agent in 0..5 {
            for (from, to) in [(MASTER, Host::Agent(agent)), (Host::Agent(agent), MASTER)] {
                let path = options.path_mut(from, to);
                (path.loss_ppm, path.duplication_ppm) = (200_000, 200_000);
                path.jitter_mean = Span::from_millis(5);
            }
        }
        let mut world = ready(options, seed);
        for round in 0..25 {
            for client in 0..4 {
                world.query(client, 0, &format!("r{round}c{client}.cdn.test"));
            }
            world.run_for(Span::from_millis(300));
        }
        world.run_for(Span::from_secs(2));
        for finish in world.finishes() {
            assert!(!finish.arrivals.is_empty(), "seed {seed}: {finish:?}");
            for agent in 0..5 {
                let times = finish.arrivals.iter().filter(|arrival| arrival.by == Host::Agent(agent)).count();
                assert!(times <= 1, "seed {seed}: agent {agent} answered {times} times: {finish:?}");
            }
        }
        let orders: u64 = (0..5).map(|agent| world.agent_counter(agent, "datagram_replayed")).sum();
        assert!(orders > 0, "seed {seed}: nothing was doubled");
    }
}
