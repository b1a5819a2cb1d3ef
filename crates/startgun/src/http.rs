//! HTTP for machines: `/metrics` (Prometheus), `/healthz` (the process answers), `/readyz` (it can do its work).

use crate::status::{Document, RaceDocument, SecondaryDocument, Source, StreamsDocument, reported};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use startgun_core::control::AgentReport;
use startgun_core::histogram::Quantiles;
use startgun_core::master::{AgentStatus, Readiness};
use startgun_core::time::Span;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPeer {
    agent: String,
    master: String,
}

type PeerGauge = Family<ByPeer, Gauge<f64, AtomicU64>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    agent: String,
    master: String,
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRace {
    race: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByZone {
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    agent: String,
    reason: String,
}

/// One agent towards one master.
struct Peer<'a> {
    key: ByPeer,
    racing: bool,
    by_after: bool,
    report: &'a AgentReport,
    lateness: Option<Quantiles>,
}

/// Serves until the process ends.
///
/// # Errors
/// As for accepting connections.
pub async fn serve(listener: tokio::net::TcpListener, source: Source) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(source);
    axum::serve(listener, router).await
}

async fn ready(State(source): State<Source>) -> (StatusCode, String) {
    match unready(&source().await) {
        None => (StatusCode::OK, "ready\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// Why it is not ready: a master answers from the start, an agent needs one master that it races for.
fn unready(document: &Document) -> Option<String> {
    match document {
        Document::Master(_) => None,
        Document::Agent(agent) => {
            let reasons: Vec<String> = agent
                .masters
                .iter()
                .map(|master| master.report.stand_down.map(|reason| format!("{}: {}", master.name, reason.text())))
                .collect::<Option<_>>()?;
            Some(reasons.join("; "))
        }
    }
}

async fn metrics(State(source): State<Source>) -> String {
    render(&source().await)
}

/// The Prometheus text of a status document.
pub fn render(document: &Document) -> String {
    let mut registry = Registry::with_prefix("startgun");
    match document {
        Document::Master(master) => {
            counters(&mut registry, "master", &master.counters);
            gauge(&mut registry, "master_open_races", "Races open now", master.open_races as f64);
            streams(&mut registry, &master.streams);
            let racing = master.agents.iter().filter(|agent| agent.racing).count();
            gauge(&mut registry, "master_agents_racing", "Agents that race now", racing as f64);
            let reports = master.agents.iter().filter_map(|agent| {
                let report = agent.report.as_ref()?;
                Some(Peer {
                    key: ByPeer { agent: agent.name.clone(), master: master.name.clone() },
                    racing: agent.racing,
                    by_after: agent.readiness == Readiness::ByAfter,
                    report,
                    lateness: agent.lateness.or(report.lateness.map(reported)),
                })
            });
            peers(&mut registry, reports);
            stand_downs(&mut registry, &master.agents);
            spreads(&mut registry, &master.races);
            secondaries(&mut registry, &master.secondaries);
        }
        Document::Agent(agent) => {
            counters(&mut registry, "agent", &agent.counters);
            let reports = agent.masters.iter().map(|master| Peer {
                key: ByPeer { agent: agent.name.clone(), master: master.name.clone() },
                racing: master.report.stand_down.is_none(),
                by_after: master.report.by_after.is_some(),
                report: &master.report,
                lateness: master.report.lateness.map(reported),
            });
            peers(&mut registry, reports);
        }
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn counters(registry: &mut Registry, role: &str, counters: &BTreeMap<String, u64>) {
    for (name, count) in counters {
        registry.register(format!("{role}_{name}"), "Since the start", ConstCounter::new(*count));
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// Connections of clients.
fn streams(registry: &mut Registry, streams: &StreamsDocument) {
    let open = Family::<ByTransport, Gauge<f64, AtomicU64>>::default();
    for (transport, count) in [("tcp", streams.open_tcp), ("tls", streams.open_tls)] {
        open.get_or_create(&ByTransport { transport }).set(count as f64);
    }
    registry.register("master_open_connections", "Connections of clients that are open now", open);
    if let Some(not_after) = streams.certificate_not_after_unix_s {
        let help = "When the certificate of DNS over TLS expires, since 1970";
        gauge(registry, "master_tls_certificate_not_after_timestamp_seconds", help, not_after as f64);
    }
}

/// Clock, delay and lateness of every agent-master pair.
fn peers<'a>(registry: &mut Registry, peers: impl Iterator<Item = Peer<'a>>) {
    let (racing, after) = (PeerGauge::default(), PeerGauge::default());
    let (offset, bound, expected) = (PeerGauge::default(), PeerGauge::default(), PeerGauge::default());
    let forward = PeerGauge::default();
    let lateness = [PeerGauge::default(), PeerGauge::default(), PeerGauge::default()];
    let sources = Family::<BySource, Gauge<f64, AtomicU64>>::default();
    let seconds = |family: &PeerGauge, peer: &ByPeer, span: Option<Span>| {
        if let Some(span) = span {
            family.get_or_create(peer).set(span.as_secs_f64());
        }
    };
    for Peer { key, racing: races, by_after, report, lateness: late } in peers {
        racing.get_or_create(&key).set(f64::from(u8::from(races)));
        after.get_or_create(&key).set(f64::from(u8::from(by_after)));
        let clock = report.clock.as_ref();
        seconds(&offset, &key, clock.map(|clock| clock.offset));
        seconds(&bound, &key, clock.and_then(|clock| clock.bound));
        seconds(&expected, &key, clock.and_then(|clock| clock.expected_error));
        seconds(&forward, &key, report.forward_delay.map(|delay| delay.p99));
        for (family, span) in lateness.iter().zip(each(late)) {
            seconds(family, &key, span);
        }
        if let Some(source) = clock.and_then(|clock| clock.source).map(|source| source.text().to_owned()) {
            let ByPeer { agent, master } = key;
            sources.get_or_create(&BySource { agent, master, source }).set(1.0);
        }
    }
    registry.register("agent_racing", "1 while the agent races for the master", racing);
    registry.register("agent_racing_by_after", "1 while it does so by After, because of its clock", after);
    registry.register("agent_clock_source", "1 for what decides the clock's estimate", sources);
    let mut timed = |name: &str, help: &str, family| registry.register_with_unit(name, help, Unit::Seconds, family);
    timed("agent_clock_offset", "The master's time less the agent's own, by the estimate", offset);
    timed("agent_clock_bound", "Proven bound of the clock error", bound);
    timed("agent_clock_expected_error", "Statistical clock error", expected);
    timed("agent_forward_delay_p99", "How long orders take from the master, 99th percentile", forward);
    let [p50, p90, p99] = lateness;
    timed("agent_lateness_p50", "Departure after T, median", p50);
    timed("agent_lateness_p90", "Departure after T, 90th percentile", p90);
    timed("agent_lateness_p99", "Departure after T, 99th percentile", p99);
}

fn each(quantiles: Option<Quantiles>) -> [Option<Span>; 3] {
    [quantiles.map(|q| q.p50), quantiles.map(|q| q.p90), quantiles.map(|q| q.p99)]
}

/// How often agents have stood down, by reason.
fn stand_downs(registry: &mut Registry, agents: &[AgentStatus]) {
    let stood_down = Family::<ByReason, Counter>::default();
    for agent in agents {
        for (reason, count) in agent.report.iter().flat_map(crate::status::stand_downs) {
            let key = ByReason { agent: agent.name.clone(), reason: reason.to_owned() };
            stood_down.get_or_create(&key).inc_by(count);
        }
    }
    registry.register("agent_stood_down", "Stand-downs since the agent's start", stood_down);
}

/// Zones that are transferred from elsewhere.
fn secondaries(registry: &mut Registry, zones: &[SecondaryDocument]) {
    let [serial, checked, expires] = [0; 3].map(|_| Family::<ByZone, Gauge<f64, AtomicU64>>::default());
    for zone in zones {
        let key = ByZone { zone: zone.name.clone() };
        if let Some(number) = zone.serial {
            serial.get_or_create(&key).set(f64::from(number));
        }
        if let Some(ago_s) = zone.checked_s_ago {
            checked.get_or_create(&key).set(ago_s as f64);
        }
        expires.get_or_create(&key).set(zone.expires_in_s.unwrap_or(0) as f64);
    }
    registry.register("master_secondary_serial", "The version of a secondary zone that is served", serial);
    let mut timed = |name: &str, help: &str, family| registry.register_with_unit(name, help, Unit::Seconds, family);
    timed("master_secondary_checked_ago", "Since the last check of a secondary zone", checked);
    timed("master_secondary_expires_in", "Until a secondary zone expires, 0 where it has", expires);
}

/// Start spread of every raced name.
fn spreads(registry: &mut Registry, races: &[RaceDocument]) {
    let gauges = [0; 3].map(|_| Family::<ByRace, Gauge<f64, AtomicU64>>::default());
    let measured = Family::<ByRace, Counter>::default();
    for race in races {
        let key = ByRace { race: race.name.clone() };
        measured.get_or_create(&key).inc_by(race.start_spread.map_or(0, |spread| spread.count));
        for (family, span) in gauges.iter().zip(each(race.start_spread)) {
            if let Some(span) = span {
                family.get_or_create(&key).set(span.as_secs_f64());
            }
        }
    }
    registry.register("master_races_measured", "Races whose start spread is known", measured);
    let mut timed = |name: &str, help: &str, family| registry.register_with_unit(name, help, Unit::Seconds, family);
    let [p50, p90, p99] = gauges;
    timed("master_start_spread_p50", "Latest less earliest departure of a race, median", p50);
    timed("master_start_spread_p90", "Latest less earliest departure of a race, 90th percentile", p90);
    timed("master_start_spread_p99", "Latest less earliest departure of a race, 99th percentile", p99);
}
