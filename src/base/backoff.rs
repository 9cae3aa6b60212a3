//! Growing pauses between attempts.

use std::time::Duration;

/// Pauses that double from `first` to `max`, each shortened by a caller-given share of jitter so
/// that a hundred sites do not knock at the same time.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// `first` is the pause after the first failure, `max` the longest.
    pub fn new(first: Duration, max: Duration) -> Self {
        assert!(first <= max && !first.is_zero(), "backoff from {first:?} to {max:?}");
        Self { first, max, attempts: 0 }
    }

    /// The next pause. `jitter` in 0..1 comes from the caller, who owns the randomness; the pause
    /// lies between half and the whole of the doubled value.
    pub fn next_pause(&mut self, jitter: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1);
        doubled.min(self.max).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// How many pauses were handed out since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// After a success: the next pause is short again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_start_again_after_success() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let ms = |b: &mut Backoff| b.next_pause(1.0).as_millis();
        assert_eq!([ms(&mut b), ms(&mut b), ms(&mut b), ms(&mut b)], [100, 200, 350, 350]);
        b.reset();
        assert_eq!(b.next_pause(0.0), Duration::from_millis(50));
        for _ in 0..100 {
            assert!(b.next_pause(0.5) <= Duration::from_millis(350));
        }
    }
}
