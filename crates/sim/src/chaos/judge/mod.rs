//! What must hold, checked fact by fact.
//!
//! The judge knows what no machine does: true time, every secret, who sealed which datagram for whom, whose addresses
//! are whose. It opens each datagram when it is sealed and so knows every order and receipt; what a machine does is
//! then held against what it was told.

mod departures;
mod orders;
mod replies;
mod seals;

pub(super) use seals::stream_of;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use startgun_core::clock::Reading;
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::{Binding, Opener, Receipt, TransmitIdentifier};

use super::plan::Plan;
use crate::world::Observation;
use crate::{Host, SimTime, World};
use seals::SessionLife;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No departure before T less the bound, none before its agent's own clock shows T, none before its signal.
    NotEarly,
    /// No departure later than its policy allows.
    NotLate,
    /// No departure from an agent past its bound, or that does not race.
    WithinBound,
    /// A bound contains the truth.
    BoundHolds,
    /// No answer that the playbook does not contain that the order named, and no order that names one that the agent
    /// has not acknowledged.
    Playbook,
    /// One race yields at most one answer per agent, and none without an order.
    OneAnswer,
    /// Never a second race beside the first for one source, name and type; T stays, and is counted from the receipt.
    OneRace,
    /// The master answers no query twice, and not beside agents whose receipts it has, or before they had their time.
    Fallback,
    /// A client that repeats its query gets an answer while its master lives.
    Answered,
    /// A forged or replayed datagram changes nothing.
    Forged,
    /// No nonce is used twice.
    Nonce,
    /// A datagram that is whole, new and in time is taken.
    Taken,
    /// An unvalidated source is not amplified, and does not race; budgets are kept.
    Amplified,
    /// Every table stays within its limit.
    Tables,
    /// A healed world races again in time.
    Healed,
    /// Receipts tell what happened.
    Receipts,
    /// Nothing panics.
    Panic,
}

impl Invariant {
    /// In a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Invariant::NotEarly => "no departure before T less the bound, or before its signal",
            Invariant::NotLate => "no departure later than its policy allows",
            Invariant::WithinBound => "no departure from an agent past its bound",
            Invariant::BoundHolds => "a bound contains the truth",
            Invariant::Playbook => "no answer that the playbook of its order does not contain",
            Invariant::OneAnswer => "one race yields at most one answer per agent",
            Invariant::OneRace => "never a second race beside the first, and T stays",
            Invariant::Fallback => "the master answers itself once, and only where the agents do not",
            Invariant::Answered => "a client that repeats its query gets an answer while its master lives",
            Invariant::Forged => "a forged or replayed datagram changes nothing",
            Invariant::Nonce => "no nonce is used twice",
            Invariant::Taken => "a datagram that is whole, new and in time is taken",
            Invariant::Amplified => "an unvalidated source is not amplified, and budgets are kept",
            Invariant::Tables => "every table stays within its limit",
            Invariant::Healed => "a healed world races again in time",
            Invariant::Receipts => "receipts tell what happened",
            Invariant::Panic => "nothing panics",
        }
    }
}

/// Something that must hold did not.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub invariant: Invariant,
    /// How.
    pub what: String,
    /// When, truly.
    pub at: SimTime,
    /// After so many steps of the world.
    pub step: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (step {}, {:?}): {}", self.invariant.text(), self.step, self.at, self.what)
    }
}

/// What a judge says of a fact.
pub(super) type Verdict = Result<(), (Invariant, String)>;

/// Fails with what is broken and how.
macro_rules! demand {
    ($holds:expr, $invariant:ident, $($what:tt)*) => {
        if !$holds {
            return Err(($crate::chaos::judge::Invariant::$invariant, format!($($what)*)));
        }
    };
}
pub(super) use demand;

/// An order, as its master sealed it for one agent.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) master: usize,
    /// The master's process.
    pub(super) process: u64,
    pub(super) epoch: Epoch,
    pub(super) race: u64,
    pub(super) revision: u8,
    pub(super) transmit: TransmitIdentifier,
    pub(super) playbook: u64,
    pub(super) service: SocketAddr,
    pub(super) client: SocketAddr,
    pub(super) query: Vec<u8>,
}

impl Order {
    pub(super) fn id(&self) -> u16 {
        self.query.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }
}

/// What a sealed datagram carries, as far as it matters.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Order(Order),
    Receipt(Receipt),
    Signal(u64),
}

/// A race of a master's process, as its orders tell.
#[derive(Debug, Default)]
pub(super) struct Race {
    pub(super) transmit_at: Option<RaceTime>,
    pub(super) by_signal: bool,
    pub(super) revision: u8,
    /// Who was ordered, of the newest revision.
    pub(super) ordered: Vec<usize>,
    /// Agents whose receipts of the newest revision the master has taken, and whether an answer departed.
    pub(super) receipts: BTreeMap<usize, bool>,
    pub(super) client: Option<(SocketAddr, u16)>,
    /// The master has answered it, or a repetition of it.
    pub(super) answered: bool,
}

/// An order that an agent has taken.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) order: Order,
    /// By the agent's clock.
    pub(super) received_at: LocalTime,
    /// The agent has handed its answer out.
    pub(super) accepted: bool,
}

/// An agent's clock of one master, as the agent judged it.
#[derive(Debug, Default)]
struct Gate {
    was_good: bool,
    /// By its own clock, which may step, and truly.
    bad_at: Option<(LocalTime, SimTime)>,
}

/// A master, its process, a source, and a name with a type.
type Question = (usize, u64, std::net::IpAddr, Vec<u8>);

/// A query as an agent has it: agent, client, id and question.
type QueryOfAgent = (usize, SocketAddr, u16, Vec<u8>);
/// Instants by a host's clock, and truly.
type Instants = Vec<(LocalTime, SimTime)>;

/// The judge of one run.
pub(super) struct Judge<'a> {
    plan: &'a Plan,
    /// Opened when sealed: by datagram.
    contents: HashMap<u64, Vec<Content>>,
    bindings: HashMap<u64, (usize, usize, Binding)>,
    openers: HashMap<(u64, bool, u8), Opener>,
    nonces: HashSet<(Host, u64, u8, u64)>,
    /// Sealed datagrams for forgers: who sealed, for whom, what.
    pub(super) recorded: Vec<(Host, Host, Vec<u8>)>,
    /// Sessions that an agent was told of, by agent and link.
    at_agent: BTreeMap<(usize, usize), Vec<SessionLife>>,
    /// Sessions that a master has opened, by master and agent.
    at_master: BTreeMap<(usize, usize), Vec<SessionLife>>,
    /// Highest counter that was taken, by receiver and stream.
    highest: HashMap<(Host, u64, u8), u64>,
    /// Masters without a process.
    down: BTreeSet<usize>,
    /// The process of each master.
    processes: BTreeMap<usize, u64>,
    races: BTreeMap<(usize, u64, u64), Race>,
    /// Which race of a master's process a source, name and type has, until when truly, and by the master's clock.
    open: HashMap<Question, (u64, SimTime, LocalTime)>,
    /// Until when, truly, a race must be settled or answered by its master; by master, process and race.
    dues: BTreeSet<(SimTime, usize, u64, u64)>,
    /// The race that an order's client and id belong to.
    race_of_query: HashMap<(usize, SocketAddr, u16), (u64, u64)>,
    /// Orders that an agent's process has, by master and race.
    orders: BTreeMap<(usize, usize, u64), Vec<Ordered>>,
    /// The same by client, id and question: the newest. A query that the network doubled and altered is two, of one id.
    order_of_query: HashMap<QueryOfAgent, (usize, u64, u8)>,
    signals: HashSet<(usize, usize, u64)>,
    /// Whether the departure that was due left; its record follows.
    left: Option<bool>,
    /// Answers that left, by agent, master, race and revision.
    departed: HashSet<(usize, usize, u64, u8)>,
    /// The same by agent, master, process and race, each once.
    answered: HashSet<(usize, usize, u64, u64)>,
    /// By agent and link: current and previous playbook.
    playbooks: BTreeMap<(usize, usize), [Option<u64>; 2]>,
    /// By master and agent: what the agent has acknowledged.
    acknowledged: BTreeMap<(usize, usize), u64>,
    /// What a playbook version means.
    versions: BTreeMap<(usize, usize, u64), u8>,
    generations: BTreeMap<usize, u8>,
    gates: BTreeMap<(usize, usize), Gate>,
    /// The epoch that an agent follows, by link.
    epochs: BTreeMap<(usize, usize), Epoch>,
    /// Until when a client may race, by the master's clock; by master, process and client.
    validated: BTreeMap<(usize, u64, usize), LocalTime>,
    pub(super) cookies: BTreeMap<usize, Vec<[u8; 24]>>,
    /// Clients that were told by which master to come back over TCP.
    truncated: Vec<(usize, usize)>,
    asked: HashMap<(usize, SocketAddr, u16), Vec<replies::Asked>>,
    /// Races that a master opened for a client, and orders that an agent accepted for one or in all: the instants.
    opened_at: HashMap<(usize, u64, std::net::IpAddr), Instants>,
    accepted_at: HashMap<(usize, Option<std::net::IpAddr>), Instants>,
    /// When a query was last lost in a full queue, by master.
    pub(super) queue_full: BTreeMap<usize, SimTime>,
    pub(super) races_seen: u64,
    pub(super) departures_seen: u64,
    pub(super) blind: u64,
    pub(super) forged_seen: u64,
}

impl<'a> Judge<'a> {
    pub(super) fn new(plan: &'a Plan, world: &World) -> Self {
        let mut versions = BTreeMap::new();
        for master in 0..plan.options.masters.len() {
            for agent in 0..plan.options.agents.len() {
                for generation in 0..super::plan::GENERATIONS {
                    let version = world.playbook_version(master, agent, generation);
                    versions.insert((master, agent, version), generation);
                }
            }
        }
        Judge {
            plan,
            contents: HashMap::new(),
            bindings: HashMap::new(),
            openers: HashMap::new(),
            nonces: HashSet::new(),
            recorded: Vec::new(),
            at_agent: BTreeMap::new(),
            at_master: BTreeMap::new(),
            highest: HashMap::new(),
            down: BTreeSet::new(),
            processes: BTreeMap::new(),
            races: BTreeMap::new(),
            open: HashMap::new(),
            dues: BTreeSet::new(),
            race_of_query: HashMap::new(),
            orders: BTreeMap::new(),
            order_of_query: HashMap::new(),
            signals: HashSet::new(),
            left: None,
            departed: HashSet::new(),
            answered: HashSet::new(),
            playbooks: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            versions,
            generations: BTreeMap::new(),
            gates: BTreeMap::new(),
            epochs: BTreeMap::new(),
            validated: BTreeMap::new(),
            cookies: BTreeMap::new(),
            truncated: Vec::new(),
            asked: HashMap::new(),
            opened_at: HashMap::new(),
            accepted_at: HashMap::new(),
            queue_full: BTreeMap::new(),
            races_seen: 0,
            departures_seen: 0,
            blind: 0,
            forged_seen: 0,
        }
    }

    /// Judges everything that a step has brought about.
    pub(super) fn take_step(&mut self, world: &mut World) -> Verdict {
        let records = world.take_departures();
        for record in records.iter().filter(|record| record.departed()) {
            self.departed.insert((record.agent, record.master, record.race, record.revision));
        }
        for fact in world.take_facts() {
            self.take(world, fact)?;
        }
        for record in records {
            let left = self.left.take();
            self.judge_departure(world, &record, left)?;
        }
        self.left = None;
        self.judge_due(world.now())?;
        for reading in world.take_readings() {
            self.blind += u64::from(reading.blind);
            demand!(reading.blind || reading.holds, BoundHolds, "{reading:?}");
        }
        Ok(())
    }

    fn take(&mut self, world: &World, fact: Observation) -> Verdict {
        match fact {
            Observation::Sealed { by, to, digest, bytes } => self.take_sealed(world, by, to, digest, bytes),
            Observation::Handled(handled) => self.take_handled(&handled),
            Observation::Moved { host } => {
                Err((Invariant::Forged, format!("{host:?} does something on a worthless datagram")))
            }
            Observation::Asked { master, source, at, bytes } => {
                self.take_asked(master, source, at, bytes);
                Ok(())
            }
            Observation::QueueFull { master } => {
                self.queue_full.insert(master, world.now());
                Ok(())
            }
            Observation::Replied { master, to, at, bytes } => self.take_reply(world, master, to, at, &bytes),
            Observation::Heard { client, by, bytes } => {
                self.take_heard(client, by, &bytes);
                Ok(())
            }
            Observation::Timed { agent, departure, now, readings } => {
                self.take_timed(world.now(), agent, &departure, now, &readings)
            }
            Observation::Left { departed } => {
                self.left = Some(departed);
                Ok(())
            }
            Observation::Overfull { host, occupancy } => Err((
                Invariant::Tables,
                format!("{host:?}: {} {}, at most {}", occupancy.entries, occupancy.table, occupancy.limit),
            )),
            other => {
                self.take_state(world, other);
                Ok(())
            }
        }
    }

    /// Facts that only say what is the case from now on.
    fn take_state(&mut self, world: &World, fact: Observation) {
        match fact {
            Observation::Settled { agent, link, now, reading } => {
                self.take_settled(agent, link, now, world.now(), reading.as_ref());
            }
            Observation::Started { host } => self.take_started(host),
            Observation::Session { master, agent, binding } => {
                let session = SessionLife::new(binding.id);
                let now = world.local_time(Host::Master(master));
                SessionLife::succeed(self.at_master.entry((master, agent)).or_default(), session, now);
                self.bindings.insert(binding.id, (master, agent, binding));
            }
            Observation::SessionKept { agent, link, id } => {
                let now = world.local_time(Host::Agent(agent));
                SessionLife::succeed(self.at_agent.entry((agent, link)).or_default(), SessionLife::new(id), now);
            }
            Observation::Welcomed { agent, link, epoch } => self.take_welcomed(agent, link, epoch),
            Observation::Retired { master, agent } => {
                self.at_master.remove(&(master, agent));
            }
            Observation::Disconnected { agent, link } => {
                let now = world.local_time(Host::Agent(agent));
                if let Some(last) = self.at_agent.get_mut(&(agent, link)).and_then(|sessions| sessions.last_mut()) {
                    last.end(now);
                }
            }
            Observation::Playbook { agent, link, version } => {
                let known = self.playbooks.entry((agent, link)).or_default();
                if known[0] != Some(version) {
                    *known = [Some(version), known[0]];
                }
            }
            Observation::Acknowledged { master, agent, version } => {
                // An answer to an earlier configuration counts for nothing.
                let generation = self.generations.get(&master).copied().unwrap_or(0);
                if self.versions.get(&(master, agent, version)) == Some(&generation) {
                    self.acknowledged.insert((master, agent), version);
                }
            }
            Observation::Configured { master, generation } => {
                self.generations.insert(master, generation);
            }
            _ => {}
        }
    }

    fn take_started(&mut self, host: Host) {
        match host {
            Host::Agent(agent) => {
                self.at_agent.retain(|(of, _), _| *of != agent);
                self.playbooks.retain(|(of, _), _| *of != agent);
                self.gates.retain(|(of, _), _| *of != agent);
                self.epochs.retain(|(of, _), _| *of != agent);
                self.orders.retain(|(of, ..), _| *of != agent);
                self.signals.retain(|(of, ..)| *of != agent);
                self.accepted_at.retain(|(of, _), _| *of != agent);
            }
            Host::Master(master) => {
                self.at_master.retain(|(of, _), _| *of != master);
                *self.processes.entry(master).or_default() += 1;
                self.down.remove(&master);
            }
            Host::Client(_) => {}
        }
    }

    fn take_welcomed(&mut self, agent: usize, link: usize, epoch: Epoch) {
        if self.epochs.insert((agent, link), epoch) != Some(epoch) {
            self.at_agent.remove(&(agent, link));
            self.gates.remove(&(agent, link));
        }
    }

    fn link_of(&self, agent: usize, master: usize) -> Option<usize> {
        self.plan.options.agents[agent].masters.iter().position(|of| *of == master)
    }

    /// Which limit of the agent's a reading exceeds.
    fn exceeds(&self, agent: usize, reading: Option<&Reading>) -> bool {
        let own = &self.plan.options.agents[agent];
        reading.is_none_or(|reading| {
            reading.disagree
                || reading.expected_error == Span::MAX
                || reading.expected_error > own.max_expected_error
                || reading.bound > own.max_bound
        })
    }

    fn take_settled(&mut self, agent: usize, link: usize, now: LocalTime, truly: SimTime, reading: Option<&Reading>) {
        let exceeds = self.exceeds(agent, reading);
        let gate = self.gates.entry((agent, link)).or_default();
        if exceeds && gate.was_good {
            gate.bad_at = Some((now, truly));
        }
        gate.was_good |= !exceeds;
    }

    /// A client proves that its address is its own.
    pub(super) fn note_validated(&mut self, world: &World, master: usize, client: usize) {
        let until = world.local_time(Host::Master(master)) + self.plan.options.masters[master].validated_for;
        let process = self.process(master);
        let known = self.validated.entry((master, process, client)).or_insert(until);
        *known = (*known).max(until);
    }

    /// A master's process ends.
    pub(super) fn note_down(&mut self, master: usize) {
        self.down.insert(master);
    }

    /// A master's clock steps: nobody can say when its races end, nor its sessions that have a successor. Their ten seconds
    /// begin when the agent has acknowledged it, which may be after the step.
    pub(super) fn note_stepped(&mut self, master: usize) {
        self.dues.retain(|(_, of, ..)| *of != master);
        let own = self.at_master.iter_mut().filter(|((of, _), _)| *of == master);
        own.for_each(|(_, sessions)| sessions.retain(|session| !session.is_succeeded()));
    }

    fn process(&self, master: usize) -> u64 {
        self.processes.get(&master).copied().unwrap_or(0)
    }

    /// Takes away who was told to come back over TCP, and by whom.
    pub(super) fn take_truncated(&mut self) -> Vec<(usize, usize)> {
        core::mem::take(&mut self.truncated)
    }
}
