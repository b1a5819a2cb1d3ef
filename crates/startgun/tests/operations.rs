//! What an operator does to a fleet, and what happens to it: agents that die or are not ready, a master that is
//! restarted, a network that drops foreign sources, status, metrics and health.

mod support;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::fleet::{FALLBACK, FRANKFURT, Fleet, HELD, HELD_TOO, Options, RACED, SERVICE, SLOW, TOKYO, addresses};
use support::{Test, dns, wait_for};

/// The limit: "Master restarted: agents are racing again within 5 s".
const RACING_AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// An answer that waits for nobody, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(200);

/// After this the race is closed, and the same question opens another: a delay of some 6 ms, 250 ms for receipts.
const RACE_OVER: Duration = Duration::from_millis(350);

const TESTS: [(&str, Test); 9] = [
    ("when_an_agent_is_killed_during_a_race_the_other_wins", when_an_agent_is_killed_during_a_race_the_other_wins),
    ("without_agents_the_fallback_answers_at_once", without_agents_the_fallback_answers_at_once),
    ("while_agents_stand_down_the_fallback_answers_at_once", while_agents_stand_down_the_fallback_answers_at_once),
    ("after_a_restart_of_the_master_agents_race_within_5_s", after_a_restart_of_the_master_agents_race_within_5_s),
    ("sigterm_ends_gracefully", sigterm_ends_gracefully),
    ("status_metrics_and_health_tell_the_state", status_metrics_and_health_tell_the_state),
    ("a_signal_starts_the_races_that_wait_for_it", a_signal_starts_the_races_that_wait_for_it),
    ("agents_without_a_clock_race_by_after_where_they_may", agents_without_a_clock_race_by_after_where_they_may),
    (
        "an_agent_whose_network_drops_foreign_sources_never_races",
        an_agent_whose_network_drops_foreign_sources_never_races,
    ),
];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn when_an_agent_is_killed_during_a_race_the_other_wins() -> Result<(), String> {
    let mut fleet = Fleet::racing()?;
    fleet.validate(fleet.client());
    let socket = fleet.client_socket();
    socket.send_to(&dns::query(1, SLOW, dns::A), SERVICE).expect("sent");
    // The orders are there by now, T is 200 ms ahead.
    std::thread::sleep(Duration::from_millis(100));
    fleet.signal("tokyo", Signal::SIGKILL);
    let answers = dns::receive_all(&socket, Duration::from_millis(900));
    let answers: Vec<_> = answers.into_iter().map(|(message, _, at)| (dns::address(&message), at)).collect();
    // One receipt is not enough to be sure that the client has an answer: the master adds its own later.
    assert_eq!(addresses(&answers), [Some(FRANKFURT), Some(FALLBACK)], "{answers:?}");
    fleet.wait_until_racing(&["frankfurt"]);
    let next = fleet.ask(RACED, Duration::from_millis(700));
    assert_eq!(addresses(&next), [Some(FRANKFURT)], "{next:?}");
    Ok(())
}

fn without_agents_the_fallback_answers_at_once() -> Result<(), String> {
    let mut fleet = Fleet::new(&Options::default())?;
    fleet.start("m1");
    wait_for("the master answers", Duration::from_secs(5), || fleet.status("m1"));
    fleet.validate(fleet.client());
    let answers = fleet.ask(SLOW, Duration::from_millis(700));
    assert_eq!(addresses(&answers), [Some(FALLBACK)], "{answers:?}");
    assert!(answers[0].1 < AT_ONCE, "{answers:?}");
    fleet.wait_for_counter("m1", "answers_fallback_no_agent", 1);
    Ok(())
}

fn while_agents_stand_down_the_fallback_answers_at_once() -> Result<(), String> {
    // No clock is that good.
    let options = Options { agents_clock: "max_expected_error_ms = 0.001", ..Options::default() };
    let mut fleet = Fleet::new(&options)?;
    fleet.start("m1");
    fleet.start("tokyo");
    wait_for("the agent stands down by its clock", Duration::from_secs(10), || {
        fleet.reason("tokyo").filter(|reason| reason.contains("expected clock error above max_expected_error"))
    });
    fleet.validate(fleet.client());
    let answers = fleet.ask(SLOW, Duration::from_millis(700));
    assert_eq!(addresses(&answers), [Some(FALLBACK)], "{answers:?}");
    assert!(answers[0].1 < AT_ONCE, "{answers:?}");
    let status = fleet.status("tokyo").expect("the agent's status");
    assert_eq!(status["masters"][0]["report"]["stand_down"], "expected_error");
    assert_eq!(status["masters"][0]["connected"], true);
    let (line, body) = fleet.http("tokyo", "/readyz");
    assert!(line.contains("503"), "{line}");
    assert!(body.contains("m1: expected clock error above max_expected_error"), "{body}");
    Ok(())
}

fn after_a_restart_of_the_master_agents_race_within_5_s() -> Result<(), String> {
    let mut fleet = Fleet::racing()?;
    fleet.signal("m1", Signal::SIGTERM);
    assert!(fleet.wait_end("m1").success());
    let started = Instant::now();
    fleet.start("m1");
    wait_for("the master answers", Duration::from_secs(5), || fleet.status("m1"));
    fleet.validate(fleet.client());
    // From outside: the sites answer again.
    wait_for("both sites answer", Duration::from_secs(15), || {
        let answers = addresses(&fleet.ask(RACED, RACE_OVER));
        (answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT))).then_some(())
    });
    let took = started.elapsed();
    println!("racing again {:.2} s after the master's start", took.as_secs_f64());
    assert!(took <= RACING_AGAIN_WITHIN, "{took:?}");
    Ok(())
}

fn sigterm_ends_gracefully() -> Result<(), String> {
    let mut fleet = Fleet::racing()?;
    fleet.validate(fleet.client());
    let socket = fleet.client_socket();
    socket.send_to(&dns::query(1, SLOW, dns::A), SERVICE).expect("sent");
    std::thread::sleep(Duration::from_millis(50));
    // A race is under way. Its agents die before T, so that nobody but the stopping master can answer it.
    fleet.signal("m1", Signal::SIGTERM);
    fleet.signal("tokyo", Signal::SIGKILL);
    fleet.signal("frankfurt", Signal::SIGTERM);
    let stopping = Instant::now();
    assert_eq!(fleet.wait_end("frankfurt").code(), Some(0));
    let answers = dns::receive_all(&socket, Duration::from_millis(900));
    let answers: Vec<_> = answers.into_iter().map(|(message, _, _)| dns::address(&message)).collect();
    assert_eq!(answers, [Some(FALLBACK)]);
    assert_eq!(fleet.wait_end("m1").code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(3), "{:?}", stopping.elapsed());
    for name in ["m1", "frankfurt"] {
        assert!(!fleet.path(&format!("{name}.sock")).exists(), "{name}'s status socket is still there");
        assert!(fleet.log(name).contains("SIGTERM: stopping"), "{}", fleet.log(name));
    }
    // A killed process leaves its socket behind; the next one replaces it.
    assert!(fleet.path("tokyo.sock").exists());
    fleet.start("tokyo");
    wait_for("the agent answers again", Duration::from_secs(5), || fleet.status("tokyo"));
    Ok(())
}

fn status_metrics_and_health_tell_the_state() -> Result<(), String> {
    let fleet = Fleet::racing()?;
    // One query of each kind, so that the usual counters exist.
    assert_eq!(addresses(&fleet.ask(RACED, Duration::from_millis(200))), [None]);
    fleet.validate(fleet.client());
    let answers = addresses(&fleet.ask(RACED, RACE_OVER));
    assert!(answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT)), "{answers:?}");
    fleet.wait_for_counter("m1", "receipts_departed", 2);
    // Lateness is in the report of the second after.
    let master = wait_for("a report with lateness", Duration::from_secs(5), || {
        let master = fleet.status("m1")?;
        let agents = master["agents"].as_array()?;
        let told = agents.iter().all(|agent| agent["report"]["lateness"].is_object() && agent["lateness"].is_object());
        (told && master["races"][0]["start_spread"].is_object()).then_some(master)
    });
    check_master_status(&master);
    let agent = fleet.status("tokyo").expect("a status");
    check_agent_status(&agent);

    for name in ["m1", "tokyo"] {
        for path in ["/healthz", "/readyz"] {
            let (line, body) = fleet.http(name, path);
            assert!(line.starts_with("HTTP/1.1 200"), "{name} {path}: {line} {body}");
        }
        let (line, body) = fleet.http(name, "/metrics");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        check_metrics(name, &body);
        assert!(fleet.http(name, "/nothing").0.contains("404"));
    }
    Ok(())
}

/// Runs `startgun signal` at the master's socket: exit code, standard output, standard error.
fn fire(fleet: &Fleet, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(support::program());
    command.args(["signal", "--socket", "m1.sock"]).args(arguments).current_dir(fleet.directory());
    let output = command.output().expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn a_signal_starts_the_races_that_wait_for_it() -> Result<(), String> {
    // No clock is that good, and none is needed.
    let options = Options { agents_clock: "max_expected_error_ms = 0.001", ..Options::default() };
    let mut fleet = Fleet::new(&options)?;
    fleet.start("m1");
    fleet.start("tokyo");
    fleet.start("frankfurt");
    wait_for("both agents can be ordered by signal", Duration::from_secs(20), || {
        let status = fleet.status("m1")?;
        let agents = status["agents"].as_array()?.clone();
        (agents.len() == 2 && agents.iter().all(|agent| agent["readiness"] == "by_signal")).then_some(())
    });
    fleet.validate(fleet.client());

    assert_eq!(fire(&fleet, &["go"]), (Some(0), "signal go: no race was waiting\n".into(), String::new()));
    let (code, _, error) = fire(&fleet, &["gone"]);
    assert_eq!(code, Some(1));
    assert_eq!(error, "startgun: no race waits for a signal of the name \"gone\"; known are go\n");
    assert_eq!(fire(&fleet, &[]).0, Some(2), "a faulty command line");

    let sockets = [fleet.client_socket(), fleet.client_socket()];
    // The same question from one address is one race: two names.
    for (socket, name) in sockets.iter().zip([HELD, HELD_TOO]) {
        socket.send_to(&dns::query(1, name, dns::A), SERVICE).expect("sent");
    }
    // Beyond the delay and the wait for receipts of a race that fires by itself.
    std::thread::sleep(Duration::from_millis(700));
    let (code, answer, error) = fire(&fleet, &["go", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["signalled"], serde_json::json!({"name": "go", "races": 2, "agents": 2}));
    for socket in &sockets {
        let mut answers: Vec<_> = dns::receive_all(socket, Duration::from_millis(700))
            .into_iter()
            .map(|(message, _, _)| dns::address(&message))
            .collect();
        answers.sort_unstable();
        assert_eq!(answers, [Some(TOKYO), Some(FRANKFURT)], "after the signal, once, and no fallback");
    }

    // Nobody fires it: the master answers when the agents stop waiting.
    let answers = fleet.ask(HELD, Duration::from_millis(2_700));
    assert_eq!(addresses(&answers), [Some(FALLBACK)], "{answers:?}");
    assert!(answers[0].1 >= Duration::from_secs(2), "{answers:?}");
    fleet.wait_for_counter("m1", "answers_fallback_not_signalled", 1);
    Ok(())
}

fn agents_without_a_clock_race_by_after_where_they_may() -> Result<(), String> {
    let options =
        Options { agents_clock: "max_expected_error_ms = 0.001\non_bad_clock = \"after\"", ..Options::default() };
    let mut fleet = Fleet::new(&options)?;
    fleet.start("m1");
    fleet.start("tokyo");
    fleet.start("frankfurt");
    fleet.wait_until_racing(&["frankfurt", "tokyo"]);
    fleet.validate(fleet.client());
    let answers = addresses(&fleet.ask(RACED, RACE_OVER));
    assert!(answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT)), "{answers:?}");
    fleet.wait_for_counter("m1", "orders_by_after", 2);
    let status = fleet.status("m1").expect("a status");
    for agent in status["agents"].as_array().expect("a list") {
        assert_eq!(agent["readiness"], "by_after");
        assert_eq!(agent["report"]["by_after"], "expected_error");
        assert_eq!(agent["report"]["stand_down"], Value::Null);
    }
    let mut command = std::process::Command::new(support::program());
    let output = command.args(["status", "--socket", "m1.sock"]).current_dir(fleet.directory()).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("racing by After: expected clock error above max_expected_error"), "{text}");
    assert!(text.contains("held for signal go, at most 2000.0 ms"), "{text}");
    Ok(())
}

fn assert_keys(value: &Value, keys: &[&str]) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect(), "{value:#}");
}

fn check_master_status(master: &Value) {
    let keys = [
        "role",
        "name",
        "version",
        "epoch",
        "uptime_s",
        "shards",
        "services",
        "host_clock",
        "agents",
        "races",
        "secondaries",
        "open_races",
        "streams",
        "counters",
    ];
    assert_keys(master, &keys);
    assert_keys(&master["streams"], &["open_tcp", "open_tls", "certificate_not_after_unix_s"]);
    assert_eq!((&master["role"], &master["name"]), (&Value::from("master"), &Value::from("m1")));
    assert_eq!(master["services"][0], SERVICE.to_string());
    assert_keys(&master["races"][0], &["name", "predetermined_delay_ms", "signal", "start_spread"]);
    assert_keys(&master["races"][0]["start_spread"], &["p50", "p90", "p99", "count"]);
    assert!(
        master["races"][0]["predetermined_delay_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 300.0),
        "{master:#}"
    );
    let agents = master["agents"].as_array().expect("a list");
    assert_eq!(agents.len(), 2);
    for agent in agents {
        let keys = ["name", "site", "fast_path", "racing", "readiness", "reason", "lateness", "report"];
        assert_keys(agent, &keys);
        assert_eq!(agent["readiness"], "at_instant");
        assert_keys(&agent["lateness"], &["p50", "p90", "p99", "count"]);
        assert_eq!((&agent["racing"], &agent["reason"]), (&Value::Bool(true), &Value::Null));
        check_report(&agent["report"]);
    }
    for counter in ["queries", "races", "orders", "answers_truncated", "exchanges", "receipts_departed"] {
        assert!(master["counters"][counter].as_u64().is_some_and(|count| count > 0), "{counter}: {master:#}");
    }
}

fn check_agent_status(agent: &Value) {
    assert_keys(
        agent,
        &["role", "name", "version", "site", "uptime_s", "departure_scheduling", "host_clock", "masters", "counters"],
    );
    assert_eq!((&agent["role"], &agent["site"]), (&Value::from("agent"), &Value::from("tokyo")));
    let master = &agent["masters"][0];
    assert_keys(master, &["name", "connected", "report"]);
    check_report(&master["report"]);
    for counter in ["orders", "departures", "sync_signals"] {
        assert!(agent["counters"][counter].as_u64().is_some_and(|count| count > 0), "{counter}: {agent:#}");
    }
}

fn check_report(report: &Value) {
    assert_keys(report, &["stand_down", "by_after", "clock", "forward_delay", "lateness", "mesh", "counters"]);
    assert_eq!(report["stand_down"], Value::Null);
    let clock = ["offset", "bound", "expected_error", "conditional", "least_round_trip", "samples", "steps", "source"];
    assert_keys(&report["clock"], &clock);
    assert_keys(&report["forward_delay"], &["p99", "greatest", "samples"]);
    assert_keys(&report["lateness"], &["p1", "p50", "p90", "p99", "samples"]);
}

/// Counters appear when they first count. So every name must be in the golden file, and those that a race brings forth
/// must be there; that the file names nothing else is `command_line.rs`'s to check.
fn check_metrics(name: &str, body: &str) {
    let role = if name == "m1" { "master" } else { "agent" };
    let golden: BTreeSet<&str> = include_str!("golden/metrics.txt").lines().collect();
    let found: BTreeSet<&str> = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    let unknown: Vec<&&str> = found.iter().filter(|name| !golden.contains(format!("{role} {name}").as_str())).collect();
    assert!(unknown.is_empty(), "not in tests/golden/metrics.txt: {unknown:?}");
    let expected: &[&str] = match role {
        "master" => &[
            "startgun_master_races_total",
            "startgun_master_queries_total",
            "startgun_master_open_races",
            "startgun_master_open_connections",
            "startgun_master_queries_tcp_total",
            "startgun_master_agents_racing",
            "startgun_agent_racing",
            "startgun_agent_forward_delay_p99_seconds",
            "startgun_agent_lateness_p99_seconds",
            "startgun_master_start_spread_p50_seconds",
            "startgun_master_races_measured_total",
        ],
        _ => &[
            "startgun_agent_orders_total",
            "startgun_agent_departures_total",
            "startgun_agent_racing",
            "startgun_agent_clock_bound_seconds",
            "startgun_agent_clock_expected_error_seconds",
        ],
    };
    for name in expected {
        assert!(found.contains(name), "{name} is missing: {found:?}");
    }
    let well_formed = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .all(|line| line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()));
    assert!(well_formed && body.ends_with("# EOF\n"), "{body}");
}

fn an_agent_whose_network_drops_foreign_sources_never_races() -> Result<(), String> {
    let mut fleet = Fleet::new(&Options { tokyo_drops_foreign_sources: true, ..Options::default() })?;
    fleet.start("m1");
    fleet.start("tokyo");
    fleet.start("frankfurt");
    fleet.wait_until_racing(&["frankfurt"]);
    // Ten challenges, 0.7 s apart; until they are over the agent is pending, and after that it has failed.
    assert!(fleet.reason("tokyo").is_some_and(|reason| reason.contains("self-test")), "{:?}", fleet.reason("tokyo"));
    wait_for("the self-test has failed", Duration::from_secs(12), || {
        fleet.reason("tokyo").filter(|reason| reason.contains("source self-test failed"))
    });
    fleet.validate(fleet.client());
    for _ in 0..3 {
        assert_eq!(addresses(&fleet.ask(RACED, RACE_OVER)), [Some(FRANKFURT)]);
    }
    let status = fleet.status("tokyo").expect("a status");
    assert_eq!(status["masters"][0]["report"]["stand_down"], "source_test_failed");
    assert_eq!(fleet.counter("tokyo", "orders"), 0);
    Ok(())
}
