//! The result that a client was told of: it reads the rows by that, and is told it once.
//!
//! PostgreSQL holds a prepared statement to the result it had at first: when a table has changed, Bind is
//! refused with `0A000`, which drivers know, prepare anew and go on. A link that gets the statement
//! only now would make it with the result of today. So where the client was told, a Describe of ours goes
//! behind the Parse of ours, and the client's Bind waits for the answer: once for each statement and link,
//! since from then on the server watches over it. A Bind with a Describe of its portal behind it does
//! not wait: the client is told again.

use super::Pooled;
use super::ask::{Sent, Side};
use super::has::{self, Has};
use super::journal::Act;
use super::messages::{put_about, rename};
use super::statements::{Statement, server_name};
use crate::base::Site;
use crate::session::replay::FIRST_USER_OID;
use crate::sys::hash;
use crate::wire::frame::{HEADER, cstring};
use crate::wire::message::TransactionStatus;
use crate::wire::report::Report;
use bytes::{BufMut, BytesMut};
use std::rc::Rc;

/// A longer RowDescription is not waited for: it is read as it comes.
pub(super) const DESCRIPTION_MAX: usize = crate::session::walk::KEPT_MAX;
/// No column of a server's takes so much.
const COLUMN_MAX: usize = 8192;

/// The function of the server that refuses a statement whose result has changed.
pub(super) const RESULT_CHANGED: &str = "RevalidateCachedQuery";

/// Columns of a result as PostgreSQL compares them: names, types and modifiers, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    site: Site,
    columns: u32,
    /// The same, but that types which users have made have no numbers: they differ from site to site.
    columns_anywhere: u32,
}

/// What a client knows of the result of a statement.
#[derive(Debug, Clone, Copy, Default)]
pub enum Told {
    /// It has not asked.
    #[default]
    Nothing,
    /// That there is none.
    NoRows,
    /// This.
    Rows(Described),
}

/// Whether a client's Bind may go to a link.
enum Fit {
    /// The statement has the result there that the client knows, or nobody can say what it knows.
    Yes,
    /// It has another one.
    No,
    /// The server has to be asked.
    Unknown,
}

impl Told {
    /// Whether the client knows it otherwise.
    pub fn is_contradicted(self, now: Self) -> bool {
        match (self, now) {
            (Told::Rows(known), Told::Rows(now)) => !known.is_like(now),
            (Told::Rows(_), Told::NoRows) | (Told::NoRows, Told::Rows(_)) => true,
            (Told::Nothing, _) | (_, Told::Nothing) | (Told::NoRows, Told::NoRows) => false,
        }
    }
}

/// A RowDescription, column by column.
#[derive(Debug)]
struct Columns {
    exact: u64,
    anywhere: u64,
    /// What has come of the column that has not come whole.
    rest: Vec<u8>,
    has_begun: bool,
    is_odd: bool,
}

impl Columns {
    fn new(tag: u8) -> Self {
        let begin = hash(&tag);
        Self { exact: begin, anywhere: begin, rest: Vec::new(), has_begun: false, is_odd: false }
    }

    /// More of it has come.
    fn read(&mut self, bytes: &[u8]) {
        if self.is_odd {
            return;
        }
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        if !self.has_begun && self.rest.len() >= 2 {
            // How many there are.
            at = 2;
            self.has_begun = true;
        }
        while self.has_begun
            && let Some((name, behind)) = cstring(&self.rest[at..])
            // Table and column, type, its length, its modifier, the format.
            && let Some(fields) = behind.first_chunk::<18>()
        {
            let kind = u32::from_be_bytes([fields[6], fields[7], fields[8], fields[9]]);
            let kind_anywhere = if kind < FIRST_USER_OID { kind } else { 0 };
            self.exact = hash(&(self.exact, name, kind, &fields[12..16]));
            self.anywhere = hash(&(self.anywhere, name, kind_anywhere, &fields[12..16]));
            at += name.len() + 1 + fields.len();
        }
        self.rest.drain(..at);
        self.is_odd = self.rest.len() > COLUMN_MAX.max(bytes.len());
        if self.is_odd {
            self.rest = Vec::new();
        }
    }

    fn end(&self, site: Site) -> Described {
        Described { site, columns: self.exact as u32, columns_anywhere: self.anywhere as u32 }
    }
}

/// A description that does not come in one piece.
#[derive(Debug)]
pub struct Reading {
    columns: Columns,
    act: Act,
}

impl Described {
    /// By the answer to a Describe at `site`: its type and body.
    pub fn of(tag: u8, body: &[u8], site: Site) -> Self {
        let mut columns = Columns::new(tag);
        columns.read(body);
        columns.end(site)
    }

    /// Whether who was told the one can read the other.
    pub fn is_like(self, other: Self) -> bool {
        match self.site == other.site {
            true => self.columns == other.columns,
            false => self.columns_anywhere == other.columns_anywhere,
        }
    }
}

impl Pooled {
    /// Looks whether a Bind would bring rows that its client reads by another description. `Some` when it
    /// must not go as it is, or not yet.
    pub(super) fn outdated(
        &mut self,
        total: usize,
        (portal, name): (&[u8], &[u8]),
        statement: &Rc<Statement>,
        told: Told,
        side: &mut Side<'_>,
    ) -> Option<Sent> {
        match self.fits(name, statement, told, side) {
            Fit::Yes => None,
            Fit::Unknown => {
                if name.is_empty() {
                    self.bring_unnamed(statement, side);
                    put_about(side.patch, b'D', b'S', b"");
                } else {
                    self.bring(statement, side);
                    put_about(side.patch, b'D', b'S', server_name(statement.id, &mut [0; 16]));
                }
                let step = side.ledger.on_client(b'D');
                let act = Act::HiddenDescribe { name: name.into(), id: statement.id };
                self.note(side.ledger.batch(), step, act);
                side.patch.extend(b"H\0\0\0\x04");
                side.ledger.on_client(b'H');
                self.asked_in = step;
                self.waits = true;
                Some(Sent::Later)
            }
            Fit::No => {
                // Whoever binds it next finds it as it is then: what changed it may be rolled back.
                if name.is_empty() {
                    side.has.has_made_unnamed(has::UNKNOWN);
                } else {
                    side.has.statements.remove(statement.id);
                    self.hidden_close(statement.id, statement.weight(), side);
                }
                // The server refuses a name that nothing has, and skips what comes behind it.
                let mut own = server_name(statement.id, &mut [0; 16]).to_vec();
                own.push(b'?');
                let sent = rename(b'B', total, portal, name, &own, side);
                let step = side.ledger.on_client(b'B');
                self.note(side.ledger.batch(), step, Act::Outdated);
                Some(sent)
            }
        }
    }

    fn fits(&self, name: &[u8], statement: &Statement, told: Told, side: &Side<'_>) -> Fit {
        let Told::Rows(told) = told else { return Fit::Yes };
        let is_refused = side.ledger.status() == TransactionStatus::Failed || side.ledger.has_no_place();
        if self.tells_next || is_refused || statement.is_lost {
            return Fit::Yes;
        }
        match side.has.described(statement.id, name) {
            Some(here) if here.is_like(told) => Fit::Yes,
            Some(_) => Fit::No,
            None => Fit::Unknown,
        }
    }

    /// A portal of the statement was made: who describes it asks for the result of the statement.
    pub(super) fn on_bound(&mut self, portal: &[u8], statement: Option<&Rc<Statement>>, told: Told) {
        let is_news = matches!(told, Told::Nothing);
        self.bound = statement.filter(|_| is_news).map(|it| (portal.into(), it.id));
    }

    /// The client asks for the result of a portal, by message `step`.
    pub(super) fn on_describe_portal(&mut self, portal: &[u8], batch: u64, step: u64) {
        if let Some((_, id)) = self.bound.take_if(|(bound, _)| **bound == *portal) {
            self.note(batch, step, Act::Described { name: None, id });
        }
    }

    /// Message `step` was answered with a description, or with the word that there is none.
    pub(super) fn on_description(
        &mut self,
        step: u64,
        (tag, frame): (u8, &[u8]),
        total: usize,
        has: &mut Has,
    ) {
        let Some(act) = self.journal.describing(step) else { return };
        let act = match act {
            Act::HiddenDescribe { name, id } => Act::HiddenDescribe { name: name.clone(), id: *id },
            Act::Described { name, id } => Act::Described { name: name.clone(), id: *id },
            _ => return,
        };
        let mut columns = Columns::new(tag);
        columns.read(&frame[HEADER..]);
        if frame.len() == total {
            self.describe_link(&act, tag, &columns, has);
        } else {
            self.reading = Some(Box::new(Reading { columns, act }));
        }
    }

    /// More of the server's message has come, or its end.
    pub(super) fn read_description(&mut self, bytes: &[u8], is_end: bool, has: &mut Has) {
        let Some(reading) = &mut self.reading else { return };
        reading.columns.read(bytes);
        if is_end && let Some(reading) = self.reading.take() {
            self.describe_link(&reading.act, b'T', &reading.columns, has);
        }
    }

    /// Whether a description that we have asked for has not come whole.
    pub(super) fn is_reading_description(&self) -> bool {
        self.reading.as_ref().is_some_and(|it| matches!(it.act, Act::HiddenDescribe { .. }))
    }

    fn describe_link(&mut self, act: &Act, tag: u8, columns: &Columns, has: &mut Has) {
        let here = columns.end(has.site);
        let told = if tag == b'T' { Told::Rows(here) } else { Told::NoRows };
        match act {
            Act::HiddenDescribe { name, id } => has.describe(*id, name, here),
            Act::Described { name, id } => {
                match name {
                    Some(name) => has.describe(*id, name, here),
                    None => has.statements.describe(*id, here),
                }
                self.names.tell(name.as_deref(), *id, told);
            }
            _ => {}
        }
    }
}

/// What PostgreSQL says itself where it knows the former result.
pub(super) fn changed_result(report: &Report) -> Report {
    let mut body = BytesMut::new();
    for (kind, value) in report.fields().filter(|(kind, _)| matches!(kind, b'S' | b'V')) {
        body.put_u8(kind);
        body.put_slice(value);
        body.put_u8(0);
    }
    body.put_slice(b"C0A000\0Mcached plan must not change result type\0Fplancache.c\0R");
    body.put_slice(RESULT_CHANGED.as_bytes());
    body.put_slice(b"\0\0");
    Report::new(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::Talk;
    use super::*;
    use crate::session::walk::Stop;
    use crate::wire::frame::{Head, head};

    fn rows(columns: &[(&str, u32, i32, u32)]) -> Vec<u8> {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for (name, kind, modifier, table) in columns {
            body.extend(name.as_bytes());
            body.push(0);
            body.extend(table.to_be_bytes());
            body.extend([0, 1]);
            body.extend(kind.to_be_bytes());
            body.extend([0, 4]);
            body.extend(modifier.to_be_bytes());
            body.extend((*table as u16 % 2).to_be_bytes());
        }
        body
    }

    #[test]
    fn results_differ_by_names_types_and_modifiers() {
        let of = |columns: &[(&str, u32, i32, u32)]| Described::of(b'T', &rows(columns), Site::Local);
        let a = ("a", 23, -1, 16_400);
        let first = of(&[a]);
        // The table and the format do not count.
        assert!(first.is_like(of(&[("a", 23, -1, 16_401)])));
        let others: [&[_]; 5] =
            [&[], &[a, a], &[("b", 23, -1, 16_400)], &[("a", 20, -1, 16_400)], &[("a", 23, 8, 16_400)]];
        for other in others {
            assert!(!first.is_like(of(other)), "{other:?}");
        }
        assert!(!of(&[]).is_like(Described::of(b'n', b"", Site::Local)));
        // Cut off anywhere, it is something.
        let body = rows(&[a, a]);
        for at in 0..body.len() {
            assert!(!of(&[a, a]).is_like(Described::of(0, &body[..at], Site::Local)));
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    fn tags(mut bytes: &[u8]) -> String {
        let mut tags = String::new();
        while let Head::Frame { tag, total } = head(bytes) {
            tags.push(tag as char);
            bytes = &bytes[total..];
        }
        tags
    }

    /// What the client says, and what has gone to the server then; the same of the answers.
    fn says(talk: &mut Talk, bytes: &[u8]) -> (Stop, String) {
        let stop = talk.ask(bytes).stop;
        (stop, tags(&std::mem::take(&mut talk.to_server)))
    }

    fn hears(talk: &mut Talk, bytes: &[u8]) -> String {
        talk.answer(bytes);
        tags(&std::mem::take(&mut talk.to_client))
    }

    /// The server sends so much at once; what is not looked at yet comes again with more.
    fn hear_all(talk: &mut Talk, carry: &mut Vec<u8>, bytes: &[u8]) {
        carry.extend(bytes);
        let read = talk.answer(carry).length;
        carry.drain(..read);
    }

    /// Only what a client was told costs a question, and only one for each link; who says in the same breath that
    /// it wants to be told again, and who never asked, goes on at once.
    #[test]
    fn a_result_is_asked_for_once_on_a_link() {
        let a = ("a", 23, -1, 16_400);
        let (row, rows) = (message(b'T', &rows(&[a])), message(b'T', &rows(&[a, a])));
        let (sync, ready) = (message(b'S', b""), message(b'Z', b"I"));
        let parse = message(b'P', b"s\0select * from t\0\0\0");
        let describe = message(b'D', b"Ss\0");
        let bind = message(b'B', b"\0s\0\0\0\0\0\0\0");
        let of_portal = message(b'D', b"P\0");
        let runs = [&bind[..], &message(b'E', b"\0\0\0\0\0"), &sync].concat();
        let (parsed, bound, closed) = (message(b'1', b""), message(b'2', b""), message(b'3', b""));
        let types = message(b't', b"\0\0");
        let ran = [&bound[..], &message(b'C', b"SELECT 0\0"), &ready].concat();
        let is = |tags: &str| (Stop::End, tags.to_owned());

        // Nothing was told.
        let mut talk = Talk::in_transaction_mode();
        assert_eq!(says(&mut talk, &[&parse[..], &runs].concat()), is("PBES"));
        assert_eq!(hears(&mut talk, &[&parsed[..], &ran].concat()), "12CZ");
        talk.has.statements.clear();
        assert_eq!(says(&mut talk, &runs), is("PBES"));
        assert_eq!(hears(&mut talk, &[&parsed[..], &ran].concat()), "2CZ");
        // It is told, on a link that knows then.
        assert_eq!(says(&mut talk, &[&describe[..], &sync].concat()), is("DS"));
        assert_eq!(hears(&mut talk, &[&types[..], &row, &ready].concat()), "tTZ");
        assert_eq!(says(&mut talk, &runs), is("BES"));
        assert_eq!(hears(&mut talk, &ran), "2CZ");
        // Another link: one question, however it is answered in pieces, and then no more.
        talk.has.statements.clear();
        assert_eq!(says(&mut talk, &runs), (Stop::Later, "PDH".to_owned()));
        assert!(talk.pooled.waits(&talk.ledger).0);
        let told = [&parsed[..], &types, &row].concat();
        let (first, last) = told.split_at(told.len() - 3);
        let passed = talk.answer(first).length;
        assert!(talk.pooled.waits(&talk.ledger).0);
        assert_eq!(hears(&mut talk, &[&first[passed..], last].concat()), "");
        assert_eq!(talk.pooled.waits(&talk.ledger), (false, true));
        assert_eq!(says(&mut talk, &runs), is("BES"));
        assert_eq!(hears(&mut talk, &ran), "2CZ");
        assert_eq!(says(&mut talk, &runs), is("BES"));
        assert_eq!(hears(&mut talk, &ran), "2CZ");
        // Another one, and it wants to be told again.
        talk.has.statements.clear();
        assert_eq!(says(&mut talk, &[&bind[..], &of_portal, &sync].concat()), is("PBDS"));
        assert_eq!(hears(&mut talk, &[&parsed[..], &bound, &rows, &ready].concat()), "2TZ");
        // Another one, where the result is not the same.
        talk.has.statements.clear();
        assert_eq!(says(&mut talk, &runs), (Stop::Later, "PDH".to_owned()));
        assert_eq!(hears(&mut talk, &[&parsed[..], &types, &rows].concat()), "");
        assert_eq!(talk.pooled.waits(&talk.ledger), (false, true));
        assert_eq!(says(&mut talk, &runs), is("CBES"));
        let refused = message(b'E', b"SERROR\0VERROR\0C26000\0Mno\0RFetchPreparedStatement\0\0");
        talk.answer(&[&closed[..], &refused, &ready].concat());
        let heard = std::mem::take(&mut talk.to_client);
        assert_eq!(tags(&heard), "EZ");
        let words = heard.escape_ascii().to_string();
        assert!(words.contains("C0A000") && words.contains(RESULT_CHANGED), "{words}");
    }

    /// However long a description is, it is compared, and none of ours reaches the client.
    #[test]
    fn a_description_that_comes_in_pieces_is_read_as_it_comes() {
        let a = ("a", 23, -1, 16_400);
        let many = |last: u32| {
            let mut columns = vec![a; 4000];
            columns.push(("b", last, -1, 16_400));
            message(b'T', &rows(&columns))
        };
        assert!(many(23).len() > 2 * DESCRIPTION_MAX);
        let (sync, ready) = (message(b'S', b""), message(b'Z', b"I"));
        let parse = message(b'P', b"s\0select * from t\0\0\0");
        let describe = message(b'D', b"Ss\0");
        let runs = [message(b'B', b"\0s\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), sync.clone()].concat();
        let (parsed, types) = (message(b'1', b""), message(b't', b"\0\0"));
        for piece in [1000, 20_000, 50_000] {
            for (last, sent) in [(23, "BES"), (25, "CBES")] {
                let (mut talk, mut carry) = (Talk::in_transaction_mode(), Vec::new());
                says(&mut talk, &[&parse[..], &describe, &sync].concat());
                for part in [&parsed[..], &types, &many(23), &ready].concat().chunks(piece) {
                    hear_all(&mut talk, &mut carry, part);
                }
                assert_eq!(tags(&std::mem::take(&mut talk.to_client)), "1tTZ");
                talk.has.statements.clear();
                assert_eq!(says(&mut talk, &runs), (Stop::Later, "PDH".to_owned()));
                let answers = [&parsed[..], &types, &many(last)].concat();
                for part in answers[..answers.len() - 1].chunks(piece) {
                    hear_all(&mut talk, &mut carry, part);
                    assert!(talk.pooled.waits(&talk.ledger).0);
                }
                hear_all(&mut talk, &mut carry, &answers[answers.len() - 1..]);
                assert!(talk.to_client.is_empty());
                assert_eq!(talk.pooled.waits(&talk.ledger), (false, true));
                assert_eq!(says(&mut talk, &runs), (Stop::End, sent.to_owned()), "{last} by {piece}");
            }
        }
        // Nothing is kept of what is no column.
        let mut columns = Columns::new(b'T');
        (0..100).for_each(|_| columns.read(&[b'x'; 1000]));
        assert!(columns.is_odd && columns.rest.is_empty());
    }

    #[test]
    fn types_of_users_have_other_numbers_elsewhere() {
        let of = |kind, site| Described::of(b'T', &rows(&[("a", kind, -1, 1)]), site);
        assert!(of(16_500, Site::Local).is_like(of(16_700, Site::Cloud)));
        assert!(!of(16_500, Site::Local).is_like(of(16_700, Site::Local)));
        assert!(!of(16_500, Site::Local).is_like(of(23, Site::Cloud)));
        assert!(of(23, Site::Local).is_like(of(23, Site::Cloud)));
    }
}
