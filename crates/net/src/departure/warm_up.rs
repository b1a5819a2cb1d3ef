//! Going the way before the packet does.
//!
//! A thread that slept finds the kernel's send path cold: its code, its tables and their address translations have been
//! displaced by whatever ran meanwhile. The first datagram then takes tens of microseconds instead of a few, and varies by as
//! much. A lead hides the median of that, nothing hides its spread. So, once per wait and well before the call, a
//! datagram goes to oneself over loopback: all but the route and the driver is the same.

use crate::host_clock::HostClock;
use crate::udp::{Options, ReceiveBatch, UdpSocket};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Datagrams of one warm-up: the second finds what the first has fetched, and is three times as quick.
const DATAGRAMS: usize = 2;
/// Room for what comes back.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A socket that talks to itself.
pub(super) struct WarmUp {
    /// None where there is no loopback.
    socket: Option<UdpSocket>,
    received: ReceiveBatch,
}

impl WarmUp {
    /// For sending as the address is: over IPv4 or IPv6.
    pub(super) fn new(like: Option<SocketAddr>) -> Self {
        let address = match like {
            Some(SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            _ => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let options =
            Options { transmit_timestamps: true, receive_buffer_bytes: RECEIVE_BUFFER_BYTES, ..Options::default() };
        WarmUp { socket: UdpSocket::bind(address, options).ok(), received: ReceiveBatch::new(DATAGRAMS) }
    }

    /// Goes the way.
    pub(super) fn run(&self) {
        if let Some(socket) = &self.socket {
            for _ in 0..DATAGRAMS {
                // One that does not leave warms what it reached.
                let _ = socket.send_to(&[0; 64], socket.address());
            }
        }
    }

    /// Takes in what came back. Undone, the socket's buffer fills, and the last part of the way stays cold.
    pub(super) fn clear(&mut self, clock: &HostClock) {
        if let Some(socket) = &self.socket {
            let _ = socket.receive(&mut self.received, clock);
            let _ = socket.drain_transmit_timestamps(clock, &mut |_, _| ());
        }
    }
}
