//! Asking somebody for the time, again and again: the requests under way, and the clock that their answers set.
//!
//! The same for a master and for a peer of the mesh: both answer from a raw clock, which is a timeline of its own.

use crate::clock::{ClockConfig, Exchange, MAX_SAMPLES, RaceClock, Update};
use crate::occupancy::Occupancy;
use crate::time::{LocalTime, RaceTime, Span};
use std::collections::VecDeque;

/// Requests that wait for their reply, all of them younger than the last that counted: 16 at 4 per second are older than
/// any reply.
const MAX_OUTSTANDING: usize = 16;
/// The first exchanges come faster, so that an agent is ready within 3 s.
const BURST_EXCHANGES: u32 = 16;
const BURST_INTERVAL: Span = Span::from_millis(100);

/// A request whose reply is awaited, or whose reply awaits the better T3 that the next one carries.
struct Outstanding {
    exchange: u32,
    sent: LocalTime,
    reply: Option<(RaceTime, RaceTime, LocalTime)>,
}

/// Exchanges with one timeline.
pub(super) struct Exchanger {
    clock: RaceClock,
    outstanding: VecDeque<Outstanding>,
    next_exchange: u32,
    since_reset: u32,
    interval: Span,
    request_at: Option<LocalTime>,
}

impl Exchanger {
    /// An exchanger that asks nobody until [`Exchanger::start`].
    pub(super) fn new(config: ClockConfig, interval: Span) -> Self {
        Exchanger {
            clock: RaceClock::new(config),
            outstanding: VecDeque::new(),
            next_exchange: 1,
            since_reset: 0,
            interval,
            request_at: None,
        }
    }

    pub(super) fn clock(&self) -> &RaceClock {
        &self.clock
    }

    pub(super) fn clock_mut(&mut self) -> &mut RaceClock {
        &mut self.clock
    }

    /// Somebody can be asked from now on.
    pub(super) fn start(&mut self, now: LocalTime) {
        self.request_at = Some(now);
    }

    /// Nobody can be asked any more.
    pub(super) fn stop(&mut self) {
        self.request_at = None;
    }

    /// Replies to what was asked so far do not count; the next requests come fast.
    pub(super) fn reset(&mut self) {
        self.outstanding.clear();
        self.since_reset = 0;
    }

    /// Requests that wait for their reply, and samples of the clock.
    pub(super) fn occupancy(&self) -> [Occupancy; 2] {
        [
            Occupancy::new("requests under way", self.outstanding.len(), MAX_OUTSTANDING),
            Occupancy::new("clock samples", self.clock.samples(), MAX_SAMPLES),
        ]
    }

    /// When the next request is due.
    pub(super) fn request_at(&self) -> Option<LocalTime> {
        self.request_at
    }

    /// Whether a request is due.
    pub(super) fn is_due(&self, now: LocalTime) -> bool {
        self.request_at.is_some_and(|at| at <= now)
    }

    /// Notes a request that leaves now; its number.
    pub(super) fn request(&mut self, now: LocalTime) -> u32 {
        let burst = self.since_reset < BURST_EXCHANGES;
        self.request_at = Some(now + if burst { BURST_INTERVAL.min(self.interval) } else { self.interval });
        self.since_reset = self.since_reset.saturating_add(1);
        let exchange = self.next_exchange;
        self.next_exchange = self.next_exchange.wrapping_add(1).max(1);
        if self.outstanding.len() >= MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { exchange, sent: now, reply: None });
        exchange
    }

    /// The kernel's transmit timestamp of a request.
    pub(super) fn stamp(&mut self, exchange: u32, at: LocalTime) {
        if let Some(waiting) = self.outstanding.iter_mut().find(|waiting| waiting.exchange == exchange) {
            // The program read its clock before it sent: an earlier stamp belongs to something else.
            waiting.sent = waiting.sent.max(at);
        }
    }

    /// Takes in a reply. It counts once the next reply brings its T3 by the kernel's timestamp; who has none names
    /// exchange 0, and the reply counts at once. What the exchanges that now count did to the clock; `None` when none did.
    pub(super) fn reply(
        &mut self,
        received_at: LocalTime,
        exchange: u32,
        received: RaceTime,
        replied: RaceTime,
        previous: (u32, RaceTime),
    ) -> Option<Update> {
        let mut update = None;
        if let Some(index) = self.outstanding.iter().position(|waiting| waiting.exchange == previous.0) {
            if let Some((_, earlier_replied, _)) = &mut self.outstanding[index].reply {
                *earlier_replied = previous.1.max(*earlier_replied);
            }
            update = self.finish(index);
        }
        let Some(index) = self.outstanding.iter().position(|waiting| waiting.exchange == exchange) else {
            return update;
        };
        if self.outstanding[index].reply.is_some() {
            return update;
        }
        self.outstanding[index].reply = Some((received, replied, received_at));
        if previous.0 == 0 {
            let finished = self.finish(index);
            // A step that either of them showed is what the owner must hear of.
            update = if update == Some(Update::Stepped) { update } else { finished.or(update) };
        }
        update
    }

    fn finish(&mut self, index: usize) -> Option<Update> {
        let done = self.outstanding.remove(index)?;
        let (received, replied, returned) = done.reply?;
        // What was asked before this is too old. The host may have been suspended in between, unnoticed: the two stamps
        // of such an exchange belong to different offsets, and by this clock, which stood still, it is not even long.
        self.outstanding.drain(..index);
        let update = self.clock.handle_exchange(Exchange { sent: done.sent, received, replied, returned });
        if update == Update::Stepped {
            // What is under way may have one stamp from before the step and one from after it. Fast again, until the
            // clock is good again.
            self.reset();
        }
        Some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Either way of the path.
    const WAY: Span = Span::from_millis(20);

    /// Sends a request and hands back its number with the reply that it gets: T2 and T3, when race − local is `offset`.
    fn ask(exchanger: &mut Exchanger, now: LocalTime, offset: Span) -> (u32, RaceTime) {
        let exchange = exchanger.request(now);
        (exchange, RaceTime::from_nanos((now + offset + WAY).as_nanos()))
    }

    #[test]
    fn a_reply_from_before_an_untold_suspend_does_not_count_after_a_whole_exchange_since() {
        let at = |ms: i64| LocalTime::from_nanos(1_000_000_000) + Span::from_millis(ms);
        let (before, after) = (Span::from_secs(50), Span::from_secs(53));
        let mut exchanger = Exchanger::new(ClockConfig::default(), Span::from_millis(250));
        exchanger.start(at(0));
        // Its reply is under way when the host stands still for three seconds of which its clock shows nothing.
        let (lost, lost_at) = ask(&mut exchanger, at(0), before);
        let (whole, replied) = ask(&mut exchanger, at(100), after);
        let none = (0, RaceTime::from_nanos(0));
        assert_eq!(exchanger.reply(at(140), whole, replied, replied, none), Some(Update::Accepted));
        assert_eq!(exchanger.reply(at(150), lost, lost_at, lost_at, none), None);
        let reading = exchanger.clock().read(at(150)).expect("set");
        assert!(reading.interval.contains(Span::from_nanos((at(150) + after).as_nanos())), "{reading:?}");
    }

    #[test]
    fn requests_after_the_one_that_counted_stay_under_way() {
        let at = |ms: i64| LocalTime::from_nanos(1_000_000_000) + Span::from_millis(ms);
        let offset = Span::from_secs(50);
        let mut exchanger = Exchanger::new(ClockConfig::default(), Span::from_millis(250));
        exchanger.start(at(0));
        let (first, first_at) = ask(&mut exchanger, at(0), offset);
        let (second, second_at) = ask(&mut exchanger, at(10), offset);
        let none = (0, RaceTime::from_nanos(0));
        assert_eq!(exchanger.reply(at(40), first, first_at, first_at, none), Some(Update::Accepted));
        assert_eq!(exchanger.reply(at(50), second, second_at, second_at, none), Some(Update::Accepted));
    }
}
