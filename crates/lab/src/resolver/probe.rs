//! Telling when a resolver has come up.
//!
//! A bound socket is too early: several bind it before they have read their configuration to the end. So it is asked a
//! question that it answers by itself, `version.bind` in class CHAOS, until anything comes back; a refusal will do. Nothing of it
//! leaves the host, and no race is run for it.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// One attempt's wait for an answer: all resolvers answer this question within a few milliseconds once they run.
const ATTEMPT: Duration = Duration::from_millis(200);

/// The pause after a port that is not open yet; the start takes 20 to 500 ms.
const PAUSE: Duration = Duration::from_millis(10);

/// `version.bind TXT CH`, RD set as from any stub (RFC 1035, section 4.1); the first two octets are the id.
const QUESTION: [u8; 30] = *b"\x53\x47\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
\x07version\x04bind\x00\x00\x10\x00\x03";

/// Finds out whether a resolver answers. To be used on its host.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    address: SocketAddr,
}

impl Probe {
    /// A probe of the resolver at an IPv4 loopback address.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Asks once and waits for at most 200 ms. Blocks.
    ///
    /// # Errors
    /// The error of the socket, other than a port that is not open yet.
    pub fn answers(&self) -> io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(ATTEMPT))?;
        let mut answer = [0; 512];
        match socket.send(&QUESTION).and_then(|_| socket.recv(&mut answer)) {
            // Our id and the bit that marks a response.
            Ok(length) => Ok(length >= 12 && answer[..2] == QUESTION[..2] && answer[2] & 0x80 != 0),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::WouldBlock | ErrorKind::TimedOut
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks until it answers and returns how long that took. Blocks for at most about `limit`.
    ///
    /// # Errors
    /// `TimedOut` when it does not answer in time; otherwise the error of the socket.
    pub fn wait(&self, limit: Duration) -> io::Result<Duration> {
        let start = Instant::now();
        loop {
            if self.answers()? {
                return Ok(start.elapsed());
            }
            if start.elapsed() >= limit {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("no answer from {} within {limit:?}", self.address),
                ));
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_answers_at_a_closed_port_and_an_echo_is_no_answer() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = socket.local_addr().expect("its address");
        let echo = thread::spawn(move || {
            let mut buffer = [0; 512];
            for turn in 0..2 {
                let (length, peer) = socket.recv_from(&mut buffer).expect("a question");
                assert_eq!(buffer[..length], QUESTION);
                if turn == 1 {
                    buffer[2] |= 0x80;
                }
                socket.send_to(&buffer[..length], peer).expect("an answer leaves");
            }
        });
        let probe = Probe::new(address);
        assert!(!probe.answers().expect("a working socket"), "an echo");
        assert!(probe.answers().expect("a working socket"), "a response");
        echo.join().expect("the echo works");
        assert!(!probe.answers().expect("a working socket"), "a closed port");
        let error = probe.wait(Duration::ZERO).expect_err("a closed port");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
