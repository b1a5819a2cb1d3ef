//! Files that operators write.

use domain::base::Rtype;
use domain::base::iana::Class;
use startgun_core::dns::{CanonicalName, Query, Verdict};
use startgun_core::master::Service;
use startgun_lab::scenario::Scenario;
use std::path::{Path, PathBuf};

/// Names and types asked of a zone that was read.
const QUESTIONS: usize = 32;

/// What stands before the zone: it is read by its own configuration, from a file beside it.
const MASTER: &str = r#"
role = "master"
name = "m1"
control_listen = "198.51.100.1:8530"
fast_path_listen = "198.51.100.1:8531"
state_dir = "."
status_socket = "master.sock"
fleet = { ca = "ca.crt", certificate = "m1.crt", key = "m1.key" }
service = [{ address = "203.0.113.53:53" }]
zone = [{ name = "example.org.", file = "zone" }]
"#;

/// A directory of this thread's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let thread = std::thread::current().id();
        let name = format!("startgun-fuzz-{}-{thread:?}", std::process::id()).replace(['(', ')'], "");
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a scratch directory");
        std::fs::write(directory.join("master.toml"), MASTER).expect("written");
        Scratch(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is empty but for two files, and below the directory for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file that names files of the host's own would block (a terminal) or never end (a device).
fn names_a_device(bytes: &[u8]) -> bool {
    let names = [b"/dev".as_slice(), b"/proc", b"/sys", b"\\u00"];
    names.iter().any(|name| bytes.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name)))
}

/// A zone file. Either it has faults, each at a place within it; or it is served, and answers about its own names.
///
/// # Panics
/// Where neither is so.
pub fn zone_file(bytes: &[u8]) {
    thread_local! {
        static SCRATCH: Scratch = Scratch::new();
    }
    if names_a_device(bytes) {
        return;
    }
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    let loaded = SCRATCH.with(|scratch| {
        std::fs::write(scratch.0.join("zone"), bytes).expect("written");
        startgun::config::load_master(&scratch.0.join("master.toml"))
    });
    match loaded {
        Ok(loaded) => {
            let service = loaded.config.service;
            let records = service.zones.zones().iter().flat_map(|zone| zone.records()).take(QUESTIONS);
            records.for_each(|record| ask(&service, &record.owner, record.rtype));
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            for fault in faults.iter().filter(|fault| fault.file.ends_with("zone")) {
                let position = fault.position.expect("a place");
                assert!((1..=lines).contains(&position.line), "{fault}: the file has {lines} lines");
            }
            faults.iter().for_each(|fault| assert!(!fault.to_string().is_empty()));
        }
    }
}

/// Asks about a name as an ordinary client does, by UDP and TCP, with DNSSEC.
fn ask(service: &Service, owner: &CanonicalName, rtype: Rtype) {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    packet.extend_from_slice(owner.as_bytes());
    packet.extend_from_slice(&rtype.to_int().to_be_bytes());
    packet.extend_from_slice(&Class::IN.to_int().to_be_bytes());
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    let Verdict::Query(query) = Query::parse(&packet) else { panic!("a query about {owner} {rtype}") };
    let over_tcp = super::dns::over_tcp(service, &packet).expect("an answer");
    super::answers::check(&query, &over_tcp, usize::from(u16::MAX));
    super::dns::over_udp(service, &query);
}

/// A scenario of the demo: refused, or one that can be drawn and judged.
///
/// # Panics
/// Where neither is so.
pub fn scenario(bytes: &[u8]) {
    let Some(text) = core::str::from_utf8(bytes).ok().filter(|_| !names_a_device(bytes)) else { return };
    match Scenario::parse(text, Path::new("fuzz/scenario.toml")) {
        Ok(scenario) => {
            assert_eq!(scenario.truth().len(), scenario.clients.len());
            assert_eq!(scenario.clock_draws(7).agents.len(), scenario.agents.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A configuration, of a master or an agent: refused for reasons, or summed up.
///
/// # Panics
/// Where neither is so.
pub fn configuration(bytes: &[u8]) {
    let Some(text) = core::str::from_utf8(bytes).ok().filter(|_| !names_a_device(bytes)) else { return };
    // Relative paths lead to the service's zones and keys.
    let path = super::service::directory().join("service/fuzzed.toml");
    match startgun::config::check_text(&path, text, false) {
        Ok(summary) => assert!(!summary.to_string().is_empty()),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let lines = text.matches('\n').count() + 1;
            for fault in faults.iter().filter(|fault| fault.file == path) {
                assert!(fault.position.is_none_or(|position| position.line <= lines), "{fault}: {lines} lines");
                assert!(!fault.to_string().is_empty());
            }
        }
    }
}
