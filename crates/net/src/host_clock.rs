//! Reading this host's clock: `CLOCK_MONOTONIC_RAW`, which nobody steps or slews.
//!
//! Kernel packet timestamps are `CLOCK_REALTIME`, sleeps are `CLOCK_MONOTONIC`; both are slewed and the former is
//! set. A *sandwich* (raw, other, raw) tells where the other clock lies on the raw one; the narrowest of three is
//! good to well under a microsecond. How packet timestamps are converted, and when they are not believed, is in
//! [`stamps`].
//!
//! A lab may give a host a false clock ([`Distortion`]): every reading and every timestamp then comes out distorted, and
//! sleeps are undone, so that nothing above this module can tell.

mod stamps;

use crate::check;
pub(crate) use stamps::Sandwich;
use stamps::Stamps;
use startgun_core::time::{LocalTime, Span};
use std::cell::RefCell;
use std::io;

/// Timer slack: the kernel's default of 50 µs is what most sleeps are late by.
const TIMER_SLACK_NS: libc::c_ulong = 1;

/// A false clock: local = raw + offset + (raw − reference) × drift, and from the step's instant on + step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distortion {
    /// Added to every reading.
    pub offset: Span,
    /// Parts per billion that the clock is too fast by; magnitude below 10⁹.
    pub drift_ppb: i64,
    /// Raw nanoseconds at which the drift begins.
    pub reference_raw_ns: i64,
    /// A jump of the clock, once.
    pub step: Option<Step>,
    /// Error of `CLOCK_REALTIME` where it is read for what it says of UTC ([`crate::host_time`]). Packet timestamps are
    /// converted without it.
    pub realtime_offset: Span,
}

/// A jump of a false clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Raw nanoseconds of the first reading after it.
    pub at_raw_ns: i64,
    /// By how much the clock is too late from then on; negative when it jumps back.
    pub by: Span,
}

impl Distortion {
    /// The reading without the step.
    fn unstepped(&self, raw_ns: i64) -> i64 {
        let drifted = i128::from(raw_ns - self.reference_raw_ns) * i128::from(self.drift_ppb);
        raw_ns + self.offset.as_nanos() + drifted.div_euclid(1_000_000_000) as i64
    }

    /// The raw time of a reading without the step: the inverse of [`Distortion::unstepped`] to 1 ns.
    fn raw_unstepped(&self, local_ns: i128) -> i64 {
        let since = local_ns - i128::from(self.offset.as_nanos()) - i128::from(self.reference_raw_ns);
        let scale = 1_000_000_000 + i128::from(self.drift_ppb);
        let raw = i128::from(self.reference_raw_ns) + (since * 1_000_000_000).div_euclid(scale);
        raw.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    fn local_ns(&self, raw_ns: i64) -> i64 {
        let step = self.step.filter(|step| raw_ns >= step.at_raw_ns).map_or(0, |step| step.by.as_nanos());
        self.unstepped(raw_ns) + step
    }

    fn raw_ns(&self, local_ns: i64) -> i64 {
        let Some(step) = self.step else {
            return self.raw_unstepped(i128::from(local_ns));
        };
        if local_ns >= self.local_ns(step.at_raw_ns) {
            let after = self.raw_unstepped(i128::from(local_ns) - i128::from(step.by.as_nanos()));
            return after.max(step.at_raw_ns);
        }
        // A time that a jump forward leaves out comes when the clock jumps.
        self.raw_unstepped(i128::from(local_ns)).min(step.at_raw_ns)
    }
}

/// A packet timestamp on the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// When the kernel took it.
    pub at: LocalTime,
    /// How far the conversion may be off in either direction, as long as slewing changed by at most 500 ppm meanwhile;
    /// for stamps of some microseconds about 0.1 µs.
    pub uncertainty: Span,
}

/// This host's clock. Every thread has its own clone: what is known of other clocks is kept without a lock.
#[derive(Clone, Debug)]
pub struct HostClock {
    distortion: Option<Distortion>,
    stamps: RefCell<Stamps>,
}

impl HostClock {
    /// The host's clock, or a false one.
    pub fn new(distortion: Option<Distortion>) -> Self {
        HostClock { distortion, stamps: RefCell::new(Stamps::new(Sandwich::take())) }
    }

    /// Now.
    pub fn now(&self) -> LocalTime {
        self.from_raw(raw_ns())
    }

    /// The local time at a raw reading.
    pub fn from_raw(&self, raw_ns: i64) -> LocalTime {
        LocalTime::from_nanos(self.distortion.map_or(raw_ns, |false_clock| false_clock.local_ns(raw_ns)))
    }

    /// The raw reading at a local time: the inverse of [`HostClock::from_raw`] to 1 ns. Where a false clock's step lets a
    /// local time come twice, the later one; where it leaves it out, the step's instant.
    pub fn to_raw(&self, local: LocalTime) -> i64 {
        self.distortion.map_or(local.as_nanos(), |false_clock| false_clock.raw_ns(local.as_nanos()))
    }

    /// The local time of a packet timestamp (`CLOCK_REALTIME`); `None` when it cannot be right, or when the clock was
    /// set and the stamp may be from before. Reads four clocks, and a descriptor once in a millisecond.
    pub fn from_realtime(&self, realtime_ns: i64) -> Option<LocalTime> {
        self.stamped(realtime_ns).map(|stamped| stamped.at)
    }

    /// [`HostClock::from_realtime`] with the uncertainty of the conversion.
    pub fn stamped(&self, realtime_ns: i64) -> Option<Stamped> {
        // After the stamp was taken, or a set in between would go unnoticed.
        self.stamped_before(realtime_ns, Sandwich::take())
    }

    /// [`HostClock::stamped`] for one of several stamps, all taken before the clocks were read.
    pub(crate) fn stamped_before(&self, realtime_ns: i64, now: Sandwich) -> Option<Stamped> {
        let converted = self.stamps.borrow_mut().convert(realtime_ns, now)?;
        let uncertainty = Span::from_nanos(converted.uncertainty_ns);
        Some(Stamped { at: self.from_raw(converted.raw_ns), uncertainty })
    }

    /// The `CLOCK_MONOTONIC` nanoseconds at which a sleep until `local` ends.
    pub fn monotonic_deadline(&self, local: LocalTime) -> i64 {
        self.to_raw(local).saturating_sub(sandwich(libc::CLOCK_MONOTONIC))
    }

    /// Greatest rate of a false clock against the true one, in parts per million, rounded up.
    pub(crate) fn false_drift_ppm(&self) -> i64 {
        self.distortion.map_or(0, |false_clock| (false_clock.drift_ppb.abs() + 999) / 1_000)
    }

    /// What `CLOCK_REALTIME` is to be wrong by where it is read for UTC.
    pub(crate) fn realtime_offset(&self) -> Span {
        self.distortion.map_or(Span::ZERO, |false_clock| false_clock.realtime_offset)
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

pub(crate) fn read(clock: libc::clockid_t) -> i64 {
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
        let steps = [None, Some((123_456_790, 1_000_000_000)), Some((123_456_790, -1_000_000_000))];
        for (offset, drift_ppb) in [(0, 0), (3_000_000_000, 50_000), (-7_123_456_789, -48_321)] {
            for step in steps {
                let step = step.map(|(at_raw_ns, by)| Step { at_raw_ns, by: Span::from_nanos(by) });
                let reference_raw_ns = 123_456_789;
                let offset = Span::from_nanos(offset);
                let distortion = Distortion { offset, drift_ppb, reference_raw_ns, step, ..Distortion::default() };
                let clock = HostClock::new(Some(distortion));
                for raw in [0, 1, 999, 123_456_789, 123_456_790, 86_400_000_000_000, 8_640_000_000_000_000] {
                    let back = clock.to_raw(clock.from_raw(raw));
                    let twice = step.is_some_and(|step| step.by < Span::ZERO) && raw < 123_456_790;
                    let expected = if twice { raw + 1_000_000_000 } else { raw };
                    // A backward step's second time, at a rate 50 ppm off, is 50 µs from a second later.
                    let tolerance = if twice { 50_001 } else { 1 };
                    assert!((back - expected).abs() <= tolerance, "{raw} came back as {back}");
                }
                let a_second = clock.from_raw(2_000_000_000) - clock.from_raw(1_000_000_000);
                assert_eq!(a_second.as_nanos() - 1_000_000_000, drift_ppb);
            }
        }
    }

    #[test]
    fn a_step_leaves_a_gap_or_a_repetition() {
        let stepped = |by| {
            let step = Some(Step { at_raw_ns: 1_000, by: Span::from_nanos(by) });
            HostClock::new(Some(Distortion { step, ..Distortion::default() }))
        };
        let forward = stepped(500);
        assert_eq!([999, 1_000].map(|raw| forward.from_raw(raw).as_nanos()), [999, 1_500]);
        let raw = |clock: &HostClock, local| clock.to_raw(LocalTime::from_nanos(local));
        assert_eq!(
            [999, 1_000, 1_499, 1_500, 1_501].map(|local| raw(&forward, local)),
            [999, 1_000, 1_000, 1_000, 1_001]
        );
        let back = stepped(-500);
        assert_eq!([999, 1_000].map(|raw| back.from_raw(raw).as_nanos()), [999, 500]);
        assert_eq!([499, 500, 999, 1_000].map(|local| raw(&back, local)), [499, 1_000, 1_499, 1_500]);
    }

    #[test]
    fn packet_timestamps_land_close_to_now() {
        let offset = Span::from_secs(5);
        let clock = HostClock::new(Some(Distortion { offset, realtime_offset: offset, ..Distortion::default() }));
        let stamp = read(libc::CLOCK_REALTIME);
        let local = clock.from_realtime(stamp).expect("plausible");
        let age = clock.now() - local;
        assert!(age >= Span::ZERO && age < Span::from_millis(500), "{age:?}");
        assert_eq!(clock.from_realtime(stamp - 2_000_000_000), None);
        assert_eq!(clock.from_realtime(stamp + 2_000_000_000), None);
        assert_eq!(clock.from_realtime(i64::MAX), None);
        assert_eq!(clock.from_realtime(i64::MIN), None);
    }

    #[test]
    fn packet_timestamps_are_converted_within_what_is_said() {
        let clock = HostClock::new(None);
        for wait_us in [0, 0, 0, 300, 2_000, 20, 0, 5_000, 0] {
            let before = clock.now();
            let stamp = read(libc::CLOCK_REALTIME);
            let after = clock.now();
            std::thread::sleep(std::time::Duration::from_micros(wait_us));
            let Stamped { at, uncertainty } = clock.clone().stamped(stamp).expect("a stamp");
            assert!(at >= before - uncertainty && at <= after + uncertainty, "{before:?} {at:?} {after:?}");
        }
    }

    #[test]
    fn a_sleep_ends_after_its_deadline() {
        let clock = HostClock::new(None);
        let until = clock.now() + Span::from_millis(3);
        sleep_until_monotonic(clock.monotonic_deadline(until));
        assert!(clock.now() >= until - Span::from_micros(5));
        sleep_until_monotonic(-5);
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p startgun-net -- --ignored --nocapture conversions"]
    fn conversions_cost() {
        let clock = HostClock::new(None);
        let (mut uncertainties, begin) = (Vec::new(), raw_ns());
        for _ in 0..1_000_000 {
            let stamp = read(libc::CLOCK_REALTIME);
            uncertainties.extend(clock.stamped(stamp).map(|stamped| stamped.uncertainty));
        }
        let each = (raw_ns() - begin) / 1_000_000;
        uncertainties.sort_unstable();
        println!("{each} ns each, uncertainty p50 {:?}", uncertainties[uncertainties.len() / 2]);
        println!("p99.9 {:?}, {} converted", uncertainties[uncertainties.len() * 999 / 1_000], uncertainties.len());
    }
}
