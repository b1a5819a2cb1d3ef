//! What all connections may hold in their buffers together.
//!
//! A bound per connection alone is either too small for a client that pipelines or, times all connections, too large for
//! the host. So each connection has an allowance that nobody can take from it, and what goes beyond comes from one pool.
//! When the pool is empty, only who wants more than the allowance is turned away: clients that hoard cannot keep those
//! out that ask one question.

use std::cell::Cell;
use std::rc::Rc;

/// What every connection may hold in any case, in bytes: a few queries and their answers. For 512 connections, 2 MiB.
const ALLOWANCE_BYTES: usize = 4_096;
/// What all connections may hold beyond that. One that is full to the brim holds 64 KiB of a query, a read of 16 KiB and
/// 80 KiB of answers, in vectors of up to twice as much: 100 of those, or a thousand that hold some answers each.
const POOL_BYTES: usize = 32 << 20;

/// The bytes that are left for all.
#[derive(Clone, Debug)]
pub(super) struct Pool(Rc<Cell<usize>>);

impl Default for Pool {
    fn default() -> Self {
        Pool(Rc::new(Cell::new(POOL_BYTES)))
    }
}

impl Pool {
    /// The share of a connection that holds nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { pool: self.clone(), taken: 0 }
    }
}

/// What one connection has of the pool; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    pool: Pool,
    taken: usize,
}

impl Share {
    /// The connection holds `bytes` now. `false` when the pool does not have them: what it had stays taken, and the
    /// connection must go.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let needed = bytes.saturating_sub(ALLOWANCE_BYTES);
        let Some(left) = (self.pool.0.get() + self.taken).checked_sub(needed) else { return false };
        self.pool.0.set(left);
        self.taken = needed;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.0.set(self.pool.0.get() + self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_turns_away_who_wants_more_than_the_allowance() {
        let pool = Pool::default();
        let (mut greedy, mut modest, mut late) = (pool.share(), pool.share(), pool.share());
        assert!(greedy.resize(POOL_BYTES + ALLOWANCE_BYTES));
        assert!(modest.resize(ALLOWANCE_BYTES));
        assert!(!late.resize(ALLOWANCE_BYTES + 1));
        assert!(late.resize(10), "it goes on with less");
        assert!(!greedy.resize(POOL_BYTES + ALLOWANCE_BYTES + 1));
        assert!(greedy.resize(POOL_BYTES + ALLOWANCE_BYTES - 1));
        assert!(late.resize(ALLOWANCE_BYTES + 1));
        drop((greedy, modest, late));
        assert_eq!(pool.0.get(), POOL_BYTES);
    }
}
