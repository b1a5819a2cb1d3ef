//! Startgun's core: everything that decides, nothing that touches the world.
//!
//! Time, randomness and bytes come in as arguments; effects go out as data. The same code runs in the servers, in the
//! simulator and in the tests. Every machine here is driven the same way: **mutate once** (`handle_*`), **drain
//! fully** (`poll_output` until `None`), **then wait** until `poll_timeout`.
//!
//! One packet's way: [`master::Shard`] takes a query, looks it up in [`dns`], and seals orders ([`wire`]) for the
//! agents; [`agent::Agent`] opens one, reads the master's timeline from its [`clock`], builds the answer from its
//! [`playbook`] and hands back a timed departure. [`master::Roster`] decides which agents may race.
#![forbid(unsafe_code)]

pub mod agent;
pub mod clock;
pub mod control;
pub mod dns;
pub mod histogram;
pub mod master;
pub mod mesh;
pub mod occupancy;
pub mod planted;
pub mod playbook;
pub mod rate;
pub mod time;
pub mod window;
pub mod wire;
