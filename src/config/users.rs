//! `[auth]`: who clients are.

use super::hba::{self, IdentMaps, Means, Rule, Written};
use super::load::Sources;
use super::model::{Auth, AuthQuery, AuthType, Credential, ListenAddress, StaticUser};
use super::problem::Origin;
use super::reader::{Found, Section};
use super::tree::Value;
use super::upstream::secret;
use super::userlist;
use crate::base::{DatabaseName, RoleName, Secret};
use std::time::Duration;

/// What other sections say that matters here.
pub(super) struct Around<'a> {
    pub local_user: Option<&'a RoleName>,
    pub tcp: &'a [Found<ListenAddress>],
    pub has_client_ca: bool,
}

pub(super) fn read(mut section: Section<'_>, sources: &Sources<'_>, around: &Around<'_>) -> Option<Auth> {
    let mut is_sound = true;
    let means = Means { has_client_ca: around.has_client_ca };
    let (rules, has_rules) = rules(&mut section, sources, means).unwrap_or_else(|()| {
        is_sound = false;
        (Vec::new(), true)
    });
    let maps = maps(&mut section, sources).unwrap_or_else(|()| {
        is_sound = false;
        IdentMaps::default()
    });
    for rule in &rules {
        if let Some(map) = &rule.map
            && is_sound
            && !maps.has(map)
        {
            let what = format!("there is no map {map:?}");
            section.problem(&rule.at, "rules", what, "write it into the file that ident_file names");
            is_sound = false;
        }
    }
    let kind = kind(&mut section, around, has_rules).unwrap_or_else(|()| {
        is_sound = false;
        AuthType::ScramSha256
    });
    let users = match (users(&mut section, sources), file(&mut section, sources)) {
        (Ok(mut users), Ok(listed)) => {
            let is_new = |user: &StaticUser| users.iter().all(|known| known.name != user.name);
            let more: Vec<_> = listed.into_iter().filter(is_new).collect();
            users.extend(more);
            users
        }
        _ => {
            is_sound = false;
            Vec::new()
        }
    };
    let query = query(&mut section, sources, &users).unwrap_or_else(|()| {
        is_sound = false;
        None
    });
    let has_cache = section.has("cache");
    let cache = section.duration("cache", Duration::ZERO..=Duration::from_secs(3600));
    is_sound &= cache.is_some() || !has_cache;
    let mut admins = Vec::new();
    let has_admins = section.has("admin_users");
    match section.texts("admin_users", "admin_users = [\"postgres\"]") {
        None if has_admins => is_sound = false,
        None => admins.extend(around.local_user.cloned()),
        Some(names) => {
            for name in names {
                match role(&section, "admin_users", &name) {
                    Some(role) => admins.push(role),
                    None => is_sound = false,
                }
            }
        }
    }
    let mut watchers = Vec::new();
    let has_watchers = section.has("stats_users");
    match section.texts("stats_users", "stats_users = [\"monitor\"]") {
        None => is_sound &= !has_watchers,
        Some(names) => {
            for name in names {
                match role(&section, "stats_users", &name) {
                    Some(role) => watchers.push(role),
                    None => is_sound = false,
                }
            }
        }
    }
    section.finish();
    is_sound.then(|| Auth {
        kind,
        rules,
        maps,
        users,
        query,
        cache: cache.map_or(Duration::ZERO, |cache| cache.value),
        admin_users: admins,
        stats_users: watchers,
    })
}

fn kind(section: &mut Section<'_>, around: &Around<'_>, has_rules: bool) -> Result<AuthType, ()> {
    let choices = [
        ("scram-sha-256", AuthType::ScramSha256),
        ("md5", AuthType::Md5),
        ("password", AuthType::Password),
        ("cert", AuthType::Certificate),
        ("trust", AuthType::Trust),
        ("hba", AuthType::Rules),
    ];
    let is_given = section.has("type");
    let found = section.choice("type", &choices, &[]);
    let Some(Found { value, at }) = found else {
        return match (is_given, has_rules) {
            (true, _) => Err(()),
            (false, true) => Ok(AuthType::Rules),
            (false, false) => Ok(AuthType::ScramSha256),
        };
    };
    let wrong = |what: String, instead: &str| {
        section.problem(&at, "type", what, instead);
        Err(())
    };
    match value {
        AuthType::Rules if has_rules => Ok(value),
        AuthType::Rules => {
            wrong("there are no rules".to_owned(), "name a file in hba_file, or write [[auth.rules]]")
        }
        _ if has_rules => wrong(
            "the rules decide already".to_owned(),
            "write \"hba\", or remove hba_file and [[auth.rules]]",
        ),
        AuthType::Trust => match around.tcp.iter().find(|address| !address.value.is_loopback()) {
            Some(open) => wrong(
                format!("trust would let everyone who reaches {} in as any user", open.value),
                "write \"scram-sha-256\", or listen on 127.0.0.1 only",
            ),
            None => Ok(value),
        },
        AuthType::Certificate if !around.has_client_ca => wrong(
            "there is no authority to check certificates of clients with".to_owned(),
            "name its file in listen.tls_client_ca",
        ),
        AuthType::ScramSha256 | AuthType::Md5 | AuthType::Password | AuthType::Certificate => Ok(value),
    }
}

/// The rules of the file and those of our own, and whether there are any sources of rules.
fn rules(section: &mut Section<'_>, sources: &Sources<'_>, means: Means) -> Result<(Vec<Rule>, bool), ()> {
    let is_given = section.has("hba_file");
    let file = section.path("hba_file", "the path of a file");
    let node = section.node("rules");
    let has_rules = is_given || node.is_some();
    let mut all = Vec::new();
    match file {
        Some(file) => {
            all.extend(
                hba::read_file(&file.value, &file.at, sources.read_file, means, section.problems())
                    .ok_or(())?,
            );
        }
        None if is_given => return Err(()),
        None => {}
    }
    let Some(node) = node else { return Ok((all, has_rules)) };
    let Value::List(items) = node.value else {
        let what = format!("is {}, but must be a list of sections", node.value.kind());
        section.problem(&node.at, "rules", what, "write [[auth.rules]] with type, database, user, … below");
        return Err(());
    };
    let mut is_sound = true;
    for item in items {
        let at = item.at.clone();
        let mut entry = Section::from_node(section.key("rules"), item, section.problems());
        let rule =
            written(&mut entry, &at).and_then(|rule| hba::written(&rule, &at, means, section.problems()));
        entry.finish();
        match rule {
            Some(rule) => all.push(rule),
            None => is_sound = false,
        }
    }
    is_sound.then_some((all, has_rules)).ok_or(())
}

fn written(entry: &mut Section<'_>, at: &Origin) -> Option<Written> {
    let connection = entry.text("type", "\"host\", \"hostssl\", \"hostnossl\" or \"local\"");
    let mut list = |key: &'static str| {
        let is_given = entry.has(key);
        match entry.texts(key, "\"all\", or a list") {
            Some(texts) => Some(texts.into_iter().map(|text| text.value).collect::<Vec<_>>()),
            None if is_given => None,
            None => Some(vec!["all".to_owned()]),
        }
    };
    let (databases, users, addresses) = (list("database"), list("user"), list("address"));
    let method = entry.text("method", "\"scram-sha-256\"");
    let mut options = Vec::new();
    for key in ["map", "clientcert", "clientname"] {
        options.extend(entry.text(key, "a word").map(|found| (key.to_owned(), found.value)));
    }
    for (key, is_there) in [("type", connection.is_some()), ("method", method.is_some())] {
        if !is_there {
            entry.problem(at, key, "is missing", "write type, database, user, address and method");
        }
    }
    Some(Written {
        connection: connection?.value,
        databases: databases?,
        users: users?,
        addresses: addresses?,
        method: method?.value,
        options,
    })
}

fn maps(section: &mut Section<'_>, sources: &Sources<'_>) -> Result<IdentMaps, ()> {
    let is_given = section.has("ident_file");
    match section.path("ident_file", "the path of a file") {
        Some(file) => hba::read_ident(&file.value, &file.at, sources.read_file, section.problems()).ok_or(()),
        None if is_given => Err(()),
        None => Ok(IdentMaps::default()),
    }
}

fn file(section: &mut Section<'_>, sources: &Sources<'_>) -> Result<Vec<StaticUser>, ()> {
    let is_given = section.has("file");
    match section.path("file", "the path of a file") {
        Some(file) => userlist::read(&file.value, &file.at, sources.read_file, section.problems()).ok_or(()),
        None if is_given => Err(()),
        None => Ok(Vec::new()),
    }
}

fn query(
    section: &mut Section<'_>,
    sources: &Sources<'_>,
    users: &[StaticUser],
) -> Result<Option<AuthQuery>, ()> {
    let text = section.text("query", "\"SELECT usename, passwd FROM pg_shadow WHERE usename = $1\"");
    let user = section.text("query_user", "the role to ask as");
    let dbname = section.text("query_dbname", "the database to ask in");
    let password = secret(section, sources, "query_password", "query_password_file", "query_password_env")?;
    let Some(text) = text else {
        let others = [
            ("query_user", user.map(|found| found.at)),
            ("query_dbname", dbname.map(|found| found.at)),
            ("query_password", password.map(|found| found.at)),
        ];
        let others: Vec<_> = others.into_iter().filter_map(|(key, at)| Some((key, at?))).collect();
        for (key, at) in &others {
            section.problem(at, key, "has no meaning without query", "write query = \"…\", or remove it");
        }
        return if others.is_empty() { Ok(None) } else { Err(()) };
    };
    if !text.value.contains("$1") {
        section.problem(&text.at, "query", "does not mention $1, the role", "compare a column with $1");
        return Err(());
    }
    let login = match (user, password) {
        (None, None) => None,
        (None, Some(password)) => {
            section.problem(&password.at, "query_password", "there is no query_user", "name the role");
            return Err(());
        }
        (Some(found), password) => {
            let name = role(section, "query_user", &found).ok_or(())?;
            let known = users.iter().find(|user| user.name == name).map(|user| &user.credential);
            let password = match (password, known) {
                (Some(password), _) => Some(password.value),
                (None, Some(Credential::Password(password))) => Some(password.clone()),
                (None, Some(Credential::Verifier(_) | Credential::Md5(_))) => {
                    let what = format!("of {name} only a hash is known, which cannot ask a server");
                    section.problem(
                        &found.at,
                        "query_user",
                        what,
                        "add query_password_file, or query_password",
                    );
                    return Err(());
                }
                (None, None) => None,
            };
            Some((name, password))
        }
    };
    let database = match dbname {
        None => None,
        Some(found) => match DatabaseName::new(found.value) {
            Ok(name) => Some(name),
            Err(error) => {
                section.problem(&found.at, "query_dbname", error, "write the name of a database");
                return Err(());
            }
        },
    };
    Ok(Some(AuthQuery { text: text.value, login, database }))
}

fn role(section: &Section<'_>, key: &str, name: &Found<String>) -> Option<RoleName> {
    match RoleName::new(name.value.as_str()) {
        Ok(role) => Some(role),
        Err(error) => {
            section.problem(&name.at, key, error, "write the name of a role");
            None
        }
    }
}

fn users(section: &mut Section<'_>, sources: &Sources<'_>) -> Result<Vec<StaticUser>, ()> {
    let Some(node) = section.node("users") else { return Ok(Vec::new()) };
    let Value::List(items) = node.value else {
        let what = format!("is {}, but must be a list of sections", node.value.kind());
        section.problem(&node.at, "users", what, "write [[auth.users]] with name and password below");
        return Err(());
    };
    let mut users: Vec<StaticUser> = Vec::new();
    let mut is_sound = true;
    for item in items {
        let mut entry = Section::from_node(section.key("users"), item, section.problems());
        match user(&mut entry, sources) {
            Some((user, at)) if users.iter().any(|known| known.name == user.name) => {
                entry.problem(
                    &at,
                    "name",
                    format_args!("{:?} is listed twice", user.name.as_str()),
                    "remove one",
                );
                is_sound = false;
            }
            Some((user, _)) => users.push(user),
            None => is_sound = false,
        }
        entry.finish();
    }
    is_sound.then_some(users).ok_or(())
}

fn user(entry: &mut Section<'_>, sources: &Sources<'_>) -> Option<(StaticUser, Origin)> {
    let found = entry.text("name", "the name of the role");
    let verifier = entry.text("verifier", "the role's rolpassword from pg_authid");
    let password = secret(entry, sources, "password", "password_file", "password_env");
    let Some(found) = found else {
        let at = entry.at.clone();
        entry.problem(&at, "name", "is missing", "write the name of the role");
        return None;
    };
    let name = role(entry, "name", &found)?;
    let credential = match (password.ok()?, verifier) {
        (Some(_), Some(verifier)) => {
            entry.problem(&verifier.at, "verifier", "a password is given as well", "write only one of them");
            return None;
        }
        (Some(password), None) => Credential::Password(password.value),
        (None, Some(verifier)) if is_scram_verifier(&verifier.value) => {
            Credential::Verifier(Secret::new(verifier.value))
        }
        (None, Some(verifier)) if userlist::is_md5(&verifier.value) => {
            Credential::Md5(Secret::new(verifier.value))
        }
        (None, Some(verifier)) => {
            entry.problem(
                &verifier.at,
                "verifier",
                "is neither a SCRAM-SHA-256 verifier nor an md5 hash",
                "write the role's rolpassword from pg_authid, SCRAM-SHA-256$4096:…",
            );
            return None;
        }
        (None, None) => {
            entry.problem(
                &found.at,
                "name",
                format_args!("user {:?} has no password", name.as_str()),
                "add password, password_file, password_env or verifier",
            );
            return None;
        }
    };
    Some((StaticUser { name, credential }, found.at))
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` ("pg_authid").
pub(super) fn is_scram_verifier(text: &str) -> bool {
    let is_base64 = |text: &str| {
        text.len() >= 4
            && text.len().is_multiple_of(4)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let Some((iterations, rest)) = text.strip_prefix("SCRAM-SHA-256$").and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    let Some((salt, keys)) = rest.split_once('$') else { return false };
    let Some((stored, server)) = keys.split_once(':') else { return false };
    iterations.parse::<u32>().is_ok_and(|n| n > 0)
        && is_base64(salt)
        && [stored, server].iter().all(|key| key.len() == 44 && is_base64(key))
}
