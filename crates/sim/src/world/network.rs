//! Packets: sent, and then lost, delayed, doubled or overtaken as their path has it.

use std::net::SocketAddr;

use startgun_core::time::Span;

use super::address::{host_at, ip_of};
use super::{Event, Observation, World, alter};
use crate::options::{Bursts, Host, Path, Records};
use crate::random::Random;
use crate::records::{Arrival, MAX_RECORDS, read_addresses, read_header};
use crate::trace::{DIGEST_START, digest};

impl World {
    /// A host sends a datagram. Chance is drawn in the same order whatever happens to the packet before.
    pub(super) fn transmit(&mut self, sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.transmit_exchange(sender, source, to, bytes, None);
    }

    /// [`World::transmit`]; `exchange` says which one the datagram is the reply of.
    pub(super) fn transmit_exchange(
        &mut self,
        sender: Host,
        source: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
        exchange: Option<u32>,
    ) {
        let Some(target) = host_at(to) else {
            return self.note(format_args!("lost {sender:?} -> {to}: nobody is there"));
        };
        let path = self.options.path(sender, target);
        let content = if self.options.trace { digest(DIGEST_START, &bytes) } else { 0 };
        let length = bytes.len();
        if let Some(traffic) = self.traffic.of(sender) {
            traffic.sent += 1;
            traffic.sent_bytes += length as u64;
        }
        self.watch_sent(sender, source, to, &bytes);
        let luck = self.luck(sender, target);
        let copies = 1 + usize::from(self.random.chance(path.duplication_ppm)) + luck.copies;
        let mut bytes = Some(bytes);
        for copy in 0..copies {
            let delay = self.delay(sender, target, &path) + luck.delay + self.random.exponential(luck.jitter_mean);
            if self.random.chance(path.loss_ppm) || self.random.chance(luck.loss_ppm) {
                if let Some(traffic) = self.traffic.of(sender) {
                    traffic.lost += 1;
                }
                self.note(format_args!("lost {sender:?} -> {target:?} {length} {content:016x} copy {copy}"));
                continue;
            }
            self.note(format_args!("sent {sender:?} -> {target:?} {length} {content:016x} copy {copy} takes {delay}"));
            // The last copy takes the buffer itself.
            let Some(mut bytes) = (if copy + 1 < copies { bytes.clone() } else { bytes.take() }) else { return };
            let altered = self.random.chance(luck.corruption_ppm);
            if altered {
                alter(&mut self.random, &mut bytes);
            }
            let exchange = exchange.filter(|_| !altered);
            let arrive = Event::Arrive { sender, source, to, bytes, exchange, altered };
            self.schedule(self.now + delay, arrive);
        }
    }

    /// How long one packet takes.
    fn delay(&mut self, from: Host, to: Host, path: &Path) -> Span {
        let mut delay = path.delay + self.random.exponential(path.jitter_mean);
        if self.random.chance(path.tail.0) {
            delay += self.random.exponential(path.tail.1);
        }
        if let Some(bursts) = &path.bursts {
            delay += self.queueing(from, to, bursts);
        }
        match &path.hold {
            Some(hold) if self.random.chance(hold.share_ppm) => delay + hold.delay(self.now),
            _ => delay,
        }
    }

    /// The wait in a queue that all packets of a path share: the same for every packet of one instant.
    fn queueing(&self, from: Host, to: Host, bursts: &Bursts) -> Span {
        let (every, length) = (bursts.every.as_nanos(), bursts.length.as_nanos());
        let (stretch, into) = (self.now.as_nanos().div_euclid(every), self.now.as_nanos().rem_euclid(every));
        let path = u64::from(u32::from(ip_of(from))) << 32 | u64::from(u32::from(ip_of(to)));
        let mut random = Random::named(self.seed, [u64::from_be_bytes(*b"queueing"), path, stretch as u64]);
        let begins = (random.next() % (every - length).max(1) as u64) as i64;
        let peak = (random.next() % bursts.peak.as_nanos().max(1) as u64) as i128;
        let (since, rise) = (i128::from(into - begins), i128::from(length / 4).max(1));
        let length = i128::from(length);
        let wait = match since {
            ..0 => 0,
            _ if since >= length => 0,
            _ if since < rise => peak * since / rise,
            _ => peak * (length - since) / (length - rise),
        };
        Span::from_nanos(wait as i64)
    }

    /// A datagram reaches the host that has its destination.
    pub(super) fn arrive(
        &mut self,
        sender: Host,
        source: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
        exchange: Option<u32>,
        altered: bool,
    ) {
        let Some(target) = host_at(to) else { return };
        if let Some(traffic) = self.traffic.of(target) {
            traffic.received += 1;
            traffic.received_bytes += bytes.len() as u64;
        }
        match target {
            Host::Master(master) if master < self.masters.len() => {
                self.datagram_at_master(master, sender, source, to, bytes);
            }
            Host::Agent(agent) if agent < self.agents.len() => self.datagram_at_agent(agent, sender, bytes, exchange),
            Host::Client(client) if altered => {
                self.note(format_args!("altered at client {client}: its checksum tells"));
            }
            Host::Client(client) if client < self.options.clients => self.answer_at(client, sender, to.port(), &bytes),
            _ => self.note(format_args!("lost at {target:?}: nobody is there")),
        }
    }

    /// Anybody sends anything to anybody: for forgers. The answer to a forged source reaches its true owner.
    pub fn inject(&mut self, sender: Host, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.transmit(sender, source, to, bytes);
    }

    /// Somebody on a path delivers bytes to an address after a while, whatever they are: replayed, altered, made up.
    pub fn deliver(&mut self, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>, after: Span) {
        self.note(format_args!("slipped in {source} -> {to}, {} bytes, after {after}", bytes.len()));
        // Nobody's own packet: no record of a query or an exchange is to count it.
        let sender = Host::Client(usize::MAX);
        let arrive = Event::Arrive { sender, source, to, bytes, exchange: None, altered: false };
        self.schedule(self.now + after, arrive);
    }

    fn answer_at(&mut self, client: usize, by: Host, port: u16, bytes: &[u8]) {
        let header = read_header(bytes);
        let number = header.and_then(|(id, _)| self.queries.get(&(client, port, id)).copied());
        self.note(format_args!(
            "answer at client {client} port {port} by {by:?}, {} bytes, query {number:?}",
            bytes.len()
        ));
        self.fact(|| Observation::Heard { client, by, bytes: bytes.to_vec() });
        let (at, records) = (self.now, self.options.records);
        let (Some((_, truncated)), Some(number)) = (header, number) else { return };
        let Some(finish) = self.finish_mut(number) else { return };
        let is_first = finish.answers == 0;
        if records == Records::Sums && !is_first {
            finish.answers += 1;
            return;
        }
        let Some(addresses) = read_addresses(bytes) else { return };
        assert!(finish.arrivals.len() < MAX_RECORDS, "at most {MAX_RECORDS} answers to one query");
        finish.answers += 1;
        finish.arrivals.push(Arrival { by, at, bytes: bytes.len(), truncated, addresses });
        if records == Records::Sums {
            self.answered.push(number);
        }
    }
}
