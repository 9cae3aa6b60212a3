//! One stream: two fresh connections, four tasks, until the first of them fails.
//!
//! `Frames → reader → (bounded queue) → applier` carries the changes; `feedback` answers the
//! walsender; `tend` looks after what the stream does not carry. All share one gauge.

use super::apply::{self, Applier, Enforcement};
use super::assemble::{Assembler, Limits};
use super::error::Error;
use super::feedback::{self, Shared};
use super::form;
use super::gauge::Gauge;
use super::link::{Identified, ReplicationLink};
use super::reader::{self, End, QUEUE_MAX};
use super::settle::Finished;
use super::source;
use super::spec::MirrorSpec;
use super::status::{Streaming, publish};
use super::tend::{Tended, tend};
use crate::backend::control::Control;
use crate::base::{Epoch, Lsn};
use crate::catalog::not_followed;
use crate::catalog::progress::{self, Phase, Progress};
use crate::observe::events::{Events, Level};
use crate::observe::status::{MirrorState, MirrorStatus};
use crate::sys;
use crate::wire::replication::ValueForm;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// For each connection and each short statement.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often the status is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
/// How often in a row the slot may be busy before an earlier walsender of ours is ended.
const BUSY_MAX: u32 = 3;

/// What a mirror has from its start to its end.
pub struct Keep {
    /// What it is.
    pub spec: Arc<MirrorSpec>,
    /// The epoch under which it writes.
    pub epoch: Epoch,
    /// Where it tells.
    pub events: Events,
    /// Where it publishes.
    pub status: Arc<watch::Sender<MirrorStatus>>,
    /// Warnings that stay.
    pub standing: Mutex<Vec<String>>,
}

/// What one attempt leaves for the next.
#[derive(Debug)]
pub struct Attempt {
    form: Option<ValueForm>,
    careful_until: Lsn,
    busy: u32,
    /// Why the last one ended, until a stream has got further than it.
    ended_with: Option<String>,
    /// Rows and transactions applied by the streams before.
    earlier: (u64, u64),
}

/// Two connections that fit together.
pub struct Prepared {
    target: Control,
    link: ReplicationLink,
    row: Progress,
    source: Identified,
    form: ValueForm,
}

impl Attempt {
    /// Before the first.
    pub fn first() -> Attempt {
        Attempt { form: None, careful_until: Lsn::ZERO, busy: 0, ended_with: None, earlier: (0, 0) }
    }

    /// The next stream is in text form.
    pub fn use_text(&mut self) {
        self.form = Some(ValueForm::Text);
    }

    /// It ended; `false` when the one before ended with the same words.
    pub fn ends_with(&mut self, reason: &str) -> bool {
        let is_new = self.ended_with.as_deref() != Some(reason);
        self.ended_with = Some(reason.to_owned());
        is_new
    }

    /// The next stream applies transactions up to `lsn` statement by statement; `false` when the
    /// last one did already.
    pub fn be_careful_until(&mut self, lsn: Lsn) -> bool {
        let is_new = lsn > self.careful_until;
        self.careful_until = self.careful_until.max(lsn);
        is_new
    }
}

impl Keep {
    /// For a mirror that starts.
    pub fn new(
        spec: MirrorSpec,
        epoch: Epoch,
        events: Events,
        status: Arc<watch::Sender<MirrorStatus>>,
    ) -> Keep {
        Keep { spec: Arc::new(spec), epoch, events, status, standing: Mutex::default() }
    }

    /// A connection to the target; `part` says what for.
    pub async fn target(&self, part: &str, within: Duration) -> Result<Control, Error> {
        let name = self.application_name(part);
        let connected = self.spec.target.control(&name, within).await;
        connected.map_err(|source| Error::Connect { end: "target", source })
    }

    /// A connection to the source; `part` says what for.
    pub async fn source(&self, part: &str) -> Result<Control, Error> {
        let name = self.application_name(part);
        let connected = self.spec.source.control(&name, PATIENCE).await;
        connected.map_err(|source| Error::Connect { end: "source", source })
    }

    /// PostgreSQL cuts names at 63 bytes; the mirror's comes last.
    fn application_name(&self, part: &str) -> String {
        format!("cloud-mirror {part} {}", self.spec.name)
    }

    /// Adds warnings that stay.
    pub fn remember(&self, warnings: Vec<String>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if !standing.contains(&warning) {
                standing.push(warning);
            }
        }
    }

    /// Whether the target holds a copy that a stream can continue.
    pub async fn has_copy(&self) -> Result<bool, Error> {
        let target = self.target("look", PATIENCE).await?;
        match progress::read(&target, &self.spec.name).await? {
            None => Ok(false),
            Some(row) if row.epoch > self.epoch => Err(Error::StaleEpoch { ours: self.epoch }),
            Some(row) => match row.phase {
                Phase::Bootstrapping => Ok(false),
                Phase::Streaming | Phase::Following => Ok(true),
                Phase::Promoted => Err(Error::Promoted),
            },
        }
    }

    /// A copy is made anew: what was not followed before does not matter any more.
    pub async fn forget_not_followed(&self) -> Result<(), Error> {
        let target = self.target("look", PATIENCE).await?;
        Ok(not_followed::forget(&target, &self.spec.name).await?)
    }

    /// Connects to both ends and checks that they belong together.
    pub async fn prepare(&self, attempt: &Attempt) -> Result<Prepared, Error> {
        let target = self.target("apply", PATIENCE).await?;
        self.end_earlier_appliers(&target).await?;
        progress::raise_epoch(&target, &self.spec.name, self.epoch).await?;
        let row = progress::read(&target, &self.spec.name).await?;
        let row = row.expect("its epoch was raised a moment ago");
        self.status.send_modify(|s| {
            s.is_promotable = row.phase == Phase::Following;
            s.last_applied = Some(row.lsn);
            s.flushed = Some(row.lsn);
        });
        let name = self.application_name("stream");
        let mut link = ReplicationLink::connect(&self.spec.source, &name, PATIENCE).await?;
        let source = link.identify().await?;
        check_source(&row, &source)?;
        let form = match attempt.form {
            Some(form) => form,
            None => form::of_database(&target).await?,
        };
        Ok(Prepared { target, link, row, source, form })
    }

    /// An applier of an earlier process may still hold the progress row in an open transaction,
    /// when its machine is gone and the server has not noticed. Ours is the later one: the epoch
    /// and the slot say so.
    async fn end_earlier_appliers(&self, target: &Control) -> Result<(), Error> {
        let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                   WHERE datname = pg_catalog.current_database() AND usename = current_user \
                     AND pid <> pg_catalog.pg_backend_pid() \
                     AND application_name = pg_catalog.current_setting('application_name')";
        target.batch_execute(sql).await.map_err(Error::target("end an earlier applier"))
    }

    /// Streams until something breaks, or until `stop` is cancelled: then what was received is
    /// applied and made durable first.
    pub async fn stream(
        &self,
        prepared: Prepared,
        attempt: &mut Attempt,
        stop: &CancellationToken,
    ) -> Result<Finished, Error> {
        let Prepared { target, link, row, source, form } = prepared;
        let publications = [self.spec.publication(), self.spec.publication_of_inserts()];
        let started = link.start(&self.spec.slot(), row.lsn, &publications, form).await;
        let (frames, writer) = self.on_started(started, attempt).await?;
        let shared = Shared::new(Gauge::new(row.lsn));
        let applier = Applier::new(
            target,
            apply::Identity {
                mirror: self.spec.name.clone(),
                source: self.spec.source.site,
                epoch: self.epoch,
            },
            self.events.clone(),
            shared.clone(),
            form,
            row.lsn,
            attempt.careful_until,
        )
        .await?;
        if applier.enforcement() == Enforcement::On {
            self.remember(vec![
                "the mirror's login may not set session_replication_role: foreign keys and triggers of the \
                 mirror fire while changes are applied; grant it with GRANT SET ON PARAMETER"
                    .to_owned(),
            ]);
        }
        let detail = format!("mirror={} slot={} from={} form={form:?}", self.spec.name, row.slot, row.lsn);
        self.events.record(Level::Info, "replicate.streaming", detail);

        let (sender, batches) = mpsc::channel(QUEUE_MAX);
        let assembler = Assembler::new(row.lsn, Limits::default());
        let reader = reader::run(frames, assembler, sender, shared.clone(), stop.clone());
        let mut parts = Parts {
            reader: AbortOnDropHandle::new(tokio::spawn(reader)),
            applier: AbortOnDropHandle::new(tokio::spawn(applier.run(batches))),
            feedback: AbortOnDropHandle::new(tokio::spawn(feedback::run(shared.clone(), writer))),
        };
        let tended = Tended::shared();
        let mut tending = std::pin::pin!(tend(self, &shared, &tended));
        let mut tick = interval(PUBLISH_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let applied = loop {
            tokio::select! {
                biased;
                applied = &mut parts.applier => break joined(applied).and_then(|result| result),
                // The reader sees the same connection break; its error follows.
                _ = &mut parts.feedback, if !parts.feedback.is_finished() => {}
                _ = tick.tick() => {
                    let has_got_on = {
                        let gauge = shared.gauge();
                        gauge.has_moved_from(row.lsn) || gauge.has_reached(source.at)
                    };
                    if has_got_on {
                        attempt.ended_with = None;
                    }
                    self.publish(&shared, &tended, attempt);
                    if !self.status.borrow().is_promotable && shared.gauge().has_reached(source.at) {
                        self.on_caught_up().await?;
                    }
                }
                // A target that is about to be promoted is left alone.
                never = &mut tending, if !stop.is_cancelled() => match never {},
            }
        };
        let counts = shared.gauge().counts();
        self.publish(&shared, &tended, attempt);
        attempt.earlier = (attempt.earlier.0 + counts.0, attempt.earlier.1 + counts.1);
        let applied = applied?;
        // The applier has ended well, so the reader has let go of the queue.
        match timeout(PATIENCE, &mut parts.reader).await {
            Ok(end) => match joined(end)? {
                _ if stop.is_cancelled() => {}
                End::Stopped | End::Unwanted => return Err(Error::Stopped),
                End::Broken(error) => return Err(error),
            },
            Err(_) => return Err(Error::Silent { silence: PATIENCE }),
        }
        if !self.status.borrow().is_promotable {
            return Err(Error::NotFollowing);
        }
        Ok(Finished { applied, status: self.status.clone() })
    }

    async fn on_started<T>(&self, started: Result<T, Error>, attempt: &mut Attempt) -> Result<T, Error> {
        match started {
            Ok(started) => {
                attempt.busy = 0;
                Ok(started)
            }
            Err(error @ Error::SlotBusy { .. }) => {
                attempt.busy += 1;
                if attempt.busy >= BUSY_MAX {
                    let source = self.source("look").await?;
                    if source::end_our_walsender(&source, &self.spec).await? {
                        let detail = format!("mirror={} slot={}", self.spec.name, self.spec.slot());
                        self.events.record(Level::Warn, "replicate.earlier_walsender_ended", detail);
                    }
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// From here on it may be promoted; the row says so first.
    async fn on_caught_up(&self) -> Result<(), Error> {
        let target = self.target("look", PATIENCE).await?;
        let set = progress::set_phase(&target, &self.spec.name, self.epoch, Phase::Following);
        timeout(PATIENCE, set).await.map_err(|_| Error::Deadline(PATIENCE))??;
        self.status.send_modify(|s| s.is_promotable = true);
        self.events.record(Level::Info, "replicate.following", format!("mirror={}", self.spec.name));
        Ok(())
    }

    fn publish(&self, shared: &Shared, tended: &Mutex<Tended>, attempt: &Attempt) {
        let tended = tended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Some were said by the bootstrap in the same words.
        standing.extend(tended.warnings.into_iter().filter(|w| !standing.contains(w)).collect::<Vec<_>>());
        let gauge = shared.gauge();
        let streaming = Streaming {
            gauge: &gauge,
            facts: &tended.facts,
            rows_not_followed: tended.rows_not_followed,
            earlier: attempt.earlier,
            standing: &standing,
        };
        self.status.send_modify(|status| {
            let failed = match &status.state {
                // It may fail at the same place again: it has failed until it has got past it.
                state @ MirrorState::Failed { .. } if attempt.ended_with.is_some() => Some(state.clone()),
                _ => None,
            };
            publish(status, &streaming, sys::now());
            if let Some(state) = failed {
                status.state = state;
            }
        });
    }
}

struct Parts {
    reader: AbortOnDropHandle<End>,
    applier: AbortOnDropHandle<Result<Lsn, Error>>,
    feedback: AbortOnDropHandle<Error>,
}

/// A task of ours ends by itself or is aborted together with us, so what is left is its panic,
/// which goes on here.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Error> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Stopped,
    })
}

fn check_source(row: &Progress, source: &Identified) -> Result<(), Error> {
    let changed = |what: String| Err(Error::SourceChanged { what });
    if source.system != row.source_system {
        return changed(format!(
            "its system identifier is {}, the copy was made from {}",
            source.system, row.source_system
        ));
    }
    if source.timeline != row.source_timeline {
        return changed(format!(
            "it is on timeline {}, the copy was made on {}: it has been promoted or restored",
            source.timeline, row.source_timeline
        ));
    }
    if source.at < row.lsn {
        return changed(format!(
            "its log ends at {}, before {} which the mirror has: it has lost its newest part",
            source.at, row.lsn
        ));
    }
    Ok(())
}
