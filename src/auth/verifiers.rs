//! What the writer knows of a role, read anew at every log-in.

use super::plan::{MayLogIn, Role, StoredPassword};
use crate::backend::control::{Control, SESSION_OPTIONS, describe};
use crate::backend::{Address, Party};
use crate::base::{Moment, Retry, RoleName, Site};
use crate::observe::events::{Events, Level};
use crate::sys;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Statement};

/// Says where verifiers are read: the active writer, which changes at a failover.
pub trait VerifierSource: Send + Sync {
    /// The writer now and our own login there; `None` while there is none. The database should
    /// be one that nobody renames or drops.
    fn party(&self) -> Option<Party>;

    /// What is asked there.
    fn lookup(&self) -> Lookup {
        Lookup::Catalog
    }
}

/// How a secret is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// In `pg_authid`.
    Catalog,
    /// By a query of the operator's own, with the role as `$1`; the answer's second column is the
    /// secret, the row is missing where the role does not exist.
    Query(String),
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
    last_seen: Mutex<HashMap<RoleName, Seen>>,
    answering: Mutex<Answering>,
}

/// What was read of a role.
struct Seen {
    role: Arc<Role>,
    /// When; `None` when it is to be read again in any case.
    at: Option<Moment>,
    memberships: Option<Vec<String>>,
}

/// What is known of a role; `None` where it does not exist.
#[derive(Debug, Clone)]
pub struct LookedUp {
    /// The role.
    pub role: Option<Arc<Role>>,
    /// The server was not asked this time.
    pub is_cached: bool,
}

/// Whether the last question was answered; a change is an event, a repetition is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Yes,
    No,
}

struct Kept {
    of: Identity,
    asker: Arc<Asker>,
}

/// A connection and the question, which is prepared when it is asked a second time: the first
/// answer may be in a hurry, later ones need no plan of their own.
struct Asker {
    client: Control,
    has_answered: AtomicBool,
    statement: OnceCell<Statement>,
}

impl Asker {
    async fn rows(&self, lookup: &Lookup, role: &RoleName) -> Result<Vec<Row>, tokio_postgres::Error> {
        let (text, kind) = match lookup {
            Lookup::Catalog => (QUERY, Type::NAME),
            // Without a type: the server finds out what $1 is compared with.
            Lookup::Query(text) => (text.as_str(), Type::UNKNOWN),
        };
        if !self.has_answered.load(Ordering::Relaxed) {
            let rows = self.client.query_typed(text, &[(&role.as_str(), kind)]).await?;
            self.has_answered.store(true, Ordering::Relaxed);
            return Ok(rows);
        }
        let types = [kind];
        let prepare = || self.client.prepare_typed(text, &types);
        let statement = self.statement.get_or_try_init(prepare).await?;
        self.client.query(statement, &[&role.as_str()]).await
    }
}

/// Tells one party from another: a kept connection to the old writer must not answer for the new.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Identity {
    site: Site,
    address: Address,
    user: RoleName,
    database: String,
    lookup: Lookup,
}

impl Identity {
    fn of(party: &Party, lookup: Lookup) -> Self {
        Self {
            site: party.site,
            address: party.endpoint.address.clone(),
            user: party.login.user.clone(),
            database: party.database.to_string(),
            lookup,
        }
    }
}

/// Seconds are computed by the server, whose clock decides about VALID UNTIL, and counted on ours.
const QUERY: &str = "SELECT rolpassword, \
    (extract(epoch FROM rolvaliduntil) - extract(epoch FROM clock_timestamp()))::float8, rolcanlogin \
    FROM pg_catalog.pg_authid WHERE rolname = $1";

/// The roles that `$1` is a member of, by whatever way.
const MEMBERSHIPS: &str = "WITH RECURSIVE of(oid) AS (\
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1 \
    UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN of ON m.member = of.oid) \
    SELECT r.rolname::text FROM of JOIN pg_catalog.pg_roles r USING (oid)";

impl Verifiers {
    /// Asks the party that `source` names, waiting at most `timeout` for each answer. The kept
    /// connection lives on the runtime of who asked first: a data thread's, so that a question from
    /// there wakes no other thread.
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

    /// What the writer knows of `role`. It is not asked when it was within `max_age`; where it does
    /// not answer in time, what was last seen has to do.
    pub async fn look_up(&self, role: &RoleName, max_age: Duration) -> Result<LookedUp, Unavailable> {
        if !max_age.is_zero()
            && let Some(Seen { role, at: Some(at), .. }) = self.last_seen().get(role)
            && sys::now().since(*at) < max_age
        {
            return Ok(LookedUp { role: Some(role.clone()), is_cached: true });
        }
        // In a box, as below: a question takes more room than all the rest of a log-in.
        let asked =
            Box::pin(self.asked(role, |asker, lookup| async move { read(&asker, &lookup, role).await }));
        match asked.await {
            Ok(found) => {
                let found = found.map(Arc::new);
                let mut last_seen = self.last_seen();
                match &found {
                    Some(found) => {
                        let memberships = last_seen.remove(role).and_then(|seen| seen.memberships);
                        let seen = Seen { role: found.clone(), at: Some(sys::now()), memberships };
                        last_seen.insert(role.clone(), seen);
                    }
                    None => {
                        last_seen.remove(role);
                    }
                }
                Ok(LookedUp { role: found, is_cached: false })
            }
            Err(unavailable) => match self.last_seen().get(role) {
                Some(seen) => Ok(LookedUp { role: Some(seen.role.clone()), is_cached: true }),
                None => Err(unavailable),
            },
        }
    }

    /// The roles that `role` is a member of. Where no server can be asked, those that were last seen.
    pub async fn memberships(&self, role: &RoleName) -> Result<Vec<String>, Unavailable> {
        let asked = self.asked(role, |asker, _| async move {
            let rows = asker.client.query_typed(MEMBERSHIPS, &[(&role.as_str(), Type::NAME)]).await?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()
        });
        match Box::pin(asked).await {
            Ok(found) => {
                if let Some(seen) = self.last_seen().get_mut(role) {
                    seen.memberships = Some(found.clone());
                }
                Ok(found)
            }
            Err(unavailable) => {
                let seen = self.last_seen().get(role).and_then(|seen| seen.memberships.clone());
                seen.ok_or(unavailable)
            }
        }
    }

    /// The next look-up of `role` asks the server in any case.
    pub fn forget(&self, role: &RoleName) {
        if let Some(seen) = self.last_seen().get_mut(role) {
            seen.at = None;
        }
    }

    /// Takes over what was read elsewhere, to be used where nobody can be asked.
    pub fn remember(&self, roles: impl IntoIterator<Item = (RoleName, Role)>) {
        let mut last_seen = self.last_seen();
        for (name, role) in roles {
            let memberships = last_seen.remove(&name).and_then(|seen| seen.memberships);
            last_seen.insert(name, Seen { role: Arc::new(role), at: None, memberships });
        }
    }

    /// Asks a question in time; says when answers stop coming and when they come again.
    async fn asked<T, F: Future<Output = Result<T, tokio_postgres::Error>>>(
        &self,
        role: &RoleName,
        question: impl Fn(Arc<Asker>, Lookup) -> F,
    ) -> Result<T, Unavailable> {
        let (why, retry) = match tokio::time::timeout(self.timeout, self.ask(question)).await {
            Ok(Ok(answer)) => {
                self.turned(Answering::Yes, "");
                return Ok(answer);
            }
            Ok(Err(failed)) => failed,
            Err(_) => {
                // It may hang for good: the next one gets a connection of its own.
                self.drop_kept();
                (format!("no answer within {:?}", self.timeout), Retry::Safe)
            }
        };
        self.turned(Answering::No, &why);
        Err(Unavailable { role: role.to_string(), why, retry })
    }

    async fn ask<T, F: Future<Output = Result<T, tokio_postgres::Error>>>(
        &self,
        question: impl Fn(Arc<Asker>, Lookup) -> F,
    ) -> Result<T, (String, Retry)> {
        let party = self.source.party().ok_or_else(|| ("there is no writer now".to_owned(), Retry::Safe))?;
        let lookup = self.source.lookup();
        let asker = self.asker(&party, &lookup).await?;
        match question(asker.clone(), lookup.clone()).await {
            // A connection from before a restart of the server fails once, and so does a question
            // whose tables have changed; a new one is the second and last try.
            Err(error) if asker.client.is_closed() || is_outdated(&error) => {
                self.drop_kept();
                let asker = self.asker(&party, &lookup).await?;
                question(asker, lookup).await.map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    async fn asker(&self, party: &Party, lookup: &Lookup) -> Result<Arc<Asker>, (String, Retry)> {
        let wanted = Identity::of(party, lookup.clone());
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|k| k.of == wanted && !k.asker.client.is_closed()) {
            return Ok(kept.asker.clone());
        }
        *kept = None;
        // The operator's query is written for the settings that its role has.
        let options = match lookup {
            Lookup::Catalog => SESSION_OPTIONS,
            Lookup::Query(_) => "",
        };
        // In a box: it is rare and takes more room than the rest of a log-in.
        let connecting = Box::pin(party.control_with(options, "cloud-mirror auth", self.timeout));
        let client = connecting.await.map_err(|e| (e.to_string(), Retry::Safe))?;
        let asker =
            Arc::new(Asker { client, has_answered: AtomicBool::new(false), statement: OnceCell::new() });
        *kept = Some(Kept { of: wanted, asker: asker.clone() });
        Ok(asker)
    }

    fn drop_kept(&self) {
        // Someone who holds the lock is connecting anew right now.
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = None;
        }
    }

    fn last_seen(&self) -> std::sync::MutexGuard<'_, HashMap<RoleName, Seen>> {
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

/// The prepared question does not fit what the server has now.
fn is_outdated(error: &tokio_postgres::Error) -> bool {
    let outdated = [&SqlState::FEATURE_NOT_SUPPORTED, &SqlState::INVALID_SQL_STATEMENT_NAME];
    error.code().is_some_and(|code| outdated.contains(&code))
}

fn failed(error: tokio_postgres::Error) -> (String, Retry) {
    let retry = match error.as_db_error() {
        Some(said) if said.code() == &SqlState::INSUFFICIENT_PRIVILEGE => Retry::Never,
        Some(_) | None => Retry::Safe,
    };
    (describe(&error), retry)
}

async fn read(
    asker: &Asker,
    lookup: &Lookup,
    role: &RoleName,
) -> Result<Option<Role>, tokio_postgres::Error> {
    let rows = asker.rows(lookup, role).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if matches!(lookup, Lookup::Query(_)) {
        let password = StoredPassword::parse_any(row.try_get(row.len().saturating_sub(1).min(1))?);
        return Ok(Some(Role { password, valid_until: Moment::NEVER, may_log_in: MayLogIn::Yes }));
    }
    let password = StoredPassword::parse(row.try_get(0)?);
    let valid_until = match row.try_get::<_, Option<f64>>(1)? {
        None => Moment::NEVER,
        // A time that passed must lie before every later `now`, whose clock does not start at 0.
        Some(seconds) if seconds < 0.0 => Moment(0),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_or(Moment::NEVER, |d| sys::now() + d),
    };
    let may_log_in = if row.try_get(2)? { MayLogIn::Yes } else { MayLogIn::No };
    Ok(Some(Role { password, valid_until, may_log_in }))
}
