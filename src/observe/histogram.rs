//! How long things took: a histogram with a high dynamic range that one thread writes and others read.
//!
//! The layout is HdrHistogram's: buckets that double in width, each divided into equal parts, so that
//! every value is kept to within a sixteenth of itself. Its crate was passed over because it cannot be
//! read while it is written: a reader would have to stop the writer, or be sent copies by a timer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of one doubling, as a power of two.
const PART_BITS: u32 = 4;
const PARTS: usize = 1 << PART_BITS;
/// Doublings: the last one ends at some 70 minutes, and what took longer counts as that.
const DOUBLINGS: usize = 28;
const BUCKETS: usize = PARTS * (DOUBLINGS + 1);
const LONGEST_US: u64 = (PARTS as u64) << DOUBLINGS;

/// One histogram of durations, in microseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

/// Where a value counts.
fn index(us: u64) -> usize {
    let us = us.min(LONGEST_US - 1);
    let doubling = (us | (PARTS as u64 - 1)).ilog2() + 1 - PART_BITS;
    // Within the first doubling every value has a bucket of its own.
    let part = (us >> doubling.saturating_sub(1)) as usize;
    match doubling {
        0 => part,
        _ => PARTS * (doubling as usize - 1) + part,
    }
}

/// The first value that is beyond a bucket.
fn end(index: usize) -> u64 {
    let doubling = index / PARTS;
    match doubling {
        0 => index as u64 + 1,
        _ => ((index % PARTS + PARTS) as u64 + 1) << (doubling - 1),
    }
}

impl Histogram {
    /// Counts a duration; for the one thread that writes this histogram.
    pub fn record(&self, took: Duration) {
        let bucket = &self.buckets[index(micros(took))];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts a duration, where several threads do.
    pub fn record_shared(&self, took: Duration) {
        self.buckets[index(micros(took))].fetch_add(1, Ordering::Relaxed);
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// What one or several histograms held at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Adds what a histogram holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        self.0.resize(BUCKETS, 0);
        for (sum, bucket) in self.0.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.resize(BUCKETS, 0);
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that this share of all (0.5, 0.99) did not exceed; `None` of nothing.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map(|index| Duration::from_micros(end(index)))
    }

    /// All together, to the precision of a bucket.
    pub fn sum(&self) -> Duration {
        let each = self.0.iter().enumerate();
        Duration::from_micros(each.map(|(index, count)| count * (end(index) - 1)).sum())
    }

    /// How many did not exceed `most`, to the precision of a bucket.
    pub fn within(&self, most: Duration) -> u64 {
        self.0.iter().take(index(micros(most)) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bucket_and_the_buckets_follow_each_other() {
        let mut before = 0;
        for index in 0..BUCKETS {
            assert!(end(index) > before, "bucket {index} ends at {} after {before}", end(index));
            before = end(index);
        }
        for us in (0..100_000).chain((1..28).flat_map(|n| [(16 << n) - 1, 16 << n, (16 << n) + 1])) {
            let at = index(us);
            assert!(us < end(at), "{us} in bucket {at}, which ends at {}", end(at));
            assert!(at == 0 || us >= end(at - 1), "{us} in bucket {at}, which begins at {}", end(at - 1));
            assert!(end(at) - us <= us / 16 + 1, "{us} is kept as {}", end(at));
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let mut all = Latencies::default();
        all.add(&histogram);
        assert_eq!(all.count(), 1000);
        for (share, ms) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let found = all.quantile(share).unwrap().as_micros() as f64 / 1000.0;
            assert!((f64::from(ms)..f64::from(ms) * 1.07).contains(&found), "{share}: {found} ms");
        }
        let within = all.within(Duration::from_millis(100));
        assert!((100..=107).contains(&within), "{within}");
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!((twice.count(), twice.quantile(0.5)), (2000, all.quantile(0.5)));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
