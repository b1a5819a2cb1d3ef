//! Record types whose data is read here: each is a row of fields.
//!
//! Most of them the `domain` crate (0.12) does not know. Three it does: addresses, which are most of a large zone and
//! are read without allocation here, and SOA, whose times may be in units. A row also says which bytes are a type's data
//! when they are written as bytes (`\#`).

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::Rtype;
use domain::base::iana::SecurityAlgorithm;
use domain::base::scan::Scanner;
use domain::rdata::dnssec::RtypeBitmap;
use domain::utils::base64;

use super::data::{byte_of, number, push_hexadecimal, read_type};
use super::lexer::{Token, Tokens};
use super::library::{ScanError, TokenScanner};
use super::name::{self, WireName};
use super::{TextFault, seconds};

mod location;
mod prefix;

/// One part of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// A name, uncompressed.
    Name,
    /// A number of 8 bits and what it is.
    U8(&'static str),
    /// A number of 16 bits and what it is.
    U16(&'static str),
    /// A number of 32 bits and what it is.
    U32(&'static str),
    /// Seconds in 32 bits, in units too, and what they are.
    Seconds(&'static str),
    /// A number of 8 bits that may be an algorithm of DNSSEC by name.
    Algorithm,
    /// A number of 16 bits that may be a certificate's type by name, RFC 4398 section 2.1.
    CertificateType,
    /// A number of 8 bits that may be a notification's scheme by name, RFC 9859 section 2.
    Scheme,
    /// A record type.
    Type,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// 64 bits as four groups of hexadecimal digits, RFC 6742 section 2.1.2.
    Groups,
    /// So many bytes in hexadecimal digits with hyphens, RFC 7043 sections 3 and 4.
    Hyphens(usize),
    /// Bytes in hexadecimal digits with dots after `0x`, RFC 1706.
    Dots,
    /// A character string.
    String,
    /// A character string that may be left out.
    OptionalString,
    /// A string without its length, to the end of the data.
    Text,
    /// Base 64 to the end of the data.
    Base64,
    /// Record types as a bitmap, RFC 4034 section 4.1.2.
    Types,
    /// A place on earth.
    Location,
    /// Address prefixes to the end.
    Prefixes,
    /// Host identity and its servers.
    HostIdentity,
    /// Whether a relay must be looked for, its kind, and itself.
    Relay,
}

/// The row of a type; `None` where there is none here.
pub(super) fn of(rtype: Rtype) -> Option<&'static [Field]> {
    use Field::*;
    const PREFERENCE: Field = U16("a preference");
    Some(match rtype {
        Rtype::A => &[Ipv4],
        Rtype::AAAA => &[Ipv6],
        // RFC 1035 section 3.3.13.
        Rtype::SOA => &[
            Name,
            Name,
            U32("a serial"),
            Seconds("the time to refresh"),
            Seconds("the time to retry"),
            Seconds("the time to expire"),
            Seconds("the minimum"),
        ],
        // RFC 1183 sections 1 and 3; RFC 2230 section 3; RFC 6742 section 2.4.
        Rtype::AFSDB => &[U16("a subtype"), Name],
        Rtype::X25 => &[String],
        Rtype::ISDN => &[String, OptionalString],
        Rtype::RT | Rtype::KX | Rtype::LP => &[PREFERENCE, Name],
        // RFC 1706, 2163, 1712, 1876.
        Rtype::NSAP => &[Dots],
        Rtype::NSAPPTR => &[Name],
        Rtype::PX => &[PREFERENCE, Name, Name],
        Rtype::GPOS => &[String, String, String],
        Rtype::LOC => &[Location],
        // RFC 4398, 3123, 4701, 8005.
        Rtype::CERT => &[CertificateType, U16("a key tag"), Algorithm, Base64],
        Rtype::APL => &[Prefixes],
        Rtype::DHCID => &[Base64],
        Rtype::HIP => &[HostIdentity],
        // Registered at IANA.
        Rtype::TALINK => &[Name, Name],
        // RFC 7477 section 2.1.1; RFC 9859 section 2.
        Rtype::CSYNC => &[U32("a serial"), U16("flags"), Types],
        Rtype::DSYNC => &[Type, Scheme, U16("a port"), Name],
        // RFC 6742 sections 2.1 to 2.3; RFC 7043.
        Rtype::NID | Rtype::L64 => &[PREFERENCE, Groups],
        Rtype::L32 => &[PREFERENCE, Ipv4],
        Rtype::EUI48 => &[Hyphens(6)],
        Rtype::EUI64 => &[Hyphens(8)],
        // RFC 7553 section 4.5; RFC 8777 section 4.3.
        Rtype::URI => &[U16("a priority"), U16("a weight"), Text],
        Rtype::AMTRELAY => &[U8("a precedence"), Relay],
        _ => return None,
    })
}

/// Reads a row's fields and appends them to `data`.
pub(super) fn read(
    fields: &[Field],
    tokens: &mut Tokens<'_, '_>,
    origin: &WireName,
    data: &mut Vec<u8>,
) -> Result<(), TextFault> {
    fields.iter().try_for_each(|&field| read_field(field, tokens, origin, data))
}

fn read_field(
    field: Field,
    tokens: &mut Tokens<'_, '_>,
    origin: &WireName,
    data: &mut Vec<u8>,
) -> Result<(), TextFault> {
    match field {
        Field::Name => data.extend_from_slice(WireName::take(tokens, origin, "a domain name")?.as_bytes()),
        Field::U8(what) => data.push(take_number(tokens, &format!("{what}, a whole number from 0 to 255"), number)?),
        Field::U16(what) => push_u16(tokens, &format!("{what}, a whole number from 0 to 65535"), data, number)?,
        Field::U32(what) => push_u32(tokens, &format!("{what}, a whole number of 32 bits"), data, number)?,
        Field::Seconds(what) => {
            push_u32(tokens, &format!("{what} in seconds of 32 bits, or in units, such as 1h30m"), data, seconds)?;
        }
        Field::Algorithm => data.push(take_number(tokens, "an algorithm, by number or name", algorithm)?),
        Field::CertificateType => push_u16(tokens, "a certificate's type, by number or name", data, certificate_type)?,
        Field::Scheme => data.push(take_number(tokens, "a scheme, NOTIFY or a number", scheme)?),
        Field::Type => {
            push_u16(tokens, "a record type", data, |word| read_type(word).map(|rtype| rtype.to_int()))?;
        }
        Field::Ipv4 => {
            let address = take_number(tokens, "an IPv4 address", |word| word.parse::<Ipv4Addr>().ok())?;
            data.extend_from_slice(&address.octets());
        }
        Field::Ipv6 => {
            let address = take_number(tokens, "an IPv6 address", |word| word.parse::<Ipv6Addr>().ok())?;
            data.extend_from_slice(&address.octets());
        }
        Field::Groups => {
            let expected = "64 bits as four groups of up to four hexadecimal digits, with : between them";
            data.extend_from_slice(&take_number(tokens, expected, groups)?);
        }
        Field::Hyphens(length) => {
            let expected = format!("{length} bytes of two hexadecimal digits, with - between them");
            let bytes = take_number(tokens, &expected, |word| hyphens(word).filter(|bytes| bytes.len() == length))?;
            data.extend_from_slice(&bytes);
        }
        Field::Dots => {
            let expected = "0x and bytes of two hexadecimal digits";
            data.extend_from_slice(&take_number(tokens, expected, dots)?);
        }
        Field::String => {
            let token = tokens.next("a character string")?;
            name::push_string(tokens, token, data)?;
        }
        Field::OptionalString => {
            if let Some(token) = tokens.take() {
                name::push_string(tokens, token, data)?;
            }
        }
        Field::Text => {
            let start = data.len();
            let token = tokens.next("a text")?;
            name::push_bytes(tokens, token, data)?;
            // RFC 7553 section 4.4: "The Target MUST NOT be an empty URI".
            if data.len() == start {
                return Err(tokens.wrong(token, "a text that is not empty"));
            }
        }
        Field::Base64 => push_base64(tokens, origin, data)?,
        Field::Types => {
            let types = RtypeBitmap::scan(&mut TokenScanner { tokens, origin });
            data.extend_from_slice(types.map_err(|_| tokens.wrong_last("record types"))?.as_slice());
        }
        Field::Location => location::read(tokens, data)?,
        Field::Prefixes => prefix::read(tokens, data)?,
        Field::HostIdentity => read_host_identity(tokens, origin, data)?,
        Field::Relay => read_relay(tokens, origin, data)?,
    }
    Ok(())
}

/// Takes the next token as what `read` makes of it, which is no string.
fn take_number<T>(
    tokens: &mut Tokens<'_, '_>,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, TextFault> {
    let token = tokens.next(expected)?;
    token.word().and_then(read).ok_or_else(|| tokens.wrong(token, expected))
}

fn push_u16(
    tokens: &mut Tokens<'_, '_>,
    expected: &str,
    data: &mut Vec<u8>,
    read: impl Fn(&str) -> Option<u16>,
) -> Result<(), TextFault> {
    data.extend_from_slice(&take_number(tokens, expected, read)?.to_be_bytes());
    Ok(())
}

fn push_u32(
    tokens: &mut Tokens<'_, '_>,
    expected: &str,
    data: &mut Vec<u8>,
    read: impl Fn(&str) -> Option<u32>,
) -> Result<(), TextFault> {
    data.extend_from_slice(&take_number(tokens, expected, read)?.to_be_bytes());
    Ok(())
}

/// Appends what the tokens left say in base 64: at least one byte.
fn push_base64(tokens: &mut Tokens<'_, '_>, origin: &WireName, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let bytes = TokenScanner { tokens, origin }.convert_entry(base64::SymbolConverter::new());
    match bytes {
        Ok(bytes) if !bytes.is_empty() => {
            data.extend_from_slice(&bytes);
            Ok(())
        }
        Ok(_) => Err(tokens.missing("base 64")),
        Err(_) => Err(tokens.wrong_last("base 64")),
    }
}

fn algorithm(word: &str) -> Option<u8> {
    number(word).or_else(|| SecurityAlgorithm::from_mnemonic(word.as_bytes()).map(SecurityAlgorithm::to_int))
}

fn certificate_type(word: &str) -> Option<u16> {
    const NAMES: [(&str, u16); 10] = [
        ("PKIX", 1),
        ("SPKI", 2),
        ("PGP", 3),
        ("IPKIX", 4),
        ("ISPKI", 5),
        ("IPGP", 6),
        ("ACPKIX", 7),
        ("IACPKIX", 8),
        ("URI", 253),
        ("OID", 254),
    ];
    let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    named.map(|(_, value)| *value).or_else(|| number(word))
}

fn scheme(word: &str) -> Option<u8> {
    if word.eq_ignore_ascii_case("NOTIFY") { Some(1) } else { number(word) }
}

fn groups(word: &str) -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    let mut parts = word.split(':');
    for pair in bytes.chunks_exact_mut(2) {
        let digits = parts.next().filter(|digits| digits.len() <= 4 && !digits.starts_with('+'))?;
        pair.copy_from_slice(&u16::from_str_radix(digits, 16).ok()?.to_be_bytes());
    }
    parts.next().is_none().then_some(bytes)
}

fn hyphens(word: &str) -> Option<Vec<u8>> {
    word.split('-').map(|digits| byte_of(digits.as_bytes().try_into().ok()?)).collect()
}

fn dots(word: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = word.strip_prefix("0x")?.bytes().filter(|&byte| byte != b'.').collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|pair| byte_of(*pair)).collect();
    bytes.filter(|bytes| rest.is_empty() && !bytes.is_empty())
}

/// RFC 8005 section 6: algorithm, tag in hexadecimal digits, key in base 64 as one word, and names of servers. On the
/// wire (section 5) the lengths of tag and key come first.
fn read_host_identity(tokens: &mut Tokens<'_, '_>, origin: &WireName, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let algorithm: u8 = take_number(tokens, "a public key's algorithm, a whole number from 0 to 255", number)?;
    let start = data.len();
    data.extend_from_slice(&[0, algorithm, 0, 0]);
    tokens.next("a host identity tag")?;
    push_hexadecimal(tokens, data)?;
    let tag_length = data.len() - start - 4;
    data[start] = u8::try_from(tag_length).map_err(|_| tokens.wrong_last("at most 255 bytes of host identity tag"))?;
    let expected = "a public key in base 64";
    let key = TokenScanner { tokens, origin }.convert_token(base64::SymbolConverter::new());
    let key = key.map_err(|error| match error {
        ScanError::End => tokens.missing(expected),
        _ => tokens.wrong_last(expected),
    })?;
    let length = u16::try_from(key.len()).map_err(|_| tokens.wrong_last("at most 65535 bytes of public key"))?;
    data[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    data.extend_from_slice(&key);
    while tokens.peek().is_some() {
        data.extend_from_slice(WireName::take(tokens, origin, "a rendezvous server's name")?.as_bytes());
    }
    Ok(())
}

/// RFC 8777 section 4.3: a flag, the relay's kind, and the relay. On the wire (section 4.2) the first two are one byte.
fn read_relay(tokens: &mut Tokens<'_, '_>, origin: &WireName, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let flag: u8 = take_number(tokens, "0 or 1 for whether discovery is optional", |word| {
        number(word).filter(|&flag: &u8| flag <= 1)
    })?;
    let expected = "a relay's kind: 0 for none, 1 for IPv4, 2 for IPv6, 3 for a name";
    let kind: u8 = take_number(tokens, expected, |word| number(word).filter(|&kind: &u8| kind <= 3))?;
    data.push(flag << 7 | kind);
    match kind {
        1 => read_field(Field::Ipv4, tokens, origin, data),
        2 => read_field(Field::Ipv6, tokens, origin, data),
        3 => read_field(Field::Name, tokens, origin, data),
        _ => take_number(tokens, "a dot, for no relay", |word| (word == ".").then_some(())),
    }
}

/// Whether bytes are a row's fields, nothing left over.
pub(super) fn are_sound(fields: &[Field], data: &[u8]) -> bool {
    behind_all(fields, data).is_some_and(<[u8]>::is_empty)
}

/// What is behind fields at the beginning of `data`; `None` where they are not there.
pub(super) fn behind_all<'d>(fields: &[Field], data: &'d [u8]) -> Option<&'d [u8]> {
    fields.iter().try_fold(data, |rest, &field| behind(field, rest))
}

/// What is behind a field at the beginning of `data`; `None` where it is not there.
fn behind(field: Field, data: &[u8]) -> Option<&[u8]> {
    match field {
        Field::Name => behind_name(data),
        Field::U8(_) | Field::Algorithm | Field::Scheme => data.get(1..),
        Field::U16(_) | Field::CertificateType | Field::Type => data.get(2..),
        Field::U32(_) | Field::Seconds(_) | Field::Ipv4 => data.get(4..),
        Field::Groups => data.get(8..),
        Field::Ipv6 => data.get(16..),
        Field::Hyphens(length) => data.get(length..),
        Field::OptionalString if data.is_empty() => Some(data),
        Field::String | Field::OptionalString => data.get(1 + usize::from(*data.first()?)..),
        // Nothing is read as no text, and as no base 64.
        Field::Dots | Field::Text | Field::Base64 => (!data.is_empty()).then_some(&[]),
        Field::Types => is_bitmap(data).then_some(&[]),
        Field::Location => location::is_sound(data).then_some(&[]),
        Field::Prefixes => to_end(data, prefix::behind),
        Field::HostIdentity => {
            let lengths = data.first_chunk::<4>()?;
            let fixed = 4 + usize::from(lengths[0]) + usize::from(u16::from_be_bytes([lengths[2], lengths[3]]));
            to_end(data.get(fixed..)?, behind_name)
        }
        Field::Relay => match data.first()? & 0x7F {
            0 => data.get(1..),
            1 => data.get(5..),
            2 => data.get(17..),
            3 => behind_name(&data[1..]),
            _ => None,
        },
    }
}

/// Whether bytes are a bitmap of types, RFC 4034 section 4.1.2: "Blocks are present in the NSEC RR RDATA in increasing
/// numerical order", each with 1 to 32 bytes, and "Trailing zero octets in the bitmap MUST be omitted".
pub(super) fn is_bitmap(data: &[u8]) -> bool {
    let mut rest = data;
    let mut last = None;
    while let [block, length, behind @ ..] = rest {
        let Some((bits, behind)) = behind.split_at_checked(usize::from(*length)) else { return false };
        let is_block = bits.len() <= 32 && bits.last().is_some_and(|&byte| byte != 0);
        if !is_block || last.is_some_and(|last| last >= *block) {
            return false;
        }
        last = Some(*block);
        rest = behind;
    }
    rest.is_empty()
}

/// Whether a part repeats to the end: then nothing is left.
fn to_end(data: &[u8], behind: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<&[u8]> {
    let mut rest = data;
    while !rest.is_empty() {
        rest = behind(rest)?;
    }
    Some(rest)
}

/// What is behind an uncompressed name at the beginning of `data`; `None` where there is none.
pub(super) fn behind_name(data: &[u8]) -> Option<&[u8]> {
    let mut length = 0;
    loop {
        let label = usize::from(*data.get(length)?);
        length += 1 + label;
        // A longer label is a pointer (RFC 1035 section 4.1.4), which points nowhere in a zone.
        match label {
            64.. => return None,
            0 => return (length <= 255).then(|| data.get(length..)).flatten(),
            _ => {}
        }
    }
}

/// Takes a token that may be left out: `None` where the record ends, or something else follows.
fn take_if<'e, 't>(tokens: &mut Tokens<'e, 't>, is_it: impl Fn(&str) -> bool) -> Option<&'e Token<'t>> {
    tokens.peek().filter(|token| token.word().is_some_and(is_it)).and_then(|_| tokens.take())
}
