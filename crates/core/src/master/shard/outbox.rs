//! What a shard wants done, and buffers of packets that were sent, kept for those that come.

use super::Output;
use std::collections::VecDeque;

/// Most buffers kept: what one batch of 64 queries can cause, answers and datagrams to agents, twice over; 256 × 1.3 KB.
const MAX_SPARE: usize = 256;
/// Room of a new buffer: the longest datagram and the longest answer.
const ROOM: usize = 1_280;

/// Outputs in their order. What one call caused is taken out before the next, so nothing piles up.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Output>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// A buffer, its content of no interest.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(buffer);
        }
    }

    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
