//! `[databases]`: which databases clients may ask for, and what they are on the server.

use super::load::Sources;
use super::reader::Section;
use super::tree::{Node, Value};
use super::upstream::secret;
use crate::base::{DatabaseName, RoleName, Secret};
use std::collections::BTreeMap;

/// Names that are the console's.
const RESERVED: [&str; 2] = ["mirror", "pgbouncer"];

/// What becomes of databases that are not listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Others {
    /// Clients get them under the name that they use.
    #[default]
    Served,
    /// Clients are told that there is no such database.
    Refused,
}

/// `[databases]`, by the names that clients use. Left out, every database is served under its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    /// Those that are listed.
    pub named: BTreeMap<String, Database>,
    /// The rest; `"*" = "*"` serves it.
    pub others: Others,
}

/// One of them: `name = "its name on the server"`, or a section with more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// `name`: what the server calls it.
    pub name: DatabaseName,
    /// `user` and its `password`: as whom every client works there.
    pub login: Option<(RoleName, Option<Secret>)>,
    /// `settings`: start-up parameters for clients that do not bring them.
    pub settings: BTreeMap<String, String>,
}

/// Reads the section; `None` when it has mistakes.
pub(super) fn read(section: Section<'_>, is_there: bool, sources: &Sources<'_>) -> Option<Databases> {
    let mut databases =
        Databases { named: BTreeMap::new(), others: if is_there { Others::Refused } else { Others::Served } };
    let (path, problems) = (section.path.clone(), section.problems());
    let mut is_sound = true;
    for (name, node) in section.into_nodes() {
        let full = format!("{path}.{name}");
        let mut wrong = |what: &str, instead: &str| {
            problems.add(&node.at, &full, what, instead);
            is_sound = false;
        };
        match (&node.value, name.as_str()) {
            (Value::Text(text), "*") if text == "*" => databases.others = Others::Served,
            (_, "*") => wrong("serves the rest under other names", "write \"*\" = \"*\""),
            (_, reserved) if RESERVED.contains(&reserved) => {
                wrong("is the console", "choose another name for clients");
            }
            (Value::Text(text), _) => match DatabaseName::new(text.as_str()) {
                Ok(database) => {
                    let database = Database { name: database, login: None, settings: BTreeMap::new() };
                    databases.named.insert(name, database);
                }
                Err(error) => wrong(&error.to_string(), "write the name of a database"),
            },
            (Value::Table(_), _) => {
                let section = Section::from_node(full, node, problems);
                match one(&name, section, sources) {
                    Some(database) => drop(databases.named.insert(name, database)),
                    None => is_sound = false,
                }
            }
            (other, _) => {
                let what = format!("is {}, but must be a name or a section", other.kind());
                wrong(&what, "write the database's name on the server");
            }
        }
    }
    is_sound.then_some(databases)
}

fn one(client_name: &str, mut section: Section<'_>, sources: &Sources<'_>) -> Option<Database> {
    let mut is_sound = true;
    let name = section.text("name", "the database's name on the server");
    let (name, at) = match name {
        Some(found) => (found.value, found.at),
        None => (client_name.to_owned(), section.at.clone()),
    };
    let name = DatabaseName::new(name);
    if let Err(error) = &name {
        section.problem(&at, "name", error, "write the name of a database");
    }
    let user = section.text("user", "the role to work as").and_then(|user| {
        let role = RoleName::new(user.value);
        if let Err(error) = &role {
            section.problem(&user.at, "user", error, "write the name of a role");
            is_sound = false;
        }
        role.ok()
    });
    let password = match secret(&mut section, sources, "password", "password_file", "password_env") {
        Ok(password) => password,
        Err(()) => {
            is_sound = false;
            None
        }
    };
    if let (None, Some(password)) = (&user, &password)
        && is_sound
    {
        section.problem(&password.at, "password", "has no user", "add the user whose password it is");
        is_sound = false;
    }
    let settings = settings(&mut section);
    section.finish();
    let (name, settings) = (name.ok()?, settings?);
    let login = user.map(|user| (user, password.map(|password| password.value)));
    is_sound.then_some(Database { name, login, settings })
}

fn settings(section: &mut Section<'_>) -> Option<BTreeMap<String, String>> {
    const EXAMPLE: &str = "write for example settings = { timezone = \"UTC\" }";
    let Some(Node { at, value }) = section.node("settings") else { return Some(BTreeMap::new()) };
    let Value::Table(table) = value else {
        section.problem(&at, "settings", "must be a section of strings", EXAMPLE);
        return None;
    };
    let mut settings = BTreeMap::new();
    let mut is_sound = true;
    for (name, node) in table {
        match node.value {
            Value::Text(value) if !value.contains('\0') && !matches!(name.as_str(), "user" | "database") => {
                settings.insert(name, value);
            }
            _ => {
                section.problem(
                    &node.at,
                    "settings",
                    format_args!("{name} is no setting of a client"),
                    EXAMPLE,
                );
                is_sound = false;
            }
        }
    }
    is_sound.then_some(settings)
}

impl Databases {
    /// Hands every key and its value to `put`; of a password, that there is one.
    pub(super) fn put(&self, mut put: impl FnMut(String, String, String)) {
        if *self != Databases::default() {
            let others = match self.others {
                Others::Served => "*",
                Others::Refused => "refused",
            };
            put("databases.*".to_owned(), others.to_owned(), String::new());
        }
        for (name, database) in &self.named {
            let mut key = |key: &str, shown: String, compared: String| {
                put(format!("databases.{name}.{key}"), shown, compared);
            };
            key("name", database.name.to_string(), String::new());
            if let Some((user, password)) = &database.login {
                key("user", user.to_string(), String::new());
                if let Some(password) = password {
                    key("password", "***".to_owned(), password.expose().to_owned());
                }
            }
            for (setting, value) in &database.settings {
                key(&format!("settings.{setting}"), value.clone(), String::new());
            }
        }
    }
}
