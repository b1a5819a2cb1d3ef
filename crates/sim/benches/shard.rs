//! What a query costs the master's core, without sockets: a plain answer, and races with 1, 3 and 10 agents.
//!
//! The cases take turns in every round, so that a machine whose speed drifts slows all of them alike; what counts is the
//! ratio to the plain answer, by the median over the rounds. Absolute times say as much about the machine.

use domain::base::{MessageBuilder, Name, Rtype};
use startgun_core::control::ForwardDelay;
use startgun_core::dns::cookie::CookieSecrets;
use startgun_core::dns::{Answers, RacedName, Record, ZoneSet};
use startgun_core::master::{
    AgentView, Arrival, Delay, Output, RaceConfig, Readiness, Service, Shard, ShardConfig, Stamp, Transmit,
};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::{Epoch, LocalTime, Span};
use startgun_core::wire::Binding;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 21;
const QUERIES: usize = 4_000;
/// Queries between two drains: a full batch of the receive call.
const BATCH: usize = 64;

fn service() -> Arc<Service> {
    let name = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
    let record = |owner: &str, rtype, data: &[u8]| Record { owner: name(owner), rtype, ttl_s: 300, data: data.into() };
    let soa = [b"\x02ns\x04test\x00\x04host\x04test\x00".as_slice(), &[0; 20]].concat();
    let records = [record("test", Rtype::SOA, &soa), record("plain.test", Rtype::A, &[192, 0, 2, 1])];
    let races = [RacedName { name: name("*.race.test"), index: 0, types: vec![], is_referral: false }];
    let zones = ZoneSet::build([(name("test"), records.to_vec())], &races).unwrap_or_else(|error| panic!("{error}"));
    let addresses = |last| Answers { a: vec![Ipv4Addr::new(198, 18, 1, last)], ..Answers::default() };
    let race = RaceConfig {
        name: name("*.race.test"),
        ttl_s: 30,
        delay: Delay::Fixed(Span::from_millis(100)),
        transmit: Transmit::At,
        late: LatePolicy::Drop,
        late_tolerance: Span::from_millis(2),
        sites: (0..10).map(|site| (format!("site-{site}"), addresses(site))).collect(),
        fallback: addresses(200),
    };
    Arc::new(Service::new("m1".into(), zones, vec![race]).unwrap_or_else(|error| panic!("{error}")))
}

fn shard(service: &Arc<Service>, agents: u32, now: LocalTime) -> Shard {
    let service_address = SocketAddr::from(([198, 51, 100, 53], 53));
    let config = ShardConfig {
        shard: 0,
        epoch: Epoch(1),
        service: Arc::clone(service),
        service_addresses: vec![service_address],
        stamp: Stamp::Receipt,
        seed: 1,
        validated_for: Span::from_secs(100_000),
        fallback_after: Span::from_millis(250),
        max_total_delay: Span::from_millis(300),
        races_per_source_per_s: 1_000_000,
        responses_per_prefix_per_s: 0,
        slip: 2,
        cookies: CookieSecrets::default(),
        even_delay: Vec::new(),
        sync_signal_interval: Span::from_secs(100_000),
    };
    let mut shard = Shard::new(config, now);
    for slot in 0..agents {
        let delay = ForwardDelay { p99: Span::from_millis(40), greatest: Span::from_millis(45), samples: 99 };
        shard.handle_agent(AgentView {
            slot,
            site: format!("site-{slot}"),
            fast_path: SocketAddr::from(([203, 0, 113, slot as u8], 8531)),
            sessions: vec![Binding {
                id: u64::from(slot),
                secret: [slot as u8; 32],
                master: "m1".into(),
                epoch: Epoch(1),
            }],
            readiness: Readiness::AtInstant,
            services: vec![service_address],
            playbook: 1,
            forward_delay: Some(delay),
            round_trip: None,
            expected_error: Span::ZERO,
        });
    }
    for host in 0..BATCH as u8 {
        shard.handle_validated(now, IpAddr::from([10, 0, 0, host]));
    }
    shard
}

fn query(name: &str) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    let name = Name::<Vec<u8>>::from_str(name).unwrap_or_else(|error| panic!("{error}"));
    question.push((name, Rtype::A)).unwrap_or_else(|error| panic!("{error}"));
    question.additional().finish()
}

fn drain(shard: &mut Shard) -> usize {
    let mut outputs = 0;
    while let Some(Output::Reply { bytes, .. } | Output::Fast { bytes, .. }) = shard.poll_output() {
        shard.recycle(bytes);
        outputs += 1;
    }
    outputs
}

/// Nanoseconds per query of one case, and datagrams that came out per query.
fn run(shard: &mut Shard, now: &mut LocalTime, names: &[Vec<u8>]) -> (f64, f64) {
    let mut outputs = 0usize;
    let begun = Instant::now();
    for batch in names.chunks(BATCH) {
        for (host, bytes) in batch.iter().enumerate() {
            let source = SocketAddr::from(([10, 0, 0, host as u8], 5_353));
            shard.handle_arrival(*now, Arrival { service: 0, source, received_at: *now, bytes });
        }
        outputs += drain(shard);
        *now = *now + Span::from_millis(10);
        shard.handle_timeout(*now);
        outputs += drain(shard);
    }
    let elapsed = begun.elapsed().as_nanos() as f64;
    (elapsed / names.len() as f64, outputs as f64 / names.len() as f64)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let service = service();
    let mut now = LocalTime::from_nanos(1_000_000_000);
    let cases: [(&str, u32, bool); 4] = [
        ("plain answer", 0, false),
        ("race, 1 agent", 1, true),
        ("race, 3 agents", 3, true),
        ("race, 10 agents", 10, true),
    ];
    let mut shards: Vec<Shard> = cases.iter().map(|(_, agents, _)| shard(&service, *agents, now)).collect();
    let mut times = vec![Vec::new(); cases.len()];
    let mut ratios = vec![Vec::new(); cases.len()];
    let mut datagrams = vec![0.0; cases.len()];
    for round in 0..ROUNDS {
        let mut plain = 0.0;
        for (case, (_, _, raced)) in cases.iter().enumerate() {
            let name = |i: usize| if *raced { format!("q{round}-{i}.race.test") } else { "plain.test".to_owned() };
            let names: Vec<Vec<u8>> = (0..QUERIES).map(|i| query(&name(i))).collect();
            let (nanoseconds, out) = run(&mut shards[case], &mut now, &names);
            if case == 0 {
                plain = nanoseconds;
            }
            times[case].push(nanoseconds);
            ratios[case].push(nanoseconds / plain);
            datagrams[case] = out;
        }
        eprint!("\rround {} of {ROUNDS}", round + 1);
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    eprintln!();
    println!("{ROUNDS} rounds of {QUERIES} queries each, in turn, one thread on a machine of {cores} cores; medians");
    println!(
        "{:<18} {:>12} {:>10} {:>10} {:>10} {:>11}",
        "case", "ns a query", "ratio", "least", "greatest", "datagrams"
    );
    for (case, (name, ..)) in cases.iter().enumerate() {
        let ratio = median(&mut ratios[case]);
        let (least, greatest) = (ratios[case][0], ratios[case][ROUNDS - 1]);
        let time = median(&mut times[case]);
        println!("{name:<18} {time:>12.0} {ratio:>10.2} {least:>10.2} {greatest:>10.2} {:>11.2}", datagrams[case]);
    }
}
