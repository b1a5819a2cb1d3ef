//! `startgun status`: what a running master or agent tells about itself over its Unix socket.
//!
//! A connection gets one JSON document and is closed. `--json` prints it as it is; without, it is laid out for reading.
//!
//! A client may ask for something to be done instead: it sends one line of JSON, a [`Request`], and gets an [`Answer`]. Who
//! closes its sending side, or sends nothing for 50 ms, gets the document.

use serde::{Deserialize, Serialize};
use startgun_core::clock::Decided;
use startgun_core::control::{AgentReport, Lateness};
use startgun_core::histogram::Quantiles;
use startgun_core::master::{AgentStatus, Readiness};
use startgun_core::time::{Epoch, Span};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::timeout;

/// Longest document that the client reads: 1,024 agents of 4 KiB, and 65,536 secondary zones of 448 bytes.
const MAX_DOCUMENT: u64 = 32 << 20;
/// Longest request: a name of 63 bytes, with room for spaces.
const MAX_REQUEST: usize = 256;
/// A client that has not begun to ask by then wants the document; on one host that takes microseconds.
const REQUEST_BEGINS: Duration = Duration::from_millis(50);
/// The rest of its line must have come by then: meanwhile nobody else is served.
const REQUEST_ENDS: Duration = Duration::from_millis(200);
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
    /// Its zones that are transferred from elsewhere.
    #[serde(default)]
    pub secondaries: Vec<SecondaryDocument>,
    /// Races that are open now.
    pub open_races: usize,
    /// Connections of clients.
    pub streams: StreamsDocument,
    /// Counters by name, since the start, of all shards.
    pub counters: BTreeMap<String, u64>,
}

/// DNS over TCP and TLS.
#[derive(Debug, Serialize, Deserialize)]
pub struct StreamsDocument {
    /// Connections over TCP that are open now.
    pub open_tcp: usize,
    /// Connections over TLS that are open now.
    pub open_tls: usize,
    /// The last second in which the certificate is valid, since 1970 (UTC); absent without one.
    pub certificate_not_after_unix_s: Option<i64>,
}

/// A raced name.
#[derive(Debug, Serialize, Deserialize)]
pub struct RaceDocument {
    /// The name.
    pub name: String,
    /// The predetermined delay now, for a race that waits for a signal the longest wait; absent while no agent is
    /// ready.
    pub predetermined_delay_ms: Option<f64>,
    /// The signal that it waits for.
    pub signal: Option<String>,
    /// Latest − earliest departure of one race.
    pub start_spread: Option<Quantiles>,
}

/// A zone that is transferred from a primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecondaryDocument {
    /// The zone.
    pub name: String,
    /// The version that is served; absent while the zone has no data and is answered for with SERVFAIL.
    pub serial: Option<u32>,
    /// Where it is transferred from.
    pub primaries: Vec<SocketAddr>,
    /// The primary that last confirmed or sent it, since the start.
    pub primary: Option<SocketAddr>,
    /// Whether a check is under way.
    pub is_checked_now: bool,
    /// Seconds since the last check ended, well or not.
    pub checked_s_ago: Option<u64>,
    /// Seconds until the next check.
    pub next_check_in_s: u64,
    /// Seconds until the zone expires, if no primary confirms it until then; absent where it has.
    pub expires_in_s: Option<u64>,
    /// What went wrong in the last check.
    pub error: Option<String>,
}

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reload may take: ten million records are read in half a minute.
const RELOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Where packages put the master's socket.
pub const MASTER_SOCKET: &str = "/run/startgun/master.sock";

/// What a status socket can be asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Fire the signal of this name.
    Signal(String),
    /// Read the configuration anew.
    Reload,
}

/// What became of a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The signal was fired.
    Signalled {
        /// Its name.
        name: String,
        /// Races that waited for it.
        races: usize,
        /// Agents that held answers for them.
        agents: usize,
    },
    /// Another configuration is served.
    Reloaded {
        /// What it holds, in short.
        summary: String,
        /// What deserves a thought.
        warnings: Vec<String>,
    },
    /// Nothing was done.
    Refused {
        /// Why.
        reason: String,
        /// The names that could have been asked for.
        known: Vec<String>,
    },
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

/// Does what a request asks for.
pub type Performer = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A performer that lets each request be done by a copy of `owner`.
pub fn performer<T, F>(owner: T, perform: fn(T, Request) -> F) -> Performer
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |request| Box::pin(perform(owner.clone(), request)))
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

/// Answers every connection, with a fresh document or to its request, until the process ends.
pub async fn serve(listener: UnixListener, source: Source, performer: Option<Performer>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let json = match read_request(&mut stream).await {
            Ok(None) => serde_json::to_vec(&source().await),
            Ok(Some(request)) => serde_json::to_vec(&perform(request, performer.as_ref()).await),
            Err(reason) => serde_json::to_vec(&Answer::Refused { reason, known: Vec::new() }),
        };
        let Ok(json) = json else { continue };
        // One reader at a time, and no slow one holds the next up for long.
        let _ = timeout(Duration::from_secs(1), stream.write_all(&json)).await;
    }
}

async fn perform(request: Request, performer: Option<&Performer>) -> Answer {
    match performer {
        Some(performer) => performer(request).await,
        None => {
            Answer::Refused { reason: "an agent does nothing on request: ask its master".into(), known: Vec::new() }
        }
    }
}

/// The request that a client sends; `None` for one that only wants the document.
async fn read_request(stream: &mut tokio::net::UnixStream) -> Result<Option<Request>, String> {
    let mut line = [0; MAX_REQUEST];
    let mut length = match timeout(REQUEST_BEGINS, stream.read(&mut line)).await {
        Ok(Ok(length)) if length > 0 => length,
        _ => return Ok(None),
    };
    let rest = async {
        while !line[..length].contains(&b'\n') && length < MAX_REQUEST {
            match stream.read(&mut line[length..]).await {
                Ok(read) if read > 0 => length += read,
                _ => return true,
            }
        }
        line[..length].contains(&b'\n')
    };
    let ended = timeout(REQUEST_ENDS, rest).await;
    match ended {
        Ok(true) => {}
        Ok(false) => return Err(format!("a request of more than {MAX_REQUEST} bytes")),
        Err(_) => return Err(format!("a request without its end after {} ms", REQUEST_ENDS.as_millis())),
    }
    let line = line[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line)
        .map(Some)
        .map_err(|error| format!("not a request such as {{\"signal\":\"NAME\"}}: {error}"))
}

/// Asks the process behind a socket to do something.
///
/// # Errors
/// Where nobody listens, or something else does.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, String> {
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let patience = if matches!(request, Request::Reload) { RELOAD_PATIENCE } else { PATIENCE };
    let json = converse(socket, &line, patience)?;
    serde_json::from_slice(&json).map_err(|error| format!("{}: not an answer to a request: {error}", socket.display()))
}

/// Sends what there is to send, and reads what comes back.
fn converse(socket: &Path, request: &[u8], patience: Duration) -> Result<Vec<u8>, String> {
    let fault = |error: io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| format!("{} (is a master or agent running, with this status_socket?)", fault(error)))?;
    stream.set_read_timeout(Some(patience)).map_err(fault)?;
    stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write)).map_err(fault)?;
    let mut json = Vec::new();
    stream.take(MAX_DOCUMENT).read_to_end(&mut json).map_err(fault)?;
    Ok(json)
}

/// Asks a running master or agent.
///
/// # Errors
/// Where nobody listens, or something else does.
pub fn fetch(socket: &Path) -> Result<Document, String> {
    let json = converse(socket, b"", PATIENCE)?;
    serde_json::from_slice(&json).map_err(|error| format!("{}: not a status document: {error}", socket.display()))
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
    let streams = &master.streams;
    let _ = write!(out, "connections        {} over TCP, {} over TLS", streams.open_tcp, streams.open_tls);
    let _ = match streams.certificate_not_after_unix_s.map(crate::dns_tls::date) {
        Some(date) => writeln!(out, " (certificate valid until {date})"),
        None => writeln!(out),
    };
    let racing = master.agents.iter().filter(|agent| agent.racing).count();
    let _ = writeln!(out, "\nagents: {racing} of {} racing", master.agents.len());
    for agent in &master.agents {
        let reason = agent.reason.as_deref().unwrap_or("unknown");
        let state = match agent.readiness {
            Readiness::AtInstant => "racing".to_owned(),
            Readiness::ByAfter => format!("racing by After: {reason}"),
            Readiness::BySignal => format!("standing down, but for races by signal: {reason}"),
            Readiness::Unreachable => format!("standing down: {reason}"),
        };
        let _ =
            writeln!(out, "  {:<20} site {:<16} {:<22} {state}", agent.name, agent.site, agent.fast_path.to_string());
        if let Some(report) = &agent.report {
            let _ = writeln!(out, "      {}", report_text(report, agent.lateness));
        }
    }
    let _ = writeln!(out, "\nraced names, {} races open", master.open_races);
    for race in &master.races {
        let delay = race.predetermined_delay_ms.map_or("no agent ready".to_owned(), |ms| format!("{ms:.1} ms"));
        let _ = match &race.signal {
            Some(signal) => write!(out, "  {:<40} held for signal {signal}, at most {delay}", race.name),
            None => write!(out, "  {:<40} predetermined delay {delay}", race.name),
        };
        if let Some(spread) = race.start_spread {
            let _ = write!(out, " · start spread {} of {} races", quantiles_text(&spread), spread.count);
        }
        out.push('\n');
    }
    if !master.secondaries.is_empty() {
        secondaries_text(&mut out, &master.secondaries);
    }
    counters_text(&mut out, &master.counters);
    out
}

fn secondaries_text(out: &mut String, secondaries: &[SecondaryDocument]) {
    let _ = writeln!(out, "\nsecondary zones");
    for zone in secondaries {
        let serial =
            zone.serial.map_or("no data, answered with SERVFAIL".to_owned(), |serial| format!("serial {serial}"));
        let _ = write!(out, "  {:<40} {serial}", zone.name);
        if let Some(primary) = zone.primary {
            let _ = write!(out, " · from {primary}");
        }
        if let Some(ago) = zone.checked_s_ago {
            let _ = write!(out, " · checked {ago} s ago");
        }
        let _ = match zone.is_checked_now {
            true => write!(out, " · being checked"),
            false => write!(out, " · next check in {} s", zone.next_check_in_s),
        };
        if let Some(expires) = zone.expires_in_s {
            let _ = write!(out, " · expires in {expires} s");
        }
        out.push('\n');
        if let Some(error) = &zone.error {
            let _ = writeln!(out, "      {error}");
        }
    }
}

fn agent_text(agent: &AgentDocument) -> String {
    let mut out = String::new();
    let _ =
        writeln!(out, "agent {}  site {}  version {}  up {} s", agent.name, agent.site, agent.version, agent.uptime_s);
    let _ = writeln!(out, "departure thread  {}", agent.departure_scheduling);
    let _ = writeln!(out, "host clock        {}", agent.host_clock);
    for master in &agent.masters {
        let state = match (master.connected, master.report.stand_down) {
            (_, None) => master
                .report
                .by_after
                .map_or("racing".to_owned(), |reason| format!("racing by After: {}", reason.text())),
            (true, Some(reason)) => format!("standing down: {}", reason.text()),
            (false, Some(reason)) => format!("not connected; standing down: {}", reason.text()),
        };
        let _ = writeln!(out, "\nmaster {:<20} {state}", master.name);
        let _ = writeln!(out, "      {}", report_text(&master.report, None));
    }
    counters_text(&mut out, &agent.counters);
    out
}

/// Clock, forward delay, lateness (as the receipts tell it, else as the agent does) and stand-downs in one line.
fn report_text(report: &AgentReport, lateness: Option<Quantiles>) -> String {
    let ms = |span: Option<Span>| span.map_or("unknown".to_owned(), |span| format!("{:.3} ms", span.as_millis_f64()));
    let mut parts = Vec::new();
    match &report.clock {
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
    if let Some(lateness) = lateness.or(report.lateness.map(reported)) {
        parts.push(format!("lateness {}", quantiles_text(&lateness)));
    }
    let stood_down: Vec<String> =
        stand_downs(report).map(|(reason, count)| format!("{} {count}", reason.replace('_', " "))).collect();
    if !stood_down.is_empty() {
        parts.push(format!("stood down: {}", stood_down.join(", ")));
    }
    parts.join(" · ")
}

/// An agent's own figures in the shape of the master's.
pub fn reported(lateness: Lateness) -> Quantiles {
    let Lateness { p50, p90, p99, samples, .. } = lateness;
    Quantiles { p50, p90, p99, count: samples as u64 }
}

/// How often an agent has stood down, by reason. Its counters are those of all its masters together.
pub fn stand_downs(report: &AgentReport) -> impl Iterator<Item = (&str, u64)> {
    let counters = report.counters.iter();
    counters.filter_map(|(name, count)| Some((name.strip_prefix("stood_down_")?, *count)))
}

fn quantiles_text(quantiles: &Quantiles) -> String {
    let us = |span: Span| format!("{:.1} us", span.as_micros_f64());
    format!("p50 {}, p90 {}, p99 {}", us(quantiles.p50), us(quantiles.p90), us(quantiles.p99))
}

fn counters_text(out: &mut String, counters: &BTreeMap<String, u64>) {
    let _ = writeln!(out, "\ncounters");
    for (name, count) in counters {
        let _ = writeln!(out, "  {name:<40} {count:>12}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server makes of what a client sends, half-closing after it or not.
    fn read(sent: &[u8], closes: bool) -> Result<Option<String>, String> {
        let runtime = crate::startup::runtime()?;
        runtime.block_on(async {
            let (mut server, mut client) = tokio::net::UnixStream::pair().map_err(|error| error.to_string())?;
            client.write_all(sent).await.map_err(|error| error.to_string())?;
            if closes {
                client.shutdown().await.map_err(|error| error.to_string())?;
            }
            let request = read_request(&mut server).await?;
            Ok(request.map(|request| match request {
                Request::Signal(name) => name,
                Request::Reload => panic!("a signal was asked for"),
            }))
        })
    }

    #[test]
    fn a_line_is_a_request_and_nothing_asks_for_the_document() {
        let go = Ok(Some("go".to_owned()));
        assert_eq!(read(b"{\"signal\":\"go\"}\n", false), go);
        assert_eq!(read(b"{\"signal\":\"go\"}\nmore", false), go);
        assert_eq!(read(b"{\"signal\":\"go\"}", true), go, "closing ends the line as well");
        assert_eq!(read(b"", true), Ok(None));
        assert_eq!(read(b"", false), Ok(None), "silence, after 50 ms");
    }

    #[test]
    fn what_is_no_request_is_refused_within_its_bounds() {
        let refused = |sent: &[u8], closes, words: &str| {
            let found = read(sent, closes).expect_err("refused");
            assert!(found.contains(words), "{found}");
        };
        refused(b"GET / HTTP/1.1\r\n", false, "not a request such as {\"signal\":\"NAME\"}");
        refused(b"{\"reboot\":\"now\"}\n", false, "unknown variant");
        refused(b"\xff\n", false, "not a request");
        refused(&[b' '; MAX_REQUEST + 1], false, "more than 256 bytes");
        refused(b"{\"signal\":", false, "without its end after 200 ms");
    }

    #[test]
    fn an_agent_refuses_to_fire() {
        let runtime = crate::startup::runtime().expect("a runtime");
        let answer = runtime.block_on(perform(Request::Signal("go".into()), None));
        assert!(matches!(answer, Answer::Refused { reason, .. } if reason.contains("ask its master")));
    }
}
