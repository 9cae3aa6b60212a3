//! What went wrong with a file, and what to do about it.

use crate::base::Retry;
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("could not {action} {path:?}: {source}{}", hint(source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The new bytes are in place, but the system did not promise that they survive a crash.
    #[error(
        "could not make the change of {path:?} durable, it may or may not survive a crash: {source}{}",
        hint(source)
    )]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("{path:?} is locked by another process{}", holder.as_deref().map(|h| format!(" (pid {h})")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: Option<String>,
    },
    /// There is something else where a directory or file should be.
    #[error("{path:?} {what}")]
    Unfit {
        /// The path.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: &'static str,
    },
}

impl FileError {
    /// For `map_err` on an operation named by a verb.
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// What a caller may do.
    pub fn retry(&self) -> Retry {
        match self {
            FileError::Io { .. } | FileError::Locked { .. } => Retry::Safe,
            FileError::NotDurable { .. } => Retry::Unknown,
            FileError::Unfit { .. } => Retry::Never,
        }
    }
}

/// Advice for the errors that a person can end.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space, nothing was changed",
        io::ErrorKind::QuotaExceeded => "; raise the quota or free some space, nothing was changed",
        io::ErrorKind::PermissionDenied => "; the directory must belong to the user that runs cloud-mirror",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory on a file system that can be written",
        _ => "",
    }
}
