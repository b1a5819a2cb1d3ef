//! Keys between agents: each pair derives its own from what enrolment put into the certificates.
//!
//! Agents exchange clock readings with each other as they do with their masters, sealed. A master
//! could hand out the keys of these exchanges; but then several masters would have to agree on
//! who does, and each would know all of them. So every agent has an X25519 key pair besides its
//! TLS key. Masters spread certificates and salts, which are no secrets, and each pair of agents
//! computes the rest:
//!
//! ```text
//!   tokyo                                              paris
//!   tokyo.mesh.key ─ X25519 ─ key in paris.crt    =    paris.mesh.key ─ X25519 ─ key in tokyo.crt
//!        └── HKDF-SHA256(fleet, both names, both public keys, both salts; in the order of the names) ──┘
//!                                     32 bytes, the same at both ends
//! ```
//!
//! **In the certificate** the public key stands in an extension of our own ([`OID`]), not critical,
//! as DER of a SubjectPublicKeyInfo (RFC 8410, section 4): what
//! `openssl pkey -pubout -outform DER` prints, so that other CAs can issue it too. The private key
//! is a file in PKCS #8 (RFC 8410, section 7). A certificate without the extension stays good for
//! everything else; its agent takes no part in the mesh. A request proves only that its TLS key
//! is the requester's: who asks for a certificate with the mesh key of another agent gets one,
//! but no secret from it, for both names go into every derivation.
//!
//! **Nonces.** A seal counts its nonces up from a start, so one key with one start twice would
//! break it. The X25519 keys are the same for months; the salts, 16 random bytes that every agent
//! process draws when it starts ([`fresh_salt`]), make the secret one of this pair of processes.
//! A master that lies can hand out an old salt of a peer again, but not this agent's own: that
//! comes from the process itself. So no process ever seals with a key that an earlier one of its
//! name has sealed with, whatever it is told, as long as two salts of 128 random bits differ.
//! Within one process the own salt is constant, and the same peer salt told again yields the same
//! secret again: by a lie, or because a peer left a master's list and came back. Whoever makes
//! seals of these secrets must therefore **never begin the counter of a later seal below the end
//! of an earlier one of the same process**. The core's mesh keeps the counters and replay windows
//! of sessions that have ended, and takes no further peer in where it cannot keep more.
//!
//! References: RFC 7748 (X25519, section 6.1 on results of zero), RFC 5869 (HKDF), RFC 8410.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ring::error::Unspecified;
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use startgun_core::control::MeshSalt;
use x509_parser::der_parser::Oid;
use x509_parser::extensions::X509Extension;
use x509_parser::prelude::{FromDer, X509Certificate};
use x25519_dalek::{PublicKey, StaticSecret};

use super::tls::{TlsError, TlsFiles, certificates, peer_identity, pem_finding, read_bounded, unsuitable};

/// The extension's object identifier: the GUID b3a948ba-bfab-4a83-98f7-457997a8fdb1, drawn at
/// random, below the arc that Microsoft set aside for identifiers made of GUIDs without anybody
/// registering them (1.2.840.113556.1.8000.2554, then the digits in groups of 4, 4, 4, 4, 4, 6
/// and 6). ITU-T X.667's arc for the same purpose, 2.25, takes the 128 bits as one number, and
/// rcgen's numbers have 64.
pub(crate) const OID: [u64; 14] =
    [1, 2, 840, 113_556, 1, 8000, 2554, 45_993, 18_618, 49_067, 19_075, 39_159, 4_553_111, 11_074_993];

/// A SubjectPublicKeyInfo of X25519 up to its 32 bytes of key: SEQUENCE { SEQUENCE { OID
/// 1.3.101.110 }, BIT STRING } (RFC 8410, section 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];

/// A PKCS #8 key of X25519 up to its 32 bytes of key: SEQUENCE { INTEGER 0, SEQUENCE { OID
/// 1.3.101.110 }, OCTET STRING { OCTET STRING } } (RFC 8410, section 7).
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20];

/// Begins what HKDF is told, so that no other use of these keys comes to the same secret.
const LABEL: &[u8] = b"startgun mesh 1 ";

/// Bytes of a public key, of a private key and of a pair's secret.
const KEY_BYTES: usize = 32;

/// Draws the salt of this process: of 2^32 processes with 128 random bits each no two draw the same, but for a chance of
/// 2^-65. Call it once, when the process starts, and never keep it on
/// disk: that it is fresh is what keeps nonces apart (see the module).
///
/// # Errors
/// Where the system gives no random numbers.
pub fn fresh_salt() -> Result<MeshSalt, Unspecified> {
    random()
}

/// A new key pair, for enrolment.
pub(crate) struct NewMeshKey {
    /// For the certificate.
    pub(crate) public: [u8; KEY_BYTES],
    /// For the file beside it: PKCS #8 in PEM.
    pub(crate) private_pem: String,
}

impl NewMeshKey {
    /// Draws one.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub(crate) fn draw() -> Result<Self, Unspecified> {
        let secret = StaticSecret::from(random::<KEY_BYTES>()?);
        let der = [&PRIVATE_PREFIX[..], secret.as_bytes()].concat();
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let private_pem = pem::encode_config(&pem::Pem::new("PRIVATE KEY", der), config);
        Ok(Self { public: PublicKey::from(&secret).to_bytes(), private_pem })
    }
}

/// The extension's content for a public key.
pub(crate) fn extension_content(public: &[u8; KEY_BYTES]) -> Vec<u8> {
    [&PUBLIC_PREFIX[..], public].concat()
}

/// The public key among the extensions of a certificate or request; `Ok(None)` where there is none.
///
/// # Errors
/// What was found, where the extension is there twice or holds something else.
pub(crate) fn public_key_in(extensions: &[X509Extension<'_>]) -> Result<Option<[u8; KEY_BYTES]>, String> {
    // Only an OID that cannot be encoded fails, and this one can.
    let Ok(oid) = Oid::from(&OID) else { return Ok(None) };
    let mut found = extensions.iter().filter(|extension| extension.oid == oid);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err("two mesh keys".to_owned()),
        (Some(extension), None) => {
            let key = extension.value.strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok());
            key.map(Some).ok_or_else(|| "a mesh key that is no SubjectPublicKeyInfo of X25519".to_owned())
        }
    }
}

/// An agent's static X25519 key, which its certificate carries the public half of.
pub struct MeshSecret {
    fleet: String,
    secret: StaticSecret,
    public: [u8; KEY_BYTES],
}

impl fmt::Debug for MeshSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key itself: what is printed ends up in logs.
        f.debug_struct("MeshSecret").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl MeshSecret {
    /// Reads the private key in `path` (PEM, PKCS #8 of X25519), which must be that of the public
    /// key in `own_certificate`. `Ok(None)` where the certificate carries none.
    ///
    /// # Errors
    /// [`TlsError`], where the file cannot be read or holds something else, the certificate's
    /// extension is malformed, or it carries the key of another file.
    pub fn load(path: &Path, own_certificate: &CertificateDer<'_>) -> Result<Option<Self>, TlsError> {
        let secret = read_private(path)?;
        let public = PublicKey::from(&secret).to_bytes();
        let wrong = |found: String| unsuitable(path, found, "the private mesh key of this agent's certificate");
        let (_, parsed) = X509Certificate::from_der(own_certificate)
            .map_err(|error| wrong(format!("a certificate that cannot be parsed ({error})")))?;
        let certified =
            public_key_in(parsed.extensions()).map_err(|found| wrong(format!("a certificate with {found}")))?;
        let identity =
            peer_identity(std::slice::from_ref(own_certificate)).map_err(|error| wrong(error.to_string()))?;
        match certified {
            None => Ok(None),
            Some(certified) if certified != public => Err(wrong("another key".to_owned())),
            Some(_) => Ok(Some(Self { fleet: identity.fleet, secret, public })),
        }
    }

    /// The public key that a certificate carries; `None` where it carries none, or a malformed
    /// one. It proves nothing: call it on certificates that
    /// [`ClientTls::check_peer_agent`](super::tls::ClientTls::check_peer_agent) accepted.
    pub fn public_key_of(certificate: &[u8]) -> Option<[u8; KEY_BYTES]> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        public_key_in(certificate.extensions()).ok().flatten()
    }

    /// The secret of this agent and a peer, each with its name and its process's salt: the same 32
    /// bytes at both ends. Another fleet, name, key or salt on either side gives another secret.
    ///
    /// `None` where the peer's public key contributes nothing (RFC 7748, section 6.1: "check,
    /// without leaking extra information about the value of K, whether K is the all-zero value"),
    /// and where both names are one: an agent has no secret with itself.
    ///
    /// The same salts give the same secret again; see the module on counters.
    pub fn pair_secret(
        &self,
        peer_public: &[u8; KEY_BYTES],
        own: (&str, &MeshSalt),
        peer: (&str, &MeshSalt),
    ) -> Option<[u8; KEY_BYTES]> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*peer_public));
        if !shared.was_contributory() || own.0 == peer.0 {
            return None;
        }
        let (own, peer) = ((own.0, &self.public, own.1), (peer.0, peer_public, peer.1));
        let (first, second) = if own.0 < peer.0 { (own, peer) } else { (peer, own) };
        let mut info = LABEL.to_vec();
        for name in [&self.fleet, first.0, second.0] {
            // Lengths first, so that no two triples of names read the same.
            info.extend_from_slice(&(name.len() as u64).to_be_bytes());
            info.extend_from_slice(name.as_bytes());
        }
        info.extend([first.1, second.1].into_iter().flatten());
        info.extend([first.2, second.2].into_iter().flatten());
        let mut secret = [0; KEY_BYTES];
        let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(shared.as_bytes())
            .expand(&[&info], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut secret));
        assert!(filled.is_ok(), "HKDF-SHA256 fills 32 bytes");
        Some(secret)
    }
}

/// Whether an agent can take part in the mesh.
#[derive(Debug, Clone)]
pub enum MeshStanding {
    /// It can, with this key.
    Ready(Arc<MeshSecret>),
    /// Its configuration names no key.
    NotConfigured,
    /// Its certificate carries none: it is older than the mesh, or of a CA that did not put one in.
    NotCertified,
}

impl MeshStanding {
    /// Reads the mesh key that `files` name, where they name one, for the certificate `leaf`.
    ///
    /// # Errors
    /// As for [`MeshSecret::load`].
    pub(super) fn read(files: &TlsFiles, leaf: Option<&CertificateDer<'_>>) -> Result<Self, TlsError> {
        let (Some(path), Some(leaf)) = (&files.mesh_key, leaf) else {
            return Ok(Self::NotConfigured);
        };
        let secret = MeshSecret::load(path, leaf)?;
        Ok(secret.map_or(Self::NotCertified, |secret| Self::Ready(Arc::new(secret))))
    }

    /// [`read`](Self::read), with the certificate read as well: for `startgun check`.
    ///
    /// # Errors
    /// As for [`MeshSecret::load`], and where there is no certificate in its file.
    pub fn of_files(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::read(files, certificates(&files.certificate)?.first())
    }

    /// Why it takes no part, for the operator; `None` where it does.
    pub fn absence(&self) -> Option<&'static str> {
        match self {
            Self::Ready(_) => None,
            Self::NotConfigured => Some("takes no part in the mesh: fleet.mesh_key is not set"),
            Self::NotCertified => Some(
                "takes no part in the mesh: its certificate carries no mesh key \
                 (`startgun fleet renew` issues one that does)",
            ),
        }
    }
}

fn read_private(path: &Path) -> Result<StaticSecret, TlsError> {
    const EXPECTED: &str = "a private X25519 key in PEM form (-----BEGIN PRIVATE KEY-----), as enrolment makes it";
    let key = PrivatePkcs8KeyDer::from_pem_slice(&read_bounded(path)?)
        .map_err(|error| unsuitable(path, pem_finding(&error), EXPECTED))?;
    let bytes: Option<[u8; KEY_BYTES]> =
        key.secret_pkcs8_der().strip_prefix(&PRIVATE_PREFIX).and_then(|bytes| bytes.try_into().ok());
    bytes.map(StaticSecret::from).ok_or_else(|| unsuitable(path, "a key of another kind", EXPECTED))
}

fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(bytes)
}
