//! Zones: their text, from the configuration or a file of its own, and what must hold for a zone as a whole.

#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use domain::base::Rtype;
use startgun_core::dns::{CanonicalName, Record};

use super::bounded_text;
use super::error::{ConfigError, Position};
use super::reader::{Section, Value};
use text::{PlacedRecord, scan};

/// Most records of one master, all zones together: at some 150 bytes in memory each, 10 MB.
pub const RECORDS_MAX: usize = 65_536;

/// Where a text begins: the place of what it lacks.
const TOP: Position = Position { line: 1, column: 1 };

/// A zone that was read.
pub(super) struct Zone {
    pub apex: CanonicalName,
    records: Vec<PlacedRecord>,
    source: Source,
}

/// Where a zone's text came from.
struct Source {
    text: String,
    key: String,
    file: PathBuf,
    start: Start,
}

/// How places in a zone's text are places in a file.
enum Start {
    /// The text's first character is at this place, its lines are the file's lines.
    At(Position),
    /// The text was written with escapes: only the place of the whole is known.
    Escaped(Position),
}

impl Source {
    /// The text below `records`, where TOML has left its lines as they are.
    fn inline(value: &Value<'_>, text: &str) -> Source {
        let position = value.document.position(value.span.start);
        let raw = value.document.source(&value.span);
        let body = raw.strip_prefix("\"\"\"").or_else(|| raw.strip_prefix("'''"));
        // A line break right after the quotes is not part of the text.
        let trimmed = body.and_then(|body| body.strip_prefix("\r\n").or_else(|| body.strip_prefix('\n')));
        let lines = |text: &str| text.matches('\n').count();
        let start = match (body, trimmed) {
            (_, Some(trimmed)) if lines(trimmed) == lines(text) => {
                Start::At(Position { line: position.line + 1, column: 1 })
            }
            (Some(body), None) if lines(body) == lines(text) => {
                Start::At(Position { line: position.line, column: position.column + 3 })
            }
            _ => Start::Escaped(position),
        };
        Source { text: text.to_owned(), key: value.key.clone(), file: value.document.file().to_owned(), start }
    }

    /// A fault at a place of the text.
    fn error(&self, at: Position, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        let found = found.into();
        let (position, found) = match self.start {
            Start::At(start) if at.line == 1 => {
                (Position { line: start.line, column: start.column + at.column - 1 }, found)
            }
            Start::At(start) => (Position { line: start.line + at.line - 1, column: at.column }, found),
            Start::Escaped(start) => (start, format!("in line {} of the text {found}", at.line)),
        };
        let (file, key) = (self.file.clone(), self.key.clone());
        ConfigError { file, position: Some(position), key, found, expected: expected.into() }
    }
}

/// Reads one `[[zone]]`; `None` where a fault leaves nothing to go on with.
pub(super) fn read_zone(section: &Section<'_>, records_left: &mut usize) -> Option<Zone> {
    let apex = section.required("name", "the zone's name, such as \"example.org.\"", |value| {
        value.parsed::<CanonicalName>("a domain name, such as \"example.org.\"")
    });
    let source = match (section.value("records"), section.value("file")) {
        (Some(records), None) => records.text("zone-file text").map(|text| Source::inline(&records, text)),
        (None, Some(file)) => read_source(&file),
        (Some(_), Some(file)) => file.fault("a file beside records", "one of the two"),
        (None, None) => section.missing("records", "zone-file text here, or the key file with a path"),
    };
    let (apex, source) = (apex?, source?);
    let (records, faults) = scan(&apex, &source.text, *records_left);
    *records_left -= records.len();
    let is_readable = faults.is_empty();
    for fault in faults {
        section.document.note(source.error(fault.at, fault.found, fault.expected));
    }
    let zone = Zone { apex, records, source };
    // Where records could not be read, their absence proves nothing.
    if is_readable {
        zone.check().into_iter().for_each(|error| section.document.note(error));
    }
    is_readable.then_some(zone)
}

fn read_source(value: &Value<'_>) -> Option<Source> {
    let path = value.path()?;
    let start = Start::At(TOP);
    match bounded_text(&path) {
        Ok(text) => Some(Source { text, key: value.key.clone(), file: path, start }),
        Err(found) => value.fault(format!("{} and {found}", path.display()), "a readable zone file"),
    }
}

impl Zone {
    /// The records, for serving.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.records.iter().map(|placed| placed.record.clone())
    }

    /// Whether a name has records of a type.
    pub fn has(&self, owner: &CanonicalName, rtype: Rtype) -> bool {
        self.of(rtype).any(|placed| placed.record.owner == *owner)
    }

    /// The name below the apex at which another zone begins that holds `name`, if there is one.
    pub fn delegation_of(&self, name: &CanonicalName) -> Option<&CanonicalName> {
        let owners = self.of(Rtype::NS).map(|placed| &placed.record.owner);
        owners.filter(|owner| **owner != self.apex).find(|owner| owner.is_ancestor_or_self_of(name.as_bytes()))
    }

    /// The zone's name servers: each one's name, its addresses in wire format as far as this zone knows them, and the
    /// place of its NS record within the text.
    pub fn nameservers(&self) -> impl Iterator<Item = (&CanonicalName, Vec<&[u8]>, Position)> {
        let at_apex = self.of(Rtype::NS).filter(|placed| placed.record.owner == self.apex);
        at_apex.filter_map(|placed| {
            let name = placed.nameserver.as_ref()?;
            let of_name = |other: &&PlacedRecord| other.record.owner == *name;
            let addresses = self.of(Rtype::A).chain(self.of(Rtype::AAAA)).filter(of_name);
            Some((name, addresses.map(|address| &*address.record.data).collect(), placed.at))
        })
    }

    /// An error or a warning at a place within the text.
    pub fn error(&self, at: Position, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        self.source.error(at, found, expected)
    }

    fn of(&self, rtype: Rtype) -> impl Iterator<Item = &PlacedRecord> {
        self.records.iter().filter(move |placed| placed.record.rtype == rtype)
    }

    /// What is wrong with the zone as a whole.
    fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong = |at: Position, found: String, expected: &str| errors.push(self.error(at, found, expected));
        for placed in &self.records {
            let owner = &placed.record.owner;
            if !self.apex.is_ancestor_or_self_of(owner.as_bytes()) {
                wrong(placed.at, format!("a record of {owner}"), &format!("names in zone {}", self.apex));
            }
        }
        for (nth, soa) in self.of(Rtype::SOA).enumerate() {
            if soa.record.owner != self.apex {
                wrong(soa.at, format!("a SOA record of {}", soa.record.owner), "SOA at the zone's apex only");
            } else if nth > 0 {
                wrong(soa.at, "another SOA record".into(), "exactly one");
            }
        }
        if !self.has(&self.apex, Rtype::SOA) {
            wrong(TOP, format!("no SOA record of {}", self.apex), "exactly one at the zone's apex");
        }
        if !self.has(&self.apex, Rtype::NS) {
            wrong(TOP, format!("no NS record of {}", self.apex), "at least one at the zone's apex");
        }
        for (name, addresses, at) in self.nameservers() {
            let is_ours = self.apex.is_ancestor_or_self_of(name.as_bytes()) && self.delegation_of(name).is_none();
            if is_ours && addresses.is_empty() {
                wrong(
                    at,
                    format!("an NS record for {name}, which has no address"),
                    "an A or AAAA record for it in this zone",
                );
            }
        }
        self.check_aliases(&mut wrong);
        errors
    }

    /// RFC 2181 section 10.1: "An alias name (label of a CNAME record) may, if DNSSEC is in use, have SIG, NXT, and KEY
    /// RRs, but may have no other data."
    fn check_aliases(&self, wrong: &mut impl FnMut(Position, String, &str)) {
        let mut data: BTreeMap<&CanonicalName, BTreeSet<(Rtype, &[u8])>> = BTreeMap::new();
        for PlacedRecord { record, .. } in &self.records {
            data.entry(&record.owner).or_default().insert((record.rtype, &record.data));
        }
        for alias in self.of(Rtype::CNAME) {
            let owner = &alias.record.owner;
            if data.get(owner).is_some_and(|data| data.len() > 1) {
                wrong(alias.at, format!("a CNAME record beside other records of {owner}"), "an alias alone");
            }
        }
    }
}
