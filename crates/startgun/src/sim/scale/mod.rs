//! `startgun sim --scale`: a day of a million resolvers, and what master and sites carry of it.

mod costs;
mod report;
mod text;

use indicatif::{ProgressBar, ProgressStyle};
use startgun_sim::MAX_PLACES;
use startgun_sim::scale::{self, HOURS, MAX_NAMES, MAX_RESOLVERS, MAX_SECONDS, PARTS, ScaleOptions};
use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use super::forecast::{ForecastArgs, Format, Prepared};
use costs::Costs;
use report::{Report, Run};

/// Most questions beyond the resolvers' first: a hundred each.
const MAX_QUERIES: i64 = 100 * MAX_RESOLVERS as i64;
/// Sites when nothing else is said.
const SITES_DEFAULT: usize = 100;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A population (--scale)")]
pub struct ScaleArgs {
    /// Let a population live through a compressed day instead, and say what master and sites carry; --rtt, --exclude, --sites,
    /// --sites-random [default: 100], --asymmetry-sd, --master, --delay, --cover, --report and --seed hold for it, too
    #[arg(long, conflicts_with_all = ["coordinates", "draws", "clock"])]
    pub scale: bool,
    /// Resolvers, spread over all nodes
    #[arg(long, value_name = "N", requires = "scale", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=MAX_RESOLVERS as i64))]
    resolvers: u32,
    /// Names that are asked for, by Zipf's law
    #[arg(long, value_name = "N", requires = "scale", default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..=MAX_NAMES as i64))]
    names: u32,
    /// Questions of the resolvers' clients beyond each resolver's first, by Zipf's law among resolvers
    #[arg(long, value_name = "N", requires = "scale", default_value_t = 500_000,
        value_parser = clap::value_parser!(u32).range(0..=MAX_QUERIES))]
    queries: u32,
    /// Virtual seconds that the day is compressed into
    #[arg(long, value_name = "N", requires = "scale", default_value_t = 600,
        value_parser = clap::value_parser!(u32).range(HOURS as i64..=MAX_SECONDS as i64))]
    day_seconds: u32,
    /// Threads, which change no figure [default: one per processor, 8 at most]
    #[arg(long, value_name = "N", requires = "scale", value_parser = clap::value_parser!(u32).range(1..=PARTS as i64))]
    threads: Option<u32>,
    /// Costs as `make bench-dns` writes them, target/bench/dns.json [default: those of docs/performance.md]
    #[arg(long, value_name = "FILE", requires = "scale")]
    costs: Option<PathBuf>,
}

/// The population.
///
/// # Errors
/// Bad input, or a report that cannot be written.
pub fn run(args: &ScaleArgs, forecast: &ForecastArgs) -> Result<(), Failure> {
    if forecast.report == Format::Html {
        return Err(Failure::Input("--report html: with --scale expected text or json".to_owned()));
    }
    let costs = args.costs.as_deref().map_or_else(|| Ok(Costs::documented()), Costs::read)?;
    let mut chosen = forecast.clone();
    if chosen.sites.is_empty() {
        chosen.sites_random.get_or_insert(SITES_DEFAULT);
    }
    let prepared = Prepared::from(&chosen)?;
    let count = prepared.plan.network.count();
    if count > MAX_PLACES {
        return Err(Failure::Input(format!("{count} nodes: with --scale expected {MAX_PLACES} at most")));
    }
    let options = ScaleOptions {
        resolvers: args.resolvers as usize,
        names: args.names as usize,
        queries: u64::from(args.queries),
        seconds: args.day_seconds,
        ..ScaleOptions::of(&prepared.plan)
    };
    if options.sites.is_empty() {
        return Err(Failure::Input("no site has a known path to the master: expected one at least".to_owned()));
    }
    let threads = args
        .threads
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |threads| threads as usize);
    let bar = progress_bar(options.steps());
    let figures = scale::run(&options, threads, &|| bar.inc(1));
    bar.finish_and_clear();
    let run = Run { options: &options, prepared: &prepared, costs: &costs };
    let report = Report::of(&run, &figures);
    let text = match forecast.report {
        Format::Json => {
            serde_json::to_string_pretty(&report).map_err(|error| Failure::Other(error.to_string()))? + "\n"
        }
        Format::Text | Format::Html => report.to_text(),
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Other(format!("writing the report: {error}")))?;
    // Our own fault: the figures are there, but nobody should believe them.
    match figures.contradictions().as_slice() {
        [] => Ok(()),
        found => Err(Failure::Other(format!("the figures contradict each other: {}", found.join("; ")))),
    }
}

/// How much of the run is done, on standard error where that is a terminal.
fn progress_bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {elapsed} of about {duration}") {
        bar.set_style(style);
    }
    bar
}
