//! `startgun status`: what a running master or agent tells about itself over its Unix socket.
//!
//! A connection gets one JSON document and is closed. `--json` prints it as it is; without, it is laid out for reading.

use serde::{Deserialize, Serialize};
use startgun_core::clock::Decided;
use startgun_core::control::AgentReport;
use startgun_core::master::AgentStatus;
use startgun_core::time::{Epoch, Span};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// Longest document that the client reads: 1,024 agents of 4 KiB.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Where packages put the sockets.
const DEFAULT_SOCKETS: [&str; 2] = ["/run/startgun/master.sock", "/run/startgun/agent.sock"];

/// Show the state of a running master or agent
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Its status socket, `status_socket` in its configuration [default: /run/startgun/master.sock or agent.sock,
    /// whichever exists]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// What a master or agent tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Document {
    /// From a master.
    Master(MasterDocument),
    /// From an agent.
    Agent(AgentDocument),
}

/// A master's status.
#[derive(Debug, Serialize, Deserialize)]
pub struct MasterDocument {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The epoch of its timeline.
    pub epoch: Epoch,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// How many shards it runs.
    pub shards: u8,
    /// Its service addresses.
    pub services: Vec<SocketAddr>,
    /// What its host's clock says of UTC, or why it is not asked.
    pub host_clock: String,
    /// Its agents.
    pub agents: Vec<AgentStatus>,
    /// Its raced names.
    pub races: Vec<RaceDocument>,
    /// Races that are open now.
    pub open_races: usize,
    /// Counters by name, since the start, of all shards.
    pub counters: BTreeMap<String, u64>,
}

/// A raced name.
#[derive(Debug, Serialize, Deserialize)]
pub struct RaceDocument {
    /// The name.
    pub name: String,
    /// The predetermined delay now; absent while no agent is ready.
    pub predetermined_delay_ms: Option<f64>,
}

/// An agent's status.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentDocument {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The site that it answers for.
    pub site: String,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// How its departure thread is scheduled.
    pub departure_scheduling: String,
    /// What its host's clock says of UTC, or why it is not asked.
    pub host_clock: String,
    /// Its masters.
    pub masters: Vec<AgentMasterDocument>,
    /// Counters by name, since the start.
    pub counters: BTreeMap<String, u64>,
}

/// One of an agent's masters.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentMasterDocument {
    /// Its name.
    pub name: String,
    /// Whether the control channel is open.
    pub connected: bool,
    /// How the agent is towards it.
    pub report: AgentReport,
}

/// Makes a fresh document.
pub type Source = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Document> + Send>> + Send + Sync>;

/// A source that lets each of its documents be made from a copy of `owner`.
pub fn source<T, F>(owner: T, document: fn(T) -> F) -> Source
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Document> + Send + 'static,
{
    Arc::new(move || Box::pin(document(owner.clone())))
}

/// Puts the status socket in place; only its owner and group may ask.
///
/// # Errors
/// As for binding a Unix socket. A socket that no process listens on any more is replaced.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // Nothing but a socket is ever removed: a mistyped path must not cost a file.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Takes the status socket away at the end. Where dropped privileges forbid that, the next start replaces it.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Answers every connection with a fresh document, until the process ends.
pub async fn serve(listener: UnixListener, source: Source) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(json) = serde_json::to_vec(&source().await) else { continue };
        // One reader at a time, and no slow one holds the next up for long.
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&json)).await;
    }
}

/// Asks a running master or agent.
///
/// # Errors
/// Where nobody listens, or something else does.
pub fn fetch(socket: &Path) -> Result<Document, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket)
        .map_err(|error| format!("{} (is a master or agent running, with this status_socket?)", fault(&error)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| fault(&error))?;
    let mut json = Vec::new();
    stream.take(MAX_DOCUMENT).read_to_end(&mut json).map_err(|error| fault(&error))?;
    serde_json::from_slice(&json).map_err(|error| fault(&format!("not a status document: {error}")))
}

/// The command.
///
/// # Errors
/// A sentence for the operator.
pub fn run(args: &StatusArgs) -> Result<(), String> {
    let socket = args.socket.clone().or_else(|| DEFAULT_SOCKETS.iter().map(PathBuf::from).find(|path| path.exists()));
    let socket =
        socket.ok_or_else(|| format!("no status socket at {}: name it with --socket", DEFAULT_SOCKETS.join(" or ")))?;
    let document = fetch(&socket)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&document).map_err(|error| error.to_string())?),
        false => print!("{}", text(&document)),
    }
    Ok(())
}

fn text(document: &Document) -> String {
    match document {
        Document::Master(master) => master_text(master),
        Document::Agent(agent) => agent_text(agent),
    }
}

fn master_text(master: &MasterDocument) -> String {
    let mut out = String::new();
    let services: Vec<String> = master.services.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "master {}  version {}  up {} s  {} shards",
        master.name, master.version, master.uptime_s, master.shards
    );
    let _ = writeln!(out, "service addresses  {}", services.join(", "));
    let _ = writeln!(out, "host clock         {}", master.host_clock);
    let racing = master.agents.iter().filter(|agent| agent.racing).count();
    let _ = writeln!(out, "\nagents: {racing} of {} racing", master.agents.len());
    for agent in &master.agents {
        let state = agent.reason.as_deref().map_or("racing".to_owned(), |reason| format!("standing down: {reason}"));
        let _ =
            writeln!(out, "  {:<20} site {:<16} {:<22} {state}", agent.name, agent.site, agent.fast_path.to_string());
        if let Some(report) = &agent.report {
            let _ = writeln!(out, "      {}", report_text(report));
        }
    }
    let _ = writeln!(out, "\nraced names, {} races open", master.open_races);
    for race in &master.races {
        let delay = race.predetermined_delay_ms.map_or("no agent ready".to_owned(), |ms| format!("{ms:.1} ms"));
        let _ = writeln!(out, "  {:<40} predetermined delay {delay}", race.name);
    }
    counters_text(&mut out, &master.counters);
    out
}

fn agent_text(agent: &AgentDocument) -> String {
    let mut out = String::new();
    let _ =
        writeln!(out, "agent {}  site {}  version {}  up {} s", agent.name, agent.site, agent.version, agent.uptime_s);
    let _ = writeln!(out, "departure thread  {}", agent.departure_scheduling);
    let _ = writeln!(out, "host clock        {}", agent.host_clock);
    for master in &agent.masters {
        let state = match (master.connected, master.report.stand_down) {
            (_, None) => "racing".to_owned(),
            (true, Some(reason)) => format!("standing down: {}", reason.text()),
            (false, Some(reason)) => format!("not connected; standing down: {}", reason.text()),
        };
        let _ = writeln!(out, "\nmaster {:<20} {state}", master.name);
        let _ = writeln!(out, "      {}", report_text(&master.report));
    }
    counters_text(&mut out, &agent.counters);
    out
}

/// Clock, forward delay and lateness in one line.
fn report_text(report: &AgentReport) -> String {
    let ms = |span: Option<Span>| span.map_or("unknown".to_owned(), |span| format!("{:.3} ms", span.as_millis_f64()));
    let mut parts = Vec::new();
    match report.clock {
        Some(clock) => parts.push(format!(
            "clock {:+.3} ms by {}, bound {}{}, expected error {}, {} samples",
            clock.offset.as_millis_f64(),
            clock.source.map_or("an unknown source", Decided::text),
            ms(clock.bound),
            if clock.conditional { " (conditional)" } else { "" },
            ms(clock.expected_error),
            clock.samples
        )),
        None => parts.push("clock not set".into()),
    }
    if let Some(mesh) = &report.mesh {
        let suspects = match mesh.suspects.is_empty() {
            true => String::new(),
            false => format!(", not believed: {}", mesh.suspects.join(", ")),
        };
        parts.push(format!(
            "mesh of {} with {} peers, correction {:+.3} ms, {} left after it, {} of {} paths left out{suspects}",
            mesh.hosts,
            mesh.peers,
            mesh.correction.as_millis_f64(),
            ms(Some(mesh.expected_error)),
            mesh.left_out,
            mesh.paths
        ));
    }
    if let Some(delay) = report.forward_delay {
        parts.push(format!("forward delay p99 {}, greatest {}", ms(Some(delay.p99)), ms(Some(delay.greatest))));
    }
    if let Some(lateness) = report.lateness {
        parts.push(format!(
            "lateness p50 {:.1} us, p99 {:.1} us",
            lateness.p50.as_micros_f64(),
            lateness.p99.as_micros_f64()
        ));
    }
    parts.join(" · ")
}

fn counters_text(out: &mut String, counters: &BTreeMap<String, u64>) {
    let _ = writeln!(out, "\ncounters");
    for (name, count) in counters {
        let _ = writeln!(out, "  {name:<40} {count:>12}");
    }
}
