//! Who is connected and what each client does just now, for the console.
//!
//! A client's facts are written by the thread that serves it and read by whoever asks. Each write
//! is one plain store: nothing on the way of a statement takes a lock or waits.

use crate::base::{Moment, RoleName};
use crate::sys::Peer;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// Between two statements, outside a transaction.
    Idle = 0,
    /// A statement of its runs.
    Running = 1,
    /// Between two statements of a transaction.
    InTransaction = 2,
    /// It waits for a connection to a server, or for a writer.
    Waiting = 3,
}

impl ClientState {
    fn of(number: u8) -> Self {
        match number {
            1 => ClientState::Running,
            2 => ClientState::InTransaction,
            3 => ClientState::Waiting,
            _ => ClientState::Idle,
        }
    }
}

/// What somebody else wants a client's session to do. The session looks at it whenever it is
/// woken; a later order replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// End: the process has waited long enough for it.
    ShutDown = 1,
    /// End: an administrator wants it.
    Kill = 2,
    /// End: its statement has lasted longer than `query_timeout`.
    QueryTimeout = 3,
    /// End: its transaction has been open longer than `transaction_timeout`.
    TransactionTimeout = 4,
    /// End: it has been silent in a transaction for `idle_transaction_timeout`.
    IdleTransactionTimeout = 5,
    /// End: it has been silent for `client_idle_timeout`.
    ClientIdleTimeout = 6,
    /// End: it has been silent for `pinned_idle_timeout` with a connection that is held for it.
    PinnedIdleTimeout = 7,
}

impl Order {
    const ALL: [Order; 7] = [
        Order::ShutDown,
        Order::Kill,
        Order::QueryTimeout,
        Order::TransactionTimeout,
        Order::IdleTransactionTimeout,
        Order::ClientIdleTimeout,
        Order::PinnedIdleTimeout,
    ];
}

/// Who a client is, as far as it does not change.
#[derive(Debug, Clone)]
pub struct ClientOrigin {
    /// The database as the client named it.
    pub database: Arc<[u8]>,
    /// Its role.
    pub user: RoleName,
    /// Where it connects from.
    pub peer: Peer,
    /// Which address of ours it has connected to.
    pub local: Peer,
    /// Whether what passes is encrypted, and how.
    pub tls: Option<String>,
    /// When it connected, for display.
    pub connected_at: SystemTime,
    /// `application_name` of its start-up.
    pub application_name: String,
    /// Value of the start-up parameter `replication`.
    pub replication: Option<String>,
}

#[cfg(test)]
impl ClientOrigin {
    /// Somebody.
    pub fn of_test() -> Self {
        Self {
            database: b"shop".as_slice().into(),
            user: RoleName::new("app").expect("it is a name"),
            peer: Peer::Unknown,
            local: Peer::Unknown,
            tls: None,
            connected_at: SystemTime::UNIX_EPOCH,
            application_name: "psql".to_owned(),
            replication: None,
        }
    }
}

/// What is known of one client. The setters are for the thread that serves it.
#[derive(Debug)]
pub struct ClientFacts {
    /// Counts from 1; never used again.
    pub id: u64,
    /// Who it is.
    pub origin: ClientOrigin,
    state: AtomicU8,
    order: AtomicU8,
    /// Bits of the ties that hold its server, as the room `session` numbers them.
    ties: AtomicU32,
    /// What held it idle for so long that it was reported.
    reported_pins: AtomicU32,
    server_pid: AtomicI32,
    link: AtomicU64,
    /// Since when it is in its state.
    since: AtomicU64,
    /// When its last statement, or its wait, began.
    request_at: AtomicU64,
    /// When its transaction began; 0 outside of one.
    transaction_at: AtomicU64,
    prepared: AtomicU32,
    application_name: Mutex<Option<String>>,
    waker: OnceLock<Waker>,
    /// The version of the routes under which it was last found between two messages, held.
    settled: AtomicU64,
}

impl ClientFacts {
    /// What it does.
    pub fn state(&self) -> ClientState {
        ClientState::of(self.state.load(Ordering::Relaxed))
    }

    /// It does something else now.
    pub fn set_state(&self, state: ClientState, now: Moment) {
        self.state.store(state as u8, Ordering::Relaxed);
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// Since when it is in its state.
    pub fn since(&self) -> Moment {
        Moment(self.since.load(Ordering::Relaxed))
    }

    /// When its last statement began; zero before the first one.
    pub fn request_at(&self) -> Moment {
        Moment(self.request_at.load(Ordering::Relaxed))
    }

    /// A statement begins.
    pub fn set_request_at(&self, now: Moment) {
        self.request_at.store(now.0, Ordering::Relaxed);
    }

    /// When its transaction began.
    pub fn transaction_at(&self) -> Option<Moment> {
        Some(Moment(self.transaction_at.load(Ordering::Relaxed))).filter(|at| at.0 != 0)
    }

    /// A transaction has begun, or has ended.
    pub fn set_transaction_at(&self, at: Option<Moment>) {
        self.transaction_at.store(at.map_or(0, |at| at.0), Ordering::Relaxed);
    }

    /// Bits of the ties that hold its server.
    pub fn ties(&self) -> u32 {
        self.ties.load(Ordering::Relaxed)
    }

    /// The ties have changed.
    pub fn set_ties(&self, bits: u32) {
        self.ties.store(bits, Ordering::Relaxed);
    }

    /// What holds a connection for a client that is silent: its ties, and its transaction. Nothing while it
    /// does something.
    pub fn idle_pins(&self) -> u32 {
        match self.state() {
            ClientState::Idle => self.ties(),
            ClientState::InTransaction => self.ties() | Self::TRANSACTION_PIN,
            ClientState::Running | ClientState::Waiting => 0,
        }
    }

    /// An open transaction, among ties.
    pub const TRANSACTION_PIN: u32 = 1 << 31;

    /// What was reported of those, as long as it holds.
    pub fn reported_pins(&self) -> u32 {
        self.reported_pins.load(Ordering::Relaxed)
    }

    /// These were reported.
    pub fn set_reported_pins(&self, pins: u32) {
        self.reported_pins.store(pins, Ordering::Relaxed);
    }

    /// The link it has: its number among the links and the process id of its back end.
    pub fn link(&self) -> Option<(u64, i32)> {
        let link = self.link.load(Ordering::Relaxed);
        (link != 0).then(|| (link, self.server_pid.load(Ordering::Relaxed)))
    }

    /// It has this link now, or none.
    pub fn set_link(&self, link: Option<(u64, i32)>) {
        let (link, pid) = link.unwrap_or((0, 0));
        self.server_pid.store(pid, Ordering::Relaxed);
        self.link.store(link, Ordering::Relaxed);
    }

    /// How many prepared statements of its are kept.
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// It has so many prepared statements now.
    pub fn set_prepared(&self, count: u32) {
        self.prepared.store(count, Ordering::Relaxed);
    }

    /// Its `application_name`, as last reported by a server.
    pub fn application_name(&self) -> String {
        locked(&self.application_name).clone().unwrap_or_else(|| self.origin.application_name.clone())
    }

    /// The server has reported another `application_name`.
    pub fn set_application_name(&self, name: &[u8]) {
        *locked(&self.application_name) = Some(String::from_utf8_lossy(name).into_owned());
    }

    /// Whether it is held between two messages since this version of the routes, or waits for a link.
    pub fn has_settled(&self, version: u64) -> bool {
        self.settled.load(Ordering::Acquire) >= version || self.state() == ClientState::Waiting
    }

    /// It is held between two messages under this version of the routes.
    pub fn set_settled(&self, version: u64) {
        self.settled.store(version, Ordering::Release);
    }

    /// Wants its session to do something, and wakes it. Can be called on any thread.
    pub fn order(&self, order: Order) {
        self.order.store(order as u8, Ordering::Release);
        // Whoever begins to serve just now is woken, or finds the order: see `set_waker`.
        fence(Ordering::SeqCst);
        self.wake();
    }

    /// Wakes its session, once it has one.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Whether anything is wanted of the session: one plain load.
    pub fn has_order(&self) -> bool {
        self.order.load(Ordering::Relaxed) != 0
    }

    /// What is wanted; it is taken by this.
    pub fn take_order(&self) -> Option<Order> {
        let number = self.order.swap(0, Ordering::Acquire);
        Order::ALL.into_iter().find(|order| *order as u8 == number)
    }

    /// Waits until something is wanted; for the task that serves the client, while it does not look.
    pub async fn ordered(&self) {
        // The task is woken by the order itself.
        let look = |cx: &mut Context<'_>| {
            self.set_waker(cx.waker());
            if self.has_order() { Poll::Ready(()) } else { Poll::Pending }
        };
        std::future::poll_fn(look).await;
    }

    /// The task that serves the client, to be woken by an order; it looks for one behind this. The first one
    /// stays.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
        fence(Ordering::SeqCst);
    }
}

/// All clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    last_id: u64,
    clients: BTreeMap<u64, Arc<ClientFacts>>,
}

/// A client's place in the list, as long as it is connected.
#[derive(Debug)]
pub struct ClientEntry {
    facts: Arc<ClientFacts>,
    list: Clients,
}

impl Clients {
    /// Enters a client that has logged in.
    pub fn enter(&self, origin: ClientOrigin) -> ClientEntry {
        let mut list = locked(&self.0);
        list.last_id += 1;
        let facts = Arc::new(ClientFacts {
            id: list.last_id,
            origin,
            state: AtomicU8::new(ClientState::Idle as u8),
            order: AtomicU8::new(0),
            ties: AtomicU32::new(0),
            reported_pins: AtomicU32::new(0),
            server_pid: AtomicI32::new(0),
            link: AtomicU64::new(0),
            since: AtomicU64::new(0),
            request_at: AtomicU64::new(0),
            transaction_at: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            application_name: Mutex::default(),
            waker: OnceLock::new(),
            settled: AtomicU64::new(0),
        });
        list.clients.insert(facts.id, facts.clone());
        ClientEntry { facts, list: self.clone() }
    }

    /// Everybody who is connected, the longest first.
    pub fn list(&self) -> Vec<Arc<ClientFacts>> {
        locked(&self.0).clients.values().cloned().collect()
    }

    /// The client of a number.
    pub fn find(&self, id: u64) -> Option<Arc<ClientFacts>> {
        locked(&self.0).clients.get(&id).cloned()
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        locked(&self.0).clients.len()
    }
}

impl ClientEntry {
    /// Its facts.
    pub fn facts(&self) -> &Arc<ClientFacts> {
        &self.facts
    }
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        locked(&self.list.0).clients.remove(&self.facts.id);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the clients panics")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_order_is_found_or_wakes_who_begins_just_then() {
        let clients = Clients::default();
        let enter = |_| (clients.enter(ClientOrigin::of_test()), Arc::new(Task::default()));
        let entered: Vec<_> = (0..1000).map(enter).collect();
        let arrived = AtomicUsize::new(0);
        // Both come to the same client at the same time.
        let meet = |turn: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 * (turn + 1) {
                std::hint::spin_loop();
            }
        };
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                for (turn, (entry, _)) in entered.iter().enumerate() {
                    meet(turn);
                    entry.facts().order(Order::Kill);
                }
            });
            let mut found = Vec::new();
            for (turn, (entry, task)) in entered.iter().enumerate() {
                let waker = Waker::from(task.clone());
                meet(turn);
                entry.facts().set_waker(&waker);
                found.push(entry.facts().has_order());
            }
            found
        });
        for (is_found, (_, task)) in found.into_iter().zip(&entered) {
            assert!(is_found || task.0.load(Ordering::Relaxed) > 0, "nobody hears of it");
        }
    }

    fn origin(user: &str) -> ClientOrigin {
        ClientOrigin { user: RoleName::new(user).unwrap(), ..ClientOrigin::of_test() }
    }

    #[test]
    fn a_client_is_listed_as_long_as_it_is_connected() {
        let clients = Clients::default();
        let first = clients.enter(origin("a"));
        let second = clients.enter(origin("b"));
        assert_eq!(clients.list().iter().map(|c| c.id).collect::<Vec<_>>(), [1, 2]);
        drop(first);
        assert_eq!((clients.count(), clients.find(1).is_none()), (1, true));
        let facts = second.facts();
        facts.set_state(ClientState::Waiting, Moment(7));
        facts.set_link(Some((3, 4711)));
        facts.set_application_name(b"report");
        let seen = clients.find(2).unwrap();
        assert_eq!(
            (seen.state(), seen.since(), seen.link()),
            (ClientState::Waiting, Moment(7), Some((3, 4711)))
        );
        assert_eq!(seen.application_name(), "report");
    }

    #[test]
    fn an_order_is_taken_once() {
        let clients = Clients::default();
        let entry = clients.enter(origin("a"));
        assert!(!entry.facts().has_order());
        clients.find(1).unwrap().order(Order::Kill);
        assert!(entry.facts().has_order());
        assert_eq!(entry.facts().take_order(), Some(Order::Kill));
        assert_eq!(entry.facts().take_order(), None);
        for order in Order::ALL {
            entry.facts().order(order);
            assert_eq!(entry.facts().take_order(), Some(order));
        }
    }
}
