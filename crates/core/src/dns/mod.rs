//! DNS as far as a race needs it: reading a query, finding what to say, saying it.
//!
//! The wire format is the `domain` crate's; here is only what is particular to an authoritative server that races:
//! [`query`] decides what deserves an answer at all, [`zone`] holds the names (raced names beside plain ones, so
//! that wildcards and closest enclosers treat both alike), [`answer`] builds the bytes.

pub mod answer;
pub mod name;
pub mod query;
pub mod sign;
pub mod zone;

pub use answer::{MAX_ANSWER, Response};
pub use name::CanonicalName;
pub use query::{Query, Verdict};
pub use zone::{Lookup, Record, ZoneSet};
