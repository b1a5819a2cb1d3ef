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

/// A signature over what a site answers, made by the master ([`super::sign`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The type that it covers, as a number.
    pub rtype: u16,
    /// The data of the RRSIG record, in hexadecimal digits.
    pub data: String,
}

impl Signature {
    /// A signature by the data of its RRSIG record.
    pub fn new(rtype: Rtype, data: &[u8]) -> Self {
        let data = data.iter().map(|byte| format!("{byte:02x}")).collect();
        Signature { rtype: rtype.to_int(), data }
    }

    /// The data; `None` where it is not hexadecimal or shorter than any signature.
    fn bytes(&self) -> Option<Vec<u8>> {
        let digits = self.data.as_bytes();
        let is_hex = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
        let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = digits.chunks(2).filter(|_| is_hex).map(byte).collect::<Option<_>>()?;
        (bytes.len() > RRSIG_FIXED).then_some(bytes)
    }
}

/// Bytes of RRSIG data before the signer's name, RFC 4034 section 3.1.
const RRSIG_FIXED: usize = 18;

/// When the signature of these RRSIG data ends: seconds since 1970 modulo 2^32 (RFC 4034 section 3.1.5).
fn expiration_s(data: &[u8]) -> u32 {
    data.get(8..12).map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Record sets: type and each record's data, uncompressed.
pub type RecordSets = Vec<(Rtype, Vec<Vec<u8>>)>;

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

    /// The types of its record sets.
    pub fn types(&self) -> impl Iterator<Item = Rtype> {
        let kinds = [
            (Rtype::A, !self.a.is_empty()),
            (Rtype::AAAA, !self.aaaa.is_empty()),
            (Rtype::CNAME, self.cname.is_some()),
            (Rtype::NS, !self.ns.is_empty()),
        ];
        kinds.into_iter().filter(|(_, has)| *has).map(|(rtype, _)| rtype)
    }

    /// Its record sets: type and each record's data, uncompressed.
    ///
    /// # Errors
    /// Where a name in it is none.
    pub fn sets(&self) -> Result<RecordSets, super::name::NameError> {
        let wire = |name: &String| name.parse::<CanonicalName>().map(|name| name.as_bytes().to_vec());
        let mut sets = vec![
            (Rtype::A, self.a.iter().map(|ip| ip.octets().to_vec()).collect::<Vec<_>>()),
            (Rtype::AAAA, self.aaaa.iter().map(|ip| ip.octets().to_vec()).collect()),
            (Rtype::CNAME, self.cname.iter().map(wire).collect::<Result<_, _>>()?),
            (Rtype::NS, self.ns.iter().map(|server| wire(&server.name)).collect::<Result<_, _>>()?),
        ];
        sets.retain(|(_, data)| !data.is_empty());
        Ok(sets)
    }

    /// Made ready for answering for `owner`, with what signs it; a signature that is none is left out.
    ///
    /// # Errors
    /// Where a name in it is none.
    pub fn prepare(
        &self,
        owner: &CanonicalName,
        ttl_s: u32,
        signatures: &[Signature],
    ) -> Result<PreparedAnswers, super::name::NameError> {
        let owner = owner.as_bytes();
        let mut prepared = PreparedAnswers::default();
        for (rtype, data) in self.sets()? {
            let mut set = OwnedSet::new(owner, rtype, ttl_s, data.iter().map(Vec::as_slice));
            let of_type = signatures.iter().filter(|signature| signature.rtype == rtype.to_int());
            for data in of_type.filter_map(Signature::bytes) {
                set.sign(owner, ttl_s, &data);
                let end_s = expiration_s(&data);
                let sooner = prepared.signed_until_s.is_none_or(|known| (end_s.wrapping_sub(known) as i32) < 0);
                prepared.signed_until_s = if sooner { Some(end_s) } else { prepared.signed_until_s };
            }
            prepared.sets.push(set);
        }
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
    signed_until_s: Option<u32>,
}

impl PreparedAnswers {
    /// Whether there is an answer for `rtype`.
    pub fn serve(&self, rtype: Rtype) -> bool {
        rtype != Rtype::ANY && rtype != Rtype::DS && self.set(rtype).is_some()
    }

    /// Whether all signatures hold for another `ttl_s` seconds at `unix_s`, seconds since 1970 modulo 2^32: a resolver keeps
    /// an answer for so long, and must find it valid until then. Answers without signatures always hold.
    pub fn hold(&self, unix_s: u32, ttl_s: u32) -> bool {
        self.signed_until_s.is_none_or(|end_s| end_s.wrapping_sub(unix_s) as i32 > ttl_s as i32)
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
