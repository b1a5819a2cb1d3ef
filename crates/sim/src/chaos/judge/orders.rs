//! Orders and receipts: which races are opened, by whom, and what agents are told.

use startgun_core::dns::query::{Query, Verdict as Parsed};
use startgun_core::master::{Delay, Stamp};
use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::{Receipt, ReceiptOutcome, TransmitIdentifier};
use std::net::IpAddr;

use super::{Judge, Order, Race, Verdict, demand};
use crate::world::client_at;
use crate::{Host, SimTime, World};

/// Most revisions of a race's orders.
const MAX_REVISION: u8 = 8;
/// A timer of a clock that runs 200 ppm fast or slow for 0.55 s, and more than that.
const FALLBACK_TOLERANCE: Span = Span::from_millis(1);
/// A budget that fills continuously lets twice its rate through in any second: what it held and what came.
const RATE_SPAN: Span = Span::from_secs(1);

impl Judge<'_> {
    /// An order is sealed for an agent.
    pub(super) fn judge_order(&mut self, world: &World, agent: usize, order: &Order) -> Verdict {
        let (master, process) = (order.master, order.process);
        let now = world.local_time(Host::Master(master));
        let acknowledged = self.acknowledged.get(&(master, agent)).copied();
        demand!(
            acknowledged == Some(order.playbook),
            Playbook,
            "master {master} orders by playbook {:x}, agent {agent} has acknowledged {acknowledged:x?}",
            order.playbook
        );
        self.judge_earned(world, order, now)?;
        demand!(order.revision <= MAX_REVISION, OneRace, "revision {} of race {:x}", order.revision, order.race);
        let is_new = !self.races.contains_key(&(master, process, order.race));
        if is_new {
            self.judge_opened(order, now, world.now())?;
        }
        let race = self.races.entry((master, process, order.race)).or_default();
        if let TransmitIdentifier::At(t) = order.transmit {
            let known = *race.transmit_at.get_or_insert(t);
            demand!(known == t, OneRace, "race {:x} at {known:?} is amended to {t:?}", order.race);
        }
        if race.revision != order.revision || is_new {
            demand!(
                is_new || order.revision == race.revision + 1,
                OneRace,
                "revision {} of race {:x} after {}",
                order.revision,
                order.race,
                race.revision
            );
            *race = Race {
                revision: order.revision,
                ordered: Vec::new(),
                receipts: Default::default(),
                ..core::mem::take(race)
            };
        }
        race.by_signal = matches!(order.transmit, TransmitIdentifier::On(_));
        demand!(
            !race.ordered.contains(&agent),
            OneRace,
            "race {:x}.{} is ordered twice of agent {agent}",
            order.race,
            order.revision
        );
        race.ordered.push(agent);
        race.client = Some((order.client, order.id()));
        self.race_of_query.insert((master, order.client, order.id()), (process, order.race));
        Ok(())
    }

    /// Whether the source of an order's query has earned a race.
    fn judge_earned(&self, world: &World, order: &Order, now: LocalTime) -> Verdict {
        let Some(client) = client_at(order.client) else { return Ok(()) };
        let until = self.validated.get(&(order.master, order.process, client));
        // The query may have been judged a queue's dwell before the order of an amendment is sealed: at one instant here.
        let by_tcp = until.is_some_and(|until| *until >= now);
        let cookie = cookie_of(&order.query);
        let by_cookie = self.plan.options.masters[order.master].cookies
            && cookie.is_some_and(|cookie| {
                self.cookies.get(&client).is_some_and(|given| given.iter().any(|own| own[..] == *cookie))
            });
        demand!(
            by_tcp || by_cookie,
            Amplified,
            "a race for client {client} at master {}, who has not proved its address {}",
            order.master,
            world.now().as_nanos()
        );
        Ok(())
    }

    /// A race is opened: it is the only one of its source, name and type, T is counted from the receipt, and its source's
    /// budget has room.
    fn judge_opened(&mut self, order: &Order, now: LocalTime, truly: SimTime) -> Verdict {
        self.races_seen += 1;
        let own = &self.plan.options.masters[order.master];
        let source = order.client.ip();
        let Parsed::Query(query) = Query::parse(&order.query) else {
            return Err((super::Invariant::OneRace, format!("a race for no query: {:x?}", order.query)));
        };
        let mut question = query.name().to_vec();
        question.extend_from_slice(&query.rtype().to_int().to_be_bytes());
        if let TransmitIdentifier::At(t) = order.transmit {
            let t = t.to_master();
            let asked = self.asked.get(&(order.master, order.client, order.id()));
            let arrivals = || asked.into_iter().flatten().map(|asked| asked.at);
            let delay_is_right = |from: LocalTime| match own.delay {
                Delay::Fixed(delay) => t - from == delay.min(own.max_total_delay),
                Delay::Cover { .. } => t - from <= own.max_total_delay && t - from >= Span::ZERO,
            };
            let is_right = match own.stamp {
                Stamp::Receipt => arrivals().any(delay_is_right),
                Stamp::Dequeue => delay_is_right(now),
            };
            demand!(
                is_right,
                OneRace,
                "T {t:?} of race {:x} is not counted as configured, now {now:?}, asked at {:?}",
                order.race,
                arrivals().collect::<Vec<_>>()
            );
            let until = t + own.fallback_after;
            // Where the clock stepped while the query waited, T may be past.
            let due = truly + (until - now).max(Span::ZERO) + FALLBACK_TOLERANCE;
            self.dues.insert((due, order.master, order.process, order.race));
            let earlier = self
                .open
                .insert((order.master, order.process, source, question), (order.race, truly + (until - now), until));
            // The truth counts, too: a clock that stepped back shows the times of a race that is over once more.
            let is_only = earlier.is_none_or(|(_, ended, until)| until <= now || ended <= truly);
            demand!(is_only, OneRace, "race {:x} beside {earlier:?} of {source}", order.race);
        }
        let opened = self.opened_at.entry((order.master, order.process, source)).or_default();
        demand!(
            within_rate(opened, (now, truly), own.races_per_source_per_s),
            Amplified,
            "more than {} races per second for {source}",
            own.races_per_source_per_s
        );
        Ok(())
    }

    /// An agent says what became of an order.
    pub(super) fn judge_receipt(&self, agent: usize, master: usize, receipt: &Receipt) -> Verdict {
        let departed = self.departed.contains(&(agent, master, receipt.race, receipt.revision));
        let says = receipt.outcome.is_departed();
        demand!(
            departed || !says,
            Receipts,
            "agent {agent} says that race {:x}.{} departed",
            receipt.race,
            receipt.revision
        );
        let refused = matches!(receipt.outcome, ReceiptOutcome::Refused);
        demand!(
            !(refused && departed),
            Receipts,
            "agent {agent} says that it refused race {:x}.{}, which departed",
            receipt.race,
            receipt.revision
        );
        Ok(())
    }
}

/// Notes an instant, by the clock that fills the bucket and truly; whether in the second before there were not more than a
/// bucket of `rate` can have let through.
pub(super) fn within_rate(instants: &mut Vec<(LocalTime, SimTime)>, now: (LocalTime, SimTime), rate: u32) -> bool {
    // A clock that stepped back shows the same times once more: what is long ago in truth does not count.
    let is_near =
        |at: &(LocalTime, SimTime)| at.0 <= now.0 && now.0 - at.0 < RATE_SPAN && now.1 - at.1 < RATE_SPAN + RATE_SPAN;
    instants.retain(is_near);
    instants.push(now);
    instants.len() <= 2 * rate as usize + 1
}

/// The data of a query's COOKIE option: client's and server's part.
pub(super) fn cookie_of(query: &[u8]) -> Option<&[u8]> {
    match Query::parse(query) {
        Parsed::Query(query) => query.edns.and_then(|edns| edns.cookie),
        _ => None,
    }
}

/// Whose addresses these are, of one kind.
pub(super) fn of_kind(all: &[IpAddr], six: bool) -> Vec<IpAddr> {
    all.iter().copied().filter(|ip| ip.is_ipv6() == six).collect()
}
