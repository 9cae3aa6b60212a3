//! Wishes that a server has to answer.

use crate::app::mirrors::Entry;
use crate::app::server::Server;
use crate::app::world::World;
use crate::backend::Party;
use crate::backend::control::ControlError;
use crate::base::sqlstate::CANNOT_CONNECT_NOW;
use crate::base::{DatabaseName, Epoch, Lsn, Moment, OpId, Site};
use crate::failover::controller::{ClaimOutcome, Event, FenceOutcome, ProbeOutcome};
use crate::failover::effects::{self, Return};
use crate::health;
use crate::observe::events::Level;
use futures_util::future::join_all;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long one step at one database may take; the controller's own bounds are longer.
const STEP: Duration = Duration::from_secs(10);
/// How long the fence of one database may take.
const FENCE: Duration = Duration::from_secs(3);
/// How many databases are fenced, or mirrors promoted, at the same time.
const AT_ONCE: usize = 8;
/// Between two looks at a mirror that catches up with a source that has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long the mirrors may take to apply what they have.
pub fn queue_timeout(_: &World) -> Duration {
    Duration::from_secs(30)
}

/// Work of which there is one at a time.
#[derive(Default)]
pub struct Fencer(Option<JoinHandle<()>>);

impl Fencer {
    /// Ends what is under way, waits for its end, then does `work` and tells its event.
    pub fn replace(&mut self, world: Arc<World>, work: impl Future<Output = Event> + Send + 'static) {
        let before = self.0.take();
        self.0 = Some(tokio::spawn(async move {
            ended(before).await;
            let event = work.await;
            world.tell(event).await;
        }));
    }

    /// The next work waits for this one too.
    pub fn wait_for(&mut self, other: JoinHandle<()>) {
        let before = self.0.take();
        self.0 = Some(tokio::spawn(async move {
            ended(before).await;
            let _ = other.await;
        }));
    }
}

async fn ended(task: Option<JoinHandle<()>>) {
    if let Some(task) = task {
        task.abort();
        let _ = task.await;
    }
}

/// Asks a server whether it lives.
pub fn probe(world: Arc<World>, op: OpId, site: Site) {
    tokio::spawn(async move {
        let Some(server) = world.server(site) else { return };
        let timeout = world.config.load().failover.probe_timeout;
        let outcome = match health::probe(&server.party(), timeout).await {
            health::Outcome::Up | health::Outcome::Denied(_) => ProbeOutcome::Up,
            health::Outcome::StartingUp | health::Outcome::ShuttingDown => ProbeOutcome::StartingUp,
            health::Outcome::Refused => ProbeOutcome::Refused,
            health::Outcome::TimedOut => ProbeOutcome::TimedOut,
            health::Outcome::Unable(why) => ProbeOutcome::Unable { why },
        };
        server.set_up(outcome == ProbeOutcome::Up);
        world.tell(Event::Probed { op, site, outcome }).await;
    });
}

/// Fences every mirrored database of a server.
pub async fn fence(world: Arc<World>, op: OpId, site: Site, epoch: Epoch) -> Event {
    let outcome = fence_all(&world, site, epoch).await;
    Event::Fenced { op, outcome }
}

async fn fence_all(world: &World, site: Site, epoch: Epoch) -> FenceOutcome {
    let Some(server) = world.server(site) else {
        return FenceOutcome::Failed { why: format!("there is no {site} server") };
    };
    let databases = world.databases(site);
    let fence = async |database: &DatabaseName| fence_one(world, &server.party_at(database), epoch).await;
    for some in databases.chunks(AT_ONCE) {
        // Each goes to its end: a door that is half shut is of no use to anybody.
        let outcomes = join_all(some.iter().map(fence)).await;
        if let Some(failed) = outcomes.into_iter().find(|outcome| *outcome != FenceOutcome::Done) {
            return failed;
        }
    }
    FenceOutcome::Done
}

async fn fence_one(world: &World, party: &Party, epoch: Epoch) -> FenceOutcome {
    let (site, database) = (party.site, &party.database);
    match effects::fence(party, epoch, FENCE).await {
        Ok(fenced) => {
            let detail = format!(
                "site={site} database={database} epoch={epoch} terminated={} took_ms={} workers={:?} prepared={:?}",
                fenced.terminated,
                fenced.took.as_millis(),
                fenced.workers,
                fenced.prepared
            );
            world.events.record(Level::Info, "failover.fenced", detail);
            FenceOutcome::Done
        }
        Err(effects::Error::Connect(error)) if error.is_no_database() => {
            missing(world, site, database);
            FenceOutcome::Done
        }
        Err(error) => fence_failed(error),
    }
}

/// Nobody can write to a database that is not there, and those that are must not wait for it.
fn missing(world: &World, site: Site, database: &DatabaseName) {
    let detail = format!("site={site} database={database}: it is mirrored and does not exist");
    world.events.record(Level::Warn, "failover.database_missing", detail);
}

fn is_away(error: &effects::Error) -> bool {
    matches!(error, effects::Error::Connect(connect) if connect.is_unreachable())
}

fn fence_failed(error: effects::Error) -> FenceOutcome {
    match &error {
        effects::Error::Connect(connect) if connect.is_refused() => FenceOutcome::Refused,
        effects::Error::Connect(ControlError::Timeout { .. }) => FenceOutcome::Silent,
        effects::Error::Connect(connect) if connect.code() == Some(CANNOT_CONNECT_NOW) => {
            FenceOutcome::NotReady
        }
        _ => FenceOutcome::Failed { why: error.to_string() },
    }
}

/// Opens the writer's databases at our epoch.
pub async fn claim(world: Arc<World>, op: OpId, site: Site, epoch: Epoch) -> Event {
    let outcome = claim_all(&world, site, epoch).await;
    Event::Claimed { op, outcome }
}

async fn claim_all(world: &World, site: Site, epoch: Epoch) -> ClaimOutcome {
    let Some(server) = world.server(site) else {
        return ClaimOutcome::Failed { why: format!("there is no {site} server") };
    };
    for database in world.databases(site) {
        match effects::lift(&server.party_at(&database), epoch, STEP).await {
            Ok(_) => {}
            Err(error @ effects::Error::StaleEpoch { .. }) => {
                return ClaimOutcome::Stale { why: error.to_string() };
            }
            Err(effects::Error::Connect(error)) if error.is_no_database() => {
                missing(world, site, &database);
            }
            // It is there and does not let us in: a person has to know why.
            Err(error @ effects::Error::Connect(_)) if !is_away(&error) => {
                return ClaimOutcome::Failed { why: error.to_string() };
            }
            Err(effects::Error::Connect(_) | effects::Error::Deadline { .. }) => {
                return ClaimOutcome::Unreachable;
            }
            Err(error) => return ClaimOutcome::Failed { why: error.to_string() },
        }
    }
    ClaimOutcome::Done
}

/// Promotes every mirror.
pub async fn promote(world: Arc<World>, op: OpId, epoch: Epoch) -> Event {
    let outcome = promote_all(&world, epoch).await;
    Event::Promoted { op, outcome }
}

/// Several at once: clients wait for the last of them.
async fn promote_all(world: &World, epoch: Epoch) -> Result<(), String> {
    let cloud = world.cloud.as_ref().ok_or("there is no cloud server")?;
    let entries = world.mirrors.list();
    let promote = async |entry: &Entry| {
        let target = cloud.party_at(&entry.target);
        let promoted = effects::promote(&target, &entry.name, epoch, STEP).await;
        let promoted = promoted.map_err(|error| format!("mirror {}: {error}", entry.name))?;
        let detail = format!(
            "mirror={} epoch={epoch} lsn={} sequences={} near_end={:?}",
            entry.name, promoted.lsn, promoted.sequences, promoted.sequences_near_end
        );
        world.events.record(Level::Info, "failover.promoted", detail);
        Ok(())
    };
    for some in entries.chunks(AT_ONCE) {
        // Each goes to its end: what is promoted need not be promoted again.
        let promoted = join_all(some.iter().map(promote)).await;
        promoted.into_iter().collect::<Result<(), String>>()?;
    }
    Ok(())
}

/// Waits until every mirror has applied all that its source, which is fenced, has written.
pub async fn caught_up(world: &World, deadline: Moment) -> Result<(), String> {
    for entry in world.mirrors.list() {
        let end = source_end(&world.local, &entry.source).await?;
        loop {
            let statuses = world.mirrors.statuses();
            let applied =
                statuses.iter().find(|status| status.mirror == entry.name).and_then(|s| s.last_applied);
            if applied.is_some_and(|applied| applied >= end) {
                break;
            }
            if crate::sys::now() >= deadline {
                return Err(format!(
                    "mirror {} did not reach {end}, the end of its source, in time",
                    entry.name
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// A position that the stream is sure to reach: a message is written there, which a mirror applies
/// as a transaction of its own.
async fn source_end(local: &Server, database: &DatabaseName) -> Result<Lsn, String> {
    let party = local.party_at(database);
    let client = party.control("cloud-mirror end", STEP).await.map_err(|error| error.to_string())?;
    let emit = "SELECT pg_catalog.pg_logical_emit_message(true, 'cloud_mirror.end', '')::text";
    let row = client.query_one(emit, &[]).await.map_err(|error| error.to_string())?;
    row.get::<_, String>(0).parse::<Lsn>().map_err(|error| error.to_string())
}

/// A watch over the return of a server.
pub struct Watch {
    epoch: watch::Sender<Epoch>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts it; `None` when there is no such server.
    pub fn start(world: &Arc<World>, site: Site, epoch: Epoch) -> Option<Self> {
        let server = world.server(site)?;
        let (epoch, epochs) = watch::channel(epoch);
        let world = world.clone();
        let returned = server.returned.clone();
        let task = tokio::spawn(async move {
            let databases = world.databases(site);
            let each: Vec<_> = databases.iter().map(|_| watch::Sender::new(Return::unseen())).collect();
            let watches = databases.iter().zip(&each).map(|(database, state)| {
                let (world, epochs, state) = (&world, epochs.clone(), state.clone());
                async move {
                    let Some(server) = world.server(site) else { return };
                    let party = server.party_at(database);
                    effects::watch_return(party, epochs, world.events.clone(), state).await;
                }
            });
            let gathering = each.iter().map(|state| gather(state.subscribe(), &each, &returned));
            let telling = tell_returns(world.clone(), site, returned.subscribe());
            tokio::join!(join_all(watches), join_all(gathering), telling);
        });
        Some(Self { epoch, task })
    }

    /// From now on fence at this epoch.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.send_replace(epoch);
    }

    /// Ends it; the handle is done when it has let go of the server.
    pub fn end(self) -> JoinHandle<()> {
        self.task.abort();
        self.task
    }
}

/// What became of the server is the worst of what became of its databases.
async fn gather(
    mut one: watch::Receiver<Return>,
    each: &[watch::Sender<Return>],
    all: &watch::Sender<Return>,
) {
    while one.changed().await.is_ok() {
        let worst = Return::worst(each.iter().map(|state| state.borrow().clone()));
        all.send_if_modified(|last| std::mem::replace(last, worst.clone()) != worst);
    }
}

async fn tell_returns(world: Arc<World>, site: Site, mut returned: watch::Receiver<Return>) {
    while returned.changed().await.is_ok() {
        let state = returned.borrow_and_update().clone();
        if let Some(server) = world.server(site) {
            server.set_up(!matches!(state, Return::Absent(_)));
        }
        if let Return::Fenced(returned) = state {
            let detail = format!("ended={} epoch={}", returned.fenced.terminated, returned.fenced.epoch);
            world.tell(Event::Returned { site, detail }).await;
        }
    }
}
