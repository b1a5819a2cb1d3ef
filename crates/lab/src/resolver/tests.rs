//! What `prepare` does before anything runs; `tests/resolvers.rs` runs the resolvers.

use super::*;

const SERVER: &str = "198.51.100.53:53";

struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("startgun-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a temporary directory");
        Self(path)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn prepare_true(kind: ResolverKind, dir: &Path, zone: &str, confined: bool) -> io::Result<Launch> {
    let server = SERVER.parse().expect("an address");
    prepare_confined(kind, Path::new("/bin/true"), dir, zone, server, confined)
}

#[test]
fn names_are_those_of_the_report() {
    let names = ["unbound", "bind", "kresd", "pdns", "dnsmasq", "resolved", "builtin"];
    for name in names {
        let kind = ResolverKind::named(name).expect("a known name");
        assert_eq!(kind.to_string(), name);
        let json = serde_json::to_string(&kind).expect("a unit variant");
        assert_eq!(json, format!("{name:?}"));
        assert_eq!(serde_json::from_str::<ResolverKind>(&json).ok(), Some(kind));
    }
    assert_eq!(ResolverKind::named("Unbound"), None);
}

#[test]
fn a_zone_that_would_not_stay_one_word_is_refused() {
    let dir = TemporaryDirectory::new("zone");
    let too_long = format!("{}.test.", "a.".repeat(130));
    for zone in ["", ".", "a..test.", "cdn test.", "x\";}", "a\nb", "ü.test", &too_long] {
        let error = prepare_true(ResolverKind::Bind, &dir.0, zone, false).expect_err(zone);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{zone:?}");
    }
    assert_eq!(fs::read_dir(&dir.0).expect("our own").count(), 0);
    for zone in ["cdn.test", "cdn.test."] {
        prepare_true(ResolverKind::Unbound, &dir.0, zone, false).expect(zone);
        let text = fs::read_to_string(dir.0.join("unbound.conf")).expect("a configuration");
        assert!(text.contains("name: \"cdn.test.\""), "{text}");
    }
}

#[test]
fn what_cannot_be_started_is_said_before_it_is() {
    let dir = TemporaryDirectory::new("start");
    let server = SERVER.parse().expect("an address");
    let error = prepare_true(ResolverKind::Builtin, &dir.0, "cdn.test.", false).expect_err("no program");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let absent = dir.0.join("absent");
    let error = prepare(ResolverKind::Bind, &absent, &dir.0, "cdn.test.", server).expect_err("no such file");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("absent"), "{error}");
}

#[test]
fn a_program_with_a_profile_is_copied_where_profiles_are_enforced() {
    let dir = TemporaryDirectory::new("profile");
    let canonical = fs::canonicalize(&dir.0).expect("our own");
    for (kind, confined, is_copied) in [
        (ResolverKind::Unbound, true, true),
        (ResolverKind::Bind, true, true),
        (ResolverKind::Unbound, false, false),
        (ResolverKind::KnotResolver, true, false),
    ] {
        let launch = prepare_true(kind, &dir.0, "cdn.test.", confined).expect("a launch");
        let program = launch
            .command
            .get_args()
            .map(Path::new)
            .find(|argument| argument.is_absolute())
            .expect("the program's path");
        assert_eq!(program.starts_with(&canonical), is_copied, "{kind} {confined}");
        // The copy can be run: "true" ends well whatever its arguments.
        let status = Command::new(program).status().expect("it starts");
        assert!(status.success());
    }
}
