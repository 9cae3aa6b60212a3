//! What can go wrong while a mirror is made, and what a person is told about it.

use crate::backend::control::{ControlError, describe};
use crate::base::Retry;

/// One thing that is missing, and what to type to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in PostgreSQL's style.
    pub what: String,
    /// What to do about it: a command where there is one.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the servers is not reached.
    #[error(transparent)]
    Connect(#[from] ControlError),
    /// The raw link for the slot or a copy failed.
    #[error("{doing}: {why}")]
    Link {
        /// What we were doing.
        doing: String,
        /// What the server or the network said.
        why: String,
        /// The server's code, if it was the server.
        sqlstate: Option<String>,
    },
    /// Our own rows on one of the servers cannot be read or written.
    #[error(transparent)]
    Catalog(#[from] crate::catalog::Error),
    /// A statement of ours failed.
    #[error("{doing}: {}", describe(source))]
    Sql {
        /// What we were doing.
        doing: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The servers are not ready for a mirror; nothing was created.
    #[error("cannot make the mirror: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Problem>),
    /// Transactions that were open when the slot was to be created did not end in time.
    #[error("the slot waits for open transactions on the source: {}", .0.join("; "))]
    HeldUp(Vec<String>),
    /// `pg_dump` or `pg_restore` failed.
    #[error("{program} failed: {why}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its own words.
        why: String,
    },
    /// A table was rewritten, truncated, made or dropped while it was copied.
    #[error("table {table} changed its shape while it was copied ({what})")]
    Changed {
        /// Which.
        table: String,
        /// How that was seen.
        what: &'static str,
    },
    /// The state row is no longer ours: another epoch has taken the target.
    #[error("the mirror's state row belongs to another epoch; nothing more is written")]
    StaleEpoch,
    /// A file of ours cannot be written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What the caller may do: a bootstrap begins again from nothing, so it may be run again
    /// unless a person has to act first.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Connect(_)
            | Error::Link { .. }
            | Error::Sql { .. }
            | Error::HeldUp(_)
            | Error::Program { .. }
            | Error::Changed { .. } => Retry::Safe,
            // Also where the answer was lost: a bootstrap looks first.
            Error::Catalog(error) => match error.retry() {
                Retry::Safe | Retry::Unknown => Retry::Safe,
                Retry::Never => Retry::Never,
            },
            Error::Refused(_) | Error::StaleEpoch | Error::File { .. } => Retry::Never,
        }
    }
}

impl Error {
    pub(super) fn link(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Link { doing: doing.into(), why: why.into(), sqlstate: None }
    }
}

/// Names what was being done when a statement failed.
pub(super) trait Doing<T> {
    /// Turns the driver's error into ours.
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::Sql { doing: what.into(), source })
    }
}
