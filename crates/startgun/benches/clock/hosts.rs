//! Which paths there are, and the hosts at their ends.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path as FilePath;
use std::process::Command;
use std::sync::Arc;

use startgun_lab::process::{Process, ProcessGroup};
use startgun_lab::scenario::Scenario;
use startgun_lab::world::World;

use crate::support::network;

/// Mean of the exponential that the emulated network adds to every packet.
const JITTER_MS: f64 = 1.0;
/// Round trip of the emulated paths, without jitter.
const ROUND_TRIP_MS: f64 = 80.0;
/// Seed of the emulated network.
const SEED: u64 = 3;

/// A kind of path between master and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// One veth pair.
    Veth,
    /// 40 ms each way.
    Wan4040,
    /// 20 ms to the master, 60 ms back.
    Wan2060,
    /// The same, and both sides are told.
    Wan2060Configured,
}

impl Path {
    /// All of them.
    pub const ALL: [Path; 4] = [Path::Veth, Path::Wan4040, Path::Wan2060, Path::Wan2060Configured];

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Path::Veth => "veth",
            Path::Wan4040 => "wan-40-40",
            Path::Wan2060 => "wan-20-60",
            Path::Wan2060Configured => "wan-20-60-configured",
        }
    }

    /// One-way delays in milliseconds to the master and from it, of those that are configured.
    pub fn configured_ms(self) -> Option<(f64, f64)> {
        (self == Path::Wan2060Configured).then_some((20.0, 60.0))
    }

    /// Which share of the round trip goes from the master to the agent; none without an emulated network.
    fn split(self) -> Option<f64> {
        match self {
            Path::Veth => None,
            Path::Wan4040 => Some(0.5),
            Path::Wan2060 | Path::Wan2060Configured => Some(0.75),
        }
    }

    /// log2 of chrony's fastest polling interval in seconds, and the same in milliseconds.
    pub fn fastest_poll(self) -> (i32, u64) {
        if self == Path::Veth { (-2, 250) } else { (0, 1_000) }
    }
}

/// How often the two ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Poll {
    /// Equally often.
    Equal,
    /// By their own defaults.
    Own,
}

impl Poll {
    /// As in the report.
    pub fn name(self) -> &'static str {
        if self == Poll::Equal { "equal" } else { "own" }
    }
}

/// One pair of hosts and what runs on it.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The path between them.
    pub path: Path,
    /// Among the lanes of this path.
    pub number: usize,
    /// Which of the pairs that are compared; a row's figures are medians over these.
    pub pair: usize,
    /// Startgun's interval between exchanges.
    pub exchange_interval_ms: u64,
    /// The chrony clients that are compared with this agent.
    pub polls: Vec<Poll>,
}

impl Lane {
    /// Unique, and fit for a file's and a host's name.
    pub fn id(&self) -> String {
        format!("{}-{}", self.path.name(), self.number)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, exchanges every {} ms, pair {}", self.path.name(), self.exchange_interval_ms, self.pair)
    }
}

/// All lanes: `pairs` of each path and rate.
pub fn plan(pairs: usize, only: &[String]) -> Result<Vec<Lane>, String> {
    if let Some(unknown) = only.iter().find(|name| !Path::ALL.iter().any(|path| path.name() == **name)) {
        let names = Path::ALL.map(Path::name).join(", ");
        return Err(format!("--only: found {unknown}, expected some of {names}"));
    }
    let wanted = |path: &Path| only.is_empty() || only.iter().any(|name| name == path.name());
    let mut lanes = Vec::new();
    for path in Path::ALL.into_iter().filter(wanted) {
        let default_ms = 250;
        let (_, equal_ms) = path.fastest_poll();
        let kinds = if equal_ms == default_ms {
            vec![(default_ms, vec![Poll::Equal, Poll::Own])]
        } else {
            vec![(equal_ms, vec![Poll::Equal]), (default_ms, vec![Poll::Own])]
        };
        for pair in 0..pairs {
            for (kind, (exchange_interval_ms, polls)) in kinds.iter().enumerate() {
                let number = pair * kinds.len() + kind;
                let (exchange_interval_ms, polls) = (*exchange_interval_ms, polls.clone());
                lanes.push(Lane { path, number, pair, exchange_interval_ms, polls });
            }
        }
    }
    Ok(lanes)
}

/// A host of either kind.
#[derive(Clone, Copy)]
pub enum Host<'a> {
    /// On an emulated network.
    Emulated(&'a startgun_lab::world::Host),
    /// At the end of a veth pair.
    Direct(&'a network::Host),
}

impl Host<'_> {
    /// Its address.
    pub fn ipv4(&self) -> Ipv4Addr {
        match self {
            Host::Emulated(host) => host.ipv4,
            Host::Direct(host) => host.address,
        }
    }

    /// Starts a program there.
    pub fn spawn(&self, command: Command) -> io::Result<Process> {
        match self {
            Host::Emulated(host) => host.spawn(command),
            Host::Direct(host) => Ok(host.spawn(command)),
        }
    }
}

/// The two hosts of a lane.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// Where master and chrony's server are.
    pub master: Host<'a>,
    /// Where agent and chrony's client are.
    pub agent: Host<'a>,
}

/// All hosts. Dropping it ends every process on them.
pub struct Hosts {
    worlds: Vec<(Path, World)>,
    direct: Vec<[network::Host; 2]>,
}

impl Hosts {
    /// Builds them.
    pub fn build(lanes: &[Lane]) -> Result<Self, String> {
        let processes = Arc::new(ProcessGroup::start().map_err(|error| error.to_string())?);
        let (mut worlds, mut direct) = (Vec::new(), Vec::new());
        for path in Path::ALL {
            let count = lanes.iter().filter(|lane| lane.path == path).count();
            match path.split() {
                _ if count == 0 => {}
                Some(split) => worlds.push((path, emulate(path, count, split)?)),
                None => {
                    for number in 0..count as u8 {
                        let addresses = [Ipv4Addr::new(10, 78, number, 1), Ipv4Addr::new(10, 78, number, 2)];
                        direct.push(network::direct(addresses, &processes)?);
                    }
                }
            }
        }
        Ok(Hosts { worlds, direct })
    }

    /// The hosts of a lane.
    pub fn pair(&self, lane: &Lane) -> Pair<'_> {
        let Some((_, world)) = self.worlds.iter().find(|(path, _)| *path == lane.path) else {
            let [master, agent] = &self.direct[lane.number];
            return Pair { master: Host::Direct(master), agent: Host::Direct(agent) };
        };
        // In the order of the scenario: masters first, of which the world calls one its own.
        let lanes = world.agents.len().div_ceil(2);
        let master = lane.number.checked_sub(1).map_or(&world.master, |number| &world.agents[number]);
        Pair { master: Host::Emulated(master), agent: Host::Emulated(&world.agents[lanes - 1 + lane.number]) }
    }
}

/// A world of `count` masters and as many agents; from any earlier host to any later it takes `split` of the round trip.
fn emulate(path: Path, count: usize, split: f64) -> Result<World, String> {
    let masters = (0..count).map(|number| format!("m{number}"));
    let agents = (0..count).map(|number| format!("a{number}"));
    let names: Vec<String> = masters.chain(agents).chain(["nobody".to_owned()]).collect();
    let rows: Vec<Vec<f64>> = (0..names.len()).map(|earlier| vec![ROUND_TRIP_MS; earlier]).collect();
    let text = format!(
        "name = \"{}\"\nmaster = \"m0\"\nagents = {:?}\nclients = [\"nobody\"]\njitter_ms = {JITTER_MS:?}\nsplit = {split:?}\n\
         [matrix]\nnames = {names:?}\nrtt_ms = {rows:?}\n",
        path.name(),
        &names[1..2 * count],
    );
    let scenario = Scenario::parse(&text, FilePath::new("bench-clock.toml")).map_err(|error| error.to_string())?;
    World::build(&scenario, SEED + path as u64).map_err(|error| format!("building {}: {error}", path.name()))
}
