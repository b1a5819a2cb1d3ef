//! Places on earth (RFC 1876), type LOC.

use super::take_if;
use crate::config::zone::text::TextFault;
use crate::config::zone::text::data::number;
use crate::config::zone::text::lexer::Tokens;

/// The equator and the prime meridian, in thousandths of a second of arc (RFC 1876 section 2).
const ZERO_ANGLE: u32 = 1 << 31;

/// Metres below the reference ellipsoid at which altitudes begin, in centimetres (RFC 1876 section 2).
const LOWEST_CM: i64 = 10_000_000;

/// Sizes and precisions that are not stated, in centimetres: 1 m, 10,000 m and 10 m (RFC 1876 section 3).
const DEFAULTS_CM: [u64; 3] = [100, 1_000_000, 1_000];

/// Reads `d1 [m1 [s1]] N|S d2 [m2 [s2]] E|W alt[m] [size[m] [horizontal[m] [vertical[m]]]]`, RFC 1876 section 3.
pub(super) fn read(tokens: &mut Tokens<'_, '_>, data: &mut Vec<u8>) -> Result<(), TextFault> {
    let latitude = read_angle(tokens, 90, ["N", "S"])?;
    let longitude = read_angle(tokens, 180, ["E", "W"])?;
    let expected = "an altitude in metres, from -100000.00 to 42849672.95";
    let token = tokens.next(expected)?;
    let altitude_cm = token.word().and_then(|word| match word.strip_prefix('-') {
        Some(word) => centimetres(word).map(|below| -below),
        None => centimetres(word),
    });
    let altitude = altitude_cm.and_then(|altitude_cm| u32::try_from(altitude_cm + LOWEST_CM).ok());
    let altitude = altitude.ok_or_else(|| tokens.wrong(token, expected))?;
    // The version comes first.
    data.push(0);
    for default_cm in DEFAULTS_CM {
        data.push(match tokens.take() {
            Some(token) => {
                let size_cm = token.word().and_then(centimetres).and_then(|size_cm| u64::try_from(size_cm).ok());
                let size = size_cm.and_then(size);
                size.ok_or_else(|| tokens.wrong(token, "a size in metres, from 0 to 90000000.00"))?
            }
            None => size(default_cm).unwrap_or_default(),
        });
    }
    for word in [latitude, longitude, altitude] {
        data.extend_from_slice(&word.to_be_bytes());
    }
    Ok(())
}

fn read_angle(tokens: &mut Tokens<'_, '_>, degrees_max: u32, [above, below]: [&str; 2]) -> Result<u32, TextFault> {
    let expected = format!("degrees, a whole number up to {degrees_max}");
    let token = tokens.next(&expected)?;
    let degrees: u32 = token.word().and_then(number).ok_or_else(|| tokens.wrong(token, expected.as_str()))?;
    let is_digits = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    let mut thousandths = degrees.saturating_mul(3_600_000);
    if let Some(token) = take_if(tokens, is_digits) {
        let minutes: Option<u32> = token.word().and_then(number).filter(|&minutes| minutes < 60);
        let minutes = minutes.ok_or_else(|| tokens.wrong(token, "minutes, a whole number up to 59"))?;
        thousandths = thousandths.saturating_add(minutes * 60_000);
        if let Some(token) = take_if(tokens, is_digits) {
            let seconds = token.word().and_then(|word| decimal(word, 3)).filter(|&seconds| seconds < 60_000);
            let seconds = seconds.ok_or_else(|| tokens.wrong(token, "seconds, a number from 0 to 59.999"))?;
            // Below 60,000.
            thousandths = thousandths.saturating_add(seconds as u32);
        }
    }
    if thousandths > degrees_max * 3_600_000 {
        return Err(tokens.wrong(token, expected));
    }
    let expected = format!("{above} or {below}");
    let token = tokens.next(&expected)?;
    match (token.is_word(above), token.is_word(below)) {
        (true, _) => Ok(ZERO_ANGLE + thousandths),
        (_, true) => Ok(ZERO_ANGLE - thousandths),
        _ => Err(tokens.wrong(token, expected)),
    }
}

/// Metres with up to two decimal places, as centimetres.
fn centimetres(word: &str) -> Option<i64> {
    let word = word.strip_suffix(['m', 'M']).unwrap_or(word);
    decimal(word, 2).and_then(|value| i64::try_from(value).ok())
}

/// A number with up to so many decimal places, in units of the last one.
fn decimal(word: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, ""));
    if fraction.len() > places {
        return None;
    }
    let fraction = format!("{fraction:0<places$}");
    // At most 10 digits: no unit has more, and nothing overflows.
    let whole: u64 = number::<u32>(whole)?.into();
    Some(whole * 10u64.pow(places as u32) + number::<u64>(&fraction)?)
}

/// RFC 1876 section 2: centimetres as one digit and a power of ten, four bits each; what is between is rounded down.
fn size(size_cm: u64) -> Option<u8> {
    let mut digit = size_cm;
    let mut power = 0;
    while digit > 9 {
        digit /= 10;
        power += 1;
    }
    // The digit is at most 9.
    (power <= 9).then_some((digit as u8) << 4 | power)
}

/// Whether bytes are such a place.
pub(super) fn is_sound(data: &[u8]) -> bool {
    let [version, size, horizontal, vertical, ..] = *data else { return false };
    let is_size = |byte: u8| byte >> 4 <= 9 && byte & 0xF <= 9;
    version == 0 && data.len() == 16 && [size, horizontal, vertical].into_iter().all(is_size)
}
