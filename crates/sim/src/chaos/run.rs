//! Carrying a plan out, one event at a time, with the judge behind it.

use startgun_core::time::Span;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::clients::Clients;
use super::forgers::Forger;
use super::judge::{Invariant, Judge, Verdict, Violation};
use super::plan::{Ask, FAULTS_FOR, Fault, LIFTED_AT, Plan, SIGNAL};
use crate::{Host, SimTime, Suspended, World};

/// How long after the last fault every sound agent races again, and how long after the world's beginning for the first
/// time. A self-test whose ten challenges were all lost is begun again after 10 s; a clock has its burst of 16 exchanges
/// every 100 ms and a second of calm behind it, after a connection that is dialled again after 0.5 s and needs four ways of
/// up to 80 ms; departures that were late pause an agent for 2, 4 and then 8 s. The longest of these, the self-test, and the
/// clock's 4 s after it; doubled, because a path may lose one packet in twenty.
pub const HEALED_WITHIN: Span = Span::from_secs(28);
/// Between two looks whether everybody races.
const LOOK_EVERY: Span = Span::from_millis(20);
/// How long the last queries may take: a client's tries at a race that is held for a signal, and its patience.
const LAST_QUERIES: Span = Span::from_secs(6);
/// After how long the last queries are repeated.
const LAST_RETRY: Span = Span::from_millis(250);
/// Most events of one run: 40 s with 4 agents and 3 masters are 60,000; twenty times that is a runaway.
const MAX_STEPS: u64 = 1 << 20;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was broken first, if anything.
    pub violation: Option<Violation>,
    /// Races that were opened.
    pub races: u64,
    /// Answers of agents that left.
    pub departures: u64,
    /// Worthless datagrams that reached a machine.
    pub forged: u64,
    /// Departures and readings that no judge can judge: after a fault that no clock can know of.
    pub blind: u64,
    /// Events.
    pub steps: u64,
    /// When the world was warm: the plan's times count from there.
    pub start: SimTime,
    /// A digest of the trace, where one was asked for.
    pub digest: u64,
    /// The trace, where it was asked for.
    pub trace: String,
}

/// What happens next.
enum Action {
    /// A fault of the plan begins.
    Begin(usize),
    /// What a fault has left ends.
    End(End),
    /// A client asks, by the plan.
    Ask(usize),
}

/// The end of a fault.
#[derive(Clone, Copy)]
enum End {
    StartAgent(usize, Option<Span>),
    StartMaster(usize, Option<Span>),
    QuickDisk(usize),
}

/// Carries a plan out until something is broken, or to its end. With `trace` every event is noted.
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let mut options = plan.options.clone();
    options.trace = trace;
    let mut world = World::new(options, plan.seed);
    world.watch();
    let judge = Judge::new(plan, &world);
    let mut run = Run {
        plan,
        clients: Clients::new(plan),
        forger: Forger::new(plan.seed),
        judge,
        actions: BTreeMap::new(),
        next_action: 0,
        start: world.now(),
        steps: 0,
        world,
    };
    let verdict = catch_unwind(AssertUnwindSafe(|| run.carry_out())).unwrap_or_else(|panic| {
        let told = panic.downcast_ref::<String>().cloned();
        let told = told.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err((Invariant::Panic, told.unwrap_or_default()))
    });
    let at = run.world.now();
    let violation = verdict.err().map(|(invariant, what)| Violation { invariant, what, at, step: run.steps });
    Outcome {
        violation,
        races: run.judge.races_seen,
        departures: run.judge.departures_seen,
        forged: run.judge.forged_seen,
        blind: run.judge.blind,
        steps: run.steps,
        start: run.start,
        digest: run.world.trace_digest(),
        trace: run.world.trace().to_owned(),
    }
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    judge: Judge<'a>,
    clients: Clients,
    forger: Forger,
    actions: BTreeMap<(SimTime, u64), Action>,
    next_action: u64,
    start: SimTime,
    steps: u64,
}

impl Run<'_> {
    fn carry_out(&mut self) -> Verdict {
        self.until_all_race("from the beginning")?;
        self.start = self.world.now();
        for client in (0..self.plan.victim()).step_by(2) {
            (0..self.plan.options.masters.len()).for_each(|master| self.validate(client, master));
        }
        for (number, (at, _)) in self.plan.faults.iter().enumerate() {
            self.plan_action(self.start + *at, Action::Begin(number));
        }
        for (number, ask) in self.plan.asks.iter().enumerate() {
            self.plan_action(self.start + ask.at, Action::Ask(number));
        }
        // A plan that was made shorter ends earlier, too.
        let last =
            self.plan.faults.iter().map(|(at, _)| *at).max().map_or(Span::ZERO, |at| at + (LIFTED_AT - FAULTS_FOR));
        let asked = self.plan.asks.iter().map(|ask| ask.at).max().unwrap_or(Span::ZERO);
        self.pass_until(self.start + last.max(asked))?;
        self.until_all_race("after the last fault")?;
        self.last_queries()
    }

    /// Waits until every sound agent races for all of its masters.
    fn until_all_race(&mut self, since: &str) -> Verdict {
        let end = self.world.now() + HEALED_WITHIN;
        loop {
            let mut waiting = Vec::new();
            for agent in (0..self.plan.options.agents.len()).filter(|&agent| self.plan.is_sound(agent)) {
                for &master in &self.plan.options.agents[agent].masters {
                    let races = self.world.races(agent, master) && self.world.stand_down(agent, master).is_none();
                    if !races {
                        waiting.push((agent, master));
                    }
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if self.world.now() >= end {
                let reason = |&(agent, master): &(usize, usize)| {
                    format!(
                        "agent {agent} of master {master}: {:?}, {:?}",
                        self.world.stand_down(agent, master),
                        self.world.readiness(agent, master)
                    )
                };
                let waiting: Vec<String> = waiting.iter().map(reason).collect();
                return Err((Invariant::Healed, format!("{HEALED_WITHIN} {since}: {}", waiting.join("; "))));
            }
            self.pass_until(self.world.now() + LOOK_EVERY)?;
        }
    }

    /// Everybody asks once more, of a world that is whole.
    fn last_queries(&mut self) -> Verdict {
        for client in 0..self.plan.victim() {
            for master in 0..self.plan.options.masters.len() {
                self.validate(client, master);
                let ask = Ask { at: Span::ZERO, client, master, name: 0, six: false, retry_after: LAST_RETRY };
                self.clients.ask(&mut self.world, &self.judge, &ask, "last");
            }
        }
        self.pass_until(self.world.now() + LAST_QUERIES)?;
        // What was lost on the way turns up again at last: orders whose race is forgotten, requests and replies from before
        // a suspend.
        self.forger.resend(&mut self.world, &self.judge);
        self.pass_until(self.world.now() + Span::from_secs(1))
    }

    fn validate(&mut self, client: usize, master: usize) {
        if self.world.is_master_alive(master) {
            self.world.validate(client, master);
            self.judge.note_validated(&self.world, master, client);
        }
    }

    fn plan_action(&mut self, at: SimTime, action: Action) {
        self.next_action += 1;
        self.actions.insert((at, self.next_action), action);
    }

    /// Lets everything happen until an instant, judging every step.
    fn pass_until(&mut self, end: SimTime) -> Verdict {
        loop {
            let action = self.actions.first_key_value().map(|((at, _), _)| *at);
            let retry = self.clients.next_at();
            let next = [action, retry, Some(end)].into_iter().flatten().min().unwrap_or(end);
            self.steps_until(next)?;
            while self.actions.first_key_value().is_some_and(|((at, _), _)| *at <= next) {
                if let Some((_, action)) = self.actions.pop_first() {
                    self.act(action);
                    self.judge.take_step(&mut self.world)?;
                }
            }
            self.clients.retry(&mut self.world, &self.judge)?;
            self.judge.take_step(&mut self.world)?;
            if next >= end {
                return Ok(());
            }
        }
    }

    fn steps_until(&mut self, end: SimTime) -> Verdict {
        while self.world.step(end) {
            self.steps += 1;
            assert!(self.steps < MAX_STEPS, "{MAX_STEPS} steps");
            self.judge.take_step(&mut self.world)?;
            for (client, master) in self.judge.take_truncated() {
                self.validate(client, master);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Begin(number) => self.begin(&self.plan.faults[number].1),
            Action::Ask(number) => {
                let ask = self.plan.asks[number];
                let name = format!("n{}", ask.name);
                self.clients.ask(&mut self.world, &self.judge, &ask, &name);
            }
            Action::End(End::StartAgent(agent, booted)) => self.world.start_agent(agent, booted),
            Action::End(End::StartMaster(master, booted)) => {
                if !self.world.is_master_alive(master) {
                    self.clients.note_master(master, self.world.now());
                }
                self.world.start_master(master, booted);
            }
            Action::End(End::QuickDisk(agent)) => self.world.slow_disk(agent, Span::ZERO),
        }
    }

    fn end_later(&mut self, after: Span, end: End) {
        self.plan_action(self.world.now() + after, Action::End(end));
    }

    fn begin(&mut self, fault: &Fault) {
        let now = self.world.now();
        let world = &mut self.world;
        match *fault {
            Fault::Disturb(disturbance, lasting) => {
                world.disturb(disturbance, now + lasting);
                self.clients.note_disturbed(disturbance, now, now + lasting);
            }
            Fault::KillAgent { agent, down, booted } => {
                world.kill_agent(agent);
                self.end_later(down, End::StartAgent(agent, booted));
            }
            Fault::KillMaster { master, down, booted } => {
                world.kill_master(master);
                self.judge.note_down(master);
                self.clients.note_master(master, now);
                self.end_later(down, End::StartMaster(master, booted));
            }
            Fault::CutControl { agent, master } => world.cut_control(agent, master),
            Fault::PauseAgent(agent, span) => {
                if !world.halted(agent) && world.is_agent_alive(agent) {
                    world.pause_agent(agent, span);
                }
            }
            Fault::SuspendAgent(agent, span, told) => {
                if !world.halted(agent) && world.is_agent_alive(agent) {
                    let suspended = if told { Suspended::Told } else { Suspended::Untold };
                    world.suspend_agent(agent, span, suspended);
                }
            }
            Fault::StepAgent(agent, by) => {
                if !world.halted(agent) && world.is_agent_alive(agent) {
                    world.step_agent_clock(agent, by);
                }
            }
            Fault::StepMaster(master, by) => {
                if world.is_master_alive(master) {
                    world.step_master_clock(master, by);
                    self.judge.note_stepped(master);
                    self.clients.note_stepped(master, now, by);
                }
            }
            Fault::Drift(host, ppb) => {
                let stands = matches!(host, Host::Agent(agent) if world.halted(agent) || !world.is_agent_alive(agent));
                if !stands {
                    world.change_drift(host, ppb);
                }
            }
            Fault::Reconfigure(master, generation) => world.reconfigure(master, generation),
            Fault::SlowDisk(agent, delay, lasting) => {
                world.slow_disk(agent, delay);
                self.end_later(lasting, End::QuickDisk(agent));
            }
            Fault::Flood { master, client, queries } => self.forger.flood(world, master, client, queries),
            Fault::FireSignal(master) => {
                if world.is_master_alive(master) {
                    world.fire_signal(master, SIGNAL);
                }
            }
            Fault::Forge(forgery, number) => self.forger.forge(world, self.plan, &self.judge, forgery, number),
        }
    }
}
