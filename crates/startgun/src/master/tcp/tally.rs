//! What is counted of connections. Every counter's name is in this file; docs/operations.md explains each.

use super::Transport;
use super::conversation::End;
use super::places::Refusal;
use startgun_core::master::Counters;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A listener could not accept, for lack of descriptors or memory.
pub(super) const ACCEPTS_FAILED: &str = "accepts_failed";
/// A zone was sent, or begun to be.
pub(super) const TRANSFERS: &str = "transfers_out";
/// A TLS handshake was finished.
pub(super) const HANDSHAKES: &str = "tls_handshakes";
/// It resumed an earlier session.
pub(super) const HANDSHAKES_RESUMED: &str = "tls_handshakes_resumed";
/// A TLS handshake took too long.
pub(super) const HANDSHAKES_TIMED_OUT: &str = "tls_handshakes_failed_timeout";

/// Counters since the start, and the connections that are open. The thread that serves writes them, `status` reads them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counters: Mutex<Counters>,
    open: [AtomicUsize; 2],
}

impl Tally {
    /// Adds one to a counter.
    pub(super) fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds to a counter.
    pub(super) fn add(&self, name: &'static str, count: u64) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += count;
    }

    /// All counters that have counted.
    pub(super) fn counters(&self) -> Counters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection has a place.
    pub(super) fn opened(&self, transport: Transport) {
        self.open[transport as usize].fetch_add(1, Ordering::Relaxed);
        self.count(match transport {
            Transport::Tcp => "connections_tcp",
            Transport::Tls => "connections_tls",
        });
    }

    /// It has ended.
    pub(super) fn closed(&self, transport: Transport) {
        self.open[transport as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that are open now.
    pub(super) fn open(&self, transport: Transport) -> usize {
        self.open[transport as usize].load(Ordering::Relaxed)
    }
}

/// Counts queries.
pub(super) fn queries(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "queries_tcp",
        Transport::Tls => "queries_tls",
    }
}

/// Counts newcomers without a place.
pub(super) fn refusals(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Full => "connections_refused_full",
        Refusal::Prefix => "connections_refused_prefix",
    }
}

/// Counts ends of connections.
pub(super) fn ends(end: End) -> &'static str {
    match end {
        End::Finished => "connections_finished",
        End::Idle => "connections_closed_idle",
        End::SlowMessage => "connections_closed_slow_message",
        End::Unread => "connections_closed_unread",
        End::Malformed => "connections_closed_malformed",
        End::QueryLimit => "connections_closed_query_limit",
        End::NoMemory => "connections_closed_memory",
        End::Evicted => "connections_closed_for_another",
        End::Broken => "connections_broken",
    }
}

/// Counts handshakes that failed, by what rustls or the system said.
pub(super) fn handshake_failures(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoApplicationProtocol) => "tls_handshakes_failed_alpn",
        Some(rustls::Error::PeerIncompatible(_)) => "tls_handshakes_failed_incompatible",
        Some(rustls::Error::AlertReceived(_)) => "tls_handshakes_failed_alert",
        Some(_) => "tls_handshakes_failed_malformed",
        None => "tls_handshakes_failed_broken",
    }
}
