//! What a fleet's CA has issued: `fleet.json`.
//!
//! A CA without a record cannot revoke, for a certificate is revoked by its serial. The record is
//! JSON, so that other programs can read it; times are RFC 3339 in UTC.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::FleetError;
use crate::control::tls::{Role, check_name};

/// File name of the index.
pub(super) const INDEX_FILE: &str = "fleet.json";

/// Most certificates of one fleet: 1,000 hosts renewed yearly for 65 years. At some 40 bytes per
/// entry, a revoked list of all of them is 2.6 MB.
pub(super) const CERTIFICATES_MAX: usize = 65_536;

/// Largest index that is read, in bytes: [`CERTIFICATES_MAX`] entries of at most 300 bytes (a
/// name of 63, a serial of 32, two times of 20, keys and indentation), rounded up to 512.
const INDEX_BYTES_MAX: u64 = CERTIFICATES_MAX as u64 * 512;

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// The fleet's name.
    pub(super) fleet: String,
    /// Number of the newest revoked list (RFC 5280, section 5.2.3: it only ever grows).
    pub(super) revoked_list_number: u64,
    /// In the order in which they were issued.
    pub(super) certificates: Vec<Entry>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Lower-case hexadecimal.
    pub(super) serial: String,
    /// The holder's name.
    pub(super) name: String,
    /// What the holder may be.
    pub(super) role: Role,
    /// When it expires.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) not_after: OffsetDateTime,
    /// When it was revoked.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) revoked_at: Option<OffsetDateTime>,
}

/// What a certificate is worth at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Valid, and the newest of its name.
    Valid,
    /// Valid still, but there is a newer one.
    Superseded,
    /// Its time is over.
    Expired,
    /// On the revoked list.
    Revoked,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Valid => "valid",
            State::Superseded => "superseded",
            State::Expired => "expired",
            State::Revoked => "revoked",
        }
    }
}

/// One line of `fleet list --json`.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    /// Negative once it has expired.
    expires_in_s: i64,
    state: State,
}

impl Index {
    /// Reads the index of the fleet in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, FleetError> {
        let file = dir.join(INDEX_FILE);
        let mut text = String::new();
        match fs::File::open(&file) {
            Ok(opened) => {
                opened.take(INDEX_BYTES_MAX).read_to_string(&mut text).map_err(FleetError::io("read", &file))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(FleetError::unsuitable(
                    dir,
                    "no fleet",
                    "the directory that `startgun fleet init` made (--dir)",
                ));
            }
            Err(error) => return Err(FleetError::io("read", &file)(error)),
        };
        let index: Self = serde_json::from_str(&text)
            .map_err(|error| FleetError::unsuitable(&file, error.to_string(), "the index of a fleet"))?;
        check_name(&index.fleet)?;
        for entry in &index.certificates {
            check_name(&entry.name)?;
            if entry.serial.is_empty() || entry.serial_bytes().is_none() {
                let found = format!("the serial {:?}", entry.serial);
                return Err(FleetError::unsuitable(&file, found, "hexadecimal digits"));
            }
        }
        Ok(index)
    }

    /// The bytes of the file.
    pub(super) fn to_bytes(&self, dir: &Path) -> Result<Vec<u8>, FleetError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| FleetError::io("write", &dir.join(INDEX_FILE))(error.into()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The newest certificate of a name.
    pub(super) fn newest(&self, name: &str) -> Option<&Entry> {
        self.certificates.iter().rfind(|entry| entry.name == name)
    }

    /// Refuses another certificate once there are [`CERTIFICATES_MAX`].
    pub(super) fn check_room(&self, dir: &Path) -> Result<(), FleetError> {
        if self.certificates.len() < CERTIFICATES_MAX {
            return Ok(());
        }
        Err(FleetError::unsuitable(
            &dir.join(INDEX_FILE),
            format!("{} certificates", self.certificates.len()),
            format!("fewer than {CERTIFICATES_MAX}; found a new fleet"),
        ))
    }

    /// Marks all certificates of a name as revoked; how many were not before.
    pub(super) fn revoke(&mut self, name: &str, now: OffsetDateTime) -> usize {
        let mut newly_revoked = 0;
        for entry in &mut self.certificates {
            if entry.name == name && entry.revoked_at.is_none() {
                entry.revoked_at = Some(now);
                newly_revoked += 1;
            }
        }
        newly_revoked
    }

    /// A table for people: name, role, serial, what is left of its time, state.
    pub(super) fn to_table(&self, now: OffsetDateTime) -> String {
        let head = ["NAME", "ROLE", "SERIAL", "EXPIRES IN", "STATE"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(head)
            .chain(self.certificates.iter().zip(self.states(now)).map(|(entry, state)| {
                [
                    entry.name.clone(),
                    entry.role.to_string(),
                    entry.serial.clone(),
                    remaining(entry.not_after - now),
                    state.as_str().to_owned(),
                ]
            }))
            .collect();
        let widths: Vec<usize> =
            (0..4).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        let mut table = String::new();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                table.push_str(&format!("{cell:width$}  "));
            }
            table.push_str(&row[4]);
            table.push('\n');
        }
        table
    }

    /// The same for programs: an array of objects.
    pub(super) fn to_json(&self, now: OffsetDateTime) -> Result<String, FleetError> {
        let listed: Vec<Listed<'_>> = self
            .certificates
            .iter()
            .zip(self.states(now))
            .map(|(entry, state)| Listed { entry, expires_in_s: (entry.not_after - now).whole_seconds(), state })
            .collect();
        serde_json::to_string_pretty(&listed).map(|text| text + "\n").map_err(|error| FleetError::Output(error.into()))
    }

    /// The state of each certificate, in the order of the index.
    fn states(&self, now: OffsetDateTime) -> Vec<State> {
        let mut names_of_later_ones = BTreeSet::new();
        let mut states: Vec<State> = self
            .certificates
            .iter()
            .rev()
            .map(|entry| {
                let is_newest = names_of_later_ones.insert(entry.name.as_str());
                if entry.revoked_at.is_some() {
                    State::Revoked
                } else if entry.not_after < now {
                    State::Expired
                } else if is_newest {
                    State::Valid
                } else {
                    State::Superseded
                }
            })
            .collect();
        states.reverse();
        states
    }
}

impl Entry {
    /// The serial as bytes, `None` where it is not hexadecimal.
    pub(super) fn serial_bytes(&self) -> Option<Vec<u8>> {
        if !self.serial.is_ascii() || !self.serial.len().is_multiple_of(2) {
            return None;
        }
        (0..self.serial.len()).step_by(2).map(|at| u8::from_str_radix(&self.serial[at..at + 2], 16).ok()).collect()
    }
}

/// "364 d", "5 h", "12 min", rounded down; "-" where nothing is left.
fn remaining(left: Duration) -> String {
    if left.is_negative() {
        "-".to_owned()
    } else if left.whole_days() > 0 {
        format!("{} d", left.whole_days())
    } else if left.whole_hours() > 0 {
        format!("{} h", left.whole_hours())
    } else {
        format!("{} min", left.whole_minutes())
    }
}
