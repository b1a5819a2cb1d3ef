//! `startgun agent`: the fast path and the departures on plain threads, one control connection per master.
//!
//! ```text
//!   control tasks ──documents──▶ ┌──────────────┐ ──departures──▶ departure thread ──▶ resolvers
//!   (tokio, TLS)  ◀──documents── │  fast thread │ ◀──outcomes────
//!   masters ◀──datagrams──────▶  │ (core Agent) │ ──audit records──▶ audit thread ──▶ file
//!                                └──────────────┘
//! ```

mod audit;
mod control;
mod fast;

use crate::config::AgentConfig;
use crate::control::mesh_keys::fresh_salt;
use crate::control::tls::ClientTls;
use crate::host_time::HostTimeText;
use crate::status::{AgentDocument, AgentMasterDocument, Document};
use crate::{config, host_time, startup, status};
use fast::{FastHandle, FastInput, FastParts};
use startgun_core::agent::{Agent, MasterConfig, MeshConfig};
use startgun_core::clock::ClockConfig;
use startgun_core::control::MeshSalt;
use startgun_core::playbook::{Playbook, PreparedPlaybook};
use startgun_core::time::Span;
use startgun_net::departure::{self, DepartureThread};
use startgun_net::host_time::{HostTime, HostTimeReader};
use startgun_net::poll::Waker;
use startgun_net::udp::{Options, UdpSocket};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Departures that may wait in the departure thread; the core's own limit is the same.
const DEPARTURES: usize = startgun_core::agent::MAX_PENDING;
/// Real-time priority of the departure thread, where it is permitted.
const DEPARTURE_PRIORITY: i32 = 20;

/// How far ahead T may lie: three times the default cap of the predetermined delay.
const HORIZON: Span = Span::from_secs(1);

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
/// A sentence for the operator; nothing was started then.
pub fn run(path: &Path) -> Result<(), String> {
    let config = startup::loaded(config::load_agent(path))?;
    let clock = startup::clock(&config.host);
    let mut tls = Vec::new();
    for master in &config.masters {
        let endpoint = ClientTls::load(&config.host.fleet, &master.name).map_err(|error| error.to_string())?;
        startup::check_identity(&config.host.name, &endpoint.identity().name)?;
        tls.push(endpoint);
    }
    // All endpoints have the same files; the first speaks for them.
    let absence = tls.first().and_then(|endpoint| endpoint.mesh().absence());
    if let Some(absence) = absence.filter(|_| config.mesh) {
        tracing::warn!("{absence}");
    }
    let takes_part = config.mesh && absence.is_none();
    let mesh_salt = takes_part.then(fresh_salt).transpose().map_err(|_| "the kernel gives no randomness")?;
    let kernel = departure::probe(&clock, config.masters[0].control.ip());
    let (services, sockets) = bind_services(&config, kernel.are_kept())?;
    let fast_options = Options { receive_timestamps: true, transmit_timestamps: true, ..Options::default() };
    let socket = UdpSocket::bind(config.fast_path_listen, fast_options)
        .map_err(|error| format!("fast_path_listen {}: {error}", config.fast_path_listen))?;
    let http_listener = config.host.http_listen.map(|address| startup::listen("http_listen", address)).transpose()?;
    let status_listener = startup::status_socket(&config.host.status_socket)?;
    startup::state_directory(&config.host.state_dir, config.host.user.as_deref())?;
    let audit = config.audit_log.as_deref().map(audit::open).transpose()?;
    // Where that is not permitted the limit stays what it is, and the thread says what it got.
    let _ = startgun_net::privileges::allow_realtime_priority(DEPARTURE_PRIORITY);
    let _ = startgun_net::privileges::allow_memory_locking();
    // A hardware clock's device is opened while privileges are there.
    let host_time_reader = HostTimeReader::new(config.host_time.clone());
    startup::drop_privileges(config.host.user.as_deref())?;

    let audit = audit.map(|file| audit::start(file, master_names(&config))).transpose()?;
    let thread_fault = |error: std::io::Error| format!("starting threads: {error}");
    let waker = Waker::new().map_err(thread_fault)?;
    let options = departure::Options {
        capacity: DEPARTURES,
        realtime_priority: Some(DEPARTURE_PRIORITY),
        pin_to_cpu: config.departure_cpu,
        lock_memory: true,
        kernel: Some(kernel),
    };
    let departures = DepartureThread::spawn(clock.clone(), sockets, options, waker.clone()).map_err(thread_fault)?;
    let scheduling = departures.scheduling().to_owned();

    let mut agent = Agent::new(core_config(&config, mesh_salt), clock.now());
    for (index, master) in config.masters.iter().enumerate() {
        if let Some(playbook) = read_playbook(&playbook_path(&config.host.state_dir, &master.name)) {
            agent.restore_playbook(index, playbook);
        }
    }
    let parts = FastParts { agent, socket, services, departures, clock: clock.clone(), waker, audit };
    let advertised = config.fast_path_advertise.unwrap_or(config.fast_path_listen);
    let (fast, outgoing, thread) = fast::spawn(parts, advertised, config.masters.len()).map_err(thread_fault)?;

    let status_path = config.host.status_socket.clone();
    let local = tokio::task::LocalSet::new();
    let runtime = startup::runtime()?;
    let ended = local.block_on(&runtime, async {
        for (index, (endpoint, documents)) in tls.into_iter().zip(outgoing).enumerate() {
            let master = &config.masters[index];
            let link = control::Link {
                index,
                name: config.host.name.clone(),
                master: master.name.clone(),
                address: master.control,
                playbook: playbook_path(&config.host.state_dir, &master.name),
                mesh_salt,
                fast: fast.clone(),
            };
            tokio::task::spawn_local(link.run(endpoint, documents));
        }
        let host_clock = HostTimeText::new();
        let teller = fast.clone();
        let tell = async move |time: Option<HostTime>| teller.tell(FastInput::HostTime(time.map(Into::into))).await;
        tokio::task::spawn_local(host_time::watch(host_time_reader, clock, host_clock.clone(), tell));
        let describe =
            Describe { config: Arc::new(config), started: Instant::now(), scheduling, host_clock, fast: fast.clone() };
        startup::serve_documents(
            status_listener,
            http_listener,
            status::source(describe.clone(), Describe::document),
            None,
        )?;
        tracing::info!(agent = describe.config.host.name, "started");
        startup::termination().await
    });
    fast.stop();
    let _ = thread.join();
    status::remove(&status_path);
    ended
}

/// The configuration as the core takes it.
fn core_config(config: &AgentConfig, mesh_salt: Option<MeshSalt>) -> startgun_core::agent::AgentConfig {
    let master = |master: &crate::config::MasterLink| MasterConfig {
        name: master.name.clone(),
        services: master.service_addresses.clone(),
        clock: ClockConfig {
            max_drift_ppm: config.max_drift_ppm,
            least_propagation_to_master: master.propagation.to_master,
            least_propagation_from_master: master
                .signal_propagation
                .map_or(Span::ZERO, |known| known.least)
                .max(master.propagation.from_master),
            source: config.clock_source,
            greatest_signal_propagation: master.signal_propagation.map(|known| known.greatest),
            ..ClockConfig::default()
        },
    };
    startgun_core::agent::AgentConfig {
        site: config.site.clone(),
        masters: config.masters.iter().map(master).collect(),
        max_expected_error: config.max_expected_error,
        max_bound: config.max_bound,
        on_bad_clock: config.on_bad_clock,
        max_lateness: config.max_lateness,
        exchange_interval: config.exchange_interval,
        horizon: HORIZON,
        limits: config.limits,
        mesh: mesh_salt.map(|salt| MeshConfig { name: config.host.name.clone(), salt }),
    }
}

fn master_names(config: &AgentConfig) -> Vec<String> {
    config.masters.iter().map(|master| master.name.clone()).collect()
}

/// One socket for every service address, whichever masters share it. Where the kernel keeps a departure's instant, it is
/// told that.
fn bind_services(config: &AgentConfig, departure_times: bool) -> Result<(Vec<SocketAddr>, Vec<UdpSocket>), String> {
    let mut services: Vec<SocketAddr> =
        config.masters.iter().flat_map(|master| master.service_addresses.iter().copied()).collect();
    services.sort_unstable();
    services.dedup();
    let bind = |address: &SocketAddr| -> Result<UdpSocket, String> {
        let options = Options {
            transparent: true,
            reuse_port: true,
            transmit_timestamps: true,
            departure_times,
            ..Options::default()
        };
        let fault = |error: std::io::Error| format!("service address {address}: {error}");
        let socket = UdpSocket::bind(*address, options).map_err(fault)?;
        socket.refuse_input().map_err(fault)?;
        Ok(socket)
    };
    let sockets = services.iter().map(bind).collect::<Result<_, _>>()?;
    Ok((services, sockets))
}

fn playbook_path(state: &Path, master: &str) -> PathBuf {
    state.join(format!("playbook-{master}.json"))
}

/// The playbook that was kept on disk; a damaged one is as good as none, the master pushes it again.
fn read_playbook(path: &Path) -> Option<PreparedPlaybook> {
    let json = std::fs::read(path).ok()?;
    let playbook: Playbook = serde_json::from_slice(&json).ok()?;
    PreparedPlaybook::new(&playbook).ok()
}

/// What `status` and metrics are made from.
#[derive(Clone)]
struct Describe {
    config: Arc<AgentConfig>,
    started: Instant,
    scheduling: String,
    host_clock: HostTimeText,
    fast: FastHandle,
}

impl Describe {
    async fn document(self) -> Document {
        let figures = self.fast.figures().await;
        let masters = self
            .config
            .masters
            .iter()
            .zip(figures.masters)
            .map(|(master, (connected, report))| AgentMasterDocument { name: master.name.clone(), connected, report });
        Document::Agent(AgentDocument {
            name: self.config.host.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            site: self.config.site.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            departure_scheduling: self.scheduling.clone(),
            host_clock: self.host_clock.get(),
            masters: masters.collect(),
            counters: figures.counters,
        })
    }
}
