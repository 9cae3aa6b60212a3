//! Sessions that have a link only while they need one.
//!
//! A session of the pooled modes takes a link with its client's statement and lets it go when nothing
//! is owed and nothing ties it: in `transaction` mode at the end of each transaction, in `auto` when
//! also nothing is left on the link that cannot be made on another one. Both happen within the
//! relay's poll, from and to the thread's [`stash`], without a system call; only where the stash has
//! no link does a client wait in line.
//!
//! What makes one link as good as another: prepared statements have names of ours on the servers
//! and are made where they are missing ([`ask`] rewrites, [`answer`] hides and makes up the
//! answers, [`journal`] keeps account); settings are made again where they differ ([`prepare`]).
//! Everything that is sent on the way of a statement leaves in the same write as the statement;
//! only a link that needs other settings, or has to be cleaned, costs a round trip of its own: a
//! statement must not run when a setting before it was refused.
//!
//! What a client leaves on a link and cannot move ([`crate::sql::footprint`], and the ties of
//! [`super::memory`]) never reaches another client: the link is reset at once where it is known,
//! and before another client gets it where it is possible.
//!
//! This room changes nothing in session mode. Start reading in [`Pooled::take`].

pub mod answer;
pub mod ask;
pub mod auto;
mod cache;
mod carry;
mod catalogue;
mod described;
mod execute;
mod functions;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod habits;
pub mod has;
mod journal;
mod linger;
mod messages;
mod names;
pub mod prepare;
mod probe;
mod reading;
mod sequences;
mod settings;
pub mod stash;
pub mod statements;
pub mod ties;
mod undo;
pub mod words;

use super::ledger::Ledger;
use super::linking::NoLink;
use super::memory::Memory;
use super::relay::Linked;
use crate::base::{Epoch, Moment, Site};
use crate::config::PoolMode;
use crate::observe::links::LinkState;
use crate::observe::{Counters, count};
use crate::pool::{CancelPointer, Reports, reset};
use crate::route::RouteMap;
use crate::sql::footprint::Footprint;
use auto::Evidence;
use catalogue::Unseen;
use execute::Bringing;
use journal::Journal;
use names::{Names, Spoken};
use prepare::{Asker, Preparation};
use settings::Settings;
use stash::{Group, Ticket};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use ties::Ties;

thread_local! {
    static LAST_CLIENT: Cell<u64> = const { Cell::new(0) };
}

/// What a session of the pooled modes has besides its relay.
#[derive(Debug)]
pub struct Pooled {
    mode: PoolMode,
    /// Its number on this thread, and how often it may have advanced a sequence.
    stamp: has::Stamp,
    /// Where its links come from.
    group: Rc<Group>,
    names: Names,
    spoken: Spoken,
    journal: Journal,
    /// What the client was told about settings.
    pub told: Reports,
    settings: Rc<Settings>,
    at_login: Rc<Settings>,
    /// The version of the memory that `settings` is of.
    seen: u64,
    /// What statements may have left behind since the link was taken.
    footprint: Footprint,
    /// One of them may have changed how constants are read.
    may_read_otherwise: bool,
    /// In `auto` mode: what may hold the link, and what does.
    evidence: Evidence,
    /// Its place in line.
    ticket: Option<Ticket>,
    /// The client was told that it waits: once, however often it gets in line with the same statement.
    knows_it_waits: bool,
    /// The link is being made fit.
    preparation: Option<Preparation>,
    /// A statement is being made on the link for a query.
    bringing: Bringing,
    /// Where links have to lead.
    way: (Site, Epoch, u64),
    /// Where the last one led.
    was: Option<(Site, Epoch, u64)>,
    /// Links may be taken: the door is open.
    is_open: bool,
    /// The batch in which the client has sent its statement without a name.
    unnamed_in: u64,
    /// The client's next message waits until earlier batches are settled, or what `asked_in` asks is answered.
    waits: bool,
    /// The message of ours that asks what a statement results in.
    asked_in: u64,
    /// A description of a result that has begun to come.
    reading: Option<Box<described::Reading>>,
    /// Behind this Bind of the client's a Describe of its portal stands.
    tells_next: bool,
    /// The portal that was made last, and of which statement, where the client knows no result of it.
    bound: Option<(Box<[u8]>, u32)>,
    /// The client asks for the last values of sequences: those of other clients must not be there.
    uses_last_values: bool,
    /// They must not be there for its next statement, whatever is known of it.
    wants_own_values: bool,
    /// The client's next message waits until everything was answered.
    wants_quiet: bool,
    /// A command of the transaction has changed the catalogue.
    changes_catalogue: bool,
    /// It has altered or dropped something in it.
    alters: bool,
    /// Of this simple query the first command is ours.
    hides_command_of: Option<u64>,
    /// A Flush was sent: made-up answers must not wait for the server's next one.
    wants_answers: bool,
    /// What is still to come of the server's message is not for the client.
    hides_rest: bool,
    /// Statement mode: a transaction block was begun.
    pub has_begun_block: bool,
    cancel: CancelPointer,
    /// What the client was warned of.
    warned: Vec<&'static str>,
    counters: Arc<Counters>,
}

/// What a walk in either direction writes to besides the session itself.
#[derive(Debug)]
pub struct Side<'a, W> {
    /// The direction.
    pub walk: &'a mut W,
    /// What is owed.
    pub ledger: &'a mut Ledger,
    /// What the client has set.
    pub memory: &'a mut Memory,
    /// What the link has.
    pub has: &'a mut has::Has,
    /// What stands before or instead of a message, while it is looked at.
    pub patch: &'a mut Vec<u8>,
}

/// How a client gets a link.
#[derive(Debug)]
pub enum Taken {
    /// Here it is.
    Link(Linked),
    /// Not yet: it waits in line.
    InLine,
    /// Not now: the session has to decide.
    NotNow,
}

impl Pooled {
    /// For a client of `mode` who was told `told`.
    pub fn new(
        mode: PoolMode,
        group: Rc<Group>,
        told: Reports,
        cancel: CancelPointer,
        map: &RouteMap,
        counters: Arc<Counters>,
    ) -> Self {
        let told = settings::same_reports(told);
        let at_login = Settings::at_login(&told);
        let mut this = Self {
            mode,
            stamp: has::Stamp::new(LAST_CLIENT.replace(LAST_CLIENT.get() + 1) + 1),
            group,
            names: Names::default(),
            spoken: Spoken::default(),
            journal: Journal::default(),
            told,
            settings: at_login.clone(),
            at_login,
            seen: 0,
            footprint: Footprint::CLEAN,
            may_read_otherwise: false,
            evidence: Evidence::default(),
            ticket: None,
            knows_it_waits: false,
            preparation: None,
            bringing: Bringing::Nothing,
            way: map.way(),
            was: None,
            is_open: false,
            unnamed_in: 0,
            waits: false,
            asked_in: 0,
            reading: None,
            tells_next: false,
            bound: None,
            uses_last_values: false,
            wants_own_values: false,
            wants_quiet: false,
            changes_catalogue: false,
            alters: false,
            hides_command_of: None,
            wants_answers: false,
            hides_rest: false,
            has_begun_block: false,
            cancel,
            warned: Vec::new(),
            counters,
        };
        this.follow(map);
        this
    }

    /// The routes have changed.
    pub fn follow(&mut self, map: &RouteMap) {
        self.way = map.way();
        self.is_open = !map.holds_everything() && map.halts.gives_links(self.group.database());
    }

    /// Whether links may be taken.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The text of a prepared statement of the client's.
    pub fn text_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.names.get(name).filter(|statement| !statement.is_lost).map(|statement| statement.text())
    }

    /// A link for the client's statement, from the stash where it has one.
    pub fn take(&mut self, cx: &mut Context<'_>) -> Taken {
        if !self.is_open {
            return Taken::NotNow;
        }
        match self.group.take(self.way, cx) {
            Some(link) => Taken::Link(self.begin(link)),
            None => {
                self.cancel.listen(cx.waker());
                self.ticket = Some(self.group.wait(cx));
                Taken::InLine
            }
        }
    }

    /// Since when the client waits in line, if it does.
    pub fn waits_since(&self) -> Option<Moment> {
        self.ticket.as_ref().map(Ticket::since)
    }

    /// What has come of the wait in line.
    pub fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Result<Linked, NoLink>> {
        let Some(ticket) = &self.ticket else { return Poll::Pending };
        if self.cancel.was_asked() {
            self.leave_line();
            return Poll::Ready(Err(NoLink::Refused(super::tell::cancelled())));
        }
        let outcome = match ticket.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(outcome) => outcome,
        };
        match outcome {
            Ok(link) if link.way() != self.way => {
                // The routes have changed meanwhile: from the front again, though at the end of the line.
                drop(link);
                self.ticket = Some(self.group.wait(cx));
                Poll::Pending
            }
            Ok(link) => {
                self.leave_line();
                Poll::Ready(Ok(self.begin(link)))
            }
            Err(no_link) => {
                self.leave_line();
                Poll::Ready(Err(no_link))
            }
        }
    }

    /// Whether the client is to be told that it waits in line.
    pub fn takes_notice(&mut self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::takes_notice) && !self.told_that_it_waits()
    }

    /// The client is told that it waits; whether it was told before.
    pub fn told_that_it_waits(&mut self) -> bool {
        std::mem::replace(&mut self.knows_it_waits, true)
    }

    /// The client's statement waits no more.
    pub fn has_waited(&mut self) {
        self.knows_it_waits = false;
    }

    /// Gives up the place in line.
    pub fn leave_line(&mut self) {
        if self.ticket.take().is_some() {
            self.cancel.stop_listening();
        }
    }

    fn begin(&mut self, mut link: Linked) -> Linked {
        self.cancel.point_to(link.lease.cancel_target());
        self.footprint = Footprint::CLEAN;
        self.may_read_otherwise = false;
        self.has_waited();
        if self.was.replace(self.way).is_some_and(|was| was != self.way) {
            count(&self.counters.sessions_moved);
        }
        if let Some(has) = &mut link.has {
            has.uses = has.uses.wrapping_add(1);
            has.has_news = false;
        }
        link
    }

    /// What has to be sent to a link before the client's statement; the session waits for the answers.
    pub fn prepare(&mut self, link: &mut Linked) -> Option<Vec<u8>> {
        let has = link.has.as_mut()?;
        let habits = &self.group.habits;
        let may_ask = habits.may_ask() || habits.catalogue.has(Unseen::ASKS);
        let wants_own_values = std::mem::take(&mut self.wants_own_values)
            || self.uses_last_values
            || self.mode == PoolMode::Auto && may_ask;
        let asker = Asker { stamp: self.stamp, wants_own_values };
        let (preparation, bytes) = Preparation::of(&self.settings, has, asker)?;
        // A simple query drops it.
        has.unnamed = None;
        self.preparation = Some(preparation);
        count(&self.counters.links_prepared);
        Some(bytes)
    }

    /// Whether the server is asked what is left on the link.
    pub fn is_asking(&self) -> bool {
        self.evidence.is_asking()
    }

    /// What holds the link in `auto` mode, as far as it is known.
    pub fn ties(&self) -> Ties {
        let statement = if self.keeps_statement() { Ties::LONG_STATEMENT } else { Ties::NONE };
        self.evidence.all_ties() | statement
    }

    /// Whether a statement that can be made on no other link holds this one, in any mode.
    pub fn keeps_statement(&self) -> bool {
        self.names.has_lost()
    }

    /// Whether the link is being made fit.
    pub fn is_preparing(&self) -> bool {
        self.preparation.is_some() || matches!(self.bringing, Bringing::Sent(_))
    }

    /// Reads what a link that is being made fit answers. Notifications in between are put into `news`
    /// where the link is the client's own; on a new one they are somebody else's.
    pub fn read_preparation(
        &mut self,
        bytes: &[u8],
        has: &mut has::Has,
        news: &mut Vec<u8>,
    ) -> (usize, prepare::Progress) {
        if matches!(self.bringing, Bringing::Sent(_)) {
            return self.read_brought(bytes, has, news);
        }
        let Some(preparation) = &mut self.preparation else { return (0, prepare::Progress::Done) };
        let (read, progress) = preparation.read(bytes, has, news);
        if !self.evidence.ties.has(ties::Ties::LISTEN) {
            news.clear();
        }
        match progress {
            prepare::Progress::Unfinished | prepare::Progress::Again(_) => {}
            _ => self.preparation = None,
        }
        (read, progress)
    }

    /// Tells the client which settings of its new link differ from what it knows.
    pub fn tell(&mut self, has: &mut has::Has, out: &mut bytes::BytesMut) {
        if Arc::ptr_eq(&self.told, &has.reported) {
            return;
        }
        for (name, value) in has.reported.iter() {
            if !self.told.iter().any(|(known, old)| known == name && old == value) {
                crate::wire::message::parameter_status(out, name, value);
            }
        }
        has.reported = settings::same_reports(has.reported.clone());
        self.told = has.reported.clone();
    }

    /// Whether the client's next message has to wait for answers to earlier ones; when it has waited
    /// long enough, it is looked at again (`true` the second).
    pub fn waits(&mut self, ledger: &Ledger) -> (bool, bool) {
        let is_asked = ledger.steps_done() < self.asked_in || self.is_reading_description();
        let is_early = self.wants_quiet && !ledger.is_quiet() && !ledger.has_no_place();
        if self.waits
            && (is_asked
                || is_early
                || self.journal.has_before(ledger.batch())
                || self.waits_to_bring(ledger))
        {
            return (true, false);
        }
        self.wants_quiet = false;
        (false, std::mem::take(&mut self.waits))
    }

    /// Whether something holds the link beyond what the ledger knows.
    pub fn is_tied(&self) -> bool {
        !self.journal.is_empty()
            || self.is_preparing()
            || self.evidence.is_asking()
            || self.waits
            || self.names.has_lost()
    }

    /// A transaction is over: what the client has set by then holds from now on, on whatever link. It is
    /// not left to the moment in which the link is given back: the server may be lost before.
    fn settle(&mut self, has: &mut has::Has, memory: &Memory) {
        if !has.has_news && memory.version() == self.seen {
            return;
        }
        let is_unsaid = memory.version() == self.seen && memory.tie().is_none() && self.footprint.is_clean();
        has.is_outdated |= is_unsaid && *has.reported != *self.told;
        if !(is_unsaid && has.is_outdated) {
            has.reported = settings::same_reports(has.reported.clone());
            self.settings = Settings::of(memory, has, &self.at_login);
            self.seen = memory.version();
            has.settings = self.settings.clone();
        }
        self.told = has.reported.clone();
        has.has_news = false;
    }

    /// The transaction is over and nothing is owed: the link goes to whoever needs it next.
    pub fn let_go(&mut self, mut link: Linked, memory: &mut Memory) {
        self.cancel.point_nowhere();
        let Some(has) = &mut link.has else { return };
        if link.lease.is_cancelled() || has.is_spoiled {
            drop(link);
            return self.group.fetch_if_useful();
        }
        self.settle(has, memory);
        let footprint = std::mem::take(&mut self.footprint);
        let evidence = std::mem::take(&mut self.evidence);
        if has.is_outdated {
            // Something was changed for all sessions: what clients are told at log-ins is not so any more.
            link.lease.forget_welcomes();
            memory.forget_ties();
            drop(link);
            return self.group.fetch_if_useful();
        }
        // In `auto` mode the server has said what is there.
        let is_known = self.mode != PoolMode::Auto && footprint.has(KNOWN);
        if evidence.ties.has(Ties::OF_BACK_END) || footprint.has(OF_BACK_END) {
            memory.forget_ties();
            drop(link);
            return self.group.fetch_if_useful();
        }
        if memory.tie().is_some() || is_known || evidence.holds_something() {
            memory.forget_ties();
            return clean(link, self.group.clone());
        }
        if !footprint.is_clean() {
            has.stain = Some(self.stamp.client);
        }
        has.since = crate::sys::now();
        self.group.put(link);
    }

    /// The link is about to go, though the client has not let it go: what the client was told on it, also in
    /// a transaction that is lost, is what it believes.
    pub fn on_link_given_up(&mut self, link: &Linked) {
        if let Some(has) = &link.has
            && !self.is_preparing()
        {
            self.told = has.reported.clone();
        }
    }

    /// The link is gone, and with it whatever was on its way.
    pub fn on_link_lost(&mut self) {
        self.cancel.point_nowhere();
        // Its transaction may have been committed.
        self.on_catalogue_changed();
        self.preparation = None;
        self.bringing = Bringing::Nothing;
        self.evidence = Evidence::default();
        self.wants_answers = false;
        self.hides_rest = false;
        self.waits = false;
        self.wants_quiet = false;
        self.asked_in = 0;
        self.reading = None;
        self.footprint = Footprint::CLEAN;
        self.spoken.clear();
        while let Some(act) = self.journal.lost() {
            self.take_back(act, u64::MAX, None);
        }
        self.group.fetch_if_useful();
    }
}

/// What is left behind for certain.
const KNOWN: Footprint = Footprint::TEMPORARY.or(Footprint::ADVISORY_LOCK).or(OF_BACK_END);

/// What no reset takes away.
const OF_BACK_END: Footprint = Footprint::LIBRARY.or(Footprint::SEED).or(Footprint::KEEPS);

/// Resets a link on this thread and gives it back then.
fn clean(mut link: Linked, group: Rc<Group>) {
    link.lease.list_as(LinkState::Tested);
    tokio::task::spawn_local(async move {
        let reported = link.has.as_ref().map_or_else(Vec::new, |has| has.all_reported());
        let before = link.lease.reported().clone();
        let is_reset = reset(&mut link.stream, &before, reported).await.is_ok();
        match &mut link.has {
            Some(has) if is_reset => {
                has.reset();
                group.put(link);
            }
            _ => {
                drop(link);
                group.fetch_if_useful();
            }
        }
    });
}
