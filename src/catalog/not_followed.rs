//! `cloud_mirror.not_followed`: rows the source changed where a mirror cannot follow.

use super::Error;
use super::sql::is_missing;
use crate::base::MirrorName;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// Adds what has happened since the last call and returns the sum since the copy was made.
/// `changed` is the source's own counter, which begins again at 0 when its statistics are lost.
pub async fn count(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
    changed: u64,
) -> Result<u64, Error> {
    let changed = i64::try_from(changed).unwrap_or(i64::MAX);
    let row = client
        .query_typed_one(
            "INSERT INTO cloud_mirror.not_followed AS f (mirror, rows, seen) VALUES ($1, 0, $2) \
             ON CONFLICT (mirror) DO UPDATE SET \
               rows = f.rows + CASE WHEN $2 >= f.seen THEN $2 - f.seen ELSE $2 END, seen = $2 \
             RETURNING rows",
            &[(&mirror.as_str(), Type::TEXT), (&changed, Type::INT8)],
        )
        .await
        .map_err(Error::sql("count what is not followed"))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Begins to count anew, for a mirror that is copied again. Nothing to forget is no error.
pub async fn forget(client: &(impl GenericClient + Sync), mirror: &MirrorName) -> Result<(), Error> {
    let sql = "DELETE FROM cloud_mirror.not_followed WHERE mirror = $1";
    match client.execute_typed(sql, &[(&mirror.as_str(), Type::TEXT)]).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(source) => Err(Error::Sql { what: "forget what was not followed", source }),
    }
}
