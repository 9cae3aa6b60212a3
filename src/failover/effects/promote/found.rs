//! What a promotion finds on its target, read in one round trip under the lock of the mirror's row.

use super::super::Error;
use super::APPLICATION;
use super::sequences::Sequence;
use crate::backend::control::Control;
use crate::base::{Epoch, Lsn, MirrorName};
use crate::catalog::door::Door;
use crate::catalog::progress::Phase;
use crate::catalog::triggers::{Enabled, Trigger};
use crate::catalog::{self, literal};
use std::time::SystemTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// A column's table is read without an index up to this size; beyond it, the poll and the gap have
/// to do. Without an index nothing keeps its values unique either.
const SMALL_TABLE_BYTES: i64 = 8 << 20;

/// All of it.
pub(super) struct Found {
    pub(super) database: String,
    pub(super) progress: Option<(Phase, Epoch)>,
    pub(super) lsn: Lsn,
    pub(super) committed_at: Option<SystemTime>,
    pub(super) fence_epoch: Option<Epoch>,
    pub(super) is_fenced: bool,
    pub(super) sequences: Vec<FoundSequence>,
    pub(super) triggers: Vec<Trigger>,
    /// With the grantees that still exist.
    pub(super) door: Option<Door>,
}

/// A sequence of the target.
pub(super) struct FoundSequence {
    pub(super) oid: u32,
    /// Schema and name, for people.
    pub(super) name: String,
    pub(super) is_ours_to_set: bool,
    pub(super) known: Sequence,
    /// Queries for the furthest value of each of its columns.
    pub(super) lookups: Vec<String>,
}

/// Begins the transaction, locks the mirror's row and the fence, and reads the rest.
pub(super) async fn read(client: &Control, mirror: &MirrorName) -> Result<Found, Error> {
    // All are sent at once; the server answers one after the other, each under the locks of the
    // ones before.
    let begin = format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SET LOCAL application_name = {application}; \
         {deadlocks}; \
         SELECT 1 FROM cloud_mirror.progress WHERE mirror = {mirror} FOR UPDATE; \
         SELECT 1 FROM cloud_mirror.fence FOR UPDATE",
        application = literal(APPLICATION),
        // An autovacuum in the way of ALTER TABLE gives way after that time; superusers set it.
        deadlocks = "SELECT pg_catalog.set_config('deadlock_timeout', '20ms', true) \
                     FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper",
        mirror = literal(mirror.as_str()),
    );
    let door = client.query_typed_one(
        "SELECT pg_catalog.current_database()::text, ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles)",
        &[],
    );
    let (begun, progress, fence, names, sequences, triggers, door) = tokio::join!(
        biased;
        client.batch_execute(&begin),
        catalog::progress::read(client, mirror),
        catalog::fence::read(client),
        door,
        sequences(client, mirror),
        triggers(client),
        catalog::door::read(client),
    );
    begun.map_err(|source| match source.code() {
        Some(code) if *code == SqlState::UNDEFINED_TABLE => Error::NotInState(format!(
            "the target database has no schema cloud_mirror, so there is no mirror {mirror} to promote"
        )),
        _ => Error::Sql { what: "lock the mirror's progress", source },
    })?;
    let (progress, fence, names) =
        (progress?, fence?, names.map_err(Error::sql("list the roles of the target"))?);
    let roles: Vec<String> = names.get(1);
    let door = door?.map(|door| {
        let exists = |role: &String| roles.contains(role);
        Door { grantees: door.grantees.into_iter().filter(exists).collect(), ..door }
    });
    Ok(Found {
        database: names.get(0),
        lsn: progress.as_ref().map_or(Lsn::ZERO, |row| row.lsn),
        committed_at: progress.as_ref().and_then(|row| row.committed_at),
        progress: progress.map(|row| (row.phase, row.epoch)),
        fence_epoch: fence.as_ref().map(|row| row.epoch),
        is_fenced: fence.is_some_and(|row| row.state == catalog::fence::State::Fenced),
        sequences: sequences?,
        triggers: triggers?,
        door,
    })
}

async fn sequences(client: &Control, mirror: &MirrorName) -> Result<Vec<FoundSequence>, Error> {
    let rows = client
        .query_typed(
            "WITH owners AS MATERIALIZED ( \
               SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS attnum \
               FROM pg_catalog.pg_depend d \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                 AND d.refclassid = 'pg_catalog.pg_class'::regclass \
                 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') \
               UNION \
               SELECT d.refobjid, f.adrelid, f.adnum \
               FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid \
               WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass \
                 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid = 0), \
             lookups AS MATERIALIZED ( \
               SELECT o.sequence, pg_catalog.array_agg(pg_catalog.format( \
                 'SELECT %s(%I)::numeric FROM %I.%I', \
                 CASE WHEN q.seqincrement > 0 THEN 'max' ELSE 'min' END, \
                 a.attname, n.nspname, t.relname)) AS queries \
               FROM owners o JOIN pg_catalog.pg_sequence q ON q.seqrelid = o.sequence \
               JOIN pg_catalog.pg_class t ON t.oid = o.relation AND t.relkind IN ('r', 'p') \
               JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.attnum \
               WHERE NOT a.attisdropped AND a.atttypid IN (20, 21, 23, 1700) \
                 AND pg_catalog.has_column_privilege(t.oid, a.attnum, 'SELECT') \
                 AND NOT pg_catalog.row_security_active(t.oid) \
                 AND (t.relkind = 'r' AND pg_catalog.pg_relation_size(t.oid) <= $2 \
                   OR EXISTS (SELECT FROM pg_catalog.pg_index i \
                     JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
                     JOIN pg_catalog.pg_am m ON m.oid = x.relam \
                     WHERE i.indrelid = t.oid AND i.indkey[0] = a.attnum AND i.indisvalid \
                       AND i.indpred IS NULL AND m.amname = 'btree')) \
               GROUP BY o.sequence) \
             SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), \
               pg_catalog.has_sequence_privilege(c.oid, 'UPDATE'), \
               q.seqincrement, q.seqstart, q.seqmin, q.seqmax, q.seqcycle, \
               p.last_value, p.is_called, coalesce(p.per_second, 0), \
               CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE') \
                    THEN pg_catalog.pg_sequence_last_value(c.oid) END, \
               coalesce(l.queries, '{}') \
             FROM pg_catalog.pg_sequence q \
             JOIN pg_catalog.pg_class c ON c.oid = q.seqrelid AND c.relpersistence <> 't' \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN cloud_mirror.sequences p ON p.mirror = $1 \
               AND p.schema_name = n.nspname AND p.sequence_name = c.relname \
             LEFT JOIN lookups l ON l.sequence = c.oid \
             WHERE n.nspname <> 'cloud_mirror' AND (p.mirror IS NOT NULL OR NOT EXISTS ( \
               SELECT FROM pg_catalog.pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e' \
                 AND e.classid = 'pg_catalog.pg_class'::regclass)) \
             ORDER BY 2",
            &[(&mirror.as_str(), Type::TEXT), (&SMALL_TABLE_BYTES, Type::INT8)],
        )
        .await
        .map_err(Error::sql("list the sequences"))?;
    Ok(rows
        .iter()
        .map(|row| FoundSequence {
            oid: row.get(0),
            name: row.get(1),
            is_ours_to_set: row.get(2),
            known: Sequence {
                increment: row.get(3),
                start: row.get(4),
                min: row.get(5),
                max: row.get(6),
                cycles: row.get(7),
                polled: row.get::<_, Option<i64>>(8).zip(row.get(9)),
                per_second: row.get(10),
                here: row.get(11),
                top: None,
            },
            lookups: row.get(12),
        })
        .collect())
}

/// The kept triggers that still exist.
async fn triggers(client: &Control) -> Result<Vec<Trigger>, Error> {
    let rows = client
        .query_typed(
            "SELECT k.schema_name, k.table_name, k.trigger_name, k.enabled \
             FROM cloud_mirror.triggers k \
             JOIN pg_catalog.pg_namespace n ON n.nspname = k.schema_name \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = k.table_name \
             JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND t.tgname = k.trigger_name \
             WHERE t.tgenabled <> k.enabled ORDER BY 1, 2, 3",
            &[],
        )
        .await
        .map_err(Error::sql("list the triggers to enable"))?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            // The table has a letter PostgreSQL does not know only if a person wrote it there.
            let enabled = Enabled::from_letter(row.get(3))?;
            Some(Trigger { schema: row.get(0), table: row.get(1), name: row.get(2), enabled })
        })
        .collect())
}
