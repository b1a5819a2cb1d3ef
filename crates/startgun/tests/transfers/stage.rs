//! A master of ours and one other server, each with addresses of its own in the test's namespace, and the zone that one of
//! them has from the other.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use startgun_lab::process::{Process, ProcessGroup};

use super::exchange::{Answer, Query, SILENCE, Transport, ask};
use super::servers::Peer;
use super::support::{Scratch, program, wait_for};

/// Where our master answers.
pub const OURS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// A debug build reads its zones and opens its sockets on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The secret of the key `transfer.`, in base64: 32 bytes.
pub const SECRET: &str = "c3RhcnRndW4tdHJhbnNmZXItdGVzdC1zZWNyZXQhISE=";
/// Another one.
pub const WRONG_SECRET: &str = "d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3I=";

/// Type TXT.
pub const TXT: u16 = 16;

/// What is the zone's own: serial, timers in seconds, and the text of `v.move.test.`.
pub fn zone(serial: u32, timers: &str, text: &str) -> String {
    format!(
        "$ORIGIN move.test.\n$TTL 60\n@ SOA ns hostmaster {serial} {timers} 60\n@ NS ns\nns A 127.0.0.1\nv TXT \"{text}\"\n\
         *.wild MX 10 mail\nmail AAAA 2001:db8::1\nMiXed CNAME Target.Example.NET.\n\\000odd\\046 TYPE65280 \\# 3 010203\n\
         deep.empty.non.terminal SRV 1 2 3 ns\n@ CAA 0 issue \"ca.example.net\"\n"
    )
}

/// Timers that let nothing happen by itself within a test.
pub const SLOW: &str = "86400 86400 604800";

pub struct Stage {
    pub scratch: Scratch,
    processes: ProcessGroup,
}

/// A process with its log.
pub struct Running {
    pub process: Process,
    log: PathBuf,
}

impl Running {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).expect("it runs");
    }

    /// Ends it in order.
    pub fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        wait_for("its end", PATIENCE, || self.process.try_wait().expect("asked"));
    }
}

impl Stage {
    /// # Errors
    /// What is missing here.
    pub fn new() -> Result<Self, String> {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        if !up.is_ok_and(|status| status.success()) {
            return Err("ip (iproute2) cannot set loopback up here".into());
        }
        // BIND listens at addresses that an interface has, not at all that loopback answers to; the second time it is there.
        let add = ["addr", "add", "127.0.0.4/32", "dev", "lo"];
        let _ = Command::new("ip").args(add).output();
        let scratch = Scratch::new();
        let processes = ProcessGroup::start().map_err(|error| error.to_string())?;
        let stage = Stage { scratch, processes };
        for arguments in [&["init"][..], &["enroll", "m1", "--role", "master"]] {
            let output = stage.startgun(&[&["fleet"], arguments].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        stage.write("secret", &format!("{SECRET}\n"));
        Ok(stage)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.scratch.path().join(file)
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("written");
    }

    /// Runs our program to its end.
    pub fn startgun(&self, arguments: &[&str]) -> Output {
        Command::new(program()).args(arguments).current_dir(self.scratch.path()).output().expect("started")
    }

    pub fn reload(&self) {
        let output = self.startgun(&["reload", "--socket", "m1.sock"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn status(&self) -> Value {
        let output = self.startgun(&["status", "--json", "--socket", "m1.sock"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Our master's configuration; `zone` is what stands in its `[[zone]]` beside the name.
    pub fn configure(&self, zone: &str) {
        self.configure_zone("move.test", zone);
    }

    /// The same, of another name.
    pub fn configure_zone(&self, name: &str, zone: &str) {
        let text = format!(
            "role = \"master\"\nname = \"m1\"\ncontrol_listen = \"127.0.0.1:8530\"\nfast_path_listen = \"127.0.0.1:8531\"\n\
             state_dir = \"state\"\nstatus_socket = \"m1.sock\"\n[fleet]\nca = \"m1/ca.crt\"\ncertificate = \"m1/m1.crt\"\n\
             key = \"m1/m1.key\"\n[clock]\nhost_source = \"none\"\n[[service]]\naddress = \"{OURS}\"\n\
             [[tsig_key]]\nname = \"transfer.\"\nsecret_file = \"secret\"\n[[zone]]\nname = \"{name}.\"\n{zone}\n"
        );
        self.write("m1.toml", &text);
    }

    pub fn start_ours(&self) -> Running {
        let mut command = Command::new(program());
        command.args(["master", "--config", "m1.toml"]).env("NO_COLOR", "1").env_remove("RUST_LOG");
        let running = self.start("m1", command);
        wait_for(&format!("ready: {}", running.log()), PATIENCE, || running.log().contains("ready").then_some(()));
        running
    }

    fn start(&self, name: &str, mut command: Command) -> Running {
        let log = self.path(&format!("{name}.log"));
        let file = File::create(&log).expect("a log");
        command.current_dir(self.scratch.path()).stdout(file.try_clone().expect("a log")).stderr(file);
        Running { process: self.processes.spawn(command).expect("started"), log }
    }

    /// Another server, with this zone as its own (`primary.zone`) or from us. `secret` is its key's.
    ///
    /// # Errors
    /// What is missing here.
    pub fn start_peer(&self, peer: Peer, is_primary: bool, secret: &str) -> Result<Running, String> {
        let (program, libraries, _) = peer.find()?;
        let mut command = match peer {
            Peer::Nsd => self.nsd(&program, is_primary, secret),
            Peer::Knot => self.knot(&program, is_primary, secret),
            Peer::Bind => self.bind(&program, is_primary, secret),
        };
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(self.start(peer.name(), command))
    }

    /// Knot, which signs the zone that it is primary for.
    ///
    /// # Errors
    /// What is missing here.
    pub fn start_signing_knot(&self) -> Result<Running, String> {
        let (program, libraries, _) = Peer::Knot.find()?;
        let mut command = self.knot(&program, true, SECRET);
        let text = fs::read_to_string(self.path("knot.conf")).expect("just written");
        let policy = "policy:\n  - id: signed\n    nsec3: on\n    single-type-signing: on\nzone:\n";
        let text = text.replace("zone:\n", policy).replace("difference\n", "difference-no-serial\n");
        let text = text.replace("journal-content: changes", "journal-content: all");
        self.write("knot.conf", &(text + "    dnssec-signing: on\n    dnssec-policy: signed\n"));
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(self.start("knot", command))
    }

    /// Knot as the primary of a zone of another name.
    ///
    /// # Errors
    /// What is missing here.
    pub fn start_knot_for(&self, name: &str) -> Result<Running, String> {
        let (program, libraries, _) = Peer::Knot.find()?;
        let mut command = self.knot(&program, true, SECRET);
        let text = fs::read_to_string(self.path("knot.conf")).expect("just written");
        self.write("knot.conf", &text.replace("move.test", name));
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(self.start("knot", command))
    }

    fn nsd(&self, program: &Path, is_primary: bool, secret: &str) -> Command {
        let directory = self.scratch.path().display();
        let zone = match is_primary {
            true => "provide-xfr: 127.0.0.1 transfer.\n notify: 127.0.0.1 transfer.\n outgoing-interface: 127.0.0.2\n",
            false => "allow-notify: 127.0.0.1 transfer.\n request-xfr: AXFR 127.0.0.1 transfer.\n",
        };
        let file = if is_primary { "primary.zone" } else { "secondary.zone" };
        let text = format!(
            "server:\n ip-address: 127.0.0.2@53\n username: \"\"\n chroot: \"\"\n zonesdir: \"{directory}\"\n pidfile: \"\"\n \
             xfrdfile: \"{directory}/nsd.xfrd\"\n xfrdir: \"{directory}\"\n zonelistfile: \"{directory}/nsd.list\"\n \
             database: \"\"\n rrl-ratelimit: 0\nremote-control:\n control-enable: no\nkey:\n name: \"transfer.\"\n \
             algorithm: hmac-sha256\n secret: \"{secret}\"\nzone:\n name: \"move.test\"\n zonefile: \"{file}\"\n {zone}"
        );
        self.write("nsd.conf", &text);
        let mut command = Command::new(program);
        command.args(["-d", "-c"]).arg(self.path("nsd.conf"));
        command
    }

    fn knot(&self, program: &Path, is_primary: bool, secret: &str) -> Command {
        let directory = self.scratch.path().display();
        let _ = fs::create_dir(self.path("knot"));
        let zone = match is_primary {
            true => {
                "file: \"primary.zone\"\n    notify: ours\n    acl: ours\n    zonefile-load: difference\n    \
                 journal-content: changes\n    zonefile-sync: -1\n"
            }
            false => "file: \"secondary.zone\"\n    master: ours\n    acl: notify\n",
        };
        let text = format!(
            "server:\n    rundir: \"{directory}/knot\"\n    listen: 127.0.0.3@53\n    udp-workers: 1\n    tcp-workers: 1\n    \
             background-workers: 1\ndatabase:\n    storage: \"{directory}/knot\"\nlog:\n  - target: stderr\n    any: info\n\
             key:\n  - id: transfer.\n    algorithm: hmac-sha256\n    secret: {secret}\nremote:\n  - id: ours\n    \
             address: 127.0.0.1@53\n    via: 127.0.0.3\n    key: transfer.\nacl:\n  - id: ours\n    address: 127.0.0.1\n    \
             key: transfer.\n    action: transfer\n  - id: notify\n    address: 127.0.0.1\n    key: transfer.\n    \
             action: notify\nzone:\n  - domain: move.test\n    storage: \"{directory}\"\n    semantic-checks: off\n    {zone}"
        );
        self.write("knot.conf", &text);
        let mut command = Command::new(program);
        command.args(["-c", "knot.conf"]);
        command
    }

    fn bind(&self, program: &Path, is_primary: bool, secret: &str) -> Command {
        let zone = match is_primary {
            true => {
                "type primary; file \"primary.zone\"; check-integrity no; allow-transfer { key transfer.; }; notify explicit; \
                 also-notify { 127.0.0.1 key transfer.; }; ixfr-from-differences yes;"
            }
            false => {
                "type secondary; file \"secondary.zone\"; masterfile-format text; primaries { 127.0.0.1 key transfer.; }; \
                 allow-notify { key transfer.; };"
            }
        };
        let text = format!(
            "key transfer. {{ algorithm hmac-sha256; secret \"{secret}\"; }};\noptions {{\n directory \".\";\n pid-file none;\n \
             lock-file none;\n session-keyfile none;\n listen-on port 53 {{ 127.0.0.4; }};\n listen-on-v6 {{ none; }};\n \
             interface-interval 0;\n recursion no;\n dnssec-validation no;\n empty-zones-enable no;\n \
             notify-source 127.0.0.4;\n notify-delay 0;\n min-refresh-time 1;\n}};\ncontrols {{ }};\nzone \"move.test\" {{ {zone} }};\n"
        );
        self.write("named.conf", &text);
        // Where AppArmor confines the installed program to its service's directories, a copy is free.
        let copy = self.path("named");
        fs::copy(program, &copy).expect("copied");
        let mut command = Command::new(copy);
        command.args(["-g", "-n", "1", "-c", "named.conf"]);
        command
    }
}

/// Where another server answers.
pub fn address(peer: Peer) -> SocketAddr {
    let last = match peer {
        Peer::Nsd => 2,
        Peer::Knot => 3,
        Peer::Bind => 4,
    };
    (Ipv4Addr::new(127, 0, 0, last), 53).into()
}

/// What `v.move.test.` TXT is answered with: its text, or the code.
pub fn text_at(server: SocketAddr) -> Option<String> {
    let query = Query::new("v.move.test", TXT);
    let answer = Answer::read(ask(server, Transport::Udp, &query.0, SILENCE)?).ok()?;
    if answer.code != 0 {
        return Some(format!("code {}", answer.code));
    }
    let bytes = ask(server, Transport::Udp, &query.0, SILENCE)?;
    let message = domain::base::Message::from_octets(bytes).ok()?;
    let record = message.answer().ok()?.next()?.ok()?;
    let record = record.to_record::<domain::rdata::Txt<_>>().ok()??;
    Some(String::from_utf8_lossy(&record.data().text::<Vec<u8>>()).into_owned())
}

/// Waits until a server's text is this one.
pub fn wait_for_text(server: SocketAddr, text: &str, patience: Duration) {
    let mut last = None;
    wait_for(&format!("{server} says {text:?}"), patience, || {
        last = text_at(server);
        (last.as_deref() == Some(text)).then_some(())
    });
}
