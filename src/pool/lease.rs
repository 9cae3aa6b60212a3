//! A link in use, and giving it back.

use super::checkout::Pool;
use super::group::{Facts, Group, Idle, Reports};
use super::limits::Limit;
use super::reset::Reported;
use super::seats::Seat;
use super::{CancelTarget, reset};
use crate::base::{Epoch, Moment};
use crate::observe::links::{LinkFacts, LinkState};
use crate::sys::{self, Resting, Socket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The right to use a link. Dropped: the link counts as closed.
#[derive(Debug)]
pub struct Lease {
    pub(super) pool: Pool,
    pub(super) group: Arc<Group>,
    // Before the seat, which is the next one's at once: a link more than the limit would be listed.
    pub(super) facts: Arc<Facts>,
    pub(super) seat: Seat,
    pub(super) epoch: Epoch,
    /// Replication links are never used again.
    pub(super) is_reusable: bool,
    pub(super) _counted: Counted,
}

/// Whether there is room for a link of one user to one database.
#[derive(Debug, Clone)]
pub struct Room(pub(super) Arc<Group>);

impl Room {
    /// Whether another link may be used now.
    pub fn is_any(&self) -> bool {
        self.0.has_room()
    }

    /// The limit that is in the way.
    pub fn limit(&self) -> Option<Limit> {
        self.0.limit()
    }

    /// Whether there is a limit of its own.
    pub fn is_bounded(&self) -> bool {
        self.0.rules.load().size.is_some()
    }

    /// Whether somebody waits for a link.
    pub fn is_wanted(&self) -> bool {
        self.0.waiting() > 0
    }

    /// Another number once the links of before have retired.
    pub fn generation(&self) -> u64 {
        self.0.generation()
    }
}

#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicU64>);

impl Counted {
    pub(super) fn new(counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// What the server reported when the link was opened.
    pub fn reported(&self) -> &Reports {
        &self.facts.greeting.reported
    }

    /// The same as messages.
    pub fn greeting(&self) -> &[u8] {
        &self.facts.greeting.messages
    }

    /// How to cancel what its back end does.
    pub fn cancel_target(&self) -> &Arc<CancelTarget> {
        &self.facts.target
    }

    /// Whether a cancel for what its back end did may still arrive.
    pub fn is_cancelled(&self) -> bool {
        super::cancel::is_cancelled(&self.facts.target)
    }

    /// Whether it is to be closed when nobody uses it.
    pub fn has_retired(&self) -> bool {
        self.group.has_retired(&self.facts)
    }

    /// Whether its time is over.
    pub fn is_old(&self) -> bool {
        sys::now() > self.facts.expires_at || self.facts.entry.facts().is_close_needed()
    }

    /// How many wait for a link of this user to this database, of which `own` are the asker's.
    pub fn is_wanted(&self, own: usize) -> bool {
        self.group.waiting() > own
    }

    /// What clients were welcomed with is not so any more.
    pub fn forget_welcomes(&self) {
        self.group.welcomes.forget();
    }

    /// Whether another link of this user to this database may be used now.
    pub fn room(&self) -> Room {
        Room(self.group.clone())
    }

    /// What is known of the link.
    pub fn link(&self) -> &Arc<LinkFacts> {
        self.facts.entry.facts()
    }

    /// Lists it as nobody's, in this state.
    pub fn list_as(&self, state: LinkState) {
        let listed = self.link();
        listed.set_client(None, Moment::default());
        listed.set_state(state);
    }

    /// Process id of the back end.
    pub fn pid(&self) -> i32 {
        self.facts.target.pid
    }

    /// Takes back a link that is idle and outside a transaction; resets it in the background. The
    /// client's cancel key must not point to it any more. With a cancel on its way it is closed.
    ///
    /// `reported` are settings that the server has reported since, the last value of each.
    pub fn give_back(self, stream: Resting, reported: Vec<Reported>) {
        if !self.may_be_used_again() {
            return;
        }
        let runtime = self.pool.0.runtime.clone();
        runtime.spawn(async move {
            if let Ok(socket) = stream.attach() {
                self.give_back_here(socket, reported).await;
            }
        });
    }

    /// The same, with the reset in the runtime in which the link is.
    pub async fn give_back_here(self, mut socket: Socket, reported: Vec<Reported>) {
        if !self.may_be_used_again() {
            return;
        }
        let Lease { pool, group, seat, facts, epoch, is_reusable: _, _counted } = self;
        let returning = Counted::new(&pool.0.returning);
        let entry = facts.entry.facts().clone();
        entry.set_state(LinkState::Tested);
        entry.set_client(None, Moment::default());
        let kept = match reset::reset(&mut socket, &facts.greeting.reported, reported).await {
            Ok(()) => Some(Resting::here(socket)),
            Err(_) => {
                drop(socket);
                None
            }
        };
        match kept {
            Some(stream) => group.put(Idle { stream, facts, epoch, since: sys::now() }),
            None => drop(facts),
        }
        // Only now may a waiter go on: it finds the link, or room for another.
        drop((seat, _counted, returning));
    }

    fn may_be_used_again(&self) -> bool {
        let is_over = self.is_old() || self.has_retired();
        self.is_reusable && !is_over && !self.is_cancelled()
    }
}
