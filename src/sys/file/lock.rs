//! One process at a time.

use super::FileError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two attempts at a lock that is taken; waits are short and rare.
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);

/// An exclusive lock (`flock`) on a file, given back when dropped and when the process ends,
/// however it ends. The file stays: removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Takes the lock, waiting at most `patience`; `Locked` names the holder if it wrote its pid.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Self, FileError> {
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(FileError::io("open the lock", path))?;
        let started = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(Self(locked)),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(FileError::io("lock", path)(errno.into())),
            }
            if started.elapsed() >= patience {
                let mut holder = String::new();
                // The text is for display; without it the error says less.
                (&file).take(32).read_to_string(&mut holder).ok();
                let holder = Some(holder.trim().to_owned()).filter(|h| !h.is_empty());
                return Err(FileError::Locked { path: path.to_owned(), holder });
            }
            std::thread::sleep(ATTEMPT_EVERY);
        }
    }

    /// Writes our pid into the lock file, for whoever finds it locked.
    pub(super) fn sign(&mut self) -> std::io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(&mut *self.0, "{}", std::process::id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_waits_and_is_told_who_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut first = Lock::acquire(&path, Duration::ZERO).unwrap();
        first.sign().unwrap();
        let error = Lock::acquire(&path, Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        assert!(Lock::acquire(&path, Duration::ZERO).is_ok());
    }
}
