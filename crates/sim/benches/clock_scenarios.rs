//! Every clock scenario with many seeds: `make clock-scenarios`.
//!
//! Prints what each scenario came to, and at the end how many exchanges were judged and how many bounds were violated;
//! writes the same to `target/bench/scenarios.json`. Ends with status 1 on a violation or a limit that was not kept.
//!
//! Options: `--scenario NAME` (repeatable) and `--seeds A..B` (B excluded) to replay; `--list`; `--reduced` as the
//! tests run it.

use serde_json::{Value, json};
use startgun_core::time::Span;
use startgun_sim::scenario::{Figures, Scale, Scenario, all};
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

struct Arguments {
    scenarios: Vec<Scenario>,
    seeds: Option<Range<u64>>,
    scale: Scale,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let known = all();
    let (mut scenarios, mut seeds, mut scale) = (Vec::new(), None, Scale::Full);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // What cargo bench adds.
            "--bench" => {}
            "--list" => {
                known.iter().for_each(|scenario| println!("{}", scenario.name));
                return Ok(None);
            }
            "--reduced" => scale = Scale::Reduced,
            "--scenario" => {
                let name = words.next().ok_or("--scenario: expected a name; --list shows them")?;
                let found = known.iter().find(|scenario| scenario.name == name);
                let found = found.ok_or(format!("--scenario: found {name:?}, expected one that --list shows"))?;
                scenarios.push(found.clone());
            }
            "--seeds" => {
                let text = words.next().unwrap_or_default();
                let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
                let range = range.filter(|range: &Range<u64>| !range.is_empty());
                seeds = Some(range.ok_or(format!("--seeds: found {text:?}, expected A..B with A < B"))?);
            }
            _ => return Err(format!("found {word:?}, expected --scenario, --seeds, --reduced or --list")),
        }
    }
    if scenarios.is_empty() {
        scenarios = known;
    }
    Ok(Some(Arguments { scenarios, seeds, scale }))
}

/// Runs every scenario with each of its seeds, on all cores; the result does not depend on how many there are.
fn run(arguments: &Arguments) -> Vec<(Scenario, Range<u64>, Figures)> {
    let seeds = |scenario: &Scenario| arguments.seeds.clone().unwrap_or(scenario.seeds.clone());
    let jobs: Vec<(usize, u64)> = (arguments.scenarios.iter().enumerate())
        .flat_map(|(number, scenario)| seeds(scenario).map(move |seed| (number, seed)))
        .collect();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Figures>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(number, seed)) = jobs.get(index) else { break };
                    let scenario = &arguments.scenarios[number];
                    eprint!("\r{:>4} of {}: {} {seed}{:24}", index + 1, jobs.len(), scenario.name, "");
                    let figures = scenario.run(seed, arguments.scale);
                    if let Ok(mut results) = results.lock() {
                        results[index] = Some(figures);
                    }
                }
            });
        }
    });
    eprintln!();
    let mut merged: Vec<(Scenario, Range<u64>, Figures)> =
        arguments.scenarios.iter().map(|scenario| (scenario.clone(), seeds(scenario), Figures::default())).collect();
    let results = results.into_inner().unwrap_or_default();
    for ((number, _), figures) in jobs.iter().zip(results) {
        if let Some(figures) = figures {
            merged[*number].2.merge(figures);
        }
    }
    merged.iter_mut().for_each(|(_, _, figures)| figures.sort());
    merged
}

fn micros(span: Option<Span>) -> String {
    span.map_or("-".into(), |span| format!("{:.1}", span.as_micros_f64()))
}

fn millis(span: Option<Span>) -> String {
    span.map_or("-".into(), |span| format!("{:.2}", span.as_millis_f64()))
}

fn print(results: &[(Scenario, Range<u64>, Figures)]) {
    println!(
        "{:<27} {:>7} {:>9} {:>10} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>6} {:>6} {:>7} {:>9}",
        "",
        "",
        "",
        "",
        "viol-",
        "error us",
        "",
        "",
        "",
        "bound ms",
        "",
        "honest",
        "ready",
        "stood",
        "by",
        "again",
        "mutual us"
    );
    println!(
        "{:<27} {:>7} {:>9} {:>10} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>6} {:>6} {:>7} {:>9}",
        "scenario",
        "seeds",
        "exchanges",
        "readings",
        "ated",
        "p50",
        "p95",
        "p99",
        "max",
        "median",
        "max",
        "%",
        "s",
        "down",
        "reply",
        "s",
        "rms"
    );
    for (scenario, seeds, figures) in results {
        let seconds = |span: Option<Span>| span.map_or("-".into(), |span| format!("{:.2}", span.as_secs_f64()));
        println!(
            "{:<27} {:>7} {:>9} {:>10} {:>5} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>6} {:>6} {:>7} {:>9}",
            scenario.name,
            format!("{}..{}", seeds.start, seeds.end),
            figures.exchanges,
            figures.readings,
            figures.bound_violations + figures.departure_violations,
            micros(figures.error(50)),
            micros(figures.error(95)),
            micros(figures.error(99)),
            micros(figures.error(100)),
            millis(figures.bound(50)),
            millis(figures.bound(100)),
            figures.honest_ppm().map_or("-".into(), |ppm| format!("{:.2}", ppm as f64 / 1e4)),
            seconds(figures.ready()),
            figures.stand_downs,
            match figures.stood_down_by_reply() {
                None => "-".into(),
                Some(u32::MAX) => "never".into(),
                Some(reply) => reply.to_string(),
            },
            seconds(figures.again()),
            micros(figures.mutual_rms()),
        );
    }
}

fn document(results: &[(Scenario, Range<u64>, Figures)], scale: Scale) -> Value {
    let micros = |span: Option<Span>| span.map(Span::as_micros_f64);
    let scenarios: Vec<Value> = results
        .iter()
        .map(|(scenario, seeds, figures)| {
            json!({
                "scenario": scenario.name,
                "seeds": [seeds.start, seeds.end],
                "exchanges": figures.exchanges,
                "readings": figures.readings,
                "blind_readings": figures.blind,
                "departures": figures.departures,
                "bound_violations": figures.bound_violations,
                "departure_violations": figures.departure_violations,
                "error_us": {
                    "p50": micros(figures.error(50)), "p95": micros(figures.error(95)),
                    "p99": micros(figures.error(99)), "max": micros(figures.error(100)),
                },
                "bound_us": { "median": micros(figures.bound(50)), "max": micros(figures.bound(100)) },
                "honest_ppm": figures.honest_ppm(),
                "ready_s": figures.ready().map(Span::as_secs_f64),
                "stand_downs": figures.stand_downs,
                "stood_down_by_reply": figures.stood_down_by_reply().filter(|reply| *reply != u32::MAX),
                "again_s": figures.again().map(Span::as_secs_f64),
                "mutual_rms_us": micros(figures.mutual_rms()),
                "broken_limits": figures.judge(&scenario.limits_at(scale)),
            })
        })
        .collect();
    let sum = |of: fn(&Figures) -> u64| results.iter().map(|(_, _, figures)| of(figures)).sum::<u64>();
    json!({
        "exchanges": sum(|figures| figures.exchanges),
        "readings": sum(|figures| figures.readings),
        "bound_violations": sum(|figures| figures.bound_violations),
        "departure_violations": sum(|figures| figures.departure_violations),
        "scenarios": scenarios,
    })
}

/// `target/bench/scenarios.json`, wherever `target` is.
fn path() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join("bench/scenarios.json")
}

fn write(document: &Value) -> std::io::Result<PathBuf> {
    let path = path();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut file = std::fs::File::create(&path)?;
    writeln!(file, "{document:#}")?;
    Ok(path)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clock_scenarios: {error}");
            return ExitCode::FAILURE;
        }
    };
    let begun = Instant::now();
    let results = run(&arguments);
    print(&results);
    let document = document(&results, arguments.scale);
    println!(
        "\n{} exchanges, {} readings, bound_violations = {}, departure_violations = {}, {:.0} s",
        document["exchanges"],
        document["readings"],
        document["bound_violations"],
        document["departure_violations"],
        begun.elapsed().as_secs_f64()
    );
    let mut kept = true;
    for (scenario, _, figures) in &results {
        for broken in figures.judge(&scenario.limits_at(arguments.scale)) {
            kept = false;
            println!("not kept: {}: {broken}", scenario.name);
        }
    }
    match write(&document) {
        Ok(path) => eprintln!("written to {}", path.display()),
        Err(error) => {
            eprintln!("clock_scenarios: {}: {error}", path().display());
            return ExitCode::FAILURE;
        }
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
