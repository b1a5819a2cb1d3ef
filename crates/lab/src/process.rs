//! Child processes that never outlive the lab.
//!
//! A lab that is killed cannot clean up, and the kernel's own means (`PR_SET_PDEATHSIG`) watches the parent *thread* and
//! needs unsafe code before `exec`. Instead all children share one process group, led by a tiny shell that waits on a
//! pipe from the lab: when the lab ends, however it ends, the pipe closes and the shell kills the group.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a process that is asked to stop is looked at.
const STOP_LOOK: Duration = Duration::from_millis(5);

/// A process group that ends when the lab does.
#[derive(Debug)]
pub struct ProcessGroup {
    watchdog: Child,
}

impl ProcessGroup {
    /// Starts the group's leader.
    ///
    /// # Errors
    /// The error of starting `/bin/sh`.
    pub fn start() -> io::Result<Self> {
        let watchdog = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -KILL 0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { watchdog })
    }

    /// Starts `command` in the group, from the calling thread, whose network namespace it inherits. Its standard input is
    /// empty: a background process that reads the terminal would be stopped.
    ///
    /// # Errors
    /// The error of starting it, with its name.
    pub fn spawn(&self, mut command: Command) -> io::Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let leader = i32::try_from(self.watchdog.id()).map_err(io::Error::other)?;
        let child = command
            .stdin(Stdio::null())
            .process_group(leader)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {program}: {error}")))?;
        Ok(Process { child, program })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // The shell kills the group, itself included.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A child process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    program: String,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program's name, as given.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The child itself, for its piped output.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The system call's error.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal. To one that has ended and was waited for, nothing is sent.
    ///
    /// # Errors
    /// The system call's error.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Asks it to end (SIGTERM), waits for at most `patience`, then kills it.
    ///
    /// # Errors
    /// The system call's error.
    pub fn stop(mut self, patience: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(STOP_LOOK);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    }

    #[test]
    fn the_group_takes_its_processes_along() {
        let group = ProcessGroup::start().unwrap();
        let mut process = group.spawn(sleeper()).unwrap();
        assert_eq!(process.try_wait().unwrap(), None);
        drop(group);
        let deadline = Instant::now() + Duration::from_secs(5);
        while process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it outlived its group");
            thread::sleep(STOP_LOOK);
        }
    }

    #[test]
    fn a_stopped_process_has_its_own_status_and_a_missing_one_its_name_in_the_error() {
        use std::os::unix::process::ExitStatusExt;
        let group = ProcessGroup::start().unwrap();
        let process = group.spawn(sleeper()).unwrap();
        let status = process.stop(Duration::from_secs(5)).unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        let error = group.spawn(Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"));
    }
}
