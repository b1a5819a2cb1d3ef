//! The shard under test; its orders are opened with the agents' keys.

use crate::control::ForwardDelay;
use crate::dns::Answers;
use crate::dns::answer::tests::query_bytes;
use crate::dns::cookie::CookieSecrets;
use crate::dns::zone::tests::zones;
use crate::master::{
    AgentView, Arrival, Delay, Output, RaceConfig, Readiness, Service, Shard, ShardConfig, SharedService, Slot, Stamp,
    Transmit,
};
use crate::playbook::LatePolicy;
use crate::time::{Epoch, LocalTime, RaceTime, Span};
use crate::wire::session::SECRET_BYTES;
use crate::wire::{
    Binding, Direction, Frame, MAX_DATAGRAM, Opener, Order, Receipt, ReceiptOutcome, Sealer, SessionId,
    TransmitIdentifier, frame::frames,
};
use domain::base::Rtype;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub(super) const SHARD: u8 = 1;
pub(super) const EPOCH: Epoch = Epoch(3);
pub(super) const DELAY: Span = Span::from_millis(100);
pub(super) const FALLBACK_AFTER: Span = Span::from_millis(250);

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], port))
}

/// `www.cdn.test` answers A from every site, `*.cdn.test` only AAAA.
pub(super) fn service(delay: Delay) -> SharedService {
    let four = |octet| Answers { a: vec![Ipv4Addr::new(192, 0, 2, octet)], ..Answers::default() };
    let six = |group| Answers { aaaa: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, group)], ..Answers::default() };
    let race = |name: &str, sites: Vec<Answers>, fallback| RaceConfig {
        name: name.parse().expect("a name"),
        ttl_s: 30,
        delay,
        transmit: Transmit::At,
        late: LatePolicy::Drop,
        late_tolerance: Span::from_millis(2),
        sites: sites.into_iter().enumerate().map(|(site, addresses)| (format!("site{site}"), addresses)).collect(),
        fallback,
    };
    let races = vec![
        race("www.cdn.test", (0..3).map(four).collect(), four(99)),
        race("*.cdn.test", (0..3).map(six).collect(), six(99)),
    ];
    Arc::new(Service::new("m0".into(), zones(), races).expect("names"))
}

pub(super) fn config() -> ShardConfig {
    ShardConfig {
        shard: SHARD,
        epoch: EPOCH,
        service: service(Delay::Fixed(DELAY)),
        service_addresses: vec![address("198.51.100.1:53")],
        stamp: Stamp::Receipt,
        seed: 7,
        validated_for: Span::from_secs(3_600),
        fallback_after: FALLBACK_AFTER,
        max_total_delay: Span::from_millis(300),
        races_per_source_per_s: 1_000_000,
        responses_per_prefix_per_s: 0,
        slip: 2,
        cookies: CookieSecrets::default(),
        even_delay: Vec::new(),
        sync_signal_interval: Span::from_secs(1),
    }
}

pub(super) fn binding(id: SessionId) -> Binding {
    Binding { id, secret: [id as u8; SECRET_BYTES], master: "m0".into(), epoch: EPOCH }
}

/// An agent whose session has its slot's number.
pub(super) fn view(slot: Slot, forward: Span) -> AgentView {
    AgentView {
        slot,
        site: format!("site{}", slot - 1),
        fast_path: SocketAddr::from(([192, 0, 2, slot as u8], 5_400)),
        sessions: vec![binding(u64::from(slot))],
        readiness: Readiness::AtInstant,
        services: vec![address("198.51.100.1:53")],
        playbook: 70 + u64::from(slot),
        forward_delay: Some(ForwardDelay { p99: forward, greatest: forward + Span::from_millis(4), samples: 100 }),
        round_trip: Some(forward + forward),
        expected_error: Span::from_micros(500),
    }
}

/// What an order said, without its borrow.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ordered {
    pub(super) to: SocketAddr,
    pub(super) race: u64,
    pub(super) revision: u8,
    /// T; zero for an order by something else.
    pub(super) at: RaceTime,
    pub(super) transmit: TransmitIdentifier,
    pub(super) sent: RaceTime,
    pub(super) playbook: u64,
    pub(super) client: SocketAddr,
    pub(super) id: u16,
}

pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) now: LocalTime,
    pub(super) openers: BTreeMap<SessionId, Opener>,
    pub(super) sealers: BTreeMap<SessionId, Sealer>,
}

#[derive(Default)]
pub(super) struct Heard {
    pub(super) orders: Vec<Ordered>,
    pub(super) replies: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) datagrams: Vec<Vec<u8>>,
    pub(super) sync_replies: Vec<(u32, RaceTime, RaceTime, (u32, RaceTime))>,
    pub(super) sync_signals: usize,
    pub(super) signals: Vec<u64>,
    /// Of the orders.
    pub(super) cookies: Vec<Option<[u8; 16]>>,
}

impl Heard {
    fn note(&mut self, to: SocketAddr, order: &Order<'_>) {
        self.cookies.push(order.cookie);
        self.orders.push(Ordered {
            to,
            race: order.race,
            revision: order.revision,
            at: match order.transmit {
                TransmitIdentifier::At(at) => at,
                TransmitIdentifier::After(_) | TransmitIdentifier::On(_) => RaceTime::from_nanos(0),
            },
            transmit: order.transmit,
            sent: order.sent,
            playbook: order.playbook,
            client: order.client,
            id: u16::from_be_bytes([order.query[0], order.query[1]]),
        });
    }
}

impl Bench {
    /// Three agents at 20 ms, the client validated.
    pub(super) fn new(config: ShardConfig) -> Self {
        let now = LocalTime::from_nanos(50_000_000_000);
        let mut bench =
            Bench { shard: Shard::new(config, now), now, openers: BTreeMap::new(), sealers: BTreeMap::new() };
        for slot in 1..=3 {
            bench.shard.handle_agent(view(slot, Span::from_millis(20)));
            bench.know(u64::from(slot));
        }
        bench.shard.handle_validated(now, client(1).ip());
        bench
    }

    /// The agents' ends of a session.
    pub(super) fn know(&mut self, id: SessionId) {
        self.openers.insert(id, Opener::new(&binding(id), Direction::MasterToAgent, SHARD));
        self.sealers.insert(id, Sealer::new(&binding(id), Direction::AgentToMaster, SHARD));
    }

    pub(super) fn ask(&mut self, port: u16, bytes: Vec<u8>) -> Heard {
        self.take(client(port), self.now, &bytes);
        self.heard()
    }

    /// A query that was received at `received_at` is taken.
    pub(super) fn take(&mut self, source: SocketAddr, received_at: LocalTime, bytes: &[u8]) {
        self.shard.handle_arrival(self.now, Arrival { service: 0, source, received_at, bytes });
    }

    pub(super) fn wait(&mut self, span: Span) -> Heard {
        self.now = self.now + span;
        self.shard.handle_timeout(self.now);
        self.heard()
    }

    pub(super) fn heard(&mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some(output) = self.shard.poll_output() {
            let (to, bytes) = match output {
                Output::Reply { to, bytes, .. } => {
                    heard.replies.push((to, bytes));
                    continue;
                }
                Output::Fast { to, bytes, .. } => (to, bytes),
            };
            assert!(bytes.len() <= MAX_DATAGRAM);
            let (id, _) = crate::wire::session::header(&bytes).expect("sealed");
            let mut plain = Vec::new();
            let opener = self.openers.get_mut(&id).expect("a session that the agent knows");
            opener.open(&bytes, &mut plain).expect("a counter that was not used before");
            for frame in frames(&plain) {
                match frame.expect("well-formed") {
                    Frame::Order(order) => heard.note(to, &order),
                    Frame::SyncReply { exchange, received, replied, previous } => {
                        heard.sync_replies.push((exchange, received, replied, previous));
                    }
                    Frame::SyncSignal { .. } => heard.sync_signals += 1,
                    Frame::Signal { id } => heard.signals.push(id),
                    other => panic!("{other:?} from a master"),
                }
            }
            heard.datagrams.push(bytes);
        }
        heard
    }

    /// An agent says something.
    pub(super) fn say(&mut self, id: SessionId, frame: Frame<'_>) -> Heard {
        let (mut plain, mut bytes) = (Vec::new(), Vec::new());
        frame.encode(&mut plain);
        self.sealers.get_mut(&id).expect("known").seal(&plain, &mut bytes);
        self.fast(&bytes)
    }

    pub(super) fn fast(&mut self, bytes: &[u8]) -> Heard {
        self.shard.handle_fast(self.now, self.now, address("192.0.2.1:5400"), bytes);
        self.heard()
    }

    pub(super) fn receipt(&mut self, id: SessionId, ordered: &Ordered, outcome: ReceiptOutcome) -> Heard {
        let receipt = Receipt { race: ordered.race, revision: ordered.revision, outcome, lateness: Span::ZERO };
        self.say(id, Frame::Receipt(receipt))
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        self.shard.counters().get(name).copied().unwrap_or(0)
    }
}

pub(super) fn www(id: u16) -> Vec<u8> {
    with_id(query_bytes("www.cdn.test", Rtype::A, Some(1232)), id)
}

pub(super) fn with_id(mut bytes: Vec<u8>, id: u16) -> Vec<u8> {
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes
}
