//! `startgun sim --scale`: its report adds up, does not depend on threads, and bad input is told with exit code 2.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_startgun"));
    command.args(["sim", "--scale"]).args(arguments).output().expect("started")
}

/// A population that a debug build lives through in some seconds.
const SMALL: [&str; 10] =
    ["--resolvers", "300", "--queries", "1200", "--names", "30", "--day-seconds", "24", "--sites-random", "5"];

fn report(arguments: &[&str]) -> Value {
    let output = sim(&[&SMALL, arguments, &["--report", "json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn file(name: &str, text: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(format!("sim-scale-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn the_report_adds_up_and_does_not_depend_on_threads() {
    let one = report(&["--threads", "1"]);
    assert_eq!(one, report(&["--threads", "3"]));
    assert_ne!(one, report(&["--seed", "2"]));
    let count = |pointer: &str| one.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"));
    let sum = |pointer: &str| {
        let counts = one.pointer(pointer).and_then(Value::as_object).expect("counts");
        counts.values().filter_map(Value::as_u64).sum::<u64>()
    };
    assert!(count("/client_queries") > 1_000 && count("/races") > 200, "{one:#}");
    assert_eq!(count("/client_queries"), count("/cache_hits") + count("/joined") + count("/asked"));
    assert_eq!(count("/asked"), sum("/answered_by"));
    assert_eq!(count("/queries"), sum("/at_master"));
    assert_eq!(count("/sites_ready"), 5);
    assert_eq!(count("/orders"), 5 * (count("/races") + count("/at_master/queries_amended")));
    // An order of about a hundred bytes, sealed, and the headers.
    let bytes_per_order = count("/bytes/master_out") as f64 / count("/orders") as f64;
    assert!((100.0..500.0).contains(&bytes_per_order), "{bytes_per_order}");
    let figure = |pointer: &str| one.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}"));
    assert_eq!(one.pointer("/costs/source"), Some(&Value::from("docs/performance.md")));
    // Between 3 agents, 2.46 µs, and 10, 4.01 µs: two sevenths of the way.
    assert!((figure("/costs/race_us") - (2.46 + 1.55 * 2.0 / 7.0)).abs() < 1e-9, "{}", figure("/costs/race_us"));
    assert_eq!(one.pointer("/costs/race_is_measured"), Some(&Value::from(true)));
    let busy = figure("/carries/master_cores") * figure("/carries/core_races_per_s");
    assert!((busy - figure("/busiest_hour/races_per_s")).abs() < 1e-6, "{busy}");
}

#[test]
fn the_text_names_what_the_figures_are_from() {
    let output = sim(&SMALL);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no bar where nobody looks: {}", String::from_utf8_lossy(&output.stderr));
    for part in
        ["a day of 300 resolvers and 5 sites", "built-in model", "Orders", "by the costs in docs/performance.md"]
    {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn measured_costs_are_used() {
    let race = |us: f64| format!(r#"{{"master_cpu_us": {us}, "agent_cpu_us": 3.5}}"#);
    let costs = format!(
        r#"{{"servers": {{"startgun": {{"plain": {{"cpu_us": 1.5}}}}}}, "race": {{"3": {}, "5": {}}}}}"#,
        race(2.0),
        race(4.0)
    );
    let path = file("costs.json", &costs);
    let found = report(&["--costs", &path.to_string_lossy()]);
    std::fs::remove_file(&path).expect("removed");
    let figure = |name: &str| found["costs"][name].as_f64();
    assert_eq!([figure("race_us"), figure("central_us"), figure("order_us")], [Some(4.0), Some(1.5), Some(3.5)]);
}

#[test]
fn bad_input_is_told_with_exit_code_2() {
    let no_json = file("no.json", "{");
    let no_races = file("no-races.json", r#"{"servers": {}, "race": {}}"#);
    let (no_json, no_races) = (no_json.to_string_lossy().into_owned(), no_races.to_string_lossy().into_owned());
    let cases: [(&[&str], &str); 10] = [
        (&["--resolvers", "0"], "0 is not in 1..=1048576"),
        (&["--resolvers", "1048577"], "1048577 is not in 1..=1048576"),
        (&["--day-seconds", "23"], "23 is not in 24..=86400"),
        (&["--threads", "9"], "9 is not in 1..=8"),
        (&["--clock", "mesh"], "cannot be used with"),
        (&["--coordinates", "x"], "cannot be used with"),
        (&["--report", "html"], "--report html: with --scale expected text or json"),
        (&["--costs", "/nowhere/costs.json"], "/nowhere/costs.json: No such file"),
        (&["--costs", &no_json], "no JSON: EOF"),
        (&["--costs", &no_races], "/race: 0 races were measured, expected two and more"),
    ];
    for (arguments, told) in cases {
        let output = sim(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
    for path in [no_json, no_races] {
        std::fs::remove_file(path).expect("removed");
    }
    let without = Command::new(env!("CARGO_BIN_EXE_startgun")).args(["sim", "--names", "5"]).output().expect("started");
    assert_eq!(without.status.code(), Some(2), "--names asks for --scale");
}
