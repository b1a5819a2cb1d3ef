//! Which address belongs to which host. All are documentation or shared space, so an agent's ban on private
//! destinations is in force. The first [`PREFIXES`] clients have a /24 each, so that each has its own budgets; those that
//! follow share them, one by one, as resolvers of one network do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::options::Host;

/// Port of every fast path.
const FAST_PATH_PORT: u16 = 5_300;
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// Prefixes of clients: every /24 of 100.64.0.0/10.
const PREFIXES: usize = 1 << 14;
/// The last octet of the first client in each prefix; the 64th's is 70.
const FIRST_IN_PREFIX: u8 = 7;

/// A host's own address.
pub(super) fn ip_of(host: Host) -> Ipv4Addr {
    match host {
        Host::Master(number) => Ipv4Addr::new(203, 0, 113, number as u8 + 1),
        Host::Agent(number) => Ipv4Addr::new(192, 0, 2, number as u8 + 1),
        Host::Client(number) => {
            let (prefix, place) = (number % PREFIXES, number / PREFIXES);
            Ipv4Addr::new(100, 64 + (prefix >> 8) as u8, prefix as u8, FIRST_IN_PREFIX + place as u8)
        }
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
        [100, high @ 64..128, low, place] => {
            let prefix = usize::from(high - 64) << 8 | usize::from(low);
            let place = usize::from(place.checked_sub(FIRST_IN_PREFIX)?);
            Some(Host::Client(place * PREFIXES + prefix))
        }
        _ => None,
    }
}

/// A client's address with a port, and a master's service address.
pub(crate) fn addresses_of(client: usize, port: u16, master: usize) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(IpAddr::V4(ip_of(Host::Client(client))), port), service(master))
}

/// The client that has this address.
pub(crate) fn client_at(address: SocketAddr) -> Option<usize> {
    match host_at(address) {
        Some(Host::Client(client)) => Some(client),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{MAX_CLIENTS, MAX_HOSTS};
    use startgun_core::rate::Prefix;
    use std::collections::BTreeSet;

    #[test]
    fn every_host_is_found_at_its_address_and_at_no_other() {
        let clients = [0, 1, 199, 255, 256, 16_383, 16_384, 16_385, 65_536, 999_999, MAX_CLIENTS - 1];
        let few = (0..MAX_HOSTS).flat_map(|number| [Host::Master(number), Host::Agent(number)]);
        for host in few.chain(clients.map(Host::Client)) {
            assert_eq!(host_at(fast_path(host)), Some(host));
        }
        assert_eq!(host_at(SocketAddr::from(([100, 64, 0, 6], 53))), None);
        assert_eq!(host_at(SocketAddr::from(([100, 128, 0, 7], 53))), None);
    }

    #[test]
    fn as_many_clients_as_there_are_prefixes_share_none() {
        let prefix = |number| Prefix::from(IpAddr::V4(ip_of(Host::Client(number))));
        assert_eq!((0..PREFIXES).map(prefix).collect::<BTreeSet<_>>().len(), PREFIXES);
        assert_eq!(prefix(PREFIXES), prefix(0));
    }
}
