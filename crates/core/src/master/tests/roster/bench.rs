//! The roster under test, and a shell that does what it says.

use crate::control::{AgentReport, ClockFigures, ForwardDelay, PROTOCOL, ToAgent, ToMaster};
use crate::dns::Answers;
use crate::dns::zone::tests::zones;
use crate::master::{
    AgentView, Delay, RaceConfig, Roster, RosterConfig, RosterOutput, Service, SharedService, Slot, Transmit,
};
use crate::playbook::{LatePolicy, PlaybookVersion};
use crate::time::{Epoch, LocalTime, Span};
use crate::wire::SessionId;
use crate::wire::session::{CHALLENGE, SECRET_BYTES};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Within the 300 s after which a self-test is repeated.
pub(super) const REKEY: Span = Span::from_secs(100);

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn service() -> SocketAddr {
    address("198.51.100.1:53")
}

/// A service address that the fast path does not reach.
pub(super) fn other_family() -> SocketAddr {
    address("[2001:db8::53]:53")
}

pub(super) fn shared() -> SharedService {
    let addresses = |octet| Answers { a: vec![Ipv4Addr::new(192, 0, 2, octet)], ..Answers::default() };
    let race = |name: &str| RaceConfig {
        name: name.parse().expect("a name"),
        ttl_s: 30,
        delay: Delay::Fixed(Span::from_millis(100)),
        transmit: Transmit::At,
        late: LatePolicy::Drop,
        late_tolerance: Span::from_millis(2),
        sites: BTreeMap::from([("tokyo".to_owned(), addresses(1)), ("paris".to_owned(), addresses(2))]),
        fallback: addresses(99),
    };
    let races = vec![race("www.cdn.test"), race("*.cdn.test")];
    Arc::new(Service::new("m0".into(), zones(), races).expect("names"))
}

pub(super) struct Bench {
    pub(super) roster: Roster,
    pub(super) now: LocalTime,
}

/// What the roster said and did since it was last asked.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) said: Vec<ToAgent>,
    pub(super) sessions: Vec<SessionId>,
    pub(super) published: Vec<AgentView>,
    pub(super) retired: Vec<Slot>,
    pub(super) closed: Vec<Slot>,
}

impl Heard {
    pub(super) fn token(&self) -> Option<[u8; 16]> {
        self.said.iter().find_map(|said| if let ToAgent::SelfTest { token, .. } = said { Some(*token) } else { None })
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::make(vec![service()], None, REKEY)
    }

    /// With these service addresses, and a place for proofs of those of the other family.
    pub(super) fn with_services(service_addresses: Vec<SocketAddr>, self_test: Option<SocketAddr>) -> Self {
        Self::make(service_addresses, self_test, REKEY)
    }

    /// With another time between two sessions.
    pub(super) fn rekeying(rekey_interval: Span) -> Self {
        Self::make(vec![service()], None, rekey_interval)
    }

    fn make(service_addresses: Vec<SocketAddr>, self_test: Option<SocketAddr>, rekey_interval: Span) -> Self {
        let config = RosterConfig {
            service: shared(),
            epoch: Epoch(3),
            service_addresses,
            shards: 2,
            fast_path: address("0.0.0.0:5300"),
            self_test,
            rekey_interval,
        };
        Bench { roster: Roster::new(config, [5; 32]), now: LocalTime::from_nanos(0) }
    }

    pub(super) fn connect(&mut self, name: &str) -> Slot {
        self.roster.handle_connected(self.now, name, [203, 0, 113, 7].into(), Vec::new()).expect("room")
    }

    pub(super) fn say(&mut self, slot: Slot, message: ToMaster) -> Heard {
        self.roster.handle_message(self.now, slot, message);
        self.heard()
    }

    pub(super) fn hello(&mut self, slot: Slot, playbook: Option<PlaybookVersion>) -> Heard {
        let hello = ToMaster::Hello {
            protocol: PROTOCOL,
            site: "tokyo".into(),
            fast_path: address("0.0.0.0:5400"),
            services: vec![service(), address("198.51.100.200:53"), other_family()],
            playbook,
            mesh_salt: None,
        };
        self.say(slot, hello)
    }

    pub(super) fn heard(&mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some(output) = self.roster.poll_output() {
            match output {
                RosterOutput::Say(_, message) => heard.said.push(message),
                RosterOutput::OpenSession(slot, id) => {
                    heard.sessions.push(id);
                    self.roster.handle_session(self.now, slot, id, [id as u8; SECRET_BYTES]);
                }
                RosterOutput::Publish(view) => heard.published.push(view),
                RosterOutput::Retire(slot) => heard.retired.push(slot),
                RosterOutput::Close(slot) => heard.closed.push(slot),
            }
        }
        heard
    }

    /// Time passes as the shell lets it: a call every 250 ms, a report every second where the agent lives.
    pub(super) fn wait(&mut self, span: Span, reporting: Option<Slot>) -> Heard {
        let mut heard = Heard::default();
        let end = self.now + span;
        let mut calls = 0;
        while self.now < end {
            self.now = self.roster.poll_timeout(self.now).min(end);
            self.roster.handle_timeout(self.now);
            calls += 1;
            if let Some(slot) = reporting.filter(|_| calls % 4 == 0) {
                self.roster.handle_message(self.now, slot, ToMaster::Report(good_report()));
            }
            let new = self.heard();
            heard.said.extend(new.said);
            heard.sessions.extend(new.sessions);
            heard.published.extend(new.published);
            heard.retired.extend(new.retired);
            heard.closed.extend(new.closed);
        }
        heard
    }

    pub(super) fn challenge(&mut self, source: SocketAddr, token: [u8; 16]) -> Heard {
        let mut bytes = vec![CHALLENGE];
        bytes.extend_from_slice(&token);
        self.roster.handle_challenge(self.now, source, &bytes);
        self.heard()
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.roster.status(self.now)[0].reason.clone()
    }

    /// Takes a new agent through all steps; its slot and session.
    pub(super) fn racing(&mut self) -> (Slot, SessionId) {
        let slot = self.connect("tokyo-1");
        let heard = self.hello(slot, None);
        let id = heard.sessions[0];
        self.say(slot, ToMaster::SessionKept { id });
        self.say(slot, ToMaster::PlaybookKept { version: shared().playbook("tokyo").version() });
        self.challenge(service(), heard.token().expect("a challenge"));
        self.say(slot, ToMaster::Report(good_report()));
        assert_eq!(self.reason(), None);
        (slot, id)
    }
}

pub(super) fn good_report() -> AgentReport {
    AgentReport {
        stand_down: None,
        by_after: None,
        clock: Some(ClockFigures {
            offset: Span::ZERO,
            bound: Some(Span::from_millis(20)),
            expected_error: Some(Span::from_micros(300)),
            conditional: false,
            least_round_trip: None,
            samples: 9,
            steps: 0,
            source: None,
        }),
        forward_delay: Some(ForwardDelay { p99: Span::from_millis(20), greatest: Span::from_millis(21), samples: 9 }),
        lateness: None,
        mesh: None,
        counters: BTreeMap::new(),
    }
}
