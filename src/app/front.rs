//! The door for clients: listeners, log-ins, and the console behind it.

use super::world::World;
use super::{settings, setup::StartError};
use crate::admin::{self, Greeting, Guest};
use crate::auth::{self, Authenticator, ClientEncryption, Lookup, VerifierSource};
use crate::backend::{Login, Party, Proof};
use crate::base::Site;
use crate::config::Listen;
use crate::pool::{Admission, Cancels};
use crate::serve::{Arrivals, Console, ConsoleClient, DataThreads, Front, Listener, Sharing};
use crate::session::Shared;
use crate::sql::console::ConsoleCall;
use crate::sys::{self, file::StateDir};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// All listeners, bound before anything else is begun: a port that is taken is the commonest
/// mistake.
pub async fn bind(listen: &Listen) -> Result<Vec<Listener>, StartError> {
    let passed = sys::passed_sockets();
    if !passed.is_empty() {
        // The service manager has chosen the addresses.
        return passed
            .into_iter()
            .map(Listener::passed)
            .collect::<Result<_, _>>()
            .map_err(StartError::System);
    }
    let sharing = if listen.reuse_port { Sharing::Port } else { Sharing::Alone };
    let mut listeners = Vec::new();
    for address in &listen.tcp {
        let failed = |why: String| StartError::Address { at: address.to_string(), why };
        let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
        let addresses: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(failed("the name has no address".to_owned()));
        }
        for address in addresses {
            listeners.push(Listener::tcp(address, listen.backlog, sharing)?);
        }
    }
    if let Some(directory) = &listen.unix_socket_dir {
        listeners.push(Listener::unix(directory, listen.socket_port(), listen.backlog)?);
    }
    Ok(listeners)
}

/// The front of a world.
pub fn front(
    world: &Arc<World>,
    shared: Arc<Shared>,
    encryption: ClientEncryption,
    stopping: watch::Receiver<bool>,
) -> Result<Front, StartError> {
    let config = world.config.load();
    let mock_secret = Some(mock_secret(&world.state_dir)?);
    let auth = auth::Settings { mock_secret, ..settings::auth(&config) };
    let source = Writer(world.clone());
    let authenticator = Authenticator::new(auth, Arc::new(source), world.events.clone());
    let (calls, cancels) = (shared.console.clone(), shared.cancels.clone());
    let console = ConsoleDoor { calls, cancels, stopping };
    Ok(Front {
        threads: DataThreads::start(data_threads(), &shared)?,
        shared,
        authenticator: ArcSwap::from_pointee(authenticator),
        encryption: ArcSwap::from_pointee(encryption),
        proxies: ArcSwap::from_pointee(settings::proxies(&config.listen)),
        console: Arc::new(console),
        arrivals: Arrivals::default(),
        admission: Admission::default(),
        tcp: ArcSwap::from_pointee(world.config.load().tcp.clone()),
    })
}

/// The server that is asked for secrets: whoever writes now.
struct Writer(Arc<World>);

impl VerifierSource for Writer {
    fn party(&self) -> Option<Party> {
        let site = self.0.routes.map().writer;
        let party = self.0.server(site)?.party();
        let config = self.0.config.load();
        let Some(query) = &config.auth.query else { return Some(party) };
        let upstream = match site {
            Site::Local => &config.local,
            Site::Cloud => config.cloud.as_ref()?,
        };
        let login = match &query.login {
            None => party.login.clone(),
            Some((user, password)) => {
                Login { user: user.clone(), proof: password.clone().map_or(Proof::None, Proof::Password) }
            }
        };
        let database = query.database.clone().unwrap_or_else(|| upstream.database.clone());
        Some(Party { login, database, ..party })
    }

    fn lookup(&self) -> Lookup {
        match &self.0.config.load().auth.query {
            None => Lookup::Catalog,
            Some(query) => Lookup::Query(query.text.clone()),
        }
    }
}

/// What the salts of roles that do not exist are made from. Kept, or a restart would tell them from
/// those that do.
fn mock_secret(state_dir: &StateDir) -> Result<[u8; 32], StartError> {
    const FILE: &str = "mock-secret";
    if let Some(known) = state_dir.read(FILE)?.and_then(|bytes| bytes.try_into().ok()) {
        return Ok(known);
    }
    let secret = sys::random_bytes();
    state_dir.write(FILE, &secret)?;
    Ok(secret)
}

/// One thread relays for two cores, since servers and clients often share them; more cores than
/// that are given every second one.
fn data_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Of a cancel key on the console: what every protocol version allows.
const SECRET_LENGTH: usize = 4;

struct ConsoleDoor {
    calls: mpsc::Sender<ConsoleCall>,
    cancels: Cancels,
    stopping: watch::Receiver<bool>,
}

#[async_trait]
impl Console for ConsoleDoor {
    async fn serve(&self, client: ConsoleClient) {
        let ConsoleClient { socket, buffered, caller } = client;
        let pid = i32::from_be_bytes(sys::random_bytes()) & i32::MAX;
        let cancel_key = Some(self.cancels.register(pid, SECRET_LENGTH));
        let guest = Guest { caller, greeting: Greeting::Whole, sent: buffered.to_vec(), cancel_key };
        if let Err(error) = admin::serve(socket, guest, self.calls.clone(), self.stopping.clone()).await {
            tracing::debug!(event = "admin.client_lost", %error);
        }
    }
}
