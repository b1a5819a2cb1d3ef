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
pub struct MapFault {
    /// Line and column, both from 1; for CSV the column counts cells.
    pub place: Option<(usize, usize)>,
    /// What was found and what was expected.
    pub what: String,
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
#[derive(Debug, Clone, PartialEq)]
pub struct RoundTrips {
    /// The places' names.
    pub names: Vec<String>,
    /// By places, from one to another.
    pub rtt_ms: BTreeMap<(usize, usize), f64>,
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

/// Reads a square CSV whose header row and first column are the same names in the same order, or one without names, whose
/// places are then called 0, 1, 2 and so on.
///
/// The header's first cell is free. An empty cell is an unknown RTT. Quoted cells may hold commas and doubled quotes;
/// a line break inside a cell is not supported.
///
/// # Errors
/// [`MapFault`], with the place.
pub fn parse_csv(text: &str) -> Result<RoundTrips, MapFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim().is_empty());
    let (first_line, first) =
        lines.next().ok_or_else(|| MapFault::at(1, 1, "empty file: expected a header row of names"))?;
    let mut first_row = csv_cells(first, first_line)?;
    let last_line = text.lines().count();
    if has_no_names(&first_row) {
        let names: Vec<String> = (0..first_row.len()).map(|place| place.to_string()).collect();
        check_names(&names, first_line)?;
        return parse_rows(names, 0, std::iter::once((first_line, first)).chain(lines), last_line);
    }
    first_row.remove(0);
    check_names(&first_row, first_line)?;
    parse_rows(first_row, 1, lines, last_line)
}

/// Whether a first row holds round trips already. Names may be numbers, too: then the first cell, above the names of the
/// rows, is empty or a word, and a round trip of nothing but digits in each cell beside an empty one is not believed.
fn has_no_names(first_row: &[String]) -> bool {
    let is_number = |cell: &String| cell.parse::<f64>().is_ok();
    let (corner, others) = (&first_row[0], &first_row[1..]);
    let known = || others.iter().filter(|cell| !cell.is_empty());
    match corner.is_empty() {
        true => known().any(|cell| cell.contains('.')) && known().all(is_number),
        false => {
            is_number(corner) && (others.is_empty() || others.iter().any(|cell| cell.is_empty() || is_number(cell)))
        }
    }
}

/// The rows of a square table; before the figures of each stand `columns_before` cells, one with its name or none.
fn parse_rows<'a>(
    names: Vec<String>,
    columns_before: usize,
    lines: impl Iterator<Item = (usize, &'a str)>,
    last_line: usize,
) -> Result<RoundTrips, MapFault> {
    let (mut rtt_ms, mut rows, width) = (BTreeMap::new(), 0, names.len() + columns_before);
    for (line, row) in lines {
        let cells = csv_cells(row, line)?;
        let Some(name) = names.get(rows) else {
            let what = format!("one row more than the {} columns of figures: expected a square table", names.len());
            return Err(MapFault::at(line, 1, what));
        };
        if columns_before == 1 && cells[0] != *name {
            let what = format!("row name {:?}: expected {name:?}, as in column {} of the header", cells[0], rows + 2);
            return Err(MapFault::at(line, 1, what));
        }
        if cells.len() != width {
            let what = format!("{} cells: expected {width}, as many as in the first row", cells.len());
            return Err(MapFault::at(line, cells.len(), what));
        }
        for (j, cell) in cells[columns_before..].iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            let number = parse_rtt_ms(cell).map_err(|what| MapFault::at(line, j + 1 + columns_before, what))?;
            rtt_ms.insert((rows, j), number);
        }
        rows += 1;
    }
    if rows < names.len() {
        let what =
            format!("{rows} rows: expected {}, as many as columns of figures; {:?} has none", names.len(), names[rows]);
        return Err(MapFault::at(last_line, 1, what));
    }
    Ok(RoundTrips { names, rtt_ms })
}

/// Reads one round-trip time in ms.
///
/// # Errors
/// What was found and what was expected.
pub fn parse_rtt_ms(cell: &str) -> Result<f64, String> {
    let number = cell.parse::<f64>().map_err(|_| format!("{cell:?}: expected an RTT in milliseconds, or nothing"))?;
    check_rtt_ms(number)
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
    fn a_table_may_have_no_names_or_numbers_for_names() {
        for text in ["0,10\n30,0\n", ",10.0\n30,\n", ",0,1\n0,0,10\n1,30,0\n", "id,0,1\n0,,10\n1,30,\n"] {
            assert_eq!(csv_map(text, 0.25).one_way_ms("0", "1"), Some(5.0), "{text:?}");
        }
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
            ("0,1\n1,0,2\n", (2, 3), "expected 2"),
            ("0,1\n1,x\n", (2, 2), "expected an RTT"),
            ("0,inf\n1,0\n", (1, 2), "from 0 to"),
            ("0,1\n", (1, 1), "\"1\" has none"),
            ("0,1\n1,0\n2,3\n", (3, 1), "one row more"),
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
