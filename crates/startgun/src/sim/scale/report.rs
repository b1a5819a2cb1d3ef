//! What a run of the population came to: JSON for programs, tables for people.
//!
//! The JSON field names, units and types are an interface; new fields go to the end.

use serde::Serialize;
use startgun_sim::scale::{AT_MASTER, Figures, Flow, HOURS, Hour, Link, ScaleOptions};
use std::collections::BTreeMap;

use super::costs::Costs;
use crate::sim::forecast::{Prepared, notes_on_nodes};

/// Ethernet's header and check sequence, 18 bytes, IPv4's header, 20, and UDP's, 8. Its preamble and gap are not counted.
pub const HEADER_BYTES: u64 = 46;
/// Races a second that an agent was measured to answer before its table of them is full (docs/performance.md).
const AGENT_RACES_PER_S: f64 = 37_000.0;

/// What was run.
pub struct Run<'a> {
    pub options: &'a ScaleOptions,
    /// Where its nodes are from, and their names.
    pub prepared: &'a Prepared,
    pub costs: &'a Costs,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// "built-in model" or "file".
    pub(super) network: &'static str,
    pub(super) master: String,
    pub(super) places: usize,
    pub(super) resolvers: usize,
    pub(super) sites: usize,
    /// Of them ready to race when the day began, in the part where they were fewest.
    pub(super) sites_ready: u64,
    pub(super) names: usize,
    pub(super) day_s: u32,
    pub(super) seed: u64,
    pub(super) client_queries: u64,
    pub(super) cache_hits: u64,
    pub(super) joined: u64,
    pub(super) asked: u64,
    pub(super) repeats: u64,
    pub(super) answered_by: AnsweredBy,
    /// Queries at the master, and what became of them.
    pub(super) queries: u64,
    pub(super) at_master: BTreeMap<&'static str, u64>,
    pub(super) races: u64,
    pub(super) orders: u64,
    pub(super) departures: u64,
    pub(super) answers_received: u64,
    pub(super) predetermined_delay_ms: f64,
    pub(super) first_answer_ms: FirstAnswer,
    pub(super) choice: Choice,
    pub(super) header_bytes: u64,
    pub(super) bytes: Bytes,
    pub(super) busiest_hour: Busiest,
    pub(super) costs: CostsUsed,
    pub(super) carries: Carries,
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct AnsweredBy {
    pub(super) sites: u64,
    pub(super) master: u64,
    pub(super) tcp: u64,
    pub(super) nobody: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct FirstAnswer {
    pub(super) p50: Option<usize>,
    pub(super) p95: Option<usize>,
    pub(super) p99: Option<usize>,
}

/// How good the winners were, by the latency from the site to the resolver.
#[derive(Debug, Serialize)]
pub(super) struct Choice {
    pub(super) lowest_share: f64,
    pub(super) within_5ms_share: f64,
    pub(super) mean_loss_ms: f64,
}

/// Of all packets, headers included.
#[derive(Debug, Serialize)]
pub(super) struct Bytes {
    pub(super) master_in: u64,
    pub(super) master_out: u64,
    pub(super) sites_in: u64,
    pub(super) sites_out: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Busiest {
    /// Which of the day's 24, from 0.
    pub(super) hour: usize,
    pub(super) client_queries_per_s: f64,
    pub(super) queries_per_s: f64,
    pub(super) races_per_s: f64,
    pub(super) central_per_s: f64,
    pub(super) tcp_queries_per_s: f64,
    pub(super) orders_per_s: f64,
    pub(super) master: LinkRate,
    /// The mean of all sites.
    pub(super) site: LinkRate,
    /// The site that carried the most.
    pub(super) busiest_site: LinkRate,
    pub(super) busiest_site_name: String,
}

/// What a link carries, headers included.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct LinkRate {
    pub(super) in_packets_per_s: f64,
    pub(super) in_mbit_per_s: f64,
    pub(super) out_packets_per_s: f64,
    pub(super) out_mbit_per_s: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct CostsUsed {
    pub(super) source: String,
    pub(super) race_us: f64,
    /// Whether races of so many agents were measured, or lie beyond on a straight line.
    pub(super) race_is_measured: bool,
    pub(super) central_us: f64,
    pub(super) order_us: f64,
}

/// What master and sites would carry, by the measured costs.
#[derive(Debug, Serialize)]
pub(super) struct Carries {
    /// Cores of the master that the busiest hour takes.
    pub(super) master_cores: f64,
    /// What one core of the master carries of this mixture: queries that reach it, of them races, …
    pub(super) core_queries_per_s: f64,
    pub(super) core_races_per_s: f64,
    /// … and the questions of resolvers' clients behind them.
    pub(super) core_client_queries_per_s: f64,
    /// Cores of a site that the busiest hour takes.
    pub(super) site_cores: f64,
    /// Orders a second at one core of a site; by its costs, and by the places of its table.
    pub(super) site_orders_per_s: f64,
    /// Bytes of one race, headers included, on the master's link and on one site's.
    pub(super) race_bytes_master_in: f64,
    pub(super) race_bytes_master_out: f64,
    pub(super) race_bytes_site_in: f64,
    pub(super) race_bytes_site_out: f64,
    /// Races a second that fill a gigabit a second in the busier direction.
    pub(super) gigabit_master_races_per_s: f64,
    pub(super) gigabit_site_races_per_s: f64,
}

impl Report {
    pub fn of(run: &Run<'_>, figures: &Figures) -> Self {
        let (options, prepared) = (run.options, run.prepared);
        let races = figures.master_count("races");
        let busiest = Busiest::of(run, figures);
        let sites = figures.hours.iter().flat_map(|hour| &hour.sites).fold(Sum::default(), Sum::with);
        let bytes = Bytes {
            master_in: figures.master_traffic.received_bytes + figures.master_traffic.received * HEADER_BYTES,
            master_out: figures.master_traffic.sent_bytes + figures.master_traffic.sent * HEADER_BYTES,
            sites_in: sites.inward,
            sites_out: sites.outward,
        };
        let costs = CostsUsed {
            source: run.costs.source.clone(),
            race_us: run.costs.race_us(figures.sites),
            race_is_measured: figures.sites <= run.costs.agents_measured(),
            central_us: run.costs.plain_us,
            order_us: run.costs.order_us,
        };
        let outcome = |(name, _): &(&'static str, bool)| (*name, figures.master_count(name));
        let choice = figures.choice;
        Report {
            carries: Carries::of(figures, &busiest, &costs, &bytes),
            network: if prepared.is_model { "built-in model" } else { "file" },
            master: prepared.names[usize::from(options.master)].clone(),
            places: options.places.count(),
            resolvers: options.resolvers,
            sites: options.sites.len(),
            sites_ready: figures.ready,
            names: options.names,
            day_s: options.seconds,
            seed: options.seed,
            client_queries: figures.client_queries,
            cache_hits: figures.cache_hits,
            joined: figures.joined,
            asked: figures.asked,
            repeats: figures.repeats,
            answered_by: AnsweredBy {
                sites: figures.by_site,
                master: figures.by_master,
                tcp: figures.over_tcp,
                nobody: figures.unanswered,
            },
            queries: figures.master_count("queries"),
            at_master: AT_MASTER.iter().map(outcome).collect(),
            races,
            orders: figures.master_count("orders"),
            departures: figures.agent_count("departures"),
            answers_received: figures.answers,
            predetermined_delay_ms: figures.delay.as_millis_f64(),
            first_answer_ms: FirstAnswer {
                p50: figures.answer_ms(50),
                p95: figures.answer_ms(95),
                p99: figures.answer_ms(99),
            },
            choice: Choice {
                lowest_share: ratio(choice.lowest, choice.races),
                within_5ms_share: ratio(choice.within_5ms, choice.races),
                mean_loss_ms: ratio(choice.loss_ns, choice.races) / 1e6,
            },
            header_bytes: HEADER_BYTES,
            bytes,
            busiest_hour: busiest,
            costs,
            notes: notes_on_nodes(prepared),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    quotient(part as f64, whole as f64)
}

fn quotient(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// Bytes of links, headers included.
#[derive(Default)]
struct Sum {
    inward: u64,
    outward: u64,
}

impl Sum {
    fn with(self, link: &Link) -> Self {
        Sum { inward: self.inward + whole_bytes(link.inward), outward: self.outward + whole_bytes(link.outward) }
    }
}

fn whole_bytes(flow: Flow) -> u64 {
    flow.bytes + flow.packets * HEADER_BYTES
}

impl LinkRate {
    fn of(link: &Link, seconds: f64) -> Self {
        let mbit_per_s = |flow| whole_bytes(flow) as f64 * 8.0 / 1e6 / seconds;
        LinkRate {
            in_packets_per_s: link.inward.packets as f64 / seconds,
            in_mbit_per_s: mbit_per_s(link.inward),
            out_packets_per_s: link.outward.packets as f64 / seconds,
            out_mbit_per_s: mbit_per_s(link.outward),
        }
    }

    fn mbit_per_s(&self) -> f64 {
        self.in_mbit_per_s + self.out_mbit_per_s
    }

    fn mean(rates: &[LinkRate]) -> Self {
        let mean = |of: fn(&LinkRate) -> f64| quotient(rates.iter().map(of).sum(), rates.len() as f64);
        LinkRate {
            in_packets_per_s: mean(|rate| rate.in_packets_per_s),
            in_mbit_per_s: mean(|rate| rate.in_mbit_per_s),
            out_packets_per_s: mean(|rate| rate.out_packets_per_s),
            out_mbit_per_s: mean(|rate| rate.out_mbit_per_s),
        }
    }
}

impl Busiest {
    fn of(run: &Run<'_>, figures: &Figures) -> Self {
        let seconds = f64::from(run.options.seconds) / HOURS as f64;
        let none = Hour::default();
        let busiest = figures.hours.iter().enumerate().max_by_key(|(_, hour)| hour.races);
        let (number, hour) = busiest.unwrap_or((0, &none));
        let rates: Vec<LinkRate> = hour.sites.iter().map(|link| LinkRate::of(link, seconds)).collect();
        let most =
            rates.iter().enumerate().max_by(|(_, one), (_, other)| one.mbit_per_s().total_cmp(&other.mbit_per_s()));
        let per_s = |count: u64| count as f64 / seconds;
        Busiest {
            hour: number,
            client_queries_per_s: per_s(hour.client_queries),
            queries_per_s: per_s(hour.queries),
            races_per_s: per_s(hour.races),
            central_per_s: per_s(hour.central),
            tcp_queries_per_s: per_s(hour.over_tcp),
            orders_per_s: per_s(hour.orders),
            master: LinkRate::of(&hour.master, seconds),
            site: LinkRate::mean(&rates),
            busiest_site: most.map(|(_, rate)| *rate).unwrap_or_default(),
            busiest_site_name: most
                .map(|(site, _)| run.prepared.names[usize::from(run.options.sites[site])].clone())
                .unwrap_or_default(),
        }
    }
}

impl Carries {
    fn of(figures: &Figures, busiest: &Busiest, costs: &CostsUsed, bytes: &Bytes) -> Self {
        let raced_per_s = busiest.queries_per_s - busiest.central_per_s;
        let master_cores = (raced_per_s * costs.race_us + busiest.central_per_s * costs.central_us) / 1e6;
        let sites = figures.sites as f64;
        let site_cores = quotient(busiest.orders_per_s, sites) * costs.order_us / 1e6;
        let races = figures.master_count("races") as f64;
        let per_race = |bytes: u64| quotient(bytes as f64, races);
        let (master_in, master_out) = (per_race(bytes.master_in), per_race(bytes.master_out));
        let (site_in, site_out) = (per_race(bytes.sites_in) / sites, per_race(bytes.sites_out) / sites);
        let of_a_gigabit = |one: f64, other: f64| quotient(1e9 / 8.0, one.max(other));
        Carries {
            master_cores,
            core_queries_per_s: quotient(busiest.queries_per_s, master_cores),
            core_races_per_s: quotient(busiest.races_per_s, master_cores),
            core_client_queries_per_s: quotient(busiest.client_queries_per_s, master_cores),
            site_cores,
            site_orders_per_s: (1e6 / costs.order_us).min(AGENT_RACES_PER_S),
            race_bytes_master_in: master_in,
            race_bytes_master_out: master_out,
            race_bytes_site_in: site_in,
            race_bytes_site_out: site_out,
            gigabit_master_races_per_s: of_a_gigabit(master_in, master_out),
            gigabit_site_races_per_s: of_a_gigabit(site_in, site_out),
        }
    }
}
