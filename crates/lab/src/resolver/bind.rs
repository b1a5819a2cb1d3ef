//! BIND 9, with the zone forwarded.
//!
//! A `static-stub` zone would ask without RD, but takes no port; a `forward` zone does. The root zone gets an empty file of
//! hints, so that nobody else can be asked.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// Writes `named.conf`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    let zone = setup.zone_undotted();
    let (address, port) = (setup.server.ip(), setup.server.port());
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
zone "{zone}" {{ type forward; forward only; forwarders {{ {address} port {port}; }}; }};
"#
        ),
    )?;
    let mut command = nice(setup.program);
    // In the foreground, logging to the standard error output; one worker; no switch of user, because none is named.
    command.args(["-g", "-n", "1", "-c", "named.conf"]);
    Ok(command)
}
