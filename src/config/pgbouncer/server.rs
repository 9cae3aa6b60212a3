//! `[databases]`: which of them are on the one server that we stand in front of.

use super::import::{Around, Notes, Settings, Weight, own};
use super::ini::{self, Line};
use super::out::{Out, quoted};
use super::values::{Ours, names, turned};
use crate::base::Secret;
use crate::config::{Credential, userlist};
use std::collections::BTreeMap;

/// Start-up parameters that PgBouncer gives a database.
const SETTINGS: [&str; 4] = ["client_encoding", "datestyle", "timezone", "application_name"];

/// A server: a host or the directory of a socket, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    host: String,
    port: String,
}

impl Server {
    /// Where it is: the Unix socket and a loopback address of one port are one server.
    fn place(&self) -> (&str, &str) {
        let is_here =
            self.host.starts_with('/') || matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        (if is_here { "" } else { &self.host }, &self.port)
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

struct Entry<'a> {
    line: &'a Line,
    server: Server,
    pairs: Vec<(String, String)>,
}

impl Entry<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rfind(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn is_rest(&self) -> bool {
        self.line.key == "*"
    }
}

/// Who asks for passwords: `auth_user` of the whole file, or of all databases that have one if they agree.
pub fn auth_user(lines: &[Line], settings: &Settings<'_>) -> Option<String> {
    if let Some(user) = settings.get("auth_user") {
        return Some(user.to_owned());
    }
    let of = |line: &Line| ini::pairs(&line.value).ok()?.into_iter().rfind(|(key, _)| key == "auth_user");
    let mut users = lines.iter().filter(|line| line.section == "databases").filter_map(of);
    let (_, first) = users.next()?;
    users.all(|(_, user)| user == first).then_some(first)
}

/// Writes the server, its databases and our own login there.
pub fn databases(
    lines: &[Line],
    settings: &Settings<'_>,
    auth_user: Option<&str>,
    around: &Around<'_>,
    out: &mut Out,
    notes: &mut Notes,
) {
    let entries: Vec<Entry<'_>> = lines
        .iter()
        .filter(|line| line.section == "databases")
        .filter_map(|line| entry(line, settings, notes))
        .collect();
    let Some(server) = chosen(&entries) else {
        return notes.add(Weight::Problem, None, "[databases] names no server");
    };
    let users = users(settings, around);
    tls(settings, around, out, notes);
    out.put("upstream.local.host", Ours::Text(server.host.clone()), "");
    match server.port.parse::<u16>() {
        Ok(port) => out.put("upstream.local.port", Ours::Bare(port.to_string()), ""),
        Err(_) => {
            notes.add(Weight::Problem, None, format!("{:?} is no port", server.port));
            out.put("upstream.local.port", Ours::Text(server.port.clone()), "");
        }
    }
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.server.place() == server.place());
    // The same server by its Unix socket: the better way for clients.
    let socket = here.iter().find(|entry| entry.server.host.starts_with('/') && entry.server != server);
    if let Some(entry) = socket {
        out.put("upstream.local.unix_socket_dir", Ours::Text(entry.server.host.clone()), "");
    }
    for entry in elsewhere {
        let name = if entry.is_rest() { "every other database" } else { entry.line.key.as_str() };
        let text = format!(
            "{name} is at {}, and this proxy stands in front of {server}: run another cloud-mirror for it",
            entry.server
        );
        notes.add(Weight::Problem, Some(&entry.line.at), text);
    }
    login(&here, settings, auth_user, &users, out, notes);
    // Without a list every database is served, under its own name.
    let is_plain =
        |entry: &&Entry<'_>| entry.is_rest() || entry.pairs.iter().all(|(key, _)| !is_of_list(key));
    let serves_rest = here.iter().any(|entry| entry.is_rest());
    if !(serves_rest && here.iter().all(is_plain)) {
        out.section("databases");
        if serves_rest {
            out.put_in("databases", "*", Ours::Text("*".to_owned()), "");
        }
        for entry in here.iter().filter(|entry| !entry.is_rest()) {
            one(entry, &users, out, notes);
        }
    }
    for entry in here {
        limits(entry, auth_user, out, notes);
    }
}

/// What makes a database more than its own name.
fn is_of_list(key: &str) -> bool {
    matches!(key, "dbname" | "user" | "password") || SETTINGS.contains(&key)
}

fn entry<'a>(line: &'a Line, settings: &Settings<'_>, notes: &mut Notes) -> Option<Entry<'a>> {
    let pairs = match ini::pairs(&line.value) {
        Ok(pairs) => pairs,
        Err(why) => {
            notes.add(Weight::Problem, Some(&line.at), format!("database {}: {why}", line.key));
            return None;
        }
    };
    let find = |name: &str| pairs.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.clone());
    let host = match find("host") {
        Some(host) if host.contains(',') => {
            let first = names(&host).into_iter().next().unwrap_or_default();
            let text = format!("database {}: of several hosts only {first} is taken", line.key);
            notes.add(Weight::Problem, Some(&line.at), text);
            first
        }
        Some(host) => host,
        // A Unix socket, where its own is.
        None => settings.get("unix_socket_dir").unwrap_or("/tmp").to_owned(),
    };
    let port = find("port").unwrap_or_else(|| "5432".to_owned());
    Some(Entry { line, server: Server { host, port }, pairs })
}

/// The server of most databases; of several, the one that is named first.
fn chosen(entries: &[Entry<'_>]) -> Option<Server> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.server.place()).or_default() += 1;
    }
    let most = counts.values().max().copied()?;
    let mut there = entries.iter().filter(|entry| counts[&entry.server.place()] == most);
    let first = there.next()?;
    let of_same = |entry: &&Entry<'_>| entry.server.place() == first.server.place();
    // An address where there is one: the socket is a second way.
    let by_address = |entry: &&Entry<'_>| !entry.server.host.starts_with('/');
    let addressed = entries.iter().filter(of_same).find(by_address);
    Some(addressed.unwrap_or(first).server.clone())
}

/// The users of `auth_file` whose password is known, in their order.
#[derive(Default)]
struct Users(Vec<(String, Secret)>);

impl Users {
    fn get(&self, name: &str) -> Option<Secret> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, password)| password.clone())
    }
}

/// Reads them.
fn users(settings: &Settings<'_>, around: &Around<'_>) -> Users {
    let text = settings.get("auth_file").map(|file| (around.read_file)(&around.locate(file)));
    let Some(Ok(text)) = text else { return Users::default() };
    let users = userlist::users_in(&text).filter_map(|(_, user)| {
        let user = user.ok()?;
        match user.credential {
            Credential::Password(password) if !password.expose().is_empty() => {
                Some((user.name.to_string(), password))
            }
            Credential::Password(_) | Credential::Verifier(_) | Credential::Md5(_) => None,
        }
    });
    Users(users.collect())
}

/// PgBouncer logs in as its clients do. We need a login of our own, to see whether the server lives and
/// to read the passwords of roles.
fn login(
    here: &[&Entry<'_>],
    settings: &Settings<'_>,
    auth_user: Option<&str>,
    users: &Users,
    out: &mut Out,
    notes: &mut Notes,
) {
    let forced = here.iter().find_map(|entry| {
        let user = entry.get("user")?;
        let password = entry.get("password").map(Secret::new).or_else(|| users.get(user));
        Some((user.to_owned(), password?))
    });
    let known = |name: &str| Some((name.to_owned(), users.get(name)?));
    // Who looks after PgBouncer is often no role of the server.
    let of_console = ["admin_users", "stats_users"].map(|key| names(settings.get(key).unwrap_or_default()));
    let is_of_console = |name: &String| of_console.iter().any(|names| names.contains(name));
    let mut ordinary = users.0.iter().map(|(name, _)| name).filter(|name| !is_of_console(name));
    let found = auth_user
        .and_then(known)
        .or(forced)
        .or_else(|| ordinary.next().and_then(|name| known(name)))
        .or_else(|| of_console[0].iter().find_map(|name| known(name)));
    const WHY: &str = "cloud-mirror needs a login of its own on the server (PgBouncer does not)";
    match found {
        Some((user, password)) => {
            let text = format!("{WHY}: it takes {user}; upstream.local.user and password change that");
            notes.add(Weight::Differs, None, text);
            out.put("upstream.local.user", Ours::Text(user), "");
            out.put("upstream.local.password", Ours::Text(password.expose().to_owned()), "");
        }
        None => {
            let user = auth_user.unwrap_or("postgres");
            let text = format!(
                "{WHY}, and no password is known: give {user}'s in \
                 CLOUD_MIRROR__UPSTREAM__LOCAL__PASSWORD if the server asks for one, or choose another \
                 upstream.local.user"
            );
            notes.add(Weight::Problem, None, text);
            out.put("upstream.local.user", Ours::Text(user.to_owned()), "");
        }
    }
    let database = settings.get("auth_dbname").map(str::to_owned).or_else(|| {
        let first = here.iter().find(|entry| !entry.is_rest())?;
        Some(first.get("dbname").unwrap_or(&first.line.key).to_owned())
    });
    out.put("upstream.local.dbname", Ours::Text(database.unwrap_or_else(|| "postgres".to_owned())), "");
}

fn tls(settings: &Settings<'_>, around: &Around<'_>, out: &mut Out, notes: &mut Notes) {
    let at = settings.line("server_tls_sslmode").map(|line| &line.at);
    let mode = match settings.get("server_tls_sslmode") {
        None => return,
        Some("allow") => {
            notes.add(Weight::Differs, at, "server_tls_sslmode = allow: TLS is tried first, as with prefer");
            "prefer"
        }
        Some(mode) => mode,
    };
    out.put("upstream.local.sslmode", Ours::Text(mode.to_owned()), "");
    let mut file = |theirs: &str, ours: &str| {
        if let Some(file) = settings.get(theirs) {
            out.put(ours, Ours::Text(around.locate(file).display().to_string()), "");
        }
    };
    if matches!(mode, "verify-ca" | "verify-full") {
        file("server_tls_ca_file", "upstream.local.sslrootcert");
    }
    if mode != "disable" {
        file("server_tls_cert_file", "upstream.local.sslcert");
        file("server_tls_key_file", "upstream.local.sslkey");
    }
}

/// A listed database.
fn one(entry: &Entry<'_>, users: &Users, out: &mut Out, notes: &mut Notes) {
    let name = &entry.line.key;
    let text = |text: &str| Ours::Text(text.to_owned());
    let on_server = entry.get("dbname").unwrap_or(name);
    let has_more = entry.pairs.iter().any(|(key, _)| key == "user" || SETTINGS.contains(&key.as_str()));
    if !has_more {
        return out.put_in("databases", name, text(on_server), "");
    }
    let section = format!("databases.{}", quoted(name));
    out.put_in(&section, "name", text(on_server), "");
    if let Some(user) = entry.get("user") {
        out.put_in(&section, "user", text(user), "");
        match entry.get("password").map(Secret::new).or_else(|| users.get(user)) {
            Some(password) => out.put_in(&section, "password", text(password.expose()), ""),
            None => {
                let text =
                    format!("database {name}: the password of {user} is not known; add it to [{section}]");
                notes.add(Weight::Differs, Some(&entry.line.at), text);
            }
        }
    }
    for setting in SETTINGS {
        if let Some(value) = entry.get(setting) {
            out.put_in(&format!("{section}.settings"), setting, text(value), "");
        }
    }
}

/// Its limits, and what has no counterpart for one database.
fn limits(entry: &Entry<'_>, auth_user: Option<&str>, out: &mut Out, notes: &mut Notes) {
    let name = &entry.line.key;
    for (key, value) in &entry.pairs {
        let at = Some(&entry.line.at);
        if is_of_list(key) && entry.is_rest() {
            let text = format!("*: {key} has no counterpart for every other database");
            notes.add(Weight::Problem, at, text);
        }
        match (own(key), key.as_str()) {
            (Some(_), _) if entry.is_rest() => {
                let text = format!("*: {key} has no counterpart: [pool] speaks of every database");
                notes.add(Weight::Differs, at, text);
            }
            (Some((ours, turn)), _) => match turned(turn, value) {
                Ok(value) => out.put_own("database", name, ours, value),
                Err(why) => {
                    notes.add(Weight::Problem, at, format!("database {name}: {key}: {why}"));
                    out.put_own("database", name, ours, Ours::Text(value.clone()));
                }
            },
            (None, "host" | "port") => {}
            (None, "auth_user") if auth_user == Some(value.as_str()) => {}
            (None, key) if is_of_list(key) => {}
            (None, "auth_user" | "auth_query" | "auth_dbname") => {
                let text =
                    format!("database {name}: {key} has no counterpart for one database; see auth.query");
                notes.add(Weight::Differs, at, text);
            }
            (None, "connect_query" | "load_balance_hosts" | "query_wait_timeout") => {
                let text = format!("database {name}: {key} has no counterpart for one database");
                notes.add(Weight::Differs, at, text);
            }
            (None, key) => {
                let text = format!("database {name}: {key} is no parameter of PgBouncer 1.25");
                notes.add(Weight::Problem, at, text);
            }
        }
    }
}
