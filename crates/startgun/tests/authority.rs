//! The master as an authoritative server: every case of two tables, written from the RFCs, against the real program over
//! UDP and TCP; the same against NSD, Knot DNS and BIND, where they are installed, and every difference judged.
//!
//! A server that answers otherwise than a table says has a note there, with the reason. So has Startgun itself for what is
//! known to be wrong: such a note is a fault to be mended, and says when it no longer holds. Other servers are held to
//! their notes in the versions by which these were written; of other versions, differences are only printed.
//!
//! Beside that, what `make conformance` and `make check-authority` do at length.

mod support;

#[path = "authority/exchange.rs"]
mod exchange;
#[path = "authority/messages.rs"]
mod messages;
#[path = "authority/names.rs"]
mod names;
#[path = "authority/servers.rs"]
mod servers;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use exchange::{Answer, PATIENCE, Query, SILENCE, Transport, ask};
use messages::Expected;
use names::Strictness;
use servers::{Peer, Server, Stage};
use support::{Test, program, source};

const TESTS: [(&str, Test); 7] = [
    ("names_are_answered_as_the_rfcs_say", names_are_answered_as_the_rfcs_say),
    ("messages_are_answered_as_the_rfcs_say", messages_are_answered_as_the_rfcs_say),
    ("every_difference_from_nsd_is_known", || every_difference_is_known(Peer::Nsd)),
    ("every_difference_from_knot_is_known", || every_difference_is_known(Peer::Knot)),
    ("every_difference_from_bind_is_known", || every_difference_is_known(Peer::Bind)),
    ("tests_of_the_conformance_archive_pass", tests_of_the_conformance_archive_pass),
    ("zonemaster_dnsviz_and_dns_fuzz_find_nothing", zonemaster_dnsviz_and_dns_fuzz_find_nothing),
];

/// How many tests of the archive are run here: each takes some milliseconds; `make conformance` runs all.
const ARCHIVE_TESTS: &str = "200";

/// How long a server is fuzzed here; `make check-authority` goes on for a minute.
const FUZZ_S: &str = "3";

const TABLE: &str = include_str!("authority/names.txt");
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn stage() -> Result<Stage, String> {
    Stage::new(&[("big.test", messages::big_zone())])
}

/// What was found about one case at one server.
struct Finding {
    title: String,
    faults: Vec<String>,
    /// Why it is known, where it is.
    note: Option<String>,
}

/// How long an answer is waited for: where one is known to be wrong, it may be known not to come.
fn patience(note: &Option<String>) -> Duration {
    if note.is_some() { SILENCE } else { PATIENCE }
}

/// Asks over a transport and reads what comes back; faults that no answer may have come first.
fn exchange(
    address: SocketAddr,
    transport: Transport,
    query: &Query,
    patience: Duration,
) -> Result<Answer, Vec<String>> {
    let Some(bytes) = ask(address, transport, &query.0, patience) else { return Err(vec!["no answer".into()]) };
    let answer = Answer::read(bytes).map_err(|fault| vec![format!("unreadable: {fault}")])?;
    let faults = answer.faults(&query.0);
    if faults.is_empty() { Ok(answer) } else { Err(faults) }
}

/// Every case of the table of names, at every address, over both transports.
fn try_names(server: &Server, strictness: Strictness) -> Vec<Finding> {
    let judge = |case: names::Case| {
        let note = case.unlike.get(server.name).cloned();
        let mut faults = Vec::new();
        for &address in &server.addresses {
            for transport in TRANSPORTS {
                let plain = Query::new(&case.name, case.rtype);
                let query = if transport == Transport::Udp { plain.edns(1232, &[]) } else { plain };
                let found = match exchange(address, transport, &query, patience(&note)) {
                    Ok(answer) => case.faults(&answer, strictness),
                    Err(faults) => faults,
                };
                faults.extend(found.into_iter().map(|fault| format!("{address} {transport}: {fault}")));
            }
        }
        Finding { title: case.title, faults, note }
    };
    names::read(TABLE).into_iter().map(judge).collect()
}

/// Every case of the table of messages, likewise.
fn try_messages(server: &Server) -> Vec<Finding> {
    let judge = |case: messages::Case| {
        let note = case.note(server.name).map(str::to_owned);
        let mut faults = Vec::new();
        for &address in &server.addresses {
            for transport in TRANSPORTS {
                let found = match &case.expected {
                    Expected::Silence => {
                        let answer = ask(address, transport, &case.query.0, SILENCE);
                        answer.map(|answer| format!("an answer of {} octets", answer.len())).into_iter().collect()
                    }
                    Expected::Answer(want) => match exchange(address, transport, &case.query, patience(&note)) {
                        Ok(answer) => want.faults(&answer, transport),
                        Err(faults) => faults,
                    },
                };
                faults.extend(found.into_iter().map(|fault| format!("{address} {transport}: {fault}")));
            }
        }
        Finding { title: format!("[{}] {}", case.source, case.what), faults, note }
    };
    messages::cases().into_iter().map(judge).collect()
}

/// Prints what is known and panics at what is not, and at notes that no longer hold.
fn judge(server: &Server, findings: &[Finding], is_binding: bool) {
    let mut surprises = Vec::new();
    for finding in findings {
        let faults = finding.faults.join("\n    ");
        match (&finding.note, finding.faults.is_empty()) {
            (None, true) => {}
            (Some(note), false) => println!("{} {}\n  {note}:\n    {faults}", server.name, finding.title),
            (Some(note), true) => surprises.push(format!("{}\n  no longer holds: {note}", finding.title)),
            (None, false) => surprises.push(format!("{}\n    {faults}", finding.title)),
        }
    }
    let known = findings.iter().filter(|finding| finding.note.is_some()).count();
    println!("{} {}: {} cases, {known} known differences", server.name, server.version, findings.len());
    let surprises = surprises.join("\n");
    if is_binding {
        assert!(surprises.is_empty(), "{} {}:\n{surprises}", server.name, server.version);
    } else if !surprises.is_empty() {
        println!("not judged for this version:\n{surprises}");
    }
}

fn names_are_answered_as_the_rfcs_say() -> Result<(), String> {
    let stage = stage()?;
    let mut server = stage.master();
    judge(&server, &try_names(&server, Strictness::Exact), true);
    assert!(server.is_alive());
    Ok(())
}

fn messages_are_answered_as_the_rfcs_say() -> Result<(), String> {
    let stage = stage()?;
    let mut server = stage.master();
    judge(&server, &try_messages(&server), true);
    assert!(server.is_alive());
    Ok(())
}

fn every_difference_is_known(peer: Peer) -> Result<(), String> {
    let stage = stage()?;
    let server = stage.peer(peer)?;
    let mut findings = try_names(&server, Strictness::Generous);
    findings.extend(try_messages(&server));
    judge(&server, &findings, server.version.starts_with(peer.judged_version()));
    Ok(())
}

/// Runs a script of the repository on the program: its exit status, and all that it said.
fn run_script(path: &str, arguments: &[&str]) -> Result<(Option<i32>, String), String> {
    let script = source(path);
    let mut command = Command::new(&script);
    command.args(arguments).arg("--program").arg(program()).current_dir(Path::new("/"));
    let output = command.output().map_err(|error| format!("{}: {error}", script.display()))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.code(), said))
}

fn tests_of_the_conformance_archive_pass() -> Result<(), String> {
    let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !loopback.is_ok_and(|status| status.success()) {
        return Err("ip (iproute2) cannot set loopback up here".into());
    }
    let (status, said) = run_script("scripts/conformance", &["--limit", ARCHIVE_TESTS])?;
    if let Some(reason) = said.lines().find(|line| line.starts_with("skipped: ") || line.contains("is missing")) {
        return Err(reason.trim_start_matches("skipped: ").to_owned());
    }
    println!("{said}");
    assert_eq!(status, Some(0));
    Ok(())
}

fn zonemaster_dnsviz_and_dns_fuzz_find_nothing() -> Result<(), String> {
    let (status, said) = run_script("scripts/check-authority", &["--seconds", FUZZ_S])?;
    if let Some(reason) = said.lines().find(|line| line.contains("missing: ")) {
        return Err(format!("{reason} (make check-authority installs them)"));
    }
    println!("{said}");
    assert_eq!(status, Some(0));
    Ok(())
}
