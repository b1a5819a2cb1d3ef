use super::*;
use std::net::TcpListener;

fn base() -> Name<Vec<u8>> {
    "www.cdn.test.".parse().unwrap()
}

fn load(ask: Ask) -> Load {
    Load {
        ask,
        wildcard_base: base(),
        prefix: "q7".to_owned(),
        interval: Duration::from_millis(10),
        start_after: Duration::ZERO,
        duration: Duration::from_millis(45),
    }
}

/// Answers `query` with one address.
fn answer(query: &[u8], address: Ipv4Addr, truncated: bool) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    let mut builder = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).unwrap();
    builder.header_mut().set_tc(truncated);
    if !truncated {
        let name = query.sole_question().unwrap().into_qname();
        builder.push((name, 60, A::new(address))).unwrap();
    }
    builder.finish()
}

const WINNER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOSER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A server on loopback; each datagram is answered with what `behave` makes of it.
fn serve(mut behave: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut count = 0;
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            for reply in behave(count, &buffer[..length]) {
                socket.send_to(&reply, client).unwrap();
            }
            count += 1;
        }
    });
    address
}

#[test]
fn the_first_answer_counts_and_names_never_repeat() {
    let (names, seen) = mpsc::channel();
    let server = serve(move |_, query| {
        let message = Message::from_octets(query.to_vec()).unwrap();
        assert!(message.header().rd());
        let name = message.sole_question().unwrap().into_qname();
        names.send(name.to_string()).unwrap();
        vec![answer(query, WINNER, false), answer(query, LOSER, false)]
    });
    let progress = Progress::default();
    let records = load(Ask::Resolver(server)).run(&progress).unwrap();
    assert_eq!(records.len(), 5);
    for record in &records {
        assert_eq!(record.address, Some(WINNER), "{record:?}");
        assert!(!record.over_tcp && record.answered_after.is_some());
    }
    let mut names: Vec<_> = seen.try_iter().collect();
    names.dedup();
    let expected: Vec<_> = (0..5).map(|n| format!("q7-{n}.www.cdn.test")).collect();
    assert_eq!(names, expected);
    assert_eq!(progress.sent.load(Ordering::Relaxed), 5);
    assert_eq!(progress.answered.load(Ordering::Relaxed), 5);
}

#[test]
fn an_unanswered_query_and_a_failed_one_are_repeated_after_a_second() {
    // The first datagram is lost, the second answered with an error; then all goes well.
    let server = serve(|count, query| match count {
        0 => vec![],
        1 => {
            let message = Message::from_octets(query).unwrap();
            let builder = MessageBuilder::new_vec();
            vec![builder.start_answer(&message, Rcode::SERVFAIL).unwrap().finish()]
        }
        _ => vec![answer(query, WINNER, false)],
    });
    let one = Load { duration: Duration::from_millis(5), ..load(Ask::Resolver(server)) };
    let records = one.run(&Progress::default()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].sendings, 3);
    assert_eq!(records[0].address, Some(WINNER));
    assert!(records[0].answered_after.unwrap() >= 2 * REPEAT_EVERY);
}

#[test]
fn answers_to_other_questions_are_no_answers_and_patience_ends() {
    let server = serve(|_, query| {
        let mut foreign = answer(query, WINNER, false);
        // Another name: the first label's first letter.
        foreign[13] ^= 1;
        let mut other_id = answer(query, WINNER, false);
        other_id[0] ^= 0x80;
        let mut not_an_answer = answer(query, WINNER, false);
        not_an_answer[2] &= 0x7f;
        vec![foreign, other_id, not_an_answer, vec![], vec![1, 2, 3]]
    });
    let one = Load { duration: Duration::from_millis(5), ..load(Ask::Resolver(server)) };
    let records = one.run(&Progress::default()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].answered_after, None);
    assert_eq!(records[0].address, None);
    assert_eq!(records[0].sendings, 5);
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    // UDP and TCP on the same port, as a name server has them.
    let (listener, socket) = (0..100)
        .find_map(|_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = UdpSocket::bind(listener.local_addr().unwrap()).ok()?;
            Some((listener, socket))
        })
        .unwrap();
    let server = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let reply = answer(&buffer[..length], LOSER, true);
            socket.send_to(&reply, client).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let reply = answer(&query, WINNER, false);
            stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    let records = load(Ask::Service(server)).run(&Progress::default()).unwrap();
    assert_eq!(records.len(), 5);
    for record in records {
        assert_eq!(record.address, Some(WINNER));
        assert!(record.over_tcp);
    }
    let name = load(Ask::Service(server)).name_of(9).unwrap();
    let once = ask_once(Ask::Service(server), &name, PATIENCE).unwrap();
    assert_eq!(once, Some(WINNER));
}

#[test]
fn a_prefix_that_makes_no_label_is_refused_before_anything_is_sent() {
    let progress = Progress::default();
    let mut load = load(Ask::Resolver("127.0.0.1:9".parse().unwrap()));
    load.prefix = "x".repeat(80);
    let error = load.run(&progress).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(progress.sent.load(Ordering::Relaxed), 0);
}
