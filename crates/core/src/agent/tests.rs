//! An agent by itself, against datagrams that are sealed by hand; its master is a table of keys and a fixed offset.

mod bench;
mod masters;
mod orders;
mod timing;
