//! Files of a forecast, as text and as CSV with a header. Whatever is wrong with one is told with its line and column.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::Failure;

/// Longest file: 2,000 × 2,000 pairs of 32 bytes.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Something wrong at a place in a file: line from 1, and column from 1, which counts cells.
pub fn fault(path: &Path, line: usize, column: usize, what: impl Display) -> Failure {
    Failure::Input(format!("{}:{line}:{column}: {what}", path.display()))
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// It cannot be read, is too long, is no UTF-8, or a quote has no end in its line.
pub fn read(path: &Path) -> Result<String, Failure> {
    let cannot = |error: std::io::Error| Failure::Input(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("more than {} MiB: expected a smaller file", FILE_BYTES_MAX >> 20);
        return Err(Failure::Input(format!("{}: {what}", path.display())));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let count = |bytes: &[u8], byte: u8| bytes.iter().filter(|found| **found == byte).count();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (line, column) = (count(before, b'\n') + 1, count(&before[line_start..], b',') + 1);
        fault(path, line, column, format!("byte {:#04x}: expected UTF-8", error.as_bytes()[before.len()]))
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    check_quotes(path, &text)?;
    Ok(text)
}

/// No cell runs over the end of its line: one of a thousand lines would be one mistaken quote.
fn check_quotes(path: &Path, text: &str) -> Result<(), Failure> {
    for (line, content) in (1..).zip(text.lines()) {
        let (mut column, mut column_of_quote, mut is_quoted) = (1, 1, false);
        for byte in content.bytes() {
            match byte {
                b'"' => (column_of_quote, is_quoted) = (column, !is_quoted),
                b',' if !is_quoted => column += 1,
                _ => {}
            }
        }
        if is_quoted {
            return Err(fault(path, line, column_of_quote, "a quote without an end: expected it in the same line"));
        }
    }
    Ok(())
}

/// A row of a CSV file: its line, and its cells without the spaces around them.
pub struct Row {
    pub line: usize,
    pub cells: csv::StringRecord,
}

/// The rows of a CSV file, its header first; empty lines are left out.
pub fn rows<'a>(path: &'a Path, text: &'a str) -> impl Iterator<Item = Result<Row, Failure>> + 'a {
    let reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let (mut line, mut counted) = (1, 0);
    let row = move |record: Result<csv::StringRecord, csv::Error>| {
        let cells = record.map_err(|error| Failure::Input(format!("{}: {error}", path.display())))?;
        // A record begins, for its reader, where the one before ends: at the line break, and at empty lines.
        let from = cells.position().map_or(0, |position| position.byte() as usize);
        let rest = text.get(from..).unwrap_or_default();
        let begins = from + rest.find(|c: char| !c.is_whitespace()).unwrap_or_default();
        line += text.as_bytes()[counted..begins].iter().filter(|byte| **byte == b'\n').count();
        counted = begins;
        Ok(Row { line, cells })
    };
    let is_blank = |row: &Result<Row, Failure>| row.as_ref().is_ok_and(|row| row.cells.iter().all(str::is_empty));
    reader.into_records().map(row).filter(move |row| !is_blank(row))
}
