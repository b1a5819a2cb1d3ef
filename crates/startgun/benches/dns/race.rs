//! Races: what one costs the master, and what an agent makes of its orders.
//!
//! Every query is for a name of its own below `*.race.bench.test`, so each is a race. The source is validated by one query
//! over TCP. The predetermined delay is fixed at [`DELAY`], so dnsperf has `rate × delay` queries outstanding, and a race is
//! open for delay + [`FALLBACK_AFTER`].
//!
//! *Master*: alone on the measured core, with one shard. dnsperf and the agents ([`Sink`]) share the other.
//! *Agent*: a real one, alone on the measured core; master and dnsperf share the other.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::Value;
use startgun_core::time::Span;
use startgun_lab::process::Process;

use crate::common::{dns, program, wait_for};
use crate::configuration;
use crate::load::{Answered, Shape, ask};
use crate::servers::Grounds;
use crate::sink::{Received, Sink};
use crate::usage::Usage;
use crate::zones::{APEX, FIRST_NAME};

/// From a query's receipt to T.
const DELAY: Span = Span::from_millis(5);
/// From T to the master's own answer, had there been no receipts: the default. With the delay, 255 ms, and 65,536 races at
/// once, as many as a shard keeps, are 257,000 a second, more than [`LOAD`] can ask for.
pub const FALLBACK_AFTER: Span = Span::from_millis(250);
/// Numbers of agents.
pub const COUNTS: [usize; 4] = [1, 3, 10, 50];
/// 1,000 outstanding queries are 200,000 races a second, were there nothing but the delay. Each socket has room for the
/// answers to its part of them (200 KiB by default, 256 answers as the kernel counts them).
pub const LOAD: Shape = Shape { sockets: 8, outstanding: 1_000, dnssec: false };
/// A shard shows its counters half a second late; what does not change for so long does not change any more.
const SETTLE_INTERVAL: Duration = Duration::from_millis(600);
/// Longest wait for that, as many intervals: races are over in half of one.
const SETTLE_LOOKS_MAX: usize = 20;

/// What a master counts of races.
const MASTER_COUNTERS: [&str; 5] =
    ["queries", "races", "receipts_departed", "receipts_not_departed", "answers_fallback"];
/// What an agent counts of orders.
const AGENT_COUNTERS: [&str; 2] = ["orders", "departures"];

/// Races with so many agents, in one round.
#[derive(Clone, Debug)]
pub struct Races {
    pub races_per_s: f64,
    /// Processor time of the master per race.
    pub master_cpu_us: f64,
    /// Races times agents.
    pub orders_due: u64,
    pub received: Received,
    /// Queries that the master answered itself, for whatever reason.
    pub by_master: u64,
}

/// What one real agent did, in one round.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// Departures per second.
    pub per_s: f64,
    /// Processor time of the agent per order.
    pub cpu_us: f64,
    /// Orders that reached it.
    pub orders: u64,
    /// Those of them that no answer departed for.
    pub failed: u64,
    /// Departure − T: median and 99th percentile.
    pub lateness_us: (f64, f64),
}

/// The name of the agent at this place, and of its site.
pub fn agent_name(place: usize) -> String {
    format!("a{}", place + 1)
}

impl Grounds<'_> {
    /// Races with `agents` agents.
    ///
    /// # Errors
    /// A sentence.
    pub fn race(&self, agents: usize, warm_up: Duration, duration: Duration) -> Result<Races, String> {
        let master = self.start_master(true)?;
        let names: Vec<String> = (0..agents).map(agent_name).collect();
        let mut sink = Sink::connect(self.stage, &names, DELAY)?;
        self.wait_until_racing(agents);
        let usage = Usage::of(master.id());
        usage.keep_on_measured(self.cores)?;
        sink.during(|| self.ask_for_races(warm_up))?;
        let before = self.settled("m1", &MASTER_COUNTERS)?;
        let cpu_before = usage.cpu_ns()?;
        let (answered, after, cpu_after) = sink.during(|| {
            let answered = self.ask_for_races(duration)?;
            let after = self.settled("m1", &MASTER_COUNTERS)?;
            Ok::<_, String>((answered, after, usage.cpu_ns()?))
        })?;
        let received = std::mem::take(&mut sink.received);
        drop(sink);
        let counted = |name: &str| count(&after, name) - count(&before, name);
        stop(master)?;
        let races = counted("races");
        if races == 0 {
            return Err(format!("no race among {} answers: {after}", answered.completed));
        }
        Ok(Races {
            races_per_s: races as f64 / answered.seconds,
            master_cpu_us: (cpu_after - cpu_before) as f64 / 1e3 / races as f64,
            orders_due: races * agents as u64,
            received,
            by_master: counted("answers_fallback") + counted("answers_truncated"),
        })
    }

    /// Races with one real agent.
    ///
    /// # Errors
    /// A sentence.
    pub fn answer_orders(&self, warm_up: Duration, duration: Duration) -> Result<Answers, String> {
        let name = agent_name(0);
        let master = self.start_master(false)?;
        self.stage.write(&format!("{name}.toml"), &configuration::agent(self.stage, 0, &name));
        let started = self.cores.on_measured(|| self.stage.start(&program(), "agent", &name));
        let agent = started.map_err(|error| format!("starting the agent: {error}"))?;
        self.wait_until_racing(1);
        let usage = Usage::of(agent.id());
        usage.keep_on_measured(self.cores)?;
        self.ask_for_races(warm_up)?;
        let before = self.settled(&name, &AGENT_COUNTERS)?;
        let cpu_before = usage.cpu_ns()?;
        let answered = self.ask_for_races(duration)?;
        // Of the newest departures: of those under load, now, and not later.
        let lateness = self.status(&name)["masters"][0]["report"]["lateness"].clone();
        let after = self.settled(&name, &AGENT_COUNTERS)?;
        let cpu_after = usage.cpu_ns()?;
        stop(agent)?;
        stop(master)?;
        let counted = |name: &str| count(&after, name) - count(&before, name);
        let (orders, departures) = (counted("orders"), counted("departures"));
        if orders == 0 {
            return Err(format!("no orders among {} answers: {after}", answered.completed));
        }
        let lateness_us = |quantile: &str| lateness[quantile].as_i64().map_or(f64::NAN, |span_ns| span_ns as f64 / 1e3);
        Ok(Answers {
            per_s: departures as f64 / answered.seconds,
            cpu_us: (cpu_after - cpu_before) as f64 / 1e3 / orders as f64,
            orders,
            failed: orders - departures.min(orders),
            lateness_us: (lateness_us("p50"), lateness_us("p99")),
        })
    }

    fn start_master(&self, measured: bool) -> Result<Process, String> {
        let keys =
            format!("fallback_after_ms = {}\nraces_per_source_per_s = 1000000\n", FALLBACK_AFTER.as_millis_f64());
        let sites: String = (0..COUNTS[COUNTS.len() - 1])
            .map(|place| format!("[race.sites.{}]\na = [\"198.18.1.{}\"]\n", agent_name(place), place + 1))
            .collect();
        // An agent that is busy answers late rather than not at all: how many it can answer is what is asked here.
        let tables = format!(
            "[[zone]]\nname = \"{APEX}.\"\nrecords = \"\"\"\n@ 60 IN SOA ns host 1 3600 600 86400 60\n@ 60 IN NS ns\n\
             ns 60 IN A 198.51.100.1\nh0000000 60 IN A 10.0.0.0\n\"\"\"\n\
             [[race]]\nname = \"*.race.{APEX}.\"\ndelay_ms = {}\nlate = \"send\"\nlate_tolerance_ms = 1000\n\
             [race.fallback]\na = [\"198.18.0.1\"]\n{sites}",
            DELAY.as_millis_f64(),
        );
        self.stage.write("m1.toml", &configuration::master(self.stage, &keys, &tables));
        let start = || self.stage.start(&program(), "master", "m1");
        let started = if measured { self.cores.on_measured(start) } else { Ok(start()) };
        let master = started.map_err(|error| format!("starting the master: {error}"))?;
        self.stage.wait_for_status("m1");
        dns::validate(IpAddr::V4(Ipv4Addr::LOCALHOST), self.stage.service(), FIRST_NAME);
        Ok(master)
    }

    fn wait_until_racing(&self, agents: usize) {
        wait_for("all agents race", || {
            let status = self.stage.status("m1")?;
            let racing = status["agents"].as_array()?.iter().filter(|agent| agent["racing"] == true).count();
            (racing == agents).then_some(())
        });
        // The roster tells the shards right after it tells the status.
        std::thread::sleep(Duration::from_millis(20));
    }

    fn ask_for_races(&self, duration: Duration) -> Result<Answered, String> {
        ask(&self.tools.dnsperf, self.address(), &self.zones.races(), LOAD, duration, "NOERROR")
    }

    fn status(&self, name: &str) -> Value {
        self.stage.status(name).expect("it runs")
    }

    /// The status of a master or agent, once everything so far has been done, paid for, and counted: `counters` rest.
    fn settled(&self, name: &str, counters: &[&str]) -> Result<Value, String> {
        let mut earlier = self.status(name);
        for _ in 0..SETTLE_LOOKS_MAX {
            std::thread::sleep(SETTLE_INTERVAL);
            let later = self.status(name);
            let rests = counters.iter().all(|counter| count(&later, counter) == count(&earlier, counter));
            if rests && later["open_races"].as_u64().unwrap_or(0) == 0 {
                return Ok(later);
            }
            earlier = later;
        }
        Err(format!("{name} does not come to rest: {earlier}"))
    }
}

fn count(status: &Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap_or(0)
}

fn stop(process: Process) -> Result<(), String> {
    let name = process.program().to_owned();
    process.stop(Duration::from_secs(5)).map(drop).map_err(|error| format!("stopping {name}: {error}"))
}
