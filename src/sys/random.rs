//! Randomness from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// `N` bytes nobody can guess: nonces, secrets, salts.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has a source of randomness");
    bytes
}

/// A number in 0..1, for jitter.
pub fn random_unit() -> f64 {
    (u64::from_ne_bytes(random_bytes()) >> 11) as f64 / (1u64 << 53) as f64
}
