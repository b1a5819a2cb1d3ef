//! Zone-file text (RFC 1035 section 5) as far as a master needs it: `$ORIGIN`, `$TTL`, and records of seven types.
//!
//! The obvious parser is the `domain` crate's. Its scanner (0.12) stops at the first fault, takes `a..b` for a name,
//! says no place for a record that parsed, and panics on an open parenthesis at the end of the text; names, at least,
//! are parsed by that crate. Here a text is cut into entries, which carry the place of every token, and each entry is
//! read for itself, so that one faulty record hides no other.
//!
//! ```text
//! text ─ entries ─► [owner] [ttl] [class] type data…, each token with line and column ─ Scanner ─► PlacedRecord
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::Rtype;
use startgun_core::dns::{CanonicalName, Record};

use super::RECORDS_MAX;
use crate::config::error::{Position, excerpt};

/// Record types that a zone may hold, for errors. Others, DNSSEC's above all, are refused by name until they are served
/// properly.
const TYPES: &str = "one of SOA, NS, A, AAAA, CNAME, TXT and MX";

/// Time to live, in seconds, of records before any is stated.
const DEFAULT_TTL_S: u32 = 3_600;

/// Longest time to live, in seconds, RFC 2181 section 8.
const TTL_S_MAX: u32 = (1 << 31) - 1;

/// Most bytes of one record's data: eight of them still fit an answer over TCP.
const DATA_BYTES_MAX: usize = 8_000;

/// Most bytes of one character string, RFC 1035 section 3.3.
const STRING_BYTES_MAX: usize = 255;

/// Most faults that are noted of one text.
const FAULTS_MAX: usize = 20;

/// A record and the place where it begins within the text.
pub(super) struct PlacedRecord {
    pub record: Record,
    /// The name that an NS record points to.
    pub nameserver: Option<CanonicalName>,
    pub at: Position,
}

/// A fault and its place within the text.
pub(super) struct TextFault {
    pub at: Position,
    pub found: String,
    pub expected: String,
}

/// Reads a zone's text, whose names are relative to `apex`. At most `most` records are taken.
pub(super) fn scan(apex: &CanonicalName, text: &str, most: usize) -> (Vec<PlacedRecord>, Vec<TextFault>) {
    let mut faults = Vec::new();
    let entries = entries(text, &mut faults);
    let mut scanner = Scanner { origin: apex.clone(), owner: None, default_ttl_s: None, last_ttl_s: None };
    let mut records = Vec::new();
    for entry in &entries {
        if faults.len() >= FAULTS_MAX {
            break;
        }
        match scanner.read(entry) {
            Ok(Some(record)) if records.len() < most => records.push(record),
            Ok(Some(record)) => {
                let expected = format!("at most {RECORDS_MAX} in all zones");
                faults.push(fault(record.at, "another record", expected));
                break;
            }
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    (records, faults)
}

fn fault(at: Position, found: impl Into<String>, expected: impl Into<String>) -> TextFault {
    TextFault { at, found: found.into(), expected: expected.into() }
}

/// One token, its escapes still in it.
struct Token {
    text: String,
    is_quoted: bool,
    at: Position,
}

impl Token {
    fn wrong<T>(&self, expected: impl Into<String>) -> Result<T, TextFault> {
        Err(fault(self.at, format!("\"{}\"", excerpt(&self.text)), expected))
    }
}

/// What stands between two line ends that count.
struct Entry {
    tokens: Vec<Token>,
    /// Whether it begins with white space: the owner is the one before.
    continues_owner: bool,
    /// The place behind its last token, for what is missing.
    end: Position,
}

/// Cuts a text into entries. RFC 1035 section 5.1: "Parentheses are used to group data that crosses a line boundary. In
/// effect, line terminations are not recognized within parentheses." A semicolon starts a comment.
fn entries(text: &str, faults: &mut Vec<TextFault>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let mut open: Option<Position> = None;
    let mut starts_blank = false;
    for (line, content) in text.lines().enumerate() {
        let place = |column: usize| Position { line: line + 1, column: column + 1 };
        let mut characters = content.chars().enumerate().peekable();
        if open.is_none() {
            starts_blank = content.starts_with(char::is_whitespace);
        }
        while let Some((column, character)) = characters.next() {
            match character {
                ';' => break,
                '(' if open.is_none() => open = Some(place(column)),
                '(' => faults.push(fault(place(column), "( within parentheses", "parentheses that are not nested")),
                ')' if open.take().is_none() => faults.push(fault(place(column), ") alone", "( before it")),
                ')' => {}
                '"' => tokens.push(quoted(&mut characters, place(column), faults)),
                _ if character.is_whitespace() => {}
                _ => {
                    let mut token = Token { text: character.into(), is_quoted: false, at: place(column) };
                    let mut is_escaped = character == '\\';
                    while let Some((_, next)) =
                        characters.next_if(|(_, c)| is_escaped || !(c.is_whitespace() || ";()\"".contains(*c)))
                    {
                        is_escaped = next == '\\' && !is_escaped;
                        token.text.push(next);
                    }
                    tokens.push(token);
                }
            }
        }
        if open.is_none() && !tokens.is_empty() {
            let end = place(content.chars().count());
            entries.push(Entry { tokens: std::mem::take(&mut tokens), continues_owner: starts_blank, end });
        }
    }
    if let Some(at) = open {
        faults.push(fault(at, "( and no end of it", ") after it"));
    }
    entries
}

/// Reads up to the closing quote, which must be on the same line.
fn quoted(characters: &mut impl Iterator<Item = (usize, char)>, at: Position, faults: &mut Vec<TextFault>) -> Token {
    let mut text = String::new();
    let mut is_escaped = false;
    for (_, character) in characters {
        if character == '"' && !is_escaped {
            return Token { text, is_quoted: true, at };
        }
        is_escaped = character == '\\' && !is_escaped;
        text.push(character);
    }
    faults.push(fault(at, "a quote and no end of it", "a closing quote on the same line"));
    Token { text, is_quoted: true, at }
}

/// What an entry leaves to those after it.
struct Scanner {
    origin: CanonicalName,
    owner: Option<CanonicalName>,
    default_ttl_s: Option<u32>,
    last_ttl_s: Option<u32>,
}

/// An entry's tokens, taken one by one.
struct Tokens<'e> {
    rest: std::slice::Iter<'e, Token>,
    end: Position,
}

impl<'e> Tokens<'e> {
    fn next(&mut self, expected: &str) -> Result<&'e Token, TextFault> {
        self.rest.next().ok_or_else(|| fault(self.end, "the end of the record", expected))
    }

    fn number<T: std::str::FromStr>(&mut self, expected: &str) -> Result<T, TextFault> {
        let token = self.next(expected)?;
        token.text.parse().or_else(|_| token.wrong(expected))
    }

    fn finish(mut self) -> Result<(), TextFault> {
        match self.rest.next() {
            Some(token) => token.wrong("the end of the record"),
            None => Ok(()),
        }
    }
}

impl Scanner {
    /// Reads one entry; `None` for a directive.
    fn read(&mut self, entry: &Entry) -> Result<Option<PlacedRecord>, TextFault> {
        let mut tokens = Tokens { rest: entry.tokens.iter(), end: entry.end };
        let first = &entry.tokens[0];
        if first.text.starts_with('$') && !first.is_quoted {
            tokens.next("a directive")?;
            self.direct(first, &mut tokens)?;
            tokens.finish()?;
            return Ok(None);
        }
        let owner = match (entry.continues_owner, &self.owner) {
            (false, _) => self.name(tokens.next("an owner")?)?,
            (true, Some(owner)) => owner.clone(),
            (true, None) => {
                return Err(fault(first.at, "a record without owner", "an owner in the first one"));
            }
        };
        // It stays in force even where the rest of the record is faulty.
        self.owner = Some(owner.clone());
        let (stated_ttl_s, rtype) = self.type_of(&mut tokens)?;
        let mut nameserver = None;
        let data = self.data(rtype, &mut tokens, &mut nameserver)?;
        if data.len() > DATA_BYTES_MAX {
            return Err(fault(first.at, format!("{} bytes of data", data.len()), format!("at most {DATA_BYTES_MAX}")));
        }
        tokens.finish()?;
        // RFC 2308 section 4 puts $TTL before the last stated one of RFC 1035.
        let ttl_s = stated_ttl_s.or(self.default_ttl_s).or(self.last_ttl_s).unwrap_or(DEFAULT_TTL_S);
        let record = Record { owner, rtype, ttl_s, data: data.into() };
        Ok(Some(PlacedRecord { record, nameserver, at: first.at }))
    }

    fn direct(&mut self, directive: &Token, tokens: &mut Tokens<'_>) -> Result<(), TextFault> {
        match directive.text.to_ascii_uppercase().as_str() {
            "$ORIGIN" => self.origin = self.name(tokens.next("a domain name")?)?,
            "$TTL" => self.default_ttl_s = Some(self.ttl_s(tokens.next(TTL)?)?),
            _ => return directive.wrong("$ORIGIN or $TTL"),
        }
        Ok(())
    }

    /// Reads `[TTL] [class] type`, the first two in any order.
    fn type_of(&mut self, tokens: &mut Tokens<'_>) -> Result<(Option<u32>, Rtype), TextFault> {
        let mut stated_ttl_s = None;
        loop {
            let token = tokens.next("a record type")?;
            if token.text.starts_with(|c: char| c.is_ascii_digit()) {
                stated_ttl_s = Some(self.ttl_s(token)?);
                self.last_ttl_s = stated_ttl_s;
                continue;
            }
            let rtype = match token.text.to_ascii_uppercase().as_str() {
                "IN" => continue,
                "CH" | "HS" | "CS" => return token.wrong("class IN"),
                "SOA" => Rtype::SOA,
                "NS" => Rtype::NS,
                "A" => Rtype::A,
                "AAAA" => Rtype::AAAA,
                "CNAME" => Rtype::CNAME,
                "TXT" => Rtype::TXT,
                "MX" => Rtype::MX,
                _ => return token.wrong(format!("a record type, {TYPES}")),
            };
            return Ok((stated_ttl_s, rtype));
        }
    }

    fn ttl_s(&self, token: &Token) -> Result<u32, TextFault> {
        match token.text.parse() {
            Ok(ttl_s) if ttl_s <= TTL_S_MAX => Ok(ttl_s),
            _ => token.wrong(TTL),
        }
    }

    /// Reads a record's data into wire format, names uncompressed and in canonical form.
    fn data(
        &self,
        rtype: Rtype,
        tokens: &mut Tokens<'_>,
        nameserver: &mut Option<CanonicalName>,
    ) -> Result<Vec<u8>, TextFault> {
        let mut data = Vec::new();
        match rtype {
            Rtype::A => data.extend(tokens.number::<Ipv4Addr>("an IPv4 address")?.octets()),
            Rtype::AAAA => data.extend(tokens.number::<Ipv6Addr>("an IPv6 address")?.octets()),
            Rtype::NS => {
                let name = self.name(tokens.next("a name server's name")?)?;
                data.extend_from_slice(name.as_bytes());
                *nameserver = Some(name);
            }
            Rtype::CNAME => data.extend_from_slice(self.name(tokens.next("a domain name")?)?.as_bytes()),
            Rtype::MX => {
                data.extend(tokens.number::<u16>("a preference from 0 to 65535")?.to_be_bytes());
                data.extend_from_slice(self.name(tokens.next("a mail server's name")?)?.as_bytes());
            }
            Rtype::SOA => {
                for part in ["the primary server's name", "the mailbox as a name"] {
                    data.extend_from_slice(self.name(tokens.next(part)?)?.as_bytes());
                }
                for part in ["serial", "refresh", "retry", "expire", "minimum"] {
                    let expected = format!("{part}, a whole number of 32 bits");
                    data.extend(tokens.number::<u32>(&expected)?.to_be_bytes());
                }
            }
            _ => {
                data.extend(string(tokens.next("a character string")?)?);
                for token in tokens.rest.by_ref() {
                    data.extend(string(token)?);
                }
            }
        }
        Ok(data)
    }

    /// Reads a name; one without final dot is relative to the origin.
    fn name(&self, token: &Token) -> Result<CanonicalName, TextFault> {
        let text = token.text.as_str();
        if text == "@" && !token.is_quoted {
            return Ok(self.origin.clone());
        }
        let backslashes = text.strip_suffix('.').map(|before| before.len() - before.trim_end_matches('\\').len());
        let full = match backslashes {
            Some(count) if count % 2 == 0 => text.to_owned(),
            _ if self.origin.parent().is_none() => format!("{text}."),
            _ => format!("{text}.{}", self.origin),
        };
        match full.parse() {
            Ok(name) if !token.is_quoted && !text.is_empty() => Ok(name),
            _ => token.wrong("a domain name"),
        }
    }
}

/// What a time to live looks like, for errors.
const TTL: &str = "a time to live in seconds, a whole number from 0 to 2147483647";

/// Reads a character string: its length, then its bytes.
fn string(token: &Token) -> Result<Vec<u8>, TextFault> {
    let mut bytes = vec![0];
    let mut rest = token.text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        // RFC 1035 section 5.1: "\DDD where each D is a digit is the octet corresponding to the decimal number",
        // "\X where X is any character other than a digit".
        match rest.next() {
            Some(first) if first.is_ascii_digit() => {
                let digits = [Some(first), rest.next(), rest.next()];
                let value = digits.iter().try_fold(0u32, |value, digit| {
                    digit.filter(u8::is_ascii_digit).map(|digit| value * 10 + u32::from(digit - b'0'))
                });
                match value.and_then(|value| u8::try_from(value).ok()) {
                    Some(value) => bytes.push(value),
                    None => return token.wrong("three digits up to 255 after \\"),
                }
            }
            Some(other) => bytes.push(other),
            None => return token.wrong("a character after \\"),
        }
    }
    match u8::try_from(bytes.len() - 1) {
        Ok(length) if usize::from(length) <= STRING_BYTES_MAX => {
            bytes[0] = length;
            Ok(bytes)
        }
        _ => token.wrong(format!("at most {STRING_BYTES_MAX} bytes in one character string")),
    }
}
