//! Until when writes may be acknowledged.

use crate::base::Moment;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The deadline of the lease, shared by every session. Closed is a deadline in the past, so a
/// process that slept through its lease finds the gate shut without anybody having run.
#[derive(Debug, Clone)]
pub struct Gate(Arc<AtomicU64>);

impl Gate {
    /// A shut gate.
    pub fn closed() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// Whether a writer's acknowledgement may pass at `now`.
    pub fn is_open(&self, now: Moment) -> bool {
        now < self.deadline()
    }

    /// The same with a clock, which is asked only where there is a deadline: a proxy without a second
    /// site has none, and asks for every piece that it passes on.
    pub fn is_open_by(&self, clock: impl FnOnce() -> Moment) -> bool {
        let deadline = self.deadline();
        deadline == Moment::NEVER || clock() < deadline
    }

    /// The first moment at which it is shut.
    pub fn deadline(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }

    /// Opens it until `deadline` (`Moment::NEVER` where there is no lease).
    pub fn open_until(&self, deadline: Moment) {
        self.0.store(deadline.0, Ordering::Release);
    }

    /// Shuts it.
    pub fn close(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_shut_from_its_deadline_on() {
        let gate = Gate::closed();
        assert!(!gate.is_open(Moment(0)));
        gate.open_until(Moment(10));
        assert!(gate.is_open(Moment(9)));
        assert!(!gate.is_open(Moment(10)));
        assert!(gate.is_open_by(|| Moment(9)));
        assert!(!gate.is_open_by(|| Moment(10)));
        gate.close();
        assert!(!gate.is_open(Moment(9)));
        assert!(!gate.is_open_by(|| Moment(0)));
        gate.open_until(Moment::NEVER);
        assert!(gate.is_open_by(|| panic!("the clock does not matter")));
    }
}
