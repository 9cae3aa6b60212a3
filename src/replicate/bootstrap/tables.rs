//! The tables of the source: what is published and copied, and how.

use super::error::{Doing, Error};
use crate::backend::control::Control;
use crate::catalog::identifier;

/// How the stream tells a row of a table from the others ("REPLICA IDENTITY").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// A key, or all columns: every change can be followed.
    Rows,
    /// None: only inserts and truncations can be followed.
    Missing,
}

/// In which form a table is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Text,
}

/// One table with rows: ordinary, persistent, of no extension; of a partitioned table the leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// The file that holds it: changes when it is rewritten.
    pub filenode: u32,
    /// With TOAST and its maps.
    pub bytes: u64,
    /// Pages of the table itself.
    pub pages: u64,
    /// Those that are stored and not generated.
    pub columns: Vec<String>,
    pub form: Form,
    pub identity: Identity,
}

impl Table {
    pub(super) fn sql_name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// A binary form exists when every type inside has functions to send and receive it. `reg…` types
/// send the oid of something that has another oid on the other side. A base type of an extension may
/// have another binary form in another major version.
const TABLES: &str = "
WITH RECURSIVE tables AS (
    SELECT c.oid, n.nspname, c.relname, c.relfilenode, c.relreplident
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cloud_mirror')
        AND NOT EXISTS (SELECT 1 FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
),
columns AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid
    FROM pg_attribute a JOIN tables t ON t.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
),
inside(rel, typ) AS (
    SELECT attrelid, atttypid FROM columns
    UNION
    SELECT i.rel, x.typ FROM inside i JOIN pg_type t ON t.oid = i.typ CROSS JOIN LATERAL (
        SELECT t.typelem AS typ WHERE t.typelem <> 0 AND t.typlen = -1
        UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
        UNION ALL SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) x
),
text_only AS (
    SELECT DISTINCT i.rel FROM inside i JOIN pg_type t ON t.oid = i.typ
    WHERE t.typsend = 0 OR t.typreceive = 0
        OR t.typname ~ '^reg(proc|procedure|oper|operator|class|type|role|namespace|config|dictionary|collation)$'
            AND t.typnamespace = 'pg_catalog'::regnamespace
        OR $1 AND t.oid >= 16384 AND t.typtype = 'b' AND t.typelem = 0
)
SELECT t.oid, t.nspname::text, t.relname::text, t.relfilenode,
    coalesce(CASE WHEN $2 THEN pg_table_size(t.oid) END, 0),
    coalesce(CASE WHEN $2 THEN pg_relation_size(t.oid) END, 0) / current_setting('block_size')::int8,
    ARRAY(SELECT c.attname::text FROM columns c WHERE c.attrelid = t.oid ORDER BY c.attnum),
    EXISTS (SELECT 1 FROM text_only x WHERE x.rel = t.oid),
    CASE t.relreplident
        WHEN 'f' THEN true
        WHEN 'd' THEN EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary
                                AND i.indimmediate AND i.indisvalid)
        WHEN 'i' THEN EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisreplident
                                AND i.indimmediate AND i.indisvalid)
        ELSE false END
FROM tables t ORDER BY t.oid";

/// Whether sizes are wanted: they ask the file system about each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    Measured,
    Skipped,
}

/// Lists them. `same_major` says whether both servers have the same major version.
pub(super) async fn list(client: &Control, same_major: bool, sizes: Sizes) -> Result<Vec<Table>, Error> {
    let rows = client
        .query(TABLES, &[&!same_major, &(sizes == Sizes::Measured)])
        .await
        .doing("list the tables of the source")?;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(rows
        .iter()
        .map(|row| Table {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            filenode: row.get(3),
            bytes: number(row.get(4)),
            pages: number(row.get(5)),
            columns: row.get(6),
            form: if row.get(7) { Form::Text } else { Form::Binary },
            identity: if row.get(8) { Identity::Rows } else { Identity::Missing },
        })
        .collect())
}
