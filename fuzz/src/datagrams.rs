//! Datagrams of the fast path, to an agent and to a shard: hostile ones, some of them under the right keys.
//!
//! ```text
//!  0        1        3
//! +--------+--------+------------+
//! |  how   | length |  bytes …   |     as often as there are; length: u16, big-endian, cut to what is left
//! +--------+--------+------------+
//! ```
//!
//! Of `how`, the lowest two bits say what the bytes are: 0 and 1, frames that the other side seals for shard 0 and 1; 2, a
//! datagram as it is; 3, a DNS message to the shard and a challenge to nobody. Bit 2 sends to the shard, else to the agent.
//! The highest four say how much time passes before, in powers of two of a millisecond, and none for 0.

use super::answers;
use super::service::service;
use startgun_core::agent::{
    Agent, AgentConfig, Departure, DepartureOutcome, Limits, MasterConfig, OnBadClock, Output as AgentOutput,
};
use startgun_core::clock::ClockConfig;
use startgun_core::control::{ForwardDelay, ToAgent};
use startgun_core::dns::cookie::CookieSecrets;
use startgun_core::dns::{Query, Verdict};
use startgun_core::master::{AgentView, Arrival, Output as ShardOutput, Readiness, Shard, ShardConfig, Stamp};
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::session::{self, MAX_PLAIN, SECRET_BYTES};
use startgun_core::wire::{Binding, Direction, Frame, MAX_DATAGRAM, Opener, Sealer};
use std::net::SocketAddr;

/// Most steps of one input: time enough for every timer, and not so many that a run takes seconds.
const STEPS: usize = 64;
/// Most that one step can make a machine say: orders to two agents, answers, receipts, all 64 steps' departures at once.
const OUTPUTS: usize = 1_024;

const EPOCH: Epoch = Epoch(7);
/// The same machine: what is race time minus local time at the agent.
const OFFSET: Span = Span::from_secs(500);
const WAY: Span = Span::from_millis(10);

/// Everything that may come in by the fast path, in steps: see the module's head.
///
/// # Panics
/// Where an answer is none, a datagram is too long, something departs for an address that is not the master's, or a machine
/// does not come to rest.
pub fn datagrams(bytes: &[u8]) {
    run(bytes);
}

/// How far an input came.
#[derive(Default)]
pub struct Reach {
    /// Answers that the agent let depart.
    pub departures: u64,
    /// Answers of the shard, to queries and instead of races.
    pub replies: u64,
}

/// [`datagrams`]; a corpus none of whose orders is accepted any more is to be made anew, and this tells.
pub fn run(bytes: &[u8]) -> Reach {
    let mut site = Site::new();
    let mut master = Master::new();
    let mut rest = bytes;
    for _ in 0..STEPS {
        let [how, high, low, tail @ ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len()).min(usize::from(u16::MAX));
        let (body, after) = tail.split_at(length);
        rest = after;
        let passes = match how >> 4 {
            0 => Span::ZERO,
            power => Span::from_millis(1 << power),
        };
        match how & 4 {
            0 => site.step(how & 3, passes, body),
            _ => master.step(how & 3, passes, body),
        }
    }
    check_unsealed(bytes);
    Reach { departures: site.departures, replies: master.replies }
}

/// Nothing opens without the keys, and whatever has a header was long enough for one.
fn check_unsealed(bytes: &[u8]) {
    if session::header(bytes).is_some() {
        let mut plain = vec![1];
        let stranger = Binding { secret: [1; SECRET_BYTES], ..binding(1) };
        let opened = Opener::new(&stranger, Direction::MasterToAgent, 0).open(bytes, &mut plain);
        assert!(opened.is_err() && plain.is_empty(), "opened without its key");
    }
}

fn binding(id: u64) -> Binding {
    Binding { id, secret: [id as u8 + 8; SECRET_BYTES], master: "m1".into(), epoch: EPOCH }
}

fn asked() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 53], 53))
}

/// The frames of a step, as many bytes as a datagram takes.
fn seal(sealer: &mut Sealer, body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    sealer.seal(&body[..body.len().min(MAX_PLAIN)], &mut datagram);
    datagram
}

/// An agent that races, with a clock that is set.
pub(super) struct Site {
    pub(super) agent: Agent,
    pub(super) now: LocalTime,
    sealers: [Sealer; 2],
    opener: Opener,
    departures: u64,
    /// Whether an order had a proof: the agent takes its records as the master says them.
    has_proof: bool,
}

impl Site {
    pub(super) fn new() -> Site {
        let now = LocalTime::from_nanos(3_000_000_000);
        let config = AgentConfig {
            site: "site0".into(),
            masters: vec![MasterConfig { name: "m1".into(), services: vec![asked()], clock: ClockConfig::default() }],
            max_expected_error: Span::from_millis(3),
            max_bound: Span::from_millis(250),
            on_bad_clock: OnBadClock::After,
            max_lateness: Span::from_millis(2),
            exchange_interval: Span::from_millis(250),
            horizon: Span::from_secs(1),
            mesh: None,
            limits: Limits { allow_private_destinations: true, ..Limits::default() },
        };
        let binding = binding(1);
        let sealers = [0, 1].map(|shard| Sealer::new(&binding, Direction::MasterToAgent, shard));
        let opener = Opener::new(&binding, Direction::AgentToMaster, 0);
        let mut site = Site { agent: Agent::new(config, now), now, sealers, opener, departures: 0, has_proof: false };
        let fast_path = SocketAddr::from(([198, 51, 100, 1], 8_531));
        let welcome = ToAgent::Welcome { protocol: 1, master: "m1".into(), epoch: EPOCH, shards: 2, fast_path };
        site.agent.handle_control(now, 0, welcome);
        site.agent.handle_session(now, 0, binding.id, binding.secret);
        site.agent.handle_control(now, 0, ToAgent::Playbook(service().playbook("site0")));
        site.agent.handle_control(now, 0, ToAgent::Tested { service: asked(), passed: true });
        (0..8).for_each(|_| site.exchange());
        assert_eq!(site.agent.stand_down(site.now, 0), None, "the agent of the targets races");
        site
    }

    /// One exchange with the master, over two ways of the same length.
    fn exchange(&mut self) {
        self.agent.handle_timeout(self.now);
        let mut plain = Vec::new();
        for output in core::iter::from_fn(|| self.agent.poll_output()).collect::<Vec<_>>() {
            let AgentOutput::Send { bytes, exchange: Some(stamped), .. } = output else { continue };
            self.agent.handle_transmit_stamp(stamped, self.now);
            self.opener.open(&bytes, &mut plain).expect("its own session's");
            let Some(Ok(Frame::SyncRequest { exchange })) = frames(&plain).next() else { continue };
            let at = RaceTime::of_master(self.now + WAY + OFFSET);
            let mut reply = Vec::new();
            let none = (0, RaceTime::from_nanos(0));
            Frame::SyncReply { exchange, received: at, replied: at, previous: none }.encode(&mut reply);
            self.now = self.now + WAY + WAY;
            let datagram = seal(&mut self.sealers[0], &reply);
            self.agent.handle_datagram(self.now, self.now, &datagram);
        }
        self.now = self.now + Span::from_millis(250);
    }

    fn step(&mut self, how: u8, passes: Span, body: &[u8]) {
        self.now = self.now + passes;
        match how {
            shard @ 0..=1 => {
                let proof = |frame| matches!(frame, Ok(Frame::Order(order)) if !order.proof.is_empty() || order.proof_count > 0);
                self.has_proof |= frames(body).any(proof);
                let datagram = seal(&mut self.sealers[usize::from(shard)], body);
                self.agent.handle_datagram(self.now, self.now, &datagram);
            }
            _ => self.agent.handle_datagram(self.now, self.now, body),
        }
        if self.agent.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
            self.agent.handle_timeout(self.now);
        }
        self.drain();
    }

    /// Does what the agent says, until it says nothing more.
    pub(super) fn drain(&mut self) {
        for _ in 0..OUTPUTS {
            match self.agent.poll_output() {
                None => return,
                Some(AgentOutput::Depart(departure)) => self.depart(&departure),
                Some(AgentOutput::Send { bytes, exchange, .. }) => {
                    assert!(bytes.len() <= MAX_DATAGRAM, "{} bytes", bytes.len());
                    exchange.into_iter().for_each(|stamped| self.agent.handle_transmit_stamp(stamped, self.now));
                }
                Some(_) => {}
            }
        }
        panic!("more than {OUTPUTS} outputs of an agent at once");
    }

    fn depart(&mut self, departure: &Departure) {
        self.departures += 1;
        assert_eq!(departure.service, asked(), "it speaks for the master's addresses only");
        assert!(departure.to.port() != 0 && !departure.to.ip().is_multicast(), "to {}", departure.to);
        // What it answers to is not known any more, but its id.
        let packet = [&departure.bytes[..2], &[departure.bytes[2] & 0x7f], &[0; 9]].concat();
        answers::check_head(&packet, &departure.bytes, startgun_core::dns::MAX_ANSWER);
        if !self.has_proof {
            answers::read(&departure.bytes);
        }
        let outcome = match departure.latest {
            Some(latest) if latest < self.now => DepartureOutcome::Late { at: self.now },
            _ => DepartureOutcome::Departed { at: departure.at.max(self.now), kernel_stamped: true },
        };
        self.agent.handle_departed(self.now, departure.key, outcome);
    }
}

/// A shard with two agents that race.
struct Master {
    shard: Shard,
    now: LocalTime,
    sealers: [Sealer; 2],
    replies: u64,
}

impl Master {
    fn new() -> Master {
        let now = LocalTime::from_nanos(50_000_000_000);
        let config = ShardConfig {
            shard: 0,
            epoch: EPOCH,
            service: service(),
            service_addresses: vec![asked()],
            stamp: Stamp::Receipt,
            seed: 7,
            validated_for: Span::from_secs(3_600),
            fallback_after: Span::from_millis(250),
            max_total_delay: Span::from_millis(300),
            races_per_source_per_s: 1_000_000,
            responses_per_prefix_per_s: 0,
            slip: 2,
            cookies: CookieSecrets::new([[3; 16]]),
            even_delay: Vec::new(),
            sync_signal_interval: Span::from_secs(1),
        };
        let mut shard = Shard::new(config, now);
        let forward = Span::from_millis(20);
        for slot in 1..=2 {
            shard.handle_agent(AgentView {
                slot,
                site: format!("site{}", slot - 1),
                fast_path: SocketAddr::from(([192, 0, 2, slot as u8], 8_531)),
                sessions: vec![binding(u64::from(slot))],
                readiness: Readiness::AtInstant,
                services: vec![asked()],
                playbook: 70 + u64::from(slot),
                forward_delay: Some(ForwardDelay { p99: forward, greatest: forward, samples: 100 }),
                round_trip: Some(forward + forward),
                expected_error: Span::from_micros(500),
            });
        }
        shard.handle_wall_clock(now, 1_800_000_000_000_000_000);
        shard.handle_validated(now, client().ip());
        let sealers = [1, 2].map(|slot| Sealer::new(&binding(slot), Direction::AgentToMaster, 0));
        Master { shard, now, sealers, replies: 0 }
    }

    fn step(&mut self, how: u8, passes: Span, body: &[u8]) {
        self.now = self.now + passes;
        let from = SocketAddr::from(([192, 0, 2, 1], 8_531));
        match how {
            agent @ 0..=1 => {
                let datagram = seal(&mut self.sealers[usize::from(agent)], body);
                self.shard.handle_fast(self.now, self.now, from, &datagram);
            }
            2 => self.shard.handle_fast(self.now, self.now, from, body),
            _ => {
                let arrival = Arrival { service: 0, source: client(), received_at: self.now, bytes: body };
                self.shard.handle_arrival(self.now, arrival);
            }
        }
        if self.shard.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
            self.shard.handle_timeout(self.now);
        }
        self.drain(body);
    }

    fn drain(&mut self, body: &[u8]) {
        for _ in 0..OUTPUTS {
            match self.shard.poll_output() {
                None => return,
                Some(ShardOutput::Reply { service, to, bytes }) => {
                    self.replies += 1;
                    assert_eq!((service, to), (0, client()));
                    if let Verdict::Query(query) = Query::parse(body)
                        && bytes[..2] == body[..2]
                    {
                        answers::check(&query, &bytes, answers::udp_limit(&query));
                    }
                    self.shard.recycle(bytes);
                }
                Some(ShardOutput::Fast { bytes, exchange, .. }) => {
                    assert!(bytes.len() <= MAX_DATAGRAM, "{} bytes", bytes.len());
                    if let Some((session, exchange)) = exchange {
                        self.shard.handle_transmit_stamp(session, exchange, self.now);
                    }
                    self.shard.recycle(bytes);
                }
            }
        }
        panic!("more than {OUTPUTS} outputs of a shard at once");
    }
}

fn client() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 4_242))
}
