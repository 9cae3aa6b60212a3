//! `cloud_mirror.made`: what a bootstrap found and made on the target, so that a next one knows
//! what to keep and what is its own.

use super::error::{Doing, Error};
use crate::backend::control::Control;
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = "
SET LOCAL client_min_messages = warning;
CREATE TABLE IF NOT EXISTS cloud_mirror.made (
    kind text NOT NULL CHECK (kind IN ('role', 'extension before')),
    name text NOT NULL,
    fingerprint text,
    PRIMARY KEY (kind, name))";

/// Makes the table if it is missing. Our schema has to exist.
pub(super) async fn ensure(target: &Control) -> Result<(), Error> {
    target.batch_execute(TABLE).await.doing("create cloud_mirror.made")
}

/// Remembers the extensions that were there before us.
pub(super) async fn remember_extensions(target: &Control, names: &BTreeSet<String>) -> Result<(), Error> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    target
        .execute(
            "INSERT INTO cloud_mirror.made (kind, name) SELECT 'extension before', unnest($1::text[])
             ON CONFLICT DO NOTHING",
            &[&names],
        )
        .await
        .doing("remember the target's extensions")?;
    Ok(())
}

/// The extensions that were there before us.
pub(super) async fn extensions_before(target: &Control) -> Result<BTreeSet<String>, Error> {
    let rows = target
        .query("SELECT name FROM cloud_mirror.made WHERE kind = 'extension before'", &[])
        .await
        .doing("read cloud_mirror.made")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Roles we made or took over, with the fingerprints of the verifiers they got. Empty where the
/// table does not exist.
pub(super) async fn roles(target: &Control) -> Result<BTreeMap<String, Option<String>>, Error> {
    let exists = target
        .query_one("SELECT to_regclass('cloud_mirror.made') IS NOT NULL", &[])
        .await
        .doing("look for cloud_mirror.made")?;
    if !exists.get::<_, bool>(0) {
        return Ok(BTreeMap::new());
    }
    let rows = target
        .query("SELECT name, fingerprint FROM cloud_mirror.made WHERE kind = 'role'", &[])
        .await
        .doing("read cloud_mirror.made")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The statement that remembers a role, for the transaction that makes or alters it.
pub(super) fn remembering_role(name: &str, fingerprint: Option<&str>) -> String {
    use crate::catalog::literal;
    format!(
        "INSERT INTO cloud_mirror.made (kind, name, fingerprint) VALUES ('role', {}, {})
         ON CONFLICT (kind, name) DO UPDATE SET fingerprint = excluded.fingerprint",
        literal(name),
        fingerprint.map_or("NULL".to_owned(), literal)
    )
}
