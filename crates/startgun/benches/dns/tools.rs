//! Debian's programs: three servers, a load generator, a signer of zones.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `scripts/bench-deps` unpacks them.
const UNPACKED: &str = "/var/cache/startgun/deps/dns";

/// One program.
pub struct Tool {
    path: PathBuf,
    /// Where libraries were unpacked beside it.
    libraries: Option<OsString>,
    /// As it says.
    pub version: String,
}

/// All of them.
pub struct Tools {
    pub knot: Tool,
    pub nsd: Tool,
    pub gdnsd: Tool,
    pub dnsperf: Tool,
    pub keygen: Tool,
    pub signzone: Tool,
}

impl Tools {
    /// Finds them, unpacked or installed.
    ///
    /// # Errors
    /// A sentence that says which one is missing and how to get it.
    pub fn find() -> Result<Self, String> {
        Ok(Tools {
            knot: Tool::find("usr/sbin/knotd", "-V")?,
            nsd: Tool::find("usr/sbin/nsd", "-v")?,
            gdnsd: Tool::find("usr/sbin/gdnsd", "-V")?,
            dnsperf: Tool::find("usr/bin/dnsperf", "-h")?,
            keygen: Tool::find("usr/bin/ldns-keygen", "-v")?,
            signzone: Tool::find("usr/bin/ldns-signzone", "-v")?,
        })
    }
}

impl Tool {
    /// A program whose output to `option` has its version.
    fn find(program: &str, option: &str) -> Result<Self, String> {
        let unpacked = std::env::var_os("STARTGUN_DEPS_DIR")
            .map(|directory| PathBuf::from(directory).join("dns"))
            .into_iter()
            .chain([PathBuf::from(UNPACKED)]);
        for root in unpacked.chain([PathBuf::from("/")]) {
            let libraries = if root == Path::new("/") { None } else { library_path(&root) };
            let mut found = Tool { path: root.join(program), libraries, version: String::new() };
            let Ok(output) = found.command().arg(option).stdin(Stdio::null()).output() else { continue };
            // Some say it on the one, some on the other, and not all of them think that they succeeded.
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase();
            let version = text.split("version ").nth(1).and_then(|rest| rest.split([' ', '\n', ')']).next());
            if let Some(version) = version {
                version.clone_into(&mut found.version);
                return Ok(found);
            }
        }
        Err(format!(
            "no {program} in {UNPACKED} or /; `scripts/bench-deps dns` unpacks Debian's, as root, and starts nothing"
        ))
    }

    /// The program, to be given arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Runs it to its end; what it wrote to standard output.
    ///
    /// # Errors
    /// A sentence with what it wrote to standard error.
    pub fn run(&self, command: &mut Command) -> Result<String, String> {
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", self.path.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("{}: {}: {said}", self.path.display(), output.status))
    }
}

/// What `LD_LIBRARY_PATH` must be for what was unpacked below `root`: one directory per architecture.
fn library_path(root: &Path) -> Option<OsString> {
    let bases = ["usr/lib", "lib"].map(|base| root.join(base));
    let entries = bases.iter().filter_map(|base| std::fs::read_dir(base).ok()).flatten().flatten();
    let directories = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    std::env::join_paths(directories).ok().filter(|joined| !joined.is_empty())
}
