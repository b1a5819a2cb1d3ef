//! What an agent wants done, what becomes of it, and why it refuses.

use crate::clock::Reading;
use crate::control::ToMaster;
use crate::time::{LocalTime, RaceTime};
use crate::wire::SessionId;
use std::net::SocketAddr;

/// Names a pending departure; an amended order reuses the key and so replaces it.
pub type DepartureKey = u64;

/// What the agent wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a datagram on the fast path, now.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
        /// The exchange that this datagram's transmit timestamp belongs to.
        exchange: Option<Stamped>,
    },
    /// Let an answer depart at an instant of the local clock.
    Depart(Departure),
    /// Do not let this one depart, if it has not yet: the clock that its instant was read from was wrong.
    Withdraw(DepartureKey),
    /// Let a self-test's challenge depart from a service address, now.
    Challenge {
        /// The source.
        service: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Say something on the control channel.
    Control {
        /// To which master, by its place in the configuration.
        master: usize,
        /// What.
        message: ToMaster,
    },
    /// Something happened that an auditor wants to know.
    Audit(Audit),
}

/// Whose transmit timestamp a datagram's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamped {
    /// T1 of an exchange with the master at this place in the configuration.
    Request(usize, u32),
    /// T1 of an exchange with a peer.
    PeerRequest(SessionId, u32),
    /// T3 of an exchange that a peer asked for.
    PeerReply(SessionId, u32),
}

/// A timed send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Its name.
    pub key: DepartureKey,
    /// When; in the past means now.
    pub at: LocalTime,
    /// Not sent later than this.
    pub latest: Option<LocalTime>,
    /// The source.
    pub service: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// What became of a [`Departure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepartureOutcome {
    /// It left.
    Departed {
        /// When.
        at: LocalTime,
        /// Whether the kernel said so; otherwise the program's own reading just after sending.
        kernel_stamped: bool,
    },
    /// It would have left after its `latest`, so it did not.
    Late {
        /// When it could have left.
        at: LocalTime,
    },
    /// The kernel refused it, or the queue was full.
    Failed,
}

/// For the auditor: raw facts, in local time, with the reading they rest on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Audit {
    /// A clock reading, taken after an exchange.
    Clock {
        /// Of which master's timeline.
        master: usize,
        /// The reading.
        reading: Reading,
    },
    /// An answer left, or was too late to leave.
    Departure {
        /// For which master.
        master: usize,
        /// The race.
        race: u64,
        /// The order's revision.
        revision: u8,
        /// Where the answer went.
        client: SocketAddr,
        /// T; absent for an order by `After` or for a signal.
        transmit_at: Option<RaceTime>,
        /// What became of it.
        outcome: DepartureOutcome,
        /// The clock at that moment.
        reading: Option<Reading>,
    },
}

/// Why an order is refused; the name is the counter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The clock is not good enough.
    StandingDown,
    /// Neither the current nor the previous playbook.
    UnknownPlaybook,
    /// The playbook has no such name, or the query asks for another.
    UnknownName,
    /// The answer's signature would end while resolvers keep the answer.
    SignatureEnds,
    /// The agent's configuration does not list the service address for this master.
    ForeignService,
    /// The service address has not passed the source self-test.
    UntestedService,
    /// T is beyond the horizon.
    TooFarAhead,
    /// Not a query that can be answered.
    BadQuery,
    /// The destination is multicast, unspecified, or private without leave.
    Destination,
    /// The destination's prefix, or the agent as a whole, has had its share.
    RateLimited,
    /// [`MAX_PENDING`] orders are waiting.
    TableFull,
    /// An order of this race with this or a higher revision was there before.
    Repeated,
    /// The amendment came when the answer was leaving.
    AmendedTooLate,
}

impl Refusal {
    /// The counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::StandingDown => "order_refused_standing_down",
            Refusal::UnknownPlaybook => "order_refused_unknown_playbook",
            Refusal::UnknownName => "order_refused_unknown_name",
            Refusal::SignatureEnds => "order_refused_signature_ends",
            Refusal::ForeignService => "order_refused_foreign_service",
            Refusal::UntestedService => "order_refused_untested_service",
            Refusal::TooFarAhead => "order_refused_too_far_ahead",
            Refusal::BadQuery => "order_refused_bad_query",
            Refusal::Destination => "order_refused_destination",
            Refusal::RateLimited => "order_refused_rate_limited",
            Refusal::TableFull => "order_refused_table_full",
            Refusal::Repeated => "order_refused_repeated",
            Refusal::AmendedTooLate => "order_refused_amended_too_late",
        }
    }
}
