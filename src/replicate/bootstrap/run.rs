//! The order of the steps.

use super::copy::Copy;
use super::drop::{clean_source, clean_target, end_sessions};
use super::error::{Doing, Error};
use super::gate::Gate;
use super::meter::{Meter, Progress, Stage};
use super::preflight::{Report, check, on_conflict};
use super::publication::{self, uncovered};
use super::schema::{self, Power, Section};
use super::slot::{self, Held};
use super::tables::{self, Identity, Sizes, Table};
use super::triggers::{self, Applier};
use super::workdir::WorkDir;
use super::{application_name, door, identity, made, objects, roles};
use crate::backend::control::{Control, describe};
use crate::base::{DatabaseName, Epoch, Lsn, SlotName};
use crate::catalog;
use crate::config::FullIdentity;
use crate::observe::events::{Events, Level};
use crate::replicate::{MirrorSpec, sequences};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bounds of a bootstrap.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Tables, or parts of them, copied at the same time.
    pub readers: usize,
    /// How long the slot may wait for transactions that were open before it.
    pub slot_wait: Duration,
    /// For each connection and each short statement.
    pub connect_timeout: Duration,
    /// For one run of `pg_dump` or `pg_restore`: an index can take hours.
    pub program_timeout: Duration,
    /// How often to begin again when a table changes its shape while it is copied.
    pub attempts: u32,
    /// Where the file with the schema is kept while it is needed.
    pub work_dir: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            slot_wait: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            program_timeout: Duration::from_secs(24 * 3600),
            attempts: 3,
            work_dir: std::env::temp_dir(),
        }
    }
}

/// A copy that the stream can continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The slot to stream from.
    pub slot: SlotName,
    /// Its consistent point, which is in the state row too: everything before it is copied,
    /// everything behind it will come.
    pub start: Lsn,
    /// Rows copied.
    pub rows: u64,
    /// What a person should know; for the status.
    pub warnings: Vec<String>,
}

/// Makes the mirror from nothing, or again from nothing after an interruption. Checks first, and
/// refuses with everything that is missing before anything is made.
///
/// When it fails or its future is dropped, the slot is gone or will be dropped by the next run;
/// [`super::drop_mirror`] takes the rest away. `epoch` goes into the state row: a run of an older
/// epoch cannot finish over a newer one.
pub async fn run(
    spec: &MirrorSpec,
    epoch: Epoch,
    progress: watch::Sender<Progress>,
    events: &Events,
) -> Result<Ready, Error> {
    run_with(spec, epoch, &Limits::default(), progress, events).await
}

/// As [`run`], with bounds of one's own.
pub async fn run_with(
    spec: &MirrorSpec,
    epoch: Epoch,
    limits: &Limits,
    progress: watch::Sender<Progress>,
    events: &Events,
) -> Result<Ready, Error> {
    let meter = Arc::new(Meter::new(progress));
    let mut attempt = 1;
    loop {
        let report = check(spec, limits).await.map_err(Error::Refused)?;
        let run = Run { spec, epoch, limits, meter: &meter, events, name: application_name(spec) };
        match run.once(report).await {
            Err(Error::Changed { table, what }) if attempt < limits.attempts => {
                let detail = format!("mirror={} table={table} {what}, attempt={attempt}", spec.name);
                events.record(Level::Warn, "bootstrap.began_again", detail);
                attempt += 1;
            }
            done => return done,
        }
    }
}

struct Run<'a> {
    spec: &'a MirrorSpec,
    epoch: Epoch,
    limits: &'a Limits,
    meter: &'a Arc<Meter>,
    events: &'a Events,
    name: String,
}

impl Run<'_> {
    async fn once(&self, report: Report) -> Result<Ready, Error> {
        let source = self.spec.source.control(&self.name, self.limits.connect_timeout).await?;
        let target = self.spec.target.control(&self.name, self.limits.connect_timeout).await?;
        let done = self.copy_all(report, &source, target).await;
        if let Err(error) = &done {
            // A slot nobody reads from keeps the source's log for ever.
            let cleaning = clean_source(self.spec, &source);
            if !matches!(tokio::time::timeout(self.limits.connect_timeout, cleaning).await, Ok(Ok(()))) {
                let detail = format!("mirror={} slot={}", self.spec.name, self.spec.slot());
                self.events.record(Level::Warn, "bootstrap.slot_left", detail);
            }
            let detail = format!("mirror={} error={error}", self.spec.name);
            self.events.record(Level::Warn, "bootstrap.failed", detail);
        }
        done
    }

    async fn copy_all(&self, report: Report, source: &Control, mut target: Control) -> Result<Ready, Error> {
        let began = Instant::now();
        let mut warnings = report.warnings.clone();
        self.meter.stage(Stage::Preparing);
        self.claim_target(&report, &target).await?;
        warnings.extend(self.make_roles(&report, source, &mut target).await?);

        clean_source(self.spec, source).await?;
        self.give_identity(source).await?;
        let same_major = report.source.major == report.target.major;
        let published = tables::list(source, same_major, Sizes::Skipped).await?;
        publication::create(source, self.spec, &published).await?;
        let held =
            slot::create(self.spec, source, report.source.major, &self.name, self.limits, self.meter).await?;
        self.event("bootstrap.slot_created", format!("slot={} lsn={}", self.spec.slot(), held.start));

        let tables = self.tables_under(&held, same_major).await?;
        if let Some(table) = uncovered(source, self.spec, &tables).await?.into_iter().next() {
            return Err(Error::Changed { table, what: "made while the slot was made" });
        }
        self.meter.total(tables.iter().map(|t| t.bytes).sum());
        self.meter.stage(Stage::Copying);

        let work = WorkDir::new(&self.limits.work_dir)?;
        let within = self.limits.program_timeout;
        let gate_in = Gate::open(&self.spec.source, &work.path().join("s"), self.limits.connect_timeout)?;
        let gate_out = Gate::open(&self.spec.target, &work.path().join("t"), self.limits.connect_timeout)?;
        let dump =
            schema::dump(&report.programs, &gate_in, &self.name, &held.snapshot, work.path(), within).await?;
        let power = if report.target.is_superuser { Power::Superuser } else { Power::Owner };
        let jobs = self.limits.readers;
        let refused = dump.restore(Section::BeforeRows, &gate_out, &self.name, 1, power, within).await?;
        warnings.extend(schema::once_more(&target, refused).await?);
        let copy = Copy {
            spec: self.spec,
            snapshot: &held.snapshot,
            application_name: &self.name,
            readers: jobs,
            connect_timeout: self.limits.connect_timeout,
        };
        let started = Instant::now();
        let rows = copy.run(tables, self.meter).await?;
        self.event("bootstrap.rows_copied", format!("rows={rows} ms={}", started.elapsed().as_millis()));

        self.meter.stage(Stage::Finishing);
        let refused = dump.restore(Section::AfterRows, &gate_out, &self.name, jobs, power, within).await?;
        warnings.extend(schema::once_more(&target, refused).await?);
        let start = held.start;
        drop(held);
        let applier = if report.target.can_be_replica { Applier::Replica } else { Applier::Ordinary };
        triggers::silence(&mut target, applier).await?;
        warnings.extend(self.fill_in(source, &mut target).await?);
        self.finish(start, &target).await?;
        self.event(
            "bootstrap.finished",
            format!("rows={rows} lsn={start} ms={}", began.elapsed().as_millis()),
        );
        Ok(Ready { slot: self.spec.slot(), start, rows, warnings })
    }

    fn event(&self, name: &'static str, detail: String) {
        self.events.record(Level::Info, name, format!("mirror={} {detail}", self.spec.name));
    }

    /// From here on the target is ours: the state row says so before anything is made or dropped.
    async fn claim_target(&self, report: &Report, target: &Control) -> Result<(), Error> {
        catalog::schema::ensure(target).await?;
        made::ensure(target).await?;
        if !report.is_interrupted {
            made::remember_extensions(target, &objects::extensions(target).await?).await?;
        }
        let start = catalog::progress::Start {
            mirror: self.spec.name.clone(),
            epoch: self.epoch,
            source_system: report.source.system.clone(),
            source_timeline: report.source.timeline,
            source_database: DatabaseName::new(report.source.database.clone())
                .map_err(|e| Error::link("read the source's name", e.to_string()))?,
            slot: self.spec.slot(),
            lsn: Lsn::ZERO,
        };
        catalog::progress::start(target, &start).await?;
        end_sessions(target, &self.name).await?;
        if report.is_interrupted {
            self.event("bootstrap.interrupted_one_dropped", String::new());
            clean_target(target, &self.spec.name).await?;
        }
        Ok(())
    }

    async fn make_roles(
        &self,
        report: &Report,
        source: &Control,
        target: &mut Control,
    ) -> Result<Vec<String>, Error> {
        let wanted = roles::of_database(source).await?;
        let there = roles::existing(self.spec, &wanted, target, &report.target).await?;
        let plan = roles::plan(&wanted, &there, on_conflict(self.spec));
        if !plan.problems.is_empty() {
            return Err(Error::Refused(plan.problems));
        }
        let mut warnings = roles::apply(target, &plan).await?;
        warnings.extend(door::privileges(source, target).await?);
        warnings.extend(door::shut(source, target).await?);
        Ok(warnings)
    }

    /// Gives tables without a key a full identity, if the user said so, and remembers which.
    async fn give_identity(&self, source: &Control) -> Result<(), Error> {
        let wanted = &self.spec.full_identity;
        if *wanted == FullIdentity::None {
            return Ok(());
        }
        let tables = tables::list(source, true, Sizes::Skipped).await?;
        for table in tables.iter().filter(|t| t.identity == Identity::Missing) {
            if wanted.includes(&table.schema, &table.name) {
                identity::give_full(source, table).await?;
            }
        }
        Ok(())
    }

    async fn tables_under(&self, held: &Held, same_major: bool) -> Result<Vec<Table>, Error> {
        let reader = self.spec.source.control(&self.name, self.limits.connect_timeout).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}';
             SET LOCAL lock_timeout = '60s'",
            held.snapshot
        );
        reader.batch_execute(&begin).await.doing("take over the snapshot")?;
        tables::list(&reader, same_major, Sizes::Measured).await
    }

    /// Sequences and statistics: what the stream will not bring.
    async fn fill_in(&self, source: &Control, target: &mut Control) -> Result<Vec<String>, Error> {
        let mut memory = sequences::Memory::default();
        let polled = sequences::poll(source, target, &self.spec.name, self.epoch, &mut memory).await?;
        let mut warnings = polled.warnings();
        // Without statistics the first queries after a promotion would be planned blindly.
        let analyze = "SET statement_timeout = '10min'; ANALYZE; RESET statement_timeout";
        for statement in analyze.split("; ") {
            if let Err(e) = target.batch_execute(statement).await {
                warnings.push(format!("ANALYZE of the mirror did not end: {}", describe(&e)));
            }
        }
        Ok(warnings)
    }

    /// The last step makes all others durable: its commit waits for everything before it.
    async fn finish(&self, start: Lsn, target: &Control) -> Result<(), Error> {
        let sql = format!(
            "BEGIN; SET LOCAL synchronous_commit = on;
             UPDATE cloud_mirror.progress SET phase = 'streaming', lsn = '{start}', updated_at = now()
                WHERE mirror = {} AND epoch = {} AND phase = 'bootstrapping'",
            catalog::literal(self.spec.name.as_str()),
            self.epoch
        );
        let messages = target.simple_query(&sql).await.doing("finish the bootstrap")?;
        let is_ours =
            messages.iter().any(|m| matches!(m, tokio_postgres::SimpleQueryMessage::CommandComplete(1)));
        if !is_ours {
            target.batch_execute("ROLLBACK").await.doing("finish the bootstrap")?;
            return Err(Error::StaleEpoch);
        }
        target.batch_execute("COMMIT").await.doing("finish the bootstrap")
    }
}
