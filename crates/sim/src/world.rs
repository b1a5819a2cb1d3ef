//! The world: one queue of events, and whom each event concerns.

mod address;
mod agents;
mod control;
mod disturbances;
mod faults;
mod host_time;
mod lives;
mod masters;
mod network;
mod queue;
mod setup;
mod watch;

use domain::base::Rtype;
use startgun_core::agent::DepartureKey;
use startgun_core::control::{StandDown, ToAgent, ToMaster};
use startgun_core::master::{Counters, Readiness};
use startgun_core::time::{Epoch, RaceTime, Span};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::clock::SimTime;
use crate::options::{Host, MAX_CLIENTS, MAX_HOSTS, Options, Path};
use crate::random::Random;
use crate::records::{DepartureRecord, Finish, MAX_RECORDS, ReadingRecord, Traffic};
use crate::trace::Trace;
pub(crate) use address::{addresses_of, client_at};
use agents::AgentHost;
use control::Connection;
pub(crate) use disturbances::alter;
pub use disturbances::{Disturbance, Group};
pub use faults::Suspended;
use masters::{Life, MasterHost};
use queue::Queue;
pub(crate) use setup::TTL_S as RACE_TTL_S;
pub(crate) use setup::{answers_of, fallback_of, query_bytes as query_of};
use watch::Watch;
pub(crate) use watch::{Genuine, Handled, Observation};

/// Most events waiting: 200 agents × 200 orders under way twice are 80,000; ten times that is a runaway.
const MAX_EVENTS: usize = 1 << 20;
/// How long [`World::run_until_ready`] waits: a self-test that fails ten times takes 7 s.
const READY_WITHIN: Span = Span::from_secs(30);
/// A resolver's ports, for each query another.
const FIRST_PORT: usize = 10_000;
const PORTS: usize = 50_000;

/// What is going to happen.
enum Event {
    /// A datagram reaches a host, perhaps altered on its way.
    Arrive { sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>, exchange: Option<u32>, altered: bool },
    /// An agent opens a control connection.
    Dial { agent: usize, link: usize },
    /// A document reaches a master; documents weigh more than all else, and there are few.
    ToMaster { connection: u64, message: Box<ToMaster> },
    /// A document reaches an agent.
    ToAgent { connection: u64, message: Box<ToAgent> },
    /// An agent learns that its connection is gone.
    Hangup { connection: u64, agent: usize, link: usize },
    /// An agent's timer.
    WakeAgent { agent: usize },
    /// A shard's timer.
    WakeShard { master: usize, shard: usize },
    /// A roster's timer; of the process with this number only.
    WakeRoster { master: usize, process: u64 },
    /// A shard takes a query from its queue.
    TakeQuery { master: usize, shard: usize, process: u64 },
    /// A departure is due, unless another has taken its place.
    Depart { agent: usize, key: DepartureKey, generation: u64 },
    /// An agent that was halted goes on.
    Resume { agent: usize },
    /// An agent's clocks are read, to be judged.
    ReadClocks { agent: usize },
    /// A host's program asks its clock where UTC lies.
    TellHostTime { host: Host },
}

/// What every host has sent and received.
struct AllTraffic {
    masters: Vec<Traffic>,
    agents: Vec<Traffic>,
    clients: Traffic,
}

impl AllTraffic {
    fn new(options: &Options) -> Self {
        let none = Traffic::default();
        AllTraffic {
            masters: vec![none; options.masters.len()],
            agents: vec![none; options.agents.len()],
            clients: none,
        }
    }

    /// `None` for a host that is not there.
    fn of(&mut self, host: Host) -> Option<&mut Traffic> {
        match host {
            Host::Master(number) => self.masters.get_mut(number),
            Host::Agent(number) => self.agents.get_mut(number),
            Host::Client(_) => Some(&mut self.clients),
        }
    }
}

/// A deterministic world. Its machines are driven by [`World::run_until`]; everything else says what happens next or
/// tells what happened.
pub struct World {
    options: Options,
    seed: u64,
    now: SimTime,
    events: Queue,
    random: Random,
    /// When clocks are read by chance.
    moments: Random,
    masters: Vec<MasterHost>,
    agents: Vec<AgentHost>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// The queries from number `finishes_taken` on.
    finishes: Vec<Finish>,
    finishes_taken: usize,
    /// Which query, by number, a client's port and id belong to; of those in `finishes` only.
    queries: BTreeMap<(usize, u16, u16), usize>,
    departures: Vec<DepartureRecord>,
    readings: Vec<ReadingRecord>,
    /// Queries that have had their first answer, by number, with [`Records::Sums`](crate::Records::Sums).
    answered: Vec<usize>,
    traffic: AllTraffic,
    trace: Trace,
    /// Until when each lasts.
    disturbances: Vec<(Disturbance, SimTime)>,
    watch: Option<Watch>,
}

impl World {
    /// A world at its beginning: masters are up, agents dial.
    ///
    /// # Panics
    /// If there are more masters or agents than [`MAX_HOSTS`], more clients than [`MAX_CLIENTS`], no master, an agent with a
    /// master that is not there, or a host at a place that is not there.
    pub fn new(options: Options, seed: u64) -> Self {
        let most = options.masters.len().max(options.agents.len());
        assert!(most <= MAX_HOSTS, "{most} masters or agents, at most {MAX_HOSTS}");
        assert!(options.clients <= MAX_CLIENTS, "{} clients, at most {MAX_CLIENTS}", options.clients);
        assert!(!options.masters.is_empty(), "a world needs a master");
        let known = |agent: &crate::AgentOptions| agent.masters.iter().all(|&master| master < options.masters.len());
        assert!(options.agents.iter().all(known), "an agent has a master that is not there");
        if let Some(places) = &options.places {
            let mut named = places.masters.iter().chain(&places.agents).chain(&*places.clients);
            assert!(named.all(|&place| usize::from(place) < places.count()), "a host is at a place that is not there");
        }
        let mut random = Random::new(seed);
        let masters: Vec<MasterHost> = (0..options.masters.len())
            .map(|master| {
                let clock = options.masters[master].clock;
                // Any number will do: the master in the upper half, the boot in the lower.
                let epoch = Epoch((master as u64) << 32 | 1);
                let life = Life { process: 0, generation: 0, seed: random.bytes() };
                MasterHost::start(&options, master, clock, epoch, SimTime::ZERO, life)
            })
            .collect();
        let agents = (0..options.agents.len())
            .map(|agent| AgentHost::start(&options, agent, 0, options.agents[agent].clock, SimTime::ZERO))
            .collect();
        let trace = Trace::new(options.trace);
        let traffic = AllTraffic::new(&options);
        let mut world = World {
            options,
            seed,
            now: SimTime::ZERO,
            events: Queue::default(),
            random,
            moments: Random::named(seed, [u64::from_be_bytes(*b"readings"), 0, 0]),
            masters,
            agents,
            connections: BTreeMap::new(),
            next_connection: 1,
            finishes: Vec::new(),
            finishes_taken: 0,
            queries: BTreeMap::new(),
            departures: Vec::new(),
            readings: Vec::new(),
            answered: Vec::new(),
            traffic,
            trace,
            disturbances: Vec::new(),
            watch: None,
        };
        for master in 0..world.masters.len() {
            world.after_start(master);
        }
        for agent in 0..world.agents.len() {
            for link in 0..world.options.agents[agent].masters.len() {
                world.schedule(SimTime::ZERO, Event::Dial { agent, link });
            }
            world.drain_agent(agent);
            if world.options.readings_between > Span::ZERO {
                world.read_by_chance(agent);
            }
        }
        world.begin_host_times();
        world
    }

    /// Where sealed datagrams reach a host.
    pub(crate) fn fast_path_of(host: Host) -> SocketAddr {
        address::fast_path(host)
    }

    /// True time now.
    pub fn now(&self) -> SimTime {
        self.now
    }

    /// Lets everything happen that is due until `end`, inclusive.
    pub fn run_until(&mut self, end: SimTime) {
        while self.step(end) {}
    }

    /// Lets the next thing happen that is due until `end`, inclusive; `false` when there is none, and it is `end` then.
    pub fn step(&mut self, end: SimTime) -> bool {
        let Some((at, event)) = self.events.pop_until(end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(at);
        self.happen(event);
        true
    }

    /// [`World::run_until`], from now.
    pub fn run_for(&mut self, span: Span) {
        self.run_until(self.now + span);
    }

    /// Runs until every living agent races for each of its masters.
    ///
    /// # Panics
    /// If that takes more than 30 s; with the agents' reasons.
    pub fn run_until_ready(&mut self) {
        let end = self.now + READY_WITHIN;
        while self.now < end {
            if self.unready().is_empty() {
                return;
            }
            self.run_for(Span::from_millis(50));
        }
        panic!("seed {}: not ready within {READY_WITHIN}: {:?}", self.seed, self.unready());
    }

    fn unready(&self) -> Vec<(usize, usize, String)> {
        let mut unready = Vec::new();
        for (agent, host) in self.agents.iter().enumerate().filter(|(_, host)| host.alive) {
            for link in 0..host.links.len() {
                let master = host.links[link].master;
                if !self.races(agent, master) {
                    unready.push((agent, master, format!("{:?}", self.stand_down(agent, master))));
                }
            }
        }
        unready
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.put_off(event) else { return };
        match event {
            Event::Arrive { sender, source, to, bytes, exchange, altered } => {
                self.arrive(sender, source, to, bytes, exchange, altered);
            }
            Event::Dial { agent, link } => self.dial(agent, link),
            Event::ToMaster { connection, message } => self.hear_at_master(connection, *message),
            Event::ToAgent { connection, message } => self.hear_at_agent(connection, *message),
            Event::Hangup { connection, agent, link } => self.hang_up_at_agent(connection, agent, link),
            Event::WakeAgent { agent } => self.wake_agent(agent),
            Event::WakeShard { master, shard } => self.wake_shard(master, shard),
            Event::WakeRoster { master, process } => self.wake_roster(master, process),
            Event::TakeQuery { master, shard, process } => self.take_query(master, shard, process),
            Event::Depart { agent, key, generation } => self.depart(agent, key, generation),
            Event::Resume { agent } => self.resume_agent(agent),
            Event::ReadClocks { agent } => self.read_by_chance(agent),
            Event::TellHostTime { host } => self.tell_host_time(host),
        }
    }

    fn schedule(&mut self, at: SimTime, event: Event) {
        assert!(self.events.len() < MAX_EVENTS, "seed {}: {MAX_EVENTS} events are waiting", self.seed);
        self.events.push(at.max(self.now), event);
    }

    fn note(&mut self, what: core::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// A client asks a master for an A record; the result is the query's number, an index of [`World::finishes`].
    ///
    /// # Panics
    /// If `name` is no domain name.
    pub fn query(&mut self, client: usize, master: usize, name: &str) -> usize {
        self.query_type(client, master, name, Rtype::A)
    }

    /// [`World::query`], for any type.
    ///
    /// # Panics
    /// If `name` is no domain name.
    pub fn query_type(&mut self, client: usize, master: usize, name: &str, rtype: Rtype) -> usize {
        self.ask(client, master, name, rtype, &[])
    }

    /// [`World::query_type`], with the data of a COOKIE option unless that is empty.
    ///
    /// # Panics
    /// If `name` is no domain name.
    pub fn ask(&mut self, client: usize, master: usize, name: &str, rtype: Rtype, cookie: &[u8]) -> usize {
        assert!(self.finishes.len() < MAX_RECORDS, "at most {MAX_RECORDS} queries");
        let number = self.finishes_taken + self.finishes.len();
        let id = self.random.next() as u16;
        let port = (FIRST_PORT + number % PORTS) as u16;
        let bytes = setup::query_bytes(id, name, rtype, cookie);
        self.note(format_args!(
            "query {number} of client {client} to master {master}: {name} {rtype} id {id} port {port}"
        ));
        self.finishes.push(Finish {
            client,
            master,
            id,
            port,
            query_bytes: bytes.len(),
            name: name.into(),
            sent: self.now,
            reached: None,
            answers: 0,
            arrivals: Vec::new(),
        });
        self.queries.insert((client, port, id), number);
        let source = SocketAddr::new(IpAddr::V4(address::ip_of(Host::Client(client))), port);
        self.transmit(Host::Client(client), source, address::service(master), bytes);
        number
    }

    /// A client has completed a query over TCP: the master's shards know that its address is its own.
    pub fn validate(&mut self, client: usize, master: usize) {
        let now = self.masters[master].clock.read(self.now);
        let source = IpAddr::V4(address::ip_of(Host::Client(client)));
        for shard in &mut self.masters[master].shards {
            shard.shard.handle_validated(now, source);
        }
    }

    /// [`World::validate`] for every client at every master.
    pub fn validate_all(&mut self) {
        for master in 0..self.masters.len() {
            (0..self.options.clients).for_each(|client| self.validate(client, master));
        }
    }

    /// The path from one host to another, to be changed from now on; packets under way keep their fate.
    pub fn path_mut(&mut self, from: Host, to: Host) -> &mut Path {
        self.options.path_mut(from, to)
    }

    /// Every query so far, with its answers, but for those that were [taken](World::take_finishes).
    pub fn finishes(&self) -> &[Finish] {
        &self.finishes
    }

    /// A query by its number; `None` once it was taken.
    pub fn finish(&self, number: usize) -> Option<&Finish> {
        self.finishes.get(number.checked_sub(self.finishes_taken)?)
    }

    fn finish_mut(&mut self, number: usize) -> Option<&mut Finish> {
        self.finishes.get_mut(number.checked_sub(self.finishes_taken)?)
    }

    /// Takes away the queries that were sent before an instant, for a caller that folds them as they come, and the number
    /// of the first of them. The rest keep their numbers; answers to what was taken reach nobody's record.
    pub fn take_finishes(&mut self, sent_before: SimTime) -> (usize, Vec<Finish>) {
        let first = self.finishes_taken;
        let end = self.finishes.partition_point(|finish| finish.sent < sent_before);
        let taken: Vec<Finish> = self.finishes.drain(..end).collect();
        self.finishes_taken += end;
        for (number, finish) in (first..).zip(&taken) {
            let key = (finish.client, finish.port, finish.id);
            // A later query may have the same port and id.
            if self.queries.get(&key) == Some(&number) {
                self.queries.remove(&key);
            }
        }
        (first, taken)
    }

    /// Every departure so far, in order.
    pub fn departures(&self) -> &[DepartureRecord] {
        &self.departures
    }

    /// Every clock reading so far, in order: one after each exchange and signal that an agent heard, and those that
    /// [`Options::readings_between`] asks for.
    pub fn readings(&self) -> &[ReadingRecord] {
        &self.readings
    }

    /// Takes the departures so far away, for a caller that folds them as they come.
    pub fn take_departures(&mut self) -> Vec<DepartureRecord> {
        core::mem::take(&mut self.departures)
    }

    /// Takes the readings so far away, for a caller that folds them as they come.
    pub fn take_readings(&mut self) -> Vec<ReadingRecord> {
        core::mem::take(&mut self.readings)
    }

    /// Takes away the numbers of queries that have had their first answer since the last call; none with
    /// [`Records::All`](crate::Records::All).
    pub fn take_answered(&mut self) -> Vec<usize> {
        core::mem::take(&mut self.answered)
    }

    /// What a master or an agent has sent and received so far; of a client, what all of them have.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn traffic(&self, host: Host) -> Traffic {
        match host {
            Host::Master(number) => self.traffic.masters[number],
            Host::Agent(number) => self.traffic.agents[number],
            Host::Client(_) => self.traffic.clients,
        }
    }

    /// What happened: one line per event, true nanoseconds first. It ends after 64 MiB; the
    /// [digest](World::trace_digest) does not.
    pub fn trace(&self) -> &str {
        self.trace.text()
    }

    /// A digest of the whole trace.
    pub fn trace_digest(&self) -> u64 {
        self.trace.digest
    }

    /// A master's true race time now.
    pub fn race_time(&self, master: usize) -> RaceTime {
        RaceTime::of_master(self.masters[master].clock.read(self.now))
    }

    /// What an agent and its master last made of each other: whether the master lets it race.
    pub fn races(&self, agent: usize, master: usize) -> bool {
        let now = self.masters[master].clock.read(self.now);
        let name = setup::site_name(agent);
        self.masters[master].roster.status(now).iter().any(|status| status.name == name && status.racing)
    }

    /// Why an agent stands down for a master, by its own account now; `None` when it is ready.
    ///
    /// # Panics
    /// If the agent does not serve that master.
    pub fn stand_down(&self, agent: usize, master: usize) -> Option<StandDown> {
        let host = &self.agents[agent];
        host.agent.stand_down(host.clock.read(self.now), self.link_of(agent, master))
    }

    fn link_of(&self, agent: usize, master: usize) -> usize {
        let link = self.agents[agent].links.iter().position(|link| link.master == master);
        link.unwrap_or_else(|| panic!("agent {agent} does not serve master {master}"))
    }

    /// Which races a master can order an agent to run.
    pub fn readiness(&self, agent: usize, master: usize) -> Option<Readiness> {
        let now = self.masters[master].clock.read(self.now);
        let name = setup::site_name(agent);
        let status = self.masters[master].roster.status(now).into_iter().find(|status| status.name == name);
        status.map(|status| status.readiness)
    }

    /// What an agent has counted.
    pub fn agent_counter(&self, agent: usize, name: &str) -> u64 {
        self.agents[agent].agent.counters().get(name).copied().unwrap_or(0)
    }

    /// What a master's shards have counted since its last start, together.
    pub fn master_counter(&self, master: usize, name: &str) -> u64 {
        let shards = self.masters[master].shards.iter();
        shards.map(|shard| shard.shard.counters().get(name).copied().unwrap_or(0)).sum()
    }

    /// All that a master's shards have counted since its last start, together.
    pub fn master_counters(&self, master: usize) -> Counters {
        let mut sums = Counters::new();
        for host in &self.masters[master].shards {
            host.shard.counters().into_iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
        }
        sums
    }

    /// All that an agent has counted.
    pub fn agent_counters(&self, agent: usize) -> &Counters {
        self.agents[agent].agent.counters()
    }

    /// The predetermined delay of a master's race as it is now; `None` while no agent is ready.
    pub fn predetermined_delay(&self, master: usize) -> Option<Span> {
        let first = self.masters[master].shards.first()?;
        first.shard.predetermined_delays().first().copied().flatten()
    }

    /// The addresses that an agent's site answers with, A before AAAA.
    pub fn site_addresses(&self, agent: usize) -> Vec<IpAddr> {
        setup::site_addresses(agent)
    }
}
