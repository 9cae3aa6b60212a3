//! How many clients there may be: all together, of one database, of one user.

use crate::base::{RoleName, sqlstate};
use crate::config::Rules;
use crate::sys::Map;
use crate::wire::message::Complaint;
use std::sync::{Arc, Mutex, MutexGuard};

/// The clients that are in. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    databases: Map<Arc<[u8]>, u32>,
    users: Map<RoleName, u32>,
}

/// A client that counts until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Admission,
    database: Arc<[u8]>,
    user: RoleName,
}

/// Why one more client is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TooMany {
    /// `max_client_conn`
    Clients(u32),
    /// `max_db_client_connections`
    OfDatabase(String, u32),
    /// `max_user_client_connections`
    OfUser(String, u32),
}

impl TooMany {
    /// PostgreSQL's own words, and which limit it was.
    pub fn complaint(&self) -> Complaint {
        let (message, detail) = match self {
            TooMany::Clients(most) => {
                ("sorry, too many clients already".to_owned(), format!("pool.max_client_conn is {most}."))
            }
            TooMany::OfDatabase(name, most) => (
                format!("too many connections for database \"{name}\""),
                format!("Its max_db_client_connections is {most}."),
            ),
            TooMany::OfUser(name, most) => (
                format!("too many connections for role \"{name}\""),
                format!("Its max_user_client_connections is {most}."),
            ),
        };
        Complaint::fatal(sqlstate::TOO_MANY_CONNECTIONS, message)
            .detail(detail)
            .hint("Close connections that are not used, or raise the limit.")
    }
}

impl Admission {
    /// Lets a client in that has proved who it is, or says which limit is reached.
    /// `most` is `max_client_conn`, `rules` what holds for this user and database.
    pub fn admit(
        &self,
        most: u32,
        rules: &Rules,
        database: &Arc<[u8]>,
        user: &RoleName,
    ) -> Result<Admitted, TooMany> {
        let mut counts = self.counts();
        if counts.all >= most {
            return Err(TooMany::Clients(most));
        }
        if let Some(most) = rules.max_db_client_connections
            && counts.databases.get(database).is_some_and(|taken| *taken >= most)
        {
            return Err(TooMany::OfDatabase(String::from_utf8_lossy(database).into_owned(), most));
        }
        if let Some(most) = rules.max_user_client_connections
            && counts.users.get(user).is_some_and(|taken| *taken >= most)
        {
            return Err(TooMany::OfUser(user.to_string(), most));
        }
        counts.all += 1;
        *counts.databases.entry(database.clone()).or_default() += 1;
        *counts.users.entry(user.clone()).or_default() += 1;
        Ok(Admitted { admission: self.clone(), database: database.clone(), user: user.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder of the counts panics")
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.all -= 1;
        less(&mut counts.databases, &self.database);
        less(&mut counts.users, &self.user);
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut Map<K, u32>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pool, PoolTable};

    fn named(database: &str, user: &str) -> (Arc<[u8]>, RoleName) {
        (database.as_bytes().into(), RoleName::new(user).unwrap())
    }

    #[test]
    fn each_limit_counts_for_itself_and_a_leaver_makes_room() {
        let table = |most| PoolTable { max_client_connections: Some(most), ..PoolTable::default() };
        let mut limits = Pool { max_client_conn: 4, ..Pool::default() };
        limits.databases.insert("shop".into(), table(2));
        limits.users.insert("app".into(), table(3));
        let admission = Admission::default();
        let admit = |database: &str, user: &str| {
            let rules = limits.rules(database.as_bytes(), user);
            let (database, user) = named(database, user);
            admission.admit(limits.max_client_conn, &rules, &database, &user)
        };
        let first = admit("shop", "app").unwrap();
        let _second = admit("shop", "other").unwrap();
        assert_eq!(admit("shop", "third").unwrap_err(), TooMany::OfDatabase("shop".into(), 2));
        let _third = admit("stock", "app").unwrap();
        let fourth = admit("stock", "app").unwrap();
        assert_eq!(admit("stock", "other").unwrap_err(), TooMany::Clients(4));
        drop(fourth);
        drop(first);
        let _fifth = admit("shop", "app").unwrap();
        let _sixth = admit("stock", "app").unwrap();
        drop(_second);
        assert_eq!(admit("stock", "app").unwrap_err(), TooMany::OfUser("app".into(), 3));
        let (stock, app) = named("stock", "app");
        let counts = admission.counts();
        assert_eq!((counts.databases[&stock], counts.users[&app]), (2, 3));
    }

    #[test]
    fn nothing_is_kept_of_who_has_left() {
        let admission = Admission::default();
        let rules = Pool::default().rules(b"shop", "app");
        let (shop, app) = named("shop", "app");
        drop(admission.admit(1, &rules, &shop, &app).unwrap());
        let counts = admission.counts();
        assert!(counts.all == 0 && counts.databases.is_empty() && counts.users.is_empty());
    }
}
