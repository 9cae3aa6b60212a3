//! How long everything takes.

use super::record::Authority;
use crate::base::Moment;
use std::time::Duration;

/// The durations of the protocol. The holder stops `fence_budget` before the earliest moment at
/// which an observer could take over, on clocks whose rates differ by at most `clock_error_ppm` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long after its last renewal a silent holder is given up.
    pub ttl: Duration,
    /// Pause between two renewals.
    pub renew_every: Duration,
    /// How long an answer of the store is waited for.
    pub request_timeout: Duration,
    /// Pause after a request that failed.
    pub retry_pause: Duration,
    /// Pause between two looks at the record of somebody else.
    pub observe_every: Duration,
    /// What the holder keeps back from the TTL, to shut its door and end the writers.
    pub fence_budget: Duration,
    /// By how much the rate of a clock may be wrong, in millionths.
    pub clock_error_ppm: u32,
}

/// Durations that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// A lease that short would be lost at every hiccup.
    #[error("a lease ttl of {0:?} is too short, use 2s or more (30s is the default)")]
    TtlTooShort(Duration),
    /// The record's bound.
    #[error("a lease ttl of {0:?} is too long, use 1h or less (30s is the default)")]
    TtlTooLong(Duration),
    /// One lost answer would cost the lease.
    #[error(
        "a renewal every {renew_every:?}, two answers of {request_timeout:?} and {fence_budget:?} to fence do not fit into a lease ttl of {ttl:?}"
    )]
    TooTight {
        /// The TTL.
        ttl: Duration,
        /// Pause between renewals.
        renew_every: Duration,
        /// Wait for an answer.
        request_timeout: Duration,
        /// Kept back.
        fence_budget: Duration,
    },
}

impl Timing {
    /// The usual durations for a TTL: a third of it between renewals, 2 s for an answer and 2 s
    /// to fence where the TTL is long enough for that.
    pub fn for_ttl(ttl: Duration) -> Result<Self, TimingError> {
        if ttl < Duration::from_secs(2) {
            return Err(TimingError::TtlTooShort(ttl));
        }
        if ttl > Duration::from_secs(3600) {
            return Err(TimingError::TtlTooLong(ttl));
        }
        let two = Duration::from_secs(2);
        let timing = Self {
            ttl,
            renew_every: ttl / 3,
            request_timeout: two.min(ttl / 6),
            retry_pause: Duration::from_secs(1).min(ttl / 12),
            observe_every: two.min(ttl / 10),
            fence_budget: two.min(ttl / 6),
            clock_error_ppm: 10_000,
        };
        timing.check()?;
        Ok(timing)
    }

    /// Whether one lost answer leaves time for a second attempt.
    pub fn check(&self) -> Result<(), TimingError> {
        let needed = self.renew_every + 2 * self.request_timeout + self.fence_budget;
        if needed >= self.ttl - self.clock_error() {
            return Err(TimingError::TooTight {
                ttl: self.ttl,
                renew_every: self.renew_every,
                request_timeout: self.request_timeout,
                fence_budget: self.fence_budget,
            });
        }
        Ok(())
    }

    /// Until when a holder may acknowledge, if the write it sent right after `sent` landed.
    pub fn deadline(&self, sent: Moment, authority: Authority) -> Moment {
        match authority {
            Authority::Internet => sent + (self.ttl - self.clock_error() - self.fence_budget),
            // A running site goes on; only a foreign record ends it.
            Authority::Local => Moment::NEVER,
        }
    }

    /// From when on a record of `ttl`, first seen at `first_seen` and unchanged since, is expired.
    pub fn expiry(&self, first_seen: Moment, ttl: Duration) -> Moment {
        first_seen + ttl + ttl * self.clock_error_ppm / 1_000_000
    }

    fn clock_error(&self) -> Duration {
        self.ttl * self.clock_error_ppm / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stops_before_the_observer_may_start() {
        for ttl_ms in [2_000, 3_000, 5_000, 10_000, 15_000, 30_000, 600_000] {
            let timing = Timing::for_ttl(Duration::from_millis(ttl_ms)).unwrap();
            let t0 = Moment(5_000_000_000);
            let stop = timing.deadline(t0, Authority::Internet);
            let start = timing.expiry(t0, timing.ttl);
            assert!(start.since(stop) >= timing.fence_budget, "{timing:?}");
        }
        let default = Timing::for_ttl(Duration::from_secs(30)).unwrap();
        assert_eq!(default.deadline(Moment(0), Authority::Internet), Moment(27_700_000_000));
        assert_eq!(default.expiry(Moment(0), default.ttl), Moment(30_300_000_000));
        assert_eq!(default.deadline(Moment(0), Authority::Local), Moment::NEVER);
    }

    #[test]
    fn durations_that_lose_the_lease_at_one_lost_answer_are_refused() {
        assert!(matches!(Timing::for_ttl(Duration::from_secs(1)), Err(TimingError::TtlTooShort(_))));
        assert!(matches!(Timing::for_ttl(Duration::from_secs(7200)), Err(TimingError::TtlTooLong(_))));
        let slow = Timing {
            renew_every: Duration::from_secs(25),
            ..Timing::for_ttl(Duration::from_secs(30)).unwrap()
        };
        assert!(matches!(slow.check(), Err(TimingError::TooTight { .. })));
    }
}
