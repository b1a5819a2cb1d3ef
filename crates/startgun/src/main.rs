//! The one binary.

// Until the master and the agent use them.
#[allow(dead_code, unused_imports)]
mod config;
#[allow(dead_code, unused_imports)]
mod control;
mod fleet;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "startgun", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, show, renew and revoke the certificates of masters and agents
    Fleet(fleet::FleetArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Fleet(args) => fleet::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("startgun: {error}");
            ExitCode::FAILURE
        }
    }
}
