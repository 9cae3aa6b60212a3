//! `[pool]`: who gets a connection to a server, for how long, and how long anybody waits.
//!
//! One rule for names: a key is PgBouncer's setting without `pool_` and `default_`, which the
//! section says already (`pool_mode` is `mode`, `default_pool_size` is `size`, `min_pool_size` is
//! `min_size`, `reserve_pool_timeout` is `reserve_timeout`); every other key has PgBouncer's name.
//! What PgBouncer turns off with 0 is turned off with `"0s"`, and a limit by leaving it out.

mod read;
mod rules;
mod show;

pub(super) use read::read;
pub use rules::Rules;
pub(super) use show::put;

use std::collections::BTreeMap;
use std::time::Duration;

/// When a client's server is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// As soon as nothing ties the client to it.
    Auto,
    /// After each statement; transactions of several statements are refused.
    Statement,
}

impl PoolMode {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Auto => "auto",
            PoolMode::Statement => "statement",
        }
    }

    /// Whether clients share servers while they are connected.
    pub fn is_pooled(self) -> bool {
        match self {
            PoolMode::Session => false,
            PoolMode::Transaction | PoolMode::Auto | PoolMode::Statement => true,
        }
    }
}

/// `[pool]`. What may differ by database or user is found with [`Pool::rules`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// `mode` (PgBouncer's `pool_mode`).
    pub mode: PoolMode,
    /// `size` (`default_pool_size`): most connections of one user to one database. Unset, it is
    /// [`Rules::POOLED_SIZE`] in `transaction` and `statement` mode; in the others, in which a client may need
    /// one for itself, the server's own limit is the limit.
    pub size: Option<u32>,
    /// `min_size` (`min_pool_size`): connections kept open for each user and database that clients
    /// have asked for.
    pub min_size: u32,
    /// `reserve_size` (`reserve_pool_size`): connections beyond `size` for clients that have waited …
    pub reserve_size: u32,
    /// … `reserve_timeout` (`reserve_pool_timeout`).
    pub reserve_timeout: Duration,
    /// `max_client_conn`: most clients at a time.
    pub max_client_conn: u32,
    /// `max_db_connections`: most connections to one database, of all users together.
    pub max_db_connections: Option<u32>,
    /// `max_user_connections`: most connections of one user, to all databases together.
    pub max_user_connections: Option<u32>,
    /// `max_db_client_connections`: most clients of one database.
    pub max_db_client_connections: Option<u32>,
    /// `max_user_client_connections`: most clients of one user.
    pub max_user_client_connections: Option<u32>,
    /// `max_prepared_statements`: most statements with names that are kept prepared on one connection in
    /// the pooled modes.
    pub max_prepared_statements: u32,
    /// `server_lifetime`: a connection that is older is closed when nobody uses it. Each one has its
    /// own, up to a tenth shorter, so that they do not all end at the same time.
    pub server_lifetime: Duration,
    /// `server_idle_timeout`: a connection that nobody uses is closed after this time; `None`: never.
    pub server_idle_timeout: Option<Duration>,
    /// `server_connect_timeout`: how long a server may take to log us in.
    pub server_connect_timeout: Duration,
    /// `server_login_retry`: the pause after a log-in that failed.
    pub server_login_retry: Duration,
    /// `server_check_delay`: a connection that lay idle for longer is asked whether it still works
    /// before it is used.
    pub server_check_delay: Duration,
    /// `query_wait_timeout`: how long a client waits for a connection.
    pub query_wait_timeout: Duration,
    /// `query_wait_notify`: after this time a waiting client is told that it waits; `None`: never.
    pub query_wait_notify: Option<Duration>,
    /// `query_timeout`: a statement that takes longer ends its session.
    pub query_timeout: Option<Duration>,
    /// `transaction_timeout`: a transaction that is open for longer ends its session.
    pub transaction_timeout: Option<Duration>,
    /// `idle_transaction_timeout`: a client that leaves a transaction open for longer without a
    /// statement ends its session.
    pub idle_transaction_timeout: Option<Duration>,
    /// `client_idle_timeout`: a client that says nothing for longer is sent away.
    pub client_idle_timeout: Option<Duration>,
    /// `pinned_idle_report`: a client that is silent for longer while something of its holds a connection, in the
    /// pooled modes, is reported; `None`: never. Ours, as the next one.
    pub pinned_idle_report: Option<Duration>,
    /// `pinned_idle_timeout`: one that is silent for longer while something that outlives transactions holds a
    /// connection is sent away.
    pub pinned_idle_timeout: Option<Duration>,
    /// `client_login_timeout`: how long a client may take to log in.
    pub client_login_timeout: Duration,
    /// `cancel_wait_timeout`: how long a cancel request may take to reach the server.
    pub cancel_wait_timeout: Duration,
    /// `suspend_timeout`: how long `SUSPEND` waits for clients and servers between two messages.
    pub suspend_timeout: Duration,
    /// `[pool.database.<name>]`, by the names that clients use.
    pub databases: BTreeMap<String, PoolTable>,
    /// `[pool.user.<name>]`
    pub users: BTreeMap<String, PoolTable>,
}

/// What one database or one user has of its own. A user's word comes before its database's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolTable {
    /// `mode`
    pub mode: Option<PoolMode>,
    /// `size`
    pub size: Option<u32>,
    /// `min_size`
    pub min_size: Option<u32>,
    /// `reserve_size`
    pub reserve_size: Option<u32>,
    /// `max_db_connections` or `max_user_connections`
    pub max_connections: Option<u32>,
    /// `max_db_client_connections` or `max_user_client_connections`
    pub max_client_connections: Option<u32>,
    /// `server_lifetime`
    pub server_lifetime: Option<Duration>,
    /// `query_timeout`; zero turns it off.
    pub query_timeout: Option<Duration>,
    /// `transaction_timeout`; zero turns it off.
    pub transaction_timeout: Option<Duration>,
    /// `idle_transaction_timeout`; zero turns it off.
    pub idle_transaction_timeout: Option<Duration>,
    /// `client_idle_timeout`; zero turns it off.
    pub client_idle_timeout: Option<Duration>,
    /// `pinned_idle_timeout`; zero turns it off.
    pub pinned_idle_timeout: Option<Duration>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Auto,
            size: None,
            min_size: 0,
            reserve_size: 0,
            reserve_timeout: Duration::from_secs(5),
            max_client_conn: 10_000,
            max_db_connections: None,
            max_user_connections: None,
            max_db_client_connections: None,
            max_user_client_connections: None,
            max_prepared_statements: 200,
            server_lifetime: Duration::from_secs(3600),
            server_idle_timeout: Some(Duration::from_secs(600)),
            server_connect_timeout: Duration::from_secs(15),
            server_login_retry: Duration::from_millis(50),
            server_check_delay: Duration::from_secs(30),
            query_wait_timeout: Duration::from_secs(120),
            query_wait_notify: Some(Duration::from_secs(5)),
            query_timeout: None,
            transaction_timeout: None,
            idle_transaction_timeout: None,
            client_idle_timeout: None,
            pinned_idle_report: Some(Duration::from_secs(300)),
            pinned_idle_timeout: None,
            client_login_timeout: Duration::from_secs(60),
            cancel_wait_timeout: Duration::from_secs(10),
            suspend_timeout: Duration::from_secs(10),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }
}
