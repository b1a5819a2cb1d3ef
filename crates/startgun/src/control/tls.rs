//! TLS of the control channel: both sides show a certificate of the fleet, or nothing is said.
//!
//! The usual client checks a server's DNS name and the usual server asks nobody for a
//! certificate. Here neither fits: agents have no DNS name, a master moves between addresses, and
//! whoever holds this channel decides what sites answer. So both sides are authenticated by the
//! fleet's CA, in TLS 1.3 only, and named by a URI in the certificate:
//!
//! ```text
//!   agent (TLS client)                         master (TLS server)
//!   pins the master's name  ── TLS 1.3 ──▶     takes any agent of its fleet
//!   startgun://FLEET/agent/NAME                startgun://FLEET/master/NAME
//!             └──── exporter: 32 bytes, the same on both sides ────┘
//!                   from which the fast path's keys are derived
//! ```
//!
//! Sessions are never resumed: a resumed session skips the certificates, and with them the
//! revoked list. A handshake per connection costs nothing here, for agents stay connected.
//!
//! Files are watched by their stamps ([`Endpoint::reload_if_changed`]), so that a renewed
//! certificate or a new revoked list takes effect without a restart. A configuration in which
//! something is wrong is never taken over half: the previous one stays in force.

mod files;
mod identity;
mod log_gate;
#[cfg(test)]
mod tests;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ConnectionCommon, ServerConfig};
use startgun_core::control::EXPORTER_LABEL;

use super::mesh_keys::MeshStanding;
use files::{Material, Stamps};
use verify::{Expected, check_chain};

pub use files::TlsFiles;
pub(crate) use files::{Stamp, certificates, pem_finding, read_bounded, unsuitable};
pub use identity::{Identity, NameError, Role, check_name, identity_uri, peer_identity};
pub(crate) use identity::{hexadecimal, parse_uri, single_uri};
pub use log_gate::LogGate;
pub use verify::{PeerVerifier, Refusal};

/// The protocol that both sides name in ALPN (RFC 7301). A peer of another version is refused by
/// the handshake, not by the first message that it cannot read.
pub const ALPN: &[u8] = b"startgun/1";

/// Why no TLS configuration could be made. The operator can mend it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read, but holds something else than is needed.
    #[error("{}: found {found}, expected {expected}", file.display())]
    Unsuitable {
        /// Which file.
        file: PathBuf,
        /// What is in it.
        found: String,
        /// What ought to be.
        expected: String,
    },
}

/// A master's configuration, which takes in any agent of its fleet.
pub type ServerTls = Endpoint<ServerConfig>;

/// An agent's configuration for one master, which it pins by name.
pub type ClientTls = Endpoint<ClientConfig>;

/// One side's TLS configuration and the files that it came from.
#[derive(Debug)]
pub struct Endpoint<C> {
    files: TlsFiles,
    stamps: Stamps,
    material: Material,
    /// The name that the peer must have; `None` for a master, which takes in any agent.
    pinned: Option<String>,
    built: Built<C>,
}

#[derive(Debug)]
struct Built<C> {
    config: Arc<C>,
    verifier: Arc<PeerVerifier>,
    identity: Identity,
}

/// The sides of TLS: what an [`Endpoint`] can be made for.
pub trait Side: Sized {
    /// The role that this side's own certificate must have.
    const OWN: Role;
    /// The role that its peers must have.
    const PEER: Role;

    /// Puts certificate, key and verifier together.
    ///
    /// # Errors
    /// rustls', where key and certificate do not belong together.
    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: rustls::pki_types::PrivateKeyDer<'static>,
        verifier: Arc<PeerVerifier>,
    ) -> Result<Self, rustls::Error>;
}

impl Side for ServerConfig {
    const OWN: Role = Role::Master;
    const PEER: Role = Role::Agent;

    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: rustls::pki_types::PrivateKeyDer<'static>,
        verifier: Arc<PeerVerifier>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

impl Side for ClientConfig {
    const OWN: Role = Role::Agent;
    const PEER: Role = Role::Master;

    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: rustls::pki_types::PrivateKeyDer<'static>,
        verifier: Arc<PeerVerifier>,
    ) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl ServerTls {
    /// Reads the files of a master.
    ///
    /// # Errors
    /// [`TlsError`], where a file is missing or unfit, the key is not the certificate's, or the
    /// certificate is not one of a master, signed by `ca` and not revoked. Its dates are not
    /// looked at here: a host whose clock is wrong at boot must start all the same, and peers
    /// check them in every handshake.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load_side(files, None)
    }
}

impl ClientTls {
    /// Reads the files of an agent that dials the master called `pinned_master`.
    ///
    /// # Errors
    /// As for [`ServerTls::load`], with the role of an agent.
    pub fn load(files: &TlsFiles, pinned_master: &str) -> Result<Self, TlsError> {
        Self::load_side(files, Some(pinned_master.to_owned()))
    }

    /// Whether this agent can take part in the mesh, and its key. It belongs to the certificate that
    /// [`config`](Self::config) shows: both are read again together.
    pub fn mesh(&self) -> &MeshStanding {
        &self.material.pair.mesh
    }

    /// Checks the chain of another agent, leaf first, as a master handed it out: signed by the
    /// fleet's CA, valid now, not revoked, and an agent's of this fleet. The chain proves nothing
    /// about who handed it out, only that whoever can derive a secret with its key is the agent of
    /// that name. Check again after [`reload_if_changed`](Self::reload_if_changed) returned `true`.
    ///
    /// # Errors
    /// [`Refusal`], with which the peer must be left out of the mesh.
    pub fn check_peer_agent(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        self.built.verifier.check_agent(chain, UnixTime::now())
    }
}

impl<C: Side> Endpoint<C> {
    /// The configuration in force, for the next connection.
    pub fn config(&self) -> Arc<C> {
        Arc::clone(&self.built.config)
    }

    /// Who this side is, by its own certificate.
    pub fn identity(&self) -> &Identity {
        &self.built.identity
    }

    /// The verifier in force, by which the sessions that are already open can be checked again.
    #[cfg(test)]
    pub fn verifier(&self) -> Arc<PeerVerifier> {
        Arc::clone(&self.built.verifier)
    }

    /// Checks the peer of an open session again, now. A master does so for every agent, and an
    /// agent for its master, after [`reload_if_changed`](Self::reload_if_changed) returned `true`
    /// (and now and then, because certificates expire): handshakes keep a revoked peer out, but
    /// do not throw it out.
    ///
    /// # Errors
    /// [`Refusal`], with which the session must be closed.
    pub fn recheck(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        self.built.verifier.check(chain, UnixTime::now())
    }

    /// Makes a new configuration where a file has changed since the last one was made. `true`
    /// where there is a new one, which [`config`](Self::config) returns from now on. It costs at most
    /// five `stat` calls; every few seconds is often enough.
    ///
    /// # Errors
    /// [`TlsError`], where the changed files do not make a configuration. The previous one stays
    /// in force, and the next call tries again.
    pub fn reload_if_changed(&mut self) -> Result<bool, TlsError> {
        let stamps = Stamps::of(&self.files)?;
        if stamps == self.stamps {
            return Ok(false);
        }
        let material = self.material.refreshed(&self.files, &self.stamps, &stamps)?;
        self.built = build(&self.files, &material, self.pinned.as_deref())?;
        self.material = material;
        self.stamps = stamps;
        Ok(true)
    }

    fn load_side(files: &TlsFiles, pinned: Option<String>) -> Result<Self, TlsError> {
        // Stamps first: a file that is replaced while we read is then seen as changed.
        let stamps = Stamps::of(files)?;
        let material = Material::read(files)?;
        let built = build(files, &material, pinned.as_deref())?;
        Ok(Self { files: files.clone(), stamps, material, pinned, built })
    }
}

/// A master's configuration, for a process that does not watch its files.
///
/// # Errors
/// As for [`ServerTls::load`].
#[cfg(test)]
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    Ok(ServerTls::load(files)?.config())
}

/// An agent's configuration for one master, for a process that does not watch its files.
///
/// # Errors
/// As for [`ClientTls::load`].
#[cfg(test)]
pub fn client_config(files: &TlsFiles, pinned_master: &str) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(ClientTls::load(files, pinned_master)?.config())
}

/// What a client passes to rustls where it wants the server's name. It is neither sent (SNI is
/// off) nor checked (the verifier pins the name in the URI).
pub fn unchecked_server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Derives the secret that keys the fast path of this session: the same 32 bytes on both sides,
/// for the same context. Pass `stream.get_ref().1` of a tokio-rustls stream.
///
/// # Errors
/// rustls', where the handshake is not complete.
pub fn fast_path_secret<Data>(connection: &ConnectionCommon<Data>, context: &[u8]) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(context))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn build<C: Side>(files: &TlsFiles, material: &Material, pinned: Option<&str>) -> Result<Built<C>, TlsError> {
    let chain = &material.pair.chain;
    let identity =
        peer_identity(chain).map_err(|error| unsuitable(&files.certificate, error.to_string(), own_uri(C::OWN)))?;
    if identity.role != C::OWN {
        return Err(unsuitable(
            &files.certificate,
            format!("a certificate for the role {}", identity.role),
            own_uri(C::OWN),
        ));
    }
    let verifier = Arc::new(PeerVerifier::new(
        material.anchors.clone(),
        material.revoked.clone(),
        Expected { role: C::PEER, fleet: identity.fleet.clone(), name: pinned.map(str::to_owned) },
    ));
    check_own(files, &verifier, chain, &identity)?;
    let config = C::assemble(chain.clone(), material.pair.key.clone_key(), Arc::clone(&verifier)).map_err(|error| {
        let expected = format!("the private key of {}", files.certificate.display());
        unsuitable(&files.key, format!("another key ({error})"), expected)
    })?;
    Ok(Built { config: Arc::new(config), verifier, identity })
}

/// Would our peers take our own certificate? Better found here than in every handshake.
fn check_own(
    files: &TlsFiles,
    verifier: &PeerVerifier,
    chain: &[CertificateDer<'static>],
    identity: &Identity,
) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Ok(());
    };
    // The last second of the certificate instead of now, so that the dates do not matter here.
    let last_second = u64::try_from(identity.not_after_unix_s).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(last_second));
    let refusal = match check_chain(verifier, leaf, intermediates, at, identity.role) {
        // The dates of the CA, then.
        Ok(()) | Err(Refusal::Expired | Refusal::NotYetValid) => return Ok(()),
        Err(refusal) => refusal,
    };
    let expected = match (&refusal, &files.revoked) {
        (Refusal::Revoked | Refusal::RevocationUnknown, Some(revoked)) => {
            format!("one that {} lets pass", revoked.display())
        }
        _ => format!("one signed by {}", files.ca.display()),
    };
    let found = format!("a certificate that peers would refuse ({refusal})");
    Err(unsuitable(&files.certificate, found, expected))
}

fn own_uri(role: Role) -> String {
    format!("a certificate with the URI startgun://FLEET/{role}/NAME")
}
