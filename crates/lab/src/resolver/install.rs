//! Which resolvers this machine has, and where.
//!
//! An ordinary user's `PATH` lacks the directories that daemons are in. systemd-resolved is mostly there unpacked, not
//! installed: its package would take over `/etc/resolv.conf`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ResolverKind, at};

/// The environment variable that names the directory with an unpacked systemd-resolved.
pub const DEPS_DIR_VARIABLE: &str = "STARTGUN_DEPS_DIR";

/// Where `scripts/demo-deps` unpacks systemd-resolved when it is run as root; everybody may read it.
pub const SYSTEM_DEPS_DIR: &str = "/var/cache/startgun/deps";

/// Where daemons are, whatever `PATH` says.
const SYSTEM_PROGRAM_DIRS: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"];

/// Where systemd-resolved is below the root of a system: Debian 12 has it in the first place.
const RESOLVED_PATHS: [&str; 2] = ["lib/systemd/systemd-resolved", "usr/lib/systemd/systemd-resolved"];

/// Whether the kernel enforces AppArmor profiles.
const APPARMOR_ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// See [`ResolverKind::installed`].
pub(super) fn installed() -> Vec<(ResolverKind, PathBuf, String)> {
    ResolverKind::PROGRAMS
        .into_iter()
        .filter_map(|kind| {
            candidates(kind).into_iter().filter(|program| is_executable(program)).find_map(|program| {
                let version = version(kind, &program)?;
                Some((kind, program, version))
            })
        })
        .collect()
}

/// The places to look in, best first.
fn candidates(kind: ResolverKind) -> Vec<PathBuf> {
    let file_name = match kind {
        ResolverKind::Unbound => "unbound",
        ResolverKind::Bind => "named",
        ResolverKind::KnotResolver => "kresd",
        ResolverKind::PowerDns => "pdns_recursor",
        ResolverKind::Dnsmasq => "dnsmasq",
        ResolverKind::Resolved => return resolved_candidates(),
        ResolverKind::Builtin => return Vec::new(),
    };
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // An empty entry means the current directory, where no daemon is looked for.
        .filter(|dir| dir.is_absolute())
        .chain(SYSTEM_PROGRAM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(file_name))
        .collect()
}

fn resolved_candidates() -> Vec<PathBuf> {
    let unpacked = |deps_dir: PathBuf| deps_dir.join("resolved");
    let user_cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let roots = [
        env::var_os(DEPS_DIR_VARIABLE).map(PathBuf::from).map(unpacked),
        user_cache.map(|cache| cache.join("startgun/deps")).map(unpacked),
        Some(unpacked(PathBuf::from(SYSTEM_DEPS_DIR))),
        Some(PathBuf::from("/")),
    ];
    roots.into_iter().flatten().flat_map(|root| RESOLVED_PATHS.map(|path| root.join(path))).collect()
}

fn is_executable(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// What the program says its version is; `None` if it cannot be run or says something else.
fn version(kind: ResolverKind, program: &Path) -> Option<String> {
    let (option, before_version) = match kind {
        ResolverKind::Unbound => ("-V", "Version "),
        ResolverKind::Bind => ("-v", "BIND "),
        ResolverKind::KnotResolver => ("--version", "version "),
        ResolverKind::PowerDns => ("--version", "PowerDNS Recursor "),
        ResolverKind::Dnsmasq => ("--version", "version "),
        ResolverKind::Resolved => ("--version", "systemd "),
        ResolverKind::Builtin => return None,
    };
    let mut command = Command::new(program);
    command.arg(option).stdin(Stdio::null());
    if let Some(path) = library_path(program) {
        command.env("LD_LIBRARY_PATH", path);
    }
    let output = command.output().ok()?;
    // PowerDNS says it on the standard error output.
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text), before_version)
}

/// The digits and dots right after `before_version`, at its first place where there are any.
fn version_in(text: &str, before_version: &str) -> Option<String> {
    text.match_indices(before_version).find_map(|(index, found)| {
        let rest = &text[index + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let version = rest[..end].trim_end_matches('.');
        (!version.is_empty()).then(|| version.to_owned())
    })
}

/// What `LD_LIBRARY_PATH` must be for an unpacked systemd-resolved: the directories with libraries below the same root.
/// `None` for any other program, and for an installed one, which finds its own.
pub(super) fn library_path(program: &Path) -> Option<OsString> {
    let root = RESOLVED_PATHS.iter().find_map(|path| {
        let depth = Path::new(path).components().count();
        program.ends_with(path).then(|| program.ancestors().nth(depth)).flatten()
    })?;
    if root == Path::new("/") || root == Path::new("/usr") {
        return None;
    }
    let mut dirs = Vec::new();
    for base in ["usr/lib", "lib"] {
        // One directory per architecture, such as x86_64-linux-gnu.
        for entry in fs::read_dir(root.join(base)).into_iter().flatten().flatten() {
            let dir = entry.path();
            dirs.push(dir.join("systemd"));
            dirs.push(dir);
        }
    }
    dirs.retain(|dir| dir.is_dir());
    dirs.sort();
    env::join_paths(dirs).ok()
}

/// Whether AppArmor confines programs here.
pub(super) fn apparmor_is_enabled() -> bool {
    fs::read_to_string(APPARMOR_ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the resolver's package brings an AppArmor profile (Debian 12 and its relatives), which would keep it from
/// reading a configuration anywhere but in its service's directories.
pub(super) fn has_profile(kind: ResolverKind) -> bool {
    matches!(kind, ResolverKind::Unbound | ResolverKind::Bind | ResolverKind::Dnsmasq)
}

/// A copy of the program in `dir`. Profiles are attached by path, so the copy is as free as any program of the user's
/// own, and no policy of the system is changed.
pub(super) fn copied_out_of_confinement(program: &Path, dir: &Path) -> io::Result<PathBuf> {
    let name = program.file_name().unwrap_or(program.as_os_str());
    let copy = dir.join(name);
    fs::copy(program, &copy).map_err(|error| at(&copy, &error))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_programs_print() {
        let cases = [
            ("Version 1.17.1\n\nConfigure line: --x", "Version ", "1.17.1"),
            ("BIND 9.18.49-1~deb12u3-Debian (Extended)", "BIND ", "9.18.49"),
            ("Nov 23 22:01:30 PowerDNS Recursor 4.8.8 (C) 2001", "PowerDNS Recursor ", "4.8.8"),
            ("Dnsmasq version 2.90  Copyright", "version ", "2.90"),
            ("systemd 252 (252.39-1~deb12u2)\n+PAM", "systemd ", "252"),
            ("a version of mine, version 3.", "version ", "3"),
        ];
        for (text, before, version) in cases {
            assert_eq!(version_in(text, before).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("error while loading libraries", "Version "), None);
    }

    #[test]
    fn an_unpacked_resolved_gets_the_libraries_beside_it_and_an_installed_one_none() {
        let root = env::temp_dir().join(format!("startgun-install-{}", std::process::id()));
        let libraries = root.join("usr/lib/some-arch/systemd");
        fs::create_dir_all(&libraries).expect("a temporary directory");
        let unpacked = root.join(RESOLVED_PATHS[0]);
        let path = library_path(&unpacked).expect("a library path");
        let dirs: Vec<_> = env::split_paths(&path).collect();
        fs::remove_dir_all(&root).expect("our own directory");
        assert!(dirs.contains(&libraries), "{dirs:?}");
        for path in RESOLVED_PATHS {
            assert_eq!(library_path(&Path::new("/").join(path)), None);
        }
        assert_eq!(library_path(Path::new("/usr/sbin/unbound")), None);
    }
}
