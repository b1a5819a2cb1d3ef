//! Bugs that are planted on purpose, so that the fault search can be tried: does it find them?
//!
//! Without the feature `planted-bugs` [`active`] is constantly `false` and nothing of this is left in the program. With it
//! a thread may switch one bug on for itself. Only tests of `startgun-sim` enable the feature.

/// A bug, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An answer departs a millisecond before T (`Agent::instant`).
    DepartureTooEarly,
    /// An agent races whatever its bound (`Link::clock_fault`).
    BoundIgnored,
    /// The newest datagram of a stream can be opened again (`Opener::is_replayed`).
    ReplayWindowOffByOne,
    /// An order is answered by the playbook before the one that it names (`Link::playbook`).
    StalePlaybook,
    /// A session's keys end when its successor comes (`Link::add_session`).
    KeyRotationGap,
    /// An amendment leaves the answer to the query before in place (`Agent::accept`).
    AmendedTwice,
    /// The table of orders takes whatever comes (`Agent::accept`).
    TableWithoutLimit,
    /// A contradiction does not reset the clock (`RaceClock::take`).
    StepIgnored,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 8] = [
        Bug::DepartureTooEarly,
        Bug::BoundIgnored,
        Bug::ReplayWindowOffByOne,
        Bug::StalePlaybook,
        Bug::KeyRotationGap,
        Bug::AmendedTwice,
        Bug::TableWithoutLimit,
        Bug::StepIgnored,
    ];
}

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static ACTIVE: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Switches a bug on, or all of them off, for this thread.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    ACTIVE.set(bug);
}

/// Whether a bug is switched on.
#[cfg(feature = "planted-bugs")]
pub fn active(bug: Bug) -> bool {
    ACTIVE.get() == Some(bug)
}

/// Whether a bug is switched on: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn active(_: Bug) -> bool {
    false
}
