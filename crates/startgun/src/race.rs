//! `startgun race`: ask once, watch every answer come in, print the finish.
//!
//! It listens on an unconnected socket until nothing more can come, so it sees the losers that a resolver never looks
//! at. Times are the kernel's receive timestamps, as seconds behind the winner.

use domain::base::iana::Class;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;
use serde::Serialize;
use startgun_core::time::{LocalTime, Span};
use startgun_net::host_clock::HostClock;
use startgun_net::udp::{Options, ReceiveBatch, UdpSocket};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Most answers taken down: more sites than any race has.
const MAX_FINISHERS: usize = 1_024;

/// Ask for a raced name once and print every answer in the order of arrival
#[derive(Debug, clap::Args)]
pub struct RaceArgs {
    /// The name to ask for
    name: String,
    /// Whom to ask, as @ADDRESS or @ADDRESS:PORT (53 unless given), and the record type (A unless given); in any order
    #[arg(value_name = "TYPE|@SERVER[:PORT]", num_args = 1..=2, required = true)]
    rest: Vec<String>,
    /// Ask once over TCP first: a master races only for addresses that have completed a query over TCP
    #[arg(long)]
    validate: bool,
    /// How long to wait for all answers, in milliseconds, 1 to 60000
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    wait_ms: u64,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
}

/// One answer that arrived.
#[derive(Debug, Serialize)]
struct Finisher {
    place: usize,
    /// From NSID.
    site: Option<String>,
    /// `site`, or `fallback` when the master answered itself.
    answer: Vec<String>,
    rcode: String,
    truncated: bool,
    /// Behind the first, in microseconds.
    behind_us: f64,
    /// After the query was sent, in milliseconds.
    after_ms: f64,
}

#[derive(Debug, Serialize)]
struct Finish {
    name: String,
    #[serde(rename = "type")]
    rtype: String,
    server: SocketAddr,
    finishers: Vec<Finisher>,
}

/// The command.
///
/// # Errors
/// A sentence for the operator.
pub fn run(args: &RaceArgs) -> Result<(), String> {
    let (rtype, server) = target(&args.rest)?;
    let name = Name::<Vec<u8>>::from_str(&args.name)
        .map_err(|error| format!("\"{}\" is not a domain name: {error}", args.name))?;
    if args.validate {
        validate(&name, rtype, server)?;
    }
    let finishers = watch(&name, rtype, server, Duration::from_millis(args.wait_ms))?;
    let finish = Finish { name: args.name.clone(), rtype: rtype.to_string(), server, finishers };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&finish).map_err(|error| error.to_string())?),
        false => print!("{}", text(&finish)),
    }
    match finish.finishers.is_empty() {
        true => Err(format!("no answer from {server} within {} ms", args.wait_ms)),
        false => Ok(()),
    }
}

fn target(rest: &[String]) -> Result<(Rtype, SocketAddr), String> {
    let (mut rtype, mut server) = (None, None);
    for word in rest {
        match word.strip_prefix('@') {
            Some(address) => server = Some(parse_server(address)?),
            None => {
                let known = Rtype::from_str(&word.to_ascii_uppercase());
                rtype = Some(known.map_err(|_| format!("\"{word}\" is neither a record type nor @SERVER[:PORT]"))?);
            }
        }
    }
    let server = server.ok_or("no server: name one as @ADDRESS or @ADDRESS:PORT")?;
    Ok((rtype.unwrap_or(Rtype::A), server))
}

fn parse_server(address: &str) -> Result<SocketAddr, String> {
    address
        .parse::<SocketAddr>()
        .or_else(|_| address.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("\"@{address}\" is not @ADDRESS or @ADDRESS:PORT (an address, not a name)"))
}

fn query(name: &Name<Vec<u8>>, rtype: Rtype, id: u16) -> Result<Vec<u8>, String> {
    let built = || {
        let mut question = MessageBuilder::new_vec().question();
        question.header_mut().set_id(id);
        question.push((name, rtype, Class::IN)).ok()?;
        let mut additional = question.additional();
        let options = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(1_232);
            opt.client_nsid()
        };
        additional.opt(options).ok()?;
        Some(additional.finish())
    };
    built().ok_or_else(|| "the query does not fit into a message".into())
}

/// Completes one query over TCP, so that the master knows that this host receives what is sent to its address.
fn validate(name: &Name<Vec<u8>>, rtype: Rtype, server: SocketAddr) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("validating over TCP with {server}: {error}");
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(3)).map_err(fault)?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).map_err(fault)?;
    let query = query(name, rtype, random_id())?;
    stream.write_all(&(query.len() as u16).to_be_bytes()).and_then(|()| stream.write_all(&query)).map_err(fault)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(fault)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).map_err(fault)
}

/// A message id that nobody can foresee, from the hash seeds that the standard library draws from the kernel.
fn random_id() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8) as u16
}

fn watch(name: &Name<Vec<u8>>, rtype: Rtype, server: SocketAddr, wait: Duration) -> Result<Vec<Finisher>, String> {
    let clock = HostClock::new(None);
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let options = Options { receive_timestamps: true, ..Options::default() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0), options).map_err(|error| format!("a socket: {error}"))?;
    let id = random_id();
    let query = query(name, rtype, id)?;
    let sent_at = clock.now();
    socket.send_to(&query, server).map_err(|error| format!("sending to {server}: {error}"))?;

    let mut arrivals: Vec<(LocalTime, Vec<u8>)> = Vec::new();
    let mut batch = ReceiveBatch::new(64);
    let end = Instant::now() + wait;
    while Instant::now() < end && arrivals.len() < MAX_FINISHERS {
        let received = socket.receive(&mut batch, &clock).map_err(|error| format!("receiving: {error}"))?;
        for packet in
            batch.iter().filter(|packet| packet.source == server && packet.bytes.starts_with(&id.to_be_bytes()))
        {
            arrivals.push((packet.received_at, packet.bytes.to_vec()));
        }
        if received == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    arrivals.sort_by_key(|(at, _)| *at);
    let winner = arrivals.first().map(|(at, _)| *at);
    let finisher = |(place, (at, bytes)): (usize, &(LocalTime, Vec<u8>))| {
        finisher(place + 1, bytes, *at - winner.unwrap_or(*at), *at - sent_at)
    };
    Ok(arrivals.iter().enumerate().filter_map(finisher).collect())
}

fn finisher(place: usize, bytes: &[u8], behind: Span, after: Span) -> Option<Finisher> {
    let message = Message::from_octets(bytes).ok()?;
    let nsid = message.opt().and_then(|opt| {
        opt.opt()
            .nsid()
            .map(|nsid| String::from_utf8_lossy(nsid.as_slice()).chars().filter(|c| !c.is_control()).collect())
    });
    let records = message.answer().ok()?.limit_to::<AllRecordData<_, _>>();
    Some(Finisher {
        place,
        site: nsid,
        answer: records.flatten().map(|record| record.data().to_string()).collect(),
        rcode: message.header().rcode().to_string(),
        truncated: message.header().tc(),
        behind_us: behind.as_micros_f64(),
        after_ms: after.as_millis_f64(),
    })
}

fn text(finish: &Finish) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} {} @{}", finish.name, finish.rtype, finish.server);
    let _ = writeln!(out, "{:>5}  {:<20} {:>14}  {:>10}  answer", "place", "site", "behind", "after");
    for finisher in &finish.finishers {
        let behind = if finisher.place == 1 { "winner".to_owned() } else { format!("+{:.0} us", finisher.behind_us) };
        let answer = match (finisher.truncated, finisher.answer.is_empty()) {
            (true, _) => "truncated: this address is not validated, try --validate".to_owned(),
            (false, true) => finisher.rcode.clone(),
            (false, false) => finisher.answer.join(", "),
        };
        let _ = writeln!(
            out,
            "{:>5}  {:<20} {behind:>14}  {:>7.1} ms  {answer}",
            finisher.place,
            finisher.site.as_deref().unwrap_or("-"),
            finisher.after_ms
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_server_come_in_any_order() {
        let words = |words: &[&str]| target(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let v6: SocketAddr = "[2001:db8::1]:53".parse().expect("an address");
        assert_eq!(words(&["@192.0.2.1"]), Ok((Rtype::A, "192.0.2.1:53".parse().expect("an address"))));
        assert_eq!(words(&["aaaa", "@[2001:db8::1]"]), Ok((Rtype::AAAA, v6)));
        assert_eq!(words(&["@2001:db8::1", "AAAA"]), Ok((Rtype::AAAA, v6)));
        assert_eq!(words(&["@192.0.2.1:5300"]).map(|(_, server)| server.port()), Ok(5300));
        assert!(words(&["A"]).is_err_and(|error| error.contains("no server")));
        assert!(words(&["bogus", "@192.0.2.1"]).is_err_and(|error| error.contains("bogus")));
        assert!(words(&["@example.org"]).is_err_and(|error| error.contains("not a name")));
    }
}
