//! What a session has made on its server, so that it can be made again on another one.
//!
//! Three things are kept, each bounded: the texts of committed SET and RESET statements, the
//! Parse messages of named prepared statements, and ties: states that cannot be made again and
//! that keep the session from moving. What functions of the database do inside is not seen;
//! `docs/failover.md` says so.

use super::ledger::Ledger;
use std::collections::{HashMap, VecDeque};

/// The most bytes of Parse messages kept for one session.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// The most bytes of SET statements kept for one session.
const SETTING_BYTES_MAX: usize = 32 << 10;

/// Why a session cannot move to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// It listens for notifications: some would be missed.
    Listen,
    /// It holds a cursor beyond its transaction.
    HeldCursor,
    /// It has statements prepared by SQL.
    SqlPrepare,
    /// It has made something temporary.
    Temporary,
    /// It holds, or held, an advisory lock beyond its transaction.
    AdvisoryLock,
    /// It has changed settings or statements in a way we did not see.
    UnseenChange,
    /// What it has prepared or set is more than we keep.
    TooMuch,
}

impl Tie {
    /// For a warning that it does not last.
    pub fn what(self) -> &'static str {
        match self {
            Tie::Listen => "LISTEN",
            Tie::HeldCursor => "a cursor WITH HOLD",
            Tie::SqlPrepare => "a statement prepared with PREPARE",
            Tie::Temporary => "a temporary table",
            Tie::AdvisoryLock => "an advisory lock of the session",
            Tie::UnseenChange => "a setting changed among other statements",
            Tie::TooMuch => "what the session has prepared or set",
        }
    }

    /// For the DETAIL of the message that ends the session.
    pub fn reason(self) -> &'static str {
        match self {
            Tie::Listen => "The session was listening for notifications.",
            Tie::HeldCursor => "The session had a cursor declared WITH HOLD.",
            Tie::SqlPrepare => "The session had statements prepared with PREPARE.",
            Tie::Temporary => "The session had made a temporary table.",
            Tie::AdvisoryLock => "The session had taken an advisory lock.",
            Tie::UnseenChange => "The session had changed settings in a way that cannot be repeated.",
            Tie::TooMuch => "The session had prepared or set more than is kept.",
        }
    }
}

/// What a statement will change if it succeeds, as far as its text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `SET name …`: the text is kept under the name.
    Set {
        /// Lower-case name of the setting.
        name: Box<str>,
        /// The statement.
        text: Box<str>,
    },
    /// Several settings at once, by their names, each with a text that makes it alone.
    SetSeveral(Vec<(Box<str>, Box<str>)>),
    /// `SET LOCAL`, `SET TRANSACTION`, `SET CONSTRAINTS`: gone with the transaction.
    SetForTransaction,
    /// `RESET name`.
    Reset {
        /// Lower-case name of the setting.
        name: Box<str>,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `DEALLOCATE name`.
    Deallocate {
        /// The statement's name.
        name: Box<[u8]>,
    },
    /// `DECLARE … CURSOR` without HOLD.
    DeclareForTransaction,
}

#[derive(Debug)]
enum Pending {
    Parse { name: Box<[u8]>, frame: Box<[u8]> },
    Close { name: Box<[u8]> },
    Change(Change),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    settings: Vec<(Box<str>, Box<str>)>,
    staged: Vec<Change>,
    statements: HashMap<Box<[u8]>, Box<[u8]>>,
    statement_bytes: usize,
    ties: Vec<Tie>,
    /// Extended messages whose answer matters, by their number.
    steps: VecDeque<(u64, Pending)>,
    /// What the commands of simple queries change whose text says it, by the number of the query.
    queries: VecDeque<(u64, Option<Change>)>,
    /// Prepared statements that change something when executed.
    watched: Vec<(Box<[u8]>, Change)>,
    /// Portals bound to those.
    portals: Vec<(Box<[u8]>, Change)>,
    /// How many of the staged ones a ROLLBACK has found.
    rolled_back: Option<usize>,
    failed: bool,
    /// What DEALLOCATE named last.
    deallocated: Option<Box<[u8]>>,
    /// Raised whenever what [`Memory::settings`] says may have changed.
    version: u64,
}

impl Memory {
    /// Why the session cannot move, if so.
    pub fn tie(&self) -> Option<Tie> {
        self.ties.first().copied()
    }

    /// Whether Bind and Execute messages have to be looked at.
    pub fn watches_portals(&self) -> bool {
        !self.watched.is_empty() || !self.portals.is_empty()
    }

    /// SQL texts that make the settings again, in order.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().map(|(_, text)| text.as_ref())
    }

    /// The same with the names of the settings, in lower case.
    pub fn settings_by_name(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.iter().map(|(name, text)| (name.as_ref(), text.as_ref()))
    }

    /// Another number whenever the settings may be others.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether something that the server has not answered changes a setting.
    pub fn awaits_change(&self, ledger: &Ledger) -> bool {
        let mut queries = self.queries.iter().filter(|(n, _)| *n > ledger.statements_done());
        queries.any(|(_, change)| change.is_some())
            || self.steps.iter().any(|(_, pending)| matches!(pending, Pending::Change(_)))
    }

    /// Whether the open transaction has set one of these for the session.
    pub fn stages(&self, names: fn(&str) -> bool) -> bool {
        self.staged.iter().any(|change| match change {
            Change::Set { name, .. } | Change::Reset { name } => names(name),
            Change::ResetAll | Change::SetSeveral(_) => true,
            Change::SetForTransaction | Change::Deallocate { .. } | Change::DeclareForTransaction => false,
        })
    }

    /// The name of a statement that was deallocated since this was asked.
    pub fn take_deallocated(&mut self) -> Option<Box<[u8]>> {
        self.deallocated.take()
    }

    /// Whether it is tied by this.
    pub fn has_tie(&self, tie: Tie) -> bool {
        self.ties.contains(&tie)
    }

    /// The server has said what is set, in texts that make it again, by the names of the settings.
    pub fn replace_settings(&mut self, settings: Vec<(Box<str>, Box<str>)>) {
        if settings != self.settings {
            self.settings = settings;
            self.version += 1;
        }
    }

    /// Forgets the ties: what they name is gone from the server.
    pub fn forget_ties(&mut self) {
        self.ties.clear();
    }

    /// Parse messages, headers included, that make the prepared statements again.
    pub fn statements(&self) -> impl Iterator<Item = &[u8]> {
        self.statements.values().map(AsRef::as_ref)
    }

    /// The Parse message of the prepared statement `name`.
    pub fn statement(&self, name: &[u8]) -> Option<&[u8]> {
        self.statements.get(name).map(AsRef::as_ref)
    }

    /// Query number `n` was sent and changes something.
    pub fn on_query(&mut self, n: u64, change: Change) {
        self.queries.push_back((n, Some(change)));
    }

    /// The same for a text with several statements: what each of them changes.
    pub fn on_queries(&mut self, n: u64, changes: Vec<Option<Change>>) {
        self.queries.extend(changes.into_iter().map(|change| (n, change)));
    }

    /// Parse number `step` was sent. `frame` is the whole message, `None` when it is too long to
    /// be kept; `change` is what executing the statement would change.
    pub fn on_parse(&mut self, step: u64, name: &[u8], frame: Option<&[u8]>, change: Option<Change>) {
        self.watched.retain(|(watched, _)| watched.as_ref() != name);
        if let Some(change) = change {
            self.watched.push((name.into(), change));
        }
        if name.is_empty() {
            return;
        }
        match frame {
            Some(frame) => {
                let pending = Pending::Parse { name: name.into(), frame: frame.into() };
                self.steps.push_back((step, pending));
            }
            None => self.tie_by(Tie::TooMuch),
        }
    }

    /// Bind of `statement` to `portal` was sent.
    pub fn on_bind(&mut self, portal: &[u8], statement: &[u8]) {
        let watched = self.watched.iter().find(|(name, _)| name.as_ref() == statement);
        self.bind(portal, watched.map(|(_, change)| change.clone()));
    }

    /// The same where the caller knows what executing the portal would change.
    pub fn bind(&mut self, portal: &[u8], change: Option<Change>) {
        self.portals.retain(|(bound, _)| bound.as_ref() != portal);
        if let Some(change) = change {
            self.portals.push((portal.into(), change));
        }
    }

    /// Execute number `step` of `portal` was sent.
    pub fn on_execute(&mut self, step: u64, portal: &[u8]) {
        if let Some((_, change)) = self.portals.iter().find(|(bound, _)| bound.as_ref() == portal) {
            self.steps.push_back((step, Pending::Change(change.clone())));
        }
    }

    /// Close number `step` of prepared statement `name` was sent.
    pub fn on_close(&mut self, step: u64, name: &[u8]) {
        self.watched.retain(|(watched, _)| watched.as_ref() != name);
        if self.statements.contains_key(name) || !self.steps.is_empty() {
            self.steps.push_back((step, Pending::Close { name: name.into() }));
        }
    }

    /// Extended message `step` was answered, by CommandComplete with `tag` where it has one.
    pub fn on_step(&mut self, step: u64, tag: Option<&[u8]>) {
        let mut change = None;
        while let Some((number, _)) = self.steps.front() {
            if *number > step {
                break;
            }
            let is_this = *number == step;
            let (_, pending) = self.steps.pop_front().expect("it was just looked at");
            if !is_this {
                continue;
            }
            match pending {
                Pending::Parse { name, frame } => self.keep(name, frame),
                Pending::Close { name } => self.forget(&name),
                Pending::Change(it) => change = Some(it),
            }
        }
        if let Some(tag) = tag {
            self.on_tag(tag, change);
        }
    }

    /// A command of simple Query `n` was completed with `tag`.
    pub fn on_command(&mut self, n: u64, tag: &[u8]) {
        while self.queries.front().is_some_and(|(number, _)| *number < n) {
            self.queries.pop_front();
        }
        let this = self.queries.front().is_some_and(|(number, _)| *number == n);
        let change = if this { self.queries.pop_front().and_then(|(_, change)| change) } else { None };
        self.on_tag(tag, change);
    }

    /// Extended messages after `after` and up to `through` never run.
    pub fn on_failed(&mut self, after: u64, through: u64) {
        self.failed = true;
        self.steps.retain(|(step, _)| *step <= after || *step > through);
    }

    /// Which answers are still to come is not certain, and therefore not what they are about.
    pub fn on_uncertain(&mut self) {
        self.tie_by(Tie::UnseenChange);
    }

    /// The link is gone, and with it what was under way: a transaction that had not been committed,
    /// and the numbers of what was sent.
    pub fn on_link_lost(&mut self) {
        self.staged.clear();
        self.steps.clear();
        self.queries.clear();
        self.portals.clear();
        self.rolled_back = None;
        self.failed = false;
    }

    /// ReadyForQuery; `is_idle` outside a transaction block.
    pub fn on_ready(&mut self, is_idle: bool) {
        let failed = std::mem::take(&mut self.failed);
        let rolled_back = std::mem::take(&mut self.rolled_back);
        if is_idle && self.steps.is_empty() {
            // Portals end with their transaction.
            self.portals.clear();
        }
        if rolled_back.is_some() && !is_idle && !self.staged.is_empty() {
            // To a savepoint: which of the settings survive is not known.
            self.tie_by(Tie::UnseenChange);
        }
        match rolled_back {
            _ if is_idle && failed => self.staged.clear(),
            // What comes behind it in one text was not taken back.
            Some(before) if is_idle => {
                self.staged.drain(..before.min(self.staged.len()));
                self.commit();
            }
            Some(_) => self.staged.clear(),
            None if is_idle => self.commit(),
            None => {}
        }
    }

    fn on_tag(&mut self, tag: &[u8], change: Option<Change>) {
        let tag = tag.strip_suffix(b"\0").unwrap_or(tag);
        match (tag, change) {
            (b"SET", Some(Change::SetSeveral(settings))) => {
                let set = |(name, text)| Change::Set { name, text };
                self.staged.extend(settings.into_iter().map(set));
            }
            (b"SET", Some(change @ (Change::Set { .. } | Change::SetForTransaction)))
            | (b"RESET", Some(change @ (Change::Reset { .. } | Change::ResetAll))) => {
                self.staged.push(change)
            }
            (b"SET" | b"RESET", _) => self.tie_by(Tie::UnseenChange),
            (b"LISTEN", _) => self.tie_by(Tie::Listen),
            (b"PREPARE", _) => self.tie_by(Tie::SqlPrepare),
            (b"DECLARE CURSOR", Some(Change::DeclareForTransaction)) => {}
            (b"DECLARE CURSOR", _) => self.tie_by(Tie::HeldCursor),
            (b"DEALLOCATE", Some(Change::Deallocate { name })) => {
                self.forget(&name);
                self.deallocated = Some(name);
            }
            (b"DEALLOCATE", _) => self.tie_by(Tie::UnseenChange),
            (b"DEALLOCATE ALL", _) => self.forget_statements(),
            (b"DISCARD ALL", _) => {
                let (steps, version) = (std::mem::take(&mut self.steps), self.version + 1);
                *self = Memory { steps, version, ..Memory::default() }
            }
            (b"COMMIT", _) => {
                if self.rolled_back.take().is_some_and(|before| before > 0) {
                    // To a savepoint, perhaps.
                    self.tie_by(Tie::UnseenChange);
                }
                self.commit();
            }
            (b"ROLLBACK", _) => self.rolled_back = Some(self.staged.len()),
            _ => {}
        }
    }

    fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        self.version += 1;
        for change in std::mem::take(&mut self.staged) {
            match change {
                Change::Set { name, text } => {
                    self.settings.retain(|(set, _)| *set != name);
                    self.forget_role_with(&name);
                    self.settings.push((name, text));
                    if self.settings.iter().map(|(_, text)| text.len()).sum::<usize>() > SETTING_BYTES_MAX {
                        self.settings.pop();
                        self.tie_by(Tie::TooMuch);
                    }
                }
                Change::Reset { name } => {
                    self.settings.retain(|(set, _)| *set != name);
                    self.forget_role_with(&name);
                }
                Change::ResetAll => {
                    // RESET ALL leaves the role alone ("RESET", Notes on SET ROLE).
                    self.settings.retain(|(set, _)| matches!(set.as_ref(), "role" | "session authorization"));
                }
                Change::SetSeveral(_)
                | Change::SetForTransaction
                | Change::Deallocate { .. }
                | Change::DeclareForTransaction => {}
            }
        }
    }

    /// SET and RESET SESSION AUTHORIZATION take the role with them ("SetSessionAuthorization").
    fn forget_role_with(&mut self, name: &str) {
        if name == "session authorization" {
            self.settings.retain(|(set, _)| set.as_ref() != "role");
        }
    }

    fn keep(&mut self, name: Box<[u8]>, frame: Box<[u8]>) {
        self.forget(&name);
        if self.statement_bytes + frame.len() > STATEMENT_BYTES_MAX {
            self.tie_by(Tie::TooMuch);
            return;
        }
        self.statement_bytes += frame.len();
        self.statements.insert(name, frame);
    }

    fn forget(&mut self, name: &[u8]) {
        if let Some(frame) = self.statements.remove(name) {
            self.statement_bytes -= frame.len();
        }
    }

    fn forget_statements(&mut self) {
        self.statements.clear();
        self.statement_bytes = 0;
        self.watched.clear();
        self.ties.retain(|tie| *tie != Tie::SqlPrepare);
    }

    /// The session cannot move from now on, until `DISCARD ALL`.
    pub fn tie_by(&mut self, tie: Tie) {
        if !self.ties.contains(&tie) {
            self.ties.push(tie);
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
