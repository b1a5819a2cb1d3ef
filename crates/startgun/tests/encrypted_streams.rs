//! DNS over TLS: who is answered and who is not, and what happens when the certificate is replaced.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, StreamOwned};
use support::fleet::{FALLBACK, Fleet, Options, PLAIN, RACED, SERVICE, addresses};
use support::stream::{Client, Ending, PATIENCE, connect_to, framed, id_of, query};
use support::{Test, dns, wait_for};

/// The name that resolvers check.
const NAME: &str = "ns.example.org";
/// Where TLS is served.
const TLS: SocketAddr = SocketAddr::new(SERVICE.ip(), 853);
/// The master's table; the handshake's time-out is short enough to wait for.
const TABLE: &str = "[tcp]\nmessage_timeout_ms = 1000\n[tls]\ncertificate = \"dns.crt\"\nkey = \"dns.key\"\n";

/// The option of RFC 7830.
const PADDING: u16 = 12;

const TESTS: [(&str, Test); 8] = [
    (
        "queries_over_tls_are_answered_and_validate_their_source",
        queries_over_tls_are_answered_and_validate_their_source,
    ),
    ("tls_1_2_and_1_3_with_and_without_alpn", tls_1_2_and_1_3_with_and_without_alpn),
    ("a_session_is_resumed", a_session_is_resumed),
    ("who_pads_its_queries_gets_padded_answers", who_pads_its_queries_gets_padded_answers),
    ("what_is_no_handshake_is_cut_off_and_counted", what_is_no_handshake_is_cut_off_and_counted),
    (
        "a_new_certificate_is_taken_over_and_a_faulty_one_is_not",
        a_new_certificate_is_taken_over_and_a_faulty_one_is_not,
    ),
    ("a_faulty_certificate_lets_nothing_start", a_faulty_certificate_lets_nothing_start),
    ("kdig_and_openssl_find_a_server_as_they_expect", kdig_and_openssl_find_a_server_as_they_expect),
];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

/// Writes `dns.crt` and `dns.key`, a certificate for [`NAME`], and `dns-ca.crt`, whose it is.
fn certify(directory: &Path, expires: i32) {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "A CA of resolvers");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = KeyPair::generate().expect("a key");
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new([NAME.into()]).expect("a name");
    leaf.not_after = date_time_ymd(expires, 1, 1);
    let certificate = leaf.signed_by(&key, &issuer).expect("a certificate");
    let chain = format!("{}{}", certificate.pem(), ca_certificate.pem());
    for (file, text) in [("dns-ca.crt", ca_certificate.pem()), ("dns.crt", chain), ("dns.key", key.serialize_pem())] {
        // Whole or not at all: the master looks whenever it likes.
        std::fs::write(directory.join("staged"), text).expect("written");
        std::fs::rename(directory.join("staged"), directory.join(file)).expect("renamed");
    }
}

fn master() -> Result<Fleet, String> {
    let mut fleet = Fleet::new(&Options { master_table: TABLE, ..Options::default() })?;
    certify(fleet.directory(), 3000);
    fleet.start_master();
    Ok(fleet)
}

/// A client that checks certificate and name, of these versions and protocols.
fn client_config(fleet: &Fleet, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fleet.path("dns-ca.crt")).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(fleet: &Fleet, config: &Arc<ClientConfig>) -> Result<Client<Tls>, std::io::Error> {
    let name = ServerName::try_from(NAME).expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, connect_to(fleet.client(), TLS));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Client { stream })
}

fn connected(fleet: &Fleet) -> Client<Tls> {
    let config = Arc::new(client_config(fleet, &[&rustls::version::TLS13], &["dot"]));
    connect(fleet, &config).expect("a handshake")
}

fn queries_over_tls_are_answered_and_validate_their_source() -> Result<(), String> {
    let fleet = master()?;
    assert_eq!(addresses(&fleet.ask(RACED, Duration::from_millis(300))), [None], "TC=1 for a stranger");
    let mut client = connected(&fleet);
    let queries: Vec<Vec<u8>> = (0..200).map(query).collect();
    client.send(&framed(&queries));
    for id in 0..200 {
        let answer = client.receive().expect("an answer");
        assert_eq!((id_of(&answer), dns::rcode(&answer)), (id, 0));
    }
    assert_eq!(addresses(&fleet.ask(RACED, Duration::from_millis(300))), [Some(FALLBACK)], "it may race now");
    // A byte in each record; then the client closes its side, in TLS alone.
    for byte in framed(&[query(300)]) {
        client.send(&[byte]);
    }
    client.send(&framed(&[query(301)]));
    client.stream.conn.send_close_notify();
    client.stream.flush().expect("sent");
    let (answers, ending) = client.receive_rest();
    let ids: Vec<u16> = answers.iter().map(|answer| id_of(answer)).collect();
    // The end comes with a close_notify, else it would be an error.
    assert_eq!((ids, ending), (vec![300, 301], Ending::Closed));
    fleet.wait_for_counter("m1", "connections_finished", 1);
    assert_eq!((fleet.counter("m1", "queries_tls"), fleet.counter("m1", "queries_tcp")), (202, 0));

    let _open = connected(&fleet);
    let status = wait_for("one is open", PATIENCE, || fleet.status("m1").filter(|s| s["streams"]["open_tls"] == 1));
    assert_eq!(status["streams"]["open_tcp"], 0);
    assert_eq!(status["streams"]["certificate_not_after_unix_s"], 32_503_680_000i64);
    let (_, metrics) = fleet.http("m1", "/metrics");
    for line in [
        "startgun_master_open_connections{transport=\"tls\"} 1.0",
        "startgun_master_queries_tls_total 202",
        "startgun_master_tls_handshakes_total 2",
        "startgun_master_tls_certificate_not_after_timestamp_seconds 32503680000.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let mut command = Command::new(support::program());
    let output = command.args(["status", "--socket", "m1.sock"]).current_dir(fleet.directory()).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("connections        0 over TCP, 1 over TLS (certificate valid until 3000-01-01)"), "{text}");
    Ok(())
}

fn tls_1_2_and_1_3_with_and_without_alpn() -> Result<(), String> {
    let fleet = master()?;
    let versions =
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)];
    for (version, expected) in versions {
        for alpn in [&["dot"][..], &[], &["h2", "dot"]] {
            let config = Arc::new(client_config(&fleet, &[version], alpn));
            let mut client = connect(&fleet, &config).expect("a handshake");
            assert_eq!(client.stream.conn.protocol_version(), Some(expected));
            let chosen = client.stream.conn.alpn_protocol();
            assert_eq!(chosen, (!alpn.is_empty()).then_some(&b"dot"[..]), "{alpn:?}");
            client.ask(1);
        }
        // A client that wants something else is told so; it might take DNS for that.
        let config = Arc::new(client_config(&fleet, &[version], &["h2"]));
        let error = connect(&fleet, &config).map(drop).expect_err("refused").to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
    fleet.wait_for_counter("m1", "tls_handshakes_failed_alpn", 2);
    assert_eq!(fleet.counter("m1", "tls_handshakes"), 6);
    Ok(())
}

fn a_session_is_resumed() -> Result<(), String> {
    let fleet = master()?;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(client_config(&fleet, &[version], &["dot"]));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut client = connect(&fleet, &config).expect("a handshake");
            // Tickets come with the first answer.
            client.ask(1);
            assert_eq!(client.stream.conn.handshake_kind(), Some(expected), "{version:?}");
        }
    }
    fleet.wait_for_counter("m1", "tls_handshakes_resumed", 4);
    Ok(())
}

fn who_pads_its_queries_gets_padded_answers() -> Result<(), String> {
    let fleet = master()?;
    let mut client = connected(&fleet);
    let padded = |name: &str, rtype| dns::query_with_option(1, name, rtype, PADDING, &[0; 77]);
    // Some 300 bytes of text, an address and a name that is not there look alike.
    let names = [(PLAIN, dns::TXT), ("ns.example.org", dns::A), ("none.example.org", dns::A), (RACED, dns::A)];
    for (name, rtype) in names {
        client.send(&framed(&[padded(name, rtype)]));
        let answer = client.receive().expect("an answer");
        assert_eq!((answer.len(), dns::option(&answer, PADDING).is_some()), (468, true), "{name}");
    }
    client.send(&framed(&[dns::query_with_nsid(2, PLAIN, dns::TXT)]));
    let answer = client.receive().expect("an answer");
    assert!(answer.len() < 400 && dns::option(&answer, PADDING).is_none(), "nobody asked for it");
    // RFC 7830 section 6: not where everybody can read along.
    let mut plain = Client { stream: connect_to(fleet.client(), SERVICE) };
    plain.send(&framed(&[padded(PLAIN, dns::TXT)]));
    let answer = plain.receive().expect("an answer");
    assert!(answer.len() < 400 && dns::option(&answer, PADDING).is_none(), "{} bytes", answer.len());
    Ok(())
}

fn what_is_no_handshake_is_cut_off_and_counted() -> Result<(), String> {
    let fleet = master()?;
    let mut healthy = connected(&fleet);
    let raw = || connect_to(fleet.client(), TLS);
    // DNS without TLS, and nothing at all.
    let mut plain = Client { stream: raw() };
    plain.send(&framed(&[query(1)]));
    assert!(!matches!(plain.receive_rest().1, Ending::Open));
    fleet.wait_for_counter("m1", "tls_handshakes_failed_malformed", 1);
    let started = Instant::now();
    let silent = Client { stream: raw() }.receive_rest();
    assert_eq!((silent, started.elapsed() >= Duration::from_secs(1)), ((Vec::new(), Ending::Closed), true));
    fleet.wait_for_counter("m1", "tls_handshakes_failed_timeout", 1);
    drop(raw());
    fleet.wait_for_counter("m1", "tls_handshakes_failed_broken", 1);
    // A client that does not trust the certificate says so.
    let other = RootCertStore { roots: Vec::new() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let strict = builder.expect("versions").with_root_certificates(other).with_no_client_auth();
    assert!(connect(&fleet, &Arc::new(strict)).is_err());
    fleet.wait_for_counter("m1", "tls_handshakes_failed_alert", 1);
    healthy.ask(1);
    // An open connection that says nothing more that is TLS.
    healthy.stream.sock.write_all(&[0x55; 100]).expect("sent");
    let mut rest = Vec::new();
    assert!(healthy.stream.read_to_end(&mut rest).is_err() || rest.is_empty());
    fleet.wait_for_counter("m1", "connections_broken", 1);
    connected(&fleet).ask(2);
    Ok(())
}

fn a_new_certificate_is_taken_over_and_a_faulty_one_is_not() -> Result<(), String> {
    let fleet = master()?;
    let leaf = |client: &Client<Tls>| client.stream.conn.peer_certificates().expect("a chain")[0].to_vec();
    let mut early = connected(&fleet);
    let first = leaf(&early);
    certify(fleet.directory(), 3001);
    fleet.wait_for_log("m1", "DNS over TLS: the certificate changed: loaded");
    let second = leaf(&connected(&fleet));
    assert_ne!(first, second);
    early.ask(1);
    // Half of a pair: nothing changes but the log.
    std::fs::write(fleet.path("dns.key"), KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    fleet.wait_for_log("m1", "dns.key: found another certificate's key, expected the private key of");
    assert!(fleet.log("m1").contains("the earlier certificate stays in force"), "{}", fleet.log("m1"));
    let mut still = connected(&fleet);
    assert_eq!(leaf(&still), second);
    still.ask(2);
    // Whole again, and expired: that is the operator's to know and the client's to judge.
    certify(fleet.directory(), 2001);
    fleet
        .wait_for_log("m1", "found a certificate that expired on 2001-01-01, expected a certificate that is valid now");
    let config = Arc::new(client_config(&fleet, &[&rustls::version::TLS13], &["dot"]));
    let error = connect(&fleet, &config).map(drop).expect_err("the client refuses").to_string();
    assert!(error.contains("certificate expired"), "{error}");
    Ok(())
}

fn a_faulty_certificate_lets_nothing_start() -> Result<(), String> {
    let mut fleet = Fleet::new(&Options { master_table: TABLE, ..Options::default() })?;
    let said = |fleet: &Fleet, arguments: [&str; 3]| {
        let mut command = Command::new(support::program());
        let output = command.args(arguments).current_dir(fleet.directory()).output().expect("started");
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), texts.concat())
    };
    let check = ["check", "--config", "m1.toml"];
    let (code, text) = said(&fleet, check);
    let lines: Vec<&str> = text.lines().map(|line| line.rsplit_once(" tls.").expect("a key").1).collect();
    let missing =
        |key, file| format!("{key}: found {file}: No such file or directory (os error 2), expected a readable file");
    assert_eq!(
        (code, lines),
        (Some(1), vec![missing("certificate", "dns.crt").as_str(), missing("key", "dns.key").as_str(),])
    );
    certify(fleet.directory(), 3000);
    std::fs::write(fleet.path("dns.key"), KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    let (code, text) = said(&fleet, check);
    let expected = "tls.key: found dns.key: another certificate's key, expected the private key of dns.crt";
    assert!(code == Some(1) && text.contains("m1.toml:") && text.trim_end().ends_with(expected), "{text}");
    fleet.start("m1");
    assert_eq!(fleet.wait_end("m1").code(), Some(1));
    let log = fleet.log("m1");
    assert!(log.contains("dns.key: found another certificate's key"), "{log}");
    certify(fleet.directory(), 2001);
    let (code, text) = said(&fleet, check);
    assert!(code == Some(0) && text.contains("warning: m1.toml:"), "{text}");
    assert!(text.contains("tls.certificate: found a certificate that expired on 2001-01-01 in dns.crt"), "{text}");
    fleet.start_master();
    fleet.wait_for_log("m1", "a certificate that expired on 2001-01-01");
    Ok(())
}

fn kdig_and_openssl_find_a_server_as_they_expect() -> Result<(), String> {
    let fleet = master()?;
    let ca = fleet.path("dns-ca.crt").display().to_string();
    let server = format!("@{}", SERVICE.ip());
    let mut missing = Vec::new();
    let mut run = |program: &'static str, arguments: &[&str]| {
        let path = Path::new("/usr/bin").join(program);
        if !path.exists() {
            missing.push(program);
            return None;
        }
        let mut command = Command::new(path);
        command.args(arguments);
        let output = fleet.client().output(command);
        Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (authority, hostname) = (format!("+tls-ca={ca}"), format!("+tls-hostname={NAME}"));
    let strict = [&server, "+tls", &authority, &hostname, "+keepopen", PLAIN, "TXT", PLAIN, "TXT"].map(str::to_owned);
    if let Some(text) = run("kdig", &strict.each_ref().map(String::as_str)) {
        assert_eq!(text.matches("two hundred bytes of text").count(), 2, "{text}");
        // It pads its queries over TLS of its own accord.
        assert_eq!(text.matches(";; PADDING").count(), 2, "{text}");
        assert_eq!(text.matches("Received 468 B").count(), 2, "{text}");
        assert!(text.contains("certificate is trusted") || text.contains("TLS session (TLS1.3)"), "{text}");
        assert_eq!(fleet.counter("m1", "connections_tls"), 1);
    }
    // The opportunistic client asks for no name and no authority.
    if let Some(text) = run("kdig", &[&server, "+tls", PLAIN, "TXT"]) {
        assert!(text.contains("two hundred bytes of text"), "{text}");
    }
    let wrong = "+tls-hostname=other.example.org";
    if let Some(text) = run("kdig", &[&server, "+tls", &authority, wrong, PLAIN, "TXT"]) {
        assert!(!text.contains("two hundred bytes of text"), "{text}");
    }
    let address = TLS.to_string();
    let s_client =
        ["s_client", "-connect", &address, "-CAfile", &ca, "-verify_hostname", NAME, "-brief", "-alpn", "dot"];
    if let Some(text) = run("openssl", &s_client) {
        assert!(text.contains("Verification: OK") && text.contains("TLSv1.3"), "{text}");
    }
    match missing[..] {
        [] => Ok(()),
        _ => Err(format!("{} not installed (knot-dnsutils, openssl)", missing.join(" and "))),
    }
}
