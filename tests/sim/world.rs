//! The world: time, the network, and everything that happens in it.

use crate::clock::{MS, Rng, S};
use crate::faults::{Fault, Plan};
use crate::oracle::Oracle;
use crate::process::{Process, Role};
use crate::servers::{Health, Server};
use crate::store::Store;
use cloud_mirror::base::{Epoch, OpId, Site};
use cloud_mirror::failover::controller::{self, Upto};
use cloud_mirror::lease::protocol::{self, RequestId};
use cloud_mirror::lease::{Record, Version};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// How many of the last events a failure shows.
const EVENTS_SHOWN: usize = 40;

/// No history has that many, unless a machine asks to be called without end.
const EVENTS_MAX: u64 = 300_000;

/// How long after the faults everything has to have settled.
const SETTLES_WITHIN: u64 = 90 * S;

/// One rule that is broken. All but `None` must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// The deadline counts from the answer, or from the read that found a lost answer.
    DeadlineFromReply,
    /// No answer to a write is taken for success.
    LostAckIsSuccess,
    /// A holder that finds itself expired renews the old epoch.
    ExpiredHolderRenews,
    /// A timer shuts the gate, instead of a comparison at each acknowledgement.
    TimerShutsGate,
    /// The record is deleted on release.
    DeleteOnRelease,
    /// The store ignores the condition of a write.
    UnconditionalWrites,
    /// A new holder keeps the epoch of the old one.
    EpochKept,
    /// The holder's clock stands still while its machine sleeps (`std::time::Instant`).
    ClockStopsInSleep,
    /// The observer's clock runs faster than the margin allows for, as if it trusted written times.
    HastyObserver,
    /// A fence that was not carried out counts as done.
    FenceAssumed,
    /// The gate opens though the fence row was not written.
    ClaimAssumed,
    /// A promotion that was not carried out counts as done.
    PromotionAssumed,
    /// The gate has no deadline, and the loss of the lease is not heard.
    GateSurvivesLoss,
}

impl Mutant {
    pub const ALL: [Mutant; 13] = [
        Mutant::DeadlineFromReply,
        Mutant::LostAckIsSuccess,
        Mutant::ExpiredHolderRenews,
        Mutant::TimerShutsGate,
        Mutant::DeleteOnRelease,
        Mutant::UnconditionalWrites,
        Mutant::EpochKept,
        Mutant::ClockStopsInSleep,
        Mutant::HastyObserver,
        Mutant::FenceAssumed,
        Mutant::ClaimAssumed,
        Mutant::PromotionAssumed,
        Mutant::GateSurvivesLoss,
    ];
}

/// Which process, and which of its lives: what was sent to a former life is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressee {
    pub process: usize,
    pub life: u64,
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub enum Happening {
    Fault(Fault),
    /// A timer of a process; only the newest counts.
    Wake {
        to: Addressee,
        timer: u64,
    },
    /// A request reaches the store.
    AtStore {
        from: Addressee,
        request: RequestId,
        write: Option<(Option<Version>, Box<Record>)>,
    },
    /// An answer reaches the lease machine.
    ToLease {
        to: Addressee,
        event: protocol::Event,
    },
    /// An answer or a fact reaches the controller.
    ToController {
        to: Addressee,
        event: controller::Event,
    },
    /// A piece of work reaches a server.
    AtServer {
        from: Addressee,
        ticket: u64,
        job: Job,
    },
    /// A contender that only keeps a lease tries again.
    Contend {
        to: Addressee,
    },
}

/// Work on a server. Without an op it is the watch over a returned server.
#[derive(Debug, Clone)]
pub enum Job {
    Probe { op: OpId, site: Site },
    Fence { op: Option<OpId>, site: Site, epoch: Epoch },
    Claim { op: OpId, site: Site, epoch: Epoch },
    Promote { op: OpId, epoch: Epoch },
    Facts { op: OpId },
    Finish { op: OpId, upto: Upto },
}

/// What a history had in it.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub events: u64,
    /// Promotions of the cloud by the full proxy.
    pub switches: u64,
    /// Leases taken from a silent instance of another site or directory.
    pub takeovers: u64,
    /// Leases that ran out.
    pub expiries: u64,
    /// Rows acknowledged to clients.
    pub acknowledged: u64,
    /// The longest time from the last fault until all was settled.
    pub settled_after_ms: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.events += other.events;
        self.switches += other.switches;
        self.takeovers += other.takeovers;
        self.expiries += other.expiries;
        self.acknowledged += other.acknowledged;
        self.settled_after_ms = self.settled_after_ms.max(other.settled_after_ms);
    }
}

/// What was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something was that must never be.
    Safety,
    /// Something did not come to be.
    Liveness,
}

/// A find.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub kind: Kind,
    pub why: String,
    pub events: Vec<String>,
}

impl Failure {
    pub fn from_panic(seed: u64, panic: Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        Self { seed, kind: Kind::Safety, why: text.unwrap_or_else(|| "a panic".into()), events: vec![] }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {} (replay: SIM_SEED={}): {}", self.seed, self.seed, self.why)?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))
    }
}

pub struct World {
    pub seed: u64,
    pub mutant: Mutant,
    pub rng: Rng,
    pub now: u64,
    pub store: Store,
    pub servers: [Server; 2],
    pub processes: Vec<Process>,
    pub plan: Plan,
    pub oracle: Oracle,
    pub summary: Summary,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    is_traced: bool,
    trace: VecDeque<String>,
    events_shown: usize,
    pub found: Option<String>,
}

pub fn index(site: Site) -> usize {
    match site {
        Site::Local => 0,
        Site::Cloud => 1,
    }
}

impl World {
    pub fn new(seed: u64, mutant: Mutant, is_traced: bool) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x1405_7b7e_f767_814f);
        let plan = Plan::draw(&mut rng);
        let mut world = Self {
            seed,
            mutant,
            now: S,
            store: Store::default(),
            servers: [Server::new(), Server::new()],
            processes: Process::all(&mut rng, &plan, mutant),
            plan,
            rng,
            oracle: Oracle::default(),
            summary: Summary::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            is_traced,
            trace: VecDeque::new(),
            events_shown: crate::number("SIM_EVENTS").map_or(EVENTS_SHOWN, |n| n as usize),
            found: None,
        };
        for (at, fault) in world.plan.faults.clone() {
            world.at(at, Happening::Fault(fault));
        }
        for process in 0..world.processes.len() {
            // The contender appears later: the first holder has usually begun.
            let at = if process == 0 { S } else { world.rng.range(S, 20 * S) };
            world.at(at, Happening::Fault(Fault::Start { process }));
        }
        world
    }

    /// Lives through the whole history.
    pub fn run(mut self) -> Result<Summary, Failure> {
        let end = self.plan.calm_from + SETTLES_WITHIN;
        let mut settled_at = None;
        while let Some((&(at, _), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let (_, happening) = self.queue.pop_first().expect("just seen");
            self.now = at;
            self.summary.events += 1;
            if self.summary.events > EVENTS_MAX {
                return Err(self.failure(Kind::Liveness, "it spins".into()));
            }
            self.happen(happening);
            self.look();
            if let Some(why) = self.found.take() {
                return Err(self.failure(Kind::Safety, why));
            }
            match (at >= self.plan.calm_from, self.unsettled()) {
                (true, None) => _ = settled_at.get_or_insert(at),
                (_, Some(_)) | (false, None) => settled_at = None,
            }
        }
        match (settled_at, self.unsettled()) {
            (Some(at), _) => {
                self.summary.settled_after_ms = (at - self.plan.calm_from) / MS;
                Ok(self.summary)
            }
            // What a person broke waits for a person; that nothing worse happened was checked.
            (None, _) if self.plan.is_tampered => Ok(self.summary),
            (None, why) => {
                let why = why.unwrap_or_else(|| "it settled in the last moment".into());
                let why = format!("not settled {} s after the faults: {why}", SETTLES_WITHIN / S);
                Err(self.failure(Kind::Liveness, why))
            }
        }
    }

    fn failure(self, kind: Kind, why: String) -> Failure {
        Failure { seed: self.seed, kind, why, events: self.trace.into() }
    }

    pub fn trace(&mut self, text: impl FnOnce() -> String) {
        if self.is_traced {
            if self.trace.len() >= self.events_shown {
                self.trace.pop_front();
            }
            let (s, ms) = (self.now / S, self.now % S / MS);
            self.trace.push_back(format!("{s:>4}.{ms:03} {}", text()));
        }
    }

    pub fn at(&mut self, at: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), happening);
    }

    pub fn is_calm(&self) -> bool {
        self.now >= self.plan.calm_from
    }

    fn happen(&mut self, happening: Happening) {
        // A sleeping process finds everything when it wakes up, first of all what clients sent.
        if let Some(to) = happening.addressee() {
            let process = &self.processes[to.process];
            if process.life != to.life || !process.is_alive {
                return;
            }
            if process.sleeps_until > self.now {
                let wakes = process.sleeps_until;
                return self.at(wakes, happening);
            }
        }
        match happening {
            Happening::Fault(fault) => self.strike(fault),
            Happening::Wake { to, timer } => self.on_wake(to.process, timer),
            Happening::AtStore { from, request, write } => self.at_store(from, request, write),
            Happening::ToLease { to, event } => self.lease_step(to.process, event),
            Happening::ToController { to, event } => self.controller_step(to.process, event),
            Happening::AtServer { from, ticket, job } => self.at_server(from, ticket, job),
            Happening::Contend { to } => self.contend(to.process),
        }
    }

    // ---- The network

    /// How long a message takes, or `None` if it is lost.
    pub fn transit(&mut self) -> Option<u64> {
        if self.is_calm() {
            return Some(self.rng.range(MS, 20 * MS));
        }
        if self.rng.chance(self.plan.lost_percent) {
            return None;
        }
        if self.rng.chance(self.plan.slow_percent) {
            return Some(self.rng.range(20 * MS, 8 * S));
        }
        Some(self.rng.range(MS / 5, 30 * MS))
    }

    pub fn send_to_store(
        &mut self,
        from: Addressee,
        request: RequestId,
        write: Option<(Option<Version>, Box<Record>)>,
    ) {
        let is_cut = self.processes[from.process].is_cut_from_store;
        if let (false, Some(delay)) = (is_cut, self.transit()) {
            let happening = Happening::AtStore { from, request, write };
            // A client library or a middle box that repeats a request.
            if !self.is_calm() && self.rng.chance(3) {
                let later = self.now + delay + self.rng.range(MS, 20 * S);
                self.at(later, happening.clone());
            }
            self.at(self.now + delay, happening);
        } else {
            self.trace(|| format!("store request {request:?} of {} is lost", from.process));
        }
    }

    fn at_store(
        &mut self,
        from: Addressee,
        request: RequestId,
        write: Option<(Option<Version>, Box<Record>)>,
    ) {
        let event = match write {
            None => protocol::Event::ReadEnded { request, answer: self.store.read() },
            Some((base, record)) => {
                let from_silent = self.store.record.as_ref().is_some_and(|before| {
                    before.owner_instance != record.owner_instance
                        && before.state == cloud_mirror::lease::Tenure::Active
                });
                let text = format!("epoch {} {} {:?}", record.epoch, record.owner, record.state);
                match self.store.write(base, *record, self.mutant) {
                    Ok(answer) => {
                        self.trace(|| format!("store: write of {} {text}: {answer:?}", from.process));
                        let is_stored = matches!(answer, protocol::WriteAnswer::Stored { .. });
                        self.summary.takeovers += u64::from(from_silent && is_stored);
                        protocol::Event::WriteEnded { request, answer }
                    }
                    Err(why) => return self.found = Some(why),
                }
            }
        };
        let is_cut = self.processes[from.process].is_cut_from_store;
        match self.transit() {
            Some(delay) if !is_cut => {
                self.at(self.now + delay, Happening::ToLease { to: from, event });
            }
            _ => self.trace(|| format!("store answer {request:?} to {} is lost", from.process)),
        }
    }

    /// Sends work to a server; see [`Process::tickets`] for what ends it.
    pub fn send_to_server(&mut self, process: usize, site: Site, job: Job) {
        let from = self.processes[process].addressee();
        let ticket = self.processes[process].tickets[index(site)];
        if let Some(delay) = self.transit() {
            self.at(self.now + delay, Happening::AtServer { from, ticket, job });
        }
    }

    /// Whether a process reaches a server that can answer.
    pub fn health_for(&self, process: usize, site: Site) -> Health {
        if self.processes[process].is_cut_from[index(site)] {
            return Health::Frozen;
        }
        self.servers[index(site)].health
    }

    pub fn answer_controller(&mut self, to: Addressee, event: controller::Event) {
        if let Some(delay) = self.transit() {
            self.at(self.now + delay, Happening::ToController { to, event });
        }
    }

    pub fn full(&self) -> &Process {
        &self.processes[0]
    }

    pub fn contender_holds(&self) -> bool {
        self.processes
            .iter()
            .any(|p| matches!(p.role, Role::Contender(_)) && p.gate_is_open(self.now, self.mutant))
    }
}

impl Happening {
    /// The process that has to be awake for it. A request under way needs nobody.
    fn addressee(&self) -> Option<Addressee> {
        match self {
            Happening::Wake { to, .. }
            | Happening::ToLease { to, .. }
            | Happening::ToController { to, .. }
            | Happening::Contend { to } => Some(*to),
            Happening::Fault(_) | Happening::AtStore { .. } | Happening::AtServer { .. } => None,
        }
    }
}
