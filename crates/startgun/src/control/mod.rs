//! The control channel between masters and agents.

pub mod channel;
pub mod tls;
