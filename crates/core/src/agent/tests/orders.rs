//! Orders: taken, refused, amended, held for a signal, and what is said of them.

use super::super::*;
use super::bench::*;
use crate::dns::answer::tests::query_bytes;
use crate::time::Epoch;
use crate::wire::session::MAX_PLAIN;
use crate::wire::{Binding, Direction, Sealer};
use domain::base::{Message, Rtype};
use std::net::Ipv4Addr;

#[test]
fn an_order_becomes_an_answer_of_this_site_that_departs_at_t() {
    let mut bench = Bench::ready();
    let query = www();
    let order = bench.order(&query);
    let outputs = bench.give_order(&order);
    let departure = sole(&outputs);
    let truly = bench.now + Span::from_millis(100);
    assert!((departure.at - truly).abs() < Span::from_micros(50), "{:?}, truly {truly:?}", departure.at);
    assert_eq!(departure.latest, Some(departure.at + TOLERANCE));
    assert_eq!((departure.service, departure.to), (service(), client()));

    let message = Message::from_octets(departure.bytes).expect("a message");
    assert!(message.header().qr());
    assert_eq!(message.header().id(), 0x1234);
    assert_eq!(message.sole_question().expect("one").qname().to_string(), "wWw.cdn.test");
    let answer = message.answer().expect("a section").limit_to::<domain::rdata::A>();
    let found: Vec<Ipv4Addr> = answer.map(|record| record.expect("an A").data().addr()).collect();
    assert_eq!(found, [Ipv4Addr::new(192, 0, 2, 1)]);
    let nsid =
        message.opt().expect("EDNS").opt().iter::<domain::base::opt::Nsid<_>>().next().expect("NSID").expect("whole");
    assert_eq!(nsid.as_slice(), b"tokyo");
    assert!(bench.receipts(&outputs).is_empty(), "nothing has become of it yet");
}

/// What is wrong with an otherwise good order, and the counter that must say so.
#[test]
fn every_reason_to_refuse_is_counted_by_its_name_and_told_to_the_master() {
    type Spoil = fn(&mut Order<'_>);
    let cases: [(Spoil, &str); 12] = [
        (|order| order.service = address("198.51.100.50:53"), "order_refused_foreign_service"),
        // Another master's, which this agent does speak for: on that master's behalf only.
        (|order| order.service = address("198.51.100.99:53"), "order_refused_foreign_service"),
        (|order| order.service = address("198.51.100.1:5353"), "order_refused_foreign_service"),
        (|order| order.service = address("198.51.100.2:53"), "order_refused_untested_service"),
        (|order| order.playbook ^= 1, "order_refused_unknown_playbook"),
        (|order| order.name = 2, "order_refused_unknown_name"),
        (|order| order.name = 1, "order_refused_unknown_name"),
        (|order| order.query = &[0; 11], "order_refused_bad_query"),
        (|order| order.client = address("224.0.0.1:53"), "order_refused_destination"),
        (|order| order.client = address("10.0.0.1:53"), "order_refused_destination"),
        (|order| order.client = address("203.0.113.9:0"), "order_refused_destination"),
        (
            |order| {
                if let TransmitIdentifier::At(t) = &mut order.transmit {
                    *t = *t + Span::from_millis(901);
                }
            },
            "order_refused_too_far_ahead",
        ),
    ];
    let query = www();
    let mut bench = Bench::ready();
    for (number, (spoil, counter)) in cases.into_iter().enumerate() {
        let mut order = bench.order(&query);
        spoil(&mut order);
        let before = bench.count(counter);
        let outputs = bench.give_order(&order);
        assert!(departures(&outputs).is_empty(), "case {number}: {counter}");
        assert_eq!(bench.count(counter), before + 1, "case {number}: {counter}");
        let expected =
            Receipt { race: order.race, revision: 0, outcome: ReceiptOutcome::Refused, lateness: Span::ZERO };
        assert_eq!(bench.receipts(&outputs), [expected], "case {number}: {counter}");
    }
    let order = bench.order(&query);
    assert_eq!(departures(&bench.give_order(&order)).len(), 1, "unspoiled, it is taken");
}

#[test]
fn queries_that_the_playbook_does_not_answer_are_refused() {
    let mut bench = Bench::ready();
    let (aaaa, other, mut response) =
        (query_bytes("www.cdn.test", Rtype::AAAA, None), query_bytes("ns.cdn.test", Rtype::A, None), www());
    response[2] |= 0x80;
    for (query, counter) in [
        (&aaaa, "order_refused_unknown_name"),
        (&other, "order_refused_unknown_name"),
        (&response, "order_refused_bad_query"),
    ] {
        let before = bench.count(counter);
        let order = bench.order(query);
        assert!(departures(&bench.give_order(&order)).is_empty());
        assert_eq!(bench.count(counter), before + 1, "{counter}");
    }
}

#[test]
fn a_repeated_or_replayed_order_departs_once() {
    let mut bench = Bench::ready();
    let query = www();
    let order = bench.order(&query);
    let datagram = bench.datagram(0, &[Frame::Order(order.clone())]);
    assert_eq!(departures(&bench.give(&datagram)).len(), 1);
    assert!(bench.give(&datagram).is_empty());
    assert_eq!(bench.count("datagram_replayed"), 1);
    // Sealed anew, as a second path of the same master might.
    let outputs = bench.seal(1, &[Frame::Order(order)]);
    assert!(outputs.is_empty(), "no second departure, no second receipt: {outputs:?}");
    assert_eq!(bench.count("order_refused_repeated"), 1);
}

#[test]
fn forged_and_foreign_datagrams_are_counted_and_change_nothing() {
    let mut bench = Bench::ready();
    let query = www();
    let order = bench.order(&query);
    let good = bench.datagram(0, &[Frame::Order(order.clone())]);

    let mut forged = good.clone();
    *forged.last_mut().expect("not empty") ^= 1;
    assert!(bench.give(&forged).is_empty());
    assert_eq!(bench.count("datagram_forged"), 1);

    let mut seal_with = |binding: Binding, shard: u8| {
        let (mut plain, mut bytes) = (Vec::new(), Vec::new());
        Frame::Order(order.clone()).encode(&mut plain);
        let mut sealer = Sealer::new(&binding, Direction::MasterToAgent, shard);
        // Past the counters that were seen: those are taken for replays before their seal is looked at.
        (0..100).for_each(|_| sealer.seal(&plain, &mut bytes));
        bench.give(&bytes)
    };
    let known = binding("m0", 1);
    assert!(seal_with(Binding { epoch: Epoch(8), ..known.clone() }, 0).is_empty(), "another epoch");
    assert!(seal_with(Binding { master: "m1".into(), ..known.clone() }, 0).is_empty(), "another master");
    assert!(seal_with(Binding { id: 77, ..known.clone() }, 0).is_empty(), "another session");
    assert!(seal_with(known, SHARDS).is_empty(), "a shard that the master has not");
    assert_eq!(bench.count("datagram_forged"), 3);
    assert_eq!(bench.count("datagram_unknown_session"), 2);

    for scrap in [vec![], vec![0x5a; 10], vec![0; 1_500]] {
        assert!(bench.give(&scrap).is_empty());
    }
    assert_eq!(departures(&bench.give(&good)).len(), 1, "the true one is not a replay of the forged");
}

#[test]
fn a_sealed_datagram_with_scraps_in_it_is_counted() {
    let mut bench = Bench::ready();
    let query = www();
    let order = bench.order(&query);
    // An agent's own frames mean nothing from a master; what follows them still counts.
    let receipt = Receipt { race: 1, revision: 0, outcome: ReceiptOutcome::Departed, lateness: Span::ZERO };
    let sent = [Frame::SyncRequest { exchange: 1 }, Frame::Receipt(receipt), Frame::Order(order)];
    assert_eq!(departures(&bench.seal(0, &sent)).len(), 1);
    assert_eq!(bench.count("datagram_malformed"), 2);
    let mut bytes = Vec::new();
    bench.sealers[0].seal(&[1, 255, 255, 0], &mut bytes);
    assert!(bench.give(&bytes).is_empty());
    assert_eq!(bench.count("datagram_malformed"), 3);
}

#[test]
fn orders_of_one_datagram_each_have_their_departure() {
    let mut bench = Bench::ready();
    let query = www();
    let orders: Vec<Order<'_>> = (0..8).map(|_| bench.order(&query)).collect();
    let length: usize = orders.iter().map(|order| Frame::Order(order.clone()).encoded_len()).sum();
    assert!(length <= MAX_PLAIN);
    let frames: Vec<Frame<'_>> = orders.into_iter().map(Frame::Order).collect();
    let departures = departures(&bench.seal(0, &frames));
    let mut keys: Vec<DepartureKey> = departures.iter().map(|departure| departure.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), 8);
}

#[test]
fn a_late_answer_is_dropped_by_its_latest_or_sent_as_its_name_says() {
    let mut bench = Bench::ready();
    let query = www();
    let late = |bench: &Bench| TransmitIdentifier::At(bench.race_now() - Span::from_millis(30));
    let order = Order { transmit: late(&bench), ..bench.order(&query) };
    let dropped = sole(&bench.give_order(&order));
    assert!(dropped.latest.expect("a limit") < bench.now, "the departure thread will not send it");

    let query = query_bytes("x.send.cdn.test", Rtype::A, None);
    let order = Order { transmit: late(&bench), name: 1, ..bench.order(&query) };
    let sent = sole(&bench.give_order(&order));
    assert_eq!(sent.latest, None);
    assert!(sent.at < bench.now, "at once");
}

#[test]
fn a_receipt_says_what_became_of_the_departure() {
    let mut bench = Bench::ready();
    let query = www();
    let late_by = Span::from_micros(300);
    type Outcome = fn(LocalTime) -> DepartureOutcome;
    let outcomes: [(Outcome, ReceiptOutcome, &str); 4] = [
        (|at| DepartureOutcome::Departed { at, kernel_stamped: true }, ReceiptOutcome::Departed, "departures"),
        (
            |at| DepartureOutcome::Departed { at, kernel_stamped: false },
            ReceiptOutcome::DepartedUnstamped,
            "departures",
        ),
        (|at| DepartureOutcome::Late { at }, ReceiptOutcome::Late, "departures_dropped_late"),
        (|_| DepartureOutcome::Failed, ReceiptOutcome::Failed, "departures_failed"),
    ];
    for (outcome, expected, counter) in outcomes {
        let order = bench.order(&query);
        let departure = sole(&bench.give_order(&order));
        bench.now = departure.at + late_by;
        let before = bench.count(counter);
        bench.agent.handle_departed(bench.now, departure.key, outcome(bench.now));
        let outputs = bench.drain();
        let receipts = bench.receipts(&outputs);
        assert_eq!(receipts.len(), 1, "{expected:?}");
        assert_eq!((receipts[0].race, receipts[0].revision, receipts[0].outcome), (order.race, 0, expected));
        assert!((receipts[0].lateness - late_by).abs() < Span::from_micros(1), "{:?}", receipts[0]);
        assert_eq!(bench.count(counter), before + 1);
        let audited = outputs
            .iter()
            .any(|output| matches!(output, Output::Audit(Audit::Departure { race, .. }) if *race == order.race));
        assert!(audited, "{expected:?}");
        // Only once: a departure thread that says it again is not believed.
        bench.agent.handle_departed(bench.now, departure.key, outcome(bench.now));
        assert!(bench.drain().is_empty());
    }
    let lateness = bench.agent.report(bench.now, 0).lateness.expect("two departed");
    assert_eq!(lateness.samples, 2);
    assert!((lateness.p50 - late_by).abs() < Span::from_micros(1), "{lateness:?}");
}

#[test]
fn receipts_go_to_the_shard_that_ordered() {
    let mut bench = Bench::ready();
    let query = www();
    let order = bench.order(&query);
    let departure = sole(&bench.seal(1, &[Frame::Order(order)]));
    bench.agent.handle_departed(departure.at, departure.key, DepartureOutcome::Failed);
    let outputs = bench.drain();
    let heard = bench.heard(&outputs);
    assert!(matches!(heard[..], [(1, Heard::Receipt(_))]), "{heard:?}");
}

#[test]
fn an_amended_order_takes_the_place_of_the_one_before() {
    let mut bench = Bench::ready();
    let (first_query, mut second_query) = (www(), www());
    second_query[1] = 0x35;
    let first = bench.order(&first_query);
    let second = Order { revision: 1, client: address("203.0.113.9:5555"), query: &second_query, ..first.clone() };
    let before = sole(&bench.give_order(&first));
    let after = sole(&bench.give_order(&second));
    assert_eq!((before.key, before.at), (after.key, after.at), "the same departure, at the same T");
    assert_eq!((after.to, &after.bytes[..2]), (second.client, &[0x12, 0x35][..]));
    assert_eq!(bench.count("orders_amended"), 1);
    // An order that was overtaken changes nothing, and neither does one after the departure.
    assert!(departures(&bench.give_order(&first)).is_empty());
    bench.agent.handle_departed(after.at, after.key, DepartureOutcome::Departed { at: after.at, kernel_stamped: true });
    let outputs = bench.drain();
    assert_eq!(bench.receipts(&outputs)[0].revision, 1);
    let third = Order { revision: 2, ..second };
    assert!(departures(&bench.give_order(&third)).is_empty());
    assert_eq!(bench.count("order_refused_repeated"), 2);
}

#[test]
fn an_amendment_that_comes_after_the_departure_but_before_its_stamp_sends_nothing() {
    let mut bench = Bench::ready();
    let query = www();
    let first = bench.order(&query);
    let departure = sole(&bench.give_order(&first));
    bench.now = departure.at + Span::from_micros(100);
    let outputs = bench.give_order(&Order { revision: 1, ..first });
    assert!(departures(&outputs).is_empty());
    assert_eq!(bench.receipts(&outputs)[0].outcome, ReceiptOutcome::Refused);
    assert_eq!(bench.count("order_refused_amended_too_late"), 1);
}

#[test]
fn an_answer_is_held_for_its_signal_and_no_other() {
    let mut bench = Bench::ready();
    let query = www();
    let order = Order { transmit: TransmitIdentifier::On(42), ..bench.order(&query) };
    assert!(bench.give_order(&order).is_empty());
    bench.now = bench.now + Span::from_millis(70);
    assert!(bench.seal(0, &[Frame::Signal { id: 41 }]).is_empty());
    assert_eq!(bench.count("signals_unawaited"), 1);
    let departure = sole(&bench.seal(0, &[Frame::Signal { id: 42 }]));
    assert_eq!((departure.at, departure.latest), (bench.now, None));
    assert!(bench.seal(0, &[Frame::Signal { id: 42 }]).is_empty(), "once");

    // One that never comes: forgotten after HOLD, and the signal then finds nothing.
    let order = Order { transmit: TransmitIdentifier::On(43), ..bench.order(&query) };
    bench.give_order(&order);
    bench.wait(HOLD + Span::from_millis(1));
    assert_eq!(bench.count("orders_expired_without_signal"), 1);
    assert!(departures(&bench.seal(0, &[Frame::Signal { id: 43 }])).is_empty());
}

#[test]
fn an_agent_limits_itself_whatever_is_ordered() {
    let limits = Limits { departures_per_prefix_per_s: 5, ..Limits::default() };
    let mut bench = Bench::ready_with(AgentConfig { limits, ..config() });
    let query = www();
    let taken = (0..20u8)
        .filter(|host| {
            let order = Order { client: SocketAddr::from(([203, 0, 113, *host], 99)), ..bench.order(&query) };
            departures(&bench.give_order(&order)).len() == 1
        })
        .count();
    assert_eq!(taken, 5);
    assert_eq!(bench.count("order_refused_rate_limited"), 15);
}

#[test]
fn the_table_of_waiting_orders_is_bounded_and_empties_itself() {
    let limits = Limits { departures_per_s: u32::MAX, departures_per_prefix_per_s: u32::MAX, ..Limits::default() };
    let mut bench = Bench::ready_with(AgentConfig { limits, ..config() });
    let query = query_bytes("www.cdn.test", Rtype::A, None);
    for _ in 0..MAX_PENDING {
        let order = Order { transmit: TransmitIdentifier::On(1), ..bench.order(&query) };
        bench.give_order(&order);
    }
    assert_eq!(bench.count("order_refused_table_full"), 0);
    let order = bench.order(&query);
    assert!(departures(&bench.give_order(&order)).is_empty());
    assert_eq!(bench.count("order_refused_table_full"), 1);
    bench.wait(HOLD + Span::from_millis(1));
    assert_eq!(bench.count("orders_expired_without_signal"), MAX_PENDING as u64);
    let order = bench.order(&query);
    assert_eq!(departures(&bench.give_order(&order)).len(), 1);
}

#[test]
fn receipts_wait_for_each_other_and_share_datagrams() {
    let mut bench = Bench::ready();
    bench.drain();
    let query = www();
    for _ in 0..60 {
        // Each is refused at once.
        let order = Order { service: address("198.51.100.50:53"), ..bench.order(&query) };
        let bytes = bench.datagram(0, &[Frame::Order(order)]);
        bench.agent.handle_datagram(bench.now, bench.now, &bytes);
    }
    let full: Vec<Output> = core::iter::from_fn(|| bench.agent.poll_output()).collect();
    assert_eq!(bench.receipts(&full).len(), 55, "of 21 bytes, as many as fill one datagram");
    assert_eq!(full.len(), 1);
    bench.now = bench.now + Span::from_millis(5);
    bench.agent.handle_timeout(bench.now);
    let rest: Vec<Output> = core::iter::from_fn(|| bench.agent.poll_output()).collect();
    assert_eq!(bench.receipts(&rest).len(), 5, "after 5 ms the others");
    let (_, timer) = bench.agent.poll_timeout().expect("a timer");
    assert_ne!(timer, Timer::Receipts);
}
