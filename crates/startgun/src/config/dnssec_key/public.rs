//! The public half: one DNSKEY record in zone-file form, and comments.
//!
//! Both programs write it on one line, with the class and without a time to live unless asked for one, and BIND puts
//! spaces into the key. The parser of zones reads other types, and files of many lines; this is less.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use startgun_core::dns::CanonicalName;

use super::{Findings, KeyFile};
use crate::config::error::{Position, excerpt};

/// What a record looks like, for errors.
const RECORD: &str = "a DNSKEY record on one line: owner, IN, DNSKEY, flags, protocol, algorithm, key in base64";

/// A DNSKEY record that was read.
pub(super) struct PublicHalf {
    /// Its data in wire format, RFC 4034 section 2.1.
    pub dnskey: Vec<u8>,
    /// The algorithm's number, which stands in `dnskey` as well.
    pub algorithm: u8,
    /// Where it begins.
    pub at: Position,
}

/// A word of a line.
struct Word<'f> {
    text: &'f str,
    at: Position,
}

/// Reads the one record of a file, which must be that of a key of `zone`.
pub(super) fn read(file: &KeyFile, zone: &CanonicalName, findings: &mut Findings) -> Option<PublicHalf> {
    let records = file.lines().map(|(number, line)| words(number, line)).filter(|words| !words.is_empty());
    let mut records = records.fuse();
    let Some(record) = records.next() else {
        return findings.fault(file.error(None, "", "no record", RECORD));
    };
    if let Some(second) = records.next() {
        return findings.fault(file.error(second[0].at, "", "a second line", "one record, on one line"));
    }
    read_record(file, &record, zone, findings)
}

/// The words of a line before its comment.
fn words(number: usize, line: &str) -> Vec<Word<'_>> {
    let content = line.split(';').next().unwrap_or_default();
    let mut start = 0;
    let mut words = Vec::new();
    for text in content.split(|c: char| c.is_ascii_whitespace()) {
        if !text.is_empty() {
            let column = 1 + content[..start].chars().count();
            words.push(Word { text, at: Position { line: number, column } });
        }
        // What is split at has one byte.
        start += text.len() + 1;
    }
    words
}

fn read_record(
    file: &KeyFile,
    words: &[Word<'_>],
    zone: &CanonicalName,
    findings: &mut Findings,
) -> Option<PublicHalf> {
    let (owner, rest) = words.split_first()?;
    let at = owner.at;
    let mut wrong = |word: &Word<'_>, found: String, expected: &str| {
        findings.note(file.error(word.at, "", found, expected));
    };
    let is_zone = owner.text.parse::<CanonicalName>().is_ok_and(|owner| owner == *zone);
    if !is_zone {
        wrong(owner, format!("a key of {}", excerpt(owner.text)), &format!("one of zone {zone}"));
    }
    let is_ttl = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let before_type = rest.iter().take_while(|word| is_ttl(word.text) || word.text.eq_ignore_ascii_case("IN")).count();
    let Some((rtype, data)) = rest[before_type..].split_first() else {
        return findings.fault(file.error(at, "", "an owner alone", RECORD));
    };
    if !rtype.text.eq_ignore_ascii_case("DNSKEY") {
        wrong(rtype, format!("a record of type {}", excerpt(rtype.text)), "DNSKEY");
        return None;
    }
    let [flags, protocol, algorithm, key @ ..] = data else {
        return findings.fault(file.error(rtype.at, "DNSKEY", "an incomplete record", RECORD));
    };
    let mut number = |word: &Word<'_>, most: u16, field: &str| {
        let value = word.text.parse::<u16>().ok().filter(|&value| value <= most);
        if value.is_none() {
            wrong(word, format!("\"{}\"", excerpt(word.text)), &format!("{field}, a number from 0 to {most}"));
        }
        value
    };
    let flags = number(flags, u16::MAX, "flags");
    let protocol = number(protocol, u8::MAX.into(), "the protocol");
    let algorithm = number(algorithm, u8::MAX.into(), "the algorithm");
    let base64: String = key.iter().map(|word| word.text).collect();
    let Ok(key) = STANDARD.decode(base64) else {
        let key_at = key.first().map_or(at, |word| word.at);
        return findings.fault(file.error(key_at, "DNSKEY", "a key that is not in base64", "a key in base64"));
    };
    let (protocol, algorithm) = (u8::try_from(protocol?).ok()?, u8::try_from(algorithm?).ok()?);
    let dnskey = [&flags?.to_be_bytes()[..], &[protocol, algorithm], &key].concat();
    is_zone.then_some(PublicHalf { dnskey, algorithm, at })
}
