//! Where nodes are: a CSV with a header, of whose columns `id`, `name`, `lat` and `lon` count.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::Failure;
use super::input::{Row, fault, read, rows};

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What the columns `id` and `name` say, as far as there are any.
    pub id: Option<String>,
    pub name: Option<String>,
    /// Latitude and longitude in degrees; absent where both cells are empty.
    pub place: Option<(f64, f64)>,
}

/// Which columns count, by their place in a row.
struct Columns {
    id: Option<usize>,
    name: Option<usize>,
    latitude: usize,
    longitude: usize,
    count: usize,
}

/// Reads a file: a row for each node.
///
/// # Errors
/// [`Failure::Input`], with line and column.
pub fn read_entries(path: &Path) -> Result<Vec<Entry>, Failure> {
    let text = read(path)?;
    let mut all = rows(path, &text);
    let header =
        all.next().unwrap_or_else(|| Err(fault(path, 1, 1, "empty file: expected a header, as id,lat,lon")))?;
    let columns = Columns::of(path, &header)?;
    let mut known = [BTreeMap::new(), BTreeMap::new()];
    let mut entries = Vec::new();
    for row in all {
        let row = row?;
        let entry = columns.entry(path, &row)?;
        // A name may occur twice (there are many Springfields) where an id tells them apart.
        let keys = [(&entry.id, columns.id), (&entry.name, columns.name.filter(|_| columns.id.is_none()))];
        for (known, (key, column)) in known.iter_mut().zip(keys) {
            if let (Some(key), Some(column)) = (key, column)
                && let Some(first) = known.insert(key.clone(), row.line)
            {
                let what = format!("{key:?} appears twice: first in line {first}");
                return Err(fault(path, row.line, column + 1, what));
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

impl Columns {
    fn of(path: &Path, header: &Row) -> Result<Columns, Failure> {
        let at = |name: &str| header.cells.iter().position(|cell| cell.eq_ignore_ascii_case(name));
        for name in ["id", "name", "lat", "lon"] {
            let is_it = |cell: &str| cell.eq_ignore_ascii_case(name);
            let mut found = header.cells.iter().enumerate().filter(|(_, cell)| is_it(cell));
            if let (Some(_), Some((second, _))) = (found.next(), found.next()) {
                return Err(fault(path, header.line, second + 1, format!("column {name:?} appears twice")));
            }
        }
        let missing = |name: &str| {
            let found: Vec<&str> = header.cells.iter().collect();
            let what = format!("header {:?}: expected a column {name} in it", found.join(","));
            fault(path, header.line, header.cells.len(), what)
        };
        let (id, name) = (at("id"), at("name"));
        if id.or(name).is_none() {
            return Err(missing("id or name"));
        }
        let latitude = at("lat").ok_or_else(|| missing("lat"))?;
        let longitude = at("lon").ok_or_else(|| missing("lon"))?;
        Ok(Columns { id, name, latitude, longitude, count: header.cells.len() })
    }

    fn entry(&self, path: &Path, Row { line, cells }: &Row) -> Result<Entry, Failure> {
        let at = |column: usize, what: String| fault(path, *line, column + 1, what);
        if cells.len() != self.count {
            let what = format!("{} cells: expected {}, as in the header", cells.len(), self.count);
            return Err(at(cells.len() - 1, what));
        }
        let text =
            |column: Option<usize>| column.map(|column| cells[column].to_owned()).filter(|text| !text.is_empty());
        let (id, name) = (text(self.id), text(self.name));
        if id.as_ref().or(name.as_ref()).is_none() {
            return Err(at(self.id.or(self.name).unwrap_or_default(), "empty name".into()));
        }
        let degrees = |column: usize, most: f64| match cells[column].parse::<f64>() {
            Ok(number) if (-most..=most).contains(&number) => Ok(number),
            _ => Err(at(column, format!("{:?}: expected degrees from -{most} to {most}", &cells[column]))),
        };
        let place = match (cells[self.latitude].is_empty(), cells[self.longitude].is_empty()) {
            (true, true) => None,
            _ => Some((degrees(self.latitude, 90.0)?, degrees(self.longitude, 180.0)?)),
        };
        Ok(Entry { id, name, place })
    }
}
