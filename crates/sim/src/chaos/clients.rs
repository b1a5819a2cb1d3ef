//! Clients that ask until they have an answer, and when that may be asked of a world.

use domain::base::Rtype;
use startgun_core::agent::HOLD;
use startgun_core::master::Transmit;
use startgun_core::time::Span;
use std::collections::BTreeMap;

use super::judge::{Invariant, Judge, Verdict};
use super::plan::{Ask, Plan};
use crate::{Disturbance, Host, MasterOptions, SimTime, World};

/// For how long a query is repeated at least. It is repeated at the latest before the end of its race, which is
/// `fallback_after` = 250 ms after T, so that one of the repetitions meets an open race after T and is answered by the
/// master: 300 ms to T, 250 ms and another 250 ms. A client that waits longer and whom no agent reaches begins a new race
/// each time.
const ASKING_FOR: Span = Span::from_millis(800);
/// The same where T may be 2 s away, because a race is held for a signal.
const ASKING_FOR_SIGNAL: Span = Span::from_millis(2_600);
/// From the last query to its answer: a race that is held for a signal, `fallback_after`, and two ways of at most 80 ms
/// with their queue.
const PATIENCE: Span = Span::from_nanos(HOLD.as_nanos() + 250_000_000 + 350_000_000);

/// How long a client does not ask again: tries and patience, 5.5 s. Answers live longer.
const KEPT_FOR: Span = Span::from_secs(6);

/// A client and what it wants to know.
struct Asking {
    client: usize,
    master: usize,
    name: String,
    six: bool,
    began: SimTime,
    last: SimTime,
    tries: Vec<usize>,
    next: SimTime,
    retry_after: Span,
}

/// All clients of a world.
pub(super) struct Clients {
    asking: Vec<Asking>,
    /// Which of them a query belongs to.
    next_at: Option<SimTime>,
    disturbed: Vec<(Disturbance, SimTime, SimTime)>,
    /// Until when each master was disturbed itself: it ended, began, or its clock stepped.
    masters: BTreeMap<usize, SimTime>,
    cookies: Vec<bool>,
    /// What was asked for last, and when.
    kept: BTreeMap<(usize, usize, String, bool), SimTime>,
    names: u64,
    /// How long clients ask, by master.
    asking_for: Vec<Span>,
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Self {
        Clients {
            asking: Vec::new(),
            next_at: None,
            disturbed: Vec::new(),
            masters: BTreeMap::new(),
            // Every third client knows cookies.
            cookies: (0..plan.options.clients).map(|client| client % 3 == 1).collect(),
            kept: BTreeMap::new(),
            names: 0,
            asking_for: plan.options.masters.iter().map(asking_for).collect(),
        }
    }

    pub(super) fn note_disturbed(&mut self, disturbance: Disturbance, from: SimTime, until: SimTime) {
        self.disturbed.push((disturbance, from, until));
    }

    pub(super) fn note_master(&mut self, master: usize, at: SimTime) {
        self.masters.insert(master, at);
    }

    /// A master's clock steps. Races that are open end by that clock: a step back makes all of them longer.
    pub(super) fn note_stepped(&mut self, master: usize, at: SimTime, by: Span) {
        let until = self.masters.entry(master).or_insert(at);
        *until = at.max(*until) + (Span::ZERO - by).max(Span::ZERO);
    }

    /// When somebody repeats a query or has waited long enough.
    pub(super) fn next_at(&self) -> Option<SimTime> {
        self.next_at
    }

    /// A client begins to ask.
    pub(super) fn ask(&mut self, world: &mut World, judge: &Judge<'_>, ask: &Ask, name: &str) {
        let Ask { client, master, six, retry_after, .. } = *ask;
        // A name of its own now and then, so that not every race has one before it.
        self.names += 1;
        let name =
            if self.names.is_multiple_of(2) { format!("{name}.cdn.test") } else { format!("u{}.cdn.test", self.names) };
        let now = world.now();
        // A resolver asks for one thing once, answers all who want it, and keeps the answer: a second query would take the
        // race of the first, or meet a race that was answered.
        self.kept.retain(|_, at| now - *at < KEPT_FOR);
        let question = (client, master, name.clone(), six);
        if self.kept.contains_key(&question) {
            return;
        }
        self.kept.insert(question, now);
        let mut asking =
            Asking { client, master, name, six, began: now, last: now, tries: Vec::new(), next: now, retry_after };
        self.send(world, judge, &mut asking);
        self.asking.push(asking);
        self.schedule();
    }

    fn send(&self, world: &mut World, judge: &Judge<'_>, asking: &mut Asking) {
        let rtype = if asking.six { Rtype::AAAA } else { Rtype::A };
        let known = judge.cookies.get(&asking.client).and_then(|given| given.last());
        let fresh = [0x30 + asking.client as u8; 8];
        let cookie: &[u8] = match (self.cookies[asking.client], known) {
            (false, _) => &[],
            (true, Some(cookie)) => cookie,
            (true, None) => &fresh,
        };
        let number = world.ask(asking.client, asking.master, &asking.name, rtype, cookie);
        asking.tries.push(number);
        asking.last = world.now();
        asking.next = world.now() + if self.goes_on(asking, world.now()) { asking.retry_after } else { PATIENCE };
    }

    /// Whether a client that asked last at an instant repeats its query.
    fn goes_on(&self, asking: &Asking, last: SimTime) -> bool {
        last - asking.began < self.asking_for[asking.master]
    }

    fn schedule(&mut self) {
        self.next_at = self.asking.iter().map(|asking| asking.next).min();
    }

    /// Whoever has no answer yet asks again, or gives up.
    pub(super) fn retry(&mut self, world: &mut World, judge: &Judge<'_>) -> Verdict {
        let now = world.now();
        if self.next_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        let mut going_on = Vec::new();
        for mut asking in core::mem::take(&mut self.asking) {
            if asking.next > now {
                going_on.push(asking);
                continue;
            }
            let answered = asking.tries.iter().any(|&number| world.finishes()[number].answers > 0);
            if answered {
                continue;
            }
            if self.goes_on(&asking, asking.last) {
                self.send(world, judge, &mut asking);
                going_on.push(asking);
            } else if !self.is_excused(world, judge, &asking) {
                let Asking { client, master, name, began, .. } = &asking;
                let what = format!(
                    "client {client} asked master {master} for {name} {} times from {began:?} on, and was not answered",
                    asking.tries.len()
                );
                return Err((Invariant::Answered, what));
            }
        }
        self.asking = going_on;
        self.schedule();
        Ok(())
    }

    /// Whether the master, or the way to it, was not whole while a client asked.
    fn is_excused(&self, world: &World, judge: &Judge<'_>, asking: &Asking) -> bool {
        let (client, master) = (Host::Client(asking.client), Host::Master(asking.master));
        let disturbed = self.disturbed.iter().any(|(disturbance, from, until)| {
            let concerns = disturbance.concerns(client, master) || disturbance.concerns(master, client);
            // What was sent before the end of a disturbance may be under way after it.
            concerns && *from <= world.now() && *until + Span::from_secs(1) >= asking.began
        });
        let since = |at: Option<&SimTime>| at.is_some_and(|at| *at + Span::from_millis(200) >= asking.began);
        disturbed
            || !world.is_master_alive(asking.master)
            || since(self.masters.get(&asking.master))
            || since(judge.queue_full.get(&asking.master))
    }
}

fn asking_for(master: &MasterOptions) -> Span {
    if matches!(master.transmit, Transmit::Held(_)) { ASKING_FOR_SIGNAL } else { ASKING_FOR }
}
