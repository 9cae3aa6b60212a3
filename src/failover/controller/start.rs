//! Finding out who is to write, from what is durable and nothing else.

use super::machine::{Controller, State, Then, What};
use super::suspect::Likely;
use super::{Effect, Facts, FenceFact, Fencing, LeaseFact, Promotable, Promoted, Sites};
use crate::base::{Epoch, Moment, Site};
use crate::lease::Tenure;

/// Reading the facts; `retry_at` when they did not suffice.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    pub(super) retry_at: Option<Moment>,
    pub(super) why: Option<String>,
}

/// What the facts ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// This site owns: take the lease for it again and open it.
    Serve(Site),
    /// The switch to the cloud was begun and passed the point of no return: take the next undone step.
    FinishSwitch { take: Take },
    /// Not enough is known.
    Wait(String),
    /// A person has to look.
    Stuck(String),
}

/// Whether the lease was taken for the cloud before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// Given back by local and free.
    Released,
    /// Held for the cloud, whose databases are not all promoted.
    Owned,
}

/// Decides from the facts alone.
pub(super) fn plan(facts: &Facts) -> Plan {
    match &facts.lease {
        LeaseFact::Refused(why) => Plan::Stuck(why.clone()),
        LeaseFact::Unreadable(why) => Plan::Wait(why.clone()),
        LeaseFact::Nothing => plan_without_record(facts),
        LeaseFact::Record { owner: Site::Local, state: Tenure::Active, .. } => Plan::Serve(Site::Local),
        LeaseFact::Record { owner: Site::Local, state: Tenure::Released, .. } => plan_released(facts),
        LeaseFact::Record { owner: Site::Cloud, .. } => match facts.promoted {
            Promoted::All => Plan::Serve(Site::Cloud),
            Promoted::NotAll => Plan::FinishSwitch { take: Take::Owned },
            Promoted::Unknown => Plan::Wait("the cloud owns the data, and its server does not answer".into()),
        },
    }
}

/// No record: the first start of all, or a record that was removed. The lease refuses the second
/// unless an operator rebuilds it; then the side that is open at the higher epoch is the owner.
fn plan_without_record(facts: &Facts) -> Plan {
    let open = |fact| match fact {
        FenceFact::Row { epoch, state: Fencing::Open } => epoch,
        FenceFact::Row { state: Fencing::Fenced, .. } | FenceFact::Absent | FenceFact::Unreachable => {
            Epoch::NONE
        }
    };
    match (facts.local, facts.cloud) {
        (FenceFact::Unreachable, _) => {
            let why =
                "there is no lease record, and the local server does not answer whether there was one before";
            Plan::Wait(why.into())
        }
        (FenceFact::Row { state: Fencing::Fenced, .. }, FenceFact::Unreachable) => {
            let why = "there is no lease record, the local server is fenced, and the cloud server does not \
                       answer whether it has taken over";
            Plan::Wait(why.into())
        }
        // Neither the record, nor local's rows, nor the state directory (the lease looks there) knows of an
        // epoch: a first start. It serves without the cloud, as any other start does.
        (FenceFact::Absent | FenceFact::Row { state: Fencing::Open, .. }, FenceFact::Unreachable) => {
            Plan::Serve(Site::Local)
        }
        (local, cloud) if open(cloud) > open(local) => Plan::Serve(Site::Cloud),
        _ => Plan::Serve(Site::Local),
    }
}

/// Local gave the lease back and nobody took it.
fn plan_released(facts: &Facts) -> Plan {
    match (facts.local, &facts.promotable) {
        // It is back, open, and has every row: nothing was promoted yet, so nothing is lost by
        // going on with it.
        (FenceFact::Row { state: Fencing::Open, .. } | FenceFact::Absent, _) => Plan::Serve(Site::Local),
        (FenceFact::Row { state: Fencing::Fenced, .. } | FenceFact::Unreachable, Promotable::All) => {
            Plan::FinishSwitch { take: Take::Released }
        }
        // Fenced, and the cloud cannot take over: local is the only one left.
        (FenceFact::Row { state: Fencing::Fenced, .. }, _) => Plan::Serve(Site::Local),
        (FenceFact::Unreachable, _) => {
            Plan::Wait("the local server is down, and the cloud cannot be promoted now".into())
        }
    }
}

impl Controller {
    pub(super) fn on_started(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.hold(now, out);
        match self.settings.sites {
            Sites::LocalOnly => self.enter_suspect(now, Site::Local, Likely::Restart, out),
            Sites::Pair => self.enter_reading(now, out),
        }
    }

    pub(super) fn enter_reading(&mut self, now: Moment, out: &mut Vec<Effect>) {
        // What was wrong before stays the reason until something else is known.
        let why = self.view().why;
        self.begin(State::Starting(Start { retry_at: None, why }), out);
        self.hold(now, out);
        self.shut_gate(out);
        let op = self.ask(now, What::Facts, self.settings.step_timeout);
        out.push(Effect::ReadFacts { op });
    }

    pub(super) fn on_facts(&mut self, now: Moment, facts: Facts, out: &mut Vec<Effect>) {
        self.promotable = facts.promotable.clone();
        let known = [facts.local, facts.cloud].map(|fact| match fact {
            FenceFact::Row { epoch, .. } => epoch,
            FenceFact::Unreachable | FenceFact::Absent => Epoch::NONE,
        });
        let known = known[0].max(known[1]);
        if known > Epoch::NONE {
            self.epoch = self.epoch.max(known);
            out.push(Effect::EpochKnown { epoch: known });
        }
        if let LeaseFact::Record { epoch, .. } = facts.lease {
            self.epoch = self.epoch.max(epoch);
        }
        match plan(&facts) {
            Plan::Serve(site) => self.enter_taking(now, site, Then::Claim, "started", out),
            Plan::FinishSwitch { take: Take::Released } => {
                self.watch_local(out);
                self.enter_acquiring(now, out);
            }
            Plan::FinishSwitch { take: Take::Owned } => {
                self.enter_taking(now, Site::Cloud, Then::Promote, "started in the middle of a switch", out);
            }
            Plan::Wait(why) => {
                self.tell(crate::observe::events::Level::Warn, "failover.waiting", why.clone(), out);
                let retry_at = Some(now + self.settings.retry_pause);
                self.state = State::Starting(Start { retry_at, why: Some(why) });
            }
            Plan::Stuck(why) => self.enter_stuck(now, why, out),
        }
    }
}
