//! The links of one user to one database.

use super::CancelTarget;
use super::checkout::is_for_replication;
use super::limits::Limit;
use super::seats::{Seat, Seats};
use crate::base::{Epoch, Moment, RoleName, Site};
use crate::config::Rules;
use crate::observe::links::{LinkEntry, LinkState};
use crate::sys::Resting;
use crate::wire::message::parameter_status;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Start-up parameters besides `user` and `database`, in the order in which the client sent them.
pub type Parameters = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

/// Settings as a server has reported them, by name and value. Links that were told the same share
/// one list: it is longer than everything else that an idle session needs.
pub type Reports = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

/// What a server has reported at a log-in.
#[derive(Debug, Default)]
pub struct Greeting {
    pub reported: Reports,
    /// The same as messages, for clients that are welcomed with it.
    pub messages: Box<[u8]>,
}

/// Whose links, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    pub site: Site,
    pub user: RoleName,
    pub database: Arc<[u8]>,
}

/// A link that nobody uses.
#[derive(Debug)]
pub struct Idle {
    pub stream: Resting,
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
    pub greeting: Arc<Greeting>,
    pub target: Arc<CancelTarget>,
    /// When it has become too old.
    pub expires_at: Moment,
    /// Its place in the list of links.
    pub entry: LinkEntry,
    /// The group's generation when the link was asked for.
    pub generation: u64,
}

/// The right to use a link is a [`Seat`]; idle links take none, but count for the limit.
#[derive(Debug)]
pub struct Group {
    key: Arc<GroupKey>,
    /// The database as clients name it.
    pub named: Arc<[u8]>,
    /// What holds for it; a reload changes it.
    pub rules: ArcSwap<Rules>,
    seats: Seats,
    /// The request by which it was used last, where links are to be kept open.
    last: Mutex<Option<super::Request>>,
    idle: Mutex<Vec<Idle>>,
    /// Of the link that was opened last.
    greeting: Mutex<Arc<Greeting>>,
    /// Links of an earlier one are retired: closed as soon as nobody uses them.
    generation: AtomicU64,
    /// Every link that is open, used or not.
    open: Mutex<Vec<Weak<Facts>>>,
    /// Those who wait for a seat.
    waiting: AtomicUsize,
    /// Those who need a link of the server of any group, which has no room for another one.
    starving: Arc<AtomicUsize>,
    /// What clients of the pooled modes are welcomed with.
    pub welcomes: super::welcome::Welcomes,
}

/// Counts as waiting until it is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Group {
    pub fn new(
        key: Arc<GroupKey>,
        named: Arc<[u8]>,
        rules: Rules,
        seats: Seats,
        starving: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            key,
            named,
            rules: ArcSwap::from_pointee(rules),
            seats,
            last: Mutex::default(),
            idle: Mutex::default(),
            greeting: Mutex::default(),
            generation: AtomicU64::default(),
            open: Mutex::default(),
            waiting: AtomicUsize::new(0),
            starving,
            welcomes: Default::default(),
        }
    }

    /// Remembers how it is used, where links are to be kept open.
    pub fn remember(&self, request: &super::Request) {
        if self.rules.load().min_size > 0 && !is_for_replication(&request.parameters) {
            *self.last() = Some(request.clone());
        }
    }

    /// How to open links where some are to be kept open.
    pub fn kept(&self) -> Option<super::Request> {
        if self.rules.load().min_size > 0 { self.last().clone() } else { None }
    }

    /// The server does not let in any more who has used it last.
    pub fn forget(&self) {
        *self.last() = None;
    }

    /// Whether fewer links are open than are to be kept open. Ask without a seat of one's own.
    pub fn is_short(&self) -> bool {
        self.seats_taken() + self.idle_count() < self.rules.load().min_size as usize
    }

    fn last(&self) -> MutexGuard<'_, Option<super::Request>> {
        self.last.lock().expect("no holder of the last request panics")
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
        self.seats.pool(&self.key).0 as usize
    }

    /// The list of the link before, where it is the same.
    pub fn share(&self, reported: Vec<(Vec<u8>, Vec<u8>)>) -> Arc<Greeting> {
        let mut last = self.greeting.lock().expect("no holder of the greeting panics");
        if *last.reported != reported {
            let mut messages = BytesMut::new();
            for (name, value) in &reported {
                parameter_status(&mut messages, name, value);
            }
            *last = Arc::new(Greeting { reported: Arc::new(reported), messages: messages[..].into() });
        }
        last.clone()
    }

    /// The right to use one more link, where one is free now.
    pub fn free_seat(&self) -> Result<Seat, Limit> {
        self.seats.take(&self.key, &self.rules.load())
    }

    /// Whether one more link may be used now.
    pub fn has_room(&self) -> bool {
        let has_spare = |spare: Option<u32>| spare != Some(0);
        self.seats.pool(&self.key).1.is_none() && self.seats.spare(&self.key).into_iter().all(has_spare)
    }

    /// The limit that is reached, if one is.
    pub fn limit(&self) -> Option<Limit> {
        self.seats.limit(&self.key)
    }

    /// How many wait for a seat: of this group, or of any while a limit that groups share is reached; and
    /// for room at the server.
    pub fn waiting(&self) -> usize {
        let starving = self.starving.load(Ordering::Relaxed);
        self.waiting.load(Ordering::Relaxed) + self.seats.waiting_for_others() + starving
    }

    /// Counts as waiting for room at the server.
    pub fn starve(&self) -> Waiting<'_> {
        self.starving.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.starving)
    }

    /// Whether any link is open.
    pub fn has_open(&self) -> bool {
        let open = self.open.lock().expect("no holder of the open links panics");
        open.iter().any(|link| link.strong_count() > 0)
    }

    /// Waits for the right to use one more link; the caller holds the deadline. `announce` is called once
    /// it counts as waiting: whoever has links to spare looks only then.
    pub async fn seat(&self, announce: impl FnOnce()) -> Seat {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        announce();
        let rules = self.rules.load_full();
        self.seats.wait(&self.key, &rules).await
    }

    /// How many links may lie idle beside those in use: of the group, of its database, of its user.
    pub fn spare(&self) -> [Option<usize>; 3] {
        let count = |spare: u32| usize::try_from(spare).unwrap_or(usize::MAX);
        self.seats.spare(&self.key).map(|spare| spare.map(count))
    }

    /// The newest idle link that fits; the ones of another epoch are closed on the way.
    pub fn take(&self, epoch: Epoch, parameters: &Parameters) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|link| link.epoch == epoch);
        let fitting = idle.iter().rposition(|link| link.facts.opened_with == *parameters)?;
        Some(idle.remove(fitting))
    }

    /// Closes the idle links that have lain there longest, until `most` are left.
    pub fn trim(&self, most: usize) {
        let mut idle = self.idle();
        let excess = idle.len().saturating_sub(most);
        idle.drain(..excess);
    }

    /// Keeps a link, unless it has retired.
    pub fn put(&self, link: Idle) {
        let mut idle = self.idle();
        if !self.has_retired(&link.facts) {
            link.facts.entry.facts().set_state(LinkState::Idle);
            idle.push(link);
        }
    }

    /// Closes what `keep` does not want; says whether anything is left, in use or idle.
    pub fn sweep(&self, keep: impl Fn(&Idle) -> bool) -> bool {
        let mut idle = self.idle();
        idle.retain(keep);
        !idle.is_empty()
    }

    /// Closes links that have become too old or that the server has closed, and those that have lain
    /// idle since before `unused`, but for `min_size`, the newest. Says whether any are left.
    pub fn tend(&self, now: Moment, unused: Option<Moment>) -> bool {
        let keep = (self.rules.load().min_size as usize).saturating_sub(self.seats_taken());
        let mut idle = self.idle();
        idle.retain(|link| {
            let is_over = now >= link.facts.expires_at || link.facts.entry.facts().is_close_needed();
            !is_over && link.stream.is_silent()
        });
        if let Some(unused) = unused {
            let old = idle.iter().take_while(|link| link.since < unused).count();
            let excess = idle.len().saturating_sub(keep);
            idle.drain(..old.min(excess));
        }
        !idle.is_empty()
    }

    pub fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().expect("no holder of idle links panics")
    }
}
