//! Whether an agent races: no flapping while a figure oscillates around its limit.
//!
//! **Problem.** An agent stands down when its clock or its departures are worse than a limit. A figure that hovers there
//! crosses it many times a second, and each crossing would change every race's field, the predetermined delay, and a page
//! of alerts. **Why the obvious answer fails.** An average over time would let an agent race on after its clock has
//! stepped. **Sketch.** Fast down, slow up. A ready agent stands down as soon as a limit is exceeded. It comes back once
//! every figure has been below 0.8 × its limit for [`CALM`] without interruption ([`ClockGate`]). The lateness of
//! departures cannot be watched while nothing departs, so there the wait is a pause that doubles each time
//! ([`LatenessWatch`]).
//!
//! An agent that has not been ready yet has no history to be protected from: the limit itself admits it, at once.

use crate::control::StandDown;
use crate::time::{LocalTime, Span};
use std::collections::VecDeque;

/// How long every figure must have been good before an agent that stood down races again: four exchanges, and far less
/// than the 5 s within which it is to race again after a disturbance.
pub(super) const CALM: Span = Span::from_secs(1);
/// What counts as good then, in percent of a limit.
pub(super) const CALM_PERCENT: i64 = 80;

/// Departures whose lateness is judged: the newest of the last minute. 256 × 16 bytes.
const RECENT: usize = 256;
/// Older ones say nothing of the host as it is now.
const RECENT_SPAN: Span = Span::from_secs(60);
/// Below this a percentile is an anecdote: of ten, one may be late without moving the 90th.
const RECENT_LEAST: usize = 10;
/// The first pause after departures were late: what made them so (a backup, a neighbour) lasts seconds, and after a process
/// that was stopped goes on it is to race again within 5 s.
const FIRST_PAUSE: Span = Span::from_secs(2);
/// The longest: seven doublings. A host that never mends tries ten departures every five minutes.
const LONGEST_PAUSE: Span = Span::from_secs(256);
/// Ready for so long, an agent has mended: the next pause is a first one again.
const MENDED: Span = Span::from_secs(60);

/// The counter of a stand-down.
pub(super) fn counter(reason: StandDown) -> &'static str {
    match reason {
        StandDown::NoSession => "stood_down_no_session",
        StandDown::NoPlaybook => "stood_down_no_playbook",
        StandDown::SourceTestPending => "stood_down_source_test_pending",
        StandDown::SourceTestFailed => "stood_down_source_test_failed",
        StandDown::ClockUnset => "stood_down_clock_unset",
        StandDown::ClockStepped => "stood_down_clock_stepped",
        StandDown::SourcesDisagree => "stood_down_sources_disagree",
        StandDown::ExpectedError => "stood_down_expected_error",
        StandDown::Bound => "stood_down_bound",
        StandDown::Lateness => "stood_down_lateness",
    }
}

/// Whether the clock of one master's timeline has been good for long enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClockGate {
    /// It has not been good yet.
    #[default]
    Starting,
    /// It is good.
    Good,
    /// It was not good, for this reason, and has been calm since then, if at all.
    Bad { reason: StandDown, calm_since: Option<LocalTime> },
}

impl ClockGate {
    /// Takes in the figures as they are now: which limit is exceeded, if any, and whether all are below
    /// [`CALM_PERCENT`] of theirs.
    pub(super) fn update(&mut self, now: LocalTime, exceeded: Option<StandDown>, calm: bool) {
        *self = match (*self, exceeded) {
            (ClockGate::Starting, Some(_)) => ClockGate::Starting,
            (ClockGate::Starting | ClockGate::Good, None) => ClockGate::Good,
            (ClockGate::Good | ClockGate::Bad { .. }, Some(reason)) => ClockGate::Bad { reason, calm_since: None },
            (ClockGate::Bad { reason, calm_since }, None) => match calm_since {
                _ if !calm => ClockGate::Bad { reason, calm_since: None },
                Some(since) if now - since >= CALM => ClockGate::Good,
                since => ClockGate::Bad { reason, calm_since: since.or(Some(now)) },
            },
        };
    }

    /// Why it is not trusted, although no limit need be exceeded at this moment.
    pub(super) fn reason(&self) -> Option<StandDown> {
        match self {
            ClockGate::Bad { reason, .. } => Some(*reason),
            ClockGate::Starting | ClockGate::Good => None,
        }
    }
}

/// Whether this host lets packets depart when it should: one for all masters, as there is one departure thread.
#[derive(Clone, Debug)]
pub(super) struct LatenessWatch {
    limit: Span,
    recent: VecDeque<(LocalTime, bool)>,
    /// How many of `recent` were later than the limit.
    late: usize,
    /// Down until then.
    until: LocalTime,
    pause: Span,
}

impl LatenessWatch {
    /// A host that is trusted. `limit` is what the 90th percentile of recent departures may be late by.
    pub(super) fn new(limit: Span, now: LocalTime) -> Self {
        LatenessWatch { limit, recent: VecDeque::new(), late: 0, until: now, pause: FIRST_PAUSE }
    }

    /// Takes in how much later than possible a packet left, by the host's own clock; `true` when that is one too many.
    /// Constant time: 20,000 of them per second must not cost a sort each.
    pub(super) fn note(&mut self, now: LocalTime, lateness: Span) -> bool {
        if self.is_down(now) {
            return false;
        }
        while self.recent.front().is_some_and(|(at, _)| now - *at > RECENT_SPAN) || self.recent.len() >= RECENT {
            let forgotten = self.recent.pop_front();
            self.late -= usize::from(forgotten.is_some_and(|(_, late)| late));
        }
        let late = lateness > self.limit;
        self.late += usize::from(late);
        self.recent.push_back((now, late));
        // The nearest-rank 90th percentile exceeds the limit when fewer than nine tenths keep it.
        let count = self.recent.len();
        let down = count >= RECENT_LEAST && count - self.late < (count * 9).div_ceil(10);
        if down {
            if now - self.until >= MENDED {
                self.pause = FIRST_PAUSE;
            }
            self.until = now + self.pause;
            self.pause = (self.pause + self.pause).min(LONGEST_PAUSE);
            self.recent.clear();
            self.late = 0;
        }
        down
    }

    /// Whether departures were late, and the pause after that is not over.
    pub(super) fn is_down(&self, now: LocalTime) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> LocalTime {
        LocalTime::from_nanos(millis * 1_000_000)
    }

    /// Stand-downs of a figure that is read every 10 ms, given in percent of its limit.
    fn stand_downs(figures: impl Iterator<Item = i64>) -> (usize, ClockGate) {
        let mut readiness = ClockGate::default();
        let mut count = 0;
        for (step, percent) in figures.enumerate() {
            let before = readiness;
            let exceeded = (percent > 100).then_some(StandDown::ExpectedError);
            readiness.update(at(step as i64 * 10), exceeded, percent <= CALM_PERCENT);
            count += usize::from(before == ClockGate::Good && readiness.reason().is_some());
        }
        (count, readiness)
    }

    #[test]
    fn a_figure_that_oscillates_around_its_limit_causes_one_stand_down() {
        let around = (0..10_000).map(|step| if step % 2 == 0 { 95 } else { 105 });
        let (count, last) = stand_downs(around);
        assert_eq!(count, 1);
        assert_eq!(last.reason(), Some(StandDown::ExpectedError));
        // Nor do dips below 0.8 help, as long as none lasts.
        let dips = (0..10_000).map(|step| if step % 100 < 99 { 50 } else { 101 });
        assert_eq!(stand_downs(dips).0, 1);
        // Between 0.8 and 1 a ready agent stays ready, and one that stood down stays down.
        assert_eq!(stand_downs((0..10_000).map(|_| 99)).1, ClockGate::Good);
        assert!(stand_downs((0..10_000).map(|step| if step == 5 { 101 } else { 99 })).1.reason().is_some());
    }

    #[test]
    fn it_stands_down_at_once_and_comes_back_after_a_second_of_calm() {
        let mut readiness = ClockGate::default();
        readiness.update(at(0), Some(StandDown::ClockUnset), false);
        assert_eq!(readiness, ClockGate::Starting);
        readiness.update(at(10), None, false);
        assert_eq!(readiness, ClockGate::Good, "at the start the limit itself admits");
        readiness.update(at(20), Some(StandDown::ClockStepped), false);
        assert_eq!(readiness.reason(), Some(StandDown::ClockStepped));
        readiness.update(at(30), None, true);
        readiness.update(at(1_029), None, true);
        assert_eq!(readiness.reason(), Some(StandDown::ClockStepped));
        readiness.update(at(1_030), None, true);
        assert_eq!(readiness, ClockGate::Good);
    }

    #[test]
    fn the_newest_reason_is_told() {
        let mut readiness = ClockGate::default();
        readiness.update(at(0), None, true);
        readiness.update(at(1), Some(StandDown::ClockStepped), false);
        readiness.update(at(2), Some(StandDown::ExpectedError), false);
        assert_eq!(readiness.reason(), Some(StandDown::ExpectedError));
    }

    const LIMIT: Span = Span::from_millis(2);
    const LATE: Span = Span::from_micros(2_001);

    fn note(watch: &mut LatenessWatch, now: LocalTime, lateness: Span) {
        watch.note(now, lateness);
    }

    #[test]
    fn one_late_departure_of_ten_is_forgiven_and_two_are_not() {
        for (late, down) in [(1, false), (2, true)] {
            let mut watch = LatenessWatch::new(LIMIT, at(0));
            (0..10).for_each(|step| note(&mut watch, at(step), if step < late { LATE } else { LIMIT }));
            assert_eq!(watch.is_down(at(10)), down, "{late} late");
        }
        let mut watch = LatenessWatch::new(LIMIT, at(0));
        (0..9).for_each(|step| note(&mut watch, at(step), LATE));
        assert!(!watch.is_down(at(9)), "nine are too few to judge by");
    }

    #[test]
    fn departures_of_more_than_a_minute_ago_are_forgotten() {
        let mut watch = LatenessWatch::new(LIMIT, at(0));
        (0..9).for_each(|step| note(&mut watch, at(step), LATE));
        (0..20).for_each(|step| note(&mut watch, at(60_009 + step), Span::ZERO));
        note(&mut watch, at(60_100), LATE);
        assert!(!watch.is_down(at(60_100)));
        // And the window is bounded: 256 good ones leave no room for older bad ones.
        let mut watch = LatenessWatch::new(LIMIT, at(0));
        (0..20_000).for_each(|step| note(&mut watch, at(step / 100), if step % 11 == 10 { LATE } else { Span::ZERO }));
        assert!(watch.recent.len() <= RECENT && !watch.is_down(at(300)));
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew_once_it_has_mended() {
        let mut watch = LatenessWatch::new(LIMIT, at(0));
        let mut now = 0;
        let mut fall = |watch: &mut LatenessWatch, after: i64| {
            now += after;
            (0..10).for_each(|_| note(watch, at(now), LATE));
            let pause = (0..1_000).find(|&s| !watch.is_down(at(now + s * 1_000))).expect("it ends");
            now += pause * 1_000;
            pause
        };
        let pauses: Vec<i64> = (0..8).map(|_| fall(&mut watch, 1_000)).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256]);
        assert_eq!(fall(&mut watch, 60_000), 2, "a minute without");
    }
}
