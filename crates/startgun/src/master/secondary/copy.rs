//! The copy of a secondary's zone on disk: a zone file that a primary's records are written to as they come, so that a
//! transfer takes no memory but for one record.
//!
//! It stands beside the present copy until the zone is served, and takes its place only then.

use crate::config::{Copies, ZONE_BYTES_MAX, write_record};
use crate::startup;
use startgun_core::dns::{CanonicalName, Record};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A copy that is written, or waits to be taken over. It goes when it is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    place: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    line: String,
}

impl Staged {
    /// An empty one.
    ///
    /// # Errors
    /// With the path.
    pub(super) fn create(copies: &Copies, apex: &CanonicalName) -> Result<Self, String> {
        startup::private_directory(copies.directory())?;
        let place = copies.path(apex);
        let path = place.with_extension("zone.new");
        let mut options = File::options();
        let opened = options.create(true).write(true).truncate(true).mode(0o640).open(&path);
        let file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Staged { path, place, file: BufWriter::new(file), bytes: 0, line: String::new() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record.
    ///
    /// # Errors
    /// With the path.
    pub(super) fn write(&mut self, record: &Record) -> Result<(), String> {
        self.line.clear();
        write_record(record, &mut self.line);
        self.bytes += self.line.len() as u64;
        if self.bytes > ZONE_BYTES_MAX {
            return Err(format!("a zone of more than {} MiB as text", ZONE_BYTES_MAX >> 20));
        }
        self.file.write_all(self.line.as_bytes()).map_err(|error| self.fault(&error))
    }

    /// Gives everything to the kernel, so that it can be read.
    ///
    /// # Errors
    /// With the path.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        self.file.flush().map_err(|error| self.fault(&error))
    }

    /// Takes the place of the present copy, once it is on disk.
    ///
    /// # Errors
    /// With the path; the present copy stays then.
    pub(super) fn commit(mut self) -> Result<(), String> {
        let kept = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        kept.and_then(|()| std::fs::rename(&self.path, &self.place)).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit there is nothing left of this name.
        let _ = std::fs::remove_file(&self.path);
    }
}
