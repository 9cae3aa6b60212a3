//! The words every room shares: positions, epochs, sites, names, moments, secrets.
//!
//! Owns no state and asks nobody: no clock, no randomness, no I/O, no other room of ours.

mod backoff;
mod epoch;
mod lsn;
mod moment;
mod names;
mod op;
mod privilege;
mod secret;
pub mod sqlstate;

pub use backoff::Backoff;
pub use epoch::Epoch;
pub use lsn::{Lsn, ParseLsnError};
pub use moment::Moment;
pub use names::{DatabaseName, MirrorName, NameError, RoleName, Site, SlotName};
pub use op::OpId;
pub use privilege::Privilege;
pub use secret::Secret;

/// What a caller may do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing happened: the same call may be made again.
    Safe,
    /// The same call will fail the same way.
    Never,
    /// It may have happened: look first.
    Unknown,
}
