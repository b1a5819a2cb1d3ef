//! Another configuration for a running master: on SIGHUP and by `startgun reload`.
//!
//! All or nothing. The file is read and checked as at a start, beside the running service; only a sound one takes its
//! place, and then everything of it at once per shard: no query meets half of it, and none is lost. What belongs to
//! sockets, threads or the process cannot change while they are there; a file that changes it is refused as a whole,
//! with the keys that need a restart.

use super::control::RosterHandle;
use super::secondary::Notices;
use super::shards::Shards;
use super::signing::signed;
use super::tcp::Streams;
use super::{cookie_secrets, shard_config};
use crate::config::{self, ConfigError, MasterConfig};
use crate::dns_tls::DnsTls;
use domain::base::Rtype;
use startgun_core::dns::cookie::CookieSecrets;
use startgun_core::dns::sign::SigningKey;
use startgun_core::dns::{CanonicalName, Record};
use startgun_core::master::{Service, SharedService};
use startgun_core::time::Epoch;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What was served before is let go so much later, and not by a shard: to give millions of records back takes a tenth of a
/// second, in which it would answer nobody. Shards take a new configuration within a batch.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What the master serves at the moment.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Served>>);

#[derive(Clone)]
struct Served {
    config: Arc<MasterConfig>,
    service: SharedService,
    cookies: CookieSecrets,
}

impl Current {
    pub(super) fn new(config: Arc<MasterConfig>, service: SharedService, cookies: CookieSecrets) -> Self {
        Current(Arc::new(RwLock::new(Served { config, service, cookies })))
    }

    pub(super) fn config(&self) -> Arc<MasterConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// For one query or document: the next one may meet another.
    pub(super) fn service(&self) -> SharedService {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).service)
    }

    /// The secrets of server cookies.
    pub(super) fn cookies(&self) -> CookieSecrets {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cookies.clone()
    }

    fn replace(&self, config: Arc<MasterConfig>, service: SharedService, cookies: CookieSecrets) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Served { config, service, cookies };
    }
}

/// Everything that a reload reaches.
#[derive(Clone)]
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    pub(super) current: Current,
    pub(super) epoch: Epoch,
    pub(super) seed: u64,
    pub(super) shards: Shards,
    pub(super) roster: RosterHandle,
    pub(super) streams: Streams,
    pub(super) notices: Notices,
    /// One at a time: two that overlapped would each succeed the same service.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// What a reload has put in place.
pub(super) struct Reloaded {
    pub(super) summary: String,
    pub(super) warnings: Vec<ConfigError>,
}

impl Reloader {
    /// Reads the configuration anew, and serves it.
    ///
    /// # Errors
    /// A line per fault; nothing has changed then.
    pub(super) async fn reload(&self) -> Result<Reloaded, String> {
        let _turn = self.turn.lock().await;
        let before = self.current.config();
        let service = self.current.service();
        let path = self.path.clone();
        // Large zones take seconds to read; queries over TCP and agents do not wait for that.
        let prepared = tokio::task::spawn_blocking(move || prepare(&path, &before, &service)).await;
        let prepared = prepared.map_err(|error| format!("reading the configuration: {error}"))?;
        let Prepared { config, service, cookies, warnings } = prepared.inspect_err(|faults| {
            tracing::error!(%faults, "the configuration was not reloaded: everything stays as it was");
        })?;
        // The last that can fail, and by itself all or nothing.
        if let Some(Err(error)) = self.streams.tls().map(DnsTls::reload) {
            tracing::error!(%error, "the configuration was not reloaded: everything stays as it was");
            return Err(error.to_string());
        }
        let summary = config.to_string();
        self.serve(config, service, &cookies).await;
        self.notices.reloaded();
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        tracing::info!(summary, "configuration reloaded");
        Ok(Reloaded { summary, warnings })
    }

    /// Signs what sites answer anew, and serves it.
    ///
    /// # Errors
    /// A sentence; nothing has changed then.
    pub(super) async fn sign_again(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let (config, service) = (self.current.config(), self.current.service());
        let again = tokio::task::spawn_blocking(move || {
            let service = signed(Service::clone(&service), &config)?;
            Ok::<_, String>((cookie_secrets(&config)?, config, Arc::new(service)))
        });
        let (cookies, config, service) = again.await.map_err(|error| error.to_string())??;
        self.serve(config, service, &cookies).await;
        Ok(())
    }

    /// Serves another version of a secondary's zone, `None` for no data; `commit` keeps it, once nothing else can fail.
    ///
    /// # Errors
    /// A sentence; nothing has changed then.
    pub(super) async fn replace_zone(
        &self,
        apex: &CanonicalName,
        records: Option<Vec<Record>>,
        commit: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let (config, before, apex) = (self.current.config(), self.current.service(), apex.clone());
        // It may have become another kind of zone while this was fetched.
        if before.transfers.zones.get(&apex).is_none_or(|policy| policy.primaries.is_empty()) {
            return Err(format!("{apex} is no secondary's zone any more"));
        }
        let replaced = tokio::task::spawn_blocking(move || {
            let is_signed =
                |service: &Service| service.zones.zone(apex.as_bytes()).is_some_and(|zone| zone.is_signed());
            let is_raced = before.races_in(&apex).next().is_some();
            let keys = config.signers.get(&apex).map_or(&[][..], Vec::as_slice);
            if let Some(records) = &records {
                check_keys(&apex, records, keys, is_raced)?;
            }
            let mut after = before.with_zone(&apex, records).map_err(|error| error.to_string())?;
            if is_raced && (is_signed(&before) || is_signed(&after)) {
                after = signed(after, &config)?;
            }
            commit()?;
            Ok::<_, String>((config, Arc::new(after)))
        });
        let (config, service) = replaced.await.map_err(|error| error.to_string())??;
        let cookies = self.current.cookies();
        self.serve(config, service, &cookies).await;
        Ok(())
    }

    async fn serve(&self, config: Arc<MasterConfig>, service: SharedService, cookies: &CookieSecrets) {
        let before = self.current.service();
        self.shards.configure(|shard| shard_config(&config, shard, self.epoch, &service, cookies, self.seed));
        self.roster.replace_service(Arc::clone(&service)).await;
        self.current.replace(config, service, cookies.clone());
        tokio::spawn(async {
            tokio::time::sleep(LAST_LOOK).await;
            let _ = tokio::task::spawn_blocking(|| drop(before)).await;
        });
    }

    /// Reloads at every SIGHUP, until the process ends.
    pub(super) async fn on_hangup(self) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::error!(%error, "catching SIGHUP"),
        };
        while hangup.recv().await.is_some() {
            // What went wrong is in the log.
            let _ = self.reload().await;
        }
    }
}

/// Raced names of a signed zone need keys that the zone was signed with, as `startgun check` says of a zone's file.
fn check_keys(
    apex: &CanonicalName,
    records: &[Record],
    keys: &[Arc<SigningKey>],
    is_raced: bool,
) -> Result<(), String> {
    let published = || records.iter().filter(|record| record.rtype == Rtype::DNSKEY && record.owner == *apex);
    if keys.iter().any(|key| !published().any(|record| *record.data == *key.dnskey())) {
        return Err("the key under `keys` is none of the zone's DNSKEY records".into());
    }
    if is_raced && keys.is_empty() && published().next().is_some() {
        return Err("the zone is signed and has raced names, which need the zone's keys under `keys`".into());
    }
    Ok(())
}

struct Prepared {
    config: Arc<MasterConfig>,
    service: SharedService,
    cookies: CookieSecrets,
    warnings: Vec<ConfigError>,
}

fn prepare(path: &std::path::Path, before: &MasterConfig, service: &Service) -> Result<Prepared, String> {
    let lines = |faults: Vec<ConfigError>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let config::Loaded { mut config, warnings } = config::load_master(path).map_err(lines)?;
    config.settle_shards();
    let fixed = needs_restart(before, &config);
    if !fixed.is_empty() {
        return Err(format!("{}: changed {}: that needs a restart", path.display(), fixed.join(", ")));
    }
    let succeeded = config.take_service().succeed(service);
    let service = succeeded.map_err(|places| {
        format!("{}: raced names old and new need {places} places: that needs a restart", path.display())
    })?;
    let service = signed(service, &config)?;
    let cookies = cookie_secrets(&config)?;
    Ok(Prepared { config: Arc::new(config), service: Arc::new(service), cookies, warnings })
}

/// The keys that cannot change while the process runs, and did.
fn needs_restart(before: &MasterConfig, after: &MasterConfig) -> Vec<&'static str> {
    let changed = [
        ("name", before.host.name != after.host.name),
        ("control_listen", before.control_listen != after.control_listen),
        ("fast_path_listen", before.fast_path_listen != after.fast_path_listen),
        ("self_test_listen", before.self_test_listen != after.self_test_listen),
        ("state_dir", before.host.state_dir != after.host.state_dir),
        ("status_socket", before.host.status_socket != after.host.status_socket),
        ("http_listen", before.host.http_listen != after.host.http_listen),
        ("user", before.host.user != after.host.user),
        ("shards", before.shards != after.shards),
        ("queue_capacity", before.queue_capacity != after.queue_capacity),
        ("fleet", before.host.fleet != after.host.fleet),
        ("clock", before.host_time != after.host_time),
        ("clock_distortion", before.host.clock_distortion != after.host.clock_distortion),
        ("tcp or tls", before.streams != after.streams),
        ("service (their addresses)", before.service_addresses != after.service_addresses),
    ];
    changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key).collect()
}
