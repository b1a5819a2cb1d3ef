//! Unbound, with the zone as a stub.
//!
//! `unwanted-reply-threshold: 0` is its default and said for safety: with a threshold, the losers of races, which arrive at
//! ports that are closed or in other use by then, would count as an attack and clear the cache.
//!
//! The validator is left out rather than silenced for one zone: without root servers nothing could be validated.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// Writes `unbound.conf`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    let zone = setup.zone;
    let server = setup.server_with_at();
    let has_ipv6 = if setup.server.is_ipv6() { "yes" } else { "no" };
    setup.write(
        "unbound.conf",
        &format!(
            r#"server:
  directory: "."
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 1
  num-threads: 1
  interface: 127.0.0.1
  port: 53
  access-control: 127.0.0.0/8 allow
  do-ip6: {has_ipv6}
  module-config: "iterator"
  domain-insecure: "{zone}"
  # The zone may lie below "test.", which Unbound answers by itself otherwise (RFC 6761).
  local-zone: "test." nodefault
  do-not-query-localhost: no
  unwanted-reply-threshold: 0
  ratelimit: 0
  ip-ratelimit: 0
  prefetch: no
  serve-expired: no
  outgoing-range: 512
  num-queries-per-thread: 256
  msg-cache-size: 1m
  rrset-cache-size: 1m
  key-cache-size: 100k
  neg-cache-size: 100k
remote-control:
  control-enable: no
stub-zone:
  name: "{zone}"
  stub-addr: {server}
  stub-prime: no
"#
        ),
    )?;
    let mut command = nice(setup.program);
    command.args(["-d", "-c", "unbound.conf"]);
    Ok(command)
}
