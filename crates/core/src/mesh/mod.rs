//! The agents' mesh: every clock from all paths, instead of from the one path to the master.
//!
//! **Problem.** A two-way exchange cannot see asymmetry: if a packet is 20 ms out and 60 ms back, the offset is
//! 20 ms wrong, steadily, with no jitter to show it. An agent that knows the master's timeline from its own path to
//! the master inherits that path's asymmetry whole. Over real cities at 5 % asymmetry this is 8 ms, and costs half of
//! what a race gains.
//!
//! **Why the obvious answer fails.** More exchanges on the same path repeat the same error. The mean over all
//! peers is worse than it looks: a path's error grows with its round trip, so the far paths drown the near ones. Plain
//! weighted least squares is right while everybody is honest, but one agent that tells each peer a different time, or
//! claims a short round trip (it can: it states how long it held the packet), pulls everybody with it.
//!
//! **Sketch.** Nodes are the hosts, agents and masters; node n's unknown x_n is by how much its clock is ahead of
//! the reference master's at one common instant. A [`MeshEdge`] from i to j measured x_j − x_i, wrong by e × R with an
//! e of about [`ASYMMETRY`] that belongs to the pair of hosts, and by its own statistical error. [`solve()`] is least
//! squares on this graph, each path weighted by 1/((e·R)² + error²), the reference fixed at zero:
//!
//! ```text
//!   measured:   a ──── b      x_b − x_a = 3.1 ± 0.5      solved:  the clocks that fit all paths best;
//!               │ ╲  ╱ │      x_m − x_a = …                       what a path still misses is its residual:
//!               │  ╲╱  │                                          far outside its weight, it is left out; a
//!               │  ╱╲  │                                          node whose paths fit nothing is suspected,
//!               m ──── c                                          and left out of everybody else's clock
//! ```
//!
//! Asymmetries of different paths are independent, so they average out: 12 agents are left with 0.21 of the error that
//! they have alone, 30 with 0.12. What belongs to one *site* (its access line) leaves no residual and stays.
//!
//! **Why the guaranteed interval stays sound.** It is made from the direct exchanges with the master alone
//! ([`crate::clock`]): nothing that a peer says enters it. A solution of the mesh is only a point, and the caller
//! clamps it into that interval. So whatever peers claim, together or alone, the true offset stays within the stated
//! bound, and a lie can move an estimate by no more than that bound. Nor can a liar empty anybody's interval.
//!
//! **What no solver can see.** A node that tells all peers the *same* wrong time is only wrong itself. Lies smaller
//! than what the honest paths leave open are noise to any test: a near peer follows such a lie by up to half of it.
//! More colluding nodes than honest ones are the truth.
//!
//! References: Barooah & Hespanha 2007 (estimation on graphs, effective resistance as variance); Solis, Borkar &
//! Kumar 2006 (clocks of a network by least squares over loops); Black & Rangarajan 1996 and Blake & Zisserman 1987
//! (redescending weights by graduated non-convexity); Hestenes & Stiefel 1952 (conjugate gradients).

mod graph;
mod solve;

use crate::time::Span;
pub use solve::solve;

/// Most hosts in one mesh: 1,024 agents and 64 masters.
pub const MAX_NODES: usize = 1_088;

/// Up to so many agents, each exchanges with every other; beyond, with so many neighbours.
pub const MAX_NEIGHBOURS: usize = 64;

/// Most edges in one problem: 1,024 agents × 64 neighbours (a pair counts twice when both ends report it) = 65,536;
/// 1,024 agents × 64 masters = 65,536; 64 × 63 between masters = 4,032.
pub const MAX_EDGES: usize = 1_024 * MAX_NEIGHBOURS + 1_024 * 64 + 64 * 63;

/// One standard deviation of a path's offset error, as a share of its round trip R: with R(½ + e) out and R(½ − e)
/// back a two-way exchange is e × R wrong. |e| ≤ ½ by causality.
pub const ASYMMETRY: f64 = 0.05;

/// What a two-way exchange between two nodes measured, brought to the common instant by the edge's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshEdge {
    /// The node that measured, an index below [`Problem::nodes`].
    pub from: u16,
    /// Its peer, another index.
    pub to: u16,
    /// `to`'s clock − `from`'s clock, positive when `to` is ahead: x_to − x_from.
    pub offset: Span,
    /// The least round trip of the path, not negative. Less than 200 µs counts as 200 µs.
    pub round_trip: Span,
    /// One standard deviation of what queueing, stamps and the way to the common instant add; not negative. An edge
    /// that is no network path (a disciplined host clock) has a round trip of zero and its whole error here.
    pub error: Span,
}

/// One mesh at one instant: the same edges, in any order, give every agent the same [`Solution`].
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// How many nodes there are. Those from [`MAX_NODES`] on are not solved.
    pub nodes: usize,
    /// The master whose clock is zero, and who is never suspected.
    pub reference: u16,
    /// The paths; those from [`MAX_EDGES`] on are not used. A pair may occur several times, from either end: what was
    /// measured is averaged, for their asymmetry is the same.
    pub edges: &'a [MeshEdge],
}

/// Every node's clock, and who did not fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// By node: x, its clock − the reference's, saturating at ±292 years; `None` where no path leads to the reference.
    /// A [`RaceClock`](crate::clock::RaceClock)'s θ = race − local is −x. A suspected node's comes from its own paths to
    /// the nodes that are not.
    pub offsets: Vec<Option<Span>>,
    /// By node: one standard deviation of x against the reference, from the paths' weights and how well they fit; never
    /// too small by its method (a bound on the posterior's), statistical all the same: no proof.
    pub expected_errors: Vec<Option<Span>>,
    /// By node: one standard deviation of x against the mean of all clocks, likewise. Races depend on nothing else: what all
    /// agents' clocks are wrong by together moves a race, and no winner. Usually 0.7 of the expected error, but more than
    /// it for an agent beside the reference.
    pub mutual_errors: Vec<Option<Span>>,
    /// What did not take part in others' clocks, in the order of [`Problem::edges`].
    pub left_out: Vec<LeftOut>,
    /// Nodes most of whose paths fit nothing, ascending.
    pub suspects: Vec<u16>,
    /// Robust size of the residuals over what their weights say: about 1 when paths are as asymmetric as assumed, 2 when
    /// they are twice as much. Never below 1. Expected errors are already multiplied by it.
    pub scale: f64,
}

/// A path that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its index in [`Problem::edges`].
    pub edge: usize,
    /// Why.
    pub reason: Reason,
    /// What it measured − what the solution says, saturating; zero where the solution says nothing.
    pub residual: Span,
}

/// Why a path was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An index without a node, a path from a node to itself, a negative round trip or error, or beyond [`MAX_EDGES`].
    Invalid,
    /// No path leads from it to the reference.
    Unconnected,
    /// It belongs to a suspected node.
    Suspect,
    /// More than 4 standard deviations off, so that it kept less than half of its weight, from 5 on none: a route change,
    /// or a lie.
    Outlying,
}

#[cfg(test)]
mod tests;
