//! What the tests share that run the real programs on hosts of their own.
//!
//! Network namespaces can only be entered while a process has a single thread, which libtest does not leave it. So these
//! test programs have their own `main`: it starts itself again, and that child enters the namespaces and runs the tests,
//! one after the other. A test returns `Err(reason)` where something that it needs is missing here.
#![allow(dead_code, reason = "every test program uses its own part")]

pub mod dns;
pub mod fleet;
pub mod network;
pub mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use startgun_lab::namespace::enter_user_namespace_if_needed;

/// Tells a child process that it is one, and which tests it is to run (a part of their names).
const PART: &str = "STARTGUN_TEST_PART";
/// Where a child that runs without rights finds the program.
const PROGRAM: &str = "STARTGUN_TEST_PROGRAM";
/// Any uid but 0 is an ordinary user's; this is "nobody" on most systems.
const ORDINARY_USER: &str = "65534";

/// A test: passes, panics, or says why it cannot run here.
pub type Test = fn() -> Result<(), String>;

/// Runs the tests as whoever runs this and, where `ordinary` is set and that is root, as an ordinary user once more.
pub fn main(tests: &[(&str, Test)], ordinary: bool) -> ExitCode {
    if let Ok(filter) = std::env::var(PART) {
        return inside(tests, &filter);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filter = filter(&arguments);
    let mut tally = Tally::default();
    if tests.iter().any(|(name, _)| name.contains(&filter)) {
        let is_root = nix::unistd::geteuid().is_root();
        tally.run_part(if is_root { "as_root" } else { "as_this_user" }, this_test(), &filter);
        if is_root && ordinary {
            match ordinary_user() {
                Ok((command, _copies)) => tally.run_part("as_ordinary_user", command, &filter),
                Err(reason) => tally.skip("as_ordinary_user", &reason),
            }
        }
    }
    tally.finish()
}

/// The first argument that is neither an option nor an option's value, as libtest would take it.
fn filter(arguments: &[String]) -> String {
    const WITH_VALUE: [&str; 4] = ["--color", "--format", "--test-threads", "--skip"];
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            return word.clone();
        }
    }
    String::new()
}

fn this_test() -> Command {
    Command::new(std::env::current_exe().expect("a test knows its own path"))
}

fn inside(tests: &[(&str, Test)], filter: &str) -> ExitCode {
    if let Err(error) = enter_user_namespace_if_needed() {
        println!("SKIP everything: {error}");
        return ExitCode::SUCCESS;
    }
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(test));
        let took = started.elapsed().as_secs_f64();
        match result {
            Ok(Ok(())) => println!("PASS {name} {took:.1} s"),
            Ok(Err(reason)) => println!("SKIP {name}: {reason}"),
            Err(_) => println!("FAIL {name} {took:.1} s"),
        }
    }
    println!("DONE");
    ExitCode::SUCCESS
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

    /// Runs the tests in a child process and counts its lines.
    fn run_part(&mut self, user: &str, mut command: Command, filter: &str) {
        let child = command.env(PART, filter).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = match child {
            Ok(output) => output,
            Err(error) => return self.skip(user, &format!("cannot start the child: {error}")),
        };
        let mut done = false;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (verdict, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (name, took) = rest.split_once(' ').unwrap_or((rest, ""));
            match verdict {
                "PASS" => {
                    println!("test {user}::{name} ... ok ({took})");
                    self.passed += 1;
                }
                "FAIL" => {
                    println!("test {user}::{name} ... FAILED ({took})");
                    self.failed += 1;
                }
                "SKIP" => {
                    let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
                    self.skip(&format!("{user}::{name}"), reason);
                    done |= name == "everything";
                }
                _ if line == "DONE" => done = true,
                _ => println!("{line}"),
            }
        }
        if !done {
            println!("test {user} ... FAILED: ended before all tests had run: {}", output.status);
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

/// Copies of this test and of the program that everybody may read, and the command that runs it without any rights.
fn ordinary_user() -> Result<(Command, Scratch), String> {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let test = scratch.path().join("test");
    let copy_of_program = scratch.path().join("startgun");
    std::fs::copy(std::env::current_exe().map_err(|error| error.to_string())?, &test)
        .map_err(|error| error.to_string())?;
    std::fs::copy(program(), &copy_of_program).map_err(|error| error.to_string())?;
    for path in [scratch.path(), &test, &copy_of_program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
    }
    let drop_rights = |program: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--clear-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .env(PROGRAM, &copy_of_program)
            .current_dir("/");
        command
    };
    let works = drop_rights(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if works { Ok((drop_rights(&test), scratch)) } else { Err("setpriv cannot become an ordinary user here".into()) }
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os(PROGRAM).map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_startgun")), PathBuf::from)
}

/// The root of the source tree.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A directory that goes when the test does.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        let unique = startgun_net::host_clock::raw_ns();
        let path = std::env::temp_dir().join(format!("sg-test-{}-{unique}", std::process::id()));
        std::fs::create_dir(&path).expect("a temporary directory");
        Scratch(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Asks until there is an answer; panics with `what` after `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
