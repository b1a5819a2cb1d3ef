//! Socket addresses as the kernel writes them, without the 128 bytes of a `sockaddr_storage` for each packet.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for the address of an IPv4 or IPv6 socket.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// Bytes that the kernel may write.
    pub(super) const ROOM: libc::socklen_t = size_of::<RawAddress>() as libc::socklen_t;

    /// No address yet.
    pub(super) const fn zeroed() -> Self {
        // SAFETY: both kinds of address are plain C structs for which all zeroes is a valid value.
        unsafe { std::mem::zeroed() }
    }

    /// An address, and how many bytes of it the kernel shall read.
    pub(super) fn of(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut raw = RawAddress::zeroed();
        match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The address that the kernel wrote; `None` of another family, or of none.
    pub(super) fn socket_addr(&self) -> Option<SocketAddr> {
        // SAFETY: every bit of the union is initialised, by `zeroed` at first, and any bits are a valid value of each of its
        // fields, which are integers and arrays of integers. The family lies at the start of both kinds.
        unsafe {
            match libc::c_int::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let (v6, ip) = (&self.v6, Ipv6Addr::from(self.v6.sin6_addr.s6_addr));
                    let port = u16::from_be(v6.sin6_port);
                    Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockAddr;

    #[test]
    fn the_same_bytes_as_the_socket_library_writes() {
        let scoped = SocketAddrV6::new("fe80::1:2".parse().expect("an address"), 5300, 7, 3);
        for address in ["192.0.2.1:53".parse().expect("an address"), SocketAddr::from(scoped)] {
            let (raw, length) = RawAddress::of(address);
            let library = SockAddr::from(address);
            assert_eq!(length, library.len());
            let bytes = |start: *const u8| {
                // SAFETY: both are at least `length` bytes long, and initialised.
                unsafe { std::slice::from_raw_parts(start, length as usize) }
            };
            assert_eq!(bytes((&raw const raw).cast()), bytes(library.as_ptr().cast()));
            assert_eq!(raw.socket_addr(), Some(address));
        }
        assert_eq!(RawAddress::zeroed().socket_addr(), None);
    }
}
