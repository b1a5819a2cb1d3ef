//! PowerDNS Recursor, with the zone forwarded.
//!
//! `spoof-nearmiss-max`: after that many answers from the right address with a wrong id (1 by default), it goes over to TCP for the
//! query. Losers of one race may meet the port of another query, so a race would count as spoofing.
//!
//! `dont-throttle-netmasks`: after one time-out or refusal it does not ask a server for the same name for some seconds and answers
//! SERVFAIL at once, so a client's own retry would find nobody.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// Near misses per query that are taken without going over to TCP. Losers per race are fewer than agents; a thousand is out
/// of reach.
const SPOOF_NEARMISS_MAX: u32 = 1000;

/// Writes `recursor.conf`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    let zone = setup.zone_undotted();
    // With a port, the notation of `SocketAddr`: [address]:port for IPv6.
    let server = setup.server;
    let source = if server.is_ipv6() { "0.0.0.0,::" } else { "0.0.0.0" };
    setup.write(
        "recursor.conf",
        &format!(
            "daemon=no
disable-syslog=yes
write-pid=no
socket-dir=.
setuid=
setgid=
threads=1
local-address=127.0.0.1
local-port=53
allow-from=127.0.0.0/8
query-local-address={source}
forward-zones={zone}={server}
# No root servers, and no address that may not be asked.
hint-file=no
dont-query=
# Asks for signatures, as by default, and validates none.
dnssec=process-no-validate
# No question to PowerDNS about security updates.
security-poll-suffix=
spoof-nearmiss-max={SPOOF_NEARMISS_MAX}
dont-throttle-netmasks=0.0.0.0/0,::/0
disable-packetcache=yes
refresh-on-ttl-perc=0
max-cache-entries=10000
"
        ),
    )?;
    let mut command = nice(setup.program);
    command.arg("--config-dir=.");
    Ok(command)
}
