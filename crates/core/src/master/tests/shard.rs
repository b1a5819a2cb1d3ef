//! One shard: queries in, orders out, receipts in.

mod admission;
mod bench;
mod identifiers;
mod races;
