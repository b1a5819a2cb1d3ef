//! The CA itself: it makes keys, signs certificates and requests, and revokes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::FleetError;
use super::configuration::{self, Link};
use super::index::{Entry, INDEX_FILE, Index};
use super::staged::{PRIVATE, PUBLIC, Staged, create_directory, ensure_directory};
use crate::control::mesh_keys::{self, NewMeshKey};
use crate::control::tls::{Role, check_name, hexadecimal, identity_uri, parse_uri, single_uri};

const CA_CERTIFICATE_FILE: &str = "ca.crt";
const CA_KEY_FILE: &str = "ca.key";
const REVOKED_FILE: &str = "revoked.crl";
const CONFIGURATION_FILE: &str = "agent.toml";
/// What follows the name of an agent in the name of its key for the mesh. No name has a dot, so no other file has it.
const MESH_KEY_ENDING: &str = ".mesh.key";

/// Lifetime of the CA: ten years, the longest lifetime of a certificate that `--days` takes.
const CA_LIFETIME: Duration = Duration::days(3650);

/// How far before now a certificate begins, so that a host whose clock is slow takes it at once.
/// Hosts that run a time service are seconds apart; an hour covers a clock set to the wrong side
/// of a daylight-saving change.
const BACKDATED: Duration = Duration::hours(1);

/// How long an expired certificate stays on the revoked list: a host whose clock is a day slow
/// still takes it for valid.
const REVOKED_KEPT: Duration = Duration::days(1);

/// Bytes of a serial. RFC 5280, section 4.1.2.2: positive and at most 20 octets. 16 random ones,
/// the top bit cleared, collide with probability 2^-95 among 65,536.
const SERIAL_BYTES: usize = 16;

/// Stands in a request where a certificate names the fleet: the host that makes the request need
/// not know the fleet's name, and the CA puts its own.
const REQUEST_FLEET: &str = "request";

/// Largest file that is read, in bytes. The revoked list is the largest: 65,536 entries of some
/// 60 bytes in PEM are 4 MB; twice that.
const INPUT_BYTES_MAX: u64 = 8 << 20;

/// No holder may have this name, for its files would be called `ca.crt` and `ca.key`.
const RESERVED_NAME: &str = "ca";

/// An open CA. It holds the lock on its directory until it is dropped.
pub(super) struct Authority {
    dir: PathBuf,
    now: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    not_after: OffsetDateTime,
    index: Index,
    _lock: Flock<File>,
}

/// What is to be issued.
pub(super) struct Enrolment<'a> {
    /// To whom.
    pub(super) name: &'a str,
    /// Where the files go.
    pub(super) out: PathBuf,
    /// For how many days.
    pub(super) days: u16,
    /// The holder's request; keys are made where there is none.
    pub(super) csr: Option<&'a Path>,
    /// What an agent's configuration says, which is then written beside its certificate.
    pub(super) link: Option<&'a Link>,
}

/// What was issued.
#[derive(Debug)]
pub(super) struct Issued {
    /// As the index has it.
    pub(super) entry: Entry,
    /// The files for the host.
    pub(super) files: Vec<PathBuf>,
    /// Whether the certificate carries a key for the mesh: an agent's does, unless its request had none.
    pub(super) has_mesh_key: bool,
}

impl Authority {
    /// Makes a fleet in `dir`, which must not exist or be empty.
    pub(super) fn create(dir: &Path, fleet: &str, now: OffsetDateTime) -> Result<(), FleetError> {
        check_name(fleet)?;
        refuse_occupied(dir)?;
        let now = whole_seconds(now);
        let key = new_key()?;
        let key_pem = key.serialize_pem();
        let params = ca_params(fleet, now)?;
        let certificate = params.self_signed(&key).map_err(FleetError::crypto("sign the CA's certificate"))?;
        let index = Index { fleet: fleet.to_owned(), revoked_list_number: 1, certificates: Vec::new() };
        let issuer = Issuer::new(params, key);
        let revoked = revoked_list(&index, &issuer, now, now + CA_LIFETIME)?;
        create_directory(
            dir,
            &[
                (CA_KEY_FILE, key_pem.as_bytes(), PRIVATE),
                (CA_CERTIFICATE_FILE, certificate.pem().as_bytes(), PUBLIC),
                (REVOKED_FILE, revoked.as_bytes(), PUBLIC),
                (INDEX_FILE, &index.to_bytes(dir)?, PUBLIC),
            ],
        )
    }

    /// Opens the fleet in `dir` and waits for its lock.
    pub(super) fn open(dir: &Path, now: OffsetDateTime) -> Result<Self, FleetError> {
        // Without an index there is no fleet; this says so better than a lock on nothing.
        Index::read(dir)?;
        let opened = File::open(dir).map_err(FleetError::io("open", dir))?;
        let lock = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| FleetError::io("lock", dir)(errno.into()))?;
        // Read again: another command may have written before we had the lock.
        let index = Index::read(dir)?;
        let certificate_file = dir.join(CA_CERTIFICATE_FILE);
        let certificate_pem = read_text(&certificate_file)?;
        let key_file = dir.join(CA_KEY_FILE);
        let key = KeyPair::from_pem(&read_text(&key_file)?)
            .map_err(|error| FleetError::unsuitable(&key_file, error.to_string(), "the CA's key"))?;
        let not_after = check_ca(&certificate_file, &certificate_pem, &key, now)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|error| FleetError::unsuitable(&certificate_file, error.to_string(), "a CA certificate"))?;
        Ok(Self {
            dir: dir.to_owned(),
            now: whole_seconds(now),
            issuer,
            certificate_pem,
            not_after,
            index,
            _lock: lock,
        })
    }

    /// Issues the first certificate of a name, or the first after all earlier ones were revoked
    /// or have expired.
    pub(super) fn enroll(&mut self, enrolment: &Enrolment<'_>, role: Role) -> Result<Issued, FleetError> {
        let name = enrolment.name;
        check_holder_name(name)?;
        let holder = self
            .index
            .certificates
            .iter()
            .rfind(|e| e.name == name && e.revoked_at.is_none() && e.not_after > self.now);
        if let Some(holder) = holder {
            return Err(FleetError::Refused(format!(
                "{name} is enrolled as {} until {}: found a valid certificate (serial {}), \
                 expected none; `startgun fleet renew {name}` issues another, \
                 `startgun fleet revoke {name}` ends it",
                holder.role,
                holder.not_after.date(),
                holder.serial
            )));
        }
        for ending in [".crt", ".key", MESH_KEY_ENDING] {
            refuse_existing(&enrolment.out.join(format!("{name}{ending}")), enrolment)?;
        }
        if enrolment.link.is_some() {
            refuse_existing(&enrolment.out.join(CONFIGURATION_FILE), enrolment)?;
        }
        let ca_copy = enrolment.out.join(CA_CERTIFICATE_FILE);
        if ca_copy.exists() && read_text(&ca_copy)? != self.certificate_pem {
            return Err(FleetError::unsuitable(
                &ca_copy,
                "another fleet's CA",
                "none, or this fleet's; choose another --out",
            ));
        }
        self.issue(enrolment, role)
    }

    /// Issues another certificate in the role that the name has.
    pub(super) fn renew(&mut self, enrolment: &Enrolment<'_>) -> Result<Issued, FleetError> {
        let name = enrolment.name;
        let newest = self.index.newest(name).ok_or_else(|| self.unknown(name))?;
        if newest.revoked_at.is_some() {
            return Err(FleetError::Refused(format!(
                "{name}: found its certificate revoked, expected a valid or expired one; \
                 `startgun fleet enroll {name} --role {}` takes it in again",
                newest.role
            )));
        }
        let role = newest.role;
        self.issue(enrolment, role)
    }

    /// Puts all certificates of a name on the revoked list; how many were not on it before.
    pub(super) fn revoke(&mut self, name: &str) -> Result<usize, FleetError> {
        self.index.newest(name).ok_or_else(|| self.unknown(name))?;
        let mut index = self.index.clone();
        let newly_revoked = index.revoke(name, self.now);
        index.revoked_list_number += 1;
        let list = revoked_list(&index, &self.issuer, self.now, self.not_after)?;
        let mut staged = Staged::new();
        // The index first: where only that much gets done, the same command again does the rest.
        self.stage_index(&mut staged, &index)?;
        staged.add(&self.dir.join(REVOKED_FILE), list.as_bytes(), PUBLIC)?;
        staged.commit()?;
        self.index = index;
        Ok(newly_revoked)
    }

    fn issue(&mut self, enrolment: &Enrolment<'_>, role: Role) -> Result<Issued, FleetError> {
        let Enrolment { name, out, .. } = enrolment;
        self.index.check_room(&self.dir)?;
        let not_after = self.now + Duration::days(i64::from(enrolment.days));
        if not_after > self.not_after {
            return Err(FleetError::Refused(format!(
                "--days {}: found an end after the CA's own ({}), expected at most {} days",
                enrolment.days,
                self.not_after.date(),
                (self.not_after - self.now).whole_days()
            )));
        }
        let serial = new_serial()?;
        let leaf = |mesh_key| Leaf {
            fleet: &self.index.fleet,
            role,
            name,
            serial: &serial,
            not_before: self.now - BACKDATED,
            not_after,
            mesh_key,
        };
        let (certificate_pem, keys, has_mesh_key) = match enrolment.csr {
            Some(csr) => {
                let Requested { public_key, mesh_key } = read_request(csr, role, name)?;
                (leaf(mesh_key).sign(&public_key, &self.issuer)?, None, mesh_key.is_some())
            }
            None => {
                let keys = NewKeys::draw(role)?;
                (leaf(keys.mesh_public()).sign(&keys.tls, &self.issuer)?, Some(keys), role == Role::Agent)
            }
        };
        let entry = Entry { serial: hexadecimal(&serial), name: (*name).to_owned(), role, not_after, revoked_at: None };
        let mut index = self.index.clone();
        index.certificates.push(entry.clone());

        ensure_directory(out)?;
        let mut staged = Staged::new();
        self.stage_index(&mut staged, &index)?;
        if let Some(keys) = keys {
            keys.stage(&mut staged, out, name)?;
        }
        let file = out.join(format!("{name}.crt"));
        staged.add(&file, certificate_pem.as_bytes(), PUBLIC)?;
        let ca = self.certificate_pem.as_bytes();
        staged.add(&out.join(CA_CERTIFICATE_FILE), ca, PUBLIC)?;
        let revoked = read_text(&self.dir.join(REVOKED_FILE))?;
        staged.add(&out.join(REVOKED_FILE), revoked.as_bytes(), PUBLIC)?;
        if let Some(link) = enrolment.link {
            let configuration = configuration::agent(name, link, has_mesh_key);
            staged.add(&out.join(CONFIGURATION_FILE), configuration.as_bytes(), PUBLIC)?;
        }
        let files = staged.commit()?.split_off(1);
        self.index = index;
        Ok(Issued { entry, files, has_mesh_key })
    }

    fn stage_index(&self, staged: &mut Staged, index: &Index) -> Result<(), FleetError> {
        let bytes = index.to_bytes(&self.dir)?;
        staged.add(&self.dir.join(INDEX_FILE), &bytes, PUBLIC)
    }

    fn unknown(&self, name: &str) -> FleetError {
        FleetError::Refused(format!(
            "{name}: found no such name in {}, expected one that `startgun fleet list` shows",
            self.dir.join(INDEX_FILE).display()
        ))
    }
}

/// The private keys of a new certificate.
struct NewKeys {
    tls: KeyPair,
    /// For the mesh; masters take no part in it.
    mesh: Option<NewMeshKey>,
}

impl NewKeys {
    fn draw(role: Role) -> Result<Self, FleetError> {
        let mesh = match role {
            Role::Master => None,
            Role::Agent => Some(NewMeshKey::draw().map_err(|_| FleetError::NoRandomness)?),
        };
        Ok(Self { tls: new_key()?, mesh })
    }

    fn mesh_public(&self) -> Option<[u8; 32]> {
        self.mesh.as_ref().map(|key| key.public)
    }

    fn stage(&self, staged: &mut Staged, out: &Path, name: &str) -> Result<(), FleetError> {
        staged.add(&out.join(format!("{name}.key")), self.tls.serialize_pem().as_bytes(), PRIVATE)?;
        match &self.mesh {
            Some(key) => staged.add(&out.join(format!("{name}{MESH_KEY_ENDING}")), key.private_pem.as_bytes(), PRIVATE),
            None => Ok(()),
        }
    }
}

/// Makes `NAME.key`, an agent's `NAME.mesh.key`, and `NAME.csr` in `out`, on a host that the CA never sees the keys of.
pub(super) fn request(name: &str, role: Role, out: &Path) -> Result<(), FleetError> {
    check_holder_name(name)?;
    let csr_file = out.join(format!("{name}.csr"));
    for ending in [".key", MESH_KEY_ENDING, ".csr"] {
        let file = &out.join(format!("{name}{ending}"));
        if file.exists() {
            return Err(FleetError::unsuitable(file, "a file", "none; choose another --out"));
        }
    }
    let keys = NewKeys::draw(role)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![san_uri(REQUEST_FLEET, role, name)?];
    params.custom_extensions = mesh_extension(keys.mesh_public());
    let pem = params
        .serialize_request(&keys.tls)
        .and_then(|request| request.pem())
        .map_err(FleetError::crypto("make the request"))?;
    ensure_directory(out)?;
    let mut staged = Staged::new();
    keys.stage(&mut staged, out, name)?;
    staged.add(&csr_file, pem.as_bytes(), PUBLIC)?;
    staged.commit().map(|_| ())
}

/// The contents of a master's or agent's certificate.
pub(crate) struct Leaf<'a> {
    pub(crate) fleet: &'a str,
    pub(crate) role: Role,
    pub(crate) name: &'a str,
    pub(crate) serial: &'a [u8],
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// An agent's public key for the mesh.
    pub(crate) mesh_key: Option<[u8; 32]>,
}

impl Leaf<'_> {
    /// Signs it for the holder of `public_key`; PEM.
    pub(crate) fn sign(
        &self,
        public_key: &impl PublicKeyData,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<String, FleetError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name);
        params.subject_alt_names = vec![san_uri(self.fleet, self.role, self.name)?];
        params.serial_number = Some(SerialNumber::from_slice(self.serial));
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Both, so that masters can dial each other one day with the certificates of today.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = mesh_extension(self.mesh_key);
        params
            .signed_by(public_key, issuer)
            .map(|certificate| certificate.pem())
            .map_err(FleetError::crypto("sign the certificate"))
    }
}

fn ca_params(fleet: &str, now: OffsetDateTime) -> Result<CertificateParams, FleetError> {
    let mut params = CertificateParams::default();
    // Two fleets may have one name. Their CAs must not: a certificate and a revoked list find
    // their CA by its subject.
    let tag = hexadecimal(&new_serial()?[..4]);
    let subject = format!("Startgun fleet {fleet} {tag}");
    params.distinguished_name.push(DnType::CommonName, subject);
    params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
    params.not_before = now - BACKDATED;
    params.not_after = now + CA_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn revoked_list(
    index: &Index,
    issuer: &Issuer<'_, KeyPair>,
    now: OffsetDateTime,
    ca_not_after: OffsetDateTime,
) -> Result<String, FleetError> {
    let revoked_certs = index
        .certificates
        .iter()
        .filter(|entry| entry.not_after + REVOKED_KEPT > now)
        .filter_map(|entry| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&entry.serial_bytes()?),
                revocation_time: entry.revoked_at?,
                reason_code: Some(RevocationReason::PrivilegeWithdrawn),
                invalidity_date: None,
            })
        })
        .collect();
    CertificateRevocationListParams {
        this_update: now,
        // Lists are made when somebody is revoked, not by a calendar; no earlier one is promised.
        next_update: ca_not_after,
        crl_number: SerialNumber::from_slice(&index.revoked_list_number.to_be_bytes()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .and_then(|list| list.pem())
    .map_err(FleetError::crypto("sign the revoked list"))
}

/// What a request asks to be certified.
struct Requested {
    public_key: SubjectPublicKeyInfo,
    /// An agent's key for the mesh; requests of other programs have none.
    mesh_key: Option<[u8; 32]>,
}

/// The public keys of a request, once its signature shows that the requester has the private one,
/// and its URI (if it is one of ours) agrees with what is to be issued.
fn read_request(file: &Path, role: Role, name: &str) -> Result<Requested, FleetError> {
    let unsuitable = |found: String| {
        let expected = format!("a signing request (PEM) for the {role} {name}");
        FleetError::unsuitable(file, found, expected)
    };
    let text = read_text(file)?;
    let der =
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|error| unsuitable(error.to_string()))?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| unsuitable(error.to_string()))?;
    request.verify_signature().map_err(|_| unsuitable("a request that its own key did not sign".to_owned()))?;
    let extensions = requested_extensions(&request);
    let names = extensions.iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    // A request of another program carries no URI of ours; the command line decides then.
    if let Some(Ok(uri)) = names.map(|names| single_uri(names)) {
        let (_, asked_role, asked_name) = parse_uri(uri).map_err(|error| unsuitable(error.to_string()))?;
        if (asked_role, asked_name.as_str()) != (role, name) {
            return Err(unsuitable(format!("one for the {asked_role} {asked_name}")));
        }
    }
    let mesh_key = match role {
        Role::Master => None,
        Role::Agent => mesh_keys::public_key_in(extensions).map_err(|found| unsuitable(format!("one with {found}")))?,
    };
    let public_key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|error| unsuitable(format!("a key of a kind that is not supported ({error})")))?;
    Ok(Requested { public_key, mesh_key })
}

/// The extensions that a request asks for; none where it has no such attribute.
fn requested_extensions<'a>(request: &'a X509CertificationRequest<'_>) -> &'a [X509Extension<'a>] {
    let mut attributes = request.certification_request_info.iter_attributes();
    attributes
        .find_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(requested.extensions.as_slice()),
            _ => None,
        })
        .unwrap_or_default()
}

/// The extension that carries a public key for the mesh.
fn mesh_extension(public: Option<[u8; 32]>) -> Vec<CustomExtension> {
    let content = public.map(|key| mesh_keys::extension_content(&key));
    content.map(|content| CustomExtension::from_oid_content(&mesh_keys::OID, content)).into_iter().collect()
}

/// Checks that certificate and key belong together and are a CA's, not expired; when it expires.
fn check_ca(file: &Path, pem: &str, key: &KeyPair, now: OffsetDateTime) -> Result<OffsetDateTime, FleetError> {
    let unsuitable =
        |found: String| FleetError::unsuitable(file, found, "the CA certificate of the key beside it, not expired");
    let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unsuitable(error.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| unsuitable(error.to_string()))?;
    if !certificate.is_ca() {
        return Err(unsuitable("a certificate that is no CA's".to_owned()));
    }
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(unsuitable("the certificate of another key".to_owned()));
    }
    let not_after = certificate.validity().not_after.to_datetime();
    if not_after <= now {
        return Err(unsuitable(format!("one that expired on {}", not_after.date())));
    }
    Ok(not_after)
}

fn check_holder_name(name: &str) -> Result<(), FleetError> {
    check_name(name)?;
    if name == RESERVED_NAME {
        return Err(FleetError::Refused(format!(
            "found the name {name:?}, expected another: {name}.crt and {name}.key are the CA's files"
        )));
    }
    Ok(())
}

fn refuse_occupied(dir: &Path) -> Result<(), FleetError> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FleetError::io("read", dir)(error)),
    };
    let found = if dir.join(CA_KEY_FILE).exists() || dir.join(INDEX_FILE).exists() {
        "a fleet"
    } else if entries.next().is_some() {
        "files"
    } else {
        return Ok(());
    };
    Err(FleetError::unsuitable(dir, found, "a new or empty directory (nothing is overwritten)"))
}

/// A new certificate must not replace a file of the host's, except keys where those are the
/// host's own and the request was made with them.
fn refuse_existing(file: &Path, enrolment: &Enrolment<'_>) -> Result<(), FleetError> {
    let is_key = file.extension().is_some_and(|ending| ending == "key");
    if !file.exists() || (is_key && enrolment.csr.is_some()) {
        return Ok(());
    }
    Err(FleetError::unsuitable(file, "a file", "none (nothing is overwritten); choose another --out"))
}

fn san_uri(fleet: &str, role: Role, name: &str) -> Result<SanType, FleetError> {
    identity_uri(fleet, role, name).try_into().map(SanType::URI).map_err(FleetError::crypto("write the URI"))
}

fn new_key() -> Result<KeyPair, FleetError> {
    // Every TLS library and hardware token of the last ten years can do P-256.
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(FleetError::crypto("make a key"))
}

fn new_serial() -> Result<[u8; SERIAL_BYTES], FleetError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new().fill(&mut serial).map_err(|_| FleetError::NoRandomness)?;
    // Positive, and with a first byte that is not zero, so that its length is always the same.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

fn whole_seconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}

fn read_text(file: &Path) -> Result<String, FleetError> {
    use std::io::Read;
    let mut text = String::new();
    File::open(file)
        .and_then(|opened| opened.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(FleetError::io("read", file))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        let found = format!("more than {INPUT_BYTES_MAX} bytes");
        return Err(FleetError::unsuitable(file, found, "a file of at most that size"));
    }
    Ok(text)
}
