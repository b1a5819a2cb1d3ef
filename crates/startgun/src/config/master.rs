//! The master's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use domain::base::Rtype;
use ring::rand::SystemRandom;
use startgun_core::control::{MAX_SERVICES, is_site_name};
use startgun_core::dns::sign::SigningKey;
use startgun_core::dns::site::NameServer;
use startgun_core::dns::zone::give_way;
use startgun_core::dns::{Answers, CanonicalName, RacedName, ZoneSet};
use startgun_core::master::{Delay, RaceConfig, Service, Signers, Stamp, Transmit};
use startgun_core::playbook::{LatePolicy, MAX_ADDRESSES, MAX_NAME_SERVERS, MAX_RACES};
use startgun_core::time::Span;
use startgun_net::host_time::HostTimeOptions;
use time::OffsetDateTime;

use super::admission::{self, Admission};
use super::agent::SITE;
use super::clock::read_host_time;
use super::dnssec_key::{ZoneKey, read_zone_key};
use super::host::{HostConfig, Listeners, Transport, read_host};
use super::reader::{SOCKET_ADDRESS, Section, Value};
use super::stream::{StreamConfig, read_streams};
use super::transfer::Transfers;
use super::zone::{Copies, RECORDS_MAX, Zone, read_zone};
use super::{Loaded, Role, Root};

/// Most shards: beyond 64 cores the network card is the limit, and the fast path numbers shards by a byte.
pub const SHARDS_MAX: u8 = 64;
/// Most zones of one master: with a file each, 65,536 tables of 60 bytes are a quarter of the greatest configuration
/// file, and [`RECORDS_MAX`] leaves each of them 256 records.
pub const ZONES_MAX: usize = 65_536;
/// Most sites of one race: 256 packets for one query are more than any client's path should see.
pub const SITES_MAX: usize = 256;
/// Most queries that may wait: at 1.5 KB each, 1.5 GB.
const QUEUE_CAPACITY_MAX: i64 = 1 << 20;
/// Longest delay that makes sense, in milliseconds: resolvers have given up by then (5 s is their usual patience).
const DELAY_MS_MAX: f64 = 5_000.0;
/// Longest time to live of a raced answer, in seconds: a week, to which resolvers cap it anyway (RFC 8767 section 4).
const RACE_TTL_S_MAX: i64 = 604_800;

/// How long signatures live ([`ValidityPolicy`](startgun_core::dns::sign::ValidityPolicy)).
const SIGNATURES_LIVE: time::Duration = time::Duration::days(14);
/// Most keys of one zone: the old and the new one of two algorithms.
const KEYS_MAX: usize = 4;

/// Default of `margin_ms`.
const MARGIN: Span = Span::from_millis(5);
/// Default of `max_total_delay_ms`: below the 376 ms after which Unbound asks an unknown server again.
const MAX_TOTAL_DELAY: Span = Span::from_millis(300);

/// A master's configuration.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// What every daemon has.
    pub host: HostConfig,
    /// Where agents dial in, TCP.
    pub control_listen: SocketAddr,
    /// Where the fast path runs, UDP; agents are told this address.
    pub fast_path_listen: SocketAddr,
    /// Where agents prove service addresses of the other family than that of the fast path, UDP.
    pub self_test_listen: Option<SocketAddr>,
    /// Shards, at most [`SHARDS_MAX`]; 0 is one per core.
    pub shards: u8,
    /// When T is counted from.
    pub stamp: Stamp,
    /// Queries that may wait in a shard.
    pub queue_capacity: usize,
    /// How long a completed TCP query lets its source race.
    pub validated_for: Span,
    /// How long after T the master answers itself.
    pub fallback_after: Span,
    /// Cap of the predetermined delay.
    pub max_total_delay: Span,
    /// Races per second and source prefix.
    pub races_per_source_per_s: u32,
    /// Who gets how many answers.
    pub admission: Admission,
    /// The service addresses, by index, whose central answers are held for as long as a race takes.
    pub even_delay: Vec<u16>,
    /// Where this host takes UTC from, which it tells agents.
    pub host_time: HostTimeOptions,
    /// The addresses that resolvers ask; at least one.
    pub service_addresses: Vec<SocketAddr>,
    /// DNS over TCP and TLS.
    pub streams: StreamConfig,
    /// Zones and raced names; not signed yet.
    pub service: Service,
    /// The keys of zones that were signed before, for their raced names.
    pub signers: Signers,
    /// Records in all zones.
    pub record_count: usize,
}

impl MasterConfig {
    /// Makes 0 shards one per core.
    pub fn settle_shards(&mut self) {
        if self.shards == 0 {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            self.shards = cores.min(usize::from(SHARDS_MAX)) as u8;
        }
    }

    /// The service. The configuration keeps none of its zones: they would outlive their being served.
    pub fn take_service(&mut self) -> Service {
        let service = self.service.clone();
        self.service.zones = ZoneSet::default();
        service
    }
}

impl fmt::Display for MasterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites: BTreeSet<&String> = self.service.races.iter().flat_map(|race| race.sites.keys()).collect();
        let (name, services, records) = (&self.host.name, self.service_addresses.len(), self.record_count);
        let (races, sites) = (self.service.races.len(), sites.len());
        write!(
            f,
            "master {name}, service addresses: {services}, records: {records}, raced names: {races}, sites: {sites}"
        )
    }
}

/// Reads a master's file; `None` only where a fault was noted.
pub(super) fn read(Root { section: root, .. }: Root<'_>) -> Option<MasterConfig> {
    let host = read_host(&root, Role::Master, "/run/startgun/master.sock");
    let control_listen = root.required("control_listen", SOCKET_ADDRESS, |value| value.listen_address());
    let fast_path_listen =
        root.required("fast_path_listen", SOCKET_ADDRESS, |value| value.exact_address("agents are told to send to it"));
    let self_test_listen = read_self_test(&root, fast_path_listen);
    let shards = root.or("shards", 0, |value| value.integer(0..=i64::from(SHARDS_MAX), "threads, 0 for one per core"));
    let stamp = root
        .or("stamp", Stamp::Receipt, |value| value.word(&[("receipt", Stamp::Receipt), ("dequeue", Stamp::Dequeue)]));
    let queue_capacity = root.or("queue_capacity", 4_096, |value| value.integer(1..=QUEUE_CAPACITY_MAX, "queries"));
    // Up to a week: an address may well belong to somebody else by then.
    let validated_for_s = root.or("validated_for_s", 3_600, |value| value.integer(1..=604_800, "seconds"));
    let fallback_after =
        root.or("fallback_after_ms", Span::from_millis(250), |value| value.milliseconds(1.0..=DELAY_MS_MAX));
    let max_total_delay =
        root.or("max_total_delay_ms", MAX_TOTAL_DELAY, |value| value.milliseconds(1.0..=DELAY_MS_MAX));
    let races_per_source_per_s =
        root.or("races_per_source_per_s", 100, |value| value.integer(1..=1_000_000, "races per second"));

    let admission = admission::read(&root);
    let host_time = root.section("clock").map_or_else(HostTimeOptions::default, |section| {
        let host_time = read_host_time(&section);
        section.finish();
        host_time
    });

    let mut listeners = Listeners::default();
    listeners.add(&root, "control_listen", Transport::Tcp);
    listeners.add(&root, "fast_path_listen", Transport::Udp);
    listeners.add(&root, "self_test_listen", Transport::Udp);
    listeners.add(&root, "http_listen", Transport::Tcp);
    let proofs = [fast_path_listen, self_test_listen];
    let (service_addresses, even_delay) = read_services(&root, proofs, &mut listeners);
    let streams = read_streams(&root, &service_addresses, &mut listeners);
    let mut records_left = RECORDS_MAX;
    let copies = Copies::new(&host.as_ref().map_or_else(PathBuf::new, |host| host.state_dir.clone()));
    let mut transfers = Transfers::read(&root, &service_addresses);
    let (zones, signers, zones_complete) = read_zones(&root, &copies, &mut transfers, &mut records_left);
    let races = read_races(&root, &zones, zones_complete, max_total_delay);
    check_keys(&root, &zones, &signers, &races);
    warn_of_nameservers(&root, &zones, &races, &service_addresses);
    let service = host.as_ref().and_then(|host| assemble(&root, &host.name, zones, races, transfers));
    root.finish();

    Some(MasterConfig {
        host: host?,
        control_listen: control_listen?,
        fast_path_listen: fast_path_listen?,
        self_test_listen,
        shards,
        stamp,
        queue_capacity,
        validated_for: Span::from_secs(validated_for_s),
        fallback_after,
        max_total_delay,
        races_per_source_per_s,
        admission,
        even_delay,
        host_time,
        service_addresses,
        streams: streams?,
        service: service?,
        signers,
        record_count: RECORDS_MAX - records_left,
    })
}

/// Where service addresses of the other family than the fast path's are proved.
fn read_self_test(root: &Section<'_>, fast_path: Option<SocketAddr>) -> Option<SocketAddr> {
    root.value("self_test_listen").and_then(|value| {
        let address = value.exact_address("agents are told to send to it")?;
        if fast_path.is_some_and(|fast_path| fast_path.is_ipv4() == address.is_ipv4()) {
            let other = if address.is_ipv4() { "IPv6" } else { "IPv4" };
            return value
                .wrong(format!("an {other} address: fast_path_listen serves for service addresses of its own kind"));
        }
        Some(address)
    })
}

/// The service addresses, and which of them hold their central answers. `proofs` is where agents prove them.
fn read_services(
    root: &Section<'_>,
    proofs: [Option<SocketAddr>; 2],
    listeners: &mut Listeners,
) -> (Vec<SocketAddr>, Vec<u16>) {
    let sections = root.sections("service", MAX_SERVICES);
    if sections.is_empty() && root.value("service").is_none() {
        root.missing::<()>("service", "at least one [[service]] with the address that resolvers ask");
    }
    let (mut addresses, mut even) = (Vec::new(), Vec::new());
    for section in sections {
        let is_even = section.or("even_delay", false, |value| value.boolean());
        let address = section.required("address", "the IP address and port that resolvers ask", |value| {
            let why = "the service address is what the resolver asked, and agents answer from it";
            let address = value.exact_address(why)?;
            listeners.claim(&value, address, Transport::Both);
            // Agents prove it by a packet from it.
            let [fast_path, self_test] = proofs;
            let proves = |proof: SocketAddr| proof.is_ipv4() == address.is_ipv4();
            if fast_path.is_some_and(|fast_path| !proves(fast_path)) && !self_test.is_some_and(proves) {
                let (kind, own) = if address.is_ipv4() { ("an IPv6", "IPv4") } else { ("an IPv4", "IPv6") };
                value.warn(
                    format!("{address} beside {kind} fast_path_listen"),
                    format!("an {own} self_test_listen too: nobody can race for it without"),
                );
            }
            Some(address)
        });
        if is_even && address.is_some() {
            even.push(addresses.len() as u16);
        }
        addresses.extend(address);
        section.finish();
    }
    (addresses, even)
}

/// The zones, the keys of those that are signed, and whether all zones could be read.
fn read_zones(
    root: &Section<'_>,
    copies: &Copies,
    transfers: &mut Transfers,
    records_left: &mut usize,
) -> (Vec<Zone>, Signers, bool) {
    let sections = root.sections("zone", ZONES_MAX);
    if sections.is_empty() && root.value("zone").is_none() {
        root.missing::<()>("zone", "at least one [[zone]] with name and records");
    }
    let mut zones: Vec<Zone> = Vec::new();
    let mut signers = Signers::new();
    let mut apexes = BTreeSet::new();
    let mut complete = true;
    for section in sections {
        match read_zone(&section, copies, records_left) {
            Some(zone) if !apexes.insert(zone.apex.clone()) => {
                section.wrong::<()>(format!("zone {} again", zone.apex), "each zone once");
                transfers.read_zone(&section, None);
            }
            Some(zone) => {
                let keys = read_keys(&section, &zone);
                if !keys.is_empty() {
                    signers.insert(zone.apex.clone(), keys);
                }
                transfers.read_zone(&section, Some(&zone.apex));
                zones.push(zone);
            }
            None => {
                transfers.read_zone(&section, None);
                complete = false;
            }
        }
        section.finish();
    }
    (zones, signers, complete)
}

/// The keys that sign raced names of a zone; each must be among its DNSKEY records, or nobody would believe it.
fn read_keys(section: &Section<'_>, zone: &Zone) -> Vec<Arc<SigningKey>> {
    let Some(value) = section.value("keys") else { return Vec::new() };
    let expected = "key files, such as \"Kexample.org.+013+55648.private\"";
    let paths = value.list(KEYS_MAX, expected, |item| item.path()).unwrap_or_default();
    let mut keys = Vec::new();
    for path in paths {
        match read_zone_key(&path, &zone.apex, OffsetDateTime::now_utc(), &SystemRandom::new()) {
            Ok(Loaded { config: ZoneKey { key, private_file, times }, warnings }) => {
                let now = OffsetDateTime::now_utc();
                if let Some(end) = times.ends_at().filter(|end| *end - now < SIGNATURES_LIVE) {
                    let found = format!("{}, which ends on {}", private_file.display(), end.date());
                    value.warn(found, "a key that outlives the signatures made with it, 14 days");
                }
                warnings.into_iter().for_each(|warning| section.document.warn(warning));
                if !zone.has_data || zone.has_key(key.dnskey()) {
                    keys.push(Arc::new(key));
                } else {
                    let found = format!("{}, which is none of the zone's DNSKEY records", private_file.display());
                    value.fault::<()>(found, "a key that the zone was signed with");
                }
            }
            Err(faults) => faults.into_iter().for_each(|fault| section.document.note(fault)),
        }
    }
    keys
}

fn read_races(root: &Section<'_>, zones: &[Zone], zones_complete: bool, max_total_delay: Span) -> Vec<RaceConfig> {
    let mut races: Vec<RaceConfig> = Vec::new();
    for section in root.sections("race", MAX_RACES) {
        let name = section.required("name", "the raced name, such as \"www.example.org.\"", |value| {
            let name =
                value.parsed::<CanonicalName>("a domain name, such as \"www.example.org.\" or \"*.example.org.\"")?;
            if races.iter().any(|race| race.name == name) {
                return value.fault(format!("raced name {name} again"), "each name once");
            }
            check_raced_name(&value, &name, zones, zones_complete)?;
            Some(name)
        });
        races.extend(read_race(&section, name, max_total_delay));
        section.finish();
    }
    races
}

/// Sites' answers in a signed zone need signatures, and nobody looks for signatures in another one.
fn check_keys(root: &Section<'_>, zones: &[Zone], signers: &Signers, races: &[RaceConfig]) {
    for zone in zones.iter().filter(|zone| zone.has_data) {
        let raced = races.iter().find(|race| zone.apex.is_ancestor_or_self_of(race.name.as_bytes()));
        match (zone.has(&zone.apex, Rtype::DNSKEY), raced, signers.contains_key(&zone.apex)) {
            (true, Some(race), false) => {
                let found = format!("raced name {} in signed zone {} without keys", race.name, zone.apex);
                root.wrong::<()>(found, "the zone's keys, to sign what sites answer");
            }
            (false, _, true) => {
                let found = format!("keys for zone {}, which is not signed", zone.apex);
                root.wrong::<()>(found, "a signed zone, or no keys");
            }
            _ => {}
        }
    }
}

/// A raced name must be in a zone of this master, and nothing there may answer in its place.
fn check_raced_name(value: &Value<'_>, name: &CanonicalName, zones: &[Zone], zones_complete: bool) -> Option<()> {
    let holders = zones.iter().filter(|zone| zone.apex.is_ancestor_or_self_of(name.as_bytes()));
    // Of nested zones, the inner one answers.
    let Some(zone) = holders.max_by_key(|zone| zone.apex.as_bytes().len()) else {
        // It may be in the zone that could not be read; a second error about that would be noise.
        return match zones_complete {
            true => {
                let apexes: Vec<String> = zones.iter().map(|zone| zone.apex.to_string()).collect();
                value
                    .fault(format!("{name}, which is in none of the zones"), format!("a name in {}", apexes.join(", ")))
            }
            false => None,
        };
    };
    if let Some(child) = zone.delegation_of(name) {
        return value.fault(format!("{name}, which is delegated with {child}"), "a name that this master answers");
    }
    // In a signed zone they are placeholders, without which its denial chain would deny what sites answer. In a secondary's
    // they are what its primary answers.
    if zone.is_secondary || zone.has(&zone.apex, Rtype::DNSKEY) {
        return Some(());
    }
    match [Rtype::A, Rtype::AAAA, Rtype::CNAME].into_iter().find(|&rtype| zone.has(name, rtype)) {
        Some(rtype) => value.fault(
            format!("{name}, which has a plain {rtype} record too"),
            "a name that is raced or plain, not both (race.fallback holds what the master answers itself)",
        ),
        None => Some(()),
    }
}

fn read_race(section: &Section<'_>, name: Option<CanonicalName>, max_total_delay: Span) -> Option<RaceConfig> {
    let ttl_s = section.or("ttl_s", 30, |value| value.integer(0..=RACE_TTL_S_MAX, "seconds"));
    let delay = read_delay(section, max_total_delay);
    let late = section
        .or("late", LatePolicy::Drop, |value| value.word(&[("drop", LatePolicy::Drop), ("send", LatePolicy::Send)]));
    // More than a second late is no race any more.
    let late_tolerance =
        section.or("late_tolerance_ms", Span::from_millis(2), |value| value.milliseconds(0.0..=1_000.0));
    let transmit = read_transmit(section);
    let fallback = match section.section("fallback") {
        Some(fallback) => read_answers(fallback, name.as_ref()),
        None => section.missing("fallback", "a table with the addresses that the master answers when no agent can"),
    };
    let sites = read_sites(section, name.as_ref());
    if let (Some(fallback), Some(sites)) = (&fallback, &sites) {
        warn_of_fallback(section, fallback, sites);
    }
    Some(RaceConfig { name: name?, ttl_s, delay, transmit, late, late_tolerance, sites: sites?, fallback: fallback? })
}

fn read_transmit(section: &Section<'_>) -> Transmit {
    let by_signal = section.or("transmit", false, |value| value.word(&[("at", false), ("signal", true)]));
    let Some(value) = section.value("signal") else {
        return if by_signal { Transmit::Signal } else { Transmit::At };
    };
    if !by_signal {
        value.fault::<()>("a signal's name without transmit = \"signal\"", "both, or neither");
    }
    for key in ["delay_ms", "cover", "margin_ms"] {
        if let Some(other) = section.value(key) {
            other.fault::<()>(format!("{key} beside signal"), "no delay: the answers wait for the signal, at most 2 s");
        }
    }
    match value.as_str().filter(|name| is_site_name(name)) {
        Some(name) => Transmit::Held(name.into()),
        None => value.wrong(SITE).unwrap_or_default(),
    }
}

fn read_delay(section: &Section<'_>, max_total_delay: Span) -> Delay {
    let most = max_total_delay.as_millis_f64();
    let cover = section.value("cover");
    let margin = section.value("margin_ms");
    if let Some(value) = section.value("delay_ms") {
        for (other, key) in [(&cover, "cover"), (&margin, "margin_ms")] {
            if let Some(other) = other {
                other.fault::<()>(format!("{key} beside delay_ms"), "a fixed delay_ms, or cover with its margin_ms");
            }
        }
        let expected = format!("milliseconds, a number from 0 to {most} (max_total_delay_ms)");
        let delay = value.number(0.0..=DELAY_MS_MAX, "milliseconds").map(Span::from_millis_f64);
        if delay.is_some_and(|delay| delay > max_total_delay) {
            value.wrong::<()>(expected);
        }
        return Delay::Fixed(delay.unwrap_or(max_total_delay));
    }
    let share = cover.and_then(|value| match value.number(0.0..=1.0, "a share of the agents") {
        Some(0.0) => value.wrong("a share of the agents above 0; 1.0 waits for all of them"),
        share => share,
    });
    let margin = margin.and_then(|value| value.milliseconds(0.0..=most));
    Delay::Cover { share: share.unwrap_or(1.0), margin: margin.unwrap_or(MARGIN) }
}

fn read_sites(section: &Section<'_>, race: Option<&CanonicalName>) -> Option<BTreeMap<String, Answers>> {
    let named = section.named_sections("sites", SITES_MAX);
    if named.is_empty() {
        let expected = "at least one [race.sites.NAME] with addresses";
        return match section.value("sites") {
            Some(value) => value.fault("no site", expected),
            None => section.missing("sites", expected),
        };
    }
    let mut sites = BTreeMap::new();
    let mut sound = true;
    for (name, site) in named {
        if !is_site_name(&name) {
            site.wrong::<()>(format!("site {name:?}"), SITE);
            sound = false;
        }
        match read_answers(site, race) {
            Some(answers) => drop(sites.insert(name, answers)),
            None => sound = false,
        }
    }
    sound.then_some(sites)
}

/// What a site or the fallback answers: addresses of at least one kind, or an alias, or a referral.
fn read_answers(section: Section<'_>, name: Option<&CanonicalName>) -> Option<Answers> {
    let a = section.or("a", Vec::new(), |value| value.list(MAX_ADDRESSES, "IPv4 addresses", |item| host_v4(&item)));
    let aaaa =
        section.or("aaaa", Vec::new(), |value| value.list(MAX_ADDRESSES, "IPv6 addresses", |item| host_v6(&item)));
    let cname = section.value("cname").map(|value| {
        let target = value.parsed::<CanonicalName>("a domain name, such as \"tokyo.example.net.\"")?;
        match name.filter(|name| **name == target) {
            Some(name) => value.fault(format!("{name} itself"), "another name"),
            None => Some(target.to_string()),
        }
    });
    let ns = read_name_servers(&section, name);
    let kinds = [!a.is_empty() || !aaaa.is_empty(), cname.is_some(), !ns.is_empty()];
    let is_given = |key| section.value(key).is_some_and(|value| !value.is_empty_array());
    match kinds.iter().filter(|kind| **kind).count() {
        0 if !["a", "aaaa", "cname", "ns"].into_iter().any(is_given) => {
            section.wrong::<()>("no answer", "addresses in a or aaaa, or cname, or ns");
        }
        0 | 1 => {}
        _ => drop(section.wrong::<()>("several kinds of answers", "addresses in a and aaaa, or cname, or ns")),
    }
    section.finish();
    let answers = Answers { a, aaaa, cname: cname.flatten(), ns };
    (answers != Answers::default()).then_some(answers)
}

/// `ns = [{ name = "ns.tokyo.example.org.", addresses = ["192.0.2.10"] }]`.
fn read_name_servers(section: &Section<'_>, raced: Option<&CanonicalName>) -> Vec<NameServer> {
    let mut servers = Vec::new();
    for server in section.sections("ns", MAX_NAME_SERVERS) {
        let name = server.required("name", "a name server's name", |value| {
            value.parsed::<CanonicalName>("a domain name, such as \"ns.tokyo.example.org.\"")
        });
        let addresses = server.or("addresses", Vec::new(), |value| {
            value.list(MAX_ADDRESSES, "IP addresses", |item| {
                let expected = "an IP address of one host, such as \"192.0.2.10\" or \"2001:db8::10\"";
                let address = item.parsed::<IpAddr>(expected)?;
                let is_host = !(address.is_unspecified() || address.is_multicast());
                if is_host { Some(address) } else { item.wrong(expected) }
            })
        });
        if let (Some(name), Some(raced)) = (&name, raced)
            && raced.is_ancestor_or_self_of(name.as_bytes())
            && addresses.is_empty()
        {
            server.wrong::<()>(
                format!("{name} without addresses"),
                format!("some: nobody else knows a name below {raced}"),
            );
        }
        if let (Some(value), Some(raced)) = (server.value("name"), raced.filter(|raced| raced.is_wildcard())) {
            value.fault::<()>(format!("a referral at {raced}"), "ns only for a name without *");
        }
        server.finish();
        servers.extend(name.map(|name| NameServer { name: name.to_string(), addresses }));
    }
    servers
}

fn host_v4(item: &Value<'_>) -> Option<Ipv4Addr> {
    let expected = "an IPv4 address of one host, such as \"192.0.2.10\"";
    let address = item.parsed::<Ipv4Addr>(expected)?;
    let is_host = !(address.is_unspecified() || address.is_multicast() || address.is_broadcast());
    if is_host { Some(address) } else { item.wrong(expected) }
}

fn host_v6(item: &Value<'_>) -> Option<Ipv6Addr> {
    let expected = "an IPv6 address of one host, such as \"2001:db8::10\"";
    let address = item.parsed::<Ipv6Addr>(expected)?;
    let is_host = !(address.is_unspecified() || address.is_multicast());
    if is_host { Some(address) } else { item.wrong(expected) }
}

/// Where sites have addresses of a kind that the fallback lacks, a fallback answer says that there are none, and
/// resolvers remember that.
fn warn_of_fallback(section: &Section<'_>, fallback: &Answers, sites: &BTreeMap<String, Answers>) {
    let Some(value) = section.value("fallback") else {
        return;
    };
    let kinds = [
        ("a", fallback.a.is_empty() && sites.values().any(|site| !site.a.is_empty())),
        ("aaaa", fallback.aaaa.is_empty() && sites.values().any(|site| !site.aaaa.is_empty())),
    ];
    for (kind, _) in kinds.into_iter().filter(|(_, lacks)| *lacks) {
        let found = format!("no addresses in {kind}, which some site has");
        value.warn(found, format!("some; a fallback answer else says that the name has no {}", kind.to_uppercase()));
    }
}

/// A resolver asks any of a zone's name servers, so each must race, and with the same delay.
fn warn_of_nameservers(root: &Section<'_>, zones: &[Zone], races: &[RaceConfig], services: &[SocketAddr]) {
    let raced = |zone: &&Zone| races.iter().any(|race| zone.apex.is_ancestor_or_self_of(race.name.as_bytes()));
    let wire = |service: &SocketAddr| match service.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let services: Vec<Vec<u8>> = services.iter().map(wire).collect();
    for zone in zones.iter().filter(raced) {
        for (name, addresses, at) in zone.nameservers() {
            let is_ours = |address: &&[u8]| services.iter().any(|service| service == address);
            if !addresses.is_empty() && addresses.iter().all(is_ours) {
                continue;
            }
            let found = format!("name server {name} of a raced zone, which is not a service address here");
            root.document.warn(zone.error(at, found, "every name server to be a master with the same delays"));
        }
    }
}

/// Puts zones and races together. What could fail there has been checked; where a check is missing, the error says so
/// without its place.
fn assemble(
    root: &Section<'_>,
    master: &str,
    zones: Vec<Zone>,
    races: Vec<RaceConfig>,
    transfers: Transfers,
) -> Option<Service> {
    if !root.document.is_sound() {
        return None;
    }
    let raced: Vec<RacedName> = races.iter().zip(0u16..).map(|(race, index)| race.raced_name(index)).collect();
    let built = zones.into_iter().map(|zone| {
        let (apex, is_secondary) = (zone.apex.clone(), zone.is_secondary);
        let mut records = zone.has_data.then(|| zone.into_records().collect());
        if let Some(records) = records.as_mut().filter(|_| is_secondary) {
            give_way(records, &raced);
        }
        (apex, records)
    });
    match ZoneSet::build_some(built, &raced) {
        // Names in answers were read as names.
        Ok(zones) => {
            let mut service = Service::new(master.to_owned(), zones, races).ok()?;
            service.transfers = Arc::new(transfers.policy);
            Some(service)
        }
        Err(error) => root.wrong(error.to_string(), "zones and races that fit together"),
    }
}
