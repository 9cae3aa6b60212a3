//! From a configuration to our logins on both servers.

use super::server::Server;
use super::{Exit, convert, settings};
use crate::auth::ClientTlsError;
use crate::backend::control::{ControlError, describe};
use crate::backend::tls::TlsError;
use crate::backend::{Login, Party, Proof};
use crate::base::{RoleName, Secret, Site};
use crate::config::{self, AuthType, Config};
use crate::failover::effects::{self, control_role};
use crate::lease::TimingError;
use crate::lease::store::StoreError;
use crate::replicate::bootstrap;
use crate::serve::ListenError;
use crate::sql::quote::quote_ident;
use crate::sys::file::{FileError, StateDir, read_if_exists};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long a server may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error("{0}{advice}", advice = state_advice(.0))]
    State(#[from] FileError),
    /// The lease's store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A socket.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// TLS towards a server.
    #[error("upstream {site}: {source}")]
    Tls {
        /// Which.
        site: Site,
        /// What is wrong.
        #[source]
        source: TlsError,
    },
    /// TLS towards clients.
    #[error("{0}")]
    ClientTls(#[from] ClientTlsError),
    /// The lease's durations.
    #[error("lease: {0}")]
    Lease(#[from] TimingError),
    /// A host name.
    #[error("cannot listen on {at}: {why}")]
    Address {
        /// As configured.
        at: String,
        /// What the look-up said.
        why: String,
    },
    /// The local server refuses us, or is away at the first start.
    #[error("upstream local: {0}{advice}", advice = local_advice(.0))]
    Local(#[source] effects::Error),
    /// A mirror reads what only a superuser may read.
    #[error(
        "the login {user} on the local server is no superuser, and a mirror needs one\n\
         run this on the local server, or give --local the URL of a superuser:\n    \
         ALTER ROLE {} SUPERUSER;",
        quote_ident(user.as_str())
    )]
    NotSuperuser {
        /// As whom we get in.
        user: RoleName,
    },
    /// A setting that only a restart of the server changes.
    #[error(
        "the local server has wal_level = {found}, and a mirror needs logical\n\
         run this on the local server, restart it, and start again:\n    \
         ALTER SYSTEM SET wal_level = 'logical';"
    )]
    WalLevel {
        /// What it has.
        found: String,
    },
    /// The way home has begun and not ended.
    #[error(
        "a failback has begun and not ended, and nobody may write until it has\n\
         run it again:\n    cloud-mirror failback --discard-local"
    )]
    Failback,
    /// The system.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// How the program ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            StartError::Local(error) if is_away(error) => Exit::Unreachable,
            StartError::System(_) => Exit::Failed,
            StartError::State(_)
            | StartError::Store(_)
            | StartError::Listen(_)
            | StartError::Tls { .. }
            | StartError::ClientTls(_)
            | StartError::Lease(_)
            | StartError::Address { .. }
            | StartError::Local(_)
            | StartError::NotSuperuser { .. }
            | StartError::WalLevel { .. }
            | StartError::Failback => Exit::Usage,
        }
    }
}

fn state_advice(error: &FileError) -> &'static str {
    match error {
        FileError::Locked { .. } => {
            ": a proxy runs on this state directory; stop it, or choose another one with --state-dir"
        }
        FileError::Io { .. } | FileError::NotDurable { .. } | FileError::Unfit { .. } => "",
    }
}

fn local_advice(error: &effects::Error) -> &'static str {
    match error {
        effects::Error::Connect(connect) if connect.is_unreachable() => {
            "; start the server, or correct its address in --local"
        }
        effects::Error::Connect(connect) if connect.is_no_database() => {
            "; create it, or name another one in --local"
        }
        effects::Error::Connect(connect) if connect.is_tls() => "; correct sslmode or sslrootcert in --local",
        _ => "",
    }
}

fn is_away(error: &effects::Error) -> bool {
    matches!(error, effects::Error::Connect(connect) if connect.is_unreachable())
}

/// Makes sure of our login on the local server and looks what it can do.
///
/// When the server is away and this is not the first start, the control role of the state
/// directory is trusted to work: the cloud may be the writer, and clients must get in.
pub async fn local(
    config: &Config,
    state: &StateDir,
    advice: &mut Vec<String>,
) -> Result<Server, StartError> {
    let tls = |source| StartError::Tls { site: Site::Local, source };
    let given = convert::party(Site::Local, &config.local).map_err(tls)?;
    if stored_role(&given, state)?.is_none()
        && let Ok(looked) = looked_at(&given, config, &mut Vec::new()).await
    {
        // Before anything is made there.
        looked?;
    }
    // Nothing is fenced where there is no second site, and none was: the login that was given will do.
    // Proxies that share a server would take the role's password from each other.
    let is_alone = config.cloud.is_none() && stored_role(&given, state)?.is_none();
    let party = match is_alone {
        true => {
            as_given(&given, state).await?;
            given.clone()
        }
        false => with_role(&given, state, advice).await?,
    };
    let directories = match looked_at(&party, config, advice).await {
        Ok(looked) => looked?,
        Err(_) => Vec::new(),
    };
    let upstream = settings::upstream(&given, &config.local, &directories);
    Ok(Server::new(Site::Local, upstream, maintenance(party).await))
}

/// File in the state directory: the login that worked at the last start without a second site.
const LOGIN_FILE: &str = "local-login";

/// Makes sure that the given login works. When the server is away and the same login has worked
/// before, it will again: a pooler must not refuse to start because its server restarts.
async fn as_given(given: &Party, state: &StateDir) -> Result<(), StartError> {
    let who = format!("{} at {}", given.login.user, given.endpoint.address);
    let has_worked = state.read(LOGIN_FILE)?.is_some_and(|before| before == who.as_bytes());
    match control_role::check_given(given, state.path(), PATIENCE).await {
        Ok(()) if has_worked => Ok(()),
        Ok(()) => Ok(state.write(LOGIN_FILE, who.as_bytes())?),
        Err(error) if has_worked && is_away(&error) => Ok(()),
        Err(error) => Err(StartError::Local(error)),
    }
}

/// The local server with the login of the control role.
async fn with_role(given: &Party, state: &StateDir, advice: &mut Vec<String>) -> Result<Party, StartError> {
    match control_role::ensure(given, state.path(), PATIENCE).await {
        Ok(role) => {
            if let control_role::Found::Kept(why) = role.found {
                advice.push(why);
            }
            Ok(Party { login: role.login, ..given.clone() })
        }
        Err(error) if is_away(&error) => match stored_role(given, state)? {
            Some(login) => Ok(Party { login, ..given.clone() }),
            None => Err(StartError::Local(error)),
        },
        Err(error) => Err(StartError::Local(error)),
    }
}

/// Makes sure of our login in the cloud. An unreachable cloud is no obstacle: the given login is
/// used until the control role can be made.
pub async fn cloud(
    config: &Config,
    state: &StateDir,
    advice: &mut Vec<String>,
) -> Result<Option<Server>, StartError> {
    let Some(configured) = &config.cloud else { return Ok(None) };
    let tls = |source| StartError::Tls { site: Site::Cloud, source };
    let given = convert::party(Site::Cloud, configured).map_err(tls)?;
    if stored_role(&given, state)?.is_none() && is_strange(&given, config).await {
        // The mirror says what is wrong with it. Maybe the URL is a mistake: nothing is made there.
        let upstream = settings::upstream(&given, configured, &[]);
        return Ok(Some(Server::new(Site::Cloud, upstream, maintenance(given).await)));
    }
    let login = match control_role::ensure(&given, state.path(), PATIENCE).await {
        Ok(role) => {
            if let control_role::Found::Kept(why) = role.found {
                advice.push(why);
            }
            role.login
        }
        Err(error) => {
            tracing::warn!(event = "app.cloud_login_failed", %error);
            stored_role(&given, state)?.unwrap_or_else(|| given.login.clone())
        }
    };
    let upstream = settings::upstream(&given, configured, &[]);
    let party = Party { login, ..given };
    if let Ok(client) = party.control("cloud-mirror start", PATIENCE).await
        && let Ok(row) = client.query_one("SELECT pg_catalog.current_setting('wal_level')", &[]).await
        && row.get::<_, &str>(0) != "logical"
    {
        // Nothing that hinders a failover, but the day of the failback is too late to hear it.
        advice.push(format!(
            "the cloud server has wal_level = {}: the way home after a failover needs logical there, which takes \
             effect at its next restart",
            row.get::<_, &str>(0)
        ));
    }
    Ok(Some(Server::new(Site::Cloud, upstream, maintenance(party).await)))
}

/// Whether one of the target databases is somebody else's.
async fn is_strange(given: &Party, config: &Config) -> bool {
    for entry in settings::mirrors(config) {
        let target = given.with_database(entry.target);
        if bootstrap::is_strange(&target, PATIENCE).await.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// The login of the control role, if the state directory has one.
fn stored_role(given: &Party, state: &StateDir) -> Result<Option<Login>, StartError> {
    let Some(bytes) = read_if_exists(&control_role::password_file(given, state.path()))? else {
        return Ok(None);
    };
    let password = String::from_utf8_lossy(&bytes).trim().to_owned();
    let user = RoleName::new(control_role::CONTROL_ROLE).expect("a name");
    Ok(Some(Login { user, proof: Proof::Password(Secret::new(password)) }))
}

/// The same login at `postgres`, where that database exists.
async fn maintenance(party: Party) -> Party {
    let elsewhere = party.with_database(settings::maintenance_database());
    match elsewhere.control("cloud-mirror start", PATIENCE).await {
        Ok(_) => elsewhere,
        Err(error) if error.is_unreachable() => elsewhere,
        Err(_) => party,
    }
}

/// Checks what a mirror needs of the local server and returns the directories of its sockets, when
/// it runs on this machine.
async fn looked_at(
    party: &Party,
    config: &Config,
    advice: &mut Vec<String>,
) -> Result<Result<Vec<PathBuf>, StartError>, ControlError> {
    let client = party.control("cloud-mirror start", PATIENCE).await?;
    // The view hides what a login may not see, where the function would fail.
    let text = "SELECT r.rolsuper, pg_catalog.current_setting('wal_level'),
            COALESCE((SELECT setting FROM pg_catalog.pg_settings WHERE name = 'unix_socket_directories'), '')
        FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
    let row = match client.query_one(text, &[]).await {
        Ok(row) => row,
        Err(error) => {
            tracing::warn!(event = "app.settings_not_read", error = describe(&error));
            return Ok(Ok(Vec::new()));
        }
    };
    let (is_superuser, wal_level): (bool, String) = (row.get(0), row.get(1));
    let user = party.login.user.clone();
    match (is_superuser, &config.cloud) {
        (true, _) => {}
        (false, Some(_)) => return Ok(Err(StartError::NotSuperuser { user })),
        (false, None)
            if config.auth.query.is_some()
                || matches!(config.auth.kind, AuthType::Trust | AuthType::Certificate) => {}
        (false, None) => advice.push(format!(
            "{user} may not read passwords: only the users in [[auth.users]] can log in; \
             give --local the URL of a superuser, name them there, or write auth.query"
        )),
    }
    if config.cloud.is_some() && wal_level != "logical" {
        return Ok(Err(StartError::WalLevel { found: wal_level }));
    }
    let is_here = matches!(&config.local.host, config::Host::Tcp(host) if is_loopback(host));
    let directories: String = row.get(2);
    let directories = directories.split(',').map(str::trim).filter(|path| path.starts_with('/'));
    Ok(Ok(if is_here { directories.map(PathBuf::from).collect() } else { Vec::new() }))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
