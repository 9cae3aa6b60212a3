//! Who may have one more link, and who is next: the book of seats, without I/O.
//!
//! A seat is the right to use a link. Links that nobody uses take none, since they can be closed at
//! any time. Three limits hold: of the pool (one user at one database), of the database and of the
//! user. Whoever finds one reached waits; waiters of one pool are served in the order in which they
//! came, and among pools the one whose first waiter came first.

use super::group::GroupKey;
use crate::base::{Moment, RoleName, Site};
use crate::config::Rules;
use crate::sys::Map;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// A limit that is reached, and how many it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `size` of the pool.
    Pool(u32),
    /// `max_db_connections`
    Database(u32),
    /// `max_user_connections`
    User(u32),
    /// So many log-ins to the server are under way.
    LogIns(u32),
}

impl fmt::Display for Limit {
    /// The key and its value, for DETAIL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Pool(most) => write!(f, "pool.size is {most}"),
            Limit::Database(most) => write!(f, "max_db_connections is {most}"),
            Limit::User(most) => write!(f, "max_user_connections is {most}"),
            Limit::LogIns(most) => write!(f, "{most} log-ins to the server are under way"),
        }
    }
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    rules: Rules,
    taken: u32,
    /// Tickets rise, so the front is who has waited longest.
    queue: VecDeque<(Ticket, Moment)>,
}

/// Seats taken and waited for.
#[derive(Debug, Default)]
pub struct Book {
    pools: Map<Arc<GroupKey>, Entry>,
    databases: Map<(Site, Arc<[u8]>), u32>,
    users: Map<(Site, RoleName), u32>,
    last_ticket: u64,
    /// All tickets in all queues.
    waiting: usize,
}

/// How much of the pool may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Size,
    Reserve,
}

impl Book {
    /// Takes a seat, unless a limit is reached or others wait already. `rules` are those in force.
    pub fn take(&mut self, key: &Arc<GroupKey>, rules: &Rules) -> Result<(), Limit> {
        let entry = self.entry(key, rules);
        let (is_first, limit_of_pool) = (entry.queue.is_empty(), entry.limit_of_pool());
        match self.free(key, Reach::Size) {
            Ok(()) if is_first => {
                self.seat(key);
                Ok(())
            }
            Ok(()) => Err(limit_of_pool),
            Err(limit) => {
                self.forget(key);
                Err(limit)
            }
        }
    }

    /// Joins the queue.
    pub fn wait(&mut self, key: &Arc<GroupKey>, rules: &Rules, now: Moment) -> Ticket {
        self.last_ticket += 1;
        self.waiting += 1;
        let ticket = Ticket(self.last_ticket);
        self.entry(key, rules).queue.push_back((ticket, now));
        ticket
    }

    /// Leaves the queue without a seat.
    pub fn leave(&mut self, key: &GroupKey, ticket: Ticket) {
        if let Some(entry) = self.pools.get_mut(key) {
            let before = entry.queue.len();
            entry.queue.retain(|(other, _)| *other != ticket);
            self.waiting -= before - entry.queue.len();
        }
        self.forget(key);
    }

    /// Takes a seat of the reserve for a waiter that has waited for it; `false` when there is none.
    pub fn take_reserve(&mut self, key: &GroupKey, ticket: Ticket) -> bool {
        let waits = |entry: &Entry| entry.queue.iter().any(|(other, _)| *other == ticket);
        if !self.pools.get(key).is_some_and(waits) || self.free(key, Reach::Reserve).is_err() {
            return false;
        }
        self.seat(key);
        self.leave(key, ticket);
        true
    }

    /// A seat is free again.
    pub fn release(&mut self, key: &GroupKey) {
        let entry = self.pools.get_mut(key).expect("a taken seat is in the book");
        entry.taken -= 1;
        if entry.is_over() {
            self.pools.remove(key);
        }
        less(&mut self.databases, &(key.site, key.database.clone()));
        less(&mut self.users, &(key.site, key.user.clone()));
    }

    /// Other rules are in force from now on.
    pub fn change_rules(&mut self, key: &GroupKey, rules: &Rules) {
        if let Some(entry) = self.pools.get_mut(key) {
            entry.rules.clone_from(rules);
        }
    }

    /// Gives a seat that is free to the next waiter. Call it until nobody gets one.
    pub fn grant(&mut self) -> Option<(Arc<GroupKey>, Ticket)> {
        if self.waiting == 0 {
            return None;
        }
        let firsts = self.pools.iter().filter_map(|(key, entry)| Some((entry.queue.front()?.0, key)));
        let fitting = firsts.filter(|(_, key)| self.free(key, Reach::Size).is_ok());
        let (ticket, key) = fitting.min_by_key(|(ticket, _)| *ticket)?;
        let key = key.clone();
        self.seat(&key);
        self.leave(&key, ticket);
        Some((key, ticket))
    }

    /// Seats taken of a pool, and since when its first waiter waits.
    pub fn pool(&self, key: &GroupKey) -> (u32, Option<Moment>) {
        let found = self.pools.get(key);
        found.map_or((0, None), |entry| (entry.taken, entry.queue.front().map(|(_, since)| *since)))
    }

    /// The limit that keeps a pool from one more seat.
    pub fn limit(&self, key: &GroupKey) -> Option<Limit> {
        self.free(key, Reach::Size).err()
    }

    /// How many wait because of a limit that pools share: any seat may help them.
    pub fn waiting_for_others(&self) -> usize {
        if self.waiting == 0 {
            return 0;
        }
        let is_shared = |limit: &Limit| !matches!(limit, Limit::Pool(_));
        let waiting = self.pools.iter().filter(|(_, entry)| !entry.queue.is_empty());
        let blocked =
            waiting.filter(|(key, _)| self.free(key, Reach::Size).err().as_ref().is_some_and(is_shared));
        blocked.map(|(_, entry)| entry.queue.len()).sum()
    }

    /// How many more links there may be besides the taken ones: of the pool, of its database and of
    /// its user.
    pub fn spare(&self, key: &GroupKey) -> [Option<u32>; 3] {
        let Some(entry) = self.pools.get(key) else { return [None; 3] };
        let rules = &entry.rules;
        let reach = rules.size.map(|size| size.saturating_add(rules.reserve_size));
        [
            reach.map(|most| most.saturating_sub(entry.taken)),
            rules.max_db_connections.map(|most| most.saturating_sub(self.of_database(key))),
            rules.max_user_connections.map(|most| most.saturating_sub(self.of_user(key))),
        ]
    }

    fn entry(&mut self, key: &Arc<GroupKey>, rules: &Rules) -> &mut Entry {
        let new = || Entry { rules: rules.clone(), taken: 0, queue: VecDeque::new() };
        self.pools.entry(key.clone()).or_insert_with(new)
    }

    /// Seats taken of the database of a pool.
    fn of_database(&self, key: &GroupKey) -> u32 {
        self.databases.get(&(key.site, key.database.clone())).copied().unwrap_or(0)
    }

    /// Seats taken of the user of a pool.
    fn of_user(&self, key: &GroupKey) -> u32 {
        self.users.get(&(key.site, key.user.clone())).copied().unwrap_or(0)
    }

    fn free(&self, key: &GroupKey, reach: Reach) -> Result<(), Limit> {
        let Some(Entry { rules, taken, .. }) = self.pools.get(key) else { return Ok(()) };
        let beyond = if reach == Reach::Reserve { rules.reserve_size } else { 0 };
        if let Some(size) = rules.size
            && *taken >= size.saturating_add(beyond)
        {
            return Err(Limit::Pool(size.saturating_add(beyond)));
        }
        if let Some(most) = rules.max_db_connections
            && self.of_database(key) >= most
        {
            return Err(Limit::Database(most));
        }
        match rules.max_user_connections {
            Some(most) if self.of_user(key) >= most => Err(Limit::User(most)),
            Some(_) | None => Ok(()),
        }
    }

    fn seat(&mut self, key: &GroupKey) {
        self.pools.get_mut(key).expect("who asks is in the book").taken += 1;
        *self.databases.entry((key.site, key.database.clone())).or_default() += 1;
        *self.users.entry((key.site, key.user.clone())).or_default() += 1;
    }

    /// A pool without seats and waiters is not in the book.
    fn forget(&mut self, key: &GroupKey) {
        if self.pools.get(key).is_some_and(Entry::is_over) {
            self.pools.remove(key);
        }
    }
}

impl Entry {
    /// Whether it is nobody's.
    fn is_over(&self) -> bool {
        self.taken == 0 && self.queue.is_empty()
    }

    fn limit_of_pool(&self) -> Limit {
        Limit::Pool(self.rules.size.unwrap_or(u32::MAX))
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut Map<K, u32>, key: &K) {
    let count = counts.get_mut(key).expect("a taken seat is in the book");
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pool;

    fn key(user: &str, database: &str) -> Arc<GroupKey> {
        let user = RoleName::new(user).unwrap();
        Arc::new(GroupKey { site: Site::Local, user, database: database.as_bytes().into() })
    }

    fn rules(size: u32) -> Rules {
        Rules { size: Some(size), ..Pool::default().rules(b"", "") }
    }

    fn granted(book: &mut Book) -> Vec<Ticket> {
        std::iter::from_fn(|| book.grant().map(|(_, ticket)| ticket)).collect()
    }

    #[test]
    fn waiters_are_served_in_their_order_and_nobody_overtakes() {
        let (mut book, key, rules) = (Book::default(), key("app", "shop"), rules(2));
        assert_eq!((book.take(&key, &rules), book.take(&key, &rules)), (Ok(()), Ok(())));
        assert_eq!(book.take(&key, &rules), Err(Limit::Pool(2)));
        let tickets = [1, 2, 3].map(|at| book.wait(&key, &rules, Moment(at)));
        assert_eq!(book.pool(&key), (2, Some(Moment(1))));
        assert_eq!(granted(&mut book), []);
        book.leave(&key, tickets[1]);
        book.release(&key);
        // There is a seat, but somebody came before.
        assert_eq!(book.take(&key, &rules), Err(Limit::Pool(2)));
        assert_eq!(granted(&mut book), [tickets[0]]);
        book.release(&key);
        assert_eq!(granted(&mut book), [tickets[2]]);
        book.release(&key);
        book.release(&key);
        assert!(book.pools.is_empty() && book.databases.is_empty() && book.users.is_empty());
    }

    #[test]
    fn a_limit_that_pools_share_lets_the_oldest_of_all_go_first() {
        let mut book = Book::default();
        let rules = Rules { max_db_connections: Some(1), ..rules(5) };
        let (a, b, elsewhere) = (key("a", "shop"), key("b", "shop"), key("a", "stock"));
        book.take(&a, &rules).unwrap();
        assert_eq!(book.take(&b, &rules), Err(Limit::Database(1)));
        let first = book.wait(&b, &rules, Moment(1));
        let second = book.wait(&a, &rules, Moment(2));
        assert_eq!(book.waiting_for_others(), 2);
        book.take(&elsewhere, &rules).unwrap();
        assert_eq!(granted(&mut book), []);
        book.release(&a);
        assert_eq!(granted(&mut book), [first]);
        book.release(&b);
        assert_eq!(granted(&mut book), [second]);
    }

    #[test]
    fn a_user_may_have_few_links_over_all_databases() {
        let mut book = Book::default();
        let rules = Rules { max_user_connections: Some(2), ..rules(5) };
        book.take(&key("a", "shop"), &rules).unwrap();
        book.take(&key("a", "stock"), &rules).unwrap();
        assert_eq!(book.take(&key("a", "third"), &rules), Err(Limit::User(2)));
        book.take(&key("b", "third"), &rules).unwrap();
        assert_eq!(book.spare(&key("a", "shop")), [Some(4), None, Some(0)]);
    }

    #[test]
    fn the_reserve_is_for_who_asks_for_it() {
        let (mut book, key) = (Book::default(), key("app", "shop"));
        let rules = Rules { reserve_size: 1, ..rules(1) };
        book.take(&key, &rules).unwrap();
        let first = book.wait(&key, &rules, Moment(1));
        let second = book.wait(&key, &rules, Moment(2));
        assert_eq!(granted(&mut book), []);
        assert!(book.take_reserve(&key, first));
        assert!(!book.take_reserve(&key, second), "there is one seat in reserve");
        assert!(!book.take_reserve(&key, first), "it has its seat");
        book.release(&key);
        assert_eq!(granted(&mut book), [], "the reserve is still in use");
        book.release(&key);
        assert_eq!(granted(&mut book), [second]);
    }

    #[test]
    fn another_size_counts_from_the_next_seat_on() {
        let (mut book, key) = (Book::default(), key("app", "shop"));
        book.take(&key, &rules(1)).unwrap();
        let ticket = book.wait(&key, &rules(1), Moment(1));
        book.change_rules(&key, &rules(2));
        assert_eq!(granted(&mut book), [ticket]);
        book.change_rules(&key, &rules(1));
        book.release(&key);
        assert_eq!(book.take(&key, &rules(1)), Err(Limit::Pool(1)), "one of two is still taken");
        book.release(&key);
        book.take(&key, &rules(1)).unwrap();
    }
}
