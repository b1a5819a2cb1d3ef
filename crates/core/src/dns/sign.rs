//! Signatures of record sets: the data of RRSIG records (RFC 4034), made with keys as their files state them.
//!
//! A zone is signed once, offline, by tools that do it well; but a raced name has another answer at every site, which
//! only the master knows, so the master signs these. The obvious answer, the signer of the `domain` crate, stands
//! behind features that may change with any version, and is made for whole zones. What is needed here is little: the
//! bytes that a signature covers, in canonical form, and one signature over them.
//!
//! ```text
//!  RRSIG data, no signature │ owner type IN TTL length data │ owner type IN TTL length data │ …
//!  └ section 3.1            └ in canonical form (section 6.2) and order (6.3), each once
//! ```
//!
//! The cryptography is ring's. It takes RSA keys of 2,048, 3,072 and 4,096 bits with a public exponent from 65,537 on;
//! it does not overwrite a key's memory when the key is dropped. No type here shows a private key by `Debug`.
//!
//! Times are seconds since 1970 modulo 2^32, which wrap in 2106 (RFC 4034 section 3.1.5): see [`ValidityWindow`].
//!
//! References: RFC 4034 (records), RFC 6840 section 5.1 (corrections), RFC 3110 and 5702 (RSA), RFC 6605 (ECDSA), RFC
//! 8080 (Ed25519), RFC 8624 (which of them to use).

mod algorithm;
mod canonical;
#[cfg(test)]
mod tests;
mod validity;

use std::fmt;

use domain::base::iana::Class;
use domain::base::name::Name;
use domain::base::{Rtype, Ttl};
use domain::rdata::dnssec::{Dnskey, ProtoRrsig, Timestamp};
use ring::rand::SecureRandom;

use super::CanonicalName;
pub use algorithm::{Algorithm, PrivateKey, RsaPrivateKey};
use algorithm::{KeyPair, PublicKey};
use canonical::{canonical_data, is_at_or_below, label_count};
pub use validity::{INCEPTION_OFFSET_S_MAX, VALIDITY_S_MAX, VALIDITY_S_MIN, ValidityPolicy, ValidityWindow, serial_s};

/// Most bytes that the records of a signed set take, owner and all: what a DNS message over TCP can carry (RFC 1035
/// section 4.2.2).
pub const SET_BYTES_MAX: usize = 65_535;

/// RFC 4034 section 2.1.2: "The Protocol Field MUST have value 3".
const PROTOCOL: u8 = 3;

/// Bits of a DNSKEY's flags: zone key and secure entry point (RFC 4034 section 2.1.1), revoked (RFC 5011 section 2.1).
const ZONE_KEY: u16 = 0x0100;
const SECURE_ENTRY_POINT: u16 = 0x0001;
const REVOKED: u16 = 0x0080;

/// What is signed by the trial signature of a new key.
const TRIAL: &[u8] = b"startgun: do the halves of this key belong together?";

/// A key pair that signs record sets, with its DNSKEY record.
pub struct SigningKey {
    algorithm: Algorithm,
    dnskey: Box<[u8]>,
    flags: u16,
    tag: u16,
    public: PublicKey,
    pair: KeyPair,
}

/// Why two halves make no signing key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// DNSKEY data is too short to have a key in it.
    #[error("{bytes} bytes of DNSKEY data, expected flags, protocol, algorithm and a key")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The protocol field is not 3.
    #[error("protocol {protocol}, expected 3")]
    Protocol {
        /// What it is.
        protocol: u8,
    },
    /// The bit that makes the key a zone's is not set.
    #[error("flags {flags}, expected a zone key (256 or 257)")]
    NotZoneKey {
        /// What they are.
        flags: u16,
    },
    /// The key is revoked (RFC 5011): validators take its signatures for nothing.
    #[error("flags {flags}, which say that the key is revoked, expected 256 or 257")]
    Revoked {
        /// What they are.
        flags: u16,
    },
    /// The algorithm is none of [`Algorithm::ALL`].
    #[error("algorithm {number}, expected one of those that can be used")]
    Algorithm {
        /// Its number.
        number: u8,
    },
    /// The public key's length, or the form within it, is not the algorithm's.
    #[error("{bytes} bytes that are no public key of algorithm {algorithm}")]
    PublicKey {
        /// Of which algorithm it should be.
        algorithm: Algorithm,
        /// Its length.
        bytes: usize,
    },
    /// The modulus has another length than ring takes.
    #[error("an RSA key of {bits} bits, expected 2048, 3072 or 4096")]
    RsaBits {
        /// Its length.
        bits: usize,
    },
    /// The public exponent is smaller or greater than ring takes.
    #[error("a public exponent of RSA below 65537 or of more than 33 bits")]
    RsaExponent,
    /// The private half has the parts of another kind of key, or parts of an impossible length.
    #[error("no private key of algorithm {algorithm}")]
    PrivateKey {
        /// Of which algorithm it should be.
        algorithm: Algorithm,
    },
    /// The private half is that of another key, or is damaged.
    #[error("a private half that does not belong to the public one")]
    Mismatch,
}

/// Why a set was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The owner is not in the signer's zone.
    #[error("{owner} is not in zone {signer}")]
    NotInZone {
        /// The set's owner.
        owner: CanonicalName,
        /// The zone.
        signer: CanonicalName,
    },
    /// There is nothing to sign.
    #[error("a set without records")]
    Empty,
    /// RFC 4035 section 2.2: "An RRSIG RR itself MUST NOT be signed".
    #[error("a set of type RRSIG, which is never signed")]
    Rrsig,
    /// A record's data has not the form of its type.
    #[error("{rtype} data that is not in the form of its type")]
    Malformed {
        /// The type.
        rtype: Rtype,
    },
    /// The set has more than [`SET_BYTES_MAX`].
    #[error("a set of more than {SET_BYTES_MAX} bytes")]
    TooLong,
    /// The expiration is not after the inception, or 2^31 s and more after it.
    #[error("a signature from {} to {}", window.inception_s, window.expiration_s)]
    Window {
        /// The window.
        window: ValidityWindow,
    },
    /// The system gave no random numbers.
    #[error("no random numbers")]
    Randomness,
}

/// A set of records that is to be signed; its class is IN.
#[derive(Clone, Copy, Debug)]
pub struct UnsignedSet<'a, D> {
    /// The owner; for a wildcard its own name, asterisk included.
    pub owner: &'a CanonicalName,
    /// The type.
    pub rtype: Rtype,
    /// Time to live in seconds as an authoritative server states it, at most 2^31 − 1.
    pub original_ttl_s: u32,
    /// Each record's data in uncompressed wire format, in any order; one that is there twice counts once.
    pub data: &'a [D],
}

impl SigningKey {
    /// Makes a key of its halves: the DNSKEY record's data in wire format, and what the private key's file says.
    ///
    /// A trial signature proves that they belong together; with RSA that takes milliseconds.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(dnskey: &[u8], private: &PrivateKey<'_>, random: &dyn SecureRandom) -> Result<Self, KeyError> {
        let short = KeyError::Short { bytes: dnskey.len() };
        let Some((&[flags_high, flags_low, protocol, number], key)) = dnskey.split_first_chunk() else {
            return Err(short);
        };
        let flags = u16::from_be_bytes([flags_high, flags_low]);
        if key.is_empty() {
            return Err(short);
        }
        if protocol != PROTOCOL {
            return Err(KeyError::Protocol { protocol });
        }
        // "If bit 7 has value 0, then the DNSKEY record holds some other type of DNS public key and MUST NOT be used to
        // verify RRSIGs that cover RRsets" (RFC 4034 section 2.1.1).
        if flags & ZONE_KEY == 0 {
            return Err(KeyError::NotZoneKey { flags });
        }
        if flags & REVOKED != 0 {
            return Err(KeyError::Revoked { flags });
        }
        let algorithm = Algorithm::of_number(number).ok_or(KeyError::Algorithm { number })?;
        let public = PublicKey::new(algorithm, key)?;
        let pair = KeyPair::new(algorithm, &public, private, random)?;
        let Ok(record) = Dnskey::new(flags, protocol, algorithm.into(), key) else {
            unreachable!("a public key, which was found to be sound, fits a record");
        };
        let key = SigningKey { algorithm, dnskey: dnskey.into(), flags, tag: record.key_tag(), public, pair };
        match key.pair.sign(algorithm, TRIAL, random) {
            Some(signature) if key.public.verifies(algorithm, TRIAL, &signature) => Ok(key),
            _ => Err(KeyError::Mismatch),
        }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The data of its DNSKEY record, in wire format.
    pub fn dnskey(&self) -> &[u8] {
        &self.dnskey
    }

    /// The DNSKEY's flags, RFC 4034 section 2.1.1; the zone-key bit, 256, is always among them.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Whether it is meant as a key-signing key, which a DS record of the parent zone points to. That is a hint to
    /// tools: validators do not look at it.
    pub fn is_secure_entry_point(&self) -> bool {
        self.flags & SECURE_ENTRY_POINT != 0
    }

    /// The key tag, RFC 4034 appendix B. Two keys of a zone may have the same.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// Signs a set in the name of the zone `signer`: the data of an RRSIG record in wire format, names uncompressed.
    ///
    /// ECDSA takes `random`, so that no two of its signatures are the same; those of RSA and Ed25519 are always the
    /// same.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign_set<D: AsRef<[u8]>>(
        &self,
        signer: &CanonicalName,
        set: &UnsignedSet<'_, D>,
        window: ValidityWindow,
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, SignError> {
        let mut rrsig = self.head(signer, set, window)?;
        let mut covered = rrsig.clone();
        append_canonical_set(set, &mut covered)?;
        let signature = self.pair.sign(self.algorithm, &covered, random).ok_or(SignError::Randomness)?;
        rrsig.extend_from_slice(&signature);
        Ok(rrsig)
    }

    /// What a signature covers first, RFC 4034 section 3.1.8.1: "RRSIG_RDATA is the wire format of the RRSIG RDATA
    /// fields with the Signer's Name field in canonical form and the Signature field excluded".
    fn head<D>(
        &self,
        signer: &CanonicalName,
        set: &UnsignedSet<'_, D>,
        window: ValidityWindow,
    ) -> Result<Vec<u8>, SignError> {
        if set.rtype == Rtype::RRSIG {
            return Err(SignError::Rrsig);
        }
        if !is_at_or_below(set.owner.as_bytes(), signer.as_bytes()) {
            return Err(SignError::NotInZone { owner: set.owner.clone(), signer: signer.clone() });
        }
        if !window.is_sound() {
            return Err(SignError::Window { window });
        }
        let Ok(signer) = Name::<&[u8]>::from_octets(signer.as_bytes()) else {
            unreachable!("a canonical name is a name");
        };
        let fields = ProtoRrsig::new(
            set.rtype,
            self.algorithm.into(),
            label_count(set.owner.as_bytes()),
            Ttl::from_secs(set.original_ttl_s),
            Timestamp::from(window.expiration_s),
            Timestamp::from(window.inception_s),
            self.tag,
            signer,
        );
        let mut head = Vec::new();
        match fields.compose_canonical(&mut head) {
            Ok(()) => Ok(head),
            Err(never) => match never {},
        }
    }

    /// Whether RRSIG data, as [`SigningKey::sign_set`] makes it, is this key's over a set.
    #[cfg(test)]
    fn verifies<D: AsRef<[u8]>>(&self, signer: &CanonicalName, set: &UnsignedSet<'_, D>, rrsig: &[u8]) -> bool {
        let field = |at: usize| rrsig[at..at + 4].try_into().map(u32::from_be_bytes).expect("four bytes");
        let window = ValidityWindow { inception_s: field(12), expiration_s: field(8) };
        let mut covered = self.head(signer, set, window).expect("a set that can be signed");
        let (head, signature) = rrsig.split_at(covered.len());
        let same_head = head == covered;
        append_canonical_set(set, &mut covered).expect("a set that can be signed");
        same_head && self.public.verifies(self.algorithm, &covered, signature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SigningKey");
        shown.field("algorithm", &self.algorithm).field("flags", &self.flags).field("tag", &self.tag);
        shown.finish_non_exhaustive()
    }
}

impl PartialEq for SigningKey {
    /// Two are equal when their DNSKEY records are: the other half follows.
    fn eq(&self, other: &Self) -> bool {
        self.dnskey == other.dnskey
    }
}

impl Eq for SigningKey {}

/// Appends what a signature covers of a set: each record once, in canonical form and order.
///
/// RFC 4034 section 3.1.8.1: "RR(i) = owner | type | class | TTL | RDATA length | RDATA", the owner with its wildcard
/// label, and "The RRset MUST be sorted in canonical order", which by section 6.3 is that of the data as strings of
/// bytes; there, too, of duplicates: "it MUST remove all but one".
fn append_canonical_set<D: AsRef<[u8]>>(set: &UnsignedSet<'_, D>, covered: &mut Vec<u8>) -> Result<(), SignError> {
    let mut head = set.owner.as_bytes().to_vec();
    head.extend_from_slice(&set.rtype.to_int().to_be_bytes());
    head.extend_from_slice(&Class::IN.to_int().to_be_bytes());
    head.extend_from_slice(&set.original_ttl_s.to_be_bytes());
    let bytes: usize = set.data.iter().map(|data| head.len() + size_of::<u16>() + data.as_ref().len()).sum();
    match bytes {
        0 => return Err(SignError::Empty),
        1..=SET_BYTES_MAX => {}
        _ => return Err(SignError::TooLong),
    }
    let malformed = SignError::Malformed { rtype: set.rtype };
    let canonical = set.data.iter().map(|data| canonical_data(set.rtype, data.as_ref()));
    let mut canonical: Vec<Vec<u8>> = canonical.collect::<Option<_>>().ok_or(malformed)?;
    canonical.sort_unstable();
    canonical.dedup();
    for data in &canonical {
        covered.extend_from_slice(&head);
        // At most SET_BYTES_MAX, as the whole set is.
        covered.extend_from_slice(&(data.len() as u16).to_be_bytes());
        covered.extend_from_slice(data);
    }
    Ok(())
}
