//! What a client is told at its log-in when it gets no link then.
//!
//! In the pooled modes a client needs a link only for its statements. The settings that it is
//! welcomed with are those that a link like the one it would get has reported; the server has then
//! let the same role into the same database a short while ago.

use super::checkout::Request;
use super::group::{Parameters, Reports};
use crate::base::{Epoch, Moment, Site};
use crate::sys;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// For how long the server's word counts.
const FRESH: Duration = Duration::from_secs(60);
/// Most kinds of clients that are remembered for one user and database.
const KINDS_MAX: usize = 64;

#[derive(Debug)]
struct Known {
    way: (Site, Epoch, u64),
    parameters: Parameters,
    reports: Reports,
    at: Moment,
}

/// The welcomes of one user to one database.
#[derive(Debug, Default)]
pub struct Welcomes {
    known: Mutex<Vec<Known>>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// Whether a client can be welcomed without a link.
#[derive(Debug)]
pub enum Welcome {
    /// With these settings.
    Known(Reports),
    /// Nobody like it was let in lately: open a link, and say how it went.
    Ask(Asked),
}

/// Others wait until this is dropped or answered.
#[derive(Debug)]
pub struct Asked(OwnedMutexGuard<()>);

impl Welcomes {
    pub(super) async fn ask(&self, request: &Request) -> Welcome {
        if let Some(reports) = self.find(request) {
            return Welcome::Known(reports);
        }
        let asking = self.asking.clone().lock_owned().await;
        match self.find(request) {
            Some(reports) => Welcome::Known(reports),
            None => Welcome::Ask(Asked(asking)),
        }
    }

    pub(super) fn find(&self, request: &Request) -> Option<Reports> {
        let destination = &request.destination;
        let way = (destination.site, destination.epoch, destination.life);
        let now = sys::now();
        let mut known = self.known();
        known.retain(|known| known.way == way && now.since(known.at) < FRESH);
        let found = known.iter().find(|known| known.parameters == request.parameters)?;
        Some(found.reports.clone())
    }

    pub(super) fn remember(&self, request: &Request, reports: &Reports) {
        let destination = &request.destination;
        let way = (destination.site, destination.epoch, destination.life);
        let mut known = self.known();
        known.retain(|known| known.parameters != request.parameters);
        if known.len() >= KINDS_MAX {
            known.remove(0);
        }
        let (parameters, reports, at) = (request.parameters.clone(), reports.clone(), sys::now());
        known.push(Known { way, parameters, reports, at });
    }

    /// The server would say something else now.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<Known>> {
        self.known.lock().expect("no holder of the welcomes panics")
    }
}

impl Asked {
    /// The server has let the client in; those who wait may go on once this returns.
    pub fn answer(self, pool: &super::Pool, request: &Request, reports: &Reports) {
        pool.remember_welcome(request, reports);
        drop(self.0);
    }
}
