//! Sample files load; faulty ones are refused, each with exactly these words.

use std::fmt::Write as _;
use std::fs;

use domain::base::Rtype;
use startgun_core::dns::{CanonicalName, Lookup};
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;

use super::*;


const MASTER: &str = r#"role = "master"
name = "m1"
control_listen = "198.51.100.1:8530"
fast_path_listen = "198.51.100.1:8531"

[fleet]
ca = "ca.crt"
certificate = "m1.crt"
key = "m1.key"

[[service]]
address = "203.0.113.53:53"

[[zone]]
name = "example.org."
records = """
@ SOA ns hostmaster 1 7200 900 1209600 60
@ NS ns
ns A 203.0.113.53
mail A 192.0.2.25
child NS ns.child
ns.child A 192.0.2.9
"""

[[race]]
name = "www.example.org."
cover = 0.9

[race.fallback]
a = ["192.0.2.1"]

[race.sites.tokyo]
a = ["192.0.2.10"]
"#;

const AGENT: &str = r#"role = "agent"
name = "tokyo"

[fleet]
ca = "ca.crt"
certificate = "tokyo.crt"
key = "tokyo.key"

[limits]
departures_per_s = 1000

[clock]
max_bound_ms = 100

[[master]]
name = "m1"
control = "198.51.100.1:8530"
service_addresses = ["203.0.113.53:53"]
"#;

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples").join(name)
}

/// What `check` says about a text, without looking for the files that it names.
fn said(text: &str) -> String {
    match check_text(Path::new("f.toml"), text, false) {
        Ok(summary) => summary.to_string(),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// Applies each case's replacement to the sound text and compares all that is said.
fn assert_said(sound: &str, cases: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (from, to, expected) in cases {
        assert_eq!(sound.matches(from).count(), 1, "{from:?} must be in the sound text once");
        let found = said(&sound.replace(from, to));
        if found != *expected {
            let _ = write!(wrong, "\n{from:?} → {to:?}\n--- expected\n{expected}\n--- found\n{found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn faulty_masters_are_refused_in_these_words() {
    let cases = [
("role = \"master\"","","?"),
("role = \"master\"","role = \"server\"","?"),
("\"m1\"\nc","\"M1\"\nc","?"),
("name = \"m1\"","name = m1","?"),
("name = \"m1\"","name = \"m1\nx","?"),
("control_listen","control_lisen","?"),
("name = \"m1\"","name = \"m1\"\nname = \"m2\"","?"),
("\"198.51.100.1:8531\"","\"0.0.0.0:8531\"","?"),
("\"198.51.100.1:8530\"","\"198.51.100.1\"","?"),
("\"198.51.100.1:8530\"","8530","?"),
("\n\n[fleet]","\nshards = 65\n[fleet]","?"),
("\n\n[fleet]","\nqueue_capacity = 1.5\n[fleet]","?"),
("\n\n[fleet]","\nstamp = \"later\"\n[fleet]","?"),
("\n\n[fleet]","\nfallback_after_ms = nan\n[fleet]","?"),
("\n\n[fleet]","\nhttp_listen = \"0.0.0.0:8530\"\n[fleet]","?"),
("\n\n[fleet]","\nbanana = 1\n[fleet]","?"),
("\n\n[fleet]","\nclock_distortion = 1\n[fleet]","?"),
("ca = \"ca.crt\"\n","","?"),
("key = \"m1.key\"","key = \"\"","?"),
("203.0.113.53:53","0.0.0.0:53","?"),
("\n\n[[zone]]","\n[[service]]\naddress = \"203.0.113.53:53\"\n[[zone]]","?"),
("[[service]]\naddress = \"203.0.113.53:53\"","","?"),
("[[service]]","[service]","?"),
("@ SOA ns hostmaster 1 7200 900 1209600 60\n","","?"),
("@ NS ns\n","@ NS ns\n@ SOA ns hostmaster 2 7200 900 1209600 60\n","?"),
("@ NS ns\n","","?"),
("ns A 203.0.113.53\n","","?"),
("mail A 192.0.2.25","mail A 192.0.2.256","?"),
("mail A 192.0.2.25","mail SRV 1 1 80 mail","?"),
("mail A 192.0.2.25","mail.example.net. A 192.0.2.25","?"),
("mail A 192.0.2.25","mail A 192.0.2.25\nmail CNAME ns","?"),
("mail A 192.0.2.25","$INCLUDE other.zone","?"),
("mail A 192.0.2.25","mail A\na..b TXT x\nmail TXT \"open","?"),
("mail A 192.0.2.25","mail CH A 192.0.2.25","?"),
("mail A 192.0.2.25","mail 4294967295 A 192.0.2.25","?"),
("mail A 192.0.2.25","mail TXT (\n \"a\" ; c\n \"b\"\n)\n; comment\n\nmail SRV 1 1 1 ns","?"),
("name = \"example.org.\"","name = \"example..org\"","?"),
("[[race]]","[[zone]]\nname = \"Example.org\"\nrecords = \"@ SOA ns h 1 2 3 4 5\\n@ NS ns.other.\"\n\n[[race]]","?"),
("[[race]]","[[zone]]\nname = \"other.org\"\nrecords = \"@ SOA ns h 1 2 3 4 5\\n@ NS ns.other.\\n@ SRV 1 1 1 a\"\n\n[[race]]","?"),
("[[race]]","[[zone]]\nname = \"other.org\"\nfile = \"missing.zone\"\n\n[[race]]","?"),
("[[race]]","[[zone]]\nname = \"other.org\"\n\n[[race]]","?"),
("[[race]]","[[race]]\nname = \"WWW.example.org\"\nfallback.a = [\"192.0.2.1\"]\nsites.x.a = [\"192.0.2.1\"]\n[[race]]","?"),
("www.example.org.","www.example.net.","?"),
("www.example.org.","a.child.example.org.","?"),
("www.example.org.","mail.example.org.","?"),
("cover = 0.9","cover = 0","?"),
("cover = 0.9","cover = 0.9\ndelay_ms = 100","?"),
("cover = 0.9","delay_ms = 400","?"),
("cover = 0.9","margin_ms = 301","?"),
("cover = 0.9","late = true","?"),
("[race.fallback]\na = [\"192.0.2.1\"]","","?"),
("[race.sites.tokyo]\na = [\"192.0.2.10\"]\n","","?"),
("[\"192.0.2.10\"]","[]","?"),
("[\"192.0.2.10\"]","[\"2001:db8::1\", \"192.0.2.1\", \"192.0.2.1\"]","?"),
("[\"192.0.2.10\"]","\"192.0.2.10\"","?"),
("sites.tokyo","sites.\"to kyo\"","?"),
("sites.tokyo]\n","sites.tokyo]\nb = 1\n","?"),
    ];
    assert_said(MASTER, &cases);
}

#[test]
fn faulty_agents_are_refused_in_these_words() {
    let cases = [
("departures_per_s = 1000","departures_per_s = 0","?"),
("departures_per_s = 1000","departures_per_s = 1000\ndepartures_per_prefix_per_s = 1001","?"),
("departures_per_s = 1000","allow_private_destinations = \"yes\"","?"),
("max_bound_ms = 100","max_bound_ms = 2\nmax_expected_error_ms = 2.5","?"),
("max_bound_ms = 100","exchange_interval_ms = 1","?"),
("name = \"tokyo\"\n","name = \"tokyo\"\nsite = \"to/kyo\"\nfast_path_advertise = \"0.0.0.0:8531\"\n","?"),
("[\"203.0.113.53:53\"]","[]","?"),
("[\"203.0.113.53:53\"]","[\"203.0.113.53:53\", \"203.0.113.53:53\"]","?"),
("[\"203.0.113.53:53\"]","[\"[::]:53\", 53]","?"),
("[[master]]","[[master]]\nname = \"m1\"\ncontrol = \"198.51.100.2:8530\"\nservice_addresses = [\"203.0.113.53:53\"]\n[[master]]","?"),
("control = \"198.51.100.1:8530\"","control = \"198.51.100.1:0\"\nsignal_propagation_ms = { least = 5, greatest = 5 }","?"),
("control = \"198.51.100.1:8530\"","control = \"198.51.100.1:1\"\nsignal_propagation_ms = { least = 5 }","?"),
("[[master]]\nname = \"m1\"\ncontrol = \"198.51.100.1:8530\"\nservice_addresses = [\"203.0.113.53:53\"]\n","","?"),
    ];
    assert_said(AGENT, &cases);
}
