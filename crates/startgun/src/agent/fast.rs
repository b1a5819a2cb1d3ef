//! The fast thread: owns the core's [`Agent`], its UDP socket, and the way to the departure thread.

use super::audit::AuditSender;
use crate::startup;
use startgun_core::agent::{Agent, DepartureKey, DepartureOutcome, Output, PeerKeys, Stamped};
use startgun_core::clock::host::HostTime;
use startgun_core::control::{AgentReport, MeshFigures, ToAgent, ToMaster};
use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::SessionId;
use startgun_core::wire::session::SECRET_BYTES;
use startgun_net::continuity::Continuity;
use startgun_net::departure::{Departed, Departure, DepartureThread, Outcome};
use startgun_net::host_clock::HostClock;
use startgun_net::poll::{Waker, wait};
use startgun_net::udp::{ReceiveBatch, UdpSocket};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait for the fast thread: a connection's documents, a few status requests.
const INPUTS: usize = 1_024;
/// Documents that may wait for one master's connection; a report a second, acknowledgements.
const DOCUMENTS: usize = 256;
/// Packets taken from the socket at a time.
const BATCH: usize = 64;
/// Datagrams of exchanges whose transmit timestamp is awaited: 16 per master are outstanding at most, and a few per peer.
const MAX_AWAITED_STAMPS: usize = 4_096;
/// Keys of challenges begin here, out of the way of the core's own, which count up from 1.
const CHALLENGE_KEYS: DepartureKey = 1 << 63;

/// What the fast thread is told.
pub(super) enum FastInput {
    /// A control connection is up.
    Connected(usize),
    /// A control connection is down.
    Disconnected(usize),
    /// A document from a master.
    Control { master: usize, document: Box<ToAgent> },
    /// What a master's newest set of the mesh says.
    Mesh { master: usize, solved: Box<MeshFigures> },
    /// A master's list of peers, checked.
    Peers { master: usize, peers: Vec<PeerKeys> },
    /// Where UTC lies on this host's clock; nothing where no keeper of it can be believed.
    HostTime(Option<HostTime>),
    /// A session's secret.
    Session { master: usize, id: SessionId, secret: [u8; SECRET_BYTES] },
    /// Somebody wants to know.
    Figures(oneshot::Sender<Figures>),
    /// End.
    Stop,
}

/// How the agent is.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Per master: whether it is connected, and the report.
    pub(super) masters: Vec<(bool, AgentReport)>,
    pub(super) counters: BTreeMap<String, u64>,
}

/// Talks to the fast thread.
#[derive(Clone)]
pub(super) struct FastHandle {
    sender: SyncSender<FastInput>,
    waker: Waker,
}

impl FastHandle {
    /// Tells it something, in order; waits while its mailbox is full.
    pub(super) async fn tell(&self, input: FastInput) {
        let mut input = input;
        while let Err(std::sync::mpsc::TrySendError::Full(back)) = self.sender.try_send(input) {
            input = back;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.waker.wake();
    }

    /// How the agent is.
    pub(super) async fn figures(&self) -> Figures {
        let (reply, answer) = oneshot::channel();
        self.tell(FastInput::Figures(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let _ = self.sender.send(FastInput::Stop);
        self.waker.wake();
    }
}

/// What the fast thread works with.
pub(super) struct FastParts {
    pub(super) agent: Agent,
    pub(super) socket: UdpSocket,
    /// The service addresses, in the order of the departure thread's sockets.
    pub(super) services: Vec<SocketAddr>,
    pub(super) departures: DepartureThread,
    pub(super) clock: HostClock,
    /// Wakes the thread; the departure thread has it too.
    pub(super) waker: Waker,
    pub(super) audit: Option<AuditSender>,
}

/// Where a master's connection takes its documents from.
pub(super) type Documents = mpsc::Receiver<ToMaster>;

/// Starts the thread. `advertised` is where orders reach this agent.
///
/// # Errors
/// Where the kernel gives no thread.
pub(super) fn spawn(
    parts: FastParts,
    advertised: SocketAddr,
    masters: usize,
) -> io::Result<(FastHandle, Vec<Documents>, JoinHandle<()>)> {
    let (sender, inputs) = sync_channel(INPUTS);
    let (documents, receivers) = (0..masters).map(|_| mpsc::channel(DOCUMENTS)).unzip();
    let handle = FastHandle { sender, waker: parts.waker.clone() };
    let thread = FastThread {
        continuity: Continuity::new(&parts.clock),
        parts,
        inputs,
        documents,
        connected: vec![false; masters],
        advertised,
        awaited_stamps: BTreeMap::new(),
        next_challenge: CHALLENGE_KEYS,
        audit_dropped: 0,
        wall_clock_at: LocalTime::from_nanos(i64::MIN),
    };
    let thread = std::thread::Builder::new().name("fast".into()).spawn(move || thread.run())?;
    Ok((handle, receivers, thread))
}

struct FastThread {
    parts: FastParts,
    continuity: Continuity,
    inputs: Receiver<FastInput>,
    documents: Vec<mpsc::Sender<ToMaster>>,
    connected: Vec<bool>,
    advertised: SocketAddr,
    /// By the socket's own number of the datagram.
    awaited_stamps: BTreeMap<u32, Stamped>,
    next_challenge: DepartureKey,
    audit_dropped: u64,
    /// When the machine is told the time of day again.
    wall_clock_at: LocalTime,
}

impl FastThread {
    fn run(mut self) {
        let mut batch = ReceiveBatch::new(BATCH);
        let mut departed = Vec::new();
        loop {
            self.parts.waker.clear();
            if let Some(broken) = self.continuity.check(&self.parts.clock) {
                tracing::warn!("this host's clock did not run on: {broken:?}");
                self.parts.agent.handle_clock_break(self.parts.clock.now());
                self.perform_outputs();
            }
            if self.take_inputs() {
                return;
            }
            self.tell_wall_clock();
            let received = self.parts.socket.receive(&mut batch, &self.parts.clock).unwrap_or(0);
            for packet in batch.iter().filter(|packet| !packet.truncated) {
                let now = self.parts.clock.now();
                self.parts.agent.handle_datagram(now, packet.received_at, packet.bytes);
                self.perform_outputs();
            }
            self.parts.departures.poll_results(&mut departed);
            for result in departed.drain(..) {
                self.parts.agent.handle_departed(
                    self.parts.clock.now(),
                    result.key,
                    outcome(&self.parts.clock, result),
                );
            }
            self.take_stamps();
            self.parts.agent.handle_timeout(self.parts.clock.now());
            self.perform_outputs();
            if received < BATCH {
                self.sleep();
            }
        }
    }

    /// `true` when it is time to stop.
    fn take_inputs(&mut self) -> bool {
        loop {
            let now = self.parts.clock.now();
            let agent = &mut self.parts.agent;
            match self.inputs.try_recv() {
                Ok(FastInput::Connected(master)) => {
                    self.connected[master] = true;
                    let hello = agent.hello(master, self.advertised);
                    let _ = self.documents[master].try_send(hello);
                }
                Ok(FastInput::Disconnected(master)) => {
                    self.connected[master] = false;
                    agent.handle_disconnected(now, master);
                }
                Ok(FastInput::Control { master, document }) => agent.handle_control(now, master, *document),
                Ok(FastInput::Session { master, id, secret }) => agent.handle_session(now, master, id, secret),
                Ok(FastInput::Mesh { master, solved }) => agent.handle_mesh(now, master, *solved),
                Ok(FastInput::Peers { master, peers }) => agent.handle_peers(now, master, peers),
                Ok(FastInput::HostTime(time)) => agent.handle_host_time(time),
                Ok(FastInput::Figures(reply)) => {
                    let _ = reply.send(self.figures(now));
                }
                Ok(FastInput::Stop) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
            self.perform_outputs();
        }
    }

    /// Signatures end by the time of day, which nobody steps by more than it matters to them between two seconds.
    fn tell_wall_clock(&mut self) {
        let now = self.parts.clock.now();
        if now >= self.wall_clock_at {
            self.wall_clock_at = now + Span::from_secs(1);
            self.parts.agent.handle_wall_clock(now, startup::unix_ns());
        }
    }

    fn figures(&self, now: LocalTime) -> Figures {
        let agent = &self.parts.agent;
        let masters =
            self.connected.iter().enumerate().map(|(master, connected)| (*connected, agent.report(now, master)));
        let mut counters: BTreeMap<String, u64> =
            agent.counters().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        if self.audit_dropped > 0 {
            counters.insert("audit_records_dropped".into(), self.audit_dropped);
        }
        Figures { masters: masters.collect(), counters }
    }

    fn perform_outputs(&mut self) {
        while let Some(output) = self.parts.agent.poll_output() {
            match output {
                Output::Send { to, bytes, exchange } => {
                    let sent = self.parts.socket.send_to(&bytes, to);
                    if let (Ok(Some(number)), Some(exchange)) = (sent, exchange) {
                        self.awaited_stamps.insert(number, exchange);
                    }
                }
                Output::Depart(departure) => {
                    let key = departure.key;
                    let scheduled = self.socket_of(departure.service).is_some_and(|socket| {
                        let departure = Departure {
                            key,
                            at: departure.at,
                            latest: departure.latest,
                            socket,
                            to: departure.to,
                            payload: departure.bytes,
                        };
                        self.parts.departures.schedule(departure).is_ok()
                    });
                    if !scheduled {
                        self.parts.agent.handle_departed(self.parts.clock.now(), key, DepartureOutcome::Failed);
                    }
                }
                Output::Withdraw(key) => {
                    // One that the queue has no room for is too late by itself: its instant is read from a wrong clock.
                    let _ = self.parts.departures.cancel(key);
                }
                Output::Challenge { service, to, bytes } => {
                    if let Some(socket) = self.socket_of(service) {
                        self.next_challenge += 1;
                        let departure = Departure {
                            key: self.next_challenge,
                            at: self.parts.clock.now(),
                            latest: None,
                            socket,
                            to,
                            payload: bytes,
                        };
                        let _ = self.parts.departures.schedule(departure);
                    }
                }
                Output::Control { master, message } => {
                    // A connection that does not drain its documents is dying; its master notices the silence.
                    let _ = self.documents[master].try_send(message);
                }
                Output::Audit(record) => {
                    if self.parts.audit.as_ref().is_some_and(|audit| audit.try_send(record).is_err()) {
                        self.audit_dropped += 1;
                    }
                }
            }
        }
    }

    /// The departure thread's socket for a service address.
    fn socket_of(&self, service: SocketAddr) -> Option<usize> {
        self.parts.services.binary_search(&service).ok()
    }

    fn take_stamps(&mut self) {
        let (awaited, agent) = (&mut self.awaited_stamps, &mut self.parts.agent);
        let _ = self.parts.socket.drain_transmit_timestamps(&self.parts.clock, &mut |number, at| {
            if let Some(stamped) = awaited.remove(&number) {
                agent.handle_transmit_stamp(stamped, at);
            }
        });
        while awaited.len() > MAX_AWAITED_STAMPS {
            awaited.pop_first();
        }
    }

    fn sleep(&self) {
        let timer = self.parts.agent.poll_timeout().map_or(LocalTime::MAX, |(at, _)| at);
        let deadline = self.parts.clock.monotonic_deadline(timer);
        // A failed wait is an iteration that finds nothing.
        let _ = wait(&[self.parts.waker.as_fd(), self.parts.socket.as_fd()], Some(deadline));
    }
}

fn outcome(clock: &HostClock, departed: Departed) -> DepartureOutcome {
    match departed.outcome {
        Outcome::Sent { at, kernel_stamped } => DepartureOutcome::Departed { at, kernel_stamped },
        Outcome::Late { .. } => DepartureOutcome::Late { at: clock.now() },
        Outcome::Failed { .. } | Outcome::Full | Outcome::ClockBroke => DepartureOutcome::Failed,
    }
}
