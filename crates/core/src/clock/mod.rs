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
//! operator, 0 by default). Carried forward with the rate that is [proven](proof) and intersected with what came before,
//! this gives the [`Reading::interval`]; its reach is the `bound`. A [host clock](host) that can be believed is one more
//! interval. If an intersection is empty, somebody's clock stepped, the route's known propagation is wrong, or somebody
//! lies: forget everything and stand down.
//!
//! Within that interval the [estimate](fit) takes each direction's own minimum, after removing the rate that both
//! directions agree on best, and states an `expected_error`, which is statistical and never part of the bound. What the
//! agents' mesh finds of this path's asymmetry moves the estimate ([`RaceClock::correct`]), never the
//! interval: a lying peer can spoil at most the guess within what the master's own exchanges prove.
//! An [unsolicited synchronisation signal](Signal) is a one-sided interval: it proves only θ ≥ T3 − T4.
//!
//! **A step may hide within the interval.** A clock that jumps by less than the path is long leaves an intersection
//! that is not empty and may not hold the truth. But queueing only makes packets slower; one that is quicker than the
//! supporting lines of all before it, by more than their own error, comes after a step or by a shorter route. Nobody can
//! tell which, so the clock is reset in either case.
//!
//! References: Marzullo & Owicki 1983 (intersection); Moon, Skelly & Towsley 1999 (supporting lines for skew);
//! RFC 5905 (the four stamps); Veitch, Ridoux & Korada 2009 (feed-forward clocks on raw counters).

mod fit;
pub mod host;
mod proof;
mod source;

use crate::planted::{self, Bug};
use crate::time::{Epoch, Interval, LocalTime, RaceTime, Span};
use fit::Fit;
use host::{HostOffsets, HostTime, UtcOnRace};
pub use proof::MAX_WANDER_PPM_PER_S;
use proof::Proof;
pub use source::{ClockSource, Decided};
use std::collections::VecDeque;

/// Most samples kept: a window of 120 s at 8 samples (exchanges and signals) per second.
pub const MAX_SAMPLES: usize = 960;

/// By how much a kernel timestamp can be wrong after its conversion from `CLOCK_REALTIME` to the raw clock: the
/// two readings of a sandwich are under 1 µs apart, and 10 ms of a clock that is slewed by 500 ppm are 5 µs.
const STAMP_ERROR: Span = Span::from_micros(10);

/// Exchanges before a statistical error is stated at all: with fewer, a minimum says little, and their spread less. The
/// first burst has them within a second.
const LEAST_EXCHANGES: usize = 8;

/// A packet that is quicker than the line allows by this, and twice the error that the line itself states, comes after a
/// step: five conversions of timestamps each way.
const STEP_TOLERANCE: Span = Span::from_micros(100);

/// A correction by the mesh that has not been renewed for this long is dropped: routes, and with them asymmetries, last
/// for minutes at least, and a mesh that answers renews it every few seconds.
const CORRECTION_LIFE: Span = Span::from_secs(300);

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
    /// Which sources count.
    pub source: ClockSource,
}

impl Default for ClockConfig {
    fn default() -> Self {
        ClockConfig {
            max_drift_ppm: 200,
            window: Span::from_secs(120),
            least_propagation_to_master: Span::ZERO,
            least_propagation_from_master: Span::ZERO,
            greatest_signal_propagation: None,
            source: ClockSource::Auto,
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
    /// Whether the bound rests on figures that the operator vouched for.
    pub conditional: bool,
    /// Who said what is likely.
    pub decided: Decided,
    /// Whether host clock and exchanges contradict each other; the interval is then the exchanges'.
    pub disagree: bool,
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

impl Sample {
    /// Of a two-way exchange: how far its two edges are apart, which is the round trip less the propagation that the
    /// operator vouches for.
    fn width(&self) -> Option<Span> {
        self.round_trip?;
        self.high.map(|high| high.offset - self.low.offset)
    }
}

/// What the mesh found of the way to the master: by how much the exchanges' estimate is off, most likely.
#[derive(Clone, Copy, Debug)]
struct Correction {
    at: LocalTime,
    by: Span,
    expected_error: Span,
}

/// This host's knowledge of one master's timeline.
#[derive(Clone, Debug)]
pub struct RaceClock {
    config: ClockConfig,
    epoch: Option<Epoch>,
    samples: VecDeque<Sample>,
    fit: Option<Fit>,
    proof: Proof,
    host: HostOffsets,
    correction: Option<Correction>,
    steps: u64,
}

/// θ = race − local, as a span: the only place where the two timescales meet.
fn offset(race: RaceTime, local: LocalTime) -> Span {
    Span::from_nanos(race.as_nanos().saturating_sub(local.as_nanos()))
}

impl RaceClock {
    /// A clock that knows nothing yet.
    pub fn new(config: ClockConfig) -> Self {
        RaceClock {
            config,
            epoch: None,
            samples: VecDeque::with_capacity(64),
            fit: None,
            proof: Proof::new(config.max_drift_ppm),
            host: HostOffsets::new(config.max_drift_ppm),
            correction: None,
            steps: 0,
        }
    }

    /// Names the epoch that the following samples belong to. Another epoch than before forgets everything of the timeline.
    pub fn enter_epoch(&mut self, epoch: Epoch) {
        if self.epoch != Some(epoch) {
            self.forget_samples();
            self.host.forget_race();
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

    /// Change of θ per second of local time by the estimate, in parts per billion; `None` before the first exchange.
    pub fn rate_ppb(&self) -> Option<i64> {
        self.fit.as_ref().map(Fit::rate_ppb)
    }

    /// This host's own clock stepped, or stood still while the host was suspended: nothing that was measured by it
    /// holds any more. What the mesh found of the path does.
    pub fn forget(&mut self) {
        self.forget_samples();
        self.host.forget_local();
        self.steps += 1;
    }

    fn forget_samples(&mut self) {
        self.samples.clear();
        self.fit = None;
        self.proof.forget();
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

    /// Where UTC lies on this host's own clock, by a source that can be believed; `None` when there is none any more.
    pub fn handle_host_time(&mut self, time: Option<HostTime>) {
        self.host.set_local(time);
    }

    /// Where UTC lies on the master's timeline, by the master.
    pub fn handle_utc(&mut self, utc: UtcOnRace) {
        self.host.set_race(utc);
    }

    /// What the mesh found: the estimate by exchanges with the master alone, made at `at`, should have been greater by
    /// `by`. It stays in force until it is replaced, for five minutes at most: it is a property of the path.
    ///
    /// Only a quarter of the difference to what was in force before is taken over: asymmetry lasts, and what changes from one
    /// set to the next is mostly the noise of its exchanges.
    pub fn correct(&mut self, at: LocalTime, by: Span, expected_error: Span) {
        let before = self.correction.filter(|made| at - made.at <= CORRECTION_LIFE);
        let by = before.map_or(by, |made| made.by + (by - made.by).half().half());
        self.correction = Some(Correction { at, by, expected_error });
    }

    fn take(&mut self, sample: Sample) -> Update {
        let newest = sample.low.at;
        while self.samples.len() >= MAX_SAMPLES
            || self.samples.front().is_some_and(|oldest| newest - oldest.low.at > self.config.window)
        {
            self.samples.pop_front();
        }
        let jumped = self.jumped(&sample);
        let held_over = self.fit.take();
        self.samples.push_back(sample);
        let agrees = !jumped && self.proof.take(&self.samples);
        let update = if agrees || planted::active(Bug::StepIgnored) {
            Update::Accepted
        } else {
            self.forget_samples();
            self.samples.push_back(sample);
            self.steps += 1;
            // A sample that is empty by itself (its own propagation figures are wrong) proves nothing.
            if !self.proof.take(&self.samples) {
                self.forget_samples();
            }
            Update::Stepped
        };
        let fresh = Fit::of(&self.samples, self.config.max_drift_ppm);
        // After a long silence the first samples say less than the line from before it, which they agree with.
        let says_enough = |fit: &Option<Fit>| fit.as_ref().is_some_and(|fit| fit.expected_error(newest) != Span::MAX);
        let holds_over = update == Update::Accepted && says_enough(&held_over) && !says_enough(&fresh);
        self.fit = if holds_over { held_over } else { fresh };
        update
    }

    /// Whether a sample was quicker, in one direction, than the line allows: queueing only makes it slower.
    fn jumped(&self, sample: &Sample) -> bool {
        let (Some(fit), Some(last)) = (&self.fit, self.samples.back()) else { return false };
        let expected_error = fit.expected_error(sample.low.at);
        if expected_error == Span::MAX {
            return false;
        }
        let off = |edge: Edge| edge.offset - fit.offset(edge.at);
        let beyond_lower = off(sample.low) + fit.half_gap();
        let two_way = sample.high.filter(|_| sample.round_trip.is_some());
        let beyond_upper = two_way.map_or(Span::MIN, |high| fit.half_gap() - off(high));
        let drift = (sample.low.at - last.low.at).drift(self.config.max_drift_ppm);
        beyond_lower.max(beyond_upper) > expected_error + expected_error + drift + STEP_TOLERANCE
    }

    /// The race time at `at`, or `None` before the first sample.
    pub fn read(&self, at: LocalTime) -> Option<Reading> {
        let by_exchange = self.proof.at(at);
        let by_host = match self.config.source {
            ClockSource::Master => None,
            ClockSource::Auto | ClockSource::Host => self.host.at(at),
        };
        let agreed = match (by_exchange, by_host) {
            (Some(exchange), Some(host)) => exchange.intersection(host.interval),
            (one, host) => one.or(host.map(|host| host.interval)),
        };
        // Where the two contradict each other, the exchanges are about this very timeline; the owner stands down.
        let disagree = agreed.is_none() && by_exchange.is_some() && by_host.is_some();
        let interval = match self.config.source {
            ClockSource::Host if !disagree => by_host?.interval,
            _ => agreed.or(by_exchange)?,
        };
        let (likely, expected_error, decided) = self.likely(at, interval, by_exchange, by_host.filter(|_| !disagree));
        let likely = interval.clamp(likely);
        let race = |offset: Span| Span::from_nanos(at.as_nanos().saturating_add(offset.as_nanos()));
        Some(Reading {
            at,
            estimate: RaceTime::from_nanos(race(likely).as_nanos()),
            interval: Interval {
                low: if interval.low == Span::MIN { Span::MIN } else { race(interval.low) },
                high: if interval.high == Span::MAX { Span::MAX } else { race(interval.high) },
            },
            bound: interval.reach(likely),
            expected_error,
            conditional: self.config.greatest_signal_propagation.is_some()
                || self.config.least_propagation_from_master != Span::ZERO
                || self.config.least_propagation_to_master != Span::ZERO
                || by_host.is_some_and(|host| host.stated),
            decided,
            disagree,
        })
    }

    /// The likely θ, its statistical error, and who said so, from what each source proves and all of them together.
    fn likely(
        &self,
        at: LocalTime,
        interval: Interval,
        by_exchange: Option<Interval>,
        host: Option<host::HostOffset>,
    ) -> (Span, Span, Decided) {
        let exchanges = by_exchange.filter(|known| known.low != Span::MIN && known.high != Span::MAX);
        let width = |interval: Interval| interval.high - interval.low;
        // Half of the way that is proven is what asymmetry can do; the narrower of the two sources knows better.
        let host_decides = host.is_some_and(|host| {
            self.config.source == ClockSource::Host || exchanges.is_none_or(|known| width(host.interval) < width(known))
        });
        match (&self.fit, host) {
            (_, Some(host)) if host_decides => (host.offset, host.interval.reach(host.offset), Decided::Host),
            (Some(fit), _) => match self.correction.filter(|made| at - made.at <= CORRECTION_LIFE) {
                Some(made) => {
                    let error = fit.expected_error(at);
                    let error = if error == Span::MAX { error } else { error + made.expected_error };
                    (fit.offset(at) + made.by, error, Decided::Mesh)
                }
                None => (fit.offset(at), fit.expected_error(at), Decided::Exchanges),
            },
            // Signals only: the operator's figures are all there is; the middle of them is the best guess.
            (None, _) if interval.high != Span::MAX && interval.low != Span::MIN => {
                let half = width(interval).half();
                (interval.low + half, half, Decided::Signals)
            }
            (None, _) => (interval.low, Span::MAX, Decided::Signals),
        }
    }

    /// θ at `at` by the exchanges with the master alone, without what the mesh or the host's clock say, and its
    /// statistical error: what an edge of the mesh is made from. `None` while too little was measured.
    pub fn direct(&self, at: LocalTime) -> Option<(Span, Span)> {
        let fit = self.fit.as_ref()?;
        let error = fit.expected_error(at);
        (error != Span::MAX).then(|| (fit.offset(at), error))
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
