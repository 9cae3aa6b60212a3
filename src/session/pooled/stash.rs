//! The links that a data thread keeps for its clients, and the clients that wait for one.
//!
//! The links of one user to one database with the same start-up parameters are a [`Group`]. They
//! stay registered with the thread's runtime while nobody uses them, so to take one and to give it
//! back costs no system call. Who finds none waits in line; a link that is given back goes to the
//! first in line directly. New links are made by the pool, on the control runtime, by at most
//! [`FETCHES`] tasks of this thread at a time for a group.
//!
//! Seats of the pool stay with the links, also while they lie here: the limit counts the links of all
//! threads. A thread that has links to spare gives them up when others wait in the pool.

use super::habits::Habits;
use super::has::Has;
use super::linger::Linger;
use crate::base::{Epoch, Moment, RoleName, Site};
use crate::observe::links::LinkState;
use crate::pool::{Parameters, Room};
use crate::session::linking::{Made, NoLink, Wanted};
use crate::session::relay::Linked;
use crate::session::{Identity, Shared};
use crate::sys::{self, Map, Resting};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

/// Links that are made at the same time for one group of one thread.
const FETCHES: usize = 4;
/// After this time without a link another one is asked for, though there are links in use here.
const IMPATIENT: Duration = Duration::from_millis(50);
/// Where there is no limit, so many links on a thread are enough unless somebody has waited for that long:
/// a short wait costs less than a link.
const ENOUGH: usize = 20;
/// How often those who wait are looked at …
const TICK: Duration = Duration::from_millis(250);
/// … and links that nobody uses.
const SLOW_TICK: Duration = Duration::from_secs(1);

thread_local! {
    static STASH: RefCell<Stash> = RefCell::default();
}

#[derive(Default)]
struct Stash {
    groups: Map<Key, Rc<Group>>,
    is_ticking: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    user: RoleName,
    database: Arc<[u8]>,
    parameters: Parameters,
}

/// See the module.
#[derive(Debug)]
pub struct Group {
    shared: Arc<Shared>,
    identity: Identity,
    idle: RefCell<Vec<Linked>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// Links that are being made for this thread.
    fetching: Cell<usize>,
    /// Links of this thread, used or not.
    owned: Rc<Cell<usize>>,
    /// Nobody waits for the links that are being made.
    unwanted: Notify,
    /// Whether the pool would let us make another link, known from the first one on.
    room: RefCell<Option<Room>>,
    /// What its clients are known to do.
    pub habits: Arc<Habits>,
    /// Clients that keep a link without need.
    lingering: RefCell<Vec<Weak<Linger>>>,
    /// Which links of the pool had retired when that was looked at.
    generation: Cell<u64>,
    /// The server had no room for another link when one was asked for last.
    is_server_full: Cell<bool>,
}

#[derive(Debug)]
struct Waiter {
    outcome: RefCell<Option<Result<Linked, NoLink>>>,
    waker: RefCell<Waker>,
    since: Moment,
    notice: Cell<Notice>,
}

/// Whether who waits was told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    /// It has not waited for long.
    Early,
    /// It is time.
    Due,
    /// It was told.
    Given,
}

/// A place in line; given up when dropped.
#[derive(Debug)]
pub struct Ticket {
    waiter: Rc<Waiter>,
    group: Rc<Group>,
}

/// Counts a link as the thread's until it is dropped.
#[derive(Debug)]
pub struct Owned(Rc<Cell<usize>>);

#[cfg(any(test, fuzzing))]
impl Owned {
    /// Of nobody.
    pub fn of_test() -> Self {
        Self(Rc::new(Cell::new(1)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Group {
    /// The group of a client.
    pub fn of(shared: &Arc<Shared>, identity: &Identity) -> Rc<Group> {
        let key = Key {
            user: identity.login.user.clone(),
            database: identity.database.clone(),
            parameters: identity.parameters.clone(),
        };
        let group = || {
            Rc::new(Group {
                shared: shared.clone(),
                identity: identity.clone(),
                idle: RefCell::default(),
                waiting: RefCell::default(),
                fetching: Cell::new(0),
                owned: Rc::default(),
                unwanted: Notify::new(),
                room: RefCell::default(),
                habits: shared.habits.of(identity.login.user.as_str(), &identity.database),
                lingering: RefCell::default(),
                generation: Cell::default(),
                is_server_full: Cell::default(),
            })
        };
        STASH.with_borrow_mut(|stash| stash.groups.entry(key).or_insert_with(group).clone())
    }

    /// The database as its clients name it.
    pub fn database(&self) -> &[u8] {
        &self.identity.database
    }

    /// Its clients' role.
    pub fn user(&self) -> &str {
        self.identity.login.user.as_str()
    }

    /// A mark that a link of this group belongs to the thread.
    pub fn own(&self) -> Owned {
        self.owned.set(self.owned.get() + 1);
        Owned(self.owned.clone())
    }

    /// A link that leads `way` and on which nothing has come since it was given back.
    pub fn take(&self, way: (Site, Epoch, u64), cx: &mut Context<'_>) -> Option<Linked> {
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            if link.way() == way && is_silent(&mut link, cx) {
                return Some(link);
            }
        }
    }

    /// A client keeps its link though it may not need it: it is told when others do.
    pub fn linger(&self, waker: &Waker) -> Rc<Linger> {
        let linger = Rc::new(Linger::begin(waker));
        self.lingering.borrow_mut().push(Rc::downgrade(&linger));
        keep_ticking();
        linger
    }

    /// Takes links back that are kept without need, where others wait for one or they have retired.
    fn press(&self, now: Moment) {
        let mut lingering = self.lingering.borrow_mut();
        lingering.retain(|linger| linger.strong_count() > 0);
        if lingering.is_empty() {
            return;
        }
        let room = self.room.borrow();
        let generation = room.as_ref().map_or(0, Room::generation);
        let have_retired = self.generation.replace(generation) != generation;
        let is_wanted = !self.waiting.borrow().is_empty() || room.as_ref().is_some_and(Room::is_wanted);
        for linger in lingering.iter().filter_map(Weak::upgrade).filter(|linger| linger.is_silent()) {
            if have_retired {
                linger.end();
            } else if is_wanted {
                linger.press(now);
            }
        }
    }

    fn is_lingered(&self) -> bool {
        self.lingering.borrow().iter().filter_map(Weak::upgrade).any(|linger| linger.is_silent())
    }

    /// Gets in line.
    pub fn wait(self: &Rc<Self>, cx: &Context<'_>) -> Ticket {
        let waiter = Rc::new(Waiter {
            outcome: RefCell::default(),
            waker: RefCell::new(cx.waker().clone()),
            since: sys::now(),
            notice: Cell::new(Notice::Early),
        });
        self.waiting.borrow_mut().push_back(waiter.clone());
        self.fetch_if_useful();
        keep_ticking();
        Ticket { waiter, group: self.clone() }
    }

    /// Gives a link back, or brings a new one: to the first in line, to another thread, or to keep.
    pub fn put(self: &Rc<Self>, link: Linked) {
        if link.lease.has_retired() {
            drop(link);
            return self.fetch_if_useful();
        }
        let spares = self.waiting.borrow().is_empty() || self.owned.get() > 1 && link.is_worn();
        if spares && link.lease.is_wanted(self.fetching.get()) {
            give_back(link);
            return self.fetch_if_useful();
        }
        link.lease.list_as(LinkState::Idle);
        let first = self.waiting.borrow_mut().pop_front();
        match first {
            Some(waiter) => waiter.end(Ok(link)),
            None => {
                self.idle.borrow_mut().push(link);
                keep_ticking();
            }
        }
    }

    /// A link was closed: those in line may need another one.
    pub fn fetch_if_useful(self: &Rc<Self>) {
        let fetching = self.fetching.get();
        let most = if self.is_server_full.get() { 1 } else { FETCHES };
        if fetching >= most || fetching >= self.waiting.borrow().len() || self.has_enough() {
            return;
        }
        let has_room = self.room.borrow().as_ref().is_none_or(Room::is_any);
        if has_room || self.owned.get() + fetching == 0 {
            if !has_room {
                self.close_one_beside();
            }
            self.fetch();
        }
    }

    /// Where no limit says how many links are enough: whether those that are there should do for now.
    fn has_enough(&self) -> bool {
        let is_bounded = self.room.borrow().as_ref().is_none_or(Room::is_bounded);
        if is_bounded || self.owned.get() + self.fetching.get() < ENOUGH {
            return false;
        }
        self.waiting.borrow().front().is_none_or(|first| sys::now().since(first.since) < IMPATIENT)
    }

    /// Closes an unused link of the same user to the same database with other parameters: it has the
    /// seat that we need.
    fn close_one_beside(&self) {
        STASH.with_borrow(|stash| {
            let same = |group: &&Rc<Group>| {
                group.identity.database == self.identity.database
                    && group.identity.login.user == self.identity.login.user
            };
            let unused = |group: &Rc<Group>| {
                let mut idle = group.idle.borrow_mut();
                (!idle.is_empty()).then(|| idle.remove(0))
            };
            drop(stash.groups.values().filter(same).find_map(unused));
        });
    }

    fn fetch(self: &Rc<Self>) {
        self.fetching.set(self.fetching.get() + 1);
        let (group, began) = (self.clone(), sys::now());
        tokio::task::spawn_local(async move {
            let wanted = Wanted::another(group.identity.clone());
            let made = tokio::select! {
                made = group.shared.clone().link(wanted) => Some(made),
                () = group.unwanted.notified() => None,
            };
            group.fetching.set(group.fetching.get() - 1);
            match made {
                Some(Ok(made)) => group.welcome(made),
                Some(Err(no_link)) => group.fail(no_link, began),
                None => group.fetch_if_useful(),
            }
        });
    }

    /// How many statements with names a link may have.
    pub fn max_prepared_statements(&self) -> usize {
        self.shared.pool.settings().limits.max_prepared_statements as usize
    }

    /// A link has been made.
    pub fn welcome(self: &Rc<Self>, made: Made) {
        let Made { checkout, destination, .. } = made;
        self.room.replace(Some(checkout.lease.room()));
        self.is_server_full.set(false);
        let Ok(stream) = checkout.stream.attach() else { return };
        let has = Has::fresh(destination.site, checkout.lease.reported(), self.own(), checkout.leftover);
        let link = Linked {
            stream,
            site: destination.site,
            epoch: destination.epoch,
            life: destination.life,
            lease: checkout.lease,
            has: Some(Box::new(has)),
        };
        self.put(link);
        self.fetch_if_useful();
    }

    /// No link could be made. What is only now so concerns all who have waited for it, what is about
    /// the client concerns the first.
    fn fail(self: &Rc<Self>, no_link: NoLink, began: Moment) {
        match no_link {
            NoLink::Refused(complaint) => loop {
                let mut waiting = self.waiting.borrow_mut();
                if waiting.front().is_none_or(|first| first.since > began) {
                    break;
                }
                let first = waiting.pop_front();
                drop(waiting);
                if let Some(first) = first {
                    first.end(Err(NoLink::Refused(complaint.clone())));
                }
            },
            // Who has links goes on with those: the first in line gets the next one that is given back.
            NoLink::ServerFull(_) if self.shared.has_links(&self.identity) => self.is_server_full.set(true),
            NoLink::Ended(bytes) | NoLink::ServerFull(bytes) => {
                let first = self.waiting.borrow_mut().pop_front();
                if let Some(first) = first {
                    first.end(Err(NoLink::Ended(bytes)));
                }
            }
        }
        self.fetch_if_useful();
    }

    fn tick(self: &Rc<Self>, now: Moment) {
        let settings = self.shared.pool.settings();
        let mut has_waited_long = false;
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let Some(first) = waiting.front() else { break };
            let waited = now.since(first.since);
            if waited < settings.limits.query_wait_timeout {
                has_waited_long = waited > IMPATIENT;
                break;
            }
            let first = waiting.pop_front();
            drop(waiting);
            if let Some(first) = first {
                let limit = self.room.borrow().as_ref().and_then(Room::limit);
                first.end(Err(NoLink::Ended(super::words::query_wait_timeout(limit).to_bytes())));
            }
        }
        if has_waited_long && self.fetching.get() == 0 {
            self.fetch();
        }
        if self.waiting.borrow().is_empty() {
            // Who still waits for a seat of the pool keeps others from it, and closes a link of theirs.
            self.unwanted.notify_waiters();
        }
        if let Some(after) = settings.limits.query_wait_notify {
            // Those who came first stand in front.
            let waiting = self.waiting.borrow();
            waiting.iter().take_while(|waiter| now.since(waiter.since) >= after).for_each(|it| it.remind());
        }
        if has_waited_long {
            // Those that are there are kept by others.
            (1..FETCHES).for_each(|_| self.fetch_if_useful());
        }
        self.idle.borrow_mut().retain_mut(|link| {
            let unused = |has: &Has| now.since(has.since);
            let is_young = settings
                .limits
                .server_idle_timeout
                .is_none_or(|most| link.has.as_deref().is_some_and(|has| unused(has) < most));
            // One that the server has closed would be shown, and counted, until somebody wants it.
            is_young && !link.lease.is_old() && is_silent(link, &mut Context::from_waker(Waker::noop()))
        });
    }

    /// Gives up links that others wait for, and closes those that have retired.
    fn share(&self) {
        self.idle.borrow_mut().retain(|link| !link.lease.has_retired());
        loop {
            let mut idle = self.idle.borrow_mut();
            if idle.last().is_none_or(|link| !link.lease.is_wanted(self.fetching.get())) {
                return;
            }
            let link = idle.remove(0);
            drop(idle);
            give_back(link);
        }
    }

    fn is_unused(self: &Rc<Self>) -> bool {
        self.idle.borrow().is_empty()
            && self.waiting.borrow().is_empty()
            && self.fetching.get() == 0
            && !self.is_lingered()
    }
}

impl Waiter {
    fn end(&self, outcome: Result<Linked, NoLink>) {
        self.outcome.replace(Some(outcome));
        self.waker.borrow().wake_by_ref();
    }

    fn remind(&self) {
        if self.notice.get() == Notice::Early {
            self.notice.set(Notice::Due);
            self.waker.borrow().wake_by_ref();
        }
    }
}

impl Ticket {
    /// When it was taken.
    pub fn since(&self) -> Moment {
        self.waiter.since
    }

    /// Whether the client is to be told that it waits: once.
    pub fn takes_notice(&self) -> bool {
        let is_due = self.waiter.notice.get() == Notice::Due;
        if is_due {
            self.waiter.notice.set(Notice::Given);
        }
        is_due
    }

    /// What has come of the wait.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Result<Linked, NoLink>> {
        match self.waiter.outcome.borrow_mut().take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                let mut waker = self.waiter.waker.borrow_mut();
                if !waker.will_wake(cx.waker()) {
                    waker.clone_from(cx.waker());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The place in line, or what was handed over and nobody wants any more.
        self.group.waiting.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        let outcome = self.waiter.outcome.borrow_mut().take();
        if let Some(Ok(link)) = outcome {
            self.group.put(link);
        }
    }
}

/// Nothing has come on a link that lay idle, not even its end. Costs a system call only when the
/// runtime has seen something.
fn is_silent(link: &mut Linked, cx: &mut Context<'_>) -> bool {
    let mut byte = [0; 64];
    Pin::new(&mut link.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

/// Gives a link back to the pool.
fn give_back(link: Linked) {
    let Linked { stream, lease, has, .. } = link;
    if let Ok(stream) = stream.detach() {
        lease.give_back(Resting::Nowhere(stream), has.map_or_else(Vec::new, |has| has.all_reported()));
    }
}

/// The routes have changed: links that lead elsewhere are closed.
pub fn follow(way: (Site, Epoch, u64)) {
    for group in groups() {
        group.idle.borrow_mut().retain(|link| link.way() == way);
    }
}

/// Others wait for links in the pool.
pub fn share() {
    for group in groups() {
        group.share();
    }
}

/// Closes every link that nobody uses.
pub fn clear() {
    for group in groups() {
        group.idle.borrow_mut().clear();
    }
}

/// The thread ends.
pub fn close() {
    clear();
    STASH.with_borrow_mut(|stash| stash.groups.clear());
}

/// How many links nobody uses on this thread.
fn groups() -> Vec<Rc<Group>> {
    STASH.with_borrow(|stash| stash.groups.values().cloned().collect())
}

/// Looks after those who wait and the links that nobody uses, as long as there are any.
fn keep_ticking() {
    let was_ticking = STASH.with_borrow_mut(|stash| std::mem::replace(&mut stash.is_ticking, true));
    if was_ticking {
        return;
    }
    tokio::task::spawn_local(async {
        loop {
            let some_wait = groups().iter().any(|group| !group.waiting.borrow().is_empty());
            tokio::time::sleep(if some_wait { TICK } else { SLOW_TICK }).await;
            let now = sys::now();
            for group in groups() {
                group.tick(now);
                group.press(now);
                group.share();
            }
            let is_done = STASH.with_borrow_mut(|stash| {
                stash.groups.retain(|_, group| !group.is_unused() || Rc::strong_count(group) > 1);
                stash.is_ticking = stash.groups.values().any(|group| !group.is_unused());
                !stash.is_ticking
            });
            if is_done {
                return;
            }
        }
    });
}
