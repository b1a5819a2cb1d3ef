//! Scenario files: which world a lab emulates.
//!
//! ```toml
//! name = "three"
//! master = "hub"
//! agents = ["north", "south"]
//! clients = ["farm", "north"]     # a place may hold an agent and a client
//! jitter_ms = 0.2                 # mean of an exponential added to each packet; default 0
//! loss = 0.0                      # probability from 0 to 1; default 0
//! split = 0.5                     # share of the RTT on the way from the earlier name to the later; default 0.5
//! clock_offset_s = [-5, 5]        # each host's clock is wrong by a draw from this range; this is the default
//! clock_drift_ppm = [-50, 50]     # and drifts by a draw from this one; this is the default
//!
//! # The map, in exactly one of three forms:
//! # rtt_ms = "rtt.csv"            # square CSV, path relative to this file
//! [matrix]
//! names = ["hub", "north", "south", "farm"]
//! rtt_ms = [[], [20], [30, 40], [25, 10, 45]]   # row i: to the first names; may stop early
//! # [[pair]]                      # or pair by pair: a to b takes split × rtt_ms
//! # a = "hub"
//! # b = "north"
//! # rtt_ms = 20
//! ```
//!
//! Every draw comes from the seed alone: the same seed and scenario give the same world.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::map::{self, Map, MapFault, RoundTrips};

/// Hosts of one lab, at most: each costs a network namespace, a thread and a process or two; two cores carry no more.
pub const HOSTS_MAX: usize = 120;

/// Longest mean jitter in ms: beyond it nothing is left of a path.
pub const JITTER_MS_MAX: f64 = 1_000.0;

/// Largest clock offset in seconds: a year, still far inside the range of an `i64` of nanoseconds.
pub const CLOCK_OFFSET_S_MAX: f64 = 31_536_000.0;

/// Largest clock drift in parts per million; a computer's crystal stays below 100.
pub const CLOCK_DRIFT_PPM_MAX: f64 = 1_000.0;

const BUILTIN: [(&str, &str); 3] = [
    ("cities", include_str!("../scenarios/cities.toml")),
    ("lan", include_str!("../scenarios/lan.toml")),
    ("asymmetric", include_str!("../scenarios/asymmetric.toml")),
];

/// What is wrong with a scenario, and where.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The scenario or the CSV file.
        path: PathBuf,
        /// The system call's error.
        source: std::io::Error,
    },
    /// A file's content is wrong.
    #[error("{}:{line}:{column}: {what}", path.display())]
    Content {
        /// The scenario or the CSV file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1: of characters in a scenario, of cells in a CSV file.
        column: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// Neither a built-in scenario nor a file.
    #[error("no scenario {name:?}: expected cities, lan, asymmetric or the path of a file")]
    Unknown {
        /// What was asked for.
        name: String,
    },
}

/// A world to emulate.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// Where the master is.
    pub master: String,
    /// Where the agents are; these are the names of the sites.
    pub agents: Vec<String>,
    /// Where the clients are.
    pub clients: Vec<String>,
    /// Mean of the exponential added to each packet's delay, in ms.
    pub jitter_ms: f64,
    /// Probability that a packet is lost, from 0 to 1.
    pub loss: f64,
    /// Range of the hosts' clock offsets in seconds, lowest and highest.
    pub clock_offset_s: [f64; 2],
    /// Range of the hosts' clock drifts in parts per million, lowest and highest.
    pub clock_drift_ppm: [f64; 2],
    /// Places and delays. Every delay between master, agents and clients is known, those between two clients excepted.
    pub map: Map,
}

/// How wrong one host's clock is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDraw {
    /// Added to the clock, in nanoseconds.
    pub offset_ns: i64,
    /// Gained per second, in parts per billion.
    pub drift_ppb: i64,
}

/// The draws for all hosts of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockDraws {
    /// The master's.
    pub master: ClockDraw,
    /// The agents', in the scenario's order.
    pub agents: Vec<ClockDraw>,
    /// The clients', in the scenario's order.
    pub clients: Vec<ClockDraw>,
}

/// What is true of one client: delays without jitter.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientTruth {
    /// The client.
    pub client: String,
    /// The site with the least one-way delay to it; of equal ones the first in the scenario.
    pub nearest: String,
    /// That delay in ms.
    pub nearest_owd_ms: f64,
    /// The second-nearest site's delay minus that one, in ms; 0 when there is one site only.
    pub margin_ms: f64,
    /// Every site's one-way delay to the client in ms.
    pub owd_ms: BTreeMap<String, f64>,
}

impl ClientTruth {
    /// What it costs this client in ms to be sent to `site` instead of the nearest; `None` for an unknown site.
    pub fn penalty_ms(&self, site: &str) -> Option<f64> {
        Some(self.owd_ms.get(site)? - self.nearest_owd_ms)
    }
}

impl Scenario {
    /// The names of the built-in scenarios.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// A built-in scenario; `None` for an unknown name.
    ///
    /// # Panics
    /// Never for the built-in ones; a test loads each.
    #[expect(clippy::expect_used, reason = "part of the program, and a test loads each")]
    pub fn builtin(name: &str) -> Option<Self> {
        let (_, text) = BUILTIN.iter().find(|(builtin, _)| *builtin == name)?;
        let path = PathBuf::from(format!("{name}.toml"));
        Some(Self::parse(text, &path).expect("the built-in scenarios are valid"))
    }

    /// A built-in scenario, or the one in the file of that path.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn find(name_or_path: &str) -> Result<Self, ScenarioError> {
        if let Some(scenario) = Self::builtin(name_or_path) {
            return Ok(scenario);
        }
        let path = Path::new(name_or_path);
        if !path.exists() && !name_or_path.contains(['/', '.']) {
            return Err(ScenarioError::Unknown { name: name_or_path.to_owned() });
        }
        Self::load(path)
    }

    /// Reads a scenario file, and the CSV file that it names.
    ///
    /// # Errors
    /// [`ScenarioError`], with file, line and what was expected.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        Self::parse(&read(path)?, path)
    }

    /// Reads a scenario from `text`; `path` serves error messages and relative paths.
    ///
    /// # Errors
    /// [`ScenarioError`], with file, line and what was expected.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ScenarioError> {
        let source = Source { text, path };
        let raw: Raw =
            toml::from_str(text).map_err(|error| source.fault(error.span().unwrap_or(0..0), error.message()))?;
        let split = source.within(raw.split.as_ref(), "split", [0.0, 1.0], 0.5)?;
        let scenario = Self {
            jitter_ms: source.within(raw.jitter_ms.as_ref(), "jitter_ms", [0.0, JITTER_MS_MAX], 0.0)?,
            loss: source.within(raw.loss.as_ref(), "loss", [0.0, 1.0], 0.0)?,
            clock_offset_s: source.range(
                raw.clock_offset_s.as_ref(),
                "clock_offset_s",
                CLOCK_OFFSET_S_MAX,
                [-5.0, 5.0],
            )?,
            clock_drift_ppm: source.range(
                raw.clock_drift_ppm.as_ref(),
                "clock_drift_ppm",
                CLOCK_DRIFT_PPM_MAX,
                [-50.0, 50.0],
            )?,
            map: source.map(&raw, split)?,
            name: raw.name.clone(),
            master: raw.master.get_ref().clone(),
            agents: cloned(&raw.agents),
            clients: cloned(&raw.clients),
        };
        source.check_hosts(&raw, &scenario.map)?;
        Ok(scenario)
    }

    /// One-way delay in nanoseconds between two places of this scenario; between two clients of which the map knows
    /// nothing, the way by the master.
    pub fn one_way_ns(&self, from: &str, to: &str) -> u64 {
        let one_way_ms = |from, to| self.map.one_way_ms(from, to);
        let by_master = || {
            let there = one_way_ms(from, &self.master).unwrap_or_default();
            there + one_way_ms(&self.master, to).unwrap_or_default()
        };
        let milliseconds = one_way_ms(from, to).unwrap_or_else(by_master);
        (milliseconds * 1e6).round() as u64
    }

    /// Draws every host's clock from the seed.
    pub fn clock_draws(&self, seed: u64) -> ClockDraws {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = || ClockDraw {
            offset_ns: (uniform(&mut random, self.clock_offset_s) * 1e9) as i64,
            drift_ppb: (uniform(&mut random, self.clock_drift_ppm) * 1e3) as i64,
        };
        ClockDraws {
            master: draw(),
            agents: self.agents.iter().map(|_| draw()).collect(),
            clients: self.clients.iter().map(|_| draw()).collect(),
        }
    }

    /// What a perfect race would find out, for each client in the scenario's order.
    pub fn truth(&self) -> Vec<ClientTruth> {
        self.clients.iter().map(|name| self.truth_of(name)).collect()
    }

    fn truth_of(&self, client: &str) -> ClientTruth {
        let owd_ms: Vec<(&String, f64)> =
            self.agents.iter().map(|site| (site, self.one_way_ns(site, client) as f64 / 1e6)).collect();
        let mut by_delay = owd_ms.clone();
        // Stable: of equal delays the first in the scenario stays first.
        by_delay.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (nearest, nearest_owd_ms) = by_delay[0];
        ClientTruth {
            client: client.to_owned(),
            nearest: nearest.clone(),
            nearest_owd_ms,
            margin_ms: by_delay.get(1).map_or(0.0, |(_, second)| second - nearest_owd_ms),
            owd_ms: owd_ms.into_iter().map(|(site, owd_ms)| (site.clone(), owd_ms)).collect(),
        }
    }
}

fn uniform(random: &mut ChaCha8Rng, [low, high]: [f64; 2]) -> f64 {
    let share = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    low + share * (high - low)
}

fn read(path: &Path) -> Result<String, ScenarioError> {
    fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })
}

fn cloned(names: &[Spanned<String>]) -> Vec<String> {
    names.iter().map(|name| name.get_ref().clone()).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    master: Spanned<String>,
    agents: Vec<Spanned<String>>,
    clients: Vec<Spanned<String>>,
    rtt_ms: Option<Spanned<String>>,
    matrix: Option<Spanned<RawMatrix>>,
    #[serde(default)]
    pair: Vec<Spanned<RawPair>>,
    split: Option<Spanned<f64>>,
    jitter_ms: Option<Spanned<f64>>,
    loss: Option<Spanned<f64>>,
    clock_offset_s: Option<Spanned<[f64; 2]>>,
    clock_drift_ppm: Option<Spanned<[f64; 2]>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatrix {
    names: Vec<String>,
    rtt_ms: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPair {
    a: String,
    b: String,
    rtt_ms: f64,
    split: Option<f64>,
}

/// The text being read, to say where a fault is.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    fn fault(&self, span: Range<usize>, what: impl Into<String>) -> ScenarioError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ScenarioError::Content {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    fn within(
        &self,
        value: Option<&Spanned<f64>>,
        key: &str,
        [low, high]: [f64; 2],
        default: f64,
    ) -> Result<f64, ScenarioError> {
        let Some(value) = value else {
            return Ok(default);
        };
        let number = *value.get_ref();
        if (low..=high).contains(&number) {
            return Ok(number);
        }
        Err(self.fault(value.span(), format!("{key} = {number}: expected a number from {low} to {high}")))
    }

    fn range(
        &self,
        value: Option<&Spanned<[f64; 2]>>,
        key: &str,
        limit: f64,
        default: [f64; 2],
    ) -> Result<[f64; 2], ScenarioError> {
        let Some(value) = value else {
            return Ok(default);
        };
        let [low, high] = *value.get_ref();
        if -limit <= low && low <= high && high <= limit {
            return Ok([low, high]);
        }
        Err(self.fault(value.span(), format!("{key} = [{low}, {high}]: expected [lowest, highest] within ±{limit}")))
    }

    fn map(&self, raw: &Raw, split: f64) -> Result<Map, ScenarioError> {
        match (&raw.rtt_ms, &raw.matrix, raw.pair.as_slice()) {
            (Some(csv), None, []) => {
                let directory = self.path.parent().unwrap_or(Path::new(""));
                let path = directory.join(csv.get_ref());
                let text =
                    read(&path).map_err(|error| self.fault(csv.span(), format!("rtt_ms: cannot read {error}")))?;
                let trips = map::parse_csv(&text).map_err(|fault| csv_error(path, fault))?;
                Ok(Map::from_round_trips(trips, split))
            }
            (None, Some(matrix), []) => {
                let RawMatrix { names, rtt_ms } = matrix.get_ref();
                let trips: RoundTrips = map::from_matrix(names.clone(), rtt_ms)
                    .map_err(|fault| self.fault(matrix.span(), format!("matrix: {}", fault.what)))?;
                Ok(Map::from_round_trips(trips, split))
            }
            (None, None, pairs) if !pairs.is_empty() => self.map_of_pairs(pairs, split),
            (None, None, _) => Err(self.fault(0..0, "no map: expected rtt_ms = \"FILE.csv\", [matrix] or [[pair]]")),
            _ => Err(self.fault(0..0, "several maps: expected only one of rtt_ms, [matrix] and [[pair]]")),
        }
    }

    fn map_of_pairs(&self, pairs: &[Spanned<RawPair>], default_split: f64) -> Result<Map, ScenarioError> {
        let mut known: BTreeMap<(&str, &str), ()> = BTreeMap::new();
        let mut result = Vec::new();
        for spanned in pairs {
            let pair = spanned.get_ref();
            let (a, b) = (pair.a.as_str(), pair.b.as_str());
            let key = if a < b { (a, b) } else { (b, a) };
            let split = pair.split.unwrap_or(default_split);
            let fault = if a == b {
                Some(format!("pair {a:?}, {b:?}: expected two different names"))
            } else if known.insert(key, ()).is_some() {
                Some(format!("pair {a:?}, {b:?} is given twice"))
            } else if !(0.0..=1.0).contains(&split) {
                Some(format!("split = {split}: expected a number from 0 to 1"))
            } else {
                map::check_rtt_ms(pair.rtt_ms).err()
            };
            if let Some(what) = fault {
                return Err(self.fault(spanned.span(), what));
            }
            result.push((a.to_owned(), b.to_owned(), pair.rtt_ms, split));
        }
        Ok(Map::from_pairs(result))
    }

    fn check_hosts(&self, raw: &Raw, map: &Map) -> Result<(), ScenarioError> {
        self.check_names("master", std::slice::from_ref(&raw.master), map)?;
        self.check_names("agents", &raw.agents, map)?;
        self.check_names("clients", &raw.clients, map)?;
        let hosts = 1 + raw.agents.len() + raw.clients.len();
        if hosts > HOSTS_MAX {
            return Err(self.fault(0..0, format!("{hosts} hosts: expected at most {HOSTS_MAX}, the master included")));
        }
        let servers = || std::iter::once(&raw.master).chain(&raw.agents);
        for from in servers() {
            for to in servers().chain(&raw.clients) {
                let (from, to_name) = (from.get_ref(), to.get_ref());
                if map.one_way_ms(from, to_name).is_none() {
                    return Err(self.fault(to.span(), format!("the map has no RTT between {from:?} and {to_name:?}")));
                }
            }
        }
        Ok(())
    }

    fn check_names(&self, key: &str, names: &[Spanned<String>], map: &Map) -> Result<(), ScenarioError> {
        if names.is_empty() {
            return Err(self.fault(0..0, format!("{key} = []: expected at least one name")));
        }
        for (i, name) in names.iter().enumerate() {
            let text = name.get_ref();
            if !map.has(text) {
                return Err(self.fault(name.span(), format!("{key}: {text:?}: expected a name of the map")));
            }
            if names[..i].iter().any(|earlier| earlier.get_ref() == text) {
                return Err(self.fault(name.span(), format!("{key}: {text:?} is given twice")));
            }
        }
        Ok(())
    }
}

fn csv_error(path: PathBuf, fault: MapFault) -> ScenarioError {
    let (line, column) = fault.place.unwrap_or((1, 1));
    ScenarioError::Content { path, line, column, what: fault.what }
}

#[cfg(test)]
mod tests;
