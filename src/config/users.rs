//! `[auth]`: who clients are.

use super::load::Sources;
use super::model::{Auth, AuthType, Credential, ListenAddress, StaticUser};
use super::problem::Origin;
use super::reader::{Found, Section};
use super::tree::Value;
use super::upstream::secret;
use crate::base::{RoleName, Secret};

pub(super) fn read(
    mut section: Section<'_>,
    sources: &Sources<'_>,
    local_user: Option<&RoleName>,
    tcp: &[Found<ListenAddress>],
) -> Option<Auth> {
    let mut is_sound = true;
    let choices = [("scram-sha-256", AuthType::ScramSha256), ("trust", AuthType::Trust)];
    let later =
        [("md5", "an md5 hash cannot log in to the server"), ("cert", "client certificates come later")];
    let is_given = section.has("type");
    let kind = section.choice("type", &choices, &later);
    if is_given && kind.is_none() {
        is_sound = false;
    }
    if let Some(Found { value: AuthType::Trust, at }) = &kind
        && let Some(open) = tcp.iter().find(|address| !address.value.is_loopback())
    {
        section.problem(
            at,
            "type",
            format_args!("trust would let everyone who reaches {} in as any user", open.value),
            "write \"scram-sha-256\", or listen on 127.0.0.1 only",
        );
        is_sound = false;
    }
    let users = match users(&mut section, sources) {
        Ok(users) => users,
        Err(()) => {
            is_sound = false;
            Vec::new()
        }
    };
    let mut admins = Vec::new();
    let has_admins = section.has("admin_users");
    match section.texts("admin_users", "admin_users = [\"postgres\"]") {
        None if has_admins => is_sound = false,
        None => admins.extend(local_user.cloned()),
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
        kind: kind.map_or(AuthType::ScramSha256, |kind| kind.value),
        users,
        admin_users: admins,
        stats_users: watchers,
    })
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
        (None, Some(verifier)) => {
            entry.problem(
                &verifier.at,
                "verifier",
                "is no SCRAM-SHA-256 verifier",
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
fn is_scram_verifier(text: &str) -> bool {
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
