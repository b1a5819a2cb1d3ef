//! The `domain` crate reads the data of most types, from our tokens.
//!
//! Its scanning (0.12) is a trait, [`Scanner`]: it asks for the next token as a number, a name, a string, digits, and
//! makes data of it. Here it is given the tokens of one entry, so that a fault has the place of the token that was asked
//! for last, whatever the library found wrong with it.
//!
//! What it does not do is done here: algorithms of DNSSEC may be mnemonics (RFC 4034 appendix A.1), several types are
//! written like others, and digests must have the length of their kind, where a wrong one would make a zone bogus.

use std::fmt;

use domain::base::Rtype;
use domain::base::charstr::CharStr;
use domain::base::iana::SecurityAlgorithm;
use domain::base::name::{Name, ParsedName};
use domain::base::rdata::{ComposeRecordData, ParseRecordData};
use domain::base::scan::{ConvertSymbols, EntrySymbol, Scanner, ScannerError, Symbol};
use domain::dep::octseq::parse::Parser;
use domain::dep::octseq::str::Str;
use domain::rdata::ZoneRecordData;

use super::TextFault;
use super::fields::{behind_name, is_bitmap};
use super::lexer::{Token, Tokens};
use super::name::{self, WireName};

/// The type whose data a type's data is like; the type itself for those that the library knows by name.
fn model(rtype: Rtype) -> Rtype {
    match rtype {
        // RFC 4408 section 3.1.1, RFC 9606, and registrations at IANA.
        Rtype::SPF | Rtype::AVC | Rtype::NINFO | Rtype::RESINFO | Rtype::WALLET => Rtype::TXT,
        // RFC 8162 section 2.
        Rtype::SMIMEA => Rtype::TLSA,
        // RFC 4431 section 2, and what came before it.
        Rtype::DLV | Rtype::TA => Rtype::DS,
        // RFC 2535, whose format RFC 4034 kept.
        Rtype::KEY | Rtype::RKEY => Rtype::DNSKEY,
        Rtype::SIG => Rtype::RRSIG,
        other => other,
    }
}

/// Whether [`read`] reads a type's data.
pub(super) fn knows(rtype: Rtype) -> bool {
    matches!(
        model(rtype),
        Rtype::NS
            | Rtype::MD
            | Rtype::MF
            | Rtype::CNAME
            | Rtype::MB
            | Rtype::MG
            | Rtype::MR
            | Rtype::PTR
            | Rtype::HINFO
            | Rtype::MINFO
            | Rtype::MX
            | Rtype::TXT
            | Rtype::RP
            | Rtype::SRV
            | Rtype::NAPTR
            | Rtype::DNAME
            | Rtype::DS
            | Rtype::SSHFP
            | Rtype::IPSECKEY
            | Rtype::RRSIG
            | Rtype::NSEC
            | Rtype::DNSKEY
            | Rtype::NSEC3
            | Rtype::NSEC3PARAM
            | Rtype::TLSA
            | Rtype::CDS
            | Rtype::CDNSKEY
            | Rtype::OPENPGPKEY
            | Rtype::ZONEMD
            | Rtype::CAA
    )
}

/// Reads the data of a type that is known here and appends it to `data`, which is empty.
pub(super) fn read(
    rtype: Rtype,
    tokens: &mut Tokens<'_, '_>,
    origin: &WireName,
    data: &mut Vec<u8>,
) -> Result<(), TextFault> {
    let mut scanner = TokenScanner { tokens, origin };
    match ZoneRecordData::<Vec<u8>, Name<Vec<u8>>>::scan(model(rtype), &mut scanner) {
        Ok(read) => {
            let Ok(()) = read.compose_rdata(data);
        }
        Err(error) => return Err(error.fault(tokens, rtype)),
    }
    match (missing(rtype, data), unsound(rtype, data)) {
        (Some(expected), _) => Err(tokens.missing(expected)),
        (None, Some(expected)) => Err(tokens.wrong_last(expected)),
        (None, None) => Ok(()),
    }
}

/// Whether bytes are the data of a type that is known here, names uncompressed: what can be read from them is them again.
pub(super) fn is_sound(rtype: Rtype, data: &[u8]) -> bool {
    let mut parser = Parser::from_ref(data);
    let parsed = ZoneRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(model(rtype), &mut parser);
    let Ok(Some(parsed)) = parsed else { return false };
    let mut composed = Vec::with_capacity(data.len());
    let Ok(()) = parsed.compose_rdata(&mut composed);
    let is_whole = parser.remaining() == 0 && composed == data;
    is_whole && missing(rtype, data).is_none() && unsound(rtype, data).is_none()
}

/// What is missing at the end of data that the library takes for complete.
fn missing(rtype: Rtype, data: &[u8]) -> Option<&'static str> {
    let is_empty = |rest: Option<&[u8]>| rest.is_some_and(<[u8]>::is_empty);
    match (model(rtype), data) {
        (Rtype::DS | Rtype::CDS, [_, _, _, _]) | (Rtype::ZONEMD, [_, _, _, _, _, _]) => Some("a digest"),
        // RFC 2535 section 3.1.2: with both first bits, which only KEY has, there is no key.
        (Rtype::DNSKEY, [flags, _, _, _]) if rtype == Rtype::DNSKEY || flags & 0xC0 != 0xC0 => Some("a public key"),
        (Rtype::CDNSKEY, [_, _, _, _]) => Some("a public key, AA== where there is none"),
        (Rtype::NSEC, _) => is_empty(behind_name(data)).then_some("record types"),
        // The fixed part takes 18 bytes, RFC 4034 section 3.1; the signer's name follows.
        (Rtype::RRSIG, _) => is_empty(data.get(18..).and_then(behind_name)).then_some("a signature"),
        (Rtype::TLSA, [_, _, _]) => Some("certificate association data"),
        (Rtype::SSHFP, [_, _]) => Some("a fingerprint"),
        (Rtype::OPENPGPKEY, []) => Some("a public key"),
        _ => None,
    }
}

/// What should be there instead of something that the library takes for sound.
fn unsound(rtype: Rtype, data: &[u8]) -> Option<&'static str> {
    match (model(rtype), data) {
        // RFC 3658 section 2.4, 4509 section 2.2 and 6605 section 2.
        (Rtype::DS | Rtype::CDS, [_, _, _, digest_type, digest @ ..]) => match (digest_type, digest.len()) {
            (1, 20) | (2, 32) | (4, 48) => None,
            (1, _) => Some("a SHA-1 digest of 20 bytes"),
            (2, _) => Some("a SHA-256 digest of 32 bytes"),
            (4, _) => Some("a SHA-384 digest of 48 bytes"),
            _ => None,
        },
        // RFC 8976 sections 2.2.3 and 2.2.4.
        (Rtype::ZONEMD, [_, _, _, _, _, algorithm, digest @ ..]) => match (algorithm, digest.len()) {
            (1, 48) | (2, 64) => None,
            (1, _) => Some("a SHA-384 digest of 48 bytes"),
            (2, _) => Some("a SHA-512 digest of 64 bytes"),
            (_, ..12) => Some("a digest of 12 bytes or more"),
            _ => None,
        },
        (Rtype::NSEC, _) => (!behind_name(data).is_some_and(is_bitmap)).then_some("record types"),
        // RFC 5155 section 11: SHA-1 is the only hash that there is.
        (Rtype::NSEC3, [algorithm, _, _, _, salt_length, rest @ ..]) => {
            let hash_and_types = rest.get(usize::from(*salt_length)..).and_then(<[u8]>::split_first);
            let is_hash = hash_and_types.is_some_and(|(&length, _)| *algorithm != 1 || length == 20);
            let types = hash_and_types.and_then(|(&length, rest)| rest.get(usize::from(length)..));
            match (is_hash, types.is_some_and(is_bitmap)) {
                (false, _) => Some("a hash of 20 bytes, 32 digits of base 32"),
                (true, false) => Some("record types"),
                (true, true) => None,
            }
        }
        // RFC 8659 section 4.1: the tag's length "MUST be at least 1".
        (Rtype::CAA, [_, 0, ..]) => Some("a property tag of at least one character"),
        _ => None,
    }
}

/// What the library says of a token.
#[derive(Debug)]
pub(super) enum ScanError {
    /// In its own words.
    Library(&'static str),
    /// It asked for more than there is.
    End,
    /// What was found here.
    Fault(TextFault),
}

impl ScanError {
    fn fault(self, tokens: &Tokens<'_, '_>, rtype: Rtype) -> TextFault {
        match self {
            ScanError::Library(words) => {
                let expected = in_our_words(words).map(str::to_owned);
                tokens.wrong_last(expected.unwrap_or_else(|| format!("the data of a record of type {rtype} ({words})")))
            }
            ScanError::End => tokens.missing(format!("more data of a record of type {rtype}")),
            ScanError::Fault(fault) => fault,
        }
    }
}

/// What the library expected, where its words (0.12) say too little or name its own types.
fn in_our_words(words: &str) -> Option<&'static str> {
    Some(match words {
        "expected decimal number" => "a whole number",
        "decimal number overflow" => "a smaller number",
        "expected hex digits" | "uneven number of hex digits" => "hexadecimal digits, two for each byte",
        "illegal Base 64 data" | "incomplete Base 64 data" | "trailing Base 64 data" => "base 64",
        "illegal Base 32 data" | "short Base 32 input" | "illegal owner name hash" => "a hash in base 32",
        "illegal signature time" => "a time, as YYYYMMDDHHMMSS or in seconds since 1970",
        "expected Rtype" => "a record type",
        "expected SecurityAlgorithm" => "an algorithm, by number or name",
        "expected DigestAlgorithm" => "a digest's type, a whole number from 0 to 255",
        _ => return None,
    })
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScanError::Library(words) => f.write_str(words),
            ScanError::End => f.write_str("the end of the record"),
            ScanError::Fault(fault) => write!(f, "{}, expected {}", fault.found, fault.expected),
        }
    }
}

impl std::error::Error for ScanError {}

impl ScannerError for ScanError {
    fn custom(words: &'static str) -> Self {
        ScanError::Library(words)
    }

    fn end_of_entry() -> Self {
        ScanError::End
    }

    fn short_buf() -> Self {
        ScanError::Library("more than 65535 bytes")
    }

    fn trailing_tokens() -> Self {
        ScanError::Library("more than it has")
    }
}

/// One entry's tokens as the library asks for them.
pub(super) struct TokenScanner<'s, 'e, 't> {
    pub tokens: &'s mut Tokens<'e, 't>,
    pub origin: &'s WireName,
}

impl<'e, 't> TokenScanner<'_, 'e, 't> {
    fn next(&mut self) -> Result<&'e Token<'t>, ScanError> {
        self.tokens.take().ok_or(ScanError::End)
    }

    /// The next token, which is no string.
    fn unquoted(&mut self) -> Result<&'e Token<'t>, ScanError> {
        let token = self.next()?;
        match token.is_quoted {
            false => Ok(token),
            true => Err(ScanError::Fault(self.tokens.wrong(token, "the same without quotes"))),
        }
    }
}

/// The library's symbols of a token. Bytes beyond ASCII count as escaped ones: as strings they are, and nothing else may
/// have them.
fn symbols(token: &Token<'_>) -> impl Iterator<Item = Result<Symbol, ScanError>> {
    let mut rest = token.bytes;
    std::iter::from_fn(move || {
        let (symbol, behind) = name::Symbol::first(rest)?;
        rest = behind;
        Some(match symbol {
            name::Symbol::Plain(byte) if byte.is_ascii() => Ok(Symbol::Char(char::from(byte))),
            name::Symbol::Plain(byte) => Ok(Symbol::DecimalEscape(byte)),
            name::Symbol::Escaped(byte) => Ok(Symbol::DecimalEscape(byte)),
            name::Symbol::Broken => Err(ScanError::Library("a backslash before no character")),
        })
    })
}

impl Scanner for TokenScanner<'_, '_, '_> {
    type Octets = Vec<u8>;
    type OctetsBuilder = Vec<u8>;
    type Name = Name<Vec<u8>>;
    type Error = ScanError;

    fn has_space(&self) -> bool {
        self.tokens.peek().is_some_and(|token| !token.is_joined)
    }

    fn continues(&mut self) -> bool {
        self.tokens.peek().is_some()
    }

    fn scan_symbols<F>(&mut self, mut op: F) -> Result<(), ScanError>
    where
        F: FnMut(Symbol) -> Result<(), ScanError>,
    {
        symbols(self.unquoted()?).try_for_each(|symbol| op(symbol?))
    }

    fn scan_entry_symbols<F>(&mut self, mut op: F) -> Result<(), ScanError>
    where
        F: FnMut(EntrySymbol) -> Result<(), ScanError>,
    {
        while self.continues() {
            for symbol in symbols(self.unquoted()?) {
                op(EntrySymbol::Symbol(symbol?))?;
            }
            op(EntrySymbol::EndOfToken)?;
        }
        Ok(())
    }

    fn convert_token<C: ConvertSymbols<Symbol, ScanError>>(&mut self, mut convert: C) -> Result<Vec<u8>, ScanError> {
        let mut converted = Vec::new();
        for symbol in symbols(self.unquoted()?) {
            converted.extend_from_slice(convert.process_symbol(symbol?)?.unwrap_or_default());
        }
        converted.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(converted)
    }

    fn convert_entry<C: ConvertSymbols<EntrySymbol, ScanError>>(
        &mut self,
        mut convert: C,
    ) -> Result<Vec<u8>, ScanError> {
        let mut converted = Vec::new();
        while self.continues() {
            for symbol in symbols(self.unquoted()?) {
                let symbol = EntrySymbol::Symbol(symbol?);
                converted.extend_from_slice(convert.process_symbol(symbol)?.unwrap_or_default());
            }
            converted.extend_from_slice(convert.process_symbol(EntrySymbol::EndOfToken)?.unwrap_or_default());
        }
        converted.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(converted)
    }

    fn scan_octets(&mut self) -> Result<Vec<u8>, ScanError> {
        let token = self.next()?;
        let mut bytes = Vec::with_capacity(token.bytes.len());
        name::push_bytes(self.tokens, token, &mut bytes).map_err(ScanError::Fault)?;
        Ok(bytes)
    }

    fn scan_ascii_str<F, T>(&mut self, op: F) -> Result<T, ScanError>
    where
        F: FnOnce(&str) -> Result<T, ScanError>,
    {
        let token = self.unquoted()?;
        // The library reads algorithms as numbers only. No type of records is called like one of them.
        match (SecurityAlgorithm::from_mnemonic(token.bytes), token.word()) {
            (Some(algorithm), _) => op(&algorithm.to_int().to_string()),
            (None, Some(word)) if word.is_ascii() => op(word),
            (None, _) => Err(ScanError::Library("bytes beyond ASCII")),
        }
    }

    fn scan_name(&mut self) -> Result<Name<Vec<u8>>, ScanError> {
        let name = WireName::take(self.tokens, self.origin, "a domain name").map_err(ScanError::Fault)?;
        Name::from_octets(name.as_bytes().to_vec()).map_err(|_| ScanError::Library("no domain name"))
    }

    fn scan_charstr(&mut self) -> Result<CharStr<Vec<u8>>, ScanError> {
        let token = self.next()?;
        let mut string = Vec::with_capacity(1 + token.bytes.len());
        name::push_string(self.tokens, token, &mut string).map_err(ScanError::Fault)?;
        // Its length is not part of it here.
        CharStr::from_octets(string.split_off(1)).map_err(|_| ScanError::Library("no character string"))
    }

    fn scan_string(&mut self) -> Result<Str<Vec<u8>>, ScanError> {
        Str::from_utf8(self.scan_octets()?).map_err(|_| ScanError::Library("bytes that are not UTF-8"))
    }

    fn scan_charstr_entry(&mut self) -> Result<Vec<u8>, ScanError> {
        let mut strings = Vec::new();
        loop {
            let token = self.next()?;
            name::push_string(self.tokens, token, &mut strings).map_err(ScanError::Fault)?;
            if !self.continues() {
                return Ok(strings);
            }
        }
    }

    /// Data of any type as bytes is read before the library is asked.
    fn scan_opt_unknown_marker(&mut self) -> Result<bool, ScanError> {
        Ok(false)
    }

    fn octets_builder(&mut self) -> Result<Vec<u8>, ScanError> {
        Ok(Vec::new())
    }
}
