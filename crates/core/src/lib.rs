//! Startgun's core: everything that decides, nothing that touches the world.
#![forbid(unsafe_code)]
pub mod time;
