//! What disturbs the network for a while, on top of what its paths do always.

use startgun_core::time::Span;

use super::World;
use crate::clock::SimTime;
use crate::options::Host;
use crate::random::Random;

/// Most disturbances at once: more than any plan of faults has.
const MAX_DISTURBANCES: usize = 256;
/// Longest tail that is put behind a datagram: a DNS message with rubbish behind it is still one.
const MAX_TAIL: u64 = 16;

/// Which hosts a disturbance concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Everybody.
    All,
    /// All masters.
    Masters,
    /// All agents.
    Agents,
    /// All clients.
    Clients,
    /// This host.
    One(Host),
}

impl Group {
    /// Whether a host belongs to it.
    pub fn contains(self, host: Host) -> bool {
        match self {
            Group::All => true,
            Group::Masters => matches!(host, Host::Master(_)),
            Group::Agents => matches!(host, Host::Agent(_)),
            Group::Clients => matches!(host, Host::Client(_)),
            Group::One(one) => one == host,
        }
    }
}

/// What happens, for a while, to packets from one group to another. One direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Who sends.
    pub from: Group,
    /// Who should receive.
    pub to: Group,
    /// Of a million packets, so many are lost. With all of them lost the control channel stands still, too.
    pub loss_ppm: u32,
    /// Of a million packets, so many arrive twice.
    pub duplication_ppm: u32,
    /// Of a million copies, so many arrive with bits flipped, cut short or with a tail.
    pub corruption_ppm: u32,
    /// Mean of an exponential that is added to the delay of each copy: reordering.
    pub jitter_mean: Span,
    /// Added to the delay of every copy: a longer route, in this direction.
    pub delay: Span,
}

impl Disturbance {
    /// One that does nothing yet.
    pub const fn of(from: Group, to: Group) -> Self {
        Disturbance {
            from,
            to,
            loss_ppm: 0,
            duplication_ppm: 0,
            corruption_ppm: 0,
            jitter_mean: Span::ZERO,
            delay: Span::ZERO,
        }
    }

    /// Whether it concerns packets from one host to another.
    pub fn concerns(&self, from: Host, to: Host) -> bool {
        self.from.contains(from) && self.to.contains(to)
    }

    /// Whether nothing comes through.
    pub fn is_partition(&self) -> bool {
        self.loss_ppm >= 1_000_000
    }
}

/// What a path's disturbances come to for one packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Luck {
    pub(super) copies: usize,
    pub(super) loss_ppm: u32,
    pub(super) corruption_ppm: u32,
    pub(super) jitter_mean: Span,
    pub(super) delay: Span,
}

impl World {
    /// Disturbs the network until an instant.
    ///
    /// # Panics
    /// If there are more disturbances at once than any plan has.
    pub fn disturb(&mut self, disturbance: Disturbance, until: SimTime) {
        self.note(format_args!("disturbed until {until:?}: {disturbance:?}"));
        let now = self.now;
        self.disturbances.retain(|(_, end)| *end > now);
        assert!(self.disturbances.len() < MAX_DISTURBANCES, "at most {MAX_DISTURBANCES} disturbances");
        self.disturbances.push((disturbance, until));
    }

    /// What is in force between two hosts now.
    fn disturbances_between(&self, from: Host, to: Host) -> impl Iterator<Item = &(Disturbance, SimTime)> {
        let now = self.now;
        self.disturbances.iter().filter(move |(disturbance, until)| *until > now && disturbance.concerns(from, to))
    }

    /// What the disturbances do to the next packet; draws nothing where there are none.
    pub(super) fn luck(&mut self, from: Host, to: Host) -> Luck {
        let mut luck = Luck::default();
        let mut duplication_ppm = 0;
        for (disturbance, _) in self.disturbances_between(from, to) {
            luck.loss_ppm = luck.loss_ppm.max(disturbance.loss_ppm);
            luck.corruption_ppm = luck.corruption_ppm.max(disturbance.corruption_ppm);
            luck.jitter_mean = luck.jitter_mean.max(disturbance.jitter_mean);
            luck.delay = luck.delay.max(disturbance.delay);
            duplication_ppm = duplication_ppm.max(disturbance.duplication_ppm);
        }
        luck.copies = usize::from(self.random.chance(duplication_ppm));
        luck
    }

    /// Until when TCP between two hosts gets nothing through, because one of its directions is cut.
    pub(super) fn blocked_until(&self, one: Host, other: Host) -> SimTime {
        let there = self.disturbances_between(one, other);
        let all = there.chain(self.disturbances_between(other, one));
        all.filter(|(disturbance, _)| disturbance.is_partition()).map(|(_, until)| *until).max().unwrap_or(self.now)
    }
}

/// Alters a datagram: flips up to three bits, cuts it short, or puts a tail behind it.
pub(crate) fn alter(random: &mut Random, bytes: &mut Vec<u8>) {
    match random.next() % 3 {
        0 if !bytes.is_empty() => bytes.truncate((random.next() % bytes.len() as u64) as usize),
        1 => {
            let tail = 1 + random.next() % MAX_TAIL;
            (0..tail).for_each(|_| bytes.push(random.next() as u8));
        }
        _ => {
            // Three different bits at most: flipped twice, one would be whole again.
            let first = random.next() % (bytes.len() as u64 * 8).max(1);
            for bit in first..first + 1 + random.next() % 3 {
                if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}
