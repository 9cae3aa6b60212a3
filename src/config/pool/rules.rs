//! What holds for one user at one database.

use super::{Pool, PoolMode, PoolTable};
use std::time::Duration;

/// The settings of one pool: those of its user, else of its database, else of `[pool]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// When a client's server is given back.
    pub mode: PoolMode,
    /// Most connections; `None` leaves it to the server.
    pub size: Option<u32>,
    /// Connections that are kept open.
    pub min_size: u32,
    /// Connections beyond `size` for clients that have waited for `reserve_timeout`.
    pub reserve_size: u32,
    /// See `reserve_size`.
    pub reserve_timeout: Duration,
    /// Most connections to the database.
    pub max_db_connections: Option<u32>,
    /// Most connections of the user.
    pub max_user_connections: Option<u32>,
    /// Most clients of the database.
    pub max_db_client_connections: Option<u32>,
    /// Most clients of the user.
    pub max_user_client_connections: Option<u32>,
    /// How old a connection may become.
    pub server_lifetime: Duration,
    /// How long a statement may take.
    pub query_timeout: Option<Duration>,
    /// How long a transaction may be open.
    pub transaction_timeout: Option<Duration>,
    /// How long a client may be silent inside a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// How long a client may be silent outside of one.
    pub client_idle_timeout: Option<Duration>,
    /// The same while something of its holds a connection.
    pub pinned_idle_timeout: Option<Duration>,
}

impl Rules {
    /// The size of a pool where none is given, in the modes in which no client keeps a connection: PgBouncer's
    /// default.
    pub const POOLED_SIZE: u32 = 20;

    /// Whether any timeout has to be looked after while a client is connected.
    pub fn has_client_timeouts(&self) -> bool {
        self.query_timeout.is_some()
            || self.transaction_timeout.is_some()
            || self.idle_transaction_timeout.is_some()
            || self.client_idle_timeout.is_some()
            || self.pinned_idle_timeout.is_some()
    }
}

impl Pool {
    /// What holds for `user` at `database`, both as the client names them.
    pub fn rules(&self, database: &[u8], user: &str) -> Rules {
        let database = std::str::from_utf8(database).ok().and_then(|name| self.databases.get(name));
        let user = self.users.get(user);
        let mode = own(user, database, |table| table.mode).unwrap_or(self.mode);
        let size = own(user, database, |table| table.size).or(self.size);
        let keeps_none = matches!(mode, PoolMode::Transaction | PoolMode::Statement);
        let timeout = |pick: fn(&PoolTable) -> Option<Duration>, common: Option<Duration>| {
            own(user, database, pick).or(common).filter(|timeout| !timeout.is_zero())
        };
        Rules {
            mode,
            size: size.or(keeps_none.then_some(Rules::POOLED_SIZE)),
            min_size: own(user, database, |table| table.min_size).unwrap_or(self.min_size),
            reserve_size: own(user, database, |table| table.reserve_size).unwrap_or(self.reserve_size),
            reserve_timeout: self.reserve_timeout,
            max_db_connections: database.and_then(|table| table.max_connections).or(self.max_db_connections),
            max_user_connections: user.and_then(|table| table.max_connections).or(self.max_user_connections),
            max_db_client_connections: database
                .and_then(|table| table.max_client_connections)
                .or(self.max_db_client_connections),
            max_user_client_connections: user
                .and_then(|table| table.max_client_connections)
                .or(self.max_user_client_connections),
            server_lifetime: own(user, database, |table| table.server_lifetime)
                .unwrap_or(self.server_lifetime),
            query_timeout: timeout(|table| table.query_timeout, self.query_timeout),
            transaction_timeout: timeout(|table| table.transaction_timeout, self.transaction_timeout),
            idle_transaction_timeout: timeout(
                |table| table.idle_transaction_timeout,
                self.idle_transaction_timeout,
            ),
            client_idle_timeout: timeout(|table| table.client_idle_timeout, self.client_idle_timeout),
            pinned_idle_timeout: timeout(|table| table.pinned_idle_timeout, self.pinned_idle_timeout),
        }
    }
}

fn own<T>(
    user: Option<&PoolTable>,
    database: Option<&PoolTable>,
    pick: impl Fn(&PoolTable) -> Option<T>,
) -> Option<T> {
    user.and_then(&pick).or_else(|| database.and_then(&pick))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_comes_before_its_database_and_both_before_the_rest() {
        let seconds = |n| Some(Duration::from_secs(n));
        let mut pool = Pool { size: Some(1), query_timeout: seconds(9), ..Pool::default() };
        let shop = PoolTable {
            size: Some(2),
            max_connections: Some(20),
            query_timeout: seconds(0),
            ..PoolTable::default()
        };
        let app = PoolTable {
            size: Some(3),
            max_connections: Some(30),
            mode: Some(PoolMode::Transaction),
            ..PoolTable::default()
        };
        pool.databases.insert("shop".into(), shop);
        pool.users.insert("app".into(), app);
        let rules = |database: &str, user| pool.rules(database.as_bytes(), user);
        assert_eq!(rules("other", "someone").size, Some(1));
        assert_eq!(rules("shop", "someone").size, Some(2));
        assert_eq!(rules("shop", "app").size, Some(3));
        assert_eq!(rules("other", "app").mode, PoolMode::Transaction);
        let both = rules("shop", "app");
        assert_eq!((both.max_db_connections, both.max_user_connections), (Some(20), Some(30)));
        assert_eq!((both.query_timeout, rules("other", "app").query_timeout), (None, seconds(9)));
        assert!(!both.has_client_timeouts() && rules("other", "app").has_client_timeouts());
        // A name that is no text has no table of its own.
        assert_eq!(pool.rules(b"sh\xffop", "x").size, Some(1));
    }

    #[test]
    fn only_where_no_client_keeps_a_connection_is_a_size_of_its_own() {
        let mut pool = Pool::default();
        for mode in [PoolMode::Session, PoolMode::Auto] {
            pool.mode = mode;
            assert_eq!(pool.rules(b"shop", "app").size, None);
        }
        pool.mode = PoolMode::Transaction;
        assert_eq!(pool.rules(b"shop", "app").size, Some(Rules::POOLED_SIZE));
    }
}
