//! Seals: one AEAD per datagram, its key from the control channel, its nonce a counter.
//!
//! ```text
//!  0       1       2        4                12               20
//! +-------+-------+--------+----------------+----------------+-----------------------+
//! | 0x5a  | shard |   0    |  session id    |    counter     |  AES-256-GCM + tag …  |
//! +-------+-------+--------+----------------+----------------+-----------------------+
//! ```
//!
//! A session's secret comes out of the TLS exporter (RFC 8446 section 7.5), so both ends have it and nobody
//! transports it. Each shard of the master and each direction has a sub-key of its own (HKDF, RFC 5869): no two
//! threads ever share a counter, so a nonce is never used twice. Header, master name and epoch are associated data: a
//! datagram of one master's epoch opens nothing in another's. The receiver keeps a replay window per sub-key
//! (RFC 4303 section 3.4.3).

use super::MAX_DATAGRAM;
use crate::planted::{self, Bug};
use crate::time::Epoch;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

/// First byte of a sealed datagram.
pub const SEALED: u8 = 0x5a;
/// First byte of a source self-test's challenge, see [`crate::control::ToAgent::SelfTest`].
pub const CHALLENGE: u8 = 0x5c;
/// Where the shard's number stands in a datagram: the kernel steers by it.
pub const SHARD_OFFSET: usize = 1;
/// Bytes before the ciphertext.
pub const HEADER: usize = 20;
/// Bytes that sealing adds in all: header and GCM tag.
pub const OVERHEAD: usize = HEADER + 16;
/// Most plain bytes in one datagram.
pub const MAX_PLAIN: usize = MAX_DATAGRAM - OVERHEAD;
/// Bytes of a session's secret.
pub const SECRET_BYTES: usize = 32;

/// Datagrams that may overtake each other before the last is taken for a replay: one batch of 64 from each of a
/// few queues of a network card.
const REPLAY_WINDOW: u64 = 256;
const REPLAY_WORDS: usize = REPLAY_WINDOW as usize / 64;

/// How much of HKDF's output names a mesh session.
struct IdLength;

impl hkdf::KeyType for IdLength {
    fn len(&self) -> usize {
        size_of::<SessionId>()
    }
}

/// Names a session on the wire; chosen at random by the master.
pub type SessionId = u64;

/// Which way a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Orders, replies of exchanges, signals.
    MasterToAgent,
    /// Requests of exchanges, receipts.
    AgentToMaster,
}

/// What a session is bound to: keys and associated data are made from all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The session.
    pub id: SessionId,
    /// The exporter's output.
    pub secret: [u8; SECRET_BYTES],
    /// The master's name.
    pub master: String,
    /// The master's epoch.
    pub epoch: Epoch,
}

impl Binding {
    /// The session of two agents' mesh. `secret` is theirs and fresh for this pair of processes; `lower` and `higher` are
    /// their names, in order. The lower one takes a master's part in [`Direction`].
    pub fn of_pair(secret: [u8; SECRET_BYTES], lower: &str, higher: &str) -> Self {
        let mut id = [0; 8];
        let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&secret)
            .expand(&[b"startgun mesh 1 id"], IdLength)
            .and_then(|output| output.fill(&mut id));
        assert!(filled.is_ok(), "HKDF-SHA256 fills 8 bytes");
        // A space is in no name, so no master's session looks like this one.
        Binding { id: u64::from_be_bytes(id), secret, master: format!("{lower} {higher}"), epoch: Epoch(0) }
    }

    fn key(&self, direction: Direction, shard: u8) -> LessSafeKey {
        let way = match direction {
            Direction::MasterToAgent => b"to agent".as_slice(),
            Direction::AgentToMaster => b"to master".as_slice(),
        };
        let info: [&[u8]; 3] = [b"startgun fast path 1 ", way, &[shard]];
        let mut key = [0u8; SECRET_BYTES];
        let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&self.secret)
            .expand(&info, hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut key));
        assert!(filled.is_ok(), "HKDF-SHA256 fills 32 bytes");
        match UnboundKey::new(&AES_256_GCM, &key) {
            Ok(key) => LessSafeKey::new(key),
            Err(_) => unreachable!("AES-256 takes 32 bytes"),
        }
    }

    /// Master name and epoch, the part of the associated data that does not travel.
    fn context(&self) -> Vec<u8> {
        let mut context = vec![0; HEADER];
        context.extend_from_slice(&self.epoch.0.to_be_bytes());
        context.extend_from_slice(self.master.as_bytes());
        context
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0u8; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals datagrams of one direction and shard. Not `Clone`: two of them would use a nonce twice.
pub struct Sealer {
    key: LessSafeKey,
    /// Associated data; the first [`HEADER`] bytes are the header of the datagram at hand.
    context: Vec<u8>,
    counter: u64,
}

impl Sealer {
    /// The sealer of one direction and shard of a session. Make it once per session, direction and shard.
    pub fn new(binding: &Binding, direction: Direction, shard: u8) -> Self {
        let mut context = binding.context();
        context[..4].copy_from_slice(&[SEALED, shard, 0, 0]);
        context[4..12].copy_from_slice(&binding.id.to_be_bytes());
        Sealer { key: binding.key(direction, shard), context, counter: 0 }
    }

    /// Seals `plain` into `out`, which is cleared first.
    ///
    /// # Panics
    /// If `plain` is longer than [`MAX_PLAIN`]: our own bug.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        assert!(plain.len() <= MAX_PLAIN, "{} bytes to seal, at most {MAX_PLAIN}", plain.len());
        self.counter += 1;
        self.context[12..HEADER].copy_from_slice(&self.counter.to_be_bytes());
        out.clear();
        out.extend_from_slice(&self.context[..HEADER]);
        out.extend_from_slice(plain);
        let sealed =
            self.key.seal_in_place_separate_tag(nonce(self.counter), Aad::from(&self.context), &mut out[HEADER..]);
        match sealed {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => unreachable!("AES-GCM seals 1,200 bytes"),
        }
    }
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short or too long for a sealed datagram, or not marked as one.
    #[error("not a sealed datagram")]
    Malformed,
    /// The tag does not fit: another key, or altered on the way.
    #[error("the seal does not fit")]
    Forged,
    /// Its counter was seen, or is older than the window.
    #[error("seen before")]
    Replayed,
}

impl OpenError {
    /// The counter's name.
    pub fn counter(self) -> &'static str {
        match self {
            OpenError::Malformed => "datagram_malformed",
            OpenError::Forged => "datagram_forged",
            OpenError::Replayed => "datagram_replayed",
        }
    }
}

/// Opens datagrams of one direction and shard, each once.
pub struct Opener {
    key: LessSafeKey,
    context: Vec<u8>,
    highest: u64,
    /// Bit i of word w: counter `highest − 64·w − i` was seen.
    seen: [u64; REPLAY_WORDS],
}

/// The header's session id and shard, or `None` where `datagram` cannot be a sealed one.
pub fn header(datagram: &[u8]) -> Option<(SessionId, u8)> {
    if datagram.len() < OVERHEAD || datagram.len() > MAX_DATAGRAM || datagram[0] != SEALED || datagram[2..4] != [0, 0] {
        return None;
    }
    let id = datagram[4..12].try_into().ok().map(u64::from_be_bytes)?;
    Some((id, datagram[SHARD_OFFSET]))
}

impl Opener {
    /// The opener of one direction and shard of a session.
    pub fn new(binding: &Binding, direction: Direction, shard: u8) -> Self {
        Opener { key: binding.key(direction, shard), context: binding.context(), highest: 0, seen: [0; REPLAY_WORDS] }
    }

    /// Opens a datagram into `plain`, which is cleared first. Only a datagram that opens moves the replay window.
    ///
    /// # Errors
    /// See [`OpenError`]; `plain` is then empty.
    pub fn open(&mut self, datagram: &[u8], plain: &mut Vec<u8>) -> Result<(), OpenError> {
        plain.clear();
        header(datagram).ok_or(OpenError::Malformed)?;
        let counter = datagram[12..HEADER].try_into().map_or(0, u64::from_be_bytes);
        if self.is_replayed(counter) {
            return Err(OpenError::Replayed);
        }
        self.context[..HEADER].copy_from_slice(&datagram[..HEADER]);
        plain.extend_from_slice(&datagram[HEADER..]);
        match self.key.open_in_place(nonce(counter), Aad::from(&self.context), plain).map(|opened| opened.len()) {
            Ok(length) => plain.truncate(length),
            Err(_) => {
                plain.clear();
                return Err(OpenError::Forged);
            }
        }
        self.note(counter);
        Ok(())
    }

    fn is_replayed(&self, counter: u64) -> bool {
        let is_newest = counter == self.highest && planted::active(Bug::ReplayWindowOffByOne);
        if counter > self.highest || is_newest {
            return false;
        }
        let age = self.highest - counter;
        counter == 0 || age >= REPLAY_WINDOW || self.seen[(age / 64) as usize] >> (age % 64) & 1 == 1
    }

    fn note(&mut self, counter: u64) {
        if counter > self.highest {
            let shift = counter - self.highest;
            self.highest = counter;
            let (words, bits) = ((shift / 64).min(REPLAY_WINDOW) as usize, (shift % 64) as u32);
            for word in (0..REPLAY_WORDS).rev() {
                let from = |index: Option<usize>| index.map_or(0, |index| self.seen[index]);
                let upper = from(word.checked_sub(words));
                let lower = from(word.checked_sub(words + 1));
                self.seen[word] = if bits == 0 { upper } else { upper << bits | lower >> (64 - bits) };
            }
        }
        let age = self.highest - counter;
        self.seen[(age / 64) as usize] |= 1 << (age % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        Binding { id: 42, secret: [9; SECRET_BYTES], master: "m1".into(), epoch: Epoch(7) }
    }

    fn pair(binding: &Binding) -> (Sealer, Opener) {
        (Sealer::new(binding, Direction::MasterToAgent, 3), Opener::new(binding, Direction::MasterToAgent, 3))
    }

    #[test]
    fn what_is_sealed_opens_once() {
        let (mut sealer, mut opener) = pair(&binding());
        let (mut datagram, mut plain) = (Vec::new(), Vec::new());
        sealer.seal(b"on your marks", &mut datagram);
        assert_eq!(datagram.len(), 13 + OVERHEAD);
        assert_eq!(header(&datagram), Some((42, 3)));
        assert_eq!(opener.open(&datagram, &mut plain), Ok(()));
        assert_eq!(plain, b"on your marks");
        assert_eq!(opener.open(&datagram, &mut plain), Err(OpenError::Replayed));
        assert!(plain.is_empty());
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_moves_no_window() {
        let (mut sealer, mut opener) = pair(&binding());
        let (mut datagram, mut plain) = (Vec::new(), Vec::new());
        sealer.seal(b"set", &mut datagram);
        for index in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[index / 8] ^= 1 << (index % 8);
            assert!(opener.open(&forged, &mut plain).is_err(), "bit {index}");
        }
        assert_eq!(opener.open(&datagram, &mut plain), Ok(()));
    }

    #[test]
    fn another_master_epoch_direction_or_shard_opens_nothing() {
        let mut datagram = Vec::new();
        Sealer::new(&binding(), Direction::MasterToAgent, 3).seal(b"go", &mut datagram);
        let mut plain = Vec::new();
        let strangers = [
            Opener::new(&Binding { master: "m2".into(), ..binding() }, Direction::MasterToAgent, 3),
            Opener::new(&Binding { epoch: Epoch(8), ..binding() }, Direction::MasterToAgent, 3),
            Opener::new(&Binding { secret: [8; SECRET_BYTES], ..binding() }, Direction::MasterToAgent, 3),
            Opener::new(&binding(), Direction::AgentToMaster, 3),
            Opener::new(&binding(), Direction::MasterToAgent, 4),
        ];
        for mut stranger in strangers {
            assert_eq!(stranger.open(&datagram, &mut plain), Err(OpenError::Forged));
        }
    }

    #[test]
    fn the_replay_window_agrees_with_a_set_of_all_counters() {
        let (mut sealer, mut opener) = pair(&binding());
        let datagrams: Vec<Vec<u8>> = (0..2_000)
            .map(|_| {
                let mut datagram = Vec::new();
                sealer.seal(b"x", &mut datagram);
                datagram
            })
            .collect();
        let mut plain = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut state = 1u64;
        let mut position = 0u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Forwards on average, with jumps of up to 150 forwards and 400 back.
            position = position.saturating_add(state >> 33 & 1);
            let index = (position + (state >> 40) % 150).saturating_sub((state >> 50) % 400).min(1_999);
            let counter = index + 1;
            let highest = seen.last().copied().unwrap_or(0);
            let fresh = !seen.contains(&counter) && (counter > highest || highest - counter < REPLAY_WINDOW);
            let opened = opener.open(&datagrams[index as usize], &mut plain);
            assert_eq!(opened.is_ok(), fresh, "counter {counter}, highest {highest}");
            if fresh {
                seen.insert(counter);
            }
        }
        assert!(seen.len() > 1_000);
    }

    #[test]
    fn short_long_and_foreign_datagrams_have_no_header() {
        assert_eq!(header(&[]), None);
        assert_eq!(header(&[SEALED; OVERHEAD - 1]), None);
        assert_eq!(header(&[0; OVERHEAD]), None);
        assert_eq!(header(&vec![SEALED; MAX_DATAGRAM + 1]), None);
    }
}
