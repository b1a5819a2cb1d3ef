//! Claims 21 and 22: the real agent, a process with sockets and certificates, ordered about by a hand-made master.
//!
//! The master's timeline is this host's raw clock and a known span, so what the agent believes can be compared with what
//! is true, and departures are measured by the kernel's receive timestamps: on loopback a packet arrives when it leaves.

mod common;

use common::master::{Exchanges, HandMaster, SITE_ADDRESS, TIMELINE, race_time};
use common::{Stage, Udp, dns, median, ms, now, program, wait_for};
use serde_json::Value;
use startgun_core::time::Span;
use startgun_core::wire::{Frame, ReceiptOutcome, TransmitIdentifier};
use startgun_lab::process::Process;

/// How wrong the agent's own clock is made: what it shows, less the raw clock.
const WRONG_BY: Span = Span::from_millis(-7_250);
const DISTORTION: &str = "[clock_distortion]\noffset_s = -7.25\n";
/// How far ahead an order's T lies.
const AHEAD: Span = Span::from_millis(80);
/// Races of which the median counts.
const RACES: u16 = 9;

/// A running agent and its master.
fn start(exchanges: Exchanges, keys: &str) -> (Stage, Process, HandMaster) {
    let stage = Stage::new(&["a1"]);
    stage.write("a1.toml", &stage.agent_toml(0, "a1", DISTORTION, keys));
    let listener = HandMaster::listen(&stage);
    let agent = stage.start(&program(), "agent", "a1");
    let master = HandMaster::welcome(&stage, &listener, exchanges);
    // The last word of the welcome may still be under way to the agent, and orders take another way.
    wait_for("the agent knows that it passed", || {
        let waits_for = report(&stage)["stand_down"].clone();
        (waits_for.is_null() || waits_for == "clock_unset").then_some(())
    });
    (stage, agent, master)
}

/// What the agent reports of its only master.
fn report(stage: &Stage) -> Value {
    stage.status("a1").map(|status| status["masters"][0]["report"].clone()).expect("it runs")
}

fn wait_until_ready(stage: &Stage) {
    wait_for("the agent races", || {
        let report = report(stage);
        (report["stand_down"].is_null() && report["clock"]["samples"].as_u64() >= Some(1)).then_some(())
    });
}

/// Orders one answer at T after another; each departure − T.
fn race(master: &mut HandMaster, client: &mut Udp) -> Vec<Span> {
    let lateness = (1..=RACES).map(|id| {
        let t = now() + AHEAD;
        let query = dns::query(id, "wWw.cdn.test");
        master.order(TransmitIdentifier::At(race_time(t)), &query, client.address());
        let answer = client.receive(t + ms(900)).expect("an answer");
        assert_eq!(dns::id(&answer.bytes), id);
        assert_eq!(answer.bytes[12..query.len()], query[12..], "the question, case kept");
        assert_eq!(dns::addresses(&answer.bytes), [SITE_ADDRESS], "its own site's address");
        answer.at - t
    });
    lateness.collect()
}

#[test]
fn claim_21_the_agent_process_answers_at_the_instant() {
    let (stage, _agent, mut master) = start(Exchanges::Answered, "");
    let mut client = stage.client();
    wait_until_ready(&stage);
    let lateness = race(&mut master, &mut client);
    println!("departure - T: {lateness:?}");
    assert!(median(lateness.clone()).abs() <= ms(1), "departures are off T: {lateness:?}");
    assert!(lateness.iter().all(|late| *late >= ms(-1)), "a departure before T: {lateness:?}");
    // The source is the service address, and each departure has its receipt.
    master.order(TransmitIdentifier::At(race_time(now() + AHEAD)), &dns::query(99, "www.cdn.test"), client.address());
    assert_eq!(client.receive(now() + ms(900)).expect("an answer").source, stage.service());
    let receipts =
        wait_for("a receipt for each", || Some(master.receipts()).filter(|all| all.len() > usize::from(RACES)));
    assert!(receipts.iter().all(|receipt| receipt.outcome.is_departed()), "{receipts:?}");
    assert!(client.receive(now() + ms(100)).is_none(), "one answer for each order");
}

#[test]
fn claim_21_the_agent_process_answers_on_the_signal() {
    let (stage, _agent, mut master) = start(Exchanges::Answered, "");
    let mut client = stage.client();
    let mut waits = Vec::new();
    for id in 1..=RACES {
        let signal = u64::from(id) + 1_000;
        master.order(TransmitIdentifier::On(signal), &dns::query(id, "www.cdn.test"), client.address());
        assert!(client.receive(now() + ms(30)).is_none(), "no answer before the signal");
        master.say(&Frame::Signal { id: signal + 500 });
        assert!(client.receive(now() + ms(30)).is_none(), "no answer on another id's signal");
        let (earliest, latest) = master.say(&Frame::Signal { id: signal });
        let answer = client.receive(latest + ms(900)).unwrap_or_else(|| panic!("no answer: {}", report(&stage)));
        assert_eq!((dns::id(&answer.bytes), answer.source), (id, stage.service()));
        assert!(answer.at >= earliest, "before its signal");
        waits.push(answer.at - earliest);
    }
    println!("departure - signal: {waits:?}");
    assert!(median(waits.clone()) <= ms(10), "at once when the signal arrives: {waits:?}");
}

/// By how much the agent's idea of the timeline is ahead of the truth.
fn clock_error(clock: &Value) -> Span {
    let offset = Span::from_nanos(clock["offset"].as_i64().expect("an offset"));
    offset + WRONG_BY - TIMELINE
}

#[test]
fn claim_22_an_unsolicited_signal_sets_the_agent_process_clock() {
    let (stage, _agent, mut master) = start(Exchanges::Ignored, "");
    let client = stage.client();
    let before = report(&stage);
    assert!(before["clock"].is_null(), "not set: {before}");
    assert_eq!(before["stand_down"], "clock_unset");
    master.sync_signal();
    let clock = wait_for("the clock is set", || Some(report(&stage)["clock"].clone()).filter(|clock| !clock.is_null()));
    let error = clock_error(&clock);
    // No packet arrives before it left, so the agent can only be behind: by the way here, and by what drift may hide.
    assert!(error <= ms(0), "ahead of the truth: {error}");
    assert!(error >= ms(-50), "the signal did not set it: {error}");
    assert!(clock["bound"].is_null() && clock["expected_error"].is_null(), "one-sided: {clock}");
    // Nothing is known from above, so it does not race for an instant.
    assert_eq!(report(&stage)["stand_down"], "clock_unset");
    let t = now() + AHEAD;
    master.order(TransmitIdentifier::At(race_time(t)), &dns::query(1, "www.cdn.test"), client.address());
    let receipts = wait_for("a receipt", || Some(master.receipts()).filter(|receipts| !receipts.is_empty()));
    assert_eq!(receipts[0].outcome, ReceiptOutcome::Refused);
    assert_eq!(stage.counter("a1", "order_refused_standing_down"), 1);
    assert_eq!(stage.counter("a1", "sync_signals"), 1);
}

#[test]
fn claim_22_signals_with_a_vouched_propagation_let_the_agent_process_race() {
    /// What the operator vouches for: between 0 and this.
    const GREATEST: Span = Span::from_millis(4);
    let keys = "signal_propagation_ms = { least = 0.0, greatest = 4.0 }";
    let (stage, _agent, mut master) = start(Exchanges::Ignored, keys);
    let mut client = stage.client();
    // A signal that the scheduler held back for longer than was vouched for is a lie, and the next one mends it.
    wait_for("ten signals, the last of them sent without delay", || {
        for _ in 0..9 {
            master.sync_signal();
        }
        (master.sync_signal() <= ms(1)).then_some(())
    });
    wait_until_ready(&stage);
    let clock = report(&stage)["clock"].clone();
    let bound = Span::from_nanos(clock["bound"].as_i64().expect("bounded on both sides"));
    assert!(bound <= ms(3), "{clock}");
    assert_eq!(clock["conditional"], true);
    assert!(clock_error(&clock).abs() <= bound, "off by {} with a bound of {bound}", clock_error(&clock));
    let lateness = race(&mut master, &mut client);
    println!("departure - T: {lateness:?}");
    // The middle of 0 and 4 ms was taken for the way, which is near 0: departures are early by half of it, and no more.
    let middle = median(lateness.clone());
    assert!(middle.abs() <= GREATEST.half() + ms(1), "departures are off T: {lateness:?}");
}
