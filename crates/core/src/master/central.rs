//! What the master answers by itself: plain names, negative answers, and raced names when there is no race.

use super::Service;
#[cfg(doc)]
use super::transfer;
use crate::dns::answer::{self, NOT_SUPPORTED, Response, Transport};
use crate::dns::cookie::{Cookie, CookieSecrets};
use crate::dns::query::{Edns, Query, Verdict};
use crate::dns::zone::Lookup;
use domain::base::iana::OptRcode;
use std::net::IpAddr;

/// The answer to a raced name without a race: the fallback's addresses with a short time to live.
pub fn fallback(service: &Service, index: u16, response: &Response<'_>, query: &Query<'_>, out: Vec<u8>) -> Vec<u8> {
    match service.fallbacks.get(usize::from(index)).filter(|fallback| fallback.serve(query.rtype())) {
        Some(fallback) => response.site(fallback, &response.raced_proof(&service.zones, Vec::new()), out),
        None => response.unraced(&service.zones, out),
    }
}

/// The answer to a packet that asks for a cookie alone.
pub fn answer_cookie(packet: &[u8], edns: &Edns<'_>, cookie: Option<Cookie>, out: Vec<u8>) -> Vec<u8> {
    match cookie {
        Some(cookie) => answer::cookie_alone(packet, edns, cookie.server, out),
        // A server without cookies knows no message without a question.
        None => answer::error(packet, OptRcode::FORMERR, out),
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

/// What an answer over a stream depends on beside the query.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// Who asks.
    pub peer: IpAddr,
    /// What to tell a client that asks how long it may stay, in units of 100 ms (RFC 7828).
    pub keepalive: Option<u16>,
    /// The secrets of server cookies.
    pub cookies: &'a CookieSecrets,
    /// Seconds since 1970 modulo 2^32: cookies carry it.
    pub unix_s: u32,
}

/// The answer to a packet over TCP, where nothing is raced and no zone transferred ([`transfer::answer`] does that); `None`
/// for silence.
pub fn answer_tcp(service: &Service, packet: &[u8], stream: &Stream<'_>, out: Vec<u8>) -> Option<Vec<u8>> {
    let judge = |option| stream.cookies.judge(option, stream.peer, stream.unix_s);
    match Query::parse(packet) {
        Verdict::Ignore => None,
        Verdict::Notify => Some(answer::error(packet, OptRcode::NOTIMP, out)),
        Verdict::Error(code) => Some(answer::error(packet, code, out)),
        Verdict::Cookie(edns) => Some(answer_cookie(packet, &edns, edns.cookie.and_then(judge), out)),
        Verdict::Query(query) => {
            let cookie = query.edns.and_then(|edns| edns.cookie).and_then(judge);
            let response = Response::new(&query, Transport::Tcp { keepalive: stream.keepalive }, &service.master)
                .with_cookie(cookie.map(|cookie| cookie.server));
            Some(match answer(service, &response, &query, || out) {
                Ok(bytes) => bytes,
                Err(index) => fallback(service, index, &response, &query, Vec::new()),
            })
        }
    }
}
