//! One state of the routes.

use super::{Halt, Halts, Names};
use crate::backend::{Destination, Upstream};
use crate::base::{DatabaseName, Epoch, Site};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether statements are let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// They go to the writer.
    Open,
    /// They wait: the writer is suspected, restarting or being changed.
    Holding,
    /// They are refused with 57P03 and this reason.
    Closed {
        /// For the client, in PostgreSQL's style.
        reason: String,
    },
}

/// Where everything goes, at one moment.
#[derive(Debug, Clone)]
pub struct RouteMap {
    /// Raised with every change of the map.
    pub version: u64,
    /// The epoch under which the writer writes.
    pub epoch: Epoch,
    /// The site that writes.
    pub writer: Site,
    /// Counts the lives of the writer's server: raised when it died and came back, and when all
    /// links to it are to be cut. Links of an earlier life are void.
    pub life: u64,
    /// Whether statements pass.
    pub door: Door,
    /// What an operator has stopped.
    pub halts: Arc<Halts>,
    /// Whether the process is about to end: no new clients, idle ones are sent away.
    pub is_draining: bool,
    /// What clients call databases.
    pub names: Arc<Names>,
    /// The local server.
    pub local: Arc<Upstream>,
    /// The cloud's server, if there is one.
    pub cloud: Option<Arc<Upstream>>,
    /// Mirrored databases as the local server names them, and their names in the cloud.
    pub mirrored: Arc<BTreeMap<DatabaseName, DatabaseName>>,
}

/// Why there is no way to a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// It is not among those that are served.
    #[error("database {database:?} does not exist")]
    Unknown {
        /// As the client named it.
        database: String,
    },
    /// The cloud writes and this database has no mirror there.
    #[error("database {database:?} has no mirror and cannot be reached while the cloud is the writer")]
    NotMirrored {
        /// As the client named it.
        database: String,
    },
}

impl RouteMap {
    /// The first map of a server that has no cloud, its door open.
    pub fn alone(local: Arc<Upstream>) -> Self {
        Self {
            version: 1,
            epoch: Epoch(1),
            writer: Site::Local,
            life: 0,
            door: Door::Open,
            halts: Arc::default(),
            names: Arc::default(),
            is_draining: false,
            local,
            cloud: None,
            mirrored: Arc::default(),
        }
    }

    /// Whether nobody's statements are sent, links or not.
    pub fn holds_everything(&self) -> bool {
        self.door != Door::Open || self.halts.all == Halt::Suspended
    }

    /// What a link has to agree with: the site that writes, the epoch, and the server's life.
    pub fn way(&self) -> (Site, Epoch, u64) {
        (self.writer, self.epoch, self.life)
    }

    /// Finds the writer's copy of `database`, as clients name it.
    pub fn resolve(&self, database: &Arc<[u8]>) -> Result<Destination, NoRoute> {
        let to = |site, upstream: &Arc<Upstream>, on_server: Arc<[u8]>| Destination {
            site,
            upstream: upstream.clone(),
            named: database.clone(),
            database: on_server,
            epoch: self.epoch,
            life: self.life,
        };
        let missing = || NoRoute::NotMirrored { database: String::from_utf8_lossy(database).into_owned() };
        let on_server = self.names.on_server(database);
        let on_server = on_server
            .ok_or_else(|| NoRoute::Unknown { database: String::from_utf8_lossy(database).into_owned() })?;
        match self.writer {
            Site::Local => Ok(to(Site::Local, &self.local, on_server.clone())),
            Site::Cloud => {
                let name = std::str::from_utf8(on_server).map_err(|_| missing())?;
                let name = DatabaseName::new(name).map_err(|_| missing())?;
                let target = self.mirrored.get(&name).ok_or_else(missing)?;
                let cloud = self.cloud.as_ref().ok_or_else(missing)?;
                Ok(to(Site::Cloud, cloud, target.as_str().as_bytes().into()))
            }
        }
    }
}
