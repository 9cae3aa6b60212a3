//! The door for clients: listeners, log-ins, and the console behind it.

use super::world::World;
use super::{settings, setup::StartError};
use crate::admin::{self, Greeting, Guest};
use crate::auth::{Authenticator, ClientEncryption};
use crate::backend::Party;
use crate::config::Listen;
use crate::pool::Cancels;
use crate::serve::{Arrivals, Console, ConsoleClient, DataThreads, Front, Listener};
use crate::session::Shared;
use crate::sql::console::ConsoleCall;
use crate::sys;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// All listeners, bound before anything else is begun: a port that is taken is the commonest
/// mistake.
pub async fn bind(listen: &Listen) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for address in &listen.tcp {
        let failed = |why: String| StartError::Address { at: address.to_string(), why };
        let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
        let addresses: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(failed("the name has no address".to_owned()));
        }
        for address in addresses {
            listeners.push(Listener::tcp(address).await?);
        }
    }
    if let Some(directory) = &listen.unix_socket_dir {
        listeners.push(Listener::unix(directory, listen.socket_port())?);
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
    let source = {
        let world = world.clone();
        move || -> Option<Party> { world.server(world.routes.map().writer).map(|server| server.party()) }
    };
    let auth = settings::auth(&world.config.load());
    let authenticator = Authenticator::new(auth, Arc::new(source), world.events.clone());
    let (calls, cancels) = (shared.console.clone(), shared.cancels.clone());
    let console = ConsoleDoor { calls, cancels, stopping };
    Ok(Front {
        threads: DataThreads::start(data_threads(), &shared)?,
        shared,
        authenticator: ArcSwap::from_pointee(authenticator),
        encryption: ArcSwap::from_pointee(encryption),
        console: Arc::new(console),
        arrivals: Arrivals::default(),
    })
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
