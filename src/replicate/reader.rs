//! Reads the stream into batches and hands them to the applier.

use super::assemble::{Assembler, Batch};
use super::error::Error;
use super::feedback::Shared;
use super::link::Frames;
use crate::sys;
use crate::wire::pgoutput;
use crate::wire::replication::Frame;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Batches that wait for the applier. When they do, the socket is not read any more, and the
/// source keeps what we have not taken: `lag_bytes` shows it.
pub const QUEUE_MAX: usize = 2;
/// A gathered batch leaves when nothing came for so long …
const QUIET: Duration = Duration::from_millis(2);
/// … or when its first transaction is so old and the applier has nothing to do.
const AGE_MAX: Duration = Duration::from_millis(10);
/// The walsender is asked for a sign of life each second; without any it is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// When asked to stop: how long a pause means that nothing more is in the socket.
const LAST_WORDS: Duration = Duration::from_millis(30);
/// When asked to stop: how long is read on at most.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// How a reader ended.
#[derive(Debug)]
pub enum End {
    /// It was asked to; what the socket held has been taken.
    Stopped,
    /// The applier takes nothing any more; it says why.
    Unwanted,
    /// The stream broke. What was complete has been handed over.
    Broken(Error),
}

/// Reads until the stream breaks or `stop` is cancelled. A transaction whose commit did not come is dropped.
pub async fn run(
    mut frames: Frames,
    assembler: Assembler,
    batches: mpsc::Sender<Batch>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> End {
    let mut reader = Reader { assembler, batches, shared, ready_since: None };
    let read = reader.read(&mut frames, &stop).await;
    let end = match read {
        Ok(()) => match timeout(LAST_WORDS_MAX, reader.last_words(&mut frames)).await {
            Ok(Err(Gone::Unwanted)) => return End::Unwanted,
            Ok(Err(Gone::Broken(_)) | Ok(())) | Err(_) => End::Stopped,
        },
        Err(Gone::Unwanted) => return End::Unwanted,
        Err(Gone::Broken(error)) => End::Broken(error),
    };
    match reader.hand_over().await {
        Ok(()) => end,
        Err(_) => End::Unwanted,
    }
}

struct Reader {
    assembler: Assembler,
    batches: mpsc::Sender<Batch>,
    shared: Arc<Shared>,
    ready_since: Option<Instant>,
}

enum Gone {
    Unwanted,
    Broken(Error),
}

impl<E: Into<Error>> From<E> for Gone {
    fn from(error: E) -> Self {
        Gone::Broken(error.into())
    }
}

impl Reader {
    /// Ends well when `stop` is cancelled.
    async fn read(&mut self, frames: &mut Frames, stop: &CancellationToken) -> Result<(), Gone> {
        loop {
            while let Some(frame) = frames.next_buffered()? {
                self.on_frame(frame).await?;
            }
            let is_hungry = self.batches.capacity() == QUEUE_MAX;
            let due = self.ready_since.map(|since| (since + AGE_MAX).min(Instant::now() + QUIET));
            let due = due.unwrap_or_else(|| Instant::now() + SILENCE_MAX);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                frame = frames.next() => self.on_frame(frame?).await?,
                () = tokio::time::sleep_until(due) => match self.ready_since {
                    Some(_) => self.hand_over().await?,
                    None => return Err(Error::Silent { silence: SILENCE_MAX }.into()),
                },
            }
            if is_hungry && self.ready_since.is_some_and(|since| since.elapsed() >= AGE_MAX) {
                self.hand_over().await?;
            }
        }
    }

    /// Takes what the source said before it died.
    async fn last_words(&mut self, frames: &mut Frames) -> Result<(), Gone> {
        while let Ok(frame) = timeout(LAST_WORDS, frames.next()).await {
            self.on_frame(frame?).await?;
        }
        Ok(())
    }

    async fn on_frame(&mut self, frame: Frame) -> Result<(), Gone> {
        match frame {
            Frame::Keepalive { end, sent_at, wants_reply } => {
                let is_between = self.assembler.is_empty();
                self.shared.gauge().on_keepalive(end, is_between, sent_at, sys::now());
                if wants_reply {
                    self.shared.wake();
                }
                Ok(())
            }
            Frame::Data { start, sent_at, content, .. } => {
                self.shared.gauge().on_data(start, sent_at, sys::now());
                let message = pgoutput::decode(&content)?;
                let batch = self.assembler.on_message(message, sent_at)?;
                if let Some(batch) = batch {
                    self.send(batch).await?;
                }
                if !self.assembler.has_ready() {
                    self.ready_since = None;
                } else if self.ready_since.is_none() {
                    self.ready_since = Some(Instant::now());
                }
                Ok(())
            }
        }
    }

    async fn hand_over(&mut self) -> Result<(), Gone> {
        self.ready_since = None;
        match self.assembler.take_ready() {
            Some(batch) => self.send(batch).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, batch: Batch) -> Result<(), Gone> {
        let queued = match &batch {
            Batch::Whole(transactions) => transactions
                .first()
                .zip(transactions.last())
                .map(|(first, last)| (last.commit.commit_lsn, first.commit.committed_at)),
            Batch::Piece { begin, .. } => Some((begin.commit_lsn, begin.committed_at)),
            Batch::Last { .. } => None,
        };
        if let Some((commit, committed_at)) = queued {
            self.shared.gauge().on_queued(commit, committed_at);
        }
        self.batches.send(batch).await.map_err(|_| Gone::Unwanted)
    }
}
