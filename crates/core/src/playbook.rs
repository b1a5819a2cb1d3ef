//! Playbooks: what one site answers, pushed by the master and kept by the agent.
//!
//! A playbook's version is a digest of its content, so a master that restarts with the same configuration names
//! the same version and no agent needs it again. An agent keeps the current and the previous one: orders that
//! were stamped just before a change still find theirs.

use crate::dns::site::Signature;
use crate::dns::{Answers, CanonicalName, PreparedAnswers};
use crate::time::Span;
use ring::digest;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Most raced names of one master: an order names them by 16 bits, and a control message stays within
/// [`crate::control::MAX_MESSAGE`] at 3 KiB each.
pub const MAX_RACES: usize = 1_024;
/// Most addresses of one kind in an answer: 40 × 28 bytes of AAAA fill [`crate::dns::MAX_ANSWER`].
pub const MAX_ADDRESSES: usize = 40;
/// Most name servers of a raced referral: 13, as many as the root has, with two addresses each take 1,000 bytes.
pub const MAX_NAME_SERVERS: usize = 13;
/// Most signatures of one name: two types by four keys, more than any change of keys needs at once.
pub const MAX_SIGNATURES: usize = 8;

/// What an agent does with an answer that cannot depart in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// It is not sent: a late start must not win by luck of a short path.
    #[default]
    Drop,
    /// It is sent at once, and counted.
    Send,
}

/// One raced name, as one site plays it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaybookRace {
    /// The raced name in presentation format; may be a wildcard.
    pub name: String,
    /// Time to live of the answer, in seconds.
    pub ttl_s: u32,
    /// What happens to an answer that is late.
    pub late: LatePolicy,
    /// A departure more than this after T is late.
    pub late_tolerance: Span,
    /// What the site answers; nothing where it takes no part.
    #[serde(flatten)]
    pub answers: Answers,
    /// What signs that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

/// Everything that one site answers for one master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Playbook {
    /// The raced names; an order refers to them by index.
    pub races: Vec<PlaybookRace>,
}

/// A playbook's version: the first 64 bits of a SHA-256 over its content.
pub type PlaybookVersion = u64;

/// A playbook that an agent does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaybookError {
    /// More names or addresses than the limits allow.
    #[error("{found} {what}, at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A raced name that is no domain name.
    #[error(transparent)]
    Name(#[from] crate::dns::name::NameError),
}

impl Playbook {
    /// The version.
    pub fn version(&self) -> PlaybookVersion {
        let mut context = digest::Context::new(&digest::SHA256);
        for race in &self.races {
            let late = match race.late {
                LatePolicy::Drop => 0u8,
                LatePolicy::Send => 1,
            };
            context.update(&(race.name.len() as u64).to_be_bytes());
            context.update(race.name.as_bytes());
            context.update(&race.ttl_s.to_be_bytes());
            context.update(&[late]);
            context.update(&race.late_tolerance.as_nanos().to_be_bytes());
            context.update(&(race.signatures.len() as u64).to_be_bytes());
            for signature in &race.signatures {
                context.update(&signature.rtype.to_be_bytes());
                context.update(&(signature.data.len() as u64).to_be_bytes());
                context.update(signature.data.as_bytes());
            }
            let Answers { a, aaaa, cname, ns } = &race.answers;
            let mut count = |items: usize| context.update(&(items as u64).to_be_bytes());
            count(a.len());
            count(aaaa.len());
            count(cname.as_ref().map_or(0, |name| name.len() + 1));
            count(ns.len());
            a.iter().for_each(|ip| context.update(&ip.octets()));
            aaaa.iter().for_each(|ip| context.update(&ip.octets()));
            cname.iter().for_each(|name| context.update(name.as_bytes()));
            for server in ns {
                context.update(&(server.name.len() as u64).to_be_bytes());
                context.update(server.name.as_bytes());
                context.update(&(server.addresses.len() as u64).to_be_bytes());
                for ip in &server.addresses {
                    context.update(&[u8::from(ip.is_ipv6())]);
                    match ip {
                        IpAddr::V4(ip) => context.update(&ip.octets()),
                        IpAddr::V6(ip) => context.update(&ip.octets()),
                    }
                }
            }
        }
        context.finish().as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// A playbook made ready for answering.
#[derive(Clone, Debug)]
pub struct PreparedPlaybook {
    /// Its version.
    pub version: PlaybookVersion,
    races: Vec<PreparedRace>,
}

/// One raced name, made ready for answering.
#[derive(Clone, Debug)]
pub struct PreparedRace {
    /// The name; may be a wildcard.
    pub name: CanonicalName,
    /// Time to live of the answer, in seconds.
    pub ttl_s: u32,
    /// What happens to an answer that is late.
    pub late: LatePolicy,
    /// A departure more than this after T is late.
    pub late_tolerance: Span,
    /// Whether the race is about names below this one as well.
    pub is_referral: bool,
    /// The site's answers.
    pub answers: PreparedAnswers,
}

impl PreparedPlaybook {
    /// Checks a playbook against the limits and reads its names.
    ///
    /// # Errors
    /// See [`PlaybookError`]; the previous playbook then stays in force.
    pub fn new(playbook: &Playbook) -> Result<Self, PlaybookError> {
        let within = |what, found, most| match found > most {
            true => Err(PlaybookError::TooMany { what, found, most }),
            false => Ok(()),
        };
        within("raced names", playbook.races.len(), MAX_RACES)?;
        let prepare = |race: &PlaybookRace| {
            let Answers { a, aaaa, ns, .. } = &race.answers;
            let of_servers = ns.iter().map(|server| server.addresses.len()).max().unwrap_or(0);
            within("addresses", a.len().max(aaaa.len()).max(of_servers), MAX_ADDRESSES)?;
            within("name servers", ns.len(), MAX_NAME_SERVERS)?;
            within("signatures", race.signatures.len(), MAX_SIGNATURES)?;
            let name: CanonicalName = race.name.parse()?;
            Ok(PreparedRace {
                answers: race.answers.prepare(&name, race.ttl_s, &race.signatures)?,
                ttl_s: race.ttl_s,
                name,
                late: race.late,
                late_tolerance: race.late_tolerance,
                is_referral: !ns.is_empty(),
            })
        };
        let races = playbook.races.iter().map(prepare).collect::<Result<_, PlaybookError>>()?;
        Ok(PreparedPlaybook { version: playbook.version(), races })
    }

    /// The raced name with this index.
    pub fn race(&self, index: u16) -> Option<&PreparedRace> {
        self.races.get(usize::from(index))
    }
}

impl PreparedRace {
    /// Whether a query for this name, in canonical form, is one for this race.
    pub fn covers(&self, name: &[u8]) -> bool {
        self.name.covers(name) || self.is_referral && self.name.is_ancestor_or_self_of(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn race() -> PlaybookRace {
        PlaybookRace {
            name: "www.cdn.test.".into(),
            ttl_s: 30,
            late: LatePolicy::Drop,
            late_tolerance: Span::from_millis(2),
            answers: Answers { a: vec![Ipv4Addr::new(192, 0, 2, 1)], ..Answers::default() },
            signatures: vec![],
        }
    }

    fn other(a: Vec<Ipv4Addr>) -> Answers {
        Answers { a, ..Answers::default() }
    }

    #[test]
    fn any_change_of_content_is_another_version() {
        let version = |race: PlaybookRace| Playbook { races: vec![race] }.version();
        let base = version(race());
        assert_eq!(base, version(race()));
        assert_ne!(base, version(PlaybookRace { ttl_s: 31, ..race() }));
        assert_ne!(base, version(PlaybookRace { late: LatePolicy::Send, ..race() }));
        assert_ne!(base, version(PlaybookRace { answers: other(vec![Ipv4Addr::new(192, 0, 2, 2)]), ..race() }));
        assert_ne!(base, Playbook { races: vec![race(), race()] }.version());
        assert_ne!(base, Playbook::default().version());
    }

    #[test]
    fn a_playbook_beyond_its_limits_is_refused() {
        let many = Playbook { races: vec![race(); MAX_RACES + 1] };
        assert!(matches!(PreparedPlaybook::new(&many), Err(PlaybookError::TooMany { found: 1_025, .. })));
        let wide = PlaybookRace { answers: other(vec![Ipv4Addr::LOCALHOST; MAX_ADDRESSES + 1]), ..race() };
        assert!(matches!(PreparedPlaybook::new(&Playbook { races: vec![wide] }), Err(PlaybookError::TooMany { .. })));
        let nameless = PlaybookRace { name: "a..b".into(), ..race() };
        assert!(matches!(PreparedPlaybook::new(&Playbook { races: vec![nameless] }), Err(PlaybookError::Name(_))));
    }
}
