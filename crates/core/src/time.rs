//! Time types: whose clock a number was read from is part of its type.
//!
//! A race mixes readings of many clocks: each host's own, and each master's timeline. Adding a span from
//! one to a reading of the other by accident is an error of seconds that no test on one machine would see.
//! So every timescale is a type of its own, in integer nanoseconds ([f64 seconds since 1970 hold only
//! 238 ns][crate]), and a crossing goes through a [`crate::clock`], which says how uncertain it is.
//!
//! ```compile_fail
//! use startgun_core::time::{LocalTime, RaceTime};
//! // Two timescales: this difference has no meaning, and does not compile.
//! let _ = RaceTime::from_nanos(5) - LocalTime::from_nanos(3);
//! ```
//!
//! ```
//! use startgun_core::time::{LocalTime, Span};
//! let start = LocalTime::from_nanos(1_000);
//! assert_eq!(start + Span::from_micros(2), LocalTime::from_nanos(3_000));
//! ```

use core::fmt;
use core::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use serde::{Deserialize, Serialize};

/// A signed duration in nanoseconds: ±292 years. Arithmetic saturates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// The longest span; stands for "unbounded" where a bound is asked for.
    pub const MAX: Span = Span(i64::MAX);
    /// The most negative span.
    pub const MIN: Span = Span(i64::MIN);

    /// A span of `nanos` nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Span(nanos)
    }

    /// A span of `micros` microseconds, saturating.
    pub const fn from_micros(micros: i64) -> Self {
        Span(micros.saturating_mul(1_000))
    }

    /// A span of `millis` milliseconds, saturating.
    pub const fn from_millis(millis: i64) -> Self {
        Span(millis.saturating_mul(1_000_000))
    }

    /// A span of `seconds` seconds, saturating.
    pub const fn from_secs(seconds: i64) -> Self {
        Span(seconds.saturating_mul(1_000_000_000))
    }

    /// A span from fractional milliseconds, rounded to the nearest nanosecond; not-a-number is zero.
    pub fn from_millis_f64(millis: f64) -> Self {
        Span((millis * 1e6).round() as i64)
    }

    /// The span in nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The span in microseconds, exact to the nanosecond below 104 days.
    pub fn as_micros_f64(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// The span in milliseconds, exact to the nanosecond below 104 days.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The span in seconds, exact to the nanosecond below 104 days.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The magnitude, saturating for [`Span::MIN`].
    pub const fn abs(self) -> Self {
        Span(self.0.saturating_abs())
    }

    /// Half of the span, rounded towards zero.
    pub const fn half(self) -> Self {
        Span(self.0 / 2)
    }

    /// The magnitude by which a clock that is wrong by at most `parts_per_million` drifts within this span:
    /// rounded up, never negative.
    pub const fn drift(self, parts_per_million: u32) -> Self {
        let product = (self.0 as i128).unsigned_abs() * parts_per_million as u128;
        let nanos = product.div_ceil(1_000_000);
        Span(if nanos > i64::MAX as u128 { i64::MAX } else { nanos as i64 })
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        *self = *self + other;
    }
}

impl Sub for Span {
    type Output = Span;
    fn sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

impl SubAssign for Span {
    fn sub_assign(&mut self, other: Span) {
        *self = *self - other;
    }
}

impl Neg for Span {
    type Output = Span;
    fn neg(self) -> Span {
        Span(self.0.saturating_neg())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}us", self.as_micros_f64())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.as_millis_f64())
    }
}

/// Defines an instant on one timescale: a newtype over signed nanoseconds that only mixes with [`Span`].
macro_rules! timescale {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// The latest instant; stands for "never".
            pub const MAX: $name = $name(i64::MAX);

            /// The instant `nanos` nanoseconds after the timescale's origin.
            pub const fn from_nanos(nanos: i64) -> Self {
                $name(nanos)
            }

            /// Nanoseconds since the timescale's origin.
            pub const fn as_nanos(self) -> i64 {
                self.0
            }
        }

        impl Add<Span> for $name {
            type Output = $name;
            fn add(self, span: Span) -> $name {
                $name(self.0.saturating_add(span.0))
            }
        }

        impl Sub<Span> for $name {
            type Output = $name;
            fn sub(self, span: Span) -> $name {
                $name(self.0.saturating_sub(span.0))
            }
        }

        impl Sub for $name {
            type Output = Span;
            fn sub(self, other: $name) -> Span {
                Span(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}.{:09})", stringify!($name), self.0.div_euclid(1_000_000_000),
                    self.0.rem_euclid(1_000_000_000))
            }
        }
    };
}

timescale! {
    /// A reading of this host's own monotonic clock (`CLOCK_MONOTONIC_RAW` on Linux): never steps while the
    /// host runs, drifts freely, has no relation to any other host's.
    LocalTime
}

timescale! {
    /// An instant on one master's timeline, within one of its [`Epoch`]s.
    RaceTime
}

impl RaceTime {
    /// On the master itself the two timescales are one: its raw clock *is* the race timeline.
    pub const fn of_master(local: LocalTime) -> RaceTime {
        RaceTime(local.0)
    }

    /// The inverse of [`RaceTime::of_master`], on the master only.
    pub const fn to_master(self) -> LocalTime {
        LocalTime(self.0)
    }
}

/// One unbroken run of a master's raw clock: readings of different epochs cannot be compared.
///
/// It is made from the host's boot id, so that a restarted process on a running host keeps its epoch
/// while a reboot begins a new one. A suspended or migrated host keeps its boot id: its clock's step is found by the
/// exchanges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A closed interval of spans, `low ≤ high`; either end may be unbounded ([`Span::MIN`], [`Span::MAX`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// The least value, inclusive.
    pub low: Span,
    /// The greatest value, inclusive.
    pub high: Span,
}

impl Interval {
    /// Every span: what is known before anything was measured.
    pub const UNBOUNDED: Interval = Interval { low: Span::MIN, high: Span::MAX };

    /// The values in both intervals, or `None` where they share none.
    pub fn intersection(self, other: Interval) -> Option<Interval> {
        let both = Interval { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    /// Whether `value` lies within, ends included.
    pub fn contains(self, value: Span) -> bool {
        self.low <= value && value <= self.high
    }

    /// The value within the interval that is nearest to `value`.
    pub fn clamp(self, value: Span) -> Span {
        value.max(self.low).min(self.high)
    }

    /// The interval with both ends moved outwards by `by`; an unbounded end stays so.
    pub fn widen(self, by: Span) -> Interval {
        Interval {
            low: if self.low == Span::MIN { Span::MIN } else { self.low - by },
            high: if self.high == Span::MAX { Span::MAX } else { self.high + by },
        }
    }

    /// The greatest distance from `value` to a point of the interval: the error that `value` can have.
    /// [`Span::MAX`] where an end is unbounded.
    pub fn reach(self, value: Span) -> Span {
        if self.low == Span::MIN || self.high == Span::MAX {
            return Span::MAX;
        }
        (self.high - value).max(value - self.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_rounds_up_and_saturates() {
        assert_eq!(Span::from_secs(1).drift(200), Span::from_micros(200));
        assert_eq!(Span::from_nanos(1).drift(200), Span::from_nanos(1));
        assert_eq!(Span::from_nanos(-5_000).drift(200), Span::from_nanos(1));
        assert_eq!(Span::MAX.drift(u32::MAX), Span::MAX);
    }

    #[test]
    fn intersection_of_disjoint_intervals_is_none() {
        let left = Interval { low: Span::from_nanos(0), high: Span::from_nanos(5) };
        let right = Interval { low: Span::from_nanos(6), high: Span::MAX };
        assert_eq!(left.intersection(right), None);
        assert_eq!(left.intersection(Interval::UNBOUNDED), Some(left));
    }

    #[test]
    fn reach_is_the_larger_side() {
        let interval = Interval { low: Span::from_nanos(-3), high: Span::from_nanos(10) };
        assert_eq!(interval.reach(Span::ZERO), Span::from_nanos(10));
        assert_eq!(Interval { high: Span::MAX, ..interval }.reach(Span::ZERO), Span::MAX);
        assert_eq!(interval.widen(Span::from_nanos(2)).low, Span::from_nanos(-5));
    }
}
