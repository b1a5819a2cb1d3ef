//! Waiting for several sockets at once, and waking such a wait from another thread.
//!
//! A server's thread waits for its sockets, for its next deadline and for other threads' messages. Channels cannot be
//! polled, so a message is put into a queue and a [`Waker`] (an eventfd) makes the wait return.
//!
//! `ppoll` may oversleep by 0.1 % of the time-out whatever the thread's timer slack is: good for protocol timers, not
//! for departures (those have [`crate::departure`], which uses a timer of its own).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::host_clock::{monotonic_now_ns, timespec};

/// Most descriptors of one [`wait`]: one bit each in [`Ready`].
pub const DESCRIPTORS_MAX: usize = 64;

/// Wakes a thread in [`wait`]. Clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker {
    eventfd: Arc<OwnedFd>,
}

impl Waker {
    /// A new waker; put its descriptor among those to wait for.
    ///
    /// # Errors
    /// The system call's error: too many open files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let raw = crate::check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
            .map_err(|error| crate::explain(error, "eventfd"))?;
        // SAFETY: eventfd succeeded, so `raw` is a descriptor that nothing else owns.
        let eventfd = Arc::new(unsafe { OwnedFd::from_raw_fd(raw) });
        Ok(Self { eventfd })
    }

    /// Makes the waker's descriptor readable until [`Waker::clear`]. Many wakes before a clear are one.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // The only failure is EAGAIN, when the counter is full: then it is readable anyway.
        // SAFETY: the pointer is to the 8 bytes whose length is given.
        unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the wakes so far; returns whether there were any. Call it before looking into the queue it speaks for.
    pub fn clear(&self) -> bool {
        let mut count = [0_u8; 8];
        // SAFETY: the pointer is to 8 writable bytes.
        let read = unsafe {
            libc::read(self.eventfd.as_raw_fd(), count.as_mut_ptr().cast(), count.len())
        };
        read == 8
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// Which of the descriptors given to [`wait`] have something, by their place in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    readable: u64,
    error: u64,
}

impl Ready {
    /// Whether nothing is ready: the deadline passed or a signal came.
    pub fn is_empty(self) -> bool {
        self.readable | self.error == 0
    }

    /// Whether descriptor `index` can be read.
    pub fn readable(self, index: usize) -> bool {
        index < DESCRIPTORS_MAX && self.readable >> index & 1 == 1
    }

    /// Whether descriptor `index` has an error or unread transmit timestamps. Until they are drained every wait returns
    /// at once.
    pub fn error(self, index: usize) -> bool {
        index < DESCRIPTORS_MAX && self.error >> index & 1 == 1
    }
}

/// Waits until a descriptor is ready or `CLOCK_MONOTONIC` reads `deadline_monotonic_ns` (`None`: for ever).
///
/// A signal ends it early with nothing ready. It may end late by 0.1 % of the wait and the thread's timer slack.
///
/// # Errors
/// The system call's error.
///
/// # Panics
/// With more than [`DESCRIPTORS_MAX`] descriptors.
pub fn wait(
    descriptors: &[BorrowedFd<'_>],
    deadline_monotonic_ns: Option<i64>,
) -> io::Result<Ready> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX, "more than {DESCRIPTORS_MAX} descriptors");
    let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; DESCRIPTORS_MAX];
    for (to, descriptor) in polled.iter_mut().zip(descriptors) {
        *to = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    }
    let timeout = deadline_monotonic_ns
        .map(|deadline_ns| timespec(deadline_ns.saturating_sub(monotonic_now_ns()).max(0)));
    let timeout_pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` holds at least as many elements as the count says; the timespec, if any, outlives the call; there is
    // no signal mask.
    let result = crate::check(unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            descriptors.len() as libc::nfds_t,
            timeout_pointer,
            std::ptr::null(),
        )
    });
    match result {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Ready::default()),
        Err(error) => return Err(crate::explain(error, "ppoll")),
    }
    let mut ready = Ready::default();
    for (index, descriptor) in polled.iter().take(descriptors.len()).enumerate() {
        let bit = |events: libc::c_short| u64::from(descriptor.revents & events != 0) << index;
        ready.readable |= bit(libc::POLLIN | libc::POLLHUP);
        ready.error |= bit(libc::POLLERR | libc::POLLNVAL);
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    #[test]
    fn a_wake_from_another_thread_ends_the_wait_and_lasts_until_cleared() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.wake();
            other.wake();
        });
        let started = Instant::now();
        let deadline_ns = monotonic_now_ns() + 10_000_000_000;
        let ready = wait(&[waker.as_fd()], Some(deadline_ns)).unwrap();
        assert!(ready.readable(0) && !ready.error(0));
        assert!(started.elapsed() < Duration::from_secs(9));
        thread.join().unwrap();
        assert!(wait(&[waker.as_fd()], None).unwrap().readable(0));
        assert!(waker.clear());
        assert!(!waker.clear());
        assert!(wait(&[waker.as_fd()], Some(0)).unwrap().is_empty());
    }

    #[test]
    fn the_deadline_ends_the_wait_and_the_right_socket_is_named() {
        let quiet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let spoken_to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fds = [quiet.as_fd(), spoken_to.as_fd()];
        let deadline_ns = monotonic_now_ns() + 5_000_000;
        assert!(wait(&fds, Some(deadline_ns)).unwrap().is_empty());
        assert!(monotonic_now_ns() >= deadline_ns);
        quiet.send_to(b"x", spoken_to.local_addr().unwrap()).unwrap();
        let ready = wait(&fds, None).unwrap();
        assert!(!ready.readable(0) && ready.readable(1));
    }
}
