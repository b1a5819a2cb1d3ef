//! What a scenario's runs came to, and what they were asked to keep.

use startgun_core::time::Span;

use crate::records::{DepartureRecord, ReadingRecord};

/// An honest expected error covers the true one this many times over.
const HONEST_TIMES: i64 = 3;

/// What must hold in a scenario; absent figures are not judged. That no bound is violated holds in all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// 95th percentile of the magnitude of the error, once settled.
    pub error_p95: Option<Span>,
    /// 99th percentile.
    pub error_p99: Option<Span>,
    /// Greatest error.
    pub error_max: Option<Span>,
    /// Median of the stated bound, once settled.
    pub bound_median: Option<Span>,
    /// Greatest stated bound.
    pub bound_max: Option<Span>,
    /// Of a million settled readings, so many have |error| ≤ 3 × expected error at least. Only where paths are
    /// symmetric: asymmetry is what an expected error leaves out.
    pub honest_ppm: Option<u64>,
    /// All agents race this long after the world's beginning.
    pub ready_within: Option<Span>,
    /// Times that agents stood down without a fault that asked for it.
    pub stand_downs: Option<u64>,
    /// After a fault every agent that it concerns stands down at the latest with this reply to a request sent after it.
    pub stood_down_by_reply: Option<u32>,
    /// All agents that a fault concerned race again this long after its cause went away.
    pub again_within: Option<Span>,
    /// Root mean square of the agents' mutual error: what is left when their common error is taken off.
    pub mutual_rms: Option<Span>,
}

/// What was seen, of one run or several.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Exchanges whose reply came.
    pub exchanges: u64,
    /// Readings that were judged.
    pub readings: u64,
    /// Readings whose bound did not contain the truth.
    pub bound_violations: u64,
    /// Readings after a fault that no clock can know of, before the first whole exchange since: not judged.
    pub blind: u64,
    /// Answers that departed and were judged.
    pub departures: u64,
    /// Of those, how many were further from T than the bound that the clock stated at that instant
    /// or when it fixed it.
    pub departure_violations: u64,
    /// The first violation, with its seed.
    pub first_violation: Option<(u64, String)>,
    /// Magnitudes of settled errors, in nanoseconds.
    errors: Vec<i64>,
    /// Settled bounds, in nanoseconds; readings with an open one are left out, here and in the errors.
    bounds: Vec<i64>,
    /// Settled readings with |error| ≤ 3 × expected error, and all that stated one.
    honest: (u64, u64),
    /// Time to ready of each run.
    ready: Vec<Span>,
    /// Times that agents stood down without a fault that asked for it.
    pub stand_downs: u64,
    /// The first of them, with its seed.
    first_stand_down: Option<(u64, String)>,
    /// Reply by which each agent stood down after a fault; [`u32::MAX`] for never.
    stood_down: Vec<u32>,
    /// Time from the end of a cause until all race again.
    again: Vec<Span>,
    /// Sum of squares of mutual errors in µs², and how many.
    mutual: (f64, u64),
    sorted: bool,
}

impl Figures {
    pub(super) fn take_reading(&mut self, seed: u64, reading: &ReadingRecord, settled: bool) {
        if reading.blind {
            self.blind += 1;
            return;
        }
        self.readings += 1;
        if !reading.holds {
            self.bound_violations += 1;
            self.first_violation.get_or_insert_with(|| (seed, format!("{reading:?}")));
        }
        if !settled {
            return;
        }
        self.sorted = false;
        // An open bound says that nothing is known yet (a signal alone came since a reset), and no agent races by it.
        if reading.bound == Span::MAX {
            return;
        }
        self.errors.push(reading.error.abs().as_nanos());
        self.bounds.push(reading.bound.as_nanos());
        if reading.expected_error != Span::MAX {
            self.honest.1 += 1;
            let covered = reading.expected_error.as_nanos().saturating_mul(HONEST_TIMES);
            self.honest.0 += u64::from(reading.error.abs().as_nanos() <= covered);
        }
    }

    /// Takes in a departure: how far it was from T, truly, and how far its clock was from the truth.
    pub(super) fn take_departure(&mut self, seed: u64, departure: &DepartureRecord) {
        let (Some(bound), Some(clock_error), Some(t)) = (departure.bound, departure.clock_error, departure.transmit_at)
        else {
            return;
        };
        if !departure.departed() || departure.blind {
            return;
        }
        self.departures += 1;
        // The instant was fixed by an earlier reading, whose bound may have been wider; a nanosecond for roundings.
        let bound = bound.max(departure.timed_within.unwrap_or(bound)) + Span::from_nanos(1);
        let away = (departure.race_time - t).abs().max(clock_error.abs());
        if away > bound {
            self.departure_violations += 1;
            self.first_violation.get_or_insert_with(|| (seed, format!("{away:?} from T: {departure:?}")));
        }
    }

    pub(super) fn take_ready(&mut self, after: Span) {
        self.ready.push(after);
    }

    pub(super) fn take_stand_down(&mut self, seed: u64, what: impl FnOnce() -> String) {
        self.stand_downs += 1;
        self.first_stand_down.get_or_insert_with(|| (seed, what()));
    }

    pub(super) fn take_stood_down(&mut self, reply: u32) {
        self.stood_down.push(reply);
    }

    pub(super) fn take_again(&mut self, after: Span) {
        self.again.push(after);
    }

    /// Takes in the agents' errors at one instant.
    pub(super) fn take_mutual(&mut self, errors: &[Span]) {
        if errors.len() < 2 {
            return;
        }
        let micros = errors.iter().map(|error| error.as_micros_f64());
        let mean = micros.clone().sum::<f64>() / errors.len() as f64;
        self.mutual.0 += micros.map(|error| (error - mean).powi(2)).sum::<f64>();
        self.mutual.1 += errors.len() as u64;
    }

    /// Adds another run's figures.
    pub fn merge(&mut self, other: Figures) {
        self.exchanges += other.exchanges;
        self.readings += other.readings;
        self.bound_violations += other.bound_violations;
        self.blind += other.blind;
        self.departures += other.departures;
        self.departure_violations += other.departure_violations;
        self.first_violation = self.first_violation.take().or(other.first_violation);
        self.errors.extend(other.errors);
        self.bounds.extend(other.bounds);
        self.honest = (self.honest.0 + other.honest.0, self.honest.1 + other.honest.1);
        self.ready.extend(other.ready);
        self.stand_downs += other.stand_downs;
        self.first_stand_down = self.first_stand_down.take().or(other.first_stand_down);
        self.stood_down.extend(other.stood_down);
        self.again.extend(other.again);
        self.mutual = (self.mutual.0 + other.mutual.0, self.mutual.1 + other.mutual.1);
        self.sorted = false;
    }

    /// Puts the figures in order, so that percentiles can be had.
    pub fn sort(&mut self) {
        self.errors.sort_unstable();
        self.bounds.sort_unstable();
        self.sorted = true;
    }

    /// A percentile of the magnitude of the settled error; `None` without readings.
    ///
    /// # Panics
    /// Before [`Figures::sort`].
    pub fn error(&self, percent: usize) -> Option<Span> {
        assert!(self.sorted || self.errors.is_empty(), "sort first");
        percentile(&self.errors, percent)
    }

    /// A percentile of the settled bound; `None` without readings.
    ///
    /// # Panics
    /// Before [`Figures::sort`].
    pub fn bound(&self, percent: usize) -> Option<Span> {
        assert!(self.sorted || self.bounds.is_empty(), "sort first");
        percentile(&self.bounds, percent)
    }

    /// Of a million settled readings that stated an expected error, how many were within three times that.
    pub fn honest_ppm(&self) -> Option<u64> {
        (self.honest.1 > 0).then(|| self.honest.0 * 1_000_000 / self.honest.1)
    }

    /// Greatest time to ready.
    pub fn ready(&self) -> Option<Span> {
        self.ready.iter().max().copied()
    }

    /// The latest reply by which an agent stood down; [`u32::MAX`] when one did not.
    pub fn stood_down_by_reply(&self) -> Option<u32> {
        self.stood_down.iter().max().copied()
    }

    /// Greatest time until all raced again.
    pub fn again(&self) -> Option<Span> {
        self.again.iter().max().copied()
    }

    /// Root mean square of the agents' mutual error.
    pub fn mutual_rms(&self) -> Option<Span> {
        (self.mutual.1 > 0).then(|| Span::from_nanos(((self.mutual.0 / self.mutual.1 as f64).sqrt() * 1e3) as i64))
    }

    /// What the figures do not keep, in words; empty when all is well.
    ///
    /// # Panics
    /// Before [`Figures::sort`].
    pub fn judge(&self, limits: &Limits) -> Vec<String> {
        let mut broken = Vec::new();
        let told = |first: &Option<(u64, String)>| match first {
            Some((seed, what)) => format!("; the first with seed {seed}: {what}"),
            None => String::new(),
        };
        let first = || told(&self.first_violation);
        if self.bound_violations > 0 {
            broken.push(format!("{} of {} bounds violated{}", self.bound_violations, self.readings, first()));
        }
        if self.departure_violations > 0 {
            let (violations, departures) = (self.departure_violations, self.departures);
            broken.push(format!("{violations} of {departures} departures beyond their bound{}", first()));
        }
        if self.readings == 0 {
            broken.push("no reading was judged".into());
        }
        let spans = [
            ("error p95", self.error(95), limits.error_p95),
            ("error p99", self.error(99), limits.error_p99),
            ("greatest error", self.error(100), limits.error_max),
            ("median bound", self.bound(50), limits.bound_median),
            ("greatest bound", self.bound(100), limits.bound_max),
            ("time to ready", self.ready(), limits.ready_within),
            ("time to race again", self.again(), limits.again_within),
            ("mutual error", self.mutual_rms(), limits.mutual_rms),
        ];
        for (what, value, limit) in spans {
            match (value, limit) {
                (Some(value), Some(limit)) if value > limit => broken.push(format!("{what} {value}, limit {limit}")),
                (None, Some(_)) => broken.push(format!("{what}: nothing was measured")),
                _ => {}
            }
        }
        if let Some(least) = limits.honest_ppm {
            let honest = self.honest_ppm().unwrap_or(0);
            if honest < least {
                broken.push(format!("{honest} of a million errors within 3 × expected, least {least}"));
            }
        }
        if let Some(most) = limits.stand_downs.filter(|most| self.stand_downs > *most) {
            let first = told(&self.first_stand_down);
            broken.push(format!("stood down {} times without a fault, at most {most}{first}", self.stand_downs));
        }
        if let Some(most) = limits.stood_down_by_reply {
            match self.stood_down_by_reply() {
                Some(u32::MAX) => broken.push("an agent did not stand down after a fault".into()),
                Some(reply) if reply <= most => {}
                found => broken.push(format!("stood down by reply {found:?}, at the latest {most}")),
            }
        }
        broken
    }
}

fn percentile(sorted: &[i64], percent: usize) -> Option<Span> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((sorted.len() * percent / 100).min(last)).copied().map(Span::from_nanos)
}
