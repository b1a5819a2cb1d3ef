//! DNS over TCP and TLS: the tables `[tcp]` and `[tls]` of a master.
//!
//! One certificate and one port for TLS serve all service addresses, as operators know it from other servers: a resolver
//! that probes port 853 of an address (RFC 9539 section 3) should find the same server behind each of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use startgun_core::time::Span;

use super::host::{Listeners, Transport};
use super::reader::{Section, Value};
use crate::control::tls::TlsError;
use crate::dns_tls::{DnsTls, DnsTlsFiles, VALID_NOW};

/// Most connections at once: with up to 64 KiB that TLS keeps for each, a gigabyte.
const CONNECTIONS_MAX: i64 = 16_384;
/// Most queries of one connection; beyond that, a handshake more or less is nothing.
const QUERIES_MAX: i64 = 1_000_000;
/// Range of the idle time-out, in milliseconds: what edns-tcp-keepalive can say (RFC 7828 section 3.1), 1 to 65,535 units
/// of 100 ms.
const IDLE_MS: std::ops::RangeInclusive<f64> = 100.0..=6_553_500.0;
/// Range of the time for a message, in milliseconds: a packet sent again (RFC 6298 section 2: 1 s) takes longer than the
/// least of it, so that is for tests; after a minute nobody waits any more.
const MESSAGE_MS: std::ops::RangeInclusive<f64> = 100.0..=60_000.0;
/// Where resolvers look for DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;
/// RFC 7858 section 3.1 of a port that is agreed on instead: "Such another port MUST NOT be port 53".
const PLAIN_PORT: u16 = 53;

/// What serves DNS over streams.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamConfig {
    /// What connections are bounded by.
    pub limits: StreamLimits,
    /// DNS over TLS, where there is a certificate.
    pub tls: Option<TlsConfig>,
}

/// What connections are bounded by, over TCP and TLS together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamLimits {
    /// At once, over all service addresses; at least 1.
    pub connections: usize,
    /// At once, of one client prefix; 1 to `connections`.
    pub connections_per_prefix: usize,
    /// Queries of one connection; at least 1.
    pub queries_per_connection: u32,
    /// How long a connection may be idle, while there are places enough.
    pub idle_timeout: Span,
    /// Within what time what was begun must be over: a message, a handshake, the taking of answers.
    pub message_timeout: Span,
}

impl Default for StreamLimits {
    /// RFC 7766 section 6.2.3 recommends an idle time-out of a few seconds. 16 connections of a prefix are a farm of
    /// resolvers that all come at once.
    fn default() -> Self {
        StreamLimits {
            connections: 512,
            connections_per_prefix: 16,
            queries_per_connection: 1_000,
            idle_timeout: Span::from_secs(10),
            message_timeout: Span::from_secs(5),
        }
    }
}

/// DNS over TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsConfig {
    /// Certificate and key.
    pub files: DnsTlsFiles,
    /// Where it is served, each once.
    pub addresses: Vec<SocketAddr>,
}

/// Reads both tables; `None` only where a fault was noted.
pub(super) fn read_streams(
    root: &Section<'_>,
    services: &[SocketAddr],
    listeners: &mut Listeners,
) -> Option<StreamConfig> {
    let limits = root.section("tcp").map_or_else(StreamLimits::default, read_limits);
    let tls = match root.section("tls") {
        Some(section) => Some(read_tls(section, services, listeners)?),
        None => None,
    };
    Some(StreamConfig { limits, tls })
}

fn read_limits(section: Section<'_>) -> StreamLimits {
    let default = StreamLimits::default();
    let connections =
        section.or("max_connections", default.connections, |value| value.integer(1..=CONNECTIONS_MAX, "connections"));
    // A default never contradicts a value that was given.
    let per_prefix = default.connections_per_prefix.min(connections);
    let limits = StreamLimits {
        connections,
        connections_per_prefix: section.or("max_connections_per_prefix", per_prefix, |value| {
            value.integer(1..=i64::try_from(connections).unwrap_or(i64::MAX), "connections (at most max_connections)")
        }),
        queries_per_connection: section.or("max_queries_per_connection", default.queries_per_connection, |value| {
            value.integer(1..=QUERIES_MAX, "queries")
        }),
        idle_timeout: section.or("idle_timeout_ms", default.idle_timeout, |value| value.milliseconds(IDLE_MS)),
        message_timeout: section
            .or("message_timeout_ms", default.message_timeout, |value| value.milliseconds(MESSAGE_MS)),
    };
    section.finish();
    limits
}

fn read_tls(section: Section<'_>, services: &[SocketAddr], listeners: &mut Listeners) -> Option<TlsConfig> {
    let expected = "the path of a certificate, followed by its intermediates, in PEM form";
    let certificate = section.required("certificate", expected, with_path);
    let key = section.required("key", "the path of its private key, in PEM form", with_path);
    let port = section.or("port", TLS_PORT, |value| match value.integer(1..=65_535, "a TCP port")? {
        PLAIN_PORT => value.wrong("a port of its own: 53 is for DNS without TLS"),
        port => Some(port),
    });
    let addresses = tls_addresses(&section, services, port, listeners);
    section.finish();
    let ((certificate, certificate_value), (key, key_value)) = (certificate?, key?);
    let files = DnsTlsFiles { certificate, key };
    if certificate_value.document.checks_host {
        check_files(&files, &certificate_value, &key_value);
    }
    Some(TlsConfig { files, addresses })
}

fn with_path(value: Value<'_>) -> Option<(PathBuf, Value<'_>)> {
    Some((value.existing_file()?, value))
}

/// The service addresses' hosts, each once, with the port.
fn tls_addresses(
    section: &Section<'_>,
    services: &[SocketAddr],
    port: u16,
    listeners: &mut Listeners,
) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for service in services {
        let address = SocketAddr::new(service.ip(), port);
        if addresses.contains(&address) {
            continue;
        }
        if let Some(taker) = listeners.taker(address, Transport::Tcp) {
            section.wrong::<()>(format!("port {port}, so {address}"), format!("a port that {taker} does not take"));
        }
        addresses.push(address);
    }
    addresses
}

/// Whether the files can be served with: what the start would say, with the line.
fn check_files(files: &DnsTlsFiles, certificate: &Value<'_>, key: &Value<'_>) {
    let value_of = |file: &Path| if file == files.key { key } else { certificate };
    match DnsTls::load(files) {
        Ok(tls) => {
            if let Some(doubt) = tls.validity().doubt() {
                certificate.warn(format!("{doubt} in {}", files.certificate.display()), VALID_NOW);
            }
        }
        Err(TlsError::Unreadable { file, source }) => {
            value_of(&file).fault::<()>(format!("{}: {source}", file.display()), "a readable file");
        }
        Err(TlsError::Unsuitable { file, found, expected }) => {
            value_of(&file).fault::<()>(format!("{}: {found}", file.display()), expected);
        }
    }
}
