//! What strangers do to a fleet: queries in somebody else's name, broken queries, junk on the fast path, certificates
//! that are not theirs to show. It answers as the RFCs say, counts, and goes on.

mod support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use startgun_net::packet::{FrameBatch, PacketSocket};
use support::fleet::{CONTROL, FAST_PATH_PORT, FRANKFURT, Fleet, Options, PLAIN, RACED, SERVICE, TOKYO, addresses};
use support::network::Host;
use support::{Test, dns, wait_for};

/// Longer than a race lasts: its delay, 250 ms until it is closed, and a busy machine.
const RACE_OVER: Duration = Duration::from_millis(500);
/// First byte of a sealed datagram, and where it carries its counter.
const SEALED: u8 = 0x5a;
const COUNTER: std::ops::Range<usize> = 12..20;

const TESTS: [(&str, Test); 4] = [
    ("forged_queries_draw_no_more_than_a_plain_server_sends", forged_queries_draw_no_more_than_a_plain_server_sends),
    ("broken_queries_get_what_the_rfcs_say_and_never_a_race", broken_queries_get_what_the_rfcs_say_and_never_a_race),
    ("junk_on_the_fast_path_is_counted_and_changes_nothing", junk_on_the_fast_path_is_counted_and_changes_nothing),
    (
        "certificates_that_do_not_fit_are_refused_and_logged_once",
        certificates_that_do_not_fit_are_refused_and_logged_once,
    ),
];

fn main() -> ExitCode {
    support::main(&TESTS, true)
}

/// A UDP socket that sends from an address that its host does not have.
fn bind_transparent(address: SocketAddr) -> io::Result<UdpSocket> {
    let SocketAddr::V4(address) = address else { return Err(io::ErrorKind::InvalidInput.into()) };
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(UdpSocket::from(fd))
}

/// UDP payloads that reach a host, whether or not somebody listens for them: source port, destination port, payload.
struct Tap(PacketSocket);

impl Tap {
    fn on(host: &Host) -> Self {
        Tap(host.run(|| PacketSocket::open(None)).expect("a packet socket"))
    }

    fn watch(&self, patience: Duration) -> Vec<(u16, u16, Vec<u8>)> {
        let mut payloads = Vec::new();
        let mut batch = FrameBatch::new();
        let end = Instant::now() + patience;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.0.wait(left.min(Duration::from_millis(20))).expect("waited");
            while self.0.receive(&mut batch).expect("received") > 0 {
                payloads.extend(batch.iter().filter_map(|frame| udp(frame.bytes)));
            }
        }
        payloads
    }
}

/// Source port, destination port and payload of an Ethernet frame with UDP over IPv4.
fn udp(frame: &[u8]) -> Option<(u16, u16, Vec<u8>)> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = usize::from(*packet.first()? & 15) * 4;
    let datagram = packet.get(header..).filter(|datagram| packet[9] == 17 && datagram.len() >= 8)?;
    let word = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    Some((word(0), word(2), datagram.get(8..usize::from(word(4)))?.to_vec()))
}

fn forged_queries_draw_no_more_than_a_plain_server_sends() -> Result<(), String> {
    const PORT: u16 = 5_300;
    const QUERIES: u16 = 150;
    let fleet = Fleet::racing()?;
    // The stranger may race in its own name; that must not help it in the victim's.
    fleet.validate(fleet.stranger());
    let tap = Tap::on(fleet.client());
    let victim = SocketAddr::from((fleet.client().address, PORT));
    let forger = fleet.stranger().run(move || bind_transparent(victim)).expect("a transparent socket");
    let mut sent = BTreeMap::new();
    for id in 0..QUERIES {
        // Half of them ask for as much as a query can.
        let query = if id % 2 == 0 { dns::query(id, RACED, dns::A) } else { dns::query_with_nsid(id, RACED, dns::A) };
        forger.send_to(&query, SERVICE).expect("sent");
        sent.insert(id, query.len());
        std::thread::sleep(Duration::from_millis(2));
    }
    let seen: Vec<_> = tap.watch(RACE_OVER).into_iter().filter(|(from, _, _)| *from == 53).collect();
    assert!(!seen.is_empty(), "the forged queries did not arrive: nothing was tested");
    for (_, to, answer) in &seen {
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        let query = sent.remove(&id).unwrap_or_else(|| panic!("a second packet for query {id}"));
        assert!(*to == PORT && answer.len() <= query, "{} bytes for a query of {query}", answer.len());
        assert!(dns::is_truncated(answer) && dns::address(answer).is_none());
    }
    assert_eq!(fleet.counter("tokyo", "orders") + fleet.counter("m1", "races"), 0);

    // What is not raced is answered as by any server: the same bytes as for an honest client, once.
    let honest = fleet.stranger().run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    honest.send_to(&dns::query(0, PLAIN, dns::TXT), SERVICE).expect("sent");
    let plain = dns::receive_all(&honest, Duration::from_millis(200));
    assert_eq!(plain.len(), 1);
    for id in 0..20 {
        forger.send_to(&dns::query(id, PLAIN, dns::TXT), SERVICE).expect("sent");
    }
    let seen: Vec<_> = tap.watch(RACE_OVER).into_iter().filter(|(from, _, _)| *from == 53).collect();
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|(_, _, answer)| answer[2..] == plain[0].0[2..]));
    compare_with_a_plain_server(&fleet, &plain[0].0)
}

/// The same zone on NSD, where it is installed: its answer to the same query is no shorter.
fn compare_with_a_plain_server(fleet: &Fleet, ours: &[u8]) -> Result<(), String> {
    let nsd = ["/usr/sbin/nsd", "/usr/bin/nsd"].into_iter().find(|path| std::path::Path::new(path).exists());
    let Some(nsd) = nsd else {
        println!("not compared with NSD: it is not installed");
        return Ok(());
    };
    let toml = std::fs::read_to_string(fleet.path("m1.toml")).expect("the master's file");
    let records = toml.split("\"\"\"").nth(1).expect("the zone's records");
    std::fs::write(fleet.path("zone"), format!("$ORIGIN example.org.\n{records}")).expect("written");
    let directory = fleet.directory().display();
    let conf = format!(
        "server:\n  ip-address: 198.51.100.1@5353\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{directory}\"\n\
         \x20 pidfile: \"\"\n  xfrdfile: \"{directory}/xfrd\"\n  xfrdir: \"{directory}\"\n  zonelistfile: \"{directory}/list\"\n\
         \x20 database: \"\"\nremote-control:\n  control-enable: no\nzone:\n  name: example.org\n  zonefile: zone\n"
    );
    std::fs::write(fleet.path("nsd.conf"), conf).expect("written");
    let mut command = std::process::Command::new(nsd);
    let log = std::fs::File::create(fleet.path("nsd.log")).expect("a log");
    command.arg("-d").arg("-c").arg(fleet.path("nsd.conf")).stdout(log.try_clone().expect("a log")).stderr(log);
    let mut server = fleet.host("m1").spawn(command);
    let client = fleet.client_socket();
    let theirs = wait_for("NSD answers", Duration::from_secs(5), || {
        let ended = server.try_wait().expect("asked");
        assert!(ended.is_none(), "{}", std::fs::read_to_string(fleet.path("nsd.log")).unwrap_or_default());
        client.send_to(&dns::query(0, PLAIN, dns::TXT), (fleet.host("m1").address, 5_353)).expect("sent");
        dns::receive_all(&client, Duration::from_millis(200)).pop()
    });
    println!("{} bytes, NSD sends {}", ours.len(), theirs.0.len());
    assert_eq!(dns::rcode(&theirs.0), 0);
    assert!(ours.len() <= theirs.0.len());
    Ok(())
}

/// RFC 1996 section 3.10 leaves it open; RFC 2136 section 2.2 has the code.
const NOTAUTH: u8 = 9;

fn broken_queries_get_what_the_rfcs_say_and_never_a_race() -> Result<(), String> {
    let fleet = Fleet::racing()?;
    // A client that may race, so that nothing but the packets' own faults can keep them from it.
    fleet.validate(fleet.client());
    let good = dns::query(0x1234, RACED, dns::A);
    let with = |at: usize, byte: u8| {
        let mut query = good.clone();
        query[at] = byte;
        query
    };
    let class = good.len() - 1;
    let mut loops = good[..12].to_vec();
    loops.extend([0xc0, 12, 0, 1, 0, 1]);
    let mut long_label = good.clone();
    long_label[12] = 0x40;
    // RFC 1035 section 4.1.1 for the codes; RFC 8906 section 3 for what must not be met with silence. `None` is silence.
    let cases: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("nothing", Vec::new(), None),
        ("a part of a header", good[..11].to_vec(), None),
        ("a response", with(2, 0x80), None),
        ("a response with an unknown opcode", with(2, 0xf8), None),
        ("a header alone", good[..12].to_vec(), Some(dns::FORMERR)),
        ("half a name", good[..16].to_vec(), Some(dns::FORMERR)),
        ("no class", good[..class - 1].to_vec(), Some(dns::FORMERR)),
        ("no question", with(5, 0), Some(dns::FORMERR)),
        ("two questions announced", with(5, 2), Some(dns::FORMERR)),
        ("an answer announced", with(7, 1), Some(dns::FORMERR)),
        ("a name that points at itself", loops, Some(dns::FORMERR)),
        ("a label of a reserved kind", long_label, Some(dns::FORMERR)),
        ("IQUERY", with(2, 1 << 3), Some(dns::NOTIMP)),
        ("STATUS", with(2, 2 << 3), Some(dns::NOTIMP)),
        ("NOTIFY of what is no zone here", with(2, 4 << 3), Some(NOTAUTH)),
        ("UPDATE", with(2, 5 << 3), Some(dns::NOTIMP)),
        ("opcode 15", with(2, 15 << 3), Some(dns::NOTIMP)),
        ("class CH", with(class, 3), Some(dns::REFUSED)),
        ("a foreign name", dns::query(0x1234, "www.example.net", dns::A), Some(dns::REFUSED)),
        ("the root", dns::query(0x1234, "", dns::A), Some(dns::REFUSED)),
    ];
    for (what, packet, expected) in &cases {
        let socket = fleet.client_socket();
        socket.send_to(packet, SERVICE).expect("sent");
        // Silence is waited for; an answer ends the wait.
        let patience = Duration::from_millis(if expected.is_some() { 2_000 } else { 100 });
        socket.set_read_timeout(Some(patience)).expect("a time-out");
        let mut answer = [0; 512];
        match (socket.recv(&mut answer), expected) {
            (Ok(length), Some(code)) => {
                assert_eq!(dns::rcode(&answer), *code, "{what}");
                assert_eq!((&answer[..2], answer[2] & 0x80), (&packet[..2], 0x80), "{what}");
                assert!(length <= packet.len(), "{what}: {length} bytes for {}", packet.len());
            }
            (Err(_), None) => {}
            (found, expected) => panic!("{what}: found {found:?}, expected {expected:?}"),
        }
    }
    fleet.wait_for_counter("m1", "queries", cases.len() as u64 - 1);
    let silent = cases.iter().filter(|(_, packet, code)| code.is_none() && !packet.is_empty()).count() as u64;
    assert!(fleet.counter("m1", "queries_ignored") >= silent);
    assert_eq!(fleet.counter("m1", "races") + fleet.counter("m1", "orders") + fleet.counter("tokyo", "orders"), 0);
    // And the same client's sound query races.
    let answers = addresses(&fleet.ask(RACED, RACE_OVER));
    assert!(answers.len() == 2 && answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT)), "{answers:?}");
    Ok(())
}

fn junk_on_the_fast_path_is_counted_and_changes_nothing() -> Result<(), String> {
    const COPIES: u64 = 20;
    let fleet = Fleet::racing()?;
    for name in ["m1", "tokyo"] {
        let target = SocketAddr::from((fleet.host(name).address, FAST_PATH_PORT));
        // What a stranger on the path would have overheard.
        let tap = Tap::on(fleet.host(name));
        let genuine = wait_for("a sealed datagram", Duration::from_secs(3), || {
            let seen = tap.watch(Duration::from_millis(150));
            seen.into_iter().find(|(_, to, bytes)| *to == FAST_PATH_PORT && bytes.first() == Some(&SEALED))
        });
        let genuine = genuine.2;
        let mut forged = genuine.clone();
        forged[COUNTER].copy_from_slice(&u64::MAX.wrapping_sub(9).to_be_bytes());
        let mut unknown = genuine.clone();
        unknown[4..12].copy_from_slice(&[0x11; 8]);
        // An agent looks among its sessions before it looks at the form.
        let malformed = if name == "m1" { "datagram_malformed" } else { "datagram_unknown_session" };
        let kinds: [(&str, Vec<u8>); 5] = [
            ("datagram_replayed", genuine.clone()),
            ("datagram_forged", forged),
            ("datagram_unknown_session", unknown),
            (malformed, genuine[..19].to_vec()),
            (malformed, vec![SEALED ^ 0xff; 700]),
        ];
        let before: Vec<u64> = kinds.iter().map(|(counter, _)| fleet.counter(name, counter)).collect();
        let socket = fleet.stranger().run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        for (_, bytes) in &kinds {
            for _ in 0..COPIES {
                socket.send_to(bytes, target).expect("sent");
            }
        }
        socket.send_to(&[], target).expect("sent");
        let challenge = [&[0x5c][..], &[7; 16]].concat();
        socket.send_to(&challenge, target).expect("sent");
        for ((counter, _), before) in kinds.iter().zip(before) {
            let copies = kinds.iter().filter(|(other, _)| other == counter).count() as u64 * COPIES;
            fleet.wait_for_counter(name, counter, before + copies);
        }
        let replies = dns::receive_all(&socket, Duration::from_millis(100));
        assert!(replies.is_empty(), "{name} answered a stranger: {replies:?}");
    }
    // Nothing has changed: the same agents race, no clock was stepped, both sites answer.
    assert_eq!(fleet.racing_agents(), ["frankfurt", "tokyo"]);
    let status = fleet.status("tokyo").expect("a status");
    assert_eq!(status["masters"][0]["report"]["clock"]["steps"], 0, "{status:#}");
    fleet.validate(fleet.client());
    let answers = addresses(&fleet.ask(RACED, RACE_OVER));
    assert!(answers.len() == 2 && answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT)), "{answers:?}");
    assert_eq!(fleet.log("m1").matches(" connected").count(), 2, "{}", fleet.log("m1"));
    Ok(())
}

/// How many lines of the master's log say "refused" and all of `words`.
fn refusals(fleet: &Fleet, words: &[&str]) -> usize {
    let log = fleet.log("m1");
    log.lines().filter(|line| line.contains("refused") && words.iter().all(|word| line.contains(word))).count()
}

/// Trusts any master: a stranger does not care whom it talks to.
#[derive(Debug)]
struct AnyMaster(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyMaster {
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
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to the control port from the stranger's host with the certificate in `directory` (with none where that is
/// empty) and says hello as an agent does. What the master answers; the connection is over then.
fn knock(fleet: &Fleet, directory: &str, name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyMaster(provider)));
    let file = |ending: &str| fleet.path(&format!("{directory}/{name}.{ending}"));
    let config = if directory.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = CertificateDer::pem_file_iter(file("crt")).expect("a file").collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_file(file("key")).expect("a key");
        builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
    };
    let hello =
        br#"{"hello":{"protocol":1,"site":"tokyo","fast_path":"203.0.113.66:8531","services":[],"playbook":null}}"#;
    fleet.stranger().run(move || {
        let server = ServerName::try_from("m1").expect("a name");
        let mut connection = rustls::ClientConnection::new(Arc::new(config), server).expect("a connection");
        let mut stream = TcpStream::connect(CONTROL).expect("the control port is open");
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        let mut answer = vec![0; 4_096];
        // Writing may fail because the master has closed already: what it has said is what counts.
        let said = tls.write_all(&(hello.len() as u32).to_be_bytes()).and_then(|()| tls.write_all(hello));
        let length = said.and_then(|()| tls.read(&mut answer)).unwrap_or(0);
        answer.truncate(length);
        answer
    })
}

fn certificates_that_do_not_fit_are_refused_and_logged_once() -> Result<(), String> {
    let mut fleet = Fleet::new(&Options::default())?;
    fleet.start("m1");
    fleet.start("tokyo");
    fleet.wait_until_racing(&["tokyo"]);
    // The check of the check: with a sound certificate the master says welcome.
    fleet.enroll("lisbon", "agent");
    assert!(!knock(&fleet, "lisbon", "lisbon").is_empty());
    assert_eq!(refusals(&fleet, &[]), 0, "{}", fleet.log("m1"));

    // None; another fleet's, of the same fleet name; a master's.
    fleet.command(&["fleet", "init", "--dir", "other"]);
    fleet.command(&["fleet", "enroll", "paris", "--role", "agent", "--dir", "other"]);
    fleet.enroll("oslo", "master");
    for (logged, (directory, name)) in [("", ""), ("paris", "paris"), ("oslo", "oslo")].into_iter().enumerate() {
        for _ in 0..4 {
            assert!(knock(&fleet, directory, name).is_empty(), "the master talks to {directory:?}");
        }
        wait_for("a line in the log", Duration::from_secs(2), || (refusals(&fleet, &[]) > logged).then_some(()));
        assert_eq!(refusals(&fleet, &[]), logged + 1, "after {directory:?}: {}", fleet.log("m1"));
    }

    // A revoked one: an agent that races is put out within seconds, and not let in again.
    fleet.command(&["fleet", "revoke", "tokyo"]);
    std::fs::copy(fleet.path("fleet/revoked.crl"), fleet.path("m1/revoked.crl")).expect("copied");
    fleet.wait_until_racing(&[]);
    let closed = fleet.log("m1").matches(" connected").count();
    for _ in 0..4 {
        assert!(knock(&fleet, "tokyo", "tokyo").is_empty(), "the master talks to a revoked agent");
    }
    let revoked = refusals(&fleet, &["revoked"]);
    assert!((1..=2).contains(&revoked), "an open session and new ones, once each: {}", fleet.log("m1"));
    assert_eq!(fleet.log("m1").matches(" connected").count(), closed, "{}", fleet.log("m1"));
    assert_eq!(fleet.status("m1").expect("a status")["agents"], serde_json::json!([]));
    Ok(())
}
