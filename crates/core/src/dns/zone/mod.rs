//! The names that a master answers for: plain records and raced names in one tree.
//!
//! A zone is built once and then only read, by every shard. Its nodes lie in canonical order (RFC 4034 section 6.1), in
//! which ancestors stand before what is below them; a hash table finds a node by its name. What a query needs to know of a
//! node's surroundings is worked out when the zone is built: whether a zone cut or a DNAME above it hides it, and which
//! wildcard is below it. So a name that exists costs one search, one that does not costs one per label.
//!
//! The raced names are nodes like any other, so the closest encloser (RFC 4592 section 3.3.1) is found over both and a
//! wildcard never hides a name that exists.
//!
//! Memory: names, encoded sets and numbers lie in three vectors per zone, not in boxes: a name with one address takes about
//! 110 bytes.

mod build;
mod denial;
#[cfg(test)]
pub(crate) mod tests;

use super::name::{CanonicalName, MAX_NAME, canonical_order, suffixes};
use super::set::SetRef;
use domain::base::Rtype;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

pub use build::{MAX_ZONE_BYTES, Record, ZoneError};
pub(super) use denial::Proof;

/// Whoever may write zone files may as well choose names that collide; a query cannot add any. So a fixed key will do,
/// and the same zone is the same in memory everywhere.
const HASHER: FixedState = FixedState::with_seed(0x5374_6172_7467_756e);

pub(super) fn hash(name: &[u8]) -> u64 {
    HASHER.hash_one(name)
}

/// A node's number within its zone.
pub(super) type NodeId = u32;

/// What hides a node, if anything: the topmost such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Above {
    Nothing,
    /// A zone cut, at the node or above it.
    Cut(NodeId),
    /// A DNAME above it (RFC 6672 section 2.4).
    Dname(NodeId),
}

#[derive(Clone, Debug)]
struct Node {
    /// Where its name begins.
    name: u32,
    name_length: u8,
    set_count: u16,
    /// The first of its sets; they are sorted by type.
    sets: u32,
    above: Above,
    /// The wildcard right below it.
    wildcard: Option<NodeId>,
    /// Index of the race that this name is raced by.
    race: Option<u16>,
}

#[derive(Clone, Debug)]
struct Set {
    rtype: Rtype,
    count: u16,
    signature_count: u16,
    pointer_count: u16,
    wire: u32,
    wire_length: u32,
    /// The RRSIG records begin where `wire` ends.
    signature_length: u32,
    pointers: u32,
}

/// A raced name of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RacedName {
    /// The name; may be a wildcard.
    pub name: CanonicalName,
    /// The race that decides it.
    pub index: u16,
    /// The types that sites answer with; in a signed zone its chain must not deny them.
    pub types: Vec<Rtype>,
    /// Whether sites answer with NS records: then the race is about everything below the name as well.
    pub is_referral: bool,
}

/// Leaves out the records of a secondary's zone that races take the place of: its primary has them for those that ask other
/// servers. What a race does not decide stays, and is a fault where it may not.
pub fn give_way(records: &mut Vec<Record>, races: &[RacedName]) {
    let races: BTreeMap<&CanonicalName, &[Rtype]> = races.iter().map(|race| (&race.name, &race.types[..])).collect();
    if !races.is_empty() {
        records.retain(|record| !races.get(&record.owner).is_some_and(|types| types.contains(&record.rtype)));
    }
}

/// One zone. Without any node it has no data: a secondary's that was never transferred, or is too old to be answered for.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: CanonicalName,
    nodes: Vec<Node>,
    table: HashTable<NodeId>,
    sets: Vec<Set>,
    /// Names and encoded sets.
    bytes: Vec<u8>,
    pointers: Vec<u16>,
    /// The SOA as it goes into negative answers, its time to live at most its MINIMUM (RFC 2308 section 3).
    negative: Option<Set>,
    denial: denial::Chain,
    serial: u32,
}

/// A place among a zone's records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecordPlace {
    /// Which of the names that own records.
    name: usize,
    /// Which of its records.
    record: usize,
}

/// What a zone says to a name.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    pub(super) zone: &'a Zone,
    pub(super) kind: MatchKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatchKind {
    /// The name exists.
    Exact(NodeId),
    /// A wildcard stands for it, right below its closest encloser.
    Wildcard { wildcard: NodeId, encloser: NodeId },
    /// It belongs to a child zone that begins here.
    Referral(NodeId),
    /// A DNAME above it leads elsewhere.
    Redirected(NodeId),
    /// It does not exist; its closest encloser does.
    Missing { encloser: NodeId },
}

/// What the zones say to a name and type.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// No zone here holds the name.
    NotOurs,
    /// The zone that holds it has no data.
    NoData,
    /// The name is raced, by the race with this index, for this type.
    Raced(u16),
    /// The zones say.
    Zone(Match<'a>),
}

/// All zones of a master.
#[derive(Clone, Debug, Default)]
pub struct ZoneSet {
    zones: Vec<Arc<Zone>>,
    table: HashTable<u32>,
    /// Length of the longest apex: no longer suffix needs to be looked for.
    longest_apex: usize,
}

impl ZoneSet {
    /// The zones of a master, each apex once.
    ///
    /// # Errors
    /// [`ZoneError::Twice`].
    pub fn new(zones: impl IntoIterator<Item = Arc<Zone>>) -> Result<Self, ZoneError> {
        let mut set = ZoneSet::default();
        for zone in zones {
            let apex = zone.apex.as_bytes();
            if set.index(apex).is_some() {
                return Err(ZoneError::Twice(zone.apex.clone()));
            }
            set.longest_apex = set.longest_apex.max(apex.len());
            let ZoneSet { zones, table, .. } = &mut set;
            table.insert_unique(hash(apex), zones.len() as u32, |&index| hash(zones[index as usize].apex.as_bytes()));
            zones.push(zone);
        }
        Ok(set)
    }

    /// Builds zones from records, with the raced names that lie in each.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn build(
        zones: impl IntoIterator<Item = (CanonicalName, Vec<Record>)>,
        races: &[RacedName],
    ) -> Result<Self, ZoneError> {
        Self::build_some(zones.into_iter().map(|(apex, records)| (apex, Some(records))), races)
    }

    /// As [`ZoneSet::build`]; zones without records are there without data.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn build_some(
        zones: impl IntoIterator<Item = (CanonicalName, Option<Vec<Record>>)>,
        races: &[RacedName],
    ) -> Result<Self, ZoneError> {
        let zones: Vec<(CanonicalName, Option<Vec<Record>>)> = zones.into_iter().collect();
        let mut of_zone: BTreeMap<usize, Vec<RacedName>> = BTreeMap::new();
        for race in races {
            let holds = |apex: &CanonicalName| apex.is_ancestor_or_self_of(race.name.as_bytes());
            let holders = zones.iter().enumerate().filter(|(_, (apex, _))| holds(apex));
            let holder = holders.max_by_key(|(_, (apex, _))| apex.as_bytes().len());
            let (holder, _) = holder.ok_or_else(|| ZoneError::NoZone(race.name.clone()))?;
            of_zone.entry(holder).or_default().push(race.clone());
        }
        let build = |(place, (apex, records))| match records {
            Some(records) => Zone::new(apex, records, of_zone.get(&place).map_or(&[], Vec::as_slice)).map(Arc::new),
            None => Ok(Arc::new(Zone::without_data(apex))),
        };
        let zones: Vec<Arc<Zone>> = zones.into_iter().enumerate().map(build).collect::<Result<_, ZoneError>>()?;
        ZoneSet::new(zones)
    }

    /// Gives races other indices. Zones that somebody else holds as well are copied.
    pub fn renumber(&mut self, index: impl Fn(u16) -> u16) {
        for zone in &mut self.zones {
            if zone.nodes.iter().any(|node| node.race.is_some_and(|race| index(race) != race)) {
                Arc::make_mut(zone).nodes.iter_mut().for_each(|node| node.race = node.race.map(&index));
            }
        }
    }

    /// Puts another version of a zone in its place; `false` where there is none of this name.
    pub fn replace(&mut self, zone: Arc<Zone>) -> bool {
        let place = self.index(zone.apex.as_bytes());
        place.map(|place| self.zones[place] = zone).is_some()
    }

    /// The zones.
    pub fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn index(&self, apex: &[u8]) -> Option<usize> {
        let found = self.table.find(hash(apex), |&index| self.zones[index as usize].apex.as_bytes() == apex);
        found.map(|&index| index as usize)
    }

    /// The zone whose apex this is.
    pub fn zone(&self, apex: &[u8]) -> Option<&Arc<Zone>> {
        self.index(apex).map(|index| &self.zones[index])
    }

    /// The innermost zone that holds `name`, in canonical form. A DS record belongs to the parent's side of a cut
    /// (RFC 4035 section 3.1.4.1), so for DS the zone of that very name is the last choice.
    pub(super) fn holder(&self, name: &[u8], rtype: Rtype) -> Option<&Zone> {
        let mut own = None;
        for suffix in suffixes(name) {
            if suffix.len() > self.longest_apex {
                continue;
            }
            if let Some(index) = self.index(suffix) {
                if rtype == Rtype::DS && suffix.len() == name.len() {
                    own = Some(&*self.zones[index]);
                    continue;
                }
                return Some(&self.zones[index]);
            }
        }
        own
    }

    /// The apex of the innermost zone that holds `name`, in canonical form.
    pub fn apex_of(&self, name: &[u8]) -> Option<&CanonicalName> {
        self.holder(name, Rtype::A).map(Zone::apex)
    }

    /// What the zones say to `name`, in canonical form, and `rtype`.
    pub fn lookup(&self, name: &[u8], rtype: Rtype) -> Lookup<'_> {
        let Some(zone) = self.holder(name, rtype) else { return Lookup::NotOurs };
        if !zone.has_data() {
            return Lookup::NoData;
        }
        let kind = zone.find(name, rtype);
        let raced = match kind {
            MatchKind::Exact(node) | MatchKind::Wildcard { wildcard: node, .. } | MatchKind::Referral(node) => {
                zone.race(node)
            }
            MatchKind::Redirected(_) | MatchKind::Missing { .. } => None,
        };
        match raced {
            // What the zone has beside the race (TXT, MX, …) it answers itself, and DS at a raced referral.
            Some(race) if rtype != Rtype::DS && zone.node_set(kind.node(), rtype).is_none() => Lookup::Raced(race),
            _ => Lookup::Zone(Match { zone, kind }),
        }
    }

    /// What the zone of `name` says to it, raced or not; `None` where no zone holds it.
    pub(super) fn unraced(&self, name: &[u8], rtype: Rtype) -> Option<Match<'_>> {
        let zone = self.holder(name, rtype).filter(|zone| zone.has_data())?;
        Some(Match { zone, kind: zone.find(name, rtype) })
    }
}

impl MatchKind {
    /// The node that it is about.
    pub(super) fn node(self) -> NodeId {
        match self {
            MatchKind::Exact(node) | MatchKind::Referral(node) | MatchKind::Redirected(node) => node,
            MatchKind::Wildcard { wildcard, .. } => wildcard,
            MatchKind::Missing { encloser } => encloser,
        }
    }
}

impl Zone {
    /// Its name.
    pub fn apex(&self) -> &CanonicalName {
        &self.apex
    }

    /// The SOA's serial (RFC 1982).
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether it was signed before it was loaded: its apex has DNSKEY records and a chain that denies.
    pub fn is_signed(&self) -> bool {
        self.denial.exists()
    }

    /// Whether there is anything to answer from.
    pub fn has_data(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// How many names it has, empty non-terminals included.
    pub fn name_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node_name(&self, node: NodeId) -> &[u8] {
        let node = &self.nodes[node as usize];
        &self.bytes[node.name as usize..][..usize::from(node.name_length)]
    }

    fn race(&self, node: NodeId) -> Option<u16> {
        self.nodes[node as usize].race
    }

    pub(super) fn is_raced(&self, node: NodeId) -> bool {
        self.race(node).is_some()
    }

    fn node(&self, name: &[u8]) -> Option<NodeId> {
        self.table.find(hash(name), |&node| self.node_name(node) == name).copied()
    }

    fn set(&self, owner_length: u8, set: &Set) -> SetRef<'_> {
        let wire = set.wire as usize;
        let signatures = wire + set.wire_length as usize;
        SetRef {
            rtype: set.rtype,
            wire: &self.bytes[wire..signatures],
            count: set.count,
            pointers: &self.pointers[set.pointers as usize..][..usize::from(set.pointer_count)],
            owner_length,
            signatures: &self.bytes[signatures..][..set.signature_length as usize],
            signature_count: set.signature_count,
        }
    }

    /// A node's sets, by type.
    pub(super) fn node_sets(&self, node: NodeId) -> impl Iterator<Item = SetRef<'_>> {
        let node = &self.nodes[node as usize];
        let sets = &self.sets[node.sets as usize..][..usize::from(node.set_count)];
        sets.iter().map(move |set| self.set(node.name_length, set))
    }

    pub(super) fn node_set(&self, node: NodeId, rtype: Rtype) -> Option<SetRef<'_>> {
        let node = &self.nodes[node as usize];
        let sets = &self.sets[node.sets as usize..][..usize::from(node.set_count)];
        sets.iter().find(|set| set.rtype == rtype).map(|set| self.set(node.name_length, set))
    }

    /// The SOA as it goes into negative answers.
    pub(super) fn negative_soa(&self) -> Option<SetRef<'_>> {
        self.negative.as_ref().map(|set| self.set(self.apex.as_bytes().len() as u8, set))
    }

    /// Addresses of a name at or below a zone cut, or anywhere else in the zone: what a referral adds.
    pub(super) fn glue(&self, name: &[u8], rtype: Rtype) -> Option<SetRef<'_>> {
        self.node_set(self.node(name)?, rtype)
    }

    fn find(&self, name: &[u8], rtype: Rtype) -> MatchKind {
        if let Some(node) = self.node(name) {
            return match self.nodes[node as usize].above {
                // RFC 4035 section 3.1.4.1: DS at a zone cut is the parent's, and this is the parent.
                Above::Cut(cut) if cut == node && rtype == Rtype::DS => MatchKind::Exact(node),
                Above::Nothing => MatchKind::Exact(node),
                above => Self::hidden(above),
            };
        }
        let parents = suffixes(name).skip(1);
        let Some(encloser) = parents
            .take_while(|parent| parent.len() >= self.apex.as_bytes().len())
            .find_map(|parent| self.node(parent))
        else {
            unreachable!("the apex encloses every name that this zone is asked for")
        };
        let found = &self.nodes[encloser as usize];
        match found.above {
            // RFC 6672 section 2.2: a DNAME redirects what is below its owner, not the owner.
            Above::Nothing if self.node_set(encloser, Rtype::DNAME).is_some() => MatchKind::Redirected(encloser),
            Above::Nothing => match found.wildcard {
                Some(wildcard) => MatchKind::Wildcard { wildcard, encloser },
                None => MatchKind::Missing { encloser },
            },
            above => Self::hidden(above),
        }
    }

    fn hidden(above: Above) -> MatchKind {
        match above {
            Above::Cut(cut) => MatchKind::Referral(cut),
            Above::Dname(dname) => MatchKind::Redirected(dname),
            Above::Nothing => unreachable!("only asked where something hides"),
        }
    }

    /// Every record of the zone, by owner in canonical order, its data uncompressed; NSEC3 records stand behind.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let apart = (0..self.denial.apart_count()).flat_map(|index| self.denial.apart_records(index, self));
        (0..self.nodes.len() as NodeId).flat_map(move |node| self.node_records(node)).chain(apart)
    }

    /// The SOA record; `None` for a zone without data.
    pub fn soa_record(&self) -> Option<Record> {
        let has_nodes = !self.nodes.is_empty();
        has_nodes.then(|| self.node_records(0).find(|record| record.rtype == Rtype::SOA)).flatten()
    }

    /// Calls `take` with the records from `place` on, in the order of [`Zone::records`], until it returns `false`: then `place`
    /// is where that record stands. `true` when none is left.
    pub(super) fn each_record_from(&self, place: &mut RecordPlace, mut take: impl FnMut(&Record) -> bool) -> bool {
        while place.name < self.nodes.len() + self.denial.apart_count() {
            let records = match place.name.checked_sub(self.nodes.len()) {
                None => self.node_records(place.name as NodeId).skip(place.record).collect(),
                Some(index) => self.denial.apart_records(index, self).split_off(place.record),
            };
            for record in &records {
                if !take(record) {
                    return false;
                }
                place.record += 1;
            }
            *place = RecordPlace { name: place.name + 1, record: 0 };
        }
        true
    }

    fn node_records(&self, node: NodeId) -> impl Iterator<Item = Record> + '_ {
        self.node_sets(node).flat_map(move |set| self.set_records(node, set))
    }

    fn set_records<'a>(&'a self, node: NodeId, set: SetRef<'a>) -> impl Iterator<Item = Record> + 'a {
        let owner = self.node_name(node);
        let record = move |rtype, ttl_s, data: &[u8]| Record {
            owner: CanonicalName::from_canonical(owner),
            rtype,
            ttl_s,
            data: super::set::expand(data, rtype, owner).into(),
        };
        let signatures = SetRef { rtype: Rtype::RRSIG, wire: set.signatures, ..set };
        let data = set.encoded_data().map(move |data| record(set.rtype, set.ttl_s(), data));
        data.chain(signatures.encoded_data().map(move |data| record(Rtype::RRSIG, set.ttl_s(), data)))
    }
}

/// The last name at or before `name` in canonical order among some, by a node each; the last of all where none is.
fn at_or_before(zone: &Zone, nodes: &[NodeId], name: &[u8]) -> Option<NodeId> {
    let after = nodes.partition_point(|&node| canonical_order(zone.node_name(node), name).is_le());
    nodes.get(after.checked_sub(1)?).or(nodes.last()).copied()
}

/// The name of the wildcard right below `encloser`, in a buffer.
fn wildcard_below<'b>(encloser: &[u8], buffer: &'b mut [u8; MAX_NAME + 2]) -> &'b [u8] {
    buffer[..2].copy_from_slice(b"\x01*");
    buffer[2..2 + encloser.len()].copy_from_slice(encloser);
    &buffer[..2 + encloser.len()]
}
