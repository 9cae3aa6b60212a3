//! A quick hash of statements and their names, with a seed that clients cannot know.

use crate::sys;
use std::hash::{BuildHasher, Hasher};

thread_local! {
    static SEED: u64 = u64::from_ne_bytes(sys::random_bytes());
}

/// An odd number without a pattern: the golden ratio's fraction.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of some bytes on this thread.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = Seeded.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// Makes hashers with the thread's seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seeded;

/// Multiplies and folds, eight bytes at a time.
#[derive(Debug)]
pub struct Folding(u64);

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding(SEED.with(|seed| *seed))
    }
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(17);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last));
        self.fold(bytes.len() as u64);
    }

    fn write_u32(&mut self, number: u32) {
        self.fold(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.fold(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_texts_have_far_hashes() {
        let mut all: Vec<u64> = (0..1000).map(|n| hash(format!("select {n}").as_bytes())).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1000);
        assert_ne!(hash(b""), hash(b"\0"));
        assert_eq!(hash(b"a"), hash(b"a"));
    }
}
