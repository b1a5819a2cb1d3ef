//! DNSSEC key pairs, as `dnssec-keygen` and `ldns-keygen` write them.
//!
//! A pair is two files: the DNSKEY record, and the private half with, from BIND, the times between which it is to be
//! used. Read one by one they are easily mixed up, and a zone that is signed with the wrong key is gone for all who
//! validate. So both are read together, from the name of either, and everything that is written twice must agree:
//! algorithm and key tag in the files' name, the zone in the record and in the configuration, the halves by a trial
//! signature.
//!
//! ```text
//!  Kexample.org.+013+55648.key ─────► public: owner, flags, algorithm, key ─┐
//!   │            │   └ key tag                                              ├─► SigningKey ─► ZoneKey
//!   │            └ algorithm                                                │
//!  Kexample.org.+013+55648.private ─► private: fields, times ───────────────┘
//! ```
//!
//! Errors never repeat what a private field holds, and its text is overwritten in memory once the key is made.
//!
//! The format has no specification; what both programs write is described in the manual of dnssec-keygen(1), and RFC
//! 6605 and 8080 have examples.

mod private;
mod public;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use domain::base::iana::SecurityAlgorithm;
use ring::rand::SecureRandom;
use startgun_core::dns::CanonicalName;
use startgun_core::dns::sign::{Algorithm, KeyError, SigningKey};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Loaded;
use super::error::{ConfigError, Position};
use private::PrivateHalf;
use public::PublicHalf;

/// Largest key file, in bytes. The private half of 4,096 bits of RSA is the longest: 4.5 times 512 bytes in base64 are
/// 3,100, field names and times 500 more; four times that.
const KEY_FILE_BYTES_MAX: usize = 16 << 10;

/// Permissions that a private half should not give: to write for its group, anything for others. Its group may read
/// it, as the user that the master becomes must.
const TOO_OPEN: u32 = 0o027;

/// What the files of a pair are called, for errors.
const PAIR_NAME: &str = "K, the zone, +, three digits of algorithm, +, five of key tag, then .key or .private, as in \
                         Kexample.org.+013+55648.key";

/// A key pair that was read.
#[derive(Debug)]
pub(super) struct ZoneKey {
    /// The pair.
    pub key: SigningKey,
    /// The file of its private half.
    pub private_file: PathBuf,
    /// When it is to be used.
    pub times: KeyTimes,
}

/// Between which times a key is to be used; `None` where its file says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyTimes {
    /// From when on it signs.
    pub activate: Option<OffsetDateTime>,
    /// When it is to be revoked (RFC 5011).
    pub revoke: Option<OffsetDateTime>,
    /// Until when it signs.
    pub inactive: Option<OffsetDateTime>,
    /// When its DNSKEY record leaves the zone.
    pub delete: Option<OffsetDateTime>,
}

impl KeyTimes {
    /// When the key must no longer be used, by whichever of its times comes first.
    pub fn ends_at(&self) -> Option<OffsetDateTime> {
        [self.revoke, self.inactive, self.delete].into_iter().flatten().min()
    }
}

/// Reads the key pair of `zone` that `path` names: either of its files, or what their names have in common.
///
/// A private half that others may read, and a key that is not active yet at `now`, are worth a warning.
///
/// # Errors
/// All faults that were found; at least one.
pub(super) fn read_zone_key(
    path: &Path,
    zone: &CanonicalName,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
) -> Result<Loaded<ZoneKey>, Vec<ConfigError>> {
    let mut findings = Findings::default();
    let config = read_pair(path, zone, now, random, &mut findings);
    match config {
        Some(config) if findings.faults.is_empty() => Ok(Loaded { config, warnings: findings.warnings }),
        _ => Err(findings.faults),
    }
}

fn read_pair(
    path: &Path,
    zone: &CanonicalName,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
    findings: &mut Findings,
) -> Option<ZoneKey> {
    let name = PairName::of(path, findings)?;
    let public_file = KeyFile::read(&name.public, findings);
    let private_file = KeyFile::read(&name.private, findings);
    if let Some(file) = &private_file {
        file.check_permissions(findings);
    }
    let public = public_file.as_ref().and_then(|file| public::read(file, zone, findings));
    let fields = private_file.as_ref().and_then(|file| private::read(file, now, findings));
    let ((public, public_file), (fields, private_file)) =
        (public.zip(public_file)?, fields.zip(private_file.as_ref())?);
    if public.algorithm != name.algorithm {
        let found = format!("algorithm {}", named_algorithm(public.algorithm));
        findings.note(public_file.error(public.at, "DNSKEY", found, format!("{}, as in its name", name.algorithm)));
    }
    if fields.algorithm != public.algorithm {
        let found = format!("algorithm {}", named_algorithm(fields.algorithm));
        let expected = format!("{}, as in {}", named_algorithm(public.algorithm), public_file.path.display());
        return findings.fault(private_file.error(fields.algorithm_at, "Algorithm", found, expected));
    }
    let key = make_key(&public, &public_file, &fields, private_file, random, findings)?;
    if key.tag() != name.tag {
        let found = format!("a key with tag {}", key.tag());
        findings.note(public_file.error(public.at, "DNSKEY", found, format!("{}, as in its name", name.tag)));
    }
    Some(ZoneKey { key, private_file: name.private, times: fields.times })
}

/// Puts the halves together, or notes why they are no key that can sign.
fn make_key(
    public: &PublicHalf,
    public_file: &KeyFile,
    private: &PrivateHalf<'_>,
    private_file: &KeyFile,
    random: &dyn SecureRandom,
    findings: &mut Findings,
) -> Option<SigningKey> {
    let Some(algorithm) = Algorithm::of_number(public.algorithm) else {
        let found = format!("algorithm {}", named_algorithm(public.algorithm));
        let known: Vec<String> = Algorithm::ALL.iter().map(Algorithm::to_string).collect();
        let expected = format!("one of {}", known.join(", "));
        return findings.fault(public_file.error(public.at, "DNSKEY", found, expected));
    };
    let secrets = private.secrets(algorithm, private_file, findings)?;
    let error = match SigningKey::new(&public.dnskey, &secrets.as_key(), random) {
        Ok(key) => return Some(key),
        Err(error) => error,
    };
    let of_public = |found: String, expected: &str| public_file.error(public.at, "DNSKEY", found, expected);
    let of_private = |found: String, expected: String| private_file.error(None, "", found, expected);
    findings.fault(match error {
        KeyError::Short { .. } => of_public("a record without key".into(), "a key in base64"),
        KeyError::Protocol { protocol } => of_public(format!("protocol {protocol}"), "3"),
        KeyError::NotZoneKey { flags } => of_public(format!("flags {flags}"), "256 or 257, those of a zone's key"),
        KeyError::Revoked { flags } => of_public(format!("a key that is revoked (flags {flags})"), "256 or 257"),
        KeyError::Algorithm { number } => of_public(format!("algorithm {number}"), "another one"),
        KeyError::PublicKey { bytes, .. } => {
            of_public(format!("{bytes} bytes of key"), "a key in the form of its algorithm")
        }
        KeyError::RsaBits { bits } => of_public(format!("{bits} bits of RSA"), "2048, 3072 or 4096"),
        KeyError::RsaExponent => {
            of_public("another public exponent".into(), "one from 65537 on, of at most 33 bits, as 65537 itself")
        }
        KeyError::PrivateKey { .. } => {
            of_private("a private key of another length".into(), format!("one of algorithm {algorithm}"))
        }
        KeyError::Mismatch => {
            let expected = format!("the other half of {}", public_file.path.display());
            of_private("a private key that is another's, or damaged".into(), expected)
        }
    })
}

/// Number and, where it has one, mnemonic of an algorithm, such as `5 (RSASHA1)`.
fn named_algorithm(number: u8) -> String {
    match SecurityAlgorithm::from_int(number).to_mnemonic_str() {
        Some(mnemonic) => format!("{number} ({mnemonic})"),
        None => number.to_string(),
    }
}

/// What is wrong with a pair, and what deserves a thought.
#[derive(Default)]
struct Findings {
    faults: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Findings {
    fn note(&mut self, fault: ConfigError) {
        self.faults.push(fault);
    }

    /// Notes a fault; always `None`.
    fn fault<T>(&mut self, fault: ConfigError) -> Option<T> {
        self.note(fault);
        None
    }
}

/// The names of a pair's files, and what they say.
struct PairName {
    public: PathBuf,
    private: PathBuf,
    algorithm: u8,
    tag: u16,
}

impl PairName {
    /// The pair that a path belongs to. Of the zone in its name nothing is taken: the programs differ in how they write
    /// unusual ones, and the record says it better.
    fn of(path: &Path, findings: &mut Findings) -> Option<PairName> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = [".key", ".private"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let (file, found) = (path.to_owned(), format!("a file of the name {name:?}"));
        let Some((algorithm, tag)) = numbers_of(stem) else {
            let expected = PAIR_NAME.to_owned();
            return findings.fault(ConfigError { file, position: None, key: String::new(), found, expected });
        };
        let of = |end: &str| path.with_file_name(format!("{stem}{end}"));
        Some(PairName { public: of(".key"), private: of(".private"), algorithm, tag })
    }
}

/// Algorithm and key tag in the name of a pair.
fn numbers_of(stem: &str) -> Option<(u8, u16)> {
    let mut parts = stem.strip_prefix('K')?.rsplitn(3, '+');
    let (tag, algorithm, zone) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if zone.is_empty() || !is_number(tag, 5) || !is_number(algorithm, 3) {
        return None;
    }
    Some((algorithm.parse().ok()?, tag.parse().ok()?))
}

/// A key file that was read; its text is overwritten when it is dropped.
struct KeyFile {
    path: PathBuf,
    text: Zeroizing<String>,
    /// Permission bits.
    mode: u32,
}

impl KeyFile {
    /// Reads a file, within [`KEY_FILE_BYTES_MAX`].
    fn read(path: &Path, findings: &mut Findings) -> Option<KeyFile> {
        // Room for all of it, for text that had to move on would stay behind in memory.
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX + 1));
        let mut read = || -> io::Result<u32> {
            let file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            file.take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
            Ok(mode)
        };
        let found = match read() {
            Ok(_) if text.len() > KEY_FILE_BYTES_MAX => "a longer file".into(),
            Ok(mode) => return Some(KeyFile { path: path.to_owned(), text, mode }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => "bytes that are not UTF-8".into(),
            Err(error) => format!("no way to read it ({error})"),
        };
        let expected = format!("a readable text file of at most {KEY_FILE_BYTES_MAX} bytes");
        findings.fault(ConfigError { file: path.to_owned(), position: None, key: String::new(), found, expected })
    }

    /// Warns of a private half that others than its owner and group get at.
    fn check_permissions(&self, findings: &mut Findings) {
        if self.mode & TOO_OPEN != 0 {
            let found = format!("a private key that others can get at (mode {:04o})", self.mode);
            findings.warnings.push(self.error(None, "", found, "mode 0600 or 0640"));
        }
    }

    /// Its lines, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn error(
        &self,
        at: impl Into<Option<Position>>,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: self.path.clone(),
            position: at.into(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}
