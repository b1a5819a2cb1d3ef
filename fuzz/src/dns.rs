//! DNS queries, and what they get.

use super::answers::{check, check_head, read, udp_limit};
use super::service::service;
use domain::base::Rtype;
use startgun_core::dns::answer::{self, CLIENT_COOKIE, SERVER_COOKIE, Transport};
use startgun_core::dns::cookie::CookieSecrets;
use startgun_core::dns::{Query, Response, Verdict};
use startgun_core::master::Service;
use startgun_core::master::central::{self, Stream};
use startgun_core::master::transfer::{self, Asking};
use startgun_core::playbook::PreparedPlaybook;
use std::cell::OnceCell;
use std::net::IpAddr;

/// Bytes of an OPT record without options.
const OPT: usize = 11;
/// Longest answer over TCP.
const TCP_LIMIT: usize = u16::MAX as usize;

/// A packet to port 53: over UDP and TCP, to a master and to a site.
///
/// # Panics
/// Where an answer is none.
pub fn dns_query(packet: &[u8]) {
    let service = service();
    let over_tcp = over_tcp(&service, packet);
    of_transfer(&service, packet);
    match Query::parse(packet) {
        Verdict::Notify => assert_eq!(over_tcp.expect("an answer")[3] & 0xf, 4, "answered elsewhere"),
        Verdict::Ignore => assert_eq!(over_tcp, None, "silence over UDP, so over TCP"),
        Verdict::Error(code) => {
            let over_udp = answer::error(packet, code, Vec::new());
            // No longer than the packet, but for an OPT record that a code needs.
            check_head(packet, &over_udp, packet.len() + if code.is_ext() { OPT } else { 0 });
            read(&over_udp);
            assert_eq!(over_tcp, Some(over_udp), "the same error");
        }
        Verdict::Cookie(_) => {
            let answer = over_tcp.expect("an answer over TCP");
            // A header, an OPT record and a cookie of both.
            check_head(packet, &answer, 12 + OPT + 4 + CLIENT_COOKIE + SERVER_COOKIE);
            read(&answer);
        }
        Verdict::Query(query) => {
            check(&query, &over_tcp.expect("an answer over TCP"), TCP_LIMIT);
            over_udp(&service, &query);
            at_site(&service, &query);
        }
    }
}

/// What is answered to NOTIFY, requests for transfers, and whatever is signed, from a stranger.
fn of_transfer(service: &Service, packet: &[u8]) {
    if !transfer::concerns(packet) {
        return;
    }
    for is_stream in [false, true] {
        let from = IpAddr::from([203, 0, 113, 9]);
        let asking = Asking { from, is_stream, unix_s: 1_800_000_000, may_transfer: true };
        match transfer::answer(service, packet, asking) {
            transfer::Answer::Silence => {}
            transfer::Answer::Message { bytes, notified } => {
                assert!(is_stream || bytes.len() <= packet.len().max(1_232), "{} bytes", bytes.len());
                assert_eq!((&bytes[..2], bytes[2] & 0x80), (&packet[..2], 0x80), "an answer to it");
                assert_eq!(notified, None, "a stranger is no primary");
            }
            transfer::Answer::Zone(_) => panic!("a stranger is no secondary"),
        }
    }
}

/// What the master answers on a stream, with cookies.
pub(super) fn over_tcp(service: &Service, packet: &[u8]) -> Option<Vec<u8>> {
    let cookies = CookieSecrets::new([[3; 16]]);
    let peer = IpAddr::from([203, 0, 113, 9]);
    let stream = Stream { peer, keepalive: Some(100), cookies: &cookies, unix_s: 1_800_000_000 };
    central::answer_tcp(service, packet, &stream, Vec::new())
}

/// Everything that a query over UDP can get.
pub(super) fn over_udp(service: &Service, query: &Query<'_>) {
    let limit = udp_limit(query);
    let response = Response::new(query, Transport::Udp, &service.master);
    check(query, &raced_or_not(service, &response, query), limit);
    let truncated = response.truncated(Vec::new());
    check(query, &truncated, query.packet().len());
    let cookie = query.edns.and_then(|edns| edns.cookie).map(|_| [7; SERVER_COOKIE]);
    check(query, &raced_or_not(service, &response.with_cookie(cookie), query), limit);
}

fn raced_or_not(service: &Service, response: &Response<'_>, query: &Query<'_>) -> Vec<u8> {
    match central::answer(service, response, query, Vec::new) {
        Ok(answer) => answer,
        Err(race) => central::fallback(service, race, response, query, Vec::new()),
    }
}

/// What every race of a site says, whether or not the query is for it: an agent asks that before, and once more is cheap.
fn at_site(service: &Service, query: &Query<'_>) {
    thread_local! {
        static PLAYBOOK: OnceCell<PreparedPlaybook> = const { OnceCell::new() };
    }
    let prepare = || PreparedPlaybook::new(&service.playbook("site0")).expect("a sound playbook");
    let response = Response::new(query, Transport::Udp, "site0");
    let proven = response.raced_proof(&service.zones, Vec::new());
    PLAYBOOK.with(|playbook| {
        let playbook = playbook.get_or_init(prepare);
        let races = (0..service.races.len() as u16).filter_map(|index| playbook.race(index));
        for race in races.filter(|race| race.covers(query.name()) && query.rtype() != Rtype::ANY) {
            check(query, &response.site(&race.answers, &proven, Vec::new()), udp_limit(query));
        }
    });
}
