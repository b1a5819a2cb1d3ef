//! What is wrong with a configuration, and where.
//!
//! Every fault is the operator's to repair, so every fault has the same four parts: the place in the file, the key, what
//! was found there, what was expected instead. One type with four fields says that better than an enum of twenty kinds
//! would, and no caller tells the kinds apart.

use std::fmt;
use std::path::PathBuf;

/// Most bytes of a faulty value that are repeated in its error: a line of a terminal.
const FOUND_BYTES_MAX: usize = 60;

/// Most bytes of a key that are compared with the known ones: the longest known key has 27.
const KEY_BYTES_MAX: usize = 64;

/// A place in a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Position {
    /// The place of the byte at `offset` of `text`; an offset beyond the end counts as the end.
    pub fn of_offset(text: &str, offset: usize) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        // Bytes that continue a character (10xxxxxx) are none of their own.
        let characters = before[line_start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        Position { line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(), column: 1 + characters }
    }
}

/// One fault of a configuration, or one thing that an operator should know about it.
///
/// Displayed as `FILE:LINE:COLUMN: KEY: found FOUND, expected EXPECTED`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named on the command line or found from there.
    pub file: PathBuf,
    /// Where in it; `None` where the whole file is meant.
    pub position: Option<Position>,
    /// The key with the tables that it is in, such as `race[0].ttl_s`, counted from 0; empty where no key is meant.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What was expected instead.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " found {}, expected {}", self.found, self.expected)
    }
}

impl std::error::Error for ConfigError {}

/// The first line of a value as it stands in the file, cut to what fits into an error.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut = (0..=FOUND_BYTES_MAX.min(line.len())).rev().find(|&at| line.is_char_boundary(at));
    let shown: String = line[..cut.unwrap_or(0)].chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if shown.len() < text.trim_end().len() { format!("{shown}…") } else { shown }
}

/// The known key that an unknown one was most likely meant to be: the fewest edits away, at most a third of its length.
pub(super) fn nearest<'k>(unknown: &str, known: &[&'k str]) -> Option<&'k str> {
    if unknown.len() > KEY_BYTES_MAX {
        return None;
    }
    let ranked = known.iter().map(|key| (edits(unknown.as_bytes(), key.as_bytes()), *key));
    let (distance, key) = ranked.min()?;
    (distance <= (key.len() / 3).max(1)).then_some(key)
}

/// Levenshtein's distance: the insertions, deletions and replacements that make `b` of `a`.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a = 1\nname = \"Zürich\"\n";
        assert_eq!(Position::of_offset(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of_offset(text, 6), Position { line: 2, column: 1 });
        let quote = text.rfind('"').expect("the closing quote");
        assert_eq!(Position::of_offset(text, quote), Position { line: 2, column: 15 });
        assert_eq!(Position::of_offset(text, 999), Position { line: 3, column: 1 });
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("\"short\""), "\"short\"");
        assert_eq!(excerpt("\"\"\"\nlong\n\"\"\""), "\"\"\"…");
        assert_eq!(excerpt(&"é".repeat(100)), format!("{}…", "é".repeat(30)));
        assert_eq!(excerpt("a\u{1b}[31m"), "a\u{FFFD}[31m");
    }

    #[test]
    fn the_nearest_key_is_a_likely_one_or_none() {
        let known = ["name", "control_listen", "http_listen", "ttl_s"];
        assert_eq!(nearest("control_lisen", &known), Some("control_listen"));
        assert_eq!(nearest("ttl", &known), None);
        assert_eq!(nearest("ttls", &known), Some("ttl_s"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!(nearest(&"n".repeat(1_000), &known), None);
    }
}
