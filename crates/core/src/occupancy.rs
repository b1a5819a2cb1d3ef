//! How full the tables are: for whoever watches that none outgrows its limit.

/// A table of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// What is in it.
    pub table: &'static str,
    /// How many there are now.
    pub entries: usize,
    /// How many there may be.
    pub limit: usize,
}

impl Occupancy {
    /// A table with so many entries of at most `limit`.
    pub fn new(table: &'static str, entries: usize, limit: usize) -> Self {
        Occupancy { table, entries, limit }
    }

    /// Whether there are more than there may be.
    pub fn is_over(&self) -> bool {
        self.entries > self.limit
    }
}
