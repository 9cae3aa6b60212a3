//! Whether values may travel in binary form.
//!
//! The binary form of the `reg*` types is an OID of the source's catalog, which means something
//! else on the target; their text form is a name. The form is chosen for a whole stream, so one
//! such column, however deep inside arrays, composites, domains or ranges, makes all of it text.

use super::error::Error;
use crate::backend::control::Control;
use crate::wire::replication::ValueForm;
use tokio_postgres::types::Type;

const HAS_NAMES: &str = "
WITH RECURSIVE used(type) AS (
    SELECT DISTINCT a.atttypid
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
       AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'cloud_mirror')
       AND ($1::pg_catalog.text IS NULL OR (n.nspname = $1 AND c.relname = $2::pg_catalog.text))
    UNION
    SELECT part.type
      FROM used
      JOIN pg_catalog.pg_type t ON t.oid = used.type
     CROSS JOIN LATERAL (
           SELECT t.typelem AS type
           UNION ALL SELECT t.typbasetype
           UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
           UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
           ) part
     WHERE part.type <> 0)
SELECT EXISTS (SELECT FROM used JOIN pg_catalog.pg_type t ON t.oid = used.type
                WHERE t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname LIKE 'reg%'
                  AND t.typlen = 4)";

/// The form in which every table of the database can be carried.
pub async fn of_database(target: &Control) -> Result<ValueForm, Error> {
    ask(target, None).await
}

/// The form in which one table can be carried.
pub async fn of_table(target: &Control, schema: &str, name: &str) -> Result<ValueForm, Error> {
    ask(target, Some((schema, name))).await
}

async fn ask(target: &Control, table: Option<(&str, &str)>) -> Result<ValueForm, Error> {
    let (schema, name) = table.unzip();
    let row = target
        .query_typed_one(HAS_NAMES, &[(&schema, Type::TEXT), (&name, Type::TEXT)])
        .await
        .map_err(Error::target("look at the types in use"))?;
    Ok(if row.get(0) { ValueForm::Text } else { ValueForm::Binary })
}
