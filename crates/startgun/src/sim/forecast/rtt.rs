//! Round trips: a square table as in the demo's scenarios, or a list of pairs with what pings showed.

use startgun_lab::map::{self, PLACES_MAX, RoundTrips};
use startgun_sim::forecast::{Jitter, Trip};
use std::collections::BTreeMap;
use std::path::Path;

use super::super::Failure;
use super::input::{Row, fault, read, rows};
use startgun_core::time::Span;

/// The header of a list of pairs.
pub const PAIRS_HEADER: [&str; 6] = ["src", "dst", "rtt_min_ms", "rtt_avg_ms", "rtt_max_ms", "mdev_ms"];

/// What pings from one place to another showed, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pings {
    /// The mean round trip: what clients get.
    pub mean_ms: f64,
    /// By how much it is longer than the least one.
    pub excess_ms: f64,
    /// The standard deviation; zero where it is unknown.
    pub deviation_ms: f64,
}

/// Nodes, and what is known of the ways from each to each.
#[derive(Debug)]
pub struct Latencies {
    /// The nodes' names, in the order of the file.
    pub names: Vec<String>,
    pings: BTreeMap<(usize, usize), Pings>,
    /// The lower quartile of the deviations of each node's pairs: what it has with quiet ones.
    quiet_deviations_ms: Vec<f64>,
}

impl Latencies {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Failure::Input`], with line and column.
    pub fn read(path: &Path) -> Result<Latencies, Failure> {
        let text = read(path)?;
        let mut all = rows(path, &text);
        match all.next() {
            Some(Ok(header)) if is_pairs_header(path, &header)? => Latencies::of_pairs(path, all),
            _ => Latencies::of_table(path, &text),
        }
    }

    fn of_table(path: &Path, text: &str) -> Result<Latencies, Failure> {
        let RoundTrips { names, rtt_ms } = map::parse_csv(text).map_err(|found| {
            let (line, column) = found.place.unwrap_or((1, 1));
            let form = format!("a square table, or pairs under the header {}", PAIRS_HEADER.join(","));
            fault(path, line, column, format!("{} ({form})", found.what))
        })?;
        let steady = |mean_ms| Pings { mean_ms, excess_ms: 0.0, deviation_ms: 0.0 };
        Ok(Latencies::of(names, rtt_ms.into_iter().map(|(pair, mean_ms)| (pair, steady(mean_ms))).collect()))
    }

    fn of_pairs(path: &Path, rows: impl Iterator<Item = Result<Row, Failure>>) -> Result<Latencies, Failure> {
        let (mut names, mut numbers, mut lines, mut pings) =
            (Vec::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut number_of = |name: &str| {
            *numbers.entry(name.to_owned()).or_insert_with(|| {
                names.push(name.to_owned());
                names.len() - 1
            })
        };
        for row in rows {
            let Row { line, cells } = row?;
            let at = |column: usize, what: String| fault(path, line, column, what);
            if cells.len() != PAIRS_HEADER.len() {
                let what =
                    format!("{} cells: expected {}, {}", cells.len(), PAIRS_HEADER.len(), PAIRS_HEADER.join(","));
                return Err(at(cells.len(), what));
            }
            if let Some(column) = (0..2).find(|&column| cells[column].is_empty()) {
                return Err(at(column + 1, "empty name".into()));
            }
            let pair = (number_of(&cells[0]), number_of(&cells[1]));
            if pair.0.max(pair.1) >= PLACES_MAX {
                return Err(at(1, format!("more than {PLACES_MAX} names: expected at most so many")));
            }
            if let Some(first) = lines.insert(pair, line) {
                let what = format!("pair {:?}, {:?} is given twice: first in line {first}", &cells[0], &cells[1]);
                return Err(at(1, what));
            }
            if let Some(found) = pings_of(&cells).map_err(|(column, what)| at(column, what))? {
                pings.insert(pair, found);
            }
        }
        if pings.is_empty() {
            return Err(fault(path, 1, 1, "no pair with an RTT: expected at least one below the header"));
        }
        Ok(Latencies::of(names, pings))
    }

    fn of(names: Vec<String>, pings: BTreeMap<(usize, usize), Pings>) -> Latencies {
        let mut deviations_ms = vec![Vec::new(); names.len()];
        for (&(one, other), pings) in pings.iter().filter(|((one, other), _)| one != other) {
            deviations_ms[one].push(pings.deviation_ms);
            deviations_ms[other].push(pings.deviation_ms);
        }
        let quartile = |mut deviations: Vec<f64>| {
            deviations.sort_by(f64::total_cmp);
            deviations.get(deviations.len() / 4).copied().unwrap_or_default()
        };
        Latencies { names, pings, quiet_deviations_ms: deviations_ms.into_iter().map(quartile).collect() }
    }

    /// How many of the ordered pairs of these nodes the file says nothing of.
    pub fn missing(&self, nodes: &[usize]) -> usize {
        let pairs = nodes.iter().flat_map(|&one| nodes.iter().map(move |&other| (one, other)));
        pairs.filter(|pair| pair.0 != pair.1 && !self.pings.contains_key(pair)).count()
    }

    /// How many of the pairs that a node makes with each of these others, either way, the file says nothing of.
    pub fn missing_of(&self, node: usize, nodes: &[usize]) -> usize {
        nodes.iter().filter(|&&other| other != node).map(|&other| self.missing_between(node, other)).sum()
    }

    /// Of how many of the two directions between two nodes the file says nothing.
    pub fn missing_between(&self, one: usize, other: usize) -> usize {
        [(one, other), (other, one)].iter().filter(|pair| !self.pings.contains_key(pair)).count()
    }

    /// The path between two nodes: the mean of both directions, or the one that there is.
    pub fn trip(&self, one: usize, other: usize) -> Option<Trip> {
        let (there, back) = (self.pings.get(&(one, other)), self.pings.get(&(other, one)));
        let mean = |of: fn(&Pings) -> f64| {
            let both = there.into_iter().chain(back);
            both.clone().map(of).sum::<f64>() / both.count() as f64
        };
        there.or(back)?;
        let share = if one < other { self.jitter_share(one, other) } else { self.jitter_share(other, one) };
        let jitter = Jitter::of(mean(|pings| pings.excess_ms), mean(|pings| pings.deviation_ms), share);
        Some(Trip { jitter, ..Trip::of(Span::from_millis_f64(mean(|pings| pings.mean_ms))) })
    }

    /// Which share of their pair's jitter is one node's. Variances add up, and what a node has with quiet ones is its own.
    fn jitter_share(&self, one: usize, other: usize) -> f64 {
        let variance = |node: usize| self.quiet_deviations_ms[node].powi(2);
        let both = variance(one) + variance(other);
        if both > 0.0 { variance(one) / both } else { 0.5 }
    }

    /// Whether the file says of any pair how much its round trips vary.
    pub fn has_jitter(&self) -> bool {
        self.pings.values().any(|pings| pings.deviation_ms > 0.0)
    }
}

/// Whether this is the header of a list of pairs.
///
/// # Errors
/// It begins like one, and is none.
fn is_pairs_header(path: &Path, header: &Row) -> Result<bool, Failure> {
    let begins = ["src", "source", "from"].iter().any(|word| header.cells[0].eq_ignore_ascii_case(word));
    if header.cells.iter().eq(PAIRS_HEADER) {
        return Ok(true);
    }
    // A table of places may have any word above its names, but these and "dst" next to it are no accident.
    let second = header.cells.get(1).unwrap_or_default();
    if !begins || !["dst", "dest", "destination", "to"].iter().any(|word| second.eq_ignore_ascii_case(word)) {
        return Ok(false);
    }
    let differs = |column: &usize| header.cells.get(*column) != PAIRS_HEADER.get(*column).copied();
    let column = (0..PAIRS_HEADER.len().max(header.cells.len())).find(differs).unwrap_or_default();
    let what = match (header.cells.get(column), PAIRS_HEADER.get(column)) {
        (Some(found), Some(expected)) => format!("{found:?}: expected {expected:?}"),
        (Some(found), None) => format!("{found:?}: expected the header to end before"),
        (None, _) => format!("the header ends: expected {:?}", PAIRS_HEADER[column]),
    };
    Err(fault(path, header.line, column + 1, format!("{what}, of the header {}", PAIRS_HEADER.join(","))))
}

/// The figures of a row; nothing where its mean is missing.
fn pings_of(cells: &csv::StringRecord) -> Result<Option<Pings>, (usize, String)> {
    let mut figures = [None; 4];
    for (figure, column) in figures.iter_mut().zip(2..) {
        if !cells[column].is_empty() {
            *figure = Some(map::parse_rtt_ms(&cells[column]).map_err(|what| (column + 1, what))?);
        }
    }
    let [least, mean, most, deviation] = figures;
    let (least_name, mean_name, most_name) = (PAIRS_HEADER[2], PAIRS_HEADER[3], PAIRS_HEADER[4]);
    for (lower, lower_name, upper, upper_name, column) in [
        (least, least_name, mean, mean_name, 4),
        (mean, mean_name, most, most_name, 5),
        (least, least_name, most, most_name, 5),
    ] {
        if let (Some(lower), Some(upper)) = (lower, upper)
            && lower > upper
        {
            return Err((column, format!("{upper_name} {upper}: expected at least {lower_name}, which is {lower}")));
        }
    }
    Ok(mean.map(|mean_ms| Pings {
        mean_ms,
        excess_ms: least.map_or(0.0, |least| mean_ms - least),
        deviation_ms: deviation.unwrap_or_default(),
    }))
}
