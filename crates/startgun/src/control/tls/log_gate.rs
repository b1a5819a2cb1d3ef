//! A gate that lets each reason into the log once per window.
//!
//! Anybody can knock at the control port as often as they like; a line per knock would fill the
//! disk. A counter alone hides that something is wrong. So the first refusal of a kind is logged
//! at once, the next one a window later, with the number that was kept back in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a reason stays quiet after it was logged.
pub const LOG_GATE_WINDOW: Duration = Duration::from_secs(60);

/// How many reasons have their own window. We write about a dozen kinds of refusal; with a peer's
/// name in the reason, 64 leaves room for every agent of a small fleet. All reasons beyond that
/// share one more window, so the log grows by at most 65 lines per window.
pub const LOG_GATE_REASONS_MAX: usize = 64;

/// Decides which refusals reach the log. Time is passed in.
#[derive(Debug)]
pub struct LogGate {
    window: Duration,
    reasons: BTreeMap<String, Entry>,
    overflow: Option<Entry>,
}

/// One reason's window.
#[derive(Debug, Clone, Copy)]
struct Entry {
    logged_at: Instant,
    kept_back: u64,
}

impl Default for LogGate {
    fn default() -> Self {
        Self::new(LOG_GATE_WINDOW)
    }
}

impl LogGate {
    /// A gate that opens once per `window` for each reason.
    pub fn new(window: Duration) -> Self {
        Self { window, reasons: BTreeMap::new(), overflow: None }
    }

    /// `Some(kept_back)` where this occurrence is to be logged: `kept_back` earlier ones of the
    /// same reason were not. `None` where it is to be counted only.
    pub fn admit(&mut self, reason: &str, now: Instant) -> Option<u64> {
        if !self.reasons.contains_key(reason) && self.reasons.len() >= LOG_GATE_REASONS_MAX {
            let window = self.window;
            // What a silent reason kept back is lost to the log; the caller's counters have it.
            self.reasons.retain(|_, entry| now.saturating_duration_since(entry.logged_at) < window);
        }
        let fresh = Entry { logged_at: now, kept_back: 0 };
        if let Some(entry) = self.reasons.get_mut(reason) {
            return entry.admit(self.window, now);
        }
        if self.reasons.len() < LOG_GATE_REASONS_MAX {
            self.reasons.insert(reason.to_owned(), fresh);
            return Some(0);
        }
        match &mut self.overflow {
            Some(entry) => entry.admit(self.window, now),
            None => {
                self.overflow = Some(fresh);
                Some(0)
            }
        }
    }
}

impl Entry {
    fn admit(&mut self, window: Duration, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.logged_at) < window {
            self.kept_back = self.kept_back.saturating_add(1);
            return None;
        }
        self.logged_at = now;
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_passes_once_per_window_and_tells_what_was_kept_back() {
        let mut gate = LogGate::default();
        let start = Instant::now();
        assert_eq!(gate.admit("revoked", start), Some(0));
        assert_eq!(gate.admit("revoked", start + Duration::from_secs(1)), None);
        assert_eq!(gate.admit("revoked", start + Duration::from_secs(59)), None);
        assert_eq!(gate.admit("expired", start + Duration::from_secs(59)), Some(0));
        assert_eq!(gate.admit("revoked", start + Duration::from_secs(60)), Some(2));
        assert_eq!(gate.admit("revoked", start + Duration::from_secs(61)), None);
    }

    #[test]
    fn many_reasons_share_one_window_and_the_table_stays_bounded() {
        let mut gate = LogGate::default();
        let start = Instant::now();
        let admitted = (0..10_000).filter(|i| gate.admit(&format!("reason {i}"), start).is_some()).count();
        assert_eq!(admitted, LOG_GATE_REASONS_MAX + 1);
        assert_eq!(gate.reasons.len(), LOG_GATE_REASONS_MAX);
        let later = start + LOG_GATE_WINDOW;
        assert_eq!(gate.admit("new", later), Some(0));
        assert_eq!(gate.reasons.len(), 1, "quiet reasons make room");
    }
}
