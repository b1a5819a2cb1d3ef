//! Zone text becomes exactly these records, and faulty text exactly these faults.

mod types;

use super::*;

/// There is nothing to include.
struct Nothing;

impl Includes for Nothing {
    fn read(&mut self, _: &Path, path: &Path, _: u64) -> Result<ZoneText, (PathBuf, String)> {
        Err((path.to_owned(), "nothing there".into()))
    }
}

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

fn scan_bytes(apex: &str, bytes: &[u8], records: usize) -> Scanned {
    let text = ZoneText { path: "zone".into(), identity: "zone".into(), bytes: bytes.to_owned() };
    scan(&name(apex), &text, Limits { records, bytes: 1 << 20 }, &mut Nothing)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each record as `OWNER TTL TYPE HEX`, then each fault as `LINE:COLUMN found, expected`.
fn scanned(text: impl AsRef<[u8]>) -> Vec<String> {
    let Scanned { records, faults, .. } = scan_bytes("example.org", text.as_ref(), 100);
    let records = records.iter().map(|placed| {
        let record = &placed.record;
        format!("{} {} {} {}", record.owner, record.ttl_s, record.rtype, hexadecimal(&record.data))
    });
    let faults = faults.iter().map(|fault| {
        let at = fault.at;
        format!("{}:{} {}, {}", at.line, at.column, fault.found, fault.expected)
    });
    records.chain(faults).collect()
}

#[test]
fn records_come_out_in_wire_format() {
    let text = "
$TTL 60
@  IN SOA ns hostmaster.example.net. ( 1 ; the serial
        2 3
        4 5 )
   NS  Ns                ; the owner above
ns 30 IN A 192.0.2.1
   in 31 AAAA 2001:db8::1
*.Deep CLASS1 MX 10 @
$ORIGIN Sub
txt TXT \"two words\" a\\\"\\065\\; \"\"
a\\.b CNAME .
(
over.lines A
192.0.2.1 )
TXT TXT TXT\r\n";
    let example = "076578616d706c65036f726700";
    let soa_data = format!(
        "026e73{example}0a686f73746d6173746572076578616d706c65036e657400000000010000000200000003{}",
        "0000000400000005"
    );
    let expected = [
        format!("example.org. 60 SOA {soa_data}"),
        format!("example.org. 60 NS 024e73{example}"),
        "ns.example.org. 30 A c0000201".into(),
        "ns.example.org. 31 AAAA 20010db8000000000000000000000001".into(),
        format!("*.deep.example.org. 60 MX 000a{example}"),
        "txt.sub.example.org. 60 TXT 0974776f20776f726473046122413b00".into(),
        "a\\.b.sub.example.org. 60 CNAME 00".into(),
        "over.lines.sub.example.org. 60 A c0000201".into(),
        "txt.sub.example.org. 60 TXT 03545854".into(),
    ];
    assert_eq!(scanned(text), expected);
    assert_eq!(scanned("\u{FEFF}a A 192.0.2.1"), ["a.example.org. 3600 A c0000201"]);
}

#[test]
fn a_record_knows_where_it_begins() {
    let records = scan_bytes("example.org", b"\n\na A 192.0.2.1\n\t(\n A 192.0.2.2 )\n", 100).records;
    let places: Vec<Place> = records.iter().map(|placed| placed.at).collect();
    assert_eq!(places, [Place { file: 0, line: 3, column: 1 }, Place { file: 0, line: 5, column: 2 }]);
    // Sixteen million records keep theirs.
    assert_eq!((size_of::<Place>(), size_of::<PlacedRecord>()), (8, 48));
    let far = format!("{}a A x", "( ) ".repeat(20_000));
    assert_eq!(scanned(far)[0], "1:65535 \"x\", an IPv4 address");
}

#[test]
fn a_record_without_ttl_takes_the_zones_then_the_last_then_the_default() {
    let ttls = |text: &str| -> Vec<u32> {
        let Scanned { records, faults, .. } = scan_bytes("example.org", text.as_bytes(), 100);
        assert!(faults.is_empty(), "{}", faults[0].found);
        records.iter().map(|placed| placed.record.ttl_s).collect()
    };
    assert_eq!(ttls("a A 192.0.2.1\na 5 A 192.0.2.2\na A 192.0.2.3"), [3_600, 5, 5]);
    assert_eq!(ttls("a 5 A 192.0.2.2\n$TTL 7\na A 192.0.2.3"), [5, 7]);
    assert_eq!(
        ttls("$TTL 1h30m\na A 192.0.2.1\na 1w2D3h4M5s IN A 192.0.2.2\na IN 2m A 192.0.2.3"),
        [5_400, 788_645, 120]
    );
    assert_eq!(ttls("a 5s5S A 192.0.2.1\na 2147483647 A 192.0.2.2"), [10, 2_147_483_647]);
    for faulty in ["2147483648", "1h30", "30mh", "1x", "-1", "+1", "1.5h", "3551w", "99999999999"] {
        let found = scanned(format!("a A 192.0.2.1\n$TTL {faulty}"));
        assert_eq!(found[1], format!("2:6 \"{faulty}\", {TTL}"));
    }
}

#[test]
fn times_of_a_soa_record_may_be_in_units() {
    let data = |numbers: &str| scanned(format!("@ SOA . . {numbers}"))[0].clone();
    assert_eq!(data("4294967295 2h 15m 1w2d 1H"), "example.org. 3600 SOA 0000ffffffff00001c2000000384000bdd8000000e10");
    assert_eq!(data("1h 2 3 4 5"), "1:11 \"1h\", a serial, a whole number of 32 bits");
    let expected = "1:15 \"8000w\", the time to retry in seconds of 32 bits, or in units, such as 1h30m";
    assert_eq!(data("1 2 8000w 4 5"), expected);
}

#[test]
fn bytes_are_bytes_in_strings_and_escapes_in_names() {
    let text = b"\\000\\255\\.a\\032 TXT \"caf\xe9\" \xe9 \\233 \"tab\there\" \"back\\\\slash\"";
    let expected =
        ["\\000\\255\\.a\\ .example.org. 3600 TXT 04636166e901e901e90874616209686572650a6261636b5c736c617368"];
    assert_eq!(scanned(text), expected);
    assert_eq!(
        scanned("A\\B CNAME C\\D.\\E"),
        ["ab.example.org. 3600 CNAME 024344014507657861".to_owned() + "6d706c65036f726700"]
    );
    assert_eq!(scanned(b"\xe9 A 192.0.2.1"), ["1:1 \"\u{FFFD}\", a domain name"]);
    // The column counts characters where there are any.
    assert_eq!(scanned("a TXT é\né TXT é"), ["a.example.org. 3600 TXT 02c3a9", "2:1 \"é\", a domain name"]);
    assert_eq!(
        scanned("a TXT \"é\" \\256")[0],
        "1:11 \"\\256\", three digits up to 255, or another character, after \\"
    );
}

#[test]
fn names_and_strings_have_their_greatest_lengths() {
    let label = "x".repeat(63);
    assert!(scanned(format!("{label} TXT {}", "y".repeat(255)))[0].contains(" TXT ff79"));
    let long = format!("{label}.{label}.{label}.{}", "x".repeat(49));
    assert!(scanned(format!("{long} A 192.0.2.1"))[0].ends_with(" 3600 A c0000201"), "of 255 bytes");
    let shown = "x".repeat(60);
    let cases = [
        (format!("{label}x A 192.0.2.1"), "1:1", "a domain name, labels of at most 63 bytes"),
        (format!("{long}x A 192.0.2.1"), "1:1", "a domain name of at most 255 bytes"),
        (format!("a NS {long}x"), "1:6", "a domain name of at most 255 bytes"),
        (format!("a TXT {}", "x".repeat(256)), "1:7", "at most 255 bytes in one character string"),
    ];
    for (text, place, expected) in cases {
        assert_eq!(scanned(text), [format!("{place} \"{shown}…\", {expected}")]);
    }
    for odd in ["a..b", ".a", "..", "\"a\"", "a\\25", "a\\256"] {
        assert_eq!(
            scanned(format!("{odd} A 192.0.2.1")),
            [format!("1:1 \"{}\", a domain name", odd.trim_matches('"'))]
        );
    }
    assert_eq!(scanned(". A 192.0.2.1"), ["1:1 a record of ., names in zone example.org."]);
}

#[test]
fn every_fault_of_a_text_is_found_in_its_place() {
    let text = "a..b A 192.0.2.1
a A 192.0.2.256
a BANANA 1
$BANANA x
a A 192.0.2.1 192.0.2.2
a A
a CH A 192.0.2.1
a IN IN A 192.0.2.1
a 5 5 A 192.0.2.1
a ANY 192.0.2.1
a TXT \"open
a OPT x
a MX 65536 b
a MX 1 ; nothing
a A 192.0.2.9
a ) A 192.0.2.1
a.example.net. A 192.0.2.1
$ORIGIN a b
a WKS 192.0.2.1 6 25
$INCLUDE nothing/there
 TXT ( ( a";
    let expected = [
        "a.example.org. 5 A c0000209",
        "1:1 \"a..b\", a domain name",
        "2:5 \"192.0.2.256\", an IPv4 address",
        "3:3 \"BANANA\", a record type, such as AAAA or TYPE65280",
        "4:1 \"$BANANA\", $ORIGIN, $TTL or $INCLUDE",
        "5:15 \"192.0.2.2\", the end of the record",
        "6:4 the end of the record, an IPv4 address",
        "7:3 \"CH\", class IN",
        "8:6 \"IN\", a record type, such as AAAA or TYPE65280",
        "9:5 \"5\", a record type, such as AAAA or TYPE65280",
        "10:3 \"ANY\", a type of records that zones hold",
        "11:7 a quote and no end of it, a closing quote on the same line",
        "12:3 \"OPT\", a type of records that zones hold",
        "13:6 \"65536\", a smaller number",
        "14:7 the end of the record, a domain name",
        "16:3 ) alone, ( before it",
        "17:1 a record of a.example.net., names in zone example.org.",
        "18:11 \"b\", the end of the record",
        "19:3 \"WKS\", another type, or WKS \\# with length and hexadecimal digits",
        "20:10 nothing/there and nothing there, a readable zone file",
        "21:8 ( within parentheses, parentheses that are not nested",
    ];
    assert_eq!(scanned(text), expected);
    assert_eq!(scanned(" A 192.0.2.1"), ["1:2 a record without owner, an owner in the first one"]);
    assert_eq!(scanned("a A ( 192.0.2.1"), ["1:5 ( and no end of it, ) after it"]);
    for rtype in ["TYPE0", "TYPE41", "TYPE128", "TYPE255", "TYPE65535"] {
        assert_eq!(
            scanned(format!("a {rtype} \\# 0")),
            [format!("1:3 \"{rtype}\", a type of records that zones hold")]
        );
    }
}

#[test]
fn what_is_read_is_bounded() {
    let Scanned { records, faults, .. } = scan_bytes(".", b"a A 192.0.2.1\nb A 192.0.2.1\nb A 192.0.2.1", 1);
    assert_eq!((records.len(), faults.len()), (1, 1));
    assert_eq!(records[0].record.owner, name("a"));
    assert_eq!(faults[0].expected, "at most 16777216 in all zones");
    assert_eq!(scanned("a A x\n".repeat(100)).len(), FAULTS_MAX);
    // A parenthesis forgotten at the top of a large file.
    let found = scanned(format!("a TXT (\n{}", "b ".repeat(1 << 18)));
    assert_eq!(found, ["1:7 a record without end, at most 262144 words in one"]);
    let strings = "x".repeat(249);
    let most = scan_bytes("example.org", format!("a TXT {}", format!("{strings} ").repeat(260)).as_bytes(), 1);
    assert_eq!(most.records[0].record.data.len(), 65_000);
    let found = scanned(format!("a TXT y {}", format!("{strings} ").repeat(260)));
    assert_eq!(found, ["1:1 65002 bytes of data, at most 65000"]);
}

#[test]
fn no_text_is_too_odd() {
    let pieces: [&[u8]; 64] = [
        b"a",
        b"..",
        b"b.c",
        b"@",
        b" ",
        b"\t",
        b"\n",
        b"(",
        b")",
        b"\"",
        b";",
        b"\\",
        b"\\0",
        b"\\.",
        b"\\255",
        b"$ORIGIN",
        b"$TTL",
        b"$INCLUDE",
        b"A",
        b"NS",
        b"MX",
        b"TXT",
        b"SOA",
        b"192.0.2.1",
        b"10",
        b"4294967296",
        b"IN",
        b"\xe9",
        b"\r\n",
        b"\0",
        b".",
        b"*",
        b"ns ns 1 2 3 4 5",
        b"\\#",
        b"4",
        b"C0000201",
        b"SVCB",
        b"alpn=",
        b"key1=\\002h2",
        b"mandatory=alpn",
        b"ipv4hint=1.2.3.4,",
        b"LOC",
        b"42 21 54 N 71 06 18 W -24m",
        b"APL",
        b"!1:192.168.38.0/28",
        b"HIP",
        b"DNSKEY",
        b"256 3 8",
        b"AQNRU3mG",
        b"RRSIG",
        b"20300101000000",
        b"NSEC3",
        b"1 0 0 -",
        b"2vptu5timamqttgl4luu9kg21e0aor3t",
        b"CAA",
        b"0 issue",
        b"IPSECKEY",
        b"AMTRELAY",
        b"TYPE65280",
        b"CLASS1",
        b"1h30m",
        b"DS",
        b"aabb",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let data: [&[u8]; 8] =
        [b"A 192.0.2.1", b"TXT ", b"NS a", b"SVCB 1 . ", b"TYPE65280 \\# 4 ", b"NSEC a A ", b"APL ", b"CAA 0 issue "];
    let mut random = Random::new();
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut text = Vec::new();
        if random.below(4) > 0 {
            text = [b"a ", data[random.below(data.len())]].concat();
        }
        for _ in 0..random.below(16) {
            text.extend_from_slice(pieces[random.below(pieces.len())]);
            text.extend_from_slice(if random.below(3) > 0 { b" " } else { b"" });
        }
        let Scanned { records, faults, .. } = scan_bytes("example.org", &text, 100);
        for placed in &records {
            let owner = placed.record.owner.to_string();
            assert_eq!(name(&owner), placed.record.owner, "from {text:?}");
            assert!(data::is_in_zones(placed.record.rtype));
        }
        assert!(faults.len() <= FAULTS_MAX);
        taken += records.len();
    }
    assert!(taken > 1_000, "the texts hold {taken} records, too few to show anything");
}

/// xorshift64: any sequence will do, as long as it is the same each time.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}
