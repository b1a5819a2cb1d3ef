//! What an agent allows itself, whatever a master orders.

use super::Refusal;
use crate::rate::{Prefix, PrefixRate};
use crate::time::{LocalTime, Span};
use std::net::{IpAddr, SocketAddr};

/// An agent's own limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Departures per second in all.
    pub departures_per_s: u32,
    /// Departures per second to one prefix (/24, /56).
    pub departures_per_prefix_per_s: u32,
    /// Whether private, loopback and link-local destinations are answered: for labs and internal networks.
    pub allow_private_destinations: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { departures_per_s: 20_000, departures_per_prefix_per_s: 200, allow_private_destinations: false }
    }
}

/// The limits and what is left of them.
pub(super) struct Budget {
    limits: Limits,
    per_prefix: PrefixRate,
    second: LocalTime,
    this_second: u32,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Budget {
            limits,
            // Only masters' orders reach it, so nobody chooses which prefixes meet.
            per_prefix: PrefixRate::new(limits.departures_per_prefix_per_s, 0),
            second: LocalTime::from_nanos(0),
            this_second: 0,
        }
    }

    /// Takes one departure to `client` out of the budget.
    pub(super) fn take(&mut self, now: LocalTime, client: SocketAddr) -> Result<(), Refusal> {
        if client.port() == 0 || !self.may_send_to(client.ip()) {
            return Err(Refusal::Destination);
        }
        if now - self.second >= Span::from_secs(1) {
            self.second = now;
            self.this_second = 0;
        }
        if self.this_second >= self.limits.departures_per_s || !self.per_prefix.take(now, Prefix::from(client.ip())) {
            return Err(Refusal::RateLimited);
        }
        self.this_second += 1;
        Ok(())
    }

    fn may_send_to(&self, ip: IpAddr) -> bool {
        let never = ip.is_multicast() || ip.is_unspecified() || ip == IpAddr::from([255; 4]);
        let private = match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        !never && (!private || self.limits.allow_private_destinations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(budget: &mut Budget, to: &str) -> Result<(), Refusal> {
        budget.take(LocalTime::from_nanos(5), to.parse().expect("an address"))
    }

    #[test]
    fn destinations_that_nobody_asks_from_are_refused() {
        let mut budget = Budget::new(Limits::default());
        for to in [
            "224.0.0.1:5",
            "255.255.255.255:5",
            "0.0.0.0:5",
            "10.0.0.1:5",
            "127.0.0.1:5",
            "[fd00::1]:5",
            "[::1]:5",
            "203.0.113.1:0",
        ] {
            assert_eq!(take(&mut budget, to), Err(Refusal::Destination), "{to}");
        }
        assert_eq!(take(&mut budget, "203.0.113.1:5"), Ok(()));
        let mut lab = Budget::new(Limits { allow_private_destinations: true, ..Limits::default() });
        assert_eq!(take(&mut lab, "10.0.0.1:5"), Ok(()));
        assert_eq!(take(&mut lab, "224.0.0.1:5"), Err(Refusal::Destination));
    }

    #[test]
    fn prefixes_and_the_whole_have_their_share() {
        let mut budget =
            Budget::new(Limits { departures_per_s: 5, departures_per_prefix_per_s: 2, ..Limits::default() });
        let to = |i: u8| format!("203.0.113.{i}:5");
        assert_eq!((0..9).filter(|&i| take(&mut budget, &to(i)).is_ok()).count(), 2);
        assert_eq!((1..9).filter(|i| take(&mut budget, &format!("198.51.{i}.1:5")).is_ok()).count(), 3);
    }
}
