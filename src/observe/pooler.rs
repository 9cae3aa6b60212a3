//! The pooler at one moment, as the console's tables show it.

use super::clients::ClientFacts;
use super::links::LinkFacts;
use crate::base::Moment;
use crate::config::Config;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What an operator has stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Halted {
    /// Nothing, or single databases only.
    #[default]
    No,
    /// All databases are paused.
    Paused,
    /// Nobody's statements are sent.
    Suspended,
}

/// What was counted for one database since the start. Times are sums over all clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that a client was given a link.
    pub server_assignments: u64,
    /// Transactions, also those of a single statement.
    pub transactions: u64,
    /// Statements.
    pub queries: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// From the first statement of a transaction to its end.
    pub transaction_time: Duration,
    /// From a statement to its answer.
    pub query_time: Duration,
    /// Spent waiting for a link.
    pub wait_time: Duration,
    /// Statements prepared by clients.
    pub client_parses: u64,
    /// Statements prepared on servers.
    pub server_parses: u64,
    /// Bind messages passed on.
    pub binds: u64,
    /// Clients that have logged in.
    pub client_logins: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            server_assignments: self.server_assignments + other.server_assignments,
            transactions: self.transactions + other.transactions,
            queries: self.queries + other.queries,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            transaction_time: self.transaction_time + other.transaction_time,
            query_time: self.query_time + other.query_time,
            wait_time: self.wait_time + other.wait_time,
            client_parses: self.client_parses + other.client_parses,
            server_parses: self.server_parses + other.server_parses,
            binds: self.binds + other.binds,
            client_logins: self.client_logins + other.client_logins,
        }
    }
}

/// The counts of one database, and those at the beginning of the period that averages are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseCounts {
    /// As clients name it.
    pub database: Vec<u8>,
    /// Since the start.
    pub total: Counts,
    /// The same, `period` ago.
    pub before: Counts,
    /// How long ago; zero when nothing is known of an earlier time.
    pub period: Duration,
}

/// A prepared statement that is kept, on one data thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedStatement {
    /// Its name on servers.
    pub name: String,
    /// Its text.
    pub text: String,
    /// How many clients and their batches have it.
    pub used_by: usize,
    /// Bytes that are kept for it.
    pub bytes: usize,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Pooler {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Who is connected.
    pub clients: Vec<Arc<ClientFacts>>,
    /// Clients that have not logged in yet.
    pub logging_in: u64,
    /// Links to servers.
    pub links: Vec<Arc<LinkFacts>>,
    /// What was counted, by database.
    pub counts: Vec<DatabaseCounts>,
    /// Stopped for everybody.
    pub halted: Halted,
    /// Paused one by one.
    pub paused: BTreeSet<Vec<u8>>,
    /// Without new clients.
    pub disabled: BTreeSet<Vec<u8>>,
    /// When this was seen …
    pub now: Moment,
    /// … and by the wall clock.
    pub at: SystemTime,
}

impl Pooler {
    /// A moment of our clock as wall-clock time, for display.
    pub fn wall(&self, moment: Moment) -> SystemTime {
        self.at - self.now.since(moment)
    }
}
