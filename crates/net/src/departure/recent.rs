//! The latest measurements of one quantity.

use startgun_core::time::Span;

/// The latest `N` measurements; older ones are forgotten.
#[derive(Debug)]
pub(super) struct Recent<const N: usize> {
    spans: [Span; N],
    /// Where the next one goes.
    next: usize,
    count: usize,
}

impl<const N: usize> Recent<N> {
    pub(super) fn new() -> Self {
        Recent { spans: [Span::ZERO; N], next: 0, count: 0 }
    }

    pub(super) fn add(&mut self, span: Span) {
        self.spans[self.next] = span;
        self.next = (self.next + 1) % N;
        self.count = (self.count + 1).min(N);
    }

    /// How many are kept.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The quantile at `hundredths` percent, below 100; zero without measurements. Sorts a copy: a microsecond for 64.
    pub(super) fn quantile(&self, hundredths: usize) -> Span {
        let mut sorted = self.spans;
        let sorted = &mut sorted[..self.count];
        sorted.sort_unstable();
        sorted.get(self.count * hundredths / 100).copied().unwrap_or(Span::ZERO)
    }
}
