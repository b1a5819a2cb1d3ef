//! A world in one thread: the core's machines on a network, clocks and a chance that a single seed decides.
//!
//! **Problem.** What a race promises ("the nearest wins", "a bound never lies", "nobody departs twice") must hold for
//! packets that are lost, doubled and overtaken, between clocks that are wrong. **Why the obvious answer fails.** Real
//! hosts show each of these once in a while, never again on demand, and never the truth to compare with. **Sketch.**
//! [`World`] owns one queue of events in true time ([`SimTime`]). It drives the very [`Agent`], [`Roster`] and
//! [`Shard`] that the servers run: each sees its own [`HostClock`] only; what it wants sent becomes an event, after the
//! delay and luck of its [`Path`]. Afterwards [`World::finishes`], [`World::departures`] and [`World::readings`] say
//! what happened, in true time, and [`World::trace`] says it line by line: the same [`Options`] and seed give the same
//! trace, byte for byte.
//!
//! The control channel is a pipe without loss that keeps the order; a session's secret comes from the seed, in place of
//! the TLS exporter. A host takes no time to think: only [`MasterOptions::queue_dwell`] and
//! [`AgentOptions::departure_lateness_mean`] make one slow.
//!
//! ```
//! use startgun_core::time::Span;
//! use startgun_sim::{Host, Options, World};
//!
//! let mut options = Options::new(2, 1);
//! options.set_delay(Host::Agent(1), Host::Client(0), Span::from_millis(5));
//! let mut world = World::new(options, 7);
//! world.run_until_ready();
//! world.validate(0, 0);
//! let query = world.query(0, 0, "a.cdn.test");
//! world.run_for(Span::from_secs(1));
//! assert_eq!(world.finishes()[query].winner(), Some(Host::Agent(1)));
//! ```
//!
//! [`Agent`]: startgun_core::agent::Agent
//! [`Roster`]: startgun_core::master::Roster
//! [`Shard`]: startgun_core::master::Shard
#![forbid(unsafe_code)]

pub mod chaos;
mod clock;
pub mod forecast;
mod options;
mod random;
mod records;
pub mod scale;
pub mod scenario;
mod trace;
mod world;

pub use clock::{HostClock, SimTime, Wander};
pub use options::{
    AgentOptions, Bursts, Hold, Host, HostTimeOptions, MAX_CLIENTS, MAX_HOSTS, MAX_PLACES, MasterOptions, Options,
    Path, Places, Records,
};
pub use records::{Arrival, DepartureRecord, Finish, Occasion, ReadingRecord, Traffic};
pub use world::{Disturbance, Group, Suspended, World};
