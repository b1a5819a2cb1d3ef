//! How long before a call the thread stops sleeping and spins.
//!
//! A sleep ends late, by 30 µs at the median on a virtual machine and by a few on bare metal. Spinning over that time
//! hides it, and costs a processor. The window therefore follows what this host shows: a multiple of the 90th
//! percentile of recent wake-ups. Were it the percentile itself, one departure in ten would be late. How far the rarer
//! wake-ups lie beyond it differs between hosts and hours, so the multiple adapts too: it grows by half with each wake-up
//! that the window did not hide, and shrinks a little with each that it did.

use super::recent::Recent;
use startgun_core::time::Span;

/// Wake-ups that count: six of them are above the 90th percentile, so that a stolen time slice or two do not move it.
const WAKE_UPS: usize = 64;
/// Fewer say nothing yet.
const WAKE_UPS_MIN: usize = 16;
/// Thousandths of the 90th percentile, to begin with. Measured: p99 was 1.9 times p90 (85 and 46 µs) on a virtual machine.
const MULTIPLE_AT_START: i64 = 3_000;
/// A quiet host's p99.
const MULTIPLE_MIN: i64 = 2_000;
/// From a p90 of 40 µs to the greatest window; more would only take longer to shrink.
const MULTIPLE_MAX: i64 = 20_000;
/// A hidden wake-up takes 1/800 off the multiple. 324 of them undo the half that one which was not hidden adds
/// (ln 1.5 × 800), so about 0.3 % of the wake-ups are not hidden.
const SHRINKAGE: i64 = 800;
/// After a wake-up the send path is warmed (up to 100 µs on a busy virtual machine), and what is due is prepared (20 µs).
pub(super) const ROOM: Span = Span::from_micros(150);
/// At one departure a second 0.1 % of a processor. Who is woken later than this is late.
const WINDOW_MAX: Span = Span::from_millis(1);
/// Before anything is known: five times the slowest median that was measured.
const WINDOW_AT_START: Span = Span::from_micros(500);

/// The spin window, from measured wake-ups.
#[derive(Debug)]
pub(super) struct SpinWindow {
    lateness: Recent<WAKE_UPS>,
    /// In thousandths.
    multiple: i64,
    span: Span,
}

impl SpinWindow {
    pub(super) fn new() -> Self {
        SpinWindow { lateness: Recent::new(), multiple: MULTIPLE_AT_START, span: WINDOW_AT_START }
    }

    /// The window now: 150 µs to 1 ms.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Notes by how much a sleep ended late.
    pub(super) fn woke(&mut self, late: Span) {
        self.multiple = match late {
            late if late <= self.span - ROOM => self.multiple - self.multiple / SHRINKAGE,
            late if late < WINDOW_MAX - ROOM => self.multiple + self.multiple / 2,
            // A stolen time slice: no window would have hidden it.
            _ => self.multiple,
        }
        .clamp(MULTIPLE_MIN, MULTIPLE_MAX);
        self.lateness.add(late);
        if self.lateness.count() >= WAKE_UPS_MIN {
            let p90 = self.lateness.quantile(90).min(WINDOW_MAX);
            self.span = (ROOM + Span::from_nanos(p90.as_nanos() * self.multiple / 1_000)).min(WINDOW_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(window: &mut SpinWindow, wake_ups: usize, late_us: i64) -> Span {
        (0..wake_ups).for_each(|_| window.woke(Span::from_micros(late_us)));
        window.span()
    }

    #[test]
    fn the_window_follows_the_wake_ups_within_its_limits() {
        let mut window = SpinWindow::new();
        assert_eq!(after(&mut window, WAKE_UPS_MIN - 1, 40), WINDOW_AT_START);
        let first = after(&mut window, 1, 40);
        assert!(first > ROOM + Span::from_micros(110) && first <= ROOM + Span::from_micros(120), "{first:?}");
        // Unfailing, it comes down to twice p90, beside the room; a hopeless host gets all that there is.
        assert_eq!(after(&mut window, 1_000, 40), ROOM + Span::from_micros(80));
        assert_eq!(after(&mut window, WAKE_UPS, 2), ROOM + Span::from_micros(4));
        assert_eq!(after(&mut window, WAKE_UPS, 60_000), WINDOW_MAX);
        assert_eq!(after(&mut window, WAKE_UPS, 2), ROOM + Span::from_micros(4));
    }

    #[test]
    fn single_stolen_time_slices_do_not_widen_the_window() {
        let mut window = SpinWindow::new();
        after(&mut window, 1_000, 30);
        for wake_up in 0..10 * WAKE_UPS {
            window.woke(if wake_up % 20 == 0 { Span::from_millis(20) } else { Span::from_micros(30) });
            assert_eq!(window.span(), ROOM + Span::from_micros(60), "{window:?}");
        }
    }

    #[test]
    fn rare_late_wake_ups_are_hidden_once_they_recur() {
        let mut window = SpinWindow::new();
        let mut missed = 0;
        // One in fifty is ten times as late as the others: p90 does not see it, the window must.
        for wake_up in 0..20_000 {
            let late = Span::from_micros(if wake_up % 50 == 0 { 300 } else { 30 });
            missed += usize::from(wake_up >= 1_000 && late > window.span() - ROOM);
            window.woke(late);
        }
        assert!((1..=95).contains(&missed), "{missed} of 19000 not hidden, 0.5 % at most were meant");
        assert!(
            window.span() > ROOM + Span::from_micros(200) && window.span() < ROOM + Span::from_micros(500),
            "{window:?}"
        );
    }
}
