//! REPLICA IDENTITY FULL for tables of the source without a key, when the user asks for it.

use super::error::{Doing, Error};
use super::publication::with_short_locks;
use super::tables::Table;
use crate::backend::control::Control;
use crate::catalog::{self, identifier, literal};

/// On the source: which tables we changed and how they were, so that dropping the mirror puts
/// them back.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS cloud_mirror.identity (
    schema_name text, table_name text, was \"char\" NOT NULL, PRIMARY KEY (schema_name, table_name))";

/// Gives `table` a full identity.
pub(super) async fn give_full(source: &Control, table: &Table) -> Result<(), Error> {
    catalog::schema::ensure(source).await?;
    let (schema, name) = (literal(&table.schema), literal(&table.name));
    let sql = format!(
        "SET LOCAL client_min_messages = warning; {TABLE};
         INSERT INTO cloud_mirror.identity SELECT {schema}, {name}, relreplident FROM pg_class WHERE oid = {}
            ON CONFLICT DO NOTHING;
         ALTER TABLE ONLY {} REPLICA IDENTITY FULL",
        table.oid,
        table.sql_name()
    );
    with_short_locks(source, &format!("give {} a full identity", table.sql_name()), &sql).await
}

/// Puts back what [`give_full`] changed, as far as nobody has changed it again.
pub(super) async fn put_back(source: &Control) -> Result<(), Error> {
    let exists = source
        .query_one("SELECT to_regclass('cloud_mirror.identity') IS NOT NULL", &[])
        .await
        .doing("look for changed identities")?;
    if !exists.get::<_, bool>(0) {
        return Ok(());
    }
    let rows = source
        .query(
            "SELECT i.schema_name, i.table_name, i.was FROM cloud_mirror.identity i
             JOIN pg_namespace n ON n.nspname = i.schema_name::name
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = i.table_name::name
             WHERE c.relreplident = 'f'",
            &[],
        )
        .await
        .doing("read changed identities")?;
    for row in &rows {
        let identity = if row.get::<_, i8>(2) == b'n' as i8 { "NOTHING" } else { "DEFAULT" };
        let name = format!("{}.{}", identifier(row.get(0)), identifier(row.get(1)));
        let sql = format!("ALTER TABLE ONLY {name} REPLICA IDENTITY {identity}");
        with_short_locks(source, &format!("put the identity of {name} back"), &sql).await?;
    }
    source.batch_execute("DROP TABLE cloud_mirror.identity").await.doing("forget changed identities")
}
