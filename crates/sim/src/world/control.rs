//! The control channel: a pipe between an agent and a master, without loss, in order, with the path's delay.

use startgun_core::agent::PeerKeys;
use startgun_core::control::{MeshSalt, ToAgent, ToMaster};
use startgun_core::master::{RosterOutput, Slot};
use startgun_core::time::Span;
use startgun_core::wire::session::SECRET_BYTES;
use startgun_core::wire::{Binding, SessionId};

use super::address::ip_of;
use super::{Event, Observation, World, address, setup};
use crate::clock::SimTime;
use crate::options::Host;
use crate::random::Random;
use crate::trace::{DIGEST_START, digest};

/// One connection, open at both ends as long as it is in the table.
pub(super) struct Connection {
    pub(super) agent: usize,
    pub(super) link: usize,
    pub(super) master: usize,
    /// The agent's place in the roster, once the master has heard of it.
    pub(super) slot: Option<Slot>,
    /// When the last document of each direction arrives: a later one may not overtake it.
    last_to_master: SimTime,
    last_to_agent: SimTime,
}

impl World {
    pub(super) fn dial(&mut self, agent: usize, link: usize) {
        if !self.agents[agent].alive || self.agents[agent].links[link].connection.is_some() {
            return;
        }
        let number = self.next_connection;
        self.next_connection += 1;
        let master = self.agents[agent].links[link].master;
        if !self.masters[master].alive {
            let again = self.now + self.options.agents[agent].redial_interval;
            return self.schedule(again, Event::Dial { agent, link });
        }
        let connection =
            Connection { agent, link, master, slot: None, last_to_master: self.now, last_to_agent: self.now };
        self.connections.insert(number, connection);
        self.agents[agent].links[link].connection = Some(number);
        self.note(format_args!("dial agent {agent} -> master {master}, connection {number}"));
        let hello = self.agents[agent].agent.hello(link, address::fast_path(Host::Agent(agent)));
        self.say_to_master(number, hello);
    }

    /// The control channel takes the path's fixed delay; TCP repairs the rest, which is not modelled.
    fn control_delay(&self, from: Host, to: Host) -> Span {
        self.options.path(from, to).delay
    }

    pub(super) fn say_to_master(&mut self, number: u64, message: ToMaster) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let (agent, master) = (Host::Agent(connection.agent), Host::Master(connection.master));
        let at = (self.blocked_until(agent, master) + self.control_delay(agent, master)).max(connection.last_to_master);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.last_to_master = at;
        }
        self.schedule(at, Event::ToMaster { connection: number, message: Box::new(message) });
    }

    fn say_to_agent(&mut self, number: u64, message: ToAgent) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let (agent, master) = (Host::Agent(connection.agent), Host::Master(connection.master));
        let mut at =
            (self.blocked_until(master, agent) + self.control_delay(master, agent)).max(connection.last_to_agent);
        if matches!(message, ToAgent::Playbook(_)) {
            // Nothing is read from the connection until it is on disk.
            at = at + self.agents[connection.agent].disk_delay;
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.last_to_agent = at;
        }
        self.schedule(at, Event::ToAgent { connection: number, message: Box::new(message) });
    }

    /// What both ends of a connection derive for a session, in place of the TLS exporter.
    fn secret(&self, connection: u64, session: SessionId) -> [u8; SECRET_BYTES] {
        Random::named(self.seed, [u64::from_be_bytes(*b"exporter"), connection, session]).bytes()
    }

    /// What two agents derive from each other's enrolled keys and their processes' salts.
    fn pair_secret(&self, one: (&str, MeshSalt), other: (&str, MeshSalt)) -> [u8; SECRET_BYTES] {
        let (lower, higher) = if one < other { (one, other) } else { (other, one) };
        let pair = format!("{} {} {:?} {:?}", lower.0, higher.0, lower.1, higher.1);
        Random::named(self.seed, [u64::from_be_bytes(*b"meshkeys"), digest(DIGEST_START, pair.as_bytes()), 0]).bytes()
    }

    pub(super) fn hear_at_master(&mut self, number: u64, message: ToMaster) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let (agent, master, known) = (connection.agent, connection.master, connection.slot);
        if !self.masters[master].alive {
            return;
        }
        self.note(format_args!("control agent {agent} -> master {master}: {message:?}"));
        let now = self.masters[master].clock.read(self.now);
        let slot = known.or_else(|| {
            let roster = &mut self.masters[master].roster;
            // In place of a certificate: the simulator's agents believe what their master hands out.
            let certificate = Vec::new();
            roster.handle_connected(now, &setup::site_name(agent), ip_of(Host::Agent(agent)).into(), certificate)
        });
        let Some(slot) = slot else {
            return self.hang_up(number);
        };
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.slot = Some(slot);
        }
        self.masters[master].slots.insert(slot, number);
        self.masters[master].agent_of.insert(slot, agent);
        self.watch_acknowledged(master, agent, &message);
        self.masters[master].roster.handle_message(now, slot, message);
        self.drain_roster(master);
    }

    pub(super) fn hear_at_agent(&mut self, number: u64, message: ToAgent) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let (agent, link, master) = (connection.agent, connection.link, connection.master);
        if !self.agents[agent].alive {
            return;
        }
        self.note(format_args!("control master {master} -> agent {agent}: {message:?}"));
        let now = self.agents[agent].clock.read(self.now);
        match message {
            ToAgent::Session { id } => {
                let secret = self.secret(number, id);
                self.fact(|| Observation::SessionKept { agent, link, id });
                self.agents[agent].agent.handle_session(now, link, id, secret);
            }
            ToAgent::Peers { peers } => {
                let own = setup::site_name(agent);
                let salt = setup::mesh_salt(agent, self.agents[agent].process);
                let keys = peers.into_iter().map(|peer| PeerKeys {
                    secret: self.pair_secret((&own, salt), (&peer.name, peer.salt)),
                    name: peer.name,
                    fast_path: peer.fast_path,
                });
                let keys = keys.collect();
                self.agents[agent].agent.handle_peers(now, link, keys);
            }
            message => {
                if let ToAgent::Welcome { epoch, .. } = &message {
                    let epoch = *epoch;
                    self.agents[agent].links[link].epoch = Some(epoch);
                    self.fact(|| Observation::Welcomed { agent, link, epoch });
                }
                if let ToAgent::Playbook(playbook) = &message {
                    let version = playbook.version();
                    self.agents[agent].disk.insert(link, playbook.clone());
                    self.fact(|| Observation::Playbook { agent, link, version });
                }
                self.agents[agent].agent.handle_control(now, link, message);
            }
        }
        self.drain_agent(agent);
    }

    pub(super) fn drain_roster(&mut self, master: usize) {
        while let Some(output) = self.masters[master].roster.poll_output() {
            match output {
                RosterOutput::Say(slot, message) => {
                    if let Some(&connection) = self.masters[master].slots.get(&slot) {
                        self.say_to_agent(connection, message);
                    }
                }
                RosterOutput::OpenSession(slot, id) => {
                    if let Some(&connection) = self.masters[master].slots.get(&slot) {
                        let secret = self.secret(connection, id);
                        let now = self.masters[master].clock.read(self.now);
                        if let Some(agent) = self.connections.get(&connection).map(|connection| connection.agent) {
                            let (name, epoch) = (setup::master_name(master), self.masters[master].epoch);
                            let binding = Binding { id, secret, master: name, epoch };
                            self.fact(|| Observation::Session { master, agent, binding });
                        }
                        self.masters[master].roster.handle_session(now, slot, id, secret);
                    }
                }
                RosterOutput::Publish(view) => {
                    for host in &mut self.masters[master].shards {
                        host.shard.handle_agent(view.clone());
                    }
                }
                RosterOutput::Retire(slot) => {
                    if let Some(agent) = self.masters[master].agent_of.remove(&slot) {
                        self.fact(|| Observation::Retired { master, agent });
                    }
                    for host in &mut self.masters[master].shards {
                        host.shard.handle_agent_gone(slot);
                    }
                }
                RosterOutput::Close(slot) => {
                    if let Some(connection) = self.masters[master].slots.remove(&slot) {
                        self.hang_up(connection);
                    }
                }
            }
        }
        self.watch_tables(Host::Master(master), |world| world.masters[master].roster.occupancy());
    }

    /// The master's end of a connection closes; the agent hears of it one delay later.
    pub(super) fn hang_up(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else {
            return;
        };
        let delay = self.control_delay(Host::Master(connection.master), Host::Agent(connection.agent));
        let at = (self.now + delay).max(connection.last_to_agent);
        let hangup = Event::Hangup { connection: number, agent: connection.agent, link: connection.link };
        self.schedule(at, hangup);
    }

    pub(super) fn hang_up_at_agent(&mut self, number: u64, agent: usize, link: usize) {
        let host = &mut self.agents[agent];
        if !host.alive || host.links[link].connection != Some(number) {
            return;
        }
        host.links[link].connection = None;
        let now = host.clock.read(self.now);
        host.agent.handle_disconnected(now, link);
        self.fact(|| Observation::Disconnected { agent, link });
        self.note(format_args!("hangup at agent {agent}, connection {number}"));
        let again = self.now + self.options.agents[agent].redial_interval;
        self.schedule(again, Event::Dial { agent, link });
        self.drain_agent(agent);
    }
}
