//! Startgun's lab: real processes on network namespaces that an emulated wide-area network connects.
//!
//! **Problem.** A race is decided by fractions of a millisecond between processes in different cities. A simulator shows
//! that the logic is right, not that sockets, timestamps, timers and real resolvers do what it assumes; a real fleet is
//! neither at hand nor repeatable.
//!
//! **Sketch.** Each host of a [`scenario`] is a network namespace; the [`emulator`] holds every packet between two hosts for
//! as long as their path is long. The programs that run there are the ordinary ones: `startgun master`, `startgun agent`,
//! installed resolvers. All namespaces share one kernel clock, which is the truth that a report measures against;
//! programs get false clocks by configuration ([`scenario::ClockDraw`]).
//!
//! How a demo is put together:
//!
//! ```no_run
//! use std::process::Command;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use startgun_lab::client::{Ask, Load, Progress};
//! use startgun_lab::{namespace, scenario::Scenario, steal::CpuTimes, world::{SERVICE_IPV4, World}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // First of all, while the process has a single thread.
//! namespace::enter_user_namespace_if_needed()?;
//! let scenario = Scenario::find("cities")?;
//! let world = World::build(&scenario, 1)?;
//! // Each with a configuration that names its address and its false clock (`host.clock`).
//! let mut processes = vec![world.master.spawn(Command::new("startgun"))?];
//! for agent in &world.agents {
//!     processes.push(agent.spawn(Command::new("startgun"))?);
//! }
//! // Resolvers are started on `world.clients` in the same way and told to ask SERVICE_IPV4; without one the load is
//! // its own resolver. A load runs on a thread of its client's host.
//! let before = CpuTimes::read()?;
//! let load = Load {
//!     ask: Ask::Service((SERVICE_IPV4, 53).into()),
//!     wildcard_base: "www.cdn.test.".parse()?,
//!     prefix: "q1-c1".to_owned(),
//!     interval: Duration::from_millis(500),
//!     start_after: Duration::from_millis(60),
//!     duration: Duration::from_secs(30),
//! };
//! let progress = Arc::new(Progress::default());
//! let seen = Arc::clone(&progress);
//! let load = world.clients[0].thread("load", move || load.run(&seen))?;
//! let records = load.join().map_err(|_| "the load panicked")??;
//! // Then `report::ClientReport::of(&scenario.truth()[0], …, &records, …)` and `report::Report`.
//! println!("{} queries, stolen: {}", records.len(), CpuTimes::read()?.steal_share_since(&before));
//! # Ok(())
//! # }
//! ```
//!
//! Everything ends with the lab, however it ends: see [`process`].

#![forbid(unsafe_code)]

pub mod client;
pub mod emulator;
pub mod map;
pub mod namespace;
mod netlink;
pub mod process;
pub mod report;
pub mod resolver;
pub mod scenario;
pub mod steal;
pub mod world;
