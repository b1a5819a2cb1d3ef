//! The servers that answer: Startgun's master, and where they are installed NSD, Knot DNS and BIND, all with the same zones.
//!
//! Each has loopback addresses of its own in the test's namespace, and ends with the test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use startgun_lab::process::{Process, ProcessGroup};
use startgun_lab::resolver::{DEPS_DIR_VARIABLE, SYSTEM_DEPS_DIR};

use super::exchange::{Answer, Query, SILENCE, Transport, ask};
use super::support::{Scratch, program, wait_for};

/// What every server is told to call itself (NSID).
pub const IDENTIFIER: &str = "m1";
/// A debug build reads its zones and opens its sockets on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Another implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Nsd,
    Knot,
    Bind,
}

impl Peer {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nsd => "nsd",
            Peer::Knot => "knot",
            Peer::Bind => "bind",
        }
    }

    /// The version, and those before the last dot of it, by which the tables' notes were written.
    pub fn judged_version(self) -> &'static str {
        match self {
            Peer::Nsd => "4.6.",
            Peer::Knot => "3.2.",
            Peer::Bind => "9.18.",
        }
    }

    /// Program, and what makes it say its version.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Peer::Nsd => ("nsd", "-v"),
            Peer::Knot => ("knotd", "-V"),
            Peer::Bind => ("named", "-v"),
        }
    }

    fn address(self) -> SocketAddr {
        let last = match self {
            Peer::Nsd => 2,
            Peer::Knot => 3,
            Peer::Bind => 4,
        };
        (Ipv4Addr::new(127, 0, 0, last), 53).into()
    }

    /// Its program, the libraries it needs, and its version; `Err` says what is missing.
    pub fn find(self) -> Result<(PathBuf, OsString, String), String> {
        let (name, option) = self.program();
        let roots = [std::env::var_os(DEPS_DIR_VARIABLE), Some(SYSTEM_DEPS_DIR.into())];
        let unpacked = roots.into_iter().flatten().map(|root| PathBuf::from(root).join("dns"));
        for root in unpacked.chain([PathBuf::from("/")]) {
            let program = root.join("usr/sbin").join(name);
            let libraries = libraries_below(&root);
            let output =
                Command::new(&program).arg(option).env("LD_LIBRARY_PATH", &libraries).stdin(Stdio::null()).output();
            if let Ok(output) = output {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
                let version = text.split([' ', '\n', ',', '-']).find(is_version);
                return Ok((program, libraries, version.unwrap_or("unknown").to_owned()));
            }
        }
        Err(format!("{name} is neither installed nor unpacked"))
    }
}

/// `LD_LIBRARY_PATH` for a program that was unpacked below `root`; empty for an installed one.
fn libraries_below(root: &Path) -> OsString {
    if root == Path::new("/") {
        return OsString::new();
    }
    let directories = fs::read_dir(root.join("usr/lib")).into_iter().flatten().flatten().map(|entry| entry.path());
    std::env::join_paths(directories.filter(|path| path.is_dir())).unwrap_or_default()
}

/// A server that runs.
pub struct Server {
    /// In the tables, and with its version for people.
    pub name: &'static str,
    pub version: String,
    pub addresses: Vec<SocketAddr>,
    process: Process,
}

/// Where zones are and servers work.
pub struct Stage {
    scratch: Scratch,
    processes: ProcessGroup,
    zones: Vec<String>,
}

impl Stage {
    /// Copies the zones of `zones/`, and `more`, by apex without the last dot.
    ///
    /// # Errors
    /// What is missing here.
    pub fn new(more: &[(&str, String)]) -> Result<Self, String> {
        let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        if !loopback.is_ok_and(|status| status.success()) {
            return Err("ip (iproute2) cannot set loopback up here".into());
        }
        let scratch = Scratch::new();
        let mut zones = Vec::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authority/zones");
        for entry in fs::read_dir(source).map_err(|error| error.to_string())?.flatten() {
            let file = entry.file_name().into_string().expect("the zones' names are text");
            let apex = file.strip_suffix(".zone").expect("only zones are there");
            fs::copy(entry.path(), scratch.path().join(&file)).expect("copied");
            zones.push(apex.to_owned());
        }
        for (apex, text) in more {
            fs::write(scratch.path().join(format!("{apex}.zone")), text).expect("written");
            zones.push((*apex).to_owned());
        }
        zones.sort();
        let processes = ProcessGroup::start().map_err(|error| error.to_string())?;
        Ok(Stage { scratch, processes, zones })
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.scratch.path().join(file), text).expect("written");
    }

    /// Starts a program in the stage's directory and waits until it answers.
    fn start(&self, name: &'static str, version: String, addresses: Vec<SocketAddr>, mut command: Command) -> Server {
        let log = self.scratch.path().join(format!("{name}.log"));
        let file = File::create(&log).expect("a log");
        command.current_dir(self.scratch.path()).stdout(file.try_clone().expect("a log")).stderr(file);
        let process = self.processes.spawn(command).expect("started");
        let mut server = Server { name, version, addresses, process };
        let probe = Query::new("example.", 6);
        let started = Instant::now();
        wait_for(&format!("{name} answers"), 2 * START_PATIENCE, || {
            let ended = server.process.try_wait().expect("asked");
            let is_hopeful = ended.is_none() && started.elapsed() < START_PATIENCE;
            assert!(is_hopeful, "{name} does not start: {}", fs::read_to_string(&log).unwrap_or_default());
            let answers = |address: &SocketAddr| {
                let answer = ask(*address, Transport::Udp, &probe.0, SILENCE).map(Answer::read);
                answer.is_some_and(|answer| answer.is_ok_and(|answer| answer.code == 0))
            };
            server.addresses.iter().all(answers).then_some(())
        });
        server
    }

    /// Startgun's master, at an IPv4 address, and an IPv6 one where the kernel has it.
    pub fn master(&self) -> Server {
        let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            addresses.push((Ipv6Addr::LOCALHOST, 53).into());
        }
        for arguments in [&["init"][..], &["enroll", IDENTIFIER, "--role", "master"]] {
            let mut command = Command::new(program());
            let output =
                command.arg("fleet").args(arguments).current_dir(self.scratch.path()).output().expect("started");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let mut toml = format!(
            "role = \"master\"\nname = \"{IDENTIFIER}\"\ncontrol_listen = \"127.0.0.1:8530\"\n\
             fast_path_listen = \"127.0.0.1:8531\"\nstate_dir = \"state\"\nstatus_socket = \"m1.sock\"\n\
             [fleet]\nca = \"m1/ca.crt\"\ncertificate = \"m1/m1.crt\"\nkey = \"m1/m1.key\"\n\
             [clock]\nhost_source = \"none\"\n"
        );
        addresses.iter().for_each(|address| toml += &format!("[[service]]\naddress = \"{address}\"\n"));
        self.zones.iter().for_each(|apex| toml += &format!("[[zone]]\nname = \"{apex}.\"\nfile = \"{apex}.zone\"\n"));
        self.write("m1.toml", &toml);
        let mut command = Command::new(program());
        command.args(["master", "--config", "m1.toml"]).env("NO_COLOR", "1").env_remove("RUST_LOG");
        self.start("startgun", env!("CARGO_PKG_VERSION").to_owned(), addresses, command)
    }

    /// Another server.
    ///
    /// # Errors
    /// What is missing here.
    pub fn peer(&self, peer: Peer) -> Result<Server, String> {
        let (program, libraries, version) = peer.find()?;
        let mut command = match peer {
            Peer::Nsd => self.nsd(&program, peer.address()),
            Peer::Knot => self.knot(&program, peer.address()),
            Peer::Bind => self.bind(&program, peer.address()),
        }
        .map_err(|error| error.to_string())?;
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(self.start(peer.name(), version, vec![peer.address()], command))
    }

    fn nsd(&self, program: &Path, address: SocketAddr) -> io::Result<Command> {
        let directory = self.scratch.path().display();
        let mut text = format!(
            "server:\n ip-address: {}@{}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{directory}\"\n pidfile: \"\"\n \
             xfrdfile: \"{directory}/nsd.xfrd\"\n xfrdir: \"{directory}\"\n zonelistfile: \"{directory}/nsd.list\"\n \
             database: \"\"\n nsid: \"ascii_{IDENTIFIER}\"\n minimal-responses: yes\n rrl-ratelimit: 0\n \
             answer-cookie: yes\nremote-control:\n control-enable: no\n",
            address.ip(),
            address.port()
        );
        self.zones.iter().for_each(|apex| text += &format!("zone:\n name: \"{apex}\"\n zonefile: \"{apex}.zone\"\n"));
        self.write("nsd.conf", &text);
        let mut command = Command::new(program);
        command.args(["-d", "-c"]).arg(self.scratch.path().join("nsd.conf"));
        Ok(command)
    }

    fn knot(&self, program: &Path, address: SocketAddr) -> io::Result<Command> {
        let directory = self.scratch.path().display();
        fs::create_dir(self.scratch.path().join("knot"))?;
        let mut text = format!(
            "server:\n    rundir: \"{directory}/knot\"\n    listen: {}@{}\n    nsid: {IDENTIFIER}\n    udp-workers: 1\n    \
             tcp-workers: 1\n    background-workers: 1\ndatabase:\n    storage: \"{directory}/knot\"\n\
             mod-cookies:\n  - id: default\ntemplate:\n  - id: default\n    storage: \"{directory}\"\n    \
             semantic-checks: off\n    zonefile-sync: -1\n    journal-content: none\n    \
             global-module: mod-cookies/default\nzone:\n",
            address.ip(),
            address.port()
        );
        self.zones.iter().for_each(|apex| text += &format!("  - domain: {apex}\n    file: \"{apex}.zone\"\n"));
        self.write("knot.conf", &text);
        let mut command = Command::new(program);
        command.args(["-c", "knot.conf"]);
        Ok(command)
    }

    fn bind(&self, program: &Path, address: SocketAddr) -> io::Result<Command> {
        let mut text = format!(
            "options {{\n directory \".\";\n pid-file none;\n lock-file none;\n session-keyfile none;\n \
             listen-on port {} {{ {}; }};\n listen-on-v6 {{ none; }};\n interface-interval 0;\n recursion no;\n \
             dnssec-validation no;\n empty-zones-enable no;\n minimal-responses yes;\n minimal-any yes;\n \
             max-records-per-type 0;\n max-types-per-name 0;\n server-id \"{IDENTIFIER}\";\n allow-transfer {{ none; }};\n}};\ncontrols {{ }};\n",
            address.port(),
            address.ip()
        );
        self.zones.iter().for_each(|apex| {
            text += &format!("zone \"{apex}\" {{ type primary; file \"{apex}.zone\"; check-integrity no; }};\n");
        });
        self.write("named.conf", &text);
        // It listens at addresses that an interface has, not at all that loopback answers to.
        Command::new("ip").args(["addr", "add", &format!("{}/32", address.ip()), "dev", "lo"]).status()?;
        // Where AppArmor confines the installed program to its service's directories, a copy is free.
        let copy = self.scratch.path().join("named");
        fs::copy(program, &copy)?;
        let mut command = Command::new(copy);
        command.args(["-g", "-n", "1", "-c", "named.conf"]);
        Ok(command)
    }
}

impl Server {
    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|ended| ended.is_none())
    }
}
