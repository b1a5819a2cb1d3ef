//! The search for faults: worlds in which everything goes wrong, and what must hold in them all the same.

use core::ops::Range;
use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use startgun_sim::chaos::{self, Found, Outcome, Plan, Totals, Violation};

use super::Failure;
use super::forecast::{ForecastArgs, Format};

/// Seeds of a search without `--seeds`: some 140 races each make a million and more.
const SEEDS: Range<u64> = 0..10_000;
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Lines of a trace that a report on a violation ends with; `--replay` shows all of them.
const LAST_LINES: usize = 60;
/// Options of the forecast that mean nothing here.
const FORECAST_ONLY: [&str; 12] = [
    "rtt",
    "coordinates",
    "sites",
    "sites_random",
    "draws",
    "exclude",
    "asymmetry_sd",
    "master",
    "clock",
    "delay",
    "cover",
    "seed",
];

/// Some seeds, from the first to the one before the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(Range<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not A..B, two numbers of which the second is the greater");
        let (from, to) = text.split_once("..").ok_or_else(expected)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| expected());
        let (from, to) = (number(from)?, number(to)?);
        if from < to { Ok(Seeds(from..to)) } else { Err(expected()) }
    }
}

#[derive(Debug, clap::Args)]
pub struct ChaosArgs {
    /// Search for faults instead: small worlds with crashes, partitions, stepping clocks and forgers, each judged at every step; exits with 1 when something was broken
    #[arg(long, conflicts_with_all = FORECAST_ONLY)]
    chaos: bool,
    /// The worlds to search, from seed A to the one before B [default: 0..10000]
    #[arg(long, value_name = "A..B", requires = "chaos")]
    seeds: Option<Seeds>,
    /// Show all that happens in the world of one seed of the search, up to what breaks there
    #[arg(long, value_name = "SEED", conflicts_with = "chaos", conflicts_with_all = FORECAST_ONLY)]
    replay: Option<u64>,
}

/// What a search has come to, for programs.
#[derive(Serialize)]
struct SearchReport<'a> {
    seeds: [u64; 2],
    worlds: u64,
    events: u64,
    races: u64,
    departures: u64,
    forged_datagrams: u64,
    unjudged: u64,
    seconds: f64,
    races_per_s: f64,
    violation: Option<FoundReport<'a>>,
}

#[derive(Serialize)]
struct FoundReport<'a> {
    seed: u64,
    #[serde(flatten)]
    violation: ViolationReport<'a>,
    shortest: ShortestReport<'a>,
}

#[derive(Serialize)]
struct ViolationReport<'a> {
    invariant: &'a str,
    what: &'a str,
    step: u64,
    at_s: f64,
}

#[derive(Serialize)]
struct ShortestReport<'a> {
    #[serde(flatten)]
    violation: ViolationReport<'a>,
    runs: usize,
    plan: Vec<String>,
    trace: Vec<&'a str>,
}

#[derive(Serialize)]
struct ReplayReport<'a> {
    seed: u64,
    plan: Vec<String>,
    races: u64,
    events: u64,
    digest: String,
    violation: Option<ViolationReport<'a>>,
    trace: Vec<&'a str>,
}

impl<'a> ViolationReport<'a> {
    fn of(violation: &'a Violation) -> Self {
        ViolationReport {
            invariant: violation.invariant.text(),
            what: &violation.what,
            step: violation.step,
            at_s: violation.at.as_nanos() as f64 / 1e9,
        }
    }
}

impl ChaosArgs {
    /// Whether they ask for the search or a replay.
    pub fn is_asked(&self) -> bool {
        self.chaos || self.replay.is_some()
    }
}

/// Searches, or replays one seed of a search.
///
/// # Errors
/// Something that must hold was broken, a form of report that there is not, or a report that cannot be written.
pub fn run(args: &ChaosArgs, common: &ForecastArgs) -> Result<(), Failure> {
    let json = match common.report {
        Format::Text => false,
        Format::Json => true,
        Format::Html => return Err(Failure::Input("--report html: the search for faults has text and json".into())),
    };
    match args.replay {
        Some(seed) => replay(seed, json),
        None => search(args.seeds.clone().map_or(SEEDS, |seeds| seeds.0), json),
    }
}

fn search(seeds: Range<u64>, json: bool) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let told = Mutex::new(began);
    let worlds = seeds.end - seeds.start;
    let progress = |totals: &Totals| {
        let Ok(mut last) = told.lock() else { return };
        if last.elapsed() >= PROGRESS_EVERY {
            *last = Instant::now();
            let rate = totals.races as f64 / began.elapsed().as_secs_f64();
            eprintln!("{} of {worlds} worlds, {} races, {rate:.0} races per second", totals.seeds, totals.races);
        }
    };
    let (totals, found) = chaos::search(seeds.clone(), threads, progress);
    let seconds = began.elapsed().as_secs_f64();
    let text = match json {
        true => search_json(&seeds, &totals, found.as_ref(), seconds)?,
        false => search_text(&seeds, &totals, found.as_ref(), seconds),
    };
    print(&text)?;
    match found {
        Some(found) => Err(Failure::Other(format!("seed {} breaks what must hold: {}", found.seed, found.violation))),
        None => Ok(()),
    }
}

fn search_json(seeds: &Range<u64>, totals: &Totals, found: Option<&Found>, seconds: f64) -> Result<String, Failure> {
    let report = SearchReport {
        seeds: [seeds.start, seeds.end],
        worlds: totals.seeds,
        events: totals.steps,
        races: totals.races,
        departures: totals.departures,
        forged_datagrams: totals.forged,
        unjudged: totals.blind,
        seconds,
        races_per_s: totals.races as f64 / seconds,
        violation: found.map(|found| FoundReport {
            seed: found.seed,
            violation: ViolationReport::of(&found.violation),
            shortest: ShortestReport {
                violation: ViolationReport::of(&found.shortest.1),
                runs: found.runs,
                plan: found.shortest.0.lines(),
                trace: found.trace.lines().collect(),
            },
        }),
    };
    to_json(&report)
}

fn search_text(seeds: &Range<u64>, totals: &Totals, found: Option<&Found>, seconds: f64) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "seeds {}..{}: {} worlds in {seconds:.0} s", seeds.start, seeds.end, totals.seeds);
    let rate = totals.races as f64 / seconds;
    let _ = writeln!(text, "{} races, {rate:.0} per second; {} events, each judged", totals.races, totals.steps);
    let _ = writeln!(text, "{} departures, {} forged or replayed datagrams", totals.departures, totals.forged);
    let Some(found) = found else {
        let _ = writeln!(text, "nothing was broken");
        return text;
    };
    let (plan, violation) = &found.shortest;
    let _ = writeln!(text, "\nseed {}, step {}: {}", found.seed, found.violation.step, found.violation);
    let _ = writeln!(text, "\nthe shortest trace found, in {} runs: {violation}", found.runs);
    for line in plan.lines() {
        let _ = writeln!(text, "  {line}");
    }
    let lines: Vec<&str> = found.trace.lines().collect();
    let left_out = lines.len().saturating_sub(LAST_LINES);
    let _ = writeln!(text, "  ... {left_out} lines before; true nanoseconds first:");
    for line in &lines[left_out..] {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "\nall of the seed: startgun sim --replay {}", found.seed);
    text
}

fn replay(seed: u64, json: bool) -> Result<(), Failure> {
    let plan = Plan::draw(seed);
    let outcome = chaos::run(&plan, true);
    let Outcome { races, steps, digest, ref trace, ref violation, .. } = outcome;
    let text = if json {
        to_json(&ReplayReport {
            seed,
            plan: plan.lines(),
            races,
            events: steps,
            digest: format!("{digest:016x}"),
            violation: violation.as_ref().map(ViolationReport::of),
            trace: trace.lines().collect(),
        })?
    } else {
        let plan: String = plan.lines().iter().map(|line| format!("{line}\n")).collect();
        format!("seed {seed}\n{plan}\n{trace}\n{races} races, {steps} events, digest of the trace {digest:016x}\n")
    };
    print(&text)?;
    match violation {
        Some(violation) => Err(Failure::Other(format!("seed {seed} breaks what must hold: {violation}"))),
        None => Ok(()),
    }
}

fn to_json(report: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(report);
    json.map(|json| json + "\n").map_err(|error| Failure::Other(format!("cannot write the report: {error}")))
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Other(format!("cannot write to standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_two_numbers_the_second_greater() {
        assert_eq!("3..7".parse(), Ok(Seeds(3..7)));
        for text in ["", "3", "3..", "..7", "7..3", "3..3", "3-7", "-1..2", "a..b"] {
            let error = text.parse::<Seeds>().expect_err(text);
            assert!(error.contains("A..B"), "{error}");
        }
    }
}
