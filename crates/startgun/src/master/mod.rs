//! `startgun master`: the data plane's threads, and around them control, TCP, status and metrics.
//!
//! Everything that can fail, fails before the first packet is answered: configuration, certificates, sockets. Then
//! privileges are dropped, then the threads start.

mod control;
mod reload;
mod secondary;
mod self_test;
mod shards;
mod signing;
mod tcp;

use crate::config::MasterConfig;
use crate::control::tls::ServerTls;
use crate::host_time::HostTimeText;
use crate::status::{Answer, Document, MasterDocument, RaceDocument, Request};
use crate::{config, host_time, startup, status};
use control::RosterHandle;
use reload::{Current, Reloaded, Reloader};
use secondary::Notices;
use self_test::SelfTests;
use shards::{ShardInput, ShardParts};
use startgun_core::clock::host::UtcOnRace;
use startgun_core::dns::cookie::{CookieSecrets, SECRET};
use startgun_core::histogram::Histogram;
use startgun_core::master::{Roster, RosterConfig, Shard, ShardConfig, SharedService, Transmit};
use startgun_core::time::{Epoch, RaceTime, Span};
use startgun_core::wire::session::SHARD_OFFSET;
use startgun_net::host_clock::HostClock;
use startgun_net::host_time::{HostTime, HostTimeReader};
use startgun_net::udp::{Options, UdpSocket};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Time between two unsolicited synchronisation signals.
const SYNC_SIGNAL_INTERVAL: Span = Span::from_secs(1);
/// After how long a session's keys are replaced.
const REKEY_INTERVAL: Span = Span::from_secs(3_600);
/// Runs a master until SIGTERM or SIGINT.
///
/// # Errors
/// A sentence for the operator; nothing was started then.
pub fn run(path: &Path) -> Result<(), String> {
    let mut config = startup::loaded(config::load_master(path))?;
    config.settle_shards();
    let clock = startup::clock(&config.host);
    let epoch = startup::epoch()?;
    let service: SharedService = Arc::new(signing::signed(config.take_service(), &config)?);
    let tls = ServerTls::load(&config.host.fleet).map_err(|error| error.to_string())?;
    startup::check_identity(&config.host.name, &tls.identity().name)?;

    let cookies = cookie_secrets(&config)?;
    let seed = startup::seed()?.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let parts = bind_shards(&config, &clock, &|shard| shard_config(&config, shard, epoch, &service, &cookies, seed))?;
    let listeners = Listeners::bind(&config)?;
    let front = tcp::Front::bind(&config.service_addresses, &config.streams)?;
    let self_tests = SelfTests::bind(&config)?;
    secondary::prepare(&config)?;
    // A hardware clock's device is opened while privileges are there.
    let reader = HostTimeReader::new(config.host_time.clone());
    startup::drop_privileges(config.host.user.as_deref())?;

    let (roster_handle, events) = RosterHandle::new();
    let challenges = roster_handle.clone();
    let notices = Notices::new(clock.clone());
    let started = shards::spawn(parts, &clock, move |source, bytes| challenges.challenge(source, bytes), &notices);
    let (shards, threads) = started.map_err(|error| format!("starting threads: {error}"))?;
    let current = Current::new(Arc::new(config.clone()), Arc::clone(&service), cookies);
    let (streams, streams_thread) = front.spawn(current.clone(), shards.clone(), notices.clone())?;
    let stopping = shards.clone();
    let roster = Roster::new(
        RosterConfig {
            service,
            epoch,
            service_addresses: config.service_addresses.clone(),
            shards: config.shards,
            fast_path: config.fast_path_listen,
            self_test: config.self_test_listen,
            rekey_interval: REKEY_INTERVAL,
        },
        startup::seed()?,
    );

    let status_path = config.host.status_socket.clone();
    let local = tokio::task::LocalSet::new();
    let runtime = startup::runtime()?;
    let ended = local.block_on(&runtime, async {
        tokio::task::spawn_local(control::run_roster(roster, events, clock.clone(), shards.clone()));
        let host_clock = HostTimeText::new();
        let teller = shards.clone();
        let tell = async move |time: Option<HostTime>| teller.tell_all(|| ShardInput::Utc(time.map(on_race)));
        tokio::task::spawn_local(host_time::watch(reader, clock.clone(), host_clock.clone(), tell));
        self_tests.spawn(&roster_handle, &current)?;
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        let (path, roster) = (path.to_owned(), roster_handle);
        let reloader = Reloader { path, current, epoch, seed, shards, roster, streams, notices, turn };
        tokio::task::spawn_local(reloader.clone().on_hangup());
        tokio::task::spawn_local(signing::renew(reloader.clone()));
        tokio::task::spawn_local(secondary::run(reloader.clone()));
        let describe = Describe { host_clock, started: Instant::now(), reloader };
        listeners.serve(tls, &describe).await?;
        tracing::info!(master = describe.reloader.current.config().host.name, "ready");
        startup::termination().await
    });
    streams_thread.stop();
    shards::stop(&stopping, threads);
    status::remove(&status_path);
    ended
}

/// What the host's clock says of UTC, said of the timeline: on a master the two clocks are one.
fn on_race(time: HostTime) -> UtcOnRace {
    let HostTime { at, utc_minus_local, bound, stated, .. } = time;
    UtcOnRace { at: RaceTime::of_master(at), utc_minus_race: utc_minus_local, bound, stated }
}

/// The secrets of server cookies: the operator's, or one of the master's own that outlives the process, so that a restart
/// costs no resolver its cookie.
fn cookie_secrets(config: &MasterConfig) -> Result<CookieSecrets, String> {
    if let Some(secrets) = &config.admission.cookie_secrets {
        return Ok(CookieSecrets::new(secrets.iter().copied()));
    }
    let path = config.host.state_dir.join("cookie.secret");
    let known = std::fs::read(&path).ok().and_then(|bytes| bytes.first_chunk::<SECRET>().copied());
    if let Some(secret) = known {
        return Ok(CookieSecrets::new([secret]));
    }
    let seed = startup::seed()?;
    let secret = *seed.first_chunk::<SECRET>().unwrap_or(&[0; SECRET]);
    let kept = startup::state_directory(&config.host.state_dir, config.host.user.as_deref())
        .and_then(|()| startup::write_atomically(&path, &secret).map_err(|error| error.to_string()));
    if let Err(error) = kept {
        tracing::warn!(path = %path.display(), error, "the secret of server cookies will not outlive this process");
    }
    Ok(CookieSecrets::new([secret]))
}

/// What agents may have under way to one shard, in bytes: receipts of 100,000 races a second by 50 agents, 90,000 datagrams
/// of 55 and 2.3 KB each as the kernel counts them, for 80 ms.
const FAST_BUFFER_BYTES: usize = 16 << 20;

/// What a waiting query takes of a socket's receive buffer: 256 bytes of description and 512 of data, as the kernel counts
/// them, rounded up.
const QUEUED_QUERY_BYTES: usize = 832;

/// Binds every shard's sockets, shard by shard: the kernel numbers the members of a `SO_REUSEPORT` group in the order
/// in which they were bound, and the steering programs count on that.
fn bind_shards(
    config: &MasterConfig,
    clock: &HostClock,
    shard_config: &impl Fn(u8) -> ShardConfig,
) -> Result<Vec<ShardParts>, String> {
    let now = clock.now();
    let mut parts = Vec::new();
    for index in 0..config.shards {
        let receive_buffer_bytes = config.queue_capacity * QUEUED_QUERY_BYTES;
        let shard_config = shard_config(index);
        let options = Options {
            reuse_port: true,
            receive_timestamps: shard_config.needs_receipt(),
            dont_fragment: true,
            receive_buffer_bytes,
            ..Options::default()
        };
        let bind = |key: &str, address: SocketAddr, options: Options| {
            UdpSocket::bind(address, options).map_err(|error| format!("{key} {address}: {error}"))
        };
        let services: Result<Vec<UdpSocket>, String> =
            config.service_addresses.iter().map(|address| bind("service address", *address, options.clone())).collect();
        let fast_options = Options {
            reuse_port: true,
            receive_timestamps: true,
            transmit_timestamps: true,
            stamps_on_request: true,
            receive_buffer_bytes: FAST_BUFFER_BYTES,
            ..Options::default()
        };
        let fast = bind("fast_path_listen", config.fast_path_listen, fast_options)?;
        let shard = Shard::new(shard_config, now);
        parts.push(ShardParts { shard, services: services?, fast });
    }
    if let Some(first) = parts.first() {
        let shards = usize::from(config.shards);
        let fault = |error: std::io::Error| format!("steering packets to {shards} shards: {error}");
        first.services.iter().try_for_each(|socket| socket.steer_by_source(shards)).map_err(fault)?;
        first.fast.steer_by_byte(SHARD_OFFSET, shards).map_err(fault)?;
    }
    Ok(parts)
}

/// One shard's configuration.
fn shard_config(
    config: &MasterConfig,
    shard: u8,
    epoch: Epoch,
    service: &SharedService,
    cookies: &CookieSecrets,
    seed: u64,
) -> ShardConfig {
    ShardConfig {
        shard,
        epoch,
        service: Arc::clone(service),
        service_addresses: config.service_addresses.clone(),
        stamp: config.stamp,
        seed: seed.wrapping_add(u64::from(shard)),
        validated_for: config.validated_for,
        fallback_after: config.fallback_after,
        max_total_delay: config.max_total_delay,
        races_per_source_per_s: config.races_per_source_per_s,
        responses_per_prefix_per_s: config.admission.responses_per_prefix_per_s,
        slip: config.admission.slip,
        cookies: cookies.clone(),
        even_delay: config.even_delay.clone(),
        sync_signal_interval: SYNC_SIGNAL_INTERVAL,
    }
}

/// Everything that listens for streams, but for DNS.
struct Listeners {
    control: std::net::TcpListener,
    http: Option<std::net::TcpListener>,
    status: std::os::unix::net::UnixListener,
}

impl Listeners {
    fn bind(config: &MasterConfig) -> Result<Self, String> {
        Ok(Listeners {
            control: startup::listen("control_listen", config.control_listen)?,
            http: config.host.http_listen.map(|address| startup::listen("http_listen", address)).transpose()?,
            status: startup::status_socket(&config.host.status_socket)?,
        })
    }

    async fn serve(self, tls: ServerTls, describe: &Describe) -> Result<(), String> {
        let fault = |error: std::io::Error| format!("listening: {error}");
        let control = tokio::net::TcpListener::from_std(self.control).map_err(fault)?;
        tokio::task::spawn_local(control::serve(control, tls, describe.reloader.roster.clone()));
        let source = status::source(describe.clone(), Describe::document);
        let performer = status::performer(describe.clone(), Describe::perform);
        startup::serve_documents(self.status, self.http, source, Some(performer))
    }
}

/// What `status` and metrics are made from.
#[derive(Clone)]
struct Describe {
    host_clock: HostTimeText,
    started: Instant,
    reloader: Reloader,
}

impl Describe {
    async fn document(self) -> Document {
        let Reloader { current, epoch, shards, roster, .. } = &self.reloader;
        let (config, service) = (current.config(), current.service());
        let snapshot = shards.snapshot();
        let delays = snapshot.predetermined_delays.iter().copied().chain(std::iter::repeat(None));
        let races = service.races.iter().zip(delays).zip(0u16..).filter(|((race, _), _)| !race.is_retired());
        let races = races.map(|((race, delay), index)| RaceDocument {
            name: race.name.to_string(),
            predetermined_delay_ms: delay.map(Span::as_millis_f64),
            signal: match &race.transmit {
                Transmit::Held(name) => Some(name.to_string()),
                Transmit::At | Transmit::Signal => None,
            },
            start_spread: snapshot.spreads.get(&index).and_then(Histogram::quantiles),
        });
        let mut agents = roster.status().await;
        for agent in &mut agents {
            agent.lateness = snapshot.lateness.get(&agent.slot).and_then(Histogram::quantiles);
        }
        let counters = snapshot.counters.into_iter().chain(self.reloader.streams.counters());
        let counters = counters.chain(self.reloader.notices.counters());
        Document::Master(MasterDocument {
            name: config.host.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            epoch: *epoch,
            uptime_s: self.started.elapsed().as_secs(),
            shards: config.shards,
            services: config.service_addresses.clone(),
            host_clock: self.host_clock.get(),
            agents,
            races: races.collect(),
            secondaries: self.reloader.notices.documents(&service),
            open_races: snapshot.open_races,
            streams: self.reloader.streams.document(),
            counters: counters.map(|(name, count)| (name.to_owned(), count)).collect(),
        })
    }

    /// Does what somebody asks for over the status socket.
    async fn perform(self, request: Request) -> Answer {
        let name = match request {
            Request::Reload => {
                return match self.reloader.reload().await {
                    Ok(Reloaded { summary, warnings }) => {
                        Answer::Reloaded { summary, warnings: warnings.iter().map(ToString::to_string).collect() }
                    }
                    Err(reason) => Answer::Refused { reason, known: Vec::new() },
                };
            }
            Request::Signal(name) => name,
        };
        let service = self.reloader.current.service();
        let known = service.signals();
        if !known.contains(name.as_str()) {
            let reason = format!("no race waits for a signal of the name {name:?}");
            return Answer::Refused { reason, known: known.into_iter().map(str::to_owned).collect() };
        }
        let signalled = self.reloader.shards.signal(&name).await;
        tracing::info!(signal = name, races = signalled.races, agents = signalled.agents.len(), "signal fired");
        Answer::Signalled { name, races: signalled.races, agents: signalled.agents.len() }
    }
}
