//! Chance, from one seed, in integers.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use startgun_core::time::Span;

/// Longest exponential wait, in means: one draw in e^64 would be longer.
const LONGEST_WAIT: i128 = 64;

/// The world's only source of chance.
pub(crate) struct Random(ChaCha12Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(ChaCha12Rng::seed_from_u64(seed))
    }

    /// A stream of its own for one purpose: what it draws does not depend on what happened before.
    pub(crate) fn named(seed: u64, name: [u64; 3]) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, name[0], name[1], name[2]]) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Random(ChaCha12Rng::from_seed(key))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// `true` in so many of a million draws.
    pub(crate) fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.next() % 1_000_000 < u64::from(ppm)
    }

    /// An exponential with this mean, by von Neumann's method (1951): it only compares uniform numbers, so no
    /// logarithm of any library is in the trace. A run of decreasing draws that begins at x has an odd length with
    /// probability e^−x.
    pub(crate) fn exponential(&mut self, mean: Span) -> Span {
        if mean <= Span::ZERO {
            return Span::ZERO;
        }
        let mean_nanos = i128::from(mean.as_nanos());
        for whole in 0..LONGEST_WAIT {
            let first = self.next();
            let (mut previous, mut run) = (first, 1);
            loop {
                let next = self.next();
                if next >= previous {
                    break;
                }
                (previous, run) = (next, run + 1);
            }
            if run % 2 == 1 {
                let fraction = (mean_nanos * i128::from(first >> 32)) >> 32;
                return Span::from_nanos((whole * mean_nanos + fraction).min(i128::from(i64::MAX)) as i64);
            }
        }
        Span::from_nanos((LONGEST_WAIT * mean_nanos).min(i128::from(i64::MAX)) as i64)
    }

    /// One of `limit`; of none the first.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // A bias of less than limit / 2^64.
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// A normal of mean zero and this standard deviation, by Kahn's method (1954): of two exponentials, the first is half a
    /// normal where the second is at least half the square of the first less one. No logarithm here, either.
    pub(crate) fn normal(&mut self, deviation: Span) -> Span {
        const ONE: i64 = 1_000_000_000;
        loop {
            let mut exponential = || i128::from(self.exponential(Span::from_nanos(ONE)).as_nanos());
            let (size, other) = (exponential(), exponential());
            if 2 * other * i128::from(ONE) >= (size - i128::from(ONE)).pow(2) {
                let scaled = (size * i128::from(deviation.as_nanos()) / i128::from(ONE)) as i64;
                return Span::from_nanos(if self.next().is_multiple_of(2) { scaled } else { -scaled });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_have_their_mean_and_their_tail() {
        let mut random = Random::new(1);
        let draws: Vec<i64> = (0..20_000).map(|_| random.exponential(Span::from_micros(100)).as_nanos()).collect();
        let mean = draws.iter().sum::<i64>() / 20_000;
        assert!((97_000..103_000).contains(&mean), "mean {mean}");
        // e^−3 = 4.98 %.
        let beyond = draws.iter().filter(|&&draw| draw > 300_000).count();
        assert!((850..1_150).contains(&beyond), "{beyond} beyond three means");
        assert_eq!(random.exponential(Span::ZERO), Span::ZERO);
    }

    #[test]
    fn a_chance_is_met_as_often_as_it_says() {
        let mut random = Random::new(2);
        let met = (0..20_000).filter(|_| random.chance(200_000)).count();
        assert!((3_800..4_200).contains(&met), "{met}");
        assert!(!random.chance(0));
        assert!(random.chance(1_000_000));
    }

    #[test]
    fn normals_have_their_deviation_and_their_tails() {
        let mut random = Random::new(3);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal(Span::from_micros(100)).as_micros_f64()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let deviation = (draws.iter().map(|draw| draw * draw).sum::<f64>() / 20_000.0).sqrt();
        assert!(mean.abs() < 3.0 && (98.0..102.0).contains(&deviation), "{mean} ± {deviation}");
        // Two-sided: 31.7 % beyond one deviation, 4.55 % beyond two.
        let beyond = |limit: f64| draws.iter().filter(|draw| draw.abs() > limit).count();
        assert!((6_150..6_530).contains(&beyond(100.0)), "{}", beyond(100.0));
        assert!((800..1_020).contains(&beyond(200.0)), "{}", beyond(200.0));
    }

    #[test]
    fn one_of_so_many_is_each_as_often() {
        let mut random = Random::new(4);
        let mut met = [0; 3];
        (0..30_000).for_each(|_| met[random.below(3)] += 1);
        assert!(met.iter().all(|met| (9_700..10_300).contains(met)), "{met:?}");
        assert_eq!(random.below(0), 0);
    }
}
