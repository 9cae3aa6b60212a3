//! Transactions that hold up a slot: a new logical slot waits for every transaction that has an
//! xid when it is made, in all databases of the cluster, prepared ones too.

use super::error::{Doing, Error};
use crate::backend::control::Control;

const OPEN: &str = "
SELECT format('pid %s (%s@%s%s, %s, open for %s s): %s', pid, usename, datname,
        coalesce(' ' || nullif(application_name, ''), ''), state,
        extract(epoch FROM clock_timestamp() - xact_start)::int8, left(regexp_replace(query, '\\s+', ' ', 'g'), 80))
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND backend_type <> 'walsender'
    AND xact_start < clock_timestamp() - make_interval(secs => $1)
UNION ALL
SELECT format('prepared transaction %L of %s in %s, prepared at %s: COMMIT PREPARED or ROLLBACK PREPARED it',
        gid, owner, database, date_trunc('second', prepared))
FROM pg_prepared_xacts
LIMIT 20";

/// Names what a slot would wait for now, leaving out what is younger than `seconds`.
pub(super) async fn open_transactions(client: &Control, seconds: f64) -> Result<Vec<String>, Error> {
    let rows = client.query(OPEN, &[&seconds]).await.doing("list open transactions")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
