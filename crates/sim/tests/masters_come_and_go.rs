//! Restarts, reboots, new keys, and several masters on one agent.

use startgun_core::control::StandDown;
use startgun_core::time::Span;
use startgun_sim::{Host, HostClock, MasterOptions, Options, World};

const AGENTS: usize = 4;
/// What operators are promised: agents are racing again this long after a master's restart.
const AGAIN_WITHIN: Span = Span::from_secs(5);

fn answer_of(world: &mut World, master: usize, name: &str) -> Vec<Host> {
    let query = world.query(0, master, name);
    world.run_for(Span::from_millis(800));
    world.finishes()[query].arrivals.iter().map(|arrival| arrival.by).collect()
}

#[test]
fn a_restarted_master_races_again_without_setting_the_clocks_anew() {
    for seed in 0..4 {
        let mut world = World::new(Options::scattered(AGENTS, 1, seed), seed);
        world.run_until_ready();
        world.validate_all();
        assert_eq!(answer_of(&mut world, 0, "before.cdn.test").len(), AGENTS, "seed {seed}");

        world.restart_master(0);
        world.validate_all();
        assert_eq!(answer_of(&mut world, 0, "meanwhile.cdn.test"), [Host::Master(0)], "seed {seed}");
        let readings = world.readings().len();
        world.run_for(AGAIN_WITHIN - Span::from_millis(800));
        assert!((0..AGENTS).all(|agent| world.races(agent, 0)), "seed {seed}");
        assert_eq!(answer_of(&mut world, 0, "after.cdn.test").len(), AGENTS, "seed {seed}");
        // The epoch is the same: the readings before are still good, none has begun anew with a wide bound.
        for reading in &world.readings()[readings..] {
            assert!(reading.holds && reading.expected_error < Span::from_millis(3), "seed {seed}: {reading:?}");
        }
    }
}

#[test]
fn a_new_epoch_stands_agents_down_until_their_clocks_are_set_anew() {
    for seed in 0..4 {
        let mut world = World::new(Options::scattered(AGENTS, 1, seed), seed);
        world.run_until_ready();
        world.validate_all();
        assert_eq!(answer_of(&mut world, 0, "before.cdn.test").len(), AGENTS, "seed {seed}");

        world.reboot_master(0, Span::from_secs(3_600));
        let booted = world.now();
        world.validate_all();
        let mut stood_down = [false; AGENTS];
        while world.now() - booted < AGAIN_WITHIN {
            world.run_for(Span::from_millis(10));
            for (agent, stood_down) in stood_down.iter_mut().enumerate() {
                *stood_down |= world.stand_down(agent, 0) == Some(StandDown::ClockUnset);
            }
        }
        assert_eq!(stood_down, [true; AGENTS], "seed {seed}: the old timeline is forgotten");
        assert!((0..AGENTS).all(|agent| world.races(agent, 0)), "seed {seed}");
        assert_eq!(answer_of(&mut world, 0, "after.cdn.test").len(), AGENTS, "seed {seed}");
        assert!(world.readings().iter().all(|reading| reading.holds), "seed {seed}");
        for departure in world.departures().iter().filter(|departure| departure.at > booted) {
            let late = departure.race_time - departure.transmit_at.expect("an instant");
            assert!(late.abs() < Span::from_millis(1), "seed {seed}: {late:?} on the new timeline");
        }
    }
}

#[test]
fn new_keys_leave_no_gap() {
    let mut options = Options::scattered(AGENTS, 1, 5);
    options.masters[0].rekey_interval = Span::from_secs(2);
    let mut world = World::new(options, 5);
    world.run_until_ready();
    world.validate_all();
    for number in 0..150 {
        world.query(0, 0, &format!("q{number}.cdn.test"));
        world.run_for(Span::from_millis(200));
    }
    world.run_for(Span::from_secs(1));
    for finish in world.finishes() {
        assert_eq!(finish.arrivals.len(), AGENTS, "seed 5: {finish:?}");
    }
    for name in ["datagram_unknown_session", "datagram_forged", "datagram_replayed"] {
        assert_eq!(world.master_counter(0, name), 0, "seed 5: {name} at the master");
        for agent in 0..AGENTS {
            assert_eq!(world.agent_counter(agent, name), 0, "seed 5: {name} at agent {agent}");
        }
    }
}

#[test]
fn an_agent_serves_several_masters_each_on_its_own_timeline() {
    let mut options = Options::scattered(AGENTS, 1, 6);
    options.masters.push(MasterOptions {
        clock: HostClock { offset: Span::from_secs(86_400), drift_ppb: -30_000, ..HostClock::default() },
        ..MasterOptions::default()
    });
    options.masters.push(MasterOptions {
        clock: HostClock { offset: Span::from_secs(50), drift_ppb: 20_000, ..HostClock::default() },
        shards: 3,
        ..MasterOptions::default()
    });
    options.agents.iter_mut().for_each(|agent| agent.masters = vec![0, 1, 2]);
    let mut world = World::new(options, 6);
    world.run_until_ready();
    world.validate_all();
    for round in 0..5 {
        let queries: Vec<usize> = (0..3).map(|master| world.query(0, master, &format!("r{round}.cdn.test"))).collect();
        world.run_for(Span::from_secs(1));
        for query in queries {
            let finish = &world.finishes()[query];
            let by: Vec<Host> = finish.arrivals.iter().map(|arrival| arrival.by).collect();
            assert_eq!(by.len(), AGENTS, "seed 6: {finish:?}");
        }
    }
    for departure in world.departures() {
        let late = departure.race_time - departure.transmit_at.expect("an instant");
        assert!(late.abs() < Span::from_millis(1), "seed 6: {late:?} of master {}", departure.master);
    }
    assert!(world.readings().iter().all(|reading| reading.holds), "seed 6");
    assert!((0..3).all(|master| world.readings().iter().any(|reading| reading.master == master)), "seed 6");

    // One of them stops being heard: the other two race on.
    for agent in 0..AGENTS {
        world.path_mut(Host::Master(1), Host::Agent(agent)).loss_ppm = 1_000_000;
    }
    assert_eq!(answer_of(&mut world, 0, "left.cdn.test").len(), AGENTS, "seed 6");
    assert_eq!(answer_of(&mut world, 2, "right.cdn.test").len(), AGENTS, "seed 6");
}

#[test]
fn datagrams_that_nobody_sealed_change_nothing() {
    let mut world = World::new(Options::new(2, 1), 9);
    world.run_until_ready();
    world.validate_all();
    let before =
        (world.agent_counter(0, "datagram_unknown_session"), world.master_counter(0, "datagram_unknown_session"));
    let source = "100.64.0.7:9".parse().expect("an address");
    let mut forged = vec![0x5a, 0, 0, 0];
    forged.resize(200, 7);
    for target in ["192.0.2.1:5300", "203.0.113.1:5300"] {
        let to = target.parse().expect("an address");
        world.inject(Host::Client(0), source, to, forged.clone());
        world.inject(Host::Client(0), source, to, vec![0x5c; 17]);
        world.inject(Host::Client(0), source, to, Vec::new());
    }
    world.run_for(Span::from_secs(1));
    assert!(world.agent_counter(0, "datagram_unknown_session") > before.0, "seed 9");
    assert_eq!(world.master_counter(0, "datagram_unknown_session"), before.1 + 1, "seed 9");
    assert_eq!(world.departures().len(), 0, "seed 9");
    assert_eq!(answer_of(&mut world, 0, "fine.cdn.test").len(), 2, "seed 9");
}
