//! What master and agent say on the control channel.
//!
//! TLS 1.3 carries it, as JSON documents, each after its length in four bytes (big-endian): rare, small, worth
//! reading in a capture. The shell moves the bytes; these are their meanings. The agent dials, says
//! [`ToMaster::Hello`], hears [`ToAgent::Welcome`], a session, its playbook and a source self-test for every
//! service address, and then [reports](AgentReport) once a second.

use crate::clock::Decided;
use crate::playbook::{Playbook, PlaybookVersion};
use crate::time::{Epoch, RaceTime, Span};
use crate::wire::SessionId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Version of this protocol; both sides must name the same.
pub const PROTOCOL: u16 = 1;
/// Longest document: a playbook of 1,024 raced names with 40 IPv4 and 40 IPv6 addresses each takes 1,024 × 3 KiB.
pub const MAX_MESSAGE: usize = 4 << 20;
/// TLS exporter label of a session's secret; the context is the session id, big-endian.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-startgun-fast-path";
/// Most service addresses of one master.
pub const MAX_SERVICES: usize = 64;

/// Longest name of a site.
pub const MAX_SITE_NAME: usize = 63;

/// Whether `name` may name a site: it is a table's key in the master's file, an NSID and a label in metrics, so it needs no
/// quoting.
pub fn is_site_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_SITE_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// Agent to master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToMaster {
    /// The first document.
    Hello {
        /// [`PROTOCOL`].
        protocol: u16,
        /// The site that the agent answers for.
        site: String,
        /// Where orders reach the agent; an unspecified address means the one that the connection came from.
        fast_path: SocketAddr,
        /// The service addresses that the agent may speak for.
        services: Vec<SocketAddr>,
        /// The version that the agent still has on disk.
        playbook: Option<PlaybookVersion>,
        /// Fresh for every process of an agent that takes part in the mesh; absent for one that does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mesh_salt: Option<MeshSalt>,
    },
    /// The session's keys are in place.
    SessionKept {
        /// Which session.
        id: SessionId,
    },
    /// The playbook is on disk and in force.
    PlaybookKept {
        /// Its version.
        version: PlaybookVersion,
    },
    /// How the agent is, once a second.
    Report(AgentReport),
    /// What the agent measured of the mesh's paths, every two seconds.
    Paths(PathReport),
}

/// Master to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The answer to [`ToMaster::Hello`].
    Welcome {
        /// [`PROTOCOL`].
        protocol: u16,
        /// The master's name.
        master: String,
        /// The epoch of its timeline.
        epoch: Epoch,
        /// Its shards; orders come from each, with keys of its own.
        shards: u8,
        /// Where its fast path listens; an unspecified address means the one that the connection goes to.
        fast_path: SocketAddr,
    },
    /// Both sides derive this session's secret; the one before it stays valid for a while.
    Session {
        /// Its id.
        id: SessionId,
    },
    /// What the site answers from now on.
    Playbook(Playbook),
    /// Let a challenge depart to the master with `service` as source: byte
    /// [`CHALLENGE`](crate::wire::session::CHALLENGE), then the token.
    SelfTest {
        /// The source to use.
        service: SocketAddr,
        /// What to send.
        token: [u8; 16],
        /// Where it goes, of the source's family; without it, to the master's fast path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<SocketAddr>,
    },
    /// How the self-test ended.
    Tested {
        /// Of which service address.
        service: SocketAddr,
        /// Whether the challenge arrived.
        passed: bool,
    },
    /// With whom the agent exchanges in the mesh from now on: the whole list.
    Peers {
        /// At most [`MAX_NEIGHBOURS`](crate::mesh::MAX_NEIGHBOURS).
        peers: Vec<PeerDocument>,
    },
    /// What all agents measured: everybody solves the same set.
    Mesh(Arc<MeshSet>),
    /// The master will not have this agent; the connection closes.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Makes the keys of a pair of agents fresh for every pair of their processes.
pub type MeshSalt = [u8; 16];

/// A peer of the mesh, as a master hands it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDocument {
    /// The name in its certificate.
    pub name: String,
    /// Where it takes exchanges.
    pub fast_path: SocketAddr,
    /// Of its process.
    pub salt: MeshSalt,
    /// Its certificate (DER), as the fleet's CA signed it: the agent checks it by itself.
    pub certificate: Vec<u8>,
}

/// A host of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeshHost {
    /// An agent, by the name in its certificate; its clock is its local one.
    Agent(String),
    /// A master, by name; its clock is its race timeline.
    Master(String),
}

/// What an agent measured of its paths, at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// The instant, on the timeline of the master that is told.
    pub at: RaceTime,
    /// At most [`MAX_PATHS`].
    pub paths: Vec<MeasuredPath>,
}

/// Most paths in one report: the mesh's neighbours and an agent's masters.
pub const MAX_PATHS: usize = crate::mesh::MAX_NEIGHBOURS + 32;

/// One path, as one of its ends measured it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredPath {
    /// The other end.
    pub to: MeshHost,
    /// Its clock − the agent's own, at the report's instant.
    pub offset: Span,
    /// Change of that per second, in parts per billion.
    pub rate_ppb: i64,
    /// Least round trip.
    pub round_trip: Span,
    /// Statistical error, the path's asymmetry aside.
    pub error: Span,
}

/// The paths of a whole mesh, brought to one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeshSet {
    /// Counts up with every set of one master.
    pub version: u64,
    /// The instant, on the timeline of the master that spreads it.
    pub at: RaceTime,
    /// The hosts; paths name them by index. The first is the master that spreads it.
    pub hosts: Vec<MeshHost>,
    /// From, to, and what was measured: clock of `to` − clock of `from` in ns, its change in ppb, least round trip and
    /// statistical error in ns.
    pub paths: Vec<(u16, u16, i64, i64, i64, i64)>,
}

/// Why an agent does not race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandDown {
    /// No control connection or no session yet.
    NoSession,
    /// No playbook yet.
    NoPlaybook,
    /// A source self-test is not finished.
    SourceTestPending,
    /// A challenge with the service address as source did not arrive.
    SourceTestFailed,
    /// Too few exchanges to tell the time.
    ClockUnset,
    /// A sample contradicted the earlier ones, and too few have come since.
    ClockStepped,
    /// The host's clock and the exchanges with the master contradict each other.
    SourcesDisagree,
    /// The statistical error is above `max_expected_error`.
    ExpectedError,
    /// The proven bound is above `max_bound`.
    Bound,
    /// Recent departures were later than `max_lateness`.
    Lateness,
}

impl StandDown {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            StandDown::NoSession => "no session with the master",
            StandDown::NoPlaybook => "no playbook yet",
            StandDown::SourceTestPending => "source self-test not finished",
            StandDown::SourceTestFailed => "source self-test failed: packets from the service address do not arrive",
            StandDown::ClockUnset => "clock not yet set",
            StandDown::ClockStepped => "clock stepped, setting it anew",
            StandDown::SourcesDisagree => "host clock and exchanges with the master contradict each other",
            StandDown::ExpectedError => "expected clock error above max_expected_error",
            StandDown::Bound => "clock bound above max_bound",
            StandDown::Lateness => "departures later than max_lateness",
        }
    }

    /// Whether only the agent's timing is in doubt: orders reach it and its answers arrive, so it can still run races
    /// by signal, which measure the way from the master to the agent as well and need no clock.
    pub fn is_timing(self) -> bool {
        match self {
            StandDown::NoSession
            | StandDown::NoPlaybook
            | StandDown::SourceTestPending
            | StandDown::SourceTestFailed => false,
            StandDown::ClockUnset
            | StandDown::ClockStepped
            | StandDown::SourcesDisagree
            | StandDown::ExpectedError
            | StandDown::Bound
            | StandDown::Lateness => true,
        }
    }
}

/// A clock's figures at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockFigures {
    /// Race time − local time, by the estimate.
    pub offset: Span,
    /// The proven bound; absent while open.
    pub bound: Option<Span>,
    /// The statistical error; absent while unknown.
    pub expected_error: Option<Span>,
    /// Whether the bound rests on figures that the operator vouched for.
    pub conditional: bool,
    /// Least round trip in the window.
    pub least_round_trip: Option<Span>,
    /// Samples in the window.
    pub samples: usize,
    /// Steps noticed since the start.
    pub steps: u64,
    /// Who decided what is likely; absent from an agent of an earlier version.
    #[serde(default)]
    pub source: Option<Decided>,
}

/// What an agent made of the newest set of the mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeshFigures {
    /// The set's version.
    pub version: u64,
    /// Hosts and paths in it.
    pub hosts: usize,
    /// As above.
    pub paths: usize,
    /// Peers that answer this agent's exchanges.
    pub peers: usize,
    /// By how much the way to the master alone is off: added to the estimate.
    pub correction: Span,
    /// What asymmetry most likely leaves of the clock's error all the same, against the other agents' clocks.
    pub expected_error: Span,
    /// By how much that is more than usual asymmetry explains: it counts towards the clock's expected error.
    pub unexplained: Span,
    /// Paths that did not fit and were left out of everybody's clock.
    pub left_out: usize,
    /// Hosts none of whose paths are believed.
    pub suspects: Vec<String>,
}

/// How long orders take from the master to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardDelay {
    /// 99th percentile of the window.
    pub p99: Span,
    /// The window's maximum.
    pub greatest: Span,
    /// Measurements in the window.
    pub samples: usize,
}

/// How late departures were: departure − T by the agent's clock, or departure − (receipt + span) for an order by
/// [`After`](crate::wire::TransmitIdentifier::After).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// 1st percentile.
    pub p1: Span,
    /// Median.
    pub p50: Span,
    /// 90th percentile.
    pub p90: Span,
    /// 99th percentile.
    pub p99: Span,
    /// Departures in the window.
    pub samples: usize,
}

/// How an agent is, as it tells one master and its own `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Why it does not race; absent when it is ready, be it by `After`.
    pub stand_down: Option<StandDown>,
    /// Why it races by [`After`](crate::wire::TransmitIdentifier::After) instead of at T; absent when its clock is good,
    /// or when it stands down.
    #[serde(default)]
    pub by_after: Option<StandDown>,
    /// Its clock of this master's timeline.
    pub clock: Option<ClockFigures>,
    /// How long this master's orders take.
    pub forward_delay: Option<ForwardDelay>,
    /// How late its departures were.
    pub lateness: Option<Lateness>,
    /// What the mesh says of the way to this master; absent where there is none.
    #[serde(default)]
    pub mesh: Option<MeshFigures>,
    /// Answers sent, orders refused by reason, and so on, since the agent's start.
    pub counters: BTreeMap<String, u64>,
}

impl AgentReport {
    /// The least round trip between agent and master in the clock's window; half of it stands for the forward delay
    /// where the clock cannot tell.
    pub fn round_trip(&self) -> Option<Span> {
        self.clock.as_ref().and_then(|clock| clock.least_round_trip).map(|round_trip| round_trip.max(Span::ZERO))
    }
}
