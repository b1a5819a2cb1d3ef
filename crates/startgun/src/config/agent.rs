//! The agent's configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use startgun_core::agent::{Limits, OnBadClock};
use startgun_core::clock::ClockSource;
use startgun_core::control::{MAX_SERVICES, is_site_name};
use startgun_core::time::Span;
use startgun_net::host_time::{HostChoice, HostTimeOptions};

use super::clock::read_host_time;
use super::host::{HostConfig, Listeners, NAME, Transport, read_host, read_name};
use super::reader::{SOCKET_ADDRESS, Section, Value};
use super::{Role, Root};
use crate::control::mesh_keys::MeshStanding;

/// Most masters of one agent: each has a clock, a control connection and a playbook of up to a MiB.
pub const MASTERS_MAX: usize = 32;

/// Most departures per second that make sense: what two cores send with `sendmmsg`.
const DEPARTURES_PER_S_MAX: i64 = 1_000_000;

/// Ten seconds: further than any path on Earth, queues included.
const PROPAGATION_MS: std::ops::RangeInclusive<f64> = 0.0..=10_000.0;
/// Greatest number of a processor: the kernel's own sets hold 1,024.
const CPU_MAX: i64 = 1_023;
/// Default of `max_lateness_ms`: that of a race's `late_tolerance_ms`.
const MAX_LATENESS: Span = Span::from_millis(2);

/// An agent's configuration.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// What every daemon has.
    pub host: HostConfig,
    /// The site that it answers for.
    pub site: String,
    /// Where it takes orders and exchanges.
    pub fast_path_listen: SocketAddr,
    /// What it tells masters to send them to, where that is not the address that the master sees.
    pub fast_path_advertise: Option<SocketAddr>,
    /// Where departures are recorded, if anywhere.
    pub audit_log: Option<PathBuf>,
    /// Its own limits.
    pub limits: Limits,
    /// What its clock is taken from.
    pub clock_source: ClockSource,
    /// Where this host takes UTC from.
    pub host_time: HostTimeOptions,
    /// Ready only while the statistical clock error is at most this.
    pub max_expected_error: Span,
    /// Ready only while the proven clock bound is at most this.
    pub max_bound: Span,
    /// What it does while `max_expected_error` is exceeded.
    pub on_bad_clock: OnBadClock,
    /// It stands down when its recent departures were later than this.
    pub max_lateness: Span,
    /// The processor that the departure thread stays on.
    pub departure_cpu: Option<usize>,
    /// Greatest rate between two hosts' clocks, in parts per million.
    pub max_drift_ppm: u32,
    /// Whether it takes part in the mesh, where its certificate has a key for that.
    pub mesh: bool,
    /// Time between two exchanges with each master.
    pub exchange_interval: Span,
    /// Its masters; at least one.
    pub masters: Vec<MasterLink>,
}

/// One master, as an agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterLink {
    /// The name that its certificate must carry.
    pub name: String,
    /// Where its control channel listens.
    pub control: SocketAddr,
    /// The addresses that this agent may speak for on its behalf; at least one.
    pub service_addresses: Vec<SocketAddr>,
    /// What the operator vouches for about unsolicited synchronisation signals.
    pub signal_propagation: Option<SignalPropagation>,
    /// What the operator vouches for about the way of every packet.
    pub propagation: Propagation,
}

/// How long a packet is under way at least, if the operator is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Propagation {
    /// From this agent to the master.
    pub to_master: Span,
    /// From the master to this agent.
    pub from_master: Span,
}

/// How long a signal takes from the master to this agent, if the operator is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalPropagation {
    /// At least.
    pub least: Span,
    /// At most.
    pub greatest: Span,
}

impl fmt::Display for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masters: Vec<&str> = self.masters.iter().map(|master| master.name.as_str()).collect();
        let (name, site) = (&self.host.name, &self.site);
        write!(f, "agent {name} of site {site}, masters: {}", masters.join(", "))?;
        // Whether the certificate carries a key too is not known here; a check warns where it does not.
        match (self.mesh, &self.host.fleet.mesh_key, MeshStanding::NotConfigured.absence()) {
            (false, ..) => write!(f, "; takes no part in the mesh: clock.mesh is false"),
            (true, None, Some(absence)) => write!(f, "; {absence}"),
            _ => Ok(()),
        }
    }
}

/// Reads an agent's file; `None` only where a fault was noted.
pub(super) fn read(Root { section: root, .. }: Root<'_>) -> Option<AgentConfig> {
    let host = read_host(&root, Role::Agent, "/run/startgun/agent.sock");
    let site = root.value("site").and_then(|value| read_site(&value));
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8531));
    let fast_path_listen = root.or("fast_path_listen", any, |value| value.listen_address());
    let fast_path_advertise =
        root.value("fast_path_advertise").and_then(|value| value.exact_address("masters send orders to it"));
    let audit_log = root.value("audit_log").and_then(|value| value.path());
    let mut listeners = Listeners::default();
    listeners.add(&root, "fast_path_listen", Transport::Udp);
    listeners.add(&root, "http_listen", Transport::Tcp);

    let limits = root.section("limits").map_or_else(Limits::default, read_limits);
    let clock = root.section("clock").map_or_else(Clock::default, read_clock);
    let (max_lateness, departure_cpu) = root.section("departure").map_or((MAX_LATENESS, None), read_departure);
    let mut names = BTreeMap::new();
    let masters: Vec<_> =
        root.sections("master", MASTERS_MAX).into_iter().map(|section| read_master(section, &mut names)).collect();
    if masters.is_empty() && root.value("master").is_none() {
        root.missing::<()>("master", "at least one [[master]] with name, control and service_addresses");
    }
    root.finish();

    let host = host?;
    Some(AgentConfig {
        site: site.unwrap_or_else(|| host.name.clone()),
        host,
        fast_path_listen,
        fast_path_advertise,
        audit_log,
        limits,
        clock_source: clock.source,
        host_time: clock.host_time,
        max_expected_error: clock.max_expected_error,
        max_bound: clock.max_bound,
        on_bad_clock: clock.on_bad_clock,
        max_lateness,
        departure_cpu,
        max_drift_ppm: clock.max_drift_ppm,
        mesh: clock.mesh,
        exchange_interval: clock.exchange_interval,
        masters: masters.into_iter().collect::<Option<_>>()?,
    })
}

/// What a site's name looks like, for errors.
pub(super) const SITE: &str = "1 to 63 of A-Z, a-z, 0-9, - and _";

fn read_site(value: &Value<'_>) -> Option<String> {
    match value.as_str().filter(|site| is_site_name(site)) {
        Some(site) => Some(site.to_owned()),
        None => value.wrong(SITE),
    }
}

/// What rates are counted in, for errors.
const RATE: &str = "departures per second";

fn read_limits(section: Section<'_>) -> Limits {
    let default = Limits::default();
    let rate = |value: Value<'_>| value.integer(1..=DEPARTURES_PER_S_MAX, RATE);
    let departures_per_s = section.or("departures_per_s", default.departures_per_s, rate);
    let value = section.value("departures_per_prefix_per_s");
    let departures_per_prefix_per_s =
        match value.as_ref().and_then(|value| value.integer(1..=DEPARTURES_PER_S_MAX, RATE)) {
            Some(found) if found > departures_per_s => {
                let found = format!("{found}, above departures_per_s, {departures_per_s}");
                value.and_then(|value| value.fault(found, "at most as many as in all"))
            }
            found => found,
        };
    let limits = Limits {
        departures_per_s,
        departures_per_prefix_per_s: departures_per_prefix_per_s
            .unwrap_or(default.departures_per_prefix_per_s.min(departures_per_s)),
        allow_private_destinations: section.or(
            "allow_private_destinations",
            default.allow_private_destinations,
            |value| value.boolean(),
        ),
    };
    section.finish();
    limits
}

fn read_departure(section: Section<'_>) -> (Span, Option<usize>) {
    // Below 10 µs no kernel keeps it; more than a second late is no race any more.
    let max_lateness = section.or("max_lateness_ms", MAX_LATENESS, |value| value.milliseconds(0.01..=1_000.0));
    let cpu = section.value("cpu").and_then(|value| value.integer(0..=CPU_MAX, "the number of a processor"));
    section.finish();
    (max_lateness, cpu)
}

struct Clock {
    source: ClockSource,
    host_time: HostTimeOptions,
    max_expected_error: Span,
    max_bound: Span,
    on_bad_clock: OnBadClock,
    max_drift_ppm: u32,
    mesh: bool,
    exchange_interval: Span,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            source: ClockSource::Auto,
            host_time: HostTimeOptions::default(),
            max_expected_error: Span::from_millis(3),
            max_bound: Span::from_millis(250),
            on_bad_clock: OnBadClock::StandDown,
            max_drift_ppm: 200,
            mesh: true,
            exchange_interval: Span::from_millis(250),
        }
    }
}

/// What `source` may be.
const SOURCES: [(&str, ClockSource); 3] =
    [("auto", ClockSource::Auto), ("host", ClockSource::Host), ("master", ClockSource::Master)];

fn read_clock(section: Section<'_>) -> Clock {
    let default = Clock::default();
    // Below a microsecond no host would ever be ready; above seconds a race is decided by chance.
    let max_bound = section.or("max_bound_ms", default.max_bound, |value| value.milliseconds(0.001..=10_000.0));
    let value = section.value("max_expected_error_ms");
    let max_expected_error = match value.as_ref().and_then(|value| value.milliseconds(0.001..=1_000.0)) {
        Some(found) if found > max_bound => {
            let found = format!("{}, above max_bound_ms, {}", found.as_millis_f64(), max_bound.as_millis_f64());
            value.and_then(|value| value.fault(found, "at most the bound: no error exceeds what is proven"))
        }
        found => found,
    };
    let host_time = read_host_time(&section);
    let source = section.value("source");
    let clock = Clock {
        source: source.as_ref().and_then(|value| value.word(&SOURCES)).unwrap_or_default(),
        host_time,
        max_expected_error: max_expected_error.unwrap_or(default.max_expected_error.min(max_bound)),
        max_bound,
        on_bad_clock: section.or("on_bad_clock", default.on_bad_clock, |value| {
            value.word(&[("stand-down", OnBadClock::StandDown), ("after", OnBadClock::After)])
        }),
        max_drift_ppm: section
            .or("max_drift_ppm", default.max_drift_ppm, |value| value.integer(1..=10_000, "parts per million")),
        mesh: section.or("mesh", default.mesh, |value| value.boolean()),
        // 16 requests are outstanding at most, so 50 ms allow for round trips of 0.8 s; 10 s leave six samples in the
        // clock's window of a minute.
        exchange_interval: section
            .or("exchange_interval_ms", default.exchange_interval, |value| value.milliseconds(50.0..=10_000.0)),
    };
    if let Some(value) = source
        && clock.source == ClockSource::Host
        && clock.host_time.choice == HostChoice::Nothing
    {
        value.fault::<()>("\"host\" beside host_source = \"none\"", "a source that is there");
    }
    section.finish();
    clock
}

fn read_master(section: Section<'_>, names: &mut BTreeMap<String, String>) -> Option<MasterLink> {
    let name = section.required("name", NAME, |value| {
        let name = read_name(&value)?;
        match names.insert(name.clone(), value.key.clone()) {
            Some(first) => value.fault(format!("{name:?} again"), format!("a name that {first} has not taken")),
            None => Some(name),
        }
    });
    let control = section.required("control", SOCKET_ADDRESS, |value| value.exact_address("the agent dials it"));
    let expected = "the addresses that this agent may speak for";
    let service_addresses = section.required("service_addresses", expected, |value| {
        let addresses = value.list(MAX_SERVICES, "IP addresses with ports", |item| {
            item.exact_address("it becomes the source of answers, and must be what the resolver asked")
        })?;
        match addresses.is_empty() {
            true => value.fault("none", "at least one address with port"),
            false => Some(addresses),
        }
    });
    let signal_propagation = section.section("signal_propagation_ms").and_then(read_signal_propagation);
    let propagation = section.section("propagation_ms").map(read_propagation).unwrap_or_default();
    section.finish();
    Some(MasterLink {
        name: name?,
        control: control?,
        service_addresses: service_addresses?,
        signal_propagation,
        propagation,
    })
}

fn read_propagation(section: Section<'_>) -> Propagation {
    let read = |value: Value<'_>| value.milliseconds(PROPAGATION_MS);
    let propagation = Propagation {
        to_master: section.or("to_master", Span::ZERO, read),
        from_master: section.or("from_master", Span::ZERO, read),
    };
    section.finish();
    propagation
}

fn read_signal_propagation(section: Section<'_>) -> Option<SignalPropagation> {
    let read = |value: Value<'_>| value.milliseconds(PROPAGATION_MS);
    let least = section.or("least", Span::ZERO, read);
    let greatest = section.required("greatest", "milliseconds, a number from 0 to 10000", read);
    let propagation = match greatest {
        Some(greatest) if greatest <= least => {
            let (least, greatest) = (least.as_millis_f64(), greatest.as_millis_f64());
            section.wrong(format!("least = {least} and greatest = {greatest}"), "greatest above least")
        }
        greatest => greatest.map(|greatest| SignalPropagation { least, greatest }),
    };
    section.finish();
    propagation
}
