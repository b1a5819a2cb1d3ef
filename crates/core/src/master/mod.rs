//! The master: stamps a query, orders every site's agent to answer it at T, answers itself when that fails.
//!
//! Two machines share the work. [`Shard`] is the data plane: one per core, nothing shared but the configuration, told
//! of agents by [`AgentView`]s. [`Roster`] is the control plane: one per master, decides which agents may race and
//! tells the shards. [`central`] is what the master says by itself, over UDP and TCP alike.

pub mod central;
mod mesh;
mod roster;
mod shard;
mod signing;
pub mod transfer;

pub use roster::{AgentStatus, Roster, RosterConfig, RosterOutput, Slot};
pub use shard::{AgentView, Arrival, Counters, Output, Shard, ShardConfig, Signalled, Timer};
pub use signing::{Signers, SigningError};

use crate::dns::name::NameError;
use crate::dns::transfer::Policy;
use crate::dns::zone::{self, ZoneError};
use crate::dns::{Answers, CanonicalName, PreparedAnswers, RacedName, Record, Zone, ZoneSet};
use crate::playbook::{LatePolicy, MAX_RACES, Playbook, PlaybookRace};
use crate::time::Span;
use domain::base::Rtype;
use serde::{Deserialize, Serialize};
use signing::RaceSignatures;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most agents of one master: the fast path's session table and the per-race loops are bounded by it.
pub const MAX_AGENTS: usize = 1_024;

/// Which races an agent can be ordered to run; each kind includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// None: orders do not reach it, or its answers nobody.
    Unreachable,
    /// Those by signal, which need no clock.
    BySignal,
    /// Those at T as well, by `After`: its clock is not good enough, but its round trip is known.
    ByAfter,
    /// All, at T.
    AtInstant,
}

/// When T is counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// From the kernel's receive timestamp of the query.
    #[default]
    Receipt,
    /// From the moment at which the query is taken from the queue.
    Dequeue,
}

/// How the predetermined delay is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always this.
    Fixed(Span),
    /// The smallest delay by which this share of the agents have their order, plus a margin.
    Cover {
        /// Above 0, at most 1.
        share: f64,
        /// Added for what no measurement foresaw.
        margin: Span,
    },
}

/// What makes the answers of a race depart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transmit {
    /// An instant, T.
    #[default]
    At,
    /// A signal that the master sends at T.
    Signal,
    /// The signal of this name, which somebody fires ([`Shard::handle_signal`]). It lets every open race that waits for
    /// it depart at once. T is when agents stop waiting, [`HOLD`](crate::agent::HOLD) after the stamp.
    Held(Arc<str>),
}

impl Transmit {
    /// Whether an agent needs no clock for it.
    pub fn is_signal(&self) -> bool {
        matches!(self, Transmit::Signal | Transmit::Held(_))
    }
}

/// One raced name.
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// The name; may be a wildcard.
    pub name: CanonicalName,
    /// Time to live of the sites' answers, in seconds.
    pub ttl_s: u32,
    /// How the predetermined delay is found.
    pub delay: Delay,
    /// What makes the answers depart.
    pub transmit: Transmit,
    /// What an agent does with an answer that is late.
    pub late: LatePolicy,
    /// A departure more than this after T is late.
    pub late_tolerance: Span,
    /// What each site answers.
    pub sites: BTreeMap<String, Answers>,
    /// What the master answers itself.
    pub fallback: Answers,
}

impl RaceConfig {
    /// What is left of a race that is no more: its name, in its place.
    fn retire(self) -> Self {
        RaceConfig { sites: BTreeMap::new(), fallback: Answers::default(), ..self }
    }

    /// Whether the race is no more ([`Service::succeed`]).
    pub fn is_retired(&self) -> bool {
        self.sites.is_empty() && self.fallback == Answers::default()
    }

    /// Whether any site answers questions for this type.
    pub fn serves(&self, rtype: Rtype) -> bool {
        self.sites.values().any(|site| site.serve(rtype))
    }

    /// The name as its zone has to know it.
    pub fn raced_name(&self, index: u16) -> RacedName {
        let is_referral = self.sites.values().any(|site| !site.ns.is_empty());
        let mut types: Vec<Rtype> = self.sites.values().chain([&self.fallback]).flat_map(Answers::types).collect();
        types.sort_unstable_by_key(|rtype| rtype.to_int());
        types.dedup();
        RacedName { name: self.name.clone(), index, types, is_referral }
    }
}

/// Longest time to live of an answer that the master gives itself to a raced name, in seconds: the resolver should come
/// back soon, when a race can be had.
pub const MAX_FALLBACK_TTL_S: u32 = 10;

/// What a master serves: the only thing that its shards share.
#[derive(Clone, Debug)]
pub struct Service {
    /// The master's name; told by NSID.
    pub master: String,
    /// Its zones, raced names included.
    pub zones: ZoneSet,
    /// The raced names, by the index that the zones refer to.
    pub races: Vec<RaceConfig>,
    /// Keys, and who may notify and transfer.
    pub transfers: Arc<Policy>,
    /// What the master answers itself, by the same index.
    fallbacks: Vec<PreparedAnswers>,
    /// Signatures of raced names in signed zones, by the same index; empty until [`Service::sign`].
    signatures: Vec<Option<RaceSignatures>>,
}

impl Service {
    /// What the master `master` serves; every race's index is its place in the list, and the zones know it by that.
    ///
    /// # Errors
    /// Where a name in a fallback is none.
    pub fn new(master: String, zones: ZoneSet, races: Vec<RaceConfig>) -> Result<Self, NameError> {
        let prepare = |race: &RaceConfig| race.fallback.prepare(&race.name, race.ttl_s.min(MAX_FALLBACK_TTL_S), &[]);
        let fallbacks = races.iter().map(prepare).collect::<Result<_, _>>()?;
        Ok(Service { master, zones, races, transfers: Arc::default(), fallbacks, signatures: Vec::new() })
    }

    /// The same service, to take the place of `previous` while races run and agents still play what they were told: a race
    /// keeps the index that its name had, one that is no more leaves an empty place, and new ones take places that were
    /// empty before or come behind. Signatures are to be made after this.
    ///
    /// # Errors
    /// The number of places needed, where that is more than [`MAX_RACES`]: a restart begins anew.
    pub fn succeed(mut self, previous: &Service) -> Result<Self, usize> {
        let mut places: Vec<Option<usize>> = vec![None; previous.races.len()];
        let mut fresh = Vec::new();
        for (own, race) in self.races.iter().enumerate() {
            match previous.races.iter().position(|before| before.name == race.name) {
                Some(place) => places[place] = Some(own),
                None => fresh.push(own),
            }
        }
        // A place that was empty before already is in no playbook that an agent still has.
        let empty = previous.races.iter().map(RaceConfig::is_retired);
        let mut free = empty.enumerate().filter(|(_, is_retired)| *is_retired).map(|(place, _)| place);
        for own in fresh {
            match free.by_ref().find(|&place| places[place].is_none()) {
                Some(place) => places[place] = Some(own),
                None => places.push(Some(own)),
            }
        }
        if places.len() > MAX_RACES {
            return Err(places.len());
        }
        let place_of = |own: u16| places.iter().position(|place| *place == Some(usize::from(own))).unwrap_or_default();
        self.zones.renumber(|own| place_of(own) as u16);
        let take = |(place, own): (usize, &Option<usize>)| match own {
            Some(own) => (self.races[*own].clone(), self.fallbacks[*own].clone()),
            None => (previous.races[place].clone().retire(), PreparedAnswers::default()),
        };
        (self.races, self.fallbacks) = places.iter().enumerate().map(take).unzip();
        self.signatures.clear();
        Ok(self)
    }

    /// The races whose names lie in a zone, with their indices.
    pub fn races_in(&self, apex: &CanonicalName) -> impl Iterator<Item = (&RaceConfig, u16)> {
        let is_here = |race: &RaceConfig| !race.is_retired() && self.zones.apex_of(race.name.as_bytes()) == Some(apex);
        self.races.iter().zip(0u16..).filter(move |(race, _)| is_here(race))
    }

    /// The same service with another version of a secondary's zone, its raced names in their places; `None` for no data. Where
    /// it has raced names and is, or was, signed, signatures are to be made after this; else those that are there stay.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn with_zone(&self, apex: &CanonicalName, records: Option<Vec<Record>>) -> Result<Self, ZoneError> {
        let raced: Vec<RacedName> = self.races_in(apex).map(|(race, index)| race.raced_name(index)).collect();
        let zone = match records {
            Some(mut records) => {
                zone::give_way(&mut records, &raced);
                Zone::new(apex.clone(), records, &raced)?
            }
            None => Zone::without_data(apex.clone()),
        };
        let mut service = self.clone();
        service.zones.replace(Arc::new(zone));
        Ok(service)
    }

    /// What one site plays. Every race is in it, with no addresses where the site takes no part, so that the index
    /// means the same everywhere.
    pub fn playbook(&self, site: &str) -> Playbook {
        let play = |(index, race): (usize, &RaceConfig)| PlaybookRace {
            name: race.name.to_string(),
            ttl_s: race.ttl_s,
            late: race.late,
            late_tolerance: race.late_tolerance,
            answers: race.sites.get(site).cloned().unwrap_or_default(),
            signatures: self.signatures(index, site),
        };
        Playbook { races: self.races.iter().enumerate().map(play).collect() }
    }
}

impl Service {
    /// The names of the signals that races wait for, each once.
    pub fn signals(&self) -> BTreeSet<&str> {
        let held = self.races.iter().filter_map(|race| match &race.transmit {
            Transmit::Held(name) => Some(&**name),
            Transmit::At | Transmit::Signal => None,
        });
        held.collect()
    }
}

/// A service that all shards read.
pub type SharedService = Arc<Service>;

#[cfg(test)]
mod tests;
