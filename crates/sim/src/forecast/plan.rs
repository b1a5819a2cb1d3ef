//! What is to be forecast, and the threads that do it.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use startgun_core::master::Delay;
use startgun_core::time::Span;

use super::network::Network;
use super::tally::Tally;
use crate::options::MAX_HOSTS;
use crate::random::Random;

/// Most sites: each is an agent of a world.
pub const MAX_SITES: usize = MAX_HOSTS;

/// Which places are sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// These, in every draw.
    Fixed(Vec<usize>),
    /// So many, drawn anew.
    Random(usize),
}

/// How the agents' clocks are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// By their hosts' clocks alone, whose errors have this standard deviation. Each keeper states a bound of four of it.
    Host(Span),
    /// By exchanges with the master alone.
    Master,
    /// By exchanges with the master and among the agents.
    Mesh,
    /// As [`Clocks::Host`], without error or drift.
    Perfect,
}

/// What is forecast.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The places.
    pub network: Network,
    /// Which of them are sites; all others are clients.
    pub sites: Sites,
    /// Where the master is; by default where the first site is.
    pub master: Option<usize>,
    /// Standard deviation of e: of a round trip R, R(½ + e) passes one way and R(½ − e) the other, with an e for each pair
    /// of places and draw.
    pub asymmetry_deviation: f64,
    /// How clocks are set.
    pub clocks: Clocks,
    /// The predetermined delay.
    pub delay: Delay,
    /// Of everything that is drawn.
    pub seed: u64,
}

impl Plan {
    /// How many sites each draw has.
    pub fn site_count(&self) -> usize {
        match &self.sites {
            Sites::Fixed(sites) => sites.len(),
            Sites::Random(count) => *count,
        }
    }

    /// Carries draws out on so many threads, `drawn` being called after each; the figures are the same for any number.
    ///
    /// # Panics
    /// If the plan makes no sense: no site, more than [`MAX_SITES`], a site twice, no client, or a place that is not there.
    pub fn carry_out(&self, draws: Range<u64>, threads: usize, drawn: &(dyn Fn() + Sync)) -> Tally {
        self.check();
        let next = AtomicU64::new(draws.start);
        let work = || {
            let mut tally = Tally::default();
            loop {
                let draw = next.fetch_add(1, Ordering::Relaxed);
                if draw >= draws.end {
                    return tally;
                }
                self.draw(draw, &mut tally);
                drawn();
            }
        };
        let mut total = Tally::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                match worker.join() {
                    Ok(tally) => total.merge(&tally),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        total
    }

    fn check(&self) {
        let count = self.network.count();
        let sites = self.site_count();
        assert!((1..=MAX_SITES).contains(&sites), "{sites} sites, from 1 to {MAX_SITES}");
        assert!(sites < count, "{sites} of {count} places are sites: nobody is left to ask");
        assert!(self.master.is_none_or(|master| master < count), "the master is at a place that is not there");
        if let Sites::Fixed(sites) = &self.sites {
            assert!(sites.iter().all(|&site| site < count), "a site is at a place that is not there");
            assert!(sites.iter().enumerate().all(|(at, site)| !sites[..at].contains(site)), "a site is there twice");
        }
    }

    /// A stream of chance for one purpose in one draw, and one thing of those that it is needed for.
    pub(super) fn random(&self, purpose: &[u8; 8], draw: u64, thing: u64) -> Random {
        Random::named(self.seed, [u64::from_be_bytes(*purpose), draw, thing])
    }
}
