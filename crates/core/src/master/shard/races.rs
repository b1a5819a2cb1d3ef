//! The races that are open, by resolver and question, and when each is due for what.

use super::Arrival;
use crate::histogram::Histogram;
use crate::master::{Slot, Transmit};
use crate::time::{LocalTime, RaceTime, Span};
use crate::wire::{Order, Receipt, ReceiptOutcome, TransmitIdentifier};
use domain::base::Rtype;
use std::collections::{BTreeMap, BTreeSet};
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) source: IpAddr,
    pub(super) name: Box<[u8]>,
    pub(super) rtype: Rtype,
}

/// A race to be opened.
pub(super) struct Opened<'a> {
    pub(super) key: Key,
    pub(super) index: u16,
    pub(super) transmit_at: RaceTime,
    pub(super) transmit: &'a Transmit,
    pub(super) close_after: Span,
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
    key: Key,
    index: u16,
    transmit_at: RaceTime,
    start: Start,
    close_at: LocalTime,
    revision: u8,
    /// The newest query of this race.
    arrival: Arrival,
    id: u16,
    /// Agents whose receipt is awaited: each has one word, and only on what it was ordered to do.
    awaited: BTreeMap<Slot, Ordered>,
    ordered: usize,
    departed: usize,
    departures: Departures,
    answered: bool,
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

pub(super) struct Races {
    by_id: BTreeMap<u64, Race>,
    by_key: BTreeMap<Key, u64>,
    due: BTreeSet<(LocalTime, u64, Due)>,
    /// By race index: the signal's id, and which races wait for it. As many races as are in `by_id`, at most.
    held: BTreeMap<u16, (u64, BTreeSet<u64>)>,
    /// Start spread by race index; at most [`MAX_RACES`](crate::playbook::MAX_RACES) of 1.6 KB.
    spreads: BTreeMap<u16, Histogram>,
    next: u64,
}

impl Races {
    /// Race numbers begin at the clock's microseconds, so that a restarted master does not repeat those that its agents
    /// still remember: 2^56 µs are 2,284 years.
    pub(super) fn new(shard: u8, now: LocalTime) -> Self {
        let start = (now.as_nanos() / 1_000) as u64 & ((1 << SHARD_SHIFT) - 1);
        Races {
            by_id: BTreeMap::new(),
            by_key: BTreeMap::new(),
            due: BTreeSet::new(),
            held: BTreeMap::new(),
            spreads: BTreeMap::new(),
            next: u64::from(shard) << SHARD_SHIFT | start,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn repeat(&self, key: &Key, port: u16, id: u16) -> Option<Repeat> {
        let number = *self.by_key.get(key)?;
        let race = self.by_id.get(&number)?;
        Some(if race.arrival.source.port() == port && race.id == id {
            Repeat::Duplicate
        } else if race.answered {
            Repeat::Answered
        } else {
            Repeat::Open(number)
        })
    }

    /// Opens a race; `None` when the table is full.
    pub(super) fn open(&mut self, opened: Opened<'_>, arrival: &Arrival) -> Option<u64> {
        if self.by_id.len() >= MAX_OPEN_RACES {
            return None;
        }
        self.next += 1;
        let number = self.next;
        let t = opened.transmit_at.to_master();
        let close_at = t + opened.close_after;
        let start = match opened.transmit {
            Transmit::At => Start::At,
            Transmit::Signal => {
                self.due.insert((t, number, Due::Signal));
                Start::Signal
            }
            Transmit::Held(_) => {
                self.due.insert((t, number, Due::Unsignalled));
                // The first race that waits lends its number to the signal, so no id comes twice.
                let (id, races) = self.held.entry(opened.index).or_insert_with(|| (number, BTreeSet::new()));
                races.insert(number);
                Start::Held(*id)
            }
        };
        self.due.insert((close_at, number, Due::Close));
        self.by_key.insert(opened.key.clone(), number);
        let race = Race {
            key: opened.key,
            index: opened.index,
            transmit_at: opened.transmit_at,
            start,
            close_at,
            revision: 0,
            id: message_id(arrival),
            arrival: arrival.clone(),
            awaited: BTreeMap::new(),
            ordered: 0,
            departed: 0,
            departures: Departures::NONE,
            answered: false,
        };
        self.by_id.insert(number, race);
        Some(number)
    }

    pub(super) fn transmit_at(&self, number: u64) -> Option<RaceTime> {
        self.by_id.get(&number).filter(|race| race.revision < MAX_REVISION).map(|race| race.transmit_at)
    }

    /// Race index and type; of no race, something that matches no agent.
    pub(super) fn subject(&self, number: u64) -> (u16, Rtype) {
        self.by_id.get(&number).map_or((u16::MAX, Rtype::A), |race| (race.index, race.key.rtype))
    }

    /// The newest query takes the place of the one before; T stays.
    pub(super) fn amend(&mut self, number: u64, arrival: &Arrival) {
        if let Some(race) = self.by_id.get_mut(&number) {
            race.revision += 1;
            race.id = message_id(arrival);
            race.arrival = arrival.clone();
            race.awaited.clear();
            (race.ordered, race.departed, race.departures) = (0, 0, Departures::NONE);
        }
    }

    /// The order for every agent; its playbook version is each agent's own.
    pub(super) fn order<'a>(&'a self, number: u64, sent: RaceTime, services: &[SocketAddr]) -> Option<Order<'a>> {
        let race = self.by_id.get(&number)?;
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
            service: *services.get(usize::from(race.arrival.service))?,
            client: race.arrival.source,
            query: &race.arrival.bytes,
        })
    }

    pub(super) fn note_ordered(&mut self, number: u64, agents: BTreeMap<Slot, Ordered>) {
        if let Some(race) = self.by_id.get_mut(&number) {
            race.ordered = agents.len();
            race.awaited = agents;
        }
    }

    /// Takes in an agent's receipt; `None` for one that nobody awaits.
    pub(super) fn note_receipt(&mut self, agent: Slot, receipt: &Receipt) -> Option<Noted> {
        let race = self.by_id.get_mut(&receipt.race).filter(|race| race.revision == receipt.revision)?;
        let ordered = race.awaited.remove(&agent)?;
        race.departed += usize::from(receipt.outcome.is_departed());
        if receipt.outcome == ReceiptOutcome::Departed && ordered == Ordered::At {
            race.departures.add(receipt.lateness);
        }
        Some(Noted { ordered, nobody_departed: race.departed == 0 && race.awaited.is_empty() })
    }

    /// The agents that were ordered to run a race and have not said what became of it.
    pub(super) fn awaited(&self, number: u64) -> impl Iterator<Item = Slot> {
        self.by_id.get(&number).into_iter().flat_map(|race| race.awaited.keys().copied())
    }

    /// Somebody fires the signal that the races of this index wait for: T is now. Its id, how many races there are, and
    /// which agents wait; `None` when no race does.
    pub(super) fn fire(&mut self, index: u16, now: LocalTime) -> Option<(u64, usize, BTreeSet<Slot>)> {
        let (id, races) = self.held.remove(&index)?;
        let mut agents = BTreeSet::new();
        let mut count = 0;
        for number in races {
            let Some(race) = self.by_id.get_mut(&number) else { continue };
            let close_at = now + (race.close_at - race.transmit_at.to_master());
            self.due.remove(&(race.transmit_at.to_master(), number, Due::Unsignalled));
            self.due.remove(&(race.close_at, number, Due::Close));
            self.due.insert((close_at, number, Due::Close));
            (race.transmit_at, race.close_at) = (RaceTime::of_master(now), close_at);
            agents.extend(race.awaited.keys().copied());
            count += 1;
        }
        Some((id, count, agents))
    }

    /// The races that wait for a named signal.
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.held.values().flat_map(|(_, races)| races.iter().copied()).collect()
    }

    /// A race that was held for a signal waits for it no longer.
    pub(super) fn give_up_waiting(&mut self, number: u64) {
        let Some(index) = self.by_id.get(&number).map(|race| race.index) else { return };
        if let Some((_, races)) = self.held.get_mut(&index) {
            races.remove(&number);
            if races.is_empty() {
                self.held.remove(&index);
            }
        }
    }

    /// The master answers this (repeated) query itself: the race is answered.
    pub(super) fn settle(&mut self, number: u64, arrival: &Arrival) {
        if let Some(race) = self.by_id.get_mut(&number) {
            race.answered = true;
            race.id = message_id(arrival);
            race.arrival = arrival.clone();
        }
    }

    /// The query of a race that neither agents nor the master have answered; it counts as answered from now on.
    pub(super) fn take_unanswered(&mut self, number: u64) -> Option<(Arrival, u16)> {
        let race = self.by_id.get_mut(&number)?;
        let settled = race.departed >= SETTLING_DEPARTURES.min(race.ordered.max(1));
        if race.answered || settled {
            return None;
        }
        race.answered = true;
        Some((race.arrival.clone(), race.index))
    }

    pub(super) fn close(&mut self, number: u64) {
        if let Some(race) = self.by_id.remove(&number) {
            self.by_key.remove(&race.key);
            self.due.remove(&(race.close_at, number, Due::Close));
            if race.departures.count >= 2 {
                let spread = race.departures.latest - race.departures.earliest;
                self.spreads.entry(race.index).or_default().record(spread);
            }
        }
    }

    /// The start spreads of the races that were closed, by race index.
    pub(super) fn spreads(&self) -> &BTreeMap<u16, Histogram> {
        &self.spreads
    }

    pub(super) fn pop_due(&mut self, now: LocalTime) -> Option<(u64, Due)> {
        let &(at, number, due) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        Some((number, due))
    }

    pub(super) fn next_due(&self) -> Option<LocalTime> {
        self.due.first().map(|(at, _, _)| *at)
    }
}

/// A DNS message's id; only called for packets that were parsed.
fn message_id(arrival: &Arrival) -> u16 {
    arrival.bytes.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}
