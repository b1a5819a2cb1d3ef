//! Every installed resolver, on a host of the emulated network, takes the first answer of two and asks again for each name.
//!
//! The master's host runs a tiny authoritative server that answers each query twice: first with [`FIRST`], one millisecond
//! later with [`SECOND`], as two agents would. Each resolver runs on a client's host of its own.
//!
//! A test starts this program again inside fresh namespaces, because they can only be entered by a process with one
//! thread: as whoever runs it, and as an ordinary user without any rights when that is root. The child prints which
//! resolvers ran, what each sends, and which were skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, Ttl};
use domain::rdata::{A, Soa};
use startgun_lab::client::{Ask, ask_once};
use startgun_lab::resolver::{LOG_FILE, ResolverKind, prepare, prepare_bind_static_stub};
use startgun_lab::scenario::Scenario;
use startgun_lab::world::{Host, SERVICE_IPV4, SERVICE_IPV6, World};

/// Set in the child: it is inside its namespaces.
const INSIDE: &str = "STARTGUN_RESOLVERS_TEST_INSIDE";

const ZONE: &str = "cdn.test.";
const WILDCARD_BASE: &str = "www.cdn.test";

/// BIND's other set-up.
const STATIC_STUB: &str = "bind-static-stub";

/// The winner's answer and the loser's.
const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BETWEEN_ANSWERS: Duration = Duration::from_millis(1);

/// Names asked for per resolver and server.
const NAMES: usize = 4;

/// Any uid but 0 is an ordinary user's; this is "nobody" on most systems.
const ORDINARY_USER: &str = "65534";

/// A resolver starts within half a second on an idle machine; other tests may keep this one busy.
const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn every_installed_resolver_keeps_the_first_answer() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let command = in_namespaces(&this_program());
    run("as this user", command, "every_installed_resolver_keeps_the_first_answer");
}

#[test]
fn every_installed_resolver_keeps_the_first_answer_for_an_ordinary_user_too() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !nix::unistd::geteuid().is_root() {
        say("skipped: this is an ordinary user already, as which the other test runs");
        return;
    }
    // A place that everybody may read, and write to.
    let directory = TemporaryDirectory::new();
    let copy = directory.0.join("resolvers");
    fs::copy(this_program(), &copy).expect("a copy of this program");
    for path in [&directory.0, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }
    let as_ordinary_user = |command: Command| {
        let mut outer = Command::new("setpriv");
        outer
            .args(["--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--clear-groups"])
            .args(["--inh-caps=-all", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir("/");
        outer
    };
    if !succeeds(as_ordinary_user(Command::new("true"))) {
        say("skipped: setpriv cannot become an ordinary user here");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).args(NAMESPACES).arg(copy);
    run(
        "as an ordinary user",
        as_ordinary_user(command),
        "every_installed_resolver_keeps_the_first_answer_for_an_ordinary_user_too",
    );
}

/// With a process namespace of its own, nothing outlives the child, however it ends.
const NAMESPACES: [&str; 7] = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"];

fn in_namespaces(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(NAMESPACES).arg(program);
    command
}

fn run(user: &str, mut command: Command, test: &str) {
    let mut trial = Command::new(command.get_program());
    // The same namespaces, by the same user, but for a program that does nothing.
    let arguments: Vec<_> = command.get_args().collect();
    trial.args(&arguments[..arguments.len() - 1]).arg("true");
    if !succeeds(trial) {
        say(&format!("skipped: network and mount namespaces cannot be entered {user}"));
        return;
    }
    let output = command
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("the child starts");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let is_news = line.starts_with("ran: ") || line.starts_with("skipped: ");
        if is_news {
            say(&format!("{line} ({user})"));
        } else {
            println!("{line}");
        }
    }
    let ran = String::from_utf8_lossy(&output.stdout).contains("test result: ok. 1 passed");
    assert!(output.status.success() && ran, "{user}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Prints past the test harness, which keeps the output of tests that pass to itself: what was skipped must be seen.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("a test knows its own path")
}

// --- inside the namespaces ---------------------------------------------------------------------

fn inside() {
    let installed = ResolverKind::installed();
    let world = small_world();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut servers: Vec<SocketAddr> = vec![
        (SERVICE_IPV4, 53).into(),
        // None of them takes it for granted that a server has port 53.
        (SERVICE_IPV4, 5300).into(),
    ];
    if world.master.ipv6.is_some() {
        servers.push((SERVICE_IPV6, 53).into());
    } else {
        println!("skipped: a server with an IPv6 address, because the kernel has no IPv6");
    }
    for &server in &servers {
        let seen = Arc::clone(&seen);
        world.master.thread("stub", move || serve(server, &seen)).expect("a thread");
    }
    // On hosts of their own they can run side by side.
    thread::scope(|scope| {
        let mut runs = Vec::new();
        for (host, (name, kind)) in world.clients.iter().zip(set_ups()) {
            let Some((_, program, version)) = installed.iter().find(|(k, ..)| *k == kind) else {
                println!("skipped: {kind} is not installed");
                continue;
            };
            println!("ran: {name} {version} from {}", program.display());
            let (servers, seen) = (&servers, &seen);
            runs.push((
                name,
                scope.spawn(move || {
                    // A static stub takes no port.
                    for &server in servers.iter().filter(|server| name != STATIC_STUB || server.port() == 53) {
                        try_resolver(host, name, kind, program, server, seen);
                    }
                }),
            ));
        }
        for (name, run) in runs {
            assert!(run.join().is_ok(), "{name} failed, see above");
        }
    });
}

/// The usual set-up of every program, and BIND once more.
fn set_ups() -> impl Iterator<Item = (&'static str, ResolverKind)> {
    let usual = ResolverKind::PROGRAMS.into_iter().map(|kind| (kind.name(), kind));
    usual.chain([(STATIC_STUB, ResolverKind::Bind)])
}

fn small_world() -> World {
    let clients: Vec<_> = set_ups().map(|(name, _)| format!("\"{name}\"")).collect();
    let clients = clients.join(", ");
    let mut pairs = String::new();
    let mut names = vec!["hub", "site"];
    names.extend(set_ups().map(|(name, _)| name));
    for (index, a) in names.iter().enumerate() {
        for b in &names[index + 1..] {
            pairs += &format!("[[pair]]\na = \"{a}\"\nb = \"{b}\"\nrtt_ms = 10\n");
        }
    }
    let text = format!("name = \"resolvers\"\nmaster = \"hub\"\nagents = [\"site\"]\nclients = [{clients}]\n{pairs}");
    let scenario = Scenario::parse(&text, Path::new("resolvers.toml")).expect("a scenario");
    World::build(&scenario, 1).expect("a world")
}

fn try_resolver(
    host: &Host,
    set_up: &'static str,
    kind: ResolverKind,
    program: &Path,
    server: SocketAddr,
    seen: &Mutex<Vec<Seen>>,
) {
    let directory = TemporaryDirectory::new();
    let launch = match set_up {
        STATIC_STUB => prepare_bind_static_stub(program, &directory.0, ZONE, server.ip()),
        _ => prepare(kind, program, &directory.0, ZONE, server),
    };
    let launch = launch.expect("a launch");
    let said = || fs::read_to_string(directory.0.join(LOG_FILE)).unwrap_or_default();
    let _process = host.spawn(launch.command).expect("it starts");
    let probe = launch.probe;
    let started = host.run(move || probe.wait(START_LIMIT));
    let started = started.unwrap_or_else(|error| panic!("{set_up}: {error}\n{}", said()));

    let mut names = BTreeSet::new();
    let resolver = Ask::Resolver(launch.address);
    for number in 0..NAMES {
        let version = if server.is_ipv6() { 6 } else { 4 };
        let port = server.port();
        let text = format!("q{number}-{set_up}-ip{version}-port{port}.{WILDCARD_BASE}.");
        let name: Name<Vec<u8>> = text.parse().expect("a name");
        // The second time it may answer from its cache: there, too, the loser must not have replaced the winner.
        for time in ["first", "second"] {
            let name = name.clone();
            let answer = host.run(move || ask_once(resolver, &name, ANSWER_LIMIT));
            let answer = answer.expect("a working socket");
            assert_eq!(answer, Some(FIRST), "{set_up} with {server}, {text}, asked the {time} time:\n{}", said());
        }
        names.insert(text.trim_end_matches('.').to_owned());
    }

    let seen = seen.lock().expect("the server did not panic");
    let from_here: Vec<_> = seen.iter().filter(|query| query.server == server && query.is_from(host)).collect();
    let asked: BTreeSet<_> = from_here.iter().map(|query| query.name.to_ascii_lowercase()).collect();
    assert!(asked.is_superset(&names), "{set_up} did not ask for {names:?}, only {asked:?}");
    let foreign: Vec<_> = asked.iter().filter(|name| !name.ends_with(ZONE.trim_end_matches('.'))).collect();
    assert!(foreign.is_empty(), "{set_up} asked for {foreign:?} outside the zone");
    if server == SocketAddr::from((SERVICE_IPV4, 53)) {
        println!("{set_up}: up in {} ms, sent", started.as_millis());
        for query in from_here {
            println!("    {query}");
        }
    }
}

struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Not only the process id, which is 1 in each process namespace.
        let user = nix::unistd::geteuid();
        let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
        let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let path = std::env::temp_dir().join(format!("startgun-resolvers-{user}-{namespace}-{number}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a temporary directory");
        Self(path)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// --- the authoritative server ------------------------------------------------------------------

/// A query as it arrived.
#[derive(Debug)]
struct Seen {
    server: SocketAddr,
    source: IpAddr,
    name: String,
    rtype: Rtype,
    flags: String,
    edns: Option<String>,
}

impl Seen {
    fn is_from(&self, host: &Host) -> bool {
        self.source == IpAddr::V4(host.ipv4) || host.ipv6.map(IpAddr::V6) == Some(self.source)
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let edns = self.edns.as_deref().unwrap_or("no EDNS");
        write!(f, "{} {} [{}] {edns}", self.name, self.rtype, self.flags)
    }
}

/// Serves until the process ends.
fn serve(address: SocketAddr, seen: &Mutex<Vec<Seen>>) {
    let socket = UdpSocket::bind(address).expect("the service address is local here");
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).expect("a working socket");
        let query = Message::from_slice(&buffer[..length]).expect("a whole header");
        seen.lock().expect("nobody panics with it").push(describe(address, client.ip(), query));
        for (index, answer) in [FIRST, SECOND].into_iter().enumerate() {
            if index > 0 {
                thread::sleep(BETWEEN_ANSWERS);
            }
            let message = answer_to(query, answer);
            socket.send_to(&message, client).expect("an answer leaves");
        }
    }
}

fn describe(server: SocketAddr, source: IpAddr, query: &Message<[u8]>) -> Seen {
    let question = query.sole_question().expect("one question");
    let header = query.header();
    let flags = [(header.rd(), "RD"), (header.ad(), "AD"), (header.cd(), "CD")];
    let flags: Vec<_> = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    let edns = query.opt().map(|opt| {
        let options: Vec<_> = opt
            .opt()
            .iter::<domain::base::opt::UnknownOptData<_>>()
            .flatten()
            .map(|option| format!("option {}", option.code()))
            .collect();
        let dnssec = if opt.dnssec_ok() { " DO" } else { "" };
        format!("EDNS {}{dnssec} {}", opt.udp_payload_size(), options.join(" "))
    });
    Seen { server, source, name: question.qname().to_string(), rtype: question.qtype(), flags: flags.join(" "), edns }
}

/// An address for every name below the wildcard's base; no data for the rest.
fn answer_to(query: &Message<[u8]>, address: Ipv4Addr) -> Vec<u8> {
    let question = query.sole_question().expect("one question");
    let name = question.qname().to_string().to_ascii_lowercase();
    let is_below_base = name.strip_suffix(WILDCARD_BASE).is_some_and(|rest| rest.ends_with('.'));
    let mut builder = MessageBuilder::new_vec().start_answer(query, Rcode::NOERROR).expect("room for the question");
    builder.header_mut().set_aa(true);
    if question.qtype() == Rtype::A && is_below_base {
        builder.push((question.qname(), Class::IN, 60, A::from(address))).expect("room for one record");
    }
    let mut builder = builder.authority();
    if builder.counts().ancount() == 0 {
        // Without it "no data" may not be cached (RFC 2308, section 5), and every minimised name is asked for again.
        let zone: Name<Vec<u8>> = ZONE.parse().expect("a name");
        let ttl = Ttl::from_secs(60);
        let soa = Soa::new(zone.clone(), zone.clone(), 1.into(), ttl, ttl, ttl, ttl);
        builder.push((zone, Class::IN, 60, soa)).expect("room for one record");
    }
    let mut builder = builder.additional();
    if query.opt().is_some() {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(1232);
                Ok(())
            })
            .expect("room for OPT");
    }
    builder.finish()
}
