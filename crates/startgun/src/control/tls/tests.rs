//! Real handshakes, in memory, with certificates that the real `fleet` commands issued.

use std::fs;
use std::path::Path;

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::fleet::test_support::{Leaf, ScratchDir, fleet};

/// What came of a handshake: the peer that each side saw and the secret, or the refusal.
#[derive(Debug)]
struct Outcome {
    server: Result<(Identity, [u8; 32]), Refusal>,
    client: Result<(Identity, [u8; 32]), Refusal>,
}

/// A full handshake over a pipe in memory, then a byte from each side to the other.
async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (server_end, client_end) = tokio::io::duplex(64 << 10);
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(server_end).await?;
        stream.write_all(b"s").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 1]).await?;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        assert_eq!(connection.alpn_protocol(), Some(ALPN));
        Ok((identity_of(chain), secret_of(connection)))
    };
    let dial = async {
        let connector = TlsConnector::from(client);
        let name = unchecked_server_name();
        let mut stream = connector.connect(name, client_end).await?;
        stream.write_all(b"c").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 1]).await?;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        Ok((identity_of(chain), secret_of(connection)))
    };
    let (server, client): (io::Result<_>, io::Result<_>) = tokio::join!(serve, dial);
    let refusal = |error: io::Error| Refusal::of(&error).unwrap_or_else(|| Refusal::Other(error.to_string()));
    Outcome { server: server.map_err(refusal), client: client.map_err(refusal) }
}

fn identity_of(chain: &[CertificateDer<'_>]) -> Identity {
    peer_identity(chain).expect("a verified peer has an identity")
}

fn secret_of<Data>(connection: &ConnectionCommon<Data>) -> [u8; 32] {
    fast_path_secret(connection, b"context").expect("the handshake is complete")
}

fn files(dir: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.crt"),
        certificate: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
        revoked: Some(dir.join("revoked.crl")),
        mesh_key: None,
    }
}

/// A fleet with the master m1 and the agents tokyo and paris, each in the directory of its name.
fn world() -> ScratchDir {
    let scratch = ScratchDir::new();
    ok(&scratch, "init --dir fleet --name north");
    ok(&scratch, "enroll m1 --role master --dir fleet --out m1");
    ok(&scratch, "enroll tokyo --role agent --dir fleet --out tokyo");
    ok(&scratch, "enroll paris --role agent --dir fleet --out paris");
    scratch
}

fn ok(scratch: &ScratchDir, line: &str) {
    fleet(scratch, line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn of(scratch: &ScratchDir, name: &str) -> TlsFiles {
    files(&scratch.path().join(name), name)
}

fn server(files: &TlsFiles) -> Arc<ServerConfig> {
    server_config(files).unwrap_or_else(|error| panic!("{error}"))
}

fn client(files: &TlsFiles, pinned: &str) -> Arc<ClientConfig> {
    client_config(files, pinned).unwrap_or_else(|error| panic!("{error}"))
}

/// Signs a certificate with the fleet's CA that the `fleet` command would not issue.
fn forge(scratch: &ScratchDir, name: &str, leaf: Leaf<'_>) -> TlsFiles {
    let fleet_dir = scratch.path().join("fleet");
    let read = |name: &str| fs::read_to_string(fleet_dir.join(name)).expect("read");
    let ca_key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), ca_key).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let dir = scratch.path().join(name);
    fs::create_dir(&dir).expect("made");
    for shared in ["ca.crt", "revoked.crl"] {
        fs::copy(fleet_dir.join(shared), dir.join(shared)).expect("copied");
    }
    let files = files(&dir, name);
    let pem = leaf.sign(&key, &issuer).expect("signed");
    fs::write(&files.certificate, pem).expect("written");
    fs::write(&files.key, key.serialize_pem()).expect("written");
    files
}

fn forged_leaf<'a>(fleet: &'a str, role: Role, name: &'a str) -> Leaf<'a> {
    let now = OffsetDateTime::now_utc();
    Leaf {
        fleet,
        role,
        name,
        serial: &[0x42; 16],
        not_before: now - Duration::hours(1),
        not_after: now + Duration::hours(1),
        mesh_key: None,
    }
}

#[tokio::test]
async fn a_master_and_an_agent_of_one_fleet_meet() {
    let scratch = world();
    let outcome = shake(server(&of(&scratch, "m1")), client(&of(&scratch, "tokyo"), "m1")).await;
    let (agent, server_secret) = outcome.server.expect("the server is content");
    let (master, client_secret) = outcome.client.expect("the client is content");
    assert_eq!((agent.role, agent.name.as_str()), (Role::Agent, "tokyo"));
    assert_eq!((master.role, master.name.as_str()), (Role::Master, "m1"));
    assert_eq!(agent.fleet, "north");
    assert_eq!(server_secret, client_secret);
    assert_ne!(server_secret, [0; 32]);
}

#[tokio::test]
async fn an_older_tls_is_refused_though_dns_over_tls_speaks_it() {
    let scratch = world();
    let (ours, tokyo) = (of(&scratch, "m1"), of(&scratch, "tokyo"));
    // All is well with this agent but its version.
    let verifier = ClientTls::load(&tokyo, "m1").expect("loaded").verifier();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&tokyo.key).expect("a key");
    let of_version = |version| {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").dangerous().with_custom_certificate_verifier(verifier.clone());
        let chain = certificates(&tokyo.certificate).expect("a chain");
        let mut config = builder.with_client_auth_cert(chain, key.clone_key()).expect("a pair");
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    };
    let outcome = shake(server(&ours), of_version(&rustls::version::TLS12)).await;
    assert_eq!(outcome.client.expect_err("refused"), Refusal::ByPeer("ProtocolVersion".to_owned()));
    assert!(outcome.server.is_err());
    assert!(shake(server(&ours), of_version(&rustls::version::TLS13)).await.server.is_ok());
}

#[tokio::test]
async fn every_session_exports_another_secret() {
    let scratch = world();
    let (server, client) = (server(&of(&scratch, "m1")), client(&of(&scratch, "tokyo"), "m1"));
    let first = shake(Arc::clone(&server), Arc::clone(&client)).await;
    let second = shake(server, client).await;
    let secrets = [first, second].map(|outcome| outcome.client.expect("content").1);
    assert_ne!(secrets[0], secrets[1]);
}

#[tokio::test]
async fn an_agent_of_another_fleet_is_refused() {
    let scratch = world();
    ok(&scratch, "init --dir second --name north");
    ok(&scratch, "enroll tokyo --role agent --dir second --out stranger");
    let stranger = files(&scratch.path().join("stranger"), "tokyo");
    // It trusts our CA, so that only the server can refuse.
    let mut stranger_config = client(&stranger, "m1").as_ref().clone();
    let ours = ClientTls::load(&of(&scratch, "tokyo"), "m1").expect("loaded");
    stranger_config.dangerous().set_certificate_verifier(ours.verifier());
    let outcome = shake(server(&of(&scratch, "m1")), Arc::new(stranger_config)).await;
    assert_eq!(outcome.server.expect_err("refused"), Refusal::UnknownIssuer);
    assert_eq!(outcome.client.expect_err("refused"), Refusal::ByPeer("UnknownCA".to_owned()));
}

#[tokio::test]
async fn a_master_of_another_fleet_is_refused() {
    let scratch = world();
    ok(&scratch, "init --dir second --name north");
    ok(&scratch, "enroll m1 --role master --dir second --out stranger");
    let stranger = files(&scratch.path().join("stranger"), "m1");
    let outcome = shake(server(&stranger), client(&of(&scratch, "tokyo"), "m1")).await;
    assert_eq!(outcome.client.expect_err("refused"), Refusal::UnknownIssuer);
    assert!(outcome.server.is_err());
}

#[tokio::test]
async fn one_ca_may_serve_two_fleets_that_stay_apart() {
    let scratch = world();
    let stranger = forge(&scratch, "x", forged_leaf("south", Role::Agent, "x"));
    // The agent's own check would already refuse our master; a false agent has none.
    let mut config = client(&stranger, "m1").as_ref().clone();
    let ours = ClientTls::load(&of(&scratch, "tokyo"), "m1").expect("loaded");
    config.dangerous().set_certificate_verifier(ours.verifier());
    let outcome = shake(server(&of(&scratch, "m1")), Arc::new(config)).await;
    assert_eq!(
        outcome.server.expect_err("refused"),
        Refusal::OtherFleet { found: "south".to_owned(), expected: "north".to_owned() }
    );
}

#[tokio::test]
async fn a_master_that_dials_as_an_agent_is_refused() {
    let scratch = world();
    ok(&scratch, "enroll m2 --role master --dir fleet --out m2");
    // Our configuration refuses such a certificate, so this client is put together by hand.
    let files = of(&scratch, "m2");
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).expect("read")];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&files.key).expect("read");
    let ours = ClientTls::load(&of(&scratch, "tokyo"), "m1").expect("loaded");
    let config = ClientConfig::assemble(chain, key, ours.verifier()).expect("assembled");
    let outcome = shake(server(&of(&scratch, "m1")), Arc::new(config)).await;
    assert_eq!(
        outcome.server.expect_err("refused"),
        Refusal::WrongRole { name: "m2".to_owned(), found: Role::Master, expected: Role::Agent }
    );
}

#[tokio::test]
async fn an_agent_that_serves_as_a_master_is_refused() {
    let scratch = world();
    let files = of(&scratch, "paris");
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).expect("read")];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&files.key).expect("read");
    let ours = ServerTls::load(&of(&scratch, "m1")).expect("loaded");
    let config = ServerConfig::assemble(chain, key, ours.verifier()).expect("assembled");
    let outcome = shake(Arc::new(config), client(&of(&scratch, "tokyo"), "paris")).await;
    let refusal = outcome.client.expect_err("refused");
    assert_eq!(refusal.reason(), "wrong_role");
}

#[tokio::test]
async fn a_master_of_another_name_than_the_pinned_one_is_refused() {
    let scratch = world();
    let outcome = shake(server(&of(&scratch, "m1")), client(&of(&scratch, "tokyo"), "m2")).await;
    assert_eq!(
        outcome.client.expect_err("refused"),
        Refusal::WrongName { found: "m1".to_owned(), expected: "m2".to_owned() }
    );
    assert_eq!(outcome.server.expect_err("refused").reason(), "by_peer");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let scratch = world();
    let ours = ClientTls::load(&of(&scratch, "tokyo"), "m1").expect("loaded");
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(ours.verifier())
        .with_no_client_auth();
    let outcome = shake(server(&of(&scratch, "m1")), Arc::new(config)).await;
    assert_eq!(outcome.server.expect_err("refused"), Refusal::NoCertificate);
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused_on_both_sides() {
    let scratch = world();
    let now = OffsetDateTime::now_utc();
    let cases = [
        (now - Duration::days(2), now - Duration::days(1), Refusal::Expired),
        (now + Duration::days(1), now + Duration::days(2), Refusal::NotYetValid),
    ];
    for (i, (not_before, not_after, expected)) in cases.into_iter().enumerate() {
        let (agent_name, master_name) = (format!("a{i}"), format!("b{i}"));
        let dated = |role, name| Leaf { not_before, not_after, ..forged_leaf("north", role, name) };
        let agent = forge(&scratch, &agent_name, dated(Role::Agent, &agent_name));
        let outcome = shake(server(&of(&scratch, "m1")), client(&agent, "m1")).await;
        assert_eq!(outcome.server.expect_err("refused"), expected);
        let master = forge(&scratch, &master_name, dated(Role::Master, &master_name));
        let outcome = shake(server(&master), client(&of(&scratch, "tokyo"), &master_name)).await;
        assert_eq!(outcome.client.expect_err("refused"), expected);
    }
}

#[tokio::test]
async fn a_revoked_agent_is_refused_once_the_list_has_arrived() {
    let scratch = world();
    let mut master = ServerTls::load(&of(&scratch, "m1")).expect("loaded");
    let tokyo = client(&of(&scratch, "tokyo"), "m1");
    let paris = client(&of(&scratch, "paris"), "m1");
    let chain = [CertificateDer::from_pem_file(of(&scratch, "tokyo").certificate).expect("read")];
    assert!(!master.reload_if_changed().expect("nothing changed"));
    assert_eq!(master.recheck(&chain).expect("valid").name, "tokyo");
    shake(master.config(), Arc::clone(&tokyo)).await.server.expect("content");

    ok(&scratch, "revoke tokyo --dir fleet");
    fs::copy(scratch.path().join("fleet/revoked.crl"), scratch.path().join("m1/revoked.crl")).expect("copied");
    assert!(master.reload_if_changed().expect("reloaded"));
    assert!(!master.reload_if_changed().expect("once"));
    assert_eq!(master.recheck(&chain), Err(Refusal::Revoked));
    let outcome = shake(master.config(), tokyo).await;
    assert_eq!(outcome.server.expect_err("refused"), Refusal::Revoked);
    assert_eq!(outcome.client.expect_err("refused"), Refusal::ByPeer("CertificateRevoked".to_owned()));
    shake(master.config(), paris).await.server.expect("others are let in");
}

#[tokio::test]
async fn a_revoked_master_is_refused_by_agents() {
    let scratch = world();
    let master = server(&of(&scratch, "m1"));
    ok(&scratch, "revoke m1 --dir fleet");
    let mut tokyo = of(&scratch, "tokyo");
    tokyo.revoked = Some(scratch.path().join("fleet/revoked.crl"));
    let outcome = shake(master, client(&tokyo, "m1")).await;
    assert_eq!(outcome.client.expect_err("refused"), Refusal::Revoked);
    let mut m1 = of(&scratch, "m1");
    m1.revoked = tokyo.revoked;
    let error = server_config(&m1).expect_err("its own list names it").to_string();
    assert!(error.contains("the certificate is revoked"), "{error}");
}

#[tokio::test]
async fn a_list_of_another_ca_lets_nobody_in() {
    let scratch = world();
    ok(&scratch, "init --dir second");
    let mut m1 = of(&scratch, "m1");
    m1.revoked = Some(scratch.path().join("second/revoked.crl"));
    let error = server_config(&m1).expect_err("a list of the wrong CA").to_string();
    assert!(error.contains("says nothing about the certificate's issuer"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let scratch = world();
    let mut master = ServerTls::load(&of(&scratch, "m1")).expect("loaded");
    let tokyo = client(&of(&scratch, "tokyo"), "m1");
    let old_serial = master.identity().serial.clone();
    fs::write(&of(&scratch, "m1").certificate, "half of a certif").expect("written");
    let error = master.reload_if_changed().expect_err("broken").to_string();
    assert!(error.contains("m1.crt: found "), "{error}");
    shake(master.config(), Arc::clone(&tokyo)).await.client.expect("the old one holds");
    ok(&scratch, "renew m1 --dir fleet --out m1");
    assert!(master.reload_if_changed().expect("mended"));
    let (seen, _) = shake(master.config(), tokyo).await.client.expect("content");
    assert_ne!(seen.serial, old_serial);
    assert_eq!(seen.serial, master.identity().serial);
}

#[tokio::test]
async fn the_list_is_followed_without_reading_the_key_again() {
    let scratch = world();
    let files = of(&scratch, "m1");
    let mut master = ServerTls::load(&files).expect("loaded");
    // Stands for privileges dropped since: same stamp, but not a key any more.
    let modified = fs::metadata(&files.key).and_then(|m| m.modified()).expect("metadata");
    let length = fs::metadata(&files.key).expect("metadata").len() as usize;
    fs::write(&files.key, vec![b'x'; length]).expect("written");
    fs::File::options().write(true).open(&files.key).and_then(|file| file.set_modified(modified)).expect("dated back");
    ok(&scratch, "revoke tokyo --dir fleet");
    let list = fs::read(scratch.path().join("fleet/revoked.crl")).expect("read");
    fs::write(scratch.path().join("m1/revoked.crl"), list).expect("written");
    assert!(master.reload_if_changed().expect("reloaded"));
    let chain = [CertificateDer::from_pem_file(of(&scratch, "tokyo").certificate).expect("read")];
    assert_eq!(master.recheck(&chain), Err(Refusal::Revoked));
}

fn chain_of(files: &TlsFiles) -> [CertificateDer<'static>; 1] {
    [CertificateDer::from_pem_file(&files.certificate).expect("read")]
}

#[test]
fn an_agent_takes_other_agents_of_its_fleet_for_peers_and_nobody_else() {
    let scratch = world();
    ok(&scratch, "init --dir second --name north");
    ok(&scratch, "enroll oslo --role agent --dir second --out stranger");
    let mut tokyo = ClientTls::load(&of(&scratch, "tokyo"), "m1").expect("loaded");
    let paris = chain_of(&of(&scratch, "paris"));
    let identity = tokyo.check_peer_agent(&paris).expect("a peer");
    assert_eq!((identity.role, identity.name.as_str()), (Role::Agent, "paris"));
    // The pinned master is as good a master as before, and no agent.
    assert_eq!(tokyo.recheck(&chain_of(&of(&scratch, "m1"))).expect("the master").name, "m1");
    let refused = |chain: &[CertificateDer<'_>]| tokyo.check_peer_agent(chain).expect_err("refused");
    assert_eq!(refused(&[]), Refusal::NoCertificate);
    assert_eq!(
        refused(&chain_of(&of(&scratch, "m1"))),
        Refusal::WrongRole { name: "m1".to_owned(), found: Role::Master, expected: Role::Agent }
    );
    assert_eq!(refused(&chain_of(&files(&scratch.path().join("stranger"), "oslo"))), Refusal::UnknownIssuer);
    let south = forge(&scratch, "x", forged_leaf("south", Role::Agent, "x"));
    assert_eq!(
        refused(&chain_of(&south)),
        Refusal::OtherFleet { found: "south".to_owned(), expected: "north".to_owned() }
    );
    let now = OffsetDateTime::now_utc();
    let (not_before, not_after) = (now - Duration::days(2), now - Duration::days(1));
    let old = forge(&scratch, "old", Leaf { not_before, not_after, ..forged_leaf("north", Role::Agent, "old") });
    assert_eq!(refused(&chain_of(&old)), Refusal::Expired);
    assert_eq!(refused(&[CertificateDer::from(vec![0x30, 0x00])]).reason(), "tls");

    ok(&scratch, "revoke paris --dir fleet");
    fs::copy(scratch.path().join("fleet/revoked.crl"), scratch.path().join("tokyo/revoked.crl")).expect("copied");
    assert_eq!(tokyo.check_peer_agent(&paris).expect("the list is not read yet").name, "paris");
    assert!(tokyo.reload_if_changed().expect("reloaded"));
    assert_eq!(tokyo.check_peer_agent(&paris), Err(Refusal::Revoked));
}

#[test]
fn the_mesh_key_is_read_with_its_certificate() {
    let scratch = world();
    let bare = of(&scratch, "tokyo");
    assert!(matches!(ClientTls::load(&bare, "m1").expect("loaded").mesh(), MeshStanding::NotConfigured));
    let files = TlsFiles { mesh_key: Some(scratch.path().join("tokyo/tokyo.mesh.key")), ..bare };
    let mut tokyo = ClientTls::load(&files, "m1").expect("loaded");
    let ready = |tokyo: &ClientTls| match tokyo.mesh() {
        MeshStanding::Ready(secret) => Arc::clone(secret),
        other => panic!("{:?}", other.absence()),
    };
    let first = ready(&tokyo);
    assert!(tokyo.mesh().absence().is_none());

    // The key of another certificate: refused at the start, and the old pair stays in force while running.
    fs::copy(scratch.path().join("paris/paris.mesh.key"), scratch.path().join("tokyo/tokyo.mesh.key")).expect("copied");
    let error = ClientTls::load(&files, "m1").expect_err("another's key").to_string();
    assert!(
        error.ends_with("tokyo.mesh.key: found another key, expected the private mesh key of this agent's certificate")
    );
    assert_eq!(tokyo.reload_if_changed().expect_err("another's key").to_string(), error);
    assert!(Arc::ptr_eq(&ready(&tokyo), &first));

    ok(&scratch, "renew tokyo --dir fleet --out tokyo");
    assert!(tokyo.reload_if_changed().expect("mended"));
    assert!(!Arc::ptr_eq(&ready(&tokyo), &first));

    let older = forge(&scratch, "older", forged_leaf("north", Role::Agent, "older"));
    let older = TlsFiles { mesh_key: files.mesh_key, ..older };
    let older = ClientTls::load(&older, "m1").expect("good for all but the mesh");
    let absence = older.mesh().absence().expect("out of the mesh");
    assert!(absence.contains("its certificate carries no mesh key"), "{absence}");
}

#[tokio::test]
async fn a_foreign_ca_with_an_intermediate_works() {
    let scratch = ScratchDir::new();
    let root_key = KeyPair::generate().expect("a key");
    let root_params = foreign_ca("Root of a company");
    let root = root_params.self_signed(&root_key).expect("signed");
    let root_issuer = Issuer::new(root_params, root_key);
    let middle_key = KeyPair::generate().expect("a key");
    let middle_params = foreign_ca("Issuing CA of a company");
    let middle = middle_params.signed_by(&middle_key, &root_issuer).expect("signed");
    let middle_issuer = Issuer::new(middle_params, middle_key);
    fs::write(scratch.path().join("ca.crt"), root.pem()).expect("written");
    let issue = |role, name: &str| {
        let key = KeyPair::generate().expect("a key");
        let leaf = forged_leaf("north", role, name).sign(&key, &middle_issuer).expect("signed");
        let mut files = files(scratch.path(), name);
        files.revoked = None;
        fs::write(&files.certificate, leaf + &middle.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    };
    let (master, agent) = (issue(Role::Master, "m1"), issue(Role::Agent, "tokyo"));
    let outcome = shake(server(&master), client(&agent, "m1")).await;
    assert_eq!(outcome.server.expect("content").0.name, "tokyo");
    assert_eq!(outcome.client.expect("content").0.name, "m1");
}

fn foreign_ca(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

#[test]
fn unfit_files_are_named_with_what_was_found_and_expected() {
    let scratch = world();
    let base = of(&scratch, "tokyo");
    let text = |files: &TlsFiles| {
        let error = client_config(files, "m1").expect_err("unfit").to_string();
        error.replace(&format!("{}/", scratch.path().display()), "")
    };
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = base.clone();
        change(&mut files);
        text(&files)
    };
    let m1 = of(&scratch, "m1");
    assert_eq!(
        with(&|files| files.ca = scratch.path().join("none")),
        "none: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        with(&|files| files.ca = files.key.clone()),
        "tokyo/tokyo.key: found 0 certificates (at most 16 are read), expected certificates in \
         PEM form (-----BEGIN CERTIFICATE-----)"
    );
    assert_eq!(
        with(&|files| files.key = files.certificate.clone()),
        "tokyo/tokyo.crt: found none in it, expected a private key in PEM form \
         (-----BEGIN PRIVATE KEY-----)"
    );
    assert!(with(&|files| files.key = m1.key.clone()).starts_with("m1/m1.key: found another key"));
    assert_eq!(
        with(&|files| files.certificate = m1.certificate.clone()),
        "m1/m1.crt: found a certificate for the role master, expected a certificate with the \
         URI startgun://FLEET/agent/NAME"
    );
    assert!(
        with(&|files| files.certificate = files.ca.clone())
            .starts_with("tokyo/ca.crt: found the certificate names nobody")
    );
    assert!(
        with(&|files| files.revoked = Some(files.ca.clone()))
            .ends_with("expected a certificate revocation list (-----BEGIN X509 CRL-----, or DER)")
    );
    ok(&scratch, "init --dir second");
    let error = with(&|files| files.ca = scratch.path().join("second/ca.crt"));
    assert!(error.starts_with("tokyo/tokyo.crt: found a certificate that peers would refuse"));
    assert!(error.ends_with("expected one signed by second/ca.crt"), "{error}");
}

#[test]
fn a_list_in_der_form_is_read() {
    let scratch = world();
    let mut tokyo = of(&scratch, "tokyo");
    let pem = tokyo.revoked.clone().expect("a list");
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_file(pem).expect("read");
    let file = scratch.path().join("list.der");
    fs::write(&file, &der).expect("written");
    tokyo.revoked = Some(file);
    client(&tokyo, "m1");
}
