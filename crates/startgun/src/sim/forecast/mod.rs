//! What a race would bring to sites at given places, beside other ways to choose a site.
//!
//! [`options`] say what; [`nodes`] reads the files ([`rtt`], [`coordinates`]) or takes the model of [`cities`], and makes a
//! [`Plan`] of it, which is carried out by worlds of the simulator. [`report`] has the figures, as text and as JSON; [`html`]
//! shows them with [`charts`], for which [`curves`] carries further plans out.

mod charts;
mod cities;
mod coordinates;
mod curves;
mod html;
mod input;
mod nodes;
mod options;
mod report;
mod rtt;

use indicatif::{ProgressBar, ProgressStyle};
use startgun_sim::forecast::{Plan, Tally};
use std::io::{IsTerminal, Write};
use std::thread;

use super::Failure;
use curves::Curves;
pub use nodes::Prepared;
pub use options::{ForecastArgs, Format};
use report::Report;
pub use report::notes_on_nodes;

/// The forecast.
///
/// # Errors
/// Bad input, or a report that cannot be written.
pub fn run(args: &ForecastArgs) -> Result<(), Failure> {
    let prepared = Prepared::from(args)?;
    let tally = carry_out(&prepared.plan, args.draws, "racing");
    let report = Report::of(&prepared, &tally);
    let text = match args.report {
        Format::Json => report.to_json().map_err(|error| Failure::Other(error.to_string()))?,
        Format::Text => report.to_text(),
        Format::Html => {
            let curves = Curves::of(&prepared.plan, args.draws, carry_out);
            html::page(&report, &tally, &curves).map_err(Failure::Other)?
        }
    };
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Failure::Other(format!("writing the report: {error}")))
}

/// Carries a plan out on all cores, with a bar on standard error where that is a terminal.
fn carry_out(plan: &Plan, draws: u64, what: &'static str) -> Tally {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(draws) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{prefix} {bar:40} {pos} of {len} draws, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what);
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let tally = plan.carry_out(0..draws, threads, &|| bar.inc(1));
    bar.finish_and_clear();
    tally
}
