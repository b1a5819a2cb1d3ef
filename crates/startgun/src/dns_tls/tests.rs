//! Certificates as they are found, good and bad.

use super::*;
use crate::fleet::test_support::ScratchDir;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::fs;
use std::path::Path;

/// A certificate for `ns.example` that signs itself, and its key.
fn pair(adapt: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["ns.example".into()]).expect("a name");
    adapt(&mut params);
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn files(directory: &Path) -> DnsTlsFiles {
    DnsTlsFiles { certificate: directory.join("tls.crt"), key: directory.join("tls.key") }
}

fn write(files: &DnsTlsFiles, (certificate, key): (&str, &str)) {
    fs::write(&files.certificate, certificate).expect("written");
    fs::write(&files.key, key).expect("written");
}

/// What is said of a pair, with the scratch directory left out.
fn said(certificate: &str, key: &str) -> String {
    let scratch = ScratchDir::new();
    let files = files(scratch.path());
    write(&files, (certificate, key));
    let error = DnsTls::load(&files).expect_err("refused").to_string();
    error.replace(&format!("{}/", scratch.path().display()), "")
}

#[test]
fn what_does_not_fit_is_refused_with_the_file_at_fault() {
    let (certificate, key) = pair(|_| {});
    let other_key = pair(|_| {}).1;
    assert_eq!(
        said(&certificate, &other_key).replace("tls.crt", "CRT"),
        "tls.key: found another certificate's key, expected the private key of CRT"
    );
    assert_eq!(
        said(&certificate, "nothing"),
        "tls.key: found none in it, expected a private key in PEM form (-----BEGIN PRIVATE KEY-----)"
    );
    assert_eq!(
        said("nothing", &key),
        "tls.crt: found 0 certificates (at most 16 are read), expected certificates in PEM form (-----BEGIN CERTIFICATE-----)"
    );
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(said(garbage, &key).starts_with("tls.crt: found "), "{}", said(garbage, &key));
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(said(&certificate, no_key).ends_with("expected an RSA, ECDSA or Ed25519 private key"));
    let scratch = ScratchDir::new();
    let error = DnsTls::load(&files(scratch.path())).expect_err("refused").to_string();
    assert!(error.contains("tls.crt: cannot be read: No such file"), "{error}");
}

#[test]
fn expired_certificates_are_served_and_doubted() {
    let scratch = ScratchDir::new();
    let files = files(scratch.path());
    let load = |from: i32, to: i32| {
        let (certificate, key) = pair(|params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 2, 3);
        });
        write(&files, (&certificate, &key));
        DnsTls::load(&files).expect("loaded").validity()
    };
    assert_eq!(load(2001, 2002).doubt().as_deref(), Some("a certificate that expired on 2002-02-03"));
    let early = load(2999, 3000).doubt();
    assert_eq!(early.as_deref(), Some("a certificate that is not valid before 2999-01-01"));
    let validity = load(2001, 3000);
    assert_eq!(validity.doubt(), None);
    assert_eq!(validity.doubt_at(validity.not_after_unix_s), None, "the last second is included");
    assert!(validity.doubt_at(validity.not_after_unix_s + 1).is_some());
    assert_eq!(validity.doubt_at(validity.not_before_unix_s), None);
    assert!(validity.doubt_at(validity.not_before_unix_s - 1).is_some());
}

#[test]
fn a_new_pair_is_taken_over_whole_or_not_at_all() {
    let scratch = ScratchDir::new();
    let files = files(scratch.path());
    let (certificate, key) = pair(|params| params.not_after = date_time_ymd(3000, 1, 1));
    write(&files, (&certificate, &key));
    let tls = DnsTls::load(&files).expect("loaded");
    let first = tls.config();
    assert!(matches!(tls.reload_if_changed(), Ok(false)));
    assert!(Arc::ptr_eq(&first, &tls.config()));

    let (certificate, key) = pair(|params| params.not_after = date_time_ymd(3001, 1, 1));
    // As certbot does it: one file after the other, each by a rename.
    let replace = |file: &Path, text: &str| {
        let staged = file.with_extension("new");
        fs::write(&staged, text).expect("written");
        fs::rename(&staged, file).expect("renamed");
    };
    replace(&files.certificate, &certificate);
    for _ in 0..2 {
        let error = tls.reload_if_changed().expect_err("half of it").to_string();
        assert!(error.contains("another certificate's key"), "{error}");
    }
    assert!(tls.reload().is_err());
    assert!(Arc::ptr_eq(&first, &tls.config()), "the earlier one stays in force");
    assert_eq!(date(tls.validity().not_after_unix_s), "3000-01-01");
    replace(&files.key, &key);
    assert!(matches!(tls.reload_if_changed(), Ok(true)));
    assert!(!Arc::ptr_eq(&first, &tls.config()));
    assert_eq!(date(tls.validity().not_after_unix_s), "3001-01-01");
    assert!(matches!(tls.reload_if_changed(), Ok(false)));

    fs::remove_file(&files.key).expect("removed");
    assert!(tls.reload_if_changed().is_err());
    assert_eq!(date(tls.validity().not_after_unix_s), "3001-01-01");
}
