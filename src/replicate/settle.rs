//! The end of a mirror's work before a promotion.

use super::error::Error;
use super::stream::Keep;
use crate::base::Lsn;
use crate::catalog::progress::{self, Phase};
use crate::observe::status::{MirrorState, MirrorStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A mirror whose work has ended with everything durable that was received.
#[derive(Debug, Clone)]
pub struct Finished {
    /// End, in the source's log, of the last transaction on the target: what the source committed
    /// behind it is the lost tail.
    pub applied: Lsn,
    pub(super) status: Arc<watch::Sender<MirrorStatus>>,
}

impl Finished {
    /// To be called once the target is the writer: what the mirror publishes says so from then on.
    pub fn promoted(&self) {
        self.status.send_modify(|s| s.state = MirrorState::Promoted);
    }
}

/// Where no stream is running: what the progress row says is all there is. One durable commit
/// takes along those that were not yet.
pub async fn settle(keep: &Keep, within: Duration) -> Result<Finished, Error> {
    let target = keep.target("settle", within).await?;
    let row = progress::read(&target, &keep.spec.name).await?.ok_or(Error::NotFollowing)?;
    match row.phase {
        Phase::Bootstrapping | Phase::Streaming => return Err(Error::NotFollowing),
        Phase::Promoted => return Err(Error::Promoted),
        Phase::Following => {}
    }
    if row.epoch > keep.epoch {
        return Err(Error::StaleEpoch { ours: keep.epoch });
    }
    // In an epoch that was raised since; nobody else writes this row.
    target.batch_execute("SET synchronous_commit = on").await.map_err(Error::target("settle"))?;
    progress::raise_epoch(&target, &keep.spec.name, keep.epoch).await?;
    Ok(Finished { applied: row.lsn, status: keep.status.clone() })
}
