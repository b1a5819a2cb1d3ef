//! What the departure thread does.

use super::lead::Lead;
use super::warm_up::WarmUp;
use super::window::SpinWindow;
use super::{Command, Departed, Departure, KernelDepartures, Measured, Options, Outcome};
use crate::continuity::Continuity;
use crate::host_clock::{HostClock, monotonic_ns};
use crate::poll::Waker;
use crate::udp::{Outgoing, SEND_BATCH, STAMPS_PER_DRAIN, UdpSocket};
use startgun_core::time::{LocalTime, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

/// Commands heard between two looks at the clock: about 0.5 µs each, so that a burst delays a departure by 8 µs at most.
const COMMANDS_AT_ONCE: usize = 16;
/// A wait longer than this ends after 15/16 of it and is set anew: while chrony catches up, `CLOCK_MONOTONIC` runs up to
/// 8.3 % off the raw clock. At ordinary rates (100 ppm) a wait of this length is 5 µs wrong, far less than the spin.
const WAIT_AT_ONCE: Span = Span::from_millis(50);
/// So long before a call its datagrams are prepared, and only the clock is looked at: a full call of [`SEND_BATCH`] takes
/// some 15 µs to put together.
const PREPARATION: Span = Span::from_micros(20);
/// A warm-up takes 30 µs on a quiet host, up to this on a busy one; none is begun later than this before a preparation.
const WARM_UP_ROOM: Span = Span::from_micros(100);
/// So long before its instant a departure is left to a kernel that keeps instants: the thread's wake-up is hidden (p99 85 µs),
/// and one that leaves at once after all, where the probe did not look, is early by this.
const HANDOVER: Span = Span::from_micros(500);
/// Fetching one transmit timestamp, with its report. None are fetched when that many would reach into a preparation.
const FETCH_TIME: Span = Span::from_micros(2);
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

/// A datagram whose transmit timestamp is awaited.
struct Awaited {
    key: u64,
    before: LocalTime,
    after: LocalTime,
    /// Whether the lead is measured by it: it was the first of a call that was waited for, or left to the kernel in time.
    leads: bool,
    /// Whether the kernel was told when to let it leave.
    by_kernel: bool,
}

/// The thread's state.
pub(super) struct Worker {
    clock: HostClock,
    continuity: Continuity,
    sockets: Vec<UdpSocket>,
    capacity: usize,
    /// Whether departures are left to the kernel, [`HANDOVER`] before their instant.
    by_kernel: bool,
    inbox: Receiver<Command>,
    outbox: SyncSender<Departed>,
    done: Waker,
    /// Whether there are results that `done` has not been woken for.
    reported: bool,
    /// Whether the clock was checked since the last rest or departure.
    checked: bool,
    pending: BTreeMap<u64, Departure>,
    order: BTreeSet<(LocalTime, u64)>,
    /// What is due; empty between departures.
    due: Vec<Departure>,
    /// Per socket, by the kernel's number.
    awaited: Vec<BTreeMap<u32, Awaited>>,
    /// When to look for transmit timestamps.
    stamps_at: Option<LocalTime>,
    lead: Lead,
    window: SpinWindow,
    warm_up: WarmUp,
    /// Whether the send path was used since the last rest.
    warm: bool,
    measured: Arc<Measured>,
}

impl Worker {
    pub(super) fn new(
        clock: HostClock,
        sockets: Vec<UdpSocket>,
        options: &Options,
        inbox: Receiver<Command>,
        outbox: SyncSender<Departed>,
        done: Waker,
        measured: Arc<Measured>,
    ) -> Self {
        Worker {
            continuity: Continuity::new(&clock),
            warm_up: WarmUp::new(sockets.first().map(UdpSocket::address)),
            warm: false,
            clock,
            awaited: sockets.iter().map(|_| BTreeMap::new()).collect(),
            sockets,
            capacity: options.capacity,
            by_kernel: options.kernel.as_ref().is_some_and(KernelDepartures::are_kept),
            inbox,
            outbox,
            done,
            reported: false,
            checked: false,
            pending: BTreeMap::new(),
            order: BTreeSet::new(),
            due: Vec::with_capacity(SEND_BATCH),
            stamps_at: None,
            lead: Lead::new(),
            window: SpinWindow::new(),
            measured,
        }
    }

    pub(super) fn run(mut self) {
        self.publish();
        loop {
            let Some(more) = self.take_commands() else { return };
            let now = self.clock.now();
            let early = if self.by_kernel { HANDOVER } else { self.lead.span() };
            let next = self.order.first().map(|(at, _)| *at - early);
            // Does the clock that the instants were read from still run as it did? Asked after every rest, so that a step is
            // told from slewing over 50 ms at most; while spinning nothing is asked again.
            if next.is_some() && !self.checked {
                self.checked = true;
                if self.continuity.check(&self.clock).is_some() {
                    self.give_up_all();
                    continue;
                }
            }
            if self.stamps_at.is_some_and(|at| at <= now && self.may_fetch(next, at, now)) {
                self.take_stamps(now);
            }
            if std::mem::take(&mut self.reported) {
                self.done.wake();
            }
            match next {
                Some(call) if self.by_kernel && call <= now => self.hand_over(now),
                Some(call) if !self.by_kernel && call - now <= PREPARATION => self.depart(call, now),
                _ if more => {}
                Some(call) if call - now <= self.window() => {
                    if !std::mem::replace(&mut self.warm, true) && call - now > PREPARATION + WARM_UP_ROOM {
                        self.warm_up.run();
                    }
                    std::hint::spin_loop();
                }
                next => self.rest(now, next),
            }
        }
    }

    /// How long before a call the thread spins: not at all where the kernel keeps the instant.
    fn window(&self) -> Span {
        if self.by_kernel { Span::ZERO } else { self.window.span() }
    }

    /// The clock stepped, or the host was suspended: what waits for an instant waits for the wrong one.
    fn give_up_all(&mut self) {
        self.order.clear();
        for key in std::mem::take(&mut self.pending).into_keys() {
            self.report(key, Outcome::ClockBroke);
        }
    }

    /// Whether fetching timestamps cannot delay a departure, or has itself been put off for too long.
    fn may_fetch(&self, next: Option<LocalTime>, due: LocalTime, now: LocalTime) -> bool {
        let Some(next) = next else { return true };
        let awaited: usize = self.awaited.iter().map(|awaited| awaited.len().min(STAMPS_PER_DRAIN)).sum();
        let room = PREPARATION + Span::from_nanos(FETCH_TIME.as_nanos() * awaited as i64);
        next - now > room || now - due > FETCH_OVERDUE
    }

    /// Whether there may be more; `None` when it is time to stop.
    fn take_commands(&mut self) -> Option<bool> {
        for _ in 0..COMMANDS_AT_ONCE {
            match self.inbox.try_recv() {
                Ok(Command::Schedule(departure)) => self.schedule(departure),
                Ok(Command::Cancel(key)) => {
                    if let Some(cancelled) = self.pending.remove(&key) {
                        self.order.remove(&(cancelled.at, key));
                    }
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => return Some(false),
            }
        }
        Some(true)
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

    /// Waits for commands, for the window before the next call, or for timestamps, whichever is first.
    fn rest(&mut self, now: LocalTime, next: Option<LocalTime>) {
        self.checked = false;
        self.warm = false;
        let window = next.map(|call| call - self.window());
        let stamps = self.stamps_at.filter(|at| self.may_fetch(next, *at, now.max(*at)));
        // Commands are looked for after this. Who schedules one unparks afterwards, so none is missed.
        let Some(until) = window.into_iter().chain(stamps).min() else { return std::thread::park() };
        let left = until - now;
        let early = if left > WAIT_AT_ONCE { Span::from_nanos(left.as_nanos() / 16) } else { Span::ZERO };
        let sleep_ns = self.clock.monotonic_deadline(until - early).saturating_sub(monotonic_ns());
        if let Ok(sleep_ns @ 1..) = u64::try_from(sleep_ns) {
            std::thread::park_timeout(Duration::from_nanos(sleep_ns));
        }
        if Some(until) == window && early == Span::ZERO {
            let late = self.clock.now() - until;
            // Earlier than that it was a command that ended the sleep.
            if late >= Span::ZERO {
                self.window.woke(late);
                self.publish();
            }
        }
    }

    /// Sends what is due at `call`, at most one call's worth, once that instant has come.
    fn depart(&mut self, call: LocalTime, mut now: LocalTime) {
        let mut due = std::mem::take(&mut self.due);
        let until = call.max(now) + self.lead.span();
        while due.len() < SEND_BATCH {
            let Some(&(_, key)) = self.order.first().filter(|(at, _)| *at <= until) else { break };
            self.order.pop_first();
            due.extend(self.pending.remove(&key));
        }
        due.sort_by_key(|departure| departure.socket);
        let mut start = 0;
        loop {
            self.drop_late(&mut due, start, now);
            let Some(group) = due[start..].chunk_by(|one, other| one.socket == other.socket).next() else { break };
            match self.send_group(group, call) {
                Ok(after) => {
                    start += group.len();
                    now = after;
                }
                Err(overslept) => now = overslept,
            }
        }
        due.clear();
        self.due = due;
        self.checked = false;
    }

    /// Leaves what is due within [`HANDOVER`] to the kernel, one call each: it keeps each one's instant. At most one batch.
    fn hand_over(&mut self, now: LocalTime) {
        self.checked = false;
        for _ in 0..SEND_BATCH {
            let Some(&(at, key)) = self.order.first().filter(|(at, _)| *at - HANDOVER <= now) else { break };
            self.order.pop_first();
            let Some(departure) = self.pending.remove(&key) else { continue };
            if departure.latest.is_some_and(|latest| now > latest) {
                self.report(key, Outcome::Late { by: now - at });
                continue;
            }
            let leaves = at - self.lead.span();
            let socket = &self.sockets[departure.socket];
            match socket.send_at(&departure.payload, departure.to, self.clock.monotonic_deadline(leaves)) {
                Ok(Some(number)) if self.awaited[departure.socket].len() < AWAITED_MAX => {
                    let (before, leads) = (leaves.max(now), leaves > now);
                    self.awaited[departure.socket]
                        .insert(number, Awaited { key, before, after: before, leads, by_kernel: true });
                    self.stamps_at.get_or_insert(before + STAMP_AFTER);
                }
                Ok(_) => self.report(key, Outcome::Sent { at: at.max(now), kernel_stamped: false }),
                Err(error) => self.report(key, Outcome::Failed { errno: error.raw_os_error().unwrap_or(libc::EIO) }),
            }
        }
    }

    /// Drops, from `start` on, what must not leave any more. It is decided by the true time, without the lead.
    fn drop_late(&mut self, due: &mut Vec<Departure>, start: usize, now: LocalTime) {
        let mut place = 0;
        due.retain(|departure| {
            let late = place >= start && departure.latest.is_some_and(|latest| now > latest);
            place += 1;
            if late {
                self.report(departure.key, Outcome::Late { by: now - departure.at });
            }
            !late
        });
    }

    /// Sends departures of one socket with one call, not before `call`. The time afterwards; or, when a stolen time slice
    /// has made one of them too late, the time by then, and nothing is sent.
    fn send_group(&mut self, group: &[Departure], call: LocalTime) -> Result<LocalTime, LocalTime> {
        let socket = group[0].socket;
        let latest = group.iter().filter_map(|departure| departure.latest).min().unwrap_or(LocalTime::MAX);
        let mut messages: Vec<Outgoing<'_>> = group
            .iter()
            .map(|departure| Outgoing { to: departure.to, bytes: &departure.payload, outcome: Err(0) })
            .collect();
        let (mut before, mut waited) = (call, false);
        let clock = &self.clock;
        let sent = self.sockets[socket].send_batch_when(&mut messages, || {
            before = clock.now();
            while before < call {
                waited = true;
                std::hint::spin_loop();
                before = clock.now();
            }
            before <= latest
        });
        if !sent {
            return Err(before);
        }
        let after = self.clock.now();
        let stamped = self.sockets[socket].stamps_departures();
        for (place, (departure, message)) in group.iter().zip(&messages).enumerate() {
            match message.outcome {
                Ok(number) if stamped && self.awaited[socket].len() < AWAITED_MAX => {
                    let leads = waited && place == 0;
                    self.awaited[socket]
                        .insert(number, Awaited { key: departure.key, before, after, leads, by_kernel: false });
                    self.stamps_at.get_or_insert(after + STAMP_AFTER);
                }
                Ok(_) => self.report(departure.key, Outcome::Sent { at: after, kernel_stamped: false }),
                Err(errno) => self.report(departure.key, Outcome::Failed { errno }),
            }
        }
        Ok(after)
    }

    fn take_stamps(&mut self, now: LocalTime) {
        let mut reports = Vec::new();
        let mut oldest: Option<LocalTime> = None;
        let (lead, by_kernel) = (&mut self.lead, &mut self.by_kernel);
        for (socket, awaited) in self.sockets.iter().zip(&mut self.awaited) {
            if awaited.is_empty() {
                continue;
            }
            let _ = socket.drain_transmit_timestamps(&self.clock, &mut |number, at| {
                if let Some(sent) = awaited.remove(&number) {
                    // Another interface than the probed one, or its queueing discipline was replaced: not to be trusted again.
                    let ignored = sent.by_kernel
                        && at - sent.before < STAMP_EARLIEST
                        && at - sent.before >= STAMP_EARLIEST - HANDOVER;
                    if ignored {
                        *by_kernel = false;
                        return reports.push((sent.key, Outcome::Sent { at, kernel_stamped: true }));
                    }
                    let plausible = at - sent.before >= STAMP_EARLIEST && at - sent.after <= STAMP_TIMEOUT;
                    if plausible && sent.leads {
                        lead.took(at - sent.before);
                    }
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
        self.warm_up.clear(&self.clock);
        self.publish();
    }

    /// Tells the owner what was measured.
    fn publish(&self) {
        self.measured.lead_ns.store(self.lead.span().as_nanos(), Ordering::Relaxed);
        self.measured.window_ns.store(self.window.span().as_nanos(), Ordering::Relaxed);
    }

    /// A result that nobody takes is lost when the queue is full; the owner's own time-outs clear up after it. The owner is
    /// woken before the thread rests or departs again, once for all of them.
    fn report(&mut self, key: u64, outcome: Outcome) {
        let _ = self.outbox.try_send(Departed { key, outcome });
        self.reported = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::mpsc::sync_channel;

    fn worker() -> (Worker, Receiver<Departed>, SyncSender<Command>) {
        let stamped = udp::Options { transmit_timestamps: true, ..udp::Options::default() };
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), stamped).expect("a socket");
        let (commands, inbox) = sync_channel(4);
        let (outbox, results) = sync_channel(100);
        let options =
            Options { capacity: 100, realtime_priority: None, pin_to_cpu: None, lock_memory: false, kernel: None };
        let done = Waker::new().expect("a waker");
        let measured = Arc::new(Measured::default());
        let worker = Worker::new(HostClock::new(None), vec![socket], &options, inbox, outbox, done, measured);
        (worker, results, commands)
    }

    fn departure(worker: &Worker, at: LocalTime, latest: Option<LocalTime>) -> Departure {
        let to = worker.sockets[0].address();
        Departure { key: 1, at, latest, socket: 0, to, payload: vec![1] }
    }

    #[test]
    fn what_is_too_late_is_decided_without_the_lead() {
        let (mut worker, results, _commands) = worker();
        (0..10).for_each(|_| worker.lead.took(Span::from_micros(100)));
        assert_eq!(worker.lead.span(), Span::from_micros(100));
        let at = LocalTime::from_nanos(5_000_000);
        let latest = at + Span::from_micros(40);
        let mut due = vec![departure(&worker, at, Some(latest))];
        // It would leave 60 µs after its latest instant if the lead counted.
        worker.drop_late(&mut due, 0, latest);
        assert_eq!(due.len(), 1);
        worker.drop_late(&mut due, 0, latest + Span::from_nanos(1));
        assert!(due.is_empty());
        let by = Span::from_nanos(40_001);
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [Departed { key: 1, outcome: Outcome::Late { by } }]);
    }

    #[test]
    fn what_became_too_late_while_it_was_prepared_is_not_sent() {
        let (mut worker, results, _commands) = worker();
        let now = worker.clock.now();
        let late = departure(&worker, now - Span::from_millis(2), Some(now - Span::from_millis(1)));
        let overslept = worker.send_group(std::slice::from_ref(&late), now - Span::from_millis(2));
        assert!(overslept.is_err_and(|at| at >= now));
        assert_eq!((results.try_iter().count(), worker.awaited[0].len()), (0, 0));
        let punctual = Departure { latest: None, ..late };
        assert!(worker.send_group(&[punctual], now).is_ok());
        assert_eq!(worker.awaited[0].len(), 1);
    }
}
