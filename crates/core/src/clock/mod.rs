//! One master's timeline, as this host knows it: an interval that is proven and a point that is likely.
//!
//! **Problem.** A departure happens at a [`RaceTime`], but a host only has its own [`LocalTime`]. The offset
//! θ = race − local is unknown, changes by tens of parts per million, and every packet that carries news of it
//! was delayed by an unknown amount.
//!
//! **Why the obvious answer fails.** "θ ≈ offset of the exchange with the least round trip" is wrong by half of
//! whatever queueing that exchange met, by drift × age, and says nothing of its own error. A low jitter is not
//! accuracy either: 20 ms out and 60 ms back looks perfect and is 20 ms wrong.
//!
//! **Sketch.** Every exchange with stamps T1 (local) → T2, T3 (race) → T4 (local) *proves*
//! θ ∈ \[T3 − T4 + g_r, T2 − T1 − g_f\], because no packet arrives before it left (g: propagation known to the
//! operator, 0 by default). Widened by `max_drift` × age and intersected over a window this gives the
//! [`Reading::interval`]; its reach is the `bound`. If the intersection is empty, somebody's clock stepped, the
//! route's known propagation is wrong, or somebody lies: forget everything and stand down.
//!
//! Within that interval the [estimate](fit) takes each direction's own minimum, after removing the rate that both
//! directions agree on best, and states an `expected_error`, which is statistical and never part of the bound.
//! An [unsolicited synchronisation signal](Signal) is a one-sided interval: it proves only θ ≥ T3 − T4.
//!
//! More sources (a host clock, peers of a mesh) join here: a proven one as another interval in
//! [`RaceClock::interval`], a statistical one in [`fit`]. None is built yet.
//!
//! References: Marzullo & Owicki 1983 (intersection); Moon, Skelly & Towsley 1999 (supporting lines for skew);
//! RFC 5905 (the four stamps).

mod fit;

use crate::time::{Epoch, Interval, LocalTime, RaceTime, Span};
use fit::Fit;
use std::collections::VecDeque;

/// Most samples kept: a window of 60 s at 8 exchanges per second, and a start burst.
pub const MAX_SAMPLES: usize = 512;

/// By how much a kernel timestamp can be wrong after its conversion from `CLOCK_REALTIME` to the raw clock: the
/// two readings of a sandwich are under 1 µs apart, and 10 ms of a clock that is slewed by 500 ppm are 5 µs.
const STAMP_ERROR: Span = Span::from_micros(10);

/// Exchanges before a statistical error is stated at all: with fewer, a minimum says little.
const LEAST_EXCHANGES: usize = 4;

/// How a clock is run. All spans are durations, none is negative.
#[derive(Clone, Copy, Debug)]
pub struct ClockConfig {
    /// Greatest rate between this host's and the master's clock, in parts per million.
    pub max_drift_ppm: u32,
    /// Samples older than this are forgotten.
    pub window: Span,
    /// Least propagation towards the master that the operator vouches for (g_f).
    pub least_propagation_to_master: Span,
    /// Least propagation from the master that the operator vouches for (g_r).
    pub least_propagation_from_master: Span,
    /// Greatest propagation of an unsolicited signal that the operator vouches for, the master's own sending included. With it a signal bounds the
    /// offset from both sides, on that condition; without it, from below only.
    pub greatest_signal_propagation: Option<Span>,
}

impl Default for ClockConfig {
    fn default() -> Self {
        ClockConfig {
            max_drift_ppm: 200,
            window: Span::from_secs(60),
            least_propagation_to_master: Span::ZERO,
            least_propagation_from_master: Span::ZERO,
            greatest_signal_propagation: None,
        }
    }
}

/// A two-way exchange with the master, its four stamps in the order in which they were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// T1: the request left this host, or a moment before.
    pub sent: LocalTime,
    /// T2: the request reached the master, or a moment after.
    pub received: RaceTime,
    /// T3: the reply left the master, or a moment before.
    pub replied: RaceTime,
    /// T4: the reply reached this host, or a moment after.
    pub returned: LocalTime,
}

impl Exchange {
    /// Time on the wire, both ways: (T4 − T1) − (T3 − T2).
    pub fn round_trip(&self) -> Span {
        (self.returned - self.sent) - (self.replied - self.received)
    }
}

/// An unsolicited synchronisation signal, sent by the master without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The signal left the master, or a moment before.
    pub sent: RaceTime,
    /// The signal reached this host, or a moment after.
    pub received: LocalTime,
}

/// What a sample did to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The sample agrees with what was known.
    Accepted,
    /// The sample contradicts what was known: all earlier samples are forgotten, this one is the first of a new
    /// window. The owner stands down until the clock is good again.
    Stepped,
    /// The sample contradicts itself (a reply before its request): ignored.
    Impossible,
}

/// A clock reading: the race time at a local instant, and how wrong it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The local instant that was asked for.
    pub at: LocalTime,
    /// The likely race time at `at`; always inside `interval`.
    pub estimate: RaceTime,
    /// Earliest and latest race time at `at`, proven; an unbounded end is [`Span::MIN`] or [`Span::MAX`] away
    /// and saturates. As spans since the race timeline's origin.
    pub interval: Interval,
    /// The proven bound: |estimate − truth| is no larger. [`Span::MAX`] when an end of the interval is open.
    pub bound: Span,
    /// The statistical error: what |estimate − truth| most likely stays within, asymmetry of the path aside.
    /// [`Span::MAX`] while too little was measured.
    pub expected_error: Span,
    /// Whether the bound rests on propagation figures that the operator vouched for.
    pub conditional: bool,
}

/// One side of what a packet proved: θ at a local instant is at most, or at least, `offset`.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at: LocalTime,
    offset: Span,
}

/// What one packet or exchange proved, and what it cost on the wire.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// θ ≥ `low.offset`.
    low: Edge,
    /// θ ≤ `high.offset`; none for a signal without a greatest propagation.
    high: Option<Edge>,
    /// Of a two-way exchange.
    round_trip: Option<Span>,
}

/// This host's knowledge of one master's timeline.
#[derive(Clone, Debug)]
pub struct RaceClock {
    config: ClockConfig,
    epoch: Option<Epoch>,
    samples: VecDeque<Sample>,
    fit: Option<Fit>,
    steps: u64,
}

/// θ = race − local, as a span: the only place where the two timescales meet.
fn offset(race: RaceTime, local: LocalTime) -> Span {
    Span::from_nanos(race.as_nanos().saturating_sub(local.as_nanos()))
}

impl RaceClock {
    /// A clock that knows nothing yet.
    pub fn new(config: ClockConfig) -> Self {
        RaceClock { config, epoch: None, samples: VecDeque::with_capacity(MAX_SAMPLES), fit: None, steps: 0 }
    }

    /// Names the epoch that the following samples belong to. Another epoch than before forgets everything.
    pub fn enter_epoch(&mut self, epoch: Epoch) {
        if self.epoch != Some(epoch) {
            self.forget();
            self.epoch = Some(epoch);
        }
    }

    /// The epoch that the samples belong to.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// How often a sample contradicted the earlier ones since the clock was made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Samples in the window.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// The least round trip in the window.
    pub fn least_round_trip(&self) -> Option<Span> {
        self.samples.iter().filter_map(|sample| sample.round_trip).min()
    }

    /// Drops every sample: after this host's own clock was suspended or changed hands.
    pub fn forget(&mut self) {
        self.samples.clear();
        self.fit = None;
    }

    /// Takes in a finished exchange.
    pub fn handle_exchange(&mut self, exchange: Exchange) -> Update {
        if exchange.returned < exchange.sent || exchange.replied < exchange.received {
            return Update::Impossible;
        }
        self.take(Sample {
            low: Edge {
                at: exchange.returned,
                offset: offset(exchange.replied, exchange.returned) + self.config.least_propagation_from_master,
            },
            high: Some(Edge {
                at: exchange.sent,
                offset: offset(exchange.received, exchange.sent) - self.config.least_propagation_to_master,
            }),
            round_trip: Some(exchange.round_trip()),
        })
    }

    /// Takes in an unsolicited synchronisation signal: θ ≥ T3 − T4, and, where the operator vouches for a greatest
    /// propagation g, θ ≤ T3 − T4 + g.
    pub fn handle_signal(&mut self, signal: Signal) -> Update {
        let low = offset(signal.sent, signal.received) + self.config.least_propagation_from_master;
        let high = self
            .config
            .greatest_signal_propagation
            .map(|greatest| Edge { at: signal.received, offset: offset(signal.sent, signal.received) + greatest });
        self.take(Sample { low: Edge { at: signal.received, offset: low }, high, round_trip: None })
    }

    fn take(&mut self, sample: Sample) -> Update {
        let newest = sample.low.at;
        while self.samples.len() >= MAX_SAMPLES
            || self.samples.front().is_some_and(|oldest| newest - oldest.low.at > self.config.window)
        {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let update = if self.offset_interval(newest).is_some() {
            Update::Accepted
        } else {
            self.samples.clear();
            self.samples.push_back(sample);
            self.steps += 1;
            // A sample that is empty by itself (its own propagation figures are wrong) proves nothing.
            if self.offset_interval(newest).is_none() {
                self.samples.clear();
            }
            Update::Stepped
        };
        self.fit = Fit::of(&self.samples, self.config.max_drift_ppm);
        update
    }

    /// The proven interval of θ at `at`: every edge widened by drift × age, intersected. `None` when empty.
    fn offset_interval(&self, at: LocalTime) -> Option<Interval> {
        let mut interval = Interval::UNBOUNDED;
        for sample in &self.samples {
            let slack = |edge: Edge| (at - edge.at).drift(self.config.max_drift_ppm) + STAMP_ERROR;
            interval.low = interval.low.max(sample.low.offset - slack(sample.low));
            if let Some(high) = sample.high {
                interval.high = interval.high.min(high.offset + slack(high));
            }
        }
        (interval.low <= interval.high).then_some(interval)
    }

    /// The race time at `at`, or `None` before the first sample.
    pub fn read(&self, at: LocalTime) -> Option<Reading> {
        if self.samples.is_empty() {
            return None;
        }
        let interval = self.offset_interval(at)?;
        let (likely, expected_error) = match &self.fit {
            Some(fit) => (fit.offset(at), fit.expected_error(at)),
            // Signals only: the operator's figures are all there is; the middle of them is the best guess.
            None if interval.high != Span::MAX => {
                let half = (interval.high - interval.low).half();
                (interval.low + half, half)
            }
            None => (interval.low, Span::MAX),
        };
        let likely = interval.clamp(likely);
        let race = |offset: Span| Span::from_nanos(at.as_nanos().saturating_add(offset.as_nanos()));
        Some(Reading {
            at,
            estimate: RaceTime::from_nanos(race(likely).as_nanos()),
            interval: Interval {
                low: race(interval.low),
                high: if interval.high == Span::MAX { Span::MAX } else { race(interval.high) },
            },
            bound: interval.reach(likely),
            expected_error,
            conditional: self.config.greatest_signal_propagation.is_some()
                || self.config.least_propagation_from_master != Span::ZERO
                || self.config.least_propagation_to_master != Span::ZERO,
        })
    }

    /// The local instant at which the race time will be `race`, by the estimate. `None` before the first sample.
    ///
    /// The rate is at most `max_drift_ppm`, so reading the offset at the first guess instead of at the answer is
    /// off by drift² × distance: 0.04 ns for a second at 200 ppm.
    pub fn local_at(&self, race: RaceTime, now: LocalTime) -> Option<LocalTime> {
        let reading = self.read(now)?;
        let first_guess = now + (race - reading.estimate);
        let reading = self.read(first_guess)?;
        Some(first_guess + (race - reading.estimate))
    }
}

#[cfg(test)]
mod tests;
