//! What the clients of one user in one database are known to do, on all threads.
//!
//! The value of a sequence that a statement has advanced can be asked for later, by `currval()` or
//! `lastval()`, and only on the same link. Most applications never do. So a link stays with its client
//! for a while behind such a statement until enough of them were followed by no question; once
//! somebody has asked, it always does.
//!
//! And what the catalogue of their database says ([`super::catalogue`]).

use super::catalogue::{Catalogue, Unseen};
use crate::sql::footprint::shape;
use crate::sys::hash;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// So many transactions without a question say that there will be none.
const ENOUGH: u32 = 256;
/// Somebody has asked.
const ASKED: u32 = u32::MAX;
/// Pairs of user and database that are remembered, beside those that have clients.
const KEPT_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Habits {
    /// Transactions that were followed by no question, or [`ASKED`].
    silent: AtomicU32,
    /// Clients that compare what their back end has counted.
    watchers: AtomicUsize,
    /// The number of this user in this database.
    number: u64,
    /// What is known of the database.
    pub catalogue: Arc<Catalogue>,
}

/// A client that compares what its back end has counted, until it is dropped.
#[derive(Debug)]
pub struct Watching(Arc<Habits>);

/// A user and a database, as its clients name it.
type Whose = (String, Vec<u8>);

/// The habits of everybody. Cheap to ask once for a client, not more often.
#[derive(Debug, Default)]
pub struct AllHabits(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    habits: HashMap<Whose, Arc<Habits>>,
    catalogues: HashMap<Vec<u8>, Arc<Catalogue>>,
    last: u64,
}

impl AllHabits {
    /// Those of one user in one database.
    pub fn of(&self, user: &str, database: &[u8]) -> Arc<Habits> {
        let mut all = self.0.lock().expect("no holder of the habits panics");
        let Known { habits, catalogues, last } = &mut *all;
        if habits.len() > KEPT_MAX {
            habits.retain(|_, habits| Arc::strong_count(habits) > 1);
            catalogues.retain(|_, catalogue| Arc::strong_count(catalogue) > 1);
        }
        let fresh = || {
            let catalogue = catalogues.entry(database.to_owned()).or_default().clone();
            *last += 1;
            Arc::new(Habits { number: *last, catalogue, ..Habits::default() })
        };
        habits.entry((user.to_owned(), database.to_owned())).or_insert_with(fresh).clone()
    }
}

impl Habits {
    /// Whether a client may still ask for the value of a sequence that it has advanced before. Of who asks where the
    /// refusal is not heard, silence tells nothing.
    pub fn may_ask(&self) -> bool {
        let silent = self.silent.load(Ordering::Relaxed);
        silent < ENOUGH || silent == ASKED || self.catalogue.has(Unseen::ASKS_IN_SILENCE)
    }

    /// A client asks.
    pub fn has_asked(&self) {
        self.silent.store(ASKED, Ordering::Relaxed);
    }

    /// So many transactions came behind one that had advanced a sequence, and nobody asked.
    pub fn has_been_silent(&self, transactions: u32) {
        let more = |silent: u32| (silent < ENOUGH).then(|| silent.saturating_add(transactions).min(ENOUGH));
        let _ = self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A number on this thread for all texts that do the same for this user as the functions of the database are
    /// now: those that differ only in their constants.
    pub fn shape(&self, text: &[u8]) -> u64 {
        hash(&(shape(text), self.number, self.catalogue.era()))
    }

    /// Whether some client compares what its back end has counted: log-ins have to count, too.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// A client begins to do so.
    pub fn watch(self: &Arc<Self>) -> Watching {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(self.clone())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Known;
    use super::*;
    use crate::base::Moment;

    #[test]
    fn silence_is_learned_until_somebody_asks() {
        let all = AllHabits::default();
        let habits = all.of("app", b"shop");
        let says = |unseen| {
            habits.catalogue.has_changed();
            let (turn, _) = habits.catalogue.turn(Moment::default()).unwrap();
            habits.catalogue.says(turn, Known { version: "1 2".into(), unseen });
        };
        says(Unseen::ASKS);
        for _ in 0..ENOUGH {
            assert!(habits.may_ask());
            all.of("app", b"shop").has_been_silent(1);
        }
        assert!(!habits.may_ask());
        says(Unseen::ASKS_IN_SILENCE);
        assert!(habits.may_ask());
        says(Unseen::ASKS);
        assert!(!habits.may_ask());
        assert!(all.of("app", b"other").may_ask());
        habits.has_asked();
        habits.has_been_silent(ENOUGH);
        assert!(habits.may_ask());
    }

    #[test]
    fn who_watches_is_counted() {
        let habits = AllHabits::default().of("app", b"shop");
        let (one, other) = (habits.watch(), habits.watch());
        drop(one);
        assert!(habits.is_watched());
        drop(other);
        assert!(!habits.is_watched());
    }
}
