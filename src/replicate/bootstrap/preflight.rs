//! Everything that can be known before anything is made: all of what is missing at once, and apart
//! from it what a person should know.

use super::capabilities::Capabilities;
use super::error::{Doing, Error, Problem};
use super::programs::{self, Programs};
use super::roles::{self, OnConflict};
use super::tables::{self, Identity, Sizes, Table};
use super::waiting::open_transactions;
use super::{Limits, objects, survey};
use crate::backend::Party;
use crate::backend::control::{Control, ControlError};
use crate::catalog::progress::{self, Phase};
use crate::catalog::{self, identifier};
use crate::replicate::MirrorSpec;
use std::time::Duration;

/// What was found: enough to go on with, since there was no problem.
#[derive(Debug)]
pub struct Report {
    /// What a person should know; stays in the status.
    pub warnings: Vec<String>,
    /// A bootstrap of this mirror was interrupted: what it made will be dropped first.
    pub is_interrupted: bool,
    pub(super) source: Capabilities,
    pub(super) target: Capabilities,
    pub(super) programs: Programs,
}

/// Looks at both servers and changes nothing.
pub async fn preflight(spec: &MirrorSpec) -> Result<Report, Vec<Problem>> {
    check(spec, &Limits::default()).await
}

/// Whether a database holds what others have made and no mirror of ours: then nothing at all is to
/// be made on its server. Fails when it is not reached; what it does not tell counts as "no".
pub async fn is_strange(target: &Party, patience: Duration) -> Result<bool, ControlError> {
    let client = target.control("cloud-mirror start", patience).await?;
    let is_ours = catalog::schema::exists(&client).await.unwrap_or(true);
    Ok(!is_ours && objects::list(&client).await.is_ok_and(|found| !found.is_empty()))
}

pub(super) async fn check(spec: &MirrorSpec, limits: &Limits) -> Result<Report, Vec<Problem>> {
    let unreached = |site: &str, e: &dyn std::fmt::Display| {
        Problem::new(
            format!("the {site} server is not reached: {e}"),
            "check its address, login and pg_hba.conf",
        )
    };
    let name = super::application_name(spec);
    let source = spec.source.control(&name, limits.connect_timeout);
    let target = spec.target.control(&name, limits.connect_timeout);
    let (source, target) = match tokio::join!(source, target) {
        (Ok(source), Ok(target)) => (source, target),
        (source, target) => {
            let source = source.err().map(|e| unreached("source", &e));
            let target = target.err().map(|e| unreached("target", &e));
            return Err(source.into_iter().chain(target).collect());
        }
    };
    let mut findings = Findings::default();
    match findings.gather(spec, &source, &target).await {
        Err(e) => {
            findings.problems.push(Problem::new(e.to_string(), "see the server's log; then try again"));
            Err(findings.problems)
        }
        Ok(_) if !findings.problems.is_empty() => Err(findings.problems),
        Ok(report) => Ok(report),
    }
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(what, fix));
    }

    async fn gather(
        &mut self,
        spec: &MirrorSpec,
        source: &Control,
        target: &Control,
    ) -> Result<Report, Error> {
        let (from, to) = tokio::try_join!(Capabilities::read(source), Capabilities::read(target))?;
        self.servers(&from, &to);
        self.login(&from, &to);
        let is_interrupted = self.target_is_free(spec, target).await?;
        if from.is_superuser {
            self.slot(spec, &from, source).await?;
            self.roles(spec, source, target, &to).await?;
            let tables = tables::list(source, from.major == to.major, Sizes::Skipped).await?;
            self.tables(spec, &tables);
            self.extensions(source, target, &to).await?;
            self.warnings.extend(survey::warnings(source).await?);
            self.problems.extend(survey::problems(source, &to).await?);
        }
        let programs = programs::find(from.major).await;
        if programs.is_none() {
            self.problem(
                format!("pg_dump and pg_restore {} or newer are not found on this machine", from.major),
                format!("apt-get install postgresql-client-{}", from.major),
            );
        }
        Ok(Report {
            warnings: std::mem::take(&mut self.warnings),
            is_interrupted,
            source: from,
            target: to,
            programs: programs.unwrap_or_default(),
        })
    }

    fn servers(&mut self, from: &Capabilities, to: &Capabilities) {
        if from.system == to.system && from.database == to.database {
            self.problem("source and target are the same database", "name two databases");
        }
        if from.major < 14 {
            self.problem(
                format!("the source is PostgreSQL {}; 14 is the oldest that can be mirrored", from.version),
                "upgrade it",
            );
        }
        if to.major < from.major {
            self.warnings.push(format!(
                "the target is PostgreSQL {}, older than the source ({}): what it does not know will be refused",
                to.version, from.version
            ));
        }
        if from.wal_level != "logical" {
            self.problem(
                format!("wal_level of the source is {}", from.wal_level),
                "ALTER SYSTEM SET wal_level = logical; then restart the server",
            );
        }
        if from.encoding == "SQL_ASCII" || to.encoding == "SQL_ASCII" {
            self.problem(
                "a database with encoding SQL_ASCII holds bytes of unknown meaning and cannot be mirrored",
                "load it into a database with encoding UTF8",
            );
        } else if from.encoding != to.encoding && to.encoding != "UTF8" {
            self.problem(
                format!("the source's encoding is {}, the target's {}", from.encoding, to.encoding),
                format!(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' on the target",
                    identifier(&to.database)
                ),
            );
        }
        if from.collation != to.collation {
            self.warnings.push(format!(
                "the databases sort differently (source: {}; target: {}): order of text and what counts as equal may differ",
                from.collation, to.collation
            ));
        }
        if from.slot_keep_mb < 0 && from.wal_level == "logical" {
            self.warnings.push(
                "max_slot_wal_keep_size of the source is -1: while the mirror is unreachable the source keeps all its log; \
                 set a bound, for example ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'"
                    .to_owned(),
            );
        }
    }

    fn login(&mut self, from: &Capabilities, to: &Capabilities) {
        if !from.is_superuser {
            self.problem(
                format!("the login {} on the source is no superuser", identifier(&from.login)),
                format!("ALTER ROLE {} SUPERUSER, or give the login of a superuser", identifier(&from.login)),
            );
        }
        let (login, database) = (identifier(&to.login), identifier(&to.database));
        if !to.can_create_roles {
            self.problem(
                format!("the login {login} on the target may not create roles"),
                format!("ALTER ROLE {login} CREATEROLE"),
            );
        }
        if !to.owns_database {
            self.problem(
                format!("the login {login} does not own the target database"),
                format!("ALTER DATABASE {database} OWNER TO {login}"),
            );
        }
        if !to.can_create_in_database {
            self.problem(
                format!("the login {login} may not create schemas in the target database"),
                format!("GRANT CREATE ON DATABASE {database} TO {login}"),
            );
        }
        if !to.can_be_replica {
            self.warnings.push(format!(
                "the login {login} on the target may not set session_replication_role: triggers are disabled there one by \
                 one, and foreign keys are checked while changes are applied"
            ));
        }
    }

    /// Says whether an interrupted bootstrap of ours fills the target.
    async fn target_is_free(&mut self, spec: &MirrorSpec, target: &Control) -> Result<bool, Error> {
        let rows = progress::list(target).await?;
        let database = identifier(spec.target.database.as_str());
        for row in &rows {
            if row.mirror != spec.name {
                self.problem(
                    format!("the target database is the target of the mirror {} already", row.mirror),
                    "name another database",
                );
            } else if row.phase != Phase::Bootstrapping {
                self.problem(
                    format!("the target database holds the mirror {} ({})", row.mirror, row.phase.as_str()),
                    format!("DROP MIRROR {} and empty the database, or name another one", row.mirror),
                );
            }
        }
        if rows.iter().any(|row| row.mirror == spec.name && row.phase == Phase::Bootstrapping) {
            return Ok(true);
        }
        if rows.is_empty() {
            let found = objects::list(target).await?;
            if !found.is_empty() {
                let some: Vec<String> =
                    found.iter().take(5).map(|o| format!("{} {}", o.kind, o.identity)).collect();
                let more = found.len().saturating_sub(some.len());
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                self.problem(
                    format!("the target database is not empty: {}{more}", some.join(", ")),
                    format!("CREATE DATABASE another TEMPLATE template0 and name it, or empty {database}"),
                );
            }
        }
        Ok(false)
    }

    async fn slot(&mut self, spec: &MirrorSpec, from: &Capabilities, source: &Control) -> Result<(), Error> {
        let slot = spec.slot();
        let row = source
            .query_opt("SELECT 1 FROM pg_replication_slots WHERE slot_name = $1", &[&slot.as_str()])
            .await
            .doing("look for the slot")?;
        // One that an interrupted bootstrap left is dropped and made again.
        if row.is_none() && from.slots_free < 1 {
            self.problem(
                "the source has no free replication slot",
                "raise max_replication_slots and restart the server, or drop a slot that is not used",
            );
        }
        if from.senders_free < 2 {
            self.problem(
                format!("the source can start {} more walsenders, two are needed", from.senders_free.max(0)),
                "raise max_wal_senders and restart the server",
            );
        }
        for waiting in open_transactions(source, 5.0).await? {
            self.warnings.push(format!("the slot will wait for {waiting}"));
        }
        Ok(())
    }

    async fn roles(
        &mut self,
        spec: &MirrorSpec,
        source: &Control,
        target: &Control,
        to: &Capabilities,
    ) -> Result<(), Error> {
        let wanted = roles::of_database(source).await?;
        let there = roles::existing(spec, &wanted, target, to).await?;
        let plan = roles::plan(&wanted, &there, on_conflict(spec));
        self.problems.extend(plan.problems);
        self.warnings.extend(plan.warnings);
        Ok(())
    }

    fn tables(&mut self, spec: &MirrorSpec, tables: &[Table]) {
        let is_left =
            |t: &&Table| t.identity == Identity::Missing && !spec.full_identity.includes(&t.schema, &t.name);
        let without: Vec<String> = tables.iter().filter(is_left).map(Table::sql_name).collect();
        if !without.is_empty() {
            self.warnings.push(format!(
                "{} without primary key or replica identity: their updates and deletes are not followed ({}); \
                 ALTER TABLE … REPLICA IDENTITY FULL and make the mirror anew",
                survey::counted(without.len(), "table", "tables"),
                survey::some(&without)
            ));
        }
    }

    async fn extensions(
        &mut self,
        source: &Control,
        target: &Control,
        to: &Capabilities,
    ) -> Result<(), Error> {
        let installed = source
            .query("SELECT extname::text, extversion FROM pg_extension ORDER BY 1", &[])
            .await
            .doing("list the extensions of the source")?;
        for row in &installed {
            let (name, version): (String, String) = (row.get(0), row.get(1));
            let there = target
                .query_opt(
                    "SELECT e.default_version, e.installed_version,
                        (SELECT v.superuser AND NOT v.trusted FROM pg_available_extension_versions v
                         WHERE v.name = e.name AND v.version = e.default_version)
                     FROM pg_available_extensions e WHERE e.name = $1::text::name",
                    &[&name],
                )
                .await
                .doing("list the extensions of the target")?;
            let Some(there) = there else {
                self.problem(
                    format!("the extension {} {version} is not available on the target", identifier(&name)),
                    format!(
                        "install its package on the target's machine, or DROP EXTENSION {} on the source",
                        identifier(&name)
                    ),
                );
                continue;
            };
            let default: Option<String> = there.get(0);
            let present: Option<String> = there.get(1);
            let will_be = present.clone().or(default).unwrap_or_default();
            if will_be != version {
                self.warnings.push(format!(
                    "extension {name} is {version} on the source and will be {will_be} on the target: \
                     ALTER EXTENSION {} UPDATE on the older side",
                    identifier(&name)
                ));
            }
            let needs_superuser = there.get::<_, Option<bool>>(2).unwrap_or(false);
            if needs_superuser && present.is_none() && !to.is_superuser {
                self.warnings.push(format!(
                    "extension {name} needs a superuser on a plain PostgreSQL: if the target refuses it, run there as an \
                     administrator: CREATE EXTENSION {}",
                    identifier(&name)
                ));
            }
        }
        Ok(())
    }
}

/// What the user has allowed for roles.
pub(super) fn on_conflict(spec: &MirrorSpec) -> OnConflict {
    match spec.replace_role_passwords {
        true => OnConflict::Replace,
        false => OnConflict::Refuse,
    }
}
