//! DNS messages by hand: what is tested must not be what builds the test.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Type A.
pub const A: u16 = 1;
/// Type TXT.
pub const TXT: u16 = 16;
/// RCODEs of RFC 1035.
pub const FORMERR: u8 = 1;
/// As above.
pub const NOTIMP: u8 = 4;
/// As above.
pub const REFUSED: u8 = 5;

/// A query of class IN, without EDNS.
pub fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(rtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// The same with EDNS (RFC 6891) for 1,232 bytes, asking for the server's name (NSID, RFC 5001).
pub fn query_with_nsid(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut message = query(id, name, rtype);
    message[11] = 1;
    message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0]);
    message
}

/// A query with EDNS and one option (RFC 6891 section 6.1.2).
pub fn query_with_option(id: u16, name: &str, rtype: u16, code: u16, data: &[u8]) -> Vec<u8> {
    let mut message = query(id, name, rtype);
    message[11] = 1;
    message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    for word in [4 + data.len() as u16, code, data.len() as u16] {
        message.extend(word.to_be_bytes());
    }
    message.extend(data);
    message
}

/// What an option of the message holds; `None` where the message has no such option.
pub fn option(message: &[u8], code: u16) -> Option<&[u8]> {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let mut at = 12;
    for number in 0..(2..6).map(|count| word(2 * count)).sum() {
        // A name ends with the root or with a pointer.
        while !matches!(message[at], 0 | 0xc0..) {
            at += 1 + usize::from(message[at]);
        }
        at += if message[at] == 0 { 1 } else { 2 };
        if number < word(4) {
            at += 4;
            continue;
        }
        let end = at + 10 + usize::from(word(at + 8));
        if word(at) == 41 {
            let mut options = at + 10;
            while options < end {
                let data = options + 4..options + 4 + usize::from(word(options + 2));
                if word(options) == code {
                    return Some(&message[data]);
                }
                options = data.end;
            }
        }
        at = end;
    }
    None
}

/// The message's RCODE.
pub fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

/// Whether TC is set.
pub fn is_truncated(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

/// The address in a message whose last record is an A; `None` without answers.
pub fn address(message: &[u8]) -> Option<Ipv4Addr> {
    let has_answer = message.len() > 16 && message[6..8] != [0, 0];
    let last = message.last_chunk::<4>()?;
    has_answer.then(|| Ipv4Addr::from(*last))
}

/// Everything that arrives within `patience`, with the time since the call.
pub fn receive_all(socket: &UdpSocket, patience: Duration) -> Vec<(Vec<u8>, SocketAddr, Duration)> {
    let started = Instant::now();
    let mut arrived = Vec::new();
    let mut buffer = [0; 4_096];
    while let Some(left) = patience.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).expect("a time-out");
        if let Ok((length, source)) = socket.recv_from(&mut buffer) {
            arrived.push((buffer[..length].to_vec(), source, started.elapsed()));
        }
    }
    arrived
}
