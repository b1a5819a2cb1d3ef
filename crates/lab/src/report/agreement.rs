//! Whether a lab and a simulator say the same of one scenario.
//!
//! Both ran the same places, delays, jitter and clocks, and every client asked at the same instants: query `n` of a client is
//! the same race in both. What chance does to single packets differs; winners and times should not.

use std::fmt::Write;

use serde::Serialize;

use super::{Style, line, percentile, sorted};
use crate::scenario::ClientTruth;

/// Where the second site is not farther than this behind, jitter decides: those races are not compared.
pub const MARGIN_LEAST_MS: f64 = 1.0;
/// At least this share of the compared races has the same winner.
pub const SAME_WINNER_SHARE_LEAST: f64 = 0.98;
/// A client's median time to the first answer differs by at most this. The simulator's hosts take no time to think; in the
/// lab all of them share a few cores, and the predetermined delay follows the slowest of the recent orders to the farthest
/// agent, so that the whole distribution moves with one that had to wait: by 0.5 ms on an idle machine, by 4 on a busy one.
pub const MEDIAN_DIFFERENCE_MS_MOST: f64 = 5.0;
/// And its 90th percentile by this.
pub const P90_DIFFERENCE_MS_MOST: f64 = 10.0;

/// What one query came to: the site that the answer sends to (`None` for the fallback), and the time to the first answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome<'a> {
    /// The site.
    pub site: Option<&'a str>,
    /// Time from the query's first sending to the answer, in ms.
    pub after_ms: f64,
}

/// A distribution of times to the first answer, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FirstAnswer {
    /// 10th percentile.
    pub p10: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
}

impl FirstAnswer {
    fn of(times_ms: Vec<f64>) -> Self {
        let times = sorted(times_ms);
        Self { p10: percentile(&times, 0.1), p50: percentile(&times, 0.5), p90: percentile(&times, 0.9) }
    }
}

/// One client's part of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientAgreement {
    /// The client's place.
    pub name: String,
    /// The head start of its nearest site over the second in ms, without jitter.
    pub margin_ms: f64,
    /// Queries that were answered in both.
    pub answered_in_both: u64,
    /// Of these, the ones that have the same winner.
    pub same_winner: u64,
    /// Times to the first answer in the lab.
    pub lab_ms: FirstAnswer,
    /// Times to the first answer in the simulator.
    pub sim_ms: FirstAnswer,
}

impl ClientAgreement {
    /// Compares the outcomes of one client's queries in the lab and in the simulator, number by number; `None` for a query
    /// that was not answered.
    pub fn of(truth: &ClientTruth, lab: &[Option<Outcome<'_>>], sim: &[Option<Outcome<'_>>]) -> Self {
        let both: Vec<(Outcome<'_>, Outcome<'_>)> = lab.iter().zip(sim).filter_map(|(a, b)| (*a).zip(*b)).collect();
        Self {
            name: truth.client.clone(),
            margin_ms: truth.margin_ms,
            answered_in_both: both.len() as u64,
            same_winner: both.iter().filter(|(lab, sim)| lab.site == sim.site).count() as u64,
            lab_ms: FirstAnswer::of(both.iter().map(|(lab, _)| lab.after_ms).collect()),
            sim_ms: FirstAnswer::of(both.iter().map(|(_, sim)| sim.after_ms).collect()),
        }
    }

    fn counts(&self) -> bool {
        self.margin_ms > MARGIN_LEAST_MS
    }

    /// Whether its times are within the limits.
    pub fn times_agree(&self) -> bool {
        (self.lab_ms.p50 - self.sim_ms.p50).abs() <= MEDIAN_DIFFERENCE_MS_MOST
            && (self.lab_ms.p90 - self.sim_ms.p90).abs() <= P90_DIFFERENCE_MS_MOST
    }
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The clients, in the scenario's order.
    pub clients: Vec<ClientAgreement>,
    /// Queries that were not answered in both, and could not be compared.
    pub not_compared: u64,
    /// Races of clients with a margin above [`MARGIN_LEAST_MS`].
    pub races: u64,
    /// Share of these that have the same winner; 0 without any.
    pub same_winner_share: f64,
    /// The simulator's predetermined delay in ms.
    pub sim_predetermined_delay_ms: f64,
    /// Whether everything is within its limits.
    pub agrees: bool,
}

impl Agreement {
    /// Sums up what the clients found; `queries` is how many they asked.
    pub fn of(clients: Vec<ClientAgreement>, queries: u64, sim_predetermined_delay_ms: f64) -> Self {
        let sum = |count: fn(&ClientAgreement) -> u64| -> u64 {
            clients.iter().filter(|client| client.counts()).map(count).sum()
        };
        let races = sum(|client| client.answered_in_both);
        let same_winner_share = super::share(sum(|client| client.same_winner), races);
        let compared: u64 = clients.iter().map(|client| client.answered_in_both).sum();
        let agrees = same_winner_share >= SAME_WINNER_SHARE_LEAST && clients.iter().all(ClientAgreement::times_agree);
        let not_compared = queries.saturating_sub(compared);
        Self { clients, not_compared, races, same_winner_share, sim_predetermined_delay_ms, agrees }
    }

    pub(super) fn write(&self, text: &mut String, style: Style, lab_delay_ms: f64) {
        let times = |times: &FirstAnswer| format!("{:7.1} {:7.1} {:7.1}", times.p10, times.p50, times.p90);
        let width = self.clients.iter().map(|client| client.name.chars().count()).max().unwrap_or(0).max(4);
        line(text, "");
        line(text, &style.paint(super::BOLD, "The same scenario in the simulator"));
        let head = format!(
            "{:<width$}  {:>8}  {:>6}  {:>6}  {:>23}  {:>23}",
            "city", "lead", "races", "agree", "lab: first answer, ms", "simulator"
        );
        line(text, &style.paint(super::DIM, &head));
        for client in &self.clients {
            let agree = match client.counts() {
                true => format!("{:.1} %", super::share(client.same_winner, client.answered_in_both) * 100.0),
                false => "tie".to_owned(),
            };
            let mut row = String::new();
            // Writing to a string cannot fail.
            let _ = write!(
                row,
                "{:<width$}  {:>5.1} ms  {:>6}  {agree:>6}  {}  {}",
                client.name,
                client.margin_ms,
                client.answered_in_both,
                times(&client.lab_ms),
                times(&client.sim_ms)
            );
            if !client.times_agree() {
                row.push_str("  beyond the limit");
            }
            line(text, &row);
        }
        line(
            text,
            &format!(
                "Winners agree in {:.2} % of {} races with a lead above {MARGIN_LEAST_MS:.0} ms (limit {:.0} %). Times are \
                 the 10th, 50th and 90th percentile; each client's median may differ by {MEDIAN_DIFFERENCE_MS_MOST:.0} ms, \
                 its 90th percentile by {P90_DIFFERENCE_MS_MOST:.0} ms. Predetermined delay: {lab_delay_ms:.1} ms in the \
                 lab, {:.1} ms in the simulator. Not answered in both: {}.",
                self.same_winner_share * 100.0,
                super::thousands(self.races),
                SAME_WINNER_SHARE_LEAST * 100.0,
                self.sim_predetermined_delay_ms,
                super::thousands(self.not_compared)
            ),
        );
        line(text, if self.agrees { "Model and reality agree." } else { "Model and reality do not agree." });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn truth(margin_ms: f64) -> ClientTruth {
        let owd_ms = BTreeMap::from([("a".to_owned(), 10.0), ("b".to_owned(), 10.0 + margin_ms)]);
        ClientTruth { client: "c".into(), nearest: "a".into(), nearest_owd_ms: 10.0, margin_ms, owd_ms }
    }

    fn outcomes(winners: &[(&'static str, f64)]) -> Vec<Option<Outcome<'static>>> {
        winners.iter().map(|&(site, after_ms)| Some(Outcome { site: Some(site), after_ms })).collect()
    }

    #[test]
    fn winners_are_compared_query_by_query_and_only_where_there_is_a_lead() {
        let lab = outcomes(&[("a", 20.0), ("a", 21.0), ("b", 22.0), ("a", 23.0)]);
        let mut sim = outcomes(&[("a", 20.0), ("a", 21.0), ("a", 22.0), ("a", 23.0)]);
        sim[3] = None;
        let clear = ClientAgreement::of(&truth(5.0), &lab, &sim);
        assert_eq!((clear.answered_in_both, clear.same_winner), (3, 2));
        let tie = ClientAgreement::of(&truth(0.9), &lab, &sim);
        let agreement = Agreement::of(vec![clear, tie], 8, 10.0);
        assert_eq!((agreement.races, agreement.not_compared), (3, 2));
        assert!((agreement.same_winner_share - 2.0 / 3.0).abs() < 1e-9 && !agreement.agrees, "{agreement:?}");
    }

    #[test]
    fn times_beyond_a_limit_disagree_and_nothing_compared_is_no_agreement() {
        let lab = outcomes(&[("a", 20.0); 50]);
        let agreed = |by_ms: f64| {
            let sim = outcomes(&[("a", 20.0 + by_ms); 50]);
            Agreement::of(vec![ClientAgreement::of(&truth(5.0), &lab, &sim)], 50, 10.0).agrees
        };
        assert!(agreed(0.0) && agreed(MEDIAN_DIFFERENCE_MS_MOST - 0.1) && agreed(0.1 - MEDIAN_DIFFERENCE_MS_MOST));
        assert!(!agreed(MEDIAN_DIFFERENCE_MS_MOST + 0.1) && !agreed(-MEDIAN_DIFFERENCE_MS_MOST - 0.1));
        let mut slow_tail = outcomes(&[("a", 20.0); 50]);
        slow_tail[40..].fill(Some(Outcome { site: Some("a"), after_ms: 20.0 + P90_DIFFERENCE_MS_MOST + 0.1 }));
        slow_tail[39] = slow_tail[40];
        slow_tail[44] = slow_tail[40];
        assert!(!Agreement::of(vec![ClientAgreement::of(&truth(5.0), &lab, &slow_tail)], 50, 10.0).agrees);
        assert!(!Agreement::of(vec![ClientAgreement::of(&truth(5.0), &lab, &[None; 50])], 50, 10.0).agrees);
    }
}
