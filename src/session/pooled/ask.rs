//! What a client sends, made fit for the link that it happens to have.

use super::described::Told;
use super::execute::Executed;
use super::has;
use super::journal::Act;
use super::messages::{put_close, rename};
use super::sequences::{DISCARD_SEQUENCES, Others, asks_with};
use super::statements::{DROPPED, NOTHING, PREPARE_AND_DEALLOCATE, Statement, is_server_name, server_name};
use super::{Pooled, words};
use crate::session::memory::Change;
use crate::session::notice::{Notice, change_of, changes_of, concerned_links, notice};
use crate::session::walk::{ClientWalk, KEPT_MAX, Region, Stop, is_ours, shown, text_of, violation};
use crate::sql::footprint::{Footprint, footprint};
use crate::sql::session::{Peek, peek};
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::message::TransactionStatus;
use std::rc::Rc;

/// How much of a message is needed to find the names in it.
const NAMES_MAX: usize = 1024;

pub(super) type Side<'a> = super::Side<'a, ClientWalk>;

/// What becomes of a message.
pub(super) enum Sent {
    /// It passes.
    Same,
    /// The patch stands instead of so many bytes at its beginning.
    Instead(usize),
    /// It does not pass (yet).
    Not(Stop),
    /// The patch passes; it does not yet.
    Later,
}

impl Pooled {
    /// Walks over what the client sends. What may pass is `out` where it was changed (`true`), and the
    /// region's bytes as they are otherwise.
    pub fn ask(&mut self, bytes: &[u8], mut side: Side<'_>, out: &mut Vec<u8>) -> (Region, bool) {
        self.on_speech();
        let mut at = side.walk.rest.min(bytes.len());
        side.walk.rest -= at;
        let mut copied = 0;
        let mut is_changed = false;
        let stop = loop {
            match head(&bytes[at..]) {
                Head::Partial if at == bytes.len() => break Stop::End,
                Head::Partial => break Stop::Partial,
                Head::Bad { tag, .. } => {
                    break violation(format!("invalid length of message type {}", shown(tag)));
                }
                Head::Frame { tag, total } => {
                    let have = total.min(bytes.len() - at);
                    if tag == b'B' {
                        let next = bytes.get(at + total..).unwrap_or_default();
                        self.tells_next = next.first() == Some(&b'D') && next.get(HEADER) == Some(&b'P');
                    }
                    match self.message(tag, total, &bytes[at..at + have], &mut side) {
                        Sent::Same if side.patch.is_empty() => {}
                        // What was made for it stands before it.
                        Sent::Same => {
                            out.extend_from_slice(&bytes[copied..at]);
                            out.append(side.patch);
                            copied = at;
                            is_changed = true;
                        }
                        Sent::Instead(length) => {
                            out.extend_from_slice(&bytes[copied..at]);
                            out.append(side.patch);
                            copied = at + length;
                            is_changed = true;
                        }
                        Sent::Not(stop) => break stop,
                        Sent::Later => {
                            out.extend_from_slice(&bytes[copied..at]);
                            out.append(side.patch);
                            copied = at;
                            is_changed = true;
                            break Stop::Later;
                        }
                    }
                    side.walk.pass_next = false;
                    at += have;
                    side.walk.rest = total - have;
                }
            }
        };
        if is_changed {
            out.extend_from_slice(&bytes[copied..at]);
        }
        (Region { length: at, stop }, is_changed)
    }

    fn message(&mut self, tag: u8, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let is_whole = frame.len() == total;
        let is_shown = side.walk.has_local && !side.walk.pass_next && !side.ledger.has_no_place();
        // Whether a Sync in the middle of COPY was ignored cannot be told, and so not either what the
        // statements behind it have become.
        if side.ledger.is_lost() && !matches!(tag, b'S' | b'H' | b'd' | b'c' | b'f' | b'X') {
            return Sent::Not(violation(words::LOST_IN_COPY.to_owned()));
        }
        match tag {
            _ if side.walk.drops(tag) => return Sent::Not(Stop::Own),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' if is_shown && !is_whole && total <= KEPT_MAX => {
                return Sent::Not(Stop::Partial);
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' if is_shown && is_whole => {
                return Sent::Not(Stop::Own);
            }
            b'Q' => return self.query(total, frame, side),
            b'P' | b'B' | b'D' | b'C' if side.ledger.is_skipping() => {
                side.ledger.on_client(tag);
            }
            b'P' => return self.parse(total, frame, side),
            b'B' => return self.bind(total, frame, side),
            b'D' => return self.describe(total, frame, side),
            b'C' => return self.close(total, frame, side),
            b'E' if side.memory.watches_portals() => {
                if frame.len() < total.min(NAMES_MAX) {
                    return Sent::Not(Stop::Partial);
                }
                let step = side.ledger.on_client(b'E');
                if let Some((portal, _)) = cstring(&frame[HEADER..])
                    && !side.ledger.is_skipping()
                {
                    side.memory.on_execute(step, portal);
                }
            }
            b'H' => {
                side.ledger.on_client(b'H');
                self.wants_answers = true;
            }
            b'F' => return self.call(total, frame, side),
            b'E' | b'S' | b'd' | b'c' | b'f' => {
                side.ledger.on_client(tag);
            }
            b'X' => return Sent::Not(Stop::Terminate),
            _ => return Sent::Not(violation(format!("invalid frontend message type {tag}"))),
        }
        Sent::Same
    }

    fn query(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let is_whole = frame.len() == total;
        if !is_whole && total <= KEPT_MAX || frame.len() < total.min(KEPT_MAX) {
            return Sent::Not(Stop::Partial);
        }
        let text = text_of(&frame[HEADER..]);
        let mut change = None;
        match notice(text) {
            Notice::Plain => {}
            Notice::Candidate => {
                if is_whole && side.ledger.takes_commands() && is_ours(text) {
                    return Sent::Not(Stop::Own);
                }
                side.walk.concerned |= concerned_links(text);
            }
            Notice::Changing if is_whole => change = change_of(text),
            Notice::Changing => {}
        }
        let unread = Footprint::SUSPECT.or(Footprint::MAY_ASK);
        let footprint = footprint(text) | if is_whole { Footprint::CLEAN } else { unread };
        let executed = if is_whole && !side.ledger.is_skipping() { self.executed(text, side) } else { None };
        let asks = executed.as_ref().map_or(footprint, |executed| footprint | executed.statement.footprint);
        let others = self.others_sequences(asks, side);
        if others == Others::TakenAwayFirst {
            return Sent::Not(Stop::Later);
        }
        if let Some(executed) = &executed
            && self.brings_first(executed, side.ledger, side.has)
        {
            return Sent::Not(Stop::Later);
        }
        let n = side.ledger.on_client(b'Q');
        if side.ledger.is_skipping() {
            return Sent::Same;
        }
        self.journal.on_statement(n);
        let drops = is_whole && self.deallocates(&change, side);
        match change {
            Some(change) => side.memory.on_query(n, change),
            None if is_whole => side.memory.on_queries(n, changes_of(text)),
            None => {}
        }
        self.on_statement(text, footprint, side);
        // A message without its zero is refused before anything is done.
        if is_whole && cstring(&frame[HEADER..]).is_none_or(|(_, rest)| !rest.is_empty()) {
            return Sent::Same;
        }
        // A simple query drops the statement without a name ("Simple Query").
        let former = self.names.unnamed.take();
        if side.ledger.steps_sent() > side.ledger.steps_done() {
            let (batch, step) = (side.ledger.batch(), side.ledger.steps_sent());
            self.note(batch, step, Act::Query { former });
        }
        side.has.unnamed = None;
        if drops {
            self.hides_command_of = Some(n);
            side.patch.push(b'Q');
            side.patch.extend((PREPARE_AND_DEALLOCATE.len() as u32 + 4).to_be_bytes());
            side.patch.extend(PREPARE_AND_DEALLOCATE);
            return Sent::Instead(total);
        }
        let mut before: Vec<u8> = Vec::new();
        if others == Others::TakenAwayNow {
            self.hides_command_of = Some(n);
            before.extend(DISCARD_SEQUENCES);
        }
        let mut skipped = 0;
        if let Some(Executed { name, statement }) = executed
            && side.has.statements.uses(statement.id)
        {
            self.on_statement(statement.text(), statement.footprint, side);
            before.extend(&text[..name.start]);
            before.extend(server_name(statement.id, &mut [0; 16]));
            skipped = name.end;
        }
        if before.is_empty() {
            return Sent::Same;
        }
        side.patch.push(b'Q');
        side.patch.extend(((total - 1 - skipped + before.len()) as u32).to_be_bytes());
        side.patch.extend(before);
        Sent::Instead(HEADER + skipped)
    }

    /// Whether DEALLOCATE means a statement that has another name on the server.
    fn deallocates(&self, change: &Option<Change>, side: &Side<'_>) -> bool {
        matches!(change, Some(Change::Deallocate { name }) if self.names.get(name).is_some())
            && side.ledger.status() != TransactionStatus::Failed
    }

    fn parse(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let is_whole = frame.len() == total;
        if !is_whole && (total <= KEPT_MAX || frame.len() < KEPT_MAX) {
            return Sent::Not(Stop::Partial);
        }
        let Some((name, body)) = cstring(&frame[HEADER..]) else {
            return self.without_name(b'P', total, frame, side);
        };
        let text = text_of(body);
        if notice(text) == Notice::Candidate {
            if is_whole && side.ledger.takes_commands() && is_ours(text) {
                return Sent::Not(Stop::Own);
            }
            side.walk.concerned |= concerned_links(text);
        }
        let statement = if is_whole {
            Statement::of(body, side.has.site, self.reading(side))
        } else {
            Statement::lost(text)
        };
        if name.is_empty() && self.deallocates(&statement.change, side) {
            return self.parse_deallocate(total, &statement, side);
        }
        if name.is_empty() {
            let step = side.ledger.on_client(b'P');
            side.has.has_made_unnamed(statement.id);
            let (id, on_link) = (statement.id, Some(statement.id));
            let former = self.names.set(name, Some(statement));
            self.unnamed_in = side.ledger.batch();
            self.note(side.ledger.batch(), step, Act::Parse { name: name.into(), id, former, on_link });
            return Sent::Same;
        }
        if self.must_wait(name, side) {
            return Sent::Not(Stop::Later);
        }
        if let Some(taken) = self.names.get(name).cloned() {
            let taken = self.as_read_now(name, taken, side);
            // The server says so itself, and skips what follows.
            self.bring(&taken, side);
            let step = side.ledger.on_client(b'P');
            let own = server_name(taken.id, &mut [0; 16]).into();
            self.note(side.ledger.batch(), step, Act::Refused { name: name.into(), own });
            return self.rename(b'P', total, b"", name, taken.id, side);
        }
        // In a failed transaction the server refuses even this, unless it ends the transaction.
        let fails = side.ledger.status() == TransactionStatus::Failed;
        let ends = fails && matches!(peek(text), Peek::Commit | Peek::Rollback);
        let is_there = side.has.statements.uses(statement.id);
        // Behind COPY the place of the answer is the server's to say.
        let must_ask = ends || side.ledger.is_amid_copy();
        if is_there && !fails && !must_ask {
            let former = self.names.set(name, Some(statement));
            let (batch, step) = (side.ledger.batch(), side.ledger.steps_sent());
            self.note(batch, step, Act::FakeParse { name: name.into(), former });
            return Sent::Instead(total);
        }
        if is_there && must_ask {
            // The server must not find the name taken.
            side.has.statements.remove(statement.id);
            self.hidden_close(statement.id, statement.weight(), side);
        } else if !is_there {
            self.make_room(&statement, side);
        }
        if !is_there || must_ask {
            side.has.statements.insert(statement.id, statement.weight());
        }
        let step = side.ledger.on_client(b'P');
        let (id, on_link) = (statement.id, (!is_there || must_ask).then_some(statement.id));
        let former = self.names.set(name, Some(statement));
        self.note(side.ledger.batch(), step, Act::Parse { name: name.into(), id, former, on_link });
        self.rename(b'P', total, b"", name, id, side)
    }

    /// The server gets a DEALLOCATE of a statement that is made for it.
    fn parse_deallocate(&mut self, total: usize, statement: &Statement, side: &mut Side<'_>) -> Sent {
        let batch = side.ledger.batch();
        for tag in [b'C', b'P'] {
            let step = side.ledger.on_client(tag);
            self.note(batch, step, Act::Hidden);
        }
        put_close(side.patch, b'S', DROPPED);
        let site = side.has.site;
        Statement::of(b"SELECT 1\0\0\0", site, Some(0)).put_parse(side.patch, DROPPED, site);
        let step = side.ledger.on_client(b'P');
        let instead = Statement::deallocating(statement.change.clone().unwrap_or(Change::ResetAll));
        instead.put_parse(side.patch, b"", site);
        let (id, on_link) = (instead.id, Some(instead.id));
        side.has.has_made_unnamed(id);
        let former = self.names.set(b"", Some(instead));
        self.unnamed_in = batch;
        self.note(batch, step, Act::Parse { name: Box::default(), id, former, on_link });
        Sent::Instead(total)
    }

    fn bind(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let names = cstring(&frame[HEADER..]).and_then(|(portal, rest)| Some((portal, cstring(rest)?.0)));
        let Some((portal, name)) = names else { return self.without_name(b'B', total, frame, side) };
        if self.must_wait(name, side) {
            return Sent::Not(Stop::Later);
        }
        let found = self.names.find(name).map(|(statement, told)| (statement.clone(), told));
        let (known, told) = found.map_or((None, Told::Nothing), |(statement, told)| (Some(statement), told));
        let known = known.map(|statement| self.as_read_now(name, statement, side));
        let executed = self.executed_by(known.as_ref(), side);
        if executed.is_some() && self.must_wait_for_all(side) {
            return Sent::Not(Stop::Later);
        }
        if let Some(statement) = known.as_ref().filter(|_| executed.is_none())
            && let Some(sent) = self.outdated(total, (portal, name), statement, told, side)
        {
            return sent;
        }
        self.on_bound(portal, known.as_ref().filter(|it| !it.is_lost && !it.executes), told);
        let meant = executed.as_ref().map(|executed| &executed.statement);
        let asks = [known.as_ref(), meant].into_iter().flatten();
        let asks = asks.fold(Footprint::CLEAN, |all, statement| all | asks_with(statement, frame));
        match self.others_sequences(asks, side) {
            Others::TakenAwayFirst => return Sent::Not(Stop::Later),
            Others::TakenAwayNow => self.discard_sequences(side),
            Others::None => {}
        }
        if let Some(statement) = &known {
            statement.was_bound.set(true);
            self.on_statement(statement.text(), statement.footprint, side);
            self.on_parameters(frame, statement.footprint);
        }
        if let Some(statement) = meant {
            self.on_statement(statement.text(), statement.footprint, side);
        }
        let change = [meant, known.as_ref()].into_iter().flatten().find_map(|it| it.change.as_ref());
        if side.memory.watches_portals() || change.is_some() {
            side.memory.bind(portal, change.cloned());
        }
        let known = known.map(|statement| self.resolved(statement, executed, side));
        let sent = self.about(b'B', total, portal, name, known, side);
        side.ledger.on_client(b'B');
        sent
    }

    fn describe(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let Some(&kind) = frame.get(HEADER) else { return self.without_name(b'D', total, frame, side) };
        if kind != b'S' {
            let step = side.ledger.on_client(b'D');
            if let Some((portal, _)) = cstring(&frame[HEADER + 1..]) {
                self.on_describe_portal(portal, side.ledger.batch(), step);
            }
            return Sent::Same;
        }
        let Some((name, _)) = cstring(&frame[HEADER + 1..]) else {
            return self.without_name(b'D', total, frame, side);
        };
        if self.must_wait(name, side) {
            return Sent::Not(Stop::Later);
        }
        let known = self.names.get(name).cloned();
        let known = known.map(|statement| self.as_read_now(name, statement, side));
        let executed = self.executed_by(known.as_ref(), side);
        if executed.is_some() && self.must_wait_for_all(side) {
            return Sent::Not(Stop::Later);
        }
        let described = known.as_ref().filter(|it| !it.is_lost && !it.executes).map(|it| it.id);
        let known = known.map(|statement| self.resolved(statement, executed, side));
        let sent = self.about(b'D', total, b"S", name, known, side);
        let step = side.ledger.on_client(b'D');
        if let Some(id) = described {
            self.note(side.ledger.batch(), step, Act::Described { name: Some(name.into()), id });
        }
        sent
    }

    fn close(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let Some(&kind) = frame.get(HEADER) else { return self.without_name(b'C', total, frame, side) };
        if kind == b'S' {
            let Some((name, _)) = cstring(&frame[HEADER + 1..]) else {
                return self.without_name(b'C', total, frame, side);
            };
            if self.must_wait(name, side) {
                return Sent::Not(Stop::Later);
            }
            if name.is_empty() {
                let former = self.names.unnamed.take();
                side.has.unnamed = None;
                let step = side.ledger.on_client(b'C');
                self.note(side.ledger.batch(), step, Act::CloseUnnamed { former });
                return Sent::Same;
            } else if total <= KEPT_MAX && self.names.get(name).is_some() {
                if frame.len() < total {
                    return Sent::Not(Stop::Partial);
                }
                let former = self.names.set(name, None);
                let batch = side.ledger.batch();
                if side.ledger.is_amid_copy() {
                    // Its place is the server's to say.
                    put_close(side.patch, b'S', NOTHING);
                    let step = side.ledger.on_client(b'C');
                    self.note(batch, step, Act::Closed { name: name.into(), former });
                    return Sent::Instead(total);
                }
                let step = side.ledger.steps_sent();
                self.note(batch, step, Act::FakeClose { name: name.into(), former });
                return Sent::Instead(total);
            }
        }
        side.ledger.on_client(b'C');
        Sent::Same
    }

    /// A message about a statement: the link gets the statement where it lacks it, and the message
    /// the name that the statement has there. `before` is what stands before the name.
    fn about(
        &mut self,
        tag: u8,
        total: usize,
        before: &[u8],
        name: &[u8],
        known: Option<Rc<Statement>>,
        side: &mut Side<'_>,
    ) -> Sent {
        let Some(statement) = known else {
            if name.is_empty() {
                return self.without_unnamed(side);
            }
            if is_server_name(name) {
                // Nothing has that name: ours end with a number.
                let own = [name, b"?".as_slice()].concat();
                let act = Act::Refused { name: name.into(), own: own.as_slice().into() };
                self.note(side.ledger.batch(), side.ledger.steps_sent() + 1, act);
                return rename(tag, total, before, name, &own, side);
            }
            return Sent::Same;
        };
        if !name.is_empty() {
            self.bring(&statement, side);
            if self.names.has_twins() {
                self.spoken.push(side.ledger.steps_sent() + 1, name, side.ledger.steps_done());
            }
            return self.rename(tag, total, before, name, statement.id, side);
        }
        if statement.is_lost && side.has.unnamed != Some(statement.id) {
            return self.without_unnamed(side);
        }
        self.bring_unnamed(&statement, side);
        Sent::Same
    }

    /// Makes the statement without a name on the link where it has another one.
    pub(super) fn bring_unnamed(&mut self, statement: &Statement, side: &mut Side<'_>) {
        if side.has.unnamed == Some(statement.id) {
            return;
        }
        let step = side.ledger.on_client(b'P');
        self.note(side.ledger.batch(), step, Act::HiddenUnnamed);
        side.has.has_made_unnamed(statement.id);
        statement.put_parse(side.patch, b"", side.has.site);
    }

    /// The link must not have a statement without a name: it is somebody else's.
    fn without_unnamed(&mut self, side: &mut Side<'_>) -> Sent {
        if side.has.unnamed.take().is_none() {
            return Sent::Same;
        }
        let step = side.ledger.on_client(b'C');
        self.note(side.ledger.batch(), step, Act::HiddenUnnamed);
        side.patch.extend(b"C\0\0\0\x06S\0");
        Sent::Instead(0)
    }

    /// Whether what a name means is settled only when the server has answered earlier batches. It will,
    /// without hearing more: their Sync was sent.
    fn must_wait(&mut self, name: &[u8], side: &Side<'_>) -> bool {
        let batch = side.ledger.batch();
        let is_own = name.is_empty() && self.unnamed_in == batch;
        self.waits = !is_own && self.journal.has_before(batch);
        self.waits
    }

    /// The same whatever the name is, and for those in it.
    fn must_wait_for_all(&mut self, side: &Side<'_>) -> bool {
        self.waits = self.journal.has_before(side.ledger.batch());
        self.waits
    }

    /// Makes a statement on the link where it is missing.
    pub(super) fn bring(&mut self, statement: &Rc<Statement>, side: &mut Side<'_>) {
        if side.has.statements.uses(statement.id) || statement.is_lost {
            return;
        }
        self.make_room(statement, side);
        let step = side.ledger.on_client(b'P');
        self.note(side.ledger.batch(), step, Act::HiddenParse { id: statement.id });
        side.has.statements.insert(statement.id, statement.weight());
        statement.put_parse(side.patch, server_name(statement.id, &mut [0; 16]), side.has.site);
    }

    fn make_room(&mut self, statement: &Statement, side: &mut Side<'_>) {
        let most = self.group.max_prepared_statements();
        while let Some((id, weight)) = side.has.statements.make_room(statement.weight(), most) {
            self.hidden_close(id, weight, side);
        }
    }

    pub(super) fn hidden_close(&mut self, id: u32, weight: usize, side: &mut Side<'_>) {
        let step = side.ledger.on_client(b'C');
        self.note(side.ledger.batch(), step, Act::HiddenClose { id, weight });
        put_close(side.patch, b'S', server_name(id, &mut [0; 16]));
    }

    fn rename(
        &self,
        tag: u8,
        total: usize,
        before: &[u8],
        name: &[u8],
        id: u32,
        side: &mut Side<'_>,
    ) -> Sent {
        rename(tag, total, before, name, server_name(id, &mut [0; 16]), side)
    }

    /// A message that names nothing is the server's to refuse, if that can be said of it.
    fn without_name(&self, tag: u8, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        if frame.len() == total {
            side.ledger.on_client(tag);
            return Sent::Same;
        }
        let is_short = frame.len() < total.min(NAMES_MAX);
        Sent::Not(if is_short { Stop::Partial } else { violation(words::ENDLESS_NAME.to_owned()) })
    }

    pub(super) fn note(&mut self, batch: u64, step: u64, act: Act) {
        self.journal.push(batch, step, act);
    }
}

const _: () = assert!(has::UNKNOWN == 0, "statements count from one");
