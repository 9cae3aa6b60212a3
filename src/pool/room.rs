//! Room for one more link beside those that nobody uses, and links that are opened where there is some.
//!
//! Idle links count for the limits and can be closed at any time. They are for who waits; what nobody waits
//! for, the links of `min_size`, drives out nobody's.

use super::checkout::{Pool, Request};
use super::group::{Group, GroupKey};
use crate::backend::Destination;
use crate::base::Retry;
use std::sync::Arc;
use std::time::Duration;

/// How long a link that nobody waits for may wait for its turn to be opened.
const FILLED_WITHIN: Duration = Duration::from_secs(5);

/// What a link is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody waits for it: where there is no room, links that nobody uses make some.
    Use,
    /// To lie ready: none has to be closed for it.
    Stock,
}

/// Whether the links of a group count for a limit that holds for a request.
type Alike = fn(&GroupKey, &Request) -> bool;

impl Pool {
    /// Closes idle links until one more may be opened; call it with a seat in hand. They count for the
    /// limits of their group, of its database and of its user.
    pub(super) fn make_room(&self, request: &Request, group: &Group) {
        let [of_group, of_database, of_user] = group.spare();
        if let Some(spare) = of_group {
            group.trim(spare);
        }
        let groups = self.groups();
        for (spare, alike) in [(of_database, same_database as Alike), (of_user, same_user)] {
            let Some(mut left) = spare else { continue };
            for (_, group) in groups.iter().filter(|(key, _)| alike(key, request)) {
                group.trim(left);
                left -= group.idle_count().min(left);
            }
        }
    }

    /// Whether none has to be closed for that.
    fn has_room(&self, request: &Request, group: &Group) -> bool {
        let [of_group, of_database, of_user] = group.spare();
        let groups = self.groups();
        let idle = |alike: Alike| -> usize {
            groups.iter().filter(|(key, _)| alike(key, request)).map(|(_, group)| group.idle_count()).sum()
        };
        of_group.is_none_or(|spare| group.idle_count() <= spare)
            && of_database.is_none_or(|spare| idle(same_database) <= spare)
            && of_user.is_none_or(|spare| idle(same_user) <= spare)
    }

    /// Opens links where fewer than `min_size` are open and none has to be closed for it; call it every now
    /// and then. `current` says where the databases are now to which links have led, and where none are wanted.
    pub fn fill(&self, current: impl Fn(&Destination) -> Option<Destination>) {
        let groups: Vec<Arc<Group>> = self.groups().values().cloned().collect();
        for known in groups {
            let Some(mut request) = known.kept() else { continue };
            let Some(destination) = current(&request.destination) else { continue };
            request.destination = destination;
            let group = self.group(&request);
            let seat = if group.is_short() { group.free_seat().ok() } else { None };
            let Some(seat) = seat.filter(|_| self.has_room(&request, &group)) else { continue };
            let pool = self.clone();
            self.0.runtime.spawn(async move {
                let deadline = tokio::time::Instant::now() + FILLED_WITHIN;
                match pool.open_new(&request, group, seat, deadline, Purpose::Stock).await {
                    Ok(checkout) => checkout.lease.give_back(checkout.stream, Vec::new()),
                    Err(error) => {
                        tracing::debug!(event = "pool.not_filled", %error);
                        if error.retry() == Retry::Never {
                            known.forget();
                        }
                    }
                }
            });
        }
    }
}

fn same_database(key: &GroupKey, request: &Request) -> bool {
    key.site == request.destination.site && key.database == request.destination.database
}

fn same_user(key: &GroupKey, request: &Request) -> bool {
    key.site == request.destination.site && key.user == request.login.user
}
