//! How many connections are on their way in.
//!
//! A connection costs memory before anybody knows whose it is. As many as there may be clients are
//! looked after at a time; the others wait in the kernel's queue, where they cost us nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    inside: AtomicU32,
    left: Notify,
}

/// A connection that is on its way in until this is dropped.
#[derive(Debug)]
pub struct Arrival(Arrivals);

impl Arrivals {
    /// Waits until fewer than `most` are on their way.
    pub async fn enter(&self, most: u32) -> Arrival {
        loop {
            let left = self.0.left.notified();
            let free = |inside| (inside < most).then_some(inside + 1);
            if self.0.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok() {
                return Arrival(self.clone());
            }
            left.await;
        }
    }

    /// One more that cannot wait: the listener is about to be closed.
    pub fn one_more(&self) -> Arrival {
        self.0.inside.fetch_add(1, Ordering::AcqRel);
        Arrival(self.clone())
    }

    /// How many are on their way.
    pub fn count(&self) -> u64 {
        self.0.inside.load(Ordering::Relaxed).into()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.0.inside.fetch_sub(1, Ordering::AcqRel);
        self.0.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_comes_last_waits_until_somebody_is_through() {
        let arrivals = Arrivals::default();
        let first = arrivals.enter(2).await;
        let _second = arrivals.enter(2).await;
        let mut third = Box::pin(arrivals.enter(2));
        assert!(tokio::time::timeout(Duration::from_millis(5), &mut third).await.is_err());
        drop(first);
        let third = tokio::time::timeout(Duration::from_secs(5), third).await.expect("there is room");
        assert_eq!(arrivals.count(), 2);
        drop(third);
        assert_eq!(arrivals.count(), 1);
    }
}
