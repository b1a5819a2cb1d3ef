//! Who keeps the kernel's clock: only a daemon that writes a true `maxerror` makes it a bound.
//!
//! | process | keeps count |
//! |---|---|
//! | `chronyd`, unless `-x` (steers nothing) or `-q`, `-Q` (ends at once) | yes |
//! | `ntpd` of NTP and NTPsec | yes |
//! | `ntpd` of OpenNTPD, `systemd-timesyncd` | no: 0 at each update, and the kernel counts on from there |
//!
//! One that does not keep count spoils the clock for one that does. In a container the daemon is mostly outside of what
//! /proc shows; then nobody is known, and the operator may state a bound.

use super::Unusable;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How long a keeper that was found is believed to run before its process is looked at again.
const RECHECK_NS: i64 = 5_000_000_000;
/// How long until all processes are looked at again, where a keeper is there. A search takes some 10 µs a process.
const SEARCH_NS: i64 = 60_000_000_000;
/// How long where none is.
const SEARCH_IN_VAIN_NS: i64 = 10_000_000_000;
/// Most processes looked at: twice the kernel's default greatest pid, 1 s of search.
const PROCESSES_MAX: usize = 65_536;
/// Bytes of a command line that are read: daemons' are much shorter.
const COMMAND_BYTES_MAX: u64 = 4_096;

/// A process that concerns the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Concerned {
    /// Keeps count; its directory in /proc.
    Keeper(PathBuf),
    /// Does not; its name.
    Spoiler(&'static str),
}

/// The daemons of this host, as last seen.
#[derive(Debug)]
pub(super) struct Owners {
    root: PathBuf,
    /// What was found, when all processes were looked at, when the keeper was looked at.
    seen: Option<(Result<PathBuf, Unusable>, i64, i64)>,
}

impl Owners {
    /// The daemons below `root`: /proc.
    pub fn new(root: &Path) -> Self {
        Owners { root: root.to_owned(), seen: None }
    }

    /// Whether somebody who keeps count keeps the clock.
    ///
    /// # Errors
    /// Who else does, or that nobody does.
    pub fn check(&mut self, now_raw_ns: i64) -> Result<(), Unusable> {
        let found = match self.seen.take() {
            Some((Ok(keeper), searched, looked)) if now_raw_ns - looked < RECHECK_NS => (Ok(keeper), searched, looked),
            Some((Ok(keeper), searched, _)) if now_raw_ns - searched < SEARCH_NS && is_keeper(&keeper) => {
                (Ok(keeper), searched, now_raw_ns)
            }
            Some((Err(reason), searched, looked)) if now_raw_ns - searched < SEARCH_IN_VAIN_NS => {
                (Err(reason), searched, looked)
            }
            _ => (search(&self.root), now_raw_ns, now_raw_ns),
        };
        let outcome = found.0.as_ref().map(|_| ()).map_err(Clone::clone);
        self.seen = Some(found);
        outcome
    }
}

fn is_keeper(process: &Path) -> bool {
    matches!(concerned(process), Some(Concerned::Keeper(_)))
}

/// Looks at all processes: the directory of one that keeps count, where none is there that does not.
fn search(root: &Path) -> Result<PathBuf, Unusable> {
    let mut keeper = Err(Unusable::NoOwner);
    let Ok(entries) = fs::read_dir(root) else { return keeper };
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = entries.flatten().filter(|entry| is_process(&entry.file_name())).take(PROCESSES_MAX);
    for process in processes {
        match concerned(&process.path()) {
            Some(Concerned::Spoiler(name)) => return Err(Unusable::Uncounted(name)),
            Some(Concerned::Keeper(path)) => keeper = Ok(path),
            None => {}
        }
    }
    keeper
}

/// What the process in this directory has to do with the clock. One that has just ended has nothing to do with it.
fn concerned(process: &Path) -> Option<Concerned> {
    // The kernel cuts names to 15 bytes.
    let name = bounded(&process.join("comm"))?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    if name == b"systemd-timesyn" {
        return Some(Concerned::Spoiler("systemd-timesyncd"));
    }
    if name != b"chronyd" && name != b"ntpd" {
        return None;
    }
    let command = bounded(&process.join("cmdline"))?;
    // Nothing: a process that has ended and was not waited for.
    let arguments: Vec<&[u8]> = command.split(|byte| *byte == 0).filter(|argument| !argument.is_empty()).collect();
    let (program, arguments) = arguments.split_first()?;
    if name == b"chronyd" {
        return steers(arguments).then(|| Concerned::Keeper(process.to_owned()));
    }
    // OpenNTPD's children call themselves "ntpd: ntp engine"; its configuration has its name.
    let is_open = program.starts_with(b"ntpd: ") || command.windows(8).any(|part| part == b"openntpd");
    let is_busybox = program.ends_with(b"busybox");
    match (is_open, is_busybox) {
        (true, _) => Some(Concerned::Spoiler("OpenNTPD")),
        (false, true) => None,
        (false, false) => Some(Concerned::Keeper(process.to_owned())),
    }
}

/// Whether a chronyd with these arguments steers the clock, and stays.
fn steers(arguments: &[&[u8]]) -> bool {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(flags) = argument.strip_prefix(b"-").filter(|flags| !flags.starts_with(b"-")) else { continue };
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b'x' | b'q' | b'Q' => return false,
                // The rest is this flag's value, or the next argument is (chronyd(8)).
                b'f' | b'F' | b'l' | b'L' | b'P' | b't' | b'u' => {
                    if at + 1 == flags.len() {
                        arguments.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    true
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(COMMAND_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc of a test, removed at its end.
    struct FakeProc(PathBuf);

    impl FakeProc {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("startgun-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(root.join("sys")).expect("made");
            FakeProc(root)
        }

        fn add(&self, pid: u32, name: &str, command: &[&str]) {
            let directory = self.0.join(pid.to_string());
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join("comm"), format!("{name}\n")).expect("written");
            let command: String = command.iter().map(|argument| format!("{argument}\0")).collect();
            fs::write(directory.join("cmdline"), command).expect("written");
        }

        fn remove(&self, pid: u32) {
            fs::remove_dir_all(self.0.join(pid.to_string())).expect("removed");
        }

        fn found(&self) -> Result<(), Unusable> {
            Owners::new(&self.0).check(0)
        }
    }

    impl Drop for FakeProc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_daemons_that_keep_count_are_keepers() {
        let (kept, nobody) = (Ok(()), Err(Unusable::NoOwner));
        let spoiled = |name| Err(Unusable::Uncounted(name));
        let cases: [(&str, &[&str], Result<(), Unusable>); 16] = [
            ("chronyd", &["/usr/sbin/chronyd", "-F", "1"], kept.clone()),
            ("chronyd", &["/usr/sbin/chronyd", "-x"], nobody.clone()),
            ("chronyd", &["/usr/sbin/chronyd", "-F", "1", "-4x"], nobody.clone()),
            ("chronyd", &["chronyd", "-f", "-x.conf", "-nu", "root"], kept.clone()),
            ("chronyd", &["chronyd", "-fx.conf"], kept.clone()),
            ("chronyd", &["chronyd", "-q", "server x iburst"], nobody.clone()),
            ("chronyd", &[], nobody.clone()),
            ("ntpd", &["/usr/sbin/ntpd", "-p", "/run/ntpd.pid", "-g"], kept.clone()),
            ("ntpd", &["/usr/sbin/ntpd", "-f", "/etc/openntpd/ntpd.conf"], spoiled("OpenNTPD")),
            ("ntpd", &["ntpd: ntp engine"], spoiled("OpenNTPD")),
            ("ntpd", &["/bin/busybox", "ntpd"], nobody.clone()),
            ("systemd-timesyn", &["/usr/lib/systemd/systemd-timesyncd"], spoiled("systemd-timesyncd")),
            ("phc2sys", &["phc2sys", "-a"], nobody.clone()),
            ("chronyd-helper", &["chronyd"], nobody.clone()),
            ("ntp-daemon", &["/usr/bin/ntp-daemon"], nobody.clone()),
            ("bash", &["bash", "chronyd"], nobody),
        ];
        for (place, (name, command, expected)) in cases.into_iter().enumerate() {
            let root = FakeProc::new(&format!("owner-{place}"));
            root.add(1, "init", &["init"]);
            root.add(4_711, name, command);
            assert_eq!(root.found(), expected, "{name} {command:?}");
        }
    }

    #[test]
    fn one_that_keeps_no_count_spoils_it() {
        let root = FakeProc::new("spoiler");
        root.add(10, "chronyd", &["chronyd"]);
        root.add(11, "systemd-timesyn", &["systemd-timesyncd"]);
        root.add(12, "chronyd", &["chronyd"]);
        assert_eq!(root.found(), Err(Unusable::Uncounted("systemd-timesyncd")));
        assert_eq!(Owners::new(&root.0.join("missing")).check(0), Err(Unusable::NoOwner));
    }

    #[test]
    fn comings_and_goings_are_noticed_in_time() {
        const S: i64 = 1_000_000_000;
        let root = FakeProc::new("comings");
        let mut owners = Owners::new(&root.0);
        assert_eq!(owners.check(0), Err(Unusable::NoOwner));
        root.add(10, "chronyd", &["chronyd"]);
        assert_eq!(owners.check(9 * S), Err(Unusable::NoOwner), "not looked for yet");
        assert_eq!(owners.check(10 * S), Ok(()));
        root.remove(10);
        assert_eq!(owners.check(14 * S), Ok(()), "not looked at yet");
        assert_eq!(owners.check(15 * S), Err(Unusable::NoOwner));
        // Restarted under another number, with a search in between.
        root.add(20, "chronyd", &["chronyd"]);
        assert_eq!(owners.check(25 * S), Ok(()));
        root.remove(20);
        root.add(21, "chronyd", &["chronyd"]);
        assert_eq!(owners.check(31 * S), Ok(()));
        root.add(30, "systemd-timesyn", &["systemd-timesyncd"]);
        assert_eq!((31..90).step_by(5).filter(|s| owners.check(s * S).is_ok()).count(), 12);
        assert_eq!(owners.check(91 * S), Err(Unusable::Uncounted("systemd-timesyncd")));
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p startgun-net -- --ignored --nocapture searching"]
    fn searching_costs() {
        let processes =
            fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| entry.path().join("comm").exists());
        let processes = processes.count();
        let begin = std::time::Instant::now();
        let found: Vec<_> = (0..100).map(|_| search(Path::new("/proc"))).collect();
        println!("{processes} processes in {:?}: {:?}", begin.elapsed() / 100, found[0]);
    }
}
