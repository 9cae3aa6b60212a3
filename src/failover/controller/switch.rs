//! From local to cloud, step by step. The release of the lease is the point of no return.

use super::machine::{Controller, State, What, record};
use super::{Effect, FenceOutcome, Insistence, ProbeOutcome, Promotable, Sites, Upto};
use crate::base::{Epoch, Moment, OpId, Site};
use crate::observe::events::Level;

/// How many times a queue that cannot be applied is tried before it is left behind.
const QUEUE_ATTEMPTS_MAX: u32 = 3;

/// A switch under way.
#[derive(Debug, Clone)]
pub(super) struct Switch {
    cause: Cause,
    step: Step,
    pub(super) retry_at: Option<Moment>,
}

/// Why, and so what has to be certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The local server does not answer. If the fence finds it alive, it goes on.
    Loss,
    /// An operator asked.
    Operator(Insistence),
}

#[derive(Debug, Clone)]
enum Step {
    /// Both are awaited: is local fenced, does the cloud answer?
    Fencing {
        fence: Option<FenceOutcome>,
        cloud: Option<ProbeOutcome>,
    },
    /// The mirrors read the source to its end.
    Draining,
    Releasing,
    Acquiring,
    /// The mirrors apply what they have.
    Finishing {
        failures: u32,
    },
    Promoting,
}

impl Switch {
    pub(super) fn word(&self) -> &'static str {
        match self.step {
            Step::Fencing { .. } => "fencing",
            Step::Draining => "draining",
            Step::Releasing => "releasing",
            Step::Acquiring => "acquiring",
            Step::Finishing { .. } => "finishing",
            Step::Promoting => "promoting",
        }
    }

    pub(super) fn writer(&self) -> Site {
        match self.step {
            Step::Fencing { .. } | Step::Draining | Step::Releasing => Site::Local,
            Step::Acquiring | Step::Finishing { .. } | Step::Promoting => Site::Cloud,
        }
    }

    pub(super) fn is_acquiring(&self) -> bool {
        matches!(self.step, Step::Acquiring)
    }

    pub(super) fn is_past_acquiring(&self) -> bool {
        matches!(self.step, Step::Finishing { .. } | Step::Promoting)
    }
}

impl Controller {
    pub(super) fn on_promote_requested(
        &mut self,
        now: Moment,
        request: OpId,
        insistence: Insistence,
        out: &mut Vec<Effect>,
    ) {
        let refusal = match (self.settings.sites, &self.state, &self.promotable) {
            (Sites::LocalOnly, _, _) => Some("there is no cloud to promote".to_owned()),
            (_, State::Steady { writer: Site::Cloud, .. }, _) => {
                Some("the cloud is the writer already".into())
            }
            (
                _,
                State::Steady { writer: Site::Local, .. }
                | State::Suspect { writer: Site::Local, .. }
                | State::Grace { writer: Site::Local, .. }
                | State::Down { writer: Site::Local, .. },
                promotable,
            ) => match promotable {
                Promotable::All => None,
                Promotable::Missing { names } => {
                    Some(format!("these mirrors have not reached Following: {}", names.join(", ")))
                }
                Promotable::NoMirrors => Some("there is no mirror to promote".into()),
                Promotable::Unknown => Some("the cloud was never reached".into()),
            },
            _ => Some(format!("not possible now, the state is {}", self.view().state)),
        };
        match refusal {
            Some(why) => out.push(Effect::Answer { request, outcome: Err(why) }),
            None => {
                self.operator = Some(request);
                self.enter_fencing(now, Cause::Operator(insistence), out);
            }
        }
    }

    pub(super) fn enter_fencing_after_loss(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.enter_fencing(now, Cause::Loss, out);
    }

    fn enter_fencing(&mut self, now: Moment, cause: Cause, out: &mut Vec<Effect>) {
        self.enter_step(cause, Step::Fencing { fence: None, cloud: None }, out);
        self.hold(now, out);
        self.shut_gate(out);
        // From here on it may be fenced, whatever the answer: it has to be claimed before it is used again.
        self.claimed = None;
        out.push(Effect::DropLinks { site: Site::Local });
        let op = self.ask(now, What::Fence, self.settings.fence_timeout);
        out.push(Effect::Fence { op, site: Site::Local, epoch: self.epoch });
        self.probe(now, Site::Cloud, out);
    }

    pub(super) fn on_fenced(&mut self, now: Moment, outcome: FenceOutcome, out: &mut Vec<Effect>) {
        if let State::Switching(Switch { step: Step::Fencing { fence, .. }, .. }) = &mut self.state {
            *fence = Some(outcome);
            self.decide_release(now, out);
        }
    }

    pub(super) fn on_switch_probed(
        &mut self,
        now: Moment,
        site: Site,
        outcome: ProbeOutcome,
        out: &mut Vec<Effect>,
    ) {
        if let State::Switching(Switch { step: Step::Fencing { cloud, .. }, .. }) = &mut self.state
            && site == Site::Cloud
        {
            *cloud = Some(outcome);
            self.decide_release(now, out);
        }
    }

    /// The last moment to turn back.
    fn decide_release(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let State::Switching(switch) = &self.state else { return };
        let Step::Fencing { fence: Some(fence), cloud: Some(cloud) } = &switch.step else { return };
        let (cause, fence, cloud) = (switch.cause, fence.clone(), cloud.clone());
        if cloud != ProbeOutcome::Up {
            let why = format!("the cloud server cannot take over, it does not answer ({cloud:?})");
            return self.turn_back(now, cause, why, out);
        }
        match (cause, fence) {
            // Nobody can write there, and whoever could soon is fenced first; see `WatchReturn`.
            (Cause::Loss, FenceOutcome::Refused | FenceOutcome::Silent | FenceOutcome::NotReady) => {
                self.enter_releasing(now, cause, out);
            }
            // It lives: it came back in the last moment, and has every row.
            (Cause::Loss, FenceOutcome::Done | FenceOutcome::Failed { .. }) => {
                record(
                    out,
                    Level::Info,
                    "failover.writer_is_back",
                    "site=local, before anything was released",
                );
                out.push(Effect::NextLife { site: Site::Local });
                self.resume(now, Site::Local, out);
            }
            (Cause::Operator(_), FenceOutcome::Done) => self.enter_draining(now, cause, out),
            (Cause::Operator(_), FenceOutcome::Refused)
            | (
                Cause::Operator(Insistence::Force),
                FenceOutcome::Silent | FenceOutcome::NotReady | FenceOutcome::Failed { .. },
            ) => {
                self.enter_releasing(now, cause, out);
            }
            (Cause::Operator(Insistence::Verified), FenceOutcome::Silent) => {
                let why = "the local server gives no answer, so it is not known to be fenced; FORCE goes on";
                self.turn_back(now, cause, why.into(), out);
            }
            (Cause::Operator(Insistence::Verified), FenceOutcome::NotReady) => {
                let why = "the local server is starting or stopping, so it is not known to be fenced; FORCE goes on";
                self.turn_back(now, cause, why.into(), out);
            }
            (Cause::Operator(Insistence::Verified), FenceOutcome::Failed { why }) => {
                self.turn_back(now, cause, format!("the local server could not be fenced: {why}"), out);
            }
        }
    }

    /// Nothing was released: the local server goes on, now or when it answers.
    fn turn_back(&mut self, now: Moment, cause: Cause, why: String, out: &mut Vec<Effect>) {
        self.answer(Err(why.clone()), out);
        match cause {
            Cause::Loss => {
                self.tell(Level::Error, "failover.no_successor", why.clone(), out);
                let retry_at = Some(now + self.settings.retry_pause);
                self.enter_down(now, Site::Local, why, retry_at, out);
            }
            Cause::Operator(_) => {
                record(out, Level::Warn, "failover.promotion_given_up", why);
                self.resume(now, Site::Local, out);
            }
        }
    }

    fn enter_draining(&mut self, now: Moment, cause: Cause, out: &mut Vec<Effect>) {
        self.enter_step(cause, Step::Draining, out);
        self.finish_queue(now, Upto::SourceEnd, out);
    }

    fn finish_queue(&mut self, now: Moment, upto: Upto, out: &mut Vec<Effect>) {
        self.mirrors = None;
        let op = self.ask(now, What::Finish, self.settings.queue_timeout);
        out.push(Effect::FinishQueue { op, upto });
    }

    fn enter_releasing(&mut self, now: Moment, cause: Cause, out: &mut Vec<Effect>) {
        self.enter_step(cause, Step::Releasing, out);
        self.release(now, cause, out);
    }

    fn release(&mut self, now: Moment, cause: Cause, out: &mut Vec<Effect>) {
        // Whatever the store answers, we do not hold it any more; see the lease's machine.
        self.held = None;
        let reason = match cause {
            Cause::Loss => "the local server died",
            Cause::Operator(_) => "an operator promotes the cloud",
        };
        let op = self.ask(now, What::Release, self.settings.lease_timeout);
        out.push(Effect::ReleaseLease { op, reason: reason.into() });
    }

    pub(super) fn on_released(&mut self, now: Moment, epoch: Epoch, out: &mut Vec<Effect>) {
        if let State::Switching(Switch { step: Step::Releasing, .. }) = self.state {
            record(out, Level::Warn, "failover.released", format!("site=local epoch={epoch}"));
            self.watch_local(out);
            self.enter_acquiring(now, out);
        }
    }

    pub(super) fn enter_acquiring(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.enter_step(self.cause(), Step::Acquiring, out);
        self.hold(now, out);
        self.acquire(now, Site::Cloud, "failover".into(), out);
    }

    pub(super) fn enter_finishing(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.enter_step(self.cause(), Step::Finishing { failures: 0 }, out);
        self.finish_queue(now, Upto::Received, out);
    }

    pub(super) fn on_queue_finished(
        &mut self,
        now: Moment,
        outcome: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        let State::Switching(switch) = &mut self.state else { return };
        let cause = switch.cause;
        match (&mut switch.step, outcome) {
            (Step::Draining, Ok(())) => self.enter_releasing(now, cause, out),
            (Step::Draining, Err(why)) if cause == Cause::Operator(Insistence::Force) => {
                record(out, Level::Warn, "failover.tail_left_behind", why);
                self.enter_releasing(now, cause, out);
            }
            (Step::Draining, Err(why)) => {
                let why = format!("the mirrors did not reach the end of the local log: {why}");
                self.turn_back(now, cause, why, out);
            }
            (Step::Finishing { .. }, Ok(())) => self.enter_promoting(now, out),
            (Step::Finishing { failures }, Err(why)) => {
                *failures += 1;
                if *failures < QUEUE_ATTEMPTS_MAX {
                    switch.retry_at = Some(now + self.settings.retry_pause);
                } else {
                    // It is in the slot too, and will be listed when the old server can be read.
                    record(out, Level::Error, "failover.queue_left_behind", why);
                    self.enter_promoting(now, out);
                }
            }
            (Step::Fencing { .. } | Step::Releasing | Step::Acquiring | Step::Promoting, _) => {}
        }
    }

    fn enter_promoting(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.held {
            Some(held) if held.site() == Site::Cloud && now < held.deadline() => {
                self.enter_step(self.cause(), Step::Promoting, out);
                let op = self.ask(now, What::Promote, self.settings.step_timeout);
                out.push(Effect::Promote { op, epoch: held.epoch() });
            }
            _ => self.enter_acquiring(now, out),
        }
    }

    pub(super) fn on_promoted(&mut self, now: Moment, outcome: Result<(), String>, out: &mut Vec<Effect>) {
        let State::Switching(switch @ Switch { step: Step::Promoting, .. }) = &mut self.state else { return };
        match outcome {
            Ok(()) => {
                // The promotion wrote the fence row at the epoch that was held when it was wished;
                // if it is another one by now, `resume` claims that.
                self.claimed = self.held.map(|held| (held.site(), held.epoch()));
                record(out, Level::Warn, "failover.promoted", format!("site=cloud epoch={}", self.epoch));
                self.resume(now, Site::Cloud, out);
            }
            Err(why) => {
                switch.retry_at = Some(now + self.settings.retry_pause);
                self.tell(Level::Error, "failover.promotion_failed", why, out);
            }
        }
    }

    pub(super) fn retry_switch(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let State::Switching(switch) = &mut self.state else { return };
        switch.retry_at = None;
        match switch.step {
            Step::Finishing { .. } => self.finish_queue(now, Upto::Received, out),
            Step::Promoting => self.enter_promoting(now, out),
            Step::Fencing { .. } | Step::Draining | Step::Releasing | Step::Acquiring => {}
        }
    }

    pub(super) fn on_switch_overdue(&mut self, now: Moment, what: What, out: &mut Vec<Effect>) {
        let late = || Err("no answer in time".to_owned());
        match what {
            What::Fence => self.on_fenced(now, FenceOutcome::Silent, out),
            What::Release => self.release(now, self.cause(), out),
            What::Acquire => self.acquire(now, Site::Cloud, "failover, asked again".into(), out),
            What::Finish => self.on_queue_finished(now, late(), out),
            What::Promote => self.on_promoted(now, late(), out),
            What::Facts | What::Probe(_) | What::Claim => {}
        }
    }

    fn cause(&self) -> Cause {
        match &self.state {
            State::Switching(switch) => switch.cause,
            _ => Cause::Loss,
        }
    }

    fn enter_step(&mut self, cause: Cause, step: Step, out: &mut Vec<Effect>) {
        self.begin(State::Switching(Switch { cause, step, retry_at: None }), out);
    }
}
