//! Debian's chrony, which steers nothing here: every chronyd gets `-x`.
//!
//! Its files are in a directory of its own below the scratch directory, never in `/etc/chrony` or `/run/chrony`.

use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use startgun_lab::process::Process;

use crate::hosts::{Host, Lane, Poll};
use crate::support::wait_for;

/// Where `scripts/bench-deps` unpacks chrony.
const UNPACKED: &str = "/var/cache/startgun/deps/chrony";

/// The programs.
pub struct Chrony {
    daemon: PathBuf,
    control: PathBuf,
    /// Where libraries were unpacked beside them.
    libraries: Option<OsString>,
    version: String,
}

impl fmt::Display for Chrony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chrony {} ({} -x)", self.version, self.daemon.display())
    }
}

impl Chrony {
    /// Finds it, unpacked or installed.
    ///
    /// # Errors
    /// A sentence that says how to get it.
    pub fn find() -> Result<Self, String> {
        let unpacked = std::env::var_os("STARTGUN_DEPS_DIR")
            .map(|directory| PathBuf::from(directory).join("chrony"))
            .into_iter()
            .chain([PathBuf::from(UNPACKED)]);
        for root in unpacked.chain([PathBuf::from("/")]) {
            let (daemon, control) = (root.join("usr/sbin/chronyd"), root.join("usr/bin/chronyc"));
            let libraries = if root == FilePath::new("/") { None } else { library_path(&root) };
            let mut found = Chrony { daemon, control, libraries, version: String::new() };
            let output = found.command(&found.daemon).arg("-v").stdin(Stdio::null()).output();
            let Ok(output) = output else { continue };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = text.split("version ").nth(1).and_then(|rest| rest.split_whitespace().next());
            if let Some(version) = version {
                version.clone_into(&mut found.version);
                return Ok(found);
            }
        }
        Err(format!(
            "no chrony in {UNPACKED} or /usr/sbin; `scripts/bench-deps` unpacks Debian's, as root, and starts nothing"
        ))
    }

    fn command(&self, program: &FilePath) -> Command {
        let mut command = Command::new(program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Starts a server on `host` that serves the system's time and corrects nothing.
    pub fn serve(&self, directory: &FilePath, lane: &Lane, host: Host<'_>) -> Result<Process, String> {
        let own = directory.join(format!("{}-server", lane.id()));
        self.start(&own, &format!("local stratum 1\nallow\nbindaddress {}\n", host.ipv4()), host)
    }

    /// Starts a client on `host` that follows `server`, and a reader of its time.
    pub fn follow(
        &self,
        directory: &FilePath,
        lane: &Lane,
        poll: Poll,
        host: Host<'_>,
        server: Ipv4Addr,
    ) -> Result<Client, String> {
        let own = directory.join(format!("{}-{}", lane.id(), poll.name()));
        let (fastest, _) = lane.path.fastest_poll();
        let rate = match poll {
            Poll::Equal => format!("minpoll {fastest} maxpoll {fastest}"),
            Poll::Own => "iburst".to_owned(),
        };
        // chrony's measured offset is half of (to the server − from it); `offset` is added to it.
        let correction = lane.path.configured_ms().map_or_else(String::new, |(to_server, from_server)| {
            format!(" offset {:.6}", (from_server - to_server) / 2.0 / 1e3)
        });
        let process = self.start(&own, &format!("server {server} {rate} xleave{correction}\nport 0\n"), host)?;
        let socket = own.join("chronyd.sock");
        wait_for("chronyd's command socket", Duration::from_secs(10), || socket.exists().then_some(()));
        let mut reader = self
            .command(&self.control)
            .arg("-c")
            .arg("-h")
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting chronyc: {error}"))?;
        let (Some(questions), Some(answers)) = (reader.stdin.take(), reader.stdout.take()) else {
            return Err("chronyc has no pipes".into());
        };
        Ok(Client { questions: Some(questions), answers: BufReader::new(answers), reader, _process: process })
    }

    fn start(&self, own: &FilePath, configuration: &str, host: Host<'_>) -> Result<Process, String> {
        let fault = |error: std::io::Error| format!("{}: {error}", own.display());
        // chronyd refuses a command socket in a directory that others may enter.
        DirBuilder::new().recursive(true).mode(0o700).create(own).map_err(fault)?;
        let path = own.display();
        let file = own.join("chrony.conf");
        let text = format!(
            "{configuration}user root\ncmdport 0\nbindcmdaddress {path}/chronyd.sock\npidfile {path}/chronyd.pid\n"
        );
        std::fs::write(&file, text).map_err(fault)?;
        let mut command = self.command(&self.daemon);
        command.args(["-x", "-d", "-f"]).arg(&file).stdout(Stdio::null());
        command.stderr(File::create(own.join("log")).map_err(fault)?);
        host.spawn(command).map_err(|error| format!("starting chronyd: {error}"))
    }
}

/// What `LD_LIBRARY_PATH` must be for what was unpacked below `root`: one directory per architecture.
fn library_path(root: &FilePath) -> Option<OsString> {
    let bases = ["usr/lib", "lib"].map(|base| root.join(base));
    let entries = bases.iter().filter_map(|base| std::fs::read_dir(base).ok()).flatten().flatten();
    let directories = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    std::env::join_paths(directories).ok().filter(|joined| !joined.is_empty())
}

/// A following chronyd.
pub struct Client {
    /// Dropped first, which ends the reader.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    reader: Child,
    _process: Process,
}

impl Client {
    /// What chrony would add to the system's time now, in nanoseconds; `None` while it is not synchronised.
    pub fn correction_ns(&mut self) -> Result<Option<f64>, String> {
        let questions = self.questions.as_mut().ok_or("its reader has ended")?;
        questions.write_all(b"tracking\n").and_then(|()| questions.flush()).map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        // Reference id, its address, stratum, its time, system time, …, leap status.
        let fields: Vec<&str> = line.trim().split(',').collect();
        let (Some(system_time), Some(leap_status)) = (fields.get(4), fields.get(13)) else {
            return Err(format!("chronyc tracking: found {line:?}, expected 14 fields"));
        };
        if *leap_status == "Not synchronised" {
            return Ok(None);
        }
        let seconds: f64 = system_time.parse().map_err(|_| format!("chronyc tracking: found {system_time:?}"))?;
        Ok(Some(seconds * 1e9))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.reader.wait();
    }
}
