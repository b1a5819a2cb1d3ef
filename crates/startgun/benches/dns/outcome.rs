//! What everybody's figures come to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use startgun_core::time::Span;

use crate::race::{Answers, COUNTS, Races};
use crate::servers::Server;
use crate::statistics::Estimate;
use crate::support::source;
use crate::zones::Kind;

/// A plain answer's processor time over Knot's, at most.
pub const PLAIN_GOAL: f64 = 0.95;
/// A race's processor time over a plain answer's, at most.
pub const RACE_GOAL: f64 = 3.0;
/// Agents of that race.
pub const RACE_GOAL_AGENTS: usize = 10;
/// Orders received of those due, at least; else what was measured is not what a race costs.
pub const ORDERS_SHARE: f64 = 0.999;

/// One server and kind of answer, in one round.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Answers per second.
    pub qps: f64,
    /// Processor time per answer.
    pub cpu_us: f64,
    /// Resident memory after it.
    pub rss_mb: f64,
    /// Mean length.
    pub response_bytes: u32,
    pub lost: u64,
}

/// Everything measured, by round.
#[derive(Default)]
pub struct Outcome {
    pub rounds: usize,
    pub answers: BTreeMap<(Kind, Server), BTreeMap<usize, Figures>>,
    pub races: BTreeMap<usize, BTreeMap<usize, Races>>,
    pub agent: BTreeMap<usize, Answers>,
}

/// One row of the first table.
pub struct Row {
    pub kind: Kind,
    pub server: Server,
    pub qps: Estimate,
    pub cpu_us: Estimate,
    pub rss_mb: Estimate,
    /// The same over Knot's in the same round.
    pub ratios: Option<[Estimate; 3]>,
    pub response_bytes: f64,
    pub lost: u64,
}

/// One row of the second.
pub struct RaceRow {
    pub agents: usize,
    pub races_per_s: Estimate,
    pub master_cpu_us: Estimate,
    /// Over Startgun's plain answer's in the same round.
    pub ratio: Option<Estimate>,
    /// Over all rounds.
    pub orders_due: u64,
    pub orders_received: u64,
    pub by_master: u64,
    pub orders_per_datagram: f64,
    pub waits: Waits,
}

/// How long queries waited for their orders to leave.
pub struct Waits {
    pub p50: Span,
    pub p99: Span,
    pub longest: Span,
    /// Of the longest, what came after the query was taken from its queue; not necessarily the same datagram's.
    pub longest_coalesced: Span,
}

impl Waits {
    fn of<'a>(rounds: impl Iterator<Item = &'a Races> + Clone) -> Self {
        let mut all: Vec<Span> = rounds.clone().flat_map(|races| races.received.waits.iter().copied()).collect();
        all.sort_unstable();
        let quantile = |share: f64| {
            let rank = (share * all.len() as f64).ceil() as usize;
            all.get(rank.saturating_sub(1)).copied().unwrap_or(Span::ZERO)
        };
        let coalesced = rounds.flat_map(|races| races.received.coalesced.iter().copied()).max();
        Waits {
            p50: quantile(0.5),
            p99: quantile(0.99),
            longest: quantile(1.0),
            longest_coalesced: coalesced.unwrap_or(Span::ZERO),
        }
    }
}

impl Outcome {
    fn of(&self, kind: Kind, server: Server) -> Option<&BTreeMap<usize, Figures>> {
        self.answers.get(&(kind, server)).filter(|rounds| !rounds.is_empty())
    }

    /// What was measured of the servers, in the order of the report.
    pub fn rows(&self) -> Vec<Row> {
        let all = Kind::ALL.into_iter().flat_map(|kind| Server::ALL.map(|server| (kind, server)));
        all.filter_map(|(kind, server)| self.row(kind, server)).collect()
    }

    fn row(&self, kind: Kind, server: Server) -> Option<Row> {
        let rounds = self.of(kind, server)?;
        let estimate = |figure: fn(&Figures) -> f64| Estimate::of(rounds.values().map(figure));
        let over_knot = |figure: fn(&Figures) -> f64| {
            let knots = self.of(kind, Server::Knot)?;
            let pairs = rounds.iter().filter_map(|(round, ours)| Some((ours, knots.get(round)?)));
            Estimate::of(pairs.map(|(ours, knots)| figure(ours) / figure(knots)))
        };
        let figures: [fn(&Figures) -> f64; 3] =
            [|figures| figures.qps, |figures| figures.cpu_us, |figures| figures.rss_mb];
        let ratios = match figures.map(over_knot) {
            [Some(qps), Some(cpu_us), Some(rss_mb)] => Some([qps, cpu_us, rss_mb]),
            _ => None,
        };
        let [qps, cpu_us, rss_mb] = figures.map(estimate);
        Some(Row {
            kind,
            server,
            qps: qps?,
            cpu_us: cpu_us?,
            rss_mb: rss_mb?,
            ratios,
            response_bytes: Estimate::of(rounds.values().map(|figures| f64::from(figures.response_bytes)))?.median,
            lost: rounds.values().map(|figures| figures.lost).sum(),
        })
    }

    /// What was measured of races.
    pub fn race_rows(&self) -> Vec<RaceRow> {
        COUNTS.into_iter().filter_map(|agents| self.race_row(agents)).collect()
    }

    fn race_row(&self, agents: usize) -> Option<RaceRow> {
        let rounds = self.races.get(&agents)?;
        let over_plain = || {
            let plain = self.of(Kind::Plain, Server::Startgun)?;
            let pairs = rounds.iter().filter_map(|(round, races)| Some((races, plain.get(round)?)));
            Estimate::of(pairs.map(|(races, plain)| races.master_cpu_us / plain.cpu_us))
        };
        let sum = |figure: fn(&Races) -> u64| rounds.values().map(figure).sum::<u64>();
        let orders_received = sum(|races| races.received.orders);
        Some(RaceRow {
            agents,
            races_per_s: Estimate::of(rounds.values().map(|races| races.races_per_s))?,
            master_cpu_us: Estimate::of(rounds.values().map(|races| races.master_cpu_us))?,
            ratio: over_plain(),
            orders_due: sum(|races| races.orders_due),
            orders_received,
            by_master: sum(|races| races.by_master),
            orders_per_datagram: orders_received as f64 / sum(|races| races.received.datagrams).max(1) as f64,
            waits: Waits::of(rounds.values()),
        })
    }

    /// The two goals: what is compared, the estimate, and its limit.
    pub fn goals(&self) -> [(String, Option<Estimate>, f64); 2] {
        let plain = self.row(Kind::Plain, Server::Startgun).and_then(|row| row.ratios).map(|[_, cpu_us, _]| cpu_us);
        let race = self.race_row(RACE_GOAL_AGENTS).and_then(|row| row.ratio);
        [
            ("CPU per plain answer over Knot's".into(), plain, PLAIN_GOAL),
            (
                format!("the master's CPU per race with {RACE_GOAL_AGENTS} agents over a plain answer's"),
                race,
                RACE_GOAL,
            ),
        ]
    }

    /// What was not as the figures presuppose.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for row in self.race_rows() {
            let RaceRow { agents, orders_due, orders_received, by_master, .. } = row;
            let races = orders_due / agents as u64;
            if (orders_received as f64) < ORDERS_SHARE * orders_due as f64 || orders_received > orders_due {
                doubts.push(format!("with {agents} agents, {orders_received} of {orders_due} orders were received"));
            }
            if by_master as f64 > (1.0 - ORDERS_SHARE) * races as f64 {
                doubts
                    .push(format!("with {agents} agents, the master answered {by_master} times beside {races} races"));
            }
        }
        let (orders, failed) = self
            .agent
            .values()
            .fold((0, 0), |(orders, failed), answers| (orders + answers.orders, failed + answers.failed));
        if failed as f64 > (1.0 - ORDERS_SHARE) * orders as f64 {
            doubts.push(format!("the real agent let no answer depart for {failed} of {orders} orders"));
        }
        doubts
    }

    /// Writes `bench/dns.json` below cargo's target directory: medians over the rounds; of orders, sums.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn write_json(&self) -> Result<PathBuf, String> {
        let mut servers: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for row in self.rows() {
            let figures = json!({ "qps": row.qps.median, "cpu_us": row.cpu_us.median, "rss_mb": row.rss_mb.median });
            servers.entry(row.server.name()).or_default().insert(row.kind.name().into(), figures);
        }
        let agent_cpu_us = Estimate::of(self.agent.values().map(|answers| answers.cpu_us));
        let race = |row: RaceRow| {
            let figures = json!({
                "races_per_s": row.races_per_s.median,
                "master_cpu_us": row.master_cpu_us.median,
                "agent_cpu_us": agent_cpu_us.map(|estimate| estimate.median),
                "orders_due": row.orders_due,
                "orders_received": row.orders_received,
            });
            (row.agents.to_string(), figures)
        };
        let races: Map<String, Value> = self.race_rows().into_iter().map(race).collect();
        let document = json!({ "rounds": self.rounds, "servers": servers, "race": races });

        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source("target"), PathBuf::from);
        // Cargo runs benches in their package's directory; a relative path was meant from the workspace's.
        let target = if target.is_absolute() { target } else { source("").join(target) };
        let path = target.join("bench/dns.json");
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        std::fs::create_dir_all(target.join("bench")).map_err(|error| fault(&error))?;
        let json = serde_json::to_string_pretty(&document).map_err(|error| fault(&error))?;
        std::fs::write(&path, json + "\n").map_err(|error| fault(&error))?;
        path.canonicalize().map_err(|error| fault(&error))
    }
}
