//! Who may notify, and who may have a zone.

use super::super::name::CanonicalName;
use super::super::tsig::Key;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// The network of an address and so many leading bits; `None` where the address has fewer, or has bits behind them.
    pub fn new(address: IpAddr, length: u8) -> Option<Network> {
        let (bits, width) = bits(address);
        let host = (width - u32::from(length).min(width)) as u8;
        let is_clean = host == 0 || bits & (u128::MAX >> (128 - u32::from(host))) == 0;
        (u32::from(length) <= width && is_clean).then_some(Network { address, length })
    }

    /// Whether an address lies in it; one of IPv4 within IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, width) = bits(self.address);
        let (other, other_width) = bits(address.to_canonical());
        let host = width - u32::from(self.length);
        width == other_width && (own ^ other).checked_shr(host).unwrap_or(0) == 0
    }
}

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// Another server of a zone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What requests to it are signed with, and what it must sign with.
    pub key: Option<Arc<Key>>,
}

/// Somebody who may have a zone: from these addresses, with this key; what is not stated is not asked for.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where it asks from.
    pub network: Option<Network>,
    /// What it signs with.
    pub key: Option<Arc<Key>>,
}

/// What holds for one zone.
#[derive(Clone, Debug, Default)]
pub struct ZonePolicy {
    /// Where the zone is transferred from; none for a zone of this master's own.
    pub primaries: Vec<Peer>,
    /// Who may have it; by default nobody.
    pub readers: Vec<Reader>,
    /// Who is told when it has changed.
    pub notified: Vec<Peer>,
}

/// What holds for all zones.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The keys that requests may be signed with.
    pub keys: Vec<Arc<Key>>,
    /// The zones that anything is said about.
    pub zones: BTreeMap<CanonicalName, ZonePolicy>,
}

impl Policy {
    /// Whether somebody may have a zone.
    pub fn may_read(&self, apex: &CanonicalName, from: IpAddr, key: Option<&Key>) -> bool {
        let readers = self.zones.get(apex).map_or(&[][..], |zone| &zone.readers);
        readers.iter().any(|reader| {
            reader.network.is_none_or(|network| network.contains(from)) && is_signed_with(reader.key.as_deref(), key)
        })
    }

    /// Whether word of a change is taken from somebody. RFC 1996 section 3.10: only from a zone's known primaries.
    pub fn may_notify(&self, apex: &CanonicalName, from: IpAddr, key: Option<&Key>) -> bool {
        let primaries = self.zones.get(apex).map_or(&[][..], |zone| &zone.primaries);
        primaries
            .iter()
            .any(|primary| primary.address.ip() == from.to_canonical() && is_signed_with(primary.key.as_deref(), key))
    }
}

fn is_signed_with(required: Option<&Key>, key: Option<&Key>) -> bool {
    required.is_none_or(|required| key.is_some_and(|key| key.name() == required.name()))
}
