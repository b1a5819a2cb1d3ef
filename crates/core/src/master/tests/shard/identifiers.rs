//! What agents are ordered by: an instant, a span that makes up for a bad clock, a signal by name; and what comes of it.

use super::bench::{Bench, DELAY, FALLBACK_AFTER, Ordered, client, config, service, view, www};
use crate::agent::HOLD;
use crate::master::{AgentView, Delay, Readiness, Service, ShardConfig, Stamp, Transmit};
use crate::playbook::LatePolicy;
use crate::time::{RaceTime, Span};
use crate::wire::{Frame, Receipt, ReceiptOutcome, TransmitIdentifier};
use std::sync::Arc;

/// A round trip of 60 ms, so that an order takes 30 ms.
const ROUND_TRIP: Span = Span::from_millis(60);
const WAY: Span = Span::from_millis(30);

fn by_after(slot: u32) -> AgentView {
    let forward_delay = None;
    AgentView { readiness: Readiness::ByAfter, round_trip: Some(ROUND_TRIP), forward_delay, ..view(slot, WAY) }
}

fn changed(change: impl Fn(&mut Service)) -> ShardConfig {
    let mut service = Service::clone(&service(Delay::Fixed(DELAY)));
    change(&mut service);
    ShardConfig { service: Arc::new(service), ..config() }
}

fn held() -> ShardConfig {
    changed(|service| service.races[0].transmit = Transmit::Held("go".into()))
}

fn to_slot(orders: &[Ordered], slot: u8) -> Option<&Ordered> {
    orders.iter().find(|order| order.to.ip() == std::net::IpAddr::from([192, 0, 2, slot]))
}

#[test]
fn an_agent_with_a_bad_clock_is_told_the_rest_of_the_delay_less_its_way() {
    let dwell = Span::from_millis(7);
    let mut bench = Bench::new(ShardConfig { stamp: Stamp::Receipt, ..config() });
    bench.shard.handle_agent(by_after(2));
    let received = bench.now;
    bench.now = bench.now + dwell;
    bench.take(client(4_000), received, &www(7));
    let heard = bench.heard();
    let told: Vec<_> = (1..=3).map(|slot| to_slot(&heard.orders, slot).expect("ordered").transmit).collect();
    let t = TransmitIdentifier::At(RaceTime::of_master(received) + DELAY);
    assert_eq!(told, [t, TransmitIdentifier::After(DELAY - dwell - WAY), t]);
    assert_eq!(bench.count("orders_by_after"), 1);
    // An amendment: T unchanged, so the span is what is left of it.
    bench.now = bench.now + Span::from_millis(20);
    let again = bench.ask(4_001, www(8));
    let amended = to_slot(&again.orders, 2).expect("amended");
    assert_eq!(amended.revision, 1);
    assert_eq!(amended.transmit, TransmitIdentifier::After(DELAY - dwell - Span::from_millis(20) - WAY));
}

#[test]
fn a_span_is_never_negative_and_an_order_that_is_too_late_is_withheld_or_sent_by_the_policy() {
    for (late, delay_ms, expected) in [
        (LatePolicy::Drop, 29, Some(Span::ZERO)),
        (LatePolicy::Drop, 28, Some(Span::ZERO)),
        (LatePolicy::Drop, 27, None),
        (LatePolicy::Send, 1, Some(Span::ZERO)),
    ] {
        let mut bench = Bench::new(changed(|service| {
            service.races[0].late = late;
            service.races[0].delay = Delay::Fixed(Span::from_millis(delay_ms));
        }));
        bench.shard.handle_agent(by_after(2));
        let heard = bench.ask(4_000, www(7));
        let told = to_slot(&heard.orders, 2).map(|order| order.transmit);
        assert_eq!(told, expected.map(TransmitIdentifier::After), "{late:?} {delay_ms} ms");
        assert_eq!(bench.count("orders_withheld"), u64::from(expected.is_none()));
    }
    // With nobody left to order, the master answers at once.
    let mut bench = Bench::new(changed(|service| service.races[0].delay = Delay::Fixed(Span::from_millis(5))));
    (1..=3).for_each(|slot| bench.shard.handle_agent(by_after(slot)));
    let heard = bench.ask(4_000, www(7));
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    assert_eq!(bench.count("answers_fallback_no_agent"), 1);
}

#[test]
fn cover_counts_an_agent_with_a_bad_clock_by_half_of_its_round_trip() {
    let cover = Delay::Cover { share: 1.0, margin: Span::from_millis(5) };
    let mut bench = Bench::new(changed(|service| service.races[0].delay = cover));
    for slot in 1..=3 {
        bench.shard.handle_agent(by_after(slot));
    }
    let heard = bench.ask(4_000, www(7));
    // 30 ms of way, 1 ms of processing, 5 ms of margin: T − now − 30 ms are left.
    let expected = TransmitIdentifier::After(Span::from_millis(6));
    assert!(heard.orders.len() == 3 && heard.orders.iter().all(|order| order.transmit == expected));
}

#[test]
fn a_race_by_signal_asks_for_no_clock_and_a_race_at_t_does() {
    for (transmit, orders) in [(Transmit::At, 2), (Transmit::Signal, 3), (Transmit::Held("go".into()), 3)] {
        let mut bench = Bench::new(changed(|service| service.races[0].transmit = transmit.clone()));
        bench.shard.handle_agent(AgentView { readiness: Readiness::BySignal, ..view(1, WAY) });
        assert_eq!(bench.ask(4_000, www(7)).orders.len(), orders, "{transmit:?}");
        let mut bench = Bench::new(changed(|service| service.races[0].transmit = transmit.clone()));
        bench.shard.handle_agent(AgentView { readiness: Readiness::Unreachable, ..view(1, WAY) });
        assert_eq!(bench.ask(4_000, www(7)).orders.len(), 2, "{transmit:?}");
    }
    // Not even a measured delay: the longest that may be waited covers it.
    let cover = Delay::Cover { share: 1.0, margin: Span::from_millis(5) };
    let mut bench = Bench::new(changed(|service| {
        service.races[0].transmit = Transmit::Signal;
        service.races[0].delay = cover;
    }));
    for slot in 1..=3 {
        let (forward_delay, round_trip) = (None, None);
        let readiness = Readiness::BySignal;
        bench.shard.handle_agent(AgentView { readiness, forward_delay, round_trip, ..view(slot, WAY) });
    }
    assert_eq!(bench.ask(4_000, www(7)).orders.len(), 3);
    assert_eq!(bench.wait(Span::from_millis(299)).signals.len(), 0);
    assert_eq!(bench.wait(Span::from_millis(1)).signals.len(), 3, "max_total_delay");
}

#[test]
fn a_named_signal_starts_every_race_that_waits_for_it() {
    let mut bench = Bench::new(held());
    let mut ids = Vec::new();
    for host in 1..=4u8 {
        let source = std::net::SocketAddr::from(([203, 0, 113 + host, 9], 4_000));
        bench.shard.handle_validated(bench.now, source.ip());
        bench.take(source, bench.now, &www(u16::from(host)));
        ids.extend(bench.heard().orders.iter().map(|order| order.transmit));
    }
    assert_eq!(ids.len(), 12);
    let TransmitIdentifier::On(id) = ids[0] else { panic!("{ids:?}") };
    assert!(ids.iter().all(|transmit| *transmit == ids[0]), "one signal for all");
    bench.now = bench.now + Span::from_millis(900);
    assert_eq!(bench.shard.handle_signal(bench.now, "stop").races, 0);
    let signalled = bench.shard.handle_signal(bench.now, "go");
    assert_eq!((signalled.races, signalled.agents.len()), (4, 3));
    assert_eq!(bench.heard().signals, [id; 3], "one frame to each agent");
    assert_eq!(bench.shard.handle_signal(bench.now, "go").races, 0, "once");

    // The next race waits for another id: a late copy of the first signal must not start it.
    let next = bench.ask(4_001, www(9));
    assert!(matches!(next.orders[0].transmit, TransmitIdentifier::On(other) if other != id));
}

#[test]
fn a_race_is_held_at_most_as_long_as_agents_hold_and_then_answered() {
    let mut bench = Bench::new(held());
    let asked = bench.now;
    bench.ask(4_000, www(7));
    assert!(bench.wait(HOLD - Span::from_millis(1)).replies.is_empty());
    let heard = bench.wait(Span::from_millis(1));
    assert_eq!(heard.replies.len(), 1, "no receipt can come of a signal that was not fired: no further wait");
    assert_eq!(bench.count("answers_fallback_not_signalled"), 1);
    assert_eq!(bench.shard.handle_signal(bench.now, "go").races, 0, "it waits no longer");
    assert!(bench.wait(FALLBACK_AFTER).replies.is_empty(), "once");
    assert_eq!(bench.shard.open_races(), 0);
    assert_eq!(bench.now - asked, HOLD + FALLBACK_AFTER);
}

#[test]
fn a_shard_that_ends_answers_what_nobody_can_signal_any_more() {
    let mut bench = Bench::new(held());
    bench.ask(4_000, www(7));
    bench.shard.handle_stop();
    assert_eq!(bench.heard().replies.len(), 1);
    assert!(bench.wait(HOLD + FALLBACK_AFTER).replies.is_empty(), "once");
    // A race at T sees its agents through.
    let mut bench = Bench::new(config());
    bench.ask(4_000, www(7));
    bench.shard.handle_stop();
    assert_eq!(bench.heard().replies.len(), 0);
}

#[test]
fn after_a_named_signal_the_fallback_waits_for_receipts_as_after_t() {
    for (departed, fallbacks) in [(2, 0), (1, 1)] {
        let mut bench = Bench::new(held());
        let heard = bench.ask(4_000, www(7));
        bench.now = bench.now + Span::from_millis(600);
        bench.shard.handle_signal(bench.now, "go");
        bench.heard();
        for (order, id) in heard.orders.iter().zip(1..=departed) {
            bench.receipt(id, order, ReceiptOutcome::Departed);
        }
        assert!(bench.wait(FALLBACK_AFTER - Span::from_millis(1)).replies.is_empty());
        assert_eq!(bench.wait(Span::from_millis(1)).replies.len(), fallbacks, "{departed} departed");
        assert_eq!(bench.shard.open_races(), 0, "closed T + fallback_after, T being the signal");
        assert!(bench.wait(HOLD).replies.is_empty());
    }
}

#[test]
fn a_repeated_query_amends_a_race_that_is_held() {
    let mut bench = Bench::new(held());
    let first = bench.ask(4_000, www(7));
    bench.now = bench.now + Span::from_millis(400);
    let second = bench.ask(4_001, www(8));
    assert_eq!((second.orders.len(), second.replies.len()), (3, 0));
    assert_eq!(second.orders[0].transmit, first.orders[0].transmit, "for the same signal");
    assert_eq!(bench.shard.handle_signal(bench.now, "go").races, 1);
    // Once it is fired, the master answers a repetition itself.
    bench.now = bench.now + Span::from_millis(10);
    assert_eq!(bench.ask(4_002, www(9)).replies.len(), 1);
}

#[test]
fn a_signal_reaches_an_agent_that_has_stood_down_since_its_order() {
    for transmit in [Transmit::Signal, Transmit::Held("go".into())] {
        let mut bench = Bench::new(changed(|service| service.races[0].transmit = transmit.clone()));
        bench.ask(4_000, www(7));
        bench.shard.handle_agent(AgentView { readiness: Readiness::Unreachable, ..view(1, WAY) });
        let mut signals = bench.wait(DELAY).signals;
        bench.shard.handle_signal(bench.now, "go");
        signals.extend(bench.heard().signals);
        assert_eq!(signals.len(), 3, "{transmit:?}");
    }
}

fn departed(bench: &mut Bench, id: u64, order: &Ordered, lateness: Span, outcome: ReceiptOutcome) {
    let receipt = Receipt { race: order.race, revision: order.revision, outcome, lateness };
    bench.say(id, Frame::Receipt(receipt));
}

#[test]
fn spread_and_lateness_are_of_what_the_kernel_stamped_at_an_instant() {
    let micros = Span::from_micros;
    let mut bench = Bench::new(config());
    bench.shard.handle_agent(by_after(3));
    let heard = bench.ask(4_000, www(7));
    let order = |slot| to_slot(&heard.orders, slot).expect("ordered").clone();
    departed(&mut bench, 1, &order(1), micros(-20), ReceiptOutcome::Departed);
    departed(&mut bench, 1, &order(1), Span::from_secs(9), ReceiptOutcome::Departed);
    departed(&mut bench, 2, &order(2), micros(80), ReceiptOutcome::Departed);
    departed(&mut bench, 3, &order(3), micros(5_000), ReceiptOutcome::Departed);
    assert!(bench.shard.spreads().is_empty(), "not before the race is closed");
    bench.wait(DELAY + FALLBACK_AFTER);
    let close = |found: Span, micros: i64| (found.as_nanos() - micros * 1_000).abs() <= micros.abs() * 70;
    let spread = bench.shard.spreads()[&0].quantiles().expect("one race");
    assert!(spread.count == 1 && close(spread.p50, 100), "{spread:?}: without the agent by After");
    let lateness = |bench: &Bench, slot| bench.shard.lateness()[&slot].quantiles().expect("one departure");
    for (slot, expected) in [(1, -20), (2, 80), (3, 5_000)] {
        let found = lateness(&bench, slot);
        assert!(found.count == 1 && close(found.p50, expected), "{slot}: {found:?}");
    }
    bench.shard.handle_agent_gone(1);
    assert!(!bench.shard.lateness().contains_key(&1), "it goes with the agent");

    // One stamped departure is no spread, and neither are departures without a stamp.
    for outcomes in [
        [ReceiptOutcome::Departed, ReceiptOutcome::DepartedUnstamped],
        [ReceiptOutcome::Departed, ReceiptOutcome::Late],
    ] {
        let mut bench = Bench::new(config());
        let heard = bench.ask(4_000, www(7));
        for (order, (id, outcome)) in heard.orders.iter().zip((1..).zip(outcomes)) {
            departed(&mut bench, id, order, micros(id as i64 * 100), outcome);
        }
        bench.wait(DELAY + FALLBACK_AFTER);
        assert!(bench.shard.spreads().is_empty());
    }
}

#[test]
fn receipts_of_an_amended_race_do_not_mix_with_those_before() {
    let mut bench = Bench::new(config());
    let first = bench.ask(4_000, www(7));
    departed(&mut bench, 1, &first.orders[0], Span::from_millis(-90), ReceiptOutcome::Departed);
    let second = bench.ask(4_001, www(8));
    departed(&mut bench, 2, &second.orders[1], Span::from_micros(100), ReceiptOutcome::Departed);
    departed(&mut bench, 3, &second.orders[2], Span::from_micros(150), ReceiptOutcome::Departed);
    bench.wait(DELAY + FALLBACK_AFTER);
    let spread = bench.shard.spreads()[&0].quantiles().expect("one race");
    assert!((spread.p50 - Span::from_micros(50)).abs() < Span::from_micros(4), "{spread:?}");
}

#[test]
fn half_of_the_agents_can_be_reached_also_by_their_round_trips() {
    let mut bench = Bench::new(config());
    (1..=3).for_each(|slot| bench.shard.handle_agent(by_after(slot)));
    bench.ask(4_000, www(7));
    // 31 ms before T there is time, 1 ms later there is none.
    bench.now = bench.now + DELAY - Span::from_millis(31);
    assert_eq!(bench.ask(4_001, www(8)).orders.len(), 3);
    bench.now = bench.now + Span::from_millis(1);
    assert_eq!(bench.ask(4_002, www(9)).replies.len(), 1);
}
