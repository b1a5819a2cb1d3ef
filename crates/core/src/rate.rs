//! Token buckets per client prefix, in bounded memory.
//!
//! A forged source costs the attacker nothing, so the table must not grow with them: when it is full of buckets that
//! are in use, a prefix without one is refused until a sweep finds idle buckets, at most once a second.

use crate::time::{LocalTime, Span};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most prefixes tracked: 65,536 × about 48 bytes, 3 MiB.
pub const MAX_PREFIXES: usize = 65_536;
/// Least time between two sweeps of a full table: one pass over it takes about a millisecond.
const SWEEP_INTERVAL: Span = Span::from_secs(1);

/// The prefix that shares a budget: /24 of IPv4, /56 of IPv6, as operators usually delegate them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(u8, u64);

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Prefix(4, u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => Prefix(6, (ip.to_bits() >> 72) as u64),
        }
    }
}

/// Tokens in billionths, so that a nanosecond at 1 per second is one unit.
const TOKEN: u128 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    billionths: u128,
    filled_at: LocalTime,
}

/// A rate and burst of `per_second`, for each prefix.
#[derive(Clone, Debug)]
pub struct PrefixRate {
    per_second: u32,
    buckets: BTreeMap<Prefix, Bucket>,
    swept_at: Option<LocalTime>,
}

impl PrefixRate {
    /// Every prefix may take `per_second` at once and as many each second.
    pub fn new(per_second: u32) -> Self {
        PrefixRate { per_second, buckets: BTreeMap::new(), swept_at: None }
    }

    /// Takes one token of the prefix's budget; `false` when there is none.
    pub fn take(&mut self, now: LocalTime, prefix: Prefix) -> bool {
        if self.buckets.len() >= MAX_PREFIXES && !self.buckets.contains_key(&prefix) && !self.sweep(now) {
            return false;
        }
        let full = u128::from(self.per_second) * TOKEN;
        let bucket = self.buckets.entry(prefix).or_insert(Bucket { billionths: full, filled_at: now });
        let elapsed = (now - bucket.filled_at).as_nanos().max(0) as u128;
        bucket.billionths = (bucket.billionths + elapsed * u128::from(self.per_second)).min(full);
        bucket.filled_at = now;
        let granted = bucket.billionths >= TOKEN;
        if granted {
            bucket.billionths -= TOKEN;
        }
        granted
    }

    /// Drops idle buckets; whether there is room now.
    fn sweep(&mut self, now: LocalTime) -> bool {
        if self.swept_at.is_some_and(|swept| now - swept < SWEEP_INTERVAL) {
            return false;
        }
        self.swept_at = Some(now);
        // After a second without use a bucket is full again, and forgetting it changes nothing.
        self.buckets.retain(|_, bucket| now - bucket.filled_at < Span::from_secs(1));
        self.buckets.len() < MAX_PREFIXES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> LocalTime {
        LocalTime::from_nanos(millis * 1_000_000)
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::from(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn a_prefix_shares_one_budget_and_refills() {
        let mut rate = PrefixRate::new(10);
        let granted = (0..100).filter(|i| rate.take(at(0), prefix(&format!("192.0.2.{i}")))).count();
        assert_eq!(granted, 10);
        assert!(rate.take(at(0), prefix("192.0.3.1")));
        assert!(!rate.take(at(99), prefix("192.0.2.1")));
        assert!(rate.take(at(100), prefix("192.0.2.1")));
        assert_eq!((0..100).filter(|_| rate.take(at(5_000), prefix("192.0.2.1"))).count(), 10);
        assert_eq!(prefix("2001:db8:0:ff::1"), prefix("2001:db8:0:1::1"));
        assert_ne!(prefix("2001:db8:0:100::1"), prefix("2001:db8:0:1::1"));
    }

    #[test]
    fn a_flood_of_forged_sources_stays_within_the_table() {
        let mut rate = PrefixRate::new(10);
        for i in 0..200_000u32 {
            rate.take(at(i64::from(i) / 1_000), Prefix(4, u64::from(i)));
        }
        assert_eq!(rate.buckets.len(), MAX_PREFIXES);
        assert!(!rate.take(at(300), Prefix(4, 1 << 40)), "full of buckets in use");
        assert!(rate.take(at(3_000), Prefix(4, 1 << 40)), "idle buckets are swept");
        assert_eq!(rate.buckets.len(), 1);
    }
}
