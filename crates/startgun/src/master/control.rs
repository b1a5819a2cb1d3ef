//! The master's control plane: agents' connections around the [`Roster`].
//!
//! One task owns the roster and tells the shards; one task per connection moves documents. They talk through bounded
//! queues: an agent that does not read is disconnected, it cannot hold anything up.

use super::shards::{ShardInput, Shards};
use crate::control::Fault;
use crate::control::channel::Channel;
use crate::control::tls::{LogGate, ServerTls, fast_path_secret, peer_identity};
use startgun_core::control::{ToAgent, ToMaster};
use startgun_core::master::{AgentStatus, Roster, RosterOutput, SharedService, Slot};
use startgun_core::wire::SessionId;
use startgun_core::wire::session::SECRET_BYTES;
use startgun_net::host_clock::HostClock;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Documents that may wait for one agent: a hello causes one per service address (64) and a few more.
const COMMANDS: usize = 256;
/// Events that may wait for the roster: a report per second from 1,024 agents, and a burst of hellos.
const EVENTS: usize = 4_096;
/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// A challenge: its mark and a token.
const CHALLENGE_BYTES: usize = 17;
/// Handshakes under way at once; more wait in the listener's queue.
const MAX_HANDSHAKES: usize = 256;
/// An agent reports every second; one that says nothing for this long is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often certificates and the revoked list are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// What happens to the roster.
pub(super) enum Event {
    Connected {
        name: String,
        address: IpAddr,
        certificate: Vec<u8>,
        reply: oneshot::Sender<Option<(Slot, mpsc::Receiver<Command>)>>,
    },
    Disconnected(Slot),
    Message(Slot, Box<ToMaster>),
    Secret(Slot, SessionId, [u8; SECRET_BYTES]),
    Challenge(SocketAddr, Vec<u8>),
    Service(SharedService),
    Status(oneshot::Sender<Vec<AgentStatus>>),
}

/// What the roster tells a connection.
pub(super) enum Command {
    Say(ToAgent),
    OpenSession(SessionId),
    Close,
}

/// Hands events to the roster's task.
#[derive(Clone)]
pub(super) struct RosterHandle(mpsc::Sender<Event>);

impl RosterHandle {
    /// A queue of events, and where the roster's task takes them from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(EVENTS);
        (RosterHandle(sender), receiver)
    }

    /// A packet that looks like a self-test's challenge; dropped when the queue is full, it will be repeated.
    pub(super) fn challenge(&self, source: SocketAddr, bytes: &[u8]) {
        if bytes.len() != CHALLENGE_BYTES {
            return;
        }
        let _ = self.0.try_send(Event::Challenge(source, bytes.to_vec()));
    }

    /// Another service takes the place of the present one.
    pub(super) async fn replace_service(&self, service: SharedService) {
        let _ = self.0.send(Event::Service(service)).await;
    }

    /// The agents as the roster sees them.
    pub(super) async fn status(&self) -> Vec<AgentStatus> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(Event::Status(reply)).await;
        answer.await.unwrap_or_default()
    }
}

/// Runs the roster until its handles are gone.
pub(super) async fn run_roster(
    mut roster: Roster,
    mut events: mpsc::Receiver<Event>,
    clock: HostClock,
    shards: Shards,
) {
    let mut connections: BTreeMap<Slot, mpsc::Sender<Command>> = BTreeMap::new();
    // Kept across events: a deadline counted anew after each would never come while agents report often enough.
    let mut due = roster.poll_timeout(clock.now());
    loop {
        let wait = due - clock.now();
        let wait = Duration::from_nanos(wait.as_nanos().max(0).unsigned_abs());
        match tokio::time::timeout(wait, events.recv()).await {
            Ok(None) => return,
            Ok(Some(event)) => handle(&mut roster, event, &clock, &mut connections),
            Err(_) => {}
        }
        let now = clock.now();
        if now >= due {
            roster.handle_timeout(now);
            due = roster.poll_timeout(now);
        }
        while let Some(output) = roster.poll_output() {
            perform(output, &mut connections, &shards);
        }
    }
}

fn handle(
    roster: &mut Roster,
    event: Event,
    clock: &HostClock,
    connections: &mut BTreeMap<Slot, mpsc::Sender<Command>>,
) {
    let now = clock.now();
    match event {
        Event::Connected { name, address, certificate, reply } => {
            let slot = roster.handle_connected(now, &name, address, certificate);
            let connection = slot.map(|slot| {
                let (sender, receiver) = mpsc::channel(COMMANDS);
                connections.insert(slot, sender);
                (slot, receiver)
            });
            let _ = reply.send(connection);
        }
        Event::Disconnected(slot) => {
            connections.remove(&slot);
            roster.handle_disconnected(slot);
        }
        Event::Message(slot, message) => roster.handle_message(now, slot, *message),
        Event::Secret(slot, id, secret) => roster.handle_session(now, slot, id, secret),
        Event::Challenge(source, bytes) => roster.handle_challenge(now, source, &bytes),
        Event::Service(service) => roster.handle_service(now, service),
        Event::Status(reply) => {
            let _ = reply.send(roster.status(now));
        }
    }
}

fn perform(output: RosterOutput, connections: &mut BTreeMap<Slot, mpsc::Sender<Command>>, shards: &Shards) {
    let (slot, command) = match output {
        RosterOutput::Publish(view) => return shards.tell_all(|| ShardInput::Agent(Box::new(view.clone()))),
        RosterOutput::Retire(slot) => return shards.tell_all(|| ShardInput::AgentGone(slot)),
        RosterOutput::Say(slot, document) => (slot, Command::Say(document)),
        RosterOutput::OpenSession(slot, id) => (slot, Command::OpenSession(id)),
        RosterOutput::Close(slot) => (slot, Command::Close),
    };
    let closing = matches!(command, Command::Close);
    let stuck = connections.get(&slot).is_some_and(|connection| connection.try_send(command).is_err());
    if closing || stuck {
        // Without its sender the connection's task ends, after what was queued before.
        connections.remove(&slot);
    }
}

/// What every connection needs.
struct Server {
    tls: RefCell<ServerTls>,
    roster: RosterHandle,
    refusals: RefCell<LogGate>,
}

/// Accepts agents until the process ends. Runs on the thread that it is called on.
pub(super) async fn serve(listener: TcpListener, tls: ServerTls, roster: RosterHandle) {
    let refusals = RefCell::new(LogGate::default());
    let server = Rc::new(Server { tls: RefCell::new(tls), roster, refusals });
    let handshakes = Arc::new(tokio::sync::Semaphore::new(MAX_HANDSHAKES));
    let mut reload = tokio::time::interval(RELOAD_INTERVAL);
    loop {
        tokio::select! {
            _ = reload.tick() => match server.tls.borrow_mut().reload_if_changed() {
                Ok(true) => tracing::info!("certificates or revoked list changed: loaded"),
                Ok(false) => {}
                Err(error) => server.refuse("certificates", &Fault::new("certificates", error.to_string())),
            },
            accepted = accept(&listener, &handshakes) => {
                let (stream, peer, permit) = accepted;
                let server = Rc::clone(&server);
                tokio::task::spawn_local(async move { server.connection(stream, peer, permit).await });
            }
        }
    }
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, handshakes: &Arc<tokio::sync::Semaphore>) -> (TcpStream, SocketAddr, Permit) {
    loop {
        let Ok(permit) = Arc::clone(handshakes).acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            // Out of descriptors, or the peer gave up: wait a little rather than spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Server {
    /// Logs a refusal, once a minute per kind.
    fn refuse(&self, who: &str, fault: &Fault) {
        if let Some(suppressed) = self.refusals.borrow_mut().admit(fault.reason, Instant::now()) {
            tracing::warn!(%who, reason = fault.reason, suppressed, "refused: {}", fault.text);
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, permit: Permit) {
        let _ = crate::startup::prepare_control_stream(&stream);
        let acceptor = TlsAcceptor::from(self.tls.borrow().config());
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refuse(&peer.ip().to_string(), &error.into()),
            Err(_) => {
                let fault = Fault::new("handshake_timeout", "the TLS handshake took too long");
                return self.refuse(&peer.ip().to_string(), &fault);
            }
        };
        drop(permit);
        let chain: Vec<CertificateDer<'static>> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
        // The handshake has checked role and fleet; this only reads the name.
        let identity = match peer_identity(&chain) {
            Ok(identity) => identity,
            Err(error) => return self.refuse(&peer.ip().to_string(), &Fault::new("no_identity", error.to_string())),
        };
        let (reply, answer) = oneshot::channel();
        let certificate = chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
        let address = peer.ip().to_canonical();
        let connected = Event::Connected { name: identity.name.clone(), address, certificate, reply };
        if self.roster.0.send(connected).await.is_err() {
            return;
        }
        let Ok(Some((slot, commands))) = answer.await else {
            return self.refuse(&identity.name, &Fault::new("roster_full", "the roster is full"));
        };
        tracing::info!(agent = identity.name, %peer, "connected");
        let reason = self.converse(stream, slot, commands, &chain).await;
        tracing::info!(agent = identity.name, reason = reason.reason, "disconnected: {}", reason.text);
        let _ = self.roster.0.send(Event::Disconnected(slot)).await;
    }

    /// Moves documents both ways until the connection ends; why it did.
    async fn converse(
        &self,
        stream: tokio_rustls::server::TlsStream<TcpStream>,
        slot: Slot,
        mut commands: mpsc::Receiver<Command>,
        chain: &[CertificateDer<'static>],
    ) -> Fault {
        let mut channel = Channel::new(stream);
        let mut recheck = tokio::time::interval(RELOAD_INTERVAL);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                document = channel.read::<ToMaster>() => match document {
                    Ok(Some(document)) => {
                        heard = Instant::now();
                        if self.roster.0.send(Event::Message(slot, Box::new(document))).await.is_err() {
                            return Fault::new("stopping", "the master is stopping");
                        }
                    }
                    Ok(None) => return Fault::new("closed", "closed by the agent"),
                    Err(error) => return error.into(),
                },
                command = commands.recv() => match command {
                    Some(Command::Say(document)) => {
                        if let Err(error) = channel.write(&document).await {
                            return error.into();
                        }
                    }
                    Some(Command::OpenSession(id)) => {
                        match fast_path_secret(channel.stream().get_ref().1, &id.to_be_bytes()) {
                            Ok(secret) => { let _ = self.roster.0.send(Event::Secret(slot, id, secret)).await; }
                            Err(error) => return Fault::new("tls", error.to_string()),
                        }
                    }
                    Some(Command::Close) | None => return Fault::new("closed", "closed by the master"),
                },
                _ = recheck.tick() => {
                    if let Err(refusal) = self.tls.borrow().recheck(chain) {
                        let fault = Fault::from(refusal);
                        self.refuse("an open session", &fault);
                        return fault;
                    }
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Fault::new("silent", "silent for too long");
                    }
                }
            }
        }
    }
}
