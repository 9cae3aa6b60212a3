//! The two publications of a mirror. They come before the slot: a publication that is younger
//! than the slot loses the rows between them (silently since 18) or stops the stream (before).

use super::error::{Doing, Error};
use super::tables::{self, Identity, Sizes, Table};
use crate::backend::control::Control;
use crate::catalog::identifier;
use crate::replicate::MirrorSpec;
use std::time::Duration;

/// Makes both, table by table: a publication FOR ALL TABLES would make the application's own
/// UPDATE fail on each table without identity.
pub(super) async fn create(client: &Control, spec: &MirrorSpec, tables: &[Table]) -> Result<(), Error> {
    let named = |identity: Identity| -> String {
        let names: Vec<String> = tables
            .iter()
            .filter(|t| t.identity == identity)
            .map(|t| format!("TABLE ONLY {}", t.sql_name()))
            .collect();
        if names.is_empty() { String::new() } else { format!(" FOR {}", names.join(", ")) }
    };
    let sql = format!(
        "CREATE PUBLICATION {}{} WITH (publish = 'insert, update, delete, truncate');
         CREATE PUBLICATION {}{} WITH (publish = 'insert, truncate')",
        identifier(&spec.publication()),
        named(Identity::Rows),
        identifier(&spec.publication_of_inserts()),
        named(Identity::Missing),
    );
    with_short_locks(client, "create the publications", &sql).await
}

/// Drops both if they are there.
pub(super) async fn drop_both(client: &Control, spec: &MirrorSpec) -> Result<(), Error> {
    let sql = format!(
        "DROP PUBLICATION IF EXISTS {}; DROP PUBLICATION IF EXISTS {}",
        identifier(&spec.publication()),
        identifier(&spec.publication_of_inserts())
    );
    with_short_locks(client, "drop the publications", &sql).await
}

/// Which of `tables` are in neither publication: made since.
pub(super) async fn uncovered(
    client: &Control,
    spec: &MirrorSpec,
    tables: &[Table],
) -> Result<Vec<String>, Error> {
    let rows = client
        .query(
            "SELECT DISTINCT r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
             WHERE p.pubname = ANY($1::text[])",
            &[&vec![spec.publication(), spec.publication_of_inserts()]],
        )
        .await
        .doing("read the publications")?;
    let covered: std::collections::BTreeSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    Ok(tables.iter().filter(|t| !covered.contains(&t.oid)).map(Table::sql_name).collect())
}

/// Tables of the source that the mirror does not follow because they were made after it: for the
/// status, asked for now and then by whoever keeps the mirror.
pub async fn not_followed(spec: &MirrorSpec, source: &Control) -> Result<Vec<String>, Error> {
    uncovered(source, spec, &tables::list(source, true, Sizes::Skipped).await?).await
}

/// How often a statement that waits for a lock gives way to the application and tries again.
const LOCK_ATTEMPTS: u32 = 30;

/// Runs `sql` as one transaction that never makes the application queue behind us for long.
pub(super) async fn with_short_locks(client: &Control, doing: &str, sql: &str) -> Result<(), Error> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '1s'; {sql}; COMMIT");
    let mut attempt = 1;
    loop {
        match client.batch_execute(&sql).await {
            Ok(()) => return Ok(()),
            Err(source) => {
                let is_locked = source.code().is_some_and(|c| c.code() == "55P03");
                if source.as_db_error().is_some() {
                    client.batch_execute("ROLLBACK").await.doing(doing)?;
                }
                if !is_locked || attempt == LOCK_ATTEMPTS {
                    return Err(Error::Sql { doing: doing.to_owned(), source });
                }
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
