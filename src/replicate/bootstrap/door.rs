//! Shuts the applications out of the mirror, and notes whom a promotion has to let in: those who
//! may connect to the source.

use super::error::{Doing, Error};
use crate::backend::control::{Control, describe};
use crate::catalog::door::{Door, close, plan};
use crate::catalog::{identifier, literal};

/// Everything but CONNECT, which is the door's. The target's owner is another role, so what the source's
/// owner has as such is given to it by name.
const PRIVILEGES: &str = "
SELECT coalesce(r.rolname::text, ''), a.privilege_type, a.is_grantable
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = current_database() AND a.privilege_type <> 'CONNECT'
    AND (a.grantee = 0 OR r.rolname !~ '^(pg_|cloud_mirror)' AND NOT r.rolsuper)
ORDER BY 1, 2";

/// Gives the roles the privileges on the database that they have on the source's, and carries its
/// comment. Returns what the login could not do.
pub(super) async fn privileges(source: &Control, target: &Control) -> Result<Vec<String>, Error> {
    let rows = source.query(PRIVILEGES, &[]).await.doing("read the privileges on the source")?;
    let about = source
        .query_one(
            "SELECT (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database())",
            &[],
        )
        .await
        .doing("read the comment on the source")?;
    let row =
        target.query_one("SELECT current_database()::text", &[]).await.doing("read the target's name")?;
    let database = identifier(row.get(0));
    let mut statements = vec![format!("REVOKE TEMPORARY, CREATE ON DATABASE {database} FROM PUBLIC")];
    for row in &rows {
        let (role, privilege): (String, String) = (row.get(0), row.get(1));
        let role = if role.is_empty() { "PUBLIC".to_owned() } else { identifier(&role) };
        let option = if row.get(2) { " WITH GRANT OPTION" } else { "" };
        statements.push(format!("GRANT {privilege} ON DATABASE {database} TO {role}{option}"));
    }
    // `public` belongs to whoever owns the database, and that is another role here.
    let owned = source
        .query(
            "SELECT n.nspname::text, r.rolname::text FROM pg_namespace n, pg_database d JOIN pg_roles r ON r.oid = d.datdba \
             WHERE d.datname = current_database() AND NOT r.rolsuper \
                 AND n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = 'pg_database_owner')",
            &[],
        )
        .await
        .doing("read the schemas of the source's owner")?;
    for row in &owned {
        let (schema, owner) = (identifier(row.get(0)), identifier(row.get(1)));
        statements.push(format!("GRANT ALL ON SCHEMA {schema} TO {owner}"));
    }
    if let Some(comment) = about.get::<_, Option<String>>(0) {
        statements.push(format!("COMMENT ON DATABASE {database} IS {}", literal(&comment)));
    }
    let mut warnings = Vec::new();
    for statement in statements {
        match target.batch_execute(&statement).await {
            Ok(()) => {}
            Err(e) if e.as_db_error().is_some() => {
                warnings.push(format!("the target refuses {statement}: {}", describe(&e)));
            }
            Err(source) => {
                return Err(Error::Sql { doing: "give privileges on the target".to_owned(), source });
            }
        }
    }
    Ok(warnings)
}

const WHO_MAY_CONNECT: &str = "
SELECT r.rolname::text, bool_or(a.is_grantable)
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT'
    AND (a.grantee = 0 OR r.rolname IS NOT NULL)
GROUP BY r.rolname ORDER BY r.rolname";

/// Closes the target's door. Returns who walks through it.
pub(super) async fn shut(source: &Control, target: &mut Control) -> Result<Vec<String>, Error> {
    let rows = source.query(WHO_MAY_CONNECT, &[]).await.doing("read who may connect to the source")?;
    let mut door = Door::default();
    for row in &rows {
        match row.get::<_, Option<String>>(0) {
            None => door.public_could_connect = true,
            Some(role) => {
                if row.get(1) {
                    door.grantable.push(role.clone());
                }
                door.grantees.push(role);
            }
        }
    }
    let closed = close(target).await?;
    plan(target, &door).await?;
    let mut warnings = Vec::new();
    if !closed.walk_through.is_empty() {
        warnings.push(format!(
            "superusers can log in to the mirror before a promotion: {}",
            super::survey::some(&closed.walk_through)
        ));
    }
    if closed.inside > 0 {
        warnings.push(format!("{} sessions of other roles are in the target database", closed.inside));
    }
    Ok(warnings)
}
