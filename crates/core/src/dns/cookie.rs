//! Server cookies (RFC 7873, RFC 9018): proof, without any state here, that a source receives what is sent to it.
//!
//! A server cookie is a keyed hash over the client's cookie, its address and a timestamp, by the `domain` crate. Several
//! secrets are believed at once, so that they can be changed, and be shared by several masters, without a gap: the first
//! one makes cookies, all of them check.

use super::answer::{CLIENT_COOKIE, SERVER_COOKIE};
use domain::base::Serial;
use domain::base::opt::cookie::{ClientCookie, StandardServerCookie};
use std::fmt;
use std::net::IpAddr;

/// Bytes of a secret (RFC 9018 section 4.4).
pub const SECRET: usize = 16;
/// Most secrets: the one before, the present one, the next one, and one to spare.
pub const MAX_SECRETS: usize = 4;
/// A cookie older than this is none (RFC 9018 section 4.3: "RECOMMENDED … one hour").
const LIFETIME_S: u32 = 3_600;
/// A cookie from further in the future than this is none (the same: "five minutes").
const SKEW_S: u32 = 300;
/// A cookie older than this is replaced (the same: "half an hour").
const RENEWED_S: u32 = 1_800;

/// The secrets, not printed.
#[derive(Clone, Default)]
pub struct CookieSecrets(Vec<[u8; SECRET]>);

impl fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieSecrets({})", self.0.len())
    }
}

/// What a query's cookie says of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The server cookie to return.
    pub server: [u8; SERVER_COOKIE],
    /// Whether the query had one that is valid for its source.
    pub is_valid: bool,
}

impl CookieSecrets {
    /// The first of them makes cookies; beyond [`MAX_SECRETS`] they are left out. Without any, there are no cookies.
    pub fn new(secrets: impl IntoIterator<Item = [u8; SECRET]>) -> Self {
        CookieSecrets(secrets.into_iter().take(MAX_SECRETS).collect())
    }

    /// Judges the data of a COOKIE option, which [`Query::parse`](super::Query::parse) has found well-formed; `unix_s` is
    /// seconds since 1970, modulo 2^32. `None` without secrets.
    pub fn judge(&self, option: &[u8], source: IpAddr, unix_s: u32) -> Option<Cookie> {
        let current = self.0.first()?;
        let (client, server) = option.split_first_chunk::<CLIENT_COOKIE>()?;
        let client = ClientCookie::from_octets(*client);
        let mint = || {
            let cookie = StandardServerCookie::calculate(client, Serial::from(unix_s), source, current);
            let mut bytes = [0; SERVER_COOKIE];
            bytes[0] = cookie.version();
            bytes[4..8].copy_from_slice(&cookie.timestamp().into_int().to_be_bytes());
            bytes[8..].copy_from_slice(&cookie.hash());
            bytes
        };
        // RFC 9018 section 4: version 1, and what is reserved is zero, as we make them; others are not ours.
        let known = server
            .first_chunk::<SERVER_COOKIE>()
            .filter(|bytes| server.len() == SERVER_COOKIE && bytes[..4] == [1, 0, 0, 0]);
        let valid = known.filter(|bytes| {
            let &[_, _, _, _, t0, t1, t2, t3, ref hash @ ..] = *bytes;
            let timestamp = u32::from_be_bytes([t0, t1, t2, t3]);
            let in_time = unix_s.wrapping_sub(timestamp) <= LIFETIME_S || timestamp.wrapping_sub(unix_s) <= SKEW_S;
            let expected =
                |secret| StandardServerCookie::calculate(client, Serial::from(timestamp), source, secret).hash();
            in_time && self.0.iter().any(|secret| expected(secret) == *hash)
        });
        Some(match valid {
            Some(bytes) if self.is_young(bytes, unix_s) => Cookie { server: *bytes, is_valid: true },
            Some(_) => Cookie { server: mint(), is_valid: true },
            None => Cookie { server: mint(), is_valid: false },
        })
    }

    fn is_young(&self, cookie: &[u8; SERVER_COOKIE], unix_s: u32) -> bool {
        let timestamp = u32::from_be_bytes([cookie[4], cookie[5], cookie[6], cookie[7]]);
        // One from the future is as good as new.
        unix_s.wrapping_sub(timestamp) < RENEWED_S || timestamp.wrapping_sub(unix_s) <= SKEW_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let byte = |place: usize| u8::from_str_radix(&text[2 * place..2 * place + 2], 16).expect("hex");
        std::array::from_fn(byte)
    }

    fn judge(secrets: &CookieSecrets, client: [u8; 8], server: &[u8], ip: &str, unix_s: u32) -> Cookie {
        let option = [client.as_slice(), server].concat();
        secrets.judge(&option, ip.parse().expect("an address"), unix_s).expect("with secrets")
    }

    #[test]
    fn the_test_vectors_of_rfc_9018_appendix_a_come_out() {
        let secrets = CookieSecrets::new([hex("e5e973e5a6b2a43f48e7dc849e37bfcf")]);
        let client = hex("2464c4abcf10c957");
        let first = judge(&secrets, client, &[], "198.51.100.100", 1_559_731_985);
        assert_eq!(first, Cookie { server: hex("010000005cf79f111f8130c3eee29480"), is_valid: false });
        let again = judge(&secrets, client, &first.server, "198.51.100.100", 1_559_734_385);
        assert_eq!(
            again,
            Cookie { server: hex("010000005cf7a871d4a564a1442aca77"), is_valid: true },
            "older than 30 min"
        );
        let six = CookieSecrets::new([hex("dd3bdf9344b678b185a6f5cb60fca715")]);
        let secrets =
            CookieSecrets::new([hex("445536bcd2513298075a5d379663c962"), hex("dd3bdf9344b678b185a6f5cb60fca715")]);
        let client = hex("22681ab97d52c298");
        let ip = "2001:db8:220:1:59de:d0f4:8769:82b8";
        let old = judge(&six, client, &[], ip, 1_559_741_817).server;
        assert_eq!(old, hex("010000005cf7c57926556bd0934c72f8"));
        let new = judge(&secrets, client, &old, ip, 1_559_741_961);
        assert!(new.is_valid, "by the secret before");
        assert_eq!(judge(&secrets, client, &[], ip, 1_559_741_961).server, hex("010000005cf7c609a6bb79d16625507a"));
    }

    #[test]
    fn cookies_of_others_and_of_other_times_are_none() {
        let secrets = CookieSecrets::new([[7; SECRET]]);
        let (client, now) = ([1; 8], 1_700_000_000);
        let cookie = judge(&secrets, client, &[], "192.0.2.1", now).server;
        let valid = |client, server: &[u8], ip: &str, at: u32| judge(&secrets, client, server, ip, at).is_valid;
        assert!(valid(client, &cookie, "192.0.2.1", now + 3_600));
        assert!(!valid(client, &cookie, "192.0.2.1", now + 3_601));
        assert!(valid(client, &cookie, "192.0.2.1", now - 300));
        assert!(!valid(client, &cookie, "192.0.2.1", now - 301));
        assert!(!valid(client, &cookie, "192.0.2.2", now), "another address");
        assert!(!valid([2; 8], &cookie, "192.0.2.1", now), "another client cookie");
        let mut altered = cookie;
        altered[15] ^= 1;
        assert!(!valid(client, &altered, "192.0.2.1", now));
        assert!(!valid(client, &[cookie.as_slice(), &[0]].concat(), "192.0.2.1", now), "another length");
        let other = CookieSecrets::new([[8; SECRET]]);
        assert!(!judge(&other, client, &cookie, "192.0.2.1", now).is_valid);
        assert_eq!(CookieSecrets::default().judge(&client, "192.0.2.1".parse().expect("an address"), now), None);
    }
}
