//! Replacing a file as a whole.

use super::FileError;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes `path` a directory of mode 0700, with its parents, unless it is there already.
pub fn ensure_private_dir(path: &Path) -> Result<(), FileError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(FileError::Unfit { path: path.to_owned(), what: "is not a directory" }),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(FileError::io("look at", path)(error)),
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(FileError::io("create the directory", path))
}

/// The bytes of a file, or `None` if there is no such file.
pub fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::io("read", path)(error)),
    }
}

/// Replaces `path` by a file of mode 0600 with these bytes: written beside it, flushed, renamed, and
/// the directory flushed. Any error but `NotDurable` leaves the old file as it was.
/// Two writers of one path must hold a [`super::Lock`], for the file beside it has one name.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let beside = beside(path);
    let written = write_beside(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path).map_err(FileError::io("replace", path)));
    if written.is_err() {
        // Best effort: on a full disk it gives the space back, and the next call truncates it anyway.
        fs::remove_file(&beside).ok();
        return written;
    }
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flushed = File::open(directory).and_then(|d| d.sync_all());
    flushed.map_err(|source| FileError::NotDurable { path: path.to_owned(), source })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write_beside(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = opened.map_err(FileError::io("create", path))?;
    file.write_all(bytes).map_err(FileError::io("write", path))?;
    file.sync_all().map_err(FileError::io("flush", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        ensure_private_dir(&state).unwrap();
        ensure_private_dir(&state).unwrap();
        let file = state.join("x");
        assert_eq!(read_if_exists(&file).unwrap(), None);
        write_atomic(&file, b"one").unwrap();
        write_atomic(&file, b"two").unwrap();
        assert_eq!(read_if_exists(&file).unwrap().unwrap(), b"two");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_full_disk_leaves_the_old_bytes_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        write_atomic(&file, b"old").unwrap();
        // The file beside it is /dev/full: every write to it says "no space left on device".
        std::os::unix::fs::symlink("/dev/full", dir.path().join("x.new")).unwrap();
        let error = write_atomic(&file, b"new").unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(read_if_exists(&file).unwrap().unwrap(), b"old");
    }

    #[test]
    fn a_file_where_a_directory_should_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        write_atomic(&file, b"").unwrap();
        assert!(ensure_private_dir(&file).unwrap_err().to_string().contains("is not a directory"));
        assert!(ensure_private_dir(&file.join("y")).is_err());
    }
}
