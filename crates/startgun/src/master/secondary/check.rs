//! One check of a secondary's zone: its primaries are asked in turn whether it has changed, and sent for if it has.
//!
//! It runs on a thread of its own, which waits for the primary and for the disk. Everything that a primary can make it wait
//! for, or keep, is bounded.

use super::copy::Staged;
use crate::config::{Copies, RECORDS_MAX, ZONE_BYTES_MAX, read_copy};
use crate::startup;
use domain::base::Rtype;
use startgun_core::dns::transfer::{Change, Event, Form, Inbound, Limits, Outcome, Peer, SoaTimers, TransferError};
use startgun_core::dns::{CanonicalName, Record};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a primary may take to accept a connection: its kernel does that, in three attempts.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take for a message, whole. Primaries prepare large zones for that long.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a conversation may take, whatever trickles: 2 GiB at 5 Mbit/s.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3_600);
/// Most differences, which are held in memory (some 200 bytes each) until all have come; the whole zone is asked for where
/// there are more.
const DIFFERENCES_MAX: usize = 1_000_000;

/// What is checked.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) apex: CanonicalName,
    pub(super) primaries: Vec<Peer>,
    /// The version that is served.
    pub(super) own: Option<u32>,
    /// Whether all are asked until one has another version, as after word of one: it is not said by which.
    pub(super) asks_all: bool,
    pub(super) copies: Copies,
}

/// What a check found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) primary: SocketAddr,
    pub(super) serial: u32,
    pub(super) timers: SoaTimers,
    /// Another version, where there is one.
    pub(super) changed: Option<Changed>,
}

/// Another version of a zone.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) records: Vec<Record>,
    pub(super) staged: Staged,
    /// Whether it came as differences.
    pub(super) by_differences: bool,
}

/// Why nothing came of a conversation.
enum Fault {
    Transfer(TransferError),
    Other(String),
}

impl From<TransferError> for Fault {
    fn from(error: TransferError) -> Self {
        Fault::Transfer(error)
    }
}

impl From<String> for Fault {
    fn from(error: String) -> Self {
        Fault::Other(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        Fault::Other(if is_late { "no answer in time".to_owned() } else { error.to_string() })
    }
}

/// Asks the primaries in turn.
///
/// # Errors
/// What went wrong with each, where none was of use.
pub(super) fn check(job: &Job) -> Result<Found, String> {
    let mut faults = Vec::new();
    let mut unchanged = None;
    for primary in &job.primaries {
        match ask(job, primary) {
            Ok(found) if found.changed.is_some() || !job.asks_all => return Ok(found),
            Ok(found) => unchanged = unchanged.or(Some(found)),
            Err(fault) => faults.push(format!("{}: {fault}", primary.address)),
        }
    }
    unchanged.ok_or_else(|| faults.join("; "))
}

/// Asks one primary: for differences first, where there is a version to have differences from.
fn ask(job: &Job, primary: &Peer) -> Result<Found, String> {
    if let Some(own) = job.own.filter(|_| job.copies.path(&job.apex).exists()) {
        match converse(job, primary, Form::Differences(own)) {
            Ok(found) => return Ok(found),
            Err(Fault::Transfer(error)) if error.is_of_differences() => {
                tracing::info!(zone = %job.apex, primary = %primary.address, %error, "no differences; asking for the whole zone");
            }
            Err(Fault::Transfer(error)) => return Err(error.to_string()),
            Err(Fault::Other(error)) => return Err(error),
        }
    }
    converse(job, primary, Form::Whole).map_err(|fault| match fault {
        Fault::Transfer(error) => error.to_string(),
        Fault::Other(error) => error,
    })
}

/// One conversation, over one connection.
fn converse(job: &Job, primary: &Peer, form: Form) -> Result<Found, Fault> {
    let end = Instant::now() + TRANSFER_PATIENCE;
    let mut stream = TcpStream::connect_timeout(&primary.address, CONNECT_PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(MESSAGE_PATIENCE))?;
    let limits = Limits { records: RECORDS_MAX, bytes: ZONE_BYTES_MAX };
    let [high, low, ..] = startup::seed()?;
    let id = u16::from_be_bytes([high, low]);
    let mut inbound = Inbound::new(job.apex.clone(), primary.key.clone(), job.own, form, limits, (id, unix_s()));
    let mut sink = Sink::Nothing;
    let mut message = Vec::new();
    loop {
        while let Some(event) = inbound.poll_event() {
            match event {
                Event::Send(request) => send(&mut stream, &request)?,
                Event::Begin(form) => sink = Sink::new(job, form)?,
                Event::Change(change) => sink.take(change)?,
                Event::End(outcome) => return finish(job, primary.address, sink, outcome),
            }
        }
        receive(&mut stream, &mut message, end)?;
        inbound.handle_message(&message, unix_s())?;
    }
}

fn finish(job: &Job, primary: SocketAddr, sink: Sink, outcome: Outcome) -> Result<Found, Fault> {
    let (serial, timers) = match outcome {
        Outcome::Unchanged { serial, timers } => return Ok(Found { primary, serial, timers, changed: None }),
        Outcome::Changed { serial, timers } => (serial, timers),
    };
    let (staged, by_differences) = match sink {
        Sink::Nothing => return Err(TransferError::Malformed.into()),
        Sink::Whole(mut staged) => {
            staged.flush()?;
            (staged, false)
        }
        Sink::Differences(differences) => (amended(job, differences)?, true),
    };
    let (records, warnings) = read_copy(&job.apex, staged.path()).map_err(|faults| match faults.first() {
        Some(fault) => format!("serial {serial} is not served: {fault}"),
        None => format!("serial {serial} is not served"),
    })?;
    for warning in warnings {
        tracing::warn!(zone = %job.apex, "{warning}");
    }
    Ok(Found { primary, serial, timers, changed: Some(Changed { records, staged, by_differences }) })
}

fn send(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    // A request is a few hundred bytes.
    let length = request.len() as u16;
    stream.write_all(&[&length.to_be_bytes(), request].concat())
}

/// Reads a message, whole within [`MESSAGE_PATIENCE`].
fn receive(stream: &mut TcpStream, message: &mut Vec<u8>, end: Instant) -> Result<(), Fault> {
    let due = end.min(Instant::now() + MESSAGE_PATIENCE);
    let mut length = [0; 2];
    read_exactly(stream, &mut length, due)?;
    message.resize(usize::from(u16::from_be_bytes(length)), 0);
    read_exactly(stream, message, due)
}

fn read_exactly(stream: &mut TcpStream, mut buffer: &mut [u8], due: Instant) -> Result<(), Fault> {
    while !buffer.is_empty() {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err("the connection was closed within the conversation".to_owned().into()),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Where changes go until all have come.
enum Sink {
    Nothing,
    Whole(Staged),
    Differences(Differences),
}

impl Sink {
    fn new(job: &Job, form: Form) -> Result<Self, Fault> {
        Ok(match form {
            Form::Whole => Sink::Whole(Staged::create(&job.copies, &job.apex)?),
            Form::Differences(_) => Sink::Differences(Differences::default()),
        })
    }

    fn take(&mut self, change: Change) -> Result<(), Fault> {
        match (self, change) {
            (Sink::Whole(staged), Change::Add(record)) => Ok(staged.write(&record)?),
            (Sink::Differences(differences), change) => differences.take(change),
            // The machine begins before it says anything, and deletes from nothing never.
            (Sink::Nothing | Sink::Whole(_), _) => Err(TransferError::Malformed.into()),
        }
    }
}

/// What makes a record another one: its time to live does not (RFC 2136 section 1.1.1).
type Identity = (CanonicalName, u16, Box<[u8]>);

fn identity(record: &Record) -> Identity {
    (record.owner.clone(), record.rtype.to_int(), record.data.clone())
}

/// What becomes of a record.
struct Difference {
    /// Whether it must be there before.
    was_there: bool,
    /// Its time to live afterwards, where it is there then.
    ttl_s: Option<u32>,
}

/// All differences together.
#[derive(Default)]
struct Differences(BTreeMap<Identity, Difference>);

impl Differences {
    fn take(&mut self, change: Change) -> Result<(), Fault> {
        if self.0.len() >= DIFFERENCES_MAX {
            return Err(TransferError::Differences.into());
        }
        let (record, ttl_s) = match change {
            Change::Add(record) => {
                let ttl_s = record.ttl_s;
                (record, Some(ttl_s))
            }
            Change::Delete(record) => (record, None),
        };
        // The new SOA record is added; the old one goes by itself.
        let was_there = ttl_s.is_none();
        self.0.entry(identity(&record)).or_insert(Difference { was_there, ttl_s: None }).ttl_s = ttl_s;
        Ok(())
    }
}

/// The copy that is there, with differences made to it.
fn amended(job: &Job, differences: Differences) -> Result<Staged, Fault> {
    let Differences(mut differences) = differences;
    let Ok((records, _)) = read_copy(&job.apex, &job.copies.path(&job.apex)) else {
        return Err(TransferError::Differences.into());
    };
    let mut staged = Staged::create(&job.copies, &job.apex)?;
    for record in &records {
        match differences.get_mut(&identity(record)) {
            Some(difference) if difference.was_there => difference.was_there = false,
            Some(_) => return Err(TransferError::Differences.into()),
            None if record.rtype == Rtype::SOA => match serial(record) == job.own {
                true => {}
                false => return Err(TransferError::Differences.into()),
            },
            None => staged.write(record)?,
        }
    }
    for ((owner, rtype, data), difference) in differences {
        // It was to be deleted, and was not there.
        if difference.was_there {
            return Err(TransferError::Differences.into());
        }
        if let Some(ttl_s) = difference.ttl_s {
            staged.write(&Record { owner, rtype: Rtype::from_int(rtype), ttl_s, data })?;
        }
    }
    staged.flush()?;
    Ok(staged)
}

fn serial(soa: &Record) -> Option<u32> {
    soa.data.last_chunk::<20>().and_then(|numbers| numbers.first_chunk::<4>()).map(|bytes| u32::from_be_bytes(*bytes))
}

fn unix_s() -> u64 {
    (startup::unix_ns() / 1_000_000_000).unsigned_abs()
}
