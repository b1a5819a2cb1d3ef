//! Conversations with primaries, good and bad, message by message; zones as messages; timers; who may what.

use super::*;
use crate::dns::answer::tests::query_bytes;
use crate::dns::tsig::{Algorithm, Key, Session, TsigError};
use crate::dns::zone::Zone;
use crate::dns::{CanonicalName, Record};
use crate::time::{LocalTime, Span};
use domain::base::Rtype;
use domain::base::iana::Rcode;
use std::net::IpAddr;
use std::sync::Arc;

const NOW_S: u64 = 1_800_000_000;
const LIMITS: Limits = Limits { records: 1_000, bytes: 1 << 20 };
const ID: u16 = 40;

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

fn key(secret: &[u8]) -> Arc<Key> {
    Arc::new(Key::new(name("k.test"), Algorithm::Sha256, secret))
}

fn record(owner: &str, rtype: Rtype, data: &[u8]) -> Record {
    Record { owner: name(owner), rtype, ttl_s: 60, data: data.into() }
}

/// With refresh 10, retry 20 and expire 30.
fn soa(serial: u32) -> Record {
    let numbers = [serial, 10, 20, 30, 40].map(u32::to_be_bytes).concat();
    record("z.test", Rtype::SOA, &[b"\0\0".as_slice(), &numbers].concat())
}

fn a(owner: &str, last: u8) -> Record {
    record(owner, Rtype::A, &[192, 0, 2, last])
}

/// A message as a primary would send it, without compression.
fn message(id: u16, rtype: Rtype, records: &[Record]) -> Vec<u8> {
    let mut message = query_bytes("z.test", rtype, None);
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 0x84;
    message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for record in records {
        message.extend_from_slice(record.owner.as_bytes());
        message.extend_from_slice(&record.rtype.to_int().to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&record.ttl_s.to_be_bytes());
        message.extend_from_slice(&(record.data.len() as u16).to_be_bytes());
        message.extend_from_slice(&record.data);
    }
    message
}

/// What a conversation comes to, its messages but the first being these.
fn converse_within(
    limits: Limits,
    own: Option<u32>,
    form: Form,
    announced: u32,
    messages: &[Vec<u8>],
) -> Result<Vec<Event>, TransferError> {
    let mut inbound = Inbound::new(name("z.test"), None, own, form, limits, (ID, NOW_S));
    assert!(matches!(inbound.poll_event(), Some(Event::Send(request)) if request[..2] == ID.to_be_bytes()));
    inbound.handle_message(&message(ID, Rtype::SOA, &[soa(announced)]), NOW_S)?;
    let mut events = Vec::new();
    for message in messages {
        events.extend(std::iter::from_fn(|| inbound.poll_event()));
        inbound.handle_message(message, NOW_S)?;
    }
    events.extend(std::iter::from_fn(|| inbound.poll_event()));
    events.retain(|event| !matches!(event, Event::Send(_)));
    Ok(events)
}

fn converse(own: Option<u32>, form: Form, announced: u32, messages: &[Vec<u8>]) -> Result<Vec<Event>, TransferError> {
    converse_within(LIMITS, own, form, announced, messages)
}

fn axfr(records: &[Record]) -> Vec<u8> {
    message(ID + 1, Rtype::AXFR, records)
}

fn ixfr(records: &[Record]) -> Vec<u8> {
    message(ID + 1, Rtype::IXFR, records)
}

fn add(record: Record) -> Event {
    Event::Change(Change::Add(record))
}

fn delete(record: Record) -> Event {
    Event::Change(Change::Delete(record))
}

const TIMERS: SoaTimers = SoaTimers { refresh_s: 10, retry_s: 20, expire_s: 30 };

fn changed(serial: u32) -> Event {
    Event::End(Outcome::Changed { serial, timers: TIMERS })
}

#[test]
fn serials_are_compared_in_a_circle() {
    for (new, old, expected) in [
        (1, 0, true),
        (0, 0, false),
        (0, 1, false),
        (0, u32::MAX, true),
        (u32::MAX, 0, false),
        (0x8000_0000, 0, false),
        (0, 0x8000_0000, false),
        (0x7fff_ffff, 0, true),
        (5, 0xffff_fff0, true),
    ] {
        assert_eq!(is_newer(new, old), expected, "{new} after {old}");
    }
}

#[test]
fn a_whole_zone_comes_in_any_number_of_messages() {
    let zone = [soa(5), a("a.z.test", 1), a("b.z.test", 2), soa(5)];
    let expected =
        vec![Event::Begin(Form::Whole), add(soa(5)), add(a("a.z.test", 1)), add(a("b.z.test", 2)), changed(5)];
    assert_eq!(converse(None, Form::Whole, 5, &[axfr(&zone)]), Ok(expected.clone()));
    let each: Vec<Vec<u8>> = zone.iter().map(|record| axfr(std::slice::from_ref(record))).collect();
    assert_eq!(converse(None, Form::Whole, 5, &each), Ok(expected.clone()));
    // Later messages need no question (RFC 5936 section 2.2.2), and the primary may have changed since it was asked.
    let mut bare = axfr(&zone[2..]);
    bare.drain(12..12 + 12);
    bare[5] = 0;
    assert_eq!(converse(Some(3), Form::Whole, 4, &[axfr(&zone[..2]), bare]), Ok(expected.clone()));
    // It may answer to IXFR like that.
    assert_eq!(converse(Some(3), Form::Differences(3), 5, &[ixfr(&zone)]), Ok(expected));
    assert_eq!(
        converse(None, Form::Whole, 5, &[axfr(&[soa(5), soa(5)])]),
        Ok(vec![Event::Begin(Form::Whole), add(soa(5)), changed(5)])
    );
}

#[test]
fn nothing_is_asked_for_where_nothing_is_newer() {
    for (own, announced) in [(5, 5), (6, 5), (0, u32::MAX), (1 << 31, 0)] {
        let unchanged = Event::End(Outcome::Unchanged { serial: announced, timers: TIMERS });
        assert_eq!(converse(Some(own), Form::Differences(own), announced, &[]), Ok(vec![unchanged]), "{own}");
    }
    // Or where a primary has gone back while it was asked.
    let unchanged = Event::End(Outcome::Unchanged { serial: 5, timers: TIMERS });
    assert_eq!(converse(Some(5), Form::Differences(5), 6, &[ixfr(&[soa(5)])]), Ok(vec![unchanged]));
    let older = TransferError::Older { sent: 4, own: 5 };
    assert_eq!(converse(Some(5), Form::Differences(5), 6, &[ixfr(&[soa(4)])]), Err(older));
}

#[test]
fn differences_come_as_sequences() {
    let (first, second) = (a("a.z.test", 1), a("b.z.test", 2));
    let wraps = [
        soa(1),
        soa(u32::MAX),
        first.clone(),
        soa(0),
        second.clone(),
        soa(0),
        second.clone(),
        soa(1),
        first.clone(),
        soa(1),
    ];
    let expected = vec![
        Event::Begin(Form::Differences(u32::MAX)),
        delete(first.clone()),
        add(second.clone()),
        delete(second.clone()),
        add(first.clone()),
        add(soa(1)),
        changed(1),
    ];
    let own = Some(u32::MAX);
    let form = Form::Differences(u32::MAX);
    assert_eq!(converse(own, form, 1, &[ixfr(&wraps)]), Ok(expected.clone()));
    for cut in 1..wraps.len() {
        let parts = [ixfr(&wraps[..cut]), ixfr(&wraps[cut..])];
        assert_eq!(converse(own, form, 1, &parts), Ok(expected.clone()), "cut at {cut}");
    }
}

#[test]
fn differences_that_do_not_fit_are_told_from_other_faults() {
    let one = a("a.z.test", 1);
    let form = Form::Differences(3);
    let cases = [
        // The second sequence begins elsewhere than the first ended.
        vec![soa(5), soa(3), one.clone(), soa(4), one.clone(), soa(2), soa(5), soa(5)],
        // They begin at another version.
        vec![soa(5), soa(2), soa(5), soa(5)],
    ];
    for records in cases {
        let error = converse(Some(3), form, 5, &[ixfr(&records)]).expect_err("refused");
        assert_eq!(error, TransferError::Differences);
        assert!(error.is_of_differences());
    }
    assert!(!TransferError::NoSoa.is_of_differences());
    assert!(!TransferError::Tsig(TsigError::BadSig).is_of_differences());
}

#[test]
fn what_is_no_answer_is_refused() {
    let good = axfr(&[soa(5), a("a.z.test", 1), soa(5)]);
    let refused = |message: Vec<u8>| converse(None, Form::Whole, 5, &[message]).expect_err("refused");
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    assert_eq!(refused(with(1, 7)), TransferError::Malformed, "another id");
    assert_eq!(refused(with(2, 0x04)), TransferError::Malformed, "a query");
    assert_eq!(refused(with(2, 0x86)), TransferError::Malformed, "cut off");
    assert_eq!(refused(with(3, 5)), TransferError::Refused(Rcode::REFUSED));
    assert_eq!(refused(with(13, b'y')), TransferError::Malformed, "another question");
    assert_eq!(refused(with(21, 1)), TransferError::Malformed, "another type");
    assert_eq!(refused(axfr(&[a("a.z.test", 1)])), TransferError::NoSoa);
    assert_eq!(refused(axfr(&[soa(5), a("a.z.test", 1), soa(6)])), TransferError::Malformed, "two versions");
    assert_eq!(refused(axfr(&[soa(5), a("a.y.test", 1)])), TransferError::OutOfZone(name("a.y.test")));
    assert_eq!(refused(axfr(&[soa(5), a("z.testing", 1)])), TransferError::OutOfZone(name("z.testing")));
    let below = Record { owner: name("b.z.test"), ..soa(5) };
    assert_eq!(refused(axfr(&[soa(5), below])), TransferError::Malformed, "a SOA record below the apex");
    assert_eq!(refused(axfr(&[soa(5), soa(5), a("a.z.test", 1)])), TransferError::Malformed, "more than all");
    let stub = record("z.test", Rtype::SOA, b"\0\0\0\0");
    assert_eq!(refused(axfr(&[stub])), TransferError::Malformed);
    // The first answer has no SOA record, or an alias.
    let mut inbound = Inbound::new(name("z.test"), None, None, Form::Whole, LIMITS, (ID, NOW_S));
    let empty = inbound.handle_message(&message(ID, Rtype::SOA, &[]), NOW_S);
    assert_eq!(empty, Err(TransferError::NoSoa));
}

#[test]
fn whatever_is_cut_off_or_changed_nothing_panics_and_half_is_never_all() {
    let good = axfr(&[soa(5), a("a.z.test", 1), record("m.z.test", Rtype::MX, b"\0\x01\x01m\0"), soa(5)]);
    for at in 0..good.len() {
        let cut = converse(None, Form::Whole, 5, &[good[..at].to_vec()]);
        assert!(!matches!(cut, Ok(events) if events.contains(&changed(5))), "{at} bytes");
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            let _ = converse(None, Form::Whole, 5, &[flipped]);
        }
    }
    // A stream that ends early ends without the word that it is whole.
    let half = converse(None, Form::Whole, 5, &[axfr(&[soa(5), a("a.z.test", 1)])]).expect("so far");
    assert!(!half.iter().any(|event| matches!(event, Event::End(_))), "{half:?}");
}

#[test]
fn a_transfer_is_bounded_in_records_and_bytes() {
    let zone = [soa(5), a("a.z.test", 1), a("b.z.test", 2), soa(5)];
    // One of them is the answer to the first question.
    for (records, fits) in [(5, true), (4, false)] {
        let limits = Limits { records, ..LIMITS };
        assert_eq!(converse_within(limits, None, Form::Whole, 5, &[axfr(&zone)]).is_ok(), fits, "{records} records");
    }
    let bytes = (message(ID, Rtype::SOA, &[soa(5)]).len() + axfr(&zone).len() + 4) as u64;
    for (bytes, fits) in [(bytes, true), (bytes - 1, false)] {
        let limits = Limits { bytes, ..LIMITS };
        let found = converse_within(limits, None, Form::Whole, 5, &[axfr(&zone)]);
        assert_eq!(found.is_ok(), fits, "{bytes} bytes");
        assert!(fits || found == Err(TransferError::TooLarge { records: 1_000, bytes }));
    }
}

#[test]
fn compressed_names_are_expanded_where_senders_compress_them() {
    let mut compressed = axfr(&[soa(5)]);
    // "m" and a pointer to the question's name, as owner and within MX; then the SOA record again.
    compressed.extend_from_slice(b"\x01M\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x06\0\x0a\x01X\xc0\x0c");
    compressed.extend_from_slice(&axfr(&[soa(5)])[24..]);
    compressed[7] = 3;
    let mx = record("m.z.test", Rtype::MX, b"\0\x0a\x01X\x01z\x04test\0");
    let expected = vec![Event::Begin(Form::Whole), add(soa(5)), add(mx), changed(5)];
    assert_eq!(converse(None, Form::Whole, 5, &[compressed]), Ok(expected));
}

/// A zone, and a primary that signs its messages, all but those with these numbers.
fn signed_transfer(primary_key: &Arc<Key>, unsigned: &[usize]) -> Result<bool, TransferError> {
    let mut inbound = Inbound::new(name("z.test"), Some(key(b"secret")), None, Form::Whole, LIMITS, (ID, NOW_S));
    let messages = [axfr(&[soa(5)]), axfr(&[a("a.z.test", 1)]), axfr(&[a("b.z.test", 1)]), axfr(&[soa(5)])];
    let Some(Event::Send(mut request)) = inbound.poll_event() else { panic!("a request") };
    let mut session = Session::accept([&key(b"secret")], &mut request, NOW_S).expect("signed").expect("signed");
    let mut answer = message(ID, Rtype::SOA, &[soa(5)]);
    session.sign(&mut answer, NOW_S);
    inbound.handle_message(&answer, NOW_S)?;
    let Some(Event::Send(mut request)) = inbound.poll_event() else { panic!("a request") };
    Session::accept([&key(b"secret")], &mut request.clone(), NOW_S).expect("signed").expect("signed");
    let mut session = match Session::accept([primary_key], &mut request, NOW_S) {
        Ok(session) => session.expect("signed"),
        Err(error) => {
            let refusal = crate::dns::tsig::refuse([primary_key], &request, error, NOW_S);
            inbound.handle_message(&refusal, NOW_S)?;
            return Ok(false);
        }
    };
    let mut is_over = false;
    for (number, mut message) in messages.into_iter().enumerate() {
        match unsigned.contains(&number) {
            true => session.skip(&message),
            false => session.sign(&mut message, NOW_S),
        }
        inbound.handle_message(&message, NOW_S)?;
        is_over |= std::iter::from_fn(|| inbound.poll_event()).any(|event| matches!(event, Event::End(_)));
    }
    Ok(is_over)
}

#[test]
fn a_signed_transfer_is_signed_to_its_end() {
    let ours = key(b"secret");
    assert_eq!(signed_transfer(&ours, &[]), Ok(true));
    assert_eq!(signed_transfer(&ours, &[1, 2]), Ok(true), "RFC 8945 section 5.3.1");
    assert_eq!(signed_transfer(&ours, &[0]), Err(TransferError::Tsig(TsigError::Missing)));
    assert_eq!(signed_transfer(&ours, &[3]), Err(TransferError::UnsignedEnd));
    assert_eq!(signed_transfer(&key(b"other"), &[]), Err(TransferError::Tsig(TsigError::Refused(16))));
}

#[test]
fn a_zone_goes_out_as_it_would_come_in() {
    let many = (0..3_000u32).map(|number| a(&format!("host-{number}.z.test"), number as u8));
    let large = record("large.z.test", Rtype::TXT, &[255u8; 256].repeat(200));
    let records: Vec<Record> = many.chain([soa(9), record("z.test", Rtype::NS, b"\x02ns\0"), large]).collect();
    let zone = Arc::new(Zone::new(name("z.test"), records.clone(), &[]).expect("a zone"));
    let key = key(b"secret");
    let limits = Limits { records: 10_000, bytes: 1 << 24 };
    let mut inbound = Inbound::new(name("z.test"), Some(Arc::clone(&key)), None, Form::Whole, limits, (ID, NOW_S));
    let Some(Event::Send(mut request)) = inbound.poll_event() else { panic!("a request") };
    let mut session = Session::accept([&key], &mut request, NOW_S).expect("sound").expect("signed");
    let mut answer = single_soa(&zone, &request).expect("it has data");
    session.sign(&mut answer, NOW_S);
    inbound.handle_message(&answer, NOW_S).expect("an answer");
    let Some(Event::Send(mut request)) = inbound.poll_event() else { panic!("a request") };
    let session = Session::accept([&key], &mut request, NOW_S).expect("sound");
    let mut outbound = Outbound::new(zone, &request, session);
    let (mut buffer, mut messages, mut moved) = (Vec::new(), 0, Vec::new());
    while let Some(message) = outbound.next_message(NOW_S, std::mem::take(&mut buffer)) {
        assert!(message.len() <= usize::from(u16::MAX));
        inbound.handle_message(&message, NOW_S).expect("a message");
        moved.extend(std::iter::from_fn(|| inbound.poll_event()));
        messages += 1;
        buffer = message;
    }
    assert!((4..20).contains(&messages), "{messages} messages");
    assert_eq!(moved.pop(), Some(changed(9)));
    assert_eq!(moved.remove(0), Event::Begin(Form::Whole));
    let order = |record: &Record| (record.owner.clone(), record.rtype.to_int());
    let mut moved: Vec<Record> = moved
        .into_iter()
        .map(|event| match event {
            Event::Change(Change::Add(record)) => record,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(moved[0], soa(9));
    moved.sort_by_key(order);
    let mut records = records;
    records.sort_by_key(order);
    assert_eq!(moved, records);
}

fn at(seconds: i64) -> LocalTime {
    LocalTime::from_nanos(0) + Span::from_secs(seconds)
}

#[test]
fn a_secondary_asks_and_expires_by_its_soa() {
    let timers = SoaTimers { refresh_s: 100, retry_s: 10, expire_s: 1_000 };
    let mut refresh = Refresh::new(at(0));
    assert!(!refresh.is_good());
    assert_eq!(refresh.handle_timeout(at(0)), Some(Timer::Check));
    // Nothing is known yet: 2, 4, 8 … 600 s.
    let mut now = 0;
    for wait in [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
        refresh.handle_failure(at(now));
        assert_eq!(refresh.handle_timeout(at(now + wait - 1)), None);
        now += wait;
        assert_eq!(refresh.handle_timeout(at(now)), Some(Timer::Check));
    }
    refresh.handle_success(at(now), timers);
    assert_eq!(refresh.poll_timeout(), at(now + 100));
    assert_eq!(refresh.handle_timeout(at(now + 100)), Some(Timer::Check));
    refresh.handle_failure(at(now + 100));
    assert_eq!(refresh.check_at(), at(now + 110));
    assert_eq!(refresh.handle_timeout(at(now + 1_000)), Some(Timer::Expire));
    assert!(!refresh.is_good());
    assert_eq!(refresh.handle_timeout(at(now + 1_000)), Some(Timer::Check));
    refresh.handle_success(at(now + 1_001), timers);
    assert!(refresh.is_good());
}

#[test]
fn notify_brings_a_check_forward_but_no_two_within_a_second() {
    let timers = SoaTimers { refresh_s: 100, retry_s: 10, expire_s: 1_000 };
    let mut refresh = Refresh::with_copy(at(50), timers, Span::from_secs(40));
    assert_eq!(refresh.expire_at(), Some(at(1_010)));
    assert_eq!(refresh.handle_timeout(at(50)), Some(Timer::Check));
    refresh.handle_success(at(50), timers);
    refresh.handle_notify(at(50));
    assert_eq!(refresh.check_at(), at(51));
    assert_eq!(refresh.handle_timeout(at(51)), Some(Timer::Check));
    refresh.handle_success(at(51), timers);
    refresh.handle_notify(at(80));
    assert_eq!(refresh.check_at(), at(80));
    assert!(!Refresh::with_copy(at(0), timers, Span::from_secs(1_000)).is_good(), "a copy that is too old");
    // Timers of nonsense keep a primary from being asked without end, and the zone for a check or two.
    let zero = SoaTimers { refresh_s: 0, retry_s: 0, expire_s: 0 };
    refresh.handle_success(at(90), zero);
    assert_eq!((refresh.check_at(), refresh.expire_at()), (at(92), Some(at(94))));
    let endless = SoaTimers { refresh_s: u32::MAX, retry_s: u32::MAX, expire_s: u32::MAX };
    refresh.handle_success(at(90), endless);
    assert_eq!(refresh.check_at(), at(90 + 28 * 86_400));
}

#[test]
fn networks_hold_what_begins_like_them() {
    let network = |address: &str, length| Network::new(address.parse().expect("an address"), length);
    let holds = |address: &str, length, other: &str| {
        network(address, length).expect("a network").contains(other.parse::<IpAddr>().expect("an address"))
    };
    assert!(holds("192.0.2.0", 24, "192.0.2.255"));
    assert!(!holds("192.0.2.0", 24, "192.0.3.0"));
    assert!(holds("192.0.2.0", 24, "::ffff:192.0.2.1"));
    assert!(holds("0.0.0.0", 0, "203.0.113.9") && !holds("0.0.0.0", 0, "2001:db8::1"));
    assert!(holds("::", 0, "2001:db8::1") && !holds("::", 0, "192.0.2.1"));
    assert!(holds("2001:db8::", 32, "2001:db8:ffff::") && !holds("2001:db8::", 32, "2001:db9::"));
    assert!(holds("192.0.2.1", 32, "192.0.2.1") && !holds("192.0.2.1", 32, "192.0.2.0"));
    for (address, length) in [("192.0.2.1", 24), ("192.0.2.0", 33), ("2001:db8::1", 64), ("::", 129), ("128.0.0.0", 0)]
    {
        assert_eq!(network(address, length), None, "{address}/{length}");
    }
}
