//! Host clocks that are disciplined: what their keepers say of UTC, once a second. True time is UTC.

use startgun_core::clock::host::{HostTime, UtcOnRace};
use startgun_core::time::{RaceTime, Span};

use super::{Event, World};
use crate::options::{Host, HostTimeOptions};

/// How often a host's clock is asked, as by the servers.
const INTERVAL: Span = Span::from_secs(1);

impl World {
    /// Every host whose clock has a keeper begins to say so.
    pub(super) fn begin_host_times(&mut self) {
        let masters = (0..self.masters.len()).map(Host::Master);
        let agents = (0..self.agents.len()).map(Host::Agent);
        for host in masters.chain(agents).collect::<Vec<_>>() {
            self.tell_host_time(host);
        }
    }

    /// A host's program hears of its clock, and will again.
    pub(super) fn tell_host_time(&mut self, host: Host) {
        let (keeper, clock, number) = match host {
            Host::Master(master) => (self.options.masters[master].host_time, self.masters[master].clock, master),
            Host::Agent(agent) => (self.options.agents[agent].host_time, self.agents[agent].clock, agent),
            Host::Client(_) => return,
        };
        let Some(HostTimeOptions { error, bound }) = keeper else { return };
        let at = clock.read(self.now);
        let utc_minus_local = Span::from_nanos(self.now.as_nanos() - at.as_nanos()) + error;
        if let Host::Master(_) = host {
            let utc = UtcOnRace { at: RaceTime::of_master(at), utc_minus_race: utc_minus_local, bound, stated: false };
            self.masters[number].shards.iter_mut().for_each(|shard| shard.shard.handle_utc(Some(utc)));
        } else if self.agents[number].alive && self.agents[number].halted.is_none() {
            self.agents[number].agent.handle_host_time(Some(HostTime { at, utc_minus_local, bound, stated: false }));
        }
        self.schedule(self.now + INTERVAL, Event::TellHostTime { host });
    }
}
