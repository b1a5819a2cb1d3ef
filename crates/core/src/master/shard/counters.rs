//! What a shard counts: an array by kind, because looking a name up for every query would cost more than the counting.

use crate::wire::OpenError;
use std::collections::BTreeMap;

macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($kind,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

kinds! {
    Queries "queries",
    Ignored "queries_ignored",
    Malformed "queries_malformed",
    Duplicate "queries_duplicate",
    RepeatedIgnored "queries_repeated_ignored",
    RepeatedAnswered "queries_repeated_answered",
    Amended "queries_amended",
    DroppedRate "queries_dropped_rate",
    Central "answers_central",
    Truncated "answers_truncated",
    BadCookie "answers_bad_cookie",
    ValidCookie "queries_with_valid_cookie",
    Fallback "answers_fallback",
    FallbackNoAgent "answers_fallback_no_agent",
    FallbackBudget "answers_fallback_budget",
    FallbackTableFull "answers_fallback_table_full",
    FallbackAllRefused "answers_fallback_all_refused",
    FallbackNotSignalled "answers_fallback_not_signalled",
    FallbackNoReceipts "answers_fallback_no_receipts",
    Races "races",
    Orders "orders",
    OrdersByAfter "orders_by_after",
    OrdersWithheld "orders_withheld",
    SignalsSent "signals_sent",
    Exchanges "exchanges",
    ReceiptsDeparted "receipts_departed",
    ReceiptsNotDeparted "receipts_not_departed",
    DatagramMalformed "datagram_malformed",
    DatagramForged "datagram_forged",
    DatagramReplayed "datagram_replayed",
    DatagramUnknownSession "datagram_unknown_session",
}

impl From<OpenError> for Kind {
    fn from(error: OpenError) -> Kind {
        match error {
            OpenError::Malformed => Kind::DatagramMalformed,
            OpenError::Forged => Kind::DatagramForged,
            OpenError::Replayed => Kind::DatagramReplayed,
        }
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub(super) struct Counts([u64; NAMES.len()]);

impl Counts {
    pub(super) fn new() -> Self {
        Counts([0; NAMES.len()])
    }

    pub(super) fn count(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub(super) fn add(&mut self, kind: Kind, by: u64) {
        self.0[kind as usize] += by;
    }

    /// By name, what never happened left out.
    pub(super) fn by_name(&self) -> BTreeMap<&'static str, u64> {
        NAMES.iter().copied().zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}
