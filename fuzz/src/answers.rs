//! What must hold for every answer to a query.

use domain::base::iana::Opcode;
use domain::base::{Message, Rtype};
use domain::rdata::AllRecordData;
use startgun_core::dns::{MAX_ANSWER, Query};

/// Bytes of a header.
const HEADER: usize = 12;

/// Most bytes of an answer over UDP: what the client can take, but no more than fits every path.
pub fn udp_limit(query: &Query<'_>) -> usize {
    query.edns.map_or(512, |edns| usize::from(edns.udp_payload_size).clamp(512, MAX_ANSWER))
}

/// An answer echoes the query's id and question, says nothing of EDNS to who did not, fits, and can be read to its last byte.
///
/// # Panics
/// Where it does not.
pub fn check(query: &Query<'_>, answer: &[u8], limit: usize) {
    check_head(query.packet(), answer, limit);
    let has_opt = read(answer).contains(&Rtype::OPT);
    let question = HEADER..HEADER + query.name().len() + 4;
    assert_eq!(answer[4..6], [0, 1], "one question");
    assert_eq!(answer[question.clone()], query.packet()[question], "the question as it came, case and all");
    assert_eq!(has_opt, query.edns.is_some(), "OPT for whoever sent one (RFC 6891 section 7), and for nobody else");
}

/// The part of [`check`] that holds for errors to what is no query as well, and for answers whose records others vouch for.
///
/// # Panics
/// Where it does not.
pub fn check_head(packet: &[u8], answer: &[u8], limit: usize) {
    assert!(answer.len() <= limit, "{} bytes, at most {limit}", answer.len());
    assert!(answer.len() >= HEADER, "{} bytes", answer.len());
    assert_eq!(answer[..2], packet[..2], "the id");
    assert_ne!(answer[2] & 0x80, 0, "QR");
    assert_eq!(answer[2] & 0x79, packet[2] & 0x79, "opcode and RD as they came");
}

/// Reads a message to its end, every record by its type; the records' types.
///
/// # Panics
/// Where it cannot be read, or something beside OPT is left in a truncated one.
pub fn read(answer: &[u8]) -> Vec<Rtype> {
    let message = Message::from_octets(answer).expect("a header");
    let mut types = Vec::new();
    let mut sections = 0;
    let mut section = message.answer().expect("a question");
    loop {
        for record in section.by_ref() {
            let record = record.expect("a record");
            let rtype = record.rtype();
            let read = record.to_record::<AllRecordData<_, _>>();
            assert!(matches!(read, Ok(Some(_))), "{rtype}: {read:?}");
            types.push(rtype);
        }
        sections += 1;
        let end = section.pos();
        match section.next_section().expect("records that can be walked") {
            Some(next) => section = next,
            None => {
                assert_eq!((sections, end), (3, answer.len()), "three sections, and nothing behind them");
                break;
            }
        }
    }
    let header = message.header();
    if header.tc() && header.opcode() == Opcode::QUERY {
        assert!(types.iter().all(|rtype| *rtype == Rtype::OPT), "nothing to take for the whole beside TC: {types:?}");
    }
    types
}
