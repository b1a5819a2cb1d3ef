//! A bound never lies, whatever the network does; the truth is the simulator's. One world for each physical hypothesis:
//! `clock_scenarios.rs`.

use startgun_core::time::Span;
use startgun_sim::{Host, Options, World};

fn rough(options: &mut Options, jitter: Span) {
    for agent in 0..options.agents.len() {
        for (from, to) in [(Host::Master(0), Host::Agent(agent)), (Host::Agent(agent), Host::Master(0))] {
            let path = options.path_mut(from, to);
            path.jitter_mean = jitter;
            path.loss_ppm = 200_000;
            path.duplication_ppm = 200_000;
        }
    }
}

#[test]
fn no_bound_is_violated_under_loss_duplication_reordering_and_asymmetry() {
    let mut readings = 0;
    for seed in 0..2 {
        let mut options = Options::scattered(5, 0, seed);
        rough(&mut options, Span::from_millis(20));
        // Up to eight times as long one way as the other.
        for agent in 0..5 {
            options.path_mut(Host::Agent(agent), Host::Master(0)).delay = Span::from_millis(10 + 15 * agent as i64);
        }
        let mut world = World::new(options, seed);
        world.run_for(Span::from_secs(60));
        for reading in world.readings() {
            assert!(reading.holds, "seed {seed}: {reading:?}");
        }
        readings += world.readings().len();
        for agent in 0..5 {
            let last = world.readings().iter().rfind(|reading| reading.agent == agent).expect("it reads");
            // Half of 200 ms of round trip, and what the least of hundreds of jitters leaves.
            assert!(last.bound < Span::from_millis(110), "seed {seed}: {last:?}");
        }
    }
    assert!(readings >= 1_300, "{readings} readings");
}

#[test]
fn asymmetry_is_inherited_by_half_and_stays_within_the_bound() {
    // 20 ms out, 60 ms back: looks perfect, is 20 ms wrong.
    let mut options = Options::new(1, 0);
    options.path_mut(Host::Agent(0), Host::Master(0)).delay = Span::from_millis(20);
    options.path_mut(Host::Master(0), Host::Agent(0)).delay = Span::from_millis(60);
    let mut world = World::new(options, 1);
    world.run_for(Span::from_secs(20));
    let last = world.readings().last().expect("it reads");
    assert!((last.error.abs() - Span::from_millis(20)).abs() < Span::from_micros(100), "seed 1: {last:?}");
    assert!(last.expected_error < Span::from_millis(1), "seed 1: no filter sees it: {last:?}");
    assert!(last.holds && last.bound >= Span::from_millis(20), "seed 1: {last:?}");
}

#[test]
fn synchronisation_signals_alone_set_no_clock_without_a_vouched_propagation() {
    for (vouched, sets) in [(None, false), (Some(Span::from_millis(40)), true)] {
        let mut options = Options::new(1, 0);
        options.agents[0].race_clock.greatest_signal_propagation = vouched;
        // Requests of exchanges never reach the master; its signals do reach the agent.
        options.path_mut(Host::Agent(0), Host::Master(0)).loss_ppm = 1_000_000;
        let mut world = World::new(options, 1);
        world.run_for(Span::from_secs(5));
        assert!(world.agent_counter(0, "sync_signals") >= 4, "seed 1");
        let last = world.readings().last().expect("a signal was read");
        assert!(last.holds, "seed 1: {last:?}");
        assert_eq!(last.bound != Span::MAX, sets, "seed 1: {last:?}");
        if sets {
            assert!(last.error.abs() <= Span::from_millis(20), "seed 1: {last:?}");
        }
    }
}
