//! Names and strings in presentation format (RFC 1035 section 5.1) become wire format.
//!
//! Names keep their case here: only an owner is made canonical, names in data are served as they were written.

use domain::base::name::Name;
use startgun_core::dns::CanonicalName;

use super::TextFault;
use super::lexer::{Token, Tokens};

/// Most bytes of a name on the wire, RFC 1035 section 2.3.4.
const NAME_BYTES_MAX: usize = 255;

/// Most bytes of a label, RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// Most bytes of one character string, RFC 1035 section 3.3.
const STRING_BYTES_MAX: usize = 255;

/// A name in wire format, its case kept, without allocation.
#[derive(Clone, Copy)]
pub(super) struct WireName {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl WireName {
    /// The name as it is in its canonical form.
    pub fn of(name: &CanonicalName) -> Self {
        let mut wire = WireName { bytes: [0; NAME_BYTES_MAX], length: name.as_bytes().len() };
        wire.bytes[..wire.length].copy_from_slice(name.as_bytes());
        wire
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The canonical form, for owners.
    pub fn canonical(&self) -> CanonicalName {
        match Name::<&[u8]>::from_octets(self.as_bytes()) {
            Ok(name) => CanonicalName::from_labels(&name),
            Err(_) => unreachable!("made by WireName::read, label by label"),
        }
    }

    /// Takes the next token as a name; one without final dot is relative to `origin`.
    pub fn take(tokens: &mut Tokens<'_, '_>, origin: &WireName, expected: &str) -> Result<WireName, TextFault> {
        let token = tokens.next(expected)?;
        WireName::read(token, origin).map_err(|trouble| match trouble {
            NameTrouble::NoName => tokens.wrong(token, expected),
            NameTrouble::LongLabel => {
                tokens.wrong(token, format!("{expected}, labels of at most {LABEL_BYTES_MAX} bytes"))
            }
            NameTrouble::Long => tokens.wrong(token, format!("{expected} of at most {NAME_BYTES_MAX} bytes")),
        })
    }

    fn read(token: &Token<'_>, origin: &WireName) -> Result<WireName, NameTrouble> {
        let text = token.bytes;
        match (token.is_quoted, text) {
            (true, _) | (false, []) => return Err(NameTrouble::NoName),
            (false, b"@") => return Ok(*origin),
            (false, b".") => return Ok(WireName { bytes: [0; NAME_BYTES_MAX], length: 1 }),
            _ => {}
        }
        let mut name = WireName { bytes: [0; NAME_BYTES_MAX], length: 1 };
        // Where the length byte of the label that is being read is.
        let mut label = 0;
        let mut rest = text;
        while let Some((symbol, behind)) = Symbol::first(rest) {
            rest = behind;
            match symbol {
                Symbol::Plain(b'.') => {
                    name.close(label)?;
                    label = name.length;
                    name.push(0)?;
                    if rest.is_empty() {
                        // What was pushed is the root label.
                        return Ok(name);
                    }
                }
                // What is not printable ASCII is written as \DDD, so that a name looks the same to everybody.
                Symbol::Plain(byte) if !byte.is_ascii_graphic() => return Err(NameTrouble::NoName),
                Symbol::Plain(byte) | Symbol::Escaped(byte) => name.push(byte)?,
                Symbol::Broken => return Err(NameTrouble::NoName),
            }
        }
        name.close(label)?;
        let behind = name.bytes.get_mut(name.length..name.length + origin.length).ok_or(NameTrouble::Long)?;
        behind.copy_from_slice(origin.as_bytes());
        name.length += origin.length;
        Ok(name)
    }

    fn push(&mut self, byte: u8) -> Result<(), NameTrouble> {
        *self.bytes.get_mut(self.length).ok_or(NameTrouble::Long)? = byte;
        self.length += 1;
        Ok(())
    }

    /// Writes the length of the label that begins at `label` and ends here.
    fn close(&mut self, label: usize) -> Result<(), NameTrouble> {
        let length = self.length - label - 1;
        match u8::try_from(length) {
            Ok(0) => Err(NameTrouble::NoName),
            Ok(byte) if length <= LABEL_BYTES_MAX => {
                self.bytes[label] = byte;
                Ok(())
            }
            _ => Err(NameTrouble::LongLabel),
        }
    }
}

/// Why a text is no name.
enum NameTrouble {
    NoName,
    LongLabel,
    Long,
}

/// One byte of a name or a string, as it was written.
pub(super) enum Symbol {
    Plain(u8),
    Escaped(u8),
    /// A backslash before nothing, or before digits that are no byte.
    Broken,
}

impl Symbol {
    /// The first symbol of a token's bytes and what is behind it.
    ///
    /// RFC 1035 section 5.1: "\DDD where each D is a digit is the octet corresponding to the decimal number", "\X where
    /// X is any character other than a digit".
    pub fn first(bytes: &[u8]) -> Option<(Symbol, &[u8])> {
        let symbol = match *bytes {
            [] => return None,
            [b'\\', a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
                let value = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
                (u8::try_from(value).map_or(Symbol::Broken, Symbol::Escaped), 4)
            }
            [b'\\', b'0'..=b'9', ..] | [b'\\'] => (Symbol::Broken, 1),
            [b'\\', byte, ..] => (Symbol::Escaped(byte), 2),
            [byte, ..] => (Symbol::Plain(byte), 1),
        };
        Some((symbol.0, &bytes[symbol.1..]))
    }
}

/// Appends what a token says, its escapes resolved, to `data`.
pub(super) fn push_bytes(tokens: &Tokens<'_, '_>, token: &Token<'_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    push_part(tokens, token, token.bytes, data)
}

/// Appends what some of a token's bytes say, their escapes resolved, to `data`.
pub(super) fn push_part(
    tokens: &Tokens<'_, '_>,
    token: &Token<'_>,
    part: &[u8],
    data: &mut Vec<u8>,
) -> Result<(), TextFault> {
    let mut rest = part;
    while let Some((symbol, behind)) = Symbol::first(rest) {
        match symbol {
            Symbol::Plain(byte) | Symbol::Escaped(byte) => data.push(byte),
            Symbol::Broken => {
                return Err(tokens.wrong(token, "three digits up to 255, or another character, after \\"));
            }
        }
        rest = behind;
    }
    Ok(())
}

/// Appends a character string, its length before it, to `data`.
pub(super) fn push_string(tokens: &Tokens<'_, '_>, token: &Token<'_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let start = data.len();
    data.push(0);
    push_bytes(tokens, token, data)?;
    match u8::try_from(data.len() - start - 1) {
        Ok(length) => {
            data[start] = length;
            Ok(())
        }
        Err(_) => Err(tokens.wrong(token, format!("at most {STRING_BYTES_MAX} bytes in one character string"))),
    }
}
