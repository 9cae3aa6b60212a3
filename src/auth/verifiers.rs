//! What the writer knows of a role, read anew at every log-in.

use super::plan::{Role, StoredPassword};
use crate::backend::control::{Control, describe};
use crate::backend::{Address, Party};
use crate::base::{Moment, Retry, RoleName, Site};
use crate::observe::events::{Events, Level};
use crate::sys;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Says where verifiers are read: the active writer, which changes at a failover.
pub trait VerifierSource: Send + Sync {
    /// The writer now and our own login there; `None` while there is none. The database should
    /// be one that nobody renames or drops.
    fn party(&self) -> Option<Party>;
}

impl<F: Fn() -> Option<Party> + Send + Sync> VerifierSource for F {
    fn party(&self) -> Option<Party> {
        self()
    }
}

/// No server to ask, and the role has never been asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the verifier of role \"{role}\" cannot be read: {why}")]
pub struct Unavailable {
    /// Which role.
    pub role: String,
    /// What went wrong.
    pub why: String,
    /// Whether asking again may help: not when we may not read `pg_authid` there.
    pub retry: Retry,
}

/// Reads roles over one kept connection. While the writer cannot be asked it goes by what was
/// last seen, so that log-ins can be held during a failover and roles that the mirror took over
/// work where `pg_authid` may not be read.
pub struct Verifiers {
    source: Arc<dyn VerifierSource>,
    timeout: Duration,
    events: Events,
    kept: tokio::sync::Mutex<Option<Kept>>,
    /// Bounded by the number of roles: only existing ones are put in.
    last_seen: Mutex<HashMap<RoleName, Arc<Role>>>,
    answering: Mutex<Answering>,
}

/// Whether the last question was answered; a change is an event, a repetition is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Yes,
    No,
}

struct Kept {
    of: Identity,
    client: Arc<Control>,
}

/// Tells one party from another: a kept connection to the old writer must not answer for the new.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Identity {
    site: Site,
    address: Address,
    user: RoleName,
    database: String,
}

impl Identity {
    fn of(party: &Party) -> Self {
        Self {
            site: party.site,
            address: party.endpoint.address.clone(),
            user: party.login.user.clone(),
            database: party.database.to_string(),
        }
    }
}

/// Seconds are computed by the server, whose clock decides about VALID UNTIL, and counted on ours.
const QUERY: &str = "SELECT rolpassword, \
    (extract(epoch FROM rolvaliduntil) - extract(epoch FROM clock_timestamp()))::float8 \
    FROM pg_catalog.pg_authid WHERE rolname = $1";

impl Verifiers {
    /// Asks the party that `source` names, waiting at most `timeout` for each answer.
    pub fn new(source: Arc<dyn VerifierSource>, timeout: Duration, events: Events) -> Self {
        Self {
            source,
            timeout,
            events,
            kept: tokio::sync::Mutex::default(),
            last_seen: Mutex::default(),
            answering: Mutex::new(Answering::Yes),
        }
    }

    /// What the writer knows of `role`, `None` if it does not exist there. Falls back to what was
    /// last seen when the writer does not answer in time.
    pub async fn look_up(&self, role: &RoleName) -> Result<Option<Arc<Role>>, Unavailable> {
        let asked = tokio::time::timeout(self.timeout, self.ask(role)).await;
        let (why, retry) = match asked {
            Ok(Ok(found)) => {
                self.turned(Answering::Yes, "");
                let found = found.map(Arc::new);
                let mut last_seen = self.last_seen();
                match &found {
                    Some(found) => last_seen.insert(role.clone(), found.clone()),
                    None => last_seen.remove(role),
                };
                return Ok(found);
            }
            Ok(Err(failed)) => failed,
            Err(_) => {
                // It may hang for good: the next one gets a connection of its own.
                self.drop_kept();
                (format!("no answer within {:?}", self.timeout), Retry::Safe)
            }
        };
        self.turned(Answering::No, &why);
        match self.last_seen().get(role) {
            Some(seen) => Ok(Some(seen.clone())),
            None => Err(Unavailable { role: role.to_string(), why, retry }),
        }
    }

    /// Takes over what was read elsewhere, as if it had been seen at a log-in just now.
    pub fn remember(&self, roles: impl IntoIterator<Item = (RoleName, Role)>) {
        let mut last_seen = self.last_seen();
        for (name, role) in roles {
            last_seen.insert(name, Arc::new(role));
        }
    }

    async fn ask(&self, role: &RoleName) -> Result<Option<Role>, (String, Retry)> {
        let party = self.source.party().ok_or_else(|| ("there is no writer now".to_owned(), Retry::Safe))?;
        let client = self.client(&party).await?;
        match read(&client, role).await {
            // A connection from before a restart of the server fails once; a new one is the
            // second and last try.
            Err(_) if client.is_closed() => {
                let client = self.client(&party).await?;
                read(&client, role).await.map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    async fn client(&self, party: &Party) -> Result<Arc<Control>, (String, Retry)> {
        let wanted = Identity::of(party);
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|k| k.of == wanted && !k.client.is_closed()) {
            return Ok(kept.client.clone());
        }
        *kept = None;
        let client = party
            .control("cloud-mirror auth", self.timeout)
            .await
            .map_err(|e| (e.to_string(), Retry::Safe))?;
        let client = Arc::new(client);
        *kept = Some(Kept { of: wanted, client: client.clone() });
        Ok(client)
    }

    fn drop_kept(&self) {
        // Someone who holds the lock is connecting anew right now.
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = None;
        }
    }

    fn last_seen(&self) -> std::sync::MutexGuard<'_, HashMap<RoleName, Arc<Role>>> {
        self.last_seen.lock().expect("no holder of the map panics")
    }

    fn turned(&self, now: Answering, why: &str) {
        let before =
            std::mem::replace(&mut *self.answering.lock().expect("no holder of the flag panics"), now);
        match (before, now) {
            (Answering::Yes, Answering::No) => {
                self.events.record(Level::Warn, "auth.verifiers_unreadable", format!("error={why}"));
            }
            (Answering::No, Answering::Yes) => {
                self.events.record(Level::Info, "auth.verifiers_readable", "");
            }
            (Answering::Yes, Answering::Yes) | (Answering::No, Answering::No) => {}
        }
    }
}

fn failed(error: tokio_postgres::Error) -> (String, Retry) {
    let retry = match error.as_db_error() {
        Some(said) if said.code() == &SqlState::INSUFFICIENT_PRIVILEGE => Retry::Never,
        Some(_) | None => Retry::Safe,
    };
    (describe(&error), retry)
}

async fn read(client: &Control, role: &RoleName) -> Result<Option<Role>, tokio_postgres::Error> {
    let rows = client.query_typed(QUERY, &[(&role.as_str(), Type::NAME)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let password = StoredPassword::parse(row.try_get(0)?);
    let valid_until = match row.try_get::<_, Option<f64>>(1)? {
        None => Moment::NEVER,
        // A time that passed must lie before every later `now`, whose clock does not start at 0.
        Some(seconds) if seconds < 0.0 => Moment(0),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_or(Moment::NEVER, |d| sys::now() + d),
    };
    Ok(Some(Role { password, valid_until }))
}
