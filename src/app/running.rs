//! A process that runs: made from a configuration, ended in order.

use super::driver::{self, Ears};
use super::mirrors::Mirrors;
use super::operator::{ByCommand, Desk};
use super::setup::{self, StartError};
use super::world::{Lease, Overrides, Parts, World};
use super::{ConfigSource, averages, front, settings};
use crate::admin;
use crate::backend::Destination;
use crate::base::{Epoch, Moment, Site};
use crate::config::{self, Config, Flag, LeaseStore};
use crate::failover::controller::{Controller, Event};
use crate::http;
use crate::lease::keeper::{Handle, Keeper};
use crate::lease::protocol::{Rebuild, Setup};
use crate::lease::store::FileStore;
use crate::lease::{self, Timing};
use crate::observe::clients::{Clients, Order};
use crate::observe::events::{Events, Level};
use crate::observe::traffic::Traffic;
use crate::observe::{Counters, logs};
use crate::pool::{Cancels, Pool};
use crate::route::{Door, RouteMap, Routes};
use crate::serve::{Bound, Front};
use crate::session::Shared;
use crate::session::timeouts::Limits;
use crate::sql::pooler::Shutdown;
use crate::sys::{self, file::StateDir};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime;
use tokio::sync::{mpsc, watch};

/// Bounds of the channels between the rooms.
const QUEUE: usize = 4096;
/// Between two looks at idle links.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether all clients have left.
const LEFT_EVERY: Duration = Duration::from_millis(20);

/// How long sessions that are sent away may take.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A running process.
pub struct Running {
    world: Arc<World>,
    front: Arc<Front>,
    stop: watch::Sender<bool>,
    /// Ends the listeners on TCP addresses alone.
    stop_tcp: watch::Sender<bool>,
    /// Where clients connect.
    pub bound: Vec<Bound>,
    /// Where HTTP is answered.
    pub http: Option<SocketAddr>,
    tasks: tokio::task::JoinSet<()>,
}

/// Starts everything. Returns once clients can connect; the controller then finds out who writes,
/// and holds them until it knows.
pub async fn start(config: Config, source: Option<ConfigSource>) -> Result<Running, StartError> {
    let state_dir = StateDir::open(&config.site.state_dir)?;
    super::failback::must_not_be_under_way(&state_dir)?;
    let listeners = front::bind(&config.listen).await?;
    let http_listener = match &config.http.listen {
        None => None,
        Some(at) => {
            let failed = |source| crate::serve::ListenError { at: at.to_string(), option: "--http", source };
            Some(tokio::net::TcpListener::bind((at.host.as_str(), at.port)).await.map_err(failed)?)
        }
    };
    let encryption = settings::encryption(&config.listen)?;
    let mirrors = Mirrors::new(ByCommand::read(&state_dir)?.applied_to(settings::mirrors(&config)));
    let mut advice = Vec::new();
    let local = setup::local(&config, &state_dir, &mut advice).await?;
    let cloud = setup::cloud(&config, &state_dir, &mut advice).await?;
    let events = Events::default();
    for text in &advice {
        events.record(Level::Warn, "app.advised", text.clone());
    }
    let routes = Routes::new(RouteMap {
        version: 1,
        epoch: Epoch::NONE,
        writer: Site::Local,
        life: 0,
        door: Door::Holding,
        halts: Arc::default(),
        names: settings::names(&config.databases),
        is_draining: false,
        local: local.upstream.clone(),
        cloud: cloud.as_ref().map(|cloud| cloud.upstream.clone()),
        mirrored: mirrors.map(),
    });
    let mut lease = None;
    let mut lease_reports = None;
    let mut tasks = tokio::task::JoinSet::new();
    if cloud.is_some() {
        let (keeper, handle) = keeper(&config, &state_dir, &events)?;
        tasks.spawn(keeper.run());
        lease_reports = Some(handle.reports);
        lease = Some(Lease {
            commands: handle.commands,
            view: handle.view,
            store: config.lease.store.to_string(),
        });
    } else {
        // No second site, no lease: nobody else could write.
        routes.gate().open_until(Moment::NEVER);
    }
    let controller = Controller::new(settings::controller(&config));
    let (told, events_in) = mpsc::channel(QUEUE);
    let (suspicions, suspected) = mpsc::channel(QUEUE);
    let (console, calls) = mpsc::channel(64);
    let pool = Pool::new(settings::pool(&config), runtime::Handle::current());
    let counters = Arc::new(Counters::default());
    let hold_timeout = config.failover.hold_timeout;
    let limits = config.pool.clone();
    let world = Arc::new(World::new(Parts {
        config: Arc::new(config),
        state_dir,
        routes: routes.clone(),
        pool: pool.clone(),
        counters: counters.clone(),
        events,
        local,
        cloud,
        mirrors,
        lease,
        controller: told,
        view: controller.view(),
        advice,
        source,
    }));
    let front_slot = world.front.clone();
    let shared = Arc::new(Shared {
        routes,
        pool: pool.clone(),
        cancels: Cancels::default(),
        suspicions,
        console,
        control: runtime::Handle::current(),
        hold_timeout: ArcSwap::from_pointee(hold_timeout),
        counters,
        clients: Clients::default(),
        traffic: Traffic::default(),
        limits: Limits::new(limits),
        habits: Default::default(),
    });
    let (stop, stopped) = watch::channel(false);
    let front = Arc::new(front::front(&world, shared, encryption, stopped.clone())?);
    let _ = front_slot.set(Arc::downgrade(&front));
    let bound = listeners.iter().map(|listener| listener.bound.clone()).collect();
    let (stop_tcp, tcp_stopped) = watch::channel(false);
    for listener in listeners {
        let stopped = match &listener.bound {
            Bound::Tcp(_) => tcp_stopped.clone(),
            Bound::Unix(_) => stopped.clone(),
        };
        tasks.spawn(front.clone().serve(listener, stopped));
    }
    let desk = Arc::new(Desk(world.clone()));
    let http = http_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = http_listener {
        let (desk, mut stopped) = (desk.clone(), stopped.clone());
        tasks.spawn(async move {
            let end = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            if let Err(error) = http::serve(listener, desk, end).await {
                tracing::error!(event = "http.failed", %error);
            }
        });
    }
    tasks.spawn(super::roles::keep(world.clone(), front.clone()));
    tasks.spawn(admin::Console::new(desk.clone(), desk).run(calls));
    tasks.spawn(driver::drive(
        world.clone(),
        controller,
        Ears { events: events_in, suspicions: suspected, lease: lease_reports },
    ));
    tasks.spawn(super::onlooker::look_on(world.clone()));
    let tended = world.routes.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            pool.sweep();
            let map = tended.map();
            let is_open = map.door == Door::Open && tended.gate().is_open(sys::now());
            pool.fill(|Destination { named, .. }| {
                let is_wanted = is_open && map.halts.gives_links(named);
                map.resolve(named).ok().filter(|_| is_wanted)
            });
        }
    });
    let (looked_at, traffic) = (world.clone(), front.shared.traffic.clone());
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(averages::PERIOD).await;
            looked_at.averages.look(&traffic);
        }
    });
    world.set_accepting(true);
    Ok(Running { world, front, stop, stop_tcp, bound, http, tasks })
}

impl Running {
    /// The state, for whoever runs the process in its own.
    pub fn desk(&self) -> Desk {
        Desk(self.world.clone())
    }

    /// Ends in order: no new clients; idle sessions get 57P01, busy ones at the end of their
    /// transaction, at most for `drain_timeout`. The lease is not released.
    pub async fn stop(self) {
        let patience = self.world.config.load().failover.drain_timeout;
        self.stop_within(patience).await;
    }

    /// Returns when the process is to end by SHUTDOWN: at once, or when clients or servers have left.
    pub async fn shut_down(&self) {
        let mut ending = self.world.ending.subscribe();
        loop {
            let how = *ending.borrow_and_update();
            let is_over = || match how {
                None | Some(Shutdown::Immediate) => true,
                Some(Shutdown::WaitForClients) => self.clients() == 0 && self.front.arrivals.count() == 0,
                Some(Shutdown::WaitForServers) => {
                    self.world.pool.retire(|_, _| true);
                    self.world.pool.open_count(|_, _| true) == 0
                }
            };
            match how {
                None => drop(ending.changed().await),
                Some(Shutdown::Immediate) => return,
                Some(_) => {
                    self.stop_tcp.send_replace(true);
                    // First a moment: who asked for it reads its answer, and the last connections come in.
                    let asked_again = tokio::time::timeout(LEFT_EVERY, ending.changed()).await.is_ok();
                    if !asked_again && is_over() {
                        return;
                    }
                }
            }
        }
    }

    /// See [`World::shut_down`].
    pub fn begin_shut_down(&self, how: Shutdown) {
        self.world.shut_down(how);
    }

    /// Ends like [`Self::stop`], with another time for transactions.
    pub async fn stop_within(mut self, patience: Duration) {
        self.world.events.record(Level::Info, "app.stopping", "no new clients");
        self.world.set_accepting(false);
        self.stop_tcp.send_replace(true);
        self.stop.send_replace(true);
        self.world.routes.change(|map| map.is_draining = true);
        let deadline = sys::now() + patience;
        while self.clients() > 0 && sys::now() < deadline {
            tokio::time::sleep(LEFT_EVERY).await;
        }
        let left = self.clients();
        if left > 0 {
            self.world.events.record(Level::Warn, "app.drain_timed_out", format!("clients={left}"));
            self.send_away().await;
        }
        self.world.tell(Event::Stopping).await;
        self.world.mirrors.stop().await;
        self.tasks.shutdown().await;
        drop(self.front);
    }

    /// Ends every session that is left with 57P01, and gives its words a moment to leave.
    async fn send_away(&self) {
        let clients = &self.front.shared.clients;
        for client in clients.list() {
            client.order(Order::ShutDown);
        }
        let deadline = sys::now() + LAST_WORDS;
        while clients.count() > 0 && sys::now() < deadline {
            tokio::time::sleep(LEFT_EVERY).await;
        }
    }

    fn clients(&self) -> u64 {
        use std::sync::atomic::Ordering::Relaxed;
        let counters = &self.world.counters;
        counters.clients_accepted.load(Relaxed).saturating_sub(counters.clients_left.load(Relaxed))
    }

    /// See [`reload`].
    pub fn reload(&self) -> Result<Vec<String>, String> {
        reload(&self.world)
    }

    /// Says where we listen, in the journal, and tells the service manager that we do.
    pub fn announce(&self) {
        sys::notify_manager("READY=1");
        let at: Vec<String> = self.bound.iter().map(ToString::to_string).collect();
        let http = self.http.map_or_else(|| "off".to_owned(), |at| at.to_string());
        self.world.events.record(Level::Info, "app.started", format!("listen={} http={http}", at.join(",")));
    }
}

/// Reads the configuration again and applies what can change; says what was done and what needs a
/// restart. A configuration with a mistake changes nothing.
pub fn reload(world: &World) -> Result<Vec<String>, String> {
    let source = world.source.as_ref().ok_or("there is no configuration to read again")?;
    let read = source.read().map_err(|error| error.to_string())?;
    let new = source.check(&read, &[]).map_err(|error| error.to_string())?;
    let said = apply(world, &new)?;
    *world.overrides() = Overrides { read: Some(read), flags: Vec::new() };
    Ok(said)
}

/// Lays one key over the configuration that was read last; no values take it back.
pub fn set(world: &World, key: &str, values: Vec<String>) -> Result<Vec<String>, String> {
    let source = world.source.as_ref().ok_or("there is no configuration to change")?;
    let mut overrides = world.overrides();
    let read = overrides.read.as_ref().ok_or("the configuration could not be read")?;
    let flag = |value| Flag { name: "SET", key: key.to_owned().into(), value };
    let mut flags: Vec<Flag> = overrides.flags.iter().filter(|flag| flag.key != key).cloned().collect();
    match values.is_empty() {
        true => flags.push(flag(None)),
        false => flags.extend(values.into_iter().map(|value| flag(Some(value)))),
    }
    let new = source.check(read, &flags).map_err(|error| error.to_string())?;
    let said = apply(world, &new)?;
    overrides.flags = flags;
    Ok(said)
}

fn apply(world: &World, new: &Config) -> Result<Vec<String>, String> {
    let old = world.config.load_full();
    let changes = config::diff(&old, new);
    let live = old.with_live_of(new);
    // The files may hold a new certificate under the same name.
    let encryption = settings::encryption(&live.listen).map_err(|error| error.to_string())?;
    if let Some(front) = world.front.get().and_then(std::sync::Weak::upgrade) {
        front.encryption.store(Arc::new(encryption));
        front.proxies.store(Arc::new(settings::proxies(&live.listen)));
        let authenticator = front.authenticator.load().reconfigured(settings::auth(&live));
        front.authenticator.store(Arc::new(authenticator));
        front.shared.limits.store(Arc::new(live.pool.clone()));
        front.tcp.store(Arc::new(live.tcp.clone()));
        front.shared.hold_timeout.store(Arc::new(live.failover.hold_timeout));
    }
    for server in std::iter::once(&world.local).chain(&world.cloud) {
        server.party().endpoint.tls.reload().map_err(|error| error.to_string())?;
    }
    if old.databases != live.databases {
        world.routes.change(|map| map.names = settings::names(&live.databases));
        // Whoever has a link keeps it until the end of its session or transaction, as with PgBouncer.
        world.pool.retire(|_, _| true);
    }
    world.pool.reconfigure(settings::pool(&live));
    logs::set_level(live.log.level);
    let settings = settings::controller(&live);
    if world.controller.try_send(Event::Reloaded { settings }).is_err() {
        return Err("the controller is too busy; try again".to_owned());
    }
    world.config.store(Arc::new(live));
    let mut said = Vec::new();
    if changes.is_empty() {
        said.push("nothing has changed".to_owned());
    }
    said.extend(changes.live.iter().map(|key| format!("{key} is in force")));
    said.extend(changes.needs_restart.iter().map(|key| format!("{key} needs a restart")));
    world.events.record(Level::Info, "app.reloaded", said.join("; "));
    Ok(said)
}

/// The keeper of the lease, not running yet.
pub fn keeper(
    config: &Config,
    state_dir: &StateDir,
    events: &Events,
) -> Result<(Keeper, Handle), StartError> {
    let LeaseStore::File(directory) = &config.lease.store;
    let setup = Setup {
        cluster_id: cluster_id(config),
        instance: state_dir.instance().to_owned(),
        boot_id: sys::boot_id(),
        run: u64::from_ne_bytes(sys::random_bytes()),
        authority: match config.lease.authority {
            config::Authority::Internet => lease::Authority::Internet,
        },
        timing: Timing::for_ttl(config.lease.ttl)?,
        rebuild: if config.lease.rebuild { Rebuild::Allow } else { Rebuild::Refuse },
    };
    let store = Arc::new(FileStore::open(directory.clone())?);
    let (keeper, handle) = Keeper::new(setup, store, events.clone());
    Ok((keeper.remembering(state_dir.path().join("epoch")), handle))
}

/// The pair is known by its two databases: another pair's record is refused.
fn cluster_id(config: &Config) -> String {
    let at = |upstream: &config::Upstream| format!("{}:{}", host(upstream), upstream.port);
    let cloud = config.cloud.as_ref().map(at).unwrap_or_default();
    format!("{}/{} -> {cloud}", at(&config.local), config.local.database)
}

fn host(upstream: &config::Upstream) -> String {
    match &upstream.host {
        config::Host::Tcp(host) => host.clone(),
        config::Host::Unix(directory) => directory.display().to_string(),
    }
}
