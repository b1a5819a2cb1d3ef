//! The search for faults: many small worlds in which everything goes wrong, each held against what must always hold.
//!
//! **Problem.** A scenario tests the faults that somebody thought of. What breaks a race is the third fault while the
//! second is not over. **Why the obvious answer fails.** Chance alone finds such a world and then nobody can read it:
//! twenty faults, of which two matter. **Sketch.** A seed draws a [`Plan`]: a world, a list of [`Fault`]s with their
//! times, and what clients ask. The plan is data, so that once something is broken the search leaves parts of it out
//! and runs the rest again, until nothing more can be left out ([`shrink`]). A judge looks at every fact of every
//! step: it knows the truth, all secrets and all that was sealed, so it needs no expectation of this very plan.
//!
//! ```
//! use startgun_sim::chaos::{Plan, run};
//!
//! let outcome = run(&Plan::draw(7), false);
//! assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
//! ```

mod clients;
mod forgers;
mod judge;
mod plan;
mod run;
mod search;
mod shrink;

pub use judge::{Invariant, Violation};
pub use plan::{Ask, Fault, Forgery, Plan};
pub use run::{HEALED_WITHIN, Outcome, run};
pub use search::{Found, Totals, search};
pub use shrink::shrink;
