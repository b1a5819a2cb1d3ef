//! docs/deploy.md: the commands that it shows, run as they stand, lead from three bare hosts to a race.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use support::network::{Host, Network, Plan};
use support::{Scratch, Test, program, wait_for};

/// The issue's limit.
const COMMANDS_MAX: usize = 10;
/// The document's hosts.
const HOSTS: [(&str, [u8; 4]); 3] =
    [("m1", [198, 51, 100, 1]), ("tokyo", [192, 0, 2, 10]), ("frankfurt", [192, 0, 2, 20])];
/// Stands in for scp: every host's files are in a directory of its address.
const SCP: &str = r#"#!/bin/sh -e
for to; do :; done
host=${to#root@}
host=${host%:}
shift
while [ $# -gt 1 ]; do cp -rl "$1" "../$host/" 2>/dev/null || cp -r "$1" "../$host/"; shift; done
"#;

const TESTS: [(&str, Test); 2] = [
    ("there_are_at_most_ten_commands", there_are_at_most_ten_commands),
    ("the_commands_lead_to_a_race", the_commands_lead_to_a_race),
];

fn main() -> ExitCode {
    support::main(&TESTS, true)
}

/// The commands of the document with their hosts: each fenced block of shell that follows a line "On HOST:".
fn commands() -> Vec<(String, String)> {
    const DOCUMENT: &str = include_str!("../../../docs/deploy.md");
    let mut commands = Vec::new();
    let mut host = None;
    let mut block: Option<String> = None;
    for line in DOCUMENT.lines() {
        match (&mut block, line) {
            (Some(text), "```") => {
                let host = host.take().expect("a block of commands follows the name of its host");
                commands.push((host, std::mem::take(text)));
                block = None;
            }
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, "```sh") => block = Some(String::new()),
            (None, line) => {
                if let Some(name) = line.strip_prefix("On ").and_then(|rest| rest.strip_suffix(':')) {
                    host = Some(name.to_owned());
                }
            }
        }
    }
    commands
}

fn there_are_at_most_ten_commands() -> Result<(), String> {
    let commands = commands();
    assert!(!commands.is_empty() && commands.len() <= COMMANDS_MAX, "{} commands", commands.len());
    for (host, command) in &commands {
        assert!(HOSTS.iter().any(|(name, _)| name == host), "{host}");
        let mut lines = command.lines();
        let first = lines.next().expect("a command");
        assert!(first.contains("<<'END'") || lines.next().is_none(), "more than one command: {command}");
        assert!(!first.contains([';', '|']) && !first.contains("&&"), "more than one command: {command}");
    }
    Ok(())
}

fn the_commands_lead_to_a_race() -> Result<(), String> {
    let plans = HOSTS.map(|(_, address)| Plan { address: address.into(), foreign_sources: true });
    let network = Network::build(&plans)?;
    let scratch = Scratch::new();
    let shims = scratch.path().join("shims");
    std::fs::create_dir(&shims).expect("made");
    std::fs::write(shims.join("scp"), SCP).expect("written");
    std::fs::set_permissions(shims.join("scp"), std::fs::Permissions::from_mode(0o755)).expect("set");
    for host in &network.hosts {
        std::fs::create_dir(scratch.path().join(host.address.to_string())).expect("made");
    }
    let master = scratch.path().join(network.hosts[0].address.to_string());
    std::fs::copy(program(), master.join("startgun")).expect("copied");

    let mut commands = commands();
    let (racer, race) = commands.pop().expect("at least one command");
    assert!(race.contains("startgun race"), "the last command races: {race}");
    for (name, command) in &commands {
        let (status, output) = run(&network, name, command, scratch.path());
        assert!(status, "{name}$ {command}{output}");
    }
    // As the document says: until the agents' clocks are set, the master answers alone.
    let finish = wait_for("both sites race", Duration::from_secs(20), || {
        let (raced, finish) = run(&network, &racer, &race, scratch.path());
        let both = raced && finish.contains("tokyo") && finish.contains("frankfurt");
        both.then_some(finish).or_else(|| {
            std::thread::sleep(Duration::from_millis(500));
            None
        })
    });
    println!("{finish}");
    let places: Vec<Vec<&str>> = finish.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(places.len(), 2, "one answer of each site: {finish}");
    assert!(places.iter().any(|words| words[1] == "tokyo" && words.last() == Some(&"192.0.2.10")), "{finish}");
    assert!(places.iter().any(|words| words[1] == "frankfurt" && words.last() == Some(&"192.0.2.20")), "{finish}");
    Ok(())
}

/// Types a command on a host: whether it succeeded, and what it printed. What it leaves in the background goes on.
fn run(network: &Network, name: &str, text: &str, directory: &Path) -> (bool, String) {
    let index = HOSTS.iter().position(|(host, _)| *host == name).expect("a host of the document");
    let host: &Host = &network.hosts[index];
    let path = std::env::var("PATH").unwrap_or_default();
    let output = directory.join(format!("output-{name}"));
    let file = std::fs::File::create(&output).expect("a file");
    let mut command = Command::new("sh");
    command
        .args(["-c", text])
        .current_dir(directory.join(host.address.to_string()))
        .env("PATH", format!("{}:{path}", directory.join("shims").display()))
        .env("NO_COLOR", "1")
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .stdin(Stdio::null());
    let status = host.spawn(command).child_mut().wait().expect("ended");
    (status.success(), std::fs::read_to_string(&output).unwrap_or_default())
}
