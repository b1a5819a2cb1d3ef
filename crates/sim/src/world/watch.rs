//! What a watched world tells: every fact that a judge of its machines needs, in the order in which it happened.
//!
//! A world that is not watched keeps none of this. Nothing that happens depends on whether it is.

use startgun_core::agent::Departure;
use startgun_core::clock::Reading;
use startgun_core::control::ToMaster;
use startgun_core::occupancy::Occupancy;
use startgun_core::time::{Epoch, LocalTime};
use startgun_core::wire::Binding;
use startgun_core::wire::session::SEALED;
use std::collections::HashMap;
use std::net::SocketAddr;

use super::World;
use super::address::{fast_path, host_at};
use crate::clock::{HostClock, SimTime};
use crate::options::Host;
use crate::records::MAX_RECORDS;
use crate::trace::{DIGEST_START, digest};

/// Counters of datagrams that were not opened, of agents and shards alike.
const REFUSALS: [&str; 4] = ["datagram_forged", "datagram_malformed", "datagram_replayed", "datagram_unknown_session"];

/// A sealed datagram as its machine sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Genuine {
    pub(crate) by: Host,
    pub(crate) to: Host,
    /// Of a master's timeline.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) sent: SimTime,
    pub(crate) taken: bool,
}

/// What became of a sealed datagram at a machine.
#[derive(Clone, Debug)]
pub(crate) struct Handled {
    pub(crate) host: Host,
    pub(crate) digest: u64,
    pub(crate) bytes: Vec<u8>,
    /// Who sealed it for this host, if anybody did.
    pub(crate) genuine: Option<Genuine>,
    /// By the machine's counters it was opened.
    pub(crate) taken: bool,
    /// Whether it left the machine as it was, but for one counter. Looked at only where the datagram is worthless: not
    /// genuine, or taken before.
    pub(crate) quiet: bool,
    /// When it was received, and when the process took it, by the host's own clock.
    pub(crate) received_at: LocalTime,
    pub(crate) now: LocalTime,
    /// The epoch that the agent follows for the master that sealed it.
    pub(crate) followed: Option<Epoch>,
}

/// A fact.
#[derive(Clone, Debug)]
pub(crate) enum Observation {
    /// A machine sealed a datagram.
    Sealed { by: Host, to: Host, digest: u64, bytes: Vec<u8> },
    /// A machine was handed one.
    Handled(Handled),
    /// A worthless datagram had outputs.
    Moved { host: Host },
    /// A query reached a service address, at this time of the master's clock.
    Asked { master: usize, source: SocketAddr, at: LocalTime, bytes: Vec<u8> },
    /// A query was lost in a full queue.
    QueueFull { master: usize },
    /// A master answered a resolver.
    Replied { master: usize, to: SocketAddr, at: LocalTime, bytes: Vec<u8> },
    /// An answer reached a client, whole.
    Heard { client: usize, by: Host, bytes: Vec<u8> },
    /// An agent handed out a departure; its readings by link.
    Timed { agent: usize, departure: Departure, now: LocalTime, readings: Vec<Option<Reading>> },
    /// A departure was due: it left or was late. The next departure record is its audit, if there is one.
    Left { departed: bool },
    /// An agent judged its clock of a master.
    Settled { agent: usize, link: usize, now: LocalTime, reading: Option<Reading> },
    /// A process began.
    Started { host: Host },
    /// A master opened a session with an agent.
    Session { master: usize, agent: usize, binding: Binding },
    /// An agent was told its secret.
    SessionKept { agent: usize, link: usize, id: u64 },
    /// An agent was told of an epoch.
    Welcomed { agent: usize, link: usize, epoch: Epoch },
    /// A master's shards no longer know an agent's sessions.
    Retired { master: usize, agent: usize },
    /// An agent's connection to a master is gone.
    Disconnected { agent: usize, link: usize },
    /// An agent took a playbook.
    Playbook { agent: usize, link: usize, version: u64 },
    /// A master heard from an agent which playbook it has.
    Acknowledged { master: usize, agent: usize, version: u64 },
    /// A master's configuration is another.
    Configured { master: usize, generation: u8 },
    /// A table is over its limit.
    Overfull { host: Host, occupancy: Occupancy },
}

/// The facts so far, and which datagrams are genuine.
#[derive(Default)]
pub(crate) struct Watch {
    facts: Vec<Observation>,
    genuine: HashMap<u64, Genuine>,
}

/// What a machine was like before it was handed a worthless datagram.
#[derive(PartialEq)]
pub(super) struct Before {
    refused: u64,
    steps: u64,
    counted: u64,
    readings: Vec<Option<Reading>>,
    occupancy: Vec<Occupancy>,
}

impl World {
    /// What a host's clock shows now.
    pub(crate) fn local_time(&self, host: Host) -> LocalTime {
        match host {
            Host::Master(master) => self.masters[master].clock.read(self.now),
            Host::Agent(agent) => self.agents[agent].clock.read(self.now),
            Host::Client(_) => LocalTime::from_nanos(self.now.as_nanos()),
        }
    }

    /// A master's timeline in an epoch of it.
    pub(crate) fn timeline(&self, master: usize, epoch: Epoch) -> Option<&HostClock> {
        self.masters[master].timelines.get(&epoch)
    }

    /// From now on facts are kept for [`World::take_facts`].
    pub(crate) fn watch(&mut self) {
        self.watch = Some(Watch::default());
    }

    /// Takes the facts so far away.
    pub(crate) fn take_facts(&mut self) -> Vec<Observation> {
        self.watch.as_mut().map(|watch| core::mem::take(&mut watch.facts)).unwrap_or_default()
    }

    pub(super) fn fact(&mut self, fact: impl FnOnce() -> Observation) {
        if let Some(watch) = &mut self.watch {
            assert!(watch.facts.len() < MAX_RECORDS, "at most {MAX_RECORDS} facts");
            watch.facts.push(fact());
        }
    }

    /// Notes what a host sends.
    pub(super) fn watch_sent(&mut self, by: Host, source: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.watch.is_none() {
            return;
        }
        if let Host::Master(master) = by
            && source == super::address::service(master)
        {
            let at = self.masters[master].clock.read(self.now);
            return self.fact(|| Observation::Replied { master, to, at, bytes: bytes.to_vec() });
        }
        let Some(target) = host_at(to).filter(|_| bytes.first() == Some(&SEALED) && source == fast_path(by)) else {
            return;
        };
        let epoch = match by {
            Host::Master(master) => Some(self.masters[master].epoch),
            Host::Agent(_) | Host::Client(_) => None,
        };
        let genuine = Genuine { by, to: target, epoch, sent: self.now, taken: false };
        let content = digest(DIGEST_START, bytes);
        if let Some(watch) = &mut self.watch {
            watch.genuine.insert(content, genuine);
        }
        self.fact(|| Observation::Sealed { by, to: target, digest: content, bytes: bytes.to_vec() });
    }

    /// Who sealed a datagram for a host, if anybody did, and its digest.
    pub(super) fn genuine(&self, host: Host, bytes: &[u8]) -> (u64, Option<Genuine>) {
        let content = digest(DIGEST_START, bytes);
        let genuine = self.watch.as_ref().and_then(|watch| watch.genuine.get(&content).copied());
        (content, genuine.filter(|genuine| genuine.to == host))
    }

    pub(super) fn note_taken(&mut self, content: u64) {
        if let Some(genuine) = self.watch.as_mut().and_then(|watch| watch.genuine.get_mut(&content)) {
            genuine.taken = true;
        }
    }

    /// What an agent is like, all of it only where that is asked for.
    pub(super) fn agent_before(&self, agent: usize, all: bool) -> Before {
        let host = &self.agents[agent];
        let counters = host.agent.counters();
        let now = host.clock.read(self.now);
        let refused = REFUSALS.iter().filter_map(|name| counters.get(name)).sum();
        let links = if all { host.links.len() } else { 0 };
        Before {
            refused,
            steps: counters.get("clock_steps").copied().unwrap_or(0),
            counted: if all { counters.values().sum() } else { 0 },
            readings: (0..links).map(|link| host.agent.reading(now, link)).collect(),
            occupancy: if all { host.agent.occupancy() } else { Vec::new() },
        }
    }

    /// The same of a shard.
    pub(super) fn shard_before(&self, master: usize, shard: usize, all: bool) -> Before {
        let shard = &self.masters[master].shards[shard].shard;
        let counters = shard.counters();
        Before {
            refused: REFUSALS.iter().filter_map(|name| counters.get(name)).sum(),
            steps: 0,
            counted: if all { counters.values().sum() } else { 0 },
            readings: Vec::new(),
            occupancy: if all { shard.occupancy() } else { Vec::new() },
        }
    }

    pub(super) fn watch_tables(&mut self, host: Host, tables: impl FnOnce(&World) -> Vec<Occupancy>) {
        if self.watch.is_none() {
            return;
        }
        for occupancy in tables(self).into_iter().filter(Occupancy::is_over) {
            self.fact(|| Observation::Overfull { host, occupancy });
        }
    }

    /// An agent has judged its clocks anew: all of them, or that of one master. What another shows at this moment, it has
    /// not looked at.
    pub(super) fn watch_settled(&mut self, agent: usize, of: Option<usize>) {
        if self.watch.is_none() {
            return;
        }
        let now = self.agents[agent].clock.read(self.now);
        let all = self.agents[agent].links.iter().enumerate();
        let settled = all.filter(|(_, link)| of.is_none_or(|master| link.master == master)).map(|(link, _)| link);
        for link in settled.collect::<Vec<_>>() {
            let reading = self.agents[agent].agent.reading(now, link);
            self.fact(|| Observation::Settled { agent, link, now, reading });
        }
    }

    /// What a master hears of an agent's playbook.
    pub(super) fn watch_acknowledged(&mut self, master: usize, agent: usize, message: &ToMaster) {
        let version = match message {
            ToMaster::Hello { playbook, .. } => playbook.unwrap_or(0),
            ToMaster::PlaybookKept { version } => *version,
            _ => return,
        };
        self.fact(|| Observation::Acknowledged { master, agent, version });
    }
}

impl Before {
    /// Whether a datagram was refused since.
    pub(super) fn has_refused(&self, after: &Before) -> bool {
        after.refused > self.refused
    }

    /// Whether a clock was reset since.
    pub(super) fn has_stepped(&self, before: &Before) -> bool {
        self.steps > before.steps
    }

    /// Whether a machine is as it was, but for one datagram that it refused.
    pub(super) fn is_same(&self, after: &Before) -> bool {
        self.refused + 1 == after.refused
            && self.counted + 1 == after.counted
            && self.readings == after.readings
            && self.occupancy == after.occupancy
    }
}
