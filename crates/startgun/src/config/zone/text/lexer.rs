//! Cuts zone-file text into entries and their tokens.
//!
//! A zone of 10^6 names has some 5 × 10^6 tokens, so a token is a slice of the text, and one vector serves all entries.
//! A place costs as little: a token knows its line's number and what stands before it there, and the column is counted
//! where a place is asked for. Bytes are bytes: RFC 1035 section 5.1 says nothing of UTF-8, and old files hold Latin-1.

use std::fmt::Arguments;

use super::{Place, TextFault, shown};

/// Most tokens of one entry. The most that any record needs are the 131,070 digits of 65,535 bytes of unknown data
/// (RFC 3597), with white space after each; the rest is for whoever forgot a parenthesis at the top of a large file.
const ENTRY_TOKENS_MAX: usize = 1 << 18;

/// Where something begins; the column is counted only when somebody asks, or a long line would be counted for each word.
#[derive(Clone, Copy)]
struct Spot<'t> {
    line: u32,
    /// What is before it in its line.
    before: &'t [u8],
}

impl Spot<'_> {
    fn place(&self, file: u16) -> Place {
        Place::new(file, self.line, columns(self.before))
    }
}

/// One token, its escapes still in it, its quotes taken off.
#[derive(Clone, Copy)]
pub(super) struct Token<'t> {
    pub bytes: &'t [u8],
    spot: Spot<'t>,
    pub is_quoted: bool,
    /// Whether nothing, not even white space, is between the token before and this one.
    pub is_joined: bool,
}

impl Token<'_> {
    /// Whether it is this word, in either case, without quotes.
    pub fn is_word(&self, word: &str) -> bool {
        !self.is_quoted && self.bytes.eq_ignore_ascii_case(word.as_bytes())
    }

    /// The token as text without quotes, which is what numbers and mnemonics are.
    pub fn word(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes).ok().filter(|_| !self.is_quoted)
    }
}

/// What stands between two line ends that count.
#[derive(Default)]
pub(super) struct Entry<'t> {
    tokens: Vec<Token<'t>>,
    file: u16,
    /// Whether it begins with white space: the owner is the one before.
    pub starts_blank: bool,
    /// The first fault of quotes and parentheses, which leaves the rest of the entry uncertain.
    pub fault: Option<TextFault>,
}

impl Entry<'_> {
    fn place(&self, token: &Token<'_>) -> Place {
        token.spot.place(self.file)
    }

    fn place_behind(&self, token: &Token<'_>) -> Place {
        let quotes = if token.is_quoted { 2 } else { 0 };
        Place::new(self.file, token.spot.line, columns(token.spot.before) + columns(token.bytes) + quotes)
    }

    /// Keeps the first fault.
    fn note(&mut self, spot: Spot<'_>, found: &str, expected: Arguments<'_>) {
        if self.fault.is_none() {
            let at = spot.place(self.file);
            self.fault = Some(TextFault { at, found: found.to_owned(), expected: expected.to_string() });
        }
    }
}

/// Characters of a line. Bytes that continue a character of UTF-8 (10xxxxxx) are none of their own.
fn columns(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

/// Gives the entries of one text, one after the other.
pub(super) struct Lexer<'t> {
    text: &'t [u8],
    file: u16,
    at: usize,
    line: u32,
    line_start: usize,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t [u8], file: u16) -> Self {
        // Some editors begin every file with a byte order mark.
        let start = if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Lexer { text, file, at: start, line: 1, line_start: start }
    }

    /// Reads the next entry into `entry`; false at the end of the text.
    ///
    /// RFC 1035 section 5.1: "Parentheses are used to group data that crosses a line boundary. In effect, line
    /// terminations are not recognized within parentheses." A semicolon starts a comment.
    pub fn next_entry(&mut self, entry: &mut Entry<'t>) -> bool {
        entry.tokens.clear();
        entry.file = self.file;
        entry.fault = None;
        entry.starts_blank = self.is_blank();
        let mut open: Option<Spot<'t>> = None;
        // Where the last token ended, to tell tokens that are joined.
        let mut end = usize::MAX;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.line = self.line.saturating_add(1);
                    self.line_start = self.at;
                    if open.is_none() {
                        if !entry.tokens.is_empty() || entry.fault.is_some() {
                            return true;
                        }
                        entry.starts_blank = self.is_blank();
                    }
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b';' => self.skip_comment(),
                b'(' | b')' => {
                    self.group(byte == b'(', &mut open, entry);
                    self.at += 1;
                }
                _ => {
                    let token = self.token(end == self.at, entry);
                    end = self.at;
                    if entry.tokens.len() < ENTRY_TOKENS_MAX {
                        entry.tokens.push(token);
                    } else {
                        entry.note(
                            open.unwrap_or(token.spot),
                            "a record without end",
                            format_args!("at most {ENTRY_TOKENS_MAX} words in one"),
                        );
                    }
                }
            }
        }
        if let Some(spot) = open {
            entry.note(spot, "( and no end of it", format_args!(") after it"));
        }
        !entry.tokens.is_empty() || entry.fault.is_some()
    }

    fn is_blank(&self) -> bool {
        matches!(self.text.get(self.at), Some(b' ' | b'\t'))
    }

    fn skip_comment(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }

    /// What begins here.
    fn spot(&self) -> Spot<'t> {
        Spot { line: self.line, before: &self.text[self.line_start..self.at] }
    }

    /// Takes note of a parenthesis at this place.
    fn group(&self, opens: bool, open: &mut Option<Spot<'t>>, entry: &mut Entry<'t>) {
        match (opens, *open) {
            (true, None) => *open = Some(self.spot()),
            (true, Some(_)) => {
                entry.note(self.spot(), "( within parentheses", format_args!("parentheses that are not nested"))
            }
            (false, Some(_)) => *open = None,
            (false, None) => entry.note(self.spot(), ") alone", format_args!("( before it")),
        }
    }

    /// Reads the token that begins here, quoted or not.
    fn token(&mut self, is_joined: bool, entry: &mut Entry<'t>) -> Token<'t> {
        let spot = self.spot();
        let is_quoted = self.text[self.at] == b'"';
        let start = self.at + usize::from(is_quoted);
        let ends = |byte: u8| match is_quoted {
            true => byte == b'"',
            false => matches!(byte, b' ' | b'\t' | b'\r' | b';' | b'(' | b')' | b'"'),
        };
        let mut at = start;
        while let Some(&byte) = self.text.get(at) {
            // What is escaped ends nothing, except that no token goes beyond its line.
            if byte == b'\\' && self.text.get(at + 1).is_some_and(|&next| next != b'\n') {
                at += 2;
            } else if byte == b'\n' || ends(byte) {
                break;
            } else {
                at += 1;
            }
        }
        let token = Token { bytes: &self.text[start..at], spot, is_quoted, is_joined };
        let is_closed = self.text.get(at) == Some(&b'"');
        if is_quoted && !is_closed {
            entry.note(spot, "a quote and no end of it", format_args!("a closing quote on the same line"));
        }
        self.at = at + usize::from(is_quoted && is_closed);
        token
    }
}

/// An entry's tokens, taken one by one.
pub(super) struct Tokens<'e, 't> {
    entry: &'e Entry<'t>,
    taken: usize,
}

impl<'e, 't> Tokens<'e, 't> {
    pub fn new(entry: &'e Entry<'t>) -> Self {
        Tokens { entry, taken: 0 }
    }

    /// The next token, not taken.
    pub fn peek(&self) -> Option<&'e Token<'t>> {
        self.entry.tokens.get(self.taken)
    }

    /// Takes the next token, where there is one.
    pub fn take(&mut self) -> Option<&'e Token<'t>> {
        let token = self.peek()?;
        self.taken += 1;
        Some(token)
    }

    /// The token that was taken last.
    pub fn last(&self) -> Option<&'e Token<'t>> {
        self.taken.checked_sub(1).and_then(|last| self.entry.tokens.get(last))
    }

    /// Takes the next token, which must be there.
    pub fn next(&mut self, expected: &str) -> Result<&'e Token<'t>, TextFault> {
        self.take().ok_or_else(|| self.missing(expected))
    }

    /// No more tokens may be there.
    pub fn finish(&self) -> Result<(), TextFault> {
        match self.peek() {
            Some(token) => Err(self.wrong(token, "the end of the record")),
            None => Ok(()),
        }
    }

    /// The place of the first token.
    pub fn start(&self) -> Place {
        self.entry.tokens.first().map_or(Place::TOP, |token| self.entry.place(token))
    }

    /// The fault that something else was expected than this token.
    pub fn wrong(&self, token: &Token<'_>, expected: impl Into<String>) -> TextFault {
        let found = format!("\"{}\"", shown(token.bytes));
        TextFault { at: self.entry.place(token), found, expected: expected.into() }
    }

    /// The fault that something else was expected than the token taken last, or what follows the end of the record.
    pub fn wrong_last(&self, expected: impl Into<String>) -> TextFault {
        match self.last() {
            Some(token) => self.wrong(token, expected),
            None => self.missing(expected),
        }
    }

    /// The fault that the record ended too early.
    pub fn missing(&self, expected: impl Into<String>) -> TextFault {
        let at = self.entry.tokens.last().map_or(Place::TOP, |token| self.entry.place_behind(token));
        TextFault { at, found: "the end of the record".into(), expected: expected.into() }
    }
}
