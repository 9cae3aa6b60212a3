//! What a user has made in a database: to see that a target is empty, and to empty it again after
//! a bootstrap that was interrupted.

use super::error::{Doing, Error};
use crate::backend::control::Control;
use std::collections::BTreeSet;

/// One object that a user made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// As `pg_identify_object` calls it: `table`, `composite type`, …
    pub kind: String,
    /// Its name with schema, and arguments where it has them, quoted as SQL needs it.
    pub identity: String,
}

/// Objects of no extension, not of the system, not ours. Members of tables (indexes, constraints,
/// row types, identity sequences) hang on them by dependency `i` and are not listed.
const OBJECTS: &str = "
WITH o(classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, oid FROM pg_class WHERE relkind IN ('r','p','v','m','S','f') AND relpersistence <> 't'
    UNION ALL SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace WHERE nspname <> 'public' AND nspname !~ '^pg_'
    UNION ALL SELECT 'pg_proc'::regclass::oid, oid FROM pg_proc
    UNION ALL SELECT 'pg_type'::regclass::oid, t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typtype IN ('b','d','e','r') OR c.relkind = 'c'
    UNION ALL SELECT 'pg_operator'::regclass::oid, oid FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass::oid, oid FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass::oid, oid FROM pg_opfamily
    UNION ALL SELECT 'pg_collation'::regclass::oid, oid FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass::oid, oid FROM pg_conversion
    UNION ALL SELECT 'pg_ts_config'::regclass::oid, oid FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass::oid, oid FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_parser'::regclass::oid, oid FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass::oid, oid FROM pg_ts_template
    UNION ALL SELECT 'pg_cast'::regclass::oid, oid FROM pg_cast
    UNION ALL SELECT 'pg_transform'::regclass::oid, oid FROM pg_transform
    UNION ALL SELECT 'pg_statistic_ext'::regclass::oid, oid FROM pg_statistic_ext
    UNION ALL SELECT 'pg_foreign_server'::regclass::oid, oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass::oid, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_language'::regclass::oid, oid FROM pg_language
    UNION ALL SELECT 'pg_am'::regclass::oid, oid FROM pg_am
    UNION ALL SELECT 'pg_event_trigger'::regclass::oid, oid FROM pg_event_trigger WHERE evtname !~ '^cloud_mirror'
    UNION ALL SELECT 'pg_subscription'::regclass::oid, oid FROM pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT i.type, i.identity
FROM o CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
WHERE o.objid >= 16384
  AND i.type IS NOT NULL
  AND i.schema IS DISTINCT FROM 'cloud_mirror' AND i.identity <> 'cloud_mirror'
  AND coalesce(i.schema, '') !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d
                  WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0 AND d.deptype IN ('e', 'i'))
ORDER BY (i.type <> 'schema'), i.type, i.identity";

/// Every user object of the database.
pub(super) async fn list(client: &Control) -> Result<Vec<Object>, Error> {
    let rows = client.query(OBJECTS, &[]).await.doing("list the objects of the database")?;
    Ok(rows.iter().map(|row| Object { kind: row.get(0), identity: row.get(1) }).collect())
}

/// Names of the installed extensions.
pub(super) async fn extensions(client: &Control) -> Result<BTreeSet<String>, Error> {
    let rows = client
        .query("SELECT extname::text FROM pg_extension", &[])
        .await
        .doing("list the extensions of the database")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The statement that drops `object` with all that hangs on it, or does nothing when it has gone
/// along with another.
pub(super) fn drop_statement(object: &Object) -> String {
    let kind = match object.kind.as_str() {
        // An ordered-set aggregate needs no ORDER BY in this form.
        "function" | "procedure" | "aggregate" | "window function" => "ROUTINE",
        "composite type" => "TYPE",
        "statistics object" => "STATISTICS",
        "foreign-data wrapper" => "FOREIGN DATA WRAPPER",
        other => other,
    };
    format!("DROP {} IF EXISTS {} CASCADE", kind.to_uppercase(), object.identity)
}

/// How many drops share a transaction: bounds the locks it holds.
const DROPS_PER_TRANSACTION: usize = 64;

/// Drops every user object, every extension that is not in `keep`, and the default privileges.
/// Only for a database that was seen empty before we filled it.
pub(super) async fn drop_all(client: &Control, keep: &BTreeSet<String>) -> Result<(), Error> {
    let mut statements: Vec<String> = list(client).await?.iter().map(drop_statement).collect();
    for extension in extensions(client).await?.difference(keep) {
        let name = postgres_protocol::escape::escape_identifier(extension);
        statements.push(format!("DROP EXTENSION IF EXISTS {name} CASCADE"));
    }
    run_all(client, &statements).await?;
    // Those of a schema have gone with it.
    let rows = client.query(DEFAULT_PRIVILEGES, &[]).await.doing("list default privileges")?;
    run_all(client, &rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()).await
}

async fn run_all(client: &Control, statements: &[String]) -> Result<(), Error> {
    for some in statements.chunks(DROPS_PER_TRANSACTION) {
        client.batch_execute(&some.join(";\n")).await.doing("drop what an interrupted bootstrap left")?;
    }
    Ok(())
}

/// Statements that put default privileges back: `pg_dump` expects that there are none when its
/// tables are made.
const DEFAULT_PRIVILEGES: &str = "
WITH d AS (
    SELECT a.defaclacl, 'ALTER DEFAULT PRIVILEGES FOR ROLE ' || quote_ident(r.rolname)
        || coalesce(' IN SCHEMA ' || quote_ident(n.nspname), '') AS prefix,
        quote_ident(r.rolname) AS owner, n.nspname IS NULL AS is_global,
        CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
            WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' END AS kind
    FROM pg_default_acl a JOIN pg_roles r ON r.oid = a.defaclrole
    LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace
)
SELECT format('%s REVOKE ALL ON %s FROM %s', d.prefix, d.kind,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END)
FROM d CROSS JOIN LATERAL (SELECT DISTINCT grantee FROM aclexplode(d.defaclacl)) g WHERE d.kind IS NOT NULL
UNION ALL
SELECT format('%s GRANT ALL ON %s TO %s', d.prefix, d.kind, d.owner) FROM d WHERE d.is_global AND d.kind IS NOT NULL
UNION ALL
SELECT format('%s GRANT %s TO PUBLIC', d.prefix,
    CASE d.kind WHEN 'FUNCTIONS' THEN 'EXECUTE ON FUNCTIONS' ELSE 'USAGE ON TYPES' END)
FROM d WHERE d.is_global AND d.kind IN ('FUNCTIONS', 'TYPES')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_objects_are_dropped_by_the_name_sql_has_for_them() {
        let check = |kind: &str, identity: &str, expected: &str| {
            let object = Object { kind: kind.to_owned(), identity: identity.to_owned() };
            assert_eq!(drop_statement(&object), expected);
        };
        check("table", "public.t", "DROP TABLE IF EXISTS public.t CASCADE");
        check("aggregate", "public.a(integer)", "DROP ROUTINE IF EXISTS public.a(integer) CASCADE");
        check("composite type", "\"S\".c", "DROP TYPE IF EXISTS \"S\".c CASCADE");
        check("foreign-data wrapper", "w", "DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE");
        check("materialized view", "m.v", "DROP MATERIALIZED VIEW IF EXISTS m.v CASCADE");
    }
}
