//! Driving the agents, and holding their clocks against the truth.

use startgun_core::agent::{Agent, Audit, Departure, DepartureKey, DepartureOutcome, Output, Stamped};
use startgun_core::clock::Reading;
use startgun_core::playbook::Playbook;
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use std::collections::{BTreeMap, VecDeque};

use super::address::{fast_path, host_at, service};
use super::faults::{Exchanges, Halt, Queued};
use super::{Event, Genuine, Handled, Observation, World, setup};
use crate::clock::{HostClock, SimTime};
use crate::options::{Host, Options, Records};
use crate::records::{DepartureRecord, MAX_RECORDS, Occasion, ReadingRecord};

/// An agent's connection to one of its masters.
pub(super) struct LinkHost {
    pub(super) master: usize,
    /// The epoch that the master last named: it says which of the master's clocks is the truth.
    pub(super) epoch: Option<Epoch>,
    pub(super) connection: Option<u64>,
    pub(super) exchanges: Exchanges,
}

/// A departure that waits, how often its key was used, how late the thread will be, and the bound that the agent's
/// clock stated when it fixed the instant; none once a fault has made that void.
pub(super) struct Waiting {
    generation: u64,
    pub(super) timed_within: Option<Span>,
    lateness: Span,
    departure: Departure,
}

/// What is known of a departure that its audit does not say.
#[derive(Clone, Copy, Default)]
struct Departed {
    finish: Option<usize>,
    timed_within: Option<Span>,
}

/// An agent's host with the process that runs on it.
pub(super) struct AgentHost {
    pub(super) clock: HostClock,
    pub(super) agent: Agent,
    pub(super) alive: bool,
    pub(super) links: Vec<LinkHost>,
    pub(super) wake_at: Option<SimTime>,
    pub(super) waiting: BTreeMap<DepartureKey, Waiting>,
    pub(super) generation: u64,
    /// Counts the processes that have run on this host.
    pub(super) process: u64,
    /// What is on its disk, by link.
    pub(super) disk: BTreeMap<usize, Playbook>,
    /// How long it takes to put a playbook there.
    pub(super) disk_delay: Span,
    pub(super) halted: Option<Halt>,
    pub(super) socket: VecDeque<Queued>,
}

impl AgentHost {
    pub(super) fn start(options: &Options, number: usize, process: u64, clock: HostClock, now: SimTime) -> Self {
        let own = &options.agents[number];
        let mut agent = Agent::new(setup::agent_config(own, number, process), clock.read(now));
        if let Some(most) = own.tables {
            agent.shrink_tables(most);
        }
        AgentHost {
            clock,
            agent,
            alive: true,
            links: own
                .masters
                .iter()
                .map(|&master| LinkHost { master, epoch: None, connection: None, exchanges: Exchanges::default() })
                .collect(),
            wake_at: None,
            waiting: BTreeMap::new(),
            generation: 0,
            process,
            disk: BTreeMap::new(),
            disk_delay: Span::ZERO,
            halted: None,
            socket: VecDeque::new(),
        }
    }
}

impl World {
    /// An agent's host loses its power: nothing departs any more, and nobody is told.
    pub fn kill_agent(&mut self, agent: usize) {
        self.note(format_args!("kill agent {agent}"));
        self.agents[agent].alive = false;
        self.agents[agent].waiting.clear();
        self.agents[agent].socket.clear();
        self.agents[agent].halted = None;
    }

    pub(super) fn datagram_at_agent(&mut self, agent: usize, by: Host, bytes: Vec<u8>, exchange: Option<u32>) {
        if !self.agents[agent].alive {
            return;
        }
        let received_at = self.agents[agent].clock.read(self.now);
        let queued = Queued { received_at, by, bytes, exchange };
        if self.agents[agent].halted.is_some() {
            return self.queue_at_agent(agent, queued);
        }
        self.take_datagram(agent, &queued);
    }

    /// The process takes a datagram from its socket.
    pub(super) fn take_datagram(&mut self, agent: usize, queued: &Queued) {
        let now = self.agents[agent].clock.read(self.now);
        if self.watch.is_some() {
            return self.take_watched(agent, now, queued);
        }
        self.note_reply(agent, queued);
        self.agents[agent].agent.handle_datagram(now, queued.received_at, &queued.bytes);
        self.drain_agent(agent);
    }

    fn note_reply(&mut self, agent: usize, queued: &Queued) {
        if let (Host::Master(master), Some(exchange)) = (queued.by, queued.exchange)
            && let Some(link) = self.agents[agent].links.iter_mut().find(|link| link.master == master)
        {
            link.exchanges.note_reply(exchange);
        }
    }

    /// What a master sealed before its clock stepped, and an agent takes after that, tells of times that are not its own any
    /// more: nobody can know before the next exchange.
    fn note_outdated(&mut self, agent: usize, genuine: Option<&Genuine>) {
        let Some(Genuine { by: Host::Master(master), sent, .. }) = genuine else { return };
        if self.masters[*master].stepped_at.is_some_and(|at| *sent < at) {
            let now = self.now;
            let links = self.agents[agent].links.iter_mut().filter(|link| link.master == *master);
            links.for_each(|link| link.exchanges.note_fault(now, false));
        }
    }

    /// The same in a watched world: what the datagram did to the machine is told.
    fn take_watched(&mut self, agent: usize, now: LocalTime, queued: &Queued) {
        let host = Host::Agent(agent);
        let (digest, genuine) = self.genuine(host, &queued.bytes);
        let worthless = genuine.is_none_or(|genuine| genuine.taken);
        let before = self.agent_before(agent, worthless);
        self.agents[agent].agent.handle_datagram(now, queued.received_at, &queued.bytes);
        let after = self.agent_before(agent, worthless);
        let stepped = after.has_stepped(&before);
        let taken = !before.has_refused(&after);
        let quiet = !worthless || before.is_same(&after);
        if taken {
            self.note_taken(digest);
            match (stepped, genuine.map(|genuine| genuine.by)) {
                // It has forgotten what is under way, this one with it.
                (true, Some(Host::Master(master))) => {
                    let links = self.agents[agent].links.iter_mut();
                    links.filter(|link| link.master == master).for_each(|link| link.exchanges.forget_requests());
                }
                _ => self.note_reply(agent, queued),
            }
            self.note_outdated(agent, genuine.as_ref());
        }
        let of_sealer = |link: &&LinkHost| genuine.is_some_and(|genuine| genuine.by == Host::Master(link.master));
        let followed = self.agents[agent].links.iter().find(of_sealer).and_then(|link| link.epoch);
        let (bytes, received_at) = (queued.bytes.clone(), queued.received_at);
        self.fact(|| {
            Observation::Handled(Handled { host, digest, bytes, genuine, taken, quiet, received_at, now, followed })
        });
        if let (true, Some(Host::Master(master))) = (taken, genuine.map(|genuine| genuine.by)) {
            self.watch_settled(agent, Some(master));
        }
        let outputs = self.drain_agent(agent);
        if worthless && outputs > 0 {
            self.fact(|| Observation::Moved { host });
        }
    }

    pub(super) fn wake_agent(&mut self, agent: usize) {
        if !self.agents[agent].alive || self.agents[agent].wake_at != Some(self.now) {
            return;
        }
        let now = self.agents[agent].clock.read(self.now);
        self.agents[agent].wake_at = None;
        self.agents[agent].agent.handle_timeout(now);
        self.watch_settled(agent, None);
        self.drain_agent(agent);
    }

    /// Does what the agent wants; how many things that were.
    pub(super) fn drain_agent(&mut self, agent: usize) -> usize {
        self.drain_agent_for(agent, Departed::default())
    }

    /// Does what the agent wants; an audit of a departure among it is about `departed`.
    fn drain_agent_for(&mut self, agent: usize, departed: Departed) -> usize {
        let sender = Host::Agent(agent);
        let mut outputs = 0;
        while let Some(output) = self.agents[agent].agent.poll_output() {
            outputs += 1;
            match output {
                Output::Send { to, bytes, exchange } => {
                    self.transmit(sender, fast_path(sender), to, bytes);
                    if let Some(stamped) = exchange {
                        let host = &mut self.agents[agent];
                        let now = host.clock.read(self.now);
                        host.agent.handle_transmit_stamp(stamped, now);
                        if let Stamped::Request(link, exchange) = stamped {
                            host.links[link].exchanges.note_request(exchange, self.now);
                        }
                    }
                }
                Output::Depart(departure) => self.await_departure(agent, departure),
                Output::Withdraw(key) => {
                    self.agents[agent].waiting.remove(&key);
                }
                Output::Challenge { service, to, bytes } => {
                    if self.options.agents[agent].foreign_sources_pass {
                        self.transmit(sender, service, to, bytes);
                    }
                }
                Output::Control { master: link, message } => {
                    if let Some(connection) = self.agents[agent].links[link].connection {
                        self.say_to_master(connection, message);
                    }
                }
                Output::Audit(audit) if self.options.records == Records::All => self.audit(agent, audit, departed),
                Output::Audit(_) => {}
            }
        }
        self.watch_tables(sender, |world| world.agents[agent].agent.occupancy());
        if let Some((next, _)) = self.agents[agent].agent.poll_timeout() {
            let at = self.agents[agent].clock.when(next).max(self.now);
            if self.agents[agent].wake_at.is_none_or(|scheduled| at < scheduled) {
                self.agents[agent].wake_at = Some(at);
                self.schedule(at, Event::WakeAgent { agent });
            }
        }
        outputs
    }

    /// The departure thread's part: wait until the host's own clock shows the time, and then a little.
    fn await_departure(&mut self, agent: usize, departure: Departure) {
        let lateness = self.random.exponential(self.options.agents[agent].departure_lateness_mean);
        self.watch_timed(agent, &departure);
        let host = &self.agents[agent];
        let is_judged = self.options.records == Records::All;
        let link = host.links.iter().position(|link| is_judged && service(link.master) == departure.service);
        let reading = link.and_then(|link| self.read_link(agent, link));
        let timed_within = reading.filter(|reading| !reading.blind).map(|reading| reading.bound);
        self.time_departure(agent, departure, lateness, timed_within);
    }

    fn watch_timed(&mut self, agent: usize, departure: &Departure) {
        if self.watch.is_none() {
            return;
        }
        let host = &self.agents[agent];
        let now = host.clock.read(self.now);
        let readings = (0..host.links.len()).map(|link| host.agent.reading(now, link)).collect();
        self.fact(|| Observation::Timed { agent, departure: departure.clone(), now, readings });
    }

    /// Fixes the true instant of a departure, by the host's clock as it is now.
    fn time_departure(&mut self, agent: usize, departure: Departure, lateness: Span, timed_within: Option<Span>) {
        let host = &mut self.agents[agent];
        host.generation += 1;
        let (key, generation) = (departure.key, host.generation);
        let at = host.clock.when(departure.at).max(self.now) + lateness;
        host.waiting.insert(key, Waiting { generation, timed_within, lateness, departure });
        self.schedule(at, Event::Depart { agent, key, generation });
    }

    /// [`World::retime_agent`] after a change that a bound covers: what it stated stays good.
    pub(super) fn retime_agent_within(&mut self, agent: usize) {
        for (_, waiting) in core::mem::take(&mut self.agents[agent].waiting) {
            let Waiting { departure, lateness, timed_within, .. } = waiting;
            self.time_departure(agent, departure, lateness, timed_within);
        }
        self.agents[agent].wake_at = None;
        self.drain_agent(agent);
    }

    /// After a change of the host's clock: everything that waits for a time of it waits anew.
    pub(super) fn retime_agent(&mut self, agent: usize) {
        for (_, Waiting { departure, lateness, .. }) in core::mem::take(&mut self.agents[agent].waiting) {
            self.time_departure(agent, departure, lateness, None);
        }
        self.agents[agent].wake_at = None;
        self.drain_agent(agent);
    }

    pub(super) fn depart(&mut self, agent: usize, key: DepartureKey, generation: u64) {
        let host = &mut self.agents[agent];
        if host.waiting.get(&key).is_none_or(|waiting| waiting.generation != generation) {
            return;
        }
        let Some(Waiting { departure, timed_within, .. }) = host.waiting.remove(&key) else {
            return;
        };
        let at = host.clock.read(self.now);
        let is_judged = self.options.records == Records::All;
        let finish = is_judged.then(|| self.finish_of(&departure)).flatten();
        let is_late = departure.latest.is_some_and(|latest| at > latest);
        self.fact(|| Observation::Left { departed: !is_late });
        let outcome = match departure.latest {
            Some(_) if is_late => DepartureOutcome::Late { at },
            _ => {
                if self.options.agents[agent].foreign_sources_pass {
                    self.transmit(Host::Agent(agent), departure.service, departure.to, departure.bytes);
                }
                DepartureOutcome::Departed { at, kernel_stamped: true }
            }
        };
        self.agents[agent].agent.handle_departed(at, key, outcome);
        self.drain_agent_for(agent, Departed { finish, timed_within });
    }

    /// The query that an answer belongs to.
    fn finish_of(&self, departure: &Departure) -> Option<usize> {
        let Some(Host::Client(client)) = host_at(departure.to) else {
            return None;
        };
        let id = u16::from_be_bytes(*departure.bytes.first_chunk()?);
        self.queries.get(&(client, departure.to.port(), id)).copied()
    }

    fn audit(&mut self, agent: usize, audit: Audit, departed: Departed) {
        match audit {
            Audit::Clock { master: link, reading } => {
                let record = self.judge(agent, link, Occasion::Exchange, &reading);
                self.note(format_args!(
                    "clock agent {agent} of master {}: error {:?} bound {:?} expected {:?}",
                    record.master, record.error, record.bound, record.expected_error
                ));
                self.keep_reading(record);
            }
            Audit::Departure { master: link, race, revision, transmit_at, outcome, reading, .. } => {
                let master = self.agents[agent].links[link].master;
                let judged = reading.map(|reading| self.judge(agent, link, Occasion::Departure, &reading));
                if let Some(record) = judged.filter(|_| self.options.readings_between > Span::ZERO) {
                    self.keep_reading(record);
                }
                let race_time = RaceTime::of_master(self.masters[master].clock.read(self.now));
                self.note(format_args!(
                    "departure agent {agent} master {master} race {race:x}.{revision} {outcome:?}, T {transmit_at:?}, truly {race_time:?}"
                ));
                assert!(self.departures.len() < MAX_RECORDS, "at most {MAX_RECORDS} departures");
                let at = self.now;
                self.departures.push(DepartureRecord {
                    agent,
                    master,
                    race,
                    revision,
                    transmit_at,
                    outcome,
                    at,
                    race_time,
                    clock_error: judged.map(|record| record.error),
                    bound: judged.map(|record| record.bound),
                    blind: self.agents[agent].links[link].exchanges.blind(),
                    timed_within: departed.timed_within,
                    finish: departed.finish,
                });
            }
        }
    }

    fn keep_reading(&mut self, record: ReadingRecord) {
        assert!(self.readings.len() < MAX_RECORDS, "at most {MAX_RECORDS} readings");
        self.readings.push(record);
    }

    /// Reads an agent's clocks at an instant that chance decided, and decides the next.
    pub(super) fn read_by_chance(&mut self, agent: usize) {
        if self.agents[agent].alive && self.agents[agent].halted.is_none() {
            for link in 0..self.agents[agent].links.len() {
                if let Some(record) = self.read_link(agent, link) {
                    self.keep_reading(record);
                }
            }
        }
        let next = self.now + self.moments.exponential(self.options.readings_between);
        self.schedule(next, Event::ReadClocks { agent });
    }

    /// An agent's reading of a master's timeline now, beside the truth; `None` before its first exchange.
    ///
    /// # Panics
    /// If the agent does not serve that master.
    pub fn read_clock(&self, agent: usize, master: usize) -> Option<ReadingRecord> {
        self.read_link(agent, self.link_of(agent, master))
    }

    fn read_link(&self, agent: usize, link: usize) -> Option<ReadingRecord> {
        let host = &self.agents[agent];
        let reading = host.agent.reading(host.clock.read(self.now), link)?;
        Some(self.judge(agent, link, Occasion::Chance, &reading))
    }

    /// Holds a reading against the truth at the instant that it was taken for.
    fn judge(&self, agent: usize, link: usize, occasion: Occasion, reading: &Reading) -> ReadingRecord {
        let host = &self.agents[agent];
        let LinkHost { master, epoch, .. } = host.links[link];
        // A reply of the epoch before may have been under way while the master's host booted.
        let timeline = epoch.map_or(self.masters[master].clock, |epoch| self.masters[master].timelines[&epoch]);
        let truth = RaceTime::of_master(timeline.read(host.clock.when(reading.at)));
        let error = reading.estimate - truth;
        ReadingRecord {
            agent,
            master,
            occasion,
            at: self.now,
            error,
            bound: reading.bound,
            expected_error: reading.expected_error,
            holds: reading.interval.contains(Span::from_nanos(truth.as_nanos())) && error.abs() <= reading.bound,
            blind: host.links[link].exchanges.blind(),
        }
    }
}
