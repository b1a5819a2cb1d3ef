//! The last so many measurements, for percentiles over a sliding window.

use crate::time::Span;
use std::collections::VecDeque;

/// A bounded window of spans.
#[derive(Clone, Debug)]
pub struct Window {
    spans: VecDeque<Span>,
    capacity: usize,
}

impl Window {
    /// A window of the last `capacity` spans.
    pub fn new(capacity: usize) -> Self {
        Window { spans: VecDeque::with_capacity(capacity), capacity }
    }

    /// Adds a span and forgets the oldest beyond the capacity.
    pub fn push(&mut self, span: Span) {
        if self.spans.len() == self.capacity {
            self.spans.pop_front();
        }
        self.spans.push_back(span);
    }

    /// Spans in the window.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// The spans, least first.
    pub fn sorted(&self) -> Vec<Span> {
        let mut sorted: Vec<Span> = self.spans.iter().copied().collect();
        sorted.sort_unstable();
        sorted
    }
}

/// The nearest-rank percentile of sorted spans; `percent` from 0 to 100. `None` of nothing.
pub fn percentile(sorted: &[Span], percent: f64) -> Option<Span> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<Span> = (1..=100).map(Span::from_nanos).collect();
        assert_eq!(percentile(&sorted, 99.0), Some(Span::from_nanos(99)));
        assert_eq!(percentile(&sorted, 0.0), Some(Span::from_nanos(1)));
        assert_eq!(percentile(&sorted, 100.0), Some(Span::from_nanos(100)));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut window = Window::new(2);
        (1..=3).for_each(|nanos| window.push(Span::from_nanos(nanos)));
        assert_eq!(window.sorted(), [Span::from_nanos(2), Span::from_nanos(3)]);
    }
}
