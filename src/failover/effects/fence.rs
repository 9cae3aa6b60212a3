//! Fencing a database: from the return of [`fence`] on, no application session is in it and none
//! gets in.
//!
//! 1. **Door**, one transaction: the fence row with what has to be given back, `CONNECTION LIMIT
//!    0`, and NOLOGIN for every other superuser, whom a limit does not stop. The row is in the
//!    same transaction, so a crash leaves all of it or nothing.
//! 2. **Empty**: looks at `pg_locks` and `pg_stat_activity`, in this order, until two in a row
//!    find nobody, ending whoever is found, also back ends that are still starting and had passed
//!    the limit before.
//! 3. **Left behind**, reported: prepared transactions, and workers that may write.
//!
//! Where our login is no superuser (the cloud's), a limit would shut us out as well. There the
//! door is the privilege CONNECT (`catalog::door`), and the other superusers belong to the
//! provider.

use super::Error;
use super::scan::{Scan, Session, starting, terminate};
use crate::backend::Party;
use crate::backend::control::Control;
use crate::base::Epoch;
use crate::catalog::{self, identifier};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

/// Between two looks at who is in the database; a back end needs about that long to end.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a back end that was logging in when the door shut may take for it. Only those that
/// had passed the check of LOGIN matter, and they need microseconds; the others wait for their
/// client's password.
const LOG_IN_PATIENCE: Duration = Duration::from_millis(30);
/// How long one attempt to shut the door waits for locks before it ends their holders.
const LOCK_PATIENCE: &str = "100ms";
/// The advisory lock of who is fencing: between a row that is absent and one that is written there
/// is nothing else to lock.
const FENCING: i64 = 7_161_398_272;
/// How many sessions are kept by name; beyond that they are counted.
const SESSIONS_KEPT: usize = 100;

/// What the fence did and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The epoch in the fence row.
    pub epoch: Epoch,
    /// How many sessions were ended.
    pub terminated: usize,
    /// The first of them.
    pub sessions: Vec<Session>,
    /// How many back ends were ended while they were starting: they had executed nothing.
    pub turned_away: usize,
    /// Superusers without LOGIN as long as the fence stands, also from an earlier run.
    pub superusers: Vec<String>,
    /// Roles with REPLICATION that are no superusers: a connection limit does not stop them from
    /// opening a replication connection, which takes SQL too.
    pub replication_roles: Vec<String>,
    /// What runs in the database by itself and may write: subscriptions, `pg_cron`, other workers.
    pub workers: Vec<String>,
    /// Prepared transactions, by their identifiers: neither committed nor rolled back, and nobody
    /// can do either before the fence is lifted.
    pub prepared: Vec<String>,
    /// From the first statement to the second clean look.
    pub took: Duration,
}

/// Fences the database of `party` in `epoch`, within `patience`. Safe to run again at any time:
/// what was saved first is kept, and the database is emptied again.
///
/// Fails with `StaleEpoch` when a newer epoch has written the row, before anything is changed;
/// with `NotClean` when sessions do not end in time: the door is shut then, but somebody may
/// still be writing.
pub async fn fence(party: &Party, epoch: Epoch, patience: Duration) -> Result<Fenced, Error> {
    let deadline = Instant::now() + patience;
    let mut client = party.control("cloud-mirror fence", patience).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    fence_on(&mut client, epoch, left).await
}

/// [`fence`] on a connection that is there already, for who cannot wait for a log-in.
pub async fn fence_on(client: &mut Control, epoch: Epoch, patience: Duration) -> Result<Fenced, Error> {
    // The server's own time-outs end a statement that waits; this one ends a server that is gone.
    let bound = patience + Duration::from_millis(200);
    match tokio::time::timeout(bound, run(client, epoch, patience)).await {
        Ok(done) => done,
        Err(_) => Err(Error::Deadline { what: "fence the database", patience }),
    }
}

async fn run(client: &mut Control, epoch: Epoch, patience: Duration) -> Result<Fenced, Error> {
    let started = Instant::now();
    let deadline = started + patience;
    let mut ended = BTreeMap::new();
    let superusers = shut_the_door(client, epoch, deadline, &mut ended).await?;
    empty(client, started, patience, &mut ended).await?;
    let took = started.elapsed();
    let behind = left_behind(client).await?;
    let (sessions, turned_away): (Vec<_>, Vec<_>) =
        ended.into_values().partition(|session| session.user.is_some());
    Ok(Fenced {
        epoch,
        terminated: sessions.len(),
        sessions: sessions.into_iter().take(SESSIONS_KEPT).collect(),
        turned_away: turned_away.len(),
        superusers,
        replication_roles: behind.replication_roles,
        workers: behind.workers,
        prepared: behind.prepared,
        took,
    })
}

/// Step 1, again and again while somebody's lock is in the way, ending who is inside.
async fn shut_the_door(
    client: &mut Control,
    epoch: Epoch,
    deadline: Instant,
    ended: &mut BTreeMap<i32, Session>,
) -> Result<Vec<String>, Error> {
    loop {
        let error = match try_the_door(client, epoch).await {
            Ok(superusers) => return Ok(superusers),
            Err(error) => error,
        };
        if is_without_schema(&error) {
            catalog::schema::ensure(client).await?;
            continue;
        }
        if !is_in_the_way(&error) || Instant::now() >= deadline {
            return Err(error);
        }
        end(client, Scan::take(client).await?.clients(), ended).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One attempt; returns the superusers that cannot log in now.
async fn try_the_door(client: &mut Control, epoch: Epoch) -> Result<Vec<String>, Error> {
    let tried = shut_in_one_transaction(client, epoch).await;
    if tried.is_err() {
        // Fails only where the connection is gone, and the transaction with it.
        client.batch_execute("ROLLBACK").await.ok();
    }
    let (superusers, rights) = tried?;
    if rights == Rights::Owner {
        catalog::door::close(client).await?;
    }
    Ok(superusers)
}

/// What our login may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Superuser,
    Owner,
}

/// Two round trips: on a server that comes back, clients write until the second has arrived.
async fn shut_in_one_transaction(client: &Control, epoch: Epoch) -> Result<(Vec<String>, Rights), Error> {
    let begin = format!(
        "SET synchronous_commit = local; SET lock_timeout = '{LOCK_PATIENCE}'; BEGIN; \
         SELECT pg_catalog.pg_advisory_xact_lock({FENCING}); \
         SELECT 1 FROM cloud_mirror.fence FOR UPDATE"
    );
    let facts = client.query_typed_one(
        "SELECT pg_catalog.current_database()::text, d.datconnlimit, me.rolsuper, \
           ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles \
                 WHERE rolsuper AND rolcanlogin AND rolname <> current_user \
                   AND rolname <> 'cloud_mirror_control' ORDER BY 1) \
         FROM pg_catalog.pg_database d, pg_catalog.pg_roles me \
         WHERE d.datname = pg_catalog.current_database() AND me.rolname = current_user",
        &[],
    );
    // Sent at once and answered one after the other.
    let (begun, facts, row) =
        tokio::join!(biased; client.batch_execute(&begin), facts, catalog::fence::read(client));
    begun.map_err(Error::sql("begin to fence"))?;
    let (facts, row) = (facts.map_err(Error::sql("read the connection limit"))?, row?);
    // Before anything is changed, and under the lock: nobody can raise it any more.
    if let Some(row) = &row
        && row.epoch > epoch
    {
        return Err(Error::StaleEpoch { ours: epoch, theirs: row.epoch });
    }
    let rights = if facts.get(2) { Rights::Superuser } else { Rights::Owner };
    let mut door = String::new();
    let mut superusers: Vec<String> = Vec::new();
    if rights == Rights::Superuser {
        superusers = facts.get(3);
        door += &format!("ALTER DATABASE {} CONNECTION LIMIT 0;", identifier(facts.get::<_, &str>(0)));
        for name in &superusers {
            door += &format!("ALTER ROLE {} NOLOGIN;", identifier(name));
        }
    }
    door += "COMMIT";
    // The row comes first: where it fails, so does the rest.
    let (kept, shut) = tokio::join!(
        biased;
        catalog::fence::shut(client, epoch, facts.get(1), &superusers),
        client.batch_execute(&door),
    );
    kept.map_err(stale)?;
    shut.map_err(Error::sql("shut the database"))?;
    superusers.extend(row.map(|row| row.superusers).unwrap_or_default());
    superusers.sort_unstable();
    superusers.dedup();
    Ok((superusers, rights))
}

/// Step 2.
async fn empty(
    client: &Control,
    started: Instant,
    patience: Duration,
    ended: &mut BTreeMap<i32, Session>,
) -> Result<(), Error> {
    let shut_at = Instant::now();
    let mut on_the_way: Option<OnTheWay> = None;
    let mut clean_looks = 0;
    loop {
        let scan = Scan::take(client).await?;
        let on_the_way = on_the_way.get_or_insert_with(|| OnTheWay::at_first_look(&scan));
        on_the_way.update(&scan);
        if !scan.has_clients() && on_the_way.is_over() {
            clean_looks += 1;
            if clean_looks == 2 {
                return Ok(());
            }
            continue;
        }
        clean_looks = 0;
        let mut left = scan.clients();
        left.extend(on_the_way.holders.iter().map(|pid| starting(*pid)));
        if shut_at.elapsed() >= LOG_IN_PATIENCE {
            left.extend(on_the_way.beginners.iter().map(|pid| starting(*pid)));
        }
        if started.elapsed() >= patience {
            return Err(Error::NotClean { left, patience });
        }
        end(client, left, ended).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Back ends that were starting at the first look after the door was shut: they may have passed
/// it, so each has to come out somewhere. Later ones are not waited for, or a storm of clients
/// would keep a fence from ever being clean: they read the limit, and whether they may log in,
/// after both had been committed.
struct OnTheWay {
    /// Held a lock on the database: had perhaps passed the limit.
    holders: BTreeSet<i32>,
    /// Had begun: a superuser between the check of LOGIN and that lock shows no more than this.
    beginners: BTreeSet<i32>,
}

impl OnTheWay {
    fn at_first_look(scan: &Scan) -> Self {
        OnTheWay { holders: scan.holders(), beginners: scan.beginners() }
    }

    /// Forgets those that are gone or have become clients that any look sees. A beginner that
    /// takes the lock on the database is a holder from then on.
    fn update(&mut self, scan: &Scan) {
        let (holders, beginners) = (scan.holders(), scan.beginners());
        self.holders.extend(self.beginners.iter().filter(|pid| holders.contains(pid)));
        self.holders.retain(|pid| holders.contains(pid));
        self.beginners.retain(|pid| beginners.contains(pid));
    }

    fn is_over(&self) -> bool {
        self.holders.is_empty() && self.beginners.is_empty()
    }
}

async fn end(
    client: &Control,
    sessions: Vec<Session>,
    ended: &mut BTreeMap<i32, Session>,
) -> Result<(), Error> {
    if sessions.is_empty() {
        return Ok(());
    }
    let pids: Vec<i32> = sessions.iter().map(|session| session.pid).collect();
    for session in sessions {
        // One that was starting at one look may have said who it is by the next.
        let known = ended.entry(session.pid).or_insert_with(|| session.clone());
        if known.user.is_none() {
            *known = session;
        }
    }
    terminate(client, &pids).await
}

/// Whether a fence of `epoch` or later stands as we made it and nobody is in the database: one
/// statement, for who looks every now and then and does not want to write each time.
pub(super) async fn is_complete(client: &Control, epoch: Epoch) -> Result<bool, Error> {
    let shut = client
        .query_typed_one(
            "SELECT CASE WHEN me.rolsuper THEN d.datconnlimit = 0 AND NOT EXISTS ( \
                 SELECT FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin \
                   AND rolname <> current_user AND rolname <> 'cloud_mirror_control') \
               ELSE NOT pg_catalog.has_database_privilege('public', d.oid, 'CONNECT') END \
             FROM pg_catalog.pg_database d, pg_catalog.pg_roles me \
             WHERE d.datname = pg_catalog.current_database() AND me.rolname = current_user",
            &[],
        )
        .await
        .map_err(Error::sql("look at the connection limit"))?
        .get::<_, bool>(0);
    let row = catalog::fence::read(client).await?;
    let says_so = row.is_some_and(|row| row.state == catalog::fence::State::Fenced && row.epoch >= epoch);
    Ok(shut && says_so && !Scan::take(client).await?.has_clients())
}

struct LeftBehind {
    replication_roles: Vec<String>,
    workers: Vec<String>,
    prepared: Vec<String>,
}

/// Step 3.
async fn left_behind(client: &Control) -> Result<LeftBehind, Error> {
    let row = client
        .query_typed_one(
            "SELECT ARRAY(SELECT gid FROM pg_catalog.pg_prepared_xacts \
                          WHERE database = pg_catalog.current_database() ORDER BY prepared), \
               ARRAY(SELECT subname::text FROM pg_catalog.pg_subscription s \
                     JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
                     WHERE s.subenabled AND d.datname = pg_catalog.current_database() ORDER BY 1), \
               ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles \
                     WHERE rolreplication AND rolcanlogin AND NOT rolsuper \
                       AND rolname <> current_user ORDER BY 1)",
            &[],
        )
        .await
        .map_err(Error::sql("list what the fence cannot stop"))?;
    let mut workers: Vec<String> =
        row.get::<_, Vec<String>>(1).into_iter().map(|name| format!("subscription {name}")).collect();
    workers.extend(Scan::take(client).await?.workers());
    Ok(LeftBehind { replication_roles: row.get(2), workers, prepared: row.get(0) })
}

/// The epoch's refusal as this room's own error, which callers match on.
pub(super) fn stale(error: catalog::Error) -> Error {
    match error {
        catalog::Error::StaleEpoch { ours, theirs, .. } => Error::StaleEpoch { ours, theirs },
        other => other.into(),
    }
}

/// Whether our schema has never been made here.
fn is_without_schema(error: &Error) -> bool {
    matches!(error, Error::Sql { source, .. }
        if matches!(source.code(), Some(code) if *code == SqlState::UNDEFINED_TABLE))
}

/// Whether another session's lock or change made the attempt fail: worth another one.
fn is_in_the_way(error: &Error) -> bool {
    let source = match error {
        Error::Sql { source, .. } | Error::Catalog(catalog::Error::Sql { source, .. }) => source,
        _ => return false,
    };
    source.as_db_error().is_some_and(|db| {
        let code = db.code();
        *code == SqlState::LOCK_NOT_AVAILABLE
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::T_R_SERIALIZATION_FAILURE
            // "tuple concurrently updated" has no code of its own.
            || *code == SqlState::INTERNAL_ERROR && db.routine() == Some("simple_heap_update")
    })
}
