//! What the source says of itself while it is mirrored: its position, what holds the slot back, and what
//! cannot be followed.

use super::error::Error;
use super::spec::MirrorSpec;
use crate::backend::control::Control;
use crate::base::Lsn;
use std::time::Duration;
use tokio_postgres::types::{PgLsn, Type};

/// A transaction that is open for so long is named: the slot cannot move past it.
const HOLDS_UP_AFTER: Duration = Duration::from_secs(60);
/// How many of them are named.
const NAMED_MAX: i64 = 5;

/// Facts of one look at the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of log that the slot keeps.
    pub kept_bytes: u64,
    /// Open and prepared transactions that hold the slot back, with their pids.
    pub holding_up: Vec<String>,
    /// Tables of which only inserts are followed.
    pub inserts_only: Vec<String>,
    /// Rows updated and deleted in those since the server's statistics began.
    pub changed_there: u64,
    /// Something about the slot itself.
    pub slot: Option<String>,
}

/// How far the source's log is flushed.
pub async fn position(source: &Control) -> Result<Lsn, Error> {
    let row = source
        .query_typed_one("SELECT pg_catalog.pg_current_wal_flush_lsn()", &[])
        .await
        .map_err(Error::source("ask for its position"))?;
    Ok(Lsn(row.get::<_, PgLsn>(0).into()))
}

const OPEN: &str = "
SELECT 'a transaction of pid ' || pid || ' (' || coalesce(usename, '?') || ', ' || state || ') is open since '
       || pg_catalog.date_trunc('second', xact_start)
  FROM pg_catalog.pg_stat_activity
 WHERE backend_xid IS NOT NULL AND xact_start < pg_catalog.now() - $1 * interval '1 second'
   AND pid <> pg_catalog.pg_backend_pid()
UNION ALL
SELECT 'the prepared transaction ' || pg_catalog.quote_literal(gid) || ' (' || owner || ', database ' || database
       || ') is open since ' || pg_catalog.date_trunc('second', prepared)
  FROM pg_catalog.pg_prepared_xacts
 WHERE prepared < pg_catalog.now() - $1 * interval '1 second'
 LIMIT $2";

const INSERTS_ONLY: &str = "
SELECT p.schemaname || '.' || p.tablename,
       coalesce(pg_catalog.pg_stat_get_tuples_updated(c.oid) + pg_catalog.pg_stat_get_tuples_deleted(c.oid), 0)
  FROM pg_catalog.pg_publication_tables p
  JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
 WHERE p.pubname = $1
 ORDER BY 1";

const SLOT: &str = "
SELECT coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::pg_catalog.int8, wal_status
  FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";

/// Takes a look.
pub async fn look(source: &Control, spec: &MirrorSpec) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    let doing = "look for what holds the slot back";
    let slot = source
        .query_typed_opt(SLOT, &[(&spec.slot().as_str(), Type::TEXT)])
        .await
        .map_err(Error::source(doing))?;
    if let Some(row) = slot {
        facts.kept_bytes = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        facts.slot = match row.get::<_, Option<&str>>(1) {
            Some("unreserved") => Some(
                "the slot is about to lose what it keeps (max_slot_wal_keep_size): it will have to be made again"
                    .to_owned(),
            ),
            Some("lost") => Some("the slot has lost what it should have kept".to_owned()),
            _ => None,
        };
    }
    let seconds = HOLDS_UP_AFTER.as_secs() as f64;
    let open = source
        .query_typed(OPEN, &[(&seconds, Type::FLOAT8), (&NAMED_MAX, Type::INT8)])
        .await
        .map_err(Error::source(doing))?;
    facts.holding_up = open.iter().filter_map(|row| row.get(0)).collect();
    let tables = source
        .query_typed(INSERTS_ONLY, &[(&spec.publication_of_inserts(), Type::TEXT)])
        .await
        .map_err(Error::source("count what cannot be followed"))?;
    for row in &tables {
        facts.inserts_only.push(row.get(0));
        facts.changed_there += u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
    }
    Ok(facts)
}

/// Ends the walsender that holds our slot, if it is one of ours: an earlier process of this proxy whose connection the server
/// has not missed yet. Returns whether there was one.
pub async fn end_our_walsender(source: &Control, spec: &MirrorSpec) -> Result<bool, Error> {
    let ended = source
        .query_typed(
            "SELECT pg_catalog.pg_terminate_backend(s.active_pid) \
               FROM pg_catalog.pg_replication_slots s \
               JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
              WHERE s.slot_name = $1 AND a.application_name LIKE 'cloud-mirror%' \
                AND a.usename = current_user",
            &[(&spec.slot().as_str(), Type::TEXT)],
        )
        .await
        .map_err(Error::source("end an earlier walsender of ours"))?;
    Ok(!ended.is_empty())
}
