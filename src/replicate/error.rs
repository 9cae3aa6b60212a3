//! What can go wrong with a mirror, and whether time will heal it.

use super::assemble::AssembleError;
use super::bootstrap;
use crate::backend;
use crate::backend::control::{ControlError, describe};
use crate::base::{Epoch, Lsn, Retry, SlotName};
use crate::catalog;
use crate::wire::pgoutput::DecodeError;
use crate::wire::replication::FrameError;
use crate::wire::report::Report;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// Why a mirror does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the two servers is not reached.
    #[error("{end}: {source}")]
    Connect {
        /// `source` or `target`.
        end: &'static str,
        /// What was tried.
        #[source]
        source: ControlError,
    },
    /// The source does not let the replication connection in.
    #[error("source: {0}")]
    Link(#[from] backend::Error),
    /// The source refused a replication command, or ended the stream with an error.
    #[error("source: cannot {doing}: {report}")]
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// The server's own words.
        report: Report,
    },
    /// The replication connection is gone.
    #[error("source: the replication connection was lost: {why}")]
    Lost {
        /// What the system says.
        why: String,
    },
    /// The replication connection is there, but nothing comes.
    #[error("source: nothing was heard for {silence:?}")]
    Silent {
        /// For how long.
        silence: Duration,
    },
    /// What came is not the protocol.
    #[error("source: {0}")]
    Decode(#[from] DecodeError),
    /// What came is not the protocol.
    #[error("source: {0}")]
    Frame(#[from] FrameError),
    /// What came makes no sense.
    #[error("source: {0}")]
    Assemble(#[from] AssembleError),
    /// A query on the source failed.
    #[error("source: cannot {doing}: {}", describe(source))]
    Source {
        /// What was to be done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement on the target failed.
    #[error("target: cannot {doing}: {}", describe(source))]
    Target {
        /// What was to be done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A change could not be applied.
    #[error("target: cannot apply a change to {table}{key}: {}", describe(source))]
    Change {
        /// The table, or all tables of a TRUNCATE.
        table: String,
        /// The row's key, if a single row is meant: ` (id=1)`.
        key: String,
        /// What the target says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A row that the source changed is not on the target.
    #[error(
        "the mirror has no row of {table}{key} that the source changed: somebody wrote to the mirror, \
         or rows were lost; drop the mirror and create it again"
    )]
    MissingRow {
        /// The table.
        table: String,
        /// The row's key, if a single row is meant: ` (id=1)`.
        key: String,
    },
    /// A transaction fails also alone, statement by statement.
    #[error("transaction {xid} of the source, ending at {lsn}, cannot be applied: {why}")]
    Poison {
        /// Its id on the source.
        xid: u32,
        /// Its end.
        lsn: Lsn,
        /// Why.
        #[source]
        why: Box<Error>,
    },
    /// The schemas have come apart.
    #[error("{table} differs on source and mirror: {what}; {fix}")]
    Drift {
        /// The table.
        table: String,
        /// What differs.
        what: String,
        /// What to do.
        fix: &'static str,
    },
    /// Our tables on the target cannot be used.
    #[error("target: {0}")]
    Catalog(#[source] catalog::Error),
    /// Somebody with a newer epoch works on the target: this applier is not wanted any more.
    #[error("epoch {ours} is stale: the mirror has been handed to a newer one")]
    StaleEpoch {
        /// The epoch we worked with.
        ours: Epoch,
    },
    /// The target is the writer now.
    #[error("the mirror has been promoted")]
    Promoted,
    /// The source is another cluster than the one that was copied, or has lost its newest part.
    #[error(
        "the source is not what it was when the mirror was made: {what}; \
         if this server is the right one, drop the mirror and create it again"
    )]
    SourceChanged {
        /// What differs.
        what: String,
    },
    /// The slot is gone or has lost what it should have kept.
    #[error(
        "the slot {slot} cannot be used any more: {why}; \
         drop the mirror and create it again (max_slot_wal_keep_size says how much a slot keeps)"
    )]
    SlotLost {
        /// Which.
        slot: SlotName,
        /// The server's own words.
        why: String,
    },
    /// Another connection streams from the slot.
    #[error("source: the slot {slot} is in use: {why}")]
    SlotBusy {
        /// Which.
        slot: SlotName,
        /// The server's own words.
        why: String,
    },
    /// There is nothing to be promoted.
    #[error("the mirror has never caught up with its source since it was made")]
    NotFollowing,
    /// What was received could not be applied in time.
    #[error("what was received was not applied within {0:?}")]
    Deadline(Duration),
    /// The mirror's task has ended.
    #[error("the mirror has been stopped")]
    Stopped,
    /// The first copy could not be made.
    #[error("{0}")]
    Bootstrap(#[source] Box<bootstrap::Error>),
    /// The values of a type cannot be carried in binary form; the stream starts again in text form.
    #[error("the stream has to be started again in text form")]
    NeedsText,
}

impl Error {
    /// For `map_err` on the target: the error of the driver with what was to be done.
    pub(super) fn target(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error::Target { doing, source }
    }

    /// For `map_err` on the source.
    pub(super) fn source(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error::Source { doing, source }
    }

    /// Whether the same may work a moment later with nobody doing anything.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Connect { source, .. } => match source {
                ControlError::Connect { source, .. } => of_driver(source),
                ControlError::Timeout { .. } => Retry::Safe,
                ControlError::NoPassword { .. } => Retry::Never,
            },
            Error::Link(source) => source.retry(),
            Error::Refused { report, .. } => of_code(&report.code()),
            Error::Lost { .. }
            | Error::Silent { .. }
            | Error::Decode(_)
            | Error::Frame(_)
            | Error::Assemble(_)
            | Error::SlotBusy { .. }
            | Error::NeedsText => Retry::Safe,
            Error::Source { source, .. } | Error::Target { source, .. } | Error::Change { source, .. } => {
                of_driver(source)
            }
            Error::Catalog(source) => match source {
                catalog::Error::Sql { source, .. } => of_driver(source),
                _ => Retry::Never,
            },
            Error::Poison { why, .. } => why.retry(),
            Error::Bootstrap(source) => source.retry(),
            Error::Deadline(_) => Retry::Unknown,
            Error::MissingRow { .. }
            | Error::Drift { .. }
            | Error::StaleEpoch { .. }
            | Error::Promoted
            | Error::SourceChanged { .. }
            | Error::SlotLost { .. }
            | Error::NotFollowing
            | Error::Stopped => Retry::Never,
        }
    }
}

impl From<bootstrap::Error> for Error {
    fn from(error: bootstrap::Error) -> Error {
        Error::Bootstrap(Box::new(error))
    }
}

impl From<catalog::Error> for Error {
    fn from(error: catalog::Error) -> Error {
        match error {
            catalog::Error::StaleEpoch { ours, .. } => Error::StaleEpoch { ours },
            catalog::Error::Promoted { .. } => Error::Promoted,
            other => Error::Catalog(other),
        }
    }
}

fn of_driver(error: &tokio_postgres::Error) -> Retry {
    match error.code() {
        Some(code) => of_code(code.code()),
        // The connection broke. What is retried is a whole attempt, which reads the progress row
        // first, so a commit whose answer was lost is seen there.
        None => Retry::Safe,
    }
}

/// Whether a refusal by the server is about the moment (resources, locks, shutdown) and not about
/// what was asked.
fn of_code(code: &str) -> Retry {
    let is_passing = matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || code == SqlState::LOCK_NOT_AVAILABLE.code()
        || code == SqlState::OBJECT_IN_USE.code();
    if is_passing { Retry::Safe } else { Retry::Never }
}
