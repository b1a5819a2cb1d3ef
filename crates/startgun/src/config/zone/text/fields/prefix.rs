//! Lists of address prefixes (RFC 3123), type APL.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::zone::text::TextFault;
use crate::config::zone::text::data::number;
use crate::config::zone::text::lexer::Tokens;

const EXPECTED: &str = "a prefix such as 1:192.0.2.0/24, 2:2001:db8::/32 or !1:192.0.2.64/28";

/// Reads prefixes up to the end of the record; there may be none (RFC 3123 section 4).
pub(super) fn read(tokens: &mut Tokens<'_, '_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    while let Some(token) = tokens.take() {
        let bytes = token.word().and_then(prefix).ok_or_else(|| tokens.wrong(token, EXPECTED))?;
        data.extend_from_slice(&bytes);
    }
    Ok(())
}

/// RFC 3123 section 4: family, prefix length, a bit for negation with the address's length, and the address without the
/// zeros at its end.
fn prefix(word: &str) -> Option<Vec<u8>> {
    let (is_negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
    let (family, word) = word.split_once(':')?;
    let (address, length) = word.split_once('/')?;
    let (address, length): (_, u8) = (address_of(number(family)?, address)?, number(length)?);
    if usize::from(length) > 8 * address.len() {
        return None;
    }
    let kept = address.len() - address.iter().rev().take_while(|&&byte| byte == 0).count();
    let mut bytes = number::<u16>(family)?.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[length, u8::from(is_negated) << 7 | u8::try_from(kept).ok()?]);
    bytes.extend_from_slice(&address[..kept]);
    Some(bytes)
}

/// An address's bytes, by its family's number at IANA.
fn address_of(family: u16, address: &str) -> Option<Vec<u8>> {
    match family {
        1 => address.parse::<Ipv4Addr>().ok().map(|address| address.octets().to_vec()),
        2 => address.parse::<Ipv6Addr>().ok().map(|address| address.octets().to_vec()),
        _ => None,
    }
}

/// What is behind a prefix at the beginning of `data`; `None` where it is none.
pub(super) fn behind(data: &[u8]) -> Option<&[u8]> {
    let [family_high, family_low, length, kept] = *data.first_chunk::<4>()?;
    let most = match u16::from_be_bytes([family_high, family_low]) {
        1 => 4,
        2 => 16,
        // Others may follow; their addresses are not known here.
        _ => 127,
    };
    let kept = usize::from(kept & 0x7F);
    let address = data.get(4..4 + kept)?;
    let is_sound = kept <= most && usize::from(length) <= 8 * most && address.last() != Some(&0);
    is_sound.then(|| &data[4 + kept..])
}
