//! Writing a message: the question as it came, then encoded sets, each put where its owner stands.
//!
//! Names are compressed against the question's, and an alias's target is pointed to where it was written; nothing else is
//! searched for. See [`super::set`] for why a set is mostly a copy.

use super::answer::Proven;
use super::query::Query;
use super::set::{Placement, QUESTION, SetRef, compress, pointer};
use domain::base::iana::OptRcode;

/// The highest place that a pointer can name, RFC 1035 section 4.1.4.
const POINTER_MAX: usize = 0x3fff;
/// Where the counts of a header's sections stand.
const COUNTS: usize = 4;

/// The message has no room for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A section behind the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// A message in the making.
pub(super) struct Writer<'q> {
    out: Vec<u8>,
    /// Bytes that header, question and sets may take.
    limit: usize,
    name: &'q [u8],
    counts: [u16; 4],
    section: Section,
}

impl<'q> Writer<'q> {
    /// Header and question of an answer to `query`; `out` is replaced. QR is set, RD and CD are copied (RFC 1035 section
    /// 4.1.1, RFC 4035 section 3.1.6).
    pub(super) fn new(query: &'q Query<'_>, mut out: Vec<u8>, limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(query.head());
        out[2] = 0x80 | out[2] & 0x01;
        out[3] &= 0x10;
        Writer { out, limit, name: query.name(), counts: [1, 0, 0, 0], section: Section::Answer }
    }

    /// Whether the owner of the question's name is asked of an authority.
    pub(super) fn set_authoritative(&mut self) {
        self.out[2] |= 0x04;
    }

    pub(super) fn set_truncated(&mut self) {
        self.out[2] |= 0x02;
    }

    pub(super) fn set_code(&mut self, code: OptRcode) {
        self.out[3] = self.out[3] & 0xf0 | code.rcode().to_int();
    }

    /// Sets that follow go into this section.
    pub(super) fn enter(&mut self, section: Section) {
        self.section = section;
    }

    /// Bytes written so far.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Where the question's name stands.
    pub(super) fn question(&self) -> Placement {
        Placement::question(self.name.len() as u8)
    }

    /// Takes everything behind the question away.
    pub(super) fn clear(&mut self) {
        self.out.truncate(usize::from(QUESTION) + self.name.len() + 4);
        self.counts = [1, 0, 0, 0];
    }

    /// Appends a set whose owner is the name that stands at `placement`, or a wildcard that stands for it; with what signs
    /// it, where that is asked for.
    pub(super) fn push(&mut self, set: SetRef<'_>, placement: Placement, signed: bool) -> Result<(), Full> {
        let start = self.out.len();
        self.append(set.wire, placement);
        let is_question = placement.at == QUESTION && placement.length == set.owner_length;
        if !is_question {
            for &at in set.pointers {
                let at = start + usize::from(at);
                let old = u16::from_be_bytes([self.out[at], self.out[at + 1]]) & POINTER_MAX as u16;
                let suffix = set.owner_length - (old - QUESTION) as u8;
                self.out[at..at + 2].copy_from_slice(&pointer(placement.suffix(suffix)));
            }
        }
        let mut count = set.count;
        if signed {
            self.append(set.signatures, placement);
            count += set.signature_count;
        }
        self.settle(start, count)
    }

    /// Copies records and points their owners to a name.
    fn append(&mut self, records: &[u8], placement: Placement) {
        let mut at = self.out.len();
        self.out.extend_from_slice(records);
        let owner = placement.suffix(placement.length);
        if owner == QUESTION {
            return;
        }
        while at < self.out.len() {
            self.out[at..at + 2].copy_from_slice(&pointer(owner));
            at += record_length(&self.out[at..]);
        }
    }

    /// Appends a set whose data holds no pointers, and whose owner stands nowhere yet.
    pub(super) fn push_named(&mut self, owner: &[u8], set: SetRef<'_>, signed: bool) -> Result<(), Full> {
        debug_assert!(set.pointers.is_empty());
        let start = self.out.len();
        let mut first = None;
        for records in [set.wire, if signed { set.signatures } else { &[] }] {
            let mut rest = records;
            while !rest.is_empty() {
                let (record, following) = rest.split_at(record_length(rest));
                match first {
                    Some(at) if at <= POINTER_MAX => self.out.extend_from_slice(&pointer(at as u16)),
                    _ => {
                        first = Some(self.out.len());
                        self.write_name(owner);
                    }
                }
                self.out.extend_from_slice(&record[2..]);
                rest = following;
            }
        }
        self.settle(start, set.count + if signed { set.signature_count } else { 0 })
    }

    /// As [`Writer::push_named`] with signatures, but no record points to another one.
    pub(super) fn push_apart(&mut self, owner: &[u8], set: SetRef<'_>) -> Result<(), Full> {
        let start = self.out.len();
        let mut rest = [set.wire, set.signatures].concat();
        while !rest.is_empty() {
            let following = rest.split_off(record_length(&rest));
            self.write_name(owner);
            self.out.extend_from_slice(&rest[2..]);
            rest = following;
        }
        self.settle(start, set.count + set.signature_count)
    }

    /// Appends records that [`Writer::push_apart`] encoded for the same question.
    pub(super) fn push_records(&mut self, records: &[u8], count: u8) -> Result<(), Full> {
        let start = self.out.len();
        self.out.extend_from_slice(records);
        self.settle(start, u16::from(count))
    }

    /// What was appended behind the question, without it.
    pub(super) fn into_records(mut self) -> Proven {
        let begin = usize::from(QUESTION) + self.name.len() + 4;
        let count = self.counts[self.section as usize] as u8;
        self.out.drain(..begin);
        Proven { records: self.out, count }
    }

    /// Appends a CNAME record whose owner stands at `placement`; where its target stands then.
    pub(super) fn push_alias(&mut self, placement: Placement, ttl_s: u32, target: &[u8]) -> Result<Placement, Full> {
        let start = self.out.len();
        self.out.extend_from_slice(&pointer(placement.suffix(placement.length)));
        self.out.extend_from_slice(&[0, 5, 0, 1]);
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        self.out.extend_from_slice(&[0, 0]);
        let data = self.out.len();
        let target = self.write_name(target);
        let length = (self.out.len() - data) as u16;
        self.out[data - 2..data].copy_from_slice(&length.to_be_bytes());
        self.settle(start, 1).map(|()| target)
    }

    /// Appends a name, compressed against the question's.
    fn write_name(&mut self, name: &[u8]) -> Placement {
        let at = self.out.len() as u16;
        let kept = compress(name, self.name);
        self.out.extend_from_slice(&name[..kept]);
        let rest = QUESTION + (self.name.len() - (name.len() - kept)) as u16;
        if kept < name.len() {
            self.out.extend_from_slice(&pointer(rest));
        }
        Placement { at, prefix: kept as u8, rest, length: name.len() as u8 }
    }

    fn settle(&mut self, start: usize, count: u16) -> Result<(), Full> {
        if self.out.len() > self.limit {
            self.out.truncate(start);
            return Err(Full);
        }
        self.counts[self.section as usize] += count;
        Ok(())
    }

    /// Where the data of the set of one record stands that was pushed last, `length` bytes long, and its last two bytes.
    pub(super) fn last_data(&self, length: usize) -> (u16, u16) {
        let end = self.out.len();
        let last = u16::from_be_bytes([self.out[end - 2], self.out[end - 1]]);
        ((end - length) as u16, last & POINTER_MAX as u16)
    }

    /// The message, with an OPT record behind everything where there is one.
    pub(super) fn finish(mut self, opt: &[u8]) -> Vec<u8> {
        if !opt.is_empty() {
            self.out.extend_from_slice(opt);
            self.counts[Section::Additional as usize] += 1;
        }
        for (count, at) in self.counts.iter().zip((COUNTS..).step_by(2)) {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.out
    }
}

/// Bytes of the encoded record at the beginning of `records`: a pointer, ten bytes, and data.
fn record_length(records: &[u8]) -> usize {
    12 + usize::from(u16::from_be_bytes([records[10], records[11]]))
}
