//! The table of messages: forms of queries, sound and broken, and what each is answered with, by the RFCs.
//!
//! Names hardly matter here: they are those of `names.txt`, and `big.test.` ([`big_zone`]) for what does not fit.

use std::fmt::Write;

use super::exchange::{A, Answer, Query, Transport, code_name, name, opt};
use super::servers::IDENTIFIER;

const NSID: u16 = 3;
const SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const PADDING: u16 = 12;
/// Of the range for local use, RFC 6891 section 9.
const UNKNOWN_OPTION: u16 = 65_001;
const AXFR: u16 = 252;
const IXFR: u16 = 251;
const ANY: u16 = 255;
const SOA: u16 = 6;
const TXT: u16 = 16;
const MX: u16 = 15;
const SRV: u16 = 33;

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const NOTAUTH: u16 = 9;
const BADVERS: u16 = 16;
const BADCOOKIE: u16 = 23;

/// Has one A record.
const HOST: &str = "host1.example.";

/// One entry of the table.
pub struct Case {
    pub source: &'static str,
    pub what: String,
    pub query: Query,
    pub expected: Expected,
}

/// What is to come back.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Nothing at all.
    Silence,
    /// An answer; what is `None` may be anything.
    Answer(Want),
}

/// What an answer must have.
#[derive(Clone, Debug, Default)]
pub struct Want {
    codes: Vec<u16>,
    authoritative: Option<bool>,
    edns: Option<bool>,
    /// Options that must be there, and with what; no value means any.
    options: Vec<(u16, Option<Vec<u8>>)>,
    /// Options that must not.
    absent: Vec<u16>,
    dnssec_ok: Option<bool>,
    /// Records in the answer section: where TC is not set.
    answers: Option<usize>,
    additional: Option<usize>,
    /// Whether TC is set over UDP; never over TCP.
    truncated: bool,
    /// Most octets over UDP.
    size: Option<usize>,
    /// Octets that it must contain.
    contains: Vec<u8>,
}

fn want(codes: &[u16]) -> Want {
    Want { codes: codes.to_vec(), ..Want::default() }
}

/// A query is answered as if nothing were odd about it.
fn usual() -> Want {
    Want { authoritative: Some(true), answers: Some(1), ..want(&[NOERROR]) }
}

impl Want {
    fn edns(self, edns: bool) -> Self {
        Want { edns: Some(edns), ..self }
    }

    fn option(mut self, code: u16, value: &[u8]) -> Self {
        self.options.push((code, Some(value.to_vec())));
        self
    }

    fn any_option(mut self, code: u16) -> Self {
        self.options.push((code, None));
        self
    }

    fn without(mut self, code: u16) -> Self {
        self.absent.push(code);
        self
    }

    /// What is wrong with an answer.
    pub fn faults(&self, answer: &Answer, transport: Transport) -> Vec<String> {
        let mut faults = Vec::new();
        let truncated = self.truncated && transport == Transport::Udp;
        let edns = answer.edns.clone().unwrap_or_default();
        let mut must = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        must(self.codes.contains(&answer.code), format!("{} for {}", code_name(answer.code), self.codes_text()));
        must(self.authoritative.is_none_or(|aa| aa == answer.is_authoritative()), "another AA".into());
        must(answer.is_truncated() == truncated, format!("TC is {}", answer.is_truncated()));
        must(self.edns.is_none_or(|edns| edns == answer.edns.is_some()), format!("OPT: {}", answer.edns.is_some()));
        must(
            edns.version == 0 && edns.flags & 0x7fff == 0,
            format!("version {}, flags {:x}", edns.version, edns.flags),
        );
        must(self.dnssec_ok.is_none_or(|dnssec_ok| dnssec_ok == (edns.flags & 0x8000 != 0)), "another DO".into());
        for (code, value) in &self.options {
            let found = edns.options.iter().find(|(found, _)| found == code).map(|(_, value)| value);
            let holds = found.is_some_and(|found| value.as_ref().is_none_or(|value| found == value));
            must(holds, format!("option {code} is {found:?}"));
        }
        let surplus = edns.options.iter().filter(|(code, _)| self.absent.contains(code));
        surplus.for_each(|(code, _)| must(false, format!("option {code} is there")));
        if !truncated {
            let [found, _, more] = answer.sections.each_ref().map(Vec::len);
            must(self.answers.is_none_or(|count| count == found), format!("{found} answers"));
            must(self.additional.is_none_or(|count| count == more), format!("{more} additional records"));
            must(contains(&answer.bytes, &self.contains), "what it must contain is not there".into());
        }
        let size = answer.bytes.len();
        must(transport == Transport::Tcp || self.size.is_none_or(|most| size <= most), format!("{size} octets"));
        faults
    }

    fn codes_text(&self) -> String {
        self.codes.iter().map(|code| code_name(*code)).collect::<Vec<_>>().join(" or ")
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// The table in the making.
#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, source: &'static str, what: impl Into<String>, query: Query, want: Want) {
        self.0.push(Case { source, what: what.into(), query, expected: Expected::Answer(want) });
    }

    fn silence(&mut self, source: &'static str, what: impl Into<String>, query: Query) {
        self.0.push(Case { source, what: what.into(), query, expected: Expected::Silence });
    }
}

/// Why others do not do with client subnets what RFC 7871 says.
const NO_SUBNETS: &str = "does not implement client subnets, and so takes the option for an unknown one";
/// What Knot does with messages that it cannot read.
const NO_ERROR: &str = "answers what it cannot read with silence";

/// Servers that are known to answer otherwise: which, to cases of which source, whose sentence begins how, and why.
#[rustfmt::skip]
const NOTES: &[(&str, &str, &str, &str)] = &[
    ("nsd", "RFC 8906 section 3.1.4", "NOTIFY", "leaves out the question of a refusal"),
    ("nsd", "RFC 1035 section 3.2.4", "class HS", "leaves out the question of a refusal"),
    ("nsd", "RFC 1035 section 3.2.4", "class NONE", "leaves out the question of a refusal"),
    ("nsd", "RFC 1035 section 3.2.4", "class 2", "leaves out the question of a refusal"),
    ("nsd", "RFC 1035 section 3.2.4", "class 65280", "leaves out the question of a refusal"),
    ("nsd", "RFC 1035 section 3.2.4", "class ANY", "answers for class IN, which section 3.2.5 allows as well"),
    ("nsd", "RFC 1035 section 4.1.1", "a code", "takes a code in a query for malformed, of which the RFC says nothing"),
    ("nsd", "RFC 1035 section 4.1.2", "no question", "closes a connection on which less comes than the shortest query"),
    ("nsd", "RFC 1035 section 4.1.2", "one announced", "closes a connection on which less comes than the shortest query"),
    ("nsd", "RFC 1035 section 4.1.2", "a question cut off after 1 ", "closes a connection on which less comes than the shortest query"),
    ("nsd", "RFC 6891 section 6.1.1", "OPT behind", "looks for OPT in the first place only"),
    ("nsd", "RFC 6891 section 6.1.1", "an opcode", "has no OPT in errors that are found early"),
    ("nsd", "RFC 7873 section 5.2.2", "", "has no OPT in errors that are found early"),
    ("nsd", "RFC 7871 section 7.2.1", "", NO_SUBNETS),
    ("nsd", "RFC 7871 section 7.1.2", "", NO_SUBNETS),
    ("nsd", "RFC 9471 section 3.1", "", "is older than the RFC: glue may be left out without TC"),
    ("knot", "RFC 9619 section 4", "", NO_ERROR),
    ("knot", "RFC 1035 section 4.1.2", "one announced", NO_ERROR),
    ("knot", "RFC 1035 section 4.1.2", "a question cut off", NO_ERROR),
    ("knot", "RFC 1035 section 4.1.4", "a name that points", NO_ERROR),
    ("knot", "RFC 1035 section 4.1.4", "a label", NO_ERROR),
    ("knot", "RFC 6891 section 5", "", NO_ERROR),
    ("knot", "RFC 1035 section 2.3.4", "a name of 256", NO_ERROR),
    ("knot", "RFC 1035 section 2.3.4", "a label of 64", NO_ERROR),
    ("knot", "RFC 1035 section 3.2.4", "class ANY", "answers for class IN, which section 3.2.5 allows as well"),
    ("knot", "RFC 6891 section 6.1.2", "OPT with an owner", "does not look at the owner of OPT"),
    ("knot", "RFC 6891 section 6.1.2", "OPT whose owner", "does not look at the owner of OPT"),
    ("knot", "RFC 7871 section 7.2.1", "", NO_SUBNETS),
    ("knot", "RFC 7871 section 7.1.2", "", NO_SUBNETS),
    ("knot", "RFC 7873 section 5.4", "", "does not hand out cookies without a question"),
    ("bind", "RFC 1035 section 3.2.4", "class NONE", "takes a class that is for updates only for malformed"),
    ("bind", "RFC 1035 section 3.2.4", "class ANY", "takes class ANY for malformed where it has no view of it"),
    ("bind", "RFC 7871 section 7.1.2", "a client subnet with a scope", "has no OPT in this error"),
    ("bind", "RFC 9471 section 3.1", "", "sends what glue fits, without TC"),
];

impl Case {
    /// Why a server is known to answer otherwise, if it is.
    pub fn note(&self, server: &str) -> Option<&'static str> {
        let note = NOTES.iter().find(|(name, source, what, _)| *name == server && self.is(source, what));
        note.map(|(_, _, _, reason)| *reason)
    }

    fn is(&self, source: &str, what: &str) -> bool {
        self.source == source && self.what.starts_with(what)
    }
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    let mut table = Table::default();
    headers(&mut table);
    questions(&mut table);
    classes_and_transfers(&mut table);
    edns_forms(&mut table);
    edns_options(&mut table);
    cookies(&mut table);
    sizes(&mut table);
    names(&mut table);
    for (server, source, what, _) in NOTES {
        assert!(table.0.iter().any(|case| case.is(source, what)), "a note about no case: {server} {source} {what}");
    }
    table.0
}

fn host() -> Query {
    Query::new(HOST, A)
}

fn headers(table: &mut Table) {
    table.silence("RFC 8906 section 2", "a response (QR=1)", host().flags(0x80, 0));
    table.silence("RFC 8906 section 2", "a response with an error", host().flags(0x80, FORMERR as u8));
    table.silence("RFC 8906 section 2", "a response of an unknown opcode", host().flags(0xf8, 0));
    table.silence("RFC 1035 section 4.1.1", "less than a header", Query(host().0[..11].to_vec()));
    for opcode in [1u8, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let what = format!("opcode {opcode}, obsolete or unknown");
        table.add("RFC 8906 section 3.1.4", what, host().flags(opcode << 3, 0), want(&[NOTIMP]));
    }
    for (opcode, name) in [(4u8, "NOTIFY"), (5, "UPDATE"), (6, "DSO")] {
        let codes = [FORMERR, NOTIMP, REFUSED, NOTAUTH];
        let what = format!("{name}, which nobody is allowed here");
        table.add("RFC 8906 section 3.1.4", what, host().flags(opcode << 3, 0), want(&codes));
    }
    let flags = [
        (0x04, 0, "AA"),
        (0x02, 0, "TC"),
        (0x01, 0, "RD"),
        (0, 0x80, "RA"),
        (0, 0x40, "Z"),
        (0, 0x20, "AD"),
        (0, 0x10, "CD"),
    ];
    for (high, low, flag) in flags {
        let what = format!("{flag}=1 in a query: ignored");
        table.add("RFC 8906 section 3.1.3", what, host().flags(high, low), usual().edns(false));
    }
    table.add("RFC 1035 section 4.1.1", "a code in a query: ignored", host().flags(0, 5), usual());
}

fn questions(table: &mut Table) {
    let two = host().count(0, 2).then(&host().0[12..]);
    table.add("RFC 9619 section 4", "two questions", two, want(&[FORMERR]));
    table.add("RFC 9619 section 4", "two questions announced, one there", host().count(0, 2), want(&[FORMERR]));
    let header_alone = Query(host().0[..12].to_vec());
    table.add("RFC 1035 section 4.1.2", "no question", header_alone.clone().count(0, 0), want(&[FORMERR]));
    table.add("RFC 1035 section 4.1.2", "one announced, none there", header_alone, want(&[FORMERR]));
    table.add("RFC 1035 section 4.1.1", "an answer announced, none there", host().count(1, 1), want(&[FORMERR]));
    let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..], &[192, 0, 2, 9]].concat();
    table.add(
        "RFC 1035 section 4.1.1",
        "a query with an answer",
        host().count(1, 1).then(&record),
        want(&[NOERROR, FORMERR]),
    );
    table.add("RFC 1035 section 4.1.1", "a record more announced than there", host().count(3, 1), want(&[FORMERR]));
    let cut = host().0;
    for length in [13, 18, cut.len() - 4, cut.len() - 1] {
        let what = format!("a question cut off after {} octets", length - 12);
        table.add("RFC 1035 section 4.1.2", what, Query(cut[..length].to_vec()), want(&[FORMERR]));
    }
    let with_name = |name: &[u8]| Query([&cut[..12], name, &[0, 1, 0, 1]].concat());
    table.add("RFC 1035 section 4.1.4", "a name that points at itself", with_name(&[0xc0, 12]), want(&[FORMERR]));
    table.add("RFC 1035 section 4.1.4", "a name that points behind itself", with_name(&[0xc0, 200]), want(&[FORMERR]));
    table.add("RFC 6891 section 5", "a label of kind 01", with_name(&[0x41, b'a', 0]), want(&[FORMERR]));
    table.add("RFC 1035 section 4.1.4", "a label of kind 10", with_name(&[0x81, b'a', 0]), want(&[FORMERR]));
}

fn classes_and_transfers(table: &mut Table) {
    let classes = [(3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY"), (2, "2, unassigned"), (65_280, "65280, private")];
    for (class, name) in classes {
        let what = format!("class {name}");
        table.add(
            "RFC 1035 section 3.2.4",
            what,
            host().class(class),
            Want { answers: Some(0), ..want(&[REFUSED, NOTIMP]) },
        );
    }
    table.add(
        "RFC 5936 section 4.2",
        "AXFR over UDP, and over TCP to a stranger",
        Query::new("example.", AXFR),
        Want { answers: Some(0), ..want(&[REFUSED, NOTAUTH, NOTIMP, FORMERR]) },
    );
    table.add(
        "RFC 1995 section 2",
        "IXFR without the version one has",
        Query::new("example.", IXFR),
        Want { answers: Some(0), ..want(&[REFUSED, NOTAUTH, NOTIMP, FORMERR]) },
    );
    let version = [&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0][..], &[0, 0, 0, 1], &[0; 16]].concat();
    table.add(
        "RFC 1995 section 3",
        "IXFR with the version one has, from a stranger",
        Query::new("example.", IXFR).count(2, 1).then(&version),
        Want { answers: Some(0), ..want(&[REFUSED, NOTAUTH, NOTIMP]) },
    );
    table.add("RFC 8482 section 4.1", "ANY over UDP is no amplifier", Query::new(HOST, ANY), usual());
}

fn edns_forms(table: &mut Table) {
    let edns = |version, flags, options: &[(u16, &[u8])]| host().additional(&opt(&[0], 1232, version, flags, options));
    let broken = || want(&[FORMERR]);
    table.add("RFC 6891 section 7", "no OPT to a query without", host(), usual().edns(false));
    table.add("RFC 6891 section 6.1.1", "OPT to a query with", edns(0, 0, &[]), usual().edns(true));
    let dnssec_ok = Want { dnssec_ok: Some(true), ..usual().edns(true) };
    table.add("RFC 3225 section 3", "DO is copied", edns(0, 0x8000, &[]), dnssec_ok);
    let clear = Want { dnssec_ok: Some(false), ..usual().edns(true) };
    table.add("RFC 6891 section 6.1.4", "flags that nobody knows", edns(0, 0x7fff, &[]), clear);
    let badvers = || Want { answers: Some(0), ..want(&[BADVERS]).edns(true) };
    table.add("RFC 6891 section 6.1.3", "version 1", edns(1, 0, &[]), badvers());
    table.add("RFC 6891 section 6.1.3", "version 255", edns(255, 0, &[]), badvers());
    let unknown = edns(1, 0x0040, &[(UNKNOWN_OPTION, b"x")]);
    table.add("RFC 8906 section 8.2.6", "version 1 with a flag and an option that nobody knows", unknown, badvers());
    let two = edns(0, 0, &[]).additional(&opt(&[0], 1232, 0, 0, &[]));
    table.add("RFC 6891 section 6.1.1", "two OPT records", two, broken());
    let named = host().additional(&opt(&name("a."), 1232, 0, 0, &[]));
    table.add("RFC 6891 section 6.1.2", "OPT with an owner other than the root", named, broken());
    let pointed = host().additional(&opt(&[0xc0, 12], 1232, 0, 0, &[]));
    table.add("RFC 6891 section 6.1.2", "OPT whose owner is the question's name", pointed, broken());
    let root_pointer = host().additional(&opt(&[0xc0, 26], 1232, 0, 0, &[]));
    table.add("RFC 1035 section 4.1.4", "OPT whose owner points at a root", root_pointer, want(&[NOERROR, FORMERR]));
    let in_answer = host().count(1, 1).then(&opt(&[0], 1232, 0, 0, &[]));
    table.add("RFC 6891 section 6.1.1", "OPT in the answer section", in_answer, broken());
    let mut long = edns(0, 0, &[(UNKNOWN_OPTION, b"abc")]);
    long.0.pop();
    table.add("RFC 6891 section 6.1.2", "OPT cut off", long, broken());
    let loose = host().additional(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 3, 0, 3, 0]);
    table.add("RFC 6891 section 6.1.2", "half an option", loose, broken());
    let long = host().additional(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 3, 0, 9]);
    table.add("RFC 6891 section 6.1.2", "an option longer than OPT", long, broken());
    let record = [&[0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..], &[192, 0, 2, 9]].concat();
    let other = host().additional(&record).additional(&opt(&[0], 1232, 0, 0x8000, &[]));
    table.add(
        "RFC 6891 section 6.1.1",
        "OPT behind another record",
        other,
        Want { dnssec_ok: Some(true), ..usual().edns(true) },
    );
    // RFC 6891 section 6.1.1: "If an OPT record is present in a received request, compliant responders MUST include an OPT
    // record in their respective responses."
    let status = edns(0, 0, &[]).flags(2 << 3, 0);
    table.add("RFC 6891 section 6.1.1", "an opcode that is not served, with OPT", status, want(&[NOTIMP]).edns(true));
    let chaos = Query::new(HOST, A).class(3).edns(1232, &[]);
    table.add("RFC 6891 section 6.1.1", "a class that is not served, with OPT", chaos, want(&[REFUSED]).edns(true));
    let foreign = Query::new("www.elsewhere.invalid.", A).edns(1232, &[]);
    table.add("RFC 6891 section 6.1.1", "a zone that is not served, with OPT", foreign, want(&[REFUSED]).edns(true));
}

fn edns_options(table: &mut Table) {
    let with = |options: &[(u16, &[u8])]| host().edns(1232, options);
    table.add("RFC 6891 section 6.1.2", "an option that nobody knows", with(&[(UNKNOWN_OPTION, b"what?")]), {
        usual().edns(true).without(UNKNOWN_OPTION)
    });
    table.add("RFC 6891 section 6.1.2", "an empty option that nobody knows", with(&[(UNKNOWN_OPTION, b"")]), {
        usual().edns(true).without(UNKNOWN_OPTION)
    });
    let identified = usual().edns(true).option(NSID, IDENTIFIER.as_bytes());
    table.add("RFC 5001 section 2.2", "NSID where it is asked for", with(&[(NSID, b"")]), identified);
    table.add("RFC 5001 section 2.2", "and not where it is not", with(&[]), usual().without(NSID));
    table.add("RFC 7830 section 4", "padding in the clear", with(&[(PADDING, &[0; 64])]), usual().edns(true));
    for (what, asked, told) in [
        ("192.0.2.0/24", &[0, 1, 24, 0, 192, 0, 2][..], &[0, 1, 24, 0, 192, 0, 2][..]),
        ("192.0.2.1/32", &[0, 1, 32, 0, 192, 0, 2, 1], &[0, 1, 32, 0, 192, 0, 2, 1]),
        ("192.0.0.0/17", &[0, 1, 17, 0, 192, 0, 0], &[0, 1, 17, 0, 192, 0, 0]),
        ("2001:db8::/56", &[0, 2, 56, 0, 32, 1, 13, 184, 0, 0, 0], &[0, 2, 56, 0, 32, 1, 13, 184, 0, 0, 0]),
        ("0.0.0.0/0", &[0, 1, 0, 0], &[0, 1, 0, 0]),
        ("::/0", &[0, 2, 0, 0], &[0, 2, 0, 0]),
    ] {
        let what = format!("client subnet {what}: echoed, for everybody");
        table.add("RFC 7871 section 7.2.1", what, with(&[(SUBNET, asked)]), usual().edns(true).option(SUBNET, told));
    }
    for (what, asked) in [
        ("with a scope", &[0, 1, 24, 24, 192, 0, 2][..]),
        ("shorter than its prefix", &[0, 1, 24, 0, 192, 0]),
        ("longer than its prefix", &[0, 1, 24, 0, 192, 0, 2, 1]),
        ("with bits beyond its prefix", &[0, 1, 23, 0, 192, 0, 3]),
        ("of 33 bits", &[0, 1, 33, 0, 192, 0, 2, 1, 0]),
        ("of a family that there is not", &[0, 3, 8, 0, 1]),
        ("without a prefix", &[0, 1]),
        ("that is empty", &[]),
    ] {
        let what = format!("a client subnet {what}");
        table.add("RFC 7871 section 7.1.2", what, with(&[(SUBNET, asked)]), want(&[FORMERR]).edns(true));
    }
}

fn cookies(table: &mut Table) {
    let with = |cookie: &[u8]| host().edns(1232, &[(COOKIE, cookie)]);
    let told = want(&[NOERROR, BADCOOKIE]).edns(true).any_option(COOKIE);
    table.add("RFC 7873 section 5.2.3", "a client's cookie alone", with(b"8 octets"), told.clone());
    let forged = [&b"8 octets"[..], &[1, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]].concat();
    table.add("RFC 7873 section 5.2.4", "a server cookie that is none", with(&forged), told);
    for length in [0, 1, 7, 9, 15, 41] {
        let what = format!("a cookie of {length} octets");
        table.add("RFC 7873 section 5.2.2", what, with(&vec![7; length]), want(&[FORMERR]).edns(true));
    }
    let bare = Query(host().0[..12].to_vec()).count(0, 0).edns(1232, &[(COOKIE, b"8 octets")]);
    let cookie_alone = Want { answers: Some(0), ..want(&[NOERROR, BADCOOKIE]).edns(true).any_option(COOKIE) };
    table.add("RFC 7873 section 5.4", "no question, but a cookie", bare, cookie_alone);
}

/// A zone with sets of known sizes: with n addresses of 16 octets, the answer to `aN.big.test.` has 28 + length of N + 16 n.
pub fn big_zone() -> String {
    let mut text = String::from(
        "$ORIGIN big.test.\n$TTL 3600\n@ SOA ns.target.test. hostmaster.target.test. 1 7200 900 1209600 300\n\
         @ NS ns.target.test.\n",
    );
    for count in [30, 31, 41, 42, 74, 75, 300, 4_000] {
        for host in 0..count {
            let _ = writeln!(text, "a{count} A 10.{}.{}.{}", count % 250, host / 250, host % 250);
        }
    }
    // Not through pointers: 60,000 octets of strings, more than pointers reach.
    for part in 0..240 {
        let _ = writeln!(text, "text TXT \"{part:03} {}\"", "x".repeat(240));
    }
    for server in 10..30 {
        let _ = writeln!(
            text,
            "many NS ns{server}.many\nns{server}.many A 10.1.0.{server}\nns{server}.many AAAA fd00::{server}"
        );
        let _ = writeln!(text, "sibling NS ns{server}.many");
    }
    text
}

fn sizes(table: &mut Table) {
    let addresses = |count: usize| Query::new(&format!("a{count}.big.test."), A);
    let all = |count: usize, size: usize| Want {
        answers: Some(count),
        size: Some(size),
        authoritative: Some(true),
        ..want(&[NOERROR])
    };
    let cut = |count: usize, size: usize| Want { truncated: true, ..all(count, size) };
    table.add("RFC 1035 section 4.2.1", "512 octets are enough", addresses(30), all(30, 512));
    table.add("RFC 1035 section 4.2.1", "and not exceeded without EDNS", addresses(31), cut(31, 512));
    table.add("RFC 6891 section 6.2.3", "with EDNS they are", addresses(31).edns(1232, &[]), all(31, 1232));
    for size in [0, 100, 511, 512] {
        let what = format!("a client that takes {size} octets takes 512");
        table.add("RFC 6891 section 6.2.3", what, addresses(31).edns(size, &[]), cut(31, 512));
        let what = format!("a client that takes {size} octets gets what fits");
        table.add("RFC 6891 section 6.2.3", what, Query::new(HOST, A).edns(size, &[]), all(1, 512));
    }
    table.add("RFC 6891 section 6.2.3", "the client's size: 700, enough", addresses(41).edns(700, &[]), all(41, 700));
    table.add(
        "RFC 6891 section 6.2.3",
        "the client's size: 700, not enough",
        addresses(42).edns(700, &[]),
        cut(42, 700),
    );
    table.add("RFC 9715 section 3.1", "1,232 octets are enough", addresses(74).edns(1232, &[]), all(74, 1232));
    table.add("RFC 9715 section 3.1", "1,232 octets are not", addresses(75).edns(1232, &[]), cut(75, 1232));
    table.add(
        "RFC 9715 section 3.1",
        "a server need not send what a client would take",
        addresses(300).edns(4096, &[]),
        cut(300, 1232),
    );
    table.add("RFC 7766 section 5", "64,028 octets over TCP", addresses(4_000).edns(1232, &[]), cut(4_000, 1232));
    table.add("RFC 7766 section 5", "60,000 octets of text over TCP", Query::new("text.big.test.", TXT), cut(240, 512));
    let glue = Want { truncated: true, additional: Some(40), answers: Some(0), size: Some(512), ..want(&[NOERROR]) };
    table.add("RFC 9471 section 3.1", "glue in the child does not fit: TC", Query::new("www.many.big.test.", A), glue);
    let sibling = Want { answers: Some(0), size: Some(1232), authoritative: Some(false), ..want(&[NOERROR]) };
    let query = Query::new("www.sibling.big.test.", A).edns(1232, &[]);
    table.add("RFC 9471 section 3.2", "glue in a sibling may be left out without TC", query, sibling);
}

fn names(table: &mut Table) {
    for asked in ["HOST1.EXAMPLE.", "hOsT1.eXaMpLe.", "Host1.Example."] {
        let what = format!("{asked} comes back as it was asked");
        // Answer::faults compares the question octet for octet.
        table.add("RFC 4343 section 4.1", what, Query::new(asked, A), usual());
    }
    let longest = "%63.%63.%63.%51.long.test.";
    table.add("RFC 1035 section 2.3.4", "a name of 255 octets", Query::new(longest, A), usual());
    let longer = "%63.%63.%63.%52.long.test.";
    table.add("RFC 1035 section 2.3.4", "a name of 256 octets", Query::new(longer, A), want(&[FORMERR]));
    let long_label = "%64.long.test.";
    table.add("RFC 1035 section 2.3.4", "a label of 64 octets", Query::new(long_label, A), want(&[FORMERR]));
    let labels = "a.".repeat(122);
    let many = Query::new(&format!("{labels}long.test."), A);
    table.add("RFC 1035 section 2.3.4", "124 labels", many, Want { authoritative: Some(true), ..want(&[NXDOMAIN]) });
    let mut odd = Query(host().0[..12].to_vec());
    odd = odd.then(&[4, 0, 0x80, 0xff, b'.']).then(&name("types.test.")).then(&[0, 1, 0, 1]);
    let missing = Want { authoritative: Some(true), ..want(&[NXDOMAIN]) };
    table.add("RFC 2181 section 11", "a label of any octets, zero and dot among them", odd, missing.clone());
    let mut dotted = Query(host().0[..12].to_vec());
    dotted = dotted.then(&[3]).then(b"a.b").then(&name("types.test.")).then(&[0, 16, 0, 1]);
    let text = Want { contains: b"a dot within a label".to_vec(), ..usual() };
    table.add("RFC 2181 section 11", "a dot within a label", dotted, text);
    let whole = name("mail.types.test.");
    let srv = Want { contains: [&[0, 1, 0, 2, 1, 187][..], &whole].concat(), ..usual() };
    table.add("RFC 2782", "the target of SRV is not compressed", Query::new("srv.types.test.", SRV), srv);
    let compressed = [&[0, 9, 0, 10, 4][..], b"mail", &[0xc0, 12]].concat();
    let mx = Want { contains: compressed, ..usual() };
    table.add("RFC 3597 section 4", "that of MX may be", Query::new("types.test.", MX), mx);
    let soa = Want { answers: Some(1), ..want(&[NOERROR]) };
    table.add("RFC 1034 section 4.3.2", "the SOA", Query::new("example.", SOA), soa);
}
