//! Reading this host's clock: `CLOCK_MONOTONIC_RAW`, which nobody steps or slews.
//!
//! Kernel packet timestamps are `CLOCK_REALTIME`, sleeps are `CLOCK_MONOTONIC`; both are slewed and the former is
//! stepped. A *sandwich* (raw, other, raw) tells where the other clock lies on the raw one; the narrowest of three is
//! good to well under a microsecond.
//!
//! A lab may give a host a false clock ([`Distortion`]): every reading and every timestamp then comes out distorted, and
//! sleeps are undone, so that nothing above this module can tell.

use crate::check;
use startgun_core::time::{LocalTime, Span};
use std::cell::Cell;
use std::io;

/// How long a mapping between two clocks is used: at a slew of 500 ppm it is 5 µs off by then.
const MAPPING_LIFE_NS: i64 = 10_000_000;
/// A packet timestamp further than this from now is not believed: `CLOCK_REALTIME` was stepped in between.
const STAMP_AGE_NS_MAX: i64 = 1_000_000_000;
/// Timer slack: the kernel's default of 50 µs is what most sleeps are late by.
const TIMER_SLACK_NS: libc::c_ulong = 1;

/// A false clock: local = raw + offset + (raw − reference) × drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distortion {
    /// Added to every reading.
    pub offset: Span,
    /// Parts per billion that the clock is too fast by; magnitude below 10⁹.
    pub drift_ppb: i64,
    /// Raw nanoseconds at which the drift begins.
    pub reference_raw_ns: i64,
}

/// This host's clock. Every thread has its own clone: the mapping to other clocks is cached without a lock.
#[derive(Clone, Debug)]
pub struct HostClock {
    distortion: Option<Distortion>,
    /// Raw − realtime, and the raw time at which it was found.
    realtime: Cell<(i64, i64)>,
}

impl HostClock {
    /// The host's clock, or a false one.
    pub fn new(distortion: Option<Distortion>) -> Self {
        HostClock { distortion, realtime: Cell::new((0, i64::MIN / 2)) }
    }

    /// Now.
    pub fn now(&self) -> LocalTime {
        self.from_raw(raw_ns())
    }

    /// The local time at a raw reading.
    pub fn from_raw(&self, raw_ns: i64) -> LocalTime {
        LocalTime::from_nanos(match self.distortion {
            None => raw_ns,
            Some(false_clock) => {
                let drifted = i128::from(raw_ns - false_clock.reference_raw_ns) * i128::from(false_clock.drift_ppb);
                raw_ns + false_clock.offset.as_nanos() + drifted.div_euclid(1_000_000_000) as i64
            }
        })
    }

    /// The raw reading at a local time: the inverse of [`HostClock::from_raw`] to 1 ns.
    pub fn to_raw(&self, local: LocalTime) -> i64 {
        match self.distortion {
            None => local.as_nanos(),
            Some(false_clock) => {
                let since = i128::from(local.as_nanos())
                    - i128::from(false_clock.offset.as_nanos())
                    - i128::from(false_clock.reference_raw_ns);
                let scale = 1_000_000_000 + i128::from(false_clock.drift_ppb);
                let raw = false_clock.reference_raw_ns as i128 + (since * 1_000_000_000).div_euclid(scale);
                raw.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
            }
        }
    }

    /// The local time of a packet timestamp (`CLOCK_REALTIME`); `None` when it cannot be right.
    pub fn from_realtime(&self, realtime_ns: i64) -> Option<LocalTime> {
        let now = raw_ns();
        let (offset, found_at) = self.realtime.get();
        let offset = if now - found_at > MAPPING_LIFE_NS {
            let offset = sandwich(libc::CLOCK_REALTIME);
            self.realtime.set((offset, now));
            offset
        } else {
            offset
        };
        let raw = realtime_ns.checked_add(offset)?;
        // A little ahead of now is the mapping's own error.
        let plausible = raw <= now + MAPPING_LIFE_NS / 1_000 && now - raw < STAMP_AGE_NS_MAX;
        plausible.then(|| self.from_raw(raw.min(now)))
    }

    /// The `CLOCK_MONOTONIC` nanoseconds at which a sleep until `local` ends.
    pub fn monotonic_deadline(&self, local: LocalTime) -> i64 {
        self.to_raw(local).saturating_sub(sandwich(libc::CLOCK_MONOTONIC))
    }
}

/// `CLOCK_MONOTONIC_RAW`, in nanoseconds.
pub fn raw_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC_RAW)
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
pub fn monotonic_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing, and the clocks asked for exist on every Linux.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(result, 0);
    nanos(&time)
}

pub(crate) fn nanos(time: &libc::timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Raw − `other`, by the narrowest of three sandwiches.
fn sandwich(other: libc::clockid_t) -> i64 {
    let one = || {
        let before = raw_ns();
        let between = read(other);
        let after = raw_ns();
        (after - before, before + (after - before) / 2 - between)
    };
    [one(), one(), one()].into_iter().min().map_or(0, |(_, offset)| offset)
}

/// This boot's id.
///
/// # Errors
/// Where the kernel does not tell it, or not as a UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(id.to_be_bytes())
}

/// Sleeps until `CLOCK_MONOTONIC` shows `deadline_ns`; at once when that has passed.
pub fn sleep_until_monotonic(deadline_ns: i64) {
    let deadline = libc::timespec {
        tv_sec: deadline_ns.div_euclid(1_000_000_000),
        tv_nsec: deadline_ns.rem_euclid(1_000_000_000),
    };
    if deadline_ns <= 0 {
        return;
    }
    loop {
        // SAFETY: `deadline` is valid for reading; with TIMER_ABSTIME the remainder may be null.
        let result = unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const deadline, std::ptr::null_mut())
        };
        if result != libc::EINTR {
            return;
        }
    }
}

/// Lets this thread's sleeps end without the kernel's slack.
///
/// # Errors
/// The kernel's.
pub fn set_timer_slack() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS) }).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_false_clock_is_undone_exactly() {
        for (offset, drift_ppb) in [(0, 0), (3_000_000_000, 50_000), (-7_123_456_789, -48_321)] {
            let distortion = Distortion { offset: Span::from_nanos(offset), drift_ppb, reference_raw_ns: 123_456_789 };
            let clock = HostClock::new(Some(distortion));
            for raw in [0, 1, 999, 123_456_789, 86_400_000_000_000, 8_640_000_000_000_000] {
                let back = clock.to_raw(clock.from_raw(raw));
                assert!((back - raw).abs() <= 1, "{raw} came back as {back}");
            }
            let a_second = clock.from_raw(2_000_000_000) - clock.from_raw(1_000_000_000);
            assert_eq!(a_second.as_nanos() - 1_000_000_000, drift_ppb);
        }
    }

    #[test]
    fn packet_timestamps_land_close_to_now() {
        let clock = HostClock::new(Some(Distortion { offset: Span::from_secs(5), drift_ppb: 0, reference_raw_ns: 0 }));
        let stamp = read(libc::CLOCK_REALTIME);
        let local = clock.from_realtime(stamp).expect("plausible");
        let age = clock.now() - local;
        assert!(age >= Span::ZERO && age < Span::from_millis(500), "{age:?}");
        assert_eq!(clock.from_realtime(stamp - 2_000_000_000), None);
        assert_eq!(clock.from_realtime(stamp + 2_000_000_000), None);
        assert_eq!(clock.from_realtime(i64::MAX), None);
    }

    #[test]
    fn a_sleep_ends_after_its_deadline() {
        let clock = HostClock::new(None);
        let until = clock.now() + Span::from_millis(3);
        sleep_until_monotonic(clock.monotonic_deadline(until));
        assert!(clock.now() >= until - Span::from_micros(5));
        sleep_until_monotonic(-5);
    }
}
