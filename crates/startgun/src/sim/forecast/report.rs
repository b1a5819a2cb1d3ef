//! What a forecast says, as text and as JSON.

use serde::Serialize;
use startgun_core::master::Delay;
use startgun_sim::forecast::{Clocks, Losses, Spread, Tally};
use std::collections::BTreeMap;
use std::fmt::Write;

use super::nodes::Prepared;

/// The ways to choose a site, in the order of a report.
pub const CHOICES: [&str; 5] = ["race", "distance", "random", "fixed", "best"];

/// The figures of a forecast; all times are in ms.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Sites of each draw.
    pub sites: usize,
    pub draws: u64,
    /// Clients of each draw.
    pub clients: usize,
    /// Races of all draws.
    pub races: u64,
    pub choices: BTreeMap<&'static str, Choice>,
    pub first_answer_ms: Quantiles,
    /// Orders and answers that were sent in all draws.
    pub orders: u64,
    pub answers: u64,
    /// Answers that the master gave itself, because no agent could.
    pub fallback_answers: u64,
    /// Clients of all draws that no race was held for: nothing is known of their path to the master.
    pub clients_without_path: u64,
    pub predetermined_delay_ms: Quantiles,
    /// How the clocks were set, and what they were wrong by against each other, root mean square.
    pub clock: String,
    pub clock_error_ms: f64,
    /// Agents of all draws that stood down, by reason.
    pub stood_down: BTreeMap<&'static str, u64>,
    /// Nodes that take part.
    pub nodes: usize,
    pub pairs: usize,
    pub missing_pairs: usize,
    pub left_out: LeftOut,
    pub seed: u64,
    pub notes: Vec<String>,
}

/// Nodes that were left out, by reason.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    pub missing_pairs: Vec<String>,
    pub no_coordinates: Vec<String>,
}

/// What one way to choose a site brings.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Choice {
    /// Share of clients at the site with the lowest round trip.
    pub lowest_share: f64,
    /// Share of clients whose round trip is at most 5 ms longer.
    pub within_5ms_share: f64,
    /// By how much their round trips are longer.
    pub mean_loss_ms: f64,
    pub p95_loss_ms: f64,
    pub p99_loss_ms: f64,
}

/// A median and a 95th percentile.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p95: f64,
}

impl Choice {
    pub fn of(losses: &Losses) -> Choice {
        Choice {
            lowest_share: rounded(losses.lowest_share(), 5),
            within_5ms_share: rounded(losses.within_share(), 5),
            mean_loss_ms: rounded(losses.spread.mean_ms(), 3),
            p95_loss_ms: rounded(losses.spread.quantile_ms(0.95), 2),
            p99_loss_ms: rounded(losses.spread.quantile_ms(0.99), 2),
        }
    }
}

impl Quantiles {
    fn of(spread: &Spread) -> Quantiles {
        Quantiles { p50: rounded(spread.quantile_ms(0.5), 2), p95: rounded(spread.quantile_ms(0.95), 2) }
    }
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

/// How clocks are set, in words.
pub fn clock_words(clocks: Clocks) -> String {
    match clocks {
        Clocks::Host(deviation) => format!("host:{}ms", deviation.as_millis_f64()),
        Clocks::Master => "master".to_owned(),
        Clocks::Mesh => "mesh".to_owned(),
        Clocks::Perfect => "perfect".to_owned(),
    }
}

impl Report {
    pub fn of(prepared: &Prepared, tally: &Tally) -> Report {
        let plan = &prepared.plan;
        let of = |name: &str| match name {
            "race" => &tally.race,
            "distance" => &tally.distance,
            "random" => &tally.random,
            "fixed" => &tally.fixed,
            _ => &tally.best,
        };
        let is_there = |name: &&&str| **name != "distance" || plan.network.has_coordinates();
        Report {
            sites: plan.site_count(),
            draws: tally.draws,
            clients: plan.network.count() - plan.site_count(),
            races: tally.races,
            choices: CHOICES.iter().filter(is_there).map(|name| (*name, Choice::of(of(name)))).collect(),
            first_answer_ms: Quantiles::of(&tally.first_answer),
            orders: tally.orders,
            answers: tally.answers,
            fallback_answers: tally.fallbacks,
            clients_without_path: tally.clients_without_path,
            predetermined_delay_ms: Quantiles::of(&tally.predetermined_delay),
            clock: clock_words(plan.clocks),
            clock_error_ms: rounded(tally.mutual_error_ms(), 4),
            stood_down: tally.stood_down.clone(),
            nodes: plan.network.count(),
            pairs: prepared.pairs.0,
            missing_pairs: prepared.pairs.1,
            left_out: LeftOut {
                missing_pairs: prepared.too_little_known.iter().map(|(name, _)| name.clone()).collect(),
                no_coordinates: prepared.without_coordinates.clone(),
            },
            seed: plan.seed,
            notes: notes(prepared, tally),
        }
    }

    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{} sites, {} draws, {} clients each: {} races, clocks by {}\n\n",
            self.sites, self.draws, self.clients, self.races, self.clock
        );
        let _ = writeln!(text, "site chosen by    lowest RTT  within 5 ms    mean loss    p95 loss    p99 loss");
        for (name, choice) in CHOICES.iter().filter_map(|name| Some((name, self.choices.get(name)?))) {
            let _ = writeln!(
                text,
                "{name:<16}{:>10.1} %{:>11.1} %{:>10.2} ms{:>9.2} ms{:>9.2} ms",
                choice.lowest_share * 100.0,
                choice.within_5ms_share * 100.0,
                choice.mean_loss_ms,
                choice.p95_loss_ms,
                choice.p99_loss_ms
            );
        }
        let (first, delay) = (self.first_answer_ms, self.predetermined_delay_ms);
        let _ =
            writeln!(text, "\nfirst answer        p50 {:.1} ms, p95 {:.1} ms after the query", first.p50, first.p95);
        let _ = writeln!(text, "predetermined delay p50 {:.1} ms, p95 {:.1} ms", delay.p50, delay.p95);
        let _ = writeln!(text, "sent                {} orders, {} answers", self.orders, self.answers);
        let _ = writeln!(text, "clock error         {:.3} ms against each other, RMS", self.clock_error_ms);
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }
}

/// What a reader must know of the nodes.
pub fn notes_on_nodes(prepared: &Prepared) -> Vec<String> {
    let plan = &prepared.plan;
    let mut notes = Vec::new();
    if prepared.is_model {
        notes.push(format!(
            "No --rtt was given: these are {} world cities of a built-in model (the way over the globe in fibre, a detour that is \
             drawn for each pair, and access lines). It shows what kind of thing to expect, not your sites.",
            plan.network.count()
        ));
    }
    let (pairs, missing) = prepared.pairs;
    if missing > 0 {
        let which = "where both directions of a pair are, the site cannot win that client";
        notes.push(format!("{missing} of {pairs} ordered pairs are missing; {which}."));
    }
    if !prepared.too_little_known.is_empty() {
        let listed: Vec<String> =
            prepared.too_little_known.iter().map(|(name, share)| format!("{name} ({:.1} %)", share * 100.0)).collect();
        notes.push(format!("Left out, for more than 15 % of their pairs are missing: {}.", listed.join(", ")));
    }
    if !prepared.without_coordinates.is_empty() {
        notes.push(format!("Left out, for they have no coordinates: {}.", prepared.without_coordinates.join(", ")));
    }
    notes
}

/// What a reader must know beside the figures.
fn notes(prepared: &Prepared, tally: &Tally) -> Vec<String> {
    let plan = &prepared.plan;
    let mut notes = notes_on_nodes(prepared);
    if tally.clients_without_path > 0 {
        let clients = tally.clients_without_path;
        notes.push(format!(
            "{clients} times a client was not asked: its path to the master, or to all sites, is missing."
        ));
    }
    let down: u64 = tally.stood_down.values().sum();
    if down > 0 {
        let reasons: Vec<String> =
            tally.stood_down.iter().map(|(reason, count)| format!("{count}: {reason}")).collect();
        let all = tally.draws * plan.site_count() as u64;
        notes.push(format!("{down} of {all} agents stood down ({}).", reasons.join("; ")));
    }
    let without = tally.race.without_site();
    if without > 0 {
        notes.push(format!("{without} races brought no site: they count against the shares and not in the losses."));
    }
    if let Clocks::Host(deviation) = plan.clocks
        && deviation.as_millis_f64() > 0.25
    {
        notes.push(
            "Agents state twice their keepers' bound as expected error: with clocks like these, max_expected_error was \
             raised above its default of 3 ms for all sites to race."
                .to_owned(),
        );
    }
    if !prepared.has_jitter {
        notes.push("The round trips have no jitter: the file does not say how they vary.".to_owned());
    }
    if let Delay::Fixed(delay) = plan.delay {
        notes.push(format!("The predetermined delay is fixed at {delay}; agents whose orders come later do not race."));
    }
    notes
}
