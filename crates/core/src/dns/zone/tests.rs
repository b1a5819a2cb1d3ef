use super::*;

pub(crate) fn record(owner: &str, rtype: Rtype, data: &[u8]) -> Record {
    Record { owner: owner.parse().expect("a name"), rtype, ttl_s: 300, data: data.into() }
}

/// `cdn.test.` with plain names, a delegation, a raced name (0) and a raced wildcard (1).
pub(crate) fn zones() -> ZoneSet {
    let mut soa = b"\x02ns\x03cdn\x04test\x00\x04host\x03cdn\x04test\x00".to_vec();
    for value in [1u32, 3600, 600, 86400, 60] {
        soa.extend_from_slice(&value.to_be_bytes());
    }
    let records = [
        record("cdn.test", Rtype::SOA, &soa),
        record("cdn.test", Rtype::NS, b"\x02ns\x03cdn\x04test\x00"),
        record("ns.cdn.test", Rtype::A, &[198, 51, 100, 53]),
        record("a.deep.cdn.test", Rtype::TXT, b"\x02hi"),
        record("alias.cdn.test", Rtype::CNAME, b"\x02ns\x03cdn\x04test\x00"),
        record("child.cdn.test", Rtype::NS, b"\x02ns\x05child\x03cdn\x04test\x00"),
        record("ns.child.cdn.test", Rtype::A, &[192, 0, 2, 9]),
    ];
    let races = [raced("www.cdn.test", 0), raced("*.cdn.test", 1)];
    ZoneSet::build([(name("cdn.test"), records.to_vec())], &races).expect("zones")
}

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

fn raced(text: &str, index: u16) -> RacedName {
    RacedName { name: name(text), index, types: vec![Rtype::A], is_referral: false }
}

fn lookup(zones: &ZoneSet, text: &str, rtype: Rtype) -> String {
    let found = match zones.lookup(name(text).as_bytes(), rtype) {
        Lookup::NoData => return "no data".into(),
        Lookup::NotOurs => return "refused".into(),
        Lookup::Raced(race) => return format!("race {race}"),
        Lookup::Zone(found) => found,
    };
    match found.kind {
        MatchKind::Referral(_) => "referral".into(),
        MatchKind::Redirected(_) => "dname".into(),
        MatchKind::Missing { .. } => "nxdomain".into(),
        MatchKind::Exact(node) | MatchKind::Wildcard { wildcard: node, .. } => {
            let alias = || found.zone.node_set(node, Rtype::CNAME);
            match found.zone.node_set(node, rtype).or_else(alias) {
                Some(set) => format!("{}×{}", set.rtype, set.count),
                None => "nodata".into(),
            }
        }
    }
}

#[test]
fn raced_names_and_plain_ones_live_in_one_tree() {
    let zones = zones();
    let cases = [
        ("www.cdn.test", Rtype::A, "race 0"),
        ("www.cdn.test", Rtype::AAAA, "race 0"),
        ("www.cdn.test", Rtype::TXT, "race 0"),
        ("fresh.cdn.test", Rtype::A, "race 1"),
        ("b.fresh.cdn.test", Rtype::A, "race 1"),
        ("fresh.cdn.test", Rtype::MX, "race 1"),
        ("cdn.test", Rtype::A, "nodata"),
        ("cdn.test", Rtype::SOA, "SOA×1"),
        ("ns.cdn.test", Rtype::A, "A×1"),
        ("alias.cdn.test", Rtype::A, "CNAME×1"),
        // RFC 4592 section 2.2.1: an existing name, even an empty non-terminal, stops the wildcard.
        ("deep.cdn.test", Rtype::A, "nodata"),
        ("x.deep.cdn.test", Rtype::A, "nxdomain"),
        ("x.www.cdn.test", Rtype::A, "nxdomain"),
        ("child.cdn.test", Rtype::A, "referral"),
        ("x.child.cdn.test", Rtype::A, "referral"),
        ("child.cdn.test", Rtype::DS, "nodata"),
        ("x.child.cdn.test", Rtype::DS, "referral"),
        ("www.cdn.test", Rtype::DS, "nodata"),
        ("test", Rtype::A, "refused"),
        ("example.org", Rtype::A, "refused"),
    ];
    for (name, rtype, expected) in cases {
        assert_eq!(lookup(&zones, name, rtype), expected, "{name} {rtype}");
    }
}

#[test]
fn faulty_zones_are_refused_whole() {
    let build = |apex: &str, records: &[Record], races: &[RacedName]| {
        ZoneSet::build([(name(apex), records.to_vec())], races).map(|_| ())
    };
    let soa = record("other.test", Rtype::SOA, &[b"\0\0".as_slice(), &[0; 20]].concat());
    let stray = record("example.org", Rtype::A, &[1, 2, 3, 4]);
    assert!(matches!(build("other.test", &[soa.clone(), stray], &[]), Err(ZoneError::OutOfZone { .. })));
    assert!(matches!(build("other.test", &[], &[]), Err(ZoneError::Soa { found: 0, .. })));
    assert!(matches!(
        build("other.test", core::slice::from_ref(&soa), &[raced("x.test", 3)]),
        Err(ZoneError::NoZone(_))
    ));
    let plain = [soa.clone(), record("a.other.test", Rtype::A, &[1, 2, 3, 4])];
    assert!(matches!(build("other.test", &plain, &[raced("a.other.test", 3)]), Err(ZoneError::PlainAndRaced(_))));
    let cut = [soa.clone(), record("c.other.test", Rtype::NS, b"\0")];
    assert!(matches!(build("other.test", &cut, &[raced("a.c.other.test", 3)]), Err(ZoneError::Hidden(_))));
    let twice = [(name("other.test"), vec![soa.clone()]), (name("other.test"), vec![soa])];
    assert_eq!(ZoneSet::build(twice, &[]).map(|_| ()), Err(ZoneError::Twice(name("other.test"))));
}

#[test]
fn a_zone_gives_back_the_records_that_it_was_built_from() {
    let zones = zones();
    let zone = zones.zone(name("cdn.test").as_bytes()).expect("there");
    let mut records: Vec<Record> = zone.records().collect();
    assert_eq!(zone.soa_record().map(|record| record.rtype), Some(Rtype::SOA));
    assert_eq!(records.len(), 7);
    let again = Zone::new(zone.apex().clone(), records.clone(), &[]).expect("a zone");
    let mut once_more: Vec<Record> = again.records().collect();
    let key = |record: &Record| (record.owner.clone(), record.rtype.to_int(), record.data.clone());
    records.sort_by_key(key);
    once_more.sort_by_key(key);
    assert_eq!(records, once_more);
    assert!(records.contains(&record("alias.cdn.test", Rtype::CNAME, b"\x02ns\x03cdn\x04test\x00")));
}

#[test]
fn ds_is_asked_of_the_parent_where_both_sides_are_here() {
    let soa = |apex: &str| record(apex, Rtype::SOA, &[b"\0\0".as_slice(), &[0; 20]].concat());
    let parent = vec![
        soa("test"),
        record("cdn.test", Rtype::NS, b"\0"),
        record("cdn.test", Rtype::DS, &[0, 1, 13, 2, 9, 9]),
        record("dn.test", Rtype::DNAME, b"\x03cdn\x04test\x00"),
    ];
    let child = vec![soa("cdn.test")];
    let zones = ZoneSet::build([(name("test"), parent), (name("cdn.test"), child)], &[]).expect("zones");
    assert_eq!(lookup(&zones, "cdn.test", Rtype::DS), "DS×1");
    assert_eq!(lookup(&zones, "cdn.test", Rtype::SOA), "SOA×1");
    assert_eq!(lookup(&zones, "test", Rtype::DS), "nodata");
    assert_eq!(lookup(&zones, "dn.test", Rtype::A), "nodata");
    assert_eq!(lookup(&zones, "x.dn.test", Rtype::A), "dname");
}
