//! The graph of a mesh: merged pairs, a start by hops, and the linear solver.
//!
//! Whole numbers carry the offsets, which may be years; an `f64` only ever holds a residual or a correction.

use super::{ASYMMETRY, MAX_EDGES, MAX_NODES, MeshEdge, Problem};
use std::collections::{BTreeMap, BTreeSet};

/// Round trips below this count as this, in nanoseconds: 5 % of it are 10 µs, what a kernel stamp can be wrong by. It
/// is also what a peer can gain at most by claiming a short round trip.
const LEAST_ROUND_TRIP_NS: i64 = 200_000;

/// Most steps of one solution by conjugate gradients. In exact arithmetic as many as nodes suffice, and fewer for a large
/// mesh of random neighbours. What is missing then is made up in the next round, which starts from what this one left.
const MAX_STEPS: usize = 400;

/// By what factor one solution shrinks its residual.
#[derive(Clone, Copy)]
pub(super) enum Precision {
    /// A thousandth: on the way, where the next round starts from what this one left, and for errors and trials.
    Rough,
    /// 10⁻¹⁰: of the milliseconds by which the last rounds move a clock less than a nanosecond is left.
    Fine,
}

/// All that was measured between two nodes.
pub(super) struct Pair {
    pub(super) low: usize,
    pub(super) high: usize,
    /// x_high − x_low, in nanoseconds.
    pub(super) offset_ns: i128,
    /// One standard deviation of it, in nanoseconds, positive.
    pub(super) sigma_ns: f64,
}

/// What the edges of one pair sum up to.
#[derive(Default)]
struct Sum {
    count: i128,
    offset_ns: i128,
    least_ns: i128,
    greatest_ns: i128,
    round_trip_ns: i64,
    error_squared: f64,
}

/// The merged graph. Pairs are in ascending order, whatever the order of the edges was.
pub(super) struct Graph {
    pub(super) nodes: usize,
    pub(super) reference: usize,
    pub(super) pairs: Vec<Pair>,
    /// By edge: its pair, or `None` where the edge is invalid.
    pub(super) pair_of_edge: Vec<Option<usize>>,
    /// By node: its pairs.
    pub(super) pairs_of_node: Vec<Vec<usize>>,
}

impl Pair {
    /// The other end.
    pub(super) fn peer(&self, node: usize) -> usize {
        self.low + self.high - node
    }

    /// What `node`'s clock should read by this pair, when its peer's reads `peer_ns`.
    pub(super) fn placed(&self, node: usize, peer_ns: i128) -> i128 {
        if node == self.high { peer_ns + self.offset_ns } else { peer_ns - self.offset_ns }
    }

    /// Measured − solved, in nanoseconds.
    pub(super) fn residual_ns(&self, x: &[i128]) -> f64 {
        (self.offset_ns - (x[self.high] - x[self.low])) as f64
    }
}

impl Graph {
    pub(super) fn new(problem: &Problem<'_>) -> Graph {
        let nodes = problem.nodes.min(MAX_NODES);
        let valid = |edge: &MeshEdge| {
            usize::from(edge.from.max(edge.to)) < nodes
                && edge.from != edge.to
                && edge.round_trip.as_nanos() >= 0
                && edge.error.as_nanos() >= 0
        };
        let mut sums: BTreeMap<(u16, u16), Sum> = BTreeMap::new();
        for edge in problem.edges.iter().take(MAX_EDGES).filter(|edge| valid(edge)) {
            let measured_ns = i128::from(edge.offset.as_nanos());
            let offset_ns = if edge.from < edge.to { measured_ns } else { -measured_ns };
            sums.entry(key(edge)).or_default().add(offset_ns, edge);
        }
        let mut pairs_of_node = vec![Vec::new(); nodes];
        let mut index_of = BTreeMap::new();
        let mut pairs = Vec::with_capacity(sums.len());
        for (ends, sum) in sums {
            let (low, high) = (usize::from(ends.0), usize::from(ends.1));
            index_of.insert(ends, pairs.len());
            pairs_of_node[low].push(pairs.len());
            pairs_of_node[high].push(pairs.len());
            pairs.push(sum.pair(low, high));
        }
        let pair_of_edge = |(index, edge): (usize, &MeshEdge)| {
            (index < MAX_EDGES && valid(edge)).then(|| index_of.get(&key(edge)).copied()).flatten()
        };
        let pair_of_edge = problem.edges.iter().enumerate().map(pair_of_edge).collect();
        Graph { nodes, reference: usize::from(problem.reference), pairs, pair_of_edge, pairs_of_node }
    }

    /// Offsets along the fewest hops from the reference, over nodes that are not `excluded`; among as few hops, over the
    /// least error. One hop where there is one: a peer that lies cannot spoil it. `None` where no path leads.
    pub(super) fn start(&self, excluded: &[bool]) -> Vec<Option<i128>> {
        let mut x = vec![None; self.nodes];
        let mut best = vec![(usize::MAX, f64::INFINITY); self.nodes];
        let mut queue = BTreeSet::new();
        if self.reference < self.nodes {
            x[self.reference] = Some(0);
            best[self.reference] = (0, 0.0);
            // Costs are not negative, so their bits are in their order.
            queue.insert((0, 0u64, self.reference));
        }
        while let Some((hops, _, node)) = queue.pop_first() {
            let Some(here) = x[node] else { continue };
            for &index in &self.pairs_of_node[node] {
                let pair = &self.pairs[index];
                let peer = pair.peer(node);
                let cost = (hops + 1, best[node].1 + pair.sigma_ns);
                if !excluded[peer] && cost < best[peer] {
                    queue.remove(&(best[peer].0, best[peer].1.to_bits(), peer));
                    best[peer] = cost;
                    x[peer] = Some(pair.placed(peer, here));
                    queue.insert((cost.0, cost.1.to_bits(), peer));
                }
            }
        }
        x
    }

    /// Moves `x` to the least squares of the pairs under `weights` (0: not there), the reference fixed. Returns the
    /// largest move in nanoseconds. Nodes without weight stay. Conjugate gradients with the diagonal as
    /// preconditioner: pairs × steps operations, at most [`MAX_STEPS`] steps.
    pub(super) fn refine(&self, x: &mut [i128], weights: &[f64], precision: Precision) -> f64 {
        let mut residual = vec![0.0; self.nodes];
        for (pair, &weight) in self.pairs.iter().zip(weights).filter(|(_, weight)| **weight > 0.0) {
            let pull = weight * pair.residual_ns(x);
            residual[pair.high] += pull;
            residual[pair.low] -= pull;
        }
        let delta = self.conjugate_gradients(weights, residual, precision);
        for (x, delta) in x.iter_mut().zip(&delta) {
            *x += delta.round() as i128;
        }
        delta.iter().fold(0.0, |largest, delta| largest.max(delta.abs()))
    }

    /// Solves L × δ = `residual` for the weighted graph's Laplacian L; δ is 0 at the reference and where there is no
    /// weight.
    fn conjugate_gradients(&self, weights: &[f64], mut residual: Vec<f64>, precision: Precision) -> Vec<f64> {
        let inverse = self.inverse_diagonal(weights);
        let mut delta = vec![0.0; self.nodes];
        let mut scaled: Vec<f64> = residual.iter().zip(&inverse).map(|(r, i)| r * i).collect();
        let mut direction = scaled.clone();
        let mut image = vec![0.0; self.nodes];
        let mut energy = dot(&residual, &scaled);
        // An energy is the square of a residual.
        let enough = energy
            * match precision {
                Precision::Rough => 1e-6,
                Precision::Fine => 1e-20,
            };
        for _ in 0..MAX_STEPS {
            if energy <= enough {
                break;
            }
            image.fill(0.0);
            for (pair, &weight) in self.pairs.iter().zip(weights) {
                let flow = weight * (direction[pair.high] - direction[pair.low]);
                image[pair.high] += flow;
                image[pair.low] -= flow;
            }
            let curvature = dot(&direction, &image);
            if curvature <= 0.0 {
                break;
            }
            let step = energy / curvature;
            for node in 0..self.nodes {
                delta[node] += step * direction[node];
                residual[node] -= step * image[node];
                scaled[node] = residual[node] * inverse[node];
            }
            let before = energy;
            energy = dot(&residual, &scaled);
            for (direction, scaled) in direction.iter_mut().zip(&scaled) {
                *direction = scaled + energy / before * *direction;
            }
        }
        delta
    }

    /// By node: 1 over the sum of its weights; 0 for the reference and where there is no weight.
    fn inverse_diagonal(&self, weights: &[f64]) -> Vec<f64> {
        let mut diagonal = vec![0.0; self.nodes];
        for (pair, &weight) in self.pairs.iter().zip(weights) {
            diagonal[pair.high] += weight;
            diagonal[pair.low] += weight;
        }
        let inverse = |(node, diagonal): (usize, &f64)| {
            if node == self.reference || *diagonal <= 0.0 { 0.0 } else { 1.0 / diagonal }
        };
        diagonal.iter().enumerate().map(inverse).collect()
    }

    /// The variance of `node`'s x against the mean of all `located` nodes' under `weights`, in ns²: to a
    /// thousandth, at the cost of one solution.
    pub(super) fn mutual_variance(&self, weights: &[f64], located: &[bool], node: usize) -> f64 {
        let share = 1.0 / located.iter().filter(|located| **located).count() as f64;
        let mut contrast: Vec<f64> = located.iter().map(|located| if *located { -share } else { 0.0 }).collect();
        contrast[node] += 1.0;
        dot(&contrast, &self.conjugate_gradients(weights, contrast.clone(), Precision::Rough))
    }

    /// By node: an upper bound on the variance of its x against the reference under `weights` (1/variance each), in
    /// ns²; infinite where no weight leads. It is the effective resistance of the pair of nodes when every pair is a
    /// resistor; removing resistors only increases it (Rayleigh), so the direct pair in parallel with the disjoint ways
    /// over one other node bound it from above, exactly so in an even full mesh; and so does any single way.
    pub(super) fn variances(&self, weights: &[f64]) -> Vec<f64> {
        let mut direct = vec![0.0; self.nodes];
        let from_reference = self.pairs_of_node.get(self.reference).map_or(&[][..], Vec::as_slice);
        for &index in from_reference {
            direct[self.pairs[index].peer(self.reference)] = weights[index];
        }
        let mut variances = self.shortest(weights);
        for node in (0..self.nodes).filter(|&node| node != self.reference) {
            let over = |&index: &usize| {
                let (to_peer, peer) = (weights[index], self.pairs[index].peer(node));
                let sum = to_peer + direct[peer];
                if peer == self.reference || sum <= 0.0 { 0.0 } else { to_peer * direct[peer] / sum }
            };
            let conductance = direct[node] + self.pairs_of_node[node].iter().map(over).sum::<f64>();
            variances[node] = variances[node].min(1.0 / conductance);
        }
        variances
    }

    /// By node: the least sum of 1/weight along one way from the reference; infinite where none leads.
    fn shortest(&self, weights: &[f64]) -> Vec<f64> {
        let mut best = vec![f64::INFINITY; self.nodes];
        let mut queue = BTreeSet::new();
        if self.reference < self.nodes {
            best[self.reference] = 0.0;
            queue.insert((0u64, self.reference));
        }
        while let Some((_, node)) = queue.pop_first() {
            for &index in &self.pairs_of_node[node] {
                let peer = self.pairs[index].peer(node);
                let cost = best[node] + 1.0 / weights[index];
                if cost < best[peer] {
                    queue.remove(&(best[peer].to_bits(), peer));
                    best[peer] = cost;
                    queue.insert((cost.to_bits(), peer));
                }
            }
        }
        best
    }
}

impl Sum {
    fn add(&mut self, offset_ns: i128, edge: &MeshEdge) {
        let first = self.count == 0;
        self.count += 1;
        self.offset_ns += offset_ns;
        self.least_ns = if first { offset_ns } else { self.least_ns.min(offset_ns) };
        self.greatest_ns = if first { offset_ns } else { self.greatest_ns.max(offset_ns) };
        let round_trip_ns = edge.round_trip.as_nanos();
        self.round_trip_ns = if first { round_trip_ns } else { self.round_trip_ns.min(round_trip_ns) };
        let error_ns = edge.error.as_nanos() as f64;
        self.error_squared += error_ns * error_ns;
    }

    /// The mean. Where the two ends disagree, half of what they do is an error of it as well.
    fn pair(&self, low: usize, high: usize) -> Pair {
        let count = self.count as f64;
        let asymmetry_ns = ASYMMETRY * self.round_trip_ns.max(LEAST_ROUND_TRIP_NS) as f64;
        let spread_ns = (self.greatest_ns - self.least_ns) as f64 / 2.0;
        let variance = asymmetry_ns * asymmetry_ns + self.error_squared / (count * count) + spread_ns * spread_ns;
        Pair { low, high, offset_ns: self.offset_ns / self.count, sigma_ns: variance.sqrt() }
    }
}

fn key(edge: &MeshEdge) -> (u16, u16) {
    (edge.from.min(edge.to), edge.from.max(edge.to))
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}
