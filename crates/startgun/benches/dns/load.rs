//! The load: Debian's dnsperf, in a closed loop.
//!
//! It keeps a number of queries outstanding and asks the next one when an answer comes. With 200 of them, from four
//! sockets, the servers here are never idle, or dnsperf's own core is busy all the time: which of the two it was is what
//! the rate cannot tell, and the processor time per query can.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::tools::Tool;

/// How hard to ask.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sockets, each with a port of its own.
    pub sockets: u32,
    /// Queries without an answer, all sockets together.
    pub outstanding: u32,
    /// Whether to ask for signatures (EDNS with DO).
    pub dnssec: bool,
}

/// Of plain questions.
pub const PLAIN: Shape = Shape { sockets: 4, outstanding: 200, dnssec: false };

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Answers.
    pub completed: u64,
    /// Queries without an answer within a second.
    pub lost: u64,
    /// For so long.
    pub seconds: f64,
    /// Mean length of an answer.
    pub response_bytes: u32,
}

impl Answered {
    /// Answers per second.
    pub fn per_s(&self) -> f64 {
        self.completed as f64 / self.seconds
    }
}

/// Asks `server` the questions of a file for some time.
///
/// # Errors
/// A sentence: of dnsperf, or with the response codes, unless all of them are `expected`.
pub fn ask(
    dnsperf: &Tool,
    server: SocketAddr,
    questions: &Path,
    shape: Shape,
    duration: Duration,
    expected: &str,
) -> Result<Answered, String> {
    let mut command = dnsperf.command();
    command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-d"]).arg(questions);
    command.args(["-c", &shape.sockets.to_string(), "-q", &shape.outstanding.to_string(), "-t", "1"]);
    command.args(["-l", &format!("{:.3}", duration.as_secs_f64())]);
    if shape.dnssec {
        command.arg("-D");
    }
    let report = dnsperf.run(&mut command)?;
    let words = |field: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(field));
        line.map(|rest| rest.split_whitespace().collect::<Vec<_>>())
            .ok_or_else(|| format!("dnsperf reports no {field:?}: {report}"))
    };
    let number = |field: &str, place: usize| {
        let words = words(field)?;
        let found = words.get(place).and_then(|word| word.trim_end_matches(',').parse::<f64>().ok());
        found.ok_or_else(|| format!("dnsperf: {field} {words:?}, expected a number"))
    };
    let completed = number("Queries completed:", 0)? as u64;
    if completed == 0 {
        return Err(format!("no answer from {server} within {duration:?}"));
    }
    // "NOERROR 401105 (100.00%)", and more of the kind after commas.
    let codes = words("Response codes:")?;
    if codes.len() != 3 || codes[0] != expected {
        return Err(format!("found answers {}, expected {expected} alone", codes.join(" ")));
    }
    Ok(Answered {
        completed,
        lost: number("Queries lost:", 0)? as u64,
        seconds: number("Run time (s):", 0)?,
        // "request 37, response 53"
        response_bytes: number("Average packet size:", 3)? as u32,
    })
}
