//! Zone transfers: whole zones (AXFR, RFC 5936), differences (IXFR, RFC 1995), word of changes (NOTIFY, RFC 1996).
//!
//! [`Inbound`] asks a primary for what has changed and reads what it sends, [`Outbound`] writes a zone for who may have it,
//! [`Refresh`] says when to ask, [`Policy`] who may. Bytes come in and go out as arguments; sockets and files are the
//! caller's. A peer is believed in nothing: what it sends is bounded, must be about the zone, and counts only when its
//! end has come.

mod inbound;
mod outbound;
mod policy;
mod refresh;
#[cfg(test)]
mod tests;

pub use inbound::{Change, Event, Form, Inbound, Limits, Outcome, TransferError};
pub use outbound::{Outbound, single_soa};
pub use policy::{Network, Peer, Policy, Reader, ZonePolicy};
pub use refresh::{Refresh, SoaTimers, Timer};

/// Whether serial `new` is after `old` (RFC 1982 section 3.2). Half the numbers apart, neither is after the other.
pub fn is_newer(new: u32, old: u32) -> bool {
    let ahead = new.wrapping_sub(old);
    ahead != 0 && ahead < 1 << 31
}

/// A NOTIFY request for a zone's SOA record (RFC 1996 section 3.7), to be answered within seconds.
pub fn notify_request(apex: &super::CanonicalName, id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // Opcode 4, AA.
    message.extend_from_slice(&[0x24, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(apex.as_bytes());
    message.extend_from_slice(&[0, 6, 0, 1]);
    message
}
