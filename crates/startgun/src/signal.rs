//! `startgun signal`: fires a signal that races wait for.

use crate::status::{self, Answer, Request};
use std::path::PathBuf;

/// Fire a signal: the answers of every open race that waits for it depart
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Races of a [[race]] with transmit = \"signal\" and signal = \"NAME\" wait for it, each for at most 2 seconds; then the
master answers alone. All races that wait are started at once, on all shards.

Exit status: 0 when the signal was fired, also when no race was waiting; 1 when it was not, because no race has a signal
of this name or no master answers; 2 for a faulty command line.")]
pub struct SignalArgs {
    /// The signal's name, `signal` of a [[race]] in the master's configuration
    name: String,
    /// The master's status socket, `status_socket` in its configuration
    #[arg(long, value_name = "PATH", default_value = status::MASTER_SOCKET)]
    socket: PathBuf,
    /// Print the answer as one JSON document
    #[arg(long)]
    json: bool,
}

/// The command.
///
/// # Errors
/// A sentence for the operator: the signal was not fired.
pub fn run(args: &SignalArgs) -> Result<(), String> {
    match status::ask(&args.socket, &Request::Signal(args.name.clone()))? {
        answer @ Answer::Signalled { .. } if args.json => {
            println!("{}", serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?);
        }
        Answer::Signalled { name, races: 0, .. } => println!("signal {name}: no race was waiting"),
        Answer::Signalled { name, races, agents } => println!("signal {name}: {races} races, {agents} agents"),
        Answer::Refused { reason, known } if known.is_empty() => return Err(reason),
        Answer::Reloaded { .. } => return Err("not an answer to this request".into()),
        Answer::Refused { reason, known } => return Err(format!("{reason}; known are {}", known.join(", "))),
    }
    Ok(())
}
