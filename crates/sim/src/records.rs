//! What the world remembers for a test's judgement, with the truth beside it.

use domain::base::Message;
use domain::rdata::{A, Aaaa};
use startgun_core::agent::DepartureOutcome;
use startgun_core::time::{LocalTime, RaceTime, Span};
use std::net::IpAddr;

use crate::clock::SimTime;
use crate::options::Host;

/// Most entries of any one record: 2^20 × about 200 bytes.
pub(crate) const MAX_RECORDS: usize = 1 << 20;

/// One query and what became of it.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Who asked.
    pub client: usize,
    /// Whom.
    pub master: usize,
    /// The query's DNS id.
    pub id: u16,
    /// The port that it was sent from.
    pub port: u16,
    /// Length of the query, in bytes.
    pub query_bytes: usize,
    /// The name asked for.
    pub name: String,
    /// When it left the client.
    pub sent: SimTime,
    /// When it first reached the master, by the master's clock.
    pub reached: Option<LocalTime>,
    /// How many answers reached the client.
    pub answers: usize,
    /// Every answer, in the order in which they reached the client; with [`Records::Sums`](crate::Records::Sums) the
    /// first alone.
    pub arrivals: Vec<Arrival>,
}

impl Finish {
    /// Who sent the answer that the client keeps: the first.
    pub fn winner(&self) -> Option<Host> {
        self.arrivals.first().map(|arrival| arrival.by)
    }
}

/// Datagrams of a host, or of all clients together. The control channel is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams that it sent.
    pub sent: u64,
    /// Their payload, in bytes.
    pub sent_bytes: u64,
    /// Of these, copies that were lost on the way; one that was doubled counts by the copy.
    pub lost: u64,
    /// Datagrams that reached it.
    pub received: u64,
    /// Their payload, in bytes.
    pub received_bytes: u64,
}

/// An answer as it reached the client.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The host that truly sent it, whatever its source address says.
    pub by: Host,
    /// When it arrived.
    pub at: SimTime,
    /// Its length in bytes.
    pub bytes: usize,
    /// Whether it has TC set.
    pub truncated: bool,
    /// The addresses in its answer section.
    pub addresses: Vec<IpAddr>,
}

/// A departure, or an answer that was too late to depart.
#[derive(Clone, Copy, Debug)]
pub struct DepartureRecord {
    /// From which agent.
    pub agent: usize,
    /// For which master.
    pub master: usize,
    /// The race's number.
    pub race: u64,
    /// The order's revision.
    pub revision: u8,
    /// T; absent for an order that waited for a signal.
    pub transmit_at: Option<RaceTime>,
    /// What became of it.
    pub outcome: DepartureOutcome,
    /// When, truly.
    pub at: SimTime,
    /// The master's true race time at that instant.
    pub race_time: RaceTime,
    /// The agent's estimate of the race time at that instant, less the truth.
    pub clock_error: Option<Span>,
    /// The proven bound that the agent's clock stated at that instant.
    pub bound: Option<Span>,
    /// The bound that it stated when it fixed the instant of this departure; absent if a fault that no clock can know
    /// of has made it void since.
    pub timed_within: Option<Span>,
    /// Whether it followed a fault that no clock can know of, before a whole exchange since.
    pub blind: bool,
    /// The number of the query that it answers, as [`crate::World::query`] gave it.
    pub finish: Option<usize>,
}

impl DepartureRecord {
    /// Whether an answer left the host.
    pub fn departed(&self) -> bool {
        matches!(self.outcome, DepartureOutcome::Departed { .. })
    }
}

/// When a clock was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// After an exchange or a signal: the most favourable moment.
    Exchange,
    /// At an instant that chance decided.
    Chance,
    /// At a departure.
    Departure,
}

/// An agent's clock reading, beside the truth.
#[derive(Clone, Copy, Debug)]
pub struct ReadingRecord {
    /// Whose reading.
    pub agent: usize,
    /// Of which master's timeline.
    pub master: usize,
    /// Why then.
    pub occasion: Occasion,
    /// When, truly.
    pub at: SimTime,
    /// Estimate − truth.
    pub error: Span,
    /// The proven bound that the reading states.
    pub bound: Span,
    /// The statistical error that the reading states.
    pub expected_error: Span,
    /// Whether the interval contains the truth.
    pub holds: bool,
    /// Whether it followed a fault that no clock can know of, before a whole exchange since: a bound may be wrong then.
    pub blind: bool,
}

/// Id and TC of a message; `None` for bytes that are none (RFC 1035 section 4.1.1).
pub(crate) fn read_header(bytes: &[u8]) -> Option<(u16, bool)> {
    let [high, low, flags, ..] = *bytes.first_chunk::<12>()?;
    Some((u16::from_be_bytes([high, low]), flags & 0x02 != 0))
}

/// The addresses in an answer; `None` for bytes that are none.
pub(crate) fn read_addresses(bytes: &[u8]) -> Option<Vec<IpAddr>> {
    let message = Message::from_octets(bytes).ok()?;
    let section = message.answer().ok()?;
    let a = section.limit_to::<A>().flatten().map(|record| IpAddr::V4(record.data().addr()));
    let aaaa = section.limit_to::<Aaaa>().flatten().map(|record| IpAddr::V6(record.data().addr()));
    Some(a.chain(aaaa).collect())
}
