//! The files behind a TLS configuration, read once and re-read where they changed.
//!
//! A daemon drops its privileges after start-up and may then no longer read its own key, while
//! the revoked list must still be followed. So what was read is kept, and only a file whose stamp
//! changed is opened again.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::TlsError;
use crate::control::mesh_keys::MeshStanding;

/// Largest file that is read, in bytes: a revoked list has some 40 bytes per serial, so 65,536
/// serials (the bound of a fleet's index) take 2.6 MB; three times that.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Most certificates in `ca` or `certificate`: a few CAs side by side while one replaces the
/// other, or a leaf with its intermediates (webpki follows at most 6).
const CERTIFICATES_MAX: usize = 16;

/// Where the keys and certificates of one side are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the CA that signs peers; several where one replaces another.
    pub ca: PathBuf,
    /// PEM: this host's certificate, followed by intermediates where there are any.
    pub certificate: PathBuf,
    /// PEM: the private key of `certificate` (PKCS #8, SEC1 or PKCS #1).
    pub key: PathBuf,
    /// PEM (one or more) or DER: the CA's revoked list. Without it nobody counts as revoked.
    pub revoked: Option<PathBuf>,
    /// PEM: an agent's private key for the mesh, see [`mesh_keys`](crate::control::mesh_keys). Without it an agent takes
    /// no part in the mesh; masters have none.
    pub mesh_key: Option<PathBuf>,
}

/// What tells one version of a file from the next. A file replaced by a rename has a new inode
/// even where its time and length are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified_s: i64,
    modified_ns: i64,
    length: u64,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(file: &Path) -> Result<Self, TlsError> {
        let metadata = fs::metadata(file).map_err(|source| TlsError::Unreadable { file: file.to_owned(), source })?;
        Ok(Self {
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// The stamps of all files, taken before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamps {
    ca: Stamp,
    pair: ([Stamp; 2], Option<Stamp>),
    revoked: Option<Stamp>,
}

impl Stamps {
    pub(super) fn of(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            ca: Stamp::of(&files.ca)?,
            pair: (
                [Stamp::of(&files.certificate)?, Stamp::of(&files.key)?],
                files.mesh_key.as_deref().map(Stamp::of).transpose()?,
            ),
            revoked: files.revoked.as_deref().map(Stamp::of).transpose()?,
        })
    }
}

/// A certificate chain with its keys. They change together, so they are read together.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) mesh: MeshStanding,
}

impl Clone for Pair {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), mesh: self.mesh.clone() }
    }
}

/// Parsed revoked lists, which configurations share until the file changes.
pub(super) type RevokedLists = Arc<[CertRevocationList<'static>]>;

/// All files, parsed.
#[derive(Debug, Clone)]
pub(super) struct Material {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) pair: Pair,
    pub(super) revoked: Option<RevokedLists>,
}

impl Material {
    /// Reads everything.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { anchors: read_anchors(&files.ca)?, pair: read_pair(files)?, revoked: read_revoked(files)? })
    }

    /// Reads what differs between the stamps `before` and `after`, and takes the rest over.
    pub(super) fn refreshed(&self, files: &TlsFiles, before: &Stamps, after: &Stamps) -> Result<Self, TlsError> {
        Ok(Self {
            anchors: if before.ca == after.ca { self.anchors.clone() } else { read_anchors(&files.ca)? },
            pair: if before.pair == after.pair { self.pair.clone() } else { read_pair(files)? },
            revoked: if before.revoked == after.revoked { self.revoked.clone() } else { read_revoked(files)? },
        })
    }
}

fn read_anchors(file: &Path) -> Result<Vec<TrustAnchor<'static>>, TlsError> {
    certificates(file)?
        .iter()
        .map(|certificate| {
            webpki::anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| unsuitable(file, error.to_string(), "X.509 CA certificates"))
        })
        .collect()
}

fn read_pair(files: &TlsFiles) -> Result<Pair, TlsError> {
    let chain = certificates(&files.certificate)?;
    let bytes = read_bounded(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        unsuitable(&files.key, pem_finding(&error), "a private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    })?;
    let mesh = MeshStanding::read(files, chain.first())?;
    Ok(Pair { chain, key, mesh })
}

fn read_revoked(files: &TlsFiles) -> Result<Option<RevokedLists>, TlsError> {
    const EXPECTED: &str = "a certificate revocation list (-----BEGIN X509 CRL-----, or DER)";
    let Some(file) = &files.revoked else {
        return Ok(None);
    };
    let bytes = read_bounded(file)?;
    let is_pem = bytes.windows(5).any(|window| window == b"-----");
    let lists: Vec<CertificateRevocationListDer<'_>> = if is_pem {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| unsuitable(file, pem_finding(&error), EXPECTED))?
    } else {
        vec![CertificateRevocationListDer::from(bytes.as_slice())]
    };
    if lists.is_empty() || lists.len() > CERTIFICATES_MAX {
        let found = format!("{} lists (at most {CERTIFICATES_MAX} are read)", lists.len());
        return Err(unsuitable(file, found, EXPECTED));
    }
    lists
        .iter()
        .map(|list| {
            OwnedCertRevocationList::from_der(list)
                .map(CertRevocationList::from)
                .map_err(|error| unsuitable(file, error.to_string(), EXPECTED))
        })
        .collect::<Result<RevokedLists, _>>()
        .map(Some)
}

pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const EXPECTED: &str = "certificates in PEM form (-----BEGIN CERTIFICATE-----)";
    let bytes = read_bounded(file)?;
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| unsuitable(file, pem_finding(&error), EXPECTED))?;
    if found.is_empty() || found.len() > CERTIFICATES_MAX {
        let count = format!("{} certificates (at most {CERTIFICATES_MAX} are read)", found.len());
        return Err(unsuitable(file, count, EXPECTED));
    }
    Ok(found)
}

pub(crate) fn read_bounded(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let found = format!("more than {FILE_BYTES_MAX} bytes");
        return Err(unsuitable(file, found, "a file of at most that size"));
    }
    Ok(bytes)
}

pub(crate) fn pem_finding(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::NoItemsFound => "none in it".to_owned(),
        other => other.to_string(),
    }
}

pub(crate) fn unsuitable(file: &Path, found: impl Into<String>, expected: impl Into<String>) -> TlsError {
    TlsError::Unsuitable { file: file.to_owned(), found: found.into(), expected: expected.into() }
}
