//! What masters answer, and to whom.

use startgun_core::dns::answer;
use startgun_core::dns::query::{Query, Verdict as Parsed};
use startgun_core::time::{LocalTime, Span};
use std::net::SocketAddr;

use super::departures::{Read, read};
use super::orders::{cookie_of, of_kind};
use super::{Judge, Verdict, demand};
use crate::world::{client_at, fallback_of};
use crate::{Host, SimTime, World};

/// Queries of one source, port and id that are remembered: a flood repeats none.
const MAX_ASKED: usize = 64;
/// Bytes of a server cookie, by which an answer may be longer than a query that asks for one.
const SERVER_COOKIE: usize = 16;
/// Longest time to live of a master's own answer to a raced name.
const MAX_FALLBACK_TTL_S: u32 = 10;
/// A timer may run so much early or late by roundings between clocks.
const ROUNDING: Span = Span::from_micros(1);

/// A query that reached a master.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) at: LocalTime,
    bytes: Vec<u8>,
    answered: bool,
}

impl Asked {
    /// How well a reply suits a query, among copies of one that the network has doubled and altered: an error's bytes follow
    /// from what could not be read, and nothing else is said to it.
    fn suits(&self, reply: &[u8]) -> u8 {
        match Query::parse(&self.bytes) {
            Parsed::Error(code) if answer::error(&self.bytes, code, Vec::new()) == reply => 2,
            Parsed::Error(_) => 0,
            _ => 1,
        }
    }
}

impl Judge<'_> {
    pub(super) fn take_asked(&mut self, master: usize, source: SocketAddr, at: LocalTime, bytes: Vec<u8>) {
        let Some(id) = bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) else { return };
        let asked = self.asked.entry((master, source, id)).or_default();
        if asked.len() < MAX_ASKED {
            asked.push(Asked { at, bytes, answered: false });
        }
    }

    /// A master answers a resolver.
    pub(super) fn take_reply(
        &mut self,
        world: &World,
        master: usize,
        to: SocketAddr,
        at: LocalTime,
        bytes: &[u8],
    ) -> Verdict {
        let Some(id) = bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) else { return Ok(()) };
        let asked = self.asked.get_mut(&(master, to, id)).into_iter().flatten();
        let question = read(bytes).map(|read| read.question);
        let fits = |asked: &&mut Asked| {
            let is_query = asked.bytes.get(2).is_some_and(|flags| flags & 0x80 == 0);
            let same = question.is_none() || read(&asked.bytes).is_none_or(|read| Some(read.question) == question);
            !asked.answered && is_query && same
        };
        let Some(asked) = asked.filter(fits).max_by_key(|asked| asked.suits(bytes)) else {
            return Err((
                super::Invariant::Fallback,
                format!("master {master} answers {to} id {id} once more than it was asked"),
            ));
        };
        asked.answered = true;
        let asked = asked.clone();
        let Some(answer) = read(bytes) else { return Ok(()) };
        self.note_answered(master, to, &answer);
        if !is_raced(&asked.bytes) {
            return Ok(());
        }
        let client = client_at(to);
        let process = self.process(master);
        let by_tcp =
            client.and_then(|client| self.validated.get(&(master, process, client))).is_some_and(|until| *until >= at);
        let by_cookie = client.and_then(|client| self.cookies.get(&client)).is_some_and(|given| {
            cookie_of(&asked.bytes).is_some_and(|cookie| given.iter().any(|own| own[..] == *cookie))
        });
        if !by_tcp && !by_cookie && answer.addresses.is_empty() {
            let more = if cookie_of(&asked.bytes).is_some() { SERVER_COOKIE } else { 0 };
            let (length, most) = (bytes.len(), asked.bytes.len() + more);
            demand!(
                length <= most,
                Amplified,
                "master {master} answers {to}, unvalidated, with {length} bytes, at most {most}"
            );
        }
        if answer.addresses.is_empty() {
            return Ok(());
        }
        let generation = self.generations.get(&master).copied().unwrap_or(0);
        let expected = of_kind(&fallback_of(master, generation), answer.six);
        demand!(
            answer.addresses == expected,
            Playbook,
            "master {master} answers {:?} itself, expected {expected:?}",
            answer.addresses
        );
        demand!(
            answer.ttl_s.is_none_or(|ttl_s| ttl_s <= MAX_FALLBACK_TTL_S),
            Playbook,
            "the master's own answer lives {:?} s",
            answer.ttl_s
        );
        self.judge_fallback(world, master, to, id, at)
    }

    /// Whoever asked for what is raced has an answer of the master's: the answer itself says to which question, also where
    /// the network has doubled the query and nobody can tell which copy it belongs to. An empty one settles nothing.
    fn note_answered(&mut self, master: usize, to: SocketAddr, answer: &Read) {
        // Behind the name stand type and class.
        let end = answer.question.len().saturating_sub(4);
        let Some((name, rest @ [_, _, ..])) = answer.question.split_at_checked(end) else { return };
        if answer.addresses.is_empty() {
            return;
        }
        let process = self.process(master);
        let question = [&name.to_ascii_lowercase(), &rest[..2]].concat();
        let race = self.open.get(&(master, process, to.ip(), question)).map(|(race, ..)| *race);
        if let Some(race) = race.and_then(|race| self.races.get_mut(&(master, process, race))) {
            race.answered = true;
        }
    }

    /// A race whose end has come is settled by agents' receipts, or answered by its master.
    pub(super) fn judge_due(&mut self, now: SimTime) -> Verdict {
        while let Some(&due) = self.dues.first() {
            let (at, master, process, number) = due;
            if at > now {
                break;
            }
            self.dues.remove(&due);
            let Some(race) = self.races.get(&(master, process, number)) else { continue };
            let departed = race.receipts.values().filter(|departed| **departed).count();
            let settled = departed >= 2.min(race.ordered.len()) || race.answered;
            // Where its process has ended, nobody answers.
            demand!(
                settled || process != self.process(master) || self.down.contains(&master),
                Fallback,
                "race {number:x} of master {master} ended with {departed} departures of {} and no answer",
                race.ordered.len(),
            );
        }
        Ok(())
    }

    /// A master answers a raced name itself: not beside agents whose departures it knows of, not before they had their time.
    fn judge_fallback(&self, _world: &World, master: usize, to: SocketAddr, id: u16, at: LocalTime) -> Verdict {
        let Some(&(process, number)) = self.race_of_query.get(&(master, to, id)) else { return Ok(()) };
        let Some(race) = self.races.get(&(master, process, number)) else { return Ok(()) };
        // A query that is no longer the race's newest, as one that was overtaken, is answered at once.
        if race.client != Some((to, id)) {
            return Ok(());
        }
        let (Some(t), false) = (race.transmit_at, race.by_signal || process != self.process(master)) else {
            return Ok(());
        };
        let close_at = t.to_master() + self.plan.options.masters[master].fallback_after;
        // Later it is another query that is answered, or one that the network has doubled.
        if at > close_at + ROUNDING {
            return Ok(());
        }
        let departed = race.receipts.values().filter(|departed| **departed).count();
        let settling = 2.min(race.ordered.len());
        demand!(
            departed < settling,
            Fallback,
            "master {master} answers race {number:x} beside {departed} agents' departures"
        );
        let all_refused = departed == 0 && race.ordered.iter().all(|agent| race.receipts.contains_key(agent));
        demand!(
            all_refused || at + ROUNDING >= close_at,
            Fallback,
            "master {master} answers race {number:x} {} before its end",
            close_at - at
        );
        Ok(())
    }

    pub(super) fn take_heard(&mut self, client: usize, by: Host, bytes: &[u8]) {
        let Host::Master(master) = by else { return };
        if client != self.plan.victim() && read(bytes).is_some_and(|read| read.truncated) {
            self.truncated.push((client, master));
        }
        if let Some(cookie) = server_cookie(bytes) {
            let given = self.cookies.entry(client).or_default();
            if !given.contains(&cookie) {
                given.push(cookie);
            }
        }
    }
}

/// The client's and server's cookie in an answer: the option's code, a length of 24 and the bytes.
fn server_cookie(bytes: &[u8]) -> Option<[u8; 24]> {
    let place = bytes.windows(4).rposition(|four| four == [0, 10, 0, 24])?;
    bytes.get(place + 4..place + 28)?.try_into().ok()
}

/// Whether a query is for a raced name and a type that sites answer.
fn is_raced(query: &[u8]) -> bool {
    let Parsed::Query(query) = Query::parse(query) else { return false };
    let name = query.name();
    let apex = b"\x03cdn\x04test\x00";
    let below = name.len() > apex.len() && name.ends_with(apex) && !name.ends_with(b"\x02ns\x03cdn\x04test\x00");
    let is_internet = query.class() == domain::base::iana::Class::IN;
    below && is_internet && matches!(query.rtype(), domain::base::Rtype::A | domain::base::Rtype::AAAA)
}
