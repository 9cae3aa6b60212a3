//! What the answers of a server do not show as they are: answers to messages that the client has
//! not sent are hidden, answers to messages that were not passed on are made up at their place.
//!
//! Entries stand in the order of the client's messages. Each knows the extended message it belongs
//! to, by the ledger's numbers, and the batch, so that an error can take back what was skipped.

use super::statements::Statement;
use crate::session::ledger::Ledger;
use std::collections::VecDeque;
use std::rc::Rc;

/// What is to be done with an answer, or instead of one.
#[derive(Debug)]
pub enum Act {
    /// The client's own Parse of statement `id`: its answer passes. The name had another meaning before;
    /// the link has the statement `on_link` because of it.
    Parse { name: Box<[u8]>, id: u32, former: Option<Rc<Statement>>, on_link: Option<u32> },
    /// A message of the client's that the server refuses, in words that should have the client's name.
    Refused { name: Box<[u8]>, own: Box<[u8]> },
    /// A Bind of the client's that the server refuses: the result is not the one that the client knows.
    Outdated,
    /// A Describe of the client's of statement `id`, under the name or of a portal.
    Described { name: Option<Box<[u8]>>, id: u32 },
    /// A Describe of ours of what the client means by the name: hidden.
    HiddenDescribe { name: Box<[u8]>, id: u32 },
    /// A Parse of ours: hidden.
    HiddenParse { id: u32 },
    /// A message of ours whose effect nobody keeps account of: hidden.
    Hidden,
    /// Ours, and discards the last values of sequences: hidden.
    HiddenDiscard,
    /// A Parse or Close of ours of the statement without a name: hidden.
    HiddenUnnamed,
    /// A Close of ours, to make room: hidden.
    HiddenClose { id: u32, weight: usize },
    /// ParseComplete for a Parse that was not passed on.
    FakeParse { name: Box<[u8]>, former: Option<Rc<Statement>> },
    /// A simple query behind messages of a batch, which drops the statement without a name unless it is
    /// skipped with them.
    Query { former: Option<Rc<Statement>> },
    /// The client's own Close of the statement without a name: its answer passes.
    CloseUnnamed { former: Option<Rc<Statement>> },
    /// A Close of nothing, instead of the client's: its answer passes.
    Closed { name: Box<[u8]>, former: Option<Rc<Statement>> },
    /// CloseComplete for a Close that was not passed on.
    FakeClose { name: Box<[u8]>, former: Option<Rc<Statement>> },
}

/// One entry.
#[derive(Debug)]
pub struct Entry {
    batch: u64,
    /// The message it belongs to; for a made-up answer the one that it follows.
    step: u64,
    /// Simple queries that were sent before it.
    statements: u64,
    /// What.
    pub act: Act,
}

/// How far the server has come, by the ledger's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Extended messages.
    pub steps: u64,
    /// Batches.
    pub batches: u64,
    /// Simple queries.
    pub statements: u64,
}

impl From<&Ledger> for Done {
    fn from(ledger: &Ledger) -> Self {
        Done {
            steps: ledger.steps_done(),
            batches: ledger.batches_done(),
            statements: ledger.statements_done(),
        }
    }
}

impl Entry {
    fn is_behind(&self, done: Done) -> bool {
        self.step <= done.steps && self.batch <= done.batches && self.statements <= done.statements
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    /// Simple queries that were sent.
    statements: u64,
}

/// What becomes of the answer to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It passes.
    Yes,
    /// The client must not see it.
    No,
}

impl Journal {
    /// Whether every answer passes as it is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Simple query number `n` was sent.
    pub fn on_statement(&mut self, n: u64) {
        self.statements = n;
    }

    /// Adds an entry.
    pub fn push(&mut self, batch: u64, step: u64, act: Act) {
        let statements = match act {
            // It is told of when it is sent itself, and must not wait for its own end: none comes behind it.
            Act::Query { .. } => self.statements.saturating_sub(1),
            _ => self.statements,
        };
        self.entries.push_back(Entry { batch, step, statements, act });
    }

    /// Adds to `out` the made-up answers that stand before the next answer, so many messages and
    /// batches having been answered.
    pub fn put_due(&mut self, done: Done, out: &mut Vec<u8>) {
        while let Some(entry) = self.entries.front()
            && entry.is_behind(done)
        {
            match entry.act {
                Act::FakeParse { .. } => out.extend(b"1\0\0\0\x04"),
                Act::FakeClose { .. } => out.extend(b"3\0\0\0\x04"),
                Act::Query { .. } => {}
                _ => return,
            }
            self.entries.pop_front();
        }
    }

    /// Whether some of them are due.
    pub fn is_due(&self, done: Done) -> bool {
        self.entries.front().is_some_and(|entry| {
            matches!(entry.act, Act::FakeParse { .. } | Act::FakeClose { .. }) && entry.is_behind(done)
        })
    }

    /// Message `step` was answered with success.
    pub fn on_step(&mut self, step: u64) -> Shown {
        let Some(front) = self.entries.front() else { return Shown::Yes };
        if front.step != step {
            return Shown::Yes;
        }
        let shown = match front.act {
            Act::Parse { .. }
            | Act::CloseUnnamed { .. }
            | Act::Closed { .. }
            | Act::Refused { .. }
            | Act::Outdated
            | Act::Described { .. } => Shown::Yes,
            Act::Hidden
            | Act::HiddenDescribe { .. }
            | Act::HiddenDiscard
            | Act::HiddenParse { .. }
            | Act::HiddenUnnamed
            | Act::HiddenClose { .. } => Shown::No,
            Act::FakeParse { .. } | Act::FakeClose { .. } | Act::Query { .. } => return Shown::Yes,
        };
        self.entries.pop_front();
        shown
    }

    /// What asks for a description by message `step`, if that is the next one.
    pub fn describing(&self, step: u64) -> Option<&Act> {
        let front = self.entries.front().filter(|entry| entry.step == step)?;
        matches!(front.act, Act::Described { .. } | Act::HiddenDescribe { .. }).then_some(&front.act)
    }

    /// Whether message `step` is a Bind that is refused for its result.
    pub fn is_outdated(&self, step: u64) -> bool {
        self.entries.front().is_some_and(|entry| entry.step == step && matches!(entry.act, Act::Outdated))
    }

    /// The name that an error about message `step` should have, and the one that it has.
    pub fn name_for_error(&self, step: u64) -> Option<(&[u8], &[u8])> {
        match self.entries.front() {
            Some(Entry { step: at, act: Act::Refused { name, own }, .. }) if *at == step => Some((name, own)),
            _ => None,
        }
    }

    /// Whether something of a batch before `batch` is not settled.
    pub fn has_before(&self, batch: u64) -> bool {
        self.entries.front().is_some_and(|entry| entry.batch < batch)
    }

    /// Takes out what `batch` will not do any more, the last thing first, with the message it belongs
    /// to: to be taken back.
    pub fn failed(&mut self, batch: u64) -> Option<(u64, Act)> {
        let count = self.entries.iter().take_while(|entry| entry.batch <= batch).count();
        let last = count.checked_sub(1)?;
        self.entries.remove(last).map(|entry| (entry.step, entry.act))
    }

    /// What the statement without a name was before it was first changed behind `batch`, if it was.
    pub fn unnamed_behind(&mut self, batch: u64) -> Option<&mut Option<Rc<Statement>>> {
        self.entries.iter_mut().filter(|entry| entry.batch > batch).find_map(|entry| match &mut entry.act {
            Act::Parse { name, former, .. } if name.is_empty() => Some(former),
            Act::Query { former } | Act::CloseUnnamed { former } => Some(former),
            _ => None,
        })
    }

    /// The client's name for statement `id`, of those that it has taken away and the server has not yet.
    pub fn former_name_of(&self, id: u32) -> Option<&[u8]> {
        self.entries.iter().find_map(|entry| match &entry.act {
            Act::Parse { name, former, .. }
            | Act::FakeParse { name, former }
            | Act::Closed { name, former }
            | Act::FakeClose { name, former }
                if former.as_ref().is_some_and(|former| former.id == id) =>
            {
                Some(&name[..])
            }
            _ => None,
        })
    }

    /// The same for everything: the link is gone.
    pub fn lost(&mut self) -> Option<Act> {
        let last = self.entries.pop_back().map(|entry| entry.act);
        if self.entries.is_empty() {
            *self = Self::default();
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(steps: u64) -> Done {
        Done { steps, batches: 0, statements: 0 }
    }

    fn fake() -> Act {
        Act::FakeParse { name: b"s".as_slice().into(), former: None }
    }

    #[test]
    fn made_up_answers_stand_where_the_message_stood() {
        let mut journal = Journal::default();
        // Parse (not passed on), Bind 1, Parse (not passed on), Execute 2.
        journal.push(0, 0, fake());
        journal.push(0, 1, fake());
        let mut out = Vec::new();
        journal.put_due(done(0), &mut out);
        assert_eq!(out, b"1\0\0\0\x04");
        assert!(!journal.is_due(done(0)));
        assert_eq!(journal.on_step(1), Shown::Yes);
        assert!(journal.is_due(done(1)));
        journal.put_due(done(1), &mut out);
        assert_eq!(out.len(), 10);
        assert!(journal.is_empty());
    }

    #[test]
    fn made_up_answers_stand_behind_those_of_simple_queries() {
        let mut journal = Journal::default();
        journal.on_statement(1);
        journal.push(0, 0, fake());
        assert!(!journal.is_due(done(0)));
        assert!(journal.is_due(Done { statements: 1, ..done(0) }));
    }

    #[test]
    fn answers_to_messages_of_ours_are_hidden() {
        let mut journal = Journal::default();
        journal.push(0, 1, Act::HiddenClose { id: 3, weight: 1 });
        journal.push(0, 2, Act::HiddenParse { id: 4 });
        journal.push(0, 3, fake());
        assert_eq!(journal.on_step(1), Shown::No);
        assert_eq!(journal.on_step(2), Shown::No);
        assert_eq!(journal.on_step(3), Shown::Yes);
        assert!(journal.is_due(done(3)));
        journal.push(1, 3, fake());
        journal.put_due(done(3), &mut Vec::new());
        // Of the next batch: not before the end of this one.
        assert!(!journal.is_due(done(3)));
        assert!(journal.is_due(Done { batches: 1, ..done(3) }));
    }

    #[test]
    fn a_simple_query_is_through_with_its_first_answer() {
        let mut journal = Journal::default();
        journal.on_statement(1);
        journal.push(0, 2, Act::Query { former: None });
        journal.put_due(done(1), &mut Vec::new());
        assert!(!journal.is_empty(), "what was sent before it is not answered");
        // The server's next answer is the query's own, and no other has to come behind its end.
        journal.put_due(done(2), &mut Vec::new());
        assert!(journal.is_empty());
    }

    #[test]
    fn an_error_takes_back_its_own_batch_the_last_first() {
        let mut journal = Journal::default();
        journal.push(0, 1, Act::HiddenParse { id: 1 });
        journal.push(0, 2, Act::HiddenParse { id: 2 });
        journal.push(1, 2, fake());
        assert!(matches!(journal.failed(0), Some((2, Act::HiddenParse { id: 2 }))));
        assert!(matches!(journal.failed(0), Some((1, Act::HiddenParse { id: 1 }))));
        assert!(journal.failed(0).is_none());
        assert!(!journal.is_empty());
        assert!(matches!(journal.lost(), Some(Act::FakeParse { .. })));
    }
}
