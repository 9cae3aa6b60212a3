//! Lifting a fence: what it changed is given back as the row has it.

use super::Error;
use super::fence::stale;
use crate::backend::Party;
use crate::backend::control::Control;
use crate::base::Epoch;
use crate::catalog::fence::State;
use crate::catalog::{self, identifier};
use std::time::Duration;
use tokio_postgres::types::Type;

/// What was given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifted {
    /// The database's connection limit, -1 for none; `None` when there was no fence.
    pub connection_limit: Option<i32>,
    /// Superusers that can log in again.
    pub superusers: Vec<String>,
}

/// Opens the database of `party` in `epoch` and gives back what a fence took, in one transaction.
/// Without a fence it only raises the epoch; without a row it makes one. Safe to run again.
/// Fails with `StaleEpoch` when a newer epoch has written the row.
pub async fn lift(party: &Party, epoch: Epoch, patience: Duration) -> Result<Lifted, Error> {
    let lifting = async {
        let mut client = party.control("cloud-mirror lift", patience).await?;
        lift_on(&mut client, epoch).await
    };
    match tokio::time::timeout(patience, lifting).await {
        Ok(done) => done,
        Err(_) => Err(Error::Deadline { what: "lift the fence", patience }),
    }
}

async fn lift_on(client: &mut Control, epoch: Epoch) -> Result<Lifted, Error> {
    catalog::schema::ensure(client).await?;
    client
        .batch_execute("SET synchronous_commit = local")
        .await
        .map_err(Error::sql("prepare to lift the fence"))?;
    let transaction = client.transaction().await.map_err(Error::sql("begin to lift the fence"))?;
    let fenced = match catalog::fence::read(&transaction).await? {
        Some(row) if row.epoch > epoch => {
            return Err(Error::StaleEpoch { ours: epoch, theirs: row.epoch });
        }
        Some(row) if row.state == State::Fenced => row,
        Some(_) | None => {
            catalog::fence::open(&transaction, epoch).await.map_err(stale)?;
            transaction.commit().await.map_err(Error::sql("commit the open fence row"))?;
            return Ok(Lifted::default());
        }
    };
    let found = transaction
        .query_typed_one(
            "SELECT pg_catalog.current_database()::text, \
               (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
               ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles \
                     WHERE rolname = ANY ($1) AND NOT rolcanlogin ORDER BY 1)",
            &[(&fenced.superusers, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(Error::sql("look for the fenced superusers"))?;
    let (we_are_superuser, superusers): (bool, Vec<String>) = (found.get(1), found.get(2));
    let limit = fenced.connection_limit.unwrap_or(-1);
    if we_are_superuser {
        let mut given_back =
            format!("ALTER DATABASE {} CONNECTION LIMIT {limit};", identifier(found.get::<_, &str>(0)));
        for name in &superusers {
            given_back += &format!("ALTER ROLE {} LOGIN;", identifier(name));
        }
        transaction.batch_execute(&given_back).await.map_err(Error::sql("open the database"))?;
    }
    catalog::fence::lifted(&transaction, epoch).await.map_err(stale)?;
    transaction.commit().await.map_err(Error::sql("commit the lifted fence"))?;
    if !we_are_superuser {
        // There the fence was the door; see `fence`.
        catalog::door::open(client).await?;
    }
    Ok(Lifted { connection_limit: Some(limit), superusers })
}
