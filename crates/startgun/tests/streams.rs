//! DNS over TCP as clients use and misuse it: many queries at once, bytes one by one, nothing read, nothing said, more
//! connections than there are places.

mod support;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use support::fleet::{Fleet, Options, PLAIN, SERVICE};
use support::stream::{Client, Ending, PATIENCE, connect, framed, id_of, query};
use support::{Test, dns, wait_for};

/// The option edns-tcp-keepalive (RFC 7828).
const KEEPALIVE: u16 = 11;

const TESTS: [(&str, Test); 10] = [
    ("pipelined_and_split_queries_are_answered_in_order", pipelined_and_split_queries_are_answered_in_order),
    ("who_closes_its_side_still_gets_its_answers", who_closes_its_side_still_gets_its_answers),
    ("nonsense_ends_a_connection_after_the_earlier_answers", nonsense_ends_a_connection_after_the_earlier_answers),
    ("a_slow_sender_is_cut_off_whatever_it_drips", a_slow_sender_is_cut_off_whatever_it_drips),
    ("a_client_that_does_not_read_is_cut_off", a_client_that_does_not_read_is_cut_off),
    ("the_last_query_of_a_connection_is_answered", the_last_query_of_a_connection_is_answered),
    ("the_idlest_connection_makes_room", the_idlest_connection_makes_room),
    ("clients_are_told_how_long_they_may_stay", clients_are_told_how_long_they_may_stay),
    ("without_descriptors_it_waits_and_makes_room", without_descriptors_it_waits_and_makes_room),
    ("dig_and_kdig_keep_a_connection_open", dig_and_kdig_keep_a_connection_open),
];

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn master(master_table: &'static str) -> Result<Fleet, String> {
    Fleet::with_master(&Options { master_table, ..Options::default() })
}

fn pipelined_and_split_queries_are_answered_in_order() -> Result<(), String> {
    let fleet = master("")?;
    let mut client = connect(fleet.client());
    let queries: Vec<Vec<u8>> = (0..500).map(query).collect();
    client.send(&framed(&queries));
    for id in 0..500 {
        let answer = client.receive().expect("an answer");
        assert_eq!((id_of(&answer), dns::rcode(&answer), answer.len() > 200), (id, 0, true));
    }
    // Byte by byte, the length's two bytes apart as well, the end of one with the beginning of the next.
    let split = framed(&[query(1), query(2)]);
    let (last, before) = split.split_last().expect("bytes");
    for byte in before {
        client.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(id_of(&client.receive().expect("the first is whole")), 1);
    assert!(client.is_open(), "the second is not");
    client.send(&[*last, 0]);
    assert_eq!(id_of(&client.receive().expect("an answer")), 2);
    client.send(&framed(&[query(3)])[1..]);
    assert_eq!(id_of(&client.receive().expect("an answer")), 3);
    assert!(client.is_open());
    // A message as long as there can be one is read to its end, and gets an error. Its bytes may come as they like.
    let mut longest = query(4);
    longest.resize(65_535, 0);
    client.send(&framed(&[longest, query(5)]));
    assert_eq!(id_of(&client.receive().expect("an answer")), 4);
    assert_eq!(id_of(&client.receive().expect("an answer")), 5);
    fleet.wait_for_counter("m1", "queries_tcp", 505);
    assert_eq!(fleet.status("m1").expect("a status")["streams"]["open_tcp"], 1);
    Ok(())
}

fn who_closes_its_side_still_gets_its_answers() -> Result<(), String> {
    let fleet = master("")?;
    let mut client = connect(fleet.client());
    let queries: Vec<Vec<u8>> = (0..300).map(query).collect();
    client.send(&[&framed(&queries)[..], &[0, 40, 1]].concat());
    client.stream.shutdown(Shutdown::Write).expect("closed");
    let (answers, ending) = client.receive_rest();
    let ids: Vec<u16> = answers.iter().map(|answer| id_of(answer)).collect();
    assert_eq!((ids, ending), ((0..300).collect(), Ending::Closed));
    fleet.wait_for_counter("m1", "connections_finished", 1);
    Ok(())
}

fn nonsense_ends_a_connection_after_the_earlier_answers() -> Result<(), String> {
    let fleet = master("")?;
    let mut response = query(9);
    response[2] |= 0x80;
    let cases = [
        ("length 0", vec![0, 0]),
        ("length 11", vec![0, 11]),
        ("a response", framed(&[response])),
        ("HTTP", b"\x00\x05GET / HTTP/1.1\r\nHost: ns\r\n\r\n".to_vec()),
    ];
    for (what, nonsense) in &cases {
        let mut client = connect(fleet.client());
        client.send(&[&framed(&[query(7), query(8)])[..], nonsense, &framed(&[query(10)])].concat());
        let (answers, ending) = client.receive_rest();
        let ids: Vec<u16> = answers.iter().map(|answer| id_of(answer)).collect();
        assert_eq!((ids, ending), (vec![7, 8], Ending::Closed), "{what}");
    }
    fleet.wait_for_counter("m1", "connections_closed_malformed", cases.len() as u64);
    // What is malformed and a query gets an error, and the connection goes on (RFC 7766 section 6.2.1).
    let mut client = connect(fleet.client());
    client.send(&framed(&[query(1)[..12].to_vec(), query(2)]));
    assert_eq!(dns::rcode(&client.receive().expect("an answer")), dns::FORMERR);
    assert_eq!(id_of(&client.receive().expect("an answer")), 2);
    Ok(())
}

fn a_slow_sender_is_cut_off_whatever_it_drips() -> Result<(), String> {
    let fleet = master("[tcp]\nmessage_timeout_ms = 500\nidle_timeout_ms = 60000")?;
    let mut client = connect(fleet.client());
    client.ask(1);
    // Whole, this would take 10 s to send, and each byte comes long before the time-out.
    let started = Instant::now();
    let mut drip = query(2);
    drip.resize(200, 0);
    let sent = framed(&[drip]).into_iter().take_while(|byte| {
        std::thread::sleep(Duration::from_millis(50));
        client.is_open() && client.stream.write_all(&[*byte]).is_ok()
    });
    let sent = sent.count();
    assert!(started.elapsed() >= Duration::from_millis(500) && sent < 200, "{sent} bytes, {:?}", started.elapsed());
    assert_eq!(client.receive_rest().0, Vec::<Vec<u8>>::new());
    fleet.wait_for_counter("m1", "connections_closed_slow_message", 1);
    // Silence is not slowness: another one waits for longer and is answered.
    let mut client = connect(fleet.client());
    std::thread::sleep(Duration::from_millis(700));
    client.ask(3);
    Ok(())
}

fn a_client_that_does_not_read_is_cut_off() -> Result<(), String> {
    const QUERIES_MAX: usize = 1_000_000;
    let fleet = master("[tcp]\nmessage_timeout_ms = 1000\nmax_queries_per_connection = 1000000")?;
    let mut honest = connect(fleet.client());
    honest.ask(1);
    let mut client = connect(fleet.client());
    client.stream.set_nonblocking(true).expect("a socket");
    let queries = framed(&(0..100).map(query).collect::<Vec<_>>());
    let (mut sent, started) = (0, Instant::now());
    let error = loop {
        match client.stream.write(&queries[sent % queries.len()..]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => break error,
        }
        assert!(started.elapsed() < PATIENCE, "{sent} bytes sent, and nothing happened");
        assert!(sent < QUERIES_MAX * 33, "the master takes whatever comes");
    };
    // Its answers are worth nothing to it: what the kernel still has of them is thrown away.
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    fleet.wait_for_counter("m1", "connections_closed_unread", 1);
    // What its own kernel took in, and two buffers of the master's.
    let answered = fleet.counter("m1", "queries_tcp");
    println!("{answered} answers of some 290 bytes for a client that reads nothing");
    assert!(answered < 10_000, "{answered} answers for nobody");
    honest.ask(2);
    Ok(())
}

fn the_last_query_of_a_connection_is_answered() -> Result<(), String> {
    let fleet = master("[tcp]\nmax_queries_per_connection = 300")?;
    // A window so small that most answers are still with the master's kernel when the master is done with them. Queries
    // that nobody has read must not turn its close into a reset, which would throw them away.
    let stream = fleet.client().run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(4_096)?;
        socket.connect(&SERVICE.into()).map(|()| std::net::TcpStream::from(socket))
    });
    let mut client = Client { stream: stream.expect("the master listens") };
    client.stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    client.send(&framed(&(0..1_000).map(query).collect::<Vec<_>>()));
    std::thread::sleep(Duration::from_millis(300));
    let (answers, ending) = client.receive_rest();
    let ids: Vec<u16> = answers.iter().map(|answer| id_of(answer)).collect();
    assert_eq!((ids, ending), ((0..300).collect(), Ending::Closed));
    drop(client);
    fleet.wait_for_counter("m1", "connections_closed_query_limit", 1);
    assert_eq!(fleet.status("m1").expect("a status")["streams"]["open_tcp"], 0);
    Ok(())
}

fn the_idlest_connection_makes_room() -> Result<(), String> {
    // Beyond the time for which a place is safe.
    const SAFE: Duration = Duration::from_millis(700);
    let fleet = master("[tcp]\nmax_connections = 8\nmax_connections_per_prefix = 3\nidle_timeout_ms = 60000")?;
    // Tokyo's and Frankfurt's addresses are of one prefix, the client's and the stranger's of another.
    let hosts = [fleet.host("tokyo"), fleet.host("tokyo"), fleet.host("frankfurt"), fleet.client(), fleet.stranger()];
    let mut clients: Vec<Client<_>> = hosts.into_iter().map(connect).collect();
    (0..).zip(&mut clients).for_each(|(id, client)| client.ask(id));
    std::thread::sleep(SAFE);
    clients[0].ask(10);
    // A prefix that has its share takes a place from itself, its idlest.
    clients.push(connect(fleet.host("frankfurt")));
    clients[5].ask(11);
    wait_for("the idlest of the prefix is closed", PATIENCE, || (!clients[1].is_open()).then_some(()));
    assert!([0, 2, 3, 4, 5].iter().all(|number| clients[*number].is_open()));
    // Three more and all eight places are taken. The master's own host is of a third prefix.
    for (id, host) in [(12, fleet.client()), (13, fleet.host("m1")), (14, fleet.host("m1"))] {
        let mut client = connect(host);
        client.ask(id);
        clients.push(client);
    }
    // Who asks while all are taken may not be idle for long after that: a busy one is.
    for id in 20..24 {
        std::thread::sleep(SAFE / 4);
        clients[8].ask(id);
    }
    let mut newcomer = connect(fleet.host("m1"));
    newcomer.ask(30);
    wait_for("the idlest is closed", PATIENCE, || (!clients[2].is_open()).then_some(()));
    assert!([0, 3, 4, 5].iter().all(|number| clients[*number].is_open()));
    assert_eq!(fleet.counter("m1", "connections_closed_for_another"), 2);
    fleet.wait_for_counter("m1", "connections_closed_idle", 1);
    assert!([0, 3, 4, 5].iter().all(|number| clients[*number].is_open()), "they were promised a minute");
    Ok(())
}

/// What a connection is told in edns-tcp-keepalive (RFC 7828 section 3.1), in units of 100 ms.
fn told(client: &mut Client<TcpStream>) -> Option<u16> {
    client.send(&framed(&[dns::query_with_option(1, PLAIN, dns::TXT, KEEPALIVE, &[])]));
    let answer = client.receive().expect("an answer");
    let timeout = dns::option(&answer, KEEPALIVE)?;
    Some(u16::from_be_bytes(timeout.try_into().expect("two bytes")))
}

fn clients_are_told_how_long_they_may_stay() -> Result<(), String> {
    let fleet = master(
        "[tcp]\nmax_connections = 8\nmax_connections_per_prefix = 8\nidle_timeout_ms = 60000\n\
         max_queries_per_connection = 3",
    )?;
    let mut first = connect(fleet.client());
    assert_eq!(told(&mut first), Some(600));
    // Who does not ask is told nothing; nor is anybody over UDP (RFC 7828 section 3.2.1).
    first.send(&framed(&[dns::query_with_nsid(2, PLAIN, dns::TXT)]));
    assert_eq!(dns::option(&first.receive().expect("an answer"), KEEPALIVE), None);
    let socket = fleet.client_socket();
    socket.send_to(&dns::query_with_option(3, PLAIN, dns::TXT, KEEPALIVE, &[]), SERVICE).expect("sent");
    let answers = dns::receive_all(&socket, Duration::from_millis(200));
    assert_eq!(answers.iter().map(|(answer, _, _)| dns::option(answer, KEEPALIVE)).collect::<Vec<_>>(), [None]);
    assert_eq!(told(&mut first), Some(0), "that was its last query");
    assert_eq!(first.receive_rest(), (Vec::new(), Ending::Closed));
    drop(first);
    let open = || fleet.status("m1").expect("a status")["streams"]["open_tcp"].as_u64();
    wait_for("its place is free again", PATIENCE, || (open() == Some(0)).then_some(()));

    // Up to three quarters of the places cost nobody anything; of the last two, one is left, then none.
    let mut told_in_turn = Vec::new();
    let mut clients: Vec<Client<TcpStream>> = Vec::new();
    for _ in 0..8 {
        clients.push(connect(fleet.client()));
        told_in_turn.push(told(clients.last_mut().expect("one")));
    }
    assert_eq!(told_in_turn, [600, 600, 600, 600, 600, 600, 300, 0].map(Some));
    // What was told is what happens: the last one, idle, is closed within a second and not within a minute.
    assert_eq!(clients[7].receive_rest(), (Vec::new(), Ending::Closed));
    assert!(clients[..7].iter().all(Client::is_open));
    fleet.wait_for_counter("m1", "connections_closed_idle", 1);
    Ok(())
}

fn without_descriptors_it_waits_and_makes_room() -> Result<(), String> {
    let fleet = master("")?;
    let process = fleet.process_id("m1");
    let numbers = std::fs::read_dir(format!("/proc/{process}/fd")).expect("a process").flatten();
    let taken: BTreeSet<usize> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // Room for four connections. A status request takes a descriptor too, so nobody asks for one meanwhile.
    let limit = (0..).filter(|number| !taken.contains(number)).nth(4).expect("a number");
    let limited = Command::new("prlimit").args([format!("--pid={process}"), format!("--nofile={limit}")]).status();
    if !limited.is_ok_and(|status| status.success()) {
        return Err("prlimit (util-linux) cannot limit another process here".into());
    }
    let mut clients: Vec<Client<_>> = (0..4).map(|_| connect(fleet.client())).collect();
    clients.iter_mut().for_each(|client| client.ask(1));
    let cpu_ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    // The kernel completes the connection; the master cannot accept it before the idlest has gone, which is safe for now.
    let before = cpu_ticks();
    let mut waiting = connect(fleet.client());
    waiting.ask(2);
    println!("{} ticks of processor time while it waited", cpu_ticks() - before);
    // Linux finds no descriptor before it finds that nobody waits, so another one may have gone to keep one free.
    let open = clients.iter().filter(|client| client.is_open()).count();
    assert!((2..=3).contains(&open), "{open} are open");
    drop(clients);
    let failed = wait_for("a status", PATIENCE, || {
        let failed = fleet.counter("m1", "accepts_failed");
        (failed > 0).then_some(failed)
    });
    // Half a second in steps of 50 ms; a listener that spins counts thousands.
    assert!(failed <= 30, "{failed} attempts");
    assert!(fleet.log("m1").contains("accepting connections: "), "{}", fleet.log("m1"));
    Ok(())
}

/// What a program says that asks for the plain name over one connection, three times.
fn asked_by(fleet: &Fleet, program: &str, arguments: &[&str]) -> Option<String> {
    let path = ["/usr/bin", "/usr/sbin"].map(|directory| format!("{directory}/{program}"));
    let path = path.iter().find(|path| std::path::Path::new(path).exists())?;
    let mut command = Command::new(path);
    command.args(arguments).arg(format!("@{}", SERVICE.ip()));
    for _ in 0..3 {
        command.args([PLAIN, "TXT"]);
    }
    let output = fleet.client().output(command);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {text}");
    Some(text)
}

fn dig_and_kdig_keep_a_connection_open() -> Result<(), String> {
    let fleet = master("")?;
    let mut missing = Vec::new();
    let mut connections = 0;
    for (program, arguments) in [("dig", ["+tcp", "+keepopen"]), ("kdig", ["+tcp", "+keepopen"])] {
        let Some(text) = asked_by(&fleet, program, &arguments) else {
            missing.push(program);
            continue;
        };
        assert_eq!(text.matches("two hundred bytes of text").count(), 3, "{text}");
        connections += 1;
        fleet.wait_for_counter("m1", "queries_tcp", 3 * connections);
        assert_eq!(fleet.counter("m1", "connections_tcp"), connections, "{program} opened more than one");
    }
    match missing[..] {
        [] => Ok(()),
        _ => Err(format!("{} not installed (bind9-dnsutils, knot-dnsutils)", missing.join(" and "))),
    }
}
