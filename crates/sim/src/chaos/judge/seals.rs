//! Datagrams: no nonce twice, nothing worthless taken, nothing good refused.

use startgun_core::time::{LocalTime, Span};
use startgun_core::wire::session::HEADER;
use startgun_core::wire::{Direction, Frame, Opener};

use super::departures::question_of;
use super::{Content, Judge, Order, Ordered, Verdict, demand};
use crate::world::{Genuine, Handled};
use crate::{Host, World};

/// Most datagrams kept for forgers: the newest of a world, 1,200 bytes each at most.
const MAX_RECORDED: usize = 4_096;
/// A receiver's window: a datagram that so many of its stream have overtaken may be refused.
const REPLAY_WINDOW: u64 = 256;
/// A session that has a successor is opened for 10 s more; a little less is asked for.
const OLD_SESSION_LIFE: Span = Span::from_millis(9_900);
/// And a little more than ten seconds after, it is opened no more.
const ENDED_FOR: Span = Span::from_millis(10_100);
/// Sessions that both ends surely keep: an agent keeps four.
const KEPT_SESSIONS: usize = 4;

/// A session at one end.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLife {
    id: u64,
    /// When it got a successor, by the clock of that end.
    succeeded_at: Option<LocalTime>,
}

impl SessionLife {
    pub(super) fn new(id: u64) -> Self {
        SessionLife { id, succeeded_at: None }
    }

    pub(super) fn end(&mut self, now: LocalTime) {
        self.succeeded_at.get_or_insert(now);
    }

    pub(super) fn succeed(sessions: &mut Vec<SessionLife>, session: SessionLife, now: LocalTime) {
        sessions.iter_mut().for_each(|earlier| earlier.end(now));
        sessions.push(session);
        if sessions.len() > KEPT_SESSIONS {
            sessions.remove(0);
        }
    }

    pub(super) fn is_succeeded(&self) -> bool {
        self.succeeded_at.is_some()
    }

    /// Whether its keys must not be good any more.
    fn is_over(&self, now: LocalTime) -> bool {
        self.succeeded_at.is_some_and(|at| now - at > ENDED_FOR)
    }

    /// Whether its keys must be good at an instant.
    fn is_good(&self, now: LocalTime) -> bool {
        self.succeeded_at.is_none_or(|at| now - at < OLD_SESSION_LIFE && now >= at)
    }
}

/// Session, shard and counter in a sealed datagram's header.
pub(in crate::chaos) fn stream_of(bytes: &[u8]) -> Option<(u64, u8, u64)> {
    let header = bytes.first_chunk::<HEADER>()?;
    let id = header[4..12].try_into().ok().map(u64::from_be_bytes)?;
    let counter = header[12..20].try_into().ok().map(u64::from_be_bytes)?;
    Some((id, header[1], counter))
}

impl Judge<'_> {
    pub(super) fn take_sealed(&mut self, world: &World, by: Host, to: Host, digest: u64, bytes: Vec<u8>) -> Verdict {
        let Some((session, shard, counter)) = stream_of(&bytes) else { return Ok(()) };
        let is_new = self.nonces.insert((by, session, shard, counter));
        demand!(is_new, Nonce, "{by:?} seals number {counter} of session {session:x}, shard {shard}, a second time");
        let contents = self.open(by, session, shard, &bytes);
        if self.recorded.len() < MAX_RECORDED {
            self.recorded.push((by, to, bytes));
        }
        for content in &contents {
            match (content, by, to) {
                (Content::Order(order), _, Host::Agent(agent)) => self.judge_order(world, agent, order)?,
                (Content::Receipt(receipt), Host::Agent(agent), Host::Master(master)) => {
                    self.judge_receipt(agent, master, receipt)?;
                }
                _ => {}
            }
        }
        if !contents.is_empty() {
            self.contents.insert(digest, contents);
        }
        Ok(())
    }

    /// What is in a datagram between a master and an agent; nothing of what agents say to each other.
    fn open(&mut self, by: Host, session: u64, shard: u8, bytes: &[u8]) -> Vec<Content> {
        let Some((master, _, binding)) = self.bindings.get(&session) else { return Vec::new() };
        let (process, epoch) = (self.process(*master), binding.epoch);
        let (master, by_master) = (*master, matches!(by, Host::Master(_)));
        let direction = if by_master { Direction::MasterToAgent } else { Direction::AgentToMaster };
        let opener =
            self.openers.entry((session, by_master, shard)).or_insert_with(|| Opener::new(binding, direction, shard));
        let mut plain = Vec::new();
        if opener.open(bytes, &mut plain).is_err() {
            return Vec::new();
        }
        let content = |frame: Frame<'_>| match frame {
            Frame::Order(order) => Some(Content::Order(Order {
                master,
                process,
                epoch,
                race: order.race,
                revision: order.revision,
                transmit: order.transmit,
                playbook: order.playbook,
                service: order.service,
                client: order.client,
                query: order.query.to_vec(),
            })),
            Frame::Receipt(receipt) => Some(Content::Receipt(receipt)),
            Frame::Signal { id } => Some(Content::Signal(id)),
            _ => None,
        };
        startgun_core::wire::frame::frames(&plain).filter_map(Result::ok).filter_map(content).collect()
    }

    pub(super) fn take_handled(&mut self, handled: &Handled) -> Verdict {
        let host = handled.host;
        let Some(genuine) = handled.genuine.filter(|genuine| !genuine.taken) else {
            self.forged_seen += 1;
            let again = if handled.genuine.is_some() { "a replayed" } else { "a forged" };
            let length = handled.bytes.len();
            demand!(
                !handled.taken,
                Forged,
                "{host:?} takes {again} datagram of {length} bytes: {:?}",
                stream_of(&handled.bytes)
            );
            demand!(handled.quiet, Forged, "{again} datagram of {length} bytes changes {host:?}");
            return Ok(());
        };
        let Some((session, shard, counter)) = stream_of(&handled.bytes) else { return Ok(()) };
        if !handled.taken {
            return self.judge_refused(handled, &genuine, session, shard, counter);
        }
        self.judge_session(handled, &genuine, session)?;
        let highest = self.highest.entry((host, session, shard)).or_default();
        *highest = (*highest).max(counter);
        if let (Host::Agent(_), Host::Master(master)) = (host, genuine.by) {
            let (sealed, followed) = (genuine.epoch, handled.followed);
            demand!(
                sealed == followed,
                Forged,
                "{host:?} follows epoch {followed:?} and takes a datagram of {sealed:?} of master {master}"
            );
        }
        for content in self.contents.get(&handled.digest).cloned().unwrap_or_default() {
            self.note_content(handled, &genuine, content);
        }
        Ok(())
    }

    fn sessions(&self, host: Host, by: Host) -> Option<&Vec<SessionLife>> {
        match (host, by) {
            (Host::Agent(agent), Host::Master(master)) => {
                self.link_of(agent, master).and_then(|link| self.at_agent.get(&(agent, link)))
            }
            (Host::Master(master), Host::Agent(agent)) => self.at_master.get(&(master, agent)),
            // Peers are introduced and forgotten by what masters tell each of them, at different times.
            _ => None,
        }
    }

    /// A session's keys open nothing once its successor is ten seconds old.
    fn judge_session(&self, handled: &Handled, genuine: &Genuine, session: u64) -> Verdict {
        let Host::Agent(_) = handled.host else { return Ok(()) };
        let sessions = self.sessions(handled.host, genuine.by);
        let known = sessions.and_then(|sessions| sessions.iter().find(|known| known.id == session));
        let over = known.is_some_and(|known| known.is_over(handled.now));
        demand!(!over, Forged, "{:?} opens a datagram of session {session:x}, which is over: {known:?}", handled.host);
        Ok(())
    }

    /// A datagram that is what its sender sealed, and new, was refused.
    fn judge_refused(&self, handled: &Handled, genuine: &Genuine, session: u64, shard: u8, counter: u64) -> Verdict {
        let host = handled.host;
        let highest = self.highest.get(&(host, session, shard)).copied().unwrap_or(0);
        if highest >= counter + REPLAY_WINDOW {
            return Ok(());
        }
        let sessions = self.sessions(host, genuine.by);
        let known = sessions.and_then(|sessions| sessions.iter().find(|known| known.id == session));
        let must = known.is_some_and(|known| known.is_good(handled.now));
        demand!(
            !must,
            Taken,
            "{host:?} refuses number {counter} of session {session:x}, highest {highest}, sealed by {:?} at {:?}: {known:?}",
            genuine.by,
            genuine.sent
        );
        Ok(())
    }

    fn note_content(&mut self, handled: &Handled, genuine: &Genuine, content: Content) {
        match (content, handled.host, genuine.by) {
            (Content::Order(order), Host::Agent(agent), _) => {
                let key = (agent, order.master, order.race);
                let by_query = (order.master, order.race, order.revision);
                let query = (agent, order.client, order.id(), question_of(&order.query));
                self.order_of_query.insert(query, by_query);
                let known = self.orders.entry(key).or_default();
                known.retain(|known| known.order.process == order.process && known.order.revision != order.revision);
                known.push(Ordered { order, received_at: handled.received_at, accepted: false });
            }
            (Content::Signal(id), Host::Agent(agent), Host::Master(master)) => {
                self.signals.insert((agent, master, id));
            }
            (Content::Receipt(receipt), Host::Master(master), Host::Agent(agent)) => {
                let process = self.process(master);
                if let Some(race) = self.races.get_mut(&(master, process, receipt.race))
                    && race.revision == receipt.revision
                {
                    race.receipts.entry(agent).or_insert(receipt.outcome.is_departed());
                }
            }
            _ => {}
        }
    }
}
