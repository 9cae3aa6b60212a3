//! Handing links out and taking them back.

use super::group::{Facts, Group, GroupKey, Idle, Parameters, Reports, Seat};
use super::reset::Reported;
use super::welcome::Welcome;
use super::{CancelTarget, reset};
use crate::backend::{self, Address, Destination, Endpoint, Link, Login};
use crate::base::{Epoch, Moment, Retry, Site, sqlstate};
use crate::sys::{self, Detached, Socket};
use crate::wire::report::Report;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How long a link is used: a back end keeps the settings that its role and database had at its start,
/// and what it has cached.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a full server is asked again after links that nobody uses were closed …
const ROOM_WITHIN: Duration = Duration::from_millis(500);
/// … and how often: its back ends need a moment to end.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// For how long the Unix socket is passed over after it has refused a role.
const REFUSAL_KEPT: Duration = Duration::from_secs(60);

/// What the pool may do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most links of one user to one database; `None` leaves it to the server's own limits.
    pub size: Option<usize>,
    /// After this time an unused link is closed.
    pub idle_timeout: Duration,
    /// How long a server may take to log us in.
    pub connect_timeout: Duration,
    /// How long a client waits for a link while all are in use.
    pub wait_timeout: Duration,
    /// Statements kept prepared on one link in the pooled modes.
    pub max_prepared_statements: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: None,
            idle_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(15),
            wait_timeout: Duration::from_secs(120),
            max_prepared_statements: 200,
        }
    }
}

/// What a session wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which server, database and epoch.
    pub destination: Destination,
    /// As whom.
    pub login: Login,
    /// Start-up parameters besides `user` and `database`.
    pub parameters: Parameters,
}

/// Why a session gets no link.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All links that this user may have to this database were in use for too long.
    #[error("no connection was free within {0:?}")]
    Full(Duration),
    /// The server cannot be logged in to.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The runtime is shutting down.
    #[error("the proxy is shutting down")]
    ShuttingDown,
}

impl PoolError {
    /// Nothing was executed: trying again is at worst useless.
    pub fn retry(&self) -> Retry {
        match self {
            PoolError::Full(_) => Retry::Safe,
            PoolError::Backend(error) => error.retry(),
            PoolError::ShuttingDown => Retry::Never,
        }
    }
}

/// A link, and what gives it back.
#[derive(Debug)]
pub struct Checkout {
    /// To be attached where it is used.
    pub stream: Detached,
    /// What the server has sent already.
    pub leftover: Vec<u8>,
    /// Warnings that the server gave at the log-in of a fresh link.
    pub notices: Vec<Report>,
    /// Gives it back.
    pub lease: Lease,
}

/// The right to use a link. Dropped: the link counts as closed.
#[derive(Debug)]
pub struct Lease {
    pool: Pool,
    group: Arc<Group>,
    seat: Seat,
    facts: Arc<Facts>,
    epoch: Epoch,
    /// Replication links are never used again.
    is_reusable: bool,
    _counted: Counted,
}

/// All links. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: ArcSwap<Settings>,
    runtime: Handle,
    groups: Mutex<HashMap<GroupKey, Arc<Group>>>,
    /// Roles that a Unix socket has refused, and when.
    refused: Mutex<HashMap<(String, Address), Moment>>,
    in_use: Arc<AtomicU64>,
    /// Of those in use: links that are being reset.
    returning: Arc<AtomicU64>,
    /// Somebody waits for a seat.
    hungry: watch::Sender<u64>,
    clears: AtomicU64,
}

/// Whether there is room for a link.
#[derive(Debug, Clone)]
pub struct Room(Arc<Group>);

impl Room {
    /// Whether another link may be used now.
    pub fn is_any(&self) -> bool {
        self.0.has_room()
    }
}

#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// An empty pool that works on `runtime`.
    pub fn new(settings: Settings, runtime: Handle) -> Self {
        Self(Arc::new(Inner {
            settings: ArcSwap::from_pointee(settings),
            runtime,
            groups: Mutex::default(),
            refused: Mutex::default(),
            in_use: Arc::default(),
            returning: Arc::default(),
            hungry: watch::Sender::default(),
            clears: AtomicU64::new(0),
        }))
    }

    /// Finds or opens a link. Call it on the control runtime.
    ///
    /// Waits at most `wait_timeout` for its turn where the size is limited; waiters are served in
    /// the order in which they came. The server's own refusals come back in its own words.
    pub async fn check_out(&self, request: &Request) -> Result<Checkout, PoolError> {
        let group = self.group(request);
        let wait = self.0.settings.load().wait_timeout;
        let seat = match group.free_seat() {
            Some(seat) => seat,
            None => {
                // Links that lie idle on a data thread have their seats.
                self.0.hungry.send_modify(|times| *times += 1);
                tokio::time::timeout(wait, group.seat())
                    .await
                    .map_err(|_| PoolError::Full(wait))?
                    .ok_or(PoolError::ShuttingDown)?
            }
        };
        let epoch = request.destination.epoch;
        while let Some(idle) = group.take(epoch, &request.parameters) {
            if reset::is_silent(&idle.stream) {
                let lease = self.lease(group, seat, idle.facts, epoch);
                return Ok(Checkout {
                    stream: idle.stream,
                    leftover: Vec::new(),
                    notices: Vec::new(),
                    lease,
                });
            }
        }
        group.make_room();
        let generation = group.generation();
        let link = self.open_with_room(request).await?;
        let facts = Arc::new(Facts {
            opened_with: request.parameters.clone(),
            reported: group.share(link.parameters),
            target: Arc::new(CancelTarget { endpoint: link.endpoint, pid: link.pid, secret: link.secret }),
            opened_at: sys::now(),
            generation,
        });
        group.opened(&facts);
        let lost = |source| backend::Error::Lost { at: facts.target.endpoint.address.to_string(), source };
        let stream = link.stream.detach().map_err(lost)?;
        let lease = self.lease(group, seat, facts, epoch);
        Ok(Checkout { stream, leftover: link.leftover.to_vec(), notices: link.notices, lease })
    }

    /// A link that lies ready, if there is one; nothing is waited for. Can be called on any runtime.
    pub fn at_hand(&self, request: &Request) -> Option<Checkout> {
        let group = self.group(request);
        let seat = group.free_seat()?;
        let epoch = request.destination.epoch;
        loop {
            let Idle { stream, facts, .. } = group.take(epoch, &request.parameters)?;
            if reset::is_silent(&stream) {
                let lease = self.lease(group, seat, facts, epoch);
                return Some(Checkout { stream, leftover: Vec::new(), notices: Vec::new(), lease });
            }
        }
    }

    /// Changes whenever somebody begins to wait: data threads give up links that nobody uses.
    pub fn hunger(&self) -> watch::Receiver<u64> {
        self.0.hungry.subscribe()
    }

    /// What it may do.
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings.load_full()
    }

    /// What a client of a pooled mode can be told without a link, once a link like it was opened. The
    /// first one opens it while the others wait for what it is told.
    pub async fn welcome(&self, request: &Request) -> Welcome {
        self.group(request).welcomes.ask(request).await
    }

    pub(super) fn remember_welcome(&self, request: &Request, reports: &Reports) {
        self.group(request).welcomes.remember(request, reports);
    }

    /// Takes other settings. A smaller size takes no link away from who uses it.
    pub fn reconfigure(&self, settings: Settings) {
        let size = settings.size;
        self.0.settings.store(Arc::new(settings));
        for group in self.groups().values() {
            group.resize(size);
        }
    }

    /// How often [`Pool::clear`] was called: data threads close theirs.
    pub fn clears(&self) -> u64 {
        self.0.clears.load(Ordering::Relaxed)
    }

    /// Closes every link that nobody uses.
    pub fn clear(&self) {
        self.0.clears.fetch_add(1, Ordering::Relaxed);
        self.0.hungry.send_modify(|times| *times += 1);
        self.groups().retain(|_, group| {
            group.sweep(|_| false);
            Arc::strong_count(group) > 1
        });
    }

    /// Closes links that were not used for `idle_timeout`; call it every now and then.
    pub fn sweep(&self) {
        let now = sys::now();
        let timeout = self.0.settings.load().idle_timeout;
        self.groups().retain(|_, group| {
            group.sweep(|idle| now.since(idle.since) < timeout) || Arc::strong_count(group) > 1
        });
    }

    /// Retires the links to the databases that are chosen, by site and by their names there: those
    /// that nobody uses are closed now, the others when they are given back.
    pub fn retire(&self, chosen: impl Fn(Site, &[u8]) -> bool) {
        for group in self.chosen(chosen) {
            group.retire();
        }
        self.0.hungry.send_modify(|times| *times += 1);
    }

    /// Links to the databases that are chosen, those that are being opened or reset included.
    pub fn open_count(&self, chosen: impl Fn(Site, &[u8]) -> bool) -> usize {
        self.chosen(chosen).iter().map(|group| group.seats_taken() + group.idle_count()).sum()
    }

    /// Those of them that have retired and are still used.
    pub fn retired_count(&self, chosen: impl Fn(Site, &[u8]) -> bool) -> usize {
        self.chosen(chosen).iter().map(|group| group.retired_count()).sum()
    }

    fn chosen(&self, chosen: impl Fn(Site, &[u8]) -> bool) -> Vec<Arc<Group>> {
        let groups = self.groups();
        let groups = groups.iter().filter(|(key, _)| chosen(key.site, &key.database));
        groups.map(|(_, group)| group.clone()).collect()
    }

    /// Links in use and idle.
    pub fn count(&self) -> (u64, u64) {
        let idle = self.groups().values().map(|group| group.idle_count() as u64).sum();
        (self.0.in_use.load(Ordering::Relaxed), idle)
    }

    fn group(&self, request: &Request) -> Arc<Group> {
        let key = GroupKey {
            site: request.destination.site,
            user: request.login.user.as_str().to_owned(),
            database: request.destination.database.clone(),
        };
        let group = || Arc::new(Group::new(self.0.settings.load().size));
        self.groups().entry(key).or_insert_with(group).clone()
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, HashMap<GroupKey, Arc<Group>>> {
        self.0.groups.lock().expect("no holder of the groups panics")
    }

    fn lease(&self, group: Arc<Group>, seat: Seat, facts: Arc<Facts>, epoch: Epoch) -> Lease {
        let is_reusable = !facts.opened_with.iter().any(|(name, _)| name == b"replication");
        let counted = Counted::new(&self.0.in_use);
        Lease { pool: self.clone(), group, seat, facts, epoch, is_reusable, _counted: counted }
    }

    /// Opens a link. Where the server has no room for one (53300), the links that nobody uses make
    /// some: a client without us would not have left them behind.
    async fn open_with_room(&self, request: &Request) -> Result<Link, backend::Error> {
        let until = sys::now() + ROOM_WITHIN;
        let mut has_made_room = false;
        loop {
            let error = match self.open(request).await {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            if error.report().is_none_or(|report| report.code() != sqlstate::TOO_MANY_CONNECTIONS) {
                return Err(error);
            }
            has_made_room |= self.close_idle(request.destination.site);
            let will_be_room = has_made_room || self.0.returning.load(Ordering::Relaxed) > 0;
            if !will_be_room || sys::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Closes the links to a site that nobody uses; says whether there were any.
    fn close_idle(&self, site: Site) -> bool {
        let groups = self.groups();
        let here = groups.iter().filter(|(key, _)| key.site == site);
        here.fold(false, |any, (_, group)| {
            let has_some = group.idle_count() > 0;
            group.sweep(|_| false);
            any || has_some
        })
    }

    /// Tries the ways to the server in turn: the Unix socket serves where pg_hba.conf lets the
    /// role in, TCP otherwise.
    async fn open(&self, request: &Request) -> Result<Link, backend::Error> {
        let mut parameters: Vec<(&[u8], &[u8])> = vec![(b"database", &request.destination.database)];
        parameters.extend(request.parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let endpoints = &request.destination.upstream.endpoints;
        let mut refusal = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let is_last = index + 1 == endpoints.len();
            if !is_last && self.was_refused(request, endpoint) {
                continue;
            }
            let timeout = self.0.settings.load().connect_timeout;
            match backend::connect(endpoint, &request.login, &parameters, timeout).await {
                Ok(link) => return Ok(link),
                Err(error) if !is_last && another_way_may_work(&error) => {
                    self.remember_refusal(request, endpoint);
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.expect("an upstream has at least one endpoint"))
    }

    fn was_refused(&self, request: &Request, endpoint: &Endpoint) -> bool {
        let key = (request.login.user.as_str().to_owned(), endpoint.address.clone());
        let refused = self.0.refused.lock().expect("no holder of the refusals panics");
        refused.get(&key).is_some_and(|at| sys::now().since(*at) < REFUSAL_KEPT)
    }

    fn remember_refusal(&self, request: &Request, endpoint: &Endpoint) {
        let key = (request.login.user.as_str().to_owned(), endpoint.address.clone());
        let mut refused = self.0.refused.lock().expect("no holder of the refusals panics");
        let now = sys::now();
        refused.retain(|_, at| now.since(*at) < REFUSAL_KEPT);
        refused.insert(key, now);
    }
}

/// Whether the refusal is about this way in, and not about the role, the database or the server.
fn another_way_may_work(error: &backend::Error) -> bool {
    match error {
        // No pg_hba.conf entry for this way, or `peer`.
        backend::Error::Server { report, .. } => report.code() == "28000",
        backend::Error::Connect { .. } | backend::Error::NoProof { .. } => true,
        backend::Error::Timeout { .. }
        | backend::Error::Lost { .. }
        | backend::Error::TlsRefused { .. }
        | backend::Error::Tls { .. }
        | backend::Error::Protocol { .. }
        | backend::Error::Scram { .. }
        | backend::Error::BadParameter => false,
    }
}

impl Lease {
    /// What the server reported when the link was opened.
    pub fn reported(&self) -> &Reports {
        &self.facts.reported
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
        sys::now().since(self.facts.opened_at) > LIFETIME
    }

    /// How many wait for a link of this user to this database, of which `own` are the asker's.
    pub fn is_wanted(&self, own: usize) -> bool {
        self.group.waiting() > own
    }

    /// Whether another link of this user to this database may be used now.
    pub fn room(&self) -> Room {
        Room(self.group.clone())
    }

    /// Process id of the back end.
    pub fn pid(&self) -> i32 {
        self.facts.target.pid
    }

    /// Takes back a link that is idle and outside a transaction; resets it in the background. The
    /// client's cancel key must not point to it any more. With a cancel on its way it is closed.
    ///
    /// `reported` are settings that the server has reported since, the last value of each.
    pub fn give_back(self, stream: Detached, reported: Vec<Reported>) {
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
        if reset::reset(&mut socket, &facts.reported, reported).await.is_ok()
            && let Ok(stream) = socket.detach()
        {
            group.put(Idle { stream, facts, epoch, since: sys::now() });
        }
        // Only now may a waiter go on: it finds the link, or room for another.
        drop((seat, _counted, returning));
    }

    fn may_be_used_again(&self) -> bool {
        let is_over = self.is_old() || self.has_retired();
        self.is_reusable && !is_over && !self.is_cancelled()
    }
}
