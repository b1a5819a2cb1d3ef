//! The host's own clock as a source: two people who know what UTC is need not ask each other.
//!
//! Where a host's clock is disciplined (chrony, ntpd, a PHC, the clock-bound daemon), it is known where UTC lies on its
//! local clock, within a bound that its keeper states. The master publishes the same of its timeline. UTC drops out:
//! θ = (UTC − local) − (UTC − race), within the sum of both bounds. That sum is a proof only as far as both keepers are
//! right; it is intersected with what the exchanges prove, and an empty intersection means that somebody is not.
//!
//! Both statements age: until the next one each clock may drift off by `max_drift`.

use crate::time::{Interval, LocalTime, RaceTime, Span};

/// A statement older than this counts no more: keepers are asked every second, and after ten something is wrong.
const STATEMENT_LIFE: Span = Span::from_secs(10);

/// Where UTC lies on this host's local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTime {
    /// When it was read.
    pub at: LocalTime,
    /// UTC (nanoseconds since 1970, leap seconds not counted) − local, at that instant.
    pub utc_minus_local: Span,
    /// How wrong that can be; not negative.
    pub bound: Span,
    /// Whether the bound is the operator's word rather than a keeper's.
    pub stated: bool,
}

/// Where UTC lies on a master's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UtcOnRace {
    /// When it was read.
    pub at: RaceTime,
    /// UTC − race, at that instant.
    pub utc_minus_race: Span,
    /// How wrong that can be; not negative.
    pub bound: Span,
    /// Whether the bound is the operator's word rather than a keeper's.
    pub stated: bool,
}

/// θ by the two host clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostOffset {
    pub(super) offset: Span,
    pub(super) interval: Interval,
    pub(super) stated: bool,
}

/// The newest statement of either side.
#[derive(Clone, Debug)]
pub(super) struct HostOffsets {
    max_drift_ppm: u32,
    local: Option<HostTime>,
    race: Option<UtcOnRace>,
}

impl HostOffsets {
    pub(super) fn new(max_drift_ppm: u32) -> Self {
        HostOffsets { max_drift_ppm, local: None, race: None }
    }

    pub(super) fn set_local(&mut self, time: Option<HostTime>) {
        self.local = time.filter(|time| time.bound >= Span::ZERO);
    }

    pub(super) fn set_race(&mut self, utc: UtcOnRace) {
        // Of two that overtook each other the older one adds nothing.
        if utc.bound >= Span::ZERO && self.race.is_none_or(|known| known.at <= utc.at) {
            self.race = Some(utc);
        }
    }

    pub(super) fn forget_local(&mut self) {
        self.local = None;
    }

    pub(super) fn forget_race(&mut self) {
        self.race = None;
    }

    /// θ at `at`; `None` unless both sides have said something lately.
    pub(super) fn at(&self, at: LocalTime) -> Option<HostOffset> {
        let (local, race) = (self.local?, self.race?);
        let offset = local.utc_minus_local - race.utc_minus_race;
        let race_at = RaceTime::from_nanos(at.as_nanos().saturating_add(offset.as_nanos()));
        let (local_age, race_age) = ((at - local.at).abs(), (race_at - race.at).abs());
        if local_age > STATEMENT_LIFE || race_age > STATEMENT_LIFE + local.bound + race.bound {
            return None;
        }
        // The age on the race timeline is only known within the bounds themselves.
        let slack =
            local_age.drift(self.max_drift_ppm) + (race_age + local.bound + race.bound).drift(self.max_drift_ppm);
        let bound = local.bound + race.bound + slack;
        Some(HostOffset {
            offset,
            interval: Interval { low: offset - bound, high: offset + bound },
            stated: local.stated || race.stated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets() -> HostOffsets {
        let mut offsets = HostOffsets::new(200);
        let at = LocalTime::from_nanos(5_000_000_000);
        let stated = false;
        offsets.set_local(Some(HostTime {
            at,
            utc_minus_local: Span::from_secs(1_000),
            bound: Span::from_micros(400),
            stated,
        }));
        let at = RaceTime::from_nanos(12_000_000_000);
        offsets.set_race(UtcOnRace { at, utc_minus_race: Span::from_secs(993), bound: Span::from_micros(100), stated });
        offsets
    }

    #[test]
    fn utc_drops_out_and_the_bounds_add_up() {
        let theta = offsets().at(LocalTime::from_nanos(5_000_000_000)).expect("both have spoken");
        assert_eq!(theta.offset, Span::from_secs(7));
        let bound = theta.interval.reach(theta.offset);
        assert!(bound >= Span::from_micros(500) && bound < Span::from_micros(501), "{bound:?}");
    }

    #[test]
    fn statements_age_and_then_count_no_more() {
        let second = |n: i64| LocalTime::from_nanos(n * 1_000_000_000);
        let bound = |at| offsets().at(at).map(|theta| theta.interval.reach(theta.offset));
        // Both sides drift for a second: 2 × 200 µs.
        let later = bound(second(6)).expect("fresh enough");
        assert!(later >= Span::from_micros(900) && later < Span::from_micros(901), "{later:?}");
        assert_eq!(bound(second(16)), None);
    }

    #[test]
    fn an_overtaken_statement_changes_nothing() {
        let mut offsets = offsets();
        let before = offsets.at(LocalTime::from_nanos(5_000_000_000));
        let at = RaceTime::from_nanos(11_000_000_000);
        offsets.set_race(UtcOnRace { at, utc_minus_race: Span::ZERO, bound: Span::ZERO, stated: false });
        assert_eq!(offsets.at(LocalTime::from_nanos(5_000_000_000)), before);
    }
}
