//! The only room that asks the machine: the clock, randomness, files with locks.
//!
//! It decides nothing. Whoever is pure takes what this room returns as an argument.

mod clock;
pub mod file;
mod random;

pub use clock::now;
pub use random::{random_bytes, random_unit};
