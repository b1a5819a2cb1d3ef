//! What a race, an answer and an order cost a core: measured, not simulated.

use serde_json::Value;
use std::path::Path;

use crate::sim::Failure;

/// Longest file of costs: what `make bench-dns` writes has some kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The measured figures of docs/performance.md, "What was measured", in µs of one core: a plain answer, …
const PLAIN_US: f64 = 2.03;
/// … a race at the master, by the number of agents, …
const RACE_US: [(u64, f64); 4] = [(1, 2.11), (3, 2.46), (10, 4.01), (50, 13.7)];
/// … and an order at an agent.
const ORDER_US: f64 = 2.7;

/// Costs in µs of processor time.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Where they are from, for the report.
    pub source: String,
    /// An answer of the master without a race.
    pub plain_us: f64,
    /// An order at an agent, from its arrival to the departure.
    pub order_us: f64,
    /// A race at the master by its agents, ascending, from query to closing.
    race_us: Vec<(u64, f64)>,
}

impl Costs {
    /// The figures of docs/performance.md.
    pub fn documented() -> Self {
        Costs {
            source: "docs/performance.md".to_owned(),
            plain_us: PLAIN_US,
            order_us: ORDER_US,
            race_us: RACE_US.to_vec(),
        }
    }

    /// The figures that `make bench-dns` has written.
    ///
    /// # Errors
    /// A sentence that names the file and what is missing in it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let fault = |what: &str| Failure::Input(format!("{}: {what}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| fault(&error.to_string()))?.len();
        if length > MAX_FILE_BYTES {
            return Err(fault(&format!("{length} bytes, at most {MAX_FILE_BYTES} are expected")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fault(&error.to_string()))?;
        let document: Value = serde_json::from_str(&text).map_err(|error| fault(&format!("no JSON: {error}")))?;
        Costs::of(&document, path.display().to_string()).map_err(|what| fault(&what))
    }

    fn of(document: &Value, source: String) -> Result<Self, String> {
        let expected = |pointer: &str| format!("{pointer}: expected µs above 0, as `make bench-dns` writes them");
        let us = |value: Option<&Value>, pointer: &str| match value.and_then(Value::as_f64) {
            Some(us) if us > 0.0 => Ok(us),
            _ => Err(expected(pointer)),
        };
        let plain = "/servers/startgun/plain/cpu_us";
        let races = document.pointer("/race").and_then(Value::as_object).ok_or("/race: expected an object")?;
        let mut race_us = Vec::new();
        for (agents, figures) in races {
            let number = agents.parse().map_err(|_| format!("/race/{agents}: expected a number of agents"))?;
            race_us.push((number, us(figures.get("master_cpu_us"), &format!("/race/{agents}/master_cpu_us"))?));
        }
        race_us.sort_by_key(|(agents, _)| *agents);
        race_us.dedup_by_key(|(agents, _)| *agents);
        if race_us.len() < 2 {
            return Err(format!("/race: {} races were measured, expected two and more", race_us.len()));
        }
        let order = races.values().find_map(|figures| figures.get("agent_cpu_us").filter(|us| !us.is_null()));
        Ok(Costs {
            source,
            plain_us: us(document.pointer(plain), plain)?,
            order_us: us(order, "/race/N/agent_cpu_us")?,
            race_us,
        })
    }

    /// The most agents that a race was measured with.
    pub fn agents_measured(&self) -> u64 {
        self.race_us.last().map_or(0, |(agents, _)| *agents)
    }

    /// A race with so many agents: on the straight line through the two measurements beside it, or through the last two
    /// where there were never so many.
    pub fn race_us(&self, agents: u64) -> f64 {
        let above = self.race_us.iter().position(|(measured, _)| *measured >= agents);
        let end = above.unwrap_or(self.race_us.len() - 1).max(1);
        let ((few, low), (many, high)) = (self.race_us[end - 1], self.race_us[end]);
        low + (high - low) * (agents as f64 - few as f64) / (many as f64 - few as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_race_costs_what_was_measured_and_between_and_beyond_a_line() {
        let costs = Costs::documented();
        for (agents, us) in [(1, 2.11), (2, 2.285), (3, 2.46), (10, 4.01), (30, 8.855), (50, 13.7), (100, 25.8125)] {
            assert!((costs.race_us(agents) - us).abs() < 1e-9, "{agents}: {}", costs.race_us(agents));
        }
        assert_eq!(costs.agents_measured(), 50);
    }

    #[test]
    fn the_documented_figures_stand_in_the_document() {
        let text = include_str!("../../../../../docs/performance.md");
        assert!(text.contains(&format!("| plain | Startgun | {PLAIN_US} |")));
        assert!(text.contains(&format!("{ORDER_US} µs per order")));
        for (agents, us) in RACE_US {
            let row = text.lines().find(|line| line.starts_with(&format!("| {agents} | ")));
            assert!(row.is_some_and(|row| row.contains(&format!("| {us} |"))), "{agents} agents");
        }
    }

    #[test]
    fn what_the_bench_writes_is_read_and_anything_else_is_told() {
        let race = |us: f64| json!({ "master_cpu_us": us, "agent_cpu_us": 2.5 });
        let plain = json!({ "startgun": { "plain": { "cpu_us": 2.0 } } });
        let good = json!({ "servers": plain, "race": { "10": race(4.0), "3": race(2.5) } });
        let costs = Costs::of(&good, "x".to_owned()).expect("costs");
        assert_eq!((costs.plain_us, costs.order_us, costs.race_us(3), costs.race_us(10)), (2.0, 2.5, 2.5, 4.0));
        for (bad, told) in [
            (json!([]), "/race: expected an object"),
            (json!({ "servers": plain, "race": {} }), "/race: 0 races were measured"),
            (json!({ "servers": plain, "race": { "3": race(2.5) } }), "/race: 1 races were measured"),
            (json!({ "servers": plain, "race": { "x": race(2.5) } }), "/race/x: expected a number"),
            (json!({ "servers": plain, "race": { "3": race(-1.0) } }), "/race/3/master_cpu_us: expected µs"),
            (json!({ "servers": {}, "race": { "3": race(1.0), "5": race(2.0) } }), "/servers/startgun/plain/cpu_us"),
        ] {
            let error = Costs::of(&bad, "x".to_owned()).expect_err("no costs");
            assert!(error.starts_with(told), "{error}");
        }
    }
}
