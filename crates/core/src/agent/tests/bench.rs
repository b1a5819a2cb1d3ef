//! The agent under test, and the hands that play its master.

use super::super::*;
use crate::control::StandDown;
use crate::dns::Answers;
use crate::dns::answer::tests::query_bytes;
use crate::playbook::{Playbook, PlaybookRace};
use crate::time::Epoch;
use crate::wire::{Binding, Direction, Opener, Sealer, frame::frames};
use domain::base::Rtype;
use std::net::Ipv4Addr;

/// Race time − local time, truly.
pub(super) const OFFSET: Span = Span::from_secs(500);
/// One way, both ways.
pub(super) const WAY: Span = Span::from_millis(10);
pub(super) const EPOCH: Epoch = Epoch(7);
pub(super) const SHARDS: u8 = 2;
pub(super) const TOLERANCE: Span = Span::from_millis(2);

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn service() -> SocketAddr {
    address("198.51.100.1:53")
}

pub(super) fn client() -> SocketAddr {
    address("203.0.113.9:4242")
}

pub(super) fn binding(master: &str, id: SessionId) -> Binding {
    Binding { id, secret: [id as u8; SECRET_BYTES], master: master.into(), epoch: EPOCH }
}

/// `www.cdn.test` (A only, late answers are dropped) and `*.send.cdn.test` (late answers are sent).
pub(super) fn playbook(last_octet: u8) -> Playbook {
    let race = |name: &str, late| PlaybookRace {
        name: name.into(),
        ttl_s: 30,
        late,
        late_tolerance: TOLERANCE,
        answers: Answers { a: vec![Ipv4Addr::new(192, 0, 2, last_octet)], ..Answers::default() },
        signatures: vec![],
    };
    Playbook { races: vec![race("www.cdn.test.", LatePolicy::Drop), race("*.send.cdn.test.", LatePolicy::Send)] }
}

pub(super) fn config() -> AgentConfig {
    let master = |name: &str, services: Vec<SocketAddr>| MasterConfig {
        name: name.into(),
        services,
        clock: ClockConfig::default(),
    };
    AgentConfig {
        site: "tokyo".into(),
        masters: vec![
            master("m0", vec![service(), address("198.51.100.2:53")]),
            master("m1", vec![address("198.51.100.99:53")]),
        ],
        max_expected_error: Span::from_millis(3),
        max_bound: Span::from_millis(250),
        on_bad_clock: OnBadClock::StandDown,
        max_lateness: Span::from_millis(2),
        exchange_interval: Span::from_millis(250),
        horizon: Span::from_secs(1),
        mesh: None,
        limits: Limits::default(),
    }
}

/// An agent, and the hands that play master 0.
pub(super) struct Bench {
    pub(super) agent: Agent,
    pub(super) now: LocalTime,
    pub(super) binding: Binding,
    pub(super) sealers: Vec<Sealer>,
    pub(super) openers: Vec<Opener>,
    pub(super) race: u64,
}

impl Bench {
    /// Just made: no connection.
    pub(super) fn fresh(config: AgentConfig) -> Self {
        let now = LocalTime::from_nanos(3_000_000_000);
        let binding = binding("m0", 1);
        let (sealers, openers) = keys(&binding);
        Bench { agent: Agent::new(config, now), now, binding, sealers, openers, race: 100 }
    }

    pub(super) fn ready_with(config: AgentConfig) -> Self {
        let mut bench = Bench::fresh(config);
        bench.welcome(EPOCH);
        bench.begin_session(1);
        bench.hear(ToAgent::Playbook(playbook(1)));
        bench.hear(ToAgent::Tested { service: service(), passed: true });
        bench.exchanges(8);
        assert_eq!(bench.stand_down(), None);
        bench
    }

    pub(super) fn ready() -> Self {
        Bench::ready_with(config())
    }

    pub(super) fn welcome(&mut self, epoch: Epoch) {
        let fast_path = address("203.0.113.1:5300");
        self.hear(ToAgent::Welcome { protocol: 1, master: "m0".into(), epoch, shards: SHARDS, fast_path });
    }

    /// Master and agent have a new session.
    pub(super) fn begin_session(&mut self, id: SessionId) {
        self.binding = Binding { epoch: self.binding.epoch, ..binding("m0", id) };
        (self.sealers, self.openers) = keys(&self.binding);
        self.agent.handle_session(self.now, 0, id, self.binding.secret);
        let kept = Output::Control { master: 0, message: ToMaster::SessionKept { id } };
        assert!(self.drain().contains(&kept));
    }

    pub(super) fn hear(&mut self, message: ToAgent) -> Vec<Output> {
        self.agent.handle_control(self.now, 0, message);
        self.drain()
    }

    pub(super) fn drain(&mut self) -> Vec<Output> {
        // Receipts wait for others for a while; here they are looked at one by one.
        self.agent.send_receipts(self.now);
        core::iter::from_fn(|| self.agent.poll_output()).collect()
    }

    pub(super) fn wait(&mut self, span: Span) -> Vec<Output> {
        self.now = self.now + span;
        self.agent.handle_timeout(self.now);
        self.drain()
    }

    pub(super) fn race_now(&self) -> RaceTime {
        RaceTime::from_nanos((self.now - LocalTime::from_nanos(0) + OFFSET).as_nanos())
    }

    /// So many exchanges, each asked for by the agent and answered after one way.
    pub(super) fn exchanges(&mut self, count: usize) {
        let mut done = 0;
        for _ in 0..count * 40 {
            let outputs = self.wait(Span::from_millis(10));
            let Some(exchange) = self.requests(&outputs).pop() else {
                continue;
            };
            let received = self.race_now() + WAY;
            self.now = self.now + WAY + WAY;
            self.seal(0, &[Frame::SyncReply { exchange, received, replied: received, previous: (0, received) }]);
            done += 1;
            if done == count {
                return;
            }
        }
        panic!("{done} of {count} exchanges");
    }

    pub(super) fn requests(&mut self, outputs: &[Output]) -> Vec<u32> {
        let frames = self.heard(outputs);
        frames
            .iter()
            .filter_map(|(_, frame)| if let Heard::Request(exchange) = frame { Some(*exchange) } else { None })
            .collect()
    }

    pub(super) fn receipts(&mut self, outputs: &[Output]) -> Vec<Receipt> {
        let frames = self.heard(outputs);
        frames
            .iter()
            .filter_map(|(_, frame)| if let Heard::Receipt(receipt) = frame { Some(*receipt) } else { None })
            .collect()
    }

    /// What the agent sent to the master on the fast path, with the shard that each frame is for.
    pub(super) fn heard(&mut self, outputs: &[Output]) -> Vec<(u8, Heard)> {
        let mut heard = Vec::new();
        for output in outputs {
            let Output::Send { to, bytes, .. } = output else {
                continue;
            };
            assert_eq!(*to, address("203.0.113.1:5300"));
            let (_, shard) = crate::wire::session::header(bytes).expect("sealed");
            let mut plain = Vec::new();
            self.openers[usize::from(shard)].open(bytes, &mut plain).expect("opens");
            heard.extend(frames(&plain).map(|frame| match frame.expect("well-formed") {
                Frame::SyncRequest { exchange } => (shard, Heard::Request(exchange)),
                Frame::Receipt(receipt) => (shard, Heard::Receipt(receipt)),
                other => panic!("{other:?} from an agent"),
            }));
        }
        heard
    }

    pub(super) fn datagram(&mut self, shard: u8, sent: &[Frame<'_>]) -> Vec<u8> {
        let mut plain = Vec::new();
        sent.iter().for_each(|frame| frame.encode(&mut plain));
        let mut bytes = Vec::new();
        self.sealers[usize::from(shard)].seal(&plain, &mut bytes);
        bytes
    }

    pub(super) fn seal(&mut self, shard: u8, sent: &[Frame<'_>]) -> Vec<Output> {
        let bytes = self.datagram(shard, sent);
        self.give(&bytes)
    }

    pub(super) fn give(&mut self, bytes: &[u8]) -> Vec<Output> {
        self.agent.handle_datagram(self.now, self.now, bytes);
        self.drain()
    }

    /// A good order of a new race, 100 ms ahead.
    pub(super) fn order<'a>(&mut self, query: &'a [u8]) -> Order<'a> {
        self.race += 1;
        Order {
            race: self.race,
            revision: 0,
            transmit: TransmitIdentifier::At(self.race_now() + Span::from_millis(100)),
            sent: self.race_now() - WAY,
            playbook: playbook(1).version(),
            name: 0,
            service: service(),
            client: client(),
            query,
            cookie: None,
            proof: &[],
            proof_count: 0,
        }
    }

    pub(super) fn give_order(&mut self, order: &Order<'_>) -> Vec<Output> {
        self.seal(0, &[Frame::Order(order.clone())])
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        self.agent.counters().get(name).copied().unwrap_or(0)
    }

    pub(super) fn stand_down(&self) -> Option<StandDown> {
        self.agent.report(self.now, 0).stand_down
    }
}

#[derive(Debug)]
pub(super) enum Heard {
    Request(u32),
    Receipt(Receipt),
}

/// The master's ends of a session, one per shard.
pub(super) fn keys(binding: &Binding) -> (Vec<Sealer>, Vec<Opener>) {
    let sealer = |shard| Sealer::new(binding, Direction::MasterToAgent, shard);
    let opener = |shard| Opener::new(binding, Direction::AgentToMaster, shard);
    ((0..SHARDS).map(sealer).collect(), (0..SHARDS).map(opener).collect())
}

pub(super) fn www() -> Vec<u8> {
    query_bytes("wWw.cdn.test", Rtype::A, Some(1232))
}

pub(super) fn departures(outputs: &[Output]) -> Vec<Departure> {
    outputs
        .iter()
        .filter_map(|output| if let Output::Depart(departure) = output { Some(departure.clone()) } else { None })
        .collect()
}

pub(super) fn sole(outputs: &[Output]) -> Departure {
    let mut departures = departures(outputs);
    assert_eq!(departures.len(), 1, "{outputs:?}");
    departures.remove(0)
}
