//! The master's part in the mesh: who exchanges with whom, and what all of them measured as one set.
//!
//! It introduces agents to each other (they check each other's certificates themselves), takes in what each has measured
//! of its paths, brings it all to one instant of its own timeline by the paths' rates, and spreads it, so that every
//! agent solves the same set. It solves nothing itself.

use super::Slot;
use crate::control::{MAX_PATHS, MeshHost, MeshSalt, MeshSet, PathReport, PeerDocument};
use crate::mesh::{MAX_NEIGHBOURS, MAX_NODES};
use crate::time::{LocalTime, RaceTime, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Least time between two lists of peers: a fleet that starts at once is introduced in a few rounds.
const INTRODUCTION_INTERVAL: Span = Span::from_secs(1);
/// Least time between two sets, as agents report.
const SET_INTERVAL: Span = Span::from_secs(2);
/// A set's path takes about 50 bytes; at most 12.5 KB/s go to each agent: 4 ms for each path.
const SET_INTERVAL_PER_PATH: Span = Span::from_millis(4);
/// A report older than this is left out of the set: five in a row were lost.
const REPORT_LIFE: Span = Span::from_secs(10);
/// Neighbours in a mesh of more than [`MAX_NEIGHBOURS`] + 1 agents: on a circle by name, those 1, 2, 4 … 128 places away
/// either way. Such a graph has no bottleneck, and 1,024 agents have 8,192 paths instead of half a million.
const SPARSE_STEPS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

struct Member {
    name: String,
    fast_path: SocketAddr,
    salt: MeshSalt,
    certificate: Vec<u8>,
    report: Option<(LocalTime, PathReport)>,
    /// The peers that it was told of.
    told: Vec<PeerDocument>,
}

/// What one end of a path measured.
struct End {
    offset_ns: i64,
    rate_ppb: i64,
    round_trip_ns: i64,
    error_ns: i64,
}

/// What the mesh wants said.
pub(super) enum MeshOutput {
    Peers(Slot, Vec<PeerDocument>),
    Set(Slot, Arc<MeshSet>),
}

pub(super) struct MeshBoard {
    master: String,
    members: BTreeMap<Slot, Member>,
    changed: bool,
    introduce_at: LocalTime,
    set_at: LocalTime,
    version: u64,
}

impl MeshBoard {
    pub(super) fn new(master: String) -> Self {
        let early = LocalTime::from_nanos(i64::MIN);
        MeshBoard { master, members: BTreeMap::new(), changed: false, introduce_at: early, set_at: early, version: 0 }
    }

    /// An agent takes part.
    pub(super) fn join(
        &mut self,
        slot: Slot,
        name: String,
        fast_path: SocketAddr,
        salt: MeshSalt,
        certificate: Vec<u8>,
    ) {
        self.changed = true;
        self.members.insert(slot, Member { name, fast_path, salt, certificate, report: None, told: Vec::new() });
    }

    /// An agent is gone.
    pub(super) fn leave(&mut self, slot: Slot) {
        self.changed |= self.members.remove(&slot).is_some();
    }

    /// Takes in what an agent measured.
    pub(super) fn handle_report(&mut self, now: LocalTime, slot: Slot, mut report: PathReport) {
        if let Some(member) = self.members.get_mut(&slot) {
            report.paths.truncate(MAX_PATHS);
            member.report = Some((now, report));
        }
    }

    /// What is due to be said.
    pub(super) fn handle_timeout(&mut self, now: LocalTime) -> Vec<MeshOutput> {
        let mut outputs = Vec::new();
        if self.changed && now >= self.introduce_at {
            self.changed = false;
            self.introduce_at = now + INTRODUCTION_INTERVAL;
            self.introduce(&mut outputs);
        }
        if now >= self.set_at {
            let set = self.set(now);
            let paths = set.paths.len() as i64;
            self.set_at = now + SET_INTERVAL.max(Span::from_nanos(SET_INTERVAL_PER_PATH.as_nanos() * paths));
            // With a single agent there is nothing to average over.
            if set.hosts.iter().filter(|host| matches!(host, MeshHost::Agent(_))).count() >= 2 {
                let set = Arc::new(set);
                outputs.extend(self.members.keys().map(|slot| MeshOutput::Set(*slot, Arc::clone(&set))));
            }
        }
        outputs
    }

    /// Tells those whose list of peers has changed.
    fn introduce(&mut self, outputs: &mut Vec<MeshOutput>) {
        let mut circle: Vec<Slot> = self.members.keys().copied().collect();
        circle.sort_by(|one, other| self.members[one].name.cmp(&self.members[other].name));
        let documents: Vec<PeerDocument> = circle
            .iter()
            .map(|slot| {
                let member = &self.members[slot];
                PeerDocument {
                    name: member.name.clone(),
                    fast_path: member.fast_path,
                    salt: member.salt,
                    certificate: member.certificate.clone(),
                }
            })
            .collect();
        for (place, slot) in circle.iter().enumerate() {
            let peers: Vec<PeerDocument> =
                neighbours(place, circle.len()).into_iter().map(|place| documents[place].clone()).collect();
            if let Some(member) = self.members.get_mut(slot)
                && member.told != peers
            {
                member.told.clone_from(&peers);
                outputs.push(MeshOutput::Peers(*slot, peers));
            }
        }
    }

    /// All fresh reports, brought to one instant.
    fn set(&mut self, now: LocalTime) -> MeshSet {
        self.version += 1;
        let at = RaceTime::of_master(now);
        let fresh: Vec<(&str, &PathReport)> = self
            .members
            .values()
            .filter_map(|member| {
                let (heard, report) = member.report.as_ref()?;
                let believable = now - *heard <= REPORT_LIFE && (at - report.at).abs() <= REPORT_LIFE + REPORT_LIFE;
                believable.then_some((member.name.as_str(), report))
            })
            .collect();
        // This master first, then the agents that report, then the other masters that they name, as far as there is room.
        let own = MeshHost::Master(self.master.clone());
        let agents: BTreeSet<MeshHost> = fresh.iter().map(|(name, _)| MeshHost::Agent((*name).to_owned())).collect();
        let others: BTreeSet<MeshHost> = fresh
            .iter()
            .flat_map(|(_, report)| report.paths.iter().map(|path| &path.to))
            .filter(|host| matches!(host, MeshHost::Master(_)) && **host != own)
            .cloned()
            .collect();
        let hosts: Vec<MeshHost> = core::iter::once(own).chain(agents).chain(others).take(MAX_NODES).collect();
        let index: BTreeMap<&MeshHost, u16> = hosts.iter().zip(0..).collect();
        // A pair of agents measures its path from both ends: the mean of both is the pair's.
        let mut pairs: BTreeMap<(u16, u16), Vec<End>> = BTreeMap::new();
        for (name, report) in &fresh {
            let from = index[&MeshHost::Agent((*name).to_owned())];
            for path in &report.paths {
                let Some(&to) = index.get(&path.to) else { continue };
                let elapsed = i128::from((at - report.at).as_nanos()) * i128::from(path.rate_ppb) / 1_000_000_000;
                let offset = path.offset + Span::from_nanos(elapsed.clamp(i64::MIN.into(), i64::MAX.into()) as i64);
                // Agents point at masters, among themselves the lower index at the higher.
                let turned = matches!(path.to, MeshHost::Agent(_)) && to < from;
                let (pair, sign) = if turned { ((to, from), -1) } else { ((from, to), 1) };
                let offset_ns = (if sign < 0 { -offset } else { offset }).as_nanos();
                pairs.entry(pair).or_default().push(End {
                    offset_ns,
                    rate_ppb: path.rate_ppb.saturating_mul(sign),
                    round_trip_ns: path.round_trip.as_nanos(),
                    error_ns: path.error.as_nanos(),
                });
            }
        }
        let paths = pairs.into_iter().map(|((from, to), ends)| {
            let mean = |pick: fn(&End) -> i64| {
                (ends.iter().map(|end| i128::from(pick(end))).sum::<i128>() / ends.len().max(1) as i128) as i64
            };
            let (offset, rate) = (mean(|end| end.offset_ns), mean(|end| end.rate_ppb));
            (from, to, offset, rate, mean(|end| end.round_trip_ns), mean(|end| end.error_ns))
        });
        let paths = paths.collect();
        MeshSet { version: self.version, at, hosts, paths }
    }
}

/// The places on a circle of `circle` with which `place` exchanges.
fn neighbours(place: usize, circle: usize) -> Vec<usize> {
    if circle <= MAX_NEIGHBOURS + 1 {
        return (0..circle).filter(|other| *other != place).collect();
    }
    let either_way = SPARSE_STEPS.iter().flat_map(|step| [(place + step) % circle, (place + circle - step) % circle]);
    let all: BTreeSet<usize> = either_way.filter(|other| *other != place).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::MeasuredPath;

    fn second(n: i64) -> LocalTime {
        LocalTime::from_nanos(n * 1_000_000_000)
    }

    fn board(agents: usize) -> MeshBoard {
        let mut board = MeshBoard::new("m1".into());
        for agent in 0..agents {
            let fast_path = SocketAddr::from(([192, 0, 2, 1], 1_000 + agent as u16));
            board.join(agent as Slot, format!("a{agent:04}"), fast_path, [agent as u8; 16], vec![agent as u8]);
        }
        board
    }

    fn introduced(board: &mut MeshBoard, now: LocalTime) -> BTreeMap<Slot, Vec<String>> {
        let peers = |output| match output {
            MeshOutput::Peers(slot, peers) => Some((slot, peers.into_iter().map(|peer| peer.name).collect())),
            MeshOutput::Set(..) => None,
        };
        board.handle_timeout(now).into_iter().filter_map(peers).collect()
    }

    #[test]
    fn a_small_fleet_is_a_full_mesh_and_only_changes_are_told() {
        let mut board = board(5);
        let lists = introduced(&mut board, second(1));
        assert!(lists.len() == 5 && lists.values().all(|peers| peers.len() == 4));
        assert!(introduced(&mut board, second(5)).is_empty());
        board.leave(3);
        let lists = introduced(&mut board, second(9));
        assert!(lists.len() == 4 && lists.values().all(|peers| peers.len() == 3 && !peers.contains(&"a0003".into())));
    }

    #[test]
    fn a_large_fleet_has_a_bounded_number_of_neighbours_and_both_ends_know_each_other() {
        let lists = introduced(&mut board(1_000), second(1));
        assert_eq!(lists.len(), 1_000);
        for (slot, peers) in &lists {
            assert_eq!(peers.len(), 16);
            let own = format!("a{slot:04}");
            assert!(peers.iter().all(|peer| lists[&peer[1..].parse().expect("a number")].contains(&own)));
        }
    }

    fn path(to: MeshHost, offset: i64, rate_ppb: i64) -> MeasuredPath {
        let (round_trip, error) = (Span::from_millis(10), Span::from_micros(20));
        MeasuredPath { to, offset: Span::from_nanos(offset), rate_ppb, round_trip, error }
    }

    #[test]
    fn reports_are_brought_to_one_instant_and_both_ends_of_a_pair_are_averaged() {
        let mut board = board(2);
        let agent = |n: usize| MeshHost::Agent(format!("a{n:04}"));
        let (m1, m2) = (MeshHost::Master("m1".into()), MeshHost::Master("m2".into()));
        let at = RaceTime::of_master(second(99));
        let paths = vec![path(m1.clone(), 500, 1_000), path(agent(1), 5_000, 2_000), path(m2.clone(), 7, 0)];
        board.handle_report(second(99), 0, PathReport { at, paths });
        let at = RaceTime::of_master(second(100));
        let paths = vec![path(m1.clone(), 700, 0), path(agent(0), -7_100, -2_000), path(agent(9), 1, 0)];
        board.handle_report(second(100), 1, PathReport { at, paths });
        let set = board.set(second(101));
        assert_eq!(set.hosts, [m1, agent(0), agent(1), m2]);
        let (round_trip, error) = (10_000_000, 20_000);
        // After 2 s at 1 ppm 2 µs more; the pair's ends say 9,000 and 9,100 by then.
        assert_eq!(
            set.paths,
            [
                (1, 0, 2_500, 1_000, round_trip, error),
                (1, 2, 9_050, 2_000, round_trip, error),
                (1, 3, 7, 0, round_trip, error),
                (2, 0, 700, 0, round_trip, error),
            ]
        );
        // Old reports are left out.
        assert!(board.set(second(112)).paths.is_empty());
    }
}
