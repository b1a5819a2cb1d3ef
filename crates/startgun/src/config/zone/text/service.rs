//! Service bindings (RFC 9460), types SVCB and HTTPS.
//!
//! The `domain` crate (0.12) knows them, but refuses keys with a 9 or a z, lists with escaped commas (of the RFC's own
//! examples), and reads no value of a known key as bytes where the key is written as a number. So they are read here.
//!
//! ```text
//! 1 svc.example. alpn="h2,h3" port=8443      priority name (key ["=" value])…, keys ascending on the wire
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::SvcParamKey;
use domain::base::scan::{ConvertSymbols, EntrySymbol, Symbol};
use domain::utils::base64;

use super::TextFault;
use super::data::number;
use super::fields::{self, Field};
use super::lexer::Tokens;
use super::library::ScanError;
use super::name::{self, WireName};

/// What comes before the parameters.
const HEAD: &[Field] = &[Field::U16("a priority"), Field::Name];

/// Reads a record's data and appends it to `data`.
pub(super) fn read(tokens: &mut Tokens<'_, '_>, origin: &WireName, data: &mut Vec<u8>) -> Result<(), TextFault> {
    fields::read(HEAD, tokens, origin, data)?;
    let mut parameters = BTreeMap::new();
    while tokens.peek().is_some() {
        let (key, value) = take_parameter(tokens)?;
        if parameters.insert(key, value).is_some() {
            return Err(tokens.wrong_last(format!("{} once", SvcParamKey::from_int(key))));
        }
    }
    if let Some(key) = missing(&parameters) {
        return Err(tokens.wrong_last(format!("{key} too, which the others ask for")));
    }
    for (key, value) in parameters {
        let length = u16::try_from(value.len()).map_err(|_| tokens.wrong_last("values of at most 65535 bytes"))?;
        data.extend_from_slice(&key.to_be_bytes());
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&value);
    }
    Ok(())
}

/// A key that must be there and is not.
fn missing(parameters: &BTreeMap<u16, Vec<u8>>) -> Option<SvcParamKey> {
    let has = |key: SvcParamKey| parameters.contains_key(&key.to_int());
    // RFC 9460 section 7.1.1: "When "no-default-alpn" is specified in an RR, "alpn" must also be specified".
    if has(SvcParamKey::NO_DEFAULT_ALPN) && !has(SvcParamKey::ALPN) {
        return Some(SvcParamKey::ALPN);
    }
    // RFC 9460 section 8: whoever does not know one of these keys ignores the record, so each must be there.
    let mandatory = parameters.get(&SvcParamKey::MANDATORY.to_int())?;
    let keys = mandatory.as_chunks::<2>().0.iter().map(|bytes| SvcParamKey::from_int(u16::from_be_bytes(*bytes)));
    keys.into_iter().find(|key| !has(*key))
}

/// Takes one parameter: a key, and a value behind "=" or in quotes right behind it (RFC 9460 section 2.1).
fn take_parameter(tokens: &mut Tokens<'_, '_>) -> Result<(u16, Vec<u8>), TextFault> {
    let expected = "a parameter, such as alpn=h2 or key65280=value";
    let token = tokens.next(expected)?;
    let mut parts = token.bytes.splitn(2, |&byte| byte == b'=');
    let word = parts.next().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
    let is_parameter = !token.is_quoted && !token.is_joined;
    let (key, is_generic) = key_of(word).filter(|_| is_parameter).ok_or_else(|| tokens.wrong(token, expected))?;
    let mut value = Vec::new();
    match parts.next() {
        Some([]) => match tokens.peek().filter(|next| next.is_joined && next.is_quoted) {
            Some(quoted) => {
                tokens.take();
                name::push_bytes(tokens, quoted, &mut value)?;
            }
            None => return Err(tokens.wrong(token, format!("a value behind {word}="))),
        },
        Some(raw) => name::push_part(tokens, token, raw, &mut value)?,
        None => {}
    }
    let value = match is_generic {
        true => Some(value).filter(|value| is_value(key, value)),
        false => read_value(key, &value),
    };
    value.map(|value| (key, value)).ok_or_else(|| tokens.wrong_last(format!("{word} with {}", form(key))))
}

/// The number of a key, and whether it was written as one, whose value is bytes then, whatever the key.
fn key_of(word: &str) -> Option<(u16, bool)> {
    match word.strip_prefix("key") {
        // RFC 9460 section 14.3.2: 65535 is the invalid key. A number has no zeros before it.
        Some(digits) if digits == "0" || !digits.starts_with('0') => {
            number(digits).filter(|&key| key != u16::MAX).map(|key| (key, true))
        }
        Some(_) => None,
        None if word.bytes().any(|byte| byte.is_ascii_uppercase()) => None,
        None => SvcParamKey::from_mnemonic(word.as_bytes()).map(|key| (key.to_int(), false)),
    }
}

/// What a key's value looks like, for errors.
fn form(key: u16) -> &'static str {
    match SvcParamKey::from_int(key) {
        SvcParamKey::MANDATORY => "keys, each once, with commas between them",
        SvcParamKey::ALPN => "protocols of 1 to 255 bytes, with commas between them",
        SvcParamKey::NO_DEFAULT_ALPN | SvcParamKey::OHTTP => "no value",
        SvcParamKey::PORT => "a port, a whole number from 0 to 65535",
        SvcParamKey::IPV4HINT => "IPv4 addresses, with commas between them",
        SvcParamKey::IPV6HINT => "IPv6 addresses, with commas between them",
        SvcParamKey::ECH => "an ECHConfigList in base 64",
        SvcParamKey::DOHPATH => "a URI template with {?dns}",
        SvcParamKey::TLS_SUPPORTED_GROUPS => "whole numbers from 0 to 65535, each once, with commas between them",
        SvcParamKey::DOCPATH => "path segments of up to 255 bytes, with commas between them",
        _ => "a value",
    }
}

/// The value of a key that is written by its name; `None` where it has another form.
fn read_value(key: u16, text: &[u8]) -> Option<Vec<u8>> {
    let value = match SvcParamKey::from_int(key) {
        SvcParamKey::MANDATORY => {
            let keys: Option<Vec<u16>> = words(text).map(|word| key_of(word?).map(|(key, _)| key)).collect();
            let mut keys = keys?;
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            if keys.len() < count {
                return None;
            }
            keys.into_iter().flat_map(u16::to_be_bytes).collect()
        }
        SvcParamKey::ALPN | SvcParamKey::DOCPATH if !text.is_empty() => {
            let mut value = Vec::with_capacity(text.len() + 1);
            for item in list(text)? {
                value.push(u8::try_from(item.len()).ok()?);
                value.extend_from_slice(&item);
            }
            value
        }
        SvcParamKey::PORT => number::<u16>(std::str::from_utf8(text).ok()?)?.to_be_bytes().to_vec(),
        SvcParamKey::IPV4HINT => {
            let addresses: Option<Vec<_>> = words(text).map(|word| word?.parse::<Ipv4Addr>().ok()).collect();
            addresses?.into_iter().flat_map(|address| address.octets()).collect()
        }
        SvcParamKey::IPV6HINT => {
            let addresses: Option<Vec<_>> = words(text).map(|word| word?.parse::<Ipv6Addr>().ok()).collect();
            addresses?.into_iter().flat_map(|address| address.octets()).collect()
        }
        SvcParamKey::TLS_SUPPORTED_GROUPS => {
            let groups: Option<Vec<u16>> = words(text).map(|word| number(word?)).collect();
            groups?.into_iter().flat_map(u16::to_be_bytes).collect()
        }
        SvcParamKey::ECH => base64_of(text)?,
        _ => text.to_vec(),
    };
    Some(value).filter(|value| is_value(key, value))
}

/// The words of a list in which nothing is escaped.
fn words(text: &[u8]) -> impl Iterator<Item = Option<&str>> {
    text.split(|&byte| byte == b',').map(|word| std::str::from_utf8(word).ok())
}

/// RFC 9460 appendix A.1: items with commas between them, in which "\," is a comma and "\\" a backslash.
fn list(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut items = vec![Vec::new()];
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b',' => items.push(Vec::new()),
            b'\\' => {
                let escaped = rest.next().filter(|byte| matches!(byte, b',' | b'\\'))?;
                items.last_mut()?.push(*escaped);
            }
            _ => items.last_mut()?.push(byte),
        }
    }
    Some(items)
}

fn base64_of(text: &[u8]) -> Option<Vec<u8>> {
    let mut convert = base64::SymbolConverter::new();
    let mut bytes = Vec::new();
    for &byte in text {
        let symbol = EntrySymbol::Symbol(Symbol::Char(char::from(byte)));
        let converted: Result<_, ScanError> = convert.process_symbol(symbol);
        bytes.extend_from_slice(converted.ok()?.unwrap_or_default());
    }
    let tail: Result<_, ScanError> = ConvertSymbols::<EntrySymbol, _>::process_tail(&mut convert);
    bytes.extend_from_slice(tail.ok()?.unwrap_or_default());
    Some(bytes)
}

/// Whether bytes are a record's data: sound parameters, keys strictly ascending (RFC 9460 section 2.2).
pub(super) fn is_sound(data: &[u8]) -> bool {
    let Some(mut rest) = fields::behind_all(HEAD, data) else { return false };
    let mut parameters = BTreeMap::new();
    while let Some(([key_high, key_low, length_high, length_low], behind)) = rest.split_first_chunk::<4>() {
        let (key, length) =
            (u16::from_be_bytes([*key_high, *key_low]), u16::from_be_bytes([*length_high, *length_low]));
        let Some((value, behind)) = behind.split_at_checked(usize::from(length)) else { return false };
        let ascends = parameters.last_key_value().is_none_or(|(last, _)| *last < key);
        if !ascends || key == u16::MAX || !is_value(key, value) {
            return false;
        }
        parameters.insert(key, value.to_vec());
        rest = behind;
    }
    rest.is_empty() && missing(&parameters).is_none()
}

/// Whether bytes are the value of a key, as far as the key is known.
fn is_value(key: u16, value: &[u8]) -> bool {
    let pairs = || value.as_chunks::<2>().0.iter().map(|bytes| u16::from_be_bytes(*bytes));
    match SvcParamKey::from_int(key) {
        // RFC 9460 section 8: ascending, without itself.
        SvcParamKey::MANDATORY => {
            !value.is_empty()
                && value.len().is_multiple_of(2)
                && pairs().is_sorted_by(|a, b| a < b)
                && pairs().all(|key| key != 0)
        }
        SvcParamKey::ALPN => !value.is_empty() && is_list(value, 1),
        SvcParamKey::NO_DEFAULT_ALPN | SvcParamKey::OHTTP => value.is_empty(),
        SvcParamKey::PORT => value.len() == 2,
        SvcParamKey::IPV4HINT => !value.is_empty() && value.len().is_multiple_of(4),
        SvcParamKey::ECH => !value.is_empty(),
        SvcParamKey::IPV6HINT => !value.is_empty() && value.len().is_multiple_of(16),
        SvcParamKey::TLS_SUPPORTED_GROUPS => {
            let mut groups: Vec<u16> = pairs().collect();
            groups.sort_unstable();
            !value.is_empty() && value.len().is_multiple_of(2) && groups.is_sorted_by(|a, b| a < b)
        }
        // RFC 9461 section 5: a URI template with the variable "dns".
        SvcParamKey::DOHPATH => std::str::from_utf8(value).is_ok_and(|template| template.contains("{?dns")),
        SvcParamKey::DOCPATH => is_list(value, 0),
        _ => true,
    }
}

/// Whether bytes are items of at least so many bytes, each with its length before it.
fn is_list(value: &[u8], least: usize) -> bool {
    let mut rest = value;
    while let Some((&length, behind)) = rest.split_first() {
        match behind.split_at_checked(usize::from(length)) {
            Some((item, behind)) if item.len() >= least => rest = behind,
            _ => return false,
        }
    }
    true
}
