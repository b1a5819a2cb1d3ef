//! Startgun on Linux: what the core decides, done with real packets and clocks.
//!
//! Everything `unsafe` of the project is in this crate, each block with its reason. [`udp`] moves packets in batches with
//! the kernel's timestamps, [`departure`] lets them leave at an instant, [`host_clock`] reads the clocks, [`continuity`] sees
//! when they broke, [`host_time`] knows of UTC, [`observer`] sees what the kernel would not deliver, [`packet`] is the lab's
//! way to whole frames, [`poll`] waits, [`privileges`] gives up.

pub mod continuity;
pub mod departure;
pub mod host_clock;
pub mod host_time;
pub mod observer;
pub mod packet;
pub mod poll;
pub mod privileges;
pub mod udp;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A system call's result: −1 is an error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Sets a socket option to a plain value, as the kernel defines it.
fn set_option<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: `value` is valid for reading and named with its true size; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as libc::socklen_t)
    };
    check(result).map(|_| ())
}
