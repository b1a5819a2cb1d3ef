//! Sample files load and mean what they say; what is doubtful or out of bounds is told.

mod golden;
mod transfers;

use std::fs;

use domain::base::Rtype;
use startgun_core::agent::OnBadClock;
use startgun_core::clock::ClockSource;
use startgun_core::dns::{CanonicalName, Lookup};
use startgun_core::master::{Delay, Stamp, Transmit};
use startgun_core::playbook::LatePolicy;
use startgun_core::time::Span;
use startgun_net::host_clock::{Distortion, Step};
use startgun_net::host_time::{HostChoice, HostSource, HostTimeOptions, PhcOptions};

use super::agent::SignalPropagation;
use super::*;
use crate::fleet::test_support::ScratchDir;

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

/// What is said about an agent whose file names no mesh key.
const NO_MESH: &str = "takes no part in the mesh: fleet.mesh_key is not set";

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

#[test]
fn the_samples_are_sound_and_mean_what_they_say() {
    let Loaded { config, warnings } = load_master(&sample("master.toml")).expect("a sound sample");
    assert_eq!(warnings, []);
    assert_eq!(config.host.name, "m1");
    assert_eq!(config.host.fleet.ca, sample("fleet/ca.crt"), "relative to the file");
    assert_eq!(config.host.state_dir, Path::new("/var/lib/startgun"));
    assert_eq!(config.host.clock_distortion, None);
    assert_eq!((config.shards, config.stamp, config.queue_capacity), (0, Stamp::Receipt, 4_096));
    assert_eq!(config.validated_for, Span::from_secs(3_600));
    assert_eq!(config.fallback_after, Span::from_millis(250));
    assert_eq!(config.service_addresses, ["203.0.113.53:53".parse().expect("an address")]);
    let race = &config.service.races[0];
    assert_eq!((race.ttl_s, race.late, &race.transmit), (30, LatePolicy::Drop, &Transmit::At));
    assert_eq!(race.delay, Delay::Cover { share: 1.0, margin: Span::from_millis(5) });
    assert_eq!(race.late_tolerance, Span::from_millis(2));
    assert_eq!(race.sites.keys().collect::<Vec<_>>(), ["frankfurt", "tokyo"]);
    let zones = &config.service.zones;
    let name = |text: &str| text.parse::<CanonicalName>().expect("a name");
    assert!(matches!(zones.lookup(name("WWW.example.org").as_bytes(), Rtype::A), Lookup::Raced(0)));
    let zone = zones.zone(name("example.org").as_bytes()).expect("a zone");
    let mx = zone.records().find(|record| record.rtype == Rtype::MX).expect("there");
    assert_eq!((mx.ttl_s, mx.data.as_ref()), (3_600, b"\x00\x0a\x04mail\x07example\x03org\x00".as_slice()));

    let Loaded { config, warnings } = load_agent(&sample("agent.toml")).expect("a sound sample");
    assert_eq!(warnings, []);
    assert_eq!((config.site.as_str(), config.masters.len()), ("tokyo", 1));
    assert_eq!(config.max_expected_error, Span::from_millis(3));
    assert_eq!(config.limits.departures_per_prefix_per_s, 200);
    assert_eq!(config.masters[0].signal_propagation, None);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    // The samples state every default; without those lines nothing may change.
    let master = check_text(Path::new("f.toml"), MASTER, false).expect("a sound text");
    assert_eq!(master.text, "master m1, service addresses: 1, records: 6, raced names: 1, sites: 1");
    let read_master =
        |text: &str| read(Path::new("f.toml"), text, false, None, master::read).expect("a sound text").config;
    let (config, stated) = (read_master(MASTER), load_master(&sample("master.toml")).expect("a sound sample").config);
    assert_eq!(config.host.state_dir, stated.host.state_dir);
    assert_eq!(config.host.status_socket, stated.host.status_socket);
    assert_eq!((config.host.http_listen, config.host.user, config.host.fleet.revoked), (None, None, None));
    assert_eq!(
        (config.shards, config.stamp, config.queue_capacity),
        (stated.shards, stated.stamp, stated.queue_capacity)
    );
    assert_eq!(config.validated_for, stated.validated_for);
    assert_eq!(config.fallback_after, stated.fallback_after);
    assert_eq!(config.max_total_delay, stated.max_total_delay);
    assert_eq!(config.races_per_source_per_s, stated.races_per_source_per_s);
    assert_eq!((config.streams.limits, config.streams.tls), (stated.streams.limits, None));
    assert_eq!((&config.host_time, &stated.host_time), (&HostTimeOptions::default(), &HostTimeOptions::default()));
    let default = &read_master(&MASTER.replace("cover = 0.9", "")).service.races[0];
    let race = &stated.service.races[0];
    assert_eq!((default.delay, default.ttl_s, default.late), (race.delay, race.ttl_s, race.late));
    assert_eq!((&default.transmit, default.late_tolerance), (&race.transmit, race.late_tolerance));

    let read_agent =
        |text: &str| read(Path::new("f.toml"), text, false, None, agent::read).expect("a sound text").config;
    let bare = AGENT.replace("departures_per_s = 1000", "").replace("max_bound_ms = 100", "");
    let (config, stated) = (read_agent(&bare), load_agent(&sample("agent.toml")).expect("a sound sample").config);
    assert_eq!((config.site, config.fast_path_listen), (stated.site, stated.fast_path_listen));
    assert_eq!(config.host.status_socket, stated.host.status_socket);
    assert_eq!(config.limits.departures_per_s, stated.limits.departures_per_s);
    assert_eq!(config.limits.departures_per_prefix_per_s, stated.limits.departures_per_prefix_per_s);
    assert_eq!(config.limits.allow_private_destinations, stated.limits.allow_private_destinations);
    assert_eq!((config.max_expected_error, config.max_bound), (stated.max_expected_error, stated.max_bound));
    assert_eq!((config.on_bad_clock, config.max_lateness), (stated.on_bad_clock, stated.max_lateness));
    assert_eq!((config.max_drift_ppm, config.exchange_interval), (stated.max_drift_ppm, stated.exchange_interval));
    assert_eq!((config.clock_source, stated.clock_source), (ClockSource::Auto, ClockSource::Auto));
    assert_eq!((config.host_time, stated.host_time), (HostTimeOptions::default(), HostTimeOptions::default()));
    let without_table = read_agent(&bare.replace("[clock]", ""));
    assert_eq!((without_table.clock_source, without_table.host_time), (ClockSource::Auto, HostTimeOptions::default()));
    // A default never contradicts a value that was given.
    let low = read_agent(&AGENT.replace("= 1000", "= 50").replace("max_bound_ms = 100", "max_bound_ms = 1"));
    assert_eq!((low.limits.departures_per_prefix_per_s, low.max_expected_error), (50, Span::from_millis(1)));
}

#[test]
fn bad_clocks_late_hosts_and_named_signals_are_read() {
    let text =
        AGENT.replace("max_bound_ms = 100", "on_bad_clock = \"after\"\n[departure]\nmax_lateness_ms = 0.25\ncpu = 3");
    let config = read(Path::new("f.toml"), &text, false, None, agent::read).expect("a sound text").config;
    assert_eq!((config.on_bad_clock, config.max_lateness), (OnBadClock::After, Span::from_micros(250)));
    assert_eq!(config.departure_cpu, Some(3));
    for (keys, transmit) in [
        ("transmit = \"signal\"", Transmit::Signal),
        ("transmit = \"signal\"\nsignal = \"GO_1\"", Transmit::Held("GO_1".into())),
    ] {
        let text = MASTER.replace("cover = 0.9", keys);
        let config = read(Path::new("f.toml"), &text, false, None, master::read).expect("a sound text").config;
        assert_eq!(config.service.races[0].transmit, transmit);
    }
}

#[test]
fn false_clocks_and_signals_are_read_to_the_nanosecond() {
    let distortion = "[clock_distortion]\noffset_s = -2.5\ndrift_ppm = 12.345\nreference_raw_ns = 7\n\n[clock]";
    let text = AGENT.replace("[clock]", distortion) + "signal_propagation_ms = { greatest = 20.5 }\n";
    let config = read(Path::new("f.toml"), &text, false, None, agent::read).expect("a sound text").config;
    let (offset, drift_ppb) = (Span::from_millis(-2_500), 12_345);
    let expected = Distortion { offset, drift_ppb, reference_raw_ns: 7, ..Distortion::default() };
    assert_eq!(config.host.clock_distortion, Some(expected));
    let expected = SignalPropagation { least: Span::ZERO, greatest: Span::from_micros(20_500) };
    assert_eq!(config.masters[0].signal_propagation, Some(expected));
    let warning =
        "warning: f.toml:12:1: clock_distortion: found a clock that is wrong on purpose, expected one in labs only";
    assert_eq!(said(&text), format!("{warning}\nagent tokyo of site tokyo, masters: m1; {NO_MESH}"));
    let step = "[clock_distortion]\nstep_s = -1\nstep_at_raw_ns = 9000000000\nrealtime_offset_s = 0.25\n\n[clock]";
    let text = AGENT.replace("[clock]", step);
    let config = read(Path::new("f.toml"), &text, false, None, agent::read).expect("a sound text").config;
    let step = Some(Step { at_raw_ns: 9_000_000_000, by: Span::from_secs(-1) });
    let expected = Distortion { step, realtime_offset: Span::from_millis(250), ..Distortion::default() };
    assert_eq!(config.host.clock_distortion, Some(expected));
}

#[test]
fn the_host_clock_is_configured_alike_for_master_and_agent() {
    let keys = "host_source = \"phc\"\nhost_bound_ms = 0.0015\nphc_device = \"/dev/ptp3\"\nphc_minus_utc_s = -3\n";
    let phc = HostTimeOptions {
        choice: HostChoice::Only(HostSource::Phc),
        stated_bound: Some(Span::from_nanos(1_500)),
        phc: Some(PhcOptions { device: "/dev/ptp3".into(), minus_utc: Span::from_secs(-3) }),
        clock_bound_path: None,
    };
    let text = AGENT.replace("[clock]", &format!("[clock]\nsource = \"host\"\n{keys}"));
    let agent = read(Path::new("f.toml"), &text, false, None, agent::read).expect("a sound text").config;
    assert_eq!((agent.clock_source, &agent.host_time), (ClockSource::Host, &phc));
    let text = MASTER.replace("[fleet]", &format!("[clock]\n{keys}\n[fleet]"));
    let master = read(Path::new("f.toml"), &text, false, None, master::read).expect("a sound text").config;
    assert_eq!(master.host_time, phc);
    let words = [
        ("auto", HostChoice::Auto),
        ("kernel", HostChoice::Only(HostSource::Kernel)),
        ("clock-bound", HostChoice::Only(HostSource::ClockBound)),
        ("none", HostChoice::Nothing),
    ];
    for (word, choice) in words {
        let text = MASTER.replace("[fleet]", &format!("[clock]\nhost_source = \"{word}\"\n\n[fleet]"));
        let master = read(Path::new("f.toml"), &text, false, None, master::read).expect("a sound text").config;
        assert_eq!(master.host_time, HostTimeOptions { choice, ..HostTimeOptions::default() });
    }
    let text = MASTER.replace("[fleet]", "[clock]\nclock_bound_path = \"run/shm0\"\nhost_bound_ms = 2\n\n[fleet]");
    let master = read(Path::new("/etc/f.toml"), &text, false, None, master::read).expect("a sound text").config;
    assert_eq!(master.host_time.clock_bound_path.as_deref(), Some(Path::new("/etc/run/shm0")));
    assert_eq!(master.host_time.stated_bound, Some(Span::from_millis(2)));
}

#[test]
fn a_zone_without_name_servers_is_warned_of_and_served() {
    let (line, summary) =
        ("17:1: zone[0].records: found", "master m1, service addresses: 1, records: 5, raced names: 1, sites: 1");
    let expected = format!(
        "warning: f.toml:{line} no NS record of example.org., expected at least one at the zone's apex\n{summary}"
    );
    assert_eq!(said(&MASTER.replace("@ NS ns\n", "")), expected);
    let found = said(&MASTER.replace("ns A 203.0.113.53\n", ""));
    let expected = "warning: f.toml:18:1: zone[0].records: found an NS record for ns.example.org., which has no address, \
                    expected an A or AAAA record for it in this zone";
    assert_eq!(found.lines().next(), Some(expected));
}

#[test]
fn dns_over_tls_is_served_at_every_service_address_once() {
    let services = "[tls]\ncertificate = \"tls/ns.crt\"\nkey = \"/etc/ns.key\"\n\n[[service]]\naddress = \"203.0.113.53:5353\"\n\
                    [[service]]\naddress = \"[2001:db8::53]:53\"\n[[service]]";
    let text = MASTER.replace("[[service]]", services);
    let config = read(Path::new("/etc/f.toml"), &text, false, None, master::read).expect("a sound text").config;
    let tls = config.streams.tls.expect("a table");
    assert_eq!(tls.files.certificate, Path::new("/etc/tls/ns.crt"));
    assert_eq!(tls.files.key, Path::new("/etc/ns.key"));
    let addresses: Vec<String> = tls.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["203.0.113.53:853", "[2001:db8::53]:853"]);
    // A default never contradicts a value that was given.
    let text = MASTER.replace("[[service]]", "[tcp]\nmax_connections = 7\n\n[[service]]");
    let config = read(Path::new("f.toml"), &text, false, None, master::read).expect("a sound text").config;
    assert_eq!((config.streams.limits.connections, config.streams.limits.connections_per_prefix), (7, 7));
    // The sample shows the table without using it; it is right all the same.
    let sample_text = fs::read_to_string(sample("master.toml")).expect("the sample");
    let shown = sample_text.replace("#[tls]", "[tls]");
    let shown = ["certificate", "key", "port"].iter().fold(shown, |text, key| {
        assert_eq!(text.matches(&format!("\n#{key} = ")).count(), 1, "{key}");
        text.replace(&format!("\n#{key} = "), &format!("\n{key} = "))
    });
    let config = read(&sample("master.toml"), &shown, false, None, master::read).expect("a sound sample").config;
    let tls = config.streams.tls.expect("a table");
    assert_eq!(tls.addresses, ["203.0.113.53:853".parse().expect("an address")]);
}

#[test]
fn doubtful_masters_are_warned_of() {
    let text = MASTER
        .replace("@ NS ns\n", "@ NS ns\n@ NS ns.example.net.\n")
        .replace("[\"192.0.2.10\"]", "[\"192.0.2.10\"]\naaaa = [\"2001:db8::1\"]");
    let expected = "\
warning: f.toml:19:1: zone[0].records: found name server ns.example.net. of a raced zone, which is not a service address here, expected every name server to be a master with the same delays
warning: f.toml:30:1: race[0].fallback: found no addresses in aaaa, which some site has, expected some; a fallback answer else says that the name has no AAAA
master m1, service addresses: 1, records: 7, raced names: 1, sites: 1";
    assert_eq!(said(&text), expected);
}

#[test]
fn a_check_looks_for_what_the_file_names() {
    let scratch = ScratchDir::new();
    let path = scratch.path().join("master.toml");
    let text = MASTER
        .replace("\n\n[fleet]", "\nuser = \"no-such-user\"\n[fleet]")
        .replace("[race.fallback]", "margin_ms = 2\n[race.fallback]");
    let zone = "@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 203.0.113.53\n";
    let (before, rest) = text.split_once("records = ").expect("records");
    let after = rest.split_once("\n\n[[race]]").expect("a race").1;
    fs::write(&path, format!("{before}file = \"example.zone\"\n\n[[race]]{after}")).expect("written");
    fs::write(scratch.path().join("example.zone"), format!("{zone}a A x\n")).expect("written");
    fs::write(scratch.path().join("ca.crt"), "").expect("written");
    fs::create_dir(scratch.path().join("m1.key")).expect("made");
    let dir = scratch.path().display();
    let errors = check(&path).expect_err("a faulty file");
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        format!("{dir}/master.toml:5:8: user: found \"no-such-user\", expected the name of a user of this host"),
        format!(
            "{dir}/master.toml:8:15: fleet.certificate: found {dir}/m1.crt: No such file or directory (os error 2), expected a readable file"
        ),
        format!("{dir}/master.toml:9:7: fleet.key: found {dir}/m1.key, which is no file, expected a readable file"),
        format!("{dir}/example.zone:4:5: zone[0].file: found \"x\", expected an IPv4 address"),
    ];
    assert_eq!(found, expected);

    fs::write(scratch.path().join("example.zone"), zone).expect("written");
    fs::write(scratch.path().join("m1.crt"), "").expect("written");
    fs::remove_dir(scratch.path().join("m1.key")).expect("removed");
    fs::write(scratch.path().join("m1.key"), "").expect("written");
    let sound = fs::read_to_string(&path).expect("read").replace("user = \"no-such-user\"", "user = \"root\"");
    fs::write(&path, sound).expect("written");
    let summary = check(&path).expect("a sound file");
    assert_eq!(summary.to_string(), "master m1, service addresses: 1, records: 3, raced names: 1, sites: 1");
}

#[test]
fn a_check_tells_who_takes_no_part_in_the_mesh() {
    let scratch = ScratchDir::new();
    let run = |line: &str| crate::fleet::test_support::fleet(&scratch, line).expect(line);
    run("init --dir fleet");
    for name in ["tokyo", "paris"] {
        let options = "--role agent --dir fleet --master m1=198.51.100.1:8530 --service 203.0.113.53:53";
        run(&format!("enroll {name} {options} --out {name}"));
    }
    run("enroll m1 --role master --dir fleet --out m1");
    let tokyo = scratch.path().join("tokyo");
    let file = tokyo.join("agent.toml");
    let text = fs::read_to_string(&file).expect("read");
    let said = |text: &str| {
        fs::write(&file, text).expect("written");
        let said = match check(&file) {
            Ok(summary) => summary.to_string(),
            Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        said.replace(&format!("{}/", tokyo.display()), "")
    };
    let sound = "agent tokyo of site tokyo, masters: m1";
    assert_eq!(said(&text), sound);
    let line = "mesh_key = \"tokyo.mesh.key\"\n";
    assert_eq!(said(&text.replace(line, "")), format!("{sound}; {NO_MESH}"));
    let off = text.replace("[[master]]", "[clock]\nmesh = false\n\n[[master]]");
    assert_eq!(said(&off), format!("{sound}; takes no part in the mesh: clock.mesh is false"));
    // A certificate that carries no mesh key, as those have that are older than the mesh.
    fs::copy(scratch.path().join("m1/m1.crt"), tokyo.join("older.crt")).expect("copied");
    assert_eq!(
        said(&text.replace("tokyo.crt", "older.crt")),
        format!(
            "warning: agent.toml:14:12: fleet.mesh_key: found no mesh key in older.crt, expected one; this agent takes \
             no part in the mesh until `startgun fleet renew` puts one in\n{sound}"
        )
    );
    fs::copy(scratch.path().join("paris/paris.mesh.key"), tokyo.join("tokyo.mesh.key")).expect("copied");
    assert_eq!(
        said(&text),
        "agent.toml:14:12: fleet.mesh_key: found tokyo.mesh.key: another key, expected the private mesh key of this \
         agent's certificate"
    );
    // Masters take no part, and the key is none of theirs.
    let master = MASTER.replace("key = \"m1.key\"\n", "key = \"m1.key\"\nmesh_key = \"m1.mesh.key\"\n");
    let error = check_text(Path::new("f.toml"), &master, false).expect_err("an unknown key")[0].to_string();
    assert!(error.starts_with("f.toml:10:1: fleet.mesh_key: found an unknown key"), "{error}");
}

#[test]
fn a_daemon_refuses_the_others_file_and_what_is_no_file() {
    let faults = |result: Result<(), Vec<ConfigError>>| match result {
        Ok(()) => panic!("refused"),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let agent = sample("agent.toml");
    let expected = format!("{}:10:8: role: found \"agent\", expected \"master\"", agent.display());
    assert_eq!(faults(load_master(&agent).map(drop)), [expected]);
    let scratch = ScratchDir::new();
    let path = scratch.path().join("missing.toml");
    let expected = "a readable text file of at most 16777216 bytes";
    let missing = format!(
        "{}: found no way to read it (No such file or directory (os error 2)), expected {expected}",
        path.display()
    );
    assert_eq!(faults(load_agent(&path).map(drop)), [missing]);
    fs::write(&path, b"\xff").expect("written");
    let binary = format!("{}: found bytes that are not UTF-8, expected {expected}", path.display());
    assert_eq!(faults(check(&path).map(drop)), [binary]);
}

#[test]
fn faults_and_tables_are_bounded() {
    let many: String = (0..1_000).map(|n| format!("unknown_{n} = 1\n")).collect();
    let faults = check_text(Path::new("f.toml"), &format!("{many}{MASTER}"), false).expect_err("unknown keys");
    assert_eq!(faults.len(), 100);
    let masters = "[[master]]\nname = \"m\"\n".repeat(40);
    let text = AGENT.replace("[[master]]\n", &format!("{masters}[[master]]\n"));
    let first = said(&text).lines().next().map(ToOwned::to_owned);
    assert_eq!(first.as_deref(), Some("f.toml:15:1: master: found 41 of them, expected at most 32"));
    let path = "s".repeat(108);
    let expected = format!(
        "f.toml:3:17: status_socket: found 108 bytes of path ({path}), expected at most 107, the limit of Unix sockets"
    );
    assert_eq!(said(&AGENT.replace("\n\n[fleet]", &format!("\nstatus_socket = \"{path}\"\n[fleet]"))), expected);
}

#[test]
fn a_service_address_that_no_agent_can_prove_is_warned_of() {
    let text = MASTER.replace("[[service]]", "[[service]]\naddress = \"[2001:db8::53]:53\"\n[[service]]");
    let warned = said(&text);
    let line = warned.lines().next().expect("a warning");
    assert!(
        line.starts_with("warning: f.toml:") && line.contains("[2001:db8::53]:53 beside an IPv4 fast_path_listen"),
        "{line}"
    );
    let proved = text.replace("[fleet]", "self_test_listen = \"[2001:db8::1]:8531\"\n[fleet]");
    assert!(!said(&proved).contains("fast_path_listen"), "{}", said(&proved));
    let own_kind = text.replace("[fleet]", "self_test_listen = \"198.51.100.1:8532\"\n[fleet]");
    let expected = "self_test_listen: found \"198.51.100.1:8532\", expected an IPv6 address";
    assert!(said(&own_kind).contains(expected), "{}", said(&own_kind));
}
