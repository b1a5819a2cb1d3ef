//! Each test is one physical hypothesis with numeric limits; the truth is a known line.

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
