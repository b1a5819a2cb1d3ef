//! Frames: what a sealed datagram carries, one after the other until its end.
//!
//! ```text
//!  0        1        3
//! +--------+--------+-----------------+
//! |  kind  | length |  body …         |     length: u16, of the body; every integer big-endian
//! +--------+--------+-----------------+
//! ```
//!
//! An unknown kind is skipped by its length, so that a newer master can speak to an older agent.

use super::WireError;
use super::codec::{Reader, put_address};
use crate::clock::host::UtcOnRace;
use crate::dns::answer::SERVER_COOKIE;
use crate::time::{RaceTime, Span};
use std::net::SocketAddr;

/// Longest DNS query that is raced: a name of 255 octets, its header, type and class, and an OPT record with a
/// cookie take under 350; a longer query is answered by the master alone.
pub const MAX_RACED_QUERY: usize = 512;

/// Longest proof in an order: one NSEC3 record and its signature take some 250 bytes, with RSA and a long name 700; then it
/// still fits a datagram beside the longest query that carries one, and an answer.
pub const MAX_PROOF: usize = 540;

/// The body of an exchange's request and of its reply are padded to the same length, so that no link delays one
/// direction more than the other by serialising it.
const EXCHANGE_BODY: usize = 4 + 8 + 8 + 4 + 8;

/// What tells an agent when to let its answer depart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitIdentifier {
    /// At this instant of the master's timeline.
    At(RaceTime),
    /// This long after the kernel received the order, for an agent whose clock is not good enough. At least zero: the
    /// master has subtracted the agent's forward delay, and an order that is late already departs at once.
    After(Span),
    /// When a signal with this id arrives from the same master.
    On(u64),
}

/// Master to agent: a query and its transmit identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// The race, unique within one run of the master process: shard in the top byte, counter below.
    pub race: u64,
    /// 0 for the first order of a race, one more for each amendment; an agent keeps the highest.
    pub revision: u8,
    /// When the answer departs.
    pub transmit: TransmitIdentifier,
    /// When the master sent the order, for the agent's measure of the forward delay.
    pub sent: RaceTime,
    /// The playbook version that this agent acknowledged.
    pub playbook: u64,
    /// Which raced name of that playbook.
    pub name: u16,
    /// The address that the resolver asked, source of the answer.
    pub service: SocketAddr,
    /// Where the answer goes.
    pub client: SocketAddr,
    /// The query as it came, at most [`MAX_RACED_QUERY`] bytes.
    pub query: &'a [u8],
    /// The server cookie that the answer returns, for a query with a client cookie: only the master can make it.
    pub cookie: Option<[u8; SERVER_COOKIE]>,
    /// What a wildcard's answer must prove, records for its authority section: at most [`MAX_PROOF`] bytes.
    pub proof: &'a [u8],
    /// How many records these are.
    pub proof_count: u8,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// The answer left the host, by the kernel's transmit timestamp.
    Departed,
    /// The answer left, but no kernel timestamp came back: lateness is the program's own reading.
    DepartedUnstamped,
    /// It would have been late, and the policy is to drop it.
    Late,
    /// The agent refused it (counted by reason in its report).
    Refused,
    /// The kernel refused the packet.
    Failed,
}

impl ReceiptOutcome {
    const ALL: [ReceiptOutcome; 5] = [
        ReceiptOutcome::Departed,
        ReceiptOutcome::DepartedUnstamped,
        ReceiptOutcome::Late,
        ReceiptOutcome::Refused,
        ReceiptOutcome::Failed,
    ];

    /// Whether an answer is on its way to the client.
    pub fn is_departed(self) -> bool {
        matches!(self, ReceiptOutcome::Departed | ReceiptOutcome::DepartedUnstamped)
    }
}

/// Agent to master: what became of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The order's race.
    pub race: u64,
    /// The order's revision.
    pub revision: u8,
    /// What became of it.
    pub outcome: ReceiptOutcome,
    /// Departure − T by the agent's clock, or departure − (receipt of the order + span) for one by
    /// [`TransmitIdentifier::After`]; for a dropped answer, by how much it would have been late. Zero for a signal.
    pub lateness: Span,
}

/// One frame of a sealed datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// See [`Order`].
    Order(Order<'a>),
    /// See [`Receipt`].
    Receipt(Receipt),
    /// Agent to master: tell me your time.
    SyncRequest {
        /// Chosen by the agent, returned in the reply.
        exchange: u32,
    },
    /// Master to agent: the answer to a [`Frame::SyncRequest`].
    SyncReply {
        /// The request's.
        exchange: u32,
        /// T2: when the request reached the master.
        received: RaceTime,
        /// T3: when this reply left, as read just before sending it.
        replied: RaceTime,
        /// The exchange before this one and its T3 by the kernel's transmit timestamp, which is only known
        /// afterwards (interleaved mode); exchange 0 where there is none.
        previous: (u32, RaceTime),
    },
    /// Master to agent, unasked: this was my time when this left.
    SyncSignal {
        /// T3.
        sent: RaceTime,
    },
    /// Master to agent, beside a [`Frame::SyncSignal`]: where UTC lies on my timeline.
    Utc(UtcOnRace),
    /// Master to agent: let the answers held for this id depart.
    Signal {
        /// The [`TransmitIdentifier::On`] id.
        id: u64,
    },
}

/// Where an encoded [`Frame::Order`] has its playbook version: orders of one race differ in nothing else, so the master
/// encodes one and puts each agent's version into its copy.
pub const ORDER_PLAYBOOK: core::ops::Range<usize> = 29..37;

const ORDER: u8 = 1;
const RECEIPT: u8 = 2;
const SYNC_REQUEST: u8 = 3;
const SYNC_REPLY: u8 = 4;
const SYNC_SIGNAL: u8 = 5;
const SIGNAL: u8 = 6;
const UTC: u8 = 7;

impl Frame<'_> {
    /// Appends the frame. The caller has checked that it fits ([`Frame::encoded_len`]).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Frame::Order(_) => ORDER,
            Frame::Receipt(_) => RECEIPT,
            Frame::SyncRequest { .. } => SYNC_REQUEST,
            Frame::SyncReply { .. } => SYNC_REPLY,
            Frame::SyncSignal { .. } => SYNC_SIGNAL,
            Frame::Utc(_) => UTC,
            Frame::Signal { .. } => SIGNAL,
        };
        out.extend_from_slice(&[kind, 0, 0]);
        let body = out.len();
        match self {
            Frame::Order(order) => order.encode(out),
            Frame::Receipt(receipt) => {
                out.extend_from_slice(&receipt.race.to_be_bytes());
                out.push(receipt.revision);
                out.push(receipt.outcome as u8);
                out.extend_from_slice(&receipt.lateness.as_nanos().to_be_bytes());
            }
            Frame::SyncRequest { exchange } => {
                out.extend_from_slice(&exchange.to_be_bytes());
                out.resize(body + EXCHANGE_BODY, 0);
            }
            Frame::SyncReply { exchange, received, replied, previous } => {
                out.extend_from_slice(&exchange.to_be_bytes());
                out.extend_from_slice(&received.as_nanos().to_be_bytes());
                out.extend_from_slice(&replied.as_nanos().to_be_bytes());
                out.extend_from_slice(&previous.0.to_be_bytes());
                out.extend_from_slice(&previous.1.as_nanos().to_be_bytes());
            }
            Frame::SyncSignal { sent } => out.extend_from_slice(&sent.as_nanos().to_be_bytes()),
            Frame::Utc(utc) => {
                out.extend_from_slice(&utc.at.as_nanos().to_be_bytes());
                out.extend_from_slice(&utc.utc_minus_race.as_nanos().to_be_bytes());
                out.extend_from_slice(&utc.bound.as_nanos().to_be_bytes());
                out.push(u8::from(utc.stated));
            }
            Frame::Signal { id } => out.extend_from_slice(&id.to_be_bytes()),
        }
        let length = (out.len() - body) as u16;
        out[body - 2..body].copy_from_slice(&length.to_be_bytes());
    }

    /// Bytes that [`Frame::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        let address = |address: &SocketAddr| if address.is_ipv4() { 7 } else { 19 };
        3 + match self {
            Frame::Order(order) => {
                let cookie = order.cookie.map_or(0, |cookie| cookie.len());
                8 + 1
                    + 9
                    + 8
                    + 8
                    + 2
                    + address(&order.service)
                    + address(&order.client)
                    + 2
                    + order.query.len()
                    + 1
                    + cookie
                    + 3
                    + order.proof.len()
            }
            Frame::Receipt(_) => 18,
            Frame::SyncRequest { .. } | Frame::SyncReply { .. } => EXCHANGE_BODY,
            Frame::SyncSignal { .. } | Frame::Signal { .. } => 8,
            Frame::Utc(_) => 25,
        }
    }
}

impl<'a> Order<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.race.to_be_bytes());
        out.push(self.revision);
        match self.transmit {
            TransmitIdentifier::At(at) => {
                out.push(1);
                out.extend_from_slice(&at.as_nanos().to_be_bytes());
            }
            TransmitIdentifier::After(span) => {
                out.push(2);
                out.extend_from_slice(&span.as_nanos().to_be_bytes());
            }
            TransmitIdentifier::On(id) => {
                out.push(3);
                out.extend_from_slice(&id.to_be_bytes());
            }
        }
        out.extend_from_slice(&self.sent.as_nanos().to_be_bytes());
        out.extend_from_slice(&self.playbook.to_be_bytes());
        out.extend_from_slice(&self.name.to_be_bytes());
        put_address(out, self.service);
        put_address(out, self.client);
        out.extend_from_slice(&(self.query.len() as u16).to_be_bytes());
        out.extend_from_slice(self.query);
        out.push(u8::from(self.cookie.is_some()));
        self.cookie.iter().for_each(|cookie| out.extend_from_slice(cookie));
        out.push(self.proof_count);
        out.extend_from_slice(&(self.proof.len() as u16).to_be_bytes());
        out.extend_from_slice(self.proof);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Order {
            race: reader.u64()?,
            revision: reader.u8()?,
            transmit: match reader.u8()? {
                1 => TransmitIdentifier::At(RaceTime::from_nanos(reader.i64()?)),
                2 => TransmitIdentifier::After(Span::from_nanos(reader.i64()?)),
                3 => TransmitIdentifier::On(reader.u64()?),
                value => return Err(WireError::Unknown { what: "transmit identifier", value }),
            },
            sent: RaceTime::from_nanos(reader.i64()?),
            playbook: reader.u64()?,
            name: reader.u16()?,
            service: reader.address()?,
            client: reader.address()?,
            query: {
                let length = usize::from(reader.u16()?);
                if length > MAX_RACED_QUERY {
                    return Err(WireError::TooLong { what: "query", length, most: MAX_RACED_QUERY });
                }
                reader.bytes(length)?
            },
            // An older master's order ends here.
            cookie: match reader.u8().unwrap_or(0) {
                0 => None,
                _ => Some(*reader.bytes(SERVER_COOKIE)?.first_chunk().unwrap_or(&[0; SERVER_COOKIE])),
            },
            proof_count: reader.u8().unwrap_or(0),
            proof: {
                let length = usize::from(reader.u16().unwrap_or(0));
                if length > MAX_PROOF {
                    return Err(WireError::TooLong { what: "proof", length, most: MAX_PROOF });
                }
                reader.bytes(length)?
            },
        })
    }
}

/// The frames of an opened datagram, in order; ends after the first malformed one.
pub fn frames(plain: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, WireError>> {
    let mut reader = Reader(plain);
    core::iter::from_fn(move || {
        while !reader.0.is_empty() {
            match next(&mut reader) {
                Ok(None) => {}
                Ok(Some(frame)) => return Some(Ok(frame)),
                Err(error) => {
                    reader.0 = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

/// The next frame; `None` for a kind that this version does not know.
fn next<'a>(reader: &mut Reader<'a>) -> Result<Option<Frame<'a>>, WireError> {
    let kind = reader.u8()?;
    let length = usize::from(reader.u16()?);
    let mut body = Reader(reader.bytes(length)?);
    Ok(Some(match kind {
        ORDER => Frame::Order(Order::decode(&mut body)?),
        RECEIPT => Frame::Receipt(Receipt {
            race: body.u64()?,
            revision: body.u8()?,
            outcome: {
                let value = body.u8()?;
                *ReceiptOutcome::ALL
                    .get(usize::from(value))
                    .ok_or(WireError::Unknown { what: "receipt outcome", value })?
            },
            lateness: Span::from_nanos(body.i64()?),
        }),
        SYNC_REQUEST => Frame::SyncRequest { exchange: body.u32()? },
        SYNC_REPLY => Frame::SyncReply {
            exchange: body.u32()?,
            received: RaceTime::from_nanos(body.i64()?),
            replied: RaceTime::from_nanos(body.i64()?),
            previous: (body.u32()?, RaceTime::from_nanos(body.i64()?)),
        },
        SYNC_SIGNAL => Frame::SyncSignal { sent: RaceTime::from_nanos(body.i64()?) },
        SIGNAL => Frame::Signal { id: body.u64()? },
        UTC => Frame::Utc(UtcOnRace {
            at: RaceTime::from_nanos(body.i64()?),
            utc_minus_race: Span::from_nanos(body.i64()?),
            bound: Span::from_nanos(body.i64()?),
            stated: body.u8()? != 0,
        }),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_playbook_version_stands_where_it_is_put() {
        let mut bytes = Vec::new();
        Frame::Order(Order { playbook: 0x0102_0304_0506_0708, ..order(b"query") }).encode(&mut bytes);
        assert_eq!(bytes[ORDER_PLAYBOOK], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    fn order(query: &[u8]) -> Order<'_> {
        Order {
            race: 0x0100_0000_0000_002a,
            revision: 2,
            transmit: TransmitIdentifier::At(RaceTime::from_nanos(-5)),
            sent: RaceTime::from_nanos(7),
            playbook: u64::MAX,
            name: 3,
            service: "198.51.100.53:53".parse().expect("an address"),
            client: "[2001:db8::1]:4242".parse().expect("an address"),
            query,
            cookie: None,
            proof: &[],
            proof_count: 0,
        }
    }

    fn samples(query: &[u8]) -> Vec<Frame<'_>> {
        vec![
            Frame::Order(order(query)),
            Frame::Order(Order {
                transmit: TransmitIdentifier::On(9),
                cookie: Some([5; SERVER_COOKIE]),
                proof: &[1, 2, 3],
                proof_count: 2,
                ..order(query)
            }),
            Frame::Order(Order { transmit: TransmitIdentifier::After(Span::from_millis(70)), ..order(query) }),
            Frame::Receipt(Receipt {
                race: 4,
                revision: 1,
                outcome: ReceiptOutcome::Late,
                lateness: Span::from_micros(-3),
            }),
            Frame::SyncRequest { exchange: 77 },
            Frame::SyncReply {
                exchange: 77,
                received: RaceTime::from_nanos(1),
                replied: RaceTime::from_nanos(2),
                previous: (76, RaceTime::from_nanos(3)),
            },
            Frame::SyncSignal { sent: RaceTime::from_nanos(8) },
            Frame::Signal { id: 99 },
            Frame::Utc(UtcOnRace {
                at: RaceTime::from_nanos(5),
                utc_minus_race: Span::from_secs(1_700_000_000),
                bound: Span::from_micros(70),
                stated: true,
            }),
        ]
    }

    #[test]
    fn every_frame_survives_the_wire_and_tells_its_length() {
        let query = [7u8; 40];
        let mut plain = Vec::new();
        for frame in samples(&query) {
            let before = plain.len();
            frame.encode(&mut plain);
            assert_eq!(plain.len() - before, frame.encoded_len(), "{frame:?}");
        }
        let decoded: Result<Vec<_>, _> = frames(&plain).collect();
        assert_eq!(decoded.expect("well-formed"), samples(&query));
    }

    #[test]
    fn a_request_is_as_long_as_its_reply() {
        let request = Frame::SyncRequest { exchange: 1 }.encoded_len();
        let zero = RaceTime::from_nanos(0);
        let reply = Frame::SyncReply { exchange: 1, received: zero, replied: zero, previous: (0, zero) };
        assert_eq!(request, reply.encoded_len());
    }

    #[test]
    fn every_truncation_is_an_error_and_never_a_panic() {
        let query = [7u8; 40];
        for frame in samples(&query) {
            let mut plain = Vec::new();
            frame.encode(&mut plain);
            for length in 1..plain.len() {
                let last = frames(&plain[..length]).last();
                assert_eq!(last, Some(Err(WireError::Truncated)), "{frame:?} cut to {length}");
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_skipped_and_a_long_query_refused() {
        let mut plain = vec![200, 0, 2, 1, 2];
        Frame::Signal { id: 5 }.encode(&mut plain);
        assert_eq!(frames(&plain).collect::<Vec<_>>(), [Ok(Frame::Signal { id: 5 })]);

        let long = vec![0u8; MAX_RACED_QUERY + 1];
        let mut plain = Vec::new();
        Frame::Order(order(&long)).encode(&mut plain);
        assert!(matches!(frames(&plain).next(), Some(Err(WireError::TooLong { length: 513, .. }))));
    }
}
