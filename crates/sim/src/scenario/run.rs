//! Carrying a scenario out: time passes, races run, faults happen, and everything is folded as it comes.

use startgun_core::time::Span;

use super::figures::Figures;
use crate::{Options, SimTime, World};

/// Between two looks at who stands down, and between two queries.
const SLICE: Span = Span::from_millis(250);
/// The same just after a fault.
const FINE_SLICE: Span = Span::from_millis(10);
/// Between two looks at the agents' mutual error.
const MUTUAL_INTERVAL: Span = Span::from_secs(1);
/// Mean time between two readings by chance; an exchange takes place every 250 ms.
const READINGS_BETWEEN: Span = Span::from_millis(150);
/// An agent that has not stood down by this reply after a fault does not.
const LAST_REPLY: u32 = 4;
/// Longest wait for agents to stand down, and for them to race (again).
const PATIENCE: Span = Span::from_secs(30);

/// A world in which a scenario takes place.
pub struct Run {
    /// The world, for faults without a method here.
    pub world: World,
    seed: u64,
    figures: Figures,
    racing: bool,
    query_at: SimTime,
    queries: u64,
    mutual_at: SimTime,
    /// Which agents stood down at the last look; all of them at first.
    stands_down: Vec<bool>,
    /// Whether standing down is to be expected at the moment.
    excused: bool,
}

impl Run {
    /// Makes the world and waits until every agent races.
    pub fn begin(mut options: Options, seed: u64) -> Self {
        options.trace = false;
        options.readings_between = READINGS_BETWEEN;
        let agents = options.agents.len();
        let world = World::new(options, seed);
        let (query_at, mutual_at) = (world.now(), world.now());
        let mut run = Run {
            world,
            seed,
            figures: Figures::default(),
            racing: false,
            query_at,
            queries: 0,
            mutual_at,
            stands_down: vec![true; agents],
            excused: true,
        };
        let all: Vec<usize> = (0..agents).collect();
        let after = run.race_again(&all, run.world.now());
        run.figures.take_ready(after);
        run.excused = false;
        run
    }

    /// How many agents there are.
    pub fn agents(&self) -> usize {
        self.stands_down.len()
    }

    /// From now on a client asks for a race four times a second, or stops.
    pub fn race(&mut self, racing: bool) {
        self.racing = racing;
        self.query_at = self.world.now();
        self.world.validate_all();
    }

    /// Time passes; readings are judged by their bound alone.
    pub fn settle(&mut self, span: Span) {
        self.pass(span, SLICE, false);
    }

    /// Time passes; readings count towards the figures of error and bound, too.
    pub fn measure(&mut self, span: Span) {
        self.pass(span, SLICE, true);
    }

    /// Time passes in which agents may stand down without its being counted.
    pub fn excuse(&mut self, span: Span) {
        self.excused = true;
        self.pass(span, SLICE, false);
        self.excused = false;
    }

    /// A fault happens that these agents must notice: waits until each has stood down, or has had its last chance.
    pub fn fault(&mut self, affected: &[usize], happen: impl FnOnce(&mut World)) {
        self.excused = true;
        happen(&mut self.world);
        let end = self.world.now() + PATIENCE;
        let mut waiting = affected.to_vec();
        while !waiting.is_empty() && self.world.now() < end {
            self.pass(FINE_SLICE, FINE_SLICE, false);
            let (world, figures) = (&self.world, &mut self.figures);
            waiting.retain(|&agent| {
                let replies = world.replies_since_fault(agent, 0).unwrap_or(0);
                let down = !world.halted(agent) && world.stand_down(agent, 0).is_some();
                if down || replies >= LAST_REPLY {
                    figures.take_stood_down(if down { replies } else { u32::MAX });
                }
                !down && replies < LAST_REPLY
            });
        }
        waiting.iter().for_each(|_| self.figures.take_stood_down(u32::MAX));
        self.excused = false;
    }

    /// Waits until these agents race; counts the time since the cause went away.
    pub fn recover(&mut self, affected: &[usize], gone: SimTime) {
        self.excused = true;
        let after = self.race_again(affected, gone);
        self.figures.take_again(after);
        self.excused = false;
    }

    /// The time from `since` until all of these agents are ready and the master lets them race.
    fn race_again(&mut self, affected: &[usize], since: SimTime) -> Span {
        let end = since + PATIENCE;
        while self.world.now() < end {
            let ready = |agent: &usize| self.world.stand_down(*agent, 0).is_none() && self.world.races(*agent, 0);
            if affected.iter().all(ready) {
                break;
            }
            self.pass(FINE_SLICE, FINE_SLICE, false);
        }
        self.world.now() - since
    }

    fn pass(&mut self, span: Span, slice: Span, settled: bool) {
        let end = self.world.now() + span;
        while self.world.now() < end {
            if self.racing && self.world.now() >= self.query_at {
                self.query_at = self.world.now() + SLICE;
                self.queries += 1;
                let name = format!("q{}.cdn.test", self.queries);
                self.world.query(0, 0, &name);
            }
            self.world.run_for(slice.min(end - self.world.now()));
            for reading in self.world.take_readings() {
                self.figures.take_reading(self.seed, &reading, settled);
            }
            for departure in self.world.take_departures() {
                self.figures.take_departure(self.seed, &departure);
            }
            self.look_who_stands_down();
            if settled && self.world.now() >= self.mutual_at {
                self.mutual_at = self.world.now() + MUTUAL_INTERVAL;
                self.look_at_mutual_error();
            }
        }
    }

    fn look_who_stands_down(&mut self) {
        for agent in 0..self.stands_down.len() {
            if self.world.halted(agent) {
                continue;
            }
            let reason = self.world.stand_down(agent, 0);
            if let Some(reason) = reason.filter(|_| !self.stands_down[agent] && !self.excused) {
                let now = self.world.now();
                self.figures.take_stand_down(self.seed, || format!("agent {agent} at {now:?}: {}", reason.text()));
            }
            self.stands_down[agent] = reason.is_some();
        }
    }

    fn look_at_mutual_error(&mut self) {
        let errors: Vec<Span> = (0..self.agents())
            .filter(|&agent| !self.world.halted(agent))
            .filter_map(|agent| self.world.read_clock(agent, 0))
            .filter(|reading| !reading.blind)
            .map(|reading| reading.error)
            .collect();
        self.figures.take_mutual(&errors);
    }

    /// The run's figures.
    pub(super) fn finish(mut self) -> Figures {
        self.figures.exchanges = (0..self.agents()).map(|agent| self.world.exchanges(agent, 0)).sum();
        self.figures
    }
}
