//! Driving the masters: rosters and shards.

use startgun_core::histogram::{Histogram, Quantiles};
use startgun_core::master::{Arrival, Output, Roster, Shard, Slot};
use startgun_core::time::{Epoch, LocalTime, Span};
use startgun_core::wire::session::{CHALLENGE, SEALED, header};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use super::address::{fast_path, host_at, service};
use super::{Event, World, setup};
use crate::clock::{HostClock, SimTime};
use crate::options::{Host, Options};

/// Queries that may wait in a socket; more are dropped, as by a kernel.
const QUEUE_CAPACITY: usize = 1_024;

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
    process: u64,
    pub(super) roster: Roster,
    pub(super) shards: Vec<ShardHost>,
    /// Which connection each agent of the roster has.
    pub(super) slots: BTreeMap<Slot, u64>,
}

impl MasterHost {
    pub(super) fn start(
        options: &Options,
        master: usize,
        clock: HostClock,
        epoch: Epoch,
        now: SimTime,
        process: u64,
        seed: [u8; 32],
    ) -> Self {
        let own = &options.masters[master];
        let shared = setup::service_config(options, master);
        let shard = |shard| {
            let config = setup::shard_config(own, master, shard, epoch, &shared);
            ShardHost { shard: Shard::new(config, clock.read(now)), queue: VecDeque::new(), wake_at: None }
        };
        MasterHost {
            clock,
            timelines: BTreeMap::from([(epoch, clock)]),
            epoch,
            process,
            roster: Roster::new(setup::roster_config(own, master, epoch, &shared), seed),
            shards: (0..own.shards).map(shard).collect(),
            slots: BTreeMap::new(),
        }
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

    fn replace_master(&mut self, master: usize, clock: HostClock, epoch: Epoch) {
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
        let mut started = MasterHost::start(&self.options, master, clock, epoch, self.now, process, seed);
        started.timelines.append(&mut self.masters[master].timelines);
        self.masters[master] = started;
        self.after_start(master);
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
                if let Some(host) = self.masters[master].shards.get_mut(shard) {
                    host.shard.handle_fast(now, now, source, &bytes);
                    self.drain_shard(master, shard);
                }
            }
            _ => self.note(format_args!("scrap at master {master} from {source}")),
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
        // The same source always meets the same shard.
        let steer = match host_at(source) {
            Some(Host::Client(number)) => number,
            _ => 0,
        };
        let shard = steer % self.masters[master].shards.len();
        let queue = &mut self.masters[master].shards[shard].queue;
        if queue.len() >= QUEUE_CAPACITY {
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
        if self.masters[master].shards[shard].wake_at != Some(self.now) {
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

    pub(super) fn drain_shard(&mut self, master: usize, shard: usize) {
        let sender = Host::Master(master);
        let now = self.masters[master].clock.read(self.now);
        while let Some(output) = self.masters[master].shards[shard].shard.poll_output() {
            match output {
                Output::Reply { to, bytes, .. } => self.transmit(sender, service(master), to, bytes),
                Output::Fast { to, bytes, exchange } => {
                    let number = exchange.map(|(_, exchange)| exchange);
                    self.transmit_exchange(sender, fast_path(sender), to, bytes, number);
                    if let Some((session, exchange)) = exchange {
                        self.masters[master].shards[shard].shard.handle_transmit_stamp(session, exchange, now);
                    }
                }
            }
        }
        let Some((next, _)) = self.masters[master].shards[shard].shard.poll_timeout() else {
            return;
        };
        let at = self.masters[master].clock.when(next).max(self.now);
        if self.masters[master].shards[shard].wake_at.is_none_or(|scheduled| at < scheduled) {
            self.masters[master].shards[shard].wake_at = Some(at);
            self.schedule(at, Event::WakeShard { master, shard });
        }
    }
}
