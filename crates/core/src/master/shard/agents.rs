//! The agents as one shard sees them: who is ready, how far away, with which keys.

use super::Output;
use super::races::Ordered;
use crate::agent::HOLD;
use crate::clock::host::UtcOnRace;
use crate::control::ForwardDelay;
use crate::master::{Delay, MAX_AGENTS, RaceConfig, Readiness, SharedService, Slot, Transmit};
use crate::playbook::{LatePolicy, PlaybookVersion};
use crate::time::{Epoch, RaceTime, Span};
use crate::wire::session::{self, MAX_PLAIN};
use crate::wire::{Binding, Direction, Frame, OpenError, Opener, Order, Sealer, SessionId, TransmitIdentifier};
use domain::base::Rtype;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// What the master needs between receiving a query and its orders leaving, and an agent between receiving an order and
/// arming its departure: each some tens of microseconds on an idle host, a millisecond when the scheduler is against it.
const PROCESSING: Span = Span::from_millis(1);

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
    agents: BTreeMap<Slot, Agent>,
    sessions: BTreeMap<SessionId, Session>,
    datagram: Vec<u8>,
}

impl Agents {
    pub(super) fn new(shard: u8, epoch: Epoch, service: SharedService, max_total_delay: Span) -> Self {
        Agents {
            shard,
            epoch,
            service,
            max_total_delay,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            datagram: Vec::new(),
        }
    }

    pub(super) fn update(&mut self, view: AgentView) {
        if !self.agents.contains_key(&view.slot) && self.agents.len() >= MAX_AGENTS {
            return;
        }
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
        let agent =
            self.agents.entry(slot).or_insert_with(|| Agent { view: view.clone(), newest: None, gathered: Vec::new() });
        agent.newest = view.sessions.last().map(|newest| newest.id);
        agent.view = view;
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.agents.remove(&slot);
        self.sessions.retain(|_, session| session.slot != slot);
    }

    /// The agents that take part in a race of this name and type.
    fn runners(&self, index: u16, rtype: Rtype) -> impl Iterator<Item = &Agent> {
        let race = self.service.races.get(usize::from(index));
        self.agents.values().filter(move |agent| {
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
    pub(super) fn delay(&self, index: u16, rtype: Rtype, service: SocketAddr) -> Option<Span> {
        self.delay_at(index, rtype, Some(service))
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
    pub(super) fn order(
        &mut self,
        order: &Order<'_>,
        index: u16,
        rtype: Rtype,
        outputs: &mut VecDeque<Output>,
    ) -> (BTreeMap<Slot, Ordered>, u64) {
        let (mut ordered, mut withheld) = (BTreeMap::new(), 0);
        let mut frames = Vec::new();
        for agent in self.runners(index, rtype).filter(|agent| agent.view.services.contains(&order.service)) {
            let mut own = Order { playbook: agent.view.playbook, ..order.clone() };
            let mut kind = if matches!(order.transmit, TransmitIdentifier::On(_)) { Ordered::On } else { Ordered::At };
            if let (TransmitIdentifier::At(t), Readiness::ByAfter) = (order.transmit, agent.view.readiness) {
                let Some(round_trip) = agent.view.round_trip else { continue };
                let span = t - (order.sent + round_trip.half());
                // It has no clock to see that it would be late: the master sees to the policy.
                let race = &self.service.races[usize::from(index)];
                if race.late == LatePolicy::Drop && -span > race.late_tolerance {
                    withheld += 1;
                    continue;
                }
                own.transmit = TransmitIdentifier::After(span.max(Span::ZERO));
                kind = Ordered::After;
            }
            ordered.insert(agent.view.slot, kind);
            frames.push((agent.view.slot, own));
        }
        frames.into_iter().for_each(|(slot, own)| self.gather(slot, &Frame::Order(own), outputs));
        (ordered, withheld)
    }

    /// Whose session it is.
    pub(super) fn slot_of(&self, id: SessionId) -> Option<Slot> {
        self.sessions.get(&id).map(|session| session.slot)
    }

    /// Gathers a signal for every agent that was ordered to wait for it, also one that has stood down since: it still
    /// holds its answer.
    pub(super) fn signal(&mut self, id: u64, slots: impl Iterator<Item = Slot>, outputs: &mut VecDeque<Output>) {
        for slot in slots {
            self.gather(slot, &Frame::Signal { id }, outputs);
        }
    }

    /// Gathers an unsolicited synchronisation signal for every agent with a session, and where UTC lies.
    pub(super) fn sync_signal(&mut self, now: RaceTime, utc: Option<UtcOnRace>, outputs: &mut VecDeque<Output>) {
        let slots: Vec<Slot> = self.agents.keys().copied().collect();
        for slot in slots {
            self.gather(slot, &Frame::SyncSignal { sent: now }, outputs);
            if let Some(utc) = utc {
                self.gather(slot, &Frame::Utc(utc), outputs);
            }
        }
    }

    fn gather(&mut self, slot: Slot, frame: &Frame<'_>, outputs: &mut VecDeque<Output>) {
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        if agent.gathered.len() + frame.encoded_len() > MAX_PLAIN {
            agent.flush(&mut self.sessions, &mut self.datagram, outputs);
        }
        frame.encode(&mut agent.gathered);
    }

    /// Seals what was gathered.
    pub(super) fn flush(&mut self, outputs: &mut VecDeque<Output>) {
        for agent in self.agents.values_mut() {
            agent.flush(&mut self.sessions, &mut self.datagram, outputs);
        }
    }

    /// Opens a datagram; on failure, the counter's name.
    pub(super) fn open(&mut self, datagram: &[u8], plain: &mut Vec<u8>) -> Result<SessionId, &'static str> {
        let (id, shard) = session::header(datagram).ok_or("datagram_malformed")?;
        let session = self.sessions.get_mut(&id).filter(|_| shard == self.shard).ok_or("datagram_unknown_session")?;
        session.opener.open(datagram, plain).map(|()| id).map_err(OpenError::counter)
    }

    /// Answers an exchange, at once and alone in its datagram: it is the packet whose delay counts.
    pub(super) fn reply(
        &mut self,
        id: SessionId,
        exchange: u32,
        received: RaceTime,
        replied: RaceTime,
        to: SocketAddr,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let previous = match session.last_reply {
            Some((previous, Some(at))) => (previous, at),
            _ => (0, RaceTime::from_nanos(0)),
        };
        session.last_reply = Some((exchange, None));
        let mut plain = Vec::with_capacity(64);
        Frame::SyncReply { exchange, received, replied, previous }.encode(&mut plain);
        let mut bytes = Vec::with_capacity(128);
        // By the session that asked: the agent has its keys, whichever of them sends orders by now.
        session.sealer.seal(&plain, &mut bytes);
        outputs.push_back(Output::Fast { to, bytes, exchange: Some((id, exchange)) });
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
    fn flush(
        &mut self,
        sessions: &mut BTreeMap<SessionId, Session>,
        datagram: &mut Vec<u8>,
        outputs: &mut VecDeque<Output>,
    ) {
        if self.gathered.is_empty() {
            return;
        }
        if let Some(session) = self.newest.and_then(|newest| sessions.get_mut(&newest)) {
            session.sealer.seal(&self.gathered, datagram);
            outputs.push_back(Output::Fast { to: self.view.fast_path, bytes: datagram.clone(), exchange: None });
        }
        self.gathered.clear();
    }
}
