//! Randomness from a seed, and clocks that are a little wrong.

use cloud_mirror::base::Moment;

/// Nanoseconds.
pub const MS: u64 = 1_000_000;
/// Nanoseconds.
pub const S: u64 = 1_000 * MS;

/// SplitMix64: small, and the same on every machine and in every version.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to and without `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// `CLOCK_BOOTTIME` of one machine: its own zero, its own rate.
#[derive(Debug, Clone)]
pub struct Clock {
    pub offset: u64,
    /// Millionths that it runs too fast.
    pub error_ppm: i64,
    /// What it missed; only a clock that stops in a pause misses anything.
    pub missed: u64,
}

impl Clock {
    /// What it shows at the true time `t`.
    pub fn shows(&self, t: u64) -> Moment {
        let t = i128::from(t - self.missed.min(t));
        let local = t + t * i128::from(self.error_ppm) / 1_000_000;
        Moment(self.offset + u64::try_from(local).expect("clocks run forwards"))
    }

    /// The first true time, within some nanoseconds, at which it shows `moment` or more.
    pub fn when(&self, moment: Moment) -> u64 {
        let local = i128::from(moment.0.saturating_sub(self.offset));
        let t = local * 1_000_000 / (1_000_000 + i128::from(self.error_ppm));
        u64::try_from(t).unwrap_or(0) + self.missed + 2
    }
}
