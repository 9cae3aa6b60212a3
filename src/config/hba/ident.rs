//! Maps of names: who of the outside may be which role ("User Name Maps").

use super::Pattern;
use super::UserPattern;
use super::entry::user;
use super::tokens::Line;
use crate::config::problem::Origin;
use crate::config::reader::Problems;

/// A line of `pg_ident.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentEntry {
    /// Where it stands.
    pub at: Origin,
    /// Name of the map.
    pub map: String,
    /// Who of the outside.
    pub outside: Outside,
    /// May be whom.
    pub role: UserPattern,
}

/// Second field of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// This name.
    Name(String),
    /// `/regular expression`; `\1` in the role is its first group.
    Matches(Pattern),
}

/// All maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentMaps(pub Vec<IdentEntry>);

impl IdentMaps {
    /// Whether there is a map of this name.
    pub fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// Whether the roles that somebody is a member of matter in a map.
    pub fn asks_for_roles(&self, map: Option<&str>) -> bool {
        let mut entries = self.0.iter().filter(|entry| Some(entry.map.as_str()) == map);
        entries.any(|entry| matches!(entry.role, UserPattern::MemberOf(_)))
    }

    /// Whether `outside` may be `role`. Without a map it has to have the same name.
    /// `is_member` answers for `+role`.
    pub fn allows(
        &self,
        map: Option<&str>,
        outside: &str,
        role: &str,
        is_member: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(map) = map else { return outside == role };
        self.0.iter().filter(|entry| entry.map == map).any(|entry| entry.allows(outside, role, &is_member))
    }
}

impl IdentEntry {
    fn allows(&self, outside: &str, role: &str, is_member: impl Fn(&str) -> bool) -> bool {
        let group = match &self.outside {
            Outside::Name(name) if name == outside => None,
            Outside::Name(_) => return false,
            Outside::Matches(pattern) => match pattern.regex().captures(outside) {
                Some(found) => found.get(1).map(|group| group.as_str().to_owned()),
                None => return false,
            },
        };
        match &self.role {
            UserPattern::All => true,
            UserPattern::MemberOf(of) => of == role || is_member(of),
            UserPattern::Matches(pattern) => pattern.regex().is_match(role),
            // Only the first \1 is replaced, as PostgreSQL does.
            UserPattern::Name(name) => match (&group, &self.outside) {
                (Some(group), _) => name.replacen("\\1", group, 1) == role,
                (None, _) => name == role,
            },
        }
    }
}

/// Reads one line.
pub(super) fn entry(line: &Line, problems: &Problems) -> Option<IdentEntry> {
    let wrong = |what: &str, instead: &str| {
        problems.add(&line.at, line.key, what, instead);
        None
    };
    const SHAPE: &str = "write MAP SYSTEM-NAME ROLE";
    let [map, outside, role] = line.fields.as_slice() else {
        return wrong("a map has three fields", SHAPE);
    };
    let ([map], [outside], [role]) = (map.as_slice(), outside.as_slice(), role.as_slice()) else {
        return wrong("lists are not allowed here", SHAPE);
    };
    let outside_name = match outside.text.strip_prefix('/').filter(|_| !outside.is_quoted) {
        None => Outside::Name(outside.text.clone()),
        Some(expression) => match Pattern::new(expression) {
            Ok(pattern) => Outside::Matches(pattern),
            Err(why) => {
                return wrong(
                    &format!("the regular expression {expression:?} cannot be read: {why}"),
                    "correct it",
                );
            }
        },
    };
    let role = user(role, line, problems)?;
    if let (UserPattern::Name(name), Outside::Matches(pattern)) = (&role, &outside_name)
        && name.contains("\\1")
        && pattern.regex().captures_len() < 2
    {
        return wrong(
            "\\1 stands for a group, and the regular expression has none",
            "write ( and ) around the part that is the role",
        );
    }
    Some(IdentEntry { at: line.at.clone(), map: map.text.clone(), outside: outside_name, role })
}
