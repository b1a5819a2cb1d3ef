//! Every type's data, as text and in wire format; the bytes are those that BIND 9.18 (`named-rrchecker -u`) says.

use domain::base::name::{Name, ParsedName};
use domain::base::rdata::ParseRecordData;
use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt};
use domain::dep::octseq::parse::Parser;
use domain::rdata::ZoneRecordData;

use super::*;

/// Type and data, and the data in wire format; names are relative to `Example.org.`, which is `{O}`.
const TYPES: &[(&str, &str)] = &[
    ("A 192.0.2.1", "c0000201"),
    (r"A \# 4 C0000201", "c0000201"),
    ("NS ns", "026e73{O}"),
    ("MD Mail", "044d61696c{O}"),
    ("MF Mail", "044d61696c{O}"),
    ("CNAME Www.Example.NET.", "03577777074578616d706c65034e455400"),
    (
        "SOA ns Host.Example.net. 2025010101 2h 15M 1w2d 86400",
        "026e73{O}04486f7374074578616d706c65036e65740078b333b500001c2000000384000bdd8000015180",
    ),
    ("MB Mail", "044d61696c{O}"),
    ("MG Mail", "044d61696c{O}"),
    ("MR Mail", "044d61696c{O}"),
    (r"NULL \# 2 01 02", "0102"),
    (r"WKS \# 6 C0000201 06 80", "c00002010680"),
    ("PTR @", "{O}"),
    (r#"HINFO "PC with DOS" Linux"#, "0b5043207769746820444f53054c696e7578"),
    ("MINFO Req Err.example.net.", "03526571{O}03457272076578616d706c65036e657400"),
    ("MX 10 Mail", "000a044d61696c{O}"),
    (r#"TXT "two words" a\"\065\; "" caf\233"#, "0974776f20776f726473046122413b0004636166e9"),
    ("RP Admin.Example.org. .", "0541646d696e{O}00"),
    ("AFSDB 1 Afs", "000103416673{O}"),
    ("X25 311061700956", "0c333131303631373030393536"),
    (r#"ISDN 150862028003217 "004""#, "0f31353038363230323830303332313703303034"),
    ("ISDN 150862028003217", "0f313530383632303238303033323137"),
    ("RT 2 Relay", "00020552656c6179{O}"),
    ("NSAP 0x47.0005.80.005a00.0000.0001.e133.ffffff000162.00", "47000580005a0000000001e133ffffff00016200"),
    ("NSAP-PTR foo", "03666f6f{O}"),
    (
        "SIG A 5 3 86400 20030322173103 20030220173103 2642 Example.com. oJB1W6WN",
        "00010503000151803e7c9dd73e5510d70a52074578616d706c6503636f6d00a090755ba58d",
    ),
    ("KEY 256 3 5 AQPSKmynfzW4", "010003050103d22a6ca77f35b8"),
    ("KEY 49152 3 5", "c0000305"),
    ("PX 10 Map822 Mapx400", "000a064d6170383232{O}074d617078343030{O}"),
    ("GPOS -32.6882 116.8652 10.0", "082d33322e36383832083131362e383635320431302e30"),
    ("AAAA 2001:DB8::1", "20010db8000000000000000000000001"),
    ("LOC 42 21 54 N 71 06 18 W -24m 30m", "0033161389172dd070be15f000988d20"),
    ("LOC 32 7 19.123 S 116 2 E 10.25 0.5m 99m 0", "00519300791b7cad98e5e6c000989a81"),
    ("SRV 1 2 5060 Sip", "0001000213c403536970{O}"),
    (
        r#"NAPTR 100 50 "s" "z3950+I2L+I2C" "" _z3950._tcp.Gatech"#,
        "0064003201730d7a333935302b49324c2b49324300065f7a33393530045f74637006476174656368{O}",
    ),
    (
        r#"NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" ."#,
        "0064000a0175074532552b7369701b215e2e2a24217369703a696e666f406578616d706c652e636f6d2100",
    ),
    ("KX 10 Kx", "000a024b78{O}"),
    ("CERT PKIX 12345 RSASHA256 AQIDBAUG BwgJ", "0001303908010203040506070809"),
    ("CERT 65000 1 8 AQIDBAUG", "fde8000108010203040506"),
    ("DNAME Other.Example.", "054f74686572074578616d706c6500"),
    (
        "APL 1:192.168.32.0/21 !1:192.168.38.0/28 2:2001:db8::/32 1:0.0.0.0/0",
        "00011503c0a82000011c83c0a8260002200420010db800010000",
    ),
    ("APL", ""),
    (
        "DS 60485 RSASHA256 1 2BB183AF5F22588179A53B0A 98631FAD1A292118",
        "ec4508012bb183af5f22588179a53b0a98631fad1a292118",
    ),
    (
        "DS 60485 13 2 D4B7D520E7BB5F0F67674A0CCEB1E3E0614B93C4F9E99B8383F6A1E4469DA50A",
        "ec450d02d4b7d520e7bb5f0f67674a0cceb1e3e0614b93c4f9e99b8383f6a1e4469da50a",
    ),
    ("SSHFP 2 1 123456789abcdef67890123456789abcdef67890", "0201123456789abcdef67890123456789abcdef67890"),
    ("IPSECKEY 10 1 2 192.0.2.38 AQNRU3mG7TVTO2Bk", "0a0102c0000226010351537986ed35533b6064"),
    ("IPSECKEY 10 0 2 . AQNRU3mG7TVTO2Bk", "0a0002010351537986ed35533b6064"),
    ("IPSECKEY 10 3 2 Gw.Example. AQNRU3mG7TVTO2Bk", "0a0302024777074578616d706c6500010351537986ed35533b6064"),
    ("IPSECKEY 10 2 2 2001:db8::8 AQNRU3mG7TVTO2Bk", "0a020220010db8000000000000000000000008010351537986ed35533b6064"),
    (
        "RRSIG A 5 3 86400 20030322173103 20030220173103 2642 Example.com. oJB1W6WNGv+ldvQ3 WDG0MQkg",
        "00010503000151803e7c9dd73e5510d70a52074578616d706c6503636f6d00a090755ba58d1affa576f4375831b4310920",
    ),
    (
        "RRSIG TYPE65280 RSASHA256 3 86400 1048354263 1045762263 2642 example.com. AQID",
        "ff000803000151803e7c9dd73e5510d70a52076578616d706c6503636f6d00010203",
    ),
    (
        "NSEC Host.Example.com. A MX RRSIG NSEC TYPE1234",
        "04486f7374074578616d706c6503636f6d000006400100000003041b000000000000000000000000000000000000000000000000000020",
    ),
    ("DNSKEY 256 3 RSASHA1 AQPSKmynfzW4kyBv 015MUG2DeIQ3Cg==", "010003050103d22a6ca77f35b893206fd35e4c506d837884370a"),
    (
        "DHCID AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=",
        "000201636fc0b8271c82825bb1ac5c41cf5351aa69b4febd94e8f17cdb95000da48c40",
    ),
    (
        "NSEC3 1 1 12 aabbccdd 2vptu5timamqttgl4luu9kg21e0aor3t MX DNSKEY NS SOA RRSIG",
        "0101000c04aabbccdd1417f3df17b2b2adaef615257de4d2020b80ac6c7d000722010000000280",
    ),
    ("NSEC3 1 0 0 - 2vptu5timamqttgl4luu9kg21e0aor3t", "01000000001417f3df17b2b2adaef615257de4d2020b80ac6c7d"),
    ("NSEC3PARAM 1 0 12 aabbccdd", "0100000c04aabbccdd"),
    ("NSEC3PARAM 1 0 0 -", "0100000000"),
    (
        "TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b9 7983a1d16e8a410e4561cb106618e971",
        "030101d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971",
    ),
    (
        "SMIMEA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971",
        "030101d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971",
    ),
    (
        "HIP 2 200100107B1A74DF365639CC39F1D578 AwEAAbdxyhNuSutc Rvs.Example.com. rvs2",
        "1002000c200100107b1a74df365639cc39f1d57803010001b771ca136e4aeb5c03527673074578616d706c6503636f6d000472767332{O}",
    ),
    (r#"NINFO "status" ok"#, "06737461747573026f6b"),
    ("RKEY 0 255 1 AQNRU3mG", "0000ff01010351537986"),
    ("TALINK Before After", "064265666f7265{O}054166746572{O}"),
    ("CDS 0 0 0 00", "0000000000"),
    ("CDS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "ec4505012bb183af5f22588179a53b0a98631fad1a292118"),
    ("CDNSKEY 0 3 0 AA==", "0000030000"),
    ("OPENPGPKEY AQNRU3mG7TVTO2Bk R47usntb", "010351537986ed35533b6064478eeeb27b5b"),
    ("CSYNC 66 3 A NS AAAA", "000000420003000460000008"),
    (
        "ZONEMD 2018031500 1 1 62e6cf51b02e54b9b5f967d547ce43136792901f9f88e637493daaf401c92c279dd10f0edb1c56f8080211f8480ee306",
        "7848b78c010162e6cf51b02e54b9b5f967d547ce43136792901f9f88e637493daaf401c92c279dd10f0edb1c56f8080211f8480ee306",
    ),
    (
        "SVCB 16 Foo.example.org. alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
        "001003466f6f076578616d706c65036f7267000000000400010004000100090268320568332d313900040004c0000201",
    ),
    (r#"SVCB 16 foo alpn="f\\\\oo\\,bar,h2""#, "001003666f6f{O}0001000c08665c6f6f2c626172026832"),
    (r"SVCB 16 foo alpn=f\\\092oo\092,bar,h2", "001003666f6f{O}0001000c08665c6f6f2c626172026832"),
    (r#"SVCB 1 foo key667="hello\210qoo""#, "000103666f6f{O}029b000968656c6c6fd2716f6f"),
    (
        r#"SVCB 1 foo ipv6hint="2001:db8:122:344::192.0.2.33""#,
        "000103666f6f{O}0006001020010db80122034400000000c0000221",
    ),
    ("SVCB 0 foo.example.com.", "000003666f6f076578616d706c6503636f6d00"),
    (
        r#"SVCB 1 . port=53 no-default-alpn alpn=h2 key65409="x" key65280"#,
        "0001000001000302683200020000000300020035ff000000ff81000178",
    ),
    (
        r#"HTTPS 1 . alpn="h2,h3" port=8443 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1 ech=AQIDBA=="#,
        "000100000100060268320268330003000220fb00040008c0000201c000020200050004010203040006001020010db8000000000000000000000001",
    ),
    ("HTTPS 0 Svc", "000003537663{O}"),
    (
        r"HTTPS 1 . alpn=dot dohpath=/dns-query{?dns} key4=\192\000\002\001",
        "0001000001000403646f7400040004c0000201000700102f646e732d71756572797b3f646e737d",
    ),
    ("DSYNC CDS NOTIFY 5359 Cds-scanner.example.net.", "003b0114ef0b4364732d7363616e6e6572076578616d706c65036e657400"),
    (r#"SPF "v=spf1 -all""#, "0b763d73706631202d616c6c"),
    ("NID 10 0014:4fff:ff20:ee64", "000a00144fffff20ee64"),
    ("L32 10 10.1.2.0", "000a0a010200"),
    ("L64 10 2001:0DB8:1140:1000", "000a20010db811401000"),
    ("LP 10 L64-subnet1", "000a0b4c36342d7375626e657431{O}"),
    ("EUI48 00-00-5e-00-53-2A", "00005e00532a"),
    ("EUI64 00-00-5e-ef-10-00-00-2a", "00005eef1000002a"),
    (
        r#"URI 10 1 "ftp://ftp1.example.com/public""#,
        "000a00016674703a2f2f667470312e6578616d706c652e636f6d2f7075626c6963",
    ),
    (
        r#"CAA 0 issue "ca1.example.net; policy=ev""#,
        "000569737375656361312e6578616d706c652e6e65743b20706f6c6963793d6576",
    ),
    ("CAA 128 tbs Unknown", "8003746273556e6b6e6f776e"),
    (r#"AVC "app-name:WOLFGANG|app-class:OAM""#, "1f6170702d6e616d653a574f4c4647414e477c6170702d636c6173733a4f414d"),
    ("AMTRELAY 10 0 1 203.0.113.15", "0a01cb00710f"),
    ("AMTRELAY 10 1 3 Relay", "0a830552656c6179{O}"),
    ("AMTRELAY 10 0 0 .", "0a00"),
    ("AMTRELAY 128 0 2 2001:db8::15", "800220010db8000000000000000000000015"),
    ("RESINFO qnamemin exterr=15-17", "08716e616d656d696e0c6578746572723d31352d3137"),
    ("WALLET BTC abc", "0342544303616263"),
    ("TA 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "ec4505012bb183af5f22588179a53b0a98631fad1a292118"),
    ("DLV 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "ec4505012bb183af5f22588179a53b0a98631fad1a292118"),
    (r"TYPE65280 \# 4 0A 000001", "0a000001"),
    (r"TYPE731 \# 0", ""),
    ("TYPE33 0 0 0 .", "00000000000000"),
];

/// Reads one record of `Example.org.`: its type and data, or what is wrong with it.
fn read(text: &str) -> Result<(Rtype, Vec<u8>), String> {
    let Scanned { records, faults, .. } =
        scan_bytes("example.org", format!("$ORIGIN Example.org.\n@ {text}").as_bytes(), 1);
    match (records.first(), faults.first()) {
        (Some(placed), None) => Ok((placed.record.rtype, placed.record.data.to_vec())),
        (_, Some(fault)) => Err(format!("{} found {}, expected {}", fault.at.column, fault.found, fault.expected)),
        (None, None) => Err("nothing".into()),
    }
}

/// The record as bytes of a type by number.
fn generic(rtype: Rtype, data: &[u8]) -> String {
    format!("TYPE{} \\# {} {}", rtype.to_int(), data.len(), hexadecimal(data))
}

fn wire(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.replace("{O}", "074578616d706c65036f726700");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits")).collect()
}

#[test]
fn every_type_is_read_into_its_wire_format() {
    let mut types = std::collections::BTreeSet::new();
    for (text, expected) in TYPES {
        let (rtype, data) = read(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert_eq!(hexadecimal(&data), hexadecimal(&wire(expected)), "{text}");
        assert_eq!(read(&generic(rtype, &data)), Ok((rtype, data)), "{text} as bytes");
        types.insert(rtype);
    }
    // Nothing that is read by its own words is missing in the table.
    let known = |rtype: &Rtype| {
        fields::of(*rtype).is_some() || library::knows(*rtype) || matches!(*rtype, Rtype::SVCB | Rtype::HTTPS)
    };
    let known: Vec<Rtype> = (0..=u16::MAX).map(Rtype::from_int).filter(known).collect();
    let missing: Vec<&Rtype> = known.iter().filter(|rtype| !types.contains(rtype)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The document lists them.
    let listed =
        include_str!("../../../../../../../docs/zones.md").split_once("by their own words:").expect("a list").1;
    let listed = listed.split_once(".\n").expect("its end").0.split(',').map(str::trim);
    let listed: std::collections::BTreeSet<Rtype> = listed.map(|word| data::read_type(word).expect(word)).collect();
    assert_eq!(listed, known.into_iter().collect());
}

#[test]
fn faulty_data_is_refused_in_its_place() {
    let cases = [
        ("TLSA 3 1 1", "13 found the end of the record, expected certificate association data"),
        ("TLSA 3 1 1 abc", "14 found \"abc\", expected hexadecimal digits, two for each byte"),
        ("DNSKEY 256 3 8", "17 found the end of the record, expected a public key"),
        ("DNSKEY 256 3 RSASHA257 AQ==", "16 found \"RSASHA257\", expected an algorithm, by number or name"),
        ("DNSKEY 256 3 8 AQ=A", "18 found \"AQ=A\", expected base 64"),
        (
            "RRSIG A 8 2 9 20301301000000 1 1 a AQ==",
            "17 found \"20301301000000\", expected a time, as YYYYMMDDHHMMSS or in seconds since 1970",
        ),
        ("RRSIG A 8 2 9 20301201000000 1 1 a", "37 found the end of the record, expected a signature"),
        ("DS 1 8 2 aabb", "12 found \"aabb\", expected a SHA-256 digest of 32 bytes"),
        ("ZONEMD 1 1 5 aabb", "16 found \"aabb\", expected a digest of 12 bytes or more"),
        ("NSEC a", "9 found the end of the record, expected record types"),
        ("NSEC a BANANA", "10 found \"BANANA\", expected a record type"),
        (
            "NSEC3 1 0 0 - 2vptu5timamqttgl4luu9kg21e0aor3",
            "17 found \"2vptu5timamqttgl4luu9kg21e0aor3\", expected a hash of 20 bytes, 32 digits of base 32",
        ),
        ("MX \"10\" a", "6 found \"10\", expected the same without quotes"),
        ("SRV 1 2 3", "12 found the end of the record, expected a domain name"),
        ("TXT", "6 found the end of the record, expected more data of a record of type TXT"),
        (
            "CAA 0 iss-ue x",
            "9 found \"iss-ue\", expected the data of a record of type CAA (CAA tag contains invalid character)",
        ),
        ("CAA 0 \"\" x", "12 found \"x\", expected a property tag of at least one character"),
        ("LOC 91 N 0 E 0", "7 found \"91\", expected degrees, a whole number up to 90"),
        ("LOC 90 0 0.001 N 0 E 0", "7 found \"90\", expected degrees, a whole number up to 90"),
        ("LOC 1 2.5 N 1 E 0m", "9 found \"2.5\", expected minutes, a whole number up to 59"),
        ("LOC 1 N 1 N 0", "13 found \"N\", expected E or W"),
        (
            "LOC 1 N 1 E -100000.01",
            "15 found \"-100000.01\", expected an altitude in metres, from -100000.00 to 42849672.95",
        ),
        ("LOC 1 N 1 E 0 90000000.001m", "17 found \"90000000.001m\", expected a size in metres, from 0 to 90000000.00"),
        (
            "APL 1:192.0.2.0/33",
            "7 found \"1:192.0.2.0/33\", expected a prefix such as 1:192.0.2.0/24, 2:2001:db8::/32 or !1:192.0.2.64/28",
        ),
        (
            "EUI48 0-0-5e-00-53-2a",
            "9 found \"0-0-5e-00-53-2a\", expected 6 bytes of two hexadecimal digits, with - between them",
        ),
        (
            "NID 1 1:2:3",
            "9 found \"1:2:3\", expected 64 bits as four groups of up to four hexadecimal digits, with : between them",
        ),
        ("HIP 2 aabb", "13 found the end of the record, expected a public key in base 64"),
        (
            "AMTRELAY 1 0 4 x",
            "16 found \"4\", expected a relay's kind: 0 for none, 1 for IPv4, 2 for IPv6, 3 for a name",
        ),
        ("URI 1 1 \"\"", "11 found \"\", expected a text that is not empty"),
        ("CERT FOO 1 8 AQ==", "8 found \"FOO\", expected a certificate's type, by number or name"),
        (
            "SVCB 1 . alpn=a,,b",
            "12 found \"alpn=a,,b\", expected alpn with protocols of 1 to 255 bytes, with commas between them",
        ),
        ("SVCB 1 . alpn=\"h2\"x", "21 found \"x\", expected a parameter, such as alpn=h2 or key65280=value"),
        ("SVCB 1 . alpn=\"h2\"port=1", "21 found \"port=1\", expected a parameter, such as alpn=h2 or key65280=value"),
        ("SVCB 1 . port=1 port=2", "19 found \"port=2\", expected port once"),
        ("SVCB 1 . key3=8", "12 found \"key3=8\", expected key3 with a port, a whole number from 0 to 65535"),
        ("SVCB 1 . key65535=a", "12 found \"key65535=a\", expected a parameter, such as alpn=h2 or key65280=value"),
        ("SVCB 1 . ech=", "12 found \"ech=\", expected a value behind ech="),
        ("SVCB 1 . mandatory=port", "12 found \"mandatory=port\", expected port too, which the others ask for"),
        ("SVCB 1 . no-default-alpn", "12 found \"no-default-alpn\", expected alpn too, which the others ask for"),
        ("HTTPS 1 . dohpath=/q", "13 found \"dohpath=/q\", expected dohpath with a URI template with {?dns}"),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), Err(expected.into()), "{text}");
    }
}

#[test]
fn data_as_bytes_is_what_its_type_says() {
    // What a type's data ends with may be of any length where it is not a list here.
    let open = [
        Rtype::NULL,
        Rtype::WKS,
        Rtype::NSAP,
        Rtype::SIG,
        Rtype::KEY,
        Rtype::CERT,
        Rtype::SSHFP,
        Rtype::IPSECKEY,
        Rtype::RRSIG,
        Rtype::DNSKEY,
        Rtype::DHCID,
        Rtype::TLSA,
        Rtype::SMIMEA,
        Rtype::RKEY,
        Rtype::CDNSKEY,
        Rtype::OPENPGPKEY,
        Rtype::URI,
        Rtype::CAA,
        Rtype::CDS,
    ];
    let is_open = |rtype: Rtype| {
        open.contains(&rtype) || rtype.to_int() >= 700 && rtype.to_int() < 32_768 || rtype.to_int() == 65_280
    };
    for (text, expected) in TYPES {
        let data = wire(expected);
        let (rtype, _) = read(text).expect(text);
        let longer = [&data[..], &[0x41]].concat();
        let is_refused = |data: &[u8]| read(&generic(rtype, data)).is_err();
        if !is_open(rtype) {
            assert!(is_refused(&longer), "{text} and a byte");
            assert!(data.is_empty() || is_refused(&data[..data.len() - 1]), "{text} without its last byte");
        }
    }
    let expected = "14 found \"c000\", expected bytes that are the data of a record of type NS";
    assert_eq!(read("TYPE2 \\# 2 c000"), Err(expected.into()), "a pointer is no name here");
    assert!(read("TYPE14 \\# 5 016100c000").is_err(), "not even to a name before it");
    let cases = [
        ("TYPE65280 \\# 2 0a", "20 found the end of the record, expected 2 bytes in hexadecimal digits, 1 more"),
        ("TYPE65280 \\# 1 0a 0b", "21 found \"0b\", expected 1 bytes in hexadecimal digits"),
        ("TYPE65280 \\# 1 0a0", "18 found \"0a0\", expected hexadecimal digits, two for each byte"),
        ("TYPE65280 \\# 65536 0a", "16 found \"65536\", expected the number of bytes, from 0 to 65535"),
        ("TYPE65280 \\# +1 0a", "16 found \"+1\", expected the number of bytes, from 0 to 65535"),
        ("TYPE65280 \\# 1 +a", "18 found \"+a\", expected hexadecimal digits, two for each byte"),
        (
            "TYPE65280 abc",
            "3 found \"TYPE65280\", expected another type, or TYPE65280 \\# with length and hexadecimal digits",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), Err(expected.into()), "{text}");
    }
}

/// Data as the library prints it; `None` for types that it does not know. Of service bindings it prints the bytes of a
/// protocol as characters and its commas as they are: their parameters are printed here, by number.
fn printed(rtype: Rtype, data: &[u8]) -> Option<String> {
    let mut parser = Parser::from_ref(data);
    let parsed = ZoneRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(rtype, &mut parser).ok()??;
    let parameters = match &parsed {
        ZoneRecordData::Unknown(_) => return None,
        ZoneRecordData::Svcb(service) => service.params().as_slice(),
        ZoneRecordData::Https(service) => service.params().as_slice(),
        parsed => return Some(format!("{rtype} {}", parsed.display_zonefile(DisplayKind::Simple))),
    };
    let name = Name::<&[u8]>::from_octets(&data[2..data.len() - parameters.len()]).expect("a name");
    let mut text = format!("{rtype} {} {}", u16::from_be_bytes([data[0], data[1]]), name.fmt_with_dot());
    let mut rest = parameters;
    while let [key_high, key_low, _, length, behind @ ..] = rest {
        let (value, behind) = behind.split_at(usize::from(*length));
        let value: String = value.iter().map(|byte| format!("\\{byte:03}")).collect();
        text += &format!(" key{}=\"{value}\"", u16::from_be_bytes([*key_high, *key_low]));
        rest = behind;
    }
    Some(text)
}

#[test]
fn what_is_printed_from_wire_format_is_read_as_the_same() {
    let mut count = 0;
    let mut random = Random::new();
    for (text, expected) in TYPES {
        let (rtype, _) = read(text).expect(text);
        let sound = wire(expected);
        for nth in 0..200 {
            // The data itself, then with some bytes changed. The library (0.12.3) leaves these as they are in a name.
            let mut data = sound.clone();
            for _ in 0..nth.min(3).min(data.len()) {
                let (at, byte) = (random.below(data.len()), random.below(256) as u8);
                data[at] = if b" \"();@".contains(&byte) { 0 } else { byte };
            }
            if read(&generic(rtype, &data)).is_err() {
                continue;
            }
            // It leaves out the dot for no gateway, too (RFC 4025 section 3.1).
            if rtype == Rtype::IPSECKEY && data[1] == 0 {
                continue;
            }
            let Some(printed) = printed(rtype, &data) else { break };
            assert_eq!(read(&printed), Ok((rtype, data)), "{printed}");
            count += 1;
        }
    }
    assert!(count > 3_000, "{count} texts are too few");
}

#[test]
fn what_is_written_into_a_copy_is_read_as_the_same() {
    let mut random = Random::new();
    let mut in_words = 0;
    for (text, expected) in TYPES {
        let (rtype, _) = read(text).expect(text);
        for nth in 0..200 {
            let mut data = wire(expected);
            for _ in 0..nth.min(3).min(data.len()) {
                let at = random.below(data.len());
                data[at] = random.below(256) as u8;
            }
            if read(&generic(rtype, &data)).is_err() {
                continue;
            }
            // An owner with every byte that there is, over time.
            let byte = |at: usize| format!("\\{:03}", (nth * 4 + at) % 256);
            let owner = name(&format!("{}{}.{}{}.example.org", byte(0), byte(1), byte(2), byte(3)));
            let record = Record { owner, rtype, ttl_s: nth as u32, data: data.into() };
            let mut line = String::new();
            write_record(&record, &mut line);
            let Scanned { records, faults, .. } = scan_bytes("example.org", line.as_bytes(), 1);
            assert!(faults.is_empty(), "{line}: {}", faults[0].found);
            assert_eq!(records[0].record, record, "{line}");
            in_words += u32::from(!line.contains("\\# "));
        }
    }
    assert!(in_words > 1_000, "{in_words} lines in words");
    let records = ["example.org MX 10 a.example.org", ". A 192.0.2.1"];
    for (text, expected) in
        records.iter().zip(["example.org. 3600 IN MX 10 a.example.org.\n", ". 3600 IN A 192.0.2.1\n"])
    {
        let Scanned { records, .. } = scan_bytes(".", text.replace("org ", "org. ").as_bytes(), 1);
        let mut line = String::new();
        write_record(&records[0].record, &mut line);
        assert_eq!(line, *expected);
    }
}
