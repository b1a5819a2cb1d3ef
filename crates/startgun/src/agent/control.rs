//! One master's control connection: dials, moves documents, dials again.

use super::fast::{FastHandle, FastInput};
use crate::control::Fault;
use crate::control::channel::Channel;
use crate::control::mesh_keys::{MeshSecret, MeshStanding};
use crate::control::tls::{ClientTls, LogGate, fast_path_secret, unchecked_server_name};
use startgun_core::agent::{PeerKeys, solve_set};
use startgun_core::control::{MeshSalt, PeerDocument, ToAgent, ToMaster};
use startgun_core::mesh::MAX_NEIGHBOURS;
use startgun_core::playbook::PreparedPlaybook;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Pauses between attempts: short at first, because a restarted master is back within a second.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
const GREATEST_PAUSE: Duration = Duration::from_secs(5);
/// Dialling and shaking hands within this long, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often certificates and the revoked list are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// What a connection needs to know.
pub(super) struct Link {
    pub(super) index: usize,
    /// This agent's name.
    pub(super) name: String,
    pub(super) master: String,
    pub(super) address: SocketAddr,
    pub(super) playbook: PathBuf,
    /// Of this process; absent when it takes no part in the mesh.
    pub(super) mesh_salt: Option<MeshSalt>,
    pub(super) fast: FastHandle,
}

impl Link {
    /// Keeps the connection up until the process ends.
    pub(super) async fn run(self, mut tls: ClientTls, mut documents: mpsc::Receiver<ToMaster>) {
        let mut gate = LogGate::default();
        let mut pause = LEAST_PAUSE;
        loop {
            if let Err(error) = tls.reload_if_changed() {
                log(&mut gate, &self.master, &Fault::new("certificates", error.to_string()));
            }
            let connected = Instant::now();
            let reason = match self.connect(&tls).await {
                Ok(stream) => {
                    tracing::info!(master = self.master, "connected");
                    let reason = self.converse(stream, &mut tls, &mut documents, &mut gate).await;
                    self.fast.tell(FastInput::Disconnected(self.index)).await;
                    reason
                }
                Err(reason) => reason,
            };
            log(&mut gate, &self.master, &reason);
            // A connection that lasted was a good one: dial again at once. Otherwise ever more slowly.
            pause =
                if connected.elapsed() > GREATEST_PAUSE { LEAST_PAUSE } else { (pause * 2).min(GREATEST_PAUSE / 4) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn connect(&self, tls: &ClientTls) -> Result<TlsStream<TcpStream>, Fault> {
        let dial = async {
            let stream = TcpStream::connect(self.address).await?;
            crate::startup::prepare_control_stream(&stream)?;
            TlsConnector::from(tls.config()).connect(unchecked_server_name(), stream).await
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, dial).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let fault = Fault::from(error);
                Err(Fault { text: format!("{}: {}", self.address, fault.text), ..fault })
            }
            Err(_) => {
                let text = format!("{}: no connection within {} s", self.address, CONNECT_TIMEOUT.as_secs());
                Err(Fault::new("timeout", text))
            }
        }
    }

    /// Moves documents both ways until the connection ends; why it did.
    async fn converse(
        &self,
        stream: TlsStream<TcpStream>,
        tls: &mut ClientTls,
        documents: &mut mpsc::Receiver<ToMaster>,
        gate: &mut LogGate,
    ) -> Fault {
        // Documents for a connection that is gone are of no use to this one.
        while documents.try_recv().is_ok() {}
        let chain: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let mut channel = Channel::new(stream);
        let mut recheck = tokio::time::interval(RELOAD_INTERVAL);
        let mut peers: Vec<PeerDocument> = Vec::new();
        let serial = tls.identity().serial.clone();
        self.fast.tell(FastInput::Connected(self.index)).await;
        loop {
            tokio::select! {
                document = channel.read::<ToAgent>() => match document {
                    Ok(Some(ToAgent::Peers { peers: named })) => {
                        peers = named;
                        self.introduce(&peers, tls, gate).await;
                    }
                    Ok(Some(document)) => {
                        if let Err(reason) = self.handle(document, &channel).await {
                            return reason;
                        }
                    }
                    Ok(None) => return Fault::new("closed", "closed by the master"),
                    Err(error) => return error.into(),
                },
                document = documents.recv() => {
                    let Some(document) = document else { return Fault::new("stopping", "stopping") };
                    if let Err(error) = channel.write(&document).await {
                        return error.into();
                    }
                }
                _ = recheck.tick() => {
                    if tls.reload_if_changed().is_ok_and(|changed| changed) {
                        if tls.identity().serial != serial {
                            // Its peers are handed the certificate of the connection, with another key for the mesh.
                            return Fault::new("renewed", "this agent's certificate was renewed: dialling with the new one");
                        }
                        // Somebody may be revoked by now.
                        self.introduce(&peers, tls, gate).await;
                    }
                    if let Err(refusal) = tls.recheck(&chain) {
                        return refusal.into();
                    }
                }
            }
        }
    }

    /// Hands the fast thread those peers whose certificates are good, with their keys.
    async fn introduce(&self, peers: &[PeerDocument], tls: &ClientTls, gate: &mut LogGate) {
        let (Some(salt), MeshStanding::Ready(secret)) = (&self.mesh_salt, tls.mesh()) else { return };
        let mut keys = Vec::new();
        for peer in peers.iter().take(MAX_NEIGHBOURS) {
            match self.peer_keys(peer, secret, salt, tls) {
                Ok(peer) => keys.push(peer),
                Err(reason) => {
                    let fault = Fault::new("peer", format!("peer {:.63} of the mesh left out: {reason}", peer.name));
                    log(gate, &self.master, &fault);
                }
            }
        }
        self.fast.tell(FastInput::Peers { master: self.index, peers: keys }).await;
    }

    /// The key of a peer whose certificate this agent has checked itself: a master can name only whom the fleet's CA has
    /// named before.
    fn peer_keys(
        &self,
        peer: &PeerDocument,
        secret: &MeshSecret,
        salt: &MeshSalt,
        tls: &ClientTls,
    ) -> Result<PeerKeys, String> {
        let chain = [CertificateDer::from(peer.certificate.as_slice())];
        let identity = tls.check_peer_agent(&chain).map_err(|refusal| refusal.to_string())?;
        if identity.name != peer.name {
            return Err(format!("its certificate is that of {}", identity.name));
        }
        let public = MeshSecret::public_key_of(&peer.certificate).ok_or("its certificate carries no mesh key")?;
        let secret = secret.pair_secret(&public, (&self.name, salt), (&peer.name, &peer.salt));
        let secret = secret.ok_or("its mesh key contributes nothing")?;
        Ok(PeerKeys { name: identity.name, fast_path: peer.fast_path, secret })
    }

    async fn handle(&self, document: ToAgent, channel: &Channel<TlsStream<TcpStream>>) -> Result<(), Fault> {
        let input = match document {
            ToAgent::Session { id } => {
                let secret = fast_path_secret(channel.stream().get_ref().1, &id.to_be_bytes())
                    .map_err(|error| Fault::new("tls", error.to_string()))?;
                FastInput::Session { master: self.index, id, secret }
            }
            ToAgent::Refused { reason } => {
                return Err(Fault::new("refused", format!("refused by the master: {reason}")));
            }
            ToAgent::Welcome { protocol, master, epoch, shards, mut fast_path } => {
                if fast_path.ip().is_unspecified() {
                    fast_path.set_ip(self.address.ip());
                }
                let welcome = ToAgent::Welcome { protocol, master, epoch, shards, fast_path };
                FastInput::Control { master: self.index, document: Box::new(welcome) }
            }
            ToAgent::Playbook(playbook) => {
                if let Err(error) = PreparedPlaybook::new(&playbook) {
                    return Err(Fault::new("playbook", error.to_string()));
                }
                let json = serde_json::to_vec(&playbook).map_err(|error| Fault::new("protocol", error.to_string()))?;
                // On disk before it is acknowledged; without a disk the agent still races, and says so.
                if let Err(error) = crate::startup::write_atomically(&self.playbook, &json) {
                    tracing::warn!(playbook = %self.playbook.display(), %error, "not kept on disk");
                }
                FastInput::Control { master: self.index, document: Box::new(ToAgent::Playbook(playbook)) }
            }
            ToAgent::Mesh(set) => {
                // Here, where no packet waits: with hundreds of agents it takes tenths of a second.
                match solve_set(&self.name, &self.master, &set) {
                    Some(solved) => FastInput::Mesh { master: self.index, solved: Box::new(solved) },
                    None => return Ok(()),
                }
            }
            document => FastInput::Control { master: self.index, document: Box::new(document) },
        };
        self.fast.tell(input).await;
        Ok(())
    }
}

fn log(gate: &mut LogGate, master: &str, fault: &Fault) {
    if let Some(suppressed) = gate.admit(fault.reason, Instant::now()) {
        tracing::warn!(master, reason = fault.reason, suppressed, "control connection: {}", fault.text);
    }
}
