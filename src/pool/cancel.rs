//! From the cancel key a client has to the back end it means.

use crate::backend::Endpoint;
use crate::sys;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// A back end that can be cancelled.
#[derive(Debug, Clone)]
pub struct CancelTarget {
    /// Its server.
    pub endpoint: Endpoint,
    /// Its process id.
    pub pid: i32,
    /// Its secret, which clients never see.
    pub secret: Vec<u8>,
    /// As long as somebody has this, a cancel may be on its way.
    pub in_flight: InFlight,
}

/// Shared by a link and everything that can cancel it. A cancel that arrives late would hit the
/// statement of whoever has the back end then, so a link is used again only by who finds that
/// nobody else has this any more.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<()>);

impl InFlight {
    /// Whether a cancel may still arrive, seen by the link, whose client's key points elsewhere.
    pub fn is_any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// What one client's key means.
#[derive(Debug, Default)]
struct Meaning {
    target: Mutex<Option<CancelTarget>>,
    /// Wakes a session that waits without a back end.
    asked: Notify,
}

type Slot = Arc<Meaning>;
/// Process id and secret, as a client knows them.
type Key = (i32, Vec<u8>);

/// All clients' cancel keys. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancels(Arc<Mutex<HashMap<Key, Slot>>>);

/// A client's key, as long as its session lives.
#[derive(Debug)]
pub struct CancelKey {
    all: Cancels,
    slot: Slot,
    /// The process id that the client is told: the back end's at log-in.
    pub pid: i32,
    /// Our own secret for it.
    pub secret: Vec<u8>,
}

impl Cancels {
    /// Makes a key for a client whose back end has process id `pid`. The secret has `length`
    /// bytes: 4 in protocol 3.0, up to 32 later.
    pub fn register(&self, pid: i32, length: usize) -> CancelKey {
        let slot = Slot::default();
        let mut all = locked(&self.0);
        loop {
            let secret = sys::random_bytes::<32>()[..length.min(32)].to_vec();
            if let std::collections::hash_map::Entry::Vacant(free) = all.entry((pid, secret.clone())) {
                free.insert(slot.clone());
                return CancelKey { all: self.clone(), slot, pid, secret };
            }
        }
    }

    /// The back end behind a key. The map is looked up by hash, and the secret has at least 32
    /// random bits: timing tells nothing that guessing would not. A session that waits without one
    /// is told instead, see [`CancelKey::asked`].
    pub fn find(&self, pid: i32, secret: &[u8]) -> Option<CancelTarget> {
        let slot = locked(&self.0).get(&(pid, secret.to_vec()))?.clone();
        let target = locked(&slot.target).clone();
        if target.is_none() {
            slot.asked.notify_waiters();
        }
        target
    }
}

impl CancelKey {
    /// From now on the key means `target`, or nothing.
    pub fn point_to(&self, target: Option<CancelTarget>) {
        *locked(&self.slot.target) = target;
    }

    /// Waits until the client asks to be cancelled while its key means no back end.
    pub async fn asked(&self) {
        self.slot.asked.notified().await;
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        locked(&self.all.0).remove(&(self.pid, std::mem::take(&mut self.secret)));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the cancel keys panics")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Address;
    use crate::backend::tls::ServerTls;

    #[test]
    fn a_key_means_its_back_end_until_its_session_ends() {
        let cancels = Cancels::default();
        let key = cancels.register(7, 4);
        assert_eq!(key.secret.len(), 4);
        assert!(cancels.find(7, &key.secret).is_none());
        let address = Address::Tcp { host: "localhost".into(), port: 1 };
        let endpoint = Endpoint { address, tls: ServerTls::disabled() };
        let in_flight = InFlight::default();
        key.point_to(Some(CancelTarget {
            endpoint,
            pid: 7,
            secret: vec![1, 2, 3, 4],
            in_flight: in_flight.clone(),
        }));
        assert_eq!(cancels.find(7, &key.secret).unwrap().secret, [1, 2, 3, 4]);
        assert!(cancels.find(8, &key.secret).is_none());
        let cancel = cancels.find(7, &key.secret);
        key.point_to(None);
        assert!(in_flight.is_any());
        drop(cancel);
        assert!(!in_flight.is_any());
        let secret = key.secret.clone();
        drop(key);
        assert!(cancels.find(7, &secret).is_none());
    }
}
