//! The agents as one shard sees them: who is ready, how far away, with which keys.

use super::Output;
use crate::clock::host::UtcOnRace;
use crate::control::ForwardDelay;
use crate::master::{Delay, MAX_AGENTS, SharedService, Slot};
use crate::playbook::PlaybookVersion;
use crate::time::{Epoch, RaceTime, Span};
use crate::wire::session::{self, MAX_PLAIN};
use crate::wire::{Binding, Direction, Frame, OpenError, Opener, Order, Sealer, SessionId};
use domain::base::Rtype;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// Whether it has reported itself ready and has passed what was asked of it.
    pub racing: bool,
    /// The service addresses whose source self-test it passed.
    pub services: Vec<SocketAddr>,
    /// The playbook version that it acknowledged.
    pub playbook: PlaybookVersion,
    /// How long orders take to it.
    pub forward_delay: Option<ForwardDelay>,
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
            let serves = |race: &crate::master::RaceConfig| {
                race.sites.get(&agent.view.site).is_some_and(|addresses| addresses.serve(rtype))
            };
            agent.view.racing && race.is_some_and(serves)
        })
    }

    /// By when each runner has its order, soonest first; `greatest` takes the window's maximum, not its percentile.
    fn reached(&self, index: u16, rtype: Rtype, greatest: bool, service: Option<SocketAddr>) -> Vec<Span> {
        let mut reached: Vec<Span> = self
            .runners(index, rtype)
            .filter(|agent| service.is_none_or(|service| agent.view.services.contains(&service)))
            .filter_map(|agent| {
                let delay = agent.view.forward_delay?;
                Some(if greatest { delay.greatest } else { delay.p99 } + agent.view.expected_error + PROCESSING)
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
        let delay = match race.delay {
            Delay::Fixed(delay) => {
                self.reached(index, rtype, false, service).first()?;
                delay
            }
            Delay::Cover { share, margin } => {
                let reached = self.reached(index, rtype, share >= 1.0, service);
                let covered = (share * reached.len() as f64).ceil() as usize;
                *reached.get(covered.max(1) - 1)? + margin
            }
        };
        Some(delay.min(self.max_total_delay))
    }

    /// How long it takes until half of the runners have an order that is sent now.
    pub(super) fn half_reached_within(&self, index: u16, rtype: Rtype) -> Span {
        let reached = self.reached(index, rtype, false, None);
        reached.get(reached.len().div_ceil(2).max(1) - 1).copied().unwrap_or(Span::MAX)
    }

    /// Gathers one order for every runner; who they are.
    pub(super) fn order(
        &mut self,
        order: &Order<'_>,
        index: u16,
        rtype: Rtype,
        outputs: &mut VecDeque<Output>,
    ) -> BTreeSet<Slot> {
        let slots: BTreeSet<Slot> = self
            .runners(index, rtype)
            .filter(|agent| agent.view.services.contains(&order.service))
            .map(|agent| agent.view.slot)
            .collect();
        for slot in &slots {
            let playbook = self.agents[slot].view.playbook;
            self.gather(*slot, &Frame::Order(Order { playbook, ..order.clone() }), outputs);
        }
        slots
    }

    /// Whose session it is.
    pub(super) fn slot_of(&self, id: SessionId) -> Option<Slot> {
        self.sessions.get(&id).map(|session| session.slot)
    }

    /// Gathers a race's signal for every runner.
    pub(super) fn signal(&mut self, id: u64, index: u16, rtype: Rtype, outputs: &mut VecDeque<Output>) {
        let slots: Vec<Slot> = self.runners(index, rtype).map(|agent| agent.view.slot).collect();
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
