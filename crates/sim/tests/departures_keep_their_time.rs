//! T is where it was said to be: by the stamp, by the delay, by the signal; and who cannot keep it follows the policy.

use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;
use startgun_sim::{DepartureRecord, Host, Options, World};

const MASTER: Host = Host::Master(0);

fn run_one(options: Options, seed: u64) -> World {
    let mut world = World::new(options, seed);
    world.run_until_ready();
    world.run_for(Span::from_secs(5));
    world.validate_all();
    world.query(0, 0, "one.cdn.test");
    world.run_for(Span::from_secs(3));
    world
}

fn of_agent(world: &World, agent: usize) -> Vec<DepartureRecord> {
    world.departures().iter().filter(|departure| departure.agent == agent).copied().collect()
}

/// True lateness against T.
fn lateness(departure: &DepartureRecord) -> Span {
    departure.race_time - departure.transmit_at.expect("an instant")
}

#[test]
fn an_order_that_arrives_twice_departs_once() {
    let mut options = Options::scattered(4, 1, 1);
    for agent in 0..4 {
        options.path_mut(MASTER, Host::Agent(agent)).duplication_ppm = 1_000_000;
    }
    let world = run_one(options, 1);
    assert_eq!(world.departures().len(), 4, "seed 1");
    assert_eq!(world.finishes()[0].arrivals.len(), 4, "seed 1");
    for agent in 0..4 {
        assert!(world.agent_counter(agent, "datagram_replayed") > 20, "seed 1");
        assert_eq!(world.agent_counter(agent, "orders"), 1, "seed 1");
    }
}

#[test]
fn a_delay_that_covers_all_leaves_nobody_late() {
    for seed in 0..6 {
        let mut options = Options::scattered(6, 1, seed);
        options.masters[0].delay = Delay::Cover { share: 1.0, margin: Span::from_millis(5) };
        for agent in 0..6 {
            options.path_mut(MASTER, Host::Agent(agent)).jitter_mean = Span::from_micros(300);
        }
        let largest = (0..6).map(|agent| options.path(MASTER, Host::Agent(agent)).delay).max().expect("six");
        let mut world = World::new(options, seed);
        world.run_until_ready();
        world.run_for(Span::from_secs(5));
        world.validate_all();
        let delay = world.predetermined_delay(0).expect("agents are ready");
        assert!(delay > largest, "seed {seed}: {delay:?} for {largest:?}");
        assert!(delay < largest + Span::from_millis(15), "seed {seed}: {delay:?} for {largest:?}");
        for number in 0..20 {
            world.query(0, 0, &format!("q{number}.cdn.test"));
            world.run_for(Span::from_millis(500));
        }
        assert_eq!(world.departures().len(), 120, "seed {seed}");
        for departure in world.departures() {
            assert!(departure.departed(), "seed {seed}: {departure:?}");
            assert!(lateness(departure).abs() < Span::from_millis(1), "seed {seed}: {departure:?}");
        }
    }
}

#[test]
fn a_delay_that_covers_a_share_leaves_the_farthest_out() {
    let mut options = Options::new(4, 1);
    options.masters[0].delay = Delay::Cover { share: 0.75, margin: Span::from_millis(5) };
    options.set_delay(MASTER, Host::Agent(3), Span::from_millis(120));
    let world = run_one(options, 2);
    for agent in 0..3 {
        assert!(of_agent(&world, agent)[0].departed(), "seed 2");
    }
    assert!(!of_agent(&world, 3)[0].departed(), "seed 2");
    assert_eq!(world.finishes()[0].arrivals.len(), 3, "seed 2");
}

/// Three near agents and one at 120 ms, with a delay of 60 ms.
fn one_is_far(late: LatePolicy) -> World {
    let mut options = Options::new(4, 1);
    options.masters[0].delay = Delay::Fixed(Span::from_millis(60));
    options.masters[0].late = late;
    options.set_delay(MASTER, Host::Agent(3), Span::from_millis(120));
    run_one(options, 3)
}

#[test]
fn an_agent_whose_order_comes_after_t_drops_its_answer() {
    let world = one_is_far(LatePolicy::Drop);
    assert!((0..3).all(|agent| of_agent(&world, agent)[0].departed()), "seed 3");
    let far = of_agent(&world, 3);
    assert_eq!(far.len(), 1, "seed 3");
    assert!(!far[0].departed(), "seed 3");
    assert_eq!(world.agent_counter(3, "departures_dropped_late"), 1, "seed 3");
    assert_eq!(world.finishes()[0].arrivals.len(), 3, "seed 3");
}

#[test]
fn an_agent_whose_order_comes_after_t_sends_at_once_where_the_policy_says_so() {
    let world = one_is_far(LatePolicy::Send);
    let far = of_agent(&world, 3);
    assert_eq!(far.len(), 1, "seed 3");
    assert!(far[0].departed(), "seed 3");
    // The order took 120 ms, T was 60 ms after the query.
    let late = lateness(&far[0]);
    assert!((late - Span::from_millis(60)).abs() < Span::from_micros(100), "seed 3: {late:?}");
    assert_eq!(world.finishes()[0].arrivals.len(), 4, "seed 3");
    assert_eq!(world.finishes()[0].arrivals[3].by, Host::Agent(3), "seed 3");
}

#[test]
fn a_departure_thread_that_is_slow_beyond_the_tolerance_drops_too() {
    let mut options = Options::new(2, 1);
    options.masters[0].late_tolerance = Span::from_millis(1);
    options.agents[1].departure_lateness_mean = Span::from_secs(1);
    let world = run_one(options, 5);
    assert!(of_agent(&world, 0)[0].departed(), "seed 5");
    assert_eq!(world.agent_counter(1, "departures_dropped_late"), 1, "seed 5");
}

#[test]
fn when_all_are_late_the_master_answers_as_soon_as_the_last_has_said_so() {
    let mut options = Options::new(2, 1);
    options.masters[0].delay = Delay::Fixed(Span::from_millis(10));
    let world = run_one(options, 4);
    let finish = &world.finishes()[0];
    assert_eq!(finish.arrivals.len(), 1, "seed 4");
    // Query 20 ms, orders 20 ms, receipts 20 ms after 5 ms in which they wait for others, answer 20 ms; not T + 250 ms.
    let took = finish.arrivals[0].at - finish.sent;
    assert!((took - Span::from_millis(85)).abs() < Span::from_micros(100), "seed 4: {took:?}");
}

#[test]
fn the_stamp_at_dequeue_moves_t_by_exactly_the_dwell() {
    let delay = Span::from_millis(100);
    let dwell = Span::from_nanos(7_654_321);
    let t_after_receipt = |stamp: Stamp| {
        let mut options = Options::new(3, 1);
        options.masters[0].delay = Delay::Fixed(delay);
        options.masters[0].stamp = stamp;
        options.masters[0].queue_dwell = dwell;
        let world = run_one(options, 6);
        let reached = world.finishes()[0].reached.expect("it came");
        assert_eq!(world.departures().len(), 3, "seed 6");
        for departure in world.departures() {
            assert!(lateness(departure).abs() < Span::from_micros(100), "seed 6: {departure:?}");
        }
        world.departures()[0].transmit_at.expect("an instant").to_master() - reached
    };
    assert_eq!(t_after_receipt(Stamp::Receipt), delay);
    assert_eq!(t_after_receipt(Stamp::Dequeue), delay + dwell);
}

#[test]
fn answers_held_for_a_signal_depart_when_it_comes_and_not_before() {
    let delay = Span::from_millis(150);
    let mut options = Options::new(3, 1);
    options.masters[0].transmit = Transmit::Signal;
    options.masters[0].delay = Delay::Fixed(delay);
    let ways = [30, 50, 70].map(Span::from_millis);
    for (agent, way) in ways.into_iter().enumerate() {
        options.set_delay(MASTER, Host::Agent(agent), way);
    }
    let world = run_one(options, 7);
    assert_eq!(world.departures().len(), 3, "seed 7");
    let reached = world.finishes()[0].reached.expect("it came");
    for (agent, way) in ways.into_iter().enumerate() {
        let departure = of_agent(&world, agent)[0];
        assert!(departure.departed() && departure.transmit_at.is_none(), "seed 7: {departure:?}");
        let held_until = departure.race_time.to_master() - reached;
        assert!((held_until - delay - way).abs() < Span::from_micros(1), "seed 7: agent {agent} at {held_until:?}");
    }
    assert_eq!(world.finishes()[0].arrivals.len(), 3, "seed 7: no fallback");
}

#[test]
fn an_answer_whose_signal_never_comes_is_never_sent() {
    let mut options = Options::new(2, 1);
    options.masters[0].transmit = Transmit::Signal;
    options.masters[0].delay = Delay::Fixed(Span::from_millis(150));
    let mut world = World::new(options, 8);
    world.run_until_ready();
    world.validate_all();
    world.query(0, 0, "held.cdn.test");
    // The order leaves 20 ms after the query, the signal 150 ms later.
    world.run_for(Span::from_millis(100));
    for agent in 0..2 {
        world.path_mut(MASTER, Host::Agent(agent)).loss_ppm = 1_000_000;
    }
    world.run_for(Span::from_secs(4));
    assert_eq!(world.departures().len(), 0, "seed 8");
    for agent in 0..2 {
        assert_eq!(world.agent_counter(agent, "orders_expired_without_signal"), 1, "seed 8");
    }
    let finish = &world.finishes()[0];
    assert_eq!((finish.arrivals.len(), finish.winner()), (1, Some(MASTER)), "seed 8: the fallback");
}
