//! The servers, each with one worker and no limits on rates.
//!
//! They are started in turn, each on the measured core alone and anew for every round: an idle server beside the one that
//! is asked would cost nothing, but where a process happens to lie in memory, and with which seed its tables are hashed,
//! is luck that lasts as long as the process, and memory is only comparable when nobody shares pages with a twin.
//!
//! Knot, NSD and gdnsd run as in their packages but for: one worker (`udp-workers`, `server-count`, `udp_threads`), no
//! journal and no database on disk, no rate limiting (Knot's is a module that is not loaded, NSD's is set to 0, gdnsd has
//! none), no control over the network. NSD gets `minimal-responses`, so that all four answer with the same records.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use startgun_lab::process::{Process, ProcessGroup};

use crate::common::{Stage, dns, program};
use crate::configuration;
use crate::tools::{Tool, Tools};
use crate::usage::{Cores, Usage};
use crate::zones::{APEX, FIRST_NAME, ZoneKind, Zones};

/// Longest wait for a server to load the great zone: some seconds, on a machine that does other work several times that.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// How long a server that is to end may take before it is killed: Knot frees a million names one by one.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The program under test, with one shard.
    Startgun,
    /// Knot DNS: what the others are compared with.
    Knot,
    /// NSD.
    Nsd,
    /// gdnsd.
    Gdnsd,
}

impl Server {
    /// All of them, in the order of the report.
    pub const ALL: [Server; 4] = [Server::Startgun, Server::Knot, Server::Nsd, Server::Gdnsd];

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Server::Startgun => "startgun",
            Server::Knot => "knot",
            Server::Nsd => "nsd",
            Server::Gdnsd => "gdnsd",
        }
    }

    /// Whether it can serve a zone: gdnsd has no DNSSEC.
    pub fn serves(self, zone: ZoneKind) -> bool {
        !(self == Server::Gdnsd && zone == ZoneKind::Signed)
    }
}

/// What all servers are started with.
pub struct Grounds<'a> {
    pub tools: &'a Tools,
    pub zones: &'a Zones,
    /// Startgun's certificates and addresses.
    pub stage: &'a Stage,
    pub processes: &'a ProcessGroup,
    pub cores: Cores,
}

/// A server that answers.
pub struct Running {
    process: Process,
    /// Its processes.
    pub usage: Usage,
}

impl Running {
    /// Ends it.
    ///
    /// # Errors
    /// A sentence.
    pub fn stop(self) -> Result<(), String> {
        let program = self.process.program().to_owned();
        self.process.stop(STOP_PATIENCE).map(drop).map_err(|error| format!("stopping {program}: {error}"))
    }
}

impl Grounds<'_> {
    /// Where all servers answer, one after the other.
    pub fn address(&self) -> SocketAddr {
        self.stage.service()
    }

    /// Starts a server with a zone and waits until it answers from it.
    ///
    /// # Errors
    /// A sentence with what it logged last.
    pub fn start(&self, server: Server, zone: ZoneKind) -> Result<Running, String> {
        let name = format!("{}-{}", server.name(), zone.name());
        let directory = self.stage.path(&name);
        let fault = |error: std::io::Error| format!("{}: {error}", directory.display());
        // Nothing of an earlier process: no state, no cache.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(fault)?;
        let log = directory.join("log");
        let mut command = self.command(server, &directory, &self.zones.zone(zone)).map_err(fault)?;
        let file = File::create(&log).map_err(fault)?;
        command.stdout(file.try_clone().map_err(fault)?).stderr(file);
        let spawned = self.cores.on_measured(|| self.processes.spawn(command)).and_then(|spawned| spawned);
        let mut process = spawned.map_err(|error| error.to_string())?;
        if let Err(fault) = answers(&mut process, self.address()) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let said: Vec<&str> = text.lines().rev().take(5).collect();
            return Err(format!("{name}: {fault}: {}", said.into_iter().rev().collect::<Vec<_>>().join("; ")));
        }
        let usage = Usage::of(process.id());
        usage.keep_on_measured(self.cores)?;
        Ok(Running { process, usage })
    }

    /// Writes a server's configuration into its directory.
    fn command(&self, server: Server, directory: &Path, zone: &Path) -> std::io::Result<Command> {
        let (path, file, address) = (directory.display(), zone.display(), self.address());
        let (ip, port) = (address.ip(), address.port());
        let prepare =
            |tool: &Tool, file: &str, text: &str| fs::write(directory.join(file), text).map(|()| tool.command());
        match server {
            Server::Startgun => {
                let zone = format!("[[zone]]\nname = \"{APEX}.\"\nfile = \"{file}\"\n");
                let text = configuration::master(self.stage, "", &zone);
                self.stage.write("m1.toml", &text);
                let mut command = Command::new(program());
                command.args(["master", "--config"]).arg(self.stage.path("m1.toml")).env("NO_COLOR", "1");
                command.env_remove("RUST_LOG");
                Ok(command)
            }
            Server::Knot => {
                let text = format!(
                    "server:\n    rundir: {path}\n    listen: {ip}@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    \
                     background-workers: 1\nlog:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {path}\n\
                     zone:\n  - domain: {APEX}\n    storage: {path}\n    file: {file}\n    journal-content: none\n    \
                     zonefile-sync: -1\n    semantic-checks: off\n"
                );
                let mut command = prepare(&self.tools.knot, "knot.conf", &text)?;
                command.arg("-c").arg(directory.join("knot.conf"));
                Ok(command)
            }
            Server::Nsd => {
                let text = format!(
                    "server:\n  ip-address: {ip}@{port}\n  server-count: 1\n  username: \"\"\n  zonesdir: \"{path}\"\n  \
                     database: \"\"\n  pidfile: \"{path}/nsd.pid\"\n  xfrdfile: \"{path}/xfrd.state\"\n  \
                     xfrdir: \"{path}\"\n  zonelistfile: \"{path}/zone.list\"\n  rrl-ratelimit: 0\n  \
                     rrl-whitelist-ratelimit: 0\n  minimal-responses: yes\nremote-control:\n  control-enable: no\n\
                     zone:\n  name: {APEX}\n  zonefile: {file}\n"
                );
                let mut command = prepare(&self.tools.nsd, "nsd.conf", &text)?;
                command.args(["-d", "-c"]).arg(directory.join("nsd.conf"));
                Ok(command)
            }
            Server::Gdnsd => {
                let text = format!(
                    "options => {{\n  listen => {address}\n  run_dir => {path}/run\n  state_dir => {path}/state\n  \
                     udp_threads => 1\n  tcp_threads => 1\n}}\n"
                );
                for part in ["run", "state", "zones"] {
                    fs::create_dir(directory.join(part))?;
                }
                std::os::unix::fs::symlink(zone, directory.join("zones").join(APEX))?;
                let mut command = prepare(&self.tools.gdnsd, "config", &text)?;
                command.arg("-c").arg(directory).arg("start");
                Ok(command)
            }
        }
    }
}

/// Asks for a name of the zone until there is an address in the answer.
fn answers(process: &mut Process, server: SocketAddr) -> Result<(), String> {
    let fault = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(fault)?;
    socket.set_read_timeout(Some(LOOK_INTERVAL)).map_err(fault)?;
    let started = Instant::now();
    let mut answer = [0; 1_232];
    while started.elapsed() < READY_PATIENCE {
        if let Some(status) = process.try_wait().map_err(fault)? {
            return Err(format!("ended at its start, {status}"));
        }
        let asked = socket.send_to(&dns::query(7, FIRST_NAME), server).and_then(|_| socket.recv(&mut answer));
        match asked {
            // The low half of the third and fourth byte's flags is the response code, the eighth byte counts answers.
            Ok(length) if length > 12 && answer[3] & 15 == 0 && answer[7] > 0 => return Ok(()),
            _ => std::thread::sleep(LOOK_INTERVAL),
        }
    }
    Err(format!("no answer within {READY_PATIENCE:?}"))
}
