//! The messages of the output plugin `pgoutput`, protocol version 1 ("Logical Replication Message
//! Formats").
//!
//! Decoding copies nothing but names: a [`Tuple`] is a slice of the received bytes whose structure
//! has been checked once, so that walking it later cannot fail.

mod decode;
#[cfg(test)]
mod tests;
mod tuple;

pub use decode::{DecodeError, decode};
pub use tuple::{Tuple, Value};

use crate::base::Lsn;
use bytes::Bytes;

/// Microseconds since 2000-01-01 00:00 UTC, by the clock of the server that says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

/// Microseconds from the Unix epoch to PostgreSQL's.
const UNIX_TO_PG_MICROS: i64 = 946_684_800_000_000;

impl PgTime {
    /// The same moment in microseconds since 1970, saturating.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(UNIX_TO_PG_MICROS)
    }

    /// The moment `micros` after 1970, saturating.
    pub fn from_unix_micros(micros: i64) -> PgTime {
        PgTime(micros.saturating_sub(UNIX_TO_PG_MICROS))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn ms_since(self, earlier: PgTime) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(0)
    }
}

/// One message of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A transaction starts; it has been committed, else it would not be sent.
    Begin(Begin),
    /// The transaction is complete.
    Commit(Commit),
    /// The transaction came to the publisher by replication from `name`.
    Origin {
        /// Position of the commit on that origin.
        lsn: Lsn,
        /// Name of the origin.
        name: String,
    },
    /// What a table looks like from here on.
    Relation(Relation),
    /// Name of a type that is not built in.
    Type {
        /// Its OID on the publisher.
        oid: u32,
        /// Its schema; empty means `pg_catalog`.
        schema: String,
        /// Its name.
        name: String,
    },
    /// A row came.
    Insert {
        /// OID of the table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// OID of the table.
        relation: u32,
        /// What is known of the row before.
        old: Old,
        /// The row after.
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// OID of the table.
        relation: u32,
        /// What is known of the row; never [`Old::Absent`].
        old: Old,
    },
    /// Tables were emptied by one command.
    Truncate {
        /// OIDs of the tables.
        relations: Vec<u32>,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// A message of `pg_logical_emit_message`.
    Message {
        /// Whether it belongs to the transaction around it.
        is_transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// What kind of message.
        prefix: String,
        /// Its bytes.
        content: Bytes,
    },
    /// A message of streamed or two-phase transactions, which were not asked for. PostgreSQL 18
    /// sends stray `StreamAbort`s to version 1 clients; they mean nothing here.
    Stray(u8),
}

/// Start of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Position of the commit record.
    pub commit_lsn: Lsn,
    /// When it was committed. For a transaction with an origin this is the origin's clock.
    pub committed_at: PgTime,
    /// Its transaction id.
    pub xid: u32,
}

/// End of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Position of the commit record: never acknowledge this one.
    pub commit_lsn: Lsn,
    /// Position behind the commit record: what is acknowledged once the transaction is durable.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub committed_at: PgTime,
}

/// A table of the publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its OID there.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How it identifies rows.
    pub identity: Identity,
    /// Its published columns, in order; generated ones are not among them before version 18.
    pub columns: Vec<Column>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Whether it belongs to the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: String,
    /// OID of its type on the publisher.
    pub type_oid: u32,
    /// Its type modifier, -1 for none.
    pub type_modifier: i32,
}

/// "Replica identity" of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// None.
    Nothing,
    /// The whole row.
    Full,
    /// A unique index.
    Index,
}

/// What an update or delete says of the row before.
#[derive(Debug, Clone, PartialEq)]
pub enum Old {
    /// Nothing: the identity did not change.
    Absent,
    /// The identity columns; all others are null.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}
