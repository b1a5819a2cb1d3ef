//! What the master answers by itself: plain names, negative answers, and raced names when there is no race.

use super::Service;
use crate::dns::answer::{self, NOT_SUPPORTED, Response, Transport};
use crate::dns::query::{Query, Verdict};
use crate::dns::zone::Lookup;
use domain::base::iana::OptRcode;

/// The answer to a raced name without a race: the fallback's addresses with a short time to live.
pub fn fallback(service: &Service, index: u16, response: &Response<'_>, query: &Query<'_>, out: Vec<u8>) -> Vec<u8> {
    match service.fallbacks.get(usize::from(index)).filter(|fallback| fallback.serve(query.rtype())) {
        Some(fallback) => response.site(fallback, &response.raced_proof(&service.zones, Vec::new()), out),
        None => response.unraced(&service.zones, out),
    }
}

/// What is answered without a race; `Err` with the race's index where a race must decide.
pub fn answer(
    service: &Service,
    response: &Response<'_>,
    query: &Query<'_>,
    buffer: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, u16> {
    if !answer::serves(query.class()) {
        return Ok(response.error(OptRcode::REFUSED, Some(NOT_SUPPORTED), buffer()));
    }
    match service.zones.lookup(query.name(), query.rtype()) {
        Lookup::Raced(index) => match service.races[usize::from(index)].serves(query.rtype()) {
            true => Err(index),
            // Nobody serves this type: there is nothing to race for, and nothing to be validated for.
            false => Ok(fallback(service, index, response, query, buffer())),
        },
        lookup => Ok(response.central(&service.zones, lookup, buffer())),
    }
}

/// The answer to a packet over TCP, where nothing is raced; `None` for silence.
pub fn answer_tcp(service: &Service, packet: &[u8], keepalive: Option<u16>, out: Vec<u8>) -> Option<Vec<u8>> {
    match Query::parse(packet) {
        Verdict::Ignore => None,
        Verdict::Error(code) => Some(answer::error(packet, code, out)),
        Verdict::Query(query) => {
            let response = Response::new(&query, Transport::Tcp { keepalive }, &service.master);
            Some(match answer(service, &response, &query, || out) {
                Ok(bytes) => bytes,
                Err(index) => fallback(service, index, &response, &query, Vec::new()),
            })
        }
    }
}
