//! What has to be done on the target so that its roles are the source's. Pure.

use super::{Membership, Role, Roles, Setting, Verifier};
use crate::replicate::bootstrap::error::Problem;
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use std::collections::{BTreeMap, BTreeSet};

/// The target before a plan is carried out.
#[derive(Debug, Clone)]
pub(in super::super) struct Existing {
    /// The roles of the source that exist there, and those it has given `IN DATABASE` settings.
    pub roles: Roles,
    /// Roles we made or took over there, with the fingerprint of the verifier we gave them.
    pub managed: BTreeMap<String, Option<String>>,
    /// The logins of the two URLs: never altered.
    pub logins: BTreeSet<String>,
    /// Our own login there.
    pub login: String,
    pub login_is_superuser: bool,
    pub login_creates_databases: bool,
    pub database: String,
    pub major: u32,
}

/// What to do with an ordinary role that exists with another password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum OnConflict {
    /// Name it as a problem.
    Refuse,
    /// Give it the source's.
    Replace,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Step {
    pub sql: String,
    /// Which role it is about, in words without secrets.
    pub about: String,
    /// The role and the fingerprint to keep with it, in the same transaction.
    pub keeps: Option<(String, Option<String>)>,
    /// Whether the mirror can do without: then its failure is a warning.
    pub is_optional: bool,
}

/// The decision.
#[derive(Debug, Default)]
pub(in super::super) struct Plan {
    pub steps: Vec<Step>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// What is kept of a verifier in our schema: enough to see that it changed.
fn fingerprint(verifier: &Verifier) -> Option<String> {
    let Verifier::Known(secret) = verifier else { return None };
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.expose().as_bytes());
    Some(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// Decides.
pub(in super::super) fn plan(source: &Roles, target: &Existing, on_conflict: OnConflict) -> Plan {
    let mut plan = Plan::default();
    let mut altered = BTreeSet::new();
    for role in source.roles.values() {
        let is_md5 = matches!(&role.verifier, Verifier::Known(v) if v.expose().starts_with("md5"));
        if is_md5 && role.logs_in {
            plan.warnings.push(format!(
                "role {0} has an md5 password and cannot log in through the proxy: SET password_encryption = \
                 'scram-sha-256'; ALTER ROLE {0} PASSWORD '…'",
                ident(&role.name)
            ));
        }
        match target.roles.roles.get(&role.name) {
            None => {
                plan.create(role, target);
                altered.insert(role.name.as_str());
            }
            Some(there) if hands_off(role, there, target) => plan.warnings.extend(differs(role, there)),
            Some(there) => {
                if plan.adopt(role, there, target, on_conflict) {
                    altered.insert(role.name.as_str());
                }
            }
        }
    }
    for name in &altered {
        let role = &source.roles[*name];
        let there = target.roles.roles.get(*name).map(|r| &r.settings);
        let whose = format!("ROLE {}", ident(name));
        plan.settings(&whose, &role.settings, there.unwrap_or(&BTreeSet::new()), target);
    }
    let database = format!("DATABASE {}", ident(&target.database));
    plan.settings(&database, &source.database_settings, &target.roles.database_settings, target);
    plan.memberships(source, target, &altered);
    plan
}

/// Superusers and the logins of the URLs are the administrator's own business.
fn hands_off(role: &Role, there: &Role, target: &Existing) -> bool {
    role.is_superuser || there.is_superuser || target.logins.contains(&role.name)
}

fn differs(role: &Role, there: &Role) -> Option<String> {
    let name = ident(&role.name);
    match (&role.verifier, &there.verifier) {
        (Verifier::None | Verifier::Unreadable, _) => None,
        (Verifier::Known(a), Verifier::Known(b)) if a == b => None,
        (Verifier::Known(_), Verifier::Known(_) | Verifier::None) => Some(format!(
            "role {name} has another password on the target; it is left alone, and after a promotion the target's counts"
        )),
        (Verifier::Known(_), Verifier::Unreadable) => Some(format!(
            "role {name} exists on the target and its password cannot be compared; after a promotion the target's counts"
        )),
    }
}

impl Plan {
    fn step(&mut self, about: String, sql: String, keeps: Option<(String, Option<String>)>) {
        self.steps.push(Step { sql, about, keeps, is_optional: false });
    }

    fn optional(&mut self, about: String, sql: String) {
        self.steps.push(Step { sql, about, keeps: None, is_optional: true });
    }

    fn create(&mut self, role: &Role, target: &Existing) {
        let sql = format!(
            "CREATE ROLE {}{}{}",
            ident(&role.name),
            attributes(role, target),
            password(&role.verifier)
        );
        let keeps = Some((role.name.clone(), fingerprint(&role.verifier)));
        self.step(format!("create role {}", ident(&role.name)), sql, keeps);
        self.lost_attributes(role, target);
        self.owner(role, target);
    }

    /// Under a login that is no superuser some attributes cannot be given.
    fn lost_attributes(&mut self, role: &Role, target: &Existing) {
        if target.login_is_superuser {
            return;
        }
        let lost: Vec<&str> = [
            (role.is_superuser, "SUPERUSER"),
            (role.replicates, "REPLICATION"),
            (role.bypasses_row_security, "BYPASSRLS"),
            (role.creates_databases && !may_give_createdb(target), "CREATEDB"),
        ]
        .into_iter()
        .filter_map(|(has, word)| has.then_some(word))
        .collect();
        if !lost.is_empty() {
            self.warnings.push(format!(
                "role {} has {} on the source and not on the target: the login there cannot give it",
                ident(&role.name),
                lost.join(", ")
            ));
        }
    }

    /// Who is no superuser may only give objects to roles it is a member of.
    fn owner(&mut self, role: &Role, target: &Existing) {
        if role.is_owner && !target.login_is_superuser && role.name != target.login {
            let with = if target.major >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
            let sql = format!("GRANT {} TO {}{with}", ident(&role.name), ident(&target.login));
            self.optional(format!("make the login a member of {}", ident(&role.name)), sql);
        }
    }

    /// An ordinary role that exists. Says whether it may be altered.
    fn adopt(&mut self, role: &Role, there: &Role, target: &Existing, on_conflict: OnConflict) -> bool {
        let ours = fingerprint(&role.verifier);
        let managed = target.managed.get(&role.name);
        let sets_password = match (&role.verifier, &there.verifier) {
            (Verifier::None | Verifier::Unreadable, _) => false,
            (Verifier::Known(a), Verifier::Known(b)) if a == b => false,
            (Verifier::Known(_), Verifier::Unreadable) if managed == Some(&ours) => false,
            (Verifier::Known(_), Verifier::None) => true,
            (Verifier::Known(_), Verifier::Known(_) | Verifier::Unreadable) => {
                if managed.is_none() && on_conflict == OnConflict::Refuse {
                    let why = match there.verifier {
                        Verifier::Unreadable => "its password cannot be compared",
                        Verifier::None | Verifier::Known(_) => "another password",
                    };
                    self.problems.push(Problem::new(
                        format!("role {} exists on the target: {why}", ident(&role.name)),
                        "give --replace-role-passwords to take the source's password, or rename or drop it there",
                    ));
                    return false;
                }
                true
            }
        };
        let wanted = attributes(role, target);
        if sets_password || wanted != attributes(there, target) {
            let password = if sets_password { password(&role.verifier) } else { String::new() };
            let forever = match (&role.valid_until, &there.valid_until) {
                (None, Some(_)) => " VALID UNTIL 'infinity'",
                _ => "",
            };
            let sql = format!("ALTER ROLE {}{wanted}{forever}{password}", ident(&role.name));
            let keeps = Some((role.name.clone(), ours));
            self.step(format!("alter role {}", ident(&role.name)), sql, keeps);
        } else if managed != Some(&ours) {
            let keeps = Some((role.name.clone(), ours));
            self.step(format!("take over role {}", ident(&role.name)), String::new(), keeps);
        }
        if managed.is_none() {
            self.lost_attributes(role, target);
            self.owner(role, target);
        }
        true
    }

    fn settings(
        &mut self,
        whose: &str,
        wanted: &BTreeSet<Setting>,
        there: &BTreeSet<Setting>,
        target: &Existing,
    ) {
        let is_role = whose.starts_with("ROLE");
        let place = |setting: &Setting| match is_role && setting.in_database {
            true => format!("ALTER {whose} IN DATABASE {}", ident(&target.database)),
            false => format!("ALTER {whose}"),
        };
        // The first is ours to set on a database that is fenced or a mirror. A library that the target does
        // not have would make every login there fail.
        let is_left = |setting: &Setting| {
            (!is_role && setting.name == "default_transaction_read_only")
                || setting.name.ends_with("_preload_libraries")
        };
        for setting in wanted.difference(there).filter(|s| s.name.ends_with("_preload_libraries")) {
            self.warnings.push(format!("{} of {whose} is not carried to the target", setting.name));
        }
        for setting in wanted.difference(there).filter(|s| !is_left(s)) {
            let sql = format!(
                "{} SET {} TO {}",
                place(setting),
                setting_name(&setting.name),
                setting_value(&setting.name, &setting.value)
            );
            self.optional(format!("set {} for {whose}", setting.name), sql);
        }
        for setting in there.difference(wanted).filter(|s| !is_left(s)) {
            let is_replaced =
                wanted.iter().any(|w| w.name == setting.name && w.in_database == setting.in_database);
            if !is_replaced {
                let sql = format!("{} RESET {}", place(setting), setting_name(&setting.name));
                self.optional(format!("reset {} for {whose}", setting.name), sql);
            }
        }
    }

    fn memberships(&mut self, source: &Roles, target: &Existing, altered: &BTreeSet<&str>) {
        let known = |m: &Membership| (m.role.clone(), m.member.clone());
        let has_columns = target.major >= 16;
        let comparable = |m: &Membership| match has_columns {
            true => m.clone(),
            false => Membership { inherits: None, may_set: None, ..m.clone() },
        };
        let there: BTreeSet<Membership> = target.roles.memberships.iter().map(&comparable).collect();
        for membership in source.memberships.iter().filter(|m| altered.contains(m.member.as_str())) {
            let wanted = comparable(membership);
            let same = there.iter().any(|t| {
                known(t) == known(&wanted)
                    && t.is_admin == wanted.is_admin
                    && (wanted.inherits.is_none() || t.inherits == wanted.inherits)
                    && (wanted.may_set.is_none() || t.may_set == wanted.may_set)
            });
            if same {
                continue;
            }
            let pair = format!("{} TO {}", ident(&wanted.role), ident(&wanted.member));
            let sql = match (wanted.inherits, wanted.may_set) {
                (Some(inherits), Some(may_set)) => {
                    format!("GRANT {pair} WITH ADMIN {}, INHERIT {inherits}, SET {may_set}", wanted.is_admin)
                }
                _ if wanted.is_admin => format!("GRANT {pair} WITH ADMIN OPTION"),
                _ => format!("GRANT {pair}"),
            };
            self.optional(format!("grant {pair}"), sql);
        }
        let wanted: BTreeSet<_> = source.memberships.iter().map(known).collect();
        for gone in
            there.iter().filter(|m| altered.contains(m.member.as_str()) && !wanted.contains(&known(m)))
        {
            // Only between roles that are the source's: what else the target gave stays.
            if source.roles.contains_key(&gone.role) {
                let pair = format!("{} FROM {}", ident(&gone.role), ident(&gone.member));
                self.optional(format!("revoke {pair}"), format!("REVOKE {pair}"));
            }
        }
    }
}

fn may_give_createdb(target: &Existing) -> bool {
    target.login_is_superuser || target.major < 16 || target.login_creates_databases
}

fn attributes(role: &Role, target: &Existing) -> String {
    let word = |has: bool, word: &str| format!(" {}{word}", if has { "" } else { "NO" });
    let mut text = word(role.logs_in, "LOGIN");
    text += &word(role.inherits, "INHERIT");
    text += &word(role.creates_roles, "CREATEROLE");
    if may_give_createdb(target) {
        text += &word(role.creates_databases, "CREATEDB");
    }
    if target.login_is_superuser {
        text += &word(role.is_superuser, "SUPERUSER");
        text += &word(role.replicates, "REPLICATION");
        text += &word(role.bypasses_row_security, "BYPASSRLS");
    }
    text += &format!(" CONNECTION LIMIT {}", role.connection_limit);
    if let Some(until) = &role.valid_until {
        text += &format!(" VALID UNTIL {}", literal(until));
    }
    text
}

fn password(verifier: &Verifier) -> String {
    match verifier {
        Verifier::Known(secret) => format!(" PASSWORD {}", literal(secret.expose())),
        Verifier::None | Verifier::Unreadable => String::new(),
    }
}

/// `my.x` is two identifiers for the grammar.
fn setting_name(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// A list of names (`GUC_LIST_QUOTE` in the server's source) has to be taken apart: one literal
/// would be one name with commas in it. Everything else is one literal, as `pg_dumpall` writes it.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "search_path",
        "temp_tablespaces",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "unix_socket_directories",
    ];
    match LISTS.contains(&name) {
        false => literal(value),
        true => {
            let parts = split_names(value);
            match parts.is_empty() {
                true => "''".to_owned(),
                false => parts.iter().map(|p| literal(p)).collect::<Vec<_>>().join(", "),
            }
        }
    }
}

/// Takes `"$user", public` apart, as `SplitIdentifierString` does.
fn split_names(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                names.push(std::mem::take(&mut name));
                was_quoted = false;
            }
            c if c.is_whitespace() && !quoted => {}
            c => name.push(c),
        }
    }
    if !name.is_empty() || was_quoted {
        names.push(name);
    }
    names
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
