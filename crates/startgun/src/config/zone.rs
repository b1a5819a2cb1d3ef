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
use std::time::{Duration, SystemTime};

use domain::base::Rtype;
use startgun_core::dns::transfer::SoaTimers;
use startgun_core::dns::{CanonicalName, Record};

use super::error::{ConfigError, Position};
use super::reader::{Section, Value};
use order::Labels;
pub(super) use text::Place;
pub use text::write_record;
use text::{Includes, Limits, PlacedRecord, TextFault, ZoneText, scan};

/// Most records of one master, all zones together. Read, one takes 48 bytes and two allocations of 24 to 48 bytes, some
/// 110 to 150 bytes with short data: 2.4 GB for all, and as much again where they are served from.
pub const RECORDS_MAX: usize = 1 << 24;

/// Most bytes of one zone's texts: [`RECORDS_MAX`] lines of 128 bytes. They are in memory while they are read.
pub const ZONE_BYTES_MAX: u64 = 2 << 30;

/// A zone that was read.
pub(super) struct Zone {
    pub apex: CanonicalName,
    /// Sorted by owner in canonical order, then by type.
    records: Vec<PlacedRecord>,
    source: Source,
    /// Whether there is anything; nothing there is of a secondary's zone without a good copy.
    pub has_data: bool,
    /// Whether it comes from another server.
    pub is_secondary: bool,
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
pub(super) fn read_zone(section: &Section<'_>, copies: &Copies, records_left: &mut usize) -> Option<Zone> {
    let apex = section.required("name", "the zone's name, such as \"example.org.\"", |value| {
        value.parsed::<CanonicalName>("a domain name, such as \"example.org.\"")
    });
    if let Some(primaries) = section.value("primaries") {
        for key in ["records", "file"] {
            if let Some(value) = section.value(key) {
                value.fault::<()>(format!("{key} beside primaries"), "one of records, file and primaries");
            }
        }
        return apex.map(|apex| read_copy_of(&primaries, apex, copies, records_left));
    }
    let text = match (section.value("records"), section.value("file")) {
        (Some(records), None) => read_inline(&records),
        (None, Some(file)) => read_source(&file),
        (Some(_), Some(file)) => file.fault("a file beside records", "one of the two"),
        (None, None) => section
            .missing("records", "zone-file text here, or the key file with a path, or primaries to transfer it from"),
    };
    let (apex, (text, key, start)) = (apex?, text?);
    let (zone, findings) = load(apex, text, key, start, *records_left);
    for error in findings.errors {
        section.document.note(error);
    }
    for warning in findings.warnings {
        section.document.warn(warning);
    }
    *records_left -= zone.as_ref().map_or(0, |zone| zone.records.len());
    zone
}

/// What is wrong with a zone.
#[derive(Default)]
struct ZoneFindings {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

/// Reads a zone's text; no zone where a fault leaves nothing to go on with.
fn load(
    apex: CanonicalName,
    text: ZoneText,
    key: String,
    start: Start,
    records_max: usize,
) -> (Option<Zone>, ZoneFindings) {
    let limits = Limits { records: records_max, bytes: ZONE_BYTES_MAX };
    let scanned = scan(&apex, &text, limits, &mut Files);
    // It may be gigabytes, and the records have all of it.
    drop(text);
    let source = Source { key, files: scanned.files, start };
    let fault = |fault: TextFault| source.error(fault.at, fault.found, fault.expected);
    let errors: Vec<ConfigError> = scanned.faults.into_iter().map(fault).collect();
    // Where records could not be read, their absence proves nothing.
    if !errors.is_empty() {
        return (None, ZoneFindings { errors, warnings: Vec::new() });
    }
    let mut zone = Zone::new(apex, scanned.records, source);
    let findings = check::check(&mut zone);
    let placed = |finding: check::Finding| zone.error(finding.at, finding.found, finding.expected);
    let findings = ZoneFindings {
        errors: findings.errors.into_iter().map(placed).collect(),
        warnings: findings.warnings.into_iter().map(placed).collect(),
    };
    (Some(zone), findings)
}

/// The copy of a secondary's zone, where there is one that is good still. A faulty one is none: it will be transferred anew.
fn read_copy_of(primaries: &Value<'_>, apex: CanonicalName, copies: &Copies, records_left: &mut usize) -> Zone {
    let nothing = |apex| Zone::without_data(apex, primaries);
    let path = copies.path(&apex);
    if !path.exists() {
        return nothing(apex);
    }
    let read = read_file(path.clone(), ZONE_BYTES_MAX).map_err(|(path, found)| format!("{}: {found}", path.display()));
    let (loaded, findings) = match read {
        Ok(text) => load(apex.clone(), text, primaries.key.clone(), FILE_START, *records_left),
        Err(found) => {
            primaries.warn(found, "a copy of the zone; it is transferred anew");
            return nothing(apex);
        }
    };
    if let Some(error) = findings.errors.first() {
        primaries.warn(format!("a faulty copy ({error})"), "a sound one; it is transferred anew");
    }
    match loaded.filter(|_| findings.errors.is_empty()) {
        Some(zone) if zone.is_good(copies.age(&apex)) => {
            *records_left -= zone.records.len();
            Zone { is_secondary: true, ..zone }
        }
        _ => nothing(apex),
    }
}

/// Where a text in a file of its own begins.
const FILE_START: Start = Start::At(Position { line: 1, column: 1 });

/// A copy of a secondary's zone that was just written: its records, and what deserves a thought.
///
/// # Errors
/// Its faults; at least one.
pub fn read_copy(apex: &CanonicalName, path: &Path) -> Result<(Vec<Record>, Vec<ConfigError>), Vec<ConfigError>> {
    let text = read_file(path.to_owned(), ZONE_BYTES_MAX).map_err(|(path, found)| {
        let (key, expected) = (String::new(), "a readable zone file".into());
        vec![ConfigError { file: path, position: None, key, found, expected }]
    })?;
    let (zone, findings) = load(apex.clone(), text, "primaries".into(), FILE_START, RECORDS_MAX);
    match zone {
        Some(zone) if findings.errors.is_empty() => Ok((zone.into_records().collect(), findings.warnings)),
        _ => Err(findings.errors),
    }
}

/// The directory of the copies of secondaries' zones.
#[derive(Clone, Debug)]
pub struct Copies(PathBuf);

impl Copies {
    /// The directory within the directory of state.
    pub fn new(state_dir: &Path) -> Self {
        Copies(state_dir.join("zones"))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The file of a zone's copy. What is not usual in names of files is written as % and two digits; a name that makes too
    /// long a one is there by its digest.
    pub fn path(&self, apex: &CanonicalName) -> PathBuf {
        let name = apex.to_string();
        let mut file = String::new();
        for byte in name.strip_suffix('.').filter(|name| !name.is_empty()).unwrap_or("%").bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => file.push(byte.into()),
                _ => file.push_str(&format!("%{byte:02x}")),
            }
        }
        if file.len() > FILE_NAME_MAX {
            let digest = ring::digest::digest(&ring::digest::SHA256, apex.as_bytes());
            file = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        }
        self.0.join(file + ".zone")
    }

    /// How long ago a primary last confirmed the copy: its file's time of change says so. `None` where that is not known.
    pub fn age(&self, apex: &CanonicalName) -> Option<Duration> {
        let changed = std::fs::metadata(self.path(apex)).and_then(|entry| entry.modified()).ok()?;
        // One from the future is as good as new.
        Some(SystemTime::now().duration_since(changed).unwrap_or_default())
    }
}

/// Longest name of a copy's file: Linux allows 255 bytes, and some are for what stands behind it.
const FILE_NAME_MAX: usize = 200;

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
        Ok(text) => Some((text, value.key.clone(), FILE_START)),
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
        Zone { apex, records, source, has_data: true, is_secondary: false }
    }

    /// A zone of which there is nothing.
    fn without_data(apex: CanonicalName, primaries: &Value<'_>) -> Zone {
        let start = Start::At(primaries.document.position(primaries.span.start));
        let source = Source { key: primaries.key.clone(), files: vec![primaries.document.file().to_owned()], start };
        Zone { apex, records: Vec::new(), source, has_data: false, is_secondary: true }
    }

    /// Whether a copy that was confirmed so long ago may be served (RFC 1035 section 3.3.13, EXPIRE).
    fn is_good(&self, age: Option<Duration>) -> bool {
        let soa = self.set(&self.apex, Rtype::SOA).next();
        let timers = soa.and_then(|placed| SoaTimers::of(&placed.record.data));
        let (Some(timers), Some(age)) = (timers, age) else { return false };
        age.as_secs() < u64::from(timers.good_for_s())
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
