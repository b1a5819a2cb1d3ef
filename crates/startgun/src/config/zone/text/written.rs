//! Records as lines of a zone file that is read back as the same records: how copies of secondaries' zones are kept.
//!
//! Names are absolute, and in them whatever is not usual is written as \ and three digits. The `domain` crate (0.12) writes
//! names otherwise in ways that are not read back, so it writes only data without names, or with usual ones. Data of all
//! other types, and whatever is no sound data of its type, is written as RFC 3597 section 5 says.

use std::fmt::Write;

use domain::base::Rtype;
use domain::base::name::ParsedName;
use domain::base::rdata::ParseRecordData;
use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt};
use domain::dep::octseq::parse::Parser;
use domain::rdata::ZoneRecordData;
use startgun_core::dns::Record;

use super::library;

/// Appends a record's line to `out`.
pub fn write_record(record: &Record, out: &mut String) {
    let rtype = record.rtype;
    push_name(record.owner.as_bytes(), out);
    // Writing to a String cannot fail.
    let _ = write!(out, " {} IN ", record.ttl_s);
    let begun = out.len();
    if push_data(rtype, &record.data, out).is_none() {
        out.truncate(begun);
        let _ = write!(out, "TYPE{} \\# {}", rtype.to_int(), record.data.len());
        if !record.data.is_empty() {
            out.push(' ');
        }
        for byte in &record.data {
            let _ = write!(out, "{byte:02x}");
        }
    }
    out.push('\n');
}

/// Type and data as people write them; `None` where they are left to the general form.
fn push_data(rtype: Rtype, data: &[u8], out: &mut String) -> Option<()> {
    let rest = match rtype {
        Rtype::NS | Rtype::CNAME | Rtype::PTR | Rtype::DNAME => push_names(rtype, data, 0, 1, out)?,
        Rtype::MX => push_names(rtype, data, 1, 1, out)?,
        Rtype::SRV => push_names(rtype, data, 3, 1, out)?,
        Rtype::SOA => {
            let rest = push_names(rtype, data, 0, 2, out)?;
            for number in rest.chunks(4) {
                let _ = write!(out, " {}", u32::from_be_bytes(number.try_into().ok()?));
            }
            if rest.len() == 20 { &[] } else { rest }
        }
        Rtype::NSEC => return push_by_library(rtype, data, 0, out),
        Rtype::RRSIG => return push_by_library(rtype, data, 18, out),
        Rtype::A
        | Rtype::AAAA
        | Rtype::TXT
        | Rtype::CAA
        | Rtype::DS
        | Rtype::CDS
        | Rtype::DNSKEY
        | Rtype::CDNSKEY
        | Rtype::NSEC3
        | Rtype::NSEC3PARAM
        | Rtype::TLSA
        | Rtype::SSHFP => return push_by_library(rtype, data, data.len(), out),
        _ => return None,
    };
    rest.is_empty().then_some(())
}

/// Writes so many numbers of two bytes, then so many names; what is behind them.
fn push_names<'d>(rtype: Rtype, data: &'d [u8], numbers: usize, names: usize, out: &mut String) -> Option<&'d [u8]> {
    let _ = write!(out, "{rtype}");
    let (head, mut rest) = data.split_at_checked(2 * numbers)?;
    for number in head.chunks(2) {
        let _ = write!(out, " {}", u16::from_be_bytes(number.try_into().ok()?));
    }
    for _ in 0..names {
        let (name, behind) = rest.split_at_checked(name_length(rest)?)?;
        out.push(' ');
        push_name(name, out);
        rest = behind;
    }
    Some(rest)
}

/// Writes data that the library knows; the name at `name_at`, where one is, must be a usual one.
fn push_by_library(rtype: Rtype, data: &[u8], name_at: usize, out: &mut String) -> Option<()> {
    if name_at < data.len() {
        let name = data.get(name_at..)?;
        let mut name = name.get(..name_length(name)?)?;
        while let [length, rest @ ..] = name {
            let (label, behind) = rest.split_at_checked(usize::from(*length))?;
            name = label.iter().all(|byte| is_usual(*byte)).then_some(behind)?;
        }
    }
    if !library::is_sound(rtype, data) && !matches!(rtype, Rtype::A | Rtype::AAAA) {
        return None;
    }
    let mut parser = Parser::from_ref(data);
    let parsed = ZoneRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(rtype, &mut parser).ok()??;
    if parser.remaining() != 0 {
        return None;
    }
    write!(out, "{rtype} {}", parsed.display_zonefile(DisplayKind::Simple)).ok()
}

/// The length of an uncompressed name at the head of `data`.
fn name_length(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *data.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Writes a name in wire format.
fn push_name(mut name: &[u8], out: &mut String) {
    if name == [0] {
        out.push('.');
    }
    while let [length, rest @ ..] = name
        && *length > 0
    {
        let (label, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        for byte in label {
            match is_usual(*byte) {
                true => out.push(char::from(*byte)),
                false => {
                    let _ = write!(out, "\\{byte:03}");
                }
            }
        }
        out.push('.');
        name = behind;
    }
}

fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*')
}
