//! The mesh on whole agents and masters: asymmetries average out, a liar and a lost peer do no harm.

use startgun_core::time::Span;
use startgun_sim::{Host, Options, World};

const MASTER: Host = Host::Master(0);

/// Paths between all hosts of 5 to 150 ms of round trip, each longer one way than the other by up to a tenth of it.
fn asymmetric(agents: usize, seed: u64, mesh: bool) -> Options {
    let mut options = Options::scattered(agents, 0, seed);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let hosts: Vec<Host> = core::iter::once(MASTER).chain((0..agents).map(Host::Agent)).collect();
    for (index, &one) in hosts.iter().enumerate() {
        for &other in &hosts[..index] {
            let round_trip = 5.0 + 145.0 * uniform();
            // Uniform, of standard deviation 5 %.
            let e = (uniform() - 0.5) * 0.1 * 3f64.sqrt();
            options.path_mut(one, other).delay = Span::from_millis_f64(round_trip * (0.5 + e));
            options.path_mut(other, one).delay = Span::from_millis_f64(round_trip * (0.5 - e));
        }
    }
    options.agents.iter_mut().for_each(|agent| agent.mesh = mesh);
    options
}

/// RMS of the agents' errors less their mean, by each agent's last reading, in milliseconds; every bound must hold.
fn mutual_error_ms(world: &World, agents: usize) -> f64 {
    let errors: Vec<f64> = (0..agents)
        .map(|agent| {
            let last = world.readings().iter().rfind(|reading| reading.agent == agent).expect("it reads");
            last.error.as_millis_f64()
        })
        .collect();
    assert!(world.readings().iter().all(|reading| reading.holds));
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    (errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / errors.len() as f64).sqrt()
}

fn run(options: Options, seed: u64) -> World {
    let mut world = World::new(options, seed);
    world.run_for(Span::from_secs(15));
    world
}

#[test]
fn twelve_agents_are_left_with_a_fraction_of_their_own_paths_error() {
    let (mut alone, mut together) = (0.0, 0.0);
    for seed in 0..6 {
        let error = |mesh| mutual_error_ms(&run(asymmetric(12, seed, mesh), seed), 12);
        let (without, with) = (error(false), error(true));
        println!("seed {seed}: mutual error {without:.3} ms by the master alone, {with:.3} ms with the mesh");
        alone += without * without;
        together += with * with;
    }
    let ratio = (together / alone).sqrt();
    println!("ratio {ratio:.3}");
    assert!(ratio < 0.4, "{ratio}");
}

#[test]
fn every_agent_exchanges_with_every_other_and_sets_come_round() {
    let world = run(asymmetric(5, 1, true), 1);
    for agent in 0..5 {
        // Four peers ask about ten times each.
        assert!(world.agent_counter(agent, "peer_exchanges_answered") >= 40, "agent {agent}");
        assert!(world.agent_counter(agent, "mesh_sets") >= 4, "agent {agent}");
        assert_eq!(world.agent_counter(agent, "mesh_set_refused"), 0, "agent {agent}");
        assert_eq!(world.agent_counter(agent, "datagram_unknown_session"), 0, "agent {agent}");
    }
}

#[test]
fn a_peer_that_vanishes_does_no_harm() {
    let mut world = run(asymmetric(6, 3, true), 3);
    world.kill_agent(5);
    world.run_for(Span::from_secs(40));
    let error = mutual_error_ms(&world, 5);
    assert!(error < 5.0, "{error} ms");
    assert!((0..5).all(|agent| world.stand_down(agent, 0).is_none()));
}
