//! Building a zone from its records.

use super::denial::Chain;
use super::{Above, Node, NodeId, RacedName, Set, Zone, hash};
use crate::dns::name::{CanonicalName, canonical_order, suffixes};
use crate::dns::set::{MAX_SET, encode_record};
use domain::base::Rtype;
use hashbrown::HashTable;

/// Most bytes of a zone's names and encoded records: places in it are numbered by 32 bits.
pub const MAX_ZONE_BYTES: usize = u32::MAX as usize;

/// One record, its data in uncompressed wire format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner.
    pub owner: CanonicalName,
    /// The type.
    pub rtype: Rtype,
    /// Time to live, in seconds.
    pub ttl_s: u32,
    /// The data; names in it keep their case.
    pub data: Box<[u8]>,
}

/// Why zones were not taken in.
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
    /// The name holds what a race decides as well.
    #[error("raced name {0} also has plain A, AAAA, CNAME, DNAME or NS records: a name is raced or plain, not both")]
    PlainAndRaced(CanonicalName),
    /// The raced name can never be asked for here: it lies below a delegation or a DNAME.
    #[error("raced name {0} lies below a delegation or a DNAME")]
    Hidden(CanonicalName),
    /// The records of one name and type fit into no message.
    #[error("the {rtype} records of {owner} take {bytes} bytes, more than a message holds")]
    TooLarge {
        /// The owner.
        owner: CanonicalName,
        /// Their type.
        rtype: Rtype,
        /// How many bytes they take.
        bytes: usize,
    },
    /// The zone is signed, and its chain says that the raced name does not have this type: validators would refuse every
    /// answer to it.
    #[error(
        "signed zone {apex} denies that {name} has {rtype} records: sign it with some there, which a race takes the place of"
    )]
    Denied {
        /// The zone.
        apex: CanonicalName,
        /// The raced name.
        name: CanonicalName,
        /// What sites answer.
        rtype: Rtype,
    },
    /// An NSEC3 record that is not one: its owner's first label is no hash, or its hash is not SHA-1.
    #[error("{owner} has an NSEC3 record whose owner is no SHA-1 hash in base32hex")]
    Nsec3 {
        /// Its owner.
        owner: CanonicalName,
    },
    /// More iterations of NSEC3's hash than validators accept.
    #[error("zone {apex} is signed with {found} NSEC3 iterations, at most {most} are accepted (RFC 9276 asks for 0)")]
    Iterations {
        /// The zone.
        apex: CanonicalName,
        /// How many it has.
        found: u16,
        /// How many it may have.
        most: u16,
    },
    /// The zone has more than [`MAX_ZONE_BYTES`].
    #[error("zone {0} takes more than 4 GiB")]
    ZoneTooLarge(CanonicalName),
}

impl Zone {
    /// A zone of which there is no data: what is asked about it is answered with SERVFAIL.
    pub fn without_data(apex: CanonicalName) -> Self {
        Zone {
            apex,
            nodes: Vec::new(),
            table: HashTable::new(),
            sets: Vec::new(),
            bytes: Vec::new(),
            pointers: Vec::new(),
            negative: None,
            denial: Chain::default(),
            serial: 0,
        }
    }

    /// Builds a zone, all or nothing. Records that are there twice count once.
    ///
    /// # Errors
    /// See [`ZoneError`].
    pub fn new(apex: CanonicalName, mut records: Vec<Record>, races: &[RacedName]) -> Result<Self, ZoneError> {
        if let Some(stray) = records.iter().find(|record| !apex.is_ancestor_or_self_of(record.owner.as_bytes())) {
            return Err(ZoneError::OutOfZone { owner: stray.owner.clone(), apex });
        }
        records.sort_unstable_by(|left, right| {
            canonical_order(left.owner.as_bytes(), right.owner.as_bytes())
                .then_with(|| left.rtype.to_int().cmp(&right.rtype.to_int()))
                .then_with(|| left.data.cmp(&right.data))
        });
        records.dedup_by(|later, kept| {
            let same = later.owner == kept.owner && later.rtype == kept.rtype && later.data == kept.data;
            // RFC 2181 section 5.2: times to live of one set are the same; the least is taken where they are not.
            kept.ttl_s = if same { kept.ttl_s.min(later.ttl_s) } else { kept.ttl_s };
            same
        });
        let mut races: Vec<&RacedName> = races.iter().collect();
        races.sort_unstable_by(|left, right| canonical_order(left.name.as_bytes(), right.name.as_bytes()));
        let is_signed = records.iter().any(|record| record.rtype == Rtype::NSEC || record.rtype == Rtype::NSEC3);
        let mut builder = Builder::new(apex, is_signed);
        builder.add_all(&records, &races)?;
        let zone = builder.finish()?;
        for race in races {
            let name = race.name.as_bytes();
            if let Some(&rtype) = race.types.iter().find(|&&rtype| zone.denies(name, rtype)) {
                return Err(ZoneError::Denied { apex: zone.apex, name: race.name.clone(), rtype });
            }
        }
        Ok(zone)
    }
}

struct Builder {
    zone: Zone,
    chain: super::denial::Builder,
    /// The nodes from the apex to the newest one.
    path: Vec<NodeId>,
    is_signed: bool,
}

impl Builder {
    fn new(apex: CanonicalName, is_signed: bool) -> Self {
        let zone = Zone::without_data(apex);
        Builder { zone, chain: super::denial::Builder::default(), path: Vec::new(), is_signed }
    }

    /// Adds what is sorted in canonical order.
    fn add_all(&mut self, records: &[Record], races: &[&RacedName]) -> Result<(), ZoneError> {
        let apex = self.zone.apex.clone();
        self.enter(apex.as_bytes());
        let mut races = races.iter().peekable();
        for owned in records.chunk_by(|left, right| left.owner == right.owner) {
            let owner = &owned[0].owner;
            while let Some(race) = races.next_if(|race| canonical_order(race.name.as_bytes(), owner.as_bytes()).is_lt())
            {
                self.add_race(race, &[])?;
            }
            // RFC 5155 section 7.2.8: the owners of NSEC3 records are no names of the zone.
            if owned.iter().all(Chain::belongs_apart) {
                self.chain.add(owned);
                continue;
            }
            match races.next_if(|race| race.name == *owner) {
                Some(race) => self.add_race(race, owned)?,
                None => drop(self.add_node(owned)?),
            }
        }
        races.try_for_each(|race| self.add_race(race, &[]))
    }

    /// `records` are what the zone has at the name. In a signed zone those that the race decides are placeholders, there for
    /// the chain's sake; they make room.
    fn add_race(&mut self, race: &RacedName, records: &[Record]) -> Result<(), ZoneError> {
        const DECIDED: [Rtype; 5] = [Rtype::A, Rtype::AAAA, Rtype::CNAME, Rtype::DNAME, Rtype::NS];
        let decided = |record: &Record| {
            let rtype = covers(&record.data).filter(|_| record.rtype == Rtype::RRSIG).unwrap_or(record.rtype);
            race.types.contains(&rtype)
        };
        let kept: Vec<Record> = records.iter().filter(|record| !self.is_signed || !decided(record)).cloned().collect();
        let records = kept.as_slice();
        let node = if records.is_empty() { self.enter(race.name.as_bytes()) } else { self.add_node(records)? };
        let is_apex = node == 0;
        let decides = |rtype: &Rtype| !(is_apex && *rtype == Rtype::NS);
        if DECIDED.iter().filter(|rtype| decides(rtype)).any(|&rtype| self.zone.node_set(node, rtype).is_some()) {
            return Err(ZoneError::PlainAndRaced(race.name.clone()));
        }
        if self.zone.nodes[node as usize].above != Above::Nothing {
            return Err(ZoneError::Hidden(race.name.clone()));
        }
        self.zone.nodes[node as usize].race = Some(race.index);
        if race.is_referral {
            self.zone.nodes[node as usize].above = Above::Cut(node);
        }
        Ok(())
    }

    fn add_node(&mut self, records: &[Record]) -> Result<NodeId, ZoneError> {
        let owner = &records[0].owner;
        // One owner more: its sets at most once per type, so this is generous, and places still fit 32 bits.
        if self.zone.bytes.len() > MAX_ZONE_BYTES - (1 << 24) {
            return Err(ZoneError::ZoneTooLarge(self.zone.apex.clone()));
        }
        let node = self.enter(owner.as_bytes());
        let first = self.zone.sets.len();
        for of_type in records.chunk_by(|left, right| left.rtype == right.rtype) {
            // Signatures go with what they cover.
            let rtype = of_type[0].rtype;
            if rtype == Rtype::RRSIG && of_type.iter().all(|record| covers(&record.data).is_some()) {
                continue;
            }
            let ttl_s = of_type.iter().map(|record| record.ttl_s).min().unwrap_or(0);
            let set = self.encode(owner, rtype, ttl_s, of_type, records)?;
            self.zone.sets.push(set);
        }
        let own = &mut self.zone.nodes[node as usize];
        own.sets = first as u32;
        own.set_count = (self.zone.sets.len() - first) as u16;
        let is_cut = node != 0 && self.zone.node_set(node, Rtype::NS).is_some();
        if is_cut && self.zone.nodes[node as usize].above == Above::Nothing {
            self.zone.nodes[node as usize].above = Above::Cut(node);
        }
        if self.zone.node_set(node, Rtype::NSEC).is_some() {
            self.chain.add_nsec(node);
        }
        Ok(node)
    }

    fn encode(
        &mut self,
        owner: &CanonicalName,
        rtype: Rtype,
        ttl_s: u32,
        of_type: &[Record],
        of_owner: &[Record],
    ) -> Result<Set, ZoneError> {
        let Zone { bytes, pointers, .. } = &mut self.zone;
        let (wire, first_pointer) = (bytes.len(), pointers.len());
        for record in of_type {
            if bytes.len() - wire > MAX_SET {
                break;
            }
            encode_record(owner.as_bytes(), rtype, ttl_s, &record.data, wire, bytes, pointers);
        }
        let wire_length = bytes.len() - wire;
        let mut signature_count = 0;
        for record in of_owner.iter().filter(|record| record.rtype == Rtype::RRSIG) {
            if covers(&record.data) == Some(rtype) && rtype != Rtype::RRSIG {
                encode_record(owner.as_bytes(), Rtype::RRSIG, ttl_s, &record.data, wire, bytes, pointers);
                signature_count += 1;
            }
        }
        let taken = bytes.len() - wire;
        if taken > MAX_SET {
            return Err(ZoneError::TooLarge { owner: owner.clone(), rtype, bytes: taken });
        }
        Ok(Set {
            rtype,
            count: of_type.len() as u16,
            signature_count,
            pointer_count: (pointers.len() - first_pointer) as u16,
            wire: wire as u32,
            wire_length: wire_length as u32,
            signature_length: (taken - wire_length) as u32,
            pointers: first_pointer as u32,
        })
    }

    /// The node of this name, made with what is missing between it and the newest node: empty non-terminals exist.
    fn enter(&mut self, name: &[u8]) -> NodeId {
        let above = |path: &[NodeId], zone: &Zone| {
            path.last().is_some_and(|&last| {
                let last = zone.node_name(last);
                !suffixes(name).any(|suffix| suffix == last)
            })
        };
        while above(&self.path, &self.zone) {
            self.path.pop();
        }
        let apex = self.zone.apex.as_bytes().len();
        let known = self.path.last().map_or(0, |&last| self.zone.node_name(last).len());
        // At most 127, from the shortest on.
        let missing: Vec<&[u8]> =
            suffixes(name).take_while(|suffix| suffix.len() >= apex && suffix.len() > known).collect();
        for name in missing.into_iter().rev() {
            let parent = self.path.last().copied();
            let node = self.zone.push_node(name, parent);
            self.path.push(node);
        }
        self.path.last().copied().unwrap_or_else(|| unreachable!("the apex is entered first, and never left"))
    }

    fn finish(mut self) -> Result<Zone, ZoneError> {
        let apex = self.zone.apex.clone();
        let soa = self.zone.node_set(0, Rtype::SOA);
        let found = soa.map_or(0, |soa| usize::from(soa.count));
        let Some(soa) = soa.filter(|_| found == 1) else { return Err(ZoneError::Soa { apex, found }) };
        // The five numbers behind two names.
        let numbers = soa.encoded_data().next().and_then(|data| data.last_chunk::<20>().copied()).unwrap_or([0; 20]);
        let number =
            |place: usize| numbers[4 * place..].first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let (serial, negative_ttl_s) = (number(0), soa.ttl_s().min(number(4)));
        self.zone.serial = serial;
        self.zone.negative = Some(self.zone.with_ttl(negative_ttl_s));
        self.zone.denial = self.chain.finish(&mut self.zone)?;
        let Zone { nodes, sets, bytes, pointers, .. } = &mut self.zone;
        nodes.shrink_to_fit();
        sets.shrink_to_fit();
        bytes.shrink_to_fit();
        pointers.shrink_to_fit();
        Ok(self.zone)
    }
}

impl Zone {
    fn push_node(&mut self, name: &[u8], parent: Option<NodeId>) -> NodeId {
        let node = self.nodes.len() as NodeId;
        let above = parent.map_or(Above::Nothing, |parent| match self.nodes[parent as usize].above {
            Above::Nothing if self.node_set(parent, Rtype::DNAME).is_some() => Above::Dname(parent),
            above => above,
        });
        if let Some(parent) = parent
            && name.starts_with(b"\x01*")
        {
            self.nodes[parent as usize].wildcard = Some(node);
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.nodes.push(Node {
            name: start,
            name_length: name.len() as u8,
            set_count: 0,
            sets: 0,
            above,
            wildcard: None,
            race: None,
        });
        let Zone { table, nodes, bytes, .. } = self;
        table.insert_unique(hash(name), node, |&node| {
            let node = &nodes[node as usize];
            hash(&bytes[node.name as usize..][..usize::from(node.name_length)])
        });
        node
    }

    /// A copy of the SOA, and of its signatures, with another time to live.
    fn with_ttl(&mut self, ttl_s: u32) -> Set {
        let apex = &self.nodes[0];
        let sets = &self.sets[apex.sets as usize..][..usize::from(apex.set_count)];
        let Some(soa) = sets.iter().find(|set| set.rtype == Rtype::SOA).cloned() else {
            unreachable!("the caller has found it")
        };
        let wire = self.bytes.len();
        let taken = soa.wire as usize..(soa.wire + soa.wire_length + soa.signature_length) as usize;
        self.bytes.extend_from_within(taken);
        let mut at = wire;
        while at + 12 <= self.bytes.len() {
            self.bytes[at + 6..at + 10].copy_from_slice(&ttl_s.to_be_bytes());
            at += 12 + usize::from(u16::from_be_bytes([self.bytes[at + 10], self.bytes[at + 11]]));
        }
        Set { wire: wire as u32, ..soa }
    }
}

/// Which type an RRSIG record covers (RFC 4034 section 3.1.1).
pub(super) fn covers(data: &[u8]) -> Option<Rtype> {
    data.first_chunk::<2>().map(|bytes| Rtype::from_int(u16::from_be_bytes(*bytes)))
}
