//! What the tests of the claims share: scratch directories, the program under test, hand-made agents and masters.
//!
//! Everything runs on loopback. A [`Stage`] has addresses of its own (127.A.B.x, from the process id and a counter), so
//! that tests beside each other use the same ports without meeting, and its processes end with it, however it ends.
#![allow(dead_code, reason = "every test program uses its own part")]

pub mod agent;
pub mod dns;
pub mod master;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use startgun_core::time::{LocalTime, Span};
use startgun_lab::process::{Process, ProcessGroup};
use startgun_net::host_clock::{HostClock, raw_ns};
use startgun_net::poll;
use startgun_net::udp::{Options, ReceiveBatch, UdpSocket};

/// The zone of the tests, and the raced names in it.
pub const ZONE: &str = "cdn.test";
/// Where masters are told of, and where they say so.
pub const CONTROL_PORT: u16 = 8_530;
/// The fast path's port, of masters and agents.
pub const FAST_PORT: u16 = 8_531;
/// The service addresses' port: one that everybody may bind.
pub const SERVICE_PORT: u16 = 5_300;
/// Greatest wait for anything that must come: a busy machine, with a debug build.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_startgun"))
}

/// True time: the raw clock of this host, which the program under test reads too.
pub fn now() -> LocalTime {
    LocalTime::from_nanos(raw_ns())
}

/// Milliseconds.
pub fn ms(millis: i64) -> Span {
    Span::from_millis(millis)
}

/// Sleeps until an instant of the raw clock.
pub fn sleep_until(at: LocalTime) {
    let left = (at - now()).as_nanos().max(0);
    std::thread::sleep(Duration::from_nanos(left.unsigned_abs()));
}

/// The middle one.
pub fn median(mut spans: Vec<Span>) -> Span {
    assert!(!spans.is_empty(), "nothing was measured");
    spans.sort_unstable();
    spans[spans.len() / 2]
}

/// Asks until there is an answer; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A packet that arrived, by the kernel's stamp.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at: LocalTime,
    pub source: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A UDP socket with kernel timestamps.
pub struct Udp {
    socket: UdpSocket,
    clock: HostClock,
    batch: ReceiveBatch,
}

impl Udp {
    /// A socket on a loopback address; port 0 takes any.
    pub fn bind(address: SocketAddr) -> Self {
        let options = Options { receive_timestamps: true, transmit_timestamps: true, ..Options::default() };
        let socket = UdpSocket::bind(address, options).expect("a loopback address");
        Udp { socket, clock: HostClock::new(None), batch: ReceiveBatch::new(1) }
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.socket.address()
    }

    /// Sends; when the packet left at the earliest and at the latest.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> (LocalTime, LocalTime) {
        let before = now();
        self.socket.send_to(bytes, to).expect("sent");
        (before, now())
    }

    /// The next packet, if one comes before `deadline`.
    pub fn receive(&mut self, deadline: LocalTime) -> Option<Packet> {
        loop {
            let received = self.socket.receive(&mut self.batch, &self.clock).expect("a socket");
            if received > 0 {
                let packet = self.batch.iter().next()?;
                return Some(Packet { at: packet.received_at, source: packet.source, bytes: packet.bytes.to_vec() });
            }
            if now() >= deadline {
                return None;
            }
            // Transmit timestamps that nobody takes would end every wait at once.
            let _ = self.socket.drain_transmit_timestamps(&self.clock, &mut |_, _| ());
            let _ = poll::wait(&[self.socket.as_fd()], Some(self.clock.monotonic_deadline(deadline)));
        }
    }

    /// Everything that arrives until `deadline`.
    pub fn receive_until(&mut self, deadline: LocalTime) -> Vec<Packet> {
        std::iter::from_fn(|| self.receive(deadline)).collect()
    }
}

/// A directory, addresses and processes of one test.
pub struct Stage {
    directory: PathBuf,
    network: [u8; 2],
    processes: Arc<ProcessGroup>,
}

impl Stage {
    /// A stage with a fleet: master `m1` and these agents.
    pub fn new(agents: &[&str]) -> Self {
        let stage = Stage::empty();
        stage.fleet(&program(), &["init"]);
        stage.fleet(&program(), &["enroll", "m1", "--role", "master"]);
        let mut enroll = vec!["enroll"];
        enroll.extend(agents);
        enroll.extend(["--role", "agent"]);
        stage.fleet(&program(), &enroll);
        stage
    }

    /// A stage without anything.
    pub fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let directory = std::env::temp_dir().join(format!("sg-claims-{pid}-{number}-{}", raw_ns()));
        std::fs::create_dir(&directory).expect("a temporary directory");
        let network = [16 + (pid % 199) as u8, ((pid / 199) * 31 + number) as u8];
        let processes = Arc::new(ProcessGroup::start().expect("/bin/sh"));
        Stage { directory, network, processes }
    }

    /// A file of the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An address of this stage.
    pub fn ip(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network[0], self.network[1], last)
    }

    /// An address of this stage with a port.
    pub fn address(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip(last)), port)
    }

    /// The master's service address.
    pub fn service(&self) -> SocketAddr {
        self.address(2, SERVICE_PORT)
    }

    /// The master's control channel.
    pub fn control(&self) -> SocketAddr {
        self.address(1, CONTROL_PORT)
    }

    /// The master's fast path.
    pub fn master_fast(&self) -> SocketAddr {
        self.address(1, FAST_PORT)
    }

    /// Where an agent's orders go, by its place.
    pub fn agent_fast(&self, index: usize) -> SocketAddr {
        self.address(11 + index as u8, FAST_PORT)
    }

    /// A client's socket.
    pub fn client(&self) -> Udp {
        Udp::bind(self.address(200, 0))
    }

    /// Writes a file of the stage.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    /// Runs `startgun fleet` in the stage's directory.
    pub fn fleet(&self, program: &Path, arguments: &[&str]) {
        let mut all = vec!["fleet"];
        all.extend(arguments);
        self.run(program, &all);
    }

    /// Runs a program to its end, with an empty environment; what it wrote to standard output.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        let output = command.args(arguments).current_dir(&self.directory).env_clear().output().expect("started");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Starts `startgun ROLE --config NAME.toml`, with an empty environment; its log is `NAME.log`.
    pub fn start(&self, program: &Path, role: &str, name: &str) -> Process {
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).expect("a file");
        let mut command = Command::new(program);
        command
            .args([role, "--config", &format!("{name}.toml")])
            .current_dir(&self.directory)
            .env_clear()
            .env("NO_COLOR", "1")
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        self.processes.spawn(command).expect("started")
    }

    /// The status document of `NAME.sock`; `None` while nobody answers.
    pub fn status(&self, name: &str) -> Option<serde_json::Value> {
        let mut stream = UnixStream::connect(self.path(&format!("{name}.sock"))).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut json = Vec::new();
        stream.read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// A master's configuration; `keys` and `races` are TOML.
    pub fn master_toml(&self, keys: &str, races: &str) -> String {
        format!(
            "role = \"master\"\nname = \"m1\"\ncontrol_listen = \"{}\"\nfast_path_listen = \"{}\"\nstate_dir = \"state-m1\"\n\
             status_socket = \"m1.sock\"\nshards = 2\n{keys}\n{}[[service]]\naddress = \"{}\"\n[[zone]]\nname = \"{ZONE}.\"\n\
             records = \"\"\"\n@ 60 IN SOA ns host 1 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A {}\n\"\"\"\n{races}",
            self.control(),
            self.master_fast(),
            fleet_toml("m1"),
            self.service(),
            self.ip(2),
        )
    }

    /// An agent's configuration; `keys` goes to the master's table.
    pub fn agent_toml(&self, index: usize, name: &str, tables: &str, keys: &str) -> String {
        format!(
            "role = \"agent\"\nname = \"{name}\"\nfast_path_listen = \"{}\"\nstate_dir = \"state-{name}\"\n\
             status_socket = \"{name}.sock\"\n{}{tables}\n[limits]\nallow_private_destinations = true\n[departure]\nmax_lateness_ms = 1000\n[[master]]\nname = \"m1\"\n\
             control = \"{}\"\nservice_addresses = [\"{}\"]\n{keys}\n",
            self.agent_fast(index),
            fleet_toml(name),
            self.control(),
            self.service(),
        )
    }

    /// Starts the master and waits until its control channel listens.
    pub fn start_master(&self, keys: &str, races: &str) -> Process {
        self.write("m1.toml", &self.master_toml(keys, races));
        let process = self.start(&program(), "master", "m1");
        self.wait_for_status("m1");
        process
    }

    /// Waits until a process answers on its status socket; says what it logged where it does not.
    pub fn wait_for_status(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.status(name).is_none() {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            assert!(Instant::now() < deadline && !log.contains("startgun: "), "{name} does not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A counter of a process, 0 where nothing was counted.
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        let status = self.status(name).expect("it runs");
        status["counters"][counter].as_u64().unwrap_or(0)
    }

    /// Certificates and key of a fleet's member, and the CA.
    pub fn identity(&self, name: &str) -> Identity {
        let read = |file: &str| self.path(name).join(file);
        let certificates = |file: &str| -> Vec<CertificateDer<'static>> {
            let found = CertificateDer::pem_file_iter(read(file)).expect("a PEM file");
            found.map(|certificate| certificate.expect("a certificate")).collect()
        };
        Identity {
            ca: certificates("ca.crt"),
            chain: certificates(&format!("{name}.crt")),
            key: PrivateKeyDer::from_pem_file(read(&format!("{name}.key"))).expect("a key"),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A test that fails shows what the programs said.
        if std::thread::panicking() {
            let logs = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
            for log in logs.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log")) {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                println!("{}:\n{text}", log.file_name().to_string_lossy());
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn fleet_toml(name: &str) -> String {
    format!(
        "[fleet]\nca = \"{name}/ca.crt\"\ncertificate = \"{name}/{name}.crt\"\nkey = \"{name}/{name}.key\"\n\
         revoked = \"{name}/revoked.crl\"\n"
    )
}

/// What a member of the fleet shows in a handshake.
pub struct Identity {
    pub ca: Vec<CertificateDer<'static>>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What TLS is made with.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Documents on a blocking TLS stream whose reads time out: JSON after its length in four bytes.
pub struct Documents<S> {
    pub stream: S,
    received: Vec<u8>,
}

impl<S: Read + std::io::Write> Documents<S> {
    /// Documents on a stream whose reads time out.
    pub fn new(stream: S) -> Self {
        Documents { stream, received: Vec::new() }
    }

    /// Writes a document.
    pub fn write(&mut self, document: &impl serde::Serialize) -> std::io::Result<()> {
        let json = serde_json::to_vec(document)?;
        let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
        bytes.extend(json);
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    /// The next document; `Ok(None)` when none came within the stream's time-out.
    pub fn read<M: serde::de::DeserializeOwned>(&mut self) -> std::io::Result<Option<M>> {
        let mut buffer = [0; 4_096];
        loop {
            if let Some((length, rest)) = self.received.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if let Some(document) = rest.get(..length) {
                    let document = serde_json::from_slice(document)?;
                    self.received.drain(..4 + length);
                    return Ok(Some(document));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend(&buffer[..length]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
