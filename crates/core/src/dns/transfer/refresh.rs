//! When a secondary asks its primaries, and when it stops to answer (RFC 1035 section 3.3.13, RFC 1996 section 4.4).

use crate::time::{LocalTime, Span};

/// Shortest and longest time between two checks, in seconds, whatever the SOA says: a zone costs its primary no more than a
/// connection in two seconds, and is looked at every four weeks at least.
const CHECK_S: (u32, u32) = (2, 28 * 86_400);
/// Without any copy of the zone its SOA is not known: the first attempts are this far apart, each twice as far as the one
/// before, up to ten minutes.
const UNKNOWN_S: (u32, u32) = (2, 600);
/// NOTIFY makes no two checks less than this apart.
const NOTIFY_INTERVAL: Span = Span::from_secs(1);

/// The times of a SOA record, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoaTimers {
    /// From one successful check to the next.
    pub refresh_s: u32,
    /// From a failed check to the next.
    pub retry_s: u32,
    /// From the last successful check until the zone is not answered for any more.
    pub expire_s: u32,
}

impl SoaTimers {
    /// From the data of a SOA record, names uncompressed.
    pub fn of(soa: &[u8]) -> Option<SoaTimers> {
        let numbers = soa.last_chunk::<20>()?;
        let number = |at: usize| numbers[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        Some(SoaTimers { refresh_s: number(4), retry_s: number(8), expire_s: number(12) })
    }

    /// How long a zone is good for after a check: its EXPIRE, or until the first check and one more could have been made.
    pub fn good_for_s(&self) -> u32 {
        self.expire_s.max(bounded(self.refresh_s, CHECK_S).saturating_add(bounded(self.retry_s, CHECK_S)))
    }
}

fn bounded(seconds: u32, (least, most): (u32, u32)) -> u32 {
    seconds.clamp(least, most)
}

fn span(seconds: u32) -> Span {
    Span::from_secs(i64::from(seconds))
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Ask a primary.
    Check,
    /// Answer for the zone no more: SERVFAIL, until a primary has been reached.
    Expire,
}

/// The timers of one secondary zone.
#[derive(Clone, Debug)]
pub struct Refresh {
    timers: Option<SoaTimers>,
    check_at: LocalTime,
    /// There while the zone is answered for.
    expire_at: Option<LocalTime>,
    /// When the last check began.
    checked_at: Option<LocalTime>,
    failures: u32,
}

impl Refresh {
    /// A zone of which there is no copy: its first check is due at once.
    pub fn new(now: LocalTime) -> Self {
        Refresh { timers: None, check_at: now, expire_at: None, checked_at: None, failures: 0 }
    }

    /// A zone whose copy a primary last confirmed `age` before `now`. The first check is due at once: what happened while
    /// nobody could be notified is not known.
    pub fn with_copy(now: LocalTime, timers: SoaTimers, age: Span) -> Self {
        let expire_at = Some(now + span(timers.good_for_s()) - age).filter(|at| *at > now);
        Refresh { timers: Some(timers), expire_at, ..Refresh::new(now) }
    }

    /// Whether the zone may be answered for.
    pub fn is_good(&self) -> bool {
        self.expire_at.is_some()
    }

    /// When the zone stops being answered for.
    pub fn expire_at(&self) -> Option<LocalTime> {
        self.expire_at
    }

    /// When a primary is asked next.
    pub fn check_at(&self) -> LocalTime {
        self.check_at
    }

    /// A primary has confirmed the zone, or sent another version of it.
    pub fn handle_success(&mut self, now: LocalTime, timers: SoaTimers) {
        self.timers = Some(timers);
        self.failures = 0;
        self.check_at = now + span(bounded(timers.refresh_s, CHECK_S));
        self.expire_at = Some(now + span(timers.good_for_s()));
    }

    /// No primary could be reached, or none had a zone that can be served.
    pub fn handle_failure(&mut self, now: LocalTime) {
        self.failures = self.failures.saturating_add(1);
        let wait_s = match self.timers {
            Some(timers) => bounded(timers.retry_s, CHECK_S),
            None => UNKNOWN_S.0.checked_shl(self.failures.min(16) - 1).unwrap_or(UNKNOWN_S.1).min(UNKNOWN_S.1),
        };
        self.check_at = now + span(wait_s);
    }

    /// A primary says that the zone has changed: a check is due now, or as soon as the last one is a second ago.
    pub fn handle_notify(&mut self, now: LocalTime) {
        let earliest = self.checked_at.map_or(now, |at| (at + NOTIFY_INTERVAL).max(now));
        self.check_at = self.check_at.min(earliest);
    }

    /// What is due at `now`, if anything is. A check that is due has begun then, and ends with
    /// [`handle_success`](Self::handle_success) or [`handle_failure`](Self::handle_failure).
    pub fn handle_timeout(&mut self, now: LocalTime) -> Option<Timer> {
        if self.expire_at.is_some_and(|at| at <= now) {
            self.expire_at = None;
            return Some(Timer::Expire);
        }
        if self.check_at > now {
            return None;
        }
        self.checked_at = Some(now);
        Some(Timer::Check)
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> LocalTime {
        self.expire_at.map_or(self.check_at, |at| at.min(self.check_at))
    }
}
