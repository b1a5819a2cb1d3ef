//! Lateness of the departure thread beside that of a bare loop, in one run.
//!
//! Every 10 ms one departure by a [`DepartureThread`], and half a period later one by the *bare loop*, which is what one would
//! write in C: sleep until 1 ms before T, spin on the raw clock to T − lead, `sendto`. It gets the thread's lead of the
//! moment. Both have a socket of their own, both send to the same sink over loopback, and the kernel's transmit timestamp
//! says when either datagram left. Both threads run with the same priority on the same processor, the last one, so that a
//! busy neighbour takes as much from one as from the other; neither spins while the other is due.
//!
//! Lateness is the kernel's timestamp − T; negative is early. The table is for eyes, `target/bench/departure.json` for
//! programs. Run it on an idle machine: the share of stolen processor time is printed with the result.

use startgun_core::time::{LocalTime, Span};
use startgun_net::departure::{Departed, Departure, DepartureThread, Options, Outcome};
use startgun_net::host_clock::{HostClock, set_timer_slack, sleep_until_monotonic};
use startgun_net::poll::Waker;
use startgun_net::privileges::{allow_memory_locking, allow_realtime_priority, pin_to_cpu, take_realtime_priority};
use startgun_net::udp::{self, UdpSocket};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Rounds; what differs between them is the host's mood, and is printed as spread.
const ROUNDS: usize = 10;
/// Departures of each kind in a round: 10 rounds × 500 × 10 ms are 50 s.
const PER_ROUND: usize = 500;
/// Departures before the first round: the lead and the window are learnt from 33 and 64.
const WARM_UP: usize = 200;
const PERIOD: Span = Span::from_millis(10);
const HALF_PERIOD: Span = Span::from_millis(5);
/// A departure is scheduled this long before its instant, when the bare loop is neither spinning nor sending.
const AHEAD: Span = Span::from_millis(7);
/// The bare loop spins this long, more than the thread ever does.
const BARE_SPIN: Span = Span::from_millis(1);
/// Until the kernel's timestamp is fetched.
const STAMP_AFTER: Span = Span::from_millis(1);
/// How long the thread is watched with nothing to do, and then with one departure a second.
const IDLE: Span = Span::from_secs(5);
const PRIORITY: i32 = 20;
const PAYLOAD: [u8; 64] = [0x55; 64];

fn main() {
    // `cargo test --benches` runs benches too, with this argument; nothing is asserted here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let _ = (allow_realtime_priority(PRIORITY), allow_memory_locking());
    let cpu = std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
    let clock = HostClock::new(None);
    let sink = UdpSocket::bind(loopback(), udp::Options::default()).expect("a socket");
    sink.refuse_input().expect("a filter");
    let options = Options {
        capacity: 100,
        realtime_priority: Some(PRIORITY),
        pin_to_cpu: Some(cpu),
        lock_memory: true,
        kernel: None,
    };
    let done = Waker::new().expect("a waker");
    let thread = DepartureThread::spawn(clock.clone(), vec![stamped_socket()], options, done).expect("a thread");
    let bare = BareLoop::spawn(clock.clone(), sink.address(), cpu);
    eprintln!("departure thread: {}", thread.scheduling());

    let mut startgun = Vec::new();
    let mut bare_lateness = Vec::new();
    run(&clock, &thread, &bare, sink.address(), WARM_UP);
    let busy_before = (thread_cpu_ns(), clock.now());
    let steal_before = processor_times();
    for round in 1..=ROUNDS {
        let (one, other) = run(&clock, &thread, &bare, sink.address(), PER_ROUND);
        eprintln!("round {round} of {ROUNDS}: startgun {}, bare {}", Quantiles::of(&one), Quantiles::of(&other));
        startgun.push(one);
        bare_lateness.push(other);
    }
    let stolen = stolen_percent(steal_before, processor_times());
    let busy = cpu_percent(busy_before, (thread_cpu_ns(), clock.now()));
    let idle = idle_cost(&clock, &thread, sink.address());

    report(&startgun, &bare_lateness);
    println!();
    println!("thread: {}; lead {:?}, spin window {:?}", thread.scheduling(), thread.lead(), thread.spin_window());
    println!("processor time of the thread: {:.2} % with 100 departures a second,", busy);
    println!("  {:.3} % with one a second, {:.3} % with none", idle.1, idle.0);
    println!("stolen from this host during the rounds: {stolen:.2} % of processor time");
    write_json(&Quantiles::of(&startgun.concat()), &Quantiles::of(&bare_lateness.concat()));
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn stamped_socket() -> UdpSocket {
    let options = udp::Options { transmit_timestamps: true, ..udp::Options::default() };
    let socket = UdpSocket::bind(loopback(), options).expect("a socket");
    socket.refuse_input().expect("a filter");
    socket
}

/// `count` departures of each kind; their lateness.
fn run(
    clock: &HostClock,
    thread: &DepartureThread,
    bare: &BareLoop,
    to: SocketAddr,
    count: usize,
) -> (Vec<Span>, Vec<Span>) {
    let start = clock.now() + PERIOD + PERIOD;
    let at = |place: usize| start + Span::from_nanos(place as i64 * PERIOD.as_nanos());
    let mut lateness = Vec::new();
    let mut take = || {
        let mut results: Vec<Departed> = Vec::new();
        thread.poll_results(&mut results);
        lateness.extend(results.iter().filter_map(|result| match result.outcome {
            Outcome::Sent { at: left, kernel_stamped: true } => Some(left - at(result.key as usize)),
            _ => None,
        }));
    };
    for place in 0..count {
        sleep_until_monotonic(clock.monotonic_deadline(at(place) - AHEAD));
        let payload = PAYLOAD.to_vec();
        let departure = Departure { key: place as u64, at: at(place), latest: None, socket: 0, to, payload };
        thread.schedule(departure).expect("room");
        bare.orders.send((at(place) + HALF_PERIOD, thread.lead())).expect("the bare loop");
        take();
    }
    sleep_until_monotonic(clock.monotonic_deadline(at(count + 4)));
    take();
    (lateness, bare.lateness.try_iter().collect())
}

/// Instants and leads in, lateness out.
struct BareLoop {
    orders: SyncSender<(LocalTime, Span)>,
    lateness: Receiver<Span>,
}

impl BareLoop {
    fn spawn(clock: HostClock, to: SocketAddr, cpu: usize) -> Self {
        let (orders, inbox) = sync_channel(16);
        let (outbox, lateness) = sync_channel(PER_ROUND + WARM_UP);
        let socket = stamped_socket();
        let run = move || {
            let _ = (set_timer_slack(), take_realtime_priority(PRIORITY), pin_to_cpu(cpu));
            let to = socket2::SockAddr::from(to);
            for (at, lead) in inbox {
                sleep_until_monotonic(clock.monotonic_deadline(at - BARE_SPIN));
                while clock.now() < at - lead {}
                // SAFETY: payload and address outlive the call and are named with their true lengths.
                unsafe {
                    libc::sendto(
                        socket.as_fd().as_raw_fd(),
                        PAYLOAD.as_ptr().cast(),
                        PAYLOAD.len(),
                        0,
                        to.as_ptr().cast(),
                        to.len(),
                    )
                };
                sleep_until_monotonic(clock.monotonic_deadline(at + STAMP_AFTER));
                let _ = socket.drain_transmit_timestamps(&clock, &mut |_, left| {
                    let _ = outbox.try_send(left - at);
                });
            }
        };
        std::thread::Builder::new().name("bare".into()).spawn(run).expect("a thread");
        BareLoop { orders, lateness }
    }
}

/// Percent of a processor that the thread takes with nothing to do, and with one departure a second.
fn idle_cost(clock: &HostClock, thread: &DepartureThread, to: SocketAddr) -> (f64, f64) {
    eprintln!("idle, then one departure a second: {} s each", IDLE.as_secs_f64());
    let wait = |until: LocalTime| sleep_until_monotonic(clock.monotonic_deadline(until));
    let before = (thread_cpu_ns(), clock.now());
    wait(before.1 + IDLE);
    let middle = (thread_cpu_ns(), clock.now());
    for second in 1..=IDLE.as_nanos() / 1_000_000_000 {
        let at = middle.1 + Span::from_secs(second) - Span::from_millis(500);
        let departure = Departure { key: 1, at, latest: None, socket: 0, to, payload: PAYLOAD.to_vec() };
        thread.schedule(departure).expect("room");
        wait(at + Span::from_millis(500));
    }
    (cpu_percent(before, middle), cpu_percent(middle, (thread_cpu_ns(), clock.now())))
}

fn cpu_percent(before: (u64, LocalTime), after: (u64, LocalTime)) -> f64 {
    100.0 * (after.0 - before.0) as f64 / (after.1 - before.1).as_nanos() as f64
}

/// Processor time of the departure thread so far, in nanoseconds; 0 where the kernel does not tell.
fn thread_cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_it =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "departure");
    let Some(task) = tasks.map(|task| task.path()).find(is_it) else { return 0 };
    let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    times.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// The host's processor times since boot: all, and stolen ones.
fn processor_times() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest times, which follow, are within user and nice.
    let times: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|time| time.parse().ok()).collect();
    (times.iter().sum(), times.get(7).copied().unwrap_or(0))
}

fn stolen_percent(before: (u64, u64), after: (u64, u64)) -> f64 {
    100.0 * (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64
}

#[derive(Clone, Copy)]
struct Quantiles {
    p1_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    samples: usize,
}

impl Quantiles {
    fn of(lateness: &[Span]) -> Self {
        let mut sorted = lateness.to_vec();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get(sorted.len() * percent / 100).map_or(f64::NAN, |late| late.as_micros_f64());
        Quantiles { p1_us: at(1), p50_us: at(50), p90_us: at(90), p99_us: at(99), samples: sorted.len() }
    }

    fn json(&self) -> String {
        let Quantiles { p1_us, p50_us, p90_us, p99_us, samples } = self;
        format!(
            r#"{{"p1_us":{p1_us:.3},"p50_us":{p50_us:.3},"p90_us":{p90_us:.3},"p99_us":{p99_us:.3},"samples":{samples}}}"#
        )
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8.2} {:8.2} {:8.2} {:8.2}", self.p1_us, self.p50_us, self.p90_us, self.p99_us)
    }
}

fn report(startgun: &[Vec<Span>], bare: &[Vec<Span>]) {
    let (one, other) = (Quantiles::of(&startgun.concat()), Quantiles::of(&bare.concat()));
    println!("lateness, µs         p1      p50      p90      p99  samples");
    println!("startgun       {one} {:8}", one.samples);
    println!("bare loop      {other} {:8}", other.samples);
    println!("ratio                           {:8.2} {:8.2}", one.p90_us / other.p90_us, one.p99_us / other.p99_us);
    // Fairer than the same lead, where the bare loop's send path takes another time: as if it had measured its own.
    let own = |lateness: &Vec<Span>| {
        let mut sorted = lateness.clone();
        sorted.sort_unstable();
        lateness.iter().map(|late| *late - sorted[sorted.len() / 2]).collect::<Vec<_>>()
    };
    let led = Quantiles::of(&bare.iter().map(own).collect::<Vec<_>>().concat());
    println!("bare, own lead {led} {:8}  (each round's median taken off)", led.samples);
    println!("ratio                           {:8.2} {:8.2}", one.p90_us / led.p90_us, one.p99_us / led.p99_us);
    let per_round = |of: fn(&Quantiles) -> f64| {
        let ratio = |(one, other): (&Vec<Span>, &Vec<Span>)| of(&Quantiles::of(one)) / of(&Quantiles::of(other));
        let mut ratios: Vec<f64> = startgun.iter().zip(bare).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        format!("median {:.2}, {:.2} to {:.2}", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1])
    };
    println!("ratios of the {ROUNDS} rounds: p90 {}; p99 {}", per_round(|q| q.p90_us), per_round(|q| q.p99_us));
    let verdict = |good: bool| if good { "reached" } else { "missed" };
    println!(
        "goals: |p50| ≤ 1 µs {}, p1 ≥ −20 µs {}, p90 ≤ 1.2 × bare {}, p99 ≤ 1.2 × bare {}",
        verdict(one.p50_us.abs() <= 1.0),
        verdict(one.p1_us >= -20.0),
        verdict(one.p90_us <= 1.2 * other.p90_us),
        verdict(one.p99_us <= 1.2 * other.p99_us)
    );
}

/// Into the build's own directory, which may be named relative to the repository's root.
fn write_json(startgun: &Quantiles, bare: &Quantiles) {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let target = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let directory = target.join("bench");
    let path = directory.join("departure.json");
    let text = format!("{{\"startgun\":{},\"bare\":{}}}\n", startgun.json(), bare.json());
    match std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, text)) {
        Ok(()) => println!("written: {}", path.display()),
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            std::process::exit(1);
        }
    }
}
