//! Everything that a world can be made of: who is there, whose clock is how wrong, which path does what to packets.

use startgun_core::agent::{Limits, OnBadClock};
use startgun_core::clock::ClockConfig;
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;
use std::collections::BTreeMap;

use crate::clock::{HostClock, SimTime};
use crate::random::Random;

/// Most masters, agents or clients of one kind: each has an address of its own in a /24.
pub const MAX_HOSTS: usize = 200;

/// A host of the world, by its place in [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A master.
    Master(usize),
    /// An agent; its site is called `site` and its number.
    Agent(usize),
    /// A resolver.
    Client(usize),
}

/// What happens to packets from one host to another. The control channel takes the delay alone.
///
/// The delay of a packet is the sum of all that is named here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// One way, for every packet.
    pub delay: Span,
    /// Mean of an exponential that is drawn and added for each packet. Packets that are closer together than this
    /// overtake each other: this is where reordering comes from.
    pub jitter_mean: Span,
    /// Of a million packets, so many are lost.
    pub loss_ppm: u32,
    /// Of a million packets, so many arrive twice, each copy with its own jitter and chance of loss.
    pub duplication_ppm: u32,
    /// Of a million packets, so many wait for another exponential, of this mean: a heavy tail, or, where the mean
    /// exceeds the time between packets, reordering.
    pub tail: (u32, Span),
    /// Queues that build up and drain.
    pub bursts: Option<Bursts>,
    /// Somebody on the path holds packets back.
    pub hold: Option<Hold>,
}

impl Path {
    /// A path that only delays.
    pub const fn of(delay: Span) -> Self {
        Path {
            delay,
            jitter_mean: Span::ZERO,
            loss_ppm: 0,
            duplication_ppm: 0,
            tail: (0, Span::ZERO),
            bursts: None,
            hold: None,
        }
    }
}

/// Queueing that successive packets share: once in every stretch of time, at a moment and with a height that chance
/// decides, a queue fills up in the first quarter of the burst and drains in the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursts {
    /// Length of a stretch; more than zero.
    pub every: Span,
    /// Length of a burst; more than zero, at most `every`.
    pub length: Span,
    /// Greatest wait in the highest burst; each burst's own is between nothing and this.
    pub peak: Span,
}

/// An attacker on the path, who can hold packets back but not read, alter or forge them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// From when on.
    pub from: SimTime,
    /// How long it takes to reach the greatest delay, in a straight line; zero for at once.
    pub ramp: Span,
    /// The greatest delay.
    pub most: Span,
    /// Of a million packets, so many are held: the rest passes, to look innocent.
    pub share_ppm: u32,
}

impl Hold {
    /// By how much a packet that is held at `now` comes later.
    pub(crate) fn delay(&self, now: SimTime) -> Span {
        let since = (now - self.from).as_nanos();
        let ramp = self.ramp.as_nanos();
        if since < 0 {
            Span::ZERO
        } else if since >= ramp {
            self.most
        } else {
            Span::from_nanos((i128::from(self.most.as_nanos()) * i128::from(since) / i128::from(ramp)) as i64)
        }
    }
}

/// A master's host, its configuration and the race that it runs (`*.cdn.test`, every site takes part).
#[derive(Clone, Debug)]
pub struct MasterOptions {
    /// Its clock, which is its race timeline.
    pub clock: HostClock,
    /// Shards; a client is steered to one by its number.
    pub shards: u8,
    /// How the predetermined delay is found.
    pub delay: Delay,
    /// What makes the answers depart.
    pub transmit: Transmit,
    /// What agents do with an answer that is late.
    pub late: LatePolicy,
    /// A departure more than this after T is late.
    pub late_tolerance: Span,
    /// When T is counted from.
    pub stamp: Stamp,
    /// How long every query waits in the queue before it is taken.
    pub queue_dwell: Span,
    /// How long after T the master answers itself.
    pub fallback_after: Span,
    /// Cap of the predetermined delay.
    pub max_total_delay: Span,
    /// After how long a session gets a successor.
    pub rekey_interval: Span,
    /// Time between two unsolicited synchronisation signals.
    pub sync_signal_interval: Span,
}

impl Default for MasterOptions {
    fn default() -> Self {
        MasterOptions {
            clock: HostClock { offset: Span::from_secs(1_000), ..HostClock::default() },
            shards: 1,
            delay: Delay::Cover { share: 1.0, margin: Span::from_millis(5) },
            transmit: Transmit::At,
            late: LatePolicy::Drop,
            late_tolerance: Span::from_millis(2),
            stamp: Stamp::Receipt,
            queue_dwell: Span::ZERO,
            fallback_after: Span::from_millis(250),
            max_total_delay: Span::from_millis(300),
            rekey_interval: Span::from_secs(3_600),
            sync_signal_interval: Span::from_secs(1),
        }
    }
}

/// An agent's host and configuration.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Its clock.
    pub clock: HostClock,
    /// The masters that it serves, by number.
    pub masters: Vec<usize>,
    /// How it follows their timelines.
    pub race_clock: ClockConfig,
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
    /// Its own limits.
    pub limits: Limits,
    /// Mean of an exponential by which each departure leaves later than it should.
    pub departure_lateness_mean: Span,
    /// Whether its network lets packets out whose source is a service address; most clouds do not.
    pub foreign_sources_pass: bool,
    /// How long after a lost control connection it dials again.
    pub redial_interval: Span,
    /// Whether it takes part in the mesh.
    pub mesh: bool,
}

impl Default for AgentOptions {
    fn default() -> Self {
        AgentOptions {
            clock: HostClock::default(),
            masters: vec![0],
            race_clock: ClockConfig::default(),
            max_expected_error: Span::from_millis(3),
            max_bound: Span::from_millis(250),
            on_bad_clock: OnBadClock::default(),
            max_lateness: Span::from_millis(2),
            exchange_interval: Span::from_millis(250),
            horizon: Span::from_secs(1),
            limits: Limits::default(),
            departure_lateness_mean: Span::ZERO,
            foreign_sources_pass: true,
            redial_interval: Span::from_millis(500),
            mesh: true,
        }
    }
}

/// A world's initial state. Faults that begin later are methods of [`crate::World`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The masters, at most [`MAX_HOSTS`].
    pub masters: Vec<MasterOptions>,
    /// The agents, at most [`MAX_HOSTS`].
    pub agents: Vec<AgentOptions>,
    /// How many resolvers there are, at most [`MAX_HOSTS`]. They have no clock that matters.
    pub clients: usize,
    /// The path of every ordered pair that `paths` does not name.
    pub default_path: Path,
    /// Paths of ordered pairs, from the first to the second.
    pub paths: BTreeMap<(Host, Host), Path>,
    /// Whether the trace is kept. Without it a world is faster, and its digest says nothing.
    pub trace: bool,
    /// Mean time between two instants, drawn from an exponential, at which each agent's clock is read and judged
    /// besides the readings after exchanges, which are the most favourable; departures' readings are then judged,
    /// too. Zero for never. The draw has a stream of its own.
    pub readings_between: Span,
}

impl Options {
    /// One master, so many agents and clients, 20 ms one way between any two.
    pub fn new(agents: usize, clients: usize) -> Self {
        Options {
            masters: vec![MasterOptions::default()],
            agents: vec![AgentOptions::default(); agents],
            clients,
            default_path: Path::of(Span::from_millis(20)),
            paths: BTreeMap::new(),
            trace: true,
            readings_between: Span::ZERO,
        }
    }

    /// [`Options::new`], with every pair's delay drawn from 5 to 100 ms, the same both ways, and every host's clock up
    /// to 10 s off and 50 ppm fast or slow. The draw has a stream of its own: the world may use the same seed.
    pub fn scattered(agents: usize, clients: usize, seed: u64) -> Self {
        let mut options = Options::new(agents, clients);
        let mut random = Random::named(seed, [u64::from_be_bytes(*b"scatters"), agents as u64, clients as u64]);
        let mut between = |low: i64, high: i64| low + (random.next() % (high - low) as u64) as i64;
        let mut clock = || HostClock {
            offset: Span::from_nanos(between(-10_000_000_000, 10_000_000_000)),
            drift_ppb: between(-50_000, 50_000),
            ..HostClock::default()
        };
        // A clock that counts from the host's boot is never negative on a master.
        let drawn = clock();
        options.masters[0].clock = HostClock { offset: drawn.offset + Span::from_secs(100), ..drawn };
        options.agents.iter_mut().for_each(|agent| agent.clock = clock());
        let hosts: Vec<Host> = core::iter::once(Host::Master(0))
            .chain((0..agents).map(Host::Agent))
            .chain((0..clients).map(Host::Client))
            .collect();
        for (index, &one) in hosts.iter().enumerate() {
            for &other in &hosts[..index] {
                options.set_delay(one, other, Span::from_nanos(between(5_000_000, 100_000_000)));
            }
        }
        options
    }

    /// The path from one host to another.
    pub fn path(&self, from: Host, to: Host) -> Path {
        self.paths.get(&(from, to)).copied().unwrap_or(self.default_path)
    }

    /// The path from one host to another, to be changed; a copy of the default where the pair had none.
    pub fn path_mut(&mut self, from: Host, to: Host) -> &mut Path {
        self.paths.entry((from, to)).or_insert(self.default_path)
    }

    /// Sets both directions' delay.
    pub fn set_delay(&mut self, one: Host, other: Host, delay: Span) {
        self.path_mut(one, other).delay = delay;
        self.path_mut(other, one).delay = delay;
    }
}
