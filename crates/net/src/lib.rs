//! Startgun's Linux layer: everything that touches sockets, kernel clocks and threads, and all `unsafe` of the project.
//!
//! **Problem.** A race is won or lost by microseconds, so a packet's times must be the kernel's, not those at which a
//! thread happened to wake, and a departure must leave at an instant, not "soon after a timer".
//!
//! **Why the obvious answer fails.** The standard library's sockets give no timestamps and one packet per system call;
//! an async timer is a millisecond coarse; a plain sleep wakes about 100 µs late; a connected socket loses sends after
//! an ICMP error, which the losers of races cause all day.
//!
//! **Sketch.**
//! * [`host_clock`]: reads this host's monotonic clock and crosses between it and the kernel's other clocks.
//! * [`udp`]: batched, unconnected UDP with kernel timestamps both ways, also from addresses that are not local.
//! * [`poll`]: waits for several sockets and a waker.
//! * [`departure`]: the thread that lets answers leave at their instant and says when they really did.
//! * [`observer`]: hears datagrams that the kernel drops because they claim this host's own address.
//! * [`packet`]: whole Ethernet frames, for the lab's emulator.
//! * [`privileges`], [`scheduling`]: what a server does once, at start.
//!
//! Nothing here decides anything: decisions are `startgun-core`'s, which this crate uses for its time types only.

mod address;
pub mod departure;
pub mod host_clock;
pub mod observer;
pub mod packet;
pub mod poll;
pub mod privileges;
pub mod scheduling;
pub mod udp;

/// Turns a system call's −1 into the error it left in `errno`.
fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Keeps the error's kind and number in sight while saying what was being done.
fn explain(error: std::io::Error, what: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{what}: {error}"))
}
