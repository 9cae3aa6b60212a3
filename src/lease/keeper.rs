//! Drives the machine of the lease against a store.
//!
//! One task on the control runtime. It has at most one request under way; when the machine asks for another
//! one, the first is abandoned, and what it does after that shows up in a read. Reports leave in order; if
//! nobody takes them the keeper stands still and the lease runs out, which is safe.

use crate::base::{Epoch, Moment, OpId, Site};
use crate::lease::protocol::{
    Effect, Event, Held, Machine, ReadAnswer, Report, RequestId, Setup, Standing, View, WriteAnswer,
};
use crate::lease::store::{Store, StoreError};
use crate::lease::{Authority, Nonce, Phase, Record, Version};
use crate::observe::events::{Events, Level};
use crate::observe::status::LeaseStatus;
use crate::sys::{self, file};
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// How many wishes and reports may wait.
const QUEUE_MAX: usize = 64;

/// The longest sleep. Timers stand still while the machine sleeps, `sys::now()` does not, so the
/// clock is read at least this often.
const NAP_MAX: Duration = Duration::from_millis(500);

/// What can be wished of the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// [`Event::Look`].
    Look {
        /// Comes back in the report.
        op: OpId,
    },
    /// [`Event::Acquire`].
    Acquire {
        /// Comes back in the report.
        op: OpId,
        /// For which site.
        site: Site,
        /// The phase to write.
        phase: Phase,
        /// Why, for the record.
        reason: String,
    },
    /// [`Event::Release`].
    Release {
        /// Comes back in the report.
        op: OpId,
        /// Why, for the record.
        reason: String,
    },
    /// [`Event::EpochKnown`].
    EpochKnown {
        /// From a fence row.
        epoch: Epoch,
    },
}

impl From<Command> for Event {
    fn from(command: Command) -> Self {
        match command {
            Command::Look { op } => Event::Look { op },
            Command::Acquire { op, site, phase, reason } => Event::Acquire { op, site, phase, reason },
            Command::Release { op, reason } => Event::Release { op, reason },
            Command::EpochKnown { epoch } => Event::EpochKnown { epoch },
        }
    }
}

/// The ends that the rest of the process holds. The keeper ends when `commands` is dropped; it
/// never releases the lease by itself.
#[derive(Debug)]
pub struct Handle {
    /// Wishes.
    pub commands: mpsc::Sender<Command>,
    /// What became of them, and every new deadline, in order. Must be read promptly.
    pub reports: mpsc::Receiver<Report>,
    /// The state for reports.
    pub view: watch::Receiver<View>,
}

/// The task; [`Keeper::run`] is its body.
pub struct Keeper {
    machine: Machine,
    store: Arc<dyn Store>,
    memory: Option<PathBuf>,
    events: Events,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Sender<Report>,
    view: watch::Sender<View>,
    request: Option<BoxFuture<'static, Event>>,
    told: Option<String>,
    /// The wall time of the last write, which the machine does not know.
    stamp: Option<(Nonce, u64)>,
}

impl Keeper {
    /// A keeper that wishes nothing yet, and the ends to talk to it.
    pub fn new(setup: Setup, store: Arc<dyn Store>, events: Events) -> (Self, Handle) {
        let machine = Machine::new(setup);
        let (command_sender, commands) = mpsc::channel(QUEUE_MAX);
        let (reports, report_receiver) = mpsc::channel(QUEUE_MAX);
        let (view, view_receiver) = watch::channel(machine.view());
        let keeper = Self {
            machine,
            store,
            memory: None,
            events,
            commands,
            reports,
            view,
            request: None,
            told: None,
            stamp: None,
        };
        (keeper, Handle { commands: command_sender, reports: report_receiver, view: view_receiver })
    }

    /// Remembers the highest epoch that was held in this file of the locked state directory: with it a
    /// restored old record is noticed even where no fence row can be read.
    #[must_use]
    pub fn remembering(mut self, file: PathBuf) -> Self {
        self.memory = Some(file);
        self
    }

    /// Runs until the other ends are dropped.
    pub async fn run(mut self) {
        if let Some(epoch) = self.remembered() {
            // The first step: nothing is read or written before.
            self.machine.step(sys::now(), Event::EpochKnown { epoch });
        }
        loop {
            let nap = self.nap();
            let event = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => command.into(),
                    None => return,
                },
                event = answered(&mut self.request) => event,
                () = tokio::time::sleep(nap) => Event::Tick,
            };
            // Read here, after the wait: the machine's `now` is the time before each send.
            let effects = self.machine.step(sys::now(), event);
            // Before the reports, so that whoever gets one finds a view at least as new.
            self.publish();
            for effect in effects {
                match effect {
                    Effect::Read { request } => {
                        self.request = Some(Box::pin(read(self.store.clone(), request)))
                    }
                    Effect::Write { request, base, mut record } => {
                        record.renewed_at_ms = wall_ms();
                        self.stamp = Some((record.nonce, record.renewed_at_ms));
                        self.request = Some(Box::pin(write(self.store.clone(), request, base, *record)));
                    }
                    Effect::Report(report) => {
                        self.journal(&report);
                        let acquired = match report {
                            Report::Held { op: Some(_), held } => Some(held.epoch()),
                            _ => None,
                        };
                        if self.reports.send(report).await.is_err() {
                            return;
                        }
                        if let Some(epoch) = acquired {
                            self.remember(epoch);
                        }
                    }
                }
            }
        }
    }

    fn remembered(&self) -> Option<Epoch> {
        match file::read_if_exists(self.memory.as_ref()?) {
            Ok(bytes) => String::from_utf8(bytes?).ok()?.trim().parse().ok().map(Epoch),
            Err(error) => {
                self.events.record(Level::Warn, "lease.epoch_not_remembered", error.to_string());
                None
            }
        }
    }

    /// Beside the way of the lease: a full disk must not stop a failover.
    fn remember(&self, epoch: Epoch) {
        let Some(path) = self.memory.clone() else { return };
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file::write_atomic(&path, format!("{epoch}\n").as_bytes()) {
                events.record(Level::Warn, "lease.epoch_not_remembered", error.to_string());
            }
        });
    }

    fn nap(&self) -> Duration {
        match self.machine.next_deadline() {
            // Timers have a resolution of 1 ms; without the millisecond the last one is spent spinning.
            Some(due) => (due.since(sys::now()) + Duration::from_millis(1)).min(NAP_MAX),
            None => NAP_MAX,
        }
    }

    fn publish(&mut self) {
        let mut view = self.machine.view();
        if let (Some(record), Some((nonce, wall_ms))) = (&mut view.record, self.stamp)
            && record.nonce == nonce
        {
            record.renewed_at_ms = wall_ms;
        }
        if view.problem != self.told {
            if let Some(problem) = &view.problem {
                self.events.record(Level::Warn, "lease.store_failed", problem.clone());
            }
            self.told.clone_from(&view.problem);
        }
        self.view.send_if_modified(|before| {
            let is_new = *before != view;
            *before = view;
            is_new
        });
    }

    fn journal(&self, report: &Report) {
        match report {
            Report::Held { op: Some(_), held } => {
                let detail = format!("epoch={} site={}", held.epoch(), held.site());
                self.events.record(Level::Info, "lease.acquired", detail);
            }
            Report::Held { op: None, held } => {
                let (epoch, site) = (held.epoch(), held.site());
                tracing::debug!(event = "lease.renewed", %epoch, %site);
            }
            Report::Looked { .. } => {}
            Report::Refused { why, .. } => self.events.record(Level::Warn, "lease.refused", why.to_string()),
            Report::Released { epoch, .. } => {
                self.events.record(Level::Info, "lease.released", format!("epoch={epoch}"));
            }
            Report::Lost { epoch, why } => {
                self.events.record(Level::Warn, "lease.lost", format!("epoch={epoch}: {why}"));
            }
        }
    }
}

async fn answered(request: &mut Option<BoxFuture<'static, Event>>) -> Event {
    match request {
        Some(future) => {
            let event = future.await;
            *request = None;
            event
        }
        None => std::future::pending().await,
    }
}

async fn read(store: Arc<dyn Store>, request: RequestId) -> Event {
    let answer = match store.read().await {
        Ok(None) => ReadAnswer::Absent,
        Ok(Some((version, bytes))) => match Record::parse(&bytes) {
            Ok(record) => ReadAnswer::Found { version, record: Box::new(record) },
            Err(error) => ReadAnswer::Corrupt { why: error.to_string() },
        },
        Err(error @ StoreError::Corrupt { .. }) => ReadAnswer::Corrupt { why: error.to_string() },
        Err(error) => ReadAnswer::Failed { why: error.to_string() },
    };
    Event::ReadEnded { request, answer }
}

async fn write(
    store: Arc<dyn Store>,
    request: RequestId,
    base: Option<Version>,
    mut record: Record,
) -> Event {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    record.renewed_at_ms = u64::try_from(wall.as_millis()).unwrap_or(0);
    let bytes = record.to_bytes();
    let stored = match base {
        Some(base) => store.replace(base, bytes).await,
        None => store.create(bytes).await,
    };
    let answer = match stored {
        Ok(version) => WriteAnswer::Stored { version },
        Err(StoreError::Conflict) => WriteAnswer::Conflict,
        Err(error) => WriteAnswer::Unknown { why: error.to_string() },
    };
    Event::WriteEnded { request, answer }
}

fn wall_ms() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_millis()).unwrap_or(0)
}

/// The lease in the words of the status document.
pub fn status(view: &View, store: String, authority: Authority, ttl: Duration, now: Moment) -> LeaseStatus {
    let held: Option<Held> = match view.standing {
        Standing::Holding(held) if now < held.deadline() => Some(held),
        Standing::Holding(_) | Standing::Resting | Standing::Acquiring { .. } | Standing::Releasing => None,
    };
    let record = view.record.as_ref();
    let deadline = held.map(Held::deadline).filter(|d| *d != Moment::NEVER);
    LeaseStatus {
        store,
        epoch: record.map_or(Epoch::NONE, |r| r.epoch),
        owner: record.map(|r| r.owner),
        phase: record.map_or(Phase::Normal, |r| r.phase).as_str(),
        is_held: held.is_some(),
        deadline_ms: deadline.map(|d| u64::try_from(d.since(now).as_millis()).unwrap_or(u64::MAX)),
        authority: record.map_or(authority, |r| r.authority).as_str(),
        ttl_ms: record.map_or(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), |r| r.ttl_ms),
        renewed_at: record
            .filter(|r| r.renewed_at_ms > 0)
            .and_then(|r| UNIX_EPOCH.checked_add(Duration::from_millis(r.renewed_at_ms))),
        problem: view.problem.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Timing;
    use crate::lease::protocol::{Loss, Rebuild};
    use crate::lease::store::{Fault, FileStore, MemoryStore};

    fn keeper(store: Arc<dyn Store>, run: u64) -> (Handle, Events) {
        let (keeper, handle, events) = idle(store, run);
        tokio::spawn(keeper.run());
        (handle, events)
    }

    fn idle(store: Arc<dyn Store>, run: u64) -> (Keeper, Handle, Events) {
        let timing = Timing {
            ttl: Duration::from_secs(2),
            renew_every: Duration::from_millis(100),
            request_timeout: Duration::from_millis(500),
            retry_pause: Duration::from_millis(20),
            observe_every: Duration::from_millis(50),
            fence_budget: Duration::from_millis(50),
            clock_error_ppm: 10_000,
        };
        let setup = Setup {
            cluster_id: "pair".into(),
            instance: "a".into(),
            boot_id: "boot".into(),
            run,
            authority: Authority::Internet,
            timing,
            rebuild: Rebuild::Refuse,
        };
        let events = Events::default();
        let (keeper, handle) = Keeper::new(setup, store, events.clone());
        (keeper, handle, events)
    }

    async fn next(handle: &mut Handle) -> Report {
        tokio::time::timeout(Duration::from_secs(60), handle.reports.recv()).await.unwrap().unwrap()
    }

    async fn acquire(handle: &mut Handle, site: Site) -> Held {
        let reason = "test".to_owned();
        let op = OpId(1);
        handle.commands.send(Command::Acquire { op, site, phase: Phase::Normal, reason }).await.unwrap();
        match next(handle).await {
            Report::Held { op: Some(OpId(1)), held } => held,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_lease_is_kept_in_a_file_across_restarts_of_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FileStore::open(dir.path().to_owned()).unwrap());
        let (mut first, _) = keeper(store.clone(), 1);
        let held = acquire(&mut first, Site::Local).await;
        assert_eq!(held.epoch(), Epoch(1));
        let Report::Held { op: None, held: renewed } = next(&mut first).await else { panic!() };
        assert!(renewed.deadline() > held.deadline());
        let view = first.view.borrow().clone();
        let shown = status(&view, store.describe(), Authority::Internet, Duration::from_secs(30), sys::now());
        assert!(
            shown.is_held && shown.deadline_ms.unwrap() <= 1_930 && shown.renewed_at.is_some(),
            "{shown:?}"
        );
        drop(first);
        let (mut second, _) = keeper(store, 2);
        assert_eq!(acquire(&mut second, Site::Local).await.epoch(), Epoch(2));
    }

    #[tokio::test]
    async fn lost_replies_cost_nothing_and_a_dead_store_costs_the_lease() {
        let store = MemoryStore::default();
        store.fail_next(Fault::Unavailable);
        store.fail_next(Fault::Slow(Duration::ZERO));
        store.fail_next(Fault::LostReply);
        let (mut handle, events) = keeper(Arc::new(store.clone()), 1);
        let held = acquire(&mut handle, Site::Local).await;
        assert_eq!(held.epoch(), Epoch(1), "the write whose answer was lost is the one that counts");
        store.fail_always(Some(Fault::Unavailable));
        loop {
            match next(&mut handle).await {
                Report::Held { op: None, .. } => {}
                Report::Lost { epoch, why } => {
                    assert_eq!((epoch, why), (Epoch(1), Loss::Expired));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(events.list().iter().any(|e| e.name == "lease.store_failed"));
        store.fail_always(None);
        assert_eq!(acquire(&mut handle, Site::Local).await.epoch(), Epoch(2));
    }

    #[tokio::test]
    async fn a_release_ends_renewals_and_leaves_the_epoch() {
        let store = MemoryStore::default();
        let (mut handle, _) = keeper(Arc::new(store.clone()), 1);
        acquire(&mut handle, Site::Local).await;
        handle.commands.send(Command::Release { op: OpId(2), reason: "over".into() }).await.unwrap();
        loop {
            match next(&mut handle).await {
                Report::Held { op: None, .. } => {}
                Report::Released { op: OpId(2), epoch } => break assert_eq!(epoch, Epoch(1)),
                other => panic!("{other:?}"),
            }
        }
        let record = Record::parse(&store.peek().unwrap().1).unwrap();
        assert_eq!((record.epoch, record.state), (Epoch(1), crate::lease::Tenure::Released));
    }

    #[tokio::test]
    async fn a_record_that_a_person_removed_is_missed_by_the_next_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch");
        let store = MemoryStore::default();
        let (first, mut handle, _) = idle(Arc::new(store.clone()), 1);
        tokio::spawn(first.remembering(path.clone()).run());
        acquire(&mut handle, Site::Local).await;
        let deadline = sys::now() + Duration::from_secs(5);
        while file::read_if_exists(&path).unwrap().as_deref() != Some(b"1\n") {
            assert!(sys::now() < deadline, "{path:?} was not written");
            tokio::task::yield_now().await;
        }
        drop(handle);
        store.put(None);
        let (second, mut handle, _) = idle(Arc::new(store.clone()), 2);
        tokio::spawn(second.remembering(path).run());
        let wish =
            Command::Acquire { op: OpId(1), site: Site::Local, phase: Phase::Normal, reason: String::new() };
        handle.commands.send(wish).await.unwrap();
        let Report::Refused { why, .. } = next(&mut handle).await else { panic!() };
        assert!(why.to_string().contains("epoch 1 was in use"), "{why}");
        assert_eq!(store.peek(), None);
    }
}
