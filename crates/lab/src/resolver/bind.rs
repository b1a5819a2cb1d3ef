//! BIND 9, with the zone forwarded or as a static stub.
//!
//! A `static-stub` zone asks without RD, but takes no port; a `forward` zone does. The root zone gets an empty file of
//! hints, so that nobody else can be asked.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// How BIND is told about the zone's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneKind {
    /// Hands on what it is asked.
    Forward,
    /// Looks for the answer itself, at port 53 of the server.
    StaticStub,
}

/// Writes `named.conf`.
pub(super) fn command(setup: &Setup, kind: ZoneKind) -> io::Result<Command> {
    let zone = setup.zone_undotted();
    let (address, port) = (setup.server.ip(), setup.server.port());
    let server = match kind {
        ZoneKind::Forward => format!("type forward; forward only; forwarders {{ {address} port {port}; }};"),
        ZoneKind::StaticStub => format!("type static-stub; server-addresses {{ {address}; }};"),
    };
    setup.write(
        "named.conf",
        &format!(
            r#"options {{
  directory ".";
  pid-file none;
  lock-file none;
  session-keyfile none;
  listen-on port 53 {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  interface-interval 0;
  recursion yes;
  allow-query {{ 127.0.0.0/8; }};
  dnssec-validation no;
  empty-zones-enable no;
  prefetch 0;
  stale-cache-enable no;
  stale-answer-enable no;
  max-cache-size 8m;
}};
# No control channel: its fixed port and key file belong to the installed service.
controls {{ }};
zone "." {{ type hint; file "/dev/null"; }};
zone "{zone}" {{ {server} }};
"#
        ),
    )?;
    let mut command = nice(setup.program);
    // In the foreground, logging to the standard error output; one worker; no switch of user, because none is named.
    command.args(["-g", "-n", "1", "-c", "named.conf"]);
    Ok(command)
}
