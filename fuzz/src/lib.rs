//! What each of Startgun's parsers must do with any bytes at all.
//!
//! **Problem.** A fuzzer runs for minutes on a special build; a test runs on every change. When the two check different
//! things, what the fuzzer found comes back unnoticed. **Sketch.** A target is a function from bytes to nothing that panics
//! when something is wrong. There is one for each parser, here. libFuzzer calls it (`fuzz_targets`), and so does a test of
//! the startgun crate (`crates/startgun/tests/fuzz_corpora.rs`), with every file below `corpus` and `regressions`.
//!
//! | target | bytes | parsers |
//! |---|---|---|
//! | [`dns_query`] | a DNS message | `Query::parse`, the answers over UDP and TCP, those of sites |
//! | [`zone_file`] | a zone file | the zone files of a master's configuration, `ZoneSet` |
//! | [`frames`] | an opened datagram | `wire::frame::frames` |
//! | [`datagrams`] | [steps](datagrams) | an agent and a shard under the right keys, and sealed datagrams without them |
//! | [`control`] | JSON documents, one a line | `ToAgent`, `ToMaster`, `Playbook`, the roster and the agent behind them |
//! | [`transfer`] | flags, and a primary's messages over TCP | `dns::transfer::Inbound`, `dns::tsig` |
//! | [`scenario`] | a scenario of the demo | `Scenario::parse` |
//! | [`configuration`] | a configuration file | `startgun::config` |
//!
//! Targets are deterministic: time is counted in steps, and keys are constants.

mod answers;
mod control;
pub mod datagrams;
mod dns;
mod files;
mod service;
mod transfer;
mod wire;

pub use control::control;
pub use datagrams::datagrams;
pub use dns::dns_query;
pub use files::{configuration, scenario, zone_file};
pub use transfer::transfer;
pub use wire::frames;

/// A target: panics where its parser does not do what it must.
pub type Target = fn(&[u8]);

/// All targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("dns_query", dns_query),
    ("zone_file", zone_file),
    ("frames", frames),
    ("datagrams", datagrams),
    ("control", control),
    ("transfer", transfer),
    ("scenario", scenario),
    ("configuration", configuration),
];
