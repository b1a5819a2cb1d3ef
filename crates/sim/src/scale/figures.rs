//! What a run of the population came to: sums, so that parts add up to the same in any order.

use startgun_core::time::Span;
use std::collections::BTreeMap;

use crate::options::Host;
use crate::records::Traffic;
use crate::world::World;

/// Parts of the day that figures are kept for, to find the busiest.
pub const HOURS: usize = 24;
/// Times to the first answer are counted by the millisecond up to here: a resolver gives up before.
const MAX_ANSWER_MS: usize = 4_096;

/// What passed over a host's link in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Datagrams.
    pub packets: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
}

impl Flow {
    fn add(&mut self, other: Flow) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    fn since(self, before: Flow) -> Flow {
        Flow { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

/// Both directions of a host's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// What reached the host.
    pub inward: Flow,
    /// What left it.
    pub outward: Flow,
}

impl Link {
    fn of(traffic: Traffic) -> Self {
        Link {
            inward: Flow { packets: traffic.received, bytes: traffic.received_bytes },
            outward: Flow { packets: traffic.sent, bytes: traffic.sent_bytes },
        }
    }

    fn add(&mut self, other: Link) {
        self.inward.add(other.inward);
        self.outward.add(other.outward);
    }

    fn since(self, before: Link) -> Link {
        Link { inward: self.inward.since(before.inward), outward: self.outward.since(before.outward) }
    }
}

/// One hour of the compressed day. What is under way at its end is of the next; the last takes what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// Questions of the resolvers' own clients.
    pub client_queries: u64,
    /// Queries at the master.
    pub queries: u64,
    /// Queries at the master that neither raced nor amended a race.
    pub central: u64,
    /// Races.
    pub races: u64,
    /// Orders.
    pub orders: u64,
    /// Queries over TCP.
    pub over_tcp: u64,
    /// The master's link.
    pub master: Link,
    /// Every site's link.
    pub sites: Vec<Link>,
}

/// How good the sites were that won, by the latency from the site to the resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Races that a site won.
    pub races: u64,
    /// Of them, won by a site with the least latency.
    pub lowest: u64,
    /// Of them, won by a site with at most 5 ms more.
    pub within_5ms: u64,
    /// What the winners had more than the least latency, in all, in nanoseconds.
    pub loss_ns: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many sites there were.
    pub sites: u64,
    /// Sites that were ready to race when the day began, in the part where they were fewest.
    pub ready: u64,
    /// Questions of the resolvers' own clients.
    pub client_queries: u64,
    /// Of them, answered from the resolver's cache.
    pub cache_hits: u64,
    /// Of them, joined to a query for the same name that was under way.
    pub joined: u64,
    /// Of them, those for which the resolver asked the master.
    pub asked: u64,
    /// Queries that a resolver sent again, because no answer had come.
    pub repeats: u64,
    /// Asked, and answered first by a site.
    pub by_site: u64,
    /// Asked, and answered first by the master, over UDP.
    pub by_master: u64,
    /// Asked, told to come back over TCP, and answered there.
    pub over_tcp: u64,
    /// Asked, and given up.
    pub unanswered: u64,
    /// Answers that reached resolvers over UDP, those that lost included.
    pub answers: u64,
    /// What the masters' shards counted.
    pub master: BTreeMap<&'static str, u64>,
    /// What the agents counted, together.
    pub agents: BTreeMap<&'static str, u64>,
    /// What the resolvers sent and received.
    pub clients: Traffic,
    /// What the master sent and received.
    pub master_traffic: Traffic,
    /// Datagrams of agents that were lost.
    pub agents_lost: u64,
    /// How good the winners were.
    pub choice: Choice,
    /// The day, hour by hour.
    pub hours: Vec<Hour>,
    /// Longest predetermined delay at the day's end, among the parts.
    pub delay: Span,
    /// Time to a site's answer, from the resolver's first query: how many, by the millisecond.
    answer_ms: Vec<u32>,
}

impl Figures {
    pub(super) fn new(sites: usize) -> Self {
        let hour = Hour { sites: vec![Link::default(); sites], ..Hour::default() };
        Figures {
            sites: sites as u64,
            ready: sites as u64,
            hours: vec![hour; HOURS],
            answer_ms: vec![0; MAX_ANSWER_MS],
            ..Figures::default()
        }
    }

    pub(super) fn note_answer(&mut self, took: Span) {
        let ms = (took.as_nanos() / 1_000_000).clamp(0, MAX_ANSWER_MS as i64 - 1);
        self.answer_ms[ms as usize] += 1;
    }

    /// The time within which this share of the sites' answers came, in whole milliseconds, rounded up; `None` without
    /// any.
    pub fn answer_ms(&self, percent: u64) -> Option<usize> {
        let wanted = self.by_site * percent;
        let mut sum = 0;
        let place = self.answer_ms.iter().position(|count| {
            sum += u64::from(*count) * 100;
            sum >= wanted && sum > 0
        });
        place.map(|ms| ms + 1)
    }

    /// Adds another part of the same population.
    pub(super) fn add(&mut self, other: &Figures) {
        let Figures { client_queries, cache_hits, joined, asked, repeats, .. } = other;
        self.client_queries += client_queries;
        self.cache_hits += cache_hits;
        self.joined += joined;
        self.asked += asked;
        self.repeats += repeats;
        self.by_site += other.by_site;
        self.by_master += other.by_master;
        self.over_tcp += other.over_tcp;
        self.unanswered += other.unanswered;
        self.answers += other.answers;
        add_counts(&mut self.master, &other.master);
        add_counts(&mut self.agents, &other.agents);
        add_traffic(&mut self.clients, other.clients);
        add_traffic(&mut self.master_traffic, other.master_traffic);
        self.agents_lost += other.agents_lost;
        self.choice.races += other.choice.races;
        self.choice.lowest += other.choice.lowest;
        self.choice.within_5ms += other.choice.within_5ms;
        self.choice.loss_ns += other.choice.loss_ns;
        self.ready = self.ready.min(other.ready);
        self.delay = self.delay.max(other.delay);
        self.hours.iter_mut().zip(&other.hours).for_each(|(hour, other)| hour.add(other));
        self.answer_ms.iter_mut().zip(&other.answer_ms).for_each(|(count, other)| *count += other);
    }

    /// A counter of the masters.
    pub fn master_count(&self, name: &str) -> u64 {
        self.master.get(name).copied().unwrap_or(0)
    }

    /// A counter of the agents.
    pub fn agent_count(&self, name: &str) -> u64 {
        self.agents.get(name).copied().unwrap_or(0)
    }

    /// The hour with the most races; `None` before any.
    pub fn busiest(&self) -> Option<&Hour> {
        self.hours.iter().max_by_key(|hour| hour.races)
    }

    /// What must add up and does not: nothing is made or vanishes between the resolvers' clients and their answers. A
    /// sentence each; none where all is well.
    pub fn contradictions(&self) -> Vec<String> {
        let master = |name| self.master_count(name);
        let agents = |name| self.agent_count(name);
        let outcomes: u64 = AT_MASTER.iter().map(|(name, _)| master(name)).sum();
        let refused: u64 =
            self.agents.iter().filter(|(name, _)| name.starts_with("order_refused")).map(|(_, count)| count).sum();
        let in_time = agents("departures") + agents("departures_dropped_late") + agents("departures_failed");
        let in_time = in_time + agents("departures_withdrawn");
        let ordered = master("races") + master("queries_amended");
        let equal = [
            (
                "client queries",
                self.client_queries,
                "cache hits, joined and asked",
                self.cache_hits + self.joined + self.asked,
            ),
            (
                "asked",
                self.asked,
                "answered and given up",
                self.by_site + self.by_master + self.over_tcp + self.unanswered,
            ),
            ("queries sent", self.clients.sent, "asked and repeats", self.asked + self.repeats),
            (
                "queries sent and not lost",
                self.clients.sent - self.clients.lost,
                "queries at the master",
                master("queries"),
            ),
            ("queries at the master", master("queries"), "their outcomes", outcomes),
            (
                "orders at agents",
                agents("orders"),
                "departed, replaced or refused",
                in_time + agents("orders_amended") + refused,
            ),
        ];
        let unequal = equal.into_iter().filter(|(_, one, _, other)| one != other);
        let mut found: Vec<String> =
            unequal.map(|(what, one, of, other)| format!("{one} {what}, but {other} {of}")).collect();
        // Fewer where a site stood down meanwhile.
        let orders = master("orders") + master("orders_withheld");
        if orders > ordered * self.sites {
            found.push(format!("{orders} orders, but {ordered} races and amendments with {} sites", self.sites));
        }
        let lost = master("orders").checked_sub(agents("orders"));
        if lost.is_none_or(|lost| lost > self.master_traffic.lost) {
            found.push(format!(
                "{} orders sent, {} received, but the master lost {} datagrams only",
                master("orders"),
                agents("orders"),
                self.master_traffic.lost
            ));
        }
        found
    }
}

/// What becomes of a query at the master, by the shards' counters, and whether it is answered there.
pub const AT_MASTER: [(&str, bool); 13] = [
    ("races", false),
    ("queries_amended", false),
    ("queries_repeated_answered", true),
    ("queries_repeated_ignored", false),
    ("queries_duplicate", false),
    ("answers_truncated", true),
    ("queries_dropped_rate", false),
    ("answers_fallback_budget", true),
    ("answers_fallback_table_full", true),
    ("answers_fallback_no_agent", true),
    ("answers_central", true),
    ("queries_ignored", false),
    ("queries_malformed", true),
];

impl Hour {
    pub(super) fn add(&mut self, other: &Hour) {
        self.client_queries += other.client_queries;
        self.queries += other.queries;
        self.central += other.central;
        self.races += other.races;
        self.orders += other.orders;
        self.over_tcp += other.over_tcp;
        self.master.add(other.master);
        self.sites.iter_mut().zip(&other.sites).for_each(|(site, other)| site.add(*other));
    }
}

fn add_counts(sums: &mut BTreeMap<&'static str, u64>, other: &BTreeMap<&'static str, u64>) {
    other.iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
}

fn add_traffic(sum: &mut Traffic, other: Traffic) {
    let Traffic { sent, sent_bytes, lost, received, received_bytes } = other;
    sum.sent += sent;
    sum.sent_bytes += sent_bytes;
    sum.lost += lost;
    sum.received += received;
    sum.received_bytes += received_bytes;
}

/// What a world's hosts have counted up to an instant.
pub(super) struct Snapshot {
    pub(super) master: BTreeMap<&'static str, u64>,
    pub(super) agents: BTreeMap<&'static str, u64>,
    pub(super) clients: Traffic,
    pub(super) master_traffic: Traffic,
    pub(super) sites: Vec<Traffic>,
}

impl Snapshot {
    pub(super) fn of(world: &World, sites: usize) -> Self {
        let mut agents = BTreeMap::new();
        (0..sites).for_each(|agent| add_counts(&mut agents, world.agent_counters(agent)));
        Snapshot {
            master: world.master_counters(0),
            agents,
            clients: world.traffic(Host::Client(0)),
            master_traffic: world.traffic(Host::Master(0)),
            sites: (0..sites).map(|agent| world.traffic(Host::Agent(agent))).collect(),
        }
    }

    /// What the hosts did between an earlier instant and this one, as far as an hour is concerned.
    pub(super) fn hour_since(&self, before: &Snapshot) -> Hour {
        let count = |name| count_since(&self.master, &before.master, name);
        let link = |now: &Traffic, before: &Traffic| Link::of(*now).since(Link::of(*before));
        let raced = count("races") + count("queries_amended");
        Hour {
            queries: count("queries"),
            central: count("queries") - raced,
            races: count("races"),
            orders: count("orders"),
            master: link(&self.master_traffic, &before.master_traffic),
            sites: self.sites.iter().zip(&before.sites).map(|(now, before)| link(now, before)).collect(),
            ..Hour::default()
        }
    }

    /// Writes the whole day, which began at `before`, into figures.
    pub(super) fn conclude(&self, before: &Snapshot, figures: &mut Figures) {
        let since = |now: &BTreeMap<&'static str, u64>, before: &BTreeMap<&'static str, u64>| {
            now.keys().map(|name| (*name, count_since(now, before, name))).collect()
        };
        figures.master = since(&self.master, &before.master);
        figures.agents = since(&self.agents, &before.agents);
        figures.clients = traffic_since(self.clients, before.clients);
        figures.master_traffic = traffic_since(self.master_traffic, before.master_traffic);
        let lost = |sites: &[Traffic]| sites.iter().map(|site| site.lost).sum::<u64>();
        figures.agents_lost = lost(&self.sites) - lost(&before.sites);
    }
}

fn count_since(now: &BTreeMap<&'static str, u64>, before: &BTreeMap<&'static str, u64>, name: &str) -> u64 {
    let count = |counts: &BTreeMap<&'static str, u64>| counts.get(name).copied().unwrap_or(0);
    count(now) - count(before)
}

fn traffic_since(now: Traffic, before: Traffic) -> Traffic {
    Traffic {
        sent: now.sent - before.sent,
        sent_bytes: now.sent_bytes - before.sent_bytes,
        lost: now.lost - before.lost,
        received: now.received - before.received,
        received_bytes: now.received_bytes - before.received_bytes,
    }
}
