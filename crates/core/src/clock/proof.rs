//! What is proven of θ = race − local: an interval at one instant, and how fast it can change.
//!
//! Every edge of a sample is true at its own instant. Carried to another instant it widens, because the two clocks
//! run at different rates. How different? `max_drift` is what the operator promises: nobody's crystal is worse. Where
//! paths are short the exchanges themselves prove more: between two of them the *mean* rate lies within
//! (their interval widths) / (time between), and a crystal's rate does not jump: [`MAX_WANDER_PPM_PER_S`]. So each edge is
//! widened by the narrower of the two, [`RateBand`].
//!
//! One interval is kept, at the newest instant; each sample is intersected with what the interval before has widened
//! to. Nothing is forgotten by age: old knowledge widens until newer knowledge is narrower everywhere. An empty
//! intersection means that a clock stepped, that the operator's figures are wrong, or that somebody lies.

use super::{Edge, STAMP_ERROR, Sample};
use crate::time::{Interval, LocalTime, Span};
use std::collections::VecDeque;

/// Fastest change of the rate between two hosts, in ppm per second, that a proven rate allows for. A crystal moves by
/// about 1 ppm/K at the steepest and a board by a kelvin per second when it is set on fire; 5 leaves a factor of five.
pub const MAX_WANDER_PPM_PER_S: i64 = 5;

/// A rate is proven from exchanges at most this far apart: with a width of 30 µs the sum of width/span and wander × span
/// is least, 24 ppm, at 2.4 s.
const RATE_SPAN_MAX: Span = Span::from_secs(4);
/// And at least this far: over less nothing narrower than `max_drift` can be proven (20 µs of stamps / 0.1 s).
const RATE_SPAN_MIN: Span = Span::from_millis(100);
/// Samples looked at for a rate: 4 s at 8 exchanges a second and as many signals.
const RATE_SAMPLES_MAX: usize = 64;

const BILLION: i128 = 1_000_000_000;

/// The mean rate dθ/dlocal within a span of time about an instant, in parts per billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateBand {
    at: LocalTime,
    span: Span,
    low_ppb: i64,
    high_ppb: i64,
}

impl RateBand {
    /// By how much θ can change from one instant to another, at least and at most.
    fn change(self, from: LocalTime, to: LocalTime) -> (Span, Span) {
        let farthest = (from - self.at).abs().max((to - self.at).abs()) + self.span;
        let wander_ppb = wander_ppb(farthest);
        let (low, high) = (self.low_ppb.saturating_sub(wander_ppb), self.high_ppb.saturating_add(wander_ppb));
        let elapsed = i128::from((to - from).as_nanos());
        let (one, other) = (elapsed * i128::from(low), elapsed * i128::from(high));
        (span(one.min(other).div_euclid(BILLION)), span(-(-one.max(other)).div_euclid(BILLION)))
    }
}

fn wander_ppb(over: Span) -> i64 {
    let ppb = i128::from(over.as_nanos()) * i128::from(MAX_WANDER_PPM_PER_S) * 1_000;
    ppb.div_euclid(BILLION).min(i128::from(i64::MAX)) as i64 + 1
}

fn span(nanos: i128) -> Span {
    Span::from_nanos(nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

/// The proven interval of θ, and the proven rate where there is one.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    max_drift_ppm: u32,
    interval: Option<(LocalTime, Interval)>,
    band: Option<RateBand>,
}

impl Proof {
    pub(super) fn new(max_drift_ppm: u32) -> Self {
        Proof { max_drift_ppm, interval: None, band: None }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.interval = None;
        self.band = None;
    }

    /// Takes in the newest of `samples`; `false` when it contradicts what was known, which then stays as it was.
    pub(super) fn take(&mut self, samples: &VecDeque<Sample>) -> bool {
        let Some(newest) = samples.back() else { return true };
        let at = self.interval.map_or(newest.low.at, |(at, _)| at.max(newest.low.at));
        let band = prove_rate(samples, self.max_drift_ppm);
        let earlier = self.band;
        self.band = band.or(earlier);
        let known = self.at(at).unwrap_or(Interval::UNBOUNDED);
        match self.carried(newest, at).and_then(|new| known.intersection(new)) {
            Some(interval) => {
                self.interval = Some((at, interval));
                true
            }
            None => {
                self.band = earlier;
                false
            }
        }
    }

    /// What one sample proves at another instant; `None` when its own two sides contradict each other.
    fn carried(&self, sample: &Sample, at: LocalTime) -> Option<Interval> {
        let lowest = |edge: Edge| edge.offset - STAMP_ERROR + self.change(edge.at, at).0;
        let highest = |edge: Edge| edge.offset + STAMP_ERROR + self.change(edge.at, at).1;
        let (low, high) = (lowest(sample.low), sample.high.map_or(Span::MAX, highest));
        (low <= high).then_some(Interval { low, high })
    }

    /// By how much θ can change from one instant to another, at least and at most: `max_drift`, or what is proven.
    fn change(&self, from: LocalTime, to: LocalTime) -> (Span, Span) {
        let drift = (to - from).drift(self.max_drift_ppm);
        match self.band {
            None => (-drift, drift),
            Some(band) => {
                let (low, high) = band.change(from, to);
                // A proof beyond what the operator promised would have no overlap left: the promise then stands.
                let (low, high) = (low.max(-drift), high.min(drift));
                if low <= high { (low, high) } else { (-drift, drift) }
            }
        }
    }

    /// The proven interval at an instant; `None` before the first sample.
    pub(super) fn at(&self, at: LocalTime) -> Option<Interval> {
        let (known_at, interval) = self.interval?;
        let (low, high) = self.change(known_at, at);
        Some(Interval {
            low: if interval.low == Span::MIN { Span::MIN } else { interval.low + low },
            high: if interval.high == Span::MAX { Span::MAX } else { interval.high + high },
        })
    }
}

/// The narrowest rate that the newest sample proves together with an earlier one; `None` where none is narrower than
/// `max_drift`, or where the two contradict it.
fn prove_rate(samples: &VecDeque<Sample>, max_drift_ppm: u32) -> Option<RateBand> {
    let newest = samples.back()?;
    let newest_high = newest.high?;
    let max_ppb = i64::from(max_drift_ppm) * 1_000;
    let mut best: Option<(i64, RateBand)> = None;
    for earlier in samples.iter().rev().skip(1).take(RATE_SAMPLES_MAX) {
        let Some(earlier_high) = earlier.high else { continue };
        // Rise of θ from the earlier upper edge to the newer lower edge, and the other way about.
        let (rise_low, rise_high) = (newest.low.at - earlier_high.at, newest_high.at - earlier.low.at);
        if rise_low > RATE_SPAN_MAX {
            break;
        }
        if rise_high < RATE_SPAN_MIN {
            continue;
        }
        let stamps = STAMP_ERROR + STAMP_ERROR;
        let per = |rise: Span, over: Span| i128::from(rise.as_nanos()) * BILLION / i128::from(over.as_nanos());
        // The mean rate over the longer span is at least `low`, over the shorter one within it at most `high`; so somewhere
        // within the longer span the rate is that, and from there it may wander (`RateBand::change`).
        let low = per(newest.low.offset - earlier_high.offset - stamps, rise_low) - 1;
        let high = per(newest_high.offset - earlier.low.offset + stamps, rise_high) + 1;
        let clamp = |ppb: i128| ppb.clamp(-i128::from(max_ppb) * 4, i128::from(max_ppb) * 4) as i64;
        let (low_ppb, high_ppb) = (clamp(low), clamp(high));
        let width = high_ppb.saturating_sub(low_ppb).saturating_add(2 * wander_ppb(rise_low));
        if low_ppb <= high_ppb && width < 2 * max_ppb && best.is_none_or(|(least, _)| width < least) {
            let middle = earlier_high.at + rise_low.half();
            best = Some((width, RateBand { at: middle, span: rise_low.half(), low_ppb, high_ppb }));
        }
    }
    best.map(|(_, band)| band)
}
