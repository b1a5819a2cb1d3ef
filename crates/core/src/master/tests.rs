//! Roster and shards by themselves; their agents are tables of keys and hand-sealed receipts.

mod roster;
mod shard;
