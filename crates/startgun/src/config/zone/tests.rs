//! Zone text becomes exactly these records, and faulty text exactly these faults.

use super::text::scan;
use domain::base::Rtype;
use startgun_core::dns::CanonicalName;

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

/// Each record as `OWNER TTL TYPE HEX`, then each fault as `LINE:COLUMN found, expected`.
fn scanned(text: &str) -> Vec<String> {
    let (records, faults) = scan(&name("example.org"), text, 100);
    let records = records.iter().map(|placed| {
        let record = &placed.record;
        let hex: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {} {hex}", record.owner, record.ttl_s, record.rtype)
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
*.Deep MX 10 @
$ORIGIN sub
txt TXT \"two words\" a\\\"\\065\\; \"\"
a\\.b CNAME .
";
    let example = "076578616d706c65036f726700";
    let soa_data = format!(
        "026e73{example}0a686f73746d6173746572076578616d706c65036e657400000000010000000200000003{}",
        "0000000400000005"
    );
    let expected = [
        format!("example.org. 60 SOA {soa_data}"),
        format!("example.org. 60 NS 026e73{example}"),
        "ns.example.org. 30 A c0000201".into(),
        "ns.example.org. 31 AAAA 20010db8000000000000000000000001".into(),
        format!("*.deep.example.org. 60 MX 000a{example}"),
        "txt.sub.example.org. 60 TXT 0974776f20776f7264730461224\
         13b00"
            .into(),
        "a\\.b.sub.example.org. 60 CNAME 00".into(),
    ];
    assert_eq!(scanned(text), expected);
}

#[test]
fn a_record_without_ttl_takes_the_zones_then_the_last_then_the_default() {
    let ttls = |text: &str| -> Vec<u32> {
        let (records, faults) = scan(&name("example.org"), text, 100);
        assert!(faults.is_empty());
        records.iter().map(|placed| placed.record.ttl_s).collect()
    };
    assert_eq!(ttls("a A 192.0.2.1\na 5 A 192.0.2.2\na A 192.0.2.3"), [3_600, 5, 5]);
    assert_eq!(ttls("a 5 A 192.0.2.2\n$TTL 7\na A 192.0.2.3"), [5, 7]);
}

#[test]
fn every_fault_of_a_text_is_found_in_its_place() {
    let text = "a..b A 192.0.2.1
é A 192.0.2.256
a BANANA 1
$BANANA x
a A 192.0.2.1 192.0.2.2
a A
a CH A 192.0.2.1
a 2147483648 A 192.0.2.1
a TXT \"open
a TXT \\256
a MX 65536 b
a A 192.0.2.9
a ) A 192.0.2.1
 TXT ( ( a";
    let expected = [
        "a.example.org. 3600 A c0000209",
        "9:7 a quote and no end of it, a closing quote on the same line",
        "13:3 ) alone, ( before it",
        "14:8 ( within parentheses, parentheses that are not nested",
        "14:6 ( and no end of it, ) after it",
        "1:1 \"a..b\", a domain name",
        "2:1 \"é\", a domain name",
        "3:3 \"BANANA\", a record type, one of SOA, NS, A, AAAA, CNAME, TXT and MX",
        "4:1 \"$BANANA\", $ORIGIN or $TTL",
        "5:15 \"192.0.2.2\", the end of the record",
        "6:4 the end of the record, an IPv4 address",
        "7:3 \"CH\", class IN",
        "8:3 \"2147483648\", a time to live in seconds, a whole number from 0 to 2147483647",
        "10:7 \"\\256\", three digits up to 255 after \\",
        "11:6 \"65536\", a preference from 0 to 65535",
    ];
    let mut found = scanned(text);
    // What could be made of the lines with faulty quotes and parentheses is beside the point.
    found.retain(|line| !line.contains("TXT 046f") && !line.ends_with("c0000201"));
    assert_eq!(found, expected);
    assert_eq!(scanned(" A 192.0.2.1"), ["1:2 a record without owner, an owner in the first one"]);
    let (records, faults) = scan(&name("."), "a A 192.0.2.1\nb A 192.0.2.1", 1);
    assert_eq!((records.len(), faults.len()), (1, 1));
    assert_eq!(records[0].record.owner, name("a"));
}

#[test]
fn no_text_is_too_odd() {
    let pieces = [
        "a",
        "..",
        "b.c",
        "@",
        " ",
        "\t",
        "\n",
        "(",
        ")",
        "\"",
        ";",
        "\\",
        "\\0",
        "\\.",
        "\\255",
        "$ORIGIN",
        "$TTL",
        "A",
        "NS",
        "MX",
        "TXT",
        "SOA",
        "192.0.2.1",
        "10",
        "4294967296",
        "IN",
        "é",
        "\r\n",
        "\0",
        ".",
        "*",
        "ns ns 1 2 3 4 5",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    // xorshift64: any sequence will do, as long as it is the same each time.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..state % 24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(pieces[(state >> 8) as usize % pieces.len()]);
            text.push_str(if state.is_multiple_of(3) { " " } else { "" });
        }
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let (records, _) = scan(&name("example.org"), &text, 100);
        for placed in &records {
            let owner = placed.record.owner.to_string();
            assert_eq!(name(&owner), placed.record.owner, "from {text:?}");
            assert_ne!(placed.record.rtype, Rtype::ANY);
        }
        taken += records.len();
    }
    assert!(taken > 100, "the texts hold {taken} records, too few to show anything");
}
