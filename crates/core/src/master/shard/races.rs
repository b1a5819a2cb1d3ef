//! The races that are open, by resolver and question, and when each is due for what.
//!
//! Opening and closing one allocates nothing once the tables have grown: a closed race leaves its place, with the room for
//! its query and its list of agents, to one that opens later. What a race is due for lies in a heap, from which nothing is
//! ever taken out but its first entry; an entry that no longer holds when its time comes is passed over.

use super::Arrival;
use crate::dns::answer::{Proven, SERVER_COOKIE};
use crate::histogram::Histogram;
use crate::master::{Slot, Transmit};
use crate::occupancy::Occupancy;
use crate::time::{LocalTime, RaceTime, Span};
use crate::wire::{Order, Receipt, ReceiptOutcome, TransmitIdentifier};
use domain::base::Rtype;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

/// Most races open at once: 100,000 per second × 0.55 s of life on one core, rounded up; 65,536 × about 1 KiB. Of races
/// that are held for a signal, which live 2.25 s, 29,000 can be opened per second.
pub(super) const MAX_OPEN_RACES: usize = 65_536;
/// Most times that one race's orders are amended: no resolver repeats a query more often within half a second.
const MAX_REVISION: u8 = 8;
/// Departed answers that settle a race: with one alone, its loss would leave the client without any.
const SETTLING_DEPARTURES: usize = 2;
/// Where the counter within a race's number ends and the shard begins.
const SHARD_SHIFT: u32 = 56;

/// Whose question a race decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    pub(super) source: IpAddr,
    /// In canonical form.
    pub(super) name: &'a [u8],
    pub(super) rtype: Rtype,
}

/// A race to be opened.
pub(super) struct Opened<'a> {
    pub(super) key: Key<'a>,
    pub(super) index: u16,
    pub(super) transmit_at: RaceTime,
    pub(super) transmit: &'a Transmit,
    pub(super) close_after: Span,
    pub(super) cookie: Option<[u8; SERVER_COOKIE]>,
    pub(super) proven: Proven,
}

/// What makes one race's answers depart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// T.
    At,
    /// The signal of the race's own number, at T.
    Signal,
    /// The signal with this id, whenever somebody fires it; shared with all races that wait for the same.
    Held(u64),
}

/// How an agent was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ordered {
    /// At T.
    At,
    /// A span after the order.
    After,
    /// By signal.
    On,
}

/// What a receipt says of its race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// How its agent was ordered.
    pub(super) ordered: Ordered,
    /// It was the last, and no answer departed.
    pub(super) nobody_departed: bool,
}

/// The departures of one race that the kernel has stamped, as lateness by each agent's own clock. Agents by `After` are
/// not among them: they have no clock that could tell.
#[derive(Clone, Copy, Debug)]
struct Departures {
    earliest: Span,
    latest: Span,
    count: usize,
}

impl Departures {
    const NONE: Departures = Departures { earliest: Span::MAX, latest: Span::MIN, count: 0 };

    fn add(&mut self, lateness: Span) {
        self.earliest = self.earliest.min(lateness);
        self.latest = self.latest.max(lateness);
        self.count += 1;
    }
}

struct Race {
    number: u64,
    source: SocketAddr,
    service: u16,
    rtype: Rtype,
    /// The name in canonical form.
    name: Vec<u8>,
    /// The newest query of this race.
    query: Vec<u8>,
    index: u16,
    transmit_at: RaceTime,
    start: Start,
    close_at: LocalTime,
    revision: u8,
    id: u16,
    /// The server cookie that answers return.
    cookie: Option<[u8; SERVER_COOKIE]>,
    /// What they must prove.
    proven: Proven,
    /// Agents whose receipt is awaited: each has one word, and only on what it was ordered to do.
    awaited: Vec<(Slot, Ordered)>,
    ordered: usize,
    departed: usize,
    departures: Departures,
    answered: bool,
}

impl Race {
    fn key(&self) -> Key<'_> {
        Key { source: self.source.ip(), name: &self.name, rtype: self.rtype }
    }

    /// The newest query takes the place of the one before.
    fn ask(&mut self, arrival: &Arrival<'_>) {
        self.source = arrival.source;
        self.service = arrival.service;
        self.id = message_id(arrival.bytes);
        self.query.clear();
        self.query.extend_from_slice(arrival.bytes);
    }

    fn arrival(&self) -> Arrival<'_> {
        // When it was received has had its use: T was counted from it.
        Arrival {
            service: self.service,
            source: self.source,
            received_at: self.transmit_at.to_master(),
            bytes: &self.query,
        }
    }
}

/// What a repeated query meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The very same query, duplicated by the network.
    Duplicate,
    /// The race is open, nothing was answered by the master.
    Open(u64),
    /// The master has answered this race already.
    Answered,
}

/// What a race is due for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Its signal.
    Signal,
    /// The master's own answer, because the signal that it was held for has not been fired.
    Unsignalled,
    /// The master's own answer, where nothing settled it, and its end.
    Close,
}

/// A race's place in the table.
type Place = u32;

pub(super) struct Races {
    /// Open races and free places.
    places: Vec<Race>,
    free: Vec<Place>,
    by_number: HashTable<Place>,
    by_key: HashTable<Place>,
    /// Keyed, because clients choose the names.
    hasher: FixedState,
    due: BinaryHeap<Reverse<(LocalTime, u64, Due)>>,
    /// By race index: the signal's id, and which races wait for it. As many races as are open, at most.
    held: BTreeMap<u16, (u64, BTreeSet<u64>)>,
    /// Start spread by race index; at most [`MAX_RACES`](crate::playbook::MAX_RACES) of 1.6 KB.
    spreads: BTreeMap<u16, Histogram>,
    next: u64,
    /// How many may be open.
    most: usize,
}

impl Races {
    /// Race numbers begin at the clock's microseconds, so that a restarted master does not repeat those that its agents
    /// still remember: 2^56 µs are 2,284 years.
    pub(super) fn new(shard: u8, seed: u64, now: LocalTime) -> Self {
        let start = (now.as_nanos() / 1_000) as u64 & ((1 << SHARD_SHIFT) - 1);
        Races {
            places: Vec::new(),
            free: Vec::new(),
            by_number: HashTable::new(),
            by_key: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            due: BinaryHeap::new(),
            held: BTreeMap::new(),
            spreads: BTreeMap::new(),
            next: u64::from(shard) << SHARD_SHIFT | start,
            most: MAX_OPEN_RACES,
        }
    }

    pub(super) fn shrink(&mut self, most: usize) {
        self.most = most.min(MAX_OPEN_RACES);
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy::new("open races", self.len(), self.most)
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    fn place(&self, number: u64) -> Option<usize> {
        let found = self.by_number.find(hash_of(number), |&place| self.places[place as usize].number == number);
        found.map(|&place| place as usize)
    }

    fn get(&self, number: u64) -> Option<&Race> {
        self.place(number).map(|place| &self.places[place])
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Race> {
        self.place(number).map(|place| &mut self.places[place])
    }

    pub(super) fn repeat(&self, key: &Key<'_>, port: u16, id: u16) -> Option<Repeat> {
        let found = self.by_key.find(self.hasher.hash_one(key), |&place| self.places[place as usize].key() == *key);
        let race = &self.places[*found? as usize];
        Some(if race.source.port() == port && race.id == id {
            Repeat::Duplicate
        } else if race.answered {
            Repeat::Answered
        } else {
            Repeat::Open(race.number)
        })
    }

    /// Opens a race; `None` when the table is full.
    pub(super) fn open(&mut self, opened: Opened<'_>, arrival: &Arrival<'_>) -> Option<u64> {
        if self.len() >= self.most {
            return None;
        }
        self.next += 1;
        let number = self.next;
        let t = opened.transmit_at.to_master();
        let close_at = t + opened.close_after;
        let start = match opened.transmit {
            Transmit::At => Start::At,
            Transmit::Signal => {
                self.due.push(Reverse((t, number, Due::Signal)));
                Start::Signal
            }
            Transmit::Held(_) => {
                self.due.push(Reverse((t, number, Due::Unsignalled)));
                // The first race that waits lends its number to the signal, so no id comes twice.
                let (id, races) = self.held.entry(opened.index).or_insert_with(|| (number, BTreeSet::new()));
                races.insert(number);
                Start::Held(*id)
            }
        };
        self.due.push(Reverse((close_at, number, Due::Close)));
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Race::closed());
            self.places.len() as Place - 1
        });
        let race = &mut self.places[place as usize];
        (race.number, race.index, race.rtype) = (number, opened.index, opened.key.rtype);
        race.name.clear();
        race.name.extend_from_slice(opened.key.name);
        (race.transmit_at, race.start, race.close_at) = (opened.transmit_at, start, close_at);
        (race.revision, race.cookie, race.proven) = (0, opened.cookie, opened.proven);
        race.answered = false;
        race.forget_orders();
        race.ask(arrival);
        let Races { places, by_number, by_key, hasher, .. } = self;
        by_number.insert_unique(hash_of(number), place, |&place| hash_of(places[place as usize].number));
        let hash = |place: Place| hasher.hash_one(places[place as usize].key());
        by_key.insert_unique(hash(place), place, |&place| hash(place));
        Some(number)
    }

    pub(super) fn transmit_at(&self, number: u64) -> Option<RaceTime> {
        self.get(number).filter(|race| race.revision < MAX_REVISION).map(|race| race.transmit_at)
    }

    /// Race index, type and service address; of no race, something that matches no agent.
    pub(super) fn subject(&self, number: u64) -> (u16, Rtype, u16) {
        self.get(number).map_or((u16::MAX, Rtype::A, 0), |race| (race.index, race.rtype, race.service))
    }

    /// The newest query takes the place of the one before; T stays.
    pub(super) fn amend(&mut self, number: u64, arrival: &Arrival<'_>, cookie: Option<[u8; SERVER_COOKIE]>) {
        if let Some(race) = self.get_mut(number) {
            race.revision += 1;
            race.cookie = cookie;
            race.ask(arrival);
            race.forget_orders();
        }
    }

    /// The order for every agent; its playbook version is each agent's own.
    pub(super) fn order<'a>(&'a self, number: u64, sent: RaceTime, services: &[SocketAddr]) -> Option<Order<'a>> {
        let race = self.get(number)?;
        Some(Order {
            race: number,
            revision: race.revision,
            transmit: match race.start {
                Start::At => TransmitIdentifier::At(race.transmit_at),
                Start::Signal => TransmitIdentifier::On(number),
                Start::Held(id) => TransmitIdentifier::On(id),
            },
            sent,
            playbook: 0,
            name: race.index,
            service: *services.get(usize::from(race.service))?,
            client: race.source,
            query: &race.query,
            cookie: race.cookie,
            proof: &race.proven.records,
            proof_count: race.proven.count,
        })
    }

    /// Which agents were ordered, in the order of their slots.
    pub(super) fn note_ordered(&mut self, number: u64, agents: &[(Slot, Ordered)]) {
        if let Some(race) = self.get_mut(number) {
            race.ordered = agents.len();
            race.awaited.clear();
            race.awaited.extend_from_slice(agents);
        }
    }

    /// Takes in an agent's receipt; `None` for one that nobody awaits.
    pub(super) fn note_receipt(&mut self, agent: Slot, receipt: &Receipt) -> Option<Noted> {
        let race = self.get_mut(receipt.race).filter(|race| race.revision == receipt.revision)?;
        let place = race.awaited.binary_search_by_key(&agent, |(slot, _)| *slot).ok()?;
        let (_, ordered) = race.awaited.remove(place);
        race.departed += usize::from(receipt.outcome.is_departed());
        if receipt.outcome == ReceiptOutcome::Departed && ordered == Ordered::At {
            race.departures.add(receipt.lateness);
        }
        Some(Noted { ordered, nobody_departed: race.departed == 0 && race.awaited.is_empty() })
    }

    /// The agents that were ordered to run a race and have not said what became of it.
    pub(super) fn awaited(&self, number: u64) -> impl Iterator<Item = Slot> {
        self.get(number).into_iter().flat_map(|race| race.awaited.iter().map(|(slot, _)| *slot))
    }

    /// Somebody fires the signal that the races of this index wait for: T is now. Its id, how many races there are, and
    /// which agents wait; `None` when no race does.
    pub(super) fn fire(&mut self, index: u16, now: LocalTime) -> Option<(u64, usize, BTreeSet<Slot>)> {
        let (id, races) = self.held.remove(&index)?;
        let mut agents = BTreeSet::new();
        let mut count = 0;
        for number in races {
            let Some(race) = self.get_mut(number) else { continue };
            let close_at = now + (race.close_at - race.transmit_at.to_master());
            (race.transmit_at, race.close_at) = (RaceTime::of_master(now), close_at);
            agents.extend(race.awaited.iter().map(|(slot, _)| *slot));
            count += 1;
            self.due.push(Reverse((close_at, number, Due::Close)));
        }
        Some((id, count, agents))
    }

    /// The races that wait for a named signal.
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.held.values().flat_map(|(_, races)| races.iter().copied()).collect()
    }

    /// A race that was held for a signal waits for it no longer.
    pub(super) fn give_up_waiting(&mut self, number: u64) {
        let Some(index) = self.get(number).map(|race| race.index) else { return };
        if let Some((_, races)) = self.held.get_mut(&index) {
            races.remove(&number);
            if races.is_empty() {
                self.held.remove(&index);
            }
        }
    }

    /// The master answers this (repeated) query itself: the race is answered.
    pub(super) fn settle(&mut self, number: u64, arrival: &Arrival<'_>) {
        if let Some(race) = self.get_mut(number) {
            race.answered = true;
            race.ask(arrival);
        }
    }

    /// The query of a race that neither agents nor the master have answered, the race's index and the answer's server cookie;
    /// it counts as answered from now on.
    pub(super) fn take_unanswered(&mut self, number: u64) -> Option<(Arrival<'_>, u16, Option<[u8; SERVER_COOKIE]>)> {
        let race = self.get_mut(number)?;
        let settled = race.departed >= SETTLING_DEPARTURES.min(race.ordered.max(1));
        if race.answered || settled {
            return None;
        }
        race.answered = true;
        Some((race.arrival(), race.index, race.cookie))
    }

    pub(super) fn close(&mut self, number: u64) {
        let Some(place) = self.place(number) else { return };
        let race = &self.places[place];
        if race.departures.count >= 2 {
            let spread = race.departures.latest - race.departures.earliest;
            self.spreads.entry(race.index).or_default().record(spread);
        }
        let hash = self.hasher.hash_one(race.key());
        let is_it = |&other: &Place| other as usize == place;
        if let Ok(entry) = self.by_key.find_entry(hash, is_it) {
            entry.remove();
        }
        if let Ok(entry) = self.by_number.find_entry(hash_of(number), is_it) {
            entry.remove();
        }
        self.free.push(place as Place);
    }

    /// The start spreads of the races that were closed, by race index.
    pub(super) fn spreads(&self) -> &BTreeMap<u16, Histogram> {
        &self.spreads
    }

    /// What is due, once: entries of races that were closed or moved since are passed over.
    pub(super) fn pop_due(&mut self, now: LocalTime) -> Option<(u64, Due)> {
        loop {
            let &Reverse((at, number, due)) = self.due.peek()?;
            if at > now {
                return None;
            }
            self.due.pop();
            let holds = self.get(number).is_some_and(|race| match due {
                Due::Signal => true,
                Due::Unsignalled => race.transmit_at.to_master() == at,
                Due::Close => race.close_at == at,
            });
            if holds {
                return Some((number, due));
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<LocalTime> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }
}

impl Race {
    fn closed() -> Race {
        Race {
            number: 0,
            source: SocketAddr::from(([0; 4], 0)),
            service: 0,
            rtype: Rtype::A,
            name: Vec::new(),
            query: Vec::new(),
            index: 0,
            transmit_at: RaceTime::from_nanos(0),
            start: Start::At,
            close_at: LocalTime::MAX,
            revision: 0,
            id: 0,
            cookie: None,
            proven: Proven::default(),
            awaited: Vec::new(),
            ordered: 0,
            departed: 0,
            departures: Departures::NONE,
            answered: false,
        }
    }

    fn forget_orders(&mut self) {
        self.awaited.clear();
        (self.ordered, self.departed, self.departures) = (0, 0, Departures::NONE);
    }
}

/// Race numbers count up: spread by Fibonacci hashing.
fn hash_of(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A DNS message's id; only called for packets that were parsed.
fn message_id(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}
