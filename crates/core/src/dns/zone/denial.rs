//! Proving what is not there, in a zone that was signed before it was loaded.
//!
//! A signed zone carries a chain that links its names, in canonical order (NSEC, RFC 4034 section 4) or in the order of
//! their hashes (NSEC3, RFC 5155). A record of it that *matches* a name lists the types that exist there, one that *covers*
//! a name says that there is none between its owner and the next. Which of them an answer needs:
//!
//! | answer | NSEC | NSEC3 |
//! |---|---|---|
//! | no data | match the name (cover an empty non-terminal) | match the name |
//! | no such name | cover the name; cover the wildcard | match the closest encloser; cover the next closer name; cover the wildcard |
//! | from a wildcard | cover the name | cover the next closer name |
//! | no data, by a wildcard | cover the name; match the wildcard | match the closest encloser; cover the next closer name; match the wildcard |
//! | referral without DS | match the cut | match the cut, or else prove its closest encloser (opt-out) |
//!
//! References: RFC 4035 section 3.1.3, RFC 5155 section 7.2, RFC 9276 (iterations).

use super::{NodeId, Record, Set, Zone, ZoneError, at_or_before, wildcard_below};
use crate::dns::name::{CanonicalName, MAX_NAME, parent, suffixes};
use crate::dns::set::{SetRef, encode_record, leading_name};
use domain::base::Rtype;
use ring::digest;

/// Most additional iterations of the hash: validators treat more as insecure (RFC 9276 section 3.2), and each costs time
/// per query.
const MAX_ITERATIONS: u16 = 150;
/// Bytes of a SHA-1 hash, the only one that NSEC3 has (RFC 5155 section 11).
const HASH: usize = 20;
/// Characters of its base32hex form.
const HASH_LABEL: usize = 32;

/// The records of one proof with their owners, in the order in which they are written; none twice.
pub(in crate::dns) type Proof<'a> = [Option<(&'a [u8], SetRef<'a>)>; 3];

/// A zone's chain.
#[derive(Clone, Debug, Default)]
pub(super) enum Chain {
    /// The zone is not signed.
    #[default]
    None,
    /// Nodes with an NSEC record, in canonical order.
    Nsec(Vec<NodeId>),
    /// NSEC3 records.
    Nsec3 {
        iterations: u16,
        salt: Vec<u8>,
        /// In the order of their hashes.
        records: Vec<Nsec3>,
    },
}

/// One NSEC3 record.
#[derive(Clone, Debug)]
pub(super) struct Nsec3 {
    hash: [u8; HASH],
    /// Where its owner's name begins among the zone's bytes.
    owner: u32,
    owner_length: u8,
    set: Set,
}

/// Gathers a chain while a zone is built.
#[derive(Default)]
pub(super) struct Builder {
    nsec: Vec<NodeId>,
    /// NSEC3 records with their signatures, one list per owner.
    nsec3: Vec<Vec<Record>>,
}

impl Builder {
    pub(super) fn add_nsec(&mut self, node: NodeId) {
        self.nsec.push(node);
    }

    pub(super) fn add(&mut self, records: &[Record]) {
        self.nsec3.push(records.to_vec());
    }

    /// The chain; its records join the zone's bytes. Where there are records of several NSEC3 chains (a change of salt that
    /// was under way), the one with the most records is complete.
    pub(super) fn finish(self, zone: &mut Zone) -> Result<Chain, ZoneError> {
        let mut chains: Vec<(u16, Vec<u8>, Vec<Nsec3>)> = Vec::new();
        for records in self.nsec3 {
            for record in records.iter().filter(|record| record.rtype == Rtype::NSEC3) {
                let parsed = parameters(&record.data).zip(hash_of_owner(record.owner.as_bytes()));
                let Some(((iterations, salt), hash)) = parsed else {
                    return Err(ZoneError::Nsec3 { owner: record.owner.clone() });
                };
                let entry = encode(zone, record, &records, hash);
                match chains.iter_mut().find(|(own, own_salt, _)| *own == iterations && own_salt == salt) {
                    Some((_, _, entries)) => entries.push(entry),
                    None => chains.push((iterations, salt.to_vec(), vec![entry])),
                }
            }
        }
        if let Some((iterations, salt, mut records)) = chains.into_iter().max_by_key(|(_, _, records)| records.len()) {
            if iterations > MAX_ITERATIONS {
                return Err(ZoneError::Iterations { apex: zone.apex.clone(), found: iterations, most: MAX_ITERATIONS });
            }
            records.sort_unstable_by_key(|record| record.hash);
            return Ok(Chain::Nsec3 { iterations, salt, records });
        }
        Ok(match self.nsec.is_empty() {
            true => Chain::None,
            false => Chain::Nsec(self.nsec),
        })
    }
}

/// Iterations and salt (RFC 5155 section 3.2); `None` for another algorithm than SHA-1 or for data that ends early.
fn parameters(data: &[u8]) -> Option<(u16, &[u8])> {
    let &[1, _, high, low, salt_length, ref rest @ ..] = data else { return None };
    Some((u16::from_be_bytes([high, low]), rest.get(..usize::from(salt_length))?))
}

/// The hash that the first label of an NSEC3 record's owner spells in base32hex (RFC 4648 section 7).
fn hash_of_owner(owner: &[u8]) -> Option<[u8; HASH]> {
    let label = owner.get(1..1 + HASH_LABEL).filter(|_| usize::from(owner[0]) == HASH_LABEL)?;
    let mut hash = [0; HASH];
    // Eight characters are five bytes.
    for (characters, bytes) in label.chunks_exact(8).zip(hash.chunks_exact_mut(5)) {
        let mut value = 0u64;
        for &character in characters {
            let digit = match character {
                b'0'..=b'9' => character - b'0',
                b'a'..=b'v' => character - b'a' + 10,
                _ => return None,
            };
            value = value << 5 | u64::from(digit);
        }
        bytes.copy_from_slice(&value.to_be_bytes()[3..]);
    }
    Some(hash)
}

fn encode(zone: &mut Zone, record: &Record, of_owner: &[Record], hash: [u8; HASH]) -> Nsec3 {
    let owner = record.owner.as_bytes();
    let start = zone.bytes.len();
    zone.bytes.extend_from_slice(owner);
    let wire = zone.bytes.len();
    let mut no_pointers = Vec::new();
    encode_record(owner, Rtype::NSEC3, record.ttl_s, &record.data, wire, &mut zone.bytes, &mut no_pointers);
    let wire_length = zone.bytes.len() - wire;
    let mut signature_count = 0;
    for signature in of_owner.iter().filter(|signature| signature.rtype == Rtype::RRSIG) {
        encode_record(owner, Rtype::RRSIG, record.ttl_s, &signature.data, wire, &mut zone.bytes, &mut no_pointers);
        signature_count += 1;
    }
    let set = Set {
        rtype: Rtype::NSEC3,
        count: 1,
        signature_count,
        pointer_count: 0,
        wire: wire as u32,
        wire_length: wire_length as u32,
        signature_length: (zone.bytes.len() - wire - wire_length) as u32,
        pointers: 0,
    };
    Nsec3 { hash, owner: start as u32, owner_length: owner.len() as u8, set }
}

impl Chain {
    /// Whether a record is part of the chain and none of the zone's names owns it: NSEC3 and what signs it.
    pub(super) fn belongs_apart(record: &Record) -> bool {
        record.rtype == Rtype::NSEC3
            || record.rtype == Rtype::RRSIG && super::build::covers(&record.data) == Some(Rtype::NSEC3)
    }

    pub(super) fn exists(&self) -> bool {
        !matches!(self, Chain::None)
    }

    /// How many names own records that are not among the zone's nodes.
    pub(super) fn apart_count(&self) -> usize {
        self.apart().len()
    }

    fn apart(&self) -> &[Nsec3] {
        match self {
            Chain::Nsec3 { records, .. } => records.as_slice(),
            Chain::None | Chain::Nsec(_) => &[],
        }
    }

    /// The records of one of those names.
    pub(super) fn apart_records(&self, index: usize, zone: &Zone) -> Vec<Record> {
        let Some(record) = self.apart().get(index) else { return Vec::new() };
        let set = zone.set(record.owner_length, &record.set);
        let owner = record.owner(zone);
        let of = |rtype, data: &[u8]| Record {
            owner: CanonicalName::from_canonical(owner),
            rtype,
            ttl_s: set.ttl_s(),
            data: data.into(),
        };
        let signatures = SetRef { wire: set.signatures, ..set };
        let data = set.encoded_data().map(|data| of(Rtype::NSEC3, data));
        data.chain(signatures.encoded_data().map(|data| of(Rtype::RRSIG, data))).collect()
    }
}

impl Nsec3 {
    fn owner<'a>(&self, zone: &'a Zone) -> &'a [u8] {
        &zone.bytes[self.owner as usize..][..usize::from(self.owner_length)]
    }
}

/// A zone's chain, asked.
struct Asked<'a> {
    zone: &'a Zone,
    proof: Proof<'a>,
}

impl<'a> Asked<'a> {
    fn add(&mut self, owner: &'a [u8], set: SetRef<'a>) {
        if self.proof.iter().flatten().any(|(own, _)| *own == owner) {
            return;
        }
        if let Some(free) = self.proof.iter_mut().find(|place| place.is_none()) {
            *free = Some((owner, set));
        }
    }

    fn add_node(&mut self, node: Option<NodeId>) {
        let found = node.and_then(|node| Some((node, self.zone.node_set(node, Rtype::NSEC)?)));
        if let Some((node, set)) = found {
            self.add(self.zone.node_name(node), set);
        }
    }

    fn nsec_at_or_before(&mut self, nodes: &[NodeId], name: &[u8]) {
        self.add_node(at_or_before(self.zone, nodes, name));
    }

    /// The NSEC3 record that matches a name, or covers it; `true` where it matches.
    fn nsec3(&mut self, name: &[u8], wanted: Wanted) -> bool {
        let Chain::Nsec3 { iterations, salt, records } = &self.zone.denial else { return false };
        let hash = hash_name(name, *iterations, salt);
        let found = records.binary_search_by(|record| record.hash.cmp(&hash));
        let place = match (found, wanted) {
            (Ok(place), Wanted::Match | Wanted::Either) => place,
            (Err(after), Wanted::Cover | Wanted::Either) => match after.checked_sub(1).or(records.len().checked_sub(1))
            {
                Some(place) => place,
                None => return false,
            },
            _ => return false,
        };
        let record = &records[place];
        self.add(record.owner(self.zone), self.zone.set(record.owner_length, &record.set));
        found.is_ok()
    }

    /// Proves that `encloser` is the closest one to `name` that exists.
    fn closest_encloser(&mut self, name: &[u8], encloser: &[u8]) {
        let mut provable = Some(encloser);
        // An encloser may be one that opt-out leaves out of the chain: then one further up is the closest provable.
        while let Some(candidate) = provable.filter(|candidate| candidate.len() >= self.zone.apex.as_bytes().len()) {
            if self.nsec3(candidate, Wanted::Match) {
                self.nsec3(next_closer(name, candidate), Wanted::Cover);
                return;
            }
            provable = parent(candidate);
        }
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Match,
    Cover,
    Either,
}

/// The type bitmap of NSEC3 data (RFC 5155 section 3.2): behind algorithm, flags, iterations, salt and hash.
fn nsec3_bitmap(data: &[u8]) -> Option<&[u8]> {
    let salt_length = usize::from(*data.get(4)?);
    let hash_length = usize::from(*data.get(5 + salt_length)?);
    data.get(6 + salt_length + hash_length..)
}

/// Whether a type bitmap (RFC 4034 section 4.1.2: window, length, bits) has this type's bit.
fn lists(bitmap: &[u8], rtype: Rtype) -> bool {
    let (window, bit) = ((rtype.to_int() >> 8) as u8, usize::from(rtype.to_int() & 0xff));
    let mut rest = bitmap;
    while let [own, length, tail @ ..] = rest {
        let Some((bits, tail)) = tail.split_at_checked(usize::from(*length)) else { return false };
        if *own == window {
            return bits.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0);
        }
        rest = tail;
    }
    false
}

/// The name one label longer than `encloser` on the way to `name` (RFC 5155 section 1.3).
fn next_closer<'n>(name: &'n [u8], encloser: &[u8]) -> &'n [u8] {
    let below = suffixes(name).take_while(|suffix| suffix.len() > encloser.len());
    below.last().unwrap_or(name)
}

/// RFC 5155 section 5: the hash of a canonical name.
fn hash_name(name: &[u8], iterations: u16, salt: &[u8]) -> [u8; HASH] {
    let hash = |bytes: &[u8]| {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(bytes);
        context.update(salt);
        context.finish().as_ref().first_chunk::<HASH>().copied().unwrap_or([0; HASH])
    };
    (0..iterations).fold(hash(name), |previous, _| hash(&previous))
}

impl Zone {
    fn ask<'a>(&'a self, gather: impl FnOnce(&mut Asked<'a>, &'a Chain)) -> Proof<'a> {
        let mut asked = Asked { zone: self, proof: [None; 3] };
        gather(&mut asked, &self.denial);
        asked.proof
    }

    /// Whether the chain says that `name` does not exist, or does not have this type.
    pub(super) fn denies(&self, name: &[u8], rtype: Rtype) -> bool {
        match &self.denial {
            Chain::None => false,
            Chain::Nsec(_) => {
                let nsec = self.node(name).and_then(|node| self.node_set(node, Rtype::NSEC));
                let data = nsec.and_then(|nsec| nsec.encoded_data().next());
                let bitmap = data.and_then(|data| data.get(leading_name(data)?.len()..));
                !bitmap.is_some_and(|bitmap| lists(bitmap, rtype))
            }
            Chain::Nsec3 { iterations, salt, records } => {
                let hash = hash_name(name, *iterations, salt);
                let found = records.binary_search_by(|record| record.hash.cmp(&hash));
                let set = found.ok().map(|place| self.set(records[place].owner_length, &records[place].set));
                let data = set.and_then(|set| set.encoded_data().next());
                !data.and_then(nsec3_bitmap).is_some_and(|bitmap| lists(bitmap, rtype))
            }
        }
    }

    /// That `name`, which is a node, has no data of the type that was asked for.
    pub(in crate::dns) fn prove_no_data(&self, name: &[u8], node: NodeId) -> Proof<'_> {
        self.ask(|asked, chain| match chain {
            Chain::None => {}
            Chain::Nsec(nodes) => match self.node_set(node, Rtype::NSEC) {
                Some(_) => asked.add_node(Some(node)),
                None => asked.nsec_at_or_before(nodes, name),
            },
            Chain::Nsec3 { .. } => {
                if !asked.nsec3(name, Wanted::Match) {
                    asked.closest_encloser(name, parent(name).unwrap_or(name));
                }
            }
        })
    }

    /// That neither `name` exists nor the wildcard that would stand for it.
    pub(in crate::dns) fn prove_name_error(&self, name: &[u8], encloser: NodeId) -> Proof<'_> {
        let encloser = self.node_name(encloser);
        let mut buffer = [0; MAX_NAME + 2];
        self.ask(|asked, chain| match chain {
            Chain::None => {}
            Chain::Nsec(nodes) => {
                asked.nsec_at_or_before(nodes, name);
                asked.nsec_at_or_before(nodes, wildcard_below(encloser, &mut buffer));
            }
            Chain::Nsec3 { .. } => {
                asked.closest_encloser(name, encloser);
                asked.nsec3(wildcard_below(encloser, &mut buffer), Wanted::Either);
            }
        })
    }

    /// That `name` itself does not exist, so that a wildcard stands for it.
    pub(in crate::dns) fn prove_wildcard(&self, name: &[u8], encloser: NodeId) -> Proof<'_> {
        self.ask(|asked, chain| match chain {
            Chain::None => {}
            Chain::Nsec(nodes) => asked.nsec_at_or_before(nodes, name),
            Chain::Nsec3 { .. } => {
                asked.nsec3(next_closer(name, self.node_name(encloser)), Wanted::Cover);
            }
        })
    }

    /// That `name` itself does not exist, and that the wildcard has no data of the type that was asked for.
    pub(in crate::dns) fn prove_wildcard_no_data(&self, name: &[u8], wildcard: NodeId, encloser: NodeId) -> Proof<'_> {
        self.ask(|asked, chain| match chain {
            Chain::None => {}
            Chain::Nsec(nodes) => {
                asked.nsec_at_or_before(nodes, name);
                asked.add_node(Some(wildcard));
            }
            Chain::Nsec3 { .. } => {
                asked.closest_encloser(name, self.node_name(encloser));
                asked.nsec3(self.node_name(wildcard), Wanted::Match);
            }
        })
    }

    /// That the child zone which begins at this node is not signed.
    pub(in crate::dns) fn prove_unsigned_child(&self, cut: NodeId) -> Proof<'_> {
        self.prove_no_data(self.node_name(cut), cut)
    }
}
