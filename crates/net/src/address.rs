//! Socket addresses as the kernel wants them.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for either family's address.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddress {
    pub(crate) family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Bytes of [`RawAddress`]: what to give the kernel as room for an address.
pub(crate) const RAW_ADDRESS_BYTES: libc::socklen_t =
    mem::size_of::<RawAddress>() as libc::socklen_t;

impl RawAddress {
    /// An address of no family.
    pub(crate) const fn zeroed() -> Self {
        // SAFETY: all variants are plain C structs for which all zeroes is a valid value.
        unsafe { mem::zeroed() }
    }

    /// The kernel's form of `address`, and its length in bytes.
    pub(crate) fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut raw = Self::zeroed();
        match address {
            SocketAddr::V4(address) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (raw, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(address) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                (raw, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The address the kernel wrote, or `None` when it is of neither family.
    pub(crate) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and the union was zeroed or filled before.
        match libc::c_int::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: the kernel fills a whole sockaddr_in for this family; every bit pattern of it is valid.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                // The flow label of a received packet is of no use to an answer; equal clients must compare equal.
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// The address that stands for "no address was given": 0.0.0.0:0.
pub(crate) const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:5353", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::new(address).0.read(), Some(address), "{text}");
        }
        assert_eq!(RawAddress::zeroed().read(), None);
    }
}
