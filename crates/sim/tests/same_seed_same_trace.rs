//! A seed is the whole story: it replays to the byte, and another one tells another.

use startgun_core::time::Span;
use startgun_sim::{Host, Options, World};

/// A world with everything in it that chance decides.
fn run(seed: u64) -> World {
    let mut options = Options::scattered(4, 3, 99);
    let hosts: Vec<Host> = (0..4).map(Host::Agent).chain((0..3).map(Host::Client)).chain([Host::Master(0)]).collect();
    for &from in &hosts {
        for &to in &hosts {
            let path = options.path_mut(from, to);
            path.jitter_mean = Span::from_millis(2);
            path.loss_ppm = 50_000;
            path.duplication_ppm = 50_000;
        }
    }
    let mut world = World::new(options, seed);
    world.run_until_ready();
    world.validate_all();
    for round in 0..20 {
        for client in 0..3 {
            world.query(client, 0, &format!("r{round}c{client}.cdn.test"));
        }
        world.run_for(Span::from_millis(400));
    }
    world
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let (one, other) = (run(7), run(7));
    assert!(one.trace().lines().count() > 1_000, "{} lines", one.trace().lines().count());
    assert!(one.trace() == other.trace(), "two runs of seed 7 differ");
    assert_eq!(one.trace_digest(), other.trace_digest());
}

#[test]
fn another_seed_gives_another_trace() {
    let (one, other) = (run(7), run(8));
    assert!(one.trace() != other.trace());
    assert_ne!(one.trace_digest(), other.trace_digest());
}
