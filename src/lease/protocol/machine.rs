//! The machine itself.

use super::decide::{Content, Sight, Take, check_history, may_take};
use super::{
    Effect, Event, Found, Held, Loss, ReadAnswer, Refusal, Report, RequestId, Setup, Standing, View,
    WriteAnswer,
};
use crate::base::{Epoch, Moment, OpId, Site};
use crate::lease::record::FORMAT;
use crate::lease::{Nonce, Phase, Record, Tenure, Version};

/// How many writes of unknown outcome are kept with their time. One that falls out and lands all the same
/// is still recognised as ours (by its run), but moves no deadline.
const ATTEMPTS_MAX: usize = 32;

/// See the [module](super).
#[derive(Debug, Clone)]
pub struct Machine {
    setup: Setup,
    wish: Wish,
    look: Option<OpId>,
    flight: Option<Flight>,
    sight: Option<Sight>,
    doubt: Doubt,
    /// Writes that may still land, oldest first. All of them expect the version of `sight`.
    attempts: Vec<Attempt>,
    known: Epoch,
    history: History,
    read_not_before: Moment,
    write_not_before: Moment,
    last_read: Moment,
    writes: u64,
    requests: u64,
    problem: Option<String>,
}

#[derive(Debug, Clone)]
enum Wish {
    Rest,
    Acquire { op: OpId, site: Site, phase: Phase, reason: String },
    Hold { held: Held, renew_at: Moment },
    Release { op: OpId, reason: String },
}

/// Whether the store may differ from `sight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// Read before the next decision.
    Look,
}

/// Whether this run has ever stored a record: from then on another run of our instance is a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    Fresh,
    HasStored,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    request: RequestId,
    due: Moment,
    kind: FlightKind,
}

#[derive(Debug, Clone, Copy)]
enum FlightKind {
    Read,
    Write,
}

#[derive(Debug, Clone)]
struct Attempt {
    /// Before it left.
    sent: Moment,
    purpose: Purpose,
    record: Box<Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Acquire,
    Renew,
    Release,
}

impl Machine {
    /// A machine that wishes nothing yet.
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            wish: Wish::Rest,
            look: None,
            flight: None,
            sight: None,
            doubt: Doubt::Look,
            attempts: Vec::new(),
            known: Epoch::NONE,
            history: History::Fresh,
            read_not_before: Moment::default(),
            write_not_before: Moment::default(),
            last_read: Moment::default(),
            writes: 0,
            requests: 0,
            problem: None,
        }
    }

    /// Decides, never acts. Same state, same `now`, same event: same effects.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        // First of all: what is expired may not be used by whatever the event wants.
        self.expire(now, &mut out);
        match event {
            Event::Look { op } => self.look = Some(op),
            Event::Acquire { op, site, phase, reason } => self.on_acquire(op, site, phase, reason, &mut out),
            Event::Release { op, reason } => self.wish = Wish::Release { op, reason },
            Event::EpochKnown { epoch } => self.on_epoch_known(epoch, &mut out),
            Event::ReadEnded { request, answer } => {
                if self.flight.is_some_and(|f| f.request == request) {
                    self.flight = None;
                    self.on_read(now, answer, &mut out);
                }
            }
            Event::WriteEnded { request, answer } => {
                if self.flight.is_some_and(|f| f.request == request) {
                    self.flight = None;
                    self.on_written(now, answer, &mut out);
                }
            }
            Event::Tick => {}
        }
        self.drive(now, &mut out);
        out
    }

    /// When to call `step` with [`Event::Tick`] if nothing else happens first.
    pub fn next_deadline(&self) -> Option<Moment> {
        let expiry = match &self.wish {
            Wish::Hold { held, .. } => held.deadline,
            _ => Moment::NEVER,
        };
        let next = match self.flight {
            Some(flight) => flight.due,
            None if self.needs_read() => self.read_not_before,
            None => match &self.wish {
                Wish::Rest => Moment::NEVER,
                Wish::Hold { renew_at, .. } => self.write_not_before.max(*renew_at),
                Wish::Release { .. } => self.write_not_before,
                Wish::Acquire { site, .. } => {
                    let write = self.taking_from(*site).unwrap_or_default().max(self.write_not_before);
                    write.min(self.last_read + self.setup.timing.observe_every)
                }
            },
        };
        Some(expiry.min(next)).filter(|m| *m != Moment::NEVER)
    }

    /// What can be shown.
    pub fn view(&self) -> View {
        let standing = match &self.wish {
            Wish::Rest => Standing::Resting,
            Wish::Acquire { site, .. } => {
                Standing::Acquiring { site: *site, until: self.taking_from(*site).filter(|m| m.0 > 0) }
            }
            Wish::Hold { held, .. } => Standing::Holding(*held),
            Wish::Release { .. } => Standing::Releasing,
        };
        let record = self.sight.as_ref().and_then(|s| s.content.record()).cloned();
        View { standing, record, problem: self.problem.clone() }
    }

    fn taking_from(&self, site: Site) -> Option<Moment> {
        match may_take(&self.setup, self.known, self.sight.as_ref()?, site) {
            Take::From { from, .. } => Some(from),
            Take::Refused(_) => None,
        }
    }

    fn expire(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let Wish::Hold { held, .. } = self.wish
            && now >= held.deadline
        {
            self.lose(Loss::Expired, out);
        }
    }

    fn lose(&mut self, why: Loss, out: &mut Vec<Effect>) {
        if let Wish::Hold { held, .. } = self.wish {
            self.wish = Wish::Rest;
            self.doubt = Doubt::Look;
            out.push(Effect::Report(Report::Lost { epoch: held.epoch, why }));
        }
    }

    /// Ends whatever is wished, because the store holds what we must not touch.
    fn refuse(&mut self, why: Refusal, out: &mut Vec<Effect>) {
        // Asked again, we look again: a person may have repaired it.
        self.doubt = Doubt::Look;
        match self.wish {
            Wish::Rest => {}
            Wish::Hold { .. } => self.lose(Loss::Refused(why), out),
            Wish::Acquire { op, .. } | Wish::Release { op, .. } => {
                self.wish = Wish::Rest;
                out.push(Effect::Report(Report::Refused { op, why }));
            }
        }
    }

    fn on_acquire(&mut self, op: OpId, site: Site, phase: Phase, reason: String, out: &mut Vec<Effect>) {
        match self.wish {
            Wish::Hold { held, .. } if held.site == site => {
                out.push(Effect::Report(Report::Held { op: Some(op), held }));
            }
            Wish::Hold { held, .. } => {
                let why = Refusal::NotReleased { site: held.site };
                out.push(Effect::Report(Report::Refused { op, why }));
            }
            Wish::Rest | Wish::Acquire { .. } | Wish::Release { .. } => {
                self.wish = Wish::Acquire { op, site, phase, reason };
            }
        }
    }

    fn on_epoch_known(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        self.known = self.known.max(epoch);
        if let Some(sight) = &self.sight
            && let Err(why) = check_history(&self.setup, self.known, &sight.content)
        {
            self.refuse(why, out);
        }
    }

    fn on_read(&mut self, now: Moment, answer: ReadAnswer, out: &mut Vec<Effect>) {
        self.last_read = now;
        let content = match answer {
            ReadAnswer::Absent => Content::Absent,
            ReadAnswer::Found { version, record } => Content::Present { version, record },
            ReadAnswer::Corrupt { why } => {
                self.note_failed_read(now, why.clone());
                self.answer_look(|| Found::Refused(Refusal::Corrupt(why.clone())), out);
                // A holder goes on until its deadline: the bytes may be repaired before.
                if !matches!(self.wish, Wish::Hold { .. }) {
                    self.refuse(Refusal::Corrupt(why), out);
                }
                return;
            }
            ReadAnswer::Failed { why } => {
                self.note_failed_read(now, why.clone());
                return self.answer_look(|| Found::Unreadable { why }, out);
            }
        };
        self.problem = None;
        self.doubt = Doubt::None;
        if let Err(why) = check_history(&self.setup, self.known, &content) {
            self.sight = None;
            self.attempts.clear();
            self.answer_look(|| Found::Refused(why.clone()), out);
            return self.refuse(why, out);
        }
        let found = content.record().cloned();
        self.answer_look(|| found.map_or(Found::Nothing, |r| Found::Record(Box::new(r))), out);
        if self.sight.as_ref().is_some_and(|s| s.content.version() == content.version()) {
            // Nothing landed so far. `since` stays: this version was first seen then.
            return;
        }
        self.on_new_content(now, content, out);
    }

    fn note_failed_read(&mut self, now: Moment, why: String) {
        self.problem = Some(why);
        self.doubt = Doubt::Look;
        self.read_not_before = now + self.setup.timing.retry_pause;
    }

    fn answer_look(&mut self, found: impl FnOnce() -> Found, out: &mut Vec<Effect>) {
        if let Some(op) = self.look.take() {
            out.push(Effect::Report(Report::Looked { op, found: found() }));
        }
    }

    /// The version changed. Whatever else was under way expects the old one and can never land.
    fn on_new_content(&mut self, now: Moment, content: Content, out: &mut Vec<Effect>) {
        let attempts = std::mem::take(&mut self.attempts);
        let record = content.record().cloned();
        self.sight = Some(Sight { content, since: now });
        let Some(record) = record else {
            // Absent though something was there: only a rebuild gets here.
            return self.lose(Loss::Refused(Refusal::RecordMissing { known: self.known }), out);
        };
        self.known = self.known.max(record.epoch);
        if let Some(attempt) = attempts.into_iter().find(|a| a.record.nonce == record.nonce) {
            return self.on_landed(now, &attempt, out);
        }
        if record.nonce.run == self.setup.run {
            // Ours, but too old to know when it was sent: it moves no deadline.
            self.history = History::HasStored;
            return;
        }
        if self.history == History::HasStored && record.owner_instance == self.setup.instance {
            return self.refuse(Refusal::Cloned, out);
        }
        self.lose(
            Loss::Taken { site: record.owner, instance: record.owner_instance, epoch: record.epoch },
            out,
        );
    }

    fn on_written(&mut self, now: Moment, answer: WriteAnswer, out: &mut Vec<Effect>) {
        match answer {
            WriteAnswer::Stored { version } => {
                self.problem = None;
                // The attempt in flight is the newest.
                let Some(attempt) = self.attempts.pop() else { return };
                self.attempts.clear();
                self.known = self.known.max(attempt.record.epoch);
                self.doubt = Doubt::None;
                let content = Content::Present { version, record: attempt.record.clone() };
                self.sight = Some(Sight { content, since: now });
                self.on_landed(now, &attempt, out);
            }
            WriteAnswer::Conflict => self.doubt_write(now, None),
            WriteAnswer::Unknown { why } => self.doubt_write(now, Some(why)),
        }
    }

    fn doubt_write(&mut self, now: Moment, problem: Option<String>) {
        self.doubt = Doubt::Look;
        self.write_not_before = now + self.setup.timing.retry_pause;
        if problem.is_some() {
            self.problem = problem;
        }
    }

    /// A write of ours is known to be what the store holds.
    fn on_landed(&mut self, now: Moment, attempt: &Attempt, out: &mut Vec<Effect>) {
        self.history = History::HasStored;
        let deadline = self.setup.timing.deadline(attempt.sent, attempt.record.authority);
        let held = Held { epoch: attempt.record.epoch, site: attempt.record.owner, deadline };
        let renew_at = attempt.sent + self.setup.timing.renew_every;
        match (&self.wish, attempt.purpose) {
            (Wish::Hold { held: before, .. }, Purpose::Renew | Purpose::Acquire) => {
                assert_eq!(
                    (before.epoch, before.site),
                    (held.epoch, held.site),
                    "a renewal keeps epoch and site"
                );
                self.wish = Wish::Hold { held, renew_at };
                out.push(Effect::Report(Report::Held { op: None, held }));
            }
            (Wish::Acquire { op, site, .. }, Purpose::Acquire) if *site == held.site && now < deadline => {
                let op = Some(*op);
                self.wish = Wish::Hold { held, renew_at };
                out.push(Effect::Report(Report::Held { op, held }));
            }
            (Wish::Release { op, .. }, Purpose::Release) => {
                let op = *op;
                self.wish = Wish::Rest;
                out.push(Effect::Report(Report::Released { op, epoch: held.epoch }));
            }
            // It landed too late for its wish. The record is ours; `drive` goes on from there.
            (Wish::Rest | Wish::Hold { .. } | Wish::Acquire { .. } | Wish::Release { .. }, _) => {}
        }
    }

    fn needs_read(&self) -> bool {
        self.look.is_some() || (self.doubt == Doubt::Look && !matches!(self.wish, Wish::Rest))
    }

    fn drive(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let Some(flight) = self.flight {
            if now < flight.due {
                return;
            }
            self.flight = None;
            let why = "the lease store did not answer in time".to_owned();
            match flight.kind {
                FlightKind::Read => {
                    self.note_failed_read(now, why.clone());
                    self.answer_look(|| Found::Unreadable { why }, out);
                }
                FlightKind::Write => self.doubt_write(now, Some(why)),
            }
        }
        if self.needs_read() {
            if now >= self.read_not_before {
                self.read(now, out);
            }
            return;
        }
        match self.wish.clone() {
            Wish::Rest => {}
            Wish::Hold { held, renew_at } => {
                if now >= renew_at.max(self.write_not_before) {
                    self.renew(now, held, out);
                }
            }
            Wish::Acquire { site, phase, reason, .. } => self.acquire(now, site, phase, reason, out),
            Wish::Release { op, reason } => self.release(now, op, reason, out),
        }
    }

    fn acquire(&mut self, now: Moment, site: Site, phase: Phase, reason: String, out: &mut Vec<Effect>) {
        let sight = self.sight.clone().expect("without doubt there is a sight");
        match may_take(&self.setup, self.known, &sight, site) {
            Take::Refused(why) => self.refuse(why, out),
            Take::From { from, epoch } if now >= from.max(self.write_not_before) => {
                let mut record = self.blank(sight.content.record());
                record.epoch = epoch;
                record.owner = site;
                record.phase = phase;
                record.reason = reason;
                self.write(now, Purpose::Acquire, &sight.content, record, out);
            }
            // Each look may show a heartbeat, which starts the wait again.
            Take::From { .. } => {
                if now >= self.last_read + self.setup.timing.observe_every {
                    self.read(now, out);
                }
            }
        }
    }

    fn renew(&mut self, now: Moment, held: Held, out: &mut Vec<Effect>) {
        let content = self.sight.clone().expect("without doubt there is a sight").content;
        let Some(before) = content.record() else {
            return self.lose(Loss::Refused(Refusal::RecordMissing { known: self.known }), out);
        };
        // It is our own record: the last version that we know is one that this run has written.
        assert_eq!(
            (before.epoch, before.nonce.run),
            (held.epoch, self.setup.run),
            "only our own record is renewed"
        );
        let mut record = self.blank(Some(before));
        record.phase = before.phase;
        record.reason = before.reason.clone();
        self.write(now, Purpose::Renew, &content, record, out);
    }

    fn release(&mut self, now: Moment, op: OpId, reason: String, out: &mut Vec<Effect>) {
        let content = self.sight.clone().expect("without doubt there is a sight").content;
        let Some(before) = content.record() else {
            return self.refuse(Refusal::RecordMissing { known: self.known }, out);
        };
        let is_ours = before.owner_instance == self.setup.instance;
        match (before.state, is_ours) {
            (Tenure::Released, _) => {
                self.wish = Wish::Rest;
                out.push(Effect::Report(Report::Released { op, epoch: before.epoch }));
            }
            (Tenure::Active, false) => {
                let why = Refusal::NotOurs { site: before.owner, instance: before.owner_instance.clone() };
                self.refuse(why, out);
            }
            (Tenure::Active, true) => {
                if now >= self.write_not_before {
                    let mut record = self.blank(Some(before));
                    record.phase = before.phase;
                    record.state = Tenure::Released;
                    record.reason = reason;
                    self.write(now, Purpose::Release, &content, record, out);
                }
            }
        }
    }

    /// A record of ours that follows `before`; epoch and owner are those of `before`.
    fn blank(&mut self, before: Option<&Record>) -> Record {
        self.writes += 1;
        Record {
            format: FORMAT,
            cluster_id: self.setup.cluster_id.clone(),
            epoch: before.map_or(Epoch::NONE, |b| b.epoch),
            owner: before.map_or(Site::Local, |b| b.owner),
            owner_instance: self.setup.instance.clone(),
            state: Tenure::Active,
            phase: Phase::Normal,
            heartbeat: before.map_or(1, |b| b.heartbeat.wrapping_add(1)),
            nonce: Nonce { run: self.setup.run, count: self.writes },
            authority: self.setup.authority,
            ttl_ms: u64::try_from(self.setup.timing.ttl.as_millis()).expect("a TTL is at most an hour"),
            renewed_at_ms: 0,
            boot_id: self.setup.boot_id.clone(),
            reason: String::new(),
        }
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let request = self.fly(now, FlightKind::Read);
        out.push(Effect::Read { request });
    }

    fn write(&mut self, now: Moment, purpose: Purpose, on: &Content, record: Record, out: &mut Vec<Effect>) {
        assert!(record.epoch >= self.known, "epoch {} after {}", record.epoch, self.known);
        let request = self.fly(now, FlightKind::Write);
        let base: Option<Version> = on.version().cloned();
        let record = Box::new(record);
        if self.attempts.len() == ATTEMPTS_MAX {
            self.attempts.remove(0);
        }
        self.attempts.push(Attempt { sent: now, purpose, record: record.clone() });
        out.push(Effect::Write { request, base, record });
    }

    fn fly(&mut self, now: Moment, kind: FlightKind) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.flight = Some(Flight { request, due: now + self.setup.timing.request_timeout, kind });
        request
    }
}
