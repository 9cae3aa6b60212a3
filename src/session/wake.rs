//! Waking every session of a data thread when the routes change.
//!
//! A session that waits for its client, or for a server that will never answer again, sees a new
//! map only when somebody wakes it. One task per data thread watches the routes and wakes them
//! all, so that a session pays nothing for it per statement.

use super::timeouts::{look_at, report_pins};
use crate::base::Moment;
use crate::config::Pool;
use crate::observe::Counters;
use crate::observe::clients::ClientFacts;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Poll;

thread_local! {
    static SLEEPERS: RefCell<Sleepers> = RefCell::default();
}

#[derive(Default)]
struct Sleepers {
    sleepers: Vec<Option<Arc<ClientFacts>>>,
    free: Vec<usize>,
}

/// A session's place among those that are woken; given up when dropped.
#[derive(Debug)]
pub struct Registration(usize);

/// Registers the current task, which serves this client.
pub async fn register(facts: &Arc<ClientFacts>) -> Registration {
    std::future::poll_fn(|cx| {
        facts.set_waker(cx.waker());
        Poll::Ready(SLEEPERS.with_borrow_mut(|Sleepers { sleepers, free }| {
            let place = free.pop().unwrap_or(sleepers.len());
            match sleepers.get_mut(place) {
                Some(sleeper) => *sleeper = Some(facts.clone()),
                None => sleepers.push(Some(facts.clone())),
            }
            Registration(place)
        }))
    })
    .await
}

/// Wakes every session of this thread.
pub fn wake_all() {
    SLEEPERS.with_borrow(|sleepers| sleepers.sleepers.iter().flatten().for_each(|client| client.wake()));
}

/// Orders the clients of this thread to end that are overdue, and reports those that hold a connection
/// for nothing.
pub fn look_at_all(limits: &Pool, counters: &Counters, now: Moment) {
    SLEEPERS.with_borrow(|sleepers| {
        for client in sleepers.sleepers.iter().flatten() {
            look_at(client, limits, now);
            report_pins(client, limits, counters, now);
        }
    });
}

impl Drop for Registration {
    fn drop(&mut self) {
        // When the thread itself ends, its storage may be gone already.
        let _ = SLEEPERS.try_with(|sleepers| {
            let mut sleepers = sleepers.borrow_mut();
            sleepers.sleepers[self.0] = None;
            sleepers.free.push(self.0);
        });
    }
}
