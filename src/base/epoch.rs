//! The fencing token.

use std::fmt;

/// Counts the holders of the right to write: raised by one with every new holder and every
/// re-acquisition, never lowered, never used twice. Zero is "nobody yet".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first holder.
    pub const NONE: Epoch = Epoch(0);

    /// The epoch of the next holder.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^64 epochs are not reached"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
