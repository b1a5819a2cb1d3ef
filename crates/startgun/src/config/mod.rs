//! Configuration of master and agent: TOML files, read completely before anything starts.
//!
//! An operator meets a program first through its configuration errors. The usual way, a derived deserialiser, reports
//! one fault a run, in the words of the code ("invalid type: string, expected u32"), and leaves what involves two keys
//! to a later crash. Here a file is parsed to a tree that keeps its places ([`reader`]), read key by key, and checked
//! as a whole; every fault of a run is reported with file, line, column, key, what was found and what was expected
//! ([`ConfigError`]). Nothing starts on a faulty configuration.
//!
//! ```text
//! file ─ toml ─► tree with places ─► reader: keys, types, ranges ─► master / agent: what belongs together ─► config
//!                                                                        zone: the zone files
//! ```
//!
//! The keys, their units, defaults and consequences are described in `docs/samples/master.toml` and `agent.toml`, which
//! a test loads.

mod admission;
mod agent;
mod clock;
mod dnssec_key;
mod error;
mod host;
mod master;
mod reader;
mod stream;
#[cfg(test)]
mod tests;
mod transfer;
mod zone;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use agent::{AgentConfig, MasterLink};
pub use error::ConfigError;
pub use host::HostConfig;
pub use master::MasterConfig;
use reader::{Document, Section};
pub use stream::{StreamConfig, StreamLimits};
pub use zone::{Copies, RECORDS_MAX, ZONE_BYTES_MAX, read_copy, write_record};

/// Largest configuration file, in bytes: 65,536 zones at 256 bytes each.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Which of the two daemons a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Master,
    Agent,
}

/// A sound configuration, and what is no fault in it and yet deserves a thought: a daemon logs it.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// The warnings, in the order of the file.
    pub warnings: Vec<ConfigError>,
}

/// Reads a master's configuration. Files that it names, zones excepted, need not be there yet.
///
/// # Errors
/// All faults of the file and of the zone files that it names, in their order; at least one.
pub fn load_master(path: &Path) -> Result<Loaded<MasterConfig>, Vec<ConfigError>> {
    read(path, &text_of(path)?, false, Some(Role::Master), master::read)
}

/// Reads an agent's configuration. Files that it names need not be there yet.
///
/// # Errors
/// All faults of the file, in their order; at least one.
pub fn load_agent(path: &Path) -> Result<Loaded<AgentConfig>, Vec<ConfigError>> {
    read(path, &text_of(path)?, false, Some(Role::Agent), agent::read)
}

/// What a sound configuration says, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// One line about the daemon that it would start.
    pub text: String,
    /// What is no fault and yet deserves a thought.
    pub warnings: Vec<ConfigError>,
}

impl fmt::Display for Summary {
    /// The warnings, one a line and marked, then the line about the daemon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        write!(f, "{}", self.text)
    }
}

/// Checks a configuration of either kind (its key `role` says which) for this host: files that it names must be
/// readable and its user must exist. Certificates are not opened; the start does that.
///
/// # Errors
/// All faults, in the order of the file; at least one.
pub fn check(path: &Path) -> Result<Summary, Vec<ConfigError>> {
    check_text(path, &text_of(path)?, true)
}

/// [`check`] for a text that was read already; the files that it names need to be there only if `checks_host`.
///
/// # Errors
/// As of [`check`].
pub fn check_text(path: &Path, text: &str, checks_host: bool) -> Result<Summary, Vec<ConfigError>> {
    let summary = |root: Root<'_>| match root.role {
        Some(Role::Master) => Some(master::read(root)?.to_string()),
        Some(Role::Agent) => Some(agent::read(root)?.to_string()),
        None => None,
    };
    let Loaded { config, warnings } = read(path, text, checks_host, None, summary)?;
    Ok(Summary { text: config, warnings })
}

/// The section of the whole file, and the role that it names.
struct Root<'s> {
    section: Section<'s>,
    role: Option<Role>,
}

/// Parses a text and reads it with `read_root`, whose `None` means that a fault was noted.
fn read<T>(
    path: &Path,
    text: &str,
    checks_host: bool,
    expected: Option<Role>,
    read_root: impl FnOnce(Root<'_>) -> Option<T>,
) -> Result<Loaded<T>, Vec<ConfigError>> {
    let document = Document::new(path, text, checks_host);
    let config = document.parse().and_then(|table| {
        let section = document.root(&table);
        let role = read_role(&section, expected);
        // A file of the other role would drown its one fault in a screenful of unknown keys.
        if expected.is_some() && role != expected {
            return None;
        }
        read_root(Root { section, role })
    });
    let (faults, warnings) = document.finish();
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(faults),
    }
}

fn read_role(section: &Section<'_>, expected: Option<Role>) -> Option<Role> {
    let words = [("master", Role::Master), ("agent", Role::Agent)];
    match expected {
        None => section.required("role", "\"master\" or \"agent\"", |value| value.word(&words)),
        Some(role) => {
            let words: Vec<_> = words.into_iter().filter(|(_, known)| *known == role).collect();
            section.required("role", &format!("{:?}", words[0].0), |value| value.word(&words))
        }
    }
}

/// Reads a file, within [`FILE_BYTES_MAX`].
fn text_of(path: &Path) -> Result<String, Vec<ConfigError>> {
    bounded_text(path).map_err(|found| {
        vec![ConfigError {
            file: path.to_owned(),
            position: None,
            key: String::new(),
            found,
            expected: format!("a readable text file of at most {FILE_BYTES_MAX} bytes"),
        }]
    })
}

/// Reads a file, within [`FILE_BYTES_MAX`]; else says what was found.
fn bounded_text(path: &Path) -> Result<String, String> {
    let read = |path| -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    match read(path) {
        Ok(text) if text.len() as u64 > FILE_BYTES_MAX => Err("a longer file".into()),
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("bytes that are not UTF-8".into()),
        Err(error) => Err(format!("no way to read it ({error})")),
    }
}
