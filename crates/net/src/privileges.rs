//! Giving up what is only needed for set-up.

use crate::check;
use std::ffi::CString;
use std::io;

/// Whether this process is root, perhaps only within its user namespace.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Becomes `user`, with its groups, for good: no program that this process starts can gain more either. A process that
/// is that user already only gives up its capabilities. Call it before other threads are started: capabilities belong to
/// a thread.
///
/// # Errors
/// When there is no such user, or the kernel refuses.
pub fn drop_to(user: &str) -> io::Result<()> {
    let name = CString::new(user).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `name` is a C string; the result is null or valid until the next call. No other thread looks up users.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    if entry.is_null() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such user"));
    }
    // SAFETY: not null, see above.
    let (uid, gid) = unsafe { ((*entry).pw_uid, (*entry).pw_gid) };
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != uid {
        // SAFETY: `name` is a C string.
        check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
        // SAFETY: takes numbers only.
        check(unsafe { libc::setresgid(gid, gid, gid) })?;
        // SAFETY: takes numbers only.
        check(unsafe { libc::setresuid(uid, uid, uid) })?;
    }
    drop_capabilities()
}

/// Gives up every capability of this thread, and with it of every thread that it starts, unless it is root.
///
/// # Errors
/// The kernel's.
pub fn drop_capabilities() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    if is_root() {
        return Ok(());
    }
    // SAFETY: PR_CAP_AMBIENT takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [[0u32; 3]; 2];
    // SAFETY: the header and two empty sets of three words each are what version 3 of the call reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    check(result as libc::c_int).map(|_| ())
}

/// capset(2) knows no other version since Linux 2.6.26.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Lets this process take real-time priorities up to `priority` also after it has given up being root.
///
/// # Errors
/// When it may not allow itself that.
pub fn allow_realtime_priority(priority: i32) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: priority as libc::rlim_t, rlim_max: priority as libc::rlim_t };
    // SAFETY: `limit` is valid for reading.
    check(unsafe { libc::setrlimit(libc::RLIMIT_RTPRIO, &raw const limit) }).map(|_| ())
}

/// Lets this process lock its memory also after it has given up being root.
///
/// # Errors
/// When it may not allow itself that.
pub fn allow_memory_locking() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid for reading.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }).map(|_| ())
}

/// Keeps every page of this process in memory, present and future, from when it is first touched.
///
/// Only without a limit (`RLIMIT_MEMLOCK`). Under one the call may succeed, and then every later allocation and every stack
/// that grows beyond it fails: the process would die of being locked.
///
/// # Errors
/// Permission denied where there is a limit, with its size; else the kernel's.
pub fn lock_memory() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    if limit.rlim_cur != libc::RLIM_INFINITY {
        let limit_kib = limit.rlim_cur / 1_024;
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("RLIMIT_MEMLOCK is {limit_kib} KiB, it must be unlimited"),
        ));
    }
    // SAFETY: takes numbers only, and changes nothing that a program can see in its memory.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(|_| ())
}

/// Lets this thread run before every ordinary one (`SCHED_FIFO`).
///
/// # Errors
/// When that is not permitted.
pub fn take_realtime_priority(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: `parameter` is valid for reading; 0 means this thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) }).map(|_| ())
}

/// Keeps this thread on one processor.
///
/// # Errors
/// When there is no such processor.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: `cpu` is within the set, see above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid for reading and named with its true size; 0 means this thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }).map(|_| ())
}
