//! A record's type, and which of the readers reads its data.

use domain::base::Rtype;

use super::TextFault;
use super::lexer::Tokens;
use super::name::WireName;
use super::{fields, library, service};

/// A whole number in decimal digits, nothing else; `None` where it is none or does not fit.
pub(super) fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten()
}

/// The type of a mnemonic, or of a number as `TYPE65280` (RFC 3597 section 5).
pub(super) fn read_type(word: &str) -> Option<Rtype> {
    match word.get(..4) {
        // The library spells it without its hyphen.
        _ if word.eq_ignore_ascii_case("NSAP-PTR") => Some(Rtype::NSAPPTR),
        Some(prefix) if prefix.eq_ignore_ascii_case("TYPE") => number(&word[4..]).map(Rtype::from_int),
        _ => Rtype::from_mnemonic(word.as_bytes()),
    }
}

/// Whether zones hold records of a type. Those from 128 to 255 are for questions and for what belongs to one message
/// only, as OPT is (RFC 6895 section 3.1); 0 and 65535 are reserved.
pub(super) fn is_in_zones(rtype: Rtype) -> bool {
    !matches!(rtype.to_int(), 0 | 41 | 128..=255 | u16::MAX)
}

/// Reads a record's data into wire format, names uncompressed, their case kept, and appends it to `data`, which is
/// empty. Tokens may be left.
pub(super) fn read(
    rtype: Rtype,
    tokens: &mut Tokens<'_, '_>,
    origin: &WireName,
    data: &mut Vec<u8>,
) -> Result<(), TextFault> {
    if tokens.peek().is_some_and(|token| token.bytes == b"\\#" && !token.is_quoted) {
        return read_bytes(rtype, tokens, data);
    }
    if let Some(fields) = fields::of(rtype) {
        return fields::read(fields, tokens, origin, data);
    }
    match rtype {
        Rtype::SVCB | Rtype::HTTPS => service::read(tokens, origin, data),
        _ if library::knows(rtype) => library::read(rtype, tokens, origin, data),
        _ => Err(tokens.wrong_last(format!("another type, or {rtype} \\# with length and hexadecimal digits"))),
    }
}

/// RFC 3597 section 5: "The special token \# (a backslash immediately followed by a hash sign) ... An unsigned decimal
/// integer specifying the RDATA length in octets. Zero or more words of hexadecimal data encoding the actual RDATA
/// field, each containing an even number of hexadecimal digits." Known types may be written so as well; their data must
/// be what the type says.
fn read_bytes(rtype: Rtype, tokens: &mut Tokens<'_, '_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    tokens.take();
    let expected = "the number of bytes, from 0 to 65535";
    let token = tokens.next(expected)?;
    let length: u16 = token.word().and_then(number).ok_or_else(|| tokens.wrong(token, expected))?;
    while let Some(token) = tokens.take() {
        push_hexadecimal(tokens, data)?;
        if data.len() > usize::from(length) {
            return Err(tokens.wrong(token, format!("{length} bytes in hexadecimal digits")));
        }
    }
    if data.len() < usize::from(length) {
        return Err(
            tokens.missing(format!("{length} bytes in hexadecimal digits, {} more", length as usize - data.len()))
        );
    }
    let is_sound = match (fields::of(rtype), rtype) {
        (Some(fields), _) => fields::are_sound(fields, data),
        (None, Rtype::SVCB | Rtype::HTTPS) => service::is_sound(data),
        (None, _) => !library::knows(rtype) || library::is_sound(rtype, data),
    };
    match is_sound {
        true => Ok(()),
        false => Err(tokens.wrong_last(format!("bytes that are the data of a record of type {rtype}"))),
    }
}

/// Appends the bytes that the token taken last says in hexadecimal digits, two each.
pub(super) fn push_hexadecimal(tokens: &Tokens<'_, '_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let wrong = || tokens.wrong_last("hexadecimal digits, two for each byte");
    let token = tokens.last().filter(|token| !token.is_quoted).ok_or_else(wrong)?;
    let (pairs, rest) = token.bytes.as_chunks::<2>();
    for pair in pairs {
        data.push(byte_of(*pair).ok_or_else(wrong)?);
    }
    if rest.is_empty() { Ok(()) } else { Err(wrong()) }
}

/// The byte that two hexadecimal digits say.
pub(super) fn byte_of(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}
