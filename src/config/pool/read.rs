//! From the section's keys to [`Pool`].

use super::{Pool, PoolMode, PoolTable};
use crate::base::{DatabaseName, RoleName};
use crate::config::reader::Section;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

const MODES: &[(&str, PoolMode)] = &[
    ("session", PoolMode::Session),
    ("transaction", PoolMode::Transaction),
    ("auto", PoolMode::Auto),
    ("statement", PoolMode::Statement),
];

const DAY: Duration = Duration::from_secs(86_400);
/// Most connections, or clients, of anybody.
const COUNT_MAX: i64 = 100_000;

/// Reads `[pool]` and the tables in it.
pub fn read(section: Section<'_>) -> Option<Pool> {
    let mut keys = Keys { section, is_sound: true };
    let standard = Pool::default();
    let size = keys.count("size", 1);
    let min_size = keys.count("min_size", 0).unwrap_or(standard.min_size);
    let reserve_size = keys.count("reserve_size", 0).unwrap_or(standard.reserve_size);
    if size.is_some_and(|size| min_size > size) {
        keys.contradiction("min_size", "is larger than size", "write a smaller min_size, or a larger size");
    }
    let pool = Pool {
        mode: keys.mode().unwrap_or(standard.mode),
        size,
        min_size,
        reserve_size,
        reserve_timeout: keys.duration("reserve_timeout", 0).unwrap_or(standard.reserve_timeout),
        max_client_conn: keys.count("max_client_conn", 1).unwrap_or(standard.max_client_conn),
        max_db_connections: keys.count("max_db_connections", 1),
        max_user_connections: keys.count("max_user_connections", 1),
        max_db_client_connections: keys.count("max_db_client_connections", 1),
        max_user_client_connections: keys.count("max_user_client_connections", 1),
        max_prepared_statements: keys
            .count("max_prepared_statements", 1)
            .unwrap_or(standard.max_prepared_statements),
        server_lifetime: keys.duration("server_lifetime", 0).unwrap_or(standard.server_lifetime),
        server_idle_timeout: keys.switch("server_idle_timeout", standard.server_idle_timeout),
        server_connect_timeout: keys
            .duration("server_connect_timeout", 100)
            .unwrap_or(standard.server_connect_timeout),
        server_login_retry: keys.duration("server_login_retry", 10).unwrap_or(standard.server_login_retry),
        server_check_delay: keys.duration("server_check_delay", 0).unwrap_or(standard.server_check_delay),
        query_wait_timeout: keys.duration("query_wait_timeout", 1).unwrap_or(standard.query_wait_timeout),
        query_wait_notify: keys.switch("query_wait_notify", standard.query_wait_notify),
        query_timeout: keys.switch("query_timeout", standard.query_timeout),
        transaction_timeout: keys.switch("transaction_timeout", standard.transaction_timeout),
        idle_transaction_timeout: keys.switch("idle_transaction_timeout", standard.idle_transaction_timeout),
        client_idle_timeout: keys.switch("client_idle_timeout", standard.client_idle_timeout),
        pinned_idle_report: keys.switch("pinned_idle_report", standard.pinned_idle_report),
        pinned_idle_timeout: keys.switch("pinned_idle_timeout", standard.pinned_idle_timeout),
        client_login_timeout: keys
            .duration("client_login_timeout", 100)
            .unwrap_or(standard.client_login_timeout),
        cancel_wait_timeout: keys
            .duration("cancel_wait_timeout", 100)
            .unwrap_or(standard.cancel_wait_timeout),
        suspend_timeout: keys.duration("suspend_timeout", 100).unwrap_or(standard.suspend_timeout),
        databases: keys.tables("database", |name| DatabaseName::new(name).map_err(|e| e.to_string()).err()),
        users: keys.tables("user", |name| RoleName::new(name).map_err(|e| e.to_string()).err()),
    };
    keys.finish().then_some(pool)
}

/// A section whose mistakes are remembered.
struct Keys<'a> {
    section: Section<'a>,
    is_sound: bool,
}

impl Keys<'_> {
    fn noted<T>(&mut self, had: bool, found: Option<T>) -> Option<T> {
        self.is_sound &= found.is_some() || !had;
        found
    }

    fn count(&mut self, key: &'static str, least: i64) -> Option<u32> {
        let had = self.section.has(key);
        let found = self.section.integer(key, least..=COUNT_MAX);
        self.noted(had, found).map(|count| u32::try_from(count).expect("it is in the range"))
    }

    /// A duration of at least `least_ms`.
    fn duration(&mut self, key: &'static str, least_ms: u64) -> Option<Duration> {
        self.within(key, Duration::from_millis(least_ms)..=DAY)
    }

    /// A duration that `"0s"` turns off.
    fn switch(&mut self, key: &'static str, standard: Option<Duration>) -> Option<Duration> {
        self.within(key, Duration::ZERO..=DAY).or(standard).filter(|timeout| !timeout.is_zero())
    }

    fn within(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let had = self.section.has(key);
        let found = self.section.duration(key, range);
        self.noted(had, found).map(|found| found.value)
    }

    fn mode(&mut self) -> Option<PoolMode> {
        let had = self.section.has("mode");
        let found = self.section.choice("mode", MODES, &[]);
        self.noted(had, found).map(|found| found.value)
    }

    fn contradiction(&mut self, key: &str, what: &str, instead: &str) {
        let at = self.section.at.clone();
        self.section.problem(&at, key, what, instead);
        self.is_sound = false;
    }

    fn tables(
        &mut self,
        kind: &'static str,
        mistake: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, PoolTable> {
        let Some(section) = self.section.section(kind) else { return BTreeMap::new() };
        let mut tables = BTreeMap::new();
        for (name, section) in section.into_sections() {
            if let Some(what) = mistake(&name) {
                let at = section.at.clone();
                section.problems().add(&at, &section.path, what, "write a name that a server can have");
                self.is_sound = false;
            }
            match read_table(section, kind == "database") {
                Some(table) => drop(tables.insert(name, table)),
                None => self.is_sound = false,
            }
        }
        tables
    }

    fn finish(self) -> bool {
        self.section.finish();
        self.is_sound
    }
}

fn read_table(section: Section<'_>, is_database: bool) -> Option<PoolTable> {
    let mut keys = Keys { section, is_sound: true };
    let (max_connections, max_client_connections) = match is_database {
        true => ("max_db_connections", "max_db_client_connections"),
        false => ("max_user_connections", "max_user_client_connections"),
    };
    let table = PoolTable {
        mode: keys.mode(),
        size: keys.count("size", 1),
        min_size: keys.count("min_size", 0),
        reserve_size: keys.count("reserve_size", 0),
        max_connections: keys.count(max_connections, 1),
        max_client_connections: keys.count(max_client_connections, 1),
        server_lifetime: keys.duration("server_lifetime", 0),
        query_timeout: keys.duration("query_timeout", 0),
        transaction_timeout: keys.duration("transaction_timeout", 0),
        idle_transaction_timeout: keys.duration("idle_transaction_timeout", 0),
        client_idle_timeout: keys.duration("client_idle_timeout", 0),
        pinned_idle_timeout: keys.duration("pinned_idle_timeout", 0),
    };
    keys.finish().then_some(table)
}
