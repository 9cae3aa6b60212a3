//! Making and removing the schema.

use super::Error;
use tokio_postgres::Client;

/// The name of our schema; what a person may look at with `\dt cloud_mirror.*`.
pub const SCHEMA: &str = "cloud_mirror";

/// Makes the schema and what is missing in it; changes nothing that is there. Called for both
/// databases of a mirror whenever a proxy starts to work with them.
///
/// Needs CREATE on the database, which its owner has. PUBLIC may read, or `pg_dump` by the
/// application's role would fail on our tables; it may not write, also where default privileges
/// would hand new tables out.
pub async fn ensure(client: &Client) -> Result<(), Error> {
    // One message is one transaction. The lock makes two starting proxies take turns, because
    // IF NOT EXISTS alone lets both see nothing and one fail ("CREATE TABLE").
    client
        .batch_execute(include_str!("schema.sql"))
        .await
        .map_err(Error::sql("create the schema cloud_mirror"))
}

/// Whether the schema is there.
pub async fn exists(client: &Client) -> Result<bool, Error> {
    let row = client
        .query_typed_one("SELECT pg_catalog.to_regnamespace('cloud_mirror') IS NOT NULL", &[])
        .await
        .map_err(Error::sql("look for the schema cloud_mirror"))?;
    Ok(row.get(0))
}

/// Removes the schema and every row in it. For the last mirror of a database only, and never
/// while the database is fenced: the saved limits would be gone.
pub async fn remove(client: &Client) -> Result<(), Error> {
    if let Some(fence) = super::fence::read(client).await?
        && fence.state == super::fence::State::Fenced
    {
        return Err(Error::StillFenced { epoch: fence.epoch });
    }
    client
        .batch_execute("SET LOCAL client_min_messages = warning; DROP SCHEMA IF EXISTS cloud_mirror CASCADE")
        .await
        .map_err(Error::sql("drop the schema cloud_mirror"))
}
