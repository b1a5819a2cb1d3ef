//! Startgun's clock beside chrony's: the same path, the same time, the same truth.
//!
//! **Problem.** "Good to a microsecond" means nothing without a yardstick on the same path, and nobody can tell the true
//! error of a clock that is compared with another host's.
//!
//! **Sketch.** Hosts are network namespaces, which all share one kernel clock: that is the truth. On each of several
//! pairs of hosts, side by side, run `startgun master` and `startgun agent`, and Debian's chronyd as server and client.
//! Nobody's crystal drifts against anybody's, for there is only one; both sides have the same true drift, 0. Startgun's
//! hosts get false clocks that are seconds apart; its error is (estimate − truth), from the agent's audit log.
//!
//! **How chrony's time is read.** Every chronyd runs with `-x`: the null driver (`sys_null.c`) sets no clock; corrections
//! of offset and frequency go into its own registers. Its time is the system's time plus that correction. The command
//! `tracking` reports the correction at the moment of asking as "System time" (`REF_GetTrackingReport`:
//! `current_correction = LCL_GetOffsetCorrection(now)`), in the CSV form with its sign, to a nanosecond. Client and
//! server see the same system clock and the server (`local stratum 1`) corrects nothing, so the right correction is 0 and
//! the reported one *is* chrony's error. It includes what chrony extrapolates between two polls.
//!
//! **Sampling.** Twice a second, one after the other, every chronyd is asked; beside its answer goes the newest record of
//! the agent's audit log at that instant (written after each exchange, with the estimate for that moment), held
//! without extrapolation. Both are counted from the end of the warm-up on. Per pair: RMS, p95 and p99 of the magnitude;
//! reported is the median over the pairs. `bound_violations` counts records, of all pairs, whose proven interval did
//! not hold the truth; `samples` counts the instants of all pairs.
//!
//! **Polling.** "equal": both ask equally often, as often as chrony can: 4 Hz on veth (`minpoll -2 maxpoll -2`), 1 Hz on
//! the emulated WAN, for chrony refuses to ask more than once a second where the round trip exceeds 10 ms
//! (`MIN_NONLAN_POLL`). "own": Startgun's default of 250 ms, chrony's of `minpoll 6 maxpoll 10`, with `iburst`. Kernel
//! timestamps and the interleaved mode (`xleave`) are in use at either.
//!
//! For "wan-20-60-configured" both sides are told the asymmetry: Startgun by `propagation_ms`, chrony by `offset`.
//!
//! `make bench-clock` runs it. `--quick` runs everything for some seconds, to see that it runs.

#[path = "clock/chrony.rs"]
mod chrony;
#[path = "clock/fleet.rs"]
mod fleet;
#[path = "clock/hosts.rs"]
mod hosts;
#[path = "clock/outcome.rs"]
mod outcome;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrony::Chrony;
use hosts::{Hosts, Lane, Pair, Poll};
use outcome::Outcome;
use startgun_lab::namespace::enter_user_namespace_if_needed;
use startgun_lab::process::Process;
use startgun_lab::steal::CpuTimes;
use startgun_net::host_clock::raw_ns;

/// Between two looks at every clock.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Most pairs of each kind: the seven kinds then have 224 hosts, of which one emulated network carries 64.
const PAIRS_MAX: u64 = 16;
/// Every agent must have finished its first exchange by then; a hundred and more processes start at once.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// What was asked for on the command line.
struct Arguments {
    pairs: usize,
    warm_up: Duration,
    measure: Duration,
    /// Paths, by name; all when empty.
    only: Vec<String>,
    /// Where configurations and logs are left, if anywhere.
    keep: Option<PathBuf>,
}

impl Arguments {
    /// Within ten minutes; chrony then has seven of its polls at 64 s behind it.
    fn thorough() -> Self {
        let (warm_up, measure) = (Duration::from_secs(60), Duration::from_secs(440));
        Arguments { pairs: 5, warm_up, measure, only: Vec::new(), keep: None }
    }

    /// Says nothing about the clocks.
    fn quick() -> Self {
        let (warm_up, measure) = (Duration::from_secs(4), Duration::from_secs(3));
        Arguments { pairs: 1, warm_up, measure, only: Vec::new(), keep: None }
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
                "--pairs" => arguments.pairs = number(value()?)?.clamp(1, PAIRS_MAX) as usize,
                "--warm-up" => arguments.warm_up = Duration::from_secs(number(value()?)?),
                "--seconds" => arguments.measure = Duration::from_secs(number(value()?)?.max(1)),
                "--only" => arguments.only = value()?.split(',').map(str::to_owned).collect(),
                "--keep" => arguments.keep = Some(PathBuf::from(value()?)),
                _ => {
                    return Err(format!(
                        "{word}: expected --quick, --pairs N, --warm-up SECONDS, --seconds N, --only PATH,… or --keep DIR"
                    ));
                }
            }
        }
        Ok(arguments)
    }
}

fn main() -> ExitCode {
    // Cargo says so to a bench. Otherwise this is a test, or the child that runs it.
    if !std::env::args().any(|word| word == "--bench") {
        return support::main(&[("the_clock_bench_runs", smoke)], false);
    }
    let bench = || {
        let arguments = Arguments::parse()?;
        let measured = run(&arguments)?;
        print!("{}", measured.outcome.table(&arguments, &measured.chrony, measured.steal_share));
        let path = measured.outcome.write_json()?;
        eprintln!("bench-clock: wrote {}", path.display());
        if measured.faults.is_empty() { Ok(()) } else { Err(measured.faults.join("; ")) }
    };
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-clock: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The test: everything runs, for some seconds; both sides have a time on every path, and the proven bounds hold.
fn smoke() -> Result<(), String> {
    // In a user namespace everybody is root; only root has all users there.
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !users.contains(&u32::MAX.to_string()) {
        return Err(NEEDS_ROOT.into());
    }
    Chrony::find()?;
    let measured = run(&Arguments::quick()).expect("measured");
    measured.outcome.check();
    Ok(())
}

const NEEDS_ROOT: &str = "needs root: chronyd does, and both sides' network namespaces";

/// All that a run comes to.
struct Measured {
    outcome: Outcome,
    chrony: String,
    /// Of the processors' time, while the clocks ran.
    steal_share: f64,
    /// Paths that had to be left out, and why.
    faults: Vec<String>,
}

fn run(arguments: &Arguments) -> Result<Measured, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NEEDS_ROOT.into());
    }
    let chrony = Chrony::find()?;
    enter_user_namespace_if_needed().map_err(|error| error.to_string())?;
    let scratch = support::Scratch::new();
    let directory = match &arguments.keep {
        Some(keep) => {
            std::fs::create_dir_all(keep).map_err(|error| format!("{}: {error}", keep.display()))?;
            keep.canonicalize().map_err(|error| format!("{}: {error}", keep.display()))?
        }
        None => scratch.path().to_path_buf(),
    };
    let mut lanes = hosts::plan(arguments.pairs, &arguments.only)?;
    eprintln!("bench-clock: {} pairs of hosts, {chrony}", lanes.len());
    let hosts = Hosts::build(&lanes)?;
    fleet::init(&directory)?;
    for lane in &lanes {
        fleet::write(&directory, lane, hosts.pair(lane))?;
    }
    let mut faults = Vec::new();
    lanes.retain(|lane| {
        let Err(fault) = fleet::check(&directory, lane) else { return true };
        faults.push(format!("{} left out, its configuration is refused: {fault}", lane.path.name()));
        false
    });
    faults.dedup();
    faults.iter().for_each(|fault| eprintln!("bench-clock: {fault}"));

    let before = CpuTimes::read().map_err(|error| error.to_string())?;
    let mut running = start(&lanes, &hosts, &chrony, &directory)?;
    let outcome = measure(arguments, &lanes, &mut running, &directory)?;
    drop(running);
    let steal_share = CpuTimes::read().map_err(|error| error.to_string())?.steal_share_since(&before);
    Ok(Measured { outcome, chrony: chrony.to_string(), steal_share, faults })
}

/// What runs for a lane.
struct Running {
    clients: Vec<(Poll, chrony::Client)>,
    _processes: Vec<Process>,
}

fn start(lanes: &[Lane], hosts: &Hosts, chrony: &Chrony, directory: &Path) -> Result<Vec<Running>, String> {
    let mut all = Vec::new();
    for lane in lanes {
        let Pair { master, agent } = hosts.pair(lane);
        let mut processes = fleet::start(directory, lane, master, agent)?;
        processes.push(chrony.serve(directory, lane, master)?);
        let mut clients = Vec::new();
        for poll in &lane.polls {
            clients.push((*poll, chrony.follow(directory, lane, *poll, agent, master.ipv4())?));
        }
        all.push(Running { clients, _processes: processes });
    }
    let started = Instant::now();
    for lane in lanes {
        while !fleet::has_record(directory, lane) {
            if started.elapsed() > READY_TIMEOUT {
                return Err(format!(
                    "no exchange within {READY_TIMEOUT:?} on {lane}: {}",
                    fleet::last_words(directory, lane)
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(all)
}

/// Warms up, then looks at all clocks at regular instants, then reads the audit logs.
fn measure(
    arguments: &Arguments,
    lanes: &[Lane],
    running: &mut [Running],
    directory: &Path,
) -> Result<Outcome, String> {
    eprintln!("bench-clock: all clocks run; {} s of warm-up", arguments.warm_up.as_secs());
    std::thread::sleep(arguments.warm_up);
    let begun = Instant::now();
    let mut outcome = Outcome::begun_at(raw_ns());
    let (mut next, mut next_progress) = (begun, begun);
    while begun.elapsed() < arguments.measure {
        if Instant::now() >= next_progress {
            eprintln!("bench-clock: measured for {} of {} s", begun.elapsed().as_secs(), arguments.measure.as_secs());
            next_progress += PROGRESS_INTERVAL;
        }
        for (lane, running) in lanes.iter().zip(running.iter_mut()) {
            for (poll, client) in &mut running.clients {
                let at_raw_ns = raw_ns();
                let correction_ns = client.correction_ns().map_err(|error| format!("chronyd on {lane}: {error}"))?;
                outcome.take_chrony(lane, *poll, at_raw_ns, correction_ns);
            }
        }
        next += SAMPLE_INTERVAL;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    // The agents flush their logs a fifth of a second after the last record.
    std::thread::sleep(Duration::from_secs(1));
    for lane in lanes {
        outcome.take_startgun(lane, fleet::records(directory, lane)?);
    }
    Ok(outcome)
}
