//! Queries by hand, and answers as they came: what is tested must not be what builds the test.
#![allow(dead_code, reason = "every test program uses its own part")]

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;

/// An answer that takes longer than this is none, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(200);
/// Id of every query; each has a socket of its own.
const ID: u16 = 0x5347;
/// Bytes of a header, RFC 1035 section 4.1.1.
const HEADER: usize = 12;

/// Type A.
pub const A: u16 = 1;
/// Type OPT.
pub const OPT: u16 = 41;

/// A message in the making.
#[derive(Clone, Debug)]
pub struct Query(pub Vec<u8>);

impl Query {
    /// One question of class IN, RD clear. See [`name`] for what names may look like.
    pub fn new(asked: &str, rtype: u16) -> Self {
        let mut message = ID.to_be_bytes().to_vec();
        message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(name(asked));
        message.extend(rtype.to_be_bytes());
        message.extend([0, 1]);
        Query(message)
    }

    /// Another class.
    pub fn class(mut self, class: u16) -> Self {
        let end = self.0.len();
        self.0[end - 2..].copy_from_slice(&class.to_be_bytes());
        self
    }

    /// The second pair of the header's octets: QR, opcode, AA, TC, RD; RA, Z, AD, CD, code.
    pub fn flags(mut self, high: u8, low: u8) -> Self {
        self.0[2..4].copy_from_slice(&[high, low]);
        self
    }

    /// What the header says of a section: 0 questions, 1 answers, 2 authority, 3 additional.
    pub fn count(mut self, section: usize, count: u16) -> Self {
        self.0[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
        self
    }

    /// Bytes at the end, without counting them.
    pub fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// One more additional record.
    pub fn additional(self, record: &[u8]) -> Self {
        let count = u16::from_be_bytes([self.0[10], self.0[11]]) + 1;
        self.count(3, count).then(record)
    }

    /// EDNS: an OPT record for `size` bytes with these options (RFC 6891 section 6.1.2).
    pub fn edns(self, size: u16, options: &[(u16, &[u8])]) -> Self {
        self.additional(&opt(&[0], size, 0, 0, options))
    }
}

/// An OPT record: its owner's name, payload size, version, flags, options.
pub fn opt(owner: &[u8], size: u16, version: u8, flags: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (code, value) in options {
        data.extend(code.to_be_bytes());
        data.extend((value.len() as u16).to_be_bytes());
        data.extend(*value);
    }
    let mut record = owner.to_vec();
    record.extend(OPT.to_be_bytes());
    record.extend(size.to_be_bytes());
    record.extend([0, version]);
    record.extend(flags.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// A name in wire format, without looking at its length; `%63` stands for a label of 63 times the letter a.
pub fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in spelled(text).split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Text in which every label `%N` is N times the letter a.
pub fn spelled(text: &str) -> String {
    let label = |label: &str| match label.strip_prefix('%').and_then(|count| count.parse().ok()) {
        Some(count) => "a".repeat(count),
        None => label.to_owned(),
    };
    text.split('.').map(label).collect::<Vec<_>>().join(".")
}

/// How a query travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Transport::Udp { "UDP" } else { "TCP" })
    }
}

/// Sends a message and returns what comes back; `None` for silence: nothing for a while, or a connection that is closed
/// or reset.
pub fn ask(server: SocketAddr, transport: Transport, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let answer = match transport {
        Transport::Udp => ask_over_udp(server, query, patience),
        Transport::Tcp => ask_over_tcp(server, query, patience),
    };
    answer.ok()
}

fn ask_over_udp(server: SocketAddr, query: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(query)?;
    let mut buffer = [0; 65_535];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

fn ask_over_tcp(server: SocketAddr, query: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The OPT record of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    pub size: u16,
    pub version: u8,
    pub flags: u16,
    pub options: Vec<(u16, Vec<u8>)>,
}

/// An answer, read.
#[derive(Clone, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// The extended code, RFC 6891 section 6.1.3.
    pub code: u16,
    /// Question section as it came; empty where it has none.
    pub question: Vec<u8>,
    /// Records of the answer, authority and additional sections, without OPT: `owner. ttl TYPE data`, in lower case.
    pub sections: [Vec<String>; 3],
    pub edns: Option<Edns>,
}

impl Answer {
    /// Reads a message whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: Vec<u8>) -> Result<Self, String> {
        let message = Message::from_octets(bytes.as_slice()).map_err(|error| error.to_string())?;
        let mut question = message.question();
        let count = message.header_counts().qdcount();
        question.by_ref().try_for_each(|question| question.map(drop)).map_err(|error| format!("question: {error}"))?;
        let end = HEADER + question_length(&bytes[HEADER..], count);
        let mut answer = Answer {
            code: u16::from(bytes[3] & 15),
            question: bytes[HEADER..end].to_vec(),
            sections: Default::default(),
            edns: None,
            bytes: bytes.clone(),
        };
        let sections = [message.answer(), message.authority(), message.additional()];
        for (place, section) in sections.into_iter().enumerate() {
            for record in section.map_err(|error| error.to_string())? {
                let record = record.map_err(|error| format!("section {place}: {error}"))?;
                let data = record.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
                let data = data.map_err(|error| format!("section {place}, {}: {error}", record.rtype()))?;
                if let AllRecordData::Opt(options) = data.data() {
                    let ttl = record.ttl().as_secs();
                    let options: Result<Vec<_>, _> = options
                        .iter::<domain::base::opt::UnknownOptData<&[u8]>>()
                        .map(|option| option.map(|option| (option.code().to_int(), option.as_slice().to_vec())))
                        .collect();
                    let options = options.map_err(|error| format!("an option: {error}"))?;
                    let (size, version) = (record.class().to_int(), (ttl >> 16) as u8);
                    let fresh = Edns { size, version, flags: ttl as u16, options };
                    if place != 2 || answer.edns.replace(fresh).is_some() {
                        return Err("OPT more than once or in the wrong section".into());
                    }
                    answer.code |= ((ttl >> 24) as u16) << 4;
                } else {
                    let (owner, ttl_s, rtype) = (data.owner(), data.ttl().as_secs(), data.rtype());
                    let text = format!("{owner}. {ttl_s} {rtype} {}", data_text(data.data()));
                    answer.sections[place].push(normal(&text));
                }
            }
        }
        Ok(answer)
    }

    /// Whether AA is set.
    pub fn is_authoritative(&self) -> bool {
        self.bytes[2] & 4 != 0
    }

    /// Whether TC is set.
    pub fn is_truncated(&self) -> bool {
        self.bytes[2] & 2 != 0
    }

    /// What no answer to this query may get wrong, whatever it says.
    pub fn faults(&self, query: &[u8]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(what.to_owned());
            }
        };
        must(self.bytes[..2] == query[..2], "another id");
        must(self.bytes[2] & 0x80 != 0, "QR is clear");
        must(self.bytes[2] & 0x78 == query[2] & 0x78, "another opcode");
        must(self.bytes[2] & 1 == query[2] & 1, "RD is not as in the query");
        must(self.bytes[3] & 0xe0 == 0, "RA, Z or AD is set");
        // A question may be missing where the query could not be read, or is of no known kind.
        let asked = query.get(HEADER..HEADER + self.question.len()).unwrap_or_default();
        must(asked == self.question, "the question is not that of the query, octet for octet");
        must(!self.question.is_empty() || matches!(self.code, 1 | 4) || query[4..6] == [0, 0], "no question");
        faults
    }
}

/// Data in the presentation format of its type's RFC.
fn data_text(data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> String {
    match data {
        // The library leaves out the final dot, and puts spaces between octets.
        AllRecordData::Srv(srv) => format!("{srv}."),
        AllRecordData::Unknown(unknown) => {
            let octets: String = unknown.data().iter().map(|octet| format!("{octet:02x}")).collect();
            format!("\\# {} {octets}", unknown.data().len())
        }
        data => data.to_string(),
    }
}

/// How long so many questions are, names without pointers.
fn question_length(bytes: &[u8], count: u16) -> usize {
    let mut at = 0;
    for _ in 0..count {
        while bytes.get(at).is_some_and(|length| *length != 0) {
            at += usize::from(bytes[at]) + 1;
        }
        at += 5;
    }
    at.min(bytes.len())
}

/// A record's text with single spaces, in lower case.
pub fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

/// The name of a code.
pub fn code_name(code: u16) -> String {
    domain::base::iana::OptRcode::masked_from_int(code).to_string()
}
