//! Quick hashes with a seed that clients cannot know.

use std::hash::{BuildHasher, Hash};

/// Makes hashers; each one has a seed of its own.
pub use foldhash::quality::RandomState as Seeded;

/// A map of what clients name: several are asked for each connection, or for each statement.
pub type Map<K, V> = std::collections::HashMap<K, V, Seeded>;

thread_local! {
    static OF_THREAD: Seeded = Seeded::default();
}

/// The hash of something on this thread.
pub fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    OF_THREAD.with(|state| state.hash_one(value))
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
        assert_ne!(hash(b"".as_slice()), hash(b"\0".as_slice()));
        assert_eq!(hash(b"a"), hash(b"a"));
    }
}
