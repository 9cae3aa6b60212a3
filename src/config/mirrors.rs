//! `[mirror.<name>]`: what is copied to the cloud.

use super::model::{FullIdentity, Mirror, MirrorMode, Upstream};
use super::problem::Origin;
use super::reader::{Found, Section};
use super::tree::{Node, Value};
use crate::base::{DatabaseName, MirrorName};

/// The mirror that is there by itself.
const DEFAULT: &str = "cloud";

/// What `[mirror]` is read against.
pub(super) struct Around<'a> {
    pub local: Option<&'a Upstream>,
    pub cloud: Option<&'a Upstream>,
    /// Whether the section is there, sound or not.
    pub has_cloud: bool,
    /// `--replace-role-passwords`, for every mirror that does not say otherwise.
    pub replaces_role_passwords: bool,
}

/// Reads all mirrors; `None` when one of them has mistakes.
pub(super) fn read(section: Section<'_>, around: &Around<'_>) -> Option<Vec<Mirror>> {
    let mut mirrors: Vec<(Mirror, Origin)> = Vec::new();
    let mut is_sound = true;
    for (name, entry) in section.into_sections() {
        let problems = entry.problems();
        let (at, path) = (entry.at.clone(), entry.path.clone());
        if !around.has_cloud {
            problems.add(
                &at,
                &path,
                "there is no upstream to mirror to",
                "add [upstream.cloud] with its url",
            );
            is_sound = false;
            continue;
        }
        let Some(mirror) = read_one(name, entry, around) else {
            is_sound = false;
            continue;
        };
        for (other, _) in &mirrors {
            if other.database == mirror.database {
                let what = format!(
                    "database {:?} is mirrored by {:?} already",
                    mirror.database.as_str(),
                    other.name.as_str()
                );
                problems.add(&at, &path, what, "give each mirror a database of its own");
                is_sound = false;
            }
            if other.target_database == mirror.target_database {
                let what = format!(
                    "target_database {:?} belongs to mirror {:?} already",
                    mirror.target_database.as_str(),
                    other.name.as_str()
                );
                problems.add(&at, &path, what, "give each mirror a target_database of its own");
                is_sound = false;
            }
        }
        mirrors.push((mirror, at));
    }
    if mirrors.is_empty()
        && is_sound
        && let (Some(local), Some(cloud)) = (around.local, around.cloud)
    {
        mirrors.push((by_itself(local, cloud, around), Origin::Nowhere));
    }
    is_sound.then(|| mirrors.into_iter().map(|(mirror, _)| mirror).collect())
}

fn by_itself(local: &Upstream, cloud: &Upstream, around: &Around<'_>) -> Mirror {
    Mirror {
        name: MirrorName::new(DEFAULT).expect("a short word"),
        database: local.database.clone(),
        target_database: cloud.database.clone(),
        mode: MirrorMode::Async,
        full_identity: FullIdentity::None,
        replace_role_passwords: around.replaces_role_passwords,
    }
}

fn read_one(name: String, mut entry: Section<'_>, around: &Around<'_>) -> Option<Mirror> {
    let at = entry.at.clone();
    let mut is_sound = true;
    let name = match MirrorName::new(name) {
        Ok(name) => Some(name),
        Err(error) => {
            entry.problems().add(&at, &entry.path, error, "write a shorter name");
            None
        }
    };
    let mut database = |entry: &mut Section<'_>, key: &'static str| {
        let is_given = entry.has(key);
        let found = entry.text(key, "the name of a database")?;
        match DatabaseName::new(found.value) {
            Ok(name) => Some(name),
            Err(error) => {
                entry.problem(&found.at, key, error, "write the name of a database");
                is_sound &= !is_given;
                None
            }
        }
    };
    let source = database(&mut entry, "database");
    let target = database(&mut entry, "target_database");
    let later = [("sync", "synchronous mirroring comes later")];
    let has_mode = entry.has("mode");
    let mode = entry.choice("mode", &[("async", MirrorMode::Async)], &later);
    is_sound &= mode.is_some() || !has_mode;
    let full_identity = match full_identity(&mut entry) {
        Ok(full) => full,
        Err(()) => {
            is_sound = false;
            FullIdentity::None
        }
    };
    let has_replace = entry.has("replace_role_passwords");
    let replace = entry.boolean("replace_role_passwords");
    is_sound &= replace.is_some() || !has_replace;
    entry.finish();
    let name = name.filter(|_| is_sound)?;
    let target = target.or_else(|| match name.as_str() {
        DEFAULT => around.cloud.map(|cloud| cloud.database.clone()),
        other => DatabaseName::new(other).ok(),
    })?;
    Some(Mirror {
        database: source.or_else(|| around.local.map(|local| local.database.clone()))?,
        target_database: target,
        name,
        mode: mode.map_or(MirrorMode::Async, |mode| mode.value),
        full_identity,
        replace_role_passwords: replace.unwrap_or(around.replaces_role_passwords),
    })
}

fn full_identity(entry: &mut Section<'_>) -> Result<FullIdentity, ()> {
    const EXAMPLE: &str = "full_identity = true, or a list such as [\"public.log\"]";
    let key = "full_identity";
    let Some(node) = entry.node(key) else { return Ok(FullIdentity::None) };
    let items = match node {
        Node { value: Value::Bool(true), .. } => return Ok(FullIdentity::All),
        Node { value: Value::Bool(false), .. } => return Ok(FullIdentity::None),
        Node { value: Value::Text(text), at } if at.is_plain_text() => match text.as_str() {
            "true" => return Ok(FullIdentity::All),
            "false" => return Ok(FullIdentity::None),
            _ => text.split(',').map(|t| Found { value: t.trim().to_owned(), at: at.clone() }).collect(),
        },
        Node { value: Value::List(items), .. } => {
            let mut found = Vec::new();
            for item in items {
                let Value::Text(value) = item.value else {
                    let what = format!("has {} in its list", item.value.kind());
                    entry.problem(&item.at, key, what, format_args!("write {EXAMPLE}"));
                    return Err(());
                };
                found.push(Found { value, at: item.at });
            }
            found
        }
        Node { value, at } => {
            let what = format!("is {}, but must be true, false or a list of tables", value.kind());
            entry.problem(&at, key, what, format_args!("write {EXAMPLE}"));
            return Err(());
        }
    };
    let mut tables = Vec::new();
    for item in items {
        match item.value.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() => tables.push(item.value),
            _ => {
                let what = format!("{:?} names no schema", item.value);
                entry.problem(
                    &item.at,
                    key,
                    what,
                    format_args!("write {:?}", format!("public.{}", item.value)),
                );
                return Err(());
            }
        }
    }
    Ok(FullIdentity::Tables(tables))
}
