//! The canonical order of names (RFC 4034 section 6.1), and records sorted by it.
//!
//! In this order everything at and below a name is one run, so that delegations, aliases and sets are found in one pass,
//! and a name by halving. Names compare by their labels from the right, which is slow on the wire format: labels are
//! found from the left only, and a name is somewhere else in memory than its record. So what sorts 10^6 records within
//! a second is a key that begins like the name in this order, 16 bytes at a time: the first ones decide nearly always.

use std::cmp::Ordering;

use startgun_core::dns::CanonicalName;

use super::text::PlacedRecord;

/// Most labels of a name, the root's included: 127 of one byte each.
const LABELS_MAX: usize = 128;

/// A name in canonical form, and where its labels are, from the left, without the root's.
pub(super) struct Labels<'n> {
    name: &'n [u8],
    starts: [u8; LABELS_MAX],
    count: usize,
}

impl<'n> Labels<'n> {
    pub fn of(name: &'n [u8]) -> Self {
        let mut labels = Labels { name, starts: [0; LABELS_MAX], count: 0 };
        let mut at = 0;
        // A canonical name ends with the root label, within 255 bytes.
        while let Some(&length @ 1..) = name.get(at) {
            labels.starts[labels.count] = at as u8;
            labels.count += 1;
            at += 1 + usize::from(length);
        }
        labels
    }

    /// Compares two names in canonical order.
    ///
    /// RFC 4034 section 6.1: "owner names are ordered by treating individual labels as unsigned left-justified octet
    /// strings. The absence of a octet sorts before a zero value octet", from the most significant (rightmost) label on.
    pub fn order(&self, other: &Labels<'_>) -> Ordering {
        let mut shared = 0..self.count.min(other.count);
        let difference = shared.find_map(|nth| {
            let order = self.label(nth).cmp(other.label(nth));
            order.is_ne().then_some(order)
        });
        difference.unwrap_or(self.count.cmp(&other.count))
    }

    /// The label so far from the right, without its length.
    fn label(&self, from_right: usize) -> &'n [u8] {
        let start = usize::from(self.starts[self.count - 1 - from_right]);
        &self.name[start + 1..][..usize::from(self.name[start])]
    }
}

/// Bytes of a key.
const KEY_BYTES: usize = 16;

/// A part of a record's key, and the record's number.
type Keyed = (u128, u32);

/// Sorts records by owner, then by type; those of one set stay in their order. There are at most 2^32 of them.
pub(super) fn sort(apex: &CanonicalName, records: &mut [PlacedRecord]) {
    let apex_labels = Labels::of(apex.as_bytes()).count;
    let mut keyed: Vec<Keyed> = records.iter().zip(0u32..).map(|(_, nth)| (0, nth)).collect();
    sort_run(&mut keyed, records, apex_labels, 0);
    let mut sources: Vec<u32> = keyed.into_iter().map(|(_, nth)| nth).collect();
    // Every record moves once, along the cycles of the permutation: a second copy of them would be a gigabyte.
    for start in 0..sources.len() {
        let mut to = start;
        loop {
            let from = std::mem::replace(&mut sources[to], to as u32) as usize;
            if from == start {
                break;
            }
            records.swap(to, from);
            to = from;
        }
    }
}

/// Sorts a run of records whose owners' keys have the same first `known` bytes: by the next 16, and where those are the
/// same too, by those behind them. A name has at most 510 bytes of key, so this is at most 32 deep.
fn sort_run(run: &mut [Keyed], records: &[PlacedRecord], apex_labels: usize, known: usize) {
    let record = |nth: u32| &records[nth as usize].record;
    for (part, nth) in run.iter_mut() {
        *part = key(record(*nth).owner.as_bytes(), apex_labels, known);
    }
    run.sort_unstable_by_key(|(part, _)| *part);
    for same in run.chunk_by_mut(|(a, _), (b, _)| a == b).filter(|same| same.len() > 1) {
        // A label has bytes, so two zeros are the end of a name.
        match same[0].0 & 0xFFFF {
            0 => same.sort_unstable_by_key(|(_, nth)| (record(*nth).rtype, *nth)),
            _ => sort_run(same, records, apex_labels, known + KEY_BYTES),
        }
    }
}

/// The 16 bytes behind the first `known` ones of a name's key. A name at or below an apex with so many labels has as its
/// key the labels below the apex, from the right, a zero behind each, and zeros at the end. Zeros and ones of a label
/// become two bytes each, so that none is taken for a label's end.
fn key(name: &[u8], apex_labels: usize, known: usize) -> u128 {
    let labels = Labels::of(name);
    let escaped = |byte: u8| {
        let is_low = byte <= 1;
        is_low.then_some(1).into_iter().chain([byte + u8::from(is_low)])
    };
    let bytes = (apex_labels..labels.count)
        .flat_map(|nth| labels.label(nth).iter().flat_map(move |&byte| escaped(byte)).chain([0]));
    let mut key = [0; KEY_BYTES];
    key.iter_mut().zip(bytes.skip(known)).for_each(|(place, byte)| *place = byte);
    u128::from_be_bytes(key)
}
