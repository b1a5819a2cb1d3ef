//! Which address belongs to which host. All are documentation or shared space, so an agent's ban on private
//! destinations is in force; every client has a /24 of its own, so that each has its own budgets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::options::Host;

/// Port of every fast path.
const FAST_PATH_PORT: u16 = 5_300;
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// A host's own address.
pub(super) fn ip_of(host: Host) -> Ipv4Addr {
    match host {
        Host::Master(number) => Ipv4Addr::new(203, 0, 113, number as u8 + 1),
        Host::Agent(number) => Ipv4Addr::new(192, 0, 2, number as u8 + 1),
        Host::Client(number) => Ipv4Addr::new(100, 64, number as u8, 7),
    }
}

/// Where sealed datagrams reach a host.
pub(super) fn fast_path(host: Host) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip_of(host)), FAST_PATH_PORT)
}

/// A master's service address.
pub(super) fn service(master: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, master as u8 + 1], DNS_PORT))
}

/// The host that packets to this address reach; `None` where nobody is.
pub(super) fn host_at(address: SocketAddr) -> Option<Host> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    match ip.octets() {
        [203, 0, 113, number] | [198, 51, 100, number] => Some(Host::Master(usize::from(number.checked_sub(1)?))),
        [192, 0, 2, number] => Some(Host::Agent(usize::from(number.checked_sub(1)?))),
        [100, 64, number, _] => Some(Host::Client(usize::from(number))),
        _ => None,
    }
}
