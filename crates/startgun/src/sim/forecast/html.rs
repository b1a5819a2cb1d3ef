//! The report as one HTML page: charts and the figures behind them, nothing loaded from elsewhere.

use startgun_sim::forecast::Tally;
use std::fmt::Write;

use super::charts::{Chart, Line, round_up};
use super::curves::{Curve, Curves};
use super::report::{CHOICES, Report};

/// The distribution of losses is shown up to here.
const LOSS_SHOWN_MS: u32 = 100;
/// Points of its lines.
const LOSS_STEPS: u32 = 400;

const STYLE: &str = include_str!("report.css");

/// The page.
///
/// # Errors
/// A chart cannot be drawn.
pub fn page(report: &Report, tally: &Tally, curves: &Curves) -> Result<String, String> {
    let mut body = String::new();
    let _ = write!(
        body,
        "<header><h1>What a race would bring</h1><p>{} sites, {} draws, {} clients each: {} races with clocks by {}. Seed \
         {}.</p></header>{}<h2>Choices</h2>{}",
        report.sites,
        report.draws,
        report.clients,
        report.races,
        escaped(&report.clock),
        report.seed,
        headline(report),
        choices_table(report)
    );
    body.push_str("<div class=charts>");
    let mut add = |chart: &Chart, about: &str, table: &str| -> Result<(), String> {
        let _ = write!(body, "<figure>{}</figure>", figure(chart, about, table)?);
        Ok(())
    };
    let of_all = format!("All {} races.", report.races);
    add(&losses_chart(tally, report), &of_all, &losses_table(tally, report))?;
    add(
        &clock_chart(&curves.by_clock_error),
        &of_draws(&curves.by_clock_error),
        &curve_table(&curves.by_clock_error, "error in ms", false),
    )?;
    add(&sites_chart(&curves.by_sites), &of_draws(&curves.by_sites), &curve_table(&curves.by_sites, "sites", true))?;
    add(&cover_chart(&curves.by_cover), &of_draws(&curves.by_cover), &cover_table(&curves.by_cover))?;
    body.push_str("</div>");
    body.push_str(&remarks(report));
    Ok(format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta name=color-scheme content=\"light dark\"><title>Startgun: what a race would bring</title>\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The three figures to remember.
fn headline(report: &Report) -> String {
    let Some(race) = report.choices.get("race") else { return String::new() };
    let other = report.choices.get("distance").map(|choice| ("by distance", choice));
    let (word, other) = match other.or(report.choices.get("fixed").map(|choice| ("one site for all", choice))) {
        Some(other) => other,
        None => return String::new(),
    };
    let tile = |figure: String, what: &str, beside: String| {
        format!("<div><b>{figure}</b><span>{what}</span><small>{beside}</small></div>")
    };
    let share = |share: f64| format!("{:.1} %", share * 100.0);
    [
        "<div class=tiles>".to_owned(),
        tile(
            share(race.lowest_share),
            "of clients at the site with the lowest round trip",
            format!("{} {word}", share(other.lowest_share)),
        ),
        tile(share(race.within_5ms_share), "within 5 ms of it", format!("{} {word}", share(other.within_5ms_share))),
        tile(
            format!("{:.2} ms", race.mean_loss_ms),
            "lost in the mean",
            format!("{:.2} ms {word}", other.mean_loss_ms),
        ),
        tile(
            format!("{:.0} ms", report.first_answer_ms.p50),
            "to the first answer, half of the time",
            format!("{:.0} ms, 95 of 100 times", report.first_answer_ms.p95),
        ),
        "</div>".to_owned(),
    ]
    .concat()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = "<div class=scroll><table><thead><tr>".to_owned();
    head.iter().for_each(|cell| text += &format!("<th>{cell}</th>"));
    text += "</tr></thead><tbody>";
    for row in rows {
        text += "<tr>";
        row.iter().for_each(|cell| text += &format!("<td>{cell}</td>"));
        text += "</tr>";
    }
    text + "</tbody></table></div>"
}

fn choices_table(report: &Report) -> String {
    let head = ["choice", "lowest RTT", "within 5 ms", "mean loss", "95th percentile", "99th percentile"];
    let row = |name: &&str| {
        let choice = report.choices.get(name)?;
        let ms = |ms: f64| format!("{ms:.2} ms");
        Some(vec![
            words(name).to_owned(),
            format!("{:.1} %", choice.lowest_share * 100.0),
            format!("{:.1} %", choice.within_5ms_share * 100.0),
            ms(choice.mean_loss_ms),
            ms(choice.p95_loss_ms),
            ms(choice.p99_loss_ms),
        ])
    };
    table(&head, CHOICES.iter().filter_map(row))
}

/// A choice in words.
fn words(choice: &str) -> &'static str {
    match choice {
        "race" => "race",
        "distance" => "distance",
        "random" => "a random site",
        "fixed" => "one site for all",
        _ => "the best possible",
    }
}

fn figure(chart: &Chart, about: &str, table: &str) -> Result<String, String> {
    let key =
        |line: &Line| format!("<span><i style=\"background:var(--series-{})\"></i>{}</span>", line.colour, line.name);
    let keys: Vec<String> = chart.lines.iter().map(key).collect();
    Ok(format!(
        "<figcaption><h2>{}</h2><p>{about}</p><p class=keys>{}</p></figcaption>{}<details><summary>Figures</summary>{table}\
         </details>",
        chart.title,
        keys.concat(),
        chart.svg()?
    ))
}

fn of_draws(curve: &Curve) -> String {
    format!("{} draws for each point.", curve.draws)
}

/// The choices that differ from the best, with their colours.
fn compared<'a>(tally: &'a Tally, report: &Report) -> Vec<(&'static str, u8, &'a startgun_sim::forecast::Losses)> {
    let all = [
        ("race", 0, &tally.race),
        ("distance", 1, &tally.distance),
        ("fixed", 2, &tally.fixed),
        ("random", 3, &tally.random),
    ];
    all.into_iter().filter(|(name, ..)| report.choices.contains_key(name)).collect()
}

fn losses_chart(tally: &Tally, report: &Report) -> Chart {
    let steps: Vec<f64> =
        (0..=LOSS_STEPS).map(|step| f64::from(step * LOSS_SHOWN_MS) / f64::from(LOSS_STEPS)).collect();
    // At most so much: the next step of ten microseconds is below it.
    let limits: Vec<f64> = steps.iter().map(|step| step + 0.005).collect();
    let line = |(name, colour, losses): (&str, u8, &startgun_sim::forecast::Losses)| Line {
        name: words(name),
        colour,
        points: steps
            .iter()
            .copied()
            .zip(losses.spread.shares_below(&limits).iter().map(|share| share * 100.0))
            .collect(),
        is_dotted: false,
    };
    Chart {
        title: "How much clients lose",
        x: "round trip longer than the best site's, in ms",
        y: "clients that lose at most this, in %",
        x_range: 0.0..f64::from(LOSS_SHOWN_MS),
        y_range: 0.0..100.0,
        lines: compared(tally, report).into_iter().map(line).collect(),
    }
}

fn losses_table(tally: &Tally, report: &Report) -> String {
    const LIMITS_MS: [f64; 8] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    let compared = compared(tally, report);
    let head: Vec<&str> = ["loss at most"].into_iter().chain(compared.iter().map(|(name, ..)| words(name))).collect();
    let shares: Vec<Vec<f64>> =
        compared.iter().map(|(.., losses)| losses.spread.shares_below(&LIMITS_MS.map(|limit| limit + 0.005))).collect();
    let row = |(at, limit): (usize, &f64)| {
        let cells = shares.iter().map(|shares| format!("{:.1} %", shares[at] * 100.0));
        [format!("{limit} ms")].into_iter().chain(cells).collect()
    };
    table(&head, LIMITS_MS.iter().enumerate().map(row))
}

fn mean_loss_line(curve: &Curve, name: &'static str, colour: u8, of: impl Fn(&Tally) -> f64) -> Line {
    Line { name, colour, points: curve.points.iter().map(|(x, tally)| (*x, of(tally))).collect(), is_dotted: true }
}

/// The greatest of all lines' values, rounded up.
fn top(lines: &[Line]) -> f64 {
    round_up(lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max))
}

fn end(curve: &Curve) -> f64 {
    curve.points.last().map_or(1.0, |point| point.0)
}

fn clock_chart(curve: &Curve) -> Chart {
    let mut lines = vec![mean_loss_line(curve, "race", 0, |tally| tally.race.spread.mean_ms())];
    if curve.points.iter().any(|(_, tally)| tally.distance.spread.count() > 0) {
        lines.push(mean_loss_line(curve, "distance", 1, |tally| tally.distance.spread.mean_ms()));
    }
    Chart {
        title: "Loss against clock error",
        x: "standard deviation of the sites' clocks, in ms",
        y: "mean loss in ms",
        x_range: 0.0..end(curve),
        y_range: 0.0..top(&lines),
        lines,
    }
}

fn sites_chart(curve: &Curve) -> Chart {
    let mut lines = vec![mean_loss_line(curve, "race", 0, |tally| tally.race.spread.mean_ms())];
    if curve.points.iter().any(|(_, tally)| tally.distance.spread.count() > 0) {
        lines.push(mean_loss_line(curve, "distance", 1, |tally| tally.distance.spread.mean_ms()));
    }
    Chart {
        title: "Loss against number of sites",
        x: "sites",
        y: "mean loss in ms",
        x_range: 0.0..round_up(end(curve)),
        y_range: 0.0..top(&lines),
        lines,
    }
}

fn curve_table(curve: &Curve, what: &str, counts: bool) -> String {
    let head = [what, "race, mean loss", "race, lowest RTT", "distance, mean loss", "distance, lowest RTT"];
    let has_distance = curve.points.iter().any(|(_, tally)| tally.distance.spread.count() > 0);
    let width = if has_distance { 5 } else { 3 };
    let row = |(x, tally): &(f64, Tally)| {
        let of = |losses: &startgun_sim::forecast::Losses| {
            [format!("{:.2} ms", losses.spread.mean_ms()), format!("{:.1} %", losses.lowest_share() * 100.0)]
        };
        let x = if counts { format!("{x:.0}") } else { format!("{x:.1}") };
        let mut cells = vec![x];
        cells.extend(of(&tally.race));
        cells.extend(of(&tally.distance));
        cells.truncate(width);
        cells
    };
    table(&head[..width], curve.points.iter().map(row))
}

fn cover_chart(curve: &Curve) -> Chart {
    let percent = |line: Line| Line { points: line.points.iter().map(|(x, y)| (x * 100.0, *y)).collect(), ..line };
    let lines = vec![
        percent(mean_loss_line(curve, "predetermined delay, median", 0, |tally| {
            tally.predetermined_delay.quantile_ms(0.5)
        })),
        percent(mean_loss_line(curve, "first answer, median", 4, |tally| tally.first_answer.quantile_ms(0.5))),
    ];
    Chart {
        title: "Delay against coverage",
        x: "agents that have their orders in time, in %",
        y: "ms",
        x_range: 20.0..100.0,
        y_range: 0.0..top(&lines),
        lines,
    }
}

fn cover_table(curve: &Curve) -> String {
    let head = ["covered", "delay p50", "delay p95", "first answer p50", "race, lowest RTT", "race, mean loss"];
    let row = |(share, tally): &(f64, Tally)| {
        let ms = |ms: f64| format!("{ms:.1} ms");
        vec![
            format!("{:.0} %", share * 100.0),
            ms(tally.predetermined_delay.quantile_ms(0.5)),
            ms(tally.predetermined_delay.quantile_ms(0.95)),
            ms(tally.first_answer.quantile_ms(0.5)),
            format!("{:.1} %", tally.race.lowest_share() * 100.0),
            format!("{:.2} ms", tally.race.spread.mean_ms()),
        ]
    };
    table(&head, curve.points.iter().map(row))
}

fn remarks(report: &Report) -> String {
    let mut text = format!(
        "<h2>Beside this</h2><ul><li>Sent: {} orders and {} answers, {} of them by the master.</li><li>Clocks were wrong by \
         {:.3} ms against each other (RMS).</li><li>The predetermined delay was {:.1} ms (median of the draws; 95th percentile \
         {:.1} ms).</li>",
        report.orders,
        report.answers,
        report.fallback_answers,
        report.clock_error_ms,
        report.predetermined_delay_ms.p50,
        report.predetermined_delay_ms.p95
    );
    report.notes.iter().for_each(|note| text += &format!("<li>{}</li>", escaped(note)));
    text + "</ul>"
}
