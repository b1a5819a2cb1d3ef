//! What is to happen in one world: drawn from a seed, and from then on plain data, so that parts of it can be left out.

use startgun_core::agent::{Limits, OnBadClock};
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;

use crate::random::Random;
use crate::{AgentOptions, Disturbance, Group, Host, HostClock, MasterOptions, Options, Path};

/// How long faults begin for, after the warm-up. With about 20 queries a second a world sees some 200 races.
pub(super) const FAULTS_FOR: Span = Span::from_secs(8);
/// Longest fault.
const LONGEST_FAULT: Span = Span::from_secs(3);
/// When the last fault is over.
pub(super) const LIFTED_AT: Span = Span::from_secs(8 + 3);
/// Mean time between two queries.
const ASK_EVERY: Span = Span::from_millis(45);
/// Fewest and most faults of a plan.
const FAULTS: (u64, u64) = (6, 24);
/// Clients repeat a query after 40 ms, which amends most races several times, to 250 ms, the end of a race after T.
const QUICKEST_RETRY: Span = Span::from_millis(40);
const SLOWEST_RETRY: Span = Span::from_millis(250);
/// Names that clients ask for: few, so that some meet.
const NAMES: u64 = 6;
/// Generations of a master's configuration.
pub(super) const GENERATIONS: u8 = 4;
/// What a signal is called that races are held for.
pub(super) const SIGNAL: &str = "go";
/// An agent with a lower `max_bound` than this may rightly never race: the proven bound is half of a round trip of at
/// most 2 × 80 ms.
const SURE_BOUND: Span = Span::from_millis(120);

/// A fault; what lasts names how long.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The network is disturbed.
    Disturb(Disturbance, Span),
    /// An agent's process ends and begins again later, perhaps with its host.
    KillAgent {
        /// Which.
        agent: usize,
        /// Down for so long.
        down: Span,
        /// By how much more its clock shows after a boot.
        booted: Option<Span>,
    },
    /// A master's process ends and begins again later, perhaps with its host.
    KillMaster {
        /// Which.
        master: usize,
        /// Down for so long.
        down: Span,
        /// By how much more its clock shows after a boot.
        booted: Option<Span>,
    },
    /// A control connection breaks.
    CutControl {
        /// Whose.
        agent: usize,
        /// With whom.
        master: usize,
    },
    /// An agent's process stands still.
    PauseAgent(usize, Span),
    /// An agent's host is suspended; whether the process is told.
    SuspendAgent(usize, Span, bool),
    /// An agent's clock steps.
    StepAgent(usize, Span),
    /// A master's clock steps.
    StepMaster(usize, Span),
    /// A host's clock runs at another rate, in parts per billion.
    Drift(Host, i64),
    /// A master is configured anew.
    Reconfigure(usize, u8),
    /// An agent's disk is slow: each write takes the first, for the second.
    SlowDisk(usize, Span, Span),
    /// Somebody floods a master with queries from a client's address.
    Flood {
        /// Whom.
        master: usize,
        /// In whose name.
        client: usize,
        /// How many.
        queries: usize,
    },
    /// The signal is fired that races are held for.
    FireSignal(usize),
    /// A forger does something; the number decides what.
    Forge(Forgery, u64),
}

/// What forgers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// A datagram is sent again, to whom it was meant for: the newest of its stream, or one of a certain age.
    Replay,
    /// A datagram of any time is sent to somebody else, or again.
    Misdirect,
    /// A recorded datagram is altered.
    Alter,
    /// A datagram is made up, with a session that is in use.
    MakeUp,
    /// Queries come from an address whose owner asks for nothing.
    Query,
    /// A self-test's challenge is made up.
    Challenge,
}

/// A client asks until it has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// When, after the warm-up.
    pub at: Span,
    /// Who.
    pub client: usize,
    /// Whom.
    pub master: usize,
    /// For which name.
    pub name: u64,
    /// Whether for AAAA rather than A.
    pub six: bool,
    /// After how long the query is repeated, again and again.
    pub retry_after: Span,
}

/// What is to happen in one world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The world's seed.
    pub seed: u64,
    /// The world as it begins. Its last client asks for nothing: its address is what forgers use.
    pub options: Options,
    /// Faults, with their time after the warm-up.
    pub faults: Vec<(Span, Fault)>,
    /// What clients ask.
    pub asks: Vec<Ask>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw(Random::named(seed, [u64::from_be_bytes(*b"chaosrun"), 0, 0]));
        let options = draw.options();
        let mut faults: Vec<(Span, Fault)> = (0..draw.between(FAULTS.0, FAULTS.1))
            .map(|_| (draw.span(Span::ZERO, FAULTS_FOR), draw.fault(&options)))
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        let mut asks = Vec::new();
        let mut at = Span::ZERO;
        while at < LIFTED_AT {
            asks.push(draw.ask(&options, at));
            at += draw.0.exponential(ASK_EVERY);
        }
        Plan { seed, options, faults, asks }
    }

    /// The plan in words: the world, and then faults and queries by their time after the warm-up.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, own) in self.options.masters.iter().enumerate() {
            lines.push(format!(
                "master {number}: {:?}, {:?}, late answers: {:?}, T from {:?}, {} shards, queue {} deep for {}, keys for {}, \
                 {} races per source and second, cookies: {}, tables: {:?}",
                own.delay,
                own.transmit,
                own.late,
                own.stamp,
                own.shards,
                own.queue_capacity,
                own.queue_dwell,
                own.rekey_interval,
                own.races_per_source_per_s,
                own.cookies,
                own.tables
            ));
        }
        for (number, own) in self.options.agents.iter().enumerate() {
            lines.push(format!(
                "agent {number}: of masters {:?}, bound at most {}, on a bad clock {:?}, horizon {}, {} departures per prefix \
                 and second, foreign sources pass: {}, mesh: {}, tables: {:?}",
                own.masters,
                own.max_bound,
                own.on_bad_clock,
                own.horizon,
                own.limits.departures_per_prefix_per_s,
                own.foreign_sources_pass,
                own.mesh,
                own.tables
            ));
        }
        lines.push(format!("{} clients, and one that asks for nothing", self.victim()));
        let faults = self.faults.iter().map(|(at, fault)| (*at, format!("fault {fault:?}")));
        let asks = self.asks.iter().map(|ask| {
            let Ask { at, client, master, retry_after, .. } = ask;
            (*at, format!("client {client} asks master {master}, again every {retry_after}"))
        });
        let mut happenings: Vec<(Span, String)> = faults.chain(asks).collect();
        happenings.sort_by_key(|(at, _)| *at);
        lines.extend(happenings.into_iter().map(|(at, what)| format!("at {at}: {what}")));
        lines
    }

    /// The client in whose name forgers ask.
    pub fn victim(&self) -> usize {
        self.options.clients - 1
    }

    /// Whether an agent is to race for its masters when nothing disturbs it.
    pub fn is_sound(&self, agent: usize) -> bool {
        let own = &self.options.agents[agent];
        own.foreign_sources_pass && own.max_bound >= SURE_BOUND
    }
}

struct Draw(Random);

impl Draw {
    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next() % (high - low + 1)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.0.next() % count as u64) as usize
    }

    fn span(&mut self, low: Span, high: Span) -> Span {
        low + Span::from_nanos((self.0.next() % ((high - low).as_nanos() as u64 + 1)) as i64)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.0.chance(percent * 10_000)
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A second at least, so that no exchange can be taken for one of a slow network.
    fn step(&mut self) -> Span {
        let by = self.span(Span::from_secs(1), Span::from_secs(5));
        if self.percent(50) { by } else { -by }
    }

    fn clock(&mut self) -> HostClock {
        HostClock {
            offset: self.span(Span::from_secs(-10), Span::from_secs(10)),
            drift_ppb: self.between(0, 100_000) as i64 - 50_000,
            ..HostClock::default()
        }
    }

    fn options(&mut self) -> Options {
        let masters = self.one(&[1, 1, 1, 2, 2, 3]);
        let agents = self.between(2, 4) as usize;
        let mut options = Options::new(agents, self.between(3, 6) as usize + 1);
        options.trace = false;
        options.masters = (0..masters).map(|_| self.master()).collect();
        options.agents = (0..agents).map(|_| self.agent(masters)).collect();
        let hosts: Vec<Host> = (0..masters)
            .map(Host::Master)
            .chain((0..agents).map(Host::Agent))
            .chain((0..options.clients).map(Host::Client))
            .collect();
        for (index, &one) in hosts.iter().enumerate() {
            for &other in &hosts[..index] {
                let delay = self.span(Span::from_millis(2), Span::from_millis(60));
                for (from, to) in [(one, other), (other, one)] {
                    *options.path_mut(from, to) = self.path(from, to, delay);
                }
            }
        }
        options
    }

    /// Up to a third more one way than the other; what clients and masters say to each other is not lost.
    fn path(&mut self, from: Host, to: Host, delay: Span) -> Path {
        let is_clients = matches!(from, Host::Client(_)) || matches!(to, Host::Client(_));
        let is_agents = matches!(from, Host::Agent(_)) || matches!(to, Host::Agent(_));
        let lossy = (is_agents || !is_clients) && self.percent(30);
        Path {
            jitter_mean: self.span(Span::ZERO, Span::from_micros(300)),
            loss_ppm: if lossy { self.between(0, 50_000) as u32 } else { 0 },
            duplication_ppm: if self.percent(20) { self.between(0, 100_000) as u32 } else { 0 },
            ..Path::of(delay + Span::from_nanos(delay.as_nanos() / 1_000 * self.between(0, 333) as i64))
        }
    }

    fn master(&mut self) -> MasterOptions {
        let clock = self.clock();
        let fixed = self.span(Span::from_millis(40), Span::from_millis(250));
        let margin = Span::from_millis(5);
        MasterOptions {
            // A clock that counts from the host's boot is never negative on a master.
            clock: HostClock { offset: clock.offset + Span::from_secs(100), ..clock },
            shards: self.one(&[1, 1, 2]),
            delay: match self.below(4) {
                0 => Delay::Fixed(fixed),
                1 => Delay::Cover { share: 0.6, margin },
                _ => Delay::Cover { share: 1.0, margin },
            },
            transmit: match self.below(10) {
                0 => Transmit::Signal,
                1 => Transmit::Held(SIGNAL.into()),
                _ => Transmit::At,
            },
            late: self.one(&[LatePolicy::Drop, LatePolicy::Drop, LatePolicy::Send]),
            stamp: self.one(&[Stamp::Receipt, Stamp::Receipt, Stamp::Dequeue]),
            queue_dwell: if self.percent(30) { self.span(Span::ZERO, Span::from_millis(20)) } else { Span::ZERO },
            rekey_interval: if self.percent(50) {
                self.span(Span::from_millis(300), Span::from_secs(3))
            } else {
                Span::from_secs(3_600)
            },
            sync_signal_interval: self.one(&[Span::from_secs(1), Span::from_millis(200)]),
            validated_for: self.one(&[Span::from_secs(3_600), Span::from_secs(3)]),
            races_per_source_per_s: self.one(&[10_000, 10_000, 3]),
            cookies: self.percent(50),
            queue_capacity: self.one(&[1_024, 1_024, 4]),
            tables: self.one(&[None, None, None, None, Some(3), Some(8)]),
            ..MasterOptions::default()
        }
    }

    fn agent(&mut self, masters: usize) -> AgentOptions {
        let mut serves: Vec<usize> = (0..masters).filter(|_| self.percent(80)).collect();
        if serves.is_empty() {
            serves = (0..masters).collect();
        }
        let few = Limits { departures_per_prefix_per_s: 4, departures_per_s: 12, ..Limits::default() };
        AgentOptions {
            clock: self.clock(),
            masters: serves,
            max_bound: if self.percent(25) {
                self.span(Span::from_millis(3), Span::from_millis(60))
            } else {
                Span::from_millis(250)
            },
            on_bad_clock: self.one(&[OnBadClock::StandDown, OnBadClock::StandDown, OnBadClock::After]),
            horizon: self.one(&[Span::from_secs(1), Span::from_secs(1), Span::from_millis(120)]),
            limits: self.one(&[Limits::default(), Limits::default(), few]),
            departure_lateness_mean: self.span(Span::ZERO, Span::from_micros(200)),
            foreign_sources_pass: self.percent(93),
            mesh: self.percent(60),
            tables: self.one(&[None, None, None, None, Some(3), Some(8)]),
            ..AgentOptions::default()
        }
    }

    fn group(&mut self, options: &Options) -> Group {
        match self.below(6) {
            0 => Group::All,
            1 => Group::Masters,
            2 => Group::Agents,
            3 => Group::One(Host::Master(self.below(options.masters.len()))),
            _ => Group::One(Host::Agent(self.below(options.agents.len()))),
        }
    }

    fn disturbance(&mut self, options: &Options) -> Disturbance {
        let (from, to) = (self.group(options), self.group(options));
        let (from, to) = match self.below(8) {
            0 => (from, Group::Clients),
            1 => (Group::Clients, to),
            _ => (from, to),
        };
        let share = self.between(10_000, 400_000) as u32;
        let calm = Disturbance::of(from, to);
        match self.below(6) {
            0 | 1 => Disturbance { loss_ppm: 1_000_000, ..calm },
            2 => Disturbance { loss_ppm: share, duplication_ppm: share, ..calm },
            3 => Disturbance { corruption_ppm: share, ..calm },
            4 => Disturbance {
                jitter_mean: self.span(Span::from_millis(1), Span::from_millis(60)),
                duplication_ppm: share,
                ..calm
            },
            _ => Disturbance { delay: self.span(Span::from_millis(5), Span::from_millis(80)), ..calm },
        }
    }

    fn fault(&mut self, options: &Options) -> Fault {
        let agent = self.below(options.agents.len());
        let master = self.below(options.masters.len());
        let lasting = self.span(Span::from_millis(20), LONGEST_FAULT);
        let boot = self.percent(40);
        match self.below(100) {
            0..20 => Fault::Disturb(self.disturbance(options), lasting),
            20..27 => Fault::KillAgent { agent, down: lasting, booted: boot.then(|| self.step()) },
            27..32 => Fault::KillMaster { master, down: lasting, booted: boot.then(|| self.step()) },
            32..36 => Fault::CutControl { agent, master: self.one(&options.agents[agent].masters) },
            36..40 => Fault::PauseAgent(agent, lasting),
            // Of one that it is not told of, an agent must see that it was no slow exchange.
            40..43 => Fault::SuspendAgent(agent, if boot { lasting } else { lasting.max(Span::from_secs(1)) }, boot),
            43..48 => Fault::StepAgent(agent, self.step()),
            48..50 => Fault::StepMaster(master, self.step()),
            50..52 => {
                // With the other end's 50 ppm and this one's 50 + 20, less than the 200 ppm that are promised.
                let host = if boot { Host::Master(master) } else { Host::Agent(agent) };
                let own = if boot { options.masters[master].clock } else { options.agents[agent].clock };
                Fault::Drift(host, own.drift_ppb + self.between(0, 40_000) as i64 - 20_000)
            }
            52..60 => Fault::Reconfigure(master, self.below(usize::from(GENERATIONS)) as u8),
            60..64 => Fault::SlowDisk(agent, self.span(Span::from_millis(10), Span::from_secs(2)), lasting),
            64..67 => {
                let (client, queries) = (self.below(options.clients), self.between(5, 60) as usize);
                Fault::Flood { master, client, queries }
            }
            67..70 => Fault::FireSignal(master),
            _ => {
                let all = [
                    Forgery::Replay,
                    Forgery::Replay,
                    Forgery::Misdirect,
                    Forgery::Alter,
                    Forgery::MakeUp,
                    Forgery::Query,
                    Forgery::Challenge,
                ];
                Fault::Forge(self.one(&all), self.0.next())
            }
        }
    }

    fn ask(&mut self, options: &Options, at: Span) -> Ask {
        Ask {
            at,
            client: self.below(options.clients - 1),
            master: self.below(options.masters.len()),
            name: self.between(0, NAMES - 1),
            six: self.percent(20),
            retry_after: self.span(QUICKEST_RETRY, SLOWEST_RETRY),
        }
    }
}
