//! The map of a scenario: named places and the one-way delay from each to each.
//!
//! Maps come as round-trip times, from a CSV file, a compact matrix or single pairs. A round trip does not tell its two
//! directions apart, so a *split* does: for the pair of places i before j in file order, i → j takes split × RTT and
//! j → i the rest.

use std::collections::BTreeMap;

/// Places on a map: far above any lab's number of hosts, so that a whole table of cities can be given.
pub const PLACES_MAX: usize = 2_000;

/// RTT between two hosts at one place, in ms: two machines in one city, and no path is shorter. Below it the emulator's own
/// cost per frame (tens of µs) would be what a race measures.
pub const RTT_FLOOR_MS: f64 = 0.2;

/// Longest RTT accepted, in ms: a query is given up after 5 s.
pub const RTT_MS_MAX: f64 = 5_000.0;

/// A fault in a map, with its place in the text where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapFault {
    /// Line and column, both from 1; for CSV the column counts cells.
    pub(crate) place: Option<(usize, usize)>,
    pub(crate) what: String,
}

impl MapFault {
    fn at(line: usize, column: usize, what: impl Into<String>) -> Self {
        Self { place: Some((line, column)), what: what.into() }
    }

    fn nowhere(what: impl Into<String>) -> Self {
        Self { place: None, what: what.into() }
    }
}

/// Places and the delays between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    index_of_name: BTreeMap<String, usize>,
    /// One-way delay in ms by (from, to); a pair of which nothing is known is absent.
    one_way_ms: BTreeMap<(usize, usize), f64>,
}

/// Round-trip times as given: both directions, either of which may be missing.
pub(crate) struct RoundTrips {
    pub(crate) names: Vec<String>,
    pub(crate) rtt_ms: BTreeMap<(usize, usize), f64>,
}

impl Map {
    /// Whether the map has this place.
    pub fn has(&self, name: &str) -> bool {
        self.index_of_name.contains_key(name)
    }

    /// One-way delay in milliseconds; `None` when the map does not tell it.
    pub fn one_way_ms(&self, from: &str, to: &str) -> Option<f64> {
        let from = *self.index_of_name.get(from)?;
        let to = *self.index_of_name.get(to)?;
        if from == to {
            return Some(RTT_FLOOR_MS / 2.0);
        }
        self.one_way_ms.get(&(from, to)).copied()
    }

    /// Makes the map from round trips, each pair divided by `split`.
    pub(crate) fn from_round_trips(trips: RoundTrips, split: f64) -> Self {
        let mut one_way_ms = BTreeMap::new();
        for (&(i, j), &there) in &trips.rtt_ms {
            if i == j || (i > j && trips.rtt_ms.contains_key(&(j, i))) {
                continue;
            }
            let back = trips.rtt_ms.get(&(j, i)).copied().unwrap_or(there);
            let rtt_ms = f64::midpoint(there, back).max(RTT_FLOOR_MS);
            let (first, second) = (i.min(j), i.max(j));
            one_way_ms.insert((first, second), split * rtt_ms);
            one_way_ms.insert((second, first), (1.0 - split) * rtt_ms);
        }
        Self { index_of_name: index_names(trips.names), one_way_ms }
    }

    /// Makes the map from single pairs `(a, b, RTT in ms, split)`: a → b takes split × RTT.
    pub(crate) fn from_pairs(pairs: Vec<(String, String, f64, f64)>) -> Self {
        let mut index_of_name = BTreeMap::new();
        let mut one_way_ms = BTreeMap::new();
        for (a, b, rtt_ms, split) in pairs {
            let count = index_of_name.len();
            let a = *index_of_name.entry(a).or_insert(count);
            let count = index_of_name.len();
            let b = *index_of_name.entry(b).or_insert(count);
            let rtt_ms = rtt_ms.max(RTT_FLOOR_MS);
            one_way_ms.insert((a, b), split * rtt_ms);
            one_way_ms.insert((b, a), (1.0 - split) * rtt_ms);
        }
        Self { index_of_name, one_way_ms }
    }
}

fn index_names(names: Vec<String>) -> BTreeMap<String, usize> {
    names.into_iter().enumerate().map(|(i, name)| (name, i)).collect()
}

/// Checks one round-trip time in ms.
pub(crate) fn check_rtt_ms(rtt_ms: f64) -> Result<f64, String> {
    if (0.0..=RTT_MS_MAX).contains(&rtt_ms) {
        Ok(rtt_ms)
    } else {
        Err(format!("RTT {rtt_ms}: expected milliseconds from 0 to {RTT_MS_MAX}"))
    }
}

/// Reads a square CSV whose header row and first column are the same names in the same order.
///
/// The header's first cell is free. An empty cell is an unknown RTT. Quoted cells may hold commas and doubled quotes;
/// a line break inside a cell is not supported.
pub(crate) fn parse_csv(text: &str) -> Result<RoundTrips, MapFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim().is_empty());
    let (header_line, header) =
        lines.next().ok_or_else(|| MapFault::at(1, 1, "empty file: expected a header row of names"))?;
    let mut names = csv_cells(header, header_line)?;
    names.remove(0);
    check_names(&names, header_line)?;
    let mut rtt_ms = BTreeMap::new();
    let mut rows = 0;
    for (line, row) in lines {
        let cells = csv_cells(row, line)?;
        let Some(expected) = names.get(rows) else {
            return Err(MapFault::at(
                line,
                1,
                format!("one row more than the {} names of the header: expected a square table", names.len()),
            ));
        };
        if &cells[0] != expected {
            return Err(MapFault::at(
                line,
                1,
                format!("row name {:?}: expected {expected:?}, as in column {} of the header", cells[0], rows + 2),
            ));
        }
        if cells.len() != names.len() + 1 {
            return Err(MapFault::at(
                line,
                cells.len(),
                format!("{} cells: expected {}, one more than there are names", cells.len(), names.len() + 1),
            ));
        }
        for (j, cell) in cells[1..].iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            let number = cell
                .parse::<f64>()
                .map_err(|_| format!("{cell:?}: expected an RTT in milliseconds, or nothing"))
                .and_then(check_rtt_ms)
                .map_err(|what| MapFault::at(line, j + 2, what))?;
            rtt_ms.insert((rows, j), number);
        }
        rows += 1;
    }
    if rows < names.len() {
        return Err(MapFault::at(
            text.lines().count(),
            1,
            format!(
                "{rows} rows: expected {}, one for each name of the header; {:?} has none",
                names.len(),
                names[rows]
            ),
        ));
    }
    Ok(RoundTrips { names, rtt_ms })
}

fn check_names(names: &[String], line: usize) -> Result<(), MapFault> {
    if names.is_empty() || names.len() > PLACES_MAX {
        return Err(MapFault::at(line, 1, format!("{} names: expected 1 to {PLACES_MAX}", names.len())));
    }
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(MapFault::at(line, i + 2, "empty name"));
        }
        if names[..i].contains(name) {
            return Err(MapFault::at(line, i + 2, format!("{name:?} appears twice")));
        }
    }
    Ok(())
}

fn csv_cells(line: &str, number: usize) -> Result<Vec<String>, MapFault> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let column = cells.len() + 1;
        rest = rest.trim_start();
        let cell;
        (cell, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted).ok_or_else(|| MapFault::at(number, column, "quote without an end"))?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_owned(), &rest[end..])
            }
        };
        cells.push(cell);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(cells);
        }
        rest = rest.strip_prefix(',').ok_or_else(|| MapFault::at(number, column, "text after a quoted cell"))?;
    }
}

/// The cell up to its closing quote, and what follows it.
fn quoted_cell(quoted: &str) -> Option<(String, &str)> {
    let mut cell = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"')?;
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix('"') else {
            return Some((cell, rest));
        };
        cell.push('"');
        rest = after;
    }
}

/// Reads a matrix from a scenario file: row i holds the RTTs from name i to the first names, in their order, and may stop
/// early. Where both directions are given, their mean counts.
pub(crate) fn from_matrix(names: Vec<String>, rows: &[Vec<f64>]) -> Result<RoundTrips, MapFault> {
    check_names(&names, 0).map_err(|fault| MapFault::nowhere(fault.what))?;
    if rows.len() != names.len() {
        return Err(MapFault::nowhere(format!("{} rows: expected {}, one for each name", rows.len(), names.len())));
    }
    let mut rtt_ms = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        if row.len() > names.len() {
            return Err(MapFault::nowhere(format!(
                "row of {:?}: {} figures: expected at most {}",
                names[i],
                row.len(),
                names.len()
            )));
        }
        for (j, &number) in row.iter().enumerate() {
            let number = check_rtt_ms(number).map_err(|what| {
                MapFault::nowhere(format!("row of {:?}, column of {:?}: {what}", names[i], names[j]))
            })?;
            rtt_ms.insert((i, j), number);
        }
    }
    Ok(RoundTrips { names, rtt_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv_map(text: &str, split: f64) -> Map {
        Map::from_round_trips(parse_csv(text).unwrap(), split)
    }

    #[test]
    fn a_pair_counts_the_mean_of_both_directions_and_is_split_in_file_order() {
        let map = csv_map("name,x,y\r\nx,0,30\r\ny,50,0\r\n", 0.6);
        assert_eq!(map.one_way_ms("x", "y"), Some(0.6 * 40.0));
        assert_eq!(map.one_way_ms("y", "x"), Some(0.4 * 40.0));
        assert_eq!(map.one_way_ms("x", "x"), Some(0.1));
        assert_eq!(map.one_way_ms("x", "z"), None);
    }

    #[test]
    fn one_direction_suffices_and_an_empty_pair_is_unknown() {
        let map = csv_map("\u{feff},\"a, b\",c,\"d\"\"e\"\n\"a, b\",,10,\nc,,,\n\"d\"\"e\",,,\n", 0.25);
        assert_eq!(map.one_way_ms("a, b", "c"), Some(2.5));
        assert_eq!(map.one_way_ms("c", "a, b"), Some(7.5));
        assert_eq!(map.one_way_ms("c", "d\"e"), None);
        let map = csv_map("-,a,b\na,,\nb,10,\n", 0.25);
        assert_eq!(map.one_way_ms("a", "b"), Some(2.5));
    }

    #[test]
    fn no_path_is_shorter_than_the_floor() {
        let map = csv_map("-,a,b\na,0,0\nb,0,0\n", 0.5);
        assert_eq!(map.one_way_ms("a", "b"), Some(RTT_FLOOR_MS / 2.0));
    }

    #[test]
    fn faults_name_line_column_and_what_was_expected() {
        let cases = [
            ("", (1, 1), "expected a header row"),
            ("-,a,a\n", (1, 3), "appears twice"),
            ("-,a,b\na,0,x\nb,1,0\n", (2, 3), "expected an RTT"),
            ("-,a,b\na,0,1\nb,-1,0\n", (3, 2), "from 0 to"),
            ("-,a,b\na,0,NaN\nb,1,0\n", (2, 3), "from 0 to"),
            ("-,a,b\na,0\nb,1,0\n", (2, 2), "expected 3"),
            ("-,a,b\nb,0,1\na,1,0\n", (2, 1), "expected \"a\""),
            ("-,a,b\na,0,1\n", (2, 1), "\"b\" has none"),
            ("-,a\na,0\n\nb,1\n", (4, 1), "one row more"),
            ("-,\"a\n", (1, 2), "quote without an end"),
        ];
        for (text, place, part) in cases {
            let Err(fault) = parse_csv(text) else {
                panic!("accepted: {text:?}");
            };
            assert_eq!(fault.place, Some(place), "{text:?}: {}", fault.what);
            assert!(fault.what.contains(part), "{text:?}: {}", fault.what);
        }
    }

    #[test]
    fn rows_of_a_matrix_may_stop_early_but_not_run_on() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let trips = from_matrix(names(), &[vec![], vec![8.0]]).unwrap();
        let map = Map::from_round_trips(trips, 0.75);
        assert_eq!(map.one_way_ms("a", "b"), Some(6.0));
        assert!(from_matrix(names(), &[vec![]]).is_err());
        assert!(from_matrix(names(), &[vec![0.0; 3], vec![]]).is_err());
        assert!(from_matrix(names(), &[vec![0.0, -1.0], vec![]]).is_err());
    }
}
