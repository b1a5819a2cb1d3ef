//! Reading a query: what is silently ignored, what gets an error, what gets an answer.
//!
//! Nearly every query is a header, a question and at most one OPT record. These are read by hand: the name is folded to lower
//! case while it is walked, which is all of the work there is. Whatever else follows the question is walked by the `domain`
//! crate. (By that crate alone, reading took more time than everything else that is done for a plain answer.)

use super::name::MAX_NAME;
use domain::base::iana::{Class, Opcode, OptRcode, OptionCode};
use domain::base::{Message, Rtype};

/// Bytes of a header, RFC 1035 section 4.1.1.
const HEADER: usize = 12;
/// Bytes of an OPT record before its options: root, type, payload size, code and flags, length.
const OPT_FIXED: usize = 11;
/// Longest client subnet option that is read: family, two lengths, 16 bytes of address.
const MAX_SUBNET: usize = 20;

/// EDNS of a query (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns<'a> {
    /// What the sender can take, in bytes; values below 512 mean 512 (RFC 6891 section 6.2.3).
    pub udp_payload_size: u16,
    /// The DO bit, echoed (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether the server is asked for its identifier (RFC 5001).
    pub nsid: bool,
    /// The COOKIE option (RFC 7873): 8 bytes of the client's, then none or 8 to 32 of the server's.
    pub cookie: Option<&'a [u8]>,
    /// The client subnet option (RFC 7871 section 6): family, source and scope prefix lengths, address.
    pub subnet: Option<&'a [u8]>,
    /// Whether edns-tcp-keepalive was sent (RFC 7828); only over TCP does it mean anything.
    pub keepalive: bool,
}

/// A well-formed query for one name.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// The message as it came.
    packet: &'a [u8],
    /// EDNS, where the query has it.
    pub edns: Option<Edns<'a>>,
    rtype: Rtype,
    class: Class,
    /// Whether its last record is a signature (TSIG).
    is_signed: bool,
    /// The name in canonical form; at most 255 bytes.
    name: [u8; MAX_NAME],
    name_length: u8,
}

/// What a packet deserves.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack for one packet; a box would be an allocation per query"
)]
pub enum Verdict<'a> {
    /// Silence: a response, or too short to answer. Two servers answering each other's answers would never end
    /// (RFC 8906 section 4 forbids no other silence).
    Ignore,
    /// An error with this code: header, the question where it could be read, and OPT for a code that needs one.
    Error(OptRcode),
    /// Word that a zone has changed (RFC 1996): [`transfer`](crate::master::transfer) answers it.
    Notify,
    /// A server cookie: nothing else is asked for (RFC 7873 section 5.4).
    Cookie(Edns<'a>),
    /// An answer.
    Query(Query<'a>),
}

impl<'a> Query<'a> {
    /// The message as it came.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The message's id.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.packet[0], self.packet[1]])
    }

    /// The name in canonical form.
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_length)]
    }

    /// The type asked for.
    pub fn rtype(&self) -> Rtype {
        self.rtype
    }

    /// The class asked for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether it is about a transfer, or carries a signature of the kind that transfers do: [`transfer`](crate::master::transfer)
    /// answers it.
    pub fn is_of_transfer(&self) -> bool {
        self.is_signed || matches!(self.rtype, Rtype::AXFR | Rtype::IXFR)
    }

    /// Header and question as they came: an answer begins like that, the name in the case in which it was asked.
    pub(crate) fn head(&self) -> &'a [u8] {
        &self.packet[..HEADER + usize::from(self.name_length) + 4]
    }

    /// Reads a packet.
    pub fn parse(packet: &'a [u8]) -> Verdict<'a> {
        let Some(header) = packet.first_chunk::<HEADER>() else { return Verdict::Ignore };
        let [_, _, flags, _, counts @ ..] = header;
        if flags & 0x80 != 0 {
            return Verdict::Ignore;
        }
        // RFC 1035 section 4.1.1: "4 Not Implemented - The name server does not support the requested kind of query."
        match Opcode::from_int(flags >> 3 & 0xf) {
            Opcode::QUERY => {}
            Opcode::NOTIFY => return Verdict::Notify,
            _ => return Verdict::Error(OptRcode::NOTIMP),
        }
        let count = |place: usize| u16::from_be_bytes([counts[2 * place], counts[2 * place + 1]]);
        // One question, and nothing in the sections of an answer; or none, and a cookie.
        match [count(0), count(1), count(2), count(3)] {
            [1, 0, authority @ 0..=1, additional] => {
                Self::parse_body(packet, authority, additional).map_or_else(Verdict::Error, Verdict::Query)
            }
            [0, 0, 0, 1] => match Edns::parse(&packet[HEADER..]) {
                Ok((edns, _)) if edns.cookie.is_some() => Verdict::Cookie(edns),
                Ok(_) => Verdict::Error(OptRcode::FORMERR),
                Err(code) => Verdict::Error(code),
            },
            _ => Verdict::Error(OptRcode::FORMERR),
        }
    }

    fn parse_body(packet: &'a [u8], authority: u16, additional: u16) -> Result<Self, OptRcode> {
        let mut name = [0; MAX_NAME];
        let length = fold_name(&packet[HEADER..], &mut name).ok_or(OptRcode::FORMERR)?;
        let rest = &packet[HEADER + length..];
        let (question, rest) = rest.split_first_chunk::<4>().ok_or(OptRcode::FORMERR)?;
        let rtype = Rtype::from_int(u16::from_be_bytes([question[0], question[1]]));
        let class = Class::from_int(u16::from_be_bytes([question[2], question[3]]));
        // RFC 1995 section 3: the SOA record of the version that the client has.
        if authority != 0 && rtype != Rtype::IXFR {
            return Err(OptRcode::FORMERR);
        }
        let (edns, is_signed) = match (additional, rest) {
            (0, _) => (None, false),
            _ if authority != 0 => other_additional(packet, additional)?,
            // The root's name, type 41: what nearly all have, and nothing else.
            (1, [0, 0, 41, ..]) => (Some(Edns::parse(rest)?.0), false),
            _ => other_additional(packet, additional)?,
        };
        Ok(Query { packet, edns, rtype, class, is_signed, name, name_length: length as u8 })
    }
}

/// Copies an uncompressed name in lower case; its length, or `None` where it is no whole name: a question's name has
/// nothing to be compressed against.
fn fold_name(bytes: &[u8], name: &mut [u8; MAX_NAME]) -> Option<usize> {
    let mut length = 0;
    loop {
        let label = *bytes.get(length)?;
        *name.get_mut(length)? = label;
        length += 1;
        match label {
            0 => return Some(length),
            1..=63 => {
                let end = length + usize::from(label);
                for (to, from) in name.get_mut(length..end)?.iter_mut().zip(bytes.get(length..end)?) {
                    *to = from.to_ascii_lowercase();
                }
                length = end;
            }
            _ => return None,
        }
    }
}

impl<'a> Edns<'a> {
    /// Reads an OPT record at the beginning of `bytes`, and says how long it is.
    fn parse(bytes: &'a [u8]) -> Result<(Self, usize), OptRcode> {
        let (fixed, rest) = bytes.split_first_chunk::<OPT_FIXED>().ok_or(OptRcode::FORMERR)?;
        if !begins_with_opt(fixed) {
            return Err(OptRcode::FORMERR);
        }
        let &[_, _, _, size_high, size_low, _, version, flags, _, length_high, length_low] = fixed;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let mut options = rest.get(..length).ok_or(OptRcode::FORMERR)?;
        // RFC 6891 section 6.1.3: BADVERS for a version above the responder's.
        if version != 0 {
            return Err(OptRcode::BADVERS);
        }
        let mut edns = Edns {
            udp_payload_size: u16::from_be_bytes([size_high, size_low]).max(512),
            dnssec_ok: flags & 0x80 != 0,
            nsid: false,
            cookie: None,
            subnet: None,
            keepalive: false,
        };
        while !options.is_empty() {
            let &[code_high, code_low, length_high, length_low, ref rest @ ..] = options else {
                return Err(OptRcode::FORMERR);
            };
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            let (data, rest) = rest.split_at_checked(length).ok_or(OptRcode::FORMERR)?;
            edns.take(OptionCode::from_int(u16::from_be_bytes([code_high, code_low])), data)?;
            options = rest;
        }
        Ok((edns, OPT_FIXED + length))
    }

    /// Takes one option; what is not known is skipped (RFC 6891 section 6.1.2).
    fn take(&mut self, code: OptionCode, data: &'a [u8]) -> Result<(), OptRcode> {
        match code {
            OptionCode::NSID => self.nsid = true,
            // RFC 7873 section 5.2.2: "If the COOKIE option is too short to contain a Client Cookie, then FORMERR is
            // generated", and so is it for a server cookie of less than 8 or more than 32 bytes. Of several, the first
            // counts (section 5.2).
            OptionCode::COOKIE => match data.len() {
                8 | 16..=40 => self.cookie = self.cookie.or(Some(data)),
                _ => return Err(OptRcode::FORMERR),
            },
            OptionCode::CLIENT_SUBNET => {
                if !is_subnet(data) {
                    return Err(OptRcode::FORMERR);
                }
                self.subnet = Some(data);
            }
            OptionCode::TCP_KEEPALIVE => self.keepalive = true,
            _ => {}
        }
        Ok(())
    }
}

/// Whether these bytes begin with the fixed part of an OPT record: the root's name, type 41, and what follows.
fn begins_with_opt(bytes: &[u8]) -> bool {
    bytes.len() >= OPT_FIXED && bytes.starts_with(&[0, 0, 41])
}

/// Of a packet that is no well-formed query: its question, where that is whole, and whether an OPT record follows.
pub(super) fn readable(packet: &[u8]) -> (Option<&[u8]>, bool) {
    let mut name = [0; MAX_NAME];
    let body = packet.get(HEADER..).unwrap_or(&[]);
    let has_one = packet.get(4..10) == Some([0, 1, 0, 0, 0, 0].as_slice());
    let length = fold_name(body, &mut name).filter(|_| has_one).map(|length| length + 4);
    let question = length.and_then(|length| body.get(..length));
    let behind = question.and_then(|question| body.get(question.len()..));
    (question, behind.is_some_and(begins_with_opt))
}

/// RFC 7871 section 6 and 7.1.2: the address has as many bytes as its prefix needs, no bit beyond the prefix is set, and the
/// scope of a query is 0.
fn is_subnet(data: &[u8]) -> bool {
    let &[family_high, family_low, source, scope, ref address @ ..] = data else { return false };
    let most = match u16::from_be_bytes([family_high, family_low]) {
        1 => 32,
        2 => 128,
        _ => return false,
    };
    let beyond = source % 8;
    let is_clean = beyond == 0 || address.last().is_some_and(|last| last & (0xff >> beyond) == 0);
    data.len() <= MAX_SUBNET
        && source <= most
        && scope == 0
        && address.len() == usize::from(source).div_ceil(8)
        && is_clean
}

/// The OPT record among several additional records. RFC 6891 section 6.1.1: "If a query message with more than one OPT RR is
/// received, a FORMERR (RCODE=1) MUST be returned." As many records as the header says must be there. Says as well whether
/// one is a signature.
fn other_additional(packet: &[u8], count: u16) -> Result<(Option<Edns<'_>>, bool), OptRcode> {
    let message = Message::from_octets(packet).map_err(|_| OptRcode::FORMERR)?;
    let (mut found, mut is_signed) = (None, false);
    let mut records = 0;
    let mut section = message.additional().map_err(|_| OptRcode::FORMERR)?;
    loop {
        let start = section.pos();
        let Some(record) = section.next() else { break };
        let record = record.map_err(|_| OptRcode::FORMERR)?;
        records += 1;
        is_signed |= record.rtype() == Rtype::TSIG;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        // RFC 6891 section 6.1.2: its name "MUST be 0 (root domain)".
        let bytes = packet.get(start..).filter(|bytes| bytes.first() == Some(&0)).ok_or(OptRcode::FORMERR)?;
        if found.replace(Edns::parse(bytes)?.0).is_some() {
            return Err(OptRcode::FORMERR);
        }
    }
    if records == count { Ok((found, is_signed)) } else { Err(OptRcode::FORMERR) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::answer::tests::query_bytes;

    fn error_of(packet: &[u8]) -> Option<OptRcode> {
        match Query::parse(packet) {
            Verdict::Error(code) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn a_query_is_read_with_its_case_kept_and_its_key_in_lower_case() {
        let packet = query_bytes("WwW.CDN.test", Rtype::A, Some(1232));
        let Verdict::Query(query) = Query::parse(&packet) else { panic!("refused") };
        assert_eq!(&query.head()[12..], b"\x03WwW\x03CDN\x04test\x00\x00\x01\x00\x01");
        assert_eq!(query.name(), b"\x03www\x03cdn\x04test\x00");
        assert_eq!(query.rtype(), Rtype::A);
        let edns = query.edns.expect("has EDNS");
        assert_eq!((edns.udp_payload_size, edns.nsid), (1232, true));
    }

    #[test]
    fn responses_and_scraps_get_silence() {
        let mut packet = query_bytes("a.test", Rtype::A, None);
        packet[2] |= 0x80;
        assert!(matches!(Query::parse(&packet), Verdict::Ignore));
        for length in 0..12 {
            assert!(matches!(Query::parse(&packet[..length]), Verdict::Ignore), "{length} bytes");
        }
    }

    /// A query with one EDNS option.
    fn with_option(code: u16, data: &[u8]) -> Vec<u8> {
        let mut packet = query_bytes("a.test", Rtype::A, None);
        packet[11] = 1;
        let length = (data.len() as u16 + 4).to_be_bytes();
        packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, length[0], length[1]]);
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
        packet.extend_from_slice(data);
        packet
    }

    #[test]
    fn options_are_read_and_faulty_ones_refused() {
        let cookie = [7; 24];
        let packet = with_option(10, &cookie);
        let Verdict::Query(query) = Query::parse(&packet) else { panic!("refused") };
        let edns = query.edns.expect("has EDNS");
        assert_eq!((edns.cookie, edns.dnssec_ok, edns.nsid), (Some(cookie.as_slice()), true, false));
        for length in [0, 7, 9, 15, 41] {
            assert_eq!(error_of(&with_option(10, &[7; 41][..length])), Some(OptRcode::FORMERR), "{length} bytes");
        }
        let subnets: [(&[u8], bool); 8] = [
            (&[0, 1, 24, 0, 192, 0, 2], true),
            (&[0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0], true),
            (&[0, 1, 0, 0], true),
            (&[0, 1, 24, 1, 192, 0, 2], false),
            (&[0, 1, 24, 0, 192, 0], false),
            (&[0, 1, 23, 0, 192, 0, 3], false),
            (&[0, 1, 33, 0, 192, 0, 2, 1, 0], false),
            (&[0, 3, 8, 0, 1], false),
        ];
        for (data, sound) in subnets {
            assert_eq!(error_of(&with_option(8, data)).is_none(), sound, "{data:?}");
        }
        assert_eq!(error_of(&with_option(65_001, &[1])), None, "what is not known is skipped");
        let mut short = with_option(65_001, &[1]);
        short.pop();
        assert_eq!(error_of(&short), Some(OptRcode::FORMERR));
    }

    #[test]
    fn opt_is_found_among_other_records_and_only_one_is_taken() {
        let mut packet = query_bytes("a.test", Rtype::A, None);
        let other = [1, b'x', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 1, 5];
        packet.extend_from_slice(&other);
        packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
        packet[11] = 2;
        let Verdict::Query(query) = Query::parse(&packet) else { panic!("refused") };
        assert!(query.edns.expect("has EDNS").dnssec_ok);
        packet[11] = 3;
        assert_eq!(error_of(&packet), Some(OptRcode::FORMERR), "a record less than the header says");
    }

    #[test]
    fn malformed_queries_get_formerr_and_nothing_panics() {
        let packet = query_bytes("a.test", Rtype::A, Some(1232));
        for length in 12..packet.len() {
            assert_eq!(error_of(&packet[..length]), Some(OptRcode::FORMERR), "{length} bytes");
        }
        let mut two_questions = packet.clone();
        two_questions[5] = 2;
        assert_eq!(error_of(&two_questions), Some(OptRcode::FORMERR));
        let mut with_answer = packet.clone();
        with_answer[7] = 1;
        assert_eq!(error_of(&with_answer), Some(OptRcode::FORMERR));
        let mut looping = packet[..12].to_vec();
        looping.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(error_of(&looping), Some(OptRcode::FORMERR));
    }

    #[test]
    fn other_opcodes_classes_and_versions_are_refused_by_their_own_codes() {
        let packet = query_bytes("a.test", Rtype::A, Some(1232));
        let mut update = packet.clone();
        update[2] = 5 << 3;
        assert_eq!(error_of(&update), Some(OptRcode::NOTIMP));
        let mut version_one = packet.clone();
        let opt = packet.len() - 15;
        assert_eq!(version_one[opt], 0, "the OPT record's root owner");
        version_one[opt + 6] = 1;
        assert_eq!(error_of(&version_one), Some(OptRcode::BADVERS));
        let mut two_opts = packet.clone();
        two_opts.extend_from_slice(&packet[opt..]);
        two_opts[11] = 2;
        assert_eq!(error_of(&two_opts), Some(OptRcode::FORMERR));
    }
}
