//! One authenticated connection to a server.
//!
//! `connect` makes the raw link that a session relays over and that
//! replication streams from; [`control`] makes a `tokio-postgres` client for our own SQL. This
//! room never decides which server to use, never retries and never pools.

pub mod control;
pub mod endpoint;
pub mod tls;

pub use endpoint::{Address, Endpoint, Login, Party, Proof};
