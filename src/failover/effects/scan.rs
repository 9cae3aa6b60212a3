//! Who is in a database: the two looks a fence takes, and what they add up to.
//!
//! A back end that is starting is in neither list for a while, so the looks come in this order:
//!
//! 1. `pg_locks`, for locks on the database itself, which a back end takes before it checks the
//!    connection limit and keeps until it shows up in `pg_stat_activity`; and for virtual
//!    transactions, which it holds from before its log-in until then.
//! 2. `pg_stat_activity`.
//!
//! In the other order one that moves from the first to the second in between would be missed.

use super::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// One session that was found where none may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its process on the server.
    pub pid: i32,
    /// Its role; `None` while it is starting.
    pub user: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// Address of its client; `None` for Unix sockets and while it is starting.
    pub client: Option<String>,
    /// What it does (`active`, `idle`, …).
    pub state: Option<String>,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)?;
        match &self.user {
            Some(user) => write!(f, " of {user}")?,
            None => f.write_str(", starting")?,
        }
        if let Some(application) = self.application.as_deref().filter(|text| !text.is_empty()) {
            write!(f, " ({application})")?;
        }
        if let Some(client) = &self.client {
            write!(f, " from {client}")?;
        }
        if let Some(state) = self.state.as_deref().filter(|text| !text.is_empty()) {
            write!(f, ", {state}")?;
        }
        Ok(())
    }
}

/// What a process is to a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A client, or a helper of one: has to go.
    Client,
    /// One of our own connections, or a walsender: reads, and drains the tail.
    Allowed,
    /// Vacuum and the like: belongs to the server and writes nothing of the application.
    Maintenance,
    /// Something else that runs in the database and may write: to be named.
    Worker,
}

fn kind(backend_type: Option<&str>, is_ours: bool) -> Kind {
    match backend_type {
        _ if is_ours => Kind::Allowed,
        // Hidden from a login that is no member of pg_read_all_stats; assume the worst.
        None | Some("client backend" | "parallel worker") => Kind::Client,
        Some("walsender") => Kind::Allowed,
        Some("autovacuum worker" | "autovacuum launcher") => Kind::Maintenance,
        Some(_) => Kind::Worker,
    }
}

/// A row of `pg_stat_activity`.
#[derive(Debug, Clone)]
struct Process {
    session: Session,
    is_in_database: bool,
    kind: Kind,
    backend_type: Option<String>,
}

/// The two looks.
#[derive(Debug, Default)]
pub(super) struct Scan {
    lockers: BTreeSet<i32>,
    beginners: BTreeSet<i32>,
    processes: BTreeMap<i32, Process>,
}

impl Scan {
    /// Takes both looks, in their order, in one round trip.
    pub(super) async fn take(client: &Client) -> Result<Scan, Error> {
        let locks = client.query_typed(
            "SELECT pid, locktype = 'object' FROM pg_catalog.pg_locks \
             WHERE pid <> pg_catalog.pg_backend_pid() AND (locktype = 'virtualxid' \
               OR locktype = 'object' AND classid = 'pg_catalog.pg_database'::pg_catalog.regclass \
                 AND objid = (SELECT oid FROM pg_catalog.pg_database \
                              WHERE datname = pg_catalog.current_database()))",
            &[],
        );
        let activity = client.query_typed(
            "SELECT pid, usename::text, application_name, client_addr::text, state, backend_type, \
               coalesce(datname = pg_catalog.current_database(), false), \
               coalesce(usename = current_user AND application_name LIKE 'cloud-mirror%', false) \
             FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid()",
            &[],
        );
        // The driver sends them in this order, and the server answers one after the other.
        let (locks, activity) = tokio::join!(biased; locks, activity);
        let mut scan = Scan::default();
        for row in locks.map_err(Error::sql("read pg_locks"))? {
            let into = if row.get(1) { &mut scan.lockers } else { &mut scan.beginners };
            into.insert(row.get(0));
        }
        for row in activity.map_err(Error::sql("read pg_stat_activity"))? {
            let backend_type: Option<String> = row.get(5);
            let session = Session {
                pid: row.get(0),
                user: row.get(1),
                application: row.get(2),
                client: row.get(3),
                state: row.get(4),
            };
            let kind = kind(backend_type.as_deref(), row.get(7));
            let process = Process { session, is_in_database: row.get(6), kind, backend_type };
            scan.processes.insert(process.session.pid, process);
        }
        Ok(scan)
    }

    /// Sessions of clients in the database.
    pub(super) fn clients(&self) -> Vec<Session> {
        self.clients_inside().map(|process| process.session.clone()).collect()
    }

    /// Whether there is one.
    pub(super) fn has_clients(&self) -> bool {
        self.clients_inside().next().is_some()
    }

    fn clients_inside(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(|p| p.is_in_database && p.kind == Kind::Client)
    }

    /// Who holds a lock on the database and is no session in it (those are counted as such):
    /// starting, or copying or altering it from elsewhere.
    pub(super) fn holders(&self) -> BTreeSet<i32> {
        let is_unknown = |pid: &&i32| match self.processes.get(pid) {
            None => true,
            Some(process) => process.kind == Kind::Client && !process.is_in_database,
        };
        self.lockers.iter().filter(is_unknown).copied().collect()
    }

    /// Back ends on their way in, to whichever database: they hold a virtual transaction and are
    /// not in `pg_stat_activity` yet.
    pub(super) fn beginners(&self) -> BTreeSet<i32> {
        self.beginners.iter().filter(|pid| !self.processes.contains_key(pid)).copied().collect()
    }

    /// Processes in the database that are no clients and may write, as `type (pid n)`.
    pub(super) fn workers(&self) -> Vec<String> {
        self.processes
            .values()
            .filter(|p| p.kind == Kind::Worker)
            .filter(|p| p.is_in_database || p.backend_type.as_deref().is_some_and(|t| t.contains("pg_cron")))
            .map(|p| format!("{} (pid {})", p.backend_type.as_deref().unwrap_or("?"), p.session.pid))
            .collect()
    }
}

/// All that is known of a back end that has not said who it is.
pub(super) fn starting(pid: i32) -> Session {
    Session { pid, user: None, application: None, client: None, state: None }
}

/// Ends sessions, known or starting. A process that is gone already is no error.
pub(super) async fn terminate(client: &Client, pids: &[i32]) -> Result<(), Error> {
    client
        .query_typed(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest($1) AS pid",
            &[(&pids, Type::INT4_ARRAY)],
        )
        .await
        .map_err(Error::sql("end the sessions of the database"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(lockers: &[i32], beginners: &[i32], processes: &[(i32, bool, Kind)]) -> Scan {
        let process = |&(pid, is_in_database, kind): &(i32, bool, Kind)| {
            let process =
                Process { session: starting(pid), is_in_database, kind, backend_type: Some("x".to_owned()) };
            (pid, process)
        };
        Scan {
            lockers: lockers.iter().copied().collect(),
            beginners: beginners.iter().copied().collect(),
            processes: processes.iter().map(process).collect(),
        }
    }

    #[test]
    fn clients_inside_and_unknown_holders_of_the_databases_lock_have_to_go() {
        let check = |scan: Scan, clients: &[i32], holders: &[i32]| {
            let pids: Vec<i32> = scan.clients().iter().map(|session| session.pid).collect();
            assert_eq!(pids, clients, "{scan:?}");
            assert_eq!(scan.holders(), holders.iter().copied().collect(), "{scan:?}");
        };
        use Kind::{Allowed, Client, Maintenance, Worker};
        check(scan(&[], &[], &[]), &[], &[]);
        check(scan(&[], &[], &[(1, true, Client), (2, false, Client)]), &[1], &[]);
        check(scan(&[7], &[7], &[]), &[], &[7]);
        check(scan(&[1], &[], &[(1, true, Client)]), &[1], &[]);
        check(scan(&[2], &[], &[(2, false, Client)]), &[], &[2]);
        let harmless = [(3, true, Allowed), (4, true, Maintenance), (5, true, Worker)];
        check(scan(&[3, 4, 5], &[], &harmless), &[], &[]);
    }

    #[test]
    fn a_back_end_is_starting_until_it_says_who_it_is() {
        let scan = scan(&[], &[1, 2], &[(2, false, Kind::Client)]);
        assert_eq!(scan.beginners(), BTreeSet::from([1]));
    }

    #[test]
    fn kinds_are_read_from_the_type_and_the_unknown_is_a_client() {
        let check = |backend_type, is_ours, expected| assert_eq!(kind(backend_type, is_ours), expected);
        check(Some("client backend"), false, Kind::Client);
        check(Some("client backend"), true, Kind::Allowed);
        check(Some("walsender"), false, Kind::Allowed);
        check(Some("autovacuum worker"), false, Kind::Maintenance);
        check(Some("logical replication worker"), false, Kind::Worker);
        check(Some("pg_cron launcher"), false, Kind::Worker);
        check(None, false, Kind::Client);
    }
}
