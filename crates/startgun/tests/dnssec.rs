//! Raced names in signed zones, judged by real validators: delv, Unbound and BIND.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::process::{Command, ExitCode};
use std::time::Duration;

use startgun_lab::process::Process;
use support::fleet::{FRANKFURT, Fleet, Options, TOKYO};
use support::{Test, dns, wait_for};

const TESTS: [(&str, Test); 4] = [
    ("every_sites_answer_validates_in_a_zone_with_nsec", every_sites_answer_validates_in_a_zone_with_nsec),
    ("every_sites_answer_validates_in_a_zone_with_nsec3", every_sites_answer_validates_in_a_zone_with_nsec3),
    ("resolvers_that_validate_take_raced_answers", resolvers_that_validate_take_raced_answers),
    ("a_raced_name_that_its_zone_denies_is_refused", a_raced_name_that_its_zone_denies_is_refused),
];

/// The tools of the zone's owner.
const TOOLS: [&str; 2] = ["/usr/bin/dnssec-keygen", "/usr/bin/dnssec-signzone"];

/// What is raced has placeholders, so that the chain lists it.
const ZONE: &str = "$TTL 3600
@ SOA ns hostmaster 1 7200 900 1209600 60
@ NS ns
ns A 198.51.100.1
text TXT \"two hundred bytes are not needed here\"
www A 192.0.2.1
*.cdn A 192.0.2.1
";

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn run(fleet: &Fleet, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(fleet.directory()).output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A fleet whose zone is signed, with two races in it; nothing runs yet. `chain` goes to dnssec-signzone.
fn signed(chain: &[&str], zone: &str) -> Result<Fleet, String> {
    if let Some(missing) = TOOLS.iter().find(|tool| !std::path::Path::new(tool).exists()) {
        return Err(format!("{missing} is not installed"));
    }
    let fleet = Fleet::new(&Options::default())?;
    fs::write(fleet.path("zone"), zone).expect("written");
    run(&fleet, TOOLS[0], &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "example.org"]);
    let key = run(&fleet, TOOLS[0], &["-q", "-a", "ECDSAP256SHA256", "example.org"]);
    let sign = [chain, &["-q", "-S", "-K", ".", "-o", "example.org", "-f", "signed", "zone"]].concat();
    run(&fleet, TOOLS[1], &sign);
    let text = fs::read_to_string(fleet.path("m1.toml")).expect("the configuration");
    let (before, _) = text.split_once("[[zone]]").expect("a zone");
    let race = |name: &str| {
        format!(
            "[[race]]\nname = \"{name}\"\nlate_tolerance_ms = 50\n[race.fallback]\na = [\"192.0.2.130\"]\n\
             [race.sites.tokyo]\na = [\"{TOKYO}\"]\n[race.sites.frankfurt]\na = [\"{FRANKFURT}\"]\n"
        )
    };
    let keys = format!("keys = [\"{}.private\"]", key.trim());
    let zone = format!("[[zone]]\nname = \"example.org.\"\nfile = \"signed\"\n{keys}\n");
    let text = [before, &zone, &race("www.example.org."), &race("*.cdn.example.org.")].concat();
    fs::write(fleet.path("m1.toml"), text).expect("written");
    Ok(fleet)
}

fn start(fleet: &mut Fleet) {
    for name in ["m1", "tokyo", "frankfurt"] {
        fleet.start(name);
    }
    fleet.wait_until_racing(&["frankfurt", "tokyo"]);
    fleet.validate(fleet.client());
}

/// The words after a DS record's type: tag, algorithm, digest's type and digest.
fn ds(fleet: &Fleet) -> [String; 4] {
    let set = fs::read_to_string(fleet.path("dsset-example.org.")).expect("dnssec-signzone wrote it");
    let line = set.lines().find(|line| line.contains(" 13 2 ")).expect("SHA-256");
    let words: Vec<&str> = line.split_whitespace().skip(3).collect();
    [words[0].into(), words[1].into(), words[2].into(), words[3..].concat()]
}

/// What delv says of a name, asked from the client's host.
fn delv(fleet: &Fleet, name: &str, rtype: &str) -> String {
    let [tag, algorithm, digest_type, digest] = ds(fleet);
    let anchor = format!("trust-anchors {{ example.org. static-ds {tag} {algorithm} {digest_type} \"{digest}\"; }};\n");
    fs::write(fleet.path("anchor"), anchor).expect("written");
    let mut command = Command::new("/usr/bin/delv");
    command.args(["@198.51.100.1", "-a", "anchor", "+root=example.org", name, rtype]).current_dir(fleet.directory());
    let output = fleet.client().output(command);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn validates(mut fleet: Fleet) {
    start(&mut fleet);
    let mut sites = BTreeSet::new();
    for attempt in 0..40 {
        // A wildcard answer needs its own proof for every name.
        let names = ["www.example.org".to_owned(), format!("x{attempt}.cdn.example.org")];
        for name in &names {
            let said = delv(&fleet, name, "A");
            assert!(said.contains("; fully validated"), "{name}: {said}");
            let site = [TOKYO, FRANKFURT].into_iter().find(|site| said.contains(&site.to_string()));
            sites.insert((name == &names[0], site.unwrap_or_else(|| panic!("no site's answer: {said}"))));
        }
        if sites.len() == 4 {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(sites.len(), 4, "both sites, for the name and for the wildcard: {sites:?}");
    for (name, rtype) in [("www.example.org", "AAAA"), ("a.cdn.example.org", "TXT"), ("nothing.example.org", "A")] {
        let said = delv(&fleet, name, rtype);
        assert!(said.contains("; negative response, fully validated"), "{name} {rtype}: {said}");
    }
    let said = delv(&fleet, "text.example.org", "TXT");
    assert!(said.contains("; fully validated"), "{said}");
    // What the master answers in the sites' place is signed, too.
    fleet.signal("tokyo", nix::sys::signal::Signal::SIGKILL);
    fleet.signal("frankfurt", nix::sys::signal::Signal::SIGKILL);
    fleet.wait_until_racing(&[]);
    for name in ["www.example.org", "y.cdn.example.org"] {
        let said = delv(&fleet, name, "A");
        assert!(said.contains("; fully validated") && said.contains("192.0.2.130"), "{name}: {said}");
    }
}

fn every_sites_answer_validates_in_a_zone_with_nsec() -> Result<(), String> {
    validates(signed(&[], ZONE)?);
    Ok(())
}

fn every_sites_answer_validates_in_a_zone_with_nsec3() -> Result<(), String> {
    validates(signed(&["-3", "-", "-H", "0"], ZONE)?);
    Ok(())
}

/// Starts a validating resolver on the client's host, at 127.0.0.1.
fn resolver(
    fleet: &Fleet,
    port: u16,
    program: &str,
    arguments: &[&str],
    configuration: &str,
) -> Result<Process, String> {
    if !std::path::Path::new(program).exists() {
        return Err(format!("{program} is not installed"));
    }
    let file = format!("resolver-{port}.conf");
    fs::write(fleet.path(&file), configuration).expect("written");
    let log = fs::File::create(fleet.path(&format!("resolver-{port}.log"))).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).arg(&file).current_dir(fleet.directory());
    command.stdout(log.try_clone().expect("a log")).stderr(log);
    Ok(fleet.client().spawn(command))
}

/// Asks a resolver on the client's host; `None` without an answer in time.
fn ask(fleet: &Fleet, port: u16, name: &str) -> Option<Vec<u8>> {
    let name = name.to_owned();
    fleet.client().run(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
        let mut query = dns::query_with_nsid(11, &name, dns::A);
        // RD, and AD: tell me whether it validates (RFC 6840 section 5.7).
        (query[2], query[3]) = (0x01, 0x20);
        socket.send_to(&query, ("127.0.0.1", port)).ok()?;
        let mut buffer = [0; 1_500];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
}

fn resolvers_that_validate_take_raced_answers() -> Result<(), String> {
    let mut fleet = signed(&[], ZONE)?;
    start(&mut fleet);
    let [tag, algorithm, digest_type, digest] = ds(&fleet);
    let directory = fleet.directory().display().to_string();
    let unbound = format!(
        "server:\n interface: 127.0.0.1@5301\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: \"{directory}\"\n \
         pidfile: \"\"\n use-syslog: no\n module-config: \"validator iterator\"\n do-not-query-localhost: no\n \
         trust-anchor: \"example.org. IN DS {tag} {algorithm} {digest_type} {digest}\"\n root-hints: \"\"\n\
         stub-zone:\n name: example.org\n stub-addr: 198.51.100.1\n"
    );
    let bind = format!(
        "options {{ directory \"{directory}\"; listen-on port 5302 {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
         pid-file none; session-keyfile none; recursion yes; dnssec-validation yes; }};\n\
         controls {{ }};\n\
         trust-anchors {{ example.org. static-ds {tag} {algorithm} {digest_type} \"{digest}\"; }};\n\
         zone \"example.org\" {{ type static-stub; server-addresses {{ 198.51.100.1; }}; }};\n"
    );
    let resolvers = [
        (5301, resolver(&fleet, 5301, "/usr/sbin/unbound", &["-d", "-c"], &unbound)?),
        (5302, resolver(&fleet, 5302, "/usr/sbin/named", &["-g", "-c"], &bind)?),
    ];
    for (port, _process) in &resolvers {
        // Both are behind one address: a race that the one has opened must be over before the other asks the same.
        std::thread::sleep(Duration::from_millis(400));
        let log = || fs::read_to_string(fleet.path(&format!("resolver-{port}.log"))).unwrap_or_default();
        for name in ["www.example.org", "one.cdn.example.org", "two.cdn.example.org"] {
            let mut last = None;
            for _ in 0..20 {
                last = ask(&fleet, *port, name);
                if last.as_ref().is_some_and(|answer| dns::rcode(answer) == 0 && answer[3] & 0x20 != 0) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            let answer = last.unwrap_or_else(|| panic!("{port} does not answer {name}: {}", log()));
            assert_eq!(dns::rcode(&answer), 0, "{port} {name}: {}", log());
            assert!(answer[3] & 0x20 != 0, "{port} {name}: AD is not set");
            let text = answer.windows(4).any(|four| four == TOKYO.octets() || four == FRANKFURT.octets());
            assert!(text, "{port} {name}: no site's answer in {answer:?}");
        }
    }
    let races = wait_for("races", Duration::from_secs(5), || Some(fleet.counter("m1", "races")).filter(|n| *n >= 4));
    // Fewer than six: resolvers make further answers from a wildcard that they know (RFC 8198 section 5.3).
    println!("unbound and named: three names each with AD, from {races} races");
    Ok(())
}

fn a_raced_name_that_its_zone_denies_is_refused() -> Result<(), String> {
    for (chain, zone) in [
        (&[][..], ZONE.replace("www A 192.0.2.1\n", "www TXT \"no address\"\n")),
        (&["-3", "-", "-H", "0"], ZONE.replace("*.cdn A 192.0.2.1\n", "")),
    ] {
        let fleet = signed(chain, &zone)?;
        let output = fleet.attempt(&["check", "--config", "m1.toml"]);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains("denies that"), "{said}");
    }
    let fleet = signed(&[], ZONE)?;
    fleet.command(&["check", "--config", "m1.toml"]);
    let text = fs::read_to_string(fleet.path("m1.toml")).expect("the configuration");
    let without: String =
        text.lines().filter(|line| !line.starts_with("keys = ")).map(|line| format!("{line}\n")).collect();
    fs::write(fleet.path("m1.toml"), without).expect("written");
    let output = fleet.attempt(&["check", "--config", "m1.toml"]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("without keys"), "{said}");
    Ok(())
}
