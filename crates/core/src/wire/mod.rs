//! The fast path: what master and agents tell each other in UDP datagrams, sealed.
//!
//! **Problem.** An order must reach every site within one network delay, from an authenticated master, once; and
//! the same goes for the exchanges that set clocks. **Why the obvious answers fail.** TLS over TCP waits for lost
//! segments; QUIC datagrams may be held back by pacing and congestion control. **Sketch.** Plain UDP, one AEAD
//! seal per datagram ([`session`]), several [frames](frame) within, keyed by the control channel's TLS session the
//! way NTS keys NTP (RFC 8915). Nothing is ever resent here: a race does not wait.

mod codec;
pub mod frame;
pub mod session;

pub use codec::WireError;
pub use frame::{Frame, Order, Receipt, ReceiptOutcome, TransmitIdentifier};
pub use session::{Binding, Direction, OpenError, Opener, Sealer, SessionId};

/// Most bytes of a fast-path datagram: within IPv6's least MTU (1,280) less IPv6 and UDP headers (48), rounded
/// down.
pub const MAX_DATAGRAM: usize = 1_200;
