//! `cloud_mirror.sequences`: where the source's sequences stood when they were last polled.

use super::Error;
use super::sql::is_missing;
use crate::base::MirrorName;
use std::time::SystemTime;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// One sequence as the poll saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `last_value` of the sequence.
    pub last_value: i64,
    /// Whether `last_value` was handed out already.
    pub is_called: bool,
    /// Its increment; negative when it descends.
    pub increment: i64,
}

/// The row: what was seen, how fast it moves, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Polled {
    /// What was seen.
    pub seen: Seen,
    /// How far `last_value` moves in a second, at its fastest of late; never negative.
    pub per_second: f64,
    /// When, by the clock that was handed to [`write()`].
    pub polled_at: SystemTime,
}

/// Keeps what a poll saw, in one statement for all sequences, and works out how fast each moves.
/// A burst counts for a while after its end: the rate falls by half a minute, not at once.
/// Sequences that are gone keep their row; a promotion looks for the ones that exist.
pub async fn write(
    client: &(impl GenericClient + Sync),
    mirror: &MirrorName,
    polled_at: SystemTime,
    seen: &[Seen],
) -> Result<(), Error> {
    let column = |of: fn(&Seen) -> i64| seen.iter().map(of).collect::<Vec<_>>();
    let schemas: Vec<&str> = seen.iter().map(|s| s.schema.as_str()).collect();
    let names: Vec<&str> = seen.iter().map(|s| s.name.as_str()).collect();
    let called: Vec<bool> = seen.iter().map(|s| s.is_called).collect();
    client
        // unnest of several arrays is a form of its own, which a schema's name would hide.
        .execute_typed(
            "INSERT INTO cloud_mirror.sequences AS s \
               (mirror, polled_at, schema_name, sequence_name, last_value, is_called, increment) \
             SELECT $1, $2, n.* FROM unnest($3, $4, $5, $6, $7) AS n \
             ON CONFLICT (mirror, schema_name, sequence_name) DO UPDATE SET \
               last_value = excluded.last_value, is_called = excluded.is_called, \
               increment = excluded.increment, polled_at = excluded.polled_at, \
               per_second = CASE WHEN excluded.polled_at <= s.polled_at THEN s.per_second ELSE \
                 greatest( \
                   abs(excluded.last_value::float8 - s.last_value::float8) \
                     / extract(epoch FROM excluded.polled_at - s.polled_at)::float8, \
                   s.per_second * power(0.5::float8, \
                     least(60, extract(epoch FROM excluded.polled_at - s.polled_at)::float8 / 60))) END \
             WHERE s.polled_at <= excluded.polled_at",
            &[
                (&mirror.as_str(), Type::TEXT),
                (&polled_at, Type::TIMESTAMPTZ),
                (&schemas, Type::TEXT_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&column(|s| s.last_value), Type::INT8_ARRAY),
                (&called, Type::BOOL_ARRAY),
                (&column(|s| s.increment), Type::INT8_ARRAY),
            ],
        )
        .await
        .map_err(Error::sql("keep the sequences' positions"))?;
    Ok(())
}

/// What is kept for a mirror, by schema and name; empty where our schema is absent.
pub async fn read(client: &(impl GenericClient + Sync), mirror: &MirrorName) -> Result<Vec<Polled>, Error> {
    let sql = "SELECT schema_name, sequence_name, last_value, is_called, increment, per_second, polled_at \
               FROM cloud_mirror.sequences WHERE mirror = $1 ORDER BY schema_name, sequence_name";
    match client.query_typed(sql, &[(&mirror.as_str(), Type::TEXT)]).await {
        Ok(rows) => Ok(rows
            .iter()
            .map(|row| Polled {
                seen: Seen {
                    schema: row.get(0),
                    name: row.get(1),
                    last_value: row.get(2),
                    is_called: row.get(3),
                    increment: row.get(4),
                },
                per_second: row.get(5),
                polled_at: row.get(6),
            })
            .collect()),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(source) => Err(Error::Sql { what: "read the sequences' positions", source }),
    }
}
