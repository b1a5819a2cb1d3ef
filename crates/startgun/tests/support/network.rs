//! Hosts behind one router, all of the kernel's own making: a network namespace each, any addresses, no delays.
//!
//! Unlike the lab's emulated network it routes as providers do: a port may refuse foreign sources (`rp_filter`, BCP 38).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use startgun_lab::namespace::Namespace;
use startgun_lab::process::{Process, ProcessGroup};

/// The router's address at every port.
const ROUTER: &str = "169.254.1.1";

/// One host.
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    namespace: Namespace,
    processes: Arc<ProcessGroup>,
}

/// What is to be a host.
pub struct Plan {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether the router lets packets in whose source is not this host's.
    pub foreign_sources: bool,
}

/// Hosts and their router. Dropping it ends every process on them.
pub struct Network {
    /// In the order of their plans.
    pub hosts: Vec<Host>,
    _router: Namespace,
}

impl Network {
    /// Builds it; `Err` says what is missing here.
    pub fn build(plans: &[Plan]) -> Result<Self, String> {
        let processes = Arc::new(ProcessGroup::start().map_err(|error| error.to_string())?);
        let router = Namespace::create("router").map_err(|error| error.to_string())?;
        router.run(|| ip("link set lo up"))?;
        router.run(|| sysctl("ipv4/ip_forward", "1"))?;
        for interface in ["all", "default"] {
            router.run(move || sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0"))?;
        }
        let mut hosts = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            let namespace = Namespace::create(&format!("host-{number}")).map_err(|error| error.to_string())?;
            // ip(8) takes a path for a namespace; this one is good for as long as this process keeps the descriptor.
            let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.descriptor().as_raw_fd());
            let (address, strict) = (plan.address, if plan.foreign_sources { "0" } else { "1" });
            router.run(move || -> Result<(), String> {
                ip(&format!("link add p{number} type veth peer name eth0 netns {path}"))?;
                ip(&format!("addr add {ROUTER}/32 dev p{number}"))?;
                ip(&format!("link set p{number} up"))?;
                ip(&format!("route add {address}/32 dev p{number}"))?;
                sysctl(&format!("ipv4/conf/p{number}/rp_filter"), strict)
            })?;
            namespace.run(move || -> Result<(), String> {
                for interface in ["all", "default", "eth0"] {
                    sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
                }
                ip("link set lo up")?;
                ip(&format!("addr add {address}/32 dev eth0"))?;
                ip("link set eth0 up")?;
                ip(&format!("route add default via {ROUTER} dev eth0 onlink"))
            })?;
            hosts.push(Host { address, namespace, processes: Arc::clone(&processes) });
        }
        Ok(Network { hosts, _router: router })
    }
}

/// Two hosts on the two ends of one veth pair, with nothing in between.
///
/// # Errors
/// A sentence that says what is missing here.
pub fn direct([near, far]: [Ipv4Addr; 2], processes: &Arc<ProcessGroup>) -> Result<[Host; 2], String> {
    let host = |address: Ipv4Addr| -> Result<Host, String> {
        let namespace = Namespace::create(&format!("host-{address}")).map_err(|error| error.to_string())?;
        Ok(Host { address, namespace, processes: Arc::clone(processes) })
    };
    let hosts = [host(near)?, host(far)?];
    // As above: this path is good for as long as this process keeps the descriptor.
    let path = format!("/proc/{}/fd/{}", std::process::id(), hosts[1].namespace.descriptor().as_raw_fd());
    hosts[0].run(move || ip(&format!("link add eth0 type veth peer name eth0 netns {path}")))?;
    for (host, peer) in [(&hosts[0], far), (&hosts[1], near)] {
        let own = host.address;
        host.run(move || -> Result<(), String> {
            ip("link set lo up")?;
            ip(&format!("addr add {own} peer {peer} dev eth0"))?;
            ip("link set eth0 up")
        })?;
    }
    Ok(hosts)
}

impl Host {
    /// Starts a program on this host; it ends with the network at the latest.
    pub fn spawn(&self, command: Command) -> Process {
        let group = Arc::clone(&self.processes);
        self.namespace.run(move || group.spawn(command)).expect("started")
    }

    /// Runs a program on this host to its end.
    pub fn output(&self, mut command: Command) -> std::process::Output {
        self.namespace.run(move || command.output()).expect("started")
    }

    /// Runs `job` on this host, to open sockets there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.namespace.run(job)
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "ip (iproute2) is not installed".to_owned(),
        _ => format!("ip: {error}"),
    })?;
    let fault = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", fault.trim())) }
}

fn sysctl(path: &str, value: &str) -> Result<(), String> {
    std::fs::write(format!("/proc/sys/net/{path}"), value).map_err(|error| format!("sysctl net/{path}: {error}"))
}
