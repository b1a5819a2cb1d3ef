//! The certificate of DNS over TLS (RFC 7858): two PEM files, in force together or not at all.
//!
//! It is not a certificate of the fleet. The fleet's certificates tell masters and agents apart, are checked by both
//! sides and carry no host's name; this one is for resolvers, which know nothing of the fleet. It comes from whoever
//! resolvers trust, or from nobody: a resolver that probes (RFC 9539) takes any certificate rather than none. So nothing
//! is asked of it but that it belongs to its key, and nothing of the client.
//!
//! Certificates live for weeks and are renewed by programs, so the files are watched ([`DnsTls::reload_if_changed`]).
//! Those programs replace one file after the other; what is read in between does not fit together, and until it does the
//! certificate before it stays in force.

use crate::control::tls::{Stamp, TlsError, certificates, pem_finding, read_bounded, unsuitable};
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The protocol's name in ALPN, from the registry of RFC 7301 section 6. RFC 7858 is older than it and asks for none, so
/// a client that names no protocol is served too; one that names only others is refused (RFC 7301 section 3.2).
const ALPN: &[u8] = b"dot";

/// What is expected of the validity of a certificate.
pub const VALID_NOW: &str = "a certificate that is valid now; resolvers that check it will not come over TLS";

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTlsFiles {
    /// PEM: the certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key (PKCS #8, SEC1 or PKCS #1).
    pub key: PathBuf,
}

/// From when to when a certificate is valid, in seconds since 1970 (UTC), both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before_unix_s: i64,
    /// The last.
    pub not_after_unix_s: i64,
}

impl Validity {
    /// What is wrong with it now; `None` where nothing is.
    pub fn doubt(&self) -> Option<String> {
        self.doubt_at(OffsetDateTime::now_utc().unix_timestamp())
    }

    fn doubt_at(&self, now_unix_s: i64) -> Option<String> {
        if now_unix_s > self.not_after_unix_s {
            return Some(format!("a certificate that expired on {}", date(self.not_after_unix_s)));
        }
        let is_early = now_unix_s < self.not_before_unix_s;
        is_early.then(|| format!("a certificate that is not valid before {}", date(self.not_before_unix_s)))
    }
}

/// The day of an instant, in UTC.
pub fn date(unix_s: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_s).map_or_else(|_| "an unknown day".into(), |at| at.date().to_string())
}

/// What TLS is served with. Every thread may use it at once.
#[derive(Debug)]
pub struct DnsTls {
    files: DnsTlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Of certificate and key, taken before they were read.
    stamps: [Stamp; 2],
    config: Arc<ServerConfig>,
    validity: Validity,
}

impl DnsTls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`], where a file cannot be read, holds something else, or the key is another certificate's. A certificate
    /// that has expired is none: [`Validity::doubt`] tells.
    pub fn load(files: &DnsTlsFiles) -> Result<Self, TlsError> {
        Ok(DnsTls { files: files.clone(), current: Mutex::new(read(files)?) })
    }

    /// Reads certificate and key again, whether they have changed or not. Connections that are open keep the certificate
    /// that they began with.
    ///
    /// # Errors
    /// As for [`DnsTls::load`]; the earlier certificate stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.files)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// [`DnsTls::reload`], where a file is another than when it was last read with success. `true` where there is a new
    /// certificate. It costs two `stat` calls; every few seconds is often enough.
    ///
    /// # Errors
    /// As for [`DnsTls::reload`]. The next call tries again.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let known = self.current.lock().unwrap_or_else(PoisonError::into_inner).stamps;
        if stamps(&self.files)? == known {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// The configuration in force, for the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// From when to when the certificate in force is valid.
    pub fn validity(&self) -> Validity {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).validity
    }
}

fn stamps(files: &DnsTlsFiles) -> Result<[Stamp; 2], TlsError> {
    Ok([Stamp::of(&files.certificate)?, Stamp::of(&files.key)?])
}

fn read(files: &DnsTlsFiles) -> Result<Current, TlsError> {
    // Stamps first: a file that is replaced while we read is then seen as changed.
    let stamps = stamps(files)?;
    let chain = certificates(&files.certificate)?;
    let bytes = read_bounded(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        unsuitable(&files.key, pem_finding(&error), "a private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    })?;
    let validity = validity(files, &chain)?;
    let config = Arc::new(assemble(files, chain, key)?);
    Ok(Current { stamps, config, validity })
}

fn validity(files: &DnsTlsFiles, chain: &[CertificateDer<'_>]) -> Result<Validity, TlsError> {
    let first = chain.first().map(|der| X509Certificate::from_der(der));
    match first {
        Some(Ok((_, certificate))) => Ok(Validity {
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        }),
        other => {
            let found = other.and_then(Result::err).map_or("none".into(), |error| error.to_string());
            Err(unsuitable(&files.certificate, found, "an X.509 certificate"))
        }
    }
}

/// TLS 1.3 and, for resolvers that are older, TLS 1.2 (RFC 9325 section 3.1.1 asks servers for both). Sessions are resumed
/// by tickets, which the client keeps: there is nothing to look up here, and nothing that a client could fill. Their keys
/// are made anew with every certificate and every six hours. Nothing is taken as early data, which can be replayed.
fn assemble(
    files: &DnsTlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let expected = format!("the private key of {}", files.certificate.display());
            unsuitable(&files.key, "another certificate's key", expected)
        }
        rustls::Error::InvalidCertificate(error) => {
            unsuitable(&files.certificate, format!("{error:?}"), "an X.509 certificate")
        }
        error => unsuitable(&files.key, error.to_string(), "an RSA, ECDSA or Ed25519 private key"),
    })?;
    let fault = |error: rustls::Error| unsuitable(&files.certificate, error.to_string(), "a certificate for TLS");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(fault)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Ticketer::new().map_err(fault)?;
    Ok(config)
}

#[cfg(test)]
mod tests;
