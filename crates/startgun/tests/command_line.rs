//! What the program says of itself: help texts, sample configurations, names of metrics.
//!
//! The golden files are written anew by `STARTGUN_UPDATE_GOLDEN=1 cargo test -p startgun --test command_line`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn startgun(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_startgun")).args(arguments).current_dir(directory).output().expect("started")
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a golden file, or writes it.
fn assert_golden(file: &str, found: &str) {
    let path = source("tests/golden").join(file);
    if std::env::var_os("STARTGUN_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, found).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let only = |these: &str, those: &str| -> Vec<String> {
        these.lines().filter(|line| !those.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    assert!(
        found == expected,
        "tests/golden/{file}: new {:#?}, gone {:#?}; where the change is meant, see the head of {}",
        only(found, &expected),
        only(&expected, found),
        file!()
    );
}

#[test]
fn help_is_as_in_the_golden_files() {
    let commands: [&[&str]; 17] = [
        &[],
        &["master"],
        &["agent"],
        &["check"],
        &["status"],
        &["race"],
        &["signal"],
        &["reload"],
        &["demo"],
        &["sim"],
        &["fleet"],
        &["fleet", "init"],
        &["fleet", "enroll"],
        &["fleet", "request"],
        &["fleet", "list"],
        &["fleet", "renew"],
        &["fleet", "revoke"],
    ];
    for command in commands {
        let output = startgun(&[command, &["--help"]].concat(), Path::new("."));
        assert!(output.status.success() && output.stderr.is_empty(), "{command:?}");
        let name = [&["startgun"], command].concat().join("-");
        assert_golden(&format!("help/{name}.txt"), &String::from_utf8_lossy(&output.stdout));
    }
    // The list is complete: every command that the help names was asked for.
    for (parent, known) in [(&[][..], &commands[1..11]), (&["fleet"][..], &commands[11..])] {
        let output = startgun(&[parent, &["--help"]].concat(), Path::new("."));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let listed = text.split_once("Commands:\n").expect("a list of commands").1;
        let listed = listed.lines().take_while(|line| !line.is_empty());
        let listed: BTreeSet<&str> =
            listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
        assert_eq!(listed, known.iter().filter_map(|command| command.last().copied()).collect());
    }
}

#[test]
fn the_sample_configurations_pass_the_check() {
    let directory = std::env::temp_dir().join(format!("startgun-samples-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("made");
    let _cleanup = Cleanup(&directory);
    for fleet in [
        &["fleet", "init", "--dir", "ca"][..],
        &["fleet", "enroll", "m1", "--role", "master", "--dir", "ca", "--out", "fleet"],
        &["fleet", "enroll", "tokyo", "--role", "agent", "--dir", "ca", "--out", "fleet"],
    ] {
        assert!(startgun(fleet, &directory).status.success(), "{fleet:?}");
    }
    for (role, summary) in [("master", "master m1"), ("agent", "agent tokyo")] {
        let sample =
            std::fs::read_to_string(source("../../docs/samples").join(format!("{role}.toml"))).expect("a sample");
        // The samples' user is made by packages.
        let sample = sample.replace("user = \"startgun\"", "user = \"nobody\"");
        let file = format!("{role}.toml");
        std::fs::write(directory.join(&file), &sample).expect("written");
        let output = startgun(&["check", "--config", &file], &directory);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(summary), "{text}");

        // An unknown key: nothing starts, and the line and key are named.
        let lines = sample.lines().take_while(|line| !line.starts_with('[')).count();
        let broken: Vec<&str> =
            sample.lines().take(lines).chain(["swiftness = 9"]).chain(sample.lines().skip(lines)).collect();
        std::fs::write(directory.join(&file), broken.join("\n")).expect("written");
        for arguments in [["check", "--config", &file], [role, "--config", &file]] {
            let output = startgun(&arguments, &directory);
            let fault = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            assert!(fault.contains(&format!("{file}:{}:", lines + 1)) && fault.contains("swiftness"), "{fault}");
        }
    }
}

struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

/// What `http.rs` makes of figures, without `startgun_`.
const GAUGES: [&str; 21] = [
    "master_open_connections",
    "master_open_races",
    "master_tls_certificate_not_after_timestamp_seconds",
    "master_agents_racing",
    "master_races_measured_total",
    "master_secondary_serial",
    "master_secondary_checked_ago_seconds",
    "master_secondary_expires_in_seconds",
    "master_start_spread_p50_seconds",
    "master_start_spread_p90_seconds",
    "master_start_spread_p99_seconds",
    "agent_racing",
    "agent_racing_by_after",
    "agent_clock_source",
    "agent_clock_offset_seconds",
    "agent_lateness_p50_seconds",
    "agent_lateness_p90_seconds",
    "agent_clock_bound_seconds",
    "agent_clock_expected_error_seconds",
    "agent_forward_delay_p99_seconds",
    "agent_lateness_p99_seconds",
];

/// Every counter that the machines know is in the file, and no other: `operations.rs` holds the running programs to it.
#[test]
fn the_golden_names_of_metrics_are_the_counters_of_the_machines() {
    let mut names = BTreeSet::new();
    for (role, files) in [
        (
            "master",
            &[
                "master/shard/counters.rs",
                "wire/session.rs",
                "../../startgun/src/master/tcp/tally.rs",
                "../../startgun/src/master/secondary/tally.rs",
            ][..],
        ),
        ("agent", &["agent/mod.rs", "agent/output.rs", "agent/link.rs", "agent/readiness.rs", "wire/session.rs"]),
    ] {
        for file in files {
            let text = std::fs::read_to_string(source("../core/src").join(file)).expect("a source file");
            let counters = text.split('"').skip(1).step_by(2).filter(|literal| is_counter(literal));
            names.extend(counters.map(|counter| format!("{role} startgun_{role}_{counter}_total")));
        }
        let of_role = GAUGES.iter().filter(|gauge| role == "master" || !gauge.starts_with("master_"));
        names.extend(of_role.map(|gauge| format!("{role} startgun_{gauge}")));
    }
    // The kernel's, which the shell adds.
    for queue in ["queries", "datagram"] {
        names.insert(format!("master startgun_master_{queue}_dropped_queue_full_total"));
    }
    names.insert("master startgun_agent_stood_down_total".into());
    names.insert("agent startgun_agent_audit_records_dropped_total".into());
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    assert!(names.len() > 40, "{text}");
    assert_golden("metrics.txt", &text);
}

/// String literals of those files that name counters: lower case with underscores, more than one word or `queries` and
/// the like.
fn is_counter(literal: &str) -> bool {
    const SINGLE: [&str; 6] = ["queries", "races", "orders", "exchanges", "signals", "departures"];
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    SINGLE.contains(&literal) || (literal.contains('_') && literal.split('_').all(word))
}
