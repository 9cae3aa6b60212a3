//! Is it dead, does it restart, or was it nothing?

use super::machine::{Controller, State, record};
use super::{Effect, Evidence, ProbeOutcome, Promotable, Sites};
use crate::base::{Moment, Site};
use crate::observe::events::Level;

/// What speaks against a server.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    pub(super) since: Moment,
    pub(super) likely: Likely,
    /// Refused probes in a row.
    pub(super) refusals: u32,
    /// Since when it gives no answer.
    pub(super) silent_since: Option<Moment>,
    pub(super) probe_at: Option<Moment>,
}

/// What the evidence suggests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likely {
    /// Anything.
    Unclear,
    /// It comes back by itself: it said so, or we have never seen it up.
    Restart,
    /// The postmaster is gone, whatever else was said.
    Death,
}

impl Likely {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::Eof | Evidence::ConnectFailed => Likely::Unclear,
            Evidence::AdminStop | Evidence::CrashRestart => Likely::Restart,
            Evidence::PostmasterDied => Likely::Death,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Likely::Death, _) | (_, Likely::Death) => Likely::Death,
            (Likely::Restart, _) | (_, Likely::Restart) => Likely::Restart,
            (Likely::Unclear, Likely::Unclear) => Likely::Unclear,
        }
    }
}

impl Controller {
    pub(super) fn on_link_broken(
        &mut self,
        now: Moment,
        site: Site,
        evidence: Evidence,
        out: &mut Vec<Effect>,
    ) {
        let likely = Likely::from(evidence);
        match &mut self.state {
            State::Steady { writer, .. } if *writer == site => {
                record(out, Level::Warn, "failover.suspected", format!("site={site} evidence={evidence:?}"));
                self.enter_suspect(now, site, likely, out);
            }
            State::Suspect { writer, suspicion } if *writer == site => {
                suspicion.likely = suspicion.likely.and(likely);
            }
            // The server that was restarting has been killed: the grace is over.
            State::Grace { writer, .. } if *writer == site && likely == Likely::Death => {
                self.enter_suspect(now, site, likely, out);
            }
            // In the other states nobody relies on the server, or our own fence broke the link.
            _ => {}
        }
    }

    pub(super) fn enter_suspect(&mut self, now: Moment, writer: Site, likely: Likely, out: &mut Vec<Effect>) {
        self.begin_suspicion(now, writer, likely, out);
        self.probe(now, writer, out);
    }

    fn begin_suspicion(&mut self, now: Moment, writer: Site, likely: Likely, out: &mut Vec<Effect>) {
        let suspicion = Suspicion { since: now, likely, refusals: 0, silent_since: None, probe_at: None };
        self.begin(State::Suspect { writer, suspicion }, out);
        self.hold(now, out);
    }

    /// A server that this process has not seen up yet may still be booting.
    /// The probe waits a little: a server that answers probes and nothing else must not keep us busy.
    pub(super) fn enter_suspect_at_start(&mut self, now: Moment, writer: Site, out: &mut Vec<Effect>) {
        self.begin_suspicion(now, writer, Likely::Restart, out);
        self.probe_later(now);
    }

    /// The regular look at a writer that nobody complains about.
    pub(super) fn check(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let State::Steady { writer, check_at } = &mut self.state {
            let writer = *writer;
            *check_at = now + self.settings.probe_interval;
            if !self.waits_for_probe() {
                self.probe(now, writer, out);
            }
        }
    }

    pub(super) fn on_probed(
        &mut self,
        now: Moment,
        site: Site,
        outcome: ProbeOutcome,
        out: &mut Vec<Effect>,
    ) {
        if let ProbeOutcome::Unable { why } = &outcome {
            self.tell(Level::Error, "failover.probe_failed", why.clone(), out);
        }
        match &self.state {
            State::Steady { writer, check_at: _ } if *writer == site => match outcome {
                ProbeOutcome::Up | ProbeOutcome::Unable { .. } => {}
                ProbeOutcome::StartingUp | ProbeOutcome::Refused | ProbeOutcome::TimedOut => {
                    let writer = *writer;
                    record(out, Level::Warn, "failover.suspected", format!("site={site} probe={outcome:?}"));
                    self.begin_suspicion(now, writer, Likely::Unclear, out);
                    // This probe is the first of those that count.
                    self.weigh(now, writer, outcome, out);
                }
            },
            State::Suspect { writer, .. } if *writer == site => {
                let writer = *writer;
                self.weigh(now, writer, outcome, out);
            }
            State::Grace { writer, .. } | State::Down { writer, .. } if *writer == site => {
                let writer = *writer;
                match outcome {
                    ProbeOutcome::Up => self.come_back(now, writer, out),
                    ProbeOutcome::StartingUp
                    | ProbeOutcome::Refused
                    | ProbeOutcome::TimedOut
                    | ProbeOutcome::Unable { .. } => self.probe_later(now),
                }
            }
            State::Switching(_) => self.on_switch_probed(now, site, outcome, out),
            _ => {}
        }
    }

    /// One more answer about a suspect.
    fn weigh(&mut self, now: Moment, writer: Site, outcome: ProbeOutcome, out: &mut Vec<Effect>) {
        let settings = self.settings;
        let State::Suspect { suspicion, .. } = &mut self.state else { return };
        match outcome {
            ProbeOutcome::Up => {
                if suspicion.refusals == 0 && suspicion.likely != Likely::Death {
                    out.push(Effect::Absolve { site: writer });
                } else {
                    out.push(Effect::NextLife { site: writer });
                }
                return self.resume(now, writer, out);
            }
            ProbeOutcome::StartingUp => {
                let until = suspicion.since + settings.restart_grace;
                return self.enter_grace(now, writer, until, out);
            }
            ProbeOutcome::Refused => {
                suspicion.refusals += 1;
                suspicion.silent_since = None;
                match suspicion.likely {
                    Likely::Restart => {
                        let until = suspicion.since + settings.restart_grace;
                        return self.enter_grace(now, writer, until, out);
                    }
                    Likely::Unclear | Likely::Death if suspicion.refusals >= settings.probe_misses => {
                        return self.give_up(now, writer, out);
                    }
                    Likely::Unclear | Likely::Death => {}
                }
            }
            ProbeOutcome::TimedOut => {
                // The probe was sent a time-out ago, and nothing was heard since.
                let since = *suspicion.silent_since.get_or_insert(suspicion.since);
                let patience = match suspicion.likely {
                    Likely::Restart => settings.restart_grace.max(settings.silence_max),
                    Likely::Unclear | Likely::Death => settings.silence_max,
                };
                if now >= since + patience {
                    return self.give_up(now, writer, out);
                }
            }
            ProbeOutcome::Unable { .. } => {}
        }
        self.probe_later(now);
    }

    fn enter_grace(&mut self, now: Moment, writer: Site, until: Moment, out: &mut Vec<Effect>) {
        if now >= until {
            return self.give_up(now, writer, out);
        }
        self.begin(State::Grace { writer, until, probe_at: None }, out);
        self.probe_later(now);
    }

    /// The writer of before answers again after a time in which it did not.
    fn come_back(&mut self, now: Moment, writer: Site, out: &mut Vec<Effect>) {
        record(out, Level::Info, "failover.writer_is_back", format!("site={writer}"));
        out.push(Effect::NextLife { site: writer });
        self.resume(now, writer, out);
    }

    fn give_up(&mut self, now: Moment, writer: Site, out: &mut Vec<Effect>) {
        record(out, Level::Error, "failover.writer_died", format!("site={writer} epoch={}", self.epoch));
        self.enter_down(now, writer, format!("the {writer} server is down"), None, out);
        self.decide_switch(now, out);
    }

    pub(super) fn enter_down(
        &mut self,
        now: Moment,
        writer: Site,
        why: String,
        retry_at: Option<Moment>,
        out: &mut Vec<Effect>,
    ) {
        self.begin(State::Down { writer, why, probe_at: Some(now), retry_at }, out);
        self.hold(now, out);
    }

    /// The writer is down: may the cloud take over?
    pub(super) fn decide_switch(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let State::Down { writer, why, .. } = &mut self.state else { return };
        *why = match (self.settings.sites, &*writer, &self.promotable) {
            (Sites::Pair, Site::Local, Promotable::All) => return self.enter_fencing_after_loss(now, out),
            (Sites::Pair, Site::Local, Promotable::Missing { names }) => {
                format!(
                    "the local server is down and cannot be replaced: not yet following: {}",
                    names.join(", ")
                )
            }
            (Sites::Pair, Site::Local, Promotable::NoMirrors) => {
                "the local server is down and has no mirror that could be promoted".into()
            }
            (Sites::Pair, Site::Local, Promotable::Unknown) => {
                "the local server is down and the cloud was never reached".into()
            }
            (Sites::LocalOnly, _, _) => "the server is down".into(),
            (Sites::Pair, Site::Cloud, _) => "the cloud server is down; the local data is older".into(),
        };
        let detail = why.clone();
        self.tell(Level::Error, "failover.no_successor", detail, out);
    }

    fn probe_later(&mut self, now: Moment) {
        let next = Some(now + self.settings.suspect_interval);
        match &mut self.state {
            State::Suspect { suspicion, .. } => suspicion.probe_at = next,
            State::Grace { probe_at, .. } | State::Down { probe_at, .. } => *probe_at = next,
            _ => {}
        }
    }

    pub(super) fn on_suspect_time(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let State::Grace { writer, until, .. } = self.state
            && now >= until
        {
            self.give_up(now, writer, out);
        }
        if let State::Down { retry_at: Some(at), .. } = self.state
            && now >= at
        {
            if let State::Down { retry_at, .. } = &mut self.state {
                *retry_at = None;
            }
            self.decide_switch(now, out);
        }
        let (writer, probe_at) = match &mut self.state {
            State::Suspect { writer, suspicion } => (*writer, &mut suspicion.probe_at),
            State::Grace { writer, probe_at, .. } | State::Down { writer, probe_at, .. } => {
                (*writer, probe_at)
            }
            _ => return,
        };
        if probe_at.is_some_and(|at| now >= at) {
            *probe_at = None;
            self.probe(now, writer, out);
        }
    }
}
