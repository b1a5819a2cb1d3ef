//! What a site answers to a raced name, and what the master answers in its place.

use super::name::CanonicalName;
use super::set::{OwnedSet, SetRef};
use domain::base::Rtype;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name server of a raced referral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServer {
    /// Its name, in presentation format.
    pub name: String,
    /// Its addresses, for where its name lies within what is referred to.
    pub addresses: Vec<IpAddr>,
}

/// What one site, or the fallback, answers: addresses, or an alias, or a referral.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// For A.
    #[serde(default)]
    pub a: Vec<Ipv4Addr>,
    /// For AAAA.
    #[serde(default)]
    pub aaaa: Vec<Ipv6Addr>,
    /// For every type: the name that this one stands for, in presentation format.
    #[serde(default)]
    pub cname: Option<String>,
    /// For every type, and every name below: who knows.
    #[serde(default)]
    pub ns: Vec<NameServer>,
}

impl Answers {
    /// Whether there is an answer for `rtype`.
    pub fn serve(&self, rtype: Rtype) -> bool {
        let any = self.cname.is_some() || !self.ns.is_empty();
        match rtype {
            Rtype::A => any || !self.a.is_empty(),
            Rtype::AAAA => any || !self.aaaa.is_empty(),
            // Neither is a question about the name's data.
            Rtype::ANY | Rtype::DS => false,
            _ => any,
        }
    }

    /// Made ready for answering for `owner`.
    ///
    /// # Errors
    /// Where a name in it is none.
    pub fn prepare(&self, owner: &CanonicalName, ttl_s: u32) -> Result<PreparedAnswers, super::name::NameError> {
        let owner = owner.as_bytes();
        let mut prepared = PreparedAnswers::default();
        let mut add = |rtype, data: Vec<Vec<u8>>| {
            if !data.is_empty() {
                prepared.sets.push(OwnedSet::new(owner, rtype, ttl_s, data.iter().map(Vec::as_slice)));
            }
        };
        add(Rtype::A, self.a.iter().map(|ip| ip.octets().to_vec()).collect());
        add(Rtype::AAAA, self.aaaa.iter().map(|ip| ip.octets().to_vec()).collect());
        let wire = |name: &String| name.parse::<CanonicalName>().map(|name| name.as_bytes().to_vec());
        add(Rtype::CNAME, self.cname.iter().map(wire).collect::<Result<_, _>>()?);
        add(Rtype::NS, self.ns.iter().map(|server| wire(&server.name)).collect::<Result<_, _>>()?);
        for server in &self.ns {
            let name: CanonicalName = server.name.parse()?;
            let four = server.addresses.iter().filter(|ip| ip.is_ipv4());
            let six = server.addresses.iter().filter(|ip| ip.is_ipv6());
            for (rtype, ips) in [(Rtype::A, four.collect::<Vec<_>>()), (Rtype::AAAA, six.collect())] {
                let octets = |ip: &&IpAddr| match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                let data: Vec<Vec<u8>> = ips.iter().map(octets).collect();
                if !data.is_empty() {
                    let set = OwnedSet::new(name.as_bytes(), rtype, ttl_s, data.iter().map(Vec::as_slice));
                    prepared.glue.push((name.clone(), set));
                }
            }
        }
        Ok(prepared)
    }
}

/// What one site answers, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedAnswers {
    sets: Vec<OwnedSet>,
    glue: Vec<(CanonicalName, OwnedSet)>,
}

impl PreparedAnswers {
    /// Whether there is an answer for `rtype`.
    pub fn serve(&self, rtype: Rtype) -> bool {
        rtype != Rtype::ANY && rtype != Rtype::DS && self.set(rtype).is_some()
    }

    /// The set that answers a question for `rtype`: of that type, or an alias; NS records make a referral of it.
    pub(super) fn set(&self, rtype: Rtype) -> Option<SetRef<'_>> {
        let sets = || self.sets.iter().map(OwnedSet::as_ref);
        let of_type = sets().find(|set| set.rtype == rtype);
        of_type.or_else(|| sets().find(|set| set.rtype == Rtype::CNAME || set.rtype == Rtype::NS))
    }

    /// Addresses of name servers.
    pub(super) fn glue(&self) -> impl Iterator<Item = (&[u8], SetRef<'_>)> {
        self.glue.iter().map(|(name, set)| (name.as_bytes(), set.as_ref()))
    }
}
