//! What a client is told at its log-in, and its first link, where it needs one then.

use crate::config::PoolMode;
use crate::pool::{self, Reports};
use crate::session::{Identity, Made, NoLink, Shared, Wanted};
use std::ops::ControlFlow;
use std::sync::Arc;

const APPLICATION_NAME: &[u8] = b"application_name";

/// A client that has proved who it is.
pub struct Newcomer {
    identity: Identity,
    mode: PoolMode,
    /// In the pooled modes made on each link like other settings: it says who has the link.
    own_name: Option<(Vec<u8>, Vec<u8>)>,
}

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

impl Newcomer {
    /// Somebody who gives its links back as `mode` says.
    pub fn new(mut identity: Identity, mode: PoolMode) -> Self {
        let mut own_name = None;
        if mode.is_pooled() {
            own_name = identity.parameters.iter().rfind(|(name, _)| name == APPLICATION_NAME).cloned();
            Arc::make_mut(&mut identity.parameters).retain(|(name, _)| name != APPLICATION_NAME);
        }
        Self { identity, mode, own_name }
    }

    /// Begins, where nobody has to be waited for.
    pub fn at_once(self, shared: &Shared) -> ControlFlow<First, Self> {
        if self.mode == PoolMode::Session {
            return match shared.link_at_hand(&self.identity) {
                Some(made) => ControlFlow::Break(self.with(made)),
                None => ControlFlow::Continue(self),
            };
        }
        let is_let_in = shared.lets_in().is_ok() && !self.is_watched(shared);
        let request = shared.request(&self.identity).ok().filter(|_| is_let_in);
        match request.and_then(|request| shared.pool.known_welcome(&request)) {
            Some(told) => ControlFlow::Break(self.told(told, None)),
            None => ControlFlow::Continue(self),
        }
    }

    /// Lets the server decide whether the client gets in, or waits for what it says of another one.
    pub async fn first_link(self, shared: &Arc<Shared>) -> Result<First, NoLink> {
        if self.mode == PoolMode::Session {
            let made = shared.clone().link(Wanted::first(self.identity.clone())).await?;
            return Ok(self.with(made));
        }
        shared.lets_in()?;
        let request = shared.request(&self.identity).map_err(NoLink::Ended)?;
        let welcome = match self.is_watched(shared) {
            true => None,
            false => Some(shared.pool.welcome(&request).await),
        };
        if let Some(pool::Welcome::Known(told)) = welcome {
            return Ok(self.told(told, None));
        }
        let made = shared.clone().link(Wanted::first(self.identity.clone())).await?;
        if let Some(pool::Welcome::Ask(asked)) = welcome {
            asked.answer(&shared.pool, &request, made.checkout.lease.reported());
        }
        Ok(self.with(made))
    }

    fn is_watched(&self, shared: &Shared) -> bool {
        shared.habits.of(self.identity.login.user.as_str(), &self.identity.database).is_watched()
    }

    fn with(self, made: Made) -> First {
        let told = made.checkout.lease.reported().clone();
        self.told(told, Some(made))
    }

    fn told(self, mut told: Reports, made: Option<Made>) -> First {
        let Newcomer { identity, mode, own_name } = self;
        if let Some((name, value)) = own_name {
            let told = Arc::make_mut(&mut told);
            told.retain(|(known, _)| *known != name);
            told.push((name, value));
        }
        First { identity, mode, told, made }
    }
}
