//! Another configuration in the place of the present one.

use super::bench::{Bench, DELAY, FALLBACK_AFTER, config, service};
use crate::dns::answer::tests::query_bytes;
use crate::dns::zone::tests::record;
use crate::dns::{Answers, Lookup, ZoneSet};
use crate::master::{Delay, RaceConfig, Service, ShardConfig};
use crate::wire::ReceiptOutcome;
use domain::base::Rtype;
use std::net::Ipv4Addr;

/// The bench's service with other races: names by site count.
fn service_of(names: &[(&str, usize)]) -> Service {
    let four = |octet| Answers { a: vec![Ipv4Addr::new(192, 0, 2, octet)], ..Answers::default() };
    let template = service(Delay::Fixed(DELAY)).races[0].clone();
    let race = |(name, sites): &(&str, usize)| RaceConfig {
        name: name.parse().expect("a name"),
        sites: (0..*sites).map(|site| (format!("site{site}"), four(site as u8))).collect(),
        ..template.clone()
    };
    let races: Vec<RaceConfig> = names.iter().map(race).collect();
    let raced: Vec<_> = races.iter().zip(0..).map(|(race, index)| race.raced_name(index)).collect();
    let soa = [b"\0\0".as_slice(), &[0; 20]].concat();
    let records = vec![record("cdn.test", Rtype::SOA, &soa)];
    let zones = ZoneSet::build([("cdn.test".parse().expect("a name"), records)], &raced).expect("a zone");
    Service::new("m0".into(), zones, races).expect("names")
}

#[test]
fn a_service_that_succeeds_another_keeps_the_indices_of_its_names() {
    let first = service_of(&[("a.cdn.test", 3), ("b.cdn.test", 3), ("c.cdn.test", 3)]);
    let names = |service: &Service| -> Vec<String> {
        let name = |race: &RaceConfig| if race.is_retired() { "-".to_owned() } else { race.name.to_string() };
        service.races.iter().map(name).collect()
    };
    let lookup = |service: &Service, name: &str| {
        let name: crate::dns::CanonicalName = name.parse().expect("a name");
        match service.zones.lookup(name.as_bytes(), Rtype::A) {
            Lookup::Raced(index) => service.races[usize::from(index)].name.to_string(),
            _ => "not raced".to_owned(),
        }
    };
    let second = service_of(&[("c.cdn.test", 2), ("d.cdn.test", 3), ("a.cdn.test", 3)]).succeed(&first).expect("room");
    assert_eq!(names(&second), ["a.cdn.test.", "-", "c.cdn.test.", "d.cdn.test."], "not at once in b's place");
    let third = service_of(&[("d.cdn.test", 3), ("e.cdn.test", 3)]).succeed(&second).expect("room");
    assert_eq!(names(&third), ["-", "e.cdn.test.", "-", "d.cdn.test."]);
    for name in ["d.cdn.test.", "e.cdn.test."] {
        assert_eq!(lookup(&third, name), name);
    }
    assert_eq!(lookup(&third, "a.cdn.test."), "not raced");
}

#[test]
fn races_that_are_open_go_on_under_another_configuration() {
    let first = std::sync::Arc::new(service_of(&[("www.cdn.test", 3), ("old.cdn.test", 3)]));
    let mut bench = Bench::new(ShardConfig { service: first.clone(), ..config() });
    let open = bench.ask(4_000, query_bytes("old.cdn.test", Rtype::A, None));
    assert_eq!(open.orders.len(), 3);
    let second = service_of(&[("new.cdn.test", 2), ("www.cdn.test", 3)]).succeed(&first).expect("room");
    let races_per_source_per_s = 2;
    let service = std::sync::Arc::new(second);
    bench.shard.handle_config(ShardConfig { service, races_per_source_per_s, ..config() });
    // Two departures settle the old race although its name is gone.
    for (order, id) in open.orders.iter().zip(1..=2) {
        assert!(bench.receipt(id, order, ReceiptOutcome::Departed).replies.is_empty());
    }
    assert_eq!(bench.ask(4_001, query_bytes("new.cdn.test", Rtype::A, None)).orders.len(), 2);
    let gone = bench.ask(4_002, query_bytes("gone.cdn.test", Rtype::A, None));
    assert_eq!((gone.orders.len(), gone.replies.len()), (0, 1));
    assert_eq!(bench.ask(4_003, query_bytes("www.cdn.test", Rtype::A, None)).orders.len(), 3);
    let over = bench.ask(4_004, query_bytes("new.cdn.test", Rtype::AAAA, None));
    assert_eq!(over.orders.len(), 0, "the new budget is two races a second");
    assert_eq!(bench.wait(DELAY + FALLBACK_AFTER).replies.len(), 2, "of the two races of which nothing was heard");
}
