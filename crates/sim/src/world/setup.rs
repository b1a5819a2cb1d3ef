//! Turning options into the core's configurations.

use domain::base::iana::OptionCode;
use domain::base::{MessageBuilder, Name, Rtype};
use domain::dep::octseq::OctetsBuilder;
use startgun_core::agent::{AgentConfig, MasterConfig, MeshConfig};
use startgun_core::control::MeshSalt;
use startgun_core::dns::cookie::{CookieSecrets, SECRET};
use startgun_core::dns::{Answers, CanonicalName, RacedName, Record, ZoneSet};
use startgun_core::master::{RaceConfig, RosterConfig, Service, ShardConfig, SharedService};
use startgun_core::time::Epoch;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::address::{fast_path, ip_of, service};
use crate::options::{AgentOptions, Host, MasterOptions, Options};

/// The zone of every master.
const APEX: &str = "cdn.test";
/// The raced name of every master.
const RACED: &str = "*.cdn.test";
/// Time to live of the sites' answers, in seconds.
pub(crate) const TTL_S: u32 = 30;
/// What server cookies are made with.
const COOKIE_SECRET: [u8; SECRET] = [0xc0; SECRET];
/// The time of day when a master's clock shows nothing, in nanoseconds since 1970.
pub(super) const UNIX_AT_ZERO_NS: i64 = 1_700_000_000_000_000_000;

pub(super) fn master_name(master: usize) -> String {
    format!("m{master}")
}

pub(super) fn site_name(agent: usize) -> String {
    format!("site{agent}")
}

fn name(text: &str) -> CanonicalName {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

fn zones() -> ZoneSet {
    let mut soa = b"\x02ns\x03cdn\x04test\x00\x04host\x03cdn\x04test\x00".to_vec();
    for value in [1u32, 3_600, 600, 86_400, 60] {
        soa.extend_from_slice(&value.to_be_bytes());
    }
    let record = |owner: &str, rtype, data: &[u8]| Record { owner: name(owner), rtype, ttl_s: 300, data: data.into() };
    let records = [
        record(APEX, Rtype::SOA, &soa),
        record(APEX, Rtype::NS, b"\x02ns\x03cdn\x04test\x00"),
        record("ns.cdn.test", Rtype::A, &[198, 51, 100, 1]),
    ];
    let races = [RacedName { name: name(RACED), index: 0, types: vec![], is_referral: false }];
    let zones = ZoneSet::build([(name(APEX), records.to_vec())], &races);
    zones.unwrap_or_else(|error| unreachable!("the zone is well-formed: {error}"))
}

/// A site's or the fallback's addresses: at first the host's own, later others, and the same mapped into 2001:db8::/96.
fn addresses(host: Host, generation: u8) -> Answers {
    let ip = match (host, generation) {
        (_, 0) => ip_of(host),
        (Host::Agent(number), generation) => Ipv4Addr::new(198, 18, generation, number as u8),
        (Host::Master(number) | Host::Client(number), generation) => Ipv4Addr::new(198, 19, generation, number as u8),
    };
    let [a, b, c, d] = ip.octets().map(u16::from);
    let six = [0x2001, 0xdb8, 0, 0, 0, 0, a << 8 | b, c << 8 | d];
    Answers { a: vec![ip], aaaa: vec![six.into()], ..Answers::default() }
}

/// What a site answers, for a test that wants to compare.
pub(super) fn site_addresses(agent: usize) -> Vec<IpAddr> {
    all_of(addresses(Host::Agent(agent), 0))
}

/// What a site answers in a generation of its master's configuration, A before AAAA.
pub(crate) fn answers_of(agent: usize, generation: u8) -> Vec<IpAddr> {
    all_of(addresses(Host::Agent(agent), generation))
}

/// What a master answers itself.
pub(crate) fn fallback_of(master: usize, generation: u8) -> Vec<IpAddr> {
    all_of(addresses(Host::Master(master), generation))
}

fn all_of(answers: Answers) -> Vec<IpAddr> {
    let Answers { a, aaaa, .. } = answers;
    a.into_iter().map(IpAddr::V4).chain(aaaa.into_iter().map(IpAddr::V6)).collect()
}

pub(super) fn service_config(options: &Options, master: usize, generation: u8) -> SharedService {
    let own = &options.masters[master];
    let race = RaceConfig {
        name: name(RACED),
        ttl_s: TTL_S,
        delay: own.delay,
        transmit: own.transmit.clone(),
        late: own.late,
        late_tolerance: own.late_tolerance,
        sites: (0..options.agents.len())
            .map(|agent| (site_name(agent), addresses(Host::Agent(agent), generation)))
            .collect(),
        fallback: addresses(Host::Master(master), generation),
    };
    let service = Service::new(master_name(master), zones(), vec![race]);
    Arc::new(service.unwrap_or_else(|error| unreachable!("a fallback has no names: {error}")))
}

pub(super) fn roster_config(own: &MasterOptions, master: usize, epoch: Epoch, shared: &SharedService) -> RosterConfig {
    RosterConfig {
        service: shared.clone(),
        epoch,
        service_addresses: vec![service(master)],
        shards: own.shards,
        fast_path: fast_path(Host::Master(master)),
        self_test: None,
        rekey_interval: own.rekey_interval,
    }
}

pub(super) fn shard_config(
    own: &MasterOptions,
    master: usize,
    shard: u8,
    epoch: Epoch,
    shared: &SharedService,
) -> ShardConfig {
    ShardConfig {
        shard,
        epoch,
        service: shared.clone(),
        service_addresses: vec![service(master)],
        stamp: own.stamp,
        seed: u64::from(shard),
        validated_for: own.validated_for,
        fallback_after: own.fallback_after,
        max_total_delay: own.max_total_delay,
        races_per_source_per_s: own.races_per_source_per_s,
        responses_per_prefix_per_s: 0,
        slip: 2,
        cookies: CookieSecrets::new(own.cookies.then_some(COOKIE_SECRET)),
        even_delay: Vec::new(),
        sync_signal_interval: own.sync_signal_interval,
    }
}

/// Fresh for each process of an agent.
pub(super) fn mesh_salt(agent: usize, process: u64) -> MeshSalt {
    (u128::from(process) << 64 | agent as u128).to_be_bytes()
}

pub(super) fn agent_config(own: &AgentOptions, agent: usize, process: u64) -> AgentConfig {
    let masters = own.masters.iter().map(|&master| MasterConfig {
        name: master_name(master),
        services: vec![service(master)],
        clock: own.race_clock,
    });
    AgentConfig {
        site: site_name(agent),
        masters: masters.collect(),
        max_expected_error: own.max_expected_error,
        max_bound: own.max_bound,
        on_bad_clock: own.on_bad_clock,
        max_lateness: own.max_lateness,
        exchange_interval: own.exchange_interval,
        horizon: own.horizon,
        limits: own.limits,
        mesh: own.mesh.then(|| MeshConfig { name: site_name(agent), salt: mesh_salt(agent, process) }),
    }
}

/// A query as a resolver sends it, with EDNS, and with a cookie where it has one.
///
/// # Panics
/// If `text` is no domain name.
pub(crate) fn query_bytes(id: u16, text: &str, rtype: Rtype, cookie: &[u8]) -> Vec<u8> {
    let Ok(name) = Name::<Vec<u8>>::from_str(text) else { panic!("{text:?} is not a domain name") };
    let mut question = MessageBuilder::new_vec().question();
    question.header_mut().set_id(id);
    let pushed = question.push((name, rtype)).is_ok();
    let mut additional = question.additional();
    let complete = additional.opt(|opt| {
        opt.set_udp_payload_size(1_232);
        if cookie.is_empty() {
            return Ok(());
        }
        opt.push_raw_option(OptionCode::COOKIE, cookie.len() as u16, |option| option.append_slice(cookie))
    });
    assert!(pushed && complete.is_ok(), "a Vec grows");
    additional.finish()
}
