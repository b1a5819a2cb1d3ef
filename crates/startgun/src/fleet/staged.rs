//! Several files that appear together, or not at all.
//!
//! Writing a file in place leaves half of it behind when the disk is full or the power fails, and
//! a key without its certificate is as bad. So everything is written beside its target and synced
//! first; that is where disks fill up and permissions are missing. What remains is renames, in
//! the order in which the files were added.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::FleetError;

/// Mode of private keys: the owner alone.
pub(super) const PRIVATE: u32 = 0o600;

/// Mode of what may be known.
pub(super) const PUBLIC: u32 = 0o644;

/// Files waiting to be renamed. Dropped without [`commit`](Staged::commit), it removes them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    files: Vec<StagedFile>,
}

#[derive(Debug)]
struct StagedFile {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Writes `bytes` beside `target`, with the permission bits `mode`, and syncs them.
    pub(super) fn add(&mut self, target: &Path, bytes: &[u8], mode: u32) -> Result<(), FleetError> {
        if target.is_dir() {
            // The rename would fail, when others have been done already.
            return Err(FleetError::unsuitable(target, "a directory", "a file, or nothing"));
        }
        let temporary = beside(target);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(FleetError::io("create", &temporary))?;
        self.files.push(StagedFile { temporary: temporary.clone(), target: target.to_owned() });
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FleetError::io("write", &temporary))
    }

    /// Renames all files to their targets, in the order in which they were added, and returns the
    /// targets.
    pub(super) fn commit(mut self) -> Result<Vec<PathBuf>, FleetError> {
        let mut targets = Vec::with_capacity(self.files.len());
        for file in &self.files {
            fs::rename(&file.temporary, &file.target).map_err(FleetError::io("replace", &file.target))?;
            // Synced one by one: the order of the renames is to survive a power failure too.
            sync_directory(parent(&file.target))?;
            targets.push(file.target.clone());
        }
        self.files.clear();
        Ok(targets)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for file in &self.files {
            // Best effort, and of a file that was renamed already there is nothing to remove.
            let _ = fs::remove_file(&file.temporary);
        }
    }
}

/// Makes the directory `dir` (mode 0700) with these files (name, bytes, mode) in it, all at once.
/// `dir` must not exist, or be empty.
pub(super) fn create_directory(dir: &Path, files: &[(&str, &[u8], u32)]) -> Result<(), FleetError> {
    let above = parent(dir);
    fs::create_dir_all(above).map_err(FleetError::io("create", above))?;
    let staging = beside(dir);
    fs::DirBuilder::new().mode(0o700).create(&staging).map_err(FleetError::io("create", &staging))?;
    let filled = fill(&staging, files)
        .and_then(|()| fs::rename(&staging, dir).map_err(FleetError::io("move the new directory to", dir)));
    if filled.is_err() {
        // Only what `fill` just made is in there.
        let _ = fs::remove_dir_all(&staging);
        return filled;
    }
    sync_directory(above)
}

/// Makes `dir` and what is above it, unless it is there.
pub(super) fn ensure_directory(dir: &Path) -> Result<(), FleetError> {
    fs::create_dir_all(dir).map_err(FleetError::io("create", dir))
}

fn fill(dir: &Path, files: &[(&str, &[u8], u32)]) -> Result<(), FleetError> {
    let mut staged = Staged::new();
    for (name, bytes, mode) in files {
        staged.add(&dir.join(name), bytes, *mode)?;
    }
    staged.commit().map(|_| ())
}

/// The directory that a path is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above != Path::new("") => above,
        _ => Path::new("."),
    }
}

/// A hidden name beside `path`, of this process alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    parent(path).join(name)
}

fn sync_directory(dir: &Path) -> Result<(), FleetError> {
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(FleetError::io("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::ScratchDir;
    use std::os::unix::fs::PermissionsExt;

    fn names_in(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("the directory can be listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_appears_before_the_commit_and_nothing_stays_without_it() {
        let scratch = ScratchDir::new();
        let target = scratch.path().join("a");
        let mut staged = Staged::new();
        staged.add(&target, b"new", PRIVATE).expect("staged");
        assert!(!target.exists());
        drop(staged);
        assert_eq!(names_in(scratch.path()), Vec::<OsString>::new());
    }

    #[test]
    fn a_commit_replaces_the_target_with_bytes_and_mode() {
        let scratch = ScratchDir::new();
        let target = scratch.path().join("a");
        fs::write(&target, "old").expect("written");
        let mut staged = Staged::new();
        staged.add(&target, b"new", PRIVATE).expect("staged");
        staged.commit().expect("committed");
        assert_eq!(fs::read(&target).expect("read"), b"new");
        let mode = fs::metadata(&target).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert_eq!(names_in(scratch.path()), ["a"]);
    }

    #[test]
    fn a_directory_is_never_made_over_another() {
        let scratch = ScratchDir::new();
        let dir = scratch.path().join("fleet");
        create_directory(&dir, &[("a", b"1", PUBLIC)]).expect("made");
        let again = create_directory(&dir, &[("a", b"2", PUBLIC)]);
        assert!(matches!(again, Err(FleetError::Io { .. })), "{again:?}");
        assert_eq!(fs::read(dir.join("a")).expect("read"), b"1");
        assert_eq!(names_in(scratch.path()), ["fleet"]);
    }
}
