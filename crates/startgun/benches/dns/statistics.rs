//! Medians over rounds, and how far they can be trusted.
//!
//! The interval is of order statistics: whatever the distribution, the true median lies between the k-th smallest and the
//! k-th greatest of n values with probability 1 − 2 · P(B ≤ k − 1), B binomial of n fair coins. Of 9 rounds these are
//! the second and the second to last, at 96.1 %.

/// What is wanted of an interval.
const COVERAGE: f64 = 0.95;

/// A median with its interval.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// Of at least one value; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (rank, _) = interval(count)?;
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        Some(Estimate { median, low: sorted[rank - 1], high: sorted[count - rank] })
    }
}

/// The rank, from 1, of both ends of the interval of so many values, and its coverage: the narrowest that covers
/// [`COVERAGE`], or the widest there is.
pub fn interval(count: usize) -> Option<(usize, f64)> {
    if count == 0 {
        return None;
    }
    let mut best = (1, coverage(count, 1));
    for rank in 2..=count.div_ceil(2) {
        if coverage(count, rank) < COVERAGE {
            break;
        }
        best = (rank, coverage(count, rank));
    }
    Some(best)
}

fn coverage(count: usize, rank: usize) -> f64 {
    let mut probability = 0.5_f64.powi(count as i32);
    let mut outside = 0.0;
    for heads in 0..rank {
        outside += 2.0 * probability;
        probability *= (count - heads) as f64 / (heads + 1) as f64;
    }
    (1.0 - outside).max(0.0)
}
