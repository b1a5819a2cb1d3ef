//! Who has a place among the connections, and for how long.
//!
//! A server that turns newcomers away when it is full serves whoever came first and says nothing: a few idle strangers
//! keep everybody out. Closing the connection that has been idle longest in favour of the newcomer instead (RFC 7766
//! section 6.2.3 lets a server close idle connections at any time, and section 10 asks for limits) makes an attacker work
//! for each place all the time. Two things keep that from becoming an attack itself. A place is safe for [`TENURE`],
//! or under a flood of newcomers nobody would keep one long enough to be answered. And whose prefix has its share
//! takes a place from that prefix only.
//!
//! The same arithmetic shortens the idle time-out as places become few, and tells clients that know
//! edns-tcp-keepalive (RFC 7828) so.

use super::Transport;
use super::tally::Tally;
use startgun_core::rate::Prefix;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Nobody loses a place sooner after it was taken, or after a query on it: two round trips of 250 ms, half around the
/// world, which a TLS handshake with its first query takes.
pub(super) const TENURE: Duration = Duration::from_millis(500);
/// While more than one in this many places is free, connections may be idle for as long as is configured.
const SCARCE_BELOW: usize = 4;
/// The unit of edns-tcp-keepalive's TIMEOUT (RFC 7828 section 3.1).
const KEEPALIVE_UNIT: Duration = Duration::from_millis(100);

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In all, over all service addresses and both transports; at least 1.
    pub(super) connections: usize,
    /// Of one client prefix.
    pub(super) connections_per_prefix: usize,
    /// While there are places enough.
    pub(super) idle_timeout: Duration,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All are taken, and none has been idle for [`TENURE`].
    Full,
    /// The prefix has its share, and none of it has been idle for [`TENURE`].
    Prefix,
}

/// All places.
#[derive(Clone)]
pub(super) struct Places(Rc<Table>);

struct Table {
    limits: Limits,
    tally: Arc<Tally>,
    seats: RefCell<Seats>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Seat>,
}

struct Seat {
    prefix: Prefix,
    active_at: Instant,
    leave: Rc<Notify>,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(limits: Limits, tally: Arc<Tally>) -> Self {
        Places(Rc::new(Table { limits, tally, seats: RefCell::default() }))
    }

    /// A place for a new connection of `peer`, somebody else's if need be.
    ///
    /// # Errors
    /// [`Refusal`], where nobody has been idle for long enough.
    pub(super) fn enter(&self, peer: IpAddr, transport: Transport, now: Instant) -> Result<Place, Refusal> {
        let prefix = Prefix::from(peer.to_canonical());
        let mut seats = self.0.seats.borrow_mut();
        let of_prefix = seats.taken.values().filter(|seat| seat.prefix == prefix).count();
        if of_prefix >= self.0.limits.connections_per_prefix && !seats.dismiss(now, |seat| seat.prefix == prefix) {
            return Err(Refusal::Prefix);
        }
        if seats.taken.len() >= self.0.limits.connections && !seats.dismiss(now, |_| true) {
            return Err(Refusal::Full);
        }
        let (number, leave) = (seats.next, Rc::new(Notify::new()));
        seats.next += 1;
        seats.taken.insert(number, Seat { prefix, active_at: now, leave: Rc::clone(&leave) });
        self.0.tally.opened(transport);
        Ok(Place { places: self.clone(), number, transport, leave })
    }

    /// Makes the connection that has been idle longest go, where one has been for [`TENURE`].
    pub(super) fn dismiss_idlest(&self, now: Instant) -> bool {
        self.0.seats.borrow_mut().dismiss(now, |_| true)
    }

    /// How long a connection may be idle now: as configured while there are places enough, less and less when they become
    /// few. Never less than [`TENURE`]: who has just come in must have the time to ask.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.offered_idle_timeout().max(TENURE.min(self.0.limits.idle_timeout))
    }

    /// What clients are told of it, in edns-tcp-keepalive's TIMEOUT: units of 100 ms; 0 when no place is left, which asks
    /// a client to close when it has its answers (RFC 7828 section 3.2.2).
    pub(super) fn keepalive(&self) -> u16 {
        let units = self.offered_idle_timeout().as_millis() / KEEPALIVE_UNIT.as_millis();
        u16::try_from(units).unwrap_or(u16::MAX)
    }

    /// RFC 7766 section 6.2.3: "Servers MAY use zero timeouts when they are experiencing heavy load or are under attack."
    fn offered_idle_timeout(&self) -> Duration {
        let all = self.0.limits.connections;
        let free = all.saturating_sub(self.0.seats.borrow().taken.len());
        let share = (free * SCARCE_BELOW) as f64 / all as f64;
        self.0.limits.idle_timeout.mul_f64(share.min(1.0))
    }
}

impl Seats {
    /// Frees the seat among those that has been idle longest; `false` when none has been for [`TENURE`]. It is free at
    /// once, though its connection only ends when its task is next run.
    ///
    /// It looks at all of them, which for the default of 512 takes about as long as accepting a connection does.
    fn dismiss(&mut self, now: Instant, may_go: impl Fn(&Seat) -> bool) -> bool {
        let candidates = self.taken.iter().filter(|(_, seat)| may_go(seat));
        let idlest = candidates.min_by_key(|(_, seat)| seat.active_at).map(|(number, seat)| (*number, seat.active_at));
        let Some((number, _)) = idlest.filter(|(_, active_at)| now.saturating_duration_since(*active_at) >= TENURE)
        else {
            return false;
        };
        if let Some(seat) = self.taken.remove(&number) {
            seat.leave.notify_one();
        }
        true
    }
}

/// One connection's place; given back when dropped.
pub(super) struct Place {
    places: Places,
    number: u64,
    transport: Transport,
    leave: Rc<Notify>,
}

impl Place {
    /// The connection was last of use at `at`.
    pub(super) fn keep(&self, at: Instant) {
        if let Some(seat) = self.places.0.seats.borrow_mut().taken.get_mut(&self.number) {
            seat.active_at = at;
        }
    }

    /// Waits until the place is needed for somebody else. May be cancelled.
    pub(super) async fn dismissed(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.seats.borrow_mut().taken.remove(&self.number);
        self.places.0.tally.closed(self.transport);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    const LIMITS: Limits =
        Limits { connections: 64, connections_per_prefix: 16, idle_timeout: Duration::from_secs(10) };

    fn places() -> (Places, Instant) {
        (Places::new(LIMITS, Arc::default()), Instant::now())
    }

    fn host(a: u8, b: u8) -> IpAddr {
        IpAddr::from([198, 18, a, b])
    }

    /// Whether the place's owner is told to go; it is told once.
    fn is_dismissed(place: &Place) -> bool {
        let mut dismissed = pin!(place.dismissed());
        dismissed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn no_prefix_takes_all_places_and_places_come_back() {
        let (places, now) = places();
        let enter = |a, b| places.enter(host(a, b), Transport::Tcp, now);
        let held: Vec<Place> = (0..=255).filter_map(|b| enter(0, b).ok()).collect();
        assert_eq!(held.len(), 16);
        assert_eq!(enter(0, 0).err(), Some(Refusal::Prefix));
        let others: Vec<Place> = (1..=255).filter_map(|a| enter(a, 0).ok()).collect();
        assert_eq!(held.len() + others.len(), 64);
        assert_eq!(enter(255, 0).err(), Some(Refusal::Full));
        assert_eq!(places.0.tally.open(Transport::Tcp), 64);
        drop((held, others));
        assert!(places.0.seats.borrow().taken.is_empty());
        assert_eq!(places.0.tally.open(Transport::Tcp), 0);
    }

    #[test]
    fn when_all_are_taken_the_idlest_goes_but_nobody_within_its_tenure() {
        let (places, start) = places();
        let at = |ms| start + Duration::from_millis(ms);
        let held: Vec<Place> =
            (0..64).map(|a| places.enter(host(a, 0), Transport::Tcp, at(u64::from(a))).expect("a place")).collect();
        held[0].keep(at(100));
        assert_eq!(places.enter(host(99, 0), Transport::Tls, at(500)).err(), Some(Refusal::Full));
        let newcomer = places.enter(host(99, 0), Transport::Tls, at(501)).expect("the place of number 1");
        let gone: Vec<usize> = (0..64).filter(|number| is_dismissed(&held[*number])).collect();
        assert_eq!(gone, [1]);
        assert_eq!(places.enter(host(98, 0), Transport::Tls, at(501)).err(), Some(Refusal::Full));
        assert!(!is_dismissed(&newcomer));
        assert_eq!(places.0.seats.borrow().taken.len(), 64);
        drop(held);
        assert_eq!(places.0.seats.borrow().taken.len(), 1, "one that was dismissed gives nobody else's place back");
    }

    #[test]
    fn a_prefix_with_its_share_takes_places_from_itself_only() {
        let (places, start) = places();
        let other = places.enter(host(1, 0), Transport::Tcp, start).expect("a place");
        let later = start + Duration::from_secs(1);
        let held: Vec<Place> =
            (0..16).map(|b| places.enter(host(0, b), Transport::Tcp, later).expect("a place")).collect();
        let much_later = later + TENURE;
        let newcomer = places.enter(host(0, 99), Transport::Tcp, much_later).expect("a place");
        assert!(!is_dismissed(&other) && is_dismissed(&held[0]));
        drop((newcomer, held));
    }

    #[test]
    fn the_idle_time_out_shrinks_with_the_places_that_are_left() {
        let (places, now) = places();
        let mut held = Vec::new();
        let mut told = Vec::new();
        for a in 0..64 {
            told.push((places.idle_timeout().as_millis(), places.keepalive()));
            held.push(places.enter(host(a, 0), Transport::Tcp, now).expect("a place"));
        }
        assert_eq!((told[0], told[48]), ((10_000, 100), (10_000, 100)));
        assert_eq!((told[56], told[60]), ((5_000, 50), (2_500, 25)));
        assert_eq!((places.idle_timeout(), places.keepalive()), (TENURE, 0));
        held.pop();
        assert_eq!(places.keepalive(), 6, "rounded down: the client must not count on more");
        let limits = Limits { idle_timeout: Duration::from_secs(10_000), ..LIMITS };
        assert_eq!(Places::new(limits, Arc::default()).keepalive(), u16::MAX);
    }
}
