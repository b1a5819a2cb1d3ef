//! The likely offset: each direction's own minimum, along the rate on which both directions agree best.
//!
//! Seen as points over local time, the forward edges T2 − T1 lie on or above the line θ(t) + d_f, the reverse
//! edges T3 − T4 on or below θ(t) − d_r. For a trial rate r let F(r) be the highest line of slope r under all
//! forward points and G(r) the lowest above all reverse points. F is concave in r, G convex, so the gap F − G is
//! concave with one maximum: there both supporting lines touch packets that waited in no queue.
//!
//! **Why the maximum is not the answer.** It is an extreme, decided by three packets, and errs by twice what the
//! packets allow. Queueing that is exponential near zero, with means m_f and m_r over n packets, makes a rate r less
//! likely by exp(n·F(r)/m_f − n·G(r)/m_r), and each supporting line lie m/n beyond the truth. So the answer is the
//! mean over all rates, weighted by that likelihood (Pitman's estimator for a location), and its spread is the
//! statistical error: with 1 ms of jitter each way and 480 packets 5 µs, against √(2/n)·m = 65 µs for the packet
//! with the least round trip. Only the convex hulls of the points matter to F and G, so a trial costs a few
//! operations, not n.
//!
//! A window that no straight line explains (its gap is far below the least round trip: the rate wandered) is of no use, and
//! one in which only the oldest packets were quick (a route has become longer) leaves the rate open. So halves, quarters and so
//! on are fitted as well, oldest left out first; a shorter one counts where the longer is not explained, and the half of all
//! where the whole states more than twice its error. No less than the half: who delays nine packets in ten wants the tenth to
//! be forgotten.
//!
//! References: Moon, Skelly & Towsley 1999 (supporting lines); Pitman 1939 (location by the posterior mean).

use super::{Edge, LEAST_EXCHANGES, Sample};
use crate::time::{LocalTime, Span};
use std::collections::VecDeque;

/// Steps of the search for the best rate: each leaves two thirds of ±200 ppm; (2/3)^48 × 400 ppm < 10⁻⁶ ppm.
const RATE_STEPS: u32 = 48;
/// Trial rates of the mean on each side of the best: enough for a sum that is right to a percent of its spread.
const TRIALS_PER_SIDE: i32 = 20;
/// Rates that are less likely than the best by e⁻¹² do not matter.
const NEGLIGIBLE_LOG: f64 = 12.0;
/// Doublings in the search for such a rate, from 10⁻⁵ ppm: 2^26 × 10⁻⁵ ppm exceeds ±200 ppm.
const WIDTH_DOUBLINGS: u32 = 26;
const LEAST_WIDTH: f64 = 1e-11;

/// Windows that are tried: two minutes, halved to a second.
const WINDOWS_MAX: usize = 8;

/// A whole window that states less than this is not compared with its half, which costs as much again to find out.
const GOOD_ENOUGH: Span = Span::from_micros(30);

/// A rate is only fitted over at least this long: over less, a millisecond of queueing looks like 1,000 ppm.
const LEAST_RATE_SPAN: Span = Span::from_millis(500);
/// Least mean queueing that is assumed, in nanoseconds: the noise of timestamps on an idle path.
const LEAST_QUEUEING_NS: f64 = 100.0;

/// How much a host's rate wanders about the window's line, in parts per million; temperature moves a crystal by
/// about this within minutes.
const WANDER_PPM: f64 = 0.2;
/// The same beyond the window's end, when the master is silent and nothing corrects the line.
const HOLDOVER_PPM: f64 = 1.0;
/// What the conversion of a kernel timestamp to the raw clock adds to the statistical error, in nanoseconds.
const STAMP_NOISE_NS: f64 = 1_000.0;
/// The stated error is this many standard deviations.
const DEVIATIONS: f64 = 3.0;
/// The error of n packets is multiplied by 1 + this / √n: three times at 8 packets, 1.3 times at 480.
const FEW_PACKETS: f64 = 6.0;
/// A window is explained by its line while no more of the least round trip is missing than this many times what
/// chance takes.
const UNEXPLAINED_TIMES: f64 = 3.0;
/// And than this in any case: ten conversions of timestamps.
const UNEXPLAINED_LEAST_NS: f64 = 10_000.0;

/// A straight line through θ, relative to an origin so that every number is small enough for an `f64`.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    origin: LocalTime,
    base: Span,
    /// θ − base at the origin, in nanoseconds.
    intercept_ns: f64,
    /// Change of θ per nanosecond.
    rate: f64,
    /// Variances and covariance of intercept and rate; infinite while too little was measured.
    variance_intercept: f64,
    covariance: f64,
    variance_rate: f64,
    /// Error that is not chance: what the line leaves unexplained, in nanoseconds.
    unexplained_ns: f64,
    /// The window's middle, relative to the origin, in nanoseconds.
    middle_ns: f64,
    /// Half of how far the two supporting lines are apart, in nanoseconds.
    half_gap_ns: f64,
}

/// Points of one direction, relative to the fit's origin and base.
struct Direction {
    points: Vec<(f64, f64)>,
    /// The points that can touch a supporting line, by time.
    hull: Vec<(f64, f64)>,
    /// Of the points' times.
    mean_ns: f64,
}

impl Direction {
    /// `sign` is 1 for points above their line, −1 for points below.
    fn new(points: impl Iterator<Item = (f64, f64)>, sign: f64) -> Self {
        let mut points: Vec<(f64, f64)> = points.map(|(t, offset)| (t, sign * offset)).collect();
        points.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let mut hull: Vec<(f64, f64)> = Vec::with_capacity(16);
        for &point in &points {
            // The middle one of three is no part of the lower hull when it lies on or above the line of the others.
            while let [.., first, second] = hull[..]
                && (second.1 - first.1) * (point.0 - first.0) >= (point.1 - first.1) * (second.0 - first.0)
            {
                hull.pop();
            }
            hull.push(point);
        }
        let mean_ns = points.iter().map(|(t, _)| t).sum::<f64>() / points.len().max(1) as f64;
        Direction { points, hull, mean_ns }
    }

    /// The supporting line's height at the origin for slope `rate` (of the signed points).
    fn support(&self, rate: f64) -> f64 {
        self.hull.iter().map(|(t, offset)| offset - rate * t).fold(f64::INFINITY, f64::min)
    }

    /// The mean of an exponential whose median is that of the points' distances from the supporting line: one wild
    /// packet does not move it.
    fn mean_queueing(&self, rate: f64) -> f64 {
        let support = self.support(rate);
        let mut excess: Vec<f64> = self.points.iter().map(|(t, offset)| offset - rate * t - support).collect();
        let middle = excess.len() / 2;
        let median = *excess.select_nth_unstable_by(middle, f64::total_cmp).1;
        (median / core::f64::consts::LN_2).max(LEAST_QUEUEING_NS)
    }
}

impl Fit {
    /// Fits the window's two-way samples; `None` when there is none. Signals take part from below.
    pub(super) fn of(samples: &VecDeque<Sample>, max_drift_ppm: u32) -> Option<Fit> {
        let newest = samples.iter().rev().find(|sample| sample.round_trip.is_some())?;
        let (origin, base) = (newest.low.at, newest.low.offset);
        let mut within = samples.front().map_or(Span::ZERO, |oldest| origin - oldest.low.at);
        let mut best: Option<(Fit, bool)> = None;
        for halvings in 0..WINDOWS_MAX {
            let used = samples.iter().filter(|sample| origin - sample.low.at <= within);
            let (fit, is_explained) = Self::of_window(used, origin, base, max_drift_ppm)?;
            let is_better = best.as_ref().is_none_or(|(best, was_explained)| match (was_explained, is_explained) {
                (true, true) if halvings == 1 => fit.expected_error(origin) < best.expected_error(origin).half(),
                (true, true) => false,
                (was, is) => is && !was,
            });
            if is_better {
                best = Some((fit, is_explained));
            }
            let is_good = |(fit, is_explained): &(Fit, bool)| *is_explained && fit.expected_error(origin) < GOOD_ENOUGH;
            let shorter = within.half();
            if best.as_ref().is_some_and(is_good) {
                break;
            }
            let exchanges = |sample: &&Sample| sample.round_trip.is_some() && origin - sample.low.at <= shorter;
            if shorter < LEAST_RATE_SPAN || samples.iter().filter(exchanges).count() < LEAST_EXCHANGES {
                break;
            }
            within = shorter;
        }
        best.map(|(fit, _)| fit)
    }

    /// Fits these samples, of which at least one is two-way; whether a straight line explains them.
    fn of_window<'a>(
        samples: impl Iterator<Item = &'a Sample> + Clone,
        origin: LocalTime,
        base: Span,
        max_drift_ppm: u32,
    ) -> Option<(Fit, bool)> {
        let relative = |edge: Edge| ((edge.at - origin).as_nanos() as f64, (edge.offset - base).as_nanos() as f64);
        let two_way = samples.clone().filter(|sample| sample.round_trip.is_some());
        let forward = Direction::new(two_way.clone().filter_map(|sample| sample.high).map(relative), 1.0);
        let reverse = Direction::new(samples.map(|sample| relative(sample.low)), -1.0);
        let least_width_ns = two_way.filter_map(Sample::width).min()?.as_nanos() as f64;

        let limit = f64::from(max_drift_ppm) / 1e6;
        // The reverse points are turned about: their line rises with −rate.
        let gap = |rate: f64| forward.support(rate) + reverse.support(-rate);
        let oldest_ns = forward.points.first()?.0;
        let exchanges = forward.points.len();
        let long_enough = -oldest_ns >= LEAST_RATE_SPAN.as_nanos() as f64 && exchanges >= LEAST_EXCHANGES;
        let best = if long_enough { highest(gap, limit) } else { 0.0 };
        let mut fit = Fit {
            origin,
            base,
            intercept_ns: (forward.support(best) - reverse.support(-best)) / 2.0,
            rate: best,
            variance_intercept: f64::INFINITY,
            covariance: 0.0,
            variance_rate: 0.0,
            unexplained_ns: 0.0,
            middle_ns: oldest_ns / 2.0,
            half_gap_ns: gap(best) / 2.0,
        };
        if exchanges < LEAST_EXCHANGES {
            return Some((fit, true));
        }
        let (m_f, m_r) = (forward.mean_queueing(best), reverse.mean_queueing(-best));
        let (n_f, n_r) = (exchanges as f64, reverse.points.len() as f64);
        // Of few packets the mean queueing itself is only a guess, and the window with the luckiest guess must not win.
        let doubt = 1.0 + FEW_PACKETS / n_f.sqrt();
        let trials = if long_enough {
            let likelihood = |rate: f64| {
                n_f / m_f * (forward.support(rate) + rate * forward.mean_ns)
                    + n_r / m_r * (reverse.support(-rate) - rate * reverse.mean_ns)
            };
            weighted_rates(likelihood, best, limit)
        } else {
            vec![(0.0, 1.0)]
        };
        let line = |rate: f64| (forward.support(rate) - m_f / n_f - reverse.support(-rate) + m_r / n_r) / 2.0;
        fit.rate = trials.iter().map(|(rate, weight)| weight * rate).sum();
        fit.intercept_ns = trials.iter().map(|(rate, weight)| weight * line(*rate)).sum();
        // What each supporting line is off by for a given rate, and what the rates' spread adds.
        fit.variance_intercept = ((m_f / n_f).powi(2) + (m_r / n_r).powi(2)) / 4.0;
        for (rate, weight) in &trials {
            let (dc, dr) = (line(*rate) - fit.intercept_ns, rate - fit.rate);
            fit.variance_intercept += weight * dc * dc;
            fit.covariance += weight * dc * dr;
            fit.variance_rate += weight * dr * dr;
        }
        let doubt_squared = doubt * doubt;
        fit.variance_intercept *= doubt_squared;
        fit.covariance *= doubt_squared;
        fit.variance_rate *= doubt_squared;
        if !long_enough {
            fit.variance_rate = (limit / 2.0).powi(2);
        }
        // By chance the least of n sums of two waits is this far above the sum of the least waits.
        let by_chance = (2.0 * m_f * m_r / n_f).sqrt();
        let missing = least_width_ns - gap(best);
        fit.unexplained_ns = (missing - by_chance).max(0.0) / 2.0;
        Some((fit, missing <= UNEXPLAINED_TIMES * by_chance + UNEXPLAINED_LEAST_NS))
    }

    /// How far either supporting line is from the line between them: what packets without queueing take, one way.
    pub(super) fn half_gap(&self) -> Span {
        Span::from_nanos(self.half_gap_ns as i64)
    }

    /// θ at `at`, on the line.
    pub(super) fn offset(&self, at: LocalTime) -> Span {
        let t = (at - self.origin).as_nanos() as f64;
        self.base + Span::from_nanos((self.intercept_ns + self.rate * t).round() as i64)
    }

    /// Change of θ per second of local time, in parts per billion.
    pub(super) fn rate_ppb(&self) -> i64 {
        (self.rate * 1e9).round() as i64
    }

    /// The statistical error at `at`; [`Span::MAX`] while too little was measured.
    pub(super) fn expected_error(&self, at: LocalTime) -> Span {
        if !self.variance_intercept.is_finite() {
            return Span::MAX;
        }
        let t = (at - self.origin).as_nanos() as f64;
        let variance = self.variance_intercept + 2.0 * t * self.covariance + t * t * self.variance_rate;
        let wander = WANDER_PPM / 1e6 * (t - self.middle_ns).abs() + HOLDOVER_PPM / 1e6 * t.max(0.0);
        let error = DEVIATIONS * variance.max(0.0).sqrt() + self.unexplained_ns + wander + STAMP_NOISE_NS;
        Span::from_nanos(error.round() as i64)
    }
}

/// Where the concave `f` is highest within ±`limit`.
fn highest(f: impl Fn(f64) -> f64, limit: f64) -> f64 {
    let (mut low, mut high) = (-limit, limit);
    for _ in 0..RATE_STEPS {
        let third = (high - low) / 3.0;
        let (left, right) = (low + third, high - third);
        if f(left) < f(right) { low = left } else { high = right }
    }
    (low + high) / 2.0
}

/// Trial rates around `best` with their weights, which sum up to 1. `log_likelihood` is concave and highest near `best`.
fn weighted_rates(log_likelihood: impl Fn(f64) -> f64, best: f64, limit: f64) -> Vec<(f64, f64)> {
    let peak = log_likelihood(best);
    let mut trials = Vec::with_capacity(2 * TRIALS_PER_SIDE as usize + 1);
    trials.push((best, peak));
    let mut steps = [0.0; 2];
    for (step, sign) in steps.iter_mut().zip([-1.0, 1.0]) {
        let mut width = LEAST_WIDTH;
        for _ in 0..WIDTH_DOUBLINGS {
            if log_likelihood(best + sign * width) < peak - NEGLIGIBLE_LOG {
                break;
            }
            width *= 2.0;
        }
        let width = width.min((limit - sign * best).max(LEAST_WIDTH));
        *step = width / f64::from(TRIALS_PER_SIDE);
        trials.extend((1..=TRIALS_PER_SIDE).map(|trial| {
            let rate = best + sign * *step * f64::from(trial);
            (rate, log_likelihood(rate))
        }));
    }
    let greatest = trials.iter().map(|(_, log)| *log).fold(f64::NEG_INFINITY, f64::max);
    // Each trial stands for the stretch of rates about it; the two sides have steps of their own.
    let stretch = |rate: f64| if rate == best { (steps[0] + steps[1]) / 2.0 } else { steps[usize::from(rate > best)] };
    let mut sum = 0.0;
    for (rate, weight) in &mut trials {
        *weight = stretch(*rate) * (*weight - greatest).exp();
        sum += *weight;
    }
    trials.iter_mut().for_each(|(_, weight)| *weight /= sum);
    trials
}
