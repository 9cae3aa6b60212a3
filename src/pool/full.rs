//! A server that has no room for another link (53300): those that nobody uses make some, or serve themselves.

use super::Request;
use super::checkout::Pool;
use super::group::{Group, Idle};
use crate::backend::{self, Link};
use crate::base::{Site, sqlstate};
use crate::sys;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a full server is asked again after links that nobody uses were closed, and how long data threads
/// have for giving up theirs …
const ROOM_WITHIN: Duration = Duration::from_millis(500);
/// … and how often it is looked: its back ends need a moment to end.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// What a seat is used for.
pub enum Opened {
    /// A new link.
    New(Link),
    /// One that somebody else has given up meanwhile.
    Idle(Idle),
}

impl Pool {
    /// Opens a link. Where the server has no room for one, the links that nobody uses make some: a client
    /// without us would not have left them behind. In the pooled modes those of data threads do, too, and
    /// a thread that has some in use gives one up to who has none.
    pub(super) async fn open_with_room(
        &self,
        request: &Request,
        group: &Group,
    ) -> Result<Opened, backend::Error> {
        let mut error = match self.open(request).await {
            Ok(link) => return Ok(Opened::New(link)),
            Err(error) if !is_full(&error) => return Err(error),
            Err(error) => error,
        };
        let until = sys::now() + ROOM_WITHIN;
        let is_pooled = group.rules.load().mode.is_pooled();
        let _starving = is_pooled.then(|| {
            let starving = group.starve();
            self.announce();
            starving
        });
        let is_returning = || self.0.returning.load(Ordering::Relaxed) > 0;
        let (mut has_made_room, mut was_returning) = (false, false);
        while is_full(&error) {
            let idle = group.take(request.destination.epoch, &request.parameters);
            if let Some(idle) = idle.filter(|idle| idle.stream.is_silent()) {
                return Ok(Opened::Idle(idle));
            }
            has_made_room |= self.close_idle(request.destination.site) || was_returning && !is_returning();
            was_returning = is_returning();
            let may_come = has_made_room || was_returning || is_pooled;
            if !may_come || sys::now() >= until {
                break;
            }
            tokio::time::sleep(ROOM_PAUSE).await;
            if has_made_room {
                error = match self.open(request).await {
                    Ok(link) => return Ok(Opened::New(link)),
                    Err(error) => error,
                };
            }
        }
        Err(error)
    }

    /// Closes the links to a site that nobody uses; says whether there were any.
    fn close_idle(&self, site: Site) -> bool {
        let groups = self.groups();
        let here = groups.iter().filter(|(key, _)| key.site == site);
        here.fold(false, |any, (_, group)| {
            let has_some = group.idle_count() > 0;
            group.sweep(|_| false);
            any || has_some
        })
    }
}

fn is_full(error: &backend::Error) -> bool {
    error.report().is_some_and(|report| report.code() == sqlstate::TOO_MANY_CONNECTIONS)
}
