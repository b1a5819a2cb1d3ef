//! DNS over TCP and TLS: what a client may do on a stream, and what it may not do for long.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use support::fleet::{Fleet, Options, PLAIN, RACED, SERVICE};
use support::{Test, dns, wait_for};

const TESTS: [(&str, Test); 4] = [
    ("queries_may_be_pipelined_and_cut_anywhere", queries_may_be_pipelined_and_cut_anywhere),
    ("who_is_slow_or_takes_too_much_is_closed", who_is_slow_or_takes_too_much_is_closed),
    ("a_client_that_asks_is_told_how_long_it_may_stay", a_client_that_asks_is_told_how_long_it_may_stay),
    (
        "tls_serves_and_validates_and_its_certificate_is_replaced",
        tls_serves_and_validates_and_its_certificate_is_replaced,
    ),
];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn master() -> Result<Fleet, String> {
    let mut fleet = Fleet::new(&Options::default())?;
    fleet.start("m1");
    wait_for("the master answers", Duration::from_secs(5), || fleet.status("m1"));
    Ok(fleet)
}

fn connect(fleet: &Fleet, to: SocketAddr) -> TcpStream {
    let stream = fleet.client().run(move || TcpStream::connect_timeout(&to, Duration::from_secs(3)));
    let stream = stream.expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(12))).expect("a time-out");
    stream.set_nodelay(true).expect("at once");
    stream
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&(query.len() as u16).to_be_bytes()[..], query].concat()
}

fn read_message(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).map(|()| message)
}

/// The id of a message without error.
fn id(message: &[u8]) -> u16 {
    assert_eq!(dns::rcode(message), 0);
    u16::from_be_bytes([message[0], message[1]])
}

fn queries_may_be_pipelined_and_cut_anywhere() -> Result<(), String> {
    let fleet = master()?;
    let mut stream = connect(&fleet, SERVICE);
    let queries: Vec<u8> = (1..=20).flat_map(|id| framed(&dns::query(id, PLAIN, dns::TXT))).collect();
    // All at once, then byte by byte.
    stream.write_all(&queries).expect("sent");
    for expected in 1..=20 {
        assert_eq!(id(&read_message(&mut stream).expect("an answer")), expected);
    }
    for byte in framed(&dns::query(21, PLAIN, dns::TXT)) {
        stream.write_all(&[byte]).expect("sent");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(id(&read_message(&mut stream).expect("an answer")), 21);
    // Who has nothing more to say still gets what it asked for; then the server closes, too.
    stream.write_all(&queries).expect("sent");
    stream.shutdown(Shutdown::Write).expect("closed one way");
    for expected in 1..=20 {
        assert_eq!(id(&read_message(&mut stream).expect("an answer")), expected);
    }
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
    Ok(())
}

fn who_is_slow_or_takes_too_much_is_closed() -> Result<(), String> {
    let fleet = master()?;
    // Every byte in time, but the message never complete: 5 s for all of it.
    let mut slow = connect(&fleet, SERVICE);
    let started = Instant::now();
    let query = framed(&dns::query(1, PLAIN, dns::TXT));
    let closed = query.iter().cycle().take(query.len() - 1).any(|byte| {
        std::thread::sleep(Duration::from_millis(500));
        slow.write_all(&[*byte]).is_err() || started.elapsed() > Duration::from_secs(7)
    });
    assert!(closed && started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
    // One host may have 16 connections; more are closed at once.
    let mut many: Vec<TcpStream> = (0..17).map(|_| connect(&fleet, SERVICE)).collect();
    let mut over = many.pop().expect("the last");
    assert!(matches!(over.read(&mut [0; 1]), Ok(0) | Err(_)), "no place for it");
    let mut first = many.swap_remove(0);
    first.write_all(&framed(&dns::query(2, PLAIN, dns::TXT))).expect("sent");
    assert_eq!(id(&read_message(&mut first).expect("an answer")), 2);
    // Nonsense of impossible length ends a connection, too.
    let mut absurd = many.swap_remove(0);
    absurd.write_all(&[0xff; 64]).expect("sent");
    assert!(matches!(absurd.read(&mut [0; 1]), Ok(0) | Err(_)));
    Ok(())
}

fn a_client_that_asks_is_told_how_long_it_may_stay() -> Result<(), String> {
    let fleet = master()?;
    let mut stream = connect(&fleet, SERVICE);
    let mut query = dns::query(1, PLAIN, dns::TXT);
    query[11] = 1;
    // OPT with edns-tcp-keepalive, empty as a client sends it (RFC 7828 section 3.1).
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    stream.write_all(&framed(&query)).expect("sent");
    let answer = read_message(&mut stream).expect("an answer");
    assert_eq!(answer[answer.len() - 6..], [0, 11, 0, 2, 0, 100], "10 s in units of 100 ms");
    Ok(())
}

/// Takes any certificate and keeps it: so do resolvers towards authoritative servers (RFC 9539).
#[derive(Debug)]
struct Opportunistic;

impl ServerCertVerifier for Opportunistic {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

/// One query over TLS: the answer, and the certificate that was shown.
fn ask_over_tls(fleet: &Fleet, alpn: &[&[u8]], name: &str) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Opportunistic))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let server = ServerName::try_from("ns.example.org").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), server).expect("a client");
    let mut stream = StreamOwned::new(connection, connect(fleet, SocketAddr::new(SERVICE.ip(), 853)));
    stream.write_all(&framed(&dns::query(5, name, dns::A)))?;
    let answer = read_message(&mut stream)?;
    let certificate = stream.conn.peer_certificates().expect("a certificate")[0].to_vec();
    Ok((answer, certificate))
}

fn write_certificate(fleet: &Fleet) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["ns.example.org".to_owned()]).expect("a certificate");
    fs::write(fleet.path("ns.crt"), made.cert.pem()).expect("written");
    fs::write(fleet.path("ns.key"), made.signing_key.serialize_pem()).expect("written");
    made.cert.der().to_vec()
}

fn tls_serves_and_validates_and_its_certificate_is_replaced() -> Result<(), String> {
    let options = Options { master_table: "[tls]\ncertificate = \"ns.crt\"\nkey = \"ns.key\"", ..Options::default() };
    let mut fleet = Fleet::new(&options)?;
    let first = write_certificate(&fleet);
    for name in ["m1", "tokyo", "frankfurt"] {
        fleet.start(name);
    }
    fleet.wait_until_racing(&["frankfurt", "tokyo"]);
    let udp = || fleet.ask(RACED, Duration::from_millis(600));
    assert_eq!(support::fleet::addresses(&udp()), [None], "not validated: one empty answer");
    for alpn in [&[b"dot".as_slice()][..], &[]] {
        let (answer, shown) = ask_over_tls(&fleet, alpn, RACED).expect("an answer");
        assert_eq!((id(&answer), shown == first), (5, true));
    }
    assert!(ask_over_tls(&fleet, &[b"h2"], RACED).is_err(), "another protocol is not spoken");
    // Who has asked over TLS receives what is sent to it, and races.
    assert_eq!(udp().len(), 2, "both sites");
    // A key that does not fit changes nothing, another pair does.
    let second = write_certificate(&fleet);
    let key = fs::read(fleet.path("ns.key")).expect("the key");
    write_certificate(&fleet);
    fs::write(fleet.path("ns.key"), &key).expect("written");
    let socket = fleet.path("m1.sock").display().to_string();
    let refused = fleet.attempt(&["reload", "--socket", &socket]);
    let said = String::from_utf8(refused.stderr).expect("text");
    assert!(!refused.status.success() && said.contains("not the key of"), "{said}");
    assert!(ask_over_tls(&fleet, &[], PLAIN).expect("an answer").1 == first);
    let third = write_certificate(&fleet);
    fleet.command(&["reload", "--socket", &socket]);
    let shown = ask_over_tls(&fleet, &[], PLAIN).expect("an answer").1;
    assert!(shown == third && shown != second);
    Ok(())
}
