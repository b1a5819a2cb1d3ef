//! Zones: their text, from the configuration or a file of its own, and what must hold for a zone as a whole.
//!
//! ```text
//! [[zone]] ─► text, its files ─ text ─► records with places ─ order ─► sorted ─ check ─► Zone
//! ```

mod check;
mod order;
#[cfg(test)]
mod tests;
mod text;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use domain::base::Rtype;
use startgun_core::dns::{CanonicalName, Record};

use super::error::{ConfigError, Position};
use super::reader::{Section, Value};
use order::Labels;
pub(super) use text::Place;
use text::{Includes, Limits, PlacedRecord, ZoneText, scan};

/// Most records of one master, all zones together. Read, one takes 48 bytes and two allocations of 24 to 48 bytes, some
/// 110 to 150 bytes with short data: 2.4 GB for all, and as much again where they are served from.
pub const RECORDS_MAX: usize = 1 << 24;

/// Most bytes of one zone's texts: [`RECORDS_MAX`] lines of 128 bytes. They are in memory while they are read.
const ZONE_BYTES_MAX: u64 = 2 << 30;

/// A zone that was read.
pub(super) struct Zone {
    pub apex: CanonicalName,
    /// Sorted by owner in canonical order, then by type.
    records: Vec<PlacedRecord>,
    source: Source,
}

/// Where a zone's text came from.
struct Source {
    key: String,
    /// The first is where the text itself is, or the configuration that holds it.
    files: Vec<PathBuf>,
    start: Start,
}

/// How places in a zone's own text are places in a file.
#[derive(Clone, Copy)]
enum Start {
    /// The text's first character is at this place, its lines are the file's lines.
    At(Position),
    /// The text was written with escapes: only the place of the whole is known.
    Escaped(Position),
}

impl Start {
    /// The start of a text below `records`, where TOML has left its lines as they are.
    fn inline(value: &Value<'_>, text: &str) -> Start {
        let position = value.document.position(value.span.start);
        let raw = value.document.source(&value.span);
        let body = raw.strip_prefix("\"\"\"").or_else(|| raw.strip_prefix("'''"));
        // A line break right after the quotes is not part of the text.
        let trimmed = body.and_then(|body| body.strip_prefix("\r\n").or_else(|| body.strip_prefix('\n')));
        let lines = |text: &str| text.matches('\n').count();
        match (body, trimmed) {
            (_, Some(trimmed)) if lines(trimmed) == lines(text) => {
                Start::At(Position { line: position.line + 1, column: 1 })
            }
            (Some(body), None) if lines(body) == lines(text) => {
                Start::At(Position { line: position.line, column: position.column + 3 })
            }
            _ => Start::Escaped(position),
        }
    }
}

impl Source {
    /// A fault at a place of one of the texts.
    fn error(&self, at: Place, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        let found = found.into();
        let at_file = Position { line: at.line as usize, column: at.column.into() };
        let (position, found) = match (at.file, self.start) {
            (0, Start::At(start)) if at.line == 1 => {
                (Position { line: start.line, column: start.column + at_file.column - 1 }, found)
            }
            (0, Start::At(start)) => (Position { line: start.line + at_file.line - 1, column: at_file.column }, found),
            (0, Start::Escaped(start)) => (start, format!("in line {} of the text {found}", at.line)),
            _ => (at_file, found),
        };
        let file = self.files.get(usize::from(at.file)).cloned().unwrap_or_default();
        ConfigError { file, position: Some(position), key: self.key.clone(), found, expected: expected.into() }
    }
}

/// Reads one `[[zone]]`; `None` where a fault leaves nothing to go on with.
pub(super) fn read_zone(section: &Section<'_>, records_left: &mut usize) -> Option<Zone> {
    let apex = section.required("name", "the zone's name, such as \"example.org.\"", |value| {
        value.parsed::<CanonicalName>("a domain name, such as \"example.org.\"")
    });
    let text = match (section.value("records"), section.value("file")) {
        (Some(records), None) => read_inline(&records),
        (None, Some(file)) => read_source(&file),
        (Some(_), Some(file)) => file.fault("a file beside records", "one of the two"),
        (None, None) => section.missing("records", "zone-file text here, or the key file with a path"),
    };
    let (apex, (text, key, start)) = (apex?, text?);
    let limits = Limits { records: *records_left, bytes: ZONE_BYTES_MAX };
    let scanned = scan(&apex, &text, limits, &mut Files);
    // It may be gigabytes, and the records have all of it.
    drop(text);
    *records_left -= scanned.records.len();
    let source = Source { key, files: scanned.files, start };
    let is_readable = scanned.faults.is_empty();
    for fault in scanned.faults {
        section.document.note(source.error(fault.at, fault.found, fault.expected));
    }
    // Where records could not be read, their absence proves nothing.
    if !is_readable {
        return None;
    }
    let mut zone = Zone::new(apex, scanned.records, source);
    let findings = check::check(&mut zone);
    for error in findings.errors {
        section.document.note(zone.error(error.at, error.found, error.expected));
    }
    for warning in findings.warnings {
        section.document.warn(zone.error(warning.at, warning.found, warning.expected));
    }
    Some(zone)
}

/// A zone's text, the key that it is under, and how its places are places in a file.
type Text = (ZoneText, String, Start);

fn read_inline(value: &Value<'_>) -> Option<Text> {
    let text = value.text("zone-file text")?;
    let start = Start::inline(value, text);
    let path = value.document.file().to_owned();
    let text = ZoneText { identity: identity(&path), path, bytes: text.as_bytes().to_owned() };
    Some((text, value.key.clone(), start))
}

fn read_source(value: &Value<'_>) -> Option<Text> {
    match read_file(value.path()?, ZONE_BYTES_MAX) {
        Ok(text) => Some((text, value.key.clone(), Start::At(Position { line: 1, column: 1 }))),
        Err((path, found)) => value.fault(format!("{} and {found}", path.display()), "a readable zone file"),
    }
}

/// Reads a zone file as bytes: old ones are not UTF-8.
fn read_file(path: PathBuf, bytes_max: u64) -> Result<ZoneText, (PathBuf, String)> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        // Growing step by step, a vector would be up to twice as long as the file.
        let mut bytes = Vec::new();
        let length = file.metadata()?.len().min(bytes_max);
        bytes.try_reserve_exact(length as usize + 1).map_err(|_| io::ErrorKind::OutOfMemory)?;
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read(&path) {
        Ok(bytes) if bytes.len() as u64 > bytes_max => Err((path, "a longer file".into())),
        Ok(bytes) => Ok(ZoneText { identity: identity(&path), path, bytes }),
        Err(error) => Err((path, format!("no way to read it ({error})"))),
    }
}

/// The path without links and dots, where the file is there.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The files of this host, relative to the one that includes them.
struct Files;

impl Includes for Files {
    fn read(&mut self, includer: &Path, path: &Path, bytes_max: u64) -> Result<ZoneText, (PathBuf, String)> {
        read_file(includer.parent().unwrap_or(Path::new("")).join(path), bytes_max)
    }
}

impl Zone {
    /// A zone of records in any order, none of them checked.
    fn new(apex: CanonicalName, mut records: Vec<PlacedRecord>, source: Source) -> Zone {
        order::sort(&apex, &mut records);
        records.shrink_to_fit();
        Zone { apex, records, source }
    }

    /// The records: by owner in canonical order, then by type, those of a set in the order of the text.
    #[cfg(test)]
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.records.iter().map(|placed| placed.record.clone())
    }

    /// The records, in the same order, for serving; a copy of them all would be gigabytes.
    pub fn into_records(self) -> impl ExactSizeIterator<Item = Record> {
        self.records.into_iter().map(|placed| placed.record)
    }

    /// Whether a name has records of a type.
    pub fn has(&self, owner: &CanonicalName, rtype: Rtype) -> bool {
        self.set(owner, rtype).next().is_some()
    }

    /// Whether the zone publishes a key, by the data of its DNSKEY record.
    pub fn has_key(&self, dnskey: &[u8]) -> bool {
        self.set(&self.apex, Rtype::DNSKEY).any(|placed| *placed.record.data == *dnskey)
    }

    /// The topmost name below the apex at which another zone begins that holds `name`, if there is one.
    pub fn delegation_of(&self, name: &CanonicalName) -> Option<&CanonicalName> {
        if !self.apex.is_ancestor_or_self_of(name.as_bytes()) {
            return None;
        }
        let mut cut = None;
        let mut at = Some(name.clone());
        while let Some(name) = at.filter(|name| *name != self.apex) {
            cut = self.set(&name, Rtype::NS).next().map(|placed| &placed.record.owner).or(cut);
            at = name.parent();
        }
        cut
    }

    /// The zone's name servers: each one's name, its addresses in wire format as far as this zone knows them, and the
    /// place of its NS record.
    pub fn nameservers(&self) -> impl Iterator<Item = (CanonicalName, Vec<&[u8]>, Place)> {
        self.set(&self.apex, Rtype::NS).filter_map(|placed| {
            let name = check::target(placed)?;
            let addresses = self.addresses(&name).collect();
            Some((name, addresses, placed.at))
        })
    }

    /// An error or a warning at a place of the zone's texts.
    pub fn error(&self, at: Place, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        self.source.error(at, found, expected)
    }

    /// The addresses of a name, in wire format.
    fn addresses(&self, name: &CanonicalName) -> impl Iterator<Item = &[u8]> {
        let (a, aaaa) = (self.set(name, Rtype::A), self.set(name, Rtype::AAAA));
        a.chain(aaaa).map(|placed| &*placed.record.data)
    }

    /// The records of an owner and a type.
    fn set<'z>(&'z self, owner: &CanonicalName, rtype: Rtype) -> impl Iterator<Item = &'z PlacedRecord> + use<'z> {
        let labels = Labels::of(owner.as_bytes());
        let start = self.records.partition_point(|PlacedRecord { record, .. }| {
            Labels::of(record.owner.as_bytes()).order(&labels).then(record.rtype.cmp(&rtype)).is_lt()
        });
        let rest = &self.records[start..];
        // All of a set have the first one's owner, which is where the record is.
        let first =
            rest.first().map(|placed| &placed.record).filter(|first| first.owner == *owner && first.rtype == rtype);
        let is_same = move |placed: &&PlacedRecord| {
            first.is_some_and(|first| placed.record.rtype == first.rtype && placed.record.owner == first.owner)
        };
        rest.iter().take_while(is_same)
    }
}
