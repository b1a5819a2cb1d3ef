//! A hand-made agent: says what an agent says to a real master, and does with an order what the test wants.

use super::{Documents, Packet, Stage, Udp, median, now, provider, wait_for};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use startgun_core::control::{
    AgentReport, ClockFigures, EXPORTER_LABEL, ForwardDelay, PROTOCOL, StandDown, ToAgent, ToMaster,
};
use startgun_core::playbook::Playbook;
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::session::{CHALLENGE, header};
use startgun_core::wire::{Binding, Direction, Frame, Opener, Receipt, Sealer, SessionId, TransmitIdentifier};
use startgun_net::udp::{Options, UdpSocket};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the agent reports, so that what a test claims is soon known.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// What the control channel's thread and the test share.
#[derive(Default)]
struct Shared {
    /// What the agent claims: its forward delay, and how wrong its clock may be.
    forward: Mutex<Option<(Span, Span)>>,
    welcome: Mutex<Option<(Epoch, u8)>>,
    session: Mutex<Option<Binding>>,
    playbook: Mutex<Option<Playbook>>,
    tested: AtomicBool,
    stop: AtomicBool,
}

/// An order as the agent got it, without its borrow.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// The kernel's receive timestamp.
    pub received: LocalTime,
    pub race: u64,
    pub revision: u8,
    pub at: Option<RaceTime>,
    pub signal: Option<u64>,
    pub sent: RaceTime,
    pub playbook: u64,
    pub service: SocketAddr,
    pub client: SocketAddr,
    pub query: Vec<u8>,
}

impl Ordered {
    /// T, on the master's clock, which is this host's.
    pub fn transmit_at(&self) -> LocalTime {
        self.at.expect("an instant").to_master()
    }
}

/// What came on the fast path.
#[derive(Clone, Debug)]
pub enum Heard {
    Order(Ordered),
    SyncReply {
        exchange: u32,
        received: RaceTime,
        replied: RaceTime,
        previous: (u32, RaceTime),
        at: LocalTime,
    },
    SyncSignal {
        sent: RaceTime,
        at: LocalTime,
    },
    /// See [`Frame::Utc`].
    Utc,
    Signal {
        id: u64,
        at: LocalTime,
    },
}

/// An agent's control channel, kept by a thread of its own.
pub struct Control {
    /// The session's keys.
    pub binding: Binding,
    /// The master's shards.
    pub shards: u8,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Connects the agent of this name, whose orders go to `fast_path`, answers everything that the master wants of it, and
    /// returns when it has session, playbook and a passed self-test. It reports itself ready with this forward delay.
    pub fn connect(stage: &Stage, name: &str, fast_path: SocketAddr, forward: Span, report_interval: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.forward.lock().expect("held") = Some((forward, Span::ZERO));
        let connection = Connection::open(stage, name, fast_path, report_interval, Arc::clone(&shared));
        let thread = std::thread::spawn(move || connection.run());
        let binding = wait_for("a session, a playbook and a passed self-test", || {
            let ready = shared.tested.load(Ordering::SeqCst) && shared.playbook.lock().expect("held").is_some();
            shared.session.lock().expect("held").clone().filter(|_| ready)
        });
        let (_, shards) = shared.welcome.lock().expect("held").expect("welcomed");
        Control { binding, shards, shared, thread: Some(thread) }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A hand-made agent.
pub struct HandAgent {
    pub fast: Udp,
    master: SocketAddr,
    service: SocketAddr,
    openers: BTreeMap<u8, Opener>,
    sealers: BTreeMap<u8, Sealer>,
    control: Control,
    /// Frames of a datagram that were not asked for yet.
    heard: Vec<Heard>,
}

impl HandAgent {
    /// Connects the agent with this place and name, see [`Control::connect`].
    pub fn connect(stage: &Stage, index: usize, name: &str, forward: Span) -> Self {
        let fast = Udp::bind(stage.agent_fast(index));
        let control = Control::connect(stage, name, stage.agent_fast(index), forward, REPORT_INTERVAL);
        let Control { binding, shards, .. } = &control;
        HandAgent {
            fast,
            master: stage.master_fast(),
            service: stage.service(),
            openers: (0..*shards).map(|s| (s, Opener::new(binding, Direction::MasterToAgent, s))).collect(),
            sealers: (0..*shards).map(|s| (s, Sealer::new(binding, Direction::AgentToMaster, s))).collect(),
            control,
            heard: Vec::new(),
        }
    }

    /// Reports another forward delay and clock error from now on.
    pub fn claim(&self, forward: Span, expected_error: Span) {
        *self.control.shared.forward.lock().expect("held") = Some((forward, expected_error));
    }

    /// The playbook that the master pushed.
    pub fn playbook(&self) -> Playbook {
        self.control.shared.playbook.lock().expect("held").clone().expect("pushed")
    }

    /// The epoch of the master's timeline, as it said in its welcome.
    pub fn epoch(&self) -> Epoch {
        self.control.shared.welcome.lock().expect("held").expect("welcomed").0
    }

    /// Opens a datagram; `None` where its seal does not fit. Each opens once.
    pub fn open(&mut self, packet: &Packet) -> Option<Vec<Heard>> {
        let (_, shard) = header(&packet.bytes)?;
        let mut plain = Vec::new();
        self.openers.get_mut(&shard)?.open(&packet.bytes, &mut plain).ok()?;
        Some(frames(&plain).map(|frame| heard(packet.at, frame.expect("well-formed"))).collect())
    }

    /// The next frame of a kind that `want` takes, before `deadline`; others are thrown away.
    pub fn hear<T>(&mut self, deadline: LocalTime, want: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        loop {
            while !self.heard.is_empty() {
                if let Some(found) = want(&self.heard.remove(0)) {
                    return Some(found);
                }
            }
            let packet = self.fast.receive(deadline)?;
            self.heard = self.open(&packet).expect("a datagram of this session");
        }
    }

    /// The next order, before `deadline`.
    pub fn order(&mut self, deadline: LocalTime) -> Option<Ordered> {
        self.hear(deadline, |heard| if let Heard::Order(order) = heard { Some(order.clone()) } else { None })
    }

    /// Says something to a shard of the master; when it left, at the earliest and at the latest.
    pub fn say(&mut self, shard: u8, frame: &Frame<'_>) -> (LocalTime, LocalTime) {
        let (mut plain, mut bytes) = (Vec::new(), Vec::new());
        frame.encode(&mut plain);
        self.sealers.get_mut(&shard).expect("a shard").seal(&plain, &mut bytes);
        self.fast.send(&bytes, self.master)
    }

    /// Tells the master what became of an order.
    pub fn receipt(&mut self, receipt: Receipt) {
        self.say((receipt.race >> 56) as u8, &Frame::Receipt(receipt));
    }

    /// Lets an answer depart now, with the service address as its source.
    pub fn depart(&self, answer: &[u8], to: SocketAddr) {
        service_socket(self.service).send_to(answer, to).expect("sent");
    }

    /// The median of race − local over so many exchanges, each within its proven limits.
    pub fn exchange(&mut self, count: u32) -> Span {
        let offsets = (1..=count).map(|exchange| {
            let (before, _) = self.say(0, &Frame::SyncRequest { exchange });
            let reply = self.hear(now() + Span::from_secs(5), |heard| match heard {
                Heard::SyncReply { exchange: answered, received, replied, at, .. } if *answered == exchange => {
                    Some((*received, *replied, *at))
                }
                _ => None,
            });
            let (received, replied, at) = reply.expect("an answer");
            assert!(received <= replied, "received before it was replied to");
            let offset = |race: RaceTime, local: LocalTime| Span::from_nanos(race.as_nanos() - local.as_nanos());
            Span::from_nanos(i64::midpoint(offset(received, before).as_nanos(), offset(replied, at).as_nanos()))
        });
        median(offsets.collect())
    }
}

/// A socket that speaks as the service address beside the master's own.
pub fn service_socket(service: SocketAddr) -> UdpSocket {
    UdpSocket::bind(service, Options { reuse_port: true, ..Options::default() }).expect("a shared address")
}

fn heard(at: LocalTime, frame: Frame<'_>) -> Heard {
    match frame {
        Frame::Order(order) => Heard::Order(Ordered {
            received: at,
            race: order.race,
            revision: order.revision,
            at: if let TransmitIdentifier::At(at) = order.transmit { Some(at) } else { None },
            signal: if let TransmitIdentifier::On(id) = order.transmit { Some(id) } else { None },
            sent: order.sent,
            playbook: order.playbook,
            service: order.service,
            client: order.client,
            query: order.query.to_vec(),
        }),
        Frame::SyncReply { exchange, received, replied, previous } => {
            Heard::SyncReply { exchange, received, replied, previous, at }
        }
        Frame::SyncSignal { sent } => Heard::SyncSignal { sent, at },
        Frame::Utc(_) => Heard::Utc,
        Frame::Signal { id } => Heard::Signal { id, at },
        Frame::Receipt(_) | Frame::SyncRequest { .. } => panic!("{frame:?} from a master"),
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// The control channel, on a thread of its own.
struct Connection {
    documents: Documents<Tls>,
    shared: Arc<Shared>,
    hello: ToMaster,
    master_fast: SocketAddr,
    report_interval: Duration,
}

impl Connection {
    fn open(stage: &Stage, name: &str, fast_path: SocketAddr, report_interval: Duration, shared: Arc<Shared>) -> Self {
        let identity = stage.identity(name);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(identity.chain, identity.key)
            .expect("an identity");
        config.alpn_protocols = vec![b"startgun/1".to_vec()];
        config.enable_sni = false;
        let unnamed = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let connection = ClientConnection::new(Arc::new(config), unnamed).expect("a connection");
        let stream = TcpStream::connect(stage.control()).expect("the master listens");
        stream.set_nodelay(true).expect("a socket");
        let mut tls = StreamOwned::new(connection, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).expect("a handshake");
        }
        tls.sock.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let hello = ToMaster::Hello {
            protocol: PROTOCOL,
            site: name.into(),
            fast_path,
            services: vec![stage.service()],
            playbook: None,
            mesh_salt: None,
        };
        Connection { documents: Documents::new(tls), shared, hello, master_fast: stage.master_fast(), report_interval }
    }

    fn run(mut self) {
        self.documents.write(&self.hello).expect("written");
        let mut report_at = Instant::now();
        while !self.shared.stop.load(Ordering::SeqCst) {
            // The master's end may come first when a test is over.
            let Ok(document) = self.documents.read::<ToAgent>() else { return };
            if document.is_some_and(|document| self.answer(document).is_err()) {
                return;
            }
            if Instant::now() >= report_at {
                report_at = Instant::now() + self.report_interval;
                let claimed = *self.shared.forward.lock().expect("held");
                if claimed.is_some_and(|claimed| self.documents.write(&ToMaster::Report(report(claimed))).is_err()) {
                    return;
                }
            }
        }
    }

    fn answer(&mut self, document: ToAgent) -> std::io::Result<()> {
        match document {
            ToAgent::Welcome { epoch, shards, .. } => {
                *self.shared.welcome.lock().expect("held") = Some((epoch, shards));
            }
            ToAgent::Session { id } => {
                let secret = self.secret(id);
                let (epoch, _) = self.shared.welcome.lock().expect("held").expect("a welcome comes first");
                let binding = Binding { id, secret, master: "m1".into(), epoch };
                *self.shared.session.lock().expect("held") = Some(binding);
                self.documents.write(&ToMaster::SessionKept { id })?;
            }
            ToAgent::Playbook(playbook) => {
                self.documents.write(&ToMaster::PlaybookKept { version: playbook.version() })?;
                *self.shared.playbook.lock().expect("held") = Some(playbook);
            }
            ToAgent::SelfTest { service, token, to: _ } => {
                let mut challenge = vec![CHALLENGE];
                challenge.extend(token);
                service_socket(service).send_to(&challenge, self.master_fast).expect("sent");
            }
            ToAgent::Tested { passed, .. } => self.shared.tested.store(passed, Ordering::SeqCst),
            ToAgent::Peers { .. } | ToAgent::Mesh(_) => {}
            ToAgent::Refused { reason } => panic!("refused: {reason}"),
        }
        Ok(())
    }

    fn secret(&self, id: SessionId) -> [u8; 32] {
        let context = id.to_be_bytes();
        self.documents
            .stream
            .conn
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&context))
            .expect("the handshake is complete")
    }
}

fn report((forward, expected_error): (Span, Span)) -> AgentReport {
    let clock = ClockFigures {
        offset: Span::ZERO,
        bound: Some(Span::from_millis(1)),
        expected_error: Some(expected_error),
        conditional: false,
        least_round_trip: None,
        samples: 100,
        steps: 0,
        source: None,
    };
    AgentReport {
        stand_down: None::<StandDown>,
        by_after: None,
        clock: Some(clock),
        forward_delay: Some(ForwardDelay { p99: forward, greatest: forward, samples: 100 }),
        lateness: None,
        mesh: None,
        counters: BTreeMap::new(),
    }
}

/// Takes any server: what is tested is the master, which this test has started itself.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
