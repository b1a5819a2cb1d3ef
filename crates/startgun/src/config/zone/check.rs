//! What must hold for a zone as a whole, and what should.
//!
//! A record may be sound and its zone still be none. What no server serves is an error. What other servers only warn of
//! is a warning here, so that a zone that they serve is served. The records are sorted, so one pass sees every name
//! right after those that it lies below.

use std::collections::HashSet;
use std::fmt::Arguments;

use domain::base::Rtype;
use domain::base::name::Name;
use startgun_core::dns::CanonicalName;

use super::Zone;
use super::text::{Place, PlacedRecord};

/// Most errors, and most warnings, of one zone: who reads twenty knows what kind they are of.
const FINDINGS_MAX: usize = 20;

/// Something about a zone as a whole.
pub(super) struct Finding {
    pub at: Place,
    pub found: String,
    pub expected: String,
}

/// What a check found.
#[derive(Default)]
pub(super) struct Findings {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

impl Findings {
    fn wrong(&mut self, at: Place, found: Arguments<'_>, expected: &str) {
        push(&mut self.errors, at, found, format_args!("{expected}"));
    }

    fn warn(&mut self, at: Place, found: Arguments<'_>, expected: Arguments<'_>) {
        push(&mut self.warnings, at, found, expected);
    }
}

fn push(findings: &mut Vec<Finding>, at: Place, found: Arguments<'_>, expected: Arguments<'_>) {
    // Beyond the bound nothing is even formatted: a zone may be wrong 10^6 times.
    if findings.len() < FINDINGS_MAX {
        findings.push(Finding { at, found: found.to_string(), expected: expected.to_string() });
    }
}

/// Checks a zone whose records are sorted, and gives every set one time to live.
pub(super) fn check(zone: &mut Zone) -> Findings {
    let mut findings = Findings::default();
    let apex = zone.apex.clone();
    if !zone.has(&apex, Rtype::SOA) {
        findings.wrong(Place::TOP, format_args!("no SOA record of {apex}"), "exactly one at the zone's apex");
    }
    if !zone.has(&apex, Rtype::NS) {
        let expected = format_args!("at least one at the zone's apex");
        findings.warn(Place::TOP, format_args!("no NS record of {apex}"), expected);
    }
    let servers = check_servers(zone, &mut findings);
    check_names(zone, &servers, &mut findings);
    join_ttls(zone, &mut findings);
    findings
}

/// The name that an NS record points to.
pub(super) fn target(placed: &PlacedRecord) -> Option<CanonicalName> {
    Name::<&[u8]>::from_octets(&placed.record.data).ok().map(|name| CanonicalName::from_labels(&name))
}

/// Whoever is sent to a server within the zone asks the zone for its address. Gives those servers.
fn check_servers(zone: &Zone, findings: &mut Findings) -> HashSet<CanonicalName> {
    let mut servers = HashSet::new();
    for placed in zone.records.iter().filter(|placed| placed.record.rtype == Rtype::NS) {
        let Some(server) = target(placed).filter(|name| zone.apex.is_ancestor_or_self_of(name.as_bytes())) else {
            continue;
        };
        // Below another delegation, it is for that one's servers to say.
        let owner = &placed.record.owner;
        let is_glue = *owner != zone.apex && owner.is_ancestor_or_self_of(server.as_bytes());
        let is_ours = || is_glue || zone.delegation_of(&server).is_none();
        if !servers.contains(&server) && zone.addresses(&server).next().is_none() && is_ours() {
            findings.warn(
                placed.at,
                format_args!("an NS record for {server}, which has no address"),
                format_args!("an A or AAAA record for it in this zone"),
            );
        }
        servers.insert(server);
    }
    servers
}

/// Checks name by name what is beside and above it.
fn check_names(zone: &Zone, servers: &HashSet<CanonicalName>, findings: &mut Findings) {
    // The delegation and the DNAME that the name at hand is below.
    let mut cut: Option<&CanonicalName> = None;
    let mut alias: Option<&CanonicalName> = None;
    for records in zone.records.chunk_by(|a, b| a.record.owner == b.record.owner) {
        let owner = &records[0].record.owner;
        cut = cut.filter(|cut| cut.is_ancestor_or_self_of(owner.as_bytes()));
        alias = alias.filter(|alias| alias.is_ancestor_or_self_of(owner.as_bytes()));
        check_owner(zone, owner, records, findings);
        if let Some(alias) = alias {
            // Hashes of names stay below an apex, whatever is there (RFC 5155 section 3).
            let hidden = records.iter().find(|placed| !matches!(placed.record.rtype, Rtype::NSEC3 | Rtype::RRSIG));
            if let Some(placed) = hidden {
                let found = format_args!("a record of {owner}, below the DNAME record of {alias}");
                findings.warn(placed.at, found, format_args!("none there; nobody will see it"));
            }
        }
        let is_cut = cut.is_none() && *owner != zone.apex && has(records, Rtype::NS);
        if is_cut {
            cut = Some(owner);
        }
        if let Some(cut) = cut {
            check_below(cut, is_cut, records, servers.contains(owner), findings);
        }
        if alias.is_none() && has(records, Rtype::DNAME) {
            alias = Some(owner);
        }
    }
}

/// What is at or below a delegation belongs to the other zone, glue and what vouches for it excepted.
fn check_below(cut: &CanonicalName, is_cut: bool, records: &[PlacedRecord], is_server: bool, findings: &mut Findings) {
    let is_hidden = |placed: &&PlacedRecord| match placed.record.rtype {
        Rtype::A | Rtype::AAAA => !is_server,
        // RFC 4035 section 2.4 and RFC 2181 section 6.1.
        Rtype::NS | Rtype::DS | Rtype::NSEC | Rtype::RRSIG | Rtype::KEY | Rtype::NXT | Rtype::SIG => !is_cut,
        _ => true,
    };
    if let Some(placed) = records.iter().find(is_hidden) {
        let (owner, rtype) = (&placed.record.owner, placed.record.rtype);
        let found = format_args!("a record of {owner}, type {rtype}, which is delegated with {cut}");
        findings.warn(placed.at, found, format_args!("only addresses of its name servers; nobody will see it"));
    }
}

/// Checks what one name has.
fn check_owner(zone: &Zone, owner: &CanonicalName, records: &[PlacedRecord], findings: &mut Findings) {
    for (nth, soa) in of(records, Rtype::SOA).enumerate() {
        if *owner != zone.apex {
            findings.wrong(soa.at, format_args!("a SOA record of {owner}"), "SOA at the zone's apex only");
        } else if nth > 0 {
            findings.wrong(soa.at, format_args!("another SOA record"), "exactly one");
        }
    }
    for rtype in [Rtype::CNAME, Rtype::DNAME] {
        let mut aliases = of(records, rtype);
        let first = aliases.next();
        let is_other = |placed: &&PlacedRecord| first.is_some_and(|first| first.record.data != placed.record.data);
        // RFC 2181 section 10.1: "There may be only one such canonical name for any one alias"; RFC 6672 section 2.4.
        if let Some(other) = aliases.find(is_other) {
            findings.wrong(other.at, format_args!("another {rtype} record of {owner}"), "one alias for a name");
        }
    }
    // RFC 2181 section 10.1: "An alias name (label of a CNAME record) may, if DNSSEC is in use, have SIG, NXT, and KEY
    // RRs, but may have no other data"; RFC 4035 section 2.5 adds their successors.
    let is_beside = |placed: &&PlacedRecord| {
        let beside = [Rtype::CNAME, Rtype::RRSIG, Rtype::NSEC, Rtype::KEY, Rtype::SIG, Rtype::NXT];
        !beside.contains(&placed.record.rtype)
    };
    if let (Some(alias), Some(_)) = (of(records, Rtype::CNAME).next(), records.iter().find(is_beside)) {
        findings.wrong(alias.at, format_args!("a CNAME record beside other records of {owner}"), "an alias alone");
    }
}

fn of(records: &[PlacedRecord], rtype: Rtype) -> impl Iterator<Item = &PlacedRecord> {
    records.iter().filter(move |placed| placed.record.rtype == rtype)
}

fn has(records: &[PlacedRecord], rtype: Rtype) -> bool {
    of(records, rtype).next().is_some()
}

/// RFC 2181 section 5.2: "the TTLs of all RRs in an RRSet must be the same"; here all get the least. Signatures are
/// excepted: each has that of the set that it covers (RFC 4034 section 3).
fn join_ttls(zone: &mut Zone, findings: &mut Findings) {
    let same_set =
        |a: &PlacedRecord, b: &PlacedRecord| a.record.rtype == b.record.rtype && a.record.owner == b.record.owner;
    for set in zone.records.chunk_by_mut(same_set) {
        let ttls_s = set.iter().map(|placed| placed.record.ttl_s);
        let (Some(least), Some(most)) = (ttls_s.clone().min(), ttls_s.max()) else { continue };
        let Some(other) = set.iter().find(|placed| placed.record.ttl_s != set[0].record.ttl_s) else { continue };
        let (owner, rtype) = (&other.record.owner, other.record.rtype);
        if matches!(rtype, Rtype::RRSIG | Rtype::SIG) {
            continue;
        }
        let found = format_args!("times to live from {least} to {most} in the {rtype} records of {owner}");
        findings.warn(other.at, found, format_args!("the same for all; the least is taken"));
        set.iter_mut().for_each(|placed| placed.record.ttl_s = least);
    }
}
