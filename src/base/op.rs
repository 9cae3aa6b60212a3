//! The name of a wish.

use std::fmt;

/// Names one wish of a pure machine, so that its answer is recognised, and an answer to a wish
/// that was dropped meanwhile too. Never used twice in the life of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
