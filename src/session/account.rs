//! What a session has carried, booked while it is carried.
//!
//! The clock is read twice for a statement, or for what is pipelined together: when it begins and
//! when everything sent has been answered. Everything else is additions to the thread's own meter.

use super::ledger::Ledger;
use crate::base::Moment;
use crate::observe::clients::{ClientFacts, ClientState};
use crate::observe::traffic::{Meter, micros};
use crate::sys;
use crate::wire::message::TransactionStatus;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Account {
    meter: Arc<Meter>,
    facts: Arc<ClientFacts>,
    /// When the statement that runs began.
    query_at: Option<Moment>,
    /// It was not told to anybody yet.
    has_begun: bool,
    /// When the transaction that is open began.
    transaction_at: Option<Moment>,
    /// What was booked of the ledger's counts.
    booked: Booked,
    passing: Passing,
}

/// What becomes of a client's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// They reach the server as they are.
    Unchanged,
    /// Prepared statements are made where they are missing, and counted there.
    Rewritten,
}

#[derive(Debug, Clone, Copy, Default)]
struct Booked {
    queries: u64,
    transactions: u64,
    parses: u64,
    binds: u64,
}

impl Account {
    /// An account of a client on this meter.
    pub fn new(meter: Arc<Meter>, facts: Arc<ClientFacts>, passing: Passing) -> Self {
        Self {
            meter,
            facts,
            query_at: None,
            has_begun: false,
            transaction_at: None,
            booked: Booked::default(),
            passing,
        }
    }

    /// Where it books.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Something of the client's is about to be looked at: a statement, perhaps.
    pub fn begin(&mut self) {
        if self.query_at.is_none() {
            self.query_at = Some(sys::now());
            self.has_begun = true;
        }
    }

    /// `bytes` of the client have passed, and the ledger has been told of them.
    pub fn on_client(&mut self, bytes: usize, ledger: &Ledger) {
        self.meter.received_bytes.add(bytes as u64);
        if std::mem::take(&mut self.has_begun) {
            let Some(now) = self.query_at.filter(|_| !ledger.is_settled()) else {
                self.query_at = None;
                return;
            };
            self.facts.set_request_at(now);
            self.facts.set_state(ClientState::Running, now);
            if self.transaction_at.is_none() {
                self.transaction_at = Some(now);
                self.facts.set_transaction_at(self.transaction_at);
            }
        }
    }

    /// `bytes` of the server have passed, and the ledger has been told of them.
    pub fn on_server(&mut self, bytes: usize, ledger: &Ledger) {
        self.meter.sent_bytes.add(bytes as u64);
        if ledger.queries() != self.booked.queries {
            self.on_ready(ledger);
        }
    }

    /// Something has been answered to its end.
    fn on_ready(&mut self, ledger: &Ledger) {
        let now = sys::now();
        let (meter, booked) = (&self.meter, &mut self.booked);
        meter.queries.add(grown(ledger.queries(), &mut booked.queries));
        if ledger.parses() != booked.parses {
            let parses = grown(ledger.parses(), &mut booked.parses);
            meter.client_parses.add(parses);
            if self.passing == Passing::Unchanged {
                meter.server_parses.add(parses);
            }
        }
        if ledger.binds() != booked.binds {
            meter.binds.add(grown(ledger.binds(), &mut booked.binds));
        }
        let has_ended = ledger.transactions() != booked.transactions;
        if has_ended {
            meter.transactions.add(grown(ledger.transactions(), &mut booked.transactions));
            if let Some(began) = self.transaction_at.take() {
                let took = now.since(began);
                meter.transaction_us.add(micros(took));
                meter.transaction.record(took);
            }
        }
        let is_settled = ledger.is_settled();
        if is_settled && let Some(began) = self.query_at.take() {
            let took = now.since(began);
            meter.query_us.add(micros(took));
            meter.query.record(took);
        }
        let is_open = ledger.status() != TransactionStatus::Idle;
        if self.transaction_at.is_none() && (is_open || !is_settled) {
            self.transaction_at = Some(now);
        }
        if has_ended {
            self.facts.set_transaction_at(self.transaction_at);
        }
        if is_settled {
            let state = if is_open { ClientState::InTransaction } else { ClientState::Idle };
            self.facts.set_state(state, now);
        }
    }

    /// The link is gone, and with it what ran on it: the ledger begins again.
    pub fn on_link_lost(&mut self) {
        self.booked = Booked::default();
        self.query_at = None;
        self.has_begun = false;
        self.transaction_at = None;
        self.facts.set_transaction_at(None);
        self.facts.set_state(ClientState::Idle, sys::now());
    }
}

/// By how much a count of the ledger has grown. A ledger that began again counts from nothing.
fn grown(count: u64, booked: &mut u64) -> u64 {
    let grown = count.checked_sub(*booked).unwrap_or(count);
    *booked = count;
    grown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clients::{ClientOrigin, Clients};
    use crate::observe::traffic::{Carrier, PoolTraffic, Traffic};

    fn fixture() -> (Account, Traffic, Arc<ClientFacts>, Ledger) {
        let traffic = Traffic::default();
        let entry = Clients::default().enter(ClientOrigin::of_test());
        let facts = entry.facts().clone();
        let meter = traffic.meter(b"shop", "app", Carrier::Data(0));
        (Account::new(meter, facts.clone(), Passing::Unchanged), traffic, facts, Ledger::default())
    }

    fn seen(traffic: &Traffic) -> PoolTraffic {
        traffic.list().remove(0).1
    }

    #[test]
    fn statements_and_transactions_are_counted_where_they_end() {
        let (mut account, traffic, facts, mut ledger) = fixture();
        for (status, state) in [
            (b'T', ClientState::InTransaction),
            (b'T', ClientState::InTransaction),
            (b'I', ClientState::Idle),
            (b'I', ClientState::Idle),
        ] {
            ledger.on_client(b'Q');
            account.begin();
            account.on_client(10, &ledger);
            assert_eq!(facts.state(), ClientState::Running);
            assert!(facts.transaction_at().is_some());
            ledger.on_server(b'C', None);
            ledger.on_server(b'Z', Some(status));
            account.on_server(20, &ledger);
            assert_eq!((facts.state(), facts.transaction_at().is_some()), (state, status == b'T'));
        }
        let seen = seen(&traffic);
        assert_eq!((seen.counts.queries, seen.counts.transactions), (4, 2));
        assert_eq!((seen.counts.received_bytes, seen.counts.sent_bytes), (40, 80));
        assert_eq!((seen.query.count(), seen.transaction.count()), (4, 2));
    }

    #[test]
    fn what_is_pipelined_counts_one_by_one_and_is_timed_together() {
        let (mut account, traffic, facts, mut ledger) = fixture();
        for tag in b"PBDESPBES" {
            ledger.on_client(*tag);
        }
        account.begin();
        account.on_client(90, &ledger);
        for tag in b"12nC" {
            ledger.on_server(*tag, None);
        }
        ledger.on_server(b'Z', Some(b'I'));
        account.on_server(10, &ledger);
        assert_eq!(facts.state(), ClientState::Running, "the second batch still runs");
        for tag in b"12C" {
            ledger.on_server(*tag, None);
        }
        ledger.on_server(b'Z', Some(b'I'));
        account.on_server(10, &ledger);
        assert_eq!(facts.state(), ClientState::Idle);
        let seen = seen(&traffic);
        assert_eq!((seen.counts.queries, seen.counts.transactions, seen.query.count()), (2, 2, 1));
        assert_eq!((seen.counts.client_parses, seen.counts.server_parses, seen.counts.binds), (2, 2, 2));
    }

    #[test]
    fn a_lost_link_leaves_nothing_running() {
        let (mut account, traffic, facts, mut ledger) = fixture();
        ledger.on_client(b'Q');
        account.begin();
        account.on_client(10, &ledger);
        ledger = Ledger::default();
        account.on_link_lost();
        assert_eq!((facts.state(), facts.transaction_at()), (ClientState::Idle, None));
        ledger.on_client(b'Q');
        account.begin();
        account.on_client(10, &ledger);
        ledger.on_server(b'Z', Some(b'I'));
        account.on_server(10, &ledger);
        assert_eq!(seen(&traffic).counts.queries, 1);
    }
}
