//! Whether the kernel lets packets leave at an instant by itself (`SO_TXTIME`).
//!
//! It does so only where the queueing discipline of the outgoing interface is `fq` (or `etf`, which needs another clock and
//! is not used here). Any other one ignores the instant without a word and lets the packet leave at once. So the
//! kernel is asked in the only way that it answers: datagrams with an instant some milliseconds ahead, and their transmit
//! timestamps. They go one hop far, to a port where nobody listens.

use crate::host_clock::{HostClock, sleep_until_monotonic};
use crate::udp::{Options, UdpSocket};
use startgun_core::time::{LocalTime, Span};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Datagrams of a probe: all of them must leave in time.
const DATAGRAMS: usize = 5;
/// How far ahead their instants are, and apart: more than any wake-up takes, less than anybody notices at start.
const AHEAD: Span = Span::from_millis(3);
/// So long after its instant the timestamp is looked for.
const STAMP_AFTER: Span = Span::from_millis(1);
/// Earlier than this, the instant was ignored: an ignored one leaves [`AHEAD`] early.
const EARLY_MAX: Span = Span::from_micros(50);
/// Later than this, the thread itself is better: it is later by 25 µs in one case of a hundred.
const LATE_MAX: Span = Span::from_micros(25);
/// The discard port of RFC 863.
const DISCARD_PORT: u16 = 9;

/// What the kernel makes of a departure's instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelDepartures {
    /// It keeps it; the probe's datagrams were this late at most.
    Kept {
        /// After the instant.
        late: Span,
    },
    /// It lets the packet leave at once.
    Ignored,
    /// It keeps it less well than the departure thread does: this late.
    Late {
        /// After the instant.
        by: Span,
    },
    /// It could not be found out, for this reason.
    Unknown(String),
}

impl KernelDepartures {
    /// Whether departures shall be left to the kernel.
    pub fn are_kept(&self) -> bool {
        matches!(self, KernelDepartures::Kept { .. })
    }
}

impl fmt::Display for KernelDepartures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelDepartures::Kept { late } => write!(f, "departures by the kernel (SO_TXTIME, {late} late at most)"),
            KernelDepartures::Ignored => write!(f, "SO_TXTIME ignored"),
            KernelDepartures::Late { by } => write!(f, "SO_TXTIME not used ({by} late)"),
            KernelDepartures::Unknown(reason) => write!(f, "SO_TXTIME not used ({reason})"),
        }
    }
}

/// Asks the interface on the way to `toward`. Takes about 20 ms.
pub fn probe(clock: &HostClock, toward: IpAddr) -> KernelDepartures {
    let any = match toward {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let options = Options { transmit_timestamps: true, departure_times: true, ..Options::default() };
    let lateness = UdpSocket::bind(any, options).and_then(|socket| {
        socket.stay_on_link()?;
        socket.refuse_input()?;
        let to = SocketAddr::new(toward, DISCARD_PORT);
        (0..DATAGRAMS).map(|_| lateness_of_one(clock, &socket, to)).collect::<Result<Vec<_>, _>>()
    });
    match lateness {
        Err(error) => KernelDepartures::Unknown(error.to_string()),
        Ok(lateness) => verdict(&lateness),
    }
}

/// How late one datagram left; `None` without a timestamp.
fn lateness_of_one(clock: &HostClock, socket: &UdpSocket, to: SocketAddr) -> std::io::Result<Option<Span>> {
    let at = clock.now() + AHEAD;
    let number = socket.send_at(&[], to, clock.monotonic_deadline(at))?;
    sleep_until_monotonic(clock.monotonic_deadline(at + STAMP_AFTER));
    let mut left: Option<LocalTime> = None;
    socket.drain_transmit_timestamps(clock, &mut |of, at| {
        if Some(of) == number {
            left = Some(at);
        }
    })?;
    Ok(left.map(|left| left - at))
}

fn verdict(lateness: &[Option<Span>]) -> KernelDepartures {
    let stamped: Vec<Span> = lateness.iter().copied().flatten().collect();
    match (stamped.iter().min(), stamped.iter().max()) {
        (Some(least), _) if *least < -EARLY_MAX => KernelDepartures::Ignored,
        _ if stamped.len() < lateness.len() => KernelDepartures::Unknown("no transmit timestamps".into()),
        (_, Some(most)) if *most > LATE_MAX => KernelDepartures::Late { by: *most },
        (_, Some(most)) => KernelDepartures::Kept { late: *most },
        _ => KernelDepartures::Unknown("nothing sent".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_queueing_discipline_and_ignores_instants() {
        // Loopback's is `noqueue` unless somebody replaced it.
        let found = probe(&HostClock::new(None), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(found, KernelDepartures::Ignored);
        assert!(!found.are_kept());
    }

    #[test]
    fn one_bad_datagram_is_enough_for_a_no() {
        let late = |us: i64| Some(Span::from_micros(us));
        assert_eq!(verdict(&[late(2), late(9), late(-1)]), KernelDepartures::Kept { late: Span::from_micros(9) });
        assert_eq!(verdict(&[late(2), late(-2_990), late(2)]), KernelDepartures::Ignored);
        assert_eq!(verdict(&[late(2), late(80), late(2)]), KernelDepartures::Late { by: Span::from_micros(80) });
        assert!(matches!(verdict(&[late(2), None, late(2)]), KernelDepartures::Unknown(_)));
        assert!(matches!(verdict(&[]), KernelDepartures::Unknown(_)));
    }
}
