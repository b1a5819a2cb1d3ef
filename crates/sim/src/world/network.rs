//! Packets: sent, and then lost, delayed, doubled or overtaken as their path has it.

use std::net::SocketAddr;

use super::address::host_at;
use super::{Event, World};
use crate::options::Host;
use crate::records::{Arrival, MAX_RECORDS, read_answer};
use crate::trace::{DIGEST_START, digest};

impl World {
    /// A host sends a datagram. Chance is drawn in the same order whatever happens to the packet before.
    pub(super) fn transmit(&mut self, sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some(target) = host_at(to) else {
            return self.note(format_args!("lost {sender:?} -> {to}: nobody is there"));
        };
        let path = self.options.path(sender, target);
        let content = digest(DIGEST_START, &bytes);
        let length = bytes.len();
        let copies = 1 + usize::from(self.random.chance(path.duplication_ppm));
        for copy in 0..copies {
            let delay = path.delay + self.random.exponential(path.jitter_mean);
            if self.random.chance(path.loss_ppm) {
                self.note(format_args!("lost {sender:?} -> {target:?} {length} {content:016x} copy {copy}"));
                continue;
            }
            self.note(format_args!("sent {sender:?} -> {target:?} {length} {content:016x} copy {copy} takes {delay}"));
            let arrive = Event::Arrive { sender, source, to, bytes: bytes.clone() };
            self.schedule(self.now + delay, arrive);
        }
    }

    /// A datagram reaches the host that has its destination.
    pub(super) fn arrive(&mut self, sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some(target) = host_at(to) else { return };
        match target {
            Host::Master(master) if master < self.masters.len() => {
                self.datagram_at_master(master, sender, source, to, bytes);
            }
            Host::Agent(agent) if agent < self.agents.len() => self.datagram_at_agent(agent, &bytes),
            Host::Client(client) if client < self.options.clients => self.answer_at(client, sender, to.port(), &bytes),
            _ => self.note(format_args!("lost at {target:?}: nobody is there")),
        }
    }

    /// Anybody sends anything to anybody: for forgers. The answer to a forged source reaches its true owner.
    pub fn inject(&mut self, sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.transmit(sender, source, to, bytes);
    }

    fn answer_at(&mut self, client: usize, by: Host, port: u16, bytes: &[u8]) {
        let answer = read_answer(bytes);
        let finish = answer.as_ref().and_then(|(id, ..)| self.queries.get(&(client, port, *id)).copied());
        self.note(format_args!(
            "answer at client {client} port {port} by {by:?}, {} bytes, query {finish:?}",
            bytes.len()
        ));
        let (Some((_, truncated, addresses)), Some(finish)) = (answer, finish) else {
            return;
        };
        let arrivals = &mut self.finishes[finish].arrivals;
        assert!(arrivals.len() < MAX_RECORDS, "at most {MAX_RECORDS} answers to one query");
        arrivals.push(Arrival { by, at: self.now, bytes: bytes.len(), truncated, addresses });
    }
}
