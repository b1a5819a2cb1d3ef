//! From a plan that breaks something to the least that still does.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002): leave out half of the faults, then quarters, and so on to single ones,
//! and keep every plan that still breaks the same invariant; the same with what clients ask. Faults' lengths are halved
//! after that. Every try is a whole run, so their number is bounded.

use startgun_core::time::Span;

use super::judge::Violation;
use super::plan::{Fault, Plan};
use super::run::run;

/// Most runs for one violation: about 20 for each of 24 faults, and as many for 250 queries by halves. At 30 ms each
/// that is 12 s.
const MAX_RUNS: usize = 400;
/// A fault is not made shorter than this.
const SHORTEST: Span = Span::from_millis(10);

/// The least plan that was found to break the same invariant, how it does, and how many runs that took.
pub fn shrink(plan: &Plan, violation: &Violation) -> (Plan, Violation, usize) {
    let mut shrinker = Shrinker { plan: plan.clone(), violation: violation.clone(), runs: 0 };
    shrinker.cut_the_end();
    for _ in 0..2 {
        let (faults, asks) = (shrinker.plan.faults.len(), shrinker.plan.asks.len());
        shrinker.leave_out(|plan| plan.faults.len(), |plan, from, to| drop(plan.faults.drain(from..to)));
        shrinker.leave_out(|plan| plan.asks.len(), |plan, from, to| drop(plan.asks.drain(from..to)));
        if (faults, asks) == (shrinker.plan.faults.len(), shrinker.plan.asks.len()) {
            break;
        }
    }
    shrinker.shorten();
    (shrinker.plan, shrinker.violation, shrinker.runs)
}

struct Shrinker {
    plan: Plan,
    violation: Violation,
    runs: usize,
}

impl Shrinker {
    /// Takes a plan over if it breaks the same; `false` when it does not, or there were runs enough.
    fn take(&mut self, plan: Plan) -> bool {
        if self.runs >= MAX_RUNS {
            return false;
        }
        self.runs += 1;
        match run(&plan, false).violation.filter(|found| found.invariant == self.violation.invariant) {
            Some(found) => {
                (self.plan, self.violation) = (plan, found);
                true
            }
            None => false,
        }
    }

    /// What was to begin after the violation did not matter.
    fn cut_the_end(&mut self) {
        let start = run(&Plan { faults: Vec::new(), asks: Vec::new(), ..self.plan.clone() }, false).start;
        self.runs += 1;
        let end = self.violation.at - start;
        let mut plan = self.plan.clone();
        plan.faults.retain(|(at, _)| *at <= end);
        plan.asks.retain(|ask| ask.at <= end);
        self.take(plan);
    }

    fn leave_out(&mut self, length: impl Fn(&Plan) -> usize, drop: impl Fn(&mut Plan, usize, usize)) {
        let mut size = length(&self.plan).div_ceil(2);
        while size > 0 {
            // From the back, so that what was tried stays in its place.
            let mut end = length(&self.plan);
            while end > 0 {
                let begin = end.saturating_sub(size);
                let mut plan = self.plan.clone();
                drop(&mut plan, begin, end);
                self.take(plan);
                end = begin;
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    fn shorten(&mut self) {
        for number in 0..self.plan.faults.len() {
            loop {
                let mut plan = self.plan.clone();
                if !halve(&mut plan.faults[number].1) || !self.take(plan) {
                    break;
                }
            }
        }
    }
}

/// Halves what lasts; `false` where nothing does, or it is short already.
fn halve(fault: &mut Fault) -> bool {
    let lasting = match fault {
        Fault::Disturb(_, lasting) | Fault::PauseAgent(_, lasting) | Fault::SuspendAgent(_, lasting, true) => lasting,
        Fault::KillAgent { down, .. } | Fault::KillMaster { down, .. } => down,
        Fault::SlowDisk(_, _, lasting) => lasting,
        _ => return false,
    };
    *lasting = lasting.half();
    *lasting >= SHORTEST
}
