//! The links of one user to one database.

use super::CancelTarget;
use crate::base::{Epoch, Moment, Site};
use crate::sys::Detached;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Start-up parameters besides `user` and `database`, in the order in which the client sent them.
pub type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// Settings as a server has reported them, by name and value. Links that were told the same share
/// one list: it is longer than everything else that an idle session needs.
pub type Reports = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

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
    pub reported: Reports,
    pub target: Arc<CancelTarget>,
    pub opened_at: Moment,
    /// The group's generation when the link was asked for.
    pub generation: u64,
}

/// How many permits there are, those of taken seats included; as many as there can be without a
/// limit.
#[derive(Debug)]
struct Size {
    is: usize,
    should_be: usize,
}

/// The right to use a link.
#[derive(Debug)]
pub struct Seat {
    group: Arc<Group>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.group.size();
        if size.is > size.should_be {
            size.is -= 1;
            permit.forget();
        }
    }
}

/// The right to use a link is a [`Seat`]; idle links take none, but count for the limit.
#[derive(Debug)]
pub struct Group {
    permits: Arc<Semaphore>,
    size: Mutex<Size>,
    idle: Mutex<Vec<Idle>>,
    /// Of the link that was opened last.
    reported: Mutex<Reports>,
    /// Links of an earlier one are retired: closed as soon as nobody uses them.
    generation: AtomicU64,
    /// Every link that is open, used or not.
    open: Mutex<Vec<Weak<Facts>>>,
    /// Those who wait for a seat.
    waiting: AtomicUsize,
    /// What clients of the pooled modes are welcomed with.
    pub welcomes: super::welcome::Welcomes,
}

/// Counts as waiting until it is dropped.
#[derive(Debug)]
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Group {
    pub fn new(size: Option<usize>) -> Self {
        let size = size.unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(size));
        let size = Mutex::new(Size { is: size, should_be: size });
        Self {
            permits,
            size,
            idle: Mutex::default(),
            reported: Mutex::default(),
            generation: AtomicU64::default(),
            open: Mutex::default(),
            waiting: AtomicUsize::new(0),
            welcomes: Default::default(),
        }
    }

    /// What a link that is about to be opened belongs to.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a link is to be closed once nobody uses it.
    pub fn has_retired(&self, facts: &Facts) -> bool {
        facts.generation < self.generation()
    }

    /// Retires every link of today, and closes those that nobody uses.
    pub fn retire(&self) {
        // Under the lock that `put` takes: a link is closed here or there.
        let mut idle = self.idle();
        self.generation.fetch_add(1, Ordering::AcqRel);
        idle.clear();
    }

    /// Remembers an open link for as long as it is open.
    pub fn opened(&self, facts: &Arc<Facts>) {
        let mut open = self.open.lock().expect("no holder of the open links panics");
        open.retain(|link| link.strong_count() > 0);
        open.push(Arc::downgrade(facts));
    }

    /// How many retired links are still open.
    pub fn retired_count(&self) -> usize {
        let open = self.open.lock().expect("no holder of the open links panics");
        open.iter().filter_map(Weak::upgrade).filter(|facts| self.has_retired(facts)).count()
    }

    /// Seats taken: links in use, being opened or being reset.
    pub fn seats_taken(&self) -> usize {
        let size = self.size().is;
        size.saturating_sub(self.permits.available_permits())
    }

    /// The list of the link before, where it is the same.
    pub fn share(&self, reported: Vec<(Vec<u8>, Vec<u8>)>) -> Reports {
        let mut last = self.reported.lock().expect("no holder of the reports panics");
        if **last != reported {
            *last = Arc::new(reported);
        }
        last.clone()
    }

    /// The right to use one more link, where one is free now.
    pub fn free_seat(self: &Arc<Self>) -> Option<Seat> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        Some(Seat { group: self.clone(), permit: Some(permit) })
    }

    /// Whether one more link may be used now.
    pub fn has_room(&self) -> bool {
        self.permits.available_permits() > 0
    }

    /// How many wait for a seat.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for the right to use one more link.
    pub async fn seat(self: &Arc<Self>) -> Option<Seat> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(Seat { group: self.clone(), permit: Some(permit) })
    }

    /// Changes the limit. Seats that are taken stay so; beyond a smaller limit they are not given
    /// to others when they become free.
    pub fn resize(&self, size: Option<usize>) {
        let wanted = size.unwrap_or(Semaphore::MAX_PERMITS);
        let mut size = self.size();
        size.should_be = wanted;
        if wanted > size.is {
            self.permits.add_permits(wanted - size.is);
            size.is = wanted;
        } else {
            size.is -= self.permits.forget_permits(size.is - wanted);
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().expect("no holder of the size panics")
    }

    /// The newest idle link that fits; the ones of another epoch are closed on the way.
    pub fn take(&self, epoch: Epoch, parameters: &Parameters) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|link| link.epoch == epoch);
        let fitting = idle.iter().rposition(|link| link.facts.opened_with == *parameters)?;
        Some(idle.remove(fitting))
    }

    /// Closes idle links until one more may be opened; call it with a seat in hand.
    pub fn make_room(&self) {
        let (in_use, size) = (self.seats_taken(), self.size().is);
        let mut idle = self.idle();
        while !idle.is_empty() && in_use + idle.len() > size {
            idle.remove(0);
        }
    }

    /// Keeps a link, unless it has retired.
    pub fn put(&self, link: Idle) {
        let mut idle = self.idle();
        if !self.has_retired(&link.facts) {
            idle.push(link);
        }
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
