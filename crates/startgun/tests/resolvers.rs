//! Every installed resolver in front of the real master and two agents, on the lab's emulated network: what the zone says,
//! and raced names, with service addresses of both kinds.
//!
//! Each set-up has a host of its own, and is asked there, as a user's programs would: over UDP, and over TCP where the
//! answer is truncated. `crates/lab/tests/resolvers.rs` looks at what resolvers send; this looks at what comes out of them.

mod support;

#[path = "authority/exchange.rs"]
mod exchange;

use std::fmt::Write;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use startgun_lab::process::Process;
use startgun_lab::resolver::{self, Launch, ResolverKind};
use startgun_lab::scenario::Scenario;
use startgun_lab::world::{Host, SERVICE_IPV4, SERVICE_IPV6, World};

use exchange::{Answer, Query, Transport, ask};
use support::{Scratch, Test, program, wait_for};

const TESTS: [(&str, Test); 3] = [
    ("every_resolver_gets_the_zone_and_its_races_over_ipv4", || every_resolver_gets_the_zone_and_its_races(Kind::Ipv4)),
    ("every_resolver_gets_the_zone_and_its_races_over_ipv6", || every_resolver_gets_the_zone_and_its_races(Kind::Ipv6)),
    ("sites_race_for_service_addresses_of_both_kinds", sites_race_for_service_addresses_of_both_kinds),
];

/// What kind of addresses a fleet has: one for its service, and everything else; or both for its service, and IPv4 for the
/// rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ipv4,
    Ipv6,
    Both,
}

impl Kind {
    fn services(self) -> Vec<SocketAddr> {
        let (ipv4, ipv6) = (SocketAddr::from((SERVICE_IPV4, 53)), SocketAddr::from((SERVICE_IPV6, 53)));
        match self {
            Kind::Ipv4 => vec![ipv4],
            Kind::Ipv6 => vec![ipv6],
            Kind::Both => vec![ipv4, ipv6],
        }
    }

    fn address_of(self, host: &Host) -> IpAddr {
        match (self, host.ipv6) {
            (Kind::Ipv6, Some(address)) => address.into(),
            _ => host.ipv4.into(),
        }
    }
}

/// A way to tell a resolver about the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetUp {
    /// That of the demo.
    Usual(ResolverKind),
    /// BIND, which looks for answers itself.
    BindStaticStub,
}

/// All set-ups, with the names of their hosts.
const SET_UPS: [(&str, SetUp); 7] = [
    ("unbound", SetUp::Usual(ResolverKind::Unbound)),
    ("bind-static-stub", SetUp::BindStaticStub),
    ("bind-forward", SetUp::Usual(ResolverKind::Bind)),
    ("kresd", SetUp::Usual(ResolverKind::KnotResolver)),
    ("pdns", SetUp::Usual(ResolverKind::PowerDns)),
    ("dnsmasq", SetUp::Usual(ResolverKind::Dnsmasq)),
    ("resolved", SetUp::Usual(ResolverKind::Resolved)),
];

/// These hand on what they are told by whom they take for a recursive resolver, be it an alias alone: their client has to
/// ask for the rest.
const HAND_ALIASES_ON: [ResolverKind; 2] = [ResolverKind::KnotResolver, ResolverKind::Dnsmasq];

/// Round trips: the near site is 25 ms nearer than the far one, one way, which no busy machine makes up for often.
const NEAR_MS: u32 = 10;
const FAR_MS: u32 = 60;
const MASTER_MS: u32 = 20;

const ZONE: &str = "cdn.test.";
const SITES: [&str; 2] = ["near", "far"];
/// What near and far answer, and the master itself: the last number of 192.0.2.0/24 and of 2001:db8::/64.
const SITE_NUMBERS: [u8; 2] = [11, 12];
const FALLBACK_NUMBER: u8 = 13;

const A: u16 = 1;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const NXDOMAIN: u16 = 3;

/// Clocks are set after some seconds; a loaded machine takes longer.
const READY_PATIENCE: Duration = Duration::from_secs(40);
/// A resolver starts within half a second on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for one answer: systemd-resolved asks again after 5 s.
const ANSWER_PATIENCE: Duration = Duration::from_secs(12);
/// Raced names asked for per type: the first ones validate the resolver over TCP, and are answered by the master.
const RACES_MAX: usize = 10;
/// As many of them must be answered by a site.
const RACES_LEAST: usize = 3;

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn address(number: u8, rtype: u16) -> String {
    if rtype == A { format!("192.0.2.{number}") } else { format!("2001:db8::{number}") }
}

/// Question, code, and answers without their times to live, and without DNAME, which dnsmasq does not keep.
const PLAIN: [(&str, u16, u16, &[&str]); 15] = [
    ("x.moved.cdn.test.", A, 0, &["x.moved.cdn.test. cname x.wild.cdn.test.", "x.wild.cdn.test. a 192.0.2.2"]),
    ("plain.cdn.test.", A, 0, &["plain.cdn.test. a 192.0.2.1"]),
    ("plain.cdn.test.", AAAA, 0, &["plain.cdn.test. aaaa 2001:db8::1"]),
    ("PlAiN.cDn.TeSt.", A, 0, &["plain.cdn.test. a 192.0.2.1"]),
    (
        "one.cdn.test.",
        A,
        0,
        &["one.cdn.test. cname two.cdn.test.", "two.cdn.test. cname plain.cdn.test.", "plain.cdn.test. a 192.0.2.1"],
    ),
    (
        "one.cdn.test.",
        AAAA,
        0,
        &[
            "one.cdn.test. cname two.cdn.test.",
            "two.cdn.test. cname plain.cdn.test.",
            "plain.cdn.test. aaaa 2001:db8::1",
        ],
    ),
    ("any.wild.cdn.test.", A, 0, &["any.wild.cdn.test. a 192.0.2.2"]),
    ("any.wild.cdn.test.", TXT, 0, &["any.wild.cdn.test. txt \"from the wildcard\""]),
    ("any.wild.cdn.test.", AAAA, 0, &[]),
    ("deep.below.nothing.cdn.test.", A, 0, &["deep.below.nothing.cdn.test. a 192.0.2.3"]),
    ("plain.cdn.test.", MX, 0, &[]),
    ("missing.cdn.test.", A, NXDOMAIN, &[]),
    ("gone.cdn.test.", A, NXDOMAIN, &["gone.cdn.test. cname missing.cdn.test."]),
    ("text.cdn.test.", TXT, 0, &["text.cdn.test. txt \"first\" \"second\""]),
    ("_web._tcp.cdn.test.", SRV, 0, &["_web._tcp.cdn.test. srv 1 2 443 plain.cdn.test."]),
];

/// Strings of a set that no answer over UDP holds: 8 of 250 bytes.
fn long_strings() -> impl Iterator<Item = String> {
    (0..8).map(|number| format!("\"{number}{}\"", "x".repeat(249)))
}

fn zone() -> String {
    let mut text = format!(
        "$TTL 300\n@ SOA ns hostmaster 1 7200 900 1209600 60\n@ NS ns\nns A {SERVICE_IPV4}\nns AAAA {SERVICE_IPV6}\n\
         plain A 192.0.2.1\nplain AAAA 2001:db8::1\none CNAME two\ntwo CNAME plain\ngone CNAME missing\n\
         *.wild A 192.0.2.2\n*.wild TXT \"from the wildcard\"\ndeep.below.nothing A 192.0.2.3\n\
         text TXT \"first\" \"second\"\n_web._tcp SRV 1 2 443 plain\n\
         moved DNAME wild\n"
    );
    long_strings().for_each(|string| text += &format!("long TXT {string}\n"));
    // An alias of a raced name for each set-up: its target is raced for once.
    for (name, _) in SET_UPS {
        let _ = writeln!(text, "alias-{name} CNAME aliased-{name}.race");
    }
    text
}

/// Master, agents and hosts for resolvers.
struct Fleet {
    // Dropped before the world: the processes live on its hosts.
    processes: Vec<Process>,
    world: World,
    scratch: Scratch,
    kind: Kind,
}

impl Fleet {
    fn racing(kind: Kind) -> Result<Self, String> {
        let world = world()?;
        if kind != Kind::Ipv4 && world.master.ipv6.is_none() {
            return Err("the kernel has no IPv6".into());
        }
        let mut fleet = Fleet { processes: Vec::new(), world, scratch: Scratch::new(), kind };
        fleet.command(&["fleet", "init"]);
        fleet.command(&["fleet", "enroll", "m1", "--role", "master"]);
        fleet.command(&[&["fleet", "enroll"][..], &SITES, &["--role", "agent"]].concat());
        fleet.write("m1.toml", &fleet.master_toml());
        let master = fleet.start(&fleet.world.master, "master", "m1");
        fleet.processes.push(master);
        for (site, host) in SITES.iter().zip(&fleet.world.agents) {
            fleet.write(&format!("{site}.toml"), &fleet.agent_toml(site, host));
            let agent = fleet.start(host, "agent", site);
            fleet.processes.push(agent);
        }
        wait_for("both sites race", READY_PATIENCE, || {
            let status = fleet.status()?;
            let racing = status["agents"].as_array()?.iter().filter(|agent| agent["racing"] == true).count();
            (racing == SITES.len()).then_some(())
        });
        Ok(fleet)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.scratch.path().join(file), text).expect("written");
    }

    fn command(&self, arguments: &[&str]) -> Vec<u8> {
        let output =
            Command::new(program()).args(arguments).current_dir(self.scratch.path()).output().expect("started");
        let fault = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "startgun {arguments:?}: {fault}");
        output.stdout
    }

    fn start(&self, host: &Host, role: &str, name: &str) -> Process {
        let log = File::create(self.scratch.path().join(format!("{name}.log"))).expect("a log");
        let mut command = Command::new(program());
        command
            .args([role, "--config", &format!("{name}.toml")])
            .current_dir(self.scratch.path())
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        host.spawn(command).expect("started")
    }

    fn status(&self) -> Option<Value> {
        let mut command = Command::new(program());
        command.args(["status", "--json", "--socket", "m1.sock"]).current_dir(self.scratch.path());
        let output = command.output().expect("started");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Where agents prove the service address that is not of the fast path's family.
    fn self_test_toml(&self) -> String {
        let own = self.world.master.ipv6.filter(|_| self.kind == Kind::Both);
        own.map_or_else(String::new, |own| format!("self_test_listen = \"[{own}]:8532\"\n"))
    }

    fn master_toml(&self) -> String {
        let own = self.kind.address_of(&self.world.master);
        let (control, fast_path) = (SocketAddr::new(own, 8530), SocketAddr::new(own, 8531));
        let mut toml = format!(
            "role = \"master\"\nname = \"m1\"\ncontrol_listen = \"{control}\"\nfast_path_listen = \"{fast_path}\"\n\
             state_dir = \"state-m1\"\nstatus_socket = \"m1.sock\"\n\
             {}[fleet]\nca = \"m1/ca.crt\"\ncertificate = \"m1/m1.crt\"\nkey = \"m1/m1.key\"\n\
             [clock]\nhost_source = \"none\"\n",
            self.self_test_toml()
        );
        for service in self.kind.services() {
            let _ = writeln!(toml, "[[service]]\naddress = \"{service}\"");
        }
        let _ = write!(
            toml,
            "[[zone]]\nname = \"{ZONE}\"\nrecords = '''\n{}'''\n\
             [[race]]\nname = \"*.race.{ZONE}\"\nlate_tolerance_ms = 50\n[race.fallback]\n{}",
            zone(),
            answers(FALLBACK_NUMBER)
        );
        for (site, number) in SITES.iter().zip(SITE_NUMBERS) {
            let _ = write!(toml, "[race.sites.{site}]\n{}", answers(number));
        }
        toml
    }

    fn agent_toml(&self, site: &str, host: &Host) -> String {
        let fast_path = SocketAddr::new(self.kind.address_of(host), 8531);
        let control = SocketAddr::new(self.kind.address_of(&self.world.master), 8530);
        let services: Vec<String> = self.kind.services().iter().map(|service| format!("\"{service}\"")).collect();
        format!(
            "role = \"agent\"\nname = \"{site}\"\nfast_path_listen = \"{fast_path}\"\nstate_dir = \"state-{site}\"\n\
             status_socket = \"{site}.sock\"\n\
             [fleet]\nca = \"{site}/ca.crt\"\ncertificate = \"{site}/{site}.crt\"\nkey = \"{site}/{site}.key\"\n\
             mesh_key = \"{site}/{site}.mesh.key\"\n[clock]\nhost_source = \"none\"\n\
             [limits]\nallow_private_destinations = true\n[departure]\nmax_lateness_ms = 1000\n\
             [[master]]\nname = \"m1\"\ncontrol = \"{control}\"\nservice_addresses = [{}]\n",
            services.join(", ")
        )
    }
}

fn answers(number: u8) -> String {
    format!("a = [\"{}\"]\naaaa = [\"{}\"]\n", address(number, A), address(number, AAAA))
}

fn world() -> Result<World, String> {
    let quoted: Vec<String> = SET_UPS.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let clients = quoted.join(", ");
    let mut text =
        format!("name = \"resolvers\"\nmaster = \"hub\"\nagents = [\"near\", \"far\"]\nclients = [{clients}]\n");
    let mut pair = |a: &str, b: &str, rtt_ms: u32| {
        let _ = write!(text, "[[pair]]\na = \"{a}\"\nb = \"{b}\"\nrtt_ms = {rtt_ms}\n");
    };
    pair("hub", "near", MASTER_MS);
    pair("hub", "far", MASTER_MS);
    pair("near", "far", FAR_MS);
    for (name, _) in SET_UPS {
        pair("hub", name, MASTER_MS);
        pair("near", name, NEAR_MS);
        pair("far", name, FAR_MS);
    }
    let scenario = Scenario::parse(&text, Path::new("resolvers.toml")).expect("a scenario");
    World::build(&scenario, 1).map_err(|error| error.to_string())
}

fn every_resolver_gets_the_zone_and_its_races(kind: Kind) -> Result<(), String> {
    let installed = ResolverKind::installed();
    if installed.is_empty() {
        return Err("no resolver is installed".into());
    }
    let fleet = Fleet::racing(kind)?;
    thread::scope(|scope| {
        let mut runs = Vec::new();
        for ((name, set_up), host) in SET_UPS.into_iter().zip(&fleet.world.clients) {
            let kind = match set_up {
                SetUp::Usual(kind) => kind,
                SetUp::BindStaticStub => ResolverKind::Bind,
            };
            let Some((_, program, version)) = installed.iter().find(|(installed, ..)| *installed == kind) else {
                // A line for whoever counts tests.
                println!("SKIP {name}: {kind} is not installed");
                continue;
            };
            println!("{name}: {version}");
            let run = Run { fleet: &fleet, host, name, set_up };
            runs.push((name, scope.spawn(move || run.run(program))));
        }
        let failed = runs.into_iter().filter_map(|(name, run)| run.join().is_err().then_some(name));
        let failed: Vec<&str> = failed.collect();
        assert!(failed.is_empty(), "see above: {failed:?}");
    });
    let status = fleet.status().expect("the master's status");
    let races = status["counters"]["races"].as_u64().unwrap_or(0);
    println!("{races} races, {} answers by the master instead", status["counters"]["answers_fallback"]);
    Ok(())
}

/// A client that may race asks each service address itself.
fn sites_race_for_service_addresses_of_both_kinds() -> Result<(), String> {
    let fleet = Fleet::racing(Kind::Both)?;
    let client = &fleet.world.clients[0];
    // The self-test of the second address may end after that of the first.
    let races = |service: SocketAddr| {
        let answered = (0..RACES_MAX).filter(|number| {
            let raced = Query::new(&format!("direct-{number}-{}.race.{ZONE}", service.is_ipv6()), A);
            let answer = client.run(move || {
                ask(service, Transport::Tcp, &raced.0, ANSWER_PATIENCE);
                ask(service, Transport::Udp, &raced.0, ANSWER_PATIENCE).map(Answer::read)
            });
            thread::sleep(Duration::from_millis(200));
            let answer = answer.expect("an answer").expect("a readable one");
            winner(&answer.sections[0], A).is_some_and(|number| number != FALLBACK_NUMBER)
        });
        answered.count()
    };
    let counts: Vec<usize> = fleet.kind.services().into_iter().map(races).collect();
    assert!(counts.iter().all(|count| *count >= RACES_LEAST), "races won by service address: {counts:?}");
    Ok(())
}

/// One set-up on its host.
struct Run<'a> {
    fleet: &'a Fleet,
    host: &'a Host,
    name: &'static str,
    set_up: SetUp,
}

impl Run<'_> {
    fn run(&self, program: &Path) {
        let directory = self.fleet.scratch.path().join(self.name);
        fs::create_dir(&directory).expect("made");
        let launch = self.launch(program, &directory);
        let _process = self.host.spawn(launch.command).expect("started");
        let (probe, resolver) = (launch.probe, launch.address);
        let started = self.host.run(move || probe.wait(START_PATIENCE));
        let log = || fs::read_to_string(&launch.log).unwrap_or_default();
        started.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, log()));
        for (name, rtype, code, answers) in PLAIN {
            let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
            self.expect(resolver, name, rtype, code, &answers);
        }
        let long: Vec<String> = long_strings().map(|string| format!("long.{ZONE} txt {string}")).collect();
        self.expect(resolver, "long.cdn.test.", TXT, 0, &long);
        for rtype in [A, AAAA] {
            self.race(resolver, rtype);
        }
        self.race_behind_an_alias(resolver);
    }

    fn launch(&self, program: &Path, directory: &Path) -> Launch {
        let service = self.fleet.kind.services()[0];
        let launch = match self.set_up {
            SetUp::Usual(kind) => resolver::prepare(kind, program, directory, ZONE, service),
            SetUp::BindStaticStub => resolver::prepare_bind_static_stub(program, directory, ZONE, service.ip()),
        };
        launch.expect("a launch")
    }

    /// Asks the resolver, over TCP where it says so, and returns its code and answers without times to live.
    fn ask(&self, resolver: SocketAddr, name: &str, rtype: u16) -> (u16, Vec<String>) {
        let query = Query::new(name, rtype).flags(1, 0).edns(1232, &[]);
        let answer = self.host.run(move || {
            let over = |transport| ask(resolver, transport, &query.0, ANSWER_PATIENCE).map(Answer::read);
            match over(Transport::Udp) {
                Some(Ok(answer)) if answer.is_truncated() => over(Transport::Tcp),
                answer => answer,
            }
        });
        let what = format!("{}, {name} {rtype}", self.name);
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let answer = answer.unwrap_or_else(|fault| panic!("{what}: {fault}"));
        assert!(!answer.is_truncated(), "{what}: truncated over TCP");
        let without_ttl = |record: &String| {
            let words: Vec<&str> = record.splitn(3, ' ').collect();
            [words[0], words[2]].join(" ")
        };
        (answer.code, answer.sections[0].iter().map(without_ttl).collect())
    }

    /// Asks twice, the second time for what the resolver may have kept.
    fn expect(&self, resolver: SocketAddr, name: &str, rtype: u16, code: u16, answers: &[String]) {
        for time in ["first", "second"] {
            let (found_code, mut found) = self.ask(resolver, name, rtype);
            let mut expected = answers.to_vec();
            found.retain(|record| !record.contains(" dname "));
            // Sets may turn.
            found.sort();
            expected.sort();
            assert_eq!((found_code, found), (code, expected), "{}, {name} {rtype}, the {time} time", self.name);
        }
    }

    /// Raced names: once the resolver is validated, sites answer, mostly the near one, and one answer comes out.
    fn race(&self, resolver: SocketAddr, rtype: u16) {
        let mut winners = Vec::new();
        let by_sites = |winners: &[u8]| winners.iter().filter(|winner| **winner != FALLBACK_NUMBER).count();
        while winners.len() < RACES_MAX && by_sites(&winners) < RACES_LEAST {
            let name = format!("q{}-{rtype}-{}.race.{ZONE}", winners.len(), self.name);
            let (code, answers) = self.ask(resolver, &name, rtype);
            let winner = winner(&answers, rtype).filter(|_| code == 0 && answers.len() == 1);
            winners.push(winner.unwrap_or_else(|| panic!("{}, {name}: {code} {answers:?}", self.name)));
            // From a resolver's cache it is the same; systemd-resolved has none in the lab.
            if self.set_up != SetUp::Usual(ResolverKind::Resolved) {
                assert_eq!(self.ask(resolver, &name, rtype).1, answers, "{}, {name}, the second time", self.name);
            }
        }
        println!("{}, type {rtype}: {winners:?}", self.name);
        let near = winners.iter().filter(|winner| **winner == SITE_NUMBERS[0]).count();
        assert!(by_sites(&winners) >= RACES_LEAST && near * 2 > RACES_LEAST, "{}: {winners:?}", self.name);
    }

    /// The master's answer to an alias of a raced name is the alias alone: whoever looks for answers itself comes back for
    /// the name, and then it is raced.
    fn race_behind_an_alias(&self, resolver: SocketAddr) {
        let (alias, target) = (format!("alias-{}.{ZONE}", self.name), format!("aliased-{}.race.{ZONE}", self.name));
        let (code, answers) = self.ask(resolver, &alias, A);
        let what = format!("{}: {code} {answers:?}", self.name);
        assert!(code == 0 && answers.first() == Some(&format!("{alias} cname {target}")), "{what}");
        let hands_on = HAND_ALIASES_ON.iter().any(|kind| self.set_up == SetUp::Usual(*kind));
        match answers.get(1) {
            Some(answer) => assert!(answer.starts_with(&target) && winner(&answers, A).is_some(), "{what}"),
            None => assert!(hands_on, "{what}"),
        }
    }
}

/// The number of whoever answered a raced name.
fn winner(answers: &[String], rtype: u16) -> Option<u8> {
    let ours = SITE_NUMBERS.into_iter().chain([FALLBACK_NUMBER]);
    let data = answers.last()?.rsplit(' ').next()?;
    ours.into_iter().find(|number| address(*number, rtype) == data)
}
