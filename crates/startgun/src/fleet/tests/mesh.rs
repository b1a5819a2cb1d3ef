//! Keys for the mesh: made with an agent's other keys, certified, renewed, requested.

use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::*;
use crate::control::mesh_keys::{self, MeshSecret, MeshStanding};
use crate::control::tls::TlsFiles;

fn public_key(file: &Path) -> Option<[u8; 32]> {
    MeshSecret::public_key_of(&certificate(file))
}

/// The standing of the agent `name`, whose certificate is in `certificates` and whose keys are in `keys`.
fn standing(certificates: &Path, keys: &Path, name: &str) -> Result<MeshStanding, String> {
    let files = TlsFiles {
        ca: certificates.join("ca.crt"),
        certificate: certificates.join(format!("{name}.crt")),
        key: keys.join(format!("{name}.key")),
        revoked: None,
        mesh_key: Some(keys.join(format!("{name}.mesh.key"))),
    };
    MeshStanding::of_files(&files).map_err(|error| error.to_string())
}

#[test]
fn agents_get_a_key_for_the_mesh_and_masters_none() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let said = ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    let out = scratch.path().join("tokyo");
    assert!(said.contains("tokyo/tokyo.mesh.key\n"), "{said}");
    assert_eq!(mode(&out.join("tokyo.mesh.key")), 0o600);
    let pem = fs::read_to_string(out.join("tokyo.mesh.key")).expect("read");
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n") && !pem.contains('\r'), "{pem:?}");
    assert!(matches!(standing(&out, &out, "tokyo"), Ok(MeshStanding::Ready(_))));

    let der = certificate(&out.join("tokyo.crt"));
    let (_, leaf) = X509Certificate::from_der(&der).expect("X.509");
    let oid = "1.2.840.113556.1.8000.2554.45993.18618.49067.19075.39159.4553111.11074993";
    let extension = leaf.extensions().iter().find(|extension| extension.oid.to_id_string() == oid).expect("there");
    assert!(!extension.critical, "peers that do not know it must take the certificate");
    let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(extension.value).expect("DER");
    assert_eq!(key.algorithm.algorithm.to_id_string(), "1.3.101.110");
    assert_eq!(public_key(&out.join("tokyo.crt")).expect("a key"), *key.subject_public_key.data);

    ok(&scratch, "enroll m1 --role master --dir fleet --out m1");
    assert!(!scratch.path().join("m1/m1.mesh.key").exists());
    assert_eq!(public_key(&scratch.path().join("m1/m1.crt")), None);
}

#[test]
fn renew_makes_a_new_key_for_the_mesh() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    let out = scratch.path().join("tokyo");
    let (old, old_key) = (public_key(&out.join("tokyo.crt")), fs::read(out.join("tokyo.mesh.key")).expect("read"));
    ok(&scratch, "renew tokyo --dir fleet --out tokyo");
    assert_ne!(public_key(&out.join("tokyo.crt")), old);
    assert_ne!(fs::read(out.join("tokyo.mesh.key")).expect("read"), old_key);
    assert!(matches!(standing(&out, &out, "tokyo"), Ok(MeshStanding::Ready(_))));
    fs::write(out.join("tokyo.mesh.key"), old_key).expect("written");
    let error = standing(&out, &out, "tokyo").expect_err("the old key");
    assert!(error.contains("found another key"), "{error}");
}

#[test]
fn enroll_overwrites_no_key_for_the_mesh() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    fs::create_dir(scratch.path().join("tokyo")).expect("made");
    fs::write(scratch.path().join("tokyo/tokyo.mesh.key"), "mine").expect("written");
    let before = snapshot(scratch.path());
    let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    assert!(error.starts_with("tokyo/tokyo.mesh.key: found a file, expected none"), "{error}");
    let error = refused(&scratch, "request tokyo --role agent --out tokyo");
    assert!(error.starts_with("tokyo/tokyo.mesh.key: found a file, expected none"), "{error}");
    assert_eq!(snapshot(scratch.path()), before);
}

#[test]
fn a_request_carries_the_key_for_the_mesh() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let said = ok(&scratch, "request tokyo --role agent --out host");
    assert!(said.contains("host/tokyo.mesh.key (they stay on this host)"), "{said}");
    let (host, signed) = (scratch.path().join("host"), scratch.path().join("signed"));
    assert_eq!(mode(&host.join("tokyo.mesh.key")), 0o600);
    let options =
        "--role agent --dir fleet --csr host/tokyo.csr --master m1=198.51.100.1:8530 --service 203.0.113.53:53";
    let said = ok(&scratch, &format!("enroll tokyo {options} --out signed"));
    assert!(!said.contains("takes no part in the mesh"), "{said}");
    assert!(!signed.join("tokyo.mesh.key").exists());
    assert!(matches!(standing(&signed, &host, "tokyo"), Ok(MeshStanding::Ready(_))));
    let toml = fs::read_to_string(signed.join("agent.toml")).expect("read");
    assert!(toml.contains("mesh_key = \"tokyo.mesh.key\"\n"), "{toml}");
    // Signed where the host's own files are, and again: the same key.
    let first = public_key(&signed.join("tokyo.crt"));
    ok(&scratch, "renew tokyo --dir fleet --out host --csr host/tokyo.csr");
    assert_eq!(public_key(&host.join("tokyo.crt")), first);
    assert!(matches!(standing(&host, &host, "tokyo"), Ok(MeshStanding::Ready(_))));

    ok(&scratch, "request m1 --role master --out m1");
    assert!(!scratch.path().join("m1/m1.mesh.key").exists());
    ok(&scratch, "enroll m1 --role master --dir fleet --out m1 --csr m1/m1.csr");
    assert_eq!(public_key(&scratch.path().join("m1/m1.crt")), None);
}

/// A request as another program makes it, with these contents in extensions of our OID.
fn foreign_request(scratch: &ScratchDir, contents: &[Vec<u8>]) {
    let mut params = CertificateParams::default();
    let extension = |content: &Vec<u8>| CustomExtension::from_oid_content(&mesh_keys::OID, content.clone());
    params.custom_extensions = contents.iter().map(extension).collect();
    let request = params.serialize_request(&KeyPair::generate().expect("a key")).expect("signed");
    fs::write(scratch.path().join("foreign.csr"), request.pem().expect("PEM")).expect("written");
}

#[test]
fn a_request_without_a_key_for_the_mesh_is_signed_with_a_word() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    foreign_request(&scratch, &[]);
    let options =
        "--role agent --dir fleet --csr ./foreign.csr --master m1=198.51.100.1:8530 --service 203.0.113.53:53";
    let said = ok(&scratch, &format!("enroll tokyo {options} --out tokyo"));
    assert!(said.ends_with(
        "  it takes no part in the mesh: found no mesh key in the request, expected one of `startgun fleet request`\n"
    ));
    assert_eq!(public_key(&scratch.path().join("tokyo/tokyo.crt")), None);
    let toml = fs::read_to_string(scratch.path().join("tokyo/agent.toml")).expect("read");
    assert!(!toml.contains("mesh_key"), "it would name a file that is not there: {toml}");
    // With the keys made here the agent gets one: so do those that are older than the mesh.
    ok(&scratch, "renew tokyo --dir fleet --out tokyo");
    let out = scratch.path().join("tokyo");
    assert!(matches!(standing(&out, &out, "tokyo"), Ok(MeshStanding::Ready(_))));
}

#[test]
fn a_request_with_a_malformed_key_for_the_mesh_is_refused() {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet");
    let good = mesh_keys::extension_content(&[9; 32]);
    let cases = [
        (vec![vec![0x04, 0x00]], "found one with a mesh key that is no SubjectPublicKeyInfo of X25519, expected"),
        (vec![good.clone(), good], "found one with two mesh keys, expected"),
    ];
    for (contents, expected) in cases {
        foreign_request(&scratch, &contents);
        let error = refused(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo --csr ./foreign.csr");
        assert!(error.contains(expected), "{error}");
    }
    assert!(!scratch.path().join("tokyo").exists());
}
