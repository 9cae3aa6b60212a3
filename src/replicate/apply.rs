//! The session on the target: batches in, committed transactions out.
//!
//! Each target transaction starts with the origin message (so that a stream back skips it) and
//! moves the progress row of our own epoch; without that row it fails as a whole. Commits do not
//! wait for the target's disk; every so often one does, and only then the position counts as
//! flushed.

use super::assemble::{Batch, Change, ORIGIN_PREFIX, Transaction};
use super::error::Error;
use super::feedback::Shared;
use super::pipeline::{Action, Pipeline, raw};
use super::plan::{Grouping, Step, plan};
use super::statement::{Arity, Shape, Statement};
use super::table::Table;
use crate::backend::control::Control;
use crate::base::{Epoch, Lsn, MirrorName, Retry, Site};
use crate::observe::events::{Events, Level};
use crate::wire::pgoutput::{PgTime, Relation};
use crate::wire::replication::ValueForm;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest time a commit stays without being durable on the target.
const BARRIER_AFTER: Duration = Duration::from_millis(200);
/// Most bytes that are.
const BARRIER_BYTES: u64 = 4 << 20;
/// How often an idle session is looked at.
const IDLE_CHECK: Duration = Duration::from_millis(500);
/// Tables and statements kept; when there are more, all are looked up again.
const CACHE_MAX: usize = 4096;

/// Whose changes are applied, as whom.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The mirror.
    pub mirror: MirrorName,
    /// The site the changes come from.
    pub source: Site,
    /// Our epoch.
    pub epoch: Epoch,
}

/// Whether triggers and foreign keys of the target fire while we apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// `session_replication_role = replica`: the source has checked and fired them already.
    Off,
    /// The login may not set that: they fire, constraints as late as they allow.
    On,
}

/// One session that applies.
pub struct Applier {
    target: Control,
    identity: Identity,
    events: Events,
    shared: Arc<Shared>,
    form: ValueForm,
    enforcement: Enforcement,
    tables: HashMap<usize, Bound>,
    origin: tokio_postgres::Statement,
    progress: tokio_postgres::Statement,
    /// End and commit time of the last transaction applied.
    at: (Lsn, PgTime),
    unflushed: Option<Unflushed>,
    piecemeal: Piecemeal,
    /// Transactions that commit up to here are applied statement by statement: one of them has
    /// failed in a hurry.
    careful_until: Lsn,
}

/// A table and the statements made for it.
struct Bound {
    table: Arc<Table>,
    statements: HashMap<Shape, Arc<Prepared>>,
}

struct Prepared {
    statement: Statement,
    handle: tokio_postgres::Statement,
}

#[derive(Debug, Clone, Copy)]
struct Unflushed {
    since: Instant,
    bytes: u64,
}

/// Whether a transaction that comes in pieces is open on the target.
#[derive(Debug, Clone, Copy)]
enum Piecemeal {
    No,
    Open { commit_lsn: Lsn, xid: u32, rows: u64 },
}

/// Without this row the division fails, and with it the transaction: nothing has to be waited for
/// before COMMIT is sent.
const PROGRESS: &str = "\
    WITH ours AS (UPDATE cloud_mirror.progress SET lsn = $3, committed_at = $4, updated_at = pg_catalog.now() \
                  WHERE mirror = $1 AND epoch = $2 AND phase <> 'promoted' RETURNING 1) \
    SELECT 1 / pg_catalog.count(*) FROM ours";

impl Applier {
    /// Takes over a fresh connection to the target, which has been applied to up to `at`.
    pub async fn new(
        target: Control,
        identity: Identity,
        events: Events,
        shared: Arc<Shared>,
        form: ValueForm,
        at: Lsn,
        careful_until: Lsn,
    ) -> Result<Applier, Error> {
        // Lookups by key must use the key's index, whatever the statistics of a young table say;
        // plans are made once.
        target
            .batch_execute(
                "SET synchronous_commit = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
                 SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                 SET max_parallel_workers_per_gather = 0; SET lock_timeout = '60s'; \
                 SET client_min_messages = error; SET xmloption = content",
            )
            .await
            .map_err(Error::target("set up the session"))?;
        let enforcement = match target.batch_execute("SET session_replication_role = replica").await {
            Ok(()) => Enforcement::Off,
            Err(e) if e.code().is_some_and(|c| c.code() == "42501") => Enforcement::On,
            Err(source) => return Err(Error::Target { doing: "set up the session", source }),
        };
        let origin = format!(
            "SELECT pg_catalog.pg_logical_emit_message(true, '{ORIGIN_PREFIX}', $1::pg_catalog.text)"
        );
        let origin = target.prepare(&origin).await.map_err(Error::target("prepare the origin message"))?;
        let progress = target.prepare(PROGRESS).await.map_err(Error::target("prepare the progress row"))?;
        Ok(Applier {
            target,
            identity,
            events,
            shared,
            form,
            enforcement,
            tables: HashMap::new(),
            origin,
            progress,
            at: (at, PgTime(0)),
            unflushed: None,
            piecemeal: Piecemeal::No,
            careful_until,
        })
    }

    /// Whether foreign keys and triggers fire here.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// Applies until `batches` is closed and empty; then everything is durable, and the end of the
    /// last source transaction is returned. A transaction of which not all came is rolled back.
    pub async fn run(mut self, mut batches: mpsc::Receiver<Batch>) -> Result<Lsn, Error> {
        loop {
            let barrier_at = match (self.piecemeal, self.unflushed) {
                (Piecemeal::No, Some(unflushed)) => Some(unflushed.since + BARRIER_AFTER),
                (Piecemeal::No | Piecemeal::Open { .. }, _) => None,
            };
            let wake_at = barrier_at.unwrap_or_else(|| Instant::now() + IDLE_CHECK);
            tokio::select! {
                biased;
                batch = batches.recv() => match batch {
                    Some(batch) => self.apply(batch).await?,
                    None => break,
                },
                () = tokio::time::sleep_until(wake_at) => {
                    if barrier_at.is_some() {
                        self.barrier().await?;
                    } else if self.target.is_closed() {
                        let why = self.target.batch_execute("").await;
                        why.map_err(Error::target("reach it any more"))?;
                    }
                }
            }
        }
        if let Piecemeal::Open { .. } = self.piecemeal {
            self.rollback().await?;
        }
        if self.unflushed.is_some() {
            self.barrier().await?;
        }
        Ok(self.at.0)
    }

    async fn apply(&mut self, batch: Batch) -> Result<(), Error> {
        match batch {
            Batch::Whole(transactions) => self.apply_whole(&transactions).await,
            Batch::Piece { begin, changes } => {
                if let Piecemeal::No = self.piecemeal {
                    self.begin_pieces(begin.commit_lsn, begin.xid).await?;
                }
                self.apply_piece(&changes, None).await
            }
            Batch::Last { changes, commit } => {
                self.apply_piece(&changes, Some((commit.end_lsn, commit.committed_at))).await
            }
        }
    }

    async fn apply_whole(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        let careful = transactions.iter().any(|t| t.commit.commit_lsn <= self.careful_until);
        if !careful {
            match self.commit(transactions, self.grouping()).await {
                Ok(()) => return Ok(()),
                Err(error) if is_about_the_change(&error) => {
                    let detail = format!("transactions={} error={error}", transactions.len());
                    self.events.record(Level::Info, "replicate.batch_taken_apart", detail);
                }
                Err(error) => return Err(error),
            }
        }
        for transaction in transactions {
            self.commit(std::slice::from_ref(transaction), Grouping::OneByOne).await.map_err(
                |why| match why {
                    why @ (Error::Change { .. } | Error::MissingRow { .. }) => Error::Poison {
                        xid: transaction.xid,
                        lsn: transaction.commit.end_lsn,
                        why: Box::new(why),
                    },
                    other => other,
                },
            )?;
        }
        Ok(())
    }

    /// One target transaction for these of the source.
    async fn commit(&mut self, transactions: &[Transaction], grouping: Grouping) -> Result<(), Error> {
        let changes = || transactions.iter().flat_map(|t| &t.changes);
        let last = transactions.last().expect("a batch holds a transaction").commit;
        let bytes: u64 = changes().map(|c| c.size() as u64).sum();
        let actions = self.actions(changes(), grouping).await?;
        let is_barrier = self.is_barrier_due(bytes);
        let mut pipeline = Pipeline::new(&self.target);
        pipeline.push(Action::text(self.begin(is_barrier)));
        pipeline.push(self.origin_action(last.end_lsn));
        pipeline.push(self.progress_action(last.end_lsn, last.committed_at));
        for action in actions {
            pipeline.push(action);
        }
        if let Err(error) = pipeline.finish(self.enforcement).await {
            self.rollback().await?;
            return Err(self.named(error));
        }
        self.end((last.end_lsn, last.committed_at), bytes, is_barrier).await?;
        let rows = changes().count() as u64;
        self.shared.gauge().on_applied(last.end_lsn, rows, transactions.len() as u64);
        if is_barrier {
            self.flushed();
        }
        Ok(())
    }

    async fn begin_pieces(&mut self, commit_lsn: Lsn, xid: u32) -> Result<(), Error> {
        let mut pipeline = Pipeline::new(&self.target);
        // It will be large: let its own commit be the barrier.
        pipeline.push(Action::text(self.begin(true)));
        pipeline.push(self.origin_action(commit_lsn));
        pipeline.finish(self.enforcement).await?;
        self.piecemeal = Piecemeal::Open { commit_lsn, xid, rows: 0 };
        Ok(())
    }

    async fn apply_piece(&mut self, changes: &[Change], end: Option<(Lsn, PgTime)>) -> Result<(), Error> {
        let Piecemeal::Open { commit_lsn, xid, rows } = self.piecemeal else {
            unreachable!("the assembler sends a first piece before the others")
        };
        let grouping = if commit_lsn <= self.careful_until { Grouping::OneByOne } else { self.grouping() };
        let applied = async {
            let actions = self.actions(changes.iter(), grouping).await?;
            let mut pipeline = Pipeline::new(&self.target);
            for action in actions {
                pipeline.push(action);
            }
            if let Some((lsn, committed_at)) = end {
                pipeline.push(self.progress_action(lsn, committed_at));
            }
            pipeline.finish(self.enforcement).await.map_err(|e| self.named(e))
        };
        if let Err(error) = applied.await {
            self.rollback().await?;
            // What has gone by cannot be tried again from here: the caller streams it once more,
            // and then it is taken statement by statement.
            return Err(match error {
                why @ (Error::Change { .. } | Error::MissingRow { .. }) if is_about_the_change(&why) => {
                    Error::Poison { xid, lsn: commit_lsn, why: Box::new(why) }
                }
                other => other,
            });
        }
        let rows = rows + changes.len() as u64;
        self.piecemeal = Piecemeal::Open { commit_lsn, xid, rows };
        if let Some(end) = end {
            self.piecemeal = Piecemeal::No;
            self.end(end, 0, true).await?;
            self.shared.gauge().on_applied(end.0, rows, 1);
            self.flushed();
        }
        Ok(())
    }

    /// Commits what has succeeded.
    async fn end(&mut self, at: (Lsn, PgTime), bytes: u64, is_barrier: bool) -> Result<(), Error> {
        let mut pipeline = Pipeline::new(&self.target);
        pipeline.push(Action::text("COMMIT".to_owned()));
        // A deferred constraint speaks here, and the transaction is gone.
        pipeline.finish(self.enforcement).await.map_err(|e| match e {
            Error::Target { source, .. } if source.code().is_some() => {
                Error::Change { table: "(at its commit)".to_owned(), key: String::new(), source }
            }
            other => other,
        })?;
        self.at = at;
        if !is_barrier {
            let now = Unflushed { since: Instant::now(), bytes: 0 };
            self.unflushed.get_or_insert(now).bytes += bytes;
        }
        Ok(())
    }

    /// Makes all commits so far durable: one that waits for the disk takes those before it along.
    async fn barrier(&mut self) -> Result<(), Error> {
        let mut pipeline = Pipeline::new(&self.target);
        pipeline.push(Action::text(self.begin(true)));
        pipeline.push(self.progress_action(self.at.0, self.at.1));
        if let Err(error) = pipeline.finish(self.enforcement).await {
            self.rollback().await?;
            return Err(self.named(error));
        }
        self.end(self.at, 0, true).await?;
        self.flushed();
        Ok(())
    }

    fn flushed(&mut self) {
        self.unflushed = None;
        self.shared.gauge().on_flushed();
        self.shared.wake();
    }

    async fn rollback(&mut self) -> Result<(), Error> {
        self.piecemeal = Piecemeal::No;
        self.target.batch_execute("ROLLBACK").await.map_err(Error::target("roll back"))
    }

    fn grouping(&self) -> Grouping {
        match self.enforcement {
            Enforcement::Off => Grouping::Commuting,
            Enforcement::On => Grouping::InOrder,
        }
    }

    fn is_barrier_due(&self, more: u64) -> bool {
        match self.unflushed {
            Some(u) => u.since.elapsed() >= BARRIER_AFTER || u.bytes + more >= BARRIER_BYTES,
            None => more >= BARRIER_BYTES,
        }
    }

    fn begin(&self, is_barrier: bool) -> String {
        let constraints = match self.enforcement {
            Enforcement::Off => "",
            Enforcement::On => "; SET CONSTRAINTS ALL DEFERRED",
        };
        let barrier = if is_barrier { "; SET LOCAL synchronous_commit = on" } else { "" };
        format!("BEGIN{constraints}{barrier}")
    }

    fn origin_action(&self, lsn: Lsn) -> Action {
        let tag = format!("{}:{}:{lsn}", self.identity.source, self.identity.epoch);
        Action::ours(self.origin.clone(), vec![raw(tag.as_bytes())])
    }

    fn progress_action(&self, lsn: Lsn, committed_at: PgTime) -> Action {
        let epoch = i64::try_from(self.identity.epoch.0).expect("epochs stay below 2^63");
        // The time is unknown only until the first transaction of this session.
        let time = if committed_at == PgTime(0) { None } else { raw(&committed_at.0.to_be_bytes()) };
        let values = vec![
            raw(self.identity.mirror.as_str().as_bytes()),
            raw(&epoch.to_be_bytes()),
            raw(&lsn.0.to_be_bytes()),
            time,
        ];
        Action::ours(self.progress.clone(), values)
    }

    /// The division in [`PROGRESS`] failed: that row is not ours any more.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Target { source, .. } if source.code().is_some_and(|c| c.code() == "22012") => {
                Error::StaleEpoch { ours: self.identity.epoch }
            }
            other => other,
        }
    }

    /// What to send for these changes, in order. Looks up tables and prepares statements that
    /// are new.
    async fn actions<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change> + Clone,
        grouping: Grouping,
    ) -> Result<Vec<Action>, Error> {
        if self.tables.values().map(|b| 1 + b.statements.len()).sum::<usize>() > CACHE_MAX {
            self.tables.clear();
        }
        for change in changes.clone() {
            for relation in change.tables() {
                if !self.tables.contains_key(&address(relation)) {
                    let table = Table::load(&self.target, relation.clone(), self.form).await?;
                    let bound = Bound { table: Arc::new(table), statements: HashMap::new() };
                    self.tables.insert(address(relation), bound);
                }
            }
        }
        let steps = plan(changes, grouping, |relation| self.tables[&address(relation)].table.clone())?;
        let mut actions = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Truncate { tables, restart_identity } => {
                    actions.push(truncate(&tables, restart_identity));
                }
                Step::Run(run) => {
                    let shape = Shape::of(&run);
                    let prepared = self.prepared(&run.table, &shape).await?;
                    let Some(prepared) = prepared else { continue };
                    let table = run.table.clone();
                    match shape.arity {
                        Arity::Many => {
                            let values = prepared.statement.arrays(&run.rows);
                            let rows = run.rows.len() as u64;
                            actions.push(Action::rows(prepared.handle.clone(), values, table, None, rows));
                        }
                        Arity::One => actions.extend(run.rows.into_iter().map(|row| {
                            let values = prepared.statement.values(&row);
                            Action::rows(prepared.handle.clone(), values, table.clone(), Some(row), 1)
                        })),
                    }
                }
            }
        }
        Ok(actions)
    }

    /// `None` when there is nothing to execute.
    async fn prepared(&mut self, table: &Arc<Table>, shape: &Shape) -> Result<Option<Arc<Prepared>>, Error> {
        let bound = self.tables.get_mut(&address(&table.source)).expect("it was looked up before planning");
        if let Some(prepared) = bound.statements.get(shape) {
            return Ok(Some(prepared.clone()));
        }
        let statement = Statement::write(table, shape);
        if statement.sql.is_empty() {
            return Ok(None);
        }
        let handle = self.target.prepare(&statement.sql).await.map_err(|source| match source.code() {
            Some(_) => Error::Change { table: table.plain_name(), key: String::new(), source },
            None => Error::Target { doing: "prepare a statement", source },
        })?;
        let prepared = Arc::new(Prepared { statement, handle });
        bound.statements.insert(shape.clone(), prepared.clone());
        Ok(Some(prepared))
    }
}

/// A description is kept by the tables it leads to, so its address is not used again.
fn address(relation: &Arc<Relation>) -> usize {
    Arc::as_ptr(relation) as usize
}

/// `ONLY`, because the source names every table that it emptied; never `CASCADE`, which could
/// empty a table that is not mirrored.
fn truncate(tables: &[Arc<Table>], restart_identity: bool) -> Action {
    let names: Vec<String> = tables.iter().map(|t| format!("ONLY {}", t.name)).collect();
    let restart = if restart_identity { " RESTART IDENTITY" } else { "" };
    let plain: Vec<String> = tables.iter().map(|t| t.plain_name()).collect();
    Action::truncate(format!("TRUNCATE {}{restart}", names.join(", ")), plain.join(", "))
}

/// Whether trying the same changes another way may help.
fn is_about_the_change(error: &Error) -> bool {
    match error {
        Error::Change { .. } => error.retry() == Retry::Never,
        Error::MissingRow { .. } | Error::Drift { .. } => true,
        _ => false,
    }
}
