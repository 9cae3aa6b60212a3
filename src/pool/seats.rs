//! Seats handed from one session to the next.

use super::group::GroupKey;
use super::limits::{Book, Limit, Ticket};
use crate::base::Moment;
use crate::config::Rules;
use crate::sys;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// All seats. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// How many wait because of a limit that pools share, as of the last change.
    waiting_for_others: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    book: Book,
    waiters: HashMap<Ticket, oneshot::Sender<Seat>>,
}

/// The right to use a link; dropped, the next waiter has it at once.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    key: Arc<GroupKey>,
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
struct Waiting {
    seats: Seats,
    key: Arc<GroupKey>,
    ticket: Ticket,
}

impl Seats {
    /// A seat that is free now.
    pub fn take(&self, key: &Arc<GroupKey>, rules: &Rules) -> Result<Seat, Limit> {
        self.state().book.take(key, rules)?;
        Ok(self.seat(key))
    }

    /// Waits for a seat; the caller holds the deadline. After `reserve_timeout` the reserve is asked.
    pub async fn wait(&self, key: &Arc<GroupKey>, rules: &Rules) -> Seat {
        let (grant, mut granted) = oneshot::channel();
        let ticket = {
            let mut state = self.state();
            let ticket = state.book.wait(key, rules, sys::now());
            state.waiters.insert(ticket, grant);
            ticket
        };
        let waiting = Waiting { seats: self.clone(), key: key.clone(), ticket };
        // Somebody may have left since the caller looked.
        self.serve();
        let turn = "the sender is in the list until it has sent";
        if rules.reserve_size == 0 {
            return granted.await.expect(turn);
        }
        if let Ok(seat) = tokio::time::timeout(rules.reserve_timeout, &mut granted).await {
            return seat.expect(turn);
        }
        if self.state().book.take_reserve(key, waiting.ticket) {
            return self.seat(key);
        }
        granted.await.expect(turn)
    }

    /// Seats taken of a pool, and since when its first waiter waits.
    pub fn pool(&self, key: &GroupKey) -> (u32, Option<Moment>) {
        self.state().book.pool(key)
    }

    /// The limit that keeps a pool from one more seat.
    pub fn limit(&self, key: &GroupKey) -> Option<Limit> {
        self.state().book.limit(key)
    }

    /// How many more links there may be besides those in use, see [`Book::spare`].
    pub fn spare(&self, key: &GroupKey) -> [Option<u32>; 3] {
        self.state().book.spare(key)
    }

    /// How many wait because of a limit that pools share, so that any seat may help: one plain load.
    pub fn waiting_for_others(&self) -> usize {
        self.0.waiting_for_others.load(Ordering::Relaxed)
    }

    /// Other rules are in force from now on. Seats that are taken stay so.
    pub fn change_rules(&self, key: &GroupKey, rules: &Rules) {
        self.state().book.change_rules(key, rules);
        self.serve();
    }

    fn seat(&self, key: &Arc<GroupKey>) -> Seat {
        Seat { seats: self.clone(), key: key.clone() }
    }

    /// Hands free seats to those who are next. A waiter that is gone drops its seat, outside the
    /// lock, and so passes it on.
    fn serve(&self) {
        loop {
            let mut state = self.state();
            let granted = state.book.grant();
            self.0.waiting_for_others.store(state.book.waiting_for_others(), Ordering::Relaxed);
            let Some((key, ticket)) = granted else { return };
            let waiter = state.waiters.remove(&ticket);
            drop(state);
            let seat = self.seat(&key);
            if let Some(waiter) = waiter {
                let _ = waiter.send(seat);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of the seats panics")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.state().book.release(&self.key);
        self.seats.serve();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.seats.state();
        state.book.leave(&self.key, self.ticket);
        // With a seat in it that was granted meanwhile: dropped outside the lock.
        let waiter = state.waiters.remove(&self.ticket);
        drop(state);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{RoleName, Site};
    use crate::config::Pool;
    use std::time::Duration;

    fn key() -> Arc<GroupKey> {
        let user = RoleName::new("app").unwrap();
        Arc::new(GroupKey { site: Site::Local, user, database: b"shop".as_slice().into() })
    }

    fn rules(size: u32) -> Rules {
        Rules { size: Some(size), ..Pool::default().rules(b"", "") }
    }

    #[tokio::test]
    async fn a_seat_goes_to_who_waits_and_not_to_who_has_left() {
        let (seats, key, rules) = (Seats::default(), key(), rules(1));
        let seat = seats.take(&key, &rules).unwrap();
        let mut left = Box::pin(seats.wait(&key, &rules));
        let mut waits = Box::pin(seats.wait(&key, &rules));
        for waiter in [&mut left, &mut waits] {
            let early = tokio::time::timeout(Duration::from_millis(1), waiter).await;
            assert!(early.is_err(), "there is no seat yet");
        }
        drop(seat);
        // The first one has its seat and never takes it.
        drop(left);
        let seat = tokio::time::timeout(Duration::from_secs(5), waits).await.expect("the seat is passed on");
        assert!(seats.take(&key, &rules).is_err());
        drop(seat);
        assert!(seats.take(&key, &rules).is_ok());
        assert_eq!(seats.state().waiters.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_long_enough_gets_a_seat_of_the_reserve() {
        let (seats, key) = (Seats::default(), key());
        let rules = Rules { reserve_size: 1, reserve_timeout: Duration::from_secs(5), ..rules(1) };
        let seat = seats.take(&key, &rules).unwrap();
        let began = tokio::time::Instant::now();
        let extra = seats.wait(&key, &rules).await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        let third = tokio::time::timeout(Duration::from_secs(60), seats.wait(&key, &rules)).await;
        assert!(third.is_err());
        drop((seat, extra));
    }
}
