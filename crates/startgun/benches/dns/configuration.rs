//! Startgun's configurations: a master with one shard, and an agent without limits of its own.

use crate::common::Stage;

/// A master's; `keys` and `tables` are TOML.
pub fn master(stage: &Stage, keys: &str, tables: &str) -> String {
    format!(
        "role = \"master\"\nname = \"m1\"\ncontrol_listen = \"{}\"\nfast_path_listen = \"{}\"\nstate_dir = \"state-m1\"\n\
         status_socket = \"m1.sock\"\nshards = 1\n{keys}{}\
         [clock]\nhost_source = \"none\"\n[[service]]\naddress = \"{}\"\n{tables}",
        stage.control(),
        stage.master_fast(),
        fleet("m1"),
        stage.service(),
    )
}

/// An agent's, the one at this place.
pub fn agent(stage: &Stage, place: usize, name: &str) -> String {
    format!(
        "role = \"agent\"\nname = \"{name}\"\nfast_path_listen = \"{}\"\nstate_dir = \"state-{name}\"\n\
         status_socket = \"{name}.sock\"\n{}\
         [limits]\ndepartures_per_s = 1000000\ndepartures_per_prefix_per_s = 1000000\nallow_private_destinations = true\n\
         [clock]\nmesh = false\nhost_source = \"none\"\nsource = \"master\"\nexchange_interval_ms = 50\n\
         [departure]\nmax_lateness_ms = 1000\n\
         [[master]]\nname = \"m1\"\ncontrol = \"{}\"\nservice_addresses = [\"{}\"]\n",
        stage.agent_fast(place),
        fleet(name),
        stage.control(),
        stage.service(),
    )
}

fn fleet(name: &str) -> String {
    format!("[fleet]\nca = \"{name}/ca.crt\"\ncertificate = \"{name}/{name}.crt\"\nkey = \"{name}/{name}.key\"\n")
}
