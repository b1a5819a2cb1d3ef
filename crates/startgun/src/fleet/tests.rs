//! The `fleet` commands, run as the command line runs them.

mod mesh;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::control::tls::{Identity, peer_identity};

/// A directory of this test alone, removed when it is dropped.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("startgun-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a scratch directory can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `startgun fleet LINE` as of `now`. Words that contain a slash, and the values of `--dir`
/// and `--out`, are paths within `scratch`.
pub(crate) fn fleet_at(scratch: &ScratchDir, line: &str, now: OffsetDateTime) -> Result<String, FleetError> {
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        fleet: FleetArgs,
    }
    let mut words = vec!["fleet".to_owned()];
    let mut is_path = false;
    for word in line.split_whitespace() {
        words.push(if is_path || word.contains('/') {
            scratch.path().join(word).display().to_string()
        } else {
            word.to_owned()
        });
        is_path = matches!(word, "--dir" | "--out" | "--csr");
    }
    let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut out = Vec::new();
    run_at(line.fleet, now, &mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

/// [`fleet_at`] the present.
pub(crate) fn fleet(scratch: &ScratchDir, line: &str) -> Result<String, FleetError> {
    fleet_at(scratch, line, OffsetDateTime::now_utc())
}

fn ok(scratch: &ScratchDir, line: &str) -> String {
    fleet(scratch, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The text of the error, with the scratch directory's path left out.
fn refused(scratch: &ScratchDir, line: &str) -> String {
    let error = fleet(scratch, line).expect_err(line);
    error.to_string().replace(&format!("{}/", scratch.path().display()), "")
}

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate")
}

fn identity(file: &Path) -> Identity {
    peer_identity(&[certificate(file)]).expect("an identity")
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).expect("metadata").permissions().mode() & 0o777
}

fn listed(scratch: &ScratchDir) -> Vec<serde_json::Value> {
    let json = ok(scratch, "list --dir fleet --json");
    serde_json::from_str(&json).expect("an array")
}

/// A file's bytes, for every file below `dir`.
fn snapshot(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("read"));
        }
    }
    found
}

#[test]
fn init_makes_a_ca_whose_key_only_the_owner_reads() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet --name north");
    let dir = scratch.path().join("fleet");
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
    let der = certificate(&dir.join("ca.crt"));
    let (_, ca) = X509Certificate::from_der(&der).expect("X.509");
    assert!(ca.is_ca());
    assert!(ca.subject().to_string().contains("north"));
    let names: Vec<_> = snapshot(&dir).into_keys().collect();
    let expected = ["ca.crt", "ca.key", "fleet.json", "revoked.crl"].map(|name| dir.join(name));
    assert_eq!(names, expected);
}

#[test]
fn init_never_overwrites() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let before = snapshot(scratch.path());
    assert_eq!(
        refused(&scratch, "init --dir fleet"),
        "fleet: found a fleet, expected a new or empty directory (nothing is overwritten)"
    );
    assert_eq!(snapshot(scratch.path()), before);

    fs::create_dir(scratch.path().join("other")).expect("made");
    fs::write(scratch.path().join("other/x"), "x").expect("written");
    assert!(refused(&scratch, "init --dir other").starts_with("other: found files"));

    fs::create_dir(scratch.path().join("empty")).expect("made");
    ok(&scratch, "init --dir empty");
}

#[test]
fn enroll_writes_what_a_host_needs() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet --name north");
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo --days 30");
    let out = scratch.path().join("tokyo");
    assert_eq!(mode(&out.join("tokyo.key")), 0o600);
    for shared in ["ca.crt", "revoked.crl"] {
        let ours = fs::read(scratch.path().join("fleet").join(shared)).expect("read");
        assert_eq!(fs::read(out.join(shared)).expect("read"), ours, "{shared}");
    }
    let found = identity(&out.join("tokyo.crt"));
    assert_eq!((found.fleet.as_str(), found.role, found.name.as_str()), ("north", Role::Agent, "tokyo"));
    let left = found.not_after_unix_s - OffsetDateTime::now_utc().unix_timestamp();
    assert!((30 * 86_400 - 60..=30 * 86_400).contains(&left), "{left} s");
    assert_eq!(listed(&scratch)[0]["serial"], found.serial.as_str());

    let der = certificate(&out.join("tokyo.crt"));
    let (_, leaf) = X509Certificate::from_der(&der).expect("X.509");
    let usage = leaf.extended_key_usage().expect("parsed").expect("there").value;
    assert!(usage.server_auth && usage.client_auth);
    assert!(!leaf.is_ca());
}

#[test]
fn bad_names_are_refused_with_the_rule() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let rule = "expected 1 to 63 of a-z, 0-9 and -, starting with a letter";
    for line in [
        "enroll Tokyo --role agent --dir fleet --out o",
        "enroll 1st --role agent --dir fleet --out o",
        "enroll a_b --role agent --dir fleet --out o",
        "request a.b --role agent --out o",
        "init --dir other --name North",
    ] {
        let error = refused(&scratch, line);
        assert!(error.contains(rule), "{line}: {error}");
    }
    let error = refused(&scratch, "enroll ca --role agent --dir fleet --out o");
    assert!(error.contains("are the CA's files"), "{error}");
    assert!(!scratch.path().join("o").exists());
    assert!(!scratch.path().join("other").exists());
}

#[test]
fn a_name_is_enrolled_once() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "enroll m1 --role master --dir fleet --out m1");
    let before = snapshot(scratch.path());
    let error = refused(&scratch, "enroll m1 --role agent --dir fleet --out elsewhere");
    assert!(error.starts_with("m1 is enrolled as master until "), "{error}");
    assert!(error.contains("startgun fleet renew m1"), "{error}");
    assert_eq!(snapshot(scratch.path()), before);
}

#[test]
fn enroll_keeps_its_hands_off_files_that_are_there() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "init --dir second");
    ok(&scratch, "enroll tokyo --role agent --dir second --out tokyo");
    let before = snapshot(scratch.path());
    assert_eq!(
        refused(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo"),
        "tokyo/tokyo.crt: found a file, expected none (nothing is overwritten); \
         choose another --out"
    );
    assert_eq!(
        refused(&scratch, "enroll paris --role agent --dir fleet --out tokyo"),
        "tokyo/ca.crt: found another fleet's CA, expected none, or this fleet's; \
         choose another --out"
    );
    assert_eq!(snapshot(scratch.path()), before);
}

#[test]
fn a_failed_enrolment_leaves_nothing() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    fs::write(scratch.path().join("file"), "no directory").expect("written");
    // The last file of an enrolment cannot be put here, when all others could.
    fs::create_dir_all(scratch.path().join("host/revoked.crl")).expect("made");
    let before = snapshot(scratch.path());
    let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out file");
    assert!(error.starts_with("file"), "{error}");
    let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out host");
    assert_eq!(error, "host/revoked.crl: found a directory, expected a file, or nothing");
    assert_eq!(snapshot(scratch.path()), before);
    assert_eq!(listed(&scratch).len(), 0);
}

#[test]
fn commands_at_the_same_time_lose_no_certificate() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let names: Vec<String> = (0..8).map(|i| format!("agent-{i}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let line = format!("enroll {name} --role agent --dir fleet --out shared");
            let scratch = &scratch;
            scope.spawn(move || ok(scratch, &line));
        }
    });
    let mut found: Vec<String> =
        listed(&scratch).iter().map(|entry| entry["name"].as_str().expect("text").to_owned()).collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn a_certificate_does_not_outlive_its_ca() {
    let scratch = ScratchDir::new();
    let start = OffsetDateTime::now_utc();
    ok(&scratch, "init --dir fleet");
    let late = start + Duration::days(3_600);
    let line = "enroll tokyo --role agent --dir fleet --out tokyo";
    let error = fleet_at(&scratch, line, late).expect_err("too long").to_string();
    assert!(error.contains("expected at most 50 days"), "{error}");
    fleet_at(&scratch, &format!("{line} --days 49"), late).expect("fits");
    let over = start + Duration::days(3_651);
    let error = fleet_at(&scratch, line, over).expect_err("expired CA").to_string();
    assert!(error.contains("found one that expired on"), "{error}");
}

#[test]
fn list_shows_name_role_serial_time_and_state() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "enroll m1 --role master --dir fleet --out m1");
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo --days 2");
    ok(&scratch, "renew tokyo --dir fleet --out tokyo --days 40");
    ok(&scratch, "enroll paris --role agent --dir fleet --out paris");
    ok(&scratch, "revoke paris --dir fleet");
    let rows: Vec<Vec<String>> = ok(&scratch, "list --dir fleet")
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()))
        .map(|cells| cells.map(str::to_owned).collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "ROLE", "SERIAL", "EXPIRES IN", "STATE"]);
    let without_serial: Vec<String> =
        rows[1..].iter().map(|row| format!("{} {} {} {}", row[0], row[1], row[3], row[4])).collect();
    assert_eq!(
        without_serial,
        ["m1 master 364 d valid", "tokyo agent 1 d superseded", "tokyo agent 39 d valid", "paris agent 364 d revoked",]
    );
    let later = OffsetDateTime::now_utc() + Duration::days(3);
    let table = fleet_at(&scratch, "list --dir fleet", later).expect("listed");
    assert!(table.lines().nth(2).expect("tokyo").ends_with("-           expired"), "{table}");
    let json = listed(&scratch);
    assert_eq!(json[3]["state"], "revoked");
    assert_eq!(json[3]["role"], "agent");
    assert!(json[3]["revoked_at"].is_string());
}

#[test]
fn renew_gives_a_new_key_and_serial_in_the_same_role() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "enroll m1 --role master --dir fleet --out m1");
    let out = scratch.path().join("m1");
    let old = identity(&out.join("m1.crt"));
    let old_key = fs::read(out.join("m1.key")).expect("read");
    ok(&scratch, "renew m1 --dir fleet --out m1");
    let new = identity(&out.join("m1.crt"));
    assert_ne!(new.serial, old.serial);
    assert_ne!(fs::read(out.join("m1.key")).expect("read"), old_key);
    assert_eq!((new.role, new.name), (Role::Master, "m1".to_owned()));
    assert!(refused(&scratch, "renew nobody --dir fleet").contains("found no such name"));
    ok(&scratch, "revoke m1 --dir fleet");
    assert!(refused(&scratch, "renew m1 --dir fleet --out m1").contains("found its certificate revoked"));
}

#[test]
fn revoke_lists_every_serial_of_the_name_and_can_be_repeated() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    ok(&scratch, "renew tokyo --dir fleet --out tokyo");
    ok(&scratch, "enroll paris --role agent --dir fleet --out paris");
    assert_eq!(revoked_serials(&scratch), Vec::<String>::new());
    let said = ok(&scratch, "revoke tokyo --dir fleet");
    assert!(said.starts_with("revoked 2 certificates of tokyo"), "{said}");
    let mut expected: Vec<String> =
        listed(&scratch)[..2].iter().map(|entry| entry["serial"].as_str().expect("text").to_owned()).collect();
    expected.sort();
    assert_eq!(revoked_serials(&scratch), expected);
    assert!(ok(&scratch, "revoke tokyo --dir fleet").starts_with("tokyo was revoked before"));
    assert_eq!(revoked_serials(&scratch), expected);
    assert!(refused(&scratch, "revoke nobody --dir fleet").contains("found no such name"));
    // The name may come back, with a certificate that is not on the list.
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out again");
    let back = identity(&scratch.path().join("again/tokyo.crt"));
    assert!(!revoked_serials(&scratch).contains(&back.serial));
}

fn revoked_serials(scratch: &ScratchDir) -> Vec<String> {
    use rustls::pki_types::CertificateRevocationListDer;
    let file = scratch.path().join("fleet/revoked.crl");
    let der = CertificateRevocationListDer::from_pem_file(file).expect("a list");
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&der).expect("parsed");
    let mut serials: Vec<String> = list
        .iter_revoked_certificates()
        .map(|revoked| crate::control::tls::hexadecimal(revoked.raw_serial()))
        .collect();
    serials.sort();
    serials
}

#[test]
fn a_request_is_signed_without_its_key_leaving_the_host() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "request tokyo --role agent --out host");
    let host = scratch.path().join("host");
    assert_eq!(mode(&host.join("tokyo.key")), 0o600);
    assert!(refused(&scratch, "request tokyo --role agent --out host").contains("found a file"));
    let request = "--csr host/tokyo.csr";
    let error = refused(&scratch, &format!("enroll tokyo --role master --dir fleet {request}"));
    assert!(error.ends_with("found one for the agent tokyo, expected a signing request (PEM) for the master tokyo"));
    ok(&scratch, &format!("enroll tokyo --role agent --dir fleet --out signed {request}"));
    let signed = scratch.path().join("signed");
    assert!(!signed.join("tokyo.key").exists());
    let der = certificate(&signed.join("tokyo.crt"));
    let (_, leaf) = X509Certificate::from_der(&der).expect("X.509");
    let key = fs::read_to_string(host.join("tokyo.key")).expect("read");
    let key = rcgen::KeyPair::from_pem(&key).expect("a key");
    use rcgen::PublicKeyData;
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    assert_eq!(identity(&signed.join("tokyo.crt")).fleet, "fleet");
    // The same request renews: same key, new serial.
    ok(&scratch, &format!("renew tokyo --dir fleet --out signed {request}"));
    assert_eq!(listed(&scratch).len(), 2);
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "request tokyo --role agent --out host");
    let file = scratch.path().join("host/tokyo.csr");
    let mut der = rustls::pki_types::CertificateSigningRequestDer::from_pem_file(&file).expect("a request").to_vec();
    let at = der.windows(b"/agent/tokyo".len()).position(|window| window == b"/agent/tokyo").expect("the URI");
    der[at + 7..at + 12].copy_from_slice(b"kyoto");
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    fs::write(&file, pem).expect("written");
    let line = "enroll kyoto --role agent --dir fleet --out kyoto --csr host/tokyo.csr";
    let error = refused(&scratch, line);
    assert!(error.contains("found a request that its own key did not sign"), "{error}");
    fs::write(&file, "nonsense").expect("written");
    assert!(refused(&scratch, line).contains("expected a signing request (PEM)"));
    assert!(!scratch.path().join("kyoto").exists());
}

#[test]
fn commands_without_a_fleet_say_where_to_begin() {
    let scratch = ScratchDir::new();
    let expected = "fleet: found no fleet, expected the directory that `startgun fleet init` \
                    made (--dir)";
    for line in [
        "list --dir fleet",
        "enroll tokyo --role agent --dir fleet --out tokyo",
        "renew tokyo --dir fleet",
        "revoke tokyo --dir fleet",
    ] {
        assert_eq!(refused(&scratch, line), expected, "{line}");
    }
}

#[test]
fn a_damaged_index_stops_every_command() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let file = scratch.path().join("fleet/fleet.json");
    let text = fs::read_to_string(&file).expect("read");
    for damage in [
        text.replace("\"fleet\":", "\"fleets\":"),
        text[..text.len() / 2].to_owned(),
        text.replace("[]", r#"[{"serial":"xyz0","name":"a","role":"agent","not_after":"2030-01-01T00:00:00Z"}]"#),
        text.replace("[]", r#"[{"serial":"00","name":"a","role":"owner","not_after":"2030-01-01T00:00:00Z"}]"#),
    ] {
        fs::write(&file, &damage).expect("written");
        let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
        assert!(error.starts_with("fleet/fleet.json: found "), "{error}");
    }
}

#[test]
fn a_ca_key_of_another_fleet_is_noticed() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "init --dir second");
    fs::copy(scratch.path().join("second/ca.key"), scratch.path().join("fleet/ca.key")).expect("copied");
    let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    assert!(error.starts_with("fleet/ca.crt: found the certificate of another key"), "{error}");
}

#[test]
fn enroll_writes_agents_that_can_start() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    // Without --out the files go below the working directory, which is shared by all tests: one name, then, and --out.
    let options = "--role agent --dir fleet --master m1=198.51.100.1:8530 --service 203.0.113.53:53";
    ok(&scratch, &format!("enroll tokyo {options} --out tokyo"));
    let loaded = crate::config::load_agent(&scratch.path().join("tokyo/agent.toml")).expect("a good file");
    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    assert_eq!((loaded.config.host.name.as_str(), loaded.config.site.as_str()), ("tokyo", "tokyo"));
    let checked = crate::config::check(&scratch.path().join("tokyo/agent.toml")).expect("a good file");
    assert_eq!(checked.to_string(), "agent tokyo of site tokyo, masters: m1");
    let master = &loaded.config.masters[0];
    assert_eq!((master.name.as_str(), master.control.to_string().as_str()), ("m1", "198.51.100.1:8530"));
    assert_eq!(master.service_addresses, ["203.0.113.53:53".parse().expect("an address")]);

    fs::create_dir(scratch.path().join("paris")).expect("made");
    fs::write(scratch.path().join("paris/agent.toml"), "mine").expect("written");
    let error = refused(&scratch, &format!("enroll paris {options} --out paris"));
    assert!(error.starts_with("paris/agent.toml: found a file"), "{error}");
    let error = refused(&scratch, &format!("enroll paris oslo {options} --out elsewhere"));
    assert!(error.contains("found 2 names"), "{error}");
    let error = refused(&scratch, &format!("enroll m1 {} --out m1", options.replace("agent", "master")));
    assert!(error.contains("expected --role agent"), "{error}");
}
