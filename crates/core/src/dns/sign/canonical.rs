//! The canonical form of records, which is what signatures cover (RFC 4034 section 6.2).
//!
//! Signer and validator must come to the same bytes, whatever a cache between them did to the case of names. So names
//! within the data count in lower case, but only those of a closed list of old types; of all others, the future ones
//! too, the data counts as it is (RFC 3597 section 7). The `domain` crate can write this form of the types that it
//! knows, but it leaves out AFSDB, RT, PX, KX and A6, and what it does not know it would pass as it is: a signature
//! that others refuse. Hence the list as a table that says for each type where its names are.

use domain::base::Rtype;

/// Longest name on the wire, RFC 1035 section 2.3.4.
const NAME_BYTES_MAX: usize = 255;

/// Longest label, RFC 1035 section 2.3.4. A greater length byte is a compression pointer or a mistake.
const LABEL_BYTES_MAX: u8 = 63;

/// Bits of an address in A6 data, RFC 2874 section 3.1.
const ADDRESS_BITS: usize = 128;

/// A part of a record's data.
#[derive(Clone, Copy)]
enum Part {
    /// So many bytes.
    Bytes(usize),
    /// A length and so many bytes (RFC 1035 section 3.3).
    CharacterString,
    /// A name, which counts in lower case.
    Name,
    /// The end of an address, and a name unless the address is complete (RFC 2874 section 3.1).
    AddressSuffix,
    /// Whatever follows.
    Rest,
}

/// The parts of a type's data, as far as they must be known to find its names.
///
/// RFC 4034 section 6.2 lists the types. RFC 6840 section 5.1 takes two off it: NSEC, for "DNS names in the RDATA
/// section of NSEC resource records are not converted to lowercase", and HINFO, which has no names. RRSIG is never
/// signed.
fn parts(rtype: Rtype) -> &'static [Part] {
    use Part::{AddressSuffix, Bytes, CharacterString, Name, Rest};
    match rtype {
        Rtype::NS | Rtype::MD | Rtype::MF | Rtype::CNAME | Rtype::MB | Rtype::MG | Rtype::MR => &[Name],
        Rtype::PTR | Rtype::DNAME => &[Name],
        Rtype::SOA => &[Name, Name, Bytes(20)],
        Rtype::MINFO | Rtype::RP => &[Name, Name],
        Rtype::MX | Rtype::AFSDB | Rtype::RT | Rtype::KX => &[Bytes(2), Name],
        Rtype::PX => &[Bytes(2), Name, Name],
        Rtype::SRV => &[Bytes(6), Name],
        Rtype::NAPTR => &[Bytes(4), CharacterString, CharacterString, CharacterString, Name],
        Rtype::SIG => &[Bytes(18), Name, Rest],
        Rtype::NXT => &[Name, Rest],
        Rtype::A6 => &[AddressSuffix],
        _ => &[Rest],
    }
}

/// The canonical form of a record's data; `None` where it has not the form of its type, or compressed names.
pub(super) fn canonical_data(rtype: Rtype, data: &[u8]) -> Option<Vec<u8>> {
    let mut canonical = data.to_vec();
    let mut rest = canonical.as_mut_slice();
    for part in parts(rtype) {
        let length = match part {
            Part::Bytes(count) => *count,
            Part::CharacterString => 1 + usize::from(*rest.first()?),
            Part::Name => lower_name(rest)?,
            Part::AddressSuffix => lower_after_address(rest)?,
            Part::Rest => rest.len(),
        };
        rest = rest.split_at_mut_checked(length)?.1;
    }
    rest.is_empty().then_some(canonical)
}

/// Puts the name at the start of `bytes` into lower case and gives its length.
fn lower_name(bytes: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        match bytes.get(length)? {
            0 => break,
            &label if label <= LABEL_BYTES_MAX => length += 1 + usize::from(label),
            _ => return None,
        }
    }
    length += 1;
    // Lengths, at most 63, are no letters.
    bytes.get_mut(..length).filter(|name| name.len() <= NAME_BYTES_MAX)?.make_ascii_lowercase();
    Some(length)
}

/// Reads A6 data: the length of the prefix that is missing, in bits, the address without it, and the name that has it.
fn lower_after_address(bytes: &mut [u8]) -> Option<usize> {
    let prefix_bits = usize::from(*bytes.first()?);
    let suffix = 1 + ADDRESS_BITS.checked_sub(prefix_bits)?.div_ceil(8);
    match prefix_bits {
        0 => Some(suffix),
        _ => Some(suffix + lower_name(bytes.get_mut(suffix..)?)?),
    }
}

/// Labels of an owner as an RRSIG states them, RFC 4034 section 3.1.3: "The value of the Labels field MUST NOT count
/// either the null (root) label that terminates the owner name or the wildcard label (if present)."
pub(super) fn label_count(owner: &[u8]) -> u8 {
    let all = suffixes(owner).count() - 1;
    // A name of 255 bytes has at most 127 labels.
    (all - usize::from(owner.starts_with(b"\x01*"))) as u8
}

/// Whether a name is `ancestor` or lies below it; both in canonical form.
pub(super) fn is_at_or_below(name: &[u8], ancestor: &[u8]) -> bool {
    suffixes(name).any(|suffix| suffix == ancestor)
}

/// A name on the wire, its parent, and so on to the root.
fn suffixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(name), |name| match name.first() {
        None | Some(0) => None,
        Some(&label) => name.get(usize::from(label) + 1..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(rtype: Rtype, data: &[u8]) -> Option<Vec<u8>> {
        canonical_data(rtype, data)
    }

    /// Data of each listed type, names in upper case, with everything else in upper case, too.
    fn listed() -> Vec<(Rtype, Vec<u8>, Vec<u8>)> {
        let (upper, lower) = (b"\x01A\x04EXAM\x00".as_slice(), b"\x01a\x04exam\x00".as_slice());
        let of = |rtype, parts: &[&[u8]]| {
            let names_lower: Vec<&[u8]> = parts.iter().map(|part| if *part == upper { lower } else { part }).collect();
            (rtype, parts.concat(), names_lower.concat())
        };
        let mut all: Vec<_> =
            [Rtype::NS, Rtype::MD, Rtype::MF, Rtype::CNAME, Rtype::MB, Rtype::MG, Rtype::MR, Rtype::PTR, Rtype::DNAME]
                .map(|rtype| of(rtype, &[upper]))
                .into();
        all.push(of(Rtype::SOA, &[upper, upper, b"ABCDEFGHIJKLMNOPQRST"]));
        all.extend([Rtype::MINFO, Rtype::RP].map(|rtype| of(rtype, &[upper, upper])));
        all.extend([Rtype::MX, Rtype::AFSDB, Rtype::RT, Rtype::KX].map(|rtype| of(rtype, &[b"AB", upper])));
        all.push(of(Rtype::PX, &[b"AB", upper, upper]));
        all.push(of(Rtype::SRV, &[b"ABCDEF", upper]));
        all.push(of(Rtype::NAPTR, &[b"ABCD", b"\x01U", b"\x03SIP", b"\x00", upper]));
        all.push(of(Rtype::SIG, &[b"ABCDEFGHIJKLMNOPQR", upper, b"SIGNATURE"]));
        all.push(of(Rtype::NXT, &[upper, b"BITMAP"]));
        all.push(of(Rtype::A6, &[b"\x70AB", upper]));
        all
    }

    #[test]
    fn names_of_the_listed_types_count_in_lower_case_and_nothing_else() {
        for (rtype, data, expected) in listed() {
            assert_ne!(data, expected, "{rtype}");
            assert_eq!(canonical(rtype, &data), Some(expected), "{rtype}");
        }
    }

    #[test]
    fn names_of_other_types_count_as_they_are() {
        let name = b"\x01A\x04EXAM\x00".as_slice();
        for (rtype, data) in [
            (Rtype::NSEC, [name, b"\x00\x01\x40"].concat()),
            (Rtype::HINFO, b"\x03CPU\x02OS".to_vec()),
            (Rtype::SVCB, [b"\x00\x01", name].concat()),
            (Rtype::TXT, b"\x04TEXT".to_vec()),
            (Rtype::from_int(65_280), name.to_vec()),
        ] {
            assert_eq!(canonical(rtype, &data), Some(data), "{rtype}");
        }
        let whole_address = [b"\x00".as_slice(), b"ABCDEFGHIJKLMNOP"].concat();
        assert_eq!(canonical(Rtype::A6, &whole_address), Some(whole_address));
    }

    #[test]
    fn data_that_is_cut_or_too_long_is_refused() {
        for (rtype, data, _) in listed() {
            let ends_freely = [Rtype::SIG, Rtype::NXT].contains(&rtype);
            let name_end = data.iter().rposition(|&byte| byte == 0).expect("the root") + 1;
            let needed = if ends_freely { name_end } else { data.len() };
            for length in 0..needed {
                assert_eq!(canonical(rtype, &data[..length]), None, "{rtype} cut to {length} bytes");
            }
            let longer = [data, vec![0]].concat();
            assert_eq!(canonical(rtype, &longer).is_some(), ends_freely, "{rtype} with a byte more");
        }
    }

    #[test]
    fn names_that_are_compressed_or_too_long_are_refused() {
        assert_eq!(canonical(Rtype::NS, b"\x01a\xc0\x0c"), None);
        let label = [b"\x3f".as_slice(), &[b'a'; 63]].concat();
        let (longest, longer) = ([b'b'; 61], [b'b'; 62]);
        let with = |last: &[u8]| [&label, &label, &label, &[last.len() as u8][..], last, &[0]].concat();
        assert_eq!(canonical(Rtype::NS, &with(&longest)).map(|name| name.len()), Some(NAME_BYTES_MAX));
        assert_eq!(canonical(Rtype::NS, &with(&longer)), None);
        assert_eq!(canonical(Rtype::A6, &[129, 0]), None, "a prefix longer than an address");
    }

    #[test]
    fn neither_root_nor_wildcard_is_among_the_labels() {
        for (name, count) in [
            (b"\x00".as_slice(), 0),
            (b"\x01*\x00", 0),
            (b"\x03cdn\x04test\x00", 2),
            (b"\x01*\x03cdn\x04test\x00", 2),
            (b"\x02**\x04test\x00", 2),
            (b"\x01a\x01*\x04test\x00", 3),
        ] {
            assert_eq!(label_count(name), count, "{name:?}");
        }
    }

    #[test]
    fn a_name_is_below_its_ancestors_by_whole_labels() {
        assert!(is_at_or_below(b"\x03cdn\x04test\x00", b"\x04test\x00"));
        assert!(is_at_or_below(b"\x04test\x00", b"\x04test\x00"));
        assert!(is_at_or_below(b"\x04test\x00", b"\x00"));
        assert!(!is_at_or_below(b"\x05atest\x00", b"\x04test\x00"));
        assert!(!is_at_or_below(b"\x04test\x00", b"\x03cdn\x04test\x00"));
        // The last bytes are those of the ancestor, but its first one is no length here.
        assert!(!is_at_or_below(b"\x06x\x04test\x00", b"\x04test\x00"));
    }
}
