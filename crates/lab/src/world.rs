//! A scenario brought to life: one network namespace per host, and the emulated network between them.
//!
//! Every host has one interface, `eth0`, with one IPv4 address, one IPv6 address and a default route through it. It
//! speaks no ARP: all hosts share one hardware address, so that a frame sent by any is a frame for any, and the
//! emulator hands it on unchanged. The master has the service address as well, on its loopback.
//!
//! ```text
//! master   10.77.0.1    fd77::1        and the service address 198.51.100.53, 2001:db8:53::53
//! agents   10.77.1.i    fd77::1:i      i from 1, in the scenario's order
//! clients  10.77.2.i    fd77::2:i
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::net::if_::if_nametoindex;
use startgun_net::packet::disable_transmit_checksum_offload;

use crate::emulator::{Emulator, Routing, Wan};
use crate::namespace::{Namespace, in_step, set_network_sysctl};
use crate::netlink::{LOOPBACK_INDEX, Netlink};
use crate::process::{Process, ProcessGroup};
use crate::scenario::{ClockDraw, Scenario};

/// The service address (TEST-NET-2, RFC 5737): local at the master only.
pub const SERVICE_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);

/// The service address for IPv6 (documentation prefix, RFC 3849).
pub const SERVICE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);

/// The interface of every host.
pub const INTERFACE: &str = "eth0";

/// The hardware address that all share: locally administered (IEEE 802c), "sgun".
const SHARED_MAC: [u8; 6] = [0x02, 0x00, 0x73, 0x67, 0x75, 0x6e];

/// Keeps the network's random numbers apart from the clocks', which are drawn from the same seed.
const WAN_SEED_SALT: u64 = 0x7761_6e5f_7365_6564;

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The authoritative server.
    Master,
    /// A server at a site.
    Agent,
    /// A resolver, or its stand-in, and the load that asks it.
    Client,
}

/// One host: a network namespace with addresses, and a false clock for the programs that run there.
#[derive(Debug)]
pub struct Host {
    /// The place in the scenario. A place may hold an agent and a client: use [`Self::id`] where one word must do.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Unique in the world and fit for a file name: `master`, `agent-1`, `client-3`.
    pub id: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address; `None` where the kernel has no IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// How wrong its clock is to be made, by the configuration of its programs.
    pub clock: ClockDraw,
    namespace: Namespace,
    processes: Arc<ProcessGroup>,
}

impl Host {
    /// Starts a program on this host. It ends when the lab does, and when the returned value is dropped. Its standard
    /// input is empty.
    ///
    /// # Errors
    /// The error of starting it, with its name.
    pub fn spawn(&self, command: Command) -> io::Result<Process> {
        let group = Arc::clone(&self.processes);
        self.namespace.run(move || group.spawn(command))
    }

    /// Runs `job` on this host, to open sockets there for example, and returns its result; they stay on this host wherever
    /// they are used. One job runs at a time.
    ///
    /// # Panics
    /// With the panic of `job`.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.namespace.run(job)
    }

    /// Starts a thread on this host.
    ///
    /// # Errors
    /// The system call's error, when no thread can be had.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        self.namespace.thread(name, body)
    }
}

/// Hosts and the network between them. Dropping it ends every process started on its hosts.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: the network first, so that it does not complain about hosts that go.
    /// The network.
    pub emulator: Emulator,
    /// The master's host.
    pub master: Host,
    /// The sites' hosts, in the scenario's order.
    pub agents: Vec<Host>,
    /// The clients' hosts, in the scenario's order.
    pub clients: Vec<Host>,
    _hub: Namespace,
}

impl World {
    /// Builds the scenario's world. The caller has called
    /// [`enter_user_namespace_if_needed`](crate::namespace::enter_user_namespace_if_needed) or is root.
    ///
    /// # Errors
    /// The error of the step that failed, which its text names.
    pub fn build(scenario: &Scenario, seed: u64) -> io::Result<Self> {
        let processes = Arc::new(ProcessGroup::start().map_err(in_step("starting the processes' watchdog"))?);
        let hub = Namespace::create("hub")?;
        let draws = scenario.clock_draws(seed);
        let master = (&scenario.master, Role::Master, 1, draws.master);
        let agents = numbered(&scenario.agents, Role::Agent, &draws.agents);
        let clients = numbered(&scenario.clients, Role::Client, &draws.clients);
        let mut routing = Routing::default();
        let mut hosts = Vec::new();
        for plan in std::iter::once(master).chain(agents).chain(clients) {
            let number = hosts.len();
            let (host, interface_index) =
                build_host(plan, number, &hub, &processes).map_err(in_step(&format!("host {:?}", plan.0)))?;
            routing.interface_of_host.push(interface_index);
            for address in host.addresses() {
                routing.host_of_address.insert(address, number);
            }
            hosts.push(host);
        }
        let delays_from = |from: &Host| hosts.iter().map(|to| scenario.one_way_ns(&from.name, &to.name)).collect();
        let wan = Wan {
            one_way_ns: hosts.iter().map(delays_from).collect(),
            jitter_mean_ns: (scenario.jitter_ms * 1e6) as u64,
            loss: scenario.loss,
            seed: seed ^ WAN_SEED_SALT,
        };
        let emulator = Emulator::start(&hub, wan, routing).map_err(in_step("starting the emulated network"))?;
        let mut agents = hosts.split_off(1);
        let clients = agents.split_off(scenario.agents.len());
        Ok(Self { emulator, master: hosts.remove(0), agents, clients, _hub: hub })
    }
}

/// Place, role, number within the role from 1, clock.
type Plan<'a> = (&'a String, Role, u8, ClockDraw);

fn numbered<'a>(names: &'a [String], role: Role, clocks: &'a [ClockDraw]) -> impl Iterator<Item = Plan<'a>> {
    // HOSTS_MAX keeps the numbers below 255.
    names.iter().zip(clocks).zip(1u8..).map(move |((name, &clock), number)| (name, role, number, clock))
}

/// Makes one host and tells the index of its veth's other end, in the hub.
fn build_host(
    (name, role, number, clock): Plan<'_>,
    position: usize,
    hub: &Namespace,
    processes: &Arc<ProcessGroup>,
) -> io::Result<(Host, u32)> {
    let (group, id) = match role {
        Role::Master => (0, "master".to_owned()),
        Role::Agent => (1, format!("agent-{number}")),
        Role::Client => (2, format!("client-{number}")),
    };
    let has_ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let host = Host {
        name: name.clone(),
        role,
        ipv4: Ipv4Addr::new(10, 77, group, number),
        ipv6: has_ipv6.then(|| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, group.into(), number.into())),
        clock,
        namespace: Namespace::create(&id)?,
        processes: Arc::clone(processes),
        id,
    };
    let near_end = format!("h{position}");
    let far_namespace = host.namespace.descriptor().try_clone_to_owned()?;
    let interface_index = hub.run(move || -> io::Result<u32> {
        use std::os::fd::AsFd;
        let mut netlink = Netlink::open()?;
        set_network_sysctl("ipv6/conf/default/disable_ipv6", "1");
        netlink
            .create_veth(&near_end, INTERFACE, far_namespace.as_fd(), SHARED_MAC)
            .map_err(in_step("making a veth pair"))?;
        let index = if_nametoindex(near_end.as_str())?;
        netlink.set_up(index, false).map_err(in_step("setting the network's end up"))?;
        Ok(index)
    })?;
    let addresses = host.addresses();
    host.run(move || configure_host(&addresses))?;
    Ok((host, interface_index))
}

impl Host {
    /// Every address that the network delivers here: its own, then at the master the service addresses.
    fn addresses(&self) -> Vec<IpAddr> {
        let is_master = self.role == Role::Master;
        let mut addresses = vec![IpAddr::V4(self.ipv4)];
        addresses.extend(self.ipv6.map(IpAddr::V6));
        if is_master {
            addresses.push(SERVICE_IPV4.into());
            addresses.extend(self.ipv6.map(|_| IpAddr::V6(SERVICE_IPV6)));
        }
        addresses
    }
}

/// Sets up the calling thread's namespace: loopback, `eth0`, addresses, routes.
fn configure_host(addresses: &[IpAddr]) -> io::Result<()> {
    // Answers with the service address as source come from several hosts; strict reverse-path checks would be in order here,
    // but the machine's defaults are inherited and may be anything.
    for interface in ["all", "default", INTERFACE] {
        set_network_sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0");
    }
    // No router will ever answer, and the network has no use for the questions.
    set_network_sysctl(&format!("ipv6/conf/{INTERFACE}/accept_ra"), "0");
    set_network_sysctl(&format!("ipv6/conf/{INTERFACE}/router_solicitations"), "0");
    let mut netlink = Netlink::open()?;
    netlink.set_up(LOOPBACK_INDEX, true).map_err(in_step("setting loopback up"))?;
    disable_transmit_checksum_offload(INTERFACE).map_err(in_step("switching checksum offload off"))?;
    let index = if_nametoindex(INTERFACE)?;
    netlink.set_up(index, false).map_err(in_step("setting the interface up"))?;
    for &address in addresses {
        let is_service = address == IpAddr::V4(SERVICE_IPV4) || address == IpAddr::V6(SERVICE_IPV6);
        let on = if is_service { LOOPBACK_INDEX } else { index };
        netlink.add_address(on, address).map_err(in_step(&format!("adding the address {address}")))?;
        if !is_service {
            netlink
                .add_default_route(index, address)
                .map_err(in_step(&format!("adding the default route of {address}")))?;
        }
    }
    Ok(())
}
