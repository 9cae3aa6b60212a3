//! What can go wrong with our own tables.

use crate::backend::control::describe;
use crate::base::{Epoch, Retry};

/// Why a row of ours was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused or the connection is gone.
    #[error("cannot {what}: {}", describe(source))]
    Sql {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// What the driver says; `as_db_error` has the server's own words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A row of ours holds what we never write.
    #[error(
        "the table cloud_mirror.{table} holds {found}, which cloud-mirror never writes; was it edited by hand?"
    )]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// The value and its column.
        found: String,
    },
    /// A newer epoch has written here: whoever asked is no longer the owner.
    #[error("epoch {ours} is stale: cloud_mirror.{table} is at epoch {theirs}")]
    StaleEpoch {
        /// Which table.
        table: &'static str,
        /// The epoch of the caller.
        ours: Epoch,
        /// The epoch found.
        theirs: Epoch,
    },
    /// The database is fenced and the fence has to be lifted first.
    #[error("the database is fenced since epoch {epoch}; the fence has to be lifted before it is opened")]
    StillFenced {
        /// The epoch of the fence.
        epoch: Epoch,
    },
    /// The mirror is the writer now; nothing is applied to it any more.
    #[error("the mirror {mirror} was promoted in epoch {epoch}")]
    Promoted {
        /// Which mirror.
        mirror: String,
        /// The epoch of its promotion, or a later one of the same owner.
        epoch: Epoch,
    },
    /// There is no row for that mirror.
    #[error("cloud_mirror.{table} has no row for the mirror {mirror}")]
    NoRow {
        /// Which table.
        table: &'static str,
        /// Which mirror.
        mirror: String,
    },
}

impl Error {
    /// For `map_err`: the error of the driver with what was to be done.
    pub(super) fn sql(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error::Sql { what, source }
    }

    /// What the caller may do next.
    pub fn retry(&self) -> Retry {
        match self {
            // The server's own refusal rolls back; a lost connection may have lost the answer only.
            Error::Sql { source, .. } if source.as_db_error().is_some() => Retry::Safe,
            Error::Sql { .. } => Retry::Unknown,
            Error::Corrupt { .. }
            | Error::StaleEpoch { .. }
            | Error::StillFenced { .. }
            | Error::Promoted { .. }
            | Error::NoRow { .. } => Retry::Never,
        }
    }
}
