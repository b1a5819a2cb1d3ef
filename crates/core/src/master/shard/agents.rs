//! The agents as one shard sees them: who is ready, how far away, with which keys.
//!
//! Who runs a race, and with which delay, changes when the roster says so, about once a second per agent; a query must not
//! work it out anew. So it is kept as a *plan* per race, type and service address until an agent changes.

use super::Output;
use super::counters::Kind;
use super::outbox::Outbox;
use super::races::Ordered;
use crate::agent::HOLD;
use crate::clock::host::UtcOnRace;
use crate::control::ForwardDelay;
use crate::master::roster::MAX_SESSIONS;
use crate::master::{Delay, MAX_AGENTS, RaceConfig, Readiness, SharedService, Slot, Transmit};
use crate::occupancy::Occupancy;
use crate::playbook::{LatePolicy, PlaybookVersion};
use crate::time::{Epoch, RaceTime, Span};
use crate::wire::frame::ORDER_PLAYBOOK;
use crate::wire::session::{self, MAX_PLAIN};
use crate::wire::{Binding, Direction, Frame, Opener, Order, Sealer, SessionId, TransmitIdentifier};
use domain::base::Rtype;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What the master needs between receiving a query and its orders leaving, and an agent between receiving an order and
/// arming its departure: each some tens of microseconds on an idle host, a millisecond when the scheduler is against it.
const PROCESSING: Span = Span::from_millis(1);

/// Most plans kept: each race of [`MAX_RACES`](crate::playbook::MAX_RACES) for A and AAAA at one service address; when
/// there are more, all are made anew. With 10 agents each takes 300 bytes.
const MAX_PLANS: usize = 2_048;

/// Who runs a race, and how long it takes to reach them.
struct Plan {
    /// The predetermined delay; `None` when nobody runs it.
    delay: Option<Span>,
    runners: Vec<Runner>,
}

/// An agent that runs a race.
#[derive(Clone, Copy)]
struct Runner {
    slot: Slot,
    /// Its place among the agents.
    place: usize,
    playbook: PlaybookVersion,
    /// For an agent that is told a span instead of the instant: its round trip, once that is known.
    by_after: Option<Option<Span>>,
}

/// An agent, as the roster tells the shards.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentView {
    /// Its place in the roster.
    pub slot: Slot,
    /// The site that it answers for.
    pub site: String,
    /// Where orders reach it.
    pub fast_path: SocketAddr,
    /// Its sessions, oldest first; the last is used for sending.
    pub sessions: Vec<Binding>,
    /// Which races it can be ordered to run.
    pub readiness: Readiness,
    /// The service addresses whose source self-test it passed.
    pub services: Vec<SocketAddr>,
    /// The playbook version that it acknowledged.
    pub playbook: PlaybookVersion,
    /// How long orders take to it, by its clock.
    pub forward_delay: Option<ForwardDelay>,
    /// Its least round trip to the master.
    pub round_trip: Option<Span>,
    /// Its statistical clock error.
    pub expected_error: Span,
}

struct Agent {
    view: AgentView,
    /// Which session sends.
    newest: Option<SessionId>,
    /// Frames waiting to be sealed together.
    gathered: Vec<u8>,
}

struct Session {
    slot: Slot,
    opener: Opener,
    /// Lives as long as the session: a second one, made when a session sends again, would use its nonces twice.
    sealer: Sealer,
    /// The exchange that was answered last, and its T3 by the kernel's timestamp once that is known.
    last_reply: Option<(u32, Option<RaceTime>)>,
}

pub(super) struct Agents {
    shard: u8,
    epoch: Epoch,
    service: SharedService,
    max_total_delay: Span,
    /// In the order of their slots.
    agents: Vec<Agent>,
    sessions: BTreeMap<SessionId, Session>,
    /// By race index, type and service address; each holds until an agent changes.
    plans: BTreeMap<(u16, u16, SocketAddr), Plan>,
    /// The order at hand, and whom it went to.
    frame: Vec<u8>,
    ordered: Vec<(Slot, Ordered)>,
}

impl Agents {
    pub(super) fn new(shard: u8, epoch: Epoch, service: SharedService, max_total_delay: Span) -> Self {
        Agents {
            shard,
            epoch,
            service,
            max_total_delay,
            agents: Vec::new(),
            sessions: BTreeMap::new(),
            plans: BTreeMap::new(),
            frame: Vec::new(),
            ordered: Vec::new(),
        }
    }

    pub(super) fn replace_service(&mut self, service: SharedService, max_total_delay: Span) {
        (self.service, self.max_total_delay) = (service, max_total_delay);
        self.plans.clear();
    }

    pub(super) fn update(&mut self, view: AgentView) {
        let found = self.agents.binary_search_by_key(&view.slot, |agent| agent.view.slot);
        if found.is_err() && self.agents.len() >= MAX_AGENTS {
            return;
        }
        self.plans.clear();
        let slot = view.slot;
        self.sessions.retain(|id, session| session.slot != slot || view.sessions.iter().any(|kept| kept.id == *id));
        for binding in &view.sessions {
            debug_assert_eq!(binding.epoch, self.epoch);
            self.sessions.entry(binding.id).or_insert_with(|| Session {
                slot,
                opener: Opener::new(binding, Direction::AgentToMaster, self.shard),
                sealer: Sealer::new(binding, Direction::MasterToAgent, self.shard),
                last_reply: None,
            });
        }
        let newest = view.sessions.last().map(|newest| newest.id);
        match found {
            Ok(place) => (self.agents[place].newest, self.agents[place].view) = (newest, view),
            Err(place) => self.agents.insert(place, Agent { newest, view, gathered: Vec::new() }),
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.plans.clear();
        self.agents.retain(|agent| agent.view.slot != slot);
        self.sessions.retain(|_, session| session.slot != slot);
    }

    /// How full its tables are.
    pub(super) fn occupancy(&self) -> [Occupancy; 3] {
        [
            Occupancy::new("agents", self.agents.len(), MAX_AGENTS),
            Occupancy::new("sessions", self.sessions.len(), self.agents.len() * MAX_SESSIONS),
            Occupancy::new("plans", self.plans.len(), MAX_PLANS),
        ]
    }

    /// The agents that take part in a race of this name and type.
    fn runners(&self, index: u16, rtype: Rtype) -> impl Iterator<Item = &Agent> {
        let race = self.service.races.get(usize::from(index));
        self.agents.iter().filter(move |agent| {
            let runs = |race: &RaceConfig| {
                let needed = if race.transmit.is_signal() { Readiness::BySignal } else { Readiness::ByAfter };
                let serves = race.sites.get(&agent.view.site).is_some_and(|addresses| addresses.serve(rtype));
                agent.view.readiness >= needed && serves
            };
            race.is_some_and(runs)
        })
    }

    /// By when each runner has its order, soonest first; `greatest` takes the window's maximum, not its percentile. An
    /// agent whose clock cannot tell counts with half of its round trip, and not at all before the first one.
    fn reached(&self, index: u16, rtype: Rtype, greatest: bool, service: Option<SocketAddr>) -> Vec<Span> {
        let mut reached: Vec<Span> = self
            .runners(index, rtype)
            .filter(|agent| service.is_none_or(|service| agent.view.services.contains(&service)))
            .filter_map(|agent| match agent.view.readiness {
                Readiness::AtInstant => {
                    let delay = agent.view.forward_delay?;
                    Some(if greatest { delay.greatest } else { delay.p99 } + agent.view.expected_error + PROCESSING)
                }
                _ => Some(agent.view.round_trip?.half() + PROCESSING),
            })
            .collect();
        reached.sort_unstable();
        reached
    }

    /// The predetermined delay; `None` when no agent is ready for this race at this service address.
    pub(super) fn delay(&mut self, index: u16, rtype: Rtype, service: SocketAddr) -> Option<Span> {
        self.plan(index, rtype, service).delay
    }

    fn plan(&mut self, index: u16, rtype: Rtype, service: SocketAddr) -> &Plan {
        let key = (index, rtype.to_int(), service);
        if !self.plans.contains_key(&key) {
            if self.plans.len() >= MAX_PLANS {
                self.plans.clear();
            }
            let runs = |agent: &&Agent| agent.view.services.contains(&service);
            let runner = |agent: &Agent| Runner {
                slot: agent.view.slot,
                place: self.agents.partition_point(|other| other.view.slot < agent.view.slot),
                playbook: agent.view.playbook,
                by_after: (agent.view.readiness == Readiness::ByAfter).then_some(agent.view.round_trip),
            };
            let runners = self.runners(index, rtype).filter(runs).map(runner).collect();
            let plan = Plan { delay: self.delay_at(index, rtype, Some(service)), runners };
            self.plans.insert(key, plan);
        }
        &self.plans[&key]
    }

    /// The predetermined delay for A or else AAAA, whatever the service address.
    pub(super) fn any_delay(&self, index: u16) -> Option<Span> {
        self.delay_at(index, Rtype::A, None).or_else(|| self.delay_at(index, Rtype::AAAA, None))
    }

    fn delay_at(&self, index: u16, rtype: Rtype, service: Option<SocketAddr>) -> Option<Span> {
        let race = self.service.races.get(usize::from(index))?;
        let speaks = |agent: &Agent| service.is_none_or(|service| agent.view.services.contains(&service));
        if !self.runners(index, rtype).any(speaks) {
            return None;
        }
        if matches!(race.transmit, Transmit::Held(_)) {
            return Some(HOLD);
        }
        let delay = match race.delay {
            Delay::Fixed(delay) => delay,
            Delay::Cover { share, margin } => {
                let reached = self.reached(index, rtype, share >= 1.0, service);
                let covered = (share * reached.len() as f64).ceil() as usize;
                match reached.get(covered.max(1) - 1) {
                    Some(reached) => *reached + margin,
                    // By signal, from agents of which no delay is known yet.
                    None => self.max_total_delay,
                }
            }
        };
        Some(delay.min(self.max_total_delay))
    }

    /// How long it takes until half of the runners have an order that is sent now.
    pub(super) fn half_reached_within(&self, index: u16, rtype: Rtype) -> Span {
        let reached = self.reached(index, rtype, false, None);
        reached.get(reached.len().div_ceil(2).max(1) - 1).copied().unwrap_or(Span::MAX)
    }

    /// Gathers one order for every runner; who they are, and how many were left out because their order would come too
    /// late. An agent with a bad clock is told a span instead of the instant: T less the order's way, half of the
    /// round trip.
    pub(super) fn order(&mut self, order: &Order<'_>, rtype: Rtype, out: &mut Outbox) -> (&[(Slot, Ordered)], u64) {
        self.plan(order.name, rtype, order.service);
        self.ordered.clear();
        self.frame.clear();
        Frame::Order(order.clone()).encode(&mut self.frame);
        let mut withheld = 0;
        let Agents { agents, sessions, plans, frame, ordered, service, .. } = self;
        let runners = &plans[&(order.name, rtype.to_int(), order.service)].runners;
        let at = if matches!(order.transmit, TransmitIdentifier::On(_)) { Ordered::On } else { Ordered::At };
        for runner in runners {
            let agent = &mut agents[runner.place];
            if let (TransmitIdentifier::At(t), Some(round_trip)) = (order.transmit, runner.by_after) {
                let Some(round_trip) = round_trip else { continue };
                let span = t - (order.sent + round_trip.half());
                // It has no clock to see that it would be late: the master sees to the policy.
                let race = &service.races[usize::from(order.name)];
                if race.late == LatePolicy::Drop && -span > race.late_tolerance {
                    withheld += 1;
                    continue;
                }
                let transmit = TransmitIdentifier::After(span.max(Span::ZERO));
                let own = Frame::Order(Order { transmit, playbook: runner.playbook, ..order.clone() });
                agent.make_room(own.encoded_len(), sessions, out);
                own.encode(&mut agent.gathered);
                ordered.push((runner.slot, Ordered::After));
                continue;
            }
            agent.make_room(frame.len(), sessions, out);
            let start = agent.gathered.len();
            agent.gathered.extend_from_slice(frame);
            agent.gathered[start..][ORDER_PLAYBOOK].copy_from_slice(&runner.playbook.to_be_bytes());
            ordered.push((runner.slot, at));
        }
        (&self.ordered, withheld)
    }

    /// Whose session it is.
    pub(super) fn slot_of(&self, id: SessionId) -> Option<Slot> {
        self.sessions.get(&id).map(|session| session.slot)
    }

    /// Gathers a signal for every agent that was ordered to wait for it, also one that has stood down since: it still
    /// holds its answer.
    pub(super) fn signal(&mut self, id: u64, slots: impl Iterator<Item = Slot>, out: &mut Outbox) {
        for slot in slots {
            if let Ok(place) = self.agents.binary_search_by_key(&slot, |agent| agent.view.slot) {
                self.gather(place, &Frame::Signal { id }, out);
            }
        }
    }

    /// Gathers an unsolicited synchronisation signal for every agent with a session, and where UTC lies.
    pub(super) fn sync_signal(&mut self, now: RaceTime, utc: Option<UtcOnRace>, out: &mut Outbox) {
        for place in 0..self.agents.len() {
            self.gather(place, &Frame::SyncSignal { sent: now }, out);
            if let Some(utc) = utc {
                self.gather(place, &Frame::Utc(utc), out);
            }
        }
    }

    fn gather(&mut self, place: usize, frame: &Frame<'_>, out: &mut Outbox) {
        let agent = &mut self.agents[place];
        agent.make_room(frame.encoded_len(), &mut self.sessions, out);
        frame.encode(&mut agent.gathered);
    }

    /// Seals what was gathered.
    pub(super) fn flush(&mut self, out: &mut Outbox) {
        for agent in &mut self.agents {
            agent.flush(&mut self.sessions, out);
        }
    }

    /// Opens a datagram; on failure, what to count.
    pub(super) fn open(&mut self, datagram: &[u8], plain: &mut Vec<u8>) -> Result<SessionId, Kind> {
        let (id, shard) = session::header(datagram).ok_or(Kind::DatagramMalformed)?;
        let session = self.sessions.get_mut(&id).filter(|_| shard == self.shard).ok_or(Kind::DatagramUnknownSession)?;
        Ok(session.opener.open(datagram, plain).map(|()| id)?)
    }

    /// Answers an exchange, at once and alone in its datagram: it is the packet whose delay counts.
    pub(super) fn reply(
        &mut self,
        id: SessionId,
        exchange: u32,
        received: RaceTime,
        replied: RaceTime,
        to: SocketAddr,
        out: &mut Outbox,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let previous = match session.last_reply {
            Some((previous, Some(at))) => (previous, at),
            _ => (0, RaceTime::from_nanos(0)),
        };
        session.last_reply = Some((exchange, None));
        self.frame.clear();
        Frame::SyncReply { exchange, received, replied, previous }.encode(&mut self.frame);
        let mut bytes = out.buffer();
        // By the session that asked: the agent has its keys, whichever of them sends orders by now.
        session.sealer.seal(&self.frame, &mut bytes);
        out.push(Output::Fast { to, bytes, exchange: Some((id, exchange)) });
    }

    pub(super) fn stamp_reply(&mut self, id: SessionId, exchange: u32, at: RaceTime) {
        if let Some((last, stamp)) = self.sessions.get_mut(&id).and_then(|session| session.last_reply.as_mut())
            && *last == exchange
        {
            *stamp = Some(at);
        }
    }
}

impl Agent {
    /// Seals what was gathered where so many bytes more would not fit.
    fn make_room(&mut self, bytes: usize, sessions: &mut BTreeMap<SessionId, Session>, out: &mut Outbox) {
        if self.gathered.len() + bytes > MAX_PLAIN {
            self.flush(sessions, out);
        }
    }

    fn flush(&mut self, sessions: &mut BTreeMap<SessionId, Session>, out: &mut Outbox) {
        if self.gathered.is_empty() {
            return;
        }
        if let Some(session) = self.newest.and_then(|newest| sessions.get_mut(&newest)) {
            let mut bytes = out.buffer();
            session.sealer.seal(&self.gathered, &mut bytes);
            out.push(Output::Fast { to: self.view.fast_path, bytes, exchange: None });
        }
        self.gathered.clear();
    }
}
