//! Databases as a whole: finding, renaming, making and dropping them.

use super::super::Error;
use super::shape::Shape;
use crate::backend::Party;
use crate::backend::control::{Control, describe};
use crate::base::DatabaseName;
use crate::catalog::identifier;
use std::time::Duration;
use tokio_postgres::types::Type;

/// Between two attempts to end the last sessions of a database.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many of them; CREATE, DROP and RENAME wait another 5 s by themselves.
const LOOKS: u32 = 40;

/// A connection to the same server outside the databases that are renamed.
pub(super) async fn maintenance(party: &Party, patience: Duration) -> Result<Control, Error> {
    let mut last = None;
    for name in ["postgres", "template1"] {
        let name = DatabaseName::new(name).expect("a constant of 1 to 63 bytes");
        if name == party.database {
            continue;
        }
        match party.with_database(name).control("cloud-mirror failback", patience).await {
            Ok(client) => return Ok(client),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("one of two names differs from a third").into())
}

/// What the way home needs to know of a database before it touches it.
pub(super) struct Seen {
    pub(super) connection_limit: i32,
}

pub(super) async fn look_for(client: &Control, name: &DatabaseName) -> Result<Option<Seen>, Error> {
    let row = client
        .query_typed_opt(
            "SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = $1",
            &[(&name.as_str(), Type::TEXT)],
        )
        .await
        .map_err(Error::sql("look for a database"))?;
    Ok(row.map(|row| Seen { connection_limit: row.get(0) }))
}

/// Whether our login may make databases and rename its own.
pub(super) async fn may_make_databases(client: &Control) -> Result<bool, Error> {
    let row = client
        .query_typed_one(
            "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .map_err(Error::sql("ask for our own rights"))?;
    Ok(row.get(0))
}

/// Renames a database that is shut already. Drops our own slots in it first: under its new name
/// nobody would read them, and they would keep the server's log for ever. Done already is no error.
pub(super) async fn set_aside(
    client: &Control,
    name: &DatabaseName,
    aside: &DatabaseName,
) -> Result<(), Error> {
    match (look_for(client, name).await?, look_for(client, aside).await?) {
        (_, Some(_)) => return Ok(()),
        (Some(_), None) => {}
        (None, None) => {
            return Err(Error::NotInState(format!("there is neither a database {name} nor {aside}")));
        }
    }
    end_all(client, name).await?;
    client
        .query_typed(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE database = $1 AND slot_name LIKE 'cloud\\_mirror\\_%' AND NOT active",
            &[(&name.as_str(), Type::TEXT)],
        )
        .await
        .map_err(Error::sql("drop our slots in the old database"))?;
    let sql =
        format!("ALTER DATABASE {} RENAME TO {}", identifier(name.as_str()), identifier(aside.as_str()));
    client.batch_execute(&sql).await.map_err(Error::sql("rename the old database"))
}

/// Makes an empty database in the shape of another one.
pub(super) async fn make(
    client: &Control,
    name: &DatabaseName,
    shape: &Shape,
    connection_limit: i32,
) -> Result<(), Error> {
    client
        .batch_execute(&shape.create(name, connection_limit))
        .await
        .map_err(Error::sql("create the new database"))
}

/// Gives a database the rights and settings of another one; may be done again. Returns what the
/// server refused, which happens where we are no superuser (a custom setting, for example) and
/// must not keep the data from coming home.
pub(super) async fn dress(
    client: &Control,
    name: &DatabaseName,
    shape: &Shape,
) -> Result<Vec<String>, Error> {
    let mut refused = Vec::new();
    for statement in shape.dress(name) {
        match client.batch_execute(&statement).await {
            Ok(()) => {}
            Err(error) if error.as_db_error().is_some() => {
                refused.push(format!("{statement}: {}", describe(&error)));
            }
            Err(source) => return Err(Error::Sql { what: "set up the new database", source }),
        }
    }
    Ok(refused)
}

/// Drops a database that we made and did not finish.
pub(super) async fn drop_unfinished(client: &Control, name: &DatabaseName) -> Result<(), Error> {
    end_all(client, name).await?;
    let sql = format!("DROP DATABASE IF EXISTS {}", identifier(name.as_str()));
    client.batch_execute(&sql).await.map_err(Error::sql("drop the unfinished copy"))
}

/// Ends every session in a database, ours too.
async fn end_all(client: &Control, name: &DatabaseName) -> Result<(), Error> {
    for _ in 0..LOOKS {
        let ended = client
            .query_typed(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid() \
                   AND backend_type IS DISTINCT FROM 'autovacuum worker'",
                &[(&name.as_str(), Type::TEXT)],
            )
            .await
            .map_err(Error::sql("end the sessions of the old database"))?;
        if ended.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::Deadline { what: "end the sessions of the old database", patience: LOOK_EVERY * LOOKS })
}
