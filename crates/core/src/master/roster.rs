//! The roster: which agents there are, and which of them may race.
//!
//! An agent races once it has a session, has acknowledged its playbook, has let a challenge with the service address as
//! source arrive at the master (most networks drop foreign sources, and an agent there would never be heard), and
//! reports itself ready. The roster drives these steps and tells the shards the outcome.

use super::mesh::{MeshBoard, MeshOutput};
use super::{AgentView, MAX_AGENTS, Readiness, SharedService};
use crate::control::{AgentReport, MAX_SERVICES, MAX_SITE_NAME, PROTOCOL, StandDown, ToAgent, ToMaster, is_site_name};
use crate::histogram::Quantiles;
use crate::occupancy::Occupancy;
use crate::playbook::PlaybookVersion;
use crate::time::{Epoch, LocalTime, Span};
use crate::wire::session::{CHALLENGE, SECRET_BYTES};
use crate::wire::{Binding, SessionId};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// An agent's connection; never reused within one run of the master.
pub type Slot = u32;

/// A challenge that did not arrive after this long is sent again.
const CHALLENGE_INTERVAL: Span = Span::from_millis(700);
/// Challenges before a self-test has failed: at 30 % loss each way, all of them are lost once in 400,000.
const CHALLENGES: u8 = 10;
/// After a failed self-test, the next one; also the interval at which a passed one is repeated.
const RETEST_INTERVAL: Span = Span::from_secs(10);
const REPEAT_INTERVAL: Span = Span::from_secs(300);
/// An agent that has not reported for this long does not race: three reports lost.
const REPORT_TIMEOUT: Span = Span::from_millis(3_500);
/// How long the keys of a session that has a successor stay good.
const OLD_SESSION_LIFE: Span = Span::from_secs(10);
/// Counters kept of a report: more than an agent has.
const MAX_COUNTERS: usize = 128;
/// Sessions of one agent: the one in use, its successor, and a few that the agent has not acknowledged.
pub(super) const MAX_SESSIONS: usize = 8;

/// A roster's configuration.
#[derive(Clone, Debug)]
pub struct RosterConfig {
    /// What the master serves.
    pub service: SharedService,
    /// The epoch of its timeline.
    pub epoch: Epoch,
    /// Its service addresses.
    pub service_addresses: Vec<SocketAddr>,
    /// How many shards it has.
    pub shards: u8,
    /// Where its fast path listens.
    pub fast_path: SocketAddr,
    /// Where challenges from service addresses of the other family go; without it, nobody races for those.
    pub self_test: Option<SocketAddr>,
    /// After how long a session gets a successor.
    pub rekey_interval: Span,
}

impl RosterConfig {
    /// Where a challenge from a service address goes; `None` for the fast path.
    fn challenged_at(&self, service: SocketAddr) -> Option<SocketAddr> {
        self.self_test
            .filter(|address| address.is_ipv4() == service.is_ipv4() && self.fast_path.is_ipv4() != service.is_ipv4())
    }
}

/// What the roster wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum RosterOutput {
    /// Say something to an agent.
    Say(Slot, ToAgent),
    /// Derive the secret of this session with the TLS exporter, give it to [`Roster::handle_session`].
    OpenSession(Slot, SessionId),
    /// Tell every shard.
    Publish(AgentView),
    /// Tell every shard that the agent is gone.
    Retire(Slot),
    /// Close the connection.
    Close(Slot),
}

#[derive(Clone, Debug)]
struct Session {
    binding: Binding,
    kept: bool,
    ends_at: Option<LocalTime>,
}

#[derive(Clone, Debug)]
enum SelfTest {
    Running { token: [u8; 16], sent: u8, again_at: LocalTime },
    Passed { again_at: LocalTime },
    Failed { again_at: LocalTime },
}

struct Agent {
    name: String,
    site: String,
    address: IpAddr,
    /// Handed to its peers in the mesh.
    certificate: Vec<u8>,
    fast_path: SocketAddr,
    sessions: Vec<Session>,
    rekey_at: LocalTime,
    playbook: Option<PlaybookVersion>,
    wanted_playbook: PlaybookVersion,
    tests: BTreeMap<SocketAddr, SelfTest>,
    report: Option<(LocalTime, AgentReport)>,
    welcomed: bool,
    published: Option<AgentView>,
}

/// An agent, for `status` and metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its place in the roster, by which the shards know it.
    #[serde(skip)]
    pub slot: Slot,
    /// The name in its certificate.
    pub name: String,
    /// The site that it answers for.
    pub site: String,
    /// Where orders reach it.
    pub fast_path: SocketAddr,
    /// Whether it runs races at T, be it by `After`.
    pub racing: bool,
    /// Which races it can be ordered to run.
    pub readiness: Readiness,
    /// Why not all of them at T.
    pub reason: Option<String>,
    /// The lateness of its departures as the shards know it from receipts. The roster leaves it out; the shell adds it.
    pub lateness: Option<Quantiles>,
    /// What it last reported.
    pub report: Option<AgentReport>,
}

/// The control plane of one master.
pub struct Roster {
    config: RosterConfig,
    agents: BTreeMap<Slot, Agent>,
    next_slot: Slot,
    mesh: MeshBoard,
    rng: ChaCha12Rng,
    outputs: VecDeque<RosterOutput>,
}

impl Roster {
    /// A roster without agents; `seed` must be secret and fresh.
    pub fn new(config: RosterConfig, seed: [u8; 32]) -> Self {
        Roster {
            mesh: MeshBoard::new(config.service.master.clone()),
            config,
            agents: BTreeMap::new(),
            next_slot: 1,
            rng: ChaCha12Rng::from_seed(seed),
            outputs: VecDeque::new(),
        }
    }

    /// An agent with this name in its certificate (DER) has connected from `address`. A connection of the same name that
    /// is still open is replaced. `None` when the roster is full.
    pub fn handle_connected(
        &mut self,
        now: LocalTime,
        name: &str,
        address: IpAddr,
        certificate: Vec<u8>,
    ) -> Option<Slot> {
        let replaced: Vec<Slot> =
            self.agents.iter().filter(|(_, agent)| agent.name == name).map(|(slot, _)| *slot).collect();
        for slot in replaced {
            self.outputs.push_back(RosterOutput::Close(slot));
            self.handle_disconnected(slot);
        }
        if self.agents.len() >= MAX_AGENTS {
            return None;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        let agent = Agent {
            name: name.to_owned(),
            site: String::new(),
            address,
            certificate,
            fast_path: SocketAddr::new(address, 0),
            sessions: Vec::new(),
            rekey_at: now + self.config.rekey_interval,
            playbook: None,
            wanted_playbook: 0,
            tests: BTreeMap::new(),
            report: None,
            welcomed: false,
            published: None,
        };
        self.agents.insert(slot, agent);
        Some(slot)
    }

    /// The connection is closed.
    pub fn handle_disconnected(&mut self, slot: Slot) {
        self.mesh.leave(slot);
        if self.agents.remove(&slot).is_some_and(|agent| agent.published.is_some()) {
            self.outputs.push_back(RosterOutput::Retire(slot));
        }
    }

    /// A document from an agent.
    pub fn handle_message(&mut self, now: LocalTime, slot: Slot, message: ToMaster) {
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        match message {
            ToMaster::Hello { protocol, site, fast_path, services, playbook, mesh_salt } => {
                let family = self.config.fast_path.is_ipv4() == reached_at(fast_path, agent.address).is_ipv4();
                if let Err(reason) = check_hello(agent.welcomed, protocol, &site, &services, family) {
                    self.outputs.push_back(RosterOutput::Say(slot, ToAgent::Refused { reason }));
                    self.outputs.push_back(RosterOutput::Close(slot));
                    return;
                }
                if let Some(salt) = mesh_salt {
                    let reached = reached_at(fast_path, agent.address);
                    self.mesh.join(slot, agent.name.clone(), reached, salt, agent.certificate.clone());
                }
                self.welcome(now, slot, site, fast_path, &services, playbook);
            }
            ToMaster::SessionKept { id } => {
                let kept = agent.sessions.iter().position(|session| session.binding.id == id);
                if let Some(kept) = kept {
                    agent.sessions[kept].kept = true;
                    for older in &mut agent.sessions[..kept] {
                        older.ends_at.get_or_insert(now + OLD_SESSION_LIFE);
                    }
                }
            }
            ToMaster::PlaybookKept { version } if version == agent.wanted_playbook => agent.playbook = Some(version),
            ToMaster::PlaybookKept { .. } => {}
            ToMaster::Paths(report) => self.mesh.handle_report(now, slot, report),
            ToMaster::Report(mut report) => {
                report.counters = report.counters.into_iter().take(MAX_COUNTERS).collect();
                agent.report = Some((now, report));
            }
        }
        self.publish(now, slot);
    }

    /// Another service takes the place of the present one ([`Service::succeed`](super::Service::succeed)): every agent
    /// whose playbook changes is told. Until it has acknowledged the new one it is ordered by the one before.
    pub fn handle_service(&mut self, now: LocalTime, service: SharedService) {
        self.config.service = service;
        let slots: Vec<Slot> = self.agents.iter().filter(|(_, agent)| agent.welcomed).map(|(slot, _)| *slot).collect();
        for slot in slots {
            let Some(agent) = self.agents.get_mut(&slot) else { continue };
            let wanted = self.config.service.playbook(&agent.site);
            if wanted.version() != agent.wanted_playbook {
                agent.wanted_playbook = wanted.version();
                self.outputs.push_back(RosterOutput::Say(slot, ToAgent::Playbook(wanted)));
            }
            self.publish(now, slot);
        }
    }

    fn welcome(
        &mut self,
        now: LocalTime,
        slot: Slot,
        site: String,
        fast_path: SocketAddr,
        services: &[SocketAddr],
        playbook: Option<PlaybookVersion>,
    ) {
        let ours = services.iter().filter(|service| self.config.service_addresses.contains(service));
        let tests: Vec<SocketAddr> = ours.copied().collect();
        let wanted = self.config.service.playbook(&site);
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        agent.welcomed = true;
        agent.site = site;
        agent.fast_path = reached_at(fast_path, agent.address);
        agent.wanted_playbook = wanted.version();
        agent.playbook = playbook.filter(|version| *version == agent.wanted_playbook);
        let known = agent.playbook.is_some();
        self.outputs.push_back(RosterOutput::Say(
            slot,
            ToAgent::Welcome {
                protocol: PROTOCOL,
                master: self.config.service.master.clone(),
                epoch: self.config.epoch,
                shards: self.config.shards,
                fast_path: self.config.fast_path,
            },
        ));
        self.open_session(now, slot);
        if !known {
            self.outputs.push_back(RosterOutput::Say(slot, ToAgent::Playbook(wanted)));
        }
        for service in tests {
            self.start_test(now, slot, service);
        }
    }

    fn open_session(&mut self, now: LocalTime, slot: Slot) {
        let id = self.rng.next_u64();
        if let Some(agent) = self.agents.get_mut(&slot) {
            agent.rekey_at = now + self.config.rekey_interval;
        }
        self.outputs.push_back(RosterOutput::OpenSession(slot, id));
    }

    /// The secret of a session that [`RosterOutput::OpenSession`] asked for.
    pub fn handle_session(&mut self, now: LocalTime, slot: Slot, id: SessionId, secret: [u8; SECRET_BYTES]) {
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        let binding = Binding { id, secret, master: self.config.service.master.clone(), epoch: self.config.epoch };
        if agent.sessions.len() >= MAX_SESSIONS {
            // One that has a successor first: the agent may still turn to one that it has not acknowledged.
            let ended = agent.sessions.iter().position(|session| session.ends_at.is_some());
            let unkept = agent.sessions.iter().position(|session| !session.kept);
            agent.sessions.remove(ended.or(unkept).unwrap_or(0));
        }
        agent.sessions.push(Session { binding, kept: false, ends_at: None });
        self.outputs.push_back(RosterOutput::Say(slot, ToAgent::Session { id }));
        self.publish(now, slot);
    }

    fn start_test(&mut self, now: LocalTime, slot: Slot, service: SocketAddr) {
        let mut token = [0; 16];
        self.rng.fill_bytes(&mut token);
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        agent.tests.insert(service, SelfTest::Running { token, sent: 1, again_at: now + CHALLENGE_INTERVAL });
        let to = self.config.challenged_at(service);
        self.outputs.push_back(RosterOutput::Say(slot, ToAgent::SelfTest { service, token, to }));
    }

    /// A packet that looks like a challenge arrived with this source.
    pub fn handle_challenge(&mut self, now: LocalTime, source: SocketAddr, bytes: &[u8]) {
        let Some(token) = bytes.strip_prefix(&[CHALLENGE]).and_then(|token| <[u8; 16]>::try_from(token).ok()) else {
            return;
        };
        let found = self.agents.iter_mut().find_map(|(slot, agent)| {
            let test = agent.tests.get_mut(&source)?;
            matches!(test, SelfTest::Running { token: expected, .. } if *expected == token).then_some((*slot, test))
        });
        if let Some((slot, test)) = found {
            *test = SelfTest::Passed { again_at: now + REPEAT_INTERVAL };
            self.outputs.push_back(RosterOutput::Say(slot, ToAgent::Tested { service: source, passed: true }));
            self.publish(now, slot);
        }
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: LocalTime) {
        let slots: Vec<Slot> = self.agents.keys().copied().collect();
        for slot in slots {
            self.run_tests(now, slot);
            let Some(agent) = self.agents.get_mut(&slot) else { continue };
            agent.sessions.retain(|session| session.ends_at.is_none_or(|end| now < end));
            if agent.welcomed && now >= agent.rekey_at {
                self.open_session(now, slot);
            }
            self.publish(now, slot);
        }
        for output in self.mesh.handle_timeout(now) {
            self.outputs.push_back(match output {
                MeshOutput::Peers(slot, peers) => RosterOutput::Say(slot, ToAgent::Peers { peers }),
                MeshOutput::Set(slot, set) => RosterOutput::Say(slot, ToAgent::Mesh(set)),
            });
        }
    }

    fn run_tests(&mut self, now: LocalTime, slot: Slot) {
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        let mut restart = Vec::new();
        for (&service, test) in &mut agent.tests {
            match test {
                SelfTest::Running { sent, again_at, .. } if *again_at <= now && *sent >= CHALLENGES => {
                    *test = SelfTest::Failed { again_at: now + RETEST_INTERVAL };
                    let tested = ToAgent::Tested { service, passed: false };
                    self.outputs.push_back(RosterOutput::Say(slot, tested));
                }
                SelfTest::Running { token, sent, again_at } if *again_at <= now => {
                    *sent += 1;
                    *again_at = now + CHALLENGE_INTERVAL;
                    let to = self.config.challenged_at(service);
                    let again = ToAgent::SelfTest { service, token: *token, to };
                    self.outputs.push_back(RosterOutput::Say(slot, again));
                }
                SelfTest::Passed { again_at } | SelfTest::Failed { again_at } if *again_at <= now => {
                    restart.push(service);
                }
                _ => {}
            }
        }
        restart.into_iter().for_each(|service| self.start_test(now, slot, service));
    }

    /// Tells the shards what they should know of an agent, if that has changed.
    fn publish(&mut self, now: LocalTime, slot: Slot) {
        let Some(agent) = self.agents.get_mut(&slot) else { return };
        let view = agent.view(now, slot);
        if !agent.sessions.is_empty() && agent.published.as_ref() != Some(&view) {
            agent.published = Some(view.clone());
            self.outputs.push_back(RosterOutput::Publish(view));
        }
    }

    /// When [`Roster::handle_timeout`] wants to be called next: tests and time-outs are checked four times a second.
    pub fn poll_timeout(&self, now: LocalTime) -> LocalTime {
        now + Span::from_millis(250)
    }

    /// What is to be done next; `None` when everything was handed out.
    pub fn poll_output(&mut self) -> Option<RosterOutput> {
        self.outputs.pop_front()
    }

    /// How full its tables are.
    pub fn occupancy(&self) -> Vec<Occupancy> {
        let sessions = self.agents.values().map(|agent| agent.sessions.len()).max().unwrap_or(0);
        vec![
            Occupancy::new("agents", self.agents.len(), MAX_AGENTS),
            Occupancy::new("sessions of an agent", sessions, MAX_SESSIONS),
        ]
    }

    /// The agents, for `status` and metrics.
    pub fn status(&self, now: LocalTime) -> Vec<AgentStatus> {
        let status = |(&slot, agent): (&Slot, &Agent)| {
            let (readiness, reason) = agent.readiness(now);
            AgentStatus {
                slot,
                name: agent.name.clone(),
                site: agent.site.clone(),
                fast_path: agent.fast_path,
                racing: readiness >= Readiness::ByAfter,
                readiness,
                reason,
                lateness: None,
                report: agent.report.as_ref().map(|(_, report)| report.clone()),
            }
        };
        self.agents.iter().map(status).collect()
    }
}

/// Where an agent's orders go: an unspecified address means the one that its connection came from.
fn reached_at(fast_path: SocketAddr, connected_from: IpAddr) -> SocketAddr {
    let ip = if fast_path.ip().is_unspecified() { connected_from } else { fast_path.ip() };
    SocketAddr::new(ip, fast_path.port())
}

fn check_hello(
    welcomed: bool,
    protocol: u16,
    site: &str,
    services: &[SocketAddr],
    same_family: bool,
) -> Result<(), String> {
    if welcomed {
        return Err("a second hello on one connection".into());
    }
    if protocol != PROTOCOL {
        return Err(format!("protocol {protocol}, this master speaks {PROTOCOL}"));
    }
    if !is_site_name(site) {
        return Err(format!("a site name that is not 1 to {MAX_SITE_NAME} of A-Z, a-z, 0-9, - and _"));
    }
    if !same_family {
        return Err("the agent's fast path and the master's are not both IPv4 or both IPv6".into());
    }
    match services.len() > MAX_SERVICES {
        true => Err(format!("{} service addresses, at most {MAX_SERVICES}", services.len())),
        false => Ok(()),
    }
}

impl Agent {
    /// Why orders do not reach it, or its answers nobody, as far as the master has seen that itself.
    fn unreachable(&self, now: LocalTime) -> Option<&'static str> {
        if !self.sessions.iter().any(|session| session.kept) {
            return Some(StandDown::NoSession.text());
        }
        // After a change of the service the one before will do until the new one is there.
        if self.playbook.is_none() {
            return Some(StandDown::NoPlaybook.text());
        }
        if self.tests.is_empty() {
            return Some("the agent lists none of this master's service addresses");
        }
        if !self.tests.values().any(|test| matches!(test, SelfTest::Passed { .. })) && !self.is_retesting() {
            let failed = self.tests.values().any(|test| matches!(test, SelfTest::Failed { .. }));
            let reason = if failed { StandDown::SourceTestFailed } else { StandDown::SourceTestPending };
            return Some(reason.text());
        }
        match &self.report {
            None => Some("no report yet"),
            Some((at, _)) if now - *at > REPORT_TIMEOUT => Some("no report for 3.5 s"),
            Some(_) => None,
        }
    }

    /// Which races it can be ordered to run, and why not all of them at T.
    fn readiness(&self, now: LocalTime) -> (Readiness, Option<String>) {
        let less = |readiness, reason: &str| (readiness, Some(reason.to_owned()));
        if let Some(reason) = self.unreachable(now) {
            return less(Readiness::Unreachable, reason);
        }
        let Some((_, report)) = &self.report else { return less(Readiness::Unreachable, "no report yet") };
        match (report.stand_down, report.by_after) {
            (Some(reason), _) if reason.is_timing() => less(Readiness::BySignal, reason.text()),
            (Some(reason), _) => less(Readiness::Unreachable, reason.text()),
            (None, Some(reason)) if report.round_trip().is_some() => less(Readiness::ByAfter, reason.text()),
            (None, Some(_)) => less(Readiness::BySignal, "round trip not yet measured"),
            (None, None) if report.forward_delay.is_none() => {
                less(Readiness::BySignal, "forward delay not yet measured")
            }
            (None, None) => (Readiness::AtInstant, None),
        }
    }

    /// Whether a self-test that was passed before is being repeated: the agent goes on racing meanwhile.
    fn is_retesting(&self) -> bool {
        let passed_before =
            |service: &SocketAddr| self.published.as_ref().is_some_and(|view| view.services.contains(service));
        self.tests.iter().any(|(service, test)| matches!(test, SelfTest::Running { .. }) && passed_before(service))
    }

    fn view(&self, now: LocalTime, slot: Slot) -> AgentView {
        let good = |service: &SocketAddr, test: &SelfTest| match test {
            SelfTest::Passed { .. } => true,
            SelfTest::Running { .. } => self.published.as_ref().is_some_and(|view| view.services.contains(service)),
            SelfTest::Failed { .. } => false,
        };
        let services = self.tests.iter().filter(|(service, test)| good(service, test)).map(|(service, _)| *service);
        let report = self.report.as_ref().map(|(_, report)| report);
        let expected_error = report.and_then(|report| report.clock.as_ref()).and_then(|clock| clock.expected_error);
        // The newest session that the agent has acknowledged sends; the others only receive.
        let mut sessions: Vec<&Session> = self.sessions.iter().collect();
        sessions.sort_by_key(|session| session.kept);
        AgentView {
            slot,
            site: self.site.clone(),
            fast_path: self.fast_path,
            sessions: sessions.into_iter().map(|session| session.binding.clone()).collect(),
            readiness: self.readiness(now).0,
            services: services.collect(),
            playbook: self.playbook.unwrap_or(0),
            forward_delay: report.and_then(|report| report.forward_delay),
            round_trip: report.and_then(AgentReport::round_trip),
            expected_error: expected_error.unwrap_or(Span::ZERO),
        }
    }
}
