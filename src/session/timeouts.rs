//! What lasts too long: a statement, a transaction, a silence.
//!
//! No client has a timer. Where a timeout is configured, each data thread looks at its clients every
//! now and then, by the facts that they keep of themselves anyway, and orders those to end that are
//! overdue. Where none is configured, nobody looks.

use crate::base::Moment;
use crate::config::{Pool, PoolTable, Rules};
use crate::observe::clients::{ClientFacts, ClientState, Order};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Looks per timeout: it is exceeded by a tenth at most, but for the bounds below.
const LOOKS: u32 = 10;
/// The shortest and the longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The limits in force, and when they change.
#[derive(Debug, Default)]
pub struct Limits {
    now: ArcSwap<Pool>,
    changes: watch::Sender<()>,
}

impl Limits {
    /// These are in force.
    pub fn new(limits: Pool) -> Self {
        Self { now: ArcSwap::from_pointee(limits), changes: watch::Sender::default() }
    }

    /// Those in force.
    pub fn load(&self) -> Guard<Arc<Pool>> {
        self.now.load()
    }

    /// The same, to be kept.
    pub fn load_full(&self) -> Arc<Pool> {
        self.now.load_full()
    }

    /// Others are in force from now on.
    pub fn store(&self, limits: Arc<Pool>) {
        self.now.store(limits);
        self.changes.send_replace(());
    }

    /// Wakes at every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// How long to wait between two looks; `None` where no timeout is configured for anybody.
pub fn pause(limits: &Pool) -> Option<Duration> {
    let common = [
        limits.query_timeout,
        limits.transaction_timeout,
        limits.idle_transaction_timeout,
        limits.client_idle_timeout,
    ];
    let own = |table: &PoolTable| {
        [
            table.query_timeout,
            table.transaction_timeout,
            table.idle_transaction_timeout,
            table.client_idle_timeout,
        ]
    };
    let tables = limits.databases.values().chain(limits.users.values()).flat_map(own);
    let all = common.into_iter().chain(tables).flatten().filter(|timeout| !timeout.is_zero());
    all.min().map(|shortest| (shortest / LOOKS).clamp(PAUSE.0, PAUSE.1))
}

/// Ends a client's session if it is overdue.
pub fn look_at(client: &ClientFacts, limits: &Pool, now: Moment) {
    let rules = limits.rules(&client.origin.database, &client.origin.user);
    // A replication connection is one endless statement.
    if client.origin.replication.is_none()
        && let Some(order) = overdue(client, &rules, now)
    {
        client.order(order);
    }
}

fn overdue(client: &ClientFacts, rules: &Rules, now: Moment) -> Option<Order> {
    let is_over = |since: Moment, timeout: Option<Duration>| {
        timeout.is_some_and(|timeout| since != Moment::default() && now.since(since) >= timeout)
    };
    let in_state = match client.state() {
        ClientState::Running => (client.request_at(), rules.query_timeout, Order::QueryTimeout),
        ClientState::InTransaction => {
            (client.since(), rules.idle_transaction_timeout, Order::IdleTransactionTimeout)
        }
        ClientState::Idle => (client.since(), rules.client_idle_timeout, Order::ClientIdleTimeout),
        // `query_wait_timeout` ends it.
        ClientState::Waiting => return None,
    };
    let (since, timeout, order) = in_state;
    if is_over(since, timeout) {
        return Some(order);
    }
    let transaction_at = client.transaction_at()?;
    is_over(transaction_at, rules.transaction_timeout).then_some(Order::TransactionTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clients::{ClientOrigin, Clients};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_state_has_its_timeout() {
        let seconds = |n| Some(Duration::from_secs(n));
        let rules = Rules {
            query_timeout: seconds(10),
            transaction_timeout: seconds(30),
            idle_transaction_timeout: seconds(5),
            client_idle_timeout: seconds(60),
            ..Pool::default().rules(b"", "")
        };
        let entry = Clients::default().enter(ClientOrigin::of_test());
        let client = entry.facts();
        let check = |state, began: u64, transaction: Option<u64>, now: u64, expected| {
            client.set_request_at(Moment(began * SECOND));
            client.set_state(state, Moment(began * SECOND));
            client.set_transaction_at(transaction.map(|at| Moment(at * SECOND)));
            assert_eq!(overdue(client, &rules, Moment(now * SECOND)), expected, "{state:?} {began} {now}");
        };
        check(ClientState::Running, 100, Some(100), 109, None);
        check(ClientState::Running, 100, Some(100), 110, Some(Order::QueryTimeout));
        check(ClientState::Running, 129, Some(100), 130, Some(Order::TransactionTimeout));
        check(ClientState::InTransaction, 100, Some(99), 104, None);
        check(ClientState::InTransaction, 100, Some(99), 105, Some(Order::IdleTransactionTimeout));
        check(ClientState::InTransaction, 129, Some(100), 130, Some(Order::TransactionTimeout));
        check(ClientState::Idle, 100, None, 159, None);
        check(ClientState::Idle, 100, None, 160, Some(Order::ClientIdleTimeout));
        check(ClientState::Waiting, 1, Some(1), 1000, None);
        let none = Pool::default().rules(b"", "");
        assert_eq!(overdue(client, &none, Moment(u64::MAX)), None);
    }

    #[test]
    fn nobody_looks_where_nothing_is_configured() {
        let mut limits = Pool::default();
        assert_eq!(pause(&limits), None);
        limits.client_idle_timeout = Some(Duration::from_secs(600));
        assert_eq!(pause(&limits), Some(Duration::from_secs(1)));
        let table = |ms| PoolTable { query_timeout: Some(Duration::from_millis(ms)), ..Default::default() };
        limits.users.insert("app".into(), table(0));
        assert_eq!(pause(&limits), Some(Duration::from_secs(1)));
        limits.databases.insert("shop".into(), table(500));
        assert_eq!(pause(&limits), Some(Duration::from_millis(50)));
    }
}
