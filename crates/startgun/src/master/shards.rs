//! The data plane's threads: one per shard, plain, pinned to nothing but their own sockets.
//!
//! Each iteration takes what the sockets have (a batch each, and only from those that the last wait named), lets the core's
//! [`Shard`] decide, sends what it wants sent, and sleeps until a packet, a message or a timer. Nothing is shared with the other threads but the configuration;
//! a figure for `status` is copied out twice a second.

use super::secondary::Notices;
use crate::startup;
use startgun_core::clock::host::UtcOnRace;
use startgun_core::histogram::Histogram;
use startgun_core::master::{AgentView, Arrival, Counters, Output, Shard, ShardConfig, Signalled, Slot};
use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::SessionId;
use startgun_core::wire::session::CHALLENGE;
use startgun_net::host_clock::HostClock;
use startgun_net::poll::{MAX_DESCRIPTORS, Ready, Waker, wait};
use startgun_net::udp::{Outgoing, ReceiveBatch, Received, SEND_BATCH, UdpSocket, shard_of_source};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Messages that may wait for a shard: every agent's view twice over, and a burst of validated sources.
const INPUTS: usize = 4_096;
/// Packets taken from one socket at a time.
const BATCH: usize = 64;
/// Places of the descriptors that a shard waits for: its own waker, the fast path, and the service addresses.
const WAKER: usize = 0;
const FAST: usize = 1;
const FIRST_SERVICE: usize = 2;
/// Batches taken from the fast path for one of queries: 256 datagrams of 55 receipts are more than 64 races can cause with
/// 200 agents, and take some 2 ms.
const FAST_BATCHES: usize = 4;
/// Queries that are taken by one reading of the clock: eight take some 40 µs at most, which a race does not notice.
const QUERIES_PER_READING: usize = 8;
/// How often the figures for `status` are copied out.
const SNAPSHOT_INTERVAL: Span = Span::from_millis(500);
/// Replies to exchanges whose transmit timestamp is awaited: more than 1,024 agents ask within 100 ms.
const MAX_AWAITED_STAMPS: usize = 4_096;
/// A shard that is told to stop sees its races through for at most this long: the default cap of the predetermined delay
/// (0.3 s) and of the wait for receipts (0.25 s), twice and more.
const STOP_PATIENCE: Span = Span::from_millis(1_500);

/// How long somebody who fires a signal waits for a shard's answer; a shard looks at its mailbox between two batches.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);

/// What a shard is told.
pub(super) enum ShardInput {
    /// The roster's newest word on an agent.
    Agent(Box<AgentView>),
    /// An agent is gone.
    AgentGone(Slot),
    /// A source completed a query over TCP.
    Validated(IpAddr),
    /// Where UTC lies on this host's clock; nothing where no keeper of it can be believed.
    Utc(Option<UtcOnRace>),
    /// Another configuration takes the place of the present one.
    Config(Box<ShardConfig>),
    /// Somebody fires the signal of this name, and wants to know what that reached.
    Signal(Arc<str>, oneshot::Sender<Signalled>),
    /// End.
    Stop,
}

/// What a shard shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) counters: Counters,
    pub(super) open_races: usize,
    pub(super) predetermined_delays: Vec<Option<Span>>,
    /// Start spread by race index.
    pub(super) spreads: BTreeMap<u16, Histogram>,
    /// Lateness by agent.
    pub(super) lateness: BTreeMap<Slot, Histogram>,
}

struct Mailbox {
    sender: SyncSender<ShardInput>,
    waker: Waker,
    snapshot: Arc<Mutex<Snapshot>>,
}

/// All shards, for the threads that talk to them.
#[derive(Clone)]
pub(super) struct Shards(Arc<Vec<Mailbox>>);

impl Shards {
    /// Tells every shard. Blocks while a shard's mailbox is full: only the control plane waits, never a packet.
    pub(super) fn tell_all(&self, input: impl Fn() -> ShardInput) {
        for mailbox in self.0.iter() {
            mailbox.tell(input());
        }
    }

    /// Gives each shard its configuration, by its number.
    pub(super) fn configure(&self, config: impl Fn(u8) -> ShardConfig) {
        for (mailbox, shard) in self.0.iter().zip(0..) {
            mailbox.tell(ShardInput::Config(Box::new(config(shard))));
        }
    }

    /// Tells the shard that the queries of `source` are steered to. A full mailbox loses it; the client asks again.
    pub(super) fn tell_owner(&self, source: IpAddr, input: ShardInput) {
        if let Some(mailbox) = self.0.get(shard_of_source(source, self.0.len())) {
            let _ = mailbox.sender.try_send(input);
            mailbox.waker.wake();
        }
    }

    /// Fires a signal on every shard at once; what that reached, all together. A shard that is stuck for longer than
    /// [`SIGNAL_PATIENCE`] is left out of the sum, and fires when it can.
    pub(super) async fn signal(&self, name: &str) -> Signalled {
        let name: Arc<str> = name.into();
        let tell = |mailbox: &Mailbox| {
            let (reply, answer) = oneshot::channel();
            mailbox.tell(ShardInput::Signal(Arc::clone(&name), reply));
            answer
        };
        let answers: Vec<_> = self.0.iter().map(tell).collect();
        let mut sum = Signalled::default();
        for answer in answers {
            if let Ok(Ok(signalled)) = tokio::time::timeout(SIGNAL_PATIENCE, answer).await {
                sum.races += signalled.races;
                sum.agents.extend(signalled.agents);
            }
        }
        sum
    }

    /// What all shards together show.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for mailbox in self.0.iter() {
            let snapshot = mailbox.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for (name, count) in snapshot.counters {
                *sum.counters.entry(name).or_default() += count;
            }
            sum.open_races += snapshot.open_races;
            for (index, spread) in &snapshot.spreads {
                sum.spreads.entry(*index).or_default().merge(spread);
            }
            for (slot, lateness) in &snapshot.lateness {
                sum.lateness.entry(*slot).or_default().merge(lateness);
            }
            if sum.predetermined_delays.is_empty() {
                sum.predetermined_delays = snapshot.predetermined_delays;
            }
        }
        sum
    }
}

impl Mailbox {
    fn tell(&self, input: ShardInput) {
        let _ = self.sender.send(input);
        self.waker.wake();
    }
}

/// One shard with its sockets, before its thread runs.
pub(super) struct ShardParts {
    /// The machine.
    pub(super) shard: Shard,
    /// One socket per service address, in the order of the configuration.
    pub(super) services: Vec<UdpSocket>,
    /// Its share of the fast path.
    pub(super) fast: UdpSocket,
}

impl ShardParts {
    fn replace_config(&mut self, config: ShardConfig) {
        let wanted = config.needs_receipt();
        for service in &self.services {
            if let Err(error) = service.stamp_arrivals(wanted) {
                tracing::warn!(address = %service.address(), %error, "receive timestamps stay as they were");
            }
        }
        self.shard.handle_config(config);
    }
}

/// Starts a thread for each shard. `challenge` gets packets on the fast path that look like a self-test's challenge.
///
/// # Errors
/// Where the kernel gives no thread or descriptor.
pub(super) fn spawn(
    parts: Vec<ShardParts>,
    clock: &HostClock,
    challenge: impl Fn(SocketAddr, &[u8]) + Clone + Send + 'static,
    notices: &Notices,
) -> io::Result<(Shards, Vec<JoinHandle<()>>)> {
    let mut mailboxes = Vec::new();
    let mut threads = Vec::new();
    for (index, parts) in parts.into_iter().enumerate() {
        let (sender, inputs) = sync_channel(INPUTS);
        let waker = Waker::new()?;
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let thread = ShardThread {
            parts,
            inputs,
            notices: notices.clone(),
            clock: clock.clone(),
            waker: waker.clone(),
            snapshot: Arc::clone(&snapshot),
            snapshot_at: clock.now(),
            awaited_stamps: BTreeMap::new(),
            outputs: Vec::with_capacity(SEND_BATCH),
        };
        mailboxes.push(Mailbox { sender, waker, snapshot });
        let challenge = challenge.clone();
        let builder = std::thread::Builder::new().name(format!("shard-{index}"));
        threads.push(builder.spawn(move || thread.run(&challenge))?);
    }
    Ok((Shards(Arc::new(mailboxes)), threads))
}

struct ShardThread {
    parts: ShardParts,
    inputs: Receiver<ShardInput>,
    notices: Notices,
    clock: HostClock,
    waker: Waker,
    snapshot: Arc<Mutex<Snapshot>>,
    snapshot_at: LocalTime,
    /// By the socket's own number of the datagram.
    awaited_stamps: BTreeMap<u32, (SessionId, u32)>,
    /// Outputs at hand, at most [`SEND_BATCH`].
    outputs: Vec<Output>,
}

impl ShardThread {
    fn run(mut self, challenge: &impl Fn(SocketAddr, &[u8])) {
        let mut batch = ReceiveBatch::new(BATCH);
        let mut ready = Ready::ALL;
        self.tell_wall_clock();
        loop {
            if self.take_inputs() {
                return self.finish(&mut batch, challenge);
            }
            // Agents first: a receipt that is missed costs another answer, so falling behind here would add to the load.
            let more_datagrams =
                ready.has(FAST) && (0..FAST_BATCHES).all(|_| self.take_datagrams(&mut batch, challenge));
            let more = self.take_queries(ready, &mut batch) | more_datagrams;
            self.work();
            self.copy_snapshot();
            ready = if more { Ready::ALL } else { self.sleep() };
        }
    }

    /// Answers what has arrived and sees the open races through: their clients get no other answer. Queries that come
    /// later are left to whoever serves the address next.
    fn finish(mut self, batch: &mut ReceiveBatch, challenge: &impl Fn(SocketAddr, &[u8])) {
        let end = self.clock.now() + STOP_PATIENCE;
        while self.take_queries(Ready::ALL, batch) && self.clock.now() < end {
            self.work();
        }
        self.parts.shard.handle_stop();
        self.work();
        while self.parts.shard.open_races() > 0 && self.clock.now() < end {
            self.waker.clear();
            self.take_datagrams(batch, challenge);
            self.work();
            // Not the service addresses: what waits there would end every wait at once.
            let _ = wait(&[self.waker.as_fd(), self.parts.fast.as_fd()], Some(self.deadline(end)));
        }
    }

    /// Lets the machine handle what was taken, and does what it wants done.
    fn work(&mut self) {
        self.parts.shard.handle_timeout(self.clock.now());
        self.perform_outputs();
        self.take_stamps();
        while let Some(apex) = self.parts.shard.poll_notified() {
            self.notices.changed(apex);
        }
    }

    /// `true` when it is time to stop.
    fn take_inputs(&mut self) -> bool {
        loop {
            match self.inputs.try_recv() {
                Ok(ShardInput::Agent(view)) => self.parts.shard.handle_agent(*view),
                Ok(ShardInput::AgentGone(slot)) => self.parts.shard.handle_agent_gone(slot),
                Ok(ShardInput::Validated(source)) => self.parts.shard.handle_validated(self.clock.now(), source),
                Ok(ShardInput::Config(config)) => self.parts.replace_config(*config),
                Ok(ShardInput::Utc(utc)) => self.parts.shard.handle_utc(utc),
                Ok(ShardInput::Signal(name, reply)) => {
                    let _ = reply.send(self.parts.shard.handle_signal(self.clock.now(), &name));
                }
                Ok(ShardInput::Stop) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
        }
    }

    /// One batch from every service address that is ready, and what it caused: orders to one agent together. `true` when one
    /// of them may have more.
    fn take_queries(&mut self, ready: Ready, batch: &mut ReceiveBatch) -> bool {
        let mut more = false;
        for service in (0..self.parts.services.len()).filter(|service| ready.has(FIRST_SERVICE + service)) {
            let received = self.parts.services[service].receive(batch, &self.clock).unwrap_or(0);
            more |= received == BATCH;
            let mut now = LocalTime::from_nanos(0);
            for (place, packet) in batch.iter().filter(|packet| !packet.truncated).enumerate() {
                if place % QUERIES_PER_READING == 0 {
                    now = self.clock.now();
                }
                let Received { source, received_at, bytes, .. } = packet;
                self.parts.shard.handle_arrival(now, Arrival { service: service as u16, source, received_at, bytes });
            }
            perform_outputs(&mut self.parts, &mut self.outputs, &mut self.awaited_stamps);
        }
        more
    }

    /// One batch from the fast path; `true` when there may be more.
    fn take_datagrams(&mut self, batch: &mut ReceiveBatch, challenge: &impl Fn(SocketAddr, &[u8])) -> bool {
        let received = self.parts.fast.receive(batch, &self.clock).unwrap_or(0);
        for packet in batch.iter().filter(|packet| !packet.truncated) {
            if packet.bytes.first() == Some(&CHALLENGE) {
                challenge(packet.source, packet.bytes);
            } else {
                self.parts.shard.handle_fast(self.clock.now(), packet.received_at, packet.source, packet.bytes);
                // The reply to an exchange carries the time of its handling: it must not wait for the batch's end.
                perform_outputs(&mut self.parts, &mut self.outputs, &mut self.awaited_stamps);
            }
        }
        received == BATCH
    }

    fn perform_outputs(&mut self) {
        perform_outputs(&mut self.parts, &mut self.outputs, &mut self.awaited_stamps);
    }

    /// Hands the kernel's transmit timestamps of replies to exchanges back to the machine.
    fn take_stamps(&mut self) {
        if self.awaited_stamps.is_empty() {
            return;
        }
        let (awaited, shard) = (&mut self.awaited_stamps, &mut self.parts.shard);
        let _ = self.parts.fast.drain_transmit_timestamps(&self.clock, &mut |number, at| {
            if let Some((session, exchange)) = awaited.remove(&number) {
                shard.handle_transmit_stamp(session, exchange, at);
            }
        });
        while awaited.len() > MAX_AWAITED_STAMPS {
            awaited.pop_first();
        }
    }

    fn copy_snapshot(&mut self) {
        let now = self.clock.now();
        if now < self.snapshot_at {
            return;
        }
        self.snapshot_at = now + SNAPSHOT_INTERVAL;
        self.tell_wall_clock();
        let shard = &self.parts.shard;
        let mut counters = shard.counters();
        let dropped: u64 = self.parts.services.iter().map(|socket| u64::from(socket.dropped())).sum();
        counters.insert("queries_dropped_queue_full", dropped);
        counters.insert("datagram_dropped_queue_full", u64::from(self.parts.fast.dropped()));
        let fresh = Snapshot {
            counters,
            open_races: shard.open_races(),
            predetermined_delays: shard.predetermined_delays(),
            spreads: shard.spreads().clone(),
            lateness: shard.lateness().clone(),
        };
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Server cookies carry the time of day, to the second: twice a second is often enough.
    fn tell_wall_clock(&mut self) {
        self.parts.shard.handle_wall_clock(self.clock.now(), startup::unix_ns());
    }

    /// Waits; which sockets have something.
    fn sleep(&self) -> Ready {
        let mut descriptors = [self.waker.as_fd(); MAX_DESCRIPTORS];
        descriptors[FAST] = self.parts.fast.as_fd();
        let services = self.parts.services.iter().map(AsFd::as_fd);
        descriptors[FIRST_SERVICE..].iter_mut().zip(services).for_each(|(place, descriptor)| *place = descriptor);
        let descriptors = &descriptors[..FIRST_SERVICE + self.parts.services.len()];
        // After a failed wait everything is looked at.
        let ready = wait(descriptors, Some(self.deadline(self.snapshot_at))).unwrap_or(Ready::ALL);
        if ready.has(WAKER) {
            // Before the messages are looked for: who wakes later than this wakes the next wait.
            self.waker.clear();
        }
        ready
    }

    /// The machine's timer or `latest`, whichever comes first, as the kernel counts.
    fn deadline(&self, latest: LocalTime) -> i64 {
        let timer = self.parts.shard.poll_timeout().map_or(LocalTime::MAX, |(at, _)| at);
        self.clock.monotonic_deadline(timer.min(latest))
    }
}

/// Sends what the machine wants sent, in batches: whatever follows each other from one socket goes in one call.
fn perform_outputs(
    parts: &mut ShardParts,
    outputs: &mut Vec<Output>,
    awaited_stamps: &mut BTreeMap<u32, (SessionId, u32)>,
) {
    loop {
        outputs.extend(std::iter::from_fn(|| parts.shard.poll_output()).take(SEND_BATCH));
        if outputs.is_empty() {
            return;
        }
        for run in outputs.chunk_by(shares_call) {
            let mut messages: [Outgoing<'_>; SEND_BATCH] = std::array::from_fn(|place| outgoing(run.get(place)));
            let messages = &mut messages[..run.len()];
            let socket = match socket_of(&run[0]) {
                Some(service) => &parts.services[usize::from(service)],
                None => &parts.fast,
            };
            // What the kernel refuses is lost, as on the way.
            match &run[0] {
                Output::Fast { to, bytes, exchange: Some(exchange) } => {
                    if let Ok(number) = parts.fast.send_stamped_to(bytes, *to) {
                        awaited_stamps.insert(number, *exchange);
                    }
                }
                _ => socket.send_batch(messages),
            }
        }
        for output in outputs.drain(..) {
            let (Output::Reply { bytes, .. } | Output::Fast { bytes, .. }) = output;
            parts.shard.recycle(bytes);
        }
    }
}

/// Whether two outputs leave in one call: from the same socket, and neither is an exchange's reply, whose transmit timestamp
/// is wanted.
fn shares_call(left: &Output, right: &Output) -> bool {
    let is_exchange = |output: &Output| matches!(output, Output::Fast { exchange: Some(_), .. });
    socket_of(left) == socket_of(right) && !is_exchange(left) && !is_exchange(right)
}

/// The service address that an output leaves from; `None` for the fast path.
fn socket_of(output: &Output) -> Option<u16> {
    match output {
        Output::Reply { service, .. } => Some(*service),
        Output::Fast { .. } => None,
    }
}

fn outgoing(output: Option<&Output>) -> Outgoing<'_> {
    let (to, bytes) = match output {
        Some(Output::Reply { to, bytes, .. } | Output::Fast { to, bytes, .. }) => (*to, bytes.as_slice()),
        None => (SocketAddr::from(([0; 4], 0)), [].as_slice()),
    };
    Outgoing { to, bytes, outcome: Err(0) }
}

/// Ends every shard's thread and waits for it.
pub(super) fn stop(shards: &Shards, threads: Vec<JoinHandle<()>>) {
    shards.tell_all(|| ShardInput::Stop);
    for thread in threads {
        let _ = thread.join();
    }
}
