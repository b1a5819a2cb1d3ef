//! Robust least squares on the mesh: who fits, who does not, and everybody's clock from those who do.
//!
//! Least squares alone believes short paths so much that one false short one bends everybody else's residuals instead
//! of its own. So the solution starts with a ground error τ added to every path, of the size of a usual path's own: all
//! paths weigh nearly the same and none has leverage. The first rounds are convex (Huber), the next let go of what lies
//! far out (redescending), while τ is halved until only the paths' own errors are left. A near path is trusted for what
//! it is as soon as the rest agrees with it.
//!
//! A node that lies to everybody is found as a whole, because its small lies would pass as noise, path by path: by how
//! much does the fit improve without the node, against the number of its paths? In least squares that improvement is χ²
//! with as many degrees of freedom, less one.
//!
//! Cost: about 25 solutions for each of at most [`MAX_SUSPECTS`] + 1 fits, 2 per candidate, and one per node of a small
//! mesh for its error. On one shared core an honest mesh of 12 agents takes 0.3 ms, 64 take 50 ms, 1,024 with 64
//! neighbours 1 s; a suspect adds as much again. So a large mesh is solved seldom: asymmetries do not change by the second.

use super::graph::{Graph, Pair, Precision};
use super::{LeftOut, MeshEdge, Problem, Reason, Solution};
use crate::time::Span;

/// Up to so many standard deviations a path has its full weight: 1 in 370 honest ones is beyond.
const FULL_WEIGHT: f64 = 3.0;

/// From so many on it has none: 5 × 2 × 5 % is ½, with [`MAX_SCALE`]. An honest two-way exchange cannot be wrong by more
/// than half of its round trip.
const NO_WEIGHT: f64 = 5.0;

/// By more than this the residuals' size does not widen the limits above; see there.
const MAX_SCALE: f64 = 2.0;

/// What is left of the weight of a path that is left out, so that no node comes loose: divided by its distance, so its
/// pull is a millionth of a standard deviation's, however far out it lies.
const REMNANT: f64 = 1e-6;

/// Convex rounds at the greatest τ. They need not converge: what a lie still pulls after them the next rounds let go.
const CONVEX_ROUNDS: usize = 6;

/// Where halving τ ends, in nanoseconds: the error of the shortest path, see `LEAST_ROUND_TRIP_NS`.
const LEAST_TAU_NS: f64 = 10_000.0;

/// Most halvings of τ: from 160 s, an error no path has, to [`LEAST_TAU_NS`].
const MAX_HALVINGS: usize = 24;

/// Most rounds at τ = 0, ended when nothing moves by [`SETTLED_NS`] any more.
const MAX_ROUNDS: usize = 8;

/// A round that moves no clock by this, in nanoseconds, is the last: 10 of them are still below a stamp's error.
const SETTLED_NS: f64 = 10.0;

/// Rounds to see how the others fit without one node. They start from the fit with it.
const TRIAL_ROUNDS: usize = 2;

/// A node is suspected when the fit's improvement exceeds its expectation by so many standard deviations: on real
/// latencies 5 honest nodes of 16,800 were, in 800 meshes. At 4.0 it is 13, and hardly a liar more is found.
const SUSPICION: f64 = 4.5;

/// A node with fewer paths is not suspected: two that disagree do not tell which of them is wrong.
const LEAST_PATHS: usize = 3;

/// Most nodes that are suspected; and never more than a quarter of all.
const MAX_SUSPECTS: usize = 16;

/// Most nodes that are tried for suspicion in one round, those with the largest residuals first.
const MAX_CANDIDATES: usize = 16;

/// Paths beyond what determines the clocks; with fewer the residuals' size says nothing.
const LEAST_REDUNDANCY: usize = 8;

/// Up to so many nodes each one's error against the mean is computed exactly, by a solution each: 64 agents, 64 masters.
const MAX_EXACT: usize = 128;

/// The median of |z| for a standard normal z.
const MEDIAN_OF_NORMAL: f64 = 0.674_49;

/// Clocks that fit those pairs that are active.
#[derive(Clone)]
struct Fit {
    x: Vec<i128>,
    located: Vec<bool>,
    active: Vec<bool>,
    /// By pair: residual over standard deviation.
    z: Vec<f64>,
    /// Size of the z of active pairs, at least 1.
    scale: f64,
}

/// A node that is placed by its paths to others alone.
struct Placed {
    x: i128,
    variance: f64,
}

/// Every node's clock against the reference's, from all paths that fit.
///
/// Deterministic, whatever the order of the edges. Expects nothing of them: see [`Reason::Invalid`].
pub fn solve(problem: &Problem<'_>) -> Solution {
    let graph = Graph::new(problem);
    let (fit, excluded) = fit_without_suspects(&graph);
    let weights = fit.weights(&graph, 0.0);
    let spread = fit.scale * fit.scale;
    let mut variances: Vec<f64> = graph.variances(&weights).iter().map(|variance| variance * spread).collect();
    let mut x: Vec<Option<i128>> = fit.x.iter().zip(&fit.located).map(|(x, located)| located.then_some(*x)).collect();
    place_the_rest(&graph, &mut x, &mut variances);
    let mutual_variances = mutual_variances(&graph, &fit, &weights, &variances);

    let suspects: Vec<u16> = (0..graph.nodes).filter(|&node| excluded[node]).map(|node| node as u16).collect();
    let mut left_out = Vec::new();
    for (edge, measured) in problem.edges.iter().enumerate() {
        if let Some(reason) = fit.reason(&graph, graph.pair_of_edge[edge], &excluded) {
            left_out.push(LeftOut { edge, reason, residual: residual(measured, &x) });
        }
    }
    let all = |mut spans: Vec<Option<Span>>| {
        spans.resize(problem.nodes, None);
        spans
    };
    let errors = |variances: &[f64]| {
        let error = |(x, variance): (&Option<i128>, &f64)| x.map(|_| deviation(*variance));
        x.iter().zip(variances).map(error).collect()
    };
    Solution {
        offsets: all(x.iter().map(|x| x.map(saturate)).collect()),
        expected_errors: all(errors(&variances)),
        mutual_errors: all(errors(&mutual_variances)),
        left_out,
        suspects,
        scale: fit.scale,
    }
}

/// By node: the variance of its clock against the mean of all fitted clocks, in ns². Exact for the nodes of a small fit;
/// else the deviation against the mean is at most the node's own and the mean one together (Minkowski).
fn mutual_variances(graph: &Graph, fit: &Fit, weights: &[f64], variances: &[f64]) -> Vec<f64> {
    let located: Vec<usize> = (0..graph.nodes).filter(|&node| fit.located[node]).collect();
    let mean = located.iter().map(|&node| variances[node].sqrt()).sum::<f64>() / located.len().max(1) as f64;
    let bound = |node: usize| (variances[node].sqrt() + mean) * (variances[node].sqrt() + mean);
    let exact = |node: usize| graph.mutual_variance(weights, &fit.located, node) * fit.scale * fit.scale;
    let small = located.len() <= MAX_EXACT;
    (0..graph.nodes).map(|node| if small && fit.located[node] { exact(node) } else { bound(node) }).collect()
}

/// Leaves out one node after the other while that makes the others fit much better, then takes back who was suspected
/// for what another did.
fn fit_without_suspects(graph: &Graph) -> (Fit, Vec<bool>) {
    let most = MAX_SUSPECTS.min(graph.nodes.saturating_sub(1) / 4);
    let mut excluded = vec![false; graph.nodes];
    let mut suspects = Vec::new();
    let mut fit = Fit::anneal(graph, &excluded);
    while suspects.len() < most {
        let Some(node) = most_outlying(graph, &fit) else { break };
        excluded[node] = true;
        suspects.push(node);
        fit = Fit::anneal(graph, &excluded);
    }
    if suspects.len() > 1 {
        for node in suspects {
            let Some(with) = fit.with(graph, node) else { continue };
            if suspicion(graph, &with, &fit, node) < SUSPICION {
                excluded[node] = false;
                fit = with;
            }
        }
    }
    (fit, excluded)
}

/// The node without which the others fit best, if that is much better.
fn most_outlying(graph: &Graph, fit: &Fit) -> Option<usize> {
    let eligible =
        |&node: &usize| node != graph.reference && fit.located[node] && fit.paths(graph, node).count() >= LEAST_PATHS;
    let excess = |node: usize| {
        let (sum, count) = fit
            .paths(graph, node)
            .fold((0.0, 0.0), |(sum, count), index| (sum + clamped_square(fit.z[index] / fit.scale), count + 1.0));
        (sum - count) / count.sqrt()
    };
    let mut candidates: Vec<(f64, usize)> =
        (0..graph.nodes).filter(eligible).map(|node| (excess(node), node)).collect();
    candidates.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
    candidates.truncate(MAX_CANDIDATES);
    let tried = candidates.into_iter().map(|(_, node)| (suspicion(graph, fit, &fit.without(graph, node), node), node));
    let (suspicion, node) = tried.max_by(|left, right| left.0.total_cmp(&right.0).then(right.1.cmp(&left.1)))?;
    (suspicion >= SUSPICION).then_some(node)
}

/// By how many standard deviations `without` the node fits better than `with` it, beyond what leaving out an honest node
/// gains. Both are judged by the scale of the fit without it. One path that is far out counts at most 9, so that it
/// takes more than one to make a suspect.
fn suspicion(graph: &Graph, with: &Fit, without: &Fit, node: usize) -> f64 {
    let cost = |fit: &Fit| -> f64 {
        let active = fit.z.iter().zip(&fit.active).filter(|(_, active)| **active);
        active.map(|(z, _)| clamped_square(z / without.scale)).sum()
    };
    let freedom = with.paths(graph, node).count() as f64 - 1.0;
    (cost(with) - cost(without) - freedom) / (2.0 * freedom).sqrt()
}

impl Fit {
    /// The fit of all that is connected with the reference without the `excluded` nodes.
    fn anneal(graph: &Graph, excluded: &[bool]) -> Fit {
        let start = graph.start(excluded);
        let located: Vec<bool> = start.iter().map(Option::is_some).collect();
        let active: Vec<bool> = graph.pairs.iter().map(|pair| located[pair.low] && located[pair.high]).collect();
        let x = start.into_iter().map(Option::unwrap_or_default).collect();
        let mut fit = Fit { x, located, active, z: Vec::new(), scale: 1.0 };
        let sigmas = graph.pairs.iter().zip(&fit.active).filter(|(_, active)| **active).map(|(pair, _)| pair.sigma_ns);
        let mut tau_ns = median(sigmas.collect()).unwrap_or(0.0);
        for _ in 0..CONVEX_ROUNDS {
            fit.judge(graph, tau_ns);
            let weights = fit.each(graph, tau_ns, |z| 1.0 / z.max(1.0));
            graph.refine(&mut fit.x, &weights, Precision::Rough);
        }
        for _ in 0..MAX_HALVINGS {
            if tau_ns < LEAST_TAU_NS {
                break;
            }
            fit.judge(graph, tau_ns);
            let weights = fit.weights(graph, tau_ns);
            graph.refine(&mut fit.x, &weights, Precision::Rough);
            tau_ns /= 2.0;
        }
        fit.settle(graph, MAX_ROUNDS, Precision::Fine);
        fit
    }

    /// This fit, with `node` left out of it.
    fn without(&self, graph: &Graph, node: usize) -> Fit {
        let mut fit = self.clone();
        for &index in &graph.pairs_of_node[node] {
            fit.active[index] = false;
        }
        fit.located[node] = false;
        fit.settle(graph, TRIAL_ROUNDS, Precision::Rough);
        fit
    }

    /// This fit, with `node` taken back; `None` if none of its paths leads to a node of the fit.
    fn with(&self, graph: &Graph, node: usize) -> Option<Fit> {
        let mut fit = self.clone();
        let placed = place(graph, node, |peer| self.located[peer].then_some((self.x[peer], 0.0)))?;
        fit.x[node] = placed.x;
        fit.located[node] = true;
        for &index in &graph.pairs_of_node[node] {
            fit.active[index] = self.located[graph.pairs[index].peer(node)];
        }
        fit.settle(graph, MAX_ROUNDS, Precision::Fine);
        Some(fit)
    }

    /// Rounds of weighing and refining until nothing moves, `rounds` at most.
    fn settle(&mut self, graph: &Graph, rounds: usize, precision: Precision) {
        for _ in 0..rounds {
            self.judge(graph, 0.0);
            let weights = self.weights(graph, 0.0);
            if graph.refine(&mut self.x, &weights, precision) < SETTLED_NS {
                break;
            }
        }
        self.judge(graph, 0.0);
    }

    /// Sets z and scale for a ground error of `tau_ns`.
    fn judge(&mut self, graph: &Graph, tau_ns: f64) {
        self.z = graph.pairs.iter().map(|pair| pair.residual_ns(&self.x) / variance(pair, tau_ns).sqrt()).collect();
        let sizes: Vec<f64> = self.active().map(|index| self.z[index].abs()).collect();
        let unknowns = self.located.iter().filter(|located| **located).count().saturating_sub(1);
        let redundancy = sizes.len().saturating_sub(unknowns);
        self.scale = 1.0;
        if redundancy >= LEAST_REDUNDANCY {
            // Residuals are smaller than errors: the clocks followed some of them.
            let followed = (sizes.len() as f64 / redundancy as f64).sqrt();
            self.scale = median(sizes).map_or(1.0, |median| (followed * median / MEDIAN_OF_NORMAL).max(1.0));
        }
    }

    /// By pair: its weight in least squares, 0 for those that are not active.
    fn weights(&self, graph: &Graph, tau_ns: f64) -> Vec<f64> {
        let scale = self.scale.min(MAX_SCALE);
        self.each(graph, tau_ns, |z| share(z / scale))
    }

    fn each(&self, graph: &Graph, tau_ns: f64, share: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut weights = vec![0.0; graph.pairs.len()];
        for index in self.active() {
            weights[index] = share(self.z[index].abs()) / variance(&graph.pairs[index], tau_ns);
        }
        weights
    }

    fn active(&self) -> impl Iterator<Item = usize> {
        self.active.iter().enumerate().filter(|(_, active)| **active).map(|(index, _)| index)
    }

    /// The active pairs of one node.
    fn paths(&self, graph: &Graph, node: usize) -> impl Iterator<Item = usize> {
        graph.pairs_of_node[node].iter().copied().filter(|&index| self.active[index])
    }

    fn reason(&self, graph: &Graph, pair: Option<usize>, suspected: &[bool]) -> Option<Reason> {
        let Some(index) = pair else { return Some(Reason::Invalid) };
        let pair = &graph.pairs[index];
        if suspected[pair.low] || suspected[pair.high] {
            return Some(Reason::Suspect);
        }
        if !self.active[index] {
            return Some(Reason::Unconnected);
        }
        let kept = share(self.z[index].abs() / self.scale.min(MAX_SCALE));
        (kept < 0.5).then_some(Reason::Outlying)
    }
}

/// Places suspected nodes by their own paths to the others, then those that only these lead to, and so on.
fn place_the_rest(graph: &Graph, x: &mut [Option<i128>], variances: &mut [f64]) {
    loop {
        let at = |peer: usize| x[peer].map(|x| (x, variances[peer]));
        let unplaced = (0..graph.nodes).filter(|&node| x[node].is_none());
        let placed: Vec<(usize, Placed)> =
            unplaced.filter_map(|node| place(graph, node, at).map(|placed| (node, placed))).collect();
        if placed.is_empty() {
            break;
        }
        for (node, placed) in placed {
            x[node] = Some(placed.x);
            variances[node] = placed.variance;
        }
    }
}

/// What one path says of a node that is placed by itself.
struct Path {
    /// Where the node would be, relative to what its first path says.
    x_ns: f64,
    /// Of that, in ns²: the path's and its peer's.
    variance: f64,
    peer_variance: f64,
}

/// One node's clock from its paths to nodes whose clock and variance `at` gives: from their weighted median on, by the
/// same weights as the fit, and with the spread of all of them in its variance. So one false path does not move a node
/// that was suspected for it, and a node that fits nothing is given an error that says so.
fn place(graph: &Graph, node: usize, at: impl Fn(usize) -> Option<(i128, f64)>) -> Option<Placed> {
    let mut origin = None;
    let mut paths: Vec<Path> = Vec::new();
    for &index in &graph.pairs_of_node[node] {
        let pair = &graph.pairs[index];
        let Some((peer_ns, peer_variance)) = at(pair.peer(node)) else { continue };
        let here = pair.placed(node, peer_ns);
        let x_ns = (here - *origin.get_or_insert(here)) as f64;
        paths.push(Path { x_ns, variance: variance(pair, 0.0) + peer_variance, peer_variance });
    }
    let origin = origin?;
    let z = |path: &Path, x: f64| (path.x_ns - x).abs() / path.variance.sqrt();
    let mut x = weighted_median(&mut paths);
    let mut variance = 0.0;
    for _ in 0..MAX_ROUNDS {
        let squares: f64 = paths.iter().map(|path| z(path, x) * z(path, x)).sum();
        let scale = (squares / paths.len() as f64).sqrt().clamp(1.0, MAX_SCALE);
        let weigh = |path: &Path| share(z(path, x) / scale) / path.variance;
        let weight: f64 = paths.iter().map(weigh).sum();
        let mean = |of: fn(&Path) -> f64| paths.iter().map(|path| weigh(path) * of(path)).sum::<f64>() / weight;
        let spread = (squares / (paths.len() as f64 - 1.0).max(1.0)).max(1.0);
        variance = (1.0 / weight + mean(|path| path.peer_variance)) * spread;
        x = mean(|path| path.x_ns);
    }
    // Where half of the paths fit nothing, no weight that they claim makes the clock better than they agree.
    if median(paths.iter().map(|path| z(path, x)).collect())? > FULL_WEIGHT {
        let apart = median(paths.iter().map(|path| (path.x_ns - x).abs()).collect())?;
        variance += apart * apart;
    }
    Some(Placed { x: origin + x.round() as i128, variance })
}

/// Sorts the paths; at least one.
fn weighted_median(paths: &mut [Path]) -> f64 {
    paths.sort_by(|left, right| left.x_ns.total_cmp(&right.x_ns));
    let total: f64 = paths.iter().map(|path| 1.0 / path.variance).sum();
    let mut below = 0.0;
    for path in paths.iter() {
        below += 1.0 / path.variance;
        if below >= total / 2.0 {
            return path.x_ns;
        }
    }
    paths.last().map_or(0.0, |path| path.x_ns)
}

/// What share of its weight a path keeps that is `z` ≥ 0 standard deviations off.
fn share(z: f64) -> f64 {
    let kept = (NO_WEIGHT - z) / (NO_WEIGHT - FULL_WEIGHT);
    kept.clamp(REMNANT / (1.0 + z), 1.0)
}

fn clamped_square(z: f64) -> f64 {
    (z * z).min(FULL_WEIGHT * FULL_WEIGHT)
}

fn variance(pair: &Pair, tau_ns: f64) -> f64 {
    pair.sigma_ns * pair.sigma_ns + tau_ns * tau_ns
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// Measured − solved; zero where an end is not solved.
fn residual(edge: &MeshEdge, x: &[Option<i128>]) -> Span {
    let at = |node: u16| x.get(usize::from(node)).copied().flatten();
    let (Some(from), Some(to)) = (at(edge.from), at(edge.to)) else { return Span::ZERO };
    saturate(i128::from(edge.offset.as_nanos()) - (to - from))
}

/// The square root, rounded up.
fn deviation(variance: f64) -> Span {
    Span::from_nanos(variance.sqrt().ceil() as i64)
}

fn saturate(nanos: i128) -> Span {
    Span::from_nanos(nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}
