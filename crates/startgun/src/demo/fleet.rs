//! The demo's fleet: certificates and configurations, made with the commands and files that an operator uses.

use super::ZONE;
use startgun_core::control::MAX_SITE_NAME;
use startgun_lab::process::Process;
use startgun_lab::world::{Host, Role, SERVICE_IPV4, World};
use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

const CONTROL_PORT: u16 = 8530;
const FAST_PATH_PORT: u16 = 8531;
/// Answers come from here (TEST-NET-2 holds the service address, this is RFC 2544's benchmarking range): the site with
/// index i answers 198.18.1.(i + 1), the master's fallback 198.18.0.1.
const SITE_ADDRESSES: [u8; 3] = [198, 18, 1];
const FALLBACK_ADDRESS: &str = "198.18.0.1";

fn site_address(index: usize) -> Ipv4Addr {
    let [a, b, c] = SITE_ADDRESSES;
    Ipv4Addr::new(a, b, c, index as u8 + 1)
}

/// The index of the site that answers with `address`; `None` for the fallback's and any other.
pub(super) fn site_of(address: Ipv4Addr) -> Option<usize> {
    let [a, b, c, last] = address.octets();
    ([a, b, c] == SITE_ADDRESSES).then(|| usize::from(last).checked_sub(1)).flatten()
}

/// A map may hold round trips of more than half a second, beyond what the default of 250 ms lets race.
pub(super) const MAX_BOUND_MS: f64 = 1_000.0;
/// All agents of the demo share this host's cores and depart at the same instant; a busy host must show in the report's
/// start spread, not as a site that stands down.
pub(super) const MAX_LATENESS_MS: f64 = 100.0;
/// The site's name in configurations and NSID: the place's, as far as a site name may hold it, or the host's where that
/// leaves nothing of its own.
pub(super) fn site_name(world: &World, index: usize) -> String {
    let plain = |name: &str| -> String {
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
        name.chars().map(allowed).take(MAX_SITE_NAME).collect()
    };
    let agent = &world.agents[index];
    let name = plain(&agent.name);
    let alike = world.agents.iter().filter(|other| plain(&other.name) == name).count();
    if name.is_empty() || alike > 1 { agent.id.clone() } else { name }
}

fn own_program() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("finding this program: {error}"))
}

/// Makes the CA, a certificate and a configuration for every host of master and agents.
pub(super) fn make(world: &World, directory: &Path) -> Result<(), String> {
    fleet_command(directory, &["init"])?;
    for host in std::iter::once(&world.master).chain(&world.agents) {
        let role = if host.role == Role::Master { "master" } else { "agent" };
        fleet_command(directory, &["enroll", &host.id, "--role", role])?;
    }
    write(directory, "master.toml", &master_toml(world))?;
    let mut agents = world.agents.iter().enumerate();
    agents.try_for_each(|(index, agent)| write(directory, &format!("{}.toml", agent.id), &agent_toml(world, index)))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn fleet_command(directory: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(own_program()?)
        .arg("fleet")
        .args(arguments)
        .current_dir(directory)
        .output()
        .map_err(|error| format!("startgun fleet: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("startgun fleet {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))),
    }
}

/// What both kinds of host have in their configuration.
fn common_toml(role: &str, host: &Host) -> String {
    let id = &host.id;
    format!(
        "role = \"{role}\"\nname = \"{id}\"\nstate_dir = \"state-{id}\"\nstatus_socket = \"{id}.sock\"\n\
         fast_path_listen = \"{}:{FAST_PATH_PORT}\"\n",
        host.ipv4
    )
}

/// The tables that both have, `[clock]` last. All hosts share one kernel, whose clock would tell them the truth.
fn tables_toml(host: &Host) -> String {
    let id = &host.id;
    let mesh_key = match host.role {
        Role::Agent => format!("mesh_key = \"{id}/{id}.mesh.key\"\n"),
        _ => String::new(),
    };
    format!(
        "[fleet]\nca = \"{id}/ca.crt\"\ncertificate = \"{id}/{id}.crt\"\nkey = \"{id}/{id}.key\"\n{mesh_key}\
         revoked = \"{id}/revoked.crl\"\n\
         [clock_distortion]\noffset_s = {:?}\ndrift_ppm = {:?}\n\
         [clock]\nhost_source = \"none\"\n",
        host.clock.offset_ns as f64 / 1e9,
        host.clock.drift_ppb as f64 / 1e3,
    )
}

fn master_toml(world: &World) -> String {
    let mut toml = common_toml("master", &world.master);
    let _ = writeln!(toml, "control_listen = \"{}:{CONTROL_PORT}\"", world.master.ipv4);
    toml += &tables_toml(&world.master);
    let _ = write!(
        toml,
        "[[service]]\naddress = \"{SERVICE_IPV4}:53\"\n\
         [[zone]]\nname = \"{ZONE}\"\nrecords = \"\"\"\n\
         @ 3600 IN SOA ns host 1 3600 600 86400 60\n@ 3600 IN NS ns\nns 3600 IN A {SERVICE_IPV4}\n\"\"\"\n\
         [[race]]\nname = \"*.{ZONE}\"\nttl_s = 1\ncover = 1.0\n\
         [race.fallback]\na = [\"{FALLBACK_ADDRESS}\"]\n"
    );
    for index in 0..world.agents.len() {
        let _ = writeln!(toml, "[race.sites.{}]\na = [\"{}\"]", site_name(world, index), site_address(index));
    }
    toml
}

fn agent_toml(world: &World, index: usize) -> String {
    let agent = &world.agents[index];
    let mut toml = common_toml("agent", agent);
    let _ = write!(toml, "site = \"{}\"\naudit_log = \"{}.jsonl\"\n", site_name(world, index), agent.id);
    toml += &tables_toml(agent);
    let _ = write!(
        toml,
        "max_bound_ms = {MAX_BOUND_MS:?}\n[limits]\nallow_private_destinations = true\n\
         [departure]\nmax_lateness_ms = {MAX_LATENESS_MS:?}\n\
         [[master]]\nname = \"{}\"\ncontrol = \"{}:{CONTROL_PORT}\"\nservice_addresses = [\"{SERVICE_IPV4}:53\"]\n",
        world.master.id, world.master.ipv4
    );
    toml
}

/// Starts this program as a master or agent on its host; it logs to `ID.log`.
pub(super) fn start(host: &Host, role: &str, directory: &Path) -> Result<Process, String> {
    let fault = |error: std::io::Error| format!("starting the {role} in {}: {error}", host.name);
    let log = File::create(directory.join(format!("{}.log", host.id))).map_err(fault)?;
    let mut command = Command::new(own_program()?);
    command
        .arg(role)
        .arg("--config")
        .arg(directory.join(format!("{}.toml", host.id)))
        .current_dir(directory)
        .env("NO_COLOR", "1")
        .stdout(log.try_clone().map_err(fault)?)
        .stderr(log);
    host.spawn(command).map_err(fault)
}
