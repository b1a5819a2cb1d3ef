//! Record sets as they go onto the wire, encoded once when a zone is loaded.
//!
//! An answer is mostly one record set behind the question. Encoding it per query, with a search for suffixes to compress,
//! costs more than everything else that a server does for it. So each set is encoded when it is read, names compressed
//! against its own owner, *as if its owner were the question's name*: then the answer to most queries is a copy.
//!
//! ```text
//! C0 0C │ type class TTL │ length │ data … C0 14 …      C0 0C: the question's name
//!                                         └ a pointer into it
//! ```
//!
//! Where the owner stands elsewhere in the message (the target of an alias, the apex behind a negative answer, a wildcard
//! behind the name that it stands for), the copy's pointers are moved: a pointer names a suffix of the owner, and a
//! [`Placement`] says where in this message each suffix of that name is. Only the types of RFC 1035 are compressed
//! (RFC 3597 section 4).

use super::name::{MAX_NAME, suffixes};
use domain::base::Rtype;

/// Where a message's question begins, RFC 1035 section 4.1.
pub(super) const QUESTION: u16 = 12;
/// Bytes of a record between its owner and its data: type, class, TTL, length.
const FIXED: usize = 10;
/// Bytes of a pointer.
const POINTER: usize = 2;
/// Longest encoded set: it must fit into a message over TCP beside the question and OPT.
pub(super) const MAX_SET: usize = 65_535 - 1_024;

/// A pointer to `position`, RFC 1035 section 4.1.4.
pub(super) fn pointer(position: u16) -> [u8; 2] {
    (0xc000 | position).to_be_bytes()
}

/// An encoded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetRef<'a> {
    /// Its type.
    pub rtype: Rtype,
    /// Its records, their owner a pointer to the question's name.
    pub(super) wire: &'a [u8],
    /// How many.
    pub(super) count: u16,
    /// Where in `wire` there are pointers within data.
    pub(super) pointers: &'a [u16],
    /// Length of the owner's name in wire format.
    pub(super) owner_length: u8,
    /// The RRSIG records that cover it, encoded likewise, without pointers within data.
    pub(super) signatures: &'a [u8],
    /// How many.
    pub(super) signature_count: u16,
}

impl<'a> SetRef<'a> {
    /// Each record's data, names within it still compressed.
    pub(super) fn encoded_data(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.wire;
        core::iter::from_fn(move || {
            let length = rest.get(POINTER + FIXED - 2..POINTER + FIXED)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let data = rest.get(POINTER + FIXED..POINTER + FIXED + length)?;
            rest = &rest[POINTER + FIXED + length..];
            Some(data)
        })
    }

    /// Time to live, in seconds.
    pub(super) fn ttl_s(self) -> u32 {
        self.wire.get(6..10).map_or(0, |ttl| u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]))
    }
}

/// Where a name stands in a message: a part of its own at `at`, the rest of it, if any, at `rest`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    /// Where it begins.
    pub(super) at: u16,
    /// How many of its bytes stand there.
    pub(super) prefix: u8,
    /// Where those behind them stand.
    pub(super) rest: u16,
    /// How many it has in all.
    pub(super) length: u8,
}

impl Placement {
    /// The question's name.
    pub(super) fn question(length: u8) -> Placement {
        Placement { at: QUESTION, prefix: length, rest: 0, length }
    }

    /// Where the name's suffix of this many bytes stands.
    pub(super) fn suffix(&self, length: u8) -> u16 {
        let skipped = self.length.saturating_sub(length);
        match skipped < self.prefix {
            true => self.at + u16::from(skipped),
            false => self.rest + u16::from(skipped - self.prefix),
        }
    }
}

/// Where in a type's data there are names that may be compressed: how many bytes before the first, how many names.
pub(super) fn compressible(rtype: Rtype) -> Option<(usize, usize)> {
    match rtype {
        Rtype::NS | Rtype::CNAME | Rtype::PTR | Rtype::MB | Rtype::MD | Rtype::MF | Rtype::MG | Rtype::MR => {
            Some((0, 1))
        }
        Rtype::SOA | Rtype::MINFO => Some((0, 2)),
        Rtype::MX => Some((2, 1)),
        _ => None,
    }
}

/// The name at the start of `data`, root label included; `None` where there is none whole and uncompressed.
pub(super) fn leading_name(data: &[u8]) -> Option<&[u8]> {
    let mut length = 0;
    loop {
        match *data.get(length)? {
            0 => return data.get(..=length).filter(|name| name.len() <= MAX_NAME),
            label @ 1..=63 => length += usize::from(label) + 1,
            _ => return None,
        }
    }
}

/// Appends one record, its owner a pointer to the question's name, and notes its pointers relative to `start`.
pub(super) fn encode_record(
    owner: &[u8],
    rtype: Rtype,
    ttl_s: u32,
    data: &[u8],
    start: usize,
    wire: &mut Vec<u8>,
    pointers: &mut Vec<u16>,
) {
    wire.extend_from_slice(&pointer(QUESTION));
    wire.extend_from_slice(&rtype.to_int().to_be_bytes());
    wire.extend_from_slice(&1u16.to_be_bytes());
    wire.extend_from_slice(&ttl_s.to_be_bytes());
    wire.extend_from_slice(&[0, 0]);
    let begin = wire.len();
    let mut rest = data;
    if let Some((before, names)) = compressible(rtype) {
        let (head, tail) = rest.split_at(before.min(rest.len()));
        wire.extend_from_slice(head);
        rest = tail;
        for _ in 0..names {
            let Some(name) = leading_name(rest) else { break };
            // A wildcard stands for other names: only what is above it is theirs as well.
            let kept = compress(name, owner.strip_prefix(b"\x01*").unwrap_or(owner));
            wire.extend_from_slice(&name[..kept]);
            if kept < name.len() {
                let skipped = owner.len() - (name.len() - kept);
                pointers.push((wire.len() - start) as u16);
                wire.extend_from_slice(&pointer(QUESTION + skipped as u16));
            }
            rest = &rest[name.len()..];
        }
    }
    wire.extend_from_slice(rest);
    let length = (wire.len() - begin) as u16;
    wire[begin - 2..begin].copy_from_slice(&length.to_be_bytes());
}

/// The data of a record, encoded by [`encode_record`], without pointers.
pub(super) fn expand(data: &[u8], rtype: Rtype, owner: &[u8]) -> Vec<u8> {
    let Some((before, names)) = compressible(rtype) else { return data.to_vec() };
    let (head, mut rest) = data.split_at(before.min(data.len()));
    let mut expanded = head.to_vec();
    for _ in 0..names {
        loop {
            match rest {
                [high, low, ..] if *high >= 0xc0 => {
                    let position = u16::from_be_bytes([high & 0x3f, *low]) - QUESTION;
                    expanded.extend_from_slice(&owner[usize::from(position)..]);
                    rest = &rest[POINTER..];
                    break;
                }
                [0, ..] => {
                    expanded.push(0);
                    rest = &rest[1..];
                    break;
                }
                [length, ..] => {
                    let (label, tail) = rest.split_at(usize::from(*length) + 1);
                    expanded.extend_from_slice(label);
                    rest = tail;
                }
                // Data of fewer names than its type has.
                [] => break,
            }
        }
    }
    expanded.extend_from_slice(rest);
    expanded
}

/// The one name of encoded data (NS, CNAME), in whatever case it was written, and its length.
pub(super) fn expand_name(data: &[u8], owner: &[u8]) -> Option<([u8; MAX_NAME], u8)> {
    let mut name = [0; MAX_NAME];
    let mut length = 0;
    let mut append = |part: &[u8]| {
        name.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
        Some(())
    };
    match data {
        [labels @ .., high, low] if *high >= 0xc0 => {
            let position = u16::from_be_bytes([high & 0x3f, *low]).checked_sub(QUESTION)?;
            append(labels)?;
            append(owner.get(usize::from(position)..)?)?;
        }
        _ => append(leading_name(data)?)?,
    }
    Some((name, length as u8))
}

/// How many bytes of `name` a pointer to a suffix of `other`, which is canonical, does not replace; all where they share
/// nothing but the root.
pub(super) fn compress(name: &[u8], other: &[u8]) -> usize {
    for suffix in suffixes(name) {
        if suffix.len() <= 1 {
            break;
        }
        if suffix.len() <= other.len() {
            let start = other.len() - suffix.len();
            // The same bytes may begin within a label: only a suffix counts.
            if other[start..].eq_ignore_ascii_case(suffix) && suffixes(other).any(|own| own.len() == suffix.len()) {
                return name.len() - suffix.len();
            }
        }
    }
    name.len()
}

/// A set that is owned, for answers that are not a zone's: a site's, a fallback's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedSet {
    rtype: Option<Rtype>,
    wire: Vec<u8>,
    count: u16,
    pointers: Vec<u16>,
    owner_length: u8,
    signatures: Vec<u8>,
    signature_count: u16,
}

impl OwnedSet {
    /// Encodes a set of one type. `owner` is canonical; a wildcard stands for whatever is asked.
    pub fn new<'d>(owner: &[u8], rtype: Rtype, ttl_s: u32, data: impl IntoIterator<Item = &'d [u8]>) -> Self {
        let mut set = OwnedSet { rtype: Some(rtype), owner_length: owner.len() as u8, ..OwnedSet::default() };
        for data in data {
            encode_record(owner, rtype, ttl_s, data, 0, &mut set.wire, &mut set.pointers);
            set.count += 1;
        }
        set
    }

    /// Adds an RRSIG record that covers it.
    pub(super) fn sign(&mut self, owner: &[u8], ttl_s: u32, data: &[u8]) {
        encode_record(owner, Rtype::RRSIG, ttl_s, data, 0, &mut self.signatures, &mut Vec::new());
        self.signature_count += 1;
    }

    /// The set, for writing.
    pub fn as_ref(&self) -> SetRef<'_> {
        SetRef {
            rtype: self.rtype.unwrap_or(Rtype::A),
            wire: &self.wire,
            count: self.count,
            pointers: &self.pointers,
            owner_length: self.owner_length,
            signatures: &self.signatures,
            signature_count: self.signature_count,
        }
    }
}
