//! The departure thread: lets packets leave at an instant of the local clock.
//!
//! **Problem.** An answer that leaves 0.1 ms late loses races that it should win. **Why the obvious answers fail.** A
//! plain sleep wakes 0.03–0.12 ms late, `poll` adds 0.1 % of its time-out, a runtime's timer is a millisecond coarse,
//! a packet that is handed to the kernel at T leaves microseconds after it, and `SO_TXTIME` without its qdisc is silently
//! ignored. **Sketch.** One thread with a map ordered by time. It sleeps until a window before the call (`window`: as wide
//! as this host's wake-ups ask for), warms the kernel's send path (`warm_up`), spins on the raw clock while still hearing
//! commands, prepares what is due, and calls the kernel once per socket, early by what the call takes (`lead`). The
//! kernel's transmit timestamps are fetched a little later, when no departure is close, and reported back: what really
//! happened, not what was intended. Only where a probe has shown that the kernel keeps instants by itself (`txtime`) are
//! departures left to it.
//!
//! Sleeping is a futex with a deadline (`park_timeout`): as quick to wake as `clock_nanosleep`, 10 µs quicker than
//! `ppoll` on a timerfd (medians 31 and 40 µs on a virtual machine), and whoever schedules makes a system call
//! only when the thread sleeps.

mod lead;
mod recent;
mod txtime;
mod warm_up;
mod window;
mod worker;

use crate::host_clock::{HostClock, set_timer_slack};
use crate::poll::Waker;
use crate::privileges::{lock_memory, pin_to_cpu, take_realtime_priority};
use crate::udp::UdpSocket;
use startgun_core::time::{LocalTime, Span};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
pub use txtime::{KernelDepartures, probe};
use worker::Worker;

/// Commands that may wait: as many as departures may, in one burst of orders.
const COMMANDS: usize = 65_536;
/// Results that may wait to be taken.
const RESULTS: usize = 65_536;

/// How the thread runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Departures that may be pending.
    pub capacity: usize,
    /// `SCHED_FIFO` priority, taken where permitted.
    pub realtime_priority: Option<i32>,
    /// The processor to stay on.
    pub pin_to_cpu: Option<usize>,
    /// Whether the process's memory shall stay in memory, where permitted: a page that must be read back first costs
    /// milliseconds. It concerns the whole process and all that it maps later.
    pub lock_memory: bool,
    /// What a probe said. Only if the kernel keeps instants are departures left to it; the sockets must then have been
    /// bound with [`departure_times`](crate::udp::Options::departure_times).
    pub kernel: Option<KernelDepartures>,
}

/// A packet and its instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Its name. Scheduling a name that is still pending replaces it.
    pub key: u64,
    /// When it leaves; in the past means now.
    pub at: LocalTime,
    /// It is not sent after this.
    pub latest: Option<LocalTime>,
    /// By which of the thread's sockets.
    pub socket: usize,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

/// What became of a [`Departure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It left.
    Sent {
        /// When.
        at: LocalTime,
        /// Whether the kernel said so; otherwise the program's own reading just after the call.
        kernel_stamped: bool,
    },
    /// It would have left after its latest instant, by this much after `at`.
    Late {
        /// After its instant.
        by: Span,
    },
    /// The kernel refused it.
    Failed {
        /// The kernel's error.
        errno: i32,
    },
    /// Too many were pending.
    Full,
    /// The clock stepped, or the host was suspended, while it waited: its instant was the wrong one.
    ClockBroke,
}

/// A departure's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The departure's name.
    pub key: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The queue to the thread is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the departure thread's queue is full")]
pub struct Full;

enum Command {
    Schedule(Departure),
    Cancel(u64),
    Stop,
}

/// The thread, for its owner.
#[derive(Debug)]
pub struct DepartureThread {
    commands: SyncSender<Command>,
    results: Receiver<Departed>,
    thread: Option<JoinHandle<()>>,
    measured: Arc<Measured>,
    scheduling: String,
}

/// What the thread has measured, for its owner; nanoseconds.
#[derive(Debug, Default)]
struct Measured {
    lead_ns: AtomicI64,
    window_ns: AtomicI64,
}

impl DepartureThread {
    /// Starts the thread. `done` is woken when there are results.
    ///
    /// # Errors
    /// Where the kernel gives no thread or descriptor. A priority or processor that is not permitted is no error, see
    /// [`DepartureThread::scheduling`].
    pub fn spawn(clock: HostClock, sockets: Vec<UdpSocket>, options: Options, done: Waker) -> io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS);
        let (outbox, results) = sync_channel(RESULTS);
        let (told, scheduling) = sync_channel(1);
        let measured = Arc::new(Measured::default());
        let for_owner = Arc::clone(&measured);
        let run = move || {
            let _ = told.send(prepare(&options));
            Worker::new(clock, sockets, &options, inbox, outbox, done, measured).run();
        };
        let thread = std::thread::Builder::new().name("departure".into()).spawn(run)?;
        let scheduling = scheduling.recv().unwrap_or_default();
        Ok(DepartureThread { commands, results, thread: Some(thread), measured: for_owner, scheduling })
    }

    /// Schedules a departure, or replaces the pending one of the same name.
    ///
    /// # Errors
    /// When the queue is full; the departure is then dropped.
    pub fn schedule(&self, departure: Departure) -> Result<(), Full> {
        self.commands.try_send(Command::Schedule(departure)).map_err(|_| Full)?;
        self.wake();
        Ok(())
    }

    /// Withdraws a pending departure, which then has no result. One that has left, or is leaving, is not affected.
    ///
    /// # Errors
    /// When the queue is full; the departure then takes place.
    pub fn cancel(&self, key: u64) -> Result<(), Full> {
        self.commands.try_send(Command::Cancel(key)).map_err(|_| Full)?;
        self.wake();
        Ok(())
    }

    /// Takes the results that there are.
    pub fn poll_results(&self, results: &mut Vec<Departed>) {
        results.extend(self.results.try_iter());
    }

    /// How the thread is scheduled, in words.
    pub fn scheduling(&self) -> &str {
        &self.scheduling
    }

    /// How long before its instant a departure is handed to the kernel at present: 0 to 100 µs, measured.
    pub fn lead(&self) -> Span {
        Span::from_nanos(self.measured.lead_ns.load(Ordering::Relaxed))
    }

    /// How long before that the thread stops sleeping at present: 150 µs to 1 ms, measured.
    pub fn spin_window(&self) -> Span {
        Span::from_nanos(self.measured.window_ns.load(Ordering::Relaxed))
    }

    /// A system call only while the thread sleeps.
    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for DepartureThread {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Slack, priority, processor, memory; what was achieved.
fn prepare(options: &Options) -> String {
    let mut words = vec![match set_timer_slack() {
        Ok(()) => "timer slack 1 ns".to_owned(),
        Err(error) => format!("timer slack unchanged ({error})"),
    }];
    if let Some(priority) = options.realtime_priority {
        words.push(match take_realtime_priority(priority) {
            Ok(()) => format!("SCHED_FIFO {priority}"),
            Err(error) => format!("no SCHED_FIFO ({error})"),
        });
    }
    if let Some(cpu) = options.pin_to_cpu {
        words.push(match pin_to_cpu(cpu) {
            Ok(()) => format!("processor {cpu}"),
            Err(error) => format!("not pinned to processor {cpu} ({error})"),
        });
    }
    if options.lock_memory {
        words.push(match lock_memory() {
            Ok(()) => "memory locked".to_owned(),
            Err(error) => format!("memory not locked ({error})"),
        });
    }
    words.extend(options.kernel.as_ref().map(ToString::to_string));
    words.join(", ")
}

#[cfg(test)]
mod tests;
