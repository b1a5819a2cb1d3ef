//! Clocks that break while races are run: a step of a second, a process that is stopped, a master that says nothing.
//!
//! The master's clock is true, so its timeline is the kernel's raw clock, and every departure and reading that an agent
//! wrote into its audit log can be held against it.

mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use startgun_core::time::Span;
use startgun_net::host_clock::raw_ns;
use support::fleet::{Fleet, Options, RACED, SERVICE, SLOW};
use support::{Test, dns, wait_for};

/// The limit: "racing again within 5 s of the cause going away".
const RACING_AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// Agents here exchange every 50 ms, and an exchange counts with the reply after it; on a busy machine that takes this long
/// at most. The clock itself is forgotten before: there is nothing to read until then.
const ONE_EXCHANGE: Duration = Duration::from_millis(500);
/// Kernel stamps and both processes' readings, on a machine that loses its processors now and then.
const STAMPS: Span = Span::from_micros(200);
/// Between two queries: the race before is closed by then.
const QUERY_INTERVAL: Duration = Duration::from_millis(40);

const TESTS: [(&str, Test); 4] = [
    ("a_clock_that_steps_by_a_second_departs_nothing_wrong", a_clock_that_steps_by_a_second_departs_nothing_wrong),
    ("a_process_stopped_for_three_seconds_departs_nothing_wrong", a_process_stopped_departs_nothing_wrong),
    ("a_host_clock_that_contradicts_the_exchanges_stands_down", a_host_clock_that_contradicts_stands_down),
    ("a_silent_master_is_waited_for_with_a_growing_bound", a_silent_master_is_waited_for_with_a_growing_bound),
];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

/// What an agent wrote down, with the truth beside it.
struct Logged {
    /// True instant of what it is about, as raw nanoseconds.
    raw_ns: i64,
    /// Estimate − truth.
    error: Span,
    bound: Option<Span>,
    expected_error: Option<Span>,
    /// Whether an answer departed; nothing for a reading.
    departed: Option<bool>,
    /// True departure − T.
    lateness: Option<Span>,
}

/// A step of an agent's clock.
#[derive(Clone, Copy)]
struct Stepped {
    at_raw_ns: i64,
    by: Span,
}

/// A departure is written down some milliseconds after it happened.
const WRITTEN_WITHIN_NS: i64 = 100_000_000;

impl Stepped {
    /// The raw instant of a local one, written down after the clock had stepped (`after`) or before; `None` where that
    /// leaves it open: a clock that jumps back shows some instants twice.
    fn raw(self, local_ns: i64, after: bool) -> Option<i64> {
        let open =
            after && self.by < Span::ZERO && (self.at_raw_ns - WRITTEN_WITHIN_NS..self.at_raw_ns).contains(&local_ns);
        let is_after = after && local_ns >= self.at_raw_ns + self.by.as_nanos();
        (!open).then_some(if is_after { local_ns - self.by.as_nanos() } else { local_ns })
    }
}

/// An agent's log, in order.
fn logged(fleet: &Fleet, agent: &str, step: Option<Stepped>) -> Vec<Logged> {
    let text = std::fs::read_to_string(fleet.path(&format!("{agent}.jsonl"))).expect("a log");
    let mut after = false;
    let mut latest_ns = i64::MIN;
    let mut entry = |line: &str| {
        // The last line may still be under way.
        let entry: Value = serde_json::from_str(line).ok()?;
        let local_ns = entry["local_ns"].as_i64()?;
        let raw_ns = match step {
            None => local_ns,
            Some(step) => {
                let half_ns = step.by.abs().half().as_nanos();
                after |= if step.by > Span::ZERO {
                    local_ns >= step.at_raw_ns + step.by.as_nanos()
                } else {
                    local_ns < latest_ns.saturating_sub(half_ns)
                };
                latest_ns = latest_ns.max(local_ns);
                step.raw(local_ns, after)?
            }
        };
        let span = |value: &Value| value.as_i64().map(Span::from_nanos);
        let figures = &entry["clock"];
        Some(Logged {
            raw_ns,
            error: Span::from_nanos(figures["estimate_race_ns"].as_i64()? - raw_ns),
            bound: span(&figures["bound_ns"]),
            expected_error: span(&figures["expected_error_ns"]),
            departed: entry["outcome"].as_str().map(|outcome| outcome.starts_with("departed")),
            lateness: entry["transmit_race_ns"].as_i64().map(|t| Span::from_nanos(raw_ns - t)),
        })
    };
    text.lines().filter_map(&mut entry).collect()
}

/// Asks for both raced names, again and again, until `done` says so or `patience` is over; whether it said so.
fn race_until(fleet: &Fleet, patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let socket = fleet.client_socket();
    let end = Instant::now() + patience;
    let mut id = 0;
    while Instant::now() < end {
        for name in [RACED, SLOW] {
            id += 1;
            socket.send_to(&dns::query(id, name, dns::A), SERVICE).expect("sent");
        }
        if done() {
            return true;
        }
        std::thread::sleep(QUERY_INTERVAL);
    }
    false
}

/// Every departure since an instant, judged: its clock within the stated bound, its instant within that of T.
fn judge_departures(entries: &[Logged], since_raw_ns: i64) -> usize {
    let since = entries.iter().filter(|entry| entry.departed == Some(true) && entry.raw_ns >= since_raw_ns);
    let mut judged = 0;
    for entry in since {
        let bound = entry.bound.expect("a departure has a proven bound");
        let (error, lateness) = (entry.error, entry.lateness.expect("it has a T"));
        assert!(error.abs() <= bound + STAMPS, "error {error:?}, bound {bound:?}");
        // Later than its bound is the machine's fault, within the tolerance of 50 ms; earlier would be the clock's.
        assert!(lateness >= -(bound + STAMPS) && lateness <= Span::from_millis(55), "{lateness:?}, bound {bound:?}");
        judged += 1;
    }
    judged
}

fn is_racing(fleet: &Fleet, agent: &str) -> bool {
    fleet.racing_agents().iter().any(|racing| racing == agent)
}

fn a_clock_that_steps_by_a_second_departs_nothing_wrong() -> Result<(), String> {
    for seconds in [1, -1] {
        let (at_raw_ns, by) = (raw_ns() + 12_000_000_000, Span::from_secs(seconds));
        let tokyo_table = format!("[clock_distortion]\nstep_s = {seconds}.0\nstep_at_raw_ns = {at_raw_ns}\n");
        let fleet = Fleet::racing_with(&Options { tokyo_table, ..Options::default() })?;
        assert!(raw_ns() + 1_000_000_000 < at_raw_ns, "the fleet took too long to start: the step came first");
        fleet.validate(fleet.client());
        race_until(&fleet, Duration::from_secs(20), || raw_ns() >= at_raw_ns + 300_000_000);
        let again = race_until(&fleet, RACING_AGAIN_WITHIN, || is_racing(&fleet, "tokyo"));
        let took = Duration::from_nanos((raw_ns() - at_raw_ns).max(0) as u64);
        assert!(again, "not racing {took:?} after the step");
        race_until(&fleet, Duration::from_secs(2), || false);
        std::thread::sleep(Duration::from_millis(500));

        let entries = logged(&fleet, "tokyo", Some(Stepped { at_raw_ns, by }));
        let judged = judge_departures(&entries, at_raw_ns);
        // What was known before the step is gone with it: the first reading afterwards says so.
        let one_exchange = at_raw_ns + ONE_EXCHANGE.as_nanos() as i64;
        let first = entries.iter().find(|entry| entry.departed.is_none() && entry.raw_ns > at_raw_ns);
        let first = first.expect("readings after the step");
        let after_ms = (first.raw_ns - at_raw_ns) as f64 / 1e6;
        assert!(
            first.raw_ns < one_exchange && first.expected_error.is_none(),
            "first reading after {after_ms:.0} ms, expected error {:?}: it did not stand down at once",
            first.expected_error
        );
        let noticed = fleet.counter("tokyo", "clock_breaks") + fleet.counter("tokyo", "clock_steps");
        assert!(noticed >= 1);
        assert_eq!(fleet.counter("frankfurt", "clock_breaks"), 0);
        println!(
            "step {seconds:+} s: {judged} departures after it; first reading after {:.0} ms",
            (first.raw_ns - at_raw_ns) as f64 / 1e6
        );
        assert!(judged >= 3, "only {judged} departures after the step");
    }
    Ok(())
}

fn a_process_stopped_departs_nothing_wrong() -> Result<(), String> {
    let mut fleet = Fleet::racing()?;
    fleet.validate(fleet.client());
    race_until(&fleet, Duration::from_secs(1), || false);
    fleet.signal("tokyo", Signal::SIGSTOP);
    let stopped = Instant::now();
    race_until(&fleet, Duration::from_secs(3), || false);
    let continued_raw_ns = raw_ns();
    fleet.signal("tokyo", Signal::SIGCONT);
    println!("stopped for {:?}", stopped.elapsed());
    let again = race_until(&fleet, RACING_AGAIN_WITHIN, || is_racing(&fleet, "tokyo"));
    assert!(again, "not racing 5 s after it went on");
    race_until(&fleet, Duration::from_secs(2), || false);
    std::thread::sleep(Duration::from_millis(500));
    let entries = logged(&fleet, "tokyo", None);
    let judged = judge_departures(&entries, continued_raw_ns);
    println!("{judged} departures after it went on");
    assert!(judged >= 3, "only {judged} departures");
    // The raw clock ran on: nothing had to be set anew.
    assert_eq!(fleet.counter("tokyo", "clock_breaks"), 0);
    assert!(fleet.counter("tokyo", "departures_dropped_late") >= 1, "what came due meanwhile was not sent");
    Ok(())
}

/// Everybody is known to within 2 ms of UTC, and Tokyo is half a second off all the same.
fn a_host_clock_that_contradicts_stands_down() -> Result<(), String> {
    let fleet = Fleet::new(&Options {
        agents_clock: "host_source = \"kernel\"\nhost_bound_ms = 2.0",
        tokyo_table: "[clock_distortion]\nrealtime_offset_s = 0.5\n".into(),
        master_table: "[clock]\nhost_source = \"kernel\"\nhost_bound_ms = 2.0",
        ..Options::default()
    });
    let mut fleet = fleet?;
    ["m1", "tokyo", "frankfurt"].iter().for_each(|name| fleet.start(name));
    fleet.wait_until_racing(&["frankfurt"]);
    wait_for("Tokyo says that its sources contradict each other", Duration::from_secs(10), || {
        fleet.reason("tokyo").filter(|reason| reason.contains("contradict each other"))
    });
    std::thread::sleep(Duration::from_millis(500));
    for agent in ["tokyo", "frankfurt"] {
        let status = fleet.status(agent).expect("the agent's status");
        assert!(status["host_clock"].as_str().is_some_and(|text| text.contains("stated by the operator")), "{status}");
        // The bound stays that of the exchanges, which Tokyo's host clock does not touch.
        let entries = logged(&fleet, agent, None);
        let last = entries.iter().rfind(|entry| entry.departed.is_none()).expect("readings");
        let bound = last.bound.expect("a bound");
        assert!(
            last.error.abs() <= bound + STAMPS && bound < Span::from_millis(2),
            "{agent}: {:?} {bound:?}",
            last.error
        );
    }
    Ok(())
}

fn a_silent_master_is_waited_for_with_a_growing_bound() -> Result<(), String> {
    let mut fleet = Fleet::racing_with(&Options {
        agents_clock: "max_bound_ms = 0.4\nmax_expected_error_ms = 0.4",
        ..Options::default()
    })?;
    fleet.validate(fleet.client());
    race_until(&fleet, Duration::from_secs(1), || false);
    fleet.signal("m1", Signal::SIGSTOP);
    let silent_raw_ns = raw_ns();
    // The agent's own figures: the bound grows with the silence, and beyond the limit it stands down.
    let figures = |fleet: &Fleet| {
        let status = fleet.status("tokyo").expect("the agent's status");
        let report = status["masters"][0]["report"].clone();
        (report["clock"]["bound"].as_i64().unwrap_or(0), report["stand_down"].clone())
    };
    let (early, _) = figures(&fleet);
    std::thread::sleep(Duration::from_secs(8));
    let (late, stand_down) = figures(&fleet);
    let silence_ns = raw_ns() - silent_raw_ns;
    println!("bound {early} ns, after {:.1} s of silence {late} ns, {stand_down}", silence_ns as f64 / 1e9);
    assert!(late > early, "a bound that does not grow in holdover is a lie");
    // At most 200 ppm, and less where the exchanges had proven the rate.
    assert!(late <= early + silence_ns / 5_000 + 50_000, "{late} ns");
    assert_eq!(stand_down, "bound");
    fleet.signal("m1", Signal::SIGCONT);
    let continued_raw_ns = raw_ns();
    let again = race_until(&fleet, RACING_AGAIN_WITHIN, || {
        fleet.racing_agents() == ["frankfurt", "tokyo"] && figures(&fleet).1.is_null()
    });
    assert!(again, "not racing 5 s after the master went on: {:?}", figures(&fleet));
    race_until(&fleet, Duration::from_secs(2), || false);
    std::thread::sleep(Duration::from_millis(500));
    for agent in ["tokyo", "frankfurt"] {
        let entries = logged(&fleet, agent, None);
        let judged = judge_departures(&entries, continued_raw_ns);
        println!("{agent}: {judged} departures after the master went on");
        assert!(judged >= 3, "only {judged} departures");
    }
    Ok(())
}
