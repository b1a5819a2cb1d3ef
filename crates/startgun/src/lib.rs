//! Startgun: a synchronised DNS race. One binary for masters, agents and those who run them.
//!
//! The binary is [`main`] and nothing else. It is a library as well so that what reads files, zone files among them, can be
//! fuzzed and measured from outside ([`config`]); nothing here is an interface to build upon.

mod agent;
pub mod config;
mod control;
mod demo;
mod dns_tls;
mod fleet;
mod host_time;
mod http;
mod master;
mod race;
mod reload;
mod signal;
mod sim;
mod startup;
mod status;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A synchronised DNS race: every client is sent to the site with the lowest latency to it
#[derive(Debug, Parser)]
#[command(name = "startgun", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a master: answer DNS and order races
    Master(ConfigFile),
    /// Run an agent: race for one site
    Agent(ConfigFile),
    /// Check a configuration file without starting anything
    Check(CheckArgs),
    Status(status::StatusArgs),
    Race(race::RaceArgs),
    Signal(signal::SignalArgs),
    Reload(reload::ReloadArgs),
    Demo(demo::DemoArgs),
    Sim(sim::SimArgs),
    /// Make, show, renew and revoke the certificates of masters and agents
    Fleet(fleet::FleetArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file (TOML; every key is explained in docs/samples)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Write the log, on standard error, as one JSON object per line; RUST_LOG chooses what is logged [default: info]
    #[arg(long)]
    log_json: bool,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The configuration file of a master or an agent; its key `role` says of which
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Master(file) => {
            log(file.log_json);
            master::run(&file.config)
        }
        Command::Agent(file) => {
            log(file.log_json);
            agent::run(&file.config)
        }
        Command::Check(file) => check(&file.config),
        Command::Status(args) => status::run(&args),
        Command::Race(args) => race::run(&args),
        Command::Signal(args) => signal::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Sim(args) => return sim::run(&args),
        Command::Fleet(args) => fleet::run(args).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A list of faults in files stands by itself, so that FILE:LINE can be followed.
            if error.contains('\n') {
                eprintln!("{error}")
            } else {
                eprintln!("startgun: {error}")
            }
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error; `RUST_LOG` chooses what, information and above unless set.
fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for terminals: in a file or a journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if json { builder.json().init() } else { builder.init() }
}

fn check(path: &std::path::Path) -> Result<(), String> {
    let listed = |errors: &[config::ConfigError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    match config::check(path) {
        Ok(summary) => {
            summary.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            println!("{}", summary.text);
            Ok(())
        }
        Err(errors) => Err(listed(&errors)),
    }
}
