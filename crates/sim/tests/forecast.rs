//! What a forecast says of networks whose answer is known.

use startgun_core::master::Delay;
use startgun_core::time::Span;
use startgun_sim::forecast::{Clocks, Network, Plan, Sites, Tally, Trip};

fn trip(ms: f64) -> Option<Trip> {
    Some(Trip::of(Span::from_millis_f64(ms)))
}

/// Ten places on a line, 10 ms apart; sites at 0 and 9, unless a test says otherwise.
fn line() -> Plan {
    Plan {
        network: Network::new(10, |one, other| trip(10.0 * one.abs_diff(other) as f64)),
        sites: Sites::Fixed(vec![0, 9]),
        master: None,
        asymmetry_deviation: 0.0,
        clocks: Clocks::Perfect,
        delay: Delay::Cover { share: 1.0, margin: Span::from_millis(5) },
        seed: 1,
    }
}

/// Places all over the globe, so to speak: round trips between 5 and 250 ms that nothing explains.
fn scattered(count: usize) -> Network {
    Network::new(count, |one, other| trip(5.0 + ((one * 7_919 + other * 104_729) % 24_500) as f64 / 100.0))
}

fn carry_out(plan: &Plan, draws: u64) -> Tally {
    plan.carry_out(0..draws, 2, &|| {})
}

#[test]
fn with_even_paths_and_perfect_clocks_the_race_is_the_best() {
    let tally = carry_out(&line(), 2);
    assert_eq!((tally.draws, tally.races, tally.clients_without_path), (2, 16, 0));
    assert_eq!((tally.race.lowest_share(), tally.race.spread.quantile_ms(1.0)), (1.0, 0.0));
    assert_eq!(tally.best, tally.race);
    // Both sites are ordered and answer, each time.
    assert_eq!((tally.orders, tally.answers, tally.fallbacks), (32, 32, 0));
    // The losses of the wrong site are 70, 50, 30 and 10 ms, twice; a random one is right half of the time.
    assert_eq!((tally.random.lowest_share(), tally.random.spread.mean_ms()), (0.5, 20.0));
    // One site for all: right for four of eight.
    assert_eq!((tally.fixed.lowest_share(), tally.fixed.spread.mean_ms()), (0.5, 20.0));
    assert_eq!(tally.distance.spread.count(), 0, "nobody knows where the places are");
    // To the master, which is at place 0, half of the last client's 80 ms; orders take 45 ms, and 5 more are added; the
    // nearest site is at most 20 ms away.
    let (first, last) = (tally.first_answer.quantile_ms(0.01), tally.first_answer.quantile_ms(1.0));
    assert!((55.0..65.0).contains(&first) && (90.0..105.0).contains(&last), "{first} to {last}");
    assert!(tally.stood_down.is_empty(), "{:?}", tally.stood_down);
}

#[test]
fn the_nearest_by_distance_is_compared_where_places_are_known() {
    let mut plan = line();
    // By the globe all clients are next to place 9.
    let places: Vec<(f64, f64)> = (0..10).map(|place| (0.0, if place == 0 { -90.0 } else { 90.0 })).collect();
    plan.network = plan.network.with_coordinates(&places);
    let tally = carry_out(&plan, 1);
    assert_eq!((tally.distance.lowest_share(), tally.distance.spread.mean_ms()), (0.5, 20.0));
    assert_eq!(tally.race.lowest_share(), 1.0);
}

#[test]
fn a_site_cannot_win_a_client_that_it_has_no_path_to() {
    let mut plan = line();
    // Place 1 would be won by site 0; place 2 knows no site but 0; place 3 knows none, and place 4 no master.
    plan.sites = Sites::Fixed(vec![9, 0]);
    plan.master = Some(5);
    let missing = [(0, 1), (2, 9), (0, 3), (3, 9), (4, 5)];
    plan.network = Network::new(10, |one, other| match missing.contains(&(one, other)) {
        true => None,
        false => trip(10.0 * one.abs_diff(other) as f64),
    });
    let tally = carry_out(&plan, 1);
    assert_eq!((tally.races, tally.clients_without_path), (6, 2));
    assert_eq!((tally.race.lowest_share(), tally.race.without_site()), (1.0, 0));
    // Of the two sites' costs those to clients that each knows: 1 and 2 are in one of them only.
    assert_eq!(tally.random.spread.count(), 10);
}

#[test]
fn late_orders_leave_the_master_to_answer() {
    let plan = Plan { delay: Delay::Fixed(Span::from_millis(20)), ..line() };
    // The agent at the master's place has its orders in time, the one 45 ms away never.
    let tally = carry_out(&plan, 1);
    assert_eq!((tally.race.lowest_share(), tally.fixed.lowest_share()), (0.5, 0.5));
    // One departure of two settles no race: the master answers as well, later.
    assert_eq!((tally.orders, tally.answers, tally.fallbacks), (16, 16, 8));
    assert_eq!(tally.race.without_site(), 0);
    let none = Plan { sites: Sites::Fixed(vec![9]), master: Some(0), ..plan };
    let tally = carry_out(&none, 1);
    assert_eq!((tally.race.without_site(), tally.fallbacks), (9, 9));
    assert_eq!(tally.race.lowest_share(), 0.0, "an answer of the master's is no site");
}

#[test]
fn clocks_are_as_wrong_as_they_are_set() {
    let network = scattered(30);
    let plan = |clocks| Plan {
        network: network.clone(),
        sites: Sites::Random(10),
        asymmetry_deviation: 0.05,
        clocks,
        ..line()
    };
    let error_ms = |clocks| {
        let tally = carry_out(&plan(clocks), 4);
        assert!(tally.stood_down.is_empty(), "{clocks:?}: {:?}", tally.stood_down);
        tally.mutual_error_ms()
    };
    let (perfect, host) = (error_ms(Clocks::Perfect), error_ms(Clocks::Host(Span::from_millis(2))));
    assert!(perfect < 0.001, "{perfect}");
    // Of forty, less their means: 2 ms × √0.9, give or take a fifth.
    assert!((1.5..2.4).contains(&host), "{host}");
    // e × R of 5 % of 130 ms in the mean, and what the mesh leaves of it.
    let (master, mesh) = (error_ms(Clocks::Master), error_ms(Clocks::Mesh));
    assert!((4.0..12.0).contains(&master), "{master}");
    assert!(mesh < 0.45 * master, "{mesh} of {master}");
}

#[test]
fn the_same_draws_give_the_same_on_any_number_of_threads() {
    let plan = Plan {
        network: scattered(20),
        sites: Sites::Random(4),
        asymmetry_deviation: 0.05,
        clocks: Clocks::Master,
        ..line()
    };
    let one = plan.carry_out(0..6, 1, &|| {});
    assert_eq!(one, plan.carry_out(0..6, 3, &|| {}));
    let mut halves = plan.carry_out(3..6, 2, &|| {});
    halves.merge(&plan.carry_out(0..3, 1, &|| {}));
    assert_eq!(one, halves);
    // And another seed draws other sites and paths.
    assert_ne!(one.random, Plan { seed: 2, ..plan.clone() }.carry_out(0..6, 2, &|| {}).random);
    // Draws have their sites and asymmetries whatever the clocks are.
    assert_eq!(one.random, Plan { clocks: Clocks::Perfect, ..plan }.carry_out(0..6, 2, &|| {}).random);
}
