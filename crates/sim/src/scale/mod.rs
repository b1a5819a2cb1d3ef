//! A population: a million resolvers that ask as resolvers do, and what master and sites carry of it.
//!
//! **Problem.** What an operator must buy for a million resolvers can neither be tried in a lab nor be read off one
//! race: how many questions end in caches, how many queries race, what their orders and answers weigh on links.
//! **Sketch.** The population is cut into [`PARTS`] parts by number, each in a [`World`](crate::World) of its own with all
//! sites and two shards of the master: a source belongs to one shard, and shards share nothing, so that is how a master of
//! 16 cores divides it as well. Parts run beside each other on threads; what they come to are sums. So the figures are a
//! function of [`ScaleOptions`] alone.
//!
//! **The workload.** Every resolver asks once, at a moment of its own; [`ScaleOptions::queries`] more questions fall on
//! resolvers by Zipf's law (exponent 1, rank is the resolver's number), and all are for names of Zipf's popularity. The rate
//! follows a day that is compressed into [`ScaleOptions::seconds`]: it rises in a straight line from 0.4 of its mean at
//! midnight to 1.6 at noon, everywhere at once. Answers of sites live 30 s in a resolver's cache, the master's own 10 s; clients
//! that ask for a name that is on its way join the query. Nobody is known to the master at first: who is told to come
//! back over TCP does so (two round trips), and races from the next query on. Resolvers have no cookies. Without an answer
//! they ask again after 376 ms, then after twice as long, and give up after the third.
//!
//! **Not modelled.** Processing takes no time: what cores carry is computed from measured costs, not simulated; no two
//! orders share a datagram. Clocks are right to 0.1 ms (standard deviation) by their hosts, about as right as a mesh sets
//! them, which would cost each part as much as the races. Agents exchange with every part's master, each [`PARTS`] times less
//! often than with a master of its own, so that exchanges weigh what they would. Synchronisation signals, one a second to
//! each agent from each part, weigh [`PARTS`] times as much; they are less than a hundredth of the packets.

mod figures;
mod part;
mod workload;

use startgun_core::master::Delay;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::forecast::Plan;
use crate::options::{MAX_HOSTS, Places};
pub use figures::{AT_MASTER, Choice, Figures, Flow, HOURS, Hour, Link};
use part::Part;

/// Parts of the population. The figures depend on it, so it is not an option.
pub const PARTS: usize = 8;
/// Most resolvers: 8 parts × 2 shards × 65,536 validated sources that a shard remembers.
pub const MAX_RESOLVERS: usize = 1 << 20;
/// Most names; resolvers' caches would still fit, but Zipf's tail beyond adds nothing to caches.
pub const MAX_NAMES: usize = 1 << 20;
/// Most seconds that the day is compressed into.
pub const MAX_SECONDS: u32 = 86_400;

/// A population and its sites.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// How many resolvers, from 1 to [`MAX_RESOLVERS`].
    pub resolvers: usize,
    /// The paths between places; which hosts are where is filled in.
    pub places: Places,
    /// How many resolvers each place has, in proportion; as many as places.
    pub weights: Vec<u64>,
    /// Where each site is; 1 to [`MAX_HOSTS`].
    pub sites: Vec<u16>,
    /// Where the master is.
    pub master: u16,
    /// How the predetermined delay is found.
    pub delay: Delay,
    /// How many names are asked for, from 1 to [`MAX_NAMES`].
    pub names: usize,
    /// Questions beyond each resolver's first, as expected.
    pub queries: u64,
    /// Virtual seconds that the day is compressed into, from [`HOURS`] to [`MAX_SECONDS`].
    pub seconds: u32,
    /// Decides everything that chance does.
    pub seed: u64,
}

impl ScaleOptions {
    /// A million resolvers, as many at each place from which the master is reached, with sites, master, paths and
    /// predetermined delay as the first draw of a plan has them. Sites that the master does not reach are left out.
    ///
    /// # Panics
    /// If the plan has more than [`MAX_PLACES`](crate::MAX_PLACES) places.
    pub fn of(plan: &Plan) -> Self {
        let draw = plan.places(0);
        let count = plan.network.count();
        let reaches_master = |place: usize| plan.network.trip(place, draw.master).is_some();
        let sites = draw.sites.iter().filter(|site| reaches_master(**site));
        ScaleOptions {
            resolvers: 1_000_000,
            places: Places::new(count, |from, to| plan.paths(0, from, to).0),
            weights: (0..count).map(|place| u64::from(reaches_master(place))).collect(),
            sites: sites.map(|site| *site as u16).collect(),
            master: draw.master as u16,
            delay: plan.delay,
            names: 1_000,
            queries: 500_000,
            seconds: 600,
            seed: plan.seed,
        }
    }

    /// How often [`run`] reports progress: after each virtual second of each part.
    pub fn steps(&self) -> u64 {
        PARTS as u64 * (u64::from(self.seconds) + part::AFTER_MIDNIGHT_S)
    }

    fn check(&self) {
        let is_within = (1..=MAX_RESOLVERS).contains(&self.resolvers)
            && (1..=MAX_HOSTS).contains(&self.sites.len())
            && (1..=MAX_NAMES).contains(&self.names)
            && (HOURS as u32..=MAX_SECONDS).contains(&self.seconds);
        assert!(is_within, "a population within its limits");
        assert_eq!(self.weights.len(), self.places.count(), "a weight for each place");
        assert!(self.weights.iter().any(|weight| *weight > 0), "somebody is somewhere");
    }
}

/// Lives through the day on so many threads; `step` is called [`ScaleOptions::steps`] times, by any of them. The figures do
/// not depend on the threads.
///
/// # Panics
/// If options are out of their ranges.
pub fn run(options: &ScaleOptions, threads: usize, step: &(dyn Fn() + Sync)) -> Figures {
    options.check();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Figures)>> = Mutex::new(Vec::new());
    let work = || {
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= PARTS {
                return;
            }
            let figures = Part::new(options, part).run(step);
            if let Ok(mut done) = done.lock() {
                done.push((part, figures));
            }
        }
    };
    std::thread::scope(|scope| (0..threads.clamp(1, PARTS)).for_each(|_| drop(scope.spawn(work))));
    let mut parts = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert_eq!(parts.len(), PARTS, "a thread ended early");
    parts.sort_by_key(|(part, _)| *part);
    let mut sum = Figures::new(options.sites.len());
    parts.iter().for_each(|(_, figures)| sum.add(figures));
    sum
}
