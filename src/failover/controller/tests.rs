//! Single histories of the controller; `tests/sim` walks through thousands.

use super::start::{Plan, Take, plan};
use super::*;
use crate::base::{Epoch, Moment, OpId, Site};
use crate::lease::protocol::tests::held_at;
use crate::lease::{Held, Tenure};
use std::time::Duration;

/// A controller, its clock and what it wished last.
struct Bench {
    controller: Controller,
    now: Moment,
    /// By the last step.
    wished: Vec<Effect>,
    /// By all steps so far, unless answered.
    open: Vec<Effect>,
}

/// Answers to wishes, without their op.
enum Answer {
    Facts(Facts),
    Probe(ProbeOutcome),
    Held(Held),
    Released,
    Fence(FenceOutcome),
    Claim(ClaimOutcome),
    Queue(Result<(), String>),
    Promotion(Result<(), String>),
}

impl Answer {
    fn to(&self, wish: &Effect) -> Option<Event> {
        Some(match (wish, self) {
            (Effect::ReadFacts { op }, Answer::Facts(facts)) => {
                Event::FactsRead { op: *op, facts: facts.clone() }
            }
            (Effect::Probe { op, site }, Answer::Probe(outcome)) => {
                Event::Probed { op: *op, site: *site, outcome: outcome.clone() }
            }
            (Effect::AcquireLease { op, .. }, Answer::Held(held)) => {
                Event::LeaseHeld { op: Some(*op), held: *held }
            }
            (Effect::ReleaseLease { op, .. }, Answer::Released) => {
                Event::LeaseReleased { op: *op, epoch: Epoch(5) }
            }
            (Effect::Fence { op, .. }, Answer::Fence(outcome)) => {
                Event::Fenced { op: *op, outcome: outcome.clone() }
            }
            (Effect::Claim { op, .. }, Answer::Claim(outcome)) => {
                Event::Claimed { op: *op, outcome: outcome.clone() }
            }
            (Effect::FinishQueue { op, .. }, Answer::Queue(outcome)) => {
                Event::QueueFinished { op: *op, outcome: outcome.clone() }
            }
            (Effect::Promote { op, .. }, Answer::Promotion(outcome)) => {
                Event::Promoted { op: *op, outcome: outcome.clone() }
            }
            _ => return None,
        })
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn record_of(owner: Site, state: Tenure) -> LeaseFact {
    LeaseFact::Record { epoch: Epoch(4), owner, state }
}

fn facts(lease: LeaseFact) -> Facts {
    let open = FenceFact::Row { epoch: Epoch(4), state: Fencing::Open };
    let (promotable, promoted) = (Promotable::All, Promoted::NotAll);
    Facts { lease, local: open, cloud: FenceFact::Absent, promotable, promoted }
}

impl Bench {
    fn started(sites: Sites) -> Self {
        // Shortly after the lease of `held_at` was written.
        let now = Moment(1_000_000_000_000) + ms(100);
        let mut bench =
            Self { controller: Controller::new(Settings::new(sites)), now, wished: vec![], open: vec![] };
        bench.tell(Event::Started);
        bench
    }

    /// A pair in which local writes at epoch 5.
    fn steady() -> Self {
        let mut b = Self::started(Sites::Pair);
        b.reply(Answer::Facts(facts(record_of(Site::Local, Tenure::Active))));
        b.reply(Answer::Held(held_at(5, Site::Local)));
        b.reply(Answer::Claim(ClaimOutcome::Done));
        b.expect(
            "steady",
            &["SwapRoute { writer: Local, epoch: Epoch(5) }", "OpenGate", "LetGo", "StartMirrors"],
        );
        b
    }

    fn tell(&mut self, event: Event) {
        self.wished = self.controller.step(self.now, event);
        self.open.extend(self.wished.iter().cloned());
        if let Some(due) = self.controller.next_deadline() {
            assert!(due > self.now, "the controller would spin: {:?}", self.controller);
        }
    }

    fn pass(&mut self, by: Duration) {
        self.now = self.now + by;
        self.tell(Event::Tick);
    }

    fn links_break(&mut self, evidence: Evidence) {
        self.tell(Event::LinkBroken { site: Site::Local, evidence });
    }

    /// Answers the newest wish of that kind.
    #[track_caller]
    fn reply(&mut self, answer: Answer) {
        let found = self.open.iter().rposition(|wish| answer.to(wish).is_some());
        let at = found.unwrap_or_else(|| panic!("not wished: {:?}", self.open));
        let event = answer.to(&self.open.remove(at)).expect("just found");
        self.tell(event);
    }

    /// Three refused probes, 100 ms apart.
    fn refuse(&mut self) {
        for _ in 0..2 {
            self.reply(Answer::Probe(ProbeOutcome::Refused));
            self.pass(ms(100));
        }
        self.reply(Answer::Probe(ProbeOutcome::Refused));
    }

    /// The state, and effects that must be among the last ones, in this order.
    #[track_caller]
    fn expect(&self, state: &str, effects: &[&str]) {
        assert_eq!(self.controller.view().state, state, "{:?}", self.wished);
        let mut texts = self.wished.iter().map(|e| format!("{e:?}"));
        for expected in effects {
            assert!(texts.any(|t| t.starts_with(expected)), "no {expected} (in order) in {:#?}", self.wished);
        }
    }

    #[track_caller]
    fn expect_not(&self, effect: &str) {
        let found = self.wished.iter().any(|e| format!("{e:?}").starts_with(effect));
        assert!(!found, "{effect} in {:?}", self.wished);
    }

    /// From the fence on, all goes well.
    fn switch(&mut self) {
        self.reply(Answer::Released);
        self.expect("acquiring", &["WatchReturn { site: Local", "AcquireLease { op: "]);
        self.reply(Answer::Held(held_at(6, Site::Cloud)));
        self.expect("finishing", &["FinishQueue { op: "]);
        self.reply(Answer::Queue(Ok(())));
        self.expect("promoting", &["Promote { op: "]);
        self.reply(Answer::Promotion(Ok(())));
        self.expect(
            "switched_to_cloud",
            &["SwapRoute { writer: Cloud, epoch: Epoch(6) }", "OpenGate", "LetGo"],
        );
    }
}

#[test]
fn a_killed_server_is_replaced_after_three_refused_probes() {
    let mut b = Bench::steady();
    b.links_break(Evidence::PostmasterDied);
    b.expect("suspect", &["Hold", "Probe { op: "]);
    let began = b.now;
    b.refuse();
    b.expect("fencing", &["CloseGate", "DropLinks { site: Local }", "Fence { op: ", "Probe { op: "]);
    assert_eq!(b.now.since(began), ms(200));
    b.reply(Answer::Fence(FenceOutcome::Refused));
    b.expect_not("ReleaseLease");
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("releasing", &["ReleaseLease"]);
    b.switch();
    b.tell(Event::Returned { site: Site::Local, detail: "terminated=2".into() });
    b.expect("switched_to_cloud", &["Record"]);
    b.tell(Event::LinkBroken { site: Site::Local, evidence: Evidence::Eof });
    b.expect("switched_to_cloud", &[]);
}

#[test]
fn refused_clients_are_told_the_reason_as_soon_as_it_is_known() {
    let mut b = Bench::started(Sites::Pair);
    b.pass(b.controller.settings.hold_timeout);
    b.expect("starting", &["Refuse { reason: \"the writer is not available (starting)\" }"]);
    b.reply(Answer::Facts(facts(LeaseFact::Refused("the record is damaged".into()))));
    b.expect("stuck", &["Refuse { reason: \"the record is damaged\" }"]);
    b.pass(ms(100));
    b.expect("stuck", &[]);
    b.expect_not("Refuse");
}

#[test]
fn one_terminated_session_is_passed_on_after_one_probe() {
    let mut b = Bench::steady();
    b.links_break(Evidence::AdminStop);
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("steady", &["Absolve { site: Local }", "LetGo"]);
    b.expect_not("NextLife");
}

#[test]
fn a_restart_is_waited_for_and_clients_are_held() {
    for (evidence, first) in [
        (Evidence::AdminStop, ProbeOutcome::Refused),
        (Evidence::CrashRestart, ProbeOutcome::Refused),
        (Evidence::Eof, ProbeOutcome::StartingUp),
    ] {
        let mut b = Bench::steady();
        b.links_break(evidence);
        b.reply(Answer::Probe(first));
        b.expect("grace", &[]);
        for _ in 0..90 {
            b.pass(ms(100));
            b.reply(Answer::Probe(ProbeOutcome::Refused));
        }
        b.expect("grace", &[]);
        b.pass(ms(100));
        b.reply(Answer::Probe(ProbeOutcome::Up));
        b.expect("steady", &["NextLife { site: Local }", "LetGo"]);
        b.expect_not("Absolve");
    }
}

#[test]
fn a_restart_that_takes_longer_than_the_grace_is_a_death() {
    let mut b = Bench::steady();
    b.links_break(Evidence::AdminStop);
    b.reply(Answer::Probe(ProbeOutcome::Refused));
    b.pass(ms(10_000));
    b.expect("fencing", &["CloseGate"]);
}

#[test]
fn a_recovery_that_takes_longer_than_the_grace_is_a_death_too() {
    let mut b = Bench::steady();
    b.links_break(Evidence::CrashRestart);
    b.reply(Answer::Probe(ProbeOutcome::StartingUp));
    b.pass(ms(10_000));
    b.reply(Answer::Fence(FenceOutcome::NotReady));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("releasing", &["ReleaseLease"]);
}

#[test]
fn a_kill_during_a_restart_ends_the_grace() {
    let mut b = Bench::steady();
    b.links_break(Evidence::AdminStop);
    b.reply(Answer::Probe(ProbeOutcome::StartingUp));
    b.expect("grace", &[]);
    b.links_break(Evidence::PostmasterDied);
    b.refuse();
    b.expect("fencing", &[]);
}

#[test]
fn a_frozen_server_is_found_by_the_regular_probe_and_given_up_after_silence() {
    let mut b = Bench::steady();
    b.pass(ms(1_000));
    b.expect("steady", &["Probe { op: "]);
    b.reply(Answer::Probe(ProbeOutcome::TimedOut));
    b.expect("suspect", &["Hold"]);
    for _ in 0..4 {
        b.pass(ms(100));
        b.now = b.now + ms(1_000);
        b.reply(Answer::Probe(ProbeOutcome::TimedOut));
    }
    b.expect("suspect", &[]);
    b.pass(ms(100));
    b.now = b.now + ms(1_000);
    b.reply(Answer::Probe(ProbeOutcome::TimedOut));
    b.expect("fencing", &["CloseGate", "DropLinks"]);
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.reply(Answer::Fence(FenceOutcome::Silent));
    b.expect("releasing", &["ReleaseLease"]);
}

#[test]
fn without_a_mirror_that_follows_clients_are_held_then_refused_until_local_is_back() {
    let mut b = Bench::steady();
    b.tell(Event::MirrorsReported { promotable: Promotable::Missing { names: vec!["cloud".into()] } });
    b.links_break(Evidence::Eof);
    b.refuse();
    b.expect("down", &[]);
    b.expect_not("CloseGate");
    let why = b.controller.view().why.unwrap();
    assert!(why.contains("not yet following: cloud"), "{why}");
    let mut refused_after = 0;
    while refused_after == 0 {
        b.pass(ms(100));
        if b.wished.iter().any(|e| matches!(e, Effect::Refuse { reason } if reason == &why)) {
            refused_after = b.now.since(Moment(1_000_000_000_000)).as_millis();
        }
        if b.wished.iter().any(|e| matches!(e, Effect::Probe { .. })) {
            b.reply(Answer::Probe(ProbeOutcome::Refused));
        }
    }
    assert!((30_000..30_500).contains(&refused_after), "{refused_after}");
    // The lease has run out meanwhile, unless renewed; here it has not been.
    b.tell(Event::LeaseLost { epoch: Epoch(5), why: "test".into() });
    b.pass(ms(100));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("starting", &["NextLife", "ReadFacts"]);
}

#[test]
fn a_mirror_that_comes_to_follow_ends_the_wait() {
    let mut b = Bench::steady();
    b.tell(Event::MirrorsReported { promotable: Promotable::NoMirrors });
    b.links_break(Evidence::Eof);
    b.refuse();
    b.expect("down", &[]);
    b.tell(Event::MirrorsReported { promotable: Promotable::All });
    b.expect("fencing", &["Fence"]);
}

#[test]
fn a_cloud_that_does_not_answer_keeps_the_lease_at_home() {
    let mut b = Bench::steady();
    b.links_break(Evidence::Eof);
    b.refuse();
    b.reply(Answer::Fence(FenceOutcome::Refused));
    b.reply(Answer::Probe(ProbeOutcome::TimedOut));
    b.expect("down", &[]);
    b.expect_not("ReleaseLease");
    // Local is back first: it has to be claimed, since it may have been fenced.
    b.expect("down", &["Probe { op: "]);
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("claiming", &["NextLife", "Claim { op: "]);
    b.reply(Answer::Claim(ClaimOutcome::Done));
    b.expect("steady", &["OpenGate", "LetGo"]);
}

#[test]
fn a_server_found_alive_by_the_fence_goes_on() {
    let mut b = Bench::steady();
    b.links_break(Evidence::Eof);
    b.refuse();
    b.reply(Answer::Fence(FenceOutcome::Done));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("claiming", &["NextLife", "Claim"]);
    b.expect_not("ReleaseLease");
}

#[test]
fn an_expired_lease_shuts_the_gate_and_is_taken_again() {
    let mut b = Bench::steady();
    b.tell(Event::LeaseLost { epoch: Epoch(5), why: "it was not renewed in time".into() });
    b.expect("starting", &["CloseGate", "Hold", "ReadFacts"]);
    b.reply(Answer::Facts(facts(record_of(Site::Local, Tenure::Active))));
    b.expect("taking_lease", &["AcquireLease"]);
    b.reply(Answer::Held(held_at(6, Site::Local)));
    b.expect("claiming", &["Claim"]);
    b.expect_not("OpenGate");
    b.reply(Answer::Claim(ClaimOutcome::Done));
    b.expect("steady", &["SwapRoute", "OpenGate", "LetGo", "StartMirrors"]);
}

#[test]
fn a_lease_of_a_peer_is_a_matter_for_a_person_and_looked_at_again() {
    let mut b = Bench::steady();
    b.tell(Event::LeaseLost { epoch: Epoch(5), why: "taken".into() });
    b.reply(Answer::Facts(facts(record_of(Site::Local, Tenure::Active))));
    let Some(Effect::AcquireLease { op, .. }) =
        b.wished.iter().find(|e| matches!(e, Effect::AcquireLease { .. })).cloned()
    else {
        panic!()
    };
    b.tell(Event::LeaseRefused { op, why: "the cloud holds the lease".into() });
    b.expect("stuck", &[]);
    assert_eq!(b.controller.view().why.as_deref(), Some("the cloud holds the lease"));
    b.pass(ms(5_000));
    b.expect("starting", &["ReadFacts"]);
}

#[test]
fn an_operators_promotion_drains_before_it_releases() {
    let mut b = Bench::steady();
    let request = OpId(77);
    b.tell(Event::PromoteRequested { request, insistence: Insistence::Verified });
    b.expect("fencing", &["Hold", "CloseGate", "Fence"]);
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.reply(Answer::Fence(FenceOutcome::Done));
    b.expect("draining", &["FinishQueue { op: "]);
    b.reply(Answer::Queue(Ok(())));
    b.expect("releasing", &["ReleaseLease"]);
    b.switch();
    b.expect("switched_to_cloud", &["Answer { request: OpId(77), outcome: Ok(Epoch(6)) }"]);
    b.tell(Event::PromoteRequested { request, insistence: Insistence::Verified });
    b.expect("switched_to_cloud", &["Answer { request: OpId(77), outcome: Err("]);
}

#[test]
fn an_operators_promotion_without_a_verified_fence_is_given_up() {
    for outcome in [
        FenceOutcome::Silent,
        FenceOutcome::NotReady,
        FenceOutcome::Failed { why: "permission denied".into() },
    ] {
        let mut b = Bench::steady();
        b.tell(Event::PromoteRequested { request: OpId(77), insistence: Insistence::Verified });
        b.reply(Answer::Probe(ProbeOutcome::Up));
        b.reply(Answer::Fence(outcome.clone()));
        b.expect("claiming", &["Answer { request: OpId(77), outcome: Err(", "Claim"]);
        let mut b = Bench::steady();
        b.tell(Event::PromoteRequested { request: OpId(77), insistence: Insistence::Force });
        b.reply(Answer::Probe(ProbeOutcome::Up));
        b.reply(Answer::Fence(outcome));
        b.expect("releasing", &["ReleaseLease"]);
    }
}

#[test]
fn a_queue_that_does_not_reach_the_end_rolls_the_promotion_back() {
    let mut b = Bench::steady();
    b.tell(Event::PromoteRequested { request: OpId(77), insistence: Insistence::Verified });
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.reply(Answer::Fence(FenceOutcome::Done));
    b.pass(ms(27_000));
    b.pass(ms(3_000));
    b.expect("starting", &["Answer { request: OpId(77), outcome: Err("]);
}

#[test]
fn late_answers_are_noted_and_not_obeyed() {
    let mut b = Bench::steady();
    b.links_break(Evidence::Eof);
    b.refuse();
    let fence = b.wished.iter().find_map(|e| match e {
        Effect::Fence { op, .. } => Some(*op),
        _ => None,
    });
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.pass(ms(3_000));
    b.expect("releasing", &[]);
    b.tell(Event::Fenced { op: fence.unwrap(), outcome: FenceOutcome::Done });
    b.expect("releasing", &["Record { level: Info, name: \"failover.late_answer\""]);
}

#[test]
fn a_failed_promotion_is_tried_again_at_the_epoch_that_is_held() {
    let mut b = Bench::steady();
    b.links_break(Evidence::PostmasterDied);
    b.refuse();
    b.reply(Answer::Fence(FenceOutcome::Refused));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.reply(Answer::Released);
    b.reply(Answer::Held(held_at(6, Site::Cloud)));
    b.reply(Answer::Queue(Err("no connection".into())));
    b.pass(ms(1_000));
    b.reply(Answer::Queue(Ok(())));
    b.reply(Answer::Promotion(Err("no connection".into())));
    b.expect("promoting", &[]);
    b.pass(ms(1_000));
    b.expect("promoting", &["Promote"]);
    b.tell(Event::LeaseLost { epoch: Epoch(6), why: "expired".into() });
    b.expect("acquiring", &["AcquireLease"]);
    b.reply(Answer::Held(held_at(7, Site::Cloud)));
    b.reply(Answer::Queue(Ok(())));
    b.expect("promoting", &["Promote { op: "]);
    assert!(format!("{:?}", b.wished).contains("epoch: Epoch(7)"));
}

#[test]
fn a_plain_proxy_holds_and_refuses_and_never_touches_a_lease() {
    let mut b = Bench::started(Sites::LocalOnly);
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("steady", &["SwapRoute", "LetGo"]);
    b.expect_not("OpenGate");
    b.links_break(Evidence::PostmasterDied);
    b.refuse();
    b.expect("down", &[]);
    b.pass(ms(30_000));
    b.expect("down", &["Refuse"]);
    b.pass(ms(100));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("steady", &["NextLife", "LetGo"]);
    b.tell(Event::PromoteRequested { request: OpId(9), insistence: Insistence::Force });
    b.expect("steady", &["Answer { request: OpId(9), outcome: Err("]);
}

#[test]
fn a_failback_ends_with_a_look_at_the_facts() {
    let mut b = Bench::steady();
    b.tell(Event::FailbackBegan);
    b.expect("failing_back", &["Hold", "CloseGate"]);
    b.tell(Event::LeaseHeld { op: None, held: held_at(5, Site::Local) });
    b.expect_not("OpenGate");
    b.tell(Event::FailbackEnded);
    b.expect("starting", &["ReadFacts"]);
}

#[test]
fn stopping_keeps_the_lease_and_its_deadline() {
    let mut b = Bench::steady();
    b.tell(Event::Stopping);
    b.expect_not("ReleaseLease");
    b.tell(Event::LeaseHeld { op: None, held: held_at(5, Site::Local) });
    b.expect("stopping", &["OpenGate"]);
    b.links_break(Evidence::Eof);
    b.expect("stopping", &[]);
}

#[test]
fn the_first_undone_step_follows_from_the_facts_alone() {
    let check = |change: &dyn Fn(&mut Facts), expected: Plan| {
        let mut facts = facts(record_of(Site::Local, Tenure::Active));
        change(&mut facts);
        let found = plan(&facts);
        // Texts of a wait are for people.
        match (&found, &expected) {
            (Plan::Wait(_), Plan::Wait(_)) => {}
            _ => assert_eq!(found, expected, "{facts:?}"),
        }
    };
    let wait = || Plan::Wait(String::new());
    let fenced = FenceFact::Row { epoch: Epoch(4), state: Fencing::Fenced };
    let open = |epoch| FenceFact::Row { epoch: Epoch(epoch), state: Fencing::Open };
    let released = || record_of(Site::Local, Tenure::Released);

    check(&|_| (), Plan::Serve(Site::Local));
    check(&|f| f.local = FenceFact::Unreachable, Plan::Serve(Site::Local));
    check(&|f| f.lease = LeaseFact::Refused("why".into()), Plan::Stuck("why".into()));
    check(&|f| f.lease = LeaseFact::Unreadable("why".into()), wait());

    let nothing = |f: &mut Facts| f.lease = LeaseFact::Nothing;
    check(&|f| (nothing(f), f.local = FenceFact::Absent).1, Plan::Serve(Site::Local));
    check(&|f| (nothing(f), f.local = FenceFact::Unreachable).1, wait());
    check(&|f| (nothing(f), f.cloud = FenceFact::Unreachable).1, Plan::Serve(Site::Local));
    check(&|f| (nothing(f), f.local = fenced, f.cloud = open(5)).2, Plan::Serve(Site::Cloud));
    check(&|f| (nothing(f), f.local = fenced, f.cloud = FenceFact::Unreachable).2, wait());

    let release = |f: &mut Facts| f.lease = released();
    let forward = || Plan::FinishSwitch { take: Take::Released };
    check(&release, Plan::Serve(Site::Local));
    check(&|f| (release(f), f.local = fenced).1, forward());
    check(&|f| (release(f), f.local = FenceFact::Unreachable).1, forward());
    check(
        &|f| (release(f), f.local = fenced, f.promotable = Promotable::Unknown).2,
        Plan::Serve(Site::Local),
    );
    check(&|f| (release(f), f.local = FenceFact::Unreachable, f.promotable = Promotable::Unknown).2, wait());

    let cloud = |f: &mut Facts| f.lease = record_of(Site::Cloud, Tenure::Active);
    check(&cloud, Plan::FinishSwitch { take: Take::Owned });
    check(&|f| (cloud(f), f.promoted = Promoted::All).1, Plan::Serve(Site::Cloud));
    check(&|f| (cloud(f), f.promoted = Promoted::Unknown).1, wait());
}

#[test]
fn a_process_restarted_in_the_middle_of_a_switch_finishes_it() {
    let mut b = Bench::started(Sites::Pair);
    b.reply(Answer::Facts(facts(record_of(Site::Cloud, Tenure::Active))));
    b.expect("taking_lease", &["WatchReturn { site: Local", "AcquireLease"]);
    b.reply(Answer::Held(held_at(6, Site::Cloud)));
    b.reply(Answer::Queue(Ok(())));
    b.reply(Answer::Promotion(Ok(())));
    b.expect("switched_to_cloud", &["SwapRoute { writer: Cloud", "OpenGate", "LetGo"]);
}

#[test]
fn a_server_that_boots_after_the_proxy_gets_the_grace() {
    let mut b = Bench::started(Sites::Pair);
    b.reply(Answer::Facts(facts(record_of(Site::Local, Tenure::Active))));
    b.reply(Answer::Held(held_at(5, Site::Local)));
    b.reply(Answer::Claim(ClaimOutcome::Unreachable));
    b.pass(ms(100));
    b.reply(Answer::Probe(ProbeOutcome::Refused));
    b.expect("grace", &[]);
    b.pass(ms(100));
    b.reply(Answer::Probe(ProbeOutcome::Up));
    b.expect("claiming", &["Claim"]);
}
