//! The load: queries with fresh names, as a resolver's user sends them, and a record of what came back.
//!
//! Every query must race, so that none may come from a resolver's cache: names under the wildcard are numbered and
//! never repeat. A user's program repeats an unanswered query, and so does this one: after each second, for five in all.
//!
//! Where no real resolver is installed, [`Ask::Service`] makes the load its own resolver ("builtin"): it asks the
//! service address itself, takes the first answer and drops the rest, and repeats over TCP what comes back truncated.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ToName};
use domain::rdata::A;

/// A query not answered within this time, repeats included, is given up.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An unanswered query is repeated this often.
pub const REPEAT_EVERY: Duration = Duration::from_secs(1);

/// Queries open at once: 800 a second for all of [`PATIENCE`]. More are not sent until some are closed.
pub const OPEN_MAX: usize = 4_000;

/// TCP repeats open at once; a server asks for one only until it knows the client.
const TCP_OPEN_MAX: usize = 8;

/// Answer bytes offered over UDP (EDNS), the size that avoids fragments (DNS flag day 2020).
const UDP_ANSWER_BYTES: u16 = 1232;

/// Longest wait for one datagram, so that a stop is noticed.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Shortest wait: 0 would mean "for ever".
const SHORTEST_WAIT: Duration = Duration::from_micros(100);

/// Whom the load asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A resolver: recursion desired.
    Resolver(SocketAddr),
    /// The service address itself: the built-in resolver.
    Service(SocketAddr),
}

impl Ask {
    /// The address asked.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Resolver(address) | Self::Service(address) => address,
        }
    }
}

/// A load to be run on a thread of its client's host.
#[derive(Debug, Clone)]
pub struct Load {
    /// Whom to ask.
    pub ask: Ask,
    /// The name below which every name exists, for example `www.cdn.test.`.
    pub wildcard_base: Name<Vec<u8>>,
    /// Start of each name's first label; different for each client and each attempt, at most 40 bytes. The name of
    /// query `n` is `PREFIX-n.BASE`.
    pub prefix: String,
    /// Time between two queries.
    pub interval: Duration,
    /// Time before the first query: different for each client, or all race at the same instant.
    pub start_after: Duration,
    /// No query is sent after this time.
    pub duration: Duration,
}

/// What others may see of a running load, and the way to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Queries sent, repeats not counted.
    pub sent: AtomicU64,
    /// Queries answered.
    pub answered: AtomicU64,
    /// Set to stop sending; open queries are still waited for.
    pub stop: AtomicBool,
}

/// What became of one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRecord {
    /// Its number, from 0.
    pub number: u64,
    /// When it was first sent, from the start of the load.
    pub sent_after: Duration,
    /// Time from the first sending to the answer; `None` if none came within [`PATIENCE`].
    pub answered_after: Option<Duration>,
    /// The first address in the answer.
    pub address: Option<Ipv4Addr>,
    /// Times it was sent.
    pub sendings: u32,
    /// Whether the answer came over TCP.
    pub over_tcp: bool,
}

impl Load {
    /// Asks until the duration is over or it is told to stop, and waits for the last answers. Blocks.
    ///
    /// # Errors
    /// The error of opening the socket; `InvalidInput` for a prefix that makes no label.
    pub fn run(&self, progress: &Progress) -> io::Result<Vec<QueryRecord>> {
        // The first name tells whether all can be made.
        query(self.ask, &self.name_of(u64::MAX)?, 0)?;
        let mut run = Run::new(self, progress)?;
        while !run.is_over() {
            run.send_new()?;
            run.repeat_and_give_up();
            run.receive()?;
        }
        run.records.sort_by_key(|record| record.number);
        Ok(run.records)
    }

    /// The name of query `number`.
    ///
    /// # Errors
    /// `InvalidInput` when prefix and base make no name.
    pub fn name_of(&self, number: u64) -> io::Result<Name<Vec<u8>>> {
        let text = format!("{}-{number}.{}.", self.prefix, self.wildcard_base);
        text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("name {text}: {error}")))
    }
}

/// Asks for one name once and waits for at most `patience`: for finding out whether a resolver works. Blocks.
///
/// # Errors
/// The error of the socket; no answer, or one without an address, is `Ok(None)`.
pub fn ask_once(ask: Ask, name: &Name<Vec<u8>>, patience: Duration) -> io::Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind(any_address(ask))?;
    let message = query(ask, name, 1)?;
    socket.send_to(&message, ask.address())?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left.max(SHORTEST_WAIT)))?;
        let Ok((length, source)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if source != ask.address() {
            continue;
        }
        match read_answer(&buffer[..length], 1, name) {
            Answer::Address(address) => return Ok(Some(address)),
            Answer::Truncated => {
                let answer = ask_over_tcp(ask.address(), &message, left);
                return Ok(match answer.map(|bytes| read_answer(&bytes, 1, name)) {
                    Ok(Answer::Address(address)) => Some(address),
                    _ => None,
                });
            }
            Answer::Empty => return Ok(None),
            Answer::Foreign => {}
        }
    }
}

struct Open {
    number: u64,
    name: Name<Vec<u8>>,
    first_sent: Instant,
    next_repeat: Instant,
    sendings: u32,
}

struct Run<'a> {
    load: &'a Load,
    progress: &'a Progress,
    socket: UdpSocket,
    start: Instant,
    next_number: u64,
    next_id: u16,
    open: HashMap<u16, Open>,
    records: Vec<QueryRecord>,
    /// Query id and message.
    tcp_answers: mpsc::Receiver<(u16, Vec<u8>)>,
    tcp_answered: mpsc::Sender<(u16, Vec<u8>)>,
    tcp_open: Arc<()>,
    stopped: bool,
}

impl<'a> Run<'a> {
    fn new(load: &'a Load, progress: &'a Progress) -> io::Result<Self> {
        let (tcp_answered, tcp_answers) = mpsc::channel();
        Ok(Self {
            load,
            progress,
            socket: UdpSocket::bind(any_address(load.ask))?,
            start: Instant::now(),
            next_number: 0,
            next_id: 0x5347,
            open: HashMap::new(),
            records: Vec::new(),
            tcp_answers,
            tcp_answered,
            tcp_open: Arc::new(()),
            stopped: false,
        })
    }

    /// When the next new query is to be sent; `None` when all have been.
    fn next_send(&self) -> Option<Instant> {
        let number = u32::try_from(self.next_number).ok()?;
        let after = self.load.start_after + self.load.interval.checked_mul(number)?;
        (!self.stopped && after < self.load.duration).then(|| self.start + after)
    }

    fn is_over(&mut self) -> bool {
        self.stopped |= self.progress.stop.load(Ordering::Relaxed);
        self.next_send().is_none() && self.open.is_empty()
    }

    fn send_new(&mut self) -> io::Result<()> {
        while let Some(due) = self.next_send() {
            let now = Instant::now();
            if due > now || self.open.len() >= OPEN_MAX {
                return Ok(());
            }
            let name = self.load.name_of(self.next_number)?;
            while self.open.contains_key(&self.next_id) {
                self.next_id = self.next_id.wrapping_add(1);
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let open =
                Open { number: self.next_number, name, first_sent: now, next_repeat: now + REPEAT_EVERY, sendings: 1 };
            self.next_number += 1;
            self.send(id, &open.name)?;
            self.open.insert(id, open);
            self.progress.sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn send(&self, id: u16, name: &Name<Vec<u8>>) -> io::Result<()> {
        let message = query(self.load.ask, name, id)?;
        // A refused sending (an ICMP error of an earlier one, a full buffer) is a lost packet: the repeat makes it good.
        let _ = self.socket.send_to(&message, self.load.ask.address());
        Ok(())
    }

    fn repeat_and_give_up(&mut self) {
        let now = Instant::now();
        let given_up: Vec<u16> =
            self.open.iter().filter(|(_, open)| now >= open.first_sent + PATIENCE).map(|(&id, _)| id).collect();
        for id in given_up {
            self.close(id, None, false);
        }
        let mut repeats = Vec::new();
        for (&id, open) in &mut self.open {
            if now >= open.next_repeat {
                open.next_repeat += REPEAT_EVERY;
                open.sendings += 1;
                repeats.push((id, open.name.clone()));
            }
        }
        for (id, name) in repeats {
            // The same message was made before.
            let _ = self.send(id, &name);
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        while let Ok((id, bytes)) = self.tcp_answers.try_recv() {
            self.take_answer(&bytes, Some(id));
        }
        let now = Instant::now();
        let next = self
            .open
            .values()
            .map(|open| open.next_repeat.min(open.first_sent + PATIENCE))
            .chain(self.next_send())
            .min();
        let wait =
            next.map_or(LONGEST_WAIT, |next| next.saturating_duration_since(now)).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        self.socket.set_read_timeout(Some(wait))?;
        let mut buffer = [0; 4096];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, source)) if source == self.load.ask.address() => {
                self.take_answer(&buffer[..length], None);
            }
            // Time-outs, strangers, and ICMP errors of earlier sendings.
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn take_answer(&mut self, bytes: &[u8], tcp_id: Option<u16>) {
        let Some(id) = bytes.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return;
        };
        if tcp_id.is_some_and(|expected| expected != id) {
            return;
        }
        // Losers of the race find no open query: the first answer closed it.
        let Some(open) = self.open.get(&id) else {
            return;
        };
        match read_answer(bytes, id, &open.name) {
            Answer::Address(address) => self.close(id, Some(address), tcp_id.is_some()),
            Answer::Truncated if tcp_id.is_none() => self.repeat_over_tcp(id),
            // An error may pass: the repeat asks again.
            Answer::Truncated | Answer::Empty | Answer::Foreign => {}
        }
    }

    fn repeat_over_tcp(&mut self, id: u16) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        if Arc::strong_count(&self.tcp_open) > TCP_OPEN_MAX {
            return;
        }
        let Ok(message) = query(self.load.ask, &open.name, id) else {
            return;
        };
        let server = self.load.ask.address();
        let answers = self.tcp_answered.clone();
        let counted = Arc::clone(&self.tcp_open);
        let patience = (open.first_sent + PATIENCE).saturating_duration_since(Instant::now());
        // Without a thread the UDP repeat still comes.
        let _ = thread::Builder::new().name("load-tcp".to_owned()).spawn(move || {
            if let Ok(bytes) = ask_over_tcp(server, &message, patience) {
                // Fails only when the load is over.
                let _ = answers.send((id, bytes));
            }
            drop(counted);
        });
    }

    fn close(&mut self, id: u16, address: Option<Ipv4Addr>, over_tcp: bool) {
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        if address.is_some() {
            self.progress.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.records.push(QueryRecord {
            number: open.number,
            sent_after: open.first_sent - self.start,
            answered_after: address.map(|_| open.first_sent.elapsed()),
            address,
            sendings: open.sendings,
            over_tcp,
        });
    }
}

fn any_address(ask: Ask) -> SocketAddr {
    match ask.address() {
        SocketAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into(),
        SocketAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).into(),
    }
}

fn query(ask: Ask, name: &Name<Vec<u8>>, id: u16) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "query too long");
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(matches!(ask, Ask::Resolver(_)));
    let mut builder = builder.question();
    builder.push((name, Rtype::A, Class::IN)).map_err(too_long)?;
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(UDP_ANSWER_BYTES);
            Ok(())
        })
        .map_err(too_long)?;
    Ok(builder.finish())
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Address(Ipv4Addr),
    Truncated,
    /// An error, or no address.
    Empty,
    /// Not an answer to this query, or not readable.
    Foreign,
}

fn read_answer(bytes: &[u8], id: u16, name: &Name<Vec<u8>>) -> Answer {
    let Ok(message) = Message::from_octets(bytes) else {
        return Answer::Foreign;
    };
    let header = message.header();
    if !header.qr() || header.id() != id {
        return Answer::Foreign;
    }
    let is_ours =
        message.sole_question().is_ok_and(|question| question.qtype() == Rtype::A && question.qname().name_eq(name));
    if !is_ours {
        return Answer::Foreign;
    }
    if header.tc() {
        return Answer::Truncated;
    }
    if header.rcode() != Rcode::NOERROR {
        return Answer::Empty;
    }
    let Ok(answer) = message.answer() else {
        return Answer::Empty;
    };
    answer.limit_to_in::<A>().flatten().next().map_or(Answer::Empty, |record| Answer::Address(record.data().addr()))
}

/// RFC 1035 section 4.2.2: "The message is prefixed with a two byte length field".
fn ask_over_tcp(server: SocketAddr, message: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let patience = patience.max(SHORTEST_WAIT);
    let deadline = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    let left = || deadline.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT);
    stream.set_write_timeout(Some(left()))?;
    stream.set_read_timeout(Some(left()))?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.set_read_timeout(Some(left()))?;
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
