//! EXECUTE of what the client has prepared by the protocol, also in EXPLAIN and CREATE TABLE AS: on the servers
//! it has another name, and where it is missing it has to be made before.
//!
//! In a statement of the protocol the name is replaced when it is bound or described: it means then what it
//! means then. In a query it has to be made before the query is sent.
//! Behind a Parse that fails the server would skip the query, and what comes behind it: so the Parse goes
//! with a Sync of its own, once everything else was answered. If it fails, the query goes on under the name
//! that it has, and the server says that there is no such statement.

use super::Pooled;
use super::ask::Side;
use super::has::Has;
use super::prepare::Progress;
use super::statements::{Statement, server_name};
use crate::session::ledger::Ledger;
use crate::session::walk::ends_the_session;
use crate::sql::lex::{Lexer, Token, is_space};
use crate::wire::frame::{HEADER, Head, head};
use crate::wire::message::TransactionStatus;
use crate::wire::report::Report;
use bytes::Bytes;
use std::ops::Range;
use std::rc::Rc;

/// A statement on its way to a link.
#[derive(Debug, Default)]
pub enum Bringing {
    /// None is.
    #[default]
    Nothing,
    /// It is to be sent once nothing is owed.
    Wanted(Rc<Statement>),
    /// It was sent.
    Sent(u32),
    /// The server has refused it.
    Refused(u32),
}

/// What a query executes by a name of the client's.
#[derive(Debug)]
pub struct Executed {
    /// Where the name stands in the text.
    pub name: Range<usize>,
    /// What it means.
    pub statement: Rc<Statement>,
}

impl Pooled {
    /// What the text executes, if the client has prepared it by the protocol.
    pub(super) fn executed(&mut self, text: &[u8], side: &mut Side<'_>) -> Option<Executed> {
        if !self.names.has_named() || !may_execute(text) {
            return None;
        }
        let (name, meant) = executed(text)?;
        let statement = self.names.get(&meant).filter(|_| !meant.is_empty())?.clone();
        Some(Executed { name, statement: self.as_read_now(&meant, statement, side) })
    }

    /// What a statement of the protocol executes by its name.
    pub(super) fn executed_by(
        &mut self,
        statement: Option<&Rc<Statement>>,
        side: &mut Side<'_>,
    ) -> Option<Executed> {
        statement.filter(|it| it.executes).and_then(|it| self.executed(it.text(), side))
    }

    /// What such a statement is on the link, where the name is another one and what it means is made.
    pub(super) fn resolved(
        &mut self,
        statement: Rc<Statement>,
        executed: Option<Executed>,
        side: &mut Side<'_>,
    ) -> Rc<Statement> {
        let Some(Executed { name, statement: meant }) = executed else { return statement };
        self.bring(&meant, side);
        if !side.has.statements.uses(meant.id) {
            return statement;
        }
        let (text, behind) = statement.text_and_types();
        let mut room = [0; 16];
        let body =
            [&text[..name.start], server_name(meant.id, &mut room), &text[name.end..], behind].concat();
        Statement::of(&body, side.has.site, self.reading(side))
    }

    /// Whether the query has to wait until the link has the statement.
    pub(super) fn brings_first(&mut self, executed: &Executed, ledger: &Ledger, has: &mut Has) -> bool {
        let id = executed.statement.id;
        let is_hopeless = executed.statement.is_lost
            || matches!(self.bringing, Bringing::Refused(refused) if refused == id)
            || ledger.is_in_batch()
            || ledger.has_no_place()
            || ledger.status() == TransactionStatus::Failed;
        if is_hopeless || has.statements.uses(id) {
            self.bringing = Bringing::Nothing;
            return false;
        }
        self.bringing = Bringing::Wanted(executed.statement.clone());
        self.waits = true;
        true
    }

    /// Whether the query still has to wait for its turn. Behind a COPY that reads it has none.
    pub(super) fn waits_to_bring(&self, ledger: &Ledger) -> bool {
        matches!(self.bringing, Bringing::Wanted(_)) && !ledger.is_settled() && !ledger.has_no_place()
    }

    /// What makes the statement on the link.
    pub fn bring_now(&mut self, ledger: &Ledger, has: &mut Has) -> Option<Vec<u8>> {
        let Bringing::Wanted(statement) = std::mem::take(&mut self.bringing) else { return None };
        if !ledger.is_settled() {
            return None;
        }
        let mut bytes = Vec::new();
        let most = self.group.max_prepared_statements();
        while let Some((id, _)) = has.statements.make_room(statement.weight(), most) {
            super::messages::put_close(&mut bytes, b'S', server_name(id, &mut [0; 16]));
        }
        statement.put_parse(&mut bytes, server_name(statement.id, &mut [0; 16]), has.site);
        bytes.extend(b"S\0\0\0\x04");
        has.statements.insert(statement.id, statement.weight());
        self.bringing = Bringing::Sent(statement.id);
        Some(bytes)
    }

    /// Reads what the server says to it; says how many of the bytes were read. Notifications are put into
    /// `news`.
    pub(super) fn read_brought(
        &mut self,
        bytes: &[u8],
        has: &mut Has,
        news: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let Bringing::Sent(id) = self.bringing else { return (0, Progress::Brought) };
        let (mut at, mut is_refused) = (0, !has.statements.uses(id));
        loop {
            let (tag, total) = match head(&bytes[at..]) {
                Head::Frame { tag, total } => (tag, total),
                Head::Partial => return (at, Progress::Unfinished),
                Head::Bad { .. } => return (at, Progress::Violation),
            };
            let Some(frame) = bytes.get(at..at + total) else { return (at, Progress::Unfinished) };
            at += total;
            match tag {
                b'A' => news.extend_from_slice(frame),
                b'E' => {
                    let report = Report::new(Bytes::copy_from_slice(&frame[HEADER..]));
                    if ends_the_session(&report) {
                        return (at, Progress::Ended(report));
                    }
                    has.statements.remove(id);
                    is_refused = true;
                }
                b'Z' => {
                    self.bringing = if is_refused { Bringing::Refused(id) } else { Bringing::Nothing };
                    return (at, Progress::Brought);
                }
                _ => {}
            }
        }
    }
}

/// Looks at the first letters only.
fn may_execute(text: &[u8]) -> bool {
    let mut first = text.iter().copied().skip_while(|byte| is_space(*byte));
    match first.next() {
        Some(b'e' | b'E') => matches!(first.next(), Some(b'x' | b'X')),
        Some(b'c' | b'C') => matches!(first.next(), Some(b'r' | b'R')),
        Some(b'/' | b'-') => true,
        _ => false,
    }
}

/// Whether a text executes something by its name.
pub(super) fn is_execution(text: &[u8]) -> bool {
    may_execute(text) && executed(text).is_some()
}

/// Finds EXECUTE at the beginning, behind EXPLAIN and its options, or as what a table is made of.
fn skip_to_execute(lexer: &mut Lexer<'_>) -> Option<()> {
    let first = lexer.next_token().ok()??;
    if first.is_word("EXECUTE") {
        return Some(());
    }
    if first.is_word("EXPLAIN") {
        let mut depth = 0;
        loop {
            let token = lexer.next_token().ok()??;
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') => depth -= 1,
                _ if depth > 0 || token.is_word("ANALYZE") || token.is_word("VERBOSE") => {}
                _ => return token.is_word("EXECUTE").then_some(()),
            }
        }
    }
    if !first.is_word("CREATE") {
        return None;
    }
    let mut is_table = false;
    let mut last_is_as = false;
    loop {
        let token = lexer.next_token().ok()??;
        is_table |= token.is_word("TABLE");
        match token {
            Token::Symbol(b';') => return None,
            _ if is_table && last_is_as && token.is_word("EXECUTE") => return Some(()),
            _ => last_is_as = token.is_word("AS"),
        }
    }
}

/// Where the name behind EXECUTE stands, and what it means.
fn executed(text: &[u8]) -> Option<(Range<usize>, Vec<u8>)> {
    let mut lexer = Lexer::new(text);
    skip_to_execute(&mut lexer)?;
    lexer.skip_blank().ok()?;
    let start = lexer.position();
    let name = match lexer.next_token().ok()?? {
        Token::Word(word) => word.to_ascii_lowercase(),
        Token::Quoted(name) => String::from_utf8_lossy(name).replace("\"\"", "\"").into_bytes(),
        Token::Text(_) | Token::Number(_) | Token::Symbol(_) => return None,
    };
    Some((start..lexer.position(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_behind_execute_is_found() {
        for (text, expected) in [
            ("execute s", Some(("s", "s"))),
            ("/* a */ EXECUTE  Stmt(1, 'x'); select 1", Some(("Stmt", "stmt"))),
            ("Execute \"S \"\"1\"(2)", Some(("\"S \"\"1\"", "S \"1"))),
            ("explain execute s", Some(("s", "s"))),
            ("EXPLAIN (analyze, costs off, format (x)) Execute s(1)", Some(("s", "s"))),
            ("explain analyze verbose execute \"s\"", Some(("\"s\"", "s"))),
            ("create temp table t (a) with (fillfactor = 70) as execute s", Some(("s", "s"))),
            ("create table t as select 1", None),
            ("create view v as execute s", None),
            ("create trigger t after insert on x execute function f()", None),
            ("create table t (a int); execute s", None),
            ("explain select 1", None),
            ("explain )", None),
            ("explain (", None),
            ("execute 's'", None),
            ("execute", None),
            ("select 1", None),
        ] {
            let found = executed(text.as_bytes()).filter(|_| may_execute(text.as_bytes()));
            let found = found.map(|(at, name)| (&text[at], String::from_utf8(name).unwrap()));
            assert_eq!(found, expected.map(|(at, name)| (at, name.to_owned())), "{text}");
        }
    }
}
