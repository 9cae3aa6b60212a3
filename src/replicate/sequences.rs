//! Sequences, which logical decoding does not carry: read on the source each second, set on the
//! mirror, and kept with their speed for the gap that a promotion leaves.

use super::bootstrap::Error;
use crate::backend::control::Control;
use crate::base::{Epoch, MirrorName};
use crate::catalog::sequences::{Seen, write};
use crate::catalog::{identifier, literal};
use std::collections::BTreeMap;
use std::time::SystemTime;
use tokio_postgres::SimpleQueryMessage;

/// What the poll remembers between two calls, so that an idle database costs one query each.
#[derive(Debug, Default)]
pub struct Memory {
    /// What the mirror's sequences were set to.
    set: BTreeMap<(String, String), (i64, bool)>,
    /// Sequences that the mirror does not have.
    missing: Vec<String>,
}

/// What a poll did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Polled {
    /// Sequences of the source.
    pub seen: usize,
    /// Sequences set on the mirror.
    pub set: usize,
    /// Sequences that the mirror does not have.
    pub missing: Vec<String>,
}

impl Polled {
    /// For the status.
    pub fn warnings(&self) -> Vec<String> {
        match self.missing.as_slice() {
            [] => Vec::new(),
            names => vec![format!("sequences that the mirror does not have: {}", names.join(", "))],
        }
    }
}

/// Every permanent sequence that is the user's. `pg_sequence_last_value` is NULL until the first
/// nextval; then the row of the sequence itself says where it will start.
const ALL: &str = "
SELECT n.nspname::text, c.relname::text, s.seqincrement, pg_sequence_last_value(c.oid)
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cloud_mirror')
ORDER BY 1, 2";

/// Polls once: to be called each second by whoever keeps the mirror. Writes under the mirror's epoch;
/// fails with `StaleEpoch` when another has taken it, and then nothing was set. When changes are being
/// applied for longer than a moment the poll waits no longer than that, and the next one does its work.
pub async fn poll(
    source: &Control,
    target: &mut Control,
    mirror: &MirrorName,
    epoch: Epoch,
    memory: &mut Memory,
) -> Result<Polled, Error> {
    let seen = read(source).await?;
    let changed: Vec<&Seen> = seen
        .iter()
        .filter(|s| {
            let key = (s.schema.clone(), s.name.clone());
            memory.set.get(&key) != Some(&(s.last_value, s.is_called))
        })
        .collect();
    let mut polled = Polled { seen: seen.len(), set: 0, missing: Vec::new() };
    let transaction = target.transaction().await.map_err(doing("begin to set sequences"))?;
    // Held against a promotion, which updates the row: it comes before us or after us, and
    // never sees a sequence fall back behind its gap.
    let lock = format!(
        "SET LOCAL lock_timeout = '500ms'; SET LOCAL synchronous_commit = off;
         SELECT 1 FROM cloud_mirror.progress
         WHERE mirror = {} AND epoch = {epoch} AND phase <> 'promoted' FOR SHARE",
        literal(mirror.as_str())
    );
    let locked = match transaction.simple_query(&lock).await {
        Ok(messages) => messages.iter().any(|m| matches!(m, SimpleQueryMessage::Row(_))),
        Err(e) if e.code().is_some_and(|c| c.code() == "55P03") => {
            polled.missing = memory.missing.clone();
            return Ok(polled);
        }
        Err(source) => return Err(doing("take the mirror's state row")(source)),
    };
    if !locked {
        return Err(Error::StaleEpoch);
    }
    let mut set = Vec::new();
    if changed.is_empty() {
        polled.missing = memory.missing.clone();
    } else {
        (set, polled.missing) = set_all(&transaction, &changed).await?;
    }
    write(&transaction, mirror, SystemTime::now(), &seen).await?;
    transaction.commit().await.map_err(doing("commit the sequences"))?;
    polled.set = set.len();
    for seen in set {
        memory.set.insert((seen.schema.clone(), seen.name.clone()), (seen.last_value, seen.is_called));
    }
    memory.missing = polled.missing.clone();
    Ok(polled)
}

async fn read(source: &Control) -> Result<Vec<Seen>, Error> {
    let rows = source.query(ALL, &[]).await.map_err(doing("read the sequences"))?;
    let mut all = Vec::with_capacity(rows.len());
    let mut untouched = Vec::new();
    for row in &rows {
        let value: Option<i64> = row.get(3);
        if value.is_none() {
            untouched.push(all.len());
        }
        all.push(Seen {
            schema: row.get(0),
            name: row.get(1),
            last_value: value.unwrap_or(0),
            is_called: value.is_some(),
            increment: row.get(2),
        });
    }
    // Sequences nobody has used yet: few, and read in a bounded number of statements.
    for some in untouched.chunks(200) {
        let parts: Vec<String> = some
            .iter()
            .map(|at| {
                let s: &Seen = &all[*at];
                format!(
                    "SELECT {at}::int8, last_value, is_called FROM {}.{}",
                    identifier(&s.schema),
                    identifier(&s.name)
                )
            })
            .collect();
        let rows = source
            .query(&parts.join(" UNION ALL "), &[])
            .await
            .map_err(doing("read the sequences that are not used yet"))?;
        for row in &rows {
            let at = usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX);
            if let Some(seen) = all.get_mut(at) {
                (seen.last_value, seen.is_called) = (row.get(1), row.get(2));
            }
        }
    }
    Ok(all)
}

/// Sets those that exist on the mirror; names the others.
async fn set_all<'a>(
    target: &tokio_postgres::Transaction<'_>,
    changed: &[&'a Seen],
) -> Result<(Vec<&'a Seen>, Vec<String>), Error> {
    let schemas: Vec<&str> = changed.iter().map(|s| s.schema.as_str()).collect();
    let names: Vec<&str> = changed.iter().map(|s| s.name.as_str()).collect();
    let values: Vec<i64> = changed.iter().map(|s| s.last_value).collect();
    let called: Vec<bool> = changed.iter().map(|s| s.is_called).collect();
    let rows = target
        .query(
            "SELECT w.at, setval(c.oid, w.value, w.called) IS NOT NULL
             FROM unnest($1::text[], $2::text[], $3::int8[], $4::bool[]) WITH ORDINALITY w(schema, name, value, called, at)
             JOIN pg_namespace n ON n.nspname = w.schema::name
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relkind = 'S'",
            &[&schemas, &names, &values, &called],
        )
        .await
        .map_err(doing("set the mirror's sequences"))?;
    let mut is_set = vec![false; changed.len()];
    for row in &rows {
        let at = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if let Some(one) = at.checked_sub(1).and_then(|at| is_set.get_mut(at)) {
            *one = true;
        }
    }
    let (mut set, mut missing) = (Vec::new(), Vec::new());
    for (seen, is_set) in changed.iter().zip(is_set) {
        match is_set {
            true => set.push(*seen),
            false => missing.push(format!("{}.{}", identifier(&seen.schema), identifier(&seen.name))),
        }
    }
    Ok((set, missing))
}

fn doing(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| Error::Sql { doing: what.to_owned(), source }
}
