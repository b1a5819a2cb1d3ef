//! A running master is given another configuration: no query is lost, nothing is half applied.

mod support;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::fleet::{FRANKFURT, Fleet, HELD_TOO, Options, PLAIN, RACED, SERVICE, TOKYO, addresses};
use support::{Test, dns, wait_for};

const TESTS: [(&str, Test); 4] = [
    ("a_reload_changes_zones_and_races_and_loses_no_query", a_reload_changes_zones_and_races_and_loses_no_query),
    ("a_faulty_file_changes_nothing_and_says_where", a_faulty_file_changes_nothing_and_says_where),
    ("the_first_raced_names_may_come_with_a_reload", the_first_raced_names_may_come_with_a_reload),
    ("what_needs_a_restart_is_refused_by_name", what_needs_a_restart_is_refused_by_name),
];

/// After this the race is closed, and the same question opens another.
const RACE_OVER: Duration = Duration::from_millis(350);

fn main() -> ExitCode {
    support::main(&TESTS, false)
}

fn edit(fleet: &Fleet, from: &str, to: &str) {
    let path = fleet.path("m1.toml");
    let text = fs::read_to_string(&path).expect("the configuration");
    assert!(text.contains(from), "{from:?} is not in the configuration");
    fs::write(&path, text.replacen(from, to, 1)).expect("written");
}

/// `startgun reload`: whether it succeeded, and what it said.
fn reload(fleet: &Fleet) -> (bool, String) {
    let socket = fleet.path("m1.sock");
    let output = fleet.attempt(&["reload", "--socket", &socket.display().to_string()]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

/// The answer to one query over UDP.
fn ask(fleet: &Fleet, name: &str, rtype: u16) -> Vec<u8> {
    let socket = fleet.client_socket();
    socket.send_to(&dns::query(9, name, rtype), SERVICE).expect("sent");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    let mut buffer = [0; 1_500];
    let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
    buffer[..length].to_vec()
}

fn a_reload_changes_zones_and_races_and_loses_no_query() -> Result<(), String> {
    let fleet = Fleet::racing()?;
    fleet.validate(fleet.client());
    let socket = fleet.client_socket();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // One query at a time, the next as soon as the last is answered: a gap of 100 ms would be a failure.
    let load = std::thread::spawn(move || {
        let (mut asked, mut lost, mut buffer) = (0u32, 0u32, [0; 1_500]);
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        while !flag.load(Ordering::Relaxed) {
            asked += 1;
            socket.send_to(&dns::query(asked as u16, PLAIN, dns::TXT), SERVICE).expect("sent");
            lost += u32::from(socket.recv_from(&mut buffer).is_err());
        }
        (asked, lost)
    });
    for round in 0..5 {
        let (from, to) = if round == 0 {
            ("two hundred bytes".into(), "changed 0".into())
        } else {
            (format!("changed {}", round - 1), format!("changed {round}"))
        };
        edit(&fleet, &from, &to);
        if round == 0 {
            edit(
                &fleet,
                "name = \"too.example.org.\"\ntransmit = \"signal\"\nsignal = \"go\"",
                "name = \"new.example.org.\"",
            );
        }
        let (changed, said) = reload(&fleet);
        assert!(changed && said.contains("raced names: 4"), "{said}");
        let text = ask(&fleet, PLAIN, dns::TXT);
        assert!(String::from_utf8_lossy(&text).contains(&format!("changed {round}")), "at once");
    }
    std::thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    let (asked, lost) = load.join().expect("it ended");
    assert!(asked > 100, "{asked} queries");
    assert_eq!(lost, 0, "of {asked} queries");
    println!("{asked} queries while the configuration changed five times, none lost");
    // Agents have their new playbooks: both sites race for the new name, and go on with the old one.
    for name in ["new.example.org", RACED] {
        wait_for("both sites answer", Duration::from_secs(5), || {
            let answers = addresses(&fleet.ask(name, RACE_OVER));
            (answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT))).then_some(())
        });
    }
    assert_eq!(dns::rcode(&ask(&fleet, HELD_TOO, dns::A)), 3, "no more");
    Ok(())
}

fn a_faulty_file_changes_nothing_and_says_where() -> Result<(), String> {
    let mut fleet = Fleet::racing()?;
    fleet.validate(fleet.client());
    edit(&fleet, "text 3600 IN TXT", "text 3600 IN TXTT");
    let (changed, said) = reload(&fleet);
    assert!(!changed);
    assert!(said.contains("m1.toml:") && said.contains("TXTT"), "{said}");
    assert!(dns::rcode(&ask(&fleet, PLAIN, dns::TXT)) == 0, "the old zone is served");
    fleet.signal("m1", Signal::SIGHUP);
    wait_for("the log tells of the fault", Duration::from_secs(5), || {
        let log = fleet.log("m1");
        (log.matches("was not reloaded").count() == 2 && log.contains("TXTT")).then_some(())
    });
    edit(&fleet, "text 3600 IN TXTT", "mended 3600 IN TXT");
    fleet.signal("m1", Signal::SIGHUP);
    wait_for("the new zone is served", Duration::from_secs(5), || {
        (dns::rcode(&ask(&fleet, "mended.example.org", dns::TXT)) == 0).then_some(())
    });
    assert_eq!(dns::rcode(&ask(&fleet, PLAIN, dns::TXT)), 3);
    assert_eq!(fleet.racing_agents().len(), 2, "nobody stood down");
    Ok(())
}

/// Without raced names a master neither stamps queries nor watches for self-tests; with the first it does both.
fn the_first_raced_names_may_come_with_a_reload() -> Result<(), String> {
    let mut fleet = Fleet::new(&Options::default())?;
    let whole = fs::read_to_string(fleet.path("m1.toml")).expect("the configuration");
    let races = whole.find("[[race]]").expect("raced names");
    fleet.write("m1.toml", &whole[..races]);
    fleet.start_master();
    fleet.start("tokyo");
    fleet.start("frankfurt");
    assert_eq!(dns::rcode(&ask(&fleet, RACED, dns::A)), 3, "not yet");
    // The agents' first self-tests find nobody who watches.
    std::thread::sleep(Duration::from_secs(2));
    fleet.write("m1.toml", &whole);
    let (changed, said) = reload(&fleet);
    assert!(changed && said.contains("raced names: 4"), "{said}");
    fleet.wait_until_racing(&["frankfurt", "tokyo"]);
    fleet.validate(fleet.client());
    wait_for("both sites answer", Duration::from_secs(5), || {
        let answers = addresses(&fleet.ask(RACED, RACE_OVER));
        (answers.contains(&Some(TOKYO)) && answers.contains(&Some(FRANKFURT))).then_some(())
    });
    Ok(())
}

fn what_needs_a_restart_is_refused_by_name() -> Result<(), String> {
    let fleet = Fleet::racing()?;
    edit(&fleet, "http_listen = \"127.0.0.1:9530\"", "http_listen = \"127.0.0.1:9531\"");
    edit(&fleet, "text 3600 IN TXT \"two", "text 3600 IN TXT \"three");
    let (changed, said) = reload(&fleet);
    assert!(!changed && said.contains("changed http_listen: that needs a restart"), "{said}");
    assert!(String::from_utf8_lossy(&ask(&fleet, PLAIN, dns::TXT)).contains("two hundred"), "nothing is half applied");
    let output = fleet.attempt(&["reload", "--socket", &fleet.path("tokyo.sock").display().to_string()]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("ask its master"), "{said}");
    Ok(())
}
