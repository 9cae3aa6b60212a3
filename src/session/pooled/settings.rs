//! The settings that a client has made, in a form that tells two clients apart at a glance, and how a
//! link gets them.

use super::has::Has;
use super::reading;
use crate::pool::Reports;
use crate::session::memory::Memory;
use crate::sql::quote::quote_literal;
use crate::sys::{Map, hash, random_unit};
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Settings that a server reports and nobody can set.
const FIXED: [&[u8]; 6] = [
    b"server_version",
    b"server_encoding",
    b"integer_datetimes",
    b"is_superuser",
    b"session_authorization",
    b"in_hot_standby",
];

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

#[derive(Default)]
struct Known {
    by_hash: Map<u64, Vec<Weak<Settings>>>,
    look_at: usize,
    reports: Vec<Reports>,
}

/// What a client has set. Equal ones are one object on a thread.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// SET statements of settings that servers do not report, by the names of the settings.
    texts: Vec<(Box<str>, Box<str>)>,
    /// Settings that servers report, where they differ from what the link began with.
    reported: Vec<(Vec<u8>, Vec<u8>)>,
    /// How constants are read by the first ones.
    reading: u64,
    /// What is made may be temporary without a word, by the search path.
    pub may_make_temporary: bool,
}

impl Settings {
    /// Nothing.
    pub fn none() -> Rc<Settings> {
        Self::shared(Vec::new(), Vec::new())
    }

    /// What a client is told at its log-in and a link does not begin with.
    pub fn at_login(told: &Reports) -> Rc<Settings> {
        let name = told.iter().filter(|(name, value)| name == b"application_name" && !value.is_empty());
        Self::shared(Vec::new(), name.cloned().collect())
    }

    /// What a client has made of a link with `has`.
    pub fn of(memory: &Memory, has: &Has, at_login: &Settings) -> Rc<Settings> {
        let start = &has.start;
        let is_reported =
            |name: &str| start.iter().any(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        let texts = memory.settings_by_name().filter(|(name, _)| !is_reported(name));
        let texts = texts.map(|(name, text)| (name.into(), text.into())).collect();
        let changed = |(name, value): &&(Vec<u8>, Vec<u8>)| {
            !FIXED.contains(&name.as_slice()) && value_of(start, name) != Some(value)
        };
        let mut reported: Vec<_> = has.reported.iter().filter(changed).cloned().collect();
        for (name, value) in &at_login.reported {
            // Reset to what the link began with: the client's own beginning was another.
            if !reported.iter().any(|(known, _)| known == name) {
                reported.push((name.clone(), value.clone()));
            }
        }
        reported.sort_unstable();
        Self::shared(texts, reported)
    }

    /// Whether a link that was made one for a client that wants this reports something else.
    pub fn is_contradicted(&self, has: &Has) -> bool {
        // Names of applications are not always taken as they are.
        let is_fixed = |name: &[u8]| FIXED.contains(&name) || name == b"application_name";
        let mut changeable = has.start.iter().filter(|(name, _)| !is_fixed(name));
        changeable.any(|(name, at_start)| {
            let wanted = value_of(&self.reported, name).unwrap_or(at_start);
            value_of(&has.reported, name) != Some(wanted)
        })
    }

    /// A number on this thread for all that make constants be read alike, where the server does not say so.
    pub fn reading(&self) -> u64 {
        self.reading
    }

    fn shared(texts: Vec<(Box<str>, Box<str>)>, reported: Vec<(Vec<u8>, Vec<u8>)>) -> Rc<Settings> {
        let read_by = texts.iter().filter(|(name, _)| reading::is_unreported(name));
        let reading = read_by.fold(0, |all, setting| all ^ hash(setting));
        let mut paths = texts.iter().filter(|(name, _)| &**name == "search_path");
        let may_make_temporary = paths.any(|(_, text)| text.to_ascii_lowercase().contains("pg_temp"));
        let settings = Settings { texts, reported, reading, may_make_temporary };
        let key = hash(&settings);
        KNOWN.with_borrow_mut(|known| {
            let same = known.by_hash.entry(key).or_default();
            if let Some(found) = same.iter().filter_map(Weak::upgrade).find(|it| **it == settings) {
                return found;
            }
            let made = Rc::new(settings);
            same.push(Rc::downgrade(&made));
            if known.by_hash.len() > known.look_at.max(1024) {
                known.by_hash.retain(|_, same| {
                    same.retain(|it| it.strong_count() > 0);
                    !same.is_empty()
                });
                known.look_at = 2 * known.by_hash.len();
            }
            made
        })
    }

    /// The queries that make a link with `has` one for a client that wants this. `is_stained`: somebody
    /// else may have left anything on it.
    pub fn queries(&self, has: &Has, is_stained: bool) -> Vec<String> {
        let start = &has.start;
        let mut queries = Vec::new();
        let begins_anew = is_stained || !has.settings.texts.is_empty() && has.settings.texts != self.texts;
        if is_stained {
            let seed = 2.0 * random_unit() - 1.0;
            let begin = format!("RESET SESSION AUTHORIZATION; RESET ALL; SET seed = {seed}");
            queries.push(format!("{begin}; {CLEANING}"));
        } else if begins_anew {
            queries.push("RESET SESSION AUTHORIZATION; RESET ALL".to_owned());
        }
        let now = if begins_anew { start } else { &has.reported };
        let mut later = Vec::new();
        for (name, at_start) in start.iter() {
            let wanted = value_of(&self.reported, name).unwrap_or(at_start);
            if FIXED.contains(&name.as_slice()) || value_of(now, name) == Some(wanted) {
                continue;
            }
            let set = set(name, wanted);
            // What follows is read in it.
            if name == b"client_encoding" { queries.push(set) } else { later.push(set) }
        }
        if begins_anew || has.settings.texts != self.texts {
            later.extend(self.texts.iter().map(|(_, text)| text.to_string()));
        }
        if !later.is_empty() {
            // A line of its own each: a text may end with a comment.
            queries.push(later.join("\n;"));
        }
        queries
    }
}

/// What is left behind besides settings and statements.
const CLEANING: &str = "CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DISCARD SEQUENCES; DISCARD TEMP; SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql LIMIT 1";

/// `set_config` takes the value as it was reported, also that of a list.
fn set(name: &[u8], value: &[u8]) -> String {
    let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    format!("SELECT pg_catalog.set_config({}, {}, false)", quote_literal(&name), quote_literal(&value))
}

fn value_of<'a>(list: &'a [(Vec<u8>, Vec<u8>)], name: &[u8]) -> Option<&'a Vec<u8>> {
    list.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The list itself, or an equal one that is in use: most links report the same.
pub fn same_reports(reports: Reports) -> Reports {
    const KEPT: usize = 64;
    KNOWN.with_borrow_mut(|known| {
        if let Some(found) = known.reports.iter().find(|it| Arc::ptr_eq(it, &reports) || **it == reports) {
            return found.clone();
        }
        if known.reports.len() >= KEPT {
            known.reports.remove(0);
        }
        known.reports.push(reports.clone());
        reports
    })
}
