//! What is going to happen, in order.
//!
//! Events wait in places that are used again, and only small keys move about in the heap: an event of a control document
//! weighs hundreds of bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Event;
use crate::clock::SimTime;

/// When an event is due, its number, and its place. Of one instant, the one that was scheduled first comes first.
type Key = (SimTime, u64, u32);

#[derive(Default)]
pub(super) struct Queue {
    due: BinaryHeap<Reverse<Key>>,
    places: Vec<Option<Event>>,
    free: Vec<u32>,
    sequence: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    pub(super) fn push(&mut self, at: SimTime, event: Event) {
        self.sequence += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                // As many as events wait at once: a limit far below 2^32 is the caller's.
                (self.places.len() - 1) as u32
            }
        };
        self.due.push(Reverse((at, self.sequence, place)));
    }

    /// Takes the first event that is due until `end`, inclusive.
    pub(super) fn pop_until(&mut self, end: SimTime) -> Option<(SimTime, Event)> {
        let Reverse((at, ..)) = *self.due.peek()?;
        if at > end {
            return None;
        }
        let Reverse((at, _, place)) = self.due.pop()?;
        self.free.push(place);
        self.places[place as usize].take().map(|event| (at, event))
    }
}
