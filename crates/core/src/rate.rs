//! Token buckets per client prefix, in fixed memory.
//!
//! A forged source costs the attacker nothing, so a table must not grow with them, and a full one must not keep out those who
//! come later. So there is no table of prefixes: a keyed hash gives each one of [`BUCKETS`] buckets, and prefixes that
//! meet in one share its budget. Nobody without the key can choose whom to meet. With 10,000 prefixes that are busy at once,
//! one in seven shares with another one; a flood of forged sources drains all buckets alike, as it would drain anything.

use crate::time::LocalTime;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// Buckets: 65,536 × 16 bytes, 1 MiB.
pub const BUCKETS: usize = 65_536;

/// The prefix that shares a budget: /24 of IPv4, /56 of IPv6, as operators usually delegate them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(u8, u64);

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Prefix(4, u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => Prefix(6, (ip.to_bits() >> 72) as u64),
        }
    }
}

/// Tokens in billionths, so that a nanosecond at 1 per second is one unit; 2^64 of them are 18 × 10^9 tokens.
const TOKEN: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    billionths: u64,
    filled_at: LocalTime,
}

/// A rate and burst of `per_second`, for each prefix.
#[derive(Clone, Debug)]
pub struct PrefixRate {
    per_second: u32,
    /// [`BUCKETS`] of them; none until the first is needed.
    buckets: Vec<Bucket>,
    hasher: FixedState,
}

impl PrefixRate {
    /// Every prefix may take `per_second` at once and as many each second. `seed` is what nobody outside can guess.
    pub fn new(per_second: u32, seed: u64) -> Self {
        PrefixRate { per_second, buckets: Vec::new(), hasher: FixedState::with_seed(seed) }
    }

    /// Takes one token of the prefix's budget; `false` when there is none.
    pub fn take(&mut self, now: LocalTime, prefix: Prefix) -> bool {
        let full = u64::from(self.per_second) * TOKEN;
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket { billionths: full, filled_at: now }; BUCKETS];
        }
        let bucket = &mut self.buckets[self.hasher.hash_one(prefix) as usize % BUCKETS];
        let elapsed = (now - bucket.filled_at).as_nanos().max(0) as u64;
        let gained = elapsed.saturating_mul(u64::from(self.per_second));
        bucket.billionths = bucket.billionths.saturating_add(gained).min(full);
        bucket.filled_at = now;
        let granted = bucket.billionths >= TOKEN;
        if granted {
            bucket.billionths -= TOKEN;
        }
        granted
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
        let mut rate = PrefixRate::new(10, 1);
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
    fn ten_million_forged_sources_take_no_more_memory_and_keep_nobody_out_for_long() {
        let mut rate = PrefixRate::new(10, 7);
        let granted = (0..10_000_000u64).filter(|number| rate.take(at(0), Prefix(4, *number))).count();
        assert_eq!(rate.buckets.len(), BUCKETS);
        assert_eq!(granted, 10 * BUCKETS, "every bucket's budget and no more");
        assert!(!rate.take(at(0), prefix("192.0.2.1")), "all are drained");
        assert!(rate.take(at(100), prefix("192.0.2.1")), "and fill again");
    }

    #[test]
    fn few_prefixes_share_a_bucket() {
        let mut rate = PrefixRate::new(1, 7);
        let alone = (0..10_000).filter(|number| rate.take(at(0), Prefix(4, *number))).count();
        assert!(alone > 9_000, "{alone} of 10,000");
    }
}
