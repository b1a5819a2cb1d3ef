//! Waiting for packets, messages and timers at once.

use crate::check;
use crate::host_clock::monotonic_ns;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Descriptors in one call: 64 service addresses, the fast path, a waker.
pub const MAX_DESCRIPTORS: usize = 96;

/// Wakes a thread that waits; an eventfd.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Waker {
    /// A waker that nobody has woken yet.
    ///
    /// # Errors
    /// Where the kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes numbers only.
        let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor is fresh and nobody else's.
        Ok(Waker(Arc::new(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }

    /// Wakes whoever waits, now or next.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`. A counter that is full is as good as woken.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Takes back what was woken so far. Call before looking for work, so that none is missed.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`. Nothing to read is not an error here.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

/// Which descriptors of a [`wait`] have something, by their places: a bit for each, more than [`MAX_DESCRIPTORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready(u128);

impl Ready {
    /// None: the deadline came first.
    pub const NONE: Ready = Ready(0);
    /// Every one may have something, as far as is known.
    pub const ALL: Ready = Ready(u128::MAX);

    /// Whether the descriptor at this place has something; `false` from [`MAX_DESCRIPTORS`] on.
    pub fn has(self, place: usize) -> bool {
        place < MAX_DESCRIPTORS && self.0 >> place & 1 != 0
    }
}

/// Waits until one of the descriptors is readable (or has transmit timestamps), or until `CLOCK_MONOTONIC` shows the
/// deadline: [`Ready::NONE`], as after a signal. The kernel adds a slack of 0.1 % to the time-out.
///
/// # Errors
/// The kernel's; a signal is none.
///
/// # Panics
/// With more than [`MAX_DESCRIPTORS`].
pub fn wait(descriptors: &[BorrowedFd<'_>], deadline_monotonic_ns: Option<i64>) -> io::Result<Ready> {
    assert!(descriptors.len() <= MAX_DESCRIPTORS, "{} descriptors", descriptors.len());
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MAX_DESCRIPTORS];
    for (polled, descriptor) in polled.iter_mut().zip(descriptors) {
        polled.fd = descriptor.as_raw_fd();
    }
    let timeout = deadline_monotonic_ns.map(|deadline| {
        let left = deadline.saturating_sub(monotonic_ns()).max(0);
        libc::timespec { tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000 }
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as many pollfds as named are valid, the time-out is null or valid, and no signal mask is given.
    let ready =
        unsafe { libc::ppoll(polled.as_mut_ptr(), descriptors.len() as libc::nfds_t, timeout, std::ptr::null()) };
    match check(ready) {
        Ok(_) => {
            let polled = polled.iter().take(descriptors.len()).enumerate();
            let has = |(place, polled): (usize, &libc::pollfd)| u128::from(polled.revents != 0) << place;
            Ok(Ready(polled.map(has).sum()))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Ready::NONE),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_wakes_once_until_cleared() {
        let waker = Waker::new().expect("an eventfd");
        let soon = || Some(monotonic_ns() + 5_000_000);
        assert_eq!(wait(&[waker.as_fd()], soon()).expect("waited"), Ready::NONE);
        waker.wake();
        waker.wake();
        assert!(wait(&[waker.as_fd()], None).expect("waited").has(0));
        waker.clear();
        assert_eq!(wait(&[waker.as_fd()], soon()).expect("waited"), Ready::NONE);
    }

    #[test]
    fn a_wait_says_which_descriptor_has_something() {
        let wakers: Vec<Waker> = (0..MAX_DESCRIPTORS).map(|_| Waker::new().expect("an eventfd")).collect();
        let descriptors: Vec<BorrowedFd<'_>> = wakers.iter().map(AsFd::as_fd).collect();
        let woken = [1, 64, MAX_DESCRIPTORS - 1];
        woken.iter().for_each(|place| wakers[*place].wake());
        let ready = wait(&descriptors, None).expect("waited");
        let has: Vec<usize> = (0..2 * MAX_DESCRIPTORS).filter(|place| ready.has(*place)).collect();
        assert_eq!(has, woken);
        assert!((0..MAX_DESCRIPTORS).all(|place| Ready::ALL.has(place)));
    }
}
