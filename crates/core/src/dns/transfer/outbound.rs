//! A zone as the messages of a transfer (RFC 5936 section 2.2): the SOA record, all others, the SOA record again.
//!
//! Each message is made when the one before it is gone, from where that one stopped in the zone, so a transfer holds one
//! message whatever the zone's size. Owners are compressed against the question and the owner before: that saves most.

use super::super::set::{compress, pointer};
use super::super::tsig::Session;
use super::super::wire::HEADER;
use super::super::zone::{RecordPlace, Zone};
use super::super::{CanonicalName, Record};
use domain::base::Rtype;
use std::sync::Arc;

/// Bytes after which a message is finished: large enough that headers and signatures cost nothing, small enough that
/// pointers (16,383) reach all of it.
const MESSAGE_BYTES: usize = 16_000;
/// Most bytes of a message before it is signed.
const UNSIGNED_BYTES_MAX: usize = u16::MAX as usize - Session::bytes_max();

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Middle,
    Last,
    Done,
}

/// A zone on its way out.
#[derive(Debug)]
pub struct Outbound {
    zone: Arc<Zone>,
    /// Header and question of the request.
    head: Vec<u8>,
    session: Option<Session>,
    stage: Stage,
    place: RecordPlace,
}

impl Outbound {
    /// The answer to a request whose header and question (and nothing else) are `head`. Signed, if the request was.
    pub fn new(zone: Arc<Zone>, head: &[u8], session: Option<Session>) -> Self {
        Outbound { zone, head: head.to_vec(), session, stage: Stage::First, place: RecordPlace::default() }
    }

    /// The zone's name.
    pub fn apex(&self) -> &CanonicalName {
        self.zone.apex()
    }

    /// Its version.
    pub fn serial(&self) -> u32 {
        self.zone.serial()
    }

    /// The next message; `None` when all are written. `out` is replaced. `unix_s`: seconds since 1970.
    pub fn next_message(&mut self, unix_s: u64, mut out: Vec<u8>) -> Option<Vec<u8>> {
        if self.stage == Stage::Done {
            return None;
        }
        out.clear();
        // RFC 5936 section 2.2.2: the question in the first message; in others it may be, and owners point to it.
        out.extend_from_slice(&self.head);
        // QR and AA; RD as it came.
        out[2] = 0x84 | self.head[2] & 0x01;
        out[3] = 0;
        out[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        let mut packer = Packer { question: &self.head[HEADER..self.head.len() - 4], count: 0, last: None };
        let soa = self.zone.soa_record();
        if self.stage == Stage::First {
            // The first record always fits.
            let _ = soa.iter().all(|soa| packer.push(soa, &mut out));
            self.stage = Stage::Middle;
        }
        if self.stage == Stage::Middle {
            let is_soa = |record: &Record| record.rtype == Rtype::SOA;
            let push = |record: &Record| is_soa(record) || packer.push(record, &mut out);
            if self.zone.each_record_from(&mut self.place, push) {
                self.stage = Stage::Last;
            }
        }
        if self.stage == Stage::Last && soa.iter().all(|soa| packer.push(soa, &mut out)) {
            self.stage = Stage::Done;
        }
        out[6..8].copy_from_slice(&packer.count.to_be_bytes());
        if let Some(session) = &mut self.session {
            session.sign(&mut out, unix_s);
        }
        Some(out)
    }
}

/// The answer to a request for differences whose sender has the newest version, or that came over UDP, where more does not
/// fit: the SOA record (RFC 1995 section 2 and 4). `None` where the zone has no data.
pub fn single_soa(zone: &Zone, head: &[u8]) -> Option<Vec<u8>> {
    let soa = zone.soa_record()?;
    let mut out = head.to_vec();
    out[2] = 0x84 | head[2] & 0x01;
    out[3] = 0;
    out[4..HEADER].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    Packer { question: &head[HEADER..head.len() - 4], count: 0, last: None }.push(&soa, &mut out);
    Some(out)
}

/// Records of one message.
struct Packer<'q> {
    /// The question's name, in whatever case it came.
    question: &'q [u8],
    count: u16,
    /// The owner before, and where it stands.
    last: Option<(CanonicalName, u16)>,
}

impl Packer<'_> {
    /// Appends a record; `false` where it belongs into the next message.
    fn push(&mut self, record: &Record, out: &mut Vec<u8>) -> bool {
        let bytes_max = record.owner.as_bytes().len() + 10 + record.data.len();
        if out.len() >= MESSAGE_BYTES || self.count > 0 && out.len() + bytes_max > UNSIGNED_BYTES_MAX {
            return false;
        }
        self.owner(&record.owner, out);
        out.extend_from_slice(&record.rtype.to_int().to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&record.ttl_s.to_be_bytes());
        out.extend_from_slice(&(record.data.len() as u16).to_be_bytes());
        out.extend_from_slice(&record.data);
        self.count += 1;
        true
    }

    /// Writes an owner: a pointer where it is the one before, else the labels that the question does not have.
    fn owner(&mut self, owner: &CanonicalName, out: &mut Vec<u8>) {
        if let Some((_, stands)) = self.last.as_ref().filter(|(last, _)| last == owner) {
            return out.extend_from_slice(&pointer(*stands));
        }
        let (name, at) = (owner.as_bytes(), out.len() as u16);
        let kept = compress(name, self.question);
        out.extend_from_slice(&name[..kept]);
        if kept < name.len() {
            let behind = HEADER + self.question.len() - (name.len() - kept);
            out.extend_from_slice(&pointer(behind as u16));
        }
        if kept > 0 {
            self.last = Some((owner.clone(), at));
        }
    }
}
