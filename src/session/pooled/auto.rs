//! `auto` mode: a link goes back whenever nothing is left on it that cannot be made on another one.
//!
//! Evidence comes from the tags of commands and the texts of statements ([`crate::sql::footprint`]);
//! the truth comes from the server: where there is new evidence, it is asked once ([`super::probe`])
//! before the link is given back. Settings that it names are made again elsewhere like those that
//! were seen; everything else is a tie. A text that is only suspect, because it calls functions that we do
//! not know, is remembered by its shape when the server found nothing at all behind it, and then asks
//! ever more rarely.
//!
//! What no question of ours finds ties by its text alone: the seed of `random()`, libraries, functions
//! that may keep something in their back end, and what a back end has counted. Behind a statement that may
//! have advanced a sequence the link *lingers*: it stays with its client for the value that it may
//! ask for, as long as the client goes on or nobody else waits ([`super::habits`], [`super::linger`]).

use super::Pooled;
use super::catalogue::Unseen;
use super::habits::Watching;
use super::has::Has;
use super::linger::Linger;
use super::probe::{About, Answer, Found, Probe, collect_calls, collect_names};
use super::reading::may_change;
use super::ties::Ties;
use crate::config::PoolMode;
use crate::session::memory::{Memory, Tie};
use crate::sql::footprint::Footprint;
use crate::sys::Map;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;

/// Shapes that are remembered on a thread.
const SHAPES_MAX: usize = 8192;
/// Suspect texts in one transaction that are looked up.
const SUSPECTS_MAX: usize = 32;
/// A question that has met so many cancels is not asked again.
const CANCELLED_MAX: u8 = 8;
/// A harmless text is asked about again after at most so many times.
const AGAIN: u32 = 1024;
/// Who has not asked for the value of a sequence in so many transactions will not.
const ASKED_WITHIN: u32 = 16;

thread_local! {
    /// How often suspect texts were seen after nothing was found behind them.
    static HARMLESS: RefCell<Map<u64, u32>> = RefCell::default();
}

/// What is known and what is not.
#[derive(Debug, Default)]
pub struct Evidence {
    /// What holds the link, as far as the server has said.
    pub ties: Ties,
    /// The server has to be asked before the link may go.
    is_open: bool,
    /// What was certainly left behind since it was asked.
    unasked: Footprint,
    /// Shapes of suspect texts since it was asked.
    suspects: Vec<u64>,
    /// What may be names of settings in those texts.
    names: Vec<Box<str>>,
    /// Names of functions that were called in texts that are not known to be harmless.
    calls: Vec<Box<str>>,
    /// So many transactions ago the client may have advanced a sequence, and may ask for its value.
    advanced: Option<u32>,
    linger: Option<Rc<Linger>>,
    watching: Option<Watching>,
    probe: Option<Probe>,
    /// How often the question has met a cancel in a row.
    times_cancelled: u8,
}

/// Whether a link may go.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing holds it.
    Free,
    /// Something does.
    Tied,
    /// Something may: the link stays unless others need it.
    Lingering,
    /// The server is asked with these bytes.
    Ask(Vec<u8>),
}

/// What has come of asking.
#[derive(Debug)]
pub enum Asked {
    /// Nothing yet.
    Unfinished,
    /// These bytes have to be sent.
    Again(Vec<u8>),
    /// It is known now, as far as it can be.
    Known,
    /// The server ends the link.
    Ended(crate::wire::report::Report),
    /// It speaks another protocol.
    Violation,
}

impl Evidence {
    /// Whether the server is being asked.
    pub fn is_asking(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether a link that is given up now may have anything on it.
    pub fn holds_something(&self) -> bool {
        !self.ties.is_empty() || self.is_open || self.probe.is_some()
    }

    fn holds_anything(&self) -> bool {
        !self.ties.is_empty() || self.advanced.is_some()
    }

    /// What holds the link, needed or not.
    pub fn all_ties(&self) -> Ties {
        self.ties | if self.advanced.is_some() { Ties::SEQUENCE } else { Ties::NONE }
    }

    /// Whether something is new about it.
    fn suspect(&mut self, shape: u64) -> bool {
        let is_new = HARMLESS.with_borrow_mut(|known| match known.get_mut(&shape) {
            Some(times) => {
                *times = times.saturating_add(1);
                times.is_power_of_two() || *times % AGAIN == 0
            }
            None => true,
        });
        if is_new {
            self.is_open = true;
            if self.suspects.len() < SUSPECTS_MAX {
                self.suspects.push(shape);
            }
        }
        is_new
    }

    fn is_harmless(&mut self) {
        HARMLESS.with_borrow_mut(|known| {
            if known.len() > SHAPES_MAX {
                known.clear();
            }
            for shape in self.suspects.drain(..) {
                known.entry(shape).or_default();
            }
        });
    }

    /// Something was found: none of the texts is harmless, whatever was seen before.
    fn is_not_harmless(&mut self) {
        HARMLESS.with_borrow_mut(|known| {
            for shape in self.suspects.drain(..) {
                known.remove(&shape);
            }
        });
    }
}

impl Pooled {
    /// A text was sent. `footprint` is what it says; with what it may hide, it is returned.
    pub(super) fn on_text(&mut self, text: &[u8], footprint: Footprint) -> Footprint {
        // Who asks for what a trigger has counted is not waited for.
        let may_advance = footprint.has(Footprint::ADVANCES.or(Footprint::SUSPECT));
        let mut footprint = footprint | self.unseen(footprint);
        if self.mode != PoolMode::Auto && footprint.has(Footprint::SUSPECT) {
            footprint |= self.group.habits.catalogue.functions().kept_by(text);
        }
        self.footprint |= footprint;
        self.may_read_otherwise |= may_change(text, footprint);
        if self.mode != PoolMode::Auto || footprint.is_empty() {
            return footprint;
        }
        if may_advance && self.group.habits.may_ask() {
            self.evidence.advanced = Some(0);
        }
        if footprint.is_clean() {
            return footprint;
        }
        if footprint.has(Footprint::STATISTICS) {
            self.evidence.ties |= Ties::STATISTICS;
            self.evidence.watching.get_or_insert_with(|| self.group.habits.watch());
        }
        if footprint.has(Footprint::SEED) {
            self.evidence.ties |= Ties::SEED;
        }
        if footprint.has(Footprint::LIBRARY) {
            self.evidence.ties |= Ties::LIBRARY;
        }
        if footprint.has(Footprint::KEEPS) {
            self.evidence.ties |= Ties::FUNCTION;
        }
        if footprint.has(Footprint::LAST_VALUE) {
            self.evidence.ties |= Ties::LAST_VALUE;
            self.evidence.advanced = None;
        }
        let certain = Footprint::TEMPORARY.or(Footprint::ADVISORY_LOCK).or(Footprint::SETTING);
        if footprint.has(certain) || footprint.has(Footprint::SUSPECT) {
            collect_names(text, &mut self.evidence.names);
        }
        if footprint.has(certain) {
            self.evidence.is_open = true;
            self.evidence.unasked |= footprint;
        }
        if footprint.has(Footprint::SUSPECT) && self.evidence.suspect(self.group.habits.shape(text)) {
            collect_calls(text, &mut self.evidence.calls);
        }
        footprint
    }

    /// What a statement may do that it does not say.
    fn unseen(&self, footprint: Footprint) -> Footprint {
        let mut unseen = Footprint::CLEAN;
        let catalogue = &self.group.habits.catalogue;
        let leaves = footprint.has(Footprint::COMPUTES) && catalogue.has(Unseen::LEAVES);
        if leaves || footprint.has(Footprint::TOUCHES) && self.settings.may_make_temporary {
            unseen |= Footprint::SUSPECT;
        }
        let writes = footprint.has(Footprint::WRITES) && catalogue.has(Unseen::ADVANCES_BY_WRITES);
        if writes || footprint.has(Footprint::COMPUTES) && catalogue.has(Unseen::ADVANCES) {
            unseen |= Footprint::ADVANCES;
        }
        unseen
    }

    /// What statements may do that they do not say is not known any more, if something has changed it.
    pub(super) fn on_catalogue_changed(&mut self) {
        if std::mem::take(&mut self.changes_catalogue) {
            self.group.habits.catalogue.has_changed();
        }
        if std::mem::take(&mut self.alters) {
            self.group.habits.catalogue.was_altered();
        }
    }

    /// A transaction is over.
    pub(super) fn on_transaction_end(&mut self) {
        self.on_catalogue_changed();
        let Some(ago) = self.evidence.advanced else { return };
        self.group.habits.has_been_silent(1);
        self.evidence.advanced = (ago < ASKED_WITHIN).then_some(ago + 1);
    }

    /// The client keeps its link for a while.
    pub(super) fn linger(&mut self, waker: &Waker) {
        match &self.evidence.linger {
            Some(linger) => linger.go_on(waker),
            None => self.evidence.linger = Some(self.group.linger(waker)),
        }
    }

    /// The client has spoken.
    pub(super) fn on_speech(&mut self) {
        if let Some(linger) = &self.evidence.linger {
            linger.interrupt();
        }
    }

    /// The parameters of a statement that was sent: they may name a setting.
    pub(super) fn on_parameters(&mut self, bytes: &[u8], footprint: Footprint) {
        if self.mode == PoolMode::Auto && footprint.has(Footprint::SETTING) {
            collect_names(bytes, &mut self.evidence.names);
        }
    }

    /// A command was completed: it may have taken away what holds the link.
    pub(super) fn on_tag(&mut self, tag: &[u8]) {
        if tag.starts_with(b"CREATE ") || tag.starts_with(b"ALTER ") {
            self.changes_catalogue = true;
        }
        let is_temporary =
            self.footprint.has(Footprint::TEMPORARY) || self.evidence.ties.has(Ties::TEMPORARY);
        self.alters |= tag.starts_with(b"ALTER ") || tag.starts_with(b"DROP ") && !is_temporary;
        if !self.evidence.holds_anything() {
            return;
        }
        let tag = tag.strip_suffix(b"\0").unwrap_or(tag);
        match tag {
            b"DISCARD ALL" => {
                self.evidence.ties = self.evidence.ties.and(Ties::OF_BACK_END);
                self.evidence.advanced = None;
                self.evidence.is_open = true;
            }
            b"UNLISTEN" | b"DEALLOCATE" | b"DEALLOCATE ALL" | b"DISCARD TEMP" | b"DROP TABLE"
            | b"DROP VIEW" | b"DROP SEQUENCE" => self.evidence.is_open = true,
            _ if tag.starts_with(b"CLOSE CURSOR") => self.evidence.is_open = true,
            _ => {}
        }
    }

    /// The transaction is over and nothing is owed: what becomes of the link?
    pub fn verdict(&mut self, memory: &Memory, has: &mut Has) -> Verdict {
        let is_open = self.mode == PoolMode::Auto && (memory.tie().is_some() || self.evidence.is_open);
        let turn = if self.is_open { self.group.habits.catalogue.turn(crate::sys::now()) } else { None };
        if is_open || turn.is_some() {
            let about = turn.map_or(About::Session, |(turn, known)| About::Catalogue(turn, known));
            let names = self.evidence.names.iter().map(AsRef::as_ref);
            let known = memory.settings_by_name().map(|(name, _)| name).filter(|name| name.contains('.'));
            let functions = self.group.habits.catalogue.functions();
            let calls = self.evidence.calls.clone();
            let (probe, bytes) = Probe::ask(known.chain(names), calls, functions, about);
            self.evidence.probe = Some(probe);
            crate::observe::count(&self.counters.links_probed);
            // A simple query drops it.
            has.unnamed = None;
            return Verdict::Ask(bytes);
        }
        if self.mode != PoolMode::Auto {
            return Verdict::Free;
        }
        if !self.evidence.ties.is_empty() {
            return Verdict::Tied;
        }
        let is_over = |linger: &Rc<Linger>| linger.is_over();
        match self.evidence.advanced {
            None => Verdict::Free,
            Some(_) if !self.is_open || self.evidence.linger.as_ref().is_some_and(is_over) => {
                self.group.habits.has_been_silent(ASKED_WITHIN);
                Verdict::Free
            }
            Some(_) if self.group.habits.may_ask() => Verdict::Lingering,
            Some(_) => Verdict::Free,
        }
    }

    /// Reads what the server answers; what it tells the client in between is put into `news`.
    pub fn read_probe(
        &mut self,
        bytes: &[u8],
        has: &mut Has,
        memory: &mut Memory,
        news: &mut Vec<u8>,
    ) -> (usize, Asked) {
        let Some(probe) = &mut self.evidence.probe else { return (0, Asked::Known) };
        let (read, answer) = probe.read(bytes, has, news);
        let asked = match answer {
            Answer::Unfinished => return (read, Asked::Unfinished),
            Answer::Again(bytes) => return (read, Asked::Again(bytes)),
            Answer::Found(found) => {
                self.learn_found(found, memory);
                Asked::Known
            }
            Answer::Cancelled if self.evidence.times_cancelled < CANCELLED_MAX => {
                self.evidence.times_cancelled += 1;
                self.evidence.probe = None;
                // The relay asks again when it gives the link back.
                self.evidence.is_open = true;
                return (read, Asked::Known);
            }
            Answer::Unknown | Answer::Cancelled if self.mode != PoolMode::Auto => Asked::Known,
            Answer::Unknown | Answer::Cancelled => {
                self.evidence.is_not_harmless();
                self.evidence.ties |= Ties::UNKNOWN;
                memory.forget_ties();
                Asked::Known
            }
            // What was to be asked stays open: it decides whether the session can move.
            Answer::Ended(report) => return (read, Asked::Ended(report)),
            Answer::Violation => return (read, Asked::Violation),
        };
        self.evidence.probe = None;
        self.evidence.is_open = false;
        self.evidence.unasked = Footprint::CLEAN;
        self.evidence.names.clear();
        self.evidence.calls.clear();
        self.evidence.times_cancelled = 0;
        (read, asked)
    }

    fn learn_found(&mut self, found: Found, memory: &mut Memory) {
        if let Some((turn, known)) = found.unseen {
            self.group.habits.catalogue.says(turn, known);
        }
        if let Some(functions) = found.functions {
            self.group.habits.catalogue.has_functions(functions);
        }
        if self.mode != PoolMode::Auto {
            return;
        }
        let evidence = &mut self.evidence;
        let is_pristine = found.ties.is_empty() && found.settings.is_empty();
        if is_pristine {
            evidence.is_harmless();
        } else {
            evidence.is_not_harmless();
        }
        evidence.ties = evidence.ties.and(Ties::LASTING) | found.ties;
        if memory.has_tie(Tie::TooMuch) {
            evidence.ties |= Ties::UNKNOWN;
        }
        memory.forget_ties();
        // Who the session is was seen in its text, or is not known.
        let authorization = memory.settings_by_name().find(|(name, _)| *name == "session authorization");
        let mut settings = found.settings;
        match authorization {
            Some((name, text)) => settings.insert(0, (name.into(), text.into())),
            None if found.session_user != self.group.user() => evidence.ties |= Ties::UNKNOWN,
            None => {}
        }
        memory.replace_settings(settings);
    }

    /// Why the session cannot move to another server.
    pub fn tie_reason(&self, memory: &Memory) -> Option<&'static str> {
        if self.mode != PoolMode::Auto {
            return self.keeps_statement().then(|| Ties::LONG_STATEMENT.reason()).flatten();
        }
        let unasked = self.evidence.unasked;
        let seen = if unasked.has(Footprint::TEMPORARY) {
            Some(Tie::Temporary)
        } else if unasked.has(Footprint::ADVISORY_LOCK) {
            Some(Tie::AdvisoryLock)
        } else if unasked.has(Footprint::SETTING) {
            Some(Tie::UnseenChange)
        } else {
            None
        };
        let statement = if self.keeps_statement() { Ties::LONG_STATEMENT } else { Ties::NONE };
        // Not the value of a sequence, for which nobody has asked yet.
        memory.tie().or(seen).map(Tie::reason).or((self.evidence.ties | statement).reason())
    }
}
