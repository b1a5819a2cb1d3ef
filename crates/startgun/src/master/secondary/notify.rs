//! Word of changes to the secondaries of our zones (NOTIFY, RFC 1996).
//!
//! Whenever a zone's serial is another one than when it was last looked at, everybody that its configuration names is told,
//! and told again until there is an answer, whatever it says. RFC 1996 section 3.6 leaves times and number to the sender.

use crate::startup;
use startgun_core::dns::CanonicalName;
use startgun_core::dns::transfer::{Peer, notify_request};
use startgun_core::dns::tsig::Session;
use startgun_core::master::Service;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// How long an answer is waited for, at first; then twice as long each time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a secondary is told: 2 + 4 + 8 + 16 + 32 s, a minute in all.
const ATTEMPTS: u32 = 5;
/// Secondaries that are told at the same time, with a socket each.
const TELLING_MAX: usize = 32;
/// How soon the next is told where those are all taken.
const WAIT: Duration = Duration::from_millis(200);

/// Who is to be told.
#[derive(Default)]
pub(super) struct Notifier {
    /// The serials that were last seen of zones with somebody to be told.
    known: BTreeMap<CanonicalName, u32>,
    /// At most one for each entry of the configuration.
    waiting: VecDeque<(CanonicalName, Peer)>,
    telling: Rc<Cell<usize>>,
}

impl Notifier {
    /// Looks for zones that are other ones than before. At the start that is all of them: what changed while the master did
    /// not run is not known.
    pub(super) fn compare(&mut self, service: &Service) {
        let mut known = BTreeMap::new();
        for (apex, policy) in service.transfers.zones.iter().filter(|(_, policy)| !policy.notified.is_empty()) {
            let Some(zone) = service.zones.zone(apex.as_bytes()).filter(|zone| zone.has_data()) else { continue };
            if self.known.get(apex) != Some(&zone.serial()) {
                self.waiting.retain(|(waiting, _)| waiting != apex);
                self.waiting.extend(policy.notified.iter().map(|peer| (apex.clone(), peer.clone())));
            }
            known.insert(apex.clone(), zone.serial());
        }
        self.known = known;
    }

    /// Begins to tell as many as may be told at once. Must be called within a `LocalSet`.
    pub(super) fn begin(&mut self) {
        while self.telling.get() < TELLING_MAX {
            let Some((apex, peer)) = self.waiting.pop_front() else { return };
            let telling = Rc::clone(&self.telling);
            telling.set(telling.get() + 1);
            tokio::task::spawn_local(async move {
                match tell(&apex, &peer).await {
                    Ok(()) => tracing::info!(zone = %apex, secondary = %peer.address, "notified"),
                    Err(error) => tracing::warn!(zone = %apex, secondary = %peer.address, error, "not notified"),
                }
                telling.set(telling.get() - 1);
            });
        }
    }

    /// When [`begin`](Self::begin) is worth a try, if somebody waits.
    pub(super) fn until_next(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(WAIT)
    }
}

async fn tell(apex: &CanonicalName, peer: &Peer) -> Result<(), String> {
    let [high, low, ..] = startup::seed()?;
    let mut last = "no answer".to_owned();
    for attempt in 0..ATTEMPTS {
        let id = u16::from_be_bytes([high, low]).wrapping_add(attempt as u16);
        match tokio::time::timeout(PATIENCE * 2u32.pow(attempt), tell_once(apex, peer, id)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// Sends it once and waits for the answer.
async fn tell_once(apex: &CanonicalName, peer: &Peer, id: u16) -> Result<(), String> {
    let any: IpAddr = match peer.address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| error.to_string())?;
    let mut request = notify_request(apex, id);
    let session = peer.key.clone().map(|key| Session::request(key, &mut request, unix_s()));
    let sent = socket.send_to(&request, peer.address).await;
    sent.map_err(|error| error.to_string())?;
    let mut buffer = [0; 1_500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.map_err(|error| error.to_string())?;
        let mut answer = buffer[..length].to_vec();
        let is_answer = length >= 12 && answer[..2] == id.to_be_bytes() && answer[2] & 0xf8 == 0xa0;
        if from != peer.address || !is_answer {
            continue;
        }
        // A forged answer must not keep the secondary from being told.
        if let Some(session) = &session
            && session.clone().verify(&mut answer, unix_s()).is_err()
        {
            continue;
        }
        return match answer[3] & 0xf {
            0 => Ok(()),
            code => Err(format!("the answer {}", domain::base::iana::Rcode::masked_from_int(code))),
        };
    }
}

fn unix_s() -> u64 {
    (startup::unix_ns() / 1_000_000_000).unsigned_abs()
}
