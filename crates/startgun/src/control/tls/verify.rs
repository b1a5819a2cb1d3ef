//! Is this peer one of ours? One verifier for both directions.
//!
//! rustls' own verifier of servers insists on a DNS name or address in the certificate. A master
//! is pinned by its name in the fleet instead, wherever it may live at the moment, so a
//! certificate that fits the address but names another master must not pass. This verifier does
//! the chain, the dates, the purpose and the revoked list with webpki, as rustls' own does, and
//! then compares the identity in the URI. It does so inside the handshake, in both directions, so
//! no code behind a finished handshake can forget the check.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::files::RevokedLists;
use super::identity::{Identity, IdentityError, Role, peer_identity};

/// Whom a verifier lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// The role that the peer must have.
    pub(super) role: Role,
    /// The fleet that it must belong to (one CA may serve several).
    pub(super) fleet: String,
    /// Its name, where it is pinned; any name otherwise.
    pub(super) name: Option<String>,
}

impl Expected {
    fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        if identity.fleet != self.fleet {
            return Err(Refusal::OtherFleet { found: identity.fleet.clone(), expected: self.fleet.clone() });
        }
        if identity.role != self.role {
            return Err(Refusal::WrongRole { name: identity.name.clone(), found: identity.role, expected: self.role });
        }
        match &self.name {
            Some(pinned) if *pinned != identity.name => {
                Err(Refusal::WrongName { found: identity.name.clone(), expected: pinned.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Why a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate came.
    #[error("no certificate was presented")]
    NoCertificate,
    /// Signed by a CA that is not in our `ca` file, or by another of the same name.
    #[error("the certificate is not signed by the fleet's CA")]
    UnknownIssuer,
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not begun (or this host's clock is slow).
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Its serial is on the revoked list.
    #[error("the certificate is revoked")]
    Revoked,
    /// A revoked list is configured, but holds none of this certificate's issuer.
    #[error("the revoked list says nothing about the certificate's issuer")]
    RevocationUnknown,
    /// It may not be used for this side of TLS.
    #[error("the certificate's extended key usage does not allow this use")]
    WrongPurpose,
    /// It carries no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It belongs to another fleet under the same CA.
    #[error("the certificate is of fleet {found:?}, expected {expected:?}")]
    OtherFleet {
        /// The peer's fleet.
        found: String,
        /// Ours.
        expected: String,
    },
    /// It has the other role.
    #[error("the certificate of {name:?} is for the role {found}, expected {expected}")]
    WrongRole {
        /// The peer's name.
        name: String,
        /// The peer's role.
        found: Role,
        /// The role that this side talks to.
        expected: Role,
    },
    /// Its name is not the pinned one.
    #[error("the certificate is of {found:?}, expected the pinned name {expected:?}")]
    WrongName {
        /// The peer's name.
        found: String,
        /// The pinned name.
        expected: String,
    },
    /// The peer refused us, and this is the alert that it sent.
    #[error("the peer refused us with the TLS alert {0}")]
    ByPeer(String),
    /// Anything else that TLS or webpki found.
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    /// One word per kind, for counters and for [`LogGate`](super::LogGate).
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NoCertificate => "no_certificate",
            Refusal::UnknownIssuer => "unknown_issuer",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::Revoked => "revoked",
            Refusal::RevocationUnknown => "revocation_unknown",
            Refusal::WrongPurpose => "wrong_purpose",
            Refusal::Identity(_) => "no_identity",
            Refusal::OtherFleet { .. } => "other_fleet",
            Refusal::WrongRole { .. } => "wrong_role",
            Refusal::WrongName { .. } => "wrong_name",
            Refusal::ByPeer(_) => "by_peer",
            Refusal::Other(_) => "tls",
        }
    }

    /// Reads the refusal out of what a TLS stream returned, `None` where the error is not TLS's
    /// (a closed connection, say).
    ///
    /// In TLS 1.3 the client finishes its handshake before the server has looked at the client's
    /// certificate, so an agent sees [`Refusal::ByPeer`] at its first read, not while connecting.
    pub fn of(error: &io::Error) -> Option<Refusal> {
        let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
        Some(match error {
            rustls::Error::NoCertificatesPresented => Refusal::NoCertificate,
            rustls::Error::AlertReceived(alert) => Refusal::ByPeer(alert_name(*alert)),
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer => Refusal::UnknownIssuer,
                CertificateError::Expired => Refusal::Expired,
                CertificateError::NotValidYet => Refusal::NotYetValid,
                CertificateError::Revoked => Refusal::Revoked,
                CertificateError::Other(OtherError(inner)) => {
                    inner.downcast_ref::<Refusal>().cloned().unwrap_or_else(|| Refusal::Other(error.to_string()))
                }
                other => Refusal::Other(other.to_string()),
            },
            other => Refusal::Other(other.to_string()),
        })
    }

    /// The form in which rustls carries it, chosen so that the alert tells the peer what it can
    /// do about it.
    fn into_tls(self) -> rustls::Error {
        let error = match self {
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::Revoked => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(error)
    }

    fn from_webpki(error: webpki::Error) -> Self {
        match error {
            // A CA of the same subject but another key yields the signature error.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Refusal::UnknownIssuer,
            webpki::Error::CertExpired { .. } => Refusal::Expired,
            webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid,
            webpki::Error::CertRevoked => Refusal::Revoked,
            webpki::Error::UnknownRevocationStatus => Refusal::RevocationUnknown,
            webpki::Error::RequiredEkuNotFoundContext(_) => Refusal::WrongPurpose,
            other => Refusal::Other(other.to_string()),
        }
    }
}

fn alert_name(alert: AlertDescription) -> String {
    format!("{alert:?}")
}

/// Decides whether a peer's certificates make it one of ours.
#[derive(Debug)]
pub struct PeerVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    /// The subjects of `anchors`, which a server tells its clients.
    hints: Vec<DistinguishedName>,
    /// `None` where no revoked list is configured.
    revoked: Option<RevokedLists>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(anchors: Vec<TrustAnchor<'static>>, revoked: Option<RevokedLists>, expected: Expected) -> Self {
        let hints = anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect();
        Self {
            anchors,
            hints,
            revoked,
            expected,
            algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
        }
    }

    /// Checks a chain, leaf first: signed by the fleet's CA, valid at `now`, meant for the peer's
    /// side of TLS, not revoked, and of the role, fleet and (where pinned) name that this side
    /// expects. Call it again on the chains of open sessions after the revoked list changed.
    ///
    /// # Errors
    /// [`Refusal`], the first check that failed.
    pub fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Identity, Refusal> {
        self.check_as(&self.expected, chain, now)
    }

    /// Checks the chain of an agent of the fleet, whatever role this side's peers of TLS have: the
    /// same checks as [`check`](Self::check), with any name.
    ///
    /// # Errors
    /// [`Refusal`], the first check that failed.
    pub fn check_agent(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Identity, Refusal> {
        let expected = Expected { role: Role::Agent, fleet: self.expected.fleet.clone(), name: None };
        self.check_as(&expected, chain, now)
    }

    fn check_as(&self, expected: &Expected, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Identity, Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        self.check_parts(expected, leaf, intermediates, now)
    }

    fn check_parts(
        &self,
        expected: &Expected,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, Refusal> {
        // A master is met as a TLS server, an agent as a TLS client.
        check_chain(self, leaf, intermediates, now, expected.role)?;
        let identity = peer_identity(std::slice::from_ref(leaf))?;
        expected.check(&identity)?;
        Ok(identity)
    }

    fn check_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// The chain, dates, purpose and revocation of `leaf`, whose holder has the given role.
///
/// Only the leaf is looked up in the revoked list: a fleet's own CA issues leaves directly, and
/// an intermediate of a foreign CA is revoked by its root, whose list operators seldom have. But
/// a list that is configured must speak about the leaf's issuer, or a list of the wrong CA would
/// pass for "nobody is revoked". Its `nextUpdate` is not enforced: with the CA key offline, an
/// old list is the normal case, and a fleet must not stop because nobody was revoked for a while.
pub(super) fn check_chain(
    verifier: &PeerVerifier,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<(), Refusal> {
    let usage = match role {
        Role::Master => KeyUsage::server_auth(),
        Role::Agent => KeyUsage::client_auth(),
    };
    let lists: Vec<&CertRevocationList<'_>> = verifier.revoked.iter().flat_map(|lists| lists.iter()).collect();
    let revocation = match verifier.revoked {
        None => None,
        Some(_) => Some(
            RevocationOptionsBuilder::new(&lists)
                .map_err(|_| Refusal::RevocationUnknown)?
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .build(),
        ),
    };
    EndEntityCert::try_from(leaf)
        .and_then(|certificate| {
            certificate
                .verify_for_usage(
                    verifier.algorithms.all,
                    &verifier.anchors,
                    intermediates,
                    now,
                    usage,
                    revocation,
                    None,
                )
                .map(|_| ())
        })
        .map_err(Refusal::from_webpki)
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check_parts(&self.expected, end_entity, intermediates, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check_parts(&self.expected, end_entity, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The configurations offer TLS 1.3 alone, so rustls never asks for this.
fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken here".to_owned())
}
