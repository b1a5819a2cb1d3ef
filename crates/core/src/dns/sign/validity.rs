//! How long signatures hold, and when to make new ones.
//!
//! A signature that has expired is worse than none, for validators then refuse the name. A new one too early costs only
//! work, and all new ones in the same second cost it where the races run. So a set is signed anew when a quarter of its
//! time is left, and each set waits an own part of an eighth longer; another eighth, 42 h with the
//! default, is left for whoever has to repair something.
//!
//! ```text
//!  inception   now                                    3/4        7/8          expiration
//!  ├───────────┼───────────────────────────────────────┼──────────┼────────────┤
//!   offset: clocks that are late                        sign anew  time to repair
//! ```
//!
//! RRSIG records state seconds since 1970 modulo 2^32 (RFC 4034 section 3.1.5), and compare them as serial numbers
//! (RFC 1982): what is less than 2^31 s ahead is later. Here all times are such numbers ([`serial_s`]).

use std::ops::RangeInclusive;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// Shortest validity, in seconds: answers of raced names live ten seconds at most; six such times.
pub const VALIDITY_S_MIN: u32 = 60;

/// Longest validity, in seconds: a year. Whoever steals an old answer can repeat it that long.
pub const VALIDITY_S_MAX: u32 = 365 * 86_400;

/// Most seconds that an inception lies before the signing: a day, which covers a wrong time zone.
pub const INCEPTION_OFFSET_S_MAX: u32 = 86_400;

/// A time as RRSIG records state it, from seconds since 1970.
pub fn serial_s(unix_s: u64) -> u32 {
    // Modulo 2^32, RFC 4034 section 3.1.5.
    unix_s as u32
}

/// Whether `a` is before `b`, RFC 1982 section 3.2. Of two times exactly 2^31 s apart each is before the other.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// From when to when a signature holds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityWindow {
    /// Its first second, since 1970 modulo 2^32.
    pub inception_s: u32,
    /// Its last second, since 1970 modulo 2^32.
    pub expiration_s: u32,
}

impl ValidityWindow {
    /// Whether the expiration is later than the inception.
    pub(super) fn is_sound(&self) -> bool {
        is_before(self.inception_s, self.expiration_s) && !is_before(self.expiration_s, self.inception_s)
    }

    /// Whether a signature holds. RFC 4034 section 3.1.5: "The RRSIG record MUST NOT be used for authentication prior
    /// to the inception date and MUST NOT be used for authentication after the expiration date."
    pub fn holds_at(&self, now_s: u32) -> bool {
        !is_before(now_s, self.inception_s) && !is_before(self.expiration_s, now_s)
    }

    /// Seconds that are left until it expires; 0 where it has.
    pub fn left_s(&self, now_s: u32) -> u32 {
        match is_before(now_s, self.expiration_s) {
            true => self.expiration_s.wrapping_sub(now_s),
            false => 0,
        }
    }
}

/// How long signatures shall hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityPolicy {
    validity_s: u32,
    inception_offset_s: u32,
}

impl Default for ValidityPolicy {
    /// Two weeks from the signing, and one hour before it: validators whose clocks are that late take them too.
    fn default() -> Self {
        ValidityPolicy { validity_s: 14 * 86_400, inception_offset_s: 3_600 }
    }
}

impl ValidityPolicy {
    /// Signatures that hold `validity_s` after their making and `inception_offset_s` before it; `None` unless these are
    /// from [`VALIDITY_S_MIN`] to [`VALIDITY_S_MAX`], and at most [`INCEPTION_OFFSET_S_MAX`].
    pub fn new(validity_s: u32, inception_offset_s: u32) -> Option<Self> {
        const VALIDITY_S: RangeInclusive<u32> = VALIDITY_S_MIN..=VALIDITY_S_MAX;
        let is_sound = VALIDITY_S.contains(&validity_s) && inception_offset_s <= INCEPTION_OFFSET_S_MAX;
        is_sound.then_some(ValidityPolicy { validity_s, inception_offset_s })
    }

    /// The window of a signature that is made at `now_s`.
    pub fn window(&self, now_s: u32) -> ValidityWindow {
        ValidityWindow {
            inception_s: now_s.wrapping_sub(self.inception_offset_s),
            expiration_s: now_s.wrapping_add(self.validity_s),
        }
    }

    /// When to sign anew what has a signature of this window: when between a quarter and an eighth of the validity is
    /// left. `seed` decides where between; give each set its own, so that they do not all come due at once.
    pub fn refresh_at_s(&self, window: ValidityWindow, seed: u64) -> u32 {
        let draw = u64::from(ChaCha12Rng::seed_from_u64(seed).next_u32());
        // Less than an eighth: the draw is less than 2^32.
        let wait_s = (draw * u64::from(self.validity_s / 8)) >> 32;
        window.expiration_s.wrapping_sub(self.validity_s / 4).wrapping_add(wait_s as u32)
    }

    /// Whether to sign anew at `now_s` what has a signature of this window, because its time has come
    /// ([`ValidityPolicy::refresh_at_s`]) or because a clock that was set back is before its inception.
    pub fn is_refresh_due(&self, window: ValidityWindow, now_s: u32, seed: u64) -> bool {
        !is_before(now_s, self.refresh_at_s(window, seed)) || is_before(now_s, window.inception_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u32 = 86_400;

    /// 7 February 2106, 6:28:16, when the seconds wrap.
    const WRAP_S: u64 = 1 << 32;

    #[test]
    fn a_window_is_an_hour_and_two_weeks_around_its_making() {
        let window = ValidityPolicy::default().window(1_000_000_000);
        assert_eq!(window, ValidityWindow { inception_s: 999_996_400, expiration_s: 1_001_209_600 });
        assert_eq!(ValidityPolicy::new(14 * DAY_S, 3_600), Some(ValidityPolicy::default()));
        assert_eq!(ValidityPolicy::new(VALIDITY_S_MIN - 1, 0), None);
        assert_eq!(ValidityPolicy::new(VALIDITY_S_MAX + 1, 0), None);
        assert_eq!(ValidityPolicy::new(DAY_S, INCEPTION_OFFSET_S_MAX + 1), None);
    }

    #[test]
    fn a_signature_holds_from_its_first_to_its_last_second() {
        for start_s in [1_000_000_000, WRAP_S - 5, WRAP_S - 1, WRAP_S, WRAP_S + 7] {
            let window = ValidityWindow { inception_s: serial_s(start_s), expiration_s: serial_s(start_s + 10) };
            assert!(window.is_sound());
            let holds = |unix_s| window.holds_at(serial_s(unix_s));
            assert!(!holds(start_s - 1) && holds(start_s) && holds(start_s + 10) && !holds(start_s + 11));
            let left: Vec<u32> = [0, 9, 10, 11].map(|after_s| window.left_s(serial_s(start_s + after_s))).into();
            assert_eq!(left, [10, 1, 0, 0]);
        }
    }

    #[test]
    fn windows_that_end_before_they_begin_or_after_half_the_numbers_are_not_sound() {
        let is_sound = |inception_s: u32, after_s: u32| {
            ValidityWindow { inception_s, expiration_s: inception_s.wrapping_add(after_s) }.is_sound()
        };
        for inception_s in [0, 1 << 31, u32::MAX] {
            assert!(is_sound(inception_s, 1) && is_sound(inception_s, (1 << 31) - 1));
            assert!(!is_sound(inception_s, 0) && !is_sound(inception_s, 1 << 31) && !is_sound(inception_s, u32::MAX));
        }
    }

    #[test]
    fn each_set_is_signed_anew_between_three_quarters_and_seven_eighths_of_its_time() {
        for now_s in [1_000_000_000, serial_s(WRAP_S - 1), serial_s(WRAP_S + u64::from(DAY_S))] {
            for policy in [ValidityPolicy::default(), ValidityPolicy { validity_s: 60, inception_offset_s: 0 }] {
                let window = policy.window(now_s);
                let eighth_s = policy.validity_s / 8;
                let left_s = |seed| window.left_s(policy.refresh_at_s(window, seed));
                let all: Vec<u32> = (0..1_000).map(left_s).collect();
                assert!(all.iter().all(|left_s| (eighth_s + 1..=policy.validity_s / 4).contains(left_s)), "{all:?}");
                assert_eq!(all, (0..1_000).map(left_s).collect::<Vec<_>>(), "the same seed, the same time");
                let (first, second) = (all.iter().min(), all.iter().max());
                assert!(second.zip(first).is_some_and(|(most, least)| most - least > eighth_s / 2), "spread");
            }
        }
    }

    #[test]
    fn signing_anew_is_due_from_its_time_on_and_when_the_clock_was_set_back() {
        let policy = ValidityPolicy::default();
        let now_s = serial_s(WRAP_S - 3);
        let window = policy.window(now_s);
        let refresh_at_s = policy.refresh_at_s(window, 7);
        let is_due = |at_s: u32| policy.is_refresh_due(window, at_s, 7);
        assert!(!is_due(now_s) && !is_due(refresh_at_s.wrapping_sub(1)));
        assert!(is_due(refresh_at_s) && is_due(window.expiration_s.wrapping_add(DAY_S)));
        assert!(is_due(window.inception_s.wrapping_sub(1)) && !is_due(window.inception_s));
    }
}
