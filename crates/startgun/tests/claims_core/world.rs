//! One master's shard, its agents, a client, and between them a network whose delays are exact.
//!
//! True time is the master's clock. Every agent has a clock of its own, seconds off and drifting; every datagram from the
//! master is opened by a tap with the agent's keys before the agent gets it.

use startgun_core::agent::{Agent, AgentConfig, Departure, DepartureOutcome, Limits, MasterConfig, OnBadClock, Output};
use startgun_core::clock::ClockConfig;
use startgun_core::control::{ForwardDelay, ToAgent};
use startgun_core::dns::cookie::CookieSecrets;
use startgun_core::dns::{Answers, CanonicalName, RacedName, Record, ZoneSet};
use startgun_core::master::{
    AgentView, Arrival, Delay, Output as MasterOutput, RaceConfig, Readiness, Service, Shard, ShardConfig, Stamp,
    Transmit,
};
use startgun_core::playbook::{LatePolicy, Playbook};
use startgun_core::time::{Epoch, LocalTime, RaceTime, Span};
use startgun_core::wire::frame::frames;
use startgun_core::wire::session::SECRET_BYTES;
use startgun_core::wire::{Binding, Direction, Frame, Opener, Receipt, TransmitIdentifier};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// One way between the master and each agent, in milliseconds; the same both ways.
pub const WAYS_MS: [i64; 3] = [5, 20, 40];
/// From a datagram's arrival until a machine is told of it.
pub const HANDLING: Span = Span::from_micros(100);
/// How wrong the agents' clocks are: offset, and drift in parts per billion.
const CLOCKS: [(Span, i64); 3] =
    [(Span::from_secs(3), 30_000), (Span::from_secs(-7), -45_000), (Span::from_millis(123_456), 5_000)];
const EPOCH: Epoch = Epoch(7);

/// What is to be raced, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    pub agents: usize,
    pub delay: Delay,
    pub stamp: Stamp,
    pub transmit: Transmit,
    pub late: LatePolicy,
    pub late_tolerance: Span,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            agents: WAYS_MS.len(),
            delay: Delay::Fixed(Span::from_millis(100)),
            stamp: Stamp::Receipt,
            transmit: Transmit::At,
            late: LatePolicy::Drop,
            late_tolerance: Span::from_millis(2),
        }
    }
}

/// What the client asks and the agents answer from.
pub fn service_address() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 1], 53))
}

/// Who asks.
pub fn client() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 4_242))
}

fn fast_path(site: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 101 + site as u8], 8_532))
}

/// What a site answers.
pub fn site_address(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + site as u8)
}

/// The keys of an agent's session.
pub fn binding(site: usize) -> Binding {
    Binding { id: 1 + site as u64, secret: [1 + site as u8; SECRET_BYTES], master: "m1".into(), epoch: EPOCH }
}

fn service(plan: &Plan) -> Service {
    let apex: CanonicalName = "cdn.test.".parse().expect("a name");
    let mut soa = b"\x02ns\x03cdn\x04test\0\x04host\x03cdn\x04test\0".to_vec();
    [1u32, 3_600, 600, 86_400, 60].iter().for_each(|value| soa.extend(value.to_be_bytes()));
    let record = Record { owner: Clone::clone(&apex), rtype: domain::base::Rtype::SOA, ttl_s: 60, data: soa.into() };
    let name: CanonicalName = "www.cdn.test.".parse().expect("a name");
    let races = [RacedName { name: Clone::clone(&name), index: 0, types: vec![], is_referral: false }];
    let zones = ZoneSet::build([(apex, vec![record])], &races).expect("a zone");
    let addresses = |a: Ipv4Addr| Answers { a: vec![a], ..Answers::default() };
    let race = RaceConfig {
        name,
        ttl_s: 30,
        delay: plan.delay,
        transmit: plan.transmit.clone(),
        late: plan.late,
        late_tolerance: plan.late_tolerance,
        sites: (0..plan.agents).map(|site| (format!("site{site}"), addresses(site_address(site)))).collect(),
        fallback: addresses(Ipv4Addr::new(192, 0, 2, 99)),
    };
    Service::new("m1".into(), zones, vec![race]).expect("names")
}

/// What a site plays.
pub fn playbook(site: usize, plan: &Plan) -> Playbook {
    service(plan).playbook(&format!("site{site}"))
}

/// One agent, its clock, and the tap on its line.
pub struct Site {
    pub agent: Agent,
    offset: Span,
    drift_ppb: i64,
    way: Span,
    tap: Opener,
    receipts: Opener,
}

impl Site {
    /// What its own clock shows at a true instant.
    pub fn local(&self, truly: LocalTime) -> LocalTime {
        let drifted = i128::from(truly.as_nanos()) * i128::from(self.drift_ppb) / 1_000_000_000;
        truly + self.offset + Span::from_nanos(drifted as i64)
    }

    /// The true instant at which its own clock shows `local`, or a nanosecond later.
    pub fn truly(&self, local: LocalTime) -> LocalTime {
        let undrifted = i128::from((local - self.offset).as_nanos()) * 1_000_000_000;
        LocalTime::from_nanos((undrifted / i128::from(1_000_000_000 + self.drift_ppb)) as i64 + 1)
    }

    /// The statistical error that it states.
    pub fn expected_error(&self, truly: LocalTime) -> Span {
        let clock = self.agent.report(self.local(truly), 0).clock;
        clock.and_then(|clock| clock.expected_error).expect("a clock that is set")
    }
}

/// What the tap heard.
#[derive(Clone, Debug)]
pub enum Heard {
    Order(Ordered),
    SyncReply { received: RaceTime, replied: RaceTime },
    SyncSignal,
    Signal(u64),
}

/// An order, without its borrow.
#[derive(Clone, Debug)]
pub struct Ordered {
    pub site: usize,
    pub sent_at: LocalTime,
    pub race: u64,
    pub at: Option<RaceTime>,
    pub signal: Option<u64>,
    pub client: SocketAddr,
    pub query: Vec<u8>,
}

/// A frame that left the master.
#[derive(Clone, Debug)]
pub struct Sent {
    pub site: usize,
    pub at: LocalTime,
    pub heard: Heard,
}

/// An answer that left an agent, in true time.
#[derive(Clone, Debug)]
pub struct Left {
    pub site: usize,
    pub at: LocalTime,
}

enum Event {
    ToAgent(usize, LocalTime, Vec<u8>),
    ToMaster(usize, LocalTime, Vec<u8>),
    Depart(usize, Departure),
}

/// Everything, and what became of it so far.
pub struct World {
    pub now: LocalTime,
    pub shard: Shard,
    queue: VecDeque<(LocalTime, Vec<u8>)>,
    pub sites: Vec<Site>,
    pub sent: Vec<Sent>,
    pub departures: Vec<Left>,
    pub receipts: Vec<Receipt>,
    pub replies: Vec<Vec<u8>>,
    datagrams: Vec<(usize, Vec<u8>)>,
    events: BTreeMap<(LocalTime, u64), Event>,
    next_event: u64,
    plan: Plan,
}

impl World {
    /// Agents with sessions and playbooks whose clocks are not set.
    pub fn unset(plan: Plan, clock: ClockConfig) -> Self {
        let now = LocalTime::from_nanos(1_000_000_000_000);
        let shard = ShardConfig {
            shard: 0,
            epoch: EPOCH,
            service: Arc::new(service(&plan)),
            service_addresses: vec![service_address()],
            stamp: plan.stamp,
            seed: 16,
            validated_for: Span::from_secs(3_600),
            fallback_after: Span::from_millis(250),
            max_total_delay: Span::from_millis(300),
            races_per_source_per_s: 1_000,
            responses_per_prefix_per_s: 0,
            slip: 2,
            cookies: CookieSecrets::default(),
            even_delay: Vec::new(),
            sync_signal_interval: Span::from_secs(3_600),
        };
        let mut world = World {
            now,
            shard: Shard::new(shard, now),
            queue: VecDeque::new(),
            sites: (0..plan.agents).map(|site| make_site(site, now, clock, &plan)).collect(),
            sent: Vec::new(),
            departures: Vec::new(),
            receipts: Vec::new(),
            replies: Vec::new(),
            datagrams: Vec::new(),
            events: BTreeMap::new(),
            next_event: 0,
            plan,
        };
        world.shard.handle_validated(now, client().ip());
        world
    }

    /// Agents that race: clocks set by exchanges with the master, forward delays measured.
    pub fn ready(plan: Plan) -> Self {
        let mut world = World::unset(plan, ClockConfig::default());
        for site in 0..world.sites.len() {
            world.publish(site, Span::ZERO);
        }
        world.run_for(Span::from_secs(8));
        for site in 0..world.sites.len() {
            let report = world.sites[site].agent.report(world.sites[site].local(world.now), 0);
            assert_eq!(report.stand_down, None, "site {site}");
            let measured = report.forward_delay.expect("measured").greatest;
            assert!((measured - world.sites[site].way).abs() <= Span::from_micros(60), "site {site}: {measured}");
            world.publish(site, measured);
        }
        world
    }

    /// Tells the shard of an agent with this forward delay.
    pub fn publish(&mut self, site: usize, forward: Span) {
        let local = self.sites[site].local(self.now);
        let clock = self.sites[site].agent.report(local, 0).clock;
        self.shard.handle_agent(AgentView {
            slot: 1 + site as u32,
            site: format!("site{site}"),
            fast_path: fast_path(site),
            sessions: vec![binding(site)],
            readiness: Readiness::AtInstant,
            services: vec![service_address()],
            playbook: playbook(site, &self.plan).version(),
            forward_delay: Some(ForwardDelay { p99: forward, greatest: forward, samples: 100 }),
            round_trip: None,
            expected_error: clock.and_then(|clock| clock.expected_error).unwrap_or(Span::ZERO),
        });
    }

    /// A query arrives and waits in the queue; when.
    pub fn arrive(&mut self, query: &[u8]) -> LocalTime {
        self.queue.push_back((self.now, query.to_vec()));
        self.now
    }

    /// The shard takes what waits in its queue.
    pub fn take_from_queue(&mut self) {
        while let Some((received_at, bytes)) = self.queue.pop_front() {
            let arrival = Arrival { service: 0, source: client(), received_at, bytes: &bytes };
            self.shard.handle_arrival(self.now, arrival);
        }
        self.drain_shard();
    }

    /// A query arrives and is taken at once; when.
    pub fn ask(&mut self, query: &[u8]) -> LocalTime {
        let at = self.arrive(query);
        self.take_from_queue();
        at
    }

    /// Every order that has left the master, in the order of leaving.
    pub fn orders(&self) -> Vec<&Ordered> {
        let orders =
            self.sent.iter().filter_map(|sent| if let Heard::Order(order) = &sent.heard { Some(order) } else { None });
        orders.collect()
    }

    /// The datagrams that have left the master since the last call and are still under way, taken off the network.
    pub fn take_datagrams(&mut self) -> Vec<(usize, Vec<u8>)> {
        let now = self.now;
        self.events.retain(|(at, _), event| *at <= now || !matches!(event, Event::ToAgent(..)));
        std::mem::take(&mut self.datagrams)
    }

    /// Lets time pass; everything that is due happens at its time.
    pub fn run_for(&mut self, span: Span) {
        let end = self.now + span;
        self.drain_sites();
        self.drain_shard();
        loop {
            let event = self.events.first_key_value().map_or(LocalTime::MAX, |((at, _), _)| *at);
            let shard = self.shard.poll_timeout().map_or(LocalTime::MAX, |(at, _)| at);
            let agent = |site: &Site| site.agent.poll_timeout().map_or(LocalTime::MAX, |(at, _)| site.truly(at));
            let agents = self.sites.iter().map(agent).min().unwrap_or(LocalTime::MAX);
            let next = event.min(shard).min(agents).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if event <= next
                && let Some((_, event)) = self.events.pop_first()
            {
                self.happen(event);
            }
            self.shard.handle_timeout(self.now);
            for site in &mut self.sites {
                site.agent.handle_timeout(site.local(self.now));
            }
            self.drain_sites();
            self.drain_shard();
        }
        self.now = end;
        // Datagrams of the past are nobody's evidence any more.
        self.datagrams.clear();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToAgent(site, received, bytes) => {
                let site = &mut self.sites[site];
                let (now, received) = (site.local(self.now), site.local(received));
                site.agent.handle_datagram(now, received, &bytes);
            }
            Event::ToMaster(site, received, bytes) => {
                let mut plain = Vec::new();
                // A session that a test has taken over is not the tap's.
                if self.sites[site].receipts.open(&bytes, &mut plain).is_ok() {
                    let receipts = frames(&plain).filter_map(|frame| match frame {
                        Ok(Frame::Receipt(receipt)) => Some(receipt),
                        _ => None,
                    });
                    self.receipts.extend(receipts);
                }
                self.shard.handle_fast(self.now, received, fast_path(site), &bytes);
            }
            Event::Depart(index, departure) => {
                let site = &mut self.sites[index];
                let now = site.local(self.now);
                let late = departure.latest.is_some_and(|latest| now > latest + Span::from_nanos(2));
                let outcome = if late {
                    DepartureOutcome::Late { at: now }
                } else {
                    self.departures.push(Left { site: index, at: self.now });
                    DepartureOutcome::Departed { at: now, kernel_stamped: true }
                };
                site.agent.handle_departed(now, departure.key, outcome);
            }
        }
    }

    fn schedule(&mut self, at: LocalTime, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now), self.next_event), event);
    }

    fn drain_sites(&mut self) {
        for index in 0..self.sites.len() {
            while let Some(output) = self.sites[index].agent.poll_output() {
                match output {
                    Output::Send { bytes, exchange, .. } => {
                        let site = &mut self.sites[index];
                        if let Some(stamped) = exchange {
                            site.agent.handle_transmit_stamp(stamped, site.local(self.now));
                        }
                        let received = self.now + site.way;
                        self.schedule(received + HANDLING, Event::ToMaster(index, received, bytes));
                    }
                    Output::Depart(departure) => {
                        let at = self.sites[index].truly(departure.at);
                        self.schedule(at, Event::Depart(index, departure));
                    }
                    Output::Withdraw(key) => panic!("{key} is withdrawn: no clock steps here"),
                    Output::Challenge { .. } | Output::Control { .. } | Output::Audit(_) => {}
                }
            }
        }
    }

    fn drain_shard(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            let (to, bytes, exchange) = match output {
                MasterOutput::Reply { bytes, .. } => {
                    self.replies.push(bytes);
                    continue;
                }
                MasterOutput::Fast { to, bytes, exchange } => (to, bytes, exchange),
            };
            if let Some((session, exchange)) = exchange {
                self.shard.handle_transmit_stamp(session, exchange, self.now);
            }
            let index = (0..self.sites.len()).find(|site| fast_path(*site) == to).expect("an agent's address");
            self.listen(index, &bytes);
            let received = self.now + self.sites[index].way;
            self.datagrams.push((index, bytes.clone()));
            self.schedule(received + HANDLING, Event::ToAgent(index, received, bytes));
        }
    }

    fn listen(&mut self, site: usize, bytes: &[u8]) {
        let mut plain = Vec::new();
        self.sites[site].tap.open(bytes, &mut plain).expect("sealed for this agent, with a counter of its own");
        for frame in frames(&plain) {
            let heard = match frame.expect("well-formed") {
                Frame::Order(order) => Heard::Order(Ordered {
                    site,
                    sent_at: self.now,
                    race: order.race,
                    at: if let TransmitIdentifier::At(at) = order.transmit { Some(at) } else { None },
                    signal: if let TransmitIdentifier::On(id) = order.transmit { Some(id) } else { None },
                    client: order.client,
                    query: order.query.to_vec(),
                }),
                Frame::SyncReply { received, replied, .. } => Heard::SyncReply { received, replied },
                Frame::SyncSignal { .. } => Heard::SyncSignal,
                Frame::Signal { id } => Heard::Signal(id),
                other => panic!("{other:?} from a master"),
            };
            self.sent.push(Sent { site, at: self.now, heard });
        }
    }
}

fn make_site(index: usize, now: LocalTime, clock: ClockConfig, plan: &Plan) -> Site {
    let (offset, drift_ppb) = CLOCKS[index];
    let config = AgentConfig {
        site: format!("site{index}"),
        masters: vec![MasterConfig { name: "m1".into(), services: vec![service_address()], clock }],
        max_expected_error: Span::from_millis(3),
        max_bound: Span::from_millis(250),
        on_bad_clock: OnBadClock::StandDown,
        max_lateness: Span::from_millis(2),
        exchange_interval: Span::from_millis(250),
        horizon: Span::from_secs(1),
        limits: Limits::default(),
        mesh: None,
    };
    let keys = binding(index);
    let mut site = Site {
        agent: Agent::new(config.clone(), now),
        offset,
        drift_ppb,
        way: Span::from_millis(WAYS_MS[index]),
        tap: Opener::new(&keys, Direction::MasterToAgent, 0),
        receipts: Opener::new(&keys, Direction::AgentToMaster, 0),
    };
    let local = site.local(now);
    site.agent = Agent::new(config, local);
    let fast_path = SocketAddr::from(([198, 51, 100, 1], 8_531));
    let welcome = ToAgent::Welcome { protocol: 1, master: "m1".into(), epoch: EPOCH, shards: 1, fast_path };
    site.agent.handle_control(local, 0, welcome);
    site.agent.handle_session(local, 0, keys.id, keys.secret);
    site.agent.handle_control(local, 0, ToAgent::Playbook(playbook(index, plan)));
    site.agent.handle_control(local, 0, ToAgent::Tested { service: service_address(), passed: true });
    site
}
