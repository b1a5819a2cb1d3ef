//! What the agent knows of a master: playbooks, keys, clock, and whether it is ready to race for it.

use super::super::*;
use super::bench::*;
use crate::control::StandDown;
use crate::time::Epoch;
use crate::wire::session::CHALLENGE;
use std::net::Ipv4Addr;

#[test]
fn the_previous_playbook_is_still_played_and_the_one_before_is_not() {
    let mut bench = Bench::ready();
    let query = www();
    for last_octet in [2, 3] {
        let outputs = bench.hear(ToAgent::Playbook(playbook(last_octet)));
        let version = playbook(last_octet).version();
        assert!(outputs.contains(&Output::Control { master: 0, message: ToMaster::PlaybookKept { version } }));
    }
    for (last_octet, played) in [(3, true), (2, true), (1, false)] {
        let order = Order { playbook: playbook(last_octet).version(), ..bench.order(&query) };
        let departures = departures(&bench.give_order(&order));
        assert_eq!(departures.len() == 1, played, "playbook {last_octet}");
        assert!(
            departures.iter().all(|departure| { departure.bytes.windows(4).any(|ip| ip == [192, 0, 2, last_octet]) })
        );
    }
    assert_eq!(bench.count("order_refused_unknown_playbook"), 1);
    // The same again is no change: the previous one stays.
    bench.hear(ToAgent::Playbook(playbook(3)));
    let order = Order { playbook: playbook(2).version(), ..bench.order(&query) };
    assert_eq!(departures(&bench.give_order(&order)).len(), 1);
}

#[test]
fn a_playbook_beyond_its_limits_is_refused_and_the_old_one_stays() {
    let mut bench = Bench::ready();
    let mut wide = playbook(9);
    wide.races[0].answers.a = vec![Ipv4Addr::LOCALHOST; crate::playbook::MAX_ADDRESSES + 1];
    assert!(bench.hear(ToAgent::Playbook(wide)).is_empty(), "no acknowledgement");
    assert_eq!(bench.count("playbook_refused"), 1);
    let query = www();
    let order = bench.order(&query);
    assert_eq!(departures(&bench.give_order(&order)).len(), 1);
}

#[test]
fn a_challenge_departs_only_from_a_listed_service_address() {
    let mut bench = Bench::ready();
    let token = [9; 16];
    let outputs = bench.hear(ToAgent::SelfTest { service: service(), token, to: None });
    let mut bytes = vec![CHALLENGE];
    bytes.extend_from_slice(&token);
    assert_eq!(
        outputs,
        [Output::Challenge { service: service(), to: address("203.0.113.1:5300"), bytes: bytes.clone() }]
    );
    for foreign in ["198.51.100.50:53", "198.51.100.99:53"] {
        assert!(bench.hear(ToAgent::SelfTest { service: address(foreign), token, to: None }).is_empty());
        // Nor can a master talk an agent into an address by declaring it tested.
        bench.hear(ToAgent::Tested { service: address(foreign), passed: true });
        let query = www();
        let order = Order { service: address(foreign), ..bench.order(&query) };
        assert!(departures(&bench.give_order(&order)).is_empty(), "{foreign}");
    }
    assert_eq!(bench.count("self_test_refused"), 2);
    // A destination of its own; of the other family there is no way to it.
    let elsewhere = address("203.0.113.1:8532");
    let outputs = bench.hear(ToAgent::SelfTest { service: service(), token, to: Some(elsewhere) });
    assert_eq!(outputs, [Output::Challenge { service: service(), to: elsewhere, bytes }]);
    let to = Some(address("[2001:db8::1]:8532"));
    assert!(bench.hear(ToAgent::SelfTest { service: service(), token, to }).is_empty());
    assert_eq!(bench.count("self_test_refused"), 3);
}

#[test]
fn the_reasons_to_stand_down_clear_one_by_one() {
    let mut bench = Bench::fresh(config());
    let query = www();
    assert_eq!(bench.stand_down(), Some(StandDown::NoSession));
    bench.welcome(EPOCH);
    assert_eq!(bench.stand_down(), Some(StandDown::NoSession));
    bench.begin_session(1);
    assert_eq!(bench.stand_down(), Some(StandDown::NoPlaybook));
    bench.hear(ToAgent::Playbook(playbook(1)));
    assert_eq!(bench.stand_down(), Some(StandDown::SourceTestPending));
    bench.hear(ToAgent::Tested { service: service(), passed: false });
    assert_eq!(bench.stand_down(), Some(StandDown::SourceTestFailed));
    bench.hear(ToAgent::Tested { service: service(), passed: true });
    assert_eq!(bench.stand_down(), Some(StandDown::ClockUnset));
    let order = bench.order(&query);
    assert!(departures(&bench.give_order(&order)).is_empty());
    assert_eq!(bench.count("order_refused_standing_down"), 1);
    // A signal needs no clock.
    let order = Order { transmit: TransmitIdentifier::On(5), ..bench.order(&query) };
    bench.give_order(&order);
    assert_eq!(departures(&bench.seal(0, &[Frame::Signal { id: 5 }])).len(), 1);
    bench.exchanges(8);
    assert_eq!(bench.stand_down(), None);
    assert_eq!(bench.agent.report(bench.now, 1).stand_down, Some(StandDown::NoSession), "the other master");
}

#[test]
fn a_clock_that_is_not_good_enough_stands_the_agent_down() {
    for (max_expected_error, max_bound, reason) in [
        (Span::from_millis(3), Span::from_millis(9), StandDown::Bound),
        (Span::from_nanos(1), Span::from_millis(250), StandDown::ExpectedError),
    ] {
        let mut bench = Bench::fresh(AgentConfig { max_expected_error, max_bound, ..config() });
        bench.welcome(EPOCH);
        bench.begin_session(1);
        bench.hear(ToAgent::Playbook(playbook(1)));
        bench.hear(ToAgent::Tested { service: service(), passed: true });
        bench.exchanges(8);
        assert_eq!(bench.stand_down(), Some(reason));
        let query = www();
        let order = bench.order(&query);
        assert!(departures(&bench.give_order(&order)).is_empty(), "{reason:?}");
    }
}

#[test]
fn a_step_and_a_new_epoch_stand_the_agent_down_until_new_exchanges() {
    let mut bench = Bench::ready();
    // Replies that place the master a second ahead contradict everything before.
    let outputs = loop {
        let outputs = bench.wait(Span::from_millis(10));
        if outputs.iter().any(|output| matches!(output, Output::Send { .. })) {
            break outputs;
        }
    };
    let exchange = bench.requests(&outputs)[0];
    let stepped = bench.race_now() + Span::from_secs(1);
    bench.seal(0, &[Frame::SyncReply { exchange, received: stepped, replied: stepped, previous: (0, stepped) }]);
    assert_eq!(bench.stand_down(), Some(StandDown::ClockStepped));

    let mut bench = Bench::ready();
    bench.binding.epoch = Epoch(8);
    bench.welcome(Epoch(8));
    assert_eq!(bench.stand_down(), Some(StandDown::NoSession), "keys belong to an epoch");
    bench.begin_session(2);
    bench.hear(ToAgent::Tested { service: service(), passed: true });
    assert_eq!(bench.stand_down(), Some(StandDown::ClockUnset));
    bench.exchanges(8);
    assert_eq!(bench.stand_down(), None);
}

#[test]
fn a_signal_of_synchronisation_bounds_the_clock_from_below() {
    let mut bench = Bench::fresh(config());
    bench.welcome(EPOCH);
    bench.begin_session(1);
    bench.now = bench.now + Span::from_millis(50);
    let sent = bench.race_now() - WAY;
    let outputs = bench.seal(0, &[Frame::SyncSignal { sent }]);
    let Some(Output::Audit(Audit::Clock { reading, .. })) = outputs.last() else { panic!("{outputs:?}") };
    let truth = Span::from_nanos(bench.race_now().as_nanos());
    assert!(reading.interval.contains(truth));
    assert_eq!((reading.interval.high, reading.bound), (Span::MAX, Span::MAX));
    assert!(truth - reading.interval.low <= WAY + Span::from_micros(20), "{reading:?}");
    assert_eq!(bench.count("sync_signals"), 1);
}

#[test]
fn old_keys_stay_good_for_ten_seconds() {
    let mut bench = Bench::ready();
    let query = www();
    let (mut old, _) = keys(&binding("m0", 50));
    bench.begin_session(50);
    bench.begin_session(51);
    let mut seal_old = |bench: &mut Bench| {
        let order = bench.order(&query);
        let (mut plain, mut bytes) = (Vec::new(), Vec::new());
        Frame::Order(order).encode(&mut plain);
        old[0].seal(&plain, &mut bytes);
        departures(&bench.give(&bytes)).len()
    };
    assert_eq!(seal_old(&mut bench), 1);
    bench.exchanges(30);
    bench.now = bench.now + Span::from_millis(200);
    assert_eq!(seal_old(&mut bench), 1, "{:?}", bench.now);
    bench.now = bench.now + Span::from_secs(10);
    assert_eq!(seal_old(&mut bench), 0);
    assert_eq!(bench.count("datagram_unknown_session"), 1);
}

#[test]
fn orders_outlive_a_lost_control_connection_by_ten_seconds() {
    let mut bench = Bench::ready();
    let query = www();
    bench.agent.handle_disconnected(bench.now, 0);
    bench.now = bench.now + Span::from_millis(9_900);
    let order = bench.order(&query);
    assert_eq!(departures(&bench.give_order(&order)).len(), 1);
    bench.now = bench.now + Span::from_millis(200);
    assert_eq!(bench.stand_down(), Some(StandDown::NoSession));
    let order = bench.order(&query);
    assert!(departures(&bench.give_order(&order)).is_empty());
    let outputs = bench.wait(Span::from_secs(2));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Control { .. })), "nobody to report to: {outputs:?}");
}

#[test]
fn forward_delay_is_measured_from_orders_and_reported() {
    let mut bench = Bench::ready();
    let query = www();
    for millis in [10, 10, 10, 44] {
        let order = Order { sent: bench.race_now() - Span::from_millis(millis), ..bench.order(&query) };
        bench.give_order(&order);
    }
    let forward = bench.agent.report(bench.now, 0).forward_delay.expect("measured");
    assert!((forward.greatest - Span::from_millis(44)).abs() < Span::from_micros(50), "{forward:?}");
    let outputs = bench.wait(Span::from_secs(1));
    let reported = outputs.iter().any(|output| {
        matches!(output, Output::Control { master: 0, message: ToMaster::Report(report) } if report.forward_delay == Some(forward))
    });
    assert!(reported, "{outputs:?}");
}
