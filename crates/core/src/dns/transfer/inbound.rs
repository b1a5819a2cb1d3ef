//! One conversation with a primary, over one connection: has the zone changed, and if so, what is it now?
//!
//! ```text
//! SOA? ─► serial not newer ─► Unchanged
//!      └► IXFR or AXFR ─► Begin ─ Change … ─► Replaced, or Amended
//! ```
//!
//! An answer to IXFR is differences, or a whole zone as for AXFR, or a single SOA record; only its second record tells
//! (RFC 1995 section 4). What has come counts only when the last SOA record has: until then whoever keeps the changes keeps
//! them beside the zone. Differences that make no sense are an error that says so ([`TransferError::is_of_differences`]),
//! and a whole zone is asked for over another connection.

use super::super::tsig::{Key, Session, TsigError};
use super::super::wire::{HEADER, Malformed, RawRecord, Walk, counts, expanded_data};
use super::super::{CanonicalName, Record};
use super::{SoaTimers, is_newer};
use domain::base::Rtype;
use domain::base::iana::Rcode;
use std::collections::VecDeque;
use std::sync::Arc;

/// How much one transfer may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records that it adds or deletes.
    pub records: usize,
    /// Bytes of all its messages.
    pub bytes: u64,
}

/// What is asked for where the zone has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The whole zone.
    Whole,
    /// What is different from the version with this serial; the primary may send the whole zone all the same.
    Differences(u32),
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record is there now.
    Add(Record),
    /// The record is there no more.
    Delete(Record),
}

/// How a conversation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The primary has no newer version than the one that is here.
    Unchanged {
        /// The primary's serial.
        serial: u32,
        /// Its timers.
        timers: SoaTimers,
    },
    /// The changes since [`Event::Begin`] are the zone, or lead to it.
    Changed {
        /// Its serial.
        serial: u32,
        /// Its timers.
        timers: SoaTimers,
    },
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send a message.
    Send(Vec<u8>),
    /// Changes follow: to an empty zone, or to the version that is here.
    Begin(Form),
    /// The next of them. The new SOA record is added; that the old one goes is not said.
    Change(Change),
    /// Nothing more comes.
    End(Outcome),
}

/// Why a conversation came to nothing. What a primary sends is quoted nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The message is none, or no answer to what was asked.
    #[error("a malformed or unexpected message")]
    Malformed,
    /// The primary refuses.
    #[error("the answer {0}")]
    Refused(Rcode),
    /// The signature is not accepted, here or there.
    #[error("{0}")]
    Tsig(#[from] TsigError),
    /// No SOA record of the zone where one must be.
    #[error("an answer without the zone's SOA record: the primary does not serve it")]
    NoSoa,
    /// A record that is in no part of the zone.
    #[error("a record of {0}, which is outside of the zone")]
    OutOfZone(CanonicalName),
    /// Differences that do not follow from each other, or not from the version that is here.
    #[error("differences that do not fit together")]
    Differences,
    /// More than may come.
    #[error("a transfer of more than {records} records or {bytes} bytes")]
    TooLarge {
        /// Records that may come.
        records: usize,
        /// Bytes that may come.
        bytes: u64,
    },
    /// The version sent is not the one announced, and older than the one that is here.
    #[error("serial {sent}, older than {own} here")]
    Older {
        /// What was sent.
        sent: u32,
        /// What is here.
        own: u32,
    },
    /// The last message was not signed.
    #[error("a transfer whose end is not signed")]
    UnsignedEnd,
}

#[derive(Debug)]
enum State {
    /// Asked for the SOA record.
    Soa,
    /// Asked for a transfer, of which nothing has come.
    Asked,
    /// Its first record has come.
    First {
        soa: Soa,
    },
    /// All records are the zone's, until the SOA record comes again.
    Whole {
        soa: Soa,
    },
    /// Differences; what is deleted, or added, on the way to version `serial`.
    Deleting {
        soa: Soa,
    },
    Adding {
        soa: Soa,
        serial: u32,
    },
    Done,
}

/// A SOA record.
#[derive(Clone, Debug)]
struct Soa {
    record: Record,
    serial: u32,
    timers: SoaTimers,
}

impl Soa {
    fn of(record: Record) -> Result<Soa, TransferError> {
        let timers = SoaTimers::of(&record.data).ok_or(TransferError::Malformed)?;
        let numbers = record.data.last_chunk::<20>().ok_or(TransferError::Malformed)?;
        let serial = u32::from_be_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]);
        Ok(Soa { record, serial, timers })
    }
}

/// The machine of one conversation.
#[derive(Debug)]
pub struct Inbound {
    apex: CanonicalName,
    key: Option<Arc<Key>>,
    /// The version that is here.
    own: Option<u32>,
    form: Form,
    id: u16,
    session: Option<Session>,
    state: State,
    limits: Limits,
    left: Limits,
    events: VecDeque<Event>,
}

impl Inbound {
    /// Asks about a zone of which version `own` is here, if any is. `id` is the first request's; the second one's is the next.
    pub fn new(
        apex: CanonicalName,
        key: Option<Arc<Key>>,
        own: Option<u32>,
        form: Form,
        limits: Limits,
        (id, unix_s): (u16, u64),
    ) -> Self {
        let mut inbound = Inbound {
            apex,
            key,
            own,
            form,
            id,
            session: None,
            state: State::Soa,
            limits,
            left: limits,
            events: VecDeque::new(),
        };
        inbound.ask(Rtype::SOA, unix_s);
        inbound
    }

    /// What to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the transfer itself has begun to be asked for.
    pub fn is_transferring(&self) -> bool {
        !matches!(self.state, State::Soa)
    }

    /// A message from the primary. Take all events afterwards: there is one for each record.
    ///
    /// # Errors
    /// See [`TransferError`]; the conversation is over then, and its changes are worth nothing.
    pub fn handle_message(&mut self, message: &[u8], unix_s: u64) -> Result<(), TransferError> {
        let bytes = message.len() as u64 + 2;
        self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or_else(|| self.too_large())?;
        if message.len() < HEADER {
            return Err(TransferError::Malformed);
        }
        let mut message = message.to_vec();
        if let Some(session) = &mut self.session {
            session.verify(&mut message, unix_s)?;
        }
        self.check_header(&message)?;
        let malformed = |Malformed| TransferError::Malformed;
        let [questions, answers, _, _] = counts(&message).map_err(malformed)?;
        let mut walk = Walk::new(&message);
        for _ in 0..questions {
            let question = walk.question().map_err(malformed)?;
            let is_ours = question.name.as_bytes().eq_ignore_ascii_case(self.apex.as_bytes());
            if questions != 1 || !is_ours || question.rtype != self.asked() {
                return Err(TransferError::Malformed);
            }
        }
        for _ in 0..answers {
            let raw = walk.record().map_err(malformed)?;
            let record = self.read(&message, &raw)?;
            self.handle_record(record, unix_s)?;
        }
        match &self.state {
            State::Soa => Err(TransferError::NoSoa),
            State::First { soa } => self.settle_single(soa.clone()),
            State::Done if self.session.as_ref().is_some_and(|session| !session.is_settled()) => {
                Err(TransferError::UnsignedEnd)
            }
            _ => Ok(()),
        }
    }

    fn too_large(&self) -> TransferError {
        TransferError::TooLarge { records: self.limits.records, bytes: self.limits.bytes }
    }

    /// RFC 5936 section 2.2.1: what each message's header must say.
    fn check_header(&self, message: &[u8]) -> Result<(), TransferError> {
        // QR set, opcode 0, TC not set: over TCP nothing is cut off.
        if message[..2] != self.id.to_be_bytes() || message[2] & 0xfa != 0x80 {
            return Err(TransferError::Malformed);
        }
        match Rcode::masked_from_int(message[3]) {
            Rcode::NOERROR => Ok(()),
            code => Err(TransferError::Refused(code)),
        }
    }

    /// The type that the question was for.
    fn asked(&self) -> Rtype {
        match (&self.state, self.form) {
            (State::Soa, _) => Rtype::SOA,
            (_, Form::Whole) => Rtype::AXFR,
            (_, Form::Differences(_)) => Rtype::IXFR,
        }
    }

    fn read(&self, message: &[u8], raw: &RawRecord) -> Result<Record, TransferError> {
        let owner = CanonicalName::of_wire(raw.owner.as_bytes());
        if raw.class != 1 {
            return Err(TransferError::Malformed);
        }
        if !self.apex.is_ancestor_or_self_of(owner.as_bytes()) {
            return Err(TransferError::OutOfZone(owner));
        }
        let data = expanded_data(message, raw).map_err(|Malformed| TransferError::Malformed)?;
        // RFC 2181 section 8: "treat TTL values received with the most significant bit set as if the entire value received was
        // zero."
        let ttl_s = if raw.ttl_s > i32::MAX as u32 { 0 } else { raw.ttl_s };
        Ok(Record { owner, rtype: raw.rtype, ttl_s, data })
    }

    fn handle_record(&mut self, record: Record, unix_s: u64) -> Result<(), TransferError> {
        self.left.records = self.left.records.checked_sub(1).ok_or_else(|| self.too_large())?;
        let soa = match record.rtype == Rtype::SOA && record.owner == self.apex {
            true => Some(Soa::of(record.clone())?),
            // RFC 5936 section 2.2: one SOA record at each end, and none elsewhere.
            false if record.rtype == Rtype::SOA => return Err(TransferError::Malformed),
            false => None,
        };
        self.state = match (std::mem::replace(&mut self.state, State::Done), soa) {
            (State::Soa, Some(soa)) => self.handle_serial(&soa, unix_s),
            // An alias is no SOA record.
            (State::Soa, None) => return Err(TransferError::NoSoa),
            (State::Asked, Some(soa)) => match self.own {
                Some(own) if is_newer(own, soa.serial) => {
                    return Err(TransferError::Older { sent: soa.serial, own });
                }
                _ => State::First { soa },
            },
            (State::Asked, None) => return Err(TransferError::NoSoa),
            (State::First { soa }, second) => self.handle_second(soa, record, second)?,
            (State::Whole { soa }, Some(last)) if last.serial == soa.serial => self.end(&soa),
            (State::Whole { .. }, Some(_)) => return Err(TransferError::Malformed),
            (state @ State::Whole { .. }, None) => self.change(Change::Add(record), state),
            (State::Deleting { soa }, Some(next)) => State::Adding { soa, serial: next.serial },
            (state @ State::Deleting { .. }, None) => self.change(Change::Delete(record), state),
            (State::Adding { soa, serial }, Some(next)) => match next.serial {
                // RFC 1995 section 4: each sequence begins with the version at which the one before ended.
                same if same != serial => return Err(TransferError::Differences),
                last if last == soa.serial => {
                    self.events.push_back(Event::Change(Change::Add(soa.record.clone())));
                    self.end(&soa)
                }
                _ => State::Deleting { soa },
            },
            (state @ State::Adding { .. }, None) => self.change(Change::Add(record), state),
            // What follows the end.
            (State::Done, _) => return Err(TransferError::Malformed),
        };
        Ok(())
    }

    /// The primary's serial is known.
    fn handle_serial(&mut self, soa: &Soa, unix_s: u64) -> State {
        let Soa { serial, timers, .. } = *soa;
        if self.own.is_some_and(|own| !is_newer(serial, own)) {
            self.events.push_back(Event::End(Outcome::Unchanged { serial, timers }));
            return State::Done;
        }
        self.id = self.id.wrapping_add(1);
        let rtype = match self.form {
            Form::Whole => Rtype::AXFR,
            Form::Differences(_) => Rtype::IXFR,
        };
        self.ask(rtype, unix_s);
        State::Asked
    }

    /// The second record tells what kind of answer it is.
    fn handle_second(&mut self, soa: Soa, record: Record, second: Option<Soa>) -> Result<State, TransferError> {
        match (self.form, second) {
            (Form::Differences(own), Some(second)) if second.serial == own && own != soa.serial => {
                self.events.push_back(Event::Begin(self.form));
                Ok(State::Deleting { soa })
            }
            (_, second) => {
                self.events.push_back(Event::Begin(Form::Whole));
                self.events.push_back(Event::Change(Change::Add(soa.record.clone())));
                match second {
                    None => Ok(self.change(Change::Add(record), State::Whole { soa })),
                    Some(last) if last.serial == soa.serial => Ok(self.end(&soa)),
                    Some(_) if matches!(self.form, Form::Differences(_)) => Err(TransferError::Differences),
                    Some(_) => Err(TransferError::Malformed),
                }
            }
        }
    }

    /// A message with a single SOA record: nothing is newer, or the rest comes in the next message.
    fn settle_single(&mut self, soa: Soa) -> Result<(), TransferError> {
        if matches!(self.form, Form::Differences(own) if own == soa.serial) {
            let Soa { serial, timers, .. } = soa;
            self.state = State::Done;
            self.events.push_back(Event::End(Outcome::Unchanged { serial, timers }));
            let is_signed = self.session.as_ref().is_none_or(Session::is_settled);
            return if is_signed { Ok(()) } else { Err(TransferError::UnsignedEnd) };
        }
        Ok(())
    }

    fn change(&mut self, change: Change, state: State) -> State {
        self.events.push_back(Event::Change(change));
        state
    }

    fn end(&mut self, soa: &Soa) -> State {
        let Soa { serial, timers, .. } = *soa;
        self.events.push_back(Event::End(Outcome::Changed { serial, timers }));
        State::Done
    }

    /// Sends a request for a type.
    fn ask(&mut self, rtype: Rtype, unix_s: u64) {
        let mut message = self.id.to_be_bytes().to_vec();
        let is_ixfr = rtype == Rtype::IXFR;
        message.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, u8::from(is_ixfr), 0, 0]);
        message.extend_from_slice(self.apex.as_bytes());
        message.extend_from_slice(&rtype.to_int().to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        if let (true, Form::Differences(serial)) = (is_ixfr, self.form) {
            // RFC 1995 section 3: the SOA record of the version that is here; of it, only the serial counts.
            message.extend_from_slice(&[0xc0, HEADER as u8, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
            message.extend_from_slice(&serial.to_be_bytes());
            message.extend_from_slice(&[0; 16]);
        }
        self.session = self.key.clone().map(|key| Session::request(key, &mut message, unix_s));
        self.events.push_back(Event::Send(message));
    }
}

impl TransferError {
    /// Whether another primary's, or this one's whole zone, may still be had where these differences were not.
    pub fn is_of_differences(&self) -> bool {
        matches!(self, TransferError::Differences | TransferError::Refused(_) | TransferError::Malformed)
    }
}
