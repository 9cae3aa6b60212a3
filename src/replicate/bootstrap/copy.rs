//! The rows: several readers under one snapshot, each handing its COPY on to the target.

use super::error::Error;
use super::meter::Meter;
use super::raw::{Kind, Raw, pump};
use super::tables::{Form, Table};
use crate::catalog::identifier;
use crate::replicate::MirrorSpec;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// Tables above this size are copied in parts.
const PART_BYTES: u64 = 64 << 20;
/// PostgreSQL's usual page.
const PAGE_BYTES: u64 = 8192;
/// A table that is copied as a whole and is larger than this is frozen on the way in, which spares the
/// target a second write of all its pages by vacuum.
const FREEZE_BYTES: u64 = 1 << 20;

/// A range of a table's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    table: Arc<Table>,
    /// First page.
    from: u64,
    /// First page behind it; `None` in the last part: the table may have grown.
    to: Option<u64>,
    /// Its share of the table's bytes.
    share: u64,
}

/// Takes a table apart for `readers`.
fn split(table: Arc<Table>, readers: u64) -> Vec<Part> {
    let step = (PART_BYTES / PAGE_BYTES).max(table.pages.div_ceil(4 * readers));
    let count = table.pages.div_ceil(step).max(1);
    (0..count)
        .map(|n| Part {
            from: n * step,
            to: (n + 1 < count).then_some((n + 1) * step),
            share: table.bytes * (n + 1) / count - table.bytes * n / count,
            table: table.clone(),
        })
        .collect()
}

impl Part {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.to.is_none()
    }

    fn columns(&self) -> String {
        self.table.columns.iter().map(|c| identifier(c)).collect::<Vec<_>>().join(", ")
    }

    fn form(&self) -> &'static str {
        match self.table.form {
            Form::Binary => "binary",
            Form::Text => "text",
        }
    }

    fn out(&self) -> String {
        let (name, columns, form) = (self.table.sql_name(), self.columns(), self.form());
        let from = format!("ctid >= '({},0)'", self.from);
        let range = match self.to {
            // A table alone is read faster than a query; without columns there is no list to give.
            None if self.from == 0 && !columns.is_empty() => {
                return format!("COPY {name} ({columns}) TO STDOUT (FORMAT {form})");
            }
            None => from,
            Some(to) => format!("{from} AND ctid < '({to},0)'"),
        };
        format!("COPY (SELECT {columns} FROM ONLY {name} WHERE {range}) TO STDOUT (FORMAT {form})")
    }

    fn into(&self) -> String {
        let (name, columns, form) = (self.table.sql_name(), self.columns(), self.form());
        let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
        let freeze = if self.is_frozen() { ", FREEZE" } else { "" };
        format!("COPY {name}{list} FROM STDIN (FORMAT {form}{freeze})")
    }

    fn is_frozen(&self) -> bool {
        self.is_whole() && self.table.bytes > FREEZE_BYTES
    }
}

/// Who copies what, from where, under which snapshot.
pub(super) struct Copy<'a> {
    pub spec: &'a MirrorSpec,
    pub snapshot: &'a str,
    pub application_name: &'a str,
    pub readers: usize,
    pub connect_timeout: Duration,
}

impl Copy<'_> {
    /// Copies `tables`; returns the number of rows.
    pub(super) async fn run(&self, tables: Vec<Table>, meter: &Arc<Meter>) -> Result<u64, Error> {
        let readers = self.readers.max(1);
        let mut parts: Vec<Part> =
            tables.into_iter().flat_map(|t| split(Arc::new(t), readers as u64)).collect();
        // The largest first: the end should not wait for one of them.
        parts.sort_by_key(|p| std::cmp::Reverse(p.share));
        let workers = readers.min(parts.len());
        let queue = Arc::new(Mutex::new(VecDeque::from(parts)));
        let mut running = JoinSet::new();
        for _ in 0..workers {
            let (spec, name) = (self.spec.clone(), self.application_name.to_owned());
            let (snapshot, queue) = (self.snapshot.to_owned(), queue.clone());
            let (meter, within) = (meter.clone(), self.connect_timeout);
            running.spawn(async move {
                let source = Raw::connect(&spec.source, &name, Kind::Sql, within).await?;
                let target = Raw::connect(&spec.target, &name, Kind::Sql, within).await?;
                let mut worker = Worker { source, target, snapshot, meter };
                // The commit of the state row at the end makes all of it durable.
                worker.target.query("set up", "SET synchronous_commit = off", Some(within)).await?;
                let mut rows = 0;
                loop {
                    let next = queue.lock().expect("no holder of the queue panics").pop_front();
                    match next {
                        Some(part) => rows += worker.copy(&part).await?,
                        None => return Ok::<u64, Error>(rows),
                    }
                }
            });
        }
        let mut rows = 0;
        // The first failure drops the set, which ends the others.
        while let Some(done) = running.join_next().await {
            rows += done.map_err(|e| Error::link("copy the tables", e.to_string()))??;
        }
        Ok(rows)
    }
}

struct Worker {
    source: Raw,
    target: Raw,
    snapshot: String,
    meter: Arc<Meter>,
}

/// Statements that only take a lock or end a transaction.
const SHORT: Option<Duration> = Some(Duration::from_secs(120));

impl Worker {
    async fn copy(&mut self, part: &Part) -> Result<u64, Error> {
        let table = &part.table;
        let doing = format!("copy {}", table.sql_name());
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
            self.snapshot
        );
        self.source.query("take over the snapshot", &begin, SHORT).await?;
        let mut begin = "BEGIN".to_owned();
        if part.is_frozen() {
            begin += &format!("; TRUNCATE ONLY {}", table.sql_name());
        }
        self.target.query(&doing, &begin, SHORT).await?;
        let counted = AtomicU64::new(0);
        let on_bytes = |n: u64| {
            let before = counted.fetch_add(n, Ordering::Relaxed).min(part.share);
            self.meter.add(n.min(part.share - before));
        };
        let rows = pump(&doing, (&mut self.source, &part.out()), (&mut self.target, &part.into()), on_bytes)
            .await
            .map_err(|e| changed(table, e))?;
        // We still hold the lock of the COPY: a rewrite before it is seen now, and none can have come since.
        // The snapshot would have shown a rewritten table as empty.
        let sql = format!("SELECT pg_relation_filenode({})", table.oid);
        let now = self.source.query(&doing, &sql, SHORT).await?;
        let now = now.first().and_then(|row| row.first().cloned().flatten());
        if now.as_deref() != Some(table.filenode.to_string().as_str()) {
            return Err(Error::Changed { table: table.sql_name(), what: "rewritten or truncated" });
        }
        self.target.query(&doing, "COMMIT", SHORT).await?;
        self.source.query(&doing, "COMMIT", SHORT).await?;
        self.meter.add(part.share - counted.into_inner().min(part.share));
        Ok(rows)
    }
}

/// A table or column that has gone since the snapshot is a change of the schema, not a failure.
fn changed(table: &Table, error: Error) -> Error {
    match &error {
        Error::Link { doing, sqlstate: Some(code), .. }
            if doing.ends_with("(source)") && ["42P01", "42703", "3F000"].contains(&code.as_str()) =>
        {
            Error::Changed { table: table.sql_name(), what: "altered, renamed or dropped" }
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::Identity;
    use super::*;

    fn table(pages: u64) -> Arc<Table> {
        Arc::new(Table {
            oid: 1,
            schema: "s".to_owned(),
            name: "T".to_owned(),
            filenode: 1,
            bytes: pages * PAGE_BYTES + 7,
            pages,
            columns: vec!["a".to_owned(), "b c".to_owned()],
            form: Form::Binary,
            identity: Identity::Rows,
        })
    }

    #[test]
    fn parts_cover_every_page_once_and_shares_add_up() {
        for (pages, readers) in [(0, 1), (1, 4), (8192, 2), (8193, 2), (1_000_000, 3), (1_000_001, 1)] {
            let table = table(pages);
            let parts = split(table.clone(), readers);
            assert_eq!(parts[0].from, 0);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].to, Some(pair[1].from), "{pages} pages");
            }
            assert_eq!(parts.last().unwrap().to, None);
            assert_eq!(parts.iter().map(|p| p.share).sum::<u64>(), table.bytes);
        }
        assert_eq!(split(table(8192), 2).len(), 1);
        assert_eq!(split(table(16384), 2).len(), 2);
    }

    #[test]
    fn a_part_is_read_by_its_pages_and_a_small_table_as_a_whole() {
        let whole = &split(table(3), 2)[0];
        assert_eq!(whole.out(), "COPY \"s\".\"T\" (\"a\", \"b c\") TO STDOUT (FORMAT binary)");
        let parts = split(table(16384), 2);
        assert_eq!(
            parts[0].out(),
            "COPY (SELECT \"a\", \"b c\" FROM ONLY \"s\".\"T\" WHERE ctid >= '(0,0)' AND ctid < '(8192,0)') \
             TO STDOUT (FORMAT binary)"
        );
        assert!(parts[1].out().contains("WHERE ctid >= '(8192,0)')"), "{}", parts[1].out());
    }
}
