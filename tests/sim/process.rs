//! The processes: the product's machines, and what the product builds around them in small.

use crate::clock::{Clock, MS, Rng, S};
use crate::faults::Plan;
use crate::servers::Health;
use crate::world::{Addressee, Happening, Job, Mutant, World, index};
use cloud_mirror::base::{Epoch, Moment, Site};
use cloud_mirror::failover::controller::{
    ClaimOutcome, Controller, Effect, Event, Facts, FenceFact, FenceOutcome, Fencing, LeaseFact,
    ProbeOutcome, Promoted, Settings, Sites, Upto,
};
use cloud_mirror::lease::protocol::{self, Loss, Machine, Rebuild, Report, Setup};
use cloud_mirror::lease::{Authority, Held, Phase, Timing};
use std::time::Duration;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The proxy of this issue: controller and lease, for both sites.
    Full,
    /// Another instance that wants the lease for a site and does nothing else.
    Contender(Site),
}

/// Whether statements pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    Holding,
    Refusing,
}

/// The gate as `route::Gate` has it, with what it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    pub epoch: Epoch,
    pub site: Site,
    /// On the clock of the process.
    pub deadline: Moment,
}

pub struct Process {
    pub role: Role,
    pub life: u64,
    pub is_alive: bool,
    pub sleeps_until: u64,
    pub clock: Clock,
    pub machine: Option<Machine>,
    pub controller: Option<Controller>,
    pub gate: Option<Gate>,
    pub door: Door,
    pub route: Site,
    pub watch: Option<Epoch>,
    pub is_cut_from_store: bool,
    pub is_cut_from: [bool; 2],
    pub are_mirrors_promotable: bool,
    /// Of the newest fence, claim or promotion for each server: an older one that has not reached
    /// it yet is ended, as the controller asks of its executor.
    pub tickets: [u64; 2],
    /// By how much the lease machine is told a time of the past; see [`Mutant::ExpiredHolderRenews`].
    pub lag: u64,
    /// The file `epoch` of the state directory.
    pub remembered: Epoch,
    /// The mirrors read the fenced source to its end in this switch.
    pub has_drained: bool,
    timer: u64,
    timing: Timing,
}

fn timing() -> Timing {
    let timing = Timing {
        ttl: Duration::from_secs(10),
        renew_every: Duration::from_secs(3),
        request_timeout: Duration::from_secs(2),
        retry_pause: Duration::from_millis(700),
        observe_every: Duration::from_secs(1),
        // Nothing but the margin of the clocks: shutting the gate takes no time here.
        fence_budget: Duration::ZERO,
        clock_error_ppm: 10_000,
    };
    timing.check().expect("the durations fit");
    timing
}

impl Process {
    pub fn all(rng: &mut Rng, plan: &Plan, mutant: Mutant) -> Vec<Self> {
        let mut roles = vec![Role::Full];
        roles.extend(plan.contender.map(Role::Contender));
        roles.into_iter().map(|role| Self::new(role, rng, mutant)).collect()
    }

    fn new(role: Role, rng: &mut Rng, mutant: Mutant) -> Self {
        let error_ppm = rng.range(0, 20_001) as i64 - 10_000;
        let error_ppm = match (role, mutant) {
            (Role::Contender(_), Mutant::HastyObserver) => 300_000,
            _ => error_ppm,
        };
        let clock = Clock { offset: rng.range(S, 1_000_000 * S), error_ppm, missed: 0 };
        Self {
            role,
            life: 0,
            is_alive: false,
            sleeps_until: 0,
            clock,
            machine: None,
            controller: None,
            gate: None,
            door: Door::Holding,
            route: Site::Local,
            watch: None,
            is_cut_from_store: false,
            is_cut_from: [false, false],
            are_mirrors_promotable: true,
            tickets: [0, 0],
            lag: 0,
            remembered: Epoch::NONE,
            has_drained: false,
            timer: 0,
            timing: timing(),
        }
    }

    pub fn addressee(&self) -> Addressee {
        Addressee { process: if self.role == Role::Full { 0 } else { 1 }, life: self.life }
    }

    /// Whether an acknowledgement would pass at the true time `now`: the comparison that
    /// each one makes.
    pub fn gate_is_open(&self, now: u64, mutant: Mutant) -> bool {
        let is_timed = mutant == Mutant::TimerShutsGate;
        self.gate.is_some_and(|gate| is_timed || self.clock.shows(now) < gate.deadline)
    }

    pub fn crash(&mut self) {
        self.is_alive = false;
        self.gate = None;
        self.machine = None;
        self.controller = None;
        self.watch = None;
        self.sleeps_until = 0;
    }
}

impl World {
    pub fn start(&mut self, at: usize) {
        if self.processes[at].is_alive {
            return;
        }
        let run = self.rng.next();
        let process = &mut self.processes[at];
        process.is_alive = true;
        process.life += 1;
        process.door = Door::Holding;
        process.tickets = [process.tickets[0] + 1, process.tickets[1] + 1];
        process.machine = Some(Machine::new(Setup {
            cluster_id: "pair".into(),
            instance: format!("instance-{at}"),
            boot_id: "boot".into(),
            run,
            authority: Authority::Internet,
            timing: process.timing,
            rebuild: Rebuild::Refuse,
        }));
        let epoch = process.remembered;
        self.lease_step(at, protocol::Event::EpochKnown { epoch });
        let process = &mut self.processes[at];
        match process.role {
            Role::Full => {
                let mut settings = Settings::new(Sites::Pair);
                // Fewer events where nothing happens.
                settings.probe_interval = Duration::from_secs(3);
                settings.suspect_interval = Duration::from_millis(300);
                process.controller = Some(Controller::new(settings));
                self.controller_step(at, Event::Started);
            }
            Role::Contender(_) => self.contend(at),
        }
    }

    pub fn sleep(&mut self, at: usize, ns: u64) {
        let process = &mut self.processes[at];
        if process.is_alive && process.sleeps_until <= self.now {
            process.sleeps_until = self.now + ns;
            if self.mutant == Mutant::ClockStopsInSleep {
                process.clock.missed += ns;
            }
        }
    }

    pub fn contend(&mut self, at: usize) {
        let Role::Contender(site) = self.processes[at].role else { return };
        // A real one reads the fence rows of its own server first.
        let epoch = self.store.highest;
        self.lease_step(at, protocol::Event::EpochKnown { epoch });
        let (op, phase) = (cloud_mirror::base::OpId(1), Phase::FailedOver);
        self.lease_step(at, protocol::Event::Acquire { op, site, phase, reason: "contender".into() });
    }

    pub fn on_wake(&mut self, at: usize, timer: u64) {
        if self.processes[at].timer == timer {
            self.lease_step(at, protocol::Event::Tick);
            if self.processes[at].controller.is_some() {
                self.controller_step(at, Event::Tick);
            }
        }
    }

    fn set_timer(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let lease = process.machine.as_ref().and_then(Machine::next_deadline);
        let lease = lease.map(|due| Moment(due.0 + process.lag));
        let controller = process.controller.as_ref().and_then(Controller::next_deadline);
        process.timer += 1;
        if let Some(due) = [lease, controller].into_iter().flatten().min() {
            let (to, timer) = (process.addressee(), process.timer);
            let due = process.clock.when(due);
            self.at(due.max(self.now + 1), Happening::Wake { to, timer });
        }
    }

    // ---- The lease

    pub fn lease_step(&mut self, at: usize, event: protocol::Event) {
        let process = &mut self.processes[at];
        let mut now = Moment(process.clock.shows(self.now).0 - process.lag);
        let Some(machine) = &mut process.machine else { return };
        if let (Mutant::ExpiredHolderRenews, protocol::Standing::Holding(held)) =
            (self.mutant, machine.view().standing)
            && now >= held.deadline()
        {
            // It is told that there is a second left, and so it renews.
            process.lag += now.0 - held.deadline().0 + S;
            now = Moment(held.deadline().0 - S);
        }
        let effects = machine.step(now, event);
        let from = self.processes[at].addressee();
        for effect in effects {
            match effect {
                protocol::Effect::Read { request } => self.send_to_store(from, request, None),
                protocol::Effect::Write { request, base, record } => {
                    if self.mutant == Mutant::LostAckIsSuccess {
                        let guess = base.as_ref().and_then(|v| v.0.parse::<u64>().ok()).unwrap_or(0) + 1;
                        let version = cloud_mirror::lease::Version(guess.to_string());
                        let answer = protocol::WriteAnswer::Stored { version };
                        let event = protocol::Event::WriteEnded { request, answer };
                        self.at(self.now + 1_900 * MS, Happening::ToLease { to: from, event });
                    }
                    self.send_to_store(from, request, Some((base, record)));
                }
                protocol::Effect::Report(report) => self.on_report(at, report),
            }
        }
        self.set_timer(at);
    }

    fn on_report(&mut self, at: usize, report: Report) {
        self.trace(|| format!("lease {at}: {report:?}"));
        if let Report::Held { held, .. } = report {
            let process = &self.processes[at];
            let now = process.clock.shows(self.now);
            let deadline = Moment(held.deadline().0 + process.lag);
            self.found = self.oracle.on_held(process, at, held.epoch(), deadline, now);
            self.processes[at].remembered = held.epoch();
        }
        if let Report::Lost { why: Loss::Expired, .. } = report {
            self.summary.expiries += 1;
            if self.mutant == Mutant::DeadlineFromReply {
                // Its deadline is a later one; see `open_gate`.
                return;
            }
        }
        match self.processes[at].role {
            Role::Full => self.report_to_controller(at, report),
            Role::Contender(_) => self.report_to_contender(at, report),
        }
    }

    fn report_to_contender(&mut self, at: usize, report: Report) {
        let to = self.processes[at].addressee();
        match report {
            Report::Held { held, .. } => self.open_gate(at, held),
            Report::Lost { .. } | Report::Refused { .. } => {
                self.shut_gate(at);
                let later = self.now + self.rng.range(S, 5 * S);
                self.at(later, Happening::Contend { to });
            }
            Report::Looked { .. } | Report::Released { .. } => {}
        }
    }

    fn report_to_controller(&mut self, at: usize, report: Report) {
        let event = match report {
            Report::Held { op, held } => Event::LeaseHeld { op, held },
            Report::Refused { op, why } => Event::LeaseRefused { op, why: why.to_string() },
            Report::Released { op, epoch } => Event::LeaseReleased { op, epoch },
            Report::Lost { .. } if self.mutant == Mutant::GateSurvivesLoss => return,
            Report::Lost { epoch, why } => Event::LeaseLost { epoch, why: why.to_string() },
            Report::Looked { .. } => return,
        };
        // By a channel, as in the product: after the effects that are being carried out now.
        let to = self.processes[at].addressee();
        self.at(self.now, Happening::ToController { to, event });
    }

    fn open_gate(&mut self, at: usize, held: Held) {
        let process = &self.processes[at];
        let now = process.clock.shows(self.now);
        let gate = Gate {
            epoch: held.epoch(),
            site: held.site(),
            deadline: Moment(held.deadline().0 + process.lag),
        };
        let gate = match self.mutant {
            Mutant::DeadlineFromReply => {
                let whole = process.timing.deadline(Moment(0), Authority::Internet).0;
                Gate { deadline: Moment(gate.deadline.0.max(now.0 + whole)), ..gate }
            }
            Mutant::GateSurvivesLoss => Gate { deadline: Moment::NEVER, ..gate },
            _ => gate,
        };
        if let Some(why) = self.oracle.on_opened(process, at, gate) {
            self.found = Some(why);
        }
        self.trace(|| format!("gate of {at} opens: {gate:?} (its clock: {now:?})"));
        let process = &mut self.processes[at];
        process.gate = Some(gate);
        if process.role == Role::Full {
            self.check_opened_server(at, gate);
        }
    }

    fn shut_gate(&mut self, at: usize) {
        self.processes[at].gate = None;
    }

    // ---- The controller and its executor

    pub fn controller_step(&mut self, at: usize, event: Event) {
        let now = self.processes[at].clock.shows(self.now);
        self.trace(|| format!("controller <- {event:?}"));
        let Some(controller) = &mut self.processes[at].controller else { return };
        let effects = controller.step(now, event);
        for effect in effects {
            self.trace(|| format!("           -> {effect:?}"));
            self.carry_out(at, effect);
        }
        self.set_timer(at);
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::ReadFacts { op } => self.send_to_server(at, Site::Local, Job::Facts { op }),
            Effect::Probe { op, site } => {
                // The prober gives up after a second, whatever became of the messages.
                let outcome = ProbeOutcome::TimedOut;
                let to = self.processes[at].addressee();
                let event = Event::Probed { op, site, outcome };
                self.at(self.now + S, Happening::ToController { to, event });
                self.send_to_server(at, site, Job::Probe { op, site });
            }
            Effect::Fence { op, site, epoch } => {
                self.next_ticket(at, site);
                self.send_to_server(at, site, Job::Fence { op: Some(op), site, epoch });
            }
            Effect::Claim { op, site, epoch } => {
                self.next_ticket(at, site);
                self.send_to_server(at, site, Job::Claim { op, site, epoch });
            }
            Effect::Promote { op, epoch } => {
                self.next_ticket(at, Site::Cloud);
                self.send_to_server(at, Site::Cloud, Job::Promote { op, epoch });
            }
            Effect::FinishQueue { op, upto } => {
                self.send_to_server(at, Site::Cloud, Job::Finish { op, upto });
            }
            Effect::Hold => self.processes[at].door = Door::Holding,
            Effect::Refuse { .. } => self.processes[at].door = Door::Refusing,
            Effect::LetGo => self.processes[at].door = Door::Open,
            Effect::OpenGate(held) => self.open_gate(at, held),
            Effect::CloseGate => self.shut_gate(at),
            Effect::EpochKnown { epoch } => self.lease_step(at, protocol::Event::EpochKnown { epoch }),
            Effect::AcquireLease { op, site, phase, reason } => {
                self.lease_step(at, protocol::Event::Acquire { op, site, phase, reason });
            }
            Effect::ReleaseLease { op, reason } => {
                // The promise behind the release: nobody acknowledges any more.
                if self.processes[at].gate.is_some() {
                    self.found = Some("the lease is released with an open gate".into());
                }
                self.lease_step(at, protocol::Event::Release { op, reason });
            }
            Effect::SwapRoute { writer, .. } => self.processes[at].route = writer,
            Effect::WatchReturn { epoch, .. } => {
                self.processes[at].watch = Some(epoch);
                self.poke_watch();
            }
            Effect::EndWatch { site } => {
                self.processes[at].watch = None;
                self.next_ticket(at, site);
            }
            Effect::StartMirrors { .. } => self.processes[at].has_drained = false,
            Effect::Absolve { .. }
            | Effect::DropLinks { .. }
            | Effect::NextLife { .. }
            | Effect::Answer { .. }
            | Effect::Record { .. } => {}
        }
    }

    fn next_ticket(&mut self, at: usize, site: Site) {
        self.processes[at].tickets[index(site)] += 1;
    }

    /// The watcher over the old writer tries again when something has changed.
    pub fn poke_watch(&mut self) {
        if let Some(epoch) = self.full().watch {
            let (from, ticket) = (self.full().addressee(), self.full().tickets[0]);
            let at = self.now + self.rng.range(0, 100 * MS);
            let job = Job::Fence { op: None, site: Site::Local, epoch };
            self.at(at, Happening::AtServer { from, ticket, job });
        }
    }

    // ---- At the servers

    pub fn at_server(&mut self, from: Addressee, ticket: u64, job: Job) {
        let at = from.process;
        let is_same_life = self.processes[at].life == from.life && self.processes[at].is_alive;
        // What a dead process had under way may still be carried out.
        let site = match &job {
            Job::Fence { site, .. } | Job::Claim { site, .. } => Some(*site),
            Job::Promote { .. } => Some(Site::Cloud),
            Job::Probe { .. } | Job::Facts { .. } | Job::Finish { .. } => None,
        };
        let is_ended = site.is_some_and(|site| self.processes[at].tickets[index(site)] != ticket);
        if is_same_life && is_ended {
            return;
        }
        let wakes = self.processes[at].sleeps_until;
        if let (Job::Fence { op: None, .. }, true) = (&job, is_same_life && wakes > self.now) {
            return self.at(wakes, Happening::AtServer { from, ticket, job });
        }
        let event = match job {
            Job::Probe { op, site } => Some(Event::Probed { op, site, outcome: self.probe(at, site) }),
            Job::Fence { op: Some(op), site, epoch } => {
                self.fence(at, site, epoch).map(|outcome| Event::Fenced { op, outcome })
            }
            Job::Fence { op: None, site, epoch } => self.fence_returned(at, is_same_life, site, epoch),
            Job::Claim { op, site, epoch } => {
                self.claim(at, site, epoch).map(|outcome| Event::Claimed { op, outcome })
            }
            Job::Promote { op, epoch } => {
                self.promote(at, epoch).map(|outcome| Event::Promoted { op, outcome })
            }
            Job::Finish { op, upto } => {
                Some(Event::QueueFinished { op, outcome: self.finish_queue(at, upto) })
            }
            Job::Facts { op } => Some(Event::FactsRead { op, facts: self.facts(at) }),
        };
        if let Some(event) = event {
            self.answer_controller(from, event);
        }
    }

    fn probe(&self, at: usize, site: Site) -> ProbeOutcome {
        match self.health_for(at, site) {
            Health::Up => ProbeOutcome::Up,
            Health::Starting => ProbeOutcome::StartingUp,
            Health::Down => ProbeOutcome::Refused,
            Health::Frozen => ProbeOutcome::TimedOut,
        }
    }

    fn fence(&mut self, at: usize, site: Site, epoch: Epoch) -> Option<FenceOutcome> {
        match self.health_for(at, site) {
            _ if self.mutant == Mutant::FenceAssumed => Some(FenceOutcome::Done),
            Health::Up => Some(match self.servers[index(site)].write_fence(epoch, true) {
                Ok(()) => FenceOutcome::Done,
                Err(why) => FenceOutcome::Failed { why },
            }),
            Health::Starting => Some(FenceOutcome::NotReady),
            Health::Down => Some(FenceOutcome::Refused),
            Health::Frozen => None,
        }
    }

    fn fence_returned(&mut self, at: usize, is_same_life: bool, site: Site, epoch: Epoch) -> Option<Event> {
        if !is_same_life || self.processes[at].watch.is_none() {
            return None;
        }
        if self.mutant == Mutant::FenceAssumed || self.health_for(at, site) != Health::Up {
            return None;
        }
        self.servers[index(site)].write_fence(epoch, true).ok()?;
        Some(Event::Returned { site, detail: String::new() })
    }

    fn claim(&mut self, at: usize, site: Site, epoch: Epoch) -> Option<ClaimOutcome> {
        match self.health_for(at, site) {
            _ if self.mutant == Mutant::ClaimAssumed => Some(ClaimOutcome::Done),
            Health::Up => Some(match self.servers[index(site)].write_fence(epoch, false) {
                Ok(()) => ClaimOutcome::Done,
                Err(why) => ClaimOutcome::Stale { why },
            }),
            Health::Down | Health::Starting => Some(ClaimOutcome::Unreachable),
            Health::Frozen => None,
        }
    }

    fn promote(&mut self, at: usize, epoch: Epoch) -> Option<Result<(), String>> {
        match self.health_for(at, Site::Cloud) {
            _ if self.mutant == Mutant::PromotionAssumed => Some(Ok(())),
            Health::Up => {
                let [local, cloud] = &mut self.servers;
                if let Err(why) = cloud.write_fence(epoch, false) {
                    return Some(Err(why));
                }
                if !cloud.is_promoted && self.processes[at].has_drained && cloud.mirrored != local.rows {
                    let why = format!("{} of {} rows after a drain", cloud.mirrored, local.rows);
                    self.found = Some(why);
                }
                cloud.rows = cloud.rows.max(cloud.mirrored);
                cloud.is_promoted = true;
                self.summary.switches += 1;
                Some(Ok(()))
            }
            Health::Down | Health::Starting => Some(Err("no connection".into())),
            Health::Frozen => None,
        }
    }

    fn finish_queue(&mut self, at: usize, upto: Upto) -> Result<(), String> {
        let local = self.health_for(at, Site::Local);
        let cloud = self.health_for(at, Site::Cloud);
        match (upto, local, cloud) {
            (Upto::Received, _, Health::Up) => Ok(()),
            (Upto::SourceEnd, Health::Up, Health::Up) => {
                self.servers[1].mirrored = self.servers[0].rows;
                self.processes[at].has_drained = true;
                Ok(())
            }
            _ => Err("no connection".into()),
        }
    }

    fn facts(&self, at: usize) -> Facts {
        let fact = |site| match (self.health_for(at, site), self.servers[index(site)].fence) {
            (Health::Up, None) => FenceFact::Absent,
            (Health::Up, Some(row)) => {
                let state = if row.is_fenced { Fencing::Fenced } else { Fencing::Open };
                FenceFact::Row { epoch: row.epoch, state }
            }
            (Health::Starting | Health::Down | Health::Frozen, _) => FenceFact::Unreachable,
        };
        let is_cloud_up = self.health_for(at, Site::Cloud) == Health::Up;
        let lease = match &self.store.record {
            _ if self.processes[at].is_cut_from_store => LeaseFact::Unreadable("cut".into()),
            None => LeaseFact::Nothing,
            Some(r) => LeaseFact::Record { epoch: r.epoch, owner: r.owner, state: r.state },
        };
        Facts {
            lease,
            local: fact(Site::Local),
            cloud: fact(Site::Cloud),
            promotable: if is_cloud_up {
                self.promotable()
            } else {
                cloud_mirror::failover::controller::Promotable::Unknown
            },
            promoted: match (is_cloud_up, self.servers[1].is_promoted) {
                (false, _) => Promoted::Unknown,
                (true, true) => Promoted::All,
                (true, false) => Promoted::NotAll,
            },
        }
    }
}
