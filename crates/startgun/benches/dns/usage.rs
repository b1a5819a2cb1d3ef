//! What a server takes of the machine: processor time and memory, and the core that it is kept on.
//!
//! **Processor time** is what the scheduler counted while a thread ran, in nanoseconds: the first number of
//! `/proc/PID/task/TID/schedstat`, summed over all threads of all of a server's processes. It is what `user + system` are
//! derived from, without their ticks of 10 ms. What the kernel does in a server's context, delivery on loopback included,
//! is in it, the same for all servers.
//!
//! **Resident memory**: the greatest process's, and of the others what they do not share with anybody. NSD forks, and
//! the sum of all would count its zones twice.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use startgun_net::privileges::pin_to_cpu;

/// Which core is whose.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Of what is measured.
    pub measured: usize,
    /// Of everybody else: the load, the agents, this program.
    pub load: usize,
}

impl Cores {
    /// The first and the last of those that this process may use; interrupts mostly go to the first.
    ///
    /// # Errors
    /// Where there is only one.
    pub fn choose() -> Result<Self, String> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(|error| format!("sched_getaffinity: {error}"))?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        match (cores.next(), cores.next_back()) {
            (Some(load), Some(measured)) => Ok(Cores { measured, load }),
            _ => Err("needs two processors: one for the server, one for the load".into()),
        }
    }

    /// Keeps this thread, and whatever it starts from now on, on the load's core.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stay_with_load(self) -> io::Result<()> {
        pin_to_cpu(self.load)
    }

    /// Runs `job` on the measured core; what it starts stays there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn on_measured<T: Send>(self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let pinned = scope.spawn(|| pin_to_cpu(self.measured).map(|()| job()));
            pinned.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A server's processes.
#[derive(Clone, Debug)]
pub struct Usage {
    processes: Vec<u32>,
}

impl Usage {
    /// A process and all its descendants, as they are now.
    pub fn of(root: u32) -> Self {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = parent_of(process) {
                children.entry(parent).or_default().push(process);
            }
        }
        let mut processes = vec![root];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            processes.extend(children.remove(process).unwrap_or_default());
            next += 1;
        }
        Usage { processes }
    }

    /// All threads of all processes, as they are now.
    fn threads(&self) -> Result<Vec<(i32, PathBuf)>, String> {
        let mut threads = Vec::new();
        for process in &self.processes {
            let tasks = format!("/proc/{process}/task");
            let entries = fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
            let thread = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
            threads.extend(entries.flatten().filter_map(thread));
        }
        Ok(threads)
    }

    /// Puts every thread on the measured core. Being started there is not enough: Knot's UDP workers choose their cores by
    /// themselves, the first takes core 0, whatever they were given.
    ///
    /// # Errors
    /// A sentence, where a process has ended or the kernel refuses.
    pub fn keep_on_measured(&self, cores: Cores) -> Result<(), String> {
        let mut only = CpuSet::new();
        only.set(cores.measured).map_err(|error| format!("core {}: {error}", cores.measured))?;
        for (thread, path) in self.threads()? {
            match sched_setaffinity(Pid::from_raw(thread), &only) {
                // A thread may have ended meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(format!("{}: sched_setaffinity: {error}", path.display())),
            }
        }
        Ok(())
    }

    /// Processor time so far.
    ///
    /// # Errors
    /// A sentence, where a process has ended or the kernel does not count.
    pub fn cpu_ns(&self) -> Result<u64, String> {
        let mut sum = 0;
        for (_, thread) in self.threads()? {
            let path = thread.join("schedstat");
            // As above.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let ran_ns = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            sum += ran_ns.ok_or_else(|| format!("{}: found {text:?}, expected three numbers", path.display()))?;
        }
        if sum == 0 {
            return Err("this kernel does not count threads' run time (CONFIG_SCHED_INFO)".into());
        }
        Ok(sum)
    }

    /// Resident memory now, in MB (10^6 bytes).
    ///
    /// # Errors
    /// A sentence, where a process has ended.
    pub fn resident_mb(&self) -> Result<f64, String> {
        let mut of_each = Vec::new();
        for process in &self.processes {
            let path = format!("/proc/{process}/smaps_rollup");
            let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            let kib = |field: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(field));
                line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            of_each.push((kib("Rss:"), kib("Private_Clean:") + kib("Private_Dirty:")));
        }
        of_each.sort_unstable();
        let Some((greatest, _)) = of_each.pop() else { return Err("no process".into()) };
        let kib = greatest + of_each.iter().map(|(_, private)| private).sum::<u64>();
        Ok(kib as f64 * 1_024.0 / 1e6)
    }
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // proc(5): pid (comm) state ppid …, and a program's name may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
