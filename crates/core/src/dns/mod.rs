//! DNS as far as a race needs it: reading a query, finding what to say, saying it.
//!
//! [`query`] decides what deserves an answer at all, [`zone`] holds the names (raced names beside plain ones, so that
//! wildcards and closest enclosers treat both alike), [`site`] what sites say to a raced name, [`answer`] builds the bytes.
//!
//! The `domain` crate reads zone files and knows types and codes. On the way of a query the bytes are our own: record
//! sets are encoded when they are loaded (`set`), and an answer is mostly a copy (`writer`).

pub mod answer;
pub mod cookie;
pub mod name;
pub mod query;
mod set;
pub mod sign;
pub mod site;
pub mod transfer;
pub mod tsig;
mod wire;
mod writer;
pub mod zone;

pub use answer::{MAX_ANSWER, Response};
pub use name::CanonicalName;
pub use query::{Query, Verdict};
pub use site::{Answers, PreparedAnswers};
pub use zone::{Lookup, RacedName, Record, Zone, ZoneSet};
