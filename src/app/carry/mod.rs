//! Carries the controller's wishes to the rooms. Each is small and reports back by an event; none
//! blocks the controller.

mod servers;

use super::facts;
use super::suspicions::Suspicions;
use super::world::World;
use crate::base::{Epoch, Moment, OpId, Site};
use crate::failover::controller::{Effect, Event, Facts, LeaseFact, Upto};
use crate::lease::keeper;
use crate::lease::protocol::{Found, Report};
use crate::observe::count;
use crate::observe::events::Level;
use crate::route::Door;
use crate::session::Verdict;
use servers::{Fencer, Watch};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a look at the record may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
pub struct Carrier {
    world: Arc<World>,
    /// Sessions that wait for a verdict.
    pub suspicions: Suspicions,
    /// Looks at the record that are under way.
    looks: HashMap<OpId, oneshot::Sender<Found>>,
    /// Fences, claims and promotions: one at a time for each site.
    fencers: HashMap<Site, Fencer>,
    watches: HashMap<Site, Watch>,
}

impl Carrier {
    /// A carrier with nothing under way.
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world,
            suspicions: Suspicions::default(),
            looks: HashMap::new(),
            fencers: HashMap::new(),
            watches: HashMap::new(),
        }
    }

    /// What the keeper of the lease reports is an event, or the answer to a look.
    pub fn lease_event(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Looked { op, found } => {
                if let Some(look) = self.looks.remove(&op) {
                    let _ = look.send(found);
                }
                None
            }
            Report::Held { op, held } => Some(Event::LeaseHeld { op, held }),
            Report::Refused { op, why } => Some(Event::LeaseRefused { op, why: why.to_string() }),
            Report::Released { op, epoch } => Some(Event::LeaseReleased { op, epoch }),
            Report::Lost { epoch, why } => Some(Event::LeaseLost { epoch, why: why.to_string() }),
        }
    }

    /// Carries out one wish.
    pub fn carry(&mut self, effect: Effect) {
        let world = self.world.clone();
        match effect {
            Effect::ReadFacts { op } => self.read_facts(op),
            Effect::Probe { op, site } => servers::probe(world, op, site),
            Effect::Absolve { site } => self.suspicions.judge(site, Verdict::Alive),
            Effect::Hold => world.routes.change(|map| map.door = Door::Holding),
            Effect::Refuse { reason } => {
                self.judge_all(Verdict::Lost);
                world.routes.change(|map| map.door = Door::Closed { reason });
            }
            Effect::LetGo => {
                self.judge_all(Verdict::Lost);
                world.routes.change(|map| map.door = Door::Open);
            }
            Effect::OpenGate(held) => world.routes.gate().open_until(held.deadline()),
            Effect::CloseGate => world.routes.gate().close(),
            Effect::DropLinks { site } | Effect::NextLife { site } => self.next_life(site),
            Effect::EpochKnown { epoch } => self.wish(keeper::Command::EpochKnown { epoch }),
            Effect::AcquireLease { op, site, phase, reason } => {
                self.wish(keeper::Command::Acquire { op, site, phase, reason });
            }
            Effect::ReleaseLease { op, reason } => self.wish(keeper::Command::Release { op, reason }),
            Effect::Fence { op, site, epoch } => {
                self.one_at_a_time(site, servers::fence(world, op, site, epoch))
            }
            Effect::Claim { op, site, epoch } => {
                self.one_at_a_time(site, servers::claim(world, op, site, epoch))
            }
            Effect::Promote { op, epoch } => {
                self.one_at_a_time(Site::Cloud, servers::promote(world, op, epoch));
            }
            Effect::FinishQueue { op, upto } => finish_queue(world, op, upto),
            Effect::SwapRoute { writer, epoch } => {
                self.judge_all(Verdict::Lost);
                world.pool.clear();
                world.mirrors.set_promoted(writer == Site::Cloud);
                if writer != world.routes.map().writer {
                    count(&world.counters.failovers);
                }
                world.routes.change(|map| {
                    map.writer = writer;
                    map.epoch = epoch;
                });
            }
            Effect::WatchReturn { site, epoch } => self.watch_return(site, epoch),
            Effect::EndWatch { site } => self.end_watch(site),
            Effect::StartMirrors { epoch } => {
                let turn = world.mirrors.next_turn();
                tokio::spawn(async move { world.mirrors.start(&world, epoch, turn).await });
            }
            Effect::Answer { request, outcome } => world.answer(request, outcome),
            Effect::Record { level, name, detail } => world.events.record(level, name, detail),
        }
    }

    fn judge_all(&mut self, verdict: Verdict) {
        for site in [Site::Local, Site::Cloud] {
            self.suspicions.judge(site, verdict);
        }
    }

    fn next_life(&mut self, site: Site) {
        self.suspicions.judge(site, Verdict::Lost);
        self.world.pool.clear();
        if self.world.routes.map().writer == site {
            self.world.routes.change(|map| map.life += 1);
        }
    }

    fn wish(&self, command: keeper::Command) {
        if let Some(lease) = &self.world.lease {
            send(&lease.commands, command);
        }
    }

    fn read_facts(&mut self, op: OpId) {
        let world = self.world.clone();
        let (look, looked) = oneshot::channel();
        self.looks.retain(|_, look| !look.is_closed());
        self.looks.insert(op, look);
        self.wish(keeper::Command::Look { op });
        tokio::spawn(async move {
            let looking = async {
                match tokio::time::timeout(LOOK_WITHIN, looked).await {
                    Ok(Ok(found)) => facts::lease(found),
                    Ok(Err(_)) | Err(_) => {
                        LeaseFact::Unreadable("the store did not answer in time".to_owned())
                    }
                }
            };
            let at = |site| world.databases(site);
            let (local_databases, cloud_databases) = (at(Site::Local), at(Site::Cloud));
            let local = facts::fences(&world.local, &local_databases);
            let cloud = async {
                let Some(server) = &world.cloud else { return None };
                let fences = facts::fences(server, &cloud_databases).await;
                let (promotable, promoted) = facts::progress(&world, server).await;
                Some((fences, promotable, promoted))
            };
            let (lease, local, cloud) = tokio::join!(looking, local, cloud);
            let Some((cloud, promotable, promoted)) = cloud else { return };
            let facts = Facts { lease, local, cloud, promotable, promoted };
            world.tell(Event::FactsRead { op, facts }).await;
        });
    }

    fn one_at_a_time(&mut self, site: Site, work: impl Future<Output = Event> + Send + 'static) {
        self.fencers.entry(site).or_default().replace(self.world.clone(), work);
    }

    fn watch_return(&mut self, site: Site, epoch: Epoch) {
        match self.watches.get(&site) {
            Some(watch) => watch.set_epoch(epoch),
            None => {
                if let Some(watch) = Watch::start(&self.world, site, epoch) {
                    self.watches.insert(site, watch);
                }
            }
        }
    }

    fn end_watch(&mut self, site: Site) {
        if let Some(watch) = self.watches.remove(&site) {
            // What comes next for this site waits until the watch has let go of the server.
            self.fencers.entry(site).or_default().wait_for(watch.end());
        }
    }
}

/// A queue that is full belongs to a task that is gone or stuck; the wish's deadline finds out.
fn send<T: Send + 'static>(queue: &mpsc::Sender<T>, wish: T) {
    if let Err(mpsc::error::TrySendError::Full(wish)) = queue.try_send(wish) {
        let queue = queue.clone();
        tokio::spawn(async move { queue.send(wish).await });
    }
}

fn finish_queue(world: Arc<World>, op: OpId, upto: Upto) {
    // From here on no start that is still under way counts.
    world.mirrors.next_turn();
    tokio::spawn(async move {
        let deadline = crate::sys::now() + servers::queue_timeout(&world);
        let outcome = async {
            if upto == Upto::SourceEnd {
                servers::caught_up(&world, deadline).await?;
            }
            let finished = world.mirrors.finish(left(deadline)).await;
            if let Err(why) = &finished {
                // Asked again there is nothing left to finish, so it is said here.
                world.events.record(Level::Error, "failover.queue_not_applied", why.clone());
            }
            finished
        };
        let outcome = outcome.await;
        world.tell(Event::QueueFinished { op, outcome }).await;
    });
}

fn left(deadline: Moment) -> Duration {
    deadline.since(crate::sys::now())
}
