//! Startgun's answers beside Knot's, NSD's and gdnsd's: the same zone, the same load, one core, one worker.
//!
//! **Problem.** "Fast" means nothing without a yardstick on the same machine in the same minute, and a rate alone says
//! little: where the load generator's core is the bottleneck, all servers look alike.
//!
//! **Sketch.** On one core runs one server, on another the load (`dnsperf`), in a network namespace with nothing but
//! loopback. Counted are answers per second, and above all the processor time that the server took per answer: what the
//! scheduler counted, user and system, not what a clock on the wall says. In every round each server is started, warmed
//! up and asked in turn, in another order each time; ratios are taken within a round, so that what the machine's
//! neighbours do in one minute is in both. Medians over the rounds, with a confidence interval.
//!
//! ```text
//! round ─┬─ small, million, signed zone ── each server: start, warm up, ask, read CPU and memory, end
//!        ├─ races with 1, 3, 10, 50 agents: the master measured, agents and load on the other core
//!        └─ races with one real agent: the agent measured, master and load on the other core
//! ```
//!
//! What a race costs is compared with a plain answer of Startgun's in the same round. Modules: [`zones`] what is asked,
//! [`servers`] who answers and how, [`usage`] what CPU time and memory are, [`load`] the load, [`race`] and [`sink`] the
//! races, [`statistics`] the interval. docs/performance.md says what the figures mean.
//!
//! `make bench-dns` runs it. `--quick` runs everything for a second each, to see that it runs.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "dns/configuration.rs"]
mod configuration;
#[path = "dns/load.rs"]
mod load;
#[path = "dns/outcome.rs"]
mod outcome;
#[path = "dns/race.rs"]
mod race;
#[path = "dns/report.rs"]
mod report;
#[path = "dns/servers.rs"]
mod servers;
#[path = "dns/sink.rs"]
mod sink;
#[path = "dns/statistics.rs"]
mod statistics;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "dns/tools.rs"]
mod tools;
#[path = "dns/usage.rs"]
mod usage;
#[path = "dns/zones.rs"]
mod zones;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::Stage;
use load::{PLAIN, Shape, ask};
use outcome::{Figures, Outcome};
use race::{COUNTS, agent_name};
use servers::{Grounds, Server};
use startgun_lab::namespace::enter_user_namespace_if_needed;
use startgun_lab::process::ProcessGroup;
use startgun_lab::steal::CpuTimes;
use tools::Tools;
use usage::Cores;
use zones::{Kind, ZoneKind, Zones};

/// Most rounds: beyond, the machine is what should be better.
const ROUNDS_MAX: u64 = 99;
/// Most names of the great zone: seven digits.
const NAMES_MAX: u64 = 9_999_999;
/// What can be left out, beside the kinds of answers.
const PARTS: [&str; 2] = ["race", "agent"];

/// What was asked for on the command line.
struct Arguments {
    rounds: usize,
    warm_up: Duration,
    measure: Duration,
    /// Names of the great zone.
    names: u32,
    /// Kinds of answers and parts, by name; all when empty.
    only: Vec<String>,
}

impl Arguments {
    /// A quarter of an hour.
    fn thorough() -> Self {
        Arguments {
            rounds: 9,
            warm_up: Duration::from_millis(500),
            measure: Duration::from_secs(2),
            names: 1_000_000,
            only: Vec::new(),
        }
    }

    /// Says nothing about anybody.
    fn quick() -> Self {
        let (warm_up, measure) = (Duration::from_millis(200), Duration::from_secs(1));
        Arguments { rounds: 1, warm_up, measure, names: 50_000, only: Vec::new() }
    }

    /// Says nothing at all.
    fn smoke() -> Self {
        let (warm_up, measure) = (Duration::from_millis(50), Duration::from_millis(200));
        Arguments { warm_up, measure, names: 10_000, ..Arguments::quick() }
    }

    fn parse() -> Result<Self, String> {
        let mut arguments = Arguments::thorough();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word}: expected a value"));
            let number =
                |text: String| text.parse::<u64>().map_err(|_| format!("{word}: found {text}, expected a number"));
            match word.as_str() {
                // From cargo bench.
                "--bench" => {}
                "--quick" => arguments = Arguments::quick(),
                "--rounds" => arguments.rounds = number(value()?)?.clamp(1, ROUNDS_MAX) as usize,
                "--seconds" => arguments.measure = Duration::from_secs(number(value()?)?.max(1)),
                "--names" => arguments.names = number(value()?)?.clamp(1, NAMES_MAX) as u32,
                "--only" => arguments.only = only(&value()?)?,
                _ => {
                    return Err(format!(
                        "{word}: expected --quick, --rounds N, --seconds N, --names N or --only PART,…"
                    ));
                }
            }
        }
        Ok(arguments)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }
}

fn only(list: &str) -> Result<Vec<String>, String> {
    let known: Vec<&str> = Kind::ALL.map(Kind::name).into_iter().chain(PARTS).collect();
    let named: Vec<String> = list.split(',').map(str::to_owned).collect();
    match named.iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(format!("--only: found {unknown}, expected some of {}", known.join(", "))),
        None => Ok(named),
    }
}

fn main() -> ExitCode {
    // Cargo says so to a bench. Otherwise this is a test, or the child that runs it.
    if !std::env::args().any(|word| word == "--bench") {
        return support::main(&[("the_dns_bench_runs", smoke)], false);
    }
    let bench = || {
        let arguments = Arguments::parse()?;
        let measured = run(&arguments)?;
        print!("{}", report::report(&measured.outcome, &measured.circumstances));
        let path = measured.outcome.write_json()?;
        eprintln!("bench-dns: wrote {}", path.display());
        if measured.faults.is_empty() {
            Ok(())
        } else {
            Err(measured.faults.into_iter().collect::<Vec<_>>().join("; "))
        }
    };
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-dns: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The test: every server answers every kind, every race has its orders, and there is a report of it.
fn smoke() -> Result<(), String> {
    Tools::find()?;
    Cores::choose()?;
    let measured = run(&Arguments::smoke()).expect("measured");
    assert!(measured.faults.is_empty(), "{:?}", measured.faults);
    let outcome = &measured.outcome;
    let answers = ZoneKind::ALL.map(|zone| Server::ALL.iter().filter(|server| server.serves(zone)).count());
    assert_eq!(outcome.rows().len(), 2 * answers[0] + answers[1] + answers[2]);
    for row in outcome.race_rows() {
        assert!(row.orders_received > 0, "{} agents", row.agents);
        assert!(
            row.orders_received <= row.orders_due,
            "{} agents: {} orders of {}",
            row.agents,
            row.orders_received,
            row.orders_due
        );
    }
    assert_eq!((outcome.race_rows().len(), outcome.agent.len()), (COUNTS.len(), 1));
    assert!(outcome.goals().iter().all(|(_, estimate, _)| estimate.is_some()), "{:?}", outcome.goals());
    Ok(())
}

/// All that a run comes to.
struct Measured {
    outcome: Outcome,
    /// Lines about the machine and the programs.
    circumstances: String,
    /// What had to be left out, and why.
    faults: BTreeSet<String>,
}

fn run(arguments: &Arguments) -> Result<Measured, String> {
    let tools = Tools::find()?;
    let cores = Cores::choose()?;
    enter_user_namespace_if_needed().map_err(|error| error.to_string())?;
    raise_loopback()?;
    cores.stay_with_load().map_err(|error| format!("core {}: {error}", cores.load))?;
    let names: Vec<String> = (0..COUNTS[COUNTS.len() - 1]).map(agent_name).collect();
    let stage = Stage::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    eprintln!("bench-dns: writing and signing zones");
    let zones = Zones::write(&stage.path(""), &tools, arguments.names)?;
    let processes = ProcessGroup::start().map_err(|error| error.to_string())?;
    let grounds = Grounds { tools: &tools, zones: &zones, stage: &stage, processes: &processes, cores };

    let before = CpuTimes::read().map_err(|error| error.to_string())?;
    let started = Instant::now();
    let mut outcome = Outcome { rounds: arguments.rounds, ..Outcome::default() };
    let mut faults = BTreeSet::new();
    for round in 0..arguments.rounds {
        eprintln!("bench-dns: round {} of {}, {} s so far", round + 1, arguments.rounds, started.elapsed().as_secs());
        for zone in ZoneKind::ALL {
            ask_everybody(&grounds, arguments, zone, round, &mut outcome, &mut faults)?;
        }
        race(&grounds, arguments, round, &mut outcome)?;
    }
    let steal = CpuTimes::read().map_err(|error| error.to_string())?.steal_share_since(&before);
    let circumstances = format!(
        "One server at a time on core {}, the load on core {}; {:.1} s each after {:.1} s of warm-up. CPU steal {:.2} %.\n\
         Startgun {}, Knot {}, NSD {}, gdnsd {}, dnsperf {}. The great zone has {} names.\n",
        cores.measured,
        cores.load,
        arguments.measure.as_secs_f64(),
        arguments.warm_up.as_secs_f64(),
        steal * 100.0,
        env!("CARGO_PKG_VERSION"),
        tools.knot.version,
        tools.nsd.version,
        tools.gdnsd.version,
        tools.dnsperf.version,
        arguments.names,
    );
    Ok(Measured { outcome, circumstances, faults })
}

/// The namespace is new, and its loopback down.
fn raise_loopback() -> Result<(), String> {
    let output = Command::new("ip").args(["link", "set", "lo", "up"]).output();
    let output = output.map_err(|error| format!("ip (iproute2): {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// One zone's part of a round. A server that does not start with a zone is left out of it from then on.
fn ask_everybody(
    grounds: &Grounds<'_>,
    arguments: &Arguments,
    zone: ZoneKind,
    round: usize,
    outcome: &mut Outcome,
    faults: &mut BTreeSet<String>,
) -> Result<(), String> {
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| kind.zone() == zone && arguments.wants(kind.name())).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let mut servers = Server::ALL;
    // Whoever comes first has the caches of whatever ran before.
    servers.rotate_left(round % Server::ALL.len());
    for server in servers.into_iter().filter(|server| server.serves(zone)) {
        let left_out = format!("{} left out of {}", server.name(), zone.name());
        if faults.iter().any(|fault| fault.starts_with(&left_out)) {
            continue;
        }
        let running = match grounds.start(server, zone) {
            Ok(running) => running,
            Err(fault) => {
                let fault = format!("{left_out}: {fault}");
                eprintln!("bench-dns: {fault}");
                faults.insert(fault);
                continue;
            }
        };
        for kind in &kinds {
            let shape = Shape { dnssec: *kind == Kind::Signed, ..PLAIN };
            let ask = |duration| {
                let questions = grounds.zones.queries(*kind);
                ask(&grounds.tools.dnsperf, grounds.address(), &questions, shape, duration, kind.response_code())
                    .map_err(|fault| format!("{}, {}: {fault}", server.name(), kind.name()))
            };
            ask(arguments.warm_up)?;
            let before_ns = running.usage.cpu_ns()?;
            let answered = ask(arguments.measure)?;
            let cpu_us = (running.usage.cpu_ns()? - before_ns) as f64 / 1e3;
            let figures = Figures {
                qps: answered.per_s(),
                cpu_us: cpu_us / answered.completed as f64,
                rss_mb: running.usage.resident_mb()?,
                response_bytes: answered.response_bytes,
                lost: answered.lost,
            };
            outcome.answers.entry((*kind, server)).or_default().insert(round, figures);
        }
        running.stop()?;
    }
    Ok(())
}

/// The races of a round.
fn race(grounds: &Grounds<'_>, arguments: &Arguments, round: usize, outcome: &mut Outcome) -> Result<(), String> {
    let Arguments { warm_up, measure, .. } = *arguments;
    if arguments.wants("race") {
        for agents in COUNTS {
            let races = grounds.race(agents, warm_up, measure)?;
            outcome.races.entry(agents).or_default().insert(round, races);
        }
    }
    if arguments.wants("agent") {
        outcome.agent.insert(round, grounds.answer_orders(warm_up, measure)?);
    }
    Ok(())
}
