//! A command of ours on its way from a session to the console, and the answer on its way back.
//!
//! A session parses with [`super::admin::parse`], sends a [`ConsoleCall`] and writes the answer
//! with the functions of [`frames`]. [`columns`] tells the shape of an answer before it is there,
//! which Describe needs.

pub mod frames;
mod pooler;

use super::admin::{Command, CommandError};
use super::pooler::Pooler;
use crate::base::{Privilege, RoleName};
use std::borrow::Cow;
use tokio_util::sync::CancellationToken;

/// Who gives a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The role that logged in.
    pub user: RoleName,
    /// What it may do.
    pub privilege: Privilege,
}

impl Caller {
    /// Whether it may change something.
    pub fn is_admin(&self) -> bool {
        self.privilege == Privilege::Admin
    }
}

/// What ends a command that waits, besides what it waits for. The default never does.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// The caller has asked to be cancelled (`^C`).
    pub cancelled: CancellationToken,
    /// The caller's connection has ended. Outlives the command.
    pub gone: CancellationToken,
}

/// A command, who gives it, and where its answer is awaited. When the sender is dropped without an
/// answer, the console is gone: answer with [`ConsoleError::gone`].
#[derive(Debug)]
pub struct ConsoleCall {
    /// What to do.
    pub command: Command,
    /// For whom.
    pub caller: Caller,
    /// When to stop waiting.
    pub interrupt: Interrupt,
    /// Takes the answer; a caller that no longer waits is no error.
    pub reply: tokio::sync::oneshot::Sender<ConsoleReply>,
}

/// What came of a command.
pub type ConsoleReply = Result<ConsoleRows, ConsoleError>;

/// An answer: rows for SHOW, none for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleRows {
    /// The same as [`columns`] of the command; empty means that there is no result set.
    pub columns: &'static [Column],
    /// Text form of the values.
    pub rows: Vec<Vec<Option<String>>>,
    /// Tag of CommandComplete.
    pub tag: Cow<'static, str>,
    /// Said to the user as NOTICE before the tag.
    pub notices: Vec<String>,
}

impl ConsoleRows {
    /// Rows for a command that shows.
    pub fn shown(command: &Command, rows: Vec<Vec<Option<String>>>) -> Self {
        let columns = columns(command);
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "columns of {}", command.words());
        }
        Self { columns, rows, tag: "SHOW".into(), notices: Vec::new() }
    }

    /// The answer of a command that did something.
    pub fn done(command: &Command, notices: Vec<String>) -> Self {
        Self { columns: &[], rows: Vec::new(), tag: command.words().into(), notices }
    }
}

/// Why a command was not carried out, as it is told to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConsoleError {
    /// SQLSTATE, from [`crate::base::sqlstate`] or a server.
    pub code: String,
    /// Short, in PostgreSQL's style.
    pub message: String,
    /// A sentence with the facts.
    pub detail: Option<String>,
    /// A sentence with advice.
    pub hint: Option<String>,
    /// Character of the command at which it went wrong, from 1.
    pub position: Option<usize>,
}

impl ConsoleError {
    /// An error without detail, hint and position.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), detail: None, hint: None, position: None }
    }

    /// The same with a DETAIL.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// The same with a HINT.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Nobody answers: the process is on its way out.
    pub fn gone() -> Self {
        Self::new(crate::base::sqlstate::CANNOT_CONNECT_NOW, "the console is shut down")
    }

    /// What a text with a mistake is answered; `text` is the whole text, for the position.
    pub fn from_command(error: &CommandError, text: &[u8]) -> Self {
        let before = &text[..error.at.min(text.len())];
        let position = String::from_utf8_lossy(before).chars().count() + 1;
        Self {
            code: error.code.to_owned(),
            message: error.message.clone(),
            detail: None,
            hint: error.hint.map(str::to_owned),
            position: Some(position),
        }
    }
}

/// A column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
}

/// The types that answers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `text`.
    Text,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`, of whole numbers that are not negative.
    Numeric,
    /// `bytea`, in its hexadecimal form.
    Bytea,
    /// `bool`, written `t` and `f`.
    Bool,
}

impl Kind {
    /// OID of the type in `pg_type`.
    pub fn oid(self) -> u32 {
        match self {
            Kind::Text => 25,
            Kind::Int4 => 23,
            Kind::Int8 => 20,
            Kind::Numeric => 1700,
            Kind::Bytea => 17,
            Kind::Bool => 16,
        }
    }

    /// `typlen` in `pg_type`.
    pub fn size(self) -> i16 {
        match self {
            Kind::Text | Kind::Numeric | Kind::Bytea => -1,
            Kind::Int4 => 4,
            Kind::Int8 => 8,
            Kind::Bool => 1,
        }
    }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn int4(name: &'static str) -> Column {
    Column { name, kind: Kind::Int4 }
}

const fn int8(name: &'static str) -> Column {
    Column { name, kind: Kind::Int8 }
}

const fn bool(name: &'static str) -> Column {
    Column { name, kind: Kind::Bool }
}

const MIRRORS: &[Column] = &[
    text("mirror"),
    text("status"),
    text("mode"),
    text("source_cluster"),
    text("source_database"),
    text("target_database"),
    text("last_applied"),
    int8("lag_ms"),
    int8("lag_bytes"),
    int8("bytes_done"),
    int8("bytes_total"),
    bool("is_promotable"),
    int8("rows_applied"),
    int8("transactions_applied"),
    int8("rows_not_followed"),
    text("reason"),
    text("warnings"),
];

const ONE_MIRROR: &[Column] = &[
    text("mode"),
    text("status"),
    text("last_applied"),
    int8("lag_ms"),
    text("source_cluster"),
    text("source_database"),
    int8("bytes_done"),
    int8("bytes_total"),
    text("mirror"),
    text("target_database"),
    int8("lag_bytes"),
    bool("is_promotable"),
    int8("rows_applied"),
    int8("transactions_applied"),
    int8("rows_not_followed"),
    text("reason"),
    text("warnings"),
];

const LEASE: &[Column] = &[
    int8("epoch"),
    text("owner"),
    text("phase"),
    bool("is_held"),
    int8("deadline_ms"),
    text("authority"),
    int8("ttl_ms"),
    text("renewed_at"),
    text("store"),
    text("problem"),
];

const EVENTS: &[Column] = &[int8("number"), text("at"), text("level"), text("event"), text("detail")];
const HELP: &[Column] = &[text("command"), text("meaning"), text("allowed_to")];
const VERSION: &[Column] = &[text("version")];

/// The columns of a command's answer; none for commands that change.
pub fn columns(command: &Command) -> &'static [Column] {
    match command {
        Command::ShowMirrorStatus => MIRRORS,
        Command::ShowDatabaseMirrorStatus { .. } => ONE_MIRROR,
        Command::ShowLease => LEASE,
        Command::ShowEvents => EVENTS,
        Command::ShowHelp => HELP,
        Command::ShowVersion => VERSION,
        Command::Pooler(Pooler::Show(table)) => pooler::columns(*table),
        Command::MirrorDatabase { .. }
        | Command::DropMirror { .. }
        | Command::Promote { .. }
        | Command::Reload
        | Command::Pooler(_) => &[],
    }
}
