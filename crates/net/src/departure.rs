//! The departure thread: lets packets leave at an instant of the local clock.
//!
//! **Problem.** An answer that leaves 0.1 ms late loses races that it should win. **Why the obvious answers fail.** A
//! plain sleep wakes 0.06–0.12 ms late, `poll` adds 0.1 % of its time-out, a runtime's timer is a millisecond coarse,
//! and `SO_TXTIME` without its qdisc is silently ignored. **Sketch.** One thread with a map ordered by time: it waits for
//! commands and for an alarm (a timer without slack) at T − `spin`, spins on the raw clock while still hearing commands, and
//! hands all that is due to the kernel with one call per socket. The kernel's transmit timestamps are fetched a little
//! later, when no departure is close, and reported back: what really happened, not what was intended.

use crate::host_clock::{HostClock, set_timer_slack};
use crate::poll::{Alarm, Waker, wait};
use crate::privileges::{pin_to_cpu, take_realtime_priority};
use crate::udp::{Outgoing, UdpSocket};
use startgun_core::time::{LocalTime, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// Commands that may wait: as many as departures may, in one burst of orders.
const COMMANDS: usize = 65_536;
/// Results that may wait to be taken.
const RESULTS: usize = 65_536;
/// A wait longer than this ends after 15/16 of it and is set anew: while chrony catches up, `CLOCK_MONOTONIC` runs up to
/// 8.3 % off the raw clock. At ordinary rates (100 ppm) a wait of this length is 5 µs wrong, far less than the spin.
const WAIT_AT_ONCE: Span = Span::from_millis(50);
/// Timestamps are not fetched this close before a departure: 256 of them take about 1 µs each.
const FETCH_ROOM: Span = Span::from_micros(300);
/// Under a steady stream of departures there is never room; timestamps this much overdue are fetched all the same.
const FETCH_OVERDUE: Span = Span::from_millis(8);
/// Departures whose timestamps may be awaited, per socket: 200,000 a second for [`STAMP_TIMEOUT`]. Beyond that the
/// program's own reading is reported at once.
const AWAITED_MAX: usize = 4_096;
/// A transmit timestamp is there long before this; then it is fetched.
const STAMP_AFTER: Span = Span::from_millis(1);
/// A departure without a transmit timestamp by then is reported with the program's own reading.
const STAMP_TIMEOUT: Span = Span::from_millis(20);
/// A stamp from before the call, by more than two clocks' mapping error, belongs to another packet.
const STAMP_EARLIEST: Span = Span::from_micros(-100);

/// How the thread runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Departures that may be pending.
    pub capacity: usize,
    /// How long before a departure the thread spins.
    pub spin: Span,
    /// `SCHED_FIFO` priority, taken where permitted.
    pub realtime_priority: Option<i32>,
    /// The processor to stay on.
    pub pin_to_cpu: Option<usize>,
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
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    scheduling: String,
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
        let waker = Waker::new()?;
        let own_waker = waker.clone();
        let alarm = Alarm::new()?;
        let run = move || {
            let _ = told.send(prepare(&options));
            let worker = Worker {
                clock,
                capacity: options.capacity,
                spin: options.spin,
                waker: own_waker,
                alarm,
                inbox,
                outbox,
                done,
                awaited: sockets.iter().map(|_| BTreeMap::new()).collect(),
                sockets,
                pending: BTreeMap::new(),
                order: BTreeSet::new(),
                stamps_at: None,
            };
            worker.run();
        };
        let thread = std::thread::Builder::new().name("departure".into()).spawn(run)?;
        let scheduling = scheduling.recv().unwrap_or_default();
        Ok(DepartureThread { commands, results, waker, thread: Some(thread), scheduling })
    }

    /// Schedules a departure, or replaces the pending one of the same name.
    ///
    /// # Errors
    /// When the queue is full; the departure is then dropped.
    pub fn schedule(&self, departure: Departure) -> Result<(), Full> {
        self.commands.try_send(Command::Schedule(departure)).map_err(|_| Full)?;
        self.waker.wake();
        Ok(())
    }

    /// Withdraws a pending departure, which then has no result. One that has left, or is leaving, is not affected.
    ///
    /// # Errors
    /// When the queue is full; the departure then takes place.
    pub fn cancel(&self, key: u64) -> Result<(), Full> {
        self.commands.try_send(Command::Cancel(key)).map_err(|_| Full)?;
        self.waker.wake();
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
}

impl Drop for DepartureThread {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Slack, priority, processor; what was achieved.
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
    words.join(", ")
}

/// A datagram whose transmit timestamp is awaited.
struct Awaited {
    key: u64,
    before: LocalTime,
    after: LocalTime,
}

struct Worker {
    clock: HostClock,
    capacity: usize,
    spin: Span,
    waker: Waker,
    alarm: Alarm,
    inbox: Receiver<Command>,
    outbox: SyncSender<Departed>,
    done: Waker,
    sockets: Vec<UdpSocket>,
    /// Per socket, by the kernel's number.
    awaited: Vec<BTreeMap<u32, Awaited>>,
    pending: BTreeMap<u64, Departure>,
    order: BTreeSet<(LocalTime, u64)>,
    /// When to look for transmit timestamps.
    stamps_at: Option<LocalTime>,
}

impl Worker {
    fn run(mut self) {
        loop {
            if self.take_commands() {
                return;
            }
            let now = self.clock.now();
            let next = self.order.first().map(|(at, _)| *at);
            if self.stamps_at.is_some_and(|at| at <= now && self.may_fetch(next, at, now)) {
                self.take_stamps(now);
            }
            match next {
                Some(at) if at <= now => self.send_due(now),
                Some(at) if at - now <= self.spin => std::hint::spin_loop(),
                next => self.rest(now, next.map(|at| at - self.spin)),
            }
        }
    }

    /// Whether fetching timestamps cannot delay a departure, or has itself been put off for too long.
    fn may_fetch(&self, next: Option<LocalTime>, due: LocalTime, now: LocalTime) -> bool {
        let room = FETCH_ROOM.min(self.spin);
        next.is_none_or(|next| next - now > room) || now - due > FETCH_OVERDUE
    }

    /// `true` when it is time to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Schedule(departure)) => self.schedule(departure),
                Ok(Command::Cancel(key)) => {
                    if let Some(cancelled) = self.pending.remove(&key) {
                        self.order.remove(&(cancelled.at, key));
                    }
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
        }
    }

    fn schedule(&mut self, departure: Departure) {
        if departure.socket >= self.sockets.len() {
            return self.report(departure.key, Outcome::Failed { errno: libc::EBADF });
        }
        if let Some(replaced) = self.pending.remove(&departure.key) {
            self.order.remove(&(replaced.at, replaced.key));
        } else if self.pending.len() >= self.capacity {
            return self.report(departure.key, Outcome::Full);
        }
        self.order.insert((departure.at, departure.key));
        self.pending.insert(departure.key, departure);
    }

    /// Waits for commands, for the window, or for timestamps, whichever is first.
    fn rest(&self, now: LocalTime, window: Option<LocalTime>) {
        let until = [window, self.stamps_at].into_iter().flatten().min();
        if let Some(until) = until {
            let left = until - now;
            let early = if left > WAIT_AT_ONCE { Span::from_nanos(left.as_nanos() / 16) } else { Span::ZERO };
            let deadline_ns = self.clock.monotonic_deadline(until - early);
            if self.alarm.set(deadline_ns).is_err() {
                // Not known to happen; a wait with the kernel's slack is better than none.
                let _ = wait(&[self.waker.as_fd()], Some(deadline_ns));
                return self.waker.clear();
            }
            let _ = wait(&[self.waker.as_fd(), self.alarm.as_fd()], None);
        } else {
            let _ = wait(&[self.waker.as_fd()], None);
        }
        // Commands are looked for after this, so a wake is never lost; while spinning it costs no system call.
        self.waker.clear();
    }

    fn send_due(&mut self, now: LocalTime) {
        let mut due: Vec<Departure> = Vec::new();
        while let Some(&(at, key)) = self.order.first() {
            if at > now {
                break;
            }
            self.order.pop_first();
            let Some(departure) = self.pending.remove(&key) else { continue };
            match departure.latest {
                Some(latest) if now > latest => self.report(key, Outcome::Late { by: now - at }),
                _ => due.push(departure),
            }
        }
        due.sort_by_key(|departure| departure.socket);
        for group in due.chunk_by(|one, other| one.socket == other.socket) {
            self.send_group(group);
        }
    }

    fn send_group(&mut self, group: &[Departure]) {
        let Some(socket) = group.first().map(|departure| departure.socket) else { return };
        let mut messages: Vec<Outgoing<'_>> = group
            .iter()
            .map(|departure| Outgoing { to: departure.to, bytes: &departure.payload, outcome: Err(0) })
            .collect();
        let before = self.clock.now();
        self.sockets[socket].send_batch(&mut messages);
        let after = self.clock.now();
        let outcomes: Vec<Result<u32, i32>> = messages.iter().map(|message| message.outcome).collect();
        for (departure, outcome) in group.iter().zip(outcomes) {
            match outcome {
                Ok(number) if self.sockets[socket].stamps_departures() && self.awaited[socket].len() < AWAITED_MAX => {
                    self.awaited[socket].insert(number, Awaited { key: departure.key, before, after });
                    self.stamps_at.get_or_insert(after + STAMP_AFTER);
                }
                Ok(_) => self.report(departure.key, Outcome::Sent { at: after, kernel_stamped: false }),
                Err(errno) => self.report(departure.key, Outcome::Failed { errno }),
            }
        }
    }

    fn take_stamps(&mut self, now: LocalTime) {
        let mut reports = Vec::new();
        let mut oldest: Option<LocalTime> = None;
        for (socket, awaited) in self.sockets.iter().zip(&mut self.awaited) {
            if awaited.is_empty() {
                continue;
            }
            let _ = socket.drain_transmit_timestamps(&self.clock, &mut |number, at| {
                if let Some(sent) = awaited.remove(&number) {
                    let plausible = at - sent.before >= STAMP_EARLIEST && at - sent.after <= STAMP_TIMEOUT;
                    let at = if plausible { at } else { sent.after };
                    reports.push((sent.key, Outcome::Sent { at, kernel_stamped: plausible }));
                }
            });
            awaited.retain(|_, sent| {
                let waits = now - sent.after < STAMP_TIMEOUT;
                if waits {
                    oldest = Some(oldest.map_or(sent.after, |oldest| oldest.min(sent.after)));
                } else {
                    reports.push((sent.key, Outcome::Sent { at: sent.after, kernel_stamped: false }));
                }
                waits
            });
        }
        reports.into_iter().for_each(|(key, outcome)| self.report(key, outcome));
        self.stamps_at = oldest.map(|_| now + STAMP_AFTER);
    }

    /// A result that nobody takes is lost when the queue is full; the owner's own time-outs clear up after it.
    fn report(&self, key: u64, outcome: Outcome) {
        let _ = self.outbox.try_send(Departed { key, outcome });
        self.done.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{self, ReceiveBatch};
    use std::time::{Duration, Instant};

    struct Track {
        clock: HostClock,
        departures: DepartureThread,
        finish: UdpSocket,
    }

    fn track(capacity: usize) -> Track {
        let clock = HostClock::new(None);
        let stamped = udp::Options { receive_timestamps: true, transmit_timestamps: true, ..udp::Options::default() };
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let start = UdpSocket::bind(any, stamped.clone()).expect("a socket");
        let finish = UdpSocket::bind(any, stamped).expect("a socket");
        let options = Options { capacity, spin: Span::from_micros(300), realtime_priority: None, pin_to_cpu: None };
        let done = Waker::new().expect("a waker");
        let departures = DepartureThread::spawn(clock.clone(), vec![start], options, done).expect("a thread");
        Track { clock, departures, finish }
    }

    impl Track {
        fn departure(&self, key: u64, at: LocalTime) -> Departure {
            Departure {
                key,
                at,
                latest: None,
                socket: 0,
                to: self.finish.address(),
                payload: key.to_be_bytes().to_vec(),
            }
        }

        fn results(&self, wanted: usize) -> Vec<Departed> {
            let mut results = Vec::new();
            let end = Instant::now() + Duration::from_secs(3);
            while results.len() < wanted && Instant::now() < end {
                self.departures.poll_results(&mut results);
                std::thread::sleep(Duration::from_millis(1));
            }
            results.sort_by_key(|result| result.key);
            results
        }

        fn arrivals(&self) -> Vec<Vec<u8>> {
            let mut batch = ReceiveBatch::new(64);
            let mut arrivals = Vec::new();
            while self.finish.receive(&mut batch, &self.clock).expect("received") > 0 {
                arrivals.extend(batch.iter().map(|packet| packet.bytes.to_vec()));
            }
            arrivals
        }
    }

    #[test]
    fn departures_leave_in_order_never_early_and_with_kernel_stamps() {
        let track = track(100);
        let start = track.clock.now() + Span::from_millis(20);
        let at = |key: u64| start + Span::from_millis(key as i64 * 3);
        for key in [5, 1, 9, 3, 2, 8, 4, 7, 6, 0] {
            track.departures.schedule(track.departure(key, at(key))).expect("room");
        }
        let results = track.results(10);
        assert_eq!(results.len(), 10);
        let mut lateness = Vec::new();
        for result in &results {
            let Outcome::Sent { at: left, kernel_stamped } = result.outcome else { panic!("{result:?}") };
            assert!(kernel_stamped, "{result:?}");
            // 20 µs: the error of mapping the kernel's CLOCK_REALTIME stamp to the raw clock.
            assert!(left - at(result.key) >= Span::from_micros(-20), "{result:?} left early");
            lateness.push(left - at(result.key));
        }
        lateness.sort_unstable();
        println!("lateness over loopback: {lateness:?}; {}", track.departures.scheduling());
        let arrivals: Vec<u64> = track
            .arrivals()
            .iter()
            .map(|b| u64::from_be_bytes(b.as_slice().try_into().expect("eight bytes")))
            .collect();
        assert_eq!(arrivals, (0..10).collect::<Vec<u64>>());
    }

    #[test]
    fn a_command_that_comes_while_another_is_close_is_not_kept_waiting() {
        let track = track(100);
        let mut waits = Vec::new();
        for round in 0..40 {
            // Far enough away that the thread rests, close enough that it is on its way to the window.
            let later = track.clock.now() + Span::from_micros(1_200);
            track.departures.schedule(track.departure(2 * round, later)).expect("room");
            std::thread::sleep(Duration::from_micros(100));
            let at = track.clock.now();
            track.departures.schedule(track.departure(2 * round + 1, at)).expect("room");
            let results = track.results(2);
            let Outcome::Sent { at: left, .. } = results[1].outcome else { panic!("{results:?}") };
            waits.push(left - at);
        }
        waits.sort_unstable();
        println!("a departure due at once leaves after {:?} (p50), {:?} (p90)", waits[20], waits[36]);
        // A thread that sleeps through would let half of them wait for 500 µs and more.
        assert!(waits[10] < Span::from_micros(400), "{waits:?}");
    }

    #[test]
    fn a_cancelled_departure_does_not_leave() {
        let track = track(100);
        let at = track.clock.now() + Span::from_millis(20);
        track.departures.schedule(track.departure(1, at)).expect("room");
        track.departures.schedule(track.departure(2, at)).expect("room");
        track.departures.cancel(1).expect("room");
        track.departures.cancel(99).expect("room");
        let results = track.results(1);
        assert!(matches!(results[..], [Departed { key: 2, outcome: Outcome::Sent { .. } }]), "{results:?}");
        assert_eq!(track.arrivals(), [2u64.to_be_bytes().to_vec()]);
    }

    #[test]
    fn every_departure_of_a_socket_without_timestamps_is_reported() {
        let clock = HostClock::new(None);
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let start = UdpSocket::bind(any, udp::Options::default()).expect("a socket");
        let finish = UdpSocket::bind(any, udp::Options::default()).expect("a socket");
        let options = Options { capacity: 9, spin: Span::ZERO, realtime_priority: None, pin_to_cpu: None };
        let done = Waker::new().expect("a waker");
        let departures = DepartureThread::spawn(clock.clone(), vec![start], options, done).expect("a thread");
        let track = Track { clock, departures, finish };
        let at = track.clock.now() + Span::from_millis(5);
        for key in 0..3 {
            track.departures.schedule(track.departure(key, at)).expect("room");
        }
        let results = track.results(3);
        assert_eq!(results.iter().map(|result| result.key).collect::<Vec<u64>>(), [0, 1, 2]);
        assert!(
            results.iter().all(|r| matches!(r.outcome, Outcome::Sent { kernel_stamped: false, .. })),
            "{results:?}"
        );
    }

    #[test]
    fn a_pending_departure_is_replaced_by_its_name() {
        let track = track(100);
        let at = track.clock.now() + Span::from_millis(30);
        track.departures.schedule(track.departure(7, at)).expect("room");
        let amended = Departure { payload: b"amended".to_vec(), ..track.departure(7, at) };
        track.departures.schedule(amended).expect("room");
        assert_eq!(track.results(1).len(), 1);
        assert_eq!(track.arrivals(), [b"amended".to_vec()]);
    }

    #[test]
    fn what_is_too_late_is_not_sent() {
        let track = track(100);
        let at = track.clock.now() - Span::from_millis(5);
        let latest = Some(at + Span::from_millis(2));
        track.departures.schedule(Departure { latest, ..track.departure(1, at) }).expect("room");
        track.departures.schedule(track.departure(2, at)).expect("room");
        let results = track.results(2);
        assert!(matches!(results[0].outcome, Outcome::Late { by } if by >= Span::from_millis(5)), "{results:?}");
        assert!(matches!(results[1].outcome, Outcome::Sent { .. }));
        assert_eq!(track.arrivals().len(), 1);
    }

    #[test]
    fn the_table_is_bounded_and_an_unknown_socket_is_refused() {
        let track = track(2);
        let at = track.clock.now() + Span::from_millis(50);
        for key in 0..4 {
            track.departures.schedule(track.departure(key, at)).expect("room in the queue");
        }
        track.departures.schedule(Departure { socket: 9, ..track.departure(9, at) }).expect("room in the queue");
        let results = track.results(5);
        let full = results.iter().filter(|result| result.outcome == Outcome::Full).count();
        assert_eq!((full, track.arrivals().len()), (2, 2));
        assert!(matches!(results[4].outcome, Outcome::Failed { .. }));
    }
}
