//! Zone transfers: `[[tsig_key]]`, and what a `[[zone]]` says of its primaries and secondaries.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use startgun_core::dns::CanonicalName;
use startgun_core::dns::transfer::{Network, Peer, Policy, Reader, ZonePolicy};
use startgun_core::dns::tsig::{Algorithm, Key};
use zeroize::Zeroizing;

use super::bounded_text;
use super::reader::{Section, Value};

/// Most keys: one for each of many customers. A signed request is compared with all of them by name.
const KEYS_MAX: usize = 1_024;
/// Most primaries of a zone, secondaries that are notified, and entries of an access list.
const PEERS_MAX: usize = 64;
/// Lengths that a secret may have, in bytes: less can be guessed (RFC 8945 section 10), more than a hash's block is hashed.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=128;
/// Where DNS is served unless something else is said.
const PORT: u16 = 53;

/// What a secret looks like, for errors.
const SECRET: &str = "one line of base64, of 16 to 128 bytes, as `openssl rand -base64 32` makes it";
/// What a peer's address looks like, for errors.
const PEER: &str = "an IP address, with a port where it is not 53, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
/// What a network looks like, for errors.
const NETWORK: &str = "an IP address or a prefix without further bits, such as \"192.0.2.0/24\" or \"2001:db8::/32\"";

/// What the file says of transfers.
pub(super) struct Transfers {
    pub policy: Policy,
    own: Vec<SocketAddr>,
}

impl Transfers {
    /// Reads the keys. `own`: the service addresses.
    pub fn read(root: &Section<'_>, own: &[SocketAddr]) -> Transfers {
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for section in root.sections("tsig_key", KEYS_MAX) {
            let name = section.required("name", "the key's name, a domain name that both servers use", |value| {
                let name = value.parsed::<CanonicalName>("a domain name, such as \"transfer.example.org.\"")?;
                match keys.iter().any(|key| *key.name() == name) {
                    true => value.fault(format!("TSIG key {name} again"), "each name once"),
                    false => Some(name),
                }
            });
            let algorithm = section.or("algorithm", Algorithm::Sha256, |value| value.word(&Algorithm::NAMES));
            let secret = section.required("secret_file", "the path of a file with the secret in base64", read_secret);
            section.finish();
            if let (Some(name), Some(secret)) = (name, secret) {
                keys.push(Arc::new(Key::new(name, algorithm, &secret)));
            }
        }
        Transfers { policy: Policy { keys, ..Policy::default() }, own: own.to_vec() }
    }

    /// Reads what a zone says; `None` for one that there will be nothing of.
    pub fn read_zone(&mut self, section: &Section<'_>, apex: Option<&CanonicalName>) {
        let primaries = self.peers(section, "primaries");
        if primaries.is_empty()
            && let Some(value) = section.value("primaries").filter(Value::is_empty_array)
        {
            value.fault::<()>("no primary", "at least one, or records or file instead of primaries");
        }
        let mut readers = Vec::new();
        for reader in section.sections("transfer_to", PEERS_MAX) {
            let network = reader.value("network").map(|value| read_network(&value));
            let key = self.key(&reader);
            if network.is_none() && reader.value("key").is_none() {
                reader
                    .wrong::<()>("neither network nor key", "at least one of the two: everybody is nobody's secondary");
            }
            reader.finish();
            if let (None | Some(Some(_)), Ok(key)) = (network, key) {
                readers.push(Reader { network: network.flatten(), key });
            }
        }
        let notified = self.peers(section, "notify");
        let policy = ZonePolicy { primaries, readers, notified };
        let is_said = !policy.primaries.is_empty() || !policy.readers.is_empty() || !policy.notified.is_empty();
        if let Some(apex) = apex.filter(|_| is_said) {
            self.policy.zones.insert(apex.clone(), policy);
        }
    }

    fn peers(&self, section: &Section<'_>, key: &'static str) -> Vec<Peer> {
        let mut peers: Vec<Peer> = Vec::new();
        for peer in section.sections(key, PEERS_MAX) {
            let address = peer.required("address", PEER, |value| {
                let address = read_peer(&value)?;
                if self.own.contains(&address) {
                    return value.fault(format!("{address}, which is this master's own"), "another server's address");
                }
                match peers.iter().any(|known| known.address == address) {
                    true => value.fault(format!("{address} for the second time"), "each once"),
                    false => Some(address),
                }
            });
            let key = self.key(&peer);
            peer.finish();
            if let (Some(address), Ok(key)) = (address, key) {
                peers.push(Peer { address, key });
            }
        }
        peers
    }

    /// The key that a table names; `Err` where there is none of that name, which was noted.
    fn key(&self, section: &Section<'_>) -> Result<Option<Arc<Key>>, ()> {
        let Some(value) = section.value("key") else { return Ok(None) };
        let Some(name) = value.parsed::<CanonicalName>("the name of a [[tsig_key]]") else { return Err(()) };
        match self.policy.keys.iter().find(|key| *key.name() == name) {
            Some(key) => Ok(Some(Arc::clone(key))),
            None => {
                value.fault::<()>(
                    format!("{name}, which is the name of no sound TSIG key"),
                    "the name of a [[tsig_key]]",
                );
                Err(())
            }
        }
    }
}

fn read_peer(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.as_str().unwrap_or_default();
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse::<SocketAddr>());
    match address {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() => {
            Some(address)
        }
        _ => value.wrong(PEER),
    }
}

fn read_network(value: &Value<'_>) -> Option<Network> {
    let text = value.as_str().unwrap_or_default();
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse::<u8>().ok()),
        None => (text, Some(if text.contains(':') { 128 } else { 32 })),
    };
    let network = address.parse().ok().zip(length).and_then(|(address, length)| Network::new(address, length));
    if network.is_some() { network } else { value.wrong(NETWORK) }
}

fn read_secret(value: Value<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let path = value.path()?;
    let text = match bounded_text(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(found) => return value.fault(format!("{} and {found}", path.display()), SECRET),
    };
    if is_open_to_others(&path) {
        value.warn(format!("{}, which everybody may read", path.display()), "a file of mode 0640 or less");
    }
    // Never what the file holds: it is a secret.
    match BASE64.decode(text.trim()).map(Zeroizing::new) {
        Ok(secret) if SECRET_BYTES.contains(&secret.len()) => Some(secret),
        Ok(secret) => value.fault(format!("{} with {} bytes", path.display(), secret.len()), SECRET),
        Err(_) => value.fault(format!("{}, which is no base64", path.display()), SECRET),
    }
}

fn is_open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|entry| entry.permissions().mode() & 0o007 != 0)
}
