//! Each test is one physical hypothesis with numeric limits; the truth is a known line.

use super::host::{HostTime, UtcOnRace};
use super::*;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// A path and a pair of clocks whose truth is known.
struct Path {
    rng: ChaCha12Rng,
    offset: Span,
    drift_ppm: f64,
    out: Span,
    back: Span,
    jitter_ms: f64,
}

impl Path {
    fn new(seed: u64) -> Self {
        Path {
            rng: ChaCha12Rng::seed_from_u64(seed),
            offset: Span::from_secs(7),
            drift_ppm: 40.0,
            out: Span::from_millis(40),
            back: Span::from_millis(40),
            jitter_ms: 1.0,
        }
    }

    /// The race time at a local instant, truly.
    fn race(&self, local: LocalTime) -> RaceTime {
        let drifted = (local.as_nanos() as f64 * self.drift_ppm / 1e6).round() as i64;
        RaceTime::from_nanos(local.as_nanos() + self.offset.as_nanos() + drifted)
    }

    fn jitter(&mut self) -> Span {
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        Span::from_millis_f64(-self.jitter_ms * (1.0 - uniform).ln())
    }

    fn exchange(&mut self, sent: LocalTime) -> Exchange {
        let arrived = sent + self.out + self.jitter();
        let returned = arrived + Span::from_micros(50) + self.back + self.jitter();
        Exchange { sent, received: self.race(arrived), replied: self.race(arrived + Span::from_micros(50)), returned }
    }

    /// Four exchanges a second from `start` on, for a clock that may have nothing to read; when the last was back.
    fn feed(&mut self, clock: &mut RaceClock, start_s: i64, seconds: i64) -> LocalTime {
        let mut back = LocalTime::from_nanos(start_s * 1_000_000_000);
        for i in 0..seconds * 4 {
            let exchange = self.exchange(LocalTime::from_nanos(start_s * 1_000_000_000 + i * 250_000_000));
            assert_eq!(clock.handle_exchange(exchange), Update::Accepted, "exchange {i}");
            back = exchange.returned;
        }
        back
    }

    /// Four exchanges a second from `start` on; the clock's error and whether the bound held, after each.
    fn run(&mut self, clock: &mut RaceClock, start_s: i64, seconds: i64) -> Vec<(Span, Reading)> {
        (0..seconds * 4)
            .map(|i| {
                let sent = LocalTime::from_nanos(start_s * 1_000_000_000 + i * 250_000_000);
                let exchange = self.exchange(sent);
                assert_eq!(clock.handle_exchange(exchange), Update::Accepted, "exchange {i}");
                let reading = clock.read(exchange.returned).expect("a sample was taken");
                (reading.estimate - self.race(exchange.returned), reading)
            })
            .collect()
    }
}

#[test]
fn symmetric_jitter_and_drift_leave_tens_of_microseconds() {
    let (mut medians, mut honest, mut readings) = (Vec::new(), 0, 0);
    for seed in 0..20 {
        // From −50 to 45 ppm.
        let mut path = Path { drift_ppm: seed as f64 * 5.0 - 50.0, ..Path::new(seed) };
        let mut clock = RaceClock::new(ClockConfig::default());
        let run = path.run(&mut clock, 0, 90);
        for (error, reading) in &run {
            assert!(error.abs() <= reading.bound, "seed {seed}: {error:?} beyond {:?}", reading.bound);
        }
        let mut settled: Vec<Span> = run[240..].iter().map(|(error, _)| error.abs()).collect();
        settled.sort();
        let p95 = settled[settled.len() * 95 / 100];
        assert!(p95 <= Span::from_micros(30), "seed {seed}: p95 {p95:?}");
        medians.push(p95);
        let last = run.last().expect("not empty").1;
        assert!(last.bound < Span::from_millis(42), "seed {seed}: bound {:?}", last.bound);
        assert!(last.expected_error < Span::from_millis(1), "seed {seed}: {:?}", last.expected_error);
        honest += run[16..].iter().filter(|(error, reading)| error.abs() <= reading.expected_error).count();
        readings += run.len() - 16;
    }
    println!("the error is within what is expected in {honest} of {readings} readings");
    assert!(honest * 100 >= readings * 99);
    medians.sort();
    println!("p95 of the error, 20 seeds: median {:?}, greatest {:?}", medians[10], medians[19]);
}

#[test]
fn an_asymmetric_path_is_inherited_and_the_bound_covers_it() {
    let mut path = Path { out: Span::from_millis(20), back: Span::from_millis(60), ..Path::new(3) };
    let mut clock = RaceClock::new(ClockConfig::default());
    let (error, reading) = *path.run(&mut clock, 0, 60).last().expect("not empty");
    assert!((error.abs() - Span::from_millis(20)).abs() < Span::from_millis(1), "{error:?}");
    assert!(error.abs() <= reading.bound && reading.bound < Span::from_millis(42), "{:?}", reading.bound);
}

#[test]
fn known_propagation_takes_the_asymmetry_away_and_says_that_it_is_conditional() {
    let mut path = Path { out: Span::from_millis(20), back: Span::from_millis(60), ..Path::new(4) };
    let mut clock = RaceClock::new(ClockConfig {
        least_propagation_to_master: Span::from_millis(20),
        least_propagation_from_master: Span::from_millis(60),
        ..ClockConfig::default()
    });
    let (error, reading) = *path.run(&mut clock, 0, 60).last().expect("not empty");
    assert!(error.abs() < Span::from_micros(100), "{error:?}");
    assert!(reading.bound < Span::from_millis(2) && reading.conditional, "{reading:?}");
}

#[test]
fn a_step_of_the_master_is_noticed_by_the_next_exchange() {
    let mut path = Path::new(5);
    let mut clock = RaceClock::new(ClockConfig::default());
    path.run(&mut clock, 0, 20);
    path.offset += Span::from_secs(1);
    let exchange = path.exchange(LocalTime::from_nanos(21_000_000_000));
    assert_eq!(clock.handle_exchange(exchange), Update::Stepped);
    assert_eq!((clock.steps(), clock.samples()), (1, 1));
    let reading = clock.read(exchange.returned).expect("the new sample counts");
    assert_eq!(reading.expected_error, Span::MAX, "one exchange is not enough to race again");
    assert!((reading.estimate - path.race(exchange.returned)).abs() <= reading.bound);
}

/// 12 ms are less than the path is long: the intersection is not empty, and does not hold the truth for long.
#[test]
fn a_step_that_the_interval_cannot_prove_is_noticed_by_the_next_exchange() {
    for seed in 0..40 {
        let mut path = Path::new(seed);
        let mut clock = RaceClock::new(ClockConfig::default());
        path.run(&mut clock, 0, 30);
        let step = Span::from_millis(if seed % 2 == 0 { 12 } else { -60 });
        path.offset += step;
        let exchange = path.exchange(LocalTime::from_nanos(30_000_000_000));
        assert_eq!(clock.handle_exchange(exchange), Update::Stepped, "seed {seed}");
        let reading = clock.read(exchange.returned).expect("the new sample counts");
        assert_eq!(reading.expected_error, Span::MAX);
        assert!((reading.estimate - path.race(exchange.returned)).abs() <= reading.bound, "seed {seed}");
    }
}

#[test]
fn queueing_is_never_taken_for_a_step() {
    for seed in 0..60 {
        let mut path = Path { jitter_ms: [0.1, 1.0, 20.0][seed as usize % 3], ..Path::new(seed) };
        let mut clock = RaceClock::new(ClockConfig::default());
        // Asserts that every exchange is accepted.
        path.run(&mut clock, 0, 60);
        assert_eq!(clock.steps(), 0);
    }
}

#[test]
fn an_unsolicited_signal_proves_one_side_only() {
    let path = Path::new(7);
    let mut clock = RaceClock::new(ClockConfig::default());
    let received = LocalTime::from_nanos(5_000_000_000);
    let signal = Signal { sent: path.race(received - path.back), received };
    assert_eq!(clock.handle_signal(signal), Update::Accepted);
    let reading = clock.read(received).expect("a sample was taken");
    assert_eq!(reading.bound, Span::MAX);
    assert_eq!(reading.expected_error, Span::MAX);
    let behind = path.race(received) - reading.estimate;
    assert!((behind - path.back).abs() < Span::from_micros(50), "set by the signal: {behind:?} behind");
}

#[test]
fn a_signal_with_known_propagation_sets_the_clock_on_that_condition() {
    let path = Path::new(8);
    let mut clock = RaceClock::new(ClockConfig {
        least_propagation_from_master: Span::from_millis(35),
        greatest_signal_propagation: Some(Span::from_millis(45)),
        ..ClockConfig::default()
    });
    let received = LocalTime::from_nanos(5_000_000_000);
    clock.handle_signal(Signal { sent: path.race(received - path.back), received });
    let reading = clock.read(received).expect("a sample was taken");
    assert!((reading.estimate - path.race(received)).abs() < Span::from_micros(10), "{reading:?}");
    assert!(reading.conditional && reading.bound < Span::from_millis(6), "{reading:?}");
}

#[test]
fn a_signal_never_widens_what_exchanges_proved() {
    let mut path = Path::new(9);
    let mut clock = RaceClock::new(ClockConfig::default());
    let (_, before) = *path.run(&mut clock, 0, 10).last().expect("not empty");
    let received = before.at + Span::from_millis(1);
    clock.handle_signal(Signal { sent: path.race(received - Span::from_millis(90)), received });
    let after = clock.read(received).expect("samples");
    assert!((after.estimate - path.race(received)).abs() < Span::from_micros(300), "{after:?}");
    let width = |reading: &Reading| reading.interval.high - reading.interval.low;
    assert!(width(&after) <= width(&before) + Span::from_micros(1));
}

#[test]
fn another_epoch_forgets_everything() {
    let mut path = Path::new(10);
    let mut clock = RaceClock::new(ClockConfig::default());
    clock.enter_epoch(Epoch(1));
    path.run(&mut clock, 0, 5);
    clock.enter_epoch(Epoch(1));
    assert_eq!(clock.samples(), 20);
    clock.enter_epoch(Epoch(2));
    assert_eq!(clock.read(LocalTime::from_nanos(1)), None);
}

#[test]
fn a_local_instant_for_a_race_time_is_the_inverse_of_reading() {
    let mut path = Path::new(11);
    let mut clock = RaceClock::new(ClockConfig::default());
    let (_, reading) = *path.run(&mut clock, 0, 30).last().expect("not empty");
    let due = reading.estimate + Span::from_millis(200);
    let local = clock.local_at(due, reading.at).expect("samples");
    let read_back = clock.read(local).expect("samples").estimate;
    assert!((read_back - due).abs() <= Span::from_nanos(2), "{:?}", read_back - due);
}

#[test]
fn a_reply_from_before_its_request_is_ignored() {
    let mut clock = RaceClock::new(ClockConfig::default());
    let exchange = Exchange {
        sent: LocalTime::from_nanos(10),
        received: RaceTime::from_nanos(50),
        replied: RaceTime::from_nanos(40),
        returned: LocalTime::from_nanos(20),
    };
    assert_eq!(clock.handle_exchange(exchange), Update::Impossible);
    assert_eq!(clock.samples(), 0);
}

/// A host clock at each end that is known to within `bound`, and wrong by `error` at this end.
fn tell_utc(clock: &mut RaceClock, path: &Path, at: LocalTime, bound: Span, error: Span) {
    let race = path.race(at);
    let (utc, stated) = (Span::from_secs(1_700_000_000), false);
    let at_race = Span::from_nanos(race.as_nanos());
    let at_local = Span::from_nanos(at.as_nanos());
    clock.handle_utc(UtcOnRace { at: race, utc_minus_race: utc - at_race, bound: Span::ZERO, stated });
    clock.handle_host_time(Some(HostTime { at, utc_minus_local: utc - at_local + error, bound, stated }));
}

#[test]
fn a_host_clock_that_is_known_better_decides_and_narrows_the_bound() {
    for source in [ClockSource::Auto, ClockSource::Host, ClockSource::Master] {
        let mut path = Path { out: Span::from_millis(20), back: Span::from_millis(60), ..Path::new(12) };
        let mut clock = RaceClock::new(ClockConfig { source, ..ClockConfig::default() });
        let at = path.feed(&mut clock, 0, 20);
        tell_utc(&mut clock, &path, at, Span::from_millis(1), Span::from_micros(300));
        let reading = clock.read(at).expect("samples");
        let error = (reading.estimate - path.race(at)).abs();
        assert!(error <= reading.bound && !reading.disagree, "{reading:?}");
        if source == ClockSource::Master {
            assert!(reading.decided == Decided::Exchanges && error > Span::from_millis(19), "{reading:?}");
        } else {
            assert!(reading.decided == Decided::Host && error < Span::from_micros(310), "{reading:?}");
            assert!(reading.bound < Span::from_millis(2), "{reading:?}");
        }
    }
}

#[test]
fn a_host_clock_that_is_known_worse_leaves_the_estimate_alone() {
    let mut path = Path::new(13);
    let mut clock = RaceClock::new(ClockConfig::default());
    let at = path.run(&mut clock, 0, 20).last().expect("not empty").1.at;
    let before = clock.read(at).expect("samples");
    tell_utc(&mut clock, &path, at, Span::from_millis(100), Span::from_millis(70));
    let after = clock.read(at).expect("samples");
    assert_eq!((after.estimate, after.decided), (before.estimate, Decided::Exchanges));
    // 40 ms each way, and UTC 70 ± 100 ms off: it takes from one side what the exchanges left open.
    assert!(after.interval.low > before.interval.low, "{before:?} {after:?}");
    assert!(after.interval.contains(Span::from_nanos(path.race(at).as_nanos())));
}

#[test]
fn a_host_clock_that_contradicts_the_exchanges_is_a_disagreement_and_the_bound_is_theirs() {
    for source in [ClockSource::Auto, ClockSource::Host] {
        let mut path = Path::new(14);
        let mut clock = RaceClock::new(ClockConfig { source, ..ClockConfig::default() });
        let at = path.feed(&mut clock, 0, 20);
        tell_utc(&mut clock, &path, at, Span::from_millis(5), Span::from_millis(200));
        let reading = clock.read(at).expect("samples");
        assert!(reading.disagree, "{reading:?}");
        assert!((reading.estimate - path.race(at)).abs() <= reading.bound, "{reading:?}");
        // Ten seconds without a word, and it counts no more.
        let later = path.feed(&mut clock, 21, 12);
        assert!(clock.read(later).is_none_or(|later| !later.disagree));
    }
}

#[test]
fn without_a_host_clock_the_source_host_knows_nothing() {
    let mut path = Path::new(15);
    let mut clock = RaceClock::new(ClockConfig { source: ClockSource::Host, ..ClockConfig::default() });
    let exchange = path.exchange(LocalTime::from_nanos(0));
    clock.handle_exchange(exchange);
    assert_eq!(clock.read(exchange.returned), None);
}

#[test]
fn a_correction_moves_the_estimate_within_the_interval_and_ends() {
    let mut path = Path { out: Span::from_millis(20), back: Span::from_millis(60), ..Path::new(16) };
    let mut clock = RaceClock::new(ClockConfig::default());
    let before = path.run(&mut clock, 0, 30).last().expect("not empty").1;
    clock.correct(before.at, Span::from_millis(20), Span::ZERO);
    let corrected = clock.read(before.at).expect("samples");
    assert_eq!(corrected.estimate - before.estimate, Span::from_millis(20));
    assert_eq!((corrected.interval, corrected.decided), (before.interval, Decided::Mesh));
    // The next one counts for a quarter; and a lie is stopped at the interval's edge.
    clock.correct(before.at, Span::from_millis(24), Span::ZERO);
    let moved = clock.read(before.at).expect("samples");
    assert_eq!(moved.estimate - before.estimate, Span::from_millis(21));
    clock.correct(before.at, Span::from_secs(9), Span::ZERO);
    let lied = clock.read(before.at).expect("samples");
    assert_eq!(Span::from_nanos(lied.estimate.as_nanos()), lied.interval.high);
    assert!(lied.bound >= (lied.estimate - path.race(before.at)).abs());
    let later = before.at + Span::from_secs(301);
    assert_eq!(clock.read(later).expect("samples").decided, Decided::Exchanges);
}

/// Over a path of 20 us the exchanges prove the rate, and a second of silence costs tens of microseconds instead of 200.
#[test]
fn short_paths_prove_the_rate_and_keep_the_bound_narrow() {
    for seed in 0..10 {
        let (out, back) = (Span::from_micros(10), Span::from_micros(10));
        let drift_ppm = seed as f64 * 40.0 - 180.0;
        let mut path = Path { out, back, jitter_ms: 0.002, drift_ppm, ..Path::new(seed) };
        let mut clock = RaceClock::new(ClockConfig::default());
        let last = path.run(&mut clock, 0, 10).last().expect("not empty").1;
        for millis in [0, 250, 1_000, 10_000, 60_000] {
            let at = last.at + Span::from_millis(millis);
            let reading = clock.read(at).expect("samples");
            assert!((reading.estimate - path.race(at)).abs() <= reading.bound, "seed {seed} after {millis} ms");
            let limit = match millis {
                0 | 250 => Span::from_micros(50),
                1_000 => Span::from_micros(100),
                _ => Span::from_millis(millis / 4),
            };
            assert!(reading.bound <= limit, "seed {seed} after {millis} ms: {:?}", reading.bound);
        }
    }
}

/// The rate swings by ±60 ppm within 40 s, up to 4.7 ppm per second faster: what is proven must allow for it.
#[test]
fn a_rate_that_wanders_fast_breaks_no_bound() {
    for (microseconds, seed) in [(10, 1), (10, 2), (20_000, 3), (20_000, 4)] {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut uniform = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        // θ = ∫ 60 ppm · sin(ω t), ω = 2π / 80 s: swings from −60 to 60 ppm in 40 s.
        let omega = core::f64::consts::TAU / 80e9;
        let race = |local: LocalTime| {
            let swing = 60e-6 / omega * (1.0 - (omega * local.as_nanos() as f64).cos());
            RaceTime::from_nanos(local.as_nanos() + swing.round() as i64)
        };
        let mut clock = RaceClock::new(ClockConfig::default());
        let way = Span::from_micros(microseconds);
        let mut sent = LocalTime::from_nanos(0);
        for exchange in 0..800 {
            sent = sent + Span::from_millis_f64(250.0 + if exchange % 97 == 96 { 9_000.0 } else { 0.0 });
            let mut wait = || Span::from_micros((uniform() * microseconds as f64 / 10.0) as i64);
            let arrived = sent + way + wait();
            let returned = arrived + way + wait();
            let before = clock.read(returned);
            if let Some(reading) = before {
                let error = (reading.estimate - race(returned)).abs();
                assert!(error <= reading.bound, "{exchange}: {error:?} beyond {:?}", reading.bound);
            }
            clock.handle_exchange(Exchange { sent, received: race(arrived), replied: race(arrived), returned });
            let reading = clock.read(returned).expect("samples");
            let error = (reading.estimate - race(returned)).abs();
            assert!(error <= reading.bound, "{exchange}: {error:?} beyond {:?}", reading.bound);
        }
    }
}
