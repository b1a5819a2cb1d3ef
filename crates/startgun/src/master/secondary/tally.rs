//! What is counted of secondaries' zones. Every counter's name is in this file; docs/operations.md explains each.

/// A primary confirmed a zone, or sent another version, which is served now.
pub(super) const CHECKS: &str = "zone_checks";
/// No primary did.
pub(super) const CHECKS_FAILED: &str = "zone_checks_failed";
/// A zone came whole.
pub(super) const WHOLE: &str = "transfers_in_whole";
/// Differences came.
pub(super) const DIFFERENCES: &str = "transfers_in_differences";
