//! What the master answers by itself: plain names, negative answers, and raced names when there is no race.

use super::{MAX_FALLBACK_TTL_S, RaceConfig, Service};
use crate::dns::answer::{self, Response, Transport};
use crate::dns::query::{Query, Verdict};
use crate::dns::zone::Lookup;

/// The answer to a raced name without a race: the fallback's addresses with a short time to live.
pub fn fallback(
    service: &Service,
    race: &RaceConfig,
    query: &Query<'_>,
    transport: Transport,
    out: Vec<u8>,
) -> Vec<u8> {
    let response = Response::new(query, transport, &service.master);
    match (race.fallback.serve(query.rtype()), service.zones.authority(query.name())) {
        (false, Some((apex, soa))) => response.central(&service.zones, Lookup::NoData(apex, soa), out),
        _ => response.addresses(&race.fallback, race.ttl_s.min(MAX_FALLBACK_TTL_S), out),
    }
}

/// The answer to a packet over TCP, where nothing is raced; `None` for silence.
pub fn answer_tcp(service: &Service, packet: &[u8], out: Vec<u8>) -> Option<Vec<u8>> {
    match Query::parse(packet) {
        Verdict::Ignore => None,
        Verdict::Error(code) => Some(answer::error(packet, code, out)),
        Verdict::Query(query) => Some(match service.zones.lookup(query.name(), query.rtype()) {
            Lookup::Raced(race) => fallback(service, &service.races[usize::from(race)], &query, Transport::Tcp, out),
            lookup => Response::new(&query, Transport::Tcp, &service.master).central(&service.zones, lookup, out),
        }),
    }
}
