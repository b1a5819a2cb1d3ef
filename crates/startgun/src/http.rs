//! HTTP for machines: `/metrics` (Prometheus), `/healthz` (the process answers), `/readyz` (it can do its work).

use crate::status::{Document, Source};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use startgun_core::control::AgentReport;
use startgun_core::time::Span;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPeer {
    agent: String,
    master: String,
}

type PeerGauge = Family<ByPeer, Gauge<f64, AtomicU64>>;

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
            let racing = master.agents.iter().filter(|agent| agent.racing).count();
            gauge(&mut registry, "master_agents_racing", "Agents that race now", racing as f64);
            let reports = master.agents.iter().filter_map(|agent| {
                let peer = ByPeer { agent: agent.name.clone(), master: master.name.clone() };
                Some((peer, agent.racing, agent.report.as_ref()?))
            });
            peers(&mut registry, reports);
        }
        Document::Agent(agent) => {
            counters(&mut registry, "agent", &agent.counters);
            let reports = agent.masters.iter().map(|master| {
                let peer = ByPeer { agent: agent.name.clone(), master: master.name.clone() };
                (peer, master.report.stand_down.is_none(), &master.report)
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

/// Clock, delay and lateness of every agent-master pair.
fn peers<'a>(registry: &mut Registry, reports: impl Iterator<Item = (ByPeer, bool, &'a AgentReport)>) {
    let racing = PeerGauge::default();
    let bound = PeerGauge::default();
    let expected = PeerGauge::default();
    let forward = PeerGauge::default();
    let lateness = PeerGauge::default();
    let seconds = |family: &PeerGauge, peer: &ByPeer, span: Option<Span>| {
        if let Some(span) = span {
            family.get_or_create(peer).set(span.as_secs_f64());
        }
    };
    for (peer, races, report) in reports {
        racing.get_or_create(&peer).set(f64::from(u8::from(races)));
        seconds(&bound, &peer, report.clock.and_then(|clock| clock.bound));
        seconds(&expected, &peer, report.clock.and_then(|clock| clock.expected_error));
        seconds(&forward, &peer, report.forward_delay.map(|delay| delay.p99));
        seconds(&lateness, &peer, report.lateness.map(|lateness| lateness.p99));
    }
    registry.register("agent_racing", "1 while the agent races for the master", racing);
    let mut timed = |name: &str, help: &str, family| registry.register_with_unit(name, help, Unit::Seconds, family);
    timed("agent_clock_bound", "Proven bound of the clock error", bound);
    timed("agent_clock_expected_error", "Statistical clock error", expected);
    timed("agent_forward_delay_p99", "How long orders take from the master, 99th percentile", forward);
    timed("agent_lateness_p99", "Departure after T, 99th percentile", lateness);
}
