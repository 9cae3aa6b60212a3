//! The old writer's return: it is fenced the moment it lets anybody in, and kept fenced.
//!
//! A server that comes up lets its first client in some 20 ms before any watcher can shut it.
//! What got in is ended, counted and told; `docs/fence.md` has the `pg_hba.conf` line that closes
//! the gap for good. The fence is durable, so the next start of that server finds it shut.

use super::Error;
use super::fence::{Fenced, fence_on, is_complete};
use crate::backend::Party;
use crate::backend::control::{Control, ControlError};
use crate::base::Epoch;
use crate::observe::events::{Events, Level};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Between two attempts while nobody listens or the server starts: a refused connection costs
/// some 50 µs.
const ATTEMPT_EVERY: Duration = Duration::from_millis(10);
/// Between two attempts when it answers and something has to be put right by a person.
const ATTEMPT_AFTER_ERROR: Duration = Duration::from_millis(200);
/// For one attempt. A host that is down swallows the connection without a word, and a new one
/// gets an answer as soon as there is somebody.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(500);
/// For the fence itself.
const FENCE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a fence that stands.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For one of those looks.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// A checkpoint may be this young at the earliest when the server makes them by time
/// (`checkpoint_timeout` has that minimum); until then the last one is that of the start.
const CHECKPOINT_MIN: &str = "30 s";

/// What became of the old writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// Not back; the last attempt's words.
    Absent(String),
    /// Back and fenced.
    Fenced(Returned),
    /// Back, but not fenced; the text says why. Tried again.
    Open(String),
}

/// A server that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// The fence; its sessions are those that had got in.
    pub fenced: Fenced,
    /// At most this many transactions were written between the server's start and the fence, in
    /// all its databases, the server's own upkeep included. `None` when it cannot be known.
    pub transactions_at_most: Option<u64>,
}

impl Return {
    /// Nobody has looked yet.
    pub fn unseen() -> Self {
        Return::Absent("not looked at".to_owned())
    }

    /// What to say of a server whose databases are in these states: open before absent before
    /// fenced. Fenced databases count together.
    pub fn worst(states: impl IntoIterator<Item = Return>) -> Self {
        let together = states.into_iter().reduce(|a, b| match (a, b) {
            (open @ Return::Open(_), _) | (_, open @ Return::Open(_)) => open,
            (absent @ Return::Absent(_), _) | (_, absent @ Return::Absent(_)) => absent,
            (Return::Fenced(mut all), Return::Fenced(one)) => {
                all.fenced.terminated += one.fenced.terminated;
                all.fenced.epoch = all.fenced.epoch.min(one.fenced.epoch);
                // Both count the whole server's.
                all.transactions_at_most = match (all.transactions_at_most, one.transactions_at_most) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    _ => None,
                };
                Return::Fenced(all)
            }
        });
        together.unwrap_or_else(Return::unseen)
    }

    /// What a person has to do, for the status.
    pub fn needs(&self) -> Option<String> {
        match self {
            Return::Absent(_) => None,
            Return::Fenced(_) => Some(
                "it is back and fenced; the way home is `cloud-mirror failback --discard-local`, \
                 with the application stopped"
                    .to_owned(),
            ),
            Return::Open(why) => {
                Some(format!("it is back and could not be fenced, applications may write to it: {why}"))
            }
        }
    }
}

/// Watches the server of `party`, which the owner of `epoch` has taken over from: connects again
/// and again, fences the database as soon as it is let in, and again if the fence is found open.
/// Tells `status` and records events. Never ends; drop it when the database is to be opened again.
pub async fn watch_return(
    party: Party,
    epoch: watch::Receiver<Epoch>,
    events: Events,
    status: watch::Sender<Return>,
) -> Infallible {
    loop {
        let pause = match party.control("cloud-mirror watch", ATTEMPT_PATIENCE).await {
            Ok(client) => keep_fenced(client, &party, &epoch, &events, &status).await,
            Err(error) => {
                let pause = if is_away(&error) { ATTEMPT_EVERY } else { ATTEMPT_AFTER_ERROR };
                tell(&status, state_after(&error));
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Fences and looks until the connection is lost; returns the pause before the next attempt.
async fn keep_fenced(
    mut client: Control,
    party: &Party,
    epoch: &watch::Receiver<Epoch>,
    events: &Events,
    status: &watch::Sender<Return>,
) -> Duration {
    loop {
        let at = *epoch.borrow();
        match fence_and_count(&mut client, at).await {
            Ok(returned) => {
                report(&returned, party, events);
                tell(status, Return::Fenced(returned));
            }
            Err(error) if client.is_closed() => {
                tell(status, Return::Absent(error.to_string()));
                return ATTEMPT_EVERY;
            }
            Err(error) => {
                let why = error.to_string();
                if tell(status, Return::Open(why.clone())) {
                    let detail = format!("site={} database={} epoch={at}: {why}", party.site, party.database);
                    events.record(Level::Error, "failover.return_not_fenced", detail);
                }
                return ATTEMPT_AFTER_ERROR;
            }
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match tokio::time::timeout(LOOK_PATIENCE, is_complete(&client, at)).await {
                Ok(Ok(true)) if *epoch.borrow() <= at => {}
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => break,
                Ok(Err(error)) => {
                    tell(status, Return::Absent(error.to_string()));
                    return ATTEMPT_EVERY;
                }
                Err(_) => {
                    tell(status, Return::Absent(format!("no answer within {LOOK_PATIENCE:?}")));
                    return ATTEMPT_EVERY;
                }
            }
        }
    }
}

async fn fence_and_count(client: &mut Control, epoch: Epoch) -> Result<Returned, Error> {
    let fenced = fence_on(client, epoch, FENCE_PATIENCE).await?;
    let row = client
        .query_typed_one(
            "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, \
               split_part(c.next_xid, ':', 1)::bigint * 4294967296 + split_part(c.next_xid, ':', 2)::bigint, \
               pg_catalog.now() < pg_catalog.pg_postmaster_start_time() + $1::text::interval \
             FROM pg_catalog.pg_control_checkpoint() c",
            &[(&CHECKPOINT_MIN, Type::TEXT)],
        )
        .await
        .map_err(Error::sql("count the transactions since the start"))?;
    let next: Option<i64> = row.get::<_, &str>(0).parse().ok();
    let at_start: i64 = row.get(1);
    let is_known: bool = row.get(2);
    let transactions_at_most = next
        .filter(|_| is_known)
        // The fence is one of them.
        .map(|next| u64::try_from(next - at_start - 1).unwrap_or(0));
    Ok(Returned { fenced, transactions_at_most })
}

/// One event for each return, however often it is looked at.
fn report(returned: &Returned, party: &Party, events: &Events) {
    let fenced = &returned.fenced;
    let written = returned.transactions_at_most.map_or("unknown".to_owned(), |n| n.to_string());
    let mut detail = format!(
        "site={} database={} epoch={} took_ms={} sessions_ended={} transactions_written_at_most={written}",
        party.site,
        party.database,
        fenced.epoch,
        fenced.took.as_millis(),
        fenced.terminated,
    );
    for session in fenced.sessions.iter().take(5) {
        detail += &format!("; {session}");
    }
    for (what, names) in [("worker", &fenced.workers), ("prepared transaction", &fenced.prepared)] {
        for name in names {
            detail += &format!("; {what} {name:?} is not stopped by the fence");
        }
    }
    let is_clean = fenced.terminated == 0 && fenced.workers.is_empty();
    let level = if is_clean { Level::Info } else { Level::Warn };
    events.record(level, "failover.return_fenced", detail);
}

/// Whether nobody is there yet, as opposed to somebody who does not let us in.
fn is_away(error: &ControlError) -> bool {
    match error {
        ControlError::Connect { source, .. } => match source.code() {
            None => true,
            Some(code) => *code == SqlState::CANNOT_CONNECT_NOW || *code == SqlState::ADMIN_SHUTDOWN,
        },
        ControlError::Timeout { .. } => true,
        ControlError::NoPassword { .. } => false,
    }
}

fn state_after(error: &ControlError) -> Return {
    if is_away(error) { Return::Absent(error.to_string()) } else { Return::Open(error.to_string()) }
}

/// Publishes a state that differs from the last one; returns whether it did.
fn tell(status: &watch::Sender<Return>, now: Return) -> bool {
    status.send_if_modified(|last| {
        let is_new = *last != now;
        if is_new {
            *last = now;
        }
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fenced(terminated: usize, transactions_at_most: Option<u64>) -> Return {
        let fenced = Fenced {
            epoch: Epoch(2),
            terminated,
            sessions: Vec::new(),
            turned_away: 0,
            superusers: Vec::new(),
            replication_roles: Vec::new(),
            workers: Vec::new(),
            prepared: Vec::new(),
            took: Duration::ZERO,
        };
        Return::Fenced(Returned { fenced, transactions_at_most })
    }

    #[test]
    fn a_server_is_as_safe_as_its_worst_database() {
        let open = Return::Open("no privilege".to_owned());
        let absent = Return::Absent("refused".to_owned());
        assert_eq!(Return::worst([fenced(0, None), absent.clone(), open.clone()]), open);
        assert_eq!(Return::worst([open.clone(), fenced(0, None)]), open);
        assert_eq!(Return::worst([absent.clone(), fenced(0, None)]), absent);
        assert_eq!(Return::worst([fenced(1, Some(7)), fenced(2, Some(9))]), fenced(3, Some(9)));
        assert_eq!(Return::worst([fenced(1, Some(7)), fenced(2, None)]), fenced(3, None));
        assert_eq!(Return::worst([]), Return::unseen());
    }
}
