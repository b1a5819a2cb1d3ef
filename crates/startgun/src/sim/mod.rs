//! `startgun sim`: the same core as the servers, in virtual time, on a network that a seed and files describe.
//!
//! Each kind of simulation has its options in a file of its own, and [`run`] chooses among them.

mod chaos;
mod forecast;
mod scale;

use std::process::ExitCode;

/// What a command exits with when what it was given is wrong, as for a wrong option.
const EXIT_BAD_INPUT: u8 = 2;

/// Simulate races in virtual time: what a race would bring, before it is deployed
#[derive(Debug, clap::Args)]
pub struct SimArgs {
    #[command(flatten)]
    forecast: forecast::ForecastArgs,
    #[command(flatten)]
    scale: scale::ScaleArgs,
    #[command(flatten)]
    chaos: chaos::ChaosArgs,
}

/// Why a simulation gave no result.
#[derive(Debug)]
enum Failure {
    /// What the user gave is wrong: a sentence that says where, what was found and what was expected.
    Input(String),
    /// Something else went wrong.
    Other(String),
}

/// Does what the options say; exits with 2 on bad input, with 1 on other failures.
pub fn run(args: &SimArgs) -> ExitCode {
    let result = if args.chaos.is_asked() {
        chaos::run(&args.chaos, &args.forecast)
    } else if args.scale.scale {
        scale::run(&args.scale, &args.forecast)
    } else {
        forecast::run(&args.forecast)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Input(what)) => {
            eprintln!("startgun: {what}");
            ExitCode::from(EXIT_BAD_INPUT)
        }
        Err(Failure::Other(what)) => {
            eprintln!("startgun: {what}");
            ExitCode::FAILURE
        }
    }
}
