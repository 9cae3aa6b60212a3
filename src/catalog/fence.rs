//! `cloud_mirror.fence`: whether a database may be written to, and by whose word.

use super::Error;
use super::sql::{bigint, epoch, is_missing};
use crate::base::Epoch;
use std::time::SystemTime;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// Whether application sessions may be in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They may.
    Open,
    /// They may not: the connection limit is 0 and superusers cannot log in.
    Fenced,
}

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The epoch in which it was written; never falls.
    pub epoch: Epoch,
    /// Open or fenced.
    pub state: State,
    /// While fenced: the database's connection limit before, -1 for none.
    pub connection_limit: Option<i32>,
    /// While fenced: superusers that could log in before.
    pub superusers: Vec<String>,
    /// When, by the server's clock.
    pub changed_at: SystemTime,
}

/// Reads the row; `None` where our schema is absent or has no row yet. Inside a transaction an
/// absent schema also aborts that transaction.
pub async fn read(client: &(impl GenericClient + Sync)) -> Result<Option<Fence>, Error> {
    let read = client
        .query_typed_opt(
            "SELECT epoch, state, connection_limit, superusers, changed_at FROM cloud_mirror.fence",
            &[],
        )
        .await;
    let row = match read {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(None),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(Error::Sql { what: "read the fence", source }),
    };
    let state = match row.get::<_, &str>(1) {
        "open" => State::Open,
        "fenced" => State::Fenced,
        other => return Err(Error::Corrupt { table: "fence", found: format!("state {other:?}") }),
    };
    Ok(Some(Fence {
        epoch: epoch("fence", row.get(0))?,
        state,
        connection_limit: row.get(2),
        superusers: row.get(3),
        changed_at: row.get(4),
    }))
}

/// Says that the database is open in `at`: makes the row or raises its epoch. Same epoch again
/// changes nothing. Fails with `StillFenced` where a fence has to be lifted first, and with
/// `StaleEpoch` where a newer epoch has written.
pub async fn open(client: &(impl GenericClient + Sync), at: Epoch) -> Result<(), Error> {
    let written = client
        .execute_typed(
            "INSERT INTO cloud_mirror.fence AS f (epoch, state) VALUES ($1, 'open') \
             ON CONFLICT (only_row) DO UPDATE \
             SET epoch = excluded.epoch, changed_at = pg_catalog.now() \
             WHERE f.epoch <= excluded.epoch AND f.state = 'open'",
            &[(&bigint(at), Type::INT8)],
        )
        .await
        .map_err(Error::sql("open the fence row"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, at).await?) }
}

/// Says that the database is fenced in `at` and keeps what has to be given back. What an earlier
/// fence saved wins over what is found now, since it was read before anything was changed; names
/// are added, never dropped. To be called in the transaction that changes limit and roles.
pub async fn shut(
    client: &(impl GenericClient + Sync),
    at: Epoch,
    connection_limit: i32,
    superusers: &[String],
) -> Result<(), Error> {
    let written = client
        .execute_typed(
            "INSERT INTO cloud_mirror.fence AS f (epoch, state, connection_limit, superusers) \
             VALUES ($1, 'fenced', $2, $3) \
             ON CONFLICT (only_row) DO UPDATE SET \
               epoch = excluded.epoch, state = 'fenced', changed_at = pg_catalog.now(), \
               connection_limit = CASE f.state WHEN 'fenced' \
                 THEN coalesce(f.connection_limit, excluded.connection_limit) \
                 ELSE excluded.connection_limit END, \
               superusers = ARRAY(SELECT name FROM pg_catalog.unnest(f.superusers) AS name \
                                  UNION SELECT name FROM pg_catalog.unnest(excluded.superusers) AS name \
                                  ORDER BY name) \
             WHERE f.epoch <= excluded.epoch",
            &[(&bigint(at), Type::INT8), (&connection_limit, Type::INT4), (&superusers, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(Error::sql("write the fence row"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, at).await?) }
}

/// Says that the fence is lifted in `at` and forgets what was saved. To be called in the
/// transaction that gives limit and roles back.
pub async fn lifted(client: &(impl GenericClient + Sync), at: Epoch) -> Result<(), Error> {
    let written = client
        .execute_typed(
            "UPDATE cloud_mirror.fence SET epoch = $1, state = 'open', connection_limit = NULL, \
               superusers = '{}', changed_at = pg_catalog.now() WHERE epoch <= $1",
            &[(&bigint(at), Type::INT8)],
        )
        .await
        .map_err(Error::sql("lift the fence row"))?;
    if written == 1 { Ok(()) } else { Err(refusal(client, at).await?) }
}

/// Why a conditional write found no row to change.
async fn refusal(client: &(impl GenericClient + Sync), ours: Epoch) -> Result<Error, Error> {
    Ok(match read(client).await? {
        Some(fence) if fence.epoch > ours => Error::StaleEpoch { table: "fence", ours, theirs: fence.epoch },
        Some(fence) => Error::StillFenced { epoch: fence.epoch },
        None => Error::Corrupt { table: "fence", found: "no row".to_owned() },
    })
}
