//! All mirrors of the pair: what they are called, and the actors that keep them.

use super::world::World;
use crate::base::{DatabaseName, Epoch, MirrorName, Site};
use crate::config::FullIdentity;
use crate::failover::controller::{Event, Promotable};
use crate::observe::status::{MirrorState, MirrorStatus};
use crate::replicate::{Mirror, MirrorSpec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What one mirror is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: MirrorName,
    /// The local database, as clients name it.
    pub source: DatabaseName,
    /// The database in the cloud.
    pub target: DatabaseName,
    /// See [`MirrorSpec`].
    pub replace_role_passwords: bool,
    /// See [`MirrorSpec`].
    pub full_identity: FullIdentity,
}

impl Entry {
    /// What its database is called at a site.
    pub fn database_at(&self, site: Site) -> DatabaseName {
        match site {
            Site::Local => self.source.clone(),
            Site::Cloud => self.target.clone(),
        }
    }

    /// The mirror from local to the cloud; `None` without a cloud.
    pub fn spec(&self, world: &World) -> Option<MirrorSpec> {
        Some(MirrorSpec {
            name: self.name.clone(),
            source: world.local.party_at(&self.source),
            target: world.cloud.as_ref()?.party_at(&self.target),
            replace_role_passwords: self.replace_role_passwords,
            full_identity: self.full_identity.clone(),
        })
    }
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    work: Option<Mirror>,
    status: Option<watch::Receiver<MirrorStatus>>,
    is_promoted: bool,
    _told: Option<AbortOnDropHandle<()>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Mirrors {
    all: Mutex<BTreeMap<MirrorName, Kept>>,
    /// Counts what was wished of all mirrors: a start that was overtaken by another wish is void.
    turn: AtomicU64,
    /// Starts and ends, one at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Mirrors {
    /// Mirrors that nobody keeps yet.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mirrors = Self::default();
        for entry in entries {
            mirrors.add(entry);
        }
        mirrors
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<MirrorName, Kept>> {
        self.all.lock().expect("no holder of the mirrors panics")
    }

    /// Something else is wished of all mirrors from now on. Returns the number of the wish.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Adds a mirror that nobody keeps yet.
    pub fn add(&self, entry: Entry) {
        let kept = Kept { entry: entry.clone(), work: None, status: None, is_promoted: false, _told: None };
        self.all().insert(entry.name, kept);
    }

    /// Forgets a mirror; its actor, if any, is handed out to be stopped.
    pub fn remove(&self, name: &MirrorName) -> Option<(Entry, Option<Mirror>)> {
        let kept = self.all().remove(name)?;
        Some((kept.entry, kept.work))
    }

    /// All mirrors, by name.
    pub fn list(&self) -> Vec<Entry> {
        self.all().values().map(|kept| kept.entry.clone()).collect()
    }

    /// Databases as clients name them, and in the cloud.
    pub fn map(&self) -> Arc<BTreeMap<DatabaseName, DatabaseName>> {
        let list = self.list();
        Arc::new(list.into_iter().map(|entry| (entry.source, entry.target)).collect())
    }

    /// Starts to keep every mirror at `epoch`; those that are kept are started again. Does nothing
    /// when something else has been wished since `turn`.
    pub async fn start(&self, world: &Arc<World>, epoch: Epoch, turn: u64) {
        let _one_at_a_time = self.changing.lock().await;
        let is_overtaken = || self.turn.load(Ordering::Acquire) != turn;
        if is_overtaken() {
            return;
        }
        for mirror in self.take_work() {
            mirror.stop().await;
        }
        if is_overtaken() {
            return;
        }
        for entry in self.list() {
            self.start_one(world, &entry, epoch);
        }
        self.report(world).await;
    }

    /// Starts to keep one mirror.
    pub fn start_one(&self, world: &Arc<World>, entry: &Entry, epoch: Epoch) {
        let Some(spec) = entry.spec(world) else { return };
        let mirror = Mirror::start(spec, epoch, world.events.clone());
        let status = mirror.status();
        let told = tokio::spawn(tell_changes(world.clone(), status.clone()));
        if let Some(kept) = self.all().get_mut(&entry.name) {
            kept.status = Some(status);
            kept.work = Some(mirror);
            kept.is_promoted = false;
            kept._told = Some(AbortOnDropHandle::new(told));
        }
    }

    fn take_work(&self) -> Vec<Mirror> {
        self.all().values_mut().filter_map(|kept| kept.work.take()).collect()
    }

    /// Stops keeping all mirrors.
    pub async fn stop(&self) {
        self.next_turn();
        let _one_at_a_time = self.changing.lock().await;
        for mirror in self.take_work() {
            mirror.stop().await;
        }
    }

    /// Lets every mirror apply what it has, then ends it. A mirror that nobody keeps has nothing.
    pub async fn finish(&self, deadline: Duration) -> Result<(), String> {
        let _one_at_a_time = self.changing.lock().await;
        let finishing = self.take_work().into_iter().map(|mirror| {
            let name = mirror.status().borrow().mirror.clone();
            async move { mirror.finish(deadline).await.map_err(|error| format!("mirror {name}: {error}")) }
        });
        let failed: Vec<String> =
            futures_util::future::join_all(finishing).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// All mirrors are the writers' databases now, or are not any more.
    pub fn set_promoted(&self, is_promoted: bool) {
        for kept in self.all().values_mut() {
            kept.is_promoted = is_promoted;
        }
    }

    /// For the controller.
    pub fn promotable(&self) -> Promotable {
        let all = self.all();
        if all.is_empty() {
            return Promotable::NoMirrors;
        }
        let is_promotable =
            |kept: &Kept| kept.status.as_ref().is_some_and(|status| status.borrow().is_promotable);
        let names: Vec<String> = all
            .values()
            .filter(|kept| !is_promotable(kept))
            .map(|kept| kept.entry.name.to_string())
            .collect();
        if names.is_empty() { Promotable::All } else { Promotable::Missing { names } }
    }

    /// Tells the controller.
    pub async fn report(&self, world: &World) {
        world.tell(Event::MirrorsReported { promotable: self.promotable() }).await;
    }

    /// The status of each.
    pub fn statuses(&self) -> Vec<MirrorStatus> {
        self.all().values().map(status_of).collect()
    }
}

fn status_of(kept: &Kept) -> MirrorStatus {
    let mut status = match &kept.status {
        Some(status) => status.borrow().clone(),
        None => unknown(&kept.entry),
    };
    if kept.is_promoted {
        status.state = MirrorState::Promoted;
        status.lag_ms = None;
        status.lag_bytes = None;
        // They were about following, which is over.
        status.warnings.clear();
    } else if kept.work.is_none() {
        status.state = MirrorState::Disconnected { reason: "the mirror is not running".to_owned() };
    }
    status
}

fn unknown(entry: &Entry) -> MirrorStatus {
    MirrorStatus {
        mirror: entry.name.clone(),
        mode: "async",
        state: MirrorState::Disconnected { reason: "not started".to_owned() },
        is_promotable: false,
        source_cluster: Site::Local,
        source_database: entry.source.clone(),
        target_database: entry.target.clone(),
        last_applied: None,
        flushed: None,
        received: None,
        lag_ms: None,
        lag_bytes: None,
        bytes_done: 0,
        bytes_total: 0,
        rows_applied: 0,
        transactions_applied: 0,
        rows_not_followed: 0,
        warnings: Vec::new(),
    }
}

/// Tells the controller whenever it changes whether a mirror may be promoted.
async fn tell_changes(world: Arc<World>, mut status: watch::Receiver<MirrorStatus>) {
    let mut was_promotable = status.borrow_and_update().is_promotable;
    while status.changed().await.is_ok() {
        let is_promotable = status.borrow_and_update().is_promotable;
        if std::mem::replace(&mut was_promotable, is_promotable) != is_promotable {
            world.mirrors.report(&world).await;
        }
    }
}
