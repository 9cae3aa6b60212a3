//! From the cancel key a client has to the back end it means.

use crate::backend::{self, Endpoint};
use crate::sys::{self, Map};
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// A back end that can be cancelled. Shared by its link and everything that can cancel it: a cancel
/// that arrives late would hit the statement of whoever has the back end then, so a link is used
/// again only when nobody else holds this ([`is_cancelled`]).
#[derive(Debug)]
pub struct CancelTarget {
    /// Its server.
    pub endpoint: Endpoint,
    /// Its process id.
    pub pid: i32,
    /// Its secret, which clients never see.
    pub secret: Vec<u8>,
    /// A cancel was sent whose end nobody has seen: it may arrive at any time.
    may_be_late: AtomicBool,
}

impl CancelTarget {
    /// A back end that nobody has cancelled.
    pub fn new(endpoint: Endpoint, pid: i32, secret: Vec<u8>) -> Self {
        Self { endpoint, pid, secret, may_be_late: AtomicBool::new(false) }
    }
}

/// Whether a cancel may still arrive, seen by the link, whose client's key points elsewhere.
pub fn is_cancelled(target: &Arc<CancelTarget>) -> bool {
    Arc::strong_count(target) > 1 || target.may_be_late.load(Ordering::Acquire)
}

/// Asks the server to cancel what the back end does, and waits until it has done so: PostgreSQL may send
/// two signals for one request, and only the end of the connection says that no more come.
pub async fn cancel(target: Arc<CancelTarget>, within: Duration) -> Result<(), backend::Error> {
    let CancelTarget { endpoint, pid, secret, may_be_late } = &*target;
    let done = backend::cancel(endpoint, *pid, secret, within).await;
    if !matches!(done, Ok(()) | Err(backend::Error::Connect { .. })) {
        // Given up, but perhaps with the request on its way: nobody else may be hit by it.
        may_be_late.store(true, Ordering::Release);
    }
    done
}

/// What one client's key means.
#[derive(Debug, Default)]
struct Meaning {
    target: Mutex<Option<Arc<CancelTarget>>>,
    /// Wakes a session that waits without a back end.
    asked: Notify,
    /// The same for a session that waits in its relay, and that it was asked.
    waiting: Mutex<Option<Waker>>,
    was_asked: AtomicBool,
}

type Slot = Arc<Meaning>;

/// Process id and secret, as a client knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    pid: i32,
    length: usize,
    /// Zeros behind its length.
    secret: [u8; SECRET_MAX],
}

/// Our longest secret.
const SECRET_MAX: usize = 32;

impl Key {
    /// `None`: no client has such a one.
    fn new(pid: i32, secret: &[u8]) -> Option<Self> {
        let mut key = Self { pid, length: secret.len(), secret: [0; SECRET_MAX] };
        key.secret.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(key)
    }
}

/// All clients' cancel keys. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancels(Arc<Mutex<Map<Key, Slot>>>);

/// A client's key, as long as its session lives.
#[derive(Debug)]
pub struct CancelKey {
    all: Cancels,
    slot: Slot,
    key: Key,
}

impl Cancels {
    /// Makes a key for a client whose back end has process id `pid`. The secret has `length`
    /// bytes: 4 in protocol 3.0, up to 32 later.
    pub fn register(&self, pid: i32, length: usize) -> CancelKey {
        let slot = Slot::default();
        let mut all = locked(&self.0);
        loop {
            let random = sys::random_bytes::<SECRET_MAX>();
            let key = Key::new(pid, &random[..length.min(SECRET_MAX)]).expect("it is not longer");
            if let Entry::Vacant(free) = all.entry(key) {
                free.insert(slot.clone());
                return CancelKey { all: self.clone(), slot, key };
            }
        }
    }

    /// The back end behind a key. The map is looked up by hash, and the secret has at least 32
    /// random bits: timing tells nothing that guessing would not. A session that waits without one
    /// is told instead, see [`CancelKey::asked`].
    pub fn find(&self, pid: i32, secret: &[u8]) -> Option<Arc<CancelTarget>> {
        let slot = locked(&self.0).get(&Key::new(pid, secret)?)?.clone();
        let target = locked(&slot.target).clone();
        if target.is_none() {
            slot.asked.notify_waiters();
            if let Some(waker) = locked(&slot.waiting).take() {
                slot.was_asked.store(true, Ordering::Release);
                waker.wake();
            }
        }
        target
    }
}

impl CancelKey {
    /// The process id that the client is told: the back end's at log-in.
    pub fn pid(&self) -> i32 {
        self.key.pid
    }

    /// Our own secret for it.
    pub fn secret(&self) -> &[u8] {
        &self.key.secret[..self.key.length]
    }

    /// From now on the key means `target`, or nothing.
    pub fn point_to(&self, target: Option<Arc<CancelTarget>>) {
        *locked(&self.slot.target) = target;
    }

    /// The same for who changes it often.
    pub fn pointer(&self) -> CancelPointer {
        CancelPointer(self.slot.clone())
    }

    /// Waits until the client asks to be cancelled while its key means no back end.
    pub async fn asked(&self) {
        self.slot.asked.notified().await;
    }
}

/// What changes the meaning of a key, for a session that has another link with each transaction.
#[derive(Debug)]
pub struct CancelPointer(Slot);

impl CancelPointer {
    /// From now on the key means `target`.
    pub fn point_to(&self, target: &Arc<CancelTarget>) {
        *locked(&self.0.target) = Some(target.clone());
    }

    /// From now on the key means nothing.
    pub fn point_nowhere(&self) {
        *locked(&self.0.target) = None;
    }

    /// The session begins to wait in its relay: `waker` is woken when the client asks to be cancelled.
    pub fn listen(&self, waker: &Waker) {
        self.0.was_asked.store(false, Ordering::Relaxed);
        *locked(&self.0.waiting) = Some(waker.clone());
    }

    /// The session waits no more.
    pub fn stop_listening(&self) {
        *locked(&self.0.waiting) = None;
    }

    /// Whether the client has asked since the session began to wait.
    pub fn was_asked(&self) -> bool {
        self.0.was_asked.load(Ordering::Acquire)
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        locked(&self.all.0).remove(&self.key);
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
        assert_eq!(key.secret().len(), 4);
        assert!(cancels.find(7, key.secret()).is_none());
        let address = Address::Tcp { host: "localhost".into(), port: 1 };
        let endpoint = Endpoint { address, tls: ServerTls::disabled() };
        let target = Arc::new(CancelTarget::new(endpoint, 7, vec![1, 2, 3, 4]));
        key.point_to(Some(target.clone()));
        assert_eq!(cancels.find(7, key.secret()).unwrap().secret, [1, 2, 3, 4]);
        assert!(cancels.find(8, key.secret()).is_none());
        let cancel = cancels.find(7, key.secret());
        key.point_to(None);
        assert!(is_cancelled(&target));
        drop(cancel);
        assert!(!is_cancelled(&target));
        let secret = key.secret().to_vec();
        drop(key);
        assert!(cancels.find(7, &secret).is_none());
    }

    #[tokio::test]
    async fn a_cancel_that_was_given_up_may_still_arrive() {
        // It takes connections, as the system does for a server that does not run just now, and is silent.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = |port| {
            let address = Address::Tcp { host: "127.0.0.1".into(), port };
            Arc::new(CancelTarget::new(Endpoint { address, tls: ServerTls::disabled() }, 7, vec![1, 2, 3, 4]))
        };
        let silent = target(port);
        assert!(cancel(silent.clone(), Duration::from_millis(20)).await.is_err());
        assert!(is_cancelled(&silent));
        drop(listener);
        let refused = target(port);
        assert!(cancel(refused.clone(), Duration::from_secs(5)).await.is_err());
        assert!(!is_cancelled(&refused), "nothing is on its way to it");
    }
}
