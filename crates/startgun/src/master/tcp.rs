//! DNS over TCP (RFC 7766) and TLS (RFC 7858): answers from the zones, and proves that a source is real.
//!
//! A client that has completed a query over a stream has shown that it receives what is sent to its address; the shard that
//! its queries are steered to is told, and lets it race.
//!
//! Queries may be pipelined: whatever has arrived is answered together, in one write. Answers are computed at once, so their
//! order is that of the queries, which RFC 7766 section 6.2.1.1 allows. A client holds little: one buffer, a place, and
//! the time of an idle connection, which is short while places are scarce. When they are all taken, whoever has been
//! idle longest makes room (section 6.2.3).

use super::reload::Current;
use super::shards::{ShardInput, Shards};
use crate::startup;
use startgun_core::master::central;
use startgun_core::rate::Prefix;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// Connections at once, over all service addresses: 512 × (16 KiB read + 128 KiB of answers, seldom) are 72 MiB at worst.
const MAX_CONNECTIONS: usize = 512;
/// Connections of one client prefix: a farm of resolvers that all validate at once, and no more of one host.
const MAX_CONNECTIONS_PER_PREFIX: u32 = 16;
/// Queries of one connection; the next one needs another (RFC 7766 section 6.2.1 lets a server close at any time).
const MAX_QUERIES: usize = 1_000;
/// Bytes of a client's messages that are held: a query is a few hundred, so this is a pipeline of many. A longer message than
/// this is nonsense of a client that only asks.
const MAX_READ: usize = 16 << 10;
/// Bytes of answers that wait for the client to read; it gets no more before it does. One answer more fits in any case.
const MAX_UNREAD: usize = 64 << 10;
/// An idle connection is closed after this long (RFC 7766 section 6.2.3: a few seconds), which clients are told that ask
/// (RFC 7828).
const IDLE: Duration = Duration::from_secs(10);
/// The same while more than three quarters of the places are taken.
const IDLE_WHEN_BUSY: Duration = Duration::from_secs(2);
/// Within this a message that was begun must be complete, and answers must be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connections that there are, over all service addresses.
#[derive(Clone, Default)]
pub(super) struct Connections(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Open>,
    prefixes: BTreeMap<Prefix, u32>,
}

struct Open {
    prefix: Prefix,
    idle_since: Instant,
    close: Rc<Notify>,
}

/// One connection's place; given back when dropped.
struct Place {
    connections: Connections,
    number: u64,
    close: Rc<Notify>,
}

impl Connections {
    /// A place for one more connection of `peer`; `None` when its prefix has enough. When all are taken, the connection
    /// that has been idle longest is told to close, and this one takes its place.
    fn enter(&self, peer: IpAddr) -> Option<Place> {
        let prefix = Prefix::from(peer.to_canonical());
        let mut table = self.0.borrow_mut();
        if table.prefixes.get(&prefix).is_some_and(|count| *count >= MAX_CONNECTIONS_PER_PREFIX) {
            return None;
        }
        if table.open.len() >= MAX_CONNECTIONS {
            let oldest = table.open.iter().min_by_key(|(_, open)| open.idle_since).map(|(number, _)| *number);
            oldest.and_then(|number| table.leave(number)).iter().for_each(|open| open.close.notify_one());
        }
        table.next += 1;
        let number = table.next;
        let close = Rc::new(Notify::new());
        *table.prefixes.entry(prefix).or_default() += 1;
        table.open.insert(number, Open { prefix, idle_since: Instant::now(), close: Rc::clone(&close) });
        Some(Place { connections: self.clone(), number, close })
    }

    /// How long a connection may be idle at the moment.
    fn idle(&self) -> Duration {
        match self.0.borrow().open.len() * 4 > MAX_CONNECTIONS * 3 {
            true => IDLE_WHEN_BUSY,
            false => IDLE,
        }
    }
}

impl Table {
    fn leave(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(count) = self.prefixes.get_mut(&open.prefix) {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&open.prefix);
            }
        }
        Some(open)
    }
}

impl Place {
    /// The connection has been of use.
    fn touch(&self) {
        if let Some(open) = self.connections.0.borrow_mut().open.get_mut(&self.number) {
            open.idle_since = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.0.borrow_mut().leave(self.number);
    }
}

/// What streams are made of behind the TCP connection: nothing, or TLS.
#[derive(Clone)]
pub(super) enum Layer {
    /// Plain TCP.
    Plain,
    /// TLS by the present certificate.
    Tls(Arc<super::dot::Certificate>),
}

/// Serves one listener until the process ends.
pub(super) async fn serve(
    listener: TcpListener,
    layer: Layer,
    current: Current,
    shards: Shards,
    connections: Connections,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = connections.enter(peer.ip()) else { continue };
                let (layer, current, shards) = (layer.clone(), current.clone(), shards.clone());
                tokio::task::spawn_local(async move {
                    let close = Rc::clone(&place.close);
                    tokio::select! {
                        () = close.notified() => {}
                        _ = converse(stream, &layer, peer, place, &current, &shards) => {}
                    }
                });
            }
            // Mostly for want of descriptors: it would fail again at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(
    stream: TcpStream,
    layer: &Layer,
    peer: SocketAddr,
    place: Place,
    current: &Current,
    shards: &Shards,
) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    match layer {
        Layer::Plain => connection(stream, peer, &place, current, shards).await,
        Layer::Tls(certificate) => {
            let stream = timeout(PATIENCE, certificate.acceptor().accept(stream)).await??;
            connection(stream, peer, &place, current, shards).await
        }
    }
}

/// Answers until the client has nothing more to ask, or took too long.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: SocketAddr,
    place: &Place,
    current: &Current,
    shards: &Shards,
) -> std::io::Result<()> {
    let mut arrived = Vec::new();
    let mut answers = Vec::new();
    let mut queries = 0;
    let mut deadline = Instant::now() + place.connections.idle();
    loop {
        let had_begun = !arrived.is_empty();
        let is_end = timeout_at(deadline, stream.read_buf(&mut arrived)).await?? == 0;
        let mut taken = 0;
        let cookies = current.cookies();
        while let Some(query) = message(&arrived[taken..])? {
            taken += 2 + query.len();
            queries += 1;
            let asker = central::Stream {
                peer: peer.ip().to_canonical(),
                keepalive: Some((place.connections.idle().as_millis() / 100) as u16),
                cookies: &cookies,
                unix_s: (startup::unix_ns() / 1_000_000_000) as u32,
            };
            let answer = central::answer_tcp(&current.service(), query, &asker, Vec::new());
            let Some(answer) = answer else { return Ok(()) };
            answers.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            answers.extend_from_slice(&answer);
            if answers.len() > MAX_UNREAD {
                send(&mut stream, &mut answers).await?;
            }
        }
        arrived.drain(..taken);
        if taken > 0 {
            place.touch();
            shards.tell_owner(peer.ip(), ShardInput::Validated(peer.ip()));
        }
        send(&mut stream, &mut answers).await?;
        if is_end || queries >= MAX_QUERIES {
            return stream.shutdown().await;
        }
        // A message that was begun has its time from then on, however slowly it comes.
        let now = Instant::now();
        match (arrived.is_empty(), had_begun && taken == 0) {
            (true, _) => deadline = now + place.connections.idle(),
            (false, false) => deadline = now + PATIENCE,
            (false, true) => {}
        }
    }
}

/// The whole message at the beginning of what has arrived; `None` where it is not there yet.
fn message(arrived: &[u8]) -> std::io::Result<Option<&[u8]>> {
    let Some((length, rest)) = arrived.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_READ {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(rest.get(..length))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, answers: &mut Vec<u8>) -> std::io::Result<()> {
    if !answers.is_empty() {
        timeout(PATIENCE, stream.write_all(answers)).await??;
        timeout(PATIENCE, stream.flush()).await??;
        answers.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_takes_all_places_and_the_longest_idle_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let connections = Connections::default();
            let host = |a: u8, b: u8| IpAddr::from([198, 18, a, b]);
            let held: Vec<Place> = (0..=255).filter_map(|b| connections.enter(host(0, b))).collect();
            assert_eq!(held.len(), MAX_CONNECTIONS_PER_PREFIX as usize);
            assert_eq!(connections.idle(), IDLE);
            let others: Vec<Place> = (1..=31)
                .flat_map(|a| (0..16).map(move |b| (a, b)))
                .filter_map(|(a, b)| connections.enter(host(a, b)))
                .collect();
            assert_eq!(held.len() + others.len(), MAX_CONNECTIONS);
            assert_eq!(connections.idle(), IDLE_WHEN_BUSY);
            held[0].touch();
            let one_more = connections.enter(host(99, 1)).expect("room was made");
            timeout(Duration::from_millis(100), held[1].close.notified()).await.expect("the longest idle is told");
            assert!(timeout(Duration::from_millis(10), held[0].close.notified()).await.is_err());
            drop((held, others, one_more));
            let table = connections.0.borrow();
            assert!(table.open.is_empty() && table.prefixes.is_empty());
        });
    }

    #[test]
    fn messages_are_cut_by_their_length_and_too_long_ones_refused() {
        assert_eq!(message(&[0]).expect("not yet"), None);
        assert_eq!(message(&[0, 3, 1, 2]).expect("not yet"), None);
        assert_eq!(message(&[0, 2, 1, 2, 9]).expect("whole"), Some([1, 2].as_slice()));
        assert_eq!(message(&[0, 0, 7]).expect("whole"), Some([].as_slice()));
        assert!(message(&[0xff, 0xff]).is_err());
    }
}
