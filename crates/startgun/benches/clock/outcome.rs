//! What both sides' errors come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::Arguments;
use crate::fleet::Record;
use crate::hosts::{Lane, Path, Poll};
use crate::support::source;

/// Path, poll and pair: what is compared with each other.
type Key = (Path, Poll, usize);

/// Both sides of one pair.
#[derive(Default)]
struct Sides {
    /// Instants at which chrony was asked, and its error in nanoseconds where it had a time.
    asked: Vec<(i64, Option<f64>)>,
    records: Vec<Record>,
}

/// Everything measured.
pub struct Outcome {
    /// The end of the warm-up.
    begun_raw_ns: i64,
    sides: BTreeMap<Key, Sides>,
}

#[derive(Serialize)]
struct Startgun {
    rms_us: f64,
    p95_us: f64,
    p99_us: f64,
    median_bound_us: f64,
    bound_violations: usize,
    samples: usize,
    #[serde(skip)]
    mean_us: f64,
}

#[derive(Serialize)]
struct Chrony {
    rms_us: f64,
    p95_us: f64,
    p99_us: f64,
    #[serde(skip)]
    mean_us: f64,
    /// Instants at which it had no time.
    #[serde(skip)]
    unsynchronised: usize,
}

#[derive(Serialize)]
struct Row {
    path: &'static str,
    poll: &'static str,
    startgun: Startgun,
    chrony: Chrony,
    /// Startgun's RMS over chrony's, of each pair; the median.
    #[serde(skip)]
    rms_ratio: f64,
    #[serde(skip)]
    pairs: usize,
}

/// Error of one side of one pair, in microseconds.
struct Spread {
    mean: f64,
    rms: f64,
    p95: f64,
    p99: f64,
}

impl Spread {
    fn of(errors_ns: &[f64]) -> Self {
        let count = errors_ns.len().max(1) as f64;
        let magnitudes: Vec<f64> = errors_ns.iter().map(|error| error.abs() / 1e3).collect();
        Spread {
            mean: errors_ns.iter().sum::<f64>() / count / 1e3,
            rms: (magnitudes.iter().map(|error| error * error).sum::<f64>() / count).sqrt(),
            p95: quantile(&magnitudes, 0.95),
            p99: quantile(&magnitudes, 0.99),
        }
    }
}

/// The nearest rank; 0 of nothing.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&values.collect::<Vec<_>>(), 0.5)
}

impl Outcome {
    /// Nothing yet; what violates the bound from `begun_raw_ns` on will count.
    pub fn begun_at(begun_raw_ns: i64) -> Self {
        Outcome { begun_raw_ns, sides: BTreeMap::new() }
    }

    /// An answer of a chronyd.
    pub fn take_chrony(&mut self, lane: &Lane, poll: Poll, at_raw_ns: i64, correction_ns: Option<f64>) {
        self.sides.entry((lane.path, poll, lane.pair)).or_default().asked.push((at_raw_ns, correction_ns));
    }

    /// An agent's readings, in the order of time.
    pub fn take_startgun(&mut self, lane: &Lane, records: Vec<Record>) {
        for poll in &lane.polls {
            self.sides.entry((lane.path, *poll, lane.pair)).or_default().records.clone_from(&records);
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut kinds: Vec<(Path, Poll)> = self.sides.keys().map(|(path, poll, _)| (*path, *poll)).collect();
        kinds.dedup();
        kinds.into_iter().map(|kind| self.row(kind)).collect()
    }

    fn row(&self, (path, poll): (Path, Poll)) -> Row {
        let sides = self.sides.iter().filter(|((p, q, _), _)| (*p, *q) == (path, poll)).map(|(_, sides)| sides);
        let (mut ours, mut theirs, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        let (mut samples, mut violations, mut unsynchronised) = (0, 0, 0);
        for sides in sides {
            let (mut startgun_ns, mut chrony_ns, mut bound_us) = (Vec::new(), Vec::new(), Vec::new());
            for (at, correction_ns) in &sides.asked {
                let next = sides.records.partition_point(|record| record.at_raw_ns <= *at);
                // Before the first record there is nothing to hold against chrony.
                let Some(record) = next.checked_sub(1).map(|newest| sides.records[newest]) else { continue };
                let Some(correction_ns) = correction_ns else {
                    unsynchronised += 1;
                    continue;
                };
                startgun_ns.push(record.error_ns as f64);
                chrony_ns.push(*correction_ns);
                bound_us.extend(record.bound_ns.map(|bound| bound as f64 / 1e3));
            }
            samples += startgun_ns.len();
            let counts = |record: &&Record| record.violated && record.at_raw_ns >= self.begun_raw_ns;
            violations += sides.records.iter().filter(counts).count();
            ours.push(Spread::of(&startgun_ns));
            theirs.push(Spread::of(&chrony_ns));
            bounds.push(quantile(&bound_us, 0.5));
        }
        let of = |spreads: &[Spread], figure: fn(&Spread) -> f64| median(spreads.iter().map(figure));
        Row {
            path: path.name(),
            poll: poll.name(),
            startgun: Startgun {
                rms_us: of(&ours, |spread| spread.rms),
                p95_us: of(&ours, |spread| spread.p95),
                p99_us: of(&ours, |spread| spread.p99),
                median_bound_us: median(bounds.into_iter()),
                bound_violations: violations,
                samples,
                mean_us: of(&ours, |spread| spread.mean),
            },
            chrony: Chrony {
                rms_us: of(&theirs, |spread| spread.rms),
                p95_us: of(&theirs, |spread| spread.p95),
                p99_us: of(&theirs, |spread| spread.p99),
                mean_us: of(&theirs, |spread| spread.mean),
                unsynchronised,
            },
            rms_ratio: median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours.rms / theirs.rms)),
            pairs: ours.len(),
        }
    }

    /// For the test of the bench; says nothing about how good anybody is.
    ///
    /// # Panics
    /// Where a row is missing, a side had no time, or a proven bound did not hold.
    pub fn check(&self) {
        let rows = self.rows();
        let names: Vec<_> = rows.iter().map(|row| (row.path, row.poll)).collect();
        for path in Path::ALL.map(Path::name) {
            for poll in ["equal", "own"] {
                assert!(names.contains(&(path, poll)), "{path}, {poll} is not in {names:?}");
            }
        }
        for row in rows {
            assert!(row.startgun.samples > 0, "{}, {}: no instant at which both had a time", row.path, row.poll);
            assert_eq!(row.startgun.bound_violations, 0, "{}, {}", row.path, row.poll);
        }
    }

    /// For people.
    pub fn table(&self, arguments: &Arguments, chrony: &str, steal: f64) -> String {
        let mut text = format!(
            "\nClock error against the truth, in µs: medians over pairs of hosts side by side, {} s after {} s of warm-up.\n\
             Startgun: newest record of the agent's audit log. {chrony}: its correction of the system's time\n\
             (`chronyc tracking`, \"System time\"), which is its error, for client and server share one clock.\n\
             Both hosts of a pair have the same true drift: 0. CPU steal {:.2} %.\n\n\
             {:<21} {:<6} {:>5} | {:>9} {:>9} {:>9} {:>9} {:>9} {:>5} {:>8} | {:>9} {:>9} {:>9} {:>9} {:>6} | {:>6}\n",
            arguments.measure.as_secs(),
            arguments.warm_up.as_secs(),
            steal * 100.0,
            "path",
            "poll",
            "pairs",
            "Startgun",
            "rms",
            "p95",
            "p99",
            "bound",
            "viol",
            "samples",
            "chrony",
            "rms",
            "p95",
            "p99",
            "unsync",
            "ratio",
        );
        for row in self.rows() {
            let (ours, theirs) = (&row.startgun, &row.chrony);
            let _ = writeln!(
                text,
                "{:<21} {:<6} {:>5} | {:>+9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.1} {:>5} {:>8} | {:>+9.2} {:>9.2} {:>9.2} {:>9.2} {:>6} | {:>6.2}",
                row.path,
                row.poll,
                row.pairs,
                ours.mean_us,
                ours.rms_us,
                ours.p95_us,
                ours.p99_us,
                ours.median_bound_us,
                ours.bound_violations,
                ours.samples,
                theirs.mean_us,
                theirs.rms_us,
                theirs.p95_us,
                theirs.p99_us,
                theirs.unsynchronised,
                row.rms_ratio,
            );
        }
        text += "\nThe first column of each side is the mean with its sign. bound: median of the proven bound; viol: records \
                 whose interval\nmissed the truth; unsync: instants without a time from chrony, counted for neither; ratio: \
                 Startgun's rms over chrony's.\n\
                 equal: Startgun's exchanges as often as chrony's fastest polls (veth 4 Hz, WAN 1 Hz); own: 250 ms, and iburst \
                 with\nminpoll 6 maxpoll 10 (the defaults). xleave and kernel timestamps throughout.\n";
        text
    }

    /// Writes `bench/clock.json` below cargo's target directory.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn write_json(&self) -> Result<PathBuf, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source("target"), PathBuf::from);
        // Cargo runs benches in their package's directory; a relative path was meant from the workspace's.
        let target = if target.is_absolute() { target } else { source("").join(target) };
        let path = target.join("bench/clock.json");
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        std::fs::create_dir_all(target.join("bench")).map_err(|error| fault(&error))?;
        let json = serde_json::to_string_pretty(&self.rows()).map_err(|error| fault(&error))?;
        std::fs::write(&path, json + "\n").map_err(|error| fault(&error))?;
        path.canonicalize().map_err(|error| fault(&error))
    }
}
