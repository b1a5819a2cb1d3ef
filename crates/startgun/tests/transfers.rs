//! Zones move between our master and other servers: Knot DNS, NSD and BIND as its primaries and as its secondaries.

mod support;

#[path = "authority/exchange.rs"]
mod exchange;
#[path = "authority/servers.rs"]
#[allow(dead_code, reason = "how they are found is needed")]
mod servers;
#[path = "transfers/stage.rs"]
mod stage;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use exchange::{Answer, Query, SILENCE, Transport, ask};
use nix::sys::signal::Signal;
use servers::Peer;
use stage::{OURS, PATIENCE, SECRET, SLOW, Stage, WRONG_SECRET, address, text_at, wait_for_text, zone};
use support::{Test, wait_for};

const TESTS: [(&str, Test); 15] = [
    ("a_zone_comes_from_knot", || a_zone_comes_from(Peer::Knot)),
    ("a_zone_comes_from_nsd", || a_zone_comes_from(Peer::Nsd)),
    ("a_zone_comes_from_bind", || a_zone_comes_from(Peer::Bind)),
    ("a_zone_goes_to_knot", || a_zone_goes_to(Peer::Knot)),
    ("a_zone_goes_to_nsd", || a_zone_goes_to(Peer::Nsd)),
    ("a_zone_goes_to_bind", || a_zone_goes_to(Peer::Bind)),
    (
        "a_signed_zone_comes_as_it_is_from_the_primary_that_works",
        a_signed_zone_comes_as_it_is_from_the_primary_that_works,
    ),
    (
        "raced_names_in_a_signed_zone_of_a_primary_are_signed_here",
        raced_names_in_a_signed_zone_of_a_primary_are_signed_here,
    ),
    (
        "differences_that_do_not_fit_are_followed_by_the_whole_zone",
        differences_that_do_not_fit_are_followed_by_the_whole_zone,
    ),
    ("a_zone_outlives_its_primary_until_it_expires", a_zone_outlives_its_primary_until_it_expires),
    ("a_wrong_key_moves_nothing_knot", || a_wrong_key_moves_nothing(Peer::Knot)),
    ("a_wrong_key_moves_nothing_nsd", || a_wrong_key_moves_nothing(Peer::Nsd)),
    ("a_wrong_key_moves_nothing_bind", || a_wrong_key_moves_nothing(Peer::Bind)),
    ("zones_are_for_those_who_may_have_them", zones_are_for_those_who_may_have_them),
    ("a_faulty_version_leaves_the_old_one", a_faulty_version_leaves_the_old_one),
];

/// Type AXFR, and the code REFUSED.
const AXFR: u16 = 252;
const REFUSED: u16 = 5;
/// What follows from NOTIFY follows within this; timers would take a day.
const AT_ONCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn secondary_of(peer: Peer) -> String {
    let primaries = format!("primaries = [{{ address = \"{}\", key = \"transfer.\" }}]", address(peer).ip());
    primaries + "\ntransfer_to = [{ key = \"transfer.\" }]"
}

/// A server's whole zone, line by line as dig prints it, in an order of its own.
fn all_records(server: SocketAddr) -> Result<Vec<String>, String> {
    let records = records_at(server)?;
    assert_eq!(records.len(), 10, "{records:#?}");
    Ok(records)
}

fn records_at(server: SocketAddr) -> Result<Vec<String>, String> {
    let (at, key) = (format!("@{}", server.ip()), format!("hmac-sha256:transfer.:{SECRET}"));
    let said = dig_at(&at, &["move.test", "AXFR", "-y", &key, "+noall", "+answer", "+onesoa"])?;
    let is_record = |line: &&str| !line.is_empty() && !line.contains("TSIG");
    let mut records: Vec<String> =
        said.lines().filter(is_record).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    // BIND keeps the case of owners as well.
    for record in &mut records {
        let end = record.find(' ').unwrap_or_default();
        record[..end].make_ascii_lowercase();
    }
    records.sort();
    Ok(records)
}

/// AXFR with TSIG at the start, then NOTIFY and IXFR, a restart without the primary, and a reload.
fn a_zone_comes_from(peer: Peer) -> Result<(), String> {
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, SLOW, "first"));
    let mut primary = stage.start_peer(peer, true, SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    stage.configure(&secondary_of(peer));
    let mut ours = stage.start_ours();
    wait_for_text(OURS, "first", PATIENCE);

    assert_eq!(all_records(OURS)?, all_records(address(peer))?);

    stage.write("primary.zone", &zone(2, SLOW, "second"));
    primary.signal(Signal::SIGHUP);
    wait_for_text(OURS, "second", AT_ONCE);
    let status = stage.status();
    let shown = &status["secondaries"][0];
    assert_eq!((shown["name"].as_str(), shown["serial"].as_u64()), (Some("move.test."), Some(2)), "{shown}");
    assert_eq!(shown["primary"].as_str(), Some(address(peer).to_string().as_str()), "{shown}");
    let text = stage.startgun(&["status", "--socket", "m1.sock"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with("move.test.")).expect("the zone is shown");
    assert!(text.contains("secondary zones") && line.contains("serial 2 · from 127.0.0."), "{text}");
    assert!(line.contains("expires in 604"), "{text}");
    let count = |counter: &str| status["counters"][counter].as_u64().unwrap_or_default();
    // NSD keeps differences only of what it was sent itself.
    assert_eq!(all_records(OURS)?, all_records(address(peer))?);
    let expected = if peer == Peer::Nsd { (2, 0) } else { (1, 1) };
    assert_eq!((count("transfers_in_whole"), count("transfers_in_differences")), expected, "{}", ours.log());

    // A reload keeps it, without another transfer.
    stage.reload();
    assert_eq!(text_at(OURS).as_deref(), Some("second"));
    // So does a restart, with nobody to ask.
    primary.end();
    ours.end();
    let ours = stage.start_ours();
    assert_eq!(text_at(OURS).as_deref(), Some("second"), "{}", ours.log());
    let error =
        wait_for("a failed check", PATIENCE, || Some(stage.status()["secondaries"][0]["error"].as_str()?.to_owned()));
    assert!(error.contains("refused"), "{error}");
    Ok(())
}

/// AXFR with TSIG to another server, then NOTIFY after a reload.
fn a_zone_goes_to(peer: Peer) -> Result<(), String> {
    let stage = Stage::new()?;
    stage.write("ours.zone", &zone(1, SLOW, "first"));
    stage.configure(&format!(
        "file = \"ours.zone\"\ntransfer_to = [{{ key = \"transfer.\" }}]\nnotify = [{{ address = \"{}\", key = \"transfer.\" }}]",
        address(peer).ip()
    ));
    let ours = stage.start_ours();
    let secondary = stage.start_peer(peer, false, SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    stage.write("ours.zone", &zone(2, SLOW, "second"));
    stage.reload();
    wait_for(&format!("{} {}", ours.log(), secondary.log()), AT_ONCE, || {
        (text_at(address(peer)).as_deref() == Some("second")).then_some(())
    });
    wait_for("the answer to NOTIFY", AT_ONCE, || ours.log().contains("notified").then_some(()));
    Ok(())
}

/// Signed by Knot, with NSEC3; the first of the primaries is not there.
fn a_signed_zone_comes_as_it_is_from_the_primary_that_works() -> Result<(), String> {
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, SLOW, "first"));
    let mut primary = stage.start_signing_knot()?;
    wait_for_text(address(Peer::Knot), "first", PATIENCE);
    let here = "{ address = \"127.0.0.3\", key = \"transfer.\" }";
    stage.configure(&format!(
        "primaries = [{{ address = \"127.0.0.9\" }}, {here}]\ntransfer_to = [{{ key = \"transfer.\" }}]"
    ));
    let ours = stage.start_ours();
    wait_for_text(OURS, "first", PATIENCE);
    let records = records_at(OURS)?;
    assert_eq!(records, records_at(address(Peer::Knot))?);
    let count = |word: &str| records.iter().filter(|record| record.contains(word)).count();
    assert!(count(" NSEC3 ") >= 10 && count(" RRSIG ") >= 20 && count(" DNSKEY ") >= 1, "{records:#?}");
    let denied = dig(&["nothing.move.test", "A", "+dnssec"])?;
    assert!(denied.contains("NXDOMAIN") && denied.matches("NSEC3").count() >= 2, "{denied}");
    // Differences of a signed zone touch signatures and its chain.
    stage.write("primary.zone", &(zone(2, SLOW, "second") + "new A 192.0.2.77\n"));
    primary.signal(Signal::SIGHUP);
    wait_for_text(OURS, "second", AT_ONCE);
    assert_eq!(records_at(OURS)?, records_at(address(Peer::Knot))?);
    assert!(ours.log().contains("form=\"differences\""), "{}", ours.log());
    Ok(())
}

/// The zone that fuzz targets are served from, signed long ago, and its key: first a wrong one, then the right one.
fn raced_names_in_a_signed_zone_of_a_primary_are_signed_here() -> Result<(), String> {
    let stage = Stage::new()?;
    let service = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/service");
    stage.write("primary.zone", &fs::read_to_string(service.join("nsec.zone")).expect("a zone"));
    let _primary = stage.start_knot_for("nsec.test")?;
    let soa = || dig_at("@127.0.0.3", &["nsec.test", "SOA", "+short"]).is_ok_and(|said| said.contains("nsec.test."));
    wait_for("Knot serves it", PATIENCE, || soa().then_some(()));
    let configure = |key: &str| {
        let key = service.join(key).display().to_string();
        let race = "[[race]]\nname = \"*.raced.nsec.test.\"\n[race.fallback]\na = [\"192.0.2.1\"]\n[race.sites.a]\na = [\"192.0.2.1\"]";
        let zone = "primaries = [{ address = \"127.0.0.3\", key = \"transfer.\" }]";
        stage.configure_zone("nsec.test", &format!("{zone}\nkeys = [\"{key}\"]\n{race}"));
    };
    configure("Knsec3.test.+013+55344.private");
    assert!(!stage.startgun(&["check", "--config", "m1.toml"]).status.success(), "a key of another zone");
    configure("Knsec.test.+013+22558.private");
    let ours = stage.start_ours();
    let asked = ["a.raced.nsec.test", "A", "+tcp", "+dnssec"];
    let said =
        wait_for("a raced name is answered", PATIENCE, || dig(&asked).ok().filter(|said| said.contains("NOERROR")));
    assert!(said.contains("192.0.2.1") && said.contains("RRSIG"), "{said} {}", ours.log());
    // The copy is not replaced by a version that cannot be served.
    stage.reload();
    assert!(dig(&asked)?.contains("RRSIG"));
    Ok(())
}

/// A copy that is not what the primary takes it for: differences delete what is not there.
fn differences_that_do_not_fit_are_followed_by_the_whole_zone() -> Result<(), String> {
    let peer = Peer::Knot;
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, SLOW, "first"));
    let mut primary = stage.start_peer(peer, true, SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    stage.configure(&secondary_of(peer));
    let ours = stage.start_ours();
    wait_for_text(OURS, "first", PATIENCE);
    let copy = fs::read_to_string(stage.path("state/zones/move.test.zone")).expect("a copy");
    assert!(copy.contains("v.move.test. 60 IN TXT \"first\"\n"), "{copy}");
    stage.write("state/zones/move.test.zone", &copy.replace("v.move.test. 60 IN TXT \"first\"\n", ""));
    stage.write("primary.zone", &zone(2, SLOW, "second"));
    primary.signal(Signal::SIGHUP);
    wait_for_text(OURS, "second", AT_ONCE);
    assert_eq!(all_records(OURS)?, all_records(address(peer))?);
    assert!(ours.log().contains("differences that do not fit together"), "{}", ours.log());
    assert_eq!(stage.status()["counters"]["transfers_in_whole"], 2);
    Ok(())
}

fn a_zone_outlives_its_primary_until_it_expires() -> Result<(), String> {
    let peer = Peer::Knot;
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, "2 2 8", "first"));
    let mut primary = stage.start_peer(peer, true, SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    stage.configure(&secondary_of(peer));
    let ours = stage.start_ours();
    wait_for_text(OURS, "first", PATIENCE);
    // By its timers alone it stays, for longer than it may go unconfirmed.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(text_at(OURS).as_deref(), Some("first"), "{}", ours.log());
    primary.end();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(text_at(OURS).as_deref(), Some("first"), "{}", ours.log());
    // SERVFAIL, RFC 1035 section 4.1.1.
    wait_for_text(OURS, "code 2", PATIENCE);
    assert!(stage.status()["secondaries"][0]["serial"].is_null());
    let _primary = stage.start_peer(peer, true, SECRET)?;
    wait_for_text(OURS, "first", PATIENCE);
    Ok(())
}

fn a_wrong_key_moves_nothing(peer: Peer) -> Result<(), String> {
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, SLOW, "first"));
    let _primary = stage.start_peer(peer, true, WRONG_SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    stage.configure(&secondary_of(peer));
    let ours = stage.start_ours();
    let error =
        wait_for("a failed check", PATIENCE, || Some(stage.status()["secondaries"][0]["error"].as_str()?.to_owned()));
    assert!(error.contains("BADSIG"), "{error}");
    assert_eq!(text_at(OURS).as_deref(), Some("code 2"), "{}", ours.log());
    // What is right is taken up by a reload.
    stage.write("secret", WRONG_SECRET);
    stage.reload();
    wait_for_text(OURS, "first", PATIENCE);
    Ok(())
}

/// What our master says to dig.
fn dig(arguments: &[&str]) -> Result<String, String> {
    dig_at("@127.0.0.1", arguments)
}

fn dig_at(server: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("dig").args([server, "+time=3", "+tries=1"]).args(arguments).output();
    let output = output.map_err(|error| format!("dig: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn zones_are_for_those_who_may_have_them() -> Result<(), String> {
    let stage = Stage::new()?;
    stage.write("ours.zone", &zone(7, SLOW, "first"));
    stage.configure("file = \"ours.zone\"");
    let _ours = stage.start_ours();
    let key = format!("hmac-sha256:transfer.:{SECRET}");
    let wrong = format!("hmac-sha256:transfer.:{WRONG_SECRET}");
    let axfr = ["move.test", "AXFR"];
    // Nobody, if nothing is said.
    assert!(dig(&axfr)?.contains("Transfer failed"));
    assert!(dig(&[&axfr[..], &["-y", &key]].concat())?.contains("Transfer failed"));

    stage.configure("file = \"ours.zone\"\ntransfer_to = [{ network = \"127.0.0.0/8\", key = \"transfer.\" }]");
    stage.reload();
    let moved = dig(&[&axfr[..], &["-y", &key, "+onesoa", "+noall", "+answer"]].concat())?;
    let records: Vec<&str> =
        moved.lines().filter(|line| line.contains("move.test.") && !line.contains("TSIG")).collect();
    assert_eq!(records.len(), 10, "{moved}");
    assert!(moved.contains("Target.Example.NET."), "{moved}");
    assert!(dig(&axfr)?.contains("Transfer failed"), "without a signature");
    assert!(dig(&[&axfr[..], &["-y", &wrong]].concat())?.contains("BADSIG"), "with a wrong one");
    let renamed = format!("hmac-sha256:other.:{SECRET}");
    assert!(dig(&[&axfr[..], &["-y", &renamed]].concat())?.contains("BADKEY"), "of another key");
    // Not over UDP; there IXFR is told the newest serial, over TCP the whole zone, or nothing where nothing is newer.
    let over_udp = ask(OURS, Transport::Udp, &Query::new("move.test", AXFR).0, SILENCE).expect("an answer");
    assert_eq!(Answer::read(over_udp).expect("a message").code, REFUSED);
    let soa_only = dig(&["move.test", "IXFR=6", "+notcp", "+noall", "+answer", "-y", &key])?;
    assert_eq!(soa_only.matches("SOA").count(), 1, "{soa_only}");
    let whole = dig(&["move.test", "IXFR=6", "+tcp", "+noall", "+answer", "-y", &key])?;
    assert_eq!(whole.matches("SOA").count(), 2, "{whole}");
    let nothing = dig(&["move.test", "IXFR=7", "+tcp", "+noall", "+answer", "-y", &key])?;
    assert_eq!(nothing.matches("SOA").count(), 1, "{nothing}");
    // What is signed is answered signed, whatever it asks.
    let signed = dig(&["v.move.test", "TXT", "-y", &key])?;
    assert!(signed.contains("\"first\"") && signed.contains("TSIG") && !signed.contains("Couldn't verify"), "{signed}");

    stage.configure("file = \"ours.zone\"\ntransfer_to = [{ network = \"192.0.2.0/24\" }]");
    stage.reload();
    assert!(dig(&axfr)?.contains("Transfer failed"), "from elsewhere");
    stage.configure("file = \"ours.zone\"\ntransfer_to = [{ network = \"127.0.0.1\" }]");
    stage.reload();
    assert!(dig(&axfr)?.contains("\"first\""), "without a key, where none is asked for");
    Ok(())
}

fn a_faulty_version_leaves_the_old_one() -> Result<(), String> {
    let peer = Peer::Knot;
    let stage = Stage::new()?;
    stage.write("primary.zone", &zone(1, SLOW, "first"));
    let mut primary = stage.start_peer(peer, true, SECRET)?;
    wait_for_text(address(peer), "first", PATIENCE);
    let race = "[[race]]\nname = \"raced.move.test.\"\n[race.fallback]\na = [\"192.0.2.1\"]\n[race.sites.a]\na = [\"192.0.2.1\"]";
    stage.configure(&format!("{}\n{race}", secondary_of(peer)));
    let ours = stage.start_ours();
    wait_for_text(OURS, "first", PATIENCE);
    // What is raced here gives way; of another type it cannot be plain as well.
    stage.write("primary.zone", &(zone(2, SLOW, "second") + "raced A 192.0.2.9\n"));
    primary.signal(Signal::SIGHUP);
    wait_for_text(OURS, "second", AT_ONCE);
    assert!(dig(&["raced.move.test", "A", "+tcp", "+short"])?.contains("192.0.2.1"));
    stage.reload();
    assert_eq!(text_at(OURS).as_deref(), Some("second"));
    stage.write("primary.zone", &(zone(3, SLOW, "third") + "raced A 192.0.2.9\nraced AAAA 2001:db8::9\n"));
    primary.signal(Signal::SIGHUP);
    let error = wait_for(&format!("a refusal: {}", ours.log()), AT_ONCE, || {
        Some(stage.status()["secondaries"][0]["error"].as_str()?.to_owned())
    });
    assert!(error.contains("raced.move.test."), "{error}");
    assert_eq!(text_at(OURS).as_deref(), Some("second"));
    stage.write("primary.zone", &zone(4, SLOW, "fourth"));
    primary.signal(Signal::SIGHUP);
    wait_for_text(OURS, "fourth", AT_ONCE);
    Ok(())
}
