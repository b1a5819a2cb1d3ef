//! What a race would bring: sites at given places, every other place a client, the winners of real races.
//!
//! **Problem.** Whether a race is worth its while depends on the paths between one's own sites and clients, on how
//! uneven their two directions are, and on the clocks. **Why the obvious answer fails.** The least entry of each column of
//! a matrix of round trips says where a perfect race would send clients. It knows nothing of what decides in practice:
//! what agents make of the time over those very paths, orders that come too late, agents that stand down.
//! **Sketch.** Each draw of a [`Plan`] is a [`World`]: masters, agents and clients on the
//! [`Network`]'s paths, which get an asymmetry each. The agents set their clocks for as long as that takes; then every
//! client asks once, and the first answer to arrive decides. [`Tally`] holds what the round trip to that site is longer
//! by than to the best, and the same of other ways to choose a site.
//!
//! What a draw consists of comes from the seed, its number, and what it is for alone: the same draw has the same sites
//! and asymmetries whatever the clocks are, and figures are sums of integers, whichever thread computed them.
//!
//! [`World`]: crate::World

mod draw;
mod network;
mod plan;
mod tally;

pub use network::{Jitter, Network, Trip, great_circle_km};
pub use plan::{Clocks, MAX_SITES, Plan, Sites};
pub use tally::{Losses, Spread, Tally, WITHIN};
