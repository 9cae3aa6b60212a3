//! Promoting a mirror: from the commit on, it is the writer of its epoch and no applier of an
//! older one can write to it.
//!
//! One transaction in three round trips: lock the mirror's row and read all that is needed; look
//! up how far the columns fed by sequences have come; write everything and commit. The lock waits
//! for a transaction of the applier that is under way, and the raised epoch refuses the next one.
//! An applier that sits in a transaction without going on is ended.

mod found;
mod sequences;

use super::Error;
use crate::backend::Party;
use crate::backend::control::Control;
use crate::base::{Epoch, Lsn, MirrorName};
use crate::catalog::progress::Phase;
use crate::catalog::{identifier, literal};
use found::Found;
use futures_util::future::try_join_all;
use sequences::{Position, position};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};
use tokio_postgres::types::Type;

/// How we are called on the target meanwhile; whoever blocks a session of this name is ended.
const APPLICATION: &str = "cloud-mirror promote";
/// After this time of waiting we look for who is in the way.
const BLOCKER_PATIENCE: Duration = Duration::from_millis(250);

/// Whether there was anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The mirror has been promoted by this call.
    Promoted,
    /// It was promoted before; only epochs were raised, if that.
    WasPromoted,
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq)]
pub struct Promoted {
    /// The epoch it is the writer of.
    pub epoch: Epoch,
    /// Whether it was this call.
    pub outcome: Outcome,
    /// End position, in the source's log, of the last transaction it has; what the source
    /// committed after it is the lost tail.
    pub lsn: Lsn,
    /// When that transaction was committed, by the source's clock.
    pub committed_at: Option<SystemTime>,
    /// How many sequences were moved on.
    pub sequences: usize,
    /// Sequences too near their end for the whole gap: a value may be handed out twice.
    pub sequences_near_end: Vec<String>,
    /// Sequences our login may not set.
    pub sequences_not_moved: Vec<String>,
    /// How many triggers were enabled again.
    pub triggers: usize,
    /// Whom the door lets in again, with `PUBLIC` for everybody.
    pub admitted: Vec<String>,
    /// From the first statement to the answer of the commit.
    pub took: Duration,
}

/// Promotes the mirror on `target` to the writer of `epoch`, within `patience`.
///
/// Safe to run again after any error, also by another process: everything is one transaction, and
/// a mirror that is promoted already only has its epoch raised. Fails with `StaleEpoch` when the
/// mirror is at `epoch` or later, and with `NotInState` when it has never reached `Following`, is
/// unknown, or its database is fenced.
pub async fn promote(
    target: &Party,
    mirror: &MirrorName,
    epoch: Epoch,
    patience: Duration,
) -> Result<Promoted, Error> {
    let deadline = Instant::now() + patience;
    let client = target.control(APPLICATION, patience).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    promote_on(client, target, mirror, epoch, left).await
}

/// [`promote`] on a connection to `target` that is there already, for who cannot wait for a
/// log-in. It is closed afterwards.
pub async fn promote_on(
    mut client: Control,
    target: &Party,
    mirror: &MirrorName,
    epoch: Epoch,
    patience: Duration,
) -> Result<Promoted, Error> {
    let started = Instant::now();
    let promoting = async {
        match run(&mut client, mirror, epoch, Lookups::Take).await {
            // A column that cannot be read must not keep a whole database from being promoted:
            // the poll and the gap are the rule, the column a second safety.
            Err(Error::Sql { what: LOOK_UP, source }) if source.as_db_error().is_some() => {
                tracing::warn!(event = "failover.lookup_failed", error = %source);
                client.batch_execute("ROLLBACK").await.map_err(Error::sql("begin again"))?;
                run(&mut client, mirror, epoch, Lookups::Skip).await
            }
            done => done,
        }
    };
    let promoted = tokio::select! {
        done = tokio::time::timeout(patience, promoting) => done,
        never = clear_the_way(target, patience) => match never {},
    };
    match promoted {
        Ok(done) => done.map(|promoted| Promoted { took: started.elapsed(), ..promoted }),
        Err(_) => Err(Error::Deadline { what: "promote the mirror", patience }),
    }
}

/// Whether columns are asked how far they have come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookups {
    Take,
    Skip,
}

/// Planning takes time with the square of the lookups in a statement: 500 in one take 260 ms, in
/// twenties 45 ms.
const LOOKUPS_PER_STATEMENT: usize = 20;
const LOOK_UP: &str = "look up how far the sequences' columns have come";

async fn run(
    client: &mut Control,
    mirror: &MirrorName,
    epoch: Epoch,
    lookups: Lookups,
) -> Result<Promoted, Error> {
    let found = found::read(client, mirror).await?;
    let outcome = admit(&found, mirror, epoch)?;
    let mut promoted = Promoted {
        epoch,
        outcome,
        lsn: found.lsn,
        committed_at: found.committed_at,
        sequences: 0,
        sequences_near_end: Vec::new(),
        sequences_not_moved: Vec::new(),
        triggers: 0,
        admitted: Vec::new(),
        took: Duration::ZERO,
    };
    let mut sql = format!(
        "UPDATE cloud_mirror.progress SET phase = 'promoted', epoch = {epoch}, \
           updated_at = pg_catalog.now() WHERE mirror = {};\
         INSERT INTO cloud_mirror.fence AS f (epoch, state) VALUES ({epoch}, 'open') \
         ON CONFLICT (only_row) DO UPDATE SET epoch = excluded.epoch, changed_at = pg_catalog.now();",
        literal(mirror.as_str())
    );
    if outcome == Outcome::Promoted {
        let tops = match lookups {
            Lookups::Take => look_up(client, &found).await?,
            Lookups::Skip => BTreeMap::new(),
        };
        sql += &move_sequences(&found, &tops, &mut promoted);
        sql += &restore_triggers(&found, &mut promoted);
        sql += &open_the_door(&found, &mut promoted);
    }
    sql += "COMMIT";
    client.batch_execute(&sql).await.map_err(Error::sql("promote the mirror"))?;
    Ok(promoted)
}

/// Whether this mirror may be promoted to this epoch. Pure.
fn admit(found: &Found, mirror: &MirrorName, epoch: Epoch) -> Result<Outcome, Error> {
    let not_in_state = |text: String| Err(Error::NotInState(text));
    let stale = |theirs| Err(Error::StaleEpoch { ours: epoch, theirs });
    let Some((phase, at)) = found.progress else {
        return not_in_state(format!(
            "there is no mirror {mirror} in its target database; nothing to promote"
        ));
    };
    if let Some(fence_epoch) = found.fence_epoch
        && fence_epoch > epoch
    {
        return stale(fence_epoch);
    }
    if found.is_fenced {
        return not_in_state(format!("the target database of the mirror {mirror} is fenced itself"));
    }
    match phase {
        Phase::Promoted if at > epoch => stale(at),
        Phase::Promoted => Ok(Outcome::WasPromoted),
        _ if at >= epoch => stale(at),
        Phase::Following => Ok(Outcome::Promoted),
        Phase::Bootstrapping | Phase::Streaming => not_in_state(format!(
            "the mirror {mirror} is not complete (it is {}); only one that has reached Following is promoted",
            phase.as_str()
        )),
    }
}

/// The furthest value in the columns of each sequence, by the sequence's oid.
async fn look_up(client: &Control, found: &Found) -> Result<BTreeMap<u32, i128>, Error> {
    let lookups: Vec<String> = found
        .sequences
        .iter()
        .flat_map(|s| {
            s.lookups.iter().map(|q| format!("SELECT {}::oid, pg_catalog.trunc(({q}))::text", s.oid))
        })
        .collect();
    let statements: Vec<String> =
        lookups.chunks(LOOKUPS_PER_STATEMENT).map(|some| some.join(" UNION ALL ")).collect();
    // All are sent at once.
    let answers = try_join_all(statements.iter().map(|sql| client.query_typed(sql, &[]))).await;
    let mut tops = BTreeMap::new();
    for row in answers.map_err(Error::sql(LOOK_UP))?.into_iter().flatten() {
        let Some(top) = row.get::<_, Option<&str>>(1).and_then(|text| text.parse::<i128>().ok()) else {
            continue;
        };
        let oid: u32 = row.get(0);
        let is_ascending = found.sequences.iter().any(|s| s.oid == oid && s.known.increment > 0);
        tops.entry(oid)
            .and_modify(|furthest: &mut i128| {
                *furthest = if is_ascending { top.max(*furthest) } else { top.min(*furthest) };
            })
            .or_insert(top);
    }
    Ok(tops)
}

fn move_sequences(found: &Found, tops: &BTreeMap<u32, i128>, promoted: &mut Promoted) -> String {
    let (mut oids, mut values) = (Vec::new(), Vec::new());
    for sequence in &found.sequences {
        if !sequence.is_ours_to_set {
            promoted.sequences_not_moved.push(sequence.name.clone());
            continue;
        }
        let known = sequences::Sequence { top: tops.get(&sequence.oid).copied(), ..sequence.known.clone() };
        let to = position(&known);
        if let Position::NearEnd(_) = to {
            promoted.sequences_near_end.push(sequence.name.clone());
        }
        oids.push(sequence.oid.to_string());
        values.push(to.value().to_string());
    }
    promoted.sequences = oids.len();
    if oids.is_empty() {
        return String::new();
    }
    // One statement for all of them.
    format!(
        "SELECT count(pg_catalog.setval(s.id::pg_catalog.regclass, s.value)) \
         FROM unnest('{{{}}}'::oid[], '{{{}}}'::int8[]) AS s (id, value);",
        oids.join(","),
        values.join(",")
    )
}

fn restore_triggers(found: &Found, promoted: &mut Promoted) -> String {
    promoted.triggers = found.triggers.len();
    let mut sql: String = found.triggers.iter().map(|trigger| trigger.restoring() + ";").collect();
    sql += "DELETE FROM cloud_mirror.triggers;";
    sql
}

fn open_the_door(found: &Found, promoted: &mut Promoted) -> String {
    let Some(door) = &found.door else { return String::new() };
    let database = identifier(&found.database);
    let mut sql = String::new();
    if door.public_could_connect {
        sql += &format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC;");
        promoted.admitted.push("PUBLIC".to_owned());
    }
    for role in &door.grantees {
        let option = if door.grantable.contains(role) { " WITH GRANT OPTION" } else { "" };
        sql += &format!("GRANT CONNECT ON DATABASE {database} TO {}{option};", identifier(role));
        promoted.admitted.push(role.clone());
    }
    sql += "DELETE FROM cloud_mirror.door;";
    sql
}

/// Ends sessions that keep a promotion waiting, until the promotion is over: an applier that hangs
/// in a transaction (its proxy may be gone without the server knowing), or somebody's lock on a
/// table whose triggers are enabled.
async fn clear_the_way(target: &Party, patience: Duration) -> std::convert::Infallible {
    tokio::time::sleep(BLOCKER_PATIENCE).await;
    loop {
        if let Ok(client) = target.control("cloud-mirror clears the way", patience).await {
            loop {
                // A login that is no superuser may end its own sessions only, and one refusal
                // would fail the statement for all.
                let ended = client
                    .query_typed(
                        "SELECT pg_catalog.pg_terminate_backend(b.pid) \
                         FROM pg_catalog.pg_stat_activity waiting, \
                           pg_catalog.unnest(pg_catalog.pg_blocking_pids(waiting.pid)) AS blocking (pid) \
                         JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid, \
                           pg_catalog.pg_roles me \
                         WHERE waiting.application_name = $1 AND waiting.usename = current_user \
                           AND waiting.datname = pg_catalog.current_database() \
                           AND me.rolname = current_user AND (me.rolsuper OR b.usename = current_user)",
                        &[(&APPLICATION, Type::TEXT)],
                    )
                    .await;
                if ended.is_err() {
                    break;
                }
                tokio::time::sleep(BLOCKER_PATIENCE / 5).await;
            }
        }
        tokio::time::sleep(BLOCKER_PATIENCE).await;
    }
}
