//! Knot Resolver 5, with the zone as a stub policy.
//!
//! `policy.STUB` sends RD=1 and validates nothing. The modules that would ask the root servers or watch over trust anchors are
//! unloaded; those that a version does not have are passed over.

use std::io;
use std::process::Command;

use super::{Setup, nice};

/// Writes `kresd.conf`.
pub(super) fn command(setup: &Setup) -> io::Result<Command> {
    let zone = setup.zone;
    let server = setup.server_with_at();
    setup.write(
        "kresd.conf",
        &format!(
            r#"net.listen('127.0.0.1', 53, {{ kind = 'dns' }})
for _, name in ipairs({{'priming', 'ta_signal_query', 'ta_update', 'detect_time_skew', 'detect_time_jump'}}) do
  pcall(modules.unload, name)
end
pcall(trust_anchors.remove, '.')
cache.open(10 * MB, 'lmdb://cache')
policy.add(policy.suffix(policy.STUB({{'{server}'}}), policy.todnames({{'{zone}'}})))
"#
        ),
    )?;
    let mut command = nice(setup.program);
    command
        // No control socket: its path would be too long for a socket in a deep directory.
        .env("KRESD_NO_LISTEN", "1")
        .args(["--noninteractive", "--config", "kresd.conf", "."]);
    Ok(command)
}
