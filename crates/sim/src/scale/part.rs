//! One part of the population in a world of its own: resolvers with caches, who ask, wait, ask again, and go over TCP when
//! they are told to.

use startgun_core::clock::ClockSource;
use startgun_core::master::MAX_FALLBACK_TTL_S;
use startgun_core::time::Span;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::figures::{Figures, HOURS, Hour, Snapshot};
use super::workload::{Day, Weighted};
use super::{PARTS, ScaleOptions};
use crate::clock::{HostClock, SimTime};
use crate::options::{Host, HostTimeOptions, MasterOptions, Options, Places, Records};
use crate::random::Random;
use crate::world::{RACE_TTL_S, World};

/// Shards of the part's master. With [`PARTS`] they are 16: as many as remember a million validated sources.
const SHARDS: u8 = 2;
/// The budget of a prefix that masters have by default.
const RACES_PER_SOURCE_PER_S: u32 = 100;
/// Time between two exchanges of an agent, in each part: over all parts they are as many as one master's, four a second.
const EXCHANGE_INTERVAL: Span = Span::from_millis(250 * PARTS as i64);
/// Self-tests are passed and forward delays measured when the day begins.
const SETTLING: Span = Span::from_secs(20);
/// Standard deviation of the hosts' clocks, and what their keepers state; about what the mesh leaves.
const CLOCK_DEVIATION: Span = Span::from_micros(100);
const CLOCK_BOUND: Span = Span::from_micros(400);
/// What is under way at the day's end comes to its end: a resolver's patience is shorter.
pub(super) const AFTER_MIDNIGHT_S: u64 = 5;
/// How long a resolver waits before it asks again; Unbound's first time-out. Each wait is twice as long as the one before.
const FIRST_WAIT: Span = Span::from_millis(376);
/// How often it asks: it waits 376, 752 and 1,504 ms, 2.6 s in all.
const TRIES: u32 = 3;
/// Queries are forgotten so long after they were sent, which is longer than a resolver waits for all its tries.
const FORGOTTEN_AFTER: Span = Span::from_secs(4);
/// Most questions that resolvers of a part wait for or remember: a runaway's limit, for 30 s of answers at 3,000 a second
/// are a tenth of it.
const MAX_REMEMBERED: usize = 1 << 20;

/// A resolver's question: who, and which name by its rank.
type Question = (u32, u32);

/// What a resolver knows of a name.
enum Known {
    /// It waits for the master's or a site's answer, since then, to so many queries.
    Asked { since: SimTime, tries: u32 },
    /// It asks over TCP.
    OverTcp,
    /// It has the answer until then.
    Cached(SimTime),
}

/// What a part waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The first question of a resolver.
    First(u32),
    /// One more question of anybody.
    Another,
    /// The answer over TCP is there.
    OverTcp(Question),
    /// A resolver has waited long enough for its answer to a question that it asked first at that time.
    Waited(Question, SimTime),
    /// An hour of the day ends.
    Hour(usize),
}

pub(super) struct Part<'a> {
    options: &'a ScaleOptions,
    world: World,
    day: Day,
    random: Random,
    due: BinaryHeap<Reverse<(SimTime, u64, Due)>>,
    scheduled: u64,
    resolvers: Weighted,
    names: Weighted,
    texts: Vec<String>,
    /// How many more questions are expected beyond everybody's first.
    more: u64,
    places: Places,
    known: BTreeMap<Question, Known>,
    /// By a query's number.
    waiting: BTreeMap<usize, Question>,
    /// The least latency from a site, by place.
    least: Vec<Span>,
    figures: Figures,
    hour: Hour,
    begun: Snapshot,
    at_hour: Snapshot,
}

impl<'a> Part<'a> {
    /// The resolvers whose number leaves the remainder `part`, with sites that are ready to race.
    pub(super) fn new(options: &'a ScaleOptions, part: usize) -> Self {
        let mut random = Random::named(options.seed, [u64::from_be_bytes(*b"scalepop"), part as u64, 0]);
        let ranks: Vec<u64> = (part..options.resolvers).step_by(PARTS).map(|number| number as u64 + 1).collect();
        let people = Weighted::new(options.weights.iter().copied());
        let mut places = options.places.clone();
        places.masters = vec![options.master];
        places.agents.clone_from(&options.sites);
        places.clients = ranks.iter().map(|_| people.draw(&mut random) as u16).collect();
        let sites = options.sites.len();
        let least = (0..places.count()).map(|place| least_latency(&places, place)).collect();

        let mut world = World::new(world_options(options, places.clone(), &mut random), random.next());
        world.run_for(SETTLING);
        let ready = (0..sites).filter(|agent| world.races(*agent, 0)).count();
        let mut figures = Figures::new(sites);
        figures.ready = ready as u64;
        let begun = Snapshot::of(&world, sites);
        let mut part = Part {
            options,
            day: Day { begins: world.now(), length: Span::from_secs(i64::from(options.seconds)) },
            at_hour: Snapshot::of(&world, sites),
            begun,
            world,
            random,
            due: BinaryHeap::new(),
            scheduled: 0,
            // A part's share of what is asked is its share of the weight, nearly: the first rank alone has 1/14.
            more: share(options, part),
            names: Weighted::zipf(1..=options.names as u64),
            texts: (0..options.names).map(|name| format!("n{name}.cdn.test")).collect(),
            resolvers: Weighted::zipf(ranks.iter().copied()),
            places,
            known: BTreeMap::new(),
            waiting: BTreeMap::new(),
            least,
            figures,
            hour: Hour::default(),
        };
        for resolver in 0..ranks.len() {
            let at = part.day.moment(&mut part.random);
            part.schedule(at, Due::First(resolver as u32));
        }
        for hour in 0..HOURS {
            let end = part.day.length.as_nanos() / HOURS as i64 * (hour as i64 + 1);
            part.schedule(part.day.begins + Span::from_nanos(end), Due::Hour(hour));
        }
        part.schedule_another();
        part
    }

    /// Lives through the day, and says after each virtual second that it has.
    pub(super) fn run(mut self, second_done: &dyn Fn()) -> Figures {
        let end = self.day.ends() + Span::from_secs(AFTER_MIDNIGHT_S as i64);
        let mut second = self.day.begins;
        while second < end {
            second = second + Span::from_secs(1);
            while let Some(&Reverse((at, _, due))) = self.due.peek().filter(|Reverse((at, ..))| *at <= second) {
                self.due.pop();
                self.run_world_until(at);
                self.happen(due);
            }
            self.run_world_until(second);
            self.forget();
            second_done();
        }
        let concluded = Snapshot::of(&self.world, self.options.sites.len());
        concluded.conclude(&self.begun, &mut self.figures);
        // What came after midnight belongs to the last hour.
        self.end_hour(HOURS - 1);
        self.figures.delay = self.world.predetermined_delay(0).unwrap_or(Span::ZERO);
        self.figures
    }

    fn schedule(&mut self, at: SimTime, due: Due) {
        self.scheduled += 1;
        self.due.push(Reverse((at, self.scheduled, due)));
    }

    fn schedule_another(&mut self) {
        let next = self.day.next(self.world.now(), self.more, &mut self.random);
        if let Some(at) = next.filter(|at| *at < self.day.ends()) {
            self.schedule(at, Due::Another);
        }
    }

    fn run_world_until(&mut self, at: SimTime) {
        self.world.run_until(at);
        for number in self.world.take_answered() {
            self.take_answer(number);
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::First(resolver) => self.ask(resolver),
            Due::Another => {
                let resolver = self.resolvers.draw(&mut self.random) as u32;
                self.ask(resolver);
                self.schedule_another();
            }
            Due::OverTcp(question) => {
                self.world.validate(question.0 as usize, 0);
                let until = self.world.now() + Span::from_secs(i64::from(MAX_FALLBACK_TTL_S));
                self.known.insert(question, Known::Cached(until));
                self.figures.over_tcp += 1;
                self.hour.over_tcp += 1;
            }
            Due::Waited(question, first) => self.ask_again(question, first),
            Due::Hour(hour) => self.end_hour(hour),
        }
    }

    /// A client of a resolver asks it for a name.
    fn ask(&mut self, resolver: u32) {
        let question = (resolver, self.names.draw(&mut self.random) as u32);
        let now = self.world.now();
        self.figures.client_queries += 1;
        self.hour.client_queries += 1;
        match self.known.get(&question) {
            Some(Known::Cached(until)) if *until > now => self.figures.cache_hits += 1,
            Some(Known::Asked { .. } | Known::OverTcp) => self.figures.joined += 1,
            Some(Known::Cached(_)) | None => {
                assert!(self.known.len() < MAX_REMEMBERED, "at most {MAX_REMEMBERED} names in caches");
                self.figures.asked += 1;
                self.send(question, now, 1);
            }
        }
    }

    /// A resolver's query leaves, its first for this question or another.
    fn send(&mut self, question: Question, since: SimTime, tries: u32) {
        let number = self.world.query(question.0 as usize, 0, &self.texts[question.1 as usize]);
        self.waiting.insert(number, question);
        self.known.insert(question, Known::Asked { since, tries });
        let wait = Span::from_nanos(FIRST_WAIT.as_nanos() << (tries - 1));
        self.schedule(self.world.now() + wait, Due::Waited(question, since));
    }

    fn ask_again(&mut self, question: Question, first: SimTime) {
        match self.known.get(&question) {
            Some(&Known::Asked { since, tries }) if since == first => {
                if tries < TRIES {
                    self.figures.repeats += 1;
                    self.send(question, since, tries + 1);
                } else {
                    self.figures.unanswered += 1;
                    self.known.remove(&question);
                }
            }
            _ => {}
        }
    }

    /// The first answer to a query.
    fn take_answer(&mut self, number: usize) {
        let Some(question) = self.waiting.remove(&number) else { return };
        let Some(&Known::Asked { since, .. }) = self.known.get(&question) else { return };
        let Some(arrival) = self.world.finish(number).and_then(|finish| finish.arrivals.first()) else { return };
        let (at, by) = (arrival.at, arrival.by);
        let ttl_s = match by {
            _ if arrival.truncated => {
                self.known.insert(question, Known::OverTcp);
                let (client, master) = (Host::Client(question.0 as usize), Host::Master(0));
                let round_trip = self.latency(client, master) + self.latency(master, client);
                // One for the connection, one for the answer.
                return self.schedule((at + round_trip + round_trip).max(self.world.now()), Due::OverTcp(question));
            }
            Host::Agent(site) => {
                self.figures.by_site += 1;
                self.figures.note_answer(at - since);
                self.judge(question.0, site);
                RACE_TTL_S
            }
            Host::Master(_) | Host::Client(_) => {
                self.figures.by_master += 1;
                MAX_FALLBACK_TTL_S
            }
        };
        self.known.insert(question, Known::Cached(at + Span::from_secs(i64::from(ttl_s))));
    }

    fn latency(&self, from: Host, to: Host) -> Span {
        self.places.between(self.places.place_of(from), self.places.place_of(to)).delay
    }

    fn judge(&mut self, resolver: u32, site: usize) {
        let client = Host::Client(resolver as usize);
        let loss = self.latency(Host::Agent(site), client) - self.least[self.places.place_of(client)];
        let choice = &mut self.figures.choice;
        choice.races += 1;
        choice.lowest += u64::from(loss == Span::ZERO);
        choice.within_5ms += u64::from(loss <= Span::from_millis(5));
        choice.loss_ns += loss.as_nanos() as u64;
    }

    /// Forgets queries that nobody waits for any more, and names whose time is over.
    fn forget(&mut self) {
        let before = self.world.now() + Span::from_nanos(-FORGOTTEN_AFTER.as_nanos());
        let (first, finishes) = self.world.take_finishes(before);
        for (number, finish) in (first..).zip(finishes) {
            self.figures.answers += finish.answers as u64;
            self.waiting.remove(&number);
        }
        let now = self.world.now();
        self.known.retain(|_, known| !matches!(known, Known::Cached(until) if *until <= now));
    }

    fn end_hour(&mut self, hour: usize) {
        let now = Snapshot::of(&self.world, self.options.sites.len());
        let counted = core::mem::take(&mut self.hour);
        let passed = Hour {
            client_queries: counted.client_queries,
            over_tcp: counted.over_tcp,
            ..now.hour_since(&self.at_hour)
        };
        self.figures.hours[hour].add(&passed);
        self.at_hour = now;
    }
}

/// The least latency from a site to this place, of those that reach it.
fn least_latency(places: &Places, place: usize) -> Span {
    let paths = places.agents.iter().map(|site| places.between(usize::from(*site), place));
    paths.filter(|path| path.loss_ppm < 1_000_000).map(|path| path.delay).min().unwrap_or(Span::ZERO)
}

/// How many of the questions beyond the first ones fall on a part: by its share of Zipf's weights.
fn share(options: &ScaleOptions, part: usize) -> u64 {
    let weight =
        |numbers: &mut dyn Iterator<Item = usize>| Weighted::zipf(numbers.map(|number| number as u64 + 1)).total();
    let own = weight(&mut (part..options.resolvers).step_by(PARTS));
    let all = weight(&mut (0..options.resolvers));
    (u128::from(options.queries) * u128::from(own) / u128::from(all.max(1))) as u64
}

/// A world of these hosts: processes' clocks are up to 10 s off and 50 ppm fast or slow; the hosts' set them right.
fn world_options(population: &ScaleOptions, places: Places, random: &mut Random) -> Options {
    let mut errors = Random::named(random.next(), [u64::from_be_bytes(*b"keepers "), 0, 0]);
    let mut between = |low: i64, high: i64| low + (random.next() % (high - low) as u64) as i64;
    let mut clock = |base: Span| HostClock {
        offset: base + Span::from_nanos(between(-10_000_000_000, 10_000_000_000)),
        drift_ppb: between(-50_000, 50_000),
        ..HostClock::default()
    };
    let mut options = Options::new(places.agents.len(), places.clients.len());
    options.masters = vec![MasterOptions {
        clock: clock(Span::from_secs(1_000)),
        shards: SHARDS,
        delay: population.delay,
        races_per_source_per_s: RACES_PER_SOURCE_PER_S,
        host_time: Some(HostTimeOptions { error: Span::ZERO, bound: CLOCK_BOUND }),
        ..MasterOptions::default()
    }];
    for agent in &mut options.agents {
        agent.clock = clock(Span::ZERO);
        agent.exchange_interval = EXCHANGE_INTERVAL;
        agent.race_clock.source = ClockSource::Host;
        let error = errors.normal(CLOCK_DEVIATION).clamp(-CLOCK_BOUND, CLOCK_BOUND);
        agent.host_time = Some(HostTimeOptions { error, bound: CLOCK_BOUND });
        agent.mesh = false;
    }
    options.places = Some(places);
    options.trace = false;
    options.records = Records::Sums;
    options
}
