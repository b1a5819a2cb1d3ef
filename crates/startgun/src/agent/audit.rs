//! The audit log: one JSON line per departure and clock reading, for those who check an agent's time from outside.
//!
//! Instants are nanoseconds: `local_ns` of the host's raw monotonic clock as the agent reads it, `race_ns` of the
//! master's timeline. A thread of its own writes; when it cannot keep up, records are dropped and counted.

use serde::Serialize;
use startgun_core::agent::{Audit, DepartureOutcome};
use startgun_core::clock::Reading;
use startgun_core::time::Span;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Records that may wait to be written: a second of departures at the agent's own limit (20,000).
const RECORDS: usize = 20_000;
/// Buffered records reach the file at least this often.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Where records go.
pub(super) type AuditSender = SyncSender<Audit>;

#[derive(Serialize)]
struct ClockFields {
    estimate_race_ns: i64,
    low_race_ns: Option<i64>,
    high_race_ns: Option<i64>,
    bound_ns: Option<i64>,
    expected_error_ns: Option<i64>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record<'a> {
    Clock {
        master: &'a str,
        local_ns: i64,
        clock: ClockFields,
    },
    Departure {
        master: &'a str,
        race: u64,
        revision: u8,
        client: SocketAddr,
        transmit_race_ns: Option<i64>,
        outcome: &'static str,
        local_ns: Option<i64>,
        clock: Option<ClockFields>,
    },
}

/// Opens the log, while privileges are still there.
///
/// # Errors
/// Where the file cannot be opened for appending.
pub(super) fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| format!("audit_log {}: {error}", path.display()))
}

/// Starts the log's thread.
///
/// # Errors
/// Where the kernel gives no thread.
pub(super) fn start(file: File, masters: Vec<String>) -> Result<AuditSender, String> {
    let (sender, records) = sync_channel(RECORDS);
    let write = move || write_all(BufWriter::new(file), &records, &masters);
    let started = std::thread::Builder::new().name("audit".into()).spawn(write);
    started.map_err(|error| format!("starting the audit log's thread: {error}"))?;
    Ok(sender)
}

fn write_all(mut file: BufWriter<File>, records: &Receiver<Audit>, masters: &[String]) {
    let mut flushed = Instant::now();
    loop {
        // Under a steady stream there is never a pause to flush in.
        if flushed.elapsed() >= FLUSH_INTERVAL {
            let _ = file.flush();
            flushed = Instant::now();
        }
        match records.recv_timeout(FLUSH_INTERVAL) {
            Ok(audit) => {
                // A full disk must not stop the agent; the gap shows in the file.
                let _ = serde_json::to_writer(&mut file, &record(&audit, masters));
                let _ = file.write_all(b"\n");
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let _ = file.flush();
                return;
            }
        }
    }
}

fn record<'a>(audit: &Audit, masters: &'a [String]) -> Record<'a> {
    let name = |index: usize| masters.get(index).map_or("", String::as_str);
    match audit {
        Audit::Clock { master, reading } => {
            Record::Clock { master: name(*master), local_ns: reading.at.as_nanos(), clock: clock(reading) }
        }
        Audit::Departure { master, race, revision, client, transmit_at, outcome, reading } => {
            let (outcome, at) = match outcome {
                DepartureOutcome::Departed { at, kernel_stamped: true } => ("departed", Some(at)),
                DepartureOutcome::Departed { at, kernel_stamped: false } => ("departed_unstamped", Some(at)),
                DepartureOutcome::Late { at } => ("late", Some(at)),
                DepartureOutcome::Failed => ("failed", None),
            };
            Record::Departure {
                master: name(*master),
                race: *race,
                revision: *revision,
                client: *client,
                transmit_race_ns: transmit_at.map(|at| at.as_nanos()),
                outcome,
                local_ns: at.map(|at| at.as_nanos()),
                clock: reading.as_ref().map(clock),
            }
        }
    }
}

fn clock(reading: &Reading) -> ClockFields {
    let closed = |span: Span| (span != Span::MAX && span != Span::MIN).then_some(span.as_nanos());
    ClockFields {
        estimate_race_ns: reading.estimate.as_nanos(),
        low_race_ns: closed(reading.interval.low),
        high_race_ns: closed(reading.interval.high),
        bound_ns: closed(reading.bound),
        expected_error_ns: closed(reading.expected_error),
    }
}
