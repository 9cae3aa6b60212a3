//! One state of the routes.

use crate::backend::Endpoint;
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

/// One server and the ways to reach it, the best first (its Unix socket, then TCP).
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Never empty.
    pub endpoints: Vec<Endpoint>,
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
    /// Whether statements pass.
    pub door: Door,
    /// Whether the process is about to end: no new clients, idle ones are sent away.
    pub is_draining: bool,
    /// The local server.
    pub local: Arc<Upstream>,
    /// The cloud's server, if there is one.
    pub cloud: Option<Arc<Upstream>>,
    /// Mirrored databases as clients name them, and their names in the cloud.
    pub mirrored: Arc<BTreeMap<DatabaseName, DatabaseName>>,
}

/// Where a session's statements go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The writer's site.
    pub site: Site,
    /// Ways to reach it, the best first.
    pub upstream: Arc<Upstream>,
    /// Name of the database on that server.
    pub database: Vec<u8>,
    /// Under which epoch.
    pub epoch: Epoch,
}

/// Why there is no way to a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// The cloud writes and this database has no mirror there.
    #[error("database {database:?} has no mirror and cannot be reached while the cloud is the writer")]
    NotMirrored {
        /// As the client named it.
        database: String,
    },
}

impl RouteMap {
    /// Finds the writer's copy of `database`, as clients name it.
    pub fn resolve(&self, database: &[u8]) -> Result<Destination, NoRoute> {
        let to = |site, upstream: &Arc<Upstream>, database: &[u8]| Destination {
            site,
            upstream: upstream.clone(),
            database: database.to_vec(),
            epoch: self.epoch,
        };
        let missing = || NoRoute::NotMirrored { database: String::from_utf8_lossy(database).into_owned() };
        match self.writer {
            Site::Local => Ok(to(Site::Local, &self.local, database)),
            Site::Cloud => {
                let name = std::str::from_utf8(database).map_err(|_| missing())?;
                let name = DatabaseName::new(name).map_err(|_| missing())?;
                let target = self.mirrored.get(&name).ok_or_else(missing)?;
                let cloud = self.cloud.as_ref().ok_or_else(missing)?;
                Ok(to(Site::Cloud, cloud, target.as_str().as_bytes()))
            }
        }
    }
}
