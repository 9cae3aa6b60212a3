//! One server as a whole, and a database on it at one moment of its history.

use super::endpoint::Endpoint;
use crate::base::{Epoch, Site};
use std::sync::Arc;

/// One server and the ways to reach it, the best first (its Unix socket, then TCP).
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Never empty.
    pub endpoints: Vec<Endpoint>,
}

/// Where a session's statements go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The writer's site.
    pub site: Site,
    /// Ways to reach it, the best first.
    pub upstream: Arc<Upstream>,
    /// The database as clients name it.
    pub named: Arc<[u8]>,
    /// Name of the database on that server.
    pub database: Arc<[u8]>,
    /// Under which epoch.
    pub epoch: Epoch,
    /// In which life of the server.
    pub life: u64,
}
