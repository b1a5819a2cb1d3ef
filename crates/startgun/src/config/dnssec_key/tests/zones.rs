//! Whole zones that are signed here pass the verifiers of BIND and of ldns, with keys of both programs and of every
//! algorithm; with one bit changed they do not.
//!
//! The zones hold what signers stumble over: names in mixed case within the data of every type that has them, a
//! wildcard below an empty name, records in no order, and an NSEC chain (RFC 4034 section 4), whose names count as
//! they are. Records are written in the form of RFC 3597, so that no byte of the data passes through a printer of
//! ours.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::process::Command;

use domain::base::Rtype;
use domain::rdata::dnssec::RtypeBitmap;
use startgun_core::dns::sign::{UnsignedSet, ValidityPolicy, ValidityWindow, serial_s};

use super::*;

const ZONE: &str = "example.org";
const TTL_S: u32 = 3_600;
/// The SOA record's last field, which NSEC records live by (RFC 9077).
const NEGATIVE_TTL_S: u32 = 60;

const TOOLS: [&str; 4] = ["dnssec-keygen", "dnssec-verify", "ldns-keygen", "ldns-verify-zone"];

/// Whether all tools are here; says which are not.
fn has_tools() -> bool {
    let is_missing =
        |tool: &&str| Command::new(tool).arg("-h").output().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let missing: Vec<&str> = TOOLS.into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        println!("skipped: {} not installed", missing.join(" and "));
    }
    missing.is_empty()
}

/// Runs a tool in `scratch`; what it printed, if it ended well, or what it complained of.
fn run(scratch: &ScratchDir, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).current_dir(scratch.path()).output().expect("a tool that is here");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(format!("{program}: {}{}", text(output.stderr), text(output.stdout))),
    }
}

/// Makes a key pair with a tool, and reads it.
fn generated(scratch: &ScratchDir, program: &str, algorithm: Algorithm, is_key_signing: bool) -> SigningKey {
    let mnemonic = named_algorithm(algorithm.number());
    let mnemonic = mnemonic.split(['(', ')']).nth(1).expect("a mnemonic");
    let mut arguments = vec!["-a", mnemonic];
    arguments.extend(if algorithm.is_rsa() { &["-b", "2048"][..] } else { &[] });
    arguments.extend(match (program, is_key_signing) {
        ("dnssec-keygen", true) => &["-q", "-f", "KSK"][..],
        ("dnssec-keygen", false) => &["-q"],
        (_, true) => &["-r", "/dev/urandom", "-k"],
        (_, false) => &["-r", "/dev/urandom"],
    });
    arguments.push(ZONE);
    let stem = run(scratch, program, &arguments).expect("a key");
    let path = scratch.path().join(stem.trim());
    let read = read_zone_key(&path, &name(ZONE), OffsetDateTime::now_utc(), &SystemRandom::new());
    let Loaded { config, warnings } = read.expect("a key that can sign");
    assert_eq!(warnings, []);
    assert_eq!((config.key.algorithm(), config.key.is_secure_entry_point()), (algorithm, is_key_signing));
    config.key
}

/// A name on the wire in the case that it is written in.
fn wire(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

/// The labels of a name from the root down, by which names are ordered (RFC 4034 section 6.1).
fn from_root(name: &CanonicalName) -> Vec<Vec<u8>> {
    let mut rest = name.as_bytes();
    let mut labels = Vec::new();
    while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
        labels.insert(0, after[..usize::from(length)].to_vec());
        rest = &after[usize::from(length)..];
    }
    labels
}

/// The sets of a zone: labels from the root down, type, data.
type Sets = BTreeMap<Vec<Vec<u8>>, (CanonicalName, BTreeMap<Rtype, Vec<Vec<u8>>>)>;

fn add(sets: &mut Sets, owner: &str, rtype: Rtype, data: &[&[u8]]) {
    let owner = name(owner);
    let (_, of_owner) = sets.entry(from_root(&owner)).or_insert_with(|| (owner, BTreeMap::new()));
    of_owner.entry(rtype).or_default().extend(data.iter().map(|data| data.to_vec()));
}

/// The unsigned zone, but for its DNSKEY and NSEC records.
fn unsigned() -> Sets {
    let mut sets = Sets::new();
    let after = |head: &[u8], name: &str| [head, &wire(name)].concat();
    let pair = |first: &str, second: &str| [wire(first), wire(second)].concat();
    let mut soa = pair("NS.Example.org", "HostMaster.example.ORG");
    for field in [2_026_112_601, 7_200, 900, 1_209_600, NEGATIVE_TTL_S] {
        soa.extend(field.to_be_bytes());
    }
    add(&mut sets, ZONE, Rtype::SOA, &[&soa]);
    add(&mut sets, ZONE, Rtype::NS, &[&wire("NS2.example.net"), &wire("Ns.Example.Org")]);
    add(&mut sets, ZONE, Rtype::MX, &[&after(&[0, 20], "B.example.org"), &after(&[0, 10], "MAIL.Example.org")]);
    add(&mut sets, ZONE, Rtype::CAA, &[b"\x00\x05issueCA.Example.net"]);
    add(&mut sets, "ns.example.org", Rtype::A, &[&[192, 0, 2, 53]]);
    let addresses: [&[u8]; 3] = [&[203, 0, 113, 9], &[192, 0, 2, 200], &[192, 0, 2, 30]];
    add(&mut sets, "race.example.org", Rtype::A, &addresses);
    add(&mut sets, "race.example.org", Rtype::AAAA, &[&[0xFE; 16], &[0x20; 16]]);
    add(&mut sets, "race.example.org", Rtype::TXT, &[b"\x05Tokyo\x00", b"\x01x", b"\x01\xff"]);
    add(&mut sets, "www.example.org", Rtype::CNAME, &[&wire("RACE.example.org")]);
    add(&mut sets, "*.cdn.example.org", Rtype::A, &[&[198, 51, 100, 2]]);
    add(&mut sets, "*.cdn.example.org", Rtype::TXT, &[b"\x08wildcard"]);
    add(&mut sets, "types.example.org", Rtype::SRV, &[&after(&[0, 1, 0, 2, 0, 53], "NS.example.org")]);
    add(&mut sets, "types.example.org", Rtype::NAPTR, &[&after(b"\x00\x01\x00\x02\x01U\x03SIP\x00", "NS.example.org")]);
    add(&mut sets, "types.example.org", Rtype::RP, &[&pair("Me.example.org", "TXT.example.org")]);
    add(&mut sets, "types.example.org", Rtype::MINFO, &[&pair("R.example.org", "E.example.org")]);
    for rtype in [Rtype::AFSDB, Rtype::RT, Rtype::KX] {
        add(&mut sets, "types.example.org", rtype, &[&after(&[0, 1], "NS.Example.org")]);
    }
    add(&mut sets, "types.example.org", Rtype::PX, &[&[&[0, 5][..], &pair("A.example.org", "B.example.org")].concat()]);
    add(&mut sets, "types.example.org", Rtype::PTR, &[&wire("WWW.example.org")]);
    add(&mut sets, "types.example.org", Rtype::HTTPS, &[&after(&[0, 1], "RACE.example.org")]);
    add(&mut sets, "types.example.org", Rtype::HINFO, &[b"\x03CPU\x02OS"]);
    add(&mut sets, "gone.example.org", Rtype::DNAME, &[&wire("CDN.example.org")]);
    add(&mut sets, "experiment.example.org", Rtype::from_int(65_280), &[&wire("NS.example.org")]);
    sets
}

/// Adds the NSEC records, RFC 4034 section 4: the next owner, here in capitals, and the types.
fn chain(sets: &mut Sets) {
    let owners: Vec<String> = sets.values().map(|(owner, _)| owner.to_string()).collect();
    for ((_, of_owner), next) in sets.values_mut().zip(owners.iter().cycle().skip(1)) {
        let mut types = RtypeBitmap::<Vec<u8>>::builder();
        for rtype in of_owner.keys().chain(&[Rtype::NSEC, Rtype::RRSIG]) {
            types.add(*rtype).expect("room");
        }
        let next = wire(&next.to_ascii_uppercase());
        of_owner.insert(Rtype::NSEC, vec![[&next, types.finalize().as_slice()].concat()]);
    }
}

/// What a test may spoil in a signed zone.
#[derive(Clone, Copy, Debug)]
enum Spoiled {
    Nothing,
    /// A bit of the signature of the set of this owner and type.
    Signature(&'static str, Rtype),
    /// A bit of this set's data.
    Data(&'static str, Rtype),
}

/// The text of the zone, all sets signed: that of DNSKEY with both keys, the others with the second.
fn signed(keys: [&SigningKey; 2], window: ValidityWindow, spoiled: Spoiled) -> String {
    let mut sets = unsigned();
    add(&mut sets, ZONE, Rtype::DNSKEY, &keys.map(SigningKey::dnskey));
    chain(&mut sets);
    let mut text = String::new();
    let (zone, random) = (name(ZONE), SystemRandom::new());
    for (owner, of_owner) in sets.values() {
        let mut write = |ttl_s: u32, rtype: Rtype, data: &[u8], is_spoiled: bool| {
            let mut data = data.to_vec();
            if let Some(last) = data.last_mut().filter(|_| is_spoiled) {
                *last ^= 4;
            }
            let hexadecimal: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            let owner = owner.to_string().to_ascii_uppercase();
            writeln!(text, "{owner} {ttl_s} IN {rtype} \\# {} {hexadecimal}", data.len()).expect("memory");
        };
        for (rtype, data) in of_owner {
            let ttl_s = if *rtype == Rtype::NSEC { NEGATIVE_TTL_S } else { TTL_S };
            let is = |spoiled_owner: &str, spoiled_type| name(spoiled_owner) == *owner && spoiled_type == *rtype;
            let is_data_spoiled = matches!(spoiled, Spoiled::Data(at, of) if is(at, of));
            let is_signature_spoiled = matches!(spoiled, Spoiled::Signature(at, of) if is(at, of));
            for data in data {
                write(ttl_s, *rtype, data, is_data_spoiled);
            }
            let set = UnsignedSet { owner, rtype: *rtype, original_ttl_s: ttl_s, data };
            for key in if *rtype == Rtype::DNSKEY { &keys[..] } else { &keys[1..] } {
                let rrsig = key.sign_set(&zone, &set, window, &random).expect("signed");
                write(ttl_s, Rtype::RRSIG, &rrsig, is_signature_spoiled);
            }
        }
    }
    text
}

/// What BIND and ldns say to a zone.
fn verdicts(scratch: &ScratchDir, zone: &str) -> [Result<String, String>; 2] {
    fs::write(scratch.path().join("zone"), zone).expect("written");
    [run(scratch, "dnssec-verify", &["-q", "-o", ZONE, "zone"]), run(scratch, "ldns-verify-zone", &["zone"])]
}

/// Signs zones with keys of an algorithm from both generators, and has both verifiers look at them.
fn check(algorithm: Algorithm) {
    if !has_tools() {
        return;
    }
    let now_s = serial_s(OffsetDateTime::now_utc().unix_timestamp() as u64);
    let window = ValidityPolicy::default().window(now_s);
    for program in ["dnssec-keygen", "ldns-keygen"] {
        let scratch = ScratchDir::new();
        let keys = [true, false].map(|is_key_signing| generated(&scratch, program, algorithm, is_key_signing));
        let keys = keys.each_ref();
        for verdict in verdicts(&scratch, &signed(keys, window, Spoiled::Nothing)) {
            verdict.unwrap_or_else(|complaint| panic!("{algorithm}, key of {program}: {complaint}"));
        }
        for spoiled in [
            Spoiled::Signature("race.example.org", Rtype::A),
            Spoiled::Data("race.example.org", Rtype::A),
            Spoiled::Signature("*.cdn.example.org", Rtype::TXT),
            Spoiled::Data(ZONE, Rtype::MX),
            Spoiled::Signature("types.example.org", Rtype::NSEC),
        ] {
            for verdict in verdicts(&scratch, &signed(keys, window, spoiled)) {
                assert!(verdict.is_err(), "{algorithm}, key of {program}, accepted with {spoiled:?}");
            }
        }
        let past = ValidityWindow { inception_s: now_s - 7_200, expiration_s: now_s - 3_600 };
        for verdict in verdicts(&scratch, &signed(keys, past, Spoiled::Nothing)) {
            assert!(verdict.is_err(), "{algorithm}, key of {program}: accepted after its expiration");
        }
    }
}

#[test]
fn zones_signed_with_rsa_and_sha_256_are_accepted_by_bind_and_ldns() {
    check(Algorithm::RsaSha256);
}

#[test]
fn zones_signed_with_rsa_and_sha_512_are_accepted_by_bind_and_ldns() {
    check(Algorithm::RsaSha512);
}

#[test]
fn zones_signed_with_ecdsa_on_p_256_are_accepted_by_bind_and_ldns() {
    check(Algorithm::EcdsaP256Sha256);
}

#[test]
fn zones_signed_with_ecdsa_on_p_384_are_accepted_by_bind_and_ldns() {
    check(Algorithm::EcdsaP384Sha384);
}

#[test]
fn zones_signed_with_ed25519_are_accepted_by_bind_and_ldns() {
    check(Algorithm::Ed25519);
}
