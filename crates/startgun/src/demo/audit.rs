//! What the agents' audit logs say, against the truth.
//!
//! All hosts of a lab share one kernel clock; an agent's false clock is a known function of it, and so is the master's
//! timeline. So every instant that an agent wrote down can be put on the true clock, and every reading of the race
//! clock compared with what it should have been.

use serde::Deserialize;
use startgun_core::time::{LocalTime, Span};
use startgun_lab::world::{Host, World};
use startgun_net::host_clock::{Distortion, HostClock};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// What was measured since an instant.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) races: u64,
    pub(super) races_of_client: BTreeMap<Ipv4Addr, u64>,
    pub(super) start_spread_us: Vec<f64>,
    pub(super) lateness_us: Vec<f64>,
    pub(super) clock_error_us: Vec<f64>,
    pub(super) clock_bound_us: Vec<f64>,
    pub(super) clock_bound_violations: u64,
}

#[derive(Deserialize)]
struct Clock {
    estimate_race_ns: i64,
    low_race_ns: Option<i64>,
    high_race_ns: Option<i64>,
    bound_ns: Option<i64>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record {
    Clock {
        local_ns: i64,
        clock: Clock,
    },
    Departure {
        race: u64,
        client: SocketAddr,
        transmit_race_ns: Option<i64>,
        outcome: String,
        local_ns: Option<i64>,
        clock: Option<Clock>,
    },
}

/// True departures of one race, and whose it was.
struct Race {
    client: IpAddr,
    departures_raw_ns: Vec<i64>,
}

fn clock_of(host: &Host) -> HostClock {
    HostClock::new(Some(Distortion {
        offset: Span::from_nanos(host.clock.offset_ns),
        drift_ppb: host.clock.drift_ppb,
        ..Distortion::default()
    }))
}

/// Reads every agent's log and measures what happened after `begun_raw_ns`.
pub(super) fn measure(world: &World, directory: &Path, begun_raw_ns: i64) -> Result<Measured, String> {
    let master = clock_of(&world.master);
    let mut measured = Measured::default();
    let mut races: BTreeMap<u64, Race> = BTreeMap::new();
    for agent in &world.agents {
        let own = clock_of(agent);
        let path = directory.join(format!("{}.jsonl", agent.id));
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        for line in BufReader::new(File::open(&path).map_err(|error| fault(&error))?).lines() {
            let line = line.map_err(|error| fault(&error))?;
            // The last line may still be under way.
            let Ok(record) = serde_json::from_str::<Record>(&line) else { continue };
            take(record, &own, &master, begun_raw_ns, &mut measured, &mut races);
        }
    }
    measured.races = races.len() as u64;
    for race in races.values() {
        if let IpAddr::V4(client) = race.client {
            *measured.races_of_client.entry(client).or_default() += 1;
        }
        let ends = (race.departures_raw_ns.iter().min(), race.departures_raw_ns.iter().max());
        if let (Some(first), Some(last)) = ends
            && race.departures_raw_ns.len() > 1
        {
            measured.start_spread_us.push((last - first) as f64 / 1e3);
        }
    }
    Ok(measured)
}

fn take(
    record: Record,
    own: &HostClock,
    master: &HostClock,
    begun_raw_ns: i64,
    measured: &mut Measured,
    races: &mut BTreeMap<u64, Race>,
) {
    let (local_ns, clock) = match record {
        Record::Clock { local_ns, clock } => (local_ns, Some(clock)),
        Record::Departure { race, client, transmit_race_ns, outcome, local_ns, clock } => {
            let Some(local_ns) = local_ns else { return };
            let raw = own.to_raw(LocalTime::from_nanos(local_ns));
            if raw < begun_raw_ns {
                return;
            }
            let race = races.entry(race).or_insert_with(|| Race { client: client.ip(), departures_raw_ns: Vec::new() });
            if outcome.starts_with("departed") {
                race.departures_raw_ns.push(raw);
                if let (Some(clock), Some(transmit)) = (&clock, transmit_race_ns) {
                    measured.lateness_us.push((clock.estimate_race_ns - transmit) as f64 / 1e3);
                }
            }
            (local_ns, clock)
        }
    };
    let raw = own.to_raw(LocalTime::from_nanos(local_ns));
    if let Some(clock) = clock.filter(|_| raw >= begun_raw_ns) {
        compare(&clock, master.from_raw(raw).as_nanos(), measured);
    }
}

/// One reading against the truth.
fn compare(clock: &Clock, truth_ns: i64, measured: &mut Measured) {
    measured.clock_error_us.push((clock.estimate_race_ns - truth_ns) as f64 / 1e3);
    if let Some(bound) = clock.bound_ns {
        measured.clock_bound_us.push(bound as f64 / 1e3);
    }
    let below = clock.low_race_ns.is_some_and(|low| truth_ns < low);
    let above = clock.high_race_ns.is_some_and(|high| truth_ns > high);
    measured.clock_bound_violations += u64::from(below || above);
}
