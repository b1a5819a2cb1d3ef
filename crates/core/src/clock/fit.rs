//! The likely offset: each direction's own minimum, along the rate on which both directions agree best.
//!
//! Seen as points over local time, the forward edges T2 − T1 lie on or above the line θ(t) + d_f, the reverse
//! edges T3 − T4 on or below θ(t) − d_r. For a trial rate r let F(r) be the highest line of slope r under all
//! forward points and G(r) the lowest above all reverse points. F is concave in r, G convex, so the gap F − G is
//! concave with one maximum, and that is at the true rate: there both supporting lines touch packets that waited
//! in no queue. The offset is midway between the two lines. A minimum over n packets with a mean queueing of m
//! lies m/n above the truth, against √(2/n)·m for the packet with the least round trip.

use super::{Edge, LEAST_EXCHANGES, STAMP_ERROR, Sample};
use crate::time::{LocalTime, Span};
use std::collections::VecDeque;

/// Steps of the search for the rate: each leaves two thirds of ±200 ppm; (2/3)^48 × 400 ppm < 10⁻⁶ ppm.
const RATE_STEPS: u32 = 48;

/// A rate is only fitted over at least this long: over less, a millisecond of queueing looks like 1,000 ppm.
const LEAST_RATE_SPAN: Span = Span::from_millis(500);

/// How much a host's rate wanders over a minute, in parts per million; temperature moves a crystal by about this.
const WANDER_PPM: f64 = 0.2;

/// A straight line through θ, relative to an origin so that every number is small enough for an `f64`.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    origin: LocalTime,
    base: Span,
    /// θ − base at the origin, in nanoseconds.
    intercept_ns: f64,
    /// Change of θ per nanosecond.
    rate: f64,
    /// Statistical error within the window, in nanoseconds; infinite while too little was measured.
    error_ns: f64,
    /// By how much the error grows per nanosecond of distance from the window's middle.
    error_rate: f64,
    middle_ns: f64,
}

/// Points of one direction, relative to the fit's origin and base.
struct Direction {
    points: Vec<(f64, f64)>,
    sign: f64,
}

impl Direction {
    /// The supporting line's height at the origin, for slope `rate`: F(r), or −G(r) by the sign.
    fn support(&self, rate: f64) -> f64 {
        self.points.iter().map(|(t, offset)| self.sign * (offset - rate * t)).fold(f64::INFINITY, f64::min)
    }

    /// Half of the points lie no further than this from the supporting line; divided by ln 2 it is the mean of
    /// an exponential, and one wild packet does not move it.
    fn median_excess(&self, rate: f64) -> f64 {
        let support = self.support(rate);
        let mut excess: Vec<f64> =
            self.points.iter().map(|(t, offset)| self.sign * (offset - rate * t) - support).collect();
        let middle = excess.len() / 2;
        *excess.select_nth_unstable_by(middle, f64::total_cmp).1
    }
}

impl Fit {
    /// Fits the window's two-way samples; `None` when there is none. Signals take part from below.
    pub(super) fn of(samples: &VecDeque<Sample>, max_drift_ppm: u32) -> Option<Fit> {
        let newest = samples.iter().rev().find(|sample| sample.round_trip.is_some())?;
        let (origin, base) = (newest.low.at, newest.low.offset);
        let relative = |edge: Edge| ((edge.at - origin).as_nanos() as f64, (edge.offset - base).as_nanos() as f64);
        let two_way = || samples.iter().filter(|sample| sample.round_trip.is_some());
        let forward =
            Direction { points: two_way().filter_map(|sample| sample.high).map(relative).collect(), sign: 1.0 };
        let reverse = Direction { points: samples.iter().map(|sample| relative(sample.low)).collect(), sign: -1.0 };

        let oldest_ns = forward.points.first().map_or(0.0, |point| point.0);
        let span_ns = -oldest_ns;
        let gap = |rate: f64| forward.support(rate) + reverse.support(rate);
        let long_enough = span_ns >= LEAST_RATE_SPAN.as_nanos() as f64 && forward.points.len() >= LEAST_EXCHANGES;
        let rate = if long_enough { highest(gap, f64::from(max_drift_ppm) / 1e6) } else { 0.0 };

        let intercept_ns = (forward.support(rate) - reverse.support(rate)) / 2.0;
        let least_round_trip = two_way().filter_map(|sample| sample.round_trip).min()?;
        let mut fit = Fit {
            origin,
            base,
            intercept_ns,
            rate,
            error_ns: f64::INFINITY,
            error_rate: WANDER_PPM / 1e6,
            middle_ns: oldest_ns / 2.0,
        };
        let exchanges = forward.points.len() as f64;
        if forward.points.len() >= LEAST_EXCHANGES {
            let mean_queueing =
                (forward.median_excess(rate) + reverse.median_excess(rate)) / (2.0 * core::f64::consts::LN_2);
            // Three times the expected excess of the minimum of n exponentials.
            let minimum_ns = 3.0 * mean_queueing / exchanges;
            // A gap below the least round trip cannot be: no straight line explains the window. Half of what is
            // missing is how far the line may be off.
            let unexplained_ns = (least_round_trip.as_nanos() as f64 - gap(rate)).max(0.0) / 2.0;
            fit.error_ns = minimum_ns + unexplained_ns + STAMP_ERROR.as_nanos() as f64;
            fit.error_rate += if long_enough { 2.0 * minimum_ns / span_ns } else { f64::from(max_drift_ppm) / 1e6 };
        }
        Some(fit)
    }

    /// θ at `at`, on the line.
    pub(super) fn offset(&self, at: LocalTime) -> Span {
        let t = (at - self.origin).as_nanos() as f64;
        self.base + Span::from_nanos((self.intercept_ns + self.rate * t).round() as i64)
    }

    /// The statistical error at `at`; [`Span::MAX`] while too little was measured.
    pub(super) fn expected_error(&self, at: LocalTime) -> Span {
        if !self.error_ns.is_finite() {
            return Span::MAX;
        }
        let t = (at - self.origin).as_nanos() as f64;
        Span::from_nanos((self.error_ns + self.error_rate * (t - self.middle_ns).abs()).round() as i64)
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
