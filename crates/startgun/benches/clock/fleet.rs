//! Startgun's masters and agents, one of each to a lane, and what the agents wrote down.
//!
//! What is compared is what one path gives: no mesh, and the host's own clock, which is the truth here, is not asked.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;

use serde::Deserialize;
use startgun_lab::process::Process;

use crate::hosts::{Host, Lane, Pair};
use crate::support::program;

/// False clocks: seconds apart, so that nothing is right by chance, and equally fast, as chrony's are.
const MASTER_OFFSET_NS: i64 = -2_718_281_828;
const AGENT_OFFSET_NS: i64 = 3_141_592_653;

/// One reading of an agent's clock, against the truth.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When, in nanoseconds of the kernel's raw clock.
    pub at_raw_ns: i64,
    /// Estimate − truth, in nanoseconds.
    pub error_ns: i64,
    /// The proven bound, if there is one.
    pub bound_ns: Option<i64>,
    /// The truth is outside the proven interval.
    pub violated: bool,
}

#[derive(Deserialize)]
struct Clock {
    estimate_race_ns: i64,
    low_race_ns: Option<i64>,
    high_race_ns: Option<i64>,
    bound_ns: Option<i64>,
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    local_ns: Option<i64>,
    clock: Option<Clock>,
}

fn master_of(lane: &Lane) -> String {
    format!("m-{}", lane.id())
}

fn agent_of(lane: &Lane) -> String {
    format!("a-{}", lane.id())
}

fn log_of(directory: &FilePath, lane: &Lane) -> PathBuf {
    directory.join(format!("{}.jsonl", agent_of(lane)))
}

fn command(directory: &FilePath, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program()).args(arguments).current_dir(directory).env("NO_COLOR", "1").output();
    let output = output.map_err(|error| format!("startgun: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Makes the CA.
pub fn init(directory: &FilePath) -> Result<(), String> {
    command(directory, &["fleet", "init"])
}

/// Enrols a lane's master and agent and writes their configurations.
pub fn write(directory: &FilePath, lane: &Lane, pair: Pair<'_>) -> Result<(), String> {
    let (master, agent) = (master_of(lane), agent_of(lane));
    command(directory, &["fleet", "enroll", &master, "--role", "master"])?;
    command(directory, &["fleet", "enroll", &agent, "--role", "agent"])?;
    let address = pair.master.ipv4();
    let master_toml = format!(
        "{}control_listen = \"{address}:8530\"\nshards = 1\n{}\
         [[service]]\naddress = \"{address}:53\"\n\
         [[zone]]\nname = \"bench.test.\"\nrecords = \"\"\"\n\
         @ 3600 IN SOA ns host 1 3600 600 86400 60\n@ 3600 IN NS ns\nns 3600 IN A {address}\n\"\"\"\n\
         [[race]]\nname = \"*.bench.test.\"\n[race.fallback]\na = [\"198.18.0.1\"]\n\
         [race.sites.{agent}]\na = [\"198.18.1.1\"]\n",
        head("master", &master, pair.master),
        tables(&master, MASTER_OFFSET_NS),
    );
    let propagation = lane.path.configured_ms().map_or_else(String::new, |(to_master, from_master)| {
        format!("propagation_ms = {{ to_master = {to_master:?}, from_master = {from_master:?} }}\n")
    });
    let agent_toml = format!(
        "{}audit_log = \"{agent}.jsonl\"\n{}[clock]\nsource = \"master\"\nmesh = false\nexchange_interval_ms = {}\n\
         [[master]]\nname = \"{master}\"\ncontrol = \"{address}:8530\"\nservice_addresses = [\"{address}:53\"]\n{propagation}",
        head("agent", &agent, pair.agent),
        tables(&agent, AGENT_OFFSET_NS),
        lane.exchange_interval_ms,
    );
    for (name, toml) in [(master, master_toml), (agent, agent_toml)] {
        let path = directory.join(format!("{name}.toml"));
        std::fs::write(&path, toml).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn head(role: &str, name: &str, host: Host<'_>) -> String {
    format!(
        "role = \"{role}\"\nname = \"{name}\"\nstate_dir = \"state-{name}\"\nstatus_socket = \"{name}.sock\"\n\
         fast_path_listen = \"{}:8531\"\n",
        host.ipv4()
    )
}

fn tables(name: &str, offset_ns: i64) -> String {
    format!(
        "[fleet]\nca = \"{name}/ca.crt\"\ncertificate = \"{name}/{name}.crt\"\nkey = \"{name}/{name}.key\"\n\
         [clock_distortion]\noffset_s = {:.9}\n",
        offset_ns as f64 / 1e9
    )
}

/// Whether this version of Startgun takes the agent's configuration.
pub fn check(directory: &FilePath, lane: &Lane) -> Result<(), String> {
    let file = format!("{}.toml", agent_of(lane));
    let result = command(directory, &["check", "--config", &file]);
    // The same fault on every lane of a path is one fault.
    result.map_err(|fault| fault.replace(&file, "agent.toml"))
}

/// Starts a lane's master and agent.
pub fn start(directory: &FilePath, lane: &Lane, master: Host<'_>, agent: Host<'_>) -> Result<Vec<Process>, String> {
    let mut processes = Vec::new();
    for (role, name, host) in [("master", master_of(lane), master), ("agent", agent_of(lane), agent)] {
        let fault = |error: std::io::Error| format!("starting the {role} of {lane}: {error}");
        let log = File::create(directory.join(format!("{name}.log"))).map_err(fault)?;
        let mut command = Command::new(program());
        command
            .args([role, "--config", &format!("{name}.toml")])
            .current_dir(directory)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdout(log.try_clone().map_err(fault)?)
            .stderr(log);
        processes.push(host.spawn(command).map_err(fault)?);
    }
    Ok(processes)
}

/// Whether the agent has finished an exchange.
pub fn has_record(directory: &FilePath, lane: &Lane) -> bool {
    std::fs::metadata(log_of(directory, lane)).is_ok_and(|file| file.len() > 0)
}

/// The ends of the logs of a lane that does not get going.
pub fn last_words(directory: &FilePath, lane: &Lane) -> String {
    let end = |name: String| {
        let text = std::fs::read_to_string(directory.join(format!("{name}.log"))).unwrap_or_default();
        format!("{name}: {}", text.lines().last().unwrap_or("no word"))
    };
    format!("{}; {}", end(master_of(lane)), end(agent_of(lane)))
}

/// The agent's readings, in the order of time.
pub fn records(directory: &FilePath, lane: &Lane) -> Result<Vec<Record>, String> {
    let path = log_of(directory, lane);
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut records = Vec::new();
    for line in BufReader::new(File::open(&path).map_err(fault)?).lines() {
        // The last line may still be under way.
        let Ok(line) = serde_json::from_str::<Line>(&line.map_err(fault)?) else { continue };
        let (Some(local_ns), Some(clock)) = (line.local_ns, line.clock) else { continue };
        let at_raw_ns = local_ns - AGENT_OFFSET_NS;
        if line.kind != "clock" {
            continue;
        }
        let truth = at_raw_ns + MASTER_OFFSET_NS;
        records.push(Record {
            at_raw_ns,
            error_ns: clock.estimate_race_ns - truth,
            bound_ns: clock.bound_ns,
            violated: clock.low_race_ns.is_some_and(|low| truth < low)
                || clock.high_race_ns.is_some_and(|high| truth > high),
        });
    }
    if records.is_empty() {
        return Err(format!("no reading of the clock on {lane}: {}", last_words(directory, lane)));
    }
    Ok(records)
}
