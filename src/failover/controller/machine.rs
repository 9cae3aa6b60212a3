//! The states, the wishes under way, and what all states have in common.

use super::start::Start;
use super::suspect::Suspicion;
use super::switch::Switch;
use super::{ClaimOutcome, Effect, Event, Promotable, Settings, Sites};
use crate::base::{Epoch, Moment, OpId, Site};
use crate::lease::{Held, Phase};
use crate::observe::events::Level;
use std::time::Duration;

/// What clients hear while the lease is asked for: its store answers late, wrongly or not at all.
const WITHOUT_LEASE: &str = "the lease has not been taken: its store does not answer as it should";

/// See the [module](super).
#[derive(Debug, Clone)]
pub struct Controller {
    pub(super) settings: Settings,
    pub(super) state: State,
    /// The lease as last proven; its deadline is compared before it is used.
    pub(super) held: Option<Held>,
    pub(super) gate: Gate,
    /// The side and epoch that the fence rows of the writer are known to be open at.
    pub(super) claimed: Option<(Site, Epoch)>,
    /// What the map says.
    routed: Option<(Site, Epoch)>,
    /// At which epoch the mirrors run.
    pub(super) mirrors: Option<Epoch>,
    /// The old writer that is fenced whenever it returns, and at which epoch.
    watched: Option<(Site, Epoch)>,
    pub(super) promotable: Promotable,
    pub(super) operator: Option<OpId>,
    /// The highest epoch that we know of, for fences.
    pub(super) epoch: Epoch,
    hold: Holding,
    /// What clients were told last, while they are refused.
    refused_because: String,
    pending: Vec<Pending>,
    ops: u64,
    told: Option<String>,
}

/// What the machine is.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Not started.
    New,
    /// Finding out who is to write.
    Starting(Start),
    /// Taking the lease for the site that the facts name.
    Taking { site: Site, then: Then },
    /// Opening the writer's fence rows at our epoch; `retry_at` after an error.
    Claiming { site: Site, retry_at: Option<Moment> },
    /// Serving.
    Steady { writer: Site, check_at: Moment },
    /// Something broke; probing.
    Suspect { writer: Site, suspicion: Suspicion },
    /// It restarts.
    Grace { writer: Site, until: Moment, probe_at: Option<Moment> },
    /// The writer is dead and nobody can take over. `retry_at`: when to try the switch again.
    Down { writer: Site, why: String, probe_at: Option<Moment>, retry_at: Option<Moment> },
    /// The writer changes.
    Switching(Switch),
    /// Something needs a person; the facts are read again at `retry_at`.
    Stuck { why: String, retry_at: Moment },
    /// Somebody else acts.
    FailingBack,
    /// The process ends.
    Stopping,
}

/// What follows when the lease is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Claim,
    Promote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Shut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    No,
    Since(Moment),
    Refusing,
}

/// A wish under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    op: OpId,
    what: What,
    due: Moment,
}

/// The kind of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Facts,
    Probe(Site),
    Acquire,
    Release,
    Fence,
    Claim,
    Finish,
    Promote,
}

/// What can be shown of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// One word.
    pub state: &'static str,
    /// The site that writes, or did before what is going on.
    pub writer: Option<Site>,
    /// The highest epoch known.
    pub epoch: Epoch,
    /// Whether clients are held or refused.
    pub is_holding: bool,
    /// Why it is not steady, in a sentence.
    pub why: Option<String>,
}

impl Controller {
    /// A controller that waits for [`Event::Started`].
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::New,
            held: None,
            gate: Gate::Shut,
            claimed: None,
            routed: None,
            mirrors: None,
            watched: None,
            promotable: Promotable::Unknown,
            operator: None,
            epoch: Epoch::NONE,
            hold: Holding::No,
            refused_because: String::new(),
            pending: Vec::new(),
            ops: 0,
            told: None,
        }
    }

    /// Decides, never acts. Same state, same `now`, same event: same effects.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        if !self.is_awaited(&event, &mut out) {
            return out;
        }
        match event {
            Event::Started => self.on_started(now, &mut out),
            Event::FactsRead { facts, .. } => self.on_facts(now, facts, &mut out),
            Event::LinkBroken { site, evidence } => self.on_link_broken(now, site, evidence, &mut out),
            Event::Probed { site, outcome, .. } => self.on_probed(now, site, outcome, &mut out),
            Event::LeaseHeld { op, held } => self.on_held(now, op, held, &mut out),
            Event::LeaseRefused { why, .. } => self.enter_stuck(now, why, &mut out),
            Event::LeaseReleased { epoch, .. } => self.on_released(now, epoch, &mut out),
            Event::LeaseLost { epoch, why } => self.on_lost(now, epoch, why, &mut out),
            Event::Fenced { outcome, .. } => self.on_fenced(now, outcome, &mut out),
            Event::Claimed { outcome, .. } => self.on_claimed(now, outcome, &mut out),
            Event::QueueFinished { outcome, .. } => self.on_queue_finished(now, outcome, &mut out),
            Event::Promoted { outcome, .. } => self.on_promoted(now, outcome, &mut out),
            Event::MirrorsReported { promotable } => self.on_mirrors(now, promotable, &mut out),
            Event::PromoteRequested { request, insistence } => {
                self.on_promote_requested(now, request, insistence, &mut out);
            }
            Event::Returned { site, detail } => {
                let detail = format!("site={site} epoch={} {detail}", self.epoch);
                record(&mut out, Level::Warn, "failover.old_writer_fenced", detail);
            }
            Event::FailbackBegan => {
                self.begin(State::FailingBack, &mut out);
                self.hold(now, &mut out);
                self.shut_gate(&mut out);
                self.end_watch(&mut out);
                self.mirrors = None;
            }
            Event::FailbackEnded => {
                if matches!(self.state, State::FailingBack) {
                    self.claimed = None;
                    self.enter_reading(now, &mut out);
                }
            }
            Event::Stopping => self.begin(State::Stopping, &mut out),
            Event::Reloaded { settings } => self.settings = settings,
            Event::Tick => {}
        }
        self.on_time(now, &mut out);
        out
    }

    /// When to call `step` with [`Event::Tick`] if nothing else happens first.
    pub fn next_deadline(&self) -> Option<Moment> {
        let hold = match self.hold {
            Holding::Since(since) => Some(since + self.settings.hold_timeout),
            Holding::No | Holding::Refusing => None,
        };
        let state = match &self.state {
            State::New | State::Taking { .. } | State::FailingBack | State::Stopping => [None, None],
            State::Starting(start) => [start.retry_at, None],
            State::Claiming { retry_at, .. } => [*retry_at, None],
            State::Steady { check_at, .. } => [Some(*check_at).filter(|_| !self.waits_for_probe()), None],
            State::Suspect { suspicion, .. } => [suspicion.probe_at, None],
            State::Grace { until, probe_at, .. } => [Some(*until), *probe_at],
            State::Down { probe_at, retry_at, .. } => [*probe_at, *retry_at],
            State::Switching(switch) => [switch.retry_at, None],
            State::Stuck { retry_at, .. } => [Some(*retry_at), None],
        };
        let pending = self.pending.iter().map(|p| p.due).min();
        [hold, state[0], state[1], pending].into_iter().flatten().min()
    }

    /// What can be shown.
    pub fn view(&self) -> View {
        let (state, writer, why) = match &self.state {
            State::New => ("starting", None, None),
            State::Starting(start) => ("starting", None, start.why.clone()),
            State::Taking { site, .. } => ("taking_lease", Some(*site), Some(WITHOUT_LEASE.to_owned())),
            State::Claiming { site, .. } => ("claiming", Some(*site), None),
            State::Steady { writer: Site::Local, .. } => ("steady", Some(Site::Local), None),
            State::Steady { writer: Site::Cloud, .. } => ("switched_to_cloud", Some(Site::Cloud), None),
            State::Suspect { writer, .. } => ("suspect", Some(*writer), None),
            State::Grace { writer, .. } => ("grace", Some(*writer), None),
            State::Down { writer, why, .. } => ("down", Some(*writer), Some(why.clone())),
            State::Switching(switch) => (switch.word(), Some(switch.writer()), None),
            State::Stuck { why, .. } => ("stuck", None, Some(why.clone())),
            State::FailingBack => ("failing_back", None, None),
            State::Stopping => ("stopping", self.routed.map(|(site, _)| site), None),
        };
        View { state, writer, epoch: self.epoch, is_holding: self.hold != Holding::No, why }
    }

    /// Takes the wish of an answer off the list. An answer that nobody waits for is noted.
    fn is_awaited(&mut self, event: &Event, out: &mut Vec<Effect>) -> bool {
        let (op, name) = match event {
            Event::FactsRead { op, .. } => (*op, "facts"),
            Event::Probed { op, .. } => (*op, "probe"),
            Event::LeaseRefused { op, .. } => (*op, "lease refused"),
            Event::LeaseReleased { op, .. } => (*op, "lease released"),
            Event::Fenced { op, .. } => (*op, "fence"),
            Event::Claimed { op, .. } => (*op, "claim"),
            Event::QueueFinished { op, .. } => (*op, "queue"),
            Event::Promoted { op, .. } => (*op, "promotion"),
            Event::Started
            | Event::LinkBroken { .. }
            | Event::LeaseHeld { .. }
            | Event::LeaseLost { .. }
            | Event::MirrorsReported { .. }
            | Event::PromoteRequested { .. }
            | Event::Returned { .. }
            | Event::FailbackBegan
            | Event::FailbackEnded
            | Event::Stopping
            | Event::Reloaded { .. }
            | Event::Tick => return true,
        };
        if self.settle(op) {
            return true;
        }
        // Probes are dropped all the time, and nothing follows from one that comes late.
        if !matches!(event, Event::Probed { .. }) {
            record(out, Level::Info, "failover.late_answer", format!("op={op} {name}"));
        }
        false
    }

    fn settle(&mut self, op: OpId) -> bool {
        let before = self.pending.len();
        self.pending.retain(|p| p.op != op);
        self.pending.len() < before
    }

    // ---- The lease

    fn on_held(&mut self, now: Moment, op: Option<OpId>, held: Held, out: &mut Vec<Effect>) {
        self.epoch = self.epoch.max(held.epoch());
        self.held = Some(held);
        let is_wished = op.is_some_and(|op| self.settle(op));
        match &self.state {
            State::Taking { site, then } if is_wished && *site == held.site() => match then {
                Then::Claim => self.enter_claiming(now, *site, out),
                Then::Promote => self.enter_finishing(now, out),
            },
            State::Switching(switch) if is_wished && switch.is_acquiring() && held.site() == Site::Cloud => {
                self.enter_finishing(now, out);
            }
            State::Steady { .. }
            | State::Suspect { .. }
            | State::Grace { .. }
            | State::Down { .. }
            | State::Stopping
                if self.gate == Gate::Open && self.claimed == Some((held.site(), held.epoch())) =>
            {
                out.push(Effect::OpenGate(held));
            }
            _ => {}
        }
    }

    fn on_lost(&mut self, now: Moment, epoch: Epoch, why: String, out: &mut Vec<Effect>) {
        // A report of an older epoch than the one held now says nothing new.
        if self.held.is_some_and(|h| h.epoch() > epoch) {
            return;
        }
        self.held = None;
        self.shut_gate(out);
        record(out, Level::Warn, "failover.lease_lost", format!("epoch={epoch}: {why}"));
        match self.state {
            // The facts first: whoever took it, or a person, may have changed more than the lease.
            State::Steady { .. } | State::Claiming { .. } => self.enter_reading(now, out),
            State::Switching(ref switch) if switch.is_past_acquiring() => self.enter_acquiring(now, out),
            // With a server that is suspected or down it is taken when the server answers; the
            // other states do not rely on it or wait for an answer that the loss does not change.
            State::Suspect { .. }
            | State::Grace { .. }
            | State::Down { .. }
            | State::New
            | State::Starting(_)
            | State::Taking { .. }
            | State::Switching(_)
            | State::Stuck { .. }
            | State::FailingBack
            | State::Stopping => {}
        }
    }

    pub(super) fn enter_taking(
        &mut self,
        now: Moment,
        site: Site,
        then: Then,
        why: &str,
        out: &mut Vec<Effect>,
    ) {
        self.begin(State::Taking { site, then }, out);
        self.hold(now, out);
        self.shut_gate(out);
        if site == Site::Cloud {
            self.watch_local(out);
        }
        self.acquire(now, site, why.to_owned(), out);
    }

    pub(super) fn acquire(&mut self, now: Moment, site: Site, reason: String, out: &mut Vec<Effect>) {
        let op = self.ask(now, What::Acquire, self.settings.lease_timeout);
        let phase = match site {
            Site::Local => Phase::Normal,
            Site::Cloud => Phase::FailedOver,
        };
        out.push(Effect::AcquireLease { op, site, phase, reason });
    }

    // ---- Opening a writer

    pub(super) fn enter_claiming(&mut self, now: Moment, site: Site, out: &mut Vec<Effect>) {
        self.begin(State::Claiming { site, retry_at: None }, out);
        self.hold(now, out);
        if site == Site::Local {
            self.end_watch(out);
        }
        let epoch = self.held.map_or(self.epoch, Held::epoch);
        let op = self.ask(now, What::Claim, self.settings.step_timeout);
        out.push(Effect::Claim { op, site, epoch });
    }

    fn on_claimed(&mut self, now: Moment, outcome: ClaimOutcome, out: &mut Vec<Effect>) {
        let State::Claiming { site, .. } = self.state else { return };
        match outcome {
            ClaimOutcome::Done => {
                self.claimed = self.held.map(|held| (site, held.epoch()));
                self.resume(now, site, out);
            }
            ClaimOutcome::Unreachable => self.enter_suspect_at_start(now, site, out),
            ClaimOutcome::Stale { why } => self.enter_stuck(now, why, out),
            ClaimOutcome::Failed { why } => {
                self.tell(Level::Error, "failover.claim_failed", format!("site={site}: {why}"), out);
                self.state = State::Claiming { site, retry_at: Some(now + self.settings.retry_pause) };
            }
        }
    }

    /// Goes on with a site whose server answers, at the next thing it lacks.
    pub(super) fn resume(&mut self, now: Moment, site: Site, out: &mut Vec<Effect>) {
        match (self.settings.sites, self.held) {
            (Sites::LocalOnly, _) => self.enter_steady(now, site, out),
            (Sites::Pair, Some(held)) if held.site() == site && now < held.deadline() => {
                if self.claimed == Some((site, held.epoch())) {
                    self.enter_steady(now, site, out);
                } else {
                    self.enter_claiming(now, site, out);
                }
            }
            // The lease ran out meanwhile.
            (Sites::Pair, _) => self.enter_reading(now, out),
        }
    }

    pub(super) fn enter_steady(&mut self, now: Moment, writer: Site, out: &mut Vec<Effect>) {
        self.begin(State::Steady { writer, check_at: now + self.settings.probe_interval }, out);
        self.told = None;
        let epoch = self.held.map_or(Epoch::NONE, Held::epoch);
        if self.routed != Some((writer, epoch)) {
            self.routed = Some((writer, epoch));
            out.push(Effect::SwapRoute { writer, epoch });
            record(out, Level::Info, "failover.steady", format!("writer={writer} epoch={epoch}"));
        }
        if let (Sites::Pair, Gate::Shut, Some(held)) = (self.settings.sites, self.gate, self.held) {
            self.gate = Gate::Open;
            out.push(Effect::OpenGate(held));
        }
        if self.hold != Holding::No {
            self.hold = Holding::No;
            out.push(Effect::LetGo);
        }
        match (self.settings.sites, writer) {
            (Sites::Pair, Site::Local) if self.mirrors != Some(epoch) => {
                self.mirrors = Some(epoch);
                out.push(Effect::StartMirrors { epoch });
            }
            (Sites::Pair, Site::Cloud) => {
                self.watch_local(out);
                self.answer(Ok(epoch), out);
            }
            (Sites::Pair | Sites::LocalOnly, _) => {}
        }
    }

    // ---- What a person has to look at

    pub(super) fn enter_stuck(&mut self, now: Moment, why: String, out: &mut Vec<Effect>) {
        self.tell(Level::Error, "failover.stuck", why.clone(), out);
        self.answer(Err(why.clone()), out);
        self.begin(State::Stuck { why, retry_at: now + self.settings.stuck_pause }, out);
        self.hold(now, out);
        self.shut_gate(out);
    }

    fn on_mirrors(&mut self, now: Moment, promotable: Promotable, out: &mut Vec<Effect>) {
        self.promotable = promotable;
        if let State::Down { writer: Site::Local, .. } = self.state {
            self.decide_switch(now, out);
        }
    }

    // ---- Time

    /// What is due now, for any state. Runs at the end of each step.
    fn on_time(&mut self, now: Moment, out: &mut Vec<Effect>) {
        while let Some(at) = self.pending.iter().position(|p| now >= p.due) {
            let late = self.pending.remove(at);
            self.on_overdue(now, late.what, out);
        }
        let is_due = |at: &Option<Moment>| at.is_some_and(|at| now >= at);
        match &self.state {
            State::Starting(start) if is_due(&start.retry_at) => self.enter_reading(now, out),
            State::Stuck { retry_at, .. } if now >= *retry_at => self.enter_reading(now, out),
            State::Claiming { site, retry_at } if is_due(retry_at) => self.enter_claiming(now, *site, out),
            State::Steady { check_at, .. } if now >= *check_at => self.check(now, out),
            State::Suspect { .. } | State::Grace { .. } | State::Down { .. } => {
                self.on_suspect_time(now, out)
            }
            State::Switching(switch) if is_due(&switch.retry_at) => self.retry_switch(now, out),
            _ => {}
        }
        self.refuse_when_due(now, out);
    }

    /// Held clients are refused after the timeout, with the reason as it is then; a reason that is
    /// found later takes its place, for it says what to do.
    fn refuse_when_due(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let view = self.view();
        let reason = match self.hold {
            Holding::Since(since) if now >= since + self.settings.hold_timeout => {
                let reason =
                    view.why.unwrap_or_else(|| format!("the writer is not available ({})", view.state));
                record(out, Level::Error, "failover.hold_timed_out", reason.clone());
                reason
            }
            Holding::Refusing => match view.why {
                Some(why) if self.refused_because != why => why,
                Some(_) | None => return,
            },
            Holding::No | Holding::Since(_) => return,
        };
        self.hold = Holding::Refusing;
        self.refused_because.clone_from(&reason);
        out.push(Effect::Refuse { reason });
    }

    /// No answer in time: it is unknown what happened, and every step may be asked for again.
    fn on_overdue(&mut self, now: Moment, what: What, out: &mut Vec<Effect>) {
        match (&self.state, what) {
            (_, What::Facts) => self.enter_reading(now, out),
            (_, What::Probe(site)) => self.on_probed(now, site, super::ProbeOutcome::TimedOut, out),
            (State::Taking { site, .. }, What::Acquire) => {
                let site = *site;
                self.acquire(now, site, "asked again".into(), out);
            }
            (State::Claiming { site, .. }, What::Claim) => {
                let site = *site;
                self.enter_suspect_at_start(now, site, out);
            }
            (State::Switching(_), _) => self.on_switch_overdue(now, what, out),
            _ => {}
        }
    }

    // ---- Shared by all states

    /// Enters a state: the wishes of the one before are dropped.
    pub(super) fn begin(&mut self, state: State, out: &mut Vec<Effect>) {
        self.pending.clear();
        let before = self.view().state;
        self.state = state;
        let after = self.view().state;
        if before != after {
            record(out, Level::Info, "failover.state_changed", format!("from={before} to={after}"));
        }
    }

    pub(super) fn ask(&mut self, now: Moment, what: What, timeout: Duration) -> OpId {
        self.ops += 1;
        let op = OpId(self.ops);
        self.pending.push(Pending { op, what, due: now + timeout });
        op
    }

    pub(super) fn probe(&mut self, now: Moment, site: Site, out: &mut Vec<Effect>) {
        // The prober keeps the time-out; ours is for a prober that is lost.
        let op = self.ask(now, What::Probe(site), self.settings.probe_timeout * 2);
        out.push(Effect::Probe { op, site });
    }

    pub(super) fn waits_for_probe(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.what, What::Probe(_)))
    }

    pub(super) fn hold(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.hold == Holding::No {
            self.hold = Holding::Since(now);
            out.push(Effect::Hold);
        }
    }

    pub(super) fn shut_gate(&mut self, out: &mut Vec<Effect>) {
        if self.gate == Gate::Open {
            self.gate = Gate::Shut;
            out.push(Effect::CloseGate);
        }
    }

    pub(super) fn watch_local(&mut self, out: &mut Vec<Effect>) {
        // At the newest epoch: then one side alone shows if an older record is restored.
        let watch = Some((Site::Local, self.epoch));
        if self.watched != watch {
            self.watched = watch;
            out.push(Effect::WatchReturn { site: Site::Local, epoch: self.epoch });
        }
    }

    fn end_watch(&mut self, out: &mut Vec<Effect>) {
        if let Some((site, _)) = self.watched.take() {
            out.push(Effect::EndWatch { site });
        }
    }

    pub(super) fn answer(&mut self, outcome: Result<Epoch, String>, out: &mut Vec<Effect>) {
        if let Some(request) = self.operator.take() {
            out.push(Effect::Answer { request, outcome });
        }
    }

    /// Records what goes on being so only once.
    pub(super) fn tell(&mut self, level: Level, name: &'static str, detail: String, out: &mut Vec<Effect>) {
        if self.told.as_ref() != Some(&detail) {
            self.told = Some(detail.clone());
            record(out, level, name, detail);
        }
    }
}

pub(super) fn record(out: &mut Vec<Effect>, level: Level, name: &'static str, detail: impl Into<String>) {
    out.push(Effect::Record { level, name, detail: detail.into() });
}
