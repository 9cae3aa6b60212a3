//! The keys of `[pool]` with their values in force.

use super::{Pool, PoolTable};
use crate::config::units::show_duration;
use std::time::Duration;

/// A limit that is not there.
const UNLIMITED: &str = "unlimited";

/// Hands every key and its value to `put`.
pub fn put(pool: &Pool, mut put: impl FnMut(&str, String)) {
    let mut text = |key: &str, value: String| put(&format!("pool.{key}"), value);
    text("mode", pool.mode.as_str().to_owned());
    text("size", limit(pool.size));
    text("min_size", pool.min_size.to_string());
    text("reserve_size", pool.reserve_size.to_string());
    text("reserve_timeout", show_duration(pool.reserve_timeout));
    text("max_client_conn", pool.max_client_conn.to_string());
    text("max_db_connections", limit(pool.max_db_connections));
    text("max_user_connections", limit(pool.max_user_connections));
    text("max_db_client_connections", limit(pool.max_db_client_connections));
    text("max_user_client_connections", limit(pool.max_user_client_connections));
    text("max_prepared_statements", pool.max_prepared_statements.to_string());
    text("server_lifetime", show_duration(pool.server_lifetime));
    text("server_idle_timeout", timeout(pool.server_idle_timeout));
    text("server_connect_timeout", show_duration(pool.server_connect_timeout));
    text("server_login_retry", show_duration(pool.server_login_retry));
    text("server_check_delay", show_duration(pool.server_check_delay));
    text("query_wait_timeout", show_duration(pool.query_wait_timeout));
    text("query_wait_notify", timeout(pool.query_wait_notify));
    text("query_timeout", timeout(pool.query_timeout));
    text("transaction_timeout", timeout(pool.transaction_timeout));
    text("idle_transaction_timeout", timeout(pool.idle_transaction_timeout));
    text("client_idle_timeout", timeout(pool.client_idle_timeout));
    text("pinned_idle_report", timeout(pool.pinned_idle_report));
    text("pinned_idle_timeout", timeout(pool.pinned_idle_timeout));
    text("client_login_timeout", show_duration(pool.client_login_timeout));
    text("cancel_wait_timeout", show_duration(pool.cancel_wait_timeout));
    text("suspend_timeout", show_duration(pool.suspend_timeout));
    for (kind, short, tables) in [("database", "db", &pool.databases), ("user", "user", &pool.users)] {
        for (name, table) in tables {
            put_table(table, short, |key, value| text(&format!("{kind}.{name}.{key}"), value));
        }
    }
}

fn put_table(table: &PoolTable, short: &str, mut put: impl FnMut(&str, String)) {
    let mut text = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            put(key, value);
        }
    };
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let duration = |value: Option<Duration>| value.map(show_duration);
    text("mode", table.mode.map(|mode| mode.as_str().to_owned()));
    text("size", number(table.size));
    text("min_size", number(table.min_size));
    text("reserve_size", number(table.reserve_size));
    text(&format!("max_{short}_connections"), number(table.max_connections));
    text(&format!("max_{short}_client_connections"), number(table.max_client_connections));
    text("server_lifetime", duration(table.server_lifetime));
    text("query_timeout", duration(table.query_timeout));
    text("transaction_timeout", duration(table.transaction_timeout));
    text("idle_transaction_timeout", duration(table.idle_transaction_timeout));
    text("client_idle_timeout", duration(table.client_idle_timeout));
    text("pinned_idle_timeout", duration(table.pinned_idle_timeout));
}

fn limit(value: Option<u32>) -> String {
    value.map_or_else(|| UNLIMITED.to_owned(), |value| value.to_string())
}

fn timeout(value: Option<Duration>) -> String {
    show_duration(value.unwrap_or_default())
}
