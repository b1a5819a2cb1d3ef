//! What a primary sends to a secondary.

use domain::base::Rtype;
use startgun_core::dns::CanonicalName;
use startgun_core::dns::transfer::{Change, Event, Form, Inbound, Limits, Outcome};
use startgun_core::dns::tsig::{Algorithm, Key, Session};
use startgun_core::dns::zone::Zone;
use std::sync::Arc;

/// Few enough that an input can go beyond it.
const LIMITS: Limits = Limits { records: 200, bytes: 20_000 };
const NOW_S: u64 = 1_800_000_000;
/// Id of the request for the SOA record; the one for the transfer has the next.
const ID: u16 = 40;
/// Version 3 is here.
const DIFFERENCES: u8 = 1;
/// Messages must be signed, and are as they come.
const MUST_BE_SIGNED: u8 = 2;
/// Messages are signed for the sender, who could not.
const IS_SIGNED: u8 = 4;

/// A byte of flags (of those above), then messages as over TCP, the answer to the request for the SOA record first.
///
/// # Panics
/// Where changes are taken that are none of the zone's, or more than may be, or an end that is none.
pub fn transfer(bytes: &[u8]) {
    let Some((flags, mut rest)) = bytes.split_first() else { return };
    let apex: CanonicalName = "z.test".parse().expect("a name");
    let key = (flags & (MUST_BE_SIGNED | IS_SIGNED) != 0)
        .then(|| Arc::new(Key::new(apex.clone(), Algorithm::Sha256, b"secret")));
    let form = if flags & DIFFERENCES != 0 { Form::Differences(3) } else { Form::Whole };
    let own = (flags & DIFFERENCES != 0).then_some(3);
    let mut inbound = Inbound::new(apex.clone(), key.clone(), own, form, LIMITS, (ID, NOW_S));
    let mut sender = None;
    let mut seen = Seen::default();
    seen.take(&mut inbound, &apex, key.as_ref(), &mut sender);
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (message, behind) = behind.split_at(length);
        rest = behind;
        let mut message = message.to_vec();
        if let Some(sender) = sender.as_mut().filter(|_| flags & IS_SIGNED != 0 && message.len() >= 12) {
            Session::sign(sender, &mut message, NOW_S);
        }
        if inbound.handle_message(&message, NOW_S).is_err() {
            return;
        }
        seen.take(&mut inbound, &apex, key.as_ref(), &mut sender);
    }
}

/// What a conversation has said so far.
#[derive(Default)]
struct Seen {
    begun: Option<Form>,
    changes: Vec<Change>,
    is_over: bool,
}

impl Seen {
    fn take(
        &mut self,
        inbound: &mut Inbound,
        apex: &CanonicalName,
        key: Option<&Arc<Key>>,
        sender: &mut Option<Session>,
    ) {
        while let Some(event) = inbound.poll_event() {
            assert!(!self.is_over, "{event:?} behind the end");
            match event {
                Event::Send(mut request) => {
                    *sender = Session::accept(key, &mut request, NOW_S).expect("our own signature");
                    assert!((30..512).contains(&(request.len() + 12)), "a request");
                }
                Event::Begin(form) => assert_eq!(self.begun.replace(form), None, "one beginning"),
                Event::Change(change) => {
                    let (Change::Add(record) | Change::Delete(record)) = &change;
                    assert!(apex.is_ancestor_or_self_of(record.owner.as_bytes()), "{} is outside", record.owner);
                    assert!(self.begun.is_some(), "a change before the beginning");
                    self.changes.push(change);
                    assert!(self.changes.len() <= LIMITS.records, "too many");
                }
                Event::End(outcome) => {
                    self.is_over = true;
                    self.end(outcome, apex);
                }
            }
        }
    }

    fn end(&mut self, outcome: Outcome, apex: &CanonicalName) {
        let Outcome::Changed { .. } = outcome else {
            return assert!(self.changes.is_empty(), "changes that are none");
        };
        let is_soa = |change: &Change| matches!(change, Change::Add(record) if record.rtype == Rtype::SOA);
        assert_eq!(self.changes.iter().filter(|change| is_soa(change)).count(), 1, "one new SOA record");
        if self.begun == Some(Form::Whole) {
            let records = std::mem::take(&mut self.changes).into_iter().map(|change| match change {
                Change::Add(record) => record,
                Change::Delete(record) => panic!("{record:?} deleted from nothing"),
            });
            // Whatever it says of them, it must not panic.
            let _ = Zone::new(apex.clone(), records.collect(), &[]);
        }
    }
}
