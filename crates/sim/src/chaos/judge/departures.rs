//! Departures: not early, not late, not past the bound, not twice, and with the right answer.

use domain::base::name::ToLabelIter;
use domain::base::{Message, Rtype};
use domain::rdata::{A, Aaaa};
use startgun_core::agent::Departure;
use startgun_core::clock::Reading;
use startgun_core::playbook::LatePolicy;
use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::TransmitIdentifier;
use std::net::IpAddr;

use super::orders::{of_kind, within_rate};
use super::{Judge, Order, Ordered, Verdict, demand};
use crate::records::DepartureRecord;
use crate::world::answers_of;
use crate::{SimTime, World};

/// Rates between an agent's clock and a timeline stay below this, and so do two readings of one moment to come.
const DRIFT_PPM: u32 = 450;
/// Roundings, and an estimate that an edge of its interval moves.
const ROUNDING: Span = Span::from_micros(20);
/// How long an agent that stood down for its clock must have been calm.
const CALM: Span = Span::from_secs(1);
/// Time to live of the sites' answers.
const TTL_S: u32 = 30;

impl Judge<'_> {
    /// An agent hands an answer to its departure thread.
    pub(super) fn take_timed(
        &mut self,
        truly: SimTime,
        agent: usize,
        departure: &Departure,
        now: LocalTime,
        readings: &[Option<Reading>],
    ) -> Verdict {
        let id = departure.bytes.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        let query = (agent, departure.to, id, question_of(&departure.bytes));
        let race = self.order_of_query.get(&query);
        let ordered = race.and_then(|&(master, race, revision)| self.ordered(agent, master, race, revision));
        let Some(ordered) = ordered else {
            return Err((
                super::Invariant::OneAnswer,
                format!("agent {agent} answers {} without an order", departure.to),
            ));
        };
        let (order, received_at) = (ordered.order.clone(), ordered.received_at);
        let key = (agent, order.master, order.race);
        let known = self.orders.entry(key).or_default();
        // One that was refused left what was there before.
        let newest = known.iter().filter(|known| known.accepted).map(|known| known.order.revision).max();
        known.iter_mut().filter(|known| known.order.revision == order.revision).for_each(|known| known.accepted = true);
        demand!(
            newest.is_none_or(|newest| newest <= order.revision) || departure.latest.is_some_and(|latest| latest < now),
            OneAnswer,
            "agent {agent} turns back to revision {} of race {:x}, after {newest:?}",
            order.revision,
            order.race,
        );
        demand!(
            departure.service == order.service,
            OneAnswer,
            "agent {agent} answers from {}, ordered from {}",
            departure.service,
            order.service
        );
        self.judge_answer(agent, &order, &departure.bytes)?;
        let link = self.link_of(agent, order.master).unwrap_or_default();
        let own = &self.plan.options.agents[agent];
        demand!(own.foreign_sources_pass, WithinBound, "agent {agent}, whose network drops foreign sources, races");
        let reading = readings.get(link).copied().flatten();
        match order.transmit {
            TransmitIdentifier::At(t) => {
                let shown = format!("{reading:?}");
                demand!(
                    !self.exceeds(agent, reading.as_ref()),
                    WithinBound,
                    "agent {agent} accepts race {:x} past its limits: {shown}",
                    order.race
                );
                let calm = self.gates.get(&(agent, link)).and_then(|gate| gate.bad_at);
                let calm = calm.is_none_or(|(at, truth)| now - at >= CALM || now < at || truly - truth >= CALM);
                demand!(
                    calm,
                    WithinBound,
                    "agent {agent} accepts race {:x} before its clock was calm for a second",
                    order.race
                );
                let Some(reading) = reading else { return Ok(()) };
                let to_go = t - reading.estimate;
                let off = (departure.at - now) - to_go;
                demand!(
                    off.abs() <= to_go.abs().drift(DRIFT_PPM) + ROUNDING,
                    NotEarly,
                    "agent {agent} departs {off} from its own clock's T"
                );
                demand!(
                    to_go <= own.horizon + to_go.abs().drift(DRIFT_PPM) + ROUNDING,
                    WithinBound,
                    "agent {agent} accepts race {:x}, {to_go} ahead of it",
                    order.race
                );
            }
            TransmitIdentifier::After(span) => {
                let past = reading.is_none_or(|reading| reading.bound > own.max_bound);
                demand!(!past, WithinBound, "agent {agent} accepts race {:x} past its bound", order.race);
                demand!(
                    departure.at == received_at + span,
                    NotEarly,
                    "agent {agent} departs {} after the order, ordered {span}",
                    departure.at - received_at
                );
            }
            TransmitIdentifier::On(signal) => {
                let fired = self.signals.contains(&(agent, order.master, signal));
                demand!(fired, NotEarly, "agent {agent} departs before signal {signal:x}");
                demand!(departure.at == now, NotEarly, "agent {agent} departs {} after its signal", departure.at - now);
            }
        }
        self.judge_budget(agent, &order, departure.to.ip(), (now, truly))?;
        let known = self.playbooks.get(&(agent, link)).copied().unwrap_or_default();
        // One that is held for a signal was built when its order came.
        let built_now = !matches!(order.transmit, TransmitIdentifier::On(_));
        demand!(
            !built_now || known.contains(&Some(order.playbook)),
            Playbook,
            "agent {agent} answers by playbook {:x}, has {known:x?}",
            order.playbook
        );
        Ok(())
    }

    /// An agent keeps its own limits, in all and to one prefix. What was held for a signal was accepted before.
    fn judge_budget(&mut self, agent: usize, order: &Order, client: IpAddr, now: (LocalTime, SimTime)) -> Verdict {
        if matches!(order.transmit, TransmitIdentifier::On(_)) {
            return Ok(());
        }
        let limits = self.plan.options.agents[agent].limits;
        for (of, rate) in [(Some(client), limits.departures_per_prefix_per_s), (None, limits.departures_per_s)] {
            let kept = within_rate(self.accepted_at.entry((agent, of)).or_default(), now, rate);
            demand!(kept, Amplified, "agent {agent} accepts more than {rate} orders per second for {of:?}");
        }
        Ok(())
    }

    /// An answer is what the order's playbook says, to the order's query.
    fn judge_answer(&self, agent: usize, order: &Order, bytes: &[u8]) -> Verdict {
        let Some(answer) = read(bytes) else {
            return Err((super::Invariant::Playbook, format!("agent {agent} answers with no message")));
        };
        let Some(asked) = read(&order.query) else { return Ok(()) };
        let is_reply = answer.is_response && answer.id == asked.id && answer.question == asked.question;
        demand!(
            is_reply,
            Playbook,
            "agent {agent} answers another query than it was ordered to: {answer:?}, {asked:?}"
        );
        let generation = self.versions.get(&(order.master, agent, order.playbook)).copied();
        let expected = generation.map(|generation| of_kind(&answers_of(agent, generation), asked.six));
        demand!(
            expected.as_ref() == Some(&answer.addresses),
            Playbook,
            "agent {agent} answers {:?}, playbook {:x} says {expected:?}",
            answer.addresses,
            order.playbook
        );
        demand!(answer.ttl_s.is_none_or(|ttl_s| ttl_s == TTL_S), Playbook, "time to live {:?}", answer.ttl_s);
        Ok(())
    }

    fn ordered(&self, agent: usize, master: usize, race: u64, revision: u8) -> Option<&Ordered> {
        let known = self.orders.get(&(agent, master, race))?;
        known.iter().find(|known| known.order.revision == revision)
    }

    /// What became of a departure.
    pub(super) fn judge_departure(&mut self, world: &World, record: &DepartureRecord, left: Option<bool>) -> Verdict {
        let DepartureRecord { agent, master, race, revision, .. } = *record;
        let Some(departed) = left else { return Ok(()) };
        if !departed {
            return Ok(());
        }
        self.departures_seen += 1;
        let Some(ordered) = self.ordered(agent, master, race, revision) else {
            return Err((
                super::Invariant::OneAnswer,
                format!("agent {agent} departs for race {race:x} without an order"),
            ));
        };
        let order = &ordered.order;
        let (process, epoch) = (order.process, order.epoch);
        let policy = &self.plan.options.masters[master];
        let ordered_t = order.transmit;
        let is_first = self.answered.insert((agent, master, process, race));
        demand!(is_first, OneAnswer, "agent {agent} departs twice for race {race:x}");
        if record.blind {
            self.blind += 1;
            return Ok(());
        }
        let TransmitIdentifier::At(t) = ordered_t else { return Ok(()) };
        demand!(record.transmit_at == Some(t), NotEarly, "agent {agent} takes {:?} for T {t:?}", record.transmit_at);
        let Some(timeline) = world.timeline(master, epoch) else { return Ok(()) };
        let due = timeline.when(t.to_master());
        let link = self.link_of(agent, master).unwrap_or_default();
        let same_epoch = self.epochs.get(&(agent, link)) == Some(&epoch);
        let bound = [record.bound.filter(|_| same_epoch), record.timed_within].into_iter().flatten().max();
        let Some(bound) = bound else { return Ok(()) };
        let early = due - record.at;
        demand!(early <= bound + ROUNDING, NotEarly, "agent {agent} departs {early} before T, with a bound of {bound}");
        let may_be_late = policy.late == LatePolicy::Send;
        let late = record.at - due;
        let tolerated = policy.late_tolerance + bound + ROUNDING;
        demand!(
            may_be_late || record.at - due <= tolerated,
            NotLate,
            "agent {agent} departs {late} after T, tolerated {tolerated}"
        );
        Ok(())
    }
}

/// What a message says, as far as it matters here.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) id: u16,
    pub(super) is_response: bool,
    pub(super) truncated: bool,
    pub(super) six: bool,
    pub(super) question: Vec<u8>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl_s: Option<u32>,
}

/// The question of a message, as it stands there; empty where it has none.
pub(super) fn question_of(bytes: &[u8]) -> Vec<u8> {
    read(bytes).map(|read| read.question).unwrap_or_default()
}

/// Reads a message with one question; `None` for what is none.
pub(super) fn read(bytes: &[u8]) -> Option<Read> {
    let message = Message::from_octets(bytes).ok()?;
    let header = message.header();
    let question = message.first_question()?;
    // The question stands behind the header: name, type and class.
    let length = usize::from(question.qname().compose_len()) + 4;
    let mut addresses = Vec::new();
    let mut ttl_s = None;
    for record in message.answer().ok()? {
        let record = record.ok()?;
        ttl_s = Some(record.ttl().as_secs());
        if let Ok(Some(address)) = record.to_record::<A>() {
            addresses.push(IpAddr::V4(address.data().addr()));
        } else if let Ok(Some(address)) = record.to_record::<Aaaa>() {
            addresses.push(IpAddr::V6(address.data().addr()));
        }
    }
    Some(Read {
        id: header.id(),
        is_response: header.qr(),
        truncated: header.tc(),
        six: question.qtype() == Rtype::AAAA,
        question: bytes.get(12..12 + length)?.to_vec(),
        addresses,
        ttl_s,
    })
}
