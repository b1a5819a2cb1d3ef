//! Watching for a self-test's challenge, whose source is an address of the watcher's own.
//!
//! A datagram that comes from outside with one of this host's addresses as its source is a martian: the kernel drops it
//! (`fib_validate_source`) before any UDP socket sees it. A master usually owns the service address, so it watches with
//! AF_PACKET, which sits in front of that check, through a filter that lets only challenges through.

use crate::udp::op;
use crate::{check, set_option};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Can see datagrams to one UDP port that begin with one byte, once it watches.
#[derive(Debug)]
pub struct SourceObserver(OwnedFd);

/// A [`SourceObserver`] that watches.
#[derive(Debug)]
pub struct Watching(OwnedFd);

/// A datagram that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Who it claims to come from.
    pub source: SocketAddr,
    /// Where it goes to.
    pub destination: SocketAddr,
    /// Where its payload is within the buffer.
    pub payload: Range<usize>,
}

/// Ethernet protocols, as AF_PACKET knows them.
const ETH_IPV4: u32 = 0x0800;
const ETH_IPV6: u32 = 0x86dd;
/// Where classic BPF finds the packet's protocol.
const SKF_PROTOCOL: u32 = -0x1000_i32 as u32;
const UDP: u32 = 17;
/// Where classic BPF finds whom the frame was for, and the value for "another host" (a promiscuous interface hears those).
const SKF_PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
const PACKET_OTHERHOST: u32 = 3;
/// Malformed datagrams skipped in one call, so that a flood of them cannot hold the caller.
const SKIPPED_MAX: usize = 64;

impl SourceObserver {
    /// Prepares to watch for datagrams to `udp_port` whose payload begins with `first_payload_byte`.
    ///
    /// # Errors
    /// Without CAP_NET_RAW during set-up; the message says so.
    pub fn open(udp_port: u16, first_payload_byte: u8) -> io::Result<Self> {
        // SAFETY: takes numbers only. No protocol yet, so nothing is queued before the filter is there.
        let made = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
        });
        let descriptor = made.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), "watching for challenges needs CAP_NET_RAW during set-up")
            }
            _ => error,
        })?;
        // SAFETY: the descriptor is fresh and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // What this host itself sends is no proof that the network let it through.
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
        let program = filter(udp_port, first_payload_byte);
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)?;
        Ok(SourceObserver(socket))
    }

    /// Watches from now on, which needs no capability any more. The kernel then shows it every packet that arrives.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(self) -> io::Result<Watching> {
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: `address` is valid for reading and named with its true size.
        check(unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(Watching(self.0))
    }
}

impl Watching {
    /// The next datagram that was seen; `None` when there is none (or nothing but malformed ones so far).
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Observed>> {
        for _ in 0..SKIPPED_MAX {
            // SAFETY: `buffer` is valid for writing and named with its true length.
            let result = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            match check(result as libc::c_int) {
                Ok(length) => {
                    if let Some(observed) = parse(&buffer[..length as usize]) {
                        return Ok(Some(observed));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// IPv4 (any header length, not a fragment) or IPv6 UDP, to the port, first byte of the payload.
fn filter(port: u16, first: u8) -> Vec<libc::sock_filter> {
    let jump = |k: u32, yes: u8, no: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    };
    let load = |size: u32, mode: u32, k: u32| op(libc::BPF_LD | size | mode, k);
    let (byte, half, absolute, indexed) = (libc::BPF_B, libc::BPF_H, libc::BPF_ABS, libc::BPF_IND);
    let fragment =
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, jt: 12, jf: 0, k: 0x1fff };
    vec![
        load(half, absolute, SKF_PACKET_TYPE),
        jump(PACKET_OTHERHOST, 18, 0),
        /* 0 */ load(half, absolute, SKF_PROTOCOL),
        /* 1 */ jump(ETH_IPV4, 0, 9),
        /* 2 */ load(byte, absolute, 9),
        /* 3 */ jump(UDP, 0, 14),
        /* 4 */ load(half, absolute, 6),
        /* 5 */ fragment,
        /* 6 */ op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        /* 7 */ load(half, indexed, 2),
        /* 8 */ jump(u32::from(port), 0, 9),
        /* 9 */ load(byte, indexed, 8),
        /* 10 */ jump(u32::from(first), 8, 7),
        /* 11 */ jump(ETH_IPV6, 0, 6),
        /* 12 */ load(byte, absolute, 6),
        /* 13 */ jump(UDP, 0, 4),
        /* 14 */ load(half, absolute, 42),
        /* 15 */ jump(u32::from(port), 0, 2),
        /* 16 */ load(byte, absolute, 48),
        /* 17 */ jump(u32::from(first), 1, 0),
        /* 18: drop */ op(libc::BPF_RET | libc::BPF_K, 0),
        /* 19: keep */ op(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ]
}

fn parse(packet: &[u8]) -> Option<Observed> {
    let (source, destination, header): (IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let address =
                |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
            (address(12)?.into(), address(16)?.into(), usize::from(packet[0] & 15) * 4)
        }
        6 => {
            let address =
                |at: usize| packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from);
            (address(8)?.into(), address(24)?.into(), 40)
        }
        _ => return None,
    };
    let port = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let end = header + usize::from(port(header + 4)?);
    let payload = header + 8..end;
    packet.get(payload.clone())?;
    Some(Observed {
        source: SocketAddr::new(source, port(header)?),
        destination: SocketAddr::new(destination, port(header + 2)?),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{Options, UdpSocket};
    use std::time::{Duration, Instant};

    #[test]
    fn only_challenges_to_the_port_are_seen() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let any: SocketAddr = any.parse().expect("an address");
            let near = UdpSocket::bind(any, Options::default()).expect("a socket");
            let far = UdpSocket::bind(any, Options::default()).expect("a socket");
            let other = UdpSocket::bind(any, Options::default()).expect("a socket");
            let observer = match SourceObserver::open(far.address().port(), 0x5c) {
                Ok(observer) => observer,
                Err(error) => return println!("skipped: {error}"),
            };
            near.send_to(b"\x5c too early", far.address()).expect("sent");
            let mut observer = observer.watch().expect("watching");
            near.send_to(b"\x5a not a challenge", far.address()).expect("sent");
            near.send_to(b"\x5c elsewhere", other.address()).expect("sent");
            near.send_to(b"\x5c challenge", far.address()).expect("sent");
            let mut buffer = [0; 2_048];
            let end = Instant::now() + Duration::from_secs(1);
            let mut seen = Vec::new();
            while seen.is_empty() && Instant::now() < end {
                while let Some(observed) = observer.receive(&mut buffer).expect("watched") {
                    seen.push((observed.source, observed.destination, buffer[observed.payload].to_vec()));
                }
            }
            std::thread::sleep(Duration::from_millis(5));
            // Loopback would show a packet going out and coming in; only the latter counts.
            assert_eq!(observer.receive(&mut buffer).expect("watched"), None);
            assert_eq!(seen, [(near.address(), far.address(), b"\x5c challenge".to_vec())]);
        }
    }

    /// Runs `ip` in the calling thread's network namespace.
    fn ip(words: &str) -> Result<(), String> {
        let output =
            std::process::Command::new("ip").args(words.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    fn enter_new_network() -> Result<(), String> {
        // SAFETY: unshare takes a number; only the calling thread, which the test made, changes its network namespace.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map_err(|e| format!("a network namespace: {e}"))?;
        ip("link set lo up")
    }

    fn thread_id() -> i32 {
        // SAFETY: gettid takes nothing and cannot fail.
        unsafe { libc::gettid() }
    }

    /// Both ends of a veth, 192.0.2.1 and 192.0.2.2, each in the network of a thread of its own. Both networks and all in
    /// them end with the threads.
    fn spoof_between_two_networks() -> Result<(), String> {
        use std::sync::mpsc::channel;
        let (tell_id, far_id) = channel();
        let (tell_ready, ready) = channel::<()>();
        enter_new_network()?;
        let watcher: SocketAddr = "192.0.2.1:5300".parse().expect("an address");
        let far = std::thread::spawn(move || -> Result<(), String> {
            enter_new_network()?;
            tell_id.send(thread_id()).map_err(|e| e.to_string())?;
            ready.recv().map_err(|_| "the near network was not made".to_owned())?;
            ip("addr add 192.0.2.2/24 dev far")?;
            ip("link set far up")?;
            let options = Options { transparent: true, ..Options::default() };
            let spoofed = UdpSocket::bind("192.0.2.1:5301".parse().expect("an address"), options).expect("foreign");
            let honest =
                UdpSocket::bind("192.0.2.2:5301".parse().expect("an address"), Options::default()).expect("own");
            // Until the watcher has seen enough (it drops its end): the link takes a moment to come up, and an ARP request
            // lost meanwhile is repeated after a second only. At most 10 s.
            for _ in 0..2_000 {
                if ready.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    break;
                }
                spoofed.send_to(b"\x5c spoofed", watcher).expect("sent");
                honest.send_to(b"\x5c honest", watcher).expect("sent");
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let id = far_id.recv().map_err(|_| "the far network was not made".to_owned());
        let prepared = id.and_then(|id| {
            ip("link add near type veth peer name far")?;
            ip(&format!("link set far netns {id}"))?;
            ip("addr add 192.0.2.1/24 dev near")?;
            ip("link set near up")
        });
        if let Err(reason) = prepared {
            drop(tell_ready);
            let _ = far.join();
            return Err(reason);
        }
        let socket = UdpSocket::bind(watcher, Options::default()).expect("a socket");
        let mut observer = SourceObserver::open(watcher.port(), 0x5c).expect("root").watch().expect("watching");
        tell_ready.send(()).map_err(|e| e.to_string())?;
        let mut buffer = [0; 2_048];
        let mut seen = std::collections::BTreeSet::new();
        let mut delivered = std::collections::BTreeSet::new();
        let (clock, mut batch) = (crate::host_clock::HostClock::new(None), crate::udp::ReceiveBatch::new(64));
        let end = Instant::now() + Duration::from_secs(8);
        while (seen.len() < 2 || delivered.is_empty()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            while let Some(observed) = observer.receive(&mut buffer).expect("watched") {
                assert_eq!(observed.destination, watcher);
                seen.insert((observed.source.ip().to_string(), buffer[observed.payload].to_vec()));
            }
            while socket.receive(&mut batch, &clock).expect("received") > 0 {
                delivered.extend(batch.iter().map(|packet| packet.source.ip().to_string()));
            }
        }
        drop(tell_ready);
        far.join().expect("no panic")?;
        while socket.receive(&mut batch, &clock).expect("received") > 0 {
            delivered.extend(batch.iter().map(|packet| packet.source.ip().to_string()));
        }
        assert!(seen.contains(&("192.0.2.1".to_owned(), b"\x5c spoofed".to_vec())), "{seen:?}");
        assert!(seen.contains(&("192.0.2.2".to_owned(), b"\x5c honest".to_vec())), "{seen:?}");
        // The reason why there is an observer at all.
        assert!(delivered.contains("192.0.2.2"), "{delivered:?}");
        assert!(!delivered.contains("192.0.2.1"), "{delivered:?}");
        Ok(())
    }

    #[test]
    fn a_challenge_from_the_watchers_own_address_is_seen_though_no_socket_gets_it() {
        if !crate::privileges::is_root() {
            return println!("skipped: network namespaces need root");
        }
        // A thread of its own, because its network changes for good.
        match std::thread::spawn(spoof_between_two_networks).join().expect("no panic") {
            Ok(()) => {}
            Err(reason) => println!("skipped: {reason}"),
        }
    }

    #[test]
    fn short_packets_are_not_parsed() {
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&[0, 1, 0, 2, 0, 12, 0, 0, 9, 9, 9, 9]);
        let observed = parse(&packet).expect("whole");
        assert_eq!(packet[observed.payload], [9; 4]);
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length]), None, "{length} bytes");
        }
    }
}
