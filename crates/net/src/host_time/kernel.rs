//! The kernel's clock and what adjtimex(2) says of it.
//!
//! Who keeps the clock writes its greatest error into the kernel (`maxerror`), and the kernel adds 500 ppm of the time
//! since, once a second. chrony's figure contains the correction that it is still slewing in, ntpd's that of its source;
//! what the kernel itself still has to slew in (`offset`) is added here.

use super::{HostSource, HostTime, Unusable};
use crate::host_clock::{HostClock, Sandwich};
use startgun_core::time::Span;

/// `maxerror` is whole microseconds, rounded down by who wrote it.
const ROUNDING: Span = Span::from_micros(1);
/// What a kept clock drifts in the second that the kernel has not counted yet: 15 ppm (PHI of RFC 5905).
const UNCOUNTED: Span = Span::from_micros(15);
/// Around a leap second, the host's clock is not asked: hosts count it at different moments.
const LEAP_MARGIN_S: i64 = 10;

// adjtimex(2): what it returns. libc has these for one C library only.
const TIME_INS: libc::c_int = 1;
const TIME_DEL: libc::c_int = 2;
const TIME_OOP: libc::c_int = 3;
const TIME_WAIT: libc::c_int = 4;
const TIME_ERROR: libc::c_int = 5;

/// What adjtimex(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub state: libc::c_int,
    pub is_unsynchronised: bool,
    pub greatest_error: Span,
    pub estimated_error: Span,
    /// What the kernel still slews in.
    pub remaining: Span,
}

impl Kernel {
    fn ask() -> Result<Kernel, Unusable> {
        // SAFETY: an all-zero timex is a valid value, and with modes 0 the kernel changes nothing.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: `timex` is valid for writing.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        if state < 0 {
            return Err(Unusable::Kernel(std::io::Error::last_os_error().to_string()));
        }
        Ok(Kernel::of(state, &timex))
    }

    pub(super) fn of(state: libc::c_int, timex: &libc::timex) -> Kernel {
        let remaining = match timex.status & libc::STA_NANO {
            0 => Span::from_micros(timex.offset),
            _ => Span::from_nanos(timex.offset),
        };
        Kernel {
            state,
            is_unsynchronised: timex.status & libc::STA_UNSYNC != 0 || state == TIME_ERROR,
            greatest_error: Span::from_micros(timex.maxerror),
            estimated_error: Span::from_micros(timex.esterror),
            remaining: remaining.abs(),
        }
    }

    /// Bound and expected error that follow from the kernel's own figures.
    pub(super) fn errors(&self) -> Result<(Span, Span), Unusable> {
        if self.is_unsynchronised {
            return Err(Unusable::Unsynchronised);
        }
        if self.greatest_error <= Span::ZERO {
            return Err(Unusable::NoError);
        }
        let bound = self.greatest_error + self.remaining + ROUNDING + UNCOUNTED;
        Ok((bound, (self.estimated_error.max(Span::ZERO) + self.remaining + ROUNDING).min(bound)))
    }

    /// Whether a leap second is near, at this realtime.
    pub(super) fn is_leaping(&self, realtime_ns: i64) -> bool {
        let second = realtime_ns.div_euclid(1_000_000_000).rem_euclid(86_400);
        match self.state {
            TIME_INS | TIME_DEL => second >= 86_400 - LEAP_MARGIN_S,
            TIME_OOP => true,
            TIME_WAIT => second < LEAP_MARGIN_S,
            _ => false,
        }
    }
}

/// Reads the kernel's clock, with its own bound or the stated one. Who keeps the clock must be known before.
pub(super) fn read(clock: &HostClock, stated_bound: Option<Span>) -> Result<HostTime, Unusable> {
    // Before and after: the clock may be corrected meanwhile.
    let before = Kernel::ask()?;
    let sandwich = Sandwich::take();
    judge([before, Kernel::ask()?], sandwich, clock, stated_bound)
}

pub(super) fn judge(
    asked: [Kernel; 2],
    sandwich: Sandwich,
    clock: &HostClock,
    stated_bound: Option<Span>,
) -> Result<HostTime, Unusable> {
    if asked.iter().any(|kernel| kernel.is_leaping(sandwich.realtime_ns)) {
        return Err(Unusable::LeapSecond);
    }
    let (bound, expected_error) = match stated_bound {
        Some(bound) => (bound, bound),
        None => {
            let [before, after] = [asked[0].errors()?, asked[1].errors()?];
            (before.0.max(after.0), before.1.max(after.1))
        }
    };
    let at = clock.from_raw(sandwich.raw_ns);
    let read_within = Span::from_nanos(sandwich.half_width_ns);
    Ok(HostTime {
        at,
        utc_minus_local: Span::from_nanos(sandwich.realtime_ns) + clock.realtime_offset()
            - Span::from_nanos(at.as_nanos()),
        bound: bound + read_within,
        expected_error: expected_error + read_within,
        source: HostSource::Kernel,
        stated: stated_bound.is_some(),
    })
}
