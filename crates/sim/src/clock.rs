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
}

impl HostClock {
    /// What the clock shows at a true instant, rounded down.
    pub fn read(&self, at: SimTime) -> LocalTime {
        let elapsed = i128::from(at.0);
        let drifted = (elapsed * i128::from(self.drift_ppb)).div_euclid(BILLION);
        LocalTime::from_nanos(saturate(elapsed + drifted + i128::from(self.offset.as_nanos())))
    }

    /// The first true instant at which the clock shows `local` or more.
    pub fn when(&self, local: LocalTime) -> SimTime {
        let shown = i128::from(local.as_nanos()) - i128::from(self.offset.as_nanos());
        let guess = (shown * BILLION).div_euclid(BILLION + i128::from(self.drift_ppb));
        // Two roundings down, of less than a nanosecond each: the answer lies within 2 ns of the guess.
        let near = (-2..=3).map(|by| SimTime(saturate(guess + by)));
        near.into_iter().find(|at| self.read(*at) >= local).unwrap_or(SimTime(saturate(guess)))
    }
}

fn saturate(nanos: i128) -> i64 {
    nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_instant_that_shows_the_time() {
        for drift_ppb in [-90_000, -1, 0, 1, 33_333, 90_000] {
            let clock = HostClock { offset: Span::from_secs(-7), drift_ppb };
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
        let clock = HostClock { offset: Span::from_millis(3), drift_ppb: 50_000 };
        assert_eq!(clock.read(SimTime::from_nanos(10_000_000_000)), LocalTime::from_nanos(10_003_500_000));
    }
}
