//! What passes through each pool (one user at one database), counted by the thread that carries it.
//!
//! Every data thread has a meter of its own for each pool: adding to it is a load, an addition and a
//! store, without a lock and without another core's cache line. Who asks adds the meters up.

use super::histogram::{Histogram, Latencies};
use super::pooler::Counts;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Most pools that are counted one by one: those that come later share one, named [`OTHERS`].
const POOLS_MAX: usize = 500;
/// Name of the pool in which the later ones are counted.
pub const OTHERS: &str = "(others)";

/// A count that one thread writes.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds `n`; for the one thread that writes it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds `n`, where several threads do.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread has carried for one pool.
#[derive(Debug, Default)]
pub struct Meter {
    /// Times that a client was given a link.
    pub server_assignments: Single,
    /// Transactions, also those of a single statement.
    pub transactions: Single,
    /// Statements: whatever ends in ReadyForQuery.
    pub queries: Single,
    /// Bytes from clients.
    pub received_bytes: Single,
    /// Bytes from servers.
    pub sent_bytes: Single,
    /// Sum of [`Meter::transaction`].
    pub transaction_us: Single,
    /// Sum of [`Meter::query`].
    pub query_us: Single,
    /// Sum of [`Meter::wait`].
    pub wait_us: Single,
    /// Parse messages of clients.
    pub client_parses: Single,
    /// Parse messages to servers.
    pub server_parses: Single,
    /// Bind messages.
    pub binds: Single,
    /// Clients that have logged in.
    pub client_logins: Single,
    /// From the first statement of a transaction to its end.
    pub transaction: Histogram,
    /// From a statement to its answer; what is pipelined counts together.
    pub query: Histogram,
    /// How long clients waited for a link.
    pub wait: Histogram,
    /// How long it took to hand one out: to find one, or to open it.
    pub checkout: Histogram,
}

impl Meter {
    /// A client has waited for a link; for any thread.
    pub fn waited(&self, took: Duration) {
        self.wait_us.add_shared(micros(took));
        self.wait.record_shared(took);
    }

    fn counts(&self) -> Counts {
        Counts {
            server_assignments: self.server_assignments.get(),
            transactions: self.transactions.get(),
            queries: self.queries.get(),
            received_bytes: self.received_bytes.get(),
            sent_bytes: self.sent_bytes.get(),
            transaction_time: Duration::from_micros(self.transaction_us.get()),
            query_time: Duration::from_micros(self.query_us.get()),
            wait_time: Duration::from_micros(self.wait_us.get()),
            client_parses: self.client_parses.get(),
            server_parses: self.server_parses.get(),
            binds: self.binds.get(),
            client_logins: self.client_logins.get(),
        }
    }
}

/// As whole microseconds.
pub fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Who carries: a data thread by its number, or the control runtime, whose threads share a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// Log-ins: use the methods for several threads only.
    Control,
    /// A data thread.
    Data(usize),
}

/// All meters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Mutex<Pools>>);

#[derive(Debug, Default)]
struct Pools {
    /// By database and by user.
    meters: BTreeMap<Vec<u8>, BTreeMap<String, Meters>>,
    count: usize,
}

type Meters = BTreeMap<Carrier, Arc<Meter>>;

/// A pool, by database and user as clients name them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolName {
    /// The database.
    pub database: Vec<u8>,
    /// The user.
    pub user: String,
}

/// What was counted for one pool since the start.
#[derive(Debug, Clone, Default)]
pub struct PoolTraffic {
    /// Sums.
    pub counts: Counts,
    /// See [`Meter::transaction`].
    pub transaction: Latencies,
    /// See [`Meter::query`].
    pub query: Latencies,
    /// See [`Meter::wait`].
    pub wait: Latencies,
    /// See [`Meter::checkout`].
    pub checkout: Latencies,
}

impl Traffic {
    /// The meter of a pool for one who carries.
    pub fn meter(&self, database: &[u8], user: &str, carrier: Carrier) -> Arc<Meter> {
        let mut pools = self.pools();
        let known = pools.meters.get_mut(database).and_then(|users| users.get_mut(user));
        let meters = match known {
            Some(meters) => meters,
            None => pools.begin(database, user),
        };
        meters.entry(carrier).or_default().clone()
    }

    /// What was counted for each pool.
    pub fn list(&self) -> Vec<(PoolName, PoolTraffic)> {
        let pools = self.pools();
        let summed = |meters: &Meters| {
            let mut sum = PoolTraffic::default();
            for meter in meters.values() {
                sum.counts = sum.counts.plus(&meter.counts());
                sum.transaction.add(&meter.transaction);
                sum.query.add(&meter.query);
                sum.wait.add(&meter.wait);
                sum.checkout.add(&meter.checkout);
            }
            sum
        };
        pools.iter().map(|(name, meters)| (name, summed(meters))).collect()
    }

    /// The counts of each database, over all its users.
    pub fn by_database(&self) -> BTreeMap<Vec<u8>, Counts> {
        let mut sums: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
        for (database, users) in &self.pools().meters {
            let sum = sums.entry(database.clone()).or_default();
            for meter in users.values().flat_map(Meters::values) {
                *sum = sum.plus(&meter.counts());
            }
        }
        sums
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.0.lock().expect("no holder of the meters panics")
    }
}

impl Pools {
    /// The meters of a pool that has none of its own yet.
    fn begin(&mut self, database: &[u8], user: &str) -> &mut Meters {
        let is_one_too_many = self.count >= POOLS_MAX;
        let (database, user) = if is_one_too_many { (OTHERS.as_bytes(), OTHERS) } else { (database, user) };
        self.count += usize::from(!is_one_too_many);
        self.meters.entry(database.to_vec()).or_default().entry(user.to_owned()).or_default()
    }

    fn iter(&self) -> impl Iterator<Item = (PoolName, &Meters)> {
        self.meters.iter().flat_map(|(database, users)| {
            let name = |user: &String| PoolName { database: database.clone(), user: user.clone() };
            users.iter().map(move |(user, meters)| (name(user), meters))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_of_all_threads_are_added_up() {
        let traffic = Traffic::default();
        for thread in 0..2 {
            let meter = traffic.meter(b"shop", "app", Carrier::Data(thread));
            meter.queries.add(3);
            meter.query_us.add(3_000);
            meter.query.record(Duration::from_millis(1));
        }
        traffic.meter(b"shop", "app", Carrier::Control).client_logins.add_shared(1);
        traffic.meter(b"shop", "other", Carrier::Control).waited(Duration::from_millis(5));
        let list = traffic.list();
        let [(app, of_app), (other, of_other)] = list.as_slice() else { panic!("{list:?}") };
        assert_eq!((app.user.as_str(), other.user.as_str()), ("app", "other"));
        assert_eq!((of_app.counts.queries, of_app.counts.client_logins), (6, 1));
        assert_eq!((of_app.counts.query_time, of_app.query.count()), (Duration::from_millis(6), 2));
        assert_eq!((of_other.counts.wait_time, of_other.wait.count()), (Duration::from_millis(5), 1));
        let shop = traffic.by_database()[b"shop".as_slice()];
        assert_eq!((shop.queries, shop.client_logins), (6, 1));
    }

    #[test]
    fn strangers_cannot_make_it_grow_without_end() {
        let traffic = Traffic::default();
        for n in 0..POOLS_MAX + 50 {
            traffic
                .meter(format!("database{n}").as_bytes(), "app", Carrier::Control)
                .client_logins
                .add_shared(1);
        }
        let list = traffic.list();
        assert_eq!(list.len(), POOLS_MAX + 1);
        let others = list.iter().find(|(name, _)| name.user == OTHERS).unwrap();
        assert_eq!(others.1.counts.client_logins, 50);
        assert_eq!(traffic.meter(b"database1", "app", Carrier::Control).client_logins.get(), 1);
    }
}
