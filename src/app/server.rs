//! One of the two servers, as the whole process knows it.

use crate::backend::{Party, Upstream};
use crate::base::{DatabaseName, Site};
use crate::failover::effects::Return;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A server and our own way in.
#[derive(Debug)]
pub struct Server {
    /// Which site it serves.
    pub site: Site,
    /// How clients' links reach it.
    pub upstream: Arc<Upstream>,
    /// Our login and the database we use when none is meant: not one that is renamed or dropped.
    login: ArcSwap<Party>,
    is_up: AtomicBool,
    /// What became of it after it lost the right to write.
    pub returned: watch::Sender<Return>,
}

impl Server {
    /// A server that has not been probed yet.
    pub fn new(site: Site, upstream: Arc<Upstream>, login: Party) -> Self {
        Self {
            site,
            upstream,
            login: ArcSwap::from_pointee(login),
            is_up: AtomicBool::new(false),
            returned: watch::Sender::new(Return::unseen()),
        }
    }

    /// Our login, at the database of none in particular.
    pub fn party(&self) -> Party {
        Party::clone(&self.login.load())
    }

    /// Our login at a database.
    pub fn party_at(&self, database: &DatabaseName) -> Party {
        self.login.load().with_database(database.clone())
    }

    /// Another login was found, such as the control role.
    pub fn log_in_as(&self, party: Party) {
        self.login.store(Arc::new(party));
    }

    /// Whether the last probe was answered.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// A probe was answered, or not.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }
}
