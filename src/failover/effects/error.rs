//! What can go wrong while acting on a server.

use super::scan::Session;
use crate::backend::control::{ControlError, describe};
use crate::base::{Epoch, Retry};
use crate::catalog;
use crate::sys::file::FileError;
use std::time::Duration;

/// Why an effect was not (or not certainly) carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ControlError),
    /// One of our own rows.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// A file in the state directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The server refused a statement, or the connection was lost under it.
    #[error("cannot {what}: {}", describe(source))]
    Sql {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// What the driver says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Not done in time; it may still happen on the server.
    #[error("cannot {what} within {patience:?}")]
    Deadline {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// The time it was given.
        patience: Duration,
    },
    /// The door is shut and the row is written, but sessions would not end in time.
    #[error("{} of the database would not end within {patience:?}: {}", sessions(left.len()), list(left))]
    NotClean {
        /// Those that are left.
        left: Vec<Session>,
        /// The time they were given.
        patience: Duration,
    },
    /// A newer owner has been here.
    #[error("epoch {ours} is stale: the database is at epoch {theirs}")]
    StaleEpoch {
        /// The epoch of the caller.
        ours: Epoch,
        /// The epoch found.
        theirs: Epoch,
    },
    /// What another room does for us did not succeed; the same call may be made again.
    #[error("cannot {what}: {source}")]
    Elsewhere {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// What that room says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state found does not allow it; the text says what and what to do.
    #[error("{0}")]
    NotInState(String),
}

impl Error {
    /// For `map_err`: the error of the driver with what was to be done.
    pub(super) fn sql(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error::Sql { what, source }
    }

    /// What the caller may do next. Every effect of this room may be run again after `Unknown`
    /// too: running it again is how one looks.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Connect(ControlError::NoPassword { .. }) => Retry::Never,
            Error::Connect(_) => Retry::Safe,
            Error::Catalog(error) => error.retry(),
            Error::File(error) => error.retry(),
            Error::Sql { source, .. } if source.as_db_error().is_some() => Retry::Safe,
            Error::Sql { .. } | Error::Deadline { .. } => Retry::Unknown,
            Error::NotClean { .. } | Error::Elsewhere { .. } => Retry::Safe,
            Error::StaleEpoch { .. } | Error::NotInState(_) => Retry::Never,
        }
    }
}

fn sessions(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// The first few, for a message a person reads.
fn list(left: &[Session]) -> String {
    let mut text = left.iter().take(5).map(Session::to_string).collect::<Vec<_>>().join("; ");
    if left.len() > 5 {
        text += "; …";
    }
    text
}
