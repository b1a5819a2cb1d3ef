//! The share of processor time that the hypervisor gave to others.
//!
//! Above about 1 % it, and not the program, decides the 99th percentile of a timed departure: a report carries it, and
//! a batch above it is repeated.

use std::{fs, io};

/// The machine's processor times so far, all processors together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// Time that the hypervisor gave to others, in clock ticks.
    pub steal_ticks: u64,
    /// All time, idle time included, in clock ticks.
    pub total_ticks: u64,
}

impl CpuTimes {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// The system call's error; `InvalidData` when the first line is not what proc(5) says.
    pub fn read() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/stat: expected a first line \"cpu\" with at least 8 numbers",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        // proc(5): cpu user nice system idle iowait irq softirq steal guest guest_nice; guest time is part of user time.
        let mut words = text.lines().next()?.split_ascii_whitespace();
        if words.next()? != "cpu" {
            return None;
        }
        let ticks = words.take(8).map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(Self { steal_ticks: *ticks.get(7)?, total_ticks: ticks.iter().sum() })
    }

    /// The share of steal between an earlier reading and this one, from 0 to 1; 0 when no time passed.
    pub fn steal_share_since(&self, earlier: &Self) -> f64 {
        let total = self.total_ticks.saturating_sub(earlier.total_ticks);
        let steal = self.steal_ticks.saturating_sub(earlier.steal_ticks);
        if total == 0 { 0.0 } else { (steal as f64 / total as f64).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_all_time_between_two_readings() {
        let earlier = CpuTimes::parse("cpu  100 0 50 800 10 0 5 5 0 0\ncpu0 1\n").unwrap();
        let later = CpuTimes::parse("cpu  140 0 70 830 10 0 5 15 9 0\n").unwrap();
        assert_eq!(earlier.total_ticks, 970);
        assert!((later.steal_share_since(&earlier) - 0.1).abs() < 1e-12);
        assert_eq!(earlier.steal_share_since(&later), 0.0);
        assert_eq!(later.steal_share_since(&later), 0.0);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "cpu", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 x"] {
            assert_eq!(CpuTimes::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let now = CpuTimes::read().unwrap();
        assert!(now.total_ticks >= now.steal_ticks);
    }
}
