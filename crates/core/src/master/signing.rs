//! Signatures over what sites answer to raced names in signed zones.
//!
//! A zone is signed offline, but each site's answer to a raced name is a record set of its own, which no offline signer
//! knows. The master signs them all, with keys that never leave it; agents get their signatures in the playbook, and the
//! fallback has its own. What a wildcard's answer must prove beside that depends on the name that is asked, and travels in
//! the order ([`Response::raced_proof`](crate::dns::Response::raced_proof)).

use super::{MAX_FALLBACK_TTL_S, RaceConfig, Service};
use crate::dns::sign::{SignError, SigningKey, UnsignedSet, ValidityPolicy, ValidityWindow};
use crate::dns::site::Signature;
use crate::dns::{Answers, CanonicalName};
use domain::base::Rtype;
use ring::rand::SecureRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The keys of signed zones, by apex.
pub type Signers = BTreeMap<CanonicalName, Vec<Arc<SigningKey>>>;

/// One race's signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RaceSignatures {
    sites: BTreeMap<String, Vec<Signature>>,
    window: ValidityWindow,
}

/// Why answers could not be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// A set that cannot be signed.
    #[error("signing what is answered to {name}: {error}")]
    Set {
        /// The raced name.
        name: CanonicalName,
        /// Why not.
        error: SignError,
    },
    /// A name within an answer is none.
    #[error(transparent)]
    Name(#[from] crate::dns::name::NameError),
}

impl Service {
    /// Signs what sites and the fallback answer to raced names in zones that `signers` has keys for, in place of earlier
    /// signatures. `now_s` is seconds since 1970 modulo 2^32. Referrals are not signed (RFC 4035 section 2.2).
    ///
    /// # Errors
    /// See [`SigningError`]; nothing is signed anew then.
    pub fn sign(
        &mut self,
        signers: &Signers,
        policy: &ValidityPolicy,
        now_s: u32,
        random: &dyn SecureRandom,
    ) -> Result<(), SigningError> {
        let window = policy.window(now_s);
        let mut signatures = Vec::with_capacity(self.races.len());
        let mut fallbacks = self.fallbacks.clone();
        for (race, fallback) in self.races.iter().zip(&mut fallbacks) {
            let apex = self.zones.apex_of(race.name.as_bytes());
            let Some((apex, keys)) = apex.and_then(|apex| Some((apex, signers.get(apex)?))) else {
                signatures.push(None);
                continue;
            };
            let sign = |answers: &Answers, ttl_s| sign(race, apex, keys, answers, ttl_s, window, random);
            let mut sites = BTreeMap::new();
            for (site, answers) in &race.sites {
                sites.insert(site.clone(), sign(answers, race.ttl_s)?);
            }
            let ttl_s = race.ttl_s.min(MAX_FALLBACK_TTL_S);
            *fallback = race.fallback.prepare(&race.name, ttl_s, &sign(&race.fallback, ttl_s)?)?;
            signatures.push(Some(RaceSignatures { sites, window }));
        }
        (self.signatures, self.fallbacks) = (signatures, fallbacks);
        Ok(())
    }

    /// Whether some signatures should be made anew at `now_s`; `seed` spreads the moment, so that masters do not all sign at
    /// once.
    pub fn is_signing_due(&self, policy: &ValidityPolicy, now_s: u32, seed: u64) -> bool {
        self.signatures.iter().flatten().any(|race| policy.is_refresh_due(race.window, now_s, seed))
    }

    pub(super) fn signatures(&self, index: usize, site: &str) -> Vec<Signature> {
        let of_race = self.signatures.get(index).and_then(Option::as_ref);
        of_race.and_then(|race| race.sites.get(site)).cloned().unwrap_or_default()
    }
}

fn sign(
    race: &RaceConfig,
    apex: &CanonicalName,
    keys: &[Arc<SigningKey>],
    answers: &Answers,
    ttl_s: u32,
    window: ValidityWindow,
    random: &dyn SecureRandom,
) -> Result<Vec<Signature>, SigningError> {
    let mut signatures = Vec::new();
    for (rtype, data) in answers.sets()?.into_iter().filter(|(rtype, _)| *rtype != Rtype::NS) {
        let set = UnsignedSet { owner: &race.name, rtype, original_ttl_s: ttl_s, data: &data };
        for key in keys {
            let data = key
                .sign_set(apex, &set, window, random)
                .map_err(|error| SigningError::Set { name: race.name.clone(), error })?;
            signatures.push(Signature::new(rtype, &data));
        }
    }
    Ok(signatures)
}
