//! A client of DNS over TCP or TLS, made by hand: it can send what no resolver sends, when none would.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::dns;
use super::fleet::{PLAIN, SERVICE};
use super::network::Host;

/// Whatever must come has come by then, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
pub struct Client<S> {
    /// What it runs over.
    pub stream: S,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Closed,
    /// By a reset.
    Reset,
    /// Not at all, within [`PATIENCE`].
    Open,
}

/// Connects from a host.
pub fn connect_to(host: &Host, server: SocketAddr) -> TcpStream {
    let stream = host.run(move || TcpStream::connect_timeout(&server, PATIENCE)).expect("the master listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// A connection to the service address from a host.
pub fn connect(host: &Host) -> Client<TcpStream> {
    Client { stream: connect_to(host, SERVICE) }
}

/// A query for the plain name's TXT record, some 200 bytes of answer.
pub fn query(id: u16) -> Vec<u8> {
    dns::query(id, PLAIN, dns::TXT)
}

/// Messages, each after its length.
pub fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let frame = |message: &Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    messages.iter().flat_map(frame).collect()
}

impl<S: Read + Write> Client<S> {
    /// Sends bytes in one write.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("sent");
    }

    /// The next message.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut message)?;
        Ok(message)
    }

    /// Asks with this id and checks the answer.
    pub fn ask(&mut self, id: u16) {
        self.send(&framed(&[query(id)]));
        let answer = self.receive().expect("an answer");
        assert_eq!((id_of(&answer), dns::rcode(&answer)), (id, 0));
    }

    /// Everything that is still to come, and how it ended.
    pub fn receive_rest(&mut self) -> (Vec<Vec<u8>>, Ending) {
        let mut messages = Vec::new();
        loop {
            match self.receive() {
                Ok(message) => messages.push(message),
                Err(error) => return (messages, ending(&error)),
            }
        }
    }
}

fn ending(error: &io::Error) -> Ending {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ending::Closed,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ending::Reset,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ending::Open,
        kind => panic!("{kind:?}: {error}"),
    }
}

impl Client<TcpStream> {
    /// Whether the connection is open still: nothing is to be read.
    pub fn is_open(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let open = matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).expect("a socket");
        open
    }
}

/// The message's id.
pub fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}
