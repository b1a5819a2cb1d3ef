//! The fault search finds each bug that was planted in the core, within so many seeds, and makes its trace short.

use startgun_core::planted::{self, Bug};
use startgun_sim::chaos::{Invariant, search};

/// Finds the bug on this thread, within so many seeds, by one of these invariants.
fn find(bug: Bug, seeds: u64, by: &[Invariant]) {
    planted::plant(Some(bug));
    let (totals, found) = search(0..seeds, 1, |_| ());
    planted::plant(None);
    let found = found.unwrap_or_else(|| panic!("{bug:?} was not found in {seeds} seeds"));
    let (plan, violation) = &found.shortest;
    println!(
        "{bug:?}: seed {}, {} seeds, {} faults and {} queries left after {} runs: {violation}",
        found.seed,
        totals.seeds,
        plan.faults.len(),
        plan.asks.len(),
        found.runs
    );
    assert!(by.contains(&violation.invariant), "{bug:?} was found by another invariant: {violation}");
    assert!(!found.trace.is_empty(), "{bug:?} left no trace");
}

#[test]
fn a_departure_that_is_too_early() {
    find(Bug::DepartureTooEarly, 20, &[Invariant::NotEarly]);
}

#[test]
fn a_bound_that_is_ignored() {
    find(Bug::BoundIgnored, 40, &[Invariant::WithinBound]);
}

#[test]
fn a_replay_window_that_is_off_by_one() {
    find(Bug::ReplayWindowOffByOne, 40, &[Invariant::Forged]);
}

#[test]
fn a_stale_playbook() {
    find(Bug::StalePlaybook, 60, &[Invariant::Playbook]);
}

#[test]
fn a_gap_when_keys_rotate() {
    find(Bug::KeyRotationGap, 40, &[Invariant::Taken]);
}

#[test]
fn an_amended_query_that_is_answered_twice() {
    find(Bug::AmendedTwice, 60, &[Invariant::OneAnswer]);
}

#[test]
fn a_table_without_a_limit() {
    find(Bug::TableWithoutLimit, 60, &[Invariant::Tables]);
}

#[test]
fn a_clock_that_is_not_reset_after_a_step() {
    find(Bug::StepIgnored, 60, &[Invariant::BoundHolds]);
}
