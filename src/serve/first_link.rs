//! What a client is told at its log-in, and its first link, where it needs one then.

use crate::config::PoolMode;
use crate::pool::{self, Reports};
use crate::session::{Identity, Made, NoLink, Shared, Wanted};
use crate::wire::startup::Replication;
use std::sync::Arc;

const APPLICATION_NAME: &[u8] = b"application_name";

/// How a client begins.
pub struct First {
    /// Who it is, and what its links are opened with.
    pub identity: Identity,
    /// When it gives its links back.
    pub mode: PoolMode,
    /// What it is told about settings.
    pub told: Reports,
    /// Its link; in the pooled modes it needs none where the server has let in another one like it, unless
    /// somebody counts the server's sessions.
    pub made: Option<Made>,
}

/// Lets the server decide whether the client gets in, or remembers what it said.
pub async fn first_link(
    shared: &Arc<Shared>,
    identity: &Identity,
    replication: Replication,
) -> Result<First, NoLink> {
    let mut identity = identity.clone();
    let mode = match replication {
        Replication::No => shared.mode_of(&identity),
        // It is about one connection to one server.
        _ => PoolMode::Session,
    };
    if mode == PoolMode::Session {
        let made = match shared.link_at_hand(&identity) {
            Some(made) => made,
            None => shared.clone().link(Wanted::first(identity.clone())).await?,
        };
        let told = made.checkout.lease.reported().clone();
        return Ok(First { identity, mode, told, made: Some(made) });
    }
    // Made on each link like other settings: it says who has the link.
    let own_name = identity.parameters.iter().rfind(|(name, _)| name == APPLICATION_NAME).cloned();
    Arc::make_mut(&mut identity.parameters).retain(|(name, _)| name != APPLICATION_NAME);
    shared.lets_in()?;
    let request = shared.request(&identity).map_err(NoLink::Ended)?;
    let welcome = match shared.habits.of(identity.login.user.as_str(), &identity.database).is_watched() {
        true => None,
        false => Some(shared.pool.welcome(&request).await),
    };
    let (mut told, made) = match welcome {
        Some(pool::Welcome::Known(told)) => (told, None),
        asking => {
            let made = shared.clone().link(Wanted::first(identity.clone())).await?;
            let told = made.checkout.lease.reported().clone();
            if let Some(pool::Welcome::Ask(asked)) = asking {
                asked.answer(&shared.pool, &request, &told);
            }
            (told, Some(made))
        }
    };
    if let Some((name, value)) = own_name {
        let told = Arc::make_mut(&mut told);
        told.retain(|(known, _)| *known != name);
        told.push((name, value));
    }
    Ok(First { identity, mode, told, made })
}
