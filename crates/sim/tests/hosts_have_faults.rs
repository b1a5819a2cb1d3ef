//! The world's own faults do what they say: clocks step, processes and hosts stand still, attackers hold packets.

use startgun_core::agent::DepartureOutcome;
use startgun_core::time::Span;
use startgun_sim::{Bursts, Hold, Host, Options, SimTime, Suspended, World};

const MASTER: Host = Host::Master(0);

/// One agent, 20 ms away, racing, with its clock well set.
fn ready(seed: u64) -> World {
    let mut world = World::new(Options::new(1, 1), seed);
    world.run_until_ready();
    world.run_for(Span::from_secs(5));
    world.validate_all();
    world
}

#[test]
fn a_paused_process_takes_with_their_true_stamps_what_came_meanwhile() {
    let mut world = ready(1);
    world.query(0, 0, "one.cdn.test");
    // 20 ms to the master, 20 ms to the agent: the order waits for its T when the process stops.
    world.run_for(Span::from_millis(41));
    let (exchanges, departures) = (world.exchanges(0, 0), world.departures().len());
    world.pause_agent(0, Span::from_secs(3));
    world.run_for(Span::from_millis(2_999));
    assert!(world.halted(0), "seed 1");
    assert_eq!((world.exchanges(0, 0), world.departures().len()), (exchanges, departures), "seed 1: it stands still");
    let readings = world.readings().len();
    world.run_for(Span::from_secs(1));
    assert!(!world.halted(0), "seed 1");
    // What it should have sent it finds too late.
    assert_eq!(world.departures().len(), departures + 1, "seed 1");
    assert!(matches!(world.departures()[departures].outcome, DepartureOutcome::Late { .. }), "seed 1");
    // Three synchronisation signals waited in the socket, and the exchange that was under way.
    assert!(world.readings().len() >= readings + 4, "seed 1");
    for reading in &world.readings()[readings..] {
        assert!(reading.holds && !reading.blind && reading.error.abs() < Span::from_micros(50), "seed 1: {reading:?}");
    }
}

#[test]
fn a_suspended_host_loses_the_time_and_the_packets() {
    let mut world = ready(2);
    let exchanges = world.exchanges(0, 0);
    world.suspend_agent(0, Span::from_secs(30), Suspended::Untold);
    world.run_for(Span::from_secs(30));
    let reading = world.read_clock(0, 0).expect("it was set");
    assert!((reading.error + Span::from_secs(30)).abs() < Span::from_millis(1), "seed 2: {reading:?}");
    assert!(reading.blind && !reading.holds, "seed 2: {reading:?}");
    assert!(world.exchanges(0, 0) <= exchanges + 1, "seed 2: nothing was kept for it");
    world.run_for(Span::from_secs(5));
    let reading = world.read_clock(0, 0).expect("it is set");
    assert!(reading.holds && !reading.blind && reading.error.abs() < Span::from_micros(50), "seed 2: {reading:?}");
}

#[test]
fn a_host_that_is_told_of_its_suspension_states_nothing_until_it_has_asked() {
    let mut world = ready(2);
    world.query(0, 0, "one.cdn.test");
    world.run_for(Span::from_millis(41));
    let departures = world.departures().len();
    world.suspend_agent(0, Span::from_secs(30), Suspended::Told);
    world.run_for(Span::from_secs(30));
    assert!(world.read_clock(0, 0).is_none() && world.stand_down(0, 0).is_some(), "seed 2");
    world.run_for(Span::from_secs(5));
    assert_eq!(world.departures().len(), departures, "seed 2: what waited was taken back");
    let reading = world.read_clock(0, 0).expect("it is set");
    assert!(reading.holds && !reading.blind && reading.error.abs() < Span::from_micros(50), "seed 2: {reading:?}");
}

#[test]
fn a_stepped_clock_is_judged_by_its_new_self_and_blind_until_a_whole_exchange() {
    for by in [Span::from_secs(1), Span::from_secs(-1)] {
        let mut world = ready(3);
        world.step_agent_clock(0, by);
        let reading = world.read_clock(0, 0).expect("it was set");
        assert!((reading.error - by).abs() < Span::from_millis(1) && reading.blind, "seed 3: {reading:?}");
        world.run_for(Span::from_secs(3));
        assert!(world.replies_since_fault(0, 0).is_some_and(|replies| replies >= 5), "seed 3");
        let reading = world.read_clock(0, 0).expect("it is set");
        assert!(reading.holds && !reading.blind && reading.error.abs() < Span::from_micros(50), "seed 3: {reading:?}");
    }
}

#[test]
fn a_step_of_the_master_moves_the_timeline() {
    let mut world = ready(4);
    let before = world.race_time(0);
    world.step_master_clock(0, Span::from_secs(7));
    assert_eq!(world.race_time(0) - before, Span::from_secs(7));
    assert!(world.read_clock(0, 0).is_some_and(|reading| reading.blind && !reading.holds), "seed 4");
    world.run_for(Span::from_secs(3));
    assert!(world.read_clock(0, 0).is_some_and(|reading| reading.holds && !reading.blind), "seed 4");
}

/// How long each of so many packets took from the agent to a resolver, one every 10 ms.
fn delays(world: &mut World, packets: usize) -> Vec<Span> {
    let mut delays = Vec::new();
    for number in 0..packets {
        let query = world.query(0, 0, &format!("missing{number}.test"));
        world.run_for(Span::from_millis(10));
        delays.push(query);
    }
    world.run_for(Span::from_secs(1));
    let finishes = world.finishes();
    delays.into_iter().map(|query| finishes[query].arrivals[0].at - finishes[query].sent).collect()
}

#[test]
fn a_held_path_is_as_long_as_the_attacker_says() {
    let mut world = ready(5);
    let from = world.now() + Span::from_millis(500);
    let hold = Hold { from, ramp: Span::from_secs(1), most: Span::from_millis(60), share_ppm: 1_000_000 };
    world.path_mut(MASTER, Host::Client(0)).hold = Some(hold);
    let delays = delays(&mut world, 200);
    assert!(delays[..45].iter().all(|delay| *delay == Span::from_millis(40)), "{delays:?}");
    assert!(delays[160..].iter().all(|delay| *delay == Span::from_millis(100)), "{delays:?}");
    assert!(delays.windows(2).all(|pair| pair[1] >= pair[0]), "{delays:?}");
}

#[test]
fn a_burst_is_shared_by_successive_packets_and_ends() {
    let mut world = ready(6);
    let burst = Bursts { every: Span::from_secs(2), length: Span::from_secs(1), peak: Span::from_millis(50) };
    world.path_mut(MASTER, Host::Client(0)).bursts = Some(burst);
    let delays = delays(&mut world, 600);
    let idle = delays.iter().filter(|delay| **delay == Span::from_millis(40)).count();
    assert!((250..350).contains(&idle), "half of the time: {idle}");
    assert!(delays.iter().max().is_some_and(|most| *most > Span::from_millis(45)), "{delays:?}");
    assert!(delays.iter().all(|delay| *delay <= Span::from_millis(90)), "{delays:?}");
    // 50 ms in a quarter of a second are 2 ms from one packet to the next.
    assert!(delays.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= Span::from_millis(3)), "{delays:?}");
    assert!(world.now() > SimTime::ZERO);
}

#[test]
fn readings_by_chance_change_nothing_else() {
    let run = |readings_between: Span| {
        let mut options = Options::scattered(2, 1, 7);
        options.readings_between = readings_between;
        let mut world = World::new(options, 7);
        world.run_for(Span::from_secs(10));
        (world.trace_digest(), world.readings().len())
    };
    let (without, few) = run(Span::ZERO);
    let (with, many) = run(Span::from_millis(50));
    assert_eq!(without, with, "seed 7");
    assert!(many > few + 300, "seed 7: {few}, {many}");
}
