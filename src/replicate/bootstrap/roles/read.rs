//! Reading roles from a server's catalogs.

use super::{Membership, Role, Roles, Setting, Verifier};
use crate::backend::control::Control;
use crate::base::Secret;
use crate::replicate::bootstrap::error::{Doing, Error};
use std::collections::{BTreeMap, BTreeSet};

/// The roles a database needs: those that own or are granted something in it (ACLs, default ACLs
/// and policies are all in `pg_shdepend`), that have settings for it, that may read or write all data, their
/// members (who come in through them), and of all these the roles they are members of.
///
/// The first superuser is pinned and so not in `pg_shdepend`: it is taken when it owns something.
const NEEDED: &str = "
WITH RECURSIVE db AS (SELECT oid, datdba FROM pg_database WHERE datname = current_database()),
direct(oid) AS (
    SELECT s.refobjid FROM pg_shdepend s, db
    WHERE s.refclassid = 'pg_authid'::regclass
        AND (s.dbid = db.oid OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = db.oid))
    UNION SELECT datdba FROM db
    UNION SELECT g.grantee FROM pg_database d, db, aclexplode(d.datacl) g WHERE d.oid = db.oid AND g.grantee <> 0
    UNION SELECT r.setrole FROM pg_db_role_setting r, db WHERE r.setdatabase = db.oid AND r.setrole <> 0
    UNION SELECT 10::oid WHERE EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relowner = 10 AND c.oid >= 16384 AND n.nspname !~ '^(pg_|cloud_mirror)')
            OR EXISTS (SELECT 1 FROM pg_proc WHERE proowner = 10 AND oid >= 16384)
            OR EXISTS (SELECT 1 FROM pg_type WHERE typowner = 10 AND oid >= 16384)
            OR EXISTS (SELECT 1 FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384 AND nspname !~ '^(pg_|cloud_mirror)')
    UNION SELECT oid FROM pg_roles WHERE rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_database_owner')
),
down(oid) AS (
    SELECT oid FROM direct UNION SELECT m.member FROM pg_auth_members m JOIN down ON m.roleid = down.oid
),
both_ways(oid) AS (
    SELECT oid FROM down UNION SELECT m.roleid FROM pg_auth_members m JOIN both_ways u ON m.member = u.oid
)
SELECT r.oid FROM both_ways JOIN pg_roles r USING (oid)
WHERE r.rolname !~ '^(pg_|cloud_mirror)'";

/// The roles that the database `client` is connected to needs. The login has to be a superuser.
pub(in super::super) async fn of_database(client: &Control) -> Result<Roles, Error> {
    let rows = client.query(NEEDED, &[]).await.doing("find the roles that the database needs")?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    read(client, &format!("r.oid = ANY('{{{}}}'::oid[])", join(&oids)), Source::Authid).await
}

/// The roles named, as far as they exist. Verifiers can be read by a superuser only.
pub(in super::super) async fn named(
    client: &Control,
    names: &BTreeSet<String>,
    is_superuser: bool,
) -> Result<Roles, Error> {
    let names: Vec<String> = names.iter().map(|n| postgres_protocol::escape::escape_literal(n)).collect();
    let filter = format!("r.rolname = ANY(ARRAY[{}]::name[])", names.join(","));
    read(client, &filter, if is_superuser { Source::Authid } else { Source::Roles }).await
}

/// Where roles are read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// With their verifiers.
    Authid,
    /// Without.
    Roles,
}

async fn read(client: &Control, filter: &str, from: Source) -> Result<Roles, Error> {
    let (table, verifier) = match from {
        Source::Authid => ("pg_authid", "r.rolpassword"),
        Source::Roles => ("pg_roles", "NULL::text"),
    };
    let roles = client
        .query(
            &format!(
                "SELECT r.rolname::text, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
                    r.rolreplication, r.rolbypassrls, r.rolconnlimit, nullif(r.rolvaliduntil, 'infinity')::text, {verifier},
                    EXISTS (SELECT 1 FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass
                        AND s.refobjid = r.oid AND s.deptype = 'o'
                        AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
                 FROM {table} r WHERE {filter} ORDER BY 1"
            ),
            &[],
        )
        .await
        .doing("read roles")?;
    let mut found = BTreeMap::new();
    for row in &roles {
        let name: String = row.get(0);
        let verifier = match (from, row.get::<_, Option<String>>(10)) {
            (Source::Roles, _) => Verifier::Unreadable,
            (Source::Authid, None) => Verifier::None,
            (Source::Authid, Some(text)) => Verifier::Known(Secret::new(text)),
        };
        found.insert(
            name.clone(),
            Role {
                name,
                is_superuser: row.get(1),
                inherits: row.get(2),
                creates_roles: row.get(3),
                creates_databases: row.get(4),
                logs_in: row.get(5),
                replicates: row.get(6),
                bypasses_row_security: row.get(7),
                connection_limit: row.get(8),
                valid_until: row.get(9),
                verifier,
                settings: BTreeSet::new(),
                is_owner: row.get(11),
            },
        );
    }
    let settings = client
        .query(
            &format!(
                "SELECT r.rolname::text, s.setdatabase <> 0, unnest(s.setconfig)
                 FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
                 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                    AND {filter}"
            ),
            &[],
        )
        .await
        .doing("read the settings of roles")?;
    for row in &settings {
        let text: String = row.get(2);
        let Some((name, value)) = text.split_once('=') else { continue };
        if let Some(role) = found.get_mut(&row.get::<_, String>(0)) {
            role.settings.insert(Setting {
                in_database: row.get(1),
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
    }
    // Inheritance and SET have columns of their own since 16; before, the member's rolinherit says it.
    let members = client
        .query(
            &format!(
                "SELECT g.rolname::text, r.rolname::text, bool_or(m.admin_option),
                    bool_or((to_jsonb(m)->>'inherit_option')::bool), bool_or((to_jsonb(m)->>'set_option')::bool)
                 FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
                 WHERE {filter} GROUP BY 1, 2"
            ),
            &[],
        )
        .await
        .doing("read the memberships of roles")?;
    let memberships = members
        .iter()
        .map(|row| Membership {
            role: row.get(0),
            member: row.get(1),
            is_admin: row.get(2),
            inherits: row.get(3),
            may_set: row.get(4),
        })
        .collect();
    let database_settings = client
        .query(
            "SELECT unnest(setconfig) FROM pg_db_role_setting
             WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        )
        .await
        .doing("read the settings of the database")?
        .iter()
        .filter_map(|row| {
            let text: String = row.get(0);
            let (name, value) = text.split_once('=')?;
            Some(Setting { in_database: true, name: name.to_owned(), value: value.to_owned() })
        })
        .collect();
    Ok(Roles { roles: found, memberships, database_settings })
}

fn join(oids: &[u32]) -> String {
    oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
