//! Clients that keep a link though nothing on it is certain to be missed: they may ask for the value
//! of a sequence. Who is silent while others wait in line loses it.

use crate::base::Moment;
use crate::sys;
use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

/// So long a client may be silent while others wait: a program asks at once, if it asks.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Linger {
    /// Silent since then; not at all now.
    since: Cell<Option<Moment>>,
    waker: RefCell<Waker>,
    is_over: Cell<bool>,
}

impl Linger {
    /// A client falls silent.
    pub fn begin(waker: &Waker) -> Self {
        Self {
            since: Cell::new(Some(sys::now())),
            waker: RefCell::new(waker.clone()),
            is_over: Cell::default(),
        }
    }

    /// Whether the link has to go.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// The client is, or still is, silent.
    pub fn go_on(&self, waker: &Waker) {
        if self.since.get().is_none() {
            self.since.set(Some(sys::now()));
        }
        self.waker.borrow_mut().clone_from(waker);
    }

    /// The client has spoken.
    pub fn interrupt(&self) {
        self.since.set(None);
        self.is_over.set(false);
    }

    /// Whether it is silent now.
    pub fn is_silent(&self) -> bool {
        self.since.get().is_some()
    }

    /// Others wait: the link has to go if its client has been silent for long enough.
    pub fn press(&self, now: Moment) {
        if self.since.get().is_some_and(|since| now.since(since) > PATIENCE) {
            self.end();
        }
    }

    /// The link has to go.
    pub fn end(&self) {
        self.is_over.set(true);
        self.waker.borrow().wake_by_ref();
    }
}
