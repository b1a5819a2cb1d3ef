//! Answers are checked by reading them back with the wire-format crate, not with our own code.

use super::*;
use crate::dns::query::Verdict;
use crate::dns::site::Answers;
use crate::dns::zone::tests::zones;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A query as a resolver would send it; with EDNS it asks for the server's identifier too.
pub(crate) fn query_bytes(name: &str, rtype: Rtype, edns_size: Option<u16>) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    question.header_mut().set_id(0x1234);
    question.header_mut().set_rd(true);
    question.push((Name::<Vec<u8>>::from_str(name).expect("a name"), rtype)).expect("room");
    let mut additional = question.additional();
    if let Some(size) = edns_size {
        let option = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            opt.client_nsid()
        };
        additional.opt(option).expect("room");
    }
    additional.finish()
}

fn with_query<R>(packet: &[u8], run: impl FnOnce(&Query<'_>) -> R) -> R {
    match Query::parse(packet) {
        Verdict::Query(query) => run(&query),
        _ => panic!("not a query"),
    }
}

fn central(name: &str, rtype: Rtype, edns_size: Option<u16>) -> Message<Vec<u8>> {
    let zones = zones();
    let packet = query_bytes(name, rtype, edns_size);
    let bytes = with_query(&packet, |query| {
        let lookup = zones.lookup(query.name(), rtype);
        Response::new(query, Transport::Udp, "m1").central(&zones, lookup, Vec::new())
    });
    Message::from_octets(bytes).expect("a message")
}

fn section(message: &Message<Vec<u8>>) -> Vec<String> {
    let answer = message.answer().expect("a section");
    answer
        .limit_to::<AllRecordData<_, _>>()
        .map(|record| record.expect("a record"))
        .map(|record| format!("{} {} {}", record.owner(), record.ttl().as_secs(), record.data()))
        .collect()
}

fn site(a: Vec<Ipv4Addr>) -> PreparedAnswers {
    let answers = Answers { a, ..Answers::default() };
    answers.prepare(&"www.cdn.test".parse().expect("a name"), 30, &[]).expect("names")
}

#[test]
fn a_site_answers_with_id_question_case_and_identifier_echoed() {
    let packet = query_bytes("wWw.CdN.tEsT", Rtype::A, Some(1232));
    let answers = site(vec![Ipv4Addr::new(192, 0, 2, 7)]);
    let bytes = with_query(&packet, |query| {
        Response::new(query, Transport::Udp, "tokyo").site(&answers, &Proven::default(), Vec::new())
    });
    let message = Message::from_octets(bytes).expect("a message");
    assert_eq!(message.header().id(), 0x1234);
    assert!(message.header().aa() && message.header().qr() && message.header().rd());
    assert_eq!(message.as_slice()[12..26], packet[12..26], "the question's bytes as they came");
    assert_eq!(section(&message), ["wWw.CdN.tEsT 30 192.0.2.7"]);
    let opt = message.opt().expect("an OPT record");
    assert_eq!(opt.opt().nsid().expect("an identifier").as_slice(), b"tokyo");
    assert_eq!(opt.udp_payload_size(), 1232);
}

#[test]
fn a_query_without_edns_gets_an_answer_without() {
    assert!(central("ns.cdn.test", Rtype::A, None).opt().is_none());
}

#[test]
fn negative_answers_carry_the_soa_with_its_minimum_as_ttl() {
    for (name, code) in [("x.deep.cdn.test", Rcode::NXDOMAIN), ("deep.cdn.test", Rcode::NOERROR)] {
        let message = central(name, Rtype::A, Some(1232));
        assert_eq!(message.header().rcode(), code);
        assert!(section(&message).is_empty());
        let authority = message.authority().expect("a section");
        let soa = authority.limit_to::<AllRecordData<_, _>>().next().expect("one").expect("a record");
        assert_eq!((soa.rtype(), soa.ttl().as_secs()), (Rtype::SOA, 60));
    }
}

#[test]
fn aliases_are_followed_within_the_zones() {
    let message = central("alias.cdn.test", Rtype::A, None);
    assert_eq!(section(&message), ["alias.cdn.test 300 ns.cdn.test.", "ns.cdn.test 300 198.51.100.53"]);
}

#[test]
fn a_referral_is_not_authoritative_and_brings_glue() {
    let message = central("x.child.cdn.test", Rtype::A, Some(1232));
    assert!(!message.header().aa());
    assert_eq!(message.header_counts().nscount(), 1);
    assert_eq!(message.header_counts().arcount(), 2, "one address and OPT");
}

#[test]
fn a_foreign_name_is_refused() {
    assert_eq!(central("example.org", Rtype::A, None).header().rcode(), Rcode::REFUSED);
}

#[test]
fn a_truncated_answer_is_no_longer_than_its_query() {
    for size in [None, Some(512), Some(1232)] {
        let packet = query_bytes("www.cdn.test", Rtype::A, size);
        let bytes = with_query(&packet, |query| {
            Response::new(query, Transport::Udp, "a-master-with-a-long-name").truncated(Vec::new())
        });
        assert!(bytes.len() <= packet.len(), "{} > {}", bytes.len(), packet.len());
        let message = Message::from_octets(bytes).expect("a message");
        assert!(message.header().tc());
        assert_eq!((message.header_counts().qdcount(), message.header_counts().ancount()), (1, 0));
    }
}

#[test]
fn an_answer_that_does_not_fit_is_emptied_and_marked() {
    let answers = site((0..100).map(|i| Ipv4Addr::new(192, 0, 2, i)).collect());
    for (size, transport, fits) in [
        (None, Transport::Udp, false),
        (Some(4096), Transport::Udp, false),
        (None, Transport::Tcp { keepalive: None }, true),
    ] {
        let packet = query_bytes("www.cdn.test", Rtype::A, size);
        let bytes = with_query(&packet, |query| {
            Response::new(query, transport, "m1").site(&answers, &Proven::default(), Vec::new())
        });
        let message = Message::from_octets(bytes).expect("a message");
        assert_eq!(message.header().tc(), !fits);
        assert_eq!(message.header_counts().ancount(), if fits { 100 } else { 0 });
        assert_eq!(message.opt().is_some(), size.is_some());
    }
}

#[test]
fn errors_echo_the_id_and_badvers_brings_its_opt() {
    let packet = query_bytes("www.cdn.test", Rtype::A, None);
    let bytes = error(&packet, OptRcode::FORMERR, Vec::new());
    assert_eq!(bytes.len(), packet.len(), "header and question");
    let message = Message::from_octets(bytes).expect("a message");
    assert_eq!(
        (message.header().id(), message.header().rcode(), message.header().qr()),
        (0x1234, Rcode::FORMERR, true)
    );
    let message = Message::from_octets(error(&packet, OptRcode::BADVERS, Vec::new())).expect("a message");
    let opt = message.opt().expect("an OPT record");
    assert_eq!(opt.rcode(message.header()), OptRcode::BADVERS);
}

/// Zones for the ways of aliases: `one.test.` and `two.test.`.
fn alias_zones() -> ZoneSet {
    use crate::dns::zone::tests::record;
    let soa = |apex: &str| record(apex, Rtype::SOA, &[b"\0\0".as_slice(), &[0; 20]].concat());
    let one = vec![
        soa("one.test"),
        record("loop.one.test", Rtype::DNAME, b"\x04deep\x04loop\x03one\x04test\x00"),
        record("there.one.test", Rtype::DNAME, b"\x03two\x04test\x00"),
        record("a.one.test", Rtype::CNAME, b"\x01b\x03one\x04test\x00"),
        record("b.one.test", Rtype::CNAME, b"\x01a\x03one\x04test\x00"),
        record("*.wild.one.test", Rtype::CNAME, b"\x01h\x03two\x04test\x00"),
        record("gone.one.test", Rtype::CNAME, b"\x07nowhere\x03two\x04test\x00"),
        record("out.one.test", Rtype::CNAME, b"\x07example\x03org\x00"),
    ];
    let two = vec![soa("two.test"), record("h.two.test", Rtype::A, &[192, 0, 2, 7])];
    let name = |text: &str| text.parse().expect("a name");
    ZoneSet::build([(name("one.test"), one), (name("two.test"), two)], &[]).expect("zones")
}

fn told(name: &str, rtype: Rtype) -> (Rcode, Vec<String>) {
    let zones = alias_zones();
    let packet = query_bytes(name, rtype, Some(1232));
    let bytes = with_query(&packet, |query| {
        let lookup = zones.lookup(query.name(), rtype);
        Response::new(query, Transport::Udp, "m1").central(&zones, lookup, Vec::new())
    });
    let message = Message::from_octets(bytes).expect("a message");
    (message.header().rcode(), section(&message))
}

#[test]
fn aliases_end_where_they_lead_and_loops_end_at_all() {
    let (code, answer) = told("x.wild.one.test", Rtype::A);
    assert_eq!(code, Rcode::NOERROR);
    assert_eq!(answer, ["x.wild.one.test 300 h.two.test.", "h.two.test 300 192.0.2.7"], "into another zone");
    let (code, answer) = told("gone.one.test", Rtype::A);
    assert_eq!((code, answer.len()), (Rcode::NXDOMAIN, 1), "RFC 6604 section 2.1: of the last name");
    let (code, answer) = told("out.one.test", Rtype::A);
    assert_eq!((code, answer.len()), (Rcode::NOERROR, 1), "nobody here knows more");
    let (code, answer) = told("a.one.test", Rtype::A);
    assert_eq!(code, Rcode::NOERROR);
    assert_eq!(answer, ["a.one.test 300 b.one.test.", "b.one.test 300 a.one.test."], "each once");
}

#[test]
fn a_dname_brings_an_alias_and_is_followed_once() {
    let (code, answer) = told("H.there.one.test", Rtype::A);
    assert_eq!(code, Rcode::NOERROR);
    assert_eq!(
        answer,
        ["there.one.test 300 two.test.", "H.there.one.test 300 h.two.test.", "h.two.test 300 192.0.2.7"]
    );
    let (code, answer) = told("x.loop.one.test", Rtype::A);
    assert_eq!(code, Rcode::NOERROR);
    assert_eq!(answer, ["loop.one.test 300 deep.loop.one.test.", "x.loop.one.test 300 x.deep.loop.one.test."]);
    let long = format!("{0}.{0}.{0}.{1}.loop.one.test", "l".repeat(63), "m".repeat(46));
    let (code, answer) = told(&long, Rtype::A);
    assert_eq!((code, answer.len()), (Rcode::YXDOMAIN, 1), "RFC 6672 section 2.2: it would be too long");
    let (_, answer) = told("x.there.one.test", Rtype::CNAME);
    assert_eq!(answer.len(), 2, "the alias is what was asked for");
}

#[test]
fn a_stream_tells_a_client_that_asks_how_long_it_may_stay() {
    // edns-tcp-keepalive, empty as a client sends it (RFC 7828 section 3.1).
    let mut packet = query_bytes("ns.cdn.test", Rtype::A, None);
    packet[11] = 1;
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    let zones = zones();
    for (transport, told) in [
        (Transport::Tcp { keepalive: Some(100) }, true),
        (Transport::Tcp { keepalive: None }, false),
        (Transport::Udp, false),
    ] {
        let bytes = with_query(&packet, |query| {
            let lookup = zones.lookup(query.name(), Rtype::A);
            Response::new(query, transport, "m1").central(&zones, lookup, Vec::new())
        });
        assert_eq!(bytes.ends_with(&[0, 11, 0, 2, 0, 100]), told, "{transport:?}");
    }
}
