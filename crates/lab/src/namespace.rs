//! Network namespaces without root, and threads that live in them.
//!
//! **Problem.** Every host of the lab needs a network of its own, for root as well as for an ordinary user, and
//! real programs have to be started inside it.
//!
//! **Why the obvious answer fails.** `ip netns add` needs root and a writable `/run`. Changing the namespace in a
//! child between `fork` and `exec` needs unsafe code, and a process that changes it for itself drags its other work along.
//!
//! **Sketch.** A network namespace belongs to a *thread*. [`Namespace::create`] starts a thread that takes a new one
//! and then waits for work: whatever it opens is in the namespace, and the threads and processes it starts are born
//! there. An ordinary user first becomes root of a user namespace ([`enter_user_namespace_if_needed`]); that is only
//! possible while the process has a single thread, so it is the first thing that a program does.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use thiserror::Error;

/// Jobs that may wait for one namespace's thread; callers of [`Namespace::run`] wait for their result, so that only as
/// many wait as there are calling threads.
const JOBS_WAITING_MAX: usize = 64;

/// How the process came by the right to make network namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It had it (root, or root of a user namespace already).
    AsRoot,
    /// It became root of a new user namespace, in which its own user is the only one.
    UserNamespace,
}

/// Why the lab cannot have network namespaces.
#[derive(Debug, Error)]
pub enum EnterError {
    /// The kernel or the system's policy refuses.
    #[error("cannot make a user and network namespace ({errno}): {missing}")]
    Refused {
        /// The system call's error.
        errno: Errno,
        /// What is missing, and what an administrator can do about it.
        missing: String,
    },
    /// Called too late: the process already has several threads.
    #[error("cannot make a user namespace: the process already has several threads")]
    SeveralThreads,
    /// The user namespace was made, but one of its files cannot be written.
    #[error("cannot write {file:?} to {path}: {source}")]
    Map {
        /// The file under `/proc/self`.
        path: &'static str,
        /// What was to be written.
        file: String,
        /// The system call's error.
        source: io::Error,
    },
    /// The mounts cannot be made private.
    #[error("cannot make the mounts private: {errno}{}", hint_suffix())]
    Mounts {
        /// The system call's error.
        errno: Errno,
    },
}

fn hint_suffix() -> String {
    apparmor_hint().map_or_else(String::new, |hint| format!(" ({hint})"))
}

/// Moves this process into network and mount namespaces of its own, and into a user namespace where that takes one.
///
/// To be called while the process has a single thread. Afterwards the process is uid 0 in its namespace, can make
/// further network namespaces, and nothing that it mounts or configures reaches the rest of the machine.
///
/// # Errors
/// [`EnterError`], whose text names what is missing.
pub fn enter_user_namespace_if_needed() -> Result<Entered, EnterError> {
    let plain = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if geteuid().is_root() && unshare(plain).is_ok() {
        make_mounts_private()?;
        return Ok(Entered::AsRoot);
    }
    // Inside the new user namespace both are 65534 until the maps are written: ask before.
    let (uid, gid) = (geteuid(), getegid());
    unshare(plain | CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
        Errno::EINVAL if thread_count() > 1 => EnterError::SeveralThreads,
        errno => EnterError::Refused { errno, missing: what_is_missing(errno) },
    })?;
    // user_namespaces(7): setgroups has to be denied before an unprivileged process may write gid_map.
    write_proc("/proc/self/setgroups", "deny".to_owned())?;
    write_proc("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write_proc("/proc/self/gid_map", format!("0 {gid} 1"))?;
    make_mounts_private()?;
    Ok(Entered::UserNamespace)
}

fn make_mounts_private() -> Result<(), EnterError> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(|errno| EnterError::Mounts { errno })
}

fn write_proc(path: &'static str, content: String) -> Result<(), EnterError> {
    fs::write(path, &content).map_err(|source| EnterError::Map { path, file: content, source })
}

fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn what_is_missing(errno: Errno) -> String {
    let sysctl = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    if sysctl("/proc/sys/user/max_user_namespaces").is_ok_and(|value| value == "0") {
        return "user namespaces are switched off; root can allow them: sysctl user.max_user_namespaces=10000"
            .to_owned();
    }
    if sysctl("/proc/sys/user/max_net_namespaces").is_ok_and(|value| value == "0") {
        return "network namespaces are switched off; root can allow them: sysctl user.max_net_namespaces=10000"
            .to_owned();
    }
    if sysctl("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|value| value == "0") {
        return "user namespaces are for root only here; root can allow them: sysctl \
                kernel.unprivileged_userns_clone=1"
            .to_owned();
    }
    if let Some(hint) = apparmor_hint() {
        return hint;
    }
    match errno {
        Errno::ENOSPC => "the limit of namespaces is reached (sysctl user.max_user_namespaces)".to_owned(),
        Errno::ENOSYS | Errno::EINVAL => "this kernel has no user namespaces (CONFIG_USER_NS)".to_owned(),
        _ => "run it as root, or where unprivileged user namespaces are allowed (a container's seccomp profile often \
              forbids them)"
            .to_owned(),
    }
}

fn apparmor_hint() -> Option<String> {
    let value = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").ok()?;
    (value.trim() == "1").then(|| {
        "AppArmor keeps user namespaces from unprivileged programs; root can allow them: sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0"
            .to_owned()
    })
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, kept by a thread of its own.
///
/// It goes when this value is dropped and the last process, thread and socket in it is gone.
#[derive(Debug)]
pub struct Namespace {
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    descriptor: File,
}

impl Namespace {
    /// Makes a network namespace, with loopback down, and starts its thread (named `name`, of which the kernel
    /// keeps 15 bytes).
    ///
    /// # Errors
    /// The error of the system call, with the step in its text; `PermissionDenied` when
    /// [`enter_user_namespace_if_needed`] was not called.
    pub fn create(name: &str) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job>(JOBS_WAITING_MAX);
        let (ready, made) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let descriptor = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .map_err(in_step("making a network namespace"))
                .and_then(|()| {
                    File::open("/proc/thread-self/ns/net").map_err(in_step("opening /proc/thread-self/ns/net"))
                });
            let failed = descriptor.is_err();
            if ready.send(descriptor).is_err() || failed {
                return;
            }
            for job in waiting {
                job();
            }
        })?;
        let descriptor = made.recv().map_err(|_| io::Error::other("the namespace's thread died"))??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), descriptor })
    }

    /// Runs `job` on the namespace's thread and returns its result. One job runs at a time: work that lasts belongs on
    /// a thread of its own ([`Self::thread`]).
    ///
    /// # Panics
    /// With the panic of `job`.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // The caller waits below, so that this send fails only if it has been torn down.
            let _ = done.send(catch_unwind(AssertUnwindSafe(job)));
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(sent, "a namespace's thread lives as long as the namespace");
        match result.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => unreachable!("a job always sends its result, even a panic"),
        }
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    /// The system call's error, when no thread can be had.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<thread::JoinHandle<T>> {
        let builder = thread::Builder::new().name(name.to_owned());
        self.run(move || builder.spawn(body))
    }

    /// The descriptor that names this namespace in system calls.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a job went to its caller; nothing else can panic there.
            let _ = thread.join();
        }
    }
}

/// Sets one file under `/proc/sys/net` of the calling thread's network namespace; tells whether that was possible.
///
/// Some containers mount it read-only. Nothing that the lab sets there is indispensable.
pub(crate) fn set_network_sysctl(path: &str, value: &str) -> bool {
    fs::write(Path::new("/proc/sys/net").join(path), value).is_ok()
}

/// Puts the step that failed in front of an error's text and keeps its kind.
pub(crate) fn in_step(step: &str) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{step}: {error}"))
}
