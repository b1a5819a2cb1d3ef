//! `startgun fleet`: the certificates of a fleet, from one small CA in a directory.
//!
//! Masters and agents know each other by certificates (see [`crate::control::tls`]). A public CA
//! cannot issue them, for an agent has no DNS name, and a general CA program asks for twenty
//! decisions before the first race. So there is a CA in a directory, with one command per thing
//! that an operator wants:
//!
//! ```text
//!   fleet init                    fleet/ca.crt   on every host
//!                                 fleet/ca.key   stays here, best on a machine without a network
//!                                 fleet/fleet.json   what was issued
//!                                 fleet/revoked.crl  whom to refuse; on every host
//!   fleet enroll NAME --role R    NAME/{NAME.crt, NAME.key, ca.crt, revoked.crl}, for that host; for agents
//!                                 NAME.mesh.key as well (see [`crate::control::mesh_keys`]); with --master
//!                                 and --service agent.toml, ready to run
//!   fleet request NAME --role R   on the host: keys and request; `enroll --csr` signs the request
//!   fleet renew NAME              a new certificate; the old one stays valid until it expires
//!   fleet revoke NAME             revoked.crl anew
//! ```
//!
//! No command leaves half of its work behind: all files of a command are written beside their
//! targets and synced first, and then renamed. The index comes first, so that whatever left this
//! directory can be revoked. Commands on one directory wait for each other (a lock on it).

mod authority;
mod configuration;
mod index;
mod staged;
#[cfg(test)]
mod tests;

/// What the tests of the TLS configurations need: real certificates, and forged ones.
#[cfg(test)]
pub(crate) mod test_support {
    pub(crate) use super::authority::Leaf;
    pub(crate) use super::tests::{ScratchDir, fleet};
}

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use crate::control::tls::{NameError, Role};
use authority::{Authority, Enrolment, Issued};
use index::Index;

/// Where the CA is, unless told otherwise.
const DEFAULT_DIR: &str = "fleet";

/// Default lifetime of a certificate, in days. A fleet without automatic renewal should not have
/// to be visited more than once a year; revocation covers what happens in between.
const DEFAULT_DAYS: u16 = 365;

/// `startgun fleet …`
#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Make the fleet's CA in a new directory
    Init {
        /// Directory of the CA, new or empty; keep it, and its ca.key secret
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
        /// Name of the fleet, part of every certificate (1 to 63 of a-z, 0-9, -; a letter first)
        #[arg(long, default_value = "fleet")]
        name: String,
    },
    /// Issue the certificates of new masters or agents
    Enroll {
        /// Their names (1 to 63 of a-z, 0-9, -; a letter first)
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// The role written into the certificates
        #[arg(long)]
        role: Role,
        /// For agents: write agent.toml as well, with this master (its name, and where its control channel is reached)
        #[arg(long, value_name = "NAME=ADDRESS:PORT", requires = "services", value_parser = configuration::parse_master)]
        master: Option<configuration::Master>,
        /// A service address of that master, which the agents may speak for; may be repeated
        #[arg(long = "service", value_name = "ADDRESS:PORT", requires = "master")]
        services: Vec<std::net::SocketAddr>,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Make keys and signing request on the host itself, to be signed by `enroll --csr` where the CA is
    Request {
        /// Its name (1 to 63 of a-z, 0-9, -; a letter first)
        name: String,
        /// The role written into the certificate
        #[arg(long)]
        role: Role,
        /// Directory for NAME.key, an agent's NAME.mesh.key, and NAME.csr [default: ./NAME]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// List the issued certificates
    List {
        /// Directory of the CA (the key is not needed)
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
        /// Print one JSON document instead of the table
        #[arg(long)]
        json: bool,
    },
    /// Issue a new certificate to an enrolled name; the old one stays valid until it expires
    Renew {
        /// Its name, as `fleet list` shows it
        name: String,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Put all certificates of a name on the revoked list; copy revoked.crl to every host afterwards
    Revoke {
        /// Its name, as `fleet list` shows it
        name: String,
        /// Directory of the CA
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// Directory of the CA
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Directory for NAME.crt, NAME.key, an agent's NAME.mesh.key, ca.crt and revoked.crl [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Lifetime of the certificate in days, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Sign this request (PEM, from `fleet request` or another program) instead of making a key here
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
}

/// Why a `fleet` command did nothing. The operator can mend it, except for [`FleetError::Crypto`].
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A name breaks the rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file or directory could not be read, written or locked.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or directory is there, but not as the command needs it.
    #[error("{}: found {found}, expected {expected}", path.display())]
    Unsuitable {
        /// Which.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What ought to be.
        expected: String,
    },
    /// The request contradicts what was issued before.
    #[error("{0}")]
    Refused(String),
    /// The cryptography failed.
    #[error("cannot {action}: {source}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The result could not be printed. The command's work is done.
    #[error("cannot print the result: {0}")]
    Output(io::Error),
}

impl FleetError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    fn crypto(action: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |source| Self::Crypto { action, source }
    }

    fn unsuitable(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Unsuitable { path: path.to_owned(), found: found.into(), expected: expected.into() }
    }
}

/// Runs one command and prints its result to standard output.
///
/// # Errors
/// [`FleetError`]; except for [`FleetError::Output`], nothing was changed then.
pub fn run(args: FleetArgs) -> Result<(), FleetError> {
    run_at(args, OffsetDateTime::now_utc(), &mut io::stdout().lock())
}

/// [`run`], at a given time and with the result going to `out`.
fn run_at(args: FleetArgs, now: OffsetDateTime, out: &mut dyn Write) -> Result<(), FleetError> {
    let text = match args.command {
        FleetCommand::Init { dir, name } => init(&dir, &name, now)?,
        FleetCommand::Enroll { names, role, master, services, issue } => {
            let link = master.map(|master| configuration::Link { master, services });
            enroll(&names, role, link.as_ref(), &issue, now)?
        }
        FleetCommand::Request { name, role, out } => request(&name, role, out)?,
        FleetCommand::List { dir, json } => list(&dir, json, now)?,
        FleetCommand::Renew { name, issue } => {
            let mut authority = Authority::open(&issue.dir, now)?;
            let issued = authority.renew(&enrolment(&name, &issue))?;
            describe_issue("renewed", &issued)
        }
        FleetCommand::Revoke { name, dir } => revoke(&name, &dir, now)?,
    };
    out.write_all(text.as_bytes()).map_err(FleetError::Output)
}

fn init(dir: &Path, name: &str, now: OffsetDateTime) -> Result<String, FleetError> {
    Authority::create(dir, name, now)?;
    let dir = dir.display();
    Ok(format!(
        "made the fleet {name:?} in {dir}\n  \
         {dir}/ca.key       signs certificates; keep it secret, best offline\n  \
         {dir}/ca.crt       for every host\n  \
         {dir}/revoked.crl  for every host, again after each `startgun fleet revoke`\n"
    ))
}

/// Enrols one name after the other; the first that cannot be ends it.
fn enroll(
    names: &[String],
    role: Role,
    link: Option<&configuration::Link>,
    issue: &IssueArgs,
    now: OffsetDateTime,
) -> Result<String, FleetError> {
    if names.len() > 1 && (issue.out.is_some() || issue.csr.is_some()) {
        return Err(FleetError::Refused(format!(
            "--out and --csr belong to one name: found {} names, expected one",
            names.len()
        )));
    }
    if link.is_some() && role != Role::Agent {
        return Err(FleetError::Refused("--master: found --role master, expected --role agent".into()));
    }
    let mut authority = Authority::open(&issue.dir, now)?;
    let mut text = String::new();
    for name in names {
        let issued = authority.enroll(&Enrolment { link, ..enrolment(name, issue) }, role)?;
        text += &describe_issue("enrolled", &issued);
    }
    Ok(text)
}

fn request(name: &str, role: Role, out: Option<PathBuf>) -> Result<String, FleetError> {
    let out = out.unwrap_or_else(|| PathBuf::from(name));
    authority::request(name, role, &out)?;
    let out = out.display();
    let keys = match role {
        Role::Master => format!("{out}/{name}.key (it stays on this host)"),
        Role::Agent => format!("{out}/{name}.key, {out}/{name}.mesh.key (they stay on this host)"),
    };
    Ok(format!(
        "made {keys} and {out}/{name}.csr\n\
         next, where the CA is: startgun fleet enroll {name} --role {role} --csr {name}.csr\n"
    ))
}

fn list(dir: &Path, json: bool, now: OffsetDateTime) -> Result<String, FleetError> {
    let index = Index::read(dir)?;
    if json { index.to_json(now) } else { Ok(index.to_table(now)) }
}

fn revoke(name: &str, dir: &Path, now: OffsetDateTime) -> Result<String, FleetError> {
    let newly_revoked = Authority::open(dir, now)?.revoke(name)?;
    let head = match newly_revoked {
        0 => format!("{name} was revoked before"),
        1 => format!("revoked 1 certificate of {name}"),
        n => format!("revoked {n} certificates of {name}"),
    };
    let dir = dir.display();
    Ok(format!("{head}; now copy {dir}/revoked.crl to every host (it is read again when it changes)\n"))
}

fn enrolment<'a>(name: &'a str, issue: &'a IssueArgs) -> Enrolment<'a> {
    Enrolment {
        name,
        out: issue.out.clone().unwrap_or_else(|| PathBuf::from(name)),
        days: issue.days,
        csr: issue.csr.as_deref(),
        link: None,
    }
}

fn describe_issue(verb: &str, issued: &Issued) -> String {
    let entry = &issued.entry;
    let mut text = format!(
        "{verb} the {} {} until {} (serial {})\n",
        entry.role,
        entry.name,
        entry.not_after.date(),
        entry.serial
    );
    for file in &issued.files {
        text.push_str(&format!("  {}\n", file.display()));
    }
    if entry.role == Role::Agent && !issued.has_mesh_key {
        text.push_str("  it takes no part in the mesh: found no mesh key in the request, expected one of `startgun fleet request`\n");
    }
    text
}
