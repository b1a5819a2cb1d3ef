//! Up to fifty agents in one thread, as far as a master can tell.
//!
//! **Problem.** Fifty agent processes beside a master on two cores would measure how the scheduler shares a core among
//! them, and every one of them spins before its departures.
//!
//! **Sketch.** Each agent has its own certificate, control channel, session and keys ([`Control`]), and opens, counts and
//! answers for its own orders; the thread and one socket are shared, and nobody waits for an instant exactly. At an order's
//! T the first agent's answer departs, from the service address: the client takes the first and drops the rest, so that
//! the others' would only be load on the client. Every agent has a receipt for each of its orders; those that are due go
//! together, as many as fit a datagram, every [`RECEIPT_INTERVAL`]. Every agent exchanges with the master and reports as
//! often as a real one.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::session::{MAX_PLAIN, header};
use startgun_core::wire::{
    Direction, Frame, Opener, Order, Receipt, ReceiptOutcome, Sealer, SessionId, TransmitIdentifier,
};
use startgun_net::host_clock::HostClock;
use startgun_net::poll;
use startgun_net::udp::{Options, Outgoing, ReceiveBatch, SEND_BATCH, UdpSocket};

use crate::common::agent::{Control, service_socket};
use crate::common::{Stage, dns};

/// How long receipts gather. A race is open for [`FALLBACK_AFTER`](crate::race::FALLBACK_AFTER) after T.
pub const RECEIPT_INTERVAL: Span = Span::from_millis(5);
/// Time between two clock exchanges of an agent, the real one's default.
const EXCHANGE_INTERVAL: Span = Span::from_millis(250);
/// What an agent claims of its orders' way; the delay is fixed, so nothing depends on it.
const FORWARD: Span = Span::from_micros(100);
/// How often an agent reports, as the real one does.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Room for what arrives while dnsperf has the core: 50,000 datagrams of 1,200 bytes, as the kernel counts them.
const RECEIVE_BUFFER_BYTES: usize = 128 << 20;
/// What the answers say.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// What came in.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// First orders of races, over all agents.
    pub orders: u64,
    /// Datagrams with orders.
    pub datagrams: u64,
    /// Of each such datagram: from the kernel's receive timestamp of the query of its oldest order to its own departure.
    pub waits: Vec<Span>,
    /// The same of the master's own part: from the moment at which it took the query out of its queue.
    pub coalesced: Vec<Span>,
}

/// One agent.
struct End {
    opener: Opener,
    sealer: Sealer,
    /// Orders without a receipt, as they came: T, race, revision.
    due: VecDeque<(LocalTime, u64, u8)>,
    exchange_at: LocalTime,
    exchanges: u32,
    _control: Control,
}

/// All of them.
pub struct Sink {
    socket: UdpSocket,
    service: UdpSocket,
    master: SocketAddr,
    clock: HostClock,
    delay: Span,
    ends: Vec<End>,
    by_session: BTreeMap<SessionId, usize>,
    answers: VecDeque<(LocalTime, SocketAddr, Vec<u8>)>,
    receipts_at: LocalTime,
    pub received: Received,
}

impl Sink {
    /// Connects agents of these names to the stage's master. `delay` is the predetermined delay of every race.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn connect(stage: &Stage, names: &[String], delay: Span) -> Result<Self, String> {
        let fast_path = stage.agent_fast(0);
        let options =
            Options { receive_timestamps: true, receive_buffer_bytes: RECEIVE_BUFFER_BYTES, ..Options::default() };
        let socket = UdpSocket::bind(fast_path, options).map_err(|error| format!("{fast_path}: {error}"))?;
        let controls: Vec<Control> = std::thread::scope(|scope| {
            let connect = |name| move || Control::connect(stage, name, fast_path, FORWARD, REPORT_INTERVAL);
            let connecting: Vec<_> = names.iter().map(|name| scope.spawn(connect(name))).collect();
            connecting.into_iter().map(|connecting| connecting.join().expect("connected")).collect()
        });
        let by_session = controls.iter().enumerate().map(|(place, control)| (control.binding.id, place)).collect();
        let clock = HostClock::new(None);
        let now = clock.now();
        // Agents that were not started at the same instant.
        let stagger = |place: usize| Span::from_nanos(EXCHANGE_INTERVAL.as_nanos() * place as i64 / names.len() as i64);
        let end = |(place, control): (usize, Control)| End {
            opener: Opener::new(&control.binding, Direction::MasterToAgent, 0),
            sealer: Sealer::new(&control.binding, Direction::AgentToMaster, 0),
            due: VecDeque::new(),
            exchange_at: now + stagger(place),
            exchanges: 0,
            _control: control,
        };
        Ok(Sink {
            socket,
            service: service_socket(stage.service()),
            master: stage.master_fast(),
            receipts_at: now,
            clock,
            delay,
            ends: controls.into_iter().enumerate().map(end).collect(),
            by_session,
            answers: VecDeque::new(),
            received: Received::default(),
        })
    }

    /// Plays the agents while `work` lasts, from nothing received on.
    pub fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.received = Received::default();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let playing = scope.spawn(|| self.play(&stop));
            let result = work();
            stop.store(true, Ordering::Relaxed);
            playing.join().expect("played");
            result
        })
    }

    fn play(&mut self, stop: &AtomicBool) {
        let mut batch = ReceiveBatch::new(SEND_BATCH);
        let mut plain = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let count = self.socket.receive(&mut batch, &self.clock).expect("a socket");
            for packet in batch.iter() {
                self.take(packet.received_at, packet.bytes, &mut plain);
            }
            let now = self.clock.now();
            self.answer(now);
            if now >= self.receipts_at {
                self.receipts_at = now + RECEIPT_INTERVAL;
                self.send_receipts(now);
                self.send_exchanges(now);
            }
            if count == 0 {
                let next = self.answers.front().map_or(self.receipts_at, |(at, ..)| self.receipts_at.min(*at));
                let _ = poll::wait(&[self.socket.as_fd()], Some(self.clock.monotonic_deadline(next)));
            }
        }
    }

    fn take(&mut self, arrived: LocalTime, bytes: &[u8], plain: &mut Vec<u8>) {
        let (session, _) = header(bytes).expect("a sealed datagram");
        let place = self.by_session[&session];
        self.ends[place].opener.open(bytes, plain).expect("sealed for this agent, and new");
        let mut oldest: Option<(Span, Span)> = None;
        for frame in frames(plain) {
            let Frame::Order(order) = frame.expect("well-formed") else { continue };
            let TransmitIdentifier::At(at) = order.transmit else { continue };
            let transmit_at = at.to_master();
            let asked = transmit_at - self.delay;
            let waited = (arrived - asked, arrived - order.sent.to_master());
            oldest = Some(
                oldest
                    .map_or(waited, |(since_asked, since_sent)| (since_asked.max(waited.0), since_sent.max(waited.1))),
            );
            self.received.orders += u64::from(order.revision == 0);
            self.ends[place].due.push_back((transmit_at, order.race, order.revision));
            if place == 0 {
                self.prepare(transmit_at, &order);
            }
        }
        if let Some((since_asked, since_sent)) = oldest {
            self.received.datagrams += 1;
            self.received.waits.push(since_asked);
            self.received.coalesced.push(since_sent);
        }
    }

    fn prepare(&mut self, transmit_at: LocalTime, order: &Order<'_>) {
        self.answers.push_back((transmit_at, order.client, dns::answer(order.query, ADDRESS)));
    }

    /// Lets the answers depart whose T has come.
    fn answer(&mut self, now: LocalTime) {
        let due = self.answers.partition_point(|(at, ..)| *at <= now);
        let departing: Vec<_> = self.answers.drain(..due).collect();
        send(&self.service, departing.iter().map(|(_, to, bytes)| (*to, bytes.as_slice())));
    }

    /// Tells the master of everything whose T has come.
    fn send_receipts(&mut self, now: LocalTime) {
        let mut datagrams = Vec::new();
        let mut plain = Vec::new();
        for end in &mut self.ends {
            let due = end.due.partition_point(|(at, ..)| *at <= now);
            let mut due = end.due.drain(..due).peekable();
            while let Some((_, race, revision)) = due.next() {
                let receipt = Receipt { race, revision, outcome: ReceiptOutcome::Departed, lateness: Span::ZERO };
                let frame = Frame::Receipt(receipt);
                frame.encode(&mut plain);
                if due.peek().is_none() || plain.len() + frame.encoded_len() > MAX_PLAIN {
                    let mut sealed = Vec::new();
                    end.sealer.seal(&plain, &mut sealed);
                    datagrams.push(sealed);
                    plain.clear();
                }
            }
        }
        send(&self.socket, datagrams.iter().map(|bytes| (self.master, bytes.as_slice())));
    }

    /// Asks for the master's time, for every agent that has not for a while. Nobody takes the answer: this host has one
    /// clock.
    fn send_exchanges(&mut self, now: LocalTime) {
        let mut datagrams = Vec::new();
        for end in self.ends.iter_mut().filter(|end| end.exchange_at <= now) {
            end.exchange_at = now + EXCHANGE_INTERVAL;
            end.exchanges += 1;
            let (mut plain, mut sealed) = (Vec::new(), Vec::new());
            Frame::SyncRequest { exchange: end.exchanges }.encode(&mut plain);
            end.sealer.seal(&plain, &mut sealed);
            datagrams.push(sealed);
        }
        send(&self.socket, datagrams.iter().map(|bytes| (self.master, bytes.as_slice())));
    }
}

/// Sends with as few calls as possible.
fn send<'a>(socket: &UdpSocket, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) {
    let mut messages: Vec<_> = datagrams.map(|(to, bytes)| Outgoing { to, bytes, outcome: Err(0) }).collect();
    if !messages.is_empty() {
        socket.send_batch(&mut messages);
    }
}
