//! The connections to servers and what each of them does just now, for the console.

use crate::base::{Epoch, Moment, Site};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkState {
    /// Nobody uses it.
    Idle = 0,
    /// A client has it.
    Active = 1,
    /// It is made as good as new, or asked whether it still works.
    Tested = 2,
    /// Its client has left it with work in hand, and it ends when that is done.
    Ending = 3,
}

impl LinkState {
    fn of(number: u8) -> Self {
        match number {
            1 => LinkState::Active,
            2 => LinkState::Tested,
            3 => LinkState::Ending,
            _ => LinkState::Idle,
        }
    }
}

/// Which server a link leads to and as whom, as far as it does not change.
#[derive(Debug, Clone)]
pub struct LinkOrigin {
    /// Which site.
    pub site: Site,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The database as clients name it.
    pub database: Vec<u8>,
    /// As whom.
    pub user: String,
    /// `host:port`, or the path of the Unix socket.
    pub address: String,
    /// Process id of its back end.
    pub pid: i32,
    /// Whether what passes is encrypted, and how.
    pub tls: Option<String>,
    /// When it was opened, for display.
    pub connected_at: SystemTime,
    /// Value of the start-up parameter `replication`.
    pub replication: Option<String>,
}

/// What is known of one link.
#[derive(Debug)]
pub struct LinkFacts {
    /// Counts from 1; never used again.
    pub id: u64,
    /// Where it leads.
    pub origin: LinkOrigin,
    state: AtomicU8,
    /// To be closed as soon as nobody uses it (`RECONNECT`).
    is_close_needed: AtomicBool,
    client: AtomicU64,
    /// When it was last given to a client.
    request_at: AtomicU64,
    prepared: AtomicU64,
}

impl LinkFacts {
    /// What it does.
    pub fn state(&self) -> LinkState {
        LinkState::of(self.state.load(Ordering::Relaxed))
    }

    /// It does something else now.
    pub fn set_state(&self, state: LinkState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// The number of the client that has it.
    pub fn client(&self) -> Option<u64> {
        Some(self.client.load(Ordering::Relaxed)).filter(|client| *client != 0)
    }

    /// A client has it now, or nobody.
    pub fn set_client(&self, client: Option<u64>, now: Moment) {
        self.client.store(client.unwrap_or(0), Ordering::Relaxed);
        if client.is_some() {
            self.request_at.store(now.0, Ordering::Relaxed);
        }
    }

    /// When it was last given to a client; zero before the first one.
    pub fn request_at(&self) -> Moment {
        Moment(self.request_at.load(Ordering::Relaxed))
    }

    /// How many prepared statements are on it.
    pub fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// So many prepared statements are on it now.
    pub fn set_prepared(&self, count: u64) {
        self.prepared.store(count, Ordering::Relaxed);
    }

    /// Whether it is closed as soon as nobody uses it.
    pub fn is_close_needed(&self) -> bool {
        self.is_close_needed.load(Ordering::Relaxed)
    }

    /// Closes it as soon as nobody uses it.
    pub fn need_close(&self) {
        self.is_close_needed.store(true, Ordering::Relaxed);
    }
}

/// All links. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    last_id: u64,
    links: BTreeMap<u64, Arc<LinkFacts>>,
}

/// A link's place in the list, as long as it is open.
#[derive(Debug)]
pub struct LinkEntry {
    facts: Arc<LinkFacts>,
    list: Links,
}

impl Links {
    /// Enters a link that was opened for a client.
    pub fn enter(&self, origin: LinkOrigin) -> LinkEntry {
        let mut list = locked(&self.0);
        list.last_id += 1;
        let facts = Arc::new(LinkFacts {
            id: list.last_id,
            origin,
            state: AtomicU8::new(LinkState::Active as u8),
            is_close_needed: AtomicBool::new(false),
            client: AtomicU64::new(0),
            request_at: AtomicU64::new(0),
            prepared: AtomicU64::new(0),
        });
        list.links.insert(facts.id, facts.clone());
        LinkEntry { facts, list: self.clone() }
    }

    /// All that are open, the oldest first.
    pub fn list(&self) -> Vec<Arc<LinkFacts>> {
        locked(&self.0).links.values().cloned().collect()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        locked(&self.0).links.len()
    }
}

impl LinkEntry {
    /// Its facts.
    pub fn facts(&self) -> &Arc<LinkFacts> {
        &self.facts
    }
}

impl Drop for LinkEntry {
    fn drop(&mut self) {
        locked(&self.list.0).links.remove(&self.facts.id);
    }
}

fn locked(mutex: &Mutex<List>) -> MutexGuard<'_, List> {
    mutex.lock().expect("no holder of the links panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_listed_as_long_as_it_is_open() {
        let links = Links::default();
        let origin = LinkOrigin {
            site: Site::Local,
            epoch: Epoch(1),
            database: b"shop".to_vec(),
            user: "app".to_owned(),
            address: "localhost:5432".to_owned(),
            pid: 4711,
            tls: None,
            connected_at: SystemTime::UNIX_EPOCH,
            replication: None,
        };
        let entry = links.enter(origin);
        let facts = entry.facts();
        facts.set_client(Some(3), Moment(9));
        facts.need_close();
        let [seen] = links.list().try_into().unwrap();
        assert_eq!((seen.id, seen.client(), seen.request_at()), (1, Some(3), Moment(9)));
        assert_eq!((seen.state(), seen.is_close_needed()), (LinkState::Active, true));
        facts.set_client(None, Moment(10));
        facts.set_state(LinkState::Idle);
        assert_eq!((seen.client(), seen.request_at(), seen.state()), (None, Moment(9), LinkState::Idle));
        drop(entry);
        assert_eq!(links.count(), 0);
    }
}
