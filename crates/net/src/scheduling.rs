//! Which processors there are, and which of them a thread may run on.

use std::io;
use std::mem;

/// How many processors this process may use; 1 when the kernel does not say.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread on one processor, counted from 0.
///
/// # Errors
/// `InvalidInput` for a number beyond what the kernel's set holds (1,024); else the system call's error: `EINVAL` for a
/// processor that does not exist or that this process may not use.
pub fn pin_to_processor(processor: usize) -> io::Result<()> {
    if processor >= libc::CPU_SETSIZE as usize {
        let message = format!("processor {processor}: expected less than {}", libc::CPU_SETSIZE);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // SAFETY: cpu_set_t is a plain C struct for which all zeroes (no processor) is a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `processor` is below CPU_SETSIZE, so the bit lies inside the set.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: thread 0 is the calling one; the pointer is to a set of the size given, alive during the call.
    crate::check(unsafe {
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw const set)
    })
    .map_err(|error| crate::explain(error, format_args!("pinning to processor {processor}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_sees_one_processor() {
        assert!(processors() >= 1);
        std::thread::spawn(|| {
            // SAFETY: sched_getcpu takes no arguments.
            let here = unsafe { libc::sched_getcpu() };
            pin_to_processor(here as usize).unwrap();
            assert_eq!(processors(), 1);
        })
        .join()
        .unwrap();
        assert_eq!(pin_to_processor(5_000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
