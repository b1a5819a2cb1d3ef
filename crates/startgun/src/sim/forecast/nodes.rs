//! Which nodes take part: those that the files know enough of, less those that the user leaves out.

use startgun_sim::forecast::{Clocks, MAX_SITES, Network, Plan, Sites};
use std::collections::BTreeMap;
use std::path::Path;

use super::super::Failure;
use super::cities;
use super::coordinates::{self, Entry};
use super::input::fault;
use super::options::{ClockChoice, ForecastArgs, SITES_DEFAULT};
use super::rtt::Latencies;
use startgun_core::master::Delay;
use startgun_core::time::Span;

/// A node of which more than this share of its pairs is missing takes no part.
const MISSING_SHARE_MAX: f64 = 0.15;
/// What `delay = { cover = … }` of a master adds for what no measurement foresaw.
pub const COVER_MARGIN: Span = Span::from_millis(5);
/// So many names are shown where many could be.
const NAMES_SHOWN: usize = 3;

/// A forecast as it is going to be carried out, and what had to be done to the user's data for it.
pub struct Prepared {
    pub plan: Plan,
    /// The names of the plan's places.
    pub names: Vec<String>,
    /// Whether the places are the built-in model's.
    pub is_model: bool,
    /// Ordered pairs of the file's nodes, those that the user excluded apart, and how many of them are missing.
    pub pairs: (usize, usize),
    /// Nodes that were left out, with the share of their pairs that is missing.
    pub too_little_known: Vec<(String, f64)>,
    /// Nodes that were left out because nobody knows where they are.
    pub without_coordinates: Vec<String>,
    /// Whether round trips vary from packet to packet.
    pub has_jitter: bool,
}

/// The nodes of the files.
struct Nodes {
    names: Vec<String>,
    /// By other names of theirs: that of the coordinates' file, where an id is what both files share.
    aliases: BTreeMap<String, Vec<usize>>,
    coordinates: Option<Vec<Option<(f64, f64)>>>,
    /// Where they come from, for messages.
    source: String,
}

impl Prepared {
    /// Reads the files and checks the options.
    ///
    /// # Errors
    /// [`Failure::Input`].
    pub fn from(args: &ForecastArgs) -> Result<Prepared, Failure> {
        let latencies = args.rtt.as_deref().map(Latencies::read).transpose()?;
        let nodes = Nodes::of(args, latencies.as_ref())?;
        let excluded = nodes.find_all("--exclude", &args.exclude)?;
        let included: Vec<usize> = (0..nodes.names.len()).filter(|node| !excluded.contains(node)).collect();
        let (placed, unplaced): (Vec<usize>, Vec<usize>) = included.iter().partition(|&&node| nodes.is_placed(node));
        let mut left_out: BTreeMap<usize, String> = BTreeMap::new();
        left_out.extend(excluded.iter().map(|&node| (node, "it is excluded".to_owned())));
        left_out.extend(unplaced.iter().map(|&node| (node, "it has no coordinates".to_owned())));
        let (kept, sparse) = match &latencies {
            Some(latencies) => well_known(latencies, placed),
            None => (placed, Vec::new()),
        };
        for (node, share) in &sparse {
            left_out.insert(*node, format!("{:.1} % of its pairs are missing", share * 100.0));
        }
        let sites = nodes.sites(args, &kept, &left_out)?;
        let master = match &args.master {
            Some(name) => Some(nodes.find_kept("--master", name, &kept, &left_out)?),
            None => None,
        };
        let network = match &latencies {
            Some(latencies) => nodes.network(latencies, &kept),
            None if kept.len() == nodes.names.len() => cities::network(),
            None => cities::network().only(&kept),
        };
        Ok(Prepared {
            names: kept.iter().map(|&node| nodes.names[node].clone()).collect(),
            plan: Plan {
                network,
                sites,
                master,
                asymmetry_deviation: args.asymmetry_sd,
                clocks: match args.clock {
                    ClockChoice::Host(deviation) => Clocks::Host(deviation),
                    ClockChoice::Master => Clocks::Master,
                    ClockChoice::Mesh => Clocks::Mesh,
                    ClockChoice::Perfect => Clocks::Perfect,
                },
                delay: match args.delay {
                    Some(ms) => Delay::Fixed(Span::from_millis_f64(ms)),
                    None => Delay::Cover { share: args.cover.unwrap_or(1.0), margin: COVER_MARGIN },
                },
                seed: args.seed,
            },
            is_model: latencies.is_none(),
            pairs: (
                included.len() * included.len().saturating_sub(1),
                latencies.as_ref().map_or(0, |latencies| latencies.missing(&included)),
            ),
            too_little_known: sparse.into_iter().map(|(node, share)| (nodes.names[node].clone(), share)).collect(),
            without_coordinates: unplaced.into_iter().map(|node| nodes.names[node].clone()).collect(),
            has_jitter: latencies.as_ref().is_none_or(Latencies::has_jitter),
        })
    }
}

/// Divides nodes into those whose pairs with the others are known well enough, and the rest with the share of theirs
/// that is missing.
///
/// The worst goes first, and then the rest is judged without it: what is missing of one node is missing of all its
/// pairs' other ends as well, who cannot help it.
fn well_known(latencies: &Latencies, nodes: Vec<usize>) -> (Vec<usize>, Vec<(usize, f64)>) {
    let (mut kept, mut sparse) = (nodes, Vec::new());
    let mut missing: BTreeMap<usize, usize> =
        kept.iter().map(|&node| (node, latencies.missing_of(node, &kept))).collect();
    while kept.len() > 1 {
        let pairs = 2 * (kept.len() - 1);
        // Of equal ones the last.
        let Some((&worst, &most)) = missing.iter().max_by_key(|(_, count)| **count) else { break };
        if most as f64 <= MISSING_SHARE_MAX * pairs as f64 {
            break;
        }
        sparse.push((worst, most as f64 / pairs as f64));
        missing.remove(&worst);
        kept.retain(|&node| node != worst);
        for (&node, count) in &mut missing {
            *count -= latencies.missing_between(node, worst);
        }
    }
    sparse.sort_by_key(|(node, _)| *node);
    (kept, sparse)
}

impl Nodes {
    fn of(args: &ForecastArgs, latencies: Option<&Latencies>) -> Result<Nodes, Failure> {
        let Some((latencies, rtt)) = latencies.zip(args.rtt.as_deref()) else {
            return Ok(Nodes {
                names: cities::CITIES.iter().map(|(name, ..)| (*name).to_owned()).collect(),
                aliases: BTreeMap::new(),
                coordinates: None,
                source: "the built-in model".to_owned(),
            });
        };
        let mut nodes = Nodes {
            names: latencies.names.clone(),
            aliases: BTreeMap::new(),
            coordinates: None,
            source: rtt.display().to_string(),
        };
        if let Some(path) = &args.coordinates {
            nodes.place(path, coordinates::read_entries(path)?)?;
        }
        Ok(nodes)
    }

    /// Takes in where nodes are.
    fn place(&mut self, path: &Path, entries: Vec<Entry>) -> Result<(), Failure> {
        let numbers: BTreeMap<&str, usize> = self.names.iter().map(String::as_str).zip(0..).collect();
        let by = |key: fn(&Entry) -> Option<&String>| {
            let known = |entry: &Entry| numbers.get(key(entry)?.as_str()).copied();
            entries.iter().map(known).collect::<Vec<Option<usize>>>()
        };
        let (by_id, by_name) = (by(|entry| entry.id.as_ref()), by(|entry| entry.name.as_ref()));
        let matched = |by: &[Option<usize>]| by.iter().flatten().count();
        let is_by_id = matched(&by_id) >= matched(&by_name);
        let chosen = if is_by_id { by_id } else { by_name };
        if matched(&chosen) == 0 {
            let theirs = entries.iter().filter_map(|entry| entry.id.as_ref().or(entry.name.as_ref()));
            let what = format!(
                "none of its nodes ({}) is in {} ({}): expected the same names, as id or name",
                some(theirs, entries.len()),
                self.source,
                some(self.names.iter(), self.names.len())
            );
            return Err(fault(path, 1, 1, what));
        }
        let mut places = vec![None; self.names.len()];
        let mut aliases: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (entry, node) in entries.into_iter().zip(chosen) {
            let Some(node) = node else { continue };
            places[node] = entry.place;
            if let Some(alias) = entry.name.filter(|_| is_by_id) {
                aliases.entry(alias).or_default().push(node);
            }
        }
        if places.iter().all(Option::is_none) {
            return Err(fault(path, 1, 1, format!("no coordinates for any node of {}", self.source)));
        }
        (self.coordinates, self.aliases) = (Some(places), aliases);
        Ok(())
    }

    fn is_placed(&self, node: usize) -> bool {
        self.coordinates.as_ref().is_none_or(|coordinates| coordinates[node].is_some())
    }

    fn find(&self, option: &str, name: &str) -> Result<usize, Failure> {
        let name = name.trim();
        if let Some(node) = self.names.iter().position(|known| known == name) {
            return Ok(node);
        }
        match self.aliases.get(name).map(Vec::as_slice) {
            Some([node]) => Ok(*node),
            Some(several) => {
                let ids = some(several.iter().map(|&node| &self.names[node]), several.len());
                Err(Failure::Input(format!("{option}: {name:?} is the name of several nodes: expected one of {ids}")))
            }
            None => Err(Failure::Input(format!(
                "{option}: {name:?}: expected a node of {}, as {}",
                self.source,
                some(self.names.iter(), self.names.len())
            ))),
        }
    }

    fn find_all(&self, option: &str, names: &[String]) -> Result<Vec<usize>, Failure> {
        let mut found = Vec::new();
        for name in names {
            let node = self.find(option, name)?;
            if found.contains(&node) {
                return Err(Failure::Input(format!("{option}: {name:?} is given twice")));
            }
            found.push(node);
        }
        Ok(found)
    }

    /// The place in `kept` of a node that takes part.
    fn find_kept(
        &self,
        option: &str,
        name: &str,
        kept: &[usize],
        left_out: &BTreeMap<usize, String>,
    ) -> Result<usize, Failure> {
        let node = self.find(option, name)?;
        kept.iter().position(|&kept| kept == node).ok_or_else(|| {
            let reason = left_out.get(&node).map_or("", String::as_str);
            Failure::Input(format!("{option}: {name:?} takes no part: {reason}"))
        })
    }

    fn sites(&self, args: &ForecastArgs, kept: &[usize], left_out: &BTreeMap<usize, String>) -> Result<Sites, Failure> {
        let nodes = kept.len();
        let most = MAX_SITES.min(nodes.saturating_sub(1));
        let of = format!("of {} nodes of {} {nodes} take part", self.names.len(), self.source);
        if most == 0 {
            return Err(Failure::Input(format!("{of}: expected at least two, a site and a client")));
        }
        if args.sites.is_empty() {
            let count = args.sites_random.unwrap_or(SITES_DEFAULT.min((nodes / 2).max(1)));
            if !(1..=most).contains(&count) {
                let what =
                    format!("--sites-random {count}: expected 1 to {most}: {of}, and one at least must be a client");
                return Err(Failure::Input(what));
            }
            return Ok(Sites::Random(count));
        }
        self.find_all("--sites", &args.sites)?;
        let sites: Result<Vec<usize>, Failure> =
            args.sites.iter().map(|name| self.find_kept("--sites", name, kept, left_out)).collect();
        if args.sites.len() > most {
            let what = format!("--sites: {} sites: expected at most {most}: {of}", args.sites.len());
            return Err(Failure::Input(what));
        }
        Ok(Sites::Fixed(sites?))
    }

    fn network(&self, latencies: &Latencies, kept: &[usize]) -> Network {
        let network = Network::new(kept.len(), |one, other| latencies.trip(kept[one], kept[other]));
        let Some(coordinates) = &self.coordinates else { return network };
        let places: Vec<(f64, f64)> = kept.iter().filter_map(|&node| coordinates[node]).collect();
        network.with_coordinates(&places)
    }
}

/// The first of some names.
fn some<'a>(names: impl Iterator<Item = &'a String>, count: usize) -> String {
    let shown: Vec<String> = names.take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
    let more = if count > NAMES_SHOWN { ", …" } else { "" };
    shown.join(", ") + more
}
