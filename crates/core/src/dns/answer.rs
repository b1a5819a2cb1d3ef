//! Building answers: the master's central ones, and each agent's own in a race.

use super::name::CanonicalName;
use super::query::Query;
use super::zone::{Lookup, RecordSet, ZoneSet};
use domain::base::iana::{Class, Opcode, OptRcode};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, MessageBuilder, StaticCompressor};
use domain::base::name::ParsedName;
use domain::base::opt::Nsid;
use domain::base::rdata::UnknownRecordData;
use domain::base::record::Ttl;
use domain::base::{Name, Question, Rtype};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Largest UDP answer, and what EDNS advertises: 1,280 bytes, IPv6's least MTU, less IPv6 and UDP headers.
pub const MAX_ANSWER: usize = 1_232;

/// Largest UDP answer to a query without EDNS, RFC 1035 section 4.2.1.
const MAX_PLAIN_ANSWER: usize = 512;

/// Bytes of an OPT record without options.
const OPT_BYTES: usize = 11;

/// Most CNAMEs followed within the server's own zones.
const MAX_ALIASES: usize = 8;

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Bounded by what the client can take, at most [`MAX_ANSWER`].
    Udp,
    /// Bounded by the length field.
    Tcp,
}

type Builder = MessageBuilder<StaticCompressor<Vec<u8>>>;

/// The addresses that a site or the fallback answers with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For A.
    pub a: Vec<Ipv4Addr>,
    /// For AAAA.
    pub aaaa: Vec<Ipv6Addr>,
}

impl Addresses {
    /// Whether there is an answer for `rtype`.
    pub fn serve(&self, rtype: Rtype) -> bool {
        match rtype {
            Rtype::A => !self.a.is_empty(),
            Rtype::AAAA => !self.aaaa.is_empty(),
            _ => false,
        }
    }
}

/// One answer in the making: everything that does not depend on what is answered.
pub struct Response<'a> {
    query: &'a Query<'a>,
    transport: Transport,
    /// The server's identifier, returned where NSID is asked for (RFC 5001).
    identifier: &'a str,
}

impl<'a> Response<'a> {
    /// An answer to `query` from the server `identifier` (a site's or a master's name).
    pub fn new(query: &'a Query<'a>, transport: Transport, identifier: &'a str) -> Self {
        Response { query, transport, identifier }
    }

    /// What the zones say; `None` when the name is raced and `race` must decide. `out` is replaced.
    pub fn central(&self, zones: &ZoneSet, lookup: Lookup<'_>, out: Vec<u8>) -> Vec<u8> {
        match lookup {
            Lookup::NotOurs => self.build(out, OptRcode::REFUSED, false, |_| Ok(())),
            Lookup::Records(set) => self.build(out, OptRcode::NOERROR, true, |answer| {
                push_set(answer, self.query.question.qname(), set)?;
                self.follow_aliases(zones, set, answer)
            }),
            Lookup::Referral(owner, set) => self.referral(zones, owner, set, out),
            Lookup::NoData(apex, soa) => self.negative(OptRcode::NOERROR, apex, soa, out),
            Lookup::NameError(apex, soa) => self.negative(OptRcode::NXDOMAIN, apex, soa, out),
            Lookup::Raced(_) => unreachable!("the caller races a raced name"),
        }
    }

    /// The addresses of a site or of the fallback; an empty answer where there is none of the type.
    pub fn addresses(&self, addresses: &Addresses, ttl_s: u32, out: Vec<u8>) -> Vec<u8> {
        let ttl = Ttl::from_secs(ttl_s);
        let owner = self.query.question.qname();
        self.build(out, OptRcode::NOERROR, true, |answer| {
            match self.query.rtype() {
                Rtype::A => addresses
                    .a
                    .iter()
                    .try_for_each(|&ip| answer.push((owner, Class::IN, ttl, domain::rdata::A::new(ip)))),
                Rtype::AAAA => addresses
                    .aaaa
                    .iter()
                    .try_for_each(|&ip| answer.push((owner, Class::IN, ttl, domain::rdata::Aaaa::new(ip)))),
                _ => Ok(()),
            }
            .map_err(|_| Full)
        })
    }

    /// An empty answer with TC set: come back over TCP. Never longer than the query it answers.
    pub fn truncated(&self, out: Vec<u8>) -> Vec<u8> {
        let mut bytes = self.build(out, OptRcode::NOERROR, true, |_| Err(Full));
        // OPT with NSID could outgrow the query; the option is only repeated over TCP.
        if bytes.len() > self.query.message.as_slice().len() {
            bytes = Response { identifier: "", ..*self }.build(bytes, OptRcode::NOERROR, true, |_| Err(Full));
        }
        bytes
    }

    /// A negative answer with the SOA, its TTL at most the SOA's MINIMUM (RFC 2308 section 3).
    fn negative(&self, code: OptRcode, apex: &CanonicalName, soa: &RecordSet, out: Vec<u8>) -> Vec<u8> {
        self.build_with(out, code, true, |answer| {
            let mut authority = answer.authority();
            for data in &soa.data {
                let minimum = data.last_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                let record = (
                    wire_name(apex.as_bytes()),
                    Class::IN,
                    Ttl::from_secs(soa.ttl_s.min(minimum)),
                    opaque(Rtype::SOA, data),
                );
                if authority.push(record).is_err() {
                    return (authority.additional(), Err(Full));
                }
            }
            (authority.additional(), Ok(()))
        })
    }

    fn referral(&self, zones: &ZoneSet, owner: &[u8], set: &RecordSet, out: Vec<u8>) -> Vec<u8> {
        self.build_with(out, OptRcode::NOERROR, false, |answer| {
            let mut authority = answer.authority();
            for data in &set.data {
                let record = (wire_name(owner), Class::IN, Ttl::from_secs(set.ttl_s), opaque(set.rtype, data));
                if authority.push(record).is_err() {
                    return (authority.additional(), Err(Full));
                }
            }
            let mut additional = authority.additional();
            for (target, glue) in set.data.iter().flat_map(|target| {
                let glue = |rtype| zones.glue(target, rtype).map(|glue| (target, glue));
                [glue(Rtype::A), glue(Rtype::AAAA)].into_iter().flatten()
            }) {
                for data in &glue.data {
                    let record = (wire_name(target), Class::IN, Ttl::from_secs(glue.ttl_s), opaque(glue.rtype, data));
                    if additional.push(record).is_err() {
                        return (additional, Err(Full));
                    }
                }
            }
            (additional, Ok(()))
        })
    }

    /// Appends what the zones know of a CNAME's target, as far as it leads to plain records.
    fn follow_aliases(
        &self,
        zones: &ZoneSet,
        set: &RecordSet,
        answer: &mut AnswerBuilder<StaticCompressor<Vec<u8>>>,
    ) -> Result<(), Full> {
        let rtype = self.query.rtype();
        let mut set = set;
        for _ in 0..MAX_ALIASES {
            if set.rtype != Rtype::CNAME || rtype == Rtype::CNAME || rtype == Rtype::ANY {
                break;
            }
            let Some(target) = set.data.first().and_then(|data| Name::from_octets(&**data).ok()) else { break };
            let target = CanonicalName::from_labels(&target);
            let Lookup::Records(next) = zones.lookup(target.as_bytes(), rtype) else { break };
            push_set(answer, &wire_name(target.as_bytes()), next)?;
            set = next;
        }
        Ok(())
    }

    /// Builds an answer whose records all go into the answer section.
    fn build(
        &self,
        out: Vec<u8>,
        code: OptRcode,
        authoritative: bool,
        fill: impl FnOnce(&mut AnswerBuilder<StaticCompressor<Vec<u8>>>) -> Result<(), Full>,
    ) -> Vec<u8> {
        self.build_with(out, code, authoritative, |mut answer| {
            let filled = fill(&mut answer);
            (answer.additional(), filled)
        })
    }

    /// Header, question, whatever `fill` adds, OPT. An answer that does not fit is emptied and gets TC.
    fn build_with(
        &self,
        mut out: Vec<u8>,
        code: OptRcode,
        authoritative: bool,
        fill: impl FnOnce(
            AnswerBuilder<StaticCompressor<Vec<u8>>>,
        ) -> (AdditionalBuilder<StaticCompressor<Vec<u8>>>, Result<(), Full>),
    ) -> Vec<u8> {
        out.clear();
        let limit = self.limit();
        let nsid = self.query.edns.filter(|edns| edns.nsid && !self.identifier.is_empty()).map(|_| self.identifier);
        let reserved = self.query.edns.map_or(0, |_| OPT_BYTES + nsid.map_or(0, |nsid| 4 + nsid.len()));
        let answer = self.start(out, code, authoritative, limit - reserved);
        let (additional, filled) = fill(answer);
        let mut additional = match filled {
            Ok(()) => additional,
            Err(Full) => {
                let mut emptied = additional.builder().question();
                emptied.rewind();
                emptied.header_mut().set_tc(true);
                let _ = emptied.push(self.question());
                emptied.additional()
            }
        };
        if let Some(edns) = self.query.edns {
            additional.set_push_limit(limit);
            // Cannot fail: the space was reserved.
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(MAX_ANSWER as u16);
                opt.set_dnssec_ok(edns.dnssec_ok);
                opt.set_rcode(code);
                nsid.map_or(Ok(()), |nsid| {
                    opt.push(&Nsid::from_octets(nsid.as_bytes()).unwrap_or_else(|_| unreachable!("a name of 63 bytes")))
                })
            });
        }
        additional.finish().into_target()
    }

    fn start(
        &self,
        out: Vec<u8>,
        code: OptRcode,
        authoritative: bool,
        limit: usize,
    ) -> AnswerBuilder<StaticCompressor<Vec<u8>>> {
        let mut builder: Builder = match MessageBuilder::from_target(StaticCompressor::new(out)) {
            Ok(builder) => builder,
            Err(_) => unreachable!("a Vec grows"),
        };
        builder.set_push_limit(limit);
        let asked = self.query.message.header();
        let header = builder.header_mut();
        header.set_id(asked.id());
        header.set_qr(true);
        header.set_opcode(Opcode::QUERY);
        header.set_aa(authoritative);
        header.set_rd(asked.rd());
        header.set_cd(asked.cd());
        header.set_rcode(code.rcode());
        let mut question = builder.question();
        let _ = question.push(self.question());
        question.answer()
    }

    fn question(&self) -> Question<&ParsedName<&'a [u8]>> {
        Question::new(self.query.question.qname(), self.query.question.qtype(), Class::IN)
    }

    fn limit(&self) -> usize {
        match (self.transport, self.query.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => MAX_PLAIN_ANSWER,
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_payload_size).min(MAX_ANSWER),
        }
    }
}

/// The message has no room for a record.
struct Full;

fn push_set(
    answer: &mut AnswerBuilder<StaticCompressor<Vec<u8>>>,
    owner: &impl domain::base::name::ToName,
    set: &RecordSet,
) -> Result<(), Full> {
    set.data.iter().try_for_each(|data| {
        answer.push((owner, Class::IN, Ttl::from_secs(set.ttl_s), opaque(set.rtype, data))).map_err(|_| Full)
    })
}

fn opaque(rtype: Rtype, data: &[u8]) -> UnknownRecordData<&[u8]> {
    match UnknownRecordData::from_octets(rtype, data) {
        Ok(data) => data,
        Err(_) => unreachable!("record data was read from a 16-bit length"),
    }
}

fn wire_name(name: &[u8]) -> Name<&[u8]> {
    match Name::from_octets(name) {
        Ok(name) => name,
        Err(_) => unreachable!("a canonical name is a name"),
    }
}

/// The answer to a packet that is no well-formed query: its id, QR and the code. A code above 15 needs an OPT
/// record for its upper bits (RFC 6891 section 6.1.3).
///
/// # Panics
/// If `packet` is shorter than a header: such packets are ignored before.
pub fn error(packet: &[u8], code: OptRcode, mut out: Vec<u8>) -> Vec<u8> {
    out.clear();
    out.extend_from_slice(&packet[..2]);
    // QR, the opcode and RD as they came.
    out.push(0x80 | packet[2] & 0x79);
    out.push(code.rcode().to_int());
    out.extend_from_slice(&[0; 8]);
    if code.is_ext() {
        out[11] = 1;
        let size = (MAX_ANSWER as u16).to_be_bytes();
        out.extend_from_slice(&[0, 0, 41, size[0], size[1], (code.to_int() >> 4) as u8, 0, 0, 0, 0, 0]);
    }
    out
}

#[cfg(test)]
#[path = "answer_tests.rs"]
pub(crate) mod tests;
