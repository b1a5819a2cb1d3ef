//! The wide-area network between the hosts: one thread that holds every frame for as long as its path is long.
//!
//! **Problem.** Frames between hosts have to arrive after given one-way delays, different in the two directions, with
//! jitter and loss, on a kernel without a delaying queue discipline and without rights on the machine.
//!
//! **Why the obvious answer fails.** "Read a frame, sleep, write it" adds the reader's own wake-up (60–120 µs, and
//! milliseconds under load) to every path. A thread per path competes with the racing agents for two cores.
//!
//! **Sketch.** Each host's veth ends here, on one packet socket. A frame is due at *the kernel's receive timestamp* + the
//! path's delay, so a late reader costs nothing as long as it is not later than the delay. Frames wait in a heap;
//! the thread sleeps until shortly before the first is due and spins over the rest ([`SPIN`]).
//!
//! The destination is the frame's IP destination; the origin is the *interface* it came in on, never its source address:
//! agents send with the service address as source, which belongs to the master.

use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{cmp, io};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;
use startgun_net::packet::{FrameBatch, Outgoing, PacketSocket, Received, SendOutcome};
use startgun_net::privileges::take_realtime_priority;

use crate::namespace::Namespace;

/// Frames under way at once, at most: 20 agents × 1,000 races/s × 0.3 s is 6,000; ten times that, at up to 1.5 KiB
/// each, stays under 100 MiB.
pub const FRAMES_UNDER_WAY_MAX: usize = 65_536;

/// The thread spins for this long before a frame is due: a sleep wakes 60–120 µs late.
pub const SPIN: Duration = Duration::from_micros(200);

/// While it spins it looks for new frames this often; a path may be as short as 100 µs.
const LOOK_EVERY_NS: i64 = 20_000;

/// Real-time priority, where permitted: below the agents' departure threads (20), whose lateness decides races; a late
/// reader here is made good by the kernel's timestamp.
const REALTIME_PRIORITY: i32 = 10;

/// It looks at the stop flag at least this often.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// Buffers kept for reuse: enough for a second of ordinary traffic.
const SPARE_BUFFERS_MAX: usize = 4_096;

/// Jitter is cut off at this multiple of its mean: e^-20 is one frame in 500 million, and no frame waits for ever.
const JITTER_MEANS_MAX: f64 = 20.0;

/// What the network does to frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Wan {
    /// One-way delay in nanoseconds from host `i` to host `j`: `one_way_ns[i][j]`, square.
    pub one_way_ns: Vec<Vec<u64>>,
    /// Mean of the exponentially distributed delay added to each frame, in nanoseconds; 0 for none.
    pub jitter_mean_ns: u64,
    /// Probability that a frame is lost, from 0 to 1.
    pub loss: f64,
    /// Seed of jitter and loss.
    pub seed: u64,
}

/// Which host is behind which interface and address.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// Interface index in the emulator's namespace, by host.
    pub interface_of_host: Vec<u32>,
    /// Host by IP address.
    pub host_of_address: HashMap<IpAddr, usize>,
}

/// What the emulator did so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmulatorStatistics {
    /// Frames handed on.
    pub forwarded: u64,
    /// Frames lost on purpose.
    pub lost: u64,
    /// Frames for an address that no host has (multicast not counted).
    pub unknown_destination: u64,
    /// Frames dropped because [`FRAMES_UNDER_WAY_MAX`] were under way.
    pub too_many: u64,
    /// Frames dropped because they were longer than an Ethernet frame.
    pub too_long: u64,
    /// Frames that the far interface refused.
    pub refused: u64,
    /// Frames without a kernel timestamp: their delay includes the reader's lateness.
    pub unstamped: u64,
    /// Frames that the kernel dropped because the emulator did not read fast enough.
    pub dropped_by_kernel: u64,
    /// Lateness (handed to the far host's interface − due) in microseconds: median.
    pub lateness_us_p50: f64,
    /// Lateness in microseconds: 99th percentile.
    pub lateness_us_p99: f64,
    /// Lateness in microseconds: maximum.
    pub lateness_us_max: f64,
    /// Whether the thread has real-time priority.
    pub realtime: bool,
}

struct Tally {
    forwarded: u64,
    lost: u64,
    unknown_destination: u64,
    too_many: u64,
    too_long: u64,
    refused: u64,
    unstamped: u64,
    dropped_by_kernel: u64,
    lateness_ns: Histogram<u64>,
    realtime: bool,
}

impl Tally {
    fn new() -> Self {
        // From 1 ns to 100 s at two digits: 5,000 counters.
        #[expect(clippy::expect_used, reason = "constant bounds, checked by every test")]
        let lateness_ns = Histogram::new_with_bounds(1, 100_000_000_000, 2).expect("valid histogram bounds");
        Self {
            forwarded: 0,
            lost: 0,
            unknown_destination: 0,
            too_many: 0,
            too_long: 0,
            refused: 0,
            unstamped: 0,
            dropped_by_kernel: 0,
            lateness_ns,
            realtime: false,
        }
    }
}

/// The running network. Frames under way are lost when it is dropped.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Emulator {
    /// Starts the network in the namespace that holds the near ends of all veths.
    ///
    /// # Errors
    /// `InvalidInput` when `wan.one_way_ns` is not square or not as large as the routing; else the error of opening the
    /// packet socket or of starting the thread.
    pub fn start(namespace: &Namespace, wan: Wan, routing: Routing) -> io::Result<Self> {
        let hosts = routing.interface_of_host.len();
        let is_square = wan.one_way_ns.len() == hosts && wan.one_way_ns.iter().all(|row| row.len() == hosts);
        if !is_square || routing.host_of_address.values().any(|&host| host >= hosts) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the matrix of delays and the addresses: expected {hosts} hosts"),
            ));
        }
        let socket = namespace.run(|| PacketSocket::open(None))?;
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), tally: Mutex::new(Tally::new()) });
        let network = Network::new(socket, wan, routing, Arc::clone(&shared));
        let thread = namespace.thread("wan", move || network.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What it did so far.
    pub fn statistics(&self) -> EmulatorStatistics {
        let tally = self.shared.tally();
        let lateness_us = |quantile| tally.lateness_ns.value_at_quantile(quantile) as f64 / 1000.0;
        EmulatorStatistics {
            forwarded: tally.forwarded,
            lost: tally.lost,
            unknown_destination: tally.unknown_destination,
            too_many: tally.too_many,
            too_long: tally.too_long,
            refused: tally.refused,
            unstamped: tally.unstamped,
            dropped_by_kernel: tally.dropped_by_kernel,
            lateness_us_p50: lateness_us(0.5),
            lateness_us_p99: lateness_us(0.99),
            lateness_us_max: tally.lateness_ns.max() as f64 / 1000.0,
            realtime: tally.realtime,
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; the hosts are going anyway.
            let _ = thread.join();
        }
    }
}

/// A frame under way; the heap's greatest is the one due first.
struct UnderWay {
    due_monotonic_ns: i64,
    /// Breaks ties in order of arrival.
    arrival: u64,
    interface_index: u32,
    frame: Vec<u8>,
}

impl UnderWay {
    fn key(&self) -> cmp::Reverse<(i64, u64)> {
        cmp::Reverse((self.due_monotonic_ns, self.arrival))
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Where a frame is to go.
enum Fate {
    Host { from: usize, to: usize },
    Multicast,
    Unknown,
}

/// The thread's own state.
struct Network {
    socket: PacketSocket,
    wan: Wan,
    host_of_interface: HashMap<u32, usize>,
    routing: Routing,
    random: ChaCha8Rng,
    under_way: BinaryHeap<UnderWay>,
    arrivals: u64,
    spare_buffers: Vec<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Network {
    fn new(socket: PacketSocket, wan: Wan, routing: Routing, shared: Arc<Shared>) -> Self {
        let host_of_interface =
            routing.interface_of_host.iter().enumerate().map(|(host, &interface)| (interface, host)).collect();
        Self {
            random: ChaCha8Rng::seed_from_u64(wan.seed),
            socket,
            wan,
            host_of_interface,
            routing,
            under_way: BinaryHeap::new(),
            arrivals: 0,
            spare_buffers: Vec::new(),
            shared,
        }
    }

    fn run(mut self) {
        // A sleep ends this much after its deadline at most; the default of 50 µs is as long as a LAN.
        let _ = nix::sys::prctl::set_timerslack(1);
        self.shared.tally().realtime = take_realtime_priority(REALTIME_PRIORITY).is_ok();
        let mut batch = FrameBatch::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_in(&mut batch);
            self.send_due();
            self.wait();
        }
    }

    /// Reads what has arrived; bounded, so that what is due is sent in between.
    fn take_in(&mut self, batch: &mut FrameBatch) {
        match self.socket.receive(batch) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the emulated network cannot read frames");
                // Nothing to read from such a socket is no reason to spin on it.
                std::thread::sleep(SPIN);
                return;
            }
        }
        // Kernel stamps are REALTIME, which may step; deadlines are MONOTONIC. A fresh difference per batch lets a step
        // hurt nothing but the frames of that batch.
        let monotonic_minus_realtime_ns = now_ns(ClockId::CLOCK_MONOTONIC) - now_ns(ClockId::CLOCK_REALTIME);
        let shared = Arc::clone(&self.shared);
        let mut tally = shared.tally();
        for received in batch.iter() {
            self.take_in_one(&received, monotonic_minus_realtime_ns, &mut tally);
        }
        if let Ok(dropped) = self.socket.take_kernel_drops() {
            tally.dropped_by_kernel += u64::from(dropped);
        }
    }

    fn take_in_one(&mut self, received: &Received<'_>, monotonic_minus_realtime_ns: i64, tally: &mut Tally) {
        let (from, to) = match self.fate(received) {
            Fate::Host { from, to } => (from, to),
            Fate::Multicast => return,
            Fate::Unknown => {
                tally.unknown_destination += 1;
                return;
            }
        };
        if received.truncated {
            tally.too_long += 1;
            return;
        }
        let jitter_ns = self.jitter_ns();
        if self.is_lost() {
            tally.lost += 1;
            return;
        }
        if self.under_way.len() >= FRAMES_UNDER_WAY_MAX {
            tally.too_many += 1;
            return;
        }
        if !received.kernel_stamped {
            tally.unstamped += 1;
        }
        let delay_ns = self.wan.one_way_ns[from][to].saturating_add(jitter_ns);
        let mut frame = self.spare_buffers.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(received.bytes);
        self.arrivals += 1;
        self.under_way.push(UnderWay {
            due_monotonic_ns: (received.received_at_realtime_ns + monotonic_minus_realtime_ns)
                .saturating_add_unsigned(delay_ns),
            arrival: self.arrivals,
            interface_index: self.routing.interface_of_host[to],
            frame,
        });
    }

    fn fate(&self, received: &Received<'_>) -> Fate {
        let Some(&from) = self.host_of_interface.get(&received.interface_index) else {
            return Fate::Unknown;
        };
        match destination(received.bytes) {
            Some(address) if address.is_multicast() => Fate::Multicast,
            Some(address) => match self.routing.host_of_address.get(&address) {
                Some(&to) => Fate::Host { from, to },
                None => Fate::Unknown,
            },
            None => Fate::Unknown,
        }
    }

    fn jitter_ns(&mut self) -> u64 {
        // In (0, 1], so that the logarithm is finite.
        let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let means = (-uniform.ln()).min(JITTER_MEANS_MAX);
        (means * self.wan.jitter_mean_ns as f64) as u64
    }

    fn is_lost(&mut self) -> bool {
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        uniform < self.wan.loss
    }

    /// Hands on what is due, frame by frame: the call runs the far host's receiving side as well, waking a sleeping reader
    /// included (up to 40 µs), so that saving system calls gains nothing and a stamp per batch would hide the wait.
    fn send_due(&mut self) {
        let now = now_ns(ClockId::CLOCK_MONOTONIC);
        while let Some(first) = self.under_way.peek() {
            if first.due_monotonic_ns > now {
                return;
            }
            let Some(first) = self.under_way.pop() else {
                return;
            };
            let lateness_ns = now_ns(ClockId::CLOCK_MONOTONIC) - first.due_monotonic_ns;
            let SendOutcome { sent, refused } =
                self.socket.send(&[Outgoing { interface_index: first.interface_index, bytes: &first.frame }]);
            let mut tally = self.shared.tally();
            tally.forwarded += sent as u64;
            tally.refused += refused as u64;
            tally.lateness_ns.saturating_record(lateness_ns.max(1).unsigned_abs());
            drop(tally);
            if self.spare_buffers.len() < SPARE_BUFFERS_MAX {
                self.spare_buffers.push(first.frame);
            }
        }
    }

    /// Sleeps until a frame arrives or the first is nearly due, or spins for a moment.
    fn wait(&self) {
        let now = now_ns(ClockId::CLOCK_MONOTONIC);
        let first_due_ns = self.under_way.peek().map_or(i64::MAX, |first| first.due_monotonic_ns);
        let until_due_ns = first_due_ns.saturating_sub(now);
        let spin_ns = SPIN.as_nanos() as i64;
        if until_due_ns > spin_ns {
            // poll overruns its time-out by 0.1 % of it: 50 µs at 50 ms, well inside the time left for spinning.
            let sleep_ns = (until_due_ns - spin_ns).min(STOP_LOOK.as_nanos() as i64);
            let waited = self.socket.wait(Duration::from_nanos(sleep_ns.unsigned_abs()));
            if let Err(error) = waited {
                tracing::warn!(%error, "the emulated network cannot wait for frames");
                std::thread::sleep(SPIN);
            }
            return;
        }
        let spin_until_ns = first_due_ns.min(now + LOOK_EVERY_NS);
        while now_ns(ClockId::CLOCK_MONOTONIC) < spin_until_ns {
            std::hint::spin_loop();
        }
    }
}

/// The IP destination of an Ethernet frame; none when it is neither IPv4 nor IPv6, or too short.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    const ETHERNET_HEADER_BYTES: usize = 14;
    // IEEE 802.3: the type follows two addresses of 6 bytes. RFC 791: the destination is at byte 16 of the header;
    // RFC 8200: at byte 24.
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        }
        [0x86, 0xdd] => {
            let bytes: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[expect(clippy::expect_used, reason = "these two clocks exist on every Linux")]
fn now_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock).expect("CLOCK_MONOTONIC and CLOCK_REALTIME can be read");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_read_from_both_families_and_never_past_the_end() {
        let mut v4 = vec![0; 34];
        v4[12..14].copy_from_slice(&[0x08, 0x00]);
        v4[30..34].copy_from_slice(&[10, 77, 1, 2]);
        assert_eq!(destination(&v4), Some("10.77.1.2".parse().unwrap()));
        assert_eq!(destination(&v4[..33]), None);
        let mut v6 = vec![0; 54];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6[53] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        assert_eq!(destination(&v6[..53]), None);
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0; 60]), None);
    }

    #[test]
    fn the_frame_due_first_leaves_the_heap_first_and_ties_keep_their_order() {
        let frame =
            |due_monotonic_ns, arrival| UnderWay { due_monotonic_ns, arrival, interface_index: 0, frame: Vec::new() };
        let mut heap = BinaryHeap::from(vec![frame(30, 1), frame(10, 3), frame(10, 2)]);
        let order: Vec<_> = std::iter::from_fn(|| heap.pop()).map(|frame| frame.arrival).collect();
        assert_eq!(order, [2, 3, 1]);
    }
}
