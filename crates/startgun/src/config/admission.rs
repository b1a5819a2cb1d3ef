//! Who gets how many answers: keys of the master's tables `[cookies]` and `[rate_limit]`.

use startgun_core::dns::cookie::{MAX_SECRETS, SECRET};

use super::bounded_text;
use super::reader::{Section, Value};

/// Greatest rate of responses: beyond what a core answers it limits nothing.
const RESPONSES_PER_S_MAX: i64 = 1_000_000;
/// Greatest slip, as in other servers.
const SLIP_MAX: i64 = 10;

/// What a secret looks like, for errors.
const SECRETS: &str = "1 to 4 lines of 32 hexadecimal digits each, the first for making cookies";

/// A master's admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The secrets of server cookies from the operator's file; `None` for the master's own.
    pub cookie_secrets: Option<Vec<[u8; SECRET]>>,
    /// Central answers per second and prefix without a valid cookie; 0 for no limit.
    pub responses_per_prefix_per_s: u32,
    /// Of answers beyond that rate, every so manieth is sent empty; 0 for none.
    pub slip: u32,
}

/// Reads both tables.
pub(super) fn read(root: &Section<'_>) -> Admission {
    let cookie_secrets = root.section("cookies").and_then(|section| {
        let secrets = section.value("secrets_file").and_then(|value| read_secrets(&value));
        section.finish();
        secrets
    });
    let (mut responses_per_prefix_per_s, mut slip) = (0, 2);
    if let Some(section) = root.section("rate_limit") {
        responses_per_prefix_per_s = section
            .or("responses_per_prefix_per_s", 0, |value| value.integer(0..=RESPONSES_PER_S_MAX, "answers per second"));
        slip = section.or("slip", 2, |value| value.integer(0..=SLIP_MAX, "answers"));
        section.finish();
    }
    Admission { cookie_secrets, responses_per_prefix_per_s, slip }
}

fn read_secrets(value: &Value<'_>) -> Option<Vec<[u8; SECRET]>> {
    let path = value.path()?;
    let text = match bounded_text(&path) {
        Ok(text) => text,
        Err(found) => return value.fault(format!("{} and {found}", path.display()), SECRETS),
    };
    // Never what a line holds: it is a secret.
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut secrets = Vec::new();
    for (place, line) in lines {
        match secret(line.trim()) {
            Some(secret) => secrets.push(secret),
            None => return value.fault(format!("{}, whose line {} is none", path.display(), place + 1), SECRETS),
        }
    }
    match secrets.len() {
        1..=MAX_SECRETS => Some(secrets),
        count => value.fault(format!("{} with {count} secrets", path.display()), SECRETS),
    }
}

fn secret(text: &str) -> Option<[u8; SECRET]> {
    let mut secret = [0; SECRET];
    let is_hex = text.len() == 2 * SECRET && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks(2)).filter(|_| is_hex) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    is_hex.then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_thirty_two_hexadecimal_digits() {
        assert_eq!(secret("000102030405060708090a0B0c0d0E0f"), Some(std::array::from_fn(|place| place as u8)));
        for text in [
            "",
            "00",
            "000102030405060708090a0b0c0d0e0",
            "000102030405060708090a0b0c0d0e0g",
            "+00102030405060708090a0b0c0d0e0f",
        ] {
            assert_eq!(secret(text), None, "{text:?}");
        }
    }
}
