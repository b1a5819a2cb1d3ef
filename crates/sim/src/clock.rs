//! True time, which only the simulator knows, and the hosts' clocks that run beside it.

use core::fmt;
use core::ops::{Add, Sub};
use startgun_core::time::{LocalTime, Span};

/// An instant of true time, in nanoseconds since the world began.
///
/// No machine of the core ever sees one: hosts see [`LocalTime`], through their [`HostClock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimTime(i64);

impl SimTime {
    /// The beginning of the world.
    pub const ZERO: SimTime = SimTime(0);

    /// The instant `nanos` nanoseconds after the beginning.
    pub const fn from_nanos(nanos: i64) -> Self {
        SimTime(nanos)
    }

    /// Nanoseconds since the beginning.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }
}

impl Add<Span> for SimTime {
    type Output = SimTime;
    fn add(self, span: Span) -> SimTime {
        SimTime(self.0.saturating_add(span.as_nanos()))
    }
}

impl Sub for SimTime {
    type Output = Span;
    fn sub(self, other: SimTime) -> Span {
        Span::from_nanos(self.0.saturating_sub(other.0))
    }
}

impl fmt::Debug for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimTime({}.{:09})", self.0.div_euclid(BILLION as i64), self.0.rem_euclid(BILLION as i64))
    }
}

/// Parts per billion, and nanoseconds per second.
const BILLION: i128 = 1_000_000_000;
/// Clocks are summed in so many parts of a nanosecond: with four summands rounded down to a thousandth, the sum still
/// never falls while true time rises.
const PARTS: i128 = 1_000;
/// Steps by which [`HostClock::when`] closes in: each divides the distance by 500 (a rate of 2,000 ppm at most), from
/// 2 × 10^7 s of a day's work × 10^9 down to a nanosecond.
const CLOSING_IN: usize = 8;

/// A rate that wanders: up to `amplitude_ppb` and down again, in straight lines, for ever.
///
/// A triangle rather than a sine or a random walk: its integral is exact in integers at any instant, and its slope,
/// 4 × `amplitude_ppb` / `period`, is a figure to reason with. A sum of several with periods that do not divide each
/// other looks like weather.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wander {
    /// Greatest rate, either way, in parts per billion; at most 500,000.
    pub amplitude_ppb: i64,
    /// From slowest to fastest and back; zero for no wander.
    pub period: Span,
    /// How far into the period the world begins; from 0 to `period`.
    pub phase: Span,
}

impl Wander {
    /// Greatest change of the rate, in parts per billion and second.
    pub fn slope_ppb_per_s(&self) -> i64 {
        let period = i128::from(self.period.as_nanos());
        if period == 0 { 0 } else { (4 * i128::from(self.amplitude_ppb) * BILLION / period) as i64 }
    }

    /// What the clock has gained since the world began, in [`PARTS`] of a nanosecond, rounded down.
    fn gained(&self, at: SimTime) -> i128 {
        let period = i128::from(self.period.as_nanos());
        if period <= 0 {
            return 0;
        }
        let phase = i128::from(self.phase.as_nanos());
        // The integral of the rate from the period's beginning; zero at its beginning, middle and end. In the first
        // half the rate rises from −A, which gives −A·u + 2·A·u²/P, or −A·v·(P − v) / 2P for v = 2u; the second half
        // is the same with the other sign.
        let since_slowest = |t: i128| {
            let twice = 2 * t.rem_euclid(period);
            let (v, sign) = if twice < period { (twice, -1) } else { (twice - period, 1) };
            sign * i128::from(self.amplitude_ppb) * v * (period - v) * PARTS / (2 * period)
        };
        (since_slowest(i128::from(at.0) + phase) - since_slowest(phase)).div_euclid(BILLION)
    }
}

/// A host's clock: wrong from the start, and running at its own rate.
///
/// Integer arithmetic, so that a replay on another machine reads the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostClock {
    /// What the clock shows at the beginning of the world.
    pub offset: Span,
    /// How much faster than true time it runs, in parts per billion (1,000 are one part per million); must lie
    /// between −1,000,000 and 1,000,000.
    pub drift_ppb: i64,
    /// By how much that changes with time.
    pub wander: [Wander; 2],
}

impl HostClock {
    /// What the clock shows at a true instant, rounded down.
    pub fn read(&self, at: SimTime) -> LocalTime {
        let wandered: i128 = self.wander.iter().map(|wander| wander.gained(at)).sum();
        let gained = floor(drifted(at, self.drift_ppb) + wandered, PARTS as i64);
        LocalTime::from_nanos(saturate(i128::from(at.0) + gained + i128::from(self.offset.as_nanos())))
    }

    /// The first true instant at which the clock shows `local` or more.
    pub fn when(&self, local: LocalTime) -> SimTime {
        let shown = i128::from(local.as_nanos()) - i128::from(self.offset.as_nanos());
        let mut guess = SimTime(saturate((shown * BILLION).div_euclid(BILLION + i128::from(self.drift_ppb))));
        for _ in 0..CLOSING_IN {
            let missing = local - self.read(guess);
            if missing == Span::ZERO {
                break;
            }
            guess = guess + missing;
        }
        // Roundings down, of less than a nanosecond each: the answer lies within 2 ns of the guess.
        let near = (-3..=3).map(|by| SimTime(guess.0.saturating_add(by)));
        near.into_iter().find(|at| self.read(*at) >= local).unwrap_or(guess)
    }
}

/// What a clock of a constant rate has gained, in [`PARTS`] of a nanosecond, rounded down: whole seconds and the rest by
/// themselves, for the rest fits into 64 bits, whose division is many times faster.
fn drifted(at: SimTime, drift_ppb: i64) -> i128 {
    let (seconds, rest) = (at.0.div_euclid(BILLION as i64), at.0.rem_euclid(BILLION as i64));
    // 10^9 ns × 10^6 ppb × 10^3 parts are 10^18.
    let of_rest = (rest * drift_ppb * PARTS as i64).div_euclid(BILLION as i64);
    i128::from(seconds) * i128::from(drift_ppb) * PARTS + i128::from(of_rest)
}

/// Division that rounds down, in 64 bits where the value fits.
fn floor(value: i128, divisor: i64) -> i128 {
    match i64::try_from(value) {
        Ok(value) => i128::from(value.div_euclid(divisor)),
        Err(_) => value.div_euclid(i128::from(divisor)),
    }
}

fn saturate(nanos: i128) -> i64 {
    nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEATHER: [Wander; 2] = [
        Wander { amplitude_ppb: 80_000, period: Span::from_secs(107), phase: Span::from_secs(31) },
        Wander { amplitude_ppb: 20_000, period: Span::from_nanos(7_000_000_001), phase: Span::ZERO },
    ];

    #[test]
    fn when_is_the_first_instant_that_shows_the_time() {
        for (drift_ppb, wander) in [-90_000, -1, 0, 1, 33_333, 90_000]
            .into_iter()
            .flat_map(|drift| [(drift, [Wander::default(); 2]), (drift, WEATHER)])
        {
            let clock = HostClock { offset: Span::from_secs(-7), drift_ppb, wander };
            for nanos in [-5_000_000_000, -7, 0, 1, 999_999_937, 86_400_000_000_001] {
                let local = LocalTime::from_nanos(nanos);
                let at = clock.when(local);
                assert!(clock.read(at) >= local, "{clock:?} {local:?}");
                assert!(clock.read(SimTime(at.0 - 1)) < local, "{clock:?} {local:?}");
            }
        }
    }

    #[test]
    fn a_fast_clock_gains_its_drift() {
        let clock = HostClock { offset: Span::from_millis(3), drift_ppb: 50_000, ..HostClock::default() };
        assert_eq!(clock.read(SimTime::from_nanos(10_000_000_000)), LocalTime::from_nanos(10_003_500_000));
    }

    #[test]
    fn a_wandering_rate_stays_in_its_range_and_changes_no_faster_than_it_says() {
        let clock = HostClock { wander: [WEATHER[0], Wander::default()], ..HostClock::default() };
        assert_eq!(WEATHER[0].slope_ppb_per_s(), 2_990);
        let gained = |second: i64| {
            let at = SimTime::from_nanos(second * 1_000_000_000);
            clock.read(at).as_nanos() - at.as_nanos()
        };
        let rates: Vec<i64> = (0..214).map(|second| gained(second + 1) - gained(second)).collect();
        let (least, greatest) = (rates.iter().min(), rates.iter().max());
        assert!(least.is_some_and(|rate| (-80_000..-78_000).contains(rate)), "{least:?}");
        assert!(greatest.is_some_and(|rate| (78_000..80_001).contains(rate)), "{greatest:?}");
        assert!(rates.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 2_993), "{rates:?}");
        // Two whole periods leave nothing.
        assert!(gained(214).abs() <= 1, "{}", gained(214));
    }

    #[test]
    fn a_wandering_clock_never_goes_back() {
        let clock = HostClock { drift_ppb: -33_333, wander: WEATHER, ..HostClock::default() };
        for start in [0, 53_499_999_900, 106_999_999_900, 1_234_567_890_123] {
            for nanos in start..start + 5_000 {
                assert!(clock.read(SimTime(nanos + 1)) >= clock.read(SimTime(nanos)), "at {nanos}");
            }
        }
    }
}
