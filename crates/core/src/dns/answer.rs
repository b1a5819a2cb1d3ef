//! Building answers: the master's central ones, and each agent's own in a race.

use super::name::MAX_NAME;
use super::query::{Edns, Query, readable};
use super::set::{Placement, SetRef, leading_name};
use super::site::PreparedAnswers;
use super::writer::{Full, Section, Writer};
use super::zone::{Lookup, Match, MatchKind, NodeId, Proof, Zone, ZoneSet};
use domain::base::Rtype;
use domain::base::iana::{Class, OptRcode, OptionCode};

/// Largest UDP answer, and what EDNS advertises: 1,280 bytes, IPv6's least MTU, less IPv6 and UDP headers.
pub const MAX_ANSWER: usize = 1_232;

/// Largest UDP answer to a query without EDNS, RFC 1035 section 4.2.1.
const MAX_PLAIN_ANSWER: usize = 512;

/// Most aliases followed within the server's own zones: at most 16 × 2 × (12 + 255) bytes of records, so that pointers
/// still reach what follows.
const MAX_ALIASES: usize = 16;

/// An answer longer than this follows no further alias: pointers reach 16,383 bytes, and a signed alias takes up to 4,000.
const MAX_ALIASED: usize = 12_000;

/// Most records of proof that one answer carries: three for what it ends with, and one for each of some wildcards on the way.
const MAX_PROOFS: usize = 8;

/// Bytes of an OPT record without options.
const OPT_FIXED: usize = 11;

/// Longest OPT record: 11 bytes; NSID 4 + 63; cookie 4 + 24; client subnet 4 + 20; keepalive 4 + 2; error 4 + 2.
const MAX_OPT: usize = 11 + 67 + 28 + 24 + 6 + 6;

/// Bytes of a client cookie, RFC 7873 section 4.
pub const CLIENT_COOKIE: usize = 8;
/// Bytes of a server cookie, RFC 9018 section 4.
pub const SERVER_COOKIE: usize = 16;

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Bounded by what the client can take, at most [`MAX_ANSWER`].
    Udp,
    /// Bounded by the length field.
    Tcp {
        /// What to tell a client that asks how long it may keep the connection, in units of 100 ms (RFC 7828).
        keepalive: Option<u16>,
    },
}

/// One answer in the making: everything that does not depend on what is answered.
#[derive(Clone, Copy)]
pub struct Response<'a> {
    query: &'a Query<'a>,
    transport: Transport,
    /// The server's identifier, returned where NSID is asked for (RFC 5001).
    identifier: &'a str,
    cookie: Option<[u8; SERVER_COOKIE]>,
}

impl<'a> Response<'a> {
    /// An answer to `query` from the server `identifier` (a site's or a master's name, at most 63 bytes).
    pub fn new(query: &'a Query<'a>, transport: Transport, identifier: &'a str) -> Self {
        Response { query, transport, identifier, cookie: None }
    }

    /// The same answer with a server cookie, for a query that has a client's (RFC 7873 section 5.2).
    pub fn with_cookie(self, cookie: Option<[u8; SERVER_COOKIE]>) -> Self {
        Response { cookie, ..self }
    }

    /// What the zones say; for a raced name, what they say beside the race. `out` is replaced.
    pub fn central(&self, zones: &ZoneSet, lookup: Lookup<'_>, out: Vec<u8>) -> Vec<u8> {
        match (lookup, self.query.rtype()) {
            (Lookup::NotOurs, _) => self.error(OptRcode::REFUSED, Some(NOT_AUTHORITATIVE), out),
            // RFC 1035 section 3.3.13 on EXPIRE: the zone "is no longer authoritative", and no other data is.
            (Lookup::NoData, _) => self.error(OptRcode::SERVFAIL, Some(INVALID_DATA), out),
            // Transfers are another matter, and only over TCP.
            (_, Rtype::AXFR | Rtype::IXFR) => self.error(OptRcode::REFUSED, Some(PROHIBITED), out),
            (Lookup::Raced(_), _) => self.unraced(zones, out),
            (Lookup::Zone(found), _) => self.zone(zones, found, out),
        }
    }

    /// What the zone of the query's name says, whether or not the name is raced.
    pub fn unraced(&self, zones: &ZoneSet, out: Vec<u8>) -> Vec<u8> {
        match zones.unraced(self.query.name(), self.query.rtype()) {
            Some(found) => self.zone(zones, found, out),
            None => self.error(OptRcode::SERVFAIL, Some(INVALID_DATA), out),
        }
    }

    /// What must be proven beside a raced answer that comes from a wildcard, where its zone is signed and the client wants to
    /// know: records for the authority section, for [`Response::site`] of whoever answers. Nothing for all other queries.
    pub fn raced_proof(&self, zones: &ZoneSet, out: Vec<u8>) -> Proven {
        let found = self.signed().then(|| zones.unraced(self.query.name(), self.query.rtype())).flatten();
        match found.map(|found| (found.zone, found.kind)) {
            Some((zone, MatchKind::Wildcard { encloser, .. })) if zone.is_signed() => {
                let proof = zone.prove_wildcard(self.query.name(), encloser);
                let mut writer = Writer::new(self.query, out, MAX_ANSWER);
                for (owner, set) in proof.iter().flatten() {
                    // An answer with less proof than it needs is refused by whoever wanted it; there is no better one.
                    let _ = writer.push_apart(owner, *set);
                }
                writer.into_records()
            }
            _ => Proven::default(),
        }
    }

    /// What a site answers, or the fallback; an empty answer where there is none of the type. `proven` is
    /// [`Response::raced_proof`]'s.
    pub fn site(&self, answers: &PreparedAnswers, proven: &Proven, out: Vec<u8>) -> Vec<u8> {
        let signed = self.signed();
        self.build(out, OptRcode::NOERROR, None, |writer| {
            let Some(set) = answers.set(self.query.rtype()) else {
                writer.set_authoritative();
                return Ok(());
            };
            if set.rtype != Rtype::NS {
                writer.set_authoritative();
                writer.push(set, writer.question(), signed)?;
                writer.enter(Section::Authority);
                return writer.push_records(&proven.records, proven.count);
            }
            writer.enter(Section::Authority);
            writer.push(set, owner_of(writer.question(), set), signed)?;
            writer.enter(Section::Additional);
            answers.glue().try_for_each(|(name, glue)| writer.push_named(name, glue, false))
        })
    }

    /// An empty answer with TC set: come back over TCP. Never longer than the query it answers, but for the cookie that the
    /// client asked for.
    pub fn truncated(&self, out: Vec<u8>) -> Vec<u8> {
        let fill = |writer: &mut Writer<'_>| {
            writer.set_authoritative();
            Err(Full)
        };
        // NSID could make it outgrow the query; the option is repeated over TCP.
        Response { identifier: "", ..*self }.build(out, OptRcode::NOERROR, None, fill)
    }

    /// An answer that is only a code, with the question, and an extended error (RFC 8914) where the client has EDNS.
    pub fn error(&self, code: OptRcode, extended: Option<u16>, out: Vec<u8>) -> Vec<u8> {
        self.build(out, code, extended, |_| Ok(()))
    }

    fn signed(&self) -> bool {
        self.query.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    fn zone<'z>(&self, zones: &'z ZoneSet, found: Match<'z>, out: Vec<u8>) -> Vec<u8> {
        let opt = self.opt(OptRcode::NOERROR, None);
        let mut writer = self.writer(out, &opt);
        // What most ask for, without getting ready for the ways of all others.
        if let MatchKind::Exact(node) = found.kind
            && let Some(set) = found.zone.node_set(node, self.query.rtype())
        {
            writer.set_authoritative();
            let filled = writer.push(set, writer.question(), self.signed());
            return finish(writer, filled, OptRcode::NOERROR, &opt);
        }
        let mut walk = Walk {
            zones,
            rtype: self.query.rtype(),
            signed: self.signed(),
            name: [0; MAX_NAME],
            name_length: 0,
            placement: writer.question(),
            proofs: [None; MAX_PROOFS],
            seen: [0; MAX_ALIASES],
            redirected: [0; MAX_ALIASES],
        };
        walk.rename(self.query.name());
        let mut code = OptRcode::NOERROR;
        let filled = walk.follow(found, &mut writer, &mut code);
        finish(writer, filled, code, &opt)
    }

    fn build(
        &self,
        out: Vec<u8>,
        code: OptRcode,
        extended: Option<u16>,
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Vec<u8> {
        let opt = self.opt(code, extended);
        let mut writer = self.writer(out, &opt);
        let filled = fill(&mut writer);
        finish(writer, filled, code, &opt)
    }

    fn writer(&self, out: Vec<u8>, opt: &Opt) -> Writer<'a> {
        Writer::new(self.query, out, self.limit() - opt.length)
    }

    fn limit(&self) -> usize {
        match (self.transport, self.query.edns) {
            (Transport::Tcp { .. }, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => MAX_PLAIN_ANSWER,
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_payload_size).min(MAX_ANSWER),
        }
    }

    /// The OPT record of the answer; empty for a query without one (RFC 6891 section 7).
    fn opt(&self, code: OptRcode, extended: Option<u16>) -> Opt {
        let Some(edns) = self.query.edns else { return Opt { bytes: [0; MAX_OPT], length: 0 } };
        let mut opt = Opt::new(code, edns.dnssec_ok);
        if edns.nsid && !self.identifier.is_empty() {
            opt.add(OptionCode::NSID, &[&self.identifier.as_bytes()[..self.identifier.len().min(63)]]);
        }
        if let (Some(asked), Some(server)) = (edns.cookie, &self.cookie) {
            opt.add(OptionCode::COOKIE, &[&asked[..CLIENT_COOKIE], server]);
        }
        if let Some(subnet) = edns.subnet {
            // RFC 7871 section 7.2.1: family, source prefix length and address are echoed; scope 0, for the answer is
            // right whatever the client's network is: a race measures the resolver.
            opt.add(OptionCode::CLIENT_SUBNET, &[&subnet[..3], &[0], &subnet[4..]]);
        }
        if let (true, Transport::Tcp { keepalive: Some(units) }) = (edns.keepalive, self.transport) {
            opt.add(OptionCode::TCP_KEEPALIVE, &[&units.to_be_bytes()]);
        }
        if let Some(extended) = extended {
            opt.add(OptionCode::EXTENDED_ERROR, &[&extended.to_be_bytes()]);
        }
        opt
    }
}

/// An OPT record in the making.
struct Opt {
    bytes: [u8; MAX_OPT],
    length: usize,
}

impl Opt {
    fn new(code: OptRcode, dnssec_ok: bool) -> Self {
        let mut bytes = [0; MAX_OPT];
        let size = (MAX_ANSWER as u16).to_be_bytes();
        let flags = if dnssec_ok { 0x80 } else { 0 };
        bytes[..9].copy_from_slice(&[0, 0, 41, size[0], size[1], (code.to_int() >> 4) as u8, 0, flags, 0]);
        Opt { bytes, length: OPT_FIXED }
    }

    fn add(&mut self, code: OptionCode, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut append = |part: &[u8]| {
            self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
            self.length += part.len();
        };
        append(&code.to_int().to_be_bytes());
        append(&(length as u16).to_be_bytes());
        parts.iter().for_each(|part| append(part));
        let length = (self.length - OPT_FIXED) as u16;
        self.bytes[OPT_FIXED - 2..OPT_FIXED].copy_from_slice(&length.to_be_bytes());
    }
}

/// An answer that does not fit is emptied and gets TC (RFC 2181 section 9 lets a client ignore what is left anyway).
fn finish(mut writer: Writer<'_>, filled: Result<(), Full>, code: OptRcode, opt: &Opt) -> Vec<u8> {
    if filled.is_err() {
        writer.clear();
        writer.set_truncated();
    }
    writer.set_code(code);
    writer.finish(&opt.bytes[..opt.length])
}

/// Encoded records that stand at any place of a message with the same question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proven {
    /// One after the other; names in them point into the question only.
    pub records: Vec<u8>,
    /// How many.
    pub count: u8,
}

/// Extended errors, RFC 8914 section 4.
const PROHIBITED: u16 = 18;
const NOT_AUTHORITATIVE: u16 = 20;
/// Not Supported.
pub const NOT_SUPPORTED: u16 = 21;
/// "The authoritative server cannot answer with data for a zone it is otherwise configured to support."
const INVALID_DATA: u16 = 24;

/// Where a set's owner stands, an ancestor of the name at `placement`.
fn owner_of(placement: Placement, set: SetRef<'_>) -> Placement {
    let at = placement.suffix(set.owner_length);
    match placement.length.saturating_sub(set.owner_length) {
        skipped if skipped < placement.prefix => {
            Placement { at, prefix: placement.prefix - skipped, length: set.owner_length, ..placement }
        }
        _ => Placement { at, prefix: set.owner_length, rest: 0, length: set.owner_length },
    }
}

/// RFC 1034 section 4.3.2: the way from the question's name along aliases to an end.
struct Walk<'z> {
    zones: &'z ZoneSet,
    rtype: Rtype,
    signed: bool,
    /// The name that is looked at, canonical.
    name: [u8; MAX_NAME],
    name_length: u8,
    /// Where it stands in the message.
    placement: Placement,
    /// What proves the wildcards on the way.
    proofs: [Option<(&'z [u8], SetRef<'z>)>; MAX_PROOFS],
    /// Hashes of the names that were looked at.
    seen: [u64; MAX_ALIASES],
    /// Hashes of the owners of DNAMEs that were followed.
    redirected: [u64; MAX_ALIASES],
}

/// Where a step leads.
enum Step<'z> {
    /// The answer is complete.
    End,
    /// To another name, which the zones know something about.
    On(Match<'z>),
}

impl<'z> Walk<'z> {
    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_length)]
    }

    fn rename(&mut self, name: &[u8]) {
        for (to, from) in self.name.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        self.name_length = name.len() as u8;
    }

    fn follow(&mut self, found: Match<'z>, writer: &mut Writer<'_>, code: &mut OptRcode) -> Result<(), Full> {
        let mut found = found;
        // RFC 1035 section 4.1.1: AA "corresponds to the name which matches the query name, or the first owner name in
        // the answer section".
        if !matches!(found.kind, MatchKind::Referral(_)) {
            writer.set_authoritative();
        }
        for place in 0..MAX_ALIASES {
            self.seen[place] = super::zone::hash(self.name());
            match self.step(found, writer, code)? {
                Step::On(next)
                    if writer.len() < MAX_ALIASED && !self.seen[..=place].contains(&super::zone::hash(self.name())) =>
                {
                    found = next;
                }
                _ => break,
            }
        }
        writer.enter(Section::Authority);
        let signed = self.signed;
        self.proofs.iter().flatten().try_for_each(|(owner, set)| writer.push_named(owner, *set, signed))?;
        Ok(())
    }

    fn step(&mut self, found: Match<'z>, writer: &mut Writer<'_>, code: &mut OptRcode) -> Result<Step<'z>, Full> {
        let zone = found.zone;
        match found.kind {
            MatchKind::Exact(node) => self.answer(zone, node, None, writer),
            MatchKind::Wildcard { wildcard, encloser } => self.answer(zone, wildcard, Some(encloser), writer),
            MatchKind::Referral(cut) => self.refer(zone, cut, writer),
            MatchKind::Redirected(dname) => self.redirect(zone, dname, writer, code),
            MatchKind::Missing { encloser } => {
                *code = OptRcode::NXDOMAIN;
                self.deny(zone, writer, |walk| zone.prove_name_error(walk.name(), encloser))
            }
        }
    }

    /// Answers from a node: the name itself, or the wildcard that stands for it.
    fn answer(
        &mut self,
        zone: &'z Zone,
        node: NodeId,
        encloser: Option<NodeId>,
        writer: &mut Writer<'_>,
    ) -> Result<Step<'z>, Full> {
        let set = match self.rtype {
            // RFC 8482 section 4.1: a subset of the available record sets is a valid answer to ANY.
            Rtype::ANY => zone.node_sets(node).find(|set| set.rtype != Rtype::NSEC),
            // What signs a set goes with it; asked for alone, one set's is a valid subset likewise (section 7).
            Rtype::RRSIG if self.signed => zone.node_sets(node).find(|set| set.signature_count > 0),
            rtype => zone.node_set(node, rtype),
        };
        let alias = || zone.node_set(node, Rtype::CNAME).filter(|_| self.rtype != Rtype::ANY);
        if let Some(set) = set.or_else(alias) {
            writer.push(set, self.placement, self.signed)?;
            if let (Some(encloser), true) = (encloser, self.signed) {
                self.prove(zone.prove_wildcard(self.name(), encloser));
            }
            return Ok(match set.rtype {
                Rtype::CNAME if self.rtype != Rtype::CNAME && self.rtype != Rtype::ANY => {
                    self.alias(zone, node, set, writer)
                }
                _ => Step::End,
            });
        }
        // A raced name that an alias led to: whoever asks comes back for it, and then it is raced.
        if zone.is_raced(node) && self.placement.at != super::set::QUESTION {
            return Ok(Step::End);
        }
        self.deny(zone, writer, |walk| match encloser {
            Some(encloser) => zone.prove_wildcard_no_data(walk.name(), node, encloser),
            None => zone.prove_no_data(walk.name(), node),
        })
    }

    /// Turns to the target of the CNAME that was written last.
    fn alias(&mut self, zone: &'z Zone, node: NodeId, set: SetRef<'z>, writer: &Writer<'_>) -> Step<'z> {
        let owner = zone.node_name(node);
        let data = set.encoded_data().next().unwrap_or(&[]);
        let target = super::set::expand_name(data, owner);
        let Some((target, length)) = target else { return Step::End };
        // Signatures, where there are any, stand behind it.
        let behind = if self.signed { set.signatures.len() } else { 0 };
        let (at, _) = writer.last_data(data.len() + behind);
        let prefix = if set.pointers.is_empty() { data.len() } else { data.len() - 2 };
        let rest = self.placement.suffix(length.saturating_sub(prefix as u8));
        self.placement = Placement { at, prefix: prefix as u8, rest, length };
        self.rename(&target[..usize::from(length)]);
        self.look()
    }

    /// What the zones say to the name that was turned to.
    fn look(&self) -> Step<'z> {
        match self.zones.unraced(self.name(), self.rtype) {
            Some(found) => Step::On(found),
            None => Step::End,
        }
    }

    /// RFC 6672 section 3.1: the DNAME, and a CNAME made from it for clients that do not know DNAME.
    fn redirect(
        &mut self,
        zone: &'z Zone,
        dname: NodeId,
        writer: &mut Writer<'_>,
        code: &mut OptRcode,
    ) -> Result<Step<'z>, Full> {
        let Some(set) = zone.node_set(dname, Rtype::DNAME) else { return Ok(Step::End) };
        // One that leads below itself leads on for ever. Who is led to the same one twice may ask again.
        let owner_hash = super::zone::hash(zone.node_name(dname));
        let free = self.redirected.iter().position(|known| *known == 0 || *known == owner_hash);
        match free {
            Some(place) if self.redirected[place] == 0 => self.redirected[place] = owner_hash,
            _ => return Ok(Step::End),
        }
        writer.push(set, owner_of(self.placement, set), self.signed)?;
        let owner = zone.node_name(dname);
        let target = set.encoded_data().next().and_then(leading_name).unwrap_or(&[0]);
        let kept = self.name().len() - owner.len();
        // RFC 6672 section 2.2: a name that would be longer than 255 octets is answered with YXDOMAIN.
        if kept + target.len() > MAX_NAME {
            *code = OptRcode::YXDOMAIN;
            return Ok(Step::End);
        }
        let mut name = [0; MAX_NAME];
        name[..kept].copy_from_slice(&self.name()[..kept]);
        name[kept..kept + target.len()].copy_from_slice(target);
        let name = &name[..kept + target.len()];
        self.placement = writer.push_alias(self.placement, set.ttl_s(), name)?;
        self.rename(name);
        Ok(match self.rtype {
            Rtype::CNAME => Step::End,
            _ => self.look(),
        })
    }

    /// A negative answer (RFC 2308 section 2), with what proves it.
    fn deny(
        &mut self,
        zone: &'z Zone,
        writer: &mut Writer<'_>,
        proof: impl FnOnce(&Self) -> Proof<'z>,
    ) -> Result<Step<'z>, Full> {
        writer.enter(Section::Authority);
        if let Some(soa) = zone.negative_soa() {
            writer.push(soa, owner_of(self.placement, soa), self.signed)?;
        }
        if self.signed && zone.is_signed() {
            self.prove(proof(self));
        }
        Ok(Step::End)
    }

    /// RFC 1034 section 4.3.2, step 3b: the NS records of the child zone, whether it is signed, and the addresses that a
    /// resolver cannot get elsewhere.
    fn refer(&mut self, zone: &'z Zone, cut: NodeId, writer: &mut Writer<'_>) -> Result<Step<'z>, Full> {
        let Some(servers) = zone.node_set(cut, Rtype::NS) else { return Ok(Step::End) };
        writer.enter(Section::Authority);
        let owner = owner_of(self.placement, servers);
        writer.push(servers, owner, false)?;
        if self.signed && zone.is_signed() {
            match zone.node_set(cut, Rtype::DS) {
                Some(ds) => writer.push(ds, owner, true)?,
                None => {
                    let proof = zone.prove_unsigned_child(cut);
                    proof.iter().flatten().try_for_each(|(owner, set)| writer.push_named(owner, *set, true))?;
                }
            }
        }
        writer.enter(Section::Additional);
        let child = zone.node_name(cut);
        for server in servers.encoded_data() {
            let Some((name, length)) = super::set::expand_name(server, child) else { continue };
            let name = &name[..usize::from(length)];
            let within = super::name::suffixes(name).any(|suffix| suffix == child);
            for glue in [Rtype::A, Rtype::AAAA].into_iter().filter_map(|rtype| zone.glue(name, rtype)) {
                // RFC 9471 section 2.1: "in-domain glue" must be there, or TC; other glue may be left out.
                match writer.push_named(name, glue, false) {
                    Err(Full) if within => return Err(Full),
                    _ => {}
                }
            }
        }
        Ok(Step::End)
    }

    fn prove(&mut self, proof: Proof<'z>) {
        for (owner, set) in proof.into_iter().flatten() {
            let known = self.proofs.iter().flatten().any(|(own, own_set)| *own == owner && own_set.rtype == set.rtype);
            if let Some(free) = self.proofs.iter_mut().find(|place| place.is_none())
                && !known
            {
                *free = Some((owner, set));
            }
        }
    }
}

/// Whether a class is served at all.
pub fn serves(class: Class) -> bool {
    class == Class::IN
}

/// The answer to a packet that is no well-formed query: its id, QR and the code, the question where it can be read, and an
/// OPT record where there is one (RFC 6891 section 6.1.1) or the code needs it for its upper bits. Never longer than the
/// packet, but for such a code.
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
    let (question, has_opt) = readable(packet);
    if let Some(question) = question {
        out[5] = 1;
        out.extend_from_slice(question);
    }
    if has_opt || code.is_ext() {
        out[11] = 1;
        let size = (MAX_ANSWER as u16).to_be_bytes();
        out.extend_from_slice(&[0, 0, 41, size[0], size[1], (code.to_int() >> 4) as u8, 0, 0, 0, 0, 0]);
    }
    out
}

/// The answer to a packet that asks for nothing but a server cookie (RFC 7873 section 5.4).
///
/// # Panics
/// If `packet` is shorter than a header.
pub fn cookie_alone(packet: &[u8], edns: &Edns<'_>, cookie: [u8; SERVER_COOKIE], mut out: Vec<u8>) -> Vec<u8> {
    let mut opt = Opt::new(OptRcode::NOERROR, edns.dnssec_ok);
    let client = edns.cookie.unwrap_or(&[]);
    opt.add(OptionCode::COOKIE, &[&client[..CLIENT_COOKIE.min(client.len())], &cookie]);
    out.clear();
    out.extend_from_slice(&[packet[0], packet[1], 0x80 | packet[2] & 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(&opt.bytes[..opt.length]);
    out
}

#[cfg(test)]
#[path = "answer_tests.rs"]
pub(crate) mod tests;
