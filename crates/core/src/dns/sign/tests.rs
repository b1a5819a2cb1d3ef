//! Signatures are those of the RFCs' examples, cover what they should, and fail with any bit changed.
//!
//! ECDSA signs with randomness, so the RFCs' own signatures are verified over what would be signed here.

#![expect(
    clippy::disallowed_types,
    reason = "ring takes its own source of randomness only; no result here hangs on it"
)]

use std::str::FromStr;

use domain::rdata::dnssec::Timestamp;
use domain::utils::base64;
use ring::rand::SystemRandom;

use super::*;

/// A key of an RFC, or of the RSA key below: what its files say.
struct Sample {
    zone: &'static str,
    algorithm: u8,
    flags: u16,
    tag: u16,
    public: &'static str,
    private: &'static str,
}

/// RFC 8080 section 6.1.
const ED25519: [Sample; 2] = [
    Sample {
        zone: "example.com.",
        algorithm: 15,
        flags: 257,
        tag: 3613,
        public: "l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=",
        private: "ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI=",
    },
    Sample {
        zone: "example.com.",
        algorithm: 15,
        flags: 257,
        tag: 35217,
        public: "zPnZ/QwEe7S8C5SPz2OfS5RR40ATk2/rYnE9xHIEijs=",
        private: "DSSF3o0s0f+ElWzj9E/Osxw8hLpk55chkmx0LYN5WiY=",
    },
];

/// RFC 6605 sections 6.1 and 6.2.
const ECDSA: [Sample; 2] = [
    Sample {
        zone: "example.net.",
        algorithm: 13,
        flags: 257,
        tag: 55648,
        public: "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==",
        private: "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=",
    },
    Sample {
        zone: "example.net.",
        algorithm: 14,
        flags: 257,
        tag: 10771,
        public: "xKYaNhWdGOfJ+nPrL8/arkwf2EY3MDJ+SErKivBVSum1w/egsXvSADtNJhyem5RCOpgQ6K8X1DRSEkrbYQ+OB+v8/uX45NBw\
                 Y8rp65F6Glur8I/mlVNgF6W/qTI37m40",
        private: "WURgWHCcYIYUPWgeLmiPY2DJJk02vgrmTfitxgqcL4vwW7BOrbawVmVe0d9V94SR",
    },
];

/// An RSA key of 2,048 bits, made for this test: modulus, private exponent, primes, their exponents, coefficient. The
/// RFC's examples are of 512 and 1,024 bits.
const RSA: [&str; 7] = [
    "r+Xl1828iLYLqeFj9xxI6wsCPUBaFKY29VCuxi3BLgPpAU1OyDXEfbsTHLgJ4wZJeLbiQsZTQJ8F9QvN+c7437wGevL48ItC\
     7oVsZxUnhFYn7Vm+rNJQuxYNN8s/lagfXIU9G5la+PPW0QrIC523rW1YRvLjgk/ZMB0sSEth4HEYyU0jWtFZ2TnUZvtjyD06\
     ZjylNLu+l0wVfOdh8lGrc75p4QgdKL67neGW2NveTKgEKdWv9urFcC5lAwuNi05S36GyYwwaoJ5V1bNrlqX3C1SUeUm8jC6y\
     stDwINUJ/n6quflR5AmZaJhwsbOoJVwMUhHGvmyoxuNpU/cFqmIJKQ==",
    "U0ZhKWkSsBqXrQazIAN5FiXxGnSD8TC75iobhGGXCqT5RA+Ik8q4ytmtc7RBogSQ9iCHQBvKwFZJKLk8+96b/rhyzPSJHMCh\
     oHD0YF0oh0OOxZTua71qURhgi6Ci6sRcjJ3bz1wsMJ6offE/whgaJHYXDAfj5AbPiTLWiyd9IBdCLkNZVQF2reRqVRdCfTqQ\
     hshe99rHyAKhuiYlpFSv69JV7XUbiD7FM8+BTSZvEo4QZXKpq/dY9sUgwcXlurLYlpB40anWaF3RSJKolrzoRSXROJlseNEv\
     n7cs7ZAIfqn5KKefQhGPwMaT5vRnr1WQ5mYtygQV6NVR6SdEIAEyvQ==",
    "2NaBrtgsUIrfwN0y4CEMir44xvuVffq7QBnH2qUcIG2dxyyH+usGo3KI80oIkeLrV6hDOqtJhRIMOJhq9lK00rBqQ8yBURHw\
     vkcgEM4/GY0lPEfPff2fvMgHcjkLEeyzygRFsO503UXfTPUCLP0EROpuBdDyb2iVJCLrr/v3idc=",
    "z6qJlVzGWyKla+akWqigGYuTPuFjDEDUPtGYX2NeSKhtqvdGS5EbtjoCrinDNzd0fMELrdmaQ3X4Mmpsg+i8D7BGudfb4ncN\
     0Q/1RlNb6HD9tmHBn0Nv4DwRcUJNKFK5GT1W9KJObj6bwsjtQvzd76+YTMMNbbqn6w4ZsF1OpP8=",
    "TmbA3QcsfrK31HQmQQOyFThSLyAoHTTbH4Iy0MuCL/dyZOGlCQSRkeeHvO+3yYfSsA8Wv8/O9V5hLNVvV0DwQH2o7nqzBy0F\
     bscowOrRxdtS60jLrTJW31sz1gjqB8EeAJ0q1Z5igt8QrjKoZrvVH1XkEhZKkh2uTzKRJUBlcGE=",
    "hRdVCgblkW8I+bhdyUSdJwIPIpOsuSOrY39M2oWC3aokbxf/U1rymb1gDmLxnCfMXlASvh7iAS5QHW+bkIbOUHe3PFAdumx2\
     zHAf0CyIkNYppIPOZdYAk4Or4hyN+rPZsVVgr3R+M6WoihPgC7ioPH8basbvik3AZKMqz59dUd0=",
    "VPDKjBmmtn44L4vDxHkugyWtp1ZSXlf5uzpeU2YA8mvBTRQ3o5lkyw2xWqNFga2V5vHzJ/X/2JWGDE6/7r5JXZI2JogVfkKD\
     6PZFY8zSCRgC+TJB/RzeBCN1w5YNeNwNTWguTMFB1BK4gXCSOQP2GWqb83zuW2d36fwplpWc25w=",
];

fn decoded(text: &str) -> Vec<u8> {
    base64::decode(text).expect("base64")
}

fn name(text: &str) -> CanonicalName {
    text.parse().expect("a name")
}

fn random() -> SystemRandom {
    SystemRandom::new()
}

fn dnskey(flags: u16, algorithm: u8, public: &[u8]) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &[PROTOCOL, algorithm], public].concat()
}

impl Sample {
    fn key(&self) -> SigningKey {
        let dnskey = dnskey(self.flags, self.algorithm, &decoded(self.public));
        SigningKey::new(&dnskey, &PrivateKey::Secret(&decoded(self.private)), &random()).expect("a key")
    }
}

fn rsa_numbers() -> [Vec<u8>; 7] {
    RSA.map(decoded)
}

fn rsa_private(numbers: &[Vec<u8>; 7]) -> PrivateKey<'_> {
    let [modulus, private_exponent, prime_1, prime_2, exponent_1, exponent_2, coefficient] = numbers;
    PrivateKey::Rsa(RsaPrivateKey {
        modulus,
        public_exponent: &[1, 0, 1],
        private_exponent,
        prime_1,
        prime_2,
        exponent_1,
        exponent_2,
        coefficient,
    })
}

/// The RSA key's public half in DNS, RFC 3110 section 2.
fn rsa_public() -> Vec<u8> {
    [&[3, 1, 0, 1][..], &decoded(RSA[0])].concat()
}

fn rsa_key(algorithm: u8) -> Result<SigningKey, KeyError> {
    SigningKey::new(&dnskey(256, algorithm, &rsa_public()), &rsa_private(&rsa_numbers()), &random())
}

/// A key of each algorithm, with its zone.
fn all_keys() -> Vec<(SigningKey, CanonicalName)> {
    let mut keys: Vec<_> = [&ECDSA[0], &ECDSA[1], &ED25519[0]].map(|sample| (sample.key(), name(sample.zone))).into();
    keys.extend([8, 10].map(|algorithm| (rsa_key(algorithm).expect("a key"), name("example.org."))));
    keys
}

/// The window between two dates, YYYYMMDDHHMMSS or seconds since 1970.
fn window(inception: &str, expiration: &str) -> ValidityWindow {
    let seconds = |text| Timestamp::from_str(text).expect("a time").into_int();
    ValidityWindow { inception_s: seconds(inception), expiration_s: seconds(expiration) }
}

const MAIL_EXCHANGER: &[u8] = b"\x00\x0a\x04mail\x07example\x03com\x00";

#[test]
fn ed25519_signatures_are_those_of_rfc_8080() {
    let signatures = [
        "oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngwcrqNAg==",
        "zXQ0bkYgQTEFyfLyi9QoiY6D8ZdYo4wyUhVioYZXFdT410QPRITQSqJSnzQoSm5poJ7gD7AQR0O7KuI5k2pcBg==",
    ];
    for (sample, signature) in ED25519.iter().zip(signatures) {
        let zone = name(sample.zone);
        let set = UnsignedSet { owner: &zone, rtype: Rtype::MX, original_ttl_s: 3_600, data: &[MAIL_EXCHANGER] };
        let rrsig = sample.key().sign_set(&zone, &set, window("1438207200", "1440021600"), &random()).expect("signed");
        let tag = sample.tag.to_be_bytes();
        let head: [&[u8]; 8] = [
            &[0, 15],
            &[15],
            &[2],
            &3_600u32.to_be_bytes(),
            &1_440_021_600u32.to_be_bytes(),
            &1_438_207_200u32.to_be_bytes(),
            &tag,
            zone.as_bytes(),
        ];
        assert_eq!(rrsig, [&head.concat()[..], &decoded(signature)].concat());
    }
}

#[test]
fn ecdsa_signatures_of_rfc_6605_are_over_what_is_signed_here() {
    let signatures = [
        (
            window("20100812100439", "20100909100439"),
            "qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==",
        ),
        (
            window("20100812102025", "20100909102025"),
            "/L5hDKIvGDyI1fcARX3z65qrmPsVz73QD1Mr5CEqOiLP95hxQouuroGCeZOvzFaxsT8Glr74hbavRKayJNuydCuzWTSSPdz7wnqXL5bd\
             cJzusdnI0RSMROxxwGipWcJm",
        ),
    ];
    for (sample, (window, signature)) in ECDSA.iter().zip(signatures) {
        let (zone, owner, key) = (name(sample.zone), name("www.example.net."), sample.key());
        let set = UnsignedSet { owner: &owner, rtype: Rtype::A, original_ttl_s: 3_600, data: &[[192, 0, 2, 1]] };
        let head = key.head(&zone, &set, window).expect("a set");
        assert!(key.verifies(&zone, &set, &[head, decoded(signature)].concat()), "{}", key.algorithm());
    }
}

#[test]
fn key_tags_are_those_of_the_rfcs() {
    for sample in ED25519.iter().chain(&ECDSA) {
        assert_eq!(sample.key().tag(), sample.tag);
        assert!(sample.key().is_secure_entry_point());
    }
    let key = rsa_key(10).expect("a key");
    assert_eq!((key.tag(), key.flags(), key.is_secure_entry_point()), (50_727, 256, false));
    assert_eq!(key.dnskey(), dnskey(256, 10, &rsa_public()));
}

#[test]
fn each_algorithm_signs_and_any_changed_bit_shows() {
    for (key, zone) in all_keys() {
        let owner: CanonicalName = name(&format!("race.{zone}"));
        let data = [[192, 0, 2, 1], [198, 51, 100, 7]];
        let set = UnsignedSet { owner: &owner, rtype: Rtype::A, original_ttl_s: 10, data: &data };
        let window = ValidityPolicy::default().window(1_000_000_000);
        let rrsig = key.sign_set(&zone, &set, window, &random()).expect("signed");
        assert!(key.verifies(&zone, &set, &rrsig), "{}", key.algorithm());
        let signature_at = 18 + zone.as_bytes().len();
        for at in (signature_at..rrsig.len()).step_by(7) {
            let mut changed = rrsig.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(!key.verifies(&zone, &set, &changed), "{} with byte {at} changed", key.algorithm());
        }
        let other = [data[0], [198, 51, 100, 6]];
        assert!(!key.verifies(&zone, &UnsignedSet { data: &other, ..set }, &rrsig));
        assert!(!key.verifies(&zone, &UnsignedSet { data: &data[..1], ..set }, &rrsig));
        let longer_lived = UnsignedSet { original_ttl_s: 11, ..set };
        assert!(!key.verifies(&zone, &longer_lived, &[&[0, 1][..], &rrsig[2..]].concat()));
    }
}

#[test]
fn neither_order_nor_case_nor_repetition_changes_a_signature() {
    let (key, zone) = (ED25519[0].key(), name("example.com."));
    let window = window("1438207200", "1440021600");
    let signed = |data: &[&[u8]]| {
        let set = UnsignedSet { owner: &zone, rtype: Rtype::MX, original_ttl_s: 3_600, data };
        key.sign_set(&zone, &set, window, &random()).expect("signed")
    };
    let other: &[u8] = b"\x00\x05\x02mx\x07example\x03com\x00";
    let loud: &[u8] = b"\x00\x0a\x04MAIL\x07eXample\x03COM\x00";
    let both = signed(&[MAIL_EXCHANGER, other]);
    assert_eq!(signed(&[other, MAIL_EXCHANGER]), both);
    assert_eq!(signed(&[other, loud]), both);
    assert_eq!(signed(&[loud, other, MAIL_EXCHANGER, other]), both);
    assert_ne!(signed(&[MAIL_EXCHANGER]), both);
}

#[test]
fn a_wildcard_is_signed_under_its_own_name_with_one_label_less() {
    let (key, zone) = (ED25519[0].key(), name("example.com."));
    let window = window("1438207200", "1440021600");
    let signed = |owner: &str| {
        let owner = name(owner);
        let set = UnsignedSet { owner: &owner, rtype: Rtype::A, original_ttl_s: 10, data: &[[192, 0, 2, 1]] };
        let rrsig = key.sign_set(&zone, &set, window, &random()).expect("signed");
        assert!(key.verifies(&zone, &set, &rrsig));
        rrsig
    };
    let (wildcard, other) = (signed("*.cdn.example.com."), signed("a.cdn.example.com."));
    assert_eq!((wildcard[3], other[3]), (3, 4));
    assert_ne!(wildcard[wildcard.len() - 64..], other[other.len() - 64..]);
}

#[test]
fn times_wrap_in_2106() {
    let (key, zone) = (ED25519[0].key(), name("example.com."));
    let set = UnsignedSet { owner: &zone, rtype: Rtype::A, original_ttl_s: 10, data: &[[192, 0, 2, 1]] };
    let window = ValidityPolicy::default().window(serial_s((1 << 32) + 60));
    let rrsig = key.sign_set(&zone, &set, window, &random()).expect("signed");
    assert_eq!(rrsig[8..12], (14 * 86_400 + 60u32).to_be_bytes());
    assert_eq!(rrsig[12..16], (60u32.wrapping_sub(3_600)).to_be_bytes());
    assert!(key.verifies(&zone, &set, &rrsig));
}

#[test]
fn sets_that_cannot_be_signed_are_refused() {
    let (key, zone) = (ED25519[0].key(), name("example.com."));
    let good = window("1438207200", "1440021600");
    let refused = |owner: &str, rtype, data: &[&[u8]], window| {
        let owner = name(owner);
        let set = UnsignedSet { owner: &owner, rtype, original_ttl_s: 10, data };
        key.sign_set(&zone, &set, window, &random()).expect_err("no signature")
    };
    let address: &[u8] = &[192, 0, 2, 1];
    for owner in ["example.org.", "com.", "anexample.com."] {
        let expected = SignError::NotInZone { owner: name(owner), signer: zone.clone() };
        assert_eq!(refused(owner, Rtype::A, &[address], good), expected);
    }
    assert_eq!(refused("example.com.", Rtype::A, &[], good), SignError::Empty);
    assert_eq!(refused("example.com.", Rtype::RRSIG, &[address], good), SignError::Rrsig);
    let malformed = SignError::Malformed { rtype: Rtype::NS };
    assert_eq!(refused("example.com.", Rtype::NS, &[b"\x02ns\xc0\x0c"], good), malformed);
    // 23 bytes of owner, type, class, TTL and length are before each record's data.
    let (fits, too_long) = (vec![1; SET_BYTES_MAX - 23], vec![1; SET_BYTES_MAX - 22]);
    assert_eq!(refused("example.com.", Rtype::TXT, &[&too_long], good), SignError::TooLong);
    let set = UnsignedSet { owner: &zone, rtype: Rtype::TXT, original_ttl_s: 10, data: &[fits] };
    assert!(key.sign_set(&zone, &set, good, &random()).is_ok());
    let backwards = ValidityWindow { inception_s: good.expiration_s, expiration_s: good.inception_s };
    assert_eq!(refused("example.com.", Rtype::A, &[address], backwards), SignError::Window { window: backwards });
}

fn key_error(dnskey: &[u8], private: &[u8]) -> KeyError {
    SigningKey::new(dnskey, &PrivateKey::Secret(private), &random()).expect_err("no key")
}

#[test]
fn dnskey_data_of_no_signing_key_is_refused() {
    let (public, private) = (decoded(ED25519[0].public), decoded(ED25519[0].private));
    let good = dnskey(257, 15, &public);
    assert_eq!(key_error(&[], &private), KeyError::Short { bytes: 0 });
    assert_eq!(key_error(&good[..4], &private), KeyError::Short { bytes: 4 });
    assert_eq!(key_error(&[1, 1, 2, 15, 9], &private), KeyError::Protocol { protocol: 2 });
    assert_eq!(key_error(&dnskey(1, 15, &public), &private), KeyError::NotZoneKey { flags: 1 });
    assert_eq!(key_error(&dnskey(385, 15, &public), &private), KeyError::Revoked { flags: 385 });
    for number in [0, 1, 5, 7, 12, 16, 253] {
        assert_eq!(key_error(&dnskey(256, number, &public), &private), KeyError::Algorithm { number });
    }
    for (algorithm, bytes) in [
        (Algorithm::Ed25519, 31),
        (Algorithm::Ed25519, 33),
        (Algorithm::EcdsaP256Sha256, 63),
        (Algorithm::EcdsaP384Sha384, 64),
        // An exponent of seven bytes, and no modulus.
        (Algorithm::RsaSha256, 8),
    ] {
        let dnskey = dnskey(256, algorithm.number(), &vec![7; bytes]);
        assert_eq!(key_error(&dnskey, &private), KeyError::PublicKey { algorithm, bytes });
    }
}

#[test]
fn rsa_keys_that_ring_would_not_take_are_refused_in_other_words() {
    // RFC 5702 section 6.1, 512 bits.
    let short = "AwEAAcFcGsaxxdgiuuGmCkVImy4h99CqT7jwY3pexPGcnUFtR2Fh36BponcwtkZ4cAgtvd4Qs8PkxUdp6p/DlUmObdk=";
    assert_eq!(key_error(&dnskey(256, 8, &decoded(short)), &[]), KeyError::RsaBits { bits: 512 });
    let modulus = decoded(RSA[0]);
    let with = |exponent: &[u8]| dnskey(256, 8, &[&[exponent.len() as u8][..], exponent, &modulus].concat());
    for exponent in [&[3][..], &[1, 0, 0], &[2, 0, 0, 0, 0], &[1; 9]] {
        assert_eq!(key_error(&with(exponent), &[]), KeyError::RsaExponent, "{exponent:?}");
    }
    let mut zero_first = with(&[0, 1, 1]);
    assert!(matches!(key_error(&zero_first, &[]), KeyError::PublicKey { .. }), "RFC 3110 prohibits leading zeros");
    zero_first.truncate(6);
    assert!(matches!(key_error(&zero_first, &[]), KeyError::PublicKey { .. }));
    // RFC 3110 section 2: lengths from 256 take two bytes after a zero; they are not forbidden to shorter ones.
    let long_form = dnskey(256, 8, &[&[0, 0, 3, 1, 0, 1][..], &modulus].concat());
    assert!(SigningKey::new(&long_form, &rsa_private(&rsa_numbers()), &random()).is_ok());
}

#[test]
fn halves_of_different_keys_are_refused() {
    let of = |sample: &Sample| dnskey(sample.flags, sample.algorithm, &decoded(sample.public));
    assert_eq!(key_error(&of(&ED25519[0]), &decoded(ED25519[1].private)), KeyError::Mismatch);
    let mut scalar = decoded(ECDSA[0].private);
    scalar[31] ^= 1;
    assert_eq!(key_error(&of(&ECDSA[0]), &scalar), KeyError::Mismatch);
    let algorithm = Algorithm::EcdsaP256Sha256;
    assert_eq!(key_error(&of(&ECDSA[0]), &decoded(ECDSA[1].private)), KeyError::PrivateKey { algorithm });
    let algorithm = Algorithm::Ed25519;
    assert_eq!(key_error(&of(&ED25519[0]), &[7; 31]), KeyError::PrivateKey { algorithm });
    let algorithm = Algorithm::RsaSha256;
    assert_eq!(key_error(&dnskey(256, 8, &rsa_public()), &[7; 32]), KeyError::PrivateKey { algorithm });
    let mut other_modulus = rsa_public();
    other_modulus[100] ^= 1;
    let made = SigningKey::new(&dnskey(256, 8, &other_modulus), &rsa_private(&rsa_numbers()), &random());
    assert_eq!(made.expect_err("no key"), KeyError::Mismatch);
}

#[test]
fn a_damaged_number_of_an_rsa_key_is_noticed() {
    let dnskey = dnskey(256, 8, &rsa_public());
    // Of the private exponent, number 1, ring checks the length only, and never uses it.
    for damaged in [0, 2, 3, 4, 5, 6] {
        let mut numbers = rsa_numbers();
        let last = numbers[damaged].len() - 1;
        numbers[damaged][last] ^= 4;
        let made = SigningKey::new(&dnskey, &rsa_private(&numbers), &random());
        assert_eq!(made.expect_err("no key"), KeyError::Mismatch, "number {damaged}");
    }
}

#[test]
fn leading_zeros_of_private_numbers_do_not_matter() {
    let dnskey = dnskey(256, 8, &rsa_public());
    let numbers = rsa_numbers().map(|number| [vec![0], number].concat());
    assert!(SigningKey::new(&dnskey, &rsa_private(&numbers), &random()).is_ok());
    let (longer, sample) = ([vec![0; 3], decoded(ECDSA[0].private)].concat(), &ECDSA[0]);
    let dnskey = self::dnskey(sample.flags, sample.algorithm, &decoded(sample.public));
    assert!(SigningKey::new(&dnskey, &PrivateKey::Secret(&longer), &random()).is_ok());
    // The generator itself: its scalar is 1, which some tools write as one byte.
    let generator = decoded("axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==");
    let dnskey = self::dnskey(256, 13, &generator);
    assert!(SigningKey::new(&dnskey, &PrivateKey::Secret(&[1]), &random()).is_ok());
}

#[test]
fn nothing_of_a_private_key_is_shown() {
    let key = ED25519[0].key();
    assert_eq!(format!("{key:?}"), "SigningKey { algorithm: Ed25519, flags: 257, tag: 3613, .. }");
    assert_eq!(Algorithm::ALL.map(|algorithm| algorithm.to_string()).join(", "), ALL_ALGORITHMS);
    assert!(Algorithm::ALL.iter().all(|algorithm| Algorithm::of_number(algorithm.number()) == Some(*algorithm)));
}

const ALL_ALGORITHMS: &str = "8 (RSASHA256), 10 (RSASHA512), 13 (ECDSAP256SHA256), 14 (ECDSAP384SHA384), 15 (ED25519)";
