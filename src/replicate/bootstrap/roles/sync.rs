//! Carrying a plan out, once and then again on a timer.

use super::plan::{Existing, OnConflict, Plan, plan};
use super::{Roles, named, of_database};
use crate::backend::control::{Control, describe};
use crate::replicate::MirrorSpec;
use crate::replicate::bootstrap::capabilities::Capabilities;
use crate::replicate::bootstrap::error::{Doing, Error};
use crate::replicate::bootstrap::made;
use std::collections::BTreeSet;

/// Reads what the target has of the source's roles.
pub(in super::super) async fn existing(
    spec: &MirrorSpec,
    source: &Roles,
    target: &Control,
    capabilities: &Capabilities,
) -> Result<Existing, Error> {
    let names: BTreeSet<String> = source.roles.keys().cloned().collect();
    let logins = [&spec.source.login, &spec.target.login].map(|login| login.user.as_str().to_owned());
    Ok(Existing {
        roles: named(target, &names, capabilities.is_superuser).await?,
        managed: made::roles(target).await?,
        logins: BTreeSet::from(logins),
        login: capabilities.login.clone(),
        login_is_superuser: capabilities.is_superuser,
        login_creates_databases: capabilities.can_create_databases,
        database: capabilities.database.clone(),
        major: capabilities.major,
    })
}

/// Carries `plan` out. Each step is its own transaction, which also keeps what was done, so that
/// a run that was interrupted knows its own roles. Returns what could not be done and can be
/// done without.
pub(in super::super) async fn apply(target: &Control, plan: &Plan) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for step in &plan.steps {
        let keeping = match &step.keeps {
            Some((name, fingerprint)) => made::remembering_role(name, fingerprint.as_deref()),
            None => String::new(),
        };
        match target.batch_execute(&format!("{};{keeping}", step.sql)).await {
            Ok(()) => {}
            Err(e) if step.is_optional && e.as_db_error().is_some() => {
                warnings.push(format!("could not {} on the target: {}", step.about, describe(&e)));
            }
            Err(source) => return Err(Error::Sql { doing: step.about.clone(), source }),
        }
    }
    Ok(warnings)
}

/// What the timer remembers between two calls of [`sync`].
#[derive(Debug, Default)]
pub struct Memory {
    fingerprint: Option<String>,
    warnings: Vec<String>,
}

/// What a call of [`sync`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Statements carried out on the target.
    pub changes: usize,
    /// What holds now: for the status.
    pub warnings: Vec<String>,
}

/// Nobody else decides about roles meanwhile, and a change of any role, membership, setting or
/// ACL is seen.
const FINGERPRINT: &str = "
SELECT md5(concat_ws('|',
    (SELECT string_agg(a::text, ',' ORDER BY a.oid) FROM pg_authid a WHERE a.rolname !~ '^(pg_|cloud_mirror)'),
    (SELECT string_agg(concat_ws(' ', m.roleid, m.member, m.admin_option), ',' ORDER BY m.roleid, m.member) FROM pg_auth_members m),
    (SELECT string_agg(s::text, ',' ORDER BY s.setdatabase, s.setrole) FROM pg_db_role_setting s),
    (SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
        AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))))";

/// Makes the target's roles the source's again: to be called every ten seconds or so while the mirror
/// follows. One cheap query when nothing has changed. A new role that exists on the target with another
/// password is left alone and named in the warnings. Never call it once the target is promoted.
pub async fn sync(
    spec: &MirrorSpec,
    source: &Control,
    target: &Control,
    memory: &mut Memory,
) -> Result<Synced, Error> {
    let row = source.query_one(FINGERPRINT, &[]).await.doing("look for changed roles")?;
    let fingerprint: String = row.get(0);
    if memory.fingerprint.as_ref() == Some(&fingerprint) {
        return Ok(Synced { changes: 0, warnings: memory.warnings.clone() });
    }
    let wanted = of_database(source).await?;
    made::ensure(target).await?;
    let capabilities = Capabilities::read(target).await?;
    let there = existing(spec, &wanted, target, &capabilities).await?;
    let on_conflict = if spec.replace_role_passwords { OnConflict::Replace } else { OnConflict::Refuse };
    let plan = plan(&wanted, &there, on_conflict);
    let refused = apply(target, &plan).await?;
    let problems = plan.problems.iter().map(ToString::to_string);
    let warnings: Vec<String> = plan.warnings.iter().cloned().chain(problems).chain(refused).collect();
    *memory = Memory { fingerprint: Some(fingerprint), warnings: warnings.clone() };
    Ok(Synced { changes: plan.steps.len(), warnings })
}
