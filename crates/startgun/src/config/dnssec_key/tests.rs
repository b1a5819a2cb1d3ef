//! Key pairs of both programs are read; halves, names and times that do not fit together are told in their place.
//!
//! The RSA pairs in `samples` were made with dnssec-keygen and ldns-keygen for these tests; the others are of RFC 6605
//! and 8080.

mod zones;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ring::rand::SystemRandom;
use time::Duration;

use super::*;
use crate::fleet::test_support::ScratchDir;

/// RFC 6605 section 6.1.
const P256: (&str, &str, &str) = (
    "Kexample.net.+013+55648",
    "example.net. 3600 IN DNSKEY 257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edb \
     krSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==\n",
    "Private-key-format: v1.2\n\
     Algorithm: 13 (ECDSAP256SHA256)\n\
     PrivateKey: GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=\n",
);

/// RFC 8080 section 6.1.
const ED25519: (&str, &str, &str) = (
    "Kexample.com.+015+03613",
    "example.com. IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=\n",
    "Private-key-format: v1.2\n\
     Algorithm: 15 (ED25519)\n\
     PrivateKey: ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI=\n",
);

/// By dnssec-keygen, with a time to live, times, and an owner in mixed case.
const BIND_RSA: (&str, &str, &str) = (
    "Kexample.org.+008+20915",
    include_str!("samples/Kexample.org.+008+20915.key"),
    include_str!("samples/Kexample.org.+008+20915.private"),
);

/// By ldns-keygen.
const LDNS_RSA: (&str, &str, &str) = (
    "Kexample.org.+010+06620",
    include_str!("samples/Kexample.org.+010+06620.key"),
    include_str!("samples/Kexample.org.+010+06620.private"),
);

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

/// 26 November 2026.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_651_200).expect("a time")
}

/// Reads the pair of a zone that a file in `scratch` names; paths in faults and warnings are within it.
fn read_in(scratch: &ScratchDir, file: &str, zone: &str) -> Result<(ZoneKey, Vec<String>), Vec<String>> {
    let shown = |errors: Vec<ConfigError>| -> Vec<String> {
        let dir = format!("{}/", scratch.path().display());
        errors.iter().map(|error| error.to_string().replace(&dir, "")).collect()
    };
    match read_zone_key(&scratch.path().join(file), &name(zone), now(), &SystemRandom::new()) {
        Ok(Loaded { config, warnings }) => Ok((config, shown(warnings))),
        Err(faults) => Err(shown(faults)),
    }
}

fn write_pair(scratch: &ScratchDir, (stem, public, private): (&str, &str, &str)) {
    fs::write(scratch.path().join(format!("{stem}.key")), public).expect("written");
    let private_file = scratch.path().join(format!("{stem}.private"));
    fs::write(&private_file, private).expect("written");
    fs::set_permissions(private_file, fs::Permissions::from_mode(0o600)).expect("set");
}

/// The faults of a pair, read for `zone`.
fn faults(pair: (&str, &str, &str), zone: &str) -> Vec<String> {
    let scratch = ScratchDir::new();
    write_pair(&scratch, pair);
    read_in(&scratch, pair.0, zone).expect_err("faults")
}

/// The faults of the RFC's pair with one text put in place of another in its public half.
fn public_faults(from: &str, to: &str) -> Vec<String> {
    assert!(P256.1.contains(from), "{from}");
    faults((P256.0, &P256.1.replace(from, to), P256.2), "example.net")
}

/// The same with its private half.
fn private_faults(from: &str, to: &str) -> Vec<String> {
    assert!(P256.2.contains(from), "{from}");
    faults((P256.0, P256.1, &P256.2.replace(from, to)), "example.net")
}

#[test]
fn a_pair_is_read_from_the_name_of_either_file_or_of_both() {
    let scratch = ScratchDir::new();
    for (pair, zone, algorithm, tag, flags) in [
        (P256, "example.net", 13, 55_648, 257),
        (ED25519, "EXAMPLE.com.", 15, 3_613, 257),
        (BIND_RSA, "example.org", 8, 20_915, 257),
        (LDNS_RSA, "example.org", 10, 6_620, 256),
    ] {
        write_pair(&scratch, pair);
        for end in ["", ".key", ".private"] {
            let (read, warnings) = read_in(&scratch, &format!("{}{end}", pair.0), zone).expect("a key");
            let key = &read.key;
            assert_eq!((key.algorithm().number(), key.tag(), key.flags()), (algorithm, tag, flags));
            assert_eq!(read.private_file, scratch.path().join(format!("{}.private", pair.0)));
            assert_eq!(warnings, [""; 0]);
        }
    }
}

#[test]
fn times_are_read_where_there_are_any() {
    let scratch = ScratchDir::new();
    write_pair(&scratch, BIND_RSA);
    write_pair(&scratch, LDNS_RSA);
    let times = |stem| read_in(&scratch, stem, "example.org").expect("a key").0.times;
    let shown = |time: Option<OffsetDateTime>| time.map(|time| time.to_string());
    let found = times(BIND_RSA.0);
    assert_eq!(shown(found.activate), Some("2020-01-02 0:00:00.0 +00:00:00".into()));
    assert_eq!(shown(found.inactive), Some("2037-01-01 0:00:00.0 +00:00:00".into()));
    assert_eq!(shown(found.delete), Some("2037-02-01 12:34:56.0 +00:00:00".into()));
    assert_eq!(found.revoke, None);
    assert_eq!(times(LDNS_RSA.0), KeyTimes::default());
}

#[test]
fn file_names_that_are_none_of_a_pair_are_refused() {
    let scratch = ScratchDir::new();
    for file in ["example.net.key", "K+013+55648", "Kexample.net.+13+55648", "Kexample.net.+013+5564x", "Kexample.net."]
    {
        let expected = format!("{file}: found a file of the name {file:?}, expected {PAIR_NAME}");
        assert_eq!(read_in(&scratch, file, "example.net").expect_err("no pair"), [expected]);
    }
    // Digits that make no algorithm, and none that make a tag.
    assert_eq!(numbers_of("Kexample.net.+256+55648"), None);
    assert_eq!(numbers_of("Kexample.net.+013+65536"), None);
    assert_eq!(numbers_of("Ka+b.+013+55648"), Some((13, 55_648)));
}

#[test]
fn a_missing_half_is_told_by_its_name() {
    let scratch = ScratchDir::new();
    let of = |end| {
        format!(
            "Kexample.net.+013+55648{end}: found no way to read it (No such file or directory (os error 2)), expected \
             a readable text file of at most 16384 bytes"
        )
    };
    assert_eq!(read_in(&scratch, P256.0, "example.net").expect_err("none"), [of(".key"), of(".private")]);
    write_pair(&scratch, P256);
    fs::remove_file(scratch.path().join("Kexample.net.+013+55648.key")).expect("removed");
    assert_eq!(read_in(&scratch, P256.0, "example.net").expect_err("one"), [of(".key")]);
    let long = "; \n".repeat(10_000);
    let faults = faults((P256.0, &long, P256.2), "example.net");
    assert!(faults[0].contains("found a longer file"), "{faults:?}");
}

#[test]
fn a_key_of_another_zone_is_refused() {
    let expected = "Kexample.net.+013+55648.key:1:1: found a key of example.net., expected one of zone example.org.";
    assert_eq!(faults(P256, "example.org"), [expected]);
}

#[test]
fn faults_of_a_public_half_are_told_in_their_place() {
    let file = "Kexample.net.+013+55648.key";
    let record = "expected a DNSKEY record on one line: owner, IN, DNSKEY, flags, protocol, algorithm, key in base64";
    for (from, to, expected) in [
        ("DNSKEY", "KEY", ":1:22: found a record of type KEY, expected DNSKEY".into()),
        ("3600 IN DNSKEY 257 3 13", "; 3600", format!(":1:1: found an owner alone, {record}")),
        (" 257 3 13", " 257 3 ;", format!(":1:22: DNSKEY: found an incomplete record, {record}")),
        ("257", "x257", ":1:29: found \"x257\", expected flags, a number from 0 to 65535".into()),
        ("3 13", "256 13", ":1:33: found \"256\", expected the protocol, a number from 0 to 255".into()),
        ("257", "1", ":1:1: DNSKEY: found flags 1, expected 256 or 257, those of a zone's key".into()),
        ("257", "385", ":1:1: DNSKEY: found a key that is revoked (flags 385), expected 256 or 257".into()),
        ("3 13", "2 13", ":1:1: DNSKEY: found protocol 2, expected 3".into()),
        ("Goj", "G*j", ":1:38: DNSKEY: found a key that is not in base64, expected a key in base64".into()),
        ("GojI", "", ":1:1: DNSKEY: found 61 bytes of key, expected a key in the form of its algorithm".into()),
        ("\n", "\n ;\n\nb", ":4:1: found a second line, expected one record, on one line".into()),
    ] {
        assert_eq!(public_faults(from, to), [format!("{file}{expected}")]);
    }
    let empty = faults((P256.0, "; nothing\n", P256.2), "example.net");
    assert_eq!(empty, [format!("{file}: found no record, {record}")]);
    let short = P256.1.split(" GojI").next().expect("a start");
    let without_key = faults((P256.0, short, P256.2), "example.net");
    assert_eq!(without_key, [format!("{file}:1:1: DNSKEY: found a record without key, expected a key in base64")]);
}

#[test]
fn faults_of_a_private_half_are_told_in_their_place() {
    let file = "Kexample.net.+013+55648.private";
    let base64 = "expected base64, for a key of algorithm 13 (ECDSAP256SHA256)";
    let known = "a field that dnssec-keygen or ldns-keygen writes";
    for (from, to, expected) in [
        ("v1.2", "v1.4", ":1:21: Private-key-format: found \"v1.4\", expected v1.2 or v1.3".into()),
        ("Private-key-format: v1.2\n", "", ": Private-key-format: found nothing, expected v1.2 or v1.3".into()),
        ("PrivateKey:", "Privatekey:", ":3:1: Privatekey: found an unknown field, expected PrivateKey".into()),
        ("PrivateKey:", "X: 1\nPrivateKey:", format!(":3:1: X: found an unknown field, expected {known}")),
        (
            "PrivateKey:",
            "Algorithm: 13\nPrivateKey:",
            ":3:1: Algorithm: found the field for the second time, expected each once".into(),
        ),
        ("PrivateKey:", "PrivateKey", ":3:1: found a line without colon, expected a field, Name: value".into()),
        ("PrivateKey: GU", "PrivateKey: G*", format!(":3:13: PrivateKey: found something else, {base64}")),
        ("PrivateKey:", "Created:", format!(": PrivateKey: found nothing, {base64}")),
        (
            "PrivateKey: GU6S",
            "PrivateKey: GU6SGU6S",
            ": found a private key of another length, expected one of algorithm 13 (ECDSAP256SHA256)".into(),
        ),
        (
            "PrivateKey:",
            "Engine: cGtjczExAA==\nPrivateKey:",
            ":3:1: Engine: found a key that lies in a hardware module, expected a private key in this file".into(),
        ),
        (
            "13 (ECDSAP256SHA256)",
            "(ECDSAP256SHA256)",
            ":2:12: Algorithm: found \"(ECDSAP256SHA256)\", expected the number of an algorithm, such as 13 \
             (ECDSAP256SHA256)"
                .into(),
        ),
        (
            "13 (ECDSAP256SHA256)",
            "5 (RSASHA1)",
            ":2:12: Algorithm: found algorithm 5 (RSASHA1), expected 13 (ECDSAP256SHA256), as in \
             Kexample.net.+013+55648.key"
                .into(),
        ),
        (
            "PrivateKey:",
            "Activate: 20261301000000\nPrivateKey:",
            ":3:11: Activate: found \"20261301000000\", expected a time of UTC in the form YYYYMMDDHHMMSS".into(),
        ),
    ] {
        assert_eq!(private_faults(from, to), [format!("{file}{expected}")]);
    }
    let long = format!("{}{}", P256.2, "\n".repeat(LINES) + "Created: 20200101000000\n");
    let faults = faults((P256.0, P256.1, &long), "example.net");
    assert_eq!(faults, [format!("{file}:65:1: found another line, expected at most 64")]);
}

/// Blank lines that put the next line beyond the most.
const LINES: usize = 61;

#[test]
fn every_missing_number_of_an_rsa_key_is_told() {
    let private = BIND_RSA.2.replace("Prime1:", "Created:").replace("Coefficient:", "Publish:");
    let without_times: Vec<&str> =
        private.lines().filter(|line| !line.starts_with("Created: 20") && !line.starts_with("Publish: 20")).collect();
    let faults = faults((BIND_RSA.0, BIND_RSA.1, &without_times.join("\n")), "example.org");
    let expected = ["Prime1", "Coefficient"].map(|field| {
        format!("{}.private: {field}: found nothing, expected base64, for a key of algorithm 8 (RSASHA256)", BIND_RSA.0)
    });
    assert_eq!(faults, expected);
}

#[test]
fn algorithms_that_cannot_be_used_are_refused_with_those_that_can() {
    let public = P256.1.replace("3 13", "3 5");
    let private = P256.2.replace("13 (ECDSAP256SHA256)", "5 (RSASHA1)");
    let expected = "Kexample.net.+005+55648.key:1:1: DNSKEY: found algorithm 5 (RSASHA1), expected one of 8 \
                    (RSASHA256), 10 (RSASHA512), 13 (ECDSAP256SHA256), 14 (ECDSAP384SHA384), 15 (ED25519)";
    assert_eq!(faults(("Kexample.net.+005+55648", &public, &private), "example.net"), [expected]);
}

#[test]
fn rsa_keys_that_are_too_short_are_refused_with_the_lengths_that_do() {
    // RFC 5702 section 6.1: 512 bits. The private half is not looked at for long.
    let public = "example.net. 3600 IN DNSKEY 256 3 8 AwEAAcFcGsaxxdgiuuGmCkVImy4h99CqT7jwY3pexPGcnUFtR2Fh36BponcwtkZ4\
                  cAgtvd4Qs8PkxUdp6p/DlUmObdk= ;{id = 9033 (zsk), size = 512b}";
    let expected = "Kexample.net.+008+09033.key:1:1: DNSKEY: found 512 bits of RSA, expected 2048, 3072 or 4096";
    assert_eq!(faults(("Kexample.net.+008+09033", public, BIND_RSA.2), "example.net"), [expected]);
}

#[test]
fn halves_and_names_that_do_not_belong_together_are_told() {
    let renamed = ("Kexample.net.+014+55649", P256.1, P256.2);
    let expected = [
        "Kexample.net.+014+55649.key:1:1: DNSKEY: found algorithm 13 (ECDSAP256SHA256), expected 14, as in its name",
        "Kexample.net.+014+55649.key:1:1: DNSKEY: found a key with tag 55648, expected 55649, as in its name",
    ];
    assert_eq!(faults(renamed, "example.net"), expected);
    let expected = "Kexample.net.+013+55648.private: found a private key that is another's, or damaged, expected the \
                    other half of Kexample.net.+013+55648.key";
    assert_eq!(private_faults("GU6S", "GU6T"), [expected]);
    let damaged = BIND_RSA.2.replacen("Exponent1: ", "Exponent1: AAAA", 1);
    let damaged = damaged.replacen("Exponent2: ", "Exponent2: AAAB", 1);
    let faults = faults((BIND_RSA.0, BIND_RSA.1, &damaged), "example.org");
    assert!(faults[0].contains("another's, or damaged"), "{faults:?}");
}

#[test]
fn no_error_repeats_a_secret() {
    let secret = "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=";
    for faulty in [
        format!("Private-key-format: v1.2\nAlgorithm: 13\n{secret}\n"),
        format!("Private-key-format: v1.2\nAlgorithm: 13\nPrivateKey: *{secret}\n"),
        format!("Private-key-format: v1.2\nAlgorithm: 13\nPrivateKey: BBBB{secret}\n"),
        format!("Private-key-format: v1.2\nAlgorithm: 13\nPrivateKey: {secret}\nPrivateKey: {secret}\n"),
    ] {
        let faults = faults((P256.0, P256.1, &faulty), "example.net");
        assert!(faults.iter().all(|fault| !fault.contains("nQ/Ou+xC5RumuIUI")), "{faults:?}");
    }
}

fn with_times(times: &[(&str, Duration)]) -> String {
    let shown = |time: OffsetDateTime| {
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", time.hour(), time.minute(), time.second())
    };
    let fields = times.iter().map(|(field, after)| format!("{field}: {}\n", shown(now() + *after)));
    P256.2.replace("v1.2", "v1.3") + &fields.collect::<String>()
}

#[test]
fn a_key_whose_time_is_over_is_refused_with_the_time() {
    let (hour, second) = (Duration::HOUR, Duration::SECOND);
    for (field, state) in [("Revoke", "revoked"), ("Inactive", "inactive"), ("Delete", "deleted")] {
        for (after, shown) in [(Duration::ZERO, "2026-11-26T00:00:00Z"), (-second, "2026-11-25T23:59:59Z")] {
            let private = with_times(&[("Activate", -hour), (field, after)]);
            let column = field.len() + 3;
            let expected = format!(
                "Kexample.net.+013+55648.private:5:{column}: {field}: found a key that is {state} since {shown}, \
                 expected a key that may sign"
            );
            assert_eq!(faults((P256.0, P256.1, &private), "example.net"), [expected]);
        }
    }
    let scratch = ScratchDir::new();
    let ends = with_times(&[("Activate", Duration::ZERO), ("Inactive", second), ("Delete", hour)]);
    write_pair(&scratch, (P256.0, P256.1, &ends));
    let (key, warnings) = read_in(&scratch, P256.0, "example.net").expect("a key");
    assert_eq!((key.times.inactive, warnings), (Some(now() + second), vec![]));
}

#[test]
fn a_key_that_is_not_active_yet_is_taken_with_a_warning() {
    let scratch = ScratchDir::new();
    write_pair(&scratch, (P256.0, P256.1, &with_times(&[("Activate", Duration::SECOND)])));
    let (_, warnings) = read_in(&scratch, P256.0, "example.net").expect("a key");
    let expected = "Kexample.net.+013+55648.private:4:11: Activate: found a key that is active from \
                    2026-11-26T00:00:01Z on, expected an active one: it signs already, so its DNSKEY record must be in the zone";
    assert_eq!(warnings, [expected]);
}

#[test]
fn a_private_half_that_others_can_get_at_is_taken_with_a_warning() {
    let scratch = ScratchDir::new();
    write_pair(&scratch, P256);
    let file = scratch.path().join("Kexample.net.+013+55648.private");
    for (mode, is_open) in [(0o600, false), (0o400, false), (0o640, false), (0o644, true), (0o660, true), (0o602, true)]
    {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
        let (_, warnings) = read_in(&scratch, P256.0, "example.net").expect("a key");
        let warning = format!(
            "Kexample.net.+013+55648.private: found a private key that others can get at (mode {mode:04o}), expected \
             mode 0600 or 0640"
        );
        assert_eq!(warnings, if is_open { vec![warning] } else { vec![] });
    }
}
