//! DNS messages by hand: what is tested must not be what builds the test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use std::os::fd::AsRawFd;

/// A query of class IN for type A, without EDNS.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The same with an OPT record that asks for NSID (RFC 5001).
pub fn query_nsid(id: u16, name: &str) -> Vec<u8> {
    let mut message = query(id, name);
    message[11] = 1;
    // Root, OPT, 1,232 bytes of payload, no flags, four bytes of options: NSID (3), empty.
    message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0]);
    message
}

/// An answer to [`query`]'s message with one address: what a hand-made agent lets depart.
pub fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x84;
    message[7] = 1;
    // The owner is the question's name, at offset 12; A, IN, 30 s, four bytes.
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
    message.extend(address.octets());
    message
}

/// The message's id.
pub fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

/// Whether TC is set.
pub fn is_truncated(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

/// Every A record in the answer section of a message without surprises: its question's name and one pointer per owner.
pub fn addresses(message: &[u8]) -> Vec<Ipv4Addr> {
    let answers = u16::from_be_bytes([message[6], message[7]]);
    let mut rest = &message[12..];
    while let Some((&length, after)) = rest.split_first() {
        rest = &after[usize::from(length)..];
        if length == 0 {
            break;
        }
    }
    rest = &rest[4..];
    let mut found = Vec::new();
    for _ in 0..answers {
        assert_eq!(rest[0] & 0xc0, 0xc0, "an owner that is a pointer");
        let length = usize::from(u16::from_be_bytes([rest[10], rest[11]]));
        if rest[2..4] == [0, 1] {
            found.push(Ipv4Addr::new(rest[12], rest[13], rest[14], rest[15]));
        }
        rest = &rest[12 + length..];
    }
    found
}

/// Completes one query over TCP from `client`'s address, so that the master knows that it receives what is sent there.
pub fn validate(client: IpAddr, server: SocketAddr, name: &str) {
    let (IpAddr::V4(client), SocketAddr::V4(server)) = (client, server) else { panic!("IPv4 only") };
    let stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(stream.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(client, 0))).expect("a local address");
    connect(stream.as_raw_fd(), &SockaddrIn::from(server)).expect("the master listens");
    let mut stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    let query = query(7, name);
    stream.write_all(&(query.len() as u16).to_be_bytes()).and_then(|()| stream.write_all(&query)).expect("written");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(id(&answer), 7);
}
