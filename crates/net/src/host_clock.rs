//! This host's clock, and the crossings between it and the kernel's other clocks.
//!
//! **Problem.** [`LocalTime`] is `CLOCK_MONOTONIC_RAW`: the only clock that nobody slews. But the kernel stamps packets
//! in `CLOCK_REALTIME` and sleeps on `CLOCK_MONOTONIC`, and both are slewed (and the first is stepped) by chrony.
//!
//! **Why the obvious answer fails.** The difference of two readings taken one after the other is wrong by whatever
//! happened between them, on a busy machine a whole time slice; a difference taken once at start is wrong as soon as the
//! time daemon moves.
//!
//! **Sketch.** Read RAW, the other clock, RAW again: the other reading belongs to the middle, wrong by at most half the
//! width. Take the narrowest of [`SANDWICHES`]. A mapping from REALTIME is kept [`MAPPING_AGE_MAX_NS`], so a packet costs
//! one RAW reading and a step of REALTIME misleads for at most that long; a mapping that does not continue the previous
//! one counts as a step ([`HostClock::realtime_steps`]) and packet stamps near it are not believed
//! ([`HostClock::packet_stamp`]).
//!
//! A [`Distortion`] makes a clock wrong on purpose, so that the lab, whose hosts share one kernel, really tests
//! synchronisation.

use std::io;
use std::sync::{Mutex, PoisonError};

use startgun_core::time::{LocalTime, Span};

/// How long a mapping from REALTIME is used, in nanoseconds: 1 ms at 500 ppm of slewing is 0.5 ns of error.
pub const MAPPING_AGE_MAX_NS: i64 = 1_000_000;

/// Readings from which the narrowest is taken: one that was interrupted is rare, three in a row are no accident.
pub const SANDWICHES: usize = 3;

/// How far two mappings may differ before it counts as a step, beside [`SLEW_PPM_MAX`]: 0.1 ms, which covers the widths
/// of two sandwiches of which all three readings were interrupted.
const STEP_NS_MIN: i64 = 100_000;

/// The fastest slewing that is not a step: chrony's `maxslewrate` of 83,333 ppm and the kernel's own 500, rounded up.
const SLEW_PPM_MAX: i64 = 100_000;

/// Packet stamps are not believed this long after a step: what was stamped before it has been read by then.
const STEP_DOUBT_NS: i64 = 100_000_000;

/// A false clock for the lab: local = raw + offset + (raw − reference) × drift / 10⁹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distortion {
    /// What the clock is ahead by at the reference.
    pub offset: Span,
    /// How much too fast it runs, in nanoseconds per second; at most ±100,000,000 (10 %).
    pub drift_ppb: i64,
    /// The `CLOCK_MONOTONIC_RAW` reading, in nanoseconds, at which the clock is ahead by exactly `offset`.
    pub reference_raw_ns: i64,
}

/// Largest drift of a [`Distortion`], in nanoseconds per second.
pub const DRIFT_PPB_MAX: i64 = 100_000_000;

/// One pair of readings: `other` was read while RAW was within `width_ns / 2` of `raw_ns`.
#[derive(Clone, Copy, Debug)]
struct Sandwich {
    raw_ns: i64,
    other_ns: i64,
    width_ns: i64,
}

impl Sandwich {
    fn read(other: libc::clockid_t) -> Self {
        let one = || {
            let before_ns = read_clock(libc::CLOCK_MONOTONIC_RAW);
            let other_ns = read_clock(other);
            let after_ns = read_clock(libc::CLOCK_MONOTONIC_RAW);
            let width_ns = after_ns - before_ns;
            Self { raw_ns: before_ns + width_ns / 2, other_ns, width_ns }
        };
        let mut best = one();
        for _ in 1..SANDWICHES {
            let next = one();
            if next.width_ns < best.width_ns {
                best = next;
            }
        }
        best
    }

    /// What to add to the other clock's reading to get RAW's.
    fn to_raw_ns(self) -> i64 {
        self.raw_ns - self.other_ns
    }
}

/// What is remembered of REALTIME between packets.
#[derive(Clone, Copy, Debug, Default)]
struct Realtime {
    /// `None` before the first use.
    mapping: Option<Sandwich>,
    steps: u64,
    doubtful_until_raw_ns: i64,
}

impl Realtime {
    /// Takes a new mapping, and notices when it does not continue the old one.
    fn refresh(&mut self) -> Sandwich {
        let fresh = Sandwich::read(libc::CLOCK_REALTIME);
        self.replace(fresh);
        fresh
    }

    fn replace(&mut self, fresh: Sandwich) {
        if let Some(old) = self.mapping {
            let moved_ns = (fresh.to_raw_ns() - old.to_raw_ns()).abs();
            let elapsed_ns = (fresh.raw_ns - old.raw_ns).max(0);
            let slewed_ns = elapsed_ns / 1_000_000 * SLEW_PPM_MAX + SLEW_PPM_MAX;
            if moved_ns > STEP_NS_MIN + slewed_ns {
                self.steps += 1;
                self.doubtful_until_raw_ns = fresh.raw_ns + STEP_DOUBT_NS;
            }
        }
        self.mapping = Some(fresh);
    }

    fn mapping(&mut self, raw_now_ns: i64) -> Sandwich {
        match self.mapping {
            Some(mapping) if (0..=MAPPING_AGE_MAX_NS).contains(&(raw_now_ns - mapping.raw_ns)) => {
                mapping
            }
            _ => self.refresh(),
        }
    }
}

/// This host's clock. Each clone keeps its own mapping from REALTIME: give every thread one.
#[derive(Debug)]
pub struct HostClock {
    distortion: Option<Distortion>,
    realtime: Mutex<Realtime>,
}

impl Clone for HostClock {
    fn clone(&self) -> Self {
        Self::new(self.distortion)
    }
}

impl HostClock {
    /// The host's clock, or with a `distortion` a false one.
    ///
    /// # Panics
    /// When the distortion's drift is beyond ±[`DRIFT_PPB_MAX`].
    pub fn new(distortion: Option<Distortion>) -> Self {
        if let Some(distortion) = distortion {
            assert!(
                distortion.drift_ppb.abs() <= DRIFT_PPB_MAX,
                "drift {} ppb: expected at most {DRIFT_PPB_MAX}",
                distortion.drift_ppb
            );
        }
        Self { distortion, realtime: Mutex::new(Realtime::default()) }
    }

    /// The distortion given at the start.
    pub fn distortion(&self) -> Option<Distortion> {
        self.distortion
    }

    /// The time now: `CLOCK_MONOTONIC_RAW`, distorted.
    pub fn now(&self) -> LocalTime {
        self.from_raw(raw_now_ns())
    }

    /// The local time of a `CLOCK_MONOTONIC_RAW` reading in nanoseconds.
    #[expect(clippy::wrong_self_convention, reason = "it converts by this clock, not into it")]
    pub fn from_raw(&self, raw_ns: i64) -> LocalTime {
        let Some(distortion) = self.distortion else {
            return LocalTime::from_nanos(raw_ns);
        };
        let since = i128::from(raw_ns) - i128::from(distortion.reference_raw_ns);
        let drifted = (since * i128::from(distortion.drift_ppb)).div_euclid(1_000_000_000);
        let local = i128::from(raw_ns) + i128::from(distortion.offset.as_nanos()) + drifted;
        LocalTime::from_nanos(saturate(local))
    }

    /// The `CLOCK_MONOTONIC_RAW` reading at a local time, in nanoseconds: the inverse of [`HostClock::from_raw`] to 1 ns.
    pub fn to_raw(&self, local: LocalTime) -> i64 {
        let Some(distortion) = self.distortion else {
            return local.as_nanos();
        };
        let reference = i128::from(distortion.reference_raw_ns);
        let since = i128::from(local.as_nanos())
            - i128::from(distortion.offset.as_nanos())
            - reference;
        let rate = 1_000_000_000 + i128::from(distortion.drift_ppb);
        saturate(reference + (since * 1_000_000_000 + rate / 2).div_euclid(rate))
    }

    /// The local time of a `CLOCK_REALTIME` reading, in nanoseconds since 1970, taken a short while ago.
    ///
    /// Wrong by the width of a sandwich (well below 1 µs) plus REALTIME's slewing since then. After a step of REALTIME it
    /// is wrong by the step for [`MAPPING_AGE_MAX_NS`]; for packet stamps use [`HostClock::packet_stamp`].
    #[expect(clippy::wrong_self_convention, reason = "it converts by this clock, not into it")]
    pub fn from_realtime(&self, realtime_ns: i64) -> LocalTime {
        let mut realtime = self.realtime.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = realtime.mapping(raw_now_ns());
        self.from_raw(realtime_ns.saturating_add(mapping.to_raw_ns()))
    }

    /// The local time of a packet's kernel timestamp (`CLOCK_REALTIME`, nanoseconds since 1970), or `None` when it cannot
    /// be believed: it would lie in the future, or REALTIME stepped within the last 100 ms.
    pub fn packet_stamp(&self, realtime_ns: i64) -> Option<LocalTime> {
        let mut realtime = self.realtime.lock().unwrap_or_else(PoisonError::into_inner);
        let raw_now = raw_now_ns();
        let mut mapping = realtime.mapping(raw_now);
        let mut raw_ns = realtime_ns.saturating_add(mapping.to_raw_ns());
        // A packet that was read cannot have been stamped later than now: either the mapping is stale or the stamp is of
        // the time before a step. Half the sandwich is the mapping's honest error.
        if raw_ns > raw_now + mapping.width_ns {
            mapping = realtime.refresh();
            raw_ns = realtime_ns.saturating_add(mapping.to_raw_ns());
            if raw_ns > mapping.raw_ns + mapping.width_ns {
                return None;
            }
        }
        if raw_now < realtime.doubtful_until_raw_ns {
            return None;
        }
        Some(self.from_raw(raw_ns))
    }

    /// How many steps of REALTIME this clone has noticed.
    pub fn realtime_steps(&self) -> u64 {
        self.realtime.lock().unwrap_or_else(PoisonError::into_inner).steps
    }

    /// `CLOCK_REALTIME` at a local time near now, in nanoseconds since 1970: for logs and reports.
    pub fn to_realtime(&self, local: LocalTime) -> i64 {
        let mut realtime = self.realtime.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = realtime.mapping(raw_now_ns());
        self.to_raw(local).saturating_sub(mapping.to_raw_ns())
    }

    /// The `CLOCK_MONOTONIC` reading, in nanoseconds, at which to wake for a local time.
    ///
    /// A fresh sandwich each time; MONOTONIC is slewed by up to 500 ppm (more while chrony catches up), so a deadline
    /// 1 s away can be 0.5 ms wrong: wake some per cent earlier and ask again. [`LocalTime::MAX`] gives [`i64::MAX`].
    pub fn monotonic_deadline(&self, at: LocalTime) -> i64 {
        let mapping = Sandwich::read(libc::CLOCK_MONOTONIC);
        self.to_raw(at).saturating_sub(mapping.to_raw_ns())
    }
}

/// `CLOCK_MONOTONIC_RAW` now, in nanoseconds.
pub fn raw_now_ns() -> i64 {
    read_clock(libc::CLOCK_MONOTONIC_RAW)
}

/// `CLOCK_MONOTONIC` now, in nanoseconds.
pub fn monotonic_now_ns() -> i64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME` now, in nanoseconds since 1970.
pub fn realtime_now_ns() -> i64 {
    read_clock(libc::CLOCK_REALTIME)
}

/// The identifier that the kernel drew when it booted: it stands for one run of the raw clock.
///
/// # Errors
/// When `/proc/sys/kernel/random/boot_id` cannot be read, or (`InvalidData`) is not a UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).map_err(|error| crate::explain(error, PATH))?;
    parse_uuid(text.trim()).ok_or_else(|| {
        let message = format!("{PATH}: found {:?}, expected a UUID", text.trim());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Sleeps until `CLOCK_MONOTONIC` reads `deadline_ns`; at once when that is past. Signals do not cut it short.
pub fn sleep_until_monotonic(deadline_ns: i64) {
    let until = timespec(deadline_ns.max(0));
    loop {
        // SAFETY: the pointer is to a timespec alive during the call; an absolute sleep writes no remainder.
        let result = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const until,
                std::ptr::null_mut(),
            )
        };
        if result != libc::EINTR {
            return;
        }
    }
}

/// Sets the calling thread's timer slack to 1 ns, from the default of 50 µs; threads it starts afterwards inherit that.
///
/// # Errors
/// The system call's error (none is known for this request).
pub fn set_timer_slack_1ns() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes one number and no pointers.
    crate::check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) })?;
    Ok(())
}

/// A non-negative number of nanoseconds as the kernel wants it.
pub(crate) fn timespec(nanos: i64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as _,
    }
}

/// The nanoseconds of a kernel time, saturating.
pub(crate) fn nanos(time: libc::timespec) -> i64 {
    (time.tv_sec as i64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as i64)
}

fn read_clock(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec alive during the call. The three clocks read here exist on every Linux, so the
    // call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    nanos(now)
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    let mut digits = text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16));
    for byte in &mut id {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    digits.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn false_clock(offset: Span, drift_ppb: i64) -> HostClock {
        let reference_raw_ns = raw_now_ns();
        HostClock::new(Some(Distortion { offset, drift_ppb, reference_raw_ns }))
    }

    #[test]
    fn a_distorted_clock_is_ahead_by_its_offset_and_drifts() {
        let clock = false_clock(Span::from_secs(-3), 50_000);
        let reference = clock.distortion().unwrap().reference_raw_ns;
        assert_eq!(clock.from_raw(reference).as_nanos(), reference - 3_000_000_000);
        // 50 ppm of 10 s are 500 µs.
        let later = clock.from_raw(reference + 10_000_000_000);
        assert_eq!(later.as_nanos(), reference + 7_000_000_000 + 500_000);
    }

    #[test]
    fn raw_and_local_are_inverse_to_one_nanosecond() {
        for drift_ppb in [-DRIFT_PPB_MAX, -37_123, 0, 1, 99_999, DRIFT_PPB_MAX] {
            let clock = false_clock(Span::from_nanos(5_123_456_789), drift_ppb);
            let reference = clock.distortion().unwrap().reference_raw_ns;
            for since in [-9_876_543_210_i64, -1, 0, 1, 2, 3, 1_000_000_007, 86_400_000_000_000] {
                let raw = reference + since;
                let back = clock.to_raw(clock.from_raw(raw));
                assert!((back - raw).abs() <= 1, "drift {drift_ppb}, since {since}: {}", back - raw);
            }
        }
    }

    #[test]
    fn realtime_crosses_to_the_local_time_of_the_same_moment() {
        for clock in [HostClock::new(None), false_clock(Span::from_secs(11), 80_000)] {
            for _ in 0..100 {
                let before = clock.now();
                let realtime_ns = realtime_now_ns();
                let after = clock.now();
                let local = clock.from_realtime(realtime_ns);
                let margin = Span::from_micros(200);
                assert!(local >= before - margin && local <= after + margin);
                assert!((clock.to_realtime(local) - realtime_ns).abs() <= 200_000);
            }
            assert_eq!(clock.realtime_steps(), 0);
        }
    }

    #[test]
    fn a_stamp_in_the_future_is_not_believed_and_one_of_the_past_is() {
        let clock = HostClock::new(None);
        assert_eq!(clock.packet_stamp(realtime_now_ns() + 50_000_000), None);
        let stamp = clock.packet_stamp(realtime_now_ns() - 50_000_000).unwrap();
        let age = clock.now() - stamp;
        assert!(age >= Span::from_millis(50) && age < Span::from_millis(500), "{age}");
    }

    #[test]
    fn a_mapping_that_jumps_is_a_step_and_makes_stamps_doubtful() {
        let clock = HostClock::new(None);
        clock.from_realtime(realtime_now_ns());
        {
            // As if REALTIME had stood 20 ms elsewhere at the last refresh, 5 ms ago.
            let mut realtime = clock.realtime.lock().unwrap();
            let mapping = realtime.mapping.as_mut().unwrap();
            mapping.raw_ns -= 5_000_000;
            mapping.other_ns -= 25_000_000;
        }
        assert_eq!(clock.packet_stamp(realtime_now_ns()), None);
        assert_eq!(clock.realtime_steps(), 1);
        clock.realtime.lock().unwrap().doubtful_until_raw_ns = raw_now_ns();
        assert!(clock.packet_stamp(realtime_now_ns()).is_some());
        assert_eq!(clock.realtime_steps(), 1);
    }

    #[test]
    fn sleeping_to_a_local_deadline_does_not_end_before_it() {
        set_timer_slack_1ns().unwrap();
        let clock = false_clock(Span::from_secs(-7), 20_000);
        let at = clock.now() + Span::from_millis(5);
        sleep_until_monotonic(clock.monotonic_deadline(at));
        let lateness = clock.now() - at;
        // MONOTONIC may be slewed against RAW by 500 ppm: 2.5 µs in 5 ms.
        assert!(lateness > Span::from_micros(-50), "woke {lateness} late");
        assert_eq!(HostClock::new(None).monotonic_deadline(LocalTime::MAX).max(i64::MAX / 2), HostClock::new(None).monotonic_deadline(LocalTime::MAX));
    }

    #[test]
    fn the_boot_id_is_a_uuid_that_stays() {
        let id = boot_id().unwrap();
        assert_ne!(id, [0; 16]);
        assert_eq!(id, boot_id().unwrap());
        assert_eq!(parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap()[15], 0xff);
        for wrong in ["", "00112233", "0011223344556677-8899-aabbccddeeff00", "x0112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(parse_uuid(wrong), None, "{wrong:?}");
        }
    }
}
