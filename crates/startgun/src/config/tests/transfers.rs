//! What is said about keys, primaries and access lists, and what becomes of a secondary's copy.

use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::*;

const KEYS: &str = "[[tsig_key]]\nname = \"k.test.\"\nsecret_file = \"secret\"\n\n[[zone]]";
const RECORDS: &str = "records = \"\"\"\n@ SOA ns hostmaster 1 7200 900 1209600 60\n@ NS ns\nns A 203.0.113.53\n\
                       mail A 192.0.2.25\nchild NS ns.child\nns.child A 192.0.2.9\n\"\"\"";
const PRIMARIES: &str = "primaries = [{ address = \"192.0.2.53\", key = \"k.test.\" }]";

/// A directory with a secret in it.
fn scratch() -> ScratchDir {
    let scratch = ScratchDir::new();
    for (file, text) in [("secret", "MDEyMzQ1Njc4OWFiY2RlZg==\n"), ("short", "MDEyMzQ1Njc4OWFiY2Rl"), ("none", "@@@")] {
        let path = scratch.path().join(file);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
    }
    scratch
}

/// What is said about a text in that directory.
fn said_in(scratch: &ScratchDir, text: &str) -> String {
    let said = match check_text(&scratch.path().join("f.toml"), text, false) {
        Ok(summary) => summary.to_string(),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    said.replace(&format!("{}/", scratch.path().display()), "")
}

fn master() -> String {
    assert!(MASTER.contains(RECORDS));
    MASTER.replace("[[zone]]", KEYS).replace(RECORDS, &format!("{RECORDS}\n{{zone}}"))
}

#[test]
fn transfers_are_refused_in_these_words() {
    let scratch = scratch();
    let key = |from: &str, to: &str| master().replace("{zone}", "").replacen(from, to, 1);
    let own = |line: &str| master().replace("{zone}", line);
    let from = |line: &str| MASTER.replace("[[zone]]", KEYS).replace(RECORDS, line);
    let secret = "one line of base64, of 16 to 128 bytes, as `openssl rand -base64 32` makes it";
    let peer = "an IP address, with a port where it is not 53, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
    let cases = [
        (key("\"secret\"", "\"short\""), format!("f.toml:16:15: tsig_key[0].secret_file: found short with 15 bytes, expected {secret}")),
        (key("\"secret\"", "\"none\""), format!("f.toml:16:15: tsig_key[0].secret_file: found none, which is no base64, expected {secret}")),
        (
            key("secret_file", "algorithm = \"md5\"\nsecret_file"),
            "f.toml:16:13: tsig_key[0].algorithm: found \"md5\", expected \"hmac-sha256\" or \"hmac-sha384\" or \"hmac-sha512\" or \"hmac-sha1\"".into(),
        ),
        (
            own("transfer_to = [{ key = \"l.test\" }]"),
            "f.toml:28:24: zone[0].transfer_to[0].key: found l.test., which is the name of no sound TSIG key, expected the name of a [[tsig_key]]".into(),
        ),
        (
            own("transfer_to = [{}]"),
            "f.toml:28:16: zone[0].transfer_to[0]: found neither network nor key, expected at least one of the two: everybody is nobody's secondary".into(),
        ),
        (
            own("transfer_to = [{ network = \"192.0.2.1/24\" }]"),
            "f.toml:28:28: zone[0].transfer_to[0].network: found \"192.0.2.1/24\", expected an IP address or a prefix without further bits, such as \"192.0.2.0/24\" or \"2001:db8::/32\"".into(),
        ),
        (own("notify = [{ address = \"ns.example.org\" }]"), format!("f.toml:28:23: zone[0].notify[0].address: found \"ns.example.org\", expected {peer}")),
        (own(PRIMARIES), "f.toml:20:11: zone[0].records: found records beside primaries, expected one of records, file and primaries".into()),
        (
            from("primaries = [{ address = \"203.0.113.53\" }]"),
            "f.toml:20:26: zone[0].primaries[0].address: found 203.0.113.53:53, which is this master's own, expected another server's address".into(),
        ),
        (
            from("primaries = [{ address = \"192.0.2.1\" }, { address = \"192.0.2.1:53\" }]"),
            "f.toml:20:53: zone[0].primaries[1].address: found 192.0.2.1:53 for the second time, expected each once".into(),
        ),
        (
            from("primaries = []"),
            "f.toml:20:13: zone[0].primaries: found no primary, expected at least one, or records or file instead of primaries".into(),
        ),
    ];
    let mut wrong = String::new();
    for (text, expected) in cases {
        let found = said_in(&scratch, &text);
        if found != expected {
            wrong += &format!("\n--- expected\n{expected}\n--- found\n{found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    fs::set_permissions(scratch.path().join("secret"), fs::Permissions::from_mode(0o644)).expect("set");
    let warned = said_in(&scratch, &from(PRIMARIES));
    assert!(warned.contains("secret, which everybody may read, expected a file of mode 0640 or less"), "{warned}");
    assert!(!warned.contains("MDEy"), "{warned}");
}

#[test]
fn a_copy_is_served_while_it_is_good() {
    let scratch = scratch();
    let text = MASTER
        .replace("[[zone]]", KEYS)
        .replace(RECORDS, PRIMARIES)
        .replace("\n\n[fleet]", "\nstate_dir = \"state\"\n\n[fleet]");
    let apex: CanonicalName = "example.org".parse().expect("a name");
    let copies = Copies::new(&scratch.path().join("state"));
    let records = || {
        let read = read(&scratch.path().join("f.toml"), &text, false, None, master::read);
        let config = read.map_err(|faults| faults[0].to_string()).expect("sound").config;
        let policy = &config.service.transfers.zones[&apex];
        assert_eq!(policy.primaries[0].address, "192.0.2.53:53".parse().expect("an address"));
        assert_eq!(policy.primaries[0].key.as_ref().expect("a key").name().to_string(), "k.test.");
        let zone = config.service.zones.zone(apex.as_bytes()).expect("a zone");
        zone.has_data().then(|| zone.records().count())
    };
    assert_eq!(records(), None, "no copy");
    fs::create_dir_all(copies.directory()).expect("made");
    let path = copies.path(&apex);
    assert_eq!(path, scratch.path().join("state/zones/example.org.zone"));
    fs::write(&path, "@ 60 SOA ns h 1 2 3 1000 5\n@ 60 NS ns\nns 60 A 192.0.2.1\n").expect("written");
    assert_eq!(records(), Some(3));
    let aged = |seconds| {
        let at = SystemTime::now() - std::time::Duration::from_secs(seconds);
        fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(at)).expect("set");
    };
    aged(990);
    assert_eq!(records(), Some(3));
    aged(1_001);
    assert_eq!(records(), None, "expired");
    fs::write(&path, "@ 60 SOA ns h 1 2 3 1000 5\n@ 60 NS ns\nns 60 A x\n").expect("written");
    assert_eq!(records(), None, "faulty");
    assert!(said_in(&scratch, &text).contains("expected a sound one; it is transferred anew"));
}

#[test]
fn copies_of_any_zone_have_files_of_their_own() {
    let copies = Copies::new(Path::new("/s"));
    let long = format!("{0}.{0}.{0}", "a".repeat(63));
    let odd = format!("{0}.{0}.{0}", "\\000".repeat(63));
    let mut names: Vec<String> = [".", "example.org", "a\\.b.org", "..\\/x", "%.org", "%2e.org", &long, &odd]
        .iter()
        .filter_map(|name| name.parse::<CanonicalName>().ok())
        .map(|name| copies.path(&name).display().to_string())
        .collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in &names {
        let file = name.strip_prefix("/s/zones/").expect("below the directory");
        assert!(!file.contains('/') && file.len() <= 255 && !file.starts_with('.'), "{name}");
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}
