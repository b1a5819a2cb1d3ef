//! The emulated world as programs on it see it: delays, forged sources, TCP, processes; as root and as an ordinary user.
//!
//! The tests run in a child process that enters its namespaces first of all: once as whoever runs this, and, when that is
//! root, once more as an ordinary user without any rights.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use startgun_lab::namespace::enter_user_namespace_if_needed;
use startgun_lab::process::ProcessGroup;
use startgun_lab::scenario::Scenario;
use startgun_lab::world::{Host, SERVICE_IPV4, World};

/// Tells a child process what to do.
const PART: &str = "STARTGUN_LAB_TEST_PART";

/// Any uid but 0 is an ordinary user's; this is "nobody" on most systems.
const ORDINARY_USER: &str = "65534";

const TESTS: [(&str, fn()); 8] = [
    ("delays_differ_by_direction", delays_differ_by_direction),
    ("ipv6_is_delayed_too", ipv6_is_delayed_too),
    ("an_answer_with_a_forged_source_takes_its_senders_path", an_answer_with_a_forged_source_takes_its_senders_path),
    ("tcp_arrives_whole", tcp_arrives_whole),
    ("loss_loses_and_is_counted", loss_loses_and_is_counted),
    ("jitter_has_the_mean_it_was_given", jitter_has_the_mean_it_was_given),
    ("processes_live_on_their_host_and_end_with_the_world", processes_live_on_their_host_and_end_with_the_world),
    ("a_world_of_cities_is_built", a_world_of_cities_is_built),
];

const KILLED_LAB: &str = "a_killed_lab_leaves_no_process";

fn main() -> ExitCode {
    match std::env::var(PART).as_deref() {
        Ok("inside") => return inside(),
        Ok("abandoned") => return abandoned(),
        _ => {}
    }
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    // As libtest understands it, except that all tests run or none: they share the cost of getting inside.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let names = TESTS.iter().map(|(name, _)| *name).chain([KILLED_LAB]);
    if filter.is_some_and(|part| !names.into_iter().any(|name| name.contains(&part))) {
        return tally.finish();
    }
    let own_user = if nix::unistd::geteuid().is_root() { "as_root" } else { "as_this_user" };
    run_part(own_user, Command::new(this_program()), &mut tally);
    if own_user == "as_root" {
        match ordinary_user() {
            Ok((command, _copy)) => run_part("as_ordinary_user", command, &mut tally),
            Err(reason) => tally.skip("as_ordinary_user", &reason),
        }
    }
    tally.run(KILLED_LAB, killed_lab_leaves_no_process);
    tally.finish()
}

/// What libtest prints, for those who count its lines.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    fn skip(&mut self, name: &str, reason: &str) {
        println!("test {name} ... ignored, skipped: {reason}");
        self.skipped += 1;
    }

    fn run(&mut self, name: &str, test: fn()) {
        let passed = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        self.count(passed);
    }

    fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    fn finish(self) -> ExitCode {
        let verdict = if self.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out",
            self.passed, self.failed, self.skipped
        );
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("a test knows its own path")
}

/// Runs all tests in a child process and counts its lines.
fn run_part(user: &str, mut command: Command, tally: &mut Tally) {
    let output = command.env(PART, "inside").stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return tally.skip(user, &format!("cannot start the child: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(reason) = text.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        return tally.skip(user, reason);
    }
    let mut finished = 0;
    for line in text.lines() {
        let verdict = match line.split_once(": ") {
            Some(("PASS", name)) => Some((name, "ok")),
            Some(("FAIL", name)) => Some((name, "FAILED")),
            _ => None,
        };
        match verdict {
            Some((name, verdict)) => {
                println!("test {user}::{name} ... {verdict}");
                tally.count(verdict == "ok");
                finished += 1;
            }
            None => println!("{line}"),
        }
    }
    if finished != TESTS.len() {
        println!("test {user} ... FAILED: {finished} of {} tests finished", TESTS.len());
        tally.count(false);
    }
}

/// A copy of this program that everybody may read, and the command that runs it without any rights.
fn ordinary_user() -> Result<(Command, TemporaryDirectory), String> {
    use std::os::unix::fs::PermissionsExt;
    let directory = TemporaryDirectory::new().map_err(|error| error.to_string())?;
    let copy = directory.0.join("world");
    std::fs::copy(this_program(), &copy).map_err(|error| error.to_string())?;
    for path in [&directory.0, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
    }
    let drop_rights = |program: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", ORDINARY_USER, "--regid", ORDINARY_USER])
            .args(["--clear-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .current_dir("/");
        command
    };
    let works = drop_rights(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        return Err("setpriv cannot become an ordinary user here".to_owned());
    }
    Ok((drop_rights(&copy), directory))
}

struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("startgun-lab-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn inside() -> ExitCode {
    if let Err(error) = enter_user_namespace_if_needed() {
        println!("skipped: {error}");
        return ExitCode::SUCCESS;
    }
    let mut code = ExitCode::SUCCESS;
    for (name, test) in TESTS {
        if catch_unwind(test).is_ok() {
            println!("PASS: {name}");
        } else {
            println!("FAIL: {name}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// hub → farm takes 30 ms, farm → hub 10 ms; the two agents are 8 and 2 ms from the farm.
fn small_world(more: &str) -> World {
    let text = format!(
        r#"
name = "small"
master = "hub"
agents = ["north", "south"]
clients = ["farm"]
{more}
[matrix]
names = ["hub", "north", "south", "farm"]
rtt_ms = [[], [20], [20, 20], [40, 16, 4]]
"#
    );
    let scenario = Scenario::parse(&text, Path::new("small.toml")).expect("a valid scenario");
    World::build(&scenario, 1).expect("a world")
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bind_udp(host: &Host, address: IpAddr) -> UdpSocket {
    let socket = host.run(move || UdpSocket::bind((address, 5300))).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
    socket
}

/// Sends 20 datagrams, one after the other; the least and the median one-way delay in ms.
fn one_way_ms(from: &UdpSocket, to: &UdpSocket) -> (f64, f64) {
    let address = to.local_addr().expect("a bound socket");
    let mut delays_ms: Vec<f64> = (0..20u8)
        .map(|number| {
            let sent_at = Instant::now();
            from.send_to(&[number; 40], address).expect("sent");
            let mut buffer = [0; 64];
            let (length, _) = to.recv_from(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], [number; 40]);
            sent_at.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    delays_ms.sort_by(f64::total_cmp);
    (delays_ms[0], delays_ms[10])
}

/// Nothing arrives early. How late a busy machine is must not fail the test: the best of twenty counts.
fn assert_one_way(measured: (f64, f64), expected_ms: f64, path: &str) {
    println!("{path}: {expected_ms} ms set, {:.3} ms least, {:.3} ms median", measured.0, measured.1);
    // Two clocks are compared with each other once per packet, to some microseconds.
    assert!(measured.0 >= expected_ms - 0.05, "{path}: {measured:?}");
    assert!(measured.0 < expected_ms + 20.0, "{path}: {measured:?}");
}

fn delays_differ_by_direction() {
    let world = small_world("split = 0.75");
    let (hub, farm) = (&world.master, &world.clients[0]);
    let at_hub = bind_udp(hub, hub.ipv4.into());
    let at_farm = bind_udp(farm, farm.ipv4.into());
    assert_one_way(one_way_ms(&at_hub, &at_farm), 30.0, "hub to farm");
    assert_one_way(one_way_ms(&at_farm, &at_hub), 10.0, "farm to hub");
    // A frame is counted a moment after it was sent.
    wait_for("40 frames counted", || world.emulator.statistics().forwarded == 40);
    let statistics = world.emulator.statistics();
    assert_eq!(statistics.unknown_destination, 0, "{statistics:?}");
    println!("{statistics:?}");
}

fn ipv6_is_delayed_too() {
    let world = small_world("split = 0.75");
    let (hub, farm) = (&world.master, &world.clients[0]);
    let (Some(hub_ipv6), Some(farm_ipv6)) = (hub.ipv6, farm.ipv6) else {
        println!("this kernel has no IPv6");
        return;
    };
    let at_hub = bind_udp(hub, hub_ipv6.into());
    let at_farm = bind_udp(farm, farm_ipv6.into());
    assert_one_way(one_way_ms(&at_hub, &at_farm), 30.0, "hub to farm, IPv6");
    assert_one_way(one_way_ms(&at_farm, &at_hub), 10.0, "farm to hub, IPv6");
}

/// A UDP socket that sends from an address that this host does not have.
fn bind_transparent(address: SocketAddr) -> io::Result<UdpSocket> {
    let SocketAddr::V4(address) = address else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(UdpSocket::from(fd))
}

fn an_answer_with_a_forged_source_takes_its_senders_path() {
    let world = small_world("");
    let service = SocketAddr::from((SERVICE_IPV4, 5300));
    let farm = &world.clients[0];
    let at_farm = bind_udp(farm, farm.ipv4.into());
    // The query goes to the master; the answers come from the agents, 8 ms and 2 ms away, the master is at 20 ms.
    let at_master = bind_udp(&world.master, SERVICE_IPV4.into());
    at_farm.send_to(b"query", service).expect("sent");
    let mut buffer = [0; 64];
    let (_, client) = at_master.recv_from(&mut buffer).expect("received");
    assert_eq!(client, at_farm.local_addr().expect("a bound socket"));
    for (agent, expected_ms) in world.agents.iter().zip([8.0, 2.0]) {
        let forger = agent.run(move || bind_transparent(service)).expect("a transparent socket");
        let path = format!("{} to farm, forged", agent.name);
        assert_one_way(one_way_ms(&forger, &at_farm), expected_ms, &path);
        forger.send_to(b"answer", client).expect("sent");
        let (_, source) = at_farm.recv_from(&mut buffer).expect("received");
        assert_eq!(source, service);
    }
}

fn tcp_arrives_whole() {
    const BYTES: usize = 300_000;
    let world = small_world("");
    let farm = &world.clients[0];
    let listener = world.master.run(|| TcpListener::bind((SERVICE_IPV4, 5300))).expect("a listener");
    let sender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let content: Vec<u8> = (0..BYTES).map(|i| (i / 251) as u8).collect();
        stream.write_all(&content).expect("written");
    });
    let mut stream = farm
        .run(|| {
            let address = SocketAddr::from((SERVICE_IPV4, 5300));
            TcpStream::connect_timeout(&address, Duration::from_secs(3))
        })
        .expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    let mut content = Vec::new();
    stream.read_to_end(&mut content).expect("read");
    sender.join().expect("the sender ends");
    assert_eq!(content.len(), BYTES);
    assert!(content.iter().enumerate().all(|(i, &byte)| byte == (i / 251) as u8));
    let statistics = world.emulator.statistics();
    assert_eq!((statistics.too_long, statistics.refused), (0, 0), "{statistics:?}");
}

fn loss_loses_and_is_counted() {
    let world = small_world("loss = 0.5");
    let farm = &world.clients[0];
    let south = &world.agents[1];
    let at_farm = bind_udp(farm, farm.ipv4.into());
    let at_south = bind_udp(south, south.ipv4.into());
    let to = at_farm.local_addr().expect("a bound socket");
    for _ in 0..200 {
        at_south.send_to(b"x", to).expect("sent");
        std::thread::sleep(Duration::from_micros(200));
    }
    at_south.send_to(b"x", (farm.ipv4, 5301)).expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    at_farm.set_nonblocking(true).expect("non-blocking");
    let mut received = 0;
    let mut buffer = [0; 8];
    while at_farm.recv_from(&mut buffer).is_ok() {
        received += 1;
    }
    // Binomial, 200 × 0.5, standard deviation 7: five of them on either side.
    assert!((65..=135).contains(&received), "{received}");
    let lost = world.emulator.statistics().lost;
    assert!((65..=137).contains(&lost), "{lost}");
    at_south.send_to(b"x", "192.0.2.1:9").expect("sent");
    let deadline = Instant::now() + Duration::from_secs(3);
    while world.emulator.statistics().unknown_destination == 0 {
        assert!(Instant::now() < deadline, "the stray packet was not counted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn jitter_has_the_mean_it_was_given() {
    const PACKETS: usize = 300;
    let world = small_world("jitter_ms = 5");
    let farm = &world.clients[0];
    let south = &world.agents[1];
    let at_farm = bind_udp(farm, farm.ipv4.into());
    let at_south = bind_udp(south, south.ipv4.into());
    let to = at_farm.local_addr().expect("a bound socket");
    let start = Instant::now();
    let receiver = std::thread::spawn(move || {
        let mut delays_ms = Vec::new();
        let mut buffer = [0; 16];
        for _ in 0..PACKETS {
            let (length, _) = at_farm.recv_from(&mut buffer).expect("received");
            let sent_ns = u64::from_be_bytes(buffer[..length].try_into().expect("8 bytes"));
            delays_ms.push((start.elapsed().as_nanos() as u64 - sent_ns) as f64 / 1e6);
        }
        delays_ms
    });
    for _ in 0..PACKETS {
        let now_ns = start.elapsed().as_nanos() as u64;
        at_south.send_to(&now_ns.to_be_bytes(), to).expect("sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    let delays_ms = receiver.join().expect("every packet arrives");
    let least = delays_ms.iter().copied().fold(f64::MAX, f64::min);
    let mean = delays_ms.iter().sum::<f64>() / PACKETS as f64;
    println!("jitter: least {least:.3} ms, mean {mean:.3} ms");
    // 2 ms of path and 5 ms of jitter; the mean of 300 exponentials has a standard deviation of 0.3 ms, the machine adds.
    assert!((1.95..4.0).contains(&least), "{least}");
    assert!((5.5..12.0).contains(&mean), "{mean}");
}

fn processes_live_on_their_host_and_end_with_the_world() {
    let world = small_world("");
    let farm = &world.clients[0];
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net").stdout(Stdio::piped());
    let mut process = farm.spawn(command).expect("started");
    let mut stdout = process.child_mut().stdout.take().expect("piped");
    let mut theirs = String::new();
    stdout.read_to_string(&mut theirs).expect("read");
    let of_thread = || std::fs::read_link("/proc/thread-self/ns/net").expect("a link");
    assert_eq!(Path::new(theirs.trim()), farm.run(of_thread));
    assert_ne!(Path::new(theirs.trim()), of_thread());
    let started = farm.thread("inside", of_thread).expect("started");
    assert_eq!(Path::new(theirs.trim()), started.join().expect("joined"));

    let mut sleeper = Command::new("sleep");
    sleeper.arg("600");
    let mut process = farm.spawn(sleeper).expect("started");
    assert_eq!(process.try_wait().expect("asked"), None);
    drop(world);
    wait_for("the process ends with its world", || process.try_wait().expect("asked").is_some());
}

fn a_world_of_cities_is_built() {
    let cities = Scenario::builtin("cities").expect("built in");
    let start = Instant::now();
    let world = World::build(&cities, 1).expect("a world");
    println!("15 hosts in {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);
    assert_eq!((world.agents.len(), world.clients.len()), (6, 8));
    let sydney = &world.agents[5];
    assert_eq!((sydney.name.as_str(), sydney.id.as_str()), ("Sydney", "agent-6"));
    assert_eq!(sydney.clock, cities.clock_draws(1).agents[5]);
    // A ping-pong through the longest path of all that races take: London to Sydney.
    let at_master = bind_udp(&world.master, world.master.ipv4.into());
    let at_sydney = bind_udp(sydney, sydney.ipv4.into());
    let start = Instant::now();
    let mut buffer = [0; 8];
    let sydney_address = at_sydney.local_addr().expect("a bound socket");
    at_master.send_to(b"ping", sydney_address).expect("sent");
    let (_, from) = at_sydney.recv_from(&mut buffer).expect("received");
    at_sydney.send_to(b"pong", from).expect("sent");
    at_master.recv_from(&mut buffer).expect("received");
    let round_trip = start.elapsed();
    assert!(round_trip >= Duration::from_millis(249), "{round_trip:?}");
}

/// The part of [`killed_lab_leaves_no_process`] that is killed.
fn abandoned() -> ExitCode {
    let group = ProcessGroup::start().expect("a group");
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600").stdout(Stdio::null());
    let process = group.spawn(sleeper).expect("started");
    println!("{}", process.id());
    loop {
        std::thread::park();
    }
}

fn killed_lab_leaves_no_process() {
    let mut lab = Command::new(this_program()).env(PART, "abandoned").stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    let stdout = lab.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("read");
    let pid: u32 = line.trim().parse().expect("a process id");
    let is_running = || {
        // proc(5): the state follows the name in parentheses; a zombie waits for whoever adopted it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    let was_running = is_running();
    lab.kill().expect("killed");
    lab.wait().expect("waited for");
    assert!(was_running);
    wait_for("the process ends with its lab", || !is_running());
}
