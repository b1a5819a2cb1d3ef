//! Which sources a clock listens to, and which of them decided.

use serde::{Deserialize, Serialize};

/// Which sources of time count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// All that can be believed: exchanges with the master, the mesh, and the host's own clock; their intervals are
    /// intersected.
    #[default]
    Auto,
    /// The host's own clock alone; exchanges with the master only check it.
    Host,
    /// Exchanges with the master and the mesh; the host's own clock is not asked.
    Master,
}

/// Who said which instant is the likely one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// Two-way exchanges with the master.
    Exchanges,
    /// The same, with the asymmetry of the path as the mesh sees it.
    Mesh,
    /// The host's own clock: its interval is narrower than what the exchanges prove.
    Host,
    /// Synchronisation signals, with the propagation that the operator vouches for.
    Signals,
}

impl Decided {
    /// The source in words.
    pub fn text(self) -> &'static str {
        match self {
            Decided::Exchanges => "exchanges with the master",
            Decided::Mesh => "exchanges, corrected by the mesh",
            Decided::Host => "the host's clock",
            Decided::Signals => "synchronisation signals",
        }
    }
}
