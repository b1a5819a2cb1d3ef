//! Packet timestamps are `CLOCK_REALTIME`; this puts them on the raw clock.
//!
//! `CLOCK_REALTIME` is slewed, and it is set. Slewing: each conversion reads both clocks anew (a *sandwich*), and the
//! stamp is interpolated between this reading and earlier ones, so that only a *change* of the slewing rate between two
//! readings is an error. A mapping kept for 10 ms would be 5 µs off at 500 ppm.
//!
//! Setting: `CLOCK_REALTIME − CLOCK_MONOTONIC` is constant to the nanosecond while nobody sets the clock, because both
//! are slewed alike. A sandwich that holds all three clocks therefore shows a set of a microsecond and more, however
//! long ago the last one was taken. Because the sandwich is newer than every stamp that it converts, no stamp is converted
//! across a set that it does not know. What it cannot show, a clock set away and back in between, is what a timer tells
//! that the kernel cancels when the clock is set (`TFD_TIMER_CANCEL_ON_SET`).
//!
//! After a set, a stamp from before cannot be told from one that was taken later, if its packet waited for as long as the
//! clock was set back. Such stamps are not believed: the user-space reading, which is later, stays sound.

use super::read;
use crate::check;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A stamp older than this is not believed: no packet waits that long for a thread that is well.
pub(super) const AGE_NS_MAX: i64 = 1_000_000_000;
/// Least distance between two sandwiches that are kept: their errors of some 50 ns then are 50 ppm of slope.
const SPACING_NS: i64 = 1_000_000;
/// Sandwiches kept: the last 8 ms of a busy thread, which a batch of packets does not outlast.
const KEPT: usize = 8;
/// A sandwich no wider than this is taken at once; else the narrowest of three. Four clock readings take 0.1 µs.
const NARROW_NS: i64 = 500;
/// Least set that is noticed, beyond the sandwiches' widths: what stays unnoticed is an error of a microsecond.
const SET_NS_MIN: i64 = 1_000;
/// A cancelled timer tells of the set that was noticed already when it comes within this: the kernel first sets the
/// clock, then cancels timers; a leap second's notice takes the way over a work queue.
const NOTICE_LAG_NS: i64 = 20_000_000;
/// By how many parts per million the slewing rate may change between two sandwiches: from nothing to the most that
/// `adjtimex` takes as a frequency.
const SLEW_CHANGE_PPM: i64 = 500;
/// Seconds since 1970 at which the watching timer would expire: i64::MAX nanoseconds, in 2262.
const NEVER_S: libc::time_t = i64::MAX / 1_000_000_000;

/// The clocks at one moment, as well as three readings after each other can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sandwich {
    /// The middle of the two raw readings.
    pub raw_ns: i64,
    /// Half of their distance, rounded up: the other clocks were read no further away.
    pub half_width_ns: i64,
    pub realtime_ns: i64,
    /// `CLOCK_REALTIME − CLOCK_MONOTONIC`, up to twice the half width too large.
    pub set_ns: i64,
}

impl Sandwich {
    /// Reads the clocks, again when something came in between.
    pub fn take() -> Self {
        let mut narrowest = Self::take_one();
        for _ in 1..3 {
            if 2 * narrowest.half_width_ns <= NARROW_NS {
                break;
            }
            let other = Self::take_one();
            if other.half_width_ns < narrowest.half_width_ns {
                narrowest = other;
            }
        }
        narrowest
    }

    fn take_one() -> Self {
        let before = read(libc::CLOCK_MONOTONIC_RAW);
        let monotonic = read(libc::CLOCK_MONOTONIC);
        let realtime = read(libc::CLOCK_REALTIME);
        let width = read(libc::CLOCK_MONOTONIC_RAW) - before;
        Sandwich {
            raw_ns: before + width / 2,
            half_width_ns: width / 2 + 1,
            realtime_ns: realtime,
            set_ns: realtime - monotonic,
        }
    }

    /// Raw − realtime.
    fn offset(&self) -> i64 {
        self.raw_ns - self.realtime_ns
    }
}

/// A converted stamp: the raw reading, and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Converted {
    pub raw_ns: i64,
    pub uncertainty_ns: i64,
}

/// What is known of `CLOCK_REALTIME`. One per thread: nothing is shared.
#[derive(Debug)]
pub(super) struct Stamps {
    /// Oldest first, at most [`KEPT`], all since the clock was last set.
    kept: Vec<Sandwich>,
    /// Stamps of earlier raw times are not believed.
    believed_from_raw_ns: i64,
    /// When a set was last noticed by its size.
    set_noticed_raw_ns: i64,
    /// Made at the first conversion, so that clocks that convert nothing cost no descriptor; `None` inside where the
    /// kernel gave none, and then sizes alone tell.
    watch: Option<Option<Watch>>,
}

impl Clone for Stamps {
    /// The same knowledge with a watch of its own: the kernel tells each timer once.
    fn clone(&self) -> Self {
        Stamps { kept: self.kept.clone(), watch: None, ..*self }
    }
}

impl Stamps {
    pub fn new(now: Sandwich) -> Self {
        let mut kept = Vec::with_capacity(KEPT);
        kept.push(now);
        Stamps { kept, believed_from_raw_ns: i64::MIN, set_noticed_raw_ns: i64::MIN / 2, watch: None }
    }

    /// The raw reading at a stamp, seen at `now`; `None` when it cannot be known or cannot be right.
    pub fn convert(&mut self, realtime_ns: i64, now: Sandwich) -> Option<Converted> {
        let is_due = self.kept.last().is_none_or(|last| now.raw_ns - last.raw_ns >= SPACING_NS);
        let was_set = is_due && self.watch.get_or_insert_with(Watch::new).as_ref().is_some_and(Watch::was_set);
        self.note(now, was_set);
        self.converted(realtime_ns, now)
    }

    /// Takes a new sandwich in; `was_set` when the kernel told that somebody set the clock.
    fn note(&mut self, now: Sandwich, was_set: bool) {
        let Some(last) = self.kept.last() else {
            return self.kept.push(now);
        };
        let slack = 2 * (now.half_width_ns + last.half_width_ns) + SET_NS_MIN;
        let set_by = now.set_ns - last.set_ns;
        // Set back by B, a stamp from before looks B later than it was. By how much it was set away and back is unknown.
        let looks_later = if set_by.abs() > slack {
            self.set_noticed_raw_ns = now.raw_ns;
            (-set_by).max(0)
        } else if was_set && now.raw_ns - self.set_noticed_raw_ns > NOTICE_LAG_NS {
            AGE_NS_MAX
        } else {
            if now.raw_ns - last.raw_ns >= SPACING_NS {
                if self.kept.len() >= KEPT {
                    self.kept.remove(0);
                }
                self.kept.push(now);
            }
            return;
        };
        // What was not believed before the set looks later by as much.
        let believed_from = self.believed_from_raw_ns.max(now.raw_ns + slack).saturating_add(looks_later);
        self.believed_from_raw_ns = believed_from.min(now.raw_ns + AGE_NS_MAX);
        self.kept.clear();
        self.kept.push(now);
    }

    fn converted(&self, realtime_ns: i64, now: Sandwich) -> Option<Converted> {
        let (offset, uncertainty_ns) = self.offset_at(realtime_ns, now);
        let raw_ns = realtime_ns.checked_add(offset)?;
        let is_plausible = raw_ns <= now.raw_ns + now.half_width_ns + uncertainty_ns + SET_NS_MIN
            && now.raw_ns.saturating_sub(raw_ns) < AGE_NS_MAX
            && raw_ns >= self.believed_from_raw_ns;
        is_plausible.then_some(Converted { raw_ns: raw_ns.min(now.raw_ns + now.half_width_ns), uncertainty_ns })
    }

    /// Raw − realtime when realtime was `realtime_ns`, and how far that may be off.
    fn offset_at(&self, realtime_ns: i64, now: Sandwich) -> (i64, i64) {
        let curved = |distance_ns: i64| distance_ns.saturating_mul(SLEW_CHANGE_PPM) / 1_000_000;
        let mut later = now;
        if realtime_ns >= later.realtime_ns {
            return (later.offset(), later.half_width_ns);
        }
        for earlier in self.kept.iter().rev() {
            let (into, length) =
                (realtime_ns.saturating_sub(earlier.realtime_ns), later.realtime_ns - earlier.realtime_ns);
            if into >= 0 && length > 0 {
                let share = into as f64 / length as f64;
                let change = (later.offset() - earlier.offset()) as f64 * share;
                let half_width = earlier.half_width_ns.max(later.half_width_ns);
                return (earlier.offset() + change.round() as i64, half_width + curved(into.min(length - into)));
            }
            later = *earlier;
        }
        // Before everything that is kept: on along the slope, where there is one to speak of.
        let oldest = later;
        let before = realtime_ns.saturating_sub(oldest.realtime_ns);
        let length = now.realtime_ns - oldest.realtime_ns;
        let slope = if length >= SPACING_NS { (now.offset() - oldest.offset()) as f64 / length as f64 } else { 0.0 };
        let uncertainty = oldest.half_width_ns + curved(before.saturating_neg());
        (oldest.offset().saturating_add((slope * before as f64).round() as i64), uncertainty)
    }
}

/// A timer that never expires and that the kernel cancels when somebody sets the clock.
#[derive(Debug)]
struct Watch(OwnedFd);

impl Watch {
    /// `None` where the kernel gives no timer: descriptors may be used up.
    fn new() -> Option<Watch> {
        // SAFETY: timerfd_create takes numbers and touches no memory of ours.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        let fd = check(fd).ok()?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let watch = Watch(fd);
        watch.arm().then_some(watch)
    }

    /// Whether that went well. The kernel may tell of a set here already; the timer is armed then too.
    fn arm(&self) -> bool {
        let never = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec { tv_sec: NEVER_S, tv_nsec: 0 },
        };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: `never` is valid for reading; the old value is not asked for.
        let armed = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const never, std::ptr::null_mut()) };
        armed == 0 || is_cancelled()
    }

    /// Whether the clock was set since the last call.
    fn was_set(&self) -> bool {
        let mut expirations = 0u64;
        // SAFETY: `expirations` is valid for writing and named with its true size.
        let result = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut expirations).cast(), size_of::<u64>()) };
        let was_set = result == -1 && is_cancelled();
        if was_set {
            // A cancelled timer goes on watching; arming it anew leaves no doubt.
            self.arm();
        }
        was_set
    }
}

/// Whether the last system call failed because the clock was set.
fn is_cancelled() -> bool {
    std::io::Error::last_os_error().raw_os_error() == Some(libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose realtime is raw × (1 + ppm/10⁶) + `set_ns`, seen by sandwiches without width.
    fn seen(raw_ns: i64, ppm: i64, set_ns: i64) -> Sandwich {
        let monotonic = raw_ns + raw_ns * ppm / 1_000_000;
        Sandwich { raw_ns, half_width_ns: 40, realtime_ns: monotonic + set_ns, set_ns }
    }

    const MS: i64 = 1_000_000;
    /// 2025, in nanoseconds since 1970.
    const EPOCH: i64 = 1_750_000_000_000_000_000;

    #[test]
    fn a_slewed_clock_is_followed_within_its_uncertainty() {
        for ppm in [-500, 0, 37, 500, 83_000] {
            let mut stamps = Stamps::new(seen(0, ppm, EPOCH));
            for now in (1..2_000).map(|n| n * MS / 10) {
                stamps.note(seen(now, ppm, EPOCH), false);
                assert!(stamps.kept.len() <= KEPT);
                // Stamps up to 60 ms old: between sandwiches, and before all of them.
                for age in [0, 1_000, 300_000, 5 * MS, 60 * MS].into_iter().filter(|age| *age <= now) {
                    let stamp = seen(now - age, ppm, EPOCH).realtime_ns;
                    let found = stamps.converted(stamp, seen(now, ppm, EPOCH)).expect("a stamp");
                    let error = (found.raw_ns - (now - age)).abs();
                    assert!(error <= 2_000, "{ppm} ppm, age {age}: {error}");
                    assert!(error <= found.uncertainty_ns + 1_000 * i64::from(age > 8 * MS), "{ppm} {age} {error}");
                    assert!(found.uncertainty_ns <= 41 + age / 1_800, "{ppm} {age} {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_slewing_costs_less_than_it_says() {
        // From −250 to +250 ppm in the middle of a pause of 100 ms, which is all that is known.
        let (middle, end) = (50 * MS, 100 * MS);
        let realtime = |raw: i64| EPOCH + raw + (raw - middle).abs() / 4_000;
        let at = |raw| Sandwich { raw_ns: raw, half_width_ns: 40, realtime_ns: realtime(raw), set_ns: EPOCH };
        let stamps = Stamps::new(at(0));
        for raw in (0..100).map(|n| n * MS) {
            let found = stamps.converted(realtime(raw), at(end)).expect("a stamp");
            let error = (found.raw_ns - raw).abs();
            assert!(error <= found.uncertainty_ns, "{raw}: {error} > {}", found.uncertainty_ns);
        }
    }

    #[test]
    fn a_set_clock_is_noticed_whatever_its_size_and_wherever_it_was() {
        for by in [-3_600_000 * MS, -900 * MS, -400 * MS, -2_000, 2_000, 400 * MS, 3_600_000 * MS] {
            let mut stamps = Stamps::new(seen(0, 500, EPOCH));
            stamps.note(seen(MS, 500, EPOCH), false);
            // Set at 300 ms, noticed at 301 ms. Every stamp that is believed afterwards, however long its packet waited
            // (up to a second), is right.
            let (set, noticed) = (300 * MS, 301 * MS);
            let (mut believed, mut refused_after) = (0, 0);
            for now in (noticed / MS..2_400).map(|n| n * MS) {
                let sandwich = seen(now, 500, EPOCH + by);
                stamps.note(sandwich, false);
                for taken in (0..100).map(|n| now - n * 10 * MS).filter(|taken| *taken >= 0) {
                    let stamp = seen(taken, 500, EPOCH + if taken < set { 0 } else { by }).realtime_ns;
                    match stamps.converted(stamp, sandwich) {
                        Some(found) => {
                            believed += 1;
                            let error = (found.raw_ns - taken).abs();
                            // 100 ms before what is kept, the slope of 50 ppm that a microsecond's rounding makes counts.
                            assert!(error <= 3_000 + found.uncertainty_ns, "{by}: {taken} at {now}: {error}");
                        }
                        None => refused_after += i64::from(taken >= noticed + MS && taken + 5 * MS > now),
                    }
                }
            }
            assert!(believed > 10_000, "{by}: {believed}");
            // Set forward, all new stamps are believed at once; set back, as soon as old ones cannot look new.
            let pause_ms = (-by / MS).clamp(0, 1_000);
            assert!((refused_after - pause_ms).abs() <= 2, "{by}: {refused_after} refused");
        }
    }

    #[test]
    fn setting_twice_never_makes_an_old_stamp_believed() {
        let mut stamps = Stamps::new(seen(0, 0, EPOCH));
        stamps.note(seen(100 * MS, 0, EPOCH - 300 * MS), false);
        stamps.note(seen(200 * MS, 0, EPOCH - 600 * MS), false);
        // Taken at 90 ms, handled when it looks like 690 ms.
        let now = seen(695 * MS, 0, EPOCH - 600 * MS);
        stamps.note(now, false);
        assert_eq!(stamps.converted(seen(90 * MS, 0, EPOCH).realtime_ns, now), None);
        let now = seen(800 * MS, 0, EPOCH - 600 * MS);
        stamps.note(now, false);
        assert!(stamps.converted(now.realtime_ns - 1_000, now).is_some());
    }

    #[test]
    fn a_clock_set_away_and_back_is_distrusted_for_a_second() {
        let mut stamps = Stamps::new(seen(0, 0, EPOCH));
        stamps.note(seen(100 * MS, 0, EPOCH), true);
        for (now, believed) in [(101 * MS, false), (1_099 * MS, false), (1_102 * MS, true)] {
            let now = seen(now, 0, EPOCH);
            stamps.note(now, false);
            assert_eq!(stamps.converted(now.realtime_ns - 100, now).is_some(), believed, "{now:?}");
        }
        // The kernel's word about a set whose size was seen already changes nothing.
        stamps.note(seen(2_000 * MS, 0, EPOCH + 5 * MS), false);
        let now = seen(2_001 * MS, 0, EPOCH + 5 * MS);
        stamps.note(now, true);
        assert!(stamps.converted(now.realtime_ns - 100, now).is_some());
    }

    #[test]
    fn wide_sandwiches_are_no_set() {
        let mut stamps = Stamps::new(seen(0, 0, EPOCH));
        // 30 µs passed between the readings of monotonic and realtime.
        let wide = Sandwich { half_width_ns: 16_000, set_ns: EPOCH + 30_000, ..seen(5 * MS, 0, EPOCH) };
        stamps.note(wide, false);
        stamps.note(seen(10 * MS, 0, EPOCH), false);
        assert_eq!((stamps.kept.len(), stamps.believed_from_raw_ns), (3, i64::MIN));
        let found = stamps.converted(wide.realtime_ns, seen(10 * MS, 0, EPOCH)).expect("a stamp");
        assert!(found.uncertainty_ns >= 16_000);
    }

    #[test]
    fn the_kernels_watch_is_quiet_while_nobody_sets_the_clock() {
        let watch = Watch::new().expect("a timer");
        assert!(!watch.was_set() && !watch.was_set());
        let stamps = Stamps::new(Sandwich::take());
        assert!(stamps.clone().watch.is_none());
    }

    #[test]
    #[ignore = "sets the clock of the machine, by a nanosecond and back; as root"]
    fn the_kernels_watch_tells_of_a_set_once_and_stays_armed() {
        let set_by = |nanos: i64| {
            // SAFETY: an all-zero timex is a valid value.
            let mut timex: libc::timex = unsafe { std::mem::zeroed() };
            timex.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
            (timex.time.tv_sec, timex.time.tv_usec) =
                (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
            // SAFETY: `timex` is valid for reading and writing.
            check(unsafe { libc::adjtimex(&raw mut timex) }).expect("the privilege to set the clock");
        };
        let watch = Watch::new().expect("a timer");
        for by in [1, -1] {
            set_by(by);
            assert!(watch.was_set());
            assert!(!watch.was_set());
        }
    }
}
