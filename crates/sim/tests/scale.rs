//! A small population lives through a day: nothing is made or vanishes, caches save what they should, and the figures do
//! not depend on the threads.

use startgun_core::master::Delay;
use startgun_core::time::Span;
use startgun_sim::scale::{self, Figures, HOURS, PARTS, ScaleOptions};
use startgun_sim::{Path, Places};
use std::sync::atomic::{AtomicU64, Ordering};

/// Twelve places on a circle, 8 ms from one to the next, with four sites; the master is with the first.
fn options(seed: u64) -> ScaleOptions {
    let path = |from: usize, to: usize| {
        let apart = from.abs_diff(to).min(12 - from.abs_diff(to));
        Path {
            jitter_mean: Span::from_micros(200),
            loss_ppm: 20_000,
            ..Path::of(Span::from_millis(1 + 8 * apart as i64))
        }
    };
    ScaleOptions {
        resolvers: 400,
        places: Places::new(12, path),
        weights: vec![1; 12],
        sites: vec![0, 3, 6, 9],
        master: 0,
        delay: Delay::Cover { share: 1.0, margin: Span::from_millis(5) },
        names: 40,
        queries: 3_000,
        seconds: 24,
        seed,
    }
}

fn run(options: &ScaleOptions) -> Figures {
    scale::run(options, 2, &|| {})
}

#[test]
fn nothing_is_made_and_nothing_vanishes() {
    for seed in [1, 2] {
        let options = options(seed);
        let figures = run(&options);
        assert_eq!(figures.contradictions(), [] as [String; 0], "seed {seed}");
        assert!((3_150..3_650).contains(&figures.client_queries), "seed {seed}: {}", figures.client_queries);
        let races = figures.master_count("races");
        assert!(figures.by_site > 500 && figures.by_site <= races, "seed {seed}: {} of {races}", figures.by_site);
        assert!(figures.cache_hits > 500 && figures.repeats > 0, "seed {seed}: {figures:?}");
        // Two of a hundred queries are lost, and two of a hundred answers, but a race has four.
        assert!(figures.unanswered <= 2, "seed {seed}: {} were given up", figures.unanswered);
        assert_eq!(figures.hours.len(), HOURS);
        let sum = |of: fn(&scale::Hour) -> u64| figures.hours.iter().map(of).sum::<u64>();
        assert_eq!(sum(|hour| hour.races), races, "seed {seed}");
        assert_eq!(sum(|hour| hour.client_queries), figures.client_queries, "seed {seed}");
        assert_eq!(sum(|hour| hour.orders), figures.master_count("orders"), "seed {seed}");
        assert_eq!(sum(|hour| hour.over_tcp), figures.over_tcp, "seed {seed}");
        assert_eq!(sum(|hour| hour.master.outward.bytes), figures.master_traffic.sent_bytes, "seed {seed}");
        let noon: u64 = figures.hours[9..15].iter().map(|hour| hour.client_queries).sum();
        let night: u64 = figures.hours[..3].iter().chain(&figures.hours[21..]).map(|hour| hour.client_queries).sum();
        assert!(noon > 2 * night, "seed {seed}: {noon} at noon, {night} at night");
    }
}

#[test]
fn a_figure_that_is_off_by_one_is_a_contradiction() {
    let figures = run(&options(3));
    assert_eq!(figures.contradictions(), [] as [String; 0]);
    let wrong: [fn(&mut Figures); 5] = [
        |figures| figures.cache_hits += 1,
        |figures| figures.unanswered += 1,
        |figures| figures.repeats += 1,
        |figures| *figures.master.entry("orders").or_default() += 1,
        |figures| *figures.agents.entry("departures").or_default() -= 1,
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let mut changed = figures.clone();
        change(&mut changed);
        assert_eq!(changed.contradictions().len(), 1, "change {number}: {:?}", changed.contradictions());
    }
}

#[test]
fn every_resolver_is_told_to_prove_itself_once_and_races_then() {
    let mut options = options(4);
    options.places = Places::new(1, |_, _| Path::of(Span::from_millis(10)));
    (options.weights, options.sites) = (vec![1], vec![0; 4]);
    let figures = run(&options);
    assert_eq!(figures.contradictions(), [] as [String; 0]);
    // A name that is asked for within the 40 ms of a TCP connection is a second one to prove oneself with.
    let told = figures.master_count("answers_truncated");
    assert!((400..420).contains(&told), "{told}");
    assert_eq!(told, figures.over_tcp, "nothing is lost here");
    let races = figures.master_count("races");
    assert_eq!(figures.asked, figures.over_tcp + races, "whoever has proved itself races");
    assert_eq!(figures.master_count("orders"), 4 * races);
    assert_eq!(figures.answers, told + 4 * races, "every agent answers, and nobody else");
    assert_eq!(figures.choice.lowest, figures.by_site, "all sites are equally near");
    assert_eq!((figures.repeats, figures.unanswered, figures.by_master), (0, 0, 0));
    // Query, predetermined delay (10 ms and a margin of 5), answer.
    assert!(figures.answer_ms(50).is_some_and(|ms| (35..45).contains(&ms)), "{:?}", figures.answer_ms(50));
}

#[test]
fn the_figures_do_not_depend_on_the_threads() {
    let options = options(5);
    let steps = AtomicU64::new(0);
    let step = || {
        steps.fetch_add(1, Ordering::Relaxed);
    };
    let one = scale::run(&options, 1, &step);
    assert_eq!(steps.load(Ordering::Relaxed), options.steps());
    assert_eq!(one, scale::run(&options, 3, &|| {}));
    assert_eq!(one, scale::run(&options, PARTS, &|| {}));
    assert_ne!(one, run(&ScaleOptions { seed: 6, ..options }));
}

#[test]
fn the_nearest_site_wins_nearly_every_race() {
    let figures = run(&options(7));
    let choice = figures.choice;
    assert_eq!(choice.races, figures.by_site);
    // Where two sites are as near, either is the nearest; an answer in fifty is lost.
    assert!(choice.lowest * 100 >= choice.races * 95, "{choice:?}");
    assert!(choice.lowest < choice.races, "a lost answer leaves the race to another: {choice:?}");
}

#[test]
fn the_more_names_there_are_the_less_caches_save() {
    let few = run(&options(8));
    let many = run(&ScaleOptions { names: 1_000, ..options(8) });
    assert!(few.cache_hits * 2 > many.cache_hits * 3, "{} and {}", few.cache_hits, many.cache_hits);
    assert_eq!(many.contradictions(), [] as [String; 0]);
}

#[test]
fn a_site_that_nobody_reaches_is_not_ready_and_wins_nothing() {
    let mut options = options(9);
    let all = options.places.clone();
    let reaches = |one: usize, other: usize| (one == 9) == (other == 9);
    options.places = Places::new(12, |from, to| Path {
        loss_ppm: if reaches(from, to) { 0 } else { 1_000_000 },
        ..*all.between(from, to)
    });
    options.weights[9] = 0;
    let figures = run(&options);
    assert_eq!(figures.ready, 3);
    assert_eq!(figures.contradictions(), [] as [String; 0]);
    assert_eq!(figures.master_count("orders"), 3 * figures.master_count("races"));
    assert_eq!(figures.choice.lowest, figures.by_site, "the nearest of those that are reached");
    assert!(figures.by_site > 500, "{}", figures.by_site);
}
