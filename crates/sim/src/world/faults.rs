//! Faults that begin while a world runs: clocks that step, hosts that stand still.
//!
//! A machine cannot know of some of them before its next exchange. From the fault until one exchange that was begun
//! after it is complete, readings and departures are marked as blind: a bound may be wrong there, and nowhere else.

use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::SessionId;
use std::collections::VecDeque;

use super::{Event, World};
use crate::clock::SimTime;
use crate::options::Host;

/// Datagrams that wait in an agent's socket: the kernel's default of 212,992 bytes, at 832 for a small datagram with
/// what the kernel keeps about it.
const SOCKET_DATAGRAMS: usize = 256;
/// Requests remembered: a minute's at the default four per second is more than any path takes.
const MAX_REQUESTS: usize = 256;
/// So many requests later an agent may have forgotten one that waits to be completed.
const OUTSTANDING: u32 = 16;

/// Why an agent's process does nothing, and until when.
pub(super) struct Halt {
    until: SimTime,
    /// The clock stands still, too, and the network card is off.
    suspended: Option<Suspended>,
}

/// How a process learns that its host was suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspended {
    /// It is told before anything else: the kernel's clocks show it.
    Told,
    /// Not at all: a virtual machine whose hypervisor hides it.
    Untold,
}

/// A datagram in a socket's buffer, with the kernel's timestamp.
pub(super) struct Queued {
    pub(super) received_at: LocalTime,
    pub(super) by: Host,
    pub(super) bytes: Vec<u8>,
    pub(super) exchange: Option<u32>,
}

/// What an agent has exchanged with one master, truly.
#[derive(Default)]
pub(super) struct Exchanges {
    requests: VecDeque<Request>,
    /// Which the master has answered last, and in which session.
    answered: Option<(SessionId, u32)>,
    replies: u64,
    since_fault: Option<Since>,
}

struct Request {
    exchange: u32,
    sent: SimTime,
    replied: bool,
    /// The exchange that its reply names, whose T3 it brings. Requests may overtake each other: it need not be the one before.
    names: Option<u32>,
    /// Another reply has named it, before or after its own came.
    named: bool,
}

/// What has come since the last fault.
struct Since {
    fault: SimTime,
    replies: u32,
    complete: bool,
}

impl Exchanges {
    pub(super) fn note_request(&mut self, exchange: u32, at: SimTime) {
        if self.requests.len() >= MAX_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(Request { exchange, sent: at, replied: false, names: None, named: false });
    }

    /// The master answers a request.
    pub(super) fn note_answered(&mut self, session: SessionId, exchange: u32) {
        let before = self.answered.replace((session, exchange));
        let names = before.filter(|(of, _)| *of == session).map(|(_, exchange)| exchange);
        if let Some(request) = self.requests.iter_mut().find(|request| request.exchange == exchange) {
            request.names = names;
        }
    }

    /// Takes in a reply, once. It completes the exchange that it names: only now the agent knows when that reply left.
    pub(super) fn note_reply(&mut self, exchange: u32) {
        let request = self.requests.iter_mut().find(|request| request.exchange == exchange && !request.replied);
        let Some(request) = request else { return };
        request.replied = true;
        let (sent, names) = (request.sent, request.names);
        self.replies += 1;
        let waits = |of: u32| names == Some(of) && exchange.wrapping_sub(of) < OUTSTANDING;
        let named = self.requests.iter_mut().find(|request| waits(request.exchange) && !request.named);
        let complete = named.and_then(|named| {
            named.named = true;
            named.replied.then_some(named.sent)
        });
        if let Some(since) = &mut self.since_fault {
            since.replies += u32::from(sent >= since.fault);
            since.complete |= complete.is_some_and(|sent| sent >= since.fault);
        }
    }

    /// The clock was reset: what is under way completes nothing.
    pub(super) fn forget_requests(&mut self) {
        self.requests.clear();
    }

    /// A fault at an instant, of which the process is `told`.
    pub(super) fn note_fault(&mut self, at: SimTime, told: bool) {
        self.since_fault = Some(Since { fault: at, replies: 0, complete: told });
    }

    /// Whether no exchange is complete that was begun after the last fault.
    pub(super) fn blind(&self) -> bool {
        self.since_fault.as_ref().is_some_and(|since| !since.complete)
    }
}

impl World {
    /// An agent's raw clock steps, as on a virtual machine that was migrated; every wait for a time of it ends by the
    /// new one. Nobody is told.
    pub fn step_agent_clock(&mut self, agent: usize, by: Span) {
        self.note(format_args!("clock of agent {agent} steps by {by}"));
        self.agents[agent].clock.offset += by;
        let now = self.now;
        self.agents[agent].links.iter_mut().for_each(|link| link.exchanges.note_fault(now, false));
        self.retime_agent(agent);
    }

    /// A master's raw clock, which is its race timeline, steps within its epoch. Nobody is told.
    pub fn step_master_clock(&mut self, master: usize, by: Span) {
        self.note(format_args!("clock of master {master} steps by {by}"));
        let host = &mut self.masters[master];
        host.clock.offset += by;
        host.timelines.insert(host.epoch, host.clock);
        host.stepped_at = Some(self.now);
        let now = self.now;
        let waiting = self.agents.iter_mut().flat_map(|host| host.waiting.values_mut());
        waiting.for_each(|waiting| waiting.timed_within = None);
        let links = self.agents.iter_mut().flat_map(|host| &mut host.links);
        links.filter(|link| link.master == master).for_each(|link| link.exchanges.note_fault(now, false));
        for shard in 0..self.masters[master].shards.len() {
            self.masters[master].shards[shard].wake_at = None;
            self.drain_shard(master, shard);
        }
    }

    /// Stops an agent's process for a while (SIGSTOP, SIGCONT): datagrams wait in its socket with the kernel's
    /// timestamps, what would have departed departs when it goes on, unless its `latest` has passed.
    ///
    /// # Panics
    /// If the agent is halted already.
    pub fn pause_agent(&mut self, agent: usize, span: Span) {
        self.halt_agent(agent, Halt { until: self.now + span, suspended: None });
    }

    /// Suspends an agent's host for a while: its raw clock does not count, datagrams are lost.
    ///
    /// # Panics
    /// If the agent is halted already.
    pub fn suspend_agent(&mut self, agent: usize, span: Span, suspended: Suspended) {
        self.halt_agent(agent, Halt { until: self.now + span, suspended: Some(suspended) });
    }

    fn halt_agent(&mut self, agent: usize, halt: Halt) {
        assert!(self.agents[agent].halted.is_none(), "agent {agent} is halted already");
        let Halt { until, suspended } = halt;
        self.note(format_args!("halt agent {agent} until {until:?}, suspended: {suspended:?}"));
        if let Some(suspended) = suspended {
            // Seen from true time the clock goes back by the whole span; nobody reads it before it ends.
            let stood = until - self.now;
            self.agents[agent].clock.offset -= stood;
            let told = suspended == Suspended::Told;
            self.agents[agent].links.iter_mut().for_each(|link| link.exchanges.note_fault(until, told));
        }
        self.agents[agent].halted = Some(halt);
        // Before everything that is put off until then.
        self.schedule(until, Event::Resume { agent });
    }

    pub(super) fn resume_agent(&mut self, agent: usize) {
        let now = self.now;
        // One of a halt that a crash has ended comes too early.
        if self.agents[agent].halted.as_ref().is_some_and(|halt| halt.until > now) {
            return;
        }
        let Some(Halt { suspended, .. }) = self.agents[agent].halted.take() else { return };
        if !self.agents[agent].alive {
            return;
        }
        self.note(format_args!("resume agent {agent}"));
        if suspended == Some(Suspended::Told) {
            let now = self.agents[agent].clock.read(self.now);
            self.agents[agent].agent.handle_clock_break(now);
            self.agents[agent].wake_at = None;
            self.drain_agent(agent);
        }
        while let Some(queued) = self.agents[agent].socket.pop_front() {
            self.take_datagram(agent, &queued);
        }
        if suspended.is_some() {
            return self.retime_agent(agent);
        }
        self.agents[agent].wake_at = None;
        self.drain_agent(agent);
    }

    /// What a halted agent's socket does with a datagram.
    pub(super) fn queue_at_agent(&mut self, agent: usize, queued: Queued) {
        let host = &mut self.agents[agent];
        let off = host.halted.as_ref().is_some_and(|halt| halt.suspended.is_some());
        if off || host.socket.len() >= SOCKET_DATAGRAMS {
            return self.note(format_args!("lost at agent {agent}: halted"));
        }
        host.socket.push_back(queued);
    }

    /// Puts an event of a halted agent's process off until it goes on; hands back every other.
    pub(super) fn put_off(&mut self, event: Event) -> Option<Event> {
        let concerned = match &event {
            Event::Dial { agent, .. }
            | Event::Hangup { agent, .. }
            | Event::WakeAgent { agent }
            | Event::Depart { agent, .. } => Some(*agent),
            Event::ToAgent { connection, .. } => self.connections.get(connection).map(|connection| connection.agent),
            _ => None,
        };
        let until = concerned.and_then(|agent| self.agents[agent].halted.as_ref()).map(|halt| halt.until);
        let Some(until) = until else { return Some(event) };
        // Its timers are set anew when it goes on.
        if !matches!(event, Event::WakeAgent { .. }) {
            self.schedule(until, event);
        }
        None
    }

    /// Whether an agent's process or host stands still.
    pub fn halted(&self, agent: usize) -> bool {
        self.agents[agent].halted.is_some()
    }

    /// Exchanges of an agent with a master whose reply has come, each once.
    ///
    /// # Panics
    /// If the agent does not serve that master.
    pub fn exchanges(&self, agent: usize, master: usize) -> u64 {
        self.agents[agent].links[self.link_of(agent, master)].exchanges.replies
    }

    /// Replies to requests that an agent sent after the last fault that no clock can know of; `None` without one.
    ///
    /// # Panics
    /// If the agent does not serve that master.
    pub fn replies_since_fault(&self, agent: usize, master: usize) -> Option<u32> {
        let exchanges = &self.agents[agent].links[self.link_of(agent, master)].exchanges;
        exchanges.since_fault.as_ref().map(|since| since.replies)
    }
}
