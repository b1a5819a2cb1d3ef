//! Zones are taken, warned of or refused as a whole, their names are found, and their files may be several.

use std::fs;

use super::check::check;
use super::*;
use crate::fleet::test_support::ScratchDir;

/// What every zone here begins with, so that line 1 of a case is line 5.
const HEAD: &str = "$TTL 60\n@ SOA ns host 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n";

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

/// The zone `example.org.` of a sound text, and its errors and warnings as `LINE found, expected`.
fn checked(text: &str) -> (Zone, Vec<String>, Vec<String>) {
    let text = ZoneText { path: "zone".into(), identity: "zone".into(), bytes: text.as_bytes().to_owned() };
    let limits = Limits { records: 10_000, bytes: ZONE_BYTES_MAX };
    let scanned = scan(&name("example.org"), &text, limits, &mut Files);
    assert!(scanned.faults.is_empty(), "{} found {}", scanned.faults[0].at.line, scanned.faults[0].found);
    let start = Start::At(Position { line: 1, column: 1 });
    let source = Source { key: "zone[0].file".into(), files: scanned.files, start };
    let mut zone = Zone::new(name("example.org"), scanned.records, source);
    let findings = check(&mut zone);
    let said = |finding: check::Finding| format!("{} {}, {}", finding.at.line, finding.found, finding.expected);
    let errors = findings.errors.into_iter().map(said).collect();
    (zone, errors, findings.warnings.into_iter().map(said).collect())
}

#[test]
fn what_no_server_serves_is_an_error_and_what_others_warn_of_a_warning() {
    let (none, one) = (vec![], |line: &str| vec![line.to_owned()]);
    let nobody = "only addresses of its name servers; nobody will see it";
    let cases = [
        ("", none.clone(), none.clone()),
        ("@ SOA ns host 1 2 3 4 5", one("5 another SOA record, exactly one"), none.clone()),
        ("a SOA ns host 1 2 3 4 5", one("5 a SOA record of a.example.org., SOA at the zone's apex only"), none.clone()),
        // An alias.
        ("a CNAME b\na RRSIG CNAME 8 3 60 1 1 1 @ AQ==\na NSEC b CNAME\na KEY 0 3 8 AQ==", none.clone(), none.clone()),
        ("a CNAME b\na CNAME B", one("6 another CNAME record of a.example.org., one alias for a name"), none.clone()),
        ("a CNAME b\na CNAME b", none.clone(), none.clone()),
        ("a TXT x\na CNAME b", one("6 a CNAME record beside other records of a.example.org., an alias alone"), none.clone()),
        (
            "a CNAME b\na DNAME c",
            one("5 a CNAME record beside other records of a.example.org., an alias alone"),
            none.clone(),
        ),
        ("a DNAME b\na DNAME c\na TXT x", one("6 another DNAME record of a.example.org., one alias for a name"), none.clone()),
        (
            "a DNAME b\nc.b.a TXT x\nb.a TXT x\n\\000a TXT x",
            none.clone(),
            vec![
                "7 a record of b.a.example.org., below the DNAME record of a.example.org., none there; nobody will see it"
                    .into(),
                "6 a record of c.b.a.example.org., below the DNAME record of a.example.org., none there; nobody will see it"
                    .into(),
            ],
        ),
        (
            "@ DNAME a\n2vptu5timamqttgl4luu9kg21e0aor3s NSEC3 1 0 0 - 2vptu5timamqttgl4luu9kg21e0aor3t A",
            none.clone(),
            one("4 a record of ns.example.org., below the DNAME record of example.org., none there; nobody will see it"),
        ),
        // Name servers.
        ("@ NS here", none.clone(), one("5 an NS record for here.example.org., which has no address, an A or AAAA record for it in this zone")),
        ("@ NS here\nhere AAAA ::1\n@ NS example.net.", none.clone(), none.clone()),
        (
            "child NS ns.child",
            none.clone(),
            one("5 an NS record for ns.child.example.org., which has no address, an A or AAAA record for it in this zone"),
        ),
        ("child NS ns.other\nother NS ns\nchild NS child\nchild A 192.0.2.2", none.clone(), none.clone()),
        // A delegation.
        (
            "child NS ns.child\nns.child A 192.0.2.2\nchild DS 1 8 9 AA\nchild NSEC d NS DS\nchild RRSIG DS 8 3 60 1 1 1 @ AQ==",
            none.clone(),
            none.clone(),
        ),
        ("child NS ns\nchild TXT x", none.clone(), one(&format!("6 a record of child.example.org., type TXT, which is delegated with child.example.org., {nobody}"))),
        ("child NS ns\na.child A 192.0.2.2", none.clone(), one(&format!("6 a record of a.child.example.org., type A, which is delegated with child.example.org., {nobody}"))),
        (
            "child NS ns\na.child NS ns\nchildren TXT x",
            none.clone(),
            one(&format!("6 a record of a.child.example.org., type NS, which is delegated with child.example.org., {nobody}")),
        ),
        // Times to live.
        ("a 5 A 192.0.2.2\na 7 A 192.0.2.3\na 9 TXT x", none.clone(), one("6 times to live from 5 to 7 in the A records of a.example.org., the same for all; the least is taken")),
        ("a 5 RRSIG A 8 3 60 1 1 1 @ AQ==\na 7 RRSIG TXT 8 3 60 1 1 1 @ AQ==", none.clone(), none.clone()),
    ];
    for (text, errors, warnings) in cases {
        let (_, found_errors, found_warnings) = checked(&format!("{HEAD}{text}"));
        assert_eq!((found_errors, found_warnings), (errors, warnings), "{text}");
    }
    let (_, errors, warnings) = checked("a A 192.0.2.1");
    assert_eq!(errors, ["1 no SOA record of example.org., exactly one at the zone's apex"]);
    assert_eq!(warnings, ["1 no NS record of example.org., at least one at the zone's apex"]);
    let many: String = (0..100).map(|nth| format!("a{nth} CNAME b\na{nth} CNAME c\n@ NS a{nth}\n")).collect();
    let (_, errors, warnings) = checked(&format!("{HEAD}{many}"));
    assert_eq!((errors.len(), warnings.len()), (20, 20));
}

#[test]
fn a_set_has_one_time_to_live_and_a_signature_its_own() {
    let signature = "8 3 60 1 1 1 @ AQ==";
    let text = format!("{HEAD}a 7 A 192.0.2.2\na 5 A 192.0.2.3\na 6 A 192.0.2.4\na 9 TXT x\n");
    let (zone, ..) = checked(&format!("{text}a 5 RRSIG A {signature}\na 9 RRSIG TXT {signature}"));
    let of_a = zone.records().filter(|record| record.owner == name("a.example.org"));
    let found: Vec<_> = of_a.map(|record| (record.rtype, record.ttl_s)).collect();
    let (a, rrsig) = (Rtype::A, Rtype::RRSIG);
    assert_eq!(found, [(a, 5), (a, 5), (a, 5), (Rtype::TXT, 9), (rrsig, 5), (rrsig, 9)]);
}

#[test]
fn names_of_a_zone_are_found() {
    let text = "b.child TXT x\nchild NS ns.child\nns.child A 192.0.2.2\ndeep.er.b.child NS ns\n@ NS ns\n@ NS ns.child\n\
                @ NS Example.net.\nns AAAA ::1\ncut.inner NS ns\n";
    let (zone, ..) = checked(&format!("{HEAD}{text}"));
    assert!(zone.has(&name("ns.example.org"), Rtype::AAAA));
    assert!(!zone.has(&name("ns.example.org"), Rtype::TXT));
    assert!(!zone.has(&name("er.b.child.example.org"), Rtype::NS));
    let delegation = |text: &str| zone.delegation_of(&name(text)).map(ToString::to_string);
    assert_eq!(delegation("x.deep.er.b.child.example.org").as_deref(), Some("child.example.org."));
    assert_eq!(delegation("child.example.org").as_deref(), Some("child.example.org."));
    assert_eq!(delegation("x.cut.inner.example.org").as_deref(), Some("cut.inner.example.org."));
    assert_eq!(delegation("inner.example.org"), None);
    assert_eq!(delegation("grandchild.example.org"), None);
    assert_eq!(delegation("example.org"), None);
    assert_eq!(delegation("example.net"), None);
    let servers: Vec<_> = zone.nameservers().map(|(name, addresses, at)| (name, addresses.concat(), at.line)).collect();
    let both = [&[192, 0, 2, 1][..], &[0; 15], &[1]].concat();
    let expected = [
        (name("ns.example.org"), both.clone(), 3),
        (name("ns.example.org"), both, 9),
        (name("ns.child.example.org"), vec![192, 0, 2, 2], 10),
        (name("example.net"), vec![], 11),
    ];
    assert_eq!(servers, expected);
    let records: Vec<Record> = zone.records().collect();
    assert_eq!(zone.into_records().collect::<Vec<Record>>(), records);
}

#[test]
fn records_are_in_canonical_order() {
    // The order of RFC 4034 section 6.1, and some of the names there.
    let sorted = [
        "\\000",
        "b.\\000",
        "\\000\\000",
        "\\000a",
        "\\001",
        "\\001\\001",
        "\\002",
        "*",
        // The first 16 bytes that are compared end within a label, at its end, or behind it.
        "0123456789abc\\000",
        "a.0123456789abc\\000",
        "b.0123456789abc\\000",
        "123456789abcde",
        "a.123456789abcde",
        "b.123456789abcde",
        "123456789abcdef",
        "a.123456789abcdef",
        "b.123456789abcdef",
        "a",
        "yljkjljk.a",
        "z.a",
        "a.a\\000",
        "a.a\\000b",
        "ns",
        "1.of-a-long-name-with-the-same-end",
        "2.of-a-long-name-with-the-same-end",
        "\\200",
    ];
    let mut text = String::from(HEAD);
    for name in sorted.iter().rev().filter(|name| **name != "ns") {
        text += &format!("{name} TXT b\n{name} TXT a\n{name} AAAA ::1\n");
    }
    let (zone, ..) = checked(&text);
    let mut found: Vec<String> = zone.records().map(|record| record.owner.to_string()).collect();
    found.dedup();
    let full = sorted.iter().map(|text| name(&format!("{text}.example.org")).to_string());
    let expected: Vec<String> = std::iter::once("example.org.".to_owned()).chain(full).collect();
    assert_eq!(found, expected);
    for name in zone.records.chunk_by(|a, b| a.record.owner == b.record.owner).filter(|records| records.len() == 3) {
        let data: Vec<_> =
            name.iter().map(|placed| (placed.record.rtype, placed.record.data.last().copied())).collect();
        assert_eq!(data, [(Rtype::TXT, Some(b'b')), (Rtype::TXT, Some(b'a')), (Rtype::AAAA, Some(1))]);
    }
    // What finds names has the same order.
    for pair in zone.records.windows(2) {
        let [a, b] = [&pair[0].record.owner, &pair[1].record.owner].map(|name| Labels::of(name.as_bytes()));
        assert!(a.order(&b).is_le() && b.order(&a).is_ge());
    }
}

/// Reads `top.zone` of a directory with these files: records as `OWNER TTL`, faults as `FILE:LINE:COLUMN found, expected`.
fn included(files: &[(&str, &str)], bytes_max: u64) -> Vec<String> {
    let scratch = ScratchDir::new();
    fs::create_dir(scratch.path().join("sub")).expect("made");
    for (name, text) in files {
        fs::write(scratch.path().join(name), text).expect("written");
    }
    let text = read_file(scratch.path().join("top.zone"), bytes_max).unwrap_or_else(|(_, found)| panic!("{found}"));
    let limits = Limits { records: 100, bytes: bytes_max };
    let scanned = scan(&name("example.org"), &text, limits, &mut Files);
    let dir = format!("{}/", scratch.path().display());
    let records = scanned.records.iter().map(|placed| format!("{} {}", placed.record.owner, placed.record.ttl_s));
    let faults = scanned.faults.iter().map(|fault| {
        let file = scanned.files[usize::from(fault.at.file)].display();
        let line = format!("{file}:{}:{} {}, {}", fault.at.line, fault.at.column, fault.found, fault.expected);
        line.replace(&dir, "")
    });
    records.chain(faults).collect()
}

#[test]
fn a_file_may_include_others() {
    let top = "$TTL 5\na A 192.0.2.1\n$INCLUDE sub/one.zone ; here\n A 192.0.2.2\nb A 192.0.2.3\n\
               $INCLUDE \"sub/\\111ne.zone\" other\nc A 192.0.2.4\n";
    let one = "one A 192.0.2.5\n$ORIGIN deep\none A 192.0.2.6\n$TTL 7\n$INCLUDE two.zone\n";
    let files = [("top.zone", top), ("sub/one.zone", one), ("sub/two.zone", "two A 192.0.2.7\n")];
    let expected = [
        "a.example.org. 5",
        "one.example.org. 5",
        "one.deep.example.org. 5",
        "two.deep.example.org. 7",
        "a.example.org. 7",
        "b.example.org. 7",
        "one.other.example.org. 7",
        "one.deep.other.example.org. 7",
        "two.deep.other.example.org. 7",
        "c.example.org. 7",
    ];
    assert_eq!(included(&files, 1_000), expected);
}

#[test]
fn a_fault_names_the_included_file() {
    let top = "$INCLUDE sub/one.zone\n$INCLUDE\n$INCLUDE sub/one.zone . x\n$INCLUDE sub\n$INCLUDE sub/none";
    let one = "\n A 192.0.2.5\na A x\n$INCLUDE ../top.zone\n";
    let found = included(&[("top.zone", top), ("sub/one.zone", one)], 1_000);
    let expected = [
        "sub/one.zone:2:2 a record without owner, an owner in the first one",
        "sub/one.zone:3:5 \"x\", an IPv4 address",
        "sub/one.zone:4:10 sub/../top.zone, which is being read already, files that do not include themselves",
        "top.zone:2:9 the end of the record, the path of a file",
        "top.zone:3:25 \"x\", the end of the record",
        "top.zone:4:10 sub and no way to read it (Is a directory (os error 21)), a readable zone file",
        "top.zone:5:10 sub/none and no way to read it (No such file or directory (os error 2)), a readable zone file",
    ];
    assert_eq!(found, expected);
}

#[test]
fn includes_are_bounded() {
    let names: Vec<String> = (0..10).map(|nth| format!("{nth}.zone")).collect();
    let texts: Vec<String> = (1..=10).map(|nth| format!("$INCLUDE {nth}.zone\n")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().zip(&texts).map(|(name, text)| (&**name, &**text)).collect();
    files.push(("top.zone", "$INCLUDE 0.zone\n"));
    let expected = "6.zone:1:10 a file in a file, 8 deep, and another, files that include each other at most 8 deep";
    assert_eq!(included(&files, 1_000), [expected]);
    // The same small file, again and again.
    let top = "$INCLUDE one.zone\n$INCLUDE one.zone\n";
    let files = [("top.zone", top), ("one.zone", "a A 192.0.2.1\n")];
    let found = included(&files, 60);
    assert_eq!(found, ["a.example.org. 3600", "top.zone:2:10 one.zone and a longer file, a readable zone file"]);
    assert_eq!(included(&files, 64), ["a.example.org. 3600"; 2]);
    let long = "$INCLUDE one.zone\n".repeat(10_001);
    let found = included(&[("top.zone", &long), ("one.zone", "")], 1_000_000);
    assert_eq!(found[0], "top.zone:10000:10 another file, at most 10000 for one zone");
}
