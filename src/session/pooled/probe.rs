//! Asking the server what a session has left on its link.

use super::catalogue::{self, Known, Turn, Unseen};
use super::functions::{self, Functions};
use super::has::Has;
use super::prepare::{put_query, reported};
use super::ties::Ties;
use crate::base::sqlstate;
use crate::session::walk::ends_the_session;
use crate::sql::harmless::{is_keyword, of_function};
use crate::sql::quote::{quote_ident, quote_literal};
use crate::wire::frame::{HEADER, Head, head};
use crate::wire::report::Report;
use bytes::Bytes;
use std::sync::Arc;

/// The first row has the ties, the role, the session's user and the version of the functions, those with two columns have
/// settings. Three columns are a kind, a name and a value.
const QUESTION: &str = "SELECT CASE WHEN pg_catalog.pg_my_temp_schema() = 0 THEN 0 \
     WHEN EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) \
     THEN 1 ELSE 0 END \
     + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
     AND pid = pg_catalog.pg_backend_pid()) THEN 2 ELSE 0 END \
     + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) THEN 4 ELSE 0 END \
     + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) THEN 8 ELSE 0 END \
     + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) THEN 16 ELSE 0 END";

/// Settings that the server lists, and then those of applications, which are in no list of its: they are asked for by
/// their names.
const SETTINGS: &str = "; SELECT name, setting FROM pg_catalog.pg_settings \
     WHERE source = 'session' AND name NOT LIKE 'transaction!_%' ESCAPE '!' ORDER BY name";

/// What the client has set for its own statements must not end a question that takes longer; to compile it would take
/// longer than to execute it.
const PATIENTLY: &str = "SET LOCAL statement_timeout = '60s'; SET LOCAL jit = off";

/// Names that are asked for beside those that are known.
const NAMES_MAX: usize = 32;
/// Functions that are asked about.
const CALLS_MAX: usize = 64;

/// A setting, by its name in lower case, and the text that makes it again.
pub type Made = (Box<str>, Box<str>);

/// What the server has answered.
#[derive(Debug, Default)]
pub struct Found {
    /// What is there.
    pub ties: Ties,
    /// Every setting of the session.
    pub settings: Vec<Made>,
    /// Who the session's user is.
    pub session_user: String,
    /// What the bodies of functions say, if it is news.
    pub functions: Option<Functions>,
    /// What can be done without a word, by the catalogue.
    pub unseen: Option<(Turn, Known)>,
}

/// A question on its way.
#[derive(Debug)]
pub struct Probe {
    found: Found,
    rows: usize,
    failed: bool,
    /// A cancel of the client's has met the question.
    was_cancelled: bool,
    about: About,
    /// What is known of functions.
    functions: Arc<Functions>,
    /// The version that they have now.
    version: String,
    /// The version that the catalogue has now.
    catalogue: Option<String>,
    /// Names of functions that were called.
    calls: Vec<Box<str>>,
    /// What is not known is being asked.
    goes_on: bool,
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// This session.
    Session,
    /// Also the catalogue, of which this is known.
    Catalogue(Turn, Option<Known>),
}

/// What has come of it.
#[derive(Debug)]
pub enum Answer {
    /// More has to come.
    Unfinished,
    /// These bytes have to be sent: bodies of functions, or the catalogue, are not what was known.
    Again(Vec<u8>),
    /// All of it.
    Found(Found),
    /// The server did not say.
    Unknown,
    /// It did not say because of a cancel that was meant for the statement before: it can be asked again.
    Cancelled,
    /// It ends the link.
    Ended(Report),
    /// It speaks another protocol.
    Violation,
}

impl Probe {
    /// A question, also about the settings of these names, these functions and the catalogue, and what to
    /// send.
    pub fn ask<'a>(
        names: impl Iterator<Item = &'a str>,
        calls: Vec<Box<str>>,
        functions: Arc<Functions>,
        about: About,
    ) -> (Self, Vec<u8>) {
        let mut text = QUESTION.to_owned();
        text.extend([", pg_catalog.current_setting('role'), session_user, ", functions::VERSION, SETTINGS]);
        let settings = functions.settings.iter().map(|name| quote_literal(name));
        let names = names.map(quote_literal).chain(settings).collect::<Vec<_>>().join(",");
        if !names.is_empty() {
            text.push_str(
                "; SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest(ARRAY[",
            );
            text.push_str(&names);
            text.push_str("]::text[]) AS name WHERE pg_catalog.current_setting(name, true) <> ''");
        }
        if about != About::Session {
            text.extend(["; SELECT 'w', ", catalogue::VERSION, ", ''"]);
        }
        let mut bytes = Vec::new();
        put_query(&mut bytes, &text);
        let probe = Self {
            found: Found::default(),
            rows: 0,
            failed: false,
            was_cancelled: false,
            about,
            functions,
            version: String::new(),
            catalogue: None,
            calls,
            goes_on: false,
        };
        (probe, bytes)
    }

    /// Reads the answer; says how many of the bytes were read. Notifications may stand between: they are
    /// the client's, and are put into `news`.
    pub fn read(&mut self, bytes: &[u8], has: &mut Has, news: &mut Vec<u8>) -> (usize, Answer) {
        let mut at = 0;
        loop {
            let (tag, total) = match head(&bytes[at..]) {
                Head::Frame { tag, total } => (tag, total),
                Head::Partial => return (at, Answer::Unfinished),
                Head::Bad { .. } => return (at, Answer::Violation),
            };
            let Some(frame) = bytes.get(at..at + total) else { return (at, Answer::Unfinished) };
            at += total;
            let body = &frame[HEADER..];
            match tag {
                b'D' => self.on_row(body),
                b'A' => news.extend_from_slice(frame),
                b'S' => {
                    if let Some(reported) = reported(body) {
                        has.on_report(reported);
                    }
                }
                b'E' => {
                    let report = Report::new(Bytes::copy_from_slice(body));
                    if ends_the_session(&report) {
                        return (at, Answer::Ended(report));
                    }
                    self.failed = true;
                    self.was_cancelled = report.code() == sqlstate::QUERY_CANCELED;
                }
                b'Z' if self.was_cancelled => return (at, Answer::Cancelled),
                b'Z' if self.failed || self.rows == 0 => return (at, Answer::Unknown),
                b'Z' => return (at, self.on_end()),
                _ => {}
            }
        }
    }

    fn on_row(&mut self, body: &[u8]) {
        let values = values(body).unwrap_or_default();
        self.rows += 1;
        match (self.rows, values.as_slice()) {
            (1, [bits, role, user, version]) => {
                match bits.parse() {
                    Ok(bits) => self.found.ties = Ties::from_answer(bits),
                    Err(_) => self.failed = true,
                }
                user.clone_into(&mut self.found.session_user);
                version.clone_into(&mut self.version);
                if role != "none" {
                    let text = format!("SET ROLE {}", quote_ident(role)).into();
                    self.found.settings.push(("role".into(), text));
                }
            }
            (1, _) => self.failed = true,
            (_, [name, value]) => self.on_setting(name, value),
            (_, [kind, name, value]) => self.on_news(kind, name, value),
            (_, _) => self.failed = true,
        }
    }

    fn on_setting(&mut self, name: &str, value: &str) {
        let key = name.to_lowercase().into_boxed_str();
        if self.found.settings.iter().any(|(known, _)| *known == key) {
            return;
        }
        let (quoted, value) = (quote_literal(name), quote_literal(value));
        let text = format!("SELECT pg_catalog.set_config({quoted}, {value}, false)").into();
        // The role last: it may be allowed to set less.
        self.found.settings.insert(0, (key, text));
    }

    fn on_news(&mut self, kind: &str, name: &str, value: &str) {
        match (kind, &self.about) {
            ("v", _) => self.news().version = name.into(),
            ("f", _) => self.news().keeps(name),
            ("s", _) => {
                self.news().makes(name);
                if !value.is_empty() {
                    self.on_setting(name, value);
                }
            }
            ("w", _) => self.catalogue = Some(name.to_owned()),
            ("c", About::Catalogue(turn, _)) if let Ok(bits) = value.parse() => {
                let known = Known { version: name.into(), unseen: Unseen::from_answer(bits) };
                self.found.unseen = Some((*turn, known));
            }
            _ => self.failed = true,
        }
    }

    fn news(&mut self) -> &mut Functions {
        self.found.functions.get_or_insert_default()
    }

    /// The server has answered: either it is what was known, or what is not known is asked for.
    fn on_end(&mut self) -> Answer {
        if !std::mem::replace(&mut self.goes_on, true) {
            let is_new = *self.version != *self.functions.version;
            let mut questions = Vec::new();
            if is_new {
                questions.push(functions::question());
            }
            match (&self.about, self.catalogue.take()) {
                (About::Catalogue(turn, Some(known)), Some(version)) if *known.version == version => {
                    self.found.unseen = Some((*turn, known.clone()));
                }
                (About::Catalogue(..), _) => questions.push(catalogue::question()),
                (About::Session, _) => {}
            }
            if !questions.is_empty() {
                let mut bytes = Vec::new();
                put_query(&mut bytes, &format!("{PATIENTLY}; {}", questions.join(";")));
                return Answer::Again(bytes);
            }
        }
        let functions = self.found.functions.as_ref().unwrap_or(&self.functions);
        if functions.some_keep(&self.calls) || self.functions.some_keep(&self.calls) {
            self.found.ties |= Ties::FUNCTION;
        }
        Answer::Found(std::mem::take(&mut self.found))
    }
}

/// Puts what may be names of applications' settings in a text, or in a Bind, into `names`: words
/// with a dot in between.
pub fn collect_names(text: &[u8], names: &mut Vec<Box<str>>) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    for word in text.split(|byte| !is_part(byte)) {
        let is_name = word.len() < 64
            && word.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && word.last() != Some(&b'.')
            && word.contains(&b'.');
        if !is_name || names.len() >= NAMES_MAX {
            continue;
        }
        let name = String::from_utf8_lossy(word).to_lowercase().into_boxed_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// Puts the names of functions that a text calls into `names`, those in strings and bodies of functions
/// as well: whatever stands before a parenthesis and is not known to be harmless.
pub fn collect_calls(text: &[u8], names: &mut Vec<Box<str>>) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
    for at in memchr::memchr_iter(b'(', text) {
        let before = text[..at].trim_ascii_end();
        let name = match before.strip_suffix(b"\"") {
            Some(quoted) => {
                String::from_utf8_lossy(quoted.rsplit(|byte| *byte == b'"').next().unwrap_or(b""))
            }
            None => {
                let length = before.iter().rev().take_while(|byte| is_part(byte)).count();
                String::from_utf8_lossy(&before[before.len() - length..])
            }
        };
        let is_known = is_keyword(name.as_bytes()) || of_function(name.as_bytes()).is_clean();
        let is_word = name.starts_with(|first: char| first == '_' || first.is_alphabetic());
        let is_name = is_word || before.ends_with(b"\"");
        if !is_name || name.is_empty() || name.len() > 63 || is_known || names.len() >= CALLS_MAX {
            continue;
        }
        let name = if before.ends_with(b"\"") { name.into_owned() } else { name.to_lowercase() };
        if !names.iter().any(|known| **known == *name) {
            names.push(name.into_boxed_str());
        }
    }
}

/// The columns of a DataRow in text; `None` when some is NULL, cut off or not UTF-8.
fn values(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    (0..u16::from_be_bytes(*count))
        .map(|_| {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            String::from_utf8(value.to_vec()).ok().filter(|text| !text.contains('\0'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_settings_are_found_in_texts() {
        let mut names = Vec::new();
        collect_names(
            b"select set_config('My.Tenant', $1), t.a, 1.5 from x. do $$ set a.b = 1 $$",
            &mut names,
        );
        assert_eq!(names, ["my.tenant", "t.a", "a.b"].map(Box::from));
    }

    #[test]
    fn a_question_that_met_a_cancel_can_be_asked_again() {
        let error = |code: &[u8]| {
            let body = [b"SERROR\0C", code, b"\0Mno\0\0"].concat();
            let length = u32::try_from(body.len() + 4).unwrap();
            [b"E", &length.to_be_bytes()[..], &body, b"Z\0\0\0\x05I"].concat()
        };
        for (code, is_cancelled) in [(b"57014", true), (b"42501", false)] {
            let (mut probe, _) = Probe::ask(std::iter::empty(), Vec::new(), Arc::default(), About::Session);
            let has = &mut Has::of_test();
            let (_, answer) = probe.read(&error(code), has, &mut Vec::new());
            assert_eq!(matches!(answer, Answer::Cancelled), is_cancelled, "{answer:?}");
            assert_eq!(matches!(answer, Answer::Unknown), !is_cancelled, "{answer:?}");
        }
    }

    #[test]
    fn calls_are_found_in_texts_and_bodies() {
        let mut names = Vec::new();
        collect_calls(
            b"select F(1), lower(x), \"My F\" (2), count (*) from s.g() where a in (1) do $$ perform h('(') $$ (",
            &mut names,
        );
        assert_eq!(names, ["f", "My F", "g", "h"].map(Box::from));
    }

    #[test]
    fn a_row_is_read_within_its_bounds() {
        assert_eq!(values(b"\0\x02\0\0\0\x01a\0\0\0\0"), Some(vec!["a".to_owned(), String::new()]));
        for wrong in [&b"\0\x02\0\0\0\x01a"[..], b"\0\x01\xff\xff\xff\xff", b"\0", b"\0\x01\0\0\0\x05abc"] {
            assert_eq!(values(wrong), None, "{wrong:?}");
        }
    }
}
