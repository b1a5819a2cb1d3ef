//! More clients than anybody would name in pairs: they are at places, and what became of their queries is taken as it
//! comes.

use startgun_core::time::Span;
use startgun_sim::{Host, Options, Path, Places, Records, World};

const CLIENTS: usize = 40_000;
const AGENTS: usize = 3;

/// Three places on a line, 20 ms apart, with an agent each; clients at the two ends by turns.
fn options() -> Options {
    let mut places = Places::new(3, |from, to| Path::of(Span::from_millis(2 + 20 * from.abs_diff(to) as i64)));
    places.masters = vec![1];
    places.agents = vec![0, 1, 2];
    places.clients = (0..CLIENTS).map(|client| if client % 2 == 0 { 0 } else { 2 }).collect();
    Options { places: Some(places), ..Options::new(AGENTS, CLIENTS) }
}

/// A hundred clients, 100 ms apart; how often each site won, and the trace's digest.
fn run(seed: u64, take: bool) -> ([usize; AGENTS], u64) {
    let mut world = World::new(options(), seed);
    world.run_until_ready();
    let mut won = [0; AGENTS];
    let mut taken = 0;
    for round in 0..100 {
        let client = round * 399;
        world.validate(client, 0);
        let number = world.query(client, 0, &format!("r{round}.cdn.test"));
        assert_eq!(number, round, "numbers go on");
        world.run_for(Span::from_millis(100));
        let finishes = if take { world.take_finishes(world.now() + Span::from_secs(-1)).1 } else { Vec::new() };
        for finish in finishes {
            assert_eq!(finish.arrivals.len(), AGENTS, "seed {seed}: client {}", finish.client);
            won[place_of(finish.winner())] += 1;
            taken += 1;
        }
    }
    world.run_for(Span::from_secs(1));
    assert_eq!(taken, if take { 90 } else { 0 }, "queries of the last second are left");
    assert_eq!(world.finish(89).is_none(), take);
    assert_eq!(world.finish(90).map(|finish| finish.client), Some(90 * 399));
    world.finishes().iter().for_each(|finish| won[place_of(finish.winner())] += 1);
    (won, world.trace_digest())
}

fn place_of(winner: Option<Host>) -> usize {
    match winner {
        Some(Host::Agent(agent)) => agent,
        other => panic!("{other:?} is no agent"),
    }
}

#[test]
fn clients_at_places_are_won_by_the_agent_that_is_there() {
    assert_eq!(run(5, false).0, [50, 0, 50]);
}

#[test]
fn taking_finishes_away_changes_nothing_that_happens() {
    assert_eq!(run(5, false), run(5, true));
}

#[test]
fn a_path_of_a_pair_comes_before_its_places() {
    let mut options = options();
    options.set_delay(Host::Agent(2), Host::Client(0), Span::from_micros(1));
    assert_eq!(options.path(Host::Agent(2), Host::Client(0)).delay, Span::from_micros(1));
    assert_eq!(options.path(Host::Agent(2), Host::Client(2)).delay, Span::from_millis(42));
}

#[test]
fn sums_alone_are_kept_of_the_same_events() {
    let run = |records| {
        let mut options = Options { records, ..options() };
        options.places = options.places.map(|places| lossy(&places));
        let mut world = World::new(options, 9);
        world.run_until_ready();
        world.validate(0, 0);
        for round in 0..30 {
            world.query(0, 0, &format!("r{round}.cdn.test"));
            world.run_for(Span::from_millis(300));
        }
        world.run_for(Span::from_secs(1));
        world
    };
    let (mut all, mut sums) = (run(Records::All), run(Records::Sums));
    // The trace says what was judged, too: without that, the two are one.
    let events = |world: &World| {
        let judged = [" clock agent ", " departure agent "];
        let lines = world.trace().lines().filter(|line| judged.iter().all(|what| !line.contains(what)));
        lines.map(String::from).collect::<Vec<_>>()
    };
    assert!(events(&all) == events(&sums), "the same happens");
    assert!(events(&all).len() > 500, "{} events", events(&all).len());
    let answers = |world: &World| world.finishes().iter().map(|finish| finish.answers).collect::<Vec<_>>();
    assert_eq!(answers(&all), answers(&sums));
    assert!(all.finishes().iter().all(|finish| finish.answers == finish.arrivals.len()));
    assert!(sums.finishes().iter().all(|finish| finish.arrivals.len() == finish.answers.min(1)));
    let winners = |world: &World| world.finishes().iter().map(|finish| finish.winner()).collect::<Vec<_>>();
    assert_eq!(winners(&all), winners(&sums));
    assert!(sums.departures().is_empty() && sums.readings().is_empty() && !all.departures().is_empty());
    assert_eq!(all.take_answered(), []);
    let answered = sums.take_answered();
    assert_eq!(answered.len(), sums.finishes().iter().filter(|finish| finish.answers > 0).count());
    assert_eq!(sums.take_answered(), []);

    let [clients, master] = [Host::Client(0), Host::Master(0)].map(|host| sums.traffic(host));
    assert_eq!(clients, all.traffic(Host::Client(7)), "of all clients together");
    assert_eq!(clients.sent, 30);
    assert!(clients.lost > 0, "seed 9 loses a query: {clients:?}");
    assert_eq!(clients.sent - clients.lost, sums.master_counter(0, "queries"));
    assert_eq!(clients.sent_bytes, sums.finishes().iter().map(|finish| finish.query_bytes as u64).sum::<u64>());
    // Whatever was sent and not lost has reached somebody, but for what is still under way.
    let agents: Vec<_> = (0..AGENTS).map(|agent| sums.traffic(Host::Agent(agent))).collect();
    let everybody = || agents.iter().chain([&clients, &master]);
    let sent: u64 = everybody().map(|traffic| traffic.sent - traffic.lost).sum();
    let received: u64 = everybody().map(|traffic| traffic.received).sum();
    assert!((received..received + 10).contains(&sent), "{sent} were sent, {received} received");
}

/// The same places with a loss of 5 % on every path.
fn lossy(places: &Places) -> Places {
    let path = |from, to| Path { loss_ppm: 50_000, ..*places.between(from, to) };
    let mut lossy = Places::new(places.count(), path);
    lossy.masters.clone_from(&places.masters);
    lossy.agents.clone_from(&places.agents);
    lossy.clients = places.clients.clone();
    lossy
}
