//! A private directory for the schema's file and the two gates, gone when the run is over.

use super::error::Error;
use crate::sys::file::Lock;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "cloud-mirror-bootstrap-";
/// A socket's path has at most 107 bytes (unix(7)); behind the parent come our name and its own.
const PARENT_MAX: usize = 107 - PREFIX.len() - 16 - "//s/.s.PGSQL.5432".len();

/// The directory. The lock in it tells a run that goes on from one that was killed.
pub(super) struct WorkDir {
    path: PathBuf,
    _lock: Lock,
}

impl WorkDir {
    /// Makes one in `parent`, or in the system's directory for temporary files when sockets
    /// would have too long a name there. Removes what killed runs have left.
    pub(super) fn new(parent: &Path) -> Result<Self, Error> {
        let parent = match parent.as_os_str().len() <= PARENT_MAX {
            true => parent.to_owned(),
            false => std::env::temp_dir(),
        };
        remove_left(&parent);
        let random = u64::from_ne_bytes(crate::sys::random_bytes());
        let path = parent.join(format!("{PREFIX}{random:016x}"));
        let failed = |source| Error::File { path: path.clone(), source };
        // It gets its name when it is locked: before, another run would take it for a left one.
        let unlocked = parent.join(format!("cloud-mirror-{random:016x}"));
        fs::DirBuilder::new().mode(0o700).create(&unlocked).map_err(failed)?;
        let lock = Lock::acquire(&unlocked.join("lock"), Duration::ZERO)
            .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
        fs::rename(&unlocked, &path).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What cannot be removed is a schema in a directory that only we can read.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Directories of runs that have ended without removing them: their lock is free.
fn remove_left(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = entry.path().join("lock");
        if is_ours && lock.exists() && Lock::acquire(&lock, Duration::ZERO).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_living_one_uses_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = WorkDir::new(parent.path()).unwrap();
        let killed = parent.path().join(format!("{PREFIX}0"));
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join("lock"), "").unwrap();
        let next = WorkDir::new(parent.path()).unwrap();
        assert!(living.path().exists() && next.path().exists() && !killed.exists());
        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn sockets_fit_into_the_longest_parent() {
        let parent = "x".repeat(PARENT_MAX);
        let socket = format!("{parent}/{PREFIX}{:016x}/s/.s.PGSQL.5432", 0);
        assert!(socket.len() <= 107, "{}", socket.len());
    }
}
