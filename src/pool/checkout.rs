//! Handing links out and taking them back.

use super::full::Opened;
use super::group::{Facts, Group, GroupKey, Idle, Parameters, Reports};
use super::lease::{Counted, Lease};
use super::limits::Limit;
use super::room::Purpose;
use super::seats::{Seat, Seats};
use super::welcome::Welcome;
use super::{CancelTarget, reset};
use crate::backend::{self, Address, Destination, Endpoint, Link, Login};
use crate::base::{Moment, Retry, Site};
use crate::config::{self, Tuning};
use crate::observe::links::{LinkOrigin, LinkState, Links};
use crate::sys::{self, Map, Resting};
use crate::wire::report::Report;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

/// How many links to one server are opened at a time: each costs it a process, and a storm of clients
/// must leave it time for those who are in.
const OPENING_MAX: u32 = 16;
/// For how long the Unix socket is passed over after it has refused a role.
const REFUSAL_KEPT: Duration = Duration::from_secs(60);

/// What the pool may do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sizes, limits and timeouts.
    pub limits: config::Pool,
    /// When a server that does not answer is given up.
    pub tcp: Tuning,
}

impl Default for Settings {
    fn default() -> Self {
        let tcp = config::Tcp::default().towards_servers();
        Self { limits: config::Pool::default(), tcp }
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
    /// A limit was reached for too long.
    #[error("no connection to the server was free within {}", words(*.waited))]
    Full {
        /// How long it was waited for.
        waited: Duration,
        /// Which limit.
        limit: Limit,
    },
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
            PoolError::Full { .. } => Retry::Safe,
            PoolError::Backend(error) => error.retry(),
            PoolError::ShuttingDown => Retry::Never,
        }
    }
}

/// Milliseconds below a second.
fn words(waited: Duration) -> String {
    if waited < Duration::from_secs(1) || waited.subsec_millis() > 0 {
        return format!("{} ms", waited.as_millis());
    }
    format!("{} s", waited.as_secs())
}

/// A link, and what gives it back.
#[derive(Debug)]
pub struct Checkout {
    /// To be attached where it is used.
    pub stream: Resting,
    /// What the server has sent already.
    pub leftover: Vec<u8>,
    /// Warnings that the server gave at the log-in of a fresh link.
    pub notices: Vec<Report>,
    /// Gives it back.
    pub lease: Lease,
}

/// All links. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    settings: ArcSwap<Settings>,
    pub(super) runtime: Handle,
    groups: Mutex<Map<Arc<GroupKey>, Arc<Group>>>,
    seats: Seats,
    links: Links,
    /// Permits for links that are being opened, by site.
    opening: [Arc<Semaphore>; 2],
    /// Roles that a Unix socket has refused, and when.
    refused: Mutex<Map<(String, Address), Moment>>,
    in_use: Arc<AtomicU64>,
    /// Of those in use: links that are being reset.
    pub(super) returning: Arc<AtomicU64>,
    /// How many need a link of a server that has no room for another one, by site.
    starving: [Arc<AtomicUsize>; 2],
    /// Somebody waits for a seat, or for room at a server.
    hungry: watch::Sender<u64>,
    clears: AtomicU64,
}

impl Pool {
    /// An empty pool that works on `runtime`.
    pub fn new(settings: Settings, runtime: Handle) -> Self {
        Self(Arc::new(Inner {
            settings: ArcSwap::from_pointee(settings),
            runtime,
            groups: Mutex::default(),
            seats: Seats::default(),
            links: Links::default(),
            opening: std::array::from_fn(|_| Arc::new(Semaphore::new(OPENING_MAX as usize))),
            refused: Mutex::default(),
            in_use: Arc::default(),
            returning: Arc::default(),
            starving: Default::default(),
            hungry: watch::Sender::default(),
            clears: AtomicU64::new(0),
        }))
    }

    /// Finds or opens a link. Call it on the control runtime.
    ///
    /// Waits at most `query_wait_timeout` for its turn where a limit is reached; waiters are served in
    /// the order in which they came. The server's own refusals come back in its own words.
    pub async fn check_out(&self, request: &Request) -> Result<Checkout, PoolError> {
        let settings = self.settings();
        let waited = settings.limits.query_wait_timeout;
        let deadline = tokio::time::Instant::now() + waited;
        let group = self.group(request);
        let seat = match group.free_seat() {
            Ok(seat) => seat,
            Err(limit) => {
                // Links that lie idle on a data thread have their seats.
                let seat = tokio::time::timeout_at(deadline, group.seat(|| self.announce())).await;
                seat.map_err(|_| PoolError::Full { waited, limit })?
            }
        };
        let epoch = request.destination.epoch;
        while let Some(idle) = group.take(epoch, &request.parameters) {
            let lain = sys::now().since(idle.since);
            let stream = match lain > settings.limits.server_check_delay {
                true => {
                    idle.facts.entry.facts().set_state(LinkState::Tested);
                    reset::checked(idle.stream).await
                }
                false => idle.stream.is_silent().then_some(idle.stream),
            };
            if let Some(stream) = stream {
                let lease = self.lease(request, group, seat, idle.facts);
                return Ok(Checkout { stream, leftover: Vec::new(), notices: Vec::new(), lease });
            }
        }
        self.open_new(request, group, seat, deadline, Purpose::Use).await
    }

    /// Opens a link for a seat.
    pub(super) async fn open_new(
        &self,
        request: &Request,
        group: Arc<Group>,
        seat: Seat,
        deadline: tokio::time::Instant,
        purpose: Purpose,
    ) -> Result<Checkout, PoolError> {
        let (settings, epoch) = (self.settings(), request.destination.epoch);
        let waited = settings.limits.query_wait_timeout;
        if purpose == Purpose::Use {
            self.make_room(request, &group);
        }
        let turn = self.opening(request.destination.site).acquire_owned();
        let full = |_| PoolError::Full { waited, limit: Limit::LogIns(OPENING_MAX) };
        let turn = tokio::time::timeout_at(deadline, turn).await.map_err(full)?;
        let _turn = turn.map_err(|_| PoolError::ShuttingDown)?;
        let generation = group.generation();
        let opened = match purpose {
            Purpose::Use => self.open_with_room(request, &group).await?,
            Purpose::Stock => Opened::New(self.open(request).await?),
        };
        let link = match opened {
            Opened::New(link) => link,
            Opened::Idle(Idle { stream, facts, .. }) => {
                let lease = self.lease(request, group, seat, facts);
                return Ok(Checkout { stream, leftover: Vec::new(), notices: Vec::new(), lease });
            }
        };
        // Fails on a link that is broken already, which its first use finds.
        let _ = link.stream.tune(&settings.tcp);
        let address = link.endpoint.address.to_string();
        let origin = LinkOrigin {
            site: request.destination.site,
            epoch,
            database: group.named.to_vec(),
            user: request.login.user.to_string(),
            address: address.clone(),
            pid: link.pid,
            tls: link.stream.tls_in_use(),
            connected_at: SystemTime::now(),
            replication: replication(&request.parameters),
        };
        let lifetime = jittered(group.rules.load().server_lifetime, sys::random_bytes());
        let facts = Arc::new(Facts {
            opened_with: request.parameters.clone(),
            greeting: group.share(link.parameters),
            target: Arc::new(CancelTarget::new(link.endpoint, link.pid, link.secret)),
            expires_at: sys::now() + lifetime,
            entry: self.0.links.enter(origin),
            generation,
        });
        group.opened(&facts);
        let lost = |source| backend::Error::Lost { at: address, source };
        let stream = Resting::Nowhere(link.stream.detach().map_err(lost)?);
        let lease = self.lease(request, group, seat, facts);
        Ok(Checkout { stream, leftover: link.leftover.to_vec(), notices: link.notices, lease })
    }

    fn starving(&self, site: Site) -> Arc<AtomicUsize> {
        match site {
            Site::Local => self.0.starving[0].clone(),
            Site::Cloud => self.0.starving[1].clone(),
        }
    }

    fn opening(&self, site: Site) -> Arc<Semaphore> {
        match site {
            Site::Local => self.0.opening[0].clone(),
            Site::Cloud => self.0.opening[1].clone(),
        }
    }

    /// Every link that is open.
    pub fn links(&self) -> &Links {
        &self.0.links
    }

    /// A link that lies ready, if there is one; nothing is waited for. Can be called on any runtime.
    pub fn at_hand(&self, request: &Request) -> Option<Checkout> {
        let group = self.group(request);
        let seat = group.free_seat().ok()?;
        let epoch = request.destination.epoch;
        let check_delay = self.0.settings.load().limits.server_check_delay;
        loop {
            let idle = group.take(epoch, &request.parameters)?;
            if sys::now().since(idle.since) > check_delay {
                // To ask it takes a while.
                group.put(idle);
                return None;
            }
            let Idle { stream, facts, .. } = idle;
            if stream.is_silent() {
                let lease = self.lease(request, group, seat, facts);
                return Some(Checkout { stream, leftover: Vec::new(), notices: Vec::new(), lease });
            }
        }
    }

    /// Somebody begins to wait.
    pub(super) fn announce(&self) {
        self.0.hungry.send_modify(|times| *times += 1);
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

    /// The same where nobody has to be asked.
    pub fn known_welcome(&self, request: &Request) -> Option<Reports> {
        self.group(request).welcomes.find(request)
    }

    /// The server does not let such clients in any more.
    pub fn forget_welcomes(&self, request: &Request) {
        self.group(request).welcomes.forget();
    }

    pub(super) fn remember_welcome(&self, request: &Request, reports: &Reports) {
        self.group(request).welcomes.remember(request, reports);
    }

    /// Takes other settings. A smaller size takes no link away from who uses it.
    pub fn reconfigure(&self, settings: Settings) {
        let limits = settings.limits.clone();
        self.0.settings.store(Arc::new(settings));
        for (key, group) in self.groups().iter() {
            let rules = limits.rules(&group.named, key.user.as_str());
            self.0.seats.change_rules(key, &rules);
            group.rules.store(Arc::new(rules));
        }
    }

    /// How often [`Pool::clear`] was called: data threads close theirs.
    pub fn clears(&self) -> u64 {
        self.0.clears.load(Ordering::Relaxed)
    }

    /// Closes every link that nobody uses, and asks the server anew who is let in.
    pub fn clear(&self) {
        self.0.clears.fetch_add(1, Ordering::Relaxed);
        self.announce();
        self.groups().retain(|_, group| {
            group.sweep(|_| false);
            group.welcomes.forget();
            is_needed(group)
        });
    }

    /// Closes links that were not used for `server_idle_timeout` or are too old; call it every now and
    /// then.
    pub fn sweep(&self) {
        let now = sys::now();
        let unused = self.0.settings.load().limits.server_idle_timeout.map(|timeout| now - timeout);
        self.groups().retain(|_, group| group.tend(now, unused) || is_needed(group));
    }

    /// Retires the links to the databases that are chosen, by site and by their names there: those
    /// that nobody uses are closed now, the others when they are given back.
    pub fn retire(&self, chosen: impl Fn(Site, &[u8]) -> bool) {
        for group in self.chosen(chosen) {
            group.retire();
        }
        self.announce();
    }

    /// Retires the links that are chosen by their user and database at the server, which has changed them, and asks
    /// anew who is let in.
    pub fn outdate(&self, chosen: impl Fn(&str, &[u8]) -> bool) {
        for (key, group) in self.groups().iter() {
            if chosen(key.user.as_str(), &key.database) {
                group.retire();
            }
            group.welcomes.forget();
        }
        self.announce();
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

    /// Whether any link like that is open.
    pub fn has_open(&self, request: &Request) -> bool {
        self.group(request).has_open()
    }

    /// Links in use and idle.
    pub fn count(&self) -> (u64, u64) {
        let idle = self.groups().values().map(|group| group.idle_count() as u64).sum();
        (self.0.in_use.load(Ordering::Relaxed), idle)
    }

    pub(super) fn group(&self, request: &Request) -> Arc<Group> {
        let key = GroupKey {
            site: request.destination.site,
            user: request.login.user.clone(),
            database: request.destination.database.clone(),
        };
        let mut groups = self.groups();
        if let Some(group) = groups.get(&key) {
            return group.clone();
        }
        let named = request.destination.named.clone();
        let rules = self.0.settings.load().limits.rules(&named, key.user.as_str());
        let (starving, key) = (self.starving(key.site), Arc::new(key));
        let group = Arc::new(Group::new(key.clone(), named, rules, self.0.seats.clone(), starving));
        groups.insert(key, group.clone());
        group
    }

    pub(super) fn groups(&self) -> std::sync::MutexGuard<'_, Map<Arc<GroupKey>, Arc<Group>>> {
        self.0.groups.lock().expect("no holder of the groups panics")
    }

    fn lease(&self, request: &Request, group: Arc<Group>, seat: Seat, facts: Arc<Facts>) -> Lease {
        group.remember(request);
        let epoch = request.destination.epoch;
        let is_reusable = !is_for_replication(&facts.opened_with);
        let counted = Counted::new(&self.0.in_use);
        facts.entry.facts().set_state(LinkState::Active);
        Lease { pool: self.clone(), group, seat, facts, epoch, is_reusable, _counted: counted }
    }

    /// Tries the ways to the server in turn: the Unix socket serves where pg_hba.conf lets the
    /// role in, TCP otherwise.
    pub(super) async fn open(&self, request: &Request) -> Result<Link, backend::Error> {
        let mut parameters: Vec<(&[u8], &[u8])> = vec![(b"database", &request.destination.database)];
        parameters.extend(request.parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let endpoints = &request.destination.upstream.endpoints;
        let mut refusal = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let is_last = index + 1 == endpoints.len();
            if !is_last && self.was_refused(request, endpoint) {
                continue;
            }
            let timeout = self.0.settings.load().limits.server_connect_timeout;
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

/// Up to a tenth shorter, so that links that were opened together do not end together.
fn jittered(lifetime: Duration, random: [u8; 2]) -> Duration {
    let tenth = u64::try_from(lifetime.as_nanos() / 10).unwrap_or(u64::MAX);
    let share = u64::from(u16::from_ne_bytes(random));
    lifetime - Duration::from_nanos(tenth / u64::from(u16::MAX) * share)
}

/// Whether somebody uses a group without links, or links of it are to be kept open.
fn is_needed(group: &Arc<Group>) -> bool {
    Arc::strong_count(group) > 1 || group.kept().is_some()
}

/// Links of such clients are nobody else's.
pub(super) fn is_for_replication(parameters: &Parameters) -> bool {
    parameters.iter().any(|(name, _)| name == b"replication")
}

fn replication(parameters: &Parameters) -> Option<String> {
    let found = parameters.iter().rev().find(|(name, _)| name == b"replication");
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_differ_by_up_to_a_tenth() {
        let hour = Duration::from_secs(3600);
        assert_eq!(jittered(hour, [0, 0]), hour);
        let shortest = jittered(hour, [255, 255]);
        assert!((Duration::from_secs(3240)..Duration::from_secs(3241)).contains(&shortest), "{shortest:?}");
        let middle = jittered(hour, u16::to_ne_bytes(1 << 15));
        assert!(shortest < middle && middle < hour);
        assert_eq!(jittered(Duration::ZERO, [1, 2]), Duration::ZERO);
    }

    #[test]
    fn waits_are_told_in_words() {
        assert_eq!(words(Duration::from_millis(300)), "300 ms");
        assert_eq!(words(Duration::from_millis(1500)), "1500 ms");
        assert_eq!(words(Duration::from_secs(120)), "120 s");
    }
}
