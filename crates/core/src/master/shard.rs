//! One shard of the data plane: queries in, orders and answers out.
//!
//! A resolver is always steered to the same shard (by its address), so everything that is known of it lives here
//! without a lock: whether it is validated, which race it waits for. Queries wait in the kernel's bounded queue, and
//! nowhere else. Nothing is allocated per query once tables and buffers have grown: packets that were sent are given back
//! ([`Shard::recycle`]).
//!
//! **A race's life.** It opens with one order per ready agent. It is *settled* when two agents' receipts (or the only
//! one's) say that answers departed, or when the master answered itself: at T + `fallback_after`, or at once when every
//! agent refused. A repeated query (same source address, name and type; new id or port) moves the pending orders to the
//! new id and port while at least half of the agents can still be reached before T; later it is answered once by the
//! master. There is never a second race beside the first.
//!
//! **Racing is earned.** N answers to one forged query would make an amplifier, so a source must show a valid server cookie,
//! or have completed TCP within `validated_for`; until then it gets an empty answer: BADCOOKIE with a cookie where it knows
//! cookies, else TC, no longer than its query. Central answers to sources without a valid cookie may be limited by rate.
//!
//! **Even delays.** A resolver that gets central answers within a few milliseconds gives up on a race from the same address
//! too early. So a service address may hold its central answers for as long as its races take.

mod agents;
mod counters;
mod held;
mod outbox;
mod races;

use super::{Service, SharedService, Slot, Stamp, Transmit, central, transfer};
use crate::clock::host::UtcOnRace;
use crate::dns::CanonicalName;
use crate::dns::answer::{self, Response, SERVER_COOKIE, Transport};
use crate::dns::cookie::{Cookie, CookieSecrets};
use crate::dns::query::{Edns, Query, Verdict};
use crate::histogram::Histogram;
use crate::occupancy::Occupancy;
use crate::rate::{Prefix, PrefixRate};
use crate::time::{Epoch, LocalTime, RaceTime, Span};
use crate::wire::frame::{MAX_PROOF, MAX_RACED_QUERY};
use crate::wire::{Frame, Receipt, ReceiptOutcome, SessionId};
pub use agents::AgentView;
use agents::Agents;
use counters::{Counts, Kind};
use domain::base::iana::OptRcode;
use held::Held;
use outbox::Outbox;
use races::{Key, Opened, Ordered, Races, Repeat};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Most validated sources remembered: 65,536 × about 100 bytes in two tables, 7 MiB per shard.
const MAX_VALIDATED: usize = 65_536;
/// Answers with TC set per second and prefix: enough for a farm of resolvers that all start at once.
const TRUNCATED_PER_PREFIX_PER_S: u32 = 200;
/// Zones of which word is passed on together: they are taken after each batch, of 64 packets. The rest is told again.
const MAX_NOTIFIED: usize = 64;

/// What one validation stands for: an IPv4 address, or the /64 that an IPv6 host moves about in, so that no host can
/// fill the table by itself.
fn validation_key(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

/// A shard's configuration.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its number, from 0.
    pub shard: u8,
    /// The epoch of the master's timeline.
    pub epoch: Epoch,
    /// What the master serves.
    pub service: SharedService,
    /// The service addresses, by the index that [`Arrival`] refers to.
    pub service_addresses: Vec<SocketAddr>,
    /// When T is counted from.
    pub stamp: Stamp,
    /// Whatever nobody outside can guess: it keys the table of races.
    pub seed: u64,
    /// How long a completed TCP query lets its source race.
    pub validated_for: Span,
    /// How long after T the master answers itself.
    pub fallback_after: Span,
    /// Cap of the predetermined delay.
    pub max_total_delay: Span,
    /// Races per second and source prefix.
    pub races_per_source_per_s: u32,
    /// Central answers per second and source prefix without a valid cookie; 0 for no limit.
    pub responses_per_prefix_per_s: u32,
    /// Of answers beyond that rate every so manieth is sent empty, with TC, instead of none; 0 for none at all.
    pub slip: u32,
    /// The secrets of server cookies; without any there are no cookies.
    pub cookies: CookieSecrets,
    /// The service addresses, by index, whose central answers are held for as long as a race takes.
    pub even_delay: Vec<u16>,
    /// Time between two unsolicited synchronisation signals to each agent; only shard 0 sends them.
    pub sync_signal_interval: Span,
}

impl ShardConfig {
    /// Whether it matters when a query arrived, rather than when it was taken: that T is counted from there, or a central
    /// answer is held for as long as a race takes. Both need raced names.
    pub fn needs_receipt(&self) -> bool {
        !self.service.races.is_empty() && (self.stamp == Stamp::Receipt || !self.even_delay.is_empty())
    }
}

/// A query as it came from the network.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Which service address it was sent to.
    pub service: u16,
    /// Who sent it.
    pub source: SocketAddr,
    /// The kernel's receive timestamp, where [`ShardConfig::needs_receipt`]; otherwise when it was taken will do.
    pub received_at: LocalTime,
    /// The packet.
    pub bytes: &'a [u8],
}

/// What the shard wants done. Buffers may be given back when they were sent ([`Shard::recycle`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Answer a resolver.
    Reply {
        /// From which service address.
        service: u16,
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send a datagram to an agent.
    Fast {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
        /// The session and exchange whose T3 this datagram's transmit timestamp is.
        exchange: Option<(SessionId, u32)>,
    },
}

/// What firing a signal has reached in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    /// Races that waited for it.
    pub races: usize,
    /// Agents that held answers for them.
    pub agents: BTreeSet<Slot>,
}

/// A query for a raced name whose source has earned a race.
#[derive(Clone, Copy)]
struct Asked<'a> {
    now: LocalTime,
    arrival: &'a Arrival<'a>,
    query: &'a Query<'a>,
    /// The server cookie that its answer returns.
    cookie: Option<[u8; SERVER_COOKIE]>,
}

/// What the shard has counted since its start.
pub type Counters = BTreeMap<&'static str, u64>;

/// What a shard's next timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// When to fire a race's signal, to answer it, or to close it.
    Race,
    /// When to send an answer that was held.
    Held,
    /// When to send the agents a synchronisation signal.
    SyncSignal,
}

/// One shard.
pub struct Shard {
    config: ShardConfig,
    /// The service behind a count of references of the shard's own: one that all shards change would travel between
    /// their processors' caches with every query.
    service: Arc<SharedService>,
    agents: Agents,
    races: Races,
    validated: BTreeMap<IpAddr, LocalTime>,
    validated_until: BTreeSet<(LocalTime, IpAddr)>,
    max_validated: usize,
    race_rate: PrefixRate,
    truncated_rate: PrefixRate,
    response_rate: PrefixRate,
    /// Answers that were over a rate.
    over_rate: u64,
    /// Seconds since 1970 less this host's clock, in nanoseconds, and whether anybody has told.
    unix_minus_local_ns: Option<i64>,
    held: Held,
    /// For how long; `None` while nobody races.
    even_delay: Option<Span>,
    sync_signal_at: LocalTime,
    utc: Option<UtcOnRace>,
    counts: Counts,
    /// Lateness by agent, from its receipts; an entry goes with its agent. At most [`super::MAX_AGENTS`] of 1.6 KB.
    lateness: BTreeMap<Slot, Histogram>,
    out: Outbox,
    plain: Vec<u8>,
    /// Zones of which word came, until it is passed on; at most [`MAX_NOTIFIED`].
    notified: VecDeque<CanonicalName>,
}

impl Shard {
    /// A shard without agents. `now` starts its timers.
    pub fn new(config: ShardConfig, now: LocalTime) -> Self {
        Shard {
            agents: Agents::new(config.shard, config.epoch, config.service.clone(), config.max_total_delay),
            races: Races::new(config.shard, config.seed, now),
            validated: BTreeMap::new(),
            validated_until: BTreeSet::new(),
            max_validated: MAX_VALIDATED,
            race_rate: PrefixRate::new(config.races_per_source_per_s, config.seed),
            truncated_rate: PrefixRate::new(TRUNCATED_PER_PREFIX_PER_S, config.seed.wrapping_add(1)),
            response_rate: PrefixRate::new(config.responses_per_prefix_per_s, config.seed.wrapping_add(2)),
            over_rate: 0,
            unix_minus_local_ns: None,
            held: Held::default(),
            even_delay: None,
            sync_signal_at: now + config.sync_signal_interval,
            utc: None,
            counts: Counts::new(),
            lateness: BTreeMap::new(),
            out: Outbox::default(),
            plain: Vec::new(),
            notified: VecDeque::new(),
            service: Arc::new(Arc::clone(&config.service)),
            config,
        }
    }

    /// Lets no more than `most` races be open and sources be validated, where that is less than the shard's own limits: a
    /// simulation fills a table of eight, and with it tries what happens in one of thousands.
    pub fn shrink_tables(&mut self, most: usize) {
        self.races.shrink(most);
        self.max_validated = most.min(MAX_VALIDATED);
    }

    /// How full its tables are.
    pub fn occupancy(&self) -> Vec<Occupancy> {
        let own = [
            self.races.occupancy(),
            Occupancy::new("validated sources", self.validated.len(), self.max_validated),
            Occupancy::new("ends of validation", self.validated_until.len(), self.max_validated),
            Occupancy::new("lateness by agent", self.lateness.len(), super::MAX_AGENTS),
            self.held.occupancy(),
        ];
        own.into_iter().chain(self.agents.occupancy()).collect()
    }

    /// A query that is taken at `now`.
    pub fn handle_arrival(&mut self, now: LocalTime, arrival: Arrival<'_>) {
        self.counts.count(Kind::Queries);
        match Query::parse(arrival.bytes) {
            Verdict::Ignore => self.counts.count(Kind::Ignored),
            Verdict::Error(code) => {
                self.counts.count(Kind::Malformed);
                let out = self.out.buffer();
                self.reply(&arrival, answer::error(arrival.bytes, code, out));
            }
            Verdict::Cookie(edns) => {
                self.counts.count(Kind::Central);
                let cookie = self.judge(now, arrival.source.ip(), &edns);
                let out = self.out.buffer();
                self.reply(&arrival, central::answer_cookie(arrival.bytes, &edns, cookie, out));
            }
            Verdict::Notify => self.handle_transfer(now, &arrival),
            Verdict::Query(query) if query.is_of_transfer() => self.handle_transfer(now, &arrival),
            Verdict::Query(query) => self.handle_query(now, &arrival, &query),
        }
    }

    /// Takes a buffer of an [`Output`] back.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        self.out.give(bytes);
    }

    /// NOTIFY, requests for transfers, and whatever is signed. All answers are held to the rate of those without a cookie:
    /// beyond it a source that is forged gets nothing, and one that is real asks again.
    fn handle_transfer(&mut self, now: LocalTime, arrival: &Arrival<'_>) {
        let Some(unix_minus_local_ns) = self.unix_minus_local_ns else { return };
        if self.config.responses_per_prefix_per_s > 0
            && !self.response_rate.take(now, Prefix::from(arrival.source.ip()))
        {
            return self.counts.count(Kind::DroppedRate);
        }
        let unix_s = (now.as_nanos() + unix_minus_local_ns).div_euclid(1_000_000_000).unsigned_abs();
        let asking = transfer::Asking { from: arrival.source.ip(), is_stream: false, unix_s, may_transfer: false };
        let service = Arc::clone(&self.service);
        match transfer::answer(&service, arrival.bytes, asking) {
            transfer::Answer::Silence => self.counts.count(Kind::Ignored),
            // Over UDP there is none.
            transfer::Answer::Zone(_) => {}
            transfer::Answer::Message { bytes, notified } => {
                self.counts.count(Kind::Central);
                if let Some(apex) = notified.filter(|apex| !self.notified.contains(apex)) {
                    self.notified.push_back(apex);
                    self.notified.truncate(MAX_NOTIFIED);
                }
                self.reply(arrival, bytes);
            }
        }
    }

    /// A zone of which a primary has said that it changed.
    pub fn poll_notified(&mut self) -> Option<CanonicalName> {
        self.notified.pop_front()
    }

    fn handle_query(&mut self, now: LocalTime, arrival: &Arrival<'_>, query: &Query<'_>) {
        let service = Arc::clone(&self.service);
        let cookie = query.edns.and_then(|edns| self.judge(now, arrival.source.ip(), &edns));
        let has_cookie = cookie.is_some_and(|cookie| cookie.is_valid);
        let response =
            Response::new(query, Transport::Udp, &service.master).with_cookie(cookie.map(|cookie| cookie.server));
        let limited = self.config.responses_per_prefix_per_s > 0 && !has_cookie;
        let index = match central::answer(&service, &response, query, || self.out.buffer()) {
            Err(index) => index,
            Ok(bytes) if limited && !self.response_rate.take(now, Prefix::from(arrival.source.ip())) => {
                self.out.give(bytes);
                return self.answer_over_rate(now, arrival, &response, self.config.slip);
            }
            Ok(bytes) => {
                self.counts.count(Kind::Central);
                return self.reply_evenly(now, arrival, bytes);
            }
        };
        let source = validation_key(arrival.source.ip());
        if !has_cookie && self.validated.get(&source).is_none_or(|until| *until < now) {
            // Beyond the rate every other query is still answered: forged queries must not keep a real resolver, whose
            // queries are among them, from ever being validated. The answer is no longer than its query in any case.
            if !self.truncated_rate.take(now, Prefix::from(source)) {
                return self.answer_over_rate(now, arrival, &response, 2);
            }
            return self.ask_for_proof(now, arrival, &response, cookie.is_some());
        }
        let key = Key { source: arrival.source.ip(), name: query.name(), rtype: query.rtype() };
        let asked = Asked { now, arrival, query, cookie: cookie.map(|cookie| cookie.server) };
        match self.races.repeat(&key, arrival.source.port(), query.id()) {
            Some(Repeat::Duplicate) => self.counts.count(Kind::Duplicate),
            Some(Repeat::Answered) => self.counts.count(Kind::RepeatedIgnored),
            Some(Repeat::Open(race)) => self.handle_repeat(&asked, index, race),
            None => self.open_race(&asked, index, key),
        }
    }

    /// What the query's cookie says; `None` without one, and where there are no cookies here.
    fn judge(&mut self, now: LocalTime, source: IpAddr, edns: &Edns<'_>) -> Option<Cookie> {
        let option = edns.cookie?;
        let unix_s = (now.as_nanos() + self.unix_minus_local_ns?).div_euclid(1_000_000_000);
        let cookie = self.config.cookies.judge(option, source, unix_s as u32)?;
        if cookie.is_valid {
            self.counts.count(Kind::ValidCookie);
        }
        Some(cookie)
    }

    /// Answers a source that may be forged so that a real one can prove itself: with a cookie to come back with
    /// (RFC 7873 section 5.2.3), or else with TC.
    fn ask_for_proof(&mut self, now: LocalTime, arrival: &Arrival<'_>, response: &Response<'_>, knows_cookies: bool) {
        let out = self.out.buffer();
        let bytes = match knows_cookies {
            true => {
                self.counts.count(Kind::BadCookie);
                response.error(OptRcode::BADCOOKIE, None, out)
            }
            false => {
                self.counts.count(Kind::Truncated);
                response.truncated(out)
            }
        };
        self.reply_evenly(now, arrival, bytes);
    }

    /// Drops what is over a rate, but for every so manieth answer, which says: come back over TCP.
    fn answer_over_rate(&mut self, now: LocalTime, arrival: &Arrival<'_>, response: &Response<'_>, slip: u32) {
        self.over_rate += 1;
        if slip == 0 || !self.over_rate.is_multiple_of(u64::from(slip)) {
            return self.counts.count(Kind::DroppedRate);
        }
        self.counts.count(Kind::Truncated);
        let out = self.out.buffer();
        let bytes = response.truncated(out);
        self.reply_evenly(now, arrival, bytes);
    }

    /// A resolver asks again while its race is open.
    fn handle_repeat(&mut self, asked: &Asked<'_>, index: u16, race: u64) {
        let Asked { now, arrival, query, cookie } = *asked;
        let in_time = self
            .races
            .transmit_at(race)
            .is_some_and(|t| now + self.agents.half_reached_within(index, query.rtype()) <= t.to_master());
        if in_time && arrival.bytes.len() <= MAX_RACED_QUERY {
            self.counts.count(Kind::Amended);
            self.races.amend(race, arrival, cookie);
            self.send_orders(now, race);
        } else {
            self.counts.count(Kind::RepeatedAnswered);
            self.races.settle(race, arrival);
            self.answer_by_fallback(asked, index);
        }
    }

    fn open_race(&mut self, asked: &Asked<'_>, index: u16, key: Key<'_>) {
        let Asked { now, arrival, query, cookie } = *asked;
        let service_address = self.config.service_addresses[usize::from(arrival.service)];
        let Some(delay) = self.agents.delay(index, query.rtype(), service_address) else {
            self.counts.count(Kind::FallbackNoAgent);
            return self.answer_by_fallback(asked, index);
        };
        let proven = Response::new(query, Transport::Udp, "").raced_proof(&self.service.zones, Vec::new());
        let is_too_long = arrival.bytes.len() > MAX_RACED_QUERY || proven.records.len() > MAX_PROOF;
        if is_too_long || !self.race_rate.take(now, Prefix::from(arrival.source.ip())) {
            self.counts.count(Kind::FallbackBudget);
            return self.answer_by_fallback(asked, index);
        }
        let stamped = match self.config.stamp {
            Stamp::Receipt => arrival.received_at,
            Stamp::Dequeue => now,
        };
        let transmit_at = RaceTime::of_master(stamped) + delay;
        let service = Arc::clone(&self.service);
        let transmit = &service.races[usize::from(index)].transmit;
        let close_after = self.config.fallback_after;
        let opened = Opened { key, index, transmit_at, transmit, close_after, cookie, proven };
        match self.races.open(opened, arrival) {
            Some(race) => {
                self.counts.count(Kind::Races);
                if self.send_orders(now, race) == 0 {
                    self.answer_open_race(race, Kind::FallbackNoAgent);
                }
            }
            None => {
                self.counts.count(Kind::FallbackTableFull);
                self.answer_by_fallback(asked, index);
            }
        }
    }

    /// Seals one order per agent; those to one agent share a datagram until [`Shard::poll_output`] is drained. How many
    /// there are.
    fn send_orders(&mut self, now: LocalTime, race: u64) -> usize {
        let Some(order) = self.races.order(race, RaceTime::of_master(now), &self.config.service_addresses) else {
            return 0;
        };
        let rtype = self.races.subject(race).1;
        let (sent, withheld) = self.agents.order(&order, rtype, &mut self.out);
        let by_after = sent.iter().filter(|(_, ordered)| *ordered == Ordered::After).count() as u64;
        self.counts.add(Kind::Orders, sent.len() as u64);
        self.counts.add(Kind::OrdersByAfter, by_after);
        self.counts.add(Kind::OrdersWithheld, withheld);
        self.races.note_ordered(race, sent);
        sent.len()
    }

    fn answer_by_fallback(&mut self, asked: &Asked<'_>, index: u16) {
        self.counts.count(Kind::Fallback);
        let out = self.out.buffer();
        let bytes = fallback(&self.config.service, asked.query, index, asked.cookie, out);
        self.reply(asked.arrival, bytes);
    }

    fn reply(&mut self, arrival: &Arrival<'_>, bytes: Vec<u8>) {
        self.out.push(Output::Reply { service: arrival.service, to: arrival.source, bytes });
    }

    /// A central answer, held where the service address asks for it.
    fn reply_evenly(&mut self, now: LocalTime, arrival: &Arrival<'_>, bytes: Vec<u8>) {
        let held = self.config.even_delay.contains(&arrival.service).then_some(()).and(self.even_delay);
        let due = held.map(|delay| arrival.received_at + delay).filter(|due| *due > now);
        let output = Output::Reply { service: arrival.service, to: arrival.source, bytes };
        match due {
            Some(due) => self.held.hold(due, output).into_iter().for_each(|output| self.out.push(output)),
            None => self.out.push(output),
        }
    }

    /// What this host's clock for the time of day shows, in nanoseconds since 1970: server cookies carry it.
    pub fn handle_wall_clock(&mut self, now: LocalTime, unix_ns: i64) {
        self.unix_minus_local_ns = Some(unix_ns - now.as_nanos());
    }

    /// A source completed a query over TCP.
    pub fn handle_validated(&mut self, now: LocalTime, source: IpAddr) {
        let source = validation_key(source);
        let until = now + self.config.validated_for;
        if let Some(earlier) = self.validated.insert(source, until) {
            self.validated_until.remove(&(earlier, source));
        }
        self.validated_until.insert((until, source));
        while self.validated.len() > self.max_validated {
            if let Some((_, oldest)) = self.validated_until.pop_first() {
                self.validated.remove(&oldest);
            }
        }
    }

    /// Another configuration takes the place of the present one: of the same shard, epoch and service addresses, its service
    /// one that succeeds the present ([`Service::succeed`]). Races that are open go on.
    pub fn handle_config(&mut self, config: ShardConfig) {
        debug_assert_eq!(config.service_addresses, self.config.service_addresses);
        let rate = |own: &PrefixRate, before: u32, now: u32, seed| match before == now {
            true => own.clone(),
            false => PrefixRate::new(now, seed),
        };
        let before = &self.config;
        self.race_rate =
            rate(&self.race_rate, before.races_per_source_per_s, config.races_per_source_per_s, config.seed);
        self.response_rate = rate(
            &self.response_rate,
            before.responses_per_prefix_per_s,
            config.responses_per_prefix_per_s,
            config.seed.wrapping_add(2),
        );
        self.agents.replace_service(config.service.clone(), config.max_total_delay);
        self.service = Arc::new(Arc::clone(&config.service));
        self.config = config;
        self.note_delays();
    }

    /// Where UTC lies on this master's timeline, by a keeper that can be believed; `None` when there is none any more. It
    /// goes out beside the synchronisation signals.
    pub fn handle_utc(&mut self, utc: Option<UtcOnRace>) {
        self.utc = utc;
    }

    /// The roster's newest word on an agent.
    pub fn handle_agent(&mut self, view: AgentView) {
        self.agents.update(view);
        self.note_delays();
    }

    /// Central answers are held for as long as the longest race takes.
    fn note_delays(&mut self) {
        if !self.config.even_delay.is_empty() {
            self.even_delay = self.predetermined_delays().into_iter().flatten().max();
        }
    }

    /// An agent is gone.
    pub fn handle_agent_gone(&mut self, slot: Slot) {
        self.agents.remove(slot);
        self.note_delays();
        self.lateness.remove(&slot);
    }

    /// Somebody fires the signal of this name: the answers of every open race that waits for it depart, as soon as the
    /// signal reaches the agents. Nobody waits for a name that no race has.
    pub fn handle_signal(&mut self, now: LocalTime, name: &str) -> Signalled {
        let mut signalled = Signalled::default();
        for (index, race) in self.config.service.races.iter().enumerate() {
            let waits = matches!(&race.transmit, Transmit::Held(held) if &**held == name);
            let Some((id, races, agents)) = waits.then(|| self.races.fire(index as u16, now)).flatten() else {
                continue;
            };
            self.agents.signal(id, agents.iter().copied(), &mut self.out);
            self.counts.count(Kind::SignalsSent);
            signalled.races += races;
            signalled.agents.extend(agents);
        }
        signalled
    }

    /// A datagram on the fast path, which the kernel received at `received_at`.
    pub fn handle_fast(&mut self, now: LocalTime, received_at: LocalTime, source: SocketAddr, bytes: &[u8]) {
        let mut plain = core::mem::take(&mut self.plain);
        match self.agents.open(bytes, &mut plain) {
            Ok(session) => {
                for frame in crate::wire::frame::frames(&plain) {
                    match frame {
                        Ok(Frame::SyncRequest { exchange }) => {
                            let received = RaceTime::of_master(received_at);
                            self.agents.reply(
                                session,
                                exchange,
                                received,
                                RaceTime::of_master(now),
                                source,
                                &mut self.out,
                            );
                            self.counts.count(Kind::Exchanges);
                        }
                        Ok(Frame::Receipt(receipt)) => self.handle_receipt(session, receipt),
                        _ => self.counts.count(Kind::DatagramMalformed),
                    }
                }
            }
            Err(kind) => self.counts.count(kind),
        }
        self.plain = plain;
    }

    fn handle_receipt(&mut self, session: SessionId, receipt: Receipt) {
        self.counts.count(match receipt.outcome.is_departed() {
            true => Kind::ReceiptsDeparted,
            false => Kind::ReceiptsNotDeparted,
        });
        let Some(agent) = self.agents.slot_of(session) else { return };
        let Some(noted) = self.races.note_receipt(agent, &receipt) else { return };
        if receipt.outcome == ReceiptOutcome::Departed && noted.ordered != Ordered::On {
            self.lateness.entry(agent).or_default().record(receipt.lateness);
        }
        if noted.nobody_departed {
            self.answer_open_race(receipt.race, Kind::FallbackAllRefused);
        }
    }

    /// Answers an open race by fallback, once.
    fn answer_open_race(&mut self, race: u64, kind: Kind) {
        let Some((arrival, index, cookie)) = self.races.take_unanswered(race) else { return };
        if let Verdict::Query(query) = Query::parse(arrival.bytes) {
            self.counts.count(kind);
            self.counts.count(Kind::Fallback);
            let out = self.out.buffer();
            let bytes = fallback(&self.config.service, &query, index, cookie, out);
            self.out.push(Output::Reply { service: arrival.service, to: arrival.source, bytes });
        }
    }

    fn answer_unsignalled(&mut self, race: u64) {
        self.answer_open_race(race, Kind::FallbackNotSignalled);
        self.races.give_up_waiting(race);
    }

    /// The shard is about to end: nobody will fire signals any more, so races that wait for one are answered now.
    pub fn handle_stop(&mut self) {
        self.races.waiting().into_iter().for_each(|race| self.answer_unsignalled(race));
        while let Some(output) = self.held.pop_due(LocalTime::MAX) {
            self.out.push(output);
        }
    }

    /// The kernel's transmit timestamp of a reply to an exchange.
    pub fn handle_transmit_stamp(&mut self, session: SessionId, exchange: u32, at: LocalTime) {
        self.agents.stamp_reply(session, exchange, RaceTime::of_master(at));
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: LocalTime) {
        while let Some(output) = self.held.pop_due(now) {
            self.out.push(output);
        }
        while let Some((race, due)) = self.races.pop_due(now) {
            match due {
                races::Due::Signal => {
                    self.agents.signal(race, self.races.awaited(race), &mut self.out);
                    self.counts.count(Kind::SignalsSent);
                }
                races::Due::Unsignalled => self.answer_unsignalled(race),
                races::Due::Close => {
                    self.answer_open_race(race, Kind::FallbackNoReceipts);
                    self.races.close(race);
                }
            }
        }
        if now >= self.sync_signal_at {
            self.sync_signal_at = now + self.config.sync_signal_interval;
            if self.config.shard == 0 {
                self.agents.sync_signal(RaceTime::of_master(now), self.utc, &mut self.out);
            }
        }
    }

    /// When the next timer is due, and what it is for.
    pub fn poll_timeout(&self) -> Option<(LocalTime, Timer)> {
        let race = self.races.next_due().map(|at| (at, Timer::Race));
        let held = self.held.next_due().map(|at| (at, Timer::Held));
        [race, held, Some((self.sync_signal_at, Timer::SyncSignal))].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What is to be done next. Draining also seals the orders that were gathered for each agent.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.out.is_empty() {
            self.agents.flush(&mut self.out);
        }
        self.out.pop()
    }

    /// What was counted since the start, what never happened left out.
    pub fn counters(&self) -> Counters {
        self.counts.by_name()
    }

    /// Races that are open now.
    pub fn open_races(&self) -> usize {
        self.races.len()
    }

    /// Start spread, latest − earliest departure of one race by the agents' own clocks, by the index of its name: of
    /// races at T with at least two departures that their kernels stamped. Weighs the newest few thousand.
    pub fn spreads(&self) -> &BTreeMap<u16, Histogram> {
        self.races.spreads()
    }

    /// Lateness of each agent's departures, from its receipts, since it connected. Weighs the newest few thousand.
    pub fn lateness(&self) -> &BTreeMap<Slot, Histogram> {
        &self.lateness
    }

    /// The predetermined delay of each race as it is now, for A; absent while no agent is ready.
    pub fn predetermined_delays(&self) -> Vec<Option<Span>> {
        (0..self.config.service.races.len()).map(|index| self.agents.any_delay(index as u16)).collect()
    }
}

/// The answer over UDP to a raced name without a race.
fn fallback(
    service: &Service,
    query: &Query<'_>,
    index: u16,
    cookie: Option<[u8; SERVER_COOKIE]>,
    out: Vec<u8>,
) -> Vec<u8> {
    let response = Response::new(query, Transport::Udp, &service.master).with_cookie(cookie);
    central::fallback(service, index, &response, query, out)
}
