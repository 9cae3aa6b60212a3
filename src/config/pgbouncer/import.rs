//! A whole ini file as one of ours, and what is lost on the way.

use super::keys::{self, Key, Meaning, Turn};
use super::out::Out;
use super::values::{Ours, turned};
use super::{ini, server, special};
use crate::config::pgbouncer::ini::{IniError, Line, Place};
use std::path::{Path, PathBuf};

/// Where things are read from.
pub struct Around<'a> {
    /// PgBouncer's file.
    pub file: &'a Path,
    /// Where relative names are looked for: the working directory, as PgBouncer does it, then the
    /// file's own one.
    pub directories: &'a [PathBuf],
    /// Reads a small text file.
    pub read_file: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl Around<'_> {
    /// A name in the file as an absolute one.
    pub(super) fn locate(&self, name: &str) -> PathBuf {
        let candidates: Vec<PathBuf> =
            self.directories.iter().map(|directory| directory.join(name)).collect();
        let found = candidates.iter().find(|path| (self.read_file)(path).is_ok());
        found.or(candidates.first()).cloned().unwrap_or_else(|| PathBuf::from(name))
    }
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The setting is not needed here.
    Moot,
    /// Something is not as it was.
    Differs,
    /// Somebody has to do something before this can take PgBouncer's place.
    Problem,
}

/// What a person should know of the translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub weight: Weight,
    /// Where it was written, if anywhere.
    pub at: Option<Place>,
    /// The setting and what about it.
    pub text: String,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// A configuration of ours.
    pub toml: String,
    /// What it does not say.
    pub notes: Vec<Note>,
}

/// Notes, collected on the way.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub fn add(&mut self, weight: Weight, at: Option<&Place>, text: impl Into<String>) {
        self.0.push(Note { weight, at: at.cloned(), text: text.into() });
    }
}

/// The settings of `[pgbouncer]`, the last of each.
pub(super) struct Settings<'a>(&'a [Line]);

impl<'a> Settings<'a> {
    /// The line of a setting.
    pub fn line(&self, name: &str) -> Option<&'a Line> {
        self.0.iter().rfind(|line| line.section == "pgbouncer" && line.key == name)
    }

    /// A setting that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.line(name).map(|line| line.value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Translates a file with all that it includes.
pub fn import(around: &Around<'_>) -> Result<Imported, IniError> {
    let lines = ini::read(around.file, around)?;
    let settings = Settings(&lines);
    let (mut out, mut notes) = (Out::default(), Notes::default());
    let mut seen: Vec<&str> = Vec::new();
    for line in lines.iter().filter(|line| line.section == "pgbouncer") {
        let is_last = settings.line(&line.key).is_some_and(|last| std::ptr::eq(last, line));
        if is_last && !seen.contains(&line.key.as_str()) {
            seen.push(&line.key);
            one(line, &mut out, &mut notes);
        }
    }
    for line in &lines {
        if !["pgbouncer", "databases", "users", "peers"].contains(&line.section.as_str()) {
            let text = format!("[{}] is no section of PgBouncer", line.section);
            notes.add(Weight::Problem, Some(&line.at), text);
        }
    }
    // What PgBouncer takes where nothing is said, and we do not.
    for (name, value) in [("pool_mode", "session"), ("default_pool_size", "20"), ("max_client_conn", "100")] {
        if settings.line(name).is_none()
            && let Some(Key { meaning: Meaning::Key(ours, turn), .. }) = keys::find(name)
            && let Ok(value) = turned(*turn, value)
        {
            out.put(ours, value, "PgBouncer's default");
        }
    }
    special::listen(&settings, around, &mut out, &mut notes);
    let auth_user = server::auth_user(&lines, &settings);
    special::auth(&settings, auth_user.as_deref(), around, &mut out, &mut notes);
    special::rest(&settings, &mut out, &mut notes);
    server::databases(&lines, &settings, auth_user.as_deref(), around, &mut out, &mut notes);
    users(&lines, &mut out, &mut notes);
    if let Some(peer) = lines.iter().find(|line| line.section == "peers") {
        let text = "[peers]: a cancel is not passed on to another process";
        notes.add(Weight::Differs, Some(&peer.at), text);
    }
    let Notes(mut notes) = notes;
    notes.sort_by_key(|note| std::cmp::Reverse(note.weight));
    Ok(Imported { toml: out.text(around.file), notes })
}

/// A setting with a counterpart, or without one.
fn one(line: &Line, out: &mut Out, notes: &mut Notes) {
    let Some(key) = keys::find(&line.key) else {
        let text = format!("{} is no setting of PgBouncer 1.25", line.key);
        return notes.add(Weight::Problem, Some(&line.at), text);
    };
    let is_default = key.default == Some(line.value.as_str());
    match key.meaning {
        Meaning::Key(ours, turn) => put(line, ours, turn, out, notes),
        Meaning::Special => {}
        Meaning::Moot(why) => {
            if !is_default {
                notes.add(Weight::Moot, Some(&line.at), format!("{} is not needed: {why}", line.key));
            }
        }
        Meaning::Missing(why) => {
            if !is_default {
                notes.add(Weight::Differs, Some(&line.at), format!("{} has no counterpart: {why}", line.key));
            }
        }
    }
}

pub(super) fn put(line: &Line, ours: &'static str, turn: Turn, out: &mut Out, notes: &mut Notes) {
    match turned(turn, &line.value) {
        // An empty list is what it is without the key.
        Ok(Ours::List(names)) if names.is_empty() => {}
        Ok(value) => out.put(ours, value, ""),
        Err(why) => {
            notes.add(Weight::Problem, Some(&line.at), format!("{}: {why}", line.key));
            // As it is: a configuration with a mistake is not one without the setting.
            out.put(ours, Ours::Text(line.value.clone()), "");
        }
    }
}

/// The settings of a user, or of a database, that go into a table of `[pool]`: PgBouncer's name, ours
/// and how its value turns.
pub(super) fn own(name: &str) -> Option<(&'static str, Turn)> {
    Some(match name {
        "pool_mode" => ("mode", Turn::Word),
        "pool_size" => ("size", Turn::Limit),
        "min_pool_size" => ("min_size", Turn::Number),
        "reserve_pool" | "reserve_pool_size" => ("reserve_size", Turn::Number),
        "max_db_connections" => ("max_db_connections", Turn::Limit),
        "max_db_client_connections" => ("max_db_client_connections", Turn::Limit),
        "max_user_connections" => ("max_user_connections", Turn::Limit),
        "max_user_client_connections" => ("max_user_client_connections", Turn::Limit),
        "server_lifetime" => ("server_lifetime", Turn::Seconds),
        "query_timeout" => ("query_timeout", Turn::Seconds),
        "transaction_timeout" => ("transaction_timeout", Turn::Seconds),
        "idle_transaction_timeout" => ("idle_transaction_timeout", Turn::Seconds),
        "client_idle_timeout" => ("client_idle_timeout", Turn::Seconds),
        _ => return None,
    })
}

fn users(lines: &[Line], out: &mut Out, notes: &mut Notes) {
    for line in lines.iter().filter(|line| line.section == "users") {
        let pairs = match ini::pairs(&line.value) {
            Ok(pairs) => pairs,
            Err(why) => {
                notes.add(Weight::Problem, Some(&line.at), format!("user {}: {why}", line.key));
                continue;
            }
        };
        for (key, value) in pairs {
            match own(&key) {
                Some((ours, turn)) => match turned(turn, &value) {
                    Ok(value) => out.put_own("user", &line.key, ours, value),
                    Err(why) => {
                        let text = format!("user {}: {key}: {why}", line.key);
                        notes.add(Weight::Problem, Some(&line.at), text);
                        out.put_own("user", &line.key, ours, Ours::Text(value));
                    }
                },
                None => {
                    let text = format!("user {}: {key} has no counterpart for one user", line.key);
                    notes.add(Weight::Differs, Some(&line.at), text);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
