//! DNS over TCP (RFC 7766): answers from the zones, and proves that a source is real.
//!
//! A client that has completed a query over TCP has shown that it receives what is sent to its address; the shard that
//! its queries are steered to is told, and lets it race.

use super::reload::Current;
use super::shards::{ShardInput, Shards};
use startgun_core::master::central;
use startgun_core::rate::Prefix;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Connections at once, over all service addresses: 512 × 64 KiB of longest message are 32 MiB.
const MAX_CONNECTIONS: usize = 512;
/// Queries of one connection; the next one needs another (RFC 7766 section 6.2.1 lets a server close at any time).
const MAX_QUERIES: usize = 1_000;
/// An idle connection is closed after this long (RFC 7766 section 6.2.3: a few seconds).
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one client prefix: a farm of resolvers that all validate at once, and no more of one host.
const MAX_CONNECTIONS_PER_PREFIX: u32 = 16;

/// The connections that there are, over all service addresses.
#[derive(Clone, Default)]
pub(super) struct Connections(Rc<RefCell<BTreeMap<Prefix, u32>>>);

/// One connection's place; given back when dropped.
struct Place(Connections, Prefix);

impl Connections {
    /// A place for one more connection of `peer`; `None` when it or everybody has enough.
    fn enter(&self, peer: IpAddr) -> Option<Place> {
        let prefix = Prefix::from(peer.to_canonical());
        let mut open = self.0.borrow_mut();
        if open.values().map(|count| *count as usize).sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        let count = open.entry(prefix).or_default();
        if *count >= MAX_CONNECTIONS_PER_PREFIX {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), prefix))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.borrow_mut();
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// Serves one service address until the process ends.
pub(super) async fn serve(listener: TcpListener, current: Current, shards: Shards, connections: Connections) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = connections.enter(peer.ip()) else { continue };
                let (current, shards) = (current.clone(), shards.clone());
                tokio::task::spawn_local(async move {
                    let _ = connection(stream, peer, &current, &shards).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    current: &Current,
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
        let Some(answer) = central::answer_tcp(&current.service(), &query, None, Vec::new()) else { return Ok(()) };
        shards.tell_owner(peer.ip(), ShardInput::Validated(peer.ip()));
        let mut bytes = Vec::with_capacity(2 + answer.len());
        bytes.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&answer);
        tokio::time::timeout(IDLE_TIMEOUT, stream.write_all(&bytes)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_takes_all_places_and_places_come_back() {
        let connections = Connections::default();
        let host = |a: u8, b: u8| IpAddr::from([198, 18, a, b]);
        let held: Vec<Place> = (0..=255).filter_map(|b| connections.enter(host(0, b))).collect();
        assert_eq!(held.len(), MAX_CONNECTIONS_PER_PREFIX as usize);
        let others: Vec<Place> = (1..=255)
            .flat_map(|a| (0..16).map(move |b| (a, b)))
            .filter_map(|(a, b)| connections.enter(host(a, b)))
            .collect();
        assert_eq!(held.len() + others.len(), MAX_CONNECTIONS);
        drop((held, others));
        assert!(connections.0.borrow().is_empty());
    }
}
