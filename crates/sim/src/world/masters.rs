//! Driving the masters: rosters and shards.

use startgun_core::histogram::{Histogram, Quantiles};
use startgun_core::master::{Arrival, Output, Roster, Shard, SharedService, Slot};
use startgun_core::time::{Epoch, LocalTime, Span};
use startgun_core::wire::SessionId;
use startgun_core::wire::session::{CHALLENGE, SEALED, header};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use super::address::{fast_path, host_at, service};
use super::{Event, Handled, Observation, World, setup};
use crate::clock::{HostClock, SimTime};
use crate::options::{Host, Options};

/// A query that waits in a socket.
pub(super) struct Waiting {
    source: SocketAddr,
    received_at: LocalTime,
    bytes: Vec<u8>,
}

/// A shard, what waits in its socket, and the wake-up that is scheduled for it.
pub(super) struct ShardHost {
    pub(super) shard: Shard,
    queue: VecDeque<Waiting>,
    pub(super) wake_at: Option<SimTime>,
}

/// A master's host with the process that runs on it.
pub(super) struct MasterHost {
    pub(super) clock: HostClock,
    /// Its clock in every epoch so far.
    pub(super) timelines: BTreeMap<Epoch, HostClock>,
    pub(super) epoch: Epoch,
    /// When its clock last stepped.
    pub(super) stepped_at: Option<SimTime>,
    process: u64,
    /// Whether there is a process.
    pub(super) alive: bool,
    /// What is configured, by number: each gives every site other addresses.
    pub(super) generation: u8,
    pub(super) service: SharedService,
    pub(super) roster: Roster,
    pub(super) shards: Vec<ShardHost>,
    /// Which connection each agent of the roster has.
    pub(super) slots: BTreeMap<Slot, u64>,
    /// And which agent it is.
    pub(super) agent_of: BTreeMap<Slot, usize>,
}

/// What is a process's own, on a host that sees several.
pub(super) struct Life {
    pub(super) process: u64,
    pub(super) generation: u8,
    pub(super) seed: [u8; 32],
}

impl MasterHost {
    pub(super) fn start(
        options: &Options,
        master: usize,
        clock: HostClock,
        epoch: Epoch,
        now: SimTime,
        life: Life,
    ) -> Self {
        let Life { process, generation, seed } = life;
        let own = &options.masters[master];
        let shared = setup::service_config(options, master, generation);
        let shard = |shard| {
            let config = setup::shard_config(own, master, shard, epoch, &shared);
            let now = clock.read(now);
            let mut shard = Shard::new(config, now);
            if let Some(most) = own.tables {
                shard.shrink_tables(most);
            }
            if own.cookies {
                shard.handle_wall_clock(now, now.as_nanos() + setup::UNIX_AT_ZERO_NS);
            }
            ShardHost { shard, queue: VecDeque::new(), wake_at: None }
        };
        MasterHost {
            clock,
            timelines: BTreeMap::from([(epoch, clock)]),
            epoch,
            stepped_at: None,
            process,
            alive: true,
            generation,
            service: shared.clone(),
            roster: Roster::new(setup::roster_config(own, master, epoch, &shared), seed),
            shards: (0..own.shards).map(shard).collect(),
            slots: BTreeMap::new(),
            agent_of: BTreeMap::new(),
        }
    }
}

impl MasterHost {
    /// The process ends; what was scheduled for it is void.
    pub(super) fn end(&mut self) {
        self.process += 1;
        self.alive = false;
    }
}

impl World {
    /// Starts the timers of a master's new process.
    pub(super) fn after_start(&mut self, master: usize) {
        let process = self.masters[master].process;
        self.schedule(self.now, Event::WakeRoster { master, process });
        for shard in 0..self.masters[master].shards.len() {
            self.drain_shard(master, shard);
        }
    }

    /// Ends a master's process and starts another on the same running host: the epoch stays, everything else that it
    /// knew is gone, and its connections close.
    pub fn restart_master(&mut self, master: usize) {
        let host = &self.masters[master];
        self.replace_master(master, host.clock, host.epoch);
    }

    /// Boots a master's host: a new epoch begins, and its clock shows `offset` more than it would have.
    pub fn reboot_master(&mut self, master: usize, offset: Span) {
        let before = self.masters[master].clock;
        let clock = HostClock { offset: before.offset + offset, ..before };
        let epoch = Epoch(self.masters[master].epoch.0 + 1);
        self.replace_master(master, clock, epoch);
    }

    pub(super) fn replace_master(&mut self, master: usize, clock: HostClock, epoch: Epoch) {
        let process = self.masters[master].process + 1;
        self.note(format_args!("start master {master}, process {process}, epoch {}", epoch.0));
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.master == master)
            .map(|(number, _)| *number)
            .collect();
        open.into_iter().for_each(|number| self.hang_up(number));
        let seed = self.random.bytes();
        let generation = self.masters[master].generation;
        let mut started =
            MasterHost::start(&self.options, master, clock, epoch, self.now, Life { process, generation, seed });
        started.timelines.append(&mut self.masters[master].timelines);
        started.stepped_at = self.masters[master].stepped_at;
        self.masters[master] = started;
        self.fact(|| Observation::Started { host: Host::Master(master) });
        self.after_start(master);
    }

    fn note_answered(&mut self, master: usize, to: SocketAddr, session: SessionId, exchange: u32) {
        let Some(Host::Agent(agent)) = host_at(to) else { return };
        let links = self.agents[agent].links.iter_mut().filter(|link| link.master == master);
        links.for_each(|link| link.exchanges.note_answered(session, exchange));
    }

    /// Somebody fires a signal at a master: all its shards at once. How many races waited for it, and how many agents.
    pub fn fire_signal(&mut self, master: usize, name: &str) -> (usize, usize) {
        self.note(format_args!("signal {name} at master {master}"));
        let now = self.masters[master].clock.read(self.now);
        let (mut races, mut agents) = (0, BTreeSet::new());
        for shard in 0..self.masters[master].shards.len() {
            let signalled = self.masters[master].shards[shard].shard.handle_signal(now, name);
            races += signalled.races;
            agents.extend(signalled.agents);
            self.drain_shard(master, shard);
        }
        (races, agents.len())
    }

    /// The start spread of a master's races, as its shards know it from receipts; `None` before the first.
    pub fn start_spread(&self, master: usize) -> Option<Quantiles> {
        let mut spread = Histogram::default();
        for host in &self.masters[master].shards {
            host.shard.spreads().values().for_each(|histogram| spread.merge(histogram));
        }
        spread.quantiles()
    }

    pub(super) fn datagram_at_master(
        &mut self,
        master: usize,
        sender: Host,
        source: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) {
        if !self.masters[master].alive {
            return self.note(format_args!("lost at master {master}: nobody listens"));
        }
        let now = self.masters[master].clock.read(self.now);
        if to == service(master) {
            return self.query_at_master(master, sender, source, bytes);
        }
        match bytes.first() {
            Some(&CHALLENGE) => {
                self.masters[master].roster.handle_challenge(now, source, &bytes);
                self.drain_roster(master);
            }
            Some(&SEALED) => {
                let shard = header(&bytes).map_or(0, |(_, shard)| usize::from(shard));
                if shard < self.masters[master].shards.len() {
                    self.fast_at_shard(master, shard, source, bytes);
                }
            }
            _ => self.note(format_args!("scrap at master {master} from {source}")),
        }
    }

    fn fast_at_shard(&mut self, master: usize, shard: usize, source: SocketAddr, bytes: Vec<u8>) {
        let now = self.masters[master].clock.read(self.now);
        if self.watch.is_none() {
            self.masters[master].shards[shard].shard.handle_fast(now, now, source, &bytes);
            self.drain_shard(master, shard);
            return;
        }
        let host = Host::Master(master);
        let (digest, genuine) = self.genuine(host, &bytes);
        let worthless = genuine.is_none_or(|genuine| genuine.taken);
        let before = self.shard_before(master, shard, worthless);
        self.masters[master].shards[shard].shard.handle_fast(now, now, source, &bytes);
        let after = self.shard_before(master, shard, worthless);
        let taken = !before.has_refused(&after);
        let quiet = !worthless || before.is_same(&after);
        if taken {
            self.note_taken(digest);
        }
        let handled = Handled { host, digest, bytes, genuine, taken, quiet, received_at: now, now, followed: None };
        self.fact(|| Observation::Handled(handled));
        if self.drain_shard(master, shard) > 0 && worthless {
            self.fact(|| Observation::Moved { host });
        }
    }

    /// A query is stamped, queued, and taken after the dwell.
    fn query_at_master(&mut self, master: usize, sender: Host, source: SocketAddr, bytes: Vec<u8>) {
        let received_at = self.masters[master].clock.read(self.now);
        if let (Host::Client(client), Some(id)) = (sender, bytes.first_chunk::<2>()) {
            let key = (client, source.port(), u16::from_be_bytes(*id));
            let number = self.queries.get(&key).copied();
            if let Some(finish) = number.and_then(|number| self.finish_mut(number)) {
                finish.reached.get_or_insert(received_at);
            }
        }
        self.fact(|| Observation::Asked { master, source, at: received_at, bytes: bytes.clone() });
        // The same source always meets the same shard.
        let steer = match host_at(source) {
            Some(Host::Client(number)) => number,
            _ => 0,
        };
        let shard = steer % self.masters[master].shards.len();
        let queue = &mut self.masters[master].shards[shard].queue;
        if queue.len() >= self.options.masters[master].queue_capacity {
            self.fact(|| Observation::QueueFull { master });
            return self.note(format_args!("full queue at master {master}"));
        }
        queue.push_back(Waiting { source, received_at, bytes });
        let process = self.masters[master].process;
        let taken = self.now + self.options.masters[master].queue_dwell;
        self.schedule(taken, Event::TakeQuery { master, shard, process });
    }

    pub(super) fn take_query(&mut self, master: usize, shard: usize, process: u64) {
        if self.masters[master].process != process {
            return;
        }
        let now = self.masters[master].clock.read(self.now);
        let host = &mut self.masters[master].shards[shard];
        if let Some(Waiting { source, received_at, bytes }) = host.queue.pop_front() {
            host.shard.handle_arrival(now, Arrival { service: 0, source, received_at, bytes: &bytes });
        }
        self.drain_shard(master, shard);
    }

    pub(super) fn wake_shard(&mut self, master: usize, shard: usize) {
        if !self.masters[master].alive || self.masters[master].shards[shard].wake_at != Some(self.now) {
            return;
        }
        let now = self.masters[master].clock.read(self.now);
        self.masters[master].shards[shard].wake_at = None;
        self.masters[master].shards[shard].shard.handle_timeout(now);
        self.drain_shard(master, shard);
    }

    pub(super) fn wake_roster(&mut self, master: usize, process: u64) {
        if self.masters[master].process != process {
            return;
        }
        let now = self.masters[master].clock.read(self.now);
        self.masters[master].roster.handle_timeout(now);
        self.drain_roster(master);
        let next = self.masters[master].roster.poll_timeout(now);
        let at = self.masters[master].clock.when(next);
        self.schedule(at, Event::WakeRoster { master, process });
    }

    /// Does what a shard wants; how many things that were.
    pub(super) fn drain_shard(&mut self, master: usize, shard: usize) -> usize {
        let sender = Host::Master(master);
        let now = self.masters[master].clock.read(self.now);
        let mut outputs = 0;
        while let Some(output) = self.masters[master].shards[shard].shard.poll_output() {
            outputs += 1;
            match output {
                Output::Reply { to, bytes, .. } => self.transmit(sender, service(master), to, bytes),
                Output::Fast { to, bytes, exchange } => {
                    let number = exchange.map(|(_, exchange)| exchange);
                    self.transmit_exchange(sender, fast_path(sender), to, bytes, number);
                    if let Some((session, exchange)) = exchange {
                        self.note_answered(master, to, session, exchange);
                        self.masters[master].shards[shard].shard.handle_transmit_stamp(session, exchange, now);
                    }
                }
            }
        }
        self.watch_tables(sender, |world| world.masters[master].shards[shard].shard.occupancy());
        if let Some((next, _)) = self.masters[master].shards[shard].shard.poll_timeout() {
            let at = self.masters[master].clock.when(next).max(self.now);
            if self.masters[master].shards[shard].wake_at.is_none_or(|scheduled| at < scheduled) {
                self.masters[master].shards[shard].wake_at = Some(at);
                self.schedule(at, Event::WakeShard { master, shard });
            }
        }
        outputs
    }
}
