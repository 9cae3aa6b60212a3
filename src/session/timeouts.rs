//! What lasts too long: a statement, a transaction, a silence.
//!
//! No client has a timer. Where a timeout is configured, each data thread looks at its clients every
//! now and then, by the facts that they keep of themselves anyway, and orders those to end that are
//! overdue. Where none is configured, nobody looks.

use super::pooled::ties::Ties;
use crate::base::Moment;
use crate::config::{Pool, PoolMode, PoolTable, Rules};
use crate::observe::clients::{ClientFacts, ClientState, Order};
use crate::observe::{Counters, count};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Looks per timeout: it is exceeded by a tenth at most, but for the bounds below.
const LOOKS: u32 = 10;
/// The shortest and the longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The longest pause where something is only to be reported.
const REPORT_PAUSE: Duration = Duration::from_secs(10);

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
        limits.pinned_idle_timeout,
    ];
    let own = |table: &PoolTable| {
        [
            table.query_timeout,
            table.transaction_timeout,
            table.idle_transaction_timeout,
            table.client_idle_timeout,
            table.pinned_idle_timeout,
        ]
    };
    let tables = limits.databases.values().chain(limits.users.values()).flat_map(own);
    let all = common.into_iter().chain(tables).flatten().filter(|timeout| !timeout.is_zero());
    let ends = all.min().map(|shortest| (shortest / LOOKS).clamp(PAUSE.0, PAUSE.1));
    let report = limits.pinned_idle_report.filter(|_| has_pooled(limits));
    let report = report.map(|after| (after / LOOKS).clamp(PAUSE.0, REPORT_PAUSE));
    ends.into_iter().chain(report).min()
}

/// Whether any client may be of a pooled mode.
fn has_pooled(limits: &Pool) -> bool {
    let tables = limits.databases.values().chain(limits.users.values());
    limits.mode.is_pooled() || tables.filter_map(|table| table.mode).any(PoolMode::is_pooled)
}

/// Ends a client's session if it is overdue.
pub fn look_at(client: &ClientFacts, limits: &Pool, now: Moment) {
    let rules = limits.rules(&client.origin.database, client.origin.user.as_str());
    // A replication connection is one endless statement.
    if client.origin.replication.is_none()
        && let Some(order) = overdue(client, &rules, now)
    {
        client.order(order);
    }
}

/// Reports a client that has been silent for long while something of its holds a connection: once, until
/// that is gone.
pub fn report_pins(client: &ClientFacts, limits: &Pool, counters: &Counters, now: Moment) {
    let Some(after) = limits.pinned_idle_report else { return };
    let (pins, reported) = (client.idle_pins(), client.reported_pins());
    if pins == 0 {
        if reported != 0 && client.state() == ClientState::Idle {
            client.set_reported_pins(0);
        }
        return;
    }
    let silent = now.since(client.since());
    let origin = &client.origin;
    if silent < after
        || pins & !reported == 0
        || !limits.rules(&origin.database, origin.user.as_str()).mode.is_pooled()
        || origin.replication.is_some()
    {
        return;
    }
    client.set_reported_pins(pins | reported);
    count(&counters.pins_reported);
    let database = String::from_utf8_lossy(&origin.database);
    let ties = Ties::from(pins & !ClientFacts::TRANSACTION_PIN).to_string();
    let pinned = match (pins & ClientFacts::TRANSACTION_PIN, ties.as_str()) {
        (0, ties) => ties.to_owned(),
        (_, "") => "transaction".to_owned(),
        (_, ties) => format!("transaction,{ties}"),
    };
    let (id, user, silent_s) = (client.id, origin.user.as_str(), silent.as_secs());
    tracing::warn!(event = "session.pinned_idle", id, user, %database, pinned, silent_s);
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
        ClientState::Idle if client.ties() != 0 && is_over(client.since(), rules.pinned_idle_timeout) => {
            return Some(Order::PinnedIdleTimeout);
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
            pinned_idle_timeout: seconds(20),
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
        client.set_ties(1);
        check(ClientState::Idle, 100, None, 119, None);
        check(ClientState::Idle, 100, None, 120, Some(Order::PinnedIdleTimeout));
        let none = Pool::default().rules(b"", "");
        assert_eq!(overdue(client, &none, Moment(u64::MAX)), None);
    }

    #[test]
    fn what_holds_a_connection_for_nothing_is_reported_once() {
        let report = Some(Duration::from_secs(5));
        let mut limits = Pool { mode: PoolMode::Session, pinned_idle_report: report, ..Pool::default() };
        let counters = Counters::default();
        let entry = Clients::default().enter(ClientOrigin::of_test());
        let client = entry.facts();
        let reported = |limits: &Pool, now: u64| {
            report_pins(client, limits, &counters, Moment(now * SECOND));
            counters.pins_reported.load(std::sync::atomic::Ordering::Relaxed)
        };
        client.set_state(ClientState::InTransaction, Moment(100 * SECOND));
        assert_eq!(reported(&limits, 200), 0, "in session mode it is nobody's loss");
        limits.mode = PoolMode::Auto;
        assert_eq!([reported(&limits, 104), reported(&limits, 105), reported(&limits, 106)], [0, 1, 1]);
        // Another tie is news, the same one is not.
        client.set_ties(4);
        client.set_state(ClientState::Idle, Moment(110 * SECOND));
        assert_eq!([reported(&limits, 114), reported(&limits, 115), reported(&limits, 116)], [1, 2, 2]);
        client.set_state(ClientState::Running, Moment(120 * SECOND));
        assert_eq!(reported(&limits, 130), 2);
        client.set_state(ClientState::Idle, Moment(130 * SECOND));
        assert_eq!(reported(&limits, 140), 2);
        client.set_ties(0);
        assert_eq!((reported(&limits, 150), client.reported_pins()), (2, 0));
        client.set_ties(4);
        assert_eq!(reported(&limits, 151), 3);
    }

    #[test]
    fn nobody_looks_where_nothing_is_configured() {
        let mut limits = Pool { mode: PoolMode::Session, ..Pool::default() };
        assert_eq!(pause(&limits), None);
        let pooled = Pool { mode: PoolMode::Auto, ..Pool::default() };
        assert_eq!(pause(&pooled), Some(REPORT_PAUSE));
        limits.client_idle_timeout = Some(Duration::from_secs(600));
        assert_eq!(pause(&limits), Some(Duration::from_secs(1)));
        let table = |ms| PoolTable { query_timeout: Some(Duration::from_millis(ms)), ..Default::default() };
        limits.users.insert("app".into(), table(0));
        assert_eq!(pause(&limits), Some(Duration::from_secs(1)));
        limits.databases.insert("shop".into(), table(500));
        assert_eq!(pause(&limits), Some(Duration::from_millis(50)));
    }
}
