//! Zones: from zone-file text (RFC 1035 section 5) to records in wire format, with the place of each for errors.
//!
//! The parser is the `domain` crate's. It stops at the first fault of syntax, so a zone reports one of those at a time;
//! what is wrong with a zone as a whole is reported completely.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use domain::base::iana::Class;
use domain::base::rdata::ComposeRecordData;
use domain::base::{Name, Rtype};
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, ScannedRecord, Zonefile};
use startgun_core::dns::{CanonicalName, Record};

use super::bounded_text;
use super::error::{ConfigError, Position};
use super::reader::{Section, Value};

/// Most records of one master, all zones together: at some 150 bytes in memory each, 10 MB.
pub const RECORDS_MAX: usize = 65_536;

/// Record types that a zone may hold. Others (DNSSEC's above all) are refused by name until they are served properly.
const TYPES: [Rtype; 7] = [
    Rtype::SOA,
    Rtype::NS,
    Rtype::A,
    Rtype::AAAA,
    Rtype::CNAME,
    Rtype::TXT,
    Rtype::MX,
];

/// What [`TYPES`] are called, for errors.
const TYPE_NAMES: &str = "one of SOA, NS, A, AAAA, CNAME, TXT and MX";

/// Longest time to live, RFC 2181 section 8.
pub(super) const TTL_S_MAX: i64 = (1 << 31) - 1;

/// One record and the line that it ends on, counted from 1 within its text.
struct Placed {
    record: Record,
    /// The name that an NS record points to.
    nameserver: Option<CanonicalName>,
    line: usize,
}

/// A zone that was read.
pub(super) struct Zone {
    pub apex: CanonicalName,
    records: Vec<Placed>,
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
        let body = raw
            .strip_prefix("\"\"\"")
            .or_else(|| raw.strip_prefix("'''"));
        // A line break right after the quotes is not part of the text.
        let trimmed = body.and_then(|body| {
            body.strip_prefix("\r\n")
                .or_else(|| body.strip_prefix('\n'))
        });
        let lines = |text: &str| text.matches('\n').count();
        let start = match (body, trimmed) {
            (_, Some(trimmed)) if lines(trimmed) == lines(text) => Start::At(Position {
                line: position.line + 1,
                column: 1,
            }),
            (Some(body), None) if lines(body) == lines(text) => Start::At(Position {
                line: position.line,
                column: position.column + 3,
            }),
            _ => Start::Escaped(position),
        };
        Source {
            text: text.to_owned(),
            key: value.key.clone(),
            file: value.document.file().to_owned(),
            start,
        }
    }

    /// A fault at a line and column of the text, both from 1; column 0 for the line as a whole.
    fn error(
        &self,
        line: usize,
        column: usize,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ConfigError {
        let found = found.into();
        let (position, found) = match self.start {
            Start::At(start) if line == 1 => (
                Position {
                    line: start.line,
                    column: start.column + column.saturating_sub(1),
                },
                found,
            ),
            Start::At(start) => (
                Position {
                    line: start.line + line - 1,
                    column: column.max(1),
                },
                found,
            ),
            Start::Escaped(start) => (start, format!("in line {line} of the text {found}")),
        };
        let (file, key) = (self.file.clone(), self.key.clone());
        ConfigError {
            file,
            position: Some(position),
            key,
            found,
            expected: expected.into(),
        }
    }
}

/// Reads one `[[zone]]`; `None` where a fault leaves nothing to go on with.
pub(super) fn read_zone(section: &Section<'_>, records_left: &mut usize) -> Option<Zone> {
    let apex = section.required(
        "name",
        "the zone's name, such as \"example.org.\"",
        |value| value.parsed::<CanonicalName>("a domain name, such as \"example.org.\""),
    );
    let source = match (section.value("records"), section.value("file")) {
        (Some(records), None) => records
            .text("zone-file text")
            .map(|text| Source::inline(&records, text)),
        (None, Some(file)) => read_source(&file),
        (Some(_), Some(file)) => file.fault("a file beside records", "one of the two"),
        (None, None) => section.missing(
            "records",
            "zone-file text here, or the key file with a path",
        ),
    };
    let (apex, source) = (apex?, source?);
    let records = match scan(&apex, &source, records_left) {
        Ok(records) => records,
        Err(error) => {
            section.document.note(error);
            return None;
        }
    };
    let zone = Zone {
        apex,
        records,
        source,
    };
    zone.check()
        .into_iter()
        .for_each(|error| section.document.note(error));
    Some(zone)
}

fn read_source(value: &Value<'_>) -> Option<Source> {
    let path = value.path()?;
    let start = Start::At(Position { line: 1, column: 1 });
    match bounded_text(&path) {
        Ok(text) => Some(Source {
            text,
            key: value.key.clone(),
            file: path,
            start,
        }),
        Err(found) => value.fault(
            format!("{} and {found}", path.display()),
            "a readable zone file",
        ),
    }
}

/// Parses a zone's text.
fn scan(
    apex: &CanonicalName,
    source: &Source,
    records_left: &mut usize,
) -> Result<Vec<Placed>, ConfigError> {
    let mut zonefile = Zonefile::from(source.text.as_str());
    // A last line without its end would be no record to the parser.
    zonefile.extend_from_slice(b"\n");
    zonefile.set_default_class(Class::IN);
    match apex.to_string().parse::<Name<_>>() {
        Ok(origin) => zonefile.set_origin(origin),
        Err(error) => {
            return Err(source.error(1, 0, format!("no origin ({error})"), "a domain name"));
        }
    }
    let mut records = Vec::new();
    loop {
        let entry = zonefile
            .next_entry()
            .map_err(|error| syntax_error(source, &error.to_string()))?;
        let line =
            Position::of_offset(&source.text, zonefile.current_offset().saturating_sub(1)).line;
        let record = match entry {
            None => return Ok(records),
            Some(Entry::Include { .. }) => {
                return Err(source.error(line, 0, "$INCLUDE", "records of this file alone"));
            }
            Some(Entry::Record(record)) => record,
        };
        *records_left = records_left.checked_sub(1).ok_or_else(|| {
            source.error(
                line,
                0,
                "more records",
                format!("at most {RECORDS_MAX} in all zones"),
            )
        })?;
        records.push(place(source, line, &record)?);
    }
}

/// Takes the parser's error, `LINE:COLUMN: TEXT`, apart; its fields cannot be read.
fn syntax_error(source: &Source, error: &str) -> ConfigError {
    let mut parts = error.splitn(3, ':');
    let mut number = || {
        parts
            .next()
            .and_then(|part| part.trim().parse::<usize>().ok())
    };
    let (line, column) = (number(), number());
    let what = parts.next().unwrap_or(error).trim();
    source.error(
        line.unwrap_or(1),
        column.unwrap_or(0),
        format!("a fault of syntax ({what})"),
        "a record in zone-file syntax",
    )
}

fn place(source: &Source, line: usize, record: &ScannedRecord) -> Result<Placed, ConfigError> {
    let rtype = record.rtype();
    if !TYPES.contains(&rtype) {
        return Err(source.error(line, 0, format!("a record of type {rtype}"), TYPE_NAMES));
    }
    if record.class() != Class::IN {
        return Err(source.error(
            line,
            0,
            format!("a record of class {}", record.class()),
            "class IN",
        ));
    }
    let ttl_s = record.ttl().as_secs();
    if i64::from(ttl_s) > TTL_S_MAX {
        return Err(source.error(
            line,
            0,
            format!("a time to live of {ttl_s} s"),
            format!("at most {TTL_S_MAX}"),
        ));
    }
    let mut data = Vec::new();
    let Ok(()) = record.data().compose_rdata(&mut data);
    let nameserver = match record.data() {
        ZoneRecordData::Ns(ns) => Some(CanonicalName::from_labels(ns.nsdname())),
        _ => None,
    };
    let owner = CanonicalName::from_labels(record.owner());
    Ok(Placed {
        record: Record {
            owner,
            rtype,
            ttl_s,
            data: data.into(),
        },
        nameserver,
        line,
    })
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
        owners
            .filter(|owner| **owner != self.apex)
            .find(|owner| owner.is_ancestor_or_self_of(name.as_bytes()))
    }

    /// The zone's name servers: each one's name, its addresses in wire format as far as this zone knows them, and the
    /// line of its NS record.
    pub fn nameservers(&self) -> impl Iterator<Item = (&CanonicalName, Vec<&[u8]>, usize)> {
        let at_apex = self
            .of(Rtype::NS)
            .filter(|placed| placed.record.owner == self.apex);
        at_apex.filter_map(|placed| {
            let name = placed.nameserver.as_ref()?;
            let of_name = |other: &&Placed| other.record.owner == *name;
            let addresses = self
                .of(Rtype::A)
                .chain(self.of(Rtype::AAAA))
                .filter(of_name);
            Some((
                name,
                addresses.map(|address| &*address.record.data).collect(),
                placed.line,
            ))
        })
    }

    /// An error or a warning at a line that [`Zone::nameservers`] gave.
    pub fn error(
        &self,
        line: usize,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ConfigError {
        self.source.error(line, 0, found, expected)
    }

    fn of(&self, rtype: Rtype) -> impl Iterator<Item = &Placed> {
        self.records
            .iter()
            .filter(move |placed| placed.record.rtype == rtype)
    }

    /// What is wrong with the zone as a whole.
    fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong =
            |line, found: String, expected: &str| errors.push(self.error(line, found, expected));
        for placed in &self.records {
            let owner = &placed.record.owner;
            if !self.apex.is_ancestor_or_self_of(owner.as_bytes()) {
                wrong(
                    placed.line,
                    format!("a record of {owner}"),
                    &format!("names in zone {}", self.apex),
                );
            }
        }
        for (nth, soa) in self.of(Rtype::SOA).enumerate() {
            if soa.record.owner != self.apex {
                wrong(
                    soa.line,
                    format!("a SOA record of {}", soa.record.owner),
                    "SOA at the zone's apex only",
                );
            } else if nth > 0 {
                wrong(soa.line, "another SOA record".into(), "exactly one");
            }
        }
        if !self.has(&self.apex, Rtype::SOA) {
            wrong(
                1,
                format!("no SOA record of {}", self.apex),
                "exactly one at the zone's apex",
            );
        }
        if !self.has(&self.apex, Rtype::NS) {
            wrong(
                1,
                format!("no NS record of {}", self.apex),
                "at least one at the zone's apex",
            );
        }
        for (name, addresses, line) in self.nameservers() {
            let is_ours = self.apex.is_ancestor_or_self_of(name.as_bytes())
                && self.delegation_of(name).is_none();
            if is_ours && addresses.is_empty() {
                wrong(
                    line,
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
    fn check_aliases(&self, wrong: &mut impl FnMut(usize, String, &str)) {
        let mut data: BTreeMap<&CanonicalName, BTreeSet<(Rtype, &[u8])>> = BTreeMap::new();
        for Placed { record, .. } in &self.records {
            data.entry(&record.owner)
                .or_default()
                .insert((record.rtype, &record.data));
        }
        for alias in self.of(Rtype::CNAME) {
            let owner = &alias.record.owner;
            if data.get(owner).is_some_and(|data| data.len() > 1) {
                wrong(
                    alias.line,
                    format!("a CNAME record beside other records of {owner}"),
                    "an alias alone",
                );
            }
        }
    }
}
