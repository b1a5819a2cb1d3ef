//! The configuration that `fleet enroll` writes beside an agent's certificate, so that a new site needs no editor.
//!
//! An agent's file says little that enrolment does not know: who it is, where its certificate is, and the one master that
//! the operator names. Everything else has defaults. Paths are relative to the file, so that its directory can be copied
//! to the host as it is.

use std::net::SocketAddr;

use crate::control::tls::check_name;

/// What agents' files say about the master that they are to serve.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) master: Master,
    /// The addresses that the agents may speak for.
    pub(super) services: Vec<SocketAddr>,
}

/// The master that an agent is to serve.
#[derive(Debug, Clone)]
pub(super) struct Master {
    name: String,
    control: SocketAddr,
}

/// Reads `NAME=ADDRESS:PORT`.
///
/// # Errors
/// A sentence with what was found and expected.
pub(super) fn parse_master(text: &str) -> Result<Master, String> {
    let (name, control) = text.split_once('=').ok_or("expected NAME=ADDRESS:PORT")?;
    check_name(name).map_err(|error| error.to_string())?;
    let control = control.parse().map_err(|_| format!("found {control:?}, expected ADDRESS:PORT"))?;
    Ok(Master { name: name.to_owned(), control })
}

/// The file of the agent `name`, whose site has the same name; `has_mesh_key` where its certificate carries one.
pub(super) fn agent(name: &str, Link { master, services }: &Link, has_mesh_key: bool) -> String {
    let mesh_key = if has_mesh_key { format!("mesh_key = \"{name}.mesh.key\"\n") } else { String::new() };
    let services: Vec<String> = services.iter().map(|service| format!("\"{service}\"")).collect();
    format!(
        "# Written by `startgun fleet enroll`. docs/samples/agent.toml explains every key.\n\
         role = \"agent\"\nname = \"{name}\"\n\
         # The site that this agent answers for: a table [race.sites.{name}] of the master's file.\n\
         site = \"{name}\"\n\
         # Packages keep these in /var/lib/startgun and /run/startgun.\n\
         state_dir = \"state\"\nstatus_socket = \"agent.sock\"\n\n\
         [fleet]\nca = \"ca.crt\"\ncertificate = \"{name}.crt\"\nkey = \"{name}.key\"\n{mesh_key}\
         revoked = \"revoked.crl\"\n\n\
         [[master]]\nname = \"{}\"\ncontrol = \"{}\"\nservice_addresses = [{}]\n",
        master.name,
        master.control,
        services.join(", ")
    )
}
