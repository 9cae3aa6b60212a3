//! The right to write: one record in a store that both sites reach, and the machine that keeps it.
//!
//! Owns the record's meaning, the deadline of our own right and the doubt about writes whose answer
//! was lost. It never decides which site should write (that is `failover`), never touches a server and never opens a
//! gate: whoever opens one needs a [`Held`], and only the [`protocol`] makes one, when a record with
//! our nonce is known to be stored.
//!
//! States of the machine: resting → acquiring (reading, waiting a TTL, writing) → holding → releasing → resting.
//! Start reading in [`protocol`]; [`keeper`] drives it against a [`store`].

pub mod keeper;
pub mod protocol;
pub mod record;
pub mod store;
pub mod timing;

pub use protocol::Held;
pub use record::{Authority, Nonce, Phase, Record, Tenure, Version};
pub use timing::{Timing, TimingError};
