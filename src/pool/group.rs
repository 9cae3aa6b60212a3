//! The links of one user to one database.

use crate::base::{Epoch, Moment, Site};
use crate::sys::Detached;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Semaphore;

/// Start-up parameters besides `user` and `database`, in the order in which the client sent them.
pub type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// Whose links, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    pub site: Site,
    pub user: String,
    pub database: Vec<u8>,
}

/// A link that nobody uses.
#[derive(Debug)]
pub struct Idle {
    pub stream: Detached,
    pub facts: Arc<Facts>,
    pub epoch: Epoch,
    pub since: Moment,
}

/// What is known of a link as long as it is open.
#[derive(Debug)]
pub struct Facts {
    /// The start-up parameters it was opened with: only a client with the same ones may have it.
    pub opened_with: Parameters,
    /// What the server reported at log-in, and reports again after a reset.
    pub reported: Vec<(Vec<u8>, Vec<u8>)>,
    pub endpoint: crate::backend::Endpoint,
    pub pid: i32,
    pub secret: Vec<u8>,
}

/// The right to use a link is a permit; idle links hold none, but count for the limit.
#[derive(Debug)]
pub struct Group {
    pub permits: Arc<Semaphore>,
    /// `None` without a limit.
    size: Option<usize>,
    idle: Mutex<Vec<Idle>>,
}

impl Group {
    pub fn new(size: Option<usize>) -> Self {
        let permits = Arc::new(Semaphore::new(size.unwrap_or(Semaphore::MAX_PERMITS)));
        Self { permits, size, idle: Mutex::default() }
    }

    /// The newest idle link that fits; the ones of another epoch are closed on the way.
    pub fn take(&self, epoch: Epoch, parameters: &Parameters) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|link| link.epoch == epoch);
        let fitting = idle.iter().rposition(|link| link.facts.opened_with == *parameters)?;
        Some(idle.remove(fitting))
    }

    /// Closes idle links until one more may be opened; call it with a permit in hand.
    pub fn make_room(&self) {
        let Some(size) = self.size else { return };
        let in_use = size.saturating_sub(self.permits.available_permits());
        let mut idle = self.idle();
        while !idle.is_empty() && in_use + idle.len() > size {
            idle.remove(0);
        }
    }

    pub fn put(&self, link: Idle) {
        self.idle().push(link);
    }

    /// Closes what `keep` does not want; says whether anything is left, in use or idle.
    pub fn sweep(&self, keep: impl Fn(&Idle) -> bool) -> bool {
        let mut idle = self.idle();
        idle.retain(keep);
        !idle.is_empty()
    }

    pub fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().expect("no holder of idle links panics")
    }
}
