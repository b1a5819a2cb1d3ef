//! The algorithms: what their keys look like in DNS and in files, and how ring wants them.

use std::fmt;

use domain::base::iana::SecurityAlgorithm;
use ring::rand::SecureRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use zeroize::Zeroizing;

use super::KeyError;

/// Lengths of an RSA modulus, in bits: ring wants two primes of the same multiple of 512 bits, 2,048 bits at least and
/// 4,096 at most.
const RSA_BITS: [usize; 3] = [2_048, 3_072, 4_096];

/// The smallest public exponent that ring takes, and the greatest.
const RSA_EXPONENT_MIN: u64 = 65_537;
const RSA_EXPONENT_MAX: u64 = (1 << 33) - 1;

/// What begins a point in SEC 1's uncompressed form (section 2.3.3), which DNS leaves away (RFC 6605 section 4).
const UNCOMPRESSED_POINT: u8 = 4;

/// Bytes of an Ed25519 key, either half (RFC 8080 section 3, RFC 8032 section 5.1.5).
const ED25519_BYTES: usize = 32;

/// An algorithm that keys may have. RFC 8624 section 3.2: "ECDSAP256SHA256 is the RECOMMENDED DNSKEY algorithm for use
/// by new DNSSEC deployments".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// 8, RFC 5702.
    RsaSha256,
    /// 10, RFC 5702.
    RsaSha512,
    /// 13, RFC 6605.
    EcdsaP256Sha256,
    /// 14, RFC 6605.
    EcdsaP384Sha384,
    /// 15, RFC 8080.
    Ed25519,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 5] = [
        Algorithm::RsaSha256,
        Algorithm::RsaSha512,
        Algorithm::EcdsaP256Sha256,
        Algorithm::EcdsaP384Sha384,
        Algorithm::Ed25519,
    ];

    /// The number that stands in DNSKEY and RRSIG records.
    pub fn number(self) -> u8 {
        SecurityAlgorithm::from(self).to_int()
    }

    /// The algorithm of a number; `None` where it is none of [`Algorithm::ALL`].
    pub fn of_number(number: u8) -> Option<Self> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// Whether its keys are RSA's.
    pub fn is_rsa(self) -> bool {
        matches!(self, Algorithm::RsaSha256 | Algorithm::RsaSha512)
    }

    /// Bytes of a coordinate, and of a private scalar, of its curve (RFC 6605 section 4); of half a public key, that
    /// is.
    fn curve_bytes(self) -> Option<usize> {
        match self {
            Algorithm::EcdsaP256Sha256 => Some(32),
            Algorithm::EcdsaP384Sha384 => Some(48),
            _ => None,
        }
    }
}

impl From<Algorithm> for SecurityAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RsaSha256 => SecurityAlgorithm::RSASHA256,
            Algorithm::RsaSha512 => SecurityAlgorithm::RSASHA512,
            Algorithm::EcdsaP256Sha256 => SecurityAlgorithm::ECDSAP256SHA256,
            Algorithm::EcdsaP384Sha384 => SecurityAlgorithm::ECDSAP384SHA384,
            Algorithm::Ed25519 => SecurityAlgorithm::ED25519,
        }
    }
}

impl fmt::Display for Algorithm {
    /// Number and mnemonic, such as `13 (ECDSAP256SHA256)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = SecurityAlgorithm::from(*self);
        let mnemonic = algorithm.to_mnemonic_str().unwrap_or_default();
        write!(f, "{} ({mnemonic})", algorithm.to_int())
    }
}

/// A private key as its file states it.
pub enum PrivateKey<'a> {
    /// RSA's numbers.
    Rsa(RsaPrivateKey<'a>),
    /// ECDSA's scalar as a big-endian number, leading zeros or not (RFC 6605 section 6), or Ed25519's 32 bytes (RFC
    /// 8080 section 6).
    Secret(&'a [u8]),
}

/// The numbers of an RSA private key, big-endian, leading zeros or not; the names are those of RFC 8017 section 3.2.
pub struct RsaPrivateKey<'a> {
    /// n.
    pub modulus: &'a [u8],
    /// e.
    pub public_exponent: &'a [u8],
    /// d.
    pub private_exponent: &'a [u8],
    /// p.
    pub prime_1: &'a [u8],
    /// q.
    pub prime_2: &'a [u8],
    /// dP.
    pub exponent_1: &'a [u8],
    /// dQ.
    pub exponent_2: &'a [u8],
    /// qInv.
    pub coefficient: &'a [u8],
}

/// A public key in the form that ring takes.
pub(super) enum PublicKey {
    Rsa(PublicKeyComponents<Box<[u8]>>),
    /// An uncompressed point.
    Ecdsa(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl PublicKey {
    /// Reads the key of a DNSKEY record, what follows its first four bytes.
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::PublicKey { algorithm, bytes: key.len() };
        if algorithm.is_rsa() {
            let (exponent, modulus) = split_rsa(key).ok_or(malformed)?;
            let bits = bit_length(modulus);
            if !RSA_BITS.contains(&bits) {
                return Err(KeyError::RsaBits { bits });
            }
            let exponent_value = exponent.iter().try_fold(0u64, |value, &byte| {
                let shifted = value.checked_mul(256)?;
                Some(shifted + u64::from(byte))
            });
            if !exponent_value.is_some_and(|value| (RSA_EXPONENT_MIN..=RSA_EXPONENT_MAX).contains(&value)) {
                return Err(KeyError::RsaExponent);
            }
            return Ok(PublicKey::Rsa(PublicKeyComponents { n: modulus.into(), e: exponent.into() }));
        }
        match algorithm.curve_bytes() {
            Some(coordinate) if key.len() == 2 * coordinate => {
                Ok(PublicKey::Ecdsa([&[UNCOMPRESSED_POINT], key].concat().into()))
            }
            None if key.len() == ED25519_BYTES => Ok(PublicKey::Ed25519(key.into())),
            _ => Err(malformed),
        }
    }

    /// Whether a signature, in the form that RRSIG records have, is one of this key over `message`.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            PublicKey::Rsa(components) => {
                let parameters = match algorithm {
                    Algorithm::RsaSha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                components.verify(parameters, message, signature)
            }
            PublicKey::Ecdsa(point) => {
                let parameters: &dyn VerificationAlgorithm = match algorithm {
                    Algorithm::EcdsaP384Sha384 => &ECDSA_P384_SHA384_FIXED,
                    _ => &ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(parameters, point).verify(message, signature)
            }
            PublicKey::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

/// A key pair that ring signs with.
pub(super) enum KeyPair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl KeyPair {
    /// Puts the halves together. What is not checked here of their belonging together, a trial signature shows.
    pub fn new(
        algorithm: Algorithm,
        public: &PublicKey,
        private: &PrivateKey<'_>,
        random: &dyn SecureRandom,
    ) -> Result<Self, KeyError> {
        let rejected = |_| KeyError::Mismatch;
        match (public, private) {
            (PublicKey::Rsa(public), PrivateKey::Rsa(private)) => {
                let components = private.components();
                let stated = components.public_key;
                if (stated.n, stated.e) != (&*public.n, &*public.e) {
                    return Err(KeyError::Mismatch);
                }
                let pair = RsaKeyPair::from_components(&components).map_err(rejected)?;
                Ok(KeyPair::Rsa(Box::new(pair)))
            }
            (PublicKey::Ecdsa(point), PrivateKey::Secret(scalar)) => {
                let scalar = algorithm.curve_bytes().and_then(|bytes| padded(scalar, bytes));
                let scalar = scalar.ok_or(KeyError::PrivateKey { algorithm })?;
                let signing = ecdsa_signing(algorithm);
                let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, &scalar, point, random);
                Ok(KeyPair::Ecdsa(Box::new(pair.map_err(rejected)?)))
            }
            (PublicKey::Ed25519(key), PrivateKey::Secret(seed)) if seed.len() == ED25519_BYTES => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(seed, key).map_err(rejected)?;
                Ok(KeyPair::Ed25519(Box::new(pair)))
            }
            _ => Err(KeyError::PrivateKey { algorithm }),
        }
    }

    /// Signs a message; the signature has the form that RRSIG records have (RFC 5702 section 3, RFC 6605 section 4, RFC
    /// 8080 section 4). `None` where there is no randomness, or where an RSA key's private numbers do not fit together.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8], random: &dyn SecureRandom) -> Option<Vec<u8>> {
        match self {
            KeyPair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let encoding = match algorithm {
                    Algorithm::RsaSha512 => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                pair.sign(encoding, random, message, &mut signature).ok()?;
                Some(signature)
            }
            KeyPair::Ecdsa(pair) => Some(pair.sign(random, message).ok()?.as_ref().to_vec()),
            KeyPair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl<'a> RsaPrivateKey<'a> {
    fn components(&self) -> KeyPairComponents<&'a [u8]> {
        KeyPairComponents {
            public_key: PublicKeyComponents { n: significant(self.modulus), e: significant(self.public_exponent) },
            d: significant(self.private_exponent),
            p: significant(self.prime_1),
            q: significant(self.prime_2),
            dP: significant(self.exponent_1),
            dQ: significant(self.exponent_2),
            qInv: significant(self.coefficient),
        }
    }
}

fn ecdsa_signing(algorithm: Algorithm) -> &'static EcdsaSigningAlgorithm {
    match algorithm {
        Algorithm::EcdsaP384Sha384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

/// Exponent and modulus of an RSA key in DNS, RFC 3110 section 2: the exponent's length in one byte, or in two after a
/// zero, then the exponent and the modulus; "Leading zero octets are prohibited in the exponent and modulus."
fn split_rsa(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match key {
        [0, high, low, rest @ ..] => (u16::from_be_bytes([*high, *low]), rest),
        [length, rest @ ..] => (u16::from(*length), rest),
        [] => return None,
    };
    let (exponent, modulus) = rest.split_at_checked(usize::from(length))?;
    let is_number = |number: &[u8]| number.first().is_some_and(|&first| first != 0);
    (is_number(exponent) && is_number(modulus)).then_some((exponent, modulus))
}

/// Bits of a big-endian number without leading zero bytes.
fn bit_length(number: &[u8]) -> usize {
    number.len() * 8 - number.first().map_or(0, |first| first.leading_zeros() as usize)
}

/// A big-endian number without its leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}

/// A big-endian number in exactly so many bytes: some tools leave leading zeros away. `None` where it is longer.
fn padded(number: &[u8], bytes: usize) -> Option<Zeroizing<Vec<u8>>> {
    let number = significant(number);
    let zeros = bytes.checked_sub(number.len())?;
    let mut padded = Zeroizing::new(vec![0; bytes]);
    padded[zeros..].copy_from_slice(number);
    Some(padded)
}
