//! What master and agent do alike before and after their work.

use crate::config::{ConfigError, HostConfig, Loaded};
use crate::{http, status};
use startgun_core::time::Epoch;
use startgun_net::host_clock::HostClock;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A peer that acknowledges nothing for this long is gone; a few retransmissions on the longest path fit in.
const SILENT_PEER: std::time::Duration = std::time::Duration::from_secs(5);

/// Files in a directory of state are the owner's alone.
pub const STATE_MODE: u32 = 0o700;

/// A configuration without faults; its warnings are logged.
///
/// # Errors
/// Every fault, a line each.
pub fn loaded<T>(result: Result<Loaded<T>, Vec<ConfigError>>) -> Result<T, String> {
    match result {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Ok(loaded.config)
        }
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// The host's clock, or the false one that a lab configured.
pub fn clock(host: &HostConfig) -> HostClock {
    HostClock::new(host.clock_distortion)
}

/// The epoch of this host's raw clock, from its boot id.
///
/// # Errors
/// Where the kernel does not tell it.
pub fn epoch() -> Result<Epoch, String> {
    let id = startgun_net::host_clock::boot_id().map_err(|error| format!("reading the boot id: {error}"))?;
    let (high, low) = id.split_at(8);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_be_bytes);
    Ok(Epoch(word(high) ^ word(low)))
}

/// A secret seed.
///
/// # Errors
/// Where the kernel gives no randomness.
pub fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed)
        .map_err(|_| "the kernel gives no randomness")?;
    Ok(seed)
}

/// The time of day, in nanoseconds since 1970.
pub fn unix_ns() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
}

/// The name in the configuration must be the certificate's.
///
/// # Errors
/// When it is not.
pub fn check_identity(configured: &str, certified: &str) -> Result<(), String> {
    match configured == certified {
        true => Ok(()),
        false => Err(format!("name is \"{configured}\", but the certificate is for \"{certified}\"")),
    }
}

/// A listening TCP socket, made while privileges are still there.
///
/// # Errors
/// As for binding, with the configuration's key.
pub fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    let fault = |error: std::io::Error| format!("{key} {address}: {error}");
    let listener = TcpListener::bind(address).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    Ok(listener)
}

/// A control connection's other end that has gone without a word is noticed within seconds: both ends write every second,
/// or are probed.
///
/// # Errors
/// The kernel's.
pub fn prepare_control_stream(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(SILENT_PEER))?;
    let keepalive = socket2::TcpKeepalive::new().with_time(SILENT_PEER / 2).with_interval(SILENT_PEER / 4);
    socket.set_tcp_keepalive(&keepalive)
}

/// The status socket.
///
/// # Errors
/// As for binding.
pub fn status_socket(path: &Path) -> Result<UnixListener, String> {
    let fault = |error: std::io::Error| format!("status_socket {}: {error}", path.display());
    status::bind(path).map_err(fault)
}

/// Makes a directory that only its owner can read, where it is missing.
///
/// # Errors
/// As for making a directory, with its path.
pub fn private_directory(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(STATE_MODE).create(path);
    made.map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes the directory of state, where it is missing, and gives it to the user that the process will become.
///
/// # Errors
/// As for making a directory or changing its owner, with its path.
pub fn state_directory(path: &Path, user: Option<&str>) -> Result<(), String> {
    private_directory(path)?;
    let Some(user) = user else { return Ok(()) };
    let fault = |error: &dyn std::fmt::Display| format!("{}: giving it to user {user}: {error}", path.display());
    let entry = nix::unistd::User::from_name(user).map_err(|error| fault(&error))?;
    let entry = entry.ok_or_else(|| fault(&"no such user"))?;
    std::os::unix::fs::chown(path, Some(entry.uid.as_raw()), Some(entry.gid.as_raw())).map_err(|error| fault(&error))
}

/// Replaces a file: whole and on disk, or as it was.
///
/// # Errors
/// As for writing and renaming.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let staged = path.with_extension("new");
    let mut file = std::fs::File::create(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)
}

/// Becomes `user` for good, where one is configured.
///
/// # Errors
/// When that fails: the process must not go on with more than it should have.
pub fn drop_privileges(user: Option<&str>) -> Result<(), String> {
    match user {
        None => {
            if startgun_net::privileges::is_root() {
                tracing::warn!("running as root for good: name a user to become with the key `user`");
            }
            startgun_net::privileges::drop_capabilities().map_err(|error| format!("giving up capabilities: {error}"))
        }
        Some(user) => startgun_net::privileges::drop_to(user).map_err(|error| format!("becoming user {user}: {error}")),
    }
}

/// The control plane's runtime, on this thread.
///
/// # Errors
/// Where the kernel gives no descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| format!("starting: {error}"))
}

/// Serves status and, where it is configured, HTTP, until the process ends. Must be called within a `LocalSet`.
///
/// # Errors
/// Where the listeners cannot be handed to the runtime.
pub fn serve_documents(
    status: UnixListener,
    http: Option<TcpListener>,
    source: status::Source,
    performer: Option<status::Performer>,
) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("listening: {error}");
    let listener = tokio::net::UnixListener::from_std(status).map_err(fault)?;
    tokio::task::spawn_local(status::serve(listener, source.clone(), performer));
    if let Some(listener) = http {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(fault)?;
        tokio::spawn(http::serve(listener, source));
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// Where signals cannot be caught.
pub async fn termination() -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let fault = |error: std::io::Error| format!("catching signals: {error}");
    let mut term = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    Ok(())
}
