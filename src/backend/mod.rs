//! One authenticated connection to a server.
//!
//! [`connect`](connect()) makes the raw [`Link`] that a session relays over and that replication streams
//! from; [`control`] makes a `tokio-postgres` client for our own SQL; [`cancel`](cancel()) asks a server
//! to interrupt a back end. This room never decides which server to use, never retries and never
//! pools. A link is one of: dialled, encrypted, asked for a proof, in, ready; only the last is
//! ever handed out.

mod cancel;
mod connect;
pub mod control;
mod destination;
mod dial;
pub mod endpoint;
mod error;
mod link;
pub mod tls;

pub use crate::sys::Socket;
pub use cancel::cancel;
pub use connect::connect;
pub use destination::{Destination, Upstream};
pub use endpoint::{Address, Endpoint, Login, Party, Proof};
pub use error::Error;
pub use link::Link;

#[cfg(test)]
mod tests;
