//! Central answers that are held until races would have been answered.

use super::Output;
use crate::occupancy::Occupancy;
use crate::time::LocalTime;
use std::collections::VecDeque;

/// Most answers held: 50,000 a second for 0.3 s; 16,384 × 1.3 KB are 21 MB. Beyond, answers leave at once: a flood must not
/// make the rest wait for nothing.
const MAX_HELD: usize = 16_384;

/// Answers with the time at which each is due, soonest first.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<(LocalTime, Output)>);

impl Held {
    /// Holds an answer; gives it back when there is no room. One that is due before those that came earlier (the delay
    /// became shorter) leaves with them.
    pub(super) fn hold(&mut self, due: LocalTime, output: Output) -> Option<Output> {
        if self.0.len() >= MAX_HELD {
            return Some(output);
        }
        let due = self.0.back().map_or(due, |(last, _)| due.max(*last));
        self.0.push_back((due, output));
        None
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy::new("answers held", self.0.len(), MAX_HELD)
    }

    /// The next answer that is due.
    pub(super) fn pop_due(&mut self, now: LocalTime) -> Option<Output> {
        let is_due = self.0.front().is_some_and(|(due, _)| *due <= now);
        if is_due { self.0.pop_front().map(|(_, output)| output) } else { None }
    }

    /// When the next answer is due.
    pub(super) fn next_due(&self) -> Option<LocalTime> {
        self.0.front().map(|(due, _)| *due)
    }
}
