//! Everything that a world can be made of: who is there, whose clock is how wrong, which path does what to packets.

use startgun_core::agent::{Limits, OnBadClock};
use startgun_core::clock::ClockConfig;
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::{HostClock, SimTime};
use crate::random::Random;

/// Most masters, and most agents: each has an address of its own in a /24.
pub const MAX_HOSTS: usize = 200;
/// Most clients: 16,384 prefixes (all /24 of 100.64.0.0/10) × 64 addresses of each, 2^20.
pub const MAX_CLIENTS: usize = 1 << 20;
/// Most places of [`Places`]: 1,024 × 1,024 paths of 144 bytes, 144 MiB.
pub const MAX_PLACES: usize = 1_024;

/// A host of the world, by its place in [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Where every host is, and the paths between places: for worlds of more hosts than anybody would name in pairs. Two
/// hosts at one place have its path to itself between them.
///
/// Clones share the paths. Hosts may come to be at places while the world is made ready, not afterwards.
#[derive(Clone, Debug)]
pub struct Places {
    /// How many there are.
    count: usize,
    /// From each place to each, row by row.
    paths: Arc<[Path]>,
    /// Where each master is; one that is not named is at place 0, and so below.
    pub masters: Vec<u16>,
    /// Where each agent is.
    pub agents: Vec<u16>,
    /// Where each client is.
    pub clients: Arc<[u16]>,
}

impl Places {
    /// So many places, with the path from each to each as `path` says. All hosts are at place 0.
    ///
    /// # Panics
    /// If there are none, or more than [`MAX_PLACES`].
    pub fn new(count: usize, path: impl Fn(usize, usize) -> Path) -> Self {
        assert!((1..=MAX_PLACES).contains(&count), "{count} places, from 1 to {MAX_PLACES}");
        let paths = (0..count * count).map(|pair| path(pair / count, pair % count)).collect();
        Places { count, paths, masters: Vec::new(), agents: Vec::new(), clients: Arc::from([]) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The path from one place to another.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn between(&self, from: usize, to: usize) -> &Path {
        assert!(from < self.count && to < self.count, "place {from} or {to} of {}", self.count);
        &self.paths[from * self.count + to]
    }

    /// Where a host is.
    pub fn place_of(&self, host: Host) -> usize {
        let place = match host {
            Host::Master(number) => self.masters.get(number),
            Host::Agent(number) => self.agents.get(number),
            Host::Client(number) => self.clients.get(number),
        };
        place.copied().map_or(0, usize::from)
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
    /// Races per second and client prefix.
    pub races_per_source_per_s: u32,
    /// Time between two unsolicited synchronisation signals.
    pub sync_signal_interval: Span,
    /// What its host's clock says of UTC; absent where nobody disciplines it.
    pub host_time: Option<HostTimeOptions>,
    /// How long a completed TCP query lets its source race.
    pub validated_for: Span,
    /// Whether it hands out server cookies.
    pub cookies: bool,
    /// Queries that may wait in a socket; more are dropped, as by a kernel.
    pub queue_capacity: usize,
    /// Most entries of the tables that queries fill, where they are to be full early.
    pub tables: Option<usize>,
}

/// A disciplined host clock. True time is UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTimeOptions {
    /// By how much it is ahead of UTC, always.
    pub error: Span,
    /// What its keeper says that it is wrong by at most; not negative.
    pub bound: Span,
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
            // Above anything that a scenario asks for.
            races_per_source_per_s: 10_000,
            sync_signal_interval: Span::from_secs(1),
            host_time: None,
            validated_for: Span::from_secs(3_600),
            cookies: false,
            queue_capacity: 1_024,
            tables: None,
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
    /// What its host's clock says of UTC; absent where nobody disciplines it.
    pub host_time: Option<HostTimeOptions>,
    /// Most orders that wait, where that table is to be full early.
    pub tables: Option<usize>,
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
            host_time: None,
            tables: None,
        }
    }
}

/// How much of what happens is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Records {
    /// Every answer, departure and reading, for a judge.
    #[default]
    All,
    /// Of a query's answers the first, and how many there were; nothing of departures and readings. For worlds whose
    /// figures are sums.
    Sums,
}

/// A world's initial state. Faults that begin later are methods of [`crate::World`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The masters, at most [`MAX_HOSTS`].
    pub masters: Vec<MasterOptions>,
    /// The agents, at most [`MAX_HOSTS`].
    pub agents: Vec<AgentOptions>,
    /// How many resolvers there are, at most [`MAX_CLIENTS`]. They have no clock that matters. The first 16,384 have a
    /// /24 each, and with it a budget; those that follow share these, at most 64 to each.
    pub clients: usize,
    /// The path of every ordered pair that neither `paths` nor `places` know.
    pub default_path: Path,
    /// Where the hosts are, which gives the path of every pair that `paths` does not name.
    pub places: Option<Places>,
    /// Paths of ordered pairs, from the first to the second; they come before all others.
    pub paths: BTreeMap<(Host, Host), Path>,
    /// Whether the trace is kept. Without it a world is faster, and its digest says nothing.
    pub trace: bool,
    /// What is remembered for a judge. It changes nothing that happens; what is not judged is not in the trace either.
    pub records: Records,
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
            places: None,
            paths: BTreeMap::new(),
            trace: true,
            records: Records::All,
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
        self.paths.get(&(from, to)).copied().unwrap_or_else(|| self.usual_path(from, to))
    }

    /// The path of a pair that `paths` does not name.
    fn usual_path(&self, from: Host, to: Host) -> Path {
        let places = self.places.as_ref();
        places.map_or(self.default_path, |places| *places.between(places.place_of(from), places.place_of(to)))
    }

    /// The path from one host to another, to be changed; a copy of what it was where the pair had none of its own.
    pub fn path_mut(&mut self, from: Host, to: Host) -> &mut Path {
        let usual = self.usual_path(from, to);
        self.paths.entry((from, to)).or_insert(usual)
    }

    /// Sets both directions' delay.
    pub fn set_delay(&mut self, one: Host, other: Host, delay: Span) {
        self.path_mut(one, other).delay = delay;
        self.path_mut(other, one).delay = delay;
    }
}
