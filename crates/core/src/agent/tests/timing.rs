//! Orders by `After`, and when an agent stands down and comes back.

use super::super::*;
use super::bench::*;
use crate::control::StandDown;
use crate::dns::answer::tests::query_bytes;
use domain::base::Rtype;

/// A clock that is never good enough, by its statistical error.
fn hopeless(on_bad_clock: OnBadClock) -> AgentConfig {
    AgentConfig { max_expected_error: Span::from_nanos(1), on_bad_clock, ..config() }
}

fn connected(config: AgentConfig) -> Bench {
    let mut bench = Bench::fresh(config);
    bench.welcome(EPOCH);
    bench.begin_session(1);
    bench.hear(ToAgent::Playbook(playbook(1)));
    bench.hear(ToAgent::Tested { service: service(), passed: true });
    bench.exchanges(8);
    bench
}

/// Gives an order, lets its answer depart so much after its time, and returns the receipt.
fn run(bench: &mut Bench, order: &Order<'_>, late_by: Span) -> Receipt {
    let departure = sole(&bench.give_order(order));
    bench.now = bench.now.max(departure.at) + late_by;
    let outcome = match departure.latest {
        Some(latest) if bench.now > latest => DepartureOutcome::Late { at: bench.now },
        _ => DepartureOutcome::Departed { at: bench.now, kernel_stamped: true },
    };
    bench.agent.handle_departed(bench.now, departure.key, outcome);
    let outputs = bench.drain();
    bench.receipts(&outputs).remove(0)
}

#[test]
fn an_order_by_after_departs_a_span_after_its_receipt_whatever_the_clock() {
    let span = Span::from_millis(70);
    let query = www();
    for mut bench in [Bench::ready(), connected(hopeless(OnBadClock::After))] {
        let order = Order { transmit: TransmitIdentifier::After(span), ..bench.order(&query) };
        // The kernel had it 3 ms before the program did.
        let received_at = bench.now;
        let datagram = bench.datagram(0, &[Frame::Order(order.clone())]);
        bench.now = bench.now + Span::from_millis(3);
        bench.agent.handle_datagram(bench.now, received_at, &datagram);
        let departure = sole(&bench.drain());
        assert_eq!(departure.at, received_at + span);
        assert_eq!(departure.latest, Some(received_at + span + TOLERANCE));
        let at = departure.at + Span::from_micros(40);
        let outcome = DepartureOutcome::Departed { at, kernel_stamped: true };
        bench.agent.handle_departed(at, departure.key, outcome);
        let outputs = bench.drain();
        assert_eq!(bench.receipts(&outputs)[0].lateness, Span::from_micros(40), "against receipt + span");
    }
}

#[test]
fn spans_from_the_network_are_taken_as_what_they_can_mean() {
    let mut bench = Bench::ready();
    let query = www();
    for span in [Span::MIN, Span::from_nanos(-1), Span::ZERO] {
        let order = Order { transmit: TransmitIdentifier::After(span), ..bench.order(&query) };
        assert_eq!(sole(&bench.give_order(&order)).at, bench.now, "{span:?}: at once");
    }
    for span in [Span::MAX, Span::from_millis(1_001)] {
        let order = Order { transmit: TransmitIdentifier::After(span), ..bench.order(&query) };
        assert!(departures(&bench.give_order(&order)).is_empty(), "{span:?}");
    }
    assert_eq!(bench.count("order_refused_too_far_ahead"), 2);
}

#[test]
fn an_amended_order_by_after_keeps_its_departure() {
    let mut bench = Bench::ready();
    let query = www();
    let first = Order { transmit: TransmitIdentifier::After(Span::from_millis(70)), ..bench.order(&query) };
    let before = sole(&bench.give_order(&first));
    bench.now = bench.now + Span::from_millis(30);
    // T is the same, 40 ms from now.
    let transmit = TransmitIdentifier::After(Span::from_millis(40));
    let after = sole(&bench.give_order(&Order { revision: 1, transmit, ..first.clone() }));
    assert_eq!((before.key, before.at), (after.key, after.at));
    bench.now = after.at + Span::from_micros(1);
    let third = Order { revision: 2, transmit: TransmitIdentifier::After(Span::ZERO), ..first };
    assert!(departures(&bench.give_order(&third)).is_empty());
    assert_eq!(bench.count("order_refused_amended_too_late"), 1);
}

#[test]
fn a_bad_clock_is_told_as_the_configuration_says_and_refuses_instants_either_way() {
    for (on_bad_clock, stand_down, by_after) in [
        (OnBadClock::StandDown, Some(StandDown::ExpectedError), None),
        (OnBadClock::After, None, Some(StandDown::ExpectedError)),
    ] {
        let mut bench = connected(hopeless(on_bad_clock));
        let report = bench.agent.report(bench.now, 0);
        assert_eq!((report.stand_down, report.by_after), (stand_down, by_after), "{on_bad_clock:?}");
        assert_eq!(report.round_trip(), Some(WAY + WAY));
        let query = www();
        let order = bench.order(&query);
        assert!(departures(&bench.give_order(&order)).is_empty(), "{on_bad_clock:?}");
        assert_eq!(bench.count("order_refused_standing_down"), 1);
        // A master cannot talk an agent that stands down into racing.
        let order = Order { transmit: TransmitIdentifier::After(Span::from_millis(50)), ..bench.order(&query) };
        assert_eq!(departures(&bench.give_order(&order)).len() == 1, by_after.is_some(), "{on_bad_clock:?}");
    }
    // A clock that is unset or whose bound is beyond its limit stands down all the same.
    let mut bench = Bench::fresh(hopeless(OnBadClock::After));
    bench.welcome(EPOCH);
    bench.begin_session(1);
    bench.hear(ToAgent::Playbook(playbook(1)));
    bench.hear(ToAgent::Tested { service: service(), passed: true });
    assert_eq!(bench.stand_down(), Some(StandDown::ClockUnset));
    let max_bound = Span::from_millis(9);
    let bound = connected(AgentConfig { max_bound, on_bad_clock: OnBadClock::After, ..config() });
    assert_eq!(bound.stand_down(), Some(StandDown::Bound));
    // Also where the statistical error is beyond its own.
    let mut both = connected(AgentConfig { max_bound, ..hopeless(OnBadClock::After) });
    assert_eq!(both.stand_down(), Some(StandDown::Bound));
    let query = www();
    let order = Order { transmit: TransmitIdentifier::After(Span::from_millis(50)), ..both.order(&query) };
    assert!(departures(&both.give_order(&order)).is_empty());
}

#[test]
fn a_stepped_clock_stands_down_within_one_exchange_and_is_counted_once() {
    let mut bench = Bench::ready();
    let exchange = loop {
        let outputs = bench.wait(Span::from_millis(10));
        if let Some(exchange) = bench.requests(&outputs).pop() {
            break exchange;
        }
    };
    let stepped = bench.race_now() + Span::from_secs(1);
    bench.seal(0, &[Frame::SyncReply { exchange, received: stepped, replied: stepped, previous: (0, stepped) }]);
    assert_eq!(bench.stand_down(), Some(StandDown::ClockStepped));
    assert_eq!(bench.count("stood_down_clock_stepped"), 1);
    // The master hears of it at once, not with the next second's report.
    let outputs = bench.wait(Span::ZERO);
    let told = outputs.iter().any(|output| {
        matches!(output, Output::Control { message: ToMaster::Report(report), .. }
            if report.stand_down == Some(StandDown::ClockStepped))
    });
    assert!(told, "{outputs:?}");
}

#[test]
fn ten_late_departures_stand_the_agent_down_for_a_while() {
    for late in [LatePolicy::Drop, LatePolicy::Send] {
        let mut bench = Bench::ready();
        let (name, query) = match late {
            LatePolicy::Drop => (0, www()),
            LatePolicy::Send => (1, query_bytes("x.send.cdn.test", Rtype::A, None)),
        };
        for number in 0..10 {
            assert_eq!(bench.stand_down(), None, "{late:?} {number}");
            let order = Order { name, ..bench.order(&query) };
            run(&mut bench, &order, Span::from_millis(3));
        }
        assert_eq!(bench.stand_down(), Some(StandDown::Lateness), "{late:?}");
        assert_eq!(bench.count("stood_down_lateness"), 1);
        let counter = if late == LatePolicy::Drop { "departures_dropped_late" } else { "departures_late" };
        assert_eq!(bench.count(counter), 10);
        let order = Order { name, ..bench.order(&query) };
        assert!(departures(&bench.give_order(&order)).is_empty());
        // A race by signal asks for no punctuality.
        let held = Order { name, transmit: TransmitIdentifier::On(9), ..bench.order(&query) };
        bench.give_order(&held);
        assert_eq!(departures(&bench.seal(0, &[Frame::Signal { id: 9 }])).len(), 1);
        bench.exchanges(4);
        assert_eq!(bench.stand_down(), Some(StandDown::Lateness), "{late:?}");
        bench.wait(Span::from_secs(5));
        bench.exchanges(4);
        assert_eq!(bench.stand_down(), None, "{late:?}: after five seconds it tries again");
    }
}

#[test]
fn an_order_that_came_late_is_not_held_against_the_host() {
    let mut bench = Bench::ready();
    let query = query_bytes("x.send.cdn.test", Rtype::A, None);
    for _ in 0..20 {
        let transmit = TransmitIdentifier::At(bench.race_now() - Span::from_millis(60));
        let order = Order { name: 1, transmit, ..bench.order(&query) };
        let receipt = run(&mut bench, &order, Span::from_micros(50));
        assert!((receipt.lateness - Span::from_millis(60)).abs() < Span::from_millis(1), "{receipt:?}");
    }
    assert_eq!(bench.stand_down(), None);
    assert_eq!(bench.count("departures_late"), 20);
    // Nor are departures that are within the limit.
    let order = Order { name: 1, ..bench.order(&query) };
    run(&mut bench, &order, Span::from_millis(1));
    assert_eq!(bench.count("departures_late"), 20);
}

#[test]
fn an_order_that_was_held_back_until_its_race_is_forgotten_is_refused() {
    let mut bench = Bench::ready();
    let query = query_bytes("x.send.cdn.test", Rtype::A, None);
    let order = Order { name: 1, ..bench.order(&query) };
    run(&mut bench, &order, Span::ZERO);
    // Its amendment was sealed before and comes when nothing of the race is left.
    let amendment = bench.datagram(0, &[Frame::Order(Order { revision: 1, ..order })]);
    bench.wait(HOLD + Span::from_millis(200));
    assert!(bench.agent.pending.is_empty());
    bench.exchanges(1);
    assert!(departures(&bench.give(&amendment)).is_empty());
    assert_eq!(bench.count("order_refused_repeated"), 1);
}

#[test]
fn an_order_without_an_instant_is_refused_once_its_race_may_be_forgotten() {
    let mut bench = Bench::ready();
    let query = www();
    let after = TransmitIdentifier::After(Span::from_millis(20));
    let order = Order { transmit: after, ..bench.order(&query) };
    run(&mut bench, &order, Span::ZERO);
    let held_back = bench.datagram(0, &[Frame::Order(Order { revision: 1, ..order.clone() })]);
    bench.wait(HOLD + Span::from_millis(200));
    assert!(bench.agent.pending.is_empty());
    bench.exchanges(1);
    assert!(departures(&bench.give(&held_back)).is_empty());
    assert_eq!(bench.count("order_refused_repeated"), 1);
    let next = Order { race: order.race + 1, ..order };
    assert_eq!(departures(&bench.give_order(&next)).len(), 1, "a newer race is none of those");
}

#[test]
fn an_answer_that_leaves_while_it_is_told_to_wait_leaves_nothing_behind() {
    let mut bench = Bench::ready();
    let query = www();
    let first = bench.order(&query);
    let departure = sole(&bench.give_order(&first));
    bench.give_order(&Order { revision: 1, transmit: TransmitIdentifier::On(5), ..first });
    bench.now = departure.at;
    let outcome = DepartureOutcome::Departed { at: departure.at, kernel_stamped: true };
    bench.agent.handle_departed(bench.now, departure.key, outcome);
    bench.drain();
    assert!(bench.agent.held.is_empty());
    assert!(bench.seal(0, &[Frame::Signal { id: 5 }]).is_empty(), "it has left once");
}

#[test]
fn a_signal_releases_all_that_wait_for_it_and_nothing_else() {
    let mut bench = Bench::ready();
    let query = www();
    let hold = |bench: &mut Bench, id| {
        let order = Order { transmit: TransmitIdentifier::On(id), ..bench.order(&query) };
        assert!(bench.give_order(&order).is_empty());
        order
    };
    let first: Vec<_> = (0..5).map(|_| hold(&mut bench, 7)).collect();
    let other = hold(&mut bench, 8);
    // One is amended: to another client, for the same signal. Another is moved to an instant.
    let client = address("203.0.113.9:5555");
    bench.give_order(&Order { revision: 1, client, ..first[0].clone() });
    let transmit = TransmitIdentifier::At(bench.race_now() + Span::from_millis(50));
    let moved = sole(&bench.give_order(&Order { revision: 1, transmit, ..first[1].clone() }));
    assert_eq!(bench.agent.held.len(), 5, "an entry for each answer that is held");
    let released = departures(&bench.seal(0, &[Frame::Signal { id: 7 }]));
    assert_eq!(released.len(), 4);
    assert!(released.iter().all(|departure| departure.at == bench.now && departure.key != moved.key));
    assert_eq!(released.iter().filter(|departure| departure.to == client).count(), 1);
    assert!(bench.seal(0, &[Frame::Signal { id: 7 }]).is_empty(), "once");
    bench.wait(HOLD + Span::from_millis(1));
    assert_eq!(bench.count("orders_expired_without_signal"), 1, "{other:?}");
    assert!(bench.agent.held.is_empty());
}
