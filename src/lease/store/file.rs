//! The record in a directory: for one machine, or a shared file system with working locks.

use super::{Store, StoreError};
use crate::lease::Version;
use crate::sys::file::{Lock, ensure_private_dir, read_if_exists, write_atomic};
use std::path::PathBuf;
use std::time::Duration;

/// How long another process may hold the lock; it does so for one small write.
const LOCK_PATIENCE: Duration = Duration::from_millis(1_500);

/// The first word of the file.
const MAGIC: &str = "cloud-mirror-lease";

/// A larger file is not ours.
const BYTES_MAX: usize = 128 * 1024;

/// Keeps the record in the file `lease` of a directory, mode 0600. Writers take the lock beside it, compare
/// the version *inside* the file (times and inodes repeat), and replace the file as a whole.
///
/// The first line is `cloud-mirror-lease VERSION LENGTH SHA256`, the rest is the record as JSON: a
/// truncated or altered file is an error and never an absent record.
#[derive(Debug, Clone)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// Makes the directory (0700) unless it is there.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        ensure_private_dir(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.join("lease")
    }

    fn read_now(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        match read_if_exists(&self.path())? {
            None => Ok(None),
            Some(bytes) => open_envelope(&bytes).map(Some).map_err(|what| StoreError::Corrupt {
                place: self.path().display().to_string(),
                what: what.to_owned(),
            }),
        }
    }

    fn write_now(&self, base: Option<Version>, body: &[u8]) -> Result<Version, StoreError> {
        let _lock = Lock::acquire(&self.directory.join("lease.lock"), LOCK_PATIENCE)?;
        let present = self.read_now()?.map(|(version, _)| version);
        if present.map(|v| v.to_string()) != base.map(|v| v.0) {
            return Err(StoreError::Conflict);
        }
        let version = present.unwrap_or(0) + 1;
        write_atomic(&self.path(), &envelope(version, body))?;
        Ok(Version(version.to_string()))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|e| Err(StoreError::Unavailable(e.to_string())))
    }
}

#[async_trait::async_trait]
impl Store for FileStore {
    fn describe(&self) -> String {
        format!("file:{}", self.directory.display())
    }

    async fn read(&self) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        let found = self.blocking(|store| store.read_now()).await?;
        Ok(found.map(|(version, body)| (Version(version.to_string()), body)))
    }

    async fn create(&self, bytes: Vec<u8>) -> Result<Version, StoreError> {
        self.blocking(move |store| store.write_now(None, &bytes)).await
    }

    async fn replace(&self, base: Version, bytes: Vec<u8>) -> Result<Version, StoreError> {
        self.blocking(move |store| store.write_now(Some(base), &bytes)).await
    }
}

fn digest(version: u64, body: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&version.to_be_bytes());
    context.update(body);
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn envelope(version: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{MAGIC} {version} {} {}\n", body.len(), digest(version, body)).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The version and the body, or what is wrong.
fn open_envelope(bytes: &[u8]) -> Result<(u64, Vec<u8>), &'static str> {
    if bytes.len() > BYTES_MAX {
        return Err("too large");
    }
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("no first line")?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "the first line is no text")?;
    let body = &bytes[end + 1..];
    let words: Vec<&str> = line.split(' ').collect();
    let [MAGIC, version, length, sum] = words[..] else { return Err("the first line is not ours") };
    let version: u64 = version.parse().map_err(|_| "no version")?;
    if length.parse() != Ok(body.len()) {
        return Err("truncated");
    }
    if sum != digest(version, body) {
        return Err("the checksum differs");
    }
    if version == 0 || version == u64::MAX {
        return Err("an impossible version");
    }
    Ok((version, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, FileStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path().join("lease-dir")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn a_write_needs_the_present_version() {
        let (_dir, store) = store();
        assert!(store.read().await.unwrap().is_none());
        assert!(matches!(store.replace(Version("1".into()), b"x".to_vec()).await, Err(StoreError::Conflict)));
        let one = store.create(b"one".to_vec()).await.unwrap();
        assert!(matches!(store.create(b"x".to_vec()).await, Err(StoreError::Conflict)));
        let two = store.replace(one.clone(), b"two".to_vec()).await.unwrap();
        assert!(matches!(store.replace(one, b"x".to_vec()).await, Err(StoreError::Conflict)));
        assert_eq!(store.read().await.unwrap(), Some((two, b"two".to_vec())));
        let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_racing_writers_one_wins() {
        let (_dir, store) = store();
        let base = store.create(b"base".to_vec()).await.unwrap();
        let writers: Vec<_> = (0..16u8)
            .map(|n| {
                let (store, base) = (store.clone(), base.clone());
                tokio::spawn(async move { store.replace(base, vec![n]).await.map(|_| n) })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                Ok(n) => winners.push(n),
                Err(error) => assert!(matches!(error, StoreError::Conflict), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(store.read().await.unwrap().unwrap().1, winners);
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_for_reader_and_writer_and_stays() {
        let (_dir, store) = store();
        let base = store.create(b"{\"epoch\":1}".to_vec()).await.unwrap();
        let good = std::fs::read(store.path()).unwrap();
        let mut versions = vec![Vec::new(), b"\xff\n".to_vec(), b"cloud-mirror-lease 1 0 x\n".to_vec()];
        versions.extend((1..good.len()).map(|end| good[..end].to_vec()));
        versions.extend((0..good.len()).map(|at| {
            let mut flipped = good.clone();
            flipped[at] ^= 4;
            flipped
        }));
        for bytes in versions {
            std::fs::write(store.path(), &bytes).unwrap();
            let error = store.read_now().unwrap_err();
            assert!(error.to_string().contains("--rebuild-lease"), "{error}");
            assert!(matches!(store.write_now(None, b"x"), Err(StoreError::Corrupt { .. })));
            assert!(matches!(store.write_now(Some(base.clone()), b"x"), Err(StoreError::Corrupt { .. })));
            assert_eq!(std::fs::read(store.path()).unwrap(), bytes);
        }
    }

    #[tokio::test]
    async fn a_full_disk_keeps_the_old_record() {
        let (_dir, store) = store();
        let base = store.create(b"old".to_vec()).await.unwrap();
        std::os::unix::fs::symlink("/dev/full", store.directory.join("lease.new")).unwrap();
        let error = store.replace(base.clone(), b"new".to_vec()).await.unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(store.read().await.unwrap(), Some((base, b"old".to_vec())));
    }
}
