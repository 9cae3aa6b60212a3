//! The directory that makes a process the same one after a restart.

use super::{FileError, Lock, ensure_private_dir, read_if_exists, write_atomic};
use crate::sys::random_bytes;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a process waits for its predecessor to end before it calls the directory taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// An open state directory: locked for this process alone as long as the value lives.
///
/// Its `instance` is the proof behind "a restarted proxy takes the lease again at once": whoever
/// holds the lock and the same instance knows that the former holder has ended.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    instance: String,
    _lock: Lock,
}

impl StateDir {
    /// Creates the directory (0700) if need be, locks it and reads or makes its instance.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        ensure_private_dir(path)?;
        let lock_file = path.join("lock");
        let mut lock = Lock::acquire(&lock_file, PATIENCE)?;
        lock.sign().map_err(FileError::io("write", &lock_file))?;
        let instance = instance(path)?;
        Ok(Self { path: path.to_owned(), instance, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 32 hexadecimal digits that stay as long as the directory does.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The bytes of a file in it.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        read_if_exists(&self.path.join(name))
    }

    /// Replaces a file in it, mode 0600.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        write_atomic(&self.path.join(name), bytes)
    }
}

/// The file holds the instance and the inode of the directory. In a copy of the directory the inode
/// differs, and the copy gets an instance of its own: two directories with one instance would be
/// two holders of one lease, each sure that the other has ended. (A cloned disk keeps the inode;
/// that case shows when the two see each other's records.)
fn instance(directory: &Path) -> Result<String, FileError> {
    let path = directory.join("instance");
    let inode = std::fs::metadata(directory).map_err(FileError::io("look at", directory))?.ino();
    if let Some(bytes) = read_if_exists(&path)? {
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split_whitespace();
        let (id, at) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) || at.parse::<u64>().is_err() {
            let what = "is damaged; remove it to make this proxy a new instance, which waits one lease TTL before it writes";
            return Err(FileError::Unfit { path, what });
        }
        if at == inode.to_string() {
            return Ok(id.to_owned());
        }
    }
    let id: String = random_bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
    write_atomic(&path, format!("{id} {inode}\n").as_bytes())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_survives_restarts_and_a_copy_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        let id = StateDir::open(&first).unwrap().instance().to_owned();
        assert_eq!(id.len(), 32);
        assert_eq!(StateDir::open(&first).unwrap().instance(), id);
        std::fs::create_dir(&second).unwrap();
        std::fs::copy(first.join("instance"), second.join("instance")).unwrap();
        assert_ne!(StateDir::open(&second).unwrap().instance(), id);
    }

    #[test]
    fn two_processes_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let open = StateDir::open(dir.path()).unwrap();
        open.write("x", b"1").unwrap();
        assert_eq!(open.read("x").unwrap().unwrap(), b"1");
        assert!(matches!(StateDir::open(dir.path()), Err(FileError::Locked { .. })));
    }

    #[test]
    fn a_damaged_instance_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("instance"), "zz").unwrap();
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
        assert_eq!(std::fs::read(dir.path().join("instance")).unwrap(), b"zz");
    }
}
