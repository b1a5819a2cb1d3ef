//! A histogram of spans in bounded memory, for figures that are taken per packet.
//!
//! Buckets grow by powers of two, each divided into eight: a value is known to within 12.5 %, so its bucket's middle is
//! off by at most 6.3 %. Both signs, because a departure can be early. Counts are halved when there are
//! [`Histogram::HALVED_AT`] of them, so a histogram tells of the newest 8,192 to 16,384 values and of older ones less
//! and less: an operator asks how it is, not how it was last week.

use crate::time::Span;
use serde::{Deserialize, Serialize};

/// Values closer to zero than this are zero: 2^8 ns, below any clock's error.
const LEAST_BITS: u32 = 8;
/// Values beyond 2^33 ns, 8.6 s, are counted as that: longer than any order is held.
const MOST_BITS: u32 = 33;
/// Buckets per power of two, as bits.
const DIVISION_BITS: u32 = 3;
/// Buckets of one sign.
const SIDE: usize = ((MOST_BITS - LEAST_BITS) << DIVISION_BITS) as usize;
/// Both signs and zero: 401 × 4 bytes.
const BUCKETS: usize = 2 * SIDE + 1;

/// Counts of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    held: u32,
    total: u64,
}

/// What a histogram says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: Span,
    /// 90th percentile.
    pub p90: Span,
    /// 99th percentile.
    pub p99: Span,
    /// How many values were ever taken in, those that have been forgotten since included.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: Box::new([0; BUCKETS]), held: 0, total: 0 }
    }
}

impl Histogram {
    /// At so many values all counts are halved.
    pub const HALVED_AT: u32 = 16_384;

    /// Takes in a value. No allocation.
    pub fn record(&mut self, value: Span) {
        if self.held >= Self::HALVED_AT {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.held = self.counts.iter().sum();
        }
        self.counts[bucket(value)] += 1;
        self.held += 1;
        self.total += 1;
    }

    /// Adds what another histogram holds.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, others) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*others);
        }
        self.held = self.held.saturating_add(other.held);
        self.total = self.total.saturating_add(other.total);
    }

    /// Median and tails, by nearest rank, each as the middle of its bucket; `None` of nothing.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let quantile = |percent: u64| {
            let rank = (u64::from(self.held) * percent).div_ceil(100);
            let mut below = 0;
            self.counts.iter().position(|count| {
                below += u64::from(*count);
                below >= rank
            })
        };
        if self.held == 0 {
            return None;
        }
        Some(Quantiles {
            p50: middle(quantile(50)?),
            p90: middle(quantile(90)?),
            p99: middle(quantile(99)?),
            count: self.total,
        })
    }
}

/// The bucket of a value, most negative first.
fn bucket(value: Span) -> usize {
    let nanos = value.as_nanos().unsigned_abs();
    if nanos < 1 << LEAST_BITS {
        return SIDE;
    }
    let bits = nanos.ilog2();
    let within = (nanos >> (bits - DIVISION_BITS)) as usize & ((1 << DIVISION_BITS) - 1);
    let place = (((bits - LEAST_BITS) << DIVISION_BITS) as usize + within).min(SIDE - 1);
    if value < Span::ZERO { SIDE - 1 - place } else { SIDE + 1 + place }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Span {
    let (place, sign) = match bucket.cmp(&SIDE) {
        core::cmp::Ordering::Equal => return Span::ZERO,
        core::cmp::Ordering::Less => (SIDE - 1 - bucket, -1),
        core::cmp::Ordering::Greater => (bucket - SIDE - 1, 1),
    };
    let shift = (place >> DIVISION_BITS) as u32 + LEAST_BITS - DIVISION_BITS;
    let low = ((1 << DIVISION_BITS) + (place & ((1 << DIVISION_BITS) - 1)) as i64) << shift;
    Span::from_nanos(sign * (low + (1 << shift) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_to_within_seven_percent_on_either_side_of_zero() {
        let mut nanos = 256i64;
        while nanos < 8_000_000_000 {
            for value in [nanos, -nanos] {
                let mut histogram = Histogram::default();
                histogram.record(Span::from_nanos(value));
                let told = histogram.quantiles().expect("one").p50.as_nanos();
                assert!((told - value).abs() * 100 <= nanos * 7, "{value} told as {told}");
            }
            nanos += nanos / 97 + 1;
        }
        for (value, told) in [(Span::from_nanos(255), Span::ZERO), (Span::from_nanos(-255), Span::ZERO)] {
            assert_eq!(middle(bucket(value)), told);
        }
        // Nonsense from the network is counted at the ends.
        assert!(middle(bucket(Span::MAX)) > Span::from_secs(8));
        assert!(middle(bucket(Span::MIN)) < Span::from_secs(-8));
    }

    #[test]
    fn buckets_are_in_the_order_of_their_values() {
        let middles: Vec<Span> = (0..BUCKETS).map(middle).collect();
        assert!(middles.windows(2).all(|pair| pair[0] < pair[1]));
        assert!((0..BUCKETS).all(|index| bucket(middle(index)) == index));
    }

    #[test]
    fn quantiles_are_of_what_was_recorded_and_merged() {
        assert_eq!(Histogram::default().quantiles(), None);
        let (mut near, mut far) = (Histogram::default(), Histogram::default());
        (0..89).for_each(|_| near.record(Span::from_micros(100)));
        (0..11).for_each(|_| far.record(Span::from_millis(10)));
        near.merge(&far);
        let told = near.quantiles().expect("a hundred");
        let close = |span: Span, micros: i64| (span.as_nanos() - micros * 1_000).abs() * 100 <= micros * 7_000;
        assert!(close(told.p50, 100) && close(told.p90, 10_000) && close(told.p99, 10_000), "{told:?}");
        assert_eq!(told.count, 100);
    }

    #[test]
    fn the_old_is_forgotten_by_halves_and_the_count_goes_on() {
        let mut histogram = Histogram::default();
        (0..100_000).for_each(|_| histogram.record(Span::from_millis(5)));
        (0..100_000).for_each(|_| histogram.record(Span::from_micros(50)));
        let told = histogram.quantiles().expect("many");
        assert!(told.p99 < Span::from_micros(60) && told.count == 200_000, "{told:?}");
        assert!(histogram.held <= Histogram::HALVED_AT);
    }
}
