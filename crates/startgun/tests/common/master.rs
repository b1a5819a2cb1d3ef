//! A hand-made master: says what a master says to a real agent, and orders what the test wants, when it wants it.

use super::{Documents, Stage, Udp, now, provider, wait_for};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use startgun_core::control::{EXPORTER_LABEL, PROTOCOL, ToAgent, ToMaster};
use startgun_core::dns::Answers;
use startgun_core::playbook::{LatePolicy, Playbook, PlaybookRace};
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::session::CHALLENGE;
use startgun_core::wire::{Binding, Direction, Frame, Opener, Order, Receipt, Sealer, TransmitIdentifier};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The hand-made timeline: the raw clock of this host and this much.
pub const TIMELINE: Span = Span::from_secs(1_000_000);
/// What the agent's site answers.
pub const SITE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const SESSION: u64 = 0x5e55_1014;
const TOKEN: [u8; 16] = [0x7e; 16];

/// The hand-made timeline at an instant of the raw clock.
pub fn race_time(at: LocalTime) -> RaceTime {
    RaceTime::of_master(at + TIMELINE)
}

/// Whether exchanges are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchanges {
    Answered,
    Ignored,
}

/// `www.cdn.test`, A, for the agent's site. Late answers are dropped, but late only means half a second: what a busy
/// machine does to a departure is measured here, not cut off.
pub fn playbook() -> Playbook {
    let race = PlaybookRace {
        name: "www.cdn.test.".into(),
        ttl_s: 30,
        late: LatePolicy::Drop,
        late_tolerance: Span::from_millis(500),
        answers: Answers { a: vec![SITE_ADDRESS], ..Answers::default() },
        signatures: vec![],
    };
    Playbook { races: vec![race] }
}

#[derive(Default)]
struct Shared {
    secret: Mutex<Option<[u8; 32]>>,
    challenged: AtomicBool,
    tested: AtomicBool,
    kept: AtomicBool,
    stop: AtomicBool,
}

/// Sealing and receipts, for the test and for the thread that answers exchanges.
struct FastPath {
    sealer: Sealer,
    receipts: Vec<Receipt>,
}

/// A hand-made master with one agent.
pub struct HandMaster {
    agent: SocketAddr,
    service: SocketAddr,
    socket: Arc<Mutex<Udp>>,
    fast: Arc<Mutex<FastPath>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    races: u64,
}

impl HandMaster {
    /// Listens on the stage's addresses. Start the agent while this waits in [`HandMaster::welcome`].
    pub fn listen(stage: &Stage) -> TcpListener {
        TcpListener::bind(stage.control()).expect("a loopback address")
    }

    /// Takes the agent in: session, playbook and self-test. Returns when it has acknowledged all of them.
    pub fn welcome(stage: &Stage, listener: &TcpListener, exchanges: Exchanges) -> Self {
        let shared = Arc::new(Shared::default());
        let (stream, _) = listener.accept().expect("the agent dials");
        let connection =
            Connection { documents: accept(stage, stream), shared: Arc::clone(&shared), stage: stage.service() };
        let fast_address = stage.master_fast();
        let mut socket = Udp::bind(fast_address);
        let control = std::thread::spawn(move || connection.run(fast_address));
        let secret = wait_for("the agent's hello", || *shared.secret.lock().expect("held"));
        let binding = Binding { id: SESSION, secret, master: "m1".into(), epoch: Epoch(77) };
        let fast = Arc::new(Mutex::new(FastPath {
            sealer: Sealer::new(&binding, Direction::MasterToAgent, 0),
            receipts: Vec::new(),
        }));
        let sender = Udp::bind(stage.address(1, super::FAST_PORT + 1));
        let responder = Responder {
            opener: Opener::new(&binding, Direction::AgentToMaster, 0),
            fast: Arc::clone(&fast),
            shared: Arc::clone(&shared),
            agent: stage.agent_fast(0),
            service: stage.service(),
            exchanges,
        };
        let answering = std::thread::spawn(move || responder.run(&mut socket));
        wait_for("playbook kept and self-test passed", || {
            (shared.kept.load(Ordering::SeqCst) && shared.tested.load(Ordering::SeqCst)).then_some(())
        });
        HandMaster {
            agent: stage.agent_fast(0),
            service: stage.service(),
            socket: Arc::new(Mutex::new(sender)),
            fast,
            shared,
            threads: vec![control, answering],
            races: 0,
        }
    }

    /// Sends one sealed frame to the agent; when it left, at the earliest and at the latest.
    pub fn say(&self, frame: &Frame<'_>) -> (LocalTime, LocalTime) {
        let mut fast = self.fast.lock().expect("held");
        let bytes = seal(&mut fast.sealer, frame);
        self.socket.lock().expect("held").send(&bytes, self.agent)
    }

    /// Orders an answer to `query` for `client`; the race's number.
    pub fn order(&mut self, transmit: TransmitIdentifier, query: &[u8], client: SocketAddr) -> u64 {
        self.races += 1;
        let order = Order {
            race: self.races,
            revision: 0,
            transmit,
            sent: race_time(now()),
            playbook: playbook().version(),
            name: 0,
            service: self.service,
            client,
            query,
            cookie: None,
            proof: &[],
            proof_count: 0,
        };
        self.say(&Frame::Order(order));
        self.races
    }

    /// Sends an unsolicited synchronisation signal; how long after the instant that it names it had left, at most.
    pub fn sync_signal(&self) -> Span {
        let sent = now();
        let (_, latest) = self.say(&Frame::SyncSignal { sent: race_time(sent) });
        latest - sent
    }

    /// The receipts so far.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.fast.lock().expect("held").receipts.clone()
    }
}

impl Drop for HandMaster {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn seal(sealer: &mut Sealer, frame: &Frame<'_>) -> Vec<u8> {
    let (mut plain, mut bytes) = (Vec::new(), Vec::new());
    frame.encode(&mut plain);
    sealer.seal(&plain, &mut bytes);
    bytes
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn accept(stage: &Stage, stream: TcpStream) -> Documents<Tls> {
    let identity = stage.identity("m1");
    let mut roots = RootCertStore::empty();
    identity.ca.into_iter().for_each(|ca| roots.add(ca).expect("a CA"));
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().expect("a verifier");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .expect("an identity");
    config.alpn_protocols = vec![b"startgun/1".to_vec()];
    config.send_tls13_tickets = 0;
    stream.set_nodelay(true).expect("a socket");
    let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).expect("a handshake");
    }
    tls.sock.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
    Documents::new(tls)
}

/// The control channel, on a thread of its own.
struct Connection {
    documents: Documents<Tls>,
    shared: Arc<Shared>,
    stage: SocketAddr,
}

impl Connection {
    fn run(mut self, fast_path: SocketAddr) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let Ok(document) = self.documents.read::<ToMaster>() else { return };
            let answered = match document {
                Some(ToMaster::Hello { .. }) => self.hello(fast_path),
                Some(ToMaster::PlaybookKept { version }) => {
                    assert_eq!(version, playbook().version());
                    self.shared.kept.store(true, Ordering::SeqCst);
                    Ok(())
                }
                Some(ToMaster::SessionKept { id }) => {
                    assert_eq!(id, SESSION);
                    let secret = self.documents.stream.conn.export_keying_material(
                        [0; 32],
                        EXPORTER_LABEL,
                        Some(&SESSION.to_be_bytes()),
                    );
                    *self.shared.secret.lock().expect("held") = Some(secret.expect("the handshake is complete"));
                    self.documents.write(&ToAgent::SelfTest { service: self.stage, token: TOKEN, to: None })
                }
                Some(ToMaster::Report(_) | ToMaster::Paths(_)) | None => Ok(()),
            };
            let challenged = self.shared.challenged.load(Ordering::SeqCst);
            let passed = if challenged && !self.shared.tested.swap(challenged, Ordering::SeqCst) {
                self.documents.write(&ToAgent::Tested { service: self.stage, passed: true })
            } else {
                Ok(())
            };
            if answered.and(passed).is_err() {
                return;
            }
        }
    }

    fn hello(&mut self, fast_path: SocketAddr) -> std::io::Result<()> {
        let welcome =
            ToAgent::Welcome { protocol: PROTOCOL, master: "m1".into(), epoch: Epoch(77), shards: 1, fast_path };
        self.documents.write(&welcome)?;
        self.documents.write(&ToAgent::Session { id: SESSION })?;
        self.documents.write(&ToAgent::Playbook(playbook()))
    }
}

/// Takes what the agent sends on the fast path.
struct Responder {
    opener: Opener,
    fast: Arc<Mutex<FastPath>>,
    shared: Arc<Shared>,
    agent: SocketAddr,
    service: SocketAddr,
    exchanges: Exchanges,
}

impl Responder {
    fn run(mut self, socket: &mut Udp) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let Some(packet) = socket.receive(now() + Span::from_millis(20)) else { continue };
            if packet.bytes.first() == Some(&CHALLENGE) {
                let right = packet.source == self.service && packet.bytes[1..] == TOKEN;
                self.shared.challenged.fetch_or(right, Ordering::SeqCst);
                continue;
            }
            let mut plain = Vec::new();
            self.opener.open(&packet.bytes, &mut plain).expect("a datagram of this session");
            for frame in frames(&plain) {
                match frame.expect("well-formed") {
                    Frame::SyncRequest { exchange } if self.exchanges == Exchanges::Answered => {
                        let mut fast = self.fast.lock().expect("held");
                        let reply = Frame::SyncReply {
                            exchange,
                            received: race_time(packet.at),
                            replied: race_time(now()),
                            previous: (0, RaceTime::from_nanos(0)),
                        };
                        let bytes = seal(&mut fast.sealer, &reply);
                        socket.send(&bytes, self.agent);
                    }
                    Frame::SyncRequest { .. } => {}
                    Frame::Receipt(receipt) => self.fast.lock().expect("held").receipts.push(receipt),
                    other => panic!("{other:?} from an agent"),
                }
            }
        }
    }
}
