//! What happened, one line per event.

use core::fmt::{self, Write};

use crate::clock::SimTime;

/// Longest trace kept as text: 64 MiB, 600,000 lines of about 110 bytes. What follows only enters the digest.
const MAX_TRACE_BYTES: usize = 64 << 20;

/// FNV-1a, 64 bits: not for adversaries, only to tell two runs apart.
pub(crate) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Where FNV-1a begins.
pub(crate) const DIGEST_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The trace of one world.
pub(crate) struct Trace {
    text: String,
    line: String,
    kept: bool,
    pub(crate) digest: u64,
}

impl Trace {
    pub(crate) fn new(kept: bool) -> Self {
        Trace { text: String::new(), line: String::new(), kept, digest: DIGEST_START }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn note(&mut self, at: SimTime, what: fmt::Arguments<'_>) {
        if !self.kept {
            return;
        }
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(self.line, "{:>14} {what}", at.as_nanos());
        self.digest = digest(self.digest, self.line.as_bytes());
        if self.text.len() + self.line.len() <= MAX_TRACE_BYTES {
            self.text.push_str(&self.line);
        }
    }
}
