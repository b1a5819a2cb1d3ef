//! systemd-resolved, without the system that it is part of.
//!
//! **Problem.** It takes no options: the configuration, the socket of the message bus and its state are in fixed places below `/run` and
//! `/etc`. Started as root it changes to the user `systemd-resolve`, which a machine without its package does not
//! have and a user namespace cannot map; started as anybody else it may not open port 53.
//!
//! **Sketch.** A mount namespace of its own, made by `unshare`, in which `/run` is an empty file system in memory and `/etc/passwd`
//! says that `systemd-resolve` has uid 0: changing to that user is allowed even where only uid 0 exists, and the program
//! still drops all capabilities but three. It finds no message bus and waits for one in peace.
//!
//! It asks nobody while the only interface that is up is the loopback: the host needs its real one first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use super::install::library_path;
use super::{Setup, nice};

/// Where it listens; it cannot be told otherwise.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);

/// Runs in the resolver's directory. That may itself be below `/run`: so the user list is mounted before `/run` is covered, and the
/// configuration is copied by a path relative to the directory that the shell is in already.
const SCRIPT: &str = r#"set -e
mount --bind passwd /etc/passwd
mount -t tmpfs -o mode=755,size=1m tmpfs /run
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
cat <resolved.conf >/run/systemd/resolved.conf.d/zz-startgun.conf
export SYSTEMD_LOG_TARGET=console
if [ -n "$2" ]; then export LD_LIBRARY_PATH="$2"; fi
exec "$1"
"#;

/// Writes `resolved.conf` and `passwd`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    // The empty assignments drop what other files of the machine assigned before: this one's name sorts last.
    setup.write(
        "resolved.conf",
        &format!(
            "[Resolve]
DNS=
DNS={server}
FallbackDNS=
Domains=
Domains=~{zone}
DNSSEC=no
DNSOverTLS=no
LLMNR=no
MulticastDNS=no
Cache=no
ReadEtcHosts=no
DNSStubListener=yes
",
            server = setup.server,
            zone = setup.zone_undotted(),
        ),
    )?;
    setup.write("passwd", "root:x:0:0::/:/bin/sh\nsystemd-resolve:x:0:0::/:/bin/sh\n")?;
    let mut command = nice("unshare".as_ref());
    command
        .args(["--mount", "--", "sh", "-c", SCRIPT, "sh"])
        .arg(setup.program)
        .arg(library_path(setup.program).unwrap_or_default());
    Ok(command)
}
