//! Who gets what: NOTIFY from whom, zones for whom, answers no longer than they may be.

use super::*;
use crate::dns::answer::tests::query_bytes;
use crate::dns::transfer::{Network, Peer, Policy, Reader, ZonePolicy, notify_request};
use crate::dns::tsig::{Algorithm, Key};
use crate::dns::{Record, ZoneSet};
use std::sync::Arc;

const NOW_S: u64 = 1_800_000_000;
const PRIMARY: &str = "192.0.2.1";
const READER: &str = "198.51.100.7";
const STRANGER: &str = "203.0.113.9";
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;
const NOTAUTH: u8 = 9;

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

fn key(name_text: &str) -> Arc<Key> {
    Arc::new(Key::new(name(name_text), Algorithm::Sha256, b"secret"))
}

fn peer(key: Option<Arc<Key>>) -> Peer {
    Peer { address: format!("{PRIMARY}:53").parse().expect("an address"), key }
}

fn soa(apex: &str, serial: u32) -> Record {
    let data = [b"\0\0".as_slice(), &[serial, 1, 2, 3, 4].map(u32::to_be_bytes).concat()].concat();
    Record { owner: name(apex), rtype: Rtype::SOA, ttl_s: 60, data: data.into() }
}

/// `open.test`: primary by address, read by address. `keyed.test`: both by key as well. `empty.test` has no data.
fn service() -> Service {
    let zones = [
        (name("open.test"), Some(vec![soa("open.test", 5)])),
        (name("keyed.test"), Some(vec![soa("keyed.test", 5)])),
        (name("empty.test"), None),
        (name("closed.test"), Some(vec![soa("closed.test", 5)])),
    ];
    let network = Network::new(READER.parse().expect("an address"), 32);
    let open =
        ZonePolicy { primaries: vec![peer(None)], readers: vec![Reader { network, key: None }], notified: Vec::new() };
    let keyed = ZonePolicy {
        primaries: vec![peer(Some(key("k.test")))],
        readers: vec![Reader { network, key: Some(key("k.test")) }],
        notified: Vec::new(),
    };
    let policies = [(name("open.test"), open.clone()), (name("keyed.test"), keyed), (name("empty.test"), open)];
    let zones = ZoneSet::build_some(zones, &[]).expect("zones");
    let mut service = Service::new("m1".into(), zones, Vec::new()).expect("a service");
    service.transfers = Arc::new(Policy { keys: vec![key("k.test"), key("l.test")], zones: policies.into() });
    service
}

fn say(packet: &[u8], from: &str, is_stream: bool) -> Answer {
    let from = from.parse().expect("an address");
    answer(&service(), packet, Asking { from, is_stream, unix_s: NOW_S, may_transfer: true })
}

/// Code, and the zone that changed.
fn message(answer: Answer) -> (Vec<u8>, Option<String>) {
    match answer {
        Answer::Message { bytes, notified } => (bytes, notified.map(|apex| apex.to_string())),
        other => panic!("{other:?}"),
    }
}

fn code(answer: Answer) -> u8 {
    message(answer).0[3] & 0xf
}

fn signed(mut packet: Vec<u8>, with: &str) -> Vec<u8> {
    Session::request(key(with), &mut packet, NOW_S);
    packet
}

#[test]
fn word_of_a_change_is_taken_from_primaries_only() {
    let open = notify_request(&name("open.test"), 7);
    let keyed = notify_request(&name("keyed.test"), 7);
    let cases = [
        (open.clone(), PRIMARY, 0, Some("open.test.")),
        (open.clone(), "::ffff:192.0.2.1", 0, Some("open.test.")),
        (open.clone(), STRANGER, REFUSED, None),
        (keyed.clone(), PRIMARY, REFUSED, None),
        (signed(keyed.clone(), "k.test"), PRIMARY, 0, Some("keyed.test.")),
        (signed(keyed.clone(), "l.test"), PRIMARY, REFUSED, None),
        (signed(keyed, "k.test"), STRANGER, REFUSED, None),
        (notify_request(&name("empty.test"), 7), PRIMARY, 0, Some("empty.test.")),
        (notify_request(&name("closed.test"), 7), PRIMARY, REFUSED, None),
        (notify_request(&name("other.test"), 7), PRIMARY, NOTAUTH, None),
        (notify_request(&name("a.open.test"), 7), PRIMARY, NOTAUTH, None),
    ];
    for (packet, from, expected, zone) in cases {
        for is_stream in [false, true] {
            assert!(concerns(&packet));
            let (bytes, notified) = message(say(&packet, from, is_stream));
            assert_eq!((bytes[3] & 0xf, notified.as_deref()), (expected, zone), "from {from}");
            assert_eq!((&bytes[..2], bytes[2] & 0xf8), (&packet[..2], 0xa0), "QR and the opcode NOTIFY");
            assert!(bytes.len() <= packet.len(), "{} bytes for {}", bytes.len(), packet.len());
        }
    }
    // With the new SOA record, as primaries send it.
    let mut with_soa = open.clone();
    with_soa[7] = 1;
    with_soa.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
    with_soa.extend_from_slice(&[0; 20]);
    assert_eq!(message(say(&with_soa, PRIMARY, false)).1.as_deref(), Some("open.test."));
    // Of another type nothing is known (RFC 1996 section 3.12), and a response is no request.
    let mut of_type_a = open.clone();
    let end = of_type_a.len();
    of_type_a[end - 3] = 1;
    assert_eq!(message(say(&of_type_a, PRIMARY, false)).1, None);
    let mut response = open;
    response[2] |= 0x80;
    assert!(!concerns(&response));
    assert!(matches!(say(&response, PRIMARY, false), Answer::Silence));
}

#[test]
fn a_zone_is_for_who_may_have_it_over_a_stream() {
    let axfr = |zone: &str| query_bytes(zone, Rtype::AXFR, None);
    let is_sent = |packet: &[u8], from: &str| matches!(say(packet, from, true), Answer::Zone(_));
    assert!(is_sent(&axfr("open.test"), READER));
    assert!(is_sent(&signed(axfr("open.test"), "l.test"), READER), "any key, where none is asked for");
    assert!(is_sent(&signed(axfr("keyed.test"), "k.test"), READER));
    assert!(is_sent(&query_bytes("open.test", Rtype::IXFR, None), READER), "IXFR without a serial");
    for (packet, from, expected) in [
        (axfr("open.test"), STRANGER, REFUSED),
        (axfr("keyed.test"), READER, REFUSED),
        (signed(axfr("keyed.test"), "l.test"), READER, REFUSED),
        (signed(axfr("keyed.test"), "k.test"), STRANGER, REFUSED),
        (signed(axfr("keyed.test"), "m.test"), READER, NOTAUTH),
        (axfr("closed.test"), READER, REFUSED),
        (axfr("empty.test"), READER, SERVFAIL),
        (axfr("other.test"), READER, REFUSED),
    ] {
        assert_eq!(code(say(&packet, from, true)), expected, "from {from}");
    }
    assert_eq!(code(say(&axfr("open.test"), READER, false)), REFUSED, "not over UDP");
    let from = READER.parse().expect("an address");
    let busy = Asking { from, is_stream: true, unix_s: NOW_S, may_transfer: false };
    assert_eq!(code(answer(&service(), &axfr("open.test"), busy)), SERVFAIL);
}

/// A request for differences from a version.
fn ixfr(serial: u32) -> Vec<u8> {
    let mut packet = query_bytes("open.test", Rtype::IXFR, None);
    packet[9] = 1;
    packet.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
    packet.extend_from_slice(&serial.to_be_bytes());
    packet.extend_from_slice(&[0; 16]);
    packet
}

#[test]
fn differences_are_the_whole_zone_or_one_record() {
    assert!(matches!(say(&ixfr(4), READER, true), Answer::Zone(_)));
    for (serial, is_stream) in [(5, true), (6, true), (4, false), (5, false)] {
        let (bytes, _) = message(say(&ixfr(serial), READER, is_stream));
        assert_eq!((bytes[3] & 0xf, &bytes[6..8]), (0, &[0, 1][..]), "{serial}: one record");
        assert_eq!(bytes[bytes.len() - 20..bytes.len() - 16], 5u32.to_be_bytes());
    }
    assert_eq!(code(say(&ixfr(4), STRANGER, false)), REFUSED);
}

#[test]
fn what_is_signed_is_answered_signed_within_its_size() {
    let query = query_bytes("open.test", Rtype::SOA, None);
    assert!(!concerns(&query));
    let mut packet = query.clone();
    let mut session = Session::request(key("k.test"), &mut packet, NOW_S);
    assert!(concerns(&packet));
    let (mut bytes, _) = message(say(&packet, STRANGER, false));
    assert!(bytes.len() <= 512);
    session.verify(&mut bytes, NOW_S).expect("signed");
    assert_eq!((bytes[3] & 0xf, bytes[7]), (0, 1));
    // A signature that is not accepted is answered, shortly.
    let (bytes, _) = message(say(&signed(query, "m.test"), STRANGER, false));
    assert_eq!(bytes[3] & 0xf, NOTAUTH);
    // Whatever comes, nothing panics.
    for at in 0..packet.len() {
        let _ = say(&packet[..at], STRANGER, false);
        for bit in 0..8 {
            let mut flipped = packet.clone();
            flipped[at] ^= 1 << bit;
            let _ = say(&flipped, PRIMARY, true);
        }
    }
}
