//! `cloud_mirror.progress`: how far a mirror has come, on its target.

use super::Error;
use super::sql::{bigint, epoch, is_missing};
use crate::base::{DatabaseName, Epoch, Lsn, MirrorName, SlotName};
use std::time::SystemTime;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{GenericClient, Row};

/// What a mirror is doing, as its target remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The first copy is not complete: the target is good for nothing yet.
    Bootstrapping,
    /// The copy is complete; what changed meanwhile is being applied.
    Streaming,
    /// It has caught up once since its bootstrap: it may be promoted.
    Following,
    /// It is the writer now; nothing is applied any more.
    Promoted,
}

impl Phase {
    /// The word in the row.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Bootstrapping => "bootstrapping",
            Phase::Streaming => "streaming",
            Phase::Following => "following",
            Phase::Promoted => "promoted",
        }
    }

    fn parse(word: &str) -> Result<Self, Error> {
        [Phase::Bootstrapping, Phase::Streaming, Phase::Following, Phase::Promoted]
            .into_iter()
            .find(|phase| phase.as_str() == word)
            .ok_or_else(|| Error::Corrupt { table: "progress", found: format!("phase {word:?}") })
    }
}

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which mirror.
    pub mirror: MirrorName,
    /// The epoch whose applier may write to the target.
    pub epoch: Epoch,
    /// What it does.
    pub phase: Phase,
    /// `system_identifier` of the source's cluster.
    pub source_system: String,
    /// Timeline of the source.
    pub source_timeline: i32,
    /// Database of the source.
    pub source_database: DatabaseName,
    /// Slot on the source.
    pub slot: SlotName,
    /// End position, in the source's log, of the last source transaction applied.
    pub lsn: Lsn,
    /// When that transaction was committed, by the source's clock.
    pub committed_at: Option<SystemTime>,
    /// When the row was written, by the target's clock.
    pub updated_at: SystemTime,
}

/// What a new mirror starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which mirror.
    pub mirror: MirrorName,
    /// The epoch of the present owner.
    pub epoch: Epoch,
    /// `system_identifier` of the source's cluster.
    pub source_system: String,
    /// Timeline of the source.
    pub source_timeline: i32,
    /// Database of the source.
    pub source_database: DatabaseName,
    /// Slot on the source.
    pub slot: SlotName,
    /// The slot's consistent point.
    pub lsn: Lsn,
}

const COLUMNS: &str = "mirror, epoch, phase, source_system, source_timeline, source_database, slot, lsn, \
                       committed_at, updated_at";

/// Reads one mirror's row; `None` where our schema is absent or has no such row. Inside a
/// transaction an absent schema also aborts that transaction.
pub async fn read(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
) -> Result<Option<Progress>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM cloud_mirror.progress WHERE mirror = $1");
    match client.query_typed_opt(&sql, &[(&mirror.as_str(), Type::TEXT)]).await {
        Ok(row) => row.as_ref().map(from_row).transpose(),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(Error::Sql { what: "read the mirror's progress", source }),
    }
}

/// Reads the rows of all mirrors that have this database as their target.
pub async fn list(client: &(impl GenericClient + Sync)) -> Result<Vec<Progress>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM cloud_mirror.progress ORDER BY mirror");
    match client.query_typed(&sql, &[]).await {
        Ok(rows) => rows.iter().map(from_row).collect(),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(source) => Err(Error::Sql { what: "list the mirrors' progress", source }),
    }
}

/// Writes the row of a mirror whose bootstrap begins, over what an interrupted one left. Fails
/// with `StaleEpoch` where a newer epoch has written, with `Promoted` after a promotion.
pub async fn start(client: &(impl GenericClient + Sync), start: &Start) -> Result<(), Error> {
    let written = client
        .execute_typed(
            "INSERT INTO cloud_mirror.progress AS p \
               (mirror, epoch, phase, source_system, source_timeline, source_database, slot, lsn) \
             VALUES ($1, $2, 'bootstrapping', $3, $4, $5, $6, $7) \
             ON CONFLICT (mirror) DO UPDATE SET \
               epoch = excluded.epoch, phase = excluded.phase, source_system = excluded.source_system, \
               source_timeline = excluded.source_timeline, source_database = excluded.source_database, \
               slot = excluded.slot, lsn = excluded.lsn, committed_at = NULL, \
               updated_at = pg_catalog.now() \
             WHERE p.epoch <= excluded.epoch AND p.phase <> 'promoted'",
            &[
                (&start.mirror.as_str(), Type::TEXT),
                (&bigint(start.epoch), Type::INT8),
                (&start.source_system, Type::TEXT),
                (&start.source_timeline, Type::INT4),
                (&start.source_database.as_str(), Type::TEXT),
                (&start.slot.as_str(), Type::TEXT),
                (&PgLsn::from(start.lsn.0), Type::PG_LSN),
            ],
        )
        .await
        .map_err(Error::sql("write the mirror's progress"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, &start.mirror, start.epoch).await?) }
}

/// Moves a mirror to another phase, in its own epoch. The same phase again changes nothing.
/// Promotion has its own way (`failover::effects`), since it also raises the epoch.
pub async fn set_phase(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
    at: Epoch,
    phase: Phase,
) -> Result<(), Error> {
    assert!(phase != Phase::Promoted, "a promotion is not a change of phase alone");
    let written = client
        .execute_typed(
            "UPDATE cloud_mirror.progress SET phase = $3, updated_at = pg_catalog.now() \
             WHERE mirror = $1 AND epoch = $2 AND phase <> 'promoted'",
            &[(&mirror.as_str(), Type::TEXT), (&bigint(at), Type::INT8), (&phase.as_str(), Type::TEXT)],
        )
        .await
        .map_err(Error::sql("change the mirror's phase"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, mirror, at).await?) }
}

/// Hands the mirror to an owner that took the lease again on the same side: from now on only the
/// applier of `to` may write. Fails with `StaleEpoch` where a newer epoch has written, and with
/// `Promoted` after a promotion.
pub async fn raise_epoch(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
    to: Epoch,
) -> Result<(), Error> {
    let written = client
        .execute_typed(
            "UPDATE cloud_mirror.progress SET epoch = $2, updated_at = pg_catalog.now() \
             WHERE mirror = $1 AND epoch <= $2 AND phase <> 'promoted'",
            &[(&mirror.as_str(), Type::TEXT), (&bigint(to), Type::INT8)],
        )
        .await
        .map_err(Error::sql("raise the mirror's epoch"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, mirror, to).await?) }
}

/// Forgets a mirror: its progress and its sequences. Nothing to forget is no error.
pub async fn forget(client: &(impl GenericClient + Sync), mirror: &MirrorName) -> Result<(), Error> {
    let sql = "WITH s AS (DELETE FROM cloud_mirror.sequences WHERE mirror = $1) \
               DELETE FROM cloud_mirror.progress WHERE mirror = $1";
    match client.execute_typed(sql, &[(&mirror.as_str(), Type::TEXT)]).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(source) => Err(Error::Sql { what: "forget the mirror's progress", source }),
    }
}

async fn refusal(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
    ours: Epoch,
) -> Result<Error, Error> {
    Ok(match read(client, mirror).await? {
        Some(row) if row.phase == Phase::Promoted => {
            Error::Promoted { mirror: mirror.to_string(), epoch: row.epoch }
        }
        Some(row) => Error::StaleEpoch { table: "progress", ours, theirs: row.epoch },
        None => Error::NoRow { table: "progress", mirror: mirror.to_string() },
    })
}

fn from_row(row: &Row) -> Result<Progress, Error> {
    let corrupt = |found: String| Error::Corrupt { table: "progress", found };
    Ok(Progress {
        mirror: MirrorName::new(row.get::<_, String>(0)).map_err(|e| corrupt(e.to_string()))?,
        epoch: epoch("progress", row.get(1))?,
        phase: Phase::parse(row.get(2))?,
        source_system: row.get(3),
        source_timeline: row.get(4),
        source_database: DatabaseName::new(row.get::<_, String>(5)).map_err(|e| corrupt(e.to_string()))?,
        slot: SlotName::new(row.get::<_, String>(6)).map_err(|e| corrupt(e.to_string()))?,
        lsn: Lsn(row.get::<_, PgLsn>(7).into()),
        committed_at: row.get(8),
        updated_at: row.get(9),
    })
}
