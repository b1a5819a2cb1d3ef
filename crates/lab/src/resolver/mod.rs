//! Real recursive resolvers as a race's clients.
//!
//! **Problem.** A race is won inside somebody else's program: it has to take the first answer, drop the others without
//! drawing conclusions from them, and ask again next time. Only the real programs show that they do. They are made to be
//! installed once, as a service, with a user of their own; here several run at once, each on a host of the emulated
//! network, as root or as an ordinary user who is root of a user namespace.
//!
//! **Why plain start-up fails.** In a user namespace only one uid is mapped: a daemon that switches to its own user,
//! changes root or drops groups ends at once. Control sockets, pid files and caches in fixed places collide. A hardened
//! system confines the installed program (AppArmor) to the files of its service. systemd-resolved has no options at all,
//! only fixed paths below `/run` and a user name to look up.
//!
//! **Sketch.** [`ResolverKind::installed`] says what is here. [`prepare`] writes one resolver's configuration into a
//! directory of its own and returns a [`Launch`]: a command for the host's thread to start, the address that it will
//! answer at, and a [`Probe`] that tells when it does. Every resolver:
//!
//! - runs in the foreground, at nice 19, in its directory; its output goes to [`LOG_FILE`] there;
//! - listens on loopback port 53 only, so that each host can have one, and needs no file outside its directory;
//! - sends everything below one zone to one server, the service address, and has no root servers to ask: nothing else
//!   leaves the host;
//! - validates nothing in that zone, prefetches nothing, serves nothing stale, and counts no unwanted answers against the
//!   zone's server. What it sends is otherwise what its default configuration sends: see `docs/resolvers.md`.

mod bind;
mod dnsmasq;
mod install;
mod knot_resolver;
mod powerdns;
mod probe;
mod resolved;
mod unbound;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

pub use install::{DEPS_DIR_VARIABLE, SYSTEM_DEPS_DIR};
pub use probe::Probe;

/// What a resolver writes, in the directory given to [`prepare`].
pub const LOG_FILE: &str = "resolver.log";

/// Resolvers yield to agents and to the emulator, whose lateness decides races; 19 is the lowest priority there is.
const NICENESS: &str = "19";

/// Where all but systemd-resolved listen.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The longest zone name in presentation form (RFC 1035, section 2.3.4: 255 octets on the wire), dot at the end included.
const ZONE_BYTES_MAX: usize = 254;

/// A recursive resolver, or the stand-in for one.
///
/// Its name, in text and in JSON: `unbound`, `bind`, `kresd`, `pdns`, `dnsmasq`, `resolved`, `builtin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResolverKind {
    /// NLnet Labs Unbound.
    #[serde(rename = "unbound")]
    Unbound,
    /// ISC BIND 9's `named`.
    #[serde(rename = "bind")]
    Bind,
    /// CZ.NIC Knot Resolver, version 5's `kresd`.
    #[serde(rename = "kresd")]
    KnotResolver,
    /// PowerDNS Recursor.
    #[serde(rename = "pdns")]
    PowerDns,
    /// dnsmasq, which forwards only.
    #[serde(rename = "dnsmasq")]
    Dnsmasq,
    /// systemd-resolved, which forwards only.
    #[serde(rename = "resolved")]
    Resolved,
    /// No program: the load asks the service address itself.
    #[serde(rename = "builtin")]
    Builtin,
}

impl ResolverKind {
    /// All kinds that are programs, in the order in which [`Self::installed`] lists them.
    pub const PROGRAMS: [Self; 6] =
        [Self::Unbound, Self::Bind, Self::KnotResolver, Self::PowerDns, Self::Dnsmasq, Self::Resolved];

    /// The name that reports and the command line use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Bind => "bind",
            Self::KnotResolver => "kresd",
            Self::PowerDns => "pdns",
            Self::Dnsmasq => "dnsmasq",
            Self::Resolved => "resolved",
            Self::Builtin => "builtin",
        }
    }

    /// The kind of that name; `None` for any other text.
    pub fn named(name: &str) -> Option<Self> {
        Self::PROGRAMS.into_iter().chain([Self::Builtin]).find(|kind| kind.name() == name)
    }

    /// The resolvers that are here: kind, program and version (digits and dots, such as `1.17.1`), each kind at most once.
    ///
    /// Looks in `PATH` and the directories for system programs, and for systemd-resolved where `scripts/demo-deps` unpacks
    /// it: `$STARTGUN_DEPS_DIR`, the user's cache, [`SYSTEM_DEPS_DIR`], then the system itself. Each program found is
    /// started once to tell its version; one that cannot is left out. Takes some tens of milliseconds.
    pub fn installed() -> Vec<(ResolverKind, PathBuf, String)> {
        install::installed()
    }
}

impl fmt::Display for ResolverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A resolver ready to be started.
#[derive(Debug)]
pub struct Launch {
    /// To be started by a thread in the host's network namespace, whose loopback is up, with uid 0 there. Does not fork:
    /// the child's process id is the resolver's. Ends on SIGTERM.
    pub command: Command,
    /// Where the host's own programs ask it.
    pub address: SocketAddr,
    /// Tells when it answers.
    pub probe: Probe,
    /// The file that its output goes to.
    pub log: PathBuf,
}

/// What the resolvers' own modules start from.
struct Setup<'a> {
    program: &'a Path,
    /// Absolute.
    dir: &'a Path,
    /// Lower case or not, letters, digits, hyphens and underscores in labels, a dot at the end.
    zone: &'a str,
    server: SocketAddr,
}

impl Setup<'_> {
    /// The zone without its last dot, as some configurations want it.
    fn zone_undotted(&self) -> &str {
        self.zone.trim_end_matches('.')
    }

    /// `address@port`.
    fn server_with_at(&self) -> String {
        format!("{}@{}", self.server.ip(), self.server.port())
    }

    /// `address#port`.
    fn server_with_hash(&self) -> String {
        format!("{}#{}", self.server.ip(), self.server.port())
    }

    /// Writes a file into the resolver's directory.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(|error| at(&path, &error))
    }
}

/// Writes the configuration of one resolver into `dir`, which must exist and be its own, and returns how to start it.
///
/// `zone` (such as `cdn.test.`, with or without the last dot) is what it asks `server` for.
///
/// # Errors
/// `InvalidInput`: the kind is `Builtin`, or the zone is no host name. `NotFound`: no program at `program`. Otherwise the
/// error of a file, with its path.
pub fn prepare(kind: ResolverKind, program: &Path, dir: &Path, zone: &str, server: SocketAddr) -> io::Result<Launch> {
    prepare_confined(kind, program, dir, zone, server, install::apparmor_is_enabled())
}

/// [`prepare`] for BIND with a `static-stub` zone in place of a forwarded one: it looks for the answers itself, without
/// RD, as an iterative resolver does. Such a zone takes no port; the server has 53.
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_bind_static_stub(program: &Path, dir: &Path, zone: &str, server: IpAddr) -> io::Result<Launch> {
    let server = SocketAddr::new(server, 53);
    let command = |setup: &Setup<'_>| Ok((bind::command(setup, bind::ZoneKind::StaticStub)?, ADDRESS));
    prepare_with(ResolverKind::Bind, program, dir, zone, server, install::apparmor_is_enabled(), command)
}

/// [`prepare`], told whether the system confines programs by their path.
fn prepare_confined(
    kind: ResolverKind,
    program: &Path,
    dir: &Path,
    zone: &str,
    server: SocketAddr,
    confined: bool,
) -> io::Result<Launch> {
    prepare_with(kind, program, dir, zone, server, confined, |setup| {
        Ok(match kind {
            ResolverKind::Unbound => (unbound::command(setup)?, ADDRESS),
            ResolverKind::Bind => (bind::command(setup, bind::ZoneKind::Forward)?, ADDRESS),
            ResolverKind::KnotResolver => (knot_resolver::command(setup)?, ADDRESS),
            ResolverKind::PowerDns => (powerdns::command(setup)?, ADDRESS),
            ResolverKind::Dnsmasq => (dnsmasq::command(setup)?, ADDRESS),
            ResolverKind::Resolved => (resolved::command(setup)?, resolved::ADDRESS),
            ResolverKind::Builtin => {
                let fault = "the built-in resolver is no program to start";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
            }
        })
    })
}

/// What all have in common; `command` writes the configuration, and tells where the resolver will listen.
fn prepare_with(
    kind: ResolverKind,
    program: &Path,
    dir: &Path,
    zone: &str,
    server: SocketAddr,
    confined: bool,
    command: impl FnOnce(&Setup<'_>) -> io::Result<(Command, SocketAddr)>,
) -> io::Result<Launch> {
    let zone = checked_zone(zone)?;
    let dir = fs::canonicalize(dir).map_err(|error| at(dir, &error))?;
    let program = fs::canonicalize(program).map_err(|error| at(program, &error))?;
    let program = if confined && install::has_profile(kind) {
        install::copied_out_of_confinement(&program, &dir)?
    } else {
        program
    };
    let setup = Setup { program: &program, dir: &dir, zone: &zone, server };
    let (mut command, address) = command(&setup)?;
    let log = dir.join(LOG_FILE);
    let output = File::create(&log).map_err(|error| at(&log, &error))?;
    command.current_dir(&dir).stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    Ok(Launch { command, address, probe: Probe::new(address), log })
}

/// A command that runs `program` at the lowest priority; `nice` replaces itself by it.
fn nice(program: &Path) -> Command {
    let mut command = Command::new("nice");
    command.arg("-n").arg(NICENESS).arg(program);
    command
}

/// The zone with a dot at its end, if it can stand in any configuration file as it is.
fn checked_zone(zone: &str) -> io::Result<String> {
    let undotted = zone.strip_suffix('.').unwrap_or(zone);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if undotted.len() >= ZONE_BYTES_MAX || !undotted.split('.').all(is_label) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("zone {zone:?}: expected labels of letters, digits, - and _, such as cdn.test."),
        ));
    }
    Ok(format!("{undotted}."))
}

/// The error with the path that it is about.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
