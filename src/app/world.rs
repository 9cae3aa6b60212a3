//! What every part of the process shares.

use super::ConfigSource;
use super::averages::Averages;
use super::mirrors::Mirrors;
use super::server::Server;
use super::source::Read;
use crate::base::{Epoch, OpId, Site};
use crate::config::{Config, Flag};
use crate::failover::controller;
use crate::lease;
use crate::observe::Counters;
use crate::observe::clients::Clients;
use crate::observe::events::{Events, Level};
use crate::pool::Pool;
use crate::route::{Entry, Halt, Halts, Routes};
use crate::serve::Front;
use crate::sql::pooler::Shutdown;
use crate::sys::file::StateDir;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use tokio::sync::{mpsc, oneshot, watch};

/// The lease, for a pair of sites.
#[derive(Debug)]
pub struct Lease {
    /// Wishes to its keeper.
    pub commands: mpsc::Sender<lease::keeper::Command>,
    /// Its state for reports.
    pub view: watch::Receiver<lease::protocol::View>,
    /// Where the record is.
    pub store: String,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// Locked for this process.
    pub state_dir: StateDir,
    /// Where statements go.
    pub routes: Routes,
    /// Links to servers.
    pub pool: Pool,
    /// Counts.
    pub counters: Arc<Counters>,
    /// The journal.
    pub events: Events,
    /// The local server.
    pub local: Server,
    /// The cloud's, if there is one.
    pub cloud: Option<Server>,
    /// The mirrors; none without a cloud.
    pub mirrors: Mirrors,
    /// The lease; none without a cloud.
    pub lease: Option<Lease>,
    /// Tells the controller.
    pub controller: mpsc::Sender<controller::Event>,
    /// The controller as of its last step.
    pub view: Mutex<controller::View>,
    /// What a person should know of the set-up.
    pub advice: Mutex<Vec<String>>,
    /// Where the configuration came from; `None` when it cannot be read again.
    pub source: Option<ConfigSource>,
    /// What was counted a while ago.
    pub averages: Averages,
    /// The front, once it is there, for a reload.
    pub front: Arc<OnceLock<Weak<Front>>>,
    /// Operators that wait for the end of what they asked for.
    answers: Mutex<HashMap<OpId, Answer>>,
    is_accepting: AtomicBool,
    requests: AtomicU64,
    /// How the process is to end, once that is known.
    pub ending: watch::Sender<Option<Shutdown>>,
    /// What SET has changed since the configuration was read, and that configuration.
    overrides: Mutex<Overrides>,
}

/// Settings changed by command.
#[derive(Debug, Default)]
pub struct Overrides {
    /// The file as it was read last.
    pub read: Option<Read>,
    /// Laid over it.
    pub flags: Vec<Flag>,
}

type Answer = oneshot::Sender<Result<Epoch, String>>;

/// The parts of a [`World`] that are made one by one.
pub struct Parts {
    pub config: Arc<Config>,
    pub state_dir: StateDir,
    pub routes: Routes,
    pub pool: Pool,
    pub counters: Arc<Counters>,
    pub events: Events,
    pub local: Server,
    pub cloud: Option<Server>,
    pub mirrors: Mirrors,
    pub lease: Option<Lease>,
    pub controller: mpsc::Sender<controller::Event>,
    pub view: controller::View,
    pub advice: Vec<String>,
    pub source: Option<ConfigSource>,
}

impl World {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let read = parts.source.as_ref().and_then(|source| source.read().ok());
        Self {
            config: ArcSwap::new(parts.config),
            state_dir: parts.state_dir,
            routes: parts.routes,
            pool: parts.pool,
            counters: parts.counters,
            events: parts.events,
            local: parts.local,
            cloud: parts.cloud,
            mirrors: parts.mirrors,
            lease: parts.lease,
            controller: parts.controller,
            view: Mutex::new(parts.view),
            advice: Mutex::new(parts.advice),
            source: parts.source,
            averages: Averages::default(),
            front: Arc::default(),
            answers: Mutex::default(),
            is_accepting: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            ending: watch::channel(None).0,
            overrides: Mutex::new(Overrides { read, flags: Vec::new() }),
        }
    }

    /// The server of a site; `None` for a cloud that there is not.
    pub fn server(&self, site: Site) -> Option<&Server> {
        match site {
            Site::Local => Some(&self.local),
            Site::Cloud => self.cloud.as_ref(),
        }
    }

    /// Tells the controller. When it is gone the process is ending, and nothing is lost.
    pub async fn tell(&self, event: controller::Event) {
        let _ = self.controller.send(event).await;
    }

    /// A number for a wish of an operator, none of which the controller uses itself, and where its
    /// answer comes.
    pub fn new_request(&self) -> (OpId, oneshot::Receiver<Result<Epoch, String>>) {
        let request = OpId((1 << 63) | self.requests.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let mut answers = self.answers.lock().expect("no holder of the answers panics");
        answers.retain(|_, answer| !answer.is_closed());
        answers.insert(request, answer);
        (request, answered)
    }

    /// Answers a wish of an operator.
    pub fn answer(&self, request: OpId, outcome: Result<Epoch, String>) {
        let mut answers = self.answers.lock().expect("no holder of the answers panics");
        if let Some(answer) = answers.remove(&request) {
            let _ = answer.send(outcome);
        }
    }

    /// The controller as of its last step.
    pub fn seen(&self) -> controller::View {
        self.view.lock().expect("no holder of the view panics").clone()
    }

    /// Whether new clients are let in.
    pub fn is_accepting(&self) -> bool {
        self.is_accepting.load(Ordering::Relaxed)
    }

    /// New clients are let in from now on, or not any more.
    pub fn set_accepting(&self, is_accepting: bool) {
        self.is_accepting.store(is_accepting, Ordering::Relaxed);
    }

    /// Begins to end the process. Asked again while it waits, it ends at once.
    pub fn shut_down(&self, how: Shutdown) {
        let is_again = self.ending.borrow().is_some();
        let how = if is_again { Shutdown::Immediate } else { how };
        self.events.record(Level::Info, "app.stopping", format!("{how:?}"));
        self.set_accepting(false);
        self.routes.change(|map| {
            let mut halts = Halts::clone(&map.halts);
            match how {
                Shutdown::Immediate => {}
                Shutdown::WaitForClients => halts.entry = Entry::ConsoleOnly,
                Shutdown::WaitForServers => {
                    halts.entry = Entry::NobodyWaits;
                    halts.all = Halt::Paused;
                }
            }
            map.halts = Arc::new(halts);
        });
        self.ending.send_replace(Some(how));
    }

    /// Who is connected; nobody before there is a front.
    pub fn clients(&self) -> Clients {
        let front = self.front.get().and_then(Weak::upgrade);
        front.map(|front| front.shared.clients.clone()).unwrap_or_default()
    }

    /// What SET has changed.
    pub fn overrides(&self) -> MutexGuard<'_, Overrides> {
        self.overrides.lock().expect("no holder of the overrides panics")
    }

    /// The mirrors' databases, as they are called at a site.
    pub fn databases(&self, site: Site) -> Vec<crate::base::DatabaseName> {
        self.mirrors.list().into_iter().map(|mirror| mirror.database_at(site)).collect()
    }
}
