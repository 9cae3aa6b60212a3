//! Single histories of the machine; `tests/sim` walks through thousands.

use super::*;
use crate::lease::Tenure;
use std::time::Duration;

/// A machine, the store behind it and a clock.
struct Bench {
    machine: Machine,
    now: Moment,
    stored: Option<(u64, Record)>,
    versions: u64,
    reports: Vec<Report>,
    pending: Option<Effect>,
}

const OP: OpId = OpId(1);

fn setup(instance: &str, run: u64) -> Setup {
    Setup {
        cluster_id: "pair".into(),
        instance: instance.into(),
        boot_id: "boot".into(),
        run,
        authority: Authority::Internet,
        timing: Timing::for_ttl(Duration::from_secs(30)).unwrap(),
        rebuild: Rebuild::Refuse,
    }
}

fn acquire(site: Site) -> Event {
    let phase = if site == Site::Local { Phase::Normal } else { Phase::FailedOver };
    Event::Acquire { op: OP, site, phase, reason: "test".into() }
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

impl Bench {
    fn new(setup: Setup) -> Self {
        let now = Moment(1_000_000_000_000);
        Self { machine: Machine::new(setup), now, stored: None, versions: 0, reports: vec![], pending: None }
    }

    /// Another process on the same store, at the same moment.
    fn peer(&self, setup: Setup) -> Self {
        Self {
            machine: Machine::new(setup),
            reports: vec![],
            pending: None,
            stored: self.stored.clone(),
            ..*self
        }
    }

    /// One step; a request waits in `pending`.
    fn step(&mut self, event: Event) {
        for effect in self.machine.step(self.now, event) {
            match effect {
                Effect::Report(report) => self.reports.push(report),
                request => self.pending = Some(request),
            }
        }
        if let Some(due) = self.machine.next_deadline() {
            assert!(due > self.now, "the machine would spin: {:?}", self.machine);
        }
    }

    /// Carries out the pending write at the store, without an answer.
    fn land(&mut self) -> WriteAnswer {
        let Some(Effect::Write { base, record, .. }) = &self.pending else { panic!("{:?}", self.pending) };
        let present = self.stored.as_ref().map(|(v, _)| Version(v.to_string()));
        if *base != present {
            return WriteAnswer::Conflict;
        }
        self.versions += 1;
        // What other processes see goes through the bytes.
        self.stored = Some((self.versions, Record::parse(&record.to_bytes()).unwrap()));
        WriteAnswer::Stored { version: Version(self.versions.to_string()) }
    }

    fn answer(&mut self, answer: WriteAnswer) {
        let Some(Effect::Write { request, .. }) = self.pending.take() else { panic!() };
        self.step(Event::WriteEnded { request, answer });
    }

    fn answer_read(&mut self) {
        let Some(Effect::Read { request }) = self.pending.take() else { panic!() };
        let answer = match &self.stored {
            None => ReadAnswer::Absent,
            Some((v, record)) => {
                ReadAnswer::Found { version: Version(v.to_string()), record: Box::new(record.clone()) }
            }
        };
        self.step(Event::ReadEnded { request, answer });
    }

    /// Serves all requests at once until the machine is quiet.
    fn serve(&mut self) {
        for _ in 0..20 {
            match self.pending {
                None => return,
                Some(Effect::Read { .. }) => self.answer_read(),
                Some(_) => {
                    let answer = self.land();
                    self.answer(answer);
                }
            }
        }
        panic!("the machine does not come to rest");
    }

    fn pass(&mut self, by: Duration) {
        self.now = self.now + by;
        self.step(Event::Tick);
    }

    fn held(&self) -> Held {
        match self.reports.last() {
            Some(Report::Held { held, .. }) => *held,
            other => panic!("{other:?}"),
        }
    }

    fn record(&self) -> &Record {
        &self.stored.as_ref().unwrap().1
    }

    fn take(mut self, site: Site) -> Self {
        self.step(acquire(site));
        self.serve();
        self.held();
        self
    }
}

fn holder() -> Bench {
    Bench::new(setup("a", 1)).take(Site::Local)
}

/// A held lease for the tests of other rooms, made the only way there is.
pub(crate) fn held_at(epoch: u64, site: Site) -> Held {
    let mut bench = Bench::new(setup("a", 1));
    bench.step(Event::EpochKnown { epoch: Epoch(epoch - 1) });
    bench.machine = Machine::new(Setup { rebuild: Rebuild::Allow, ..setup("a", 1) });
    bench.step(Event::EpochKnown { epoch: Epoch(epoch - 1) });
    bench.take(site).held()
}

#[test]
fn the_first_holder_gets_epoch_one_and_renews_it() {
    let mut b = holder();
    let first = b.held();
    assert_eq!((first.epoch(), first.site()), (Epoch(1), Site::Local));
    assert_eq!(first.deadline(), b.now + secs(27.7));
    assert_eq!(b.reports, [Report::Held { op: Some(OP), held: first }]);
    b.pass(secs(10.0));
    b.serve();
    assert_eq!(b.held().deadline(), b.now + secs(27.7));
    assert_eq!((b.record().epoch, b.record().heartbeat), (Epoch(1), 2));
}

#[test]
fn the_deadline_counts_from_before_the_send() {
    let mut b = holder();
    b.pass(secs(10.0));
    let sent = b.now;
    let answer = b.land();
    b.now = b.now + secs(1.9);
    b.answer(answer);
    assert_eq!(b.held().deadline(), sent + secs(27.7));
}

#[test]
fn a_lost_answer_is_read_back_and_keeps_its_own_time() {
    let mut b = holder();
    b.pass(secs(10.0));
    let sent = b.now;
    b.land();
    b.pass(secs(2.0));
    assert!(matches!(b.pending, Some(Effect::Read { .. })), "{:?}", b.pending);
    b.serve();
    assert_eq!(b.held().deadline(), sent + secs(27.7));
}

#[test]
fn a_write_that_lands_late_is_found_by_its_nonce() {
    let mut b = holder();
    b.pass(secs(10.0));
    let sent = b.now;
    let late = b.pending.clone();
    b.pass(secs(2.0));
    b.answer_read(); // unchanged so far
    b.pass(secs(1.0));
    assert!(matches!(b.pending, Some(Effect::Write { .. })));
    let second = b.pending.take();
    b.pending = late;
    b.land();
    b.pending = second;
    let answer = b.land();
    assert_eq!(answer, WriteAnswer::Conflict);
    b.answer(answer);
    b.serve();
    assert_eq!(b.held().deadline(), sent + secs(27.7), "the time of the write that landed");
}

#[test]
fn an_expired_holder_takes_the_next_epoch() {
    let mut b = holder();
    b.pass(secs(10.0)); // a renewal leaves
    let answer = b.land();
    b.now = b.now + secs(60.0); // the laptop slept
    b.answer(answer);
    assert_eq!(b.reports.last(), Some(&Report::Lost { epoch: Epoch(1), why: Loss::Expired }));
    assert_eq!(b.machine.view().standing, Standing::Resting);
    let b = b.take(Site::Local);
    assert_eq!(b.held().epoch(), Epoch(2));
}

#[test]
fn a_restarted_process_takes_the_next_epoch_at_once() {
    let b = holder();
    let b = b.peer(setup("a", 2)).take(Site::Local);
    assert_eq!(b.held().epoch(), Epoch(2));
}

#[test]
fn a_release_keeps_the_epoch_and_the_other_site_takes_the_next() {
    let mut b = holder();
    b.step(Event::Release { op: OpId(2), reason: "server died".into() });
    assert_eq!(b.machine.view().standing, Standing::Releasing);
    b.serve();
    assert_eq!(b.reports.last(), Some(&Report::Released { op: OpId(2), epoch: Epoch(1) }));
    assert_eq!((b.record().state, b.record().owner), (Tenure::Released, Site::Local));
    let b = b.take(Site::Cloud);
    assert_eq!((b.held().epoch(), b.held().site()), (Epoch(2), Site::Cloud));
    assert_eq!((b.record().phase, b.record().state), (Phase::FailedOver, Tenure::Active));
}

#[test]
fn a_release_whose_answer_is_lost_is_read_back() {
    let mut b = holder();
    b.step(Event::Release { op: OpId(2), reason: String::new() });
    b.land();
    b.answer(WriteAnswer::Unknown { why: "reset".into() });
    b.serve();
    assert_eq!(b.reports.last(), Some(&Report::Released { op: OpId(2), epoch: Epoch(1) }));
}

#[test]
fn the_other_site_is_not_taken_without_a_release() {
    let mut b = holder();
    let why = Refusal::NotReleased { site: Site::Local };
    b.step(acquire(Site::Cloud));
    assert_eq!(b.reports.last(), Some(&Report::Refused { op: OP, why: why.clone() }));
    let mut restarted = b.peer(setup("a", 2));
    restarted.step(acquire(Site::Cloud));
    restarted.serve();
    assert_eq!(restarted.reports, [Report::Refused { op: OP, why }]);
}

#[test]
fn a_live_holder_is_given_up_after_a_whole_ttl_without_a_heartbeat() {
    let mut holder = holder();
    let mut cloud = holder.peer(setup("c", 9));
    cloud.step(acquire(Site::Cloud));
    cloud.answer_read();
    let seen = cloud.now;
    assert_eq!(
        cloud.machine.view().standing,
        Standing::Acquiring { site: Site::Cloud, until: Some(seen + secs(30.3)) }
    );
    // A heartbeat after 20 s starts the wait again.
    holder.pass(secs(20.0));
    holder.serve();
    cloud.stored = holder.stored.clone();
    cloud.versions = holder.versions;
    cloud.now = holder.now;
    cloud.step(Event::Tick);
    cloud.answer_read();
    let seen = cloud.now;
    while cloud.now < seen + secs(30.2) {
        cloud.pass(secs(1.0).min((seen + secs(30.2)).since(cloud.now)));
        if cloud.pending.is_some() {
            cloud.answer_read();
        }
        assert_eq!(cloud.reports, []);
    }
    cloud.pass(secs(0.1));
    cloud.serve();
    assert_eq!((cloud.held().epoch(), cloud.held().site()), (Epoch(2), Site::Cloud));
    // And the old holder, who slept through it, learns that it is over.
    holder.stored = cloud.stored.clone();
    holder.pass(secs(10.0));
    holder.serve();
    let taken = Loss::Taken { site: Site::Cloud, instance: "c".into(), epoch: Epoch(2) };
    assert_eq!(holder.reports.last(), Some(&Report::Lost { epoch: Epoch(1), why: taken }));
}

#[test]
fn silence_never_takes_the_lease_from_the_cloud_nor_from_authority_local() {
    let cloud = Bench::new(setup("c", 1)).take(Site::Cloud);
    let mut local = cloud.peer(setup("a", 2));
    local.step(acquire(Site::Local));
    local.serve();
    assert_eq!(
        local.reports,
        [Report::Refused { op: OP, why: Refusal::HeldByCloud { instance: "c".into() } }]
    );
    let shop = Bench::new(Setup { authority: Authority::Local, ..setup("a", 1) }).take(Site::Local);
    assert_eq!(shop.held().deadline(), Moment::NEVER);
    let mut cloud = shop.peer(setup("c", 2));
    cloud.step(acquire(Site::Cloud));
    cloud.serve();
    let why = Refusal::HeldByAuthority { site: Site::Local, instance: "a".into() };
    assert_eq!(cloud.reports, [Report::Refused { op: OP, why }]);
}

#[test]
fn a_record_that_cannot_be_ours_is_refused_and_left_alone() {
    fn check(change: impl Fn(&mut Record), fence: u64, expected: &str) {
        let mut b = holder().peer(setup("a", 2));
        change(&mut b.stored.as_mut().unwrap().1);
        b.step(Event::EpochKnown { epoch: Epoch(fence) });
        b.step(acquire(Site::Local));
        b.serve();
        let [Report::Refused { why, .. }] = &b.reports[..] else { panic!("{:?}", b.reports) };
        assert!(why.to_string().contains(expected), "{why}");
        assert_eq!(b.versions, 1, "nothing was written");
    }
    check(|r| r.cluster_id = "x".into(), 0, "another pair of sites");
    check(|_| (), 2, "at epoch 1, but epoch 2 was in use");
    let mut b = Bench::new(setup("a", 1));
    b.step(Event::EpochKnown { epoch: Epoch(4) });
    b.step(acquire(Site::Local));
    b.serve();
    let why = Refusal::RecordMissing { known: Epoch(4) };
    assert!(why.to_string().contains("--rebuild-lease"));
    assert_eq!(b.reports, [Report::Refused { op: OP, why }]);
}

#[test]
fn an_operator_may_rebuild_a_missing_record() {
    assert_eq!(held_at(5, Site::Local).epoch(), Epoch(5));
}

#[test]
fn a_corrupt_record_is_refused_by_a_newcomer_and_waited_for_by_the_holder() {
    let corrupt = || ReadAnswer::Corrupt { why: "half".into() };
    let mut b = Bench::new(setup("a", 1));
    b.step(acquire(Site::Local));
    let Some(Effect::Read { request }) = b.pending.take() else { panic!() };
    b.step(Event::ReadEnded { request, answer: corrupt() });
    assert_eq!(b.reports, [Report::Refused { op: OP, why: Refusal::Corrupt("half".into()) }]);

    let mut b = holder();
    b.pass(secs(10.0));
    b.answer(WriteAnswer::Conflict);
    let Some(Effect::Read { request }) = b.pending.take() else { panic!() };
    b.step(Event::ReadEnded { request, answer: corrupt() });
    assert!(matches!(b.machine.view().standing, Standing::Holding(_)));
    assert_eq!(b.machine.view().problem.as_deref(), Some("half"));
}

#[test]
fn a_record_that_vanishes_ends_the_holder() {
    let mut b = holder();
    b.stored = None;
    b.pass(secs(10.0));
    b.serve();
    let why = Loss::Refused(Refusal::RecordMissing { known: Epoch(1) });
    assert_eq!(b.reports.last(), Some(&Report::Lost { epoch: Epoch(1), why }));
}

#[test]
fn a_clone_of_the_state_directory_is_noticed() {
    let mut b = holder();
    let clone = b.peer(setup("a", 2)).take(Site::Local);
    b.stored = clone.stored.clone();
    b.pass(secs(10.0));
    b.serve();
    assert_eq!(
        b.reports.last(),
        Some(&Report::Lost { epoch: Epoch(1), why: Loss::Refused(Refusal::Cloned) })
    );
}

#[test]
fn an_answer_to_an_abandoned_request_is_ignored() {
    let mut b = holder();
    b.pass(secs(10.0));
    let Some(Effect::Write { request, .. }) = b.pending.clone() else { panic!() };
    b.pass(secs(2.0));
    let before = b.reports.clone();
    b.step(Event::WriteEnded { request, answer: WriteAnswer::Stored { version: Version("99".into()) } });
    assert_eq!(b.reports, before);
}

#[test]
fn a_store_that_is_down_is_asked_again_and_reported() {
    let mut b = Bench::new(setup("a", 1));
    b.step(Event::Look { op: OpId(7) });
    let Some(Effect::Read { request }) = b.pending.take() else { panic!() };
    b.step(Event::ReadEnded { request, answer: ReadAnswer::Failed { why: "refused".into() } });
    assert_eq!(
        b.reports,
        [Report::Looked { op: OpId(7), found: Found::Unreadable { why: "refused".into() } }]
    );
    b.step(acquire(Site::Local));
    assert_eq!(b.pending, None, "not before the pause is over");
    b.pass(secs(1.0));
    b.serve();
    assert_eq!(b.held().epoch(), Epoch(1));
}
