//! The outcome for people.

use std::fmt::Write as _;

use startgun_core::time::Span;

use crate::load::{PLAIN, Shape};
use crate::outcome::{Outcome, RaceRow, Row};
use crate::race::{FALLBACK_AFTER, LOAD};
use crate::servers::Server;
use crate::sink::RECEIPT_INTERVAL;
use crate::statistics::{Estimate, interval};

/// All of it; `circumstances` are lines about this run.
pub fn report(outcome: &Outcome, circumstances: &str) -> String {
    let mut text = format!("\n{circumstances}");
    if outcome.rounds == 1 {
        text += "One round: its figures mean nothing.\n";
    } else if let Some((rank, coverage)) = interval(outcome.rounds) {
        let _ = writeln!(
            text,
            "Medians over {} rounds; in brackets the median's confidence interval, {:.1} % (values {rank} and {} of {}).",
            outcome.rounds,
            coverage * 100.0,
            outcome.rounds + 1 - rank,
            outcome.rounds,
        );
    }
    text += &answers(&outcome.rows());
    text += &races(&outcome.race_rows());
    text += &agent(outcome);
    for (what, estimate, limit) in outcome.goals() {
        let Some(estimate) = estimate else { continue };
        let verdict = if estimate.median <= limit { "reached" } else { "not reached" };
        let _ = writeln!(text, "Goal {verdict}: {what}: {}, at most {limit}", ratio(&estimate));
    }
    for doubt in outcome.doubts() {
        let _ = writeln!(text, "Doubtful: {doubt}");
    }
    text
}

fn shape(load: Shape) -> String {
    format!("{} sockets, {} queries outstanding", load.sockets, load.outstanding)
}

fn ratio(estimate: &Estimate) -> String {
    format!("{:.3} [{:.3}, {:.3}]", estimate.median, estimate.low, estimate.high)
}

fn answers(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\nAnswers: dnsperf, {}; ratios are to Knot's in the same round.\n{:<9} {:<9} {:>9} {:>22} {:>6} {:>8} {:>22} {:>9} {:>22} {:>6} {:>7}\n",
        shape(PLAIN),
        "answer",
        "server",
        "qps",
        "ratio",
        "busy",
        "CPU µs",
        "ratio",
        "MB",
        "ratio",
        "bytes",
        "lost"
    );
    for row in rows {
        let ratios = match &row.ratios {
            Some(ratios) if row.server != Server::Knot => ratios.each_ref().map(ratio),
            _ => Default::default(),
        };
        let [qps, cpu_us, rss_mb] = &ratios;
        let _ = writeln!(
            text,
            "{:<9} {:<9} {:>9.0} {qps:>22} {:>4.0} % {:>8.3} {cpu_us:>22} {:>9.1} {rss_mb:>22} {:>6.0} {:>7}",
            row.kind.name(),
            row.server.name(),
            row.qps.median,
            row.qps.median * row.cpu_us.median / 1e4,
            row.cpu_us.median,
            row.rss_mb.median,
            row.response_bytes,
            row.lost,
        );
    }
    text
}

fn races(rows: &[RaceRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\nRaces: dnsperf, {}; the ratio is to a plain answer of Startgun's in the same round. Waits: from a query's receipt\n\
         to the departure of its order, by the kernel's timestamps, the oldest order of each datagram; (of the longest, what\n\
         came after the query was taken from its queue). Receipts come every {} ms, {} ms before the master would answer.\n\
         {:>6} {:>9} {:>10} {:>22} {:>11} {:>11} {:>9} {:>9} {:>9} {:>9} {:>19} {:>7}\n",
        shape(LOAD),
        RECEIPT_INTERVAL.as_millis_f64(),
        (FALLBACK_AFTER - RECEIPT_INTERVAL).as_millis_f64(),
        "agents",
        "races/s",
        "master µs",
        "ratio",
        "orders due",
        "received",
        "share",
        "per dgram",
        "wait p50",
        "p99",
        "longest ms",
        "master",
    );
    let ms = |span: Span| format!("{:.3}", span.as_millis_f64());
    for row in rows {
        let waits = &row.waits;
        let _ = writeln!(
            text,
            "{:>6} {:>9.0} {:>10.3} {:>22} {:>11} {:>11} {:>7.3} % {:>9.1} {:>9} {:>9} {:>19} {:>7}",
            row.agents,
            row.races_per_s.median,
            row.master_cpu_us.median,
            row.ratio.as_ref().map(ratio).unwrap_or_default(),
            row.orders_due,
            row.orders_received,
            row.orders_received as f64 / row.orders_due.max(1) as f64 * 100.0,
            row.orders_per_datagram,
            ms(waits.p50),
            ms(waits.p99),
            format!("{} ({})", ms(waits.longest), ms(waits.longest_coalesced)),
            row.by_master,
        );
    }
    text
}

fn agent(outcome: &Outcome) -> String {
    let of = |figure: fn(&crate::race::Answers) -> f64| Estimate::of(outcome.agent.values().map(figure));
    let (Some(per_s), Some(cpu_us)) = (of(|answers| answers.per_s), of(|answers| answers.cpu_us)) else {
        return "\n".into();
    };
    let lateness = |place: fn(&crate::race::Answers) -> f64| of(place).map_or(f64::NAN, |estimate| estimate.median);
    format!(
        "\nOne real agent: {:.0} answers/s [{:.0}, {:.0}], {:.2} µs of CPU per order [{:.2}, {:.2}]; departures {:.0} µs after T \
         (median), {:.0} µs (p99); {} orders failed.\n\n",
        per_s.median,
        per_s.low,
        per_s.high,
        cpu_us.median,
        cpu_us.low,
        cpu_us.high,
        lateness(|answers| answers.lateness_us.0),
        lateness(|answers| answers.lateness_us.1),
        outcome.agent.values().map(|answers| answers.failed).sum::<u64>(),
    )
}
