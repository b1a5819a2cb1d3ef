//! A race's life: orders, receipts, repeats, delays, keys.

use super::bench::{
    Bench, DELAY, FALLBACK_AFTER, Ordered, SHARD, binding, client, config, service, view, with_id, www,
};
use crate::dns::answer::tests::query_bytes;
use crate::master::MAX_FALLBACK_TTL_S;
use crate::master::{AgentView, Delay, Output, Readiness, Shard, ShardConfig, Stamp};
use crate::time::{LocalTime, RaceTime, Span};
use crate::wire::frame::frames;
use crate::wire::{Direction, Frame, Opener, Receipt, ReceiptOutcome};
use domain::base::{Message, Rtype};
use std::net::SocketAddr;

#[test]
fn a_query_becomes_one_order_per_agent_with_its_own_playbook() {
    let mut bench = Bench::new(config());
    let heard = bench.ask(4_000, www(7));
    assert_eq!(heard.replies.len(), 0);
    let mut playbooks = Vec::new();
    for order in &heard.orders {
        assert_eq!(order.at, RaceTime::of_master(bench.now) + DELAY);
        assert_eq!(order.sent, RaceTime::of_master(bench.now));
        assert_eq!((order.client, order.id, order.revision), (client(4_000), 7, 0));
        assert_eq!(order.race >> 56, u64::from(SHARD), "the shard is in the race's number");
        playbooks.push((order.to, order.playbook));
    }
    let expected = [1u8, 2, 3].map(|slot| (SocketAddr::from(([192, 0, 2, slot], 5_400)), 70 + u64::from(slot)));
    assert_eq!(playbooks, expected);
    assert_eq!((bench.count("races"), bench.count("orders"), bench.shard.open_races()), (1, 3, 1));
}

#[test]
fn orders_that_are_due_together_share_datagrams_of_limited_length() {
    let mut bench = Bench::new(config());
    for id in 0..40 {
        let bytes = with_id(query_bytes("www.cdn.test", Rtype::A, None), id);
        let source = SocketAddr::from(([203, 0, 114, id as u8], 4_000));
        bench.shard.handle_validated(bench.now, source.ip());
        bench.take(source, bench.now, &bytes);
    }
    let heard = bench.heard();
    assert_eq!(heard.orders.len(), 120);
    // 40 orders of 87 bytes are 3,480 bytes: four datagrams for each of three agents.
    assert_eq!(heard.datagrams.len(), 12, "{:?}", heard.datagrams.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
fn two_departures_settle_a_race_and_one_of_three_does_not() {
    for (departed, fallbacks) in [(2, 0), (1, 1), (0, 1)] {
        let mut bench = Bench::new(config());
        let heard = bench.ask(4_000, www(7));
        for (order, id) in heard.orders.iter().zip(1..=departed) {
            assert!(bench.receipt(id, order, ReceiptOutcome::Departed).replies.is_empty());
        }
        let early = bench.wait(DELAY + FALLBACK_AFTER - Span::from_millis(1));
        assert!(early.replies.is_empty(), "{departed} departed");
        let heard = bench.wait(Span::from_millis(1));
        assert_eq!(heard.replies.len(), fallbacks, "{departed} departed");
        assert_eq!(bench.shard.open_races(), 0);
        for (to, bytes) in heard.replies {
            assert_eq!((to, &bytes[..2]), (client(4_000), &[0, 7][..]));
            assert_eq!(fallback_ttl(&bytes), MAX_FALLBACK_TTL_S, "short: a race is better");
            assert!(bytes.windows(4).any(|ip| ip == [192, 0, 2, 99]));
        }
    }
}

fn fallback_ttl(bytes: &[u8]) -> u32 {
    let message = Message::from_octets(bytes).expect("a message");
    let record = message.answer().expect("a section").next().expect("one").expect("whole");
    record.ttl().as_secs()
}

#[test]
fn the_only_agent_settles_its_race_alone() {
    let mut bench = Bench::new(config());
    bench.shard.handle_agent_gone(2);
    bench.shard.handle_agent(AgentView { readiness: Readiness::BySignal, ..view(3, Span::from_millis(20)) });
    let heard = bench.ask(4_000, www(7));
    assert_eq!(heard.orders.len(), 1);
    bench.receipt(1, &heard.orders[0], ReceiptOutcome::DepartedUnstamped);
    assert!(bench.wait(Span::from_secs(1)).replies.is_empty());
}

#[test]
fn when_every_agent_refuses_the_master_answers_at_once() {
    let mut bench = Bench::new(config());
    let heard = bench.ask(4_000, www(7));
    assert!(bench.receipt(1, &heard.orders[0], ReceiptOutcome::Refused).replies.is_empty());
    assert!(bench.receipt(2, &heard.orders[1], ReceiptOutcome::Late).replies.is_empty());
    assert_eq!(bench.receipt(3, &heard.orders[2], ReceiptOutcome::Failed).replies.len(), 1);
    assert!(bench.wait(Span::from_secs(1)).replies.is_empty(), "once");
    assert_eq!(bench.count("answers_fallback_all_refused"), 1);
}

#[test]
fn receipts_that_are_forged_replayed_or_of_another_race_settle_nothing() {
    let mut bench = Bench::new(config());
    let heard = bench.ask(4_000, www(7));
    let order = &heard.orders[0];
    let receipt = Receipt { race: order.race, revision: 0, outcome: ReceiptOutcome::Departed, lateness: Span::ZERO };
    let (mut plain, mut bytes) = (Vec::new(), Vec::new());
    Frame::Receipt(receipt).encode(&mut plain);
    bench.sealers.get_mut(&1).expect("known").seal(&plain, &mut bytes);
    bench.fast(&bytes);
    bench.fast(&bytes);
    assert_eq!(bench.count("datagram_replayed"), 1);
    *bytes.last_mut().expect("not empty") ^= 1;
    bytes[19] += 1;
    bench.fast(&bytes);
    assert_eq!(bench.count("datagram_forged"), 1);
    bytes[1] = SHARD + 1;
    bench.fast(&bytes);
    assert_eq!(bench.count("datagram_unknown_session"), 1);
    bench.fast(&bytes[..10]);
    assert_eq!(bench.count("datagram_malformed"), 1);
    bench.receipt(2, &Ordered { race: order.race + 9, ..order.clone() }, ReceiptOutcome::Departed);
    bench.receipt(2, &Ordered { revision: 3, ..order.clone() }, ReceiptOutcome::Departed);
    // An agent's frame in the wrong direction.
    bench.say(2, Frame::Signal { id: 4 });
    assert_eq!(bench.count("datagram_malformed"), 2);
    assert_eq!(bench.wait(Span::from_millis(400)).replies.len(), 1, "one departure of three: the fallback follows");
}

#[test]
fn a_repeated_query_amends_while_half_of_the_agents_can_be_reached() {
    for (name, rtype) in [("www.cdn.test", Rtype::A), ("six.cdn.test", Rtype::AAAA)] {
        let query = |id| with_id(query_bytes(name, rtype, None), id);
        let mut bench = Bench::new(config());
        let first = bench.ask(4_000, query(7));
        bench.now = bench.now + Span::from_millis(50);
        let second = bench.ask(4_001, query(8));
        assert!(second.replies.is_empty(), "{name}");
        assert_eq!(second.orders.len(), 3, "{name}");
        for (before, after) in first.orders.iter().zip(&second.orders) {
            assert_eq!((after.race, after.at, after.revision), (before.race, before.at, 1), "{name}");
            assert_eq!((after.client, after.id), (client(4_001), 8), "{name}");
        }
        // Receipts of the first revision say nothing of the second.
        bench.receipt(1, &first.orders[0], ReceiptOutcome::Departed);
        bench.receipt(2, &first.orders[1], ReceiptOutcome::Departed);

        // 20 ms of forward delay, 1.5 ms of processing and error: 28 ms before T is in time, 20 ms is not.
        bench.now = bench.now + Span::from_millis(22);
        assert_eq!(bench.ask(4_002, query(9)).orders.len(), 3, "{name}");
        bench.now = bench.now + Span::from_millis(8);
        let late = bench.ask(4_003, query(10));
        assert_eq!((late.orders.len(), late.replies.len()), (0, 1), "{name}");
        assert_eq!((late.replies[0].0, &late.replies[0].1[..2]), (client(4_003), &[0, 10][..]), "{name}");
        let more = bench.ask(4_004, query(11));
        assert_eq!((more.orders.len(), more.replies.len()), (0, 0), "{name}: once");
        assert!(bench.wait(Span::from_secs(1)).replies.is_empty(), "{name}: nor a fallback after that");
        assert_eq!(bench.count("races"), 1, "{name}");
    }
}

#[test]
fn the_same_query_twice_is_one_query() {
    let mut bench = Bench::new(config());
    bench.ask(4_000, www(7));
    let again = bench.ask(4_000, www(7));
    assert_eq!((again.orders.len(), again.replies.len()), (0, 0));
    assert_eq!(bench.count("queries_duplicate"), 1);
    // Another name, type or source is another race.
    assert_eq!(bench.ask(4_000, query_bytes("x.cdn.test", Rtype::AAAA, None)).orders.len(), 3);
    assert_eq!(bench.shard.open_races(), 2);
}

#[test]
fn the_stamp_is_taken_at_receipt_or_when_the_query_leaves_the_queue() {
    let dwell = Span::from_millis(7);
    for (stamp, moved) in [(Stamp::Receipt, Span::ZERO), (Stamp::Dequeue, dwell)] {
        let mut bench = Bench::new(ShardConfig { stamp, ..config() });
        let received_at = bench.now;
        bench.now = bench.now + dwell;
        bench.take(client(4_000), received_at, &www(7));
        let heard = bench.heard();
        assert_eq!(heard.orders[0].at, RaceTime::of_master(received_at) + DELAY + moved, "{stamp:?}");
    }
}

#[test]
fn cover_is_the_least_delay_that_reaches_the_share_and_is_capped() {
    // p99 of 20, 40 and 200 ms, greatest 4 ms more; 1 ms of processing, 0.5 ms of error, 2 ms of margin.
    let margin = Span::from_millis(2);
    let expected = [(1.0 / 3.0, 23_500), (0.5, 43_500), (0.67, 203_500), (1.0, 207_500)];
    for (share, micros) in expected {
        let mut bench = Bench::new(ShardConfig { service: service(Delay::Cover { share, margin }), ..config() });
        bench.shard.handle_agent(view(2, Span::from_millis(40)));
        bench.shard.handle_agent(view(3, Span::from_millis(200)));
        let heard = bench.ask(4_000, www(7));
        assert_eq!(heard.orders[0].at - RaceTime::of_master(bench.now), Span::from_micros(micros), "share {share}");
        assert_eq!(bench.shard.predetermined_delays()[0], Some(Span::from_micros(micros)));
    }
    let mut bench = Bench::new(ShardConfig { service: service(Delay::Cover { share: 1.0, margin }), ..config() });
    bench.shard.handle_agent(view(3, Span::from_millis(900)));
    let heard = bench.ask(4_000, www(7));
    assert_eq!(heard.orders[0].at - RaceTime::of_master(bench.now), Span::from_millis(300), "max_total_delay");
}

#[test]
fn each_agent_has_one_word_on_a_race_that_it_was_ordered_to_run() {
    let mut bench = Bench::new(config());
    let heard = bench.ask(4_000, www(7));
    // One agent alone cannot settle a race, nor make the master answer early.
    for _ in 0..5 {
        assert!(bench.receipt(1, &heard.orders[0], ReceiptOutcome::Refused).replies.is_empty());
        assert!(bench.receipt(1, &heard.orders[0], ReceiptOutcome::Departed).replies.is_empty());
    }
    bench.now = heard.orders[0].at.to_master() + FALLBACK_AFTER;
    bench.shard.handle_timeout(bench.now);
    assert_eq!(bench.heard().replies.len(), 1, "the fallback");
}

#[test]
fn agents_without_the_name_or_the_service_address_are_not_ordered() {
    let mut bench = Bench::new(config());
    bench.shard.handle_agent(AgentView { services: vec![], ..view(1, Span::from_millis(20)) });
    bench.shard.handle_agent(AgentView { site: "elsewhere".into(), ..view(2, Span::from_millis(20)) });
    let heard = bench.ask(4_000, www(7));
    assert_eq!(heard.orders.len(), 1);
    // A of the other name is served by nobody: answered at once, without data.
    let heard = bench.ask(4_001, query_bytes("x.cdn.test", Rtype::A, None));
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    assert_eq!((bench.count("answers_central"), bench.count("answers_fallback_no_agent")), (1, 0));
    let reply = Message::from_octets(heard.replies[0].1.clone()).expect("a message");
    assert_eq!((reply.header_counts().ancount(), reply.header_counts().nscount()), (0, 1));
}

#[test]
fn an_exchange_is_answered_with_its_stamps_and_the_one_before() {
    let mut bench = Bench::new(config());
    let received = RaceTime::of_master(bench.now);
    let heard = bench.say(1, Frame::SyncRequest { exchange: 5 });
    assert_eq!(heard.sync_replies, [(5, received, received, (0, RaceTime::from_nanos(0)))]);
    let stamped = bench.now + Span::from_micros(30);
    bench.shard.handle_transmit_stamp(1, 5, stamped);
    bench.now = bench.now + Span::from_millis(250);
    let heard = bench.say(1, Frame::SyncRequest { exchange: 6 });
    assert_eq!(heard.sync_replies[0].3, (5, RaceTime::of_master(stamped)), "by the kernel's stamp");
    // No stamp came for 6, and one for an exchange long gone is not believed.
    bench.shard.handle_transmit_stamp(1, 5, stamped);
    let heard = bench.say(1, Frame::SyncRequest { exchange: 7 });
    assert_eq!(heard.sync_replies[0].3.0, 0);
}

#[test]
fn no_nonce_is_used_twice_whatever_order_sessions_come_in() {
    let mut bench = Bench::new(config());
    (2..=3).for_each(|slot| bench.shard.handle_agent_gone(slot));
    bench.know(40);
    // Every datagram is opened with a replay window: a counter that begins anew would not open.
    for sessions in [vec![1], vec![1, 40], vec![40, 1], vec![1, 40], vec![40]] {
        let last = *sessions.last().expect("not empty");
        let sessions = sessions.into_iter().map(binding).collect();
        bench.shard.handle_agent(AgentView { sessions, ..view(1, Span::from_millis(20)) });
        for number in 0..3 {
            let heard = bench.ask(4_000, query_bytes(&format!("n{number}.cdn.test"), Rtype::AAAA, None));
            assert_eq!(heard.orders.len(), 1);
            assert_eq!(heard.datagrams[0][4..12], u64::to_be_bytes(last), "the last session sends");
        }
        let exchange = bench.say(last, Frame::SyncRequest { exchange: 5 });
        assert_eq!(exchange.sync_replies.len(), 1);
        bench.wait(Span::from_secs(1));
    }
}

#[test]
fn only_the_first_shard_sends_synchronisation_signals() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.wait(Span::from_secs(2)).sync_signals, 0);

    let mut first = Shard::new(ShardConfig { shard: 0, ..config() }, LocalTime::from_nanos(0));
    first.handle_agent(view(1, Span::from_millis(20)));
    first.handle_timeout(LocalTime::from_nanos(999_999_999));
    assert_eq!(first.poll_output(), None);
    let now = LocalTime::from_nanos(1_000_000_000);
    assert_eq!(first.poll_timeout().map(|(at, _)| at), Some(now));
    first.handle_timeout(now);
    let Some(Output::Fast { bytes, .. }) = first.poll_output() else { panic!("no signal") };
    let mut plain = Vec::new();
    Opener::new(&binding(1), Direction::MasterToAgent, 0).open(&bytes, &mut plain).expect("opens");
    assert_eq!(frames(&plain).next(), Some(Ok(Frame::SyncSignal { sent: RaceTime::of_master(now) })));
}

#[test]
fn a_restarted_shard_numbers_its_races_beyond_those_before() {
    let mut before = Bench::new(config());
    let number = before.ask(4_000, www(7)).orders[0].race;
    let mut after = Bench::new(config());
    after.shard = Shard::new(config(), after.now + Span::from_millis(1));
    after.shard.handle_agent(view(1, Span::from_millis(20)));
    after.shard.handle_validated(after.now, client(1).ip());
    assert!(after.ask(4_000, www(7)).orders[0].race > number);
}
