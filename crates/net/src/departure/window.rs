//! How long before a call the thread stops sleeping and spins.
//!
//! A sleep ends late, by 30 µs at the median on a virtual machine and by a few on bare metal. Spinning over that time
//! hides it, and costs a processor. The window therefore follows what this host shows: a multiple of the 90th
//! percentile of recent wake-ups. Were it the percentile itself, one departure in ten would be late; the 99th percentile is
//! what has to fit, but it takes hundreds of wake-ups to measure, and one stolen time slice moves it by milliseconds.

use super::recent::Recent;
use startgun_core::time::Span;

/// Wake-ups that count: six of them are above the 90th percentile, so that a stolen time slice or two do not move it.
const WAKE_UPS: usize = 64;
/// Fewer say nothing yet.
const WAKE_UPS_MIN: usize = 16;
/// Three times the 90th percentile. Measured: p99 was 1.9 times p90 (85 and 46 µs, a busy virtual machine); half as much
/// again is for hours that are worse.
const MULTIPLE: i64 = 3;
/// Room to prepare (20 µs, see the worker) and some more.
pub(super) const WINDOW_MIN: Span = Span::from_micros(30);
/// At one departure a second 0.1 % of a processor. Who is woken later than this is late.
pub(super) const WINDOW_MAX: Span = Span::from_millis(1);
/// Before anything is known: five times the slowest median that was measured.
const WINDOW_AT_START: Span = Span::from_micros(500);

/// The spin window, from measured wake-ups.
#[derive(Debug)]
pub(super) struct SpinWindow {
    lateness: Recent<WAKE_UPS>,
    span: Span,
}

impl SpinWindow {
    pub(super) fn new() -> Self {
        SpinWindow { lateness: Recent::new(), span: WINDOW_AT_START }
    }

    /// The window now.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Notes by how much a sleep ended late.
    pub(super) fn woke(&mut self, late: Span) {
        self.lateness.add(late);
        if self.lateness.count() >= WAKE_UPS_MIN {
            let p90 = self.lateness.quantile(90).min(WINDOW_MAX);
            self.span = Span::from_nanos(p90.as_nanos() * MULTIPLE).clamp(WINDOW_MIN, WINDOW_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_wake_ups_within_its_limits() {
        let mut window = SpinWindow::new();
        let mut after = |wake_ups: usize, late_us: i64| {
            (0..wake_ups).for_each(|_| window.woke(Span::from_micros(late_us)));
            window.span()
        };
        assert_eq!(after(WAKE_UPS_MIN - 1, 40), WINDOW_AT_START);
        assert_eq!(after(1, 40), Span::from_micros(120));
        // A host that is quick and one that is hopeless.
        assert_eq!(after(WAKE_UPS, 2), WINDOW_MIN);
        assert_eq!(after(WAKE_UPS, 60_000), WINDOW_MAX);
        assert_eq!(after(WAKE_UPS, 40), Span::from_micros(120));
    }

    #[test]
    fn single_stolen_time_slices_do_not_widen_the_window() {
        let mut window = SpinWindow::new();
        for wake_up in 0..10 * WAKE_UPS {
            window.woke(if wake_up % 20 == 0 { Span::from_millis(20) } else { Span::from_micros(30) });
            assert!(wake_up < 2 * WAKE_UPS_MIN || window.span() == Span::from_micros(90), "{window:?}");
        }
    }
}
