//! Secrets agree and differ where they should; keys and certificates that do not fit are told.

use std::fs;

use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::*;
use crate::control::tls::{Role, identity_uri};
use crate::fleet::test_support::ScratchDir;

/// Alice's and Bob's private keys, and the result, of RFC 7748, section 6.1.
const ALICE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const ALICE_PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
const BOB: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
const BOB_PUBLIC: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
/// HKDF-SHA256 of the result of that section, computed with another implementation (Python's hmac and hashlib), for the
/// fleet north, alice with a salt of ones and bob with one of twos.
const ALICE_AND_BOB: &str = "2c6ddf3c79f67e26ac723b62e09cb34979a95cfebeb29ec03536107b61ea4d2d";

fn bytes(hexadecimal: &str) -> [u8; 32] {
    let digit = |at: usize| u8::from_str_radix(&hexadecimal[2 * at..2 * at + 2], 16).expect("two digits");
    std::array::from_fn(digit)
}

fn secret_in(fleet: &str, private: [u8; 32]) -> MeshSecret {
    let secret = StaticSecret::from(private);
    MeshSecret { fleet: fleet.to_owned(), public: PublicKey::from(&secret).to_bytes(), secret }
}

fn private_pem(private: [u8; 32]) -> String {
    pem::encode(&pem::Pem::new("PRIVATE KEY", [&PRIVATE_PREFIX[..], &private].concat()))
}

/// A certificate of the agent alice in the fleet north, with these contents in extensions of our OID.
fn certificate(contents: &[Vec<u8>]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    let uri = identity_uri("north", Role::Agent, "alice");
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("ASCII"))];
    let extension = |content: &Vec<u8>| CustomExtension::from_oid_content(&OID, content.clone());
    params.custom_extensions = contents.iter().map(extension).collect();
    params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").der().clone()
}

#[test]
fn both_ends_derive_the_secret_that_another_implementation_does() {
    let (alice, bob) = (secret_in("north", bytes(ALICE)), secret_in("north", bytes(BOB)));
    assert_eq!((alice.public, bob.public), (bytes(ALICE_PUBLIC), bytes(BOB_PUBLIC)));
    let (a, b) = (("alice", &[1; 16]), ("bob", &[2; 16]));
    assert_eq!(alice.pair_secret(&bob.public, a, b), Some(bytes(ALICE_AND_BOB)));
    assert_eq!(bob.pair_secret(&alice.public, b, a), Some(bytes(ALICE_AND_BOB)));
}

#[test]
fn anything_else_on_either_side_gives_another_secret() {
    let (alice, bob) = (secret_in("north", bytes(ALICE)), secret_in("north", bytes(BOB)));
    let carol = NewMeshKey::draw().expect("random numbers").public;
    let (one, two, three) = ([1; 16], [2; 16], [3; 16]);
    let secrets = [
        alice.pair_secret(&bob.public, ("alice", &one), ("bob", &two)),
        alice.pair_secret(&bob.public, ("alice", &three), ("bob", &two)),
        alice.pair_secret(&bob.public, ("alice", &one), ("bob", &three)),
        alice.pair_secret(&bob.public, ("alice", &two), ("bob", &one)),
        alice.pair_secret(&bob.public, ("alic", &one), ("bob", &two)),
        alice.pair_secret(&bob.public, ("alice", &one), ("bobby", &two)),
        alice.pair_secret(&bob.public, ("bob", &one), ("alice", &two)),
        alice.pair_secret(&carol, ("alice", &one), ("bob", &two)),
        secret_in("south", bytes(ALICE)).pair_secret(&bob.public, ("alice", &one), ("bob", &two)),
    ];
    let distinct: std::collections::BTreeSet<_> = secrets.iter().map(|secret| secret.expect("a secret")).collect();
    assert_eq!(distinct.len(), secrets.len());
}

#[test]
fn keys_that_contribute_nothing_and_an_agent_itself_give_none() {
    let alice = secret_in("north", bytes(ALICE));
    let (a, b) = (("alice", &[1; 16]), ("bob", &[2; 16]));
    let mut one = [0; 32];
    one[0] = 1;
    // 0 and 1, of small order, and one of the points of order 8 (u-coordinates of Curve25519).
    let order_8 = bytes("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    for low in [[0; 32], one, order_8] {
        assert_eq!(alice.pair_secret(&low, a, b), None);
    }
    assert_eq!(alice.pair_secret(&bytes(BOB_PUBLIC), a, ("alice", &[2; 16])), None);
}

#[test]
fn salts_and_keys_are_drawn_anew() {
    assert_ne!(fresh_salt().expect("random"), fresh_salt().expect("random"));
    let (first, second) = (NewMeshKey::draw().expect("random"), NewMeshKey::draw().expect("random"));
    assert_ne!(first.public, second.public);
    assert_ne!(first.private_pem, second.private_pem);
}

#[test]
fn a_key_loads_beside_the_certificate_that_carries_its_public_half() {
    let scratch = ScratchDir::new();
    let path = scratch.path().join("alice.mesh.key");
    fs::write(&path, private_pem(bytes(ALICE))).expect("written");
    let own = certificate(&[extension_content(&bytes(ALICE_PUBLIC))]);
    assert_eq!(MeshSecret::public_key_of(&own), Some(bytes(ALICE_PUBLIC)));
    let loaded = MeshSecret::load(&path, &own).expect("they fit").expect("a key");
    assert_eq!((loaded.fleet.as_str(), loaded.public), ("north", bytes(ALICE_PUBLIC)));
    assert!(!format!("{loaded:?}").contains("secret:"), "keys are not for logs: {loaded:?}");
    // Certificates older than the mesh.
    let bare = certificate(&[]);
    assert_eq!(MeshSecret::public_key_of(&bare), None);
    assert!(MeshSecret::load(&path, &bare).expect("no fault").is_none());
}

#[test]
fn what_does_not_fit_is_told() {
    let scratch = ScratchDir::new();
    let path = scratch.path().join("alice.mesh.key");
    let own = certificate(&[extension_content(&bytes(ALICE_PUBLIC))]);
    let said = |text: &str, certificate: &CertificateDer<'_>| {
        fs::write(&path, text).expect("written");
        let error = MeshSecret::load(&path, certificate).expect_err("unfit").to_string();
        error.replace(&format!("{}/", scratch.path().display()), "")
    };
    assert_eq!(
        said(&private_pem(bytes(BOB)), &own),
        "alice.mesh.key: found another key, expected the private mesh key of this agent's certificate"
    );
    let expected = "expected a private X25519 key in PEM form (-----BEGIN PRIVATE KEY-----), as enrolment makes it";
    assert_eq!(said("nonsense", &own), format!("alice.mesh.key: found none in it, {expected}"));
    let tls = KeyPair::generate().expect("a key").serialize_pem();
    assert_eq!(said(&tls, &own), format!("alice.mesh.key: found a key of another kind, {expected}"));
    let short = pem::encode(&pem::Pem::new("PRIVATE KEY", PRIVATE_PREFIX.to_vec()));
    assert_eq!(said(&short, &own), format!("alice.mesh.key: found a key of another kind, {expected}"));

    let good = extension_content(&bytes(ALICE_PUBLIC));
    let with = |found| {
        format!(
            "alice.mesh.key: found a certificate with {found}, expected the private mesh key of this agent's certificate"
        )
    };
    for contents in [vec![], vec![0x05, 0x00], good[..43].to_vec(), [&good[..], &[0]].concat(), bytes(ALICE).to_vec()] {
        let malformed = certificate(&[contents]);
        assert_eq!(MeshSecret::public_key_of(&malformed), None);
        assert_eq!(
            said(&private_pem(bytes(ALICE)), &malformed),
            with("a mesh key that is no SubjectPublicKeyInfo of X25519")
        );
    }
    let twice = certificate(&[good.clone(), good]);
    assert_eq!(MeshSecret::public_key_of(&twice), None);
    assert_eq!(said(&private_pem(bytes(ALICE)), &twice), with("two mesh keys"));
    assert_eq!(MeshSecret::public_key_of(b"\x30\x03\x02\x01"), None);
}
