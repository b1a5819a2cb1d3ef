//! Real packets over loopback.

use super::*;
use crate::udp::{self, ReceiveBatch};
use std::time::{Duration, Instant};

struct Track {
    clock: HostClock,
    departures: DepartureThread,
    finish: UdpSocket,
}

fn track(capacity: usize) -> Track {
    track_with(Options { capacity, ..options() }, false)
}

fn options() -> Options {
    Options { capacity: 100, realtime_priority: None, pin_to_cpu: None, lock_memory: false, kernel: None }
}

fn track_with(options: Options, departure_times: bool) -> Track {
    let clock = HostClock::new(None);
    let stamped = udp::Options {
        receive_timestamps: true,
        transmit_timestamps: true,
        departure_times,
        ..udp::Options::default()
    };
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let start = UdpSocket::bind(any, stamped.clone()).expect("a socket");
    let finish = UdpSocket::bind(any, stamped).expect("a socket");
    let done = Waker::new().expect("a waker");
    let departures = DepartureThread::spawn(clock.clone(), vec![start], options, done).expect("a thread");
    Track { clock, departures, finish }
}

impl Track {
    fn departure(&self, key: u64, at: LocalTime) -> Departure {
        Departure { key, at, latest: None, socket: 0, to: self.finish.address(), payload: key.to_be_bytes().to_vec() }
    }

    fn results(&self, wanted: usize) -> Vec<Departed> {
        let mut results = Vec::new();
        let end = Instant::now() + Duration::from_secs(3);
        while results.len() < wanted && Instant::now() < end {
            self.departures.poll_results(&mut results);
            std::thread::sleep(Duration::from_millis(1));
        }
        results.sort_by_key(|result| result.key);
        results
    }

    fn arrivals(&self) -> Vec<Vec<u8>> {
        let mut batch = ReceiveBatch::new(64);
        let mut arrivals = Vec::new();
        while self.finish.receive(&mut batch, &self.clock).expect("received") > 0 {
            arrivals.extend(batch.iter().map(|packet| packet.bytes.to_vec()));
        }
        arrivals
    }
}

#[test]
fn departures_leave_in_order_not_earlier_than_the_lead_and_with_kernel_stamps() {
    let track = track(100);
    let start = track.clock.now() + Span::from_millis(20);
    let at = |key: u64| start + Span::from_millis(key as i64 * 3);
    for key in [5, 1, 9, 3, 2, 8, 4, 7, 6, 0] {
        track.departures.schedule(track.departure(key, at(key))).expect("room");
    }
    let results = track.results(10);
    assert_eq!(results.len(), 10);
    let mut lateness = Vec::new();
    for result in &results {
        let Outcome::Sent { at: left, kernel_stamped } = result.outcome else { panic!("{result:?}") };
        assert!(kernel_stamped, "{result:?}");
        // The greatest lead, where the first five were disturbed and the sixth is not, and 20 µs for the error of mapping the
        // kernel's CLOCK_REALTIME stamp to the raw clock.
        assert!(left - at(result.key) >= Span::from_micros(-120), "{result:?} left early");
        lateness.push(left - at(result.key));
    }
    lateness.sort_unstable();
    println!("lateness over loopback: {lateness:?}; {}", track.departures.scheduling());
    let arrivals: Vec<u64> =
        track.arrivals().iter().map(|b| u64::from_be_bytes(b.as_slice().try_into().expect("eight bytes"))).collect();
    assert_eq!(arrivals, (0..10).collect::<Vec<u64>>());
}

#[test]
fn a_command_that_comes_while_another_is_close_is_not_kept_waiting() {
    let track = track(100);
    let mut waits = Vec::new();
    for round in 0..40 {
        // Far enough away that the thread rests, close enough that it is on its way to the window.
        let later = track.clock.now() + Span::from_micros(1_200);
        track.departures.schedule(track.departure(2 * round, later)).expect("room");
        std::thread::sleep(Duration::from_micros(100));
        let at = track.clock.now();
        track.departures.schedule(track.departure(2 * round + 1, at)).expect("room");
        let results = track.results(2);
        let Outcome::Sent { at: left, .. } = results[1].outcome else { panic!("{results:?}") };
        waits.push(left - at);
    }
    waits.sort_unstable();
    println!("a departure due at once leaves after {:?} (p50), {:?} (p90)", waits[20], waits[36]);
    // A thread that sleeps through would let half of them wait for 500 µs and more.
    assert!(waits[10] < Span::from_micros(400), "{waits:?}");
}

#[test]
fn a_cancelled_departure_does_not_leave() {
    let track = track(100);
    let at = track.clock.now() + Span::from_millis(20);
    track.departures.schedule(track.departure(1, at)).expect("room");
    track.departures.schedule(track.departure(2, at)).expect("room");
    track.departures.cancel(1).expect("room");
    track.departures.cancel(99).expect("room");
    let results = track.results(1);
    assert!(matches!(results[..], [Departed { key: 2, outcome: Outcome::Sent { .. } }]), "{results:?}");
    assert_eq!(track.arrivals(), [2u64.to_be_bytes().to_vec()]);
}

#[test]
fn every_departure_of_a_socket_without_timestamps_is_reported() {
    let clock = HostClock::new(None);
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let start = UdpSocket::bind(any, udp::Options::default()).expect("a socket");
    let finish = UdpSocket::bind(any, udp::Options::default()).expect("a socket");
    let options = Options { capacity: 9, ..options() };
    let done = Waker::new().expect("a waker");
    let departures = DepartureThread::spawn(clock.clone(), vec![start], options, done).expect("a thread");
    let track = Track { clock, departures, finish };
    let at = track.clock.now() + Span::from_millis(5);
    for key in 0..3 {
        track.departures.schedule(track.departure(key, at)).expect("room");
    }
    let results = track.results(3);
    assert_eq!(results.iter().map(|result| result.key).collect::<Vec<u64>>(), [0, 1, 2]);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Sent { kernel_stamped: false, .. })), "{results:?}");
}

#[test]
fn a_pending_departure_is_replaced_by_its_name() {
    let track = track(100);
    let at = track.clock.now() + Span::from_millis(30);
    track.departures.schedule(track.departure(7, at)).expect("room");
    let amended = Departure { payload: b"amended".to_vec(), ..track.departure(7, at) };
    track.departures.schedule(amended).expect("room");
    assert_eq!(track.results(1).len(), 1);
    assert_eq!(track.arrivals(), [b"amended".to_vec()]);
}

#[test]
fn what_is_too_late_is_not_sent() {
    let track = track(100);
    let at = track.clock.now() - Span::from_millis(5);
    let latest = Some(at + Span::from_millis(2));
    track.departures.schedule(Departure { latest, ..track.departure(1, at) }).expect("room");
    track.departures.schedule(track.departure(2, at)).expect("room");
    let results = track.results(2);
    assert!(matches!(results[0].outcome, Outcome::Late { by } if by >= Span::from_millis(5)), "{results:?}");
    assert!(matches!(results[1].outcome, Outcome::Sent { .. }));
    assert_eq!(track.arrivals().len(), 1);
}

#[test]
fn the_table_is_bounded_and_an_unknown_socket_is_refused() {
    let track = track(2);
    let at = track.clock.now() + Span::from_millis(50);
    for key in 0..4 {
        track.departures.schedule(track.departure(key, at)).expect("room in the queue");
    }
    track.departures.schedule(Departure { socket: 9, ..track.departure(9, at) }).expect("room in the queue");
    let results = track.results(5);
    let full = results.iter().filter(|result| result.outcome == Outcome::Full).count();
    assert_eq!((full, track.arrivals().len()), (2, 2));
    assert!(matches!(results[4].outcome, Outcome::Failed { .. }));
}

/// Lateness of `count` departures, 3 ms apart; all are stamped by the kernel.
fn lateness(track: &Track, count: u64) -> Vec<Span> {
    let start = track.clock.now() + Span::from_millis(20);
    let at = |key: u64| start + Span::from_millis(key as i64 * 3);
    for key in 0..count {
        track.departures.schedule(track.departure(key, at(key))).expect("room");
    }
    let late = |result: &Departed| match result.outcome {
        Outcome::Sent { at: left, kernel_stamped: true } => left - at(result.key),
        _ => panic!("{result:?}"),
    };
    track.results(count as usize).iter().map(late).collect()
}

#[test]
fn lead_and_window_are_learnt_from_what_happens() {
    let track = track(100);
    assert_eq!(track.departures.lead(), Span::ZERO);
    let before = track.departures.spin_window();
    let late = lateness(&track, 60);
    assert_eq!(late.len(), 60);
    let lead = track.departures.lead();
    assert!(lead > Span::ZERO && lead <= Span::from_micros(100), "{lead:?}");
    let window = track.departures.spin_window();
    assert!(window != before && window >= Span::from_micros(150) && window <= Span::from_millis(1), "{window:?}");
    println!("lead {lead:?}, window {window:?}, lateness {late:?}");
}

#[test]
fn a_kernel_that_ignores_instants_after_all_is_found_out() {
    let believed = Some(KernelDepartures::Kept { late: Span::from_micros(3) });
    let track = track_with(Options { kernel: believed, ..options() }, true);
    assert!(track.departures.scheduling().contains("SO_TXTIME"), "{}", track.departures.scheduling());
    let late = lateness(&track, 20);
    // Loopback lets it leave at once: half a millisecond early, less what the wake-up was late by. Nobody trusts it
    // afterwards.
    assert!(late[0] >= Span::from_micros(-620), "{late:?}");
    assert!(late[2..].iter().all(|late| *late >= Span::from_micros(-120)), "{late:?}");
    println!("lateness {late:?}");
}
