//! The steps that an agent takes until it races, and how it falls out again.

mod bench;

use crate::control::{AgentReport, MAX_SERVICES, PROTOCOL, StandDown, ToAgent, ToMaster};
use crate::master::{AgentView, MAX_AGENTS, Readiness};
use crate::time::{Epoch, Span};
use crate::wire::session::CHALLENGE;
use bench::{Bench, REKEY, address, good_report, other_family, service, shared};

#[test]
fn an_agent_races_after_the_last_step_and_not_before() {
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    let heard = bench.hello(slot, None);
    let [
        ToAgent::Welcome { master, epoch, shards, .. },
        ToAgent::Playbook(playbook),
        ToAgent::SelfTest { service: tested, token, to: None },
        ToAgent::Session { id },
    ] = &heard.said[..]
    else {
        panic!("{:?}", heard.said)
    };
    assert_eq!((master.as_str(), *epoch, *shards), ("m0", Epoch(3), 2));
    assert_eq!(*playbook, shared().playbook("tokyo"));
    assert_eq!(*tested, service(), "its other address is none of ours, and is not tested");
    assert_eq!(bench.reason().as_deref(), Some(StandDown::NoSession.text()));

    bench.say(slot, ToMaster::SessionKept { id: *id });
    assert_eq!(bench.reason().as_deref(), Some(StandDown::NoPlaybook.text()));
    bench.say(slot, ToMaster::PlaybookKept { version: 1 });
    assert_eq!(bench.reason().as_deref(), Some(StandDown::NoPlaybook.text()), "not the one that was sent");
    bench.say(slot, ToMaster::PlaybookKept { version: playbook.version() });
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestPending.text()));
    let passed = bench.challenge(service(), *token);
    assert_eq!(passed.said, [ToAgent::Tested { service: service(), passed: true }]);
    assert_eq!(bench.reason().as_deref(), Some("no report yet"));
    let waiting = AgentReport { stand_down: Some(StandDown::ClockUnset), ..good_report() };
    bench.say(slot, ToMaster::Report(waiting));
    assert_eq!(bench.reason().as_deref(), Some(StandDown::ClockUnset.text()));
    bench.say(slot, ToMaster::Report(AgentReport { forward_delay: None, ..good_report() }));
    assert_eq!(bench.reason().as_deref(), Some("forward delay not yet measured"));
    let heard = bench.say(slot, ToMaster::Report(good_report()));
    assert_eq!(bench.reason(), None);

    let view = heard.published.last().expect("the shards are told");
    assert!((view.readiness == Readiness::AtInstant));
    assert_eq!(view.fast_path, address("203.0.113.7:5400"), "the connection's address, the hello's port");
    assert_eq!((view.site.as_str(), &view.services[..]), ("tokyo", &[service()][..]));
    assert_eq!(view.sessions.len(), 1);
    assert_eq!((view.playbook, view.expected_error), (playbook.version(), Span::from_micros(300)));
}

#[test]
fn a_playbook_that_the_agent_has_is_not_sent_again() {
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    let heard = bench.hello(slot, Some(shared().playbook("tokyo").version()));
    assert!(!heard.said.iter().any(|said| matches!(said, ToAgent::Playbook(_))), "{:?}", heard.said);
    bench.say(slot, ToMaster::SessionKept { id: heard.sessions[0] });
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestPending.text()));
}

#[test]
fn a_service_address_of_the_other_family_is_proved_elsewhere() {
    let elsewhere = address("[2001:db8::1]:8532");
    let mut bench = Bench::with_services(vec![service(), other_family()], Some(elsewhere));
    let slot = bench.connect("tokyo-1");
    let heard = bench.hello(slot, None);
    let tests: Vec<_> = heard.said.iter().filter(|said| matches!(said, ToAgent::SelfTest { .. })).collect();
    let [
        ToAgent::SelfTest { service: first, to: None, .. },
        ToAgent::SelfTest { service: second, token, to: Some(to) },
    ] = tests[..]
    else {
        panic!("{tests:?}")
    };
    assert_eq!((*first, *second, *to), (service(), other_family(), elsewhere));
    let again = ToAgent::SelfTest { service: other_family(), token: *token, to: Some(elsewhere) };
    assert!(bench.wait(Span::from_secs(1), Some(slot)).said.contains(&again));
    let passed = bench.challenge(other_family(), *token);
    assert_eq!(passed.said, [ToAgent::Tested { service: other_family(), passed: true }]);
}

#[test]
fn ten_challenges_that_do_not_arrive_fail_the_test_and_a_later_one_may_pass() {
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    let first = bench.hello(slot, None);
    let token = first.token().expect("a challenge");
    bench.say(slot, ToMaster::SessionKept { id: first.sessions[0] });
    bench.say(slot, ToMaster::PlaybookKept { version: shared().playbook("tokyo").version() });

    let heard = bench.wait(Span::from_millis(6_900), Some(slot));
    let again = ToAgent::SelfTest { service: service(), token, to: None };
    // The roster looks four times a second, so ten challenges are spread over ten times 750 ms.
    assert_eq!(heard.said, vec![again.clone(); 9], "the same token each time");
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestPending.text()));
    let heard = bench.wait(Span::from_secs(1), Some(slot));
    assert_eq!(heard.said, [ToAgent::Tested { service: service(), passed: false }]);
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestFailed.text()));
    assert!(bench.challenge(service(), token).said.is_empty(), "too late");

    let heard = bench.wait(Span::from_millis(10_250), Some(slot));
    let fresh = heard.token().expect("a new test after 10 s");
    assert_ne!(fresh, token);
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestPending.text()));
    bench.challenge(service(), fresh);
    assert_eq!(bench.reason(), None);
}

#[test]
fn only_the_right_token_from_the_right_source_passes_once() {
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    let token = bench.hello(slot, None).token().expect("a challenge");
    let mut wrong = token;
    wrong[15] ^= 1;
    assert!(bench.challenge(service(), wrong).said.is_empty());
    assert!(bench.challenge(address("203.0.113.7:5400"), token).said.is_empty(), "the agent's own address");
    assert!(bench.challenge(address("198.51.100.1:5353"), token).said.is_empty(), "another port");
    for scrap in [&[][..], &[CHALLENGE], &[CHALLENGE; 18]] {
        bench.roster.handle_challenge(bench.now, service(), scrap);
        assert!(bench.heard().said.is_empty());
    }
    assert_eq!(bench.challenge(service(), token).said.len(), 1);
    assert!(bench.challenge(service(), token).said.is_empty(), "a copy says nothing new");
}

#[test]
fn a_passed_test_is_repeated_while_the_agent_goes_on_racing() {
    let mut bench = Bench::new();
    let (slot, _) = bench.racing();
    bench.wait(Span::from_secs(295), Some(slot));
    let heard = bench.wait(Span::from_secs(6), Some(slot));
    let token = heard.token().expect("a repeated test after 300 s");
    assert_eq!(bench.reason(), None, "still racing");
    assert!(
        heard.published.iter().all(|view| (view.readiness == Readiness::AtInstant) && view.services == [service()])
    );
    bench.challenge(service(), token);
    assert_eq!(bench.reason(), None);

    // The network has changed: the next repetition fails, and the agent is out.
    let heard = bench.wait(Span::from_secs(312), Some(slot));
    assert!(heard.said.contains(&ToAgent::Tested { service: service(), passed: false }));
    assert_eq!(bench.reason().as_deref(), Some(StandDown::SourceTestFailed.text()));
    let last = heard.published.last().expect("the shards are told");
    assert!(last.readiness == Readiness::Unreachable && last.services.is_empty());
}

#[test]
fn an_agent_without_reports_stops_racing_and_comes_back_with_one() {
    let mut bench = Bench::new();
    let (slot, _) = bench.racing();
    let heard = bench.wait(Span::from_millis(3_500), None);
    assert!(heard.published.iter().all(|view| view.readiness == Readiness::AtInstant));
    assert_eq!(bench.reason(), None);
    let heard = bench.wait(Span::from_millis(250), None);
    assert!(heard.published.last().expect("the shards are told").readiness != Readiness::AtInstant);
    assert_eq!(bench.reason().as_deref(), Some("no report for 3.5 s"));
    let heard = bench.say(slot, ToMaster::Report(good_report()));
    assert!(heard.published.last().expect("the shards are told").readiness == Readiness::AtInstant);
}

#[test]
fn new_keys_send_once_acknowledged_and_old_ones_open_ten_seconds_more() {
    let mut bench = Bench::new();
    let (slot, first) = bench.racing();
    let heard = bench.wait(REKEY + Span::from_secs(1), Some(slot));
    assert_eq!(heard.sessions.len(), 1, "one successor");
    let second = heard.sessions[0];
    let ids = |view: &AgentView| view.sessions.iter().map(|session| session.id).collect::<Vec<_>>();
    let published = heard.published.last().expect("the shards are told");
    assert_eq!(ids(published), [second, first], "the last sends: the agent may not have the new one yet");

    let heard = bench.say(slot, ToMaster::SessionKept { id: second });
    assert_eq!(ids(heard.published.last().expect("told")), [first, second]);
    let heard = bench.wait(Span::from_millis(9_750), Some(slot));
    assert!(heard.published.iter().all(|view| ids(view) == [first, second]));
    let heard = bench.wait(Span::from_millis(500), Some(slot));
    assert_eq!(ids(heard.published.last().expect("told")), [second]);
    assert_eq!(bench.reason(), None);
    assert_eq!(heard.published.last().map(|view| view.readiness == Readiness::AtInstant), Some(true));
}

#[test]
fn a_session_that_the_agent_may_still_turn_to_outlives_those_with_a_successor() {
    let mut bench = Bench::rekeying(Span::from_millis(500));
    let (slot, _) = bench.racing();
    // Twice a second, for longer than the list is: those before live for another ten seconds.
    for _ in 0..12 {
        for id in bench.wait(Span::from_millis(500), Some(slot)).sessions {
            bench.say(slot, ToMaster::SessionKept { id });
        }
    }
    // Then the agent stands still.
    let heard = bench.wait(Span::from_secs(2), Some(slot));
    assert!(heard.sessions.len() >= 3, "{:?}", heard.sessions);
    let known = heard.published.last().expect("the shards are told");
    for id in heard.sessions {
        assert!(known.sessions.iter().any(|session| session.id == id), "{id:x} is gone");
    }
}

#[test]
fn a_connection_that_says_the_wrong_things_is_refused() {
    let hello = |protocol, services| ToMaster::Hello {
        protocol,
        site: "tokyo".into(),
        fast_path: address("0.0.0.0:5400"),
        services,
        playbook: None,
        mesh_salt: None,
    };
    for (message, words) in [
        (hello(PROTOCOL + 1, vec![service()]), "protocol 2"),
        (hello(PROTOCOL, vec![service(); MAX_SERVICES + 1]), "65 service addresses, at most 64"),
    ] {
        let mut bench = Bench::new();
        let slot = bench.connect("tokyo-1");
        let heard = bench.say(slot, message);
        let [ToAgent::Refused { reason }] = &heard.said[..] else { panic!("{:?}", heard.said) };
        assert!(reason.contains(words), "{reason}");
        assert_eq!(heard.closed, [slot]);
    }
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    bench.hello(slot, None);
    assert_eq!(bench.hello(slot, None).closed, [slot], "a second hello");
}

#[test]
fn an_agent_that_lists_none_of_our_addresses_never_races() {
    let mut bench = Bench::new();
    let slot = bench.connect("tokyo-1");
    let heard = bench.say(
        slot,
        ToMaster::Hello {
            protocol: PROTOCOL,
            site: "tokyo".into(),
            fast_path: address("0.0.0.0:5400"),
            services: vec![address("198.51.100.200:53")],
            playbook: Some(shared().playbook("tokyo").version()),
            mesh_salt: None,
        },
    );
    assert_eq!(heard.token(), None);
    bench.say(slot, ToMaster::SessionKept { id: heard.sessions[0] });
    bench.say(slot, ToMaster::Report(good_report()));
    assert_eq!(bench.reason().as_deref(), Some("the agent lists none of this master's service addresses"));
}

#[test]
fn a_second_connection_of_the_same_name_replaces_the_first() {
    let mut bench = Bench::new();
    let (first, _) = bench.racing();
    let second = bench.connect("tokyo-1");
    let heard = bench.heard();
    assert_eq!((heard.closed, heard.retired), (vec![first], vec![first]));
    assert_ne!(first, second);
    assert_eq!(bench.roster.status(bench.now).len(), 1);
    assert!(bench.say(first, ToMaster::Report(good_report())).published.is_empty(), "the old one is not listened to");
}

#[test]
fn a_lost_connection_retires_the_agent() {
    let mut bench = Bench::new();
    let (slot, _) = bench.racing();
    bench.roster.handle_disconnected(slot);
    assert_eq!(bench.heard().retired, [slot]);
    assert!(bench.roster.status(bench.now).is_empty());
    bench.roster.handle_disconnected(slot);
    assert!(bench.heard().retired.is_empty());
}

#[test]
fn the_roster_is_bounded() {
    let mut bench = Bench::new();
    for number in 0..MAX_AGENTS {
        bench.connect(&format!("agent-{number}"));
    }
    assert_eq!(bench.roster.handle_connected(bench.now, "one-more", [203, 0, 113, 7].into(), Vec::new()), None);
    assert!(
        bench.roster.handle_connected(bench.now, "agent-5", [203, 0, 113, 7].into(), Vec::new()).is_some(),
        "a known one may"
    );
}

#[test]
fn an_agent_whose_timing_is_in_doubt_still_runs_what_needs_none() {
    let timing = [
        StandDown::ClockUnset,
        StandDown::ClockStepped,
        StandDown::SourcesDisagree,
        StandDown::ExpectedError,
        StandDown::Bound,
        StandDown::Lateness,
    ];
    let mut bench = Bench::new();
    let (slot, _) = bench.racing();
    for reason in timing {
        let heard = bench.say(slot, ToMaster::Report(AgentReport { stand_down: Some(reason), ..good_report() }));
        let status = &bench.roster.status(bench.now)[0];
        assert_eq!((status.readiness, status.racing), (Readiness::BySignal, false), "{reason:?}");
        assert_eq!(status.reason.as_deref(), Some(reason.text()));
        let published = heard.published.last().map(|view| view.readiness);
        assert!(published.is_none_or(|readiness| readiness == Readiness::BySignal), "{reason:?}");
    }
    bench.say(slot, ToMaster::Report(AgentReport { stand_down: Some(StandDown::NoSession), ..good_report() }));
    assert_eq!(bench.roster.status(bench.now)[0].readiness, Readiness::Unreachable);
}

#[test]
fn an_agent_races_by_after_once_its_round_trip_is_known() {
    let mut bench = Bench::new();
    let (slot, _) = bench.racing();
    let by_after = AgentReport { by_after: Some(StandDown::ExpectedError), ..good_report() };
    bench.say(slot, ToMaster::Report(by_after.clone()));
    assert_eq!(bench.reason().as_deref(), Some("round trip not yet measured"));
    let clock = by_after
        .clock
        .map(|clock| crate::control::ClockFigures { least_round_trip: Some(Span::from_millis(60)), ..clock });
    let heard = bench.say(slot, ToMaster::Report(AgentReport { clock, forward_delay: None, ..by_after }));
    let status = &bench.roster.status(bench.now)[0];
    assert_eq!((status.readiness, status.racing), (Readiness::ByAfter, true));
    assert_eq!(status.reason.as_deref(), Some(StandDown::ExpectedError.text()));
    let view = heard.published.last().expect("the shards are told");
    assert_eq!((view.readiness, view.round_trip), (Readiness::ByAfter, Some(Span::from_millis(60))));
}
