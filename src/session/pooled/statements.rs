//! Prepared statements, one object for each text, parameter types and way to read them ([`super::reading`]) that the clients of a data
//! thread use: clients map their names to it, links know it by its number.
//!
//! The names on the servers are ours (`cm_<number>`), so that two clients may use one name for
//! different statements, and different names for one statement.

use super::super::memory::Change;
use super::super::notice::{Notice, change_of, notice};
use super::super::replay::{forget_user_types, has_user_types};
use super::execute::is_execution;
use super::reading::reads_clock;
use crate::base::Site;
use crate::observe::pooler::PreparedStatement;
use crate::sql::footprint::{Footprint, footprint};
use crate::sys::{Map, hash};
use crate::wire::frame::{HEADER, cstring};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;

/// Bytes of statements that are kept though no client has them, before they are looked through.
const KEPT_BYTES: usize = 16 << 20;
/// So much is kept of a text that is too long.
const BEGINNING: usize = 1024;

thread_local! {
    static STATEMENTS: RefCell<Statements> = RefCell::default();
}

/// What is common to all who prepare the same text with the same types.
#[derive(Debug)]
pub struct Statement {
    /// Never used for another one on this thread.
    pub id: u32,
    /// The body of its Parse message behind the name: text, zero, types.
    body: Box<[u8]>,
    /// What executing it may leave behind.
    pub footprint: Footprint,
    /// What executing it changes.
    pub change: Option<Change>,
    /// It executes another one by its name.
    pub executes: bool,
    /// Its text was too long to be kept: it cannot be made on another link.
    pub is_lost: bool,
    /// Somebody has executed it, or meant to.
    pub was_bound: Cell<bool>,
    is_retired: Cell<bool>,
    /// How its text is read; nobody else gets it where that is not known.
    pub reading: Option<u64>,
    /// Where its parameters' types have these numbers; they have others elsewhere.
    made_at: Option<Site>,
}

#[derive(Debug, Default)]
struct Statements {
    by_hash: Map<u64, Vec<Rc<Statement>>>,
    bytes: usize,
    look_at: usize,
    last: u32,
}

impl Statement {
    /// The one for the body of a Parse message behind its name, which a client has sent to a server at `site`, for
    /// all who read it alike.
    pub fn of(body: &[u8], site: Site, reading: Option<u64>) -> Rc<Statement> {
        let made_at = has_user_types(body).then_some(site);
        STATEMENTS.with_borrow_mut(|all| all.intern(body, made_at, reading))
    }

    /// The same for those who read it otherwise, with the types of parameters that a client was told, if it was
    /// and they are the same everywhere: it goes on to send these.
    pub fn read_anew(&self, reading: Option<u64>, types: &[u8]) -> Rc<Statement> {
        let told = [self.text(), b"\0", types].concat();
        let is_told = !types.is_empty() && !has_user_types(&told);
        let (body, made_at) = if is_told { (&told[..], None) } else { (&*self.body, self.made_at) };
        STATEMENTS.with_borrow_mut(|all| all.intern(body, made_at, reading))
    }

    /// One of whose text only the beginning is kept.
    pub fn lost(text: &[u8]) -> Rc<Statement> {
        let body = [text.get(..BEGINNING).unwrap_or(text), b"\0\0\0"].concat();
        let footprint = footprint(text) | Footprint::SUSPECT | Footprint::MAY_ASK;
        let lost = |all: &mut Statements| Statement {
            is_lost: true,
            executes: false,
            footprint,
            change: None,
            ..all.make(&body)
        };
        Rc::new(STATEMENTS.with_borrow_mut(lost))
    }

    /// DEALLOCATE of a statement that has another name on the server: there [`DROPPED`] goes instead.
    pub fn deallocating(change: Change) -> Rc<Statement> {
        let make = |all: &mut Statements| {
            let body = [DEALLOCATE, b"\0\0\0"].concat();
            Statement { change: Some(change), ..all.make(&body) }
        };
        Rc::new(STATEMENTS.with_borrow_mut(make))
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        cstring(&self.body).map_or(&self.body, |(text, _)| text)
    }

    /// The text, and what follows it in a Parse message.
    pub fn text_and_types(&self) -> (&[u8], &[u8]) {
        self.body.split_at(self.text().len())
    }

    /// How much a link keeps for it, about.
    pub fn weight(&self) -> usize {
        self.body.len()
    }

    /// From now on the same text is another statement: servers hold this one to what it was.
    pub fn retire(&self) {
        self.is_retired.set(true);
    }

    /// Adds the Parse message that makes it on a server at `site`, under `name`.
    pub fn put_parse(&self, out: &mut Vec<u8>, name: &[u8], site: Site) {
        let start = out.len();
        let length = HEADER - 1 + name.len() + 1 + self.body.len();
        out.push(b'P');
        out.extend((length as u32).to_be_bytes());
        out.extend(name);
        out.push(0);
        out.extend(&*self.body);
        if self.made_at.is_some_and(|made_at| made_at != site) {
            forget_user_types(&mut out[start..]);
        }
    }
}

/// No statement has this name: all of ours end with a number.
pub const NOTHING: &[u8] = b"cm_?";

/// A statement that is made to be deallocated: no number is 0.
pub const DROPPED: &[u8] = b"cm_0";
/// What deallocates it.
const DEALLOCATE: &[u8] = b"DEALLOCATE cm_0";
/// A simple query that does both, whose first answer is ours.
pub const PREPARE_AND_DEALLOCATE: &[u8] = b"PREPARE cm_0 AS SELECT 1; DEALLOCATE cm_0\0";

/// What this thread keeps, for the console.
pub fn kept() -> Vec<PreparedStatement> {
    let shown = |statement: &Rc<Statement>| PreparedStatement {
        name: String::from_utf8_lossy(server_name(statement.id, &mut [0; 16])).into_owned(),
        text: String::from_utf8_lossy(statement.text()).into_owned(),
        // One is the list's.
        used_by: Rc::strong_count(statement) - 1,
        bytes: statement.weight(),
    };
    let mut kept: Vec<_> = STATEMENTS.with_borrow(|all| all.by_hash.values().flatten().map(shown).collect());
    kept.sort_by(|a, b| a.name.len().cmp(&b.name.len()).then_with(|| a.name.cmp(&b.name)));
    kept
}

/// Numbers begin anew.
#[cfg(any(test, fuzzing))]
pub fn forget_all() {
    STATEMENTS.with_borrow_mut(|all| *all = Statements::default());
}

/// The name of a statement on a server, in `room`.
pub fn server_name(id: u32, room: &mut [u8; 16]) -> &[u8] {
    let mut rest = &mut room[..];
    // Ten digits and the prefix fit.
    let _ = write!(rest, "cm_{id}");
    let left = rest.len();
    &room[..16 - left]
}

/// Whether a name looks like one of ours: a client's own name must not mean another's statement.
pub fn is_server_name(name: &[u8]) -> bool {
    name.starts_with(b"cm_")
}

impl Statements {
    fn intern(&mut self, body: &[u8], made_at: Option<Site>, reading: Option<u64>) -> Rc<Statement> {
        if reading.is_none() {
            return Rc::new(Statement { made_at, ..self.make(body) });
        }
        let key = hash(body);
        let is_same = |known: &&Rc<Statement>| {
            let is_alike = known.made_at == made_at && known.reading == reading;
            is_alike && *known.body == *body && !known.is_retired.get()
        };
        if let Some(found) = self.by_hash.get(&key)
            && let Some(known) = found.iter().find(is_same)
        {
            return known.clone();
        }
        if self.bytes + body.len() > self.look_at.max(KEPT_BYTES) {
            self.forget_unused();
        }
        let made = self.make(body);
        if reads_clock(made.text()) {
            return Rc::new(Statement { made_at, ..made });
        }
        let made = Rc::new(Statement { made_at, reading, ..made });
        self.bytes += body.len();
        self.by_hash.entry(key).or_default().push(made.clone());
        made
    }

    fn make(&mut self, body: &[u8]) -> Statement {
        self.last = self.last.wrapping_add(1);
        let text = cstring(body).map_or(body, |(text, _)| text);
        let change = if notice(text) == Notice::Changing { change_of(text) } else { None };
        Statement {
            id: self.last,
            body: body.into(),
            footprint: footprint(text),
            change,
            executes: is_execution(text),
            is_lost: false,
            was_bound: Cell::new(false),
            is_retired: Cell::new(false),
            reading: None,
            made_at: None,
        }
    }

    fn forget_unused(&mut self) {
        self.by_hash.retain(|_, same| {
            same.retain(|it| Rc::strong_count(it) > 1 && !it.is_retired.get());
            !same.is_empty()
        });
        self.bytes = self.by_hash.values().flatten().map(|it| it.body.len()).sum();
        // Looked through again only when as much has come anew: the cost stays small for each.
        self.look_at = 2 * self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_one_statement_until_it_is_retired() {
        let of = |body: &[u8]| Statement::of(body, Site::Local, Some(1));
        let one = of(b"select 1\0\0\0");
        assert!(Rc::ptr_eq(&one, &of(b"select 1\0\0\0")));
        assert!(Rc::ptr_eq(&one, &Statement::of(b"select 1\0\0\0", Site::Cloud, Some(1))));
        assert!(!Rc::ptr_eq(&one, &of(b"select 1\0\0\x01\0\0\0\x17")));
        one.retire();
        let next = of(b"select 1\0\0\0");
        assert_ne!(one.id, next.id);
        assert_eq!(next.text(), b"select 1");
        let mut out = Vec::new();
        next.put_parse(&mut out, b"cm_9", Site::Local);
        assert_eq!(out, b"P\0\0\0\x14cm_9\0select 1\0\0\0");
    }

    #[test]
    fn who_reads_a_text_otherwise_has_another_statement() {
        let of =
            |text: &str, reading| Statement::of(&[text.as_bytes(), b"\0\0\0"].concat(), Site::Local, reading);
        let one = of("select timestamptz '2020-01-01'", Some(1));
        assert!(Rc::ptr_eq(&one, &one.read_anew(Some(1), b"")));
        let other = one.read_anew(Some(2), b"");
        assert_ne!(one.id, other.id);
        assert!(Rc::ptr_eq(&other, &of("select timestamptz '2020-01-01'", Some(2))));
        let told = one.read_anew(Some(2), b"\0\x01\0\0\0\x17");
        assert_eq!(told.text_and_types(), (other.text(), &b"\0\0\x01\0\0\0\x17"[..]));
        assert!(Rc::ptr_eq(&other, &one.read_anew(Some(2), b"\0\x01\0\0\x40\0")));
        // Nobody has what cannot be known, or is another one tomorrow.
        for (text, reading) in [("select 1", None), ("select date 'today'", Some(1))] {
            let one = of(text, reading);
            assert_eq!(one.reading, None);
            assert_ne!(one.id, of(text, reading).id, "{text}");
        }
    }

    #[test]
    fn types_of_users_have_numbers_at_one_site_only() {
        let body = b"select $1, $2\0\0\x02\0\0\0\x17\0\0\x40\x10";
        let local = Statement::of(body, Site::Local, Some(1));
        assert!(Rc::ptr_eq(&local, &Statement::of(body, Site::Local, Some(1))));
        assert!(!Rc::ptr_eq(&local, &Statement::of(body, Site::Cloud, Some(1))));
        let types = |site| {
            let mut out = b"before".to_vec();
            local.put_parse(&mut out, b"s", site);
            out[out.len() - 8..].to_vec()
        };
        assert_eq!(types(Site::Local), b"\0\0\0\x17\0\0\x40\x10");
        assert_eq!(types(Site::Cloud), b"\0\0\0\x17\0\0\0\0");
    }

    #[test]
    fn names_on_servers_are_ours() {
        assert_eq!(server_name(7, &mut [0; 16]), b"cm_7");
        assert_eq!(server_name(u32::MAX, &mut [0; 16]), b"cm_4294967295");
        assert!(is_server_name(b"cm_7"));
    }
}
