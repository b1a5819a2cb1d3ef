//! Claims 1 to 11: the core's machines on a network of delays, in virtual time, with every datagram opened by hand.
//!
//! The machines are the ones that the servers run. The wire, the clocks and the departure thread around them are this
//! file's, exact to the nanosecond, so that what the machines decide can be compared with what was true.

mod common;

#[path = "claims_core/world.rs"]
mod world;

use common::dns;
use startgun_core::agent::Output;
use startgun_core::clock::ClockConfig;
use startgun_core::control::StandDown;
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::{LocalTime, RaceTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::{Direction, Frame, Opener, Order, ReceiptOutcome, Sealer, TransmitIdentifier};
use std::collections::BTreeSet;
use world::{Heard, Plan, WAYS_MS, World, binding, client, playbook, service_address};

const DELAY: Span = Span::from_millis(100);
/// How exact the agents' clocks are here: the ways are symmetric and steady, kernel stamps may be wrong by 10 µs.
const CLOCK_ERROR: Span = Span::from_micros(60);

/// A plan with a fixed predetermined delay.
fn fixed(delay: Span) -> Plan {
    Plan { delay: Delay::Fixed(delay), ..Plan::default() }
}

fn ms(millis: i64) -> Span {
    Span::from_millis(millis)
}

/// T of every order of the newest race; all agents' must be the same.
fn transmit_at(world: &World) -> RaceTime {
    let at: BTreeSet<RaceTime> = world.orders().iter().map(|order| order.at.expect("an instant")).collect();
    assert_eq!(at.len(), 1, "one T for all agents: {at:?}");
    *at.first().expect("at least one order")
}

#[test]
fn claim_01_each_agent_gets_the_query_and_one_instant() {
    let mut world = World::ready(fixed(DELAY));
    let query = dns::query(4_711, "wWw.cdn.test");
    let received = world.ask(&query);
    world.run_for(ms(60));
    let orders = world.orders();
    assert_eq!(orders.iter().map(|order| order.site).collect::<Vec<_>>(), [0, 1, 2], "one order for each agent");
    for order in &orders {
        assert_eq!(order.query, query, "the query as it came");
        assert_eq!(order.client, client());
        assert_eq!(order.race, orders[0].race);
        assert_eq!(order.signal, None);
    }
    assert_eq!(transmit_at(&world), RaceTime::of_master(received) + DELAY);
    world.run_for(ms(100));
    assert_eq!(world.departures.len(), 3, "every agent's answer departs: {:?}", world.departures);
}

#[test]
fn claim_01_each_agent_gets_the_query_and_one_signal() {
    let mut world = World::ready(Plan { transmit: Transmit::Signal, ..fixed(DELAY) });
    let received = world.ask(&dns::query(1, "www.cdn.test"));
    world.run_for(ms(99));
    let orders = world.orders();
    let ids: BTreeSet<u64> = orders.iter().map(|order| order.signal.expect("a signal's id")).collect();
    assert_eq!((orders.len(), ids.len()), (3, 1), "one order for each agent, one id for all: {orders:?}");
    assert!(orders.iter().all(|order| order.at.is_none()));
    let signals = |world: &World| -> Vec<(usize, u64, LocalTime)> {
        let signals = world.sent.iter().filter_map(|sent| match sent.heard {
            Heard::Signal(id) => Some((sent.site, id, sent.at)),
            _ => None,
        });
        signals.collect()
    };
    assert!(signals(&world).is_empty() && world.departures.is_empty(), "nothing before T");
    world.run_for(ms(60));
    let id = *ids.first().expect("one");
    assert_eq!(signals(&world), [0, 1, 2].map(|site| (site, id, received + DELAY)), "the signal, to each, at T");
    assert_eq!(world.departures.len(), 3, "{:?}", world.departures);
    for left in &world.departures {
        let arrived = received + DELAY + ms(WAYS_MS[left.site]) + world::HANDLING;
        // Crossing to the agent's clock and back rounds to the nanosecond.
        let error = (left.at - arrived).abs();
        assert!(error <= Span::from_nanos(2), "site {} departs when the signal arrives, not {error:?} off", left.site);
    }
}

#[test]
fn claim_02_every_server_has_a_clock_and_follows_the_masters() {
    let world = World::ready(fixed(DELAY));
    for (index, site) in world.sites.iter().enumerate() {
        // The agents' own clocks differ from the master's by seconds, each by its own.
        assert!((site.local(world.now) - world.now).abs() > Span::from_secs(1));
        let clock = site.agent.report(site.local(world.now), 0).clock.expect("a clock");
        let estimate = site.local(world.now) + clock.offset;
        let error = (estimate - world.now).abs();
        let bound = clock.bound.expect("proven from both sides");
        assert!(error <= CLOCK_ERROR, "site {index} is wrong by {error:?}");
        assert!(error <= bound && bound <= ms(WAYS_MS[index]) + ms(1), "site {index}: {error:?}, bound {bound:?}");
    }
    // The master's own stamps are true: its clock is the timeline.
    let mut replies = 0;
    for sent in &world.sent {
        if let Heard::SyncReply { received, replied } = sent.heard {
            assert_eq!(replied, RaceTime::of_master(sent.at));
            assert_eq!(replied - received, world::HANDLING);
            replies += 1;
        }
    }
    assert!(replies >= 3 * 16, "only {replies} exchanges");
}

#[test]
fn claim_03_the_identifier_is_timestamp_plus_delay() {
    for delay in [ms(60), ms(100), Span::from_nanos(123_456_789)] {
        let mut world = World::ready(fixed(delay));
        let received = world.ask(&dns::query(1, "www.cdn.test"));
        world.run_for(ms(60));
        assert_eq!(transmit_at(&world) - RaceTime::of_master(received), delay);
    }
}

#[test]
fn claim_04_one_sealed_datagram_carries_request_and_identifier() {
    let mut world = World::ready(fixed(DELAY));
    let query = dns::query(1, "www.cdn.test");
    world.sent.clear();
    let received = world.ask(&query);
    let datagrams = world.take_datagrams();
    assert_eq!(datagrams.iter().map(|(site, _)| *site).collect::<Vec<_>>(), [0, 1, 2], "one datagram for each agent");
    for (site, datagram) in &datagrams {
        assert!(!datagram.windows(query.len()).any(|window| window == query), "the query can be read on the way");
        let open = |bytes: &[u8]| {
            let mut plain = Vec::new();
            let opener = &mut Opener::new(&binding(*site), Direction::MasterToAgent, 0);
            opener.open(bytes, &mut plain).map(|()| plain)
        };
        let plain = open(datagram).expect("the agent's key opens it");
        let inside: Vec<Frame<'_>> = frames(&plain).map(|frame| frame.expect("well-formed")).collect();
        let [Frame::Order(Order { transmit, query: carried, .. })] = inside.as_slice() else { panic!("{inside:?}") };
        assert_eq!(*transmit, TransmitIdentifier::At(RaceTime::of_master(received) + DELAY));
        assert_eq!(*carried, query);
        for bit in 0..datagram.len() * 8 {
            let mut altered = datagram.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&altered).is_err(), "bit {bit} is not authenticated");
        }
    }
    // A single altered bit and the agent takes neither: no departure, and the forgery is counted.
    let (_, datagram) = &datagrams[0];
    let mut altered = datagram.clone();
    *altered.last_mut().expect("not empty") ^= 1;
    let site = &mut world.sites[0];
    let local = site.local(world.now);
    site.agent.handle_datagram(local, local, &altered);
    assert_eq!(site.agent.poll_output(), None);
    assert_eq!(site.agent.counters().get("datagram_forged"), Some(&1));
    site.agent.handle_datagram(local, local, datagram);
    let departs = std::iter::from_fn(|| site.agent.poll_output()).any(|output| matches!(output, Output::Depart(_)));
    assert!(departs, "the same datagram, unaltered, is taken");
}

/// T − receipt of a query that waits in the queue for `dwell`.
fn delay_after_dwell(stamp: Stamp, dwell: Span) -> Span {
    let mut world = World::ready(Plan { stamp, ..fixed(DELAY) });
    let received = world.arrive(&dns::query(1, "www.cdn.test"));
    world.run_for(dwell);
    assert!(world.orders().is_empty(), "still in the queue");
    world.take_from_queue();
    world.run_for(ms(60));
    transmit_at(&world) - RaceTime::of_master(received)
}

#[test]
fn claim_05_the_stamp_is_taken_on_receipt() {
    for dwell in [Span::ZERO, ms(3), ms(7), Span::from_micros(12_345)] {
        assert_eq!(delay_after_dwell(Stamp::Receipt, dwell), DELAY, "in the queue for {dwell}");
    }
}

#[test]
fn claim_06_the_stamp_is_taken_from_the_queue() {
    for dwell in [Span::ZERO, ms(3), ms(7), Span::from_micros(12_345)] {
        let moved = delay_after_dwell(Stamp::Dequeue, dwell) - delay_after_dwell(Stamp::Receipt, dwell);
        assert_eq!(moved, dwell, "T moves by exactly the time in the queue");
    }
}

#[test]
fn claim_07_the_delay_covers_the_agents_own_delays() {
    let margin = ms(5);
    let delay = |share: f64, forward_ms: [i64; 3]| {
        let mut world = World::ready(Plan { delay: Delay::Cover { share, margin }, ..Plan::default() });
        for (site, forward) in forward_ms.into_iter().enumerate() {
            world.publish(site, ms(forward));
        }
        let received = world.ask(&dns::query(1, "www.cdn.test"));
        let errors = world.sites.iter().map(|site| site.expected_error(world.now)).max().expect("sites");
        world.run_for(ms(1));
        let at = transmit_at(&world);
        assert!(at > RaceTime::of_master(world.now), "a future time");
        (at - RaceTime::of_master(received), errors)
    };
    // All: the greatest forward delay decides, with its agent's clock error, a millisecond of processing and the margin.
    let (all, error) = delay(1.0, [10, 30, 90]);
    assert!(all >= ms(96) && all <= ms(96) + error, "{all}");
    // That agent moves away by 25 ms: T moves by 25 ms. Another one does: nothing.
    assert_eq!(delay(1.0, [10, 30, 115]).0 - all, ms(25));
    assert_eq!(delay(1.0, [10, 80, 90]).0, all);
    // Two thirds: the second one's delay decides, and the far agent is left out.
    let (most, _) = delay(0.6, [10, 30, 90]);
    assert!(most >= ms(36) && most <= ms(36) + error, "{most}");
    assert_eq!(delay(0.6, [10, 50, 90]).0 - most, ms(20));
}

#[test]
fn claim_08_above_the_largest_transmission_delay_nobody_is_late() {
    let covered = Plan { delay: Delay::Cover { share: 1.0, margin: ms(5) }, ..Plan::default() };
    for plan in [covered, fixed(ms(41) + CLOCK_ERROR)] {
        let mut world = World::ready(Plan { late_tolerance: Span::ZERO, ..plan });
        for id in 0..10 {
            let (orders, departures) = (world.orders().len(), world.departures.len());
            world.ask(&dns::query(id, "www.cdn.test"));
            world.run_for(ms(400));
            let newest = &world.orders()[orders..];
            let t = newest[0].at.expect("an instant");
            for order in newest {
                let arrives = order.sent_at + ms(WAYS_MS[order.site]);
                assert!(RaceTime::of_master(arrives) < t, "site {} has its order after T", order.site);
            }
            let departed = &world.departures[departures..];
            assert_eq!(departed.len(), 3, "everybody departs");
            for left in departed {
                let error = (RaceTime::of_master(left.at) - t).abs();
                assert!(error <= CLOCK_ERROR, "site {} departs {error:?} from T", left.site);
            }
        }
        assert!(world.receipts.iter().all(|receipt| receipt.outcome == ReceiptOutcome::Departed));
        assert_eq!(world.receipts.len(), 30);
        assert!(world.replies.is_empty(), "no fallback was needed");
    }
}

#[test]
fn claim_09_at_or_below_it_the_far_agent_is_late_and_drops() {
    // Equal to the far agent's 40 ms, and below them.
    for delay in [ms(40), ms(30)] {
        let mut world = World::ready(Plan { late_tolerance: Span::ZERO, ..fixed(delay) });
        world.ask(&dns::query(1, "www.cdn.test"));
        world.run_for(ms(200));
        let departed: Vec<usize> = world.departures.iter().map(|left| left.site).collect();
        assert_eq!(departed, [0, 1], "the near agents depart, the far one does not");
        let late: Vec<_> = world.receipts.iter().filter(|receipt| receipt.outcome == ReceiptOutcome::Late).collect();
        assert_eq!(late.len(), 1, "{:?}", world.receipts);
        let lateness = ms(40) + world::HANDLING - delay;
        assert!((late[0].lateness - lateness).abs() <= CLOCK_ERROR, "{:?}, expected {lateness:?}", late[0].lateness);
        assert_eq!(world.sites[2].agent.counters().get("departures_dropped_late"), Some(&1));
    }
}

#[test]
fn claim_09_at_or_below_it_the_far_agent_is_late_and_sends() {
    let plan = Plan { late: LatePolicy::Send, late_tolerance: Span::ZERO, ..fixed(ms(30)) };
    let mut world = World::ready(plan);
    let received = world.ask(&dns::query(1, "www.cdn.test"));
    world.run_for(ms(200));
    assert_eq!(world.departures.iter().map(|left| left.site).collect::<Vec<_>>(), [0, 1, 2]);
    let far = &world.departures[2];
    assert_eq!(far.at, received + ms(40) + world::HANDLING, "at once when the order has come");
    let receipt = world.receipts.iter().max_by_key(|receipt| receipt.lateness).expect("receipts");
    assert_eq!(receipt.outcome, ReceiptOutcome::Departed);
    assert!((receipt.lateness - ms(10) - world::HANDLING).abs() <= CLOCK_ERROR, "{receipt:?}");
}

/// Gives an agent a session whose master is this test; its clock stays set from before.
fn take_over(world: &mut World, site: usize) -> Sealer {
    let mut by_hand = binding(site);
    by_hand.id = 99;
    let local = world.sites[site].local(world.now);
    world.sites[site].agent.handle_session(local, 0, by_hand.id, by_hand.secret);
    while world.sites[site].agent.poll_output().is_some() {}
    Sealer::new(&by_hand, Direction::MasterToAgent, 0)
}

/// Hands an agent one frame, sealed; what it wants to let depart.
fn tell(
    world: &mut World,
    site: usize,
    sealer: &mut Sealer,
    frame: &Frame<'_>,
) -> Vec<startgun_core::agent::Departure> {
    let (mut plain, mut bytes) = (Vec::new(), Vec::new());
    frame.encode(&mut plain);
    sealer.seal(&plain, &mut bytes);
    let site = &mut world.sites[site];
    let local = site.local(world.now);
    site.agent.handle_datagram(local, local, &bytes);
    let outputs = std::iter::from_fn(|| site.agent.poll_output());
    outputs.filter_map(|output| if let Output::Depart(departure) = output { Some(departure) } else { None }).collect()
}

fn order_by_hand(world: &World, transmit: TransmitIdentifier, query: &'static [u8]) -> Order<'static> {
    Order {
        race: 5,
        revision: 0,
        transmit,
        sent: RaceTime::of_master(world.now),
        playbook: playbook(1, &Plan::default()).version(),
        name: 0,
        service: service_address(),
        client: client(),
        query,
        cookie: None,
        proof: &[],
        proof_count: 0,
    }
}

/// "wWw.cdn.TEST", A.
const MIXED_CASE: &[u8] = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x03wWw\x03cdn\x04TEST\0\0\x01\0\x01";

#[test]
fn claim_10_the_agent_generates_its_answer_and_transmits_at_the_instant() {
    let mut world = World::ready(fixed(DELAY));
    let mut sealer = take_over(&mut world, 1);
    let t = world.now + ms(60);
    let order = order_by_hand(&world, TransmitIdentifier::At(RaceTime::of_master(t)), MIXED_CASE);
    let departures = tell(&mut world, 1, &mut sealer, &Frame::Order(order));
    let [departure] = departures.as_slice() else { panic!("{departures:?}") };
    let error = (world.sites[1].truly(departure.at) - t).abs();
    assert!(error <= CLOCK_ERROR, "{error:?} from T");
    assert_eq!((departure.service, departure.to), (service_address(), client()));
    assert_eq!(departure.bytes[..2], MIXED_CASE[..2], "the id");
    assert_eq!(departure.bytes[12..MIXED_CASE.len()], MIXED_CASE[12..], "the question, case kept");
    assert_eq!(dns::addresses(&departure.bytes), [world::site_address(1)], "its own site's address");
}

#[test]
fn claim_10_the_agent_generates_its_answer_and_transmits_on_the_signal() {
    let mut world = World::ready(fixed(DELAY));
    let mut sealer = take_over(&mut world, 1);
    let order = order_by_hand(&world, TransmitIdentifier::On(77), MIXED_CASE);
    assert!(tell(&mut world, 1, &mut sealer, &Frame::Order(order)).is_empty(), "held until the signal");
    world.run_for(ms(50));
    assert!(tell(&mut world, 1, &mut sealer, &Frame::Signal { id: 78 }).is_empty(), "another id's signal");
    assert!(world.departures.is_empty());
    let departures = tell(&mut world, 1, &mut sealer, &Frame::Signal { id: 77 });
    let [departure] = departures.as_slice() else { panic!("{departures:?}") };
    assert_eq!(departure.at, world.sites[1].local(world.now), "at once");
    assert_eq!(dns::addresses(&departure.bytes), [world::site_address(1)]);
    assert!(tell(&mut world, 1, &mut sealer, &Frame::Signal { id: 77 }).is_empty(), "once");
}

#[test]
fn claim_11_a_signal_alone_sets_the_clock_from_one_side() {
    let mut world = World::unset(fixed(DELAY), ClockConfig::default());
    let mut sealer = take_over(&mut world, 0);
    let report = |world: &World| world.sites[0].agent.report(world.sites[0].local(world.now), 0);
    assert_eq!(report(&world).clock, None, "not set");
    let way = ms(WAYS_MS[0]);
    let sent = RaceTime::of_master(world.now - way);
    tell(&mut world, 0, &mut sealer, &Frame::SyncSignal { sent });
    let clock = report(&world).clock.expect("set");
    let truth = world.now - world.sites[0].local(world.now);
    let behind = truth - clock.offset;
    assert!(behind >= Span::ZERO && behind <= way + CLOCK_ERROR, "behind the truth by the way at most: {behind:?}");
    assert_eq!((clock.bound, clock.expected_error), (None, None), "one-sided: nothing is proven from above");
    assert_eq!(report(&world).stand_down, Some(StandDown::ClockUnset));
}

#[test]
fn claim_11_with_a_vouched_propagation_signals_alone_let_it_race() {
    let clock = ClockConfig {
        least_propagation_from_master: ms(4),
        greatest_signal_propagation: Some(ms(7)),
        ..ClockConfig::default()
    };
    let mut world = World::unset(fixed(DELAY), clock);
    let mut sealer = take_over(&mut world, 0);
    let way = ms(WAYS_MS[0]);
    let sent = RaceTime::of_master(world.now - way);
    tell(&mut world, 0, &mut sealer, &Frame::SyncSignal { sent });
    let report = world.sites[0].agent.report(world.sites[0].local(world.now), 0);
    let figures = report.clock.expect("set");
    let error = (figures.offset - (world.now - world.sites[0].local(world.now))).abs();
    let bound = figures.bound.expect("both sides");
    assert!(error <= bound && bound <= ms(2), "{error:?}, bound {bound:?}");
    assert!(figures.conditional, "it rests on what the operator vouched for");
    assert_eq!(report.stand_down, None);
    let t = world.now + ms(60);
    let order = order_by_hand(&world, TransmitIdentifier::At(RaceTime::of_master(t)), MIXED_CASE);
    let order = Order { playbook: playbook(0, &Plan::default()).version(), ..order };
    let departures = tell(&mut world, 0, &mut sealer, &Frame::Order(order));
    let [departure] = departures.as_slice() else { panic!("{departures:?}") };
    assert!((world.sites[0].truly(departure.at) - t).abs() <= bound);
}

#[test]
fn claim_25_one_agent_is_enough() {
    let mut world =
        World::ready(Plan { agents: 1, delay: Delay::Cover { share: 1.0, margin: ms(5) }, ..Plan::default() });
    let received = world.ask(&dns::query(1, "www.cdn.test"));
    world.run_for(ms(1));
    let delay = transmit_at(&world) - RaceTime::of_master(received);
    assert!(delay >= ms(11) && delay <= ms(11) + ms(1), "its own 5 ms, processing and margin: {delay}");
    world.run_for(ms(999));
    let [left] = world.departures.as_slice() else { panic!("{:?}", world.departures) };
    assert!((left.at - received - delay).abs() <= CLOCK_ERROR);
    assert!(world.replies.is_empty(), "its one receipt settles the race: no fallback");
    assert_eq!(world.shard.open_races(), 0);
}

const DOCUMENT: &str = include_str!("../../../docs/CLAIMS.md");
const SOURCES: [(&str, &str); 4] = [
    ("claims_core.rs", include_str!("claims_core.rs")),
    ("claims_master.rs", include_str!("claims_master.rs")),
    ("claims_agent.rs", include_str!("claims_agent.rs")),
    ("claims_system.rs", include_str!("claims_system.rs")),
];
const CLAIMS: u32 = 25;

/// The tests of a source that are named for a claim, as `FILE::NAME`.
fn claim_tests(file: &str, source: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = source.lines().collect();
    let tests = lines.windows(2).filter(|pair| pair[0] == "#[test]").filter_map(|pair| {
        let name = pair[1].strip_prefix("fn ")?.split('(').next()?;
        name.starts_with("claim_").then(|| format!("{file}::{name}"))
    });
    tests.collect()
}

/// The tests that the document's row for a claim names.
fn named_in_row(claim: u32) -> BTreeSet<String> {
    let start = format!("| {claim} |");
    let row = DOCUMENT.lines().find(|line| line.starts_with(&start));
    let cell = row.and_then(|row| row.split(" | ").nth(2)).unwrap_or_default();
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_claim_has_tests_that_the_document_names_and_that_exist() {
    let existing: BTreeSet<String> = SOURCES.iter().flat_map(|(file, source)| claim_tests(file, source)).collect();
    let mut named = BTreeSet::new();
    for claim in 1..=CLAIMS {
        let tests = named_in_row(claim);
        assert!(!tests.is_empty(), "claim {claim} has no test in docs/CLAIMS.md");
        for test in tests {
            assert!(test.contains(&format!("::claim_{claim:02}_")), "{test} stands in the row of claim {claim}");
            assert!(existing.contains(&test), "docs/CLAIMS.md names {test}, which does not exist");
            named.insert(test);
        }
    }
    let unnamed: Vec<&String> = existing.difference(&named).collect();
    assert!(unnamed.is_empty(), "docs/CLAIMS.md does not name {unnamed:?}");
}
