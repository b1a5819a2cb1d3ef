//! Messages signed by a shared secret (TSIG, RFC 8945): requests, answers, and the messages of a transfer.
//!
//! The `domain` crate signs and checks them as well, but writes only through its own builders (ours are not those, see
//! [`super::writer`]), reports a wrong signature as FORMERR instead of BADSIG, and signs BADTIME over other bytes than it
//! sends. The scheme is small: a keyed hash over what was signed before, the message without its signature, and either all
//! of the signature's fields or, behind the first message of an answer, its times alone.
//!
//! ```text
//! request:       HMAC(                message, key's name, class, TTL, algorithm, time, fudge, error, other)
//! answer:        HMAC(request's MAC,  message, the same)
//! its 2nd, 3rd:  HMAC(the last MAC,   all messages since, time, fudge)
//! ```

use super::name::CanonicalName;
use super::wire::{HEADER, Malformed, Walk, WireName, counts};
use domain::base::Rtype;
use domain::base::iana::Rcode;
use ring::hmac;
use std::sync::Arc;

/// How far the two clocks may be apart, in seconds: what RFC 8945 section 10 recommends.
const FUDGE_S: u16 = 300;
/// Most unsigned messages between two signed ones (RFC 8945 section 5.3.1).
const UNSIGNED_MAX: u32 = 99;
/// Class ANY.
const ANY: u16 = 255;
/// Longest signature that we append: the key's name, 10 bytes, the algorithm's name, 16 bytes, a SHA-512 MAC, other data.
const SIGNATURE_BYTES_MAX: usize = 255 + 10 + 13 + 16 + 64 + 6;

/// What a key is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-1, for peers that know nothing better.
    Sha1,
    /// HMAC with SHA-256.
    Sha256,
    /// HMAC with SHA-384.
    Sha384,
    /// HMAC with SHA-512.
    Sha512,
}

impl Algorithm {
    /// The names that operators know them by.
    pub const NAMES: [(&'static str, Algorithm); 4] = [
        ("hmac-sha256", Algorithm::Sha256),
        ("hmac-sha384", Algorithm::Sha384),
        ("hmac-sha512", Algorithm::Sha512),
        ("hmac-sha1", Algorithm::Sha1),
    ];

    /// Its name in wire format.
    fn wire_name(self) -> &'static [u8] {
        match self {
            Algorithm::Sha1 => b"\x09hmac-sha1\x00",
            Algorithm::Sha256 => b"\x0bhmac-sha256\x00",
            Algorithm::Sha384 => b"\x0bhmac-sha384\x00",
            Algorithm::Sha512 => b"\x0bhmac-sha512\x00",
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha384 => hmac::HMAC_SHA384,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// A shared secret with its name.
#[derive(Clone, Debug)]
pub struct Key {
    name: CanonicalName,
    algorithm: Algorithm,
    secret: hmac::Key,
}

impl Key {
    /// A key; both sides must use the same name and algorithm.
    pub fn new(name: CanonicalName, algorithm: Algorithm, secret: &[u8]) -> Self {
        Key { name, algorithm, secret: hmac::Key::new(algorithm.hmac(), secret) }
    }

    /// Its name.
    pub fn name(&self) -> &CanonicalName {
        &self.name
    }
}

/// Why a signature was not accepted; what the one who signed is told (RFC 8945 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TsigError {
    /// The signature is none, or not the last record.
    #[error("a malformed TSIG record")]
    Malformed,
    /// There is none where there must be one.
    #[error("no TSIG record where one is required")]
    Missing,
    /// A key or an algorithm that is not known here.
    #[error("an unknown TSIG key")]
    BadKey,
    /// The secret or the message differs.
    #[error("a wrong TSIG signature")]
    BadSig,
    /// The two clocks are too far apart.
    #[error("a TSIG time that is more than {FUDGE_S} s off")]
    BadTime,
    /// The other side did not accept ours: its error code.
    #[error("an answer that refuses our TSIG signature ({})", rcode_name(*.0))]
    Refused(u16),
}

fn rcode_name(code: u16) -> &'static str {
    match code {
        16 => "BADSIG: another secret?",
        17 => "BADKEY: the key is not known there",
        18 => "BADTIME: the clocks differ",
        22 => "BADTRUNC",
        _ => "an error",
    }
}

/// A signature as it came.
struct Signature {
    start: usize,
    key: WireName,
    algorithm: WireName,
    time_s: u64,
    fudge_s: u16,
    mac: (usize, usize),
    original_id: [u8; 2],
    error: u16,
    other: (usize, usize),
}

impl Signature {
    /// The signature of a message, where it has one.
    fn find(message: &[u8]) -> Result<Option<Signature>, Malformed> {
        let [questions, answers, authority, additional] = counts(message)?;
        let mut walk = Walk::new(message);
        for _ in 0..questions {
            walk.question()?;
        }
        let before = u32::from(answers) + u32::from(authority) + u32::from(additional);
        for left in (0..before).rev() {
            let record = walk.record()?;
            if record.rtype != Rtype::TSIG {
                continue;
            }
            // RFC 8945 section 5.1: "The TSIG RR MUST be the last RR in the additional data section".
            if left != 0 || additional == 0 || record.class != ANY || !walk.is_at_end() {
                return Err(Malformed);
            }
            return Signature::read(&message[..record.data.1], record.start, record.owner, record.data.0).map(Some);
        }
        Ok(None)
    }

    fn read(message: &[u8], start: usize, key: WireName, data: usize) -> Result<Signature, Malformed> {
        let (algorithm, at) = WireName::read(message, data)?;
        let word = |at: usize| {
            let bytes = message.get(at..at + 2).ok_or(Malformed)?;
            Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let time_s = u64::from(word(at)?) << 32 | u64::from(word(at + 2)?) << 16 | u64::from(word(at + 4)?);
        let fudge_s = word(at + 6)?;
        let mac = (at + 10, at + 10 + usize::from(word(at + 8)?));
        let original_id = word(mac.1)?.to_be_bytes();
        let error = word(mac.1 + 2)?;
        let other = (mac.1 + 6, mac.1 + 6 + usize::from(word(mac.1 + 4)?));
        match other.1 == message.len() {
            true => Ok(Signature { start, key, algorithm, time_s, fudge_s, mac, original_id, error, other }),
            false => Err(Malformed),
        }
    }

    /// Takes the signature off, and puts the id back that was signed; what it held of MAC and other data.
    fn strip(&self, message: &mut Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        let (mac, other) = (message[self.mac.0..self.mac.1].to_vec(), message[self.other.0..self.other.1].to_vec());
        message.truncate(self.start);
        message[..2].copy_from_slice(&self.original_id);
        let additional = u16::from_be_bytes([message[10], message[11]]) - 1;
        message[10..12].copy_from_slice(&additional.to_be_bytes());
        (mac, other)
    }

    fn is_of(&self, key: &Key) -> bool {
        self.key.as_bytes().eq_ignore_ascii_case(key.name.as_bytes())
            && self.algorithm.as_bytes().eq_ignore_ascii_case(key.algorithm.wire_name())
    }

    fn is_in_time(&self, unix_s: u64) -> bool {
        self.time_s.abs_diff(unix_s) <= u64::from(self.fudge_s.min(FUDGE_S))
    }
}

/// All fields of a signature but the MAC, as they are hashed.
struct Fields<'f> {
    time_s: u64,
    fudge_s: u16,
    error: u16,
    other: &'f [u8],
}

impl Fields<'_> {
    fn hash(&self, key: &Key, context: &mut hmac::Context) {
        context.update(key.name.as_bytes());
        context.update(&ANY.to_be_bytes());
        context.update(&[0; 4]);
        context.update(key.algorithm.wire_name());
        self.hash_times(context);
        context.update(&self.error.to_be_bytes());
        context.update(&(self.other.len() as u16).to_be_bytes());
        context.update(self.other);
    }

    fn hash_times(&self, context: &mut hmac::Context) {
        context.update(&self.time_s.to_be_bytes()[2..]);
        context.update(&self.fudge_s.to_be_bytes());
    }

    /// Appends the signature's record.
    fn append(&self, key: &Key, mac: &[u8], message: &mut Vec<u8>) {
        let original_id = [message[0], message[1]];
        message.extend_from_slice(key.name.as_bytes());
        message.extend_from_slice(&Rtype::TSIG.to_int().to_be_bytes());
        message.extend_from_slice(&ANY.to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        let algorithm = key.algorithm.wire_name();
        let length = algorithm.len() + 16 + mac.len() + self.other.len();
        message.extend_from_slice(&(length as u16).to_be_bytes());
        message.extend_from_slice(algorithm);
        message.extend_from_slice(&self.time_s.to_be_bytes()[2..]);
        message.extend_from_slice(&self.fudge_s.to_be_bytes());
        message.extend_from_slice(&(mac.len() as u16).to_be_bytes());
        message.extend_from_slice(mac);
        message.extend_from_slice(&original_id);
        message.extend_from_slice(&self.error.to_be_bytes());
        message.extend_from_slice(&(self.other.len() as u16).to_be_bytes());
        message.extend_from_slice(self.other);
        count_one_more(message);
    }
}

fn count_one_more(message: &mut [u8]) {
    let additional = u16::from_be_bytes([message[10], message[11]]).saturating_add(1);
    message[10..12].copy_from_slice(&additional.to_be_bytes());
}

/// Whether two MACs are the same, in a time that does not tell where they differ.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// One request and its answer, of one message or many, seen from either side.
#[derive(Clone, Debug)]
pub struct Session {
    key: Arc<Key>,
    /// Holds the last MAC, and the unsigned messages since.
    context: hmac::Context,
    /// Whether the next signature is an answer's first.
    is_first: bool,
    unsigned: u32,
}

impl Session {
    /// The key that it is signed with.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Bytes that a signature adds at most.
    pub const fn bytes_max() -> usize {
        SIGNATURE_BYTES_MAX
    }

    /// Signs a request.
    ///
    /// # Panics
    /// If `message` is shorter than a header.
    pub fn request(key: Arc<Key>, message: &mut Vec<u8>, unix_s: u64) -> Session {
        let fields = Fields { time_s: unix_s, fudge_s: FUDGE_S, error: 0, other: &[] };
        let mut context = hmac::Context::with_key(&key.secret);
        context.update(message);
        fields.hash(&key, &mut context);
        let mac = context.sign();
        fields.append(&key, mac.as_ref(), message);
        Session::behind(key, mac.as_ref(), true)
    }

    fn behind(key: Arc<Key>, mac: &[u8], is_first: bool) -> Session {
        let mut context = hmac::Context::with_key(&key.secret);
        context.update(&(mac.len() as u16).to_be_bytes());
        context.update(mac);
        Session { key, context, is_first, unsigned: 0 }
    }

    /// Checks a request's signature and takes it off; `None` for a request without one.
    ///
    /// # Errors
    /// Why it is not accepted; `message` is as it was then, and [`refuse`] answers it.
    pub fn accept<'k>(
        keys: impl IntoIterator<Item = &'k Arc<Key>>,
        message: &mut Vec<u8>,
        unix_s: u64,
    ) -> Result<Option<Session>, TsigError> {
        let Some(signature) = Signature::find(message).map_err(|Malformed| TsigError::Malformed)? else {
            return Ok(None);
        };
        let key = keys.into_iter().find(|key| signature.is_of(key)).ok_or(TsigError::BadKey)?;
        let mut stripped = message.clone();
        let (mac, other) = signature.strip(&mut stripped);
        let Signature { time_s, fudge_s, error, .. } = signature;
        let mut context = hmac::Context::with_key(&key.secret);
        context.update(&stripped);
        Fields { time_s, fudge_s, error, other: &other }.hash(key, &mut context);
        // RFC 8945 section 5.2.2.1 leaves shortened MACs to local policy: ours is to take none.
        if !is_same(context.sign().as_ref(), &mac) {
            return Err(TsigError::BadSig);
        }
        if !signature.is_in_time(unix_s) {
            return Err(TsigError::BadTime);
        }
        *message = stripped;
        Ok(Some(Session::behind(Arc::clone(key), &mac, true)))
    }

    /// Signs the answer, or the next message of it.
    ///
    /// # Panics
    /// If `message` is shorter than a header.
    pub fn sign(&mut self, message: &mut Vec<u8>, unix_s: u64) {
        let fields = Fields { time_s: unix_s, fudge_s: FUDGE_S, error: 0, other: &[] };
        self.context.update(message);
        let mac = self.hash(&fields);
        fields.append(&self.key, mac.as_ref(), message);
        *self = Session::behind(Arc::clone(&self.key), mac.as_ref(), false);
    }

    /// Takes the next message of the answer as one that is sent without a signature: the next one covers it.
    #[cfg(test)]
    pub(super) fn skip(&mut self, message: &[u8]) {
        self.context.update(message);
    }

    /// Checks the signature of the answer, or of the next message of it, and takes it off. Behind the first, some may be
    /// unsigned; the last must not be ([`Session::is_settled`]).
    ///
    /// # Errors
    /// Why it is not accepted; the whole answer is worth nothing then.
    pub fn verify(&mut self, message: &mut Vec<u8>, unix_s: u64) -> Result<(), TsigError> {
        let Some(signature) = Signature::find(message).map_err(|Malformed| TsigError::Malformed)? else {
            if self.is_first || self.unsigned >= UNSIGNED_MAX {
                return Err(TsigError::Missing);
            }
            self.unsigned += 1;
            self.context.update(message);
            return Ok(());
        };
        // RFC 8945 section 5.3.2: errors about key and signature come unsigned.
        let is_not_auth = message[3] & 0xf == Rcode::NOTAUTH.to_int();
        if is_not_auth && signature.error != 0 {
            return Err(TsigError::Refused(signature.error));
        }
        if !signature.is_of(&self.key) {
            return Err(TsigError::BadKey);
        }
        let (mac, other) = signature.strip(message);
        let Signature { time_s, fudge_s, error, .. } = signature;
        self.context.update(message);
        let expected = self.hash(&Fields { time_s, fudge_s, error, other: &other });
        if !is_same(expected.as_ref(), &mac) {
            return Err(TsigError::BadSig);
        }
        if !signature.is_in_time(unix_s) {
            return Err(TsigError::BadTime);
        }
        *self = Session::behind(Arc::clone(&self.key), &mac, false);
        Ok(())
    }

    /// Whether everything that came is covered by a signature.
    pub fn is_settled(&self) -> bool {
        !self.is_first && self.unsigned == 0
    }

    fn hash(&self, fields: &Fields<'_>) -> hmac::Tag {
        let mut context = self.context.clone();
        match self.is_first {
            true => fields.hash(&self.key, &mut context),
            false => fields.hash_times(&mut context),
        }
        context.sign()
    }
}

/// Turns a request whose signature was not accepted into its answer: NOTAUTH, or FORMERR for what is no signature (RFC 8945
/// section 5.2). No longer than the request but for the time that BADTIME tells.
///
/// # Panics
/// If `request` is shorter than a header.
pub fn refuse<'k>(
    keys: impl IntoIterator<Item = &'k Arc<Key>>,
    request: &[u8],
    error: TsigError,
    unix_s: u64,
) -> Vec<u8> {
    let code = match error {
        TsigError::BadKey => 17,
        TsigError::BadTime => 18,
        TsigError::BadSig => 16,
        TsigError::Malformed | TsigError::Missing | TsigError::Refused(_) => {
            return super::answer::error(request, Rcode::FORMERR.into(), Vec::new());
        }
    };
    let Ok(Some(signature)) = Signature::find(request) else {
        return super::answer::error(request, Rcode::FORMERR.into(), Vec::new());
    };
    let mut question = Walk::new(request);
    let has_question = counts(request).is_ok_and(|counts| counts[0] == 1) && question.question().is_ok();
    let end = if has_question { question.position() } else { HEADER };
    let mut answer = request[..end].to_vec();
    answer[2] = 0x80 | answer[2] & 0x79;
    answer[3] = Rcode::NOTAUTH.to_int();
    answer[4..HEADER].copy_from_slice(&[0, u8::from(has_question), 0, 0, 0, 0, 0, 0]);
    // RFC 8945 section 5.2.3: the time as the client stated it, and ours as other data. That one is signed.
    let ours = unix_s.to_be_bytes();
    let other = if code == 18 { &ours[2..] } else { &[] };
    let fields = Fields { time_s: signature.time_s, fudge_s: signature.fudge_s, error: code, other };
    let key = keys.into_iter().find(|key| signature.is_of(key));
    let mac = key.filter(|_| code == 18).map(|key| {
        let mac = &request[signature.mac.0..signature.mac.1];
        let mut session = Session::behind(Arc::clone(key), mac, true);
        session.context.update(&answer);
        session.hash(&fields)
    });
    match key {
        Some(key) => fields.append(key, mac.as_ref().map_or(&[], |mac| mac.as_ref()), &mut answer),
        // RFC 8945 section 5.2.1: the names as they came, for there is no key of ours to name.
        None => {
            let start = answer.len();
            answer.extend_from_slice(signature.key.as_bytes());
            answer.extend_from_slice(&[0, 250, 0, 255, 0, 0, 0, 0]);
            let algorithm = signature.algorithm.as_bytes();
            answer.extend_from_slice(&((algorithm.len() + 16) as u16).to_be_bytes());
            answer.extend_from_slice(algorithm);
            answer.extend_from_slice(&signature.time_s.to_be_bytes()[2..]);
            answer.extend_from_slice(&signature.fudge_s.to_be_bytes());
            answer.extend_from_slice(&[0, 0]);
            answer.extend_from_slice(&signature.original_id);
            answer.extend_from_slice(&code.to_be_bytes());
            answer.extend_from_slice(&[0, 0]);
            debug_assert!(answer.len() > start);
            count_one_more(&mut answer);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::answer::tests::query_bytes;

    const NOW_S: u64 = 1_800_000_000;

    fn key(name: &str, secret: &[u8]) -> Arc<Key> {
        Arc::new(Key::new(name.parse().expect("a name"), Algorithm::Sha256, secret))
    }

    fn request() -> Vec<u8> {
        query_bytes("example.org", Rtype::AXFR, None)
    }

    #[test]
    fn a_request_and_the_messages_of_its_answer_are_signed_and_checked() {
        for (name, algorithm) in Algorithm::NAMES {
            let key = Arc::new(Key::new("k.test".parse().expect("a name"), algorithm, b"secret"));
            let mut message = request();
            let mut client = Session::request(Arc::clone(&key), &mut message, NOW_S);
            let mut server = Session::accept([&key], &mut message, NOW_S + 299).expect(name).expect("signed");
            assert_eq!(message, request(), "{name}: the signature is off again");
            assert!(!client.is_settled());
            for round in 0..3u8 {
                let mut answer = [request(), vec![round]].concat();
                answer.pop();
                answer[2] |= 0x80;
                let plain = answer.clone();
                server.sign(&mut answer, NOW_S);
                assert_ne!(answer, plain);
                client.verify(&mut answer, NOW_S).expect(name);
                assert_eq!(answer, plain);
                assert!(client.is_settled());
            }
        }
    }

    #[test]
    fn wrong_keys_secrets_times_and_bytes_are_told_apart() {
        let key_a = key("a.test", b"secret");
        let mut message = request();
        Session::request(Arc::clone(&key_a), &mut message, NOW_S);
        let accept = |keys: &[Arc<Key>], message: &[u8], unix_s| {
            Session::accept(keys, &mut message.to_vec(), unix_s).map(|session| session.is_some())
        };
        let keys = [Arc::clone(&key_a)];
        assert_eq!(accept(&keys, &message, NOW_S), Ok(true));
        assert_eq!(accept(&keys, &request(), NOW_S), Ok(false));
        assert_eq!(accept(&[key("b.test", b"secret")], &message, NOW_S), Err(TsigError::BadKey));
        assert_eq!(accept(&[key("a.test", b"other")], &message, NOW_S), Err(TsigError::BadSig));
        assert_eq!(accept(&keys, &message, NOW_S + 301), Err(TsigError::BadTime));
        let mut changed = message.clone();
        changed[14] ^= 1;
        assert_eq!(accept(&keys, &changed, NOW_S), Err(TsigError::BadSig));
        // Whatever is cut off or changed, nothing panics, and nothing is accepted but the id, which is not signed.
        for at in 0..message.len() {
            assert_ne!(accept(&keys, &message[..at], NOW_S), Ok(true), "{at} bytes");
            let mut changed = message.clone();
            changed[at] ^= 0x20;
            if at >= 2 {
                let accepted = accept(&keys, &changed, NOW_S) == Ok(true);
                // Letter case of the two names, and what is no part of the hash: TTL.
                assert!(!accepted || at > request().len(), "byte {at}");
            }
        }
    }

    #[test]
    fn refusals_say_why_and_badtime_is_signed() {
        let key = key("a.test", b"secret");
        let mut message = request();
        let mut client = Session::request(Arc::clone(&key), &mut message, NOW_S);
        let cases = [(TsigError::BadKey, 17), (TsigError::BadSig, 16), (TsigError::BadTime, 18)];
        for (error, code) in cases {
            for keys in [vec![Arc::clone(&key)], vec![]] {
                let mut answer = refuse(&keys, &message, error, NOW_S + 400);
                assert_eq!((answer[2] & 0x80, answer[3] & 0xf), (0x80, 9));
                assert_eq!(client.clone().verify(&mut answer, NOW_S), Err(TsigError::Refused(code)));
            }
        }
        let formerr = refuse([&key], &message, TsigError::Malformed, NOW_S);
        assert_eq!(formerr[3] & 0xf, 1);
        assert_eq!(client.verify(&mut request(), NOW_S), Err(TsigError::Missing));
    }

    #[test]
    fn unsigned_messages_are_covered_by_the_next_signature_and_are_few() {
        let key = key("a.test", b"secret");
        let mut message = request();
        let client = Session::request(Arc::clone(&key), &mut message, NOW_S);
        let server = Session::accept([&key], &mut message, NOW_S).expect("sound").expect("signed");
        let signed = |server: &mut Session, message: &[u8]| {
            let mut message = message.to_vec();
            server.sign(&mut message, NOW_S);
            message
        };
        let (mut both, mut sender) = (client.clone(), server.clone());
        both.verify(&mut signed(&mut sender, &message), NOW_S).expect("the first");
        both.verify(&mut message.clone(), NOW_S).expect("unsigned");
        assert!(!both.is_settled());
        sender.context.update(&message);
        both.verify(&mut signed(&mut sender, &message), NOW_S).expect("covers both");
        assert!(both.is_settled());
        for _ in 0..UNSIGNED_MAX {
            both.verify(&mut message.clone(), NOW_S).expect("unsigned");
        }
        assert_eq!(both.verify(&mut message.clone(), NOW_S), Err(TsigError::Missing));
    }
}
