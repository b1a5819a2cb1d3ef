//! One draw: its world, its races, and what they are worth.

use startgun_core::clock::ClockSource;
use startgun_core::time::Span;

use super::network::{Jitter, LOCAL_ROUND_TRIP};
use super::plan::{Clocks, Plan, Sites};
use super::tally::Tally;
use crate::clock::HostClock;
use crate::options::{AgentOptions, Host, HostTimeOptions, Options, Path, Records};
use crate::world::World;

/// How long agents set their clocks before anybody asks: exchanges with the master alone have then told which of them
/// were not disturbed.
const SETTLING: Span = Span::from_secs(20);
/// With the mesh: peers are introduced, measure their paths once a second, and ten sets come round; 15 s more change the
/// clocks' error by less than a hundredth.
const SETTLING_OF_MESH: Span = Span::from_secs(25);
/// And so much more for each agent beyond: sets of larger meshes come less often.
const SETTLING_PER_AGENT: Span = Span::from_millis(400);
/// Host clocks are told at once; sessions, self-tests and forward delays take some seconds.
const SETTLING_OF_HOSTS: Span = Span::from_secs(8);
/// Between two clients' queries.
const BETWEEN_QUERIES: Span = Span::from_millis(2);
/// After the last query: half a round trip, a delay of 300 ms, the answers' way, the fallback after 250 ms and its way.
const LAST_RACE: Span = Span::from_secs(6);
/// What a keeper of a host's clock states, in standard deviations of its error; none is beyond.
const KEEPER_BOUND: i64 = 4;
/// Beside both keepers' bounds: what two clocks may drift by between a statement and the departure.
const DRIFT_ALLOWANCE: Span = Span::from_millis(1);
/// Greatest drift of a host's clock, either way, in parts per billion: that of a computer's crystal.
const DRIFT_PPB: usize = 50_000;

/// Why an agent does not race that no packet of the master's can reach.
const NO_PATH: &str = "its path to the master is missing";

/// The places of one draw.
pub(crate) struct Places {
    pub(crate) sites: Vec<usize>,
    clients: Vec<usize>,
    pub(crate) master: usize,
}

impl Plan {
    /// Carries one draw out.
    pub(super) fn draw(&self, draw: u64, tally: &mut Tally) {
        let places = self.places(draw);
        let seed = self.random(b"worlds  ", draw, 0).next();
        let mut world = World::new(self.options(draw, &places), seed);
        world.run_for(self.settling());
        world.validate_all();
        self.note_clocks(&world, &places, tally);
        if let Some(delay) = world.predetermined_delay(0) {
            tally.predetermined_delay.note(delay);
        }
        let mut asked = Vec::new();
        for (client, &place) in places.clients.iter().enumerate() {
            let reaches = |to: usize| self.network.trip(place, to).is_some();
            if reaches(places.master) && places.sites.iter().any(|&site| reaches(site)) {
                world.query(client, 0, "a.cdn.test");
                world.run_for(BETWEEN_QUERIES);
                asked.push(place);
            } else {
                tally.clients_without_path += 1;
            }
        }
        world.run_for(LAST_RACE);
        tally.draws += 1;
        tally.orders += world.master_counter(0, "orders");
        let fallbacks = world.master_counter(0, "answers_fallback");
        tally.fallbacks += fallbacks;
        tally.answers += world.master_counter(0, "receipts_departed") + fallbacks;
        self.note_races(&world, &places, &asked, tally);
    }

    pub(crate) fn places(&self, draw: u64) -> Places {
        let mut all: Vec<usize> = (0..self.network.count()).collect();
        let sites = match &self.sites {
            Sites::Fixed(sites) => sites.clone(),
            Sites::Random(count) => {
                let mut random = self.random(b"sites   ", draw, 0);
                for place in 0..*count {
                    let other = place + random.below(all.len() - place);
                    all.swap(place, other);
                }
                all[..*count].to_vec()
            }
        };
        let clients = (0..self.network.count()).filter(|place| !sites.contains(place)).collect();
        Places { master: self.master.unwrap_or(sites[0]), sites, clients }
    }

    fn settling(&self) -> Span {
        match self.clocks {
            Clocks::Host(_) | Clocks::Perfect => SETTLING_OF_HOSTS,
            Clocks::Master => SETTLING,
            Clocks::Mesh => {
                let beyond = self.site_count().saturating_sub(12) as i64;
                SETTLING_OF_MESH + Span::from_nanos(SETTLING_PER_AGENT.as_nanos() * beyond)
            }
        }
    }

    fn options(&self, draw: u64, places: &Places) -> Options {
        let mut options = Options::new(places.sites.len(), places.clients.len());
        options.trace = false;
        options.records = Records::Sums;
        options.masters[0].delay = self.delay;
        self.set_clocks(draw, &mut options);
        let agents = places.sites.iter().enumerate().map(|(agent, &site)| (Host::Agent(agent), site));
        let clients = places.clients.iter().enumerate().map(|(client, &place)| (Host::Client(client), place));
        let servers: Vec<(Host, usize)> = core::iter::once((Host::Master(0), places.master)).chain(agents).collect();
        for (index, &(one, place)) in servers.iter().enumerate() {
            for (other, other_place) in servers[..index].iter().copied().chain(clients.clone()) {
                let (mut there, back) = self.paths(draw, place, other_place);
                if let (Host::Client(_), Some(trip)) = (other, self.network.trip(place, other_place)) {
                    let Jitter { at_lower_ppm, at_higher_ppm, .. } = trip.jitter;
                    there.tail.0 = if place < other_place { at_lower_ppm } else { at_higher_ppm };
                }
                options.paths.insert((one, other), there);
                options.paths.insert((other, one), back);
            }
        }
        options
    }

    /// The path from one place to another, and back.
    pub(crate) fn paths(&self, draw: u64, from: usize, to: usize) -> (Path, Path) {
        let Some(trip) = self.network.trip(from, to) else {
            let none = Path { loss_ppm: 1_000_000, ..Path::of(LOCAL_ROUND_TRIP) };
            return (none, none);
        };
        let (lower, higher) = (from.min(to), from.max(to));
        let round_trip = trip.round_trip.as_nanos();
        // e in parts of a billion; what is in one place has no asymmetry.
        let e = match lower == higher {
            true => Span::ZERO,
            false => {
                let deviation = Span::from_nanos((self.asymmetry_deviation * 1e9).round() as i64);
                self.random(b"paths   ", draw, (lower as u64) << 32 | higher as u64).normal(deviation)
            }
        };
        let e = i128::from(e.as_nanos().clamp(-500_000_000, 500_000_000));
        let upwards = round_trip / 2 + (i128::from(round_trip) * e / 1_000_000_000) as i64;
        let tail = (trip.jitter.at_lower_ppm + trip.jitter.at_higher_ppm, trip.jitter.wait);
        let path = |nanos: i64| Path { tail, ..Path::of(Span::from_nanos(nanos)) };
        let (there, back) = (path(upwards), path(round_trip - upwards));
        if from <= to { (there, back) } else { (back, there) }
    }

    fn set_clocks(&self, draw: u64, options: &mut Options) {
        let deviation = match self.clocks {
            Clocks::Host(deviation) => Some(deviation),
            Clocks::Perfect => Some(Span::ZERO),
            Clocks::Master | Clocks::Mesh => None,
        };
        let bound = Span::from_nanos(deviation.unwrap_or_default().as_nanos() * KEEPER_BOUND);
        let clock = |host: u64| {
            let mut random = self.random(b"clocks  ", draw, host);
            let offset = Span::from_nanos(random.below(20_000_000_000) as i64 - 10_000_000_000);
            let drift_ppb = random.below(2 * DRIFT_PPB) as i64 - DRIFT_PPB as i64;
            HostClock {
                offset,
                drift_ppb: if self.clocks == Clocks::Perfect { 0 } else { drift_ppb },
                ..HostClock::default()
            }
        };
        let master = &mut options.masters[0];
        let drawn = clock(0);
        // A clock that counts from the host's boot is never negative on a master.
        master.clock = HostClock { offset: drawn.offset + Span::from_secs(100), ..drawn };
        master.host_time = deviation.map(|_| HostTimeOptions { error: Span::ZERO, bound });
        for (agent, own) in (1..).zip(&mut options.agents) {
            own.clock = clock(agent);
            own.mesh = self.clocks == Clocks::Mesh;
            own.race_clock.source = if deviation.is_some() { ClockSource::Host } else { ClockSource::Master };
            let error = deviation.map(|deviation| self.host_error(draw, agent, deviation));
            own.host_time = error.map(|error| HostTimeOptions { error, bound });
            // Both keepers' bounds are what such an agent takes for its expected error: an operator who trusts clocks like
            // these lets it race.
            let expected = bound + bound + DRIFT_ALLOWANCE;
            let AgentOptions { max_expected_error, max_bound, .. } = own;
            if deviation.is_some() {
                *max_expected_error = expected.max(*max_expected_error);
                *max_bound = expected.max(*max_bound);
            }
        }
    }

    fn host_error(&self, draw: u64, agent: u64, deviation: Span) -> Span {
        let mut random = self.random(b"keepers ", draw, agent);
        let bound = deviation.as_nanos() * KEEPER_BOUND;
        // One in 16,000 is beyond.
        Span::from_nanos(random.normal(deviation).as_nanos().clamp(-bound, bound))
    }

    fn note_clocks(&self, world: &World, places: &Places, tally: &mut Tally) {
        let mut errors_ns = Vec::new();
        for (agent, &site) in places.sites.iter().enumerate() {
            match world.stand_down(agent, 0) {
                Some(_) if self.network.trip(site, places.master).is_none() => {
                    *tally.stood_down.entry(NO_PATH).or_default() += 1;
                }
                Some(reason) => *tally.stood_down.entry(reason.text()).or_default() += 1,
                None => {
                    errors_ns.extend(world.read_clock(agent, 0).map(|reading| i128::from(reading.error.as_nanos())))
                }
            }
        }
        let count = errors_ns.len() as i128;
        if count > 0 {
            let mean = errors_ns.iter().sum::<i128>() / count;
            let squares = errors_ns.iter().map(|error| (error - mean).unsigned_abs().pow(2));
            tally.mutual_error_ns2.0 += squares.sum::<u128>();
            tally.mutual_error_ns2.1 += count as u64;
        }
    }

    fn note_races(&self, world: &World, places: &Places, asked: &[usize], tally: &mut Tally) {
        let round_trip = |client: usize, site: usize| self.network.trip(client, site).map(|trip| trip.round_trip);
        let cost = |site: usize| {
            let trips = asked.iter().map(|&client| round_trip(client, site));
            let unknown = trips.clone().filter(Option::is_none).count();
            (unknown, trips.flatten().map(Span::as_nanos).sum::<i64>())
        };
        let fixed = places.sites.iter().copied().min_by_key(|&site| cost(site));
        for (&client, finish) in asked.iter().zip(world.finishes()) {
            tally.races += 1;
            let known = || places.sites.iter().filter_map(|&site| Some((site, round_trip(client, site)?)));
            let Some(best) = known().map(|(_, trip)| trip).min() else { continue };
            let loss = |site: usize| round_trip(client, site).map(|trip| trip - best);
            let winner = match finish.winner() {
                Some(Host::Agent(agent)) => Some(places.sites[agent]),
                Some(Host::Master(_) | Host::Client(_)) | None => None,
            };
            tally.race.note(winner.and_then(loss));
            tally.best.note(Some(Span::ZERO));
            tally.fixed.note(fixed.and_then(loss));
            known().for_each(|(_, trip)| tally.random.note(Some(trip - best)));
            if self.network.has_coordinates() {
                let by_distance = |one: &usize, other: &usize| {
                    let km = |site: usize| self.network.distance_km(client, site).unwrap_or(f64::INFINITY);
                    km(*one).total_cmp(&km(*other))
                };
                let nearest = known().map(|(site, _)| site).min_by(by_distance);
                tally.distance.note(nearest.and_then(loss));
            }
            if let Some(arrival) = finish.arrivals.first() {
                tally.first_answer.note(arrival.at - finish.sent);
            }
        }
    }
}
