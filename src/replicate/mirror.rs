//! The actor that keeps one mirror: bootstrap when there is none, then stream for ever.
//!
//! An attempt goes from two fresh connections to the first error. What it was worth is in the
//! target's progress row and nowhere else, so a new attempt, in this process or the next, starts
//! from there and nothing is lost or applied twice.

use super::error::Error;
use super::settle::{Finished, settle};
use super::spec::MirrorSpec;
use super::stream::{Attempt, Keep};
use super::{bootstrap, status};
use crate::base::{Backoff, Epoch, Retry};
use crate::observe::events::{Events, Level};
use crate::observe::status::{MirrorState, MirrorStatus};
use crate::sys;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// First and longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Pause after an error that needs a person: that person may have come.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// An attempt that lasted so long was a success: the next pause is short again.
const LASTED: Duration = Duration::from_secs(10);

/// A running mirror. Dropping it ends its work at once; nothing is lost by that.
#[derive(Debug)]
pub struct Mirror {
    commands: mpsc::Sender<Command>,
    status: Arc<watch::Sender<MirrorStatus>>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Command {
    Finish { deadline: Duration, reply: oneshot::Sender<Result<Finished, Error>> },
}

impl Mirror {
    /// Starts to keep the mirror, as the holder of `epoch`, on the current runtime.
    pub fn start(spec: MirrorSpec, epoch: Epoch, events: Events) -> Mirror {
        let status = Arc::new(watch::Sender::new(status::unknown(&spec)));
        let (commands, inbox) = mpsc::channel(1);
        let keep = Keep::new(spec, epoch, events, status.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(Actor { keep, inbox }.run()));
        Mirror { commands, status, task }
    }

    /// What it does; the last value stays readable after its end.
    pub fn status(&self) -> watch::Receiver<MirrorStatus> {
        self.status.subscribe()
    }

    /// For a promotion, the source being dead or fenced: reads what the connection still holds,
    /// applies what is complete, makes it durable and ends the work. Fails when the mirror has
    /// never been following or cannot be finished within `deadline`; it has ended then, too.
    pub async fn finish(self, deadline: Duration) -> Result<Finished, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Finish { deadline, reply };
        self.commands.send(command).await.map_err(|_| Error::Stopped)?;
        // The actor keeps the deadline itself; the margin is for its own way back.
        match timeout(deadline + Duration::from_secs(1), answer).await {
            Ok(answer) => answer.unwrap_or(Err(Error::Stopped)),
            Err(_) => Err(Error::Deadline(deadline)),
        }
    }

    /// Ends the work at once and waits until its connections are given up. Nothing is lost: a
    /// later start goes on from the target's progress row.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

struct Actor {
    keep: Keep,
    inbox: mpsc::Receiver<Command>,
}

impl Actor {
    async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let mut attempt = Attempt::first();
        loop {
            let stop = CancellationToken::new();
            let began = sys::now();
            let outcome = {
                let mut work = pin!(work(&self.keep, &mut attempt, &stop));
                tokio::select! {
                    outcome = &mut work => outcome,
                    command = self.inbox.recv() => {
                        let Some(Command::Finish { deadline, reply }) = command else { return };
                        stop.cancel();
                        let finished = timeout(deadline, async {
                            match work.await {
                                // It was streaming, and all that was received is durable.
                                Ok(finished) => Ok(finished),
                                Err(
                                    error @ (Error::StaleEpoch { .. } | Error::Promoted | Error::NotFollowing),
                                ) => Err(error),
                                // It was not streaming, or it met what it cannot apply: what the
                                // progress row says is all there is.
                                Err(error) => {
                                    let detail = format!("mirror={} error={error}", self.keep.spec.name);
                                    self.keep.events.record(Level::Warn, "replicate.finished_early", detail);
                                    settle(&self.keep, deadline).await
                                }
                            }
                        });
                        let finished = finished.await.unwrap_or(Err(Error::Deadline(deadline)));
                        // Whoever asked may have gone.
                        let _ = reply.send(finished);
                        return;
                    }
                }
            };
            let Err(error) = outcome else { return };
            if sys::now().since(began) >= LASTED {
                backoff.reset();
            }
            let Some(pause) = self.judge(error, &mut attempt, &mut backoff) else { return };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                command = self.inbox.recv() => {
                    let Some(Command::Finish { deadline, reply }) = command else { return };
                    let finished = timeout(deadline, settle(&self.keep, deadline)).await;
                    let _ = reply.send(finished.unwrap_or(Err(Error::Deadline(deadline))));
                    return;
                }
            }
        }
    }

    /// What follows from the end of an attempt: a pause, or the end (`None`).
    fn judge(&self, error: Error, attempt: &mut Attempt, backoff: &mut Backoff) -> Option<Duration> {
        let mirror = &self.keep.spec.name;
        match &error {
            Error::NeedsText => {
                attempt.use_text();
                return Some(PAUSE.0);
            }
            Error::Promoted => {
                self.keep.status.send_modify(|s| s.state = MirrorState::Promoted);
                return None;
            }
            // Once more, statement by statement, before a person is called.
            Error::Poison { lsn, .. } if attempt.be_careful_until(*lsn) => {
                let detail = format!("mirror={mirror} error={error}");
                self.keep.events.record(Level::Info, "replicate.stream_taken_apart", detail);
                return Some(PAUSE.0);
            }
            _ => {}
        }
        let reason = error.to_string();
        // Told once, however often it is tried again.
        let is_new = attempt.ends_with(&reason);
        let detail = format!("mirror={mirror} error={reason}");
        if error.retry() == Retry::Never {
            if is_new {
                self.keep.events.record(Level::Error, "replicate.failed", detail);
            }
            self.set_state(MirrorState::Failed { reason });
            // Another has taken over: trying again could only disturb.
            return if matches!(error, Error::StaleEpoch { .. }) { None } else { Some(PAUSE_AFTER_FAILURE) };
        }
        if is_new {
            self.keep.events.record(Level::Warn, "replicate.disconnected", detail);
        }
        self.set_state(MirrorState::Disconnected { reason });
        Some(backoff.next_pause(sys::random_unit()))
    }

    fn set_state(&self, state: MirrorState) {
        self.keep.status.send_modify(|status| {
            status.lag_ms = None;
            status.state = state;
        });
    }
}

/// One attempt: the copy if there is none, then the stream until it breaks or `stop` ends it.
async fn work(keep: &Keep, attempt: &mut Attempt, stop: &CancellationToken) -> Result<Finished, Error> {
    let prepared = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopped),
        prepared = async {
            first_copy(keep).await?;
            keep.prepare(attempt).await
        } => prepared?,
    };
    keep.stream(prepared, attempt, stop).await
}

/// Makes the copy if the target has none, or has half of one.
async fn first_copy(keep: &Keep) -> Result<(), Error> {
    if keep.has_copy().await? {
        return Ok(());
    }
    keep.forget_not_followed().await?;
    let (progress, mut watched) = watch::channel(bootstrap::Progress::default());
    let mut copying = pin!(bootstrap::run(&keep.spec, keep.epoch, progress, &keep.events));
    let show = |p: &bootstrap::Progress| {
        // While it is only checked once more whether what was refused is possible now, the reason
        // stays.
        let is_refused = matches!(keep.status.borrow().state, MirrorState::Failed { .. });
        if is_refused && *p == bootstrap::Progress::default() {
            return;
        }
        keep.status.send_modify(|s| {
            (s.bytes_done, s.bytes_total) = (p.bytes_done, p.bytes_total);
            s.state = MirrorState::Bootstrapping { bytes_done: p.bytes_done, bytes_total: p.bytes_total };
            s.warnings = p.held_up_by.iter().map(|by| format!("the slot waits for {by}")).collect();
        });
    };
    show(&bootstrap::Progress::default());
    loop {
        tokio::select! {
            biased;
            done = &mut copying => {
                let ready = done?;
                keep.status.send_modify(|s| s.bytes_done = s.bytes_total);
                // Those tables are listed anew all the time.
                let is_lasting = |w: &String| !w.contains("updates and deletes are not followed");
                keep.remember(ready.warnings.into_iter().filter(is_lasting).collect());
                return Ok(());
            }
            Ok(()) = watched.changed() => show(&watched.borrow_and_update()),
        }
    }
}
