//! Reading a query: what is silently ignored, what gets an error, what gets an answer.

use super::name::{MAX_NAME, canonical};
use domain::base::iana::{Class, Opcode, OptRcode, OptionCode};
use domain::base::opt::{OptRecord, UnknownOptData};
use domain::base::{Message, ParsedName, Question, Rtype};
use domain::dep::octseq;

/// EDNS of a query (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// What the sender can take, in bytes; values below 512 mean 512 (RFC 6891 section 6.2.3).
    pub udp_payload_size: u16,
    /// The DO bit, echoed (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether the server is asked for its identifier (RFC 5001).
    pub nsid: bool,
}

/// A well-formed query for one name, class IN.
pub struct Query<'a> {
    /// The message as it came.
    pub message: &'a Message<[u8]>,
    /// The question, its name in the case in which it came.
    pub question: Question<ParsedName<&'a [u8]>>,
    /// EDNS, where the query has it.
    pub edns: Option<Edns>,
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
    /// An answer.
    Query(Query<'a>),
}

impl<'a> Query<'a> {
    /// The name in canonical form.
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_length)]
    }

    /// The type asked for.
    pub fn rtype(&self) -> Rtype {
        self.question.qtype()
    }

    /// Reads a packet.
    pub fn parse(packet: &'a [u8]) -> Verdict<'a> {
        let Ok(message) = Message::from_slice(packet) else { return Verdict::Ignore };
        let header = message.header();
        if header.qr() {
            return Verdict::Ignore;
        }
        // RFC 1035 section 4.1.1: "4 Not Implemented - The name server does not support the requested kind of query."
        if header.opcode() != Opcode::QUERY {
            return Verdict::Error(OptRcode::NOTIMP);
        }
        Self::parse_body(packet, message).unwrap_or_else(Verdict::Error)
    }

    fn parse_body(packet: &'a [u8], message: &'a Message<[u8]>) -> Result<Verdict<'a>, OptRcode> {
        let counts = message.header_counts();
        if counts.qdcount() != 1 || counts.ancount() != 0 || counts.nscount() != 0 || message.header().tc() {
            return Err(OptRcode::FORMERR);
        }
        let message_ref = Message::from_octets(packet).map_err(|_| OptRcode::FORMERR)?;
        let question = sole_question(&message_ref)?;
        let edns = edns(&message_ref)?;
        if question.qclass() != Class::IN {
            return Err(OptRcode::REFUSED);
        }
        let (name, length) = canonical(question.qname());
        Ok(Verdict::Query(Query { message, question, edns, name, name_length: length as u8 }))
    }
}

/// The one question; its name has nothing to be compressed against.
fn sole_question<'a>(message: &Message<&'a [u8]>) -> Result<Question<ParsedName<&'a [u8]>>, OptRcode> {
    let mut parser = octseq::parse::Parser::from_ref(*message.as_octets());
    parser.advance(12).map_err(|_| OptRcode::FORMERR)?;
    let question = Question::parse(&mut parser).map_err(|_| OptRcode::FORMERR)?;
    match question.qname().is_compressed() {
        true => Err(OptRcode::FORMERR),
        false => Ok(question),
    }
}

/// The OPT record. RFC 6891 section 6.1.1: "If a query message with more than one OPT RR is received, a FORMERR
/// (RCODE=1) MUST be returned."
fn edns(message: &Message<&[u8]>) -> Result<Option<Edns>, OptRcode> {
    let mut found: Option<Edns> = None;
    for record in message.additional().map_err(|_| OptRcode::FORMERR)? {
        let record = record.map_err(|_| OptRcode::FORMERR)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        if found.is_some() {
            return Err(OptRcode::FORMERR);
        }
        let record = record.to_record().map_err(|_| OptRcode::FORMERR)?.ok_or(OptRcode::FORMERR)?;
        let opt = OptRecord::from_record(record);
        // RFC 6891 section 6.1.3: BADVERS for a version above the responder's.
        if opt.version() != 0 {
            return Err(OptRcode::BADVERS);
        }
        let mut nsid = false;
        for option in opt.opt().iter::<UnknownOptData<_>>() {
            nsid |= option.map_err(|_| OptRcode::FORMERR)?.code() == OptionCode::NSID;
        }
        found = Some(Edns { udp_payload_size: opt.udp_payload_size().max(512), dnssec_ok: opt.dnssec_ok(), nsid });
    }
    Ok(found)
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
        assert_eq!(query.question.qname().to_string(), "WwW.CDN.test");
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
        let mut chaos = query_bytes("a.test", Rtype::A, None);
        let class = chaos.len() - 1;
        chaos[class] = 3;
        assert_eq!(error_of(&chaos), Some(OptRcode::REFUSED));
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
