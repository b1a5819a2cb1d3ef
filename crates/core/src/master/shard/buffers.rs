//! Buffers of packets that were sent, kept for those that come.

/// Most buffers kept: what one batch of 64 queries can cause, answers and datagrams to agents, twice over; 256 × 1.3 KB.
const MAX_SPARE: usize = 256;
/// Room of a new buffer: the longest datagram and the longest answer.
const ROOM: usize = 1_280;

/// Empty buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    /// A buffer, its content of no interest.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buffer: Vec<u8>) {
        if self.0.len() < MAX_SPARE {
            self.0.push(buffer);
        }
    }
}
