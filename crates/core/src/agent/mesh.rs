//! The agent's part in the mesh: exchanges with its peers, and what the whole mesh says of its way to each master.
//!
//! Peers exchange exactly as an agent does with its master, once a second, sealed with keys of their own; either end
//! asks and either end answers. Every two seconds the agent tells its masters what it measured
//! ([`Mesh::report`]), brought to one instant of that master's timeline. A master spreads the paths of all agents as one
//! set, and every agent [solves](solve_set) the same set by itself. The difference between its own clock in that
//! solution and in its own path to the master is what that path's asymmetry does: it is added to the estimate
//! ([`RaceClock::correct`](crate::clock::RaceClock::correct)) until the next set, and never touches the interval.

use super::exchange::Exchanger;
use super::link::Link;
use crate::clock::{ClockConfig, Update};
use crate::control::{MAX_PATHS, MeasuredPath, MeshFigures, MeshHost, MeshSet, PathReport};
use crate::mesh::{MAX_EDGES, MAX_NEIGHBOURS, MAX_NODES, MeshEdge, Problem, solve};
use crate::occupancy::Occupancy;
use crate::time::{LocalTime, RaceTime, Span};
use crate::wire::session::{self, SECRET_BYTES};
use crate::wire::{Binding, Direction, Frame, OpenError, Opener, Sealer, SessionId};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Time between two exchanges with a peer, asked by this end; the peer asks as often.
const PEER_INTERVAL: Span = Span::from_secs(1);
/// A new peer is asked after this long: it hears of this agent at about the same time, a control connection's delay apart.
const INTRODUCTION_SPREAD: Span = Span::from_millis(500);
/// Time between two reports to a master.
pub(super) const PATHS_INTERVAL: Span = Span::from_secs(2);
/// A path whose last exchange is older than this is not reported: several in a row were lost, or the peer is gone.
const PATH_LIFE: Span = Span::from_secs(15);

/// Most sessions kept after their end: peers' processes restart once in a while, each for 400 bytes of two keys. With more
/// than that no further peer is taken in until this process restarts, too.
const MAX_RETIRED: usize = 8_192;

/// A peer that this agent exchanges with: what the shell made of a
/// [`PeerDocument`](crate::control::PeerDocument) whose certificate it has checked.
#[derive(Clone, Debug)]
pub struct PeerKeys {
    /// The name in its certificate.
    pub name: String,
    /// Where it takes exchanges.
    pub fast_path: SocketAddr,
    /// Known to both, and fresh for this pair of processes.
    pub secret: [u8; SECRET_BYTES],
}

struct Peer {
    fast_path: SocketAddr,
    session: SessionId,
    sealer: Sealer,
    opener: Opener,
    /// The peer's raw clock is a timeline of its own.
    exchanger: Exchanger,
    /// When the last exchange counted.
    heard_at: Option<LocalTime>,
    /// The exchange of the peer's that was answered last, and its T3 by the kernel's timestamp once that is known.
    last_reply: Option<(u32, Option<LocalTime>)>,
    /// The masters that name this peer.
    named_by: u64,
}

/// What a datagram of a peer asks for.
pub(super) enum PeerOutput {
    /// Send this reply; its transmit timestamp is wanted.
    Reply { to: SocketAddr, bytes: Vec<u8>, exchange: u32 },
    /// Nothing.
    Nothing,
}

/// The mesh, as one agent sees it.
pub(super) struct Mesh {
    /// The agent's name; `None` when it takes no part.
    name: Option<String>,
    clock: ClockConfig,
    peers: BTreeMap<String, Peer>,
    names: BTreeMap<SessionId, String>,
    /// Sessions of peers that are no longer named, or whose process is another: a second sealer would use their nonces
    /// twice, a second opener open what was opened before.
    retired: BTreeMap<SessionId, (Sealer, Opener)>,
    /// By master: what its newest set said.
    figures: BTreeMap<usize, MeshFigures>,
    plain: Vec<u8>,
}

impl Mesh {
    pub(super) fn new(name: Option<String>, max_drift_ppm: u32) -> Self {
        // A peer's clock is nobody's timeline: no host clock, no figures of an operator.
        let clock = ClockConfig { max_drift_ppm, ..ClockConfig::default() };
        Mesh {
            name,
            clock,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            retired: BTreeMap::new(),
            figures: BTreeMap::new(),
            plain: Vec::new(),
        }
    }

    /// A master's list of peers, in place of its last one. Beyond [`MAX_NEIGHBOURS`] peers further ones are left out.
    pub(super) fn set_peers(&mut self, now: LocalTime, master: usize, keys: Vec<PeerKeys>) {
        let Some(own) = self.name.clone() else { return };
        let named = 1u64 << (master % 64);
        self.peers.values_mut().for_each(|peer| peer.named_by &= !named);
        let stays = |name: &String, peer: &Peer| peer.named_by != 0 || keys.iter().any(|named| named.name == *name);
        let gone: Vec<String> =
            self.peers.iter().filter(|(name, peer)| !stays(name, peer)).map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| drop(self.retire(name)));
        for peer in keys {
            let has_room = self.peers.len() < MAX_NEIGHBOURS || self.peers.contains_key(&peer.name);
            if peer.name != own && has_room {
                self.set_peer(now, &own, peer, named);
            }
        }
    }

    /// Takes a peer out. Its session's counters are kept: the same two processes may be introduced again, and have the
    /// same secret then.
    fn retire(&mut self, name: &str) -> Option<Exchanger> {
        let peer = self.peers.remove(name)?;
        self.names.remove(&peer.session);
        self.retired.insert(peer.session, (peer.sealer, peer.opener));
        Some(peer.exchanger)
    }

    fn set_peer(&mut self, now: LocalTime, own: &str, keys: PeerKeys, named: u64) {
        let own_is_lower = *own < *keys.name;
        let (lower, higher) = if own_is_lower { (own, keys.name.as_str()) } else { (keys.name.as_str(), own) };
        let binding = Binding::of_pair(keys.secret, lower, higher);
        let known = self.peers.get(&keys.name);
        if let Some(peer) = known.filter(|peer| peer.session == binding.id) {
            // The same two processes: a second sealer would use the nonces twice.
            let named_by = peer.named_by | named;
            if let Some(peer) = self.peers.get_mut(&keys.name) {
                peer.named_by = named_by;
                peer.fast_path = keys.fast_path;
            }
            return;
        }
        let (out, back) = match own_is_lower {
            true => (Direction::MasterToAgent, Direction::AgentToMaster),
            false => (Direction::AgentToMaster, Direction::MasterToAgent),
        };
        let named_by = self.peers.get(&keys.name).map_or(0, |peer| peer.named_by) | named;
        let earlier = self.retire(&keys.name);
        let Some((sealer, opener)) = self.retired.remove(&binding.id).or_else(|| {
            let room = self.retired.len() < MAX_RETIRED;
            room.then(|| (Sealer::new(&binding, out, 0), Opener::new(&binding, back, 0)))
        }) else {
            return;
        };
        // A peer's new process reads the same raw clock, unless its host booted; then the first exchange resets it.
        let mut exchanger = earlier.unwrap_or_else(|| Exchanger::new(self.clock, PEER_INTERVAL));
        exchanger.reset();
        exchanger.start(now + INTRODUCTION_SPREAD);
        let peer = Peer {
            fast_path: keys.fast_path,
            session: binding.id,
            sealer,
            opener,
            exchanger,
            heard_at: None,
            last_reply: None,
            named_by,
        };
        self.names.insert(binding.id, keys.name.clone());
        self.peers.insert(keys.name, peer);
    }

    /// Takes in a datagram, if it belongs to a peer; `None` when it does not.
    pub(super) fn handle_datagram(
        &mut self,
        now: LocalTime,
        received_at: LocalTime,
        bytes: &[u8],
    ) -> Option<Result<(SessionId, PeerOutput), OpenError>> {
        let (session, _) = session::header(bytes)?;
        let peer = self.peers.get_mut(self.names.get(&session)?)?;
        if let Err(error) = peer.opener.open(bytes, &mut self.plain) {
            return Some(Err(error));
        }
        let mut output = PeerOutput::Nothing;
        for frame in crate::wire::frame::frames(&self.plain) {
            match frame {
                Ok(Frame::SyncRequest { exchange }) => output = peer.reply(now, received_at, exchange),
                Ok(Frame::SyncReply { exchange, received, replied, previous }) => {
                    let update = peer.exchanger.reply(received_at, exchange, received, replied, previous);
                    if matches!(update, Some(Update::Accepted | Update::Stepped)) {
                        peer.heard_at = Some(received_at);
                    }
                }
                Ok(_) | Err(_) => return Some(Err(OpenError::Malformed)),
            }
        }
        Some(Ok((session, output)))
    }

    /// How full the tables of the mesh are.
    pub(super) fn occupancy(&self) -> [Occupancy; 2] {
        [
            Occupancy::new("peers", self.peers.len(), MAX_NEIGHBOURS),
            Occupancy::new("retired peers", self.retired.len(), MAX_RETIRED + MAX_NEIGHBOURS),
        ]
    }

    /// The next request that is due: its destination, bytes, session and exchange.
    pub(super) fn poll_request(&mut self, now: LocalTime) -> Option<(SocketAddr, Vec<u8>, SessionId, u32)> {
        let peer = self.peers.values_mut().find(|peer| peer.exchanger.is_due(now))?;
        let exchange = peer.exchanger.request(now);
        let bytes = peer.seal(&Frame::SyncRequest { exchange });
        Some((peer.fast_path, bytes, peer.session, exchange))
    }

    /// When the next request is due.
    pub(super) fn request_at(&self) -> Option<LocalTime> {
        self.peers.values().filter_map(|peer| peer.exchanger.request_at()).min()
    }

    /// The kernel's transmit timestamp of a request.
    pub(super) fn stamp_request(&mut self, session: SessionId, exchange: u32, at: LocalTime) {
        if let Some(peer) = self.of_session(session) {
            peer.exchanger.stamp(exchange, at);
        }
    }

    /// The kernel's transmit timestamp of a reply.
    pub(super) fn stamp_reply(&mut self, session: SessionId, exchange: u32, at: LocalTime) {
        if let Some((last, stamp)) = self.of_session(session).and_then(|peer| peer.last_reply.as_mut())
            && *last == exchange
        {
            *stamp = Some(at);
        }
    }

    fn of_session(&mut self, session: SessionId) -> Option<&mut Peer> {
        self.names.get(&session).and_then(|name| self.peers.get_mut(name))
    }

    /// This host's own clock stepped.
    pub(super) fn forget_clocks(&mut self, now: LocalTime) {
        for peer in self.peers.values_mut() {
            peer.exchanger.clock_mut().forget();
            peer.exchanger.reset();
            peer.exchanger.start(now);
            peer.heard_at = None;
            peer.last_reply = None;
        }
    }

    /// What this agent has measured, for one of its masters; `None` where it takes no part, or where its clock of that
    /// master's timeline is not set.
    pub(super) fn report(&self, now: LocalTime, links: &[Link], master: usize) -> Option<PathReport> {
        self.name.as_ref()?;
        let (offset, _) = links[master].clock().direct(now)?;
        let at = RaceTime::from_nanos(now.as_nanos().saturating_add(offset.as_nanos()));
        let peers = self.peers.iter().filter(|(_, peer)| peer.heard_at.is_some_and(|heard| now - heard <= PATH_LIFE));
        let peers = peers.map(|(name, peer)| (MeshHost::Agent(name.clone()), peer.exchanger.clock()));
        let masters = links.iter().map(|link| (MeshHost::Master(link.master().to_owned()), link.clock()));
        let measured = |(to, clock): (MeshHost, &crate::clock::RaceClock)| {
            let (offset, error) = clock.direct(now)?;
            let (rate_ppb, round_trip) = (clock.rate_ppb()?, clock.least_round_trip()?);
            Some(MeasuredPath { to, offset, rate_ppb, round_trip, error })
        };
        // The way to this master first: without it the others are of no use here.
        let paths = masters.chain(peers).filter_map(measured).take(MAX_PATHS).collect();
        Some(PathReport { at, paths })
    }

    /// Corrects a link's clock by what a set of its master says.
    pub(super) fn handle_solution(&mut self, now: LocalTime, link: &mut Link, master: usize, solved: MeshFigures) {
        link.clock_mut().correct(now, solved.correction, solved.unexplained);
        let heard = |peer: &&Peer| peer.heard_at.is_some_and(|at| now - at <= PATH_LIFE);
        let peers = self.peers.values().filter(heard).count();
        self.figures.insert(master, MeshFigures { peers, ..solved });
    }

    /// What the newest set of a master said.
    pub(super) fn figures(&self, master: usize) -> Option<MeshFigures> {
        self.figures.get(&master).cloned()
    }
}

/// Solves a set that `master` spread, for the agent of this name; `None` for a set that makes no sense, or in which this
/// agent does not stand. It takes microseconds for a dozen hosts and up to seconds for a thousand: a shell calls it where
/// nobody waits for a packet, and hands the result to [`Agent::handle_mesh`](super::Agent::handle_mesh).
pub fn solve_set(name: &str, master: &str, set: &MeshSet) -> Option<MeshFigures> {
    let host = |index: usize| set.hosts.get(index);
    let is_own = |host: &MeshHost| matches!(host, MeshHost::Agent(agent) if agent == name);
    let own = set.hosts.iter().position(is_own)?;
    let spread_by_master = matches!(host(0), Some(MeshHost::Master(first)) if first == master);
    if !spread_by_master || set.hosts.len() > MAX_NODES || set.paths.len() > MAX_EDGES {
        return None;
    }
    let edges: Vec<MeshEdge> = set
        .paths
        .iter()
        .map(|&(from, to, offset, _, round_trip, error)| MeshEdge {
            from,
            to,
            offset: Span::from_nanos(offset),
            round_trip: Span::from_nanos(round_trip),
            error: Span::from_nanos(error),
        })
        .collect();
    let solution = solve(&Problem { nodes: set.hosts.len(), reference: 0, edges: &edges });
    // What this agent's own path to the master said, in the very same set: the difference is that path's asymmetry.
    let direct = edges.iter().find(|edge| usize::from(edge.from) == own && edge.to == 0)?.offset;
    let ahead = (*solution.offsets.get(own)?)?;
    let mutual_error = (*solution.mutual_errors.get(own)?)?;
    // Every path is taken to be as asymmetric as paths usually are, and no exchange shows by how much: that stands beside
    // the clock's error, not in it. What fits worse than that counts.
    let suspected = solution.suspects.iter().any(|suspect| usize::from(*suspect) == own);
    let beyond = if suspected { 1.0 } else { solution.scale - 1.0 };
    let unexplained = Span::from_nanos((mutual_error.as_nanos() as f64 * beyond) as i64);
    let name_of = |host: &MeshHost| match host {
        MeshHost::Agent(name) | MeshHost::Master(name) => name.clone(),
    };
    Some(MeshFigures {
        version: set.version,
        hosts: set.hosts.len(),
        paths: set.paths.len(),
        peers: 0,
        // θ = master − own, x = own − master.
        correction: -ahead - direct,
        expected_error: mutual_error,
        unexplained,
        left_out: solution.left_out.len(),
        suspects: solution.suspects.iter().filter_map(|node| host(usize::from(*node)).map(name_of)).collect(),
    })
}

impl Peer {
    fn seal(&mut self, frame: &Frame<'_>) -> Vec<u8> {
        let (mut plain, mut bytes) = (Vec::with_capacity(64), Vec::with_capacity(128));
        frame.encode(&mut plain);
        self.sealer.seal(&plain, &mut bytes);
        bytes
    }

    /// Answers a peer's request, as a master answers an agent's.
    fn reply(&mut self, now: LocalTime, received_at: LocalTime, exchange: u32) -> PeerOutput {
        let previous = match self.last_reply {
            Some((previous, Some(at))) => (previous, RaceTime::of_master(at)),
            _ => (0, RaceTime::from_nanos(0)),
        };
        self.last_reply = Some((exchange, None));
        let (received, replied) = (RaceTime::of_master(received_at), RaceTime::of_master(now));
        let bytes = self.seal(&Frame::SyncReply { exchange, received, replied, previous });
        PeerOutput::Reply { to: self.fast_path, bytes, exchange }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str, secret: u8) -> PeerKeys {
        let fast_path = SocketAddr::from(([192, 0, 2, secret], 8531));
        PeerKeys { name: name.into(), fast_path, secret: [secret; SECRET_BYTES] }
    }

    fn mesh(name: &str, peer: PeerKeys) -> Mesh {
        let mut mesh = Mesh::new(Some(name.into()), 200);
        mesh.set_peers(at(0), 0, vec![peer]);
        mesh
    }

    fn at(millis: i64) -> LocalTime {
        LocalTime::from_nanos(millis * 1_000_000)
    }

    /// One exchange asked for by `one`, 5 ms each way; the request and the reply as they travelled.
    fn exchange(one: &mut Mesh, other: &mut Mesh, millis: i64) -> (Vec<u8>, Vec<u8>) {
        let (_, request, ..) = one.poll_request(at(millis)).expect("a request is due");
        let answered = other.handle_datagram(at(millis + 5), at(millis + 5), &request);
        let Some(Ok((_, PeerOutput::Reply { bytes, .. }))) = answered else { panic!("no reply") };
        let heard = one.handle_datagram(at(millis + 10), at(millis + 10), &bytes);
        assert!(matches!(heard, Some(Ok((_, PeerOutput::Nothing)))));
        (request, bytes)
    }

    #[test]
    fn two_agents_with_one_secret_measure_their_path() {
        let (mut one, mut other) = (mesh("a", keys("b", 7)), mesh("b", keys("a", 7)));
        for second in 1..12 {
            exchange(&mut one, &mut other, second * 1_000);
        }
        let clock = one.peers["b"].exchanger.clock();
        let (offset, _) = clock.direct(at(12_000)).expect("enough exchanges");
        assert!(offset.abs() < Span::from_micros(20) && clock.least_round_trip() == Some(Span::from_millis(10)));
    }

    #[test]
    fn a_peer_that_is_named_again_goes_on_with_its_counters() {
        let (mut one, mut other) = (mesh("a", keys("b", 7)), mesh("b", keys("a", 7)));
        let (first_request, first_reply) = exchange(&mut one, &mut other, 1_000);
        // Another process of the same peer for a while, then the first again (a master that was behind).
        for secret in [8, 7] {
            one.set_peers(at(2_000), 0, vec![keys("b", secret)]);
        }
        one.set_peers(at(2_100), 0, vec![]);
        one.set_peers(at(2_200), 0, vec![keys("b", 7)]);
        let (request, _) = exchange(&mut one, &mut other, 3_000);
        assert_ne!(request[..session::HEADER], first_request[..session::HEADER], "a nonce used twice");
        // What was opened before is not opened again, at either end.
        for (mesh, old) in [(&mut one, first_reply), (&mut other, first_request)] {
            assert!(matches!(mesh.handle_datagram(at(4_000), at(4_000), &old), Some(Err(OpenError::Replayed))));
        }
    }

    #[test]
    fn another_secret_opens_nothing_and_the_list_of_peers_is_bounded() {
        let (mut one, mut other) = (mesh("a", keys("b", 7)), mesh("b", keys("a", 9)));
        let (_, request, ..) = one.poll_request(at(1_000)).expect("a request is due");
        assert!(other.handle_datagram(at(1_005), at(1_005), &request).is_none());
        let many = (0..200).map(|n| keys(&format!("p{n}"), n as u8)).collect();
        one.set_peers(at(2_000), 0, many);
        assert_eq!(one.peers.len(), MAX_NEIGHBOURS);
        // Two masters name them; they stay until neither does.
        one.set_peers(at(3_000), 1, vec![keys("p3", 3)]);
        one.set_peers(at(4_000), 0, vec![]);
        assert_eq!(one.peers.keys().collect::<Vec<_>>(), ["p3"]);
    }
}
