//! Real sockets on loopback.

use super::*;
use startgun_core::time::Span;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn stamped() -> Options {
    Options { receive_timestamps: true, transmit_timestamps: true, ..Options::default() }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn receive_until(
    socket: &UdpSocket,
    clock: &HostClock,
    batch: &mut ReceiveBatch,
    wanted: usize,
) -> Vec<(SocketAddr, LocalTime, bool, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(2);
    let mut all = Vec::new();
    while all.len() < wanted && Instant::now() < end {
        socket.receive(batch, clock).expect("received");
        all.extend(batch.iter().map(|p| (p.source, p.received_at, p.kernel_stamped, p.bytes.to_vec())));
    }
    all
}

/// The kernel switches receive timestamps on a moment after the first socket asks for them, and off after the last.
fn wait_for_receive_stamps(near: &UdpSocket, far: &UdpSocket, clock: &HostClock) {
    let mut batch = ReceiveBatch::new(4);
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        near.send_to(b"warm", far.address()).expect("sent");
        let received = receive_until(far, clock, &mut batch, 1);
        if received.iter().all(|(_, _, kernel_stamped, _)| *kernel_stamped) && !received.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "the kernel never stamped a packet");
        std::thread::sleep(Duration::from_millis(1));
    }
    near.drain_transmit_timestamps(clock, &mut |_, _| {}).expect("stamps");
}

#[test]
fn packets_carry_their_kernel_stamps_both_ways() {
    let clock = HostClock::new(None);
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let near = UdpSocket::bind(address(any), stamped()).expect("a socket");
        let far = UdpSocket::bind(address(any), stamped()).expect("a socket");
        wait_for_receive_stamps(&near, &far, &clock);
        let before = clock.now();
        let bytes: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 3]).collect();
        let mut messages: Vec<Outgoing<'_>> =
            bytes.iter().map(|bytes| Outgoing { to: far.address(), bytes, outcome: Err(0) }).collect();
        near.send_batch(&mut messages);
        let numbers: Vec<u32> = messages.iter().map(|m| m.outcome.expect("sent")).collect();
        assert_eq!(numbers.iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
        let received = receive_until(&far, &clock, &mut ReceiveBatch::new(64), 100);
        assert_eq!(received.len(), 100);
        let mut stamps = std::collections::BTreeMap::new();
        let end = Instant::now() + Duration::from_secs(2);
        while stamps.len() < 100 && Instant::now() < end {
            near.drain_transmit_timestamps(&clock, &mut |number, at| {
                stamps.insert(number, at);
            })
            .expect("stamps");
        }
        let mut transits = Vec::new();
        for (place, (source, received_at, kernel_stamped, bytes)) in received.iter().enumerate() {
            assert_eq!((*source, *kernel_stamped), (near.address(), true));
            assert_eq!(bytes, &vec![place as u8; 3]);
            let left = stamps[&numbers[place]];
            assert!(left >= before - Span::from_micros(20) && *received_at >= left - Span::from_micros(20), "{place}");
            transits.push(*received_at - left);
        }
        transits.sort_unstable();
        println!("{any}: kernel stamps, from leaving to arriving: p50 {:?}, p99 {:?}", transits[50], transits[99]);
    }
}

#[test]
fn stamps_of_arrivals_come_and_go() {
    let clock = HostClock::new(None);
    let near = UdpSocket::bind(address("127.0.0.1:0"), stamped()).expect("a socket");
    let far = UdpSocket::bind(address("127.0.0.1:0"), Options::default()).expect("a socket");
    let mut batch = ReceiveBatch::new(4);
    for wanted in [false, true, false] {
        far.stamp_arrivals(wanted).expect("an option");
        if wanted {
            wait_for_receive_stamps(&near, &far, &clock);
        }
        let before = clock.now();
        near.send_to(b"one", far.address()).expect("sent");
        let received = receive_until(&far, &clock, &mut batch, 1);
        let [(_, received_at, kernel_stamped, _)] = received.as_slice() else { panic!("{received:?}") };
        assert_eq!(*kernel_stamped, wanted);
        assert!((before - Span::from_micros(20)..=clock.now()).contains(received_at));
    }
}

#[test]
fn a_refused_send_does_not_shift_the_numbers() {
    let clock = HostClock::new(None);
    let near = UdpSocket::bind(address("127.0.0.1:0"), stamped()).expect("a socket");
    let far = UdpSocket::bind(address("127.0.0.1:0"), stamped()).expect("a socket");
    let too_long = vec![0; 70_000];
    let mut messages = [
        Outgoing { to: far.address(), bytes: b"one", outcome: Err(0) },
        Outgoing { to: far.address(), bytes: &too_long, outcome: Err(0) },
        Outgoing { to: far.address(), bytes: b"two", outcome: Err(0) },
    ];
    near.send_batch(&mut messages);
    assert_eq!(messages[1].outcome, Err(libc::EMSGSIZE));
    let sent = [messages[0].outcome.expect("sent"), messages[2].outcome.expect("sent")];
    assert_ne!(sent[0], sent[1]);
    let mut stamps = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while stamps.len() < 2 && Instant::now() < end {
        near.drain_transmit_timestamps(&clock, &mut |number, _| stamps.push(number)).expect("stamps");
    }
    assert_eq!(stamps, sent);
}

#[test]
fn icmp_from_a_closed_port_harms_no_send() {
    let closed = UdpSocket::bind(address("127.0.0.1:0"), Options::default()).expect("a socket").address();
    let near = UdpSocket::bind(address("127.0.0.1:0"), Options::default()).expect("a socket");
    for _ in 0..50 {
        near.send_to(b"lost", closed).expect("sent");
    }
}

fn steered(
    any: &str,
    shards: usize,
    steer: impl Fn(&UdpSocket),
    send: impl Fn(SocketAddr, &[UdpSocket]),
) -> Vec<Vec<(SocketAddr, Vec<u8>)>> {
    let clock = HostClock::new(None);
    let options = Options { reuse_port: true, ..Options::default() };
    let first = UdpSocket::bind(address(any), options.clone()).expect("a socket");
    let mut group = vec![first];
    for _ in 1..shards {
        group.push(UdpSocket::bind(group[0].address(), options.clone()).expect("a socket"));
    }
    steer(&group[0]);
    send(group[0].address(), &group);
    std::thread::sleep(Duration::from_millis(30));
    let mut batch = ReceiveBatch::new(64);
    group
        .iter()
        .map(|socket| {
            let mut all = Vec::new();
            while socket.receive(&mut batch, &clock).expect("received") > 0 {
                all.extend(batch.iter().map(|p| (p.source, p.bytes.to_vec())));
            }
            all
        })
        .collect()
}

#[test]
fn a_source_always_meets_its_shard_whatever_its_port() {
    for shards in 2..=4 {
        let got = steered(
            "127.0.0.1:0",
            shards,
            |s| s.steer_by_source(shards).expect("steered"),
            |to, _| {
                for host in 1..40 {
                    for _ in 0..2 {
                        let from = UdpSocket::bind(address(&format!("127.1.{host}.{host}:0")), Options::default())
                            .expect("a socket");
                        from.send_to(b"x", to).expect("sent");
                    }
                }
            },
        );
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 78);
        for (shard, packets) in got.iter().enumerate() {
            assert!(!packets.is_empty(), "shard {shard} of {shards} got nothing");
            assert!(packets.iter().all(|(source, _)| shard_of_source(source.ip(), shards) == shard));
        }
    }
    let got = steered(
        "[::1]:0",
        3,
        |s| s.steer_by_source(3).expect("steered"),
        |to, _| {
            let from = UdpSocket::bind(address("[::1]:0"), Options::default()).expect("a socket");
            from.send_to(b"x", to).expect("sent");
        },
    );
    assert_eq!(got[shard_of_source(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 3)].len(), 1);
}

#[test]
fn a_prefix_that_shares_a_budget_shares_a_shard() {
    let shard = |text: &str| shard_of_source(text.parse().expect("an address"), 64);
    assert_eq!(shard("198.51.100.1"), shard("198.51.100.254"));
    assert_eq!(shard("2001:db8:0:1200::1"), shard("2001:db8:0:12ff:1:2:3:4"));
    let spread = |texts: Vec<String>| texts.iter().map(|text| shard(text)).collect::<std::collections::BTreeSet<_>>();
    assert!(spread((0..=255).map(|i| format!("198.51.{i}.1")).collect()).len() > 40);
    assert!(spread((0..=255).map(|i| format!("2001:db8:0:{i:x}00::1")).collect()).len() > 40);
}

#[test]
fn ipv6_sources_meet_their_shards_too() {
    let foreign = |host: u16, to: SocketAddr| {
        let source = SocketAddr::new(IpAddr::from([0x2001, 0xdb8, host, 0, 7, 0, 0, 1]), 0);
        let from = UdpSocket::bind(source, Options { transparent: true, ..Options::default() })?;
        from.send_to(b"x", to).map(|_| ())
    };
    let probe = UdpSocket::bind(address("[::1]:0"), Options::default()).expect("a socket");
    if let Err(error) = foreign(1, probe.address()) {
        return println!("skipped: foreign IPv6 sources: {error}");
    }
    for shards in 2..=4 {
        let got = steered(
            "[::1]:0",
            shards,
            |s| s.steer_by_source(shards).expect("steered"),
            |to, _| {
                (1..40).for_each(|host| foreign(host, to).expect("sent"));
            },
        );
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 39);
        for (shard, packets) in got.iter().enumerate() {
            assert!(!packets.is_empty(), "shard {shard} of {shards} got nothing");
            assert!(packets.iter().all(|(source, _)| shard_of_source(source.ip(), shards) == shard));
        }
    }
}

#[test]
fn a_payload_byte_steers() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let got = steered(
            any,
            3,
            |s| s.steer_by_byte(1, 3).expect("steered"),
            |to, _| {
                let from = UdpSocket::bind(address(any), Options::default()).expect("a socket");
                for byte in 0..30u8 {
                    from.send_to(&[9, byte, 9], to).expect("sent");
                }
            },
        );
        for (shard, packets) in got.iter().enumerate() {
            assert_eq!(packets.len(), 10);
            assert!(packets.iter().all(|(_, bytes)| usize::from(bytes[1]) % 3 == shard));
        }
    }
}

#[test]
fn packets_that_find_the_queue_full_are_counted() {
    let options = Options { receive_buffer_bytes: 4_096, ..Options::default() };
    let receiver = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), options).expect("bound");
    let sender = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default()).expect("bound");
    assert_eq!(receiver.dropped(), 0);
    for _ in 0..100 {
        sender.send_to(&[0; 64], receiver.address()).expect("sent");
    }
    let clock = HostClock::new(None);
    let mut batch = ReceiveBatch::new(64);
    let mut received = 0;
    while let Ok(some @ 1..) = receiver.receive(&mut batch, &clock) {
        received += some;
    }
    assert!(received < 100, "a small queue");
    assert_eq!(received + receiver.dropped() as usize, 100);
}

#[test]
fn only_what_is_asked_for_is_stamped_and_its_number_is_right() {
    let options = Options { transmit_timestamps: true, stamps_on_request: true, ..Options::default() };
    let sender = UdpSocket::bind(address("127.0.0.1:0"), options).expect("bound");
    let receiver = UdpSocket::bind(address("127.0.0.1:0"), Options::default()).expect("bound");
    let clock = HostClock::new(None);
    let mut asked = Vec::new();
    for _ in 0..3 {
        for _ in 0..100 {
            sender.send_to(b"unstamped", receiver.address()).expect("sent");
        }
        let before = clock.now();
        let number = sender.send_stamped_to(b"stamped", receiver.address()).expect("sent");
        asked.push((number, before, clock.now()));
    }
    std::thread::sleep(Duration::from_millis(20));
    let mut stamps = Vec::new();
    sender.drain_transmit_timestamps(&clock, &mut |number, at| stamps.push((number, at))).expect("drained");
    assert_eq!(stamps.len(), 3, "of 303 datagrams: {stamps:?}");
    for ((number, before, after), (stamped, at)) in asked.into_iter().zip(stamps) {
        assert_eq!(number, stamped);
        let slack = Span::from_micros(200);
        assert!(at + slack >= before && at <= after + slack, "{before:?} {at:?} {after:?}");
    }
}
