//! `startgun reload`: has a running master read its configuration anew.

use crate::status::{self, Answer, Request};
use std::path::PathBuf;

/// Have a running master read its configuration and zones anew, all or nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The same as SIGHUP, with an answer: a file with a fault changes nothing, and its faults are printed. Zones, raced names,
delays, admission and rate limits change at once, without a query lost. Addresses, shards and what else belongs to the
running process need a restart; a file that changes them is refused and says so.

Exit status: 0 when the new configuration is served; 1 when everything stayed as it was; 2 for a faulty command line.")]
pub struct ReloadArgs {
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
/// What is wrong with the configuration, a line each, or why nobody could be asked.
pub fn run(args: &ReloadArgs) -> Result<(), String> {
    let answer = status::ask(&args.socket, &Request::Reload)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?);
    }
    match answer {
        Answer::Reloaded { summary, warnings } if !args.json => {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            println!("{summary}");
            Ok(())
        }
        Answer::Reloaded { .. } => Ok(()),
        Answer::Refused { reason, .. } => Err(reason),
        Answer::Signalled { .. } => Err("not an answer to this request".into()),
    }
}
