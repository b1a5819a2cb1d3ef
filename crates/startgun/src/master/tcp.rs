//! DNS over TCP (RFC 7766): answers from the zones, and proves that a source is real.
//!
//! A client that has completed a query over TCP has shown that it receives what is sent to its address; the shard that
//! its queries are steered to is told, and lets it race.

use super::shards::{ShardInput, Shards};
use startgun_core::master::{SharedService, central};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once, over all service addresses: 512 × 64 KiB of longest message are 32 MiB.
const MAX_CONNECTIONS: usize = 512;
/// Queries of one connection; the next one needs another (RFC 7766 section 6.2.1 lets a server close at any time).
const MAX_QUERIES: usize = 1_000;
/// An idle connection is closed after this long (RFC 7766 section 6.2.3: a few seconds).
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one service address until the process ends.
pub(super) async fn serve(listener: TcpListener, service: SharedService, shards: Shards) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else { continue };
                let (service, shards) = (service.clone(), shards.clone());
                tokio::task::spawn_local(async move {
                    let _ = connection(stream, peer, &service, &shards).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    service: &SharedService,
    shards: &Shards,
) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut query = Vec::new();
    for _ in 0..MAX_QUERIES {
        let read = async {
            let length = stream.read_u16().await?;
            query.resize(usize::from(length), 0);
            stream.read_exact(&mut query).await
        };
        tokio::time::timeout(IDLE_TIMEOUT, read).await??;
        let Some(answer) = central::answer_tcp(service, &query, Vec::new()) else { return Ok(()) };
        shards.tell_owner(peer.ip(), ShardInput::Validated(peer.ip()));
        let mut bytes = Vec::with_capacity(2 + answer.len());
        bytes.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&answer);
        tokio::time::timeout(IDLE_TIMEOUT, stream.write_all(&bytes)).await??;
    }
    Ok(())
}
