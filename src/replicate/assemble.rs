//! Messages of the stream to batches of whole transactions. Pure.
//!
//! Small transactions are gathered until a batch is worth a target transaction; one that is too
//! large to keep is passed on in pieces. Version 1 of the protocol sends a transaction only after
//! its commit, so no piece can turn out to have been rolled back.

use crate::base::Lsn;
use crate::wire::pgoutput::{Begin, Commit, Message, Old, PgTime, Relation, Tuple};
use std::collections::HashMap;
use std::sync::Arc;

/// First message of a transaction that a mirror has applied: such a transaction came from the
/// other site and is not sent back to it.
pub const ORIGIN_PREFIX: &str = "cloud_mirror.origin";

/// One change, with the table as it was at that point of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A row came.
    Insert {
        /// Where.
        table: Arc<Relation>,
        /// The row.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// Where.
        table: Arc<Relation>,
        /// What is known of it before.
        old: Old,
        /// The row after.
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// Where.
        table: Arc<Relation>,
        /// What is known of it.
        old: Old,
    },
    /// Tables were emptied by one command.
    Truncate {
        /// Which.
        tables: Vec<Arc<Relation>>,
        /// Their sequences were restarted.
        restart_identity: bool,
    },
}

impl Change {
    /// The tables it touches.
    pub fn tables(&self) -> &[Arc<Relation>] {
        match self {
            Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => {
                std::slice::from_ref(table)
            }
            Change::Truncate { tables, .. } => tables,
        }
    }

    /// Bytes held, roughly.
    pub fn size(&self) -> usize {
        let old_size = |old: &Old| match old {
            Old::Absent => 0,
            Old::Key(row) | Old::Full(row) => row.size(),
        };
        64 + match self {
            Change::Insert { new, .. } => new.size(),
            Change::Update { old, new, .. } => old_size(old) + new.size(),
            Change::Delete { old, .. } => old_size(old),
            Change::Truncate { .. } => 0,
        }
    }
}

/// A transaction of the source, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// Its transaction id on the source.
    pub xid: u32,
    /// Its end: positions and time.
    pub commit: Commit,
    /// What it did, in order.
    pub changes: Vec<Change>,
}

/// What is applied in one go.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// Whole transactions, in the order of their commits; at least one.
    Whole(Vec<Transaction>),
    /// Part of a transaction too large to keep. More of it follows.
    Piece {
        /// The transaction.
        begin: Begin,
        /// The next of its changes.
        changes: Vec<Change>,
    },
    /// The end of a transaction that came in pieces.
    Last {
        /// The rest of its changes.
        changes: Vec<Change>,
        /// Its end.
        commit: Commit,
    },
}

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Changes in a batch.
    pub rows: usize,
    /// Bytes of a batch.
    pub bytes: usize,
    /// Bytes up to which a transaction is kept whole.
    pub whole_bytes: usize,
    /// Changes up to which a transaction is kept whole.
    pub whole_rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rows: 2_000, bytes: 1 << 20, whole_bytes: 4 << 20, whole_rows: 10_000 }
    }
}

/// A stream that does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A change, a begin or a commit where none can be.
    #[error("the walsender sent {0} at a wrong place")]
    OutOfPlace(&'static str),
    /// A change of a table that was not described before.
    #[error("the walsender sent a change of table {0} without saying what that is")]
    UnknownTable(u32),
    /// A row with another number of values than its table has columns.
    #[error("the walsender sent a row of {values} values for {table}, which has {columns} columns")]
    WrongWidth {
        /// The table.
        table: String,
        /// Values in the row.
        values: usize,
        /// Columns announced.
        columns: usize,
    },
}

/// Gathers messages. One per stream: what the tables look like is said anew in each.
#[derive(Debug)]
pub struct Assembler {
    limits: Limits,
    /// End of the last transaction applied: what was committed before it is on the target.
    applied: Lsn,
    tables: HashMap<u32, Arc<Relation>>,
    open: Option<Open>,
    ready: Vec<Transaction>,
    ready_rows: usize,
    ready_bytes: usize,
}

#[derive(Debug)]
struct Open {
    begin: Begin,
    kind: Kind,
    /// For one with a replication origin: its own commit time is of another clock.
    clock: Option<PgTime>,
    changes: Vec<Change>,
    rows_in_all: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To be applied; kept so far.
    Kept,
    /// To be applied; a first piece has left.
    InPieces,
    /// Already applied, or ours come back: nothing of it is kept.
    Skipped,
}

impl Assembler {
    /// Skips what ended at or before `applied`.
    pub fn new(applied: Lsn, limits: Limits) -> Self {
        Assembler {
            limits,
            applied,
            tables: HashMap::new(),
            open: None,
            ready: Vec::new(),
            ready_rows: 0,
            ready_bytes: 0,
        }
    }

    /// Takes the next message, sent at `sent_at` by the publisher's clock; returns a batch when
    /// one is full.
    pub fn on_message(&mut self, message: Message, sent_at: PgTime) -> Result<Option<Batch>, AssembleError> {
        match message {
            Message::Begin(begin) => self.on_begin(begin)?,
            Message::Commit(commit) => return self.on_commit(commit),
            Message::Origin { .. } => {
                let open = self.open.as_mut().ok_or(AssembleError::OutOfPlace("an origin"))?;
                open.clock = Some(sent_at);
            }
            Message::Relation(relation) => self.on_relation(relation),
            Message::Insert { relation, new } => {
                let table = self.table(relation)?;
                check_width(&table, &new)?;
                return self.on_change(Change::Insert { table, new });
            }
            Message::Update { relation, old, new } => {
                let table = self.table(relation)?;
                check_width(&table, &new)?;
                check_old_width(&table, &old)?;
                return self.on_change(Change::Update { table, old, new });
            }
            Message::Delete { relation, old } => {
                let table = self.table(relation)?;
                check_old_width(&table, &old)?;
                return self.on_change(Change::Delete { table, old });
            }
            Message::Truncate { relations, restart_identity, .. } => {
                let tables = relations.into_iter().map(|r| self.table(r)).collect::<Result<_, _>>()?;
                return self.on_change(Change::Truncate { tables, restart_identity });
            }
            Message::Message { is_transactional: true, prefix, .. } if prefix == ORIGIN_PREFIX => {
                if let Some(open) = &mut self.open
                    && open.rows_in_all == 0
                {
                    open.kind = Kind::Skipped;
                }
            }
            Message::Message { .. } | Message::Type { .. } | Message::Stray(_) => {}
        }
        Ok(None)
    }

    /// The whole transactions gathered so far, if any: to be called when nothing more comes.
    pub fn take_ready(&mut self) -> Option<Batch> {
        if self.ready.is_empty() {
            return None;
        }
        self.ready_rows = 0;
        self.ready_bytes = 0;
        Some(Batch::Whole(std::mem::take(&mut self.ready)))
    }

    /// Whether no transaction is kept or half received.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.open.is_none()
    }

    /// Whether whole transactions wait for [`Assembler::take_ready`].
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn on_begin(&mut self, begin: Begin) -> Result<(), AssembleError> {
        if self.open.is_some() {
            return Err(AssembleError::OutOfPlace("a begin"));
        }
        // Commits are sent in the order of their positions, and `applied` is the end of one: what
        // was committed before it is on the target, whatever the slot remembers after a crash.
        let kind = if begin.commit_lsn < self.applied { Kind::Skipped } else { Kind::Kept };
        let open = Open { begin, kind, clock: None, changes: Vec::new(), rows_in_all: 0, bytes: 0 };
        self.open = Some(open);
        Ok(())
    }

    fn on_relation(&mut self, relation: Relation) {
        // Sent again after every invalidation, mostly unchanged: then the old one stays, so that
        // nobody above has to look at the target again.
        if self.tables.get(&relation.oid).is_none_or(|known| **known != relation) {
            self.tables.insert(relation.oid, Arc::new(relation));
        }
    }

    fn table(&self, oid: u32) -> Result<Arc<Relation>, AssembleError> {
        self.tables.get(&oid).cloned().ok_or(AssembleError::UnknownTable(oid))
    }

    fn on_change(&mut self, change: Change) -> Result<Option<Batch>, AssembleError> {
        let open = self.open.as_mut().ok_or(AssembleError::OutOfPlace("a change"))?;
        open.rows_in_all += 1;
        if open.kind == Kind::Skipped {
            return Ok(None);
        }
        open.bytes += change.size();
        open.changes.push(change);
        let is_full = match open.kind {
            Kind::Kept => open.bytes > self.limits.whole_bytes || open.changes.len() > self.limits.whole_rows,
            Kind::InPieces => open.bytes > self.limits.bytes || open.changes.len() >= self.limits.rows,
            Kind::Skipped => false,
        };
        if !is_full {
            return Ok(None);
        }
        if let Some(earlier) = self.take_ready() {
            return Ok(Some(earlier));
        }
        let open = self.open.as_mut().expect("it was open above");
        open.kind = Kind::InPieces;
        open.bytes = 0;
        Ok(Some(Batch::Piece { begin: open.begin, changes: std::mem::take(&mut open.changes) }))
    }

    fn on_commit(&mut self, mut commit: Commit) -> Result<Option<Batch>, AssembleError> {
        let open = self.open.take().ok_or(AssembleError::OutOfPlace("a commit"))?;
        if let Some(clock) = open.clock {
            commit.committed_at = clock;
        }
        match open.kind {
            Kind::Skipped if commit.end_lsn <= self.applied => Ok(None),
            Kind::InPieces => Ok(Some(Batch::Last { changes: open.changes, commit })),
            // One that is skipped as ours still moves the position.
            Kind::Skipped | Kind::Kept => {
                self.ready_rows += open.changes.len();
                self.ready_bytes += open.bytes + 64;
                self.ready.push(Transaction { xid: open.begin.xid, commit, changes: open.changes });
                let is_full = self.ready_rows >= self.limits.rows || self.ready_bytes >= self.limits.bytes;
                Ok(if is_full { self.take_ready() } else { None })
            }
        }
    }
}

fn check_width(table: &Relation, row: &Tuple) -> Result<(), AssembleError> {
    if row.len() == table.columns.len() {
        return Ok(());
    }
    Err(AssembleError::WrongWidth {
        table: format!("{}.{}", table.schema, table.name),
        values: row.len(),
        columns: table.columns.len(),
    })
}

fn check_old_width(table: &Relation, old: &Old) -> Result<(), AssembleError> {
    match old {
        Old::Absent => Ok(()),
        Old::Key(row) | Old::Full(row) => check_width(table, row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pgoutput::{Column, Identity, Value};

    fn relation(oid: u32) -> Message {
        Message::Relation(Relation {
            oid,
            schema: "public".into(),
            name: format!("t{oid}"),
            identity: Identity::Default,
            columns: vec![Column { is_key: true, name: "id".into(), type_oid: 23, type_modifier: -1 }],
        })
    }

    fn begin(lsn: u64) -> Message {
        Message::Begin(Begin { commit_lsn: Lsn(lsn), committed_at: PgTime(1), xid: lsn as u32 })
    }

    fn commit(lsn: u64) -> Message {
        let (commit_lsn, end_lsn) = (Lsn(lsn), Lsn(lsn + 8));
        Message::Commit(Commit { commit_lsn, end_lsn, committed_at: PgTime(1) })
    }

    fn insert(relation: u32) -> Message {
        Message::Insert { relation, new: Tuple::of(&[Value::Text(b"1")]) }
    }

    fn feed(a: &mut Assembler, messages: impl IntoIterator<Item = Message>) -> Vec<Batch> {
        messages.into_iter().filter_map(|m| a.on_message(m, PgTime(99)).unwrap()).collect()
    }

    fn small() -> Limits {
        Limits { rows: 3, bytes: 1 << 20, whole_bytes: 1 << 20, whole_rows: 5 }
    }

    #[test]
    fn whole_transactions_are_gathered_until_a_batch_is_full() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        assert_eq!(feed(&mut a, [begin(10), relation(1), insert(1), commit(10)]), []);
        assert!(a.has_ready());
        let batches = feed(&mut a, [begin(20), insert(1), insert(1), commit(20)]);
        let [Batch::Whole(transactions)] = &batches[..] else { panic!("{batches:?}") };
        assert_eq!(transactions.iter().map(|t| t.commit.end_lsn.0).collect::<Vec<_>>(), [18, 28]);
        assert!(a.is_empty());
    }

    #[test]
    fn what_the_target_has_is_skipped_and_the_next_is_not() {
        let mut a = Assembler::new(Lsn(18), small());
        feed(&mut a, [relation(1), begin(10), insert(1), commit(10)]);
        assert!(a.is_empty());
        feed(&mut a, [begin(18), insert(1), commit(18)]);
        assert!(a.has_ready());
    }

    #[test]
    fn a_large_transaction_goes_on_in_pieces_behind_what_came_before_it() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        feed(&mut a, [relation(1), begin(10), insert(1), commit(10)]);
        let mut messages = vec![begin(20)];
        messages.extend((0..20).map(|_| insert(1)));
        messages.push(commit(20));
        let batches = feed(&mut a, messages);
        assert!(matches!(&batches[0], Batch::Whole(t) if t.len() == 1));
        let mut rows = 0;
        for batch in &batches[1..batches.len() - 1] {
            let Batch::Piece { begin, changes } = batch else { panic!("{batch:?}") };
            assert_eq!(begin.xid, 20);
            rows += changes.len();
        }
        let Some(Batch::Last { changes, commit }) = batches.last() else { panic!("{batches:?}") };
        assert_eq!((rows + changes.len(), commit.end_lsn), (20, Lsn(28)));
        assert!(a.is_empty());
    }

    #[test]
    fn a_transaction_of_the_other_site_moves_the_position_only() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        let tag = Message::Message {
            is_transactional: true,
            lsn: Lsn(1),
            prefix: ORIGIN_PREFIX.into(),
            content: bytes::Bytes::from_static(b"cloud:3:0/1"),
        };
        feed(&mut a, [relation(1), begin(10), tag, insert(1), commit(10)]);
        let Some(Batch::Whole(t)) = a.take_ready() else { panic!() };
        assert_eq!((t[0].changes.len(), t[0].commit.end_lsn), (0, Lsn(18)));
    }

    #[test]
    fn the_time_of_a_foreign_origin_is_not_believed() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        let origin = Message::Origin { lsn: Lsn(1), name: "o".into() };
        feed(&mut a, [relation(1), begin(10), origin, insert(1), commit(10)]);
        let Some(Batch::Whole(t)) = a.take_ready() else { panic!() };
        assert_eq!(t[0].commit.committed_at, PgTime(99));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        assert!(a.on_message(commit(1), PgTime(0)).is_err());
        assert!(a.on_message(insert(1), PgTime(0)).is_err());
        feed(&mut a, [relation(1), begin(10)]);
        assert!(a.on_message(begin(11), PgTime(0)).is_err());
        let wide = Message::Insert { relation: 1, new: Tuple::of(&[Value::Null, Value::Null]) };
        assert!(a.on_message(wide, PgTime(0)).is_err());
    }

    #[test]
    fn a_table_described_again_without_a_change_stays_the_same() {
        let mut a = Assembler::new(Lsn::ZERO, small());
        feed(&mut a, [relation(1)]);
        let first = a.table(1).unwrap();
        feed(&mut a, [relation(1)]);
        assert!(Arc::ptr_eq(&first, &a.table(1).unwrap()));
    }
}
