//! Reading messages record by record, names expanded: what signatures and transfers need, and queries do not.
//!
//! Everything here comes from a peer. A name's pointers must lead backwards, so reading one ends; nothing is allocated but
//! what is handed out.

use super::name::MAX_NAME;
use domain::base::Rtype;

/// Bytes of a header, RFC 1035 section 4.1.1.
pub(super) const HEADER: usize = 12;

/// The message is no message: what is counted is not there, or a name or a record's data is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A name in wire format, in the case in which it was written.
#[derive(Clone, Copy)]
pub(super) struct WireName {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl WireName {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads a name at `at`; where what follows it begins.
    pub(super) fn read(message: &[u8], at: usize) -> Result<(WireName, usize), Malformed> {
        let mut name = WireName { bytes: [0; MAX_NAME], length: 0 };
        let (mut at, mut behind, mut length) = (at, None, 0usize);
        loop {
            let label = *message.get(at).ok_or(Malformed)?;
            match label {
                0..=63 => {
                    let part = message.get(at..=at + usize::from(label)).ok_or(Malformed)?;
                    name.bytes.get_mut(length..length + part.len()).ok_or(Malformed)?.copy_from_slice(part);
                    length += part.len();
                    at += part.len();
                    if label == 0 {
                        name.length = length as u8;
                        return Ok((name, behind.unwrap_or(at)));
                    }
                }
                0xc0.. => {
                    let low = *message.get(at + 1).ok_or(Malformed)?;
                    let target = usize::from(u16::from_be_bytes([label & 0x3f, low]));
                    behind = behind.or(Some(at + 2));
                    // RFC 1035 section 4.1.4: "a prior occurance of the same name". Backwards only, so it ends.
                    at = Some(target).filter(|target| *target < at).ok_or(Malformed)?;
                }
                _ => return Err(Malformed),
            }
        }
    }
}

/// The counts of a header: questions, answers, authority, additional.
pub(super) fn counts(message: &[u8]) -> Result<[u16; 4], Malformed> {
    let header = message.first_chunk::<HEADER>().ok_or(Malformed)?;
    Ok([4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]])))
}

/// A question.
pub(super) struct Question {
    pub(super) name: WireName,
    pub(super) rtype: Rtype,
}

/// A record; its data as it stands in the message.
pub(super) struct RawRecord {
    /// Where it begins.
    pub(super) start: usize,
    pub(super) owner: WireName,
    pub(super) rtype: Rtype,
    pub(super) class: u16,
    pub(super) ttl_s: u32,
    /// Where its data begins and ends.
    pub(super) data: (usize, usize),
}

/// Walks a message from its first question on.
pub(super) struct Walk<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Walk<'m> {
    pub(super) fn new(message: &'m [u8]) -> Self {
        Walk { message, at: HEADER }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.message.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Malformed)?;
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn question(&mut self) -> Result<Question, Malformed> {
        let (name, at) = WireName::read(self.message, self.at)?;
        self.at = at;
        let [high, low, _, _] = self.take::<4>()?;
        Ok(Question { name, rtype: Rtype::from_int(u16::from_be_bytes([high, low])) })
    }

    pub(super) fn record(&mut self) -> Result<RawRecord, Malformed> {
        let start = self.at;
        let (owner, at) = WireName::read(self.message, self.at)?;
        self.at = at;
        let [t0, t1, c0, c1] = self.take::<4>()?;
        let ttl_s = u32::from_be_bytes(self.take::<4>()?);
        let length = usize::from(u16::from_be_bytes(self.take::<2>()?));
        let data = (self.at, self.at + length);
        if data.1 > self.message.len() {
            return Err(Malformed);
        }
        self.at = data.1;
        let (rtype, class) = (Rtype::from_int(u16::from_be_bytes([t0, t1])), u16::from_be_bytes([c0, c1]));
        Ok(RawRecord { start, owner, rtype, class, ttl_s, data })
    }

    /// Where what comes next begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether everything was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }
}

/// What stands in a type's data before, between and behind the names that some sender may have compressed.
#[derive(Clone, Copy)]
enum Part {
    /// So many bytes.
    Bytes(usize),
    /// So many character strings.
    Strings(usize),
    Name,
    /// Whatever is left.
    Rest,
}

/// The data of types in which names may be compressed: those of RFC 1035, and those that RFC 3597 section 4 tells receivers
/// to expand as well.
fn layout(rtype: Rtype) -> &'static [Part] {
    use Part::{Bytes, Name, Rest, Strings};
    match rtype.to_int() {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR, NSAP-PTR, DNAME.
        2..=5 | 7..=9 | 12 | 23 | 39 => &[Name],
        // SOA.
        6 => &[Name, Name, Bytes(20)],
        // MINFO, RP.
        14 | 17 => &[Name, Name],
        // MX, AFSDB, RT, KX.
        15 | 18 | 21 | 36 => &[Bytes(2), Name],
        // SIG.
        24 => &[Bytes(18), Name, Rest],
        // PX.
        26 => &[Bytes(2), Name, Name],
        // NXT.
        30 => &[Name, Rest],
        // SRV.
        33 => &[Bytes(6), Name],
        // NAPTR.
        35 => &[Bytes(4), Strings(3), Name],
        _ => &[Rest],
    }
}

/// The data of a record, its names uncompressed.
pub(super) fn expanded_data(message: &[u8], record: &RawRecord) -> Result<Box<[u8]>, Malformed> {
    let (mut at, end) = record.data;
    // Pointers lead backwards, and nothing is read beyond the record.
    let message = message.get(..end).ok_or(Malformed)?;
    let mut data = Vec::with_capacity(end - at);
    for part in layout(record.rtype) {
        let copied = match *part {
            Part::Name => {
                let (name, behind) = WireName::read(message, at)?;
                data.extend_from_slice(name.as_bytes());
                at = behind;
                continue;
            }
            Part::Bytes(count) => count,
            Part::Strings(count) => {
                let mut length = 0;
                for _ in 0..count {
                    length += 1 + usize::from(*message.get(at + length).ok_or(Malformed)?);
                }
                length
            }
            Part::Rest => end - at,
        };
        data.extend_from_slice(message.get(at..at + copied).ok_or(Malformed)?);
        at += copied;
    }
    if at == end { Ok(data.into()) } else { Err(Malformed) }
}
