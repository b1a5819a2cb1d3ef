//! Who asks for what, and when: Zipf's law, and a day.
//!
//! All in integers, so that another machine's library of logarithms changes nothing.

use startgun_core::time::Span;

use crate::clock::SimTime;
use crate::random::Random;

/// Weight of the first rank; the millionth still has a million of its own, so rounding down takes nothing that counts.
const FIRST_WEIGHT: u64 = 1 << 40;
/// The cycle's unit: the mean rate of the day.
const MEAN_PPM: u64 = 1_000_000;
/// Rate in the middle of the night, which is where the day begins and ends.
const NIGHT_PPM: u64 = 400_000;
/// Rate in the middle of the day; the mean of a straight way up and one down is [`MEAN_PPM`].
const NOON_PPM: u64 = 2 * MEAN_PPM - NIGHT_PPM;

/// Draws with given weights.
pub(super) struct Weighted {
    /// Sum of the weights up to each, inclusive.
    sums: Vec<u64>,
}

impl Weighted {
    /// At least one weight must be more than zero.
    pub(super) fn new(weights: impl Iterator<Item = u64>) -> Self {
        let sums = weights.scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Weighted { sums: sums.collect() }
    }

    /// Zipf's law with exponent 1 for these ranks, which count from 1.
    pub(super) fn zipf(ranks: impl Iterator<Item = u64>) -> Self {
        Weighted::new(ranks.map(|rank| FIRST_WEIGHT / rank))
    }

    /// All weights together.
    pub(super) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The place of a weight.
    pub(super) fn draw(&self, random: &mut Random) -> usize {
        let drawn = random.next() % self.total();
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

/// A day from midnight to midnight, compressed into `length`: the rate rises in a straight line until noon, and falls.
#[derive(Clone, Copy)]
pub(super) struct Day {
    pub(super) begins: SimTime,
    pub(super) length: Span,
}

impl Day {
    pub(super) fn ends(&self) -> SimTime {
        self.begins + self.length
    }

    /// Keeps a moment with the probability that its rate has to the rate at noon.
    fn keeps(&self, at: SimTime, random: &mut Random) -> bool {
        let (since, length) = ((at - self.begins).as_nanos(), self.length.as_nanos());
        let to_midnight = since.min(length - since).max(0);
        let rise = i128::from(NOON_PPM - NIGHT_PPM) * i128::from(2 * to_midnight) / i128::from(length);
        random.next() % NOON_PPM < NIGHT_PPM + rise as u64
    }

    /// A moment of the day, more probably one at noon.
    pub(super) fn moment(&self, random: &mut Random) -> SimTime {
        loop {
            let at = self.begins + Span::from_nanos((random.next() % self.length.as_nanos() as u64) as i64);
            if self.keeps(at, random) {
                return at;
            }
        }
    }

    /// The next of so many moments that are expected within the whole day; it may lie beyond its end. `None` where none
    /// is expected.
    pub(super) fn next(&self, after: SimTime, expected: u64, random: &mut Random) -> Option<SimTime> {
        let at_noon = expected.checked_mul(NOON_PPM).filter(|rate| *rate > 0)?;
        let mean = i128::from(self.length.as_nanos()) * i128::from(MEAN_PPM) / i128::from(at_noon);
        let mut at = after;
        loop {
            at = at + random.exponential(Span::from_nanos(mean.max(1) as i64));
            if at >= self.ends() || self.keeps(at, random) {
                return Some(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Day = Day { begins: SimTime::from_nanos(7_000_000_000), length: Span::from_secs(240) };

    #[test]
    fn ranks_are_drawn_in_proportion_to_one_over_rank() {
        let zipf = Weighted::zipf(1..=100);
        let mut random = Random::new(3);
        let mut drawn = [0u32; 100];
        (0..200_000).for_each(|_| drawn[zipf.draw(&mut random)] += 1);
        // The hundredth harmonic number is 5.187: the first has 38,555, the tenth 3,855.
        assert!((38_000..39_100).contains(&drawn[0]), "{}", drawn[0]);
        assert!((3_650..4_050).contains(&drawn[9]), "{}", drawn[9]);
        assert!((300..480).contains(&drawn[99]), "{}", drawn[99]);
    }

    #[test]
    fn a_weight_of_zero_is_never_drawn() {
        let weighted = Weighted::new([0, 3, 0, 1].into_iter());
        let mut random = Random::new(4);
        let mut drawn = [0u32; 4];
        (0..4_000).for_each(|_| drawn[weighted.draw(&mut random)] += 1);
        assert_eq!((drawn[0], drawn[2]), (0, 0));
        assert!((2_850..3_150).contains(&drawn[1]), "{drawn:?}");
    }

    #[test]
    fn a_day_has_as_many_moments_as_expected_and_four_times_as_many_at_noon_as_at_night() {
        let mut random = Random::new(5);
        let (mut at, mut count, mut hours) = (DAY.begins, 0, [0u32; 24]);
        while let Some(next) = DAY.next(at, 100_000, &mut random).filter(|next| *next < DAY.ends()) {
            hours[((next - DAY.begins).as_nanos() / 10_000_000_000) as usize] += 1;
            (at, count) = (next, count + 1);
        }
        assert!((99_000..101_000).contains(&count), "{count}");
        // 4,167 are the mean: at the first hour's middle 0.45 of it, at noon 1.55.
        assert!((1_700..2_050).contains(&hours[0]), "{hours:?}");
        assert!((6_200..6_700).contains(&hours[11]), "{hours:?}");
        assert_eq!(DAY.next(at, 0, &mut random), None);
    }

    #[test]
    fn moments_lie_within_the_day() {
        let mut random = Random::new(6);
        let moments: Vec<SimTime> = (0..10_000).map(|_| DAY.moment(&mut random)).collect();
        assert!(moments.iter().all(|at| (DAY.begins..DAY.ends()).contains(at)));
        // The rate in the middle half is 1.3 of the mean: 65 %.
        let minute = |at: &SimTime| (*at - DAY.begins).as_nanos() / 60_000_000_000;
        let middle = moments.iter().filter(|at| matches!(minute(at), 1 | 2)).count();
        assert!((6_300..6_700).contains(&middle), "{middle}");
    }
}
