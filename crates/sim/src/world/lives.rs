//! Hosts and processes that end and begin, connections that break, configurations that change.

use startgun_core::master::Service;
use startgun_core::playbook::PreparedPlaybook;
use startgun_core::time::Span;
use std::sync::Arc;

use super::agents::AgentHost;
use super::{Event, Observation, World, setup};
use crate::options::Host;

impl World {
    /// A master's process ends, on a host that goes on running: its kernel closes the connections.
    pub fn kill_master(&mut self, master: usize) {
        if !self.masters[master].alive {
            return;
        }
        self.note(format_args!("kill master {master}"));
        self.close_connections(|connection| connection.1 == master);
        self.masters[master].end();
    }

    /// A master's process begins, if there is none: on the same running host, or after a boot by which its clock shows
    /// `booted` more than it would have.
    pub fn start_master(&mut self, master: usize, booted: Option<Span>) {
        if self.masters[master].alive {
            return;
        }
        match booted {
            Some(offset) => self.reboot_master(master, offset),
            None => self.restart_master(master),
        }
    }

    /// Whether a master's process lives.
    pub fn is_master_alive(&self, master: usize) -> bool {
        self.masters[master].alive
    }

    /// Whether an agent's process lives.
    pub fn is_agent_alive(&self, agent: usize) -> bool {
        self.agents[agent].alive
    }

    /// An agent's process begins, if there is none: it has what is on its disk, and nothing else of what was known. After
    /// a boot of its host the clock shows `booted` more than it would have.
    pub fn start_agent(&mut self, agent: usize, booted: Option<Span>) {
        if self.agents[agent].alive {
            return;
        }
        self.note(format_args!("start agent {agent}, booted: {booted:?}"));
        // Its kernel, or the new process's first connection, tells the masters of the old ones.
        self.close_connections(|connection| connection.0 == agent);
        let before = &mut self.agents[agent];
        let (generation, process, disk_delay) = (before.generation, before.process + 1, before.disk_delay);
        let disk = core::mem::take(&mut before.disk);
        let mut clock = before.clock;
        clock.offset += booted.unwrap_or(Span::ZERO);
        let mut started = AgentHost::start(&self.options, agent, process, clock, self.now);
        (started.generation, started.disk_delay) = (generation, disk_delay);
        for (link, playbook) in &disk {
            if let Ok(prepared) = PreparedPlaybook::new(playbook) {
                started.agent.restore_playbook(*link, prepared);
            }
        }
        let restored: Vec<(usize, u64)> = disk.iter().map(|(link, playbook)| (*link, playbook.version())).collect();
        started.disk = disk;
        self.agents[agent] = started;
        self.fact(|| Observation::Started { host: Host::Agent(agent) });
        for (link, version) in restored {
            self.fact(|| Observation::Playbook { agent, link, version });
        }
        for link in 0..self.agents[agent].links.len() {
            self.schedule(self.now, Event::Dial { agent, link });
        }
        self.drain_agent(agent);
    }

    /// The connections between an agent and a master break, and both ends learn of it.
    pub fn cut_control(&mut self, agent: usize, master: usize) {
        self.note(format_args!("control of agent {agent} and master {master} breaks"));
        self.close_connections(|connection| connection == (agent, master));
    }

    /// Closes connections by agent and master at both ends: the master's roster at once, the agent one delay later.
    fn close_connections(&mut self, which: impl Fn((usize, usize)) -> bool) {
        let concerned = |(number, connection): (&u64, &super::control::Connection)| {
            which((connection.agent, connection.master)).then_some((*number, connection.master, connection.slot))
        };
        let open: Vec<_> = self.connections.iter().filter_map(concerned).collect();
        for (number, master, slot) in open {
            self.hang_up(number);
            let host = &mut self.masters[master];
            if let Some(slot) = slot.filter(|_| host.alive) {
                host.slots.remove(&slot);
                host.roster.handle_disconnected(slot);
                self.drain_roster(master);
            }
        }
    }

    /// From now on an agent needs so long to put a playbook on its disk.
    pub fn slow_disk(&mut self, agent: usize, delay: Span) {
        self.note(format_args!("disk of agent {agent} takes {delay}"));
        self.agents[agent].disk_delay = delay;
    }

    /// A host's clock runs at another rate from now on, without a step.
    pub fn change_drift(&mut self, host: Host, drift_ppb: i64) {
        self.note(format_args!("clock of {host:?} drifts by {drift_ppb} ppb"));
        let now = self.now;
        let change = |clock: &mut crate::HostClock| {
            let before = clock.read(now);
            clock.drift_ppb = drift_ppb;
            clock.offset += before - clock.read(now);
        };
        match host {
            Host::Agent(agent) => {
                change(&mut self.agents[agent].clock);
                self.retime_agent_within(agent);
            }
            Host::Master(master) => {
                let host = &mut self.masters[master];
                change(&mut host.clock);
                host.timelines.insert(host.epoch, host.clock);
                for shard in 0..self.masters[master].shards.len() {
                    self.masters[master].shards[shard].wake_at = None;
                    self.drain_shard(master, shard);
                }
            }
            Host::Client(_) => {}
        }
    }

    /// A master is configured anew while it runs: every site and the fallback answer with other addresses. The next
    /// process has this configuration, too.
    pub fn reconfigure(&mut self, master: usize, generation: u8) {
        self.note(format_args!("master {master} is configured anew, generation {generation}"));
        self.masters[master].generation = generation;
        self.fact(|| Observation::Configured { master, generation });
        if !self.masters[master].alive {
            return;
        }
        let fresh = setup::service_config(&self.options, master, generation);
        let service = Service::clone(&fresh).succeed(&self.masters[master].service);
        let shared = Arc::new(service.unwrap_or_else(|needed| unreachable!("{needed} places for one race")));
        let host = &mut self.masters[master];
        let now = host.clock.read(self.now);
        host.service = shared.clone();
        for (number, shard) in host.shards.iter_mut().enumerate() {
            let own = &self.options.masters[master];
            shard.shard.handle_config(setup::shard_config(own, master, number as u8, host.epoch, &shared));
        }
        host.roster.handle_service(now, shared);
        self.drain_roster(master);
        for shard in 0..self.masters[master].shards.len() {
            self.drain_shard(master, shard);
        }
    }

    /// The playbook of a site in a generation of a master's configuration.
    pub(crate) fn playbook_version(&self, master: usize, agent: usize, generation: u8) -> u64 {
        setup::service_config(&self.options, master, generation).playbook(&setup::site_name(agent)).version()
    }
}
