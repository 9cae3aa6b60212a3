//! Where the record is kept: one small object with conditional writes.
//!
//! A store knows bytes and versions and nothing of leases. It never retries by itself: a retry of a
//! write that had landed looks like a conflict, and only the machine can tell the two apart.

mod file;
mod memory;

use crate::base::Retry;
use crate::lease::Version;
use crate::sys::file::FileError;

pub use file::FileStore;
pub use memory::{Fault, MemoryStore};

/// A store of one record.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// Where the record is, without credentials, for reports.
    fn describe(&self) -> String;

    /// The record and its version, or `None` if there certainly is none.
    async fn read(&self) -> Result<Option<(Version, Vec<u8>)>, StoreError>;

    /// Stores the record if there is none.
    async fn create(&self, bytes: Vec<u8>) -> Result<Version, StoreError>;

    /// Stores the record if the present one has version `base`.
    async fn replace(&self, base: Version, bytes: Vec<u8>) -> Result<Version, StoreError>;
}

/// A request that was not carried out, or of which that is not known.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The condition of a write did not hold.
    #[error("the lease record was changed by another write")]
    Conflict,
    /// What is stored is no record.
    #[error(
        "the lease record in {place} is damaged ({what}); restore it, or remove it and start once with --rebuild-lease"
    )]
    Corrupt {
        /// Where.
        place: String,
        /// In which way.
        what: String,
    },
    /// The file system refused.
    #[error("lease store: {0}")]
    File(#[from] FileError),
    /// No usable answer.
    #[error("lease store: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// What may be done after it. A write that ended with anything but `Conflict` is read back in any case.
    pub fn retry(&self) -> Retry {
        match self {
            StoreError::Conflict | StoreError::Unavailable(_) => Retry::Unknown,
            StoreError::Corrupt { .. } => Retry::Never,
            StoreError::File(error) => error.retry(),
        }
    }
}
