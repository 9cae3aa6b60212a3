//! Whether a server lives, as far as one can tell from outside.
//!
//! [`probe`] makes a new connection and asks a question; [`evidence`] reads from a server's last
//! words why a connection ended. Both report facts and decide nothing: what a refused probe means
//! is the controller's business. This room keeps no state, counts nothing and retries nothing.

mod evidence;
mod probe;

pub use evidence::{Evidence, evidence, evidence_of_io};
pub use probe::{Outcome, probe, reach};
