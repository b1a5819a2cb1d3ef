//! DNS over TCP (RFC 7766) and over TLS (RFC 7858, RFC 9539): answers from the zones, and proves that a source is real.
//!
//! A client that has completed a query over TCP has shown that it receives what is sent to its address; the shard that its
//! queries are steered to is told, and lets it race. Nothing is raced over a stream itself.
//!
//! Connections are held by strangers, so everything that one can hold has a bound: a place ([`places`]), memory
//! ([`pool`]), time ([`conversation`]). And they cost processor time, handshakes above all. So they have a thread of their
//! own: on the control plane's, a flood of handshakes would delay the agents' reports until they stand down.
//!
//! ```text
//!  listener (TCP) ─┐  a place?  ┌───────────────── task ──────────────────┐
//!                  ├──────────▶ │ [handshake] ▶ connection ⇄ conversation │ ──▶ core: the answer
//!  listener (TLS) ─┘            └────────────────────┬────────────────────┘
//!                                                    └──▶ the source's shard: it may race
//! ```
//!
//! RFC 9210 says what operators need of a server over TCP. TCP Fast Open (RFC 7413) is left off: data in a SYN would prove
//! nothing about where it came from.

mod connection;
mod conversation;
mod padding;
mod places;
mod pool;
mod tally;

use super::reload::Current;
use super::secondary::Notices;
use super::shards::{ShardInput, Shards};
use crate::config::{StreamConfig, StreamLimits};
use crate::control::tls::{LogGate, TlsError};
use crate::dns_tls::{DnsTls, VALID_NOW};
use crate::startup;
use crate::status::StreamsDocument;
use connection::{READ_BYTES, ReadBuffer};
use conversation::{End, Reply};
use places::{Place, Places};
use pool::Pool;
use socket2::SockRef;
use startgun_core::master::transfer::{self, Asking};
use startgun_core::master::{Counters, central};
use startgun_core::time::Span;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tally::Tally;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Connections that wait in the kernel until they are accepted: what comes within a tenth of a second at 10,000 a second.
const BACKLOG: i32 = 1_024;
/// What the kernel may keep of one connection's answers, in bytes (it takes twice as much memory): two of the longest
/// answers. Left to itself it would take up to 4 MB for a client that does not read.
const SEND_BUFFER_BYTES: usize = 131_072;
/// Records that rustls may keep for one connection, in bytes; what it cannot give to the kernel it takes no more of.
const TLS_BUFFER_BYTES: usize = 16_384;
/// Zones on their way out at a time. Each keeps the version that it began with in memory, and takes the thread of connections
/// 0.1 ms for 16 KB: with one on its way other clients wait no longer than that.
const TRANSFERS_MAX: usize = 16;
/// A listener that cannot accept waits this long before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the certificate's files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// What a connection runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

/// What an answer must know of the connection that it leaves by.
#[derive(Clone, Copy, Debug)]
struct Road {
    /// Who is at the other end: server cookies are made for it.
    peer: IpAddr,
    /// Over TLS, answers are padded for who pads its queries.
    transport: Transport,
    /// TIMEOUT of edns-tcp-keepalive (RFC 7828), in units of 100 ms; 0 where the client is to close the connection when
    /// it has its answers.
    keepalive: u16,
}

/// Sockets and certificate, before anything is served.
pub(super) struct Front {
    listeners: Vec<(std::net::TcpListener, Transport)>,
    limits: StreamLimits,
    tls: Option<Arc<DnsTls>>,
}

impl Front {
    /// Listens on each service address and, where it is configured, for TLS; reads the certificate.
    ///
    /// # Errors
    /// A sentence for the operator, with the address or file at fault.
    pub(super) fn bind(services: &[SocketAddr], config: &StreamConfig) -> Result<Self, String> {
        let listen = |key: &str, address: &SocketAddr, transport| {
            let listener = startup::listen(key, *address)?;
            // Accepted connections inherit the buffer.
            let socket = SockRef::from(&listener);
            let set = socket.set_send_buffer_size(SEND_BUFFER_BYTES).and_then(|()| socket.listen(BACKLOG));
            set.map_err(|error| format!("{key} {address}: {error}"))?;
            Ok((listener, transport))
        };
        let plain = services.iter().map(|address| listen("service address (TCP)", address, Transport::Tcp));
        let tls_addresses = config.tls.iter().flat_map(|tls| &tls.addresses);
        let encrypted = tls_addresses.map(|address| listen("service address (TLS)", address, Transport::Tls));
        let listeners = plain.chain(encrypted).collect::<Result<_, String>>()?;
        let tls = config.tls.as_ref().map(|tls| DnsTls::load(&tls.files)).transpose();
        let tls = tls.map_err(|error| error.to_string())?.map(Arc::new);
        Ok(Front { listeners, limits: config.limits, tls })
    }

    /// Starts the thread that serves them.
    ///
    /// # Errors
    /// A sentence for the operator, where the kernel gives no thread or descriptor.
    pub(super) fn spawn(
        self,
        current: Current,
        shards: Shards,
        notices: Notices,
    ) -> Result<(Streams, StreamsThread), String> {
        let fault = |error: io::Error| format!("starting the thread of connections: {error}");
        let runtime = startup::runtime()?;
        let listeners = {
            let _guard = runtime.enter();
            let from_std = |(listener, transport)| Ok((TcpListener::from_std(listener)?, transport));
            self.listeners.into_iter().map(from_std).collect::<io::Result<Vec<_>>>().map_err(fault)?
        };
        let streams = Streams { tally: Arc::default(), tls: self.tls };
        let (limits, tls, tally) = (self.limits, streams.tls.clone(), Arc::clone(&streams.tally));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("streams".into()).spawn(move || {
            let server = Rc::new(Server::new((current, shards, notices), limits, tls, tally));
            let local = tokio::task::LocalSet::new();
            for (listener, transport) in listeners {
                local.spawn_local(Rc::clone(&server).accept(listener, transport));
            }
            local.spawn_local(server.watch_certificate());
            // Connections end with it; who waits for an answer asks again (RFC 7766 section 6.2.4).
            let _ = local.block_on(&runtime, stopped);
        });
        let thread = thread.map_err(fault)?;
        Ok((streams, StreamsThread { stop, thread }))
    }
}

/// What the rest of the program sees of the connections.
#[derive(Clone)]
pub(super) struct Streams {
    tally: Arc<Tally>,
    tls: Option<Arc<DnsTls>>,
}

impl Streams {
    /// Counters by name.
    pub(super) fn counters(&self) -> Counters {
        self.tally.counters()
    }

    /// What `status` shows beside the counters.
    pub(super) fn document(&self) -> StreamsDocument {
        StreamsDocument {
            open_tcp: self.tally.open(Transport::Tcp),
            open_tls: self.tally.open(Transport::Tls),
            certificate_not_after_unix_s: self.tls().map(|tls| tls.validity().not_after_unix_s),
        }
    }

    /// The certificate, where one is configured: [`DnsTls::reload`] reads it again.
    pub(super) fn tls(&self) -> Option<&DnsTls> {
        self.tls.as_deref()
    }
}

/// The thread that serves connections.
pub(super) struct StreamsThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl StreamsThread {
    /// Ends it and waits for it.
    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// What every connection needs.
struct Server {
    current: Current,
    shards: Shards,
    notices: Notices,
    queries_per_connection: u32,
    message_timeout: Duration,
    tls: Option<Arc<DnsTls>>,
    places: Places,
    pool: Pool,
    tally: Arc<Tally>,
    read_buffer: ReadBuffer,
    /// One holder more than there are zones on their way out.
    transfers: Rc<()>,
    faults: RefCell<LogGate>,
}

impl Server {
    fn new(
        (current, shards, notices): (Current, Shards, Notices),
        limits: StreamLimits,
        tls: Option<Arc<DnsTls>>,
        tally: Arc<Tally>,
    ) -> Self {
        let StreamLimits { connections, connections_per_prefix, queries_per_connection, idle_timeout, message_timeout } =
            limits;
        let places = places::Limits { connections, connections_per_prefix, idle_timeout: duration(idle_timeout) };
        Server {
            current,
            shards,
            notices,
            queries_per_connection,
            message_timeout: duration(message_timeout),
            tls,
            places: Places::new(places, Arc::clone(&tally)),
            pool: Pool::default(),
            tally,
            read_buffer: RefCell::new(vec![0; READ_BYTES].into()),
            transfers: Rc::new(()),
            faults: RefCell::default(),
        }
    }

    /// Accepts connections until the process ends.
    async fn accept(self: Rc<Self>, listener: TcpListener, transport: Transport) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => match self.places.enter(peer.ip(), transport, Instant::now()) {
                    Ok(place) => {
                        let server = Rc::clone(&self);
                        tokio::task::spawn_local(async move {
                            let end = server.connection(stream, peer.ip(), transport, &place).await;
                            server.tally.count(end);
                        });
                    }
                    Err(refusal) => self.tally.count(tally::refusals(refusal)),
                },
                // The peer has given up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.refused_by_kernel(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Out of descriptors or memory. A connection that goes gives a descriptor back. Linux looks for a descriptor before it
    /// looks whether somebody waits, so one is kept free.
    fn refused_by_kernel(&self, error: &io::Error) {
        self.tally.count(tally::ACCEPTS_FAILED);
        self.places.dismiss_idlest(Instant::now());
        if let Some(suppressed) = self.faults.borrow_mut().admit("accept", Instant::now()) {
            tracing::warn!(suppressed, "accepting connections: {error}");
        }
    }

    /// Serves one connection to its end; the counter that the end belongs to.
    async fn connection(
        &self,
        mut stream: TcpStream,
        peer: IpAddr,
        transport: Transport,
        place: &Place,
    ) -> &'static str {
        // Answers that belong together are written together; there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        match transport {
            Transport::Tcp => {
                let end = connection::serve(&mut stream, peer, transport, place, self).await;
                reset_where_due(end, &stream);
                tally::ends(end)
            }
            Transport::Tls => match self.handshake(stream, place).await {
                Ok(mut stream) => {
                    let end = connection::serve(&mut stream, peer, transport, place, self).await;
                    reset_where_due(end, stream.get_ref().0);
                    tally::ends(end)
                }
                Err(counter) => counter,
            },
        }
    }

    /// The server's side of a TLS handshake, which like a message must be over in time.
    async fn handshake(
        &self,
        stream: TcpStream,
        place: &Place,
    ) -> Result<tokio_rustls::server::TlsStream<TcpStream>, &'static str> {
        // A listener for TLS is there only with a certificate.
        let Some(tls) = &self.tls else { return Err(tally::ends(End::Broken)) };
        let accepting = TlsAcceptor::from(tls.config())
            .accept_with(stream, |connection| connection.set_buffer_limit(Some(TLS_BUFFER_BYTES)));
        let accepted = tokio::select! {
            () = place.dismissed() => return Err(tally::ends(End::Evicted)),
            accepted = tokio::time::timeout(self.message_timeout, accepting) => accepted,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(tally::handshake_failures(&error)),
            Err(_) => return Err(tally::HANDSHAKES_TIMED_OUT),
        };
        self.tally.count(tally::HANDSHAKES);
        if stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.tally.count(tally::HANDSHAKES_RESUMED);
        }
        Ok(stream)
    }

    /// The answer to a message, in `buffer`; `None` for silence. `is_last`: the connection ends after it.
    fn answer(
        &self,
        message: &[u8],
        (peer, transport): (IpAddr, Transport),
        is_last: bool,
        buffer: Vec<u8>,
    ) -> Option<Reply> {
        if transfer::concerns(message) {
            return self.answer_of_transfer(message, peer);
        }
        let keepalive = if is_last { 0 } else { self.places.keepalive() };
        answer(&self.current, message, Road { peer, transport, keepalive }, buffer).map(Reply::Message)
    }

    /// The answer to NOTIFY, to a request for a transfer, and to whatever is signed. Those are not padded: what is signed
    /// must stay as it is, and the sizes of zones are no secret of their clients.
    fn answer_of_transfer(&self, message: &[u8], peer: IpAddr) -> Option<Reply> {
        let may_transfer = Rc::strong_count(&self.transfers) <= TRANSFERS_MAX;
        let asking = Asking { from: peer.to_canonical(), is_stream: true, unix_s: unix_s(), may_transfer };
        match transfer::answer(&self.current.service(), message, asking) {
            transfer::Answer::Silence => None,
            transfer::Answer::Message { bytes, notified } => {
                if let Some(apex) = notified {
                    self.notices.changed(apex);
                }
                Some(Reply::Message(bytes))
            }
            transfer::Answer::Zone(mut zone) => {
                self.tally.count(tally::TRANSFERS);
                tracing::info!(zone = %zone.apex(), serial = zone.serial(), to = %peer, "sending a zone");
                let under_way = Rc::clone(&self.transfers);
                Some(Reply::Series(Box::new(move |buffer| {
                    let _counted = &under_way;
                    zone.next_message(unix_s(), buffer)
                })))
            }
        }
    }

    /// Lets a source race.
    fn validate(&self, source: IpAddr) {
        self.shards.tell_owner(source, ShardInput::Validated(source));
    }

    /// Takes a new certificate over when its files have changed, and says when the one in force is over.
    async fn watch_certificate(self: Rc<Self>) {
        let Some(tls) = self.tls.clone() else { return };
        let mut interval = tokio::time::interval(RELOAD_INTERVAL);
        let warn = |kind: &str, text: &dyn std::fmt::Display| {
            if let Some(suppressed) = self.faults.borrow_mut().admit(kind, Instant::now()) {
                tracing::warn!(suppressed, "DNS over TLS: {text}");
            }
        };
        loop {
            interval.tick().await;
            match tls.reload_if_changed() {
                Ok(true) => tracing::info!("DNS over TLS: the certificate changed: loaded"),
                Ok(false) => {}
                Err(error) => warn("certificate", &kept(&error)),
            }
            if let Some(doubt) = tls.validity().doubt() {
                warn("validity", &format!("found {doubt}, expected {VALID_NOW}"));
            }
        }
    }
}

/// The one call into core, by what is served at the moment.
fn answer(current: &Current, message: &[u8], road: Road, buffer: Vec<u8>) -> Option<Vec<u8>> {
    let cookies = current.cookies();
    let stream = central::Stream {
        peer: road.peer.to_canonical(),
        keepalive: Some(road.keepalive),
        cookies: &cookies,
        unix_s: unix_s() as u32,
    };
    let mut answer = central::answer_tcp(&current.service(), message, &stream, buffer)?;
    if road.transport == Transport::Tls {
        padding::pad(message, &mut answer);
    }
    Some(answer)
}

/// A client that does not take its answers gets a reset: closed in order, the kernel would go on offering them for minutes.
fn reset_where_due(end: End, stream: &TcpStream) {
    if matches!(end, End::Unread | End::NoMemory) {
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

fn kept(error: &TlsError) -> String {
    format!("{error}; the earlier certificate stays in force")
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    (startup::unix_ns() / 1_000_000_000).unsigned_abs()
}

fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.as_nanos().unsigned_abs())
}
