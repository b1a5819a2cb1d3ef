//! Where the challenges of self-tests are awaited: beside the fast path, and at `self_test_listen`.
//!
//! The kernel delivers a challenge only where its source is none of this host's own addresses; an observer sees the rest.

use super::control::RosterHandle;
use super::reload::Current;
use crate::config::MasterConfig;
use startgun_core::wire::session::CHALLENGE;
use startgun_net::observer::SourceObserver;
use std::net::UdpSocket;
use std::time::Duration;

/// How often the source observer is looked at; a challenge is repeated after 700 ms.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(20);
/// A challenge has 17 bytes; of anything longer, enough is read to see that it is none.
const DATAGRAM_BYTES: usize = 64;

/// What waits for challenges; the shards take those that the kernel delivers to the fast path.
pub(super) struct SelfTests {
    observers: Vec<SourceObserver>,
    socket: Option<UdpSocket>,
}

impl SelfTests {
    /// Opens what needs privileges.
    ///
    /// # Errors
    /// A sentence for the operator when `self_test_listen` cannot be bound.
    pub(super) fn bind(config: &MasterConfig) -> Result<Self, String> {
        let mut ports = vec![config.fast_path_listen.port()];
        ports.extend(config.self_test_listen.map(|address| address.port()));
        ports.dedup();
        let mut observers = Vec::new();
        for port in ports {
            match SourceObserver::open(port, CHALLENGE) {
                Ok(observer) => observers.push(observer),
                Err(error) => warn_of_unobserved(&error),
            }
        }
        let bind = |address| {
            let fault = |error: std::io::Error| format!("self_test_listen {address}: {error}");
            let socket = UdpSocket::bind(address).map_err(fault)?;
            socket.set_nonblocking(true).map_err(fault)?;
            Ok::<UdpSocket, String>(socket)
        };
        Ok(SelfTests { observers, socket: config.self_test_listen.map(bind).transpose()? })
    }

    /// Hands the roster what comes, from the present runtime's tasks.
    ///
    /// # Errors
    /// A sentence for the operator when the runtime does not take the socket.
    pub(super) fn spawn(self, roster: &RosterHandle, current: &Current) -> Result<(), String> {
        for observer in self.observers {
            tokio::task::spawn_local(observe(observer, roster.clone(), current.clone()));
        }
        if let Some(socket) = self.socket {
            let socket =
                tokio::net::UdpSocket::from_std(socket).map_err(|error| format!("self_test_listen: {error}"))?;
            tokio::task::spawn_local(listen(socket, roster.clone()));
        }
        Ok(())
    }
}

fn warn_of_unobserved(error: &std::io::Error) {
    tracing::warn!(%error, "source self-tests only see challenges that the kernel delivers");
}

/// Hands what the observer sees to the roster, as soon as there are raced names: the kernel shows an observer every packet,
/// which is 1 or 2 % of a DNS answer's time.
async fn observe(observer: SourceObserver, roster: RosterHandle, current: Current) {
    let mut buffer = [0; 2_048];
    let mut interval = tokio::time::interval(OBSERVE_INTERVAL);
    while current.service().races.is_empty() {
        interval.tick().await;
    }
    let mut observer = match observer.watch() {
        Ok(observer) => observer,
        Err(error) => return warn_of_unobserved(&error),
    };
    loop {
        interval.tick().await;
        // At most 1,024 challenges at a time; the rest waits in the socket.
        for _ in 0..1_024 {
            match observer.receive(&mut buffer) {
                Ok(Some(observed)) => roster.challenge(observed.source, &buffer[observed.payload]),
                _ => break,
            }
        }
    }
}

/// Hands the roster what arrives at `self_test_listen`; a fault of the socket is an ICMP error, and passes.
async fn listen(socket: tokio::net::UdpSocket, roster: RosterHandle) {
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, source)) if buffer.first() == Some(&CHALLENGE) => roster.challenge(source, &buffer[..length]),
            _ => tokio::task::yield_now().await,
        }
    }
}
