//! The agent: receives orders, prepares its own answer, lets it depart at T.
//!
//! **Problem.** Orders come from several masters, each with its own timeline, over paths whose delay is not known;
//! and an answer that leaves at the wrong time wins races that it should lose. **Sketch.** One [`Link`] per master
//! holds its clock, sessions and playbooks. An order is opened, checked against everything that the agent has agreed
//! to (playbook version, service address, horizon, its own limits), turned into an answer, and handed out as a
//! [`Output::Depart`] with a local instant. What really happened comes back through
//! [`Agent::handle_departed`] and becomes a receipt and an [audit record](Audit).
//!
//! An agent trusts a master for the master's own service addresses and nothing else; the list is in the agent's own
//! configuration.

mod exchange;
mod limits;
mod link;
mod mesh;
mod output;
mod readiness;

use crate::clock::host::HostTime;
use crate::clock::{ClockConfig, Reading, Update};
use crate::control::{AgentReport, MeshFigures, MeshSalt, StandDown, ToAgent, ToMaster};
use crate::dns::answer::Proven;
use crate::dns::answer::{Response, Transport};
use crate::dns::query::{Query, Verdict};
use crate::occupancy::Occupancy;
use crate::planted::{self, Bug};
use crate::playbook::{LatePolicy, PreparedPlaybook};
use crate::time::{LocalTime, RaceTime, Span};
use crate::wire::session::SECRET_BYTES;
use crate::wire::{Frame, Order, Receipt, ReceiptOutcome, SessionId, TransmitIdentifier};
pub use limits::Limits;
use link::Link;
use mesh::{Mesh, PATHS_INTERVAL, PeerOutput};
pub use mesh::{PeerKeys, solve_set};
pub use output::{Audit, Departure, DepartureKey, DepartureOutcome, Output, Refusal, Stamped};
use readiness::LatenessWatch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Most orders waiting for their departure: 20,000 per second × 1 s of horizon, times three.
pub const MAX_PENDING: usize = 65_536;
/// How long an order for a signal is held before it expires; also the longest a finished race is remembered, so that
/// an order of a lower revision that was overtaken changes nothing.
pub const HOLD: Span = Span::from_secs(2);
/// How long a receipt waits for others: a master under load hears of fifty departures in one datagram instead of one.
/// What it waits for is a quarter of a second away (`fallback_after`), or, when all agents refuse, worth 5 ms.
const RECEIPT_DELAY: Span = Span::from_millis(5);
/// Least time between two reports.
const REPORT_INTERVAL: Span = Span::from_secs(1);

/// What an agent does while the statistical error of its clock is above `max_expected_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadClock {
    /// It does not race. Who starts at the wrong time wins races that it should lose, and the client pays for that;
    /// a site that stands down costs its own share only.
    #[default]
    StandDown,
    /// It races by [`TransmitIdentifier::After`]: as exact as half of its round trip tells the way of an order.
    After,
}

/// One master, as the agent's own configuration has it.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// The name that its certificate must carry.
    pub name: String,
    /// The service addresses that the agent speaks for on its behalf.
    pub services: Vec<SocketAddr>,
    /// How its timeline is followed.
    pub clock: ClockConfig,
}

/// An agent's configuration.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The site that it answers for; told by NSID.
    pub site: String,
    /// Its masters.
    pub masters: Vec<MasterConfig>,
    /// Ready only while the statistical clock error is at most this.
    pub max_expected_error: Span,
    /// Ready only while the proven bound is at most this.
    pub max_bound: Span,
    /// What happens while `max_expected_error` is exceeded.
    pub on_bad_clock: OnBadClock,
    /// It stands down when the 90th percentile of its recent departures is later than this.
    pub max_lateness: Span,
    /// Time between two exchanges with each master.
    pub exchange_interval: Span,
    /// An order whose T is further ahead is refused.
    pub horizon: Span,
    /// The agent's own limits.
    pub limits: Limits,
    /// Its part in the mesh; absent when it takes none.
    pub mesh: Option<MeshConfig>,
}

/// An agent's part in the mesh.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The name in the agent's certificate.
    pub name: String,
    /// Fresh and random for this process.
    pub salt: MeshSalt,
}

/// Counters by name, since the agent's start.
pub type Counters = BTreeMap<&'static str, u64>;

/// What an order is waiting for.
#[derive(Clone, Debug)]
enum Wait {
    /// With the departure thread.
    Departure,
    /// For the signal with this id; the answer is kept here.
    Signal { id: u64, departure: Departure },
    /// Nothing more: remembered against repetitions.
    Done,
}

#[derive(Clone, Debug)]
struct Pending {
    key: DepartureKey,
    revision: u8,
    client: SocketAddr,
    transmit_at: Option<RaceTime>,
    /// When it departs, by the local clock; for a signal, when the order came.
    at: LocalTime,
    /// When the order came: nothing departs before that.
    ordered_at: LocalTime,
    /// A departure more than this after `at` is late; none for a signal.
    late_after: Option<Span>,
    wait: Wait,
}

/// A race of one master.
type RaceKey = (usize, u64);

/// The agent.
pub struct Agent {
    config: AgentConfig,
    links: Vec<Link>,
    pending: BTreeMap<RaceKey, Pending>,
    /// How many may be there.
    max_pending: usize,
    /// Which race a departure belongs to.
    departures: BTreeMap<DepartureKey, RaceKey>,
    /// Which races are held for a signal: an entry for each [`Wait::Signal`] in `pending`, so at most [`MAX_PENDING`].
    held: BTreeSet<(usize, u64, u64)>,
    /// When a race is forgotten.
    expiries: BTreeMap<(LocalTime, RaceKey), ()>,
    next_key: DepartureKey,
    limits: limits::Budget,
    lateness: LatenessWatch,
    counters: Counters,
    outputs: VecDeque<Output>,
    report_at: LocalTime,
    /// When the receipts that were gathered are sent.
    receipts_at: Option<LocalTime>,
    unix_minus_local_ns: Option<i64>,
    mesh: Mesh,
    paths_at: LocalTime,
    plain: Vec<u8>,
}

impl Agent {
    /// An agent without connections. `now` starts its timers.
    pub fn new(config: AgentConfig, now: LocalTime) -> Self {
        let links = config.masters.iter().map(|master| Link::new(master, config.exchange_interval)).collect();
        let drift = config.masters.iter().map(|master| master.clock.max_drift_ppm).max();
        let mesh = Mesh::new(config.mesh.as_ref().map(|mesh| mesh.name.clone()), drift.unwrap_or_default());
        Agent {
            limits: limits::Budget::new(config.limits),
            mesh,
            paths_at: now,
            lateness: LatenessWatch::new(config.max_lateness, now),
            config,
            links,
            pending: BTreeMap::new(),
            max_pending: MAX_PENDING,
            departures: BTreeMap::new(),
            held: BTreeSet::new(),
            expiries: BTreeMap::new(),
            next_key: 1,
            counters: Counters::new(),
            outputs: VecDeque::new(),
            report_at: now,
            receipts_at: None,
            unix_minus_local_ns: None,
            plain: Vec::new(),
        }
    }

    /// Lets no more than `most` orders wait, where that is less than [`MAX_PENDING`]: a simulation fills a table of eight,
    /// and with it tries what happens in one of thousands.
    pub fn shrink_tables(&mut self, most: usize) {
        self.max_pending = most.min(MAX_PENDING);
    }

    /// How full its tables are.
    pub fn occupancy(&self) -> Vec<Occupancy> {
        let most = self.max_pending;
        let own = [
            Occupancy::new("orders", self.pending.len(), most),
            Occupancy::new("departures", self.departures.len(), most),
            Occupancy::new("orders held for a signal", self.held.len(), most),
            Occupancy::new("orders to be forgotten", self.expiries.len(), most),
        ];
        let links = self.links.iter().flat_map(|link| link.occupancy(most));
        own.into_iter().chain(links).chain(self.mesh.occupancy()).collect()
    }

    /// What the shell kept on disk for a master.
    pub fn restore_playbook(&mut self, master: usize, playbook: PreparedPlaybook) {
        self.links[master].take_playbook(playbook);
    }

    /// The control channel to a master is open: what to say first.
    pub fn hello(&self, master: usize, fast_path: SocketAddr) -> ToMaster {
        self.links[master].hello(&self.config.site, fast_path, self.config.mesh.as_ref().map(|mesh| mesh.salt))
    }

    /// The control channel to a master is closed; orders of its sessions are still good for a while.
    pub fn handle_disconnected(&mut self, now: LocalTime, master: usize) {
        self.links[master].disconnect(now);
    }

    /// The shell derived the secret of a session that the master named.
    pub fn handle_session(&mut self, now: LocalTime, master: usize, id: SessionId, secret: [u8; SECRET_BYTES]) {
        if self.links[master].add_session(now, id, secret) {
            self.say(master, ToMaster::SessionKept { id });
        }
    }

    /// A document from a master, other than the naming of a session. The shell has put a playbook on disk before, so
    /// that the acknowledgement is true.
    pub fn handle_control(&mut self, now: LocalTime, master: usize, message: ToAgent) {
        match message {
            ToAgent::Welcome { epoch, shards, fast_path, .. } => {
                self.links[master].welcome(now, epoch, shards, fast_path);
            }
            ToAgent::Playbook(playbook) => match PreparedPlaybook::new(&playbook) {
                Ok(prepared) => {
                    let version = prepared.version;
                    self.links[master].take_playbook(prepared);
                    self.say(master, ToMaster::PlaybookKept { version });
                }
                Err(_) => self.count("playbook_refused"),
            },
            ToAgent::SelfTest { service, token, to } => match self.links[master].challenge(service, token, to) {
                Some((to, bytes)) => self.outputs.push_back(Output::Challenge { service, to, bytes }),
                None => self.count("self_test_refused"),
            },
            ToAgent::Tested { service, passed } => self.links[master].tested(service, passed),
            ToAgent::Mesh(set) => {
                let name = self.config.mesh.as_ref().map(|mesh| mesh.name.as_str());
                match name.and_then(|name| solve_set(name, self.links[master].master(), &set)) {
                    Some(solved) => self.handle_mesh(now, master, solved),
                    None => self.count("mesh_set_refused"),
                }
            }
            ToAgent::Session { .. } | ToAgent::Peers { .. } | ToAgent::Refused { .. } => {}
        }
        self.settle(now, master);
    }

    /// A master's list of peers for the mesh, whose certificates the shell has checked and whose keys it has derived; in
    /// place of that master's last one.
    pub fn handle_peers(&mut self, now: LocalTime, master: usize, peers: Vec<PeerKeys>) {
        self.mesh.set_peers(now, master, peers);
    }

    /// What [`solve_set`] made of a set that this master spread.
    pub fn handle_mesh(&mut self, now: LocalTime, master: usize, solved: MeshFigures) {
        self.count("mesh_sets");
        self.mesh.handle_solution(now, &mut self.links[master], master, solved);
    }

    /// Where UTC lies on this host's clock, by a keeper that can be believed; `None` when there is none any more. It
    /// counts for ten seconds.
    pub fn handle_host_time(&mut self, time: Option<HostTime>) {
        self.links.iter_mut().for_each(|link| link.clock_mut().handle_host_time(time));
    }

    /// What this host's clock for the time of day shows, in nanoseconds since 1970: signatures end by it.
    pub fn handle_wall_clock(&mut self, now: LocalTime, unix_ns: i64) {
        self.unix_minus_local_ns = Some(unix_ns - now.as_nanos());
    }

    /// This host's own clock stepped, or stood still while it was suspended: nothing that was measured by it holds, and
    /// what waits for an instant of it waits for the wrong one.
    pub fn handle_clock_break(&mut self, now: LocalTime) {
        self.count("clock_breaks");
        self.mesh.forget_clocks(now);
        for master in 0..self.links.len() {
            self.links[master].forget_clock(now);
            self.withdraw(now, master, |_| true);
            self.settle(now, master);
        }
    }

    /// Takes back those of this master's answers that wait for an instant and are `doubtful`: when its timeline is, all
    /// that wait for T; when this host's own clock is, those by `After` as well.
    fn withdraw(&mut self, now: LocalTime, master: usize, doubtful: impl Fn(&Pending) -> bool) {
        let waits = |pending: &Pending| matches!(pending.wait, Wait::Departure) && doubtful(pending);
        let waiting: Vec<(RaceKey, DepartureKey, u8)> = self
            .pending
            .range((master, 0)..=(master, u64::MAX))
            .filter(|(_, pending)| waits(pending))
            .map(|(race, pending)| (*race, pending.key, pending.revision))
            .collect();
        for (race, key, revision) in waiting {
            self.departures.remove(&key);
            if let Some(pending) = self.pending.get_mut(&race) {
                pending.wait = Wait::Done;
            }
            self.outputs.push_back(Output::Withdraw(key));
            self.count("departures_withdrawn");
            self.receipt(now, master, race.1, revision, ReceiptOutcome::Refused, Span::ZERO);
        }
    }

    /// A sample contradicted the clock of this master's timeline, which begins anew.
    fn note_update(&mut self, now: LocalTime, master: usize, update: Option<Update>) {
        if update == Some(Update::Stepped) {
            self.count("clock_steps");
            self.withdraw(now, master, |pending| pending.transmit_at.is_some());
        }
    }

    /// A datagram on the fast path, which the kernel received at `received_at`.
    pub fn handle_datagram(&mut self, now: LocalTime, received_at: LocalTime, bytes: &[u8]) {
        let mut plain = core::mem::take(&mut self.plain);
        let opened = self.links.iter_mut().enumerate().find_map(|(master, link)| {
            link.open(now, bytes, &mut plain).map(|opened| opened.map(|shard| (master, shard)))
        });
        match opened {
            None => self.handle_peer(now, received_at, bytes),
            Some(Err(error)) => self.count(error.counter()),
            Some(Ok((master, shard))) => {
                for frame in crate::wire::frame::frames(&plain) {
                    match frame {
                        Ok(frame) => self.handle_frame(now, received_at, master, shard, &frame),
                        Err(_) => self.count("datagram_malformed"),
                    }
                }
                self.settle(now, master);
            }
        }
        self.plain = plain;
    }

    /// A datagram that is none of a master's.
    fn handle_peer(&mut self, now: LocalTime, received_at: LocalTime, bytes: &[u8]) {
        match self.mesh.handle_datagram(now, received_at, bytes) {
            None => self.count("datagram_unknown_session"),
            Some(Err(error)) => self.count(error.counter()),
            Some(Ok((_, PeerOutput::Nothing))) => {}
            Some(Ok((session, PeerOutput::Reply { to, bytes, exchange }))) => {
                self.count("peer_exchanges_answered");
                let exchange = Some(Stamped::PeerReply(session, exchange));
                self.outputs.push_back(Output::Send { to, bytes, exchange });
            }
        }
    }

    /// Judges anew whether the agent races for a master. A change is reported as soon as there is a call of
    /// [`Agent::handle_timeout`]; a stand-down is counted by its reason.
    fn settle(&mut self, now: LocalTime, master: usize) {
        let late = self.lateness.is_down(now);
        let Some((before, after)) = self.links[master].settle(&self.config, now, late) else { return };
        self.report_at = self.report_at.min(now);
        if let (None, Some(reason)) = (before.stand_down, after.stand_down) {
            self.count(readiness::counter(reason));
        }
    }

    fn handle_frame(&mut self, now: LocalTime, received_at: LocalTime, master: usize, shard: u8, frame: &Frame<'_>) {
        match frame {
            Frame::Order(order) => self.handle_order(now, received_at, master, shard, order),
            Frame::SyncReply { exchange, received, replied, previous } => {
                let link = &mut self.links[master];
                let update = link.handle_reply(received_at, *exchange, *received, *replied, *previous);
                self.note_update(now, master, update);
                self.audit_clock(master, received_at);
            }
            Frame::SyncSignal { sent } => {
                let update = self.links[master].handle_sync_signal(received_at, *sent);
                self.note_update(now, master, Some(update));
                self.count("sync_signals");
                self.audit_clock(master, received_at);
            }
            Frame::Utc(utc) => self.links[master].handle_utc(*utc),
            Frame::Signal { id } => self.handle_signal(now, master, *id),
            Frame::SyncRequest { .. } | Frame::Receipt(_) => self.count("datagram_malformed"),
        }
    }

    fn audit_clock(&mut self, master: usize, at: LocalTime) {
        if let Some(reading) = self.links[master].clock().read(at) {
            self.outputs.push_back(Output::Audit(Audit::Clock { master, reading }));
        }
    }

    fn handle_order(&mut self, now: LocalTime, received_at: LocalTime, master: usize, shard: u8, order: &Order<'_>) {
        self.count("orders");
        self.links[master].note_forward_delay(received_at, order.sent);
        if let Err(refusal) = self.accept(now, received_at, master, shard, order) {
            self.count(refusal.name());
            // The first order of this race and revision has its own receipt.
            if refusal != Refusal::Repeated {
                self.receipt(now, master, order.race, order.revision, ReceiptOutcome::Refused, Span::ZERO);
            }
        }
    }

    /// Checks an order, builds the answer, and lets it wait for its time or signal.
    fn accept(
        &mut self,
        now: LocalTime,
        received_at: LocalTime,
        master: usize,
        shard: u8,
        order: &Order<'_>,
    ) -> Result<(), Refusal> {
        let race_key = (master, order.race);
        let earlier = self.pending.get(&race_key);
        if earlier.is_some_and(|earlier| earlier.revision >= order.revision || matches!(earlier.wait, Wait::Done)) {
            return Err(Refusal::Repeated);
        }
        // On its way, or gone: a second departure of one race must not be.
        if earlier.is_some_and(|earlier| matches!(earlier.wait, Wait::Departure) && earlier.at <= now) {
            return Err(Refusal::AmendedTooLate);
        }
        let key = earlier.map(|earlier| earlier.key).filter(|_| !planted::active(Bug::AmendedTwice));
        let link = &self.links[master];
        link.check_service(order.service)?;
        let race = link
            .playbook(order.playbook)
            .ok_or(Refusal::UnknownPlaybook)?
            .race(order.name)
            .ok_or(Refusal::UnknownName)?;
        let Verdict::Query(query) = Query::parse(order.query) else { return Err(Refusal::BadQuery) };
        if !race.covers(query.name()) || !race.answers.serve(query.rtype()) {
            return Err(Refusal::UnknownName);
        }
        // Without a time of day nothing is known to end; the master's own signatures are of the same age.
        let unix_s = self.unix_minus_local_ns.map(|offset| (now.as_nanos() + offset).div_euclid(1_000_000_000) as u32);
        if unix_s.is_some_and(|unix_s| !race.answers.hold(unix_s, race.ttl_s)) {
            return Err(Refusal::SignatureEnds);
        }
        // An order without T tells nothing of its age; this race may have been answered long ago.
        let by_after = matches!(order.transmit, TransmitIdentifier::After(_));
        if by_after && key.is_none() && link.may_be_forgotten(order.race, shard) {
            return Err(Refusal::Repeated);
        }
        let (at, transmit_at) = self.instant(now, received_at, master, order.transmit)?;
        let late_after = (!matches!(order.transmit, TransmitIdentifier::On(_))).then_some(race.late_tolerance);
        let latest = late_after.filter(|_| race.late == LatePolicy::Drop).map(|tolerance| at + tolerance);
        let is_full = self.pending.len() >= self.max_pending && !planted::active(Bug::TableWithoutLimit);
        if key.is_none() && is_full {
            return Err(Refusal::TableFull);
        }
        self.limits.take(now, order.client)?;
        let bytes = Response::new(&query, Transport::Udp, &self.config.site).with_cookie(order.cookie).site(
            &race.answers,
            &Proven { records: order.proof.to_vec(), count: order.proof_count },
            Vec::new(),
        );

        let key = key.unwrap_or_else(|| {
            self.next_key += 1;
            self.next_key
        });
        let departure = Departure { key, at, latest, service: order.service, to: order.client, bytes };
        self.links[master].note_shard(order.race, shard);
        let wait = match order.transmit {
            TransmitIdentifier::On(id) => {
                self.held.insert((master, id, order.race));
                Wait::Signal { id, departure }
            }
            TransmitIdentifier::At(_) | TransmitIdentifier::After(_) => {
                self.depart(race_key, departure);
                Wait::Departure
            }
        };
        let (revision, client) = (order.revision, order.client);
        let pending = Pending { key, revision, client, transmit_at, at, ordered_at: received_at, late_after, wait };
        match self.pending.insert(race_key, pending) {
            None => drop(self.expiries.insert((at.max(now) + HOLD, race_key), ())),
            Some(replaced) => {
                self.count("orders_amended");
                // An amendment for another signal, or for none, leaves nothing to the one before.
                if let Wait::Signal { id, .. } = replaced.wait
                    && TransmitIdentifier::On(id) != order.transmit
                {
                    self.held.remove(&(master, id, order.race));
                }
            }
        }
        Ok(())
    }

    /// When an order's answer departs, by the local clock, and T where the order names it.
    fn instant(
        &self,
        now: LocalTime,
        received_at: LocalTime,
        master: usize,
        transmit: TransmitIdentifier,
    ) -> Result<(LocalTime, Option<RaceTime>), Refusal> {
        let link = &self.links[master];
        let standing = link.standing(&self.config, now, self.lateness.is_down(now));
        let (at, transmit_at) = match transmit {
            TransmitIdentifier::On(_) => return Ok((now, None)),
            // Whatever a master says: an agent that stands down does not race.
            TransmitIdentifier::After(_) if standing.stand_down.is_some() => return Err(Refusal::StandingDown),
            TransmitIdentifier::After(span) => (received_at + span.max(Span::ZERO), None),
            TransmitIdentifier::At(t) => {
                if standing.stand_down.or(standing.by_after).is_some() {
                    return Err(Refusal::StandingDown);
                }
                let early = if planted::active(Bug::DepartureTooEarly) { Span::from_millis(1) } else { Span::ZERO };
                (link.clock().local_at(t, now).ok_or(Refusal::StandingDown)? - early, Some(t))
            }
        };
        if at - now > self.config.horizon {
            return Err(Refusal::TooFarAhead);
        }
        // Nobody remembers by now whether this race has been answered: somebody may have held its order back.
        if now - at > HOLD {
            return Err(Refusal::Repeated);
        }
        Ok((at, transmit_at))
    }

    fn depart(&mut self, race: RaceKey, departure: Departure) {
        self.departures.insert(departure.key, race);
        self.outputs.push_back(Output::Depart(departure));
    }

    /// Lets every answer depart that was held for this signal.
    fn handle_signal(&mut self, now: LocalTime, master: usize, id: u64) {
        let mut released = Vec::new();
        while let Some(&held) = self.held.range((master, id, 0)..=(master, id, u64::MAX)).next() {
            self.held.remove(&held);
            let race = (master, held.2);
            let Some(pending) = self.pending.get_mut(&race) else { continue };
            if let Wait::Signal { departure, .. } = core::mem::replace(&mut pending.wait, Wait::Departure) {
                released.push((race, Departure { at: now, ..departure }));
            }
        }
        self.count(if released.is_empty() { "signals_unawaited" } else { "signals" });
        released.into_iter().for_each(|(race, departure)| self.depart(race, departure));
    }

    /// What became of a departure.
    pub fn handle_departed(&mut self, now: LocalTime, key: DepartureKey, outcome: DepartureOutcome) {
        let Some(race) = self.departures.remove(&key) else { return };
        let Some(pending) = self.pending.get_mut(&race) else { return };
        if let Wait::Signal { id, .. } = core::mem::replace(&mut pending.wait, Wait::Done) {
            // It was amended to wait for a signal when it was leaving already.
            self.held.remove(&(race.0, id, race.1));
        }
        let (revision, client, transmit_at) = (pending.revision, pending.client, pending.transmit_at);
        let (due, late_after) = (pending.at, pending.late_after);
        let possible = due.max(pending.ordered_at);
        let (master, race) = race;
        let at = match outcome {
            DepartureOutcome::Departed { at, .. } | DepartureOutcome::Late { at } => at,
            DepartureOutcome::Failed => now,
        };
        let reading = self.links[master].clock().read(at);
        let lateness = match (reading, transmit_at) {
            (Some(reading), Some(t)) => reading.estimate - t,
            // After, or a clock that was reset since: the host's own clock tells.
            _ if late_after.is_some() => at - due,
            _ => Span::ZERO,
        };
        let (receipt, counter) = match outcome {
            DepartureOutcome::Departed { kernel_stamped: true, .. } => (ReceiptOutcome::Departed, "departures"),
            DepartureOutcome::Departed { .. } => (ReceiptOutcome::DepartedUnstamped, "departures"),
            DepartureOutcome::Late { .. } => (ReceiptOutcome::Late, "departures_dropped_late"),
            DepartureOutcome::Failed => (ReceiptOutcome::Failed, "departures_failed"),
        };
        let mut stood_down = false;
        if let Some(tolerance) = late_after {
            if receipt.is_departed() {
                self.links[master].note_lateness(lateness);
                if lateness > tolerance {
                    self.count("departures_late");
                }
            }
            // An order that came late is not this host's fault, so its departure is held against the earliest instant
            // that was possible. A dropped answer counts: a host that drops all of them would otherwise look perfect.
            if matches!(receipt, ReceiptOutcome::Departed | ReceiptOutcome::Late) {
                stood_down = self.lateness.note(now, at - possible);
            }
        }
        self.count(counter);
        self.receipt(now, master, race, revision, receipt, lateness);
        let audit = Audit::Departure { master, race, revision, client, transmit_at, outcome, reading };
        self.outputs.push_back(Output::Audit(audit));
        if stood_down {
            (0..self.links.len()).for_each(|master| self.settle(now, master));
        }
    }

    fn receipt(
        &mut self,
        now: LocalTime,
        master: usize,
        race: u64,
        revision: u8,
        outcome: ReceiptOutcome,
        lateness: Span,
    ) {
        let receipt = Receipt { race, revision, outcome, lateness };
        let full = self.links[master].gather_receipt(receipt);
        self.outputs.extend(full.map(|(to, bytes)| Output::Send { to, bytes, exchange: None }));
        self.receipts_at.get_or_insert(now + RECEIPT_DELAY);
    }

    fn send_receipts(&mut self, now: LocalTime) {
        self.receipts_at = None;
        let datagrams = self.links.iter_mut().flat_map(|link| link.take_receipts(now));
        self.outputs.extend(datagrams.map(|(to, bytes)| Output::Send { to, bytes, exchange: None }));
    }

    /// The kernel's transmit timestamp of a datagram that belonged to an exchange.
    pub fn handle_transmit_stamp(&mut self, stamped: Stamped, at: LocalTime) {
        match stamped {
            Stamped::Request(master, exchange) => self.links[master].stamp_request(exchange, at),
            Stamped::PeerRequest(session, exchange) => self.mesh.stamp_request(session, exchange, at),
            Stamped::PeerReply(session, exchange) => self.mesh.stamp_reply(session, exchange, at),
        }
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: LocalTime) {
        (0..self.links.len()).for_each(|master| self.settle(now, master));
        for master in 0..self.links.len() {
            if let Some((to, bytes, exchange)) = self.links[master].poll_request(now) {
                self.outputs.push_back(Output::Send { to, bytes, exchange: Some(Stamped::Request(master, exchange)) });
            }
        }
        while let Some((to, bytes, session, exchange)) = self.mesh.poll_request(now) {
            self.outputs.push_back(Output::Send { to, bytes, exchange: Some(Stamped::PeerRequest(session, exchange)) });
        }
        if self.receipts_at.is_some_and(|at| now >= at) {
            self.send_receipts(now);
        }
        if now >= self.paths_at {
            self.paths_at = now + PATHS_INTERVAL;
            for master in 0..self.links.len() {
                if let Some(report) = self.mesh.report(now, &self.links, master)
                    && self.links[master].is_connected()
                {
                    self.say(master, ToMaster::Paths(report));
                }
            }
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_INTERVAL;
            for master in 0..self.links.len() {
                if self.links[master].is_connected() {
                    let report = self.report(now, master);
                    self.say(master, ToMaster::Report(report));
                }
            }
        }
        while let Some((&(at, race), ())) = self.expiries.first_key_value() {
            if at > now {
                break;
            }
            self.expiries.pop_first();
            let Some(pending) = self.pending.remove(&race) else { continue };
            self.links[race.0].forget_shard(race.1);
            self.departures.remove(&pending.key);
            if let Wait::Signal { id, .. } = pending.wait {
                self.held.remove(&(race.0, id, race.1));
                self.count("orders_expired_without_signal");
            }
        }
    }

    /// When the next timer is due, and what it is for.
    pub fn poll_timeout(&self) -> Option<(LocalTime, Timer)> {
        let requests = self.links.iter().filter_map(Link::request_at).chain(self.mesh.request_at());
        let exchange = requests.min().map(|at| (at, Timer::Exchange));
        let paths = self.config.mesh.is_some().then_some((self.paths_at, Timer::Report));
        let expiry = self.expiries.first_key_value().map(|((at, _), ())| (*at, Timer::Expiry));
        let receipts = self.receipts_at.map(|at| (at, Timer::Receipts));
        [exchange, expiry, paths, receipts, Some((self.report_at, Timer::Report))]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// What is to be done next; `None` when everything was handed out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// One master's timeline at a local instant, as this agent knows it; `None` before the first exchange.
    pub fn reading(&self, at: LocalTime, master: usize) -> Option<Reading> {
        self.links[master].clock().read(at)
    }

    /// Why the agent stands down for one master; `None` when it is ready, or races by its forward delay.
    pub fn stand_down(&self, now: LocalTime, master: usize) -> Option<StandDown> {
        self.links[master].standing(&self.config, now, self.lateness.is_down(now)).stand_down
    }

    /// How the agent is towards one master.
    pub fn report(&self, now: LocalTime, master: usize) -> AgentReport {
        let link = &self.links[master];
        let standing = link.standing(&self.config, now, self.lateness.is_down(now));
        AgentReport {
            stand_down: standing.stand_down,
            by_after: standing.by_after,
            clock: link.clock_figures(now),
            forward_delay: link.forward_delay(),
            lateness: link.lateness(),
            mesh: self.mesh.figures(master),
            counters: self.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    /// Counters by name, since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn say(&mut self, master: usize, message: ToMaster) {
        self.outputs.push_back(Output::Control { master, message });
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }
}

/// What an agent's next timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// When to ask a master or a peer for its time.
    Exchange,
    /// When to forget a race.
    Expiry,
    /// When to send receipts.
    Receipts,
    /// When to report, or to tell what was measured of the mesh's paths.
    Report,
}

#[cfg(test)]
mod tests;
