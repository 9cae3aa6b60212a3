//! Tells the walsender how far we are: at once when it asks, soon when it may forget more, and each second
//! whatever else happens.

use super::error::Error;
use super::gauge::{Gauge, Positions};
use crate::wire::pgoutput::PgTime;
use crate::wire::replication::{Answer, status_update};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How often the walsender hears of us at least, and is asked for a sign of life.
const INTERVAL: Duration = Duration::from_secs(1);
/// A connection that does not take 39 bytes for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The gauge of a stream, shared by its reader, its applier, its feedback and its status.
#[derive(Debug, Default)]
pub struct Shared {
    gauge: Mutex<Gauge>,
    /// Something should be said at once.
    wake: Notify,
}

impl Shared {
    /// For a stream that starts behind what `gauge` says.
    pub fn new(gauge: Gauge) -> Arc<Shared> {
        Arc::new(Shared { gauge: Mutex::new(gauge), wake: Notify::new() })
    }

    /// The gauge; held for a few instructions only.
    pub fn gauge(&self) -> MutexGuard<'_, Gauge> {
        // Each change of a gauge is complete in itself, so one left by a panic can be read on.
        self.gauge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the feedback speak now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Runs until the connection fails; never returns otherwise.
pub async fn run(shared: Arc<Shared>, mut writer: impl AsyncWrite + Unpin) -> Error {
    let mut next_tick = Instant::now();
    loop {
        let answer = if Instant::now() >= next_tick {
            next_tick = Instant::now() + INTERVAL;
            Answer::Wanted
        } else {
            Answer::No
        };
        let Positions { written, flushed, applied } = shared.gauge().positions();
        let message = status_update(written, flushed, applied, wall_clock(), answer);
        let sent = async {
            writer.write_all(&message).await?;
            writer.flush().await
        };
        match timeout(WRITE_TIMEOUT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Error::Lost { why: error.to_string() },
            Err(_) => return Error::Silent { silence: WRITE_TIMEOUT },
        }
        tokio::select! {
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(next_tick) => {}
        }
    }
}

/// For `pg_stat_replication.reply_time`; nothing is decided by it.
fn wall_clock() -> PgTime {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTime::from_unix_micros(i64::try_from(unix.as_micros()).unwrap_or(i64::MAX))
}
