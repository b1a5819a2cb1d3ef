//! Reading a TOML file with all its faults, not only the first.
//!
//! Deriving a deserialiser stops at the first fault and forgets where values stood, so an operator with three mistakes
//! starts the program three times, and a check that compares two values cannot point at either. Here the parsed tree,
//! which keeps its places, is read key by key; a fault is noted in the [`Document`] and reading goes on.
//!
//! A [`Section`] is one table. Each key that is asked for counts as known, and [`Section::finish`] reports the others.
//! Readers give `None` where something was wrong: the fault has been noted then.

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use startgun_core::time::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Position, excerpt, nearest};

/// Most faults that are reported at once: four screens. Who has more than that has the wrong file.
const FAULTS_MAX: usize = 100;

/// What a socket address looks like, for errors.
pub(super) const SOCKET_ADDRESS: &str =
    "an IP address and a port from 1, such as \"198.51.100.1:8530\" or \"[2001:db8::1]:8530\"";

/// A file that is being read.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    /// Whether files and users that the configuration names must be there.
    pub checks_host: bool,
    faults: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    /// Where the text's lines begin. Counting them anew for each of 65,536 zones would take a minute.
    line_starts: OnceCell<Vec<usize>>,
}

impl<'a> Document<'a> {
    pub fn new(file: &'a Path, text: &'a str, checks_host: bool) -> Self {
        let (faults, warnings, line_starts) = (RefCell::default(), RefCell::default(), OnceCell::new());
        Document { file, text, checks_host, faults, warnings, line_starts }
    }

    /// Parses the text; `None` when it is no TOML, which has been noted then.
    pub fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (table, faults) = DeTable::parse_recoverable(self.text);
        for fault in &faults {
            let (found, expected) = fault.message().split_once(", expected ").unwrap_or((fault.message(), "TOML"));
            let span = fault.span().unwrap_or(0..0);
            self.note(self.error(&span, "", format!("a fault of syntax ({found})"), expected));
        }
        faults.is_empty().then_some(table)
    }

    /// The section of the whole file.
    pub fn root<'s>(&'s self, table: &'s Spanned<DeTable<'a>>) -> Section<'s> {
        Section { document: self, path: String::new(), table: table.get_ref(), span: 0..0, known: RefCell::default() }
    }

    /// The text as it stands in the file.
    pub fn source(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// The place of the byte at `offset`; an offset beyond the end counts as the end.
    pub fn position(&self, offset: usize) -> Position {
        let line_starts = self.line_starts.get_or_init(|| {
            let behind_breaks = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(behind_breaks).collect()
        });
        let line = line_starts.partition_point(|&start| start <= offset);
        let start = line_starts[line - 1];
        Position { line, ..Position::of_offset(&self.text[start..], offset - start) }
    }

    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// A path of the configuration: relative to the directory of its file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    pub fn error(
        &self,
        span: &Range<usize>,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            position: Some(self.position(span.start)),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub fn note(&self, error: ConfigError) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_MAX {
            faults.push(error);
        }
    }

    pub fn warn(&self, warning: ConfigError) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < FAULTS_MAX {
            warnings.push(warning);
        }
    }

    /// Whether nothing was noted so far.
    pub fn is_sound(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// What was noted, in the order of the file: the faults and the warnings.
    pub fn finish(self) -> (Vec<ConfigError>, Vec<ConfigError>) {
        let in_order = |mut errors: Vec<ConfigError>| {
            // Zone files have positions of their own; they stay together, behind this file.
            errors.sort_by(|a, b| {
                (a.file != self.file, &a.file, a.position).cmp(&(b.file != self.file, &b.file, b.position))
            });
            errors
        };
        (in_order(self.faults.into_inner()), in_order(self.warnings.into_inner()))
    }
}

/// One table of the file.
pub(super) struct Section<'s> {
    pub document: &'s Document<'s>,
    path: String,
    table: &'s DeTable<'s>,
    pub span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'s> Section<'s> {
    /// The full name of a key in this section.
    pub fn key(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    /// The value of a key, where there is one.
    pub fn value(&self, key: &'static str) -> Option<Value<'s>> {
        self.known.borrow_mut().push(key);
        let value = self.table.get(key)?;
        Some(Value { document: self.document, key: self.key(key), value: value.get_ref(), span: value.span() })
    }

    /// Reads a key that must be there.
    pub fn required<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(Value<'s>) -> Option<T>,
    ) -> Option<T> {
        match self.value(key) {
            Some(value) => read(value),
            None => self.missing(key, expected),
        }
    }

    /// Reads a key that may be left out. A faulty value gives the default as well, so that reading can go on.
    pub fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(Value<'s>) -> Option<T>) -> T {
        self.value(key).and_then(read).unwrap_or(default)
    }

    /// Notes that a key is missing.
    pub fn missing<T>(&self, key: &str, expected: &str) -> Option<T> {
        self.document.note(self.document.error(&self.span, &self.key(key), "nothing", expected));
        None
    }

    /// Notes a fault of the section as a whole.
    pub fn wrong<T>(&self, found: impl Into<String>, expected: impl Into<String>) -> Option<T> {
        self.document.note(self.document.error(&self.span, &self.path, found, expected));
        None
    }

    /// The section below a key, where there is one.
    pub fn section(&self, key: &'static str) -> Option<Section<'s>> {
        self.value(key)?.section()
    }

    /// The sections of an array of tables, `[[key]]`; none where the key is missing.
    pub fn sections(&self, key: &'static str, most: usize) -> Vec<Section<'s>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.value else {
            value.wrong::<()>(format!("tables, each under [[{}]]", value.key));
            return Vec::new();
        };
        if array.len() > most {
            value.fault::<()>(format!("{} of them", array.len()), format!("at most {most}"));
        }
        value.items().into_iter().take(most).filter_map(|item| item.section()).collect()
    }

    /// Sections under names that the operator chose, with those names' values for errors.
    pub fn named_sections(&self, key: &'static str, most: usize) -> Vec<(String, Section<'s>)> {
        let Some(section) = self.section(key) else {
            return Vec::new();
        };
        if section.table.len() > most {
            section.wrong::<()>(format!("{} of them", section.table.len()), format!("at most {most}"));
        }
        let value = |(name, value): (&Spanned<_>, &'s Spanned<DeValue<'s>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let key = section.key(name);
            let value = Value { document: self.document, key, value: value.get_ref(), span: value.span() };
            Some((name.to_string(), value.section()?))
        };
        section.table.iter().take(most).filter_map(value).collect()
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self) {
        let mut known = self.known.into_inner();
        known.sort_unstable();
        known.dedup();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let expected = match nearest(key.get_ref(), &known) {
                Some(key) => key.to_owned(),
                None => format!("one of {}", known.join(", ")),
            };
            let path = match self.path.is_empty() {
                true => excerpt(key.get_ref()),
                false => format!("{}.{}", self.path, excerpt(key.get_ref())),
            };
            self.document.note(self.document.error(&key.span(), &path, "an unknown key", expected));
        }
    }
}

/// The value of one key.
pub(super) struct Value<'s> {
    pub document: &'s Document<'s>,
    pub key: String,
    value: &'s DeValue<'s>,
    pub span: Range<usize>,
}

impl<'s> Value<'s> {
    /// The value's text as it stands in the file, for errors.
    pub fn found(&self) -> String {
        match self.value {
            DeValue::Array(_) => "an array".into(),
            DeValue::Table(_) => "a table".into(),
            _ => excerpt(self.document.source(&self.span)),
        }
    }

    /// Notes that something else was expected.
    pub fn wrong<T>(&self, expected: impl Into<String>) -> Option<T> {
        self.fault(self.found(), expected)
    }

    /// Notes a fault in words of one's own.
    pub fn fault<T>(&self, found: impl Into<String>, expected: impl Into<String>) -> Option<T> {
        self.document.note(self.document.error(&self.span, &self.key, found, expected));
        None
    }

    /// Notes what an operator should know, which is no fault.
    pub fn warn(&self, found: impl Into<String>, expected: impl Into<String>) {
        self.document.warn(self.document.error(&self.span, &self.key, found, expected));
    }

    /// A table.
    pub fn section(self) -> Option<Section<'s>> {
        match self.value {
            DeValue::Table(table) => Some(Section {
                document: self.document,
                path: self.key,
                table,
                span: self.span,
                known: RefCell::default(),
            }),
            _ => self.wrong("a table"),
        }
    }

    /// The items of an array; none where it is no array.
    fn items(&self) -> Vec<Value<'s>> {
        let DeValue::Array(array) = self.value else {
            return Vec::new();
        };
        let item = |(index, value): (usize, &'s Spanned<DeValue<'s>>)| Value {
            document: self.document,
            key: format!("{}[{index}]", self.key),
            value: value.get_ref(),
            span: value.span(),
        };
        array.iter().enumerate().map(item).collect()
    }

    /// An array of at most `most` different items.
    pub fn list<T: PartialEq>(
        &self,
        most: usize,
        expected: &str,
        read: impl Fn(Value<'s>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(array) = self.value else {
            return self.wrong(format!("an array of {expected}"));
        };
        if array.len() > most {
            return self.fault(format!("{} items", array.len()), format!("at most {most}"));
        }
        let mut list = Vec::with_capacity(array.len());
        let mut sound = true;
        for item in self.items() {
            let (found, span, key) = (item.found(), item.span.clone(), item.key.clone());
            match read(item) {
                Some(item) if list.contains(&item) => {
                    let error = self.document.error(&span, &key, format!("{found} for the second time"), "each once");
                    self.document.note(error);
                    sound = false;
                }
                Some(item) => list.push(item),
                None => sound = false,
            }
        }
        sound.then_some(list)
    }

    /// Whether the value is an array without items.
    pub fn is_empty_array(&self) -> bool {
        matches!(self.value, DeValue::Array(array) if array.is_empty())
    }

    /// A string, where it is one; notes nothing.
    pub fn as_str(&self) -> Option<&'s str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// A string that is not empty.
    pub fn text(&self, expected: &str) -> Option<&'s str> {
        match self.as_str() {
            Some(text) if !text.is_empty() => Some(text),
            _ => self.wrong(expected),
        }
    }

    /// What a string parses to.
    pub fn parsed<T: std::str::FromStr>(&self, expected: &str) -> Option<T> {
        match self.as_str().and_then(|text| text.parse().ok()) {
            Some(value) => Some(value),
            None => self.wrong(expected),
        }
    }

    /// One of several words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        match self.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text)) {
            Some((_, value)) => Some(*value),
            None => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.wrong(words.join(" or "))
            }
        }
    }

    /// Yes or no.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong("true or false"),
        }
    }

    /// A whole number.
    pub fn integer<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>, unit: &str) -> Option<T> {
        let read = match self.value {
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix()).ok(),
            _ => None,
        };
        match read.filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok()) {
            Some(value) => Some(value),
            None => self.wrong(format!("{unit}, a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// A number, with or without fraction.
    pub fn number(&self, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        let read = match self.value {
            DeValue::Integer(value) => {
                i64::from_str_radix(value.as_str(), value.radix()).ok().map(|value| value as f64)
            }
            DeValue::Float(value) => value.as_str().parse().ok(),
            _ => None,
        };
        // Not-a-number is in no range.
        match read.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => self.wrong(format!("{unit}, a number from {} to {}", range.start(), range.end())),
        }
    }

    /// A number of milliseconds.
    pub fn milliseconds(&self, range: RangeInclusive<f64>) -> Option<Span> {
        self.number(range, "milliseconds").map(Span::from_millis_f64)
    }

    /// Where to listen: any local address, the unspecified one too.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        match self.as_str().and_then(|text| text.parse::<SocketAddr>().ok()) {
            Some(address) if address.port() != 0 && !is_group(address.ip()) => Some(address),
            _ => self.wrong(SOCKET_ADDRESS),
        }
    }

    /// An address that others send to: a listening one that is not 0.0.0.0 or `[::]`. `why` follows the error's text.
    pub fn exact_address(&self, why: &str) -> Option<SocketAddr> {
        let address = self.listen_address()?;
        match address.ip().is_unspecified() {
            true => self.wrong(format!("one exact address: {why}")),
            false => Some(address),
        }
    }

    /// A path, relative to the directory of the file.
    pub fn path(&self) -> Option<PathBuf> {
        Some(self.document.resolve(self.text("a path")?))
    }

    /// The path of a file that is there, where the host is checked.
    pub fn existing_file(&self) -> Option<PathBuf> {
        let path = self.path()?;
        if !self.document.checks_host {
            return Some(path);
        }
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => Some(path),
            Ok(_) => self.fault(format!("{}, which is no file", path.display()), "a readable file"),
            Err(error) => self.fault(format!("{}: {error}", path.display()), "a readable file"),
        }
    }
}

/// Whether an address stands for many hosts: multicast, or IPv4's broadcast.
fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::from([255; 4])
}
