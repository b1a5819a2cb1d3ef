//! The control channel between masters and agents.

pub mod tls;
