//! The names that a master answers for: plain records and raced names in one tree.
//!
//! Zones are few and read-only; a map ordered by canonical name, looked up once per suffix, is enough here. The
//! raced names are nodes like any other, so the closest encloser (RFC 4592 section 3.3.1) is found over both
//! and a wildcard never hides a name that exists.

use super::name::{CanonicalName, suffixes};
use domain::base::Rtype;
use std::collections::BTreeMap;

/// One record, its data in uncompressed wire format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner.
    pub owner: CanonicalName,
    /// The type.
    pub rtype: Rtype,
    /// Time to live, in seconds.
    pub ttl_s: u32,
    /// The data.
    pub data: Box<[u8]>,
}

/// The records of one owner and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// The type.
    pub rtype: Rtype,
    /// Time to live, in seconds: the least of the set's (RFC 2181 section 5.2).
    pub ttl_s: u32,
    /// Each record's data.
    pub data: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    sets: Vec<RecordSet>,
    /// Index of the race that this name is raced by.
    race: Option<u16>,
}

impl Node {
    fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }

    fn add(&mut self, record: Record) {
        match self.sets.iter_mut().find(|set| set.rtype == record.rtype) {
            Some(set) => {
                set.ttl_s = set.ttl_s.min(record.ttl_s);
                if !set.data.contains(&record.data) {
                    set.data.push(record.data);
                }
            }
            None => {
                self.sets.push(RecordSet { rtype: record.rtype, ttl_s: record.ttl_s, data: vec![record.data] });
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Zone {
    apex: CanonicalName,
    nodes: BTreeMap<Box<[u8]>, Node>,
}

/// All zones of a master.
#[derive(Clone, Debug, Default)]
pub struct ZoneSet {
    zones: BTreeMap<Box<[u8]>, Zone>,
}

/// What the zones say to a name and type.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// No zone here holds the name.
    NotOurs,
    /// The name is raced, by the race with this index, for this type.
    Raced(u16),
    /// These records; a CNAME when the type asked for does not exist but an alias does.
    Records(&'a RecordSet),
    /// The name belongs to a child zone: its NS records and their owner.
    Referral(&'a [u8], &'a RecordSet),
    /// The name exists, the type does not; with the zone's apex and SOA.
    NoData(&'a CanonicalName, &'a RecordSet),
    /// The name does not exist; with the zone's apex and SOA.
    NameError(&'a CanonicalName, &'a RecordSet),
}

/// Why a record or a race was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No SOA at the apex, or more than one.
    #[error("zone {apex} needs exactly one SOA record at its apex, found {found}")]
    Soa {
        /// The zone.
        apex: CanonicalName,
        /// How many were found.
        found: usize,
    },
    /// The record lies outside of the zone.
    #[error("{owner} is outside of zone {apex}")]
    OutOfZone {
        /// The record's owner.
        owner: CanonicalName,
        /// The zone.
        apex: CanonicalName,
    },
    /// The raced name is in no zone.
    #[error("raced name {0} is in none of the zones")]
    NoZone(CanonicalName),
    /// The zone is there already.
    #[error("zone {0} is defined twice")]
    Twice(CanonicalName),
    /// The name holds plain addresses or an alias as well.
    #[error("raced name {0} also has plain A, AAAA or CNAME records: a name is raced or plain, not both")]
    PlainAndRaced(CanonicalName),
}

impl ZoneSet {
    /// No zones.
    pub fn new() -> Self {
        ZoneSet::default()
    }

    /// Adds a zone, all or nothing.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn add_zone(
        &mut self,
        apex: CanonicalName,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<(), ZoneError> {
        if self.zones.contains_key(apex.as_bytes()) {
            return Err(ZoneError::Twice(apex));
        }
        let mut zone = Zone { apex, nodes: BTreeMap::new() };
        for record in records {
            if !zone.apex.is_ancestor_or_self_of(record.owner.as_bytes()) {
                return Err(ZoneError::OutOfZone { owner: record.owner, apex: zone.apex });
            }
            zone.node_mut(record.owner.as_bytes()).add(record);
        }
        let found =
            zone.nodes.get(zone.apex.as_bytes()).and_then(|node| node.set(Rtype::SOA)).map_or(0, |soa| soa.data.len());
        if found != 1 {
            return Err(ZoneError::Soa { apex: zone.apex, found });
        }
        self.zones.insert(zone.apex.as_bytes().into(), zone);
        Ok(())
    }

    /// Makes a name of one of the zones a raced one.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn add_race(&mut self, name: &CanonicalName, race: u16) -> Result<(), ZoneError> {
        let zone = self.zone_mut(name.as_bytes()).ok_or_else(|| ZoneError::NoZone(name.clone()))?;
        let node = zone.node_mut(name.as_bytes());
        if [Rtype::A, Rtype::AAAA, Rtype::CNAME].iter().any(|&rtype| node.set(rtype).is_some()) {
            return Err(ZoneError::PlainAndRaced(name.clone()));
        }
        node.race = Some(race);
        Ok(())
    }

    fn zone(&self, name: &[u8]) -> Option<&Zone> {
        suffixes(name).find_map(|suffix| self.zones.get(suffix))
    }

    fn zone_mut(&mut self, name: &[u8]) -> Option<&mut Zone> {
        let apex = suffixes(name).find(|suffix| self.zones.contains_key(*suffix))?;
        self.zones.get_mut(apex)
    }

    /// What the zones say to `name`, in canonical form, and `rtype`.
    pub fn lookup(&self, name: &[u8], rtype: Rtype) -> Lookup<'_> {
        // Nobody is listed for transfers.
        if rtype == Rtype::AXFR || rtype == Rtype::IXFR {
            return Lookup::NotOurs;
        }
        self.zone(name).map_or(Lookup::NotOurs, |zone| zone.lookup(name, rtype))
    }

    /// Apex and SOA of the zone that holds `name`.
    pub fn authority(&self, name: &[u8]) -> Option<(&CanonicalName, &RecordSet)> {
        self.zone(name).map(|zone| (&zone.apex, zone.soa()))
    }

    /// Addresses of a name in the zones, for the additional section of a referral.
    pub fn glue(&self, name: &[u8], rtype: Rtype) -> Option<&RecordSet> {
        self.zone(name)?.nodes.get(name)?.set(rtype)
    }
}

impl Zone {
    /// The node, made where missing, with its ancestors up to the apex: empty non-terminals exist.
    fn node_mut(&mut self, name: &[u8]) -> &mut Node {
        for ancestor in suffixes(name).skip(1).take_while(|suffix| suffix.len() > self.apex.as_bytes().len()) {
            self.nodes.entry(ancestor.into()).or_default();
        }
        self.nodes.entry(name.into()).or_default()
    }

    fn soa(&self) -> &RecordSet {
        let apex = self.nodes.get(self.apex.as_bytes()).and_then(|node| node.set(Rtype::SOA));
        apex.unwrap_or_else(|| unreachable!("a zone is only added with its SOA"))
    }

    fn lookup(&self, name: &[u8], rtype: Rtype) -> Lookup<'_> {
        if let Some((owner, set)) = self.delegation(name) {
            // RFC 4035 section 3.1.4.1: DS at a zone cut is the parent's, and this is the parent.
            return match rtype == Rtype::DS && owner == name {
                true => self.nodes.get(name).map_or(Lookup::NotOurs, |node| self.answer(node, rtype)),
                false => Lookup::Referral(owner, set),
            };
        }
        if let Some(node) = self.nodes.get(name) {
            return self.answer(node, rtype);
        }
        let encloser = suffixes(name).skip(1).find(|suffix| self.nodes.contains_key(*suffix));
        let wildcard = encloser.and_then(|encloser| {
            let mut key = [0; super::name::MAX_NAME + 2];
            key[..2].copy_from_slice(b"\x01*");
            key[2..2 + encloser.len()].copy_from_slice(encloser);
            self.nodes.get(&key[..2 + encloser.len()])
        });
        match wildcard {
            Some(node) => self.answer(node, rtype),
            None => Lookup::NameError(&self.apex, self.soa()),
        }
    }

    fn answer<'a>(&'a self, node: &'a Node, rtype: Rtype) -> Lookup<'a> {
        if let (Some(race), Rtype::A | Rtype::AAAA) = (node.race, rtype) {
            return Lookup::Raced(race);
        }
        let set = match rtype {
            // RFC 8482 section 4.1: a subset of the available record sets is a valid answer to ANY.
            Rtype::ANY => node.sets.first(),
            _ => node.set(rtype).or_else(|| node.set(Rtype::CNAME)),
        };
        set.map_or_else(|| Lookup::NoData(&self.apex, self.soa()), Lookup::Records)
    }

    /// The topmost zone cut between the apex and `name`.
    fn delegation(&self, name: &[u8]) -> Option<(&[u8], &RecordSet)> {
        let below_apex = suffixes(name).take_while(|suffix| suffix.len() > self.apex.as_bytes().len());
        below_apex
            .filter_map(|suffix| {
                let (owner, node) = self.nodes.get_key_value(suffix)?;
                Some((&**owner, node.set(Rtype::NS)?))
            })
            .last()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(owner: &str, rtype: Rtype, data: &[u8]) -> Record {
        Record { owner: owner.parse().expect("a name"), rtype, ttl_s: 300, data: data.into() }
    }

    /// `cdn.test.` with plain names, a delegation, a raced name (0) and a raced wildcard (1).
    pub(crate) fn zones() -> ZoneSet {
        let mut zones = ZoneSet::new();
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
        zones.add_zone("cdn.test".parse().expect("a name"), records).expect("a zone");
        zones.add_race(&"www.cdn.test".parse().expect("a name"), 0).expect("in the zone");
        zones.add_race(&"*.cdn.test".parse().expect("a name"), 1).expect("in the zone");
        zones
    }

    fn lookup(zones: &ZoneSet, name: &str, rtype: Rtype) -> String {
        let name: CanonicalName = name.parse().expect("a name");
        match zones.lookup(name.as_bytes(), rtype) {
            Lookup::NotOurs => "refused".into(),
            Lookup::Raced(race) => format!("race {race}"),
            Lookup::Records(set) => format!("{}×{}", set.rtype, set.data.len()),
            Lookup::Referral(..) => "referral".into(),
            Lookup::NoData(..) => "nodata".into(),
            Lookup::NameError(..) => "nxdomain".into(),
        }
    }

    #[test]
    fn raced_names_and_plain_ones_live_in_one_tree() {
        let zones = zones();
        let cases = [
            ("www.cdn.test", Rtype::A, "race 0"),
            ("www.cdn.test", Rtype::AAAA, "race 0"),
            ("www.cdn.test", Rtype::TXT, "nodata"),
            ("fresh.cdn.test", Rtype::A, "race 1"),
            ("b.fresh.cdn.test", Rtype::A, "race 1"),
            ("fresh.cdn.test", Rtype::MX, "nodata"),
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
            ("cdn.test", Rtype::AXFR, "refused"),
            ("test", Rtype::A, "refused"),
            ("example.org", Rtype::A, "refused"),
        ];
        for (name, rtype, expected) in cases {
            assert_eq!(lookup(&zones, name, rtype), expected, "{name} {rtype}");
        }
    }

    #[test]
    fn faulty_zones_are_refused_whole() {
        let mut zones = zones();
        let stray = [record("example.org", Rtype::A, &[1, 2, 3, 4])];
        let apex: CanonicalName = "other.test".parse().expect("a name");
        assert!(matches!(zones.add_zone(apex.clone(), stray), Err(ZoneError::OutOfZone { .. })));
        assert!(matches!(zones.add_zone(apex.clone(), []), Err(ZoneError::Soa { found: 0, .. })));
        assert_eq!(
            zones.add_zone("cdn.test".parse().expect("a name"), []),
            Err(ZoneError::Twice("cdn.test".parse().expect("a name")))
        );
        assert!(matches!(zones.add_race(&apex, 3), Err(ZoneError::NoZone(_))));
        let plain = "ns.cdn.test".parse().expect("a name");
        assert!(matches!(zones.add_race(&plain, 3), Err(ZoneError::PlainAndRaced(_))));
    }
}
