//! Documents of the control channel, and the machines that take them.

use super::datagrams::Site;
use super::service::service;
use serde::Serialize;
use serde::de::DeserializeOwned;
use startgun_core::control::{MAX_MESSAGE, ToAgent, ToMaster};
use startgun_core::master::{Roster, RosterConfig, RosterOutput};
use startgun_core::playbook::{Playbook, PreparedPlaybook};
use startgun_core::time::{Epoch, LocalTime, Span};
use startgun_core::wire::session::SECRET_BYTES;
use std::fmt::Debug;
use std::net::SocketAddr;

/// Most documents of one input.
const DOCUMENTS: usize = 32;
/// Most outputs after one document: a session, a playbook, a set of the mesh, and one self-test for each of 64 addresses.
const OUTPUTS: usize = 256;

/// Documents, one a line, each of which a master and an agent hear: the roster one that said hello before, the agent one
/// that races already.
///
/// # Panics
/// Where a document that was understood is another one after writing, or a machine does not come to rest.
pub fn control(bytes: &[u8]) {
    if bytes.len() > MAX_MESSAGE {
        return;
    }
    let mut site = None;
    let mut master = None;
    for line in bytes.split(|byte| *byte == b'\n').take(DOCUMENTS) {
        if let Some(document) = read::<ToAgent>(line) {
            if let ToAgent::Playbook(playbook) = &document {
                check_playbook(playbook);
            }
            let site = site.get_or_insert_with(Site::new);
            site.now = site.now + Span::from_secs(1);
            site.agent.handle_control(site.now, 0, document);
            site.agent.handle_timeout(site.now);
            site.drain();
        }
        if let Some(document) = read::<ToMaster>(line) {
            master.get_or_insert_with(Master::new).hear(document);
        }
    }
}

/// Reads a document as the channel does; one that is understood survives writing.
fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &[u8]) -> Option<T> {
    let document = serde_json::from_slice::<T>(line).ok()?;
    let written = serde_json::to_vec(&document).expect("a document can be written");
    let again = serde_json::from_slice::<T>(&written).expect("what was written");
    assert_eq!(document, again);
    Some(document)
}

/// A playbook that is taken serves what it says, under the version that it has.
fn check_playbook(playbook: &Playbook) {
    if let Ok(prepared) = PreparedPlaybook::new(playbook) {
        assert_eq!(prepared.version, playbook.version());
        let last = playbook.races.len() as u16;
        assert!((0..last).all(|index| prepared.race(index).is_some()) && prepared.race(last).is_none());
    }
}

/// A roster, one agent of which is connected and has not said anything yet.
struct Master {
    roster: Roster,
    slot: u32,
    now: LocalTime,
}

impl Master {
    fn new() -> Master {
        let config = RosterConfig {
            service: service(),
            epoch: Epoch(7),
            service_addresses: vec![SocketAddr::from(([203, 0, 113, 53], 53))],
            shards: 2,
            fast_path: SocketAddr::from(([0, 0, 0, 0], 8_531)),
            self_test: None,
            rekey_interval: Span::from_secs(100),
        };
        let now = LocalTime::from_nanos(50_000_000_000);
        let mut roster = Roster::new(config, [5; 32]);
        let slot = roster.handle_connected(now, "tokyo", [203, 0, 113, 7].into(), Vec::new()).expect("room");
        Master { roster, slot, now }
    }

    fn hear(&mut self, document: ToMaster) {
        self.now = self.now + Span::from_secs(1);
        self.roster.handle_message(self.now, self.slot, document);
        self.roster.handle_timeout(self.now);
        for _ in 0..OUTPUTS {
            match self.roster.poll_output() {
                None => {
                    assert!(self.roster.status(self.now).len() <= 1);
                    return;
                }
                Some(RosterOutput::OpenSession(slot, id)) => {
                    self.roster.handle_session(self.now, slot, id, [9; SECRET_BYTES]);
                }
                Some(RosterOutput::Say(_, document)) => {
                    let written = serde_json::to_vec(&document).expect("a document can be written");
                    assert!(written.len() <= MAX_MESSAGE, "{} bytes", written.len());
                }
                Some(RosterOutput::Close(slot)) => self.roster.handle_disconnected(slot),
                Some(RosterOutput::Publish(_) | RosterOutput::Retire(_)) => {}
            }
        }
        panic!("more than {OUTPUTS} outputs of a roster at once");
    }
}
