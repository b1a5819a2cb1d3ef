//! Zones for other servers: who asks for a transfer, brings word of a change, or signs what it asks.
//!
//! Secondaries sign all that they ask where they have a key, so every kind of query comes here when it carries a TSIG
//! record: it is checked, taken off, the query answered as any other (raced names with their fallback), and the answer
//! signed. An unknown source never gets more than an error of its request's length, or the answer that it would have got
//! without a signature.

use super::{Service, central};
use crate::dns::CanonicalName;
use crate::dns::answer::{self, MAX_ANSWER, Response, Transport};
use crate::dns::query::{Query, Verdict};
use crate::dns::transfer::{Outbound, is_newer, single_soa};
use crate::dns::tsig::{self, Session};
use domain::base::Rtype;
use domain::base::iana::{OptRcode, Rcode};
use std::net::IpAddr;

/// Prohibited, RFC 8914 section 4.19.
const PROHIBITED: u16 = 18;

/// What an answer depends on beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// Who asks.
    pub from: IpAddr,
    /// Whether over TCP or TLS: only there whole zones are sent.
    pub is_stream: bool,
    /// Seconds since 1970.
    pub unix_s: u64,
    /// Whether a zone may be sent now, or there are as many on their way as there may be.
    pub may_transfer: bool,
}

/// What to say.
#[derive(Debug)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// A message.
    Message {
        /// The message.
        bytes: Vec<u8>,
        /// The zone that changed, where a primary of it says so.
        notified: Option<CanonicalName>,
    },
    /// A zone, message by message.
    Zone(Box<Outbound>),
}

impl Answer {
    fn message(bytes: Vec<u8>) -> Self {
        Answer::Message { bytes, notified: None }
    }
}

/// Whether [`answer`] is for this packet.
pub fn concerns(packet: &[u8]) -> bool {
    match Query::parse(packet) {
        Verdict::Notify => true,
        Verdict::Query(query) => query.is_of_transfer(),
        Verdict::Ignore | Verdict::Error(_) | Verdict::Cookie(_) => false,
    }
}

/// The answer to a request about a transfer, and to any that is signed.
pub fn answer(service: &Service, packet: &[u8], asking: Asking) -> Answer {
    let keys = &service.transfers.keys;
    let mut message = packet.to_vec();
    if message.len() < 12 {
        return Answer::Silence;
    }
    let mut session = match Session::accept(keys, &mut message, asking.unix_s) {
        Ok(session) => session,
        Err(error) => return Answer::message(tsig::refuse(keys, packet, error, asking.unix_s)),
    };
    let (mut bytes, notified) = match Query::parse(&message) {
        Verdict::Ignore => return Answer::Silence,
        Verdict::Error(code) => (answer::error(&message, code, Vec::new()), None),
        Verdict::Cookie(_) => (answer::error(&message, OptRcode::FORMERR, Vec::new()), None),
        Verdict::Notify => notify(service, &message, asking, session.as_ref()),
        Verdict::Query(query) => match query.rtype() {
            Rtype::AXFR | Rtype::IXFR => match transfer(service, &query, asking, &mut session) {
                Answer::Message { bytes, notified } => (bytes, notified),
                other => return other,
            },
            _ => (plain(service, &query, asking, session.is_some()), None),
        },
    };
    if let Some(session) = &mut session {
        session.sign(&mut bytes, asking.unix_s);
    }
    Answer::Message { bytes, notified }
}

fn transport(asking: Asking) -> Transport {
    if asking.is_stream { Transport::Tcp { keepalive: None } } else { Transport::Udp }
}

/// The answer to a signed query about a name.
fn plain(service: &Service, query: &Query<'_>, asking: Asking, is_signed: bool) -> Vec<u8> {
    let response = Response::new(query, transport(asking), &service.master);
    let bytes = match central::answer(service, &response, query, Vec::new) {
        Ok(bytes) => bytes,
        Err(index) => central::fallback(service, index, &response, query, Vec::new()),
    };
    // The signature must fit as well.
    let most = match (asking.is_stream, query.edns) {
        (true, _) => usize::from(u16::MAX),
        (false, Some(edns)) => usize::from(edns.udp_payload_size).min(MAX_ANSWER),
        (false, None) => 512,
    };
    match is_signed && bytes.len() + Session::bytes_max() > most {
        true => response.truncated(Vec::new()),
        false => bytes,
    }
}

/// RFC 1996: word that a zone has changed, and the answer to it.
fn notify(
    service: &Service,
    message: &[u8],
    asking: Asking,
    session: Option<&Session>,
) -> (Vec<u8>, Option<CanonicalName>) {
    // RFC 1996 section 3.7: as a query but for its opcode, and with the new SOA record among the answers if the primary
    // likes; it is a hint only, and left unread.
    let mut query = message.to_vec();
    query[2] &= 0x87;
    query[6..12].fill(0);
    let Verdict::Query(query) = Query::parse(&query) else {
        return (answer::error(message, OptRcode::FORMERR, Vec::new()), None);
    };
    let question = query.head().len();
    let reply = |code: Rcode| {
        let mut reply = message[..question].to_vec();
        reply[2] = 0x80 | message[2] & 0x7d | 0x04;
        reply[3] = code.to_int();
        reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        reply
    };
    let key = session.map(|session| &**session.key());
    let Some(apex) = service.zones.zone(query.name()).map(|zone| zone.apex().clone()) else {
        return (reply(Rcode::NOTAUTH), None);
    };
    // RFC 1996 section 3.12: other types are for the future; they are answered, and nothing comes of them.
    let is_of_zone = query.rtype() == Rtype::SOA;
    match service.transfers.may_notify(&apex, asking.from, key) {
        true => (reply(Rcode::NOERROR), is_of_zone.then_some(apex)),
        false => (reply(Rcode::REFUSED), None),
    }
}

/// RFC 5936 and RFC 1995: a zone, for those who may have it. What has changed since the client's version is not kept, so
/// the answer to a request for it is the whole zone (RFC 1995 section 4), over UDP the newest SOA record.
fn transfer(service: &Service, query: &Query<'_>, asking: Asking, session: &mut Option<Session>) -> Answer {
    let response = Response::new(query, transport(asking), &service.master);
    let refuse = |code, extended| Answer::message(response.error(code, extended, Vec::new()));
    let key = session.as_ref().map(|session| &**session.key());
    let is_udp_axfr = !asking.is_stream && query.rtype() == Rtype::AXFR;
    let Some(zone) = service.zones.zone(query.name()).filter(|_| answer::serves(query.class()) && !is_udp_axfr) else {
        return Answer::message(plain(service, query, asking, session.is_some()));
    };
    if !service.transfers.may_read(zone.apex(), asking.from, key) {
        return refuse(OptRcode::REFUSED, Some(PROHIBITED));
    }
    if !zone.has_data() {
        return refuse(OptRcode::SERVFAIL, None);
    }
    let own =
        query.rtype() == Rtype::IXFR && client_serial(query).is_some_and(|serial| !is_newer(zone.serial(), serial));
    if own || !asking.is_stream {
        return single_soa(zone, query.head()).map_or(Answer::Silence, Answer::message);
    }
    if !asking.may_transfer {
        return refuse(OptRcode::SERVFAIL, None);
    }
    Answer::Zone(Box::new(Outbound::new(zone.clone(), query.head(), session.take())))
}

/// The serial of the version that a client has, from the SOA record of its request for differences.
fn client_serial(query: &Query<'_>) -> Option<u32> {
    let message = domain::base::Message::from_octets(query.packet()).ok()?;
    let record = message.authority().ok()?.next()?.ok()?;
    let soa = record.to_record::<domain::rdata::Soa<_>>().ok()??;
    Some(soa.data().serial().into_int())
}

#[cfg(test)]
mod tests;
