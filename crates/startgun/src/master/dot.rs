//! The certificate of DNS over TLS (RFC 7858), which may be replaced while connections are served.
//!
//! TLS 1.3 only: resolvers that encrypt towards authoritative servers (RFC 9539) are newer than it, and they do not
//! verify whom they talk to, so there is no reason to offer less.

use crate::config::DotConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;

/// RFC 7858 has no ALPN of its own; IANA's registry lists this one for it. Clients without any are served as well.
const ALPN: &[u8] = b"dot";
/// Certificates in a chain: a leaf with its intermediates.
const MAX_CHAIN: usize = 16;

/// What new connections get.
pub(super) struct Certificate(RwLock<Arc<ServerConfig>>);

impl Certificate {
    /// Reads chain and key.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn load(files: &DotConfig) -> Result<Self, String> {
        read(files).map(|config| Certificate(RwLock::new(config)))
    }

    /// For one handshake.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Puts another one in its place; connections that are there go on.
    pub(super) fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Reads chain and key; they must belong together.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn read(files: &DotConfig) -> Result<Arc<ServerConfig>, String> {
    let fault = |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let of_chain = |error: &dyn std::fmt::Display| fault(&files.certificate, error);
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(|error| of_chain(&error))?;
    let chain: Vec<CertificateDer<'static>> =
        chain.take(MAX_CHAIN + 1).collect::<Result<_, _>>().map_err(|error| of_chain(&error))?;
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(of_chain(&format!("{} certificates, expected 1 to {MAX_CHAIN} in PEM", chain.len())));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fault(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| fault(&files.key, &format!("not the key of {} ({error})", files.certificate.display())))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
