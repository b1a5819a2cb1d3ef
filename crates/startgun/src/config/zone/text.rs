//! Zone-file text (RFC 1035 section 5) becomes records in wire format.
//!
//! The obvious parser is the `domain` crate's. Its reader of zone files (0.12) stops at the first fault, takes `a..b` for
//! a name, says no place for a record that parsed, wants UTF-8, leaves `$INCLUDE` to others and knows no units of time.
//! What it does know is how the data of each record type is written. So the text, its places and its faults are read
//! here, and the data of most types is the library's, which is given our tokens (`library`). The types that it lacks or
//! reads wrongly are written here: most as a row of a table (`fields`), and service bindings (`service`).
//!
//! ```text
//! bytes ─ lexer ─► entry: tokens with places ─► $ORIGIN, $TTL, $INCLUDE ─► the same for another file
//!                                            └► [owner] [ttl] [class] type data
//!                                                 data: \# ─► bytes   fields · service · library ─► wire format
//! ```
//!
//! One faulty record hides no other, and nothing here panics, whatever the text: [`scan`] is a pure function but for the
//! [`Includes`] that it is given, so it can be fuzzed as it is.
//!
//! References: RFC 1035 section 5; RFC 2308 section 4 (`$TTL`); RFC 3597 section 5 (unknown types); RFC 4034, 5155, 9460
//! and others for the data of their types.

mod data;
mod fields;
mod lexer;
mod library;
mod name;
mod service;
#[cfg(test)]
mod tests;
mod written;

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use domain::base::Rtype;
use domain::base::iana::Class;
use startgun_core::dns::{CanonicalName, Record};

use crate::config::error::excerpt;
use lexer::{Entry, Lexer, Token, Tokens};
use name::WireName;
pub use written::write_record;

/// Time to live, in seconds, of records before any is stated: Knot's and NSD's default, too.
const DEFAULT_TTL_S: u32 = 3_600;

/// Longest time to live, in seconds, RFC 2181 section 8.
const TTL_S_MAX: u32 = (1 << 31) - 1;

/// Most bytes of one record's data: beside header (12), question (259), the record's own head (12) and EDNS with a
/// cookie (39) it still fits an answer over TCP, 65,535 bytes.
const DATA_BYTES_MAX: usize = 65_000;

/// Most faults that are noted of one text.
const FAULTS_MAX: usize = 20;

/// Most files that include each other, the first one counted. Real zones have two or three; each level holds a text.
const INCLUDE_DEPTH_MAX: usize = 8;

/// Most files of one zone, however often each is included: a file per customer of a large provider, and few enough for
/// the 16 bits of [`Place::file`].
const FILES_MAX: usize = 10_000;

/// A place in one of a zone's texts.
///
/// Every record keeps its own, so it is 8 bytes: columns are 16 bits, and one beyond 65,535 is given as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into [`Scanned::files`].
    pub file: u16,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u16,
}

impl Place {
    /// Where the first text begins: the place of what a zone lacks.
    pub const TOP: Place = Place { file: 0, line: 1, column: 1 };

    fn new(file: u16, line: u32, columns_before: usize) -> Self {
        Place { file, line, column: u16::try_from(columns_before + 1).unwrap_or(u16::MAX) }
    }
}

/// A record and the place where its entry begins.
#[derive(Clone, Debug)]
pub struct PlacedRecord {
    /// The record; its owner is canonical, the names in its data are as they were written.
    pub record: Record,
    /// Where it is.
    pub at: Place,
}

/// A fault and its place.
#[derive(Clone, Debug)]
pub struct TextFault {
    /// Where it is.
    pub at: Place,
    /// What was found.
    pub found: String,
    /// What was expected instead.
    pub expected: String,
}

/// A text, and where it is from.
pub struct ZoneText {
    /// What errors call it, and what the files that it includes are relative to.
    pub path: PathBuf,
    /// The same for the same file, whatever path leads to it: what a cycle is noticed by.
    pub identity: PathBuf,
    /// The text.
    pub bytes: Vec<u8>,
}

/// Where the files that `$INCLUDE` names come from.
pub trait Includes {
    /// Reads the file that `includer` calls `path`, at most `bytes_max` bytes of it.
    ///
    /// # Errors
    /// The path as errors call it, and what was found instead: a text to follow the words "found PATH and".
    fn read(&mut self, includer: &Path, path: &Path, bytes_max: u64) -> Result<ZoneText, (PathBuf, String)>;
}

/// How much one zone may be.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes of all its texts, each counted as often as it is included.
    pub bytes: u64,
}

/// What a zone's text says.
pub struct Scanned {
    /// The records, in the order of the text. Owners are at or below the apex; nothing else is known of them as a whole.
    pub records: Vec<PlacedRecord>,
    /// The faults in the order of the text, at most 20; with any, records are missing.
    pub faults: Vec<TextFault>,
    /// The files of [`Place::file`].
    pub files: Vec<PathBuf>,
}

/// Reads a zone's text, whose names are relative to `apex` until it says something else.
pub fn scan(apex: &CanonicalName, text: &ZoneText, limits: Limits, includes: &mut dyn Includes) -> Scanned {
    let said = Scanned { records: Vec::new(), faults: Vec::new(), files: vec![text.path.clone()] };
    let bytes_left = limits.bytes.saturating_sub(text.bytes.len() as u64);
    let mut reader = Reader {
        apex,
        limits,
        includes,
        said,
        open: vec![text.identity.clone()],
        bytes_left,
        default_ttl_s: None,
        last_ttl_s: None,
        data: Vec::new(),
    };
    // Whether it ended early makes no difference: the fault has been noted.
    let _ = reader.read_text(&text.bytes, 0, WireName::of(apex));
    reader.said
}

/// A token's text for an error: one short line.
fn shown(bytes: &[u8]) -> String {
    // As much as an excerpt can show, so that a gigabyte between quotes is not copied.
    excerpt(&String::from_utf8_lossy(&bytes[..bytes.len().min(256)]))
}

/// The whole of a zone's text.
struct Reader<'r> {
    apex: &'r CanonicalName,
    limits: Limits,
    includes: &'r mut dyn Includes,
    said: Scanned,
    /// The files that are being read, each including the next, by [`ZoneText::identity`].
    open: Vec<PathBuf>,
    bytes_left: u64,
    default_ttl_s: Option<u32>,
    last_ttl_s: Option<u32>,
    /// One record's data, kept for its room.
    data: Vec<u8>,
}

/// What an entry leaves to those after it in the same file. RFC 1035 section 5.1: "a $INCLUDE entry never changes the
/// relative origin of the parent file"; times to live, which are not named there, last (as with BIND).
struct Context {
    file: u16,
    origin: WireName,
    owner: Option<CanonicalName>,
}

impl Reader<'_> {
    fn read_text(&mut self, text: &[u8], file: u16, origin: WireName) -> ControlFlow<()> {
        let mut context = Context { file, origin, owner: None };
        let mut lexer = Lexer::new(text, file);
        let mut entry = Entry::default();
        while lexer.next_entry(&mut entry) {
            if let Some(fault) = entry.fault.take() {
                self.note(fault)?;
                continue;
            }
            match self.read_entry(&entry, &mut context) {
                Ok(flow) => flow?,
                Err(fault) => self.note(fault)?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Notes a fault; breaks where that is enough.
    fn note(&mut self, fault: TextFault) -> ControlFlow<()> {
        self.said.faults.push(fault);
        match self.said.faults.len() < FAULTS_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    fn read_entry(&mut self, entry: &Entry<'_>, context: &mut Context) -> Result<ControlFlow<()>, TextFault> {
        let mut tokens = Tokens::new(entry);
        let directive = tokens.peek().filter(|first| first.bytes.starts_with(b"$") && !first.is_quoted);
        if let Some(directive) = directive {
            tokens.take();
            return self.direct(directive, tokens, context);
        }
        let owner = match (entry.starts_blank, &context.owner) {
            (false, _) => {
                let owner = WireName::take(&mut tokens, &context.origin, "a domain name")?.canonical();
                // It stays in force even where the rest of the record is faulty.
                context.owner = Some(owner.clone());
                owner
            }
            (true, Some(owner)) => owner.clone(),
            (true, None) => {
                let (at, found) = (tokens.start(), "a record without owner".into());
                return Err(TextFault { at, found, expected: "an owner in the first one".into() });
            }
        };
        self.read_record(owner, tokens, &context.origin)
    }

    fn read_record(
        &mut self,
        owner: CanonicalName,
        mut tokens: Tokens<'_, '_>,
        origin: &WireName,
    ) -> Result<ControlFlow<()>, TextFault> {
        let at = tokens.start();
        let (stated_ttl_s, rtype) = self.type_of(&mut tokens)?;
        self.data.clear();
        data::read(rtype, &mut tokens, origin, &mut self.data)?;
        tokens.finish()?;
        let fault = |found: String, expected: String| TextFault { at, found, expected };
        if self.data.len() > DATA_BYTES_MAX {
            return Err(fault(format!("{} bytes of data", self.data.len()), format!("at most {DATA_BYTES_MAX}")));
        }
        if !self.apex.is_ancestor_or_self_of(owner.as_bytes()) {
            return Err(fault(format!("a record of {owner}"), format!("names in zone {}", self.apex)));
        }
        if self.said.records.len() >= self.limits.records {
            let expected = format!("at most {} in all zones", super::RECORDS_MAX);
            let fault = fault("another record".into(), expected);
            self.said.faults.push(fault);
            return Ok(ControlFlow::Break(()));
        }
        // RFC 2308 section 4 puts $TTL before the last stated one of RFC 1035.
        let ttl_s = stated_ttl_s.or(self.default_ttl_s).or(self.last_ttl_s).unwrap_or(DEFAULT_TTL_S);
        let record = Record { owner, rtype, ttl_s, data: self.data.as_slice().into() };
        self.said.records.push(PlacedRecord { record, at });
        Ok(ControlFlow::Continue(()))
    }

    fn direct(
        &mut self,
        directive: &Token<'_>,
        mut tokens: Tokens<'_, '_>,
        context: &mut Context,
    ) -> Result<ControlFlow<()>, TextFault> {
        if directive.is_word("$ORIGIN") {
            context.origin = WireName::take(&mut tokens, &context.origin, "a domain name")?;
        } else if directive.is_word("$TTL") {
            self.default_ttl_s = Some(ttl_s(&mut tokens)?);
        } else if directive.is_word("$INCLUDE") {
            return self.include(tokens, context);
        } else {
            return Err(tokens.wrong(directive, "$ORIGIN, $TTL or $INCLUDE"));
        }
        tokens.finish()?;
        Ok(ControlFlow::Continue(()))
    }

    /// `$INCLUDE file [origin]`: the entries of another file, in this place.
    fn include(&mut self, mut tokens: Tokens<'_, '_>, context: &Context) -> Result<ControlFlow<()>, TextFault> {
        let token = tokens.next("the path of a file")?;
        let mut path = Vec::new();
        name::push_bytes(&tokens, token, &mut path)?;
        let origin = match tokens.peek() {
            Some(_) => WireName::take(&mut tokens, &context.origin, "a domain name")?,
            None => context.origin,
        };
        tokens.finish()?;
        let fault = |found: String, expected: String| TextFault { found, expected, ..tokens.wrong(token, "") };
        if self.open.len() >= INCLUDE_DEPTH_MAX {
            let found = format!("a file in a file, {INCLUDE_DEPTH_MAX} deep, and another");
            return Err(fault(found, format!("files that include each other at most {INCLUDE_DEPTH_MAX} deep")));
        }
        if self.said.files.len() >= FILES_MAX {
            return Err(fault("another file".into(), format!("at most {FILES_MAX} for one zone")));
        }
        let includer = self.said.files.get(usize::from(context.file)).map(PathBuf::as_path).unwrap_or(Path::new(""));
        let path = Path::new(OsStr::from_bytes(&path));
        let text = self
            .includes
            .read(includer, path, self.bytes_left)
            .map_err(|(path, found)| fault(format!("{} and {found}", path.display()), "a readable zone file".into()))?;
        if self.open.contains(&text.identity) {
            let found = format!("{}, which is being read already", text.path.display());
            return Err(fault(found, "files that do not include themselves".into()));
        }
        self.bytes_left = self.bytes_left.saturating_sub(text.bytes.len() as u64);
        // At most FILES_MAX of them.
        let file = self.said.files.len() as u16;
        self.said.files.push(text.path);
        self.open.push(text.identity);
        let flow = self.read_text(&text.bytes, file, origin);
        self.open.pop();
        Ok(flow)
    }

    /// Reads `[TTL] [class] type`, the first two in any order.
    fn type_of(&mut self, tokens: &mut Tokens<'_, '_>) -> Result<(Option<u32>, Rtype), TextFault> {
        let mut stated_ttl_s = None;
        let mut class = None;
        loop {
            let token = tokens.next("a record type")?;
            let word = token.word().unwrap_or_default();
            if stated_ttl_s.is_none() && word.starts_with(|first: char| first.is_ascii_digit()) {
                stated_ttl_s = Some(read_ttl_s(tokens, token)?);
                self.last_ttl_s = stated_ttl_s;
            } else if class.is_none() && (word.eq_ignore_ascii_case("IN") || word.eq_ignore_ascii_case("CLASS1")) {
                class = Some(Class::IN);
            } else if let Some(rtype) = data::read_type(word) {
                return match data::is_in_zones(rtype) {
                    true => Ok((stated_ttl_s, rtype)),
                    false => Err(tokens.wrong(token, "a type of records that zones hold")),
                };
            } else if class.is_none()
                && (word.eq_ignore_ascii_case("CS") || Class::from_bytes(word.as_bytes()).is_some())
            {
                return Err(tokens.wrong(token, "class IN"));
            } else {
                return Err(tokens.wrong(token, "a record type, such as AAAA or TYPE65280"));
            }
        }
    }
}

/// What a time to live looks like, for errors.
const TTL: &str = "a time to live in seconds, a whole number from 0 to 2147483647, or in units, such as 1h30m";

/// Takes the next token as a time to live, in seconds.
fn ttl_s(tokens: &mut Tokens<'_, '_>) -> Result<u32, TextFault> {
    let token = tokens.next(TTL)?;
    read_ttl_s(tokens, token)
}

fn read_ttl_s(tokens: &Tokens<'_, '_>, token: &Token<'_>) -> Result<u32, TextFault> {
    match token.word().and_then(seconds) {
        Some(ttl_s) if ttl_s <= TTL_S_MAX => Ok(ttl_s),
        _ => Err(tokens.wrong(token, TTL)),
    }
}

/// Seconds, as a number or as BIND writes them: numbers that are followed by `w`, `d`, `h`, `m` or `s` each.
fn seconds(word: &str) -> Option<u32> {
    if let Some(number) = data::number(word) {
        return Some(number);
    }
    let mut sum = 0u32;
    let mut rest = word;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (amount, behind) = rest.split_at(digits);
        let unit_s = match behind.as_bytes().first()?.to_ascii_lowercase() {
            b'w' => 604_800,
            b'd' => 86_400,
            b'h' => 3_600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        sum = data::number::<u32>(amount)?.checked_mul(unit_s)?.checked_add(sum)?;
        rest = &behind[1..];
    }
    (!word.is_empty()).then_some(sum)
}
