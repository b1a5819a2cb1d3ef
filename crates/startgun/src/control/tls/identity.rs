//! Who a peer is: the one URI in its certificate, and nothing else.
//!
//! A host name says where a machine is reached, not what it may do, and an agent has no name in
//! the DNS at all. So every certificate carries exactly one subject alternative name of type URI,
//! `startgun://FLEET/ROLE/NAME`, from which role and name are read. The subject (CN) is for
//! people; no decision looks at it.

use std::fmt;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The URI scheme of an identity.
const SCHEME: &str = "startgun://";

/// Longest name of a fleet, master or agent, in bytes: a DNS label (RFC 1035, section 2.3.4), so
/// that any name may become one.
pub const NAME_BYTES_MAX: usize = 63;

/// What the holder of a certificate may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The authoritative server that stamps queries and orders races.
    Master,
    /// A server at a site that runs in races.
    Agent,
}

impl Role {
    /// The word in URIs, on the command line and in `fleet.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A verified peer, as its certificate describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it may be.
    pub role: Role,
    /// Its name, unique within the fleet; see [`check_name`].
    pub name: String,
    /// The fleet it belongs to; see [`check_name`].
    pub fleet: String,
    /// The certificate's serial number, lower-case hexadecimal without separators.
    pub serial: String,
    /// The last second in which the certificate is valid, in seconds since 1970 (UTC).
    pub not_after_unix_s: i64,
}

/// Why a certificate gives no identity. The peer (or whoever issued its certificate) is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The chain is empty.
    #[error("no certificate was presented")]
    NoCertificate,
    /// The first certificate of the chain is not X.509.
    #[error("the certificate cannot be parsed: {0}")]
    Unparsable(String),
    /// No subject alternative name is a URI of ours.
    #[error(
        "the certificate names nobody: found no subject alternative name \
         startgun://FLEET/ROLE/NAME of type URI, expected one"
    )]
    NoUri,
    /// Several are, so which one counts would be a guess.
    #[error("the certificate names several: found {found} startgun:// URIs, expected one")]
    SeveralUris {
        /// How many there are.
        found: usize,
    },
    /// The URI is there, but not of the form that is expected.
    #[error("found the URI {found:?}, expected startgun://FLEET/ROLE/NAME: {reason}")]
    BadUri {
        /// The URI.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A name that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found the name {found:?}, expected 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, \
     starting with a letter"
)]
pub struct NameError {
    /// The name as given.
    pub found: String,
}

/// Checks the name of a fleet, master or agent: 1 to [`NAME_BYTES_MAX`] of `a-z`, `0-9` and `-`,
/// starting with a letter. Such a name needs no escaping in a URI, a path, a table or a DNS label.
///
/// # Errors
/// [`NameError`] with the name, where it breaks the rule.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let all_allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if starts_well && all_allowed && name.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(NameError { found: name.to_owned() })
    }
}

/// The URI that a certificate carries. The names must have passed [`check_name`].
pub fn identity_uri(fleet: &str, role: Role, name: &str) -> String {
    format!("{SCHEME}{fleet}/{role}/{name}")
}

/// Reads the identity from the first certificate of a chain. It proves nothing: call it on chains
/// that a [`PeerVerifier`](super::PeerVerifier) accepted.
///
/// # Errors
/// [`IdentityError`], where the chain is empty or the certificate does not carry exactly one
/// well-formed `startgun://` URI.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, IdentityError> {
    let first = chain.first().ok_or(IdentityError::NoCertificate)?;
    let (_, certificate) =
        X509Certificate::from_der(first).map_err(|error| IdentityError::Unparsable(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| IdentityError::Unparsable(error.to_string()))?;
    let general_names = names.map_or(&[][..], |names| &names.value.general_names);
    let uri = single_uri(general_names)?;
    let (fleet, role, name) = parse_uri(uri)?;
    Ok(Identity {
        role,
        name,
        fleet,
        serial: hexadecimal(certificate.raw_serial()),
        not_after_unix_s: certificate.validity().not_after.timestamp(),
    })
}

/// The only URI of ours among the names of a certificate or of a request.
///
/// # Errors
/// [`IdentityError::NoUri`] and [`IdentityError::SeveralUris`].
pub(crate) fn single_uri<'a>(names: &[GeneralName<'a>]) -> Result<&'a str, IdentityError> {
    let uris: Vec<&'a str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [] => Err(IdentityError::NoUri),
        [uri] => Ok(uri),
        _ => Err(IdentityError::SeveralUris { found: uris.len() }),
    }
}

/// Splits `startgun://FLEET/ROLE/NAME` and checks each part.
///
/// # Errors
/// [`IdentityError::BadUri`] with what is wrong.
pub(crate) fn parse_uri(uri: &str) -> Result<(String, Role, String), IdentityError> {
    let bad = |reason: String| IdentityError::BadUri { found: uri.to_owned(), reason };
    let rest = uri.strip_prefix(SCHEME).ok_or_else(|| bad(format!("it does not start with {SCHEME}")))?;
    let parts: Vec<&str> = rest.split('/').collect();
    let [fleet, role, name] = parts[..] else {
        return Err(bad(format!("it has {} parts, not 3", parts.len())));
    };
    let role = match role {
        "master" => Role::Master,
        "agent" => Role::Agent,
        other => return Err(bad(format!("the role {other:?} is not master or agent"))),
    };
    for part in [fleet, name] {
        check_name(part).map_err(|error| bad(error.to_string()))?;
    }
    Ok((fleet.to_owned(), role, name.to_owned()))
}

/// Lower-case hexadecimal digits of `bytes`, leading zero bytes left out, so that a serial reads
/// the same whether or not DER had to prefix a zero.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    bytes[start..].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_rule_pass_and_others_do_not() {
        for good in ["a", "tokyo", "m1", "a-b-c", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "1a", "-a", "Tokyo", "a_b", "a.b", "a/b", "tōkyō", "a b", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_uri_is_read_back_as_it_was_written() {
        let uri = identity_uri("fleet", Role::Agent, "tokyo");
        assert_eq!(uri, "startgun://fleet/agent/tokyo");
        assert_eq!(parse_uri(&uri), Ok(("fleet".to_owned(), Role::Agent, "tokyo".to_owned())));
    }

    #[test]
    fn uris_with_other_roles_parts_or_names_are_refused() {
        for bad in [
            "startgun://fleet/agent",
            "startgun://fleet/agent/tokyo/x",
            "startgun://fleet/owner/tokyo",
            "startgun://fleet/Agent/tokyo",
            "startgun:///agent/tokyo",
            "startgun://fleet/agent/",
            "startgun://fleet/agent/%2e",
            "https://fleet/agent/tokyo",
        ] {
            assert!(matches!(parse_uri(bad), Err(IdentityError::BadUri { .. })), "{bad}");
        }
    }

    #[test]
    fn serials_lose_their_leading_zeros_only() {
        assert_eq!(hexadecimal(&[0, 0x8a, 0x00, 0x01]), "8a0001");
        assert_eq!(hexadecimal(&[0]), "");
    }
}
