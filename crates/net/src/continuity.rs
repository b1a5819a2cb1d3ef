//! Whether this host's clock ran on since it was last asked.
//!
//! A host that slept kept its orders and lost its time; a clock that jumped makes every instant that was computed from
//! it wrong. Both must be known before the next departure, and neither raises a signal. So two clocks are compared with a
//! third: `CLOCK_BOOTTIME − CLOCK_MONOTONIC` grows while the host is suspended and at no other time, and the local clock
//! leaves `CLOCK_MONOTONIC` by slewing only, which has a greatest rate. A process that was stopped, for however long,
//! changes neither.
//!
//! The readings follow each other, so a difference is known as an interval; what two intervals can explain is no
//! alarm, and a thread that lost the processor between two readings raises none.

use crate::host_clock::{HostClock, monotonic_ns, read};
use startgun_core::time::Span;

/// Greatest rate between `CLOCK_MONOTONIC` and the raw clock: `adjtimex` takes ±10 % as tick and ±500 ppm as frequency.
/// chrony uses 8.3 % of it, and ordinarily less than 500 ppm.
pub const SLEW_PPM_MAX: i64 = 100_500;
/// Least break that is one: far above the width of readings, far below what makes a race unfair.
pub const BREAK_NS_MIN: i64 = 100_000;
/// Readings that took longer are repeated, twice at most: they would hide a break of this size.
const WIDTH_NS_MAX: i64 = 10_000;

/// What broke the local clock's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The host was suspended for this long.
    Suspended(Span),
    /// The clock jumped by this; negative when it jumped back. Slewing meanwhile is part of it.
    Stepped(Span),
}

/// The clocks, read one after the other.
#[derive(Clone, Copy, Debug)]
struct Readings {
    monotonic_before_ns: i64,
    boottime_ns: i64,
    local_ns: i64,
    monotonic_after_ns: i64,
}

impl Readings {
    fn take(clock: &HostClock) -> Self {
        let mut narrowest = Self::take_one(clock);
        for _ in 1..3 {
            if narrowest.width() <= WIDTH_NS_MAX {
                break;
            }
            let other = Self::take_one(clock);
            if other.width() < narrowest.width() {
                narrowest = other;
            }
        }
        narrowest
    }

    fn take_one(clock: &HostClock) -> Self {
        Readings {
            monotonic_before_ns: monotonic_ns(),
            boottime_ns: read(libc::CLOCK_BOOTTIME),
            local_ns: clock.now().as_nanos(),
            monotonic_after_ns: monotonic_ns(),
        }
    }

    fn width(&self) -> i64 {
        self.monotonic_after_ns - self.monotonic_before_ns
    }

    /// The least and the most that `other − CLOCK_MONOTONIC` can be.
    fn over_monotonic(&self, other_ns: i64) -> (i64, i64) {
        (other_ns - self.monotonic_after_ns, other_ns - self.monotonic_before_ns)
    }
}

/// Watches one local clock. A check costs five clock readings, about 0.2 µs.
#[derive(Clone, Debug)]
pub struct Continuity {
    last: Readings,
}

impl Continuity {
    /// Watches from now on.
    pub fn new(clock: &HostClock) -> Self {
        Continuity { last: Readings::take(clock) }
    }

    /// What happened to the clock since the last call, if anything; each break is told once. Of two, the suspension
    /// is told.
    ///
    /// A jump is told from slewing only when it exceeds [`BREAK_NS_MIN`] plus [`SLEW_PPM_MAX`] of the time since the
    /// last call: 25 ms when that was 0.25 s ago. Call it as often as there is work.
    pub fn check(&mut self, clock: &HostClock) -> Option<Break> {
        self.judge(Readings::take(clock), clock.false_drift_ppm())
    }

    fn judge(&mut self, now: Readings, false_drift_ppm: i64) -> Option<Break> {
        let last = std::mem::replace(&mut self.last, now);
        let suspended = change(last.over_monotonic(last.boottime_ns), now.over_monotonic(now.boottime_ns));
        if suspended > BREAK_NS_MIN {
            return Some(Break::Suspended(Span::from_nanos(suspended)));
        }
        let elapsed = i128::from(now.monotonic_after_ns - last.monotonic_before_ns);
        let slewed = elapsed * i128::from(SLEW_PPM_MAX + false_drift_ppm) / 1_000_000;
        let stepped = change(last.over_monotonic(last.local_ns), now.over_monotonic(now.local_ns));
        let is_step = i128::from(stepped.abs()) > i128::from(BREAK_NS_MIN) + slewed;
        is_step.then(|| Break::Stepped(Span::from_nanos(stepped)))
    }
}

/// The least change, in its direction, that leads from one interval to another; 0 where they overlap.
fn change((old_low, old_high): (i64, i64), (new_low, new_high): (i64, i64)) -> i64 {
    if new_low > old_high {
        new_low - old_high
    } else if new_high < old_low {
        new_high - old_low
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_clock::{Distortion, Step, raw_ns};
    use std::time::Duration;

    const MS: i64 = 1_000_000;

    /// Readings 200 ns apart, with the local clock and the boot time ahead of the monotonic clock.
    fn at(monotonic_ns: i64, boot_ahead_ns: i64, local_ahead_ns: i64) -> Readings {
        Readings {
            monotonic_before_ns: monotonic_ns,
            boottime_ns: monotonic_ns + 70 + boot_ahead_ns,
            local_ns: monotonic_ns + 130 + local_ahead_ns,
            monotonic_after_ns: monotonic_ns + 200,
        }
    }

    #[test]
    fn breaks_are_told_once_and_by_their_size() {
        let mut watch = Continuity { last: at(0, 0, 0) };
        assert_eq!(watch.judge(at(250 * MS, 0, 0), 0), None);
        let told = watch.judge(at(260 * MS, 5_000 * MS, 0), 0);
        assert!(matches!(told, Some(Break::Suspended(by)) if (by - Span::from_secs(5)).abs() < Span::from_micros(1)));
        assert_eq!(watch.judge(at(270 * MS, 5_000 * MS, 0), 0), None);
        for by in [1_000 * MS, -1_000 * MS, 3 * MS, -3 * MS] {
            let mut watch = watch.clone();
            let told = watch.judge(at(271 * MS, 5_000 * MS, by), 0);
            let expected = Span::from_nanos(by);
            assert!(
                matches!(told, Some(Break::Stepped(by)) if (by - expected).abs() < Span::from_micros(1)),
                "{told:?}"
            );
            assert_eq!(watch.judge(at(280 * MS, 5_000 * MS, by), 0), None);
        }
    }

    #[test]
    fn slewing_and_stops_and_lost_processors_are_no_break() {
        let mut watch = Continuity { last: at(0, 0, 0) };
        let mut local = 0;
        // 8.3 % over a millisecond, a second, an hour.
        for elapsed in [MS, 1_000 * MS, 3_600_000 * MS] {
            local += elapsed / 1_000 * 83;
            assert_eq!(watch.judge(at(watch.last.monotonic_before_ns + elapsed, 0, local), 0), None);
        }
        // A false clock of 1 % more, known as such.
        let mut watch = Continuity { last: at(0, 0, 0) };
        assert_eq!(watch.judge(at(1_000 * MS, 0, 110 * MS), 10_000), None);
        // The processor was lost for 50 ms between two readings.
        let mut torn = at(MS, 0, 0);
        torn.local_ns += 50 * MS;
        torn.monotonic_after_ns += 50 * MS;
        let mut watch = Continuity { last: at(0, 0, 0) };
        assert_eq!(watch.judge(torn, 0), None);
        assert_eq!(watch.judge(at(60 * MS, 0, 0), 0), None);
    }

    #[test]
    fn this_hosts_clock_runs_on_and_a_false_one_jumps() {
        let clock = HostClock::new(None);
        let mut watch = Continuity::new(&clock);
        for wait_ms in [0, 0, 1, 30] {
            std::thread::sleep(Duration::from_millis(wait_ms));
            assert_eq!(watch.check(&clock), None);
        }
        let step = Step { at_raw_ns: raw_ns() + 20 * MS, by: Span::from_secs(-1) };
        let clock = HostClock::new(Some(Distortion { drift_ppb: 50_000, step: Some(step), ..Distortion::default() }));
        let mut watch = Continuity::new(&clock);
        let mut told = Vec::new();
        while raw_ns() < step.at_raw_ns + 20 * MS {
            told.extend(watch.check(&clock).map(|found| (found, raw_ns())));
        }
        let [(Break::Stepped(by), at)] = told[..] else { panic!("told: {told:?}") };
        assert!((by - step.by).abs() < Span::from_millis(10) && at >= step.at_raw_ns, "{by:?}");
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p startgun-net -- --ignored --nocapture checks"]
    fn checks_cost() {
        let clock = HostClock::new(None);
        let mut watch = Continuity::new(&clock);
        let begin = raw_ns();
        assert_eq!((0..1_000_000).filter(|_| watch.check(&clock).is_some()).count(), 0);
        println!("{} ns each", (raw_ns() - begin) / 1_000_000);
    }
}
