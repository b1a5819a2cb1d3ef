//! What forgers do: they read and replay what passes, make things up, and ask in others' names. They have no keys.

use domain::base::Rtype;
use startgun_core::time::Span;
use startgun_core::wire::session::{CHALLENGE, HEADER, SEALED};

use super::judge::{Judge, stream_of};
use super::plan::{Forgery, Plan};
use crate::random::Random;
use crate::world::{addresses_of, alter, query_of};
use crate::{Host, World};

/// Ages at which a replay window has its edges, in datagrams of the same stream; the newest most often.
const AGES: [u64; 12] = [0, 0, 0, 1, 2, 63, 64, 65, 127, 128, 255, 256];
/// Most datagrams that are sent again in the end: the first seconds'.
const MAX_RESENT: usize = 600;
/// Most queries of one forgery.
const MAX_QUERIES: u64 = 12;
/// The longest that a forged packet takes.
const SLOWEST: u64 = 30_000_000;

pub(super) struct Forger {
    seed: u64,
    floods: u64,
}

impl Forger {
    pub(super) fn new(seed: u64) -> Self {
        Forger { seed, floods: 0 }
    }

    /// A client's address asks for many names at once.
    pub(super) fn flood(&mut self, world: &mut World, master: usize, client: usize, queries: usize) {
        self.floods += 1;
        for number in 0..queries {
            let name = format!("f{}x{number}.cdn.test", self.floods);
            // No two floods share a port: an answer is told by its port and id.
            let port = 1_024 + (self.floods % 100) as u16 * 64 + number as u16 % 64;
            let bytes = query_of(number as u16, &name, Rtype::A, &[]);
            let (source, to) = addresses_of(client, port, master);
            world.deliver(source, to, bytes, Span::from_micros(number as i64));
        }
    }

    /// The oldest datagrams that were recorded are sent again: those that were lost are new to their receivers.
    pub(super) fn resend(&mut self, world: &mut World, judge: &Judge<'_>) {
        for (number, (by, to, bytes)) in judge.recorded.iter().take(MAX_RESENT).enumerate() {
            let after = Span::from_micros(number as i64 * 100);
            world.deliver(World::fast_path_of(*by), World::fast_path_of(*to), bytes.clone(), after);
        }
    }

    pub(super) fn forge(&mut self, world: &mut World, plan: &Plan, judge: &Judge<'_>, forgery: Forgery, number: u64) {
        let mut random = Random::named(self.seed, [u64::from_be_bytes(*b"forgeman"), number, 0]);
        let after = Span::from_nanos((random.next() % SLOWEST) as i64);
        if forgery == Forgery::Query {
            return query(world, plan, judge, &mut random, after);
        }
        if forgery == Forgery::Challenge {
            let master = (random.next() % plan.options.masters.len() as u64) as usize;
            let mut bytes = vec![CHALLENGE];
            bytes.extend_from_slice(&random.bytes::<16>());
            let (_, service) = addresses_of(0, 0, master);
            return world.deliver(service, World::fast_path_of(Host::Master(master)), bytes, after);
        }
        let recorded = &judge.recorded;
        if recorded.is_empty() {
            return;
        }
        let (by, to, bytes) = &recorded[(random.next() % recorded.len() as u64) as usize];
        let (by, mut to, mut bytes) = (*by, *to, bytes.clone());
        match forgery {
            Forgery::Replay => {
                let age = AGES[(random.next() % AGES.len() as u64) as usize];
                // Of the same stream, the one that is so much older than its newest.
                let stream = |bytes: &[u8]| stream_of(bytes).map(|(session, shard, _)| (session, shard));
                let own = stream(&bytes);
                let mut newer =
                    recorded.iter().rev().filter(|(sender, _, other)| *sender == by && stream(other) == own);
                if let Some((.., older)) = newer.nth(age as usize) {
                    bytes.clone_from(older);
                }
            }
            Forgery::Misdirect => {
                let masters = plan.options.masters.len() as u64;
                let agents = plan.options.agents.len() as u64;
                to = match random.next() % 3 {
                    0 => to,
                    1 => Host::Agent((random.next() % agents) as usize),
                    _ => Host::Master((random.next() % masters) as usize),
                };
            }
            Forgery::Alter => alter(&mut random, &mut bytes),
            _ => {
                // A counter that is still to come, and rubbish behind it.
                let counter = stream_of(&bytes).map_or(0, |(.., counter)| counter + 1 + random.next() % 1_000);
                bytes[0] = SEALED;
                bytes[12..HEADER].copy_from_slice(&counter.to_be_bytes());
                bytes[HEADER..].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
        }
        world.deliver(World::fast_path_of(by), World::fast_path_of(to), bytes, after);
    }
}

/// Queries in the name of somebody who asks for nothing, or of a client.
fn query(world: &mut World, plan: &Plan, judge: &Judge<'_>, random: &mut Random, after: Span) {
    let master = (random.next() % plan.options.masters.len() as u64) as usize;
    let client = match random.next() % 4 {
        0 => (random.next() % plan.options.clients as u64) as usize,
        _ => plan.victim(),
    };
    let stolen = judge.cookies.values().flatten().next();
    for _ in 0..1 + random.next() % MAX_QUERIES {
        let name = match random.next() % 5 {
            0 => "cdn.test".to_owned(),
            1 => "ns.cdn.test".to_owned(),
            _ => format!("v{}.cdn.test", random.next() % 4),
        };
        let own = random.bytes::<8>();
        let made_up = random.bytes::<24>();
        let cookie: &[u8] = match (random.next() % 4, stolen) {
            (0, _) => &own,
            (1, Some(cookie)) => cookie,
            (2, _) => &made_up,
            _ => &[],
        };
        let mut bytes = query_of(random.next() as u16, &name, Rtype::A, cookie);
        if random.next().is_multiple_of(4) {
            // A response, which must never be answered.
            bytes[2] |= 0x80;
        }
        let port = 1_024 + (random.next() % 60_000) as u16;
        let (source, to) = addresses_of(client, port, master);
        world.deliver(source, to, bytes, after + Span::from_nanos((random.next() % SLOWEST) as i64));
    }
}
