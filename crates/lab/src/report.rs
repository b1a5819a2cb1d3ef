//! What a demo found out: JSON for programs, a table for people.
//!
//! The JSON field names, units and types are an interface; new fields go to the end. All figures are computed here from
//! plain lists, so that the text, the JSON and the tests cannot disagree about what a percentile is.

pub mod agreement;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::net::Ipv4Addr;

use serde::Serialize;

use self::agreement::Agreement;
use crate::client::QueryRecord;
use crate::scenario::ClientTruth;

/// The key in [`ClientReport::wins`] for answers that came from no site.
pub const FALLBACK: &str = "fallback";

/// Cells of the bar that shows a share.
const BAR_CELLS: usize = 10;

/// The value below or at which the share `q` (0 to 1) of `sorted` lies (nearest rank); 0 for an empty list.
pub fn percentile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Median, 90th and 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Spread {
    /// Of a list in any order.
    pub fn of(values: Vec<f64>) -> Self {
        let values = sorted(values);
        Self { p50: percentile(&values, 0.5), p90: percentile(&values, 0.9), p99: percentile(&values, 0.99) }
    }
}

/// 1st percentile, median, 90th and 99th percentile: of a figure that can be negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SignedSpread {
    /// 1st percentile.
    pub p1: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl SignedSpread {
    /// Of a list in any order.
    pub fn of(values: Vec<f64>) -> Self {
        let values = sorted(values);
        Self {
            p1: percentile(&values, 0.01),
            p50: percentile(&values, 0.5),
            p90: percentile(&values, 0.9),
            p99: percentile(&values, 0.99),
        }
    }
}

/// Median, 90th and 99th percentile, and maximum: of absolute values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ErrorSpread {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum.
    pub max: f64,
}

impl ErrorSpread {
    /// Of the absolute values of a list in any order.
    pub fn of_absolute(values: Vec<f64>) -> Self {
        let values = sorted(values.into_iter().map(f64::abs).collect());
        Self {
            p50: percentile(&values, 0.5),
            p90: percentile(&values, 0.9),
            p99: percentile(&values, 0.99),
            max: percentile(&values, 1.0),
        }
    }
}

/// Median and maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BoundSpread {
    /// Median.
    pub p50: f64,
    /// Maximum.
    pub max: f64,
}

impl BoundSpread {
    /// Of a list in any order.
    pub fn of(values: Vec<f64>) -> Self {
        let values = sorted(values);
        Self { p50: percentile(&values, 0.5), max: percentile(&values, 1.0) }
    }
}

/// One client's part of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientReport {
    /// The client's place.
    pub name: String,
    /// unbound, bind, kresd, pdns, dnsmasq, resolved or builtin.
    pub resolver: String,
    /// The resolver's version.
    pub resolver_version: String,
    /// The site with the least true one-way delay to it.
    pub nearest: String,
    /// That delay in ms, without jitter.
    pub nearest_owd_ms: f64,
    /// The second-nearest site's delay minus that, in ms.
    pub margin_ms: f64,
    /// Queries asked, repeats not counted.
    pub queries: u64,
    /// Queries answered within 5 s.
    pub answered: u64,
    /// Races that its resolver's queries started.
    pub races: u64,
    /// Answered queries by the site whose address came, or "fallback".
    pub wins: BTreeMap<String, u64>,
    /// Share of the answered queries that were sent to the nearest site; 0 when none was answered.
    pub nearest_share: f64,
    /// Mean over the queries sent to a site of that site's delay minus the nearest one's, in ms; the fallback's answers
    /// tell no site and do not count here.
    pub mean_penalty_ms: f64,
}

impl ClientReport {
    /// Computes one client's figures from its queries.
    ///
    /// `site_of` tells the site that answers with an address; `None` counts as fallback.
    pub fn of<'a>(
        truth: &ClientTruth,
        (resolver, resolver_version): (&str, &str),
        records: &[QueryRecord],
        races: u64,
        site_of: impl Fn(Ipv4Addr) -> Option<&'a str>,
    ) -> Self {
        let mut wins = BTreeMap::new();
        let mut answered = 0;
        let mut penalties_ms = Vec::new();
        for address in records.iter().filter_map(|record| record.address) {
            answered += 1;
            let site = site_of(address);
            *wins.entry(site.unwrap_or(FALLBACK).to_owned()).or_default() += 1;
            penalties_ms.extend(site.and_then(|site| truth.penalty_ms(site)));
        }
        let nearest_wins = wins.get(&truth.nearest).copied().unwrap_or(0);
        Self {
            name: truth.client.clone(),
            resolver: resolver.to_owned(),
            resolver_version: resolver_version.to_owned(),
            nearest: truth.nearest.clone(),
            nearest_owd_ms: truth.nearest_owd_ms,
            margin_ms: truth.margin_ms,
            queries: records.len() as u64,
            answered,
            races,
            wins,
            nearest_share: share(nearest_wins, answered),
            mean_penalty_ms: penalties_ms.iter().sum::<f64>() / penalties_ms.len().max(1) as f64,
        }
    }

    /// Where most of its answered queries were sent.
    pub fn mostly_sent_to(&self) -> Option<&str> {
        // Of equal ones the first by name.
        self.wins.iter().rev().max_by_key(|(_, wins)| **wins).map(|(site, _)| site.as_str())
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// One attempt of a demo that was repeated because the machine was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Attempt {
    /// Races in it.
    pub races: u64,
    /// Share of processor time that the hypervisor gave to others meanwhile.
    pub cpu_steal_share: f64,
    /// Share of all answered queries that were sent to their client's nearest site.
    pub nearest_share: f64,
    /// Its median start spread in µs.
    pub start_spread_us_p50: f64,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How long the load ran, in seconds.
    pub seconds: u64,
    /// The clients, in the scenario's order.
    pub clients: Vec<ClientReport>,
    /// Races run.
    pub races: u64,
    /// Latest minus earliest departure of one race in true time, in µs, by kernel transmit timestamps.
    pub start_spread_us: Spread,
    /// Departure minus transmit time by the agent's own clock, in µs.
    pub lateness_us: SignedSpread,
    /// The agents' clock error against the truth, absolute, in µs.
    pub clock_error_us: ErrorSpread,
    /// The agents' proven clock bound in µs.
    pub clock_bound_us: BoundSpread,
    /// Clock readings compared with the truth.
    pub clock_readings: u64,
    /// Readings whose bound did not contain the truth.
    pub clock_bound_violations: u64,
    /// 99th percentile of each site's forward delay in ms.
    pub forward_delay_ms: BTreeMap<String, f64>,
    /// The predetermined delay in ms.
    pub predetermined_delay_ms: f64,
    /// Share of processor time that the hypervisor gave to others, from 0 to 1.
    pub cpu_steal_share: f64,
    /// Attempts made; the figures above are the last one's.
    pub attempts: u64,
    /// Every attempt, the last one included.
    pub attempt_list: Vec<Attempt>,
    /// What a reader should know, in sentences.
    pub notes: Vec<String>,
    /// The same scenario in the simulator, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

/// How text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With ANSI colours.
    pub colour: bool,
}

impl Style {
    /// Colours if standard output is a terminal that can show them and `NO_COLOR` is unset or empty.
    pub fn for_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: std::io::stdout().is_terminal() && !set("NO_COLOR") && !is_dumb }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

impl Report {
    /// The report as one JSON object.
    ///
    /// # Errors
    /// None are known: every field is a number, a string, a list or a map with string keys.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The report as a table and sentences, with a line end after each line.
    pub fn to_text(&self, style: Style) -> String {
        let mut text = String::new();
        self.write_head(&mut text, style);
        self.write_table(&mut text, style);
        self.write_sentences(&mut text);
        if let Some(agreement) = &self.agreement {
            agreement.write(&mut text, style, self.predetermined_delay_ms);
        }
        text
    }

    fn write_head(&self, text: &mut String, style: Style) {
        let title = format!("Startgun: {} races in {} s", thousands(self.races), self.seconds);
        let rest = format!("scenario {}, seed {}", self.scenario, self.seed);
        line(text, &format!("{} · {rest}", style.paint(BOLD, &title)));
        line(text, "");
    }

    fn write_table(&self, text: &mut String, style: Style) {
        let header = ["city", "resolver", "nearest site", "lead", "sent to", "share", "loss"];
        let rows: Vec<[String; 7]> = self.clients.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(header[column].chars().count())
        };
        let widths: [usize; 7] = std::array::from_fn(width);
        let head = layout(&header.map(str::to_owned), &widths);
        let rule_length = head.chars().count().max(widths.iter().sum::<usize>() + 12);
        line(text, &style.paint(DIM, head.trim_end()));
        line(text, &style.paint(DIM, &"─".repeat(rule_length)));
        for (client, row) in self.clients.iter().zip(&rows) {
            let colour = match client.nearest_share {
                share if share >= 0.95 => GREEN,
                share if share >= 0.5 => YELLOW,
                _ => RED,
            };
            let laid_out = layout(row, &widths);
            // Painted after it is laid out: escape codes have no width.
            let painted = laid_out.replacen(&row[5], &style.paint(colour, &row[5]), 1);
            line(text, painted.trim_end());
        }
        line(text, "");
    }

    fn write_sentences(&self, text: &mut String) {
        let queries: u64 = self.clients.iter().map(|client| client.queries).sum();
        let answered: u64 = self.clients.iter().map(|client| client.answered).sum();
        line(
            text,
            &format!(
                "Share: answered queries sent to the nearest site. Lead: its head start over the second. \
                 {} of {} queries were answered.",
                thousands(answered),
                thousands(queries)
            ),
        );
        let spread = self.start_spread_us;
        line(
            text,
            &format!(
                "Start: all answers of a race left within {} in half of the races, within {} in 99 of 100.",
                microseconds(spread.p50),
                microseconds(spread.p99)
            ),
        );
        let lateness = self.lateness_us;
        line(
            text,
            &format!(
                "Lateness: half of the answers left at most {} after their instant, 99 of 100 at most {}.",
                microseconds(lateness.p50),
                microseconds(lateness.p99)
            ),
        );
        let (error, bound) = (self.clock_error_us, self.clock_bound_us);
        line(
            text,
            &format!(
                "Clocks: set wrong on purpose, and by their synchronisation wrong by {} (median), {} at most. Proven bound: \
                 {} (median); the truth lay outside it in {} of {} readings.",
                microseconds(error.p50),
                microseconds(error.max),
                microseconds(bound.p50),
                thousands(self.clock_bound_violations),
                thousands(self.clock_readings)
            ),
        );
        let farthest = self.forward_delay_ms.iter().max_by(|a, b| a.1.total_cmp(b.1));
        if let Some((site, delay_ms)) = farthest {
            line(
                text,
                &format!(
                    "Predetermined delay: {:.1} ms; the longest way to an agent is {delay_ms:.1} ms ({site}).",
                    self.predetermined_delay_ms
                ),
            );
        }
        if self.cpu_steal_share > 0.0 || self.attempts > 1 {
            line(
                text,
                &format!(
                    "The hypervisor took {:.1} % of the processor time; attempts made: {}.",
                    self.cpu_steal_share * 100.0,
                    self.attempts
                ),
            );
        }
        for note in &self.notes {
            line(text, note);
        }
    }
}

fn line(text: &mut String, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{content}");
}

fn row(client: &ClientReport) -> [String; 7] {
    let filled = (client.nearest_share * BAR_CELLS as f64).round() as usize;
    let filled = filled.min(BAR_CELLS);
    let bar = "█".repeat(filled) + &"░".repeat(BAR_CELLS - filled);
    [
        client.name.clone(),
        format!("{} {}", client.resolver, client.resolver_version).trim().to_owned(),
        format!("{} {:.1} ms", client.nearest, client.nearest_owd_ms),
        format!("{:.1} ms", client.margin_ms),
        client.mostly_sent_to().unwrap_or("nowhere").to_owned(),
        format!("{bar} {:5.1} %", client.nearest_share * 100.0),
        format!("{:.1} ms", client.mean_penalty_ms),
    ]
}

/// Cells with two blanks between them; figures stand at the right.
fn layout(cells: &[String; 7], widths: &[usize; 7]) -> String {
    const AT_THE_RIGHT: [usize; 2] = [3, 6];
    let mut text = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        if column > 0 {
            text.push_str("  ");
        }
        // Writing to a string cannot fail.
        let _ = if AT_THE_RIGHT.contains(&column) {
            write!(text, "{cell:>width$}")
        } else {
            write!(text, "{cell:<width$}")
        };
    }
    text
}

/// A number with commas between groups of three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds up to a millisecond, then milliseconds.
fn microseconds(value_us: f64) -> String {
    if value_us.abs() < 1000.0 { format!("{value_us:.0} µs") } else { format!("{:.1} ms", value_us / 1000.0) }
}

#[cfg(test)]
mod tests;
