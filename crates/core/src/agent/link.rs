//! What an agent knows of one master: its timeline, its sessions, its playbooks, how far its orders travel.

use super::exchange::Exchanger;
use super::readiness::{CALM_PERCENT, ClockGate};
use super::{AgentConfig, MasterConfig, OnBadClock, Refusal};
use crate::clock::host::UtcOnRace;
use crate::clock::{RaceClock, Signal, Update};
use crate::control::{ClockFigures, ForwardDelay, Lateness, MeshSalt, StandDown, ToMaster};
use crate::occupancy::Occupancy;
use crate::planted::{self, Bug};
use crate::playbook::{PlaybookVersion, PreparedPlaybook};
use crate::time::{Epoch, LocalTime, RaceTime, Span};
use crate::window::{Window, percentile};
use crate::wire::session::{self, CHALLENGE, MAX_PLAIN, SECRET_BYTES};
use crate::wire::{Binding, Direction, Frame, OpenError, Opener, Receipt, Sealer, SessionId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// How long a session that has a successor is still opened: longer than any order is under way.
const OLD_SESSION_LIFE: Span = Span::from_secs(10);
/// Sessions kept of one master: the current one and those that are running out.
const MAX_SESSIONS: usize = 4;
/// Forward delays kept: about a minute's worth of exchanges, the rest from orders.
const FORWARD_WINDOW: usize = 512;
/// Departures kept for the lateness figures.
const LATENESS_WINDOW: usize = 1_024;

struct Session {
    binding: Binding,
    /// One per shard of the master.
    openers: BTreeMap<u8, Opener>,
    sealers: BTreeMap<u8, Sealer>,
    /// Set once it has a successor.
    ends_at: Option<LocalTime>,
}

/// How the agent stands towards one master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Why it does not race.
    pub(super) stand_down: Option<StandDown>,
    /// Why it races by `After` only.
    pub(super) by_after: Option<StandDown>,
}

/// One master, as the agent knows it.
pub(super) struct Link {
    master: String,
    services: Vec<SocketAddr>,
    passed: BTreeMap<SocketAddr, bool>,
    exchanger: Exchanger,
    epoch: Option<Epoch>,
    fast_path: Option<SocketAddr>,
    shards: u8,
    connected: bool,
    sessions: VecDeque<Session>,
    playbook: Option<PreparedPlaybook>,
    previous_playbook: Option<PreparedPlaybook>,
    forward: Window,
    lateness: Window,
    gate: ClockGate,
    standing: Standing,
    /// Which shard ordered a race: its receipts go back there.
    shard_of_race: BTreeMap<u64, u8>,
    /// The newest race of each shard that is forgotten; at most 256 shards.
    forgotten: BTreeMap<u8, u64>,
    /// Receipts that wait to be sent together, by shard; at most 64 shards of one datagram.
    receipts: BTreeMap<u8, Vec<u8>>,
}

impl Link {
    pub(super) fn new(master: &MasterConfig, exchange_interval: Span) -> Self {
        Link {
            master: master.name.clone(),
            services: master.services.clone(),
            passed: BTreeMap::new(),
            exchanger: Exchanger::new(master.clock, exchange_interval),
            epoch: None,
            fast_path: None,
            shards: 1,
            connected: false,
            sessions: VecDeque::new(),
            playbook: None,
            previous_playbook: None,
            forward: Window::new(FORWARD_WINDOW),
            lateness: Window::new(LATENESS_WINDOW),
            gate: ClockGate::default(),
            standing: Standing { stand_down: Some(StandDown::NoSession), by_after: None },
            shard_of_race: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            receipts: BTreeMap::new(),
        }
    }

    pub(super) fn hello(&self, site: &str, fast_path: SocketAddr, mesh_salt: Option<MeshSalt>) -> ToMaster {
        ToMaster::Hello {
            protocol: crate::control::PROTOCOL,
            site: site.to_owned(),
            fast_path,
            services: self.services.clone(),
            playbook: self.playbook.as_ref().map(|playbook| playbook.version),
            mesh_salt,
        }
    }

    pub(super) fn welcome(&mut self, now: LocalTime, epoch: Epoch, shards: u8, fast_path: SocketAddr) {
        self.connected = true;
        self.shards = shards.max(1);
        self.fast_path = Some(fast_path);
        self.passed.clear();
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.exchanger.reset();
            self.forward.clear();
            self.sessions.clear();
            self.forgotten.clear();
            self.gate = ClockGate::default();
        }
        self.exchanger.clock_mut().enter_epoch(epoch);
        self.exchanger.start(now);
    }

    pub(super) fn disconnect(&mut self, now: LocalTime) {
        self.connected = false;
        if let Some(session) = self.sessions.back_mut() {
            session.ends_at.get_or_insert(now + OLD_SESSION_LIFE);
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Puts a session's keys in place; `false` without a welcome before.
    pub(super) fn add_session(&mut self, now: LocalTime, id: SessionId, secret: [u8; SECRET_BYTES]) -> bool {
        let Some(epoch) = self.epoch else { return false };
        // A session that is there already keeps its counters: a second sealer would use its nonces twice.
        if self.sessions.iter().any(|session| session.binding.id == id) {
            return false;
        }
        let life = if planted::active(Bug::KeyRotationGap) { Span::ZERO } else { OLD_SESSION_LIFE };
        for session in &mut self.sessions {
            session.ends_at.get_or_insert(now + life);
        }
        while self.sessions.len() >= MAX_SESSIONS {
            self.sessions.pop_front();
        }
        let binding = Binding { id, secret, master: self.master.clone(), epoch };
        let openers =
            (0..self.shards).map(|shard| (shard, Opener::new(&binding, Direction::MasterToAgent, shard))).collect();
        let sealers =
            (0..self.shards).map(|shard| (shard, Sealer::new(&binding, Direction::AgentToMaster, shard))).collect();
        self.sessions.push_back(Session { binding, openers, sealers, ends_at: None });
        self.exchanger.start(now);
        true
    }

    /// Opens a datagram of one of this master's sessions; `None` when it belongs to none of them.
    pub(super) fn open(
        &mut self,
        now: LocalTime,
        datagram: &[u8],
        plain: &mut Vec<u8>,
    ) -> Option<Result<u8, OpenError>> {
        let (id, shard) = session::header(datagram)?;
        let session = self.sessions.iter_mut().find(|session| session.binding.id == id)?;
        if session.ends_at.is_some_and(|end| now > end) {
            return None;
        }
        let opener = session.openers.get_mut(&shard)?;
        Some(opener.open(datagram, plain).map(|()| shard))
    }

    fn seal(&mut self, shard: u8, plain: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let to = self.fast_path?;
        let sealer = self.sessions.back_mut()?.sealers.get_mut(&shard)?;
        let mut bytes = Vec::with_capacity(128);
        sealer.seal(plain, &mut bytes);
        Some((to, bytes))
    }

    /// Puts a receipt with those that go to the same shard; a datagram where they fill one.
    pub(super) fn gather_receipt(&mut self, receipt: Receipt) -> Option<(SocketAddr, Vec<u8>)> {
        // A race's number carries its shard in the top byte; an order that was refused was never noted.
        let shard = self.shard_of_race.get(&receipt.race).copied().unwrap_or((receipt.race >> 56) as u8);
        let frame = Frame::Receipt(receipt);
        let gathered = self.receipts.entry(shard).or_default();
        frame.encode(gathered);
        let is_full = gathered.len() + frame.encoded_len() > MAX_PLAIN;
        if is_full { self.seal_receipts(shard) } else { None }
    }

    /// The receipts that were gathered for one shard, if any; lost where no session is left to send them.
    fn seal_receipts(&mut self, shard: u8) -> Option<(SocketAddr, Vec<u8>)> {
        let mut plain = core::mem::take(self.receipts.get_mut(&shard)?);
        let sealed = if plain.is_empty() { None } else { self.seal(shard, &plain) };
        plain.clear();
        self.receipts.insert(shard, plain);
        sealed
    }

    /// All receipts that were gathered.
    pub(super) fn take_receipts(&mut self, now: LocalTime) -> Vec<(SocketAddr, Vec<u8>)> {
        if self.sessions.back().is_none_or(|session| session.ends_at.is_some_and(|end| now > end)) {
            self.receipts.clear();
        }
        let shards: Vec<u8> = self.receipts.keys().copied().collect();
        shards.into_iter().filter_map(|shard| self.seal_receipts(shard)).collect()
    }

    pub(super) fn note_shard(&mut self, race: u64, shard: u8) {
        self.shard_of_race.insert(race, shard);
    }

    pub(super) fn forget_shard(&mut self, race: u64) {
        if let Some(shard) = self.shard_of_race.remove(&race) {
            let newest = self.forgotten.entry(shard).or_insert(race);
            *newest = race.max(*newest);
        }
    }

    /// Whether a race of this shard may have been forgotten: it is no newer than one that is. A shard's races are numbered in
    /// order.
    pub(super) fn may_be_forgotten(&self, race: u64, shard: u8) -> bool {
        self.forgotten.get(&shard).is_some_and(|newest| race <= *newest)
    }

    pub(super) fn take_playbook(&mut self, playbook: PreparedPlaybook) {
        if self.playbook.as_ref().is_some_and(|current| current.version == playbook.version) {
            return;
        }
        self.previous_playbook = self.playbook.replace(playbook);
    }

    pub(super) fn playbook(&self, version: PlaybookVersion) -> Option<&PreparedPlaybook> {
        if planted::active(Bug::StalePlaybook) {
            return self.previous_playbook.as_ref().or(self.playbook.as_ref());
        }
        [&self.playbook, &self.previous_playbook].into_iter().flatten().find(|playbook| playbook.version == version)
    }

    pub(super) fn check_service(&self, service: SocketAddr) -> Result<(), Refusal> {
        match (self.services.contains(&service), self.passed.get(&service)) {
            (false, _) => Err(Refusal::ForeignService),
            (true, Some(true)) => Ok(()),
            (true, _) => Err(Refusal::UntestedService),
        }
    }

    /// The challenge for a service address, and where it goes; `None` for one that is not listed, or not of the
    /// destination's family.
    pub(super) fn challenge(
        &self,
        service: SocketAddr,
        token: [u8; 16],
        to: Option<SocketAddr>,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let to = to.or(self.fast_path)?;
        if !self.services.contains(&service) || to.is_ipv4() != service.is_ipv4() {
            return None;
        }
        let mut bytes = vec![CHALLENGE];
        bytes.extend_from_slice(&token);
        Some((to, bytes))
    }

    pub(super) fn tested(&mut self, service: SocketAddr, passed: bool) {
        if self.services.contains(&service) {
            self.passed.insert(service, passed);
        }
    }

    /// The request that is due, its destination and exchange.
    pub(super) fn poll_request(&mut self, now: LocalTime) -> Option<(SocketAddr, Vec<u8>, u32)> {
        if !self.exchanger.is_due(now) {
            return None;
        }
        let usable = self.sessions.back().is_some_and(|session| session.ends_at.is_none_or(|end| now <= end));
        if !usable {
            self.exchanger.stop();
            return None;
        }
        let exchange = self.exchanger.request(now);
        // Every shard answers; the first is as good as any, and keeps the interleaved stamps together.
        let mut plain = Vec::with_capacity(64);
        Frame::SyncRequest { exchange }.encode(&mut plain);
        let (to, bytes) = self.seal(0, &plain)?;
        Some((to, bytes, exchange))
    }

    pub(super) fn request_at(&self) -> Option<LocalTime> {
        self.exchanger.request_at()
    }

    pub(super) fn stamp_request(&mut self, exchange: u32, at: LocalTime) {
        self.exchanger.stamp(exchange, at);
    }

    /// Takes in a reply; what it did to the clock.
    pub(super) fn handle_reply(
        &mut self,
        received_at: LocalTime,
        exchange: u32,
        received: RaceTime,
        replied: RaceTime,
        previous: (u32, RaceTime),
    ) -> Option<Update> {
        let update = self.exchanger.reply(received_at, exchange, received, replied, previous);
        self.note_forward_delay(received_at, replied);
        update
    }

    /// Takes in where the master says that UTC lies.
    pub(super) fn handle_utc(&mut self, utc: UtcOnRace) {
        self.exchanger.clock_mut().handle_utc(utc);
    }

    /// The host's own clock stepped: what was measured by it is worth nothing.
    pub(super) fn forget_clock(&mut self, now: LocalTime) {
        self.exchanger.clock_mut().forget();
        self.exchanger.reset();
        self.forward.clear();
        if self.exchanger.request_at().is_some() {
            self.exchanger.start(now);
        }
    }

    pub(super) fn handle_sync_signal(&mut self, received_at: LocalTime, sent: RaceTime) -> Update {
        let update = self.exchanger.clock_mut().handle_signal(Signal { sent, received: received_at });
        if update == Update::Stepped {
            self.exchanger.reset();
        }
        update
    }

    /// Measures how long a datagram took from the master, by this agent's own clock of its timeline.
    pub(super) fn note_forward_delay(&mut self, received_at: LocalTime, sent: RaceTime) {
        if let Some(reading) = self.clock().read(received_at).filter(|reading| reading.expected_error != Span::MAX) {
            self.forward.push((reading.estimate - sent).max(Span::ZERO));
        }
    }

    pub(super) fn note_lateness(&mut self, lateness: Span) {
        self.lateness.push(lateness);
    }

    pub(super) fn clock(&self) -> &RaceClock {
        self.exchanger.clock()
    }

    pub(super) fn clock_mut(&mut self) -> &mut RaceClock {
        self.exchanger.clock_mut()
    }

    /// How full the tables of this master are; `pending` orders are the most that any of them can be about.
    pub(super) fn occupancy(&self, pending: usize) -> impl Iterator<Item = Occupancy> {
        let own = [
            Occupancy::new("sessions", self.sessions.len(), MAX_SESSIONS),
            Occupancy::new("forward delays", self.forward.len(), FORWARD_WINDOW),
            Occupancy::new("departures judged", self.lateness.len(), LATENESS_WINDOW),
            Occupancy::new("shards of races", self.shard_of_race.len(), pending),
        ];
        own.into_iter().chain(self.exchanger.occupancy())
    }

    pub(super) fn master(&self) -> &str {
        &self.master
    }

    /// Why neither orders reach this agent nor its answers their clients; `None` when they do.
    fn unreachable(&self, now: LocalTime) -> Option<StandDown> {
        if self.sessions.back().is_none_or(|session| session.ends_at.is_some_and(|end| now > end)) {
            return Some(StandDown::NoSession);
        }
        if self.playbook.is_none() {
            return Some(StandDown::NoPlaybook);
        }
        // One service address that passed is enough to race for; an order for another is refused by itself.
        if !self.passed.values().any(|passed| *passed) {
            let none = self.passed.is_empty();
            return Some(if none { StandDown::SourceTestPending } else { StandDown::SourceTestFailed });
        }
        None
    }

    /// Which limit the clock exceeds now, each limit taken at so many percent.
    fn clock_fault(&self, config: &AgentConfig, now: LocalTime, percent: i64) -> Option<StandDown> {
        let Some(reading) = self.clock().read(now) else { return Some(StandDown::ClockUnset) };
        if reading.disagree {
            return Some(StandDown::SourcesDisagree);
        }
        if reading.expected_error == Span::MAX {
            return Some(if self.clock().steps() > 0 { StandDown::ClockStepped } else { StandDown::ClockUnset });
        }
        let share = |limit: Span| Span::from_nanos(limit.as_nanos() / 100 * percent);
        // Before the expected error: an agent past that may still race by `After`, one past its bound never.
        if reading.bound > share(config.max_bound) && !planted::active(Bug::BoundIgnored) {
            return Some(StandDown::Bound);
        }
        (reading.expected_error > share(config.max_expected_error)).then_some(StandDown::ExpectedError)
    }

    /// Judges the clock anew. What has changed in the agent's standing is its owner's to count and tell.
    pub(super) fn settle(&mut self, config: &AgentConfig, now: LocalTime, late: bool) -> Option<(Standing, Standing)> {
        let exceeded = self.clock_fault(config, now, 100);
        let calm =
            exceeded.is_none() && self.gate.reason().is_some() && self.clock_fault(config, now, CALM_PERCENT).is_none();
        self.gate.update(now, exceeded, calm);
        let standing = self.standing(config, now, late);
        let before = core::mem::replace(&mut self.standing, standing);
        (before != standing).then_some((before, standing))
    }

    /// How the agent stands towards this master; `late` while its departures are too late.
    pub(super) fn standing(&self, config: &AgentConfig, now: LocalTime, late: bool) -> Standing {
        let clock = || self.clock_fault(config, now, 100).or_else(|| self.gate.reason());
        let down = |reason| Standing { stand_down: Some(reason), by_after: None };
        if let Some(reason) = self.unreachable(now) {
            return down(reason);
        }
        match clock() {
            None if late => down(StandDown::Lateness),
            None => Standing { stand_down: None, by_after: None },
            // Half of a round trip is the master's estimate of the forward delay; without one there is nothing to
            // equalise by. A clock that is unset or stepped is mended within a second or two; a bound is a promise.
            Some(StandDown::ExpectedError)
                if config.on_bad_clock == OnBadClock::After && !late && self.clock().least_round_trip().is_some() =>
            {
                Standing { stand_down: None, by_after: Some(StandDown::ExpectedError) }
            }
            Some(reason) => down(reason),
        }
    }

    pub(super) fn clock_figures(&self, now: LocalTime) -> Option<ClockFigures> {
        let reading = self.clock().read(now)?;
        let known = |span: Span| (span != Span::MAX).then_some(span);
        Some(ClockFigures {
            offset: Span::from_nanos(reading.estimate.as_nanos().saturating_sub(now.as_nanos())),
            bound: known(reading.bound),
            expected_error: known(reading.expected_error),
            conditional: reading.conditional,
            least_round_trip: self.clock().least_round_trip(),
            samples: self.clock().samples(),
            steps: self.clock().steps(),
            source: Some(reading.decided),
        })
    }

    pub(super) fn forward_delay(&self) -> Option<ForwardDelay> {
        let sorted = self.forward.sorted();
        Some(ForwardDelay { p99: percentile(&sorted, 99.0)?, greatest: *sorted.last()?, samples: sorted.len() })
    }

    pub(super) fn lateness(&self) -> Option<Lateness> {
        let sorted = self.lateness.sorted();
        Some(Lateness {
            p1: percentile(&sorted, 1.0)?,
            p50: percentile(&sorted, 50.0)?,
            p90: percentile(&sorted, 90.0)?,
            p99: percentile(&sorted, 99.0)?,
            samples: sorted.len(),
        })
    }
}
