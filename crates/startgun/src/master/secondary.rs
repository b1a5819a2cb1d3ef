//! Zones that other servers have a part in: secondaries' zones are kept up to date, and secondaries of ours are told.
//!
//! One task on the control plane decides when ([`Refresh`] says so for each zone); a check, which waits for primaries, reads
//! and writes millions of records, has a thread of its own. Another version takes the old one's place as a reload does
//! ([`Reloader::replace_zone`]): all or nothing, beside the shards.
//!
//! ```text
//!  NOTIFY (shards, TCP) ──┐                 ┌─ thread: primaries ▶ staged copy ▶ checked ─┐
//!  reload ─────────────── ├─▶ Secondaries ──┤                                             ├─▶ replace_zone ─▶ Notifier
//!  timers ────────────────┘        ▲        └─ nothing newer: the copy is confirmed ──────┘
//!                                  └─────────────────────────────┘
//! ```

mod check;
mod copy;
mod notify;
mod tally;

use super::reload::Reloader;
use crate::config::{Copies, MasterConfig};
use crate::startup;
use crate::status::SecondaryDocument;
use check::{Found, Job, check};
use notify::Notifier;
use startgun_core::dns::CanonicalName;
use startgun_core::dns::transfer::{Peer, Refresh, SoaTimers, Timer};
use startgun_core::master::{Counters, Service};
use startgun_core::time::{LocalTime, Span};
use startgun_net::host_clock::HostClock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Checks at a time: each may have a zone in memory twice, and a primary is not asked for everything at once.
const CHECKS_MAX: usize = 8;
/// What is said within this is heard together: whoever forges NOTIFY in a zone's primary's name costs no more than 100 looks
/// at all zones a second, of 1 ms for 65,536.
const HEARING: Duration = Duration::from_millis(10);
/// The longest sleep, should the two clocks differ.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What others have to say to [`Secondaries`], and what it shows.
#[derive(Clone)]
pub(super) struct Notices(Arc<Shared>);

struct Shared {
    clock: Mutex<HostClock>,
    pending: Mutex<Pending>,
    wake: tokio::sync::Notify,
    zones: Mutex<BTreeMap<CanonicalName, Secondary>>,
    counters: Mutex<Counters>,
}

/// What was said since it was last taken.
#[derive(Default)]
struct Pending {
    /// Zones of which a primary says that they have changed: no more than there are in the configuration.
    changed: BTreeSet<CanonicalName>,
    reloaded: bool,
}

impl Notices {
    /// Nothing was said, and there is no zone.
    pub(super) fn new(clock: HostClock) -> Self {
        let (pending, zones, counters) = (Mutex::default(), Mutex::default(), Mutex::default());
        let clock = Mutex::new(clock);
        Notices(Arc::new(Shared { clock, pending, wake: tokio::sync::Notify::new(), zones, counters }))
    }

    /// A primary says that a zone has changed.
    pub(super) fn changed(&self, apex: CanonicalName) {
        locked(&self.0.pending).changed.insert(apex);
        self.0.wake.notify_one();
    }

    /// Another configuration is served.
    pub(super) fn reloaded(&self) {
        locked(&self.0.pending).reloaded = true;
        self.0.wake.notify_one();
    }

    /// What `status` shows of the zones, where `service` is served.
    pub(super) fn documents(&self, service: &Service) -> Vec<SecondaryDocument> {
        let now = self.now();
        let zones = locked(&self.0.zones);
        let document = |(apex, zone): (&CanonicalName, &Secondary)| {
            let served = service.zones.zone(apex.as_bytes()).filter(|zone| zone.has_data());
            SecondaryDocument {
                name: apex.to_string(),
                serial: served.map(|zone| zone.serial()),
                primaries: zone.primaries.iter().map(|peer| peer.address).collect(),
                primary: zone.primary,
                is_checked_now: zone.is_checked_now,
                checked_s_ago: zone.checked_at.map(|at| duration(now - at).as_secs()),
                next_check_in_s: duration(zone.refresh.check_at() - now).as_secs(),
                expires_in_s: zone.refresh.expire_at().map(|at| duration(at - now).as_secs()),
                error: zone.error.clone(),
            }
        };
        zones.iter().map(document).collect()
    }

    /// What was counted since the start.
    pub(super) fn counters(&self) -> Counters {
        locked(&self.0.counters).clone()
    }

    fn now(&self) -> LocalTime {
        locked(&self.0.clock).now()
    }

    fn count(&self, name: &'static str) {
        *locked(&self.0.counters).entry(name).or_default() += 1;
    }

    fn take(&self) -> Pending {
        std::mem::take(&mut locked(&self.0.pending))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One zone that is transferred from elsewhere.
struct Secondary {
    primaries: Vec<Peer>,
    refresh: Refresh,
    is_checked_now: bool,
    /// Whether word of a change came, which the next check is about.
    is_notified: bool,
    /// Who answered last.
    primary: Option<SocketAddr>,
    checked_at: Option<LocalTime>,
    error: Option<String>,
}

/// How a check ended.
struct Ended {
    apex: CanonicalName,
    result: Result<Confirmed, String>,
}

/// A zone that is as its primary has it.
struct Confirmed {
    primary: SocketAddr,
    timers: SoaTimers,
}

/// All of them.
struct Secondaries {
    reloader: Reloader,
    notices: Notices,
    copies: Copies,
    checks: usize,
    ended: mpsc::Sender<Ended>,
    notifier: Notifier,
}

/// Makes the directory of copies for who will write them, while that can be done.
///
/// # Errors
/// As for making a directory.
pub(super) fn prepare(config: &MasterConfig) -> Result<(), String> {
    if config.service.transfers.zones.values().all(|zone| zone.primaries.is_empty()) {
        return Ok(());
    }
    let user = config.host.user.as_deref();
    startup::state_directory(&config.host.state_dir, user)?;
    startup::state_directory(Copies::new(&config.host.state_dir).directory(), user)
}

/// Keeps secondaries' zones up to date until the process ends. Must run within a `LocalSet`.
pub(super) async fn run(reloader: Reloader) {
    let copies = Copies::new(&reloader.current.config().host.state_dir);
    let (ended, mut endings) = mpsc::channel(CHECKS_MAX);
    let notices = reloader.notices.clone();
    let notifier = Notifier::default();
    let mut all = Secondaries { reloader, notices: notices.clone(), copies, checks: 0, ended, notifier };
    all.configure();
    loop {
        all.expire().await;
        all.begin_checks();
        all.notifier.begin();
        let sleep = all.until_next().min(SLEEP_MAX);
        tokio::select! {
            () = notices.0.wake.notified() => {
                tokio::time::sleep(HEARING).await;
                let pending = notices.take();
                if pending.reloaded {
                    all.configure();
                }
                pending.changed.iter().for_each(|apex| all.notified(apex));
            }
            Some(ended) = endings.recv() => all.check_ended(ended),
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

impl Secondaries {
    fn now(&self) -> LocalTime {
        self.notices.now()
    }

    fn zones(&self) -> MutexGuard<'_, BTreeMap<CanonicalName, Secondary>> {
        locked(&self.notices.0.zones)
    }

    /// Takes over what the configuration says now. Zones that stay keep their timers, and are checked where their primaries
    /// have changed, or they have no data.
    fn configure(&mut self) {
        let now = self.now();
        let service = self.reloader.current.service();
        let mut before = std::mem::take(&mut *self.zones());
        let mut after = BTreeMap::new();
        for (apex, policy) in service.transfers.zones.iter().filter(|(_, policy)| !policy.primaries.is_empty()) {
            let primaries = policy.primaries.clone();
            let zone = match before.remove(apex) {
                Some(mut zone) => {
                    // A copy that is gone, or no longer sound, was not served again.
                    let has_data = service.zones.zone(apex.as_bytes()).is_some_and(|zone| zone.has_data());
                    if !has_data || !is_same(&zone.primaries, &primaries) {
                        zone.refresh.handle_notify(now);
                    }
                    Secondary { primaries, ..zone }
                }
                None => Secondary {
                    primaries,
                    refresh: self.refresh_of(apex, now),
                    is_checked_now: false,
                    is_notified: false,
                    primary: None,
                    checked_at: None,
                    error: None,
                },
            };
            after.insert(apex.clone(), zone);
        }
        *self.zones() = after;
        self.notifier.compare(&service);
    }

    /// The timers of a zone that is new here: by its copy, where that is served.
    fn refresh_of(&self, apex: &CanonicalName, now: LocalTime) -> Refresh {
        let service = self.reloader.current.service();
        let soa = service.zones.zone(apex.as_bytes()).and_then(|zone| zone.soa_record());
        let timers = soa.and_then(|soa| SoaTimers::of(&soa.data));
        match (timers, self.copies.age(apex)) {
            (Some(timers), Some(age)) => Refresh::with_copy(now, timers, span(age)),
            _ => Refresh::new(now),
        }
    }

    fn notified(&mut self, apex: &CanonicalName) {
        let now = self.now();
        if let Some(zone) = self.zones().get_mut(apex) {
            zone.is_notified = true;
            zone.refresh.handle_notify(now);
        }
    }

    /// Answers no more for what no primary has confirmed in time. A check that is under way is waited for: it may be bringing
    /// what is missing, and no primary can hold it up for long.
    async fn expire(&mut self) {
        let now = self.now();
        let is_due = |zone: &Secondary| !zone.is_checked_now && zone.refresh.expire_at().is_some_and(|at| at <= now);
        let due: Vec<CanonicalName> =
            self.zones().iter().filter(|(_, zone)| is_due(zone)).map(|(apex, _)| apex.clone()).collect();
        for apex in due {
            if let Some(zone) = self.zones().get_mut(&apex) {
                let _ = zone.refresh.handle_timeout(now);
            }
            match self.reloader.replace_zone(&apex, None, || Ok(())).await {
                Ok(()) => {
                    tracing::error!(zone = %apex, "the zone has expired: no primary has confirmed it; answering SERVFAIL")
                }
                Err(error) => {
                    tracing::error!(zone = %apex, error, "the zone has expired, and is answered for all the same")
                }
            }
        }
    }

    /// Starts the checks that are due, those that have waited longest first.
    fn begin_checks(&mut self) {
        let now = self.now();
        let is_due = |zone: &Secondary| {
            let has_expired = zone.refresh.expire_at().is_some_and(|at| at <= now);
            !zone.is_checked_now && zone.refresh.check_at() <= now && !has_expired
        };
        let notices = self.notices.clone();
        let mut zones = locked(&notices.0.zones);
        let mut due: Vec<(LocalTime, CanonicalName)> = zones
            .iter()
            .filter(|(_, zone)| is_due(zone))
            .map(|(apex, zone)| (zone.refresh.check_at(), apex.clone()))
            .collect();
        due.sort_unstable();
        for (_, apex) in due.into_iter().take(CHECKS_MAX.saturating_sub(self.checks)) {
            let Some(zone) = zones.get_mut(&apex) else { continue };
            if zone.refresh.handle_timeout(now) != Some(Timer::Check) {
                continue;
            }
            zone.is_checked_now = true;
            self.checks += 1;
            let service = self.reloader.current.service();
            let served = service.zones.zone(apex.as_bytes()).filter(|zone| zone.has_data());
            let job = Job {
                own: served.map(|zone| zone.serial()),
                primaries: zone.primaries.clone(),
                asks_all: std::mem::take(&mut zone.is_notified),
                copies: self.copies.clone(),
                apex: apex.clone(),
            };
            let (reloader, ended) = (self.reloader.clone(), self.ended.clone());
            tokio::task::spawn_local(async move {
                let result = perform(&reloader, job).await;
                // Nobody waits for it only when the process ends.
                let _ = ended.send(Ended { apex, result }).await;
            });
        }
    }

    fn check_ended(&mut self, Ended { apex, result }: Ended) {
        self.checks -= 1;
        let now = self.now();
        self.notifier.compare(&self.reloader.current.service());
        // It may have been taken out of the configuration meanwhile.
        let mut zones = self.zones();
        let Some(zone) = zones.get_mut(&apex) else { return };
        zone.is_checked_now = false;
        zone.checked_at = Some(now);
        match result {
            Ok(Confirmed { primary, timers }) => {
                self.notices.count(tally::CHECKS);
                zone.refresh.handle_success(now, timers);
                zone.primary = Some(primary);
                zone.error = None;
            }
            Err(error) => {
                self.notices.count(tally::CHECKS_FAILED);
                tracing::warn!(zone = %apex, error, "the zone could not be brought up to date");
                zone.refresh.handle_failure(now);
                zone.error = Some(error);
            }
        }
        if zone.is_notified {
            zone.refresh.handle_notify(now);
        }
    }

    fn until_next(&self) -> Duration {
        let now = self.now();
        let next =
            self.zones().values().filter(|zone| !zone.is_checked_now).map(|zone| zone.refresh.poll_timeout()).min();
        // While no check may begin, the end of one wakes the task.
        let waits = self.checks >= CHECKS_MAX;
        let next = next.filter(|_| !waits).map_or(SLEEP_MAX, |at| duration(at - now));
        self.notifier.until_next().map_or(next, |at| at.min(next))
    }
}

/// One check, and what follows from it.
async fn perform(reloader: &Reloader, job: Job) -> Result<Confirmed, String> {
    let (apex, copies) = (job.apex.clone(), job.copies.clone());
    let Found { primary, serial, timers, changed } = on_a_thread(move || check(&job)).await?;
    match changed {
        None => {
            // The next start counts from here.
            if copies.path(&apex).exists() {
                touch(&copies, &apex);
            }
        }
        Some(changed) => {
            reloader.notices.count(if changed.by_differences { tally::DIFFERENCES } else { tally::WHOLE });
            let form = if changed.by_differences { "differences" } else { "whole" };
            let records = changed.records.len();
            reloader.replace_zone(&apex, Some(changed.records), move || changed.staged.commit()).await?;
            tracing::info!(zone = %apex, %primary, serial, records, form, "transferred");
        }
    }
    Ok(Confirmed { primary, timers })
}

/// A check ends with the process, however long its primary takes; a thread of tokio's would hold the end up.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("transfer".into()).spawn(move || {
        let _ = sender.send(work());
    });
    spawned.map_err(|error| format!("starting a thread: {error}"))?;
    receiver.await.map_err(|_| "the check broke off".to_owned())?
}

fn touch(copies: &Copies, apex: &CanonicalName) {
    let path = copies.path(apex);
    let touched = std::fs::File::options().append(true).open(&path);
    if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
        tracing::warn!(zone = %apex, path = %path.display(), %error, "the copy counts as older than it is");
    }
}

/// Whether primaries are asked alike.
fn is_same(left: &[Peer], right: &[Peer]) -> bool {
    let key = |peer: &Peer| peer.key.as_ref().map(|key| key.name().clone());
    left.len() == right.len()
        && left.iter().zip(right).all(|(left, right)| left.address == right.address && key(left) == key(right))
}

fn span(duration: Duration) -> Span {
    Span::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// A span as a duration; none where it is over.
fn duration(span: Span) -> Duration {
    Duration::from_nanos(u64::try_from(span.as_nanos()).unwrap_or(0))
}
