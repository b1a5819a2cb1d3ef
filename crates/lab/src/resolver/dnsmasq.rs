//! dnsmasq, which hands on what it is asked and has no resolver of its own.
//!
//! It repeats nothing by itself: the client's own retries are the only ones. It also hands on an answer with TC=1 as it
//! is; the client has to come again over TCP, and then it does, too.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// Writes `dnsmasq.conf`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    let zone = setup.zone_undotted();
    let server = setup.server_with_hash();
    setup.write(
        "dnsmasq.conf",
        &format!(
            "keep-in-foreground
log-facility=-
pid-file=
port=53
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
server=/{zone}/{server}
cache-size=150
"
        ),
    )?;
    let mut command = nice(setup.program);
    // As root it looks up a user and a group to change to. Root is the user it is; of groups, none.
    command.args(["--conf-file=dnsmasq.conf", "--user=root", "--group="]);
    Ok(command)
}
