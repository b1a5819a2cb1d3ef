//! What master and agent have in common: names, directories, certificates, the lab's false clock.

use std::net::SocketAddr;
use std::path::PathBuf;

use startgun_core::time::Span;
use startgun_net::host_clock::{Distortion, Step};

use super::Role;
use super::reader::{Document, Section, Value};
use crate::control::mesh_keys::MeshStanding;
use crate::control::tls::{TlsError, TlsFiles, check_name};

/// Longest path of a Unix socket, in bytes: `sun_path` holds 108 with its terminating zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Greatest offset of a false clock, in seconds: a year, far within 292 years of nanoseconds.
const DISTORTION_OFFSET_S_MAX: f64 = 31_536_000.0;

/// Greatest drift of a false clock, in ppm: a hundred times what a bad crystal does.
const DISTORTION_DRIFT_PPM_MAX: f64 = 10_000.0;

/// What a name looks like, for errors. The rule is that of certificates, which carry it.
pub(super) const NAME: &str = "1 to 63 of a-z, 0-9 and -, starting with a letter";

/// Settings that any Startgun daemon has.
#[derive(Debug, Clone, PartialEq)]
pub struct HostConfig {
    /// Its name; its certificate must carry it.
    pub name: String,
    /// Directory of what must outlive the process.
    pub state_dir: PathBuf,
    /// The Unix socket that `startgun status` asks.
    pub status_socket: PathBuf,
    /// Where metrics and health are served over HTTP, if anywhere.
    pub http_listen: Option<SocketAddr>,
    /// The user that the process becomes once its sockets are open.
    pub user: Option<String>,
    /// Certificates.
    pub fleet: TlsFiles,
    /// A clock that is wrong on purpose; labs only.
    pub clock_distortion: Option<Distortion>,
}

/// Reads what both daemons have; `None` where something that has no default was missing or wrong.
pub(super) fn read_host(root: &Section<'_>, role: Role, default_socket: &str) -> Option<HostConfig> {
    let document = root.document;
    let name = root.required("name", NAME, |value| read_name(&value));
    let state_dir = root.or("state_dir", document.resolve("/var/lib/startgun"), |value| value.path());
    let status_socket = root.or("status_socket", document.resolve(default_socket), |value| read_socket_path(&value));
    let http_listen = root.value("http_listen").and_then(|value| value.listen_address());
    let user = root.value("user").and_then(|value| read_user(&value));
    let fleet = match root.section("fleet") {
        Some(section) => read_fleet(section, role),
        None => root.missing("fleet", "a table with ca, certificate and key, as `startgun fleet enroll` makes them"),
    };
    let clock_distortion = root.section("clock_distortion").map(read_distortion);
    Some(HostConfig { name: name?, state_dir, status_socket, http_listen, user, fleet: fleet?, clock_distortion })
}

/// A name that can stand in a certificate.
pub(super) fn read_name(value: &Value<'_>) -> Option<String> {
    match value.as_str().filter(|name| check_name(name).is_ok()) {
        Some(name) => Some(name.to_owned()),
        None => value.wrong(NAME),
    }
}

/// Where a socket could not be made, bind(2) would only say "invalid argument".
fn read_socket_path(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    match path.as_os_str().len() {
        0..=SOCKET_PATH_BYTES_MAX => Some(path),
        bytes => value.fault(
            format!("{bytes} bytes of path ({})", path.display()),
            format!("at most {SOCKET_PATH_BYTES_MAX}, the limit of Unix sockets"),
        ),
    }
}

fn read_user(value: &Value<'_>) -> Option<String> {
    let expected = "the name of a user of this host";
    let user = value.text(expected)?;
    let is_known = |user| matches!(nix::unistd::User::from_name(user), Ok(Some(_)));
    if user.contains('\0') || (value.document.checks_host && !is_known(user)) {
        return value.wrong(expected);
    }
    Some(user.to_owned())
}

fn read_fleet(section: Section<'_>, role: Role) -> Option<TlsFiles> {
    let ca = section.required("ca", "the path of the fleet's ca.crt", |value| value.existing_file());
    let certificate =
        section.required("certificate", "the path of this host's NAME.crt", |value| value.existing_file());
    let key = section.required("key", "the path of this host's NAME.key", |value| value.existing_file());
    let revoked = section.value("revoked").and_then(|value| value.existing_file());
    let mesh_key = match role {
        Role::Master => None,
        Role::Agent => section.value("mesh_key"),
    };
    let mesh_key_path = mesh_key.as_ref().and_then(|value| value.existing_file());
    section.finish();
    let files = TlsFiles { ca: ca?, certificate: certificate?, key: key?, revoked, mesh_key: mesh_key_path };
    if let Some(value) = mesh_key.filter(|value| value.document.checks_host && files.mesh_key.is_some()) {
        check_mesh_key(&value, &files);
    }
    Some(files)
}

/// Whether the key is that of the certificate, and what it means where the certificate carries none.
fn check_mesh_key(value: &Value<'_>, files: &TlsFiles) {
    match MeshStanding::of_files(files) {
        Ok(MeshStanding::NotCertified) => {
            let found = format!("no mesh key in {}", files.certificate.display());
            value.warn(found, "one; this agent takes no part in the mesh until `startgun fleet renew` puts one in");
        }
        Ok(_) => {}
        Err(TlsError::Unreadable { file, source }) => {
            value.fault::<()>(format!("{}: {source}", file.display()), "a readable file");
        }
        Err(TlsError::Unsuitable { file, found, expected }) => {
            value.fault::<()>(format!("{}: {found}", file.display()), expected);
        }
    }
}

fn read_distortion(section: Section<'_>) -> Distortion {
    let seconds = |value: Value<'_>| {
        let seconds = value.number(-DISTORTION_OFFSET_S_MAX..=DISTORTION_OFFSET_S_MAX, "seconds")?;
        Some(Span::from_nanos((seconds * 1e9).round() as i64))
    };
    let raw_ns = |value: Value<'_>| value.integer(0..=i64::MAX, "nanoseconds of CLOCK_MONOTONIC_RAW");
    let drift_ppm = section.or("drift_ppm", 0.0, |value| {
        value.number(-DISTORTION_DRIFT_PPM_MAX..=DISTORTION_DRIFT_PPM_MAX, "parts per million")
    });
    let (by, at_raw_ns) = (section.value("step_s"), section.value("step_at_raw_ns"));
    let step = match (by, at_raw_ns) {
        (None, None) => None,
        (Some(_), None) => section.missing("step_at_raw_ns", "when the clock steps by step_s"),
        (None, Some(_)) => section.missing("step_s", "by how much the clock steps at step_at_raw_ns"),
        (Some(by), Some(at_raw_ns)) => match (seconds(by), raw_ns(at_raw_ns)) {
            (Some(by), Some(at_raw_ns)) => Some(Step { at_raw_ns, by }),
            _ => None,
        },
    };
    let distortion = Distortion {
        offset: section.or("offset_s", Span::ZERO, seconds),
        drift_ppb: (drift_ppm * 1e3).round() as i64,
        reference_raw_ns: section.or("reference_raw_ns", 0, raw_ns),
        step,
        realtime_offset: section.or("realtime_offset_s", Span::ZERO, seconds),
    };
    let document: &Document<'_> = section.document;
    let found = "a clock that is wrong on purpose";
    document.warn(document.error(&section.span, "clock_distortion", found, "one in labs only"));
    section.finish();
    distortion
}

/// Sockets of one host, to find two that want the same address.
#[derive(Default)]
pub(super) struct Listeners(Vec<(SocketAddr, Transport, String)>);

/// What a listener takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Both,
}

impl Listeners {
    /// Adds the address of a key; notes when an earlier one has taken it.
    pub fn add(&mut self, root: &Section<'_>, key: &'static str, transport: Transport) {
        // Faults of the value itself have been noted where it was read.
        let Some(value) = root.value(key) else { return };
        if let Some(address) = value.as_str().and_then(|text| text.parse().ok()) {
            self.claim(&value, address, transport);
        }
    }

    /// Adds an address; notes when an earlier one has taken it.
    pub fn claim(&mut self, value: &Value<'_>, address: SocketAddr, transport: Transport) {
        match self.taker(address, transport) {
            Some(key) => {
                value.fault::<()>(value.found(), format!("an address and port that {key} does not take as well"));
            }
            None => self.0.push((address, transport, value.key.clone())),
        }
    }

    /// The key that has taken an address.
    pub fn taker(&self, address: SocketAddr, transport: Transport) -> Option<&str> {
        let overlaps = |(other, theirs, _): &&(SocketAddr, Transport, String)| {
            let same_transport = *theirs == transport || *theirs == Transport::Both || transport == Transport::Both;
            let unspecified = address.ip().is_unspecified() || other.ip().is_unspecified();
            let same_host = address.ip() == other.ip() || (unspecified && address.is_ipv4() == other.is_ipv4());
            same_transport && same_host && address.port() == other.port()
        };
        self.0.iter().find(overlaps).map(|(_, _, key)| key.as_str())
    }
}
