//! How long before its instant a departure is handed to the kernel.
//!
//! From the call to the kernel's transmit timestamp a datagram takes some microseconds, and a departure that is called at T
//! is late by that. The time is measured: the timestamps come back anyway. It is counted from the instant just before the
//! call and not from T, so a lead that was wrong does not enter the next measurement, and there is nothing to
//! oscillate. A median, because what disturbs (a stolen time slice, an interrupt) makes the path longer only, and seldom.
//!
//! One lead for the thread: sockets differ by address, but their datagrams take the same way through the same kernel, and
//! agents that are seldom asked at one of their addresses would otherwise learn it late.

use super::recent::Recent;
use startgun_core::time::Span;

/// Departures that count. The median's standard error is then a fifth of the single path's spread: 0.2 µs for 1 µs. A path
/// that has changed is found after half of them.
const PATHS: usize = 33;
/// With fewer there is no lead: a first departure pays for page faults and cold caches.
const PATHS_MIN: usize = 5;
/// Whatever was measured: a datagram spends no longer than this in a kernel that does not queue it.
const LEAD_MAX: Span = Span::from_micros(100);
/// The lead exceeds what the quickest departures take by no more than this, so that these do not leave too early either
/// when the path is slow by turns. Quickest: the fifth percentile, which one wrong timestamp does not touch.
const EARLY_MAX: Span = Span::from_micros(15);

/// The lead, from measured send paths.
#[derive(Debug)]
pub(super) struct Lead {
    paths: Recent<PATHS>,
    span: Span,
}

impl Lead {
    pub(super) fn new() -> Self {
        Lead { paths: Recent::new(), span: Span::ZERO }
    }

    /// The lead now, from 0 to 100 µs.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Notes how long a datagram took from just before the call to the kernel's timestamp.
    pub(super) fn took(&mut self, path: Span) {
        self.paths.add(path);
        if self.paths.count() >= PATHS_MIN {
            let most = self.paths.quantile(5).max(Span::ZERO) + EARLY_MAX;
            self.span = self.paths.quantile(50).min(most).clamp(Span::ZERO, LEAD_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lateness of `count` departures on a path that takes `path_us(n)`, called early by the lead of the moment.
    fn run(lead: &mut Lead, count: i64, path_us: impl Fn(i64) -> i64) -> Vec<Span> {
        let departure = |n| {
            let path = Span::from_micros(path_us(n));
            let lateness = path - lead.span();
            lead.took(path);
            lateness
        };
        (0..count).map(departure).collect()
    }

    #[test]
    fn the_lead_converges_and_is_undone_when_the_path_changes() {
        let mut lead = Lead::new();
        let first = run(&mut lead, 100, |_| 4);
        assert_eq!((first[0], first[4], first[5]), (Span::from_micros(4), Span::from_micros(4), Span::ZERO));
        // Slower, and quick again: found after half of what is remembered, without overshooting.
        for path_us in [11, 2] {
            let changed = run(&mut lead, 40, |_| path_us);
            assert_eq!(lead.span(), Span::from_micros(path_us));
            assert!(changed[PATHS / 2 + 1..].iter().all(|late| *late == Span::ZERO), "{changed:?}");
        }
    }

    #[test]
    fn a_disturbed_departure_does_not_move_the_others() {
        let mut lead = Lead::new();
        run(&mut lead, 200, |n| if n % 4 == 0 { 3_000 } else { 5 });
        assert_eq!(lead.span(), Span::from_micros(5));
        // A timestamp from a clock that was set in between is one of many.
        lead.took(Span::from_micros(-90));
        assert_eq!(lead.span(), Span::from_micros(5));
    }

    #[test]
    fn the_lead_is_bounded_and_lets_nothing_leave_much_too_early() {
        let mut lead = Lead::new();
        run(&mut lead, 40, |_| 40_000);
        assert_eq!(lead.span(), LEAD_MAX);
        run(&mut lead, 40, |_| -40);
        assert_eq!(lead.span(), Span::ZERO);
        // Slow three times of four: a median alone would send the quick ones 56 µs early.
        let mixed = run(&mut lead, 400, |n| if n % 4 == 0 { 4 } else { 60 });
        assert!(mixed[40..].iter().all(|late| *late >= -EARLY_MAX), "{:?}", mixed[40..].iter().min());
    }
}
