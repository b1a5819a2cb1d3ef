//! The figures of a forecast. All are sums of integers: in whichever order draws end, the same draws give the same.

use startgun_core::time::Span;
use std::collections::BTreeMap;

/// "About as good as the best": so much more round trip.
pub const WITHIN: Span = Span::from_millis(5);
/// Spans are told apart by so much.
const STEP: Span = Span::from_micros(10);
/// The longest that are: 100 s. Ten million entries of a map are never reached, for spans of milliseconds differ little.
const STEPS_MAX: i64 = 10_000_000;

/// How spans are spread, to ten microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many there are of so many steps, rounded down.
    counts: BTreeMap<i64, u64>,
    count: u64,
    sum_ns: i128,
}

impl Spread {
    /// Takes in one.
    pub fn note(&mut self, span: Span) {
        let steps = (span.as_nanos().max(0) / STEP.as_nanos()).min(STEPS_MAX);
        *self.counts.entry(steps).or_default() += 1;
        self.count += 1;
        self.sum_ns += i128::from(span.as_nanos());
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean in ms; zero of none.
    pub fn mean_ms(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 / 1e6 }
    }

    /// The nearest-rank quantile in ms, rounded down to a step; zero of none.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map_or(0.0, |(steps, _)| *steps as f64 * STEP.as_millis_f64())
    }

    /// The share of those that are shorter than each of these, in ms, ascending.
    pub fn shares_below(&self, limits_ms: &[f64]) -> Vec<f64> {
        let mut counts = self.counts.iter().peekable();
        let mut seen = 0;
        let share = |limit_ms: &f64| {
            while let Some((_, count)) = counts.next_if(|(steps, _)| **steps as f64 * STEP.as_millis_f64() < *limit_ms)
            {
                seen += count;
            }
            if self.count == 0 { 0.0 } else { seen as f64 / self.count as f64 }
        };
        limits_ms.iter().map(share).collect()
    }

    fn merge(&mut self, other: &Spread) {
        other.counts.iter().for_each(|(steps, count)| *self.counts.entry(*steps).or_default() += count);
        self.count += other.count;
        self.sum_ns += other.sum_ns;
    }
}

/// What one way to choose a site costs clients: how much longer the round trip is than to the best.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Of all that a site was chosen for.
    pub spread: Spread,
    /// Those that were sent to the site of the lowest round trip.
    lowest: u64,
    /// Those that lost [`WITHIN`] at most.
    within: u64,
    /// Those that got no site.
    none: u64,
}

impl Losses {
    /// Takes in one client; `None` when it got no site.
    pub fn note(&mut self, loss: Option<Span>) {
        match loss {
            Some(loss) => {
                self.spread.note(loss);
                self.lowest += u64::from(loss == Span::ZERO);
                self.within += u64::from(loss <= WITHIN);
            }
            None => self.none += 1,
        }
    }

    /// Share of clients at the site of the lowest round trip. Those without a site count.
    pub fn lowest_share(&self) -> f64 {
        self.share(self.lowest)
    }

    /// Share of clients that lost [`WITHIN`] at most. Those without a site count.
    pub fn within_share(&self) -> f64 {
        self.share(self.within)
    }

    /// Clients without a site.
    pub fn without_site(&self) -> u64 {
        self.none
    }

    fn share(&self, part: u64) -> f64 {
        let all = self.spread.count + self.none;
        if all == 0 { 0.0 } else { part as f64 / all as f64 }
    }

    fn merge(&mut self, other: &Losses) {
        self.spread.merge(&other.spread);
        self.lowest += other.lowest;
        self.within += other.within;
        self.none += other.none;
    }
}

/// What came of draws.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many draws.
    pub draws: u64,
    /// Races: clients of all draws together that could ask.
    pub races: u64,
    /// Clients that could not: of their path to the master, or to any site, nothing is known.
    pub clients_without_path: u64,
    /// Where the first answer came from.
    pub race: Losses,
    /// The site that is nearest over the globe; empty where nobody knows where places are.
    pub distance: Losses,
    /// Each site as often as the others: what a random one costs in the mean.
    pub random: Losses,
    /// The one site of the draw with the least mean round trip to all clients, for all of them.
    pub fixed: Losses,
    /// The site with the least round trip.
    pub best: Losses,
    /// From the query to the first answer, over all clients that got one.
    pub first_answer: Spread,
    /// The predetermined delay, once per draw.
    pub predetermined_delay: Spread,
    /// Orders that masters sent.
    pub orders: u64,
    /// Answers that agents and masters sent.
    pub answers: u64,
    /// Races that the master answered itself.
    pub fallbacks: u64,
    /// Agents of all draws that stood down when the races began, by their reason.
    pub stood_down: BTreeMap<&'static str, u64>,
    /// Sum of the squares of the agents' clock errors against their mean, in ns², and how many agents.
    pub mutual_error_ns2: (u128, u64),
}

impl Tally {
    /// Root mean square of the agents' clock errors, the part that all of a draw have in common removed, in ms.
    pub fn mutual_error_ms(&self) -> f64 {
        let (sum, count) = self.mutual_error_ns2;
        if count == 0 { 0.0 } else { (sum as f64 / count as f64).sqrt() / 1e6 }
    }

    /// Adds the figures of other draws.
    pub fn merge(&mut self, other: &Tally) {
        self.draws += other.draws;
        self.races += other.races;
        self.clients_without_path += other.clients_without_path;
        for (own, others) in [
            (&mut self.race, &other.race),
            (&mut self.distance, &other.distance),
            (&mut self.random, &other.random),
            (&mut self.fixed, &other.fixed),
            (&mut self.best, &other.best),
        ] {
            own.merge(others);
        }
        self.first_answer.merge(&other.first_answer);
        self.predetermined_delay.merge(&other.predetermined_delay);
        self.orders += other.orders;
        self.answers += other.answers;
        self.fallbacks += other.fallbacks;
        other.stood_down.iter().for_each(|(reason, count)| *self.stood_down.entry(reason).or_default() += count);
        self.mutual_error_ns2.0 += other.mutual_error_ns2.0;
        self.mutual_error_ns2.1 += other.mutual_error_ns2.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(millis: impl Iterator<Item = i64>) -> Spread {
        let mut spread = Spread::default();
        millis.for_each(|millis| spread.note(Span::from_millis(millis)));
        spread
    }

    #[test]
    fn quantiles_and_shares_are_those_of_the_spans() {
        let spread = spread((1..=100).rev());
        assert_eq!((spread.quantile_ms(0.5), spread.quantile_ms(0.95), spread.quantile_ms(1.0)), (50.0, 95.0, 100.0));
        assert_eq!(spread.mean_ms(), 50.5);
        assert_eq!(spread.shares_below(&[0.5, 1.0, 1.5, 51.0, 200.0]), [0.0, 0.0, 0.01, 0.5, 1.0]);
        let none = Spread::default();
        assert_eq!((none.quantile_ms(0.5), none.mean_ms(), none.shares_below(&[1.0])), (0.0, 0.0, vec![0.0]));
    }

    #[test]
    fn a_client_without_a_site_counts_against_the_shares() {
        let mut losses = Losses::default();
        for loss in [Some(0), Some(5_000_000), Some(5_000_001), None] {
            losses.note(loss.map(Span::from_nanos));
        }
        assert_eq!((losses.lowest_share(), losses.within_share(), losses.without_site()), (0.25, 0.5, 1));
        assert!((losses.spread.mean_ms() - 3.333).abs() < 0.001);
    }

    #[test]
    fn merging_is_noting_all() {
        let mut parts = (spread(1..=40), spread(41..=100));
        parts.0.merge(&parts.1);
        assert_eq!(parts.0, spread((1..=100).rev()));
    }
}
