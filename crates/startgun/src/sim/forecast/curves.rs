//! Further forecasts for the charts: one thing is changed, everything else stays.

use startgun_core::master::Delay;
use startgun_core::time::Span;
use startgun_sim::forecast::{Clocks, Plan, Sites, Tally};

use super::nodes::COVER_MARGIN;

/// Draws of each point, at most: some minutes for all.
const DRAWS_MAX: u64 = 8;
/// Standard deviations of host clocks, in µs.
const CLOCK_ERRORS_US: [i64; 7] = [0, 500, 1_000, 2_000, 3_000, 5_000, 10_000];
/// Numbers of sites.
const SITE_COUNTS: [usize; 7] = [2, 3, 5, 8, 12, 20, 30];
/// Shares of the agents that the predetermined delay covers.
const COVERS: [f64; 7] = [0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// What changes, and what came of it.
pub struct Curve {
    pub draws: u64,
    /// By what was changed, ascending.
    pub points: Vec<(f64, Tally)>,
}

/// All curves of a report.
pub struct Curves {
    /// Over the standard deviation of host clocks in ms.
    pub by_clock_error: Curve,
    /// Over the number of sites.
    pub by_sites: Curve,
    /// Over the share of agents that is covered.
    pub by_cover: Curve,
}

impl Curves {
    /// Carries them all out with `carry_out`, which is given a plan, its number of draws and a word about it.
    pub fn of(plan: &Plan, draws: u64, carry_out: impl Fn(&Plan, u64, &'static str) -> Tally) -> Curves {
        let draws = draws.min(DRAWS_MAX);
        let curve = |what: &'static str, plans: Vec<(f64, Plan)>| Curve {
            draws,
            points: plans.into_iter().map(|(x, plan)| (x, carry_out(&plan, draws, what))).collect(),
        };
        let by_clock = |us: &i64| {
            let deviation = Span::from_micros(*us);
            (deviation.as_millis_f64(), Plan { clocks: Clocks::Host(deviation), ..plan.clone() })
        };
        let most_sites = match &plan.sites {
            Sites::Fixed(sites) => sites.len(),
            Sites::Random(_) => plan.network.count() / 2,
        };
        let by_count = |count: &usize| {
            let sites = match &plan.sites {
                Sites::Fixed(sites) => Sites::Fixed(sites[..*count].to_vec()),
                Sites::Random(_) => Sites::Random(*count),
            };
            (*count as f64, Plan { sites, ..plan.clone() })
        };
        let by_cover = |share: &f64| {
            (*share, Plan { delay: Delay::Cover { share: *share, margin: COVER_MARGIN }, ..plan.clone() })
        };
        let counts = SITE_COUNTS.iter().filter(|&&count| count <= most_sites.max(1));
        Curves {
            by_clock_error: curve("clock errors", CLOCK_ERRORS_US.iter().map(by_clock).collect()),
            by_sites: curve("numbers of sites", counts.map(by_count).collect()),
            by_cover: curve("coverages", COVERS.iter().map(by_cover).collect()),
        }
    }
}
