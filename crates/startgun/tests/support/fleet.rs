//! A master, two agents, a client and a stranger, as real processes on hosts of their own.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use startgun_lab::process::Process;

use super::network::{Host, Network, Plan};
use super::{Scratch, dns, program, wait_for};

/// What resolvers ask.
pub const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 53);
/// Where agents dial in.
pub const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 8530);
/// A port on the master's address.
pub const FAST_PATH_PORT: u16 = 8531;
/// The site's answers.
pub const TOKYO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 110);
/// As above.
pub const FRANKFURT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 120);
/// The master's own.
pub const FALLBACK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
/// Raced with the least delay.
pub const RACED: &str = "www.example.org";
/// Raced 300 ms after the query, so that there is time to do something in between.
pub const SLOW: &str = "slow.example.org";
/// Waits for the signal `go`.
pub const HELD: &str = "held.example.org";
/// As above.
pub const HELD_TOO: &str = "too.example.org";
/// Has a TXT record of some 200 bytes, answered by the master.
pub const PLAIN: &str = "text.example.org";

/// Hosts in the network's order.
const MASTER: usize = 0;
const CLIENT: usize = 3;
const STRANGER: usize = 4;
const NAMES: [&str; 5] = ["m1", "tokyo", "frankfurt", "client", "stranger"];
const ADDRESSES: [[u8; 4]; 5] =
    [[198, 51, 100, 1], [192, 0, 2, 10], [192, 0, 2, 20], [203, 0, 113, 7], [203, 0, 113, 66]];

/// Clocks are set after some seconds; a loaded machine takes longer.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// The whole of it. Dropping it ends every process.
pub struct Fleet {
    processes: [Option<Process>; 5],
    network: Network,
    scratch: Scratch,
}

/// What differs from one test to another.
#[derive(Default)]
pub struct Options {
    /// Whether Tokyo's network drops foreign sources.
    pub tokyo_drops_foreign_sources: bool,
    /// Lines for the agents' table `[clock]`.
    pub agents_clock: &'static str,
    /// A table of Tokyo's alone.
    pub tokyo_table: String,
    /// A table of the master's.
    pub master_table: &'static str,
}

impl Fleet {
    /// Builds the hosts, enrols everybody and writes the configurations; nothing runs yet. `Err` says what is missing here.
    pub fn new(options: &Options) -> Result<Self, String> {
        let plan = |number: usize| Plan {
            address: ADDRESSES[number].into(),
            foreign_sources: number != 1 || !options.tokyo_drops_foreign_sources,
        };
        let network = Network::build(&[0, 1, 2, 3, 4].map(plan))?;
        let fleet = Fleet { processes: Default::default(), network, scratch: Scratch::new() };
        fleet.command(&["fleet", "init"]);
        fleet.enroll("m1", "master");
        fleet.write(
            "m1.toml",
            &MASTER_TOML.replacen("[[service]]", &format!("{}\n[[service]]", options.master_table), 1),
        );
        for site in ["tokyo", "frankfurt"] {
            fleet.enroll(site, "agent");
            let table = if site == "tokyo" { options.tokyo_table.as_str() } else { "" };
            fleet.write_agent(site, options.agents_clock, table);
        }
        Ok(fleet)
    }

    /// The same, with a master that answers and no agents.
    pub fn with_master(options: &Options) -> Result<Self, String> {
        let mut fleet = Self::new(options)?;
        fleet.start_master();
        Ok(fleet)
    }

    /// Starts the master and waits until it answers.
    pub fn start_master(&mut self) {
        self.start("m1");
        let started = Instant::now();
        while self.status("m1").is_none() {
            assert!(started.elapsed() < READY_PATIENCE, "the master does not answer\n{}", self.log("m1"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same, started, with both agents racing.
    pub fn racing() -> Result<Self, String> {
        Self::racing_with(&Options::default())
    }

    /// [`Fleet::racing`], with options.
    pub fn racing_with(options: &Options) -> Result<Self, String> {
        let mut fleet = Self::new(options)?;
        fleet.start("m1");
        fleet.start("tokyo");
        fleet.start("frankfurt");
        fleet.wait_until_racing(&["frankfurt", "tokyo"]);
        Ok(fleet)
    }

    /// Runs `startgun` where the fleet's files are.
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        Command::new(program()).args(arguments).current_dir(self.directory()).output().expect("started")
    }

    /// As [`Fleet::attempt`]; panics unless it succeeds.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let output = self.attempt(arguments);
        assert!(
            output.status.success(),
            "startgun {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// Enrols `name`; its files are in the directory of that name.
    pub fn enroll(&self, name: &str, role: &str) {
        self.command(&["fleet", "enroll", name, "--role", role]);
    }

    fn write_agent(&self, name: &str, clock: &str, table: &str) {
        // Whatever keeps this machine's clock has no part in a test that does not ask for it.
        let host_source = if clock.contains("host_source") { "" } else { "host_source = \"none\"\n" };
        let toml = format!(
            "role = \"agent\"\nname = \"{name}\"\nstate_dir = \"state-{name}\"\nstatus_socket = \"{name}.sock\"\n\
             http_listen = \"127.0.0.1:9530\"\naudit_log = \"{name}.jsonl\"\n\
             [departure]\nmax_lateness_ms = 1000\n\
             [clock]\n{host_source}exchange_interval_ms = 50\n{clock}\n{table}\n\
             [fleet]\nca = \"{name}/ca.crt\"\ncertificate = \"{name}/{name}.crt\"\nkey = \"{name}/{name}.key\"\n\
             mesh_key = \"{name}/{name}.mesh.key\"\n\
             [[master]]\nname = \"m1\"\ncontrol = \"{CONTROL}\"\nservice_addresses = [\"{SERVICE}\"]\n"
        );
        self.write(&format!("{name}.toml"), &toml);
    }

    /// Writes one of the files.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).expect("written");
    }

    /// Where the fleet's files are.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// One of the files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory().join(file)
    }

    /// Starts the master or an agent on the host of its name.
    pub fn start(&mut self, name: &str) {
        let host = number(name);
        let log = OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("a log");
        let mut command = Command::new(program());
        let role = if host == MASTER { "master" } else { "agent" };
        command
            .args([role, "--config", &format!("{name}.toml")])
            .current_dir(self.directory())
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.processes[host] = Some(self.network.hosts[host].spawn(command));
    }

    /// The process id of what runs on a host.
    pub fn process_id(&self, name: &str) -> u32 {
        self.processes[number(name)].as_ref().expect("running").id()
    }

    /// Sends a signal to what runs on a host.
    pub fn signal(&mut self, name: &str, signal: Signal) {
        self.processes[number(name)].as_mut().expect("running").signal(signal).expect("sent");
    }

    /// Waits for what runs on a host to end.
    pub fn wait_end(&mut self, name: &str) -> ExitStatus {
        let mut process = self.processes[number(name)].take().expect("running");
        wait_for("the process ends", Duration::from_secs(5), || process.try_wait().expect("asked"))
    }

    /// What it has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until it has logged `text`.
    pub fn wait_for_log(&self, name: &str, text: &str) {
        let started = Instant::now();
        while !self.log(name).contains(text) {
            assert!(started.elapsed() < READY_PATIENCE, "{name} does not log {text:?}:\n{}", self.log(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The status document, as `startgun status --json` prints it; `None` while nobody listens.
    pub fn status(&self, name: &str) -> Option<Value> {
        let socket = format!("{name}.sock");
        let mut command = Command::new(program());
        command.args(["status", "--json", "--socket", &socket]).current_dir(self.directory());
        let output = command.output().expect("started");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// A counter of the master or an agent; 0 where nothing was counted. The master shows them half a second late.
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        self.status(name).and_then(|status| status["counters"][counter].as_u64()).unwrap_or(0)
    }

    /// Waits until a counter is at least `least`.
    pub fn wait_for_counter(&self, name: &str, counter: &str, least: u64) {
        wait_for(&format!("{name} counts {counter} up to {least}"), Duration::from_secs(5), || {
            (self.counter(name, counter) >= least).then_some(())
        });
    }

    /// The agents that race, by name.
    pub fn racing_agents(&self) -> Vec<String> {
        let status = self.status("m1").unwrap_or_default();
        let agents = status["agents"].as_array().cloned().unwrap_or_default();
        let racing = agents.iter().filter(|agent| agent["racing"] == true);
        let mut names: Vec<String> = racing.filter_map(|agent| agent["name"].as_str().map(str::to_owned)).collect();
        names.sort_unstable();
        names
    }

    /// Waits until exactly these race (in the order of the alphabet).
    pub fn wait_until_racing(&self, names: &[&str]) {
        let started = Instant::now();
        while self.racing_agents() != names {
            if started.elapsed() > READY_PATIENCE {
                panic!("not racing: {names:?}\n{:#?}\n{}", self.status("m1"), self.log("m1"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The master's reason why an agent does not race.
    pub fn reason(&self, name: &str) -> Option<String> {
        let status = self.status("m1")?;
        let agent = status["agents"].as_array()?.iter().find(|agent| agent["name"] == name)?;
        agent["reason"].as_str().map(str::to_owned)
    }

    /// The client's host.
    pub fn client(&self) -> &Host {
        &self.network.hosts[CLIENT]
    }

    /// A host that no good is expected of.
    pub fn stranger(&self) -> &Host {
        &self.network.hosts[STRANGER]
    }

    /// The host of the master or an agent.
    pub fn host(&self, name: &str) -> &Host {
        &self.network.hosts[number(name)]
    }

    /// A socket of the client's.
    pub fn client_socket(&self) -> UdpSocket {
        self.client().run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket")
    }

    /// Completes a query over TCP from a host, so that it may race.
    pub fn validate(&self, host: &Host) {
        let answer = host.run(|| {
            let mut stream = TcpStream::connect_timeout(&SERVICE, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let query = dns::query(7, PLAIN, dns::TXT);
            stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        assert_eq!(dns::rcode(&answer.expect("an answer over TCP")), 0);
    }

    /// Asks from the client's host and watches for `patience`: the addresses answered and when, in the order of arrival.
    pub fn ask(&self, name: &str, patience: Duration) -> Vec<(Option<Ipv4Addr>, Duration)> {
        let socket = self.client_socket();
        socket.send_to(&dns::query(startgun_net::host_clock::raw_ns() as u16, name, dns::A), SERVICE).expect("sent");
        dns::receive_all(&socket, patience).into_iter().map(|(message, _, at)| (dns::address(&message), at)).collect()
    }

    /// Fetches from the HTTP of the master or an agent: status line and body.
    pub fn http(&self, name: &str, path: &'static str) -> (String, String) {
        let text = self.host(name).run(move || {
            let mut stream = TcpStream::connect("127.0.0.1:9530")?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        let text = text.expect("an answer over HTTP");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

/// The addresses alone.
pub fn addresses(answers: &[(Option<Ipv4Addr>, Duration)]) -> Vec<Option<Ipv4Addr>> {
    answers.iter().map(|(address, _)| *address).collect()
}

fn number(name: &str) -> usize {
    NAMES.iter().position(|host| *host == name).expect("the name of a host")
}

const MASTER_TOML: &str = r#"
role = "master"
name = "m1"
control_listen = "198.51.100.1:8530"
fast_path_listen = "198.51.100.1:8531"
state_dir = "state-m1"
status_socket = "m1.sock"
http_listen = "127.0.0.1:9530"

[fleet]
ca = "m1/ca.crt"
certificate = "m1/m1.crt"
key = "m1/m1.key"
revoked = "m1/revoked.crl"

[[service]]
address = "198.51.100.1:53"

[[zone]]
name = "example.org."
records = """
@    3600 IN SOA ns hostmaster 1 7200 900 1209600 60
@    3600 IN NS  ns
ns   3600 IN A   198.51.100.1
text 3600 IN TXT "two hundred bytes of text, of the kind that sender policies and proofs of ownership are made of, so that an answer is several times as long as its query, and a forger would like it sent to somebody else"
"""

[[race]]
name = "www.example.org."
late_tolerance_ms = 50
[race.fallback]
a = ["192.0.2.130"]
[race.sites.tokyo]
a = ["192.0.2.110"]
[race.sites.frankfurt]
a = ["192.0.2.120"]

[[race]]
name = "slow.example.org."
delay_ms = 300
late_tolerance_ms = 50
[race.fallback]
a = ["192.0.2.130"]
[race.sites.tokyo]
a = ["192.0.2.110"]
[race.sites.frankfurt]
a = ["192.0.2.120"]

[[race]]
name = "held.example.org."
transmit = "signal"
signal = "go"
[race.fallback]
a = ["192.0.2.130"]
[race.sites.tokyo]
a = ["192.0.2.110"]
[race.sites.frankfurt]
a = ["192.0.2.120"]

[[race]]
name = "too.example.org."
transmit = "signal"
signal = "go"
[race.fallback]
a = ["192.0.2.130"]
[race.sites.tokyo]
a = ["192.0.2.110"]
[race.sites.frankfurt]
a = ["192.0.2.120"]
"#;
