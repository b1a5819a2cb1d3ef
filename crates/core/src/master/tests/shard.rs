//! One shard: queries in, orders out, receipts in.

mod admission;
mod bench;
mod cookies;
mod identifiers;
mod races;
mod reload;
