//! What the others tell: events, metrics and the status document.
//!
//! Rooms publish here; this room reaches into none of them and decides nothing. [`status`] holds
//! the words in which the state is reported (SHOW, `/status`, `cloud-mirror status`); [`events`]
//! keeps the last state changes for `SHOW EVENTS`; [`counters`] counts what happens to sessions.

pub mod counters;
pub mod events;
pub mod status;

pub use counters::{Counters, count};
