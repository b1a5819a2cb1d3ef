//! Claims 12 to 20: the real master, a process with sockets and certificates, and hand-made agents.
//!
//! Master and agents read the same raw clock, so T is compared directly with the kernel's timestamps of the query and of
//! the orders. A query on loopback arrives within the call that sends it.

mod common;

use common::agent::{HandAgent, Heard, Ordered};
use common::{Packet, Stage, Udp, dns, median, ms, now, sleep_until, wait_for};
use nix::sys::signal::Signal;
use startgun_core::clock::{ClockConfig, Exchange, RaceClock};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::{Frame, Receipt, ReceiptOutcome};
use startgun_lab::process::Process;
use std::net::Ipv4Addr;

const FALLBACK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// What the stamps of a query's way through loopback may be apart from what the sender saw: the kernel's mapping of its
/// own clock, and a soft interrupt that was put off.
const STAMP_SLACK: Span = Span::from_millis(1);

/// What hand-made agent `index` answers.
fn site_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + index as u8)
}

/// A raced name `NAME.cdn.test` for two sites.
fn raced(name: &str, keys: &str) -> String {
    let site = |index| format!("[race.sites.a{}]\na = [\"{}\"]\n", index + 1, site_address(index));
    let (first, second) = (site(0), site(1));
    format!("[[race]]\nname = \"{name}.cdn.test.\"\n{keys}\n[race.fallback]\na = [\"{FALLBACK}\"]\n{first}{second}")
}

/// A running master, its agents, and a client that may race.
struct Bench {
    stage: Stage,
    master: Process,
    agents: Vec<HandAgent>,
    client: Udp,
    next_id: u16,
}

impl Bench {
    /// Agents with these forward delays, in milliseconds.
    fn new(keys: &str, races: &[String], forward_ms: &[i64]) -> Self {
        let stage = Stage::new(&["a1", "a2"]);
        let master = stage.start_master(keys, &races.concat());
        let connect = |(index, forward): (usize, &i64)| {
            HandAgent::connect(&stage, index, &format!("a{}", index + 1), ms(*forward))
        };
        let agents: Vec<HandAgent> = forward_ms.iter().enumerate().map(connect).collect();
        let client = stage.client();
        dns::validate(client.address().ip(), stage.service(), "www.cdn.test");
        let bench = Bench { stage, master, agents, client, next_id: 100 };
        bench.wait_for_racing(forward_ms.len());
        bench
    }

    fn wait_for_racing(&self, count: usize) {
        wait_for("all agents race", || {
            let status = self.stage.status("m1")?;
            let racing = status["agents"].as_array()?.iter().filter(|agent| agent["racing"] == true).count();
            (racing == count).then_some(())
        });
        // The roster tells the shards right after it tells the status; they take it up before the next query.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    /// Sends a query; when it left, at the earliest and at the latest, and the query.
    fn ask(&mut self, name: &str) -> (LocalTime, LocalTime, Vec<u8>) {
        self.next_id += 1;
        let query = dns::query(self.next_id, &format!("{name}.cdn.test"));
        let (earliest, latest) = self.client.send(&query, self.stage.service());
        (earliest, latest, query)
    }

    /// The next order of each agent.
    fn orders(&mut self) -> Vec<Ordered> {
        let deadline = now() + Span::from_secs(5);
        self.agents.iter_mut().map(|agent| agent.order(deadline).expect("an order for each agent")).collect()
    }

    /// Asks; the orders, and T − receipt at the least and at the most.
    fn race(&mut self, name: &str) -> (Vec<Ordered>, Span, Span) {
        let (earliest, latest, _) = self.ask(name);
        let orders = self.orders();
        let at = orders[0].transmit_at();
        assert!(orders.iter().all(|order| order.transmit_at() == at), "one T for all");
        (orders, at - latest, at - earliest)
    }

    /// What reaches the client until `deadline`.
    fn arrivals(&mut self, deadline: LocalTime) -> Vec<Packet> {
        self.client.receive_until(deadline)
    }
}

/// Asserts T − receipt = `expected`, as far as the sender of the query can know.
fn assert_delay((least, most): (Span, Span), expected: Span) {
    assert!(least <= expected + STAMP_SLACK, "at least {least}, expected {expected}");
    assert!(most >= expected - STAMP_SLACK, "at most {most}, expected {expected}");
}

#[test]
fn claim_12_the_process_forwards_the_query_and_one_instant_to_each() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 100")], &[5, 20]);
    // Synchronise.
    for agent in &mut bench.agents {
        let offset = agent.exchange(5);
        assert!(offset.abs() <= ms(2), "the master's timeline is this host's clock, not {offset} off");
    }
    // Receive, generate, forward.
    let (earliest, latest, query) = bench.ask("www");
    let orders = bench.orders();
    for order in &orders {
        assert_eq!((order.race, order.at), (orders[0].race, orders[0].at), "one race, one T");
        assert_eq!(order.query, query, "the query as it came");
        assert_eq!((order.client, order.service), (bench.client.address(), bench.stage.service()));
        assert!(order.received < order.transmit_at(), "a future time");
    }
    assert_delay((orders[0].transmit_at() - latest, orders[0].transmit_at() - earliest), ms(100));
}

#[test]
fn claim_12_the_process_forwards_the_query_and_one_signal_to_each() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 100\ntransmit = \"signal\"")], &[5, 20]);
    let (earliest, latest, query) = bench.ask("www");
    let orders = bench.orders();
    let id = orders[0].signal.expect("a signal's id");
    for order in &orders {
        assert_eq!((order.signal, order.at), (Some(id), None));
        assert_eq!(order.query, query);
    }
    let mut waits = Vec::new();
    for agent in &mut bench.agents {
        let signal = |heard: &Heard| if let Heard::Signal { id, at } = heard { Some((*id, *at)) } else { None };
        let (signalled, at) = agent.hear(now() + Span::from_secs(5), signal).expect("a signal for each agent");
        assert_eq!(signalled, id);
        assert!(at >= earliest + ms(100) - STAMP_SLACK, "the signal comes after the delay");
        waits.push(at - latest);
    }
    assert!(waits.iter().all(|wait| *wait <= ms(400)), "the signal comes at the end of the delay: {waits:?}");
}

#[test]
fn claim_13_the_process_has_its_own_clock_that_agents_can_follow() {
    // An hour and a bit off, so that what agents follow is the master's clock and nobody else's.
    let races = format!("{}[clock_distortion]\noffset_s = 3723.5\n", raced("www", ""));
    let mut bench = Bench::new("", &[races], &[5]);
    let (offset, epoch) = (ms(3_723_500), bench.agents[0].epoch());
    assert_ne!(epoch, Epoch(0));
    let mut clock = RaceClock::new(ClockConfig::default());
    clock.enter_epoch(epoch);
    let agent = &mut bench.agents[0];
    for exchange in 1..=12 {
        let (sent, _) = agent.say(0, &Frame::SyncRequest { exchange });
        let reply = agent.hear(now() + Span::from_secs(5), |heard| match heard {
            Heard::SyncReply { exchange: answered, received, replied, previous, at } if *answered == exchange => {
                Some((*received, *replied, *previous, *at))
            }
            _ => None,
        });
        let (received, replied, previous, returned) = reply.expect("an answer to each request");
        let truly = |race: RaceTime| race.to_master() - offset;
        assert!(sent - STAMP_SLACK <= truly(received) && received <= replied, "T2 lies after T1 and before T3");
        assert!(truly(replied) <= returned + STAMP_SLACK, "T3 lies before T4");
        if exchange > 1 {
            assert_eq!(previous.0, exchange - 1, "the kernel's own T3 of the exchange before follows");
        }
        clock.handle_exchange(Exchange { sent, received, replied, returned });
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let reading = clock.read(now()).expect("set");
    let error = (reading.estimate.to_master() - offset - reading.at).abs();
    assert!(error <= reading.bound, "{error} with a bound of {}", reading.bound);
    assert!(error <= ms(2) && reading.expected_error != Span::MAX, "{error}");
}

#[test]
fn claim_14_the_process_adds_the_delay_to_the_timestamp() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 60"), raced("far", "delay_ms = 190.5")], &[5, 20]);
    for (name, delay) in [("www", ms(60)), ("far", Span::from_micros(190_500)), ("www", ms(60))] {
        let (_, least, most) = bench.race(name);
        assert_delay((least, most), delay);
        // The race must be over, or the next query of the name would amend it.
        sleep_until(now() + delay + ms(300));
    }
}

#[test]
fn claim_15_the_process_seals_request_and_identifier_into_one_datagram() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 100")], &[5, 20]);
    let (_, _, query) = bench.ask("www");
    let mut packets: Vec<Vec<Packet>> = Vec::new();
    for agent in &mut bench.agents {
        let deadline = now() + ms(60);
        packets.push(agent.fast.receive_until(deadline));
    }
    for (index, packets) in packets.iter().enumerate() {
        let mut orders = 0;
        for packet in packets {
            assert!(!packet.bytes.windows(query.len()).any(|window| window == query), "the query can be read");
            let mut altered = packet.clone();
            *altered.bytes.last_mut().expect("not empty") ^= 1;
            assert!(bench.agents[index].open(&altered).is_none(), "an altered datagram opens");
            assert!(bench.agents[1 - index].open(packet).is_none(), "another agent's key opens it");
            let frames = bench.agents[index].open(packet).expect("the agent's own key opens it");
            for frame in &frames {
                if let Heard::Order(order) = frame {
                    assert!(order.at.is_some() && order.query == query, "both in one: {order:?}");
                    orders += 1;
                }
            }
        }
        assert_eq!(orders, 1, "one datagram with the order for agent {index}");
    }
}

/// Stops the master, asks, and lets it go on after `dwell`: T − delay less the query's arrival, at the least and at the
/// most, and less the moment at which the master went on.
fn stamp_after_dwell(stamp: &str, dwell: Span) -> (Span, Span, Span) {
    const DELAY: Span = Span::from_millis(200);
    let keys = format!("stamp = \"{stamp}\"");
    let mut bench = Bench::new(&keys, &[raced("www", "delay_ms = 200")], &[5]);
    bench.master.signal(Signal::SIGSTOP).expect("stopped");
    let tasks = format!("/proc/{}/task", bench.master.id());
    wait_for("every thread stands", || {
        let threads = std::fs::read_dir(&tasks).ok()?.flatten();
        let states = threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
        states.into_iter().all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))).then_some(())
    });
    let (earliest, latest, _) = bench.ask("www");
    sleep_until(latest + dwell);
    let resumed = now();
    bench.master.signal(Signal::SIGCONT).expect("goes on");
    let stamped = bench.orders()[0].transmit_at() - DELAY;
    (stamped - latest, stamped - earliest, stamped - resumed)
}

#[test]
fn claim_16_the_process_stamps_on_receipt() {
    let (least, most, after_resuming) = stamp_after_dwell("receipt", ms(40));
    assert!(least <= STAMP_SLACK && most >= ms(0) - STAMP_SLACK, "the stamp is the arrival: {least} to {most}");
    assert!(after_resuming <= ms(-30), "the stamp is from before the master could run: {after_resuming}");
}

#[test]
fn claim_17_the_process_stamps_when_taken_from_the_queue() {
    let dwell = ms(40);
    let (least, _, after_resuming) = stamp_after_dwell("dequeue", dwell);
    assert!(least >= dwell, "T moves by the time in the queue: {least}");
    assert!(after_resuming >= ms(0), "the stamp is from when the master took it: {after_resuming}");
    assert!(after_resuming <= ms(100), "and from no later: {after_resuming}");
}

/// The predetermined delay of the first raced name, as the master shows it.
fn shown_delay(bench: &Bench, expected: Span) {
    wait_for("the predetermined delay that the reports ask for", || {
        let shown = bench.stage.status("m1")?["races"][0]["predetermined_delay_ms"].as_f64()?;
        ((shown - expected.as_millis_f64()).abs() < 1e-6).then_some(())
    });
}

#[test]
fn claim_18_the_process_covers_the_agents_own_delays() {
    let covers = ["cover = 1.0\nmargin_ms = 5", "cover = 0.5\nmargin_ms = 5"];
    let mut bench = Bench::new("", &[raced("www", covers[0]), raced("half", covers[1])], &[20, 60]);
    // A millisecond of processing is part of every delay.
    shown_delay(&bench, ms(66));
    assert_delay(bench_delay(&mut bench, "www"), ms(66));
    assert_delay(bench_delay(&mut bench, "half"), ms(26));
    // The far agent's delay grows by 35 ms, its clock error by 2: T moves by 37.
    bench.agents[1].claim(ms(95), ms(2));
    shown_delay(&bench, ms(103));
    sleep_until(now() + ms(400));
    assert_delay(bench_delay(&mut bench, "www"), ms(103));
    assert_delay(bench_delay(&mut bench, "half"), ms(26));
}

fn bench_delay(bench: &mut Bench, name: &str) -> (Span, Span) {
    let (orders, least, most) = bench.race(name);
    assert!(orders.iter().all(|order| order.received < order.transmit_at()), "a future time");
    (least, most)
}

/// Plays an agent that is `forward` away: the order has come, the answer departs at T or, where that has passed, as the
/// playbook wants it. Returns when it departed.
fn play(agent: &mut HandAgent, order: &Ordered, forward: Span, index: usize) -> Option<LocalTime> {
    let came = order.sent.to_master() + forward;
    let t = order.transmit_at();
    let late = agent.playbook().races[0].late;
    sleep_until(came.max(t));
    let lateness = (came - t).max(Span::ZERO);
    let departs = lateness == Span::ZERO || late == LatePolicy::Send;
    if departs {
        agent.depart(&dns::answer(&order.query, site_address(index)), order.client);
    }
    let outcome = if departs { ReceiptOutcome::Departed } else { ReceiptOutcome::Late };
    agent.receipt(Receipt { race: order.race, revision: order.revision, outcome, lateness });
    departs.then(|| came.max(t))
}

/// One race in which each agent plays its forward delay: T, and what reached the client, with the time since T.
fn play_race(bench: &mut Bench, forwards: [Span; 2]) -> (LocalTime, Vec<(Ipv4Addr, Span)>) {
    bench.ask("www");
    let orders = bench.orders();
    let t = orders[0].transmit_at();
    std::thread::scope(|scope| {
        for (index, (agent, order)) in bench.agents.iter_mut().zip(&orders).enumerate() {
            scope.spawn(move || play(agent, order, forwards[index], index));
        }
    });
    let arrivals = bench.arrivals(t + ms(350));
    let arrivals = arrivals.iter().map(|packet| (dns::addresses(&packet.bytes)[0], packet.at - t));
    (t, arrivals.collect())
}

#[test]
fn claim_19_above_the_largest_transmission_delay_nobody_is_late() {
    let forwards = [ms(20), ms(60)];
    // A margin for what this machine may do to the master between stamping and sending.
    let mut bench = Bench::new("fallback_after_ms = 250", &[raced("www", "cover = 1.0\nmargin_ms = 60")], &[20, 60]);
    let mut spare = Vec::new();
    for _ in 0..3 {
        let (t, arrivals) = play_race(&mut bench, forwards);
        let mut sites: Vec<Ipv4Addr> = arrivals.iter().map(|(address, _)| *address).collect();
        sites.sort_unstable();
        assert_eq!(sites, [site_address(0), site_address(1)], "both answers and nothing else: {arrivals:?}");
        assert!(arrivals.iter().all(|(_, after)| *after >= ms(0) - STAMP_SLACK), "nobody before T: {arrivals:?}");
        spare.extend(arrivals.iter().map(|(_, after)| *after));
        assert!(now() > t);
    }
    assert!(median(spare.clone()) <= ms(50), "at T: {spare:?}");
    wait_for("two receipts of each race", || (bench.stage.counter("m1", "receipts_departed") == 6).then_some(()));
    assert_eq!(bench.stage.counter("m1", "receipts_not_departed"), 0, "nobody was late");
    assert_eq!(bench.stage.counter("m1", "answers_fallback"), 0);
}

#[test]
fn claim_20_at_or_below_it_the_far_agent_is_late_and_drops() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 80\nlate = \"drop\"")], &[20, 120]);
    let playbook = bench.agents[1].playbook();
    assert_eq!(playbook.races[0].late, LatePolicy::Drop, "the playbook tells the policy");
    let (_, arrivals) = play_race(&mut bench, [ms(20), ms(120)]);
    let (first, after) = arrivals.first().expect("an answer");
    assert_eq!(*first, site_address(0), "{arrivals:?}");
    assert!(*after >= ms(0) - STAMP_SLACK, "{arrivals:?}");
    assert!(
        arrivals.iter().all(|(address, _)| *address != site_address(1)),
        "the late one stays at home: {arrivals:?}"
    );
    wait_for("one receipt of each", || {
        let departed = bench.stage.counter("m1", "receipts_departed");
        (departed == 1 && bench.stage.counter("m1", "receipts_not_departed") == 1).then_some(())
    });
}

#[test]
fn claim_20_at_or_below_it_the_far_agent_is_late_and_sends() {
    let mut bench = Bench::new("", &[raced("www", "delay_ms = 80\nlate = \"send\"")], &[20, 120]);
    assert_eq!(bench.agents[1].playbook().races[0].late, LatePolicy::Send, "the playbook tells the policy");
    let (_, arrivals) = play_race(&mut bench, [ms(20), ms(120)]);
    let sites: Vec<Ipv4Addr> = arrivals.iter().map(|(address, _)| *address).collect();
    assert_eq!(sites, [site_address(0), site_address(1)], "{arrivals:?}");
    assert!(arrivals[1].1 >= ms(39), "late by 40 ms: {arrivals:?}");
}

#[test]
fn claim_20_at_or_below_it_everybody_late_means_the_master_answers() {
    let mut bench =
        Bench::new("fallback_after_ms = 1000", &[raced("www", "delay_ms = 15\nlate = \"drop\"")], &[20, 60]);
    let (_, arrivals) = play_race(&mut bench, [ms(20), ms(60)]);
    assert_eq!(arrivals.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [FALLBACK]);
    // At once when the last has said so (60 − 15 ms after T), not after a second.
    assert!(arrivals[0].1 >= ms(44), "{arrivals:?}");
    wait_for("the counter", || (bench.stage.counter("m1", "answers_fallback_all_refused") == 1).then_some(()));
}
