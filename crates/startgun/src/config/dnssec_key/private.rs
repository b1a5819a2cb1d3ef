//! The private half: fields of the form `Name: value`, one a line.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use startgun_core::dns::sign::{Algorithm, PrivateKey, RsaPrivateKey};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime};
use zeroize::Zeroizing;

use super::{Findings, KeyFile, KeyTimes};
use crate::config::error::{Position, excerpt, nearest};

/// The versions of the format that are read: ldns writes the first, BIND the second, which adds the times.
const FORMATS: [&str; 2] = ["v1.2", "v1.3"];

/// Most lines of a file: there are 24 known fields, and blank lines do no harm.
const LINES_MAX: usize = 64;

/// The fields of an RSA key, in the order of [`RsaPrivateKey`].
const RSA_FIELDS: [&str; 8] =
    ["Modulus", "PublicExponent", "PrivateExponent", "Prime1", "Prime2", "Exponent1", "Exponent2", "Coefficient"];

/// The field of any other key.
const SECRET_FIELD: [&str; 1] = ["PrivateKey"];

/// Fields that BIND writes and that say nothing about signing.
const UNUSED_FIELDS: [&str; 9] = [
    "Created",
    "Publish",
    "DSPublish",
    "SyncPublish",
    "SyncDelete",
    "Predecessor",
    "Successor",
    "MaxTTL",
    "RollPeriod",
];

/// Fields of times that are used.
const TIME_FIELDS: [&str; 4] = ["Activate", "Revoke", "Inactive", "Delete"];

/// Fields by which BIND finds a key in a hardware module.
const HARDWARE_FIELDS: [&str; 2] = ["Engine", "Label"];

/// What a time looks like, for errors.
const TIME: &str = "a time of UTC in the form YYYYMMDDHHMMSS";

/// What a private file says, but for the key itself, which is decoded when it is known of which kind it should be.
pub(super) struct PrivateHalf<'f> {
    fields: Fields<'f>,
    /// The algorithm's number.
    pub algorithm: u8,
    pub algorithm_at: Position,
    pub times: KeyTimes,
}

/// Each field's value and its place.
type Fields<'f> = BTreeMap<&'f str, (&'f str, Position)>;

/// The numbers or bytes of a private key, overwritten when dropped: eight for RSA, else one.
pub(super) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

impl Secrets {
    /// The key, for signing.
    pub fn as_key(&self) -> PrivateKey<'_> {
        let secrets: Vec<&[u8]> = self.0.iter().map(|secret| secret.as_slice()).collect();
        match secrets[..] {
            [modulus, public_exponent, private_exponent, prime_1, prime_2, exponent_1, exponent_2, coefficient] => {
                PrivateKey::Rsa(RsaPrivateKey {
                    modulus,
                    public_exponent,
                    private_exponent,
                    prime_1,
                    prime_2,
                    exponent_1,
                    exponent_2,
                    coefficient,
                })
            }
            [secret] => PrivateKey::Secret(secret),
            _ => unreachable!("a key has the fields of one list or of the other"),
        }
    }
}

/// Reads the fields of a file. A key whose time is over at `now` is a fault, one whose time is to come worth a warning.
pub(super) fn read<'f>(file: &'f KeyFile, now: OffsetDateTime, findings: &mut Findings) -> Option<PrivateHalf<'f>> {
    let fields = read_fields(file, findings)?;
    let formats = format!("{} or {}", FORMATS[0], FORMATS[1]);
    match fields.get("Private-key-format") {
        Some((format, _)) if FORMATS.contains(format) => {}
        Some((format, at)) => {
            let found = format!("\"{}\"", excerpt(format));
            return findings.fault(file.error(*at, "Private-key-format", found, formats));
        }
        None => return findings.fault(file.error(None, "Private-key-format", "nothing", formats)),
    }
    let times = read_times(file, &fields, findings);
    check_times(file, &fields, &times, now, findings);
    let expected = "the number of an algorithm, such as 13 (ECDSAP256SHA256)";
    let Some(&(algorithm, algorithm_at)) = fields.get("Algorithm") else {
        return findings.fault(file.error(None, "Algorithm", "nothing", expected));
    };
    // The mnemonic after the number is for people.
    match algorithm.split_ascii_whitespace().next().and_then(|number| number.parse().ok()) {
        Some(number) => Some(PrivateHalf { fields, algorithm: number, algorithm_at, times }),
        None => {
            let found = format!("\"{}\"", excerpt(algorithm));
            findings.fault(file.error(algorithm_at, "Algorithm", found, expected))
        }
    }
}

fn read_fields<'f>(file: &'f KeyFile, findings: &mut Findings) -> Option<Fields<'f>> {
    let mut fields = Fields::new();
    let sound = findings.faults.len();
    for (number, line) in file.lines().filter(|(_, line)| !line.trim().is_empty()) {
        let at = Position { line: number, column: 1 };
        if number > LINES_MAX {
            return findings.fault(file.error(at, "", "another line", format!("at most {LINES_MAX}")));
        }
        // What is no field may be a secret without its name: it is not repeated.
        let Some((name, value)) = line.split_once(':') else {
            findings.note(file.error(at, "", "a line without colon", "a field, Name: value"));
            continue;
        };
        let value_at = name.chars().count() + 2 + value.chars().take_while(|c| c.is_whitespace()).count();
        let place = Position { line: number, column: value_at };
        if HARDWARE_FIELDS.contains(&name) {
            let expected = "a private key in this file";
            return findings.fault(file.error(at, name, "a key that lies in a hardware module", expected));
        }
        if !known_fields().any(|known| known == name) {
            let known: Vec<&str> = known_fields().collect();
            let expected = nearest(name, &known).unwrap_or("a field that dnssec-keygen or ldns-keygen writes");
            findings.note(file.error(at, &excerpt(name), "an unknown field", expected));
        } else if fields.insert(name, (value.trim(), place)).is_some() {
            findings.note(file.error(at, name, "the field for the second time", "each once"));
        }
    }
    (findings.faults.len() == sound).then_some(fields)
}

fn known_fields() -> impl Iterator<Item = &'static str> {
    let groups: [&[&str]; 5] =
        [&["Private-key-format", "Algorithm"], &RSA_FIELDS, &SECRET_FIELD, &TIME_FIELDS, &UNUSED_FIELDS];
    groups.into_iter().flatten().copied()
}

fn read_times(file: &KeyFile, fields: &Fields<'_>, findings: &mut Findings) -> KeyTimes {
    let [activate, revoke, inactive, delete] = TIME_FIELDS.map(|name| {
        let (text, at) = fields.get(name)?;
        match read_time(text) {
            Some(time) => Some(time),
            None => findings.fault(file.error(*at, name, format!("\"{}\"", excerpt(text)), TIME)),
        }
    });
    KeyTimes { activate, revoke, inactive, delete }
}

/// Reads YYYYMMDDHHMMSS.
fn read_time(text: &str) -> Option<OffsetDateTime> {
    if text.len() != 14 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u16>().ok();
    let small = |from: usize| number(from, from + 2).and_then(|value| u8::try_from(value).ok());
    let date = Date::from_calendar_date(number(0, 4)?.into(), Month::try_from(small(4)?).ok()?, small(6)?).ok()?;
    Some(date.with_hms(small(8)?, small(10)?, small(12)?).ok()?.assume_utc())
}

fn check_times(file: &KeyFile, fields: &Fields<'_>, times: &KeyTimes, now: OffsetDateTime, findings: &mut Findings) {
    let place = |field: &str| fields.get(field).map(|(_, at)| *at);
    let shown = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let ends = [
        ("Revoke", times.revoke, "revoked"),
        ("Inactive", times.inactive, "inactive"),
        ("Delete", times.delete, "deleted"),
    ];
    for (field, time, state) in ends {
        if let Some(time) = time.filter(|time| *time <= now) {
            let found = format!("a key that is {state} since {}", shown(time));
            findings.note(file.error(place(field), field, found, "a key that may sign"));
        }
    }
    if let Some(time) = times.activate.filter(|time| *time > now) {
        let found = format!("a key that is active from {} on", shown(time));
        let expected = "an active one: it signs already, so its DNSKEY record must be in the zone";
        findings.warnings.push(file.error(place("Activate"), "Activate", found, expected));
    }
}

impl PrivateHalf<'_> {
    /// Decodes the fields that a key of an algorithm has. Their texts are in no error.
    pub fn secrets(&self, algorithm: Algorithm, file: &KeyFile, findings: &mut Findings) -> Option<Secrets> {
        let names: &[&str] = if algorithm.is_rsa() { &RSA_FIELDS } else { &SECRET_FIELD };
        let expected = format!("base64, for a key of algorithm {algorithm}");
        let mut decode = |name: &&str| {
            let Some((text, at)) = self.fields.get(*name) else {
                return findings.fault(file.error(None, name, "nothing", expected.as_str()));
            };
            match decoded(text).filter(|secret| !secret.is_empty()) {
                Some(secret) => Some(secret),
                None => findings.fault(file.error(*at, name, "something else", expected.as_str())),
            }
        };
        // All of them are tried, so that all faults are found.
        let secrets: Vec<Option<Zeroizing<Vec<u8>>>> = names.iter().map(&mut decode).collect();
        secrets.into_iter().collect::<Option<_>>().map(Secrets)
    }
}

/// Decodes base64 into memory that is overwritten when dropped.
fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = STANDARD.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}
